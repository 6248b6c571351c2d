//! Events as messages of the stream, and back.
//!
//! The headers are in the documentation of the crate.

use std::str::FromStr;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::{Event, EventId, EventType, Retry, Topic};
use fanfare_store::Record;
use sha2::{Digest, Sha256};

use crate::topics::{Place, Subjects};

/// The topics of an event that has several, as a JSON array of strings.
pub const TOPICS_HEADER: &str = "Fanfare-Topics";
/// The publisher's own id, where `Nats-Msg-Id` cannot have it.
pub const ID_HEADER: &str = "Fanfare-Id";
/// The event type.
pub const TYPE_HEADER: &str = "Fanfare-Type";
/// The wait before a reconnection, in milliseconds.
pub const RETRY_HEADER: &str = "Fanfare-Retry";
/// `true`: the event is private.
pub const PRIVATE_HEADER: &str = "Fanfare-Private";
/// `true`: the event has no data, which is not the same as empty data.
pub const NO_DATA_HEADER: &str = "Fanfare-No-Data";

/// An id of a message with this beginning is no id of the publisher.
pub const RESERVED_ID_PREFIX: &str = "fanfare-";

/// An event as a message that is to be published.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// About what it takes on the connection, in bytes.
    pub(crate) bytes: usize,
}

/// A message of the stream, as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    /// In milliseconds since 1970.
    pub(crate) published_ms: u64,
    pub(crate) subject: String,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
}

/// How an event is known to the stream's duplicate window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageId<'id> {
    /// By the publisher's own id, where it can be.
    Own,
    /// By the own id and the topics: another event has used the own id for other topics.
    Qualified,
    /// The event has no own id. This one is of this node, and never given twice.
    Generated(&'id str),
}

impl Outgoing {
    pub(crate) fn of(event: &Event, id: MessageId<'_>, subjects: &Subjects) -> Outgoing {
        let mut headers = HeaderMap::new();
        match (event.id(), id) {
            (Some(own), MessageId::Own) if is_plain(own) => headers.insert(NATS_MESSAGE_ID, own.as_str()),
            (Some(own), _) => {
                headers.insert(NATS_MESSAGE_ID, qualified_id(own, event.topics()));
                headers.insert(ID_HEADER, encode_text(own.as_str()));
            }
            (None, MessageId::Generated(id)) => headers.insert(NATS_MESSAGE_ID, id),
            (None, _) => {}
        }
        if let [_, _, ..] = event.topics() {
            let names: Vec<&str> = event.topics().iter().map(Topic::as_str).collect();
            headers.insert(TOPICS_HEADER, serde_json::json!(names).to_string());
        }
        if let Some(kind) = event.event_type() {
            headers.insert(TYPE_HEADER, encode_text(kind.as_str()));
        }
        if let Some(retry) = event.retry() {
            headers.insert(RETRY_HEADER, retry.millis().to_string());
        }
        if event.is_private() {
            headers.insert(PRIVATE_HEADER, "true");
        }
        if event.data().is_none() {
            headers.insert(NO_DATA_HEADER, "true");
        }
        let payload = Bytes::copy_from_slice(event.data().unwrap_or_default().as_bytes());
        let subject = subjects.of_topics(event.topics());
        let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        let lines: usize =
            lines.map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4).sum();
        let bytes = "NATS/1.0\r\n\r\n".len() + lines + payload.len();
        Outgoing { subject, headers, payload, bytes }
    }
}

impl Stored {
    /// The event. `None`: the message is none.
    pub(crate) fn to_record(&self, subjects: &Subjects) -> Option<Record> {
        let Stored { number, published_ms, .. } = *self;
        Some(Record { number, published_ms, event: self.to_event(subjects)? })
    }

    fn to_event(&self, subjects: &Subjects) -> Option<Event> {
        let mut event = match subjects.place(&self.subject)? {
            Place::Topic(topic) => Event::new(topic),
            Place::Multi => {
                let names: Vec<String> = serde_json::from_str(self.header(TOPICS_HEADER)??).ok()?;
                let mut topics = names.iter().map(Topic::new);
                let mut event = Event::new(topics.next()?.ok()?);
                for topic in topics {
                    event = event.with_topic(topic.ok()?).ok()?;
                }
                event
            }
        };
        if let Some(id) = self.own_id()? {
            event = event.with_id(id);
        }
        if let Some(kind) = self.header(TYPE_HEADER)? {
            event = event.with_type(EventType::new(decode_text(kind)?).ok()?);
        }
        if let Some(retry) = self.header(RETRY_HEADER)? {
            event = event.with_retry(Retry::parse(retry).ok()?);
        }
        if self.flag(NO_DATA_HEADER)? {
            if !self.payload.is_empty() {
                return None;
            }
        } else {
            event = event.with_data(std::str::from_utf8(&self.payload).ok()?);
        }
        Some(event.with_private(self.flag(PRIVATE_HEADER)?))
    }

