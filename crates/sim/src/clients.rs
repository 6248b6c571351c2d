//! What each client of this world has: a count of its own, beside the engine's. A client is an address, or a
//! network of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fanfare::sim;

use crate::connection::Connection;
use crate::network::Net;
use crate::setting::Setting;
use crate::world::{Tick, World};

/// The address of a network of clients: that of its first one.
type Network = u128;

/// The counts of the engine are compared once in so many ticks of a shard.
const TICKS: u64 = 64;

/// What all clients have, on all shards.
#[derive(Default)]
pub(crate) struct ClientCounts(BTreeMap<Network, Has>);

/// What one client has.
#[derive(Clone, Copy, Default)]
struct Has {
    /// Sockets that are accepted and not closed.
    open: usize,
    /// Connections that it has ever made.
    made: usize,
}

/// What was known of a connection's client when it was accepted.
#[derive(Clone, Copy, Default)]
pub(crate) struct AcceptedClient {
    pub(crate) is_operator: bool,
    /// It counts among its client's.
    network: Option<Network>,
    /// The client has as many connections as it may, or has connected as often: this one may be refused.
    pub(crate) has_enough: bool,
}

impl ClientCounts {
    /// A connection from this address is accepted.
    pub(crate) fn accept(&mut self, address: IpAddr, setting: &Setting) -> AcceptedClient {
        let limits = &setting.limits.clients;
        let is_operator = limits.operators.contains(address);
        if is_operator || !limits.look_at_addresses() {
            return AcceptedClient { is_operator, ..AcceptedClient::default() };
        }
        let IpAddr::V6(bits) = address else { panic!("{address} is no address of this world") };
        let behind = 128 - u32::from(limits.ipv6_prefix_bits);
        let network = u128::from(bits) >> behind << behind;
        let has = self.0.entry(network).or_default();
        let has_enough = limits.connections_per_address.is_some_and(|most| has.open >= most)
            || limits.connect_rate().is_some_and(|rate| has.made as u64 >= rate.burst());
        has.open += 1;
        has.made += 1;
        AcceptedClient { is_operator, network: Some(network), has_enough }
    }

    /// The socket of such a connection is closed.
    pub(crate) fn close(&mut self, client: AcceptedClient) {
        if let Some(has) = client.network.and_then(|network| self.0.get_mut(&network)) {
            has.open -= 1;
        }
    }
}

impl World {
    /// No client has more than it may, and what the engine has counted is there.
    pub(crate) fn check_clients(&self, tick: &Tick) {
        let limits = &self.shared.setting.limits.clients;
        if limits.connections_per_address.is_none() && limits.streams_per_subject.is_none() {
            return;
        }
        // What is counted for nothing stays so.
        if self.shards[tick.shard].ticks.is_multiple_of(TICKS) || tick.after.is_draining {
            sim::check_clients(&self.shared.hub(), self.shards.iter().map(|shard| &shard.shard));
        }
        if tick.after.counts.subscribed == tick.before.counts.subscribed {
            return;
        }
        let (mut by_network, mut by_subject) = (BTreeMap::new(), BTreeMap::new());
        for shard in &self.shards {
            let net = shard.net.borrow();
            for it in net.connections.iter().filter(|it| it.was_stream() && !it.closed) {
                if let Some(network) = it.accepted.network {
                    *by_network.entry(network).or_insert(0) += 1;
                }
                if let Some(subject) = &it.verifier.request.wishes.subject {
                    *by_subject.entry(subject.clone()).or_insert(0) += 1;
                }
            }
        }
        let most_of = |counts: Vec<usize>| counts.into_iter().max().unwrap_or_default();
        if let Some(most) = limits.connections_per_address {
            assert!(most_of(by_network.into_values().collect()) <= most, "a client has too many streams");
        }
        if let Some(most) = limits.streams_per_subject {
            assert!(most_of(by_subject.into_values().collect()) <= most, "a subject has too many streams");
        }
    }

    /// Whether the subject of this connection may have as many streams as it may. Streams that have left in
    /// the tick may have left after this one came.
    pub(crate) fn has_subject_enough(&self, tick: &Tick, net: &Net, it: &Connection) -> bool {
        let Some(most) = self.shared.setting.limits.clients.streams_per_subject else { return false };
        let Some(subject) = &it.verifier.request.wishes.subject else { return false };
        let now = self.shared.now.get();
        let counts = |other: &&Connection| {
            other.verifier.is_stream
                && (!other.closed || other.closed_at == now)
                && other.verifier.request.wishes.subject.as_ref() == Some(subject)
        };
        let others = self.shards.iter().enumerate().filter(|(shard, _)| *shard != tick.shard);
        let elsewhere: usize =
            others.map(|(_, shard)| shard.net.borrow().connections.iter().filter(counts).count()).sum();
        elsewhere + net.connections.iter().filter(counts).count() >= most
    }
}
