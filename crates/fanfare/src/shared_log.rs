//! The log of the process, and what every shard may do with it.
//!
//! One lock guards the log. Publishers hold it to look up interest and to release; shards hold it to register
//! for topics and to read runs of frames. Under it no frame is encoded, sent or freed. A release takes the
//! locks of mailboxes under it; the order of all locks is in `docs/ARCHITECTURE.md`.
//!
//! A shard that registers for a topic learns the newest number under the lock: up to it the topic's
//! events are in the log, after it they come by mail.
//!
//! In the log's sets of readers, all readers in the process ([`crate::hub`]) are one more shard, behind the
//! real ones. It has no mailbox: they read from the log themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::event_log::{EventLog, First, NoRoomForPatterns, Read, ReadBounds, Unread, Wanted};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{Limits, Retention, RetentionRule, WALK_STEPS};
use fanfare_proto::link::LinkKey;
use fanfare_proto::log::{Log, ShardSet, Start};
use fanfare_proto::pattern::Pattern;
use fanfare_proto::selection::Selection;

use crate::counts::TopicCounts;
use crate::history::{HistoryQueue, ShardHistory};
use crate::hub::{ReleaseQueue, Repetitions, WaitingPublishers};
use crate::mailbox::Mailbox;
use crate::sync::{AtomicU64, Mutex, MutexGuard, lock};

/// An empty log with the bounds of an engine.
pub(crate) fn log_of(epoch: Epoch, limits: &Limits, seed: u64) -> Log {
    let mut log = Log::new(epoch, limits.log.clone(), seed);
    log.limit_patterns(limits.patterns);
    log
}

/// The log, its lock, and what can be read without.
pub(crate) struct ProcessLog {
    epoch: Epoch,
    /// What the readers in the process are, together, in the log's sets of readers: the number of shards.
    local: usize,
    state: Mutex<State>,
    /// [`Log::newest`], for threads without the lock. It is raised under the lock, before mail is pushed: a
    /// subscriber that has had an event from one shard, and then comes to another, finds this raised there.
    /// Relaxed: the lock of the mailbox is between the raise and the first shard's send, the subscriber's
    /// sockets are between that and the second shard's load.
    newest: Arc<AtomicU64>,
    /// When the shard that trims checks the log again, in nanoseconds; `u64::MAX`: never. The log's own time
    /// ([`Log::next_expiry`]) is not earlier. It is changed under the lock, and read without: a shard that
    /// waited for a release before each of its sleeps would deliver nothing meanwhile. Relaxed: the shard is
    /// woken after it was made earlier.
    trims_at: AtomicU64,
    /// Where a log that nodes share was last known to end. `None`: there is no such log.
    shared_end: Mutex<Option<SharedEnd>>,
}

/// Where a log that nodes share ended at some time.
#[derive(Clone, Copy, Debug)]
struct SharedEnd {
    /// It was asked at this time or later.
    asked: Duration,
    last: u64,
}

struct State {
    log: Log,
    /// Batches that have their numbers and are not in the log.
    unreleased: ReleaseQueue,
    /// [`Log::changes`] when the log was last checked.
    #[cfg(feature = "sim")]
    checked: Option<u64>,
}

/// What was known of the readers of some events when these were sequenced.
pub(crate) struct Interest {
    /// A reader in the process reads one of the topics.
    pub(crate) is_read_here: bool,
    /// Batches are sequenced and not visible.
    pub(crate) is_behind: bool,
    /// [`Log::readers_version`].
    pub(crate) readers_version: u64,
}

/// The log under its lock.
pub(crate) struct LockedLog<'log> {
    process: &'log ProcessLog,
    state: MutexGuard<'log, State>,
}

/// How much is in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSize {
    pub(crate) frames: u64,
    /// With its indexes.
    pub(crate) bytes: u64,
    pub(crate) topics: u64,
    /// Frames dropped for the bound of bytes, in each topic.
    pub(crate) dropped_for_room: u64,
    pub(crate) appended: (u64, u64),
}

/// A shard's access.
pub(crate) struct SharedLog {
    process: Arc<ProcessLog>,
    shard: usize,
    mailbox: Arc<Mailbox>,
    waiting: Arc<WaitingPublishers>,
    /// What the durable store has; `None`: there is no store.
    history: Option<ShardHistory>,
    /// [`Log::changes`] when all registrations of this shard were last checked, and how many there were.
    #[cfg(feature = "sim")]
    checked: std::cell::Cell<Option<(u64, usize)>>,
}

