//! Reading an event back out of its frame: what a reader in the same process is given.
//!
//! A frame keeps its wire bytes and no copy of the fields, so that a log of small events stays small. The
//! fields are found in the bytes, which [`Frame::encode`] wrote in a known order; data of one line is not
//! copied.

use std::borrow::Cow;

use memchr::{memchr, memrchr};

use super::{DATA, EVENT, Frame, RETRY, WireFormat};
use crate::event::{Event, EventId, EventType, Retry};

/// The name of a data line without data.
const EMPTY_DATA: &[u8] = b"data:";

/// Where the fields are in a frame's body.
struct Fields<'frame> {
    kind: Option<&'frame [u8]>,
    retry: Option<&'frame [u8]>,
    /// Each with its line end; empty where the event has no data.
    data_lines: &'frame [u8],
}

impl Frame {
    /// The type as the publisher gave it; without one, clients see `message`.
    pub fn event_type(&self) -> Option<&str> {
        self.fields().kind.map(text)
    }

    /// The wait before a reconnection.
    pub fn retry_wait(&self) -> Option<Retry> {
        Retry::parse(text(self.fields().retry?)).ok()
    }

    /// The data, as clients get it: the publisher's lines, joined by LF. `None`: the event has no data, which
    /// is not the same as empty data.
    pub fn data(&self) -> Option<Cow<'_, str>> {
        let lines = self.fields().data_lines.strip_suffix(b"\n")?;
        if memchr(b'\n', lines).is_none() {
            return Some(Cow::Borrowed(text(data_of(lines))));
        }
        let mut data = String::with_capacity(lines.len());
        for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if index > 0 {
                data.push('\n');
            }
            data.push_str(text(data_of(line)));
        }
        Some(Cow::Owned(data))
    }

    /// The event that was published. Line ends of its data are LF, whatever the publisher's were, so it is
    /// encoded to the same bytes again.
    pub fn to_event(&self) -> Event {
        // A frame has at least one topic, and no more than an event may have.
        let mut topics = self.topics().iter().cloned();
        let first = topics.next().unwrap_or_else(|| unreachable!("a frame has a topic"));
        let mut event = topics.fold(Event::new(first), |event, topic| match event.with_topic(topic) {
            Ok(event) => event,
            Err(_) => unreachable!("the frame was made of an event with these topics"),
        });
        // What was valid for the encoder is valid here.
        if let Some(id) = self.own_id().and_then(|id| EventId::new(id).ok()) {
            event = event.with_id(id);
        }
        if let Some(kind) = self.event_type().and_then(|kind| EventType::new(kind).ok()) {
            event = event.with_type(kind);
        }
        if let Some(retry) = self.retry_wait() {
            event = event.with_retry(retry);
        }
        if let Some(data) = self.data() {
            event = event.with_data(data);
        }
        event.with_private(self.private())
    }

    /// The lines of the data, without their ends. `None`: the event has no data.
    pub(super) fn data_lines(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let lines = self.fields().data_lines.strip_suffix(b"\n")?;
        Some(lines.split(|byte| *byte == b'\n').map(data_of))
    }

    fn fields(&self) -> Fields<'_> {
        let mut rest = self.wire(WireFormat::Plain);
        let kind = take_field(&mut rest, EVENT);
        let retry = take_field(&mut rest, RETRY);
        // The id is the last line, and has no line end in it.
        let id_end = rest.len().saturating_sub(2);
        let id_start = memrchr(b'\n', &rest[..id_end]).map_or(0, |end| end + 1);
        Fields { kind, retry, data_lines: &rest[..id_start] }
    }
}

/// The value of the first line, if it is this field's; then `rest` is what follows.
fn take_field<'frame>(rest: &mut &'frame [u8], name: &[u8]) -> Option<&'frame [u8]> {
    let line = rest.strip_prefix(name)?;
    let end = memchr(b'\n', line)?;
    *rest = &line[end + 1..];
    Some(&line[..end])
}

fn data_of(line: &[u8]) -> &[u8] {
    line.strip_prefix(DATA).or_else(|| line.strip_prefix(EMPTY_DATA)).unwrap_or_default()
}

/// A frame is made of texts and split at line ends only, so each field is valid UTF-8.
fn text(field: &[u8]) -> &str {
    std::str::from_utf8(field).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, EventType, Topic};

    fn event() -> Event {
        Event::new(Topic::new("t").unwrap())
    }

    fn frame(event: Event) -> Frame {
        Frame::encode(1, "e-1", event, Duration::ZERO)
    }

    #[test]
    fn every_field_comes_back_and_a_missing_one_is_none() {
        let bare = frame(event());
        assert_eq!((bare.event_type(), bare.retry_wait(), bare.data()), (None, None, None));
        let full = frame(
            event()
                .with_type(EventType::new("paid").unwrap())
                .with_retry(Retry::from_millis(3000))
                .with_data("a\r\n b\n"),
        );
        assert_eq!(full.event_type(), Some("paid"));
        assert_eq!(full.retry_wait(), Some(Retry::from_millis(3000)));
        assert_eq!(full.data().as_deref(), Some("a\n b\n"));
    }

    /// A store keeps the event, and the frame is encoded again when the log is read back.
    #[test]
    fn the_event_of_a_frame_is_encoded_to_the_same_bytes() {
        let topic = |name: &str| Topic::new(name).unwrap();
        let full = event()
            .with_topic(topic("other"))
            .unwrap()
            .with_id(EventId::new("own").unwrap())
            .with_type(EventType::new("paid").unwrap())
            .with_retry(Retry::from_millis(3000))
            .with_data("a\r\n b\n")
            .with_private(true);
        for event in [event(), event().with_data(""), full] {
            let wire_id = event.id().map_or("e-1", |id| id.as_str()).to_owned();
            let frame = Frame::encode(1, &wire_id, event.clone(), Duration::ZERO);
            let again = frame.to_event();
            assert!(frame.has_identity_of(&again) || event.id().is_none());
            assert_eq!((again.topics(), again.id()), (event.topics(), event.id()));
            assert_eq!(again.is_private(), event.is_private());
            let second = Frame::encode(1, &wire_id, again, Duration::ZERO);
            assert_eq!(second.wire(WireFormat::Chunked), frame.wire(WireFormat::Chunked));
        }
    }

    #[test]
    fn data_that_looks_like_fields_is_data() {
        for data in ["", "\n", "event: x", "retry: 1\nid: 2", "id: 2\n\n", " event: x", "data: y", ":"] {
            let frame = frame(event().with_data(data));
            assert_eq!(frame.data().as_deref(), Some(data), "{data:?}");
            assert_eq!((frame.event_type(), frame.retry_wait()), (None, None), "{data:?}");
        }
    }

    #[test]
    fn one_line_of_data_is_not_copied() {
        let one = frame(event().with_data("x".repeat(1000)));
        assert!(matches!(one.data(), Some(Cow::Borrowed(_))));
        let two = frame(event().with_data("x\ny"));
        assert!(matches!(two.data(), Some(Cow::Owned(_))));
    }
}
