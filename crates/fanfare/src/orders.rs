//! The order of orders and decisions: an order to end connections also ends one about which a decision is under way.
//!
//! A decision about a request takes time. Meanwhile an order to end the connections of its subject or of its token may
//! come to the shard, where the connection has not begun. The admission may have asked its database before the user was
//! barred there. So each order has a number, each request notes the number of the last order before its decision began,
//! and a shard remembers its last orders: a connection whose decision began before an order about it does not begin.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admission::Subscribe;

/// The most orders that a shard remembers. A decision that began before all of them is as good as none: its connection
/// does not begin, and its client comes back.
const REMEMBERED: usize = 1024;

/// How far back an order is looked for that is given again.
const REPEATED: usize = 64;

/// A moment before a decision, as the number of the next order: see [`crate::Hub::decision_start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionStart(NonZeroU64);

/// The number of the last order of an engine.
#[derive(Debug, Default)]
pub(crate) struct OrderNumbers(AtomicU64);

/// The id of a token, as a hash: a connection has eight bytes of it. Two ids with the same hash are as likely as a
/// wrong guess of 64 bits, and then a stream ends that may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TokenName(NonZeroU64);

/// An order to end connections, with its number.
#[derive(Clone, Debug)]
pub(crate) struct NumberedOrder {
    number: u64,
    about: About,
}

/// The connections that an order is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Subject(Arc<str>),
    Token(TokenName),
}

/// The last orders that a shard has carried out.
#[derive(Debug, Default)]
pub(crate) struct RecentOrders {
    orders: VecDeque<NumberedOrder>,
    /// The highest number that is not remembered any more.
    forgotten: u64,
}

impl OrderNumbers {
    /// A decision that begins now knows everything that was done before the orders up to this one.
    pub(crate) fn now(&self) -> DecisionStart {
        DecisionStart(NonZeroU64::MIN.saturating_add(self.0.load(Ordering::Acquire)))
    }

    /// The next order. What was done before it is seen by a decision that begins after it.
    pub(crate) fn next(&self, about: About) -> NumberedOrder {
        NumberedOrder { number: self.0.fetch_add(1, Ordering::AcqRel) + 1, about }
    }
}

impl TokenName {
    pub(crate) fn of(id: &str) -> TokenName {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        TokenName(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }
}

impl About {
    /// Whether a subscription is one of these connections.
    pub(crate) fn is_of(&self, subscribe: &Subscribe) -> bool {
        match self {
            About::Subject(subject) => subscribe.subject.as_ref() == Some(subject),
            About::Token(token) => subscribe.token == Some(*token),
        }
    }
}

impl NumberedOrder {
    pub(crate) fn about(&self) -> &About {
        &self.about
    }
}

impl RecentOrders {
    pub(crate) fn add(&mut self, order: NumberedOrder) {
        // The same order is given again and again where the mailbox of another shard is full. It takes one place.
        let newest = self.orders.iter().rev().take(REPEATED);
        if let Some(back) = newest.into_iter().position(|other| other.about == order.about) {
            self.orders.remove(self.orders.len() - 1 - back);
        }
        if self.orders.len() == REMEMBERED
            && let Some(oldest) = self.orders.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest.number);
        }
        self.orders.push_back(order);
    }

    /// Whether a connection may not begin, because an order about it came after the decision about it had begun.
    pub(crate) fn end(&self, subscribe: &Subscribe, start: DecisionStart) -> bool {
        if subscribe.subject.is_none() && subscribe.token.is_none() {
            return false;
        }
        // Orders of several threads may have come in another order than that of their numbers.
        start.0.get() <= self.forgotten
            || self.orders.iter().any(|order| order.number >= start.0.get() && order.about.is_of(subscribe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(subject: Option<&str>, token: Option<&str>) -> Subscribe {
        let mut subscribe = Subscribe::to([]);
        if let Some(subject) = subject {
            subscribe = subscribe.with_subject(subject).unwrap();
        }
        token.into_iter().fold(subscribe, Subscribe::with_token)
    }

    #[test]
    fn an_order_ends_what_was_being_decided_when_it_was_given() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let before = numbers.now();
        recent.add(numbers.next(About::Token(TokenName::of("t"))));
        let between = numbers.now();
        recent.add(numbers.next(About::Subject("ada".into())));
        let after = numbers.now();
        let token = subscribe(Some("bob"), Some("t"));
        assert_eq!([before, between, after].map(|start| recent.end(&token, start)), [true, false, false]);
        let ada = subscribe(Some("ada"), None);
        assert_eq!([before, between, after].map(|start| recent.end(&ada, start)), [true, true, false]);
        let other = subscribe(Some("bob"), Some("u"));
        assert_eq!([before, between, after].map(|start| recent.end(&other, start)), [false; 3]);
    }

    #[test]
    fn orders_that_are_forgotten_end_everything_that_they_may_be_about() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        let before = numbers.now();
        for number in 0..=REMEMBERED {
            recent.add(numbers.next(About::Subject(number.to_string().into())));
        }
        assert_eq!(recent.orders.len(), REMEMBERED);
        assert!(recent.end(&subscribe(Some("other"), None), before));
        assert!(
            !recent.end(&subscribe(None, None), before),
            "nothing is known of it, so no order is about it"
        );
        assert!(!recent.end(&subscribe(Some("1024"), None), numbers.now()));
    }

    /// One request to end connections was given up to a hundred times, and pushed out what a shard remembered.
    #[test]
    fn an_order_that_is_given_again_takes_one_place() {
        let (numbers, mut recent) = (OrderNumbers::default(), RecentOrders::default());
        recent.add(numbers.next(About::Subject("ada".into())));
        let between = numbers.now();
        for _ in 0..2 * REMEMBERED {
            for name in ["bob", "carol"] {
                recent.add(numbers.next(About::Subject(name.into())));
            }
        }
        assert_eq!((recent.orders.len(), recent.forgotten), (3, 0));
        for (name, ends) in [("ada", false), ("bob", true), ("carol", true), ("dora", false)] {
            assert_eq!(recent.end(&subscribe(Some(name), None), between), ends, "{name}");
        }
    }
}
