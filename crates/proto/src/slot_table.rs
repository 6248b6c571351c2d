//! Hash tables from a hash to a slot number: what was hashed stands in the slots, once, with its hash.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::segments::SegmentTable;

/// The keys of hashes of text from outside, so that texts that collide cannot be computed there.
#[derive(Clone, Copy)]
pub(crate) struct HashKeys(u64, u64);

impl HashKeys {
    pub(crate) fn new(seed: u64) -> HashKeys {
        // Any two words that depend on the whole seed will do: the secret is the seed.
        HashKeys(seed, seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn hash(self, value: &(impl Hash + ?Sized)) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        value.hash(&mut hasher);
        hasher.finish()
    }
}

/// Slot numbers by hash.
pub(crate) struct SlotTable {
    slots: SegmentTable<u32>,
}

impl SlotTable {
    /// The most that an entry takes: five bytes, when seven sixteenths of the table are used.
    pub(crate) const ENTRY_BYTES: usize = 12;

    pub(crate) fn new() -> SlotTable {
        SlotTable { slots: SegmentTable::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The memory of the table, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// The slot with this hash for which `is_it` holds.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.slots.find(hash, |slot| is_it(*slot)).copied()
    }

    /// Adds a slot that is not in the table. `hash_of` gives the hash of any slot in it, and of this one.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.slots.insert(hash, slot, |slot| hash_of(*slot));
    }

    /// Removes a slot that is in the table. `hash_of` gives the hash of any other slot in it.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.slots.remove(hash, |other| *other == slot, |slot| hash_of(*slot));
    }

    /// Checks what must always hold; for tests. `hash_of` gives the hash of any slot in the table.
    pub(crate) fn check(&self, hash_of: impl Fn(u32) -> u64) {
        self.slots.check(|slot| hash_of(*slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_finds_what_is_in_it_and_shrinks() {
        let keys = HashKeys::new(1);
        let hash_of = |slot: u32| keys.hash(slot.to_string().as_str());
        let mut table = SlotTable::new();
        for slot in 0..10_000 {
            table.insert(hash_of(slot), slot, hash_of);
        }
        assert!(table.bytes() <= 10_000 * 12, "{} bytes", table.bytes());
        for slot in 0..9_900 {
            assert_eq!(table.find(hash_of(slot), |other| other == slot), Some(slot));
            table.remove(hash_of(slot), slot, hash_of);
            assert_eq!(table.find(hash_of(slot), |other| other == slot), None);
        }
        assert_eq!(table.len(), 100);
        assert!(table.bytes() < 8_000, "{} bytes", table.bytes());
        assert!((9_900..10_000).all(|slot| table.find(hash_of(slot), |other| other == slot).is_some()));
        for slot in 9_900..10_000 {
            table.remove(hash_of(slot), slot, hash_of);
        }
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn the_seed_changes_every_hash() {
        assert_ne!(HashKeys::new(1).hash("a"), HashKeys::new(2).hash("a"));
        assert_eq!(HashKeys::new(1).hash("a"), HashKeys::new(1).hash("a"));
    }
}
