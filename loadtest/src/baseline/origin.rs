//! What stands behind Pushpin: it answers every subscriber's request by telling Pushpin to hold the stream.

use std::net::{Ipv4Addr, SocketAddrV4};

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderValue;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::failure::{Failure, Outcome};
use crate::sys;

pub(super) fn serve(port: u16) -> Outcome<()> {
    let failed = |error| Failure::new(format!("the origin on port {port}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let listener = sys::listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), false).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        axum::serve(listener, Router::new().route("/{topic}", get(hold))).await.map_err(failed)
    })
}

/// Everything is published to the channel of the topic's name. There is no first comment in a body, because
/// Pushpin 1.36 then ends some of the streams that are opened at the same time ("received message out of
/// sequence").
async fn hold(Path(topic): Path<String>) -> Result<impl IntoResponse, axum::http::StatusCode> {
    let channel = HeaderValue::try_from(topic).map_err(|_| axum::http::StatusCode::BAD_REQUEST)?;
    let headers = [
        ("content-type", HeaderValue::from_static("text/event-stream")),
        ("cache-control", HeaderValue::from_static("no-store")),
        ("grip-hold", HeaderValue::from_static("stream")),
        ("grip-channel", channel),
        ("grip-keep-alive", HeaderValue::from_static(":\\n\\n; format=cstring; timeout=15")),
    ];
    Ok(headers)
}