impl ProcessLog {
    /// The shard that drops what is too old.
    pub(crate) const TRIMMING_SHARD: usize = 0;

    pub(crate) fn new(log: Log, shards: usize) -> ProcessLog {
        ProcessLog {
            epoch: log.epoch(),
            local: shards,
            newest: Arc::new(AtomicU64::new(log.newest())),
            trims_at: AtomicU64::new(nanoseconds_or_never(log.next_expiry())),
            shared_end: Mutex::new(None),
            state: Mutex::new(State {
                log,
                unreleased: ReleaseQueue::default(),
                #[cfg(feature = "sim")]
                checked: None,
            }),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn newest(&self) -> &Arc<AtomicU64> {
        &self.newest
    }

    /// # Panics
    /// A thread has panicked under this lock. The log may be half changed, so nothing goes on with it: each
    /// shard that comes here ends, and with it the engine.
    pub(crate) fn lock(&self) -> LockedLog<'_> {
        self.lock_unless_broken()
            .expect("a thread has panicked while it changed the log; its message is above")
    }

    /// The same. `None`: a thread has panicked under the lock, and the caller has nothing more to do.
    pub(crate) fn lock_unless_broken(&self) -> Option<LockedLog<'_>> {
        self.state.lock().ok().map(|state| LockedLog { process: self, state })
    }

    /// For questions about sizes and names, also of a log that is half changed.
    pub(crate) fn lock_even_if_broken(&self) -> LockedLog<'_> {
        LockedLog { process: self, state: lock(&self.state) }
    }

    /// Notes where a log that nodes share ends.
    pub(crate) fn note_end(&self, asked: Duration, last: u64) {
        *lock(&self.shared_end) = Some(SharedEnd { asked, last });
    }

    /// Whether this number, which is not here, was never given: as far as is known by an answer that was
    /// asked for after this time. Where nodes share no log, it never was.
    fn was_never_given(&self, number: u64, since: Duration) -> bool {
        lock(&self.shared_end).is_none_or(|end| end.asked >= since && end.last < number)
    }

    /// Makes the shard that trims check the log as soon as it is awake.
    pub(crate) fn trim_at_once(&self) {
        self.trims_at.store(0, Ordering::Relaxed);
    }

    /// Appends the shards that get each of these events to `into`, and the events that were published before
    /// to `repeated`; both are cleared. Of these no shard gets anything. Of the events it takes the first
    /// ones: it ends behind the event with which [`WALK_STEPS`] are used up. `None`: a thread has panicked
    /// under the lock, and the engine has ended.
    pub(crate) fn interest<'events>(
        &self,
        events: impl Iterator<Item = &'events Event>,
        into: &mut Vec<ShardSet>,
        repeated: &mut Repetitions,
    ) -> Option<Interest> {
        into.clear();
        repeated.clear();
        let log = self.lock_unless_broken()?;
        let (mut is_read_here, mut steps) = (false, 0);
        for (index, event) in events.enumerate() {
            if event.id().is_some() && repeated.find(index, event, &log) {
                into.push(ShardSet::new());
                continue;
            }
            let (shards, is_this_read_here) = log.readers_of(event.topics(), &mut steps);
            is_read_here |= is_this_read_here;
            into.push(shards);
            if steps >= WALK_STEPS {
                break;
            }
        }
        let is_behind = !log.state.unreleased.is_empty();
        Some(Interest { is_read_here, is_behind, readers_version: log.readers_version() })
    }
}

