//! Messages between the servers of a cluster. They may be lost: what has to hold is told again.

use std::fmt;

/// The other servers, for a part of this one that tells them something.
pub(crate) trait Peers: Send + Sync + fmt::Debug {
    /// The name of this server. Each start has another one.
    fn own_name(&self) -> &str;

    /// The names of the others that have shown themselves in the last seconds.
    fn others(&self) -> Vec<String>;

    /// Sends this to all others, and does not wait. False: it cannot be sent.
    fn broadcast(&self, payload: Vec<u8>) -> bool;
}
