//! IPv4 packets that carry one TCP segment: read with every check, written with nothing optional.

use std::net::Ipv4Addr;

/// Bytes of an IPv4 header without options.
pub(super) const IP_BYTES: usize = 20;
/// Bytes of a TCP header without options.
pub(super) const TCP_BYTES: usize = 20;

/// The bits of a TCP header that say what a segment is for.
pub(super) mod flag {
    pub(in super::super) const FIN: u8 = 1;
    pub(in super::super) const SYN: u8 = 2;
    pub(in super::super) const RST: u8 = 4;
    pub(in super::super) const PSH: u8 = 8;
    pub(in super::super) const ACK: u8 = 16;
}

/// What is wrong with a packet. None of these is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Malformed {
    /// It is no IPv4, or IPv4 without TCP in it.
    NotTcp,
    /// It ends before a header, or before what a header promises.
    Cut,
    /// A header length that no header can have.
    HeaderLength,
    /// A part of a larger packet.
    Fragment,
    /// An option that ends behind the header, or has no length.
    Options,
    /// A checksum that does not match.
    Checksum,
}

/// Whether the TCP checksum of a received packet is in the packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Checksum {
    /// It is, and has to match.
    Present,
    /// The kernel left it to a network card that does not exist.
    LeftOut,
}

/// One TCP segment with the addresses of its packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Segment<'a> {
    pub(super) source: (Ipv4Addr, u16),
    pub(super) destination: (Ipv4Addr, u16),
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// The largest segment that the sender accepts, where a SYN says it.
    pub(super) largest: Option<u16>,
    pub(super) data: &'a [u8],
}

impl<'a> Segment<'a> {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of the sequence space: the data, and one each for SYN and FIN.
    pub(super) fn length(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }

    /// Reads a packet. What follows the length that its header names is ignored.
    pub(super) fn parse(packet: &'a [u8], checksum: Checksum) -> Result<Segment<'a>, Malformed> {
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            return Err(Malformed::NotTcp);
        }
        let header = usize::from(packet[0] & 15) * 4;
        if header < IP_BYTES {
            return Err(Malformed::HeaderLength);
        }
        if packet.len() < header {
            return Err(Malformed::Cut);
        }
        let total = usize::from(word(packet, 2));
        if total < header || packet.len() < total {
            return Err(Malformed::Cut);
        }
        if fold(sum(&packet[..header], 0)) != 0xFFFF {
            return Err(Malformed::Checksum);
        }
        if packet[9] != PROTOCOL {
            return Err(Malformed::NotTcp);
        }
        if word(packet, 6) & 0x3FFF != 0 {
            return Err(Malformed::Fragment);
        }
        let (source, destination) = (address(packet, 12), address(packet, 16));
        let tcp = &packet[header..total];
        if tcp.len() < TCP_BYTES {
            return Err(Malformed::Cut);
        }
        let header = usize::from(tcp[12] >> 4) * 4;
        if header < TCP_BYTES {
            return Err(Malformed::HeaderLength);
        }
        if tcp.len() < header {
            return Err(Malformed::Cut);
        }
        if checksum == Checksum::Present && fold(sum(tcp, pseudo(source, destination, tcp.len()))) != 0xFFFF {
            return Err(Malformed::Checksum);
        }
        let flags = tcp[13];
        let largest = if flags & flag::SYN != 0 { largest_segment(&tcp[TCP_BYTES..header])? } else { None };
        Ok(Segment {
            source: (source, word(tcp, 0)),
            destination: (destination, word(tcp, 2)),
            sequence: double_word(tcp, 4),
            acknowledgment: double_word(tcp, 8),
            flags,
            window: word(tcp, 14),
            largest,
            data: &tcp[header..],
        })
    }

    /// Appends the packet, both checksums included. The data must fit into an IPv4 packet.
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let options = if self.largest.is_some() { 4 } else { 0 };
        let length = TCP_BYTES + options + self.data.len();
        let total = u16::try_from(IP_BYTES + length)
            .unwrap_or_else(|_| unreachable!("{length} bytes do not fit into a packet"));
        let (source, destination) = (self.source.0, self.destination.0);

        let mut ip = [0u8; IP_BYTES];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        // It must not be split: then it needs no number either (RFC 6864).
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = PROTOCOL;
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&destination.octets());
        let checksum = !fold(sum(&ip, 0));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());

        let mut tcp = [0u8; TCP_BYTES + 4];
        tcp[0..2].copy_from_slice(&self.source.1.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.destination.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        tcp[12] = ((TCP_BYTES + options) as u8 / 4) << 4;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        if let Some(largest) = self.largest {
            tcp[20..22].copy_from_slice(&[OPTION_LARGEST, 4]);
            tcp[22..24].copy_from_slice(&largest.to_be_bytes());
        }
        let tcp = &mut tcp[..TCP_BYTES + options];
        let checksum = !fold(sum(self.data, sum(tcp, pseudo(source, destination, length))));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());

        into.extend_from_slice(&ip);
        into.extend_from_slice(tcp);
        into.extend_from_slice(self.data);
    }
}

/// TCP, as IPv4 numbers what is in its packets.
const PROTOCOL: u8 = 6;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_LARGEST: u8 = 2;

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn double_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(double_word(bytes, at))
}

