//! The naive model of the hub: a list of all events.

use std::time::Duration;

use fanfare::{Cursor, Epoch, Topic};

/// One event as its publisher gave it.
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) topics: Vec<Topic>,
    pub(crate) private: bool,
    pub(crate) own_id: Option<String>,
    pub(crate) kind: Option<&'static str>,
    pub(crate) data: String,
    pub(crate) published_at: Duration,
    /// What its frame counts for, where bytes are bounded.
    pub(crate) size: usize,
}

/// All events ever published, in order.
pub(crate) struct History {
    pub(crate) epoch: Epoch,
    pub(crate) events: Vec<Entry>,
}

/// What a subscriber is entitled to.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    pub(crate) topics: Vec<Topic>,
    pub(crate) sees_private: bool,
}

impl Entry {
    pub(crate) fn wire_id(&self, epoch: Epoch) -> String {
        self.own_id.clone().unwrap_or_else(|| Cursor { epoch, seq: self.seq }.to_string())
    }
}

impl Interest {
    pub(crate) fn reads(&self, entry: &Entry) -> bool {
        entry.topics.iter().any(|topic| self.topics.contains(topic))
    }

    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        self.reads(entry) && (self.sees_private || !entry.private)
    }
}

impl History {
    pub(crate) fn newest(&self) -> u64 {
        self.events.len() as u64
    }

    /// The first event after `seq` that is for them.
    pub(crate) fn first_after(&self, seq: u64, interest: &Interest) -> Option<&Entry> {
        self.events.get(seq as usize..)?.iter().find(|entry| interest.wants(entry))
    }

    /// Whether they miss an event after `seq`, up to and including `until`.
    pub(crate) fn misses(&self, seq: u64, until: u64, interest: &Interest) -> bool {
        self.first_after(seq, interest).is_some_and(|entry| entry.seq <= until)
    }

    /// How many events after `seq`, up to and including `until`, are for them, and the bytes of these.
    pub(crate) fn measure(&self, seq: u64, until: u64, interest: &Interest) -> (usize, usize) {
        let wanted = self.between(seq, until).iter().filter(|entry| interest.wants(entry));
        wanted.fold((0, 0), |(frames, bytes), entry| (frames + 1, bytes + entry.size))
    }

    /// The events after `seq`, up to and including `until`.
    pub(crate) fn between(&self, seq: u64, until: u64) -> &[Entry] {
        self.events.get(seq as usize..until as usize).unwrap_or_default()
    }

    /// The events that bear this id.
    pub(crate) fn bearers<'history>(
        &'history self,
        id: &'history str,
    ) -> impl Iterator<Item = u64> + 'history {
        let bears = move |entry: &&Entry| entry.own_id.as_deref() == Some(id);
        self.events.iter().filter(bears).map(|entry| entry.seq)
    }
}
