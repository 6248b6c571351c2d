//! What the tasks and threads of one backplane share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

use fanfare::{Feed, LogBreak};
use fanfare_io::Clock;
use fanfare_proto::cursor::Epoch;
use fanfare_proto::histogram::Histogram;
use tokio::sync::{Notify, watch};

use crate::api::{Api, StreamInfo};
use crate::bucket::Bucket;
use crate::holes::Holes;
use crate::link::Link;
use crate::nodes::Nodes;
use crate::options::NatsOptions;
use crate::recent::Recent;
use crate::retained::Retained;
use crate::runs::Runs;
use crate::status::NatsStatus;
use crate::stream;
use crate::sync::lock;
use crate::topics::Subjects;

/// So many looks in a row have to fail before a node does not count as caught up any more.
const FAILED_LOOKS: u64 = 2;

/// A node that is further behind than this has to catch up.
const BEHIND: u64 = 1000;

/// What the tasks and threads of one backplane share.
pub(crate) struct Shared {
    pub(crate) options: NatsOptions,
    pub(crate) subjects: Subjects,
    pub(crate) link: Arc<Link>,
    pub(crate) api: Api,
    pub(crate) bucket: Bucket,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) epoch: Epoch,
    /// When the stream was created, as the server writes it.
    pub(crate) created: String,
    /// What is different between the stream and the options.
    pub(crate) differences: Vec<String>,
    /// The end was asked for.
    pub(crate) end: watch::Sender<bool>,
    pub(crate) counts: Counts,
    pub(crate) runs: Runs,
    pub(crate) holes: Holes,
    pub(crate) clock: Clock,
    pub(crate) recent: Recent,
    pub(crate) retained: Retained,
    extent: Extent,
    feed: RwLock<Option<Feed>>,
    /// One decision at a time: the engine learns the last one.
    deciding: Mutex<()>,
    /// Why the feed has to break off.
    break_off: Mutex<Option<LogBreak>>,
    /// It was told to break off.
    pub(crate) broken: Notify,
    /// A look at the stream is wanted at once.
    pub(crate) check_now: Notify,
}

/// Where the stream begins and ends, and how far this node is.
#[derive(Default)]
struct Extent {
    first: AtomicU64,
    /// When the first message was stored, in milliseconds since 1970.
    first_ms: AtomicU64,
    last: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// The largest message that the stream takes; zero: as large as the server takes.
    max_message: AtomicU64,
    /// Everything up to this number is with the feed, or about to be.
    delivered: AtomicU64,
    /// Everything up to this number is with the engine.
    appended: AtomicU64,
    /// The connection over which the last look at the stream was made.
    looked_over: AtomicU64,
    /// The number that has to be appended before the node has caught up.
    target: AtomicU64,
    /// The consumer delivers, or sends signs of life.
    is_live: AtomicBool,
    /// Somebody has changed the settings of the stream, so that a node cannot do with it.
    is_unusable: AtomicBool,
    /// Looks at the stream that have failed since one succeeded.
    failed_looks: AtomicU64,
    is_caught_up: AtomicBool,
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) submitted: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) undecided: AtomicU64,
    pub(crate) unreachable: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) in_flight_bytes: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) recreations: AtomicU64,
    pub(crate) no_events: AtomicU64,
    pub(crate) acknowledgement_time: Mutex<Histogram>,
}

impl Shared {
    pub(crate) fn new(
        options: NatsOptions,
        api: Api,
        bucket: Bucket,
        epoch: Epoch,
        info: &StreamInfo,
        end: watch::Sender<bool>,
    ) -> Shared {
        let differences = stream::differences(&info.config, &options);
        let clock = Clock::start();
        let now = clock.date().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shared = Shared {
            differences: differences.iter().map(ToString::to_string).collect(),
            subjects: Subjects::new(&options.prefix),
            nodes: Arc::new(Nodes::new(Arc::clone(api.link()), &options.name, &options.stream, now)),
            link: Arc::clone(api.link()),
            options,
            api,
            bucket,
            epoch,
            created: info.created.clone(),
            end,
            counts: Counts::default(),
            runs: Runs::default(),
            holes: Holes::default(),
            clock,
            recent: Recent::default(),
            retained: Retained::default(),
            extent: Extent::default(),
            feed: RwLock::default(),
            deciding: Mutex::default(),
            break_off: Mutex::default(),
            broken: Notify::new(),
            check_now: Notify::new(),
        };
        shared.extent.delivered.store(info.last, Ordering::Relaxed);
        shared.extent.appended.store(info.last, Ordering::Relaxed);
        shared.note_info(info, shared.link.connects());
        shared
    }

