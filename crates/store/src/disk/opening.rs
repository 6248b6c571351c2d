//! Opening a store: what is there is read, and what is missing at the end is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fanfare_proto::cursor::Epoch;
use redb::{Database, ReadableDatabase, ReadableTable, TableError};

use super::edit::{Pass, Unindexed, read_group};
use super::files::{Failure, Files, Newest, Watched};
use super::read::Snapshot;
use super::rows::{GROUP_ROW_BYTES, GROUPS, IDS, INDEX, STATE, STATE_KEY, StateRow, TOPICS};
use super::tail::Tail;
use super::verify::{Overlay, open_overlay};
use super::{
    Cut, DiskStore, Hashes, Opening, Options, Shared, Writer, database_error, epoch_of, group_error, guarded,
    text_of,
};
use crate::contract::State;
use crate::encoding::event_bytes;
use crate::{Error, Record};

/// What the database has, beside the row of the state.
struct Loaded {
    unindexed: Vec<Unindexed>,
    unindexed_bytes: u64,
    unindexed_topics: usize,
    oldest: u64,
}

impl DiskStore {
    pub(super) fn open_files(files: Box<dyn Files>, options: Options) -> Result<DiskStore, Error> {
        let failure = Arc::new(Mutex::new(None));
        let (database, was_repaired) = open_database(&*files, options.cache_bytes, &failure)?;
        let result = guarded(|| {
            let is_new = begin(&database, options.random)?;
            files.complete()?;
            let newest = files.newest()?;
            let boot = files.boot();
            // Of a new store nothing is missing.
            let beside = if is_new { Newest { boot, ..Newest::default() } } else { Newest::read(&*newest) };
            let mut row = Snapshot::of(&database)?.row;
            let mut cut = cut_tail(&database, &mut row)?;
            cut = cut_by_numbers(&row, beside, boot).or(cut);
            // Numbers that may have been seen are not given again, whatever is known of them.
            let taken = row.reserved.max(cut.as_ref().map_or(0, |cut| *cut.numbers.end()));
            if cut.is_some() || taken > row.committed {
                row.cut = cut.as_ref().map_or(row.cut, |cut| *cut.numbers.end());
                (row.committed, row.reserved) = (taken, taken);
                put_row(&database, &row)?;
            }
            Ok((is_new, newest, row, cut, load(&database, &row)?))
        });
        let (is_new, newest, row, cut, loaded) = result.map_err(|error: Error| error.at(files.path()))?;
        let epoch = epoch_of(&row.epoch)
            .ok_or_else(|| Error::corrupt("the row of the state", "the epoch cannot be one"))?;
        let hashes = Hashes::new(row.hash_key);
        let shared = Shared {
            state: state_of(epoch, &row, loaded.oldest),
            tail: tail_of(&row, &loaded.unindexed, hashes),
        };
        let writer = Writer {
            row,
            unindexed: loaded.unindexed,
            unindexed_bytes: loaded.unindexed_bytes,
            unindexed_topics: loaded.unindexed_topics,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            newest,
            boot: files.boot(),
            writes_of_newest: 0,
            pass: Pass::default(),
            is_stuck: false,
            broken: None,
        };
        let store = DiskStore {
            files,
            limits: RwLock::new(options.limits),
            cache_bytes: options.cache_bytes,
            database: RwLock::new(Some(database)),
            failure,
            writer: Mutex::new(writer),
            shared: RwLock::new(shared),
            hashes,
            opening: Opening { is_new, was_repaired, cut },
        };
        store.publish(&mut store.writer(), &[], None);
        Ok(store)
    }

    /// Opens the database again after the disk was full: it takes no more writes otherwise. Readers wait for
    /// as long as it takes to check the whole file. Where there is not even the room to open it, its changes
    /// stay in memory: readers have it, and the store is stuck as before. Returns the row of the state that
    /// is in it: that of the transaction that has failed, or the one before.
    pub(super) fn open_again(&self, writer: &mut Writer) -> Result<StateRow, Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // It has to be closed before it is opened.
        *database = None;
        let forget = || *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        forget();
        let (opened, is_stuck) = match open_database(&*self.files, self.cache_bytes, &self.failure) {
            Ok((opened, _)) => (opened, false),
            Err(_) => {
                forget();
                let overlay = Overlay::new(self.files.database()?);
                let overlay = overlay.map_err(|source| Error::from_io("read", self.files.path(), source))?;
                (guarded(|| open_overlay(overlay))?, true)
            }
        };
        let row = guarded(|| Ok(Snapshot::of(&opened)?.row))?;
        *database = Some(opened);
        writer.is_stuck = is_stuck;
        Ok(row)
    }
}

