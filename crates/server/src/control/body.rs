//! What the bodies of `POST /events` say: JSON, NDJSON and forms become events, without IO.
//!
//! The fuzzers take in this file by its path, so that they need not build an HTTP server; so it uses
//! nothing else of this crate.

use std::fmt;

use bytes::BytesMut;
use fanfare::{Event, EventId, EventType, InvalidEvent, Retry, Topic, form_fields};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What is wrong with a body.
#[derive(Debug)]
pub(super) struct Flaw {
    /// For a person.
    pub(super) detail: String,
    /// The field at fault.
    pub(super) field: Option<String>,
    /// The position in an array of the event at fault, from 0.
    pub(super) index: Option<usize>,
}

impl Flaw {
    fn new(detail: impl Into<String>) -> Flaw {
        Flaw { detail: detail.into(), field: None, index: None }
    }

    fn of_field(field: &str, detail: impl Into<String>) -> Flaw {
        Flaw { field: Some(field.to_owned()), ..Flaw::new(detail) }
    }
}

/// Whether a JSON body is an array of events rather than one.
pub(super) fn is_array(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The events of a JSON array.
pub(super) fn json_events(body: &[u8]) -> Result<Vec<Event>, Flaw> {
    let raw: Vec<&RawValue> = serde_json::from_slice(body).map_err(not_json)?;
    let event = |(index, value): (usize, &&RawValue)| {
        json_event(value.get().as_bytes()).map_err(|flaw| Flaw {
            detail: format!("event {}: {}", index + 1, flaw.detail),
            index: Some(index),
            ..flaw
        })
    };
    raw.iter().enumerate().map(event).collect()
}

/// The event of a JSON object.
pub(super) fn json_event(text: &[u8]) -> Result<Event, Flaw> {
    let text = std::str::from_utf8(text).map_err(|_| Flaw::new("the event is not UTF-8"))?;
    let event: JsonEvent<'_> = serde_json::from_str(text).map_err(not_json)?;
    if is_array(text.as_bytes()) {
        return Err(Flaw::new("not a JSON event: an array; an event is an object"));
    }
    let draft = Draft {
        topics: event.topic.0,
        data: event.data.map(data_text).transpose().map_err(not_json)?,
        id: event.id,
        kind: event.kind,
        retry: event.retry.map(|retry| retry.get().trim_matches('"').to_owned()),
        private: event.private,
    };
    draft.event()
}

/// The event of a form.
pub(super) fn form_event(body: &[u8]) -> Result<Event, Flaw> {
    let mut draft = Draft::default();
    for (name, value) in form_fields(body) {
        let name = String::from_utf8_lossy(&name);
        let value = String::from_utf8(value.into_owned())
            .map_err(|_| Flaw::of_field(&name, format!("{name} is not UTF-8")));
        match name.as_ref() {
            "topic" => draft.topics.push(value?),
            "data" => draft.data = Some(value?),
            "id" => draft.id = Some(value?).filter(|id| !id.is_empty()),
            "type" => draft.kind = Some(value?).filter(|kind| !kind.is_empty()),
            "retry" => draft.retry = Some(value?).filter(|retry| !retry.is_empty()),
            // Its presence counts, as in Mercure.
            "private" => draft.private = true,
            other => return Err(unknown_field(other)),
        }
    }
    draft.event()
}

/// The lines of a stream, as far as it has come.
#[derive(Default)]
pub(super) struct Lines {
    /// What has come and was not given out.
    pub(super) buffer: BytesMut,
    /// No line ends before here.
    scanned: usize,
    /// The number of the last line given out.
    pub(super) number: usize,
}

impl Lines {
    /// The next whole line; at the end of the stream also one without a line feed.
    pub(super) fn next(&mut self, ended: bool) -> Option<BytesMut> {
        match self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                self.number += 1;
                Some(line)
            }
            None if ended && !self.buffer.is_empty() => {
                self.scanned = 0;
                self.number += 1;
                Some(self.buffer.split())
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }
}

/// An event as it was written, not yet checked.
#[derive(Default)]
struct Draft {
    topics: Vec<String>,
    data: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    retry: Option<String>,
    private: bool,
}

impl Draft {
    fn event(self) -> Result<Event, Flaw> {
        let mut topics = self.topics.iter();
        let first = topics
            .next()
            .ok_or_else(|| Flaw::of_field("topic", "an event needs a topic, for example topic=news"))?;
        let mut event = Event::new(Topic::new(first).map_err(invalid)?);
        for topic in topics {
            event = event.also(Topic::new(topic).map_err(invalid)?).map_err(invalid)?;
        }
        if let Some(data) = self.data {
            event = event.data(data);
        }
        if let Some(id) = self.id {
            event = event.id(EventId::new(id).map_err(invalid)?);
        }
        if let Some(kind) = self.kind {
            event = event.kind(EventType::new(kind).map_err(invalid)?);
        }
        if let Some(retry) = self.retry {
            event = event.retry(Retry::parse(&retry).map_err(invalid)?);
        }
        Ok(event.private(self.private))
    }
}

fn invalid(error: InvalidEvent) -> Flaw {
    Flaw::of_field(error.field(), error.to_string())
}

fn unknown_field(name: &str) -> Flaw {
    let known = "topic, data, id, type, retry, private";
    Flaw::of_field(name, format!("unknown field {name:?}; an event has {known}"))
}

fn not_json(error: serde_json::Error) -> Flaw {
    Flaw::new(format!("not a JSON event: {error}"))
}

/// An event in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEvent<'json> {
    topic: OneOrMany,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'json RawValue>,
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    retry: Option<&'json RawValue>,
    #[serde(default)]
    private: bool,
}

