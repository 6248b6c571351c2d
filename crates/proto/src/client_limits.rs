//! What one client may have of the engine, and whose requests are the operator's.
//!
//! A client is an address: an IPv4 address, or a prefix of IPv6, because a subscriber of an Internet provider
//! has a whole network of such addresses. Behind proxies that are trusted it is the address that they name.
//!
//! A part of each bound that all clients share is the **reserve**: only the operator's requests may use it,
//! so that a server whose every place is taken can still be asked for its health, and told to end
//! connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::client_address::{InvalidNetwork, PeerAddress, TrustedProxies};
use crate::head::RequestHead;
use crate::key_counts::Key;
pub use crate::rates::Rate;

/// The prefix of IPv6 that is one client, by default: what an Internet provider gives to one household or
/// machine at least (RFC 6177).
pub const IPV6_PREFIX_BITS: u8 = 64;

/// Memory of the rates of all clients, in bytes: 65,536 buckets.
pub const RATES_BYTES: usize = 1 << 20;

/// The bounds of one client, and the operator's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// Connections of one address, on all shards together; `None`: any number. The next one is refused, with
    /// 429 where [`crate::limits::Limits::when_full`] is [`crate::limits::FullPolicy::Unavailable`]. A
    /// connection counts from its accept on, or, where a proxy names its client, from its request on.
    pub connections_per_address: Option<usize>,
    /// How often one address may connect in a second; `None`: at any rate. Beyond it, as above. Connections
    /// that a proxy made count as its clients'.
    pub connects_per_second: Option<u64>,
    /// How often one address may connect at once, where there is such a rate.
    pub connect_burst: u64,
    /// How many bits of an IPv6 address tell clients apart, at most 128.
    pub ipv6_prefix_bits: u8,
    /// Streams of one subject, on all shards together; `None`: any number. As above.
    pub streams_per_subject: Option<usize>,
    /// The proxies whose word about their clients is believed. Their own addresses are no clients.
    pub proxies: TrustedProxies,
    /// The operator's addresses.
    pub operators: Operators,
}

impl Default for ClientLimits {
    /// No bound for one client. The operator is on this machine.
    fn default() -> ClientLimits {
        ClientLimits {
            connections_per_address: None,
            connects_per_second: None,
            connect_burst: 50,
            ipv6_prefix_bits: IPV6_PREFIX_BITS,
            streams_per_subject: None,
            proxies: TrustedProxies::none(),
            operators: Operators::default(),
        }
    }
}

setters! {
    ClientLimits {
        connections_per_address, with_connections_per_address: Option<usize>;
        connects_per_second, with_connects_per_second: Option<u64>;
        connect_burst, with_connect_burst: u64;
        ipv6_prefix_bits, with_ipv6_prefix_bits: u8;
        streams_per_subject, with_streams_per_subject: Option<usize>;
        proxies, with_proxies: TrustedProxies;
        operators, with_operators: Operators;
    }
}

impl ClientLimits {
    /// Whether the address of each client has to be known.
    pub fn look_at_addresses(&self) -> bool {
        self.connections_per_address.is_some() || self.connects_per_second.is_some()
    }

    /// How often one address may connect.
    pub fn connect_rate(&self) -> Option<Rate> {
        self.connects_per_second.map(|count| Rate::new(count, self.connect_burst))
    }

    /// The key that stands for a client's address.
    pub fn address_key(&self, address: IpAddr) -> Key {
        address_key(address, self.ipv6_prefix_bits)
    }
}

/// The addresses whose requests may use the reserve. They are no clients: the bounds of one address do not
/// hold for them.
///
/// Written as a list such as `127.0.0.0/8, ::1, unix`; `unix` stands for every peer on a Unix socket. The
/// default is the loopback addresses.
///
/// ```
/// use fanfare_proto::client_limits::Operators;
///
/// let operators = Operators::default();
/// assert!(operators.contains("127.0.0.1".parse()?) && operators.contains("::1".parse()?));
/// assert!(!operators.contains("192.0.2.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operators(TrustedProxies);

