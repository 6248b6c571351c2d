//! `DELETE /connections`: ends streams, and bars subjects and tokens.
//!
//! A task of its own carries a request out, because what has begun goes on although its client leaves. It
//! tries every name, and its answer says of which the streams could not be ended, and which could not be
//! barred.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fanfare::{ConnectionError, Hub, ProblemKind, Topic, form_fields};
use fanfare_access::{MAX_NAME_BYTES, Revocation, RevocationsFull, Revoked};
use tokio::sync::Semaphore;

use super::Control;
use super::problem::Problem;
use crate::access::{Access, Publisher};
use crate::clock::unix_time;
use crate::cluster::orders::ClusterOrders;

/// How long a revocation bars where the request names no end. Tokens that live longer are rare, and the list
/// of revocations has a bound of its own.
const BARRED: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often one request gives an order again because mailboxes are full, and the time before each. Every
/// order is tried once, however often others were given again before it.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The most requests that are carried out at a time. The next ones wait.
const MOST: usize = 64;

/// The requests that are carried out.
#[derive(Debug)]
pub(crate) struct Endings(Arc<Semaphore>);

impl Default for Endings {
    fn default() -> Endings {
        Endings(Arc::new(Semaphore::new(MOST)))
    }
}

/// What is to be ended, and what is to be barred.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    names: Vec<Named>,
    until_unix_s: Option<u64>,
}

/// Whose streams are to be ended. Subjects and tokens are to be barred, too.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Subject(String),
    Token(String),
    Topic(Topic),
}

/// As the parameter of the request.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Subject(subject) => write!(f, "subject={subject}"),
            Named::Token(id) => write!(f, "token={id}"),
            Named::Topic(topic) => write!(f, "topic={}", topic.as_str()),
        }
    }
}

impl Named {
    fn revoked(&self) -> Option<Revoked> {
        match self {
            Named::Subject(subject) => Some(Revoked::Subject(subject.as_str().into())),
            Named::Token(id) => Some(Revoked::TokenId(id.as_str().into())),
            Named::Topic(_) => None,
        }
    }

    fn order(&self, hub: &Hub) -> Result<(), ConnectionError> {
        match self {
            Named::Subject(subject) => hub.disconnect_subject(subject),
            Named::Token(id) => hub.disconnect_token(id),
            Named::Topic(topic) => hub.disconnect_topic(topic),
        }
    }
}

/// What did not come of a request. The rest did.
#[derive(Debug, Default)]
struct Faults {
    /// Names that are not barred, because the list is full.
    not_barred: Vec<(Named, RevocationsFull)>,
    /// What is barred is not in the file, so that a restart forgets it, and why.
    not_written: Option<String>,
    /// Other servers of the cluster do not know of it, and why.
    not_shared: Option<String>,
    /// Names of which some streams may go on.
    not_ended: Vec<(Named, ConnectionError)>,
}

pub(super) async fn end(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    RawQuery(query): RawQuery,
) -> Response {
    let ends = match parse(&publisher, query.as_deref().unwrap_or_default()) {
        Ok(ends) => ends,
        Err(problem) => return problem.into_response(),
    };
    let hub = control.hub.clone();
    let cluster = control.cluster.clone();
    answer(&control.endings, Arc::clone(publisher.access()), cluster, ends, move |name| name.order(&hub))
        .await
}

fn parse(publisher: &Publisher, query: &str) -> Result<Ends, Problem> {
    if !publisher.may_end_connections() {
        let detail = "only a token that may publish to every topic (\"*\") may end connections";
        return Err(Problem::new(ProblemKind::NeedsEveryTopic, detail));
    }
    Ends::parse(query)
}

/// Carries a request out in a task of its own: once it has begun, it ends, whatever its client does.
async fn answer(
    endings: &Endings,
    access: Arc<Access>,
    cluster: Option<Arc<ClusterOrders>>,
    ends: Ends,
    order: impl Fn(&Named) -> Result<(), ConnectionError> + Send + Sync + 'static,
) -> Response {
    // Nothing closes it.
    let place = Arc::clone(&endings.0).acquire_owned().await.ok();
    let task = tokio::spawn(async move {
        let _place = place;
        carry_out(access, cluster, ends, order).await
    });
    match task.await.map(Faults::into_problem) {
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Ok(Some(problem)) => problem.into_response(),
        Err(_) => Problem::new(ProblemKind::InternalError, "the server failed to carry the request out")
            .into_response(),
    }
}

