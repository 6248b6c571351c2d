//! Request heads: what is read from good ones, a table of hostile ones, and properties that hold for any
//! bytes.

use fanfare_proto::frame::WireFormat;
use fanfare_proto::head::{HeadError, HeadLimits, HeadScanner, RequestHead};
use proptest::prelude::*;

fn status(bytes: &[u8]) -> u16 {
    match RequestHead::parse(bytes, &HeadLimits::default()) {
        Ok(Some(_)) => 200,
        Ok(None) => 100,
        Err(error) => error.status(),
    }
}

/// The bytes, in pieces of `piece` bytes, through one scanner; what came out, and after how many bytes.
fn in_pieces(bytes: &[u8], piece: usize, limits: &HeadLimits) -> (Result<Option<usize>, HeadError>, usize) {
    let mut scanner = HeadScanner::new();
    let mut received = 0;
    while received < bytes.len() {
        received = (received + piece).min(bytes.len());
        match scanner.parse(&bytes[..received], limits) {
            Ok(None) => {}
            Ok(Some((_, len))) => return (Ok(Some(len)), received),
            Err(error) => return (Err(error), received),
        }
    }
    (Ok(None), received)
}

const OK: u16 = 200;
/// Not complete yet.
const MORE: u16 = 100;

/// Each refused one is refused at its last byte, not earlier and not later.
#[test]
fn hostile_heads() {
    let long_value = [&b"GET / HTTP/1.1\r\nHost: h\r\nA: "[..], &[b'x'; 16 * 1024]].concat();
    let long_line = [&b"GET /"[..], &[b'x'; 8 * 1024]].concat();
    let many_headers = [&b"GET / HTTP/1.1\r\nHost: h\r\n"[..], &b"A: b\r\n".repeat(63), b"A"].concat();
    let table: &[(&[u8], u16)] = &[
        // Other protocols.
        (b"\x16\x03", 400),
        (b"\x16", MORE),
        (b"\x16\x04", 400),
        (b"PRI *", 505),
        (b"\0", 400),
        (b"\x80", 400),
        // Line ends.
        (b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        (b"\r\n\r", 400),
        (b"\n", 400),
        (b"\rG", 400),
        (b"GET\n", 400),
        (b"GET /\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\r", 400),
        (b"GET / HTTP/1.1\rH", 400),
        (b"GET / HTTP/1.1\r\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\r", 400),
        (b"GET / HTTP/1.1\r\nHost: h\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\rX", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\rX", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
        // The method.
        (b" ", 400),
        (b"G(", 400),
        (b"GET\t", 400),
        (b"GET\0", 400),
        (b"UPDATEREDIRECTREF / HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAA", 501),
        (b"get / HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        // The target.
        (b"GET  ", 400),
        (b"GET *", 400),
        (b"GET http:// ", 400),
        (b"GET http://u@h/ ", 400),
        (b"GET http://h:x/ ", 400),
        (b"GET hTTps://h:1/ HTTP/1.1\r\nHost: other\r\n\r\n", OK),
        (b"GET e", 400),
        (b"GET httpx", 400),
        (b"GET http:/x", 400),
        (b"GET f", 400),
        (b"CONNECT e", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        (b"OPTIONS *x", 400),
        (b"GET /#", 400),
        (b"GET /\t", 400),
        (b"GET /\0", 400),
        (b"GET /\x7f", 400),
        (b"GET /\xc3", 400),
        (b"GET /a  ", 400),
        (b"GET /a b", 400),
        // The version.
        (b"GET /\r", 400),
        (b"GET / \r", 400),
        (b"GET / h", 400),
        (b"GET / HTTP/x", 400),
        (b"GET / HTTP/0", 505),
        (b"GET / HTTP/2", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/11", 400),
        (b"GET / HTTP/1.x", 400),
        (b"GET / HTTP/1.10", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / HTTP/1.0\r\n\r\n", OK),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        // Header lines.
        (b"GET / HTTP/1.1\r\n ", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\t", 400),
        (b"GET / HTTP/1.1\r\n:", 400),
        (b"GET / HTTP/1.1\r\nA ", 400),
        (b"GET / HTTP/1.1\r\nA\t", 400),
        (b"GET / HTTP/1.1\r\nA\r", 400),
        (b"GET / HTTP/1.1\r\nA\0", 400),
        (b"GET / HTTP/1.1\r\nA\xc3", 400),
        (b"GET / HTTP/1.1\r\nA: \0", 400),
        (b"GET / HTTP/1.1\r\nA: b\x01", 400),
        (b"GET / HTTP/1.1\r\nA: \x7f", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: \xc3\xa4\xff\tb\r\n\r\n", OK),
        // Host.
        (b"GET / HTTP/1.1\r\nHost:\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\\b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a@b\r\n", 400),
        // Where the body ends.
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1 1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1.0\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked;a=b\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0b", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding ", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", OK),
        // Limits.
        (&long_value[..16 * 1024 - 1], MORE),
        (&long_value[..16 * 1024], 431),
        (&long_line[..8 * 1024 - 1], MORE),
        (&long_line[..8 * 1024], 414),
        (&many_headers, 431),
    ];
    for &(bytes, expected) in table {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let (result, after) = in_pieces(bytes, 1, &HeadLimits::default());
        assert_eq!(status(bytes), expected, "{shown:?}");
        if result.is_err() {
            assert_eq!(after, bytes.len(), "{shown:?} refused at another byte: {result:?}");
        }
    }
}

/// Whole texts that peers really send, and at which byte they are refused.
#[test]
fn garbage_is_refused_at_its_first_wrong_byte() {
    let table: &[(&[u8], usize, HeadError)] = &[
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 2, HeadError::TlsHello),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 5, HeadError::Http2Preface),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 20, HeadError::Method),
        (b"{\"topic\":\"news\"}", 1, HeadError::Method),
        (b"EHLO mail.example\r\n", 6, HeadError::TargetForm),
        (b"CONNECT host.example:443 HTTP/1.1\r\n\r\n", 10, HeadError::TargetForm),
        (b"GET news HTTP/1.1\r\nHost: h\r\n\r\n", 5, HeadError::TargetForm),
        (b"GET /\r\n", 6, HeadError::VersionMissing),
        (b"GET / HTTP/3.0\r\n\r\n", 12, HeadError::VersionNotSupported),
        (b"GET / HTTP/1.1\nHost: h\n\n", 15, HeadError::BareLf),
        (b"GET / HTTP/1.1\r\n\r\n", 18, HeadError::HostMissing),
    ];
    for &(bytes, at_byte, error) in table {
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(in_pieces(bytes, 1, &HeadLimits::default()), (Err(error), at_byte), "{shown:?}");
        assert_eq!(RequestHead::parse(bytes, &HeadLimits::default()).map(|_| ()), Err(error), "{shown:?}");
    }
}

fn parse(head: &[u8]) -> RequestHead<'_> {
    let (parsed, len) =
        RequestHead::parse(head, &HeadLimits::default()).expect("accepted").expect("complete");
    assert_eq!(len, head.len());
    parsed
}

fn parts<'b>(target: &'b str, headers: &[(&'b str, &'b [u8])]) -> Result<RequestHead<'b>, HeadError> {
    RequestHead::from_parts("GET", target, 1, headers.iter().copied())
}

#[test]
fn targets_of_all_forms() {
    let of = |target: &'static str| {
        let head = parts(target, &[("Host", b"header")]).unwrap();
        (head.path(), head.query(), head.host())
    };
    assert_eq!(of("/"), ("/", None, Some("header")));
    assert_eq!(of("/?"), ("/", Some(""), Some("header")));
    assert_eq!(of("//a//b?c/d"), ("//a//b", Some("c/d"), Some("header")));
    assert_eq!(of("/%00%zz|`{}"), ("/%00%zz|`{}", None, Some("header")));
    assert_eq!(of("http://h:1/a?b"), ("/a", Some("b"), Some("h:1")));
    assert_eq!(of("HTTPS://h"), ("/", None, Some("h")));
    assert_eq!(of("http://[::1]:80?b/c"), ("/", Some("b/c"), Some("[::1]:80")));
    let star = parse(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((star.path(), star.query()), ("*", None));
}

#[test]
fn bodies() {
    let body = |header: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n");
        let head = parse(head.as_bytes());
        (head.content_length(), head.has_body())
    };
    assert_eq!(body("Content-Length: 0"), (Some(0), false));
    assert_eq!(body("content-length:007"), (Some(7), true));
    assert_eq!(body("Content-Length: 18446744073709551615"), (Some(u64::MAX), true));
    assert_eq!(body("Transfer-Encoding: Chunked"), (None, true));
}

#[test]
fn closing_and_the_wire_format() {
    let of = |minor: u8, header: &str| {
        let head = format!("GET / HTTP/1.{minor}\r\nHost: h\r\nX: y{header}\r\n\r\n");
        let head = parse(head.as_bytes());
        (head.wants_close(), head.wire_format())
    };
    assert_eq!(of(1, ""), (false, WireFormat::Chunked));
    assert_eq!(of(1, "\r\nConnection: keep-alive"), (false, WireFormat::Chunked));
    assert_eq!(of(1, "\r\nConnection: closed"), (false, WireFormat::Chunked));
    assert_eq!(of(1, "\r\nconnection: te , CLOSE"), (true, WireFormat::Plain));
    assert_eq!(of(1, "\r\nConnection: te\r\nConnection: close"), (true, WireFormat::Plain));
    assert_eq!(of(0, ""), (true, WireFormat::Plain));
    assert_eq!(of(0, "\r\nConnection: Keep-Alive"), (false, WireFormat::Plain));
    assert_eq!(of(0, "\r\nConnection: keep-alive, close"), (true, WireFormat::Plain));
}

#[test]
fn parts_obey_the_same_rules_but_may_lack_a_host() {
    assert!(parts("/", &[]).unwrap().host().is_none());
    let refused =
        |target: &'static str, headers: &[(&'static str, &'static [u8])]| parts(target, headers).unwrap_err();
    assert_eq!(refused("", &[]), HeadError::TargetForm);
    assert_eq!(refused("*", &[]), HeadError::TargetForm);
    assert_eq!(refused("/a b", &[]), HeadError::TargetByte);
    assert_eq!(refused("/a#b", &[]), HeadError::TargetByte);
    assert_eq!(refused("http://", &[]), HeadError::Host);
    assert_eq!(refused("/", &[("a b", b"")]), HeadError::HeaderName);
    assert_eq!(refused("/", &[("", b"")]), HeadError::HeaderName);
    assert_eq!(refused("/", &[("a", b"b\r\nc: d")]), HeadError::HeaderValue);
    assert_eq!(refused("/", &[("host", b"a"), ("Host", b"a")]), HeadError::HostRepeated);
    assert_eq!(
        refused("/", &[("content-length", b"1"), ("transfer-encoding", b"chunked")]),
        HeadError::TwoLengths
    );
    let none = std::iter::empty();
    assert_eq!(RequestHead::from_parts("G T", "/", 1, none.clone()).unwrap_err(), HeadError::Method);
    assert_eq!(RequestHead::from_parts("GET", "/", 2, none).unwrap_err(), HeadError::VersionNotSupported);
}

#[test]
fn limits_are_exact() {
    let limits = HeadLimits::default().with_max_bytes(40).with_max_request_line_bytes(20).with_max_headers(2);
    let parse = |head: &[u8]| RequestHead::parse(head, &limits).map(|parsed| parsed.map(|(_, len)| len));
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\n", "x".repeat(len - 16));
    let head = |len: usize| format!("{}a:{}\r\nHost:h\r\n\r\n", line(16), "x".repeat(len - 30));
    assert_eq!(parse(head(40).as_bytes()), Ok(Some(40)));
    assert_eq!(parse(head(41).as_bytes()), Err(HeadError::HeadTooLong));
    // It is known before the last byte comes: a head that is longer than this cannot end in time.
    assert_eq!(parse(&head(41).as_bytes()[..39]), Ok(None));
    assert_eq!(parse(&head(41).as_bytes()[..40]), Err(HeadError::HeadTooLong));
    assert_eq!(parse(line(20).as_bytes()), Ok(None));
    assert_eq!(parse(line(21).as_bytes()), Err(HeadError::RequestLineTooLong));
    assert_eq!(parse(b"GET / HTTP/1.1\r\na:\r\nb:\r\nc"), Err(HeadError::TooManyHeaders));
}

fn valid_head() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        ("[A-Za-z-]{1,12}x", "[ -~\u{e4}]{0,20}").prop_map(|(name, value)| format!("{name}:{value}\r\n")),
        Just("Connection: close\r\n".to_owned()),
        Just("Last-Event-ID:\t e-1 \r\n".to_owned()),
    ];
    let target = "(http://[a-z]{1,9}(:[0-9]{1,5})?)?/[a-z/%]{0,9}(\\?[ -~&&[^ #\"<>]]{0,20})?";
    (
        prop_oneof![Just(""), Just("\r\n")],
        "GET|POST|HEAD|PRIX",
        target,
        "[01]",
        prop::collection::vec(header, 0..9),
    )
        .prop_map(|(before, method, target, minor, headers)| {
            format!("{before}{method} {target} HTTP/1.{minor}\r\nHost: h\r\n{}\r\n", headers.concat())
                .into_bytes()
        })
}

