//! A binary heap in chunks. A heap in one piece copies all of it where it doubles, and takes twice what it
//! needs just then: a log at its bound would make room for that.

use crate::shrink::push_to_list;

/// Entries of a chunk.
const CHUNK_ENTRIES: usize = 256;

/// The smallest entry first.
pub(super) struct ChunkedHeap<T> {
    /// All but the last one are full.
    chunks: Vec<Vec<T>>,
}

impl<T: Copy + Ord> ChunkedHeap<T> {
    pub(super) fn new() -> ChunkedHeap<T> {
        ChunkedHeap { chunks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK_ENTRIES + last.len())
    }

    /// The memory of the heap, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // Full chunks have no room to spare: see `push`.
        let full = self.chunks.len().saturating_sub(1) * CHUNK_ENTRIES;
        let last = self.chunks.last().map_or(0, Vec::capacity);
        (full + last) * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }

    /// The smallest entry.
    pub(super) fn first(&self) -> Option<T> {
        self.get(0)
    }

    /// The entry at a position below [`ChunkedHeap::len`], in no order but that the first is the smallest.
    pub(super) fn get(&self, position: usize) -> Option<T> {
        self.chunks.get(position / CHUNK_ENTRIES)?.get(position % CHUNK_ENTRIES).copied()
    }

    /// Adds an entry. Some entries move to larger positions: of those that stand below any given position, at
    /// most one moves to it or beyond it.
    pub(super) fn push(&mut self, entry: T) {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK_ENTRIES) {
            push_to_list(&mut self.chunks, Vec::new());
        }
        let Some(last) = self.chunks.last_mut() else { return };
        if last.len() == last.capacity() {
            last.reserve_exact(last.len().clamp(4, CHUNK_ENTRIES - last.len()));
        }
        last.push(entry);
        self.move_up(self.len() - 1, entry);
    }

    /// Takes the entry at a position out. The last entry fills the position, and moves up or down from there
    /// to where it belongs.
    pub(super) fn remove(&mut self, position: usize) -> Option<T> {
        let removed = self.get(position)?;
        let filler = self.pop_last()?;
        if position < self.len() {
            if position > 0 && self.get((position - 1) / 2).is_some_and(|parent| filler < parent) {
                self.move_up(position, filler);
            } else {
                self.move_down(position, filler);
            }
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.chunks.iter().flatten().copied()
    }

    fn pop_last(&mut self) -> Option<T> {
        let last = self.chunks.last_mut()?;
        let entry = last.pop();
        if last.is_empty() {
            self.chunks.pop();
            if self.chunks.capacity() > 4 * self.chunks.len().max(1) {
                self.chunks.shrink_to(2 * self.chunks.len());
            }
        } else if last.capacity() > 4 * last.len() {
            last.shrink_to(2 * last.len());
        }
        entry
    }

    /// Puts an entry into a position, or above it.
    fn move_up(&mut self, mut position: usize, entry: T) {
        while position > 0
            && let Some(parent) = self.get((position - 1) / 2).filter(|parent| entry < *parent)
        {
            self.set(position, parent);
            position = (position - 1) / 2;
        }
        self.set(position, entry);
    }

    /// Puts an entry into a position, or below it.
    fn move_down(&mut self, mut position: usize, entry: T) {
        while let Some(left) = self.get(2 * position + 1) {
            let right = self.get(2 * position + 2).filter(|right| *right < left);
            let (child, smaller) = right.map_or((2 * position + 1, left), |right| (2 * position + 2, right));
            if entry <= smaller {
                break;
            }
            self.set(position, smaller);
            position = child;
        }
        self.set(position, entry);
    }

    fn set(&mut self, position: usize, entry: T) {
        self.chunks[position / CHUNK_ENTRIES][position % CHUNK_ENTRIES] = entry;
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        let full = self.chunks.len().saturating_sub(1);
        let is_full = |chunk: &Vec<T>| (chunk.len(), chunk.capacity()) == (CHUNK_ENTRIES, CHUNK_ENTRIES);
        assert!(self.chunks[..full].iter().all(is_full), "all chunks but the last are full");
        assert!(self.chunks.iter().all(|chunk| !chunk.is_empty()), "no chunk is empty");
        for position in 1..self.len() {
            assert!(self.get((position - 1) / 2) <= self.get(position), "a heap's order at {position}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_heap_does_what_a_sorted_set_does() {
        let (mut heap, mut set) = (ChunkedHeap::new(), BTreeSet::new());
        let mut number = 1_u64;
        for step in 0..6_000_u64 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = number >> 33;
            let grows = step % 3_000 < 1_500;
            if random % 4 < 2 + u64::from(grows) {
                let entry = (random, step);
                heap.push(entry);
                set.insert(entry);
            } else if random.is_multiple_of(2) {
                let first = set.pop_first();
                assert_eq!((heap.first(), heap.remove(0)), (first, first));
            } else if heap.len() > 0 {
                let removed = heap.remove(random as usize % heap.len()).unwrap();
                assert!(set.remove(&removed), "an entry that is there");
            }
            assert_eq!((heap.len(), heap.first()), (set.len(), set.first().copied()));
            if step % 100 == 0 {
                heap.check();
            }
        }
        assert!(heap.len() > CHUNK_ENTRIES, "{} entries are left", heap.len());
        while let Some(first) = set.pop_first() {
            assert_eq!(heap.remove(0), Some(first));
        }
        assert!(heap.bytes() < 200, "{} bytes", heap.bytes());
    }
}
