//! The readers of the process: which topics they read, and which of them sleep.
//!
//! ```text
//!   publisher, under the log's lock           a reader, under the log's lock
//!     append the events                         read from the log: nothing new
//!     for each topic that is read here:         note that it sleeps
//!       note that its sleeping readers        then, without locks, wait for the call
//!       are awake, and collect them
//!   then, without locks, call them
//! ```
//!
//! Both sides hold the log's lock, so a reader that sleeps has seen everything before, and is called by the
//! first event after. Later events find it awake and do not call it again: however many there are, one sleep
//! has one call.
//!
//! In the log's sets of readers, all readers of the process are one more shard. This table says which of them
//! it is.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fanfare_proto::event::Topic;
use fanfare_proto::frame::Frame;
use fanfare_proto::pattern::{Pattern, PatternTable, TooMuchWork};
use fanfare_proto::segment_map::SegmentMap;
use fanfare_proto::selection::Selection;
use fanfare_proto::slots::Slots;
use smallvec::SmallVec;

use crate::hub::line::WaitBy;
use crate::shared_log::LockedLog;
use crate::sync::{Condvar, Mutex, lock};

/// The readers of one hub. Its lock comes after the log's.
#[derive(Default)]
pub(crate) struct LocalReaders {
    table: Mutex<Table>,
}

/// Its tables grow piece by piece, because every publisher and every shard waits for the log's lock
/// meanwhile.
struct Table {
    readers: Slots<Entry>,
    /// What is read, by the numbers in `by_name` and in [`Entry::topics`].
    topics: Slots<LocalTopic>,
    by_name: SegmentMap<Topic, Option<u32>>,
    /// What is read by patterns, by the same numbers.
    patterns: PatternTable<u32>,
    /// How many readers sleep.
    asleep: usize,
    last_key: u64,
}

/// One reader.
struct Entry {
    key: ReaderKey,
    /// Its topics and patterns, in the order of [`selectors_of`].
    topics: Box<[u32]>,
    /// Of how many of them it reads private events: of the first ones.
    private: usize,
    /// How it waits, while it sleeps.
    sleeps: Option<WaitBy>,
    /// Where its thread waits.
    thread: Arc<Condvar>,
    /// How often it was called.
    #[cfg(test)]
    calls: usize,
}

/// One topic, or one pattern, that is read in the process.
#[derive(Default)]
struct LocalTopic {
    readers: Vec<u32>,
    /// How many of them sleep.
    asleep: usize,
}

/// What a reader is called by where it is a task. Keys are not used twice, so that a late call calls nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReaderKey(u64);

/// A reader's place in the table.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    slot: u32,
    pub(crate) key: ReaderKey,
}

/// Readers to call when no lock is held any more.
#[derive(Default)]
pub(crate) struct Called {
    /// Where threads wait that the publisher wakes.
    pub(crate) threads: SmallVec<[Arc<Condvar>; DIRECT_CALLS]>,
    /// Readers that the hub's thread wakes: tasks, and threads with the place where they wait.
    pub(crate) others: SmallVec<[(ReaderKey, Option<Arc<Condvar>>); 2]>,
}

/// Threads that one publish wakes itself: each costs it about 2 us. The hub's thread wakes the others.
const DIRECT_CALLS: usize = if cfg!(fanfare_loom) { 1 } else { 4 };

impl LocalReaders {
    /// Registers a reader of this selection, whose topics are different: every event that is appended from
    /// now on calls it where it sleeps.
    pub(crate) fn add(
        &self,
        log: &mut LockedLog<'_>,
        selection: Selection<'_>,
        most: usize,
    ) -> Result<Place, NoPlace> {
        let table = &mut *lock(&self.table);
        if table.readers.len() >= most {
            return Err(NoPlace::Readers);
        }
        let new = table.new_of(selection);
        log.add_local_reader(&new.topics, &new.patterns).map_err(|_| NoPlace::Patterns)?;
        if table.insert(&new).is_err() {
            log.remove_local_reader(&new.topics, &new.patterns);
            return Err(NoPlace::Patterns);
        }
        table.last_key += 1;
        let key = ReaderKey(table.last_key);
        let numbers: Box<[u32]> =
            selectors_of(selection).filter_map(|selector| table.number_of(selector)).collect();
        let slot = table.readers.insert(Entry {
            key,
            topics: numbers.clone(),
            private: selection.private_topics().len() + selection.private_patterns().len(),
            sleeps: None,
            thread: Arc::default(),
            #[cfg(test)]
            calls: 0,
        });
        for number in numbers {
            table.topics[number].readers.push(slot);
        }
        Ok(Place { slot, key })
    }

