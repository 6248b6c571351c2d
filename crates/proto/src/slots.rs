//! A table whose entries have numbers that stay, in chunks that go when they are empty.
//!
//! Not a `Slab`, which is one vector: that doubles, which copies a million entries while others wait, and it
//! shrinks only behind its last entry.

use std::array;
use std::ops::{Index, IndexMut};

use crate::shrink::push_to_list;

/// The number that no slot has.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// Slots of one chunk. Few, so that one entry that stays does not keep many free slots.
const CHUNK_SLOTS: usize = 16;

/// Entries by slot number.
pub struct Slots<T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    /// Indexes of `chunks` that are `None`.
    unallocated: Vec<u32>,
    /// The first chunk of the list of chunks that have both entries and free slots.
    with_room: u32,
    length: usize,
}

struct Chunk<T> {
    slots: [Option<T>; CHUNK_SLOTS],
    used: usize,
    /// The neighbours in the list of chunks with room.
    previous: u32,
    next: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// The most that an entry takes in a chunk that is full, in bytes: the chunk has some for itself.
    pub(crate) const ENTRY_BYTES: usize = size_of::<Option<T>>() + 3;

    /// A table without an entry.
    pub fn new() -> Slots<T> {
        Slots { chunks: Vec::new(), unallocated: Vec::new(), with_room: NO_SLOT, length: 0 }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Every slot's number is below this.
    pub(crate) fn end(&self) -> u32 {
        (self.chunks.len() * CHUNK_SLOTS) as u32
    }

    /// The memory of all chunks, in bytes, free slots included.
    pub(crate) fn bytes(&self) -> usize {
        let allocated = self.chunks.len() - self.unallocated.len();
        allocated * size_of::<Chunk<T>>()
            + self.chunks.capacity() * size_of::<Option<Box<Chunk<T>>>>()
            + self.unallocated.capacity() * size_of::<u32>()
    }

    /// Puts an entry into a free slot.
    ///
    /// # Panics
    /// There are 2^32 - 16 entries already: 200 GiB of them, so other bounds come first.
    pub fn insert(&mut self, value: T) -> u32 {
        if self.with_room == NO_SLOT {
            self.allocate_chunk();
        }
        let number = self.with_room;
        let chunk = self.chunk_mut(number);
        let free = chunk.slots.iter().position(Option::is_none);
        let free = free.expect("a chunk in the list of chunks with room has a free slot");
        chunk.slots[free] = Some(value);
        chunk.used += 1;
        if chunk.used == CHUNK_SLOTS {
            self.unlink(number);
        }
        self.length += 1;
        number * CHUNK_SLOTS as u32 + free as u32
    }

    /// Takes an entry out; its slot is free.
    ///
    /// # Panics
    /// The slot is free already.
    pub fn remove(&mut self, slot: u32) -> T {
        let number = slot / CHUNK_SLOTS as u32;
        let chunk = self.chunk_mut(number);
        let value =
            chunk.slots[slot as usize % CHUNK_SLOTS].take().expect("a slot that is removed is in use");
        chunk.used -= 1;
        let used = chunk.used;
        if used == CHUNK_SLOTS - 1 {
            self.link(number);
        }
        self.length -= 1;
        if self.length == 0 {
            *self = Slots::new();
        } else if used == 0 {
            self.unlink(number);
            self.chunks[number as usize] = None;
            push_to_list(&mut self.unallocated, number);
        }
        value
    }

    /// The entry in a slot.
    pub fn get(&self, slot: u32) -> Option<&T> {
        let chunk = self.chunks.get(slot as usize / CHUNK_SLOTS)?.as_ref()?;
        chunk.slots[slot as usize % CHUNK_SLOTS].as_ref()
    }

    /// The entry in a slot, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK_SLOTS)?.as_mut()?;
        chunk.slots[slot as usize % CHUNK_SLOTS].as_mut()
    }

    /// The first slot from `slot` on that is not in a chunk without entries.
    pub(crate) fn skip_unallocated(&self, slot: u32) -> u32 {
        match self.chunks.get(slot as usize / CHUNK_SLOTS) {
            Some(None) => (slot / CHUNK_SLOTS as u32 + 1) * CHUNK_SLOTS as u32,
            _ => slot,
        }
    }

