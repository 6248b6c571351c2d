//! Sockets whose requests are not subscriptions, on their way to another server in the same process.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fmt, io};

use fanfare_io::fd_channel::SocketReceiver;
use fanfare_io::{Peer, sockets};
use fanfare_proto::client_address::PeerAddress;
use fanfare_proto::client_limits::ClientLimits;

use crate::admission::Via;
use crate::shard::peer_address;
use crate::shard_thread;

/// Sockets whose requests are not subscriptions, for another server in the same process.
#[derive(Debug)]
pub struct HandOver {
    pub(crate) receiver: SocketReceiver,
}

/// One of them.
#[non_exhaustive]
pub struct HandedOver {
    /// The connection, non-blocking. One from a Unix socket comes as a `TcpStream`, too: it can be read and
    /// written, and has no addresses and no options of TCP. [`HandedOver::is_unix`] tells which it is; a
    /// `UnixStream` is made of it by way of an `OwnedFd`.
    pub socket: TcpStream,
    /// What was received of the request: at least its whole head. A header of the PROXY protocol before it
    /// was removed.
    pub received: Vec<u8>,
    via: Via,
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The head may have a password in it.
        f.debug_struct("HandedOver")
            .field("socket", &self.socket)
            .field("received_bytes", &self.received.len())
            .field("via", &self.via)
            .finish()
    }
}

impl HandedOver {
    /// The client, as [`crate::Request::peer`] tells it.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.via {
            Via::Direct => self.socket.peer_addr().ok(),
            Via::Proxied(client) => client,
        }
    }

    /// Whether the connection came by a Unix socket.
    pub fn is_unix(&self) -> bool {
        sockets::is_unix(self.socket.as_fd())
    }

    /// Whether the other end of the connection is a proxy that speaks the PROXY protocol. Then
    /// [`HandedOver::peer`] is what it says of its client, also where that is `None`.
    pub fn is_proxied(&self) -> bool {
        self.via != Via::Direct
    }

    /// What the connection tells of its client, for all requests that come on it: [`crate::Request::on`].
    pub fn origin(&self) -> ConnectionOrigin {
        ConnectionOrigin { via: self.via, peer: sockets::peer(self.socket.as_fd()) }
    }

    /// The last proxy, as [`crate::Request::proxy`] tells it.
    pub fn proxy(&self) -> Option<SocketAddr> {
        match self.via {
            Via::Direct => None,
            Via::Proxied(_) => self.socket.peer_addr().ok(),
        }
    }
}

/// Where the bytes of a connection come from: the other end of it, and the client that a proxy has named by
/// the PROXY protocol. See [`HandedOver::origin`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOrigin {
    pub(crate) via: Via,
    pub(crate) peer: Option<Peer>,
}

impl ConnectionOrigin {
    /// Whether the connection is the operator's, as far as it tells itself: its requests may come from others
    /// ([`crate::Request::is_from_operator`]).
    pub fn is_operators(&self, clients: &ClientLimits) -> bool {
        clients.operators.has_peer(self.client_peer(), &clients.proxies)
    }

    /// The client that the connection is counted for: none for the operator, and none where a trusted proxy
    /// is on the other end, whose connections carry requests of several clients.
    pub fn counted_client(&self, clients: &ClientLimits) -> Option<IpAddr> {
        match self.client_peer() {
            peer if clients.proxies.trusts(peer) || self.is_operators(clients) => None,
            PeerAddress::Ip(address) => Some(address),
            PeerAddress::Unix | PeerAddress::Unknown => None,
        }
    }

    fn client_peer(&self) -> PeerAddress {
        match self.via {
            Via::Direct => peer_address(self.peer),
            Via::Proxied(client) => {
                client.map_or(PeerAddress::Unknown, |client| PeerAddress::Ip(client.ip()))
            }
        }
    }
}

impl HandOver {
    /// Waits for the next socket, at most `timeout`.
    ///
    /// # Errors
    /// `UnexpectedEof`: the engine has stopped. `WouldBlock`: the calling thread is a shard, which would wait
    /// for what it is to send itself. Others (`EMFILE`) concern one socket, which is lost.
    pub fn receive(&mut self, timeout: Option<Duration>) -> io::Result<Option<HandedOver>> {
        if shard_thread::is_current() {
            let text = "a shard's thread cannot wait for sockets that shards hand over";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        let mut received = Vec::new();
        if !self.receiver.wait(timeout)? {
            return Ok(None);
        }
        let Some(socket) = self.receiver.receive(&mut received)? else { return Ok(None) };
        let via = take_via(&mut received);
        Ok(Some(HandedOver { socket: TcpStream::from(socket), received, via }))
    }
}

/// Bytes that [`message`] adds at most, where a proxy has named a client. Otherwise it adds one.
pub(crate) const CLIENT_BYTES: usize = 64;

/// What goes with the socket: what was received, and behind it the client of a proxy as a text, and the
/// length of that text.
pub(crate) fn message(received: &[u8], via: Via) -> Vec<u8> {
    let text = match via {
        Via::Direct => String::new(),
        Via::Proxied(None) => "-".to_owned(),
        Via::Proxied(Some(client)) => client.to_string(),
    };
    debug_assert!(text.len() < CLIENT_BYTES, "an address has at most 58 characters");
    [received, text.as_bytes(), &[text.len() as u8]].concat()
}

fn take_via(message: &mut Vec<u8>) -> Via {
    let length = usize::from(message.pop().unwrap_or(0));
    let text = message.split_off(message.len().saturating_sub(length));
    match std::str::from_utf8(&text) {
        Ok("") => Via::Direct,
        // Where it were not one of ours, nothing would be known.
        text => Via::Proxied(text.ok().and_then(|text| text.parse().ok())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_goes_with_the_socket() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".parse().unwrap();
        for via in [
            Via::Direct,
            Via::Proxied(None),
            Via::Proxied(Some("192.0.2.1:7".parse().unwrap())),
            Via::Proxied(Some(longest)),
        ] {
            for received in [&b""[..], b"GET / HTTP/1.0\r\n\r\n", &[b'9'; 300]] {
                let mut message = message(received, via);
                assert!(message.len() <= received.len() + CLIENT_BYTES);
                assert_eq!((take_via(&mut message), message.as_slice()), (via, received));
            }
        }
    }
}
