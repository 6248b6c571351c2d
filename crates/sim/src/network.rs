//! A network in memory: sockets with little room, sends that stop anywhere, notifications that come late, twice or
//! in another order, clients that reset and half-close, descriptors that run out.
//!
//! It holds the shard to the contract of `Io` too: nothing is sent behind the end of a stream, nothing is done to a
//! closed socket, each socket is watched once and closed once. Socket numbers are used again at once, as the
//! kernel does.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io};

use fanfare_io::{Cause, Exception, Io, Notification, Received, Socket, Token, table};

use crate::shared::{Shared, tell};
use crate::tally::Thing;

const ECONNRESET: i32 = 104;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Above every real descriptor: only sockets that were adopted have real ones.
const FIRST_SOCKET: Socket = 1_000_000;

/// All heartbeats that there are.
const HEARTBEATS: [&[u8]; 4] = [b":\n", b":\n\n", b"2\r\n:\n\r\n", b"3\r\n:\n\n\r\n"];

/// Which socket a real descriptor names.
pub(crate) fn inode(number: Socket) -> Option<u64> {
    fs::metadata(format!("/proc/self/fd/{number}")).ok().map(|metadata| metadata.ino())
}

/// A shard's side of its network.
pub(crate) struct Network {
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) shared: Rc<Shared>,
}

/// One shard's sockets, seen by the world.
pub(crate) struct Net {
    shared: Rc<Shared>,
    wires: Vec<Wire>,
    numbers: HashMap<Socket, usize>,
    free: BTreeSet<Socket>,
    next_number: Socket,
    /// Connections that nobody has accepted.
    backlog: VecDeque<usize>,
    /// Sockets on their way from another server, by what the kernel calls them: their numbers change on the way.
    pub(crate) adopting: HashMap<u64, usize>,
    listening: bool,
    accept_paused: bool,
    notifications: VecDeque<Notification>,
    /// Those that come late, and copies that come once more.
    late: Vec<Notification>,
    echoes: Vec<Notification>,
    /// Sockets that were full without a reason.
    moody: Vec<usize>,
    /// Wires to which the shard has done something since the world last looked.
    touched: Vec<usize>,
    /// Wires that the shard had among its laggards when the world last looked.
    lagging: Vec<usize>,
    /// When a sweep began that is not through.
    sweep_began: Option<Duration>,
    pub(crate) bytes_sent: u64,
    /// Heartbeats that came where something had just been sent.
    pub(crate) early: Vec<(usize, Duration)>,
}

/// One connection, seen from both ends.
#[derive(Default)]
pub(crate) struct Wire {
    /// Whose it is.
    pub(crate) client: usize,
    pub(crate) number: Socket,
    /// What the client has sent and the shard has not received.
    inbound: VecDeque<u8>,
    /// What the shard has sent and the client has not read.
    pub(crate) outbound: Vec<u8>,
    /// Bytes that it takes before it is full.
    capacity: usize,
    /// A send was short: a notification is owed.
    pub(crate) blocked: bool,
    pub(crate) ever_blocked: bool,
    /// The last send to it was short.
    pub(crate) is_short: bool,
    /// Since when the shard has it among its laggards.
    pub(crate) lags_since: Option<Duration>,
    /// When it was last full, and when it last took a byte.
    pub(crate) blocked_at: Duration,
    pub(crate) sent_at: Duration,
    /// When the sweep began in which it last took one: that is what the shard notes.
    sweep_began: Duration,
    /// The client has ended its side.
    pub(crate) ended: bool,
    /// The client is gone.
    reset: bool,
    token: Option<Token>,
    pub(crate) watch_refused: bool,
    /// The shard has begun to answer, or tried to.
    pub(crate) answered: bool,
    /// The shard has ended its side.
    pub(crate) finished: bool,
    /// The shard has closed it.
    pub(crate) closed: bool,
    pub(crate) closed_at: Duration,
    /// When it was closed, the shard could not know that it had room.
    pub(crate) was_unheard: bool,
    is_touched: bool,
}

