//! Who the client is behind proxies: `X-Forwarded-For` and `Forwarded` (RFC 7239), as far as they can be
//! believed.
//!
//! Each proxy adds the address from which it got the request at the right end of the field. What a client
//! sends itself stands left of that. So the field is read from the right, and only as far as each address
//! that was passed is a trusted proxy's. [`TrustedProxies::client_address`] has the rules.

mod fields;
mod networks;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::head::RequestHead;
use fields::{Node, last_forwarded, last_x_forwarded_for};
use networks::Network;

/// The proxies whose word about their clients is believed: IP networks, and perhaps all peers on Unix
/// sockets.
///
/// The text is a list, with commas or spaces between its entries: `10.0.0.0/8, 2001:db8::/32, 192.0.2.7,
/// unix`. An address alone is a network of one. An address that is IPv4 in the form of IPv6
/// (`::ffff:10.0.0.1`) is the IPv4 address. `unix` stands for every peer on a Unix socket: the mode of the
/// socket's file says which programs these are. The empty list trusts no proxy.
///
/// ```
/// use fanfare_proto::client_address::TrustedProxies;
///
/// let trusted: TrustedProxies = "10.0.0.0/8, ::1".parse()?;
/// assert!(trusted.contains("10.1.2.3".parse()?) && trusted.contains("::ffff:10.1.2.3".parse()?));
/// assert!(!trusted.contains("192.0.2.1".parse()?));
/// let error = "10.0.0.0/33".parse::<TrustedProxies>().unwrap_err();
/// assert!(error.to_string().contains("10.0.0.0/33"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    unix: bool,
    field: Option<ForwardedField>,
}

/// The field in which proxies name their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedField {
    /// `X-Forwarded-For: client, proxy`.
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// A text that is not a list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNetwork {
    text: String,
    reason: &'static str,
}

/// The other end of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// It has this address.
    Ip(IpAddr),
    /// It came by a Unix socket.
    Unix,
    /// It is not known.
    Unknown,
}

impl TrustedProxies {
    /// Trusts no proxy.
    pub fn none() -> TrustedProxies {
        TrustedProxies::default()
    }

    /// Also trusts the proxy with this address.
    pub fn with_address(mut self, address: IpAddr) -> TrustedProxies {
        self.networks.push(Network::of(address));
        self
    }

    /// Also trusts every peer on a Unix socket.
    pub fn with_unix_sockets(mut self) -> TrustedProxies {
        self.unix = true;
        self
    }

    /// The only field that is read: the one that the trusted proxies write. Without this, `X-Forwarded-For`
    /// is read where it is there, and `Forwarded` elsewhere.
    ///
    /// A proxy passes a field that it does not know on as the client sent it. So where the trusted proxies
    /// write `Forwarded` and nothing else, a client can send an `X-Forwarded-For` of its own, and this is
    /// needed. `X-Forwarded-For` comes first because nearly all proxies write it, and few write only the
    /// other.
    pub fn with_field(mut self, field: ForwardedField) -> TrustedProxies {
        self.field = Some(field);
        self
    }

    /// Whether this is the address of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Whether the other end of a connection is a trusted proxy. One that is not known is none.
    pub fn trusts(&self, peer: PeerAddress) -> bool {
        match peer {
            PeerAddress::Ip(address) => self.contains(address),
            PeerAddress::Unix => self.unix,
            PeerAddress::Unknown => false,
        }
    }

    /// The address of the client that sent this request, where `peer` is the other end of the connection.
    ///
    /// - A peer that is not trusted is the client, whatever the fields say.
    /// - The fields of a trusted peer are read from the right. An address that is trusted is a proxy, too,
    ///   and the next one is read. The first that is not trusted is the client.
    /// - Where all are trusted, the last one that was read is the client: a request that a proxy makes
    ///   itself.
    /// - `None`: it is not known. The proxy that is next to the client says that it does not know it, or does
    ///   not tell it (`unknown`, `_hidden`), or what it says is not well-formed. What stands left of that is
    ///   never believed.
    ///
    /// Fields of one name are one list, in their order (RFC 9110, section 5.3). Addresses are canonical: IPv4
    /// in the form of IPv6 is IPv4. Which field is read: [`TrustedProxies::with_field`].
    pub fn client_address(&self, peer: PeerAddress, head: &RequestHead<'_>) -> Option<IpAddr> {
        let peer_address = match peer {
            PeerAddress::Ip(address) => Some(address.to_canonical()),
            PeerAddress::Unix | PeerAddress::Unknown => None,
        };
        if !self.trusts(peer) {
            return peer_address;
        }
        let field = self.field.unwrap_or_else(|| match head.header("x-forwarded-for") {
            Some(_) => ForwardedField::XForwardedFor,
            None => ForwardedField::Forwarded,
        });
        let mut client = peer_address;
        let fields: smallvec::SmallVec<[&[u8]; 4]> = head
            .headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case(field.name()))
            .map(|(_, value)| value)
            .collect();
        for value in fields.iter().rev() {
            let mut visit = |node: Node| match node {
                Node::Address(address) if self.contains(address) => {
                    client = Some(address);
                    true
                }
                Node::Address(address) => {
                    client = Some(address);
                    false
                }
                Node::Hidden => {
                    client = None;
                    false
                }
            };
            let goes_on = match field {
                ForwardedField::XForwardedFor => last_x_forwarded_for(value, &mut visit),
                ForwardedField::Forwarded => last_forwarded(value, &mut visit),
            };
            if !goes_on {
                break;
            }
        }
        client
    }
}

impl ForwardedField {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            ForwardedField::XForwardedFor => "x-forwarded-for",
            ForwardedField::Forwarded => "forwarded",
        }
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    /// Reads a list.
    ///
    /// # Errors
    /// An entry is neither a network nor `unix`; the error names it.
    fn from_str(text: &str) -> Result<TrustedProxies, InvalidNetwork> {
        let mut trusted = TrustedProxies::none();
        for entry in text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
            if entry == "unix" {
                trusted.unix = true;
            } else {
                trusted.networks.push(Network::parse(entry)?);
            }
        }
        Ok(trusted)
    }
}

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no IP network: {}; write for example 10.0.0.0/8", self.text, self.reason)
    }
}

impl std::error::Error for InvalidNetwork {}
