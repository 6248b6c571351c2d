//! What the topic settings leave of the past of the stream.
//!
//! The stream keeps events of all topics by its own bounds. What a topic keeps is less, where its retention
//! says so, and a node gives nothing more than that, although the stream has it. So all nodes give the same,
//! however much of it each of them has in memory.
//!
//! For each topic there is a number up to which its events are expired. By age this is asked of the times of
//! messages, and by count of the number of messages of its subject. Both only rise, so what was asked a moment
//! ago hides nothing that is still covered. An event of several topics does not count, because its subject
//! says nothing of its topics. Bytes are not counted: the stream does not tell how many a subject has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fanfare_proto::event::{Event, Topic};
use fanfare_proto::limits::{LogLimits, Retention};
use tokio::time::Instant;

use crate::api::ApiError;
use crate::shared::Shared;
use crate::sync::lock;

/// For so long nothing is asked again.
const FRESH: Duration = Duration::from_secs(1);

/// Topics of which the expired events are remembered.
const MOST_TOPICS: usize = 1 << 14;

/// How long one read counts messages of topics again. After that it takes what was found before.
const RECOUNT_TIME: Duration = Duration::from_millis(20);

/// How long one read counts messages of topics of which nothing is known. After that it fails, and the next
/// try goes on.
const COUNT_TIME: Duration = Duration::from_millis(400);

/// How long one call may take.
const STEP: Duration = Duration::from_secs(1);

/// The retention of all topics, and what is known of the stream by it.
#[derive(Default)]
pub(crate) struct Retained {
    limits: RwLock<Arc<LogLimits>>,
    /// Expired by count, with the number of events that the topic keeps.
    topics: Mutex<HashMap<Topic, (u64, Expired)>>,
    /// Expired by age, for each age.
    ages: Mutex<HashMap<Duration, Expired>>,
}

/// Everything up to this number is expired.
#[derive(Clone, Copy)]
struct Expired {
    up_to: u64,
    asked: Instant,
}

/// What is expired, for one read.
pub(crate) struct Expiry<'s> {
    shared: &'s Shared,
    limits: Arc<LogLimits>,
    /// The newest number that is read.
    newest: u64,
    begun: Instant,
}

impl Retained {
    pub(crate) fn set(&self, limits: LogLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
        lock(&self.topics).clear();
        lock(&self.ages).clear();
    }