/// A field that is there, even as `null`: data may be any JSON value.
fn present<'json, D: Deserializer<'json>>(deserializer: D) -> Result<Option<&'json RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A JSON string's text; any other value as compact JSON, its numbers as they were written.
fn data_text(value: &RawValue) -> Result<String, serde_json::Error> {
    let text = value.get();
    if text.starts_with('"') {
        return serde_json::from_str(text);
    }
    let mut compact = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in text.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        compact.push(character);
    }
    Ok(compact)
}

struct OneOrMany(Vec<String>);

impl<'json> Deserialize<'json> for OneOrMany {
    fn deserialize<D: Deserializer<'json>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        struct Topics;
        impl<'json> Visitor<'json> for Topics {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a topic or an array of topics")
            }

            fn visit_str<E: de::Error>(self, topic: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![topic.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'json>>(self, mut topics: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(topic) = topics.next_element()? {
                    all.push(topic);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(Topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> String {
        let event = json_event(json.as_bytes()).unwrap_or_else(|_| panic!("{json} is an event"));
        event.data_text().unwrap().to_owned()
    }

    #[test]
    fn json_data_is_a_string_or_any_value_compact() {
        assert_eq!(data(r#"{"topic":"a","data":"x\ny"}"#), "x\ny");
        assert_eq!(
            data(r#"{"topic":"a","data":{ "b" : [1, 2.50, "c \" d"] , "a": null}}"#),
            r#"{"b":[1,2.50,"c \" d"],"a":null}"#
        );
        assert_eq!(data(r#"{"topic":"a","data": 12345678901234567890123 }"#), "12345678901234567890123");
        assert_eq!(data(r#"{"topic":"a","data":null}"#), "null");
    }

    #[test]
    fn wrong_events_are_refused() {
        for json in [
            r#"{}"#,
            r#"{"topic":[]}"#,
            r#"{"topic":5}"#,
            r#"{"topic":"a","typo":1}"#,
            r#"{"topic":"a","retry":"soon"}"#,
            r#"{"topic":"a","retry":1.5}"#,
            r#"{"topic":"a","id":"x\ny"}"#,
            r#"{"topic":"a","id":"x\u0000"}"#,
            r#"{"topic":"a","type":"open"}"#,
            r#"{"topic":"a\nb"}"#,
            "[",
        ] {
            assert!(json_event(json.as_bytes()).is_err(), "{json}");
        }
        assert!(json_event(b"{\"topic\":\"\xff\"}").is_err());
    }

    /// Serde reads an array as a struct's fields in their order, and `deny_unknown_fields` says nothing to it: in a
    /// line of NDJSON, or inside an array, `["a", 1, null, null, null, true]` was published as an event on `a`.
    #[test]
    fn an_array_is_no_event() {
        assert!(json_event(br#"["a",1,null,null,null,true]"#).is_err());
        let flaw = json_events(br#"[{"topic":"a"},["a",1,null,null,null,true]]"#).unwrap_err();
        assert_eq!(flaw.index, Some(1));
    }

    #[test]
    fn lines_come_out_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["a\nb", "b", "\n\nc"] {
            lines.buffer.extend_from_slice(piece.as_bytes());
            while let Some(line) = lines.next(false) {
                seen.push(line);
            }
        }
        seen.extend(lines.next(true));
        assert_eq!(seen, ["a\n", "bb\n", "\n", "c"]);
        assert_eq!(lines.number, 4);
    }
}
