//! Request heads: RFC 9112 read strictly.
//!
//! Three steps. [`HeadScanner`] checks byte by byte as the bytes come, so that garbage is refused at the
//! first byte that cannot be right, each byte is checked once, and nothing is parsed before the head is
//! complete. `httparse` then cuts the complete head into fields: it is what the control plane's HTTP library
//! uses as well, so a request that is handed over reads there as it read here. [`RequestHead`] holds the
//! result.
//!
//! Whatever two readers could understand differently is refused, not repaired (RFC 9112, section 11.2).

mod error;
mod fields;

use smallvec::SmallVec;

use crate::frame::WireFormat;
pub use error::HeadError;
use fields::Fields;

/// The bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadLimits {
    /// The whole head with its last empty line, in bytes. Beyond: 431. An engine allows at most 32 KiB.
    pub max_bytes: usize,
    /// The request line with its line end, in bytes. Beyond: 414.
    pub max_request_line_bytes: usize,
    /// Header lines. Beyond: 431.
    pub max_headers: usize,
}

impl Default for HeadLimits {
    /// 16 KiB, 8 KiB, 64 headers: a browser's cookies and a few hundred topics fit.
    fn default() -> HeadLimits {
        HeadLimits { max_bytes: 16 * 1024, max_request_line_bytes: 8 * 1024, max_headers: 64 }
    }
}

setters! {
    HeadLimits {
        max_bytes, with_max_bytes: usize;
        max_request_line_bytes, with_max_request_line_bytes: usize;
        max_headers, with_max_headers: usize;
    }
}

/// The head of a request, borrowed from the bytes it came in.
#[derive(Clone, Debug)]
pub struct RequestHead<'b> {
    method: &'b str,
    target: Target<'b>,
    version_minor: u8,
    headers: Fields<'b>,
    framing: Framing,
}

impl<'b> RequestHead<'b> {
    /// Parses the head at the beginning of `bytes`; returns it with its length, or `None` if it is not
    /// complete.
    ///
    /// Each call begins anew. For bytes that come in pieces use [`HeadScanner::parse`], whose cost does not
    /// grow with the number of pieces; this is the same with a fresh scanner.
    ///
    /// # Errors
    /// The head is not one that this server accepts, whatever bytes may follow.
    pub fn parse(
        bytes: &'b [u8],
        limits: &HeadLimits,
    ) -> Result<Option<(RequestHead<'b>, usize)>, HeadError> {
        HeadScanner::new().parse(bytes, limits)
    }