    /// Notes what the server says of the stream. `generation`: the connection over which it was asked.
    pub(crate) fn note_info(&self, info: &StreamInfo, generation: u64) {
        let extent = &self.extent;
        extent.first.store(info.first, Ordering::Relaxed);
        extent.first_ms.store(info.first_ms, Ordering::Relaxed);
        extent.last.store(info.last, Ordering::Relaxed);
        extent.messages.store(info.messages, Ordering::Relaxed);
        extent.bytes.store(info.bytes, Ordering::Relaxed);
        let max_message = info.config["max_msg_size"].as_i64().unwrap_or(-1).max(0) as u64;
        extent.max_message.store(max_message, Ordering::Relaxed);
        self.runs.set_direct(info.config["allow_direct"].as_bool().unwrap_or_default());
        if extent.looked_over.swap(generation, Ordering::AcqRel) != generation {
            extent.target.store(info.last, Ordering::Relaxed);
            extent.is_caught_up.store(false, Ordering::Relaxed);
        }
        self.evaluate();
    }

    /// Everything up to this number is with the feed, or about to be. It is never below the engine's number.
    pub(crate) fn delivered(&self) -> u64 {
        self.extent.delivered.load(Ordering::Acquire)
    }

    pub(crate) fn set_delivered(&self, number: u64) {
        self.extent.delivered.fetch_max(number, Ordering::AcqRel);
    }

    /// Everything up to this number is with the engine.
    pub(crate) fn appended(&self) -> u64 {
        self.extent.appended.load(Ordering::Acquire)
    }

    pub(crate) fn set_appended(&self, number: u64) {
        self.extent.appended.fetch_max(number, Ordering::AcqRel);
        self.evaluate();
    }

    /// A look at the stream has succeeded, or not. After two that have not, nobody knows where the stream
    /// ends.
    pub(crate) fn note_look(&self, has_succeeded: bool) {
        match has_succeeded {
            true => self.extent.failed_looks.store(0, Ordering::Relaxed),
            false => _ = self.extent.failed_looks.fetch_add(1, Ordering::Relaxed),
        }
        self.evaluate();
    }

    /// Notes whether a node can do with the settings of the stream, which may change at any time.
    pub(crate) fn note_settings(&self, info: &StreamInfo) {
        let checked = stream::check(&info.config, &self.options);
        self.extent.is_unusable.store(checked.is_err(), Ordering::Relaxed);
        if let Err(error) = checked {
            self.link.note_error(error.to_string());
        }
    }

    pub(crate) fn set_live(&self, is_live: bool) {
        if self.extent.is_live.swap(is_live, Ordering::AcqRel) != is_live {
            self.evaluate();
        }
    }

