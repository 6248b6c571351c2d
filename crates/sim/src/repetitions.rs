//! Publishers that publish an event again, with the same own id: what the hub must say, from the naive model.
//!
//! An event is the same as a retained one, or as one that has its number and is not visible yet, where id and
//! topics are the same. Then it is not published again. Where its content differs, the publish is refused.

use fanfare::{Event, EventId, EventType, Published, Topic};

use crate::history::Entry;
use crate::shared::Shared;
use crate::stored::StoredBefore;
use crate::tally::Occurrence;

/// What the hub may say of one event. Where numbers were given from outside, several events may bear one id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    /// The numbers of retained events with its id and topics, and whether they say the same.
    retained: Vec<(u64, bool)>,
    /// Where there is none: those that are not visible yet.
    unreleased: Vec<bool>,
    /// Where there is none either: the first one in the batch, and whether it says the same.
    in_batch: Option<(usize, bool)>,
    /// Where there is none either: the one that the disk has, and whether it says the same.
    stored: Option<(u64, bool)>,
    /// Such an event was published, and is no longer retained.
    was_evicted: bool,
}

/// Which of the events with numbers of a publish the disk has already.
pub(crate) fn stored_of(before: &[Before], entries: &[Entry]) -> Vec<StoredBefore> {
    let new = before.iter().enumerate().filter(|(_, before)| !before.is_repeated());
    let of = |((index, before), entry): ((usize, &Before), &Entry)| {
        let (first, is_same) = before.stored?;
        Some(StoredBefore { given: entry.seq, index, first, is_same })
    };
    new.zip(entries).filter_map(of).collect()
}

/// What the publisher of a batch must be told.
pub(crate) struct Told {
    count: usize,
    first: String,
    last: String,
    /// For each event that was published before: its position, and the numbers that the first one may have.
    duplicates: Vec<(usize, Vec<u64>)>,
}

impl Before {
    /// Whether the event was published before.
    fn is_repeated(&self) -> bool {
        !self.retained.is_empty() || !self.unreleased.is_empty() || self.in_batch.is_some()
    }

    fn contents(&self) -> impl Iterator<Item = bool> {
        let retained = self.retained.iter().map(|(_, is_same)| *is_same);
        retained.chain(self.unreleased.iter().copied()).chain(self.in_batch.map(|(_, is_same)| is_same))
    }

    pub(crate) fn may_conflict(&self) -> bool {
        self.contents().any(|is_same| !is_same)
    }

    pub(crate) fn must_conflict(&self) -> bool {
        self.is_repeated() && !self.contents().any(|is_same| is_same)
    }

    pub(crate) fn is_unreleased(&self) -> bool {
        !self.unreleased.is_empty()
    }
}

impl Told {
    /// What is told of the first `count` entries. Leaves the entries that were published now.
    pub(crate) fn of(shared: &Shared, count: usize, before: &[Before], entries: &mut Vec<Entry>) -> Told {
        entries.truncate(count);
        let epoch = shared.history.borrow().epoch;
        let (first, last) = (entries[0].wire_id(epoch), entries[count - 1].wire_id(epoch));
        let mut duplicates = Vec::new();
        let all = before;
        let first_of = |before: &Before, entry: &Entry| before.stored.map_or(entry.seq, |(first, _)| first);
        for (index, before) in before.iter().take(count).enumerate() {
            assert!(!before.must_conflict(), "one id for two events");
            assert!(!before.is_unreleased(), "an event is told to be a duplicate of one that may be dropped");
            let retained = before.retained.iter().filter(|(_, is_same)| *is_same).map(|(seq, _)| *seq);
            let in_batch = before.in_batch.map(|(first, _)| first_of(&all[first], &entries[first]));
            if before.is_repeated() {
                duplicates.push((index, retained.chain(in_batch).collect()));
                let is_in_batch = before.in_batch.is_some();
                shared.happened(if is_in_batch { Occurrence::RepeatedInBatch } else { Occurrence::Repeated });
            } else if before.stored.is_some() {
                shared.happened(Occurrence::RepeatedStored);
            } else if before.was_evicted {
                shared.happened(Occurrence::IdFreeAgain);
            }
        }
        let mut repeated = before.iter().map(Before::is_repeated);
        entries.retain(|_| !repeated.next().unwrap_or_default());
        Told { count, first, last, duplicates }
    }

    /// The disk has one of the events.
    pub(crate) fn add_stored(&mut self, before: &StoredBefore) {
        self.duplicates.push((before.index, vec![before.first]));
        self.duplicates.sort_unstable();
    }

    /// The publisher is told that.
    pub(crate) fn check(&self, published: &Published) {
        assert_eq!(published.count, self.count, "what was published is taken");
        assert_eq!((&published.first, &published.last), (&self.first, &self.last), "the ids of a batch");
        let indexes = published.duplicates.iter().map(|duplicate| duplicate.index);
        assert!(indexes.eq(self.duplicates.iter().map(|(index, _)| *index)), "which events were repeated");
        for (duplicate, (_, numbers)) in published.duplicates.iter().zip(&self.duplicates) {
            assert!(numbers.contains(&duplicate.first.seq), "{duplicate:?} is none of {numbers:?}");
        }
    }
}