impl Wire {
    /// Whether the shard has ever heard of it, or it was turned away in its stead.
    pub(crate) fn has_arrived(&self) -> bool {
        self.number != 0 || self.closed
    }

    /// Whether it was a laggard that took nothing for this long, and was closed before the shard could know of any room.
    pub(crate) fn has_stalled(&self, now: Duration, time: Duration) -> bool {
        let stands = self.is_short && self.was_unheard;
        stands && self.lags_since.is_some_and(|since| now.saturating_sub(since.max(self.sent_at)) >= time)
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.outbound.len())
    }
}

impl Net {
    pub(crate) fn new(shared: Rc<Shared>) -> Net {
        Net {
            shared,
            wires: Vec::new(),
            numbers: HashMap::new(),
            free: BTreeSet::new(),
            next_number: FIRST_SOCKET,
            backlog: VecDeque::new(),
            adopting: HashMap::new(),
            listening: true,
            accept_paused: false,
            notifications: VecDeque::new(),
            late: Vec::new(),
            echoes: Vec::new(),
            moody: Vec::new(),
            touched: Vec::new(),
            lagging: Vec::new(),
            sweep_began: None,
            bytes_sent: 0,
            early: Vec::new(),
        }
    }

    // The clients' side.

    /// A new connection that takes `capacity` bytes which its client has not read.
    pub(crate) fn connect(&mut self, client: usize, capacity: usize) -> usize {
        let wire = self.add(client, capacity);
        if self.listening {
            self.backlog.push_back(wire);
        } else {
            self.wires[wire].closed = true;
            self.touch(wire);
        }
        wire
    }

    /// A connection that another server has accepted.
    pub(crate) fn adopt(&mut self, client: usize, capacity: usize, inode: u64) -> usize {
        let wire = self.add(client, capacity);
        self.adopting.insert(inode, wire);
        wire
    }

    fn add(&mut self, client: usize, capacity: usize) -> usize {
        let now = self.shared.now.get();
        let wire =
            Wire { client, capacity, blocked_at: now, sent_at: now, sweep_began: now, ..Wire::default() };
        self.wires.push(wire);
        self.wires.len() - 1
    }

    pub(crate) fn wire(&self, wire: usize) -> &Wire {
        &self.wires[wire]
    }

    pub(crate) fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// A sweep is under way after a tick, or none.
    pub(crate) fn note_sweep(&mut self, is_under_way: bool) {
        let began = self.sweep_began.unwrap_or(self.shared.now.get());
        self.sweep_began = is_under_way.then_some(began);
    }

    /// These are the shard's laggards. What it has closed keeps its time: why is looked at next.
    pub(crate) fn note_laggards(&mut self, numbers: impl Iterator<Item = Socket>) {
        let now = self.shared.now.get();
        let lagging: Vec<usize> = numbers.map(|number| self.numbers[&number]).collect();
        for wire in std::mem::take(&mut self.lagging) {
            if !lagging.contains(&wire) && !self.wires[wire].closed {
                self.wires[wire].lags_since = None;
            }
        }
        for &wire in &lagging {
            self.wires[wire].lags_since.get_or_insert(now);
        }
        self.lagging = lagging;
    }

    /// The shard takes this socket for full. Says whether it is.
    pub(crate) fn still_lags(&mut self, number: Socket) -> bool {
        let wire = &mut self.wires[self.numbers[&number]];
        wire.blocked_at = self.shared.now.get();
        wire.blocked
    }

    pub(crate) fn client_sends(&mut self, wire: usize, bytes: &[u8]) {
        self.wires[wire].inbound.extend(bytes);
        self.changed(wire);
    }

