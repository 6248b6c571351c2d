//! Answers a question about connections, a part of the streams in each tick.

use std::net::IpAddr;
use std::time::Duration;

use fanfare_io::{Io, Peer, Socket};
use fanfare_proto::delivery::StreamState;
use fanfare_proto::link::LinkKey;

use super::Shard;
use crate::connection::ConnectionId;
use crate::inspect::connections::{
    ConnectionLag, ConnectionState, ConnectionsQuestion, FoundConnections, WantedOf,
};

/// Slots that one question makes a shard look at: then it answers what it has found, so that the asker can
/// give up.
const SLOTS_PER_QUESTION: usize = 1 << 16;

/// What it counts to ask the kernel for a peer, and to note a connection for the answer: in slots that are
/// looked at. A system call takes about as long as some tens of slots, so one tick asks for 32 peers or so.
const PEER_COST: usize = 32;
const FOUND_COST: usize = 8;

/// A question that is being answered.
pub(super) struct Listing {
    question: Box<ConnectionsQuestion>,
    next_slot: usize,
    /// Where this question ends at the latest.
    end: usize,
    found: Vec<ConnectionState>,
}

impl Listing {
    pub(super) fn new(question: Box<ConnectionsQuestion>) -> Listing {
        let next_slot = question.about.from as usize;
        Listing { question, next_slot, end: next_slot + SLOTS_PER_QUESTION, found: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.question.about.limit
    }
}

impl<I: Io> Shard<I> {
    /// Goes on with the question about connections, as far as the budget of one tick goes.
    pub(super) fn step_listing(&mut self, now: Duration) {
        let Some(mut listing) = self.listing.take_if(|listing| listing.question.is_wanted()) else {
            self.listing = None;
            return;
        };
        let slots = self.delivery.slots_end();
        let end = listing.end.min(slots);
        let mut left = self.delivery.states_per_tick();
        while left > 0 && listing.next_slot < end && !listing.is_full() {
            let slot = listing.next_slot;
            listing.next_slot += 1;
            left -= 1;
            let Some((link, socket)) = self.delivery.link_in(slot) else { continue };
            if matches!(listing.question.about.of, WantedOf::Address(_)) {
                left = left.saturating_sub(PEER_COST);
            }
            if self.is_wanted(&listing.question.about.of, link, socket)
                && let Some(state) = self.delivery.state_of(link)
            {
                left = left.saturating_sub(FOUND_COST);
                listing.found.push(self.described(&state, now));
            }
        }
        if listing.next_slot < end && !listing.is_full() {
            self.listing = Some(listing);
            return;
        }
        let next = (listing.next_slot < slots).then_some(listing.next_slot as u32);
        listing.question.answer(FoundConnections { connections: listing.found, next });
    }

    fn is_wanted(&self, of: &WantedOf, link: LinkKey, socket: Socket) -> bool {
        match of {
            WantedOf::All => true,
            WantedOf::Name(name) => self.connections.names_of(link).have(*name),
            WantedOf::Topic(topic, pattern) => self.delivery.state_of(link).is_some_and(|state| {
                let has_pattern = |pattern| state.subscription.has_pattern(pattern);
                state.subscription.has(topic) || pattern.as_ref().is_some_and(has_pattern)
            }),
            WantedOf::Address(address) => {
                let peer = self.io.peer(socket).and_then(Peer::address);
                let is_peer = peer.is_some_and(|peer| peer.ip().to_canonical() == *address);
                // A network of IPv6 is one client.
                let is_client = |client| client == self.client_key(*address);
                is_peer || self.client_of(socket).is_some_and(is_client)
            }
        }
    }

    /// The client that a connection is counted for.
    fn client_of(&self, socket: Socket) -> Option<IpAddr> {
        self.counted.get(socket).and_then(|counted| self.links.clients.address(counted))
    }

    /// The client that a connection of this address would be counted for.
    fn client_key(&self, address: IpAddr) -> IpAddr {
        fanfare_proto::client_limits::address_of_key(self.limits.clients.address_key(address))
    }

    fn described(&self, state: &StreamState<'_>, now: Duration) -> ConnectionState {
        let StreamState { link, socket, subscription, .. } = *state;
        let topics: Vec<_> = subscription.topics().iter().take(ConnectionState::TOLD).cloned().collect();
        let left = ConnectionState::TOLD - topics.len();
        let (subject, data, began_at) = match self.connections.known_of(link) {
            Some((subject, data, began_at)) => (subject, data, Some(began_at)),
            None => (None, None, None),
        };
        ConnectionState {
            id: ConnectionId::new(self.links.engine, self.links.log.shard(), link),
            peer: self.io.peer(socket).and_then(Peer::address),
            client: self.client_of(socket),
            topics,
            patterns: subscription.patterns().iter().take(left).cloned().collect(),
            selectors: subscription.selectors(),
            encoding: subscription.encoding(),
            cursor: self.delivery.cursor(state.cursor),
            lag: state.behind.map(|behind| ConnectionLag {
                numbers: behind.numbers,
                standing: now.saturating_sub(behind.progress_at),
                unsent_bytes: behind.unsent_bytes,
            }),
            silent: now.saturating_sub(state.sent_at),
            ends_in: state.ends_at.map(|at| at.saturating_sub(now)),
            subject,
            data,
            age: began_at.map(|at| now.saturating_sub(at)),
        }
    }
}
