//! Whether an event is one that was published before.

use std::hash::{BuildHasher, Hash, Hasher};

use smallvec::SmallVec;

use super::{DataLines, Frame};
use crate::event::{Event, EventId, Topic};

impl Frame {
    /// Whether the frame bears the own id of this event and was published to the same topics, in whatever
    /// order. False where the event has no own id.
    pub fn has_identity_of(&self, event: &Event) -> bool {
        event.id().map(EventId::as_str).is_some_and(|id| self.own_id() == Some(id))
            && have_same_topics(self.topics(), event.topics())
    }

    /// Whether a client gets the same from this frame as from a frame of the event, apart from the id: type,
    /// data, retry, and whether it is private.
    pub fn says_the_same(&self, event: &Event) -> bool {
        self.private() == event.is_private()
            && self.event_type() == event.event_type().map(|kind| kind.as_str())
            && self.retry_wait() == event.retry()
            && match (self.data_lines(), event.data()) {
                (Some(lines), Some(data)) => lines.eq(DataLines::of(data)),
                (None, None) => true,
                _ => false,
            }
    }
}

/// Whether two events have the same own id, the same topics in whatever order, and say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// They are not one event: ids or topics differ, or there is no own id.
    Different,
    /// They are one event.
    Same,
    /// One id was given to two events.
    Conflict,
}

impl Identity {
    /// Compares two events.
    pub fn of(one: &Event, other: &Event) -> Identity {
        if one.id().is_none() || one.id() != other.id() || !have_same_topics(one.topics(), other.topics()) {
            return Identity::Different;
        }
        let lines_are_same = match (one.data(), other.data()) {
            (Some(one), Some(other)) => DataLines::of(one).eq(DataLines::of(other)),
            (None, None) => true,
            _ => false,
        };
        let is_same = one.is_private() == other.is_private()
            && one.event_type() == other.event_type()
            && one.retry() == other.retry()
            && lines_are_same;
        if is_same { Identity::Same } else { Identity::Conflict }
    }
}

impl Event {
    /// Two hashes of an event with an own id: events with the same id and topics, in whatever order, have the
    /// same first hash, and where they say the same to clients, the same second one. `None`: it has no own
    /// id.
    pub fn fingerprint(&self, hashes: &impl BuildHasher) -> Option<(u64, u64)> {
        let topics = self.topics().iter().map(|topic| hashes.hash_one(topic));
        let identity = identity_key(hashes.hash_one(self.id()?), topics);
        let mut content = hashes.build_hasher();
        (self.event_type(), self.retry(), self.is_private()).hash(&mut content);
        for line in self.data().into_iter().flat_map(DataLines::of) {
            line.hash(&mut content);
        }
        Some((identity, content.finish()))
    }
}

/// One number for an own id and the topics that it belongs to, in whatever order, by their hashes.
pub(crate) fn identity_key(id: u64, topics: impl Iterator<Item = u64>) -> u64 {
    // A sum does not depend on the order.
    id.rotate_left(32) ^ topics.fold(0, u64::wrapping_add)
}

/// Whether these are the same topics, in whatever order. No topic is twice among those of an event.
fn have_same_topics(one: &[Topic], other: &[Topic]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    if one == other {
        return true;
    }
    let sorted = |topics: &[Topic]| -> SmallVec<[Topic; 4]> {
        let mut sorted = SmallVec::from(topics);
        sorted.sort_unstable();
        sorted
    };
    sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{EventType, Retry};

    fn event(topics: &[&str]) -> Event {
        let mut event = Event::new(Topic::new(topics[0]).unwrap());
        for topic in &topics[1..] {
            event = event.with_topic(Topic::new(topic).unwrap()).unwrap();
        }
        event.with_id(EventId::new("order-7").unwrap())
    }

    fn frame(event: Event) -> Frame {
        Frame::encode(1, "order-7", event, Duration::ZERO)
    }

    #[test]
    fn an_id_belongs_to_all_topics_together() {
        let first = event(&["a", "b", "c"]);
        for (topics, is_it) in [
            (&["a", "b", "c"][..], true),
            (&["c", "a", "b"], true),
            (&["a", "b"], false),
            (&["a", "b", "d"], false),
            (&["a"], false),
            (&["a", "b", "c", "d"], false),
        ] {
            assert_eq!(frame(first.clone()).has_identity_of(&event(topics)), is_it, "{topics:?}");
            let identity = if is_it { Identity::Same } else { Identity::Different };
            assert_eq!(Identity::of(&first, &event(topics)), identity, "{topics:?}");
        }
        let other_id = event(&["a", "b", "c"]).with_id(EventId::new("order-8").unwrap());
        assert!(!frame(first).has_identity_of(&other_id));
        let without = Event::new(Topic::new("a").unwrap());
        assert!(!frame(without.clone()).has_identity_of(&without));
        assert_eq!(Identity::of(&without, &without), Identity::Different);
    }

    #[test]
    fn events_say_the_same_where_clients_get_the_same() {
        let plain = || event(&["a"]);
        let kind = |name| EventType::new(name).unwrap();
        let different = [
            plain(),
            plain().with_data(""),
            plain().with_data("1"),
            plain().with_data("1\n"),
            plain().with_data("1\n2"),
            plain().with_data("event: x"),
            plain().with_data("1").with_type(kind("x")),
            plain().with_data("1").with_type(kind("y")),
            plain().with_data("1").with_retry(Retry::from_millis(1000)),
            plain().with_data("1").with_private(true),
        ];
        let hashes = std::hash::RandomState::new();
        for (index, one) in different.iter().enumerate() {
            for (other_index, other) in different.iter().enumerate() {
                let is_same = index == other_index;
                assert_eq!(frame(one.clone()).says_the_same(other), is_same, "{one:?} and {other:?}");
                let identity = if is_same { Identity::Same } else { Identity::Conflict };
                assert_eq!(Identity::of(one, other), identity, "{one:?} and {other:?}");
                let prints = [one, other].map(|event| event.fingerprint(&hashes).unwrap());
                assert!(prints[0].0 == prints[1].0 && (prints[0].1 == prints[1].1) == is_same);
            }
        }
        // Line ends of any kind reach clients as LF.
        let ends = ["1\n2", "1\r\n2", "1\r2"].map(|data| plain().with_data(data));
        assert!(ends.iter().all(|event| frame(ends[0].clone()).says_the_same(event)));
        assert!(ends.iter().all(|event| Identity::of(&ends[0], event) == Identity::Same));
        assert!(ends.iter().all(|event| event.fingerprint(&hashes) == ends[0].fingerprint(&hashes)));
    }
}