    /// The client reads at most `count` bytes.
    pub(crate) fn client_reads(&mut self, wire: usize, count: usize) -> Vec<u8> {
        let it = &mut self.wires[wire];
        let bytes = if count >= it.outbound.len() {
            std::mem::take(&mut it.outbound)
        } else {
            it.outbound.drain(..count).collect()
        };
        // The kernel, too, waits until there is room worth a notification.
        let worth = it.outbound.is_empty() || (it.room() > it.capacity / 2 && self.shared.one_in(2));
        if it.blocked && it.room() > 0 && worth && !self.moody.contains(&wire) {
            self.wires[wire].blocked = false;
            self.changed(wire);
        }
        bytes
    }

    /// Leaves the socket this much room, until its client reads.
    pub(crate) fn squeeze(&mut self, wire: usize, room: usize) {
        let it = &mut self.wires[wire];
        it.capacity = it.outbound.len() + room.max(1);
    }

    /// From now on it takes everything.
    pub(crate) fn open(&mut self, wire: usize) {
        self.wires[wire].capacity = usize::MAX;
    }

    pub(crate) fn client_leaves(&mut self, wire: usize, reset: bool) {
        let it = &mut self.wires[wire];
        it.ended = true;
        it.reset |= reset;
        self.changed(wire);
    }

    /// Wires to which something happened since the last call, each once.
    pub(crate) fn take_touched(&mut self) -> Vec<usize> {
        let touched = std::mem::take(&mut self.touched);
        for &wire in &touched {
            self.wires[wire].is_touched = false;
        }
        touched
    }

    fn touch(&mut self, wire: usize) {
        if !std::mem::replace(&mut self.wires[wire].is_touched, true) {
            self.touched.push(wire);
        }
    }

    // What the kernel tells.

    /// What the shard would be told now comes late.
    #[cfg(test)]
    pub(crate) fn hold_back(&mut self) {
        self.late.extend(self.notifications.drain(..));
    }

    /// Whether a wait would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        !self.notifications.is_empty() || (self.listening && !self.accept_paused && !self.backlog.is_empty())
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether something about this socket is still to be told.
    pub(crate) fn owes(&self, number: Socket) -> bool {
        let Some(token) = self.numbers.get(&number).and_then(|&wire| self.wires[wire].token) else {
            return false;
        };
        let is_its =
            |it: &Notification| matches!(it, Notification::Ready { token: its, .. } if *its == token);
        self.notifications.iter().any(is_its) || self.late.iter().any(is_its)
    }

    /// Late notifications come, and sockets take bytes again: all of them, or some.
    pub(crate) fn stir(&mut self, all: bool) {
        while !self.late.is_empty() && (all || self.shared.one_in(3)) {
            let index = self.shared.below(self.late.len());
            self.notifications.push_back(self.late.swap_remove(index));
        }
        while !self.moody.is_empty() && (all || self.shared.one_in(3)) {
            let index = self.shared.below(self.moody.len());
            let wire = self.moody.swap_remove(index);
            if self.wires[wire].room() > 0 && !self.wires[wire].closed {
                self.wires[wire].blocked = false;
                self.changed(wire);
            }
        }
        if !self.echoes.is_empty() && self.shared.one_in(4) {
            let index = self.shared.below(self.echoes.len());
            self.notifications.push_back(self.echoes.swap_remove(index));
            self.shared.happened(Thing::Echo);
        }
    }

    fn changed(&mut self, wire: usize) {
        let it = &self.wires[wire];
        let Some(token) = it.token.filter(|_| !it.closed) else { return };
        let notification = Notification::Ready {
            token,
            readable: !it.inbound.is_empty() || it.ended,
            writable: it.room() > 0 && !it.blocked,
            hung_up: it.ended,
        };
        if let Notification::Ready { readable: false, writable: false, hung_up: false, .. } = notification {
            return;
        }
        if self.shared.mishap(10) {
            self.echoes.push(notification);
        }
        if self.shared.mishap(8) {
            self.late.push(notification);
            self.shared.happened(Thing::LateNotification);
        } else if self.shared.mishap(8) {
            let index = self.shared.below(self.notifications.len() + 1);
            self.notifications.insert(index, notification);
        } else {
            self.notifications.push_back(notification);
        }
    }

