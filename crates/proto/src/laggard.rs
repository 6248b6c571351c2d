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
    /// It is in the queue of laggards that can be served.
    is_queued: bool,
    /// It is to be ended, and waits for that.
    ends: bool,
    /// It waits for frames that are fetched, and not for its link.
    is_fetching: bool,
}

impl Laggard {
    /// Whether it was at the head before, and its link has taken nothing since `time`.
    pub fn at_standstill_since(&self, time: Duration) -> bool {
        self.fell_behind && !self.is_fetching && self.progress_at <= time
    }

    /// Whether it waits for its link, which has taken nothing since `time`.
    pub fn is_stalled_since(&self, time: Duration) -> bool {
        !self.is_queued() && !self.is_fetching && self.progress_at <= time
    }

    /// Whether it was at the head before, and did not come to replay.
    pub fn fell_behind(&self) -> bool {
        self.fell_behind
    }

    /// Whether it waits for its turn, or for its end, and not for its link.
    pub fn is_queued(&self) -> bool {
        self.is_queued || self.ends
    }
}

/// The laggards of a shard, and the queue of those that can be served.
#[derive(Default)]
pub struct Laggards {
    table: Slab<Laggard>,
    ready_queue: VecDeque<u32>,
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
    /// Adds a laggard, in the queue at once if it is ready to be served, and gives it an index.
    pub fn insert(&mut self, new: NewLaggard, now: Duration) -> u32 {
        let NewLaggard { slot, cursor, incomplete_until, fell_behind, ready } = new;
        self.fallen_behind += usize::from(fell_behind);
        let laggard = Laggard {
            slot,
            cursor,
            incomplete_until,
            progress_at: now,
            fell_behind,
            is_queued: false,
            ends: false,
            is_fetching: false,
        };
        let index = self.table.insert(laggard) as u32;
        if ready {
            self.ready(index);
        }
        index
    }

    /// Puts a laggard in the queue: its link has room.
    pub fn ready(&mut self, index: u32) {
        let laggard = &mut self.table[index as usize];
        laggard.is_fetching = false;
        if !laggard.is_queued {
            laggard.is_queued = true;
            self.ready_queue.push_back(index);
        }
    }

    /// Notes that a laggard whose link has room is to be ended.
    pub fn ends(&mut self, index: u32) {
        self.table[index as usize].ends = true;
    }

    /// The next to be served. It is not in the queue again until [`Laggards::ready`]. Takes from
    /// `scans` what it checked in vain.
    pub fn next_turn(&mut self, scans: &mut usize) -> Option<u32> {
        loop {
            let index = self.ready_queue.pop_front()?;
            // An index may be of one that has left since.
            if let Some(laggard) = self.table.get_mut(index as usize)
                && laggard.is_queued
            {
                laggard.is_queued = false;
                return Some(index);
            }
            *scans = scans.checked_sub(1)?;
        }
    }

    /// Whether any can be served.
    pub fn any_ready(&self) -> bool {
        !self.ready_queue.is_empty()
    }

    /// How many were at the head before, and did not come to replay.
    pub fn fallen_behind(&self) -> usize {
        self.fallen_behind
    }

    /// How many are in the queue.
    pub fn ready_count(&self) -> usize {
        self.ready_queue.len()
    }

    /// The laggard with this index.
    pub fn get(&self, index: u32) -> &Laggard {
        &self.table[index as usize]
    }

    /// Notes that a laggard was given everything up to `cursor`.
    pub fn advance(&mut self, index: u32, cursor: u64) {
        self.table[index as usize].cursor = cursor;
    }

    /// Notes that a laggard was told that some events up to here are gone.
    pub fn miss_until(&mut self, index: u32, incomplete_until: u64) {
        self.table[index as usize].incomplete_until = incomplete_until;
    }

    /// Notes that its link took some bytes, or that frames are here for which it waited.
    pub fn progressed(&mut self, index: u32, now: Duration) {
        self.table[index as usize].progress_at = now;
    }

    /// Notes that it waits for frames that are fetched. Until [`Laggards::ready`] it does not stand still,
    /// however long that takes: there is nothing that its link could take.
    pub fn fetches(&mut self, index: u32) {
        self.table[index as usize].is_fetching = true;
    }

    /// Ends its being one.
    pub fn remove(&mut self, index: u32) {
        let laggard = self.table.remove(index as usize);
        self.fallen_behind -= usize::from(laggard.fell_behind);
        if self.table.is_empty() {
            // Give back what a burst needed.
            self.table = Slab::new();
            self.ready_queue = VecDeque::new();
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Laggard)> {
        self.table.iter().map(|(index, laggard)| (index as u32, laggard))
    }

    /// Gives back what a burst needed, behind the last laggard.
    pub fn shrink(&mut self) {
        crate::shrink::shrink_slab(&mut self.table);
    }

    /// The laggard with this index, if there is one.
    pub fn find(&self, index: usize) -> Option<&Laggard> {
        self.table.get(index)
    }

    /// One more than the largest index.
    pub fn indexes_end(&self) -> usize {
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
        for (index, laggard) in &self.table {
            let is_there = self.ready_queue.contains(&(index as u32));
            assert!(
                is_there || !laggard.is_queued,
                "a laggard is in the queue, and the queue does not have it"
            );
        }
    }
}
