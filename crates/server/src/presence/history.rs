//! The history of each topic: its subscribers, and who came and left, in buckets of ten seconds.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use fanfare::Topic;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock::unix_time;

/// The length of one bucket of the history, and how many there are.
const BUCKET_S: u64 = 10;
pub(super) const BUCKETS: u64 = 60;

/// The time since 1970 by the wall clock of the start, and since then by a clock that is never set. A wall
/// clock that was ahead for a moment would leave buckets in the future.
#[derive(Debug)]
pub(super) struct HistoryClock {
    began_unix: Duration,
    began: Instant,
}

impl HistoryClock {
    pub(super) fn start() -> HistoryClock {
        HistoryClock { began_unix: unix_time(), began: Instant::now() }
    }

    pub(super) fn now(&self) -> Duration {
        self.began_unix + self.began.elapsed()
    }
}

/// The histories of the topics that have changed in the last minutes: no more is known of others than their
/// counts.
#[derive(Debug, Default)]
pub(super) struct Histories {
    topics: HashMap<Topic, Kept>,
    /// Each topic with the number of its last bucket, so that the one whose last change is the oldest is
    /// found.
    by_change: BTreeSet<(u64, Topic)>,
}

#[derive(Debug)]
struct Kept {
    since_unix_s: u64,
    /// Those with a change, the oldest first. Never empty.
    buckets: VecDeque<Bucket>,
}

/// What happened within ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// The time when it began, in tens of seconds since 1970.
    number: u64,
    /// As of the last change.
    subscribers: u32,
    joined: u32,
    left: u32,
}

/// What happened to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) subscribers: usize,
    pub(super) joined: u64,
    pub(super) left: u64,
}

/// The history of one topic, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct History {
    bucket_s: u64,
    /// Nothing is known of the time before.
    since: u64,
    buckets: Vec<HistoryBucket>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct HistoryBucket {
    at: u64,
    subscribers: u32,
    joined: u32,
    left: u32,
}

impl Histories {
    pub(super) fn note(&mut self, topic: &Topic, happened: Happened, now_unix_s: u64, most: usize) {
        let number = now_unix_s / BUCKET_S;
        self.forget_old(number);
        let last = self.topics.get(topic).and_then(|kept| kept.buckets.back()).map(|bucket| bucket.number);
        match last {
            Some(last) => _ = self.by_change.remove(&(last, topic.clone())),
            None if self.topics.len() >= most => {
                if let Some((_, oldest)) = self.by_change.pop_first() {
                    self.topics.remove(&oldest);
                }
            }
            None => {}
        }
        // A clock that goes back does not.
        let number = last.map_or(number, |last| last.max(number));
        let kept = self.topics.entry(topic.clone());
        let kept = kept.or_insert_with(|| Kept { since_unix_s: now_unix_s, buckets: VecDeque::new() });
        while kept.buckets.front().is_some_and(|bucket| bucket.number + BUCKETS <= number) {
            kept.buckets.pop_front();
        }
        if kept.buckets.back().is_none_or(|bucket| bucket.number < number) {
            kept.buckets.push_back(Bucket { number, subscribers: 0, joined: 0, left: 0 });
        }
        if let Some(bucket) = kept.buckets.back_mut() {
            let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            bucket.subscribers = count(happened.subscribers as u64);
            bucket.joined = bucket.joined.saturating_add(count(happened.joined));
            bucket.left = bucket.left.saturating_add(count(happened.left));
        }
        self.by_change.insert((number, topic.clone()));
    }

    /// The topics that have a history.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    /// How many subscribers there were at the last change.
    pub(super) fn last_count(&self, topic: &Topic) -> Option<u32> {
        Some(self.topics.get(topic)?.buckets.back()?.subscribers)
    }

    /// Forgets topics that have not changed for so long that their history is empty.
    fn forget_old(&mut self, number: u64) {
        while let Some((last, _)) = self.by_change.first()
            && last + BUCKETS <= number
            && let Some((_, topic)) = self.by_change.pop_first()
        {
            self.topics.remove(&topic);
        }
    }

