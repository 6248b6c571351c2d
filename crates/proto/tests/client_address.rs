//! Who the client is behind proxies: good fields, a table of hostile ones, and properties for any bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fanfare_proto::client_address::{ForwardedField, PeerAddress, TrustedProxies};
use fanfare_proto::head::RequestHead;
use proptest::prelude::*;

const PROXY: &str = "10.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn trusted() -> TrustedProxies {
    "10.0.0.0/8, 2001:db8::/32, unix".parse().unwrap()
}

fn client(trusted: &TrustedProxies, peer: PeerAddress, fields: &[(&str, &[u8])]) -> Option<IpAddr> {
    let fields = [&[("Host", &b"h"[..])], fields].concat();
    let head = RequestHead::from_parts("GET", "/", 1, fields).unwrap();
    trusted.client_address(peer, &head)
}

/// What the fields say that a trusted proxy sent.
fn behind_proxy(fields: &[(&str, &str)]) -> Option<IpAddr> {
    let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    client(&trusted(), PeerAddress::Ip(ip(PROXY)), &fields)
}

#[test]
fn networks() {
    for (text, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "::a00:1"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
        ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "2001:db8::1", "10.0.0.1"),
        ("::/0", "::1", "::ffff:10.0.0.1"),
        ("2001:db8::/32", "2001:db8:ffff::", "2001:db9::"),
        ("2001:db8::8000:0:0:0/65", "2001:db8::8000:0:0:1", "2001:db8::1"),
        ("::1/128", "::1", "::2"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("::ffff:0:0/96", "203.0.113.1", "::1"),
    ] {
        let trusted: TrustedProxies = text.parse().unwrap();
        assert!(trusted.contains(ip(inside)), "{inside} in {text}");
        assert!(!trusted.contains(ip(outside)), "{outside} in {text}");
    }
    let list: TrustedProxies = " 10.0.0.0/8,unix ,, ::1 ".parse().unwrap();
    assert!(list.trusts(PeerAddress::Unix) && list.contains(ip("::1")) && list.contains(ip("10.0.0.1")));
    let none: TrustedProxies = "".parse().unwrap();
    assert_eq!(none, TrustedProxies::none());
    let built = TrustedProxies::none().with_address(ip("::ffff:10.0.0.1")).with_unix_sockets();
    assert!(built.contains(ip("10.0.0.1")) && built.trusts(PeerAddress::Unix));
    assert!(!built.trusts(PeerAddress::Unknown), "a peer that is not known is no proxy");
}

