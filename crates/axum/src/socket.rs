//! The two kinds of sockets that the engine takes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket of tokio that the engine can take over: `TcpStream` and `UnixStream`. Others (TLS, say) have
/// bytes of their own between the socket and the stream.
pub trait Takeable: sealed::Takeable {}

impl<T: sealed::Takeable> Takeable for T {}

pub(crate) mod sealed {
    use super::{Socket, TcpStream, UnixStream};

    pub trait Takeable {
        fn into_socket(self) -> Socket;
    }

    impl Takeable for TcpStream {
        fn into_socket(self) -> Socket {
            Socket::Tcp(self)
        }
    }

    impl Takeable for UnixStream {
        fn into_socket(self) -> Socket {
            Socket::Unix(self)
        }
    }
}

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

macro_rules! with {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl Socket {
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(socket) => socket.peer_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Takes it out of tokio's hands.
    pub(crate) fn into_descriptor(self) -> io::Result<(Kind, OwnedFd)> {
        Ok(match self {
            Socket::Tcp(socket) => (Kind::Tcp, socket.into_std()?.into()),
            Socket::Unix(socket) => (Kind::Unix, socket.into_std()?.into()),
        })
    }

    /// Takes it back.
    pub(crate) fn from_descriptor(kind: Kind, socket: OwnedFd) -> io::Result<Socket> {
        match kind {
            Kind::Tcp => TcpStream::from_std(socket.into()).map(Socket::Tcp),
            Kind::Unix => UnixStream::from_std(socket.into()).map(Socket::Unix),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with!(&mut *self, socket => Pin::new(socket).poll_read(context, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with!(&mut *self, socket => Pin::new(socket).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with!(&mut *self, socket => Pin::new(socket).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(&mut *self, socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(&mut *self, socket => Pin::new(socket).poll_shutdown(context))
    }
}
