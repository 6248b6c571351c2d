//! The log of the process, and what every shard may do with it.
//!
//! One lock guards the log. Publishers hold it to look up interest and to release; shards hold it to register readers and to
//! read slices. Nothing is encoded, sent or freed under it.
//!
//! A shard that registers a reader of a topic learns the newest number under the lock: up to it the reader's events are in
//! the log, after it they come by mail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{Limits, LogLimits};
use fanfare_proto::log::{Log, ShardSet, Start};

use crate::hub::WaitingPublishers;
use crate::mailbox::Mailbox;
use crate::sync::{AtomicU64, Mutex, MutexGuard, lock};

/// Which shards get the mail of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// All: each keeps a log of its own.
    All,
    /// Those that have registered readers of one of its topics: the process has one log.
    Registered,
}

/// The one switch between the two.
pub(crate) const INTEREST: Interest = Interest::All;

/// An empty log with the bounds of an engine.
pub(crate) fn log_of(epoch: Epoch, limits: &Limits, seed: u64) -> Log {
    let total_bytes = limits.retention.bytes;
    Log::new(epoch, LogLimits { retention: limits.retention, rules: Vec::new(), total_bytes }, seed)
}

/// The log, its lock, and what can be read without.
pub(crate) struct ProcessLog {
    epoch: Epoch,
    interest: Interest,
    shards: usize,
    state: Mutex<State>,
    /// The newest number that is released. It is raised under the lock, before mail is pushed: a subscriber that has had an
    /// event from one shard, and then comes to another, finds this raised there. Relaxed: the lock of the mailbox is between
    /// the raise and the first shard's send, the reader's sockets are between that and the second shard's look.
    newest: Arc<AtomicU64>,
}

struct State {
    log: Log,
    /// What [`ProcessLog::newest`] shows to those without the lock.
    newest: u64,
    /// When the shard that trims looks at the log again, as far as it knows.
    trims_at: Option<Duration>,
}

/// The log under its lock.
pub(crate) struct LockedLog<'log> {
    process: &'log ProcessLog,
    state: MutexGuard<'log, State>,
}

/// A shard's access.
pub(crate) struct SharedLog {
    process: Arc<ProcessLog>,
    shard: usize,
    mailbox: Arc<Mailbox>,
    waiting: Arc<WaitingPublishers>,
}

impl ProcessLog {
    /// The shard that drops what is too old.
    pub(crate) const TRIMMING_SHARD: usize = 0;

    pub(crate) fn new(log: Log, shards: usize, interest: Interest) -> ProcessLog {
        ProcessLog {
            epoch: log.epoch(),
            interest,
            shards,
            state: Mutex::new(State { log, newest: 0, trims_at: None }),
            newest: Arc::default(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn newest(&self) -> &Arc<AtomicU64> {
        &self.newest
    }

    pub(crate) fn lock(&self) -> LockedLog<'_> {
        LockedLog { process: self, state: lock(&self.state) }
    }

    /// The shards that get each of these events, and the version of that answer.
    pub(crate) fn interest<'events>(
        &self,
        events: impl Iterator<Item = &'events Event>,
        into: &mut Vec<ShardSet>,
    ) -> u64 {
        into.clear();
        let log = self.lock();
        into.extend(events.map(|event| log.shards_to_mail(event.topics())));
        log.readers_version()
    }
}

impl LockedLog<'_> {
    pub(crate) fn shards_to_mail(&self, topics: &[Topic]) -> ShardSet {
        match self.process.interest {
            Interest::All => ShardSet::all(self.process.shards),
            Interest::Registered => self.state.log.shards_reading(topics),
        }
    }

    pub(crate) fn readers_version(&self) -> u64 {
        self.state.log.readers_version()
    }

    /// # Panics
    /// Something newer has been released before.
    pub(crate) fn assert_follows(&self, frames: &[Arc<Frame>]) {
        let follows = frames.first().is_none_or(|first| first.seq() > self.state.newest);
        assert!(follows, "a batch is released after one that is newer");
    }

