//! A store in memory: for tests, and as the plain statement of what a store does.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{EventId, Topic};
use fanfare_proto::limits::{LogLimits, Retention};

use crate::contract::{Bounds, Durability, Gone, Page, Query, State, Store, StoreReader, Trimmed};
use crate::encoding::event_bytes;
use crate::{Error, Record};

/// Records in the memory of the process. Nothing survives its end, so a commit means nothing more than an
/// append.
///
/// It remembers of each topic that it ever had what is gone of it, so its memory grows with the topics.
pub struct MemoryStore(Mutex<Records>);

struct Records {
    state: State,
    limits: LogLimits,
    records: BTreeMap<u64, Kept>,
    topics: BTreeMap<Topic, OfTopic>,
    /// By own id and sorted topics.
    ids: HashMap<(EventId, Vec<Topic>), BTreeSet<u64>>,
    /// What is gone of any topic.
    gone: Gone,
    /// Records up to here were lost, and nobody knows of which topics.
    lost: u64,
    /// The topic that the pass of a trim stopped at.
    pass_at: Option<Topic>,
}

struct Kept {
    record: Record,
    bytes: usize,
    /// Topics that it is not gone from.
    topics: usize,
}

#[derive(Default)]
struct OfTopic {
    numbers: VecDeque<u64>,
    bytes: usize,
    gone: Gone,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(epoch: Epoch, limits: LogLimits) -> MemoryStore {
        MemoryStore(Mutex::new(Records {
            state: State::empty(epoch),
            limits,
            records: BTreeMap::new(),
            topics: BTreeMap::new(),
            ids: HashMap::new(),
            gone: Gone::default(),
            lost: 0,
            pass_at: None,
        }))
    }

    /// Loses the records after this number, as a store on disk does that was not synced when its process
    /// ended. Their numbers are not given again, and to every topic they are gone. For simulations.
    pub fn lose_after(&self, number: u64) {
        let mut records = self.records();
        let lost: Vec<u64> = records.records.range(number + 1..).map(|(number, _)| *number).collect();
        for number in lost {
            records.lose(number);
        }
        records.lost = records.state.newest;
        records.note_oldest();
    }

