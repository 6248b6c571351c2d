//! `POST /events`: bodies to events, and events to the hub.
//!
//! JSON and forms are taken whole or not at all. NDJSON is a stream: what came before a bad line
//! stands, and the answer says so.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use fanfare::{
    Event, EventId, EventType, Hub, InvalidEvent, PublishError, Published, Retry, Topic, form_fields,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use super::Control;
use super::problem::Problem;

/// Events of a stream or an array that are published together.
const BATCH: usize = 256;

/// How long a publish waits for room in the mailboxes before it is answered 503.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(1);

/// A JSON or form body must be complete within this time; a stream must not pause for longer.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What a line of NDJSON may hold besides its data: names, ids, and JSON's escapes.
const LINE_EXTRA: usize = 64 << 10;

pub(super) async fn publish(State(control): State<Arc<Control>>, headers: HeaderMap, body: Body) -> Response {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    if coded.into_iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        // RFC 9110, sections 8.4 and 12.5.3.
        return Problem::new(415, "send the body as it is, without a Content-Encoding")
            .header("Accept-Encoding", "identity")
            .into_response();
    }
    let answer = match essence.as_str() {
        "application/json" => publish_json(&control, body).await,
        "application/x-www-form-urlencoded" => publish_form(&control, body).await,
        "application/x-ndjson" | "application/jsonl" => publish_lines(&control, body).await,
        _ => Err(Problem::new(
            415,
            "publish with Content-Type application/json, application/x-ndjson or application/x-www-form-urlencoded",
        )
        .header("Accept-Post", "application/json, application/x-ndjson, application/x-www-form-urlencoded")),
    };
    answer.into_response()
}

async fn publish_json(control: &Control, body: Body) -> Result<Response, Problem> {
    let body = collect(body, control.max_body).await?;
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_array {
        let mut events = vec![parse_json(&body)?];
        let published = publish_waiting(&control.hub, &mut events).await?;
        return Ok(Json(json!({ "id": published.first })).into_response());
    }
    let raw: Vec<&RawValue> = serde_json::from_slice(&body).map_err(not_json)?;
    let mut events = Vec::with_capacity(raw.len());
    for (index, value) in raw.iter().enumerate() {
        let event = parse_json(value.get().as_bytes());
        events.push(
            event.map_err(|problem| problem.at(&format!("event {}", index + 1)).member("index", index))?,
        );
    }
    // All or nothing, also where the hub would take only a part at a time.
    if let Err(error) = control.hub.check(&events) {
        let index = fault_of(&error).1.unwrap_or_default();
        return Err(refused(&error).at(&format!("event {}", index + 1)).member("index", index));
    }
    let mut sum = Sum::default();
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(BATCH));
        let published = publish_waiting(&control.hub, &mut events).await;
        sum.add(published.map_err(|problem| sum.describe(problem))?);
        events = rest;
    }
    Ok(sum.into_response())
}

async fn publish_form(control: &Control, body: Body) -> Result<Response, Problem> {
    let body = collect(body, control.max_body).await?;
    let mut draft = Draft::default();
    for (name, value) in form_fields(&body) {
        let name = String::from_utf8_lossy(&name);
        let utf8 = || Problem::new(400, format!("{name} is not UTF-8")).member("field", name.as_ref());
        let value = String::from_utf8(value.into_owned()).map_err(|_| utf8());
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
    let mut events = vec![draft.event()?];
    let published = publish_waiting(&control.hub, &mut events).await?;
    Ok(Json(json!({ "id": published.first })).into_response())
}

async fn publish_lines(control: &Control, mut body: Body) -> Result<Response, Problem> {
    let line_limit = control.hub.limits().event_bytes + LINE_EXTRA;
    let mut lines = Lines { buffer: BytesMut::new(), scanned: 0, number: 0 };
    let mut sum = Sum::default();
    loop {
        let chunk = match tokio::time::timeout(BODY_TIME, body.frame()).await {
            Err(_) => Some(Err(Problem::new(408, "the body paused for too long"))),
            Ok(None) => None,
            Ok(Some(Err(_))) => Some(Err(Problem::new(400, "the body ended before its end"))),
            Ok(Some(Ok(frame))) => Some(Ok(frame.into_data().unwrap_or_default())),
        };
        let ended = chunk.is_none();
        match chunk {
            Some(Err(problem)) => return Err(sum.describe(problem)),
            Some(Ok(bytes)) => lines.buffer.extend_from_slice(&bytes),
            None => {}
        }
        let mut events = Vec::new();
        let mut failure = None;
        while let Some(line) = lines.next(ended) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let event = parse_json(&line).and_then(|event| {
                control.hub.check(std::slice::from_ref(&event)).map_err(|error| refused(&error))?;
                Ok(event)
            });
            match event {
                Ok(event) => events.push(event),
                Err(problem) => {
                    let number = lines.number;
                    failure = Some(problem.at(&format!("line {number}")).member("line", number));
                    break;
                }
            }
            if events.len() == BATCH {
                flush(control, &mut events, &mut sum, lines.number).await?;
            }
        }
        if failure.is_none() && lines.buffer.len() > line_limit {
            let number = lines.number + 1;
            let long = Problem::new(413, format!("line {number} is longer than {line_limit} bytes"));
            failure = Some(long.member("line", number));
        }
        if !events.is_empty() {
            flush(control, &mut events, &mut sum, lines.number).await?;
        }
        if let Some(problem) = failure {
            return Err(sum.describe(problem));
        }
        if ended {
            return Ok(sum.into_response());
        }
    }
}

