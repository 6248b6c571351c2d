//! The newest records, in memory: those that are not indexed yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fanfare_proto::event::{EventId, Topic};

use super::Hashes;
use crate::Record;

/// Records in order. Everything at or before `after` is in the index.
#[derive(Default)]
pub(super) struct Tail {
    after: u64,
    records: VecDeque<Arc<Record>>,
    /// The numbers of records with own ids, by [`Hashes::identity`].
    ids: HashMap<u64, Vec<u64>>,
}

impl Tail {
    pub(super) fn new(after: u64) -> Tail {
        Tail { after, ..Tail::default() }
    }

    /// Everything up to this number is in the index.
    pub(super) fn after(&self) -> u64 {
        self.after
    }

    /// The number of the first record.
    pub(super) fn first(&self) -> Option<u64> {
        self.records.front().map(|record| record.number)
    }

    pub(super) fn push(&mut self, record: Arc<Record>, hashes: Hashes) {
        if let Some(id) = record.event.id() {
            let hash = hashes.identity(id, record.event.topics());
            self.ids.entry(hash).or_default().push(record.number);
        }
        self.records.push_back(record);
    }

    /// Forgets the records that are indexed now.
    pub(super) fn clear_through(&mut self, indexed: u64) {
        self.after = self.after.max(indexed);
        let left = self.records.partition_point(|record| record.number <= indexed);
        self.records.drain(..left);
        if self.records.is_empty() {
            self.ids.clear();
            return;
        }
        self.ids.retain(|_, numbers| {
            numbers.retain(|number| *number > indexed);
            !numbers.is_empty()
        });
    }

    /// The records with a number above `after`.
    pub(super) fn records_after(&self, after: u64) -> impl Iterator<Item = &Arc<Record>> {
        let start = self.records.partition_point(|record| record.number <= after);
        self.records.range(start..)
    }

    /// The newest record with this own id and exactly these topics.
    pub(super) fn find(&self, id: &EventId, topics: &[Topic], hashes: Hashes) -> Option<Arc<Record>> {
        let numbers = self.ids.get(&hashes.identity(id, topics))?;
        let records = numbers.iter().rev().filter_map(|number| {
            let at = self.records.binary_search_by_key(number, |record| record.number).ok()?;
            self.records.get(at)
        });
        records.into_iter().find(|record| record.has_identity(id, topics)).cloned()
    }
}
