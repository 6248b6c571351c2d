//! The address of a connection that an engine hands over.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::net;

#[cfg(doc)]
use crate::{Connection, HandOverListener};

/// Where a client is that came to a [`HandOverListener`], and where that listens.
///
/// It is a connect info of axum, as [`Connection`] is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Address {
    /// An address of TCP. A client's may have been named by a proxy (the PROXY protocol), also by one that
    /// came to the engine by a Unix socket.
    Tcp(SocketAddr),
    /// A Unix socket: a path, a name in the abstract namespace, or, as for most clients, neither.
    Unix(net::SocketAddr),
    /// The client's proxy has named no address of TCP, or the client has left already.
    Unknown,
}

impl Address {
    /// The address of TCP, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(address) => match address.as_pathname() {
                Some(path) => write!(f, "unix:{}", path.display()),
                None => f.write_str("unix"),
            },
            Address::Unknown => f.write_str("unknown"),
        }
    }
}