/// Opens the database. True: it had not been closed.
fn open_database(
    files: &dyn Files,
    cache_bytes: usize,
    failure: &Arc<Mutex<Option<Failure>>>,
) -> Result<(Database, bool), Error> {
    let file = Watched::new(files.database()?, failure.clone());
    let was_repaired = Arc::new(AtomicBool::new(false));
    let noted = was_repaired.clone();
    let database = guarded(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        builder.set_repair_callback(move |_| noted.store(true, Ordering::Relaxed));
        builder.create_with_backend(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: files.path().to_owned() },
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                Error::corrupt("the beginning of the database's file", error.to_string())
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) => {
                Error::from_io("open the database of the store", files.path(), source)
            }
            other => database_error(other),
        })
    })?;
    Ok((database, was_repaired.load(Ordering::Relaxed)))
}

/// Makes the tables if there are none. True: there were none.
fn begin(database: &Database, random: [u64; 3]) -> Result<bool, Error> {
    let reading = database.begin_read().map_err(database_error)?;
    match reading.open_table(STATE) {
        Ok(_) => return Ok(false),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(database_error(error)),
    }
    drop(reading);
    let (epoch, hash_key) = (text_of(Epoch::new(random[0])), [random[1], random[2]]);
    let row = StateRow { epoch, hash_key, ..StateRow::default() };
    let transaction = database.begin_write().map_err(database_error)?;
    transaction.open_table(GROUPS).map_err(database_error)?;
    transaction.open_table(TOPICS).map_err(database_error)?;
    transaction.open_table(INDEX).map_err(database_error)?;
    transaction.open_table(IDS).map_err(database_error)?;
    {
        let mut state = transaction.open_table(STATE).map_err(database_error)?;
        state.insert(STATE_KEY, row.encode().as_slice()).map_err(database_error)?;
    }
    transaction.commit().map_err(database_error)?;
    Ok(true)
}

fn put_row(database: &Database, row: &StateRow) -> Result<(), Error> {
    let transaction = database.begin_write().map_err(database_error)?;
    {
        let mut state = transaction.open_table(STATE).map_err(database_error)?;
        state.insert(STATE_KEY, row.encode().as_slice()).map_err(database_error)?;
    }
    transaction.commit().map_err(database_error)
}

/// Removes the groups at the end of the tail that are damaged: a disk that does not keep what it has synced
/// may leave them after a power cut. Where a whole group comes behind a damaged one, this was something else,
/// and nothing is removed.
fn cut_tail(database: &Database, row: &mut StateRow) -> Result<Option<Cut>, Error> {
    let (mut kept, mut kept_bytes, mut damaged, mut charged) = (0, 0, None, 0);
    let mut behind: Option<(u64, u64)> = None;
    {
        let reading = database.begin_read().map_err(database_error)?;
        let groups = reading.open_table(GROUPS).map_err(database_error)?;
        for found in groups.range(row.indexed.saturating_add(1)..).map_err(database_error)? {
            let (key, bytes) = found.map_err(database_error)?;
            let records = read_group(key.value(), bytes.value())
                .and_then(|group| group.records().map_err(|damage| group_error(key.value(), &damage)));
            match records {
                Ok(records) if damaged.is_none() => {
                    kept += records.len() as u64;
                    kept_bytes += records.iter().map(encoded_bytes).sum::<u64>();
                }
                Ok(records) => {
                    let last = records.last().map_or(key.value(), |record| record.number);
                    behind = Some((behind.map_or(key.value(), |(first, _)| first), last));
                }
                Err(error) => {
                    damaged.get_or_insert((key.value(), error));
                    charged += bytes.value().len() as u64 + GROUP_ROW_BYTES;
                }
            }
        }
    }
    let first = match (damaged, behind) {
        (Some((first, _)), None) => first,
        (Some((_, Error::Corrupt { place, what })), Some((first, last))) => {
            let what = format!("{what}; the records from {first} to {last} behind it are whole");
            return Err(Error::corrupt(place, what));
        }
        (Some((_, other)), _) => return Err(other),
        (None, _) if kept == row.tail_records => return Ok(None),
        (None, _) => {
            let what = format!("{kept} of {} records that are not indexed are there", row.tail_records);
            return Err(Error::corrupt("the groups at the end", what));
        }
    };
    let lost = (row.tail_records - kept.min(row.tail_records), row.tail_bytes.saturating_sub(kept_bytes));
    let numbers = first..=row.reserved.max(row.committed);
    row.records = row.records.saturating_sub(lost.0);
    row.bytes = row.bytes.saturating_sub(lost.1);
    row.charged = row.charged.saturating_sub(charged);
    (row.tail_records, row.tail_bytes) = (kept, kept_bytes);
    row.cut = *numbers.end();
    let transaction = database.begin_write().map_err(database_error)?;
    {
        let mut groups = transaction.open_table(GROUPS).map_err(database_error)?;
        groups.retain_in(first.., |_, _| false).map_err(database_error)?;
        let mut state = transaction.open_table(STATE).map_err(database_error)?;
        state.insert(STATE_KEY, row.encode().as_slice()).map_err(database_error)?;
    }
    transaction.commit().map_err(database_error)?;
    Ok(Some(Cut { numbers, lost: Some(lost), was_durable: true }))
}

