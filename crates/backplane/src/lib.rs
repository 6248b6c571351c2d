//! One log for several Fanfare nodes: a stream of NATS JetStream.
//!
//! [`NatsBackplane`] implements [`fanfare::Backplane`]. Each node publishes to the stream and reads it, so
//! all nodes deliver the same events in one order and with the same ids: `<epoch>-<number>`, where the number
//! is the sequence number of the stream.
//!
//! ```no_run
//! use fanfare_backplane::{NatsBackplane, NatsOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backplane = NatsBackplane::connect(NatsOptions::new(["nats://127.0.0.1:4222"]))?;
//! let engine = fanfare::Engine::builder().backplane(backplane.clone()).start()?;
//! assert!(backplane.status().is_connected);
//! # engine.stop(std::time::Duration::ZERO)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Events as messages
//!
//! Other NATS programs may publish events and read them. An event is one message of the stream:
//!
//! | of the event | of the message |
//! |---|---|
//! | a single topic | the subject: `orders/42` is `fanfare.orders.42` |
//! | several topics | the subject `fanfare.$multi`, and the header [`TOPICS_HEADER`] |
//! | data | the payload, in UTF-8; [`NO_DATA_HEADER`] where there is none |
//! | own id | the header `Nats-Msg-Id`, or [`ID_HEADER`] where it cannot be there |
//! | type | the header [`TYPE_HEADER`] |
//! | retry | the header [`RETRY_HEADER`], in milliseconds |
//! | whether it is private | the header [`PRIVATE_HEADER`]: `true` |
//!
//! A message without headers is an event with data alone. In a subject a `/` of the topic is a dot. What a
//! subject cannot have is percent-encoded, in upper case and in UTF-8: `.`, `*`, `>`, `%`, white space,
//! U+FFFD, and a `$` at the beginning of a part between slashes; a part without characters is `%` alone. No
//! other character is.
//!
//! The values of [`ID_HEADER`] and [`TYPE_HEADER`] are the text itself, or a JSON string, with its quotation
//! marks, where the text begins with one, or begins or ends with white space. [`TOPICS_HEADER`] is a JSON
//! array of strings.
//!
//! A `Nats-Msg-Id` that no event can bear, that has the form of an id of Fanfare (`<epoch>-<number>`), or
//! that begins with [`RESERVED_ID_PREFIX`], is no own id: the event has none. Fanfare gives such an id to
//! each event without an own id, so that it can send it again.
//!
//! A message is no event, is left out, and is counted ([`NatsStatus::messages_without_event`]), where its
//! subject is no topic's, where its payload is no UTF-8, or where a header of Fanfare is there twice or makes
//! no sense.
//!
//! # What is promised
//!
//! - A publish is answered when the stream has acknowledged it. It is sent again over a new connection and
//!   where no acknowledgement comes, and is there once.
//! - An own id belongs to the topics that it was published to. The stream knows it for the length of its
//!   duplicate window.
//! - The events of one publish keep their order while the connection lasts. Where an acknowledgement is
//!   missing, an event may stand behind events that were sent later.
//! - NATS acknowledges before an event is on stable storage, unless `sync_interval: always` is set: a power
//!   cut of all servers with copies may lose what was acknowledged. Where the numbers go back, the nodes give
//!   a new epoch, and subscribers learn of a gap.

mod api;
mod backplane;
mod bucket;
mod cluster;
mod consumer;
mod epoch;
mod error;
mod feeder;
mod holes;
mod keep;
mod link;
mod message;
mod nodes;
mod options;
mod probe;
mod reader;
mod recent;
mod retained;
mod runs;
mod shared;
mod status;
mod stream;
mod submitter;
mod sync;
mod topics;
mod verdict;
mod watcher;

pub use backplane::NatsBackplane;
pub use cluster::SharedValue;
pub use error::{ConnectError, ConnectErrorKind};
pub use keep::KeepError;
pub use message::{
    ID_HEADER, NO_DATA_HEADER, PRIVATE_HEADER, RESERVED_ID_PREFIX, RETRY_HEADER, TOPICS_HEADER, TYPE_HEADER,
};
pub use nodes::TellError;
pub use options::NatsOptions;
pub use status::NatsStatus;
