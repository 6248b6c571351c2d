//! The publishers of a world. Some publish at once; some do it in two steps, as a durable store or a log
//! outside of the process does: events get numbers and room first, and are released later, in any order, or
//! never. They become visible in the order of their numbers.

use fanfare::sim::{self, Sequenced};
use fanfare::{Cursor, Event, PublishError, Topic};
use fanfare_proto::frame::Frame;

use crate::history::Entry;
use crate::log_model::Change;
use crate::repetitions::{Before, Told, event_of};
use crate::shared::Shared;
use crate::tally::Occurrence;
use crate::trace::trace;

/// A batch that has its numbers and is not visible.
pub(crate) struct Unreleased {
    /// `None`: it was released, and waits for an older one.
    batch: Option<Sequenced>,
    pub(crate) entries: Vec<Entry>,
    /// What its publisher is told.
    told: Told,
}

/// Batches that are not visible, at most.
const UNRELEASED: usize = 3;

impl Shared {
    /// Publishes one event, or a few at once. `when` says what is going on meanwhile.
    pub(crate) fn publish_some(&self, when: &str) {
        if self.store.borrow().is_some() {
            return self.publish_stored_some(when);
        }
        let waiting = self.unreleased.borrow().len();
        match self.below(8) {
            0 | 1 if waiting > 0 => self.release_some(when),
            2 if waiting > 0 => self.drop_some(),
            3..5 if self.setting.reservations && waiting < UNRELEASED && !self.is_over.get() => {
                self.sequence_some(when);
            }
            _ if waiting > 0 && !self.one_in(4) => self.release_some(when),
            _ => {
                // What comes at once is newer than what waits. It is refused where something does.
                if self.one_in(2) {
                    self.drop_all_unreleased();
                }
                let entries = self.some_events(None);
                self.publish(entries, when);
            }
        }
    }

    /// Publishes one event with this much data to one topic; false where that was refused.
    pub(crate) fn publish_to(&self, topic: &Topic, size: usize) -> bool {
        self.release_all("");
        let entries = self.one_event(topic, size);
        if self.store.borrow().is_some() {
            return self.publish_and_commit(entries);
        }
        self.publish(entries, "")
    }

    /// Gives one event of this topic a number, this one if one is given, and keeps it.
    #[cfg(test)]
    pub(crate) fn sequence_to(&self, topic: &Topic, number: Option<u64>) {
        let seq = number.unwrap_or(self.last_number.get() + 1);
        let mut entries = self.one_event(topic, 10);
        entries[0].seq = seq;
        self.sequence(entries, number.is_some(), "");
    }

    /// The oldest batch that has its numbers is not released.
    #[cfg(test)]
    pub(crate) fn drop_first(&self) {
        self.drop_at(0);
    }

    fn one_event(&self, topic: &Topic, size: usize) -> Vec<Entry> {
        let seq = self.last_number.get() + 1;
        let data = format!("{seq} {}", "x".repeat(size));
        let entry = Entry {
            seq,
            topics: vec![topic.clone()],
            private: false,
            own_id: None,
            kind: None,
            data,
            published_at: self.now.get(),
            size: 0,
        };
        vec![entry]
    }

    /// Publishes at once. False where that was refused.
    fn publish(&self, mut entries: Vec<Entry>, when: &str) -> bool {
        self.observe_log();
        let before = self.repetitions(&mut entries);
        let mut events: Vec<Event> = entries.iter().map(event_of).collect();
        self.measure(&events, &mut entries);
        let is_larger = self.is_larger_than_a_mailbox(&events, &entries);
        let bad = entries.iter().any(|entry| self.is_bad(entry));
        assert_eq!(self.hub().check(&events).is_err(), bad, "the hub's own check");
        let count = events.len();
        let result = self.hub().publish_batch(&mut events);
        match result {
            Ok(published) => {
                assert!(self.unreleased.borrow().is_empty(), "published before what is older is visible");
                let taken = count - events.len();
                self.check_taken(taken, count, is_larger, &entries);
                let told = Told::of(self, taken, &before, &mut entries);
                told.check(&published);
                let first = entries.first().map_or(0, |entry| entry.seq);
                trace!(self, "publish {} of {count} events from {first}{when}", entries.len());
                self.released(vec![entries]);
                true
            }
            Err(error) => {
                assert_eq!(events.len(), count, "what was refused is left");
                self.refused(&error, &entries, &before, is_larger);
                false
            }
        }
    }

