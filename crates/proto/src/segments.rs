//! A hash table in many small segments, which grows and shrinks by one segment at a time.
//!
//! One table of a million entries moves every entry where it doubles: for a tenth of a second under the log's
//! lock, and for more than a second where the hash of an entry is that of a subscription. Here an insertion
//! moves the entries of at most one segment, and a removal those of at most two (linear hashing, W. Litwin,
//! 1980). With `n` segments, an entry's segment is given by the lowest bits of its hash, as many as `n`
//! needs; a segment that does not exist yet is still in the one whose number has no highest bit.

use hashbrown::HashTable;

use crate::shrink::push_to_list;

/// Entries of a segment on average, at most. A segment that is to be split next has about twice as many.
const SEGMENT_ENTRIES: usize = 256;

/// Segments are merged when they have fewer entries than this on average.
const MERGED_ENTRIES: usize = SEGMENT_ENTRIES / 4;

/// Entries by hash.
pub(crate) struct SegmentTable<T> {
    segments: Vec<HashTable<T>>,
    length: usize,
    /// The memory of the segments' tables.
    table_bytes: usize,
}

impl<T> Default for SegmentTable<T> {
    fn default() -> SegmentTable<T> {
        SegmentTable::new()
    }
}

impl<T> SegmentTable<T> {
    pub(crate) fn new() -> SegmentTable<T> {
        SegmentTable { segments: Vec::new(), length: 0, table_bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The memory of the table, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.segments.capacity() * size_of::<HashTable<T>>() + self.table_bytes
    }

    /// The entry with this hash for which `is_it` holds.
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments.get(segment_of(hash, self.segments.len()))?.find(hash, is_it)
    }

    /// The same, to be changed in a way that leaves its hash.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let segment = segment_of(hash, self.segments.len());
        self.segments.get_mut(segment)?.find_mut(hash, is_it)
    }

    /// Adds an entry that is not in the table. `hash_of` gives the hash of any entry.
    pub(crate) fn insert(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        if self.length >= self.segments.len() * SEGMENT_ENTRIES {
            self.split(&hash_of);
        }
        let segment = segment_of(hash, self.segments.len());
        self.change(segment, |segment| {
            segment.insert_unique(hash, entry, &hash_of);
        });
        self.length += 1;
    }

    /// Removes the entry with this hash for which `is_it` holds. `hash_of` gives the hash of any other entry.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let segment = segment_of(hash, self.segments.len());
        let entry = self.segments.get_mut(segment)?.find_entry(hash, is_it).ok()?;
        let (removed, _) = entry.remove();
        self.length -= 1;
        if self.length == 0 {
            *self = SegmentTable::new();
            return Some(removed);
        }
        self.change(segment, |segment| {
            // Asked as its length falls to a power of two: most times, that is nothing to do.
            if segment.len().is_power_of_two() || segment.is_empty() {
                segment.shrink_to(2 * segment.len(), &hash_of);
            }
        });
        if self.segments.len() > 1 && self.length < self.segments.len() * MERGED_ENTRIES {
            self.merge(&hash_of);
        }
        Some(removed)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }

    /// Adds a segment, and moves entries to it from the one that had them until now.
    fn split(&mut self, hash_of: impl Fn(&T) -> u64) {
        let added = self.segments.len();
        push_to_list(&mut self.segments, HashTable::new());
        if added == 0 {
            return;
        }
        let before = std::mem::take(&mut self.segments[buddy_of(added)]);
        self.table_bytes -= before.allocation_size();
        let segments = self.segments.len();
        let hashed = before.into_iter().map(|entry| (hash_of(&entry), entry));
        let (moved, stay): (Vec<_>, Vec<_>) =
            hashed.partition(|(hash, _)| segment_of(*hash, segments) == added);
        for (segment, entries) in [(added, moved), (buddy_of(added), stay)] {
            let mut table = HashTable::with_capacity(entries.len());
            for (hash, entry) in entries {
                table.insert_unique(hash, entry, &hash_of);
            }
            self.table_bytes += table.allocation_size();
            self.segments[segment] = table;
        }
    }

    /// Removes the last segment: its entries go back to the one that they came from.
    fn merge(&mut self, hash_of: impl Fn(&T) -> u64) {
        let Some(last) = self.segments.pop() else { return };
        self.table_bytes -= last.allocation_size();
        self.change(buddy_of(self.segments.len()), |buddy| {
            buddy.reserve(last.len(), &hash_of);
            for entry in last {
                buddy.insert_unique(hash_of(&entry), entry, &hash_of);
            }
        });
        if self.segments.capacity() > 4 * self.segments.len() {
            self.segments.shrink_to(2 * self.segments.len());
        }
    }

    fn change(&mut self, segment: usize, change: impl FnOnce(&mut HashTable<T>)) {
        let segment = &mut self.segments[segment];
        let before = segment.allocation_size();
        change(segment);
        self.table_bytes = self.table_bytes + segment.allocation_size() - before;
    }

    /// Checks what must always hold; for tests.
    pub(crate) fn check(&self, hash_of: impl Fn(&T) -> u64) {
        let (mut length, mut bytes) = (0, 0);
        for (number, segment) in self.segments.iter().enumerate() {
            let is_here = |entry| segment_of(hash_of(entry), self.segments.len()) == number;
            assert!(segment.iter().all(is_here), "an entry in the segment of its hash");
            (length, bytes) = (length + segment.len(), bytes + segment.allocation_size());
        }
        assert_eq!((self.length, self.table_bytes), (length, bytes), "entries and bytes of the segments");
        let (least, most) = (self.length / SEGMENT_ENTRIES, self.length / MERGED_ENTRIES + 1);
        assert!(
            (least..=most).contains(&self.segments.len()),
            "{} segments for {length}",
            self.segments.len()
        );
    }
}