    /// All entries with their slots, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    fn chunk_mut(&mut self, number: u32) -> &mut Chunk<T> {
        let chunk = self.chunks.get_mut(number as usize).and_then(Option::as_mut);
        chunk.expect("a chunk that has entries is allocated")
    }

    fn allocate_chunk(&mut self) {
        let chunk = Chunk { slots: array::from_fn(|_| None), used: 0, previous: NO_SLOT, next: NO_SLOT };
        let number = self.unallocated.pop().unwrap_or_else(|| {
            push_to_list(&mut self.chunks, None);
            self.chunks.len() as u32 - 1
        });
        assert!(number < NO_SLOT / CHUNK_SLOTS as u32, "the slots' numbers are used up");
        self.chunks[number as usize] = Some(Box::new(chunk));
        self.link(number);
    }

    fn link(&mut self, number: u32) {
        let next = std::mem::replace(&mut self.with_room, number);
        let chunk = self.chunk_mut(number);
        (chunk.previous, chunk.next) = (NO_SLOT, next);
        if next != NO_SLOT {
            self.chunk_mut(next).previous = number;
        }
    }

    fn unlink(&mut self, number: u32) {
        let chunk = self.chunk_mut(number);
        let (previous, next) = (chunk.previous, chunk.next);
        if previous == NO_SLOT {
            self.with_room = next;
        } else {
            self.chunk_mut(previous).next = next;
        }
        if next != NO_SLOT {
            self.chunk_mut(next).previous = previous;
        }
    }

    /// Checks what must always hold; for tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.iter().count(), self.length, "entries in the slots");
        let free = self.chunks.iter().filter(|chunk| chunk.is_none()).count();
        assert_eq!(free, self.unallocated.len(), "chunks that are not allocated");
        let mut room: Vec<u32> = Vec::new();
        let mut number = self.with_room;
        while number != NO_SLOT {
            room.push(number);
            number = self.chunks[number as usize].as_ref().map_or(NO_SLOT, |chunk| chunk.next);
        }
        room.sort_unstable();
        let has_room = |chunk: &Chunk<T>| {
            let used = chunk.slots.iter().flatten().count();
            assert_eq!(used, chunk.used, "used slots of a chunk");
            assert!(used > 0, "a chunk without entries is not allocated");
            used < CHUNK_SLOTS
        };
        let all = self.chunks.iter().enumerate();
        let expected: Vec<u32> = all
            .filter(|(_, chunk)| chunk.as_ref().is_some_and(|chunk| has_room(chunk)))
            .map(|(number, _)| number as u32)
            .collect();
        assert_eq!(room, expected, "the list of chunks with room");
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        self.get(slot).expect("the slot is in use")
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.get_mut(slot).expect("the slot is in use")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_numbers_and_chunks_go_when_they_are_empty() {
        let mut slots = Slots::new();
        let numbers: Vec<u32> = (0..1_000).map(|value| slots.insert(value)).collect();
        slots.check();
        for (value, slot) in numbers.iter().enumerate() {
            if value % 50 != 0 {
                assert_eq!(slots.remove(*slot), value);
            }
            slots.check();
        }
        assert_eq!(slots.len(), 20);
        for value in (0..1_000).step_by(50) {
            assert_eq!(slots[numbers[value]], value);
        }
        assert!(slots.bytes() < 20 * size_of::<Chunk<usize>>() + 2_000, "{}", slots.bytes());
        // New entries take what is free.
        let end = slots.end();
        let reused: Vec<u32> = (0..980).map(|value| slots.insert(value)).collect();
        slots.check();
        assert_eq!(slots.end(), end, "free slots are taken before new ones");
        assert!(reused.iter().all(|slot| *slot < end));
        for slot in (0..end).collect::<Vec<_>>() {
            if slots.get(slot).is_some() {
                slots.remove(slot);
            }
        }
        assert_eq!((slots.len(), slots.bytes(), slots.end()), (0, 0, 0));
    }
}