async fn carry_out(
    access: Arc<Access>,
    cluster: Option<Arc<ClusterOrders>>,
    ends: Ends,
    order: impl Fn(&Named) -> Result<(), ConnectionError>,
) -> Faults {
    let Ends { names, until_unix_s } = ends;
    let until_unix_s = until_unix_s.unwrap_or_else(|| (unix_time() + BARRED).as_secs());
    let mut faults = Faults::default();
    // First the bar, then the end: a client that comes back at once is refused.
    let mut has_barred = false;
    for name in &names {
        match name.revoked().map(|revoked| access.revoke(revoked, until_unix_s)) {
            Some(Ok(())) => has_barred = true,
            Some(Err(full)) => faults.not_barred.push((name.clone(), full)),
            None => {}
        }
    }
    // They hold from here on, and are written while the streams end.
    let kept = (has_barred && access.keeps_revocations())
        .then(|| tokio::task::spawn_blocking(move || access.keep_revocations()));
    let shared = cluster.map(|cluster| {
        let names = names.clone();
        tokio::task::spawn_blocking(move || share(&cluster, &names, until_unix_s))
    });
    faults.not_ended = end_streams(&names, order).await;
    if let Some(shared) = shared {
        faults.not_shared = shared.await.unwrap_or_else(|error| Err(error.to_string())).err();
    }
    if let Some(kept) = kept {
        faults.not_written = kept.await.unwrap_or_else(|error| Err(error.to_string())).err();
    }
    let subjects: Vec<&str> = names
        .iter()
        .filter_map(|name| if let Named::Subject(subject) = name { Some(subject.as_str()) } else { None })
        .collect();
    let count = |is_it: fn(&Named) -> bool| names.iter().filter(|name| is_it(name)).count();
    tracing::info!(
        ?subjects,
        topics = count(|name| matches!(name, Named::Topic(_))),
        tokens = count(|name| matches!(name, Named::Token(_))),
        "connections are ended by request"
    );
    faults.log();
    faults
}

/// Has all of it hold on the other servers of the cluster, too.
fn share(cluster: &ClusterOrders, names: &[Named], until_unix_s: u64) -> Result<(), String> {
    let revoked_unix_s = unix_time().as_secs();
    for revoked in names.iter().filter_map(Named::revoked) {
        cluster.revoke(&Revocation { revoked, revoked_unix_s, until_unix_s })?;
    }
    let topics =
        names.iter().filter_map(|name| if let Named::Topic(topic) = name { Some(topic) } else { None });
    let topics: Vec<&Topic> = topics.collect();
    if topics.is_empty() { Ok(()) } else { cluster.end_topics(&topics) }
}

/// Gives the orders, and gives one again while a mailbox is full: given twice, it does no harm. Answers those
/// that could not be given, and why.
async fn end_streams(
    names: &[Named],
    order: impl Fn(&Named) -> Result<(), ConnectionError>,
) -> Vec<(Named, ConnectionError)> {
    let (mut tries, mut not_ended) = (TRIES, Vec::new());
    for name in names {
        loop {
            match order(name) {
                Ok(()) => break,
                Err(ConnectionError::Busy) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    not_ended.push((name.clone(), error));
                    break;
                }
            }
        }
    }
    not_ended
}

impl Faults {
    fn log(&self) {
        if let Some((_, error)) = self.not_barred.first() {
            let names = self.not_barred.len();
            tracing::error!(names, %error, "a revocation does not bar, because the list of revocations is full");
        }
        if let Some(error) = &self.not_written {
            tracing::error!(error, "a revocation holds, but a restart will forget it");
        }
        if let Some(error) = &self.not_shared {
            tracing::error!(
                error,
                "an order about connections holds here, and other servers do not know of it"
            );
        }
        if let Some((_, error)) = self.not_ended.first() {
            let names = self.not_ended.len();
            tracing::error!(names, %error, "streams that were to be ended may go on");
        }
    }

