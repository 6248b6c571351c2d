//! Presence: how many subscribers a topic has, its history of the last minutes, and events about it.
//!
//! The shards note joins by topic ([`fanfare::Builder::note_joins`]). A thread of its own takes them once in
//! an interval, asks the engine for the counts of these topics, keeps the history, and publishes an event for
//! each topic whose events are read. So nothing here is on the way of a connection or of an event, and a
//! topic without a change costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use fanfare::{Event, EventType, Hub, InspectError, Pattern, PublishError, Topic};
use fanfare_config::Settings;
use serde::Serialize;
use serde_json::json;

use crate::clock::unix_time;
use crate::rules::CurrentRules;

/// The names of the topics of presence events begin so.
pub(crate) const PREFIX: &str = "presence/";

/// The type of presence events.
const EVENT_TYPE: &str = "presence";

/// The length of one bucket of the history, and how many there are.
const BUCKET_S: u64 = 10;
const BUCKETS: u64 = 60;

/// Topics whose changes one interval takes in. Others wait, and have the sum.
const TOPICS_PER_INTERVAL: usize = 4096;

/// Topics that one question to the shards names, and events that are published together.
const TOPICS_PER_QUESTION: usize = 256;

/// How long the shards may take to answer a question, and how long the events of a part wait for room.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a topic with history takes at most, in bytes: its buckets in a list that may be half empty, and its
/// names in two tables.
const TOPIC_BYTES: usize = 2 * BUCKETS as usize * size_of::<Bucket>() + 1024;

/// Which topics have presence.
#[derive(Clone, Debug)]
pub(crate) struct PresenceOptions {
    /// Never empty.
    patterns: Vec<Pattern>,
    /// The most topics with history.
    topics: usize,
    interval: Duration,
}

impl PresenceOptions {
    /// `None`: there is no presence.
    pub(crate) fn of(settings: &Settings) -> Option<PresenceOptions> {
        let patterns = settings.presence.clone();
        let (topics, interval) = (settings.presence_topics, settings.presence_interval);
        (!patterns.is_empty()).then_some(PresenceOptions { patterns, topics, interval })
    }

    /// The topics whose joins are to be noted, and how many at a time: also those of presence events, because
    /// one that begins to read them is told of the count.
    pub(crate) fn noted(&self) -> (Vec<Pattern>, usize) {
        let events = Pattern::parse(&format!("{PREFIX}*"));
        (self.patterns.iter().cloned().chain(events).collect(), self.topics)
    }

    /// The memory that it takes at most, in bytes, beside what the engine notes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.topics.saturating_mul(TOPIC_BYTES)
    }

    fn has(&self, topic: &str) -> bool {
        !topic.starts_with(PREFIX) && self.patterns.iter().any(|pattern| pattern.matches(topic))
    }
}

/// Whether only the server publishes to this topic, where there is presence.
pub(crate) fn is_reserved(topic: &Topic) -> bool {
    topic.as_str().starts_with(PREFIX)
}

/// The history of topics.
#[derive(Debug)]
pub(crate) struct Presence {
    options: PresenceOptions,
    state: Mutex<Histories>,
}

/// The histories of the topics that have changed in the last minutes: no more is known of others than their
/// counts.
#[derive(Debug, Default)]
struct Histories {
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
struct Bucket {
    /// The time when it began, in tens of seconds since 1970.
    number: u64,
    /// As of the last change.
    subscribers: u32,
    joined: u32,
    left: u32,
}

/// What happened to a topic.
#[derive(Clone, Copy)]
struct Happened {
    subscribers: usize,
    joined: u64,
    left: u64,
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

impl Presence {
    fn new(options: PresenceOptions) -> Presence {
        Presence { options, state: Mutex::default() }
    }

    /// Starts its thread, which ends with the engine.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(
        options: PresenceOptions,
        hub: Hub,
        rules: CurrentRules,
    ) -> io::Result<Arc<Presence>> {
        let presence = Arc::new(Presence::new(options));
        let follows = Arc::clone(&presence);
        thread::Builder::new().name("fanfare-counts".to_owned()).spawn(move || {
            // Where that is refused, it competes with the shards a little more.
            let _ = fanfare::prefer_short_runs();
            let mut waiting = Waiting::default();
            loop {
                let is_private = rules.get().access.has_anonymous_subscribers();
                if follows.step(&hub, &mut waiting, is_private, unix_time().as_secs()).is_err() {
                    return;
                }
                thread::sleep(follows.options.interval);
            }
        })?;
        Ok(presence)
    }

    /// The history of a topic, if it has changed in the last minutes.
    pub(crate) fn history(&self, topic: &Topic) -> Option<History> {
        self.lock().history(topic, unix_time().as_secs())
    }

