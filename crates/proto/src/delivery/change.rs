//! Streams whose topics change while they live.
//!
//! A change has an exact place in the order of events: the newest number `N` at the moment when the shard
//! makes it. The stream gets every event of the topics that it keeps, before `N` and after it. It gets the
//! events of added topics from `N` on. It gets no further event of removed topics. So up to `N` it reads the
//! topics that it keeps from the log, as a laggard, and after `N` it belongs to its new audience. What is
//! said of topics here holds for patterns, too: a pattern is kept where it is named again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Delivery;
use crate::audience::{AudienceId, Subscription};
use crate::event::Topic;
use crate::event_log::{EventLog, NoRoomForPatterns};
use crate::laggard::NewLaggard;
use crate::link::LinkKey;
use crate::pattern::Pattern;
use crate::segment_map::SegmentMap;
use crate::stream::Place;

/// Stages of one stream. A stream with more changes to catch up with forgets the oldest of them: of the
/// topics that this change added it gets the events from where it stands, some of which are older than the
/// change.
const STAGES_MAX: usize = 8;

/// What a stream reads up to the number of a change.
struct Stage {
    until: u64,
    subscription: Arc<Subscription>,
}

/// The stages that streams have not finished, by their slots. Each of these streams is a laggard.
pub(super) struct Stages {
    by_slot: SegmentMap<u32, VecDeque<Stage>>,
    /// The memory of all of them; an upper bound.
    bytes: usize,
}

impl Stage {
    fn new(until: u64, subscription: Subscription) -> Stage {
        Stage { until, subscription: Arc::new(subscription) }
    }

    fn bytes(&self) -> usize {
        Stage::bytes_of(&self.subscription)
    }

    /// Twice its place in the queue, for the queue's growth, and what it owns: each name, too, because no
    /// audience may have it any more.
    fn bytes_of(subscription: &Subscription) -> usize {
        let name = |topic: &Topic| size_of::<Topic>() + NAME_BYTES + topic.as_str().len();
        2 * size_of::<Stage>()
            + size_of::<Subscription>()
            + NAME_BYTES
            + subscription.topics().iter().map(name).sum::<usize>()
            + subscription.patterns().iter().map(|pattern| NAME_BYTES + pattern.bytes()).sum::<usize>()
    }
}

/// The two counters of an `Arc`, and what the allocator rounds up.
const NAME_BYTES: usize = 32;

impl Stages {
    /// `seed` is for the keys of hashes.
    pub(super) fn new(seed: u64) -> Stages {
        Stages { by_slot: SegmentMap::new(seed), bytes: 0 }
    }

    /// The memory of all stages, in bytes; an upper bound.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the stream reads now, and up to which number, where that is not what its audience reads.
    pub(super) fn current(&mut self, slot: u32, cursor: u64) -> Option<(u64, Arc<Subscription>)> {
        let stages = self.by_slot.get_mut(&slot)?;
        while let Some(passed) = stages.pop_front_if(|stage| stage.until <= cursor) {
            self.bytes -= passed.bytes();
        }
        let current = stages.front().map(|stage| (stage.until, Arc::clone(&stage.subscription)));
        if current.is_none() {
            self.by_slot.remove(&slot);
        }
        current
    }

    /// The stream keeps `stay` up to `until`, and has `topics` from there on.
    fn add(&mut self, slot: u32, until: u64, stay: Subscription, topics: &Subscription) {
        let stages = self.by_slot.get_or_default(&slot);
        for stage in stages.iter_mut() {
            // A topic that is removed now is not sent any more, also where an earlier change kept it.
            let before = stage.bytes();
            *stage = Stage::new(stage.until, stage.subscription.kept_by(topics));
            self.bytes -= before - stage.bytes();
        }
        if stages.back().is_none_or(|last| last.until < until) {
            let stage = Stage::new(until, stay);
            self.bytes += stage.bytes();
            stages.push_back(stage);
        }
        if stages.len() > STAGES_MAX
            && let Some(oldest) = stages.pop_front()
        {
            // Topics that are kept are in every later stage, so the next one has all that this one has, and
            // more.
            self.bytes -= oldest.bytes();
        }
    }

