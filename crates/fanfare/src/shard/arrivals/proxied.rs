//! The header of the PROXY protocol, where a listener expects one: which proxies may write it, and how it
//! is read before the request.
//!
//! A connection of another listener comes by here with one comparison.

use fanfare_io::{Io, Peer, Socket};
use fanfare_proto::client_address::PeerAddress;
use fanfare_proto::proxy_header::{self, ProxiedConnection, ProxyHeaderError};

use super::pending::Receiving;
use crate::admission::Via;
use crate::listeners::SharedProxies;
use crate::shard::Shard;

impl<I: Io> Shard<I> {
    /// Whether the other end of a fresh connection may name its client.
    pub(super) fn may_write_proxy_header(&self, socket: Socket, trusted: &SharedProxies) -> bool {
        trusted.trusts(peer_address(self.io.peer(socket)))
    }
}

/// The other end of a socket, as trust looks at it.
pub(crate) fn peer_address(peer: Option<Peer>) -> PeerAddress {
    match peer {
        Some(Peer::Ip(address)) => PeerAddress::Ip(address.ip()),
        Some(Peer::Unix) => PeerAddress::Unix,
        None => PeerAddress::Unknown,
    }
}

impl Receiving {
    /// Takes what was received while the header is expected, and whether the header is complete. Then it is
    /// removed, and what is left is the beginning of the request.
    ///
    /// # Errors
    /// It is no header, whatever may follow.
    pub(super) fn take_proxy_header(&mut self, fresh: &[u8]) -> Result<bool, ProxyHeaderError> {
        self.received.extend_from_slice(fresh);
        let Some(header) = proxy_header::parse(&self.received)? else { return Ok(false) };
        self.received.drain(..header.bytes);
        self.expects_proxy_header = false;
        self.via = match header.connection {
            ProxiedConnection::Own => Via::Direct,
            ProxiedConnection::From(client) => Via::Proxied(Some(client)),
            ProxiedConnection::FromUnix => Via::Proxied(None),
        };
        Ok(true)
    }
}
