//! Which retained frames bear an own id: whether an event was published before.
//!
//! An own id belongs to the topics that an event is published to: all of them together. So a publisher can
//! hold up an event of another one only where it may publish to each of that event's topics itself.

use std::sync::Arc;

use super::Log;
use crate::event::{Event, Topic};
use crate::frame::Frame;
use crate::segments::SegmentTable;
use crate::slot_table::HashKeys;

/// The retained frames with an own id, by that id and their topics.
pub(super) struct PublishedIds {
    table: SegmentTable<PublishedId>,
}

struct PublishedId {
    key: u64,
    seq: u64,
}

impl PublishedIds {
    pub(super) fn new() -> PublishedIds {
        PublishedIds { table: SegmentTable::new() }
    }

    /// The memory of the table, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Frames in the table.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that the frame is retained from now on, if it has an own id.
    pub(super) fn add(&mut self, frame: &Frame, keys: HashKeys) {
        if let Some(id) = frame.own_id() {
            let (key, seq) = (key_of(id, frame.topics(), keys), frame.seq());
            self.table.insert(key, PublishedId { key, seq }, |it| it.key);
        }
    }

    /// Notes that no topic retains the frame any more.
    pub(super) fn remove(&mut self, frame: &Frame, keys: HashKeys) {
        if let Some(id) = frame.own_id() {
            let key = key_of(id, frame.topics(), keys);
            self.table.remove(key, |it| it.seq == frame.seq(), |it| it.key);
        }
    }

    /// Whether the frame is in the table; for tests.
    pub(super) fn has(&self, frame: &Frame, keys: HashKeys) -> bool {
        let key = frame.own_id().map(|id| key_of(id, frame.topics(), keys));
        key.is_some_and(|key| self.table.find(key, |it| it.seq == frame.seq()).is_some())
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.table.check(|it| it.key);
    }
}

impl Log {
    /// The retained frame that was published with this event's own id to exactly this event's topics, in
    /// whatever order they were given: the same event, if [`Frame::says_the_same`]. Where a log outside of the
    /// process has given several frames this id, one of them.
    ///
    /// `None`: the event has no own id, or no topic retains such a frame.
    pub fn published(&self, event: &Event) -> Option<&Arc<Frame>> {
        let id = event.id()?.as_str();
        self.published_with_key(event, key_of(id, event.topics(), self.keys))
    }

    /// The same, where [`Log::own_id_key`] of the event is known.
    pub fn published_with_key(&self, event: &Event, key: u64) -> Option<&Arc<Frame>> {
        let mut found = None;
        self.published_ids.table.find(key, |it| {
            let frame = self.frame_of(event.topics(), it.seq);
            found = frame.filter(|frame| it.key == key && frame.has_identity_of(event));
            found.is_some()
        });
        found
    }

    /// A number for an own id and the topics that it belongs to, in whatever order: different for most others.
    pub fn own_id_key(&self, id: &str, topics: &[Topic]) -> u64 {
        key_of(id, topics, self.keys)
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
    // A sum does not depend on the order. The keys of the hash are secret, so no publisher can choose it.
    let topics = topics.iter().map(|topic| keys.hash(topic.as_str()));
    keys.hash(id).rotate_left(32) ^ topics.fold(0, u64::wrapping_add)
}
