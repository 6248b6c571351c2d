//! The control plane: every request that is no subscription, on a thread of its own, by axum.
//!
//! A shard hands over the socket and what it has read. Browsers and proxies keep connections open, so
//! a `GET /events` may come on such a socket later: then hyper gives the socket back, and the hub adopts
//! it.

pub(crate) mod admin;
mod adopt;
mod answer_first;
mod audit;
mod bodies;
mod body;
mod connection_list;
mod connections;
mod control_connections;
mod dashboard;
mod head_guard;
mod limits;
mod notices;
mod openapi;
mod problem;
mod problems;
mod profiles;
mod publish;
mod publish_rates;
mod rebalance;
mod requests;
mod routes;
pub(crate) mod spare_descriptors;
#[cfg(test)]
mod test_support;
mod topics;
mod unread;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Version, header};
use axum::response::IntoResponse;
use fanfare::{
    ConnectionOrigin, Decision, DecisionStart, HandOver, HandedOver, HeadError, Hub, ProblemKind,
    RequestHead, Subscribe, Transport, WireFormat, bound_for, reserve_of,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tower::ServiceExt;

use crate::access_log::AccessLog;
use crate::admission::{Considered, EventsAdmission};
use crate::cluster::orders::ClusterOrders;
use crate::forward::To;
use crate::health::{BEAT, Health};
use crate::presence::Presence;
pub(crate) use answer_first::OwedWakes;
pub(crate) use audit::Audit;
pub(crate) use bodies::Bodies;
pub(crate) use connections::Endings;
use control_connections::{ControlConnection, ControlConnections, Newcomers};
use limits::{ANSWER_BYTES, WAITING, undecided_of};
pub(crate) use limits::{ControlLimits, CurrentLimits};
pub(crate) use notices::{Notice, Notices, Reporter};
use problem::Problem;
pub(crate) use publish_rates::PublishRates;
use routes::Record;
pub(crate) use topics::Inspections;
use unread::Watched;

/// The state of the control plane.
pub(crate) struct Control {
    pub(crate) hub: Hub,
    pub(crate) admission: EventsAdmission,
    pub(crate) limits: Arc<CurrentLimits>,
    pub(crate) owed_wakes: OwedWakes,
    pub(crate) inspections: Arc<Inspections>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) publish_rates: PublishRates,
    pub(crate) undecided: Undecided,
    pub(crate) endings: Endings,
    pub(crate) notices: Arc<Notices>,
    pub(crate) audit: Audit,
    pub(crate) access_log: Option<AccessLog>,
    /// `None`: there is no presence.
    /// `None`: the server is alone.
    pub(crate) cluster: Option<Arc<ClusterOrders>>,
    pub(crate) presence: Option<Arc<Presence>>,
}

/// Starts its threads. They end when the engine does.
pub(crate) fn start(control: Control, mut sockets: HandOver) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (hand, mut handed) = mpsc::channel::<HandedOver>(WAITING);
    let (notices, hub) = (Arc::clone(&control.notices), control.hub.clone());
    thread::Builder::new().name("fanfare-hand-over".to_owned()).spawn(move || {
        loop {
            match sockets.receive(None) {
                // Where that is full the socket is dropped, and its client sees a closed connection. The last
                // places are the operator's.
                Ok(Some(socket)) => {
                    let is_scarce = hand.capacity() <= reserve_of(WAITING);
                    let has_place = !is_scarce || socket.origin().is_operators(&hub.limits().clients);
                    if !has_place || hand.try_send(socket).is_err() {
                        notices.add(Notice::ConnectionRefused);
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                Err(error) => notices.add_error(Notice::ConnectionLost, &error),
            }
        }
    })?;
    thread::Builder::new().name("fanfare-control".to_owned()).spawn(move || {
        // Where that is refused, answers come later while broadcasts run.
        let _ = fanfare::prefer_short_runs();
        runtime.block_on(async move {
            let control = Arc::new(control);
            tokio::spawn(show_life(Arc::clone(&control.admission.health)));
            let router = routes::router(Arc::clone(&control));
            let connections = Arc::new(ControlConnections::new(
                Arc::clone(&control.limits),
                ANSWER_BYTES,
                Arc::clone(&control.notices),
                Newcomers::WithHead,
            ));
            while let Some(socket) = handed.recv().await {
                let limits = control.hub.limits();
                let is_operators = || socket.origin().is_operators(&limits.clients);
                let Some(connection) = connections.enter(is_operators).map(Arc::new) else {
                    control.notices.add(Notice::ConnectionRefused);
                    continue;
                };
                let (control, router) = (Arc::clone(&control), router.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(&control, router, socket, &connection) => {}
                        // Others need its place, or the memory of its answer.
                        () = connection.ended() => {}
                    }
                });
            }
        });
    })?;
    Ok(())
}

