//! The control plane's routes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use fanfare::{ConnectionOrigin, ProblemKind, Transport};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::problem::Problem;
use super::{
    Control, Notice, Notices, connection_list, connections, openapi, origin_and_host, problems, publish,
    rebalance, request_head, topics,
};
use crate::access::{FoundPublisher, Publisher, PublisherError, TokenToVerify, TokenVerdict};
use crate::access_log::Answered;
use crate::admission::EventsAdmission;
use crate::cors::Verdict;
use crate::hosts::Hosts;
use crate::request_client::RequestClient;
use crate::rules::Rules;
use crate::turns::TurnOf;
use crate::verifications::Verification;

/// The demo page may talk to this server under each of its loopback names, and to nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src data:; connect-src 'self' http://127.0.0.1:* http://localhost:*; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

pub(super) fn router(control: Arc<Control>) -> Router {
    let events = post(publish::publish).head(subscribe_head).options(preflight);
    let connections = get(connection_list::list).delete(connections::end);
    let file = |content_type, text| static_file(content_type, CONTENT_SECURITY_POLICY, text);
    Router::new()
        .route("/events", only(events, "GET, HEAD, POST, OPTIONS"))
        .route("/topics", only(get(topics::topics), "GET, HEAD"))
        .route("/topics/{*topic}", only(get(topics::topic), "GET, HEAD"))
        .route("/connections", only(connections, "GET, HEAD, DELETE"))
        .route("/rebalance", only(post(rebalance::rebalance), "POST"))
        .route("/health/live", only(get(health), "GET, HEAD"))
        .route("/health/ready", only(get(health), "GET, HEAD"))
        .route("/", file("text/html; charset=utf-8", include_str!("../page/index.html")))
        .route("/style.css", file("text/css; charset=utf-8", include_str!("../page/style.css")))
        .route("/access.js", file("text/javascript; charset=utf-8", include_str!("../page/access.js")))
        .route("/demo.js", file("text/javascript; charset=utf-8", include_str!("../page/demo.js")))
        .route(openapi::PATH, openapi::of_public())
        .merge(problems::router())
        .fallback(|| async { nothing_here() })
        .layer(middleware::from_fn_with_state(Arc::clone(&control), cross_origin))
        .with_state(control)
}

fn nothing_here() -> Problem {
    Problem::new(ProblemKind::NotFound, "nothing is served at this path; look at /")
}

/// Other methods are answered 405.
pub(super) fn only<S: Clone + Send + Sync + 'static>(
    methods: MethodRouter<S>,
    allowed: &'static str,
) -> MethodRouter<S> {
    methods.fallback(move || async move { method_not_allowed(allowed) })
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, format!("this path takes {allowed}")).header("Allow", allowed)
}

/// A file of a page, with the content security policy of that page.
pub(super) fn static_file<S: Clone + Send + Sync + 'static>(
    content_type: &'static str,
    policy: &'static str,
    text: &'static str,
) -> MethodRouter<S> {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    only(get(move || async move { (headers, text) }), "GET, HEAD")
}

/// Refuses what is meant for another host, and what a web page of another origin may not do, and adds the
/// response fields that let it read the answer where it may. A web page that may not is not even told what a
/// publish would have answered.
async fn cross_origin(State(control): State<Arc<Control>>, request: Request<Body>, next: Next) -> Response {
    let is_publish = request.method() == Method::POST && request.uri().path() == "/events";
    let record = (is_publish || control.access_log.is_some()).then(|| Record::of(&control, &request));
    let response = answer(&control, request, next, record.as_ref()).await;
    if let Some(record) = record {
        record.write(&control, is_publish, &response);
    }
    response
}

/// What is known of a request when its answer is there, for the log.
pub(super) struct Record {
    since: Instant,
    /// `None`: its head could not be read.
    method: Option<Method>,
    /// `None`: its head could not be read.
    path: Option<String>,
    client: Option<IpAddr>,
    /// Set where the publisher is known.
    publisher: OnceLock<Publisher>,
}

impl Record {
    fn of<B>(control: &Control, request: &Request<B>) -> Record {
        Record {
            since: Instant::now(),
            method: Some(request.method().clone()),
            path: Some(request.uri().path().to_owned()),
            client: client_address(&control.admission.rules.get(), request),
            publisher: OnceLock::new(),
        }
    }

    /// Of a request that is answered without a route: a subscription, or one whose head could not be read.
    /// `None`: there is no access log.
    pub(super) fn without_route<B>(
        control: &Control,
        request: &Request<B>,
        has_head: bool,
    ) -> Option<Record> {
        control.access_log.is_some().then(|| {
            let record = Record::of(control, request);
            if has_head { record } else { Record { method: None, path: None, ..record } }
        })
    }

    /// Writes the line of a request.
    pub(super) fn write(self, control: &Control, is_publish: bool, response: &Response) {
        let status = response.status().as_u16();
        let subject = self.publisher.get().and_then(Publisher::subject);
        if is_publish && status >= 400 {
            control.audit.refused(status, self.client, subject, response.extensions().get());
        }
        if let Some(log) = &control.access_log {
            let (method, path, client) = (self.method, self.path, self.client);
            let (subject, took) = (subject.map(str::to_owned), self.since.elapsed());
            log.add(Answered { method, path, status, client, subject, took });
        }
    }
}