    /// Ends what [`LocalReaders::add`] began. `None`: the log is broken, and is left as it is.
    pub(crate) fn remove(&self, place: Place, selection: Selection<'_>, log: Option<&mut LockedLog<'_>>) {
        let table = &mut *lock(&self.table);
        table.end_sleep(place.slot);
        let entry = table.readers.remove(place.slot);
        let mut unread = Selectors::default();
        for (selector, topic) in selectors_of(selection).zip(entry.topics) {
            let readers = &mut table.topics[topic].readers;
            readers.retain(|reader| *reader != place.slot);
            if readers.is_empty() {
                unread.push(selector);
            }
        }
        table.remove(&unread);
        if let Some(log) = log {
            log.remove_local_reader(&unread.topics, &unread.patterns);
        }
    }

    /// A reader that has everything in the log sleeps from now on. The caller holds the log's lock since it
    /// has read.
    pub(crate) fn begin_sleep(&self, place: Place, by: WaitBy) {
        let table = &mut *lock(&self.table);
        let entry = &mut table.readers[place.slot];
        if entry.sleeps.replace(by).is_none() {
            table.asleep += 1;
            for topic in &entry.topics {
                table.topics[*topic].asleep += 1;
            }
        }
    }

    /// Waits as a thread until the reader is called, or `is_over` says that no event comes any more.
    /// `time_left` says how long it may still wait; false: no time is left, and it does not sleep any more.
    pub(crate) fn wait(
        &self,
        place: Place,
        is_over: impl Fn() -> bool,
        time_left: impl Fn() -> Duration,
    ) -> bool {
        let mut table = lock(&self.table);
        let thread = Arc::clone(&table.readers[place.slot].thread);
        while table.readers[place.slot].sleeps.is_some() && !is_over() {
            let left = time_left();
            if left.is_zero() {
                table.end_sleep(place.slot);
                return false;
            }
            table = thread.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// These events are appended under the log's lock, which the caller holds: collects the readers that
    /// sleep and want one of them.
    pub(crate) fn call(&self, frames: &[Arc<Frame>], called: &mut Called) {
        let table = &mut *lock(&self.table);
        for frame in frames {
            if table.asleep == 0 {
                return;
            }
            for topic in frame.topics() {
                if let Some(number) = table.by_name.get(topic).copied().flatten() {
                    table.call_readers_of(number, frame.private(), called);
                }
                let mut numbers: SmallVec<[u32; 8]> = SmallVec::new();
                table
                    .patterns
                    .matching(topic.as_str(), |key| numbers.extend(table.patterns.get(key).copied()));
                for number in numbers {
                    table.call_readers_of(number, frame.private(), called);
                }
            }
        }
    }

    /// No event comes any more: threads that wait are woken. (The hub's thread ends, and wakes all tasks.)
    pub(crate) fn close(&self) {
        for (_, entry) in lock(&self.table).readers.iter() {
            entry.thread.notify_all();
        }
    }

    /// How often a reader was called.
    #[cfg(test)]
    pub(crate) fn calls(&self, place: Place) -> usize {
        lock(&self.table).readers[place.slot].calls
    }

    /// Readers, and topics that they read.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        let table = lock(&self.table);
        let names = table.by_name.iter().count() + table.patterns.len();
        assert_eq!(table.topics.len(), names, "topics by their name, and patterns");
        let asleep = table.readers.iter().filter(|(_, entry)| entry.sleeps.is_some()).count();
        assert_eq!(table.asleep, asleep, "readers that sleep");
        for (_, topic) in table.topics.iter() {
            let asleep = topic.readers.iter().filter(|slot| table.readers[**slot].sleeps.is_some()).count();
            assert_eq!(topic.asleep, asleep, "readers of one topic that sleep");
        }
        (table.readers.len(), table.topics.len())
    }
}

impl Default for Table {
    fn default() -> Table {
        let seed = RandomState::new().build_hasher().finish();
        let (readers, topics) = (Slots::new(), Slots::new());
        let (by_name, patterns) = (SegmentMap::new(seed), PatternTable::new());
        Table { readers, topics, by_name, patterns, asleep: 0, last_key: 0 }
    }
}

/// What a reader reads.
#[derive(Clone, Copy)]
enum Selector<'s> {
    Topic(&'s Topic),
    Pattern(&'s Pattern),
}

/// All selectors of a selection, first those through which private events are read.
fn selectors_of<'s>(selection: Selection<'s>) -> impl Iterator<Item = Selector<'s>> {
    let (topics, patterns) = (selection.private_topics(), selection.private_patterns());
    let others = &selection.topics()[topics.len()..];
    let other_patterns = &selection.patterns()[patterns.len()..];
    let of = |topics: &'s [Topic], patterns: &'s [Pattern]| {
        topics.iter().map(Selector::Topic).chain(patterns.iter().map(Selector::Pattern))
    };
    of(topics, patterns).chain(of(others, other_patterns))
}

