//! A store that fails when it is told to: for tests of what stands on a store.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fanfare_proto::event::{EventId, Topic};

use crate::contract::{Bounds, Durability, Page, Query, State, Store, StoreReader, Trimmed};
use crate::{Error, Record};

/// A store around another one, with faults that a test has planned. Without a planned fault, each call goes
/// to the store inside.
///
/// ```
/// # use fanfare_proto::cursor::Epoch;
/// # use fanfare_proto::event::{Event, Topic};
/// # use fanfare_proto::limits::LogLimits;
/// # use fanfare_store::{Durability, Error, Fault, FaultyStore, MemoryStore, Record, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const ENOSPC: i32 = 28;
/// let store = FaultyStore::new(MemoryStore::new(Epoch::new(1), LogLimits::default()));
/// store.plan_append(0, Fault::Fails(ENOSPC));
/// let record = Record { number: 1, published_ms: 0, event: Event::new(Topic::new("t")?) };
/// let full = store.append(&[record.clone()], Durability::Commit);
/// assert!(matches!(full, Err(Error::Full { .. })));
/// store.append(&[record], Durability::Commit)?;
/// # Ok(())
/// # }
/// ```
pub struct FaultyStore<S> {
    inside: S,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    appends: Planned,
    syncs: Planned,
    reads: Planned,
    /// What had failed, and the group of which nobody knows whether it is there.
    broken: Option<(String, Vec<Record>)>,
}

/// Faults by the number of calls until they come.
#[derive(Default)]
struct Planned(Vec<(usize, Fault)>);

/// What a call does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It does nothing and fails with this `errno`.
    Fails(i32),
    /// It fails with this `errno` in its middle, and it is not known what is on the disk: everything that
    /// writes fails until [`FaultyStore::open_again`]. Then the group is there as a whole, or not at all.
    Tears {
        /// The `errno`.
        errno: i32,
        /// Whether the group is there then.
        is_there: bool,
    },
    /// It waits, and then does its work.
    Waits(Duration),
    /// It panics: a mistake of the store, and not of the disk.
    Panics,
}

impl<S: Store> FaultyStore<S> {
    /// A store without faults.
    pub fn new(inside: S) -> FaultyStore<S> {
        FaultyStore { inside, faults: Mutex::default() }
    }

    /// Plans a fault for an append, after so many other ones.
    pub fn plan_append(&self, after: usize, fault: Fault) {
        self.faults().appends.0.push((after, fault));
    }

    /// Plans a fault for a sync, after so many other ones. An append with [`Durability::Commit`] syncs, too:
    /// a fault of it tears the append.
    pub fn plan_sync(&self, after: usize, fault: Fault) {
        self.faults().syncs.0.push((after, fault));
    }

    /// Plans a fault for a read or a search, after so many other ones.
    pub fn plan_read(&self, after: usize, fault: Fault) {
        self.faults().reads.0.push((after, fault));
    }

    /// Mends a broken store, as a new start of the process does.
    ///
    /// # Errors
    /// Those of the store inside, to which the torn group is appended where it is there.
    pub fn open_again(&self) -> Result<(), Error> {
        let broken = self.faults().broken.take();
        match broken {
            Some((_, group)) => self.inside.append(&group, Durability::Commit),
            None => Ok(()),
        }
    }