    /// The largest message that the stream takes, in bytes of headers and data.
    pub(crate) fn max_message(&self) -> usize {
        let of_server = self.link.client().max_payload();
        match self.extent.max_message.load(Ordering::Relaxed) {
            0 => of_server,
            of_stream => of_server.min(of_stream as usize),
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.extent.last.load(Ordering::Relaxed)
    }

    pub(crate) fn first(&self) -> u64 {
        self.extent.first.load(Ordering::Relaxed)
    }

    /// When the first message was stored, in milliseconds since 1970.
    pub(crate) fn first_ms(&self) -> u64 {
        self.extent.first_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn size(&self) -> (u64, u64) {
        (self.extent.messages.load(Ordering::Relaxed), self.extent.bytes.load(Ordering::Relaxed))
    }

    /// Decides whether the node has caught up, and tells the engine.
    pub(crate) fn evaluate(&self) {
        let _one_at_a_time = lock(&self.deciding);
        let extent = &self.extent;
        let appended = extent.appended.load(Ordering::Acquire);
        let is_current = self.link.generation() == Some(extent.looked_over.load(Ordering::Acquire));
        let was = extent.is_caught_up.load(Ordering::Relaxed);
        let last = extent.last.load(Ordering::Relaxed);
        let is_behind = last.saturating_sub(appended) >= BEHIND;
        if is_behind && was {
            extent.target.store(last, Ordering::Relaxed);
        }
        let is_caught_up = is_current
            && !self.has_ended()
            && extent.is_live.load(Ordering::Acquire)
            && !extent.is_unusable.load(Ordering::Relaxed)
            && extent.failed_looks.load(Ordering::Relaxed) < FAILED_LOOKS
            && !is_behind
            && (was || appended >= extent.target.load(Ordering::Relaxed));
        extent.is_caught_up.store(is_caught_up, Ordering::Relaxed);
    }

    /// The feed, until it breaks off.
    pub(crate) fn set_feed(&self, feed: Feed) {
        *self.feed.write().unwrap_or_else(PoisonError::into_inner) = Some(feed);
        self.evaluate();
    }

    /// Whether the engine has begun, or has broken off since.
    pub(crate) fn has_begun(&self) -> bool {
        self.is_broken() || self.with_feed(|_| ()).is_some()
    }

    /// Does something with the feed. `None`: it has broken off.
    pub(crate) fn with_feed<T>(&self, act: impl FnOnce(&Feed) -> T) -> Option<T> {
        self.feed.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    /// Whether the stream is the one that this node began with. Where it is not, the engine cannot go on.
    pub(crate) fn is_same_stream(&self, info: &StreamInfo) -> bool {
        let is_same = info.created == self.created;
        if !is_same {
            let what = format!("the stream {} was created anew", self.options.stream);
            self.break_off(LogBreak::NewEpoch(what));
        }
        is_same
    }

    /// The engine cannot go on with this stream: the thread that feeds it is told.
    pub(crate) fn break_off(&self, why: LogBreak) {
        self.link.note_error(why.to_string());
        lock(&self.break_off).get_or_insert(why);
        self.set_live(false);
        self.broken.notify_one();
    }

    /// Whether the engine cannot go on.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.break_off).is_some()
    }

    /// Tells the engine that it cannot go on, where this is so. It is called by the thread that feeds it.
    pub(crate) fn break_off_now(&self) -> bool {
        let Some(why) = lock(&self.break_off).clone() else { return false };
        let feed = self.feed.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(feed) = feed {
            feed.break_off(why);
        }
        true
    }

    /// The end was asked for.
    pub(crate) fn has_ended(&self) -> bool {
        *self.end.borrow()
    }

    pub(crate) fn status(&self) -> NatsStatus {
        let (extent, counts) = (&self.extent, &self.counts);
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let appended = get(&extent.appended);
        NatsStatus {
            is_connected: self.link.generation().is_some() && !self.has_ended(),
            is_caught_up: extent.is_caught_up.load(Ordering::Relaxed),
            behind: get(&extent.last).saturating_sub(appended),
            submitted: get(&counts.submitted),
            acknowledged: get(&counts.acknowledged),
            duplicates: get(&counts.duplicates),
            refused: get(&counts.refused),
            retried: get(&counts.retried),
            undecided: get(&counts.undecided),
            unreachable: get(&counts.unreachable),
            in_flight: get(&counts.in_flight),
            in_flight_bytes: get(&counts.in_flight_bytes),
            received: get(&counts.received),
            received_bytes: get(&counts.received_bytes),
            consumers_recreated: get(&counts.recreations),
            messages_without_event: get(&counts.no_events),
            connections: self.link.connects(),
            acknowledgement_time: *lock(&counts.acknowledgement_time),
            stream_first: get(&extent.first),
            // What the engine is given now is in the stream.
            stream_last: get(&extent.last).max(get(&extent.delivered)),
            stream_messages: get(&extent.messages),
            stream_bytes: get(&extent.bytes),
            server_version: self.link.client().try_server_info().map(|info| info.version).unwrap_or_default(),
            last_error: self.link.last_error(),
        }
    }
}
