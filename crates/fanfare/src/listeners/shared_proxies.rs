//! Trusted proxies that change while the engine runs.

use std::sync::{Arc, PoisonError, RwLock};

use fanfare_proto::client_address::{PeerAddress, TrustedProxies};

/// Trusted proxies that can be replaced while the engine runs: see [`crate::Listener::with_shared_proxies`].
/// Clones are the same.
///
/// A shard reads them once for each connection of a listener that expects the PROXY protocol. A connection
/// whose header was taken keeps its client.
#[derive(Clone, Debug, Default)]
pub struct SharedProxies {
    /// Held for a comparison, or for the exchange of two values: a shard never waits for other code.
    trusted: Arc<RwLock<TrustedProxies>>,
}

impl SharedProxies {
    /// These proxies at first.
    pub fn new(trusted: TrustedProxies) -> SharedProxies {
        SharedProxies { trusted: Arc::new(RwLock::new(trusted)) }
    }

    /// Replaces them, for connections that come from now on.
    pub fn replace(&self, trusted: TrustedProxies) {
        let mut current = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, trusted);
        drop(current);
        // Freed after the lock.
        drop(before);
    }

    /// Whether the other end of a connection is one of them.
    pub(crate) fn trusts(&self, peer: PeerAddress) -> bool {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner).trusts(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_replaced_together() {
        let shared = SharedProxies::new("10.0.0.0/8".parse().unwrap());
        let peer = |text: &str| PeerAddress::Ip(text.parse().unwrap());
        let clone = shared.clone();
        assert!(clone.trusts(peer("10.1.2.3")) && !clone.trusts(peer("192.0.2.1")));
        shared.replace("192.0.2.0/24".parse().unwrap());
        assert!(clone.trusts(peer("192.0.2.1")) && !clone.trusts(peer("10.1.2.3")));
        assert!(!clone.trusts(PeerAddress::Unknown));
    }
}
