//! IP networks in CIDR form (RFC 4632, section 3.1; RFC 4291, section 2.3).

use std::net::IpAddr;

use super::InvalidNetwork;

/// The longest part of a wrong text that an error repeats.
const SHOWN: usize = 64;

/// The addresses with one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// Canonical: never IPv4 in the form of IPv6.
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// The network of one address.
    pub(super) fn of(address: IpAddr) -> Network {
        let address = address.to_canonical();
        Network { address, prefix_bits: bits(address) }
    }

    pub(super) fn parse(text: &str) -> Result<Network, InvalidNetwork> {
        let wrong = |reason| InvalidNetwork { text: text.chars().take(SHOWN).collect(), reason };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| wrong("the address is not well-formed"))?;
        let address = written.to_canonical();
        let Some(prefix) = prefix else { return Ok(Network::of(address)) };
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|_| is_number);
        let prefix = prefix.ok_or_else(|| wrong("the length of the prefix is no number"))?;
        if prefix > bits(written) {
            return Err(wrong("the prefix is longer than the address"));
        }
        // The prefix of ::ffff:10.0.0.0/104 covers the first 96 bits, which only say that it is IPv4.
        let prefix_bits = prefix.checked_sub(bits(written) - bits(address));
        let prefix_bits =
            prefix_bits.ok_or_else(|| wrong("the prefix has more than the IPv4 addresses in it"))?;
        let network = Network { address, prefix_bits };
        if !network.is_first(address) {
            return Err(wrong("the address has bits behind the prefix"));
        }
        Ok(network)
    }

    /// Whether an address, which is canonical, is in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        bits(self.address) == bits(address) && (value(self.address) ^ value(address)) & self.mask() == 0
    }

    fn is_first(&self, address: IpAddr) -> bool {
        value(address) & self.mask() == value(address)
    }

    /// The bits of the prefix, at the place where the address has them.
    fn mask(&self) -> u128 {
        let behind = u32::from(bits(self.address) - self.prefix_bits);
        u128::MAX.checked_shl(behind).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}
