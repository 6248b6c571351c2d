//! The order of orders and decisions: an order to end connections also ends one about which a decision is
//! under way.
//!
//! A decision about a request takes time. Meanwhile an order to end the connections of its subject or of its
//! token may come to the shard, where the connection has not begun. The admission may have asked its database
//! before the user was barred there. So each order has a number, each request notes the number of the last
//! order before its decision began, and a shard remembers its last orders: a connection whose decision began
//! before an order about it does not begin.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most orders that a shard remembers. A decision that began before all of them is as good as none: its
/// connection does not begin, and its client comes back.
const REMEMBERED: usize = 1024;

/// How far back an order is looked for that is given again.
const REPEATED: usize = 64;

/// A moment before a decision, as the number of the next order: see [`crate::Hub::decision_start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionStart(NonZeroU64);

/// The number of the last order of an engine.
#[derive(Debug, Default)]
pub(crate) struct OrderNumbers(AtomicU64);

/// A subject, or the id of a token, as a keyed hash: a connection has eight bytes of it. The key is random in
/// each process, so a client cannot choose two texts that have the same name. Two texts have the same name by
/// chance with a probability of 1 in 2^64. Then an order about one of them ends a stream of the other one,
/// whose client may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name(NonZeroU64);

/// The names of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) subject: Option<Name>,
    pub(crate) token: Option<Name>,
}

/// An order to end the connections of a name, with its number.
#[derive(Clone, Debug)]
pub(crate) struct NumberedOrder {
    number: u64,
    name: Name,
}

/// The last orders that a shard has carried out.
#[derive(Debug, Default)]
pub(crate) struct RecentOrders {
    orders: VecDeque<NumberedOrder>,
    /// The highest number that is not remembered any more.
    forgotten: u64,
    /// The number of the last order about all connections.
    about_all: u64,
}

impl OrderNumbers {
    /// A decision that begins now knows everything that was done before the orders up to this one.
    pub(crate) fn now(&self) -> DecisionStart {
        DecisionStart(NonZeroU64::MIN.saturating_add(self.0.load(Ordering::Acquire)))
    }

    /// The next order. What was done before it is seen by a decision that begins after it.
    pub(crate) fn next(&self, name: Name) -> NumberedOrder {
        NumberedOrder { number: self.next_for_all(), name }
    }