    /// The stream has left.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(stages) = self.by_slot.remove(&slot) {
            self.bytes -= stages.iter().map(Stage::bytes).sum::<usize>();
        }
    }

    /// The slots, for checks.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.by_slot.iter().map(|(slot, _)| *slot)
    }

    /// The bytes, counted anew, for checks.
    pub(super) fn counted_bytes(&self) -> usize {
        self.by_slot.iter().flat_map(|(_, stages)| stages).map(Stage::bytes).sum()
    }
}

/// What came of [`Delivery::change_topics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The stream has its new topics.
    Changed,
    /// The link is gone, or its stream ends because one of its topics was disconnected before.
    Gone,
    /// The new subscription finds no room within [`crate::limits::Limits::subscription_bytes`] or
    /// [`crate::limits::Limits::patterns`]: nothing has changed.
    NoRoom,
}

impl Delivery {
    /// Gives the stream of a link other topics and patterns. The module's documentation says which events it
    /// gets. What its new audience was sent before counts as sent to it, so its next heartbeat may come up to
    /// an interval after the change. `caught_up_to`: the number up to which this shard was handed every event
    /// of its topics, where that is known.
    pub fn change_topics(
        &mut self,
        link: LinkKey,
        topics: impl IntoIterator<Item = Topic>,
        patterns: impl IntoIterator<Item = Pattern>,
        caught_up_to: Option<u64>,
        now: Duration,
        log: &mut impl EventLog,
    ) -> Changed {
        let Some(key) = self.stream_on(link) else { return Changed::Gone };
        if self.search_before_change(key, log) {
            return Changed::Gone;
        }
        let slot = key.slot;
        let stream = self.subscribers[slot as usize].stream;
        let before = Arc::clone(self.audiences.subscription(stream.audience));
        let after = before.with_selectors(topics, patterns);
        if after == *before {
            return Changed::Changed;
        }
        let stay = before.kept_by(&after);
        if !self.has_room_beside(Stage::bytes_of(&stay), &after) {
            return Changed::NoRoom;
        }
        let Ok((audience, newest)) = self.audience_of(after.clone(), log) else { return Changed::NoRoom };
        // What a member was sent together with its old audience is not forgotten: a heartbeat would follow
        // it.
        let mut sent_at = stream.sent_at;
        let laggard = match stream.place {
            Place::Laggard(laggard) => {
                self.audiences.remove_laggard(stream.audience);
                laggard
            }
            Place::Member(index) => {
                sent_at = sent_at.max(self.audiences.reached_at(stream.audience, index));
                let head = self.audiences.head(stream.audience);
                let mut cursor = self.leave_members(stream.audience, index).cursor;
                if cursor >= head && !self.audiences.is_marking() {
                    // It has everything that this shard was handed, so it does not ask the log, which may
                    // retain nothing of its topics.
                    cursor = cursor.max(caught_up_to.unwrap_or_default().min(newest));
                }
                let new = NewLaggard { slot, cursor, incomplete_until: 0, fell_behind: false, ready: true };
                self.laggards.insert(new, now)
            }
        };
        self.audiences.add_laggard(audience);
        if let Some(joins) = &mut self.joins {
            joins.changed(&before, &after);
        }
        let changed = &mut self.subscribers[slot as usize].stream;
        (changed.audience, changed.place, changed.sent_at) = (audience, Place::Laggard(laggard), sent_at);
        self.left(stream.audience, log);
        let cursor = self.laggards.get(laggard).cursor;
        // What it has passed is no stage any more.
        self.stages.current(slot, cursor);
        if cursor < newest {
            self.stages.add(slot, newest, stay, &after);
        }
        Changed::Changed
    }

    /// The audience of a subscription, and the newest number when it was certain that every later event of
    /// its topics comes.
    pub(super) fn audience_of(
        &mut self,
        subscription: Subscription,
        log: &mut impl EventLog,
    ) -> Result<(AudienceId, u64), NoRoomForPatterns> {
        if let Some(audience) = self.audiences.find(&subscription) {
            return Ok((audience, log.newest()));
        }
        let topics = self.audiences.unread_topics(&subscription);
        let patterns = self.audiences.unread_patterns(&subscription);
        let newest = if topics.is_empty() && patterns.is_empty() {
            log.newest()
        } else {
            self.audiences.add_patterns(&patterns)?;
            let added = log.add_reader(&topics, &patterns);
            if added.is_err() {
                self.audiences.remove_patterns(&patterns);
            }
            added?
        };
        Ok((self.audiences.create(subscription, newest), newest))
    }
}