/// Some topics and patterns.
#[derive(Default)]
struct Selectors {
    topics: Vec<Topic>,
    patterns: Vec<Pattern>,
}

impl Selectors {
    fn push(&mut self, selector: Selector<'_>) {
        match selector {
            Selector::Topic(topic) => self.topics.push(topic.clone()),
            Selector::Pattern(pattern) => self.patterns.push(pattern.clone()),
        }
    }
}

/// Why a reader is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There are as many readers as there may be.
    Readers,
    /// The log cannot take its patterns.
    Patterns,
}

impl Table {
    fn number_of(&self, selector: Selector<'_>) -> Option<u32> {
        match selector {
            Selector::Topic(topic) => self.by_name.get(topic).copied().flatten(),
            Selector::Pattern(pattern) => {
                self.patterns.find(pattern).and_then(|key| self.patterns.get(key)).copied()
            }
        }
    }

    /// Those of a selection that are not read yet.
    fn new_of(&self, selection: Selection<'_>) -> Selectors {
        let mut new = Selectors::default();
        selectors_of(selection)
            .filter(|selector| self.number_of(*selector).is_none())
            .for_each(|selector| new.push(selector));
        new
    }

    /// Adds what is not read yet. An error, after which nothing has changed: a pattern makes it too much work
    /// to find the patterns of a topic.
    fn insert(&mut self, new: &Selectors) -> Result<(), TooMuchWork> {
        for (added, pattern) in new.patterns.iter().enumerate() {
            let number = self.topics.insert(LocalTopic::default());
            if let Err(refused) = self.patterns.insert(pattern.clone(), number) {
                self.topics.remove(number);
                self.remove(&Selectors { topics: Vec::new(), patterns: new.patterns[..added].to_vec() });
                return Err(refused);
            }
        }
        for topic in &new.topics {
            let number = self.topics.insert(LocalTopic::default());
            *self.by_name.get_or_default(topic) = Some(number);
        }
        Ok(())
    }

    /// Removes what is not read any more.
    fn remove(&mut self, unread: &Selectors) {
        for topic in &unread.topics {
            if let Some(number) = self.by_name.remove(topic).flatten() {
                self.topics.remove(number);
            }
        }
        for pattern in &unread.patterns {
            if let Some(key) = self.patterns.find(pattern) {
                let number = self.patterns.remove(key);
                self.topics.remove(number);
            }
        }
    }

    fn call_readers_of(&mut self, topic: u32, is_private: bool, called: &mut Called) {
        if self.topics[topic].asleep == 0 {
            return;
        }
        for index in 0..self.topics[topic].readers.len() {
            let slot = self.topics[topic].readers[index];
            let reader = &self.readers[slot];
            if is_private && !reader.topics[..reader.private].contains(&topic) {
                continue;
            }
            let Some(by) = self.end_sleep(slot) else { continue };
            let entry = &mut self.readers[slot];
            #[cfg(test)]
            {
                entry.calls += 1;
            }
            match by {
                WaitBy::Thread if called.threads.len() < DIRECT_CALLS => {
                    called.threads.push(Arc::clone(&entry.thread));
                }
                WaitBy::Thread => called.others.push((entry.key, Some(Arc::clone(&entry.thread)))),
                WaitBy::Task => called.others.push((entry.key, None)),
            }
        }
    }

    /// The reader does not sleep any more. Says how it waited, if it did.
    fn end_sleep(&mut self, slot: u32) -> Option<WaitBy> {
        let entry = &mut self.readers[slot];
        let by = entry.sleeps.take()?;
        self.asleep -= 1;
        for topic in &entry.topics {
            self.topics[*topic].asleep -= 1;
        }
        Some(by)
    }
}
