//! `POST /events`: bodies are collected and their events published; what they say is [`body`]'s.
//!
//! JSON and forms are taken whole or not at all. NDJSON is a stream: what came before a bad line
//! stands, and the answer says so.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use fanfare::{Event, Hub, PublishError, Published};
use serde_json::json;
use tokio::time::Instant;

use super::Control;
use super::bodies::{Receiving, Share};
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
    let form = match essence.as_str() {
        "application/json" => Form::Json,
        "application/x-www-form-urlencoded" => Form::Fields,
        "application/x-ndjson" | "application/jsonl" => Form::Lines,
        _ => {
            let types = "application/json, application/x-ndjson or application/x-www-form-urlencoded";
            let problem = Problem::new(415, format!("publish with Content-Type {types}"));
            return problem.header("Accept-Post", types.replace(" or ", ", ")).into_response();
        }
    };
    let answer = match control.bodies.receive(body) {
        Err(problem) => Err(problem),
        Ok(body) => match form {
            Form::Json => publish_json(&control, body).await,
            Form::Fields => publish_form(&control, body).await,
            Form::Lines => publish_lines(&control, body).await,
        },
    };
    answer.into_response()
}

/// How a body says what its events are.
enum Form {
    Json,
    Fields,
    Lines,
}

async fn publish_json(control: &Control, body: Receiving) -> Result<Response, Problem> {
    let (text, share) = collect(body, control.limits.body_bytes).await?;
    if !body::is_array(&text) {
        return publish_one(control, &share, body::json_event(&text)?, text).await;
    }
    check_array(control, &text).await?;
    let (mut part, mut sum) = (Part::default(), Sum::default());
    for event in JsonEvents::new(&text) {
        let event = event?;
        let bytes = memory_of(&event);
        part.events.push(event);
        if part.has_read(bytes) {
            part.publish(control, &share, text.capacity(), &mut sum).await?;
        }
    }
    part.publish(control, &share, text.capacity(), &mut sum).await?;
    Ok(sum.into_response())
}

async fn publish_form(control: &Control, body: Receiving) -> Result<Response, Problem> {
    let (text, share) = collect(body, control.limits.body_bytes).await?;
    publish_one(control, &share, body::form_event(&text)?, text).await
}

async fn publish_one(
    control: &Control,
    share: &Share,
    event: Event,
    text: BytesMut,
) -> Result<Response, Problem> {
    drop(text);
    share.hold(memory_of(&event))?;
    let (mut events, mut sum) = (vec![event], Sum::default());
    let published =
        control.owed_wakes.answer_first(publish_waiting(&control.hub, &mut events, &mut sum)).await?;
    Ok(Json(json!({ "id": published.first })).into_response())
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

    /// Publishes the events, if there are any, and ends the turn. The publish holds `held` bytes besides.
    async fn publish(
        &mut self,
        control: &Control,
        share: &Share,
        held: usize,
        sum: &mut Sum,
    ) -> Result<(), Problem> {
        let mut part = std::mem::take(self);
        if !part.events.is_empty() {
            share.hold(held.saturating_add(part.bytes)).map_err(|problem| sum.describe(problem))?;
            let published = publish_waiting(&control.hub, &mut part.events, sum).await;
            sum.add(published.map_err(|problem| sum.describe(problem))?);
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

async fn publish_lines(control: &Control, mut body: Receiving) -> Result<Response, Problem> {
    let line_limit = control.hub.limits().event_bytes + LINE_EXTRA;
    let mut lines = Lines::default();
    let mut sum = Sum::default();
    loop {
        body.share.hold(lines.buffer.capacity()).map_err(|problem| sum.describe(problem))?;
        let bytes = body.next(None).await;
        let ended = bytes.is_none();
        match bytes {
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
                publish_lines_up_to(control, &body.share, &lines, &mut part, &mut sum).await?;
            }
        }
        if failure.is_none() && lines.buffer.len() > line_limit {
            let number = lines.number + 1;
            let long = Problem::new(413, format!("line {number} is longer than {line_limit} bytes"));
            failure = Some(long.member("line", number));
        }
        publish_lines_up_to(control, &body.share, &lines, &mut part, &mut sum).await?;
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
    share: &Share,
    lines: &Lines,
    part: &mut Part,
    sum: &mut Sum,
) -> Result<(), Problem> {
    let published = part.publish(control, share, lines.buffer.capacity(), sum).await;
    published.map_err(|problem| problem.at(&format!("up to line {}", lines.number)))
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
        PublishError::Busy | PublishError::WouldBlock | PublishError::Stopped => (503, None),
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

/// Receives a whole body.
async fn collect(mut body: Receiving, limit: usize) -> Result<(BytesMut, Share), Problem> {
    let long =
        || Problem::new(413, format!("the body is longer than {limit} bytes; NDJSON has no such bound"));
    // What announces its length is refused before any of it is read.
    if body.announced_bytes() > limit as u64 {
        return Err(long());
    }
    let deadline = Instant::now() + BODY_TIME;
    let mut text = BytesMut::new();
    while let Some(bytes) = body.next(Some(deadline)).await {
        let bytes = bytes?;
        if text.len() + bytes.len() > limit {
            return Err(long());
        }
        text.extend_from_slice(&bytes);
        body.share.hold(text.capacity())?;
    }
    Ok((text, body.share))
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
