//! axum with a broadcast channel, as its documentation would have it.

use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast::{Sender, channel};
use tokio_stream::wrappers::BroadcastStream;

use crate::failure::{Failure, Outcome};

/// Serves; a slow subscriber may be `queue` events behind.
pub(super) fn serve(listener: TcpListener, queue: usize) -> Outcome<()> {
    let failed = |error| Failure::new(format!("axum-sse: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let listener = listener.tap_io(|socket| {
            // Without it an event may wait for the acknowledgement of the last.
            let _ = socket.set_nodelay(true);
        });
        let router = Router::new()
            .route("/events/{topic}", get(subscribe).post(publish))
            .with_state(channel::<String>(queue).0);
        axum::serve(listener, router).await.map_err(failed)
    })
}

async fn subscribe(
    State(events): State<Sender<String>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Who falls behind skips, which the channel reports as an error.
    let stream = BroadcastStream::new(events.subscribe())
        .filter_map(|event| std::future::ready(event.ok().map(|data| Ok(Event::default().data(data)))));
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

async fn publish(State(events): State<Sender<String>>, body: String) {
    // An error says that there is no subscriber.
    let _ = events.send(body);
}
