//! The fan-out engine to embed: it keeps very many idle Server-Sent Events subscribers and writes the
//! same bytes to all of them.
//!
//! ```no_run
//! use fanfare::{Engine, Event, Topic};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().listen("127.0.0.1:8844".parse()?).start()?;
//! let hub = engine.hub();
//! hub.publish(Event::new(Topic::new("news")?).with_data("hello"))?;
//! # Ok(()) }
//! ```
//!
//! A browser subscribes with `new EventSource("http://127.0.0.1:8844/events?topic=news")`.
//!
//! - [`Engine`] starts and stops the threads that serve subscribers. [`Builder`] has its options and bounds.
//! - [`Hub`] publishes events, adopts sockets of other servers, ends connections, and counts.
//! - [`Admission`] is your code that decides about a request: subscribe it, refuse it, or answer it.
//! - [`Subscribe`] describes a subscription: topics, where it resumes, and the name of the subscriber.
//! - [`Reader`] reads events in the same process, as a thread or as a task.
//! - [`LifeCycle`] tells which connections begin and end.
//! - [`testing`] has clients for tests of your own server.
//!
//! `docs/guides/embedding.md` in the repository is a tutorial without any framework, and the crate
//! `fanfare-axum` lets handlers of axum return a subscription. `docs/ARCHITECTURE.md` follows an event
//! through the code.
//!
//! # How it is built
//!
//! ```text
//!   your threads and tasks                      the engine
//!
//!   hub.publish(event) ----> Hub: numbers, encodes once
//!                             |
//!                             |  appends                 pushes to the shards that read the topic
//!                             v                                      |
//!                        +---------+                 +---------------+---------------+
//!   hub.read, Reader <---|   log   |                 v               v               v
//!                        | events  |            +---------+     +---------+     +---------+
//!                        | by topic|<-----------| shard 0 |     | shard 1 |     | shard 2 |   a thread each
//!                        +---------+   resume,  +---------+     +---------+     +---------+
//!                                      slow       |  |  |         |  |  |         |  |  |
//!                                      readers    sockets         sockets         sockets
//!                                                 ^
//!   hub.adopt(socket, ...) -----------------------+  the next shard in turn
//! ```
//!
//! - The **hub** is the handle on all of it. It is cheap to clone, and every thread may use it.
//! - The **log** keeps the recent events of each topic in memory. There is one in the process, with bounds by
//!   number, bytes and age ([`LogLimits`]).
//! - A **shard** is a thread with its own listener and sockets, on epoll or io_uring. A connection stays with
//!   its shard.
//! - A **stream** is a subscription on a socket. It has no queue. It has a **cursor**, the number of the
//!   newest event up to which it was sent everything. To send is to write what the log has behind the cursor.
//! - A **laggard** is a stream whose socket takes no more bytes at the moment, or which still gets older
//!   events.
//!
//! # From the builder to a delivered event
//!
//! 1. [`Builder::start`] opens the listeners and starts a shard for each core. An error here is the
//!    operator's: a port is in use, or `RLIMIT_NOFILE` is too low ([`StartError`]).
//! 2. A client connects. A shard reads the head of its request, within [`Limits::head_time`] and
//!    [`Limits::head`].
//! 3. The [`Admission`] gets it as a [`Request`] and gives a [`Decision`]. Without one of yours, everyone may
//!    subscribe with `GET /events?topic=NAME`. A decision that needs a database comes later:
//!    [`Decision::later`].
//! 4. The shard writes the head of the answer, a reconnection time, and a first id. Then the stream is there.
//!    A client that came with `Last-Event-ID` gets what it has missed from the log first.
//! 5. [`Hub::publish`] gives the event a number, encodes it once, appends it to the log, and hands it to the
//!    shards that have subscribers of its topics. When it returns, every later subscriber and every resume
//!    sees the event.
//! 6. Each of these shards writes the same bytes to the sockets of its subscribers, from the cursor of each
//!    on. Several events that are due together go out in one write.
//! 7. A socket that takes no more makes its stream a laggard. It delays no other stream. When the socket has
//!    room again, the stream goes on from the log.
//! 8. [`Engine::stop`] refuses new events, sends the rest, and ends every stream between two events, so that
//!    clients come back to the next process.
//!
//! # Which code runs on which thread
//!
//! | thread | your code on it | may it block? |
//! |---|---|---|
//! | yours, and your runtime's | every call of [`Hub`], [`Engine`], [`Reader`], [`LifeCycle`] | it is yours |
//! | `fanfare-admission-N` | the admission of [`Builder::admission`] | yes: requests wait, streams do not |
//! | `fanfare-shard-N` | none, or that of [`Builder::admission_on_shards`] (`unsafe`) | never |
//! | `fanfare-waker` | `Waker::wake` of tasks that publish or read | no: other tasks wait |
//! | `fanfare-life-cycle` | the same of the task that reads life-cycle events | no |
//! | `fanfare-presence` | none: it publishes the members that join and leave | |
//! | `fanfare-stop` | none: it waits for the shards for [`Engine::stop_async`] | |
//!
//! Calls of the hub take locks for microseconds and do not wait for subscribers. These wait, with a bound
//! that you give: [`Hub::publish_wait`], [`Hub::topic`], [`Hub::topics_page`], [`Hub::topic_counts`],
//! [`Hub::connections_page`], [`Reader::next_wait`], [`LifeCycle::next_wait`], and [`Engine::stop`]. In tasks
//! use [`Hub::publish_async`], [`Reader::next`], [`LifeCycle::next`] and [`Engine::stop_async`]: any executor
//! will do.
//!
//! The engine installs no signal handler, logs nothing, and starts no runtime. It changes limits of the
//! process only where [`Builder::raise_descriptor_limit`] asks for it.
//!
//! # What things cost
//!
//! Measured on two cores of a Xeon, with 200-byte events; `docs/BENCHMARKS.md` has the machine, the programs,
//! and more.
//!
//! | what | cost |
//! |---|---|
//! | an idle subscriber, all of one topic | 57 bytes in the process, and the kernel's socket |
//! | an idle subscriber with a topic of its own | 393 bytes, the topic's included |
//! | both ends of a connection, in the kernel | 8.3 KB |
//! | a delivery to one of 15,000 subscribers | 2.0 to 2.1 us of CPU, 96 % of them the kernel's |
//! | to open a stream | 25 us of CPU |
//! | a publish of one event, with a reader | 48 to 55 us of CPU, the wakes of shards included |
//! | an event of a batch of 256 | 0.7 us |
//! | an admission on a thread, at 20,000 a second | 12 to 13 us more than on the shard |
//!
//! An event is in memory once, whatever the number of its subscribers. The log takes at most
//! [`LogLimits::total_bytes`] (64 MiB); slow subscribers, mailboxes and subscriptions have bounds beside it.
//! [`Limits::memory_bounds`] lists and adds them.
//!
//! # What is guaranteed
//!
//! - **One order.** All events have one order over all topics. Every subscriber and every [`Reader`] sees the
//!   events of its topics in this order, and none is missing in between unless a gap says so.
//! - **Exactly once, with resume.** A client that comes back with the id of its last event gets every later
//!   event of its topics once, as long as the log has them.
//! - **Gaps are told.** Where the log no longer has an event that a client needs, the client is told: the
//!   field `Fanfare-Gap: true` in the head, and the event `fanfare.gap` in the stream. Where it is not
//!   sure that an event is missing, the engine tells of a gap as well.
//! - **Whole events.** A stream ends between two events, or its connection is cut, and then browsers drop the
//!   part.
//! - **Everything is bounded.** Each bound has a name in [`Limits`], and what happens there is an answer: an
//!   error, a status, a gap, or the end of one stream with its [`CloseReason`].
//! - **Fairness.** A slow subscriber delays no other one. A publisher that waits is served in a fair order.
//!
//! What is not:
//!
//! - **A published event is not a received one.** [`Published`] says that the event has its place in the
//!   order. No client acknowledges anything.
//! - **Nothing is on disk** unless [`Builder::store`] says where. Without a store the log ends with the
//!   process. [`Builder::position_file`] lets the numbers go on after a restart, so that a client that had
//!   everything resumes without a gap.
//! - **One process**, unless engines share a log ([`Builder::backplane`]). Engines do not talk to each other.
//! - **A slow subscriber may be cut.** When the log drops what it needs, it is disconnected and resumes, or
//!   skips and is told ([`LaggardPolicy`]). When most subscribers are slow at once, publishers get
//!   [`PublishError::Busy`] instead.
//!
//! # Errors, and what to do
//!
//! - **The operator** reads [`StartError`] and [`StopError`]: the message says what is missing.
//! - **The author of the program** avoids [`InvalidEvent`], [`InvalidHeader`], [`InvalidHead`],
//!   [`InvalidSubject`] and [`ReaderError`]: they come of text that was not checked, or of a bound that is
//!   too low.
//! - **A publisher tries again** in some milliseconds, or uses a call that waits: [`PublishError::Busy`],
//!   [`AdoptRefusal::Busy`], [`ConnectionError::Busy`], [`InspectError::Busy`].
//! - **A publisher changes the event**: [`PublishError::TooLarge`], [`PublishError::ReservedId`] and
//!   [`PublishError::Empty`]. [`PublishError::event_at_fault`] says which event.
//! - **A client** gets a [`Refusal`] with a [`ProblemKind`] and a reason for [`SubscribeError`] and
//!   [`HeadError`].
//! - **The caller ends, too**, where an error is `Stopped`: the engine drains, or has ended.
//!
//! Errors give back what was not taken: [`NotPublished::event`], the rest in the vector of a batch,
//! [`AdoptError::into_parts`]. `WouldBlock` comes only on a shard's thread. Text from outside never panics;
//! the panics that there are, are mistakes of the program, and each is documented at its call.

