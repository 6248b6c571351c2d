//! How many topics retain a frame, for frames that were published to several.

use crate::segments::{SegmentTable, hash_of_number};

/// Counts by `seq`. A frame of one topic has no count: only that topic retains it.
pub(super) struct FrameTopics {
    table: SegmentTable<(u64, u32)>,
}

impl FrameTopics {
    pub(super) fn new() -> FrameTopics {
        FrameTopics { table: SegmentTable::new() }
    }

    /// The memory of the counts, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Frames that have a count.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that `count` topics retain the frame `seq`.
    pub(super) fn add(&mut self, seq: u64, count: u32) {
        self.table.insert(hash_of_number(seq), (seq, count), |(seq, _)| hash_of_number(*seq));
    }

    /// Notes that one topic less retains the frame `seq`; says whether no topic does any more.
    pub(super) fn remove_one(&mut self, seq: u64) -> bool {
        let is_it = |(other, _): &(u64, u32)| *other == seq;
        let Some((_, count)) = self.table.find_mut(hash_of_number(seq), is_it) else { return true };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.table.remove(hash_of_number(seq), is_it, |(seq, _)| hash_of_number(*seq));
        true
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.table.check(|(seq, _)| hash_of_number(*seq));
    }

    pub(super) fn get(&self, seq: u64) -> Option<u32> {
        self.table.find(hash_of_number(seq), |(other, _)| *other == seq).map(|(_, count)| *count)
    }
}
