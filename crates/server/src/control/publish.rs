//! `POST /events`: bodies are collected and their events published. [`body`] parses them.
//!
//! JSON and forms are published whole or not at all. An array is checked first, and then published in parts
//! by a task of its own, which nothing ends but the end of the engine: it goes on where the client has left,
//! and waits for room for as long as that takes. [`lines`] has NDJSON, which is a stream.

mod lines;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::BytesMut;
use fanfare::{Event, Hub, ProblemKind, PublishError, Published};
use serde_json::json;
use tokio::time::Instant;

use super::Control;
use super::bodies::{BodyAccount, Receiving};
use super::body::{self, JsonEvents};
use super::limits::{BODY_TIME, PART_BYTES, PART_EVENTS, PART_TOPICS, ROOM_TIME};
use super::problem::Problem;
use super::publish_rates::{Allowance, Bill};
use crate::access::{Denial, Publisher};
use crate::presence;
use crate::request_client::RequestClient;
use lines::publish_lines;

pub(super) async fn publish(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    Extension(client): Extension<RequestClient>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    if coded.into_iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        // RFC 9110, sections 8.4 and 12.5.3.
        return Problem::new(
            ProblemKind::UnsupportedContentEncoding,
            "send the body as it is, without a Content-Encoding",
        )
        .header("Accept-Encoding", "identity")
        .into_response();
    }
    let form = match essence.as_str() {
        "application/json" => Form::Json,
        "application/x-www-form-urlencoded" => Form::Fields,
        "application/x-ndjson" | "application/jsonl" => Form::Lines,
        _ => {
            let types = "application/json, application/x-ndjson or application/x-www-form-urlencoded";
            let problem =
                Problem::new(ProblemKind::UnsupportedMediaType, format!("publish with Content-Type {types}"));
            return problem.header("Accept-Post", types.replace(" or ", ", ")).into_response();
        }
    };
    let rates = control.limits.get().publish_rates;
    let allowance = match rates.are_none() {
        true => None,
        false => {
            let ipv6_prefix_bits = control.hub.limits().clients.ipv6_prefix_bits;
            Some(control.publish_rates.of(rates, publisher.name(), &client, ipv6_prefix_bits))
        }
    };
    if let Some(Err(problem)) = allowance.as_ref().map(|allowance| allowance.begin(&control.notices)) {
        return problem.into_response();
    }
    let publisher = Publishing { publisher: &publisher, allowance };
    let answer = match control.bodies.receive(body, &client) {
        Err(problem) => Err(problem),
        Ok(body) => match form {
            Form::Json => publish_json(&control, &publisher, body).await,
            Form::Fields => publish_form(&control, &publisher, body).await,
            Form::Lines => publish_lines(&control, &publisher, body).await,
        },
    };
    answer.into_response()
}

/// The rights of a publish: its topics, and its rate.
struct Publishing<'request> {
    publisher: &'request Publisher,
    /// `None`: there is no bound.
    allowance: Option<Allowance<'request>>,
}

impl Publishing<'_> {
    fn may_publish(&self, control: &Control, event: &Event) -> Result<(), Problem> {
        if control.presence.is_some() && event.topics().iter().any(presence::is_reserved) {
            let detail = format!(
                "the server itself publishes to the topics whose names begin with {:?} (--presence)",
                presence::PREFIX
            );
            return Err(Problem::new(ProblemKind::ReservedTopic, detail));
        }
        self.publisher.may_publish(event).map_err(|denial| denied(control, denial))
    }

    /// Begins to note what is used of the publisher's rate.
    fn bill(&self) -> Bill<'_> {
        self.allowance.as_ref().map_or(Bill::none(), Allowance::bill)
    }

    /// Whether the token is still good, after a wait for the client.
    fn still_holds(&self, control: &Control) -> Result<(), Problem> {
        let now = &control.admission.rules.get().access;
        self.publisher.still_holds(now).map_err(|denial| denied(control, denial))
    }
}

/// How long an array waits that the hub refused without a position in the line.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How a body says what its events are.
enum Form {
    Json,
    Fields,
    Lines,
}

