//! Presence: how many subscribers a topic has, its history of the last minutes, and events about it.
//!
//! The shards note joins by topic ([`fanfare::Builder::note_joins`]). A thread of its own takes them once in
//! an interval, asks the engine for the counts of these topics, keeps the history, and publishes an event for
//! each topic whose events are read. So nothing here is on the way of a connection or of an event, and a
//! topic without a change costs nothing.

mod others;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use fanfare::{Event, EventType, Hub, InspectError, Pattern, PublishError, Topic, TopicCounts};
use fanfare_config::{PRESENCE_PREFIX, PRESENCE_RETAIN_AGE, Settings};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::clock::unix_time;
use crate::cluster::peers::Peers;
use crate::cluster::topic_settings::TopicSettings;
use crate::rules::CurrentRules;
use others::{Entry, Others};

pub(crate) const PREFIX: &str = PRESENCE_PREFIX;

/// The type of presence events.
const EVENT_TYPE: &str = "presence";

/// The length of one bucket of the history, and how many there are.
const BUCKET_S: u64 = 10;
const BUCKETS: u64 = 60;

/// Topics whose changes one interval takes in. Others wait, and have the sum.
const TOPICS_PER_INTERVAL: usize = 4096;

/// Topics that one question to the shards names, and events that are published together.
const TOPICS_PER_QUESTION: usize = 256;

/// Presence events take at most this part of the log, because everyone who may subscribe causes them.
const PART_OF_LOG: usize = 8;

/// What an event is counted for, beside its texts: its frame, its topic and their entries in tables, about.
const EVENT_BYTES: usize = 512;

/// How much longer than its age an event may stay in the log.
const LATE: Duration = Duration::from_secs(1);

/// Questions of one interval about topics whose joins may have been missed, and the time between two such
/// passes over all topics.
const REFRESHES_PER_INTERVAL: usize = 4;
const REFRESH_PAUSE: Duration = Duration::from_secs(2);

