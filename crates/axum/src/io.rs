//! The connection as hyper sees it, until the engine takes its socket over.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::{Connection, Reader};
use crate::settle;
use crate::socket::{Socket, Takeable};
use crate::takeover::{self, MarkedHead};

/// A connected socket that the engine can take over.
///
/// It passes bytes on as the socket itself would, until hyper writes the head of a [`crate::Subscription`]
/// into it. Then it gives the socket and the head to the engine, and looks to hyper like a connection that
/// the client has closed. [`crate::Listener`] makes it; with hyper alone, give it to `serve_connection`,
/// inside of a `TokioIo`.
pub struct Io {
    state: State,
    connection: Connection,
    reader: Reader,
    /// What the server in front has received before.
    received: Bytes,
    /// What is left of an answer that was changed here.
    rest: Bytes,
    /// Whether what hyper writes next begins a response.
    at_start: bool,
}

enum State {
    Open(Socket),
    /// The engine was busy, or the answer is a refusal.
    Settling(Settling),
    /// The socket belongs to the engine, or has got its whole answer.
    Gone,
}

type Settling = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Io {
    /// A connection of a `TcpListener` or `UnixListener` of tokio.
    pub fn new(socket: impl Takeable) -> Io {
        Io::with_received(socket, Bytes::new())
    }

    /// The same, where the server in front has received these bytes before: hyper reads them first.
    pub fn with_received(socket: impl Takeable, received: impl Into<Bytes>) -> Io {
        let socket = socket.into_socket();
        let connection = Connection::new(socket.peer());
        Io {
            state: State::Open(socket),
            connection,
            reader: Reader::default(),
            received: received.into(),
            rest: Bytes::new(),
            at_start: true,
        }
    }

    /// The same connection with another client than the socket's peer, where a server in front has named it
    /// (the PROXY protocol, say): [`Connection::peer`] and [`crate::Subscriber::peer`] tell this address.
    /// `None`: the client has none. Call it before the connection is served.
    pub fn with_peer(mut self, peer: Option<SocketAddr>) -> Io {
        self.reader.leave(&self.connection);
        self.connection = Connection::new(peer);
        self
    }

    /// The connection: to put it into the extensions of its requests, where a service runs in other tasks
    /// than hyper.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The TCP socket, while it is this connection's: for its options.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.state {
            State::Open(Socket::Tcp(socket)) => Some(socket),
            _ => None,
        }
    }

    /// The Unix socket, while it is this connection's.
    pub fn unix(&self) -> Option<&UnixStream> {
        match &self.state {
            State::Open(Socket::Unix(socket)) => Some(socket),
            _ => None,
        }
    }

    /// The open socket, when it has taken what was changed here; `None`: there is none any more.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Pin<&mut Socket>>>> {
        let State::Open(socket) = &mut self.state else { return Poll::Ready(Ok(None)) };
        while !self.rest.is_empty() {
            match ready!(Pin::new(&mut *socket).poll_write(context, &self.rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.rest.advance(count),
            }
        }
        Poll::Ready(Ok(Some(Pin::new(socket))))
    }

    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let State::Settling(settling) = &mut self.state {
            ready!(settling.as_mut().poll(context));
            self.state = State::Gone;
        }
        Poll::Ready(())
    }

    /// Looks at what hyper is about to write. Where it is the head of a subscription, it is taken, and this
    /// says how much.
    fn take_head(&mut self, written: &[u8], more: bool) -> io::Result<Option<usize>> {
        if !self.at_start {
            if takeover::is_joined(written) {
                let text = "the head of a subscription was joined with an earlier answer";
                tracing::error!("a connection is closed: {text}; hyper's pipeline_flush does this");
                return Err(io::Error::other(text));
            }
            return Ok(None);
        }
        let Some(marked) = MarkedHead::find(written) else {
            self.begin_answer();
            // A second head behind the first one is noticed here.
            return self.take_head(written, more);
        };
        let promised = takeover::take(marked.key);
        let (Some(promised), State::Open(_)) = (promised, &self.state) else {
            // A layer has put another body behind the head, which is ordinary then.
            self.rest = marked.without_mark().into();
            self.begin_answer();
            return Ok(Some(written.len()));
        };
        if let State::Open(socket) = std::mem::replace(&mut self.state, State::Gone)
            && let Some(settling) = settle::take_over(socket, promised, &marked, more)
        {
            self.state = State::Settling(settling);
        }
        Ok(Some(written.len()))
    }

    fn begin_answer(&mut self) {
        self.at_start = false;
        self.connection.writes();
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = &mut *self;
        io.reader.note(&io.connection);
        ready!(io.poll_settled(context));
        let State::Open(socket) = &mut io.state else { return Poll::Ready(Ok(())) };
        if !io.received.is_empty() {
            let count = io.received.len().min(buffer.remaining());
            buffer.put_slice(&io.received.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let io = &mut *self;
        if ready!(io.poll_open(context))?.is_none() {
            // The end of a body that the engine writes now.
            return Poll::Ready(Ok(bytes.len()));
        }
        if let Some(taken) = io.take_head(bytes, false)? {
            return Poll::Ready(Ok(taken));
        }
        let State::Open(socket) = &mut io.state else { return Poll::Ready(Ok(bytes.len())) };
        Pin::new(socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = &mut *self;
        let length = || slices.iter().map(|slice| slice.len()).sum();
        if ready!(io.poll_open(context))?.is_none() {
            return Poll::Ready(Ok(length()));
        }
        for (index, slice) in slices.iter().enumerate().filter(|(_, slice)| !slice.is_empty()) {
            // hyper has a head in one piece.
            let more = slices[index + 1..].iter().any(|slice| !slice.is_empty());
            if io.take_head(slice, more)?.is_some() {
                return Poll::Ready(Ok(slice.len()));
            }
        }
        let State::Open(socket) = &mut io.state else { return Poll::Ready(Ok(length())) };
        Pin::new(socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = &mut *self;
        ready!(io.poll_settled(context));
        if let Some(socket) = ready!(io.poll_open(context))? {
            ready!(socket.poll_flush(context))?;
        }
        // hyper flushes when it has nothing left to write.
        if !io.at_start {
            io.at_start = true;
            io.connection.has_written();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = &mut *self;
        ready!(io.poll_settled(context));
        match ready!(io.poll_open(context))? {
            Some(socket) => socket.poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.reader.leave(&self.connection);
    }
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open(_) => "open",
            State::Settling(_) => "settling",
            State::Gone => "gone",
        };
        f.debug_struct("Io")
            .field("connection", &self.connection)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
