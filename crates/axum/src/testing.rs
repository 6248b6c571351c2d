//! Asks an application as a client does, for tests: without a port, and with real streams.
//!
//! ```
//! use axum::{Router, extract::State, routing::get};
//! use fanfare::{Engine, Event, Hub, Topic};
//! use fanfare_axum::{Error, Subscriber, Subscription, testing};
//!
//! async fn news(State(hub): State<Hub>, sub: Subscriber) -> Result<Subscription, Error> {
//!     Ok(sub.to([Topic::new("news")?]).subscribe(&hub))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().shards(1).start()?;
//! let app = Router::new().route("/news", get(news)).with_state(engine.hub());
//! let mut client = testing::get(&app, "/news").await?;
//! engine.hub().publish(Event::new(Topic::new("news")?).with_data("hello"))?;
//! assert_eq!(client.next().await?.expect("the stream goes on").data(), "hello");
//! # Ok(()) }
//! ```
//!
//! Each call is a connection of its own: a pair of Unix sockets, which `axum::serve` serves. When a call
//! returns, the client has the head of its answer; where that is a stream, it is subscribed. So tests need
//! not wait: [`fanfare::testing`] says more. Connect infos other than [`Connection`] are not there.

use std::future::pending;
use std::io;
use std::os::unix::net;

use axum::Router;
use axum::serve;
use fanfare::testing::Client;
use http::{HeaderName, Request, header};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

#[cfg(doc)]
use crate::Connection;

/// Sends a GET for this target, such as `/room/tea?name=Ann`.
///
/// # Errors
/// As [`send`].
pub async fn get(app: &Router, target: &str) -> io::Result<Client> {
    send(app, Request::get(target).body(String::new()).map_err(invalid)?).await
}

/// Sends a POST for this target, with this body.
///
/// # Errors
/// As [`send`].
pub async fn post(app: &Router, target: &str, body: impl Into<String>) -> io::Result<Client> {
    send(app, Request::post(target).body(body.into()).map_err(invalid)?).await
}

/// Sends any request. `Host` and `Content-Length` are added where it has none.
///
/// # Errors
/// The target is none (`InvalidInput`); the system refuses a socket or a thread; the connection ends before
/// the head of an answer (`UnexpectedEof`); no head comes for ten seconds (`TimedOut`).
///
/// # Panics
/// Outside of a runtime of tokio with IO.
pub async fn send(app: &Router, request: Request<String>) -> io::Result<Client> {
    let (client, server) = net::UnixStream::pair()?;
    client.set_nonblocking(true)?;
    let mut client = UnixStream::from_std(client)?;
    server.set_nonblocking(true)?;
    let listener = OneConnection(Some(UnixStream::from_std(server)?));
    let server = tokio::spawn(crate::serve(listener, app.clone()).into_future());
    let _ends = End(server.abort_handle());
    client.write_all(&bytes_of(&request)).await?;
    Client::open(client.into_std()?).await
}

/// The request as HTTP/1.1 writes it. Names and values of `http` have no line ends.
fn bytes_of(request: &Request<String>) -> Vec<u8> {
    let (fields, body) = (request.headers(), request.body());
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut bytes = format!("{} {target} HTTP/1.1\r\n", request.method()).into_bytes();
    let mut field = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    };
    fields.iter().for_each(|(name, value)| field(name, value.as_bytes()));
    if !fields.contains_key(header::HOST) {
        field(&header::HOST, b"localhost");
    }
    if !fields.contains_key(header::CONTENT_LENGTH) && !body.is_empty() {
        field(&header::CONTENT_LENGTH, body.len().to_string().as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn invalid(error: http::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// A listener that accepts one connection.
struct OneConnection(Option<UnixStream>);

impl serve::Listener for OneConnection {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        match self.0.take() {
            Some(socket) => (socket, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends the listener's task. Its connection has a task of its own, which goes on until its answer is written.
struct End(tokio::task::AbortHandle);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abort();
    }
}
