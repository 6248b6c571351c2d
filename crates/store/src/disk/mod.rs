//! The store on disk: one directory, one process.
//!
//! Below it is redb, a B-tree whose transactions survive a power cut. `bench/src/bin/store_engines.rs` has
//! the figures by which it was chosen.
//!
//! ```text
//!   append ---> tail (memory) ---------------------> read, find
//!      |           |
//!      | commit    | every 4,096 records or 4 MiB, and with each trim
//!      v           v
//!   groups      index by topic, own ids ----------> read, find
//! ```
//!
//! - A commit writes one row for the group, and the row of the state. The index follows later: until then the
//!   records are in the *tail*, in memory, which is read back from the groups when the store is opened.
//! - Asynchronous records are in the tail alone. They are committed with the next commit, sync or trim, or
//!   when they are more than 1 MiB.
//! - Each topic has a row with its counts, and rows with its records in each group. So a topic is read in the
//!   order of its numbers from any number on, after one search in a tree.
//!
//! # The size of the file
//!
//! `total_bytes` bounds what is *charged*: encoded groups, topics with records, rows of the index and of own
//! ids, with what these cost in pages that are not full. Appends make room themselves when more than
//! `9/8 * total_bytes` are charged and no trim has made room. A large group takes a power of two of pages.
//! Pages are used again two commits after they were freed. The file doubles where it grows. So
//!
//! ```text
//! file <= 2 * (9/8 * total_bytes + 16 MiB + (160 bytes + name) * topics)
//! ```
//!
//! where 16 MiB stand for the tail and for one large group, and the topics are those without records, of
//! which up to 125,000 are remembered, so that no gap is told that is none. The file does not become smaller.
//!
//! # What an append may wait for
//!
//! A commit, and where it indexes the tail, the rows of 4,096 records. A trim holds up appends for its slice
//! and one commit: a slice of 2,048 steps took 30 ms, and 130 ms at most, beside commits of 4 ms. Readers
//! wait for neither. After a full disk, everything waits until the whole file is checked.
//!
//! # What can be lost
//!
//! Nothing that was committed, by any end of the process or a power cut, if the disk keeps what it has
//! synced. [`Opening`] says what is missing all the same: asynchronous records, and committed ones at the end
//! if the disk has not kept them. Their numbers are never given again: numbers are reserved in the database
//! before asynchronous records get them, and go on above the reserve after a crash. Subscribers that ask for
//! older numbers are told of a gap.
//!
//! Damage that a power cut does not explain is an error with its place, and nothing is removed. [`salvage`]
//! reads what is whole.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{EventId, Topic};
use fanfare_proto::limits::LogLimits;
use redb::{Database, StorageBackend, WriteTransaction};
use siphasher::sip::SipHasher13;

use self::edit::{Edit, Pass, Unindexed, group_error};
use self::files::{Directory, Failure, Files, Newest};
use self::rows::{GROUP_ROW_BYTES, GROUPS, STATE, STATE_KEY, StateRow};
use self::tail::Tail;
use self::verify::Unchanged;
use crate::contract::{Bounds, Durability, Page, Query, State, Store, StoreReader, Trimmed};
use crate::encoding::{encode_group, event_bytes};
use crate::memory::check_order;
use crate::{Error, Record};

mod edit;
mod files;
mod opening;
#[cfg(test)]
mod power;
mod read;
mod rows;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

pub use self::verify::{Verified, salvage, verify};

/// What may wait in the tail to be indexed: topics, each counted for each of its records, and bytes.
const TAIL_TOPICS: usize = 4096;
const TAIL_BYTES: u64 = 4 << 20;

/// Bytes of asynchronous records at which an append commits them.
const ASYNC_BYTES: u64 = 1 << 20;

/// Numbers that are reserved for asynchronous records, with each commit of some: about as many as there are
/// before the next commit. After a crash the numbers go on above them.
const RESERVED_NUMBERS: u64 = 1 << 16;

/// Records and bytes of one row of groups. A larger record has a row of its own.
const GROUP_RECORDS: usize = 256;
const GROUP_BYTES: usize = 64 << 10;