    /// A head that another HTTP server has parsed, for embedders who adopt its sockets.
    ///
    /// The same rules hold as for [`RequestHead::parse`] with two exceptions: the other server had its own
    /// limits, and `Host` may be missing, since HTTP/2 has none.
    ///
    /// # Errors
    /// A part is not one that this server accepts.
    pub fn from_parts(
        method: &'b str,
        target: &'b str,
        version_minor: u8,
        headers: impl IntoIterator<Item = (&'b str, &'b [u8])>,
    ) -> Result<RequestHead<'b>, HeadError> {
        if method.is_empty() || !method.bytes().all(is_token_byte) {
            return Err(HeadError::Method);
        }
        if !target.bytes().all(is_target_byte) {
            return Err(HeadError::TargetByte);
        }
        let target = Target::split(method, target)?;
        if version_minor > 1 {
            return Err(HeadError::VersionNotSupported);
        }
        let mut framing = Framing::default();
        let mut kept = Fields::new();
        for (name, value) in headers {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(HeadError::HeaderName);
            }
            if !value.iter().all(|byte| is_value_byte(*byte)) {
                return Err(HeadError::HeaderValue);
            }
            let value = value.trim_ascii();
            framing.note(name.as_bytes(), value, version_minor)?;
            kept.push((name, value));
        }
        Ok(RequestHead { method, target, version_minor, headers: kept, framing })
    }

    /// The second step: `head` is complete and has passed the scanner.
    fn cut(head: &'b [u8], scanner: &HeadScanner) -> Result<RequestHead<'b>, HeadError> {
        let mut headers: SmallVec<[httparse::Header<'b>; 24]> =
            SmallVec::from_elem(httparse::EMPTY_HEADER, scanner.header_count);
        let mut request = httparse::Request::new(&mut headers);
        let complete = request.parse(head) == Ok(httparse::Status::Complete(head.len()));
        let (Some(method), Some(target), Some(version_minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Ambiguous);
        };
        let same = request.headers.len() == scanner.header_count && version_minor == scanner.version_minor;
        if !complete || !same {
            return Err(HeadError::Ambiguous);
        }
        Ok(RequestHead {
            method,
            target: Target::split(method, target)?,
            version_minor,
            headers: headers.iter().map(|header| (header.name, header.value.trim_ascii())).collect(),
            framing: scanner.framing,
        })
    }

    /// The method as sent; methods are case-sensitive (RFC 9110, section 9.1).
    pub fn method(&self) -> &'b str {
        self.method
    }

    /// The request target as sent.
    pub fn target(&self) -> &'b str {
        self.target.raw
    }

    /// The path, with its `%` escapes; `*` for `OPTIONS *`.
    pub fn path(&self) -> &'b str {
        self.target.path
    }

    /// What is behind the first `?`, with its `%` escapes.
    pub fn query(&self) -> Option<&'b str> {
        self.target.query
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn version_minor(&self) -> u8 {
        self.version_minor
    }

    /// The value of the first header called `name` (in any case), without the space around it.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers in the order sent, names as sent, values without the space around them.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'b str, &'b [u8])> + '_ {
        self.headers.as_slice().iter().copied()
    }

    /// The first `Origin` header; may be any bytes.
    pub fn origin(&self) -> Option<&'b [u8]> {
        self.header("origin")
    }

    /// Host and port the client wants to reach: those of an absolute target, else the `Host` header (RFC
    /// 9112, section 3.2.2).
    pub fn host(&self) -> Option<&'b str> {
        let from_header = || self.header("host").and_then(|host| str::from_utf8(host).ok());
        self.target.authority.or_else(from_header)
    }

    /// The length of the body in bytes, if the head tells.
    pub fn content_length(&self) -> Option<u64> {
        self.framing.content_length
    }

    /// Whether a body follows (RFC 9112, section 6.3); a chunked one counts even if it turns out empty.
    pub fn has_body(&self) -> bool {
        self.framing.chunked || self.framing.content_length.is_some_and(|len| len > 0)
    }

    /// Whether the connection ends after the response: `Connection: close`, or HTTP/1.0 without
    /// `Connection: keep-alive` (RFC 9112, section 9.3).
    pub fn wants_close(&self) -> bool {
        self.has_connection_option("close")
            || (self.version_minor == 0 && !self.has_connection_option("keep-alive"))
    }

    /// The format in which a stream may be sent: chunks need HTTP/1.1, even where HTTP/1.0 keeps alive.
    pub fn wire_format(&self) -> WireFormat {
        if self.version_minor == 0 || self.wants_close() { WireFormat::Plain } else { WireFormat::Chunked }
    }

    /// The first `Last-Event-ID` header; an empty one is an absent one. The query is not read: that is
    /// [`SubscribeQuery`](crate::subscribe::SubscribeQuery)'s.
    pub fn last_event_id(&self) -> Option<&'b [u8]> {
        self.header("last-event-id").filter(|id| !id.is_empty())
    }

    fn has_connection_option(&self, option: &str) -> bool {
        self.headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    }
}

/// The first step: checks a head that comes in pieces, each byte once.
///
/// Keep one beside the receive buffer. After each read call [`parse`](HeadScanner::parse) with everything
/// received since the beginning of the request; on a complete head or an error drop the scanner.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    state: State,
    /// Bytes checked.
    at: usize,
    /// Where the current method, target, version or header name begins.
    start: usize,
    /// Where the current header's name ends.
    name_end: usize,
    method: (usize, usize),
    version_minor: u8,
    header_count: usize,
    framing: Framing,
    failed: Option<HeadError>,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum State {
    #[default]
    Start,
    EmptyLineLf,
    Method,
    Target,
    Version,
    RequestLineLf,
    LineStart,
    Name,
    Value,
    HeaderLf,
    HeadLf,
    Complete,
}

