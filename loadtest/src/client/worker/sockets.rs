//! Sockets of the kernel, edge-triggered: each is registered once, and read until a short read.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::transport::{Opening, Transport, Turn};
use super::{Worker, token};
use crate::client::subscriber::State;
use crate::client::{Control, Plan};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::sys;

const WAKER: Token = Token(usize::MAX);
/// Notifications that are taken at a time.
const BATCH: usize = 1_024;
/// One read takes at most so much.
const READ_BYTES: usize = 64 * 1024;
/// Full reads of one stream before the others have their turn.
const FULL_READS: usize = 16;

/// The sockets of a worker, by the place of their subscriber.
pub(super) struct Sockets {
    poll: Poll,
    sockets: Vec<Option<OwnedFd>>,
    buffer: Vec<u8>,
    /// Empty while a turn works it off.
    events: Events,
}

impl Transport for Sockets {
    fn new(_: usize, _: &Plan, control: &Control, subscribers: usize) -> io::Result<Sockets> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&control.waker.number()), WAKER, Interest::READABLE)?;
        let sockets = std::iter::repeat_with(|| None).take(subscribers).collect();
        Ok(Sockets { poll, sockets, buffer: vec![0; READ_BYTES], events: Events::with_capacity(BATCH) })
    }

    fn turn(worker: &mut Worker<'_, Sockets>, patience: Option<Duration>) -> io::Result<Turn> {
        let Sockets { poll, events, .. } = &mut worker.transport;
        let waited = poll.poll(events, patience);
        let woken = clock::now();
        let events = std::mem::replace(&mut worker.transport.events, Events::with_capacity(0));
        let mut told = false;
        for event in &events {
            if event.token() == WAKER {
                worker.control.waker.clear();
                told = true;
            } else if let Err(failure) = worker.notified(event) {
                worker.common.fail(failure);
            }
        }
        let busy = !events.is_empty();
        worker.transport.events = events;
        waited.map(|()| Turn { woken, busy, told })
    }

    fn connect(&mut self, plan: &Plan, opening: &Opening) -> io::Result<bool> {
        let source = plan.sources.of(plan.own_number(opening.number));
        let (socket, connected) = sys::connect(opening.target, source, opening.receive_buffer)?;
        // Told once of each change, so there is no need to take the interest in writing back.
        let interest = if connected { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let token = token(opening.index, opening.generation);
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, interest)?;
        self.sockets[opening.index] = Some(socket);
        Ok(connected)
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> io::Result<usize> {
        match &self.sockets[index] {
            Some(socket) => sys::send(socket.as_raw_fd(), bytes),
            None => Ok(bytes.len()),
        }
    }

    fn close(&mut self, index: usize) {
        self.sockets[index] = None;
    }

    fn has(&self, index: usize) -> bool {
        self.sockets[index].is_some()
    }

    /// What comes is notified and left alone.
    fn stall(&mut self, _: usize) {}

    /// What came meanwhile is notified again.
    fn read_again(worker: &mut Worker<'_, Sockets>, index: usize) -> io::Result<u64> {
        let Sockets { poll, sockets, .. } = &worker.transport;
        let Some(socket) = &sockets[index] else { return Ok(0) };
        let token = token(index, worker.subscribers[index].generation);
        poll.registry().reregister(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(sys::unread(socket.as_raw_fd()).unwrap_or(0))
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Worker<'_, Sockets> {
    fn notified(&mut self, event: &Event) -> Outcome<()> {
        let index = event.token().0 & 0xFFFF_FFFF;
        let Some(subscriber) = self.subscribers.get(index) else { return Ok(()) };
        if token(index, subscriber.generation) != event.token() {
            return Ok(());
        }
        let Some(socket) = &self.transport.sockets[index] else { return Ok(()) };
        if subscriber.state == State::Connecting {
            if let Err(error) = sys::socket_error(socket) {
                return self.not_opened(index, &error);
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.ask(index)?;
            if !event.is_readable() && !event.is_read_closed() {
                return Ok(());
            }
        } else if subscriber.stalled {
            let gone = event.is_error() || event.is_write_closed();
            return if gone { self.ended(index, "it was closed") } else { Ok(()) };
        }
        let mut buffer = std::mem::take(&mut self.transport.buffer);
        let result = self.read(index, event, &mut buffer);
        self.transport.buffer = buffer;
        result
    }

    /// Reads until there is nothing left, because what is left is not notified again.
    fn read(&mut self, index: usize, event: &Event, buffer: &mut [u8]) -> Outcome<()> {
        for _ in 0..FULL_READS {
            // The bytes of the turn before may have ended the stream.
            let Some(socket) = &self.transport.sockets[index] else { return Ok(()) };
            if token(index, self.subscribers[index].generation) != event.token() {
                return Ok(());
            }
            match sys::receive(socket.as_raw_fd(), buffer) {
                Ok(0) => return self.ended(index, "it was closed"),
                Ok(length) => {
                    self.arrived(index, &buffer[..length])?;
                    // A short read took all there was, unless the end was notified together with it.
                    if length < READ_BYTES && !event.is_read_closed() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.ended(index, &error.to_string()),
            }
        }
        let Some(socket) = &self.transport.sockets[index] else { return Ok(()) };
        self.transport
            .poll
            .registry()
            .reregister(&mut SourceFd(&socket.as_raw_fd()), event.token(), Interest::READABLE)
            .map_err(|error| Failure::new(format!("epoll_ctl: {error}")))
    }
}
