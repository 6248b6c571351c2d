//! Which events a subscriber is to get.

use crate::event::Topic;
use crate::frame::Frame;
use crate::pattern::Pattern;

/// Some topics and patterns of topics, which are the subscriber's *selectors*, and through which of them it
/// sees private events.
///
/// ```text
///   topics:    "orders"  "users/7"  |  "news"  "weather"
///   patterns:  chat/*               |  /rooms/{id}
///              private and public   |  public events only
/// ```
///
/// An event is for the subscriber where a selector matches one of its topics, and a private event where a
/// selector does through which private events are seen. An event of two topics is private in both: that the
/// subscriber has one of them without private events takes nothing away.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s> {
    topics: &'s [Topic],
    /// Private events are seen of so many topics, the first ones.
    private_topics: usize,
    patterns: &'s [Pattern],
    /// The same for patterns.
    private_patterns: usize,
}

/// What it takes to read one frame from memory, in steps.
const STEPS_OF_A_FRAME: usize = 8;
/// Topics that are compared in one step.
const TOPICS_OF_A_STEP: usize = 4;

impl<'s> Selection<'s> {
    /// All events of these topics, or the public ones.
    pub fn of(topics: &'s [Topic], sees_private: bool) -> Selection<'s> {
        Selection::mixed(topics, if sees_private { topics.len() } else { 0 })
    }

    /// Public events of these topics, and private ones of the first `private` of them.
    pub fn mixed(topics: &'s [Topic], private: usize) -> Selection<'s> {
        debug_assert!(private <= topics.len(), "private events of topics that are not selected");
        Selection { topics, private_topics: private, patterns: &[], private_patterns: 0 }
    }

    /// The same with these patterns in addition, and with private events through the first `private` of them.
    #[must_use]
    pub fn with_patterns(self, patterns: &'s [Pattern], private: usize) -> Selection<'s> {
        debug_assert!(private <= patterns.len(), "private events of patterns that are not selected");
        Selection { patterns, private_patterns: private, ..self }
    }

    /// All topics. Those of which private events are seen come first.
    pub fn topics(&self) -> &'s [Topic] {
        self.topics
    }

    /// The topics of which private events are seen.
    pub fn private_topics(&self) -> &'s [Topic] {
        &self.topics[..self.private_topics]
    }

    /// All patterns. Those through which private events are seen come first.
    pub fn patterns(&self) -> &'s [Pattern] {
        self.patterns
    }

    /// The patterns through which private events are seen.
    pub fn private_patterns(&self) -> &'s [Pattern] {
        &self.patterns[..self.private_patterns]
    }

    /// Each topic, and whether private events of it are seen.
    pub fn each(&self) -> impl Iterator<Item = (&'s Topic, bool)> {
        let private = self.private_topics;
        self.topics.iter().enumerate().map(move |(index, topic)| (topic, index < private))
    }

    /// Each pattern, and whether private events are seen through it.
    pub fn each_pattern(&self) -> impl Iterator<Item = (&'s Pattern, bool)> {
        let private = self.private_patterns;
        self.patterns.iter().enumerate().map(move |(index, pattern)| (pattern, index < private))
    }

    /// Whether there is no selector.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.patterns.is_empty()
    }

    /// Whether an event of this topic is for the subscriber. Tries all selectors: for lists that are short,
    /// or not sorted.
    pub fn selects(&self, topic: &Topic, is_private: bool) -> bool {
        let (topics, patterns) = match is_private {
            true => (self.private_topics(), self.private_patterns()),
            false => (self.topics, self.patterns),
        };
        topics.contains(topic) || patterns.iter().any(|pattern| pattern.matches(topic.as_str()))
    }

    /// Whether the event is for the subscriber.
    pub fn wants(&self, frame: &Frame) -> bool {
        frame.topics().iter().any(|topic| self.selects(topic, frame.private()))
    }

    /// What it takes at most to find out whether the event is for the subscriber, in steps of about ten
    /// nanoseconds.
    pub fn steps(&self, frame: &Frame) -> usize {
        let of_topics = 1 + self.topics.len() / TOPICS_OF_A_STEP;
        let of_patterns = |topic: &Topic| {
            self.patterns.iter().map(|pattern| pattern.match_steps(topic.as_str())).sum::<usize>()
        };
        let of_topic = |topic: &Topic| of_topics + of_patterns(topic);
        STEPS_OF_A_FRAME + frame.topics().iter().map(of_topic).sum::<usize>()
    }
}
