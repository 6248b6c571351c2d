//! How many connections each key has: an address of clients, or a subject.

use std::num::NonZeroU32;

use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::Slots;

/// 128 bits that stand for an address or for a subject: see [`crate::client_limits::address_key`].
pub type Key = [u64; 2];

/// Counts by key. A key without connections takes nothing, so the table is never larger than the number of
/// connections, whatever the number of addresses; and it grows and shrinks piece by piece.
///
/// A connection keeps the slot that [`KeyCounts::enter`] gave it, and gives it to [`KeyCounts::leave`].
///
/// ```text
///   slots     [ 192.0.2.7: 3 | 2001:db8::/64: 1 | free | 192.0.2.9: 1 ]
///   by key    hash of 192.0.2.7 -> slot 0, ...
/// ```
pub struct KeyCounts {
    entries: Slots<Entry>,
    by_key: SlotTable,
    keys: HashKeys,
}

struct Entry {
    key: Key,
    count: NonZeroU32,
}

impl KeyCounts {
    /// The most that a key takes, in bytes.
    pub const ENTRY_BYTES: usize = Slots::<Entry>::ENTRY_BYTES + SlotTable::ENTRY_BYTES;

    /// An empty table. `seed` makes its hashes unpredictable, so it is random in production.
    pub fn new(seed: u64) -> KeyCounts {
        KeyCounts { entries: Slots::new(), by_key: SlotTable::new(), keys: HashKeys::new(seed) }
    }

    /// Counts one more connection of a key, and gives the slot of the key. `None`: it has `most` already.
    pub fn enter(&mut self, key: Key, most: usize) -> Option<u32> {
        let hash = self.keys.hash(&key);
        let entries = &self.entries;
        if let Some(slot) = self.by_key.find(hash, |slot| entries[slot].key == key) {
            let entry = &mut self.entries[slot];
            if entry.count.get() as usize >= most {
                return None;
            }
            entry.count = entry.count.saturating_add(1);
            return Some(slot);
        }
        if most == 0 {
            return None;
        }
        let slot = self.entries.insert(Entry { key, count: NonZeroU32::MIN });
        let (entries, keys) = (&self.entries, self.keys);
        self.by_key.insert(hash, slot, |slot| keys.hash(&entries[slot].key));
        Some(slot)
    }

    /// A connection that entered has left: gives its key.
    ///
    /// # Panics
    /// The slot has no connection.
    pub fn leave(&mut self, slot: u32) -> Key {
        let entry = &mut self.entries[slot];
        let key = entry.key;
        if let Some(left) = NonZeroU32::new(entry.count.get() - 1) {
            entry.count = left;
            return key;
        }
        let (entries, keys) = (&self.entries, self.keys);
        self.by_key.remove(keys.hash(&entries[slot].key), slot, |slot| keys.hash(&entries[slot].key));
        self.entries.remove(slot);
        key
    }

    /// The key of a slot that has a connection.
    pub fn key(&self, slot: u32) -> Option<Key> {
        self.entries.get(slot).map(|entry| entry.key)
    }

    /// How many keys have a connection.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has a connection.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many connections there are, of all keys together.
    pub fn connections(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.count.get() as usize).sum()
    }

    /// The memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.by_key.bytes()
    }

    /// Checks what must always hold; for tests.
    pub fn check(&self) {
        self.entries.check();
        let (entries, keys) = (&self.entries, self.keys);
        self.by_key.check(|slot| keys.hash(&entries[slot].key));
        assert_eq!(self.by_key.len(), self.entries.len(), "keys by their hash");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_more_than_it_may_and_the_last_one_takes_it_along() {
        let mut counts = KeyCounts::new(1);
        let [first, again] = [(); 2].map(|()| counts.enter([1, 2], 2).unwrap());
        assert_eq!((first, counts.enter([1, 2], 2), counts.enter([1, 2], 0)), (again, None, None));
        assert_eq!(counts.enter([9, 9], 0), None, "a bound of zero lets none in");
        let other = counts.enter([2, 1], 2).unwrap();
        assert_eq!((counts.len(), counts.connections()), (2, 3));
        assert_eq!(counts.leave(first), [1, 2]);
        // A bound that is lower than the count ends none.
        assert_eq!(counts.enter([1, 2], 1), None);
        assert_eq!([counts.leave(first), counts.leave(other)], [[1, 2], [2, 1]]);
        assert!(counts.is_empty() && counts.bytes() == 0);
    }

    /// A table with a million addresses is what an enemy with a network of its own makes.
    #[test]
    fn very_many_keys_take_forty_bytes_each_and_give_them_back() {
        const KEYS: u64 = 1_000_000;
        let mut counts = KeyCounts::new(7);
        let slots: Vec<u32> =
            (0..KEYS).map(|key| counts.enter([0x2001_0db8 << 32, key], 1).unwrap()).collect();
        assert!((0..KEYS).all(|key| counts.enter([0x2001_0db8 << 32, key], 1).is_none()));
        let each = counts.bytes() / KEYS as usize;
        assert!(each <= KeyCounts::ENTRY_BYTES.min(40), "{each} bytes");
        for (index, slot) in slots.iter().enumerate() {
            if index % 1000 != 0 {
                counts.leave(*slot);
            }
        }
        counts.check();
        // Most of it are the pointers to chunks, which go with the last key.
        assert!(counts.bytes() < 1_300_000, "{} bytes for {} keys", counts.bytes(), counts.len());
        slots.iter().step_by(1000).for_each(|slot| _ = counts.leave(*slot));
        assert_eq!((counts.len(), counts.bytes()), (0, 0));
    }
}
