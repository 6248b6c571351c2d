//! What was begun on links and is not sent yet.
//!
//! It belongs to the link and not to a stream, because nothing else may be written to a socket before it is
//! finished. Few links have something unsent, so it is in a table of its own, and an idle link costs nothing
//! here. The table also counts the memory that these bytes hold: one budget of the shard bounds it.

use std::cmp::Reverse;
use std::time::Duration;

use crate::frames::{FrameKey, FrameStore};
use crate::link::Encoding;
use crate::segments::{SegmentTable, hash_of_number};
use crate::shrink::shrink_buffer;

/// Bytes that were begun on a link and must go out before anything else.
#[derive(Debug)]
pub struct Unsent {
    source: Source,
    offset: usize,
}

#[derive(Debug)]
enum Source {
    Frame(FrameKey, Encoding),
    Own(Box<[u8]>),
    Static(&'static [u8]),
}

impl Unsent {
    /// The rest of a frame from `offset` on. It has a reference of its own to the frame.
    pub fn frame(key: FrameKey, encoding: Encoding, offset: usize, store: &mut FrameStore) -> Unsent {
        Unsent { source: Source::Frame(store.add_begun_reference(key), encoding), offset }
    }

    /// The rest of bytes that belong to one link alone (a response head, a gap event).
    pub fn own(bytes: Box<[u8]>, offset: usize) -> Unsent {
        Unsent { source: Source::Own(bytes), offset }
    }

    /// The rest of constant bytes (a heartbeat).
    pub fn constant(bytes: &'static [u8], offset: usize) -> Unsent {
        Unsent { source: Source::Static(bytes), offset }
    }

    /// What is still to be sent.
    pub fn bytes<'bytes>(&'bytes self, store: &'bytes FrameStore) -> &'bytes [u8] {
        let all = match &self.source {
            Source::Frame(key, encoding) => store.get(*key).wire(*encoding),
            Source::Own(bytes) => bytes,
            Source::Static(bytes) => bytes,
        };
        &all[self.offset..]
    }

    /// The cursor of the stream that these bytes are of when they are out, where they are a frame's.
    pub fn seq(&self, store: &FrameStore) -> Option<u64> {
        match self.source {
            Source::Frame(key, _) => Some(store.seq(key)),
            Source::Own(_) | Source::Static(_) => None,
        }
    }

    /// When the event was published that these bytes are of, by the hub's clock, where they are a frame's.
    pub fn published(&self, store: &FrameStore) -> Option<Duration> {
        match self.source {
            Source::Frame(key, _) => Some(store.get(key).published()),
            Source::Own(_) | Source::Static(_) => None,
        }
    }

    /// What would be free if the link were closed, in bytes: of a frame that several links have begun, its
    /// share.
    fn share(&self, store: &FrameStore) -> usize {
        match &self.source {
            Source::Frame(key, _) => store.begun_share(*key),
            Source::Own(bytes) => bytes.len(),
            Source::Static(_) => 0,
        }
    }

    /// Bytes that nothing else holds: those of a frame are counted in the store.
    fn own_bytes(&self) -> usize {
        match &self.source {
            Source::Own(bytes) => bytes.len(),
            Source::Frame(..) | Source::Static(_) => 0,
        }
    }

    /// Ends the reference to a frame, if it has one.
    pub fn drop_reference(self, store: &mut FrameStore) {
        if let Source::Frame(key, _) = self.source {
            store.drop_begun_reference(key);
        }
    }
}

/// The links of a shard that have something unsent.
#[derive(Default)]
pub struct UnsentTable {
    /// The link's slot with its bytes, in no order.
    entries: Vec<(u32, Unsent)>,
    /// Indexes of `entries`, by the link's slot.
    by_link: SegmentTable<u32>,
    /// Bytes that are not of frames.
    own_bytes: usize,
}

impl UnsentTable {
    /// What is unsent on the link in this slot.
    pub fn get(&self, link: u32) -> Option<&Unsent> {
        self.find(link).map(|index| &self.entries[index].1)
    }

    /// How many links have something unsent.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no link has something unsent.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something was begun on the link in this slot that must be finished before anything else is
    /// written to it.
    pub fn contains(&self, link: u32) -> bool {
        self.find(link).is_some()
    }

    /// Notes what was begun on a link.
    ///
    /// # Panics
    /// Something is unsent on it already: nothing else was to be begun.
    pub fn insert(&mut self, link: u32, unsent: Unsent) {
        assert!(!self.contains(link), "a link finishes what it has begun before it begins something else");
        self.own_bytes += unsent.own_bytes();
        let index = self.entries.len() as u32;
        self.entries.push((link, unsent));
        let entries = &self.entries;
        self.by_link.insert(hash(link), index, |&index| hash(entries[index as usize].0));
    }

