//! A head that another HTTP server has written, in place of the engine's own.

use std::fmt;

use fanfare_proto::frame::WireFormat;
use fanfare_proto::link::{Encoding, Transport};

#[cfg(doc)]
use crate::Subscribe;

/// The most bytes of such a head. A subscriber that waits for a shard holds them.
pub(crate) const WRITTEN_HEAD_BYTES: usize = 16 * 1024;

const LINE_END: &[u8] = b"\r\n";

/// The head of a stream, with its last empty line.
#[derive(Clone, Debug)]
pub(crate) struct WrittenHead {
    bytes: Box<[u8]>,
    chunked: bool,
}

/// Why bytes are not the head of a stream: [`Subscribe::with_response_head`] says what is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHead {
    reason: &'static str,
}

impl WrittenHead {
    /// Checks the bytes. What is allowed here goes to a client as it is.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<WrittenHead, InvalidHead> {
        let invalid = |reason| Err(InvalidHead { reason });
        if bytes.len() > WRITTEN_HEAD_BYTES {
            return invalid("it is longer than 16 KiB");
        }
        let Some(lines) = bytes.strip_suffix(b"\r\n\r\n") else {
            return invalid("it does not end with an empty line");
        };
        let mut lines = split_lines(lines);
        let status_line = lines.next().unwrap_or_default();
        if ![&b"HTTP/1.1 200 "[..], b"HTTP/1.0 200 "].iter().any(|start| status_line.starts_with(start)) {
            return invalid("it does not begin with an HTTP/1 status line of the status 200");
        }
        if !is_text(status_line) {
            return invalid("its status line has a control character in it");
        }
        let (mut content_types, mut codings) = (0, 0);
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                return invalid("it has a line that is no field, or more than one head");
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) || !is_text(value) {
                return invalid("it has a line that is no field");
            }
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("content-length") {
                return invalid("it has a Content-Length, and a stream has no length");
            } else if is("content-encoding") {
                return invalid("it has a Content-Encoding, and the engine sends events as they are");
            } else if is("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return invalid("it has a Transfer-Encoding other than chunked");
                }
                codings += 1;
            } else if is("content-type") {
                let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                if !essence.eq_ignore_ascii_case(b"text/event-stream") {
                    return invalid("its Content-Type is not text/event-stream");
                }
                content_types += 1;
            }
        }
        if content_types != 1 {
            return invalid("it does not have exactly one Content-Type");
        }
        if codings > 1 {
            return invalid("it has several Transfer-Encodings");
        }
        let chunked = codings == 1;
        if chunked && status_line.starts_with(b"HTTP/1.0") {
            return invalid("it has a Transfer-Encoding, which HTTP/1.0 does not know");
        }
        Ok(WrittenHead { bytes: bytes.into(), chunked })
    }

    /// Whether a body in this encoding is what the head announces.
    pub(crate) fn announces(&self, encoding: Encoding) -> bool {
        let Encoding { transport, format, .. } = encoding;
        debug_assert_eq!(transport, Transport::Http1);
        self.chunked == (format == WireFormat::Chunked)
    }

    /// Appends the head with further fields, each with its line end.
    pub(crate) fn write(&self, fields: &[&[u8]], out: &mut Vec<u8>) {
        let (before, empty_line) = self.bytes.split_at(self.bytes.len() - LINE_END.len());
        out.extend_from_slice(before);
        for field in fields {
            out.extend_from_slice(field);
        }
        out.extend_from_slice(empty_line);
    }
}

/// The lines between CRLFs. A CR or LF of its own stays in its line, where it is no text.
fn split_lines(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let end = rest.windows(LINE_END.len()).position(|two| two == LINE_END);
        ended = end.is_none();
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[][..], |end| &rest[end + LINE_END.len()..]);
        Some(line)
    })
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, section 5.5: no control character but a tab.
pub(crate) fn is_text(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

impl fmt::Display for InvalidHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "these bytes are not the head of a stream: {}", self.reason)
    }
}

impl std::error::Error for InvalidHead {}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";

    fn parse(text: &str) -> Result<WrittenHead, InvalidHead> {
        WrittenHead::parse(text.as_bytes().to_vec())
    }

    #[test]
    fn further_fields_come_before_the_empty_line() {
        let head = parse(&format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n")).unwrap();
        assert!(head.announces(WireFormat::Chunked.into()) && !head.announces(WireFormat::Plain.into()));
        let mut out = Vec::new();
        head.write(&[b"Fanfare-Gap: true\r\n", b""], &mut out);
        let expected = format!("{HEAD}Transfer-Encoding: chunked\r\nFanfare-Gap: true\r\n\r\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let plain =
            parse("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n").unwrap();
        assert!(plain.announces(WireFormat::Plain.into()) && !plain.announces(WireFormat::Chunked.into()));
    }

    /// Each of these would break the stream behind it, or let the author of a value write a second answer.
    #[test]
    fn bytes_that_are_no_head_of_a_stream_are_an_error() {
        for (bytes, reason) in [
            (String::new(), "empty line"),
            ("\r\n\r\n".to_owned(), "status line"),
            (HEAD.to_owned(), "empty line"),
            (format!("{HEAD}\r\nbody"), "empty line"),
            (format!("{HEAD}\r\n{HEAD}\r\n"), "no field"),
            (format!("{HEAD}a b: c\r\n\r\n"), "no field"),
            (format!("{HEAD} folded\r\n\r\n"), "no field"),
            (format!("{HEAD}a: b\nc: d\r\n\r\n"), "no field"),
            (format!("{HEAD}a: b\rc: d\r\n\r\n"), "no field"),
            (format!("{HEAD}a: \0\r\n\r\n"), "no field"),
            (format!("{HEAD}content-length: 5\r\n\r\n"), "Content-Length"),
            (format!("{HEAD}Content-Encoding: gzip\r\n\r\n"), "Content-Encoding"),
            (format!("{HEAD}transfer-encoding: gzip, chunked\r\n\r\n"), "other than chunked"),
            (format!("{HEAD}transfer-encoding: chunked\r\n").repeat(2) + "\r\n", "no field"),
            (format!("{HEAD}{0}{0}\r\n", "transfer-encoding: chunked\r\n"), "several"),
            (format!("{HEAD}content-type: text/event-stream\r\n\r\n"), "exactly one"),
            ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), "exactly one"),
            ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n".to_owned(), "text/event-stream"),
            (HEAD.replace("200 OK", "404 Not Found") + "\r\n", "status line"),
            (HEAD.replace("200 OK", "200 O\x07K") + "\r\n", "control character"),
            (HEAD.replace("/1.1", "/1.0") + "transfer-encoding: chunked\r\n\r\n", "HTTP/1.0"),
            (HEAD.replace("HTTP/1.1", "HTTP/2") + "\r\n", "status line"),
            (format!("{HEAD}a: {}\r\n\r\n", "b".repeat(WRITTEN_HEAD_BYTES)), "16 KiB"),
        ] {
            let error = parse(&bytes).err().unwrap_or_else(|| panic!("{bytes:?} was taken"));
            assert!(error.to_string().contains(reason), "{bytes:?}: {error}");
        }
    }
}