impl LockedLog<'_> {
    /// The shards that read one of these topics, and whether a reader in the process does. Adds the steps of
    /// the walks that it takes to `steps`.
    pub(crate) fn readers_of(&self, topics: &[Topic], steps: &mut usize) -> (ShardSet, bool) {
        let mut shards = self.state.log.find_shards_reading(topics, steps);
        let is_read_here = shards.contains(self.process.local);
        if is_read_here {
            shards.remove(self.process.local);
        }
        (shards, is_read_here)
    }

    /// Some reader in the process reads each of these topics and patterns from now on, and none did before.
    pub(crate) fn add_local_reader(
        &mut self,
        topics: &[Topic],
        patterns: &[Pattern],
    ) -> Result<(), NoRoomForPatterns> {
        self.state.log.add_pattern_reader(patterns, self.process.local)?;
        self.state.log.add_reader(topics, self.process.local);
        Ok(())
    }

    /// Ends what [`LockedLog::add_local_reader`] began.
    pub(crate) fn remove_local_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) {
        self.state.log.remove_reader(topics, self.process.local);
        self.state.log.remove_pattern_reader(patterns, self.process.local);
    }

    /// As [`EventLog::resume`].
    pub(crate) fn resume(&self, id: &str, selection: Selection<'_>) -> Start {
        self.state.log.resume(id, selection)
    }

    /// As [`EventLog::read_after`].
    pub(crate) fn read_after(
        &self,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, u64> {
        self.state.log.replay_after(wanted, bounds, into)
    }

    /// As [`Log::skip_to`].
    pub(crate) fn skip_to(&mut self, number: u64) {
        self.state.log.skip_to(number);
        self.process.newest.store(self.state.log.newest(), Ordering::Relaxed);
    }

    #[cfg(feature = "sim")]
    pub(crate) fn log(&self) -> &Log {
        &self.state.log
    }

    /// As [`Log::set_retention`]. The shard that trims has to be woken after it.
    pub(crate) fn set_retention(&mut self, retention: Retention, rules: Vec<RetentionRule>) {
        self.state.log.set_retention(retention, rules);
        self.process.trim_at_once();
    }

    /// As [`Log::set_total_bytes`]. The shard that trims has to be woken after it.
    pub(crate) fn set_total_bytes(&mut self, bytes: usize) {
        self.state.log.set_total_bytes(bytes);
        self.process.trim_at_once();
    }

    /// How much is in the log.
    pub(crate) fn size(&self) -> LogSize {
        let log = &self.state.log;
        LogSize {
            frames: log.len() as u64,
            bytes: (log.bytes() + log.reader_bytes()) as u64,
            topics: log.topic_count() as u64,
            dropped_for_room: log.dropped_for_room(),
            appended: (log.appended_frames(), log.appended_bytes()),
        }
    }

    pub(crate) fn topics_page(&self, after: Option<u64>, limit: usize) -> (Vec<Topic>, Option<u64>) {
        self.state.log.topics_page(after, limit)
    }

    /// What is known of a topic, with what the shards have counted.
    pub(crate) fn topic_counts(&self, topic: Topic, subscribers: usize, laggards: usize) -> TopicCounts {
        let extent = self.state.log.topic(&topic);
        let id = |seq| Cursor { epoch: self.process.epoch, seq }.to_string();
        let span = extent.as_ref().and_then(|extent| extent.span);
        TopicCounts {
            topic: topic.to_string(),
            subscribers,
            laggards,
            retained: extent.map_or(0, |extent| extent.frames),
            span: span.map(|(oldest, newest)| (id(oldest), id(newest))),
        }
    }

    pub(crate) fn readers_version(&self) -> u64 {
        self.state.log.readers_version()
    }

    /// The newest number that is released.
    pub(crate) fn newest(&self) -> u64 {
        self.state.log.newest()
    }

    pub(crate) fn unreleased(&mut self) -> &mut ReleaseQueue {
        &mut self.state.unreleased
    }

    /// Changes the queue of what is not visible. The log itself stays.
    pub(crate) fn change_unreleased<T>(&mut self, change: impl FnOnce(&mut ReleaseQueue, &Log) -> T) -> T {
        let State { log, unreleased, .. } = &mut *self.state;
        change(unreleased, log)
    }

    /// The frame that was published with this event's own id to this event's topics, and whether it is
    /// visible. `key` is [`LockedLog::own_id_key`] of the event.
    pub(crate) fn published(&self, event: &Event, key: u64) -> Option<(&Arc<Frame>, bool)> {
        let State { log, unreleased, .. } = &*self.state;
        if let Some(frame) = log.published_with_key(event, key) {
            return Some((frame, true));
        }
        // Where there is no store, nothing is in the queue.
        let frame = if unreleased.has_own_ids() { unreleased.published(event, key) } else { None };
        frame.map(|frame| (frame, false))
    }

    /// As [`Log::own_id_key`].
    pub(crate) fn own_id_key(&self, id: &str, topics: &[Topic]) -> u64 {
        self.state.log.own_id_key(id, topics)
    }

    /// Appends frames and raises `newest`. True where the shard that trims must be woken, since something
    /// becomes too old earlier than it knows.
    pub(crate) fn append(
        &mut self,
        frames: Vec<Arc<Frame>>,
        now: Duration,
        dropped: &mut Vec<Arc<Frame>>,
    ) -> bool {
        let Some(last) = frames.last().map(|frame| frame.seq()) else { return false };
        let log = &mut self.state.log;
        log.append_all(frames, now, dropped);
        let expiry = nanoseconds_or_never(log.next_expiry());
        let is_earlier = expiry < self.process.trims_at.load(Ordering::Relaxed);
        if is_earlier {
            self.process.trims_at.store(expiry, Ordering::Relaxed);
        }
        self.process.newest.store(last, Ordering::Relaxed);
        is_earlier
    }
}