/// How often the servers of a cluster tell each other everything, since a message may be lost.
const TELL_ALL: Duration = Duration::from_secs(30);

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
        (!patterns.is_empty()).then_some(PresenceOptions {
            patterns,
            topics: settings.presence_topics,
            interval: settings.presence_interval,
        })
    }

    /// The same with the topic settings that hold for all servers.
    pub(crate) fn shared(settings: &Settings, shared: &TopicSettings) -> Option<PresenceOptions> {
        let (patterns, interval) = (shared.presence().to_vec(), shared.presence_interval());
        let topics = settings.presence_topics;
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

    /// The most topics that wait to be told.
    fn untold(&self) -> usize {
        self.topics.max(TOPICS_PER_INTERVAL)
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
    clock: HistoryClock,
    state: Mutex<Histories>,
    /// `None`: the server is alone.
    peers: Option<Arc<dyn Peers>>,
    others: Mutex<Others>,
}

/// The time since 1970 by the wall clock of the start, and since then by a clock that is never set. A wall
/// clock that was ahead for a moment would leave buckets in the future.
#[derive(Debug)]
struct HistoryClock {
    began_unix: Duration,
    began: Instant,
}

impl HistoryClock {
    fn now(&self) -> Duration {
        self.began_unix + self.began.elapsed()
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    fn new(options: PresenceOptions, peers: Option<Arc<dyn Peers>>) -> Presence {
        let clock = HistoryClock { began_unix: unix_time(), began: Instant::now() };
        Presence { options, clock, state: Mutex::default(), peers, others: Mutex::default() }
    }

    /// Starts its thread, which ends with the engine.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(
        options: PresenceOptions,
        hub: Hub,
        rules: CurrentRules,
        peers: Option<Arc<dyn Peers>>,
    ) -> io::Result<Arc<Presence>> {
        let presence = Arc::new(Presence::new(options, peers));
        let follows = Arc::clone(&presence);
        thread::Builder::new().name("fanfare-counts".to_owned()).spawn(move || {
            // Where that is refused, it competes with the shards a little more.
            let _ = fanfare::prefer_short_runs();
            let mut waiting = Waiting::default();
            loop {
                let is_private = rules.get().access.has_private_presence();
                if follows.step(&hub, &mut waiting, is_private, follows.clock.now()).is_err() {
                    return;
                }
                thread::sleep(follows.options.interval);
            }
        })?;
        Ok(presence)
    }

    /// The history of a topic, if it has changed in the last minutes.
    pub(crate) fn history(&self, topic: &Topic) -> Option<History> {
        self.lock().history(topic, self.clock.now().as_secs())
    }

    /// Subscribers of the topic on other servers of the cluster.
    pub(crate) fn elsewhere(&self, topic: &Topic) -> usize {
        self.lock_others().subscribers(topic)
    }

    /// Takes in what another server of the cluster has told.
    pub(crate) fn take_in(&self, from: &str, payload: &[u8]) {
        self.lock_others().take_in(from, payload, self.options.topics, |topic| self.options.has(topic));
    }

    fn lock(&self) -> MutexGuard<'_, Histories> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether someone reads the events about this topic, on any server.
    fn is_watched(&self, hub: &Hub, topic: &Topic) -> bool {
        is_watched(hub, topic) || self.lock_others().is_watched(topic)
    }

    /// Whether this server publishes the events. Of a cluster it is the server that was started first: a server
    /// that is new does not know yet what all the others have.
    fn is_teller(&self) -> bool {
        let Some(peers) = &self.peers else { return true };
        let age = |name: &str| name.rsplit_once('-').map_or("", |(_, age)| age).to_owned();
        let own = (age(peers.own_name()), peers.own_name());
        peers.others().iter().all(|other| own < (age(other), other.as_str()))
    }

    /// Notes which other servers are there, what they have told, and whether one is new.
    fn hear(&self, waiting: &mut Waiting) {
        let Some(peers) = &self.peers else { return };
        let mut others = self.lock_others();
        others.see(&peers.others());
        waiting.refresh.is_needed |= others.take_need();
        let room = TOPICS_PER_INTERVAL.saturating_sub(waiting.of_others.len());
        for (topic, change) in others.take_changes(room) {
            waiting.of_others.entry(topic).or_default().add(change);
        }
        drop(others);
        // No server has told what changed between the end of the last teller and now.
        let is_teller = self.is_teller();
        let was_teller = std::mem::replace(&mut waiting.refresh.was_teller, is_teller);
        if is_teller && !was_teller {
            (waiting.refresh.is_needed, waiting.refresh.takes_over) = (true, true);
        }
        // Messages may be lost where a connection is.
        waiting.refresh.is_needed |= self.clock.now() >= waiting.refresh.tells_all_at;
    }

    /// Tells the other servers. False: they cannot be told.
    fn tell_others(&self, topics: Vec<Entry>) -> bool {
        let peers = self.peers.as_ref().filter(|_| !topics.is_empty());
        peers.is_none_or(|peers| peers.broadcast(others::message(topics)))
    }

    /// Takes in what has changed, and publishes events about it. What finds no room now stays in `waiting`.
    ///
    /// # Errors
    /// The engine has stopped.
    fn step(&self, hub: &Hub, waiting: &mut Waiting, is_private: bool, now: Duration) -> Result<(), Stopped> {
        self.hear(waiting);
        let result = match self.note_changes(hub, waiting, now) {
            Ok(()) => self.refresh(hub, waiting, now),
            failed => failed,
        };
        match result {
            Err(InspectError::Stopped) => Err(Stopped),
            // What was not asked is asked in the next interval.
            _ => self.tell(hub, waiting, is_private, now),
        }
    }

    fn note_changes(&self, hub: &Hub, waiting: &mut Waiting, now: Duration) -> Result<(), InspectError> {
        let room = TOPICS_PER_INTERVAL.saturating_sub(waiting.changes.len());
        for joins in hub.take_joins(room) {
            waiting.add(&self.options, &joins.topic, joins.joined, joins.left);
        }
        let is_teller = self.is_teller();
        while !waiting.changes.is_empty() || !waiting.of_others.is_empty() {
            let part = waiting.take(TOPICS_PER_QUESTION);
            let topics = part.iter().map(|changed| changed.topic.clone()).collect();
            let counts = match hub.topic_counts(topics, PATIENCE) {
                Ok(counts) => counts,
                Err(error) => {
                    waiting.give_back(part);
                    return Err(error);
                }
            };
            let mut entries = Vec::new();
            for (Changed { topic, here, elsewhere }, counts) in part.into_iter().zip(counts) {
                if let Some(here) = here {
                    entries.push(Entry::new(&topic, counts.subscribers, here, is_watched(hub, &topic)));
                }
                let mut change = here.unwrap_or_default();
                change.add(elsewhere);
                let subscribers = counts.subscribers + self.elsewhere(&topic);
                let happened = Happened { subscribers, joined: change.joined, left: change.left };
                if change != Change::default() {
                    self.lock().note(&topic, happened, now.as_secs(), self.options.topics);
                }
                if is_teller && self.is_watched(hub, &topic) {
                    waiting.add_untold(topic, happened, self.options.untold());
                }
            }
            waiting.refresh.is_needed |= !self.tell_others(entries);
        }
        Ok(())
    }

    /// Goes on with a pass over all topics, if joins were missed since the last one began: notes and tells
    /// those whose count is not what the history says, and tells every topic whose events are read by its
    /// name, because one that has begun to read them may have been missed, too.
    fn refresh(&self, hub: &Hub, waiting: &mut Waiting, now: Duration) -> Result<(), InspectError> {
        let missed = hub.counts().joins_missed;
        let refresh = &mut waiting.refresh;
        refresh.is_needed |= std::mem::replace(&mut refresh.missed, missed) != missed;
        if refresh.rest.is_none() && refresh.is_needed && now >= refresh.next_at {
            refresh.is_needed = false;
            refresh.tells_all_watched = std::mem::take(&mut refresh.takes_over);
            refresh.tells_all_at = now + TELL_ALL;
            refresh.next_at = now + REFRESH_PAUSE;
            refresh.known = self.lock().topics.keys().cloned().collect();
            refresh.rest = Some(None);
        }
        for _ in 0..REFRESHES_PER_INTERVAL {
            let Some(after) = waiting.refresh.rest else { return Ok(()) };
            if waiting.untold.len() + TOPICS_PER_QUESTION > self.options.untold() {
                // The same topics would find no room in each pass.
                return Ok(());
            }
            // Those with a history first: a topic that all have left is on no page.
            let known = &waiting.refresh.known;
            let known = known[known.len().saturating_sub(TOPICS_PER_QUESTION)..].to_vec();
            let mut rest = Some(after);
            let topics: Vec<(Topic, bool)> = if known.is_empty() {
                let page = hub.topics_page(after, TOPICS_PER_QUESTION, PATIENCE)?;
                rest = page.next.map(Some);
                page.topics.into_iter().filter_map(|counts| self.to_refresh(counts)).collect()
            } else {
                known.iter().map(|topic| (topic.clone(), false)).collect()
            };
            let names: Vec<Topic> = topics.iter().map(|(topic, _)| topic.clone()).collect();
            let counts = if names.is_empty() { Vec::new() } else { hub.topic_counts(names, PATIENCE)? };
            waiting.refresh.known.truncate(waiting.refresh.known.len() - known.len());
            waiting.refresh.rest = rest;
            let is_teller = self.is_teller();
            let mut entries = Vec::new();
            for ((topic, is_read_by_name), counts) in topics.into_iter().zip(counts) {
                let is_watched_here = is_watched(hub, &topic);
                // Also where there are none any more: the message that said so may be lost.
                entries.push(Entry::new(&topic, counts.subscribers, Change::default(), is_watched_here));
                let subscribers = counts.subscribers + self.elsewhere(&topic);
                let happened = Happened { subscribers, joined: 0, left: 0 };
                let last = self.lock().last_count(&topic);
                let differs = last.unwrap_or(0) as usize != subscribers;
                let is_watched = self.is_watched(hub, &topic);
                if differs && (is_watched || last.is_some()) {
                    self.lock().note(&topic, happened, now.as_secs(), self.options.topics);
                }
                let is_to_be_told = differs || is_read_by_name || waiting.refresh.tells_all_watched;
                if is_teller && is_watched && is_to_be_told {
                    waiting.add_untold(topic, happened, self.options.untold());
                }
            }
            waiting.refresh.is_needed |= !self.tell_others(entries);
        }
        Ok(())
    }

    /// The topic with presence that a topic of a page is about, and whether its events are read by their
    /// name.
    fn to_refresh(&self, counts: TopicCounts) -> Option<(Topic, bool)> {
        match counts.topic.as_str().strip_prefix(PREFIX) {
            Some(about) if counts.subscribers > 0 && self.options.has(about) => {
                Some((Topic::new(about).ok()?, true))
            }
            Some(_) => None,
            None => self
                .options
                .has(&counts.topic)
                .then(|| Topic::new(&counts.topic).ok())
                .flatten()
                .map(|topic| (topic, false)),
        }
    }

    /// Publishes events of what is not told yet, private ones where only a grant is to show them, as far as
    /// the part of the log has room.
    fn tell(&self, hub: &Hub, waiting: &mut Waiting, is_private: bool, now: Duration) -> Result<(), Stopped> {
        let most = hub.limits().log.total_bytes / PART_OF_LOG;
        loop {
            let mut told = Vec::new();
            let mut events = Vec::new();
            while events.len() < TOPICS_PER_QUESTION
                && waiting.share.has_room(most, now)
                && let Some((topic, happened)) = waiting.next_untold()
            {
                // An event that nobody reads would only take room from others in the log.
                let to = event_topic(&topic).filter(|_| self.is_watched(hub, &topic));
                if let Some((event, bytes)) = to.and_then(|to| event(to, &topic, happened)) {
                    waiting.share.spend(bytes, now);
                    events.push(event.with_private(is_private));
                    told.push((topic, happened));
                }
            }
            if events.is_empty() {
                return Ok(());
            }
            match hub.publish_wait(&mut events, PATIENCE).map_err(|error| error.error) {
                Ok(_) => {}
                Err(PublishError::Stopped) => return Err(Stopped),
                Err(PublishError::Busy) => {
                    // Those that were not taken are the last ones. They are told in the next interval.
                    for (topic, happened) in told.split_off(told.len() - events.len()) {
                        waiting.add_untold(topic, happened, self.options.untold());
                    }
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(%error, "presence events were not published");
                    // A later pass tells the counts.
                    waiting.refresh.is_needed = true;
                    return Ok(());
                }
            }
        }
    }
}

/// Whether someone reads the events about this topic.
fn is_watched(hub: &Hub, topic: &Topic) -> bool {
    event_topic(topic).is_some_and(|to| hub.is_read(&to))
}

/// The engine has stopped.
#[derive(Debug)]
struct Stopped;

/// What has changed and is not told yet, by topic.
#[derive(Debug, Default)]
struct Waiting {
    /// Not in the history yet.
    changes: BTreeMap<Topic, Change>,
    /// The same, of what other servers have told.
    of_others: BTreeMap<Topic, Change>,
    /// In the history, and to be told.
    untold: BTreeMap<Topic, Happened>,
    /// The topic that was announced last. The next announcement begins after it, so that each topic has its
    /// turn.
    told: Option<Topic>,
    share: Share,
    refresh: Refresh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    joined: u64,
    left: u64,
}

impl Change {
    fn add(&mut self, other: Change) {
        self.joined = self.joined.saturating_add(other.joined);
        self.left = self.left.saturating_add(other.left);
    }
}

/// A topic that has changed, here or on other servers.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    topic: Topic,
    /// `None`: nothing has changed here.
    here: Option<Change>,
    elsewhere: Change,
}

