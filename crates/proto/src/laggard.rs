//! Laggards: streams that are not at the head, because their link is full or they still replay.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use crate::frames::FrameStore;
use crate::link::Unsent;

/// A stream with a cursor of its own, and the link that it waits for.
#[derive(Debug)]
pub struct Laggard {
    /// The stream's slot.
    pub slot: u32,
    /// It was given everything up to here, or cannot get it any more.
    pub cursor: u64,
    /// Some events up to here are gone, and the subscriber knows it. What is left of them comes.
    pub incomplete_until: u64,
    /// Begun on its link and not finished: goes out before anything else.
    pub unsent: Option<Unsent>,
    /// When its link last took a byte.
    pub progress_at: Duration,
    /// It was at the head before, and did not come to replay.
    fell_behind: bool,
    /// It stands in line to be served.
    in_line: bool,
    /// It is to be ended, and waits for that.
    ends: bool,
    /// Where it is in the list of laggards with something unsent, while it has something.
    place: u32,
}

impl Laggard {
    /// Whether it was at the head before, and its link has taken nothing since `time`.
    pub fn at_standstill_since(&self, time: Duration) -> bool {
        self.fell_behind && self.progress_at <= time
    }

    /// Whether it waits for its turn, or for its end, rather than for its link.
    pub fn in_line(&self) -> bool {
        self.in_line || self.ends
    }
}

/// The laggards of a shard, and the line of those that can be served.
#[derive(Default)]
pub struct Laggards {
    table: Slab<Laggard>,
    line: VecDeque<u32>,
    /// Laggards with something unsent, in no order.
    with_unsent: Vec<u32>,
    fallen_behind: usize,
    own_bytes: usize,
}

/// What a laggard begins with.
pub struct NewLaggard {
    /// The stream's slot.
    pub slot: u32,
    /// It was given everything up to here, or cannot get it any more.
    pub cursor: u64,
    /// Some events up to here are gone, and the subscriber knows it.
    pub incomplete_until: u64,
    /// Begun on its link and not finished.
    pub unsent: Option<Unsent>,
    /// Whether it was at the head before, and did not come to replay.
    pub fell_behind: bool,
    /// Whether its link has room now.
    pub ready: bool,
}

impl Laggards {
    /// Adds a laggard, in line at once if it is ready to be served, and gives it a key.
    pub fn insert(&mut self, new: NewLaggard, now: Duration) -> u32 {
        let NewLaggard { slot, cursor, incomplete_until, unsent, fell_behind, ready } = new;
        self.fallen_behind += usize::from(fell_behind);
        let laggard = Laggard {
            slot,
            cursor,
            incomplete_until,
            unsent: None,
            progress_at: now,
            fell_behind,
            in_line: false,
            ends: false,
            place: 0,
        };
        let key = self.table.insert(laggard) as u32;
        if let Some(unsent) = unsent {
            self.put_unsent(key, unsent);
        }
        if ready {
            self.ready(key);
        }
        key
    }

    /// Puts a laggard in line: its link has room.
    pub fn ready(&mut self, key: u32) {
        let laggard = &mut self.table[key as usize];
        if !laggard.in_line {
            laggard.in_line = true;
            self.line.push_back(key);
        }
    }

    /// Notes that a laggard whose link has room is to be ended.
    pub fn ends(&mut self, key: u32) {
        self.table[key as usize].ends = true;
    }

    /// The next to be served. It is out of line until [`Laggards::ready`]. Takes from `scans` what it looked at in vain.
    pub fn next_turn(&mut self, scans: &mut usize) -> Option<u32> {
        loop {
            let key = self.line.pop_front()?;
            // A key may be of one that has left since.
            if let Some(laggard) = self.table.get_mut(key as usize)
                && laggard.in_line
            {
                laggard.in_line = false;
                return Some(key);
            }
            *scans = scans.checked_sub(1)?;
        }
    }

    /// Takes what is unsent, whether it is sent now or will never be.
    pub fn take_unsent(&mut self, key: u32) -> Option<Unsent> {
        let Laggard { unsent, place, .. } = &mut self.table[key as usize];
        let (unsent, place) = (unsent.take()?, *place as usize);
        self.own_bytes -= unsent.own_bytes();
        self.with_unsent.swap_remove(place);
        if let Some(&moved) = self.with_unsent.get(place) {
            self.table[moved as usize].place = place as u32;
        }
        Some(unsent)
    }

