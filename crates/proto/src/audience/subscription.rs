//! What the members of an audience have in common.

use smallvec::SmallVec;

use crate::event::Topic;
use crate::event_log::Wanted;
use crate::frame::Frame;
use crate::link::Encoding;
use crate::selection::Selection;

/// The key of an audience: which events, and in which bytes they reach the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// Those of which private events are seen, sorted, then the others, sorted.
    topics: SmallVec<[Topic; 1]>,
    /// How many topics there are of which private events are seen.
    private_topics: u32,
    encoding: Encoding,
    /// Private events are seen of all topics, also of those that a change adds.
    sees_private: bool,
}

/// What a subscription costs beside its topics. A million subscribers may have as many subscriptions.
const _: () = assert!(size_of::<Subscription>() <= 32);

impl Subscription {
    /// A subscription to these topics, with private events of all of them or of none. Their order and repetitions
    /// make no difference.
    pub fn new(
        topics: impl IntoIterator<Item = Topic>,
        encoding: impl Into<Encoding>,
        sees_private: bool,
    ) -> Subscription {
        Subscription { sees_private, ..Subscription::with_private(topics, encoding, |_| sees_private) }
    }

    /// The same with private events of some topics: those for which `is_private` says yes.
    pub fn with_private(
        topics: impl IntoIterator<Item = Topic>,
        encoding: impl Into<Encoding>,
        is_private: impl Fn(&Topic) -> bool,
    ) -> Subscription {
        let mut topics: SmallVec<[Topic; 1]> = topics.into_iter().collect();
        topics.sort_unstable();
        topics.dedup();
        topics.sort_by_key(|topic| !is_private(topic));
        topics.shrink_to_fit();
        let private_topics = topics.partition_point(is_private) as u32;
        Subscription { topics, private_topics, encoding: encoding.into(), sees_private: false }
    }

    /// The same subscription with other topics. A topic that stays is seen as before. Private events of an added
    /// topic are seen where the subscription sees those of all its topics, whichever they are.
    pub fn with_topics(&self, topics: impl IntoIterator<Item = Topic>) -> Subscription {
        let is_private = |topic: &Topic| self.sees_private || self.has_private(topic);
        Subscription {
            sees_private: self.sees_private,
            ..Subscription::with_private(topics, self.encoding, is_private)
        }
    }

    /// The same with only those of its topics that `after` has, too, and with private events only of those whose
    /// private events `after` has.
    pub fn kept_by(&self, after: &Subscription) -> Subscription {
        let kept = self.topics.iter().filter(|topic| after.has(topic)).cloned();
        let is_private = |topic: &Topic| self.has_private(topic) && after.has_private(topic);
        Subscription {
            sees_private: self.sees_private && after.sees_private,
            ..Subscription::with_private(kept, self.encoding, is_private)
        }
    }

    /// Replaces names by equal ones that `known` has, so that a text that is known already is not kept twice.
    pub(super) fn share_names(&mut self, known: impl Fn(&Topic) -> Option<Topic>) {
        for topic in &mut self.topics {
            if let Some(same) = known(topic) {
                *topic = same;
            }
        }
    }

    /// The topics. Those of which private events are seen come first; both parts are sorted.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// In which bytes events reach the socket.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Its topics, with those of which private events are seen.
    pub fn selection(&self) -> Selection<'_> {
        Selection::mixed(&self.topics, self.private_topics as usize)
    }

    /// Whether it has this topic.
    pub fn has(&self, topic: &Topic) -> bool {
        let (private, public) = self.topics.split_at(self.private_topics as usize);
        private.binary_search(topic).is_ok() || public.binary_search(topic).is_ok()
    }

    /// Whether it has this topic with its private events.
    pub fn has_private(&self, topic: &Topic) -> bool {
        self.selection().private_topics().binary_search(topic).is_ok()
    }

    /// Whether an event reaches this subscription, given that one of its topics does.
    pub fn admits(&self, frame: &Frame) -> bool {
        !frame.private() || frame.topics().iter().any(|topic| self.has_private(topic))
    }

    /// Whether an event reaches this subscription.
    pub fn wants(&self, frame: &Frame) -> bool {
        let has = |topic| if frame.private() { self.has_private(topic) } else { self.has(topic) };
        frame.topics().iter().any(has)
    }

    /// What a subscriber of this subscription that stands at `after` asks the log for; see
    /// [`Wanted::incomplete_until`].
    pub fn wanted_after(&self, after: u64, incomplete_until: u64) -> Wanted<'_> {
        Wanted { selection: self.selection(), after, incomplete_until }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Event;
    use crate::frame::WireFormat;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn subscription(names: &str, private: &str) -> Subscription {
        let topics = names.split(' ').map(topic);
        Subscription::with_private(topics, WireFormat::Plain, |topic| private.contains(topic.as_str()))
    }

    fn is_wanted(subscription: &Subscription, names: &str, private: bool) -> bool {
        let mut topics = names.split(' ').map(topic);
        let first = Event::new(topics.next().unwrap()).with_private(private);
        let event = topics.fold(first, |event, topic| event.with_topic(topic).unwrap());
        let frame = Frame::encode(1, "1", event, Duration::ZERO);
        assert_eq!(subscription.selection().wants(&frame), subscription.wants(&frame));
        subscription.wants(&frame)
    }

    #[test]
    fn a_private_event_is_wanted_for_a_topic_whose_private_events_are_seen() {
        let mixed = subscription("a b c d", "d b");
        assert_eq!(mixed.topics(), ["b", "d", "a", "c"].map(topic));
        for (names, public, private) in [
            ("a", true, false),
            ("b", true, true),
            ("a d", true, true),
            ("a c", true, false),
            ("e", false, false),
            ("e b", true, true),
        ] {
            let wanted = [false, true].map(|is_private| is_wanted(&mixed, names, is_private));
            assert_eq!(wanted, [public, private], "{names}");
        }
    }

    #[test]
    fn a_change_of_topics_gives_no_sight_that_was_not_there() {
        let mixed = subscription("a b", "a");
        let only_a = mixed.with_topics([topic("a")]);
        assert!(only_a.has_private(&topic("a")));
        // All topics of the subscription were seen, and an added one is not for that.
        let again = only_a.with_topics(["a", "b"].map(topic));
        assert!(again.has_private(&topic("a")) && !again.has_private(&topic("b")));
        let all = Subscription::new([topic("a")], WireFormat::Plain, true).with_topics([topic("b")]);
        assert!(all.has_private(&topic("b")));
        // What is kept is what both allow.
        let kept = all.with_topics(["a", "b"].map(topic)).kept_by(&mixed);
        assert_eq!(kept, mixed);
    }
}
