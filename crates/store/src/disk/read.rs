//! Reading: first what is indexed, from a snapshot of the database, then the tail.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use fanfare_proto::event::{EventId, Topic};
use redb::{Database, Range, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::edit::{group_error, read_group};
use super::rows::{Entry, GROUPS, IDS, INDEX, STATE, STATE_KEY, StateRow, TOPICS, TopicRow, read_entries};
use super::{DiskStore, database_error};
use crate::contract::{Bounds, Gone, Page, Query};
use crate::encoding::event_bytes;
use crate::{Error, Record};

/// A page that is being filled.
struct Filling {
    page: Page,
    after: u64,
    bytes: usize,
    steps: usize,
    bounds: Bounds,
}

impl Filling {
    /// Whether one more step may be made. The first one may in any case.
    fn may_step(&self) -> bool {
        self.page.up_to == self.after
            || self.steps < self.bounds.steps && self.page.records.len() < self.bounds.records
    }

    /// Whether the record was put into the page.
    fn push(&mut self, record: Record) -> bool {
        let bytes = event_bytes(&record.event);
        if !self.page.records.is_empty() && self.bytes + bytes > self.bounds.bytes {
            return false;
        }
        self.bytes += bytes;
        self.page.up_to = record.number;
        self.page.records.push(record);
        true
    }
}

/// The rows of one topic's index, from some group on.
struct Rows {
    rows: Range<'static, (u64, u64), &'static [u8]>,
    next: Option<(u64, Vec<Entry>)>,
}

impl Rows {
    fn step(&mut self) -> Result<(), Error> {
        self.next = match self.rows.next().transpose().map_err(database_error)? {
            Some((key, row)) => Some((key.value().1, read_entries(key.value(), row.value())?)),
            None => None,
        };
        Ok(())
    }
}

impl DiskStore {
    pub(super) fn read_page(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        loop {
            let page = Page { up_to: after, ..Page::default() };
            let mut filling = Filling { page, after, bytes: 0, steps: 0, bounds };
            let indexed = {
                let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
                let database =
                    database.as_ref().ok_or_else(|| Error::Full { path: self.files.path().to_owned() })?;
                Snapshot::of(database)?.read(query, &mut filling)?
            };
            let Some(indexed) = indexed else { return Ok(filling.page) };
            // Appends may have moved records from the tail to the index since then: there is a next page.
            match self.read_tail(query, &mut filling, indexed) {
                true => return Ok(filling.page),
                false if filling.page.up_to > after => return Ok(filling.page),
                false => {}
            }
        }
    }

    /// Reads what is not indexed in the snapshot. False: some of it has left the tail.
    fn read_tail(&self, query: Query<'_>, filling: &mut Filling, indexed: u64) -> bool {
        let shared = self.shared();
        if shared.tail.after() > indexed {
            return false;
        }
        let is_wanted = |record: &Record| match query {
            Query::All => true,
            Query::Topics(topics) => record.event.topics().iter().any(|topic| topics.contains(topic)),
        };
        let mut wanted: Vec<(u64, Option<Arc<Record>>)> = Vec::new();
        let mut is_end = true;
        let (mut steps, mut count) = (filling.steps, filling.page.records.len());
        for record in shared.tail.records_after(filling.page.up_to.max(indexed)) {
            let is_first = filling.page.up_to == filling.after && wanted.is_empty();
            if !is_first && (steps >= filling.bounds.steps || count >= filling.bounds.records) {
                is_end = false;
                break;
            }
            steps += 1;
            let found = is_wanted(record).then(|| record.clone());
            count += usize::from(found.is_some());
            wanted.push((record.number, found));
        }
        let newest = shared.state.newest;
        // The records are copied without the lock.
        drop(shared);
        for (number, record) in wanted {
            if record.is_some_and(|record| !filling.push((*record).clone())) {
                is_end = false;
                break;
            }
            filling.page.up_to = number;
        }
        filling.page.is_end = is_end;
        if is_end {
            filling.page.up_to = filling.page.up_to.max(newest);
        }
        true
    }

    pub(super) fn find_record(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        if let Some(found) = self.shared().tail.find(id, topics, self.hashes) {
            return Ok(Some((*found).clone()));
        }
        let hash = self.hashes.identity(id, topics);
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| Error::Full { path: self.files.path().to_owned() })?;
        Snapshot::of(database)?.find(id, topics, hash)
    }
}

/// The database at one moment.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    pub(super) row: StateRow,
}

impl Snapshot {
    pub(super) fn of(database: &Database) -> Result<Snapshot, Error> {
        let transaction = database.begin_read().map_err(database_error)?;
        let state = transaction.open_table(STATE).map_err(database_error)?;
        let row = state.get(STATE_KEY).map_err(database_error)?;
        let row = row.ok_or_else(|| Error::corrupt("the row of the state", "it is missing"))?;
        let row = StateRow::read(row.value())?;
        Ok(Snapshot { transaction, row })
    }

    /// Fills the page with what is indexed. Returns the number up to which everything is, or `None` if the
    /// page is full.
    fn read(&self, query: Query<'_>, filling: &mut Filling) -> Result<Option<u64>, Error> {
        let cut = Gone { newest: self.row.cut, newest_public: self.row.cut };
        let is_whole = match query {
            Query::All => {
                filling.page.gone = self.row.gone.and(cut);
                self.read_all(filling)?
            }
            Query::Topics(topics) => {
                let topics: BTreeSet<&Topic> = topics.iter().collect();
                filling.page.gone = if topics.is_empty() { Gone::default() } else { cut };
                self.read_topics(&topics, filling)?
            }
        };
        if !is_whole {
            return Ok(None);
        }
        filling.page.up_to = filling.page.up_to.max(self.row.indexed);
        Ok(Some(self.row.indexed))
    }

