//! Request heads against a reader that takes the text apart with `split`, in both directions: neither accepts
//! what the other refuses, and where both accept they read the same.

use fanfare_proto::head::{HeadError, HeadLimits, HeadScanner, RequestHead};

use crate::pieces::ways_to_cut;

/// The input is what a client sends.
pub(crate) fn check(input: &[u8]) {
    let narrow =
        HeadLimits::default().with_max_bytes(160).with_max_request_line_bytes(48).with_max_headers(4);
    for limits in [HeadLimits::default(), narrow] {
        let verdict = RequestHead::parse(input, &limits);
        for ends in ways_to_cut(input) {
            same_in_pieces(input, &limits, &ends, &verdict);
        }
        let naive = read(input, &limits);
        match (&verdict, &naive) {
            (Ok(Some((head, len))), Some(naive)) => {
                assert_eq!(*len, naive.len);
                agree(head, naive);
                again_from_parts(head);
            }
            (Ok(Some(_)), None) => panic!("accepted against the rules"),
            (Ok(None) | Err(_), Some(_)) => {
                panic!("refused within the rules: {:?}", verdict.as_ref().err());
            }
            (Ok(None) | Err(_), None) => {}
        }
        if verdict.as_ref().is_ok_and(Option::is_none) {
            assert!(input.len() < limits.max_bytes, "waits for more than it would take");
        }
    }
}

/// The verdict does not depend on where the pieces end, and an error stays.
fn same_in_pieces(
    input: &[u8],
    limits: &HeadLimits,
    ends: &[usize],
    at_once: &Result<Option<(RequestHead<'_>, usize)>, HeadError>,
) {
    let mut scanner = HeadScanner::new();
    for &end in ends {
        match scanner.parse(&input[..end], limits) {
            Ok(None) => {}
            Ok(Some((head, len))) => {
                let Ok(Some((expected, expected_len))) = at_once else { panic!("accepted only in pieces") };
                assert_eq!((len, format!("{head:?}")), (*expected_len, format!("{expected:?}")));
                return;
            }
            Err(error) => {
                assert_eq!(at_once.as_ref().err(), Some(&error));
                assert_eq!(scanner.parse(input, limits).err(), Some(error), "an error stays");
                return;
            }
        }
    }
    assert!(matches!(at_once, Ok(None)), "a verdict only at once: {at_once:?}");
}

/// A head as the naive reader understands it.
struct Naive<'b> {
    len: usize,
    method: &'b str,
    target: &'b str,
    minor: u8,
    headers: Vec<(&'b str, &'b [u8])>,
    content_length: Option<u64>,
    chunked: bool,
}

/// RFC 9112 and docs/PROTOCOL.md, "Request heads", in the words of `split`. `None`: not complete, or not
/// acceptable.
fn read<'b>(input: &'b [u8], limits: &HeadLimits) -> Option<Naive<'b>> {
    let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
    let text = &input[skipped..];
    let end = find(text, b"\r\n\r\n")?;
    let mut lines = split(&text[..end], b"\r\n").into_iter();
    let request_line = lines.next()?;
    let len = skipped + end + 4;
    if skipped + request_line.len() + 2 > limits.max_request_line_bytes || len > limits.max_bytes {
        return None;
    }
    let words = split(request_line, b" ");
    let &[method, target, version] = words.as_slice() else { return None };
    let method = std::str::from_utf8(method).ok().filter(|method| is_token(method) && method.len() <= 24)?;
    let target = std::str::from_utf8(target).ok().filter(|target| is_target(method, target))?;
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return None,
    };

    let mut naive =
        Naive { len, method, target, minor, headers: Vec::new(), content_length: None, chunked: false };
    for line in lines {
        let colon = find(line, b":")?;
        let name = std::str::from_utf8(&line[..colon]).ok().filter(|name| is_token(name))?;
        let value = &line[colon + 1..];
        if value.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return None;
        }
        naive.headers.push((name, trim(value)));
    }
    let framed = naive.headers.len() <= limits.max_headers && read_framing(&mut naive).is_some();
    framed.then_some(naive)
}