impl Default for Operators {
    /// The loopback addresses (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    fn default() -> Operators {
        "127.0.0.0/8, ::1".parse().expect("these are networks")
    }
}

impl FromStr for Operators {
    type Err = InvalidNetwork;

    /// Reads a list. With an empty list, no address is an operator's.
    ///
    /// # Errors
    /// An entry is neither a network nor `unix`; the error names it.
    fn from_str(text: &str) -> Result<Operators, InvalidNetwork> {
        text.parse().map(Operators)
    }
}

impl Operators {
    /// Whether this is an address of the operator's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether the other end of a connection is the operator, before anything is known of its requests. A
    /// proxy that is trusted is not, because it speaks for others.
    pub fn has_peer(&self, peer: PeerAddress, proxies: &TrustedProxies) -> bool {
        self.0.trusts(peer) && !proxies.trusts(peer)
    }

    /// Whether a request is the operator's.
    ///
    /// - A request that a trusted proxy passed on is judged by the client that the proxy names. The proxy's
    ///   own address is never the operator's, also where the request names no client: a client can make some
    ///   proxies leave the field out (by `Connection: X-Forwarded-For`).
    /// - A request with a field that proxies add (`Forwarded`, `Via`, `X-Forwarded-*`, `X-Real-IP`) and whose
    ///   peer is not trusted is not the operator's: it came through a proxy that the operator forgot to name,
    ///   and anyone may have sent it.
    pub fn has_sent(&self, peer: PeerAddress, head: &RequestHead<'_>, proxies: &TrustedProxies) -> bool {
        if proxies.trusts(peer) {
            let client = proxies.client_address(peer, head);
            return client.is_some_and(|client| self.contains(client) && !proxies.contains(client));
        }
        self.0.trusts(peer) && !head.headers().any(|(name, _)| is_added_by_proxies(name))
    }
}

fn is_added_by_proxies(name: &str) -> bool {
    let has_prefix = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
    };
    ["forwarded", "via", "x-real-ip"].iter().any(|field| name.eq_ignore_ascii_case(field))
        || has_prefix("x-forwarded-")
}

/// The key that stands for a client's address: IPv4 whole, IPv6 by its first bits. IPv4 in the form of IPv6
/// is IPv4.
pub fn address_key(address: IpAddr, ipv6_prefix_bits: u8) -> Key {
    let bits = match address.to_canonical() {
        // In a network of IPv6 that no prefix of a client's covers.
        IpAddr::V4(address) => u128::from(mapped(address)),
        IpAddr::V6(address) => {
            let behind = 128 - u32::from(ipv6_prefix_bits.min(128));
            u128::from(address) & u128::MAX.checked_shl(behind).unwrap_or(0)
        }
    };
    [(bits >> 64) as u64, bits as u64]
}

/// The address that a key of [`address_key`] stands for: of a network of IPv6, the first one.
pub fn address_of_key(key: Key) -> IpAddr {
    Ipv6Addr::from(u128::from(key[0]) << 64 | u128::from(key[1])).to_canonical()
}

fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    address.to_ipv6_mapped()
}

/// How much of a bound only the operator's requests may use: the last thirty-second, at least four, and never
/// more than half.
///
/// ```
/// use fanfare_proto::client_limits::reserve_of;
///
/// assert_eq!([0, 1, 2, 8, 128, 3200].map(reserve_of), [0, 0, 1, 4, 4, 100]);
/// ```
pub fn reserve_of(bound: usize) -> usize {
    const SHARE: usize = 32;
    const AT_LEAST: usize = 4;
    (bound / SHARE).max(AT_LEAST).min(bound / 2)
}

