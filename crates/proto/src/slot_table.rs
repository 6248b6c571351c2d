//! Hash tables from a hash to a slot number: what was hashed stands in the slots, once, with its hash.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

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

/// Tables that grow one by one: a single table of a million entries would stop the thread that adds one, and
/// those that wait for it, while it grows.
const PARTS: usize = 64;

/// Slot numbers by hash.
pub(crate) struct SlotTable {
    parts: Box<[HashTable<u32>]>,
    length: usize,
    bytes: usize,
}

impl SlotTable {
    /// The most that an entry takes: five bytes, when seven sixteenths of the table are used.
    pub(crate) const ENTRY_BYTES: usize = 12;

    pub(crate) fn new() -> SlotTable {
        SlotTable { parts: (0..PARTS).map(|_| HashTable::new()).collect(), length: 0, bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The memory of the tables, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slot with this hash for which `is_it` holds.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[part_of(hash)].find(hash, |slot| is_it(*slot)).copied()
    }

    /// Adds a slot that is not in the table. `hash_of` gives the hash of any slot in it, and of this one.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.change(hash, |part| {
            part.insert_unique(hash, slot, |slot| hash_of(*slot));
        });
        self.length += 1;
    }

    /// Removes a slot that is in the table. `hash_of` gives the hash of any other slot in it.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        self.change(hash, |part| {
            if let Ok(entry) = part.find_entry(hash, |other| *other == slot) {
                entry.remove();
            }
            // Asked as its length falls to a power of two: most times, that is nothing to do.
            if part.len().is_power_of_two() || part.is_empty() {
                part.shrink_to(2 * part.len(), |slot| hash_of(*slot));
            }
        });
        self.length -= 1;
    }

    fn change(&mut self, hash: u64, change: impl FnOnce(&mut HashTable<u32>)) {
        let part = &mut self.parts[part_of(hash)];
        let before = part.allocation_size();
        change(part);
        self.bytes = self.bytes + part.allocation_size() - before;
    }
}

/// The tables look at the lowest and at the highest bits of a hash.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
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
