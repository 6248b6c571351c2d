//! Decoding `text/event-stream`, as clients do: HTML standard, section 9.2.6 ("Interpreting an event
//! stream").

use std::fmt;

use memchr::memchr2;

/// An incremental decoder of `text/event-stream`.
///
/// Bytes come in pieces of any size ([`feed`](Decoder::feed)); the result does not depend on where the pieces
/// end. An event that is not finished by a blank line is never reported, as the standard demands.
///
/// Memory is bounded: the line being read, the data and the type together stay within the limit, and so does
/// each of the two ids that are kept. (A line of invalid UTF-8 grows by its replacement, to three times at
/// most.)
#[derive(Debug)]
pub struct Decoder {
    limit_bytes: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The last byte was a CR, which ended a line: a LF right after it belongs to the same line end.
    after_cr: bool,
    /// No line has been read yet, so that a byte order mark may still come.
    at_start: bool,
    data: String,
    kind: String,
    /// What the last `id` field said. It counts only from the next blank line on.
    id_buffer: String,
    last_event_id: String,
    failed: bool,
}

/// What a [`Decoder`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded<'a> {
    /// A client would dispatch this event.
    Event {
        /// The type; `message` where the stream named none.
        kind: &'a str,
        /// The data, its lines joined by LF.
        data: &'a str,
        /// The id a client would resume from; empty if there has been none.
        last_event_id: &'a str,
    },
    /// The wait before a reconnection, in milliseconds; [`u64::MAX`] if the number was larger still.
    Retry(u64),
    /// A comment: everything after the colon.
    Comment(&'a str),
}

