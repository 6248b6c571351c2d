//! What the members of an audience have in common.

use smallvec::SmallVec;

use crate::event::Topic;
use crate::event_log::Wanted;
use crate::frame::Frame;
use crate::link::Encoding;
use crate::pattern::Pattern;
use crate::selection::Selection;

/// The key of an audience: which events, and in which bytes they reach the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// Those of which private events are seen, sorted, then the others, sorted.
    topics: SmallVec<[Topic; 1]>,
    /// Few subscriptions have patterns, so they cost the others one word.
    patterns: Option<Box<Patterns>>,
    /// How many topics there are of which private events are seen.
    private_topics: u32,
    encoding: Encoding,
    /// Private events are seen through all selectors. This includes the selectors that a later change adds.
    sees_private: bool,
}

/// The patterns of a subscription; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Patterns {
    /// Those through which private events are seen, sorted, then the others, sorted.
    list: Box<[Pattern]>,
    /// How many patterns there are through which private events are seen.
    private: usize,
}

/// What a subscription costs beside its topics. A million subscribers may have as many subscriptions.
const _: () = assert!(size_of::<Subscription>() <= 40);

impl Subscription {
    /// A subscription to these topics, with private events of all of them or of none. Their order and
    /// repetitions make no difference.
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
        let encoding = encoding.into();
        Subscription { topics, patterns: None, private_topics, encoding, sees_private: false }
    }

    /// The same with these patterns, and with private events through those for which `is_private` says yes;
    /// through all of them where the subscription sees private events of all its topics. Patterns that match
    /// the same topics are one.
    #[must_use]
    pub fn with_patterns(
        self,
        patterns: impl IntoIterator<Item = Pattern>,
        is_private: impl Fn(&Pattern) -> bool,
    ) -> Subscription {
        // Whether it is private is asked of the pattern as it is written.
        let normalized = |pattern: Pattern| (self.sees_private || is_private(&pattern), pattern.normalized());
        let mut list: Vec<(bool, Pattern)> = patterns.into_iter().map(normalized).collect();
        list.sort_unstable_by(|one, other| one.1.cmp(&other.1).then(other.0.cmp(&one.0)));
        // Of several that are one, the first has private events where one of them does.
        list.dedup_by(|later, kept| later.1 == kept.1);
        list.sort_by_key(|(is_private, _)| !is_private);
        let private = list.partition_point(|(is_private, _)| *is_private);
        let list: Box<[Pattern]> = list.into_iter().map(|(_, pattern)| pattern).collect();
        let patterns = (!list.is_empty()).then(|| Box::new(Patterns { list, private }));
        Subscription { patterns, ..self }
    }

    /// The same subscription with other selectors. A selector that stays is seen through as before. Private
    /// events are seen through an added one where the subscription sees those of all its topics, whichever
    /// they are.
    pub fn with_selectors(
        &self,
        topics: impl IntoIterator<Item = Topic>,
        patterns: impl IntoIterator<Item = Pattern>,
    ) -> Subscription {
        let is_private = |topic: &Topic| self.sees_private || self.has_private(topic);
        let of_topics = Subscription {
            sees_private: self.sees_private,
            ..Subscription::with_private(topics, self.encoding, is_private)
        };
        of_topics.with_patterns(patterns, |pattern| self.has_private_pattern(&pattern.normalized()))
    }

    /// The same with only those of its selectors that `after` has, too, and with private events only through
    /// those through which `after` sees them.
    #[must_use]
    pub fn kept_by(&self, after: &Subscription) -> Subscription {
        let kept = self.topics.iter().filter(|topic| after.has(topic)).cloned();
        let is_private = |topic: &Topic| self.has_private(topic) && after.has_private(topic);
        let of_topics = Subscription {
            sees_private: self.sees_private && after.sees_private,
            ..Subscription::with_private(kept, self.encoding, is_private)
        };
        let kept = self.patterns().iter().filter(|pattern| after.has_pattern(pattern)).cloned();
        of_topics.with_patterns(kept, |pattern| {
            self.has_private_pattern(pattern) && after.has_private_pattern(pattern)
        })
    }

    /// Replaces names by equal ones that `known` has, so that a text that is known already is not kept twice.
    pub(super) fn share_names(
        &mut self,
        known_topic: impl Fn(&Topic) -> Option<Topic>,
        known_pattern: impl Fn(&Pattern) -> Option<Pattern>,
    ) {
        for topic in &mut self.topics {
            if let Some(same) = known_topic(topic) {
                *topic = same;
            }
        }
        for pattern in self.patterns.iter_mut().flat_map(|patterns| &mut patterns.list) {
            if let Some(same) = known_pattern(pattern) {
                *pattern = same;
            }
        }
    }

    /// The topics. Those of which private events are seen come first; both parts are sorted.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The patterns, without the names of their variables. Those through which private events are seen come
    /// first; both parts are sorted.
    pub fn patterns(&self) -> &[Pattern] {
        self.patterns.as_ref().map_or(&[], |patterns| &patterns.list)
    }

    /// How many topics and patterns there are.
    pub fn selectors(&self) -> usize {
        self.topics.len() + self.patterns().len()
    }

    /// In which bytes events reach the socket.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Its topics and patterns, and through which of them private events are seen.
    pub fn selection(&self) -> Selection<'_> {
        let private = self.patterns.as_ref().map_or(0, |patterns| patterns.private);
        let of_topics = Selection::mixed(&self.topics, self.private_topics as usize);
        of_topics.with_patterns(self.patterns(), private)
    }

    /// Whether it has this topic by its name.
    pub fn has(&self, topic: &Topic) -> bool {
        let (private, public) = self.topics.split_at(self.private_topics as usize);
        private.binary_search(topic).is_ok() || public.binary_search(topic).is_ok()
    }

    /// Whether it has this topic by its name, with its private events.
    pub fn has_private(&self, topic: &Topic) -> bool {
        self.topics[..self.private_topics as usize].binary_search(topic).is_ok()
    }

    /// Whether it has this pattern, which is [normalized](Pattern::normalized).
    pub fn has_pattern(&self, pattern: &Pattern) -> bool {
        self.patterns().contains(pattern)
    }

    /// Whether it sees private events through this pattern, which is [normalized](Pattern::normalized).
    pub fn has_private_pattern(&self, pattern: &Pattern) -> bool {
        self.selection().private_patterns().contains(pattern)
    }

    /// Whether an event reaches this subscription, given that one of its selectors matches one of the event's
    /// topics.
    pub fn admits(&self, frame: &Frame) -> bool {
        !frame.private() || self.sees_private || self.wants(frame)
    }

    /// Whether an event reaches this subscription.
    pub fn wants(&self, frame: &Frame) -> bool {
        let is_private = frame.private();
        let has = |topic| if is_private { self.has_private(topic) } else { self.has(topic) };
        if frame.topics().iter().any(has) {
            return true;
        }
        let selection = self.selection();
        let patterns = if is_private { selection.private_patterns() } else { selection.patterns() };
        let is_matched = |topic: &Topic| patterns.iter().any(|pattern| pattern.matches(topic.as_str()));
        !patterns.is_empty() && frame.topics().iter().any(is_matched)
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

    /// `names` are topics, and patterns where they have a `*` or a brace.
    fn subscription(names: &str, private: &str) -> Subscription {
        let is_private = |name: &str| private.split(' ').any(|other| other == name);
        let (patterns, topics): (Vec<&str>, Vec<&str>) =
            names.split(' ').partition(|name| name.contains(['*', '{']));
        let topics = topics.into_iter().map(topic);
        let patterns = patterns.into_iter().map(pattern);
        Subscription::with_private(topics, WireFormat::Plain, |topic| is_private(topic.as_str()))
            .with_patterns(patterns, |pattern| is_private(pattern.as_str()))
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
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
    fn a_private_event_is_wanted_where_a_selector_sees_private_events() {
        let mixed = subscription("a b c d x/* {any}/y", "d b x/*");
        assert_eq!(mixed.topics(), ["b", "d", "a", "c"].map(topic));
        assert_eq!(mixed.patterns(), ["x/*", "{a}/y"].map(pattern));
        for (names, public, private) in [
            ("a", true, false),
            ("b", true, true),
            ("a d", true, true),
            ("a c", true, false),
            ("e", false, false),
            ("e b", true, true),
            ("x/1", true, true),
            ("x/y", true, true),
            ("z/y", true, false),
            ("z/y x/", true, true),
            ("z/y a", true, false),
            ("x", false, false),
        ] {
            let wanted = [false, true].map(|is_private| is_wanted(&mixed, names, is_private));
            assert_eq!(wanted, [public, private], "{names}");
        }
    }

    #[test]
    fn patterns_that_match_the_same_topics_are_one_and_sees_what_one_of_them_sees() {
        let patterns = ["a/{x}", "a/{y}", "b/*", "a/{x}"].map(pattern);
        let none = Subscription::new([], WireFormat::Plain, false);
        let one = none.clone().with_patterns(patterns.clone(), |pattern| pattern.as_str() == "a/{y}");
        assert_eq!((one.patterns().len(), one.selection().private_patterns().len()), (2, 1));
        assert!(is_wanted(&one, "a/1", true) && !is_wanted(&one, "b/1", true));
        assert_eq!(none.clone().with_patterns([], |_| true), none);
        // Private events of all topics are those of all patterns.
        let all = Subscription::new([], WireFormat::Plain, true).with_patterns(patterns, |_| false);
        assert!(is_wanted(&all, "b/1", true));
    }

    #[test]
    fn a_change_of_topics_gives_no_sight_that_was_not_there() {
        let mixed = subscription("a b x/* y/*", "a y/*");
        let less = mixed.with_selectors([topic("a")], [pattern("y/*")]);
        assert!(less.has_private(&topic("a")) && less.has_private_pattern(&pattern("y/*")));
        // Private events were seen through all selectors of the subscription, and they are not through an
        // added one for that.
        let again = less.with_selectors(["a", "b"].map(topic), ["x/*", "y/*"].map(pattern));
        assert!(again.has_private(&topic("a")) && !again.has_private(&topic("b")));
        assert!(!again.has_private_pattern(&pattern("x/*")));
        let all = Subscription::new([topic("a")], WireFormat::Plain, true);
        let all = all.with_selectors([topic("b")], [pattern("x/*")]);
        assert!(all.has_private(&topic("b")) && all.has_private_pattern(&pattern("x/*")));
        // What is kept is what both allow.
        let kept =
            all.with_selectors(["a", "b"].map(topic), ["x/*", "y/*", "z/*"].map(pattern)).kept_by(&mixed);
        assert_eq!(kept, mixed);
    }
}
