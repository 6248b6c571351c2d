//! Every bound of the engine, in one place: its name, unit, default, reason, and what happens there.
//!
//! The bounds of an event's own fields are fixed where the fields are parsed, and named here too.
//! Full is an answer (a refusal, a gap, an eviction with its reason), never growth.

use std::str::FromStr;
use std::time::Duration;

use crate::client_limits::ClientLimits;
use crate::event::{InvalidEvent, Topic};
pub use crate::event::{MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, MAX_TOPIC_BYTES, MAX_TOPICS_PER_EVENT};
use crate::frame::HeartbeatForm;
use crate::head::HeadLimits;

/// What happens to a slow subscriber when the log does not have what it needs any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaggardPolicy {
    /// Its connection is closed; it reconnects and resumes from its last id.
    #[default]
    Disconnect,
    /// It stays, loses what the log does not keep any more, and is told so by a `fanfare.gap` event.
    Skip,
}

/// The answer to a subscriber that cannot be taken now.
///
/// Browsers reconnect only after a network error or the end of a stream: any status but 200 stops
/// an `EventSource` for good. Hence the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullPolicy {
    /// `503` with a jittered `Retry-After`: clear to libraries and proxies, final for a browser.
    #[default]
    Unavailable,
    /// `200`, a jittered `retry`, and the end of the stream: a browser comes back by itself.
    EndStream,
    /// The connection is closed without an answer: a browser comes back by itself.
    Drop,
}

/// How long and how much the log keeps of one topic. The bound that is reached first decides. Where one event
/// takes the place of very many, the last of these go a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Events kept at most. Zero keeps none: every resume is a gap.
    pub events: usize,
    /// Bytes of events kept at most. An event of several topics counts in each of them.
    pub bytes: usize,
    /// Events of this age are dropped.
    pub age: Duration,
}

impl Default for Retention {
    /// 100,000 events, 64 MiB, one hour: a topic alone may fill the log; [`LogLimits::total_bytes`] divides
    /// it fairly.
    fn default() -> Retention {
        Retention { events: 100_000, bytes: 64 << 20, age: Duration::from_secs(3600) }
    }
}

/// The topics that a rule is for: one name, or all names with one beginning.
///
/// Written as the name, or as the beginning and `*`. A `*` elsewhere is a character like others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicPattern {
    /// The topic with this name.
    Exact(Topic),
    /// The topics whose names begin with this text; all, if it is empty.
    Prefix(String),
}

impl TopicPattern {
    /// Whether the pattern is for this topic.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            TopicPattern::Exact(name) => name == topic,
            TopicPattern::Prefix(prefix) => topic.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidEvent;

    /// Reads a pattern.
    ///
    /// # Errors
    /// The text before a `*` at the end, or the whole text, cannot be (the beginning of) a topic.
    fn from_str(text: &str) -> Result<TopicPattern, InvalidEvent> {
        match text.strip_suffix('*') {
            Some("") => Ok(TopicPattern::Prefix(String::new())),
            Some(prefix) => Topic::new(prefix).map(|_| TopicPattern::Prefix(prefix.to_owned())),
            None => Topic::new(text).map(TopicPattern::Exact),
        }
    }
}

/// The retention of the topics that match a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionRule {
    /// Which topics.
    pub topics: TopicPattern,
    /// What is kept of each of them.
    pub retention: Retention,
}

impl RetentionRule {
    /// This retention for these topics.
    pub fn new(topics: TopicPattern, retention: Retention) -> RetentionRule {
        RetentionRule { topics, retention }
    }
}

/// The bounds of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLimits {
    /// What is kept of each topic that no rule matches.
    pub retention: Retention,
    /// Rules for some topics; the first that matches holds.
    pub rules: Vec<RetentionRule>,
    /// Memory of all events in the log, in bytes, with their indexes and what is known of topics whose events
    /// are gone. At the bound, the largest topics lose their oldest events.
    pub total_bytes: usize,
}

