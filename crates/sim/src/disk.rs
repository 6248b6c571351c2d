//! The disk of a world with a durable store. What is on it outlives the engine.
//!
//! It is the store in memory, with faults that the world plans: an append that finds no room, a read that
//! fails, and a crash at some step of a commit. From its crash on it takes nothing more, until the world has
//! ended the engine and opens the disk again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare::{Durability, Epoch, Hub, Store, StoreReader};
use fanfare_io::Clock;
use fanfare_proto::event::{EventId, Topic};
use fanfare_proto::limits::LogLimits;
use fanfare_store::{Bounds, Error, Gone, MemoryStore, Page, Query, Record, State, Trimmed};

use crate::history::{Entry, Interest};

/// Where in a commit the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashAt {
    /// The group is taken from the queue, and its own ids are being looked up.
    Taken,
    /// Its own ids are looked up, and nothing is written.
    LookedUp,
    /// It is written and not synced. Whether it is there afterwards is chance.
    Written {
        /// It is.
        survives: bool,
    },
    /// It is synced, and not released.
    Synced,
    /// It is released, and its publishers have no answer.
    Released,
}

/// How long events may be written and not synced, where they are not committed.
const SYNC_TIME: Duration = Duration::from_secs(1);

/// The disk of one world.
pub(crate) struct Disk {
    records: MemoryStore,
    durability: Durability,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    crash: Option<CrashAt>,
    has_crashed: bool,
    /// Appends that find no room.
    full: usize,
    /// Reads that fail after so many others.
    bad_read: Option<usize>,
    /// Reads that have failed, since the disk was opened.
    failed_reads: u64,
    /// Everything up to here is synced.
    synced: u64,
    /// The numbers that are not, with the times at which they were written.
    unsynced: VecDeque<(Duration, u64)>,
    /// What is visible of the engine while it commits.
    hub: Option<Hub>,
}

impl Disk {
    pub(crate) fn new(epoch: Epoch, limits: LogLimits, durability: Durability) -> Arc<Disk> {
        let records = MemoryStore::new(epoch, limits);
        Arc::new(Disk { records, durability, faults: Mutex::default() })
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    // What the world plans.

    /// The next commit ends here.
    pub(crate) fn plan_crash(&self, at: CrashAt) {
        self.faults().crash = Some(at);
    }

    /// The next appends find no room, so many.
    pub(crate) fn plan_full(&self, appends: usize) {
        self.faults().full = appends;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.faults().full > 0
    }

    /// A read fails, after so many others.
    pub(crate) fn plan_bad_read(&self, after: usize) {
        self.faults().bad_read = Some(after);
    }

    /// No read fails any more.
    pub(crate) fn heal(&self) {
        let mut faults = self.faults();
        (faults.bad_read, faults.full) = (None, 0);
    }

    /// While a commit runs, the disk judges what this hub shows.
    pub(crate) fn watch(&self, hub: Option<Hub>) {
        self.faults().hub = hub;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.faults().has_crashed
    }

    /// The process has ended. Without commits, a suffix of what was not synced is lost: what comes after a
    /// number that `choose` picks between these two, inclusively. Gives that number.
    pub(crate) fn open_again(&self, choose: impl FnOnce(u64, u64) -> u64) -> u64 {
        let (synced, newest) = (self.faults().synced, self.records.state().newest);
        let kept = if self.durability == Durability::Async { choose(synced, newest) } else { newest };
        if kept < newest {
            self.records.lose_after(kept);
        }
        *self.faults() = Faults { synced: newest, ..Faults::default() };
        kept
    }

    /// The engine has just had a moment for its upkeep: what it wrote earlier than a second ago is synced.
    pub(crate) fn check_synced(&self, now: Duration) {
        let faults = self.faults();
        if let Some((at, number)) = faults.unsynced.front() {
            assert!(now < *at + SYNC_TIME, "event {number}, which was written at {at:?}, is not synced");
        }
    }

    // What the model asks.

    pub(crate) fn failed_reads(&self) -> u64 {
        self.faults().failed_reads
    }

    /// All records, in order.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.after(0)
    }

    /// The records after this number, in order.
    pub(crate) fn after(&self, number: u64) -> Vec<Record> {
        let bounds = Bounds { records: usize::MAX, bytes: usize::MAX, steps: usize::MAX };
        self.records.read(Query::All, number, bounds).expect("it is in memory").records
    }

    /// The record with this own id and these topics.
    pub(crate) fn first(&self, entry: &Entry) -> Option<Record> {
        let id = EventId::new(entry.own_id.as_deref()?).ok()?;
        self.records.find(&id, &entry.topics).expect("it is in memory")
    }

    fn gone(&self, query: Query<'_>) -> Gone {
        let bounds = Bounds { records: 1, bytes: 1, steps: 1 };
        self.records.read(query, u64::MAX, bounds).expect("it is in memory").gone
    }

    /// Whether a crash has lost something, so that nobody knows of which topics.
    pub(crate) fn has_lost(&self) -> bool {
        self.gone(Query::Topics(&[])).newest > 0
    }