async fn publish_json(
    control: &Arc<Control>,
    publisher: &Publishing<'_>,
    body: Receiving,
) -> Result<Response, Problem> {
    let (text, account, mut bill) = collect(control, publisher, body).await?;
    if !body::is_array(&text) {
        let event = body::json_event(&text)?;
        return publish_one(control, publisher, &account, bill, event, text).await;
    }
    let Checked { part_bytes, events } = check_array(control, publisher, &account, &mut bill, &text).await?;
    bill.events = events;
    // All memory that the array will need: later there is no refusal any more.
    let reserved = account.set_memory(text.capacity().saturating_add(part_bytes));
    reserved.inspect_err(|_| bill.refuse())?;
    let publishing = tokio::spawn(publish_array(Arc::clone(control), account, text));
    let failed =
        |_| Err((Problem::new(ProblemKind::InternalError, "the server failed to publish the array"), events));
    publishing.await.unwrap_or_else(failed).map_err(|(problem, published)| {
        // Only the beginning was published. The bytes were of use where there is one.
        let refused = events.saturating_sub(published);
        bill.events = published;
        if published > 0 {
            bill.pay();
        }
        bill.events = refused;
        bill.refuse();
        problem
    })
}

/// Publishes an array that was checked. It keeps its account until it is done.
async fn publish_array(
    control: Arc<Control>,
    account: BodyAccount,
    text: BytesMut,
) -> Result<Response, (Problem, usize)> {
    let (mut part, mut sum) = (Part::default(), Sum::default());
    let mut published = async || {
        for event in JsonEvents::new(&text) {
            if part.add(event?) {
                part.publish_surely(&control, &mut sum).await?;
            }
        }
        part.publish_surely(&control, &mut sum).await
    };
    let result = published().await;
    drop(account);
    match result {
        Ok(()) => Ok(sum.into_response()),
        Err(problem) => Err((problem, sum.len())),
    }
}

async fn publish_form(
    control: &Control,
    publisher: &Publishing<'_>,
    body: Receiving,
) -> Result<Response, Problem> {
    let (text, account, bill) = collect(control, publisher, body).await?;
    publish_one(control, publisher, &account, bill, body::form_event(&text)?, text).await
}

async fn publish_one(
    control: &Control,
    publisher: &Publishing<'_>,
    account: &BodyAccount,
    mut bill: Bill<'_>,
    event: Event,
    text: BytesMut,
) -> Result<Response, Problem> {
    drop(text);
    publisher.may_publish(control, &event)?;
    bill.events = 1;
    account.set_memory(memory_of(&event)).inspect_err(|_| bill.refuse())?;
    let (mut events, mut sum) = (vec![event], Sum::default());
    let publishing = publish_waiting(&control.hub, &mut events, &mut sum);
    let published = control.owed_wakes.answer_first(publishing).await.map_err(|error| {
        bill.refuse();
        refused(&error)
    })?;
    Ok(match published.duplicates.first() {
        None => Json(json!({ "id": published.first })),
        Some(duplicate) => Json(json!({
            "id": published.first,
            "duplicate": true,
            "position": duplicate.first.to_string(),
        })),
    }
    .into_response())
}

