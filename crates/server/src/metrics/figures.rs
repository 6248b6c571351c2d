//! The figures of the dashboard: the state at this moment, and the rates of the time since the figures
//! before.
//!
//! All rates are made here, of two snapshots of the same process. So a dashboard needs no counters, and a
//! restart of the server makes no rate jump.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanfare::{Counts, Histogram, Hub, TopicCounts};
use serde::Serialize;
use tokio::time::Instant;

use super::Labelled;
use super::snapshot::{Snapshot, Sources};
use super::table;

/// Topics of the list.
const TOP_TOPICS: usize = 10;

/// The list is made where there are at most so many topics: to find the largest ones of more would be work
/// for the shards.
const TOPICS_AT_MOST: usize = 1000;

/// Between two questions for the list.
const TOPICS_EVERY: Duration = Duration::from_secs(5);

/// How long the shards may take to answer such a question. Otherwise the list stays as it was.
const TOPICS_PATIENCE: Duration = Duration::from_secs(2);

/// Makes figures, one after the other.
pub(crate) struct Observer {
    sources: Arc<Sources>,
    before: Option<(Snapshot, Instant)>,
    topics: Arc<Mutex<TopTopics>>,
    topics_asked: Option<Instant>,
}

impl Observer {
    pub(super) fn new(sources: Arc<Sources>) -> Observer {
        Observer { sources, before: None, topics: Arc::default(), topics_asked: None }
    }

    /// The figures of now, as JSON on one line. The first ones have no rates. It is called on a runtime of
    /// tokio.
    pub(crate) fn figures(&mut self) -> String {
        let (now, at) = (Snapshot::of(&self.sources), Instant::now());
        let topics = self.top_topics(at, now.counts.topics);
        let before = self.before.as_ref().map(|(before, since)| (before, at.duration_since(*since)));
        let readiness = self.sources.health.answer("/health/ready");
        let figures = Figures {
            time: Sources::time(),
            readiness: readiness.map_or(String::new(), |answer| answer.text().trim().to_owned()),
            top_topics: topics,
            top_topics_limit: TOPICS_AT_MOST,
            ..Figures::between(before, &now)
        };
        // All of its parts can be JSON.
        let text = serde_json::to_string(&figures).unwrap_or_default();
        self.before = Some((now, at));
        text
    }

    /// The last list. A new one is asked for where it is time, on another thread: shards may be slow to
    /// answer.
    fn top_topics(&mut self, at: Instant, count: u64) -> Option<Vec<TopTopic>> {
        if count > TOPICS_AT_MOST as u64 {
            self.topics_asked = None;
            lock(&self.topics).list = None;
            return None;
        }
        let is_due = self.topics_asked.is_none_or(|asked| at.duration_since(asked) >= TOPICS_EVERY);
        let mut topics = lock(&self.topics);
        if is_due && !topics.is_asked {
            topics.is_asked = true;
            self.topics_asked = Some(at);
            let (hub, answer) = (self.sources.hub.clone(), Arc::clone(&self.topics));
            drop(tokio::task::spawn_blocking(move || {
                let list = top_topics(&hub);
                let mut topics = lock(&answer);
                topics.is_asked = false;
                topics.list = list.or(topics.list.take());
            }));
        }
        topics.list.clone()
    }
}

/// The list of topics, which another thread fills in.
#[derive(Debug, Default)]
struct TopTopics {
    is_asked: bool,
    list: Option<Vec<TopTopic>>,
}

fn lock(topics: &Mutex<TopTopics>) -> std::sync::MutexGuard<'_, TopTopics> {
    // Nothing panics under this lock.
    topics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The topics with the most subscribers. `None`: the engine did not say.
fn top_topics(hub: &Hub) -> Option<Vec<TopTopic>> {
    let page = hub.topics_page(None, TOPICS_AT_MOST, TOPICS_PATIENCE).ok()?;
    Some(largest(page.topics))
}

fn largest(mut topics: Vec<TopicCounts>) -> Vec<TopTopic> {
    topics.sort_unstable_by(|one, other| {
        other.subscribers.cmp(&one.subscribers).then_with(|| one.topic.cmp(&other.topic))
    });
    topics.truncate(TOP_TOPICS);
    topics
        .into_iter()
        .map(|counts| TopTopic {
            topic: counts.topic,
            subscribers: counts.subscribers,
            laggards: counts.laggards,
            retained: counts.retained,
        })
        .collect()
}