    fn accept(&mut self) -> Notification {
        if self.shared.mishap(20) {
            self.accept_paused = true;
            self.shared.happened(Thing::AcceptFailed);
            return Notification::AcceptFailed(EMFILE);
        }
        let wire = self.backlog.pop_front().expect("a connection in the backlog");
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        self.wires[wire].number = number;
        self.numbers.insert(number, wire);
        Notification::Accepted(number)
    }

    fn open_wire(&mut self, number: Socket) -> usize {
        if let Some(&wire) = self.numbers.get(&number) {
            return wire;
        }
        assert!(number < FIRST_SOCKET, "{number} is used after its close");
        let inode = inode(number).expect("a socket that is open");
        let wire = self.adopting.remove(&inode).expect("a socket that was adopted");
        self.wires[wire].number = number;
        self.numbers.insert(number, wire);
        wire
    }

    /// How a send of one piece to one socket goes.
    fn send(&mut self, index: usize, number: Socket, bytes: &[u8], exceptions: &mut Vec<Exception>) {
        assert!(!bytes.is_empty(), "an empty send");
        let wire = self.open_wire(number);
        self.touch(wire);
        let now = self.shared.now.get();
        if HEARTBEATS.contains(&bytes) {
            self.check_heartbeat(wire, now);
        }
        let resets = self.shared.mishap(300);
        let stops = self.shared.mishap(40);
        let cut = if resets || stops { self.shared.below(bytes.len()) } else { bytes.len() };
        let it = &mut self.wires[wire];
        assert!(!it.finished, "{number} is sent to behind the end of its stream");
        it.answered = true;
        if it.reset {
            exceptions.push(Exception { index, sent: 0, cause: Cause::Gone(ECONNRESET) });
            return;
        }
        let sent = cut.min(it.room());
        it.outbound.extend_from_slice(&bytes[..sent]);
        self.bytes_sent += sent as u64;
        if sent > 0 {
            (it.sent_at, it.sweep_began) = (now, self.sweep_began.unwrap_or(now));
        }
        it.is_short = sent < bytes.len();
        if resets {
            (it.ended, it.reset) = (true, true);
            self.shared.happened(Thing::ResetInSend);
            exceptions.push(Exception { index, sent, cause: Cause::Gone(ECONNRESET) });
        } else if sent < bytes.len() {
            if it.room() > 0 {
                self.moody.push(wire);
            }
            (it.blocked, it.ever_blocked, it.blocked_at) = (true, true, now);
            self.shared.happened(Thing::ShortSend);
            exceptions.push(Exception { index, sent, cause: Cause::Full });
        }
    }

    /// A heartbeat comes where nothing was sent for most of its interval.
    fn check_heartbeat(&mut self, wire: usize, now: Duration) {
        self.shared.happened(Thing::Heartbeat);
        let it = &self.wires[wire];
        let silence = now - it.sweep_began;
        // A tenth of a second is the unit of a connection's times. What a full socket took later is not known
        // to have been sent then.
        let interval = self.shared.setting.limits.heartbeat;
        let due = silence + Duration::from_millis(100) >= interval * 3 / 4;
        if !due && !it.ever_blocked {
            self.early.push((it.client, silence));
        }
    }
}

impl Network {
    /// Somebody publishes while the shard is busy.
    fn meanwhile(&self, odds: usize, what: &str) {
        if self.shared.setting.publishers > 0 && self.shared.mishap(odds) && self.shared.hub.get().is_some() {
            self.shared.happened(Thing::PublishInSweep);
            self.shared.publish_some(what);
        }
    }
}