/// Steps of a trim that an append makes beyond the bound, and for each topic of its records: a record is gone
/// when it is gone from each of its topics.
const APPEND_STEPS: usize = 64;
const APPEND_STEPS_PER_TOPIC: usize = 4;

/// An append is refused when the disk has less room than this, and four times the group. The database could
/// not undo a write that has found no room, and had to be opened again.
const FREE_BYTES: u64 = 16 << 20;

/// How a store on disk is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Retention by topic, and the bound of all bytes.
    pub limits: LogLimits,
    /// Memory for pages of the database, in bytes.
    pub cache_bytes: usize,
    /// Random bits, for the epoch of a new store and for the key of its hashes. No publisher may know them.
    pub random: [u64; 3],
}

impl Options {
    /// 16 MiB of cache, and these bounds and random bits.
    pub fn new(limits: LogLimits, random: [u64; 3]) -> Options {
        Options { limits, cache_bytes: 16 << 20, random }
    }

    /// Sets [`Options::cache_bytes`].
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: usize) -> Options {
        self.cache_bytes = cache_bytes;
        self
    }
}

/// What was found when a store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// The store was made.
    pub is_new: bool,
    /// The store was not closed: its process ended at once, or the power was cut. Everything was checked.
    pub was_repaired: bool,
    /// What is missing at the end.
    pub cut: Option<Cut>,
}

/// Records at the end of the log that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// Their numbers are among these. No record bears one of them.
    pub numbers: RangeInclusive<u64>,
    /// How many there were, and their encoded bytes. `None`: this is not known, because the power was cut.
    pub lost: Option<(u64, u64)>,
    /// Whether some of them were acknowledged as durable: then the disk is damaged, or does not keep what it
    /// has synced.
    pub was_durable: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.numbers.start(), self.numbers.end());
        match self.lost {
            Some((records, bytes)) => write!(f, "{records} records with {bytes} bytes are missing")?,
            None => f.write_str("records may be missing")?,
        }
        write!(f, ", with numbers from {first} to {last}")?;
        match self.was_durable {
            true => f.write_str("; they had been on the disk: check it"),
            false => f.write_str("; they were not on the disk yet"),
        }
    }
}

/// A store in one directory. See the [module](self).
pub struct DiskStore {
    files: Box<dyn Files>,
    limits: RwLock<LogLimits>,
    cache_bytes: usize,
    /// `None` while it is opened again after a failure.
    database: RwLock<Option<Database>>,
    /// The first failure of the database's file.
    failure: Arc<Mutex<Option<Failure>>>,
    writer: Mutex<Writer>,
    /// What readers see. Held for a moment only.
    shared: RwLock<Shared>,
    hashes: Hashes,
    opening: Opening,
}

/// What belongs to the thread that writes.
struct Writer {
    /// As it was committed last.
    row: StateRow,
    /// Committed records that are not indexed.
    unindexed: Vec<Unindexed>,
    unindexed_bytes: u64,
    /// Their topics, each counted for each of its records.
    unindexed_topics: usize,
    /// Records that are not committed.
    unsynced: Vec<Arc<Record>>,
    unsynced_bytes: u64,
    newest: Box<dyn StorageBackend>,
    boot: u64,
    writes_of_newest: usize,
    pass: Pass,
    /// The disk was full. The database has to be opened again.
    is_stuck: bool,
    /// Nothing is written any more.
    broken: Option<String>,
}

struct Shared {
    state: State,
    tail: Tail,
}

