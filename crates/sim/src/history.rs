//! The naive model of the hub: a list of all events that were released.

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
    /// When it got its number.
    pub(crate) published_at: Duration,
    /// What its frame counts for, where bytes are bounded.
    pub(crate) size: usize,
}

/// All events that were released, in order. Their numbers rise and have holes.
pub(crate) struct History {
    pub(crate) epoch: Epoch,
    pub(crate) events: Vec<Entry>,
}

/// What a subscriber is entitled to.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    pub(crate) topics: Vec<Topic>,
    pub(crate) sight: Sight,
}

/// Of which topics a subscriber sees private events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    None,
    /// Of all, also of those that a change adds.
    All,
    /// Of these, as long as it has them.
    Of(Vec<Topic>),
}

impl Entry {
    pub(crate) fn wire_id(&self, epoch: Epoch) -> String {
        self.own_id.clone().unwrap_or_else(|| Cursor { epoch, seq: self.seq }.to_string())
    }
}

impl Interest {
    /// Whether it sees private events of this topic.
    pub(crate) fn sees_private(&self, topic: &Topic) -> bool {
        match &self.sight {
            Sight::None => false,
            Sight::All => true,
            Sight::Of(topics) => topics.contains(topic),
        }
    }

    /// Whether it sees private events of some of its topics and not of others.
    pub(crate) fn is_mixed(&self) -> bool {
        let private = self.topics.iter().filter(|topic| self.sees_private(topic)).count();
        private > 0 && private < self.topics.len()
    }

    /// It loses the topics that are not among these.
    pub(crate) fn keep(&mut self, topics: &[Topic]) {
        self.topics.retain(|topic| topics.contains(topic));
        if let Sight::Of(private) = &mut self.sight {
            private.retain(|topic| self.topics.contains(topic));
        }
    }

    /// It has these topics from now on.
    pub(crate) fn change(&mut self, topics: &[Topic]) {
        self.keep(topics);
        self.topics = topics.to_vec();
    }

    pub(crate) fn reads(&self, entry: &Entry) -> bool {
        entry.topics.iter().any(|topic| self.topics.contains(topic))
    }

    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        let is_seen = |topic: &Topic| !entry.private || self.sees_private(topic);
        entry.topics.iter().any(|topic| self.topics.contains(topic) && is_seen(topic))
    }
}

impl History {
    /// The newest number that was released; zero before the first event.
    pub(crate) fn newest(&self) -> u64 {
        self.events.last().map_or(0, |entry| entry.seq)
    }

    /// The events after `seq`.
    pub(crate) fn after(&self, seq: u64) -> &[Entry] {
        &self.events[self.events.partition_point(|entry| entry.seq <= seq)..]
    }

    /// The events after `seq`, up to and including `until`.
    pub(crate) fn between(&self, seq: u64, until: u64) -> &[Entry] {
        let after = self.after(seq);
        &after[..after.partition_point(|entry| entry.seq <= until)]
    }

    /// The event with this number.
    pub(crate) fn get(&self, seq: u64) -> Option<&Entry> {
        let at = self.events.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        self.events.get(at)
    }

    /// How many events bear this id of a publisher.
    pub(crate) fn bearers(&self, id: &str) -> usize {
        self.events.iter().filter(|entry| entry.own_id.as_deref() == Some(id)).count()
    }

    /// The first event after `seq` that this subscriber is to get.
    pub(crate) fn first_after(&self, seq: u64, interest: &Interest) -> Option<&Entry> {
        self.after(seq).iter().find(|entry| interest.wants(entry))
    }

    /// Whether there is an event after `seq`, up to and including `until`, that this subscriber is to get.
    pub(crate) fn misses(&self, seq: u64, until: u64, interest: &Interest) -> bool {
        self.between(seq, until).iter().any(|entry| interest.wants(entry))
    }
}