    pub(super) fn history(&self, topic: &Topic, now_unix_s: u64) -> Option<History> {
        let kept = self.topics.get(topic)?;
        let oldest = (now_unix_s / BUCKET_S + 1).saturating_sub(BUCKETS);
        let buckets = kept.buckets.iter().filter(|bucket| bucket.number >= oldest);
        let buckets: Vec<HistoryBucket> = buckets
            .map(|&Bucket { number, subscribers, joined, left }| HistoryBucket {
                at: number * BUCKET_S,
                subscribers,
                joined,
                left,
            })
            .collect();
        let since = kept.since_unix_s.max(oldest * BUCKET_S);
        (!buckets.is_empty()).then_some(History { bucket_s: BUCKET_S, since, buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the beginning of a bucket.
    const NOW: u64 = 1_700_000_000 / BUCKET_S * BUCKET_S;

    fn topic(name: impl AsRef<str>) -> Topic {
        Topic::new(name).unwrap()
    }

    fn happened(subscribers: usize, joined: u64, left: u64) -> Happened {
        Happened { subscribers, joined, left }
    }

    fn bucket(at: u64, subscribers: u32, joined: u32, left: u32) -> HistoryBucket {
        HistoryBucket { at, subscribers, joined, left }
    }

    #[test]
    fn a_history_has_the_changes_of_ten_minutes() {
        let mut histories = Histories::default();
        let a = topic("a");
        histories.note(&a, happened(3, 4, 1), NOW, 10);
        histories.note(&a, happened(2, 0, 1), NOW + 9, 10);
        histories.note(&a, happened(5, 3, 0), NOW + 30, 10);
        let history = histories.history(&a, NOW + 31).unwrap();
        let buckets = vec![bucket(NOW, 2, 4, 2), bucket(NOW + 30, 5, 3, 0)];
        assert_eq!(history, History { bucket_s: 10, since: NOW, buckets });
        // A full one: one change in each bucket for longer than is kept.
        for tens in 1..=2 * BUCKETS {
            histories.note(&a, happened(1, 1, 1), NOW + 30 + 10 * tens, 10);
        }
        let end = NOW + 30 + 20 * BUCKETS;
        let history = histories.history(&a, end).unwrap();
        assert_eq!((history.buckets.len() as u64, history.since), (BUCKETS, end - 10 * (BUCKETS - 1)));
        assert_eq!(histories.topics[&a].buckets.len() as u64, BUCKETS);
        // Where nothing changes it empties, and the next change of any topic forgets it.
        assert_eq!(histories.history(&a, end + 10 * (BUCKETS - 1)).unwrap().buckets.len(), 1);
        assert_eq!(histories.history(&a, end + 10 * BUCKETS), None);
        histories.note(&topic("b"), happened(1, 1, 0), end + 10 * BUCKETS, 10);
        assert_eq!((histories.topics.len(), histories.by_change.len()), (1, 1));
        // One that is there again begins anew. A clock that goes back changes nothing of that.
        histories.note(&a, happened(1, 1, 0), end + 10 * BUCKETS + 5, 10);
        histories.note(&a, happened(2, 1, 0), NOW, 10);
        let history = histories.history(&a, end + 10 * BUCKETS + 5).unwrap();
        assert_eq!(
            (history.since, history.buckets),
            (end + 10 * BUCKETS + 5, vec![bucket(end + 10 * BUCKETS, 2, 2, 0)])
        );
    }

    #[test]
    fn beyond_the_bound_the_topic_is_forgotten_that_has_not_changed_for_the_longest_time() {
        let mut histories = Histories::default();
        for number in 0..5 {
            histories.note(&topic(number.to_string()), happened(1, 1, 0), NOW + 10 * number, 5);
        }
        histories.note(&topic("0"), happened(2, 1, 0), NOW + 60, 5);
        histories.note(&topic("new"), happened(1, 1, 0), NOW + 60, 5);
        let names: BTreeSet<&str> = histories.topics.keys().map(Topic::as_str).collect();
        assert_eq!(names, ["0", "2", "3", "4", "new"].into());
        assert_eq!(histories.by_change.len(), 5);
    }

    /// A wall clock that was ahead for a moment left buckets in the future.
    #[test]
    fn the_clock_of_histories_reads_the_wall_clock_only_at_the_start() {
        let clock = HistoryClock { began_unix: Duration::from_secs(7), began: Instant::now() };
        let first = clock.now();
        assert!(first >= Duration::from_secs(7) && clock.now() >= first);
        assert!(clock.now() < Duration::from_secs(1_000_000_000), "it is no time of the wall clock");
    }
}