/// Shows health checks that the control plane runs.
async fn show_life(health: Arc<Health>) {
    let mut beats = tokio::time::interval(BEAT);
    loop {
        beats.tick().await;
        health.beat();
    }
}

/// Serves one connection until it ends or becomes a subscriber's.
async fn serve(control: &Control, router: Router, handed: HandedOver, entered: &Arc<ControlConnection>) {
    let origin = handed.origin();
    let limits = control.hub.limits();
    let counts_addresses = limits.clients.connections_per_address.is_some();
    let address = counts_addresses.then(|| origin.counted_client(&limits.clients)).flatten();
    let Ok(counted) = address.map(|address| control.hub.count_connection(address)).transpose() else {
        control.notices.add_from(Notice::AddressRefused, address);
        return;
    };
    let Ok(socket) = TcpStream::from_std(handed.socket) else { return };
    let (give_back, mut given_back) = mpsc::channel(1);
    let head_limits = control.hub.limits().head;
    let answer = |refusal: Option<Problem>, mut request: Request<Watched>| {
        let is_head = request.method() == Method::HEAD;
        request.extensions_mut().insert(origin);
        let has_head = refusal.is_none();
        let subscription = match refusal {
            Some(problem) => Some(Subscription::Problem(problem)),
            None => subscription(control, origin, &request),
        };
        let record = subscription.as_ref().and_then(|_| Record::without_route(control, &request, has_head));
        let (router, give_back) = (router.clone(), give_back.clone());
        async move {
            match resolve(subscription).await {
                Some(Ok(subscribe)) if !is_head => {
                    // The answer comes from a shard: this request never gets one here.
                    let _ = give_back.try_send(subscribe);
                    std::future::pending().await
                }
                Some(Err(problem)) => {
                    let response = problem.into_response();
                    if let Some(record) = record {
                        record.write(control, false, &response);
                    }
                    response
                }
                Some(Ok(_)) | None => router.oneshot(request.map(Body::new)).await.into_response(),
            }
        }
    };
    let mut connection = requests::serve(handed.received, socket, head_limits, entered, answer);
    let subscribe: Option<(Subscribe, WireFormat)> = tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!("a control connection ended: {error}");
            }
            None
        }
        subscribe = given_back.recv() => subscribe,
    };
    let socket = connection.into_parts().io.into_inner().into_inner();
    let Some((subscribe, format)) = subscribe else { return requests::linger(&socket).await };
    match socket.into_std() {
        Ok(socket) => {
            // The shard counts it from here on.
            drop(counted);
            adopt::adopt(&control.hub, &control.notices, socket, subscribe, format).await;
        }
        Err(error) => control.notices.add_error(Notice::SubscriberLost, &error),
    }
}

/// What is known of a request that is a subscription.
#[allow(clippy::large_enum_variant, reason = "it is moved once")]
enum Subscription {
    Problem(Problem),
    Decided(Decision, Begins),
    /// An endpoint decides, or a token is verified first.
    Undecided(oneshot::Receiver<Decision>, Begins, UndecidedPlace),
}

/// What a stream needs beside the decision about it.
#[derive(Clone, Copy)]
struct Begins {
    format: WireFormat,
    /// What was revoked since then is not known to the decision.
    start: DecisionStart,
}

