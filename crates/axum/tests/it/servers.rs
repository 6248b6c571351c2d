//! Engines and axum servers to test.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use fanfare::{Backend, Builder, DescriptorTables, Engine, Event, Hub, Topic};
use fanfare_axum::{Error, Listener, Subscriber, Subscription};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) fn engine() -> Engine {
    Engine::builder().shards(1).start().unwrap()
}

/// Builders of engines with every kind of descriptor table on every backend that this machine has.
pub(crate) fn builders() -> Vec<(String, Builder)> {
    let mut builders = Vec::new();
    for backend in [Backend::Epoll, Backend::IoUring] {
        if backend == Backend::IoUring && std::env::var_os("FANFARE_NO_IO_URING").is_some() {
            continue;
        }
        for tables in [DescriptorTables::Shared, DescriptorTables::Private] {
            let builder = Engine::builder().shards(2).backend(backend).descriptor_tables(tables);
            builders.push((format!("{backend:?} {tables:?}"), builder));
        }
    }
    builders
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn publish(hub: &Hub, name: &str, data: &str) -> String {
    hub.publish(Event::new(topic(name)).with_data(data)).unwrap().last
}

/// The handler that most tests use: the topic is the last part of the path.
pub(crate) async fn subscribe(
    State(hub): State<Hub>,
    Path(name): Path<String>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    Ok(sub.to([Topic::new(name)?]).subscribe(&hub))
}

/// The same for clients that want everything.
async fn subscribe_to_all(
    State(hub): State<Hub>,
    Path(name): Path<String>,
    sub: Subscriber,
) -> Result<Subscription, Error> {
    Ok(sub.to([Topic::new(name)?]).from_earliest().subscribe(&hub))
}

pub(crate) fn router(hub: &Hub) -> Router {
    let routes = Router::new()
        .route("/events/{topic}", get(subscribe).post(|body: String| async move { body }))
        .route("/all/{topic}", get(subscribe_to_all))
        .route("/text", get(|| async { "a text" }));
    routes.with_state(hub.clone())
}

/// Serves over plain `axum::serve`, until the runtime ends.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    serve_until(app, std::future::pending()).await.0
}

/// The same, with a graceful shutdown.
pub(crate) async fn serve_until(
    app: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let server = axum::serve(Listener::new(tcp), app).with_graceful_shutdown(end);
    (address, tokio::spawn(async { server.await.unwrap() }))
}
