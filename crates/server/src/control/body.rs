//! What the bodies of `POST /events` say: JSON, NDJSON and forms become events, without IO.
//!
//! The fuzzers take in this file by its path, so that they need not build an HTTP server; so it uses
//! nothing else of this crate.

use std::fmt;

use bytes::BytesMut;
use fanfare::{Event, EventId, EventType, InvalidEvent, MAX_TOPICS_PER_EVENT, Retry, Topic, form_fields};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};
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
        Flaw { field: Some(shown(field).to_owned()), ..Flaw::new(detail) }
    }
}

/// Characters of a client's own text that an answer repeats.
pub(super) const SHOWN: usize = 100;

/// Bytes of an error of the JSON library that has no text of the client's in it, or little.
const LIBRARY_TEXT: usize = 400;

/// The beginning of a text of the client's. An answer that repeated the name of a field of 4 MiB, with
/// escapes, had 50 MB.
fn shown(text: &str) -> &str {
    text.char_indices().nth(SHOWN).map_or(text, |(end, _)| &text[..end])
}

/// Whether a JSON body is an array of events rather than one.
pub(super) fn is_array(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The events of a JSON array, one after the other: an array of any length needs no more memory than one
/// event.
pub(super) struct JsonEvents<'body> {
    /// What has not been read yet.
    rest: &'body [u8],
    /// Events that have been read.
    count: usize,
    /// The array has ended, or has a flaw.
    over: bool,
}

impl<'body> JsonEvents<'body> {
    /// The events of a body for which [`is_array`] holds.
    pub(super) fn new(body: &'body [u8]) -> JsonEvents<'body> {
        JsonEvents { rest: body, count: 0, over: false }
    }

    /// The text of the next event; `None` at the end of the array, behind which nothing may follow.
    fn next_text(&mut self) -> Result<Option<&'body [u8]>, Flaw> {
        let wrong = |detail: &str| Err(Flaw::new(format!("not a JSON event: {detail}")));
        // The array's bracket stands before its first event, as a comma does before each of the others.
        let separator = if self.count == 0 { b'[' } else { b',' };
        let at = skip_space(self.rest);
        let inside = at.strip_prefix(&[separator]).map(skip_space);
        let end = if self.count == 0 { inside } else { Some(at) };
        if let Some(behind) = end.and_then(|end| end.strip_prefix(b"]")) {
            return if skip_space(behind).is_empty() { Ok(None) } else { wrong("trailing characters") };
        }
        let Some(inside) = inside else {
            return wrong("an array has commas between its events and ends with ]");
        };
        let mut values = serde_json::Deserializer::from_slice(inside).into_iter::<&RawValue>();
        let Some(value) = values.next() else { return wrong("the array has no end") };
        let text = value.map_err(not_json)?.get().as_bytes();
        self.rest = &inside[values.byte_offset()..];
        self.count += 1;
        Ok(Some(text))
    }
}

/// Without the white space of JSON at its beginning (RFC 8259, section 2).
fn skip_space(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    &text[space..]
}

impl Iterator for JsonEvents<'_> {
    type Item = Result<Event, Flaw>;

    /// The next event. Nothing follows a flaw.
    fn next(&mut self) -> Option<Result<Event, Flaw>> {
        if self.over {
            return None;
        }
        let event = match self.next_text() {
            Ok(None) => None,
            Ok(Some(text)) => Some(json_event(text)),
            Err(flaw) => {
                self.over = true;
                return Some(Err(flaw));
            }
        };
        self.over = !matches!(event, Some(Ok(_)));
        event.map(|event| {
            event.map_err(|flaw| Flaw {
                detail: format!("event {}: {}", self.count, flaw.detail),
                index: Some(self.count - 1),
                ..flaw
            })
        })
    }
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

/// Fields of a form: one for each topic, and five others. Of the others the last one counts, so a body of a
/// million empty fields would be an event, and would keep the control plane busy for 40 ms and more.
pub(super) const MAX_FORM_FIELDS: usize = MAX_TOPICS_PER_EVENT + 16;