    /// Appends frames and raises `newest`. True where the shard that trims must be woken, since something becomes too old
    /// earlier than it knows.
    pub(crate) fn append(
        &mut self,
        frames: Vec<Arc<Frame>>,
        now: Duration,
        dropped: &mut Vec<Arc<Frame>>,
    ) -> bool {
        let Some(last) = frames.last().map(|frame| frame.seq()) else { return false };
        let State { log, newest, trims_at } = &mut *self.state;
        let mut is_earlier = false;
        if self.process.interest == Interest::Registered {
            for frame in frames {
                log.append(frame, now, dropped);
            }
            let expiry = log.next_expiry();
            is_earlier = expiry.is_some_and(|expiry| trims_at.is_none_or(|trims_at| expiry < trims_at));
            if is_earlier {
                *trims_at = expiry;
            }
        }
        *newest = last;
        self.process.newest.store(last, Ordering::Relaxed);
        is_earlier
    }
}

#[allow(dead_code)] // Shards use it when the process has one log.
impl SharedLog {
    pub(crate) fn new(
        process: Arc<ProcessLog>,
        shard: usize,
        mailbox: Arc<Mailbox>,
        waiting: Arc<WaitingPublishers>,
    ) -> SharedLog {
        SharedLog { process, shard, mailbox, waiting }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.process.epoch
    }

    /// The newest number that is released.
    pub(crate) fn newest(&self) -> u64 {
        self.process.newest.load(Ordering::Relaxed)
    }

    /// Registers the shard's first reader of these topics. The answer is the newest number: the mailbox gets every later
    /// event of these topics, what is up to it is read from the log.
    pub(crate) fn add_reader(&self, topics: &[Topic]) -> u64 {
        let mut log = self.process.lock();
        log.state.log.add_reader(topics, self.shard);
        log.state.newest
    }

    /// Ends what [`SharedLog::add_reader`] began. Mail that was pushed before may still come.
    pub(crate) fn remove_reader(&self, topics: &[Topic]) {
        self.process.lock().state.log.remove_reader(topics, self.shard);
        if !self.waiting.is_empty() {
            // A publisher may have waited for room in our mailbox that it does not need any more.
            self.waiting.call(self.shard);
        }
    }

    /// See [`Log::resume`].
    pub(crate) fn resume(&self, id: &str, topics: &[Topic]) -> Start {
        self.process.lock().state.log.resume(id, topics)
    }

    /// See [`Log::available_after`].
    pub(crate) fn available_after(&self, topics: &[Topic]) -> u64 {
        self.process.lock().state.log.available_after(topics)
    }

    /// See [`Log::read_after`]. What it takes the log's lock for grows with `max_frames`.
    pub(crate) fn read_after(
        &self,
        topics: &[Topic],
        sees_private: bool,
        after: u64,
        max_frames: usize,
        max_bytes: usize,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<u64, u64> {
        let log = self.process.lock();
        log.state.log.read_after(topics, sees_private, after, max_frames, max_bytes, into)
    }

    /// See [`Log::first_after`].
    pub(crate) fn first_after(&self, topics: &[Topic], sees_private: bool, after: u64) -> Option<Arc<Frame>> {
        self.process.lock().state.log.first_after(topics, sees_private, after).cloned()
    }

    /// Drops at most `budget` frames that are too old.
    pub(crate) fn trim(&self, now: Duration, budget: usize) {
        let mut dropped = Vec::new();
        self.process.lock().state.log.trim(now, budget, &mut dropped);
    }

    /// When [`SharedLog::trim`] is due, for the one shard that does it. It is woken where this becomes earlier after the
    /// question.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        if self.shard != ProcessLog::TRIMMING_SHARD {
            return None;
        }
        let mut log = self.process.lock();
        log.state.trims_at = log.state.log.next_expiry();
        log.state.trims_at
    }

    /// The newest number, where nothing waits in this shard's mailbox: for a shard that has nothing in hand either, so that
    /// it has acted on everything up to this number.
    pub(crate) fn caught_up_to(&self) -> Option<u64> {
        // Mail is pushed under the log's lock, after the newest number was raised.
        let log = self.process.lock();
        self.mailbox.is_empty().then_some(log.state.newest)
    }
}
