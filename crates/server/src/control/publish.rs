//! `POST /events`: bodies are collected and their events published; what they say is [`body`]'s.
//!
//! JSON and forms are taken whole or not at all. NDJSON is a stream: what came before a bad line
//! stands, and the answer says so.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fanfare::{Event, Hub, PublishError, Published};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use super::Control;
use super::body::{self, JsonEvents, Lines};
use super::limits::{BODY_TIME, LINE_EXTRA, PART_BYTES, PART_EVENTS, ROOM_TIME};
use super::problem::Problem;

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
    let body = collect(body, control.limits.body_bytes).await?;
    if !body::is_array(&body) {
        let mut events = vec![body::json_event(&body)?];
        let published = publish_waiting(&control.hub, &mut events, &mut Sum::default()).await?;
        return Ok(Json(json!({ "id": published.first })).into_response());
    }
    check_array(control, &body).await?;
    let (mut part, mut sum) = (Part::default(), Sum::default());
    for event in JsonEvents::new(&body) {
        let event = event?;
        let bytes = memory_of(&event);
        part.events.push(event);
        if part.has_read(bytes) {
            part.publish(control, &mut sum).await?;
        }
    }
    part.publish(control, &mut sum).await?;
    Ok(sum.into_response())
}

/// Reads every event once before the first one is published, and forgets it again: an array is published
/// whole or not at all, also where the hub takes only a part at a time. To keep all events would take many
/// times the body's memory.
async fn check_array(control: &Control, body: &[u8]) -> Result<(), Problem> {
    let limit = control.limits.array_events;
    let mut part = Part::default();
    for (index, event) in JsonEvents::new(body).enumerate() {
        if index == limit {
            let long = format!("the array has more than {limit} events; NDJSON has no such bound");
            return Err(Problem::new(413, long));
        }
        let event = event?;
        let bytes = memory_of(&event);
        if let Err(error) = control.hub.check(&[event]) {
            return Err(refused(&error).at(&format!("event {}", index + 1)).member("index", index));
        }
        if part.has_read(bytes) {
            part = Part::default();
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// What one turn does: so much of a body is read, and its events are published together. Then others have
/// their turns.
#[derive(Default)]
struct Part {
    events: Vec<Event>,
    pieces: usize,
    bytes: usize,
}

impl Part {
    /// Notes that an event or a blank line of so many bytes was read, and says whether that ends the turn.
    fn has_read(&mut self, bytes: usize) -> bool {
        self.pieces += 1;
        self.bytes += bytes;
        self.pieces >= PART_EVENTS || self.bytes >= PART_BYTES
    }

    /// Publishes the events, if there are any, and ends the turn.
    async fn publish(&mut self, control: &Control, sum: &mut Sum) -> Result<(), Problem> {
        let mut part = std::mem::take(self);
        if !part.events.is_empty() {
            let published = publish_waiting(&control.hub, &mut part.events, sum).await;
            sum.add(published.map_err(|problem| sum.describe(problem))?);
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

async fn publish_form(control: &Control, body: Body) -> Result<Response, Problem> {
    let body = collect(body, control.limits.body_bytes).await?;
    let mut events = vec![body::form_event(&body)?];
    let published = publish_waiting(&control.hub, &mut events, &mut Sum::default()).await?;
    Ok(Json(json!({ "id": published.first })).into_response())
}

async fn publish_lines(control: &Control, mut body: Body) -> Result<Response, Problem> {
    let line_limit = control.hub.limits().event_bytes + LINE_EXTRA;
    let mut lines = Lines::default();
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
        let mut part = Part::default();
        let mut failure = None;
        while let Some(line) = lines.next(ended) {
            let mut bytes = line.len();
            if !line.trim_ascii().is_empty() {
                let event = body::json_event(&line).map_err(Problem::from).and_then(|event| {
                    control.hub.check(std::slice::from_ref(&event)).map_err(|error| refused(&error))?;
                    Ok(event)
                });
                match event {
                    Ok(event) => {
                        bytes = memory_of(&event);
                        part.events.push(event);
                    }
                    Err(problem) => {
                        let number = lines.number;
                        failure = Some(problem.at(&format!("line {number}")).member("line", number));
                        break;
                    }
                }
            }
            if part.has_read(bytes) {
                publish_lines_up_to(control, &mut part, &mut sum, lines.number).await?;
            }
        }
        if failure.is_none() && lines.buffer.len() > line_limit {
            let number = lines.number + 1;
            let long = Problem::new(413, format!("line {number} is longer than {line_limit} bytes"));
            failure = Some(long.member("line", number));
        }
        publish_lines_up_to(control, &mut part, &mut sum, lines.number).await?;
        if let Some(problem) = failure {
            return Err(sum.describe(problem));
        }
        if ended {
            return Ok(sum.into_response());
        }
    }
}

async fn publish_lines_up_to(
    control: &Control,
    part: &mut Part,
    sum: &mut Sum,
    line: usize,
) -> Result<(), Problem> {
    let published = part.publish(control, sum).await;
    published.map_err(|problem| problem.at(&format!("up to line {line}")))
}

/// What an event takes in memory, in bytes: about what its parts do, and what the allocator adds to each.
fn memory_of(event: &Event) -> usize {
    /// The pointer to a topic, the counts of its owners, and what the allocator adds.
    const TOPIC: usize = 48;
    let topics: usize = event.topics().iter().map(|topic| TOPIC + topic.as_str().len()).sum();
    let data = event.data_text().map_or(0, str::len);
    let id = event.own_id().map_or(0, |id| id.as_str().len());
    size_of::<Event>() + topics + data + id
}

/// Publishes, and waits for room where the mailboxes are full. What was published before a refusal is added to `sum`.
async fn publish_waiting(hub: &Hub, events: &mut Vec<Event>, sum: &mut Sum) -> Result<Published, Problem> {
    let mut publishing = hub.publish_async(events);
    let (error, published) = match tokio::time::timeout(ROOM_TIME, &mut publishing).await {
        Ok(Ok(published)) => return Ok(published),
        Ok(Err(interrupted)) => (interrupted.error, interrupted.published),
        Err(_) => (PublishError::Busy, publishing.published().cloned()),
    };
    if let Some(published) = published {
        sum.add(published);
    }
    Err(refused(&error))
}

/// The status of a refusal by the hub, and the position of the event at fault.
fn fault_of(error: &PublishError) -> (u16, Option<usize>) {
    match error {
        PublishError::Busy | PublishError::Stopped => (503, None),
        PublishError::Empty => (400, None),
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
