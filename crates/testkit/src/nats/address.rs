//! Loopback addresses that no other process uses.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// The loopback address of this process. Process ids have at most 22 bits.
pub(super) fn own_host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, middle, low)
}

/// A port of [`own_host`] that this process has not handed out before.
///
/// No client has this address for its own end, so that the port stays free until a server takes it, and again
/// while that server is down.
pub(super) fn free_address() -> Result<SocketAddr, String> {
    static USED: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let used = used.get_or_insert_default();
    loop {
        let listener =
            TcpListener::bind((own_host(), 0)).map_err(|error| format!("no free port: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        if used.insert(address.port()) {
            return Ok(address);
        }
    }
}
