//! What one write transaction changes in the index and in the groups: records are indexed, and records that
//! retention does not cover are dropped.
//!
//! A topic loses its records from the front only. So a record is gone from a topic if its number is not above
//! the topic's newest gone one, and no list of dead records is needed. Groups that lose records are decoded
//! once, and written once at the end of the transaction, however many of their topics have lost some.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry as Place};
use std::sync::Arc;

use fanfare_proto::event::Topic;
use fanfare_proto::limits::{LogLimits, Retention};
use redb::{ReadableTable, Table, WriteTransaction};

use super::rows::{
    Entry, GROUP_ROW_BYTES, GROUPS, ID_ROW_BYTES, IDS, INDEX, INDEX_ROW_BYTES, StateRow, TOPIC_ROW_BYTES,
    TOPICS, TopicRow, encode_entries, read_entries,
};
use super::{Hashes, database_error};
use crate::contract::Trimmed;
use crate::encoding::{Group, encode_group, event_bytes};
use crate::{Error, Record};

/// Topics without records of which it is remembered what is gone. Beyond it, the pass over the topics forgets
/// some, and their subscribers may be told of gaps that are none.
pub(super) const EMPTY_TOPICS: u64 = 100_000;

/// With so many, a topic that loses its last record is forgotten at once: the pass over the topics has not
/// come far enough.
const MOST_EMPTY_TOPICS: u64 = EMPTY_TOPICS + EMPTY_TOPICS / 4;

/// Topics that one slice reads at a time.
const TOPICS_AT_A_TIME: usize = 256;

/// Rows of the index that are searched for an old record behind one from the future.
const ROWS_BEHIND_THE_FUTURE: usize = 16;

/// A record that is in a group and not indexed yet.
#[derive(Clone)]
pub(super) struct Unindexed {
    pub(super) record: Arc<Record>,
    /// The key of its group.
    pub(super) group: u64,
}

/// Where trims have stopped.
#[derive(Clone, Default)]
pub(super) struct Pass {
    /// The next topic of the pass over all topics.
    pub(super) topic: Option<String>,
    /// The group in which the next large topic is looked for, and the place in it.
    pub(super) hand: u64,
    pub(super) hand_topic: usize,
}

pub(super) struct Edit<'t, 's> {
    pub(super) row: &'s mut StateRow,
    limits: &'s LogLimits,
    hashes: Hashes,
    groups: Table<'t, u64, &'static [u8]>,
    topics: Table<'t, &'static str, &'static [u8]>,
    index: Table<'t, (u64, u64), &'static [u8]>,
    ids: Table<'t, (u64, u64), ()>,
    changed_topics: HashMap<Topic, TopicEdit>,
    open_groups: BTreeMap<u64, GroupEdit>,
    pub(super) trimmed: Trimmed,
    /// About what the groups will be smaller by when they are written.
    freed_bytes: u64,
}

struct TopicEdit {
    row: TopicRow,
    is_changed: bool,
    /// There is no row any more.
    is_forgotten: bool,
}

struct GroupEdit {
    /// `None`: gone.
    records: Vec<Option<Record>>,
    numbers: Vec<u64>,
    row_bytes: u64,
    is_changed: bool,
}

impl<'t, 's> Edit<'t, 's> {
    pub(super) fn new(
        transaction: &'t WriteTransaction,
        row: &'s mut StateRow,
        limits: &'s LogLimits,
    ) -> Result<Edit<'t, 's>, Error> {
        Ok(Edit {
            hashes: Hashes::new(row.hash_key),
            row,
            limits,
            groups: transaction.open_table(GROUPS).map_err(database_error)?,
            topics: transaction.open_table(TOPICS).map_err(database_error)?,
            index: transaction.open_table(INDEX).map_err(database_error)?,
            ids: transaction.open_table(IDS).map_err(database_error)?,
            changed_topics: HashMap::new(),
            open_groups: BTreeMap::new(),
            trimmed: Trimmed::default(),
            freed_bytes: 0,
        })
    }

