//! The addresses that connections come from, in equal parts for the devices of all threads.

use std::net::Ipv4Addr;

use super::device::Network;

/// 4,194,304 addresses of those that the Internet does not use (RFC 1918).
const USUAL: &str = "10.64.0.0/10";
/// Names of interfaces have 15 bytes at most; the number of the thread follows.
const LONGEST_NAME: usize = 10;

/// A name for devices, and a network that they share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Networks {
    name: String,
    base: u32,
    prefix: u8,
}

/// What one thread has of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// The machine's own address, and the network's size.
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    /// The connections' addresses.
    pub(crate) first_address: Ipv4Addr,
    pub(crate) addresses: u32,
}

impl Networks {
    /// Reads `NAME` or `NAME,ADDRESS/BITS`.
    pub(crate) fn parse(text: &str) -> Result<Networks, String> {
        let (name, network) = text.split_once(',').unwrap_or((text, USUAL));
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(letters) {
            return Err(format!("`{name}` is no name for a device: up to {LONGEST_NAME} letters and digits"));
        }
        let wrong = || format!("`{network}` is no network: write for example {USUAL}");
        let (address, bits) = network.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix = bits.parse().ok().filter(|bits| (4..=28).contains(bits));
        let prefix = prefix
            .ok_or_else(|| format!("`{network}`: the number after the slash must be between 4 and 28"))?;
        if address.is_loopback() {
            return Err(format!(
                "`{network}`: packets to loopback do not leave the kernel; write for example {USUAL}"
            ));
        }
        let base = address.to_bits() & (u32::MAX << (32 - u32::from(prefix)));
        Ok(Networks { name: name.to_owned(), base, prefix })
    }

    /// Connections that are possible over the devices of so many threads.
    pub(crate) fn capacity(&self, threads: usize) -> u64 {
        let most = threads.next_power_of_two().trailing_zeros();
        if u32::from(self.prefix) + most > 29 {
            return 0;
        }
        u64::from(super::stack::Stack::capacity(self.part(0, threads).addresses)) * threads as u64
    }

    /// The part of a thread's number. All are there when [`Self::capacity`] is not 0.
    pub(crate) fn part(&self, index: usize, threads: usize) -> Part {
        let prefix = self.prefix + threads.next_power_of_two().trailing_zeros() as u8;
        let size = 1 << (32 - u32::from(prefix));
        let base = self.base + index as u32 * size;
        Part {
            name: format!("{}{index}", self.name),
            address: Ipv4Addr::from_bits(base + 1),
            prefix,
            // The first is the network's name, the last is everybody's, and the second is the machine's own.
            first_address: Ipv4Addr::from_bits(base + 2),
            addresses: size - 3,
        }
    }
}

impl Part {
    /// What the device is told.
    pub(crate) fn network(&self) -> Network<'_> {
        Network { name: &self.name, address: self.address, prefix: self.prefix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_part() {
        let networks = Networks::parse("load,10.64.0.0/10").unwrap();
        assert_eq!(Networks::parse("load").unwrap(), networks);
        let whole = networks.part(0, 1);
        assert_eq!((whole.prefix, whole.addresses), (10, (1 << 22) - 3));
        let parts: Vec<Part> = (0..3).map(|index| networks.part(index, 3)).collect();
        assert_eq!(parts[0].name, "load0");
        assert_eq!(parts[0].address, Ipv4Addr::new(10, 64, 0, 1));
        assert_eq!(parts[2].first_address, Ipv4Addr::new(10, 96, 0, 2));
        for pair in parts.windows(2) {
            assert!(pair[0].first_address.to_bits() + pair[0].addresses < pair[1].address.to_bits());
        }
        assert!(networks.capacity(2) >= 16_000_000);
        assert_eq!(Networks::parse("load,10.0.0.0/28").unwrap().capacity(16), 0);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "",
            ",10.0.0.0/8",
            "a b",
            "a-name-too-long",
            "load,",
            "load,10.0.0.0",
            "load,10.0.0.0/2",
            "load,127.0.0.0/8",
        ] {
            assert!(Networks::parse(wrong).is_err(), "{wrong}");
        }
    }
}