#![warn(missing_debug_implementations)]

mod admission;
mod adopt;
mod backplane;
mod chunk_table;
mod client_table;
mod connection;
mod counts;
mod descriptors;
mod engine;
mod hand_over;
mod history;
mod hub;
mod inspect;
mod joins;
mod life_cycle;
pub mod listeners;
mod mailbox;
mod orders;
mod position;
mod presence;
mod rate_limiter;
mod response;
mod shard;
mod shard_thread;
mod shared_log;
#[cfg(feature = "sim")]
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "the simulator prints its own state")]
pub mod sim;
mod stopping;
mod store;
mod sync;
pub mod testing;
mod written_head;

pub use admission::{
    Admission, Answer, Decision, DecisionTicket, InvalidHeader, InvalidSubject, Later, Refusal, Request,
    Subscribe,
};
pub use adopt::{AdoptError, AdoptRefusal};
pub use backplane::{Accepted, Backplane, Feed, FeedError, LogBreak, NotAccepted, Submission, SubmitFailure};
pub use connection::{ConnectionId, InvalidConnectionId};
pub use counts::{Counts, Timings, TopicCounts};
pub use descriptors::DescriptorLimit;
pub use engine::{Builder, Engine, StartError};
pub use fanfare_io::scheduling::prefer_short_runs;
pub use fanfare_io::sockets::SocketOptions;
pub use fanfare_io::table::allow_profiling_signal;
pub use fanfare_io::{Backend, DescriptorTables, Wakes, collect_wakes};
pub use fanfare_proto::client_address::{ForwardedField, InvalidNetwork, TrustedProxies};
pub use fanfare_proto::client_limits::{
    ClientLimits, IPV6_PREFIX_BITS, Operators, Rate, bound_for, reserve_of,
};
pub use fanfare_proto::cursor::{Cursor, Epoch};
pub use fanfare_proto::decoder::{DecodeError, Decoded, Decoder};
pub use fanfare_proto::event::{Event, EventId, EventType, InvalidEvent, Retry, Topic};
pub use fanfare_proto::form::form_fields;
pub use fanfare_proto::frame::{Checkpoint, HeartbeatForm, WireFormat};
pub use fanfare_proto::head::{HeadError, HeadLimits, HeadScanner, RequestHead};
pub use fanfare_proto::histogram::Histogram;
pub use fanfare_proto::limits::{
    FullPolicy, LaggardPolicy, Limits, LogLimits, MAX_TOPICS_PER_EVENT, Retention, RetentionRule,
    TopicPattern,
};
pub use fanfare_proto::link::{Encoding, Transport};
pub use fanfare_proto::pattern::{Pattern, PatternError};
pub use fanfare_proto::problem::ProblemKind;
pub use fanfare_proto::share::{InvalidShare, Share};
pub use fanfare_proto::stream::CloseReason;
pub use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery, is_resume_parameter};
pub use fanfare_store::{Durability, Store, StoreReader};
pub use hand_over::{ConnectionOrigin, HandOver, HandedOver};
pub use hub::readers::{
    Gap, LogPage, ReadError, ReadItem, Reader, ReaderBuilder, ReaderError, ReceivedEvent,
};
pub use hub::{
    ConnectionError, CountedConnection, Duplicate, Hub, Interrupted, NotPublished, PublishError,
    PublishFuture, Published, ReadyFuture, Shedding, TooManyConnections,
};
pub use inspect::connections::{ConnectionFilter, ConnectionLag, ConnectionState, ConnectionsPage};
pub use inspect::{InspectError, TopicsPage};
pub use joins::TopicJoins;
pub use life_cycle::{Closed, Connected, LifeCycle, LifeCycleEvent, Missed, Subscribed};
pub use listeners::{Listener, SharedProxies};
pub use orders::DecisionStart;
pub use presence::Member;
pub use rate_limiter::{RateKey, RateLimiter};
pub use stopping::{StopError, StopFuture};
pub use store::{StoreFailure, StoreFigures, StoreOptions};
pub use written_head::InvalidHead;

/// The programs of the guide are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/embedding.md")]
mod guide {}
