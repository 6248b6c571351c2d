//! A table by small numbers, such as slots and descriptors, of which few may have an entry.
//!
//! The entries are in chunks, and a chunk is there only while one of its numbers has an entry. So the table
//! grows and shrinks piece by piece, and an entry takes its own bytes and a tenth of a byte.

/// Numbers of one chunk. A chunk is an allocation without anything beside its entries.
pub(crate) const CHUNK: usize = 256;

/// Entries by number.
///
/// ```text
///   chunks    [ 0..256: 3 used | nothing | 512..768: 256 used ]
/// ```
pub(crate) struct ChunkTable<T> {
    /// The last one has an entry.
    chunks: Vec<Chunk<T>>,
}

struct Chunk<T> {
    /// How many numbers have an entry.
    used: usize,
    /// By number. Empty where none is used.
    entries: Box<[Option<T>]>,
}

impl<T> Default for ChunkTable<T> {
    fn default() -> ChunkTable<T> {
        ChunkTable { chunks: Vec::new() }
    }
}

fn position(number: u32) -> (usize, usize) {
    (number as usize / CHUNK, number as usize % CHUNK)
}

impl<T> ChunkTable<T> {
    /// What an entry takes in a chunk, in bytes.
    pub(crate) const ENTRY_BYTES: usize = size_of::<Option<T>>();

    /// Whether no number has an entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The number of places for chunks. A place between two chunks may be empty.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The entry of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (chunk, index) = position(number);
        self.chunks.get(chunk)?.entries.get(index)?.as_ref()
    }

    /// Gives a number its entry. It has none.
    pub(crate) fn insert(&mut self, number: u32, entry: T) {
        let (chunk, index) = position(number);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || Chunk { used: 0, entries: Box::default() });
        }
        let chunk = &mut self.chunks[chunk];
        if chunk.used == 0 {
            // Not as an array, which would be on the stack first.
            chunk.entries = (0..CHUNK).map(|_| None).collect();
        }
        debug_assert!(chunk.entries[index].is_none(), "an entry goes before another gets its number");
        chunk.entries[index] = Some(entry);
        chunk.used += 1;
    }

    /// Removes the entry of a number, if it has one and this is it.
    pub(crate) fn remove_if(&mut self, number: u32, is_it: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let (chunk, index) = position(number);
        let chunk = self.chunks.get_mut(chunk)?;
        let entry = chunk.entries.get_mut(index)?.take_if(is_it)?;
        chunk.used -= 1;
        if chunk.used == 0 {
            chunk.entries = Box::default();
            while self.chunks.last().is_some_and(|last| last.used == 0) {
                self.chunks.pop();
            }
            if self.chunks.is_empty() {
                self.chunks = Vec::new();
            }
        }
        Some(entry)
    }

    /// The entries of a chunk with their numbers, in their order.
    pub(crate) fn chunk_mut(&mut self, chunk: usize) -> impl Iterator<Item = (u32, &mut T)> {
        let entries = self.chunks.get_mut(chunk).map(|chunk| chunk.entries.iter_mut());
        let entries = entries.into_iter().flatten().enumerate();
        entries.filter_map(move |(index, entry)| Some(((chunk * CHUNK + index) as u32, entry.as_mut()?)))
    }

    /// All entries with their numbers, in their order.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(number, chunk)| {
            assert_eq!(chunk.entries.iter().flatten().count(), chunk.used, "entries of a chunk");
            let used = chunk.entries.iter().enumerate();
            let used = used.filter_map(|(index, entry)| Some((index, entry.as_ref()?)));
            used.map(move |(index, entry)| ((number * CHUNK + index) as u32, entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_removed_where_it_is_meant_and_gives_its_memory_back() {
        let mut table = ChunkTable::default();
        let numbers = [0, 1, 300, 70_000];
        numbers.iter().for_each(|number| table.insert(*number, *number + 7));
        assert_eq!(table.chunks(), 70_000 / CHUNK + 1);
        assert_eq!(
            [0, 2, 300, 600, 100_000].map(|number| table.get(number).copied()),
            [Some(7), None, Some(307), None, None]
        );
        assert_eq!(table.remove_if(1, |entry| *entry == 7), None, "it is another one");
        assert_eq!([2, 299, 600, 100_000].map(|number| table.remove_if(number, |_| true)), [None; 4]);
        assert_eq!(
            table.iter().map(|(number, entry)| (number, *entry)).collect::<Vec<_>>(),
            numbers.map(|number| (number, number + 7))
        );
        table.chunk_mut(0).for_each(|(_, entry)| *entry *= 2);
        assert_eq!(table.chunk_mut(1).map(|(number, _)| number).collect::<Vec<_>>(), [300]);
        assert_eq!((table.chunk_mut(2).count(), table.chunk_mut(5000).count()), (0, 0));
        for (number, entry) in [(70_000, 70_007), (0, 14), (300, 307), (1, 16)] {
            assert_eq!(table.remove_if(number, |_| true), Some(entry));
            assert_eq!(table.remove_if(number, |_| true), None);
        }
        assert!(table.is_empty() && table.chunks.capacity() == 0);
    }
}
