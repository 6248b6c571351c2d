//! The admin listener: metrics, health checks, the dashboard, the list of connections and the rebalance, on
//! an address and a thread of their own.
//!
//! Its runtime is not the control plane's, so that a scrape does not wait behind publishes, and a probe is
//! answered where the control plane is not. Its connections take part in no bound of the clients', and have
//! one of their own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fanfare::{HeadLimits, ProblemKind};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::control_connections::{ControlConnection, ControlConnections, Newcomers};
use super::dashboard::{self, Dashboards};
use super::limits::{
    ACCEPT_PAUSE, ADMIN_ANSWER_BYTES, ADMIN_CONNECTIONS, ADMIN_OPEN_PAUSE, ControlLimits, CurrentLimits,
    SPARE_REFILL,
};
use super::problem::Problem;
use super::spare_descriptors::SpareDescriptors;
use super::unread::Watched;
use super::{Inspections, Notice, connection_list, openapi, problems, profiles, rebalance, requests, routes};
use crate::hosts::Hosts;
use crate::metrics::Metrics;

const INDEX: &str = "/dashboard     figures of the server, for a browser\n\
                     /metrics       for Prometheus\n\
                     /connections   the connections of subscribers\n\
                     /rebalance     ends a share of them (POST)\n\
                     /health/live   whether the server runs\n\
                     /health/ready  whether it takes newcomers\n\
                     /problems      what errors mean, for a browser\n\
                     /openapi.json  these paths for programs\n";

/// The state of the admin listener.
pub(crate) struct Admin {
    /// The names that it answers to. They are not those of the public listeners.
    hosts: Hosts,
    pub(super) metrics: Metrics,
    pub(super) dashboards: Arc<Dashboards>,
    /// Those of the control plane: one question is asked at a time.
    pub(super) inspections: Arc<Inspections>,
    /// Whether profiles are made.
    pub(super) profiling: bool,
}

impl Admin {
    pub(crate) fn new(
        hosts: Hosts,
        metrics: Metrics,
        inspections: Arc<Inspections>,
        profiling: bool,
    ) -> Admin {
        Admin { hosts, metrics, dashboards: Arc::default(), inspections, profiling }
    }
}

/// Opens its socket.
///
/// # Errors
/// The address is in use, or not this machine's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Starts its thread, which ends with the process: probes are answered while the engine drains. Its
/// connections get the spare descriptors where the process has no others. Without a listener, the thread
/// opens one at `address` as soon as the address is free. It may belong to another process for the moment: to
/// a server that drains, whose place this one takes.
///
/// # Errors
/// The system refuses a thread, or descriptors for it.
pub(crate) fn start(
    admin: Admin,
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
    spare: SpareDescriptors,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        listener.map(Incoming::new).transpose()?
    };
    thread::Builder::new().name("fanfare-admin".to_owned()).spawn(move || {
        // Where that is refused, answers come later while broadcasts run.
        let _ = fanfare::prefer_short_runs();
        runtime.block_on(async {
            let listener = match listener {
                Some(listener) => listener,
                None => open_later(address).await,
            };
            accept(Arc::new(admin), listener, spare).await;
        });
    })?;
    Ok(())
}

/// Waits until the address is free, and listens on it.
async fn open_later(address: SocketAddr) -> Incoming {
    loop {
        tokio::time::sleep(ADMIN_OPEN_PAUSE).await;
        if let Ok(listener) = listen(address).and_then(Incoming::new) {
            tracing::info!(%address, "the admin listener is open now");
            return listener;
        }
    }
}