/// What the presence events in the log take.
#[derive(Debug, Default)]
struct Share {
    /// Bytes by the time when they were spent, the oldest first.
    spent: VecDeque<(Duration, usize)>,
    bytes: usize,
}

/// A pass over all topics after joins were missed.
#[derive(Debug, Default)]
struct Refresh {
    /// As of the last interval.
    missed: u64,
    /// Joins were missed since the pass began.
    is_needed: bool,
    /// When the next pass may begin.
    next_at: Duration,
    /// When the other servers of a cluster are told of all topics again.
    tells_all_at: Duration,
    /// Topics with history that the pass has not come to.
    known: Vec<Topic>,
    /// Where the page of topics begins that comes next. `None`: no pass is under way.
    rest: Option<Option<u64>>,
    /// Whether this server published the events in the last interval.
    was_teller: bool,
    /// It has begun to: the next pass tells the counts of all topics whose events are read.
    takes_over: bool,
    /// The pass does that.
    tells_all_watched: bool,
}

impl Share {
    fn has_room(&mut self, most: usize, now: Duration) -> bool {
        while let Some(&(at, bytes)) = self.spent.front()
            && at + PRESENCE_RETAIN_AGE + LATE <= now
        {
            self.spent.pop_front();
            self.bytes -= bytes;
        }
        self.bytes < most
    }