/// Why a stream could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// An event, or a line of one, is longer than the decoder's limit.
    TooLong {
        /// The limit, in bytes.
        limit_bytes: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLong { limit_bytes } => {
                write!(
                    f,
                    "the stream has an event of more than {limit_bytes} bytes; raise the decoder's limit"
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl Decoder {
    /// A decoder at the beginning of a stream. The line being read, the data and the type of an event may
    /// have `limit_bytes` together.
    pub fn new(limit_bytes: usize) -> Decoder {
        Decoder {
            limit_bytes,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            data: String::new(),
            kind: String::new(),
            id_buffer: String::new(),
            last_event_id: String::new(),
            failed: false,
        }
    }

    /// The id a client would send as `Last-Event-ID` now; empty if there has been none.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Takes the next bytes of the stream and hands everything they complete to `on`, in order.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`], after everything before it was handed over; from then on every call fails,
    /// since what comes next is the middle of an event.
    pub fn feed(&mut self, bytes: &[u8], on: &mut impl FnMut(Decoded<'_>)) -> Result<(), DecodeError> {
        if self.failed {
            return Err(self.too_long());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr2(b'\r', b'\n', rest) else {
                self.check_limit(self.line.len() + rest.len())?;
                self.line.extend_from_slice(rest);
                break;
            };
            self.after_cr = rest[end] == b'\r';
            self.check_limit(self.line.len() + end)?;
            self.take_line(&rest[..end], on);
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    fn check_limit(&mut self, line_len: usize) -> Result<(), DecodeError> {
        self.failed = self.data.len() + self.kind.len() + line_len > self.limit_bytes;
        if self.failed { Err(self.too_long()) } else { Ok(()) }
    }

    fn too_long(&self) -> DecodeError {
        DecodeError::TooLong { limit_bytes: self.limit_bytes }
    }

    /// A line has ended with `tail`; its beginning may be in `self.line`.
    fn take_line(&mut self, tail: &[u8], on: &mut impl FnMut(Decoded<'_>)) {
        if self.line.is_empty() {
            self.interpret(tail, on);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(tail);
            self.interpret(&line, on);
            // Keep the allocation for the next line that comes in pieces.
            line.clear();
            self.line = line;
        }
    }

    fn interpret(&mut self, line: &[u8], on: &mut impl FnMut(Decoded<'_>)) {
        // "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(stripped) if self.at_start => stripped,
            _ => line,
        };
        self.at_start = false;
        // A line end is never part of a longer UTF-8 sequence, so decoding by lines replaces exactly what
        // decoding the whole stream would.
        let line = String::from_utf8_lossy(line);
        if line.is_empty() {
            return self.dispatch(on);
        }
        match line.split_once(':') {
            Some(("", comment)) => on(Decoded::Comment(comment)),
            Some((name, value)) => self.field(name, value.strip_prefix(' ').unwrap_or(value), on),
            None => self.field(&line, "", on),
        }
    }

    fn field(&mut self, name: &str, value: &str, on: &mut impl FnMut(Decoded<'_>)) {
        match name {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => replace(&mut self.kind, value),
            // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the
            // field value. Otherwise, ignore the field."
            "id" if !value.contains('\0') => replace(&mut self.id_buffer, value),
            // "If the field value consists of only ASCII digits": an empty value is no number.
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                on(Decoded::Retry(value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }

    /// A blank line: the id counts from now on, whether or not there is an event to dispatch.
    fn dispatch(&mut self, on: &mut impl FnMut(Decoded<'_>)) {
        self.last_event_id.clone_from(&self.id_buffer);
        if self.data.pop().is_some() {
            // The byte popped is the LF behind the last line.
            let kind = if self.kind.is_empty() { "message" } else { &self.kind };
            on(Decoded::Event { kind, data: &self.data, last_event_id: &self.last_event_id });
        }
        self.data.clear();
        self.kind.clear();
    }
}

fn replace(buffer: &mut String, value: &str) {
    buffer.clear();
    buffer.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a decoder reports, one line of text for each thing.
    fn decode(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::new(1 << 20);
        let mut found = Vec::new();
        for piece in pieces {
            decoder.feed(piece, &mut |decoded| found.push(describe(decoded))).unwrap();
        }
        found
    }

    fn describe(decoded: Decoded<'_>) -> String {
        match decoded {
            Decoded::Event { kind, data, last_event_id } => format!("{kind}|{data}|{last_event_id}"),
            Decoded::Retry(millis) => format!("retry {millis}"),
            Decoded::Comment(text) => format!("comment {text}"),
        }
    }

    fn assert_decodes(stream: &str, expected: &[&str]) {
        assert_eq!(decode(&[stream.as_bytes()]), expected, "{stream:?}");
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(decode(&bytes), expected, "{stream:?} byte by byte");
    }

    /// The examples that the standard itself gives in section 9.2.6.
    #[test]
    fn the_standards_examples() {
        assert_decodes("data: YHOO\ndata: +2\ndata: 10\n\n", &["message|YHOO\n+2\n10|"]);
        assert_decodes(
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &[
                "comment  test stream",
                "message|first event|1",
                "message|second event|",
                "message| third event|",
            ],
        );
        assert_decodes("data\n\ndata\ndata\n\ndata:", &["message||", "message|\n|"]);
        assert_decodes("data:test\n\ndata: test\n\n", &["message|test|", "message|test|"]);
    }

    #[test]
    fn all_three_line_ends_even_across_pieces() {
        assert_decodes("data:a\rdata:b\n\r\ndata:c\r\n\r\n", &["message|a\nb|", "message|c|"]);
        assert_eq!(decode(&[b"data:a\r", b"\n", b"\r", b"\ndata:b\n\n"]), ["message|a|", "message|b|"]);
        // A CR ends the line at once: the event does not wait for a LF that may never come.
        assert_eq!(decode(&[b"data:a\r\r"]), ["message|a|"]);
        // CR CR LF is two line ends; an empty piece in between changes nothing.
        assert_eq!(decode(&[b"data:a\r", b"", b"\r\n", b"data:b\n\n"]), ["message|a|", "message|b|"]);
        assert_eq!(decode(&[b"data:a\r", b"", b"\n", b"data:b\n\n"]), ["message|a\nb|"]);
    }

    #[test]
    fn one_byte_order_mark_is_stripped_at_the_start_only() {
        assert_decodes("\u{feff}data:a\n\n", &["message|a|"]);
        assert_decodes("\u{feff}\u{feff}data:a\n\n", &[]);
        assert_decodes("data:a\n\n\u{feff}data:b\n\n", &["message|a|"]);
        assert_decodes("data:\u{feff}a\n\n", &["message|\u{feff}a|"]);
        assert_decodes("\n\u{feff}data:a\n\n", &[]);
    }

    #[test]
    fn field_rules() {
        assert_decodes("event: paid\ndata: 1\n\ndata: 2\n\n", &["paid|1|", "message|2|"]);
        assert_decodes("event: a\nevent: b\ndata: 1\n\n", &["b|1|"]);
        assert_decodes("event: a\nevent\ndata: 1\n\n", &["message|1|"]);
        // The type of an event without data is forgotten.
        assert_decodes("event: a\n\ndata: 1\n\n", &["message|1|"]);
        // Names are compared exactly; a space before the colon is part of the name; only one space is
        // stripped.
        assert_decodes("Data: 1\ndata : 2\n data: 3\nfoo: 4\ndata:5\n\n", &["message|5|"]);
        assert_decodes("data:\t a\ndata:  b: c\n\n", &["message|\t a\n b: c|"]);
        assert_decodes("data: a\0b\n\n", &["message|a\0b|"]);
        assert_decodes("data: not finished\n", &[]);
    }

    #[test]
    fn ids_persist_and_count_from_the_blank_line() {
        assert_decodes("id: 1\ndata: a\n\ndata: b\n\n", &["message|a|1", "message|b|1"]);
        assert_decodes("id: 1\n\ndata: b\n\n", &["message|b|1"]);
        assert_decodes("id: 1\n\nid: 2\0\ndata: b\n\n", &["message|b|1"]);
        assert_decodes("id: 1\n\nid\ndata: b\n\n", &["message|b|"]);
        assert_decodes("id:  ä\ndata: b\n\n", &["message|b| ä"]);
        let mut decoder = Decoder::new(100);
        decoder.feed(b"id: 1\n", &mut |_| {}).unwrap();
        assert_eq!(decoder.last_event_id(), "");
        decoder.feed(b"\n", &mut |_| {}).unwrap();
        assert_eq!(decoder.last_event_id(), "1");
    }

    #[test]
    fn retry_is_digits_only_and_needs_no_blank_line() {
        assert_decodes("retry: 3000\n", &["retry 3000"]);
        assert_decodes("retry:007\n", &["retry 7"]);
        assert_decodes("retry: 99999999999999999999\n", &["retry 18446744073709551615"]);
        assert_decodes(
            "retry\nretry:\nretry:  1\nretry: 1 \nretry: -1\nretry: 1.5\nretry: +1\nretry: ١\n",
            &[],
        );
    }

    #[test]
    fn comments_are_anywhere_and_change_nothing() {
        assert_decodes(":\ndata: a\n:x:y\ndata: b\n\n", &["comment ", "comment x:y", "message|a\nb|"]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        let stream = b"data: a\xffb\xe2\x82\ndata: \xf0\x9f\x98\x80\n\n";
        let expected = ["message|a\u{fffd}b\u{fffd}\n😀|"];
        assert_eq!(decode(&[stream]), expected);
        assert_eq!(decode(&stream.chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn the_limit_bounds_an_event_not_a_stream() {
        let feed = |limit: usize, stream: &[u8]| {
            let mut decoder = Decoder::new(limit);
            let mut found = Vec::new();
            let result = decoder.feed(stream, &mut |decoded| found.push(describe(decoded)));
            (result, found)
        };
        let too_long = |limit_bytes| Err(DecodeError::TooLong { limit_bytes });
        assert_eq!(feed(6, b"data:a\n\n").0, Ok(()));
        assert_eq!(feed(5, b"data:a\n\n").0, too_long(5));
        assert_eq!(feed(5, b"data:a").0, too_long(5));
        assert_eq!(feed(10, b"data:abc\ndata:def\n\n").0, too_long(10));
        assert_eq!(feed(12, &b"data:abc\n\n".repeat(100)).0, Ok(()));
        assert_eq!(feed(12, &b":comment\n".repeat(100)).0, Ok(()));
        assert_eq!(feed(12, &b"id:comment\n".repeat(100)).0, Ok(()));
        let (result, found) = feed(10, b"data:a\n\ndata:0123456789\n\ndata:b\n\n");
        assert_eq!((result, found), (too_long(10), vec!["message|a|".to_owned()]));
    }

    #[test]
    fn after_an_error_every_call_fails() {
        let mut decoder = Decoder::new(3);
        assert!(decoder.feed(b"data:a", &mut |_| {}).is_err());
        assert!(decoder.feed(b"\n\n", &mut |_| unreachable!()).is_err());
        assert!(decoder.feed(b"", &mut |_| {}).is_err());
        assert!(DecodeError::TooLong { limit_bytes: 3 }.to_string().contains("3 bytes"));
    }
}
