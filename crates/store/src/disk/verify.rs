//! Checks a store that is not in use: every page, every record, and whether the indexes say the same as the
//! records.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanfare_proto::event::Topic;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend};

use super::edit::{group_error, read_group, topic_charge};
use super::files::{Directory, Files, Newest};
use super::read::Snapshot;
use super::rows::{
    GROUP_ROW_BYTES, GROUPS, ID_ROW_BYTES, IDS, INDEX, INDEX_ROW_BYTES, TOPICS, TopicRow, read_entries,
};
use super::{Hashes, database_error, guarded};
use crate::contract::Gone;
use crate::encoding::event_bytes;
use crate::{Error, Record};

/// What a store has, of which everything was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Records.
    pub records: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// Topics with records.
    pub topics: u64,
    /// The newest number that was committed.
    pub newest: u64,
}

/// Checks the store in this directory, and changes nothing in it. It reads the whole file twice, and takes
/// memory for each topic.
///
/// # Errors
/// [`Error::Corrupt`] names the first place that is damaged. The others are those of
/// [`DiskStore::open`](super::DiskStore::open).
pub fn verify(path: impl AsRef<Path>) -> Result<Verified, Error> {
    verify_files(&Directory::existing(path.as_ref())?)
}

pub(super) fn verify_files(files: &dyn Files) -> Result<Verified, Error> {
    let overlay = Overlay::new(files.database()?);
    let overlay = overlay.map_err(|source| Error::from_io("read", files.path(), source))?;
    if overlay.changes().length == 0 {
        return Ok(Verified::default());
    }
    let beside = Newest::read(&*files.newest()?);
    guarded(|| {
        let mut database = open_overlay(overlay)?;
        match database.check_integrity().map_err(database_error)? {
            true => {}
            false => return Err(Error::corrupt("the pages of the database", "a checksum does not match")),
        }
        let snapshot = Snapshot::of(&database)?;
        if beside.acknowledged[0] > snapshot.row.committed.max(snapshot.row.cut) {
            let what = format!(
                "the record {} was acknowledged, and the newest one is {}",
                beside.acknowledged[0], snapshot.row.committed
            );
            return Err(Error::corrupt("the end of the log", what));
        }
        check_tables(&snapshot)
    })
}

/// Opens the database, whose changes stay in memory.
pub(super) fn open_overlay(overlay: Overlay) -> Result<Database, Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(16 << 20);
    builder.create_with_backend(overlay).map_err(|error| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            Error::corrupt("the beginning of the database's file", error.to_string())
        }
        other => database_error(other),
    })
}

/// Sums that two lists with the same things have in common, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    count: u64,
    bytes: u64,
    mixed: u64,
}

