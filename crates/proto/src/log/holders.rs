//! How many topics hold a frame, for frames that were published to several.

use hashbrown::HashTable;

/// Counts by `seq`. A frame of one topic has no count: the topic is its only holder.
#[derive(Default)]
pub(super) struct Holders {
    table: HashTable<(u64, u32)>,
}

impl Holders {
    /// The memory of the counts, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }

    /// Frames that have a count.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that `count` topics hold the frame `seq`.
    pub(super) fn add(&mut self, seq: u64, count: u32) {
        self.table.insert_unique(hash(seq), (seq, count), |(seq, _)| hash(*seq));
    }

    /// Notes that one topic less holds the frame `seq`; says whether no topic does any more.
    pub(super) fn release(&mut self, seq: u64) -> bool {
        let Ok(mut entry) = self.table.find_entry(hash(seq), |(other, _)| *other == seq) else { return true };
        entry.get_mut().1 -= 1;
        if entry.get().1 > 0 {
            return false;
        }
        entry.remove();
        if self.table.len().is_power_of_two() || self.table.is_empty() {
            self.table.shrink_to(2 * self.table.len(), |(seq, _)| hash(*seq));
        }
        true
    }

    pub(super) fn get(&self, seq: u64) -> Option<u32> {
        self.table.find(hash(seq), |(other, _)| *other == seq).map(|(_, count)| *count)
    }
}

/// Numbers that no client chooses need no key. The product's low bits, where the table begins to look, differ
/// from one number to the next; its high bits do as well.
fn hash(seq: u64) -> u64 {
    seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
