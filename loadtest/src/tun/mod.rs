//! A TCP client in user space over a TUN device: subscribers without kernel sockets.
//!
//! The kernel's end of a subscriber is a socket of 4 KB and some system calls for each delivery. Here it is
//! 48 bytes, and the packets of all subscribers are read and written in batches through one descriptor.
//!
//! - [`packet`] reads and writes IPv4 packets with TCP segments,
//! - [`connection`] is the state machine of one connection,
//! - [`stack`] finds connections by address and port, and keeps their timers,
//! - [`outbox`] holds packets until they are written,
//! - [`device`] reads and writes them,
//! - [`network`] divides addresses between threads.

mod connection;
mod device;
#[cfg(test)]
mod kernel_tests;
mod network;
mod outbox;
mod packet;
#[cfg(test)]
mod simulation;
mod stack;
mod sys;

pub(crate) use connection::{Ended, LARGEST_WINDOW};
pub(crate) use device::{Device, LARGEST_SEGMENT};
pub(crate) use network::Networks;
pub(crate) use stack::{Counts, Heard, Id, Settings, Stack};
