//! What the topic settings leave of the past of the stream, to a subscriber that begins.
//!
//! The stream keeps events of all topics by its own bounds. A topic may keep less, and then a subscriber that
//! begins is given no more than that. So it finds the same on all nodes, however much of it each of them has
//! in memory. It is decided at the moment at which the subscriber begins. What expires later is still in the
//! stream, so a subscriber that reads slowly loses nothing by it, and neither does one that was there when
//! the events came.
//!
//! For each topic there is a number up to which its events are expired. By age this is asked of the times of
//! messages, and by count of the number of messages of its subject. An event of several topics does not
//! count, because its subject says nothing of its topics, and a message that is no event does. Bytes are not
//! counted: the stream does not tell how many a subject has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fanfare_proto::event::Topic;
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_store::{Gone, Record};
use tokio::time::Instant;

use crate::api::ApiError;
use crate::shared::Shared;
use crate::sync::lock;

/// For so long what JetStream has said is used again, also for other subscribers.
const FRESH: Duration = Duration::from_secs(1);

/// Topics of which the expired events are remembered.
const MOST_TOPICS: usize = 1 << 14;

/// How long the messages of topics are counted again, for one subscriber that begins. After that, what was
/// found before is taken.
const RECOUNT_TIME: Duration = Duration::from_millis(20);

/// How long messages of topics are counted of which nothing is known, for one subscriber. After that, the
/// subscriber is given more than the topics keep.
const COUNT_TIME: Duration = Duration::from_millis(400);

/// How long one call may take.
const STEP: Duration = Duration::from_secs(1);

/// Messages of a subject that are looked at, to find one that the subscriber would have got.
const MOST_LOOKS: usize = 16;

/// The retention of all topics, and what was found of the stream by it.
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