    /// One answer that says all of them. `None`: there are none.
    fn into_problem(self) -> Option<Problem> {
        let Faults { not_barred, not_written, not_shared, not_ended } = self;
        let kind = match (not_barred.is_empty(), &not_written, &not_shared, not_ended.is_empty()) {
            (false, ..) => ProblemKind::RevocationsFull,
            (true, Some(_), ..) => ProblemKind::RevocationNotWritten,
            (true, None, Some(_), _) => ProblemKind::OrderNotShared,
            (true, None, None, false) => ProblemKind::StreamsNotEnded,
            (true, None, None, true) => return None,
        };
        let mut details = Vec::new();
        if let Some((_, error)) = not_barred.first() {
            details.push(format!("not everything was barred (not_barred): {error}"));
        }
        if not_written.is_some() {
            details.push(
                "what was barred holds, but a restart of the server will forget it; its log says why"
                    .to_owned(),
            );
        }
        if let Some(error) = &not_shared {
            details.push(format!("other servers of the cluster do not know of it: {error}"));
        }
        let is_busy = not_ended.iter().any(|(_, error)| *error == ConnectionError::Busy);
        match not_ended.first() {
            None => details.push("the streams were ended".to_owned()),
            Some((_, error)) => {
                let error =
                    if is_busy { "the shards are busy; try again in a second" } else { &error.to_string() };
                details.push(format!("not all streams were ended (not_ended): {error}"));
            }
        }
        let texts = |names: Vec<String>| serde_json::Value::from(names);
        let mut problem = Problem::new(kind, details.join("; "))
            .member("not_barred", texts(not_barred.iter().map(|(name, _)| name.to_string()).collect()))
            .member("not_written", not_written.is_some())
            .member("not_shared", not_shared.is_some())
            .member("not_ended", texts(not_ended.iter().map(|(name, _)| name.to_string()).collect()));
        if is_busy {
            problem = problem.header("Retry-After", "1");
        }
        Some(problem)
    }
}