impl HeadScanner {
    /// A scanner at the beginning of a request.
    pub fn new() -> HeadScanner {
        HeadScanner::default()
    }

    /// Checks the bytes that are new since the last call; `bytes` begins with those of the last call.
    /// Returns the head and its length once it is complete; behind that length is the body.
    ///
    /// # Errors
    /// The head is not one that this server accepts, whatever bytes may follow; so is every later call.
    pub fn parse<'b>(
        &mut self,
        bytes: &'b [u8],
        limits: &HeadLimits,
    ) -> Result<Option<(RequestHead<'b>, usize)>, HeadError> {
        match self.scan(bytes, limits)? {
            None => Ok(None),
            Some(len) => Ok(Some((RequestHead::cut(&bytes[..len], self)?, len))),
        }
    }

    /// The check without the result: the head's length once it is complete.
    ///
    /// # Errors
    /// As [`parse`](HeadScanner::parse).
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        debug_assert!(bytes.len() >= self.at, "bytes begins with those of the last call");
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance(bytes, limits);
        self.failed = result.err();
        result
    }

    fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        while self.state != State::Complete {
            let in_request_line = self.state < State::LineStart;
            let cap = if in_request_line {
                limits.max_request_line_bytes.min(limits.max_bytes)
            } else {
                limits.max_bytes
            };
            let visible = &bytes[..bytes.len().min(cap)];
            if self.at >= visible.len() {
                return match (bytes.len() >= cap, in_request_line) {
                    (false, _) => Ok(None),
                    (true, true) => Err(HeadError::RequestLineTooLong),
                    (true, false) => Err(HeadError::HeadTooLong),
                };
            }
            self.step(visible, limits)?;
        }
        Ok(Some(self.at))
    }

    /// Checks the byte at `self.at`; in a target, name or value, also all that are like it behind it.
    fn step(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        let at = self.at;
        let byte = bytes[at];
        self.at += 1;
        self.state = match (self.state, byte) {
            // "A server that is expecting to receive and parse a request-line SHOULD ignore at least one
            // empty line (CRLF) received prior to the request-line" (RFC 9112, section 2.2). One is what old
            // clients send behind a form; more is a peer that makes us read for nothing.
            (State::Start, b'\r') if at == 0 => State::EmptyLineLf,
            (State::EmptyLineLf, b'\n') => State::Start,
            (State::EmptyLineLf, _) => return Err(HeadError::BareCr),
            (State::Start, _) => {
                self.start = at;
                self.method_byte(bytes)?
            }
            (State::Method, _) => self.method_byte(bytes)?,
            (State::Target, _) => self.target_bytes(bytes)?,
            (State::Version, _) => self.version_byte(bytes)?,

            (State::RequestLineLf | State::HeaderLf | State::HeadLf, other) if other != b'\n' => {
                return Err(HeadError::BareCr);
            }
            (State::RequestLineLf, _) => State::LineStart,
            (State::HeaderLf, _) => {
                let name = &bytes[self.start..self.name_end];
                let value = bytes[self.name_end + 1..at - 1].trim_ascii();
                self.framing.note(name, value, self.version_minor)?;
                State::LineStart
            }
            (State::HeadLf, _) => {
                if self.version_minor == 1 && !self.framing.host_seen {
                    return Err(HeadError::HostMissing);
                }
                State::Complete
            }

            (State::LineStart, b'\r') => State::HeadLf,
            (State::LineStart, b' ' | b'\t') => return Err(HeadError::FoldedLine),
            (State::LineStart, first) if is_token_byte(first) => {
                if self.header_count == limits.max_headers {
                    return Err(HeadError::TooManyHeaders);
                }
                self.header_count += 1;
                self.start = at;
                State::Name
            }
            (State::LineStart, b'\n') => return Err(HeadError::BareLf),
            (State::LineStart, _) => return Err(HeadError::HeaderName),

            (State::Name, _) => match skip(bytes, at, is_token_byte) {
                None => self.consumed(bytes.len(), State::Name),
                Some((end, b':')) => {
                    self.name_end = end;
                    self.consumed(end + 1, State::Value)
                }
                Some((_, b' ' | b'\t')) => return Err(HeadError::SpaceBeforeColon),
                Some(_) => return Err(HeadError::HeaderName),
            },
            (State::Value, _) => match skip(bytes, at, is_value_byte) {
                None => self.consumed(bytes.len(), State::Value),
                Some((end, b'\r')) => self.consumed(end + 1, State::HeaderLf),
                Some((_, b'\n')) => return Err(HeadError::BareLf),
                Some(_) => return Err(HeadError::HeaderValue),
            },
            (State::Complete, _) => unreachable!("advance stops at a complete head"),
        };
        Ok(())
    }

    fn consumed(&mut self, at: usize, state: State) -> State {
        self.at = at;
        state
    }

    fn method_byte(&mut self, bytes: &[u8]) -> Result<State, HeadError> {
        let end = self.at - 1;
        let seen = &bytes[self.start..self.at];
        // A TLS record of type handshake and version 3.x (RFC 8446, section 5.1). Its first byte is no token,
        // so waiting for the second costs nothing.
        if seen == [0x16] && self.start == 0 {
            return Ok(State::Method);
        }
        match bytes[end] {
            0x03 if seen == [0x16, 0x03] => Err(HeadError::TlsHello),
            _ if seen[0] == 0x16 => Err(HeadError::Method),
            b' ' if end > self.start => {
                self.method = (self.start, end);
                self.start = self.at;
                Ok(State::Target)
            }
            b'\n' => Err(HeadError::BareLf),
            byte if !is_token_byte(byte) => Err(HeadError::Method),
            _ if seen.len() > MAX_METHOD_BYTES => Err(HeadError::MethodTooLong),
            _ => Ok(State::Method),
        }
    }

    fn target_bytes(&mut self, bytes: &[u8]) -> Result<State, HeadError> {
        let method = &bytes[self.method.0..self.method.1];
        let (end, after) = match skip(bytes, self.at - 1, is_target_byte) {
            None => (bytes.len(), None),
            Some((end, byte)) => (end, Some(byte)),
        };
        let seen = &bytes[self.start..end];
        if method == b"PRI" && seen.starts_with(b"*") {
            // "PRI * HTTP/2.0" (RFC 9113, section 3.4); nothing else may begin like this.
            return Err(HeadError::Http2Preface);
        }
        let possible = match seen.first() {
            // The target may yet come, unless it is the next byte that is wrong.
            None => after.is_none(),
            Some(b'/') => true,
            Some(b'*') => method == b"OPTIONS" && seen.len() == 1,
            Some(_) => SCHEMES.iter().any(|scheme| {
                let common = scheme.len().min(seen.len());
                scheme.as_bytes()[..common].eq_ignore_ascii_case(&seen[..common])
            }),
        };
        match after {
            _ if !possible && !seen.is_empty() => Err(HeadError::TargetForm),
            Some(b'\n') => Err(HeadError::BareLf),
            Some(b'\r') => Err(HeadError::VersionMissing),
            Some(byte) if byte != b' ' => Err(HeadError::TargetByte),
            _ if !possible => Err(HeadError::TargetForm),
            None => Ok(self.consumed(end, State::Target)),
            Some(_) => {
                let method = str::from_utf8(method).map_err(|_| HeadError::Method)?;
                let target = str::from_utf8(seen).map_err(|_| HeadError::TargetByte)?;
                Target::split(method, target)?;
                self.start = end + 1;
                Ok(self.consumed(end + 1, State::Version))
            }
        }
    }

    fn version_byte(&mut self, bytes: &[u8]) -> Result<State, HeadError> {
        const PREFIX: &[u8; 5] = b"HTTP/";
        let end = self.at - 1;
        let byte = bytes[end];
        match end - self.start {
            index @ 0..5 if byte != PREFIX[index] => return Err(HeadError::Version),
            5 | 7 if !byte.is_ascii_digit() => return Err(HeadError::Version),
            5 if byte != b'1' => return Err(HeadError::VersionNotSupported),
            6 if byte != b'.' => return Err(HeadError::Version),
            7 if byte > b'1' => return Err(HeadError::VersionNotSupported),
            7 => self.version_minor = byte - b'0',
            8 if byte == b'\n' => return Err(HeadError::BareLf),
            8 if byte == b'\r' => return Ok(State::RequestLineLf),
            8 => return Err(HeadError::Version),
            _ => {}
        }
        Ok(State::Version)
    }
}