    fn spend(&mut self, bytes: usize, now: Duration) {
        self.bytes += bytes;
        match self.spent.back_mut() {
            Some((at, spent)) if *at == now => *spent += bytes,
            _ => self.spent.push_back((now, bytes)),
        }
    }
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

    fn take(&mut self, most: usize) -> Vec<Changed> {
        let next = || {
            if let Some((topic, here)) = self.changes.pop_first() {
                let elsewhere = self.of_others.remove(&topic).unwrap_or_default();
                return Some(Changed { topic, here: Some(here), elsewhere });
            }
            let (topic, elsewhere) = self.of_others.pop_first()?;
            Some(Changed { topic, here: None, elsewhere })
        };
        std::iter::from_fn(next).take(most).collect()
    }

    fn give_back(&mut self, changes: Vec<Changed>) {
        for Changed { topic, here, elsewhere } in changes {
            if elsewhere != Change::default() || here.is_none() {
                self.of_others.insert(topic.clone(), elsewhere);
            }
            self.changes.extend(here.map(|here| (topic, here)));
        }
    }

    /// Adds what is to be told. Beyond the bound it is as if it was missed.
    fn add_untold(&mut self, topic: Topic, happened: Happened, most: usize) {
        if self.untold.len() >= most && !self.untold.contains_key(&topic) {
            self.refresh.is_needed = true;
            return;
        }
        let untold = self.untold.entry(topic).or_insert(Happened { joined: 0, left: 0, ..happened });
        untold.subscribers = happened.subscribers;
        untold.joined += happened.joined;
        untold.left += happened.left;
    }