    fn lock(&self) -> MutexGuard<'_, Histories> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what has changed, and publishes events about it, private ones where everyone may read the
    /// public ones. What finds no room now stays in `waiting`.
    ///
    /// # Errors
    /// The engine has stopped.
    fn step(
        &self,
        hub: &Hub,
        waiting: &mut Waiting,
        is_private: bool,
        now_unix_s: u64,
    ) -> Result<(), Stopped> {
        let room = TOPICS_PER_INTERVAL.saturating_sub(waiting.changes.len());
        for joins in hub.take_joins(room) {
            waiting.add(&self.options, &joins.topic, joins.joined, joins.left);
        }
        while !waiting.changes.is_empty() {
            let part = waiting.take(TOPICS_PER_QUESTION);
            let topics = part.iter().map(|(topic, _)| topic.clone()).collect();
            let counts = match hub.topic_counts(topics, PATIENCE) {
                Ok(counts) => counts,
                Err(error) => {
                    waiting.give_back(part);
                    return if error == InspectError::Stopped { Err(Stopped) } else { Ok(()) };
                }
            };
            let mut told = Vec::new();
            let mut events = Vec::new();
            for ((topic, mut change), counts) in part.into_iter().zip(counts) {
                let (joined, left) = (change.joined - change.noted.0, change.left - change.noted.1);
                if joined + left > 0 {
                    let happened = Happened { subscribers: counts.subscribers, joined, left };
                    self.lock().note(&topic, happened, now_unix_s, self.options.topics);
                }
                change.noted = (change.joined, change.left);
                // An event that nobody reads would only take room from others in the log.
                let to = event_topic(&topic).filter(|to| hub.is_read(to));
                if let Some(event) = to.and_then(|to| event(to, &topic, counts.subscribers, change)) {
                    events.push(event.with_private(is_private));
                    told.push((topic, change));
                }
            }
            if events.is_empty() {
                continue;
            }
            match hub.publish_wait(&mut events, PATIENCE).map_err(|error| error.error) {
                Ok(_) => {}
                Err(PublishError::Stopped) => return Err(Stopped),
                Err(PublishError::Busy) => {
                    // Those that were not taken are the last ones. They are told in the next interval.
                    waiting.give_back(told.split_off(told.len() - events.len()));
                    return Ok(());
                }
                Err(error) => tracing::debug!(%error, "presence events were not published"),
            }
        }
        Ok(())
    }
}

/// The engine has stopped.
#[derive(Debug)]
struct Stopped;

/// What has changed and is not told yet, by topic.
#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<Topic, Change>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    joined: u64,
    left: u64,
    /// So much of it is in the history already.
    noted: (u64, u64),
}

impl Waiting {
    fn add(&mut self, options: &PresenceOptions, topic: &Topic, joined: u64, left: u64) {
        match topic.as_str().strip_prefix(PREFIX) {
            None => {
                let change = self.changes.entry(topic.clone()).or_default();
                change.joined += joined;
                change.left += left;
            }
            // One that begins to read the events of a topic is told of the count.
            Some(about) if joined > 0 && options.has(about) => {
                if let Ok(about) = Topic::new(about) {
                    self.changes.entry(about).or_default();
                }
            }
            Some(_) => {}
        }
    }

    fn take(&mut self, most: usize) -> Vec<(Topic, Change)> {
        std::iter::from_fn(|| self.changes.pop_first()).take(most).collect()
    }

    fn give_back(&mut self, changes: Vec<(Topic, Change)>) {
        self.changes.extend(changes);
    }
}

/// The topic of the events about a topic. `None`: its name is too long for that.
fn event_topic(topic: &Topic) -> Option<Topic> {
    Topic::new(format!("{PREFIX}{topic}")).ok()
}

fn event(to: Topic, topic: &Topic, subscribers: usize, change: Change) -> Option<Event> {
    let Change { joined, left, .. } = change;
    let data = json!({ "topic": topic.as_str(), "subscribers": subscribers, "joined": joined, "left": left });
    let kind = EventType::new(EVENT_TYPE).ok()?;
    Some(Event::new(to).with_type(kind).with_data(data.to_string()))
}

impl Histories {
    fn note(&mut self, topic: &Topic, happened: Happened, now_unix_s: u64, most: usize) {
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

    /// Forgets topics that have not changed for so long that their history is empty.
    fn forget_old(&mut self, number: u64) {
        while let Some((last, _)) = self.by_change.first()
            && last + BUCKETS <= number
            && let Some((_, topic)) = self.by_change.pop_first()
        {
            self.topics.remove(&topic);
        }
    }

    fn history(&self, topic: &Topic, now_unix_s: u64) -> Option<History> {
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

    #[test]
    fn changes_that_wait_are_added_up_and_one_that_reads_the_events_is_told_of_the_count() {
        let patterns = ["a*", "/rooms/{id}"].map(|text| Pattern::parse(text).unwrap()).to_vec();
        let options = PresenceOptions { patterns, topics: 10, interval: Duration::from_secs(1) };
        let mut waiting = Waiting::default();
        waiting.add(&options, &topic("a"), 2, 1);
        let mut part = waiting.take(10);
        // It is noted in the history, and there was no room for its event.
        part[0].1.noted = (2, 1);
        waiting.give_back(part);
        waiting.add(&options, &topic("a"), 5, 0);
        waiting.add(&options, &topic("presence/ab"), 1, 0);
        waiting.add(&options, &topic("presence/a"), 1, 0);
        // Nobody begins to read these, or there is no presence of them.
        waiting.add(&options, &topic("presence/ac"), 0, 1);
        waiting.add(&options, &topic("presence/b"), 1, 0);
        waiting.add(&options, &topic("presence/presence/a"), 1, 0);
        let all = waiting.take(10);
        assert_eq!(
            all,
            [(topic("a"), Change { joined: 7, left: 1, noted: (2, 1) }), (topic("ab"), Change::default()),]
        );
        let (patterns, most) = options.noted();
        let noted = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        assert!(noted("abc") && noted("/rooms/7") && noted("presence/b") && !noted("b") && most == 10);
        assert!(is_reserved(&topic("presence/x")) && !is_reserved(&topic("presence")));
        // The longest name has no room for more.
        let [longest, long] = [256, 256 - PREFIX.len()].map(|bytes| topic("x".repeat(bytes)));
        assert_eq!((event_topic(&longest), event_topic(&long).is_some()), (None, true));
    }
}
