//! The durable log: where events are kept so that an acknowledged event survives the end of the process.
//!
//! Start with [`Store`], the contract, and [`StoreReader`], its part that reads. [`MemoryStore`] keeps
//! nothing beyond the process and is for tests and for comparison. `DiskStore`, with the feature `disk`,
//! keeps its records in one directory. [`FaultyStore`] is a store that fails when it is told to. The
//! functions of [`conformance`] check what the contract says of any store.
//!
//! ```
//! use fanfare_proto::cursor::Epoch;
//! use fanfare_proto::event::{Event, Topic};
//! use fanfare_proto::limits::LogLimits;
//! use fanfare_store::{Bounds, Durability, MemoryStore, Query, Record, Store, StoreReader};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new(Epoch::new(7), LogLimits::default());
//! let event = Event::new(Topic::new("orders")?).with_data("42");
//! store.append(&[Record { number: 1, published_ms: 1_700_000_000_000, event }], Durability::Commit)?;
//! let page = store.read(Query::All, 0, Bounds::default())?;
//! assert_eq!(page.records[0].event.data(), Some("42"));
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

pub mod conformance;
mod contract;
#[cfg(feature = "disk")]
pub mod disk;
pub mod encoding;
mod error;
mod faulty;
mod memory;
mod record;

pub use contract::{
    Bounds, Durability, Gone, Page, Query, Retained, State, Store, StoreReader, Trimmed, View,
};
#[cfg(feature = "disk")]
pub use disk::DiskStore;
pub use error::Error;
pub use faulty::{Fault, FaultyStore};
pub use memory::MemoryStore;
pub use record::Record;
