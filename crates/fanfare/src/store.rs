//! The durable store of an engine: what the program says of it, and what is counted.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanfare_io::Clock;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::Topic;
use fanfare_proto::histogram::Histogram;
use fanfare_proto::limits::LogLimits;
use fanfare_proto::log::Log;
use fanfare_store::encoding::event_bytes;
use fanfare_store::{Bounds, Durability, Error, Gone, Query, Record, Store, StoreReader};

use crate::history::frame_of;
use crate::sync::{Mutex, lock};

/// A durable store and how it is used: [`crate::Builder::store`].
#[derive(Clone)]
pub struct StoreOptions {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) durability: Durability,
}

/// Why a store has not taken events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFailure {
    /// The disk is full. Publishes succeed again when there is room.
    Full,
    /// The store has failed, and takes nothing more until the program opens it again.
    Broken,
    /// An earlier part of the same publish was not stored.
    Earlier,
    /// The log that nodes share cannot be reached at the moment. Nothing was published.
    Unreachable,
}

/// What a store has done since the start: [`crate::Hub::store_figures`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFigures {
    /// Groups that were appended.
    pub groups: u64,
    /// Events in them.
    pub events: u64,
    /// Calls to the store that have failed.
    pub failures: u64,
    /// The times of these groups, from the moment at which each was taken until it was stored.
    pub commit_time: Histogram,
    /// Events that are retained.
    pub records: u64,
    /// Their bytes, without indexes.
    pub bytes: u64,
    /// The lowest number that is retained; zero: none is.
    pub oldest: u64,
    /// Whether the last append failed because the disk is full.
    pub is_full: bool,
    /// Whether the store has failed for good.
    pub is_broken: bool,
}

/// The same while it is counted.
#[derive(Debug, Default)]
pub(crate) struct StoreCounts {
    groups: AtomicU64,
    events: AtomicU64,
    failures: AtomicU64,
    commit_time: Mutex<Histogram>,
    is_full: AtomicBool,
    is_broken: AtomicBool,
    /// The last error, until it is taken.
    error: Mutex<Option<String>>,
}

impl StoreOptions {
    /// A publish is answered, and subscribers get it, when its group is on stable storage.
    pub fn new(store: Arc<dyn Store>) -> StoreOptions {
        StoreOptions { store, durability: Durability::Commit }
    }

    /// The other mode: with [`Durability::Async`] a publish is answered when its group can be read, and the
    /// store is synced each second. Until then the group is in the memory of the process: a power cut may
    /// lose what was published in the last second, and so may a crash or a kill of the process.
    #[must_use]
    pub fn durability(self, durability: Durability) -> StoreOptions {
        StoreOptions { durability, ..self }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("durability", &self.durability)
            .field("state", &self.store.state())
            .finish_non_exhaustive()
    }
}

impl StoreFailure {
    pub(crate) fn of(error: &Error) -> StoreFailure {
        match error {
            Error::Full { .. } => StoreFailure::Full,
            Error::Unreachable { .. } => StoreFailure::Unreachable,
            _ => StoreFailure::Broken,
        }
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreFailure::Full => "the disk is full; publish again when there is room",
            StoreFailure::Broken => "the store has failed; the log of the server says why",
            StoreFailure::Unreachable => "the log that nodes share cannot be reached; publish again later",
            StoreFailure::Earlier => "an earlier event of this publish was not stored",
        })
    }
}

impl StoreCounts {
    /// Notes that a call has failed that does not append: what is published is stored all the same.
    pub(crate) fn add_read_failure(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *lock(&self.error) = Some(error.to_string());
    }

    /// Notes that the store has failed to make something durable.
    pub(crate) fn add_failure(&self, error: &Error) {
        let flag = match StoreFailure::of(error) {
            StoreFailure::Full => &self.is_full,
            _ => &self.is_broken,
        };
        flag.store(true, Ordering::Relaxed);
        self.add_read_failure(error);
    }