    /// The store inside.
    pub fn inside(&self) -> &S {
        &self.inside
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what was planned for a call that writes this group.
    fn write_fault(&self, fault: Option<Fault>, group: &[Record]) -> Result<(), Error> {
        if let Some(Fault::Tears { errno, is_there }) = fault {
            let cause = io::Error::from_raw_os_error(errno);
            let group = if is_there { group.to_vec() } else { Vec::new() };
            self.faults().broken = Some((cause.to_string(), group));
            return Err(Error::Broken { cause: cause.to_string() });
        }
        simple_fault("write", fault)
    }

    fn check_broken(&self) -> Result<(), Error> {
        match &self.faults().broken {
            Some((cause, _)) => Err(Error::Broken { cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

impl<S: Store> StoreReader for FaultyStore<S> {
    fn state(&self) -> State {
        self.inside.state()
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        let fault = self.faults().reads.next();
        simple_fault("read", fault)?;
        self.inside.read(query, after, bounds)
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        let fault = self.faults().reads.next();
        simple_fault("read", fault)?;
        self.inside.find(id, topics)
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn append(&self, group: &[Record], durability: Durability) -> Result<(), Error> {
        self.check_broken()?;
        crate::memory::check_order(group, self.inside.state().newest)?;
        let fault = self.faults().appends.next();
        self.write_fault(fault, group)?;
        if durability == Durability::Commit {
            let fault = self.faults().syncs.next();
            // After a failed sync nobody knows what is on the disk.
            let fault = match fault {
                Some(Fault::Fails(errno)) => Some(Fault::Tears { errno, is_there: false }),
                other => other,
            };
            self.write_fault(fault, group)?;
        }
        self.inside.append(group, durability)
    }

    fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error> {
        self.check_broken()?;
        self.inside.trim(now_ms, budget)
    }

    fn sync(&self) -> Result<(), Error> {
        self.check_broken()?;
        let fault = self.faults().syncs.next();
        self.write_fault(fault, &[])?;
        self.inside.sync()
    }
}

impl Planned {
    /// The fault of the next call.
    fn next(&mut self) -> Option<Fault> {
        let due = self.0.iter().position(|(after, _)| *after == 0);
        let fault = due.map(|due| self.0.remove(due).1);
        for (after, _) in &mut self.0 {
            *after = after.saturating_sub(1);
        }
        fault
    }
}

fn simple_fault(action: &'static str, fault: Option<Fault>) -> Result<(), Error> {
    match fault {
        Some(Fault::Fails(errno) | Fault::Tears { errno, .. }) => {
            Err(Error::from_io(action, Path::new(""), io::Error::from_raw_os_error(errno)))
        }
        Some(Fault::Waits(time)) => {
            thread::sleep(time);
            Ok(())
        }
        Some(Fault::Panics) => panic!("a planned panic of the store"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use fanfare_proto::cursor::Epoch;
    use fanfare_proto::event::Event;
    use fanfare_proto::limits::LogLimits;

    use super::*;
    use crate::MemoryStore;

    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;

    fn store() -> FaultyStore<MemoryStore> {
        FaultyStore::new(MemoryStore::new(Epoch::new(1), LogLimits::default()))
    }

    fn record(number: u64) -> Record {
        Record { number, published_ms: 0, event: Event::new(Topic::new("t").unwrap()) }
    }

    fn numbers(store: &impl Store) -> Vec<u64> {
        let page = store.read(Query::All, 0, Bounds::default()).unwrap();
        page.records.iter().map(|record| record.number).collect()
    }

    #[test]
    fn without_faults_it_keeps_the_contract() {
        crate::conformance::all(&|limits| {
            Box::new(FaultyStore::new(MemoryStore::new(Epoch::new(1), limits)))
        });
    }

    #[test]
    fn a_failed_append_leaves_nothing_and_the_next_one_works() {
        let store = store();
        store.plan_append(1, Fault::Fails(ENOSPC));
        store.append(&[record(1)], Durability::Commit).unwrap();
        let full = store.append(&[record(2), record(3)], Durability::Commit).unwrap_err();
        assert!(matches!(full, Error::Full { .. }) && full.is_passing());
        assert_eq!((numbers(&store), store.state().newest), (vec![1], 1));
        store.append(&[record(2)], Durability::Commit).unwrap();
        assert_eq!(numbers(&store), [1, 2]);
    }

    #[test]
    fn a_failed_sync_breaks_the_store_until_it_is_opened_again() {
        let store = store();
        store.plan_sync(0, Fault::Fails(EIO));
        let failed = store.append(&[record(1)], Durability::Commit).unwrap_err();
        assert!(matches!(failed, Error::Broken { .. }) && !failed.is_passing());
        for again in
            [store.append(&[record(1)], Durability::Async), store.sync(), store.trim(0, 1).map(|_| ())]
        {
            assert!(matches!(again, Err(Error::Broken { .. })));
        }
        assert_eq!(numbers(&store), [0; 0]);
        store.open_again().unwrap();
        store.append(&[record(1)], Durability::Commit).unwrap();
        assert_eq!(numbers(&store), [1]);
    }

    #[test]
    fn a_torn_append_is_there_as_a_whole_or_not_at_all() {
        for is_there in [false, true] {
            let store = store();
            store.plan_append(0, Fault::Tears { errno: EIO, is_there });
            store.append(&[record(1), record(2)], Durability::Commit).unwrap_err();
            assert_eq!(numbers(&store), [0; 0]);
            store.open_again().unwrap();
            assert_eq!(numbers(&store).len(), if is_there { 2 } else { 0 });
        }
    }

    #[test]
    fn reads_fail_and_calls_wait_as_planned() {
        let store = store();
        store.plan_read(0, Fault::Fails(EIO));
        store.plan_append(0, Fault::Waits(Duration::from_millis(1)));
        store.append(&[record(1)], Durability::Async).unwrap();
        assert!(matches!(store.read(Query::All, 0, Bounds::default()), Err(Error::Io { .. })));
        assert_eq!(numbers(&store), [1]);
    }
}
