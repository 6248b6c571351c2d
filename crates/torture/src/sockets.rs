//! What the kernel knows of TCP sockets, for streams that fell silent.
//!
//! While the kernel had no memory left for TCP, readers were seen that were established and whose other end was in no table.
//! Presumably it ended the server's socket, and the peer dropped the reset as stray, as it must where the reset is outside
//! its window (RFC 9293, 3.10.7.4); the reset itself was not caught. Nothing that a server in user space does can reach
//! such a peer.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

/// The sockets that the kernel has.
pub(crate) struct Table(String);

impl Table {
    /// Reads the machine's table. Sockets that move in it meanwhile may be missing: look twice.
    pub(crate) fn read() -> io::Result<Table> {
        fs::read_to_string("/proc/net/tcp").map(Table)
    }

    /// Whether there is a socket of this address with this peer, in whatever state. IPv6 has another table: there may be.
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

/// As proc_net_tcp.rst has it: the address as a number in the machine's byte order, the port in the network's.
fn as_listed(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// How many sockets the kernel has ended for want of memory since the machine (or its network namespace) began.
pub(crate) fn ended_for_memory() -> Option<u64> {
    counter(&fs::read_to_string("/proc/net/netstat").ok()?, "TcpExt:", "TCPAbortOnMemory")
}

/// A line of names is followed by a line of values.
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
