//! What the log knows of patterns: which shards read them, and what was dropped of the topics that they
//! match.
//!
//! A pattern is to the log what a topic is, without frames of its own. A publish finds the patterns of a
//! topic by one walk of a table, and a frame that is dropped is noted in each of them: at once, or where that
//! takes too many steps under one hold of the log's lock, later ([`super::drop_notes`]).
//!
//! A pattern that no shard reads any more is *remembered*: a subscriber that comes back to it is not told of
//! a gap that is none. The remembered patterns have bounds together with those that are read, in number and
//! in bytes, and the one that has been left for the longest time is forgotten first. A pattern without an
//! entry begins with the highest number that any topic ever dropped. That is too high where other topics have
//! dropped it, and never too low.

use std::cell::{Cell, RefCell};

use smallvec::SmallVec;

use super::drop_notes::{DropNote, DropNotes};
use super::dropped::Dropped;
use super::shards::ShardSet;
use crate::event::{MAX_TOPIC_BYTES, Topic};
use crate::event_log::NoRoomForPatterns;
use crate::frame::Frame;
use crate::limits::{REMEMBERED_PATTERN_BYTES, WALK_STEPS};
use crate::pattern::{MAX_STATES, Pattern, PatternKey, PatternTable};

/// Remembered patterns that the new ones of one subscription may push out beside one for each, because a walk
/// would take too much work with them.
const FORGOTTEN_AT_ONCE: usize = 64;

/// Remembered patterns that one removal forgets where they take too much memory. The rest goes with later
/// calls.
const FORGOTTEN_BY_A_REMOVAL: usize = 2;

/// Steps that the patterns of one question may make through the drops that wait. A pattern for which they are
/// not enough has lost as much as one without an entry.
pub(super) const LOOK_STEPS: usize = WALK_STEPS;

/// The patterns of the log.
pub(super) struct Patterns {
    table: PatternTable<PatternEntry>,
    /// How many there may be.
    most: usize,
    /// Those that shards read.
    read: usize,
    /// Pairs of a pattern and a shard that reads it.
    readers: usize,
    /// What sets of shards have allocated, in bytes.
    reader_bytes: usize,
    /// What the remembered patterns take at most, in bytes, and what they may take.
    remembered_bytes: usize,
    most_remembered_bytes: usize,
    /// The remembered pattern that was left first, and the one that was left last.
    oldest: Option<PatternKey>,
    newest: Option<PatternKey>,
    /// What was dropped of any topic.
    dropped_of_any: Dropped,
    /// Drops that are still to be noted.
    notes: DropNotes,
    /// Steps that the notes of one hold of the log's lock may take.
    walk_steps: usize,
    /// What is left of them, and walks that are made in any case.
    steps_left: usize,
    walks_left: usize,
    /// Steps of all walks ever.
    #[cfg(test)]
    steps_made: Cell<usize>,
    /// Drops that wait and were looked at for questions ever.
    #[cfg(test)]
    looks_made: Cell<usize>,
    /// The topic that was looked up last, with its patterns: a publish asks for its readers, and then its
    /// topic has to drop its oldest frame as a rule. Forgotten where the table changes.
    last: RefCell<Option<(Topic, SmallVec<[PatternKey; 4]>)>>,
}

/// A pattern that shards read, or that is remembered.
struct PatternEntry {
    /// Empty: it is remembered.
    readers: ShardSet,
    /// What was dropped of topics that it matches, while it had this entry, and of any topic before. Drops
    /// that are still to be noted are in it up to this number of them.
    dropped: Cell<Dropped>,
    looked_up_to: Cell<u64>,
    /// Its neighbours among the remembered patterns.
    older: Option<PatternKey>,
    newer: Option<PatternKey>,
}

/// A pattern with more states than this is not remembered when no shard reads it: it would take the room of
/// others, and a client that comes and goes with such patterns would shut out those of all others.
const REMEMBERED_STATES: usize = 2;

