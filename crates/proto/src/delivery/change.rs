//! Streams whose topics change while they live.
//!
//! A change has an exact place in the order of events: the newest number `N` at the moment when the shard makes it. Of the
//! topics that stay, the stream gets every event, before `N` and after it. Of those that come it gets the events after `N`, and
//! of those that go none that it was not sent before. So up to `N` it reads the topics that stay from the log, as a laggard,
//! and after `N` it belongs to its new audience.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Delivery, StreamKey};
use crate::audience::{AudienceId, Subscription};
use crate::event::Topic;
use crate::event_log::EventLog;
use crate::laggard::NewLaggard;
use crate::link::LinkKey;
use crate::segment_map::SegmentMap;
use crate::stream::Place;

/// Stages of one stream. With more changes to catch up with, it forgets the oldest of them: of topics that came by that change
/// it gets the events from where it stands, some of which are older than the change.
const STAGES_MAX: usize = 64;

/// What a stream reads up to the number of a change.
struct Stage {
    until: u64,
    subscription: Arc<Subscription>,
}

/// The stages that streams have not finished, by their slots. Each of these streams is a laggard.
pub(super) struct Stages(SegmentMap<u32, VecDeque<Stage>>);

impl Stages {
    /// `seed` is for the keys of hashes.
    pub(super) fn new(seed: u64) -> Stages {
        Stages(SegmentMap::new(seed))
    }

    /// What the stream reads now, and up to which number, where that is not what its audience reads.
    pub(super) fn current(&mut self, slot: u32, cursor: u64) -> Option<(u64, Arc<Subscription>)> {
        let stages = self.0.get_mut(&slot)?;
        while stages.front().is_some_and(|stage| stage.until <= cursor) {
            stages.pop_front();
        }
        let current = stages.front().map(|stage| (stage.until, Arc::clone(&stage.subscription)));
        if current.is_none() {
            self.forget(slot);
        }
        current
    }

    /// The stream has left.
    pub(super) fn forget(&mut self, slot: u32) {
        self.0.remove(&slot);
    }

    /// The slots, for checks.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(slot, _)| *slot)
    }
}

/// What came of [`Delivery::change_topics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The stream has its new topics.
    Changed,
    /// The link is gone.
    Gone,
    /// The new subscription finds no room within [`crate::limits::Limits::subscription_bytes`]: nothing has changed.
    NoRoom,
}

impl Delivery {
    /// Gives the stream of a link other topics. The module's documentation says which events it gets. What its
    /// new audience was sent before counts as sent to it, so its next heartbeat may come up to an interval after
    /// the change.
    pub fn change_topics(
        &mut self,
        link: LinkKey,
        topics: impl IntoIterator<Item = Topic>,
        now: Duration,
        log: &mut impl EventLog,
    ) -> Changed {
        let Some(StreamKey { slot, .. }) = self.stream_on(link) else { return Changed::Gone };
        let stream = self.subscribers[slot as usize].stream;
        let before = Arc::clone(self.audiences.subscription(stream.audience));
        let after = Subscription::new(topics, before.encoding(), before.sees_private());
        if after == *before {
            return Changed::Changed;
        }
        if !self.has_room_for(&after) {
            return Changed::NoRoom;
        }
        let stays = |topic: &&Topic| after.topics().binary_search(topic).is_ok();
        let stay = before.topics().iter().filter(stays).cloned();
        let stay = Arc::new(Subscription::new(stay, before.encoding(), before.sees_private()));
        let (audience, newest) = self.audience_of(after, log);
        // What a member was sent together with its old audience is not forgotten: a heartbeat would follow it.
        let mut sent_at = stream.sent_at;
        let laggard = match stream.place {
            Place::Laggard(laggard) => {
                self.audiences.remove_laggard(stream.audience);
                laggard
            }
            Place::Member(index) => {
                sent_at = sent_at.max(self.audiences.reached_at(stream.audience, index));
                let cursor = self.leave_members(stream.audience, index).cursor;
                let new = NewLaggard { slot, cursor, incomplete_until: 0, fell_behind: false, ready: true };
                self.laggards.insert(new, now)
            }
        };
        self.audiences.add_laggard(audience);
        let changed = &mut self.subscribers[slot as usize].stream;
        (changed.audience, changed.place, changed.sent_at) = (audience, Place::Laggard(laggard), sent_at);
        self.remove_audience_if_empty(stream.audience, log);
        let stages = self.stages.0.get_or_default(&slot);
        for stage in stages.iter_mut() {
            // What goes now is not sent any more, also where it was to stay in a change before this one.
            let topics = stage.subscription.topics().iter();
            let topics = topics.filter(|topic| self.audiences.reads(audience, topic)).cloned();
            stage.subscription =
                Arc::new(Subscription::new(topics, before.encoding(), before.sees_private()));
        }
        if stages.back().is_none_or(|last| last.until < newest) {
            stages.push_back(Stage { until: newest, subscription: stay });
        }
        if stages.len() > STAGES_MAX {
            // Topics that stay are in every later stage, so the next one has all that this one has, and more.
            stages.pop_front();
        }
        Changed::Changed
    }

    /// The audience of a subscription, and the newest number when it was certain that every later event of its topics comes.
    pub(super) fn audience_of(
        &mut self,
        subscription: Subscription,
        log: &mut impl EventLog,
    ) -> (AudienceId, u64) {
        match self.audiences.find(&subscription) {
            Some(audience) => (audience, log.newest()),
            None => {
                let unread = self.audiences.unread_topics(&subscription);
                let newest = if unread.is_empty() { log.newest() } else { log.add_reader(&unread) };
                (self.audiences.create(subscription, newest), newest)
            }
        }
    }
}