impl Default for LogLimits {
    /// [`Retention::default`] for every topic, and 64 MiB in all.
    fn default() -> LogLimits {
        LogLimits { retention: Retention::default(), rules: Vec::new(), total_bytes: 64 << 20 }
    }
}

setters! {
    Retention {
        events, with_events: usize;
        bytes, with_bytes: usize;
        age, with_age: Duration;
    }
}

setters! {
    LogLimits {
        retention, with_retention: Retention;
        rules, with_rules: Vec<RetentionRule>;
        total_bytes, with_total_bytes: usize;
    }
}

setters! {
    Limits {
        connections, with_connections: usize;
        clients, with_clients: ClientLimits;
        when_full, with_when_full: FullPolicy;
        pending, with_pending: usize;
        head_time, with_head_time: Duration;
        undecided, with_undecided: usize;
        decision_time, with_decision_time: Duration;
        head, with_head: HeadLimits;
        topics_per_subscription, with_topics_per_subscription: usize;
        patterns, with_patterns: usize;
        members_per_subscription, with_members_per_subscription: usize;
        details_bytes, with_details_bytes: usize;
        members_lingering, with_members_lingering: usize;
        announcements, with_announcements: usize;
        life_cycle_events, with_life_cycle_events: usize;
        event_bytes, with_event_bytes: usize;
        batch_topics, with_batch_topics: usize;
        mailbox_events, with_mailbox_events: usize;
        mailbox_bytes, with_mailbox_bytes: usize;
        mailbox_total_bytes, with_mailbox_total_bytes: usize;
        mailbox_others, with_mailbox_others: usize;
        laggard_bytes, with_laggard_bytes: usize;
        laggard_total_bytes, with_laggard_total_bytes: usize;
        congestion_streams, with_congestion_streams: usize;
        delivery_bytes, with_delivery_bytes: usize;
        laggard_time, with_laggard_time: Duration;
        subscription_bytes, with_subscription_bytes: usize;
        local_readers, with_local_readers: usize;
        laggard_policy, with_laggard_policy: LaggardPolicy;
        log, with_log: LogLimits;
        heartbeat, with_heartbeat: Duration;
        heartbeat_min, with_heartbeat_min: Duration;
        heartbeat_form, with_heartbeat_form: HeartbeatForm;
        connection_age, with_connection_age: Option<Duration>;
        retry, with_retry: Duration;
    }
}

impl LogLimits {
    /// What is kept of this topic: by the first rule that matches, or by the general retention.
    pub fn retention_of(&self, topic: &Topic) -> &Retention {
        self.retention_at(self.rule_of(topic))
    }

    /// Which retention a topic has; see [`LogLimits::retention_at`].
    pub(crate) fn rule_of(&self, topic: &Topic) -> u32 {
        let rule = self.rules.iter().position(|rule| rule.topics.matches(topic));
        rule.map_or(0, |rule| rule as u32 + 1)
    }

    /// The retention that [`LogLimits::rule_of`] named.
    pub(crate) fn retention_at(&self, rule: u32) -> &Retention {
        let rule = (rule as usize).checked_sub(1).and_then(|rule| self.rules.get(rule));
        rule.map_or(&self.retention, |rule| &rule.retention)
    }
}

