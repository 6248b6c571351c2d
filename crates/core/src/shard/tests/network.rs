//! A network in memory, from one seed: sockets with little room, notifications that come late, twice or
//! in pieces, clients that reset and half-close, descriptors that run out.
//!
//! It holds the shard to the contract of `Io` too: nothing is sent behind the end of a stream, nothing is
//! done to a closed socket, each socket is watched once and closed once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use fanfare_io::{Cause, Exception, Io, Notification, Received, Socket, Token};

use super::Random;

const ECONNRESET: i32 = 104;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

pub(super) struct Network {
    random: Random,
    /// Nothing is refused.
    pub(super) calm: bool,
    wires: BTreeMap<Socket, Wire>,
    /// Connections that nobody has accepted.
    backlog: VecDeque<Socket>,
    listening: bool,
    accept_paused: bool,
    notifications: VecDeque<Notification>,
    /// Copies that come once more, some time.
    echoes: Vec<Notification>,
    next_socket: Socket,
}

/// One connection, seen from both ends.
#[derive(Default)]
pub(super) struct Wire {
    /// What the client has sent and the shard has not received.
    inbound: VecDeque<u8>,
    /// Everything that the shard has sent.
    pub(super) outbound: Vec<u8>,
    /// Bytes that it takes before it is full.
    room: usize,
    capacity: usize,
    /// A send was short: a notification is owed.
    pub(super) blocked: bool,
    /// The client has ended its side.
    ended: bool,
    /// The client is gone.
    reset: bool,
    token: Option<Token>,
    /// The shard has ended its side.
    pub(super) finished: bool,
    /// The shard has closed it.
    pub(super) closed: bool,
}

impl Network {
    pub(super) fn new(seed: u64) -> Network {
        Network {
            random: Random::seeded(seed),
            calm: false,
            wires: BTreeMap::new(),
            backlog: VecDeque::new(),
            listening: true,
            accept_paused: false,
            notifications: VecDeque::new(),
            echoes: Vec::new(),
            next_socket: 1000,
        }
    }

    // The clients' side.

    /// A new connection that takes `capacity` bytes which its client has not read.
    pub(super) fn connect(&mut self, capacity: usize) -> Socket {
        let socket = self.next_socket;
        self.next_socket += 1;
        let closed = !self.listening;
        self.wires.insert(socket, Wire { room: capacity, capacity, closed, ..Wire::default() });
        if self.listening {
            self.backlog.push_back(socket);
        }
        socket
    }

    pub(super) fn wire(&self, socket: Socket) -> &Wire {
        &self.wires[&socket]
    }

    pub(super) fn client_sends(&mut self, socket: Socket, bytes: &[u8]) {
        self.wires.get_mut(&socket).unwrap().inbound.extend(bytes);
        self.changed(socket);
    }

    pub(super) fn client_reads(&mut self, socket: Socket, count: usize) {
        let wire = self.wires.get_mut(&socket).unwrap();
        wire.room = wire.capacity.min(wire.room.saturating_add(count));
        if std::mem::take(&mut wire.blocked) {
            self.changed(socket);
        }
    }

    /// Leaves the socket this much room, until its client reads.
    pub(super) fn squeeze(&mut self, socket: Socket, room: usize) {
        let wire = self.wires.get_mut(&socket).unwrap();
        wire.room = wire.room.min(room);
    }

    /// From now on the client reads everything at once.
    pub(super) fn open(&mut self, socket: Socket) {
        self.wires.get_mut(&socket).unwrap().capacity = usize::MAX;
        self.client_reads(socket, usize::MAX);
    }

    pub(super) fn client_leaves(&mut self, socket: Socket, reset: bool) {
        let wire = self.wires.get_mut(&socket).unwrap();
        wire.ended = true;
        wire.reset |= reset;
        self.changed(socket);
    }

    pub(super) fn has_left(&self, socket: Socket) -> bool {
        self.wires[&socket].ended
    }

    pub(super) fn all_closed(&self) -> bool {
        self.wires.values().all(|wire| wire.closed)
    }

    /// Whether a wait would return at once.
    pub(super) fn is_ready(&self) -> bool {
        !self.notifications.is_empty() || (self.listening && !self.accept_paused && !self.backlog.is_empty())
    }

    fn changed(&mut self, socket: Socket) {
        let wire = &self.wires[&socket];
        let Some(token) = wire.token else { return };
        let notification = Notification::Ready {
            token,
            readable: !wire.inbound.is_empty() || wire.ended,
            writable: wire.room > 0 && !wire.blocked,
            hung_up: wire.ended,
        };
        self.notifications.push_back(notification);
        match self.random.below(10) {
            0 => self.notifications.push_back(notification),
            1 => self.echoes.push(notification),
            _ => {}
        }
    }