/// How much of a bound a request may use.
pub fn bound_for(is_operator: bool, bound: usize) -> usize {
    if is_operator { bound } else { bound - reserve_of(bound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, bits: u8) -> Key {
        address_key(text.parse().unwrap(), bits)
    }

    #[test]
    fn ipv4_is_one_client_and_ipv6_is_one_by_its_prefix() {
        assert_ne!(key("192.0.2.1", 64), key("192.0.2.2", 64));
        assert_eq!(key("192.0.2.1", 64), key("::ffff:192.0.2.1", 0));
        assert_eq!(key("2001:db8::1", 64), key("2001:db8::ffff:ffff:ffff:ffff", 64));
        assert_ne!(key("2001:db8:0:1::1", 64), key("2001:db8:0:2::1", 64));
        assert_eq!(key("2001:db8:0:1::1", 48), key("2001:db8:0:2::1", 48));
        assert_eq!(key("2001:db8::1", 0), key("fe80::1", 0));
        assert_ne!(key("2001:db8::1", 128), key("2001:db8::2", 200));
        // No IPv6 address has the key of an IPv4 one.
        assert_ne!(key("::", 64), key("0.0.0.0", 64));
    }

    /// Which request is the operator's: the peer, the trusted proxies, the fields.
    #[test]
    fn only_a_request_that_comes_from_an_operators_address_itself_is_the_operators() {
        let (on_loopback, by_proxy) = (TrustedProxies::none(), "127.0.0.1, 10.0.0.0/8");
        let trusted: TrustedProxies = by_proxy.parse().unwrap();
        type Fields = &'static [(&'static str, &'static str)];
        let cases: &[(&TrustedProxies, &str, Fields, bool)] = &[
            (&on_loopback, "127.0.0.1", &[], true),
            (&on_loopback, "127.9.9.9", &[], true),
            (&on_loopback, "192.0.2.1", &[], false),
            (&on_loopback, "192.0.2.1", &[("X-Forwarded-For", "127.0.0.1")], false),
            // A proxy on this machine that is not trusted.
            (&on_loopback, "127.0.0.1", &[("X-Forwarded-For", "127.0.0.1")], false),
            (&on_loopback, "127.0.0.1", &[("forwarded", "for=127.0.0.1")], false),
            (&on_loopback, "127.0.0.1", &[("Via", "1.1 proxy")], false),
            (&on_loopback, "127.0.0.1", &[("x-real-ip", "127.0.0.1")], false),
            (&on_loopback, "127.0.0.1", &[("X-FORWARDED-PROTO", "https")], false),
            (&on_loopback, "127.0.0.1", &[("X-Forward", "no such field")], true),
            // Proxies that are trusted.
            (&trusted, "127.0.0.1", &[], false),
            (&trusted, "127.0.0.2", &[], true),
            (&trusted, "10.0.0.1", &[("X-Forwarded-For", "127.0.0.2")], true),
            (&trusted, "10.0.0.1", &[("X-Forwarded-For", "127.0.0.1")], false),
            (&trusted, "10.0.0.1", &[("X-Forwarded-For", "127.0.0.2, 192.0.2.7")], false),
            (&trusted, "10.0.0.1", &[("X-Forwarded-For", "unknown")], false),
            (&trusted, "127.0.0.2", &[("X-Forwarded-For", "127.0.0.2")], false),
        ];
        let operators = Operators::default();
        for (case, (proxies, peer, fields, expected)) in cases.iter().enumerate() {
            let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
            let fields = std::iter::once(("Host", &b"h"[..])).chain(fields);
            let head = RequestHead::from_parts("GET", "/events", 1, fields).unwrap();
            let peer = PeerAddress::Ip(peer.parse().unwrap());
            assert_eq!(operators.has_sent(peer, &head, proxies), *expected, "case {case}");
        }
        let head = RequestHead::from_parts("GET", "/events", 1, [("Host", &b"h"[..])]).unwrap();
        let none = TrustedProxies::none();
        for (text, expected) in [("", false), ("127.0.0.1", false), ("unix", true)] {
            let operators: Operators = text.parse().unwrap();
            assert_eq!(operators.has_sent(PeerAddress::Unix, &head, &none), expected, "{text:?}");
            assert!(!operators.has_sent(PeerAddress::Unknown, &head, &none));
        }
        let unix: Operators = "unix".parse().unwrap();
        assert!(!unix.has_peer(PeerAddress::Unix, &none.with_unix_sockets()), "a proxy speaks for others");
    }
}
