//! A handler of axum returns a subscription, and the Fanfare engine writes its stream.
//!
//! # Why
//!
//! axum's own `Sse` keeps a task, a connection of hyper, buffers and a receiver for each subscriber. That is
//! the right tool for streams that differ from each other. Where many subscribers get the same events, the
//! engine does the same with about a hundred bytes for each, encodes an event once for all of them, and keeps
//! what is needed to resume after `Last-Event-ID`. With this crate the request stays axum's: routes,
//! extractors, state and layers decide about it, and fields that layers add to the response (CORS, cookies,
//! trace ids) arrive at the client.
//!
//! ```no_run
//! use axum::{Router, extract::State, routing::get};
//! use fanfare::{Engine, Event, Hub, Topic};
//! use fanfare_axum::{Error, Listener, Subscriber, Subscription};
//!
//! async fn news(State(hub): State<Hub>, sub: Subscriber) -> Result<Subscription, Error> {
//!     Ok(sub.to([Topic::new("news")?]).subscribe(&hub))
//! }
//!
//! async fn tell(State(hub): State<Hub>, text: String) -> Result<String, Error> {
//!     Ok(hub.publish(Event::new(Topic::new("news")?).with_data(text))?.last)
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let engine = Engine::builder().start()?;
//!     let app = Router::new().route("/news", get(news).post(tell)).with_state(engine.hub());
//!     let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(Listener::new(tcp), app).await?;
//!     Ok(())
//! }
//! ```
//!
//! # What happens to the socket
//!
//! ```text
//!  client          Listener's Io        hyper and axum                    engine
//!    |  GET /news       |                     |                              |
//!    |----------------->|-------------------->| layers, Subscriber, handler  |
//!    |                  |                     | Subscription: a head and a   |
//!    |                  |     the head        | body without bytes; layers   |
//!    |                  |<--------------------| add to the head              |
//!    |                  |                     |                              |
//!    |                  |--- the socket, the head, the subscription -------->|
//!    |                  |    end of the body  |                              |
//!    |                  |------------------->[ ] the task ends               |
//!    |<----- the head, then events, for as long as the client stays ---------|
//! ```
//!
//! 1. [`Listener`] wraps each socket in an [`Io`]. It passes bytes on, and looks at the beginning of each
//!    answer.
//! 2. [`Subscriber`] is the extractor. It refuses what cannot become a stream, and waits until earlier
//!    answers on the connection have been written.
//! 3. [`Subscription`] is a response with the status 200, the fields of a stream, and a mark: a random key in
//!    a field. hyper writes the head, after all layers, to the connection of the request.
//! 4. The `Io` finds the mark, keeps the head from the client, removes the mark, and gives the socket with
//!    the head to [`fanfare::Hub::adopt`]. To hyper the response has ended and the connection is closed, so
//!    its task ends.
//! 5. A shard of the engine sends the head, with `Fanfare-Gap: true` where events are missing, and the
//!    stream. From here on the subscriber costs the same as one that connected to the engine.
//!
//! The key decides which connection is taken over, and it is used once. So a stream cannot reach another
//! client than the one whose request was answered, whatever layers do in between.
//!
//! # What layers can do, and what they cannot
//!
//! - They see each request before the handler, and each response after it, with its final fields. They may
//!   answer themselves, wait, and add or change fields. What they set for the response applies to the stream.
//! - `TraceLayer` sees a response that ends at once and well. The length of the stream is the engine's to
//!   count.
//! - Time limits apply until the handler has answered. They do not end streams.
//! - They cannot change the body: its bytes do not pass through axum. Where a layer compresses the stream,
//!   puts bytes in front of it, or sets another status or `Content-Type`, the client gets a 500, and the log
//!   says why. (`tower_http`'s `CompressionLayer` leaves event streams alone by default.)
//! - A layer that replaces the body or the whole response gets its way: an ordinary response goes out.
//! - A layer that collects a body before it answers waits for the end of the stream. Here it gets an error
//!   after five seconds, and the log says why.
//! - HTTP/2, and TLS inside of the process, have bytes between the socket and the stream, so the engine
//!   cannot take such a socket over. Put a proxy in front that speaks HTTP/1.1 to this server. Over HTTP/2
//!   the extractor answers 505.
//!
//! # When the engine does not take a subscriber
//!
//! A busy engine is asked again for a second. Then the client gets 503 with `Retry-After`, together with the
//! fields of the layers. The same answer comes when the engine has stopped. Where the engine is full, a shard
//! answers as its limits say ([`fanfare::Limits::when_full`]), without the layers' fields. The same holds
//! where the client has as many connections as it may ([`fanfare::ClientLimits`]): streams count as its
//! connections, and ordinary requests do not.
//!
//! # Ways to use it
//!
//! - [`Listener`] under `axum::serve`, as above. [`serve`] does the same with the connect info
//!   [`Connection`], which handlers need where a layer runs them in tasks of their own.
//! - [`HandOverListener`]: the engine owns the port and admits subscribers itself, and axum serves the other
//!   requests. This costs least, because most subscribers never reach axum.
//! - [`Io`], [`Subscriber::from_parts`] and [`Subscription::into_http`] for hyper without axum.
//! - [`Error`] answers for what the engine refuses, so that handlers can use `?`.
//! - [`testing`] asks an application in memory, without a port, and reads its streams.
//!
//! The examples `handler`, `front`, `chat`, `tokens` and `hyper` run with `cargo run -p fanfare-axum
//! --example NAME`. `docs/guides/axum.md` in the repository is a tutorial.
//!
//! # Which code runs where
//!
//! Layers, extractors and handlers run in tasks of your runtime, as in every axum server. They may wait: the
//! request waits, and no stream does. Nothing of yours runs on the engine's threads.
//! [`fanfare::Hub::publish`] does not wait, so a handler may call it; [`fanfare::Hub::publish_async`] waits
//! for room.
//!
//! # What it costs
//!
//! While a request is handled it costs what a request costs in axum. Then a stream costs what it costs the
//! engine. With 10,000 idle streams a process took 120 bytes for each, beside 19,340 with axum's `Sse` over a
//! broadcast channel, and from 1,000 to 15,000 it grew by 58 to 71 bytes for each. A delivery took 1.9 to 2.3
//! us of CPU, beside 6.0 to 8.2.
//! `docs/BENCHMARKS.md` has the machine and the programs.
//!
//! # What is guaranteed
//!
//! The guarantees of the engine hold: events have one order, a client that resumes gets each later event
//! exactly once, the engine reports gaps, and everything has a bound. The documentation of [`fanfare`] has
//! them in full. In addition, a client gets the fields that layers add. A stream reaches no other client.
//! Answers to earlier requests on the connection come before the stream. A client whose stream cannot begin
//! gets an answer with a status and a reason.
//!
//! # Errors, and what to do
//!
//! - **The client**: [`SubscriberRejection`] answers a wrong method, a body, or HTTP/2, and
//!   [`Error::Subscribe`] and [`Error::Event`] answer a query or a name that is not valid, with 400.
//! - **The client, later**: 503 with `Retry-After` when the engine is busy or stops.
//! - **The author of the server**: a 500 says that the server runs without a [`Listener`], or that a layer
//!   has changed the stream. The log says which (crate `tracing`).
//!
//! # The end
//!
//! Streams belong to the engine, so `with_graceful_shutdown` does not wait for them. End the server first,
//! then the engine: [`fanfare::Engine::stop_async`] ends the streams between two events, within the time that
//! it is given.
//!
//! # What it needs
//!
//! A runtime of tokio with IO and time (`#[tokio::main]` has both). hyper's `pipeline_flush` joins answers to
//! requests that came together; where the head of a stream is joined with an earlier answer, the connection
//! is closed.

#![warn(missing_debug_implementations)]

mod address;
mod body;
mod connection;
mod error;
mod io;
mod listener;
mod problem;
mod settle;
mod socket;
mod subscriber;
mod takeover;
pub mod testing;

pub use address::Address;
pub use body::{NotTakenOver, SubscriptionBody};
pub use connection::Connection;
pub use error::Error;
pub use io::Io;
pub use listener::{HandOverListener, Listener, RouterOfConnection, WithConnection, serve};
pub use socket::Takeable;
pub use subscriber::{NewSubscription, Subscriber, SubscriberRejection, Subscription};

/// The programs of the guide are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/axum.md")]
mod guide {}