/// The event of a form.
pub(super) fn form_event(body: &[u8]) -> Result<Event, Flaw> {
    let mut draft = Draft::default();
    for (count, (name, value)) in form_fields(body).enumerate() {
        if count == MAX_FORM_FIELDS {
            return Err(Flaw::new(format!("the form has more than {MAX_FORM_FIELDS} fields")));
        }
        let name = String::from_utf8_lossy(&name);
        let value = String::from_utf8(value.into_owned())
            .map_err(|_| Flaw::of_field(&name, format!("{} is not UTF-8", shown(&name))));
        match name.as_ref() {
            "topic" if draft.topics.len() > MAX_TOPICS_PER_EVENT => {
                return Err(invalid(InvalidEvent::TooManyTopics));
            }
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
        // Repeated names count here: each of them is compared with those before it.
        if self.topics.len() > MAX_TOPICS_PER_EVENT {
            return Err(invalid(InvalidEvent::TooManyTopics));
        }
        let mut topics = self.topics.iter();
        let first = topics
            .next()
            .ok_or_else(|| Flaw::of_field("topic", "an event needs a topic, for example topic=news"))?;
        let mut event = Event::new(Topic::new(first).map_err(invalid)?);
        for topic in topics {
            event = event.with_topic(Topic::new(topic).map_err(invalid)?).map_err(invalid)?;
        }
        if let Some(data) = self.data {
            event = event.with_data(data);
        }
        if let Some(id) = self.id {
            event = event.with_id(EventId::new(id).map_err(invalid)?);
        }
        if let Some(kind) = self.kind {
            event = event.with_type(EventType::new(kind).map_err(invalid)?);
        }
        if let Some(retry) = self.retry {
            event = event.with_retry(Retry::parse(&retry).map_err(invalid)?);
        }
        Ok(event.with_private(self.private))
    }
}

fn invalid(error: InvalidEvent) -> Flaw {
    Flaw::of_field(error.field(), error.to_string())
}

fn unknown_field(name: &str) -> Flaw {
    let known = "topic, data, id, type, retry, private";
    Flaw::of_field(name, format!("unknown field {:?}; an event has {known}", shown(name)))
}

fn not_json(error: serde_json::Error) -> Flaw {
    // The library repeats a name that it does not know.
    let error = error.to_string();
    if error.len() < LIBRARY_TEXT {
        return Flaw::new(format!("not a JSON event: {error}"));
    }
    let position = error.rfind(" at line ").map_or("", |at| &error[at..]);
    Flaw::new(format!("not a JSON event: {}...{position}", shown(&error)))
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
    #[serde(default, deserialize_with = "boolean")]
    private: bool,
}

/// True or false. The library's own error repeats any other value, with escapes: 29 MB for a text of 4 MiB.
fn boolean<'json, D: Deserializer<'json>>(deserializer: D) -> Result<bool, D::Error> {
    match <&RawValue>::deserialize(deserializer)?.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(de::Error::custom("private is a boolean, true or false")),
    }
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
                // One more than an event may name is enough to refuse it: a body of a million names needs no
                // memory for them.
                let mut all: Vec<String> = Vec::new();
                while all.len() <= MAX_TOPICS_PER_EVENT {
                    match topics.next_element()? {
                        Some(topic) => all.push(topic),
                        None => return Ok(OneOrMany(all)),
                    }
                }
                while topics.next_element::<IgnoredAny>()?.is_some() {}
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
        event.data().unwrap().to_owned()
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

    /// Serde reads an array as a struct's fields in their order, and `deny_unknown_fields` says nothing to
    /// it: in a line of NDJSON, or inside an array, `["a", 1, null, null, null, true]` was published as an
    /// event on `a`.
    #[test]
    fn an_array_is_no_event() {
        assert!(json_event(br#"["a",1,null,null,null,true]"#).is_err());
        let events = JsonEvents::new(br#"[{"topic":"a"},["a",1,null,null,null,true]]"#);
        let flaw = events.collect::<Result<Vec<_>, _>>().unwrap_err();
        assert_eq!(flaw.index, Some(1));
    }

    #[test]
    fn an_array_is_read_event_by_event_and_strictly() {
        let events = |text: &str| JsonEvents::new(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        for (text, count) in [
            ("[]", 0),
            (" [ \n] ", 0),
            (r#"[{"topic":"a"}]"#, 1),
            (" [ {\"topic\":\"a,]\"} ,\t{\"topic\":[\"b\",\"c\"]}\r\n] ", 2),
        ] {
            assert_eq!(events(text).unwrap().len(), count, "{text}");
        }
        let event = r#"{"topic":"a"}"#;
        for text in [
            "[".to_owned(),
            "[,]".to_owned(),
            "[]]".to_owned(),
            "[] x".to_owned(),
            "[5]".to_owned(),
            "[nonsense]".to_owned(),
            format!("[,{event}]"),
            format!("[{event}"),
            format!("[{event},"),
            format!("[{event},]"),
            format!("[{event},,{event}]"),
            format!("[{event} {event}]"),
            format!("[{event}[{event}]"),
            format!("[{event}]]"),
            format!("[{event}]{event}"),
            format!("[{event}}}"),
            format!("[[{event}]]"),
        ] {
            let mut events = JsonEvents::new(text.as_bytes());
            assert!(events.any(|event| event.is_err()), "{text}");
            assert!(events.next().is_none(), "{text}: nothing follows a flaw");
        }
    }

    /// Names that were listed took memory before they were refused: a body of four MiB made a million of
    /// them.
    #[test]
    fn of_too_many_topics_few_are_kept() {
        let names = |count: usize| vec![r#""a""#; count].join(",");
        let listed =
            |count: usize| serde_json::from_str::<OneOrMany>(&format!("[{}]", names(count))).unwrap().0;
        assert_eq!(listed(1_000_000).len(), MAX_TOPICS_PER_EVENT + 1);
        let event = |count: usize| json_event(format!(r#"{{"topic":[{}]}}"#, names(count)).as_bytes());
        assert_eq!(event(MAX_TOPICS_PER_EVENT).unwrap().topics().len(), 1);
        assert_eq!(event(MAX_TOPICS_PER_EVENT + 1).unwrap_err().field.as_deref(), Some("topic"));
        let form = |count: usize| form_event("topic=a&".repeat(count).as_bytes());
        assert_eq!(form(MAX_TOPICS_PER_EVENT).unwrap().topics().len(), 1);
        assert_eq!(form(MAX_TOPICS_PER_EVENT + 1).unwrap_err().field.as_deref(), Some("topic"));
    }

    /// The answer to a form of 4 MiB repeated the name of its field twice, with escapes: 50 MB, of which 20
    /// that were not read took 364 MiB, and other publishers lost their answers.
    #[test]
    fn a_flaw_repeats_little_of_what_it_is_about() {
        let long = "\u{7f}".repeat(1 << 20);
        let json = |event: String| json_event(event.as_bytes()).unwrap_err();
        for flaw in [
            form_event(format!("topic=a&{}=1", "%01".repeat(1 << 20)).as_bytes()).unwrap_err(),
            form_event(format!("topic=a&{long}=%ff").as_bytes()).unwrap_err(),
            json(format!(r#"{{"topic":"a","{long}":1}}"#)),
            json(format!(r#"{{"topic":"a","private":"{long}"}}"#)),
            json(format!(r#"{{"topic":"a","id":{{"{long}":1}}}}"#)),
            json(format!(r#"{{"topic":"{long}"}}"#)),
            json(format!(r#"{{"topic":"a","retry":"{long}"}}"#)),
            json(format!(r#""{long}""#)),
        ] {
            let field = flaw.field.as_deref().unwrap_or_default();
            assert!(
                flaw.detail.len() + field.len() < 1500,
                "{} bytes: {:.200}",
                flaw.detail.len(),
                flaw.detail
            );
        }
        let unknown = json(r#"{"topic":"a","tpyo":1}"#.to_owned());
        assert!(
            unknown.detail.contains("`tpyo`") && unknown.detail.ends_with("at line 1 column 19"),
            "{}",
            unknown.detail
        );
        for (text, private) in [("true", true), ("false", false)] {
            let event = json_event(format!(r#"{{"topic":"a","private":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(event.is_private(), private);
        }
    }

    /// A form of 4 MiB with a million empty fields kept the control plane busy for 40 to 90 ms, and was an
    /// event. 14 of them at once held up health checks for two seconds.
    #[test]
    fn a_form_has_a_bounded_number_of_fields() {
        let form = |fields: usize| form_event(format!("topic=a{}", "&id=".repeat(fields - 1)).as_bytes());
        assert!(form(MAX_FORM_FIELDS).is_ok());
        let refused = form(MAX_FORM_FIELDS + 1).unwrap_err();
        assert!(refused.detail.contains("fields"), "{}", refused.detail);
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
