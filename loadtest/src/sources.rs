//! Source addresses: one address has about 28,000 ports for one destination, so many subscribers need many.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Connections that one source address is given before the next one is taken.
const PER_SOURCE: usize = 4_000;

/// The addresses that connections are bound to, in turn. Empty: the kernel chooses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sources(Vec<Ipv4Addr>);

impl Sources {
    /// Reads a list of addresses, `first-last` ranges and `address/bits` blocks, separated by commas. At most
    /// 65,536 addresses are taken.
    pub(crate) fn parse(text: &str) -> Result<Sources, String> {
        const MOST: usize = 65_536;
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = range(part)?;
            all.extend((first..=last).take(MOST - all.len()).map(Ipv4Addr::from_bits));
        }
        Ok(Sources(all))
    }

    /// What suits a target when nothing was asked for: loopback has a whole block to spread over.
    pub(crate) fn suited_to(target: SocketAddr, subscribers: usize) -> Sources {
        let IpAddr::V4(address) = target.ip() else { return Sources::default() };
        if !address.is_loopback() || subscribers <= PER_SOURCE {
            return Sources::default();
        }
        let first = Ipv4Addr::new(127, 0, 1, 1).to_bits();
        let count = subscribers.div_ceil(PER_SOURCE) as u32;
        Sources((first..first + count).map(Ipv4Addr::from_bits).collect())
    }

    /// The address for a subscriber.
    pub(crate) fn of(&self, subscriber: usize) -> Option<Ipv4Addr> {
        (!self.0.is_empty()).then(|| self.0[subscriber % self.0.len()])
    }

    /// How many connections to one destination the addresses allow.
    pub(crate) fn capacity(&self, ports: usize) -> usize {
        self.0.len().max(1) * ports
    }
}

fn range(part: &str) -> Result<(u32, u32), String> {
    let address = |text: &str| -> Result<u32, String> {
        text.trim().parse::<Ipv4Addr>().map(Ipv4Addr::to_bits).map_err(|_| {
            format!("`{text}` is no IPv4 address: write 127.0.0.2, 127.0.0.2-127.0.0.200 or 127.1.0.0/24")
        })
    };
    let (first, last) = if let Some((first, last)) = part.split_once('-') {
        (address(first)?, address(last)?)
    } else if let Some((block, bits)) = part.split_once('/') {
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| (1..=32).contains(bits))
            .ok_or(format!("`{part}`: the number after the slash must be between 1 and 32"))?;
        let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
        let first = address(block)? & !rest;
        // The first and the last address of a block are not hosts; a block of one or two has nothing else.
        if bits >= 31 { (first, first | rest) } else { (first + 1, (first | rest) - 1) }
    } else {
        (address(part)?, address(part)?)
    };
    if first > last { Err(format!("`{part}`: the range ends before it starts")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_blocks_and_lists() {
        let sources = Sources::parse("127.0.0.2-127.0.0.4, 10.0.0.9").unwrap();
        assert_eq!(sources.of(0), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(sources.of(3), Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(sources.of(4), sources.of(0));
        assert_eq!(Sources::parse("127.0.0.0/30").unwrap(), Sources::parse("127.0.0.1-127.0.0.2").unwrap());
        assert_eq!(Sources::parse("127.0.0.0/8").unwrap().capacity(1), 65_536, "bounded");
        for wrong in ["", "host", "127.0.0.9-127.0.0.2", "127.0.0.0/0", "127.0.0.0/33"] {
            assert!(Sources::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_spread_only_when_ports_would_run_short() {
        let target = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(Sources::suited_to(target, 1_000), Sources::default());
        assert_eq!(Sources::suited_to(target, 10_000).capacity(1), 3);
        assert_eq!(Sources::suited_to(SocketAddr::from(([10, 0, 0, 1], 1)), 10_000), Sources::default());
    }
}