async fn accept(admin: Arc<Admin>, listener: Incoming, spare: SpareDescriptors) {
    let router = router(Arc::clone(&admin));
    let limits = ControlLimits { connections: ADMIN_CONNECTIONS, ..ControlLimits::default() };
    // The notices of these are not reported: an idle connection that makes room for a probe is no news.
    let limits = Arc::new(CurrentLimits::new(limits));
    let clients = ControlConnections::new(limits, ADMIN_ANSWER_BYTES, Arc::default(), Newcomers::Silent);
    let clients = Arc::new(clients);
    loop {
        let next = match spare.is_complete() {
            true => listener.next().await,
            false => match tokio::time::timeout(SPARE_REFILL, listener.next()).await {
                Ok(next) => next,
                Err(_) => {
                    spare.refill();
                    continue;
                }
            },
        };
        let Ok(socket) = next else {
            // Descriptors are used up. The connection that finds none waits in the backlog.
            if spare.give_one() {
                continue;
            }
            match clients.make_room() {
                // It gives its descriptor back now.
                true => tokio::task::yield_now().await,
                false => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
            continue;
        };
        let Some(client) = clients.enter(|| true).map(Arc::new) else {
            admin.metrics.notices().add(Notice::AdminRefused);
            close(socket, &spare);
            continue;
        };
        let (router, spare) = (router.clone(), spare.clone());
        tokio::spawn(async move { close(serve(router, socket, &client).await, &spare) });
        // Its head may be there already: it is read before further connections can take its place.
        tokio::task::yield_now().await;
    }
}

/// The connections that come.
struct Incoming(AsyncFd<std::net::TcpListener>);

impl Incoming {
    /// `listener` must not block.
    fn new(listener: std::net::TcpListener) -> io::Result<Incoming> {
        // SAFETY: the listener has one descriptor from its beginning to its end, and nothing here takes the
        // listener out or closes its descriptor.
        let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Incoming(listener?))
    }

    /// The next connection.
    ///
    /// Where descriptors are used up, accept(2) fails before it has looked for a connection. Here it fails
    /// only where one waits. A spare descriptor that was given away for none was free then, and a connection
    /// of another listener took it.
    async fn next(&self) -> io::Result<TcpStream> {
        loop {
            let accepted = self.0.readable().await?.try_io(|listener| {
                let accepted = listener.get_ref().accept();
                match accepted {
                    Err(_) if !is_readable(listener.get_ref()) => Err(io::ErrorKind::WouldBlock.into()),
                    accepted => accepted,
                }
            });
            // Otherwise none has come yet.
            if let Ok(accepted) = accepted {
                let (socket, _) = accepted?;
                socket.set_nonblocking(true)?;
                return TcpStream::from_std(socket);
            }
        }
    }
}

/// Whether a connection waits at a listener.
fn is_readable(listener: &std::net::TcpListener) -> bool {
    let mut asked = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one value that lives, and the call does not wait.
    let ready = unsafe { libc::poll(&mut asked, 1, 0) };
    ready > 0 && asked.revents & libc::POLLIN != 0
}

fn close(socket: TcpStream, spare: &SpareDescriptors) {
    if let Ok(socket) = socket.into_std() {
        spare.take_back(socket.into());
        spare.refill();
    }
}

/// Serves one connection until it ends, or has to make room.
async fn serve(router: Router, socket: TcpStream, client: &Arc<ControlConnection>) -> TcpStream {
    let answer = |refusal: Option<Problem>, request: Request<Watched>| {
        let router = router.clone();
        async move {
            match refusal {
                Some(problem) => problem.into_response(),
                None => router.oneshot(request.map(Body::new)).await.into_response(),
            }
        }
    };
    let mut connection = requests::serve(Vec::new(), socket, HeadLimits::default(), client, answer);
    let makes_room = tokio::select! {
        end = &mut connection => {
            if let Err(error) = end {
                tracing::debug!("an admin connection ended: {error}");
            }
            false
        }
        () = client.ended() => true,
    };
    let socket = connection.into_parts().io.into_inner().into_inner();
    if !makes_room {
        tokio::select! {
            () = requests::linger(&socket) => {}
            () = client.ended() => {}
        }
    }
    socket
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", routes::only(get(|| async { INDEX }), "GET, HEAD"))
        .route("/metrics", routes::only(get(metrics), "GET, HEAD"))
        .route("/health/live", routes::only(get(health), "GET, HEAD"))
        .route("/health/ready", routes::only(get(health), "GET, HEAD"))
        .route("/connections", routes::only(get(connection_list::list_for_admin), "GET, HEAD"))
        .route("/rebalance", routes::only(post(rebalance::rebalance_for_admin), "POST"))
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

/// Refuses requests for other hosts: otherwise a web page whose name resolves to this address could read the
/// answers.
async fn check_host(State(admin): State<Arc<Admin>>, request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| host.to_str().unwrap_or("\u{fffd}"));
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
    // Monitors use many names for a server, and the answer has no secrets for a web page.
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