impl Sums {
    fn add(&mut self, first: u64, second: u64, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        let mixed = (first ^ second.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.mixed = self.mixed.wrapping_add(mixed ^ (mixed >> 29));
    }
}

fn check_tables(snapshot: &Snapshot) -> Result<Verified, Error> {
    let (row, transaction) = (snapshot.row, snapshot.transaction());
    let groups = transaction.open_table(GROUPS).map_err(database_error)?;
    let topics = transaction.open_table(TOPICS).map_err(database_error)?;
    let index = transaction.open_table(INDEX).map_err(database_error)?;
    let ids = transaction.open_table(IDS).map_err(database_error)?;

    let mut known: BTreeMap<Topic, (TopicRow, Sums)> = BTreeMap::new();
    for found in topics.iter().map_err(database_error)? {
        let (name, row) = found.map_err(database_error)?;
        let wrong = |_| Error::corrupt(format!("the topic {:?}", name.value()), "this cannot be a topic");
        let topic = Topic::new(name.value()).map_err(wrong)?;
        known.insert(topic, (TopicRow::read(name.value(), row.value())?, Sums::default()));
    }

    let hashes = Hashes::new(row.hash_key);
    let (mut all, mut tail, mut of_ids) = (Sums::default(), Sums::default(), Sums::default());
    let (mut charged, mut newest) = (0, 0);
    for found in groups.iter().map_err(database_error)? {
        let (key, bytes) = found.map_err(database_error)?;
        let (key, bytes) = (key.value(), bytes.value());
        charged += bytes.len() as u64 + GROUP_ROW_BYTES;
        let group = read_group(key, bytes)?;
        for record in group.records().map_err(|damage| group_error(key, &damage))? {
            if record.number <= newest {
                let what = format!("the record {} comes after {newest}", record.number);
                return Err(Error::corrupt(format!("group {key}"), what));
            }
            newest = record.number;
            let bytes = event_bytes(&record.event) as u64;
            all.add(record.number, 0, bytes);
            if record.number > row.indexed {
                tail.add(record.number, 0, bytes);
                continue;
            }
            if let Some(id) = record.event.id() {
                of_ids.add(hashes.identity(id, record.event.topics()), record.number, 0);
            }
            let mut is_kept = false;
            for topic in record.event.topics() {
                let Some((of_topic, sums)) = known.get_mut(topic) else { continue };
                if record.number > of_topic.gone.newest {
                    is_kept = true;
                    sums.add(record.number, record.published_ms, bytes);
                }
            }
            if !is_kept {
                let what = format!("the record {} is gone from all of its topics", record.number);
                return Err(Error::corrupt(format!("group {key}"), what));
            }
        }
    }

    let mut by_key: BTreeMap<u64, Sums> = BTreeMap::new();
    for found in index.iter().map_err(database_error)? {
        let (key, entries) = found.map_err(database_error)?;
        charged += entries.value().len() as u64 + INDEX_ROW_BYTES;
        let sums = by_key.entry(key.value().0).or_default();
        for entry in read_entries(key.value(), entries.value())? {
            sums.add(entry.number, entry.published_ms, entry.bytes);
        }
    }
    let (mut with_records, mut topic_bytes, mut gone) = (0, 0, Gone::default());
    for (topic, (of_topic, sums)) in &known {
        let indexed = by_key.remove(&of_topic.key).unwrap_or_default();
        let counted = (of_topic.records, of_topic.bytes);
        charged += if of_topic.records > 0 { topic_charge(topic) } else { 0 };
        if indexed != *sums || counted != (sums.count, sums.bytes) {
            let what = format!(
                "its row says {counted:?} records and bytes, its index has {:?}, and the groups have {:?}",
                (indexed.count, indexed.bytes),
                (sums.count, sums.bytes)
            );
            return Err(Error::corrupt(format!("the index of the topic {topic:?}"), what));
        }
        with_records += u64::from(sums.count > 0);
        topic_bytes += sums.bytes;
        gone = gone.and(of_topic.gone);
    }
    if let Some((key, _)) = by_key.first_key_value() {
        return Err(Error::corrupt(format!("the index of topic {key}"), "there is no such topic"));
    }

    let mut found_ids = Sums::default();
    for found in ids.iter().map_err(database_error)? {
        let (hash, number) = found.map_err(database_error)?.0.value();
        charged += ID_ROW_BYTES;
        found_ids.add(hash, number, 0);
    }
    if found_ids != of_ids {
        let what = format!("{} are in the index, and {} in the groups", found_ids.count, of_ids.count);
        return Err(Error::corrupt("the own ids", what));
    }

    let counted = [all.count, all.bytes, tail.count, tail.bytes, charged, with_records, topic_bytes];
    let noted =
        [row.records, row.bytes, row.tail_records, row.tail_bytes, row.charged, row.topics, row.topic_bytes];
    let empty = known.len() as u64 - with_records;
    if counted != noted || empty != row.empty_topics || newest > row.committed {
        let what = format!("it says {noted:?}, and there are {counted:?}");
        return Err(Error::corrupt("the row of the state", what));
    }
    Ok(Verified { records: all.count, bytes: all.bytes, topics: with_records, newest: row.committed })
}

/// Gives every record of the store in this directory that is whole, in order, and an error for each place
/// that is damaged. It changes nothing in the directory, and also reads a store that [`DiskStore::open`]
/// refuses.
///
/// Records may be among them that retention did not cover any more. Asynchronous records that were not on the
/// disk are not.
///
/// # Errors
/// Those of `each`, which ends it. [`Error::Corrupt`] where no part of the file can be read. The others are
/// those of [`DiskStore::open`].
///
/// [`DiskStore::open`]: super::DiskStore::open
pub fn salvage<E: From<Error>>(
    path: impl AsRef<Path>,
    each: impl FnMut(Result<Record, Error>) -> Result<(), E>,
) -> Result<(), E> {
    salvage_files(&Directory::existing(path.as_ref())?, each)
}

pub(super) fn salvage_files<E: From<Error>>(
    files: &dyn Files,
    mut each: impl FnMut(Result<Record, Error>) -> Result<(), E>,
) -> Result<(), E> {
    let overlay = Overlay::new(files.database()?);
    let overlay = overlay.map_err(|source| Error::from_io("read", files.path(), source))?;
    let database = guarded(|| open_overlay(overlay))?;
    let groups = guarded(|| {
        database.begin_read().map_err(database_error)?.open_table(GROUPS).map_err(database_error)
    })?;
    let mut next = Some(0);
    while let Some(from) = next {
        // One group at a time, because the database may panic at any of them.
        let found = guarded(|| match groups.range(from..).map_err(database_error)?.next() {
            None => Ok(None),
            Some(found) => {
                let (key, bytes) = found.map_err(database_error)?;
                Ok(Some((key.value(), records_of(key.value(), bytes.value()))))
            }
        });
        match found {
            Ok(None) => return Ok(()),
            Ok(Some((key, records))) => {
                match records {
                    Ok(records) => records.into_iter().try_for_each(|record| each(Ok(record)))?,
                    Err(damage) => each(Err(damage))?,
                }
                next = key.checked_add(1);
            }
            Err(damage) => {
                each(Err(damage))?;
                // A group that cannot be reached from both sides is left out.
                let behind = first_key_behind_damage(&groups, from);
                next = behind.and_then(|key| if key == from { key.checked_add(1) } else { Some(key) });
            }
        }
    }
    Ok(())
}

fn records_of(key: u64, bytes: &[u8]) -> Result<Vec<Record>, Error> {
    read_group(key, bytes)?.records().map_err(|damage| group_error(key, &damage))
}

/// A page of the tree that has the groups cannot be read: the key of the first group behind it.
fn first_key_behind_damage(groups: &ReadOnlyTable<u64, &'static [u8]>, after: u64) -> Option<u64> {
    let mut first = None;
    // The keys are read from the end, until one cannot be read.
    let _ = guarded(|| {
        for found in groups.range(after..).map_err(database_error)?.rev() {
            first = Some(found.map_err(database_error)?.0.value());
        }
        Ok(())
    });
    first
}

/// The files of a store, whose changes stay in memory.
pub(super) struct Unchanged {
    inside: Directory,
}

impl Unchanged {
    pub(super) fn new(inside: Directory) -> Unchanged {
        Unchanged { inside }
    }

