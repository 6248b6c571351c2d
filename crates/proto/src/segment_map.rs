//! A map from names to values that grows and shrinks piece by piece: a table of segments with keys.

use std::borrow::Borrow;
use std::hash::Hash;

use crate::segments::SegmentTable;
use crate::slot_table::HashKeys;

/// Values by key. No call moves more than a small part of them.
pub struct SegmentMap<K, V> {
    entries: SegmentTable<(K, V)>,
    keys: HashKeys,
}

impl<K: Eq + Hash, V> SegmentMap<K, V> {
    /// An empty map. `seed` makes its hashes unpredictable, so it is random in production.
    pub fn new(seed: u64) -> SegmentMap<K, V> {
        SegmentMap { entries: SegmentTable::new(), keys: HashKeys::new(seed) }
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.find(self.keys.hash(key), |(other, _)| other.borrow() == key).map(|(_, value)| value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let hash = self.keys.hash(key);
        self.entries.find_mut(hash, |(other, _)| other.borrow() == key).map(|(_, value)| value)
    }

    /// The value of a key, which gets the default value where it has none.
    ///
    /// # Panics
    /// Never: the entry is there.
    pub fn get_or_default(&mut self, key: &K) -> &mut V
    where
        K: Clone,
        V: Default,
    {
        let (keys, hash) = (self.keys, self.keys.hash(key));
        if self.entries.find(hash, |(other, _)| other == key).is_none() {
            self.entries.insert(hash, (key.clone(), V::default()), |(other, _)| keys.hash(other));
        }
        let found = self.entries.find_mut(hash, |(other, _)| other == key);
        &mut found.expect("the entry was found or inserted").1
    }

    /// Removes a key, and gives its value.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (keys, hash) = (self.keys, self.keys.hash(key));
        let removed =
            self.entries.remove(hash, |(other, _)| other.borrow() == key, |(other, _)| keys.hash(other));
        removed.map(|(_, value)| value)
    }

    /// Removes everything, and gives the memory back.
    pub fn clear(&mut self) {
        self.entries = SegmentTable::new();
    }

    /// All keys with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keys_are_found_by_what_they_are_borrowed_as() {
        let mut map: SegmentMap<Arc<str>, usize> = SegmentMap::new(1);
        for number in 0..2_000 {
            *map.get_or_default(&number.to_string().into()) += number;
        }
        *map.get_mut("7").unwrap() += 1;
        assert_eq!((map.get("7"), map.get("1999"), map.get("2000")), (Some(&8), Some(&1999), None));
        assert_eq!(map.iter().count(), 2_000);
        for number in 0..2_000 {
            assert!(map.remove(number.to_string().as_str()).is_some());
        }
        assert!(map.remove("7").is_none() && map.is_empty());
    }
}