    /// Takes what is unsent on a link out, where all of it went out or never will.
    pub fn take(&mut self, link: u32) -> Option<Unsent> {
        let entries = &self.entries;
        let is_it = |index: &u32| entries[*index as usize].0 == link;
        let index = self.by_link.remove(hash(link), is_it, |&index| hash(entries[index as usize].0))?;
        let last = self.entries.len() as u32 - 1;
        if index != last {
            // The last one gets its index.
            let moved = hash(self.entries[last as usize].0);
            if let Some(its) = self.by_link.find_mut(moved, |its| *its == last) {
                *its = index;
            }
        }
        let (_, unsent) = self.entries.swap_remove(index as usize);
        self.own_bytes -= unsent.own_bytes();
        shrink_buffer(&mut self.entries);
        Some(unsent)
    }

    /// Notes that `sent` more bytes of a link's piece went out, but not all.
    pub fn advance(&mut self, link: u32, sent: usize) {
        if let Some(index) = self.find(link) {
            self.entries[index].1.offset += sent;
        }
    }

    /// The memory that links hold with what they have begun, in bytes: each frame once.
    pub fn memory_bytes(&self, store: &FrameStore) -> usize {
        store.begun_bytes() + self.own_bytes
    }

    /// Of a sample of `count` links from `from` on, the slot of the one whose end would free most; of
    /// several, of the one that began the oldest frame. It cannot be told of a gap in the middle of a frame.
    /// A crowd that shares one frame holds little each, so it is not ended for what one other link holds.
    pub fn largest_share(&self, from: usize, count: usize, store: &FrameStore) -> Option<u32> {
        let length = self.entries.len();
        let sample = (0..count.min(length)).map(|offset| &self.entries[from.wrapping_add(offset) % length]);
        let rank = |(_, unsent): &&(u32, Unsent)| (unsent.share(store), Reverse(unsent.seq(store)));
        sample.max_by_key(rank).map(|(link, _)| *link)
    }

    fn find(&self, link: u32) -> Option<usize> {
        let is_it = |index: &u32| self.entries[*index as usize].0 == link;
        self.by_link.find(hash(link), is_it).map(|&index| index as usize)
    }

    /// Checks that the sums and indexes are right; for tests.
    ///
    /// # Panics
    /// They are not.
    pub fn check(&self, store: &FrameStore) {
        let own: usize = self.entries.iter().map(|(_, unsent)| unsent.own_bytes()).sum();
        assert_eq!(self.own_bytes, own, "bytes of unsent pieces");
        assert_eq!(self.by_link.len(), self.entries.len(), "links with something unsent");
        for (index, (link, unsent)) in self.entries.iter().enumerate() {
            assert_eq!(self.find(*link), Some(index), "the index of a link with something unsent");
            assert!(!unsent.bytes(store).is_empty(), "nothing is unsent");
        }
    }

    /// The slots of the links with something unsent, in no order; for tests.
    pub fn links(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|(link, _)| *link)
    }
}

fn hash(link: u32) -> u64 {
    hash_of_number(u64::from(link))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Every link finds its own bytes, whichever links came and left before.
    #[test]
    fn each_link_keeps_its_own_bytes() {
        let store = FrameStore::default();
        let (mut table, mut model) = (UnsentTable::default(), BTreeMap::new());
        let mut number = 1_u32;
        for step in 0..4_000_u32 {
            // A full cycle of a linear congruential generator: every number below 512, mixed.
            number = (number * 5 + 3) % 512;
            if let Some(length) = model.remove(&number) {
                let bytes = table.take(number).map(|unsent| unsent.bytes(&store).len());
                assert_eq!(bytes, Some(length), "link {number}");
            } else if step % 5 > 0 {
                let length = 2 + number as usize % 7;
                table.insert(number, Unsent::own(vec![0; length].into(), 0));
                table.advance(number, 1);
                model.insert(number, length - 1);
            }
            table.check(&store);
            assert!(table.links().all(|link| model.contains_key(&link)));
            assert_eq!(table.links().count(), model.len());
            assert!((0..512).all(|link| table.contains(link) == model.contains_key(&link)));
        }
        for (link, length) in model {
            assert_eq!(table.take(link).map(|unsent| unsent.bytes(&store).len()), Some(length));
        }
        assert!(table.take(1).is_none() && table.memory_bytes(&store) == 0);
    }

    #[test]
    #[should_panic(expected = "a link finishes what it has begun")]
    fn nothing_is_begun_before_the_rest_is_out() {
        let mut table = UnsentTable::default();
        table.insert(3, Unsent::constant(b"ab", 1));
        table.insert(3, Unsent::constant(b"cd", 1));
    }
}