/// A hash of a number that no client chooses, so it needs no key. Every bit of the number moves every bit of
/// its hash (the finalizer of MurmurHash3, A. Appleby), because a table uses three pieces of it.
pub(crate) fn hash_of_number(number: u64) -> u64 {
    let mixed = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// The segment of a hash, of so many. The table of a segment uses the lowest and the highest bits.
fn segment_of(hash: u64, segments: usize) -> usize {
    let number = (hash >> 20) as usize;
    let all = segments.next_power_of_two();
    let segment = number & (all - 1);
    if segment < segments { segment } else { segment & (all / 2).saturating_sub(1) }
}

/// The segment that had the entries of this one before it was added.
fn buddy_of(segment: usize) -> usize {
    segment & !(1 << segment.checked_ilog2().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: &u64) -> u64 {
        hash_of_number(*number)
    }

    #[test]
    fn a_table_finds_what_is_in_it_and_shrinks() {
        let mut table = SegmentTable::new();
        for number in 0..10_000_u64 {
            assert_eq!(table.find(hash(&number), |other| *other == number), None);
            table.insert(hash(&number), number, hash);
            if number % 97 == 0 {
                table.check(hash);
            }
        }
        assert!((0..10_000).all(|number| table.find(hash(&number), |other| *other == number).is_some()));
        for number in 0..9_990 {
            assert_eq!(table.remove(hash(&number), |other| *other == number, hash), Some(number));
            assert_eq!(table.remove(hash(&number), |other| *other == number, hash), None);
            if number % 97 == 0 {
                table.check(hash);
            }
        }
        table.check(hash);
        assert_eq!(table.len(), 10);
        assert!(table.bytes() < 1_000, "{} bytes", table.bytes());
        assert!((9_990..10_000).all(|number| table.find(hash(&number), |other| *other == number).is_some()));
        for number in 9_990..10_000 {
            table.remove(hash(&number), |other| *other == number, hash);
        }
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    /// The log's tables doubled at once. The counts of frames with several topics took 110 ms of a processor
    /// for one append at 917,504 such frames, while no other thread could publish or replay.
    #[test]
    fn no_change_moves_more_than_a_few_parts() {
        let calls = std::cell::Cell::new(0_u64);
        let count = |number: &u64| {
            calls.set(calls.get() + 1);
            hash(number)
        };
        let (mut table, mut most) = (SegmentTable::new(), 0);
        for number in 0..100_000_u64 {
            calls.set(0);
            table.insert(hash(&number), number, count);
            most = most.max(calls.get());
        }
        for number in 0..100_000_u64 {
            calls.set(0);
            table.remove(hash(&number), |other| *other == number, count);
            most = most.max(calls.get());
        }
        assert!(most > 0 && most < 16 * SEGMENT_ENTRIES as u64, "one change asked for {most} hashes");
    }
}
