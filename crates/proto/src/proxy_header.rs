//! The PROXY protocol, versions 1 and 2: what a proxy says about a connection before its first byte.
//!
//! The source is `proxy-protocol.txt` of HAProxy, "The PROXY protocol, versions 1 & 2", section 2. It is read
//! strictly: what two readers could understand differently is an error, and the receiver closes the
//! connection. There is nothing to answer, because the sender does not listen before its header was read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the longest text header, with its line end (section 2.1: "a 108-byte buffer is always enough",
/// for a line of at most 107 bytes and a zero byte).
pub const MAX_TEXT_BYTES: usize = 107;

/// Bytes of the longest binary header that is taken, with its TLVs. Section 2 designs both forms to fit into
/// the smallest TCP segment that any host has to support, which is 576 - 40 = 536 bytes. The length field of
/// version 2 allows 65,551 bytes, and what is read before a connection is known to be good should be little.
pub const MAX_BINARY_BYTES: usize = 536;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const TEXT_BEGIN: &[u8; 6] = b"PROXY ";

/// Signature, version and command, family and transport, length.
const BINARY_FIXED_BYTES: usize = 16;

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// What it says of the connection.
    pub connection: ProxiedConnection,
    /// How many bytes it takes; the request begins behind them.
    pub bytes: usize,
}

/// What a header says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxiedConnection {
    /// The proxy speaks for itself, as for a health check, or it does not know its client (`LOCAL`, `UNSPEC`,
    /// `UNKNOWN`): the addresses are those of the socket.
    Own,
    /// The proxy's client has this address.
    From(SocketAddr),
    /// The proxy's client came by a Unix socket, so it has no address on the Internet.
    FromUnix,
}

/// A header that is not one of the PROXY protocol, or not one for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// The bytes begin neither as the text form nor as the binary one.
    NoHeader,
    /// The text form has no line end within [`MAX_TEXT_BYTES`].
    TextTooLong,
    /// The line is not `PROXY TCP4|TCP6 source destination source-port destination-port`, nor `PROXY
    /// UNKNOWN`.
    Text,
    /// The binary form has another version than 2.
    Version,
    /// The binary form has a command other than LOCAL and PROXY.
    Command,
    /// The binary form has a family or a transport that a stream cannot have.
    Family,
    /// The binary form is longer than [`MAX_BINARY_BYTES`].
    BinaryTooLong,
    /// The binary form is too short for its addresses.
    BinaryTooShort,
    /// What follows the addresses is not a list of whole TLVs.
    Tlvs,
}

/// Reads the header at the beginning of `received`. `None`: it is not complete. Garbage is an error at the
/// first byte that cannot be right, or at the end of the line of the text form.
///
/// # Errors
/// [`ProxyHeaderError`], whatever may follow.
pub fn parse(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    if begins(received, TEXT_BEGIN) {
        parse_text(received)
    } else if begins(received, SIGNATURE) {
        parse_binary(received)
    } else {
        Err(ProxyHeaderError::NoHeader)
    }
}

/// Whether the bytes begin with this, as far as they have come.
fn begins(received: &[u8], beginning: &[u8]) -> bool {
    let count = received.len().min(beginning.len());
    received[..count] == beginning[..count]
}

fn parse_text(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let line = &received[..received.len().min(MAX_TEXT_BYTES)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() == MAX_TEXT_BYTES { Err(ProxyHeaderError::TextTooLong) } else { Ok(None) };
    };
    let line = line[..end].strip_suffix(b"\r").ok_or(ProxyHeaderError::Text)?;
    let line = line.strip_prefix(TEXT_BEGIN).ok_or(ProxyHeaderError::Text)?;
    let connection = text_connection(line).ok_or(ProxyHeaderError::Text)?;
    Ok(Some(ProxyHeader { connection, bytes: end + 1 }))
}

/// What stands behind `PROXY ` and before the line end.
fn text_connection(line: &[u8]) -> Option<ProxiedConnection> {
    if line.contains(&b'\r') {
        return None;
    }
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        // Section 2.1: what follows is to be ignored.
        return Some(ProxiedConnection::Own);
    }
    let mut parts = std::str::from_utf8(line).ok()?.split(' ');
    let family = parts.next()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (address(parts.next()?)?, address(parts.next()?)?);
    let (source_port, _) = (port(parts.next()?)?, port(parts.next()?)?);
    parts.next().is_none().then_some(ProxiedConnection::From(SocketAddr::new(source, source_port)))
}

