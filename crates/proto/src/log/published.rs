//! Which retained frames bear an own id: whether an event was published before, and where a subscriber goes
//! on that has an event with this id.
//!
//! An own id belongs to the topics that an event is published to: all of them together. So a publisher can
//! hold up an event of another one only where it may publish to each of that event's topics itself.
//!
//! ```text
//! by key (id and topics)     entries                          by id
//!   "7" of a/1  ----------->  seq 3   <--+  <-------------- "7": the oldest one
//!   "7" of a/2  ----------->  seq 9   <--+  a ring in the order of their numbers
//! ```

use std::num::NonZeroU64;
use std::sync::Arc;

use super::Log;
use crate::event::{Event, Topic};
use crate::frame::{Frame, identity_key};
use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::{NO_SLOT, Slots};

/// The retained frames with an own id, by that id and their topics, and by the id alone.
pub(super) struct PublishedIds {
    entries: Slots<PublishedId>,
    by_key: SlotTable,
    /// The oldest frame with an id, by the hash of the id.
    by_id: SlotTable,
}

struct PublishedId {
    key: u64,
    /// Of the id alone. Two ids with one hash share a ring.
    id_hash: u64,
    seq: NonZeroU64,
    /// The neighbours among the frames with this id, which are a ring: before the oldest one is the newest.
    older: u32,
    newer: u32,
}

impl PublishedIds {
    pub(super) fn new() -> PublishedIds {
        PublishedIds { entries: Slots::new(), by_key: SlotTable::new(), by_id: SlotTable::new() }
    }

    /// The memory of the tables, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + self.by_key.bytes() + self.by_id.bytes()
    }

    /// Frames in the table.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Notes that the frame, which is newer than all others, is retained from now on, if it has an own id.
    pub(super) fn add(&mut self, frame: &Frame, keys: HashKeys) {
        let (Some(key), Some(seq)) = (key_of_frame(frame, keys), NonZeroU64::new(frame.seq())) else {
            return;
        };
        let id_hash = keys.hash(frame.own_id().unwrap_or_default());
        let oldest = self.oldest(id_hash);
        let slot = self.entries.insert(PublishedId { key, id_hash, seq, older: NO_SLOT, newer: NO_SLOT });
        let (older, newer) = match oldest {
            Some(oldest) => (self.entries[oldest].older, oldest),
            None => (slot, slot),
        };
        (self.entries[slot].older, self.entries[slot].newer) = (older, newer);
        (self.entries[older].newer, self.entries[newer].older) = (slot, slot);
        let entries = &self.entries;
        self.by_key.insert(key, slot, |slot| entries[slot].key);
        if oldest.is_none() {
            self.by_id.insert(id_hash, slot, |slot| entries[slot].id_hash);
        }
    }

    /// Notes that no topic retains the frame any more.
    pub(super) fn remove(&mut self, frame: &Frame, keys: HashKeys) {
        let Some(key) = key_of_frame(frame, keys) else { return };
        let Some(slot) = self.find(key, |seq| seq == frame.seq()) else { return };
        let (id_hash, entries) = (self.entries[slot].id_hash, &self.entries);
        self.by_key.remove(key, slot, |slot| entries[slot].key);
        let is_oldest = self.oldest(id_hash) == Some(slot);
        if is_oldest {
            self.by_id.remove(id_hash, slot, |slot| entries[slot].id_hash);
        }
        let PublishedId { older, newer, .. } = self.entries.remove(slot);
        if newer == slot {
            return;
        }
        (self.entries[older].newer, self.entries[newer].older) = (newer, older);
        if is_oldest {
            let entries = &self.entries;
            self.by_id.insert(id_hash, newer, |slot| entries[slot].id_hash);
        }
    }

    /// The numbers of the frames that bear this id, in order, with those of ids that have the same hash.
    pub(super) fn with_id(&self, id: &str, keys: HashKeys) -> impl Iterator<Item = u64> {
        let oldest = self.oldest(keys.hash(id));
        let mut next = oldest;
        std::iter::from_fn(move || {
            let entry = &self.entries[next?];
            next = Some(entry.newer).filter(|newer| Some(*newer) != oldest);
            Some(entry.seq.get())
        })
    }

    /// Whether the frame is in the table; for tests.
    pub(super) fn has(&self, frame: &Frame, keys: HashKeys) -> bool {
        key_of_frame(frame, keys).is_some_and(|key| self.find(key, |seq| seq == frame.seq()).is_some())
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.entries.check();
        self.by_key.check(|slot| self.entries[slot].key);
        self.by_id.check(|slot| self.entries[slot].id_hash);
        assert_eq!(self.by_key.len(), self.entries.len(), "frames by their ids and topics");
        let mut rings = 0;
        for (slot, entry) in self.entries.iter() {
            assert_eq!(self.entries[entry.newer].older, slot, "neighbours with one id");
            let is_oldest = self.entries[entry.older].seq >= entry.seq;
            assert_eq!(self.oldest(entry.id_hash) == Some(slot), is_oldest, "the oldest frame with an id");
            rings += usize::from(is_oldest);
        }
        assert_eq!(self.by_id.len(), rings, "ids");
    }

    /// The oldest frame with an id that has this hash.
    fn oldest(&self, id_hash: u64) -> Option<u32> {
        self.by_id.find(id_hash, |slot| self.entries[slot].id_hash == id_hash)
    }

    /// The frame with this key whose number is wanted.
    fn find(&self, key: u64, mut is_it: impl FnMut(u64) -> bool) -> Option<u32> {
        self.by_key.find(key, |slot| {
            let entry = &self.entries[slot];
            entry.key == key && is_it(entry.seq.get())
        })
    }
}