async fn answer(
    control: &Arc<Control>,
    mut request: Request<Body>,
    next: Next,
    record: Option<&Record>,
) -> Response {
    let (fields, refusal) = judge(&control.admission, &request);
    let refusal = match refusal {
        Some(refusal) => Some(refusal),
        None if needs_publisher(&request) => {
            let (found, of) = find_publisher(&control.admission, &request);
            match publisher(&control.admission, found, of).await {
                Ok(publisher) => {
                    let client = self::client(control, &request, &publisher);
                    if let Some(record) = record {
                        // It is set once.
                        let _ = record.publisher.set(publisher.clone());
                    }
                    request.extensions_mut().insert(publisher);
                    request.extensions_mut().insert(client);
                    None
                }
                Err(problem) => Some(problem),
            }
        }
        None => None,
    };
    match refusal {
        Some(refusal) => with_fields(refusal.into_response(), fields),
        None => with_fields(next.run(request).await, fields),
    }
}

/// Whether a request publishes, ends or lists connections, rebalances, or asks about topics: these need a
/// publisher's token where the server has keys. Health checks, the preflight and the demo page do not.
fn needs_publisher(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    let is_publish = path == "/events" && request.method() == Method::POST;
    let asks_about_topics = path == "/topics" || path.starts_with("/topics/");
    let is_preflight = request.method() == Method::OPTIONS;
    is_publish || ((asks_about_topics || path == "/connections" || path == "/rebalance") && !is_preflight)
}

/// The publisher of a request. A token that is not remembered is verified on another thread,
/// so that it delays no other request.
async fn publisher(
    admission: &EventsAdmission,
    mut found: Result<FoundPublisher, PublisherError>,
    of: TurnOf,
) -> Result<Publisher, Problem> {
    let client = of.client;
    let found = loop {
        match found {
            Ok(FoundPublisher::Known(publisher)) => break Ok(publisher),
            Ok(FoundPublisher::ToVerify(token)) => {
                let (task, verified) = oneshot::channel();
                let verification = PublisherVerification { token: token.clone(), task };
                admission.verifications.push(of, Box::new(verification));
                let verdict = verdict(&admission.notices, verified.await.ok(), client)?;
                // By the rules of now: a reload may have removed the key while the token waited.
                let access = Arc::clone(&admission.rules.get().access);
                found = access.verified_publisher(&token, verdict);
            }
            Err(error) => break Err(error),
        }
    };
    found.map_err(|error| match error {
        PublisherError::Denied(denial) => {
            admission.notices.add_denial(denial.reason, client);
            Problem::from(denial)
        }
        PublisherError::CookieFromElsewhere => {
            admission.notices.add_from(Notice::CookieRefused, client);
            let detail =
                "a request that a cookie authorises needs an Origin that may use it; see --cors-origin";
            Problem::new(ProblemKind::CookieNeedsOrigin, detail)
        }
    })
}

/// What the verification of a publisher's token has come to. `None`: it gave nothing.
fn verdict(
    notices: &Notices,
    verified: Option<Option<TokenVerdict>>,
    client: Option<IpAddr>,
) -> Result<TokenVerdict, Problem> {
    match verified {
        Some(Some(verdict)) => Ok(verdict),
        Some(None) => {
            notices.add_from(Notice::TooManyTokens, client);
            let detail = "too many tokens wait to be verified; try again in a second";
            Err(Problem::new(ProblemKind::VerificationsBusy, detail).header("Retry-After", "1"))
        }
        None => {
            notices.add_from(Notice::VerificationPanicked, client);
            let detail = "the server failed to verify the token of this request";
            Err(Problem::new(ProblemKind::InternalError, detail))
        }
    }
}

/// What a request shows of its publisher, by the rules of this moment, and its client.
fn find_publisher(
    admission: &EventsAdmission,
    request: &Request<Body>,
) -> (Result<FoundPublisher, PublisherError>, TurnOf) {
    let rules = admission.rules.get();
    let (origin, host) = origin_and_host(request);
    // A browser sends an Origin with every POST and DELETE. A page that may not read the answer may still
    // make the browser send a cookie, and `*` lists no page. To read is harmless: only a listed page sees the
    // answer.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_listed = matches!(rules.cors.judge(origin, host), Verdict::SameOrigin | Verdict::Listed(_));
    let has_good_origin = reads || (origin.is_some() && is_listed);
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let found = rules.access.publisher(headers, request.uri().query(), has_good_origin);
    (found, as_engine_has_it(request, |request| rules.turn_of(request)).unwrap_or_default())
}

/// A publisher's token that is to be verified.
struct PublisherVerification {
    token: TokenToVerify,
    /// `None`: too many tokens wait.
    task: oneshot::Sender<Option<TokenVerdict>>,
}

impl Verification for PublisherVerification {
    fn is_wanted(&self) -> bool {
        !self.task.is_closed()
    }