impl SharedLog {
    pub(crate) fn new(
        process: Arc<ProcessLog>,
        shard: usize,
        mailbox: Arc<Mailbox>,
        waiting: Arc<WaitingPublishers>,
    ) -> SharedLog {
        SharedLog {
            process,
            shard,
            mailbox,
            waiting,
            history: None,
            #[cfg(feature = "sim")]
            checked: std::cell::Cell::default(),
        }
    }

    /// The same with a durable store that has older events.
    pub(crate) fn with_history(self, queue: Option<Arc<HistoryQueue>>) -> SharedLog {
        let mailbox = Arc::clone(&self.mailbox);
        SharedLog { history: queue.map(|queue| ShardHistory::new(queue, mailbox)), ..self }
    }

    /// Asks the durable store where a subscriber starts, where the log in memory has not all that it may get.
    /// The ticket, under which the answer comes.
    pub(crate) fn ask_for_start(&mut self, id: &str, start: Start, selection: Selection<'_>) -> Option<u64> {
        let lacks = SharedLog::lacks_what_follows(start);
        // A number of zero is that of no event.
        let known = (lacks && start.from() > 0).then_some(start.from());
        self.history.as_mut().filter(|_| lacks).map(|history| history.ask_for_start(id, known, selection))
    }

    /// Whether the log in memory has not everything that a subscriber gets that starts so.
    pub(crate) fn lacks_what_follows(start: Start) -> bool {
        match start {
            Start::At { cursor, from } => from < cursor,
            Start::Gap { .. } => true,
            Start::Ahead { .. } => false,
        }
    }

    /// Where streams get what is not in memory.
    pub(crate) fn history(&mut self) -> Option<&mut ShardHistory> {
        self.history.as_mut()
    }

    /// The same, to look at it.
    pub(crate) fn history_now(&self) -> Option<&ShardHistory> {
        self.history.as_ref()
    }

    /// Begins in the middle, as a log that is read back from a store.
    #[cfg(test)]
    pub(crate) fn begin_after_for_test(&self, seq: u64) {
        self.process.lock().state.log.begin_after(seq);
        self.process.newest.store(seq, Ordering::Relaxed);
    }

    /// Drops at most `budget` frames that are too old.
    pub(crate) fn trim(&self, now: Duration, budget: usize) {
        let mut dropped = Vec::new();
        let log = &mut self.process.lock().state.log;
        log.trim(now, budget, &mut dropped);
        self.process.trims_at.store(nanoseconds_or_never(log.next_expiry()), Ordering::Relaxed);
    }