/// What the headers say about where the body ends and whom the request is for.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    host_seen: bool,
    chunked: bool,
    content_length: Option<u64>,
}

impl Framing {
    /// Takes one header line; `value` has no space around it.
    fn note(&mut self, name: &[u8], value: &[u8], version_minor: u8) -> Result<(), HeadError> {
        if name.eq_ignore_ascii_case(b"host") {
            // "A server MUST respond with a 400 to any HTTP/1.1 request message that lacks a Host header
            // field and to any request message that contains more than one" (RFC 9112, section 3.2).
            if self.host_seen {
                return Err(HeadError::HostRepeated);
            }
            if !is_authority(value) {
                return Err(HeadError::Host);
            }
            self.host_seen = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.content_length.is_some() {
                return Err(HeadError::ContentLengthRepeated);
            }
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(HeadError::ContentLength);
            }
            let len = str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            self.content_length = Some(len.ok_or(HeadError::ContentLength)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if version_minor == 0 {
                return Err(HeadError::TransferEncodingInHttp10);
            }
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::TransferEncoding);
            }
            self.chunked = true;
        }
        if self.chunked && self.content_length.is_some() {
            return Err(HeadError::TwoLengths);
        }
        Ok(())
    }
}

/// A request target, cut up (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug)]
struct Target<'b> {
    raw: &'b str,
    authority: Option<&'b str>,
    path: &'b str,
    query: Option<&'b str>,
}