impl Patterns {
    pub(super) fn new(most: usize) -> Patterns {
        Patterns {
            table: PatternTable::new(),
            most,
            read: 0,
            readers: 0,
            reader_bytes: 0,
            remembered_bytes: 0,
            most_remembered_bytes: REMEMBERED_PATTERN_BYTES,
            oldest: None,
            newest: None,
            dropped_of_any: Dropped::default(),
            notes: DropNotes::default(),
            walk_steps: WALK_STEPS,
            steps_left: WALK_STEPS,
            walks_left: 0,
            #[cfg(test)]
            steps_made: Cell::default(),
            #[cfg(test)]
            looks_made: Cell::default(),
            last: RefCell::new(None),
        }
    }

    /// The memory of all entries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.reader_bytes + self.notes.bytes()
    }

    /// The most memory that an entry of this pattern takes, in bytes.
    pub(super) fn entry_bytes(pattern: &Pattern) -> usize {
        PatternTable::<PatternEntry>::bytes_at_most(pattern)
    }

    /// Pairs of a pattern and a shard that reads it.
    pub(super) fn readers(&self) -> usize {
        self.readers
    }

    /// Patterns that are read or remembered.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Frames up to these numbers are gone, of some topics.
    pub(super) fn raise_floor_to(&mut self, gone: Dropped) {
        self.dropped_of_any = self.dropped_of_any.and(gone);
    }

    /// Every frame up to this number is gone.
    pub(super) fn raise_floor(&mut self, seq: u64) {
        self.dropped_of_any = self.dropped_of_any.and(Dropped { newest: seq, newest_public: seq });
    }

    /// What was dropped of the topics that the pattern matches; at least that. What it takes to look at drops
    /// that wait is taken away from `steps`: see [`LOOK_STEPS`].
    pub(super) fn dropped(&self, pattern: &Pattern, steps: &mut usize) -> Dropped {
        let entry = self.table.find(pattern).and_then(|key| self.table.get(key));
        let Some(PatternEntry { dropped, looked_up_to, .. }) = entry else { return self.dropped_of_any };
        let number = looked_up_to.replace(self.notes.end());
        let mut lost = dropped.get().and(self.notes.given_up_since(number));
        for note in self.notes.since(number) {
            let Some(left) = steps.checked_sub(pattern.match_steps(note.topic.as_str())) else {
                lost = self.dropped_of_any;
                break;
            };
            *steps = left;
            #[cfg(test)]
            self.looks_made.set(self.looks_made.get() + 1);
            if pattern.matches(note.topic.as_str()) {
                lost = lost.and(note.lost);
            }
        }
        dropped.set(lost);
        lost
    }

    /// Begins to note drops under one hold of the log's lock: with the usual steps. Where half of the drops
    /// wait that may, two walks are made for each topic of what is appended, so that they become less.
    pub(super) fn begin_notes(&mut self, topics: usize) {
        self.steps_left = self.walk_steps;
        self.walks_left = if self.notes.is_half_full() { 1 + 2 * topics } else { 1 };
    }

    /// Notes drops that wait, as far as the steps go.
    pub(super) fn note_waiting(&mut self) {
        while self.may_walk()
            && let Some(DropNote { topic, lost }) = self.notes.pop()
        {
            self.note(&topic, lost);
        }
    }

    /// Whether drops wait to be noted, or patterns to be forgotten.
    pub(super) fn has_waiting(&self) -> bool {
        !self.notes.is_empty() || self.has_excess()
    }

    /// How many steps the notes of one hold of the log's lock may take.
    pub(super) fn set_walk_steps(&mut self, steps: usize) {
        (self.walk_steps, self.steps_left) = (steps, steps);
    }

    fn may_walk(&self) -> bool {
        self.steps_left > 0 || self.walks_left > 0
    }

    /// A topic has lost a frame.
    pub(super) fn note_dropped(&mut self, topic: &Topic, frame: &Frame) {
        let lost = Dropped::of(frame);
        self.dropped_of_any = self.dropped_of_any.and(lost);
        if self.table.is_empty() {
            return;
        }
        let is_known = |(last, _): &(Topic, _)| last == topic;
        if self.may_walk() || self.last.get_mut().as_ref().is_some_and(is_known) {
            self.note(topic, lost);
        } else {
            self.notes.push(topic.clone(), lost);
        }
    }

    fn note(&mut self, topic: &Topic, lost: Dropped) {
        let (keys, steps) = self.matching(topic);
        for key in keys {
            if let Some(entry) = self.table.get(key) {
                entry.dropped.set(entry.dropped.get().and(lost));
            }
        }
        if steps > 0 {
            self.steps_left = self.steps_left.saturating_sub(steps);
            self.walks_left = self.walks_left.saturating_sub(1);
        }
    }

    /// Adds the shards that read a pattern of this topic, and answers how many steps that took.
    pub(super) fn add_shards(&self, topic: &Topic, shards: &mut ShardSet) -> usize {
        if self.read == 0 {
            return 0;
        }
        let (keys, steps) = self.matching(topic);
        for key in keys {
            if let Some(entry) = self.table.get(key) {
                shards.union_with(&entry.readers);
            }
        }
        // The event pays for the drops that wait, too.
        const STEPS_OF_A_WALK: usize = MAX_STATES * MAX_TOPIC_BYTES;
        if self.notes.is_half_full() { steps + 2 * STEPS_OF_A_WALK } else { steps }
    }

    /// The patterns of a topic, and the steps of the walk that has found them; none where the topic was the
    /// last one.
    fn matching(&self, topic: &Topic) -> (SmallVec<[PatternKey; 4]>, usize) {
        let mut last = self.last.borrow_mut();
        if let Some((_, keys)) = last.as_ref().filter(|(last, _)| last == topic) {
            return (keys.clone(), 0);
        }
        let mut keys = SmallVec::new();
        let work = self.table.matching(topic.as_str(), |key| keys.push(key));
        *last = Some((topic.clone(), keys.clone()));
        let steps = work.steps.max(1);
        #[cfg(test)]
        self.steps_made.set(self.steps_made.get() + steps);
        (keys, steps)
    }

    /// Notes that a shard reads these patterns from now on. Where one of them finds no room, nothing has
    /// changed but that those of them that are remembered count as left at last.
    ///
    /// # Panics
    /// It reads one of the patterns already.
    pub(super) fn add_readers(
        &mut self,
        patterns: &[Pattern],
        shard: usize,
    ) -> Result<(), NoRoomForPatterns> {
        // First those that are remembered, so that the others do not push them out.
        let (known, new): (Vec<&Pattern>, Vec<&Pattern>) =
            patterns.iter().partition(|pattern| self.has(pattern));
        let mut keys: Vec<PatternKey> = known.iter().filter_map(|pattern| self.table.find(pattern)).collect();
        for &key in &keys {
            self.add_reader_at(key, shard);
        }
        let mut forgotten = Vec::new();
        for pattern in new {
            match self.insert(pattern, patterns.len(), &mut forgotten) {
                Ok(key) => {
                    self.add_reader_at(key, shard);
                    keys.push(key);
                }
                Err(no_room) => {
                    for key in keys.drain(known.len()..).rev() {
                        self.remove_reader_at(key, shard);
                        self.forget(key);
                    }
                    for key in keys {
                        self.remove_reader_at(key, shard);
                    }
                    // What was pushed out in vain is remembered again, in its order.
                    forgotten.into_iter().rev().for_each(|(pattern, entry)| self.restore(pattern, entry));
                    self.clear_notes_of_none();
                    return Err(no_room);
                }
            }
        }
        Ok(())
    }

    fn add_reader_at(&mut self, key: PatternKey, shard: usize) {
        if self.is_remembered(key) {
            self.unlink(key);
            self.read += 1;
        }
        self.change_readers(key, |readers| readers.insert(shard));
        self.readers += 1;
    }

    /// Ends what [`Patterns::add_readers`] began.
    ///
    /// # Panics
    /// The shard does not read the pattern.
    pub(super) fn remove_reader(&mut self, pattern: &Pattern, shard: usize) {
        let key = self.table.find(pattern).expect("a pattern with readers has an entry");
        self.remove_reader_at(key, shard);
        if self.is_remembered(key) {
            if pattern.states() > REMEMBERED_STATES {
                self.forget(key);
            }
            self.forget_excess(FORGOTTEN_BY_A_REMOVAL);
            self.clear_notes_of_none();
        }
    }

    /// Forgets remembered patterns, so many at most, while they take more than they may. What subscribers
    /// read has a bound elsewhere: see [`crate::limits::Limits::subscription_bytes`].
    pub(super) fn forget_excess(&mut self, most: usize) {
        for _ in 0..most {
            match self.oldest.filter(|_| self.has_excess()) {
                Some(oldest) => self.forget(oldest),
                None => break,
            }
        }
        self.clear_notes_of_none();
    }

    fn has_excess(&self) -> bool {
        self.remembered_bytes > self.most_remembered_bytes
    }

    /// What remembered patterns may take, in bytes.
    #[cfg(test)]
    pub(super) fn limit_remembered(&mut self, bytes: usize) {
        self.most_remembered_bytes = bytes;
    }

    fn bytes_of(&self, key: PatternKey) -> usize {
        self.table.pattern(key).map_or(0, Patterns::entry_bytes)
    }

    fn remove_reader_at(&mut self, key: PatternKey, shard: usize) {
        self.change_readers(key, |readers| readers.remove(shard));
        self.readers -= 1;
        if self.is_remembered(key) {
            self.read -= 1;
            self.link(key);
        }
    }

    /// Adds a pattern, unless it has an entry. Remembered ones that it pushes out go to `forgotten`, of which
    /// there are so many in addition to [`FORGOTTEN_AT_ONCE`].
    fn insert(
        &mut self,
        pattern: &Pattern,
        more: usize,
        forgotten: &mut Vec<(Pattern, PatternEntry)>,
    ) -> Result<PatternKey, NoRoomForPatterns> {
        if let Some(key) = self.table.find(pattern) {
            return Ok(key);
        }
        loop {
            if self.table.len() < self.most {
                let entry = PatternEntry {
                    readers: ShardSet::new(),
                    dropped: Cell::new(self.dropped_of_any),
                    looked_up_to: Cell::new(self.notes.end()),
                    older: None,
                    newer: None,
                };
                self.last.take();
                if let Ok(key) = self.table.insert(pattern.clone(), entry) {
                    self.link(key);
                    return Ok(key);
                }
            }
            let may_forget = forgotten.len() < FORGOTTEN_AT_ONCE + more;
            let oldest = self.oldest.filter(|_| may_forget).ok_or(NoRoomForPatterns)?;
            let pattern = self.table.pattern(oldest).cloned().ok_or(NoRoomForPatterns)?;
            self.unlink(oldest);
            self.last.take();
            forgotten.push((pattern, self.table.remove(oldest)));
        }
    }

    /// Remembers a pattern again, as the one that was left first.
    fn restore(&mut self, pattern: Pattern, entry: PatternEntry) {
        self.last.take();
        let Ok(key) = self.table.insert(pattern, entry) else {
            unreachable!("it had room beside the patterns that are there")
        };
        self.remembered_bytes += self.bytes_of(key);
        let newer = self.oldest.replace(key);
        if let Some(entry) = self.table.get_mut(key) {
            (entry.older, entry.newer) = (None, newer);
        }
        match newer.and_then(|newer| self.table.get_mut(newer)) {
            Some(entry) => entry.older = Some(key),
            None => self.newest = Some(key),
        }
    }

    /// Removes a remembered pattern.
    fn forget(&mut self, key: PatternKey) {
        self.unlink(key);
        self.last.take();
        self.table.remove(key);
    }

    /// Where there is no pattern, nothing is to be noted. A call asks at its end: it may put patterns back
    /// that it pushed out, and these have not looked at what waits.
    fn clear_notes_of_none(&mut self) {
        if self.table.is_empty() {
            self.notes.clear();
        }
    }

    /// Whether no shard reads the pattern.
    fn is_remembered(&self, key: PatternKey) -> bool {
        self.table.get(key).is_some_and(|entry| entry.readers.is_empty())
    }

    fn change_readers(&mut self, key: PatternKey, change: impl FnOnce(&mut ShardSet) -> bool) {
        let Some(entry) = self.table.get_mut(key) else { return };
        let before = entry.readers.allocated_bytes();
        assert!(change(&mut entry.readers), "a shard reads a pattern once at a time");
        self.reader_bytes = self.reader_bytes + entry.readers.allocated_bytes() - before;
    }

    /// Adds a pattern to the remembered ones, as the one that was left last.
    fn link(&mut self, key: PatternKey) {
        self.remembered_bytes += self.bytes_of(key);
        let older = self.newest.replace(key);
        if let Some(entry) = self.table.get_mut(key) {
            (entry.older, entry.newer) = (older, None);
        }
        match older.and_then(|older| self.table.get_mut(older)) {
            Some(entry) => entry.newer = Some(key),
            None => self.oldest = Some(key),
        }
    }

    /// Takes a pattern out of the remembered ones.
    fn unlink(&mut self, key: PatternKey) {
        self.remembered_bytes -= self.bytes_of(key);
        let Some(entry) = self.table.get_mut(key) else { return };
        let (older, newer) = (entry.older.take(), entry.newer.take());
        match older.and_then(|older| self.table.get_mut(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.table.get_mut(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    /// Steps of all walks ever, and drops that wait.
    #[cfg(test)]
    pub(super) fn walked(&self) -> (usize, usize) {
        (self.steps_made.get(), self.notes.len())
    }

    /// Drops that wait and were looked at for questions ever, and the memory of what waits, in bytes.
    #[cfg(test)]
    pub(super) fn looked(&self) -> (usize, usize) {
        (self.looks_made.get(), self.notes.bytes())
    }

    /// The remembered patterns, in the order in which they are forgotten.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> Vec<Pattern> {
        let entry = |key: &PatternKey| self.table.get(*key).and_then(|entry| entry.newer);
        let keys = std::iter::successors(self.oldest, entry);
        keys.filter_map(|key| self.table.pattern(key).cloned()).collect()
    }

    pub(super) fn has(&self, pattern: &Pattern) -> bool {
        self.table.find(pattern).is_some()
    }

    pub(super) fn is_read(&self, pattern: &Pattern, shard: usize) -> bool {
        let entry = self.table.find(pattern).and_then(|key| self.table.get(key));
        entry.is_some_and(|entry| entry.readers.contains(shard))
    }

    pub(super) fn read_by(&self, shard: usize) -> usize {
        self.table.iter().filter(|(_, _, entry)| entry.readers.contains(shard)).count()
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self, newest: u64) {
        self.table.check();
        self.notes.check();
        assert!(self.notes.is_empty() || !self.table.is_empty(), "a drop waits, and there is no pattern");
        if let Some((topic, keys)) = &*self.last.borrow() {
            let mut found: SmallVec<[PatternKey; 4]> = SmallVec::new();
            self.table.matching(topic.as_str(), |key| found.push(key));
            assert_eq!(*keys, found, "the patterns of the last topic");
        }
        let (mut read, mut readers, mut bytes) = (0, 0, 0);
        for (_, pattern, entry) in self.table.iter() {
            read += usize::from(!entry.readers.is_empty());
            readers += entry.readers.len();
            bytes += entry.readers.allocated_bytes();
            let most = self.dropped_of_any;
            assert_eq!(most.and(entry.dropped.get()), most, "what was dropped of {pattern}");
            assert!(entry.looked_up_to.get() <= self.notes.end(), "what {pattern} has looked at");
        }
        assert!(self.dropped_of_any.newest <= newest, "a frame is dropped that never was");
        assert_eq!(
            (self.read, self.readers, self.reader_bytes),
            (read, readers, bytes),
            "patterns that are read"
        );
        let (mut remembered, mut before, mut next, mut bytes) = (0, None, self.oldest, 0);
        while let Some(key) = next {
            let entry = self.table.get(key).expect("a remembered pattern");
            assert!(entry.readers.is_empty() && entry.older == before, "the order of remembered patterns");
            (remembered, before, next) = (remembered + 1, next, entry.newer);
            bytes += self.bytes_of(key);
        }
        assert_eq!(self.remembered_bytes, bytes, "bytes of remembered patterns");
        assert_eq!((self.newest, remembered), (before, self.table.len() - read), "remembered patterns");
        assert!(self.table.len() <= self.most.max(read), "no more patterns than there may be");
    }
}
