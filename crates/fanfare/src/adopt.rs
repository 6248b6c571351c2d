//! What is given back where a socket is not adopted.

use std::os::fd::OwnedFd;
use std::{fmt, io};

use crate::admission::{Subscribe, WrongTopics};

/// A socket that [`crate::Hub::adopt`] did not take, with its subscription. Both are given back:
/// [`AdoptError::into_parts`]. The socket is open, and nothing was sent on it; the engine's
/// [`crate::SocketOptions`] and non-blocking mode may be set on it.
#[derive(Debug)]
pub struct AdoptError(Box<NotAdopted>);

#[derive(Debug)]
struct NotAdopted {
    reason: AdoptRefusal,
    socket: OwnedFd,
    subscribe: Subscribe,
}

/// Why a socket was not adopted.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptRefusal {
    /// The queue of the shard whose turn it is is full. Try again in a few milliseconds; then another shard
    /// is asked.
    Busy,
    /// The engine stops, or has stopped.
    Stopped,
    /// The subscription has no topic.
    NoTopics,
    /// The subscription has more different topics than [`crate::Limits::topics_per_subscription`].
    TooManyTopics {
        /// The bound.
        limit: usize,
    },
    /// The operating system refused: it is no socket, or an option is out of range. `InvalidInput`: the head
    /// of [`Subscribe::with_response_head`] does not announce the wire format.
    Io(io::Error),
}

impl AdoptError {
    pub(crate) fn new(reason: AdoptRefusal, socket: OwnedFd, subscribe: Subscribe) -> AdoptError {
        AdoptError(Box::new(NotAdopted { reason, socket, subscribe }))
    }

    /// Why the socket was not adopted.
    pub fn reason(&self) -> &AdoptRefusal {
        &self.0.reason
    }

    /// Whether another try may succeed in a few milliseconds.
    pub fn is_busy(&self) -> bool {
        matches!(self.0.reason, AdoptRefusal::Busy)
    }

    /// Takes the socket back, to close it or to answer on it.
    pub fn into_socket(self) -> OwnedFd {
        self.0.socket
    }

    /// Takes the socket and the subscription back, to try again with them.
    pub fn into_parts(self) -> (OwnedFd, Subscribe) {
        (self.0.socket, self.0.subscribe)
    }
}

impl From<WrongTopics> for AdoptRefusal {
    fn from(wrong: WrongTopics) -> AdoptRefusal {
        match wrong {
            WrongTopics::None => AdoptRefusal::NoTopics,
            WrongTopics::TooMany { limit } => AdoptRefusal::TooManyTopics { limit },
        }
    }
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.reason.fmt(f)
    }
}

impl std::error::Error for AdoptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.reason {
            AdoptRefusal::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for AdoptRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdoptRefusal::Busy => f.write_str("the shard is busy; try again in a moment"),
            AdoptRefusal::Stopped => f.write_str("the engine is shutting down"),
            AdoptRefusal::NoTopics => WrongTopics::None.fmt(f),
            AdoptRefusal::TooManyTopics { limit } => WrongTopics::TooMany { limit: *limit }.fmt(f),
            AdoptRefusal::Io(error) => write!(f, "the socket cannot be adopted: {error}"),
        }
    }
}