    /// Up to where the engine may say that something is gone which this subscriber may see. It says it of all
    /// topics where there are patterns, and of private events where any selector shows them.
    pub(crate) fn gone_for(&self, interest: &Interest) -> u64 {
        let gone = match interest.patterns.is_empty() {
            true => self.gone(Query::Topics(&interest.topics)),
            false => self.gone(Query::All),
        };
        let by_name = interest.topics.iter().any(|topic| interest.sees_private(topic));
        let by_pattern = interest.patterns.iter().any(|pattern| interest.sees_private_through(pattern));
        if by_name || by_pattern { gone.newest } else { gone.newest_public }
    }

    /// Whether the event with this number is there for a subscriber.
    pub(crate) fn has(&self, interest: &Interest, number: u64) -> bool {
        let bounds = Bounds { records: 1, bytes: 1, steps: 1 };
        let read = |query: Query<'_>| self.records.read(query, number - 1, bounds).expect("it is in memory");
        let selects = |topic: &Topic, record: &Record| interest.selects(topic, record.event.is_private());
        let page = read(Query::All);
        let Some(record) = page.records.first().filter(|record| record.number == number) else {
            return false;
        };
        record.event.topics().iter().any(|topic| {
            let of_topic = read(Query::Topics(std::slice::from_ref(topic)));
            let is_there = of_topic.records.first().is_some_and(|record| record.number == number);
            is_there && selects(topic, record)
        })
    }

    // What its engine does.

    /// Does what is planned for this step of a commit. An error: the process has ended.
    fn step(&self, is_this: impl Fn(CrashAt) -> bool) -> Result<(), Error> {
        let mut faults = self.faults();
        if faults.crash.is_some_and(is_this) {
            faults.has_crashed = true;
        }
        drop(faults);
        self.check_alive()
    }

    fn check_alive(&self) -> Result<(), Error> {
        let ended = Error::Broken { cause: "the process has ended".to_owned() };
        if self.has_crashed() { Err(ended) } else { Ok(()) }
    }

    fn read_fault(&self) -> Result<(), Error> {
        let mut faults = self.faults();
        match faults.bad_read {
            Some(0) => {
                faults.bad_read = None;
                faults.failed_reads += 1;
                Err(Error::Corrupt { place: "this disk".to_owned(), what: "a read fails".to_owned() })
            }
            Some(more) => {
                faults.bad_read = Some(more - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StoreReader for Disk {
    fn state(&self) -> State {
        self.records.state()
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        self.read_fault()?;
        self.records.read(query, after, bounds)
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        self.step(|at| at == CrashAt::Taken)?;
        self.records.find(id, topics)
    }
}

impl Store for Disk {
    fn append(&self, group: &[Record], durability: Durability) -> Result<(), Error> {
        assert_eq!(durability, self.durability, "how it is appended");
        self.step(|at| matches!(at, CrashAt::Taken | CrashAt::LookedUp))?;
        let hub = self.faults().hub.clone();
        if let (Some(first), Some(hub)) = (group.first(), hub) {
            let visible = hub.head().seq;
            assert!(visible < first.number, "{visible} is visible, and {} is not stored", first.number);
        }
        let is_full = self.is_full();
        if is_full {
            self.faults().full -= 1;
            return Err(Error::Full { path: std::path::PathBuf::new() });
        }
        self.step(|at| at == CrashAt::Written { survives: false })?;
        self.records.append(group, durability)?;
        if durability == Durability::Commit {
            self.faults().synced = self.records.state().newest;
        } else {
            let now = Clock::by_hand().now();
            self.faults().unsynced.extend(group.iter().map(|record| (now, record.number)));
        }
        self.step(|at| matches!(at, CrashAt::Written { survives: true } | CrashAt::Synced))
    }

    fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error> {
        self.check_alive()?;
        self.records.trim(now_ms, budget)
    }

    fn sync(&self) -> Result<(), Error> {
        self.check_alive()?;
        let mut faults = self.faults();
        faults.synced = self.records.state().newest;
        faults.unsynced.clear();
        drop(faults);
        self.records.sync()
    }
}

/// The time of a record, on the clock of the world, as an engine computes it that reads the record now.
pub(crate) fn published_at(record: &Record, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_millis(unix_ms(now).saturating_sub(record.published_ms)))
}

/// The date that clocks by hand show at this time, in milliseconds since 1970.
fn unix_ms(now: Duration) -> u64 {
    (Clock::HAND_DATE + now).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_faults_it_keeps_the_contract() {
        // How a record is appended is the world's choice, and no matter of this suite.
        struct AnyDurability(Arc<Disk>);
        impl StoreReader for AnyDurability {
            fn state(&self) -> State {
                self.0.state()
            }

            fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
                self.0.read(query, after, bounds)
            }

            fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
                self.0.find(id, topics)
            }
        }

        impl Store for AnyDurability {
            fn append(&self, group: &[Record], _: Durability) -> Result<(), Error> {
                self.0.append(group, Durability::Commit)
            }

            fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error> {
                self.0.trim(now_ms, budget)
            }

            fn sync(&self) -> Result<(), Error> {
                self.0.sync()
            }
        }
        fanfare_store::conformance::all(&|limits| {
            Box::new(AnyDurability(Disk::new(Epoch::new(1), limits, Durability::Commit)))
        });
    }
}
