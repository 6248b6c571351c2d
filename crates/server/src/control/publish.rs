//! `POST /events`: bodies are collected and their events published; what they say is [`body`]'s.
//!
//! JSON and forms are taken whole or not at all. NDJSON is a stream: what came before a bad line
//! stands, and the answer says so.

use std::sync::Arc;
use std::time::Duration;

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
use super::body::{self, Lines};
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
    if !body::is_array(&body) {
        let mut events = vec![body::json_event(&body)?];
        let published = publish_one(control, &mut events).await?;
        return Ok(Json(json!({ "id": published.first })).into_response());
    }
    let mut events = body::json_events(&body)?;
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
    let mut events = vec![body::form_event(&body)?];
    let published = publish_one(control, &mut events).await?;
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
        let mut events = Vec::new();
        let mut failure = None;
        while let Some(line) = lines.next(ended) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let event = body::json_event(&line).map_err(Problem::from).and_then(|event| {
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

/// Publishes what the whole request is about: its answer goes first.
async fn publish_one(control: &Control, events: &mut Vec<Event>) -> Result<Published, Problem> {
    control.owed_wakes.answer_first(publish_waiting(&control.hub, events)).await
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