#[test]
fn wrong_networks_are_errors_that_name_them() {
    for (entry, reason) in [
        ("10.0.0.0/33", "longer"),
        ("::/129", "longer"),
        ("10.0.0.0/", "no number"),
        ("10.0.0.0/+8", "no number"),
        ("10.0.0.0/8/8", "no number"),
        ("10.0.0.0/256", "no number"),
        ("10.0.0.1/8", "behind the prefix"),
        ("::ffff:0:0/95", "more than the IPv4"),
        ("10.0.0.0/-1", "no number"),
        ("10.0.0/8", "not well-formed"),
        ("010.0.0.0/8", "not well-formed"),
        ("fe80::1%eth0", "not well-formed"),
        ("localhost", "not well-formed"),
        ("*", "not well-formed"),
        ("/8", "not well-formed"),
        ("UNIX", "not well-formed"),
        ("10.0.0.0\u{1b}[2J", "not well-formed"),
    ] {
        let text = format!("192.0.2.1, {entry}");
        let error = text.parse::<TrustedProxies>().unwrap_err().to_string();
        assert!(error.contains(&format!("{entry:?}")) && error.contains(reason), "{entry:?}: {error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let long = "x".repeat(100_000).parse::<TrustedProxies>().unwrap_err().to_string();
    assert!(long.len() < 200, "{long}");
}

#[test]
fn a_peer_that_is_no_proxy_is_the_client_whatever_it_says() {
    let fields: &[(&str, &[u8])] = &[("X-Forwarded-For", b"192.0.2.1"), ("Forwarded", b"for=192.0.2.1")];
    let peer = PeerAddress::Ip(ip("203.0.113.9"));
    assert_eq!(client(&trusted(), peer, fields), Some(ip("203.0.113.9")));
    let mapped = PeerAddress::Ip(ip("::ffff:203.0.113.9"));
    assert_eq!(client(&trusted(), mapped, fields), Some(ip("203.0.113.9")));
    assert_eq!(client(&TrustedProxies::none(), PeerAddress::Ip(ip(PROXY)), fields), Some(ip(PROXY)));
    assert_eq!(client(&TrustedProxies::none(), PeerAddress::Unix, fields), None);
    assert_eq!(client(&trusted(), PeerAddress::Unknown, fields), None);
    // And one that is a proxy is believed.
    assert_eq!(client(&trusted(), PeerAddress::Ip(ip(PROXY)), fields), Some(ip("192.0.2.1")));
    assert_eq!(client(&trusted(), PeerAddress::Ip(ip("::ffff:10.0.0.1")), fields), Some(ip("192.0.2.1")));
    assert_eq!(client(&trusted(), PeerAddress::Unix, fields), Some(ip("192.0.2.1")));
}

#[test]
fn x_forwarded_for() {
    for (value, expected) in [
        ("192.0.2.1", Some("192.0.2.1")),
        ("192.0.2.1:1234", Some("192.0.2.1")),
        ("2001:470::1", Some("2001:470::1")),
        ("[2001:470::1]", Some("2001:470::1")),
        ("[2001:470::1]:80", Some("2001:470::1")),
        ("::ffff:192.0.2.1", Some("192.0.2.1")),
        // What the client sent itself stands left of what the proxy added.
        ("6.6.6.6, 192.0.2.1", Some("192.0.2.1")),
        ("6.6.6.6,192.0.2.1 , 10.2.3.4,2001:db8::1", Some("192.0.2.1")),
        ("10.6.6.6, 192.0.2.1, 10.2.3.4", Some("192.0.2.1")),
        (", ,192.0.2.1,, ,", Some("192.0.2.1")),
        // All are proxies: one of them made the request itself.
        ("10.0.0.9, 10.0.0.8", Some("10.0.0.9")),
        ("", Some(PROXY)),
        (" , ", Some(PROXY)),
        // The last hop is hidden or garbage: what stands left of it is not believed.
        ("6.6.6.6, unknown", None),
        ("6.6.6.6, unknown, 10.0.0.2", None),
        ("6.6.6.6, _hidden", None),
        ("6.6.6.6, 192.0.2.1 x", None),
        ("6.6.6.6, 192.0.2.01", None),
        ("6.6.6.6, 192.0.2.1:", None),
        ("6.6.6.6, 192.0.2.1:123456", None),
        ("6.6.6.6, 2001:470::1:80:x", None),
        ("6.6.6.6, [2001:470::1", None),
        ("6.6.6.6, [192.0.2.1]", None),
        ("6.6.6.6, \"192.0.2.1\"", None),
        ("6.6.6.6, for=192.0.2.1", None),
        ("6.6.6.6, fe80::1%eth0", None),
        ("6.6.6.6, \u{661}.1.1.1", None),
        ("6.6.6.6; 192.0.2.1", None),
        // Garbage on the left is not reached.
        ("garbage\t, \"x, 192.0.2.1", Some("192.0.2.1")),
    ] {
        assert_eq!(behind_proxy(&[("X-Forwarded-For", value)]), expected.map(ip), "{value:?}");
    }
}

#[test]
fn forwarded() {
    for (value, expected) in [
        ("for=192.0.2.1", Some("192.0.2.1")),
        ("For=192.0.2.1;proto=https;by=10.0.0.1;host=\"a,b\"", Some("192.0.2.1")),
        ("proto=http;FOR=\"192.0.2.1:4711\"", Some("192.0.2.1")),
        ("for=\"192.0.2.1:_port\"", Some("192.0.2.1")),
        ("for=\"[2001:470:cafe::17]:4711\"", Some("2001:470:cafe::17")),
        ("for=\"[2001:470:cafe::17]\"", Some("2001:470:cafe::17")),
        ("for=\"[::ffff:192.0.2.1]\"", Some("192.0.2.1")),
        ("for=\"192.\\0.2.1\"", Some("192.0.2.1")),
        ("for=6.6.6.6, for=192.0.2.1", Some("192.0.2.1")),
        ("for=6.6.6.6 ,\tfor=192.0.2.1, , for=\"[2001:db8::1]\" , for=10.0.0.3", Some("192.0.2.1")),
        ("for=192.0.2.1;;", Some("192.0.2.1")),
        ("for=\"6.6.6.6, for=7.7.7.7\", for=192.0.2.1", Some("192.0.2.1")),
        ("for=10.0.0.9, for=10.0.0.8", Some("10.0.0.9")),
        ("", Some(PROXY)),
        (",,", Some(PROXY)),
        // Hidden: nothing left of it is believed.
        ("for=6.6.6.6, for=unknown", None),
        ("for=6.6.6.6, for=_SEVKISEK", None),
        ("for=6.6.6.6, for=\"_gazonk:80\"", None),
        ("for=6.6.6.6, proto=https", None),
        ("for=6.6.6.6, for=\"\"", None),
        ("for=6.6.6.6, for=\"[192.0.2.1]\"", None),
        ("for=6.6.6.6, for=\"2001:470::1\"", None),
        ("for=6.6.6.6, for=\"192.0.2.1 \"", None),
        ("for=6.6.6.6, for=\"192.0.2.1\\\\\"", None),
        // Not well-formed: where an element begins is not known, so none is believed.
        ("for=192.0.2.1:80", None),
        ("for=[2001:470::1]", None),
        ("for=6.6.6.6, for = 192.0.2.1", None),
        ("for=6.6.6.6, for=", None),
        ("for=6.6.6.6, for", None),
        ("for=6.6.6.6, =192.0.2.1", None),
        ("for=6.6.6.6, 192.0.2.1", None),
        ("for=6.6.6.6, for=192.0.2.1;for=192.0.2.2", None),
        ("for=6.6.6.6, for=\"192.0.2.1", None),
        ("for=6.6.6.6, for=\"192.0.2.1\\", None),
        ("for=6.6.6.6, for=\"192.0.2.1\"x", None),
        ("for=6.6.6.6, for=192.0.2.1 for=7.7.7.7", None),
        // A quote that the client leaves open takes in what the proxy adds. That hides the client, and makes
        // it no other client.
        ("for=\"6.6.6.6, for=192.0.2.1", None),
        ("for=6.6.6.6;x=\", for=192.0.2.1", None),
        ("for=6.6.6.6;x=\", for=\"[2001:470::1]\"", None),
        ("for=6.6.6.6;x=\"\\, for=\"[2001:470::1]\"", None),
    ] {
        assert_eq!(behind_proxy(&[("Forwarded", value)]), expected.map(ip), "{value:?}");
    }
}

/// Fields of one name are one list in their order, whatever stands between them.
#[test]
fn duplicate_fields_are_one_list() {
    let (first, second, third) = ("X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-FOR");
    let fields = [(first, "6.6.6.6"), ("Via", "x"), (second, "7.7.7.7, 192.0.2.1"), (third, "10.0.0.2")];
    assert_eq!(behind_proxy(&fields), Some(ip("192.0.2.1")));
    assert_eq!(
        behind_proxy(&[(first, "192.0.2.1"), (second, ""), (third, "10.0.0.2")]),
        Some(ip("192.0.2.1"))
    );
    assert_eq!(behind_proxy(&[(first, "192.0.2.1"), (second, "unknown"), (third, "10.0.0.2")]), None);
    let fields = [("Forwarded", "for=6.6.6.6;x=\""), ("forwarded", "for=192.0.2.1, for=10.0.0.2")];
    assert_eq!(behind_proxy(&fields), Some(ip("192.0.2.1")), "a quote ends with its field");
}

#[test]
fn the_field_that_the_proxies_write_is_the_one_that_is_read() {
    let both: &[(&str, &[u8])] = &[("Forwarded", b"for=6.6.6.6"), ("X-Forwarded-For", b"192.0.2.1")];
    let peer = PeerAddress::Ip(ip(PROXY));
    assert_eq!(client(&trusted(), peer, both), Some(ip("192.0.2.1")));
    let x_forwarded_for = trusted().with_field(ForwardedField::XForwardedFor);
    assert_eq!(client(&x_forwarded_for, peer, both), Some(ip("192.0.2.1")));
    assert_eq!(client(&x_forwarded_for, peer, &both[..1]), Some(ip(PROXY)), "the other one is not read");
    let forwarded = trusted().with_field(ForwardedField::Forwarded);
    assert_eq!(client(&forwarded, peer, both), Some(ip("6.6.6.6")));
    assert_eq!(client(&forwarded, peer, &both[1..]), Some(ip(PROXY)));
}

/// Values that look like lists of hops more often than random bytes do.
fn nearly_a_list() -> impl Strategy<Value = String> {
    let words = [
        "for=",
        "by=",
        "192.0.2.9",
        "10.0.0.7",
        "6.6.6.6",
        "::1",
        "[2001:db8::1]",
        ":80",
        "unknown",
        "_x",
        ",",
        ", ",
        ";",
        "\"",
        "\\",
        " ",
        "\t",
        "=",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..12).prop_map(|words| words.concat())
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let visible = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..60);
    prop_oneof![nearly_a_list().prop_map(String::into_bytes), visible]
}

proptest! {
    /// Whatever a client sends, it is known by the address that the proxy added, or not at all.
    #[test]
    fn no_client_becomes_another(
        sent in prop::collection::vec(any_value(), 0..3),
        same_field: bool,
        v6: bool,
        standard: bool,
    ) {
        let its = if v6 { IpAddr::V6(Ipv6Addr::new(0x2001, 0x470, 0, 0, 0, 0, 0, 7)) } else { IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)) };
        let added = match (standard, its) {
            (false, its) => its.to_string(),
            (true, IpAddr::V4(its)) => format!("for={its};proto=https"),
            (true, IpAddr::V6(its)) => format!("for=\"[{its}]:99\";by=\"[::1]\""),
        };
        let mut values = sent;
        match values.last_mut() {
            Some(last) if same_field => {
                last.extend(b", ");
                last.extend(added.as_bytes());
            }
            _ => values.push(added.into_bytes()),
        }
        let name = if standard { "Forwarded" } else { "X-Forwarded-For" };
        let fields: Vec<(&str, &[u8])> = values.iter().map(|value| (name, value.as_slice())).collect();
        let found = client(&trusted(), PeerAddress::Ip(ip(PROXY)), &fields);
        if !standard || !same_field {
            prop_assert_eq!(found, Some(its));
        } else {
            prop_assert!(found.is_none() || found == Some(its), "{:?}", found);
        }
        let direct = client(&trusted(), PeerAddress::Ip(its), &fields);
        prop_assert_eq!(direct, Some(its));
    }

    /// An address is in a network where their first bits are the same.
    #[test]
    fn networks_are_prefixes(network: u128, address: u128, bits in 0..=128_u32, near: bool) {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        // Also addresses that differ in one bit near the end of the prefix.
        let address = if near { network ^ 1_u128.checked_shl(128 - bits).unwrap_or(0) } else { address };
        let first = Ipv6Addr::from(network & mask);
        let address = Ipv6Addr::from(address);
        prop_assume!(first.to_ipv4_mapped().is_none() && address.to_ipv4_mapped().is_none());
        let trusted: TrustedProxies = format!("{first}/{bits}").parse().unwrap();
        prop_assert_eq!(trusted.contains(IpAddr::V6(address)), u128::from(address) & mask == network & mask);
    }
}
