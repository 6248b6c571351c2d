//! Laggards: streams that are not at the head, because their link is full or they still replay. What was
//! begun on the link is not here, but in [`crate::unsent`]: it belongs to the link.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

/// A stream with a cursor of its own, and the link that it waits for.
#[derive(Debug)]
pub struct Laggard {
    /// The stream's slot.
    pub slot: u32,
    /// It was given everything up to here, or cannot get it any more.
    pub cursor: u64,
    /// Some events up to here are gone, and the subscriber knows it. What is left of them comes.
    pub incomplete_until: u64,
    /// When its link last took a byte.
    pub progress_at: Duration,
    /// It was at the head before, and did not come to replay.
    fell_behind: bool,
    /// It stands in line to be served.
    in_line: bool,
    /// It is to be ended, and waits for that.
    ends: bool,
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
    fallen_behind: usize,
}

/// What a laggard begins with.
pub struct NewLaggard {
    /// The stream's slot.
    pub slot: u32,
    /// It was given everything up to here, or cannot get it any more.
    pub cursor: u64,
    /// Some events up to here are gone, and the subscriber knows it.
    pub incomplete_until: u64,
    /// Whether it was at the head before, and did not come to replay.
    pub fell_behind: bool,
    /// Whether its link has room now.
    pub ready: bool,
}

impl Laggards {
    /// Adds a laggard, in line at once if it is ready to be served, and gives it a key.
    pub fn insert(&mut self, new: NewLaggard, now: Duration) -> u32 {
        let NewLaggard { slot, cursor, incomplete_until, fell_behind, ready } = new;
        self.fallen_behind += usize::from(fell_behind);
        let laggard = Laggard {
            slot,
            cursor,
            incomplete_until,
            progress_at: now,
            fell_behind,
            in_line: false,
            ends: false,
        };
        let key = self.table.insert(laggard) as u32;
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

    /// The next to be served. It is out of line until [`Laggards::ready`]. Takes from `scans` what it looked
    /// at in vain.
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

    /// Notes that its link took some bytes.
    pub fn progressed(&mut self, key: u32, now: Duration) {
        self.table[key as usize].progress_at = now;
    }

    /// Ends its being one.
    pub fn remove(&mut self, key: u32) {
        let laggard = self.table.remove(key as usize);
        self.fallen_behind -= usize::from(laggard.fell_behind);
        if self.table.is_empty() {
            // Give back what a bad hour needed.
            self.table = Slab::new();
            self.line = VecDeque::new();
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
        let fell = self.table.iter().filter(|(_, it)| it.fell_behind).count();
        assert_eq!(self.fallen_behind, fell, "laggards that fell behind");
        for (key, laggard) in &self.table {
            let in_line = self.line.contains(&(key as u32));
            assert!(in_line || !laggard.in_line, "a laggard is in line, and the line does not have it");
        }
    }
}