    /// The number of the next order, which is about all connections.
    pub(crate) fn next_for_all(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// The key with which all names are hashed. It is one for the process, because each shard compares the names
/// of its subscriptions with the names in orders.
static NAME_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Name {
    pub(crate) fn of_subject(subject: &str) -> Name {
        Name::of(0, subject)
    }

    pub(crate) fn of_token(id: &str) -> Name {
        Name::of(1, id)
    }

    /// A subject and a token with the same text have different names.
    fn of(kind: u8, text: &str) -> Name {
        Name(NonZeroU64::new(NAME_KEY.hash_one((kind, text))).unwrap_or(NonZeroU64::MIN))
    }
}

impl Names {
    pub(crate) fn are_none(self) -> bool {
        self.subject.is_none() && self.token.is_none()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Name> {
        [self.subject, self.token].into_iter().flatten()
    }

    /// Whether it is one of them.
    pub(crate) fn have(self, name: Name) -> bool {
        self.iter().any(|its| its == name)
    }
}

impl NumberedOrder {
    pub(crate) fn name(&self) -> Name {
        self.name
    }
}

impl RecentOrders {
    /// The most memory that they take.
    pub(crate) const MAX_BYTES: usize = 2 * REMEMBERED * size_of::<NumberedOrder>();

    pub(crate) fn add(&mut self, mut order: NumberedOrder) {
        // The same order is given again and again where the mailbox of another shard is full. It takes one
        // place.
        let newest = self.orders.iter().rev().take(REPEATED);
        if let Some(back) = newest.into_iter().position(|other| other.name == order.name) {
            // Orders of several threads may come in another order than that of their numbers.
            let other = self.orders.remove(self.orders.len() - 1 - back);
            order.number = order.number.max(other.map_or(0, |other| other.number));
        }
        if self.orders.len() == REMEMBERED
            && let Some(oldest) = self.orders.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest.number);
        }
        self.orders.push_back(order);
    }

    /// The order with this number is about all connections.
    pub(crate) fn add_for_all(&mut self, number: u64) {
        // Orders of several threads may come in another order than that of their numbers.
        self.about_all = self.about_all.max(number);
    }

    /// Whether a connection may not begin, because an order about it came after the decision about it had
    /// begun.
    pub(crate) fn end(&self, names: Names, start: DecisionStart) -> bool {
        if start.0.get() <= self.about_all {
            return true;
        }
        if names.are_none() {
            return false;
        }
        start.0.get() <= self.forgotten
            || self.orders.iter().any(|order| order.number >= start.0.get() && names.have(order.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subject: Option<&str>, token: Option<&str>) -> Names {
        Names { subject: subject.map(Name::of_subject), token: token.map(Name::of_token) }
    }

    #[test]
    fn an_order_ends_what_was_being_decided_when_it_was_given() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let before = numbers.now();
        recent.add(numbers.next(Name::of_token("t")));
        let between = numbers.now();
        recent.add(numbers.next(Name::of_subject("ada")));
        let after = numbers.now();
        let token = names(Some("bob"), Some("t"));
        assert_eq!([before, between, after].map(|start| recent.end(token, start)), [true, false, false]);
        let ada = names(Some("ada"), None);
        assert_eq!([before, between, after].map(|start| recent.end(ada, start)), [true, true, false]);
        let other = names(Some("bob"), Some("u"));
        assert_eq!([before, between, after].map(|start| recent.end(other, start)), [false; 3]);
    }

    #[test]
    fn an_order_about_all_is_also_about_connections_without_a_name() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let before = numbers.now();
        let [first, second] = [numbers.next_for_all(), numbers.next_for_all()];
        let after = numbers.now();
        recent.add_for_all(second);
        recent.add_for_all(first);
        for its in [names(None, None), names(Some("ada"), Some("t"))] {
            assert_eq!([before, after].map(|start| recent.end(its, start)), [true, false]);
        }
    }

    #[test]
    fn orders_that_are_forgotten_end_everything_that_they_may_be_about() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let before = numbers.now();
        for number in 0..=REMEMBERED {
            recent.add(numbers.next(Name::of_subject(&number.to_string())));
        }
        assert_eq!(recent.orders.len(), REMEMBERED);
        assert!(recent.end(names(Some("other"), None), before));
        assert!(!recent.end(names(None, None), before), "nothing is known of it, so no order is about it");
        assert!(!recent.end(names(Some("1024"), None), numbers.now()));
    }

    /// One request to end connections was given up to a hundred times, and pushed out what a shard
    /// remembered.
    #[test]
    fn an_order_that_is_given_again_takes_one_place() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        recent.add(numbers.next(Name::of_subject("ada")));
        let between = numbers.now();
        for _ in 0..2 * REMEMBERED {
            for name in ["bob", "carol"] {
                recent.add(numbers.next(Name::of_subject(name)));
            }
        }
        assert_eq!((recent.orders.len(), recent.forgotten), (3, 0));
        for (name, ends) in [("ada", false), ("bob", true), ("carol", true), ("dora", false)] {
            assert_eq!(recent.end(names(Some(name), None), between), ends, "{name}");
        }
    }

    /// Two threads ended the same subject, and the later order came first. The earlier one took its place,
    /// and a connection whose decision had begun between both was let in.
    #[test]
    fn a_later_order_is_not_forgotten_for_an_earlier_one() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let earlier = numbers.next(Name::of_subject("ada"));
        let between = numbers.now();
        let later = numbers.next(Name::of_subject("ada"));
        recent.add(later);
        recent.add(earlier);
        let ada = names(Some("ada"), None);
        assert_eq!(recent.orders.len(), 1);
        assert!(recent.end(ada, between) && !recent.end(ada, numbers.now()));
    }

    #[test]
    fn a_subject_and_a_token_with_the_same_text_are_not_the_same() {
        let [subject, token] = [Name::of_subject("ada"), Name::of_token("ada")];
        assert_ne!(subject, token);
        let ada = names(Some("ada"), None);
        assert!(ada.have(subject) && !ada.have(token) && !names(None, None).have(subject));
        assert_eq!(ada, names(Some(&["a", "da"].concat()), None), "a text has one name in the process");
    }
}