    fn overlay(&self, file: Box<dyn StorageBackend>) -> Result<Box<dyn StorageBackend>, Error> {
        let overlay = Overlay::new(file);
        Ok(Box::new(overlay.map_err(|source| Error::from_io("read", self.inside.path(), source))?))
    }
}

impl Files for Unchanged {
    fn database(&self) -> Result<Box<dyn StorageBackend>, Error> {
        self.overlay(self.inside.database()?)
    }

    fn complete(&self) -> Result<(), Error> {
        Ok(())
    }

    fn newest(&self) -> Result<Box<dyn StorageBackend>, Error> {
        match self.inside.has_newest() {
            true => self.overlay(self.inside.newest()?),
            false => Ok(Box::new(InMemoryBackend::new())),
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn boot(&self) -> u64 {
        self.inside.boot()
    }

    fn path(&self) -> &Path {
        self.inside.path()
    }
}

const BLOCK: u64 = 4096;

/// A file whose changes stay in memory.
#[derive(Debug)]
pub(super) struct Overlay {
    inside: Box<dyn StorageBackend>,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    length: u64,
    blocks: BTreeMap<u64, Arc<[u8]>>,
}

impl Overlay {
    pub(super) fn new(inside: Box<dyn StorageBackend>) -> io::Result<Overlay> {
        let changes = Changes { length: inside.len()?, blocks: BTreeMap::new() };
        Ok(Overlay { inside, changes: Mutex::new(changes) })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(&self, changes: &Changes, block: u64) -> io::Result<Vec<u8>> {
        if let Some(changed) = changes.blocks.get(&block) {
            return Ok(changed.to_vec());
        }
        let mut bytes = vec![0; BLOCK as usize];
        let there = self.inside.len()?.saturating_sub(block * BLOCK).min(BLOCK) as usize;
        if there > 0 {
            self.inside.read(block * BLOCK, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changes.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
            let bytes = self.block(&changes, block)?;
            let count = (out.len() - done).min(bytes.len() - within);
            out[done..done + count].copy_from_slice(&bytes[within..within + count]);
            done += count;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut changes = self.changes();
        if length < changes.length {
            // What is behind the end is zero if the file grows again.
            let first = length / BLOCK;
            let mut bytes = self.block(&changes, first)?;
            bytes[(length % BLOCK) as usize..].fill(0);
            changes.blocks.insert(first, bytes.into());
            for block in first + 1..changes.length.div_ceil(BLOCK) {
                changes.blocks.insert(block, vec![0; BLOCK as usize].into());
            }
        }
        changes.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
            let mut bytes = self.block(&changes, block)?;
            let count = (data.len() - done).min(bytes.len() - within);
            bytes[within..within + count].copy_from_slice(&data[done..done + count]);
            changes.blocks.insert(block, bytes.into());
            done += count;
        }
        changes.length = changes.length.max(offset + data.len() as u64);
        Ok(())
    }
}
