//! Headers of the PROXY protocol: what is read from good ones, a table of hostile ones, and properties for
//! any bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use fanfare_proto::proxy_header::{
    MAX_BINARY_BYTES, MAX_TEXT_BYTES, ProxiedConnection, ProxyHeader, ProxyHeaderError, parse,
};
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length, body].concat()
}

fn from(address: &str) -> ProxiedConnection {
    ProxiedConnection::From(address.parse().unwrap())
}

/// The result of the whole, which must be "not complete" for each beginning of it.
fn whole(bytes: &[u8]) -> ProxiedConnection {
    for count in 0..bytes.len() {
        assert_eq!(parse(&bytes[..count]), Ok(None), "after {count} bytes of {bytes:?}");
    }
    let behind = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    let header = parse(&behind).unwrap().unwrap();
    assert_eq!(header.bytes, bytes.len());
    header.connection
}

/// The error, which must be found at the last of these bytes.
fn error(bytes: &[u8]) -> ProxyHeaderError {
    let before = &bytes[..bytes.len() - 1];
    assert_eq!(parse(before), Ok(None), "all but the last byte of {bytes:?}");
    parse(bytes).unwrap_err()
}

#[test]
fn the_text_form() {
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest_line = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
    let ignored = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!((longest_line.len(), ignored.len()), (104, MAX_TEXT_BYTES));
    for (line, connection) in [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 40000 443\r\n", from("192.0.2.7:40000")),
        ("PROXY TCP4 192.0.2.7 10.0.0.1 0 0\r\n", from("192.0.2.7:0")),
        ("PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", from("[2001:db8::7]:1")),
        (&longest_line, from(&format!("[{longest}]:65535"))),
        ("PROXY UNKNOWN\r\n", ProxiedConnection::Own),
        ("PROXY UNKNOWN anything at all\r\n", ProxiedConnection::Own),
        (&ignored, ProxiedConnection::Own),
    ] {
        assert_eq!(whole(line.as_bytes()), connection, "{line:?}");
    }
}

#[test]
fn hostile_text() {
    let too_long = ["PROXY UNKNOWN ", &"x".repeat(MAX_TEXT_BYTES - 14)].concat();
    assert_eq!(error(too_long.as_bytes()), ProxyHeaderError::TextTooLong);
    for bytes in ["G", "\0", "PROXY\n", "PROXY\r", "PROXy", "proxy", "\x16", "\r\r", "\r\n\n", "\r\n\r\n\r"] {
        let first_wrong = (1..=bytes.len()).find(|&count| parse(&bytes.as_bytes()[..count]).is_err());
        let first_wrong = first_wrong.expect("it is refused");
        assert_eq!(error(&bytes.as_bytes()[..first_wrong]), ProxyHeaderError::NoHeader, "{bytes:?}");
    }
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 \r\n",
        "PROXY TCP4 192.0.2.7\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
        "PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4\t192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\r\n",
        "PROXY TCP4 192.0.2.7\r 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.x 1 2\r\n",
        "PROXY TCP4 ::1 10.0.0.1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 -1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 \r\n",
        "PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 \u{661}\r\n",
    ] {
        assert_eq!(error(line.as_bytes()), ProxyHeaderError::Text, "{line:?}");
    }
}

#[test]
fn the_binary_form() {
    let v4 = [&[192, 0, 2, 7], &[10, 0, 0, 1][..], &40000_u16.to_be_bytes(), &[0, 80]].concat();
    let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0, 7], &[0, 80]].concat();
    let tlvs = [&v4[..], &[4, 0, 0], &[1, 0, 2, b'h', b'2']].concat();
    let full = [&v4[..], &[4], &(520_u16 - 15).to_be_bytes(), &[0; 505]].concat();
    assert_eq!(binary(0x21, 0x11, &full).len(), MAX_BINARY_BYTES);
    for (header, connection) in [
        (binary(0x21, 0x11, &v4), from("192.0.2.7:40000")),
        (binary(0x21, 0x11, &tlvs), from("192.0.2.7:40000")),
        (binary(0x21, 0x11, &full), from("192.0.2.7:40000")),
        (binary(0x21, 0x21, &v6), from("[::1]:7")),
        (binary(0x21, 0x31, &[b'/'; 216]), ProxiedConnection::FromUnix),
        (binary(0x21, 0x00, &[]), ProxiedConnection::Own),
        (binary(0x21, 0x00, &[1, 2, 3]), ProxiedConnection::Own),
        (binary(0x21, 0x10, &v4), ProxiedConnection::Own),
        (binary(0x21, 0x01, &v4), ProxiedConnection::Own),
        (binary(0x20, 0x00, &[]), ProxiedConnection::Own),
        // The family of LOCAL is ignored.
        (binary(0x20, 0x11, &v4), ProxiedConnection::Own),
        (binary(0x20, 0xff, &[1, 2, 3]), ProxiedConnection::Own),
    ] {
        assert_eq!(whole(&header), connection, "{header:?}");
    }
}