impl Log {
    /// The retained frame that was published with this event's own id to exactly this event's topics, in
    /// whatever order they were given: the same event, if [`Frame::says_the_same`]. Where a log outside of
    /// the process has given several frames this id, one of them.
    ///
    /// `None`: the event has no own id, or no topic retains such a frame.
    pub fn published(&self, event: &Event) -> Option<&Arc<Frame>> {
        let id = event.id()?.as_str();
        self.published_with_key(event, key_of(id, event.topics(), self.keys))
    }

    /// The same, where [`Log::own_id_key`] of the event is known.
    pub fn published_with_key(&self, event: &Event, key: u64) -> Option<&Arc<Frame>> {
        let mut found = None;
        self.published_ids.find(key, |seq| {
            found = self.frame_of(event.topics(), seq).filter(|frame| frame.has_identity_of(event));
            found.is_some()
        });
        found
    }

    /// A number for an own id and the topics that it belongs to, in whatever order: different for most
    /// others.
    pub fn own_id_key(&self, id: &str, topics: &[Topic]) -> u64 {
        key_of(id, topics, self.keys)
    }

    /// [`Log::own_id_key`] of a frame that bears an own id.
    pub fn own_id_key_of(&self, frame: &Frame) -> Option<u64> {
        key_of_frame(frame, self.keys)
    }

    /// The frame with this number that one of these topics retains.
    fn frame_of(&self, topics: &[Topic], seq: u64) -> Option<&Arc<Frame>> {
        let slots = topics.iter().filter_map(|topic| self.find(topic));
        let retained = slots.filter_map(|slot| self.topics[slot].retained.as_deref());
        let mut queues = retained.flat_map(|retained| retained.queues(true));
        queues.find_map(|queue| {
            let index = queue.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
            Some(&queue[index].1)
        })
    }
}

fn key_of(id: &str, topics: &[Topic], keys: HashKeys) -> u64 {
    // The keys of the hash are secret, so no publisher can choose it.
    identity_key(keys.hash(id), topics.iter().map(|topic| keys.hash(topic.as_str())))
}

/// The key of a frame that bears an own id.
fn key_of_frame(frame: &Frame, keys: HashKeys) -> Option<u64> {
    Some(key_of(frame.own_id()?, frame.topics(), keys))
}
