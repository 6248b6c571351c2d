//! Joins: the streams that begin to read a topic by its name, or end.
//!
//! They are noted by topic, and nothing is noted of a stream. The caller takes what was noted, a part of it
//! at a time.

use std::collections::VecDeque;

use super::Delivery;
use crate::audience::Subscription;
use crate::event::Topic;
use crate::limits::JOINED_TOPICS;
use crate::pattern::Pattern;
use crate::segment_map::SegmentMap;

/// How many streams have begun and ended to read a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinCounts {
    /// Streams that have begun to read the topic.
    pub joined: u64,
    /// Streams that have ended, or that read other topics now.
    pub left: u64,
}

impl JoinCounts {
    /// Adds others.
    pub fn add(&mut self, other: JoinCounts) {
        self.joined += other.joined;
        self.left += other.left;
    }
}

/// What is noted since it was last taken.
pub(super) struct Joins {
    /// Topics that one of these matches are noted.
    patterns: Vec<Pattern>,
    noted: SegmentMap<Topic, JoinCounts>,
    /// The topics of `noted`, in the order in which they came.
    order: VecDeque<Topic>,
    /// Joins and ends that found no room.
    missed: u64,
}

impl Joins {
    fn note(&mut self, topic: &Topic, counts: JoinCounts) {
        if let Some(noted) = self.noted.get_mut(topic) {
            noted.add(counts);
            return;
        }
        if !self.patterns.iter().any(|pattern| pattern.matches(topic.as_str())) {
            return;
        }
        if self.order.len() >= JOINED_TOPICS {
            self.missed += counts.joined + counts.left;
            return;
        }
        *self.noted.get_or_default(topic) = counts;
        self.order.push_back(topic.clone());
    }

    /// A stream of this subscription has begun.
    pub(super) fn begun(&mut self, subscription: &Subscription) {
        for topic in subscription.topics() {
            self.note(topic, JoinCounts { joined: 1, left: 0 });
        }
    }

    /// A stream of this subscription has ended.
    pub(super) fn ended(&mut self, subscription: &Subscription) {
        for topic in subscription.topics() {
            self.note(topic, JoinCounts { joined: 0, left: 1 });
        }
    }

    /// A stream has another subscription.
    pub(super) fn changed(&mut self, before: &Subscription, after: &Subscription) {
        for topic in after.topics().iter().filter(|topic| !before.has(topic)) {
            self.note(topic, JoinCounts { joined: 1, left: 0 });
        }
        for topic in before.topics().iter().filter(|topic| !after.has(topic)) {
            self.note(topic, JoinCounts { joined: 0, left: 1 });
        }
    }
}

impl Delivery {
    /// Notes from now on which topics streams begin and end to read: those that one of these patterns
    /// matches.
    pub fn note_joins(&mut self, patterns: Vec<Pattern>, seed: u64) {
        let (noted, order) = (SegmentMap::new(seed), VecDeque::new());
        self.joins = Some(Box::new(Joins { patterns, noted, order, missed: 0 }));
    }

    /// How many topics have joins that were not taken.
    pub fn joins_noted(&self) -> usize {
        self.joins.as_ref().map_or(0, |joins| joins.order.len())
    }

    /// Joins and ends that were not noted since the last call, because too many topics had some.
    pub fn take_missed_joins(&mut self) -> u64 {
        self.joins.as_mut().map_or(0, |joins| std::mem::take(&mut joins.missed))
    }

    /// The topic that has waited for the longest time, with its joins.
    pub fn poll_joins(&mut self) -> Option<(Topic, JoinCounts)> {
        let joins = self.joins.as_mut()?;
        let topic = joins.order.pop_front()?;
        let counts = joins.noted.remove(&topic).unwrap_or_default();
        if joins.order.is_empty() {
            // Give back what a crowd needed.
            joins.order = VecDeque::new();
        }
        Some((topic, counts))
    }
}
