//! `GET /topics` and `GET /topics/{topic}`: what the engine knows of topics, in pages of a bounded size.
//!
//! A question makes every shard work, so one is under way at a time. The others wait in a queue, which a
//! client leaves when its connection ends: its question is never asked then. Those about connections
//! ([`super::connection_list`]) take longer, and have a queue of their own.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fanfare::{Hub, InspectError, ProblemKind, Topic, TopicCounts, form_fields, reserve_of};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Control;
use super::limits::{
    INSPECTION_QUEUE, INSPECTION_TIME, INSPECTION_WAIT, TOPICS_PER_PAGE, TOPICS_PER_PAGE_DEFAULT,
};
use super::problem::Problem;
use crate::access::Publisher;
use crate::presence::History;
use crate::request_client::RequestClient;

/// The questions about topics, and those about connections.
#[derive(Default)]
pub(crate) struct Inspections {
    pub(super) topics: Questions,
    pub(super) connections: Questions,
}

/// The permit to ask questions of one kind, and the queue for it.
pub(crate) struct Questions {
    permit: Arc<Semaphore>,
    queue: Semaphore,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions { permit: Arc::new(Semaphore::new(1)), queue: Semaphore::new(INSPECTION_QUEUE) }
    }
}

impl Questions {
    /// Waits for the permit to ask. A client that leaves meanwhile has left the queue.
    async fn permit(&self, client: &RequestClient) -> Result<OwnedSemaphorePermit, Problem> {
        let may_wait = client.is_operator || self.queue.available_permits() > reserve_of(INSPECTION_QUEUE);
        let Some(_place) = self.queue.try_acquire().ok().filter(|_| may_wait) else {
            return Err(busy("too many questions wait; try again in a second"));
        };
        match tokio::time::timeout(INSPECTION_WAIT, Arc::clone(&self.permit).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(busy("other questions take too long; try again in a second")),
        }
    }
}

fn busy(detail: &str) -> Problem {
    Problem::new(ProblemKind::QuestionsBusy, detail).header("Retry-After", "1")
}