    /// Gives some events numbers, and keeps them.
    fn sequence_some(&self, when: &str) {
        let is_given = self.one_in(2);
        let hole = if is_given { self.pick(&[0, 0, 1, 5, 1000]) } else { 0 };
        let entries = self.some_events(is_given.then_some(hole));
        self.sequence(entries, is_given, when);
    }

    fn sequence(&self, mut entries: Vec<Entry>, is_given: bool, when: &str) {
        self.observe_log();
        let before = if is_given {
            // What has numbers from outside is taken as it is.
            entries.iter_mut().for_each(|entry| entry.renumber(entry.seq));
            vec![Before::default(); entries.len()]
        } else {
            self.repetitions(&mut entries)
        };
        let mut events: Vec<Event> = entries.iter().map(event_of).collect();
        self.measure(&events, &mut entries);
        let is_larger = self.is_larger_than_a_mailbox(&events, &entries);
        let numbers: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
        let count = events.len();
        match sim::sequence(&self.hub(), &mut events, is_given.then_some(&numbers)) {
            Ok(batch) => {
                let taken = count - events.len();
                self.check_taken(taken, count, is_larger, &entries);
                let told = Told::of(self, taken, &before, &mut entries);
                let Some(last) = entries.last().map(|last| last.seq) else {
                    let (published, is_visible) = sim::release(&self.hub(), batch);
                    assert!(is_visible, "all of its events are visible");
                    told.check(&published);
                    return;
                };
                self.last_number.set(last);
                trace!(self, "sequence {} to {last}{when}", entries[0].seq);
                self.happened(Occurrence::Sequenced);
                self.unreleased.borrow_mut().push_back(Unreleased { batch: Some(batch), entries, told });
            }
            Err(error) => {
                assert_eq!(events.len(), count, "what was refused is left");
                self.refused(&error, &entries, &before, is_larger);
            }
        }
    }

    /// Releases all batches that are not released, in any order.
    pub(crate) fn release_all(&self, when: &str) {
        self.commit_all(when);
        while !self.unreleased.borrow().is_empty() {
            self.release_some(when);
        }
    }

    /// Releases a batch that has its numbers, if there is one. It becomes visible when no older one is
    /// unreleased.
    pub(crate) fn release_some(&self, when: &str) {
        if let Some(index) = self.some_unreleased() {
            self.release_at(index, when);
        }
    }

    pub(crate) fn release_at(&self, index: usize, when: &str) {
        self.observe_log();
        let batch = {
            let unreleased = &mut self.unreleased.borrow_mut()[index];
            let batch = unreleased.batch.take().expect("it is not released");
            let (first, count) = (unreleased.entries[0].seq, unreleased.entries.len());
            trace!(self, "release {first} to {}{when}", unreleased.entries[count - 1].seq);
            batch
        };
        let (published, is_visible) = sim::release(&self.hub(), batch);
        self.unreleased.borrow()[index].told.check(&published);
        assert_eq!(is_visible, index == 0, "a batch is visible when none is before it");
        self.happened(if is_visible { Occurrence::Released } else { Occurrence::ReleasedEarly });
        self.show_released();
    }

    /// The drain has begun: what was released before is visible, and of the rest nothing ever is.
    pub(crate) fn release_too_late(&self) {
        let batches = self.unreleased.take();
        let (late, visible): (Vec<_>, Vec<_>) = batches.into_iter().partition(|one| one.batch.is_some());
        self.released(visible.into_iter().map(|one| one.entries).collect());
        for Unreleased { batch, entries, .. } in late {
            trace!(self, "release {} to {} too late", entries[0].seq, entries[entries.len() - 1].seq);
            let is_visible = batch.is_some_and(|batch| sim::release(&self.hub(), batch).1);
            assert!(!is_visible, "a batch is visible although the engine drains");
            self.happened(Occurrence::NeverReleased);
        }
    }