/// The event of the dashboard's stream. Times are in seconds; the dates among them count from 1970.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// When these figures were made.
    time: f64,
    /// When the server began.
    started: f64,
    version: String,
    backend: String,
    /// The time that the rates are about. `None`: these are the first figures, without rates.
    interval: Option<f64>,
    /// The answer of `/health/ready`.
    readiness: String,
    is_ready: bool,
    connections: u64,
    laggards: u64,
    audiences: u64,
    topics: u64,
    log_events: u64,
    log_bytes: u64,
    rates: Option<Rates>,
    /// From the publish to the send, over the deliveries of the interval.
    lag: Option<Lag>,
    limits: Vec<Limit>,
    shards: Vec<Shard>,
    ends: Vec<Reason>,
    refusals: Vec<Reason>,
    process: Process,
    /// `None`: there are too many topics for the list, or it is not known yet.
    top_topics: Option<Vec<TopTopic>>,
    /// The most topics with which there is a list.
    top_topics_limit: usize,
}

/// Rates: how often something happened in a second.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Rates {
    deliveries: f64,
    delivered_bytes: f64,
    publishes: f64,
    published_bytes: f64,
    replayed: f64,
    begins: f64,
    ends: f64,
    refusals: f64,
    gaps: f64,
    evicted: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Lag {
    p50: f64,
    p99: f64,
}

/// A bound, and how much of it is in use.
#[derive(Debug, PartialEq, Serialize)]
struct Limit {
    name: &'static str,
    /// The option that changes it.
    option: Option<&'static str>,
    used: u64,
    limit: u64,
    is_bytes: bool,
    /// A good server may have all of it in use.
    may_be_full: bool,
}

#[derive(Debug, Serialize)]
struct Shard {
    connections: u64,
    laggards: u64,
    mailbox_events: u64,
    mailbox_bytes: u64,
    /// Deliveries a second.
    deliveries: Option<f64>,
    /// The part of its time in which it worked, from 0 to 1.
    busy: Option<f64>,
}

/// A reason, and how often it applied since the start.
#[derive(Debug, PartialEq, Serialize)]
struct Reason {
    /// The kind of the count.
    kind: &'static str,
    reason: String,
    total: u64,
    /// How often in the interval.
    recent: u64,
}

#[derive(Debug, Default, Serialize)]
struct Process {
    resident_bytes: Option<u64>,
    /// Cores in use: the processor time of a second.
    cores: Option<f64>,
    threads: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TopTopic {
    topic: String,
    subscribers: usize,
    laggards: usize,
    retained: usize,
}

impl Figures {
    /// Leaves out the members that are not in a snapshot.
    fn between(before: Option<(&Snapshot, Duration)>, now: &Snapshot) -> Figures {
        let old = before.map(|(before, _)| before);
        let seconds = before.map(|(_, interval)| interval.as_secs_f64().max(1e-3));
        let counts = &now.counts;
        let [version, backend, _] = &now.build;
        let ends = |now: &Snapshot| {
            now.counts
                .closed()
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect::<Labelled<_>>()
        };
        let of_table = |read: fn(&Snapshot) -> Labelled<u64>| (read(now), old.map(read));
        let refusals = [
            ("refused", of_table(table::refusals)),
            ("access denied", of_table(table::denials)),
            ("authorization failed", of_table(table::failures)),
        ];
        let refusals: Vec<Reason> = refusals
            .into_iter()
            .flat_map(|(kind, (now, before))| reasons(kind, now, before.unwrap_or_default()))
            .collect();
        let ends = reasons("end", ends(now), old.map(ends).unwrap_or_default());
        let recent = |reasons: &[Reason]| reasons.iter().map(|reason| reason.recent).sum::<u64>();
        let rates = old.zip(seconds).map(|(old, seconds)| {
            let rate =
                |read: fn(&Counts) -> u64| read(counts).saturating_sub(read(&old.counts)) as f64 / seconds;
            Rates {
                deliveries: rate(|counts| counts.deliveries),
                delivered_bytes: rate(|counts| counts.bytes),
                publishes: rate(|counts| counts.published),
                published_bytes: rate(|counts| counts.published_bytes),
                replayed: rate(|counts| counts.replayed),
                begins: rate(|counts| counts.subscribed),
                ends: recent(&ends) as f64 / seconds,
                refusals: recent(&refusals) as f64 / seconds,
                gaps: rate(|counts| counts.gaps),
                evicted: rate(|counts| counts.dropped_for_log_bytes),
            }
        });
        let cpu = now.process.cpu_seconds.zip(old.and_then(|old| old.process.cpu_seconds)).zip(seconds);
        Figures {
            started: now.started,
            version: version.clone(),
            backend: backend.clone(),
            interval: seconds,
            is_ready: now.is_ready,
            connections: counts.connections,
            laggards: counts.laggards,
            audiences: counts.audiences,
            topics: counts.topics,
            log_events: counts.log_frames,
            log_bytes: counts.log_bytes,
            rates,
            lag: old.and_then(|old| lag(&old.timings.delivery_lag, &now.timings.delivery_lag)),
            limits: limits(now),
            shards: shards(old.zip(seconds), now),
            ends,
            refusals,
            process: Process {
                resident_bytes: now.process.resident_bytes,
                cores: cpu.map(|((now, before), seconds)| (now - before).max(0.0) / seconds),
                threads: now.process.threads,
            },
            ..Figures::default()
        }
    }
}

/// The reasons that have happened at least once. The most frequent one is first.
fn reasons(kind: &'static str, now: Labelled<u64>, before: Labelled<u64>) -> Vec<Reason> {
    let before_of = |index: usize| before.get(index).map(|(_, count)| *count);
    let mut reasons: Vec<Reason> = now
        .into_iter()
        .enumerate()
        .filter(|(_, (_, total))| *total > 0)
        .map(|(index, (reason, total))| {
            let recent = before_of(index).map_or(0, |before| total.saturating_sub(before));
            Reason { kind, reason, total, recent }
        })
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.total));
    reasons
}