fn read_framing(naive: &mut Naive<'_>) -> Option<()> {
    let of = |name: &str| -> Vec<&[u8]> {
        naive
            .headers
            .iter()
            .filter(|header| header.0.eq_ignore_ascii_case(name))
            .map(|header| header.1)
            .collect()
    };
    let (hosts, lengths, codings) = (of("host"), of("content-length"), of("transfer-encoding"));
    let hosts_needed = usize::from(naive.minor);
    if hosts.len() > 1 || hosts.len() < hosts_needed || !hosts.iter().all(|host| is_authority(host)) {
        return None;
    }
    let chunked = !codings.is_empty();
    let length = match lengths[..] {
        [] => None,
        [digits] if digits.iter().all(u8::is_ascii_digit) => {
            Some(std::str::from_utf8(digits).ok()?.parse().ok()?)
        }
        _ => return None,
    };
    if chunked {
        let once = codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked");
        if !once || naive.minor == 0 || length.is_some() {
            return None;
        }
    }
    (naive.content_length, naive.chunked) = (length, chunked);
    Some(())
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn is_target(method: &str, target: &str) -> bool {
    if !target.chars().all(|c| ('!'..='~').contains(&c) && !"#\"<>".contains(c)) {
        return false;
    }
    let lower = target.to_ascii_lowercase();
    let absolute = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
    match absolute {
        Some(rest) => is_authority(rest.split(['/', '?']).next().unwrap_or_default().as_bytes()),
        None => target.starts_with('/') || (target == "*" && method == "OPTIONS"),
    }
}

/// `uri-host [ ":" port ]`, not empty, no userinfo, a port of at most five digits.
fn is_authority(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c);
    let is_port = |port: &str| port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        let address_is_good = !address.is_empty() && address.chars().all(|c| is_plain(c) || c == ':');
        return address_is_good && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    let mut pieces = name.split('%');
    let first_is_good = pieces.next().unwrap_or_default().chars().all(is_plain);
    let is_escape_and_more = |piece: &str| {
        let (escape, rest) = piece.split_at_checked(2).unwrap_or_default();
        escape.len() == 2 && escape.chars().all(|c| c.is_ascii_hexdigit()) && rest.chars().all(is_plain)
    };
    !name.is_empty() && first_is_good && pieces.all(is_escape_and_more) && is_port(port)
}

fn agree(head: &RequestHead<'_>, naive: &Naive<'_>) {
    assert_eq!(
        (head.method(), head.target(), head.version_minor()),
        (naive.method, naive.target, naive.minor)
    );
    assert_eq!(head.headers().collect::<Vec<_>>(), naive.headers);
    assert_eq!(head.content_length(), naive.content_length);
    assert_eq!(head.has_body(), naive.chunked || naive.content_length.is_some_and(|len| len > 0));
    let query = naive.target.find('?').map(|at| &naive.target[at + 1..]);
    assert_eq!(head.query(), query);
    assert!(head.path().starts_with('/') || head.path() == "*");
    assert!(naive.target.contains(head.path()) || head.path() == "/");
    assert!(head.host().is_some() || naive.minor == 0);
}

/// What was read and is given as parts reads the same.
fn again_from_parts(head: &RequestHead<'_>) {
    let again = RequestHead::from_parts(head.method(), head.target(), head.version_minor(), head.headers());
    assert_eq!(format!("{:?}", again.unwrap()), format!("{head:?}"));
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn split<'b>(text: &'b [u8], by: &[u8]) -> Vec<&'b [u8]> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(at) = find(rest, by) {
        parts.push(&rest[..at]);
        rest = &rest[at + by.len()..];
    }
    parts.push(rest);
    parts
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}