    /// One of the batches that are not released, by its place among those that are not visible.
    fn some_unreleased(&self) -> Option<usize> {
        let unreleased: Vec<usize> = {
            let batches = self.unreleased.borrow();
            (0..batches.len()).filter(|index| batches[*index].batch.is_some()).collect()
        };
        (!unreleased.is_empty()).then(|| unreleased[self.below(unreleased.len())])
    }

    /// A batch is not released: its numbers are holes.
    fn drop_some(&self) {
        if let Some(index) = self.some_unreleased() {
            self.drop_at(index);
        }
    }

    fn drop_at(&self, index: usize) {
        self.observe_log();
        let dropped = self.unreleased.borrow_mut().remove(index);
        if let Some(Unreleased { entries, batch, .. }) = dropped {
            trace!(self, "never release {} to {}", entries[0].seq, entries[entries.len() - 1].seq);
            drop(batch);
            self.happened(Occurrence::NeverReleased);
            self.show_released();
        }
    }

    /// What was released and has nothing unreleased before it is visible now.
    fn show_released(&self) {
        let mut visible = Vec::new();
        while self.unreleased.borrow().front().is_some_and(|first| first.batch.is_none()) {
            visible.extend(self.unreleased.borrow_mut().pop_front().map(|first| first.entries));
        }
        self.released(visible);
    }

    pub(crate) fn drop_all_unreleased(&self) {
        while !self.unreleased.borrow().is_empty() {
            self.drop_some();
        }
    }

    /// So many of the events may be taken.
    pub(crate) fn check_taken(&self, taken: usize, count: usize, is_larger: bool, entries: &[Entry]) {
        assert!(taken == count || (is_larger && taken > 0), "half a batch");
        let bad = entries[..taken].iter().any(|entry| self.is_bad(entry));
        assert!(!bad && !self.is_over.get(), "published what should be refused");
    }

    /// The events of these batches are visible now.
    pub(crate) fn released(&self, batches: Vec<Vec<Entry>>) {
        for entries in batches {
            self.tally.borrow_mut().add(Occurrence::Published, entries.len() as u64);
            if entries.len() > 1 {
                self.happened(Occurrence::Batch);
            }
            for entry in &entries {
                let newest = self.history.borrow().newest();
                assert!(entry.seq > newest, "the number {} is given where {newest} was visible", entry.seq);
                // Read before the release.
                for shard in self.log.borrow().shards_reading(&entry.topics) {
                    self.mailed.borrow_mut()[shard] += 1;
                }
                self.log.borrow_mut().append(entry, self.now.get());
                self.last_number.set(self.last_number.get().max(entry.seq));
            }
            self.history.borrow_mut().events.extend(entries);
        }
        self.log.borrow_mut().observe(&self.hub(), Change::Release, self.now.get());
    }

    /// Nothing was published: for a reason?
    pub(crate) fn refused(
        &self,
        error: &PublishError,
        entries: &[Entry],
        before: &[Before],
        is_larger: bool,
    ) {
        let bad = entries.iter().any(|entry| self.is_bad(entry));
        let occurrence = match error {
            PublishError::Busy => {
                assert!(is_larger || !bad, "what is wrong with an event is not said");
                let topics = entries.iter().flat_map(|entry| entry.topics.iter().cloned());
                let topics: Vec<Topic> = topics.collect();
                let is_read = !self.log.borrow().shards_reading(&topics).is_empty();
                let waits = !self.unreleased.borrow().is_empty() || !self.pending_entries().is_empty();
                assert!(is_read || waits, "busy, though no shard is to get the event");
                let is_repeated = before.iter().any(Before::is_unreleased);
                if is_repeated { Occurrence::RepeatedUnreleased } else { Occurrence::Busy }
            }
            PublishError::IdConflict { index } => {
                assert!(before[*index].may_conflict(), "event {index} has an id of its own");
                let earlier = before[..*index].iter().any(Before::must_conflict);
                assert!(!earlier, "an earlier event has an id of another");
                Occurrence::IdConflict
            }
            PublishError::TooLarge { index, .. } => {
                assert!(self.is_too_large(&entries[*index]), "an event of the right size is too large");
                Occurrence::TooLarge
            }
            PublishError::ReservedId { index } => {
                assert!(self.is_reserved(&entries[*index]), "an id is reserved");
                Occurrence::ReservedId
            }
            PublishError::Empty => panic!("there were {} events", entries.len()),
            PublishError::WouldBlock | PublishError::Unreleased => {
                panic!("no publisher of a world asks to wait")
            }
            PublishError::Stopped => {
                assert!(self.is_over.get(), "refused though nothing has ended");
                Occurrence::Stopped
            }
            other => unreachable!("no publish is refused because of {other:?}"),
        };
        trace!(self, "publish {} events: {}", entries.len(), occurrence.words());
        self.happened(occurrence);
    }