/// What a request is, if it is a `GET /events`. A `HEAD` is judged as a `GET` would be.
fn subscription<B>(
    control: &Control,
    origin: ConnectionOrigin,
    request: &Request<B>,
) -> Option<Subscription> {
    let is_head = request.method() == Method::HEAD;
    if !(is_head || request.method() == Method::GET) || request.uri().path() != "/events" {
        return None;
    }
    let target = request.uri().to_string();
    let head = match request_head(request, &target) {
        Ok(head) => head,
        Err(error) => return Some(Subscription::Problem(Problem::from(error))),
    };
    let asked = fanfare::Request::on(&head, Transport::Http1, origin);
    let begins = Begins { format: head.wire_format(), start: control.hub.decision_start() };
    let limits = control.hub.limits();
    let considered = match control.admission.consider(&asked, Some(&limits.clients)) {
        Considered::Decided(decision) => return Some(Subscription::Decided(decision, begins)),
        considered => considered,
    };
    let most = undecided_of(control.limits.get().connections);
    let place = control.undecided.enter(bound_for(asked.is_from_operator(&limits.clients), most));
    let Some(place) = place else {
        control.notices.add(Notice::UndecidedRefused);
        let detail = "too many subscriptions wait for the decision about them; try again in a second";
        let full = Problem::new(ProblemKind::TooManyUndecided, detail).header("Retry-After", "1");
        return Some(Subscription::Problem(full));
    };
    let (task, decision) = oneshot::channel();
    match considered {
        Considered::Decided(_) => {}
        Considered::Ask(asking) => asking.ask(To::Task(task)),
        Considered::Verify(verifying) => verifying.verify(&control.admission.verifications, To::Task(task)),
    }
    Some(Subscription::Undecided(decision, begins, place))
}

/// Subscriptions on connections of the control plane that wait for the decision about them. They are busy, so
/// that they do not make room for others.
#[derive(Debug, Default)]
pub(crate) struct Undecided(Arc<AtomicUsize>);

/// The place of one of them, until it is dropped.
struct UndecidedPlace(Arc<AtomicUsize>);

impl Undecided {
    /// Takes a place, where fewer than `most` are taken.
    fn enter(&self, most: usize) -> Option<UndecidedPlace> {
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        let place = UndecidedPlace(Arc::clone(&self.0));
        (taken < most).then_some(place)
    }
}

impl Drop for UndecidedPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for the decision where an endpoint decides. `None`: the request is no subscription.
async fn resolve(subscription: Option<Subscription>) -> Option<Result<(Subscribe, WireFormat), Problem>> {
    let (decision, Begins { format, start }) = match subscription? {
        Subscription::Problem(problem) => return Some(Err(problem)),
        Subscription::Decided(decision, begins) => (decision, begins),
        Subscription::Undecided(decision, begins, _place) => match decision.await {
            Ok(decision) => (decision, begins),
            Err(_) => {
                return Some(Err(Problem::new(
                    ProblemKind::DecisionFailed,
                    "the server did not decide about this request",
                )));
            }
        },
    };
    match decision {
        Decision::Subscribe(subscribe) => Some(Ok((subscribe.with_decision_start(start), format))),
        Decision::Refuse(refusal) => Some(Err(Problem::from(refusal))),
        // Health checks and all others are answered here.
        _ => None,
    }
}

/// The head of a request as the engine has it. A `HEAD` is read as a `GET`.
fn request_head<'r, B>(request: &'r Request<B>, target: &'r str) -> Result<RequestHead<'r>, HeadError> {
    let minor = u8::from(request.version() != Version::HTTP_10);
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    RequestHead::from_parts("GET", target, minor, headers)
}

/// The origin and host of a request, for the cross-origin rules.
fn origin_and_host<B>(request: &Request<B>) -> (Option<&[u8]>, Option<&str>) {
    let headers = request.headers();
    let mut origins = headers.get_all(header::ORIGIN).iter().map(|origin| origin.as_bytes());
    // A browser sends one (RFC 6454, section 7.3). Of two none is believed.
    let origin = origins.next().map(|origin| if origins.next().is_some() { b"" } else { origin });
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    (origin, request.uri().authority().map(|authority| authority.as_str()).or(host))
}
