//! The client of an arrival: whether it may have one more connection, and whether it is the operator.
//!
//! A connection is counted when it is accepted, where its peer is the client; else when the proxy's header or
//! the request names the client. It is counted until its socket is closed, whatever becomes of it.

use std::net::IpAddr;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::client_address::PeerAddress;
use fanfare_proto::client_limits::bound_for;
use fanfare_proto::head::RequestHead;
use fanfare_proto::limits::FullPolicy;
use fanfare_proto::link::Encoding;
use fanfare_proto::problem::ProblemKind;

use super::pending::{HEADS, OPERATOR_HEADS, Receiving};
use super::{Reply, peer_address};
use crate::admission::{Refusal, Subscribe, Via};
use crate::client_table::ClientBound;
use crate::response;
use crate::shard::Shard;

/// What is known of the client before its request is there.
#[derive(Clone, Copy, Default)]
pub(super) enum Counting {
    /// It is counted, or need not be.
    #[default]
    Done,
    /// The request will tell.
    AtRequest,
    /// It has as much as it may.
    Refused(ClientBound),
}

/// A bound that a subscription does not fit into.
#[derive(Clone, Copy)]
pub(super) enum NoRoom {
    /// [`crate::Limits::connections`].
    Connections,
    /// [`crate::Limits::details_bytes`].
    Details,
    /// [`crate::Limits::subscription_bytes`].
    Topics,
    /// [`crate::Limits::patterns`], or what it takes to find the patterns of a topic.
    Patterns,
    /// A bound of the client.
    Client(ClientBound),
}

impl<I: Io> Shard<I> {
    /// Counts a connection, as far as its client is known before the request: at the accept, and behind the
    /// header of a proxy.
    pub(super) fn count_connection(&mut self, socket: Socket, via: Via, now: Duration) -> Counting {
        let clients = &self.limits.clients;
        if !clients.look_at_addresses() {
            return Counting::Done;
        }
        match self.client_peer(socket, via) {
            // The request says which proxy's client it is, and whether it is the operator's.
            peer if clients.proxies.trusts(peer) || clients.operators.has_peer(peer, &clients.proxies) => {
                Counting::AtRequest
            }
            PeerAddress::Ip(address) => {
                self.count_client(socket, address, now).map_or_else(Counting::Refused, |()| Counting::Done)
            }
            PeerAddress::Unix | PeerAddress::Unknown => Counting::Done,
        }
    }

    /// Counts a connection whose client the request names.
    pub(super) fn count_at_request(
        &mut self,
        socket: Socket,
        via: Via,
        head: &RequestHead<'_>,
        now: Duration,
    ) -> Counting {
        let (clients, peer) = (&self.limits.clients, self.client_peer(socket, via));
        let address = clients.proxies.client_address(peer, head);
        // A request that a proxy makes itself is no client's.
        let address = address.filter(|address| !clients.proxies.contains(*address));
        match address.filter(|_| !clients.operators.has_sent(peer, head, &clients.proxies)) {
            Some(address) => {
                self.count_client(socket, address, now).map_or_else(Counting::Refused, |()| Counting::Done)
            }
            None => Counting::Done,
        }
    }

    /// Counts a connection of a client.
    fn count_client(&mut self, socket: Socket, address: IpAddr, now: Duration) -> Result<(), ClientBound> {
        let clients = &self.limits.clients;
        self.links.clients.connect(address, clients, now)?;
        if let Some(counted) = self.links.clients.enter(address, clients)? {
            self.counted.insert(socket, counted);
        }
        Ok(())
    }

    /// Counts a connection that came from another server, where the subscription says whose it is.
    pub(super) fn count_adopted(&mut self, socket: Socket, subscribe: &mut Subscribe) {
        let Some(address) = subscribe.client.take() else { return };
        match self.links.clients.enter(*address, &self.limits.clients) {
            Ok(Some(counted)) => self.counted.insert(socket, counted),
            Ok(None) => {}
            Err(bound) => subscribe.refused_by = Some(bound),
        }
    }

    /// Whether a request is the operator's.
    pub(super) fn is_from_operator(&self, socket: Socket, via: Via, head: &RequestHead<'_>) -> bool {
        let clients = &self.limits.clients;
        clients.operators.has_sent(self.client_peer(socket, via), head, &clients.proxies)
    }

    /// Whether a request that is acted on at once may need the reserve. While every bound has much room, the
    /// system need not be asked for the peer.
    pub(super) fn may_need_reserve(&self) -> bool {
        let is_half_full = |used: usize, bound: usize| used.saturating_mul(2) >= bound;
        is_half_full(self.delivery.len(), self.limits.connections)
            || is_half_full(self.arrivals.undecided.len(), self.limits.undecided)
            || is_half_full(self.delivery.subscription_bytes(), self.limits.subscription_bytes)
            || is_half_full(self.connections.bytes(), self.limits.details_bytes)
    }