/// The bounds of one engine. `Default` is meant for production. A time of [`Duration::MAX`] is never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections per shard. At the bound [`Limits::when_full`] answers; no stream ends for a newcomer.
    ///
    /// Of this bound, and of those of other bounds that all clients share, the last part is the operator's:
    /// see [`crate::client_limits::reserve_of`].
    pub connections: usize,
    /// What one client may have, and who the operator is.
    pub clients: ClientLimits,
    /// The answer to a subscriber that finds no room.
    pub when_full: FullPolicy,
    /// Requests per shard whose head is not complete, whose refusal is still being read, or that resume from
    /// an event which the shard does not have yet. At the bound the head that has been incomplete for the
    /// longest time is closed without an answer; where there is none, the newcomer. Bounds slow-head attacks
    /// to this many times 16 KiB.
    pub pending: usize,
    /// A request head must be complete within this time, or it is answered 408 and closed.
    pub head_time: Duration,
    /// Requests per shard whose admission has not decided yet, and requests that are decided and wait for
    /// their turn, because the work of one tick for new streams is bounded: 503 for the next one. A request
    /// counts until its decision and its turn come, until [`Limits::decision_time`] is over, or until the
    /// shard finds that its client has left: the shard looks at a part of them every [`UNDECIDED_CHECK`].
    pub undecided: usize,
    /// The admission must decide about a request within this time, and its turn must come, or it is answered
    /// 503 and closed.
    pub decision_time: Duration,
    /// Bytes and fields of a request head, at most 32 KiB: 431, or 414 for its first line.
    pub head: HeadLimits,
    /// Topics and patterns of one subscription: 400.
    pub topics_per_subscription: usize,
    /// Different patterns that subscribers read, or have read lately, in the whole process: the subscriber of
    /// one more is answered as if there were no room. A publish looks for the patterns of its topics. The
    /// operator has no part of this bound for itself: a pattern is also refused for the work that it makes
    /// together with others, of which no part could be kept.
    pub patterns: usize,
    /// Members of topics that one subscription adds: the next subscription with more is answered 500. All of
    /// them are joined under one hold of a lock that all shards take.
    pub members_per_subscription: usize,
    /// Bytes per shard of what is known of its connections beside their streams: the members that they add,
    /// and, where there are life-cycle events, the texts of their subjects. A subscription that would exceed
    /// it is answered as [`Limits::when_full`] says. A connection without both takes nothing of it.
    pub details_bytes: usize,
    /// Members of all topics that stay without a connection. At the bound the member leaves that would leave
    /// first.
    pub members_lingering: usize,
    /// Members of all topics that wait for the announcement that they joined. Beyond it neither their joining
    /// nor their leaving is announced.
    pub announcements: usize,
    /// Life-cycle events that wait for their reader, at most 1,048,576; zero: there are none. What finds no
    /// room is counted, and an event in the queue says how much it was.
    pub life_cycle_events: usize,
    /// Bytes of one event's data: 413 to the publisher.
    pub event_bytes: usize,
    /// Topics of all events of a batch, each counted in each event, that are published under one hold of the
    /// hub's locks: a larger batch is published in parts. An entry costs about a microsecond, for which other
    /// publishers, and subscribers that come or replay, wait.
    pub batch_topics: usize,
    /// Events that wait in a shard's mailbox, which is the queue from the hub to the shard. At the bound a
    /// publish is answered "busy" (503). The bound is small because it is the latency when the shards are
    /// saturated.
    pub mailbox_events: usize,
    /// Bytes of events that wait in a shard's mailbox; an empty mailbox takes any one event.
    pub mailbox_bytes: usize,
    /// Bytes of events that wait in all mailboxes together, an event counted in each: a bound of the process
    /// whatever the number of shards. Where nothing waits any one event is taken.
    pub mailbox_total_bytes: usize,
    /// Sockets and inspections that wait in a shard's mailbox: `adopt` answers "busy".
    pub mailbox_others: usize,
    /// Bytes per shard of events that slow subscribers have received in part, and of the beginnings of their
    /// streams. The rest of such an event is held until the socket takes it. Beyond the bound, of a sample of
    /// these connections the one whose end frees most is disconnected. How far a slow subscriber may be
    /// behind is not bounded by this, but by what the log retains: it reads from there.
    pub laggard_bytes: usize,
    /// Bytes of the same for all shards together: a bound of the process whatever the number of shards. Each
    /// shard has an equal share of it where that is less than [`Limits::laggard_bytes`], and room for one
    /// event of the largest size.
    pub laggard_total_bytes: usize,
    /// When most streams of the hub are slow, and at least this many, publishers wait for them
    /// ([`CONGESTION_HOLD`]). Fewer slow streams hold up no publisher: they are closed, or skip events, at
    /// their own bounds.
    pub congestion_streams: usize,
    /// Bytes per shard of events that it has taken from its mailbox and is delivering. Beyond it the shard
    /// takes no more, and publishers of its topics wait.
    pub delivery_bytes: usize,
    /// A slow subscriber whose socket takes no byte for this long is closed, under either policy.
    pub laggard_time: Duration,
    /// Bytes per shard of what its subscriptions read: the topics with their names, here and in the log, and
    /// the audiences. A subscription that would exceed it is answered as [`Limits::when_full`] says. One
    /// whose audience is there already takes nothing of it.
    pub subscription_bytes: usize,
    /// Readers in the same process, over all topics: a reader beyond it is an error. A publish checks the
    /// readers of its topics one by one where some of them sleep.
    pub local_readers: usize,
    /// What happens to a slow subscriber when the log does not have what it needs any more.
    pub laggard_policy: LaggardPolicy,
    /// What the log keeps, for clients that resume and for slow subscribers.
    pub log: LogLimits,
    /// A comment is sent where nothing else was within this time, at least 100 ms. nginx and ELB cut at 60 s,
    /// some polyfills at 45 s.
    pub heartbeat: Duration,
    /// A subscription may ask for a shorter interval between heartbeats, down to this. Below it, it gets
    /// this. Some clients give up after 5 s of silence. Every heartbeat costs about as much as a delivery.
    pub heartbeat_min: Duration,
    /// `:` and a line feed, or `:` and a blank line.
    pub heartbeat_form: HeartbeatForm,
    /// Streams end between 80 and 100 % of this age, to two tenths of a second, so that load can move;
    /// `None`: never. A slow subscriber's ends later, with the event that it is in the middle of.
    pub connection_age: Option<Duration>,
    /// The reconnection time told to subscribers. Each gets 100 to 150 % of it, so that clients which were
    /// cut together do not come back together.
    pub retry: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1_000_000,
            clients: ClientLimits::default(),
            when_full: FullPolicy::default(),
            pending: 16_384,
            head_time: Duration::from_secs(10),
            undecided: 16_384,
            decision_time: Duration::from_secs(10),
            head: HeadLimits::default(),
            topics_per_subscription: 64,
            patterns: PATTERNS,
            members_per_subscription: 16,
            details_bytes: 512 << 20,
            members_lingering: 1 << 16,
            announcements: 1 << 16,
            life_cycle_events: 0,
            event_bytes: 1 << 20,
            batch_topics: 512,
            mailbox_events: 512,
            mailbox_bytes: 4 << 20,
            mailbox_total_bytes: 64 << 20,
            mailbox_others: 4096,
            laggard_bytes: 32 << 20,
            laggard_total_bytes: 256 << 20,
            congestion_streams: 64,
            delivery_bytes: 64 << 20,
            laggard_time: Duration::from_secs(30),
            subscription_bytes: 512 << 20,
            local_readers: 1024,
            laggard_policy: LaggardPolicy::default(),
            log: LogLimits::default(),
            heartbeat: Duration::from_secs(20),
            heartbeat_min: Duration::from_secs(1),
            heartbeat_form: HeartbeatForm::Line,
            connection_age: None,
            retry: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// Takes over those of these bounds that can change while streams are served: all but these, with which
    /// tables and queues were made or which publishers and readers in the process are judged by:
    /// [`Limits::head`], [`Limits::members_lingering`], [`Limits::announcements`],
    /// [`Limits::life_cycle_events`], [`Limits::batch_topics`], the bounds of mailboxes,
    /// [`Limits::laggard_total_bytes`], [`Limits::congestion_streams`], [`Limits::local_readers`], and the
    /// retention and the rules of [`Limits::log`], which have a change of their own.
    ///
    /// What is there beyond a lower bound stays until it leaves. A stream keeps the end and the interval of
    /// heartbeats that it was given, unless the interval is the general one.
    pub fn take_over(&mut self, from: &Limits) {
        self.connections = from.connections;
        self.clients = from.clients.clone();
        self.when_full = from.when_full;
        self.pending = from.pending;
        self.head_time = from.head_time;
        self.undecided = from.undecided;
        self.decision_time = from.decision_time;
        self.topics_per_subscription = from.topics_per_subscription;
        self.members_per_subscription = from.members_per_subscription;
        self.details_bytes = from.details_bytes;
        self.event_bytes = from.event_bytes;
        self.laggard_bytes = from.laggard_bytes;
        self.delivery_bytes = from.delivery_bytes;
        self.laggard_time = from.laggard_time;
        self.subscription_bytes = from.subscription_bytes;
        self.laggard_policy = from.laggard_policy;
        self.log.total_bytes = from.log.total_bytes;
        self.heartbeat = from.heartbeat;
        self.heartbeat_min = from.heartbeat_min;
        self.heartbeat_form = from.heartbeat_form;
        self.connection_age = from.connection_age;
        self.retry = from.retry;
    }

    /// The time between heartbeats of a subscription that allows at most `asked` of silence (`None`: it did
    /// not ask): at least [`Limits::heartbeat_min`], at most [`Limits::heartbeat`], which is all that a
    /// longer one needs.
    pub fn heartbeat_interval(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.heartbeat, |asked| asked.max(self.heartbeat_min).min(self.heartbeat))
    }
}

