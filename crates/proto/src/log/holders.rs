//! How many topics hold a frame, for frames that were published to several.

use super::parts::PartTable;

/// Counts by `seq`. A frame of one topic has no count: the topic is its only holder.
pub(super) struct Holders {
    table: PartTable<(u64, u32)>,
}

impl Holders {
    pub(super) fn new() -> Holders {
        Holders { table: PartTable::new() }
    }

    /// The memory of the counts, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Frames that have a count.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that `count` topics hold the frame `seq`.
    pub(super) fn add(&mut self, seq: u64, count: u32) {
        self.table.insert(hash(seq), (seq, count), |(seq, _)| hash(*seq));
    }

    /// Notes that one topic less holds the frame `seq`; says whether no topic does any more.
    pub(super) fn release(&mut self, seq: u64) -> bool {
        let is_it = |(other, _): &(u64, u32)| *other == seq;
        let Some((_, count)) = self.table.find_mut(hash(seq), is_it) else { return true };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.table.remove(hash(seq), is_it, |(seq, _)| hash(*seq));
        true
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.table.check(|(seq, _)| hash(*seq));
    }

    pub(super) fn get(&self, seq: u64) -> Option<u32> {
        self.table.find(hash(seq), |(other, _)| *other == seq).map(|(_, count)| *count)
    }
}

/// Numbers that no client chooses need no key. Every bit of a number moves every bit of its hash (the
/// finalizer of MurmurHash3, A. Appleby), because the table looks at three places of it.
fn hash(seq: u64) -> u64 {
    let mixed = (seq ^ (seq >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}