impl Shared {
    /// What the hub may say of these events, which get the next numbers: the entries get them here, also in
    /// their data, which begin with the number. An event whose first one is no longer retained is another
    /// event then.
    pub(crate) fn repetitions(&self, entries: &mut [Entry]) -> Vec<Before> {
        let mut all: Vec<Before> = Vec::new();
        let mut seq = self.last_number.get();
        for index in 0..entries.len() {
            let before = self.repetition(&entries[index], &entries[..index], &all);
            if before.stored.is_some() && !before.is_repeated() {
                seq += 1;
                entries[index].seq = seq;
            } else if !before.is_repeated() {
                seq += 1;
                let given = entries[index].data.clone();
                entries[index].renumber(seq);
                let renumbered = entries[index].data.clone();
                // Its copies in the batch stay copies.
                let copies = entries[index + 1..].iter_mut().filter(|entry| entry.data == given);
                copies.for_each(|entry| entry.data.clone_from(&renumbered));
            }
            all.push(before);
        }
        all
    }

    fn repetition(&self, entry: &Entry, batch: &[Entry], before: &[Before]) -> Before {
        let mut found = Before::default();
        if entry.own_id.is_none() {
            return found;
        }
        let (history, log) = (self.history.borrow(), self.log.borrow());
        for other in history.events.iter().filter(|other| other.is_same_event(entry)) {
            if log.retains(other) {
                found.retained.push((other.seq, other.says_the_same(entry)));
            } else {
                found.was_evicted = true;
            }
        }
        if found.retained.is_empty() {
            let unreleased = self.unreleased.borrow();
            let entries = unreleased.iter().flat_map(|batch| &batch.entries);
            let pending = self.pending_entries();
            let same = entries.chain(&pending).filter(|other| other.is_same_event(entry));
            found.unreleased = same.map(|other| other.says_the_same(entry)).collect();
        }
        if found.retained.is_empty() && found.unreleased.is_empty() {
            let first = batch.iter().zip(before).position(|(other, before)| {
                let is_new = before.retained.is_empty() && before.unreleased.is_empty();
                is_new && other.is_same_event(entry)
            });
            found.in_batch = first.map(|first| (first, batch[first].says_the_same(entry)));
        }
        if !found.is_repeated()
            && let Some(record) = self.disk().and_then(|disk| disk.first(entry))
        {
            let (event, first) = (event_of(entry), record.event);
            let is_same = (event.is_private(), event.event_type(), event.data())
                == (first.is_private(), first.event_type(), first.data());
            found.stored = Some((record.number, is_same));
        }
        found
    }

    /// An event like this one, or nearly: its publisher has not had the answer, or uses its id again.
    pub(crate) fn repeat(&self, entry: &Entry) -> Entry {
        let mut entry = Entry { published_at: self.now.get(), ..entry.clone() };
        match self.below(12) {
            0 => entry.data.push('!'),
            1 => entry.private = !entry.private,
            2 => entry.kind = entry.kind.is_none().then_some("paid"),
            3 | 4 => entry.topics.reverse(),
            5 => entry.topics.truncate(1),
            6 => entry.topics.push(self.topic()),
            _ => {}
        }
        let mut topics: Vec<Topic> = Vec::new();
        for topic in std::mem::take(&mut entry.topics) {
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        entry.topics = topics;
        entry
    }

    /// Some event with an own id: a recent one, one that is not visible yet, or one of this batch.
    pub(crate) fn some_repeatable(&self, batch: &[Entry]) -> Option<Entry> {
        let history = self.history.borrow();
        let unreleased = self.unreleased.borrow();
        let with_id = |entry: &&Entry| entry.own_id.is_some();
        let newest_first = history.events.iter().rev().filter(with_id).take(20);
        let mut entries: Vec<&Entry> = unreleased.iter().flat_map(|batch| &batch.entries).collect();
        entries.extend(batch);
        entries.retain(with_id);
        if entries.is_empty() || self.one_in(2) {
            entries = newest_first.collect();
        }
        (!entries.is_empty()).then(|| entries[self.below(entries.len())].clone())
    }
}

/// The event of an entry.
pub(crate) fn event_of(entry: &Entry) -> Event {
    let event = Event::new(entry.topics[0].clone()).with_private(entry.private);
    let mut event = event.with_data(entry.data.clone());
    for topic in &entry.topics[1..] {
        event = event.with_topic(topic.clone()).expect("room for a few topics");
    }
    if let Some(id) = &entry.own_id {
        event = event.with_id(EventId::new(id).expect("an id"));
    }
    if let Some(kind) = entry.kind {
        event = event.with_type(EventType::new(kind).expect("a type"));
    }
    event
}