fn limits(now: &Snapshot) -> Vec<Limit> {
    let (counts, limits, control) = (&now.counts, &now.limits, &now.control_limits);
    let shards = now.shards.len() as u64;
    let fullest = |read: fn(&Counts) -> u64| now.shards.iter().map(read).max().unwrap_or(0);
    let limit =
        |name, option, used, limit| Limit { name, option, used, limit, is_bytes: false, may_be_full: false };
    let bytes = |of: Limit| Limit { is_bytes: true, ..of };
    let mut found = vec![
        limit(
            "connections",
            Some("--max-connections"),
            counts.connections,
            (limits.connections as u64).saturating_mul(shards),
        ),
        limit("request heads", None, counts.pending, (limits.pending as u64).saturating_mul(shards)),
        limit("undecided requests", None, counts.undecided, (limits.undecided as u64).saturating_mul(shards)),
        limit(
            "publishes in progress",
            Some("--max-publishes"),
            now.publishes_in_progress as u64,
            control.publishes as u64,
        ),
        bytes(limit(
            "memory of publishes",
            Some("--publish-memory"),
            now.publish_bytes as u64,
            control.publish_bytes as u64,
        )),
        limit(
            "events in the fullest mailbox",
            None,
            fullest(|counts| counts.mailbox_events),
            limits.mailbox_events as u64,
        ),
        bytes(limit(
            "bytes in the fullest mailbox",
            None,
            fullest(|counts| counts.mailbox_bytes),
            limits.mailbox_bytes as u64,
        )),
        // A log that is full drops its oldest events.
        Limit {
            may_be_full: true,
            ..bytes(limit("log", Some("--log-bytes"), counts.log_bytes, limits.log.total_bytes as u64))
        },
    ];
    let [_, _, tables] = &now.build;
    // Shards with tables of their own have their descriptors elsewhere.
    if tables == "shared"
        && let Some((used, most)) = now.process.open_descriptors.zip(now.process.descriptor_limit)
    {
        found.push(limit("descriptors", None, used, most));
    }
    found
}

