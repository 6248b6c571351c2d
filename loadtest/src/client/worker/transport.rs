//! How the streams of a worker reach the server: over sockets of the kernel, or over a TUN device.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Worker;
use crate::client::{Control, Plan};

/// What a subscriber is to be connected with.
pub(super) struct Opening {
    /// The subscriber's place in the worker, and how many connections it had before.
    pub(super) index: usize,
    pub(super) generation: u32,
    /// The subscriber's number in the whole run.
    pub(super) number: usize,
    pub(super) target: SocketAddr,
    /// In bytes; 0: as large as usual.
    pub(super) receive_buffer: usize,
}

/// What a turn of the loop brought.
pub(super) struct Turn {
    /// When it was woken.
    pub(super) woken: u64,
    /// Something happened, so that the turn is worth to be measured.
    pub(super) busy: bool,
    /// A command waits.
    pub(super) told: bool,
}

/// A transport must hold the connections of one worker, by the places of their subscribers, one for each at
/// most.
///
/// [`Self::turn`] tells the worker what happened, by its methods `ask`, `received`, `not_opened` and `ended`;
/// all other methods only do what they say. A connection that was closed is not heard of again.
pub(super) trait Transport: Sized {
    /// Is called by the worker's own thread, and watches the waker.
    fn new(index: usize, plan: &Plan, control: &Control, subscribers: usize) -> io::Result<Self>;

    /// Waits for so long at most, and works off what happened.
    fn turn(worker: &mut Worker<'_, Self>, patience: Option<Duration>) -> io::Result<Turn>;

    /// Starts to connect. `true`: it is connected already.
    fn connect(&mut self, plan: &Plan, opening: &Opening) -> io::Result<bool>;

    /// Sends to the server, and returns how many bytes were taken.
    fn send(&mut self, index: usize, bytes: &[u8]) -> io::Result<usize>;

    /// Ends the connection, if there is one.
    fn close(&mut self, index: usize);

    /// Whether there is a connection.
    fn has(&self, index: usize) -> bool;

    /// What arrives is not read any more.
    fn stall(&mut self, index: usize);

    /// It is read again. Returns how many bytes have waited.
    fn read_again(worker: &mut Worker<'_, Self>, index: usize) -> io::Result<u64>;

    /// What it counted below the streams, each with its name for the report.
    fn counts(&self) -> Vec<(&'static str, u64)>;
}
