//! The naive model of the hub: a list of all events that were released.

use std::time::Duration;

use fanfare::{Cursor, Epoch, Pattern, Topic};

/// One event as its publisher gave it.
#[derive(Clone)]
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
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) sight: Sight,
}

/// Through which selectors a subscriber sees private events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    None,
    /// Of all, and of the topics that a later change adds.
    All,
    /// Through these, as long as it has them.
    Of(Vec<Topic>, Vec<Pattern>),
}

impl Entry {
    pub(crate) fn wire_id(&self, epoch: Epoch) -> String {
        self.own_id.clone().unwrap_or_else(|| Cursor { epoch, seq: self.seq }.to_string())
    }

    /// The event gets this number. Its data begin with it.
    pub(crate) fn renumber(&mut self, seq: u64) {
        let rest = self.data.split_once(' ').map_or("", |(_, rest)| rest);
        (self.seq, self.data) = (seq, format!("{seq} {rest}"));
    }

    /// Whether both have the same own id and the same topics, in whatever order.
    pub(crate) fn is_same_event(&self, other: &Entry) -> bool {
        let has_topics = |one: &Entry, other: &Entry| other.topics.iter().all(|it| one.topics.contains(it));
        self.own_id.is_some()
            && self.own_id == other.own_id
            && has_topics(self, other)
            && has_topics(other, self)
    }

    /// Whether both have the same content.
    pub(crate) fn says_the_same(&self, other: &Entry) -> bool {
        (self.private, self.kind, &self.data) == (other.private, other.kind, &other.data)
    }
}

impl Interest {
    /// Whether it sees private events of this topic.
    pub(crate) fn sees_private(&self, topic: &Topic) -> bool {
        match &self.sight {
            Sight::None => false,
            Sight::All => true,
            Sight::Of(topics, _) => topics.contains(topic),
        }
    }

    /// Whether it sees private events through this pattern.
    pub(crate) fn sees_private_through(&self, pattern: &Pattern) -> bool {
        match &self.sight {
            Sight::None => false,
            Sight::All => true,
            Sight::Of(_, patterns) => patterns.contains(pattern),
        }
    }

    /// Whether an event of this topic is for it.
    pub(crate) fn selects(&self, topic: &Topic, is_private: bool) -> bool {
        let through = |pattern: &Pattern| {
            pattern.matches(topic.as_str()) && (!is_private || self.sees_private_through(pattern))
        };
        let by_name = self.topics.contains(topic) && (!is_private || self.sees_private(topic));
        by_name || self.patterns.iter().any(through)
    }

    /// How many topics and patterns it has.
    pub(crate) fn selectors(&self) -> usize {
        self.topics.len() + self.patterns.len()
    }

    /// Whether it sees private events of some of its topics and not of others.
    pub(crate) fn is_mixed(&self) -> bool {
        let topics = self.topics.iter().filter(|topic| self.sees_private(topic)).count();
        let patterns = self.patterns.iter().filter(|pattern| self.sees_private_through(pattern)).count();
        topics + patterns > 0 && topics + patterns < self.selectors()
    }

    /// It loses the topics and patterns that are not among these.
    pub(crate) fn keep(&mut self, topics: &[Topic], patterns: &[Pattern]) {
        self.topics.retain(|topic| topics.contains(topic));
        self.patterns.retain(|pattern| patterns.contains(pattern));
        if let Sight::Of(private_topics, private_patterns) = &mut self.sight {
            private_topics.retain(|topic| self.topics.contains(topic));
            private_patterns.retain(|pattern| self.patterns.contains(pattern));
        }
    }

    /// It has these topics and patterns from now on.
    pub(crate) fn change(&mut self, topics: &[Topic], patterns: &[Pattern]) {
        self.keep(topics, patterns);
        (self.topics, self.patterns) = (topics.to_vec(), patterns.to_vec());
    }

    pub(crate) fn reads(&self, entry: &Entry) -> bool {
        entry.topics.iter().any(|topic| self.selects(topic, false))
    }

    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        entry.topics.iter().any(|topic| self.selects(topic, entry.private))
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

    /// The events that bear this id of a publisher, among those that this subscriber is to get.
    pub(crate) fn bearers_for<'a>(
        &'a self,
        id: &'a str,
        interest: &'a Interest,
    ) -> impl Iterator<Item = &'a Entry> {
        let bears = move |entry: &&Entry| entry.own_id.as_deref() == Some(id) && interest.wants(entry);
        self.events.iter().filter(bears)
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