/// A number without a sign or leading zeros, which readers could take for octal.
fn port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_number && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

fn parse_binary(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some(&version_and_command) = received.get(SIGNATURE.len()) else { return Ok(None) };
    if version_and_command >> 4 != 2 {
        return Err(ProxyHeaderError::Version);
    }
    let is_local = match version_and_command & 15 {
        0 => true,
        1 => false,
        _ => return Err(ProxyHeaderError::Command),
    };
    let Some(fixed) = received.first_chunk::<BINARY_FIXED_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let bytes = BINARY_FIXED_BYTES + length;
    if bytes > MAX_BINARY_BYTES {
        return Err(ProxyHeaderError::BinaryTooLong);
    }
    let Some(body) = received.get(BINARY_FIXED_BYTES..bytes) else { return Ok(None) };
    // "The receiver must [...] discard the protocol block including the family which is ignored."
    let connection = if is_local { ProxiedConnection::Own } else { binary_connection(fixed[13], body)? };
    Ok(Some(ProxyHeader { connection, bytes }))
}

/// What the addresses say that follow the fixed part of a PROXY command.
fn binary_connection(family_and_transport: u8, body: &[u8]) -> Result<ProxiedConnection, ProxyHeaderError> {
    const STREAM: u8 = 1;
    let (family, transport) = (family_and_transport >> 4, family_and_transport & 15);
    if family == 0 || transport == 0 {
        let is_known = family <= 3 && transport <= 2;
        return is_known.then_some(ProxiedConnection::Own).ok_or(ProxyHeaderError::Family);
    }
    if transport != STREAM {
        return Err(ProxyHeaderError::Family);
    }
    let (connection, tlvs) = match family {
        // Source, destination, source port, destination port.
        1 => {
            let (addresses, tlvs) = body.split_first_chunk::<12>().ok_or(ProxyHeaderError::BinaryTooShort)?;
            let [a, b, c, d, _, _, _, _, port @ .., _, _] = *addresses;
            let source = SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(port)));
            (ProxiedConnection::From(source), tlvs)
        }
        2 => {
            let (source, behind) = body.split_first_chunk::<16>().ok_or(ProxyHeaderError::BinaryTooShort)?;
            let (others, tlvs) = behind.split_first_chunk::<20>().ok_or(ProxyHeaderError::BinaryTooShort)?;
            let port = u16::from_be_bytes([others[16], others[17]]);
            (ProxiedConnection::From(SocketAddr::from((Ipv6Addr::from(*source), port))), tlvs)
        }
        3 => {
            let tlvs = body.get(216..).ok_or(ProxyHeaderError::BinaryTooShort)?;
            (ProxiedConnection::FromUnix, tlvs)
        }
        _ => return Err(ProxyHeaderError::Family),
    };
    skip_tlvs(tlvs)?;
    Ok(connection)
}

/// Each has a type, a length in two bytes, and as many bytes of value.
fn skip_tlvs(mut tlvs: &[u8]) -> Result<(), ProxyHeaderError> {
    while !tlvs.is_empty() {
        let ([_, high, low], behind) = tlvs.split_first_chunk::<3>().ok_or(ProxyHeaderError::Tlvs)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        tlvs = behind.get(length..).ok_or(ProxyHeaderError::Tlvs)?;
    }
    Ok(())
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyHeaderError::NoHeader => "the connection does not begin with a header of the PROXY protocol",
            ProxyHeaderError::TextTooLong => "the text header of the PROXY protocol is longer than 107 bytes",
            ProxyHeaderError::Text => "the text header of the PROXY protocol is not well-formed",
            ProxyHeaderError::Version => "the binary header of the PROXY protocol has an unknown version",
            ProxyHeaderError::Command => "the binary header of the PROXY protocol has an unknown command",
            ProxyHeaderError::Family => "the header of the PROXY protocol is not about a stream",
            ProxyHeaderError::BinaryTooLong => {
                "the binary header of the PROXY protocol is longer than 536 bytes"
            }
            ProxyHeaderError::BinaryTooShort => {
                "the binary header of the PROXY protocol is too short for its addresses"
            }
            ProxyHeaderError::Tlvs => "the binary header of the PROXY protocol ends in the middle of a TLV",
        })
    }
}

impl std::error::Error for ProxyHeaderError {}
