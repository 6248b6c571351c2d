//! Every system call of the engine, and its `unsafe`.
//!
//! Start with [`Io`], the contract; [`epoll`] and [`uring`] implement it. A [`Backend`] chooses between them,
//! and [`DescriptorTables`] between descriptor tables. The rest is what a shard needs around it: [`sockets`]
//! and [`unix_socket`] to listen on, [`activation`] by systemd, a [`Waker`] to be called by, a descriptor
//! [`table`] of its own, an [`fd_channel`] that carries sockets between such tables, a [`Clock`],
//! [`affinity`] to a core, and [`scheduling`] beside others.

#![warn(missing_docs)]

pub mod activation;
pub mod affinity;
mod backend;
pub mod clock;
mod contract;
pub mod epoll;
mod errors;
pub mod fd_channel;
mod open;
pub mod scheduling;
pub mod sockets;
pub mod table;
mod table_choice;
pub mod unix_socket;
pub mod uring;
mod waker;

pub use backend::{Backend, Resolved};
pub use clock::Clock;
pub use contract::{Cause, Exception, Io, Notification, Peer, Received, Socket, Token};
pub use table_choice::{DescriptorTables, ResolvedTables};
pub use waker::{Waker, Wakes, collect_wakes};

/// Tokens are carried through epoll and mio in a `usize`.
const _: () = assert!(usize::BITS == 64, "fanfare-io needs a 64-bit target");
