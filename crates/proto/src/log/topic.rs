//! One topic of the log: its name, its readers, and the frames that it owns.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dropped::Dropped;
use super::own_ids::OwnIds;
use super::shards::ShardSet;
use crate::event::Topic;
use crate::frame::Frame;
use crate::shrink::{push, shrink_queue};
use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::{NO_SLOT, Slots};

/// A topic that has frames or readers.
pub(super) struct TopicEntry {
    pub(super) name: Topic,
    /// The hash of the name.
    pub(super) hash: u64,
    /// The shards that read it.
    pub(super) readers: ShardSet,
    pub(super) dropped: Dropped,
    /// Boxed, so that a topic that is only read costs one word here.
    pub(super) retained: Option<Box<RetainedFrames>>,
}

/// What a topic that has frames has in addition.
pub(super) struct RetainedFrames {
    public: FrameQueue,
    /// Apart, so that a subscriber without a grant never reads private frames.
    private: Option<Box<FrameQueue>>,
    /// Of public and of private frames.
    own_ids: [Option<Box<OwnIds>>; 2],
    /// The sum of the frames' sizes.
    pub(super) frame_bytes: usize,
    /// Which retention it has: an index into the log's rules.
    pub(super) rule: u32,
    /// This topic's entry in the queue by age; zero: it has none.
    pub(super) expiry_stamp: u32,
    /// That entry is due at once, because the topic has more than its retention covers.
    pub(super) is_due_at_once: bool,
    /// The size class, and the neighbours in its ring.
    pub(super) class: u8,
    pub(super) previous: u32,
    pub(super) next: u32,
}

/// Frames in order, each with its `seq` beside it, so that a search does not touch them.
pub(super) type FrameQueue = VecDeque<(u64, Arc<Frame>)>;

/// The counters before a shared text, and what its length is rounded up by.
pub(super) const SHARED_TEXT_BYTES: usize = 2 * size_of::<usize>() + size_of::<usize>() - 1;

/// The memory of a frame, in bytes: an upper bound, also of what is behind pointers.
pub(super) fn frame_memory(frame: &Frame) -> usize {
    const COUNTERS_BYTES: usize = 2 * size_of::<usize>();
    frame.size() + COUNTERS_BYTES + frame.topics().len() * (size_of::<usize>() - 1)
}

impl TopicEntry {
    /// The part of an entry that is in tables, which may have more room than they use.
    pub(super) const TABLE_BYTES: usize = Slots::<TopicEntry>::ENTRY_BYTES + SlotTable::ENTRY_BYTES;

    /// The memory of the entry without its frames and readers, in bytes: the slot, its entries in tables, the
    /// name.
    pub(super) fn bytes(&self) -> usize {
        TopicEntry::bytes_of(&self.name)
    }

    /// The same for an entry with this name.
    pub(super) fn bytes_of(name: &Topic) -> usize {
        TopicEntry::TABLE_BYTES + SHARED_TEXT_BYTES + name.as_str().len()
    }

    /// The bytes that the topic is charged with when room is made: its frames in full, also those that other
    /// topics hold too, and everything else that it takes.
    pub(super) fn charge(&self) -> usize {
        self.retained
            .as_ref()
            .map_or(0, |retained| retained.frame_bytes + retained.overhead_bytes() + self.bytes())
    }
}

impl RetainedFrames {
    pub(super) fn new(rule: u32) -> RetainedFrames {
        RetainedFrames {
            public: FrameQueue::new(),
            private: None,
            own_ids: [None, None],
            frame_bytes: 0,
            rule,
            expiry_stamp: 0,
            is_due_at_once: false,
            class: 0,
            previous: NO_SLOT,
            next: NO_SLOT,
        }
    }

    /// The memory that this is, without the frames themselves.
    pub(super) fn overhead_bytes(&self) -> usize {
        let queue_bytes = |queue: &FrameQueue| queue.capacity() * size_of::<(u64, Arc<Frame>)>();
        let private = self.private.as_ref().map_or(0, |queue| size_of::<FrameQueue>() + queue_bytes(queue));
        let own_ids: usize = self.own_ids.iter().flatten().map(|own_ids| own_ids.bytes()).sum();
        size_of::<RetainedFrames>() + queue_bytes(&self.public) + private + own_ids
    }

    pub(super) fn len(&self) -> usize {
        self.public.len() + self.private.as_ref().map_or(0, |queue| queue.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.public.is_empty() && self.private.is_none()
    }

    /// Adds a frame that is newer than all others.
    pub(super) fn push(&mut self, frame: Arc<Frame>, keys: HashKeys) {
        self.frame_bytes += frame.size();
        if let Some(id) = frame.own_id() {
            let own_ids = &mut self.own_ids[usize::from(frame.private())];
            own_ids.get_or_insert_with(|| Box::new(OwnIds::new())).add(id, frame.seq(), keys);
        }
        let queue = match frame.private() {
            true => self.private.get_or_insert_default(),
            false => &mut self.public,
        };
        push(queue, (frame.seq(), frame));
    }

    /// The oldest frame.
    pub(super) fn oldest(&self) -> Option<&Arc<Frame>> {
        let fronts = self.queues(true).filter_map(VecDeque::front);
        fronts.min_by_key(|(seq, _)| *seq).map(|(_, frame)| frame)
    }

    /// The `seq` of the newest frame.
    pub(super) fn newest_seq(&self) -> Option<u64> {
        self.queues(true).filter_map(VecDeque::back).map(|(seq, _)| *seq).max()
    }

    /// Takes the oldest frame out.
    pub(super) fn pop_oldest(&mut self, keys: HashKeys) -> Option<Arc<Frame>> {
        let first_private = self.private.as_ref().and_then(|queue| queue.front()).map(|(seq, _)| *seq);
        let first_public = self.public.front().map(|(seq, _)| *seq);
        let is_private = first_private.is_some_and(|private| first_public.is_none_or(|seq| private < seq));
        let frame = if is_private {
            let queue = self.private.as_mut()?;
            let popped = pop(queue);
            if queue.is_empty() {
                self.private = None;
            }
            popped
        } else {
            pop(&mut self.public)
        }?;
        self.frame_bytes -= frame.size();
        let of_kind = &mut self.own_ids[usize::from(frame.private())];
        if let (Some(id), Some(own_ids)) = (frame.own_id(), &mut *of_kind) {
            own_ids.remove(id, keys);
            if own_ids.len() == 0 {
                *of_kind = None;
            }
        }
        Some(frame)
    }

    /// The frames that a subscriber gets: the private ones only with a grant.
    pub(super) fn queues(&self, sees_private: bool) -> impl Iterator<Item = &FrameQueue> {
        let private = self.private.as_deref().filter(|_| sees_private);
        std::iter::once(&self.public).chain(private)
    }

    /// The first frame that bore this id among those that a subscriber gets, while one of these that is
    /// retained does.
    pub(super) fn first_with_own_id(&self, id: &str, sees_private: bool, keys: HashKeys) -> Option<u64> {
        let seen = &self.own_ids[..=usize::from(sees_private)];
        seen.iter().flatten().filter_map(|own_ids| own_ids.first(id, keys)).min()
    }

    /// The own ids of public and of private frames; for tests.
    pub(super) fn own_ids(&self) -> [Option<&OwnIds>; 2] {
        self.own_ids.each_ref().map(Option::as_deref)
    }
}

fn pop(queue: &mut FrameQueue) -> Option<Arc<Frame>> {
    let (_, frame) = queue.pop_front()?;
    shrink_queue(queue);
    Some(frame)
}