impl<'b> Target<'b> {
    /// Takes origin-form, absolute-form with http or https, and `*` for OPTIONS. A proxy's authority-form is
    /// not ours.
    fn split(method: &str, raw: &'b str) -> Result<Target<'b>, HeadError> {
        if raw == "*" && method == "OPTIONS" {
            return Ok(Target { raw, authority: None, path: raw, query: None });
        }
        let (authority, origin_form) = if raw.starts_with('/') {
            (None, raw)
        } else {
            let scheme = SCHEMES.into_iter().find(|scheme| {
                raw.as_bytes()
                    .get(..scheme.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
            });
            let rest = &raw[scheme.ok_or(HeadError::TargetForm)?.len()..];
            let (authority, origin_form) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if !is_authority(authority.as_bytes()) {
                return Err(HeadError::Host);
            }
            (Some(authority), origin_form)
        };
        let (path, query) = match origin_form.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (origin_form, None),
        };
        // "If the path component is empty, the client MUST send it as '/'" (RFC 9112, section 3.2.1).
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { raw, authority, path, query })
    }
}

/// The longest method registered with IANA has 17 bytes (UPDATEREDIRECTREF).
const MAX_METHOD_BYTES: usize = 24;
const SCHEMES: [&str; 2] = ["http://", "https://"];

/// The first byte from `from` on that is not of the class, and where it is.
fn skip(bytes: &[u8], from: usize, class: impl Fn(u8) -> bool) -> Option<(usize, u8)> {
    bytes[from..].iter().position(|byte| !class(*byte)).map(|offset| (from + offset, bytes[from + offset]))
}

/// `tchar` (RFC 9110, section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Printable ASCII without `#`, `"`, `<` and `>`. Browsers send some other bytes unescaped that RFC 3986 does
/// not allow; they do no harm.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"#\"<>".contains(&byte)
}

