//! The admin listener: metrics, health checks and the dashboard, on an address and a thread of their own.
//!
//! Its runtime is not the control plane's, so that a scrape does not wait behind publishes, and a probe is
//! answered where the control plane is not. Its connections take part in no bound of the clients', and have
//! one of their own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fanfare::{HeadLimits, ProblemKind};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::control_connections::{ControlConnection, ControlConnections};
use super::dashboard::{self, Dashboards};
use super::head_guard::{self, HeadGuard};
use super::limits::{
    ACCEPT_PAUSE, ADMIN_ANSWER_BYTES, ADMIN_CONNECTIONS, ControlLimits, CurrentLimits, HEAD_TIME, READ_BYTES,
};
use super::problem::Problem;
use super::unread::Watched;
use super::{Notice, linger, openapi, problems, profiles, routes};
use crate::hosts::Hosts;
use crate::metrics::Metrics;

const INDEX: &str = "/dashboard     what the server does, for a browser\n\
                     /metrics       for Prometheus\n\
                     /health/live   whether the server runs\n\
                     /health/ready  whether it takes newcomers\n\
                     /problems      what errors mean, for a browser\n\
                     /openapi.json  these paths for programs\n";

/// What the admin listener works with.
pub(crate) struct Admin {
    /// The names that it answers to. They are not those of the public listeners.
    hosts: Hosts,
    pub(super) metrics: Metrics,
    pub(super) dashboards: Arc<Dashboards>,
    /// Whether profiles are made.
    pub(super) profiling: bool,
}

impl Admin {
    pub(crate) fn new(hosts: Hosts, metrics: Metrics, profiling: bool) -> Admin {
        Admin { hosts, metrics, dashboards: Arc::default(), profiling }
    }
}

/// Marks a response as a stream: its connection does not become idle, and makes room for no other. There are
/// fewer streams than connections.
#[derive(Clone, Copy)]
pub(super) struct StaysOpen;

/// Opens its socket.
///
/// # Errors
/// The address is in use, or not this machine's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts its thread, which ends with the process: probes are answered while the engine drains.
///
/// # Errors
/// The system refuses a thread, or descriptors for it.
pub(crate) fn start(admin: Admin, listener: std::net::TcpListener) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    thread::Builder::new().name("fanfare-admin".to_owned()).spawn(move || {
        // Where that is refused, answers come later while broadcasts run.
        let _ = fanfare::prefer_short_runs();
        runtime.block_on(accept(Arc::new(admin), listener));
    })?;
    Ok(())
}

async fn accept(admin: Arc<Admin>, listener: TcpListener) {
    let router = router(Arc::clone(&admin));
    let limits = ControlLimits { connections: ADMIN_CONNECTIONS, ..ControlLimits::default() };
    // The notices of these are not reported: an idle connection that makes room for a probe is no news.
    let limits = Arc::new(CurrentLimits::new(limits));
    let clients = Arc::new(ControlConnections::new(limits, ADMIN_ANSWER_BYTES, Arc::default()));
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Descriptors are used up.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(client) = clients.enter(|| true).map(Arc::new) else {
            admin.metrics.notices().add(Notice::AdminRefused);
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = serve(router, socket, &client) => {}
                () = client.ended() => {}
            }
        });
    }
}

/// Serves one connection until it ends.
async fn serve(router: Router, socket: TcpStream, client: &Arc<ControlConnection>) {
    let head = HeadLimits::default();
    let max_headers = head.max_headers;
    let socket = HeadGuard::new(Vec::new(), socket, head, Arc::clone(client));
    let refused = socket.refused();
    let service = service_fn(move |request: Request<Incoming>| {
        client.begins();
        let refusal = refused.get().map(|error| Problem::from(*error));
        let is_last = refusal.is_some() || head_guard::is_last(request.headers());
        let (head, body) = request.into_parts();
        let (body, unread) = Watched::new(body);
        let router = router.clone();
        async move {
            // As on the public listeners: each connection has one request for each turn.
            tokio::task::yield_now().await;
            let mut response: Response<Body> = match refusal {
                Some(problem) => problem.into_response(),
                None => router.oneshot(Request::from_parts(head, Body::new(body))).await.into_response(),
            };
            if is_last || unread.load(Ordering::Relaxed) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if response.extensions().get::<StaysOpen>().is_none() {
                client.answers(response.body().size_hint().exact().unwrap_or(0) as usize);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_BYTES)
        .max_headers(max_headers)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = (&mut connection).await {
        tracing::debug!("an admin connection ended: {error}");
    }
    linger(connection.into_parts().io.into_inner().into_inner()).await;
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", routes::only(get(|| async { INDEX }), "GET, HEAD"))
        .route("/metrics", routes::only(get(metrics), "GET, HEAD"))
        .route("/health/live", routes::only(get(health), "GET, HEAD"))
        .route("/health/ready", routes::only(get(health), "GET, HEAD"))
        .merge(dashboard::router())
        .merge(profiles::router())
        .route(openapi::PATH, openapi::of_admin())
        .merge(problems::router())
        .fallback(|| async { nothing_here() })
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), check_host))
        .with_state(admin)
}

fn nothing_here() -> Problem {
    Problem::new(ProblemKind::NotFound, "the admin listener serves nothing at this path; look at /")
}

/// Refuses what is meant for another host: a web page whose name leads to this address could read the
/// answers.
async fn check_host(State(admin): State<Arc<Admin>>, request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| host.to_str().unwrap_or("\u{fffd}"));
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
    // Monitors ask for health by the names that they know, and there is nothing in the answer that a web page
    // should not know.
    if !request.uri().path().starts_with("/health/") && !admin.hosts.allow(host) {
        admin.metrics.notices().add(Notice::AdminHostRefused);
        return Problem::new(
            ProblemKind::UnknownHost,
            Hosts::refusal_by(host, "--admin-host", "FANFARE_ADMIN_HOST"),
        )
        .into_response();
    }
    next.run(request).await
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let (content_type, text) = admin.metrics.encode(accepts);
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")];
    (headers, text).into_response()
}

async fn health(State(admin): State<Arc<Admin>>, request: Request<Body>) -> Response {
    match admin.metrics.health().answer(request.uri().path()) {
        Some(answer) => {
            let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CACHE_CONTROL, "no-store")], answer.text().to_owned()).into_response()
        }
        None => nothing_here().into_response(),
    }
}
