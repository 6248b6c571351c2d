//! What this node has read lately, for events that the stream has dropped since.
//!
//! Where a publisher repeats an event with an own id, the stream says that it has had the id, and under which
//! number. The message with this number is compared with the event. Where it was dropped meanwhile, within
//! the duplicate window, it cannot be compared any more: it may have been the same event, or another one with
//! this id, of other topics. Here is what it was.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::Mutex;

use fanfare_proto::event::Event;
use fanfare_proto::frame::Identity;

use crate::sync::lock;

/// Events with own ids that are remembered: some 2 MiB.
const MOST: usize = 1 << 15;

/// The newest events with own ids that this node has read.
#[derive(Default)]
pub(crate) struct Recent {
    /// Publishers choose ids and topics, and must not be able to choose hashes.
    hashes: RandomState,
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    fingerprints: HashMap<u64, (u64, u64)>,
    /// From the oldest on.
    numbers: VecDeque<u64>,
}

impl Recent {
    /// Notes an event of the stream. Numbers rise.
    pub(crate) fn note(&self, number: u64, event: &Event) {
        let Some(fingerprint) = event.fingerprint(&self.hashes) else { return };
        let mut events = lock(&self.events);
        if events.fingerprints.insert(number, fingerprint).is_some() {
            return;
        }
        events.numbers.push_back(number);
        if events.numbers.len() > MOST
            && let Some(oldest) = events.numbers.pop_front()
        {
            events.fingerprints.remove(&oldest);
        }
    }

    /// Compares this event with the one that had the number in the stream. `None`: this node does not know
    /// what had the number.
    pub(crate) fn compare(&self, number: u64, event: &Event) -> Option<Identity> {
        let known = *lock(&self.events).fingerprints.get(&number)?;
        let own = event.fingerprint(&self.hashes)?;
        Some(match known {
            _ if known == own => Identity::Same,
            (identity, _) if identity == own.0 => Identity::Conflict,
            _ => Identity::Different,
        })
    }
}

#[cfg(test)]
mod tests {
    use fanfare_proto::event::{EventId, Topic};

    use super::*;

    fn event(topic: &str, id: &str, data: &str) -> Event {
        let id = EventId::new(id).unwrap();
        Event::new(Topic::new(topic).unwrap()).with_id(id).with_data(data)
    }

    #[test]
    fn what_had_a_number_is_known_for_some_time() {
        let recent = Recent::default();
        recent.note(7, &event("a", "x", "1"));
        assert_eq!(recent.compare(7, &event("a", "x", "1")), Some(Identity::Same));
        assert_eq!(recent.compare(7, &event("a", "x", "2")), Some(Identity::Conflict));
        assert_eq!(recent.compare(7, &event("b", "x", "1")), Some(Identity::Different));
        assert_eq!(recent.compare(7, &event("a", "y", "1")), Some(Identity::Different));
        assert_eq!(recent.compare(8, &event("a", "x", "1")), None);
        recent.note(8, &Event::new(Topic::new("a").unwrap()));
        assert_eq!(recent.compare(8, &event("a", "x", "1")), None);
        for number in 0..MOST as u64 {
            recent.note(100 + number, &event("a", &number.to_string(), "1"));
        }
        assert_eq!(recent.compare(7, &event("a", "x", "1")), None);
        assert_eq!(recent.compare(100, &event("a", "0", "1")), Some(Identity::Same));
    }
}