/// What was given to the caller and is not in the database. Without asynchronous records, no number above the
/// committed ones is reserved, and nothing is missing.
fn cut_by_numbers(row: &StateRow, beside: Newest, boot: u64) -> Option<Cut> {
    let [acknowledged, ..] = beside.acknowledged;
    let [appended, records, bytes] = beside.appended;
    // Only the process has ended, and not the machine: then the file beside the database is up to date. Where
    // it is older than the database, it was lost itself.
    let is_known = boot != 0 && beside.boot == boot && appended >= row.committed;
    let reserved = if is_known { 0 } else { row.reserved };
    let last = reserved.max(acknowledged).max(appended);
    if last <= row.committed {
        return None;
    }
    let was_durable = acknowledged > row.committed;
    let lost = (records.saturating_sub(row.ever_records), bytes.saturating_sub(row.ever_bytes));
    let lost = (appended > row.committed).then_some(lost);
    Some(Cut { numbers: row.committed + 1..=last, lost, was_durable })
}

/// Reads what is not indexed.
fn load(database: &Database, row: &StateRow) -> Result<Loaded, Error> {
    let reading = database.begin_read().map_err(database_error)?;
    let groups = reading.open_table(GROUPS).map_err(database_error)?;
    let mut loaded = Loaded { unindexed: Vec::new(), unindexed_bytes: 0, unindexed_topics: 0, oldest: 0 };
    if let Some((key, bytes)) = groups.first().map_err(database_error)? {
        loaded.oldest = read_group(key.value(), bytes.value())?.numbers().next().unwrap_or(0);
    }
    for found in groups.range(row.indexed.saturating_add(1)..).map_err(database_error)? {
        let (key, bytes) = found.map_err(database_error)?;
        let group = read_group(key.value(), bytes.value())?;
        for record in group.records().map_err(|damage| group_error(key.value(), &damage))? {
            loaded.unindexed_bytes += encoded_bytes(&record);
            loaded.unindexed_topics += record.event.topics().len();
            loaded.unindexed.push(Unindexed { record: Arc::new(record), group: key.value() });
        }
    }
    Ok(loaded)
}

fn encoded_bytes(record: &Record) -> u64 {
    event_bytes(&record.event) as u64
}

fn tail_of(row: &StateRow, unindexed: &[Unindexed], hashes: Hashes) -> Tail {
    let mut tail = Tail::new(row.indexed);
    for unindexed in unindexed {
        tail.push(unindexed.record.clone(), hashes);
    }
    tail
}

fn state_of(epoch: Epoch, row: &StateRow, oldest: u64) -> State {
    State {
        epoch,
        oldest,
        newest: row.committed,
        synced: row.committed,
        lost: row.cut,
        records: row.records,
        bytes: row.bytes,
    }
}