    /// When [`SharedLog::trim`] is due, for the one shard that does it. It is woken where this becomes
    /// earlier after the question.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        if self.shard != ProcessLog::TRIMMING_SHARD {
            return None;
        }
        let at = self.process.trims_at.load(Ordering::Relaxed);
        (at != u64::MAX).then(|| Duration::from_nanos(at))
    }

    /// Whether nodes share a log that this one has a part of.
    pub(crate) fn is_shared(&self) -> bool {
        lock(&self.process.shared_end).is_some()
    }

    /// Whether this number, which is not here, was never given, as far as was learned after this time.
    pub(crate) fn was_never_given(&self, number: u64, since: Duration) -> bool {
        self.process.was_never_given(number, since)
    }

    /// The index of this shard.
    pub(crate) fn shard(&self) -> usize {
        self.shard
    }

    /// Whether this shard is the one that trims, and something is too old as far as it knows.
    pub(crate) fn next_expiry_is_due(&self, now: Duration) -> bool {
        self.next_expiry().is_some_and(|at| at <= now)
    }

    /// Whether this is the shard that trims.
    #[cfg(feature = "sim")]
    pub(crate) fn trims(&self) -> bool {
        self.shard == ProcessLog::TRIMMING_SHARD
    }

    /// Checks the log, and that this shard has registered for exactly these topics. What cannot have changed
    /// since the last check is left out: to check the whole log after every tick takes most of a simulation's
    /// time.
    ///
    /// # Panics
    /// Something does not hold.
    #[cfg(feature = "sim")]
    pub(crate) fn check<'read>(
        &self,
        read: impl Iterator<Item = &'read Topic>,
        patterns_read: impl Iterator<Item = &'read Pattern>,
    ) {
        let mut locked = self.process.lock();
        let changes = locked.state.log.changes();
        if locked.state.checked.replace(changes) != Some(changes) {
            locked.state.log.check();
        }
        let log = &locked.state.log;
        let mut count = 0;
        for pattern in patterns_read {
            count += 1;
            assert!(log.is_pattern_read(pattern, self.shard), "{pattern} is not registered");
        }
        let patterns = count;
        let registered = log.patterns_read_by(self.shard);
        assert_eq!(registered, patterns, "patterns that this shard has registered for");
        for topic in read {
            count += 1;
            assert!(
                log.topic(topic).is_some_and(|extent| extent.shards.contains(self.shard)),
                "{topic} is not registered"
            );
        }
        if self.checked.replace(Some((changes, count))) == Some((changes, count)) {
            return;
        }
        let (topics, rest) = log.topics_page(None, usize::MAX);
        assert!(rest.is_none(), "the simulator has few topics");
        let is_read =
            |topic: &&Topic| log.topic(topic).is_some_and(|extent| extent.shards.contains(self.shard));
        assert_eq!(
            topics.iter().filter(is_read).count(),
            count - patterns,
            "topics that this shard has registered for"
        );
    }

    /// The newest number, where nothing waits in this shard's mailbox: for a shard that has nothing in hand
    /// either, so that it has acted on everything up to this number.
    pub(crate) fn caught_up_to(&self) -> Option<u64> {
        // Mail is pushed under the log's lock, after the newest number was raised.
        let log = self.process.lock();
        self.mailbox.is_empty().then_some(log.newest())
    }
}

fn nanoseconds_or_never(at: Option<Duration>) -> u64 {
    at.map_or(u64::MAX, |at| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
}

impl EventLog for SharedLog {
    fn add_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) -> Result<u64, NoRoomForPatterns> {
        let mut log = self.process.lock();
        log.state.log.add_pattern_reader(patterns, self.shard)?;
        log.state.log.add_reader(topics, self.shard);
        Ok(log.newest())
    }

    fn remove_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) {
        let mut log = self.process.lock();
        log.state.log.remove_reader(topics, self.shard);
        log.state.log.remove_pattern_reader(patterns, self.shard);
        drop(log);
        if !self.waiting.is_empty() {
            // A publisher may have waited for room in our mailbox that it does not need any more.
            self.waiting.call(self.shard);
        }
    }

    fn newest(&self) -> u64 {
        self.process.newest.load(Ordering::Relaxed)
    }

    fn resume(&self, id: &str, selection: Selection<'_>) -> Start {
        self.process.lock().resume(id, selection)
    }

    fn read_after(
        &self,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, u64> {
        // A subscriber that knows of a gap gets what is left of it from the store, and not from memory alone.
        let incomplete_until = if self.history.is_some() { 0 } else { wanted.incomplete_until };
        self.process.lock().read_after(&Wanted { incomplete_until, ..*wanted }, bounds, into)
    }

    fn read_for(
        &mut self,
        link: LinkKey,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, Unread> {
        let in_memory = self.read_after(wanted, bounds, into);
        let Some(history) = &mut self.history else { return in_memory.map_err(Unread::Gone) };
        let available = match in_memory {
            Ok(read) => {
                history.release(link, wanted.after);
                return Ok(read);
            }
            Err(available) => available,
        };
        match history.read(link, wanted, bounds, available, into) {
            // It cannot be read, and the subscriber knows of the gap.
            Err(Unread::Gone(gone)) if gone <= wanted.after.max(wanted.incomplete_until) => {
                self.process.lock().read_after(wanted, bounds, into).map_err(Unread::Gone)
            }
            read => read,
        }
    }

    fn first_after(&self, wanted: &Wanted<'_>, steps: &mut usize) -> First {
        let log = &self.process.lock().state.log;
        if self.history.is_some() && log.available_after(wanted.selection) > wanted.after {
            // The store may have it.
            return First::NothingUpTo(wanted.after);
        }
        log.first_after(wanted.selection, wanted.after, steps)
    }
}