/// Reads every event once before the first one is published, and forgets it again: an array is published
/// whole or not at all, although the hub takes only a part at a time. To keep all events would take many
/// times the body's memory.
///
/// An id that is given to two events is found here, too. Only what another publisher publishes under the same
/// id meanwhile is found when the array's turn comes; then what came before it stands.
async fn check_array(
    control: &Control,
    publisher: &Publishing<'_>,
    account: &BodyAccount,
    bill: &mut Bill<'_>,
    body: &BytesMut,
) -> Result<Checked, Problem> {
    let limit = control.limits.get().array_events;
    let (mut part, mut largest, mut events) = (Part::default(), 0, 0);
    let mut own_ids = OwnIds::default();
    let mut refused = |error: &PublishError, index: usize| {
        bill.events = index + 1;
        bill.refuse();
        refused(error).at(&format!("event {}", index + 1)).member("index", index)
    };
    for (index, event) in JsonEvents::new(body).enumerate() {
        if index == limit {
            let long = format!("the array has more than {limit} events; NDJSON has no such bound");
            return Err(Problem::new(ProblemKind::TooManyEvents, long));
        }
        let event = event?;
        if let Err(problem) = publisher.may_publish(control, &event) {
            return Err(problem.at(&format!("event {}", index + 1)).member("index", index));
        }
        if let Err(error) = control.hub.check(std::slice::from_ref(&event)) {
            return Err(refused(&error, index));
        }
        events += 1;
        if !own_ids.add(&event, &control.hub) {
            return Err(refused(&PublishError::IdConflict { index }, index));
        }
        let is_full = part.add(event);
        largest = largest.max(part.bytes);
        if is_full {
            part = Part::default();
            account.set_memory(body.capacity().saturating_add(own_ids.memory()))?;
            tokio::task::yield_now().await;
        }
    }
    Ok(Checked { part_bytes: largest, events })
}

/// The figures of an array that may be published.
struct Checked {
    /// The memory of its largest part.
    part_bytes: usize,
    events: usize,
}

/// The own ids of an array: a hash of each id and its topics, and a hash of the event. A bad event may hide
/// behind one of 2^64 hashes; then it is found when its turn comes.
#[derive(Default)]
struct OwnIds {
    events: HashMap<u64, u64>,
    hashes: RandomState,
}

impl OwnIds {
    /// Adds the id of an event. False: it was given to another event, in the array or before.
    fn add(&mut self, event: &Event, hub: &Hub) -> bool {
        let Some((identity, content)) = event.fingerprint(&self.hashes) else { return true };
        *self.events.entry(identity).or_insert(content) == content && !hub.has_other_event(event)
    }

    /// In bytes, at most.
    fn memory(&self) -> usize {
        self.events.capacity() * 2 * size_of::<(u64, u64)>()
    }
}

/// A part of a body: so much of it is read at once, and its events are published together. Then other
/// requests are served.
#[derive(Default)]
struct Part {
    events: Vec<Event>,
    /// The number of each event's line, where the body has lines.
    lines: Vec<usize>,
    /// Events and blank lines.
    pieces: usize,
    /// Topics of all events together.
    topics: usize,
    bytes: usize,
}

impl Part {
    /// Adds an event, and says whether the part ends with it.
    fn add(&mut self, event: Event) -> bool {
        let bytes = memory_of(&event);
        self.topics += event.topics().len();
        self.events.push(event);
        self.has_read(bytes)
    }

    /// Notes that an event or a blank line of so many bytes was read, and says whether the part ends with it.
    fn has_read(&mut self, bytes: usize) -> bool {
        self.pieces += 1;
        self.bytes += bytes;
        self.pieces >= PART_EVENTS || self.topics >= PART_TOPICS || self.bytes >= PART_BYTES
    }

