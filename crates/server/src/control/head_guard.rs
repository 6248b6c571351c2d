//! A socket that lets through only request heads that a shard would take.
//!
//! The control plane's HTTP library is more lenient than a shard: it resolves a `Content-Length` beside a
//! `Transfer-Encoding` where we refuse both, and it never shows the service what it resolved. So that a
//! connection that is kept open is no way around the rules, each head is held back until [`HeadScanner`] has
//! read it.
//!
//! Where the next head begins is known behind a body of a known length. Behind a body in chunks it is not,
//! unless one takes the chunks apart: such a request is the last one of its connection ([`is_last`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::http::{HeaderMap, Uri, header};
use fanfare::{HeadError, HeadLimits, HeadScanner};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::control_connections::ControlConnection;
use super::limits::WRITE_TIME;

/// What the library gets instead of a head that is refused, so that the answers before it go out first.
const STAND_IN: &[u8] = b"GET /refused HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// Why a head was refused. Once it is set, the next request that the service sees is the stand-in: the
/// library reads on only when it has given out all requests that it has read.
pub(super) type Refused = Arc<OnceLock<HeadError>>;

/// Whether no further request is read on the connection of this one.
pub(super) fn is_last(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
}

/// Reads give the received bytes first, then the socket's.
pub(super) struct HeadGuard {
    socket: TcpStream,
    limits: HeadLimits,
    /// Received, and not yet given out.
    held: Vec<u8>,
    /// Bytes before the next head begins; at zero, `held` begins with it.
    before_head: u64,
    scanner: HeadScanner,
    refused: Refused,
    /// Since the socket was found full, until it takes something.
    stalled: Option<Pin<Box<Sleep>>>,
    connection: Arc<ControlConnection>,
}

impl HeadGuard {
    pub(super) fn new(
        received: Vec<u8>,
        socket: TcpStream,
        limits: HeadLimits,
        connection: Arc<ControlConnection>,
    ) -> HeadGuard {
        HeadGuard {
            socket,
            limits,
            held: received,
            before_head: 0,
            scanner: HeadScanner::new(),
            refused: Refused::default(),
            stalled: None,
            connection,
        }
    }

    /// Where the reason of a refusal will stand.
    pub(super) fn refused(&self) -> Refused {
        Arc::clone(&self.refused)
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.socket
    }

    /// Reads the head that `held` begins with, and lets it and its body pass once it is whole.
    fn scan(&mut self) {
        let parsed = self.scanner.parse(&self.held, &self.limits);
        let length = parsed.and_then(|head| match head {
            None => Ok(None),
            // The library takes fewer bytes in a path, and no length near the end of 64 bits; it gives no
            // reasons.
            Some((head, _)) if Uri::try_from(head.target()).is_err() => Err(HeadError::TargetByte),
            Some((head, _)) if head.content_length() > Some(u64::MAX >> 1) => Err(HeadError::ContentLength),
            Some((head, len)) => {
                let chunked = head.has_body() && head.content_length().is_none();
                let body = if chunked { u64::MAX } else { head.content_length().unwrap_or(0) };
                Ok(Some(body.saturating_add(len as u64)))
            }
        });
        match length {
            Ok(None) => {}
            Ok(Some(whole)) => {
                self.before_head = whole;
                self.scanner = HeadScanner::new();
            }
            Err(error) => {
                // It is set once: nothing behind a refused head is read.
                let _ = self.refused.set(error);
                self.held = STAND_IN.to_vec();
                self.before_head = u64::MAX;
            }
        }
    }

    /// Gives out what may pass of what is held.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let passing = usize::try_from(self.before_head).unwrap_or(usize::MAX);
        let count = self.held.len().min(passing).min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.passed(count);
        if count == self.held.len() {
            // An idle connection holds no memory.
            self.held = Vec::new();
        } else {
            self.held.drain(..count);
        }
    }

    fn passed(&mut self, count: usize) {
        if self.before_head != u64::MAX {
            self.before_head -= count as u64;
        }
    }

    /// Reads into `buffer` what may pass, and holds the rest. The count is zero at the end of the stream.
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let fresh = &buffer.filled()[before..];
        let count = fresh.len();
        let passing = count.min(usize::try_from(self.before_head).unwrap_or(usize::MAX));
        self.held.extend_from_slice(&fresh[passing..]);
        buffer.set_filled(before + passing);
        self.passed(passing);
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for HeadGuard {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.before_head == 0 && !this.held.is_empty() {
                this.scan();
            }
            if this.before_head > 0 && !this.held.is_empty() {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if this.refused.get().is_some() {
                // The end of the stream would take the answer back.
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            let count = ready!(this.read(context, buffer))?;
            if count == 0 || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl HeadGuard {
    /// Gives up a client that has taken nothing for too long.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIME)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for HeadGuard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    /// The library would copy each answer into a buffer, which the connection keeps in its largest size.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The library calls this when it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.flushed();
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::control_connections::{ControlConnections, Newcomers};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// Clients that asked for large answers and never read them kept their places for ever; at 4,096 of them
    /// no client could publish.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let connection = Arc::new(
            Arc::new(ControlConnections::new(
                super::super::CurrentLimits::of_connections(1),
                1,
                Arc::default(),
                Newcomers::WithHead,
            ))
            .enter(|| true)
            .unwrap(),
        );
        let mut guard = HeadGuard::new(Vec::new(), socket, HeadLimits::default(), connection);
        let error = loop {
            if let Err(error) = guard.write_all(&[0; 1 << 16]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
