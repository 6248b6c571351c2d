//! Which topic's oldest frame becomes too old next.
//!
//! One entry for each topic that has frames, in a heap. An entry is never moved: where the frame that it
//! stands for has been dropped for another reason it is too early, and is put back with the right time when
//! its time comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::frame::Frame;

/// The topics by the time at which their oldest frame expires, or earlier.
pub(super) struct ExpiryQueue {
    heap: BinaryHeap<Reverse<Expiry>>,
    /// Entries of topics that have frames; the others are stale.
    live: usize,
    last_stamp: u32,
}

/// One entry of the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Expiry {
    /// In nanoseconds on the clock of `published`.
    pub(super) at: u64,
    pub(super) slot: u32,
    /// The topic has the same stamp, or the entry is stale.
    pub(super) stamp: u32,
}

/// The time of what never expires.
pub(super) const NEVER: u64 = u64::MAX;

/// Stale entries that are not worth the work of removing them.
const STALE_ALLOWED: usize = 64;

/// Nanoseconds; saturates after 584 years.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}

/// When a frame is too old. The comparison is "at or after".
pub(super) fn expires_at(frame: &Frame, age: Duration) -> u64 {
    nanoseconds(frame.published().saturating_add(age))
}

/// Whether the time has come. [`NEVER`] does not come.
pub(super) fn has_come(at: u64, now: u64) -> bool {
    at <= now && at != NEVER
}

impl ExpiryQueue {
    pub(super) fn new() -> ExpiryQueue {
        ExpiryQueue { heap: BinaryHeap::new(), live: 0, last_stamp: 0 }
    }

    /// The memory of the heap, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Expiry>()
    }

    /// The time of the first entry, which may be stale or early.
    pub(super) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|first| first.0.at)
    }

    /// Adds an entry, and gives the stamp that the topic keeps; zero for what never expires, which gets none.
    pub(super) fn push(&mut self, at: u64, slot: u32) -> u32 {
        if at == NEVER {
            return 0;
        }
        self.last_stamp = self.last_stamp.checked_add(1).unwrap_or(1);
        self.heap.push(Reverse(Expiry { at, slot, stamp: self.last_stamp }));
        self.live += 1;
        self.last_stamp
    }

    /// Takes the first entry out if its time has come.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<Expiry> {
        let first = self.heap.peek()?.0;
        has_come(first.at, now).then(|| {
            self.heap.pop();
            first
        })
    }

    /// Notes that an entry is no longer its topic's: because it was taken out, or because the topic has no
    /// more frames.
    pub(super) fn end(&mut self) {
        self.live -= 1;
    }

    /// Removes the stale entries when they are more than the others, and room that is not needed. `stamp_of`
    /// gives the stamp of a topic.
    pub(super) fn shrink(&mut self, stamp_of: impl Fn(u32) -> u32) {
        if self.heap.len() > 2 * self.live + STALE_ALLOWED {
            self.heap.retain(|entry| stamp_of(entry.0.slot) == entry.0.stamp);
        }
        if self.heap.capacity() > 4 * self.heap.len().max(STALE_ALLOWED) {
            self.heap.shrink_to(2 * self.heap.len());
        }
    }

    /// Checks what must always hold; for tests. `stamp_of` gives the stamp of a topic.
    pub(super) fn check(&self, stamp_of: impl Fn(u32) -> u32) -> Vec<Expiry> {
        let all = self.heap.iter().map(|entry| entry.0);
        let live: Vec<Expiry> = all.filter(|entry| stamp_of(entry.slot) == entry.stamp).collect();
        assert_eq!(live.len(), self.live, "entries that are not stale");
        assert!(self.heap.len() <= 2 * self.live + STALE_ALLOWED, "too many stale entries");
        live
    }
}