    fn bytes(&self) -> usize {
        /// The task that waits, with the head of its request.
        const TASK: usize = 1 << 10;
        size_of::<PublisherVerification>() + self.token.bytes() + TASK
    }

    fn run(self: Box<Self>) {
        let verdict = self.token.verify();
        // Its client may have left.
        drop(self.task.send(Some(verdict)));
    }

    fn refuse(self: Box<Self>) {
        drop(self.task.send(None));
    }
}

/// The response fields of a request, and its refusal, by the rules of this moment.
fn judge(
    admission: &EventsAdmission,
    request: &Request<Body>,
) -> (Vec<(&'static str, String)>, Option<Problem>) {
    let rules = admission.rules.get();
    let (origin, host) = origin_and_host(request);
    let fields = rules.cors.fields(origin, host);
    // As the admission answers health checks.
    if !rules.hosts.allow(host) && !request.uri().path().starts_with("/health/") {
        admission.notices.add_from(Notice::HostRefused, client_address(&rules, request));
        return (fields, Some(Problem::new(ProblemKind::UnknownHost, Hosts::refusal(host))));
    }
    let refused = rules.cors.judge(origin, host) == Verdict::Refused;
    if refused && matches!(*request.method(), Method::POST | Method::DELETE) {
        admission.notices.add_from(Notice::OriginRefused, client_address(&rules, request));
        let detail = "pages of this origin may not publish; see --cors-origin";
        return (fields, Some(Problem::new(ProblemKind::OriginNotAllowed, detail)));
    }
    (fields, None)
}

/// The client of a request, as far as a bound depends on it.
fn client(control: &Control, request: &Request<Body>, publisher: &Publisher) -> RequestClient {
    let counts_addresses = !control.limits.get().publish_rates.are_none() && publisher.name().is_none();
    let is_publish = request.method() == Method::POST;
    if is_publish && !counts_addresses && !control.bodies.are_half_full() {
        return RequestClient::default();
    }
    let limits = control.hub.limits();
    let of = |request: &fanfare::Request<'_>| RequestClient::of(request, &limits.clients);
    as_engine_has_it(request, of).unwrap_or_default()
}

/// The client of a request, behind the proxies that are trusted.
fn client_address<B>(rules: &Rules, request: &Request<B>) -> Option<IpAddr> {
    let origin = request.extensions().get::<ConnectionOrigin>();
    let by_connection = origin.and_then(|origin| origin.counted_client(&rules.peers));
    by_connection
        .or_else(|| as_engine_has_it(request, |request| request.client_address(&rules.proxies)).flatten())
}

/// Asks something of a request in the form that the engine has for it.
fn as_engine_has_it<B, T>(request: &Request<B>, ask: impl FnOnce(&fanfare::Request<'_>) -> T) -> Option<T> {
    let origin = *request.extensions().get::<ConnectionOrigin>()?;
    let target = request.uri().to_string();
    let head = request_head(request, &target).ok()?;
    Some(ask(&fanfare::Request::on(&head, Transport::Http1, origin)))
}

fn with_fields(mut response: Response, fields: Vec<(&'static str, String)>) -> Response {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// `OPTIONS /events`: one answer that browsers keep for a day.
async fn preflight() -> Response {
    let headers = [
        (header::ALLOW, "GET, HEAD, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "last-event-id, authorization, cache-control, content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// `HEAD /events`: the head of a stream, and no subscriber.
async fn subscribe_head() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store, no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::new(Endless)).into_response()
}

/// A body without a known length, as a stream's is: a HEAD must not say otherwise.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        // Never polled: hyper sends no body in answer to a HEAD.
        Poll::Ready(None)
    }
}

/// A check on a connection that is here already, or with another request behind it. Others are answered by a
/// shard.
async fn health(State(control): State<Arc<Control>>, request: Request<Body>) -> Response {
    match control.admission.health.answer(request.uri().path()) {
        Some(answer) => {
            let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CACHE_CONTROL, "no-store")], answer.text().to_owned()).into_response()
        }
        None => nothing_here().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Reporter;
    use super::*;

    /// A publisher whose verification had panicked was told that too many tokens wait, and so was the log.
    #[test]
    fn a_verification_that_has_panicked_is_no_full_queue() {
        let notices = Notices::default();
        let mut reporter = Reporter::default();
        let mut answer = |verified| {
            let status = verdict(&notices, verified, None)
                .map(drop)
                .map_err(|problem| problem.into_response().status());
            (status, reporter.due(&notices, Duration::ZERO))
        };
        let (task, verified) = oneshot::channel();
        // A panic drops the verification.
        drop(task);
        let panicked = answer(verified.blocking_recv().ok());
        assert_eq!(
            panicked,
            (Err(StatusCode::INTERNAL_SERVER_ERROR), vec![(Notice::VerificationPanicked, 1)])
        );
        let full = answer(Some(None));
        assert_eq!(full, (Err(StatusCode::SERVICE_UNAVAILABLE), vec![(Notice::TooManyTokens, 1)]));
    }
}