/// `field-vchar`, space and tab (RFC 9110, section 5.5).
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `uri-host [ ":" port ]` (RFC 9110, section 7.2) with a host that is not empty, and without userinfo.
fn is_authority(bytes: &[u8]) -> bool {
    let (host_is_valid, rest) = if let Some(inner) = bytes.strip_prefix(b"[") {
        let Some(end) = inner.iter().position(|byte| *byte == b']') else { return false };
        let (address, rest) = (&inner[..end], &inner[end + 1..]);
        (!address.is_empty() && address.iter().all(|byte| is_reg_name_byte(*byte) || *byte == b':'), rest)
    } else {
        let end = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
        (is_reg_name(&bytes[..end]), &bytes[end..])
    };
    let port_is_valid = match rest {
        [] => true,
        [b':', port @ ..] => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_valid && port_is_valid
}

/// `reg-name` (RFC 3986, section 3.2.2), which is the wider form of a name and of an IPv4 address.
fn is_reg_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [high, low, after_escape @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                after_escape
            }
            (byte, after) if is_reg_name_byte(*byte) => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// `unreserved` and `sub-delims` (RFC 3986, section 2).
fn is_reg_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &[u8]) -> RequestHead<'_> {
        let (parsed, len) = RequestHead::parse(head, &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(len, head.len());
        parsed
    }

    fn parts<'b>(target: &'b str, headers: &[(&'b str, &'b [u8])]) -> Result<RequestHead<'b>, HeadError> {
        RequestHead::from_parts("GET", target, 1, headers.iter().copied())
    }

    #[test]
    fn getters_return_what_was_sent() {
        let head = parse(
            b"GET /events?topic=a?b HTTP/1.1\r\nhOST: h.example:8844\r\nX:\r\nOrigin:\t https://a.example \t\r\n\
              x: second\r\nLast-Event-ID: e-1\r\n\r\n",
        );
        assert_eq!((head.method(), head.target()), ("GET", "/events?topic=a?b"));
        assert_eq!((head.path(), head.query()), ("/events", Some("topic=a?b")));
        assert_eq!((head.version_minor(), head.host()), (1, Some("h.example:8844")));
        assert_eq!(head.origin(), Some(&b"https://a.example"[..]));
        assert_eq!(head.header("X"), Some(&b""[..]));
        assert_eq!(head.header("y"), None);
        assert_eq!(head.last_event_id(), Some(&b"e-1"[..]));
        assert_eq!((head.content_length(), head.has_body()), (None, false));
        let names: Vec<&str> = head.headers().map(|(name, _)| name).collect();
        assert_eq!(names, ["hOST", "X", "Origin", "x", "Last-Event-ID"]);
    }

    #[test]
    fn what_follows_the_head_is_left_alone() {
        let bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n\0\nGET";
        let (_, len) = RequestHead::parse(bytes, &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(len, bytes.len() - 5);
    }

    #[test]
    fn hosts() {
        for valid in
            ["h", "a.example", "127.0.0.1:8844", "h:", "[::1]", "[::1]:1", "a_b", "a%20b", "xn--bcher-kva"]
        {
            assert!(is_authority(valid.as_bytes()), "{valid}");
        }
        let invalid = [
            "", ":80", "a b", "a/b", "user@h", "h:8x", "h:123456", "h:1:2", "[::1", "[]", "[::1]x", "::1",
            "a%2", "a%zz", "a\\b", "a?b", "a#b", "\u{e4}", "<h>", "a\"b",
        ];
        for invalid in invalid {
            assert!(!is_authority(invalid.as_bytes()), "{invalid}");
        }
    }

    #[test]
    fn an_empty_last_event_id_is_an_absent_one() {
        assert_eq!(parts("/", &[("Last-Event-ID", b" \t")]).unwrap().last_event_id(), None);
        assert_eq!(parts("/", &[("last-event-id", b"\xff")]).unwrap().last_event_id(), Some(&b"\xff"[..]));
    }

    #[test]
    fn the_message_belongs_to_the_peer() {
        assert!(HeadError::TlsHello.to_string().contains("http://"));
        assert_eq!(HeadError::HostMissing.to_string(), "an HTTP/1.1 request needs a Host header");
    }
}