    /// Publishes a part of an array, and lets others go on. The first part is refused where no room comes in
    /// time. A later one waits for as long as that takes: only the end of the engine ends it.
    async fn publish_surely(&mut self, control: &Control, sum: &mut Sum) -> Result<(), Problem> {
        let mut part = std::mem::take(self);
        control.owed_wakes.make();
        while !part.events.is_empty() {
            let mut publishing = control.hub.publish_async(&mut part.events);
            let result = match tokio::time::timeout(ROOM_TIME, &mut publishing).await {
                Ok(result) => result,
                // It cannot wait for the rest, or the log has them and does not say whether it keeps them.
                Err(_) if publishing.is_undecided() || sum.is_empty() && publishing.published().is_none() => {
                    Err(publishing.give_up())
                }
                Err(_) => (&mut publishing).await,
            };
            match result {
                Ok(published) => sum.add(published),
                Err(interrupted) => {
                    interrupted.published.into_iter().for_each(|published| sum.add(published));
                    // The hub could not start its thread, which it tries again.
                    let is_worth_another_try = !sum.is_empty() && interrupted.error == PublishError::Busy;
                    if !is_worth_another_try {
                        return Err(sum.describe(refused(&interrupted.error)));
                    }
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// The memory of an event, in bytes: about that of its parts, and what the allocator adds to each.
fn memory_of(event: &Event) -> usize {
    /// The pointer to a topic, the counts of its owners, and what the allocator adds.
    const TOPIC: usize = 48;
    let topics: usize = event.topics().iter().map(|topic| TOPIC + topic.as_str().len()).sum();
    let data = event.data().map_or(0, str::len);
    let id = event.id().map_or(0, |id| id.as_str().len());
    size_of::<Event>() + topics + data + id
}

/// Publishes, and waits for room where the mailboxes are full. Events that were published before a refusal
/// are added to `sum`.
async fn publish_waiting(
    hub: &Hub,
    events: &mut Vec<Event>,
    sum: &mut Sum,
) -> Result<Published, PublishError> {
    let mut publishing = hub.publish_async(events);
    let (error, published) = match tokio::time::timeout(ROOM_TIME, &mut publishing).await {
        Ok(Ok(published)) => return Ok(published),
        Ok(Err(interrupted)) => (interrupted.error, interrupted.published),
        Err(_) => {
            let interrupted = publishing.give_up();
            (interrupted.error, interrupted.published)
        }
    };
    if let Some(published) = published {
        sum.add(published);
    }
    Err(error)
}

/// Notes that a token does not allow something.
fn denied(control: &Control, denial: Denial) -> Problem {
    control.notices.add_denial(denial.reason, None);
    Problem::from(denial)
}

fn refused(error: &PublishError) -> Problem {
    let problem = Problem::new(error.problem(), error.to_string());
    // Events that are accepted and not visible yet would be published twice.
    match error {
        PublishError::NotStored(_) => problem.header("Retry-After", "10"),
        PublishError::Stopped => problem.header("Retry-After", "1"),
        error if error.is_retryable() => problem.header("Retry-After", "1"),
        _ => problem,
    }
}

/// Receives a whole body, and notes what it has used of the publisher's rate. Its token is good then, too.
async fn collect<'p>(
    control: &Control,
    publisher: &'p Publishing<'_>,
    mut body: Receiving,
) -> Result<(BytesMut, BodyAccount, Bill<'p>), Problem> {
    let limit = control.limits.get().body_bytes;
    let long = || {
        let detail = format!("the body is longer than {limit} bytes; NDJSON has no such bound");
        Problem::new(ProblemKind::BodyTooLarge, detail)
    };
    // A body that announces its length is refused before any of it is read.
    if body.announced_bytes() > limit as u64 {
        return Err(long());
    }
    let deadline = Instant::now() + BODY_TIME;
    let (mut text, mut bill) = (BytesMut::new(), publisher.bill());
    while let Some(bytes) = body.next(Some(deadline)).await {
        let bytes = bytes?;
        if text.len() + bytes.len() > limit {
            return Err(long());
        }
        // Bytes count although their events may not be published: they were read.
        bill.bytes += bytes.len();
        text.extend_from_slice(&bytes);
        body.account.set_memory(text.capacity()).inspect_err(|_| bill.refuse())?;
    }
    // A body may take half a minute.
    publisher.still_holds(control)?;
    Ok((text, body.account, bill))
}

/// The published part of a batch or a stream.
#[derive(Default)]
struct Sum {
    /// Events that were published.
    count: usize,
    /// Events that had been published before.
    duplicates: usize,
    first: Option<String>,
    last: Option<String>,
}

impl Sum {
    fn add(&mut self, published: Published) {
        self.count += published.count - published.duplicates.len();
        self.duplicates += published.duplicates.len();
        self.first.get_or_insert(published.first);
        self.last = Some(published.last);
    }

    /// Adds the published part to the refusal of the rest.
    fn describe(&self, problem: Problem) -> Problem {
        let problem = problem
            .member("published", self.count)
            .member("first", self.first.clone())
            .member("last", self.last.clone());
        if self.duplicates > 0 { problem.member("duplicates", self.duplicates) } else { problem }
    }

    fn into_response(self) -> Response {
        let mut answer = json!({ "published": self.count, "first": self.first, "last": self.last });
        if self.duplicates > 0 {
            answer["duplicates"] = self.duplicates.into();
        }
        Json(answer).into_response()
    }

    /// Events that were taken, those among them that had been published before.
    fn len(&self) -> usize {
        self.count + self.duplicates
    }

    /// Whether no event was taken.
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::TcpStream;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, mpsc};
    use std::task::{Context, Poll};

    use axum::body::{Bytes, HttpBody};
    use axum::http::{HeaderValue, StatusCode};
    use fanfare::{Decision, Engine, Limits, Rate, Refusal, Request};

    use super::super::publish_rates::PublishRateLimits;
    use super::super::test_support::add_subscriber;
    use super::super::{Bodies, ControlLimits, CurrentLimits, Notices, OwedWakes, PublishRates, Undecided};
    use super::*;
    use crate::admission::EventsAdmission;
    use crate::health::Health;
    use crate::rules::CurrentRules;
    use crate::verifications::Verifications;

    fn control(hub: Hub) -> Arc<Control> {
        let limits = Arc::new(CurrentLimits::new(ControlLimits::default()));
        let notices = Arc::new(Notices::default());
        let admission = EventsAdmission {
            rules: CurrentRules::default(),
            notices: Arc::clone(&notices),
            health: Arc::new(Health::new()),
            verifications: Verifications::start().expect("threads"),
        };
        Arc::new(Control {
            hub,
            admission,
            limits: Arc::clone(&limits),
            owed_wakes: OwedWakes::default(),
            inspections: Arc::default(),
            bodies: Arc::new(Bodies::new(limits, Arc::clone(&notices))),
            publish_rates: PublishRates::default(),
            undecided: Undecided::default(),
            endings: super::super::Endings::default(),
            notices,
            audit: super::super::Audit::default(),
            access_log: None,
            cluster: None,
            presence: None,
        })
    }

    async fn publish_an_array(control: Arc<Control>, count: usize) -> StatusCode {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
        let event = json!({ "topic": "a", "data": "1" }).to_string();
        let array = format!("[{}]", vec![event; count].join(","));
        publish(
            State(control),
            Extension(Publisher::default()),
            Extension(RequestClient::default()),
            headers,
            Body::from(array),
        )
        .await
        .status()
    }

    /// A stream of lines of a publisher with a rate takes as long as the rate says, and is published whole.
    /// Beyond its burst a publisher that had used up its rate could only be refused in the middle.
    #[tokio::test(start_paused = true)]
    async fn lines_come_as_fast_as_the_rate_of_their_publisher_allows() {
        const LINES: u64 = 10 * PART_EVENTS as u64;
        let engine = Engine::builder().shards(1).start().unwrap();
        let control = control(engine.hub());
        let rate = Rate::new(100, 100);
        control.limits.replace(ControlLimits {
            publish_rates: PublishRateLimits { events: Some(rate), bytes: None },
            ..ControlLimits::default()
        });
        let client = RequestClient { counted: Some([192, 0, 2, 1].into()), is_operator: false };
        let publish_lines = |lines: u64| {
            let headers = HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-ndjson"),
            )]);
            let body = Body::from("{\"topic\":\"a\"}\n".repeat(lines as usize));
            let publisher = Extension(Publisher::default());
            publish(State(Arc::clone(&control)), publisher, Extension(client), headers, body)
        };
        let began_at = Instant::now();
        assert_eq!(publish_lines(LINES).await.status(), StatusCode::OK);
        assert_eq!(control.hub.head().seq, LINES);
        let least = Duration::from_secs((LINES - rate.burst()) / rate.per_second());
        let took = began_at.elapsed();
        assert!((least..least + Duration::from_secs(1)).contains(&took), "{took:?}");
        assert_eq!(control.bodies.in_progress().0, 0);
        // The next one begins when there is something left.
        assert_eq!(publish_lines(1).await.status(), StatusCode::TOO_MANY_REQUESTS);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(publish_lines(1).await.status(), StatusCode::OK);
    }