    /// Notes what was begun and is not sent.
    pub fn set_unsent(&mut self, key: u32, unsent: Unsent, store: &mut FrameStore) {
        if let Some(old) = self.take_unsent(key) {
            old.release(store);
        }
        self.put_unsent(key, unsent);
    }

    fn put_unsent(&mut self, key: u32, unsent: Unsent) {
        self.own_bytes += unsent.own_bytes();
        let laggard = &mut self.table[key as usize];
        laggard.place = self.with_unsent.len() as u32;
        laggard.unsent = Some(unsent);
        self.with_unsent.push(key);
    }

    /// The keys of laggards with something unsent, in no order.
    pub fn with_unsent(&self) -> &[u32] {
        &self.with_unsent
    }

    /// Bytes of unsent pieces that are not frames.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// Whether any can be served.
    pub fn any_ready(&self) -> bool {
        !self.line.is_empty()
    }

    /// How many were at the head before, and did not come to replay.
    pub fn fallen_behind(&self) -> usize {
        self.fallen_behind
    }

    /// How many are in line.
    pub fn ready_count(&self) -> usize {
        self.line.len()
    }

    /// The laggard under this key.
    pub fn get(&self, key: u32) -> &Laggard {
        &self.table[key as usize]
    }

    /// Notes that a laggard was given everything up to `cursor`.
    pub fn advance(&mut self, key: u32, cursor: u64) {
        self.table[key as usize].cursor = cursor;
    }

    /// Notes that a laggard was told that some events up to here are gone.
    pub fn miss_until(&mut self, key: u32, incomplete_until: u64) {
        self.table[key as usize].incomplete_until = incomplete_until;
    }

    /// Notes that its link took `sent` bytes of what was unsent, or of a new run.
    pub fn progressed(&mut self, key: u32, now: Duration) {
        self.table[key as usize].progress_at = now;
    }

    /// Notes that `sent` bytes of the unsent piece went out, but not all.
    pub fn advance_unsent(&mut self, key: u32, sent: usize) {
        if let Some(unsent) = &mut self.table[key as usize].unsent {
            unsent.advance(sent);
        }
    }

    /// Ends its being one.
    pub fn remove(&mut self, key: u32, store: &mut FrameStore) {
        if let Some(unsent) = self.take_unsent(key) {
            unsent.release(store);
        }
        let laggard = self.table.remove(key as usize);
        self.fallen_behind -= usize::from(laggard.fell_behind);
        if self.table.is_empty() {
            // Give back what a bad hour needed.
            self.table = Slab::new();
            self.line = VecDeque::new();
            self.with_unsent = Vec::new();
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Laggard)> {
        self.table.iter().map(|(key, laggard)| (key as u32, laggard))
    }

    /// Gives back what a bad hour needed, behind the last laggard.
    pub fn shrink(&mut self) {
        crate::shrink::shrink_slab(&mut self.table);
    }

    /// The laggard under this key, if there is one.
    pub fn find(&self, key: usize) -> Option<&Laggard> {
        self.table.get(key)
    }

    /// One more than the largest key.
    pub fn keys_end(&self) -> usize {
        self.table.capacity()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Checks that the sums are right; for tests.
    ///
    /// # Panics
    /// They are not.
    pub fn check(&self) {
        let own: usize =
            self.table.iter().map(|(_, it)| it.unsent.as_ref().map_or(0, Unsent::own_bytes)).sum();
        assert_eq!(self.own_bytes, own, "bytes of unsent pieces");
        let unsent = self.table.iter().filter(|(_, it)| it.unsent.is_some());
        assert_eq!(self.with_unsent.len(), unsent.clone().count(), "laggards with something unsent");
        for (key, laggard) in unsent {
            let listed = self.with_unsent[laggard.place as usize];
            assert_eq!(listed as usize, key, "a laggard's place in the list of those with something unsent");
        }
        let fell = self.table.iter().filter(|(_, it)| it.fell_behind).count();
        assert_eq!(self.fallen_behind, fell, "laggards that fell behind");
        for (key, laggard) in &self.table {
            let in_line = self.line.contains(&(key as u32));
            assert!(in_line || !laggard.in_line, "a laggard is in line, and the line does not have it");
        }
    }
}