    /// Indexes records that are newer than all that are indexed.
    pub(super) fn add<'u>(&mut self, unindexed: impl Iterator<Item = &'u Unindexed>) -> Result<(), Error> {
        let mut by_topic: BTreeMap<&Topic, BTreeMap<u64, Vec<Entry>>> = BTreeMap::new();
        for Unindexed { record, group } in unindexed {
            let entry = Entry {
                number: record.number,
                published_ms: record.published_ms,
                bytes: event_bytes(&record.event) as u64,
                is_private: record.event.is_private(),
            };
            for topic in record.event.topics() {
                by_topic.entry(topic).or_default().entry(*group).or_default().push(entry);
            }
            if let Some(id) = record.event.id() {
                let hash = self.hashes.identity(id, record.event.topics());
                self.ids.insert((hash, record.number), ()).map_err(database_error)?;
                self.row.charged += ID_ROW_BYTES;
            }
            self.row.indexed = record.number;
        }
        (self.row.tail_records, self.row.tail_bytes) = (0, 0);
        for (topic, groups) in by_topic {
            let mut row = match self.topic(topic)? {
                Some(row) if row.records > 0 => row,
                Some(row) => {
                    self.row.empty_topics -= 1;
                    self.row.topics += 1;
                    self.row.charged += topic_charge(topic);
                    TopicRow { earliest_ms: u64::MAX, ..row }
                }
                None => {
                    self.row.topics += 1;
                    self.row.charged += topic_charge(topic);
                    self.row.next_topic += 1;
                    let gone = self.row.forgotten;
                    TopicRow { key: self.row.next_topic, gone, earliest_ms: u64::MAX, ..TopicRow::default() }
                }
            };
            for (group, entries) in groups {
                for entry in &entries {
                    row.records += 1;
                    row.bytes += entry.bytes;
                    row.earliest_ms = row.earliest_ms.min(entry.published_ms);
                    self.row.topic_bytes += entry.bytes;
                }
                self.put_entries((row.key, group), &entries)?;
            }
            // At once, so that a pass over the topics finds it.
            let bytes = row.encode(topic.as_str());
            self.topics.insert(topic.as_str(), bytes.as_slice()).map_err(database_error)?;
            let edit = TopicEdit { row, is_changed: false, is_forgotten: false };
            self.changed_topics.insert(topic.clone(), edit);
        }
        Ok(())
    }

    /// Goes on with the pass over all topics, and drops what their retention does not cover. True: the pass
    /// has come to its end.
    pub(super) fn enforce(&mut self, pass: &mut Pass, now_ms: u64, left: &mut usize) -> Result<bool, Error> {
        loop {
            let from = pass.topic.as_deref().unwrap_or_default();
            let mut names = Vec::new();
            for row in self.topics.range(from..).map_err(database_error)?.take(TOPICS_AT_A_TIME.min(*left)) {
                let (name, _) = row.map_err(database_error)?;
                names.push(Topic::new(name.value()).map_err(|_| {
                    Error::corrupt(format!("the topic {:?}", name.value()), "this cannot be a topic")
                })?);
            }
            let Some(last) = names.last() else {
                if *left == 0 {
                    return Ok(false);
                }
                pass.topic = None;
                return Ok(true);
            };
            // No name comes between this text and the last name.
            let behind = format!("{last}\0");
            for name in names {
                if *left == 0 {
                    pass.topic = Some(name.as_str().to_owned());
                    return Ok(false);
                }
                *left -= 1;
                if !self.enforce_on(&name, now_ms, left)? {
                    pass.topic = Some(name.as_str().to_owned());
                    return Ok(false);
                }
            }
            pass.topic = Some(behind);
        }
    }

    /// The same for one topic.
    fn enforce_on(&mut self, name: &Topic, now_ms: u64, left: &mut usize) -> Result<bool, Error> {
        let retention = *self.limits.retention_of(name);
        loop {
            let Some(row) = self.topic(name)? else { return Ok(true) };
            if row.records == 0 {
                self.forget_some(name, row);
                return Ok(true);
            }
            let count = self.uncovered(name, &row, retention, now_ms)?;
            if count == 0 {
                return Ok(true);
            }
            if *left == 0 {
                return Ok(false);
            }
            let dropped = self.drop_oldest(name, count.min(*left))?;
            *left -= dropped;
        }
    }

    /// How many records of the topic's first row in the index its retention does not cover.
    fn uncovered(
        &mut self,
        name: &Topic,
        row: &TopicRow,
        retention: Retention,
        now_ms: u64,
    ) -> Result<usize, Error> {
        let (events, bytes) = (retention.events as u64, retention.bytes as u64);
        let age_ms = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
        let is_old = |time: u64| now_ms.saturating_sub(time) >= age_ms;
        let is_too_much = row.records > events || row.bytes > bytes;
        if !is_too_much && !is_old(row.earliest_ms) {
            return Ok(0);
        }
        let (_, front) = self.front(row)?;
        let (mut left_records, mut left_bytes, mut count) = (row.records, row.bytes, 0);
        for entry in &front {
            if left_records <= events && left_bytes <= bytes && !is_old(entry.published_ms) {
                break;
            }
            left_records -= 1;
            left_bytes -= entry.bytes;
            count += 1;
        }
        let Some(first) = front.get(count).filter(|_| count == 0) else { return Ok(count) };
        // The earliest record is old, and the first one is not. Its time may be wrong, if it is in the
        // future: then it may not hold back the ones behind it.
        let mut earliest_ms = first.published_ms;
        if first.published_ms > now_ms {
            for found in self.rows_of(row, ROWS_BEHIND_THE_FUTURE)? {
                let times = found.iter().map(|entry| entry.published_ms);
                earliest_ms = earliest_ms.min(times.min().unwrap_or(u64::MAX));
            }
            if is_old(earliest_ms) {
                return Ok(1);
            }
        }
        self.change(name, TopicRow { earliest_ms, ..*row });
        Ok(0)
    }

    /// Takes from large topics until the store is within its bound. True: it is.
    ///
    /// A hand goes over the groups, and over the topics of each: what it finds that has at least as many
    /// bytes as the mean of all topics loses its oldest records. There is such a topic in some group. Each
    /// topic that it looks at is a step, and each record that goes is one.
    pub(super) fn make_room(&mut self, pass: &mut Pass, left: &mut usize) -> Result<bool, Error> {
        let mut rounds = 0;
        while self.excess() > 0 && self.row.topics > 0 {
            if *left == 0 {
                return Ok(false);
            }
            let next = self.groups.range(pass.hand..).map_err(database_error)?.next();
            let next = next.transpose().map_err(database_error)?.map(|(key, _)| key.value());
            // What is behind this is not indexed yet.
            let Some(key) = next.filter(|key| *key <= self.row.indexed) else {
                rounds += 1;
                if rounds > 1 {
                    return Ok(true);
                }
                (pass.hand, pass.hand_topic) = (0, 0);
                continue;
            };
            if key != pass.hand {
                (pass.hand, pass.hand_topic) = (key, 0);
            }
            let names = self.topics_of_group(key)?;
            while let Some(name) = names.get(pass.hand_topic) {
                if *left == 0 || self.excess() == 0 {
                    return Ok(self.excess() == 0);
                }
                *left -= 1;
                let dropped = self.take_from_large(name, *left)?;
                *left = left.saturating_sub(dropped);
                match dropped {
                    0 => pass.hand_topic += 1,
                    _ => rounds = 0,
                }
            }
            (pass.hand, pass.hand_topic) = (key + 1, 0);
        }
        Ok(true)
    }

    /// Charged bytes above the bound.
    fn excess(&self) -> u64 {
        let charged = self.row.charged.saturating_sub(self.freed_bytes);
        charged.saturating_sub(self.limits.total_bytes as u64)
    }

    /// The topics of the group's records, some of them more than once.
    fn topics_of_group(&mut self, key: u64) -> Result<Vec<Topic>, Error> {
        let records = self.group(key)?.records.iter().flatten();
        let mut names: Vec<Topic> =
            records.flat_map(|record| record.event.topics().iter().cloned()).collect();
        names.dedup();
        Ok(names)
    }

    /// Drops the oldest records of a topic that is large: those of its first row in the index that make room
    /// enough, and at most `most`, but one in any case. Answers how many.
    fn take_from_large(&mut self, name: &Topic, most: usize) -> Result<usize, Error> {
        let mean = self.row.topic_bytes / self.row.topics.max(1);
        let Some(row) = self.topic(name)?.filter(|row| row.records > 0 && row.bytes >= mean) else {
            return Ok(0);
        };
        let (_, front) = self.front(&row)?;
        let (excess, mut bytes, mut count) = (self.excess(), 0, 0);
        for entry in front.iter().take(most.max(1)) {
            if bytes >= excess {
                break;
            }
            bytes += entry.bytes;
            count += 1;
        }
        self.drop_oldest(name, count)
    }

    /// Drops so many of the topic's oldest records, and not more than the first row of its index has.
    fn drop_oldest(&mut self, name: &Topic, count: usize) -> Result<usize, Error> {
        let Some(mut row) = self.topic(name)? else { return Ok(0) };
        let (group, entries) = self.front(&row)?;
        let count = count.min(entries.len());
        let (dropped, kept) = entries.split_at(count);
        let key = (row.key, group);
        self.remove_entries(key)?;
        if !kept.is_empty() {
            self.put_entries(key, kept)?;
        }
        for entry in dropped {
            row.records = row.records.saturating_sub(1);
            row.bytes = row.bytes.saturating_sub(entry.bytes);
            self.row.topic_bytes = self.row.topic_bytes.saturating_sub(entry.bytes);
            row.gone.note(entry.number, entry.is_private);
            self.row.gone.note(entry.number, entry.is_private);
        }
        if row.records == 0 {
            self.row.topics -= 1;
            self.row.empty_topics += 1;
            self.row.charged = self.row.charged.saturating_sub(topic_charge(name));
        }
        self.change(name, row);
        for entry in dropped {
            self.drop_if_gone(group, entry.number)?;
        }
        if row.records == 0 && self.row.empty_topics > MOST_EMPTY_TOPICS {
            self.forget_some(name, row);
        }
        Ok(count)
    }

    /// Drops the record if it is gone from all of its topics.
    fn drop_if_gone(&mut self, group: u64, number: u64) -> Result<(), Error> {
        let found = self.group(group)?;
        let missing = || Error::corrupt(format!("group {group}"), format!("the record {number} is missing"));
        let at = found.numbers.binary_search(&number).map_err(|_| missing())?;
        let record = found.records[at].take().ok_or_else(missing)?;
        for topic in record.event.topics() {
            if self.topic(topic)?.is_some_and(|row| number > row.gone.newest) {
                self.group(group)?.records[at] = Some(record);
                return Ok(());
            }
        }
        self.group(group)?.is_changed = true;
        if let Some(id) = record.event.id() {
            let hash = self.hashes.identity(id, record.event.topics());
            self.ids.remove((hash, number)).map_err(database_error)?;
            self.row.charged = self.row.charged.saturating_sub(ID_ROW_BYTES);
        }
        let bytes = event_bytes(&record.event) as u64;
        self.row.records = self.row.records.saturating_sub(1);
        self.row.bytes = self.row.bytes.saturating_sub(bytes);
        self.freed_bytes += bytes;
        self.trimmed.records += 1;
        self.trimmed.bytes += bytes;
        Ok(())
    }

    /// Forgets what is gone of a topic without records, if there are too many of them.
    fn forget_some(&mut self, name: &Topic, row: TopicRow) {
        if self.row.empty_topics <= EMPTY_TOPICS {
            return;
        }
        self.row.empty_topics -= 1;
        self.row.forgotten = self.row.forgotten.and(row.gone);
        let edit = TopicEdit { row, is_changed: true, is_forgotten: true };
        self.changed_topics.insert(name.clone(), edit);
    }

    /// Whether there is anything to write, beside the row of the state.
    pub(super) fn is_changed(&self) -> bool {
        self.changed_topics.values().any(|edit| edit.is_changed)
            || self.open_groups.values().any(|group| group.is_changed)
    }

    /// Writes what has changed. Returns the lowest number that is retained in a group.
    pub(super) fn finish(mut self) -> Result<u64, Error> {
        for (name, edit) in &self.changed_topics {
            if edit.is_forgotten {
                self.topics.remove(name.as_str()).map_err(database_error)?;
            } else if edit.is_changed {
                let row = edit.row.encode(name.as_str());
                self.topics.insert(name.as_str(), row.as_slice()).map_err(database_error)?;
            }
        }
        for (key, group) in std::mem::take(&mut self.open_groups) {
            if !group.is_changed {
                continue;
            }
            self.row.charged = self.row.charged.saturating_sub(group.row_bytes);
            if group.records.iter().all(Option::is_none) {
                self.groups.remove(key).map_err(database_error)?;
                self.row.charged = self.row.charged.saturating_sub(GROUP_ROW_BYTES);
            } else {
                let bytes = encode_group(group.records.iter().flatten());
                self.groups.insert(key, bytes.as_slice()).map_err(database_error)?;
                self.row.charged += bytes.len() as u64;
            }
        }
        let first = self.groups.first().map_err(database_error)?;
        let Some((key, bytes)) = first else { return Ok(0) };
        Ok(read_group(key.value(), bytes.value())?.numbers().next().unwrap_or(0))
    }

    /// What is known of the topic.
    fn topic(&mut self, name: &Topic) -> Result<Option<TopicRow>, Error> {
        if let Some(edit) = self.changed_topics.get(name) {
            return Ok(Some(edit.row).filter(|_| !edit.is_forgotten));
        }
        let row = self.topics.get(name.as_str()).map_err(database_error)?;
        let Some(row) = row.map(|row| TopicRow::read(name.as_str(), row.value())).transpose()? else {
            return Ok(None);
        };
        let edit = TopicEdit { row, is_changed: false, is_forgotten: false };
        self.changed_topics.insert(name.clone(), edit);
        Ok(Some(row))
    }

    fn change(&mut self, name: &Topic, row: TopicRow) {
        let edit = TopicEdit { row, is_changed: true, is_forgotten: false };
        self.changed_topics.insert(name.clone(), edit);
    }

    fn group(&mut self, key: u64) -> Result<&mut GroupEdit, Error> {
        let place = match self.open_groups.entry(key) {
            Place::Occupied(found) => return Ok(found.into_mut()),
            Place::Vacant(place) => place,
        };
        let row = self.groups.get(key).map_err(database_error)?;
        let row = row.ok_or_else(|| Error::corrupt(format!("group {key}"), "it is missing"))?;
        let group = read_group(key, row.value())?;
        let numbers = group.numbers().collect();
        let records = group.records().map_err(|damage| group_error(key, &damage))?;
        let records = records.into_iter().map(Some).collect();
        let row_bytes = row.value().len() as u64;
        Ok(place.insert(GroupEdit { records, numbers, row_bytes, is_changed: false }))
    }

    /// The first row of the topic's index. There is one where the topic has records.
    fn front(&self, row: &TopicRow) -> Result<(u64, Vec<Entry>), Error> {
        let mut rows = self.index.range((row.key, 0)..=(row.key, u64::MAX)).map_err(database_error)?;
        let missing = || Error::corrupt(format!("the index of topic {}", row.key), "it has no rows");
        let (key, entries) = rows.next().transpose().map_err(database_error)?.ok_or_else(missing)?;
        Ok((key.value().1, read_entries(key.value(), entries.value())?))
    }

    fn rows_of(&self, row: &TopicRow, rows: usize) -> Result<Vec<Vec<Entry>>, Error> {
        let range = self.index.range((row.key, 0)..=(row.key, u64::MAX)).map_err(database_error)?;
        let read = |row: Result<_, redb::StorageError>| {
            let (key, entries): (redb::AccessGuard<'_, (u64, u64)>, redb::AccessGuard<'_, &[u8]>) =
                row.map_err(database_error)?;
            read_entries(key.value(), entries.value())
        };
        range.take(rows).map(read).collect()
    }

    fn put_entries(&mut self, key: (u64, u64), entries: &[Entry]) -> Result<(), Error> {
        let row = encode_entries(key, entries);
        self.row.charged += row.len() as u64 + INDEX_ROW_BYTES;
        self.index.insert(key, row.as_slice()).map_err(database_error)?;
        Ok(())
    }

    fn remove_entries(&mut self, key: (u64, u64)) -> Result<(), Error> {
        let row = self.index.remove(key).map_err(database_error)?;
        let bytes = row.map_or(0, |row| row.value().len() as u64 + INDEX_ROW_BYTES);
        self.row.charged = self.row.charged.saturating_sub(bytes);
        Ok(())
    }
}

/// What a topic with records is charged with.
pub(super) fn topic_charge(topic: &Topic) -> u64 {
    TOPIC_ROW_BYTES + topic.as_str().len() as u64
}

pub(super) fn read_group(key: u64, bytes: &[u8]) -> Result<Group<'_>, Error> {
    let group = Group::read(bytes).map_err(|damage| group_error(key, &damage))?;
    if group.numbers().next().is_none_or(|first| first < key) {
        return Err(Error::corrupt(format!("group {key}"), "it has records of another group"));
    }
    Ok(group)
}

pub(super) fn group_error(key: u64, damage: &crate::encoding::Damage) -> Error {
    Error::corrupt(format!("the group that begins with record {key}"), damage.to_string())
}
