//! Presence: how many subscribers a topic has, its history of the last minutes, and events about it.
//!
//! The shards note joins by topic ([`fanfare::Builder::note_joins`]). A thread of its own takes them once in
//! an interval, asks the engine for the counts of these topics, keeps the history, and publishes an event for
//! each topic whose events are read. So nothing here is on the way of a connection or of an event, and a
//! topic without a change costs nothing.

mod history;
mod others;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use fanfare::{Event, EventType, Hub, InspectError, Pattern, PublishError, Topic, TopicCounts};
use fanfare_config::{PRESENCE_PREFIX, PRESENCE_RETAIN_AGE, Settings};
use serde_json::json;

use crate::cluster::peers::Peers;
use crate::cluster::topic_settings::TopicSettings;
use crate::rules::CurrentRules;
pub(crate) use history::History;
use history::{BUCKETS, Bucket, Happened, Histories, HistoryClock};
use others::{Entry, Others};

pub(crate) const PREFIX: &str = PRESENCE_PREFIX;

/// The type of presence events.
const EVENT_TYPE: &str = "presence";

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

impl Presence {
    fn new(options: PresenceOptions, peers: Option<Arc<dyn Peers>>) -> Presence {
        let clock = HistoryClock::start();
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

    /// Whether this server publishes the events. Of a cluster it is the server that was started first: a
    /// server that is new does not know yet what all the others have.
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
            refresh.known = self.lock().topics().cloned().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn topic(name: impl AsRef<str>) -> Topic {
        Topic::new(name).unwrap()
    }

    fn happened(subscribers: usize, joined: u64, left: u64) -> Happened {
        Happened { subscribers, joined, left }
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
}