/// The moment at which a subscriber begins.
pub(crate) struct AtStart {
    shared: Arc<Shared>,
    limits: Arc<LogLimits>,
    /// The newest number. What comes later has not expired.
    newest: u64,
    /// In milliseconds since 1970.
    now_ms: u64,
    begun: Instant,
    /// What was found, of each topic that was asked for.
    topics: Mutex<HashMap<Topic, u64>>,
    ages: Mutex<HashMap<Duration, u64>>,
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

impl AtStart {
    pub(crate) fn now(shared: Arc<Shared>, newest: u64) -> AtStart {
        let since = shared.clock.date().duration_since(UNIX_EPOCH).unwrap_or_default();
        AtStart {
            limits: shared.retained.limits(),
            shared,
            newest,
            now_ms: since.as_millis() as u64,
            begun: Instant::now(),
            topics: Mutex::default(),
            ages: Mutex::default(),
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether anything in the stream can be expired.
    pub(crate) fn may_have_expired(&self) -> bool {
        let messages = (self.newest + 1).saturating_sub(self.shared.first().max(1));
        let covers_all = |retention: Retention| {
            !keeps_nothing(retention)
                && messages <= retention.events as u64
                && self.shared.first_ms() >= self.oldest(retention.age)
        };
        messages > 0
            && !(covers_all(self.limits.retention)
                && self.limits.rules.iter().all(|rule| covers_all(rule.retention)))
    }

    /// Up to where something of these topics is expired, to a subscriber that has everything up to `after`.
    pub(crate) async fn expired_of(&self, topics: &[Topic], after: u64) -> Result<Gone, String> {
        let mut by_number = Vec::new();
        for topic in topics {
            by_number.push((self.expired_up_to(topic).await?, self.shared.subjects.of_topic(topic)));
        }
        // Events of several topics are under one subject, which does not tell the topics.
        let of_all = by_number.iter().map(|(up_to, _)| *up_to).min().unwrap_or_default();
        by_number.push((of_all, self.shared.subjects.multi()));
        by_number.sort_unstable();
        by_number.dedup();
        let mut gone = Gone::default();
        // From the highest number down: the first one with a message is the answer.
        for (up_to, subject) in by_number.into_iter().rev() {
            if up_to <= gone.newest_public.max(after) {
                break;
            }
            match self.find_messages(&subject, topics, after, up_to).await? {
                Found::Nothing => {}
                Found::Private => gone.note(up_to, true),
                Found::Public => gone.note(up_to, false),
            }
        }
        Ok(gone)
    }

    /// Looks for events of these topics under a subject, behind `after` and up to the number `up_to`. Where
    /// no public one is among the first messages, the others are not looked at, and one of them counts as
    /// public.
    async fn find_messages(
        &self,
        subject: &str,
        topics: &[Topic],
        after: u64,
        up_to: u64,
    ) -> Result<Found, String> {
        let (mut from, mut found) = (after + 1, Found::Nothing);
        for _ in 0..MOST_LOOKS {
            let next = self.shared.api.next_message(from, subject, STEP).await;
            let next = next.map_err(|error| error.to_string())?;
            let Some(message) = next.filter(|message| message.stored.number <= up_to) else {
                return Ok(found);
            };
            let event = message.to_record(&self.shared.subjects).map(|record| record.event);
            let event = event.filter(|event| event.topics().iter().any(|topic| topics.contains(topic)));
            match event {
                Some(event) if event.is_private() => found = Found::Private,
                Some(_) => return Ok(Found::Public),
                None => {}
            }
            from = message.stored.number + 1;
        }
        Ok(Found::Public)
    }

    /// Those of these records that had not expired.
    pub(crate) async fn only_covered(&self, records: Vec<Record>) -> Result<Vec<Record>, String> {
        let mut covered = Vec::with_capacity(records.len());
        for record in records {
            if record.number > self.newest || self.covers(&record).await? {
                covered.push(record);
            }
        }
        Ok(covered)
    }

    async fn covers(&self, record: &Record) -> Result<bool, String> {
        for topic in record.event.topics() {
            let retention = *self.limits.retention_of(topic);
            if keeps_nothing(retention) || record.published_ms < self.oldest(retention.age) {
                continue;
            }
            // There are fewer messages behind it, of all topics together, than this one keeps.
            let is_new = self.newest - record.number < retention.events as u64;
            if is_new || record.number > self.expired_up_to(topic).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Everything of the topic up to this number was expired.
    pub(crate) async fn expired_up_to(&self, topic: &Topic) -> Result<u64, String> {
        if let Some(known) = lock(&self.topics).get(topic) {
            return Ok(*known);
        }
        let retention = *self.limits.retention_of(topic);
        let up_to = if keeps_nothing(retention) {
            self.newest
        } else {
            let by_age = self.by_age(retention.age).await?;
            by_age.max(self.by_count(topic, retention.events as u64).await?).min(self.newest)
        };
        let mut topics = lock(&self.topics);
        if topics.len() < MOST_TOPICS {
            topics.insert(topic.clone(), up_to);
        }
        Ok(up_to)
    }

    /// What was published before this time, in milliseconds since 1970, is older than that.
    fn oldest(&self, age: Duration) -> u64 {
        self.now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    async fn by_age(&self, age: Duration) -> Result<u64, String> {
        let oldest = self.oldest(age);
        if self.shared.first_ms() >= oldest {
            return Ok(0);
        }
        if let Some(known) = lock(&self.ages).get(&age) {
            return Ok(*known);
        }
        let known = lock(&self.shared.retained.ages).get(&age).copied();
        let up_to = match known {
            Some(known) if known.is_fresh() => known.up_to,
            known => {
                let up_to = self.older_than(oldest, known.map_or(0, |known| known.up_to)).await?;
                lock(&self.shared.retained.ages).insert(age, Expired::now(up_to));
                up_to
            }
        };
        lock(&self.ages).insert(age, up_to);
        Ok(up_to)
    }

    /// The time of the first message with this number or a higher one, and its number.
    async fn message_from(&self, number: u64) -> Result<Option<(u64, u64)>, String> {
        let next =
            self.shared.api.next_message(number, ">", STEP).await.map_err(|error| error.to_string())?;
        Ok(next.map(|message| (message.stored.number, message.stored.published_ms)))
    }

    /// The last number with a message from before this time, where it is probably not below `known`.
    async fn older_than(&self, oldest: u64, known: u64) -> Result<u64, String> {
        let known = known.min(self.newest);
        // The clock may have been set back.
        let is_known = known > 0 && self.message_from(known).await?.is_some_and(|(_, time)| time < oldest);
        // Up to `low` all are older, and from `high` on none is.
        let (mut low, mut high, mut step) = (if is_known { known } else { 0 }, self.newest + 1, 1);
        while high - low > 1 {
            let at = low.saturating_add(step).min(low + (high - low) / 2).max(low + 1);
            match self.message_from(at).await? {
                Some((number, time)) if number < high && time < oldest => {
                    (low, step) = (number, step.saturating_mul(2));
                }
                _ => (high, step) = (at, u64::MAX / 2),
            }
        }
        Ok(low)
    }

    async fn by_count(&self, topic: &Topic, events: u64) -> Result<u64, String> {
        let first = self.shared.first().max(1);
        if (self.newest + 1).saturating_sub(first) <= events {
            return Ok(0);
        }
        let known = lock(&self.shared.retained.topics).get(topic).copied();
        let known = known.filter(|(kept, _)| *kept == events).map(|(_, known)| known);
        let (fresh, time) = match known {
            Some(known) => (known.is_fresh(), RECOUNT_TIME),
            None => (false, COUNT_TIME),
        };
        let known = known.map_or(0, |known| known.up_to);
        if fresh || self.begun.elapsed() >= time {
            return Ok(known);
        }
        let up_to = match self.all_but_newest(topic, events, known.max(first - 1)).await {
            Ok(up_to) => up_to,
            // For instance because the stream may have no more consumers.
            Err(error @ ApiError::Refused { .. }) => {
                self.shared.link.note_error(format!("the messages of a topic cannot be counted: {error}"));
                known
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut topics = lock(&self.shared.retained.topics);
        if topics.len() >= MOST_TOPICS {
            topics.clear();
        }
        topics.insert(topic.clone(), (events, Expired::now(up_to)));
        Ok(up_to)
    }

    /// The number behind which the topic has so many messages, where it is probably not below `known`.
    async fn all_but_newest(&self, topic: &Topic, events: u64, known: u64) -> Result<u64, ApiError> {
        let (api, subject) = (&self.shared.api, self.shared.subjects.of_topic(topic));
        if api.messages_of(&subject, STEP).await? <= events {
            return Ok(0);
        }
        let behind = async |number: u64| api.messages_from(number + 1, &subject, STEP).await;
        let (mut low, mut high) = (known, self.newest);
        let (mut of_low, mut of_high) = (behind(low).await?, 0);
        if of_low < events {
            // Messages were deleted since.
            low = self.shared.first().saturating_sub(1);
            of_low = behind(low).await?;
        }
        if of_low <= events {
            return Ok(low);
        }
        // Behind `low` there are too many, and behind `high` there are not. The messages of a topic are
        // spread more or less evenly, so the place is computed; every second time the middle is taken.
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

/// What there is for a subscriber.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Private events alone.
    Private,
    Public,
}

fn keeps_nothing(retention: Retention) -> bool {
    retention.events == 0 || retention.bytes == 0
}
