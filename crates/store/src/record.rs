//! An event with its number and its time.

use fanfare_proto::event::{Event, EventId, Topic};

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position in the order of all events. Never zero.
    pub number: u64,
    /// When the event was published, in milliseconds since 1970 (UTC), by the publisher's node. Its clock may
    /// be set back, so the times need not rise with the numbers.
    pub published_ms: u64,
    /// What was published.
    pub event: Event,
}

impl Record {
    /// Whether the event bears this own id and was published to exactly these topics, in whatever order: then
    /// it is the event that a publisher means with both.
    pub fn has_identity(&self, id: &EventId, topics: &[Topic]) -> bool {
        let own = self.event.topics();
        self.event.id() == Some(id)
            && own.len() == topics.len()
            && (own == topics || own.iter().all(|topic| topics.contains(topic)))
    }
}