async fn flush(
    control: &Control,
    events: &mut Vec<Event>,
    sum: &mut Sum,
    line: usize,
) -> Result<(), Problem> {
    let published = publish_waiting(&control.hub, events).await;
    let published = published.map_err(|problem| sum.describe(problem.at(&format!("up to line {line}"))))?;
    sum.add(published);
    Ok(())
}

/// Publishes, and waits for room where the mailboxes are full.
async fn publish_waiting(hub: &Hub, events: &mut Vec<Event>) -> Result<Published, Problem> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let error = match hub.publish_batch(events) {
            Ok(published) => return Ok(published),
            Err(error) => error,
        };
        if error == PublishError::Busy && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        return Err(refused(&error));
    }
}

/// The status of a refusal by the hub, and the position of the event at fault.
fn fault_of(error: &PublishError) -> (u16, Option<usize>) {
    match error {
        PublishError::Busy | PublishError::Stopped => (503, None),
        PublishError::TooLarge { index, .. } => (413, Some(*index)),
        PublishError::ReservedId { index } => (400, Some(*index)),
    }
}

fn refused(error: &PublishError) -> Problem {
    let (status, _) = fault_of(error);
    let problem = Problem::new(status, error.to_string());
    if status == 503 { problem.header("Retry-After", "1") } else { problem }
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let long =
        || Problem::new(413, format!("the body is longer than {limit} bytes; NDJSON has no such bound"));
    // What announces its length is refused before any of it is read.
    if body.size_hint().lower() > limit as u64 {
        return Err(long());
    }
    let whole = tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect()).await;
    match whole {
        Err(_) => Err(Problem::new(408, "the body was not complete in time")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(long()),
        Ok(Err(_)) => Err(Problem::new(400, "the body ended before its end")),
    }
}

/// The lines of a stream, as far as it has come.
struct Lines {
    buffer: BytesMut,
    /// No line ends before here.
    scanned: usize,
    /// The number of the last line given out.
    number: usize,
}

impl Lines {
    /// The next whole line; at the end of the stream also one without a line feed.
    fn next(&mut self, ended: bool) -> Option<BytesMut> {
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

/// What a batch or a stream has published so far.
#[derive(Default)]
struct Sum {
    count: usize,
    first: Option<String>,
    last: Option<String>,
}

impl Sum {
    fn add(&mut self, published: Published) {
        self.count += published.count;
        self.first.get_or_insert(published.first);
        self.last = Some(published.last);
    }

    /// What stands although the rest failed.
    fn describe(&self, problem: Problem) -> Problem {
        problem
            .member("published", self.count)
            .member("first", self.first.clone())
            .member("last", self.last.clone())
    }

    fn into_response(self) -> Response {
        Json(json!({ "published": self.count, "first": self.first, "last": self.last })).into_response()
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
    fn event(self) -> Result<Event, Problem> {
        let mut topics = self.topics.iter();
        let first = topics.next().ok_or_else(|| {
            Problem::new(400, "an event needs a topic, for example topic=news").member("field", "topic")
        })?;
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

fn invalid(error: InvalidEvent) -> Problem {
    Problem::new(400, error.to_string()).member("field", error.field())
}

fn unknown_field(name: &str) -> Problem {
    let known = "topic, data, id, type, retry, private";
    Problem::new(400, format!("unknown field {name:?}; an event has {known}")).member("field", name)
}

fn not_json(error: serde_json::Error) -> Problem {
    Problem::new(400, format!("not a JSON event: {error}"))
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

fn parse_json(text: &[u8]) -> Result<Event, Problem> {
    let text = std::str::from_utf8(text).map_err(|_| Problem::new(400, "the event is not UTF-8"))?;
    let event: JsonEvent<'_> = serde_json::from_str(text).map_err(not_json)?;
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
        let event = parse_json(json.as_bytes()).unwrap_or_else(|_| panic!("{json} is an event"));
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
            assert!(parse_json(json.as_bytes()).is_err(), "{json}");
        }
        assert!(parse_json(b"{\"topic\":\"\xff\"}").is_err());
    }

    #[test]
    fn lines_come_out_whole_whatever_the_pieces() {
        let mut lines = Lines { buffer: BytesMut::new(), scanned: 0, number: 0 };
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
