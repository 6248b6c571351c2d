//! What a subscriber asks: where it starts, and which frames come next.

use std::sync::Arc;

use smallvec::SmallVec;

use super::patterns::LOOK_STEPS;
use super::topic::FrameQueue;
use super::{EARLIEST, Log};
use crate::cursor::Cursor;
use crate::event::Topic;
use crate::event_log::{First, Read, ReadBounds, Wanted};
use crate::frame::{Frame, WireFormat};
use crate::limits::{SCAN_STEPS, STEPS_OF_A_READ_FRAME};
use crate::selection::Selection;

/// Where a resuming subscriber starts.
///
/// After `cursor` everything is here. Where the subscriber's topics have not dropped the same, some of them
/// have older frames that it has not seen either: those after `from`, which is at most `cursor`.
/// [`Log::replay_after`] gives them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing is missing: the subscriber has everything up to `from`, or has asked for everything retained.
    At {
        /// Everything after this is here.
        cursor: u64,
        /// The subscriber has everything up to here, or can no longer get it.
        from: u64,
    },
    /// Something may be missing before `cursor`.
    Gap {
        /// Everything after this is here.
        cursor: u64,
        /// The subscriber has everything up to here, or can no longer get it.
        from: u64,
    },
    /// The epoch is this one, but the number is newer than everything here: another shard or node may have
    /// been ahead. If the number does not come, this is a gap, and the subscriber gets everything retained.
    Ahead {
        /// The number that the subscriber has.
        seq: u64,
        /// Everything after this is here.
        cursor: u64,
    },
}

impl Start {
    /// Everything after this is here.
    pub fn cursor(self) -> u64 {
        match self {
            Start::At { cursor, .. } | Start::Gap { cursor, .. } | Start::Ahead { cursor, .. } => cursor,
        }
    }

    /// The subscriber has everything up to here, or can no longer get it.
    pub fn from(self) -> u64 {
        match self {
            Start::At { from, .. } | Start::Gap { from, .. } => from,
            Start::Ahead { .. } => 0,
        }
    }

    /// Whether something may be missing before the cursor. For [`Start::Ahead`]: if the number does not come.
    pub fn is_gap(self) -> bool {
        !matches!(self, Start::At { .. })
    }
}

impl Log {
    /// Where a subscriber of this selection starts that says it has everything up to the event `id`.
    ///
    /// An id that is not known is a gap, and the subscriber gets everything retained: one of another epoch,
    /// or a publisher's id that no retained frame bears which is for the subscriber. Frames that it may not
    /// see change nothing of the answer, so that it cannot ask for their ids.
    pub fn resume(&self, id: &str, selection: Selection<'_>) -> Start {
        let cursor = self.available_after(selection);
        if id == EARLIEST {
            return Start::At { cursor, from: 0 };
        }
        let seq = match Cursor::parse(id) {
            Some(Cursor { epoch, seq }) if epoch == self.epoch => Some(seq),
            // No publisher may give an event an id of this form.
            Some(_) => None,
            None => self.first_with_own_id(id, selection),
        };
        match seq {
            Some(seq) if seq > self.newest => Start::Ahead { seq, cursor },
            Some(seq) if seq >= cursor => Start::At { cursor: seq, from: seq },
            _ => Start::Gap { cursor, from: seq.unwrap_or(0) },
        }
    }

    /// The first frame for the subscriber that bore a publisher's id. Of its topics it is the first one since
    /// the topic retains frames with this id, so where the id was repeated, the subscriber may get events
    /// twice, but misses none. Of the topics that only its patterns match, it is the first one that is
    /// retained, and what that one's topics have had before.
    fn first_with_own_id(&self, id: &str, selection: Selection<'_>) -> Option<u64> {
        let of_topics =
            selection.each().filter_map(|(topic, sees_private)| self.first_of_topic(topic, id, sees_private));
        let of_topics = of_topics.min();
        if selection.patterns().is_empty() {
            return of_topics;
        }
        let mut steps = Steps { left: SCAN_STEPS, used: 0 };
        for seq in self.published_ids.with_id(id, self.keys) {
            if of_topics.is_some_and(|first| first <= seq) {
                break;
            }
            let Some(frame) = self.order.get(seq).filter(|frame| frame.own_id() == Some(id)) else {
                continue;
            };
            match self.look_at(frame, selection, &mut steps) {
                // Very many frames bear it that are not for the subscriber: it is taken for an id that is not
                // known.
                Look::NotTaken => return None,
                Look::Wanted => {
                    let of_topic = |topic| self.first_of_topic(topic, id, selection.selects(topic, true));
                    return self
                        .selected_topics(frame, selection)
                        .filter_map(of_topic)
                        .chain(of_topics)
                        .min();
                }
                Look::Other => {}
            }
        }
        of_topics
    }

