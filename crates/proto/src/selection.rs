//! Which events a subscriber is to get.

use crate::event::Topic;
use crate::frame::Frame;

/// Some topics, and of which of them private events are seen.
///
/// ```text
///   topics:   "orders"  "users/7"  |  "news"  "weather"
///             private and public   |  public events only
/// ```
///
/// A private event is for the subscriber where one of its topics is among those with private events. An event of
/// two topics is private in both: that the subscriber has one of them without private events takes nothing away.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s> {
    topics: &'s [Topic],
    /// Private events are seen of so many of them, the first ones.
    private: usize,
}

impl<'s> Selection<'s> {
    /// All events of these topics, or the public ones.
    pub fn of(topics: &'s [Topic], sees_private: bool) -> Selection<'s> {
        Selection::mixed(topics, if sees_private { topics.len() } else { 0 })
    }

    /// Public events of these topics, and private ones of the first `private` of them.
    pub fn mixed(topics: &'s [Topic], private: usize) -> Selection<'s> {
        debug_assert!(private <= topics.len(), "private events of topics that are not selected");
        Selection { topics, private }
    }

    /// All topics. Those of which private events are seen come first.
    pub fn topics(&self) -> &'s [Topic] {
        self.topics
    }

    /// The topics of which private events are seen.
    pub fn private_topics(&self) -> &'s [Topic] {
        &self.topics[..self.private]
    }

    /// Each topic, and whether private events of it are seen.
    pub fn each(&self) -> impl Iterator<Item = (&'s Topic, bool)> {
        let private = self.private;
        self.topics.iter().enumerate().map(move |(index, topic)| (topic, index < private))
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether the event is for the subscriber. Goes through all topics: for lists that are short, or not sorted.
    pub fn wants(&self, frame: &Frame) -> bool {
        let selected = if frame.private() { self.private_topics() } else { self.topics };
        frame.topics().iter().any(|topic| selected.contains(topic))
    }
}
