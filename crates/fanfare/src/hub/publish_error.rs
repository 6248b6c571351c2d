//! Why a publish fails.

use std::fmt;

use fanfare_proto::event::Event;
use fanfare_proto::problem::ProblemKind;

use super::Published;
use crate::store::StoreFailure;

/// Why nothing was published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The queue of a shard that has subscribers of one of the topics is full, or other publishers wait for
    /// it: sending takes longer than publishing. Or older events of a durable store are not released yet. Try
    /// again in a few milliseconds, or wait for room: [`crate::Hub::publish_wait`],
    /// [`crate::Hub::publish_async`].
    Busy,
    /// The event at this position has more data than [`crate::Limits::event_bytes`].
    TooLarge {
        /// Its position among the events that were not taken.
        index: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// The event at this position bears an id of the form that hubs give out, `<epoch>-<seq>`, of whatever
    /// epoch.
    ReservedId {
        /// Its position among the events that were not taken.
        index: usize,
    },
    /// The event at this position bears an own id that was given to another event of the same topics, which
    /// is retained, or that is in the same batch. Its type, data, retry or privacy differ from that one's.
    /// Give each event an id of its own.
    IdConflict {
        /// Its position among the events that were not taken.
        index: usize,
    },
    /// There is no event in the batch.
    Empty,
    /// There is no room, and the calling thread is a shard, where an [`crate::Admission`] runs: if it waited,
    /// it might wait for itself. Try again later, or publish from a thread of your own. Or the engine has a
    /// durable store, and the call does not wait for it: [`crate::Hub::publish_wait`] and
    /// [`crate::Hub::publish_async`] do.
    WouldBlock,
    /// [`crate::Hub::publish_wait`] only: all events have their numbers, but older events of a durable store
    /// were not released in time, so they are not visible. They become visible behind these, or when the
    /// engine drains: do not publish them again.
    Unreleased,
    /// [`crate::Hub::publish_wait`] and [`crate::Hub::publish_async`] only: the durable store, or the log that
    /// nodes share, has the events, and did not say in time whether it keeps them. They become visible later, or not at all. Those that
    /// are neither in [`Interrupted::published`] nor given back may be published again only where each has an
    /// own id, so that none is published twice.
    Undecided,
    /// The durable store has not taken the events. Those of an earlier part of the same publish are stored
    /// and visible. Events that were refused so are not given back.
    NotStored(StoreFailure),
    /// The engine drains or has stopped.
    Stopped,
}

/// An event that was not published, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotPublished {
    /// Why it was not published.
    pub error: PublishError,
    /// The event, as it was given.
    pub event: Box<Event>,
}

/// A publish that waited for room and ended before every event was taken. Those that were not are in the
/// publisher's vector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interrupted {
    /// Why it ended.
    pub error: PublishError,
    /// What was published before; `None`: nothing.
    pub published: Option<Published>,
}

impl PublishError {
    /// Whether the same publish may succeed later: nothing is wrong with the events.
    pub fn is_retryable(&self) -> bool {
        matches!(self, PublishError::Busy | PublishError::WouldBlock)
    }

    /// The position, among the events that were not taken, of the one at fault: it must change, or be left
    /// out.
    pub fn event_at_fault(&self) -> Option<usize> {
        match self {
            PublishError::TooLarge { index, .. }
            | PublishError::ReservedId { index }
            | PublishError::IdConflict { index } => Some(*index),
            _ => None,
        }
    }

    /// The status of an HTTP answer that says so: 503, 413, 409 or 400 (RFC 9110, section 15), or 507 where
    /// the disk of the store is full (RFC 4918, section 11.5). A 503 or 507 is worth a `Retry-After`.
    pub fn status(&self) -> u16 {
        self.problem().status()
    }

    /// The kind of such an answer.
    pub fn problem(&self) -> ProblemKind {
        match self {
            PublishError::Busy | PublishError::WouldBlock => ProblemKind::PublishBusy,
            PublishError::Unreleased => ProblemKind::NotVisibleYet,
            PublishError::Undecided => ProblemKind::StoreUndecided,
            PublishError::NotStored(StoreFailure::Full) => ProblemKind::StoreFull,
            PublishError::NotStored(StoreFailure::Unreachable) => ProblemKind::LogUnreachable,
            PublishError::NotStored(_) => ProblemKind::StoreFailed,
            PublishError::Stopped => ProblemKind::ServerStopping,
            PublishError::TooLarge { .. } => ProblemKind::EventTooLarge,
            PublishError::IdConflict { .. } => ProblemKind::IdConflict,
            PublishError::ReservedId { .. } | PublishError::Empty => ProblemKind::InvalidEvent,
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Busy => f.write_str("the hub is busy; try again in a moment"),
            PublishError::TooLarge { limit, .. } => write!(f, "the data is longer than {limit} bytes"),
            PublishError::ReservedId { .. } => {
                f.write_str("ids of the form <epoch>-<seq> are the hub's own; choose another id or none")
            }
            PublishError::IdConflict { .. } => f.write_str(
                "the id was given to another event of the same topics; give each event an id of its own",
            ),
            PublishError::Empty => f.write_str("there is no event to publish"),
            PublishError::WouldBlock => {
                f.write_str("the hub is busy, and a shard's thread cannot wait; publish from another thread")
            }
            PublishError::Unreleased => {
                f.write_str("the events are accepted, and are not visible before older ones are released")
            }
            PublishError::Undecided => f.write_str(
                "the log has not said in time whether it keeps the events; publish them again only if each has an id of its own",
            ),
            PublishError::NotStored(failure) => write!(f, "the event is not stored: {failure}"),
            PublishError::Stopped => f.write_str("the server is shutting down"),
        }
    }
}

impl std::error::Error for PublishError {}

impl NotPublished {
    /// That this event was not published; for what stands in for a hub in a test.
    pub fn new(error: PublishError, event: Event) -> NotPublished {
        NotPublished { error, event: Box::new(event) }
    }
}

impl fmt::Display for NotPublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for NotPublished {}

impl From<NotPublished> for PublishError {
    fn from(not_published: NotPublished) -> PublishError {
        not_published.error
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Interrupted {}