#[test]
fn hostile_binary() {
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 0, 2];
    for (header, expected) in [
        (binary(0x11, 0x11, &v4)[..13].to_vec(), ProxyHeaderError::Version),
        (binary(0x31, 0x11, &v4)[..13].to_vec(), ProxyHeaderError::Version),
        (binary(0x22, 0x11, &v4)[..13].to_vec(), ProxyHeaderError::Command),
        (binary(0x2f, 0x11, &v4)[..13].to_vec(), ProxyHeaderError::Command),
        (binary(0x21, 0x12, &v4), ProxyHeaderError::Family),
        (binary(0x21, 0x13, &v4), ProxyHeaderError::Family),
        (binary(0x21, 0x41, &v4), ProxyHeaderError::Family),
        (binary(0x21, 0x40, &v4), ProxyHeaderError::Family),
        (binary(0x21, 0x03, &v4), ProxyHeaderError::Family),
        (binary(0x21, 0x32, &[0; 216]), ProxyHeaderError::Family),
        (binary(0x21, 0x11, &v4[..11]), ProxyHeaderError::BinaryTooShort),
        (binary(0x21, 0x11, &[]), ProxyHeaderError::BinaryTooShort),
        (binary(0x21, 0x21, &[0; 35]), ProxyHeaderError::BinaryTooShort),
        (binary(0x21, 0x31, &[0; 215]), ProxyHeaderError::BinaryTooShort),
        (binary(0x21, 0x11, &[&v4[..], &[4]].concat()), ProxyHeaderError::Tlvs),
        (binary(0x21, 0x11, &[&v4[..], &[4, 0, 1]].concat()), ProxyHeaderError::Tlvs),
        (binary(0x21, 0x11, &[&v4[..], &[4, 0xff, 0xff, 0]].concat()), ProxyHeaderError::Tlvs),
        (binary(0x21, 0x11, &[0; 521])[..16].to_vec(), ProxyHeaderError::BinaryTooLong),
        (binary(0x20, 0x00, &[0; 65_535])[..16].to_vec(), ProxyHeaderError::BinaryTooLong),
    ] {
        assert_eq!(error(&header), expected, "{header:?}");
    }
}

/// Bytes that look like a header more often than random ones do.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let words = ["PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", "192.0.2.1 ", "::1 ", "80 ", "80", "\r\n", " ", "\r"];
    let text = prop::collection::vec(prop::sample::select(words.to_vec()), 0..9)
        .prop_map(|words| words.concat().into_bytes());
    let head = (prop::sample::select(vec![0x20_u8, 0x21, 0x22, 0x11]), any::<u8>(), 0..600_u16);
    let binary =
        (head, prop::collection::vec(any::<u8>(), 0..600)).prop_map(|((command, family, length), body)| {
            [SIGNATURE, &[command, family], &length.to_be_bytes(), &body].concat()
        });
    prop_oneof![text, binary, prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    /// A longer beginning never changes what was read from a shorter one, whatever the bytes are, so the
    /// pieces in which they come do not matter. Nothing is waited for beyond the bounds.
    #[test]
    fn pieces_do_not_matter(bytes in nearly_a_header()) {
        let mut result = Ok(None);
        for count in 0..=bytes.len() {
            let now = parse(&bytes[..count]);
            if result == Ok(None) {
                result = now;
            } else {
                prop_assert_eq!(now, result);
            }
        }
        prop_assert!(result != Ok(None) || bytes.len() < MAX_BINARY_BYTES);
        if let Ok(Some(ProxyHeader { bytes: length, .. })) = result {
            prop_assert!(length <= bytes.len() && length <= MAX_BINARY_BYTES);
        }
    }

    #[test]
    fn each_address_is_read_back(source: SocketAddr, v4: [u8; 4], v6: [u8; 16], port: u16, tlv in prop::collection::vec(any::<u8>(), 0..400)) {
        // Neither form has a flow or a zone.
        let source = SocketAddr::new(source.ip(), source.port());
        let (family, destination) = match source {
            SocketAddr::V4(_) => ("TCP4", Ipv4Addr::from(v4).to_string()),
            SocketAddr::V6(_) => ("TCP6", Ipv6Addr::from(v6).to_string()),
        };
        let line = format!("PROXY {family} {} {destination} {} {port}\r\n", source.ip(), source.port());
        prop_assert_eq!(whole(line.as_bytes()), ProxiedConnection::From(source));
        let (family, mut body) = match source {
            SocketAddr::V4(source) => (0x11, [source.ip().octets(), v4].concat()),
            SocketAddr::V6(source) => (0x21, [source.ip().octets(), v6].concat()),
        };
        body.extend(source.port().to_be_bytes());
        body.extend(port.to_be_bytes());
        body.extend([&[0xe0][..], &(tlv.len() as u16).to_be_bytes(), &tlv].concat());
        prop_assert_eq!(whole(&binary(0x21, family, &body)), ProxiedConnection::From(source));
    }
}
