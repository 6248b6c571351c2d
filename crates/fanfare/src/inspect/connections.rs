//! Questions about connections: a page of all connections, or of the connections that a filter selects.
//!
//! No index answers these questions, because it would cost each connection memory. A shard goes through its
//! streams, a part of them in each tick, and one shard is asked after the other. A question that takes too
//! long ends with a page that is not full and says where to go on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::Topic;
use fanfare_proto::link::Encoding;
use fanfare_proto::pattern::Pattern;

use super::{InspectError, Inspection};
use crate::connection::ConnectionId;
use crate::hub::Hub;
use crate::orders::Name;
use crate::shard_thread;

/// Which connections are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionFilter {
    /// All of them.
    #[default]
    All,
    /// Those of a subject ([`crate::Subscribe::with_subject`]).
    Subject(String),
    /// Those of a token ([`crate::Subscribe::with_token`]).
    Token(String),
    /// Those that [`Hub::disconnect_topic`] would end: they read the topic by its name, or the pattern with
    /// the same text.
    Topic(Topic),
    /// The connections whose peer has this address, and the connections that count for this address.
    Address(IpAddr),
}

/// Some of the connections, in an order that stays the same while connections come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionsPage {
    /// At most as many as were asked for. Fewer do not mean that these are the last.
    pub connections: Vec<ConnectionState>,
    /// What to give to [`Hub::connections_page`] for the connections after these; `None` behind the last one.
    pub next: Option<u64>,
}

/// What the engine knows of a subscriber's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionState {
    /// Its name, which says its shard, too.
    pub id: ConnectionId,
    /// The other end of the socket: a proxy's, where there is one. `None`: a Unix socket, or a client that
    /// has just left.
    pub peer: Option<SocketAddr>,
    /// The client that the connection is counted for; of a network of IPv6, the first address. `None`:
    /// connections have no bound by address ([`crate::ClientLimits::connections_per_address`]), or this one
    /// is the operator's.
    pub client: Option<IpAddr>,
    /// The first of its topics, at most [`ConnectionState::TOLD`] with its patterns.
    pub topics: Vec<Topic>,
    /// The first of its patterns.
    pub patterns: Vec<Pattern>,
    /// How many topics and patterns it reads.
    pub selectors: usize,
    /// How bytes reach the client.
    pub encoding: Encoding,
    /// The stream has every event of its topics up to here, or has a gap event for the events that are lost.
    pub cursor: Cursor,
    /// Where it is a laggard: how far it is behind.
    pub lag: Option<ConnectionLag>,
    /// For how long nothing was sent to it, to a tenth of a second.
    pub silent: Duration,
    /// When it ends because of its age or its lifetime; `None`: never.
    pub ends_in: Option<Duration>,
    /// Its subject. Its text is known only where there are life-cycle events.
    pub subject: Option<Arc<str>>,
    /// What [`crate::Subscribe::with_data`] gave to it.
    pub data: Option<u64>,
    /// How old it is. That is known only where it has data or members, or where there are life-cycle events.
    pub age: Option<Duration>,
}

/// How far a laggard is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLag {
    /// By how many numbers. The events of all topics have numbers, so it misses at most so many.
    pub numbers: u64,
    /// For how long its socket has taken nothing.
    pub standing: Duration,
    /// What was begun on its socket and is not sent yet, in bytes.
    pub unsent_bytes: usize,
}

impl ConnectionState {
    /// The most topics and patterns that an answer names of one connection.
    pub const TOLD: usize = 8;
}

impl ConnectionsPage {
    /// The most connections on one page.
    pub const MOST: usize = 1000;
}

/// A question for one shard.
pub(crate) type ConnectionsQuestion = Inspection<WantedConnections, FoundConnections>;

/// The connections that a shard is asked for.
#[derive(Debug)]
pub(crate) struct WantedConnections {
    pub(crate) of: WantedOf,
    /// The slot to begin with.
    pub(crate) from: u32,
    /// The most of them.
    pub(crate) limit: usize,
}

/// A filter, as a shard compares with it.
#[derive(Clone, Debug)]
pub(crate) enum WantedOf {
    All,
    Name(Name),
    /// With the pattern that has the same text, where the text is one.
    Topic(Topic, Option<Pattern>),
    Address(IpAddr),
}

/// The connections that a shard has found.
#[derive(Debug, Default)]
#[allow(unreachable_pub)] // Simulations are given it.
pub struct FoundConnections {
    /// In the order of their slots.
    pub connections: Vec<ConnectionState>,
    /// The slot to go on with; `None`: these were the last.
    pub next: Option<u32>,
}

impl WantedOf {
    pub(crate) fn new(filter: &ConnectionFilter) -> WantedOf {
        match filter {
            ConnectionFilter::All => WantedOf::All,
            ConnectionFilter::Subject(subject) => WantedOf::Name(Name::of_subject(subject)),
            ConnectionFilter::Token(id) => WantedOf::Name(Name::of_token(id)),
            ConnectionFilter::Topic(topic) => {
                let pattern = Pattern::parse(topic.as_str()).ok().filter(|pattern| !pattern.is_exact());
                WantedOf::Topic(topic.clone(), pattern.map(|pattern| pattern.normalized()))
            }
            ConnectionFilter::Address(address) => WantedOf::Address(address.to_canonical()),
        }
    }
}

/// Where a page begins or ends: a shard and a slot.
#[derive(Clone, Copy)]
struct Position {
    shard: usize,
    slot: u32,
}

impl Position {
    fn of(number: u64) -> Position {
        Position { shard: (number >> 32) as usize, slot: number as u32 }
    }

    fn number(self) -> u64 {
        (self.shard as u64) << 32 | u64::from(self.slot)
    }
}

impl Hub {
    /// At most `limit` connections of subscribers that the filter names (and at most
    /// [`ConnectionsPage::MOST`]): the first ones, or the ones that follow a page (see
    /// [`ConnectionsPage::next`]). Blocks until the shards have answered, for at most `patience`.
    ///
    /// A connection that stays while all pages are read is on exactly one of them. A page may be empty
    /// although others follow: the shards look through their connections piece by piece, between two
    /// deliveries, and where half of `patience` is over the page ends.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try. On a shard's thread it is always `WouldBlock`.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn connections_page(
        &self,
        filter: &ConnectionFilter,
        after: Option<u64>,
        limit: usize,
        patience: Duration,
    ) -> Result<ConnectionsPage, InspectError> {
        if shard_thread::is_current() {
            return Err(InspectError::WouldBlock);
        }
        let began = self.now();
        let deadline = began.saturating_add(patience);
        let _permit = self.inspections().connections.take(patience).ok_or(InspectError::Busy)?;
        let (limit, of) = (limit.clamp(1, ConnectionsPage::MOST), WantedOf::new(filter));
        let mut at = Position::of(after.unwrap_or(0));
        let mut connections = Vec::new();
        while at.shard < self.shards() {
            let wanted =
                WantedConnections { of: of.clone(), from: at.slot, limit: limit - connections.len() };
            let asked = self.ask_for_connections(at.shard, wanted)?;
            let found = asked.wait(deadline.saturating_sub(self.now()))?;
            connections.extend(found.connections);
            at = match found.next {
                Some(slot) => Position { slot, ..at },
                None => Position { shard: at.shard + 1, slot: 0 },
            };
            if connections.len() >= limit || self.now().saturating_sub(began) >= patience / 2 {
                break;
            }
        }
        let next = (at.shard < self.shards()).then(|| at.number());
        Ok(ConnectionsPage { connections, next })
    }
}
