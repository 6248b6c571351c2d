//! What a backend must provide. Written before the backends, and checked by one conformance suite
//! (`tests/conformance.rs`) that runs on every one of them.
//!
//! The seam is *readiness in, batches out, nothing in flight*:
//!
//! - [`Io::wait`] collects notifications and runs no handler. The caller acts afterwards.
//! - Every operation on sockets is over when its call returns. No buffer outlives the call that
//!   borrowed it, so a frame can be shared and a dying connection needs no cancellation dance.
//! - A batch reports only its exceptions. A socket that took every byte is not mentioned.
//! - Notifications are edges. One that arrives late or twice is harmless: the caller's [`Token`]
//!   carries a generation, and a stale one finds nothing.
//!
//! A descriptor number means something only on the thread that got it here: a shard may have a
//! descriptor table of its own (see [`crate::table`]).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

/// A socket's descriptor number in the calling thread's descriptor table.
pub type Socket = RawFd;

/// The caller's name for a watched socket: it comes back in each [`Notification::Ready`].
///
/// Any value below [`Token::LIMIT`] is the caller's; the rest belong to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Tokens from here up are the backend's own.
    pub const LIMIT: u64 = 1 << 62;
}

/// What [`Io::wait`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A new non-blocking connection, not watched yet. It is open until [`Io::close`].
    Accepted {
        /// The connection.
        socket: Socket,
        /// The listener that it came from: 0 for the first that was given to [`Io::listen`] or
        /// [`Io::listen_shared`].
        listener: usize,
    },
    /// `accept` failed with this `errno` for want of descriptors or memory (`EMFILE`, `ENFILE`,
    /// `ENOBUFS`, `ENOMEM`). Nothing more is accepted until [`Io::resume_accept`].
    AcceptFailed(i32),
    /// A watched socket changed. At least one of the three is true.
    Ready {
        /// The name given to [`Io::watch`].
        token: Token,
        /// There may be bytes to receive.
        readable: bool,
        /// There may be room to send.
        writable: bool,
        /// The peer closed, half-closed or reset: nothing more will come from it.
        hung_up: bool,
    },
    /// The [`crate::Waker`] was used at least once since the last wait.
    Woken,
}

/// A send of a batch that was not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The position in the batch.
    pub index: usize,
    /// How many bytes the socket took: always less than were offered.
    pub sent: usize,
    /// Why it stopped.
    pub cause: Cause,
}

/// Why a send was not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The socket is full. A `writable` notification follows when there is room again.
    Full,
    /// The connection is gone; the `errno` says how (`EPIPE`, `ECONNRESET`, ...).
    Gone(i32),
}

/// What [`Io::receive`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing is there now; a `readable` notification follows when something is.
    Empty,
    /// The peer has ended its side.
    Ended,
    /// The connection is gone; the `errno` says how.
    Gone(i32),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It has this address on the Internet.
    Ip(SocketAddr),
    /// It is on the same machine (`AF_UNIX`).
    Unix,
}

impl Peer {
    /// Its address on the Internet.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

/// A shard's access to its sockets: epoll, io_uring, or a simulator's fake.
///
/// One instance belongs to the thread that opened it, to its end.
pub trait Io {
    /// Starts to accept on a listening socket. The backend owns it until [`Io::stop_listening`].
    ///
    /// # Errors
    /// The kernel refused to watch the socket.
    fn listen(&mut self, listener: OwnedFd) -> io::Result<()>;

    /// The same for a socket on which other backends accept, too: each has its own descriptor of it. A
    /// connection wakes one of the backends that wait, one after the other.
    ///
    /// # Errors
    /// As [`Io::listen`].
    fn listen_shared(&mut self, listener: OwnedFd) -> io::Result<()>;

    /// Accepts again after [`Notification::AcceptFailed`].
    fn resume_accept(&mut self);

    /// Closes the listening sockets. Connections in their backlog are reset by the kernel, those that
    /// were accepted stay.
    fn stop_listening(&mut self);

    /// Reports readiness of `socket` under `token` from now on, as edges, until [`Io::close`] or
    /// [`Io::unwatch`]. What is ready at this moment is reported too.
    ///
    /// # Errors
    /// The kernel refused: its limit of watches or memory is reached.
    fn watch(&mut self, socket: Socket, token: Token) -> io::Result<()>;

    /// Reports from now on that `socket` has something to receive, or that it has ended. The backend may
    /// leave out that the socket can be written to, because the shard sends nothing while it receives a
    /// request. Otherwise this is like [`Io::watch`].
    ///
    /// # Errors
    /// As [`Io::watch`].
    fn watch_incoming(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        self.watch(socket, token)
    }

    /// Waits until something happens or `timeout` has passed (`None`: without end; zero: only checks),
    /// and appends what was seen. It appends a bounded number and keeps the rest for the next call.
    ///
    /// # Errors
    /// Only what no shard can survive (`EBADF`, `EINVAL`); an interrupted wait returns early instead.
    fn wait(&mut self, timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()>;

    /// Sends the same bytes to each socket, and appends those that did not take all of them, in no
    /// particular order.
    fn send_batch(
        &mut self,
        bytes: &[u8],
        sockets: impl ExactSizeIterator<Item = Socket>,
        exceptions: &mut Vec<Exception>,
    );

    /// Sends bytes of its own to each socket; otherwise like [`Io::send_batch`].
    fn send_each<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    );

    /// Receives what is there, at most `buffer.len()` bytes.
    fn receive(&mut self, socket: Socket, buffer: &mut [u8]) -> Received;

    /// The other end of a connection; `None`: it is gone.
    fn peer(&self, socket: Socket) -> Option<Peer>;

    /// Appends those of these sockets whose peer has ended its side or is gone. They need not be watched.
    fn find_ended(&mut self, sockets: &[Socket], ended: &mut Vec<Socket>);

    /// Ends our side of the stream: the peer reads to its end, then sees an orderly close.
    fn finish(&mut self, socket: Socket);

    /// Takes a connected, non-blocking socket that came another way, as if it had been accepted.
    fn adopt(&mut self, socket: OwnedFd) -> Socket;

    /// Stops watching (where `token` is given) and closes each socket. What is never closed here is closed
    /// when the backend is dropped.
    ///
    /// # Panics
    /// One of them was neither accepted nor adopted, or has been closed.
    fn close(&mut self, sockets: &[(Socket, Option<Token>)]);

    /// Stops watching a socket without closing it: a copy of it can be handed to another thread, or it
    /// watched anew.
    fn unwatch(&mut self, socket: Socket, token: Token);
}