    fn limits(&self) -> Arc<LogLimits> {
        Arc::clone(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Expired {
    fn now(up_to: u64) -> Expired {
        Expired { up_to, asked: Instant::now() }
    }

    fn is_fresh(self) -> bool {
        self.asked.elapsed() < FRESH
    }
}

impl Expiry<'_> {
    pub(crate) fn new(shared: &Shared, newest: u64) -> Expiry<'_> {
        Expiry { shared, limits: shared.retained.limits(), newest, begun: Instant::now() }
    }

    /// Everything of the topic up to this number is expired, to a reader that has everything up to `after`.
    /// What is at or below this number is not looked at.
    pub(crate) async fn of_topic(&self, topic: &Topic, after: u64) -> Result<u64, String> {
        let retention = *self.limits.retention_of(topic);
        if keeps_nothing(retention) {
            return Ok(self.newest);
        }
        let by_age = self.by_age(retention.age).await?;
        Ok(by_age.max(self.by_count(topic, retention.events as u64, after).await?))
    }

    /// Whether a topic of the event still covers it.
    pub(crate) async fn covers(&self, number: u64, event: &Event) -> Result<bool, String> {
        for topic in event.topics() {
            let retention = *self.limits.retention_of(topic);
            if keeps_nothing(retention) || number <= self.by_age(retention.age).await? {
                continue;
            }
            if number > self.by_count(topic, retention.events as u64, number - 1).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Everything of any topic up to this number is expired.
    pub(crate) async fn of_all(&self) -> Result<u64, String> {
        let mut up_to = self.newest;
        let limits = Arc::clone(&self.limits);
        let rules = limits.rules.iter().map(|rule| rule.retention);
        for retention in rules.chain([limits.retention]).filter(|retention| !keeps_nothing(*retention)) {
            up_to = up_to.min(self.by_age(retention.age).await?);
        }
        Ok(up_to)
    }

    async fn by_age(&self, age: Duration) -> Result<u64, String> {
        let now = self.shared.clock.date().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(oldest) = now.checked_sub(age).map(|time| time.as_millis() as u64) else { return Ok(0) };
        if self.shared.first_ms() >= oldest {
            return Ok(0);
        }
        let known = lock(&self.shared.retained.ages).get(&age).copied();
        let up_to = match known {
            Some(known) if known.is_fresh() => return Ok(known.up_to.min(self.newest)),
            known => self.older_than(oldest, known.map_or(0, |known| known.up_to)).await?,
        };
        lock(&self.shared.retained.ages).insert(age, Expired::now(up_to));
        Ok(up_to)
    }

    /// The last number with a message from before this time, where those up to `known` are.
    async fn older_than(&self, oldest: u64, known: u64) -> Result<u64, String> {
        // Up to `low` all are older, and from `high` on none is.
        let (mut low, mut high, mut step) = (known.min(self.newest), self.newest + 1, 1);
        while high - low > 1 {
            let at = low.saturating_add(step).min(low + (high - low) / 2).max(low + 1);
            let next =
                self.shared.api.next_message(at, ">", STEP).await.map_err(|error| error.to_string())?;
            match next.map(|message| (message.stored.number, message.stored.published_ms)) {
                Some((number, time)) if number < high && time < oldest => {
                    (low, step) = (number, step.saturating_mul(2));
                }
                _ => (high, step) = (at, u64::MAX / 2),
            }
        }
        Ok(low)
    }

    async fn by_count(&self, topic: &Topic, events: u64, after: u64) -> Result<u64, String> {
        let first = self.shared.first().max(1);
        // Behind these numbers there are not more messages, of all topics together, than this one keeps.
        if self.newest.saturating_sub(after.max(first - 1)) <= events {
            return Ok(0);
        }
        let known = lock(&self.shared.retained.topics).get(topic).copied();
        let known = known.filter(|(kept, _)| *kept == events).map(|(_, known)| known);
        if let Some(known) = known
            && (known.is_fresh() || self.begun.elapsed() >= RECOUNT_TIME)
        {
            return Ok(known.up_to.min(self.newest));
        }
        if self.begun.elapsed() >= COUNT_TIME {
            return Err("it takes long to count the messages of many topics".to_owned());
        }
        let known = known.map_or(0, |known| known.up_to).max(first - 1);
        let up_to = self.all_but_newest(topic, events, known).await.map_err(|error| error.to_string())?;
        let mut topics = lock(&self.shared.retained.topics);
        if topics.len() >= MOST_TOPICS {
            topics.clear();
        }
        topics.insert(topic.clone(), (events, Expired::now(up_to)));
        Ok(up_to)
    }

    /// The number behind which the topic has so many messages, where it is not below `known`.
    async fn all_but_newest(&self, topic: &Topic, events: u64, known: u64) -> Result<u64, ApiError> {
        let (api, subject) = (&self.shared.api, self.shared.subjects.of_topic(topic));
        if api.messages_of(&subject, STEP).await? <= events {
            return Ok(0);
        }
        let behind = async |number: u64| api.messages_from(number + 1, &subject, STEP).await;
        let (mut low, mut high) = (known, self.newest);
        let (mut of_low, mut of_high) = (behind(low).await?, 0);
        if of_low <= events {
            return Ok(low);
        }
        // Behind `low` there are too many, and behind `high` there are not. The messages of a topic are spread
        // more or less evenly, so the place is computed; every second time the middle is taken.
        let mut by_half = false;
        while high - low > 1 && of_high < events {
            let share = if by_half { 0.5 } else { (of_low - events) as f64 / (of_low - of_high) as f64 };
            let at = low + ((high - low) as f64 * share) as u64;
            let at = at.clamp(low + 1, high - 1);
            match behind(at).await? {
                count if count > events => (low, of_low) = (at, count),
                count => (high, of_high) = (at, count),
            }
            by_half = !by_half;
        }
        Ok(high)
    }
}

fn keeps_nothing(retention: Retention) -> bool {
    retention.events == 0 || retention.bytes == 0
}