    /// The queue of a head that is not complete. A few heads of the operator's are kept apart while room is
    /// scarce: those of a crowd are closed before them.
    pub(super) fn queue_of_head(&self, socket: Socket, receiving: &Receiving) -> usize {
        let (pending, bound, clients) = (&self.arrivals.pending, self.limits.pending, &self.limits.clients);
        let is_scarce = pending.len().saturating_mul(2) >= bound;
        let reserve = bound - bound_for(false, bound);
        let is_operators = is_scarce
            && pending.queue_len(OPERATOR_HEADS) < reserve
            && clients.operators.has_peer(self.client_peer(socket, receiving.via), &clients.proxies);
        if is_operators { OPERATOR_HEADS } else { HEADS }
    }

    /// Counts a connection without a request as turned away, if its client has as much as it may, and answers
    /// whether it is. Where so few others wait that room is not scarce, it may wait for its request, to learn
    /// why.
    pub(super) fn is_turned_away(&mut self, counting: Counting, others: usize) -> bool {
        let Counting::Refused(bound) = counting else { return false };
        let is_scarce = others.saturating_mul(2) >= self.limits.pending;
        let is_turned_away = is_scarce || self.limits.when_full == FullPolicy::Drop;
        if is_turned_away {
            self.count_no_room(NoRoom::Client(bound));
            self.counts.turned_away += 1;
        }
        is_turned_away
    }

    fn client_peer(&self, socket: Socket, via: Via) -> PeerAddress {
        match via {
            Via::Direct => peer_address(self.io.peer(socket)),
            Via::Proxied(client) => {
                client.map_or(PeerAddress::Unknown, |client| PeerAddress::Ip(client.ip()))
            }
        }
    }

    /// The configured answer to a subscriber that finds no room.
    pub(super) fn no_room(&mut self, subscribe: &Subscribe, encoding: Encoding, no_room: NoRoom) -> Reply {
        if self.limits.when_full != FullPolicy::EndStream {
            return self.refuse_or_close(no_room);
        }
        self.count_no_room(no_room);
        self.counts.refused += 1;
        let mut bytes = Vec::new();
        response::stream_head(subscribe, encoding, false, self.date, &mut bytes);
        fanfare_proto::frame::ending(self.jittered_retry_ms(), encoding, &mut bytes);
        Reply::Answer(bytes)
    }

    /// The answer where a stream cannot be the answer: a refusal, unless nothing is to be answered.
    pub(super) fn refuse_or_close(&mut self, no_room: NoRoom) -> Reply {
        self.count_no_room(no_room);
        if self.limits.when_full == FullPolicy::Drop {
            self.counts.refused += 1;
            return Reply::Close;
        }
        let least = match no_room {
            NoRoom::Client(ClientBound::ConnectRate { wait_s }) => u64::from(wait_s),
            _ => 0,
        };
        let wait = least + 1 + self.jitter.next_number() % 10;
        let refusal = Refusal::of(no_room.problem(), no_room.text());
        Reply::Refuse(refusal.own_header("Retry-After", &wait.to_string()))
    }

    pub(super) fn count_no_room(&mut self, no_room: NoRoom) {
        let counts = &mut self.counts;
        *match no_room {
            NoRoom::Connections => &mut counts.refused_full,
            NoRoom::Details | NoRoom::Topics => &mut counts.refused_for_memory,
            NoRoom::Patterns => &mut counts.refused_for_patterns,
            NoRoom::Client(ClientBound::Connections) => &mut counts.refused_for_address,
            NoRoom::Client(ClientBound::ConnectRate { .. }) => &mut counts.refused_for_connect_rate,
            NoRoom::Client(ClientBound::Subject) => &mut counts.refused_for_subject,
        } += 1;
    }
}

impl NoRoom {
    /// Those of a client's bounds have the status 429, and the others 503: other clients do not cause what
    /// 429 says (RFC 6585, section 4).
    fn problem(self) -> ProblemKind {
        match self {
            NoRoom::Connections => ProblemKind::ServerFull,
            NoRoom::Details | NoRoom::Topics => ProblemKind::SubscriptionMemoryFull,
            NoRoom::Patterns => ProblemKind::TooManyPatterns,
            NoRoom::Client(ClientBound::Connections) => ProblemKind::TooManyConnections,
            NoRoom::Client(ClientBound::ConnectRate { .. }) => ProblemKind::ConnectingTooOften,
            NoRoom::Client(ClientBound::Subject) => ProblemKind::TooManyStreams,
        }
    }

    fn text(self) -> &'static str {
        match self {
            NoRoom::Connections => "this server has as many subscribers as it may hold",
            NoRoom::Details => "the server's memory for the members of subscribers is used up",
            NoRoom::Topics => "the server's memory for the topics of subscribers is used up",
            NoRoom::Patterns => {
                "the server has as many patterns as it can look up; name topics, or fewer or other patterns"
            }
            NoRoom::Client(ClientBound::Connections) => "this address has as many connections as it may",
            NoRoom::Client(ClientBound::ConnectRate { .. }) => "this address connects too often",
            NoRoom::Client(ClientBound::Subject) => "this subject has as many streams as it may",
        }
    }
}