    /// The publisher's own id, which is in the headers. The outer `None`: the message is no event.
    pub(crate) fn own_id(&self) -> Option<Option<EventId>> {
        if let Some(id) = self.header(ID_HEADER)? {
            return Some(Some(EventId::new(decode_text(id)?).ok()?));
        }
        let id = self.header(NATS_MESSAGE_ID)?.and_then(|id| EventId::new(id).ok());
        Some(id.filter(is_plain))
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.header(name)? {
            None | Some("false") => Some(false),
            Some("true") => Some(true),
            Some(_) => None,
        }
    }

    /// The value of a header. The outer `None`: it is there more than once.
    fn header(&self, name: impl async_nats::header::IntoHeaderName) -> Option<Option<&str>> {
        let Some(headers) = &self.headers else { return Some(None) };
        let mut values = headers.get_all(name);
        let value = values.next();
        values.next().is_none().then(|| value.map(HeaderValue::as_str))
    }
}

/// Whether the own id can be the id of a message, and is read back from there. One of the form
/// `<epoch>-<number>` is an id that Fanfare gives.
fn is_plain(id: &EventId) -> bool {
    let id = id.as_str();
    !id.starts_with(RESERVED_ID_PREFIX) && id.trim() == id && Cursor::parse(id).is_none()
}