/// The maximum segment size among the options of a SYN.
fn largest_segment(mut options: &[u8]) -> Result<Option<u16>, Malformed> {
    while let Some(&kind) = options.first() {
        match kind {
            OPTION_END => break,
            OPTION_NOTHING => options = &options[1..],
            _ => {
                let length = usize::from(*options.get(1).ok_or(Malformed::Options)?);
                if length < 2 || options.len() < length {
                    return Err(Malformed::Options);
                }
                if kind == OPTION_LARGEST {
                    return if length == 4 { Ok(Some(word(options, 2))) } else { Err(Malformed::Options) };
                }
                options = &options[length..];
            }
        }
    }
    Ok(None)
}

/// Adds bytes to a sum for [`fold`]; all but the last part must have an even length (RFC 1071).
fn sum(bytes: &[u8], mut sum: u64) -> u64 {
    let (quads, rest) = bytes.as_chunks::<4>();
    for quad in quads {
        sum += u64::from(u32::from_be_bytes(*quad));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

/// What the TCP checksum covers beside the segment.
fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> u64 {
    u64::from(source.to_bits()) + u64::from(destination.to_bits()) + u64::from(PROTOCOL) + length as u64
}

/// The sum of all 16-bit words, with carries added back.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(data: &[u8]) -> Segment<'_> {
        Segment {
            source: (Ipv4Addr::new(10, 64, 0, 2), 4_000),
            destination: (Ipv4Addr::new(10, 64, 0, 1), 8_844),
            sequence: 0xFFFF_FFF0,
            acknowledgment: 7,
            flags: flag::ACK | flag::PSH,
            window: 65_535,
            largest: None,
            data,
        }
    }

    fn written(segment: &Segment<'_>) -> Vec<u8> {
        let mut packet = Vec::new();
        segment.write(&mut packet);
        packet
    }

    /// Makes the header's checksum right again after a change.
    fn mend(packet: &mut [u8]) {
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..usize::from(packet[0] & 15) * 4], 0));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 2, 3, 4, 5, 255, 1_460, 65_495] {
            let data: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            let sent = segment(&data);
            assert_eq!(Segment::parse(&written(&sent), Checksum::Present), Ok(sent));
        }
        let syn = Segment { flags: flag::SYN, largest: Some(1_460), ..segment(b"") };
        assert_eq!(Segment::parse(&written(&syn), Checksum::Present), Ok(syn));
        assert_eq!(syn.length(), 1);
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // A header that textbooks and the Internet checksum's encyclopedia article share.
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(fold(sum(&header, 0)), 0xFFFF);
        // The example of RFC 1071, section 3.
        assert_eq!(fold(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let packet = written(&segment(b"some data"));
        for at in 0..packet.len() {
            let mut damaged = packet.clone();
            damaged[at] ^= 0x10;
            assert!(Segment::parse(&damaged, Checksum::Present).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_cut_is_noticed_and_padding_is_not_data() {
        let mut packet = written(&segment(b"some data"));
        for length in 0..packet.len() {
            assert!(Segment::parse(&packet[..length], Checksum::LeftOut).is_err(), "{length} bytes");
        }
        packet.extend_from_slice(&[0; 6]);
        assert_eq!(Segment::parse(&packet, Checksum::Present).unwrap().data, b"some data");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let whole = written(&segment(b"data"));
        let changed = |at: usize, to: u8| {
            let mut packet = whole.clone();
            packet[at] = to;
            mend(&mut packet);
            Segment::parse(&packet, Checksum::LeftOut).unwrap_err()
        };
        assert_eq!(changed(0, 0x65), Malformed::NotTcp);
        assert_eq!(changed(9, 17), Malformed::NotTcp);
        // The total length.
        assert_eq!(changed(3, 19), Malformed::Cut);
        assert_eq!(changed(3, 39), Malformed::Cut);
        assert_eq!(changed(3, 200), Malformed::Cut);
        // More fragments, and a fragment that is not the first.
        assert_eq!(changed(6, 0x20), Malformed::Fragment);
        assert_eq!(changed(7, 1), Malformed::Fragment);
        // The length of the TCP header.
        assert_eq!(changed(32, 0x40), Malformed::HeaderLength);
        assert_eq!(changed(32, 0xF0), Malformed::Cut);
        let mut short = whole.clone();
        short[0] = 0x44;
        assert_eq!(Segment::parse(&short, Checksum::LeftOut), Err(Malformed::HeaderLength));
        short[0] = 0x4F;
        assert_eq!(Segment::parse(&short, Checksum::LeftOut), Err(Malformed::Cut));
    }

    #[test]
    fn options_are_read_to_their_end_only() {
        assert_eq!(largest_segment(&[]), Ok(None));
        assert_eq!(largest_segment(&[1, 1, 2, 4, 5, 180, 0, 9]), Ok(Some(1_460)));
        assert_eq!(largest_segment(&[4, 2, 3, 3, 7, 2, 4, 1, 0]), Ok(Some(256)));
        assert_eq!(largest_segment(&[0, 2, 4, 1]), Ok(None));
        for wrong in [&[2][..], &[2, 0], &[2, 1], &[2, 4, 1], &[2, 3, 1], &[8, 10, 0], &[3, 0, 0, 0]] {
            assert_eq!(largest_segment(wrong), Err(Malformed::Options), "{wrong:?}");
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        for round in 0..20_000 {
            let length = usize::from(next()) % 80;
            let mut packet: Vec<u8> = (0..length).map(|_| next()).collect();
            if round % 2 == 0 && length >= 40 {
                // Far enough into the parser to reach the lengths behind the first checks.
                packet[0] = 0x45 + next() % 3;
                packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                packet[6..8].fill(0);
                packet[9] = PROTOCOL;
                if usize::from(packet[0] & 15) * 4 <= length {
                    mend(&mut packet);
                }
            }
            let _ = Segment::parse(&packet, Checksum::LeftOut);
        }
    }
}