/// The longest subject and the longest name of a member, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// The most that a member of a topic takes without the names, in bytes. It may be the only one of its topic.
pub const MEMBER_BYTES: usize = 1280;

/// The place of what is known of a connection beside its names, in bytes. There are as many places as there
/// are connections at most, in chunks: a chunk is there while one of its places is used.
pub const DETAILS_PLACE_BYTES: usize = 80;

/// The place of the names of a connection, which are its subject and its token, in bytes; in chunks, too. A
/// connection without a name has no place.
pub const NAMES_PLACE_BYTES: usize = 24;

/// The most that a shard takes for orders about names, in bytes: those that it looks for, and those that it
/// remembers for decisions under way.
pub const ORDERS_BYTES: usize = 256 << 10;

/// The place of the number that tells where the connection of a socket is counted, in bytes; in chunks, too.
pub const COUNTED_SOCKET_BYTES: usize = 4;

/// Life-cycle events that a queue may hold: its room is reserved at the start.
pub const LIFE_CYCLE_EVENTS_MAX: usize = 1 << 20;

/// Bytes of a request that are received at once: a whole head, and what a client sends right behind it.
pub const RECEIVE_BYTES: usize = 32 << 10;

/// Sends of one tick to members of audiences. Then the tick goes on to other work. At 2 to 7 us a send this
/// is about a millisecond, which is what a small topic waits beside a broadcast.
pub const TICK_SENDS: usize = 256;