    fn open_wire(&mut self, socket: Socket) -> &mut Wire {
        let wire = self.wires.get_mut(&socket).expect("a socket that exists");
        assert!(!wire.closed, "{socket} is used after its close");
        wire
    }

    fn send(&mut self, index: usize, socket: Socket, bytes: &[u8], exceptions: &mut Vec<Exception>) {
        assert!(!bytes.is_empty(), "an empty send");
        let wire = self.open_wire(socket);
        assert!(!wire.finished, "{socket} is sent to behind the end of its stream");
        if wire.reset {
            exceptions.push(Exception { index, sent: 0, cause: Cause::Gone(ECONNRESET) });
            return;
        }
        let sent = bytes.len().min(wire.room);
        wire.outbound.extend_from_slice(&bytes[..sent]);
        wire.room -= sent;
        if sent < bytes.len() {
            wire.blocked = true;
            exceptions.push(Exception { index, sent, cause: Cause::Full });
        }
    }
}

impl Io for Network {
    fn listen(&mut self, _listener: OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn resume_accept(&mut self) {
        assert!(self.listening, "accepting is over");
        self.accept_paused = false;
    }

    fn stop_listening(&mut self) {
        self.listening = false;
        for socket in self.backlog.drain(..) {
            self.wires.get_mut(&socket).unwrap().closed = true;
        }
    }

    fn watch(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        if !self.calm && self.random.one_in(100) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        assert!(token.0 < Token::LIMIT);
        let other = self.open_wire(socket).token.replace(token);
        assert_eq!(other, None, "{socket} is watched twice");
        let wire = self.open_wire(socket);
        if wire.room > 0 || wire.ended || !wire.inbound.is_empty() {
            self.changed(socket);
        }
        Ok(())
    }

    fn wait(&mut self, _timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()> {
        if !self.echoes.is_empty() && self.random.one_in(4) {
            let index = self.random.below(self.echoes.len());
            self.notifications.push_back(self.echoes.swap_remove(index));
        }
        if self.random.one_in(20) {
            notifications.push(Notification::Woken);
        }
        while self.listening && !self.accept_paused && !self.backlog.is_empty() {
            if !self.calm && self.random.one_in(20) {
                self.accept_paused = true;
                self.notifications.push_back(Notification::AcceptFailed(EMFILE));
            } else {
                let socket = self.backlog.pop_front().unwrap();
                self.notifications.push_back(Notification::Accepted(socket));
            }
        }
        let count = self.notifications.len().min(1 + self.random.below(16));
        notifications.extend(self.notifications.drain(..count));
        Ok(())
    }

    fn send_batch(
        &mut self,
        bytes: &[u8],
        sockets: impl ExactSizeIterator<Item = Socket>,
        exceptions: &mut Vec<Exception>,
    ) {
        self.send_each(sockets.map(|socket| (socket, bytes)), exceptions);
    }

    fn send_each<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    ) {
        let mut seen = BTreeSet::new();
        let first = exceptions.len();
        for (index, (socket, bytes)) in sends.enumerate() {
            assert!(seen.insert(socket), "{socket} is twice in a batch");
            self.send(index, socket, bytes, exceptions);
        }
        // In no particular order.
        for index in first..exceptions.len() {
            let other = first + self.random.below(exceptions.len() - first);
            exceptions.swap(index, other);
        }
    }

    fn receive(&mut self, socket: Socket, buffer: &mut [u8]) -> Received {
        let piece = 1 + self.random.below(200);
        let wire = self.open_wire(socket);
        if wire.reset {
            return Received::Gone(ECONNRESET);
        }
        if wire.inbound.is_empty() {
            return if wire.ended { Received::Ended } else { Received::Empty };
        }
        let count = piece.min(buffer.len()).min(wire.inbound.len());
        for (to, byte) in buffer.iter_mut().zip(wire.inbound.drain(..count)) {
            *to = byte;
        }
        Received::Bytes(count)
    }

    fn finish(&mut self, socket: Socket) {
        self.open_wire(socket).finished = true;
    }

    fn close(&mut self, sockets: &[(Socket, Option<Token>)]) {
        for (socket, token) in sockets {
            let wire = self.open_wire(*socket);
            assert_eq!(wire.token, *token, "{socket} is closed under the name by which it is watched");
            wire.closed = true;
        }
    }

    fn release(&mut self, socket: Socket, token: Token) {
        assert_eq!(self.open_wire(socket).token.take(), Some(token), "{socket} is released by its name");
    }
}