    /// Notes that a group of so many events was stored.
    pub(crate) fn add_group(&self, events: usize, time: Duration) {
        self.is_full.store(false, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(events as u64, Ordering::Relaxed);
        lock(&self.commit_time).record(time, 1);
    }

    /// The last error since the last call.
    pub(crate) fn take_error(&self) -> Option<String> {
        lock(&self.error).take()
    }

    pub(crate) fn figures(&self, store: &dyn StoreReader) -> StoreFigures {
        let state = store.state();
        StoreFigures {
            groups: self.groups.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            commit_time: *lock(&self.commit_time),
            records: state.records,
            bytes: state.bytes,
            oldest: state.oldest,
            is_full: self.is_full.load(Ordering::Relaxed),
            is_broken: self.is_broken.load(Ordering::Relaxed),
        }
    }
}

/// The newest records of a store, for the log in memory, and what the store has lost before.
pub(crate) struct Recovered {
    epoch: Epoch,
    /// The log in memory has what comes after this number.
    after: u64,
    newest: u64,
    records: VecDeque<Record>,
    /// What is gone of any topic.
    gone: Gone,
    /// What is gone of the topics of the records, for as many of them as are asked for.
    gone_of_topics: HashMap<Topic, Gone>,
    /// The time at the start, in milliseconds since 1970.
    now_ms: u64,
    /// The age of the oldest record.
    oldest_age: Duration,
}

/// What a record takes in the log in memory beside its bytes in the store, at least.
const RECORD_OVERHEAD: usize = 100;

/// Records that a start reads back at most, so that it takes a few seconds.
const MOST_RECORDS: usize = 2_000_000;

/// Topics of which a start asks the store what is gone, so that it takes a second at most. Of the others the
/// log in memory knows less, and their subscribers ask the store.
const MOST_TOPICS: usize = 1 << 16;

impl Recovered {
    /// Reads about as many records as fit into a log with these bounds, from the newest back.
    pub(crate) fn read(
        store: &dyn StoreReader,
        limits: &LogLimits,
        clock: Clock,
    ) -> Result<Recovered, Error> {
        let state = store.state();
        // What may be missing without a trace is before all that is in memory.
        let begin = if state.oldest == 0 { state.newest } else { (state.oldest - 1).max(state.lost) };
        let mean = state.bytes.checked_div(state.records).unwrap_or(0) as usize + RECORD_OVERHEAD;
        let mut count = (limits.total_bytes / mean).clamp(1, MOST_RECORDS) as u64;
        let now_ms = unix_ms(clock.date());
        loop {
            let after = state.newest.saturating_sub(count).max(begin);
            let mut recovered = Recovered {
                epoch: state.epoch,
                after,
                newest: state.newest,
                records: VecDeque::new(),
                gone: Gone::default(),
                gone_of_topics: HashMap::new(),
                now_ms,
                oldest_age: Duration::ZERO,
            };
            let bytes = recovered.read_records(store, limits.total_bytes)?;
            // There are fewer where numbers have holes, and where the newest events are smaller than others.
            let is_full = bytes > limits.total_bytes / 2 || recovered.after > after;
            if after == begin || is_full || recovered.records.len() >= MOST_RECORDS / 8 {
                recovered.ask_what_is_gone(store)?;
                return Ok(recovered);
            }
            count = count.saturating_mul(8);
        }
    }

    /// Reads the records, of which the newest stay that have no more bytes than this. Answers their bytes.
    fn read_records(&mut self, store: &dyn StoreReader, room: usize) -> Result<usize, Error> {
        let memory = |record: &Record| event_bytes(&record.event) + RECORD_OVERHEAD;
        let (mut up_to, mut bytes) = (self.after, 0);
        loop {
            let page = store.read(Query::All, up_to, Bounds::default())?;
            up_to = page.up_to;
            self.gone = page.gone;
            for record in page.records {
                bytes += memory(&record);
                self.records.push_back(record);
                while (bytes > room || self.records.len() > MOST_RECORDS)
                    && let Some(oldest) = self.records.pop_front()
                {
                    bytes -= memory(&oldest);
                    self.after = oldest.number;
                }
            }
            if page.is_end {
                let oldest_ms = self.records.iter().map(|record| record.published_ms).min();
                self.oldest_age =
                    Duration::from_millis(self.now_ms.saturating_sub(oldest_ms.unwrap_or(self.now_ms)));
                return Ok(bytes);
            }
        }
    }

    fn ask_what_is_gone(&mut self, store: &dyn StoreReader) -> Result<(), Error> {
        // Where nothing is gone of any topic, nothing is gone of each.
        if self.gone.newest <= self.after {
            return Ok(());
        }
        let bounds = Bounds { records: 1, ..Bounds::default() };
        for topic in self.records.iter().rev().flat_map(|record| record.event.topics()) {
            if self.gone_of_topics.len() == MOST_TOPICS {
                break;
            }
            if !self.gone_of_topics.contains_key(topic) {
                let page = store.read(Query::Topics(std::slice::from_ref(topic)), self.newest, bounds)?;
                self.gone_of_topics.insert(topic.clone(), page.gone);
            }
        }
        Ok(())
    }

    /// A clock that has shown zero when the oldest of the events was published.
    pub(crate) fn clock(&self) -> Clock {
        Clock::start_at(self.oldest_age)
    }

    /// Gives the records to a log that was not used.
    #[cfg(feature = "sim")]
    pub(crate) fn fill(self, log: &mut Log, clock: Clock) {
        log.begin_after(self.after);
        self.append_to(log, clock);
    }

    /// Where the log in memory begins.
    pub(crate) fn begin_after(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.after }
    }

    /// Appends the records to a log that begins there.
    pub(crate) fn append_to(self, log: &mut Log, clock: Clock) {
        let now = clock.now();
        log.raise_floor(self.gone.newest, self.gone.newest_public);
        let mut gone_of_topics = self.gone_of_topics;
        for record in self.records {
            for topic in record.event.topics() {
                // With its first record: then the log has nothing of it.
                if let Some(gone) = gone_of_topics.remove(topic) {
                    // What is before the log in memory is not in it, although it may be in the store.
                    let before = |number: u64| number.max(self.after);
                    log.note_gone(topic, before(gone.newest), before(gone.newest_public));
                }
            }
            log.append_recovered(Arc::new(frame_of(record, self.epoch, now, self.now_ms)), now);
        }
        log.skip_to(self.newest);
    }
}

/// In milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