    fn is_too_large(&self, entry: &Entry) -> bool {
        entry.data.len() > self.setting.limits.event_bytes
    }

    fn is_reserved(&self, entry: &Entry) -> bool {
        entry.own_id.as_deref().and_then(Cursor::parse).is_some()
    }

    pub(crate) fn is_bad(&self, entry: &Entry) -> bool {
        self.is_too_large(entry) || self.is_reserved(entry)
    }

    /// Whether a batch may be taken in parts: only one that is larger than an empty mailbox, or than all of
    /// them, or that has more topics than a batch may.
    pub(crate) fn is_larger_than_a_mailbox(&self, events: &[Event], entries: &[Entry]) -> bool {
        let limits = &self.setting.limits;
        let sizes = || events.iter().map(Frame::size_at_most);
        let log = self.log.borrow();
        let readers = entries.iter().map(|entry| log.shards_reading(&entry.topics).len());
        let in_all: usize = sizes().zip(readers).map(|(size, shards)| size * shards).sum();
        let is_large = sizes().sum::<usize>() > limits.mailbox_bytes || in_all > limits.mailbox_total_bytes;
        let topics: usize = events.iter().map(|event| event.topics().len()).sum();
        let is_large = is_large || topics > limits.batch_topics;
        events.len() > 1 && (events.len() > limits.mailbox_events || is_large)
    }

    pub(crate) fn measure(&self, events: &[Event], entries: &mut [Entry]) {
        let epoch = self.history.borrow().epoch;
        for (event, entry) in events.iter().zip(entries) {
            let id = entry.wire_id(epoch);
            entry.size = Frame::encode(entry.seq, &id, event.clone(), entry.published_at).size();
        }
    }

    /// One event, or a few. `hole`: numbers are left out before each of them, at most so many.
    pub(crate) fn some_events(&self, hole: Option<u64>) -> Vec<Entry> {
        let count = self.pick(&[1, 1, 1, 2, 5]);
        let mut seq = self.last_number.get();
        let mut entries = Vec::new();
        for _ in 0..count {
            seq += 1 + hole.map_or(0, |hole| if self.one_in(2) { hole } else { 0 });
            // A small log drops events for room while it appends, and the model learns that afterwards. Where
            // an id is borne again, it could not tell whether that came before or behind the end of the first
            // event.
            let may_repeat = self.setting.limits.log.total_bytes > 1 << 20 && self.one_in(8);
            let repeatable = if may_repeat { self.some_repeatable(&entries) } else { None };
            entries.push(match repeatable {
                Some(repeatable) => Entry { seq, ..self.repeat(&repeatable) },
                None => self.some_event(seq),
            });
        }
        entries
    }

    fn some_event(&self, seq: u64) -> Entry {
        let mut topics = vec![self.topic()];
        if self.one_in(4) {
            topics.push(self.topic());
            topics.dedup();
        }
        let private = self.one_in(5);
        let own_id = match self.below(40) {
            32..39 => Some(format!("own-{}", if self.setting.ids_repeat { seq % 5 } else { seq })),
            39 if self.hostile.get() && self.one_in(4) => {
                let epoch = self.history.borrow().epoch;
                Some(Cursor { epoch, seq: self.below(100) as u64 }.to_string())
            }
            _ => None,
        };
        let kind = self.one_in(8).then_some("paid");
        let size = self.pick(&[0, 10, 10, 100, 100, 500, 3_000, 35_000]);
        let line_end = if self.one_in(8) { "\n" } else { " " };
        let data = format!("{seq} {}{line_end}end", "x".repeat(size));
        let published_at = self.now.get();
        Entry { seq, topics, private, own_id, kind, data, published_at, size: 0 }
    }
}
