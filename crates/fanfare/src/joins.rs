//! Joins of all shards: how many streams have begun and ended to read each topic, for code that follows who
//! is there.
//!
//! A shard notes joins by topic, and hands them over some times a second, a part in each tick. Nothing is
//! noted of a connection, so a crowd that connects to one topic is one entry here. The program takes what was
//! noted, as much at a time as it likes. What it leaves is added up.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare_proto::delivery::JoinCounts;
use fanfare_proto::event::Topic;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::segment_map::SegmentMap;

use crate::counts::TopicCounts;
use crate::hub::Hub;
use crate::inspect::InspectError;
use crate::sync::{Mutex, lock};

/// Streams that have begun and ended to read a topic since its joins were last taken: [`Hub::take_joins`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicJoins {
    /// The topic.
    pub topic: Topic,
    /// Streams that have begun to read it by its name.
    pub joined: u64,
    /// Streams that read it no more.
    pub left: u64,
}

/// What the shards have handed over.
pub(crate) struct JoinTable {
    patterns: Vec<Pattern>,
    /// The most topics.
    most: usize,
    state: Mutex<State>,
}

struct State {
    /// Grows by a segment at a time, because shards wait for the lock.
    noted: SegmentMap<Topic, JoinCounts>,
    /// The topics of `noted`, in the order in which they came. Its room is reserved at the start.
    order: VecDeque<Topic>,
    missed: u64,
}

impl JoinTable {
    pub(crate) fn new(patterns: Vec<Pattern>, most: usize, seed: u64) -> JoinTable {
        let state = State { noted: SegmentMap::new(seed), order: VecDeque::with_capacity(most), missed: 0 };
        JoinTable { patterns, most, state: Mutex::new(state) }
    }

    /// The topics whose joins are noted.
    pub(crate) fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Adds what a shard has noted, and how much it has missed.
    pub(crate) fn add(&self, noted: impl IntoIterator<Item = (Topic, JoinCounts)>, missed: u64) {
        let mut state = lock(&self.state);
        let State { noted: table, order, missed: all_missed } = &mut *state;
        *all_missed += missed;
        for (topic, counts) in noted {
            if let Some(known) = table.get_mut(&topic) {
                known.add(counts);
            } else if order.len() < self.most {
                *table.get_or_default(&topic) = counts;
                order.push_back(topic);
            } else {
                *all_missed += counts.joined + counts.left;
            }
        }
    }

    fn take(&self, most: usize) -> Vec<TopicJoins> {
        let mut taken = Vec::with_capacity(most.min(TAKEN_AT_ONCE));
        while taken.len() < most {
            // Shards take the lock between the pieces.
            let mut state = lock(&self.state);
            let State { noted, order, .. } = &mut *state;
            let count = order.len().min(most - taken.len()).min(TAKEN_AT_ONCE);
            if count == 0 {
                break;
            }
            taken.extend(order.drain(..count).map(|topic| {
                let JoinCounts { joined, left } = noted.remove(&topic).unwrap_or_default();
                TopicJoins { topic, joined, left }
            }));
        }
        taken
    }

    pub(crate) fn missed(&self) -> u64 {
        lock(&self.state).missed
    }
}

/// Topics whose joins are taken under one hold of the lock.
const TAKEN_AT_ONCE: usize = 256;

impl Hub {
    /// The topics that streams have begun or ended to read since the last call, with how many: at most `most`
    /// topics, those that have waited for the longest time first. What is left is added up until it is taken.
    /// Nothing where [`crate::Builder::note_joins`] was not set.
    ///
    /// What was noted comes within a quarter of a second, and sooner from shards that do much. A stream that
    /// has begun and ended meanwhile has joined and left. Streams that read a topic through a pattern are not
    /// noted. [`crate::Counts::joins_missed`] counts what found no room.
    pub fn take_joins(&self, most: usize) -> Vec<TopicJoins> {
        self.joins().map_or_else(Vec::new, |table| table.take(most))
    }

    /// The counts of these topics, in their order. Blocks until every shard has answered, for at most
    /// `patience`. The work of the shards grows with the number of topics, so ask for some hundreds at once
    /// at most.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try. On a shard's thread it is always `WouldBlock`.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn topic_counts(
        &self,
        topics: Vec<Topic>,
        patience: Duration,
    ) -> Result<Vec<TopicCounts>, InspectError> {
        self.counts_of(topics, patience)
    }

    /// Whether an event of this topic would reach someone now: a subscriber or a [`crate::Reader`], by the
    /// name of the topic or by a pattern.
    pub fn is_read(&self, topic: &Topic) -> bool {
        let (shards, is_read_here) =
            self.log().lock_even_if_broken().readers_of(std::slice::from_ref(topic), &mut 0);
        is_read_here || !shards.is_empty()
    }
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use super::*;

    fn topic(number: usize) -> Topic {
        Topic::new(number.to_string()).unwrap()
    }

    fn counts(joined: u64, left: u64) -> JoinCounts {
        JoinCounts { joined, left }
    }

    #[test]
    fn what_is_left_is_added_up_and_what_finds_no_room_is_counted() {
        let table = JoinTable::new(Vec::new(), 600, 1);
        table.add((0..500).map(|number| (topic(number), counts(2, 1))), 0);
        let taken = table.take(300);
        assert_eq!(
            taken.iter().map(|it| it.topic.clone()).collect::<Vec<_>>(),
            (0..300).map(topic).collect::<Vec<_>>()
        );
        assert!(taken.iter().all(|it| (it.joined, it.left) == (2, 1)));
        // The first topics change again. They are queued behind the topics that still wait, whose changes are
        // added up.
        table.add((0..500).map(|number| (topic(number), counts(1, 0))), 7);
        table.add((1000..1100).map(|number| (topic(number), counts(1, 2))), 0);
        let taken = table.take(usize::MAX);
        assert_eq!(taken.len(), 600);
        assert_eq!((&taken[0].topic, taken[0].joined, taken[0].left), (&topic(300), 3, 1));
        assert_eq!((&taken[200].topic, taken[200].joined, taken[200].left), (&topic(0), 1, 0));
        assert_eq!(taken[599].topic, topic(1099));
        assert_eq!(table.missed(), 7);
        table.add((0..601).map(|number| (topic(number), counts(1, 2))), 0);
        assert_eq!((table.take(1000).len(), table.missed()), (600, 10));
        assert!(table.take(1).is_empty());
    }
}
