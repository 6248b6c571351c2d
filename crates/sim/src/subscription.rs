//! What a stream is to get while its topics change.
//!
//! A change has a number: the newest one that was released when the shard carried it out. Of topics that
//! stay, the stream gets every event; of those that come, the events after that number; of those that go,
//! none that it was not sent before, except the one in whose middle its socket was. So which topics count
//! depends on an event's number.

use std::collections::VecDeque;

use fanfare::{Pattern, Topic};

use crate::history::{Entry, History, Interest};
use crate::log_model::LogModel;

/// What one stream is to get.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// What it reads after the last change.
    current: Stage,
    /// What it reads up to the number of each change before, the oldest first.
    stages: VecDeque<(u64, Stage)>,
    /// An event that its socket took a part of before a change: the rest comes.
    begun: Option<u64>,
}

#[derive(Clone, Debug)]
struct Stage {
    interest: Interest,
    /// Every event after this was in the log when it was last noted.
    available_after: u64,
}

/// Changes that a stream may have to catch up with; it forgets older ones.
const STAGES: usize = 8;

impl Subscription {
    pub(crate) fn new(interest: Interest) -> Subscription {
        let current = Stage { interest, available_after: 0 };
        Subscription { current, stages: VecDeque::new(), begun: None }
    }

    /// What it reads after the last change.
    pub(crate) fn interest(&self) -> &Interest {
        &self.current.interest
    }

    /// It has these topics and patterns from now on. `newest` is the newest number that was released, and
    /// `begun` the event in whose middle its socket is.
    pub(crate) fn change(&mut self, topics: &[Topic], patterns: &[Pattern], newest: u64, begun: Option<u64>) {
        let mut before = self.current.clone();
        before.interest.keep(topics, patterns);
        for (_, stage) in &mut self.stages {
            stage.interest.keep(topics, patterns);
        }
        self.current.interest.change(topics, patterns);
        // Of several changes at one number, the first one says what it keeps.
        if self.stages.back().is_none_or(|(until, _)| *until < newest) {
            self.stages.push_back((newest, before));
        }
        if self.stages.len() > STAGES {
            self.stages.pop_front();
        }
        self.begun = begun.or(self.begun);
    }

    /// It was given everything up to here.
    pub(crate) fn pass(&mut self, cursor: u64) {
        while self.stages.front().is_some_and(|(until, _)| *until <= cursor) {
            self.stages.pop_front();
        }
    }

    /// Changes whose number it has not passed.
    pub(crate) fn changes(&self) -> usize {
        self.stages.len()
    }

    fn at(&self, seq: u64) -> &Stage {
        self.stages.iter().find(|(until, _)| seq <= *until).map_or(&self.current, |(_, stage)| stage)
    }

    /// What it reads of the events with this number.
    pub(crate) fn interest_at(&self, seq: u64) -> &Interest {
        &self.at(seq).interest
    }

    /// Whether it is to get this event.
    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        self.begun == Some(entry.seq) || self.at(entry.seq).interest.wants(entry)
    }

    /// Notes what the log has now.
    pub(crate) fn note_available(&mut self, log: &LogModel) {
        for stage in self.stages.iter_mut().map(|(_, stage)| stage).chain([&mut self.current]) {
            stage.available_after = log.available_after(&stage.interest);
        }
    }

    /// Every event after this was in the log when that was last noted, of what it reads after the last
    /// change.
    pub(crate) fn available_after(&self) -> u64 {
        self.current.available_after
    }

    /// Whether the log may have dropped this event before that was last noted.
    pub(crate) fn may_be_dropped(&self, seq: u64) -> bool {
        seq <= self.at(seq).available_after
    }

    /// Whether there is an event after `seq`, up to and including `until`, that it is to get.
    pub(crate) fn misses(&self, history: &History, seq: u64, until: u64) -> bool {
        history.between(seq, until).iter().any(|entry| self.wants(entry))
    }

    /// The first event after `seq` that it is to get.
    pub(crate) fn first_after<'history>(
        &self,
        history: &'history History,
        seq: u64,
    ) -> Option<&'history Entry> {
        history.after(seq).iter().find(|entry| self.wants(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{pattern, topic};
    use crate::history::Sight;

    /// What stays is what stayed in each change since, and what comes begins behind the change.
    #[test]
    fn each_number_has_its_topics() {
        let topics = |names: &str| -> Vec<Topic> { names.split(' ').map(topic).collect() };
        let patterns = |texts: &str| -> Vec<Pattern> { texts.split(' ').map(pattern).collect() };
        let mut of = Subscription::new(Interest {
            topics: topics("a b c"),
            patterns: patterns("x/* y/*"),
            sight: Sight::Of(topics("b c"), patterns("y/*")),
        });
        of.change(&topics("a b d"), &patterns("y/* z/*"), 10, None);
        of.change(&topics("a c d"), &patterns("x/* y/*"), 20, None);
        for (seq, expected) in [(10, "a"), (11, "a d"), (20, "a d"), (21, "a c d")] {
            assert_eq!(of.interest_at(seq).topics, topics(expected), "{seq}");
            assert!(!of.interest_at(seq).sees_private(&topic("a")), "{seq}");
            assert!(of.interest_at(seq).selects(&topic("y/1"), true), "{seq}");
            // Added by the first change and taken away by the second one, as the topic b is.
            assert!(!of.interest_at(seq).selects(&topic("z/1"), false), "{seq}");
            assert_eq!(of.interest_at(seq).selects(&topic("x/1"), false), seq == 21, "{seq}");
        }
        // A topic that went and came again is a topic that is added.
        assert_eq!(of.interest_at(9).sight, Sight::Of(Vec::new(), patterns("y/*")));
        of.pass(15);
        assert_eq!(of.changes(), 1);
        of.pass(20);
        assert_eq!((of.changes(), &of.interest().topics), (0, &topics("a c d")));
    }
}
