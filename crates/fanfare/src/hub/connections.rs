//! Orders about connections, and the members of topics.

use std::fmt;
use std::sync::Arc;

use fanfare_proto::event::Topic;
#[cfg(feature = "sim")]
use fanfare_proto::link::LinkKey;
use fanfare_proto::pattern::Pattern;

use super::Hub;
use crate::admission::{Selectors, WrongTopics};
use crate::connection::ConnectionId;
use crate::mailbox::{Mail, Refused};
use crate::orders::{DecisionStart, Name};
use crate::shard::ConnectionOrder;

/// Why an order about connections was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The mailbox of a shard is full. Try again in a few milliseconds. An order for several shards may have
    /// reached some of them; given again, it does no harm.
    Busy,
    /// The engine drains or has stopped.
    Stopped,
    /// The name is one of another engine's connection, for instance of this server's before its restart.
    Unknown,
    /// A subscription has at least one topic.
    NoTopics,
    /// More different topics than [`crate::Limits::topics_per_subscription`].
    TooManyTopics {
        /// The bound.
        limit: usize,
    },
}

/// These calls return at once. Each shard carries orders out in the order in which it got them, and leaves
/// out a connection that has ended meanwhile. An admission may give orders, too, also about its own
/// connection, once that has begun.
impl Hub {
    /// Ends a connection. Its subscriber may come back, and resumes after the last event that it was sent.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn disconnect(&self, connection: ConnectionId) -> Result<(), ConnectionError> {
        self.order_one(connection, ConnectionOrder::Disconnect(connection.link))
    }

    /// Ends all connections of a subject ([`crate::Subscribe::with_subject`]), on all shards. A connection
    /// about which a decision is under way when this is called does not begin: it is closed without an
    /// answer, and its client asks again. So first bar the subject where the admission looks, and then call
    /// this. Each shard looks through its connections, a part of them between two deliveries, for all that
    /// was named meanwhile: a million connections take some milliseconds.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn disconnect_subject(&self, subject: &str) -> Result<(), ConnectionError> {
        let order = self.inner.common.orders().next(Name::of_subject(subject));
        self.order_all(|| ConnectionOrder::DisconnectAll(order.clone()))
    }

    /// Ends all connections of a token ([`crate::Subscribe::with_token`]), on all shards, and those about
    /// which a decision is under way, as [`Hub::disconnect_subject`].
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn disconnect_token(&self, id: &str) -> Result<(), ConnectionError> {
        let order = self.inner.common.orders().next(Name::of_token(id));
        self.order_all(|| ConnectionOrder::DisconnectAll(order.clone()))
    }

    /// A moment before a decision about a subscription that a server of your own makes, for
    /// [`crate::Subscribe::with_decision_start`].
    pub fn decision_start(&self) -> DecisionStart {
        self.inner.common.orders().now()
    }

    /// Ends all connections that read a topic by its name, also among others. Where the name is the text of a
    /// pattern, it ends the connections that read this pattern, too. With very many of them it takes a while:
    /// each shard ends a few hundred between two deliveries. Connections that begin after the order stay.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn disconnect_topic(&self, topic: &Topic) -> Result<(), ConnectionError> {
        self.order_all(|| ConnectionOrder::DisconnectTopic(topic.clone()))
    }

    /// Gives a connection other topics while it lives.
    ///
    /// The change has an exact place in the order of events. The subscriber gets every event of the topics
    /// that it keeps, before the change and after it. It gets the events of added topics that are published
    /// after the change. It gets no further event of removed topics. A subscriber that has more than 8
    /// changes to catch up with may get some older events of added topics.
    ///
    /// The connection ends where the new subscription finds no room ([`crate::Limits::subscription_bytes`]).
    /// It also ends where the log no longer has an event of a topic that it keeps and that was not sent yet,
    /// also with [`crate::LaggardPolicy::Skip`]. A subscriber that has been sent everything is not in this
    /// danger.
    ///
    /// A subscriber that reconnects asks for topics again: [`crate::Admission`] decides about them.
    ///
    /// A topic that stays is seen as before, with its private events or without. Private events of an added
    /// topic are delivered where [`crate::Subscribe::with_private_events`] said so of all topics. Patterns of
    /// the connection go.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn change_topics(
        &self,
        connection: ConnectionId,
        topics: impl IntoIterator<Item = Topic>,
    ) -> Result<(), ConnectionError> {
        self.change_selectors(connection, topics, [])
    }

    /// The same with patterns: what [`Hub::change_topics`] says of topics holds for patterns, too. A pattern
    /// stays where it is named again. The connection also ends where the process has
    /// [`crate::Limits::patterns`] already.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn change_selectors(
        &self,
        connection: ConnectionId,
        topics: impl IntoIterator<Item = Topic>,
        patterns: impl IntoIterator<Item = Pattern>,
    ) -> Result<(), ConnectionError> {
        let mut topics: Vec<Topic> = topics.into_iter().collect();
        let mut selectors = Selectors::default();
        selectors.add(patterns, &mut topics);
        let patterns = selectors.patterns().to_vec();
        WrongTopics::check(&mut topics, patterns.len(), self.limits().topics_per_subscription)?;
        self.order_one(connection, ConnectionOrder::ChangeTopics(connection.link, topics, patterns))
    }

    /// The names of a topic's members ([`crate::Subscribe::with_member`]), in alphabetical order.
    /// Very many of them are listed in pieces: a name that comes or goes meanwhile may be among them or not.
    pub fn members(&self, topic: &Topic) -> Vec<Arc<str>> {
        self.inner.presence.members(topic, self.now())
    }

    /// How many members a topic has, in constant time. (Members whose time is over since the last call leave
    /// first.)
    pub fn member_count(&self, topic: &Topic) -> usize {
        self.inner.presence.count(topic, self.now())
    }

    /// The name of a connection.
    #[cfg(feature = "sim")]
    pub(crate) fn connection_id(&self, shard: usize, link: LinkKey) -> ConnectionId {
        ConnectionId::new(self.inner.common.engine(), shard, link)
    }

    fn order_one(&self, connection: ConnectionId, order: ConnectionOrder) -> Result<(), ConnectionError> {
        self.inner.assert_in_reach();
        if connection.engine != self.inner.common.engine() {
            return Err(ConnectionError::Unknown);
        }
        self.order_shard(connection.shard as usize, order)
    }

    fn order_all(&self, order: impl Fn() -> ConnectionOrder) -> Result<(), ConnectionError> {
        self.inner.assert_in_reach();
        // All of them, whatever the first one says: a full mailbox is no reason to spare the connections of
        // other shards.
        let given: Vec<_> =
            (0..self.inner.shards.len()).map(|shard| self.order_shard(shard, order())).collect();
        given.into_iter().collect()
    }

    fn order_shard(&self, shard: usize, order: ConnectionOrder) -> Result<(), ConnectionError> {
        let shard = self.inner.shards.get(shard).ok_or(ConnectionError::Unknown)?;
        // A shard that drains ends all of its connections, and may do so before it comes to this order.
        if shard.mailbox.is_closed() {
            return Err(ConnectionError::Stopped);
        }
        let mail = Mail::Order(Box::new(order));
        match shard.mailbox.push_within(self.inner.mail_limit(), mail, || Ok::<_, ()>(())) {
            Ok(()) => Ok(()),
            Err(Refused::Ended) => Err(ConnectionError::Stopped),
            Err(Refused::Full | Refused::Failed(())) => Err(ConnectionError::Busy),
        }
    }
}

