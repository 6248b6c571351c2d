//! Headers of the PROXY protocol against a reader that takes them apart in another way, in pieces and at
//! once, and headers that are written from the input and read again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fanfare_proto::proxy_header::{
    MAX_BINARY_BYTES, MAX_TEXT_BYTES, ProxiedConnection, ProxyHeader, ProxyHeaderError, parse,
};

use crate::pieces::ways_to_cut;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The input is what a proxy sends, and the source of headers that are well-formed.
pub(crate) fn check(input: &[u8]) {
    let verdict = parse(input);
    for ends in ways_to_cut(input) {
        same_in_pieces(input, &ends, verdict);
    }
    let expected = read_text(input).or_else(|| read_binary(input));
    assert_eq!(verdict.ok().flatten(), expected, "{verdict:?}");
    if verdict == Ok(None) {
        assert!(input.len() < MAX_BINARY_BYTES, "waits for more than it would take");
    }
    written_as_text(input);
    written_as_binary(input);
}

/// Once there is a verdict, it stays.
fn same_in_pieces(input: &[u8], ends: &[usize], at_once: Result<Option<ProxyHeader>, ProxyHeaderError>) {
    let mut first = Ok(None);
    for &end in ends {
        let now = parse(&input[..end]);
        if first == Ok(None) {
            first = now;
        } else {
            assert_eq!(now, first, "it has changed its mind");
        }
    }
    assert_eq!(first, at_once);
}

/// A whole line, in words.
fn read_text(input: &[u8]) -> Option<ProxyHeader> {
    let end = input.windows(2).position(|two| two == b"\r\n")? + 2;
    let line = std::str::from_utf8(&input[..end - 2]).ok();
    let is_unknown = input.starts_with(b"PROXY UNKNOWN\r\n") || input.starts_with(b"PROXY UNKNOWN ");
    let has_odd_end = input[..end - 2].iter().any(|byte| b"\r\n".contains(byte));
    if end > MAX_TEXT_BYTES || has_odd_end {
        return None;
    }
    if is_unknown {
        return Some(ProxyHeader { connection: ProxiedConnection::Own, bytes: end });
    }
    let words: Vec<&str> = line?.split(' ').collect();
    let ["PROXY", family, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let is_number = |text: &str| text.parse::<u16>().is_ok_and(|number| number.to_string() == text);
    let is_address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().is_ok(),
        "TCP6" => text.parse::<Ipv6Addr>().is_ok(),
        _ => false,
    };
    let all = is_address(source)
        && is_address(destination)
        && is_number(source_port)
        && is_number(destination_port);
    let source = SocketAddr::new(source.parse::<IpAddr>().ok()?, source_port.parse().ok()?);
    all.then_some(ProxyHeader { connection: ProxiedConnection::From(source), bytes: end })
}

/// By positions.
fn read_binary(input: &[u8]) -> Option<ProxyHeader> {
    let length = usize::from(*input.get(14)?) * 256 + usize::from(*input.get(15)?);
    let bytes = 16 + length;
    if !input.starts_with(SIGNATURE) || bytes > MAX_BINARY_BYTES || input.len() < bytes {
        return None;
    }
    let own = Some(ProxyHeader { connection: ProxiedConnection::Own, bytes });
    let port_at = |at: usize| u16::from(input[at]) * 256 + u16::from(input[at + 1]);
    let (connection, addresses) = match (input[12], input[13]) {
        (0x20, _) | (0x21, 0x00 | 0x01 | 0x02 | 0x10 | 0x20 | 0x30) => return own,
        (0x21, 0x11) if length >= 12 => {
            let address = Ipv4Addr::new(input[16], input[17], input[18], input[19]);
            (ProxiedConnection::From((address, port_at(24)).into()), 12)
        }
        (0x21, 0x21) if length >= 36 => {
            let words: Vec<u16> = (0..8).map(|word| port_at(16 + 2 * word)).collect();
            let address = Ipv6Addr::from(<[u16; 8]>::try_from(words).unwrap());
            (ProxiedConnection::From((address, port_at(48)).into()), 36)
        }
        (0x21, 0x31) if length >= 216 => (ProxiedConnection::FromUnix, 216),
        _ => return None,
    };
    let mut at = 16 + addresses;
    while at < bytes {
        if at + 3 > bytes {
            return None;
        }
        at += 3 + usize::from(port_at(at + 1));
    }
    (at == bytes).then_some(ProxyHeader { connection, bytes })
}

/// Bytes of the input, and zeros where it has no more.
fn array<const N: usize>(input: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| input.get(at).copied().unwrap_or_default())
}

/// What is well-formed is read, whatever follows.
fn written_as_text(input: &[u8]) {
    let port = u16::from_be_bytes(array(input));
    let behind = input.get(2..).unwrap_or_default();
    let v4 = SocketAddr::from((Ipv4Addr::from(array::<4>(behind)), port));
    let v6 = SocketAddr::from((Ipv6Addr::from(array::<16>(behind)), port));
    for (family, source) in [("TCP4", v4), ("TCP6", v6)] {
        let line = format!("PROXY {family} {0} {0} {port} 443\r\n", source.ip());
        let expected = ProxyHeader { connection: ProxiedConnection::From(source), bytes: line.len() };
        let sent = [line.as_bytes(), input].concat();
        assert_eq!(parse(&sent), Ok(Some(expected)), "{line:?}");
        assert_eq!(parse(&sent[..line.len() - 1]), Ok(None), "{line:?}");
    }
}

fn written_as_binary(input: &[u8]) {
    let address: [u8; 16] = array(input);
    let port = u16::from_be_bytes(array(input));
    let value = &input[..input.len().min(400)];
    let tlv = [&[0x20, (value.len() >> 8) as u8, value.len() as u8], value].concat();
    let v4 = [&address[..4], &[127, 0, 0, 1], &port.to_be_bytes(), &[1, 187]].concat();
    let v6 = [&address[..], &[0; 16], &port.to_be_bytes(), &[1, 187]].concat();
    let from_v4 = SocketAddr::from((Ipv4Addr::from(array::<4>(input)), port));
    let from_v6 = SocketAddr::from((Ipv6Addr::from(address), port));
    for (family, addresses, source) in [(0x11, v4, from_v4), (0x21, v6, from_v6)] {
        let length = (addresses.len() + tlv.len()) as u16;
        let header = [SIGNATURE, &[0x21, family], &length.to_be_bytes(), &addresses, &tlv].concat();
        let expected = ProxyHeader { connection: ProxiedConnection::From(source), bytes: header.len() };
        assert_eq!(parse(&[&header, input].concat()), Ok(Some(expected)));
        assert_eq!(parse(&header[..header.len() - 1]), Ok(None));
    }
}