    /// The first frame that bore the id among those that a subscriber of this topic gets, while the topic
    /// retains one of these that does.
    fn first_of_topic(&self, topic: &Topic, id: &str, sees_private: bool) -> Option<u64> {
        let retained = self.topics[self.find(topic)?].retained.as_deref()?;
        retained.first_with_own_id(id, sees_private, self.keys)
    }

    /// Every frame of this selection after this `seq` is here; at or before it some may have been dropped.
    pub fn available_after(&self, selection: Selection<'_>) -> u64 {
        let dropped = selection.each().map(|(topic, sees_private)| {
            let hash = self.keys.hash(topic.as_str());
            let dropped = match self.find_hashed(topic, hash) {
                Some(slot) => self.topics[slot].dropped,
                None => self.forgotten.dropped(hash),
            };
            dropped.seen_by(sees_private)
        });
        let (patterns, mut steps) = (selection.each_pattern(), LOOK_STEPS);
        let of_patterns = patterns
            .map(|(pattern, sees_private)| self.patterns.dropped(pattern, &mut steps).seen_by(sees_private));
        dropped.chain(of_patterns).max().unwrap_or(self.newest)
    }

    /// Appends to `into` the frames of this selection after `after`, in order, each once: at most
    /// `max_frames`, and at most `max_bytes` of wire bytes but always one. Looks at as many frames as it
    /// needs.
    ///
    /// Gives the cursor up to which the subscriber has everything once it has these: [`Log::newest`] where
    /// the end was reached.
    ///
    /// # Errors
    /// Frames of this selection after `after` are gone; with [`Log::available_after`], from where on all are
    /// here.
    pub fn read_after(
        &self,
        selection: Selection<'_>,
        after: u64,
        max_frames: usize,
        max_bytes: usize,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<u64, u64> {
        let wanted = Wanted { selection, after, incomplete_until: after };
        let bounds = ReadBounds { frames: max_frames, bytes: max_bytes, steps: usize::MAX };
        self.replay_after(&wanted, bounds, into).map(|read| read.up_to)
    }

    /// The same as [`Log::read_after`] for a subscriber that knows that frames up to
    /// [`Wanted::incomplete_until`] are missing: what is left of them it gets. For a selection with patterns
    /// it goes through all frames in their order, and stops where it has made so many steps, also where it
    /// has found nothing.
    ///
    /// # Errors
    /// Frames after both `after` and `incomplete_until` are gone; with [`Log::available_after`].
    pub fn replay_after(
        &self,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, u64> {
        let Wanted { selection, after, incomplete_until } = *wanted;
        let available = self.available_after(selection);
        if available > after.max(incomplete_until) {
            return Err(available);
        }
        if selection.patterns().is_empty() {
            let frames = self.frames_after(selection, after).map(|frame| (frame, Look::Wanted));
            return Ok(self.take_frames(frames, after, bounds, into));
        }
        let mut steps = Steps { left: bounds.steps, used: 0 };
        let frames = self.order.after(after).map(|frame| (frame, self.look_at(frame, selection, &mut steps)));
        let read = self.take_frames(frames, after, bounds, into);
        Ok(Read { cost: read.cost.max(steps.used / STEPS_OF_A_READ_FRAME), ..read })
    }

    /// Takes frames that are for the subscriber, as far as the bounds go.
    fn take_frames<'log>(
        &self,
        frames: impl Iterator<Item = (&'log Arc<Frame>, Look)>,
        after: u64,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Read {
        let (mut up_to, mut count, mut bytes) = (after, 0, 0_usize);
        for (frame, look) in frames {
            if look == Look::NotTaken {
                return Read { up_to, cost: count };
            }
            if look == Look::Wanted {
                bytes += frame.wire(WireFormat::Chunked).len();
                if count >= bounds.frames.max(1) || (count > 0 && bytes > bounds.bytes) {
                    return Read { up_to, cost: count };
                }
                count += 1;
                into.push(Arc::clone(frame));
            }
            up_to = frame.seq();
        }
        Read { up_to: after.max(self.newest), cost: count }
    }

    /// The first retained frame of this selection after `after`, found with so many steps at most. Those that
    /// were made are taken away from them.
    pub fn first_after(&self, selection: Selection<'_>, after: u64, steps: &mut usize) -> First {
        if selection.patterns().is_empty() {
            let first = self.frames_after(selection, after).next();
            return first.map_or(First::Nothing, |frame| First::Frame(Arc::clone(frame)));
        }
        let (mut search, mut up_to) = (Steps { left: *steps, used: 0 }, after);
        let mut first = First::Nothing;
        for frame in self.order.after(after) {
            match self.look_at(frame, selection, &mut search) {
                Look::NotTaken => first = First::NothingUpTo(up_to),
                Look::Wanted => first = First::Frame(Arc::clone(frame)),
                Look::Other => {
                    up_to = frame.seq();
                    continue;
                }
            }
            break;
        }
        *steps = search.left;
        first
    }

    /// Whether a frame of the order is for the subscriber: a selector matches one of its topics that retains
    /// it.
    fn look_at(&self, frame: &Frame, selection: Selection<'_>, steps: &mut Steps) -> Look {
        if !steps.take(selection.steps(frame)) {
            return Look::NotTaken;
        }
        if self.selected_topics(frame, selection).next().is_some() { Look::Wanted } else { Look::Other }
    }

    /// The topics that retain a frame of the order, and through which it is for the subscriber.
    fn selected_topics<'f>(
        &self,
        frame: &'f Frame,
        selection: Selection<'_>,
    ) -> impl Iterator<Item = &'f Topic> {
        // Of a frame with one topic, that topic retains it: otherwise it would not be here.
        let is_alone = frame.topics().len() == 1;
        let is_retained = move |topic: &Topic| is_alone || self.retains(topic, frame.seq());
        let is_selected =
            move |topic: &&Topic| selection.selects(topic, frame.private()) && is_retained(topic);
        frame.topics().iter().filter(is_selected)
    }

    /// Whether the topic, which had a frame of this number, has it still. Topics drop their oldest frames
    /// first.
    fn retains(&self, topic: &Topic, seq: u64) -> bool {
        let entry = self.find(topic).map(|slot| &self.topics[slot]);
        entry.is_some_and(|entry| entry.retained.is_some() && entry.dropped.newest < seq)
    }

    fn frames_after(&self, selection: Selection<'_>, after: u64) -> FramesAfter<'_> {
        let mut queues = SmallVec::new();
        for (topic, sees_private) in selection.each() {
            let Some(slot) = self.find(topic) else { continue };
            let Some(retained) = self.topics[slot].retained.as_deref() else { continue };
            for queue in retained.queues(sees_private) {
                let next = queue.partition_point(|(seq, _)| *seq <= after);
                if next < queue.len() {
                    queues.push((queue, next));
                }
            }
        }
        FramesAfter { queues }
    }
}

/// What came of a look at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It is for the subscriber.
    Wanted,
    /// It is not.
    Other,
    /// No step is left to look at it.
    NotTaken,
}

/// Steps that a search may make.
struct Steps {
    left: usize,
    used: usize,
}

impl Steps {
    /// Whether so many steps may be made. The first frame may be looked at in any case.
    fn take(&mut self, steps: usize) -> bool {
        let may = self.used == 0 || steps <= self.left;
        if may {
            self.left = self.left.saturating_sub(steps);
            self.used += steps;
        }
        may
    }
}

/// The queues of some topics, merged.
struct FramesAfter<'log> {
    /// Each with the index of its next frame.
    queues: SmallVec<[(&'log FrameQueue, usize); 2]>,
}

impl<'log> Iterator for FramesAfter<'log> {
    type Item = &'log Arc<Frame>;

    fn next(&mut self) -> Option<&'log Arc<Frame>> {
        if let [(queue, next)] = &mut self.queues[..] {
            *next += 1;
            return queue.get(*next - 1).map(|(_, frame)| frame);
        }
        let heads = self.queues.iter().filter_map(|(queue, next)| queue.get(*next));
        let (first, frame) = heads.min_by_key(|(seq, _)| *seq)?;
        for (queue, next) in &mut self.queues {
            // An event may be in several of the subscriber's topics; all of them go past it.
            if queue.get(*next).is_some_and(|(seq, _)| seq == first) {
                *next += 1;
            }
        }
        Some(frame)
    }
}