/// Bytes that come far before something is wrong with them: a valid head with a few bytes replaced.
fn damaged_head() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n\0 \t:/*#?01"[..])];
    (valid_head(), prop::collection::vec((any::<prop::sample::Index>(), odd), 0..4)).prop_map(
        |(mut head, changes)| {
            for (index, byte) in changes {
                let at = index.index(head.len());
                head[at] = byte;
            }
            head
        },
    )
}

proptest! {
    #[test]
    fn every_proper_prefix_of_a_valid_head_is_incomplete(head in valid_head()) {
        let limits = HeadLimits::default();
        for len in 0..head.len() {
            prop_assert!(matches!(RequestHead::parse(&head[..len], &limits), Ok(None)), "{} bytes", len);
        }
        let (parsed, len) = RequestHead::parse(&head, &limits).unwrap().unwrap();
        prop_assert_eq!(len, head.len());
        prop_assert!(parsed.path().starts_with('/'));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RequestHead::parse(&bytes, &HeadLimits::default());
    }

    #[test]
    fn pieces_make_no_difference(head in damaged_head(), piece in 1usize..20, max_bytes in 20usize..200) {
        for limits in [
            HeadLimits::default(),
            HeadLimits::default().with_max_bytes(max_bytes).with_max_request_line_bytes(max_bytes / 2).with_max_headers(3),
        ] {
            let at_once = RequestHead::parse(&head, &limits).map(|parsed| parsed.map(|(_, len)| len));
            prop_assert_eq!(at_once, in_pieces(&head, piece, &limits).0);
        }
    }

    /// Refused as early as possible also means never too early: what is refused stays refused, whatever
    /// follows.
    #[test]
    fn a_refusal_is_final(head in damaged_head(), more in prop::collection::vec(any::<u8>(), 1..50)) {
        let limits = HeadLimits::default();
        if let Err(error) = RequestHead::parse(&head, &limits).map(|_| ()) {
            let longer = [head, more].concat();
            prop_assert_eq!(RequestHead::parse(&longer, &limits).map(|_| ()), Err(error));
        }
    }

    /// An accepted head reads the same to the parser that the control plane uses.
    #[test]
    fn an_accepted_head_is_unambiguous(head in damaged_head()) {
        if let Ok(Some((parsed, len))) = RequestHead::parse(&head, &HeadLimits::default()) {
            let text = &head[..len];
            prop_assert!(text.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(text.iter().filter(|byte| **byte == b'\r').count(), text.windows(2).filter(|two| *two == b"\r\n").count());
            prop_assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), text.windows(2).filter(|two| *two == b"\r\n").count());
            prop_assert!(!text.contains(&0));
            let empty_line_first = usize::from(text.starts_with(b"\r\n"));
            let lines = text.windows(2).filter(|two| *two == b"\r\n").count();
            prop_assert_eq!(parsed.headers().len(), lines - 2 - empty_line_first);
            let hosts = parsed.headers().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
            prop_assert!(hosts == 1 || (hosts == 0 && parsed.version_minor() == 0));
        }
    }
}

/// The cost of a head that comes byte by byte: a scanner that began anew each time would read 128 million
/// bytes.
#[test]
fn a_head_in_tiny_pieces_is_read_once() {
    let head = [&b"GET / HTTP/1.1\r\nHost: h\r\nA: "[..], &[b'x'; 16_000], b"\r\n\r\n"].concat();
    assert_eq!(in_pieces(&head, 1, &HeadLimits::default()), (Ok(Some(head.len())), head.len()));
}
