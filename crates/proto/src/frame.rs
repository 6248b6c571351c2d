//! Encoding: an [`Event`] becomes a [`Frame`] once, and every subscriber gets the same bytes.
//!
//! The format is `text/event-stream` of the HTML standard, section 9.2.5 ("Parsing an event stream"); the
//! chunks are those of RFC 9112, section 7.1. The module `fields` reads an event
//! back.

mod fields;
mod identity;

use std::borrow::Cow;
use std::mem::size_of;
use std::time::Duration;

use memchr::memchr2;
use smallvec::SmallVec;

use crate::cursor::{Cursor, Epoch};
use crate::event::{Event, EventId, Topic};
use crate::json::json_string;
use crate::link::{Encoding, Transport};

pub use self::identity::Identity;
pub(crate) use self::identity::identity_key;

/// How the body of a response is delimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WireFormat {
    /// Chunked transfer coding (RFC 9112, section 7.1): HTTP/1.1.
    #[default]
    Chunked,
    /// The bare bytes, ended by the end of the connection: HTTP/1.0 and `Connection: close`.
    Plain,
}

/// An event encoded once, immutable, shared by everyone who sends it.
///
/// One allocation serves both wire formats: the chunk holds the plain body as its inner slice.
#[derive(Debug)]
pub struct Frame {
    seq: u64,
    published: Duration,
    /// `<hex length>\r\n` body `\r\n`
    wire: Box<[u8]>,
    /// Where the body begins in `wire`; it ends two bytes before the end.
    body_start: usize,
    topics: SmallVec<[Topic; 1]>,
    own_id: Option<EventId>,
    private: bool,
}

impl Frame {
    /// Encodes `event` as number `seq`, with `wire_id` as the text of its `id:` line.
    ///
    /// `published` is when the hub took the event, by the hub's clock; retention by age reads it.
    ///
    /// The fields stand in the order event, retry, data, id. The id is last because some clients adopt an id
    /// when they read its line, before the blank line that dispatches the event. If the stream is cut between
    /// the two, such a client resumes behind an event that it did not dispatch. With the id last, only a cut
    /// between the last two line feeds of a frame does that.
    ///
    /// # Panics
    /// `wire_id` is empty or has a control character in it. It is made by the engine, never by a peer, and a
    /// line end in it would let one field pass for another.
    pub fn encode(seq: u64, wire_id: &str, event: Event, published: Duration) -> Frame {
        assert!(!wire_id.is_empty() && !wire_id.chars().any(char::is_control), "bad wire id {wire_id:?}");
        let kind = event.event_type().map(|kind| kind.as_str());
        let retry = event.retry().map(|retry| Decimal::of(retry.millis()));
        let data = event.data();

        let body_len = body_len(&event, wire_id.len());
        let size_line = ChunkSize::of(body_len);
        let total = size_line.as_bytes().len() + body_len + 2;

        let mut wire = Vec::with_capacity(total);
        wire.extend_from_slice(size_line.as_bytes());
        if let Some(kind) = kind {
            put_field(EVENT, kind.as_bytes(), &mut wire);
        }
        if let Some(retry) = &retry {
            put_field(RETRY, retry.as_bytes(), &mut wire);
        }
        if let Some(data) = data {
            put_data(data, &mut wire);
        }
        put_field(ID, wire_id.as_bytes(), &mut wire);
        wire.extend_from_slice(b"\n\r\n");
        assert_eq!(wire.len(), total, "the size was computed exactly");

        let private = event.is_private();
        let (topics, own_id) = event.into_topics_and_id();
        let body_start = size_line.as_bytes().len();
        Frame { seq, published, wire: wire.into_boxed_slice(), body_start, topics, own_id, private }
    }

    /// The most that the [`size`](Frame::size) of this event's frame can be: known before its `seq` is.
    pub fn size_at_most(event: &Event) -> usize {
        let own_id_len = event.id().map(|id| id.as_str().len());
        let body_len = body_len(event, own_id_len.unwrap_or(CURSOR_TEXT_BYTES));
        let wire = ChunkSize::of(body_len).as_bytes().len() + body_len + 2;
        // A vector of topics doubles as it grows.
        let spilled = event.topics().len().next_power_of_two() * size_of::<Topic>();
        size_of::<Frame>() + wire + names_size(event.topics()) + spilled + own_id_len.unwrap_or(0)
    }

