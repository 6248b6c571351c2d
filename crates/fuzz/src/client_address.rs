//! Who the client is behind proxies, against a reader that takes the fields apart with `split`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fanfare_proto::client_address::{ForwardedField, PeerAddress, TrustedProxies};
use fanfare_proto::head::RequestHead;

/// The first line of the input is a list of trusted proxies, the second the peer. Each other line is a field:
/// behind an `f` it is `Forwarded`, else `X-Forwarded-For`.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let trusted = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let peer = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let fields: Vec<(&str, &[u8])> = lines
        .map(|line| match line.strip_prefix(b"f") {
            Some(value) => ("Forwarded", value),
            None => ("x-forwarded-FOR", line),
        })
        .collect();
    let Ok(head) = RequestHead::from_parts("GET", "/", 1, fields.iter().copied()) else { return };
    let proxies = trusted.parse::<TrustedProxies>();
    let naive = Trusted::read(&trusted);
    assert_eq!(proxies.is_ok(), naive.is_some(), "{trusted:?}: {proxies:?}");
    let (Ok(proxies), Some(naive)) = (proxies, naive) else { return };
    let peer = match peer.parse::<IpAddr>() {
        Ok(address) => PeerAddress::Ip(address),
        Err(_) if peer == "unix" => PeerAddress::Unix,
        Err(_) => PeerAddress::Unknown,
    };
    let has_x = fields.iter().any(|(name, _)| *name != "Forwarded");
    let otherwise = if has_x { ForwardedField::XForwardedFor } else { ForwardedField::Forwarded };
    for field in [None, Some(ForwardedField::Forwarded), Some(ForwardedField::XForwardedFor)] {
        let proxies = field.map_or(proxies.clone(), |field| proxies.clone().with_field(field));
        let read = field.unwrap_or(otherwise);
        let values = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(read.name()));
        let values: Vec<&[u8]> = values.map(|(_, value)| *value).collect();
        let expected = naive.client(peer, read, &values);
        assert_eq!(proxies.client_address(peer, &head), expected, "{read:?}");
    }
}

/// Bits of an address, the first one first: 32 or 128 of them.
fn bits(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("{:032b}", u32::from(address)),
        IpAddr::V6(address) => format!("{:0128b}", u128::from(address)),
    }
}

/// A list of trusted proxies, as texts of bits.
struct Trusted {
    /// The length of the addresses of a network, and the bits with which they begin.
    networks: Vec<(usize, String)>,
    unix: bool,
}

impl Trusted {
    fn read(text: &str) -> Option<Trusted> {
        let mut trusted = Trusted { networks: Vec::new(), unix: false };
        for entry in text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
            if entry == "unix" {
                trusted.unix = true;
                continue;
            }
            let (address, prefix) = entry.split_once('/').map_or((entry, None), |(a, b)| (a, Some(b)));
            let address: IpAddr = address.parse().ok()?;
            let bits = bits(address);
            let given = if address.is_ipv4() { 32 } else { 128 };
            let prefix = match prefix {
                None => given,
                Some(prefix) if prefix.chars().all(|c| c.is_ascii_digit()) => {
                    prefix.parse::<u8>().ok()?.into()
                }
                Some(_) => return None,
            };
            if prefix > given || prefix + bits.len() < given {
                return None;
            }
            let prefix = prefix + bits.len() - given;
            if bits[prefix..].contains('1') {
                return None;
            }
            trusted.networks.push((bits.len(), bits[..prefix].to_owned()));
        }
        Some(trusted)
    }

    fn contains(&self, address: IpAddr) -> bool {
        let bits = bits(address);
        self.networks.iter().any(|(len, prefix)| bits.len() == *len && bits.starts_with(prefix.as_str()))
    }

    /// The chain from the client to the peer: the last address that is not a proxy's.
    fn client(&self, peer: PeerAddress, field: ForwardedField, values: &[&[u8]]) -> Option<IpAddr> {
        let (mut address, is_trusted) = match peer {
            PeerAddress::Ip(address) => (Some(address.to_canonical()), self.contains(address)),
            PeerAddress::Unix => (None, self.unix),
            PeerAddress::Unknown => (None, false),
        };
        if !is_trusted {
            return address;
        }
        // A field that is not well-formed is one hop that is not told.
        let hops = values.iter().flat_map(|value| match field {
            ForwardedField::XForwardedFor => x_forwarded_for(value),
            _ => forwarded(value).unwrap_or(vec![None]),
        });
        for hop in hops.collect::<Vec<_>>().into_iter().rev() {
            address = hop;
            if !hop.is_some_and(|hop| self.contains(hop)) {
                break;
            }
        }
        address
    }
}

fn x_forwarded_for(value: &[u8]) -> Vec<Option<IpAddr>> {
    let elements = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let hop = |element: &[u8]| {
        let text = std::str::from_utf8(element).ok()?;
        text.parse().ok().map(|address: IpAddr| address.to_canonical()).or_else(|| node(text))
    };
    elements.filter(|element| !element.is_empty()).map(hop).collect()
}

/// `None`: not well-formed.
fn forwarded(value: &[u8]) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    for element in split_outside_quotes(value, b',')? {
        let pairs = split_outside_quotes(trim_blanks(element), b';')?;
        let pairs: Vec<&[u8]> = pairs.into_iter().filter(|pair| !pair.is_empty()).collect();
        let mut hop = None;
        for pair in &pairs {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            let value = if value.first() == Some(&b'"') { unquote(value)? } else { token(value)? };
            let is_for = token(name)?.eq_ignore_ascii_case(b"for");
            if is_for && hop.replace(std::str::from_utf8(&value).ok().and_then(node)).is_some() {
                return None;
            }
        }
        if !pairs.is_empty() {
            hops.push(hop.flatten());
        }
    }
    Some(hops)
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let is_ink = |byte: &u8| !b" \t".contains(byte);
    let Some(start) = text.iter().position(is_ink) else { return b"" };
    &text[start..=text.iter().rposition(is_ink).unwrap_or(start)]
}

/// `None`: a quote is not closed.
fn split_outside_quotes(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut parts, mut start, mut at, mut quoted) = (Vec::new(), 0, 0, false);
    while at < text.len() {
        match text[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            byte if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&text[start..]);
    (!quoted && at == text.len()).then_some(parts)
}

fn token(text: &[u8]) -> Option<Vec<u8>> {
    let is_separator = |byte: &u8| b"\"(),/:;<=>?@[\\]{}".contains(byte) || !byte.is_ascii_graphic();
    (!text.is_empty() && !text.iter().any(is_separator)).then(|| text.to_vec())
}

/// The text of a quoted string, which is the whole of `text`.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let (mut unquoted, mut bytes) = (Vec::new(), inner.iter());
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => unquoted.push(*bytes.next()?),
            _ => unquoted.push(byte),
        }
    }
    Some(unquoted)
}

/// An address with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (IpAddr::from(address.parse::<Ipv6Addr>().ok()?), port),
        None => {
            let name = text.split(':').next()?;
            (IpAddr::from(name.parse::<Ipv4Addr>().ok()?), &text[name.len()..])
        }
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) if port.starts_with('_') => {
            port.len() > 1 && port.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        }
        Some(port) => (1..6).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit()),
    };
    is_port.then(|| address.to_canonical())
}