pub(super) async fn topics(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    Extension(client): Extension<RequestClient>,
    RawQuery(query): RawQuery,
) -> Response {
    match page(&control, &publisher, &client, query.as_deref().unwrap_or_default()).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// A page of those topics that the token covers. A name may itself be a secret, so the others are left out.
async fn page(
    control: &Arc<Control>,
    publisher: &Publisher,
    client: &RequestClient,
    query: &str,
) -> Result<Response, Problem> {
    let Query { after, limit } = Query::parse(query)?;
    let page = ask(&control.hub, &control.inspections.topics, client, move |hub, patience| {
        hub.topics_page(after, limit, patience)
    })
    .await?;
    let mut topics = page.topics;
    topics.retain(|counts| publisher.may_see(&counts.topic));
    topics.sort_unstable_by(|one, other| one.topic.cmp(&other.topic));
    let topics = topics.iter().map(Described::new).collect();
    let next = page.next.map(|next| format!("/topics?after={next}&limit={limit}"));
    let mut response = Json(DescribedPage { topics, next: next.as_deref() }).into_response();
    if let Some(link) = next.and_then(|next| format!("<{next}>; rel=\"next\"").parse().ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(super) async fn topic(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    Extension(client): Extension<RequestClient>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let Ok(Path(name)) = name else {
        return Problem::new(
            ProblemKind::InvalidTopic,
            "the topic in the path is not UTF-8 once its % escapes are decoded",
        )
        .into_response();
    };
    let topic = match Topic::new(&name) {
        Ok(topic) => topic,
        Err(error) => return Problem::new(ProblemKind::InvalidTopic, error.to_string()).into_response(),
    };
    if !publisher.may_see(topic.as_str()) {
        let detail = format!("the token does not cover the topic {name:?}");
        return Problem::new(ProblemKind::TopicNotCovered, detail).into_response();
    }
    let history = control.presence.as_ref().and_then(|presence| presence.history(&topic));
    let empty = history.is_some().then(|| topic.to_string());
    let questions = &control.inspections.topics;
    let asked = ask(&control.hub, questions, &client, move |hub, patience| hub.topic(&topic, patience));
    match asked.await {
        Ok(Some(counts)) => Json(Described { history, ..Described::new(&counts) }).into_response(),
        Ok(None) => match &empty {
            // All have left, and the history says when.
            Some(topic) => Json(Described { history, ..Described::empty(topic) }).into_response(),
            None => {
                let detail = format!("topic {name:?} has neither subscribers nor retained events");
                Problem::new(ProblemKind::UnknownTopic, detail).into_response()
            }
        },
        Err(problem) => problem.into_response(),
    }
}

/// Asks the engine when this question has the permit.
pub(super) async fn ask<T: Send + 'static>(
    hub: &Hub,
    questions: &Questions,
    client: &RequestClient,
    question: impl FnOnce(&Hub, Duration) -> Result<T, InspectError> + Send + 'static,
) -> Result<T, Problem> {
    let permit = questions.permit(client).await?;
    let hub = hub.clone();
    let asked = tokio::task::spawn_blocking(move || {
        // Also where the client leaves meanwhile: the next question waits for the end of this one.
        let _permit = permit;
        question(&hub, INSPECTION_TIME)
    });
    match asked.await {
        Ok(answer) => answer.map_err(|error| busy(&error.to_string())),
        Err(_) => Err(Problem::new(ProblemKind::InternalError, "the question has failed")),
    }
}

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    after: Option<u64>,
    limit: usize,
}

impl Query {
    fn parse(query: &str) -> Result<Query, Problem> {
        let wrong = |detail: String| Problem::new(ProblemKind::InvalidParameter, detail);
        let mut parsed = Query { after: None, limit: TOPICS_PER_PAGE_DEFAULT };
        for (name, value) in form_fields(query.as_bytes()) {
            let number = std::str::from_utf8(&value).ok().and_then(|value| value.parse::<u64>().ok());
            match name.as_ref() {
                b"after" => {
                    let unknown = || wrong("after is not what a page gave as its next".to_owned());
                    parsed.after = Some(number.ok_or_else(unknown)?);
                }
                b"limit" => {
                    let bound = 1..=TOPICS_PER_PAGE as u64;
                    let Some(limit) = number.filter(|number| bound.contains(number)) else {
                        return Err(wrong(format!("limit is not a number from 1 to {TOPICS_PER_PAGE}")));
                    };
                    parsed.limit = limit as usize;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// A topic as JSON.
#[derive(Serialize)]
struct Described<'counts> {
    topic: &'counts str,
    subscribers: usize,
    laggards: usize,
    retained: usize,
    oldest: Option<&'counts str>,
    newest: Option<&'counts str>,
    /// Only of a topic that is asked for alone, and where it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<History>,
}

impl<'counts> Described<'counts> {
    fn new(counts: &'counts TopicCounts) -> Described<'counts> {
        let span = counts.span.as_ref();
        let (oldest, newest) = span.map(|(oldest, newest)| (oldest.as_str(), newest.as_str())).unzip();
        Described {
            topic: &counts.topic,
            subscribers: counts.subscribers,
            laggards: counts.laggards,
            retained: counts.retained,
            oldest,
            newest,
            history: None,
        }
    }

    /// A topic with neither subscribers nor retained events.
    fn empty(topic: &'counts str) -> Described<'counts> {
        let (oldest, newest) = (None, None);
        Described { topic, subscribers: 0, laggards: 0, retained: 0, oldest, newest, history: None }
    }
}

/// A page as JSON.
#[derive(Serialize)]
struct DescribedPage<'page> {
    topics: Vec<Described<'page>>,
    /// Where the next page is.
    next: Option<&'page str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: RequestClient = RequestClient { counted: None, is_operator: true };

    /// A question whose client had left ran on for its time, and so did each of thousands behind it.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_has_left_the_queue() {
        let questions = Questions::default();
        let first = questions.permit(&OPERATOR).await;
        assert!(first.is_ok());
        let waiting: Vec<_> = (0..INSPECTION_QUEUE).map(|_| Box::pin(questions.permit(&OPERATOR))).collect();
        for mut permit in waiting {
            assert!(poll_once(&mut permit).await.is_none(), "it waits");
            // And is dropped here.
        }
        drop(first);
        assert!(questions.permit(&OPERATOR).await.is_ok());
        let _held = questions.permit(&OPERATOR).await;
        // A wait has an end.
        assert!(questions.permit(&OPERATOR).await.is_err());
    }

    /// The list of connections takes long where there are many.
    #[tokio::test(start_paused = true)]
    async fn questions_about_topics_do_not_wait_for_those_about_connections() {
        let inspections = Inspections::default();
        let _one = inspections.connections.permit(&OPERATOR).await;
        let mut waiting: Vec<_> =
            (0..INSPECTION_QUEUE).map(|_| Box::pin(inspections.connections.permit(&OPERATOR))).collect();
        for permit in &mut waiting {
            assert!(poll_once(permit).await.is_none(), "it waits");
        }
        assert!(inspections.connections.permit(&OPERATOR).await.is_err(), "there is no room for one more");
        let about_topics = poll_once(&mut Box::pin(inspections.topics.permit(&OPERATOR))).await;
        assert!(about_topics.is_some_and(|permit| permit.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_an_end() {
        let questions = Questions::default();
        let _first = questions.permit(&OPERATOR).await;
        let mut waiting: Vec<_> =
            (0..INSPECTION_QUEUE).map(|_| Box::pin(questions.permit(&OPERATOR))).collect();
        for permit in &mut waiting {
            assert!(poll_once(permit).await.is_none(), "it waits");
        }
        assert!(questions.permit(&OPERATOR).await.is_err(), "there is no room for one more");
        waiting.pop();
        assert!(poll_once(&mut Box::pin(questions.permit(&OPERATOR))).await.is_none(), "now there is");
    }

    /// Polls once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }

    #[test]
    fn a_page_is_asked_for_by_what_the_one_before_gave() {
        let parse = |query: &str| Query::parse(query).ok();
        let query = |after, limit| Some(Query { after, limit });
        assert_eq!(parse(""), query(None, TOPICS_PER_PAGE_DEFAULT));
        assert_eq!(parse("limit=1000&after=18446744073709551615&x=y"), query(Some(u64::MAX), 1000));
        for wrong in
            ["limit=0", "limit=1001", "limit=", "limit=-1", "after=", "after=a", "after=18446744073709551616"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