    fn read_all(&self, filling: &mut Filling) -> Result<bool, Error> {
        let Some(next) = filling.after.checked_add(1) else { return Ok(true) };
        if next > self.row.indexed {
            return Ok(true);
        }
        let groups = self.transaction.open_table(GROUPS).map_err(database_error)?;
        let before = groups.range(..=next).map_err(database_error)?.next_back();
        let first = before.transpose().map_err(database_error)?.map_or(next, |(key, _)| key.value());
        for row in groups.range(first..=self.row.indexed).map_err(database_error)? {
            if !filling.may_step() {
                return Ok(false);
            }
            filling.steps += 1;
            let (key, bytes) = row.map_err(database_error)?;
            let group = read_group(key.value(), bytes.value())?;
            for (at, number) in group.numbers().enumerate() {
                if number < next {
                    continue;
                }
                if !filling.may_step() {
                    return Ok(false);
                }
                filling.steps += 1;
                let record = group.record(at).map_err(|damage| group_error(key.value(), &damage))?;
                if !filling.push(record) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn read_topics(&self, topics: &BTreeSet<&Topic>, filling: &mut Filling) -> Result<bool, Error> {
        let table = self.transaction.open_table(TOPICS).map_err(database_error)?;
        let index = self.transaction.open_table(INDEX).map_err(database_error)?;
        let groups = self.transaction.open_table(GROUPS).map_err(database_error)?;
        let after = filling.after;
        let mut each: Vec<Rows> = Vec::new();
        for topic in topics {
            filling.steps += 1;
            let row = table.get(topic.as_str()).map_err(database_error)?;
            let Some(row) = row.map(|row| TopicRow::read(topic.as_str(), row.value())).transpose()? else {
                filling.page.gone = filling.page.gone.and(self.row.forgotten);
                continue;
            };
            filling.page.gone = filling.page.gone.and(row.gone);
            if row.records > 0 {
                each.push(rows_after(&index, row.key, after)?);
            }
        }
        loop {
            let Some(key) = each.iter().filter_map(|rows| rows.next.as_ref()).map(|next| next.0).min() else {
                return Ok(true);
            };
            if !filling.may_step() {
                return Ok(false);
            }
            let mut numbers = BTreeSet::new();
            for rows in &mut each {
                if let Some((_, entries)) = rows.next.take_if(|next| next.0 == key) {
                    filling.steps += 1;
                    numbers.extend(entries.iter().map(|entry| entry.number).filter(|number| *number > after));
                    rows.step()?;
                }
            }
            if numbers.is_empty() {
                continue;
            }
            let bytes = groups.get(key).map_err(database_error)?;
            let missing = || Error::corrupt(format!("group {key}"), "it is in the index, and missing");
            let bytes = bytes.ok_or_else(missing)?;
            let group = read_group(key, bytes.value())?;
            let mut left = numbers.into_iter().peekable();
            for (at, number) in group.numbers().enumerate() {
                if left.peek() != Some(&number) {
                    continue;
                }
                if !filling.may_step() {
                    return Ok(false);
                }
                filling.steps += 1;
                let record = group.record(at).map_err(|damage| group_error(key, &damage))?;
                if !filling.push(record) {
                    return Ok(false);
                }
                left.next();
            }
            if let Some(number) = left.next() {
                let what = format!("the record {number} is in the index, and missing");
                return Err(Error::corrupt(format!("group {key}"), what));
            }
        }
    }

    fn find(&self, id: &EventId, topics: &[Topic], hash: u64) -> Result<Option<Record>, Error> {
        let ids = self.transaction.open_table(IDS).map_err(database_error)?;
        let groups = self.transaction.open_table(GROUPS).map_err(database_error)?;
        for row in ids.range((hash, 0)..=(hash, u64::MAX)).map_err(database_error)?.rev() {
            let (_, number) = row.map_err(database_error)?.0.value();
            let record = record_of(&groups, number)?;
            if record.has_identity(id, topics) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// For what reads whole tables.
    pub(super) fn transaction(&self) -> &ReadTransaction {
        &self.transaction
    }
}

fn rows_after(
    index: &ReadOnlyTable<(u64, u64), &'static [u8]>,
    topic: u64,
    after: u64,
) -> Result<Rows, Error> {
    let next = after.saturating_add(1);
    // The row before may have records behind `after`, too.
    let before = index.range((topic, 0)..=(topic, next)).map_err(database_error)?.next_back();
    let first = before.transpose().map_err(database_error)?.map_or(next, |(key, _)| key.value().1);
    let rows = index.range((topic, first)..=(topic, u64::MAX)).map_err(database_error)?;
    let mut rows = Rows { rows, next: None };
    rows.step()?;
    Ok(rows)
}

/// The record with this number, which is in a group.
pub(super) fn record_of(groups: &ReadOnlyTable<u64, &'static [u8]>, number: u64) -> Result<Record, Error> {
    let row = groups.range(..=number).map_err(database_error)?.next_back();
    let row = row.transpose().map_err(database_error)?;
    let missing = || Error::corrupt(format!("record {number}"), "it is in the index, and missing");
    let (key, bytes) = row.ok_or_else(missing)?;
    let group = read_group(key.value(), bytes.value())?;
    let at = group.numbers().position(|found| found == number).ok_or_else(missing)?;
    group.record(at).map_err(|damage| group_error(key.value(), &damage))
}
