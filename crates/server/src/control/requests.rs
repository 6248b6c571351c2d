//! The requests of a connection: their heads are checked, and each answer says whether it is the last one.
//! The public listeners and the admin listener share this.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use fanfare::HeadLimits;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1::{self, Connection};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::control_connections::ControlConnection;
use super::head_guard::{self, HeadGuard};
use super::limits::{HEAD_TIME, LINGER, LINGER_BYTES, READ_BYTES};
use super::problem::Problem;
use super::unread::Watched;

/// Marks a response as a stream: its connection does not become idle, and makes room for no other. There are
/// fewer streams than connections.
#[derive(Clone, Copy)]
pub(super) struct StaysOpen;

/// Serves the requests of a connection, one after the other. `received` was read from the socket before.
/// `answer` gets each request, and a problem instead of a request whose head is refused.
pub(super) fn serve<'c, F: Future<Output = Response<Body>> + Send>(
    received: Vec<u8>,
    socket: TcpStream,
    limits: HeadLimits,
    client: &'c Arc<ControlConnection>,
    answer: impl Fn(Option<Problem>, Request<Watched>) -> F + Send + 'c,
) -> Connection<
    TokioIo<HeadGuard>,
    impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> + Send,
> {
    let max_headers = limits.max_headers;
    let socket = HeadGuard::new(received, socket, limits, Arc::clone(client));
    let refused = socket.refused();
    let service = service_fn(move |request: Request<Incoming>| {
        client.begins();
        let refusal = refused.get().map(|error| Problem::from(*error));
        let is_last = refusal.is_some() || head_guard::is_last(request.headers());
        let (head, body) = request.into_parts();
        let (body, unread) = Watched::new(body);
        let answer = answer(refusal, Request::from_parts(head, body));
        async move {
            // A connection that sends many requests at once would be served until all of them are answered: a
            // thousand fit into its buffer. Now each connection has one request for each turn.
            tokio::task::yield_now().await;
            let mut response = answer.await;
            if is_last || unread.load(Ordering::Relaxed) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if response.extensions().get::<StaysOpen>().is_none() {
                client.answers(response.body().size_hint().exact().unwrap_or(0) as usize);
            }
            Ok(response)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_BYTES)
        .max_headers(max_headers)
        .serve_connection(TokioIo::new(socket), service)
}

/// Discards the bytes that still come, so that the close does not reset the connection under the last answer
/// (RFC 9112, section 9.6). A client that goes on with a large body is cut off: to read 800 MB a second from
/// 20 of them delayed publishes by 350 ms.
pub(super) async fn linger(socket: &TcpStream) {
    let mut ignored = [0; 4096];
    let mut left = LINGER_BYTES;
    let _ = tokio::time::timeout(LINGER, async {
        while left > 0 && socket.readable().await.is_ok() {
            match socket.try_read(&mut ignored) {
                Ok(count @ 1..) => {
                    left = left.saturating_sub(count);
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    })
    .await;
}