impl From<WrongTopics> for ConnectionError {
    fn from(wrong: WrongTopics) -> ConnectionError {
        match wrong {
            WrongTopics::None => ConnectionError::NoTopics,
            WrongTopics::TooMany { limit } => ConnectionError::TooManyTopics { limit },
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionError::Busy => f.write_str("a shard is busy; try again in a moment"),
            ConnectionError::Stopped => f.write_str("the engine is shutting down"),
            ConnectionError::Unknown => f.write_str("the connection is not one of this engine's"),
            ConnectionError::NoTopics => WrongTopics::None.fmt(f),
            ConnectionError::TooManyTopics { limit } => WrongTopics::TooMany { limit: *limit }.fmt(f),
        }
    }
}

impl std::error::Error for ConnectionError {}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use std::time::Duration;

    use fanfare_proto::limits::Limits;
    use fanfare_proto::link::LinkKey;

    use super::*;
    use crate::hub::tests::hub;

    /// During a drain, which may last for minutes, every order was answered `Ok`, and the documentation
    /// promised [`ConnectionError::Stopped`].
    #[test]
    fn an_engine_that_drains_takes_no_orders() {
        let (hub, shards) = hub(2, Limits::default(), &[]);
        let connection = ConnectionId::new(0, 1, LinkKey { slot: 0, generation: 0 });
        let topic = Topic::new("a").unwrap();
        let give_all = || {
            [
                hub.disconnect(connection),
                hub.disconnect_subject("ada"),
                hub.disconnect_token("t"),
                hub.disconnect_topic(&topic),
                hub.change_topics(connection, [topic.clone()]),
            ]
        };
        assert_eq!(give_all(), [const { Ok(()) }; 5]);
        let waiting = shards.iter().map(|shard| shard.mailbox.len()).sum::<usize>();
        hub.drain(Duration::from_secs(60));
        assert_eq!(give_all(), [const { Err(ConnectionError::Stopped) }; 5]);
        let drains = shards.len();
        assert_eq!(shards.iter().map(|shard| shard.mailbox.len()).sum::<usize>(), waiting + drains);
        // An engine without this shard.
        let stranger = ConnectionId::new(0, 2, connection.link);
        assert_eq!(hub.disconnect(stranger), Err(ConnectionError::Unknown));
    }
}