    /// Gives the store other bounds. What they do not cover goes with the next trims.
    pub fn set_limits(&self, limits: LogLimits) {
        self.records().limits = limits;
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreReader for MemoryStore {
    fn state(&self) -> State {
        self.records().state
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error> {
        Ok(self.records().read(query, after, bounds))
    }

    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error> {
        let records = self.records();
        let numbers = records.ids.get(&(id.clone(), sorted(topics)));
        let newest = numbers.and_then(|numbers| numbers.last());
        Ok(newest.map(|number| records.records[number].record.clone()))
    }
}

impl Store for MemoryStore {
    fn append(&self, group: &[Record], _durability: Durability) -> Result<(), Error> {
        let mut records = self.records();
        check_order(group, records.state.newest)?;
        for record in group {
            records.add(record.clone());
        }
        Ok(())
    }

    fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error> {
        Ok(self.records().trim(now_ms, budget))
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Records {
    fn add(&mut self, record: Record) {
        let bytes = event_bytes(&record.event);
        for topic in record.event.topics() {
            let of_topic = self.topics.entry(topic.clone()).or_default();
            of_topic.numbers.push_back(record.number);
            of_topic.bytes += bytes;
        }
        if let Some(id) = record.event.id() {
            let key = (id.clone(), sorted(record.event.topics()));
            self.ids.entry(key).or_default().insert(record.number);
        }
        (self.state.newest, self.state.synced) = (record.number, record.number);
        self.state.records += 1;
        self.state.bytes += bytes as u64;
        let topics = record.event.topics().len();
        self.records.insert(record.number, Kept { record, bytes, topics });
        self.note_oldest();
    }

    fn lose(&mut self, number: u64) {
        let Some(Kept { record, bytes, .. }) = self.records.remove(&number) else { return };
        for topic in record.event.topics() {
            let of_topic = self.topics.entry(topic.clone()).or_default();
            if of_topic.keeps(number) {
                of_topic.numbers.retain(|kept| *kept != number);
                of_topic.bytes -= bytes;
            }
        }
        self.forget_id(&record);
        self.state.records -= 1;
        self.state.bytes -= bytes as u64;
    }

    fn forget_id(&mut self, record: &Record) {
        let Some(id) = record.event.id() else { return };
        let key = (id.clone(), sorted(record.event.topics()));
        if let Some(numbers) = self.ids.get_mut(&key) {
            numbers.remove(&record.number);
            if numbers.is_empty() {
                self.ids.remove(&key);
            }
        }
    }

    fn note_oldest(&mut self) {
        self.state.oldest = self.records.first_key_value().map_or(0, |(number, _)| *number);
    }

    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Page {
        let (mut page, mut bytes, mut steps) = (Page { up_to: after, ..Page::default() }, 0, 0);
        page.gone = match query {
            Query::All => self.gone,
            Query::Topics(topics) => {
                let known = topics.iter().filter_map(|topic| self.topics.get(topic));
                known.fold(Gone::default(), |gone, topic| gone.and(topic.gone))
            }
        };
        page.gone = page.gone.and(Gone { newest: self.lost, newest_public: self.lost });
        let Some(next) = after.checked_add(1) else {
            page.is_end = true;
            return page;
        };
        for (number, kept) in self.records.range(next..) {
            if steps > 0 && (steps >= bounds.steps || page.records.len() >= bounds.records) {
                return page;
            }
            steps += 1;
            if self.is_wanted(query, &kept.record) {
                if !page.records.is_empty() && bytes + kept.bytes > bounds.bytes {
                    return page;
                }
                bytes += kept.bytes;
                page.records.push(kept.record.clone());
            }
            page.up_to = *number;
        }
        page.up_to = page.up_to.max(self.state.newest);
        page.is_end = true;
        page
    }

    fn is_wanted(&self, query: Query<'_>, record: &Record) -> bool {
        let Query::Topics(topics) = query else { return true };
        // A record may be gone from the topic that was asked for, and be there for another one.
        let in_topic = |topic| self.topics.get(topic).is_some_and(|topic| topic.keeps(record.number));
        topics.iter().any(|topic| record.event.topics().contains(topic) && in_topic(topic))
    }

    fn trim(&mut self, now_ms: u64, budget: usize) -> Trimmed {
        let (mut trimmed, mut left) = (Trimmed::default(), budget.max(1));
        loop {
            let next = match &self.pass_at {
                None => self.topics.first_key_value(),
                Some(at) => self.topics.range(at.clone()..).next(),
            };
            let Some((topic, _)) = next else { break };
            let topic = topic.clone();
            if left == 0 {
                (self.pass_at, trimmed.more) = (Some(topic), true);
                return trimmed;
            }
            left -= 1;
            let retention = *self.limits.retention_of(&topic);
            while self.is_over(&topic, retention, now_ms) {
                if left == 0 {
                    (self.pass_at, trimmed.more) = (Some(topic), true);
                    return trimmed;
                }
                left -= 1;
                self.drop_oldest_of(&topic, &mut trimmed);
            }
            self.pass_at = self.pass_after(&topic);
            if self.pass_at.is_none() {
                break;
            }
        }
        self.pass_at = None;
        while self.state.bytes > self.limits.total_bytes as u64 {
            let largest = self.topics.iter().max_by_key(|(_, topic)| topic.bytes);
            let Some(largest) = largest.map(|(topic, _)| topic.clone()) else { break };
            if left == 0 {
                trimmed.more = true;
                return trimmed;
            }
            left -= 1;
            self.drop_oldest_of(&largest, &mut trimmed);
        }
        trimmed
    }

    fn pass_after(&self, topic: &Topic) -> Option<Topic> {
        let behind = (Bound::Excluded(topic.clone()), Bound::Unbounded);
        self.topics.range(behind).next().map(|(topic, _)| topic.clone())
    }

    fn is_over(&self, topic: &Topic, retention: Retention, now_ms: u64) -> bool {
        let Some(of_topic) = self.topics.get(topic).filter(|of_topic| !of_topic.numbers.is_empty()) else {
            return false;
        };
        if of_topic.numbers.len() > retention.events || of_topic.bytes > retention.bytes {
            return true;
        }
        let age_ms = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
        let published_ms = |number: &u64| self.records[number].record.published_ms;
        let is_old = |number: &u64| now_ms.saturating_sub(published_ms(number)) >= age_ms;
        // A clock that was set back leaves records at the front whose times are later than those behind them.
        // They may not hold these back.
        let mut numbers = of_topic.numbers.iter();
        numbers
            .next()
            .is_some_and(|front| is_old(front) || published_ms(front) > now_ms && numbers.any(is_old))
    }

    fn drop_oldest_of(&mut self, topic: &Topic, trimmed: &mut Trimmed) {
        let Some(of_topic) = self.topics.get_mut(topic) else { return };
        let Some(number) = of_topic.numbers.pop_front() else { return };
        let Some(kept) = self.records.get_mut(&number) else { return };
        of_topic.bytes -= kept.bytes;
        of_topic.gone.note(number, kept.record.event.is_private());
        self.gone.note(number, kept.record.event.is_private());
        kept.topics -= 1;
        if kept.topics > 0 {
            return;
        }
        let Some(kept) = self.records.remove(&number) else { return };
        self.forget_id(&kept.record);
        trimmed.records += 1;
        trimmed.bytes += kept.bytes as u64;
        self.state.records -= 1;
        self.state.bytes -= kept.bytes as u64;
        self.note_oldest();
    }
}

impl OfTopic {
    fn keeps(&self, number: u64) -> bool {
        self.numbers.binary_search(&number).is_ok()
    }
}

/// Whether the group may be appended behind this number.
pub(crate) fn check_order(group: &[Record], newest: u64) -> Result<(), Error> {
    let mut newest = newest;
    for record in group {
        if record.number <= newest {
            return Err(Error::Order { number: record.number, newest });
        }
        newest = record.number;
    }
    Ok(())
}

fn sorted(topics: &[Topic]) -> Vec<Topic> {
    let mut sorted = topics.to_vec();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_gone_and_its_numbers_are_not_given_again() {
        let store = MemoryStore::new(Epoch::new(1), LogLimits::default());
        let topic = || Topic::new("t").unwrap();
        let event = |id: u64| {
            fanfare_proto::event::Event::new(topic()).with_id(EventId::new(id.to_string()).unwrap())
        };
        let group: Vec<Record> =
            (1..=5).map(|number| Record { number, published_ms: 0, event: event(number) }).collect();
        store.append(&group, Durability::Async).unwrap();
        store.lose_after(3);
        let page = store.read(Query::Topics(&[topic()]), 0, Bounds::default()).unwrap();
        assert_eq!(page.records, group[..3]);
        assert_eq!((page.gone.newest, page.gone.newest_public, page.up_to), (5, 5, 5));
        assert_eq!((store.state().newest, store.state().oldest, store.state().records), (5, 1, 3));
        assert_eq!(store.find(&EventId::new("4").unwrap(), &[topic()]).unwrap(), None);
        let again = Record { number: 5, published_ms: 0, event: event(5) };
        assert!(matches!(store.append(&[again], Durability::Async), Err(Error::Order { .. })));
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::conformance::all(&|limits| Box::new(MemoryStore::new(Epoch::new(1), limits)));
    }
}
