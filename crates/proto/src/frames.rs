//! The frames that a shard is delivering, each stored once however many audiences are to get it.
//!
//! A frame is shared by all shards, and every clone of its [`Arc`] writes to memory that they share. One
//! event may have to be marked in a million audiences, so audiences count their references here, in memory
//! that no other shard touches. A shard takes over the `Arc` of its mail, and a laggard clones each frame
//! that it reads.

use std::sync::Arc;

use slab::Slab;

use crate::frame::Frame;
use crate::segments::{SegmentTable, hash_of_number};
use crate::shrink::drop_if_empty;

/// A frame's index in the store. It is valid until its last reference is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKey(u32);

/// The frames that a shard is delivering, with the number of references to each.
#[derive(Default)]
pub struct FrameStore {
    table: Slab<Entry>,
    /// The frames that some link has begun, by their number. Each is in the store once, also where several
    /// laggards have read it from the log one after the other.
    by_seq: SegmentTable<FrameKey>,
    bytes: usize,
    begun_bytes: usize,
    references: usize,
}

struct Entry {
    frame: Arc<Frame>,
    references: u32,
    /// Those of the references that belong to links which have begun the frame.
    begun: u32,
}

impl FrameStore {
    /// Takes a frame in, with one reference that belongs to the caller.
    pub fn insert(&mut self, frame: Arc<Frame>) -> FrameKey {
        self.bytes += frame.size();
        self.references += 1;
        FrameKey(self.table.insert(Entry { frame, references: 1, begun: 0 }) as u32)
    }

    /// Adds a reference.
    pub fn add_reference(&mut self, key: FrameKey) -> FrameKey {
        self.table[key.0 as usize].references += 1;
        self.references += 1;
        key
    }

    /// Ends a reference. The frame leaves the store with its last one.
    pub fn drop_reference(&mut self, key: FrameKey) {
        let entry = &mut self.table[key.0 as usize];
        entry.references -= 1;
        self.references -= 1;
        if entry.references == 0 {
            self.bytes -= entry.frame.size();
            self.table.remove(key.0 as usize);
            drop_if_empty(&mut self.table);
        }
    }

    /// Adds a reference for a link that has begun the frame and must finish it, and answers under which key:
    /// another link may have begun the same frame under another one.
    pub fn add_begun_reference(&mut self, key: FrameKey) -> FrameKey {
        let seq = self.seq(key);
        let found =
            self.by_seq.find(hash_of_number(seq), |other| self.table[other.0 as usize].frame.seq() == seq);
        let key = found.copied().unwrap_or(key);
        let entry = &mut self.table[key.0 as usize];
        entry.begun += 1;
        if entry.begun == 1 {
            self.begun_bytes += entry.frame.size();
            let table = &self.table;
            self.by_seq.insert(hash_of_number(seq), key, |other| {
                hash_of_number(table[other.0 as usize].frame.seq())
            });
        }
        self.add_reference(key)
    }

    /// Ends a reference of [`FrameStore::add_begun_reference`].
    pub fn drop_begun_reference(&mut self, key: FrameKey) {
        let entry = &mut self.table[key.0 as usize];
        entry.begun -= 1;
        if entry.begun == 0 {
            self.begun_bytes -= entry.frame.size();
            let table = &self.table;
            let hash_of = |other: &FrameKey| hash_of_number(table[other.0 as usize].frame.seq());
            self.by_seq.remove(hash_of(&key), |other| *other == key, hash_of);
        }
        self.drop_reference(key);
    }

    /// What each link that has begun this frame has as its share of it, in bytes.
    pub fn begun_share(&self, key: FrameKey) -> usize {
        let entry = &self.table[key.0 as usize];
        entry.frame.size() / entry.begun.max(1) as usize
    }

    /// Bytes of the frames that some link has begun, each counted once.
    pub fn begun_bytes(&self) -> usize {
        self.begun_bytes
    }

    /// The frame.
    pub fn get(&self, key: FrameKey) -> &Arc<Frame> {
        &self.table[key.0 as usize].frame
    }

    /// The frame's number.
    pub fn seq(&self, key: FrameKey) -> u64 {
        self.get(key).seq()
    }

    /// Bytes of the frames in the store, each counted once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// References to frames, all together.
    pub fn references(&self) -> usize {
        self.references
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no frame is in it.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Checks that the sums are right; for tests.
    ///
    /// # Panics
    /// They are not.
    pub fn check(&self) {
        let bytes: usize = self.table.iter().map(|(_, entry)| entry.frame.size()).sum();
        assert_eq!(self.bytes, bytes, "bytes of the frames in the store");
        let references: usize = self.table.iter().map(|(_, entry)| entry.references as usize).sum();
        assert_eq!(self.references, references, "references to the frames in the store");
        let begun = self.table.iter().filter(|(_, entry)| entry.begun > 0);
        let begun_bytes: usize = begun.map(|(_, entry)| entry.frame.size()).sum();
        assert_eq!(self.begun_bytes, begun_bytes, "bytes of the frames that were begun");
        assert!(self.table.iter().all(|(_, entry)| entry.references > 0), "a frame without a reference");
        let begun = self.table.iter().filter(|(_, entry)| entry.begun > 0);
        assert_eq!(self.by_seq.len(), begun.count(), "frames that were begun, by their number");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, Topic};

    #[test]
    fn a_frame_leaves_with_its_last_reference() {
        let event = Event::new(Topic::new("a").unwrap()).with_data("x");
        let frame = Arc::new(Frame::encode(1, "1", event, Duration::ZERO));
        let mut store = FrameStore::default();
        let key = store.insert(Arc::clone(&frame));
        let other = store.add_reference(key);
        store.drop_reference(key);
        assert_eq!((store.len(), store.bytes(), store.seq(other)), (1, frame.size(), 1));
        store.check();
        store.drop_reference(other);
        assert!(store.is_empty() && store.bytes() == 0 && store.references() == 0);
        assert_eq!(Arc::strong_count(&frame), 1);
    }

    /// Each laggard reads from the log by itself. A frame that a hundred of them were in the middle of
    /// counted a hundred times against the bound of what links have begun, and slow subscribers were
    /// disconnected for memory that was not used.
    #[test]
    fn a_frame_that_several_links_have_begun_is_stored_once() {
        let event = Event::new(Topic::new("a").unwrap()).with_data("x".repeat(1000));
        let frame = Arc::new(Frame::encode(7, "7", event, Duration::ZERO));
        let mut store = FrameStore::default();
        let begun: Vec<FrameKey> = (0..100)
            .map(|_| {
                let read = store.insert(Arc::clone(&frame));
                let begun = store.add_begun_reference(read);
                store.drop_reference(read);
                store.check();
                begun
            })
            .collect();
        assert_eq!((store.len(), store.bytes(), store.begun_bytes()), (1, frame.size(), frame.size()));
        for key in begun {
            store.drop_begun_reference(key);
            store.check();
        }
        assert!(store.is_empty() && store.begun_bytes() == 0);
    }
}