fn shards(before: Option<(&Snapshot, f64)>, now: &Snapshot) -> Vec<Shard> {
    let of_one = |(index, counts): (usize, &Counts)| {
        let since = before.and_then(|(before, seconds)| {
            let timings = before.shard_timings.get(index).zip(now.shard_timings.get(index))?;
            Some((before.shards.get(index)?, timings, seconds))
        });
        Shard {
            connections: counts.connections,
            laggards: counts.laggards,
            mailbox_events: counts.mailbox_events,
            mailbox_bytes: counts.mailbox_bytes,
            deliveries: since.map(|(before, _, seconds)| {
                counts.deliveries.saturating_sub(before.deliveries) as f64 / seconds
            }),
            busy: since.map(|(_, (before, now), seconds)| {
                let busy = now.ticks.sum().saturating_sub(before.ticks.sum());
                (busy.as_secs_f64() / seconds).min(1.0)
            }),
        }
    };
    now.shards.iter().enumerate().map(of_one).collect()
}

/// `None`: nothing was delivered between the two.
fn lag(before: &Histogram, now: &Histogram) -> Option<Lag> {
    Some(Lag { p50: quantile(before, now, 0.5)?, p99: quantile(before, now, 0.99)? })
}

/// The time in seconds that this part of the times did not exceed which were recorded between the two. Inside
/// a bucket the times count as spread evenly, as in Prometheus; beyond the last bound, the bound is given.
fn quantile(before: &Histogram, now: &Histogram, part: f64) -> Option<f64> {
    let recent: Vec<(Option<Duration>, u64)> = before
        .buckets()
        .zip(now.buckets())
        .map(|((_, before), (bound, now))| (bound, now.saturating_sub(before)))
        .collect();
    let all: u64 = recent.iter().map(|(_, count)| count).sum();
    if all == 0 {
        return None;
    }
    let rank = part * all as f64;
    let (mut below, mut from) = (0_u64, 0.0);
    for (bound, count) in recent {
        let Some(bound) = bound.map(|bound| bound.as_secs_f64()) else { return Some(from) };
        if count > 0 && (below + count) as f64 >= rank {
            let inside = (rank - below as f64).max(0.0) / count as f64;
            return Some(from + (bound - from) * inside);
        }
        (below, from) = (below + count, bound);
    }
    Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_interval() {
        let mut before = Histogram::default();
        before.record(Duration::from_secs(20), 1_000_000);
        assert_eq!(lag(&before, &before), None, "nothing was delivered");
        let mut now = before;
        now.record(Duration::from_micros(80), 50);
        now.record(Duration::from_millis(40), 50);
        let is_near = |part: f64, time: f64| {
            let found = quantile(&before, &now, part);
            assert!(found.is_some_and(|found| (found - time).abs() < 1e-9), "{part}: {found:?}, not {time}");
        };
        // In the bucket from 50 to 100 microseconds: half of it, and its end.
        is_near(0.25, 0.000_075);
        is_near(0.5, 0.000_1);
        // 49 of 50 in the bucket from 25 to 50 milliseconds.
        is_near(0.99, 0.049_5);
        now.record(Duration::from_secs(3600), 1_000_000);
        assert_eq!(lag(&before, &now), Some(Lag { p50: 60.0, p99: 60.0 }), "beyond every bound");
    }

    /// A reader may find some numbers newer than others: a count that seems to fall is no count below zero.
    #[test]
    fn reasons_are_counted_for_the_interval_and_the_most_frequent_is_first() {
        let labelled = |counts: [u64; 3]| {
            ["a", "b", "c"].iter().zip(counts).map(|(name, count)| ((*name).to_owned(), count)).collect()
        };
        let found = reasons("end", labelled([3, 0, 10]), labelled([5, 0, 4]));
        let reason =
            |reason: &str, total, recent| Reason { kind: "end", reason: reason.to_owned(), total, recent };
        assert_eq!(found, [reason("c", 10, 6), reason("a", 3, 0)]);
        assert_eq!(reasons("end", labelled([1, 0, 0]), Vec::new()), [reason("a", 1, 0)], "the first figures");
    }

    #[test]
    fn the_list_has_the_topics_with_the_most_subscribers() {
        let topics = (0..30).map(|number| {
            let mut counts = TopicCounts::default();
            (counts.topic, counts.subscribers) = (format!("t{number:02}"), number % 15);
            counts
        });
        let list = largest(topics.collect());
        assert_eq!(list.len(), TOP_TOPICS);
        let first: Vec<_> =
            list.iter().map(|topic| (topic.topic.as_str(), topic.subscribers)).take(3).collect();
        assert_eq!(first, [("t14", 14), ("t29", 14), ("t13", 13)]);
    }
}