    /// The topics that are announced next. Each topic has its turn.
    fn next_untold(&mut self) -> Option<(Topic, Happened)> {
        let behind = self.told.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.untold.range::<Topic, _>((behind, Bound::Unbounded)).next();
        let topic = next.or_else(|| self.untold.first_key_value())?.0.clone();
        self.told = Some(topic.clone());
        self.untold.remove_entry(&topic)
    }
}

/// The topic of the events about a topic. `None`: its name is too long for that.
fn event_topic(topic: &Topic) -> Option<Topic> {
    Topic::new(format!("{PREFIX}{topic}")).ok()
}

/// An event, and what it takes of the log, about.
fn event(to: Topic, topic: &Topic, happened: Happened) -> Option<(Event, usize)> {
    let Happened { subscribers, joined, left } = happened;
    let data = json!({ "topic": topic.as_str(), "subscribers": subscribers, "joined": joined, "left": left });
    let data = data.to_string();
    let bytes = EVENT_BYTES + 2 * to.as_str().len() + data.len();
    let kind = EventType::new(EVENT_TYPE).ok()?;
    Some((Event::new(to).with_type(kind).with_data(data), bytes))
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

    /// How many subscribers there were at the last change.
    fn last_count(&self, topic: &Topic) -> Option<u32> {
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
        // The shards were too busy to answer.
        let part = waiting.take(10);
        waiting.give_back(part);
        waiting.add(&options, &topic("a"), 5, 0);
        waiting.add(&options, &topic("presence/ab"), 1, 0);
        waiting.add(&options, &topic("presence/a"), 1, 0);
        // Nobody begins to read these, or there is no presence of them.
        waiting.add(&options, &topic("presence/ac"), 0, 1);
        waiting.add(&options, &topic("presence/b"), 1, 0);
        waiting.add(&options, &topic("presence/presence/a"), 1, 0);
        let all = waiting.take(10);
        let here = |name: &str, joined, left| Changed {
            topic: topic(name),
            here: Some(Change { joined, left }),
            elsewhere: Change::default(),
        };
        assert_eq!(all, [here("a", 7, 1), here("ab", 0, 0)]);
        // What others have told of the same topic goes with it.
        waiting.of_others.insert(topic("a"), Change { joined: 1, left: 2 });
        waiting.of_others.insert(topic("b"), Change { joined: 3, left: 0 });
        waiting.add(&options, &topic("a"), 1, 0);
        let part = waiting.take(10);
        waiting.give_back(part);
        let elsewhere = Change { joined: 1, left: 2 };
        let of_a = Changed { elsewhere, ..here("a", 1, 0) };
        let of_b = Changed { topic: topic("b"), here: None, elsewhere: Change { joined: 3, left: 0 } };
        assert_eq!(waiting.take(10), [of_a, of_b]);
        let (patterns, most) = options.noted();
        let noted = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
        assert!(noted("abc") && noted("/rooms/7") && noted("presence/b") && !noted("b") && most == 10);
        assert!(is_reserved(&topic("presence/x")) && !is_reserved(&topic("presence")));
        // The longest name has no room for more.
        let [longest, long] = [256, 256 - PREFIX.len()].map(|bytes| topic("x".repeat(bytes)));
        assert_eq!((event_topic(&longest), event_topic(&long).is_some()), (None, true));
    }

    #[test]
    fn what_is_not_told_is_added_up_and_each_topic_has_its_turn() {
        let mut waiting = Waiting::default();
        let order = |waiting: &mut Waiting, count: usize| -> Vec<String> {
            (0..count).filter_map(|_| Some(waiting.next_untold()?.0.to_string())).collect()
        };
        for name in ["a", "b", "c", "d"] {
            waiting.add_untold(topic(name), happened(1, 1, 0), 4);
        }
        assert_eq!(order(&mut waiting, 2), ["a", "b"]);
        // Topics that change all the time do not take the turns of the others.
        waiting.add_untold(topic("a"), happened(2, 1, 0), 4);
        waiting.add_untold(topic("a"), happened(1, 1, 2), 4);
        waiting.add_untold(topic("b"), happened(2, 1, 0), 4);
        assert_eq!(order(&mut waiting, 2), ["c", "d"]);
        assert_eq!(waiting.next_untold(), Some((topic("a"), happened(1, 2, 2))));
        // What finds no room is as if it was missed.
        for number in 0..3 {
            waiting.add_untold(topic(number.to_string()), happened(1, 1, 0), 4);
        }
        assert!(!waiting.refresh.is_needed && waiting.untold.len() == 4);
        waiting.add_untold(topic("new"), happened(1, 1, 0), 4);
        waiting.add_untold(topic("b"), happened(3, 1, 0), 4);
        assert!(waiting.refresh.is_needed && waiting.untold.len() == 4);
    }

    /// Clients that joined and left pushed the events of others out of the log.
    #[test]
    fn the_events_in_the_log_have_a_bounded_share() {
        let mut share = Share::default();
        let at = |second: u64| Duration::from_secs(NOW + second);
        let age = (PRESENCE_RETAIN_AGE + LATE).as_secs();
        for second in 0..10 {
            assert!(share.has_room(1000, at(second)));
            share.spend(60, at(second));
            share.spend(40, at(second));
        }
        assert!(!share.has_room(1000, at(10)) && !share.has_room(1000, at(age - 1)));
        // The oldest ones are gone from the log.
        assert!(share.has_room(1000, at(age + 1)));
        assert_eq!((share.bytes, share.spent.len()), (800, 8));
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
