//! Names that the server answers to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A name that the operator has listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// Every name.
    Any,
    /// This one, in lower case and without a dot at its end.
    Name(String),
    /// This address.
    Address(IpAddr),
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<HostName, String> {
        if text == "*" {
            return Ok(HostName::Any);
        }
        if let Some(address) = address(text).or_else(|| text.parse().ok()) {
            return Ok(HostName::Address(address.to_canonical()));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_name) {
            return Err(
                "write a name such as push.example.com, an address, or '*'; no scheme, no port".to_owned()
            );
        }
        Ok(HostName::Name(normal(text)))
    }
}

/// Names are compared without their case, and with or without the dot of the root (RFC 1034, section 3.1).
pub fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The address that a host is, if it is one (RFC 3986, section 3.2.2).
pub fn address(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}