/// An event that at most this many streams of a shard are to get has its turns in the first half of these
/// sends, so that a topic of ten waits for half a tick of a broadcast, and very many such events leave it the
/// other half.
pub const SMALL_FAN_OUT: usize = 64;

/// Events that an unfinished sweep may still have to bring to some member before the shard takes no more.
pub const SWEEP_FRAMES: usize = 8192;

/// When most connections, and at least [`Limits::congestion_streams`], are laggards whose sockets still take
/// bytes, the path out is full, not the subscribers slow: then events wait for at most this long at a time,
/// and publishers learn that the mailbox is full, instead of everyone being evicted at once.
pub const CONGESTION_HOLD: Duration = Duration::from_millis(250);

/// A laggard whose socket has taken nothing for this long is slow by itself, whatever the path.
pub const STANDSTILL: Duration = Duration::from_secs(1);

/// Bytes of consecutive frames that one send carries. A send of 60 KB costs about four small ones and
/// carries hundreds of events; more gains little and lengthens the tick.
pub const RUN_BYTES: usize = 60 << 10;

/// Bytes that the sends of one tick offer in all: a tick of full runs takes about as long
/// as one of small frames.
pub const TICK_BYTES: usize = 8 << 20;

/// Laggards that are served in one tick.
pub const LAGGARD_TURNS: usize = 64;

