//! What the kernel knows about TCP sockets, for connections that have become silent.
//!
//! While the kernel had no memory left for TCP, subscribers had established connections whose other end was
//! in no table. Presumably the kernel ended the server's socket, and the subscriber's kernel discarded the
//! reset, as it must where the reset is outside the window (RFC 9293, 3.10.7.4); the reset itself was not
//! observed. A server in user space cannot reach such a subscriber.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

/// The TCP sockets of the machine.
pub(crate) struct Table(String);

impl Table {
    /// Reads the machine's table. Sockets that move in the table meanwhile may be missing, so one absence
    /// proves nothing.
    pub(crate) fn read() -> io::Result<Table> {
        fs::read_to_string("/proc/net/tcp").map(Table)
    }

    /// Whether there is a socket with this address and this peer, in any state. True for IPv6, which has
    /// another table.
    pub(crate) fn has(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (local, peer) else { return true };
        let (local, peer) = (as_listed(local), as_listed(peer));
        let ends = |line: &str| {
            let mut words = line.split_ascii_whitespace().skip(1);
            words.next() == Some(&local) && words.next() == Some(&peer)
        };
        self.0.lines().any(ends)
    }
}

/// The format of the kernel's proc_net_tcp.rst: the address as a number in the machine's byte order, the port
/// in network order.
fn as_listed(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// How many sockets the kernel has ended for lack of memory since the machine (or its network namespace)
/// started.
pub(crate) fn ended_for_memory() -> Option<u64> {
    counter(&fs::read_to_string("/proc/net/netstat").ok()?, "TcpExt:", "TCPAbortOnMemory")
}

/// The value of a counter: a line of names is followed by a line of values.
fn counter(text: &str, family: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(family));
    let (names, values) = (lines.next()?, lines.next()?);
    names.split(' ').zip(values.split(' ')).find(|(of, _)| *of == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_ends_of_a_connection_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let table = Table::read().unwrap();
        assert!(table.has(local, peer) && table.has(peer, local));
        assert!(!table.has(local, local));
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "TcpExt: A B C\nTcpExt: 1 2 3\nIpExt: B\nIpExt: 9\n";
        assert_eq!(counter(text, "TcpExt:", "B"), Some(2));
        assert_eq!(counter(text, "TcpExt:", "D"), None);
        assert!(ended_for_memory().is_some());
    }
}
