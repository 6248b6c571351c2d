//! What an admission is shown: a request head, and what is known of its connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use fanfare_io::Peer;
use fanfare_proto::client_address::{PeerAddress, TrustedProxies};
use fanfare_proto::client_limits::ClientLimits;
use fanfare_proto::head::RequestHead;
use fanfare_proto::link::Transport;

use crate::hand_over::ConnectionOrigin;
use crate::shard::peer_address;

/// A request: its head, and what is known of the connection on which it came.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    head: &'a RequestHead<'a>,
    transport: Transport,
    via: Via,
    socket_peer: SocketPeer<'a>,
}

/// How a client's bytes come to this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Via {
    /// The client is the other end of the socket.
    #[default]
    Direct,
    /// The other end is a proxy, which has named its client by the PROXY protocol. `None`: its client has no
    /// address.
    Proxied(Option<SocketAddr>),
}

/// The other end of the socket.
#[derive(Clone, Copy)]
enum SocketPeer<'a> {
    Known(Option<Peer>),
    /// The kernel is asked when the admission asks: most admissions do not need this system call.
    Ask(&'a dyn Fn() -> Option<Peer>),
}

impl<'a> Request<'a> {
    /// A request that another server has received, or one for a test of an admission.
    ///
    /// ```
    /// use fanfare::{Decision, HeadLimits, Request, RequestHead, Subscribe, Transport};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let admit = |request: &Request<'_>| match Subscribe::from_request(request, 8) {
    ///     Ok(subscribe) => Decision::Subscribe(subscribe),
    ///     Err(error) => Decision::Refuse(error.into()),
    /// };
    /// let head = RequestHead::from_parts("GET", "/events?topic=news", 1, [])?;
    /// let peer = Some("192.0.2.1:40000".parse()?);
    /// let decision = admit(&Request::new(&head, Transport::Http1, peer));
    /// let Decision::Subscribe(subscribe) = decision else { panic!("it is let in") };
    /// assert_eq!(subscribe.topics()[0].as_str(), "news");
    /// # Ok(()) }
    /// ```
    pub fn new(head: &'a RequestHead<'a>, transport: Transport, peer: Option<SocketAddr>) -> Request<'a> {
        let socket_peer = SocketPeer::Known(peer.map(Peer::Ip));
        Request { head, transport, via: Via::Direct, socket_peer }
    }

    /// The same for a request that came by a Unix socket.
    pub fn on_unix_socket(head: &'a RequestHead<'a>, transport: Transport) -> Request<'a> {
        Request { head, transport, via: Via::Direct, socket_peer: SocketPeer::Known(Some(Peer::Unix)) }
    }

    /// A request that another server has received on a connection which was handed over to it.
    pub fn on(head: &'a RequestHead<'a>, transport: Transport, origin: ConnectionOrigin) -> Request<'a> {
        Request { head, transport, via: origin.via, socket_peer: SocketPeer::Known(origin.peer) }
    }

    /// The same, with a peer that is looked up when it is asked for.
    pub(crate) fn with_peer(
        head: &'a RequestHead<'a>,
        transport: Transport,
        via: Via,
        peer: &'a dyn Fn() -> Option<Peer>,
    ) -> Request<'a> {
        Request { head, transport, via, socket_peer: SocketPeer::Ask(peer) }
    }

    /// The whole head.
    pub fn head(&self) -> &'a RequestHead<'a> {
        self.head
    }

    /// The method, as it was sent: methods are case-sensitive (RFC 9110, section 9.1).
    pub fn method(&self) -> &'a str {
        self.head.method()
    }

    /// The path, without the query and not decoded.
    pub fn path(&self) -> &'a str {
        self.head.path()
    }

    /// The query, without the `?` and not decoded.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query()
    }

    /// The value of the first field with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.head.header(name)
    }

    /// The client, as far as the connection itself tells: the other end of it. Where that is a proxy that
    /// speaks the PROXY protocol ([`crate::Listener::with_proxy_protocol`]), the client that it has named.
    /// Where it is a proxy that writes fields of HTTP instead, this is the proxy: see
    /// [`Request::client_address`].
    ///
    /// `None`: it came by a Unix socket, to this server or to the proxy, or the connection is gone already.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.via {
            Via::Direct => self.socket_peer().and_then(Peer::address),
            Via::Proxied(client) => client,
        }
    }

    /// The proxy that has named [`Request::peer`] by the PROXY protocol: the other end of the connection.
    /// `None`: none has, or it came by a Unix socket.
    pub fn proxy(&self) -> Option<SocketAddr> {
        match self.via {
            Via::Direct => None,
            Via::Proxied(_) => self.socket_peer().and_then(Peer::address),
        }
    }

    /// The address of the client behind proxies that write `X-Forwarded-For` or `Forwarded` (RFC 7239).
    ///
    /// - Where [`Request::peer`] is not trusted, it is the client, whatever the fields say.
    /// - Where it is trusted, the field is read from the right. Addresses that are trusted are proxies, too,
    ///   and are skipped; the first one that is not is the client. Where all are trusted, the last one is it.
    /// - `None`: it is not known. The proxy next to the client hides it (`unknown`, `_name`), or the field is
    ///   not well-formed there. What stands left of that is the client's own words, which no proxy has
    ///   checked.
    ///
    /// Where both fields are there, `X-Forwarded-For` is read and the other one ignored, because nearly all
    /// proxies write the former, and pass on a `Forwarded` as the client sent it. Where the proxies write
    /// only `Forwarded`, say so: [`TrustedProxies::with_field`]. Several fields of one name are one list.
    ///
    /// ```
    /// use fanfare::{Request, RequestHead, Transport, TrustedProxies};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let trusted: TrustedProxies = "10.0.0.0/8".parse()?;
    /// // The client has sent 6.6.6.6 itself; the proxy has added the address that it saw.
    /// let fields = [("Host", &b"h"[..]), ("X-Forwarded-For", b"6.6.6.6, 192.0.2.7")];
    /// let head = RequestHead::from_parts("GET", "/events", 1, fields)?;
    ///
    /// let request = Request::new(&head, Transport::Http1, Some("10.0.0.1:40000".parse()?));
    /// assert_eq!(request.client_address(&trusted), Some("192.0.2.7".parse()?));
    /// // Without the proxy, the field is the client's own.
    /// let request = Request::new(&head, Transport::Http1, Some("203.0.113.9:40000".parse()?));
    /// assert_eq!(request.client_address(&trusted), Some("203.0.113.9".parse()?));
    /// # Ok(()) }
    /// ```
    pub fn client_address(&self, trusted: &TrustedProxies) -> Option<IpAddr> {
        trusted.client_address(self.peer_of_client(), self.head)
    }

    /// Whether the request is the operator's, so that it may use the reserve:
    /// [`crate::Operators::has_sent`]. `clients` are the bounds in force, [`crate::Limits::clients`].
    pub fn is_from_operator(&self, clients: &ClientLimits) -> bool {
        clients.operators.has_sent(self.peer_of_client(), self.head, &clients.proxies)
    }

    /// The client whose connections are counted: `None` for the operator, for a request of a proxy's own, and
    /// where the client has no address.
    pub fn counted_client(&self, clients: &ClientLimits) -> Option<IpAddr> {
        let address = self.client_address(&clients.proxies)?;
        (!clients.proxies.contains(address) && !self.is_from_operator(clients)).then_some(address)
    }

    fn peer_of_client(&self) -> PeerAddress {
        match self.via {
            Via::Direct => peer_address(self.socket_peer()),
            Via::Proxied(client) => {
                client.map_or(PeerAddress::Unknown, |client| PeerAddress::Ip(client.ip()))
            }
        }
    }

    fn socket_peer(&self) -> Option<Peer> {
        match self.socket_peer {
            SocketPeer::Known(peer) => peer,
            SocketPeer::Ask(ask) => ask(),
        }
    }

    /// How bytes travel over the connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Fields may hold secrets.
        let Request { head, transport, .. } = self;
        f.debug_struct("Request")
            .field("method", &head.method())
            .field("path", &head.path())
            .field("transport", transport)
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