    /// The event's position in the total order of the hub.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The topics it was published to; never empty.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The id that subscribers see: the publisher's own, otherwise the cursor of this event.
    pub fn wire_id(&self, epoch: Epoch) -> Cow<'_, str> {
        match self.own_id() {
            Some(id) => Cow::Borrowed(id),
            None => Cow::Owned(Cursor { epoch, seq: self.seq }.to_string()),
        }
    }

    /// The publisher's own id.
    pub fn own_id(&self) -> Option<&str> {
        self.own_id.as_ref().map(EventId::as_str)
    }

    /// Whether only subscribers with the right to private events get it.
    pub fn private(&self) -> bool {
        self.private
    }

    /// When the hub took it, by the hub's clock.
    pub fn published(&self) -> Duration {
        self.published
    }

    /// The bytes to send. A bare [`WireFormat`] means HTTP/1, here as in the functions below.
    pub fn wire(&self, encoding: impl Into<Encoding>) -> &[u8] {
        let Encoding { transport: Transport::Http1, format } = encoding.into();
        match format {
            WireFormat::Chunked => &self.wire,
            WireFormat::Plain => &self.wire[self.body_start..self.wire.len() - 2],
        }
    }

    /// The memory it holds, in bytes, for retention by size: itself, its wire bytes, its names.
    ///
    /// A topic's text may be shared with other frames; it is counted in full, so that the sum is an upper
    /// bound.
    pub fn size(&self) -> usize {
        let spilled = if self.topics.spilled() { self.topics.capacity() * size_of::<Topic>() } else { 0 };
        let own_id = self.own_id().map_or(0, str::len);
        size_of::<Frame>() + self.wire.len() + names_size(&self.topics) + spilled + own_id
    }
}