/// Frames that one tick reads from the log for laggards: about a millisecond. A laggard with tiny events
/// reads many of them in one turn, and with 64 topics each of them is the smallest of 64.
pub const REPLAYED_FRAMES: usize = 4096;

/// How long one read of the log looks for the frames of patterns, in steps of about ten nanoseconds: a sixth
/// of a millisecond, for which the log's lock is held. See
/// [`Selection::steps`](crate::selection::Selection::steps).
pub const SCAN_STEPS: usize = 1 << 14;

/// Such steps that cost as much of [`REPLAYED_FRAMES`] as a frame of a topic does.
pub const STEPS_OF_A_READ_FRAME: usize = 32;

/// Steps of walks through the table of patterns that are made for one part of a batch: half a millisecond,
/// for which the log's lock is held. The part ends there. One event may need more: at most
/// [`MAX_STATES`](crate::pattern::MAX_STATES) steps for each byte of its topics.
pub const WALK_STEPS: usize = 1 << 16;

/// Drops that may wait to be noted in the patterns of their topics. What these topics take is bounded, too:
/// by a mebibyte. From half of that on, publishers make the walks of two such drops for each topic that they
/// append to. Beyond it, the oldest drops count as those of all patterns that have not been asked for since:
/// their subscribers may be told of gaps that are none.
pub const WAITING_NOTES: usize = 8192;

/// Such steps that cost as much as marking one audience.
pub const STEPS_OF_A_MARK: usize = 8;

/// Bytes of the patterns that the log remembers although no subscriber reads them. Beyond it, those that were
/// left first are forgotten: two for each that is left, and the rest with the next events. Patterns that are
/// read take nothing of it.
pub const REMEMBERED_PATTERN_BYTES: usize = 16 << 20;

/// Different patterns that the log knows, unless [`Limits::patterns`] says otherwise.
pub const PATTERNS: usize = 10_000;

/// Events for many that may wait to be marked behind another one before the shard takes no more.
pub const MARKINGS: usize = 16;

/// Streams that are ended at once to make room for what other links have begun.
pub const ROOM_ENDINGS: usize = 16;

/// Laggards that one tick checks for those that make room. Behind that, the largest of a few is ended.
pub const ROOM_CHECKS: usize = 1 << 14;

/// Laggards that are checked in any case for one that makes room.
pub const ROOM_CHECKS_MIN: usize = 8;

/// Decisions about requests that came later, acted on in one tick: about a millisecond and a half of work,
/// each as much as an accept and the opening of a stream. A crowd whose decisions come at once may not hold
/// up events for longer.
pub const DECISIONS: usize = 128;

/// Deadlines that one tick acts on.
pub const EXPIRIES: usize = 256;

/// Frames that one read of the log gives to a laggard, so that the log's lock is held for microseconds.
pub const RUN_FRAMES: usize = 512;

/// Frames that a reader in the same process takes from the log under one hold of its lock.
pub const LOCAL_READ_FRAMES: usize = 256;

/// Bytes of the same; one frame of any size is taken in any case.
pub const LOCAL_READ_BYTES: usize = 256 << 10;

/// Members that one tick checks for those that are behind: a quarter of a millisecond.
pub const SCANS: usize = 1 << 16;

/// What a turn of an audience costs of these, where nothing was sent in it: about as long as checking so many
/// members. Very many audiences may be queued that have nothing to send, because their members have left.
pub const TURN_SCANS: usize = 16;

/// Streams that one tick sends heartbeats to. After a broadcast to a million streams, those of 2,000 are due
/// in each piece of upkeep.
pub const HEARTBEATS: usize = 256;

/// Streams that one tick ends with their last bytes.
pub const ENDINGS: usize = 256;

/// Streams that one tick checks for those that a drain ends: half a millisecond.
pub const DRAIN_CHECKS: usize = 1 << 16;

