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
//! - [`Engine`] starts, pins and stops the shards: one thread, one loop, one slab each.
//! - [`Hub`] publishes one event or a batch, at once or when there is room, adopts sockets, and counts.
//! - [`Reader`] reads what is published in the same process, as a thread or as a task.
//! - [`Admission`] decides about a request: subscribe it, refuse it, or hand it over to another server.
//!
//! `docs/ARCHITECTURE.md` follows an event through the code.

mod admission;
mod adopt;
mod connection;
mod counts;
mod descriptors;
mod engine;
mod hand_over;
mod hub;
mod inspect;
mod life_cycle;
pub mod listeners;
mod mailbox;
mod presence;
mod response;
mod shard;
mod shard_thread;
mod shared_log;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
mod stopping;
mod sync;
mod written_head;

pub use admission::{
    Admission, Answer, Decision, DecisionTicket, InvalidHeader, InvalidSubject, Later, Refusal, Request,
    Subscribe,
};
pub use adopt::{AdoptError, AdoptRefusal};
pub use connection::{ConnectionId, InvalidConnectionId};
pub use counts::{Counts, TopicCounts};
pub use descriptors::DescriptorLimit;
pub use engine::{Builder, Engine, StartError};
pub use fanfare_io::scheduling::prefer_short_runs;
pub use fanfare_io::sockets::SocketOptions;
pub use fanfare_io::{Backend, DescriptorTables, Wakes, collect_wakes};
pub use fanfare_proto::client_address::{ForwardedField, InvalidNetwork, TrustedProxies};
pub use fanfare_proto::cursor::{Cursor, Epoch};
pub use fanfare_proto::decoder::{DecodeError, Decoded, Decoder};
pub use fanfare_proto::event::{Event, EventId, EventType, InvalidEvent, Retry, Topic};
pub use fanfare_proto::form::form_fields;
pub use fanfare_proto::frame::{Checkpoint, HeartbeatForm, WireFormat};
pub use fanfare_proto::head::{HeadError, HeadLimits, HeadScanner, RequestHead};
pub use fanfare_proto::limits::{
    FullPolicy, LaggardPolicy, Limits, LogLimits, MAX_TOPICS_PER_EVENT, Retention, RetentionRule,
    TopicPattern,
};
pub use fanfare_proto::link::{Encoding, Transport};
pub use fanfare_proto::stream::CloseReason;
pub use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery};
pub use hand_over::{ConnectionOrigin, HandOver, HandedOver};
pub use hub::readers::{
    Gap, LogPage, ReadError, ReadItem, Reader, ReaderBuilder, ReaderError, ReceivedEvent,
};
pub use hub::{ConnectionError, Hub, Interrupted, NotPublished, PublishError, PublishFuture, Published};
pub use inspect::{InspectError, TopicsPage};
pub use life_cycle::{Closed, Connected, LifeCycle, LifeCycleEvent, Missed, NoLifeCycleEvent, Subscribed};
pub use listeners::{Listener, SharedProxies};
pub use stopping::{StopError, StopFuture};
pub use written_head::InvalidHead;