/// Appends `body` to `out`: as one chunk, or as it is.
///
/// An empty body appends nothing: an empty chunk would end the stream (RFC 9112, section 7.1).
pub fn wrap(body: &[u8], encoding: impl Into<Encoding>, out: &mut Vec<u8>) {
    let Encoding { transport: Transport::Http1, format } = encoding.into();
    match format {
        WireFormat::Plain => out.extend_from_slice(body),
        WireFormat::Chunked if body.is_empty() => {}
        WireFormat::Chunked => {
            let size_line = ChunkSize::of(body.len());
            out.reserve(size_line.as_bytes().len() + body.len() + 2);
            out.extend_from_slice(size_line.as_bytes());
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends the body of an event without an id, so that it leaves the client's last event id alone: for
/// greetings. Wrap it with [`wrap`].
///
/// # Panics
/// `kind` is empty or has a control character in it: it is the engine's own text, never a peer's.
pub fn encode_unnumbered(kind: Option<&str>, data: &str, out: &mut Vec<u8>) {
    out.reserve(kind.map_or(0, |kind| field_len(EVENT, kind.len())) + data_len(data) + 1);
    if let Some(kind) = kind {
        assert!(!kind.is_empty() && !kind.chars().any(char::is_control), "bad event type {kind:?}");
        put_field(EVENT, kind.as_bytes(), out);
    }
    put_data(data, out);
    out.push(b'\n');
}

/// Appends the event that reports a gap: events may be missing between the event `after`, which the client
/// asked to resume from, and `next`, the first event that follows `cursor` (`None`: there is none yet).
///
/// The id of the gap event is `cursor`, from which the stream continues, so a client that is cut right behind
/// it resumes there. It is the last line, as in every frame.
pub fn gap_event(
    after: &str,
    cursor: Cursor,
    next: Option<&Frame>,
    encoding: impl Into<Encoding>,
    out: &mut Vec<u8>,
) {
    let before = next.map_or("null".into(), |frame| json_string(&frame.wire_id(cursor.epoch)));
    let mut body = Vec::with_capacity(128);
    put_field(EVENT, b"fanfare.gap", &mut body);
    put_data(&format!(r#"{{"after":{},"before":{before}}}"#, json_string(after)), &mut body);
    put_field(ID, cursor.to_string().as_bytes(), &mut body);
    body.push(b'\n');
    wrap(&body, encoding, out);
}

/// How a client is told where it is when there is no event to carry the id.
///
/// A client that is cut before its first event has no id to come back with: it misses what was published
/// meanwhile, and no gap is reported. A checkpoint gives it an id. Clients differ in what they do with one,
/// so each subscription chooses; `docs/CLIENTS.md` says what each client needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Checkpoint {
    /// No checkpoints: the client has an id from its first event on.
    Off,
    /// `id: <cursor>` and a blank line. "If the data buffer is an empty string, set the data buffer and the
    /// event type buffer to the empty string and return" (HTML standard, section 9.2.6): a browser adopts the
    /// id and dispatches nothing. Some clients ignore the block, and some make an empty message of it.
    #[default]
    Block,
    /// An event of the type `fanfare.checkpoint` with the data `{}`, for clients that ignore blocks without
    /// data. Every client adopts its id; a browser dispatches it only to listeners for its type.
    Event,
}

/// Appends a checkpoint: the client has everything up to `cursor`. Nothing for [`Checkpoint::Off`]. Wrap it
/// with [`wrap`]; it may share a chunk with the [`prelude`].
pub fn checkpoint(form: Checkpoint, cursor: Cursor, out: &mut Vec<u8>) {
    match form {
        Checkpoint::Off => return,
        Checkpoint::Block => {}
        Checkpoint::Event => out.extend_from_slice(b"event: fanfare.checkpoint\ndata: {}\n"),
    }
    put_field(ID, cursor.to_string().as_bytes(), out);
    out.push(b'\n');
}

/// The comment that keeps a path open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeartbeatForm {
    /// `:` and a line end. No client makes an event of it.
    #[default]
    Line,
    /// `:` and a blank line, for clients that hold everything back until the next blank line; others
    /// take each blank line for an empty message.
    Blank,
}

/// The bytes of one heartbeat.
pub fn heartbeat(form: HeartbeatForm, encoding: impl Into<Encoding>) -> &'static [u8] {
    let Encoding { transport: Transport::Http1, format } = encoding.into();
    match (form, format) {
        (HeartbeatForm::Line, WireFormat::Plain) => b":\n",
        (HeartbeatForm::Line, WireFormat::Chunked) => b"2\r\n:\n\r\n",
        (HeartbeatForm::Blank, WireFormat::Plain) => b":\n\n",
        (HeartbeatForm::Blank, WireFormat::Chunked) => b"3\r\n:\n\n\r\n",
    }
}

/// Appends the end of a stream: a `retry` line, then in [`WireFormat::Chunked`] the last chunk (RFC 9112,
/// section 7.1). `retry_ms` is the wait in milliseconds; the caller puts the jitter in.
pub fn ending(retry_ms: u64, encoding: impl Into<Encoding>, out: &mut Vec<u8>) {
    let encoding @ Encoding { transport: Transport::Http1, format } = encoding.into();
    let mut line = SmallVec::<[u8; 32]>::new();
    line.extend_from_slice(RETRY);
    line.extend_from_slice(Decimal::of(retry_ms).as_bytes());
    line.push(b'\n');
    wrap(&line, encoding, out);
    if format == WireFormat::Chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// Appends the first bytes of a stream's body: a comment line, then a `retry` line, and no blank line,
/// because some clients make an empty message of each. `retry_ms` is the wait in milliseconds. Wrap it with
/// [`wrap`].
pub fn prelude(retry_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n");
    put_field(RETRY, Decimal::of(retry_ms).as_bytes(), out);
}

const ID: &[u8] = b"id: ";
const EVENT: &[u8] = b"event: ";
const RETRY: &[u8] = b"retry: ";
/// Exactly one space: clients strip one, so leading spaces of the data survive.
const DATA: &[u8] = b"data: ";
/// Short for `data: ` with nothing behind it; clients read the same.
const EMPTY_DATA_LINE: &[u8] = b"data:\n";
/// The most that a cursor is as text: nine digits, a dash, twenty digits.
const CURSOR_TEXT_BYTES: usize = 30;
/// The two counters in front of an `Arc`'s content.
const ARC_HEADER_BYTES: usize = 2 * size_of::<usize>();

/// What an event's body takes on the wire, with an id of this many bytes.
fn body_len(event: &Event, wire_id_len: usize) -> usize {
    field_len(ID, wire_id_len)
        + event.event_type().map_or(0, |kind| field_len(EVENT, kind.as_str().len()))
        + event.retry().map_or(0, |retry| field_len(RETRY, Decimal::of(retry.millis()).as_bytes().len()))
        + event.data().map_or(0, data_len)
        + 1
}

fn names_size(topics: &[Topic]) -> usize {
    topics.iter().map(|topic| topic.as_str().len() + ARC_HEADER_BYTES).sum()
}

fn field_len(name: &[u8], value_len: usize) -> usize {
    name.len() + value_len + 1
}

fn put_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn data_len(data: &str) -> usize {
    DataLines::of(data)
        .map(|line| if line.is_empty() { EMPTY_DATA_LINE.len() } else { field_len(DATA, line.len()) })
        .sum()
}

fn put_data(data: &str, out: &mut Vec<u8>) {
    for line in DataLines::of(data) {
        if line.is_empty() {
            out.extend_from_slice(EMPTY_DATA_LINE);
        } else {
            put_field(DATA, line, out);
        }
    }
}

/// The lines of an event's data: split at each CRLF (once), CR and LF. There is always one more line than
/// line ends, so that a line end at the end of the data survives.
struct DataLines<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> DataLines<'a> {
    fn of(data: &'a str) -> DataLines<'a> {
        DataLines { rest: Some(data.as_bytes()) }
    }
}

impl<'a> Iterator for DataLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let Some(end) = memchr2(b'\r', b'\n', rest) else {
            self.rest = None;
            return Some(rest);
        };
        let after = if rest[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        self.rest = Some(&rest[after..]);
        Some(&rest[..end])
    }
}

/// A number in decimal digits, without an allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn of(mut number: u64) -> Decimal {
        let mut decimal = Decimal { digits: [0; 20], start: 20 };
        loop {
            decimal.start -= 1;
            decimal.digits[decimal.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// The first line of a chunk: its length in hexadecimal digits and CRLF (RFC 9112, section 7.1).
struct ChunkSize {
    line: [u8; 18],
    start: usize,
}

impl ChunkSize {
    fn of(mut len: usize) -> ChunkSize {
        let mut size = ChunkSize { line: [0; 18], start: 16 };
        size.line[16..].copy_from_slice(b"\r\n");
        loop {
            size.start -= 1;
            size.line[size.start] = b"0123456789abcdef"[len % 16];
            len /= 16;
            if len == 0 {
                return size;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.line[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventType, Retry};

    fn event() -> Event {
        Event::new(Topic::new("t").unwrap())
    }

    fn plain(event: Event) -> String {
        let frame = Frame::encode(1, "e-1", event, Duration::ZERO);
        String::from_utf8(frame.wire(WireFormat::Plain).to_vec()).unwrap()
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"<".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_order_is_event_retry_data_id() {
        let full = event()
            .with_id(EventId::new("own").unwrap())
            .with_type(EventType::new("paid").unwrap())
            .with_retry(Retry::from_millis(3000))
            .with_data("hello");
        assert_eq!(plain(full), "event: paid\nretry: 3000\ndata: hello\nid: e-1\n\n");
        assert_eq!(plain(event().with_data("hello")), "data: hello\nid: e-1\n\n");
    }

    #[test]
    fn no_data_is_no_data_line_and_empty_data_is_an_empty_one() {
        assert_eq!(plain(event()), "id: e-1\n\n");
        assert_eq!(plain(event().with_data("")), "data:\nid: e-1\n\n");
    }

    /// A CR that gets through is read as a line end: `x\revent: paid` would forge a field.
    #[test]
    fn every_kind_of_line_end_splits_once() {
        let cases = [
            ("a\nb", "data: a\ndata: b\n"),
            ("a\rb", "data: a\ndata: b\n"),
            ("a\r\nb", "data: a\ndata: b\n"),
            ("a\n\rb", "data: a\ndata:\ndata: b\n"),
            ("a\r\r\nb", "data: a\ndata:\ndata: b\n"),
            ("a\r\n\nb", "data: a\ndata:\ndata: b\n"),
            ("x\revent: paid", "data: x\ndata: event: paid\n"),
            ("\n", "data:\ndata:\n"),
            ("a\n", "data: a\ndata:\n"),
            ("\r\na", "data:\ndata: a\n"),
            (" a", "data:  a\n"),
            (" ", "data:  \n"),
            (":a", "data: :a\n"),
            ("\u{feff}a\0", "data: \u{feff}a\0\n"),
        ];
        for (data, expected) in cases {
            assert_eq!(plain(event().with_data(data)), format!("{expected}id: e-1\n\n"), "{data:?}");
        }
    }

    #[test]
    fn the_chunk_holds_the_plain_body() {
        for len in [0, 1, 2, 3, 200, 229, 5000, 70_000] {
            let frame = Frame::encode(1, "e-1", event().with_data("x".repeat(len)), Duration::ZERO);
            let body = frame.wire(WireFormat::Plain);
            let mut expected = format!("{:x}\r\n", body.len()).into_bytes();
            expected.extend_from_slice(body);
            expected.extend_from_slice(b"\r\n");
            assert_eq!(frame.wire(WireFormat::Chunked), expected);
            assert!(body.ends_with(b"\n\n"));
        }
    }

    #[test]
    fn getters_return_what_went_in() {
        let event = event()
            .with_topic(Topic::new("u").unwrap())
            .unwrap()
            .with_id(EventId::new("own").unwrap())
            .with_private(true);
        let frame = Frame::encode(7, "e-7", event, Duration::from_secs(3));
        assert_eq!(frame.seq(), 7);
        assert_eq!(frame.topics().iter().map(Topic::as_str).collect::<Vec<_>>(), ["t", "u"]);
        assert_eq!(frame.own_id(), Some("own"));
        assert!(frame.private());
        assert_eq!(frame.published(), Duration::from_secs(3));
    }

    #[test]
    fn size_grows_with_everything_held() {
        let size = |event| Frame::encode(1, "e-1", event, Duration::ZERO).size();
        let bare = size(event());
        assert!(bare >= size_of::<Frame>() + "9\r\nid: e-1\n\n\r\n".len());
        assert!(size(event().with_data("x".repeat(100))) >= bare + 100);
        assert!(size(event().with_id(EventId::new("x".repeat(50)).unwrap())) >= bare + 50);
        assert!(size(event().with_topic(Topic::new("u".repeat(50)).unwrap()).unwrap()) >= bare + 50);
    }

    #[test]
    fn no_frame_is_larger_than_was_expected() {
        let many =
            (0..40).fold(event(), |event, n| event.with_topic(Topic::new(format!("u{n}")).unwrap()).unwrap());
        let lines = event().with_data("\n".repeat(5000));
        let named =
            event().with_id(EventId::new("x".repeat(256)).unwrap()).with_type(EventType::new("k").unwrap());
        let wire_id = Cursor { epoch: Epoch::new(u64::MAX), seq: u64::MAX }.to_string();
        for event in
            [event(), many, lines, named, event().with_retry(Retry::from_millis(1234)).with_data("d")]
        {
            let expected = Frame::size_at_most(&event);
            let wire_id = event.id().map_or(wire_id.clone(), |id| id.as_str().to_owned());
            let size = Frame::encode(u64::MAX, &wire_id, event, Duration::ZERO).size();
            assert!(size <= expected && expected <= size + 100, "{size} bytes, {expected} expected");
        }
    }

    #[test]
    #[should_panic(expected = "bad wire id")]
    fn a_wire_id_with_a_line_end_is_a_bug() {
        Frame::encode(1, "e\n1", event(), Duration::ZERO);
    }

    #[test]
    fn wrapping_makes_one_chunk_and_never_the_last_one() {
        assert_eq!(
            written(|out| wrap(b"0123456789abcdef", WireFormat::Chunked, out)),
            "<10\r\n0123456789abcdef\r\n"
        );
        assert_eq!(written(|out| wrap(b"ab", WireFormat::Plain, out)), "<ab");
        assert_eq!(written(|out| wrap(b"", WireFormat::Chunked, out)), "<");
        assert_eq!(written(|out| wrap(b"", WireFormat::Plain, out)), "<");
    }

    #[test]
    fn unnumbered_events_have_no_id() {
        assert_eq!(
            written(|out| encode_unnumbered(Some("hello"), "a\r\nb", out)),
            "<event: hello\ndata: a\ndata: b\n\n"
        );
        assert_eq!(written(|out| encode_unnumbered(None, "", out)), "<data:\n\n");
    }

    #[test]
    fn a_gap_event_names_what_is_around_the_gap_and_its_id_is_last() {
        let epoch = Epoch::new(35);
        let cursor = Cursor { epoch, seq: 7 };
        assert_eq!(
            written(|out| gap_event("a\"b", cursor, None, WireFormat::Plain, out)),
            "<event: fanfare.gap\ndata: {\"after\":\"a\\\"b\",\"before\":null}\nid: 00000000z-7\n\n"
        );
        let next = Frame::encode(9, "00000000z-9", event(), Duration::ZERO);
        let own = Frame::encode(9, "own", event().with_id(EventId::new("own").unwrap()), Duration::ZERO);
        for (next, before) in [(next, "00000000z-9"), (own, "own")] {
            let body = format!(
                "event: fanfare.gap\ndata: {{\"after\":\"a\",\"before\":\"{before}\"}}\nid: 00000000z-7\n\n"
            );
            let chunk = format!("<{:x}\r\n{body}\r\n", body.len());
            assert_eq!(written(|out| gap_event("a", cursor, Some(&next), WireFormat::Chunked, out)), chunk);
        }
    }

    #[test]
    fn a_checkpoint_is_an_id_and_a_blank_line_or_an_event() {
        let cursor = Cursor { epoch: Epoch::new(35), seq: 7 };
        assert_eq!(written(|out| checkpoint(Checkpoint::Off, cursor, out)), "<");
        assert_eq!(written(|out| checkpoint(Checkpoint::Block, cursor, out)), "<id: 00000000z-7\n\n");
        assert_eq!(
            written(|out| checkpoint(Checkpoint::Event, cursor, out)),
            "<event: fanfare.checkpoint\ndata: {}\nid: 00000000z-7\n\n"
        );
    }

    #[test]
    fn heartbeats_are_the_chunk_of_the_plain_one() {
        assert_eq!(heartbeat(HeartbeatForm::Line, WireFormat::Plain), b":\n");
        assert_eq!(heartbeat(HeartbeatForm::Blank, WireFormat::Plain), b":\n\n");
        for form in [HeartbeatForm::Line, HeartbeatForm::Blank] {
            let mut chunk = Vec::new();
            wrap(heartbeat(form, WireFormat::Plain), WireFormat::Chunked, &mut chunk);
            assert_eq!(heartbeat(form, WireFormat::Chunked), chunk);
        }
    }

    #[test]
    fn prelude_and_ending_have_no_blank_line() {
        assert_eq!(written(|out| prelude(2345, out)), "<:\nretry: 2345\n");
        assert_eq!(written(|out| ending(0, WireFormat::Plain, out)), "<retry: 0\n");
        assert_eq!(
            written(|out| ending(12345, WireFormat::Chunked, out)),
            "<d\r\nretry: 12345\n\r\n0\r\n\r\n"
        );
        assert_eq!(written(|out| ending(u64::MAX, WireFormat::Plain, out)), "<retry: 18446744073709551615\n");
    }
}