/// How often a shard asks whether the clients of requests that wait for their decision have left, and those
/// of subscribers that wait for where they start. Clients that came and left held all places for ten seconds
/// otherwise, and no other client was served.
pub const UNDECIDED_CHECK: Duration = Duration::from_millis(50);

/// Requests about which it asks each time: some 100 us of work.
pub const UNDECIDED_CHECKS: usize = 1024;

/// Topics that the new streams of one tick register for, and changes of topics, which count four times: some
/// two milliseconds of work where none of the topics is in a cache. What comes beyond that waits for the next
/// tick, and holds up no event.
pub const OPENING_TOPICS: usize = 1024;

/// What each search for the frames of patterns counts of these that the opening of a stream makes. It may
/// take as long as [`SCAN_STEPS`] says. A stream that resumes makes two of them, one more to report a gap,
/// and one more to find the event that has an id of its publisher.
pub const OPENING_TOPICS_OF_A_SCAN: usize = 64;

/// Topics whose last reader has left that one tick removes: a millisecond of work where nothing of them is in
/// a cache. A mass of subscribers with 64 topics of their own that left at once held up events for three
/// seconds.
pub const REMOVALS: usize = 512;

/// Streams that one tick looks at to answer a question about connections: some 0.1 ms where nothing of them
/// is in a cache. A million of them take a thousand ticks. What has to ask the kernel, or is in the answer,
/// counts as several.
pub const STATES: usize = 1024;

/// Topics whose joins a shard notes until it hands them over, which it does ten times a second, and sooner
/// where half of them are used. Joins beyond it are counted as missed.
pub const JOINED_TOPICS: usize = 16_384;

/// Topics whose joins one tick hands over.
pub const JOINS_PER_TICK: usize = 512;

/// How long a shard gathers joins before it hands them over.
pub const JOINS_INTERVAL: Duration = Duration::from_millis(100);

/// Laggards that one tick checks for those that stand still.
pub const LAGGARD_CHECKS: usize = 1024;

/// Time between two checks of all laggards for those at their bound.
pub const LAGGARD_CHECK: Duration = Duration::from_millis(250);

/// How long a subscriber waits for a number that is newer than everything here, before it is told of a gap.
pub const AHEAD_WAIT: Duration = Duration::from_secs(2);

/// How often the shard checks whether such a number has come.
pub const AHEAD_POLL: Duration = Duration::from_millis(10);

/// Such subscribers that one tick checks.
pub const RESUMES: usize = 256;

/// Frames that one append drops because the retention of the event's topics does not cover them any more, and
/// two for each topic: 0.1 ms under the log's lock. The rest goes in the next ticks.
pub const APPEND_DROPS: usize = 256;

/// Frames that one tick drops because retention does not cover them any more.
pub const TRIM_FRAMES: usize = 1024;

/// Streams whose lifetimes end together end apart by up to this time, or by a twentieth of their lifetime.
pub const EXPIRY_SPREAD: Duration = Duration::from_secs(30);

/// How long a refused client may take to read its answer before the socket is closed under it.
pub const LINGER: Duration = Duration::from_secs(2);

/// Pause before `accept` is tried again when descriptors or memory are used up.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Old frames are dropped at most this late, so that a quiet shard wakes once for many of them.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_as_often_as_was_asked_within_the_bounds() {
        let seconds = Duration::from_secs;
        let limits = Limits { heartbeat: seconds(20), heartbeat_min: seconds(2), ..Limits::default() };
        let cases =
            [(None, 20), (Some(1), 2), (Some(2), 2), (Some(4), 4), (Some(20), 20), (Some(u64::MAX), 20)];
        for (asked, interval) in cases {
            assert_eq!(limits.heartbeat_interval(asked.map(seconds)), seconds(interval), "{asked:?}");
        }
        // A server whose own interval is below the least one keeps its own.
        let quick = Limits { heartbeat: Duration::from_millis(200), ..limits };
        assert_eq!(quick.heartbeat_interval(Some(seconds(1))), Duration::from_millis(200));
    }
}
