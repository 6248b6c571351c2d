//! What an admission is shown: a request head, and what is known of its connection.

use std::fmt;
use std::net::SocketAddr;

use fanfare_proto::head::RequestHead;
use fanfare_proto::link::Transport;

/// A request: its head, and what is known of the connection on which it came.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    head: &'a RequestHead<'a>,
    transport: Transport,
    peer: Peer<'a>,
}

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
enum Peer<'a> {
    Known(Option<SocketAddr>),
    /// The kernel is asked when somebody wants to know: a system call that most admissions do not need.
    Ask(&'a dyn Fn() -> Option<SocketAddr>),
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
    /// assert!(matches!(decision, Decision::Subscribe(subscribe) if subscribe.topics()[0].as_str() == "news"));
    /// # Ok(()) }
    /// ```
    pub fn new(head: &'a RequestHead<'a>, transport: Transport, peer: Option<SocketAddr>) -> Request<'a> {
        Request { head, transport, peer: Peer::Known(peer) }
    }

    /// The same, with a peer that is looked up when it is asked for.
    pub(crate) fn with_peer(
        head: &'a RequestHead<'a>,
        transport: Transport,
        peer: &'a dyn Fn() -> Option<SocketAddr>,
    ) -> Request<'a> {
        Request { head, transport, peer: Peer::Ask(peer) }
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

    /// The other end of the connection: the client, or the last proxy before this server. `None`: the socket is not one of
    /// TCP, or the connection is gone already.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.peer {
            Peer::Known(peer) => peer,
            Peer::Ask(ask) => ask(),
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