    /// Of an array of 10,000 events, whose client closed its connection after 160 ms, 1,536 were published. A
    /// client that had given up and tried again published these twice.
    #[tokio::test]
    async fn an_array_is_published_whole_although_its_client_leaves() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let control = control(engine.hub());
        let newest = || control.hub.head().seq;
        {
            let mut publishing = pin!(publish_an_array(Arc::clone(&control), 10_000));
            while newest() == 0 {
                let is_ready = poll_fn(|context| Poll::Ready(publishing.as_mut().poll(context).is_ready()));
                assert!(!is_ready.await, "it was published at once, so that no client could leave");
                tokio::task::yield_now().await;
            }
            assert!(newest() < 10_000);
        }
        while control.bodies.in_progress().0 > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(newest(), 10_000);
    }

    /// An array whose later part found no room for five seconds was answered 503, and its first part was
    /// published.
    #[tokio::test(start_paused = true)]
    async fn an_array_is_published_whole_although_room_is_scarce() {
        let (engine, go_on) = engine_that_stops();
        // Where the test fails, this goes before the engine, which waits for its shard.
        let go_on = go_on;
        let control = control(engine.hub());
        let _subscriber = add_subscriber(&control.hub);
        let _stopper = go_on.stop(&engine);
        let publishing = tokio::spawn(publish_an_array(Arc::clone(&control), 1000));
        tokio::time::sleep(60 * ROOM_TIME).await;
        assert_eq!(control.hub.head().seq, PART_EVENTS as u64, "the first part fits into the mailbox");
        assert!(!publishing.is_finished());
        // An array of which nothing is published yet may be refused.
        assert_eq!(publish_an_array(Arc::clone(&control), 1000).await, StatusCode::SERVICE_UNAVAILABLE);
        go_on.go_on.send(()).unwrap();
        assert_eq!(publishing.await.unwrap(), StatusCode::OK);
        assert_eq!(control.hub.head().seq, 1000);
        assert_eq!(control.bodies.in_progress().0, 0);
    }

    /// A publisher whose events found no room for five seconds, or were in conflict with others, lost its
    /// rate to them: the next good publish was answered 429. What it tries in vain has a bound nevertheless.
    #[tokio::test(start_paused = true)]
    async fn what_the_hub_refuses_is_not_taken_from_the_rate() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let control = control(engine.hub());
        let (events, bytes) = (Rate::new(1, 4), Rate::new(100, 1_000));
        control.limits.replace(ControlLimits {
            publish_rates: PublishRateLimits { events: Some(events), bytes: Some(bytes) },
            ..ControlLimits::default()
        });
        let client = RequestClient { counted: Some([192, 0, 2, 1].into()), is_operator: false };
        let publish = |content_type: &'static str, body: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            let (control, publisher) = (State(Arc::clone(&control)), Extension(Publisher::default()));
            let answer = publish(control, publisher, Extension(client), headers, Body::from(body));
            async { answer.await.status().as_u16() }
        };
        let (json, lines) = ("application/json", "application/x-ndjson");
        assert_eq!(publish(json, r#"{"topic":"a","id":"x","data":"1"}"#).await, 200);
        // Another event with the id of the first one: 409, in each form of body.
        for (content_type, body) in [
            (json, r#"{"topic":"a","id":"x","data":"2"}"#),
            (json, r#"[{"topic":"a","id":"x","data":"2"}]"#),
            (lines, r#"{"topic":"a","id":"x","data":"2"}"#),
        ] {
            assert_eq!(publish(content_type, body).await, 409);
        }
        // Three of the four events of the burst are left.
        for _ in 0..3 {
            assert_eq!(publish(json, r#"{"topic":"a","data":"1"}"#).await, 200);
        }
        assert_eq!(publish(json, r#"{"topic":"a","data":"1"}"#).await, 429);
        tokio::time::advance(Duration::from_secs(60)).await;
        // What is refused is bounded by the same rate.
        let mut conflicts = 0;
        while publish(json, r#"{"topic":"a","id":"x","data":"2"}"#).await == 409 {
            conflicts += 1;
        }
        assert_eq!(conflicts, events.burst());
        tokio::time::advance(Duration::from_secs(60)).await;
        // A body that is wrong has been read for nothing, and is paid.
        for _ in 0..2 {
            assert_eq!(publish(json, Box::leak(" ".repeat(600).into_boxed_str())).await, 400);
        }
        assert_eq!(publish(json, r#"{"topic":"a","data":"1"}"#).await, 429);
    }

    /// Stops the only shard of an engine.
    struct Stopper {
        go_on: mpsc::Sender<()>,
        stops: mpsc::Receiver<()>,
    }

    impl Stopper {
        /// The shard stands still from now on, until it is told to go on.
        fn stop(&self, engine: &Engine) -> TcpStream {
            let mut stopper = TcpStream::connect(engine.addresses()[0]).unwrap();
            stopper.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
            self.stops.recv().unwrap();
            stopper
        }
    }

    /// An engine with a mailbox for 300 events, whose shard is stopped by a request.
    fn engine_that_stops() -> (Engine, Stopper) {
        let (go_on, told) = mpsc::channel::<()>();
        let (stopped, stops) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let admission = move |_: &Request<'_>| {
            stopped.send(()).unwrap();
            let _ = told.lock().unwrap().recv();
            Decision::Refuse(Refusal::new(404, "it only stops the shard"))
        };
        let limits = Limits::default().with_mailbox_events(300);
        let builder = Engine::builder().shards(1).limits(limits);
        // SAFETY: the admission uses no descriptor.
        let builder = unsafe { builder.admission_on_shards(admission) };
        let engine = builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
        (engine, Stopper { go_on, stops })
    }

    /// Lines that come as fast as they are read, and how many were read.
    struct EndlessLines {
        left: usize,
        read: Arc<AtomicUsize>,
    }

    impl HttpBody for EndlessLines {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            self.read.fetch_add(1, Ordering::Relaxed);
            let line = Bytes::from_static(b"{\"topic\":\"a\",\"data\":\"1\"}\n");
            Poll::Ready(Some(Ok(hyper::body::Frame::data(line))))
        }
    }

    /// While the shard takes nothing, no more of a body of lines is read than fits into the mailbox. So the
    /// client's socket fills, and the client waits. When the shard goes on, the publisher is woken.
    #[tokio::test]
    async fn lines_are_read_no_faster_than_they_are_published() {
        const LINES: usize = 5000;
        let (engine, go_on) = engine_that_stops();
        let go_on = go_on;
        let control = control(engine.hub());
        let _subscriber = add_subscriber(&control.hub);
        let _stopper = go_on.stop(&engine);
        let read = Arc::new(AtomicUsize::new(0));
        let body = Body::new(EndlessLines { left: LINES, read: Arc::clone(&read) });
        let lines = HeaderValue::from_static("application/x-ndjson");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, lines)]);
        let publisher = Extension(Publisher::default());
        let client = Extension(RequestClient { counted: None, is_operator: false });
        let publishing = tokio::spawn(publish(State(Arc::clone(&control)), publisher, client, headers, body));
        // The shard is a real thread, so its time is real time. The publisher waits when nothing is read for
        // a while.
        let mut waits_at = 0;
        loop {
            tokio::time::sleep(ROOM_TIME / 10).await;
            let now_at = read.load(Ordering::Relaxed);
            if now_at == waits_at && now_at > 0 {
                break;
            }
            waits_at = now_at;
        }
        assert!((300..=300 + PART_EVENTS).contains(&waits_at), "{waits_at} lines were read");
        assert!(!publishing.is_finished());
        go_on.go_on.send(()).unwrap();
        assert_eq!(publishing.await.unwrap().status(), StatusCode::OK);
        assert_eq!((read.load(Ordering::Relaxed), control.hub.head().seq), (LINES, LINES as u64));
    }
}