/// The id of a message for an event whose own id is in use for other topics, or cannot be the id of a
/// message.
fn qualified_id(id: &EventId, topics: &[Topic]) -> String {
    let mut topics: Vec<&Topic> = topics.iter().collect();
    topics.sort_unstable();
    let mut hash = Sha256::new();
    for part in std::iter::once(id.as_str()).chain(topics.into_iter().map(Topic::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let digits: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{RESERVED_ID_PREFIX}id-{digits}")
}

/// A text as the value of a header: as it is, or as a JSON string where its ends would not come back.
fn encode_text(text: &str) -> String {
    let is_plain = !text.is_empty() && text.trim() == text && !text.starts_with('"');
    if is_plain { text.to_owned() } else { serde_json::json!(text).to_string() }
}

fn decode_text(value: &str) -> Option<String> {
    if value.starts_with('"') { serde_json::from_str(value).ok() } else { Some(value.to_owned()) }
}

/// Reads headers as the client library does. `None`: the library cannot read them, and gives up the
/// connection over them.
pub(crate) fn parse_headers(bytes: &[u8]) -> Option<HeaderMap> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines().peekable();
    let status = lines.next()?.strip_prefix("NATS/1.0")?.trim();
    let status = status.split_once(' ').map_or(status, |(status, _)| status.trim());
    if !status.is_empty() {
        async_nats::StatusCode::from_str(status).ok()?;
    }
    let mut headers = HeaderMap::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_str(name).ok()?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        headers.append(name, HeaderValue::from_str(value.trim_end()).ok()?);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subjects() -> Subjects {
        Subjects::new("fanfare")
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn stored(outgoing: Outgoing) -> Stored {
        // As they come back from the wire.
        let mut bytes = b"NATS/1.0\r\n".to_vec();
        for (name, values) in outgoing.headers.iter() {
            for value in values {
                bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
        }
        bytes.extend_from_slice(b"\r\n");
        assert_eq!(bytes.len() + outgoing.payload.len(), outgoing.bytes);
        Stored {
            number: 7,
            published_ms: 8,
            subject: outgoing.subject,
            headers: Some(parse_headers(&bytes).unwrap()),
            payload: outgoing.payload,
        }
    }

    fn foreign(subject: &str, headers: &[(&'static str, &str)], payload: &[u8]) -> Option<Event> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let payload = Bytes::copy_from_slice(payload);
        let headers = (!headers.is_empty()).then_some(map);
        let message = Stored { number: 1, published_ms: 2, subject: subject.to_owned(), headers, payload };
        message.to_record(&subjects()).map(|record| record.event)
    }

    fn bare(name: &str) -> Event {
        Event::new(topic(name)).with_data("")
    }

    #[test]
    fn messages_of_other_programs_are_events() {
        assert_eq!(foreign("fanfare.a.b", &[], b"hello"), Some(bare("a/b").with_data("hello")));
        let id = |id: &str| EventId::new(id).unwrap();
        assert_eq!(foreign("fanfare.a", &[("Nats-Msg-Id", "7")], b""), Some(bare("a").with_id(id("7"))));
        // An id that no event may bear is none of the publisher's.
        for ignored in ["earliest", "fanfare-1-2", "0123456ab-7", &"x".repeat(257)] {
            assert_eq!(foreign("fanfare.a", &[("Nats-Msg-Id", ignored)], b""), Some(bare("a")), "{ignored}");
        }
        let headers = [("Fanfare-Type", "paid"), ("Fanfare-Retry", "3000"), ("Fanfare-Private", "true")];
        let event = bare("a").with_type(EventType::new("paid").unwrap()).with_private(true);
        let event = event.with_retry(Retry::from_millis(3000)).with_data("x");
        assert_eq!(foreign("fanfare.a", &headers, b"x"), Some(event));
        let headers = [("Fanfare-Topics", "[\"a\",\"b/c\"]"), ("Other", "x")];
        assert_eq!(
            foreign("fanfare.$multi", &headers, b""),
            Some(bare("a").with_topic(topic("b/c")).unwrap())
        );
    }

    #[test]
    fn a_message_that_is_no_event_is_none() {
        for (subject, headers, payload) in [
            ("fanfare.", &[][..], &b""[..]),
            ("fanfare.%41", &[], b""),
            ("fanfare.a", &[], b"\xff"),
            ("fanfare.a", &[("Fanfare-Type", "open")], b""),
            ("fanfare.a", &[("Fanfare-Type", "a"), ("Fanfare-Type", "b")], b""),
            ("fanfare.a", &[("Fanfare-Retry", "3 s")], b""),
            ("fanfare.a", &[("Fanfare-Private", "yes")], b""),
            ("fanfare.a", &[("Fanfare-No-Data", "true")], b"x"),
            ("fanfare.a", &[("Fanfare-Id", "earliest")], b""),
            ("fanfare.a", &[("Fanfare-Id", "\"x")], b""),
            ("fanfare.$multi", &[], b""),
            ("fanfare.$multi", &[("Fanfare-Topics", "a,b")], b""),
            ("fanfare.$multi", &[("Fanfare-Topics", "[]")], b""),
            ("fanfare.$multi", &[("Fanfare-Topics", "[\"a\",\"\"]")], b""),
        ] {
            assert_eq!(foreign(subject, headers, payload), None, "{subject} {headers:?} {payload:?}");
        }
    }

    #[test]
    fn the_id_of_a_message_depends_on_the_set_of_topics() {
        let id = EventId::new("7").unwrap();
        let one = qualified_id(&id, &[topic("a"), topic("b")]);
        assert_eq!(one, qualified_id(&id, &[topic("b"), topic("a")]));
        assert_ne!(one, qualified_id(&id, &[topic("a")]));
        assert_ne!(one, qualified_id(&id, &[topic("ab")]));
        assert_ne!(one, qualified_id(&EventId::new("8").unwrap(), &[topic("a"), topic("b")]));
    }

    #[test]
    fn headers_that_the_library_cannot_read_are_none() {
        for bytes in [
            &b""[..],
            b"HTTP/1.1\r\n\r\n",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n\xc3\xa9: x\r\n\r\n",
            b"NATS/1.0 many\r\n\r\n",
        ] {
            assert!(parse_headers(bytes).is_none(), "{}", String::from_utf8_lossy(bytes));
        }
        let folded = parse_headers(b"NATS/1.0\r\nA:  b \r\n c\r\nA: d\r\n\r\n").unwrap();
        let values: Vec<&str> = folded.get_all("A").map(HeaderValue::as_str).collect();
        assert_eq!(values, ["b  c", "d"]);
    }

    proptest! {
        #[test]
        fn an_event_goes_there_and_back(
            names in proptest::collection::vec("[a-z/.$% é]{1,8}", 1..4),
            id in proptest::option::of("[ -~\u{a0}é]{1,20}|fanfare-x|0123456ab-7"),
            kind in proptest::option::of("[ -~\u{a0}é]{1,20}"),
            data in proptest::option::of(".{0,40}"),
            retry in proptest::option::of(100_u64..1000),
            is_private: bool,
            qualified: bool,
        ) {
            let mut event = Event::new(topic(&names[0])).with_private(is_private);
            for name in &names[1..] {
                event = event.with_topic(topic(name)).unwrap();
            }
            if let Some(id) = id.and_then(|id| EventId::new(id).ok()) {
                event = event.with_id(id);
            }
            if let Some(kind) = kind.and_then(|kind| EventType::new(kind).ok()) {
                event = event.with_type(kind);
            }
            if let Some(data) = data {
                event = event.with_data(data);
            }
            if let Some(retry) = retry {
                event = event.with_retry(Retry::from_millis(retry));
            }
            let id = match event.id() {
                None => MessageId::Generated("fanfare-n-1"),
                Some(_) if qualified => MessageId::Qualified,
                Some(_) => MessageId::Own,
            };
            let record = stored(Outgoing::of(&event, id, &subjects())).to_record(&subjects());
            prop_assert_eq!(record, Some(Record { number: 7, published_ms: 8, event }));
        }
    }
}