impl DiskStore {
    /// Opens the store in this directory, or makes one if there is none. Where the store was not closed, all
    /// of it is read and checked: about a second for a gigabyte.
    ///
    /// # Errors
    /// The directory is in use, is not a directory or not a store, was written by a newer version, may not be
    /// written, or is damaged; or the disk is full. [`Error`] has a variant for each.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<DiskStore, Error> {
        DiskStore::open_files(Box::new(Directory::open(path.as_ref())?), options)
    }

    /// Opens the store in this directory to look into it: the directory is not changed. What the store writes
    /// stays in memory and is lost when it is closed, so a later [`DiskStore::open`] finds what this one has
    /// found, and says the same of the end of the log.
    ///
    /// # Errors
    /// Those of [`DiskStore::open`], and [`Error::NoStore`] where there is none.
    pub fn view(path: impl AsRef<Path>, options: Options) -> Result<DiskStore, Error> {
        let directory = Directory::existing(path.as_ref())?;
        DiskStore::open_files(Box::new(Unchanged::new(directory)), options)
    }

    /// Opens the store in this directory as [`DiskStore::open`] does, but makes none.
    ///
    /// # Errors
    /// Those of [`DiskStore::open`], and [`Error::NoStore`] where there is none.
    pub fn open_existing(path: impl AsRef<Path>, options: Options) -> Result<DiskStore, Error> {
        DiskStore::open_files(Box::new(Directory::existing(path.as_ref())?), options)
    }

    /// Gives the store a new epoch: numbers may mean other events from now on. A copy of a store needs it,
    /// because the store that it was made of has given numbers since then that this one gives again. Clients
    /// with older ids are told of a gap once. This is for a store that no server uses.
    ///
    /// # Errors
    /// Those of the storage. The epoch is the same as before then.
    pub fn begin_epoch(&self, random: u64) -> Result<Epoch, Error> {
        let mut writer = self.writer();
        self.check_writer(&mut writer)?;
        let mut epoch = Epoch::new(random);
        if epoch == self.shared().state.epoch {
            epoch = Epoch::new(random.wrapping_add(1));
        }
        self.transact(&mut writer, |_, row| {
            row.epoch = text_of(epoch);
            Ok(((), true))
        })?;
        self.shared_mut().state.epoch = epoch;
        Ok(epoch)
    }

    /// Makes everything durable and indexed, and closes the database, so that the next start need not check
    /// the whole file. Then every call fails. A store that is dropped is closed, too: this is for a program
    /// that ends while others still have it.
    ///
    /// # Errors
    /// Those of the storage. What was acknowledged as durable is there all the same.
    pub fn close(&self) -> Result<(), Error> {
        let mut writer = self.writer();
        let closed = self.settle(&mut writer);
        drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
        writer.broken = Some("it is closed".to_owned());
        closed
    }

    /// Commits and indexes everything, and gives back the numbers that were reserved.
    fn settle(&self, writer: &mut Writer) -> Result<(), Error> {
        self.check_writer(writer)?;
        self.commit(writer, &[], Durability::Commit, true)?;
        let newest = self.shared().state.newest;
        if writer.row.reserved == newest {
            return Ok(());
        }
        self.transact(writer, |_, row| {
            row.reserved = newest;
            Ok(((), true))
        })
    }

    /// What was found when the store was opened.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Gives the store other bounds. What they do not cover goes with the next trims, in slices.
    pub fn set_limits(&self, limits: LogLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Makes the file as small as it can be. Everything waits meanwhile, so this is for a store that no
    /// server uses.
    ///
    /// # Errors
    /// Those of the storage. The file may be as large as before then; nothing is lost.
    pub fn compact(&self) -> Result<(), Error> {
        let mut writer = self.writer();
        self.commit(&mut writer, &[], Durability::Commit, true)?;
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let open = database.as_mut().ok_or_else(|| Error::Full { path: self.files.path().to_owned() })?;
        let compacted = guarded(|| {
            // Each round may leave room for another.
            while open.compact().map_err(compaction_error)? {}
            Ok(())
        });
        drop(database);
        compacted.or_else(|error| self.after_failure(&mut writer, error, None))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared_mut(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> LogLimits {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_room(&self, bytes: u64) -> Result<(), Error> {
        match self.files.free_bytes() {
            Some(free) if free < FREE_BYTES.saturating_add(bytes.saturating_mul(4)) => {
                Err(Error::Full { path: self.files.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that something can be written. Comes before everything that depends on what is there.
    fn check_writer(&self, writer: &mut Writer) -> Result<(), Error> {
        if let Some(cause) = &writer.broken {
            return Err(Error::Broken { cause: cause.clone() });
        }
        if !self.files.is_in_place() {
            let path = self.files.path().display();
            let cause =
                format!("{path} is not the directory any more that was opened: it was removed or replaced");
            writer.broken = Some(cause.clone());
            return Err(Error::Broken { cause });
        }
        if !writer.is_stuck {
            return Ok(());
        }
        // To open it reads the whole file.
        self.check_room(0)?;
        if self.open_again(writer)? != writer.row {
            let cause = "the disk was full, and the database has another state than before".to_owned();
            writer.broken = Some(cause.clone());
            return Err(Error::Broken { cause });
        }
        match writer.is_stuck {
            true => Err(Error::Full { path: self.files.path().to_owned() }),
            false => Ok(()),
        }
    }

    /// Makes one write transaction. Its work changes the row of the state that it is given, which is written
    /// with it, and says whether there is anything to write. After an error nothing has changed for readers,
    /// and nothing of it is in the database, but for [`Error::Broken`], after which this is not known.
    fn transact<T>(
        &self,
        writer: &mut Writer,
        work: impl FnOnce(&WriteTransaction, &mut StateRow) -> Result<(T, bool), Error>,
    ) -> Result<T, Error> {
        let mut row = writer.row;
        let outcome = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database =
                database.as_ref().ok_or_else(|| Error::Full { path: self.files.path().to_owned() })?;
            guarded(|| {
                let transaction = database.begin_write().map_err(database_error)?;
                let (result, is_changed) = work(&transaction, &mut row)?;
                if !is_changed {
                    transaction.abort().map_err(database_error)?;
                    return Ok((result, Ok(())));
                }
                {
                    let mut state = transaction.open_table(STATE).map_err(database_error)?;
                    state.insert(STATE_KEY, row.encode().as_slice()).map_err(database_error)?;
                }
                Ok((result, transaction.commit().map_err(database_error)))
            })
        };
        let (result, committed) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.after_failure(writer, error, None)?;
                return Err(Error::Full { path: self.files.path().to_owned() });
            }
        };
        match committed {
            Ok(()) => writer.row = row,
            // The database does some more after the transaction is on the disk, and that may fail, too.
            Err(error) => self.after_failure(writer, error, Some(row))?,
        }
        Ok(result)
    }

    /// What a failed transaction means for it, and for the next one. `tried` is the row of a transaction
    /// whose commit has failed.
    ///
    /// # Errors
    /// Where this transaction is not in the database, or nobody knows. Otherwise it is there as a whole.
    fn after_failure(&self, writer: &mut Writer, error: Error, tried: Option<StateRow>) -> Result<(), Error> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(failure) = failure else {
            // The file did not fail, so the transaction was undone.
            return Err(error.at(self.files.path()));
        };
        let is_full = matches!(failure.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if !is_full || failure.is_sync {
            writer.broken = Some(failure.text.clone());
            return Err(Error::Broken { cause: failure.text });
        }
        writer.is_stuck = true;
        // Readers need the database.
        match (self.open_again(writer), tried) {
            (Ok(found), Some(tried)) if found == tried => {
                writer.row = tried;
                Ok(())
            }
            (Ok(found), _) if found == writer.row => Err(Error::Full { path: self.files.path().to_owned() }),
            (Ok(_), _) => {
                let cause = format!("{}, and the database has another state than before", failure.text);
                writer.broken = Some(cause.clone());
                Err(Error::Broken { cause })
            }
            (Err(other), _) => {
                let cause = format!("{}, and the database cannot be read: {other}", failure.text);
                writer.broken = Some(cause.clone());
                Err(Error::Broken { cause })
            }
        }
    }

    /// Commits everything that is not committed, and then the group. May index, and may make room. With
    /// [`Durability::Async`] more asynchronous records are expected.
    fn commit(
        &self,
        writer: &mut Writer,
        group: &[Arc<Record>],
        durability: Durability,
        index_all: bool,
    ) -> Result<(), Error> {
        let records: Vec<Arc<Record>> = writer.unsynced.iter().chain(group).cloned().collect();
        let Some(newest) = records.last().map(|record| record.number) else {
            return if index_all { self.index_all(writer) } else { Ok(()) };
        };
        let bytes: u64 = records.iter().map(|record| event_bytes(&record.event) as u64).sum();
        self.check_room(bytes)?;
        let limits = self.limits();
        let added = split(&records);
        let new: Vec<Unindexed> = added
            .iter()
            .flat_map(|group| {
                let key = group[0].number;
                group.iter().map(move |record| Unindexed { record: record.clone(), group: key })
            })
            .collect();
        let topics = records.iter().map(|record| record.event.topics().len()).sum::<usize>();
        let is_over = writer.row.charged > (limits.total_bytes as u64 / 8).saturating_mul(9);
        let index_all = index_all
            || is_over
            || writer.unindexed_topics + topics >= TAIL_TOPICS
            || writer.unindexed_bytes + bytes >= TAIL_BYTES;
        let steps = APPEND_STEPS + APPEND_STEPS_PER_TOPIC * topics;
        let unindexed = if index_all { writer.unindexed.clone() } else { Vec::new() };
        let mut pass = writer.pass.clone();
        let result = self.transact(writer, |transaction, row| {
            {
                let mut groups = transaction.open_table(GROUPS).map_err(database_error)?;
                for group in &added {
                    let bytes = encode_group(group.iter().map(|record| &**record));
                    groups.insert(group[0].number, bytes.as_slice()).map_err(database_error)?;
                    row.charged += bytes.len() as u64 + GROUP_ROW_BYTES;
                }
            }
            row.committed = newest;
            // No record waits now. A reserve that nothing needs would be taken for lost records after a
            // crash.
            row.reserved = match durability {
                Durability::Commit => newest,
                Durability::Async => newest.saturating_add(RESERVED_NUMBERS),
            };
            row.records += records.len() as u64;
            row.bytes += bytes;
            row.ever_records += records.len() as u64;
            row.ever_bytes += bytes;
            row.tail_records += records.len() as u64;
            row.tail_bytes += bytes;
            if !index_all {
                return Ok((None, true));
            }
            let mut edit = Edit::new(transaction, row, &limits)?;
            edit.add(unindexed.iter().chain(&new))?;
            if is_over {
                let mut left = steps;
                edit.make_room(&mut pass, &mut left)?;
            }
            Ok((Some(edit.finish()?), true))
        });
        let oldest = result?;
        writer.pass = pass;
        match oldest {
            Some(_) => writer.all_is_indexed(),
            None => {
                writer.unindexed.extend(new);
                writer.unindexed_bytes += bytes;
                writer.unindexed_topics += topics;
            }
        }
        writer.unsynced.clear();
        writer.unsynced_bytes = 0;
        self.publish(writer, group, oldest);
        Ok(())
    }

    fn index_all(&self, writer: &mut Writer) -> Result<(), Error> {
        if writer.unindexed.is_empty() {
            return Ok(());
        }
        let limits = self.limits();
        let unindexed = writer.unindexed.clone();
        let result = self.transact(writer, |transaction, row| {
            let mut edit = Edit::new(transaction, row, &limits)?;
            edit.add(unindexed.iter())?;
            Ok((edit.finish()?, true))
        });
        let oldest = result?;
        writer.all_is_indexed();
        self.publish(writer, &[], Some(oldest));
        Ok(())
    }

    /// Shows readers what was written. `indexed`: everything that was committed is indexed, and this is the
    /// oldest record.
    fn publish(&self, writer: &mut Writer, added: &[Arc<Record>], indexed: Option<u64>) {
        let newest = added.last().map(|record| record.number);
        let newest = newest.unwrap_or_else(|| self.shared().state.newest);
        // What it says of committed records is in the database, too.
        let _ = writer.note_newest(newest);
        self.show(writer, newest, added, indexed);
    }

    /// The same without the file of the newest record.
    fn show(&self, writer: &Writer, newest: u64, added: &[Arc<Record>], indexed: Option<u64>) {
        let (row, records, bytes) = (writer.row, writer.unsynced.len() as u64, writer.unsynced_bytes);
        let mut shared = self.shared_mut();
        let Shared { state, tail } = &mut *shared;
        if indexed.is_some() {
            tail.clear_through(row.indexed);
        }
        for record in added.iter().filter(|record| record.number > row.indexed) {
            tail.push(record.clone(), self.hashes);
        }
        state.newest = newest;
        state.synced = row.committed;
        state.records = row.records + records;
        state.bytes = row.bytes + bytes;
        match indexed {
            Some(oldest) => state.oldest = if oldest > 0 { oldest } else { tail.first().unwrap_or(0) },
            None if state.oldest == 0 => state.oldest = tail.first().unwrap_or(0),
            None => {}
        }
    }

    /// Reserves numbers up to beyond this one, so that they are not given again after a power cut.
    fn reserve(&self, writer: &mut Writer, number: u64) -> Result<(), Error> {
        if number <= writer.row.reserved {
            return Ok(());
        }
        self.check_room(0)?;
        self.transact(writer, |_, row| {
            row.reserved = number.saturating_add(RESERVED_NUMBERS);
            Ok(((), true))
        })
    }
}

impl StoreReader for DiskStore {
    fn state(&self) -> State {
        self.shared().state
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        guarded(|| self.read_page(query, after, bounds)).map_err(|error| error.at(self.files.path()))
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        guarded(|| self.find_record(id, topics)).map_err(|error| error.at(self.files.path()))
    }
}

impl Store for DiskStore {
    fn append(&self, group: &[Record], durability: Durability) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_writer(&mut writer)?;
        check_order(group, self.shared().state.newest)?;
        let Some(last) = group.last() else { return Ok(()) };
        let records: Vec<Arc<Record>> = group.iter().cloned().map(Arc::new).collect();
        let bytes: u64 = group.iter().map(|record| event_bytes(&record.event) as u64).sum();
        self.check_room(writer.unsynced_bytes + bytes)?;
        if durability == Durability::Commit || writer.unsynced_bytes + bytes > ASYNC_BYTES {
            return self.commit(&mut writer, &records, durability, false);
        }
        self.reserve(&mut writer, last.number)?;
        let unsynced = writer.unsynced.len();
        writer.unsynced.extend(records.iter().cloned());
        writer.unsynced_bytes += bytes;
        // Before a reader sees them: what was seen is known at the next start.
        if let Err(source) = writer.note_newest(last.number) {
            writer.unsynced.truncate(unsynced);
            writer.unsynced_bytes -= bytes;
            return Err(Error::from_io("note the newest record of the store in", self.files.path(), source));
        }
        self.show(&writer, last.number, &records, None);
        Ok(())
    }

    fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error> {
        let mut writer = self.writer();
        self.check_writer(&mut writer)?;
        self.commit(&mut writer, &[], Durability::Async, true)?;
        if writer.row.topics + writer.row.empty_topics == 0 {
            return Ok(Trimmed::default());
        }
        let limits = self.limits();
        let (mut pass, mut left) = (writer.pass.clone(), budget.max(1));
        let before = writer.row;
        let (trimmed, oldest) = self.transact(&mut writer, |transaction, row| {
            let mut edit = Edit::new(transaction, row, &limits)?;
            // The bound of all bytes first: with very many topics, the pass over them took every step, and
            // the store was beyond its bound for hours.
            let (mut half, all) = (left.div_ceil(2), left);
            edit.make_room(&mut pass, &mut half)?;
            left = all - (all.div_ceil(2) - half);
            let is_end = edit.enforce(&mut pass, now_ms, &mut left)?;
            let has_room = edit.make_room(&mut pass, &mut left)?;
            let trimmed = Trimmed { more: !is_end || !has_room, ..edit.trimmed };
            let is_changed = edit.is_changed();
            let oldest = edit.finish()?;
            Ok(((trimmed, oldest), is_changed || *row != before))
        })?;
        writer.pass = pass;
        self.publish(&mut writer, &[], Some(oldest));
        Ok(trimmed)
    }

    fn sync(&self) -> Result<(), Error> {
        let mut writer = self.writer();
        self.check_writer(&mut writer)?;
        self.commit(&mut writer, &[], Durability::Async, false)
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        let _ = self.settle(&mut self.writer());
    }
}

impl Writer {
    /// Notes beside the database that all records up to this one were given to the caller.
    fn note_newest(&mut self, newest: u64) -> io::Result<()> {
        let (row, records, bytes) = (self.row, self.unsynced.len() as u64, self.unsynced_bytes);
        let beside = Newest {
            acknowledged: [row.committed, row.ever_records, row.ever_bytes],
            appended: [newest, row.ever_records + records, row.ever_bytes + bytes],
            boot: self.boot,
        };
        beside.write(&*self.newest, self.writes_of_newest)?;
        // Where it has failed, the other slot stays as it is.
        self.writes_of_newest += 1;
        Ok(())
    }

    fn all_is_indexed(&mut self) {
        self.unindexed.clear();
        (self.unindexed_bytes, self.unindexed_topics) = (0, 0);
    }
}

/// The rows that records are put into: few enough records for a row that is read or written as a whole.
fn split(records: &[Arc<Record>]) -> Vec<&[Arc<Record>]> {
    let (mut rows, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, record) in records.iter().enumerate() {
        let of_record = event_bytes(&record.event);
        if at > start && (at - start >= GROUP_RECORDS || bytes + of_record > GROUP_BYTES) {
            rows.push(&records[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += of_record;
    }
    rows.push(&records[start..]);
    rows
}

/// Hashes of own ids with a key that no publisher knows.
#[derive(Clone, Copy)]
struct Hashes(SipHasher13);

impl Hashes {
    fn new(key: [u64; 2]) -> Hashes {
        Hashes(SipHasher13::new_with_keys(key[0], key[1]))
    }

    /// One number for an own id and the topics that it belongs to, in whatever order.
    fn identity(self, id: &EventId, topics: &[Topic]) -> u64 {
        let topics = topics.iter().map(|topic| self.0.hash(topic.as_str().as_bytes()));
        self.0.hash(id.as_str().as_bytes()).rotate_left(32) ^ topics.fold(0, u64::wrapping_add)
    }
}

/// What the database says. A failed write is told by [`Failure`] instead.
fn database_error(error: impl Into<redb::Error>) -> Error {
    let corrupt = |what: String| Error::corrupt("the pages of the database", what);
    match error.into() {
        redb::Error::Corrupted(what) => corrupt(what),
        // The file has an end that no page may be behind.
        redb::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
        {
            corrupt(error.to_string())
        }
        redb::Error::Io(source) => Error::from_io("use the database of the store", Path::new(""), source),
        other @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => Error::Io {
            action: "use the database of the store",
            path: Path::new("").to_owned(),
            source: io::Error::other(other.to_string()),
        },
        other => corrupt(other.to_string()),
    }
}

fn compaction_error(error: redb::CompactionError) -> Error {
    match error {
        redb::CompactionError::Storage(error) => database_error(error),
        other => Error::Io {
            action: "compact the database of the store",
            path: Path::new("").to_owned(),
            source: io::Error::other(other.to_string()),
        },
    }
}

/// The database panics where pages make no sense. That is damage like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Error::corrupt("the pages of the database", text.unwrap_or_default()))
    })
}

fn text_of(epoch: Epoch) -> [u8; 9] {
    let mut text = [0; 9];
    text.copy_from_slice(epoch.to_string().as_bytes());
    text
}

/// The epoch that has this text.
fn epoch_of(text: &[u8; 9]) -> Option<Epoch> {
    let text = std::str::from_utf8(text).ok()?;
    Cursor::parse(&format!("{text}-0")).map(|cursor| cursor.epoch)
}