impl Ends {
    fn parse(query: &str) -> Result<Ends, Problem> {
        let wrong = |detail: String| Problem::new(ProblemKind::InvalidParameter, detail);
        let mut ends = Ends::default();
        for (name, value) in form_fields(query.as_bytes()) {
            let Ok(value) = std::str::from_utf8(&value) else {
                return Err(wrong("a parameter is not UTF-8 once its % escapes are decoded".to_owned()));
            };
            let name_of = |what: &str| match value.len() {
                1..=MAX_NAME_BYTES => Ok(value.to_owned()),
                _ => Err(wrong(format!("{what} has 1 to {MAX_NAME_BYTES} bytes"))),
            };
            match name.as_ref() {
                b"subject" => ends.names.push(Named::Subject(name_of("a subject")?)),
                b"token" => ends.names.push(Named::Token(name_of("the id of a token (jti)")?)),
                b"topic" => {
                    let topic = Topic::new(value).map_err(|error| wrong(error.to_string()))?;
                    ends.names.push(Named::Topic(topic));
                }
                b"until" if ends.until_unix_s.is_some() => {
                    return Err(wrong("until is given twice".to_owned()));
                }
                b"until" => {
                    let seconds = value.parse().map_err(|_| {
                        wrong(
                            "until is the time in seconds since 1970 at which the last token expires"
                                .to_owned(),
                        )
                    })?;
                    ends.until_unix_s = Some(seconds);
                }
                b"access_token" => {}
                // A misspelt name must not look as if something had been barred.
                _ => return Err(wrong("the parameters are subject, topic, token and until".to_owned())),
            }
        }
        if ends.names.is_empty() {
            return Err(wrong("name what is to be ended: subject=, topic= or token=".to_owned()));
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::task::Poll;

    use super::*;

    #[test]
    fn what_is_not_understood_ends_nothing() {
        for wrong in [
            "",
            "until=5",
            "subjects=ada",
            "subject=",
            "topic=",
            "token=",
            "subject=a&until=soon",
            "subject=a&until=1&until=2",
            "subject=%ff",
        ] {
            assert!(Ends::parse(wrong).is_err(), "{wrong}");
        }
        let ends = Ends::parse("subject=ada%20l&token=t1&topic=a&until=7").ok();
        let expected = Ends {
            names: vec![
                Named::Subject("ada l".to_owned()),
                Named::Token("t1".to_owned()),
                Named::Topic(Topic::new("a").unwrap()),
            ],
            until_unix_s: Some(7),
        };
        assert_eq!(ends, Some(expected));
    }

    fn subject(name: &str) -> Named {
        Named::Subject(name.to_owned())
    }

    fn ends(names: Vec<Named>) -> Ends {
        Ends { names, until_unix_s: None }
    }

    /// Takes no order about Ada for so many tries, and notes the others.
    fn busy_about_ada(tries: usize) -> (Orders, Arc<Mutex<Vec<Named>>>) {
        let (left, given) = (AtomicUsize::new(tries), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&given);
        let order = move |name: &Named| {
            let is_left = |left: usize| left.checked_sub(1);
            if *name == subject("ada") && left.fetch_update(SeqCst, SeqCst, is_left).is_ok() {
                return Err(ConnectionError::Busy);
            }
            noted.lock().unwrap().push(name.clone());
            Ok(())
        };
        (Box::new(order), given)
    }

    type Orders = Box<dyn Fn(&Named) -> Result<(), ConnectionError> + Send + Sync>;

    async fn json(response: Response) -> serde_json::Value {
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// The handler was a part of the connection, so a client that gave up left the subject barred and streams
    /// that went on.
    #[tokio::test(start_paused = true)]
    async fn what_has_begun_goes_on_although_its_client_leaves() {
        let (order, given) = busy_about_ada(TRIES / 2);
        let (endings, access) = (Endings::default(), Arc::new(Access::default()));
        {
            let ends = ends(vec![subject("ada"), subject("bob")]);
            let mut answering = pin!(answer(&endings, Arc::clone(&access), None, ends, order));
            let is_there = poll_fn(|context| Poll::Ready(answering.as_mut().poll(context).is_ready()));
            assert!(!is_there.await, "the client leaves before the answer");
        }
        let _all = endings.0.acquire_many(MOST as u32).await.unwrap();
        assert_eq!(*given.lock().unwrap(), [subject("ada"), subject("bob")]);
    }

    /// The first order that found no room was the last one: streams of further names were not ended.
    #[tokio::test(start_paused = true)]
    async fn every_name_is_tried_and_the_answer_says_which_streams_may_go_on() {
        let (order, given) = busy_about_ada(usize::MAX);
        let topic = Named::Topic(Topic::new("a").unwrap());
        let names = vec![subject("ada"), subject("bob"), Named::Token("t1".to_owned()), topic];
        let rest = names[1..].to_vec();
        let response =
            answer(&Endings::default(), Arc::new(Access::default()), None, ends(names), order).await;
        assert_eq!(*given.lock().unwrap(), rest);
        assert_eq!(
            (response.status().as_u16(), response.headers()["Retry-After"].as_bytes()),
            (503, &b"1"[..])
        );
        let problem = json(response).await;
        assert_eq!(problem["not_ended"], serde_json::json!(["subject=ada"]));
        assert_eq!(problem["not_barred"], serde_json::json!([]));
    }

    /// 500 and "the revocation holds" hid that the list was full and that streams went on.
    #[tokio::test]
    async fn one_answer_says_all_faults() {
        let full = RevocationsFull { most: 3 };
        let faults = || Faults {
            not_barred: vec![(subject("ada"), full)],
            not_written: Some("a secret path".to_owned()),
            not_shared: Some("NATS is away".to_owned()),
            not_ended: vec![(subject("bob"), ConnectionError::Stopped)],
        };
        let response = faults().into_problem().unwrap().into_response();
        assert_eq!((response.status().as_u16(), response.headers().get("Retry-After")), (507, None));
        let problem = json(response).await;
        let said = ["not_barred", "not_written", "not_ended"].map(|name| problem[name].clone());
        let all = [serde_json::json!(["subject=ada"]), true.into(), serde_json::json!(["subject=bob"])];
        assert_eq!(said, all);
        assert!(!problem["detail"].as_str().unwrap().contains("secret"), "{problem}");
        let status =
            |faults: Faults| faults.into_problem().map(|problem| problem.into_response().status().as_u16());
        assert_eq!(status(Faults { not_barred: vec![], ..faults() }), Some(500));
        assert_eq!(status(Faults { not_barred: vec![], not_written: None, ..faults() }), Some(503));
        assert_eq!(status(Faults::default()), None);
    }

    /// Where the list is full, the streams end, and the answer names who is not barred.
    #[tokio::test]
    async fn a_full_list_bars_nobody_and_ends_streams() {
        let access = Arc::new(Access::default());
        let mut number = 0;
        while access.revoke(Revoked::Subject(number.to_string().into()), u64::MAX).is_ok() {
            number += 1;
        }
        let (order, given) = busy_about_ada(0);
        let names = vec![subject("ada"), Named::Token("t1".to_owned())];
        let response = answer(&Endings::default(), access, None, ends(names.clone()), order).await;
        assert_eq!((response.status().as_u16(), &*given.lock().unwrap()), (507, &names));
        assert_eq!(json(response).await["not_barred"], serde_json::json!(["subject=ada"]));
    }
}