impl Io for Network {
    fn listen(&mut self, _listener: OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn resume_accept(&mut self) {
        let mut net = self.net.borrow_mut();
        assert!(net.listening, "accepting is over");
        net.accept_paused = false;
    }

    fn stop_listening(&mut self) {
        let mut net = self.net.borrow_mut();
        net.listening = false;
        while let Some(wire) = net.backlog.pop_front() {
            net.wires[wire].closed = true;
            net.touch(wire);
        }
    }

    fn watch(&mut self, number: Socket, token: Token) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        let wire = net.open_wire(number);
        if self.shared.mishap(100) {
            net.wires[wire].watch_refused = true;
            self.shared.happened(Thing::WatchRefused);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        assert!(token.0 < Token::LIMIT);
        let other = net.wires[wire].token.replace(token);
        assert_eq!(other, None, "{number} is watched twice");
        net.changed(wire);
        Ok(())
    }

    fn wait(&mut self, _timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        if self.shared.mishap(20) {
            notifications.push(Notification::Woken);
        }
        let most = if self.shared.hostile.get() { 1 + self.shared.below(16) } else { 256 };
        let accepts = self.shared.mishap(2);
        while notifications.len() < most && net.is_ready() {
            let backlog = net.listening && !net.accept_paused && !net.backlog.is_empty();
            match net.notifications.pop_front() {
                Some(notification) if !(accepts && backlog) => notifications.push(notification),
                Some(notification) => {
                    net.notifications.push_front(notification);
                    notifications.push(net.accept());
                }
                None => notifications.push(net.accept()),
            }
        }
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
            self.net.borrow_mut().send(index, socket, bytes, exceptions);
        }
        // In no particular order.
        for index in first..exceptions.len() {
            let other = first + self.shared.below(exceptions.len() - first);
            exceptions.swap(index, other);
        }
        self.meanwhile(40, ", within a send");
    }

    fn receive(&mut self, number: Socket, buffer: &mut [u8]) -> Received {
        let net = &mut *self.net.borrow_mut();
        let wire = net.open_wire(number);
        let it = &mut net.wires[wire];
        if it.reset {
            return Received::Gone(ECONNRESET);
        }
        if it.inbound.is_empty() {
            return if it.ended { Received::Ended } else { Received::Empty };
        }
        let piece = if self.shared.hostile.get() { 1 + self.shared.below(200) } else { buffer.len() };
        let count = piece.min(buffer.len()).min(it.inbound.len());
        for (to, byte) in buffer.iter_mut().zip(it.inbound.drain(..count)) {
            *to = byte;
        }
        Received::Bytes(count)
    }

    fn finish(&mut self, number: Socket) {
        let net = &mut *self.net.borrow_mut();
        let wire = net.open_wire(number);
        assert!(!net.wires[wire].finished, "{number} ends twice");
        net.wires[wire].finished = true;
        net.touch(wire);
    }

    fn adopt(&mut self, socket: OwnedFd) -> Socket {
        socket.into_raw_fd()
    }

    fn close(&mut self, sockets: &[(Socket, Option<Token>)]) {
        let net = &mut *self.net.borrow_mut();
        for (number, token) in sockets {
            let wire = net.open_wire(*number);
            let unheard = net.wires[wire].blocked || net.owes(*number);
            let it = &mut net.wires[wire];
            assert_eq!(it.token, *token, "{number} is closed under the name by which it is watched");
            (it.closed, it.closed_at, it.was_unheard) = (true, self.shared.now.get(), unheard);
            tell!(self.shared, "    client {}'s socket is closed", it.client);
            net.numbers.remove(number);
            net.touch(wire);
            if *number < FIRST_SOCKET {
                // SAFETY: `adopt` took the number from its owner, and the shard that has it gives it up here.
                unsafe { table::close_left_behind(&[*number]) };
            } else {
                net.free.insert(*number);
            }
        }
    }

    fn release(&mut self, number: Socket, token: Token) {
        let net = &mut *self.net.borrow_mut();
        let wire = net.open_wire(number);
        assert_eq!(net.wires[wire].token.take(), Some(token), "{number} is released by its name");
    }
}
