//! A network in memory: sockets with little room, sends that stop anywhere, notifications that come late,
//! twice or in another order, clients that reset and half-close, descriptors that run out.
//!
//! It holds the shard to the contract of `Io` too: nothing is sent behind the end of a stream, nothing is
//! done to a closed socket, each socket is watched once and closed once. Socket numbers are used again at
//! once, as the kernel does. What a shard does to it is in [`crate::network_io`].

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;

use fanfare::ConnectionId;
use fanfare_io::{Cause, Exception, Notification, Socket};

use crate::client::{Item, Request};
use crate::connection::{BegunBytes, Connection};
use crate::desk::{Place, SharedDesk};
use crate::orders::Orders;
use crate::pieces::PieceKind;
use crate::shared::Shared;
use crate::tally::Occurrence;
use crate::trace::{self, trace};
use crate::verifier::Verifier;

pub(crate) const ECONNRESET: i32 = 104;
const EMFILE: i32 = 24;

/// Above every real descriptor: only sockets that were adopted have real ones.
pub(crate) const FIRST_SOCKET: Socket = 1_000_000;

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
    pub(crate) shared: Rc<Shared>,
    /// Which shard it is.
    pub(crate) shard: usize,
    pub(crate) desk: SharedDesk,
    pub(crate) orders: Orders,
    /// Connections by their names.
    pub(crate) ids: HashMap<ConnectionId, usize>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) numbers: HashMap<Socket, usize>,
    pub(crate) free: BTreeSet<Socket>,
    next_number: Socket,
    /// Connections that were not accepted yet.
    pub(crate) backlog: VecDeque<usize>,
    /// Sockets on their way from another server, by what the kernel calls them: their numbers change on the
    /// way.
    pub(crate) adopting: HashMap<u64, usize>,
    pub(crate) listening: bool,
    pub(crate) accept_paused: bool,
    pub(crate) notifications: VecDeque<Notification>,
    /// Notifications that come late, and copies that come once more.
    late: Vec<Notification>,
    echoes: Vec<Notification>,
    /// Sockets that were full without a reason.
    spuriously_full: Vec<usize>,
    /// Connections to which the shard has done something since the world last checked.
    touched: Vec<usize>,
    /// Connections that the shard had among its laggards when the world last checked.
    lagging: Vec<usize>,
    /// When a sweep began that is not through.
    sweep_began: Option<Duration>,
    /// What connections have begun and not finished.
    pub(crate) begun: BegunBytes,
    /// Ticks that the shard had.
    ticks: u64,
    pub(crate) this_tick: TickCounts,
}

/// What happened to a network in one tick of its shard.
#[derive(Default)]
pub(crate) struct TickCounts {
    pub(crate) bytes_sent: u64,
    /// Events and heartbeats that went out whole.
    pub(crate) events: u64,
    pub(crate) heartbeats: u64,
    /// Requests that were decided at once, and refused because they could not wait for their turn.
    pub(crate) waited_in_vain: u64,
    /// Clients to which a heartbeat came where something had just been sent, and how long before.
    pub(crate) early_heartbeats: Vec<(usize, Duration)>,
    /// Connections that were closed in the middle of a piece.
    pub(crate) cut_with_unsent: Vec<CutPiece>,
}

/// A piece in whose middle a connection was closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutPiece {
    /// The connection's index.
    pub(crate) index: usize,
    pub(crate) kind: PieceKind,
    pub(crate) size: usize,
    /// How much less is begun without it.
    pub(crate) part: usize,
}

impl Net {
    pub(crate) fn new(shard: usize, shared: Rc<Shared>, desk: SharedDesk) -> Net {
        Net {
            shared,
            shard,
            desk,
            orders: Orders::default(),
            ids: HashMap::new(),
            connections: Vec::new(),
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
            spuriously_full: Vec::new(),
            touched: Vec::new(),
            lagging: Vec::new(),
            sweep_began: None,
            begun: BegunBytes::default(),
            ticks: 0,
            this_tick: TickCounts::default(),
        }
    }

    // The clients' side.

    /// A new connection that takes `capacity` bytes which its client has not read. The head of its request
    /// has `head_bytes`.
    pub(crate) fn connect(
        &mut self,
        client: usize,
        request: Request,
        head_bytes: usize,
        capacity: usize,
    ) -> usize {
        let index = self.add(client, request, capacity);
        self.connections[index].head_left = head_bytes;
        if self.listening {
            self.backlog.push_back(index);
        } else {
            self.connections[index].closed = true;
            self.touch(index);
        }
        index
    }

    /// A connection that another server has accepted.
    pub(crate) fn adopt(&mut self, client: usize, request: Request, capacity: usize, inode: u64) -> usize {
        let index = self.add(client, request, capacity);
        self.connections[index].verifier.asked_at = Some(self.shared.now.get());
        self.adopting.insert(inode, index);
        index
    }

    fn add(&mut self, client: usize, request: Request, capacity: usize) -> usize {
        let verifier = Verifier::new(request);
        self.connections.push(Connection::new(client, verifier, capacity, self.shared.now.get()));
        self.connections.len() - 1
    }

    pub(crate) fn connection(&self, index: usize) -> &Connection {
        &self.connections[index]
    }

    /// A tick of the shard begins.
    pub(crate) fn begin_tick(&mut self) {
        self.ticks += 1;
        self.begin_orders();
        self.begun.begin_tick();
        self.this_tick = TickCounts::default();
    }

    /// In which tick of the shard this is.
    pub(crate) fn tick(&self) -> u64 {
        self.ticks
    }

    /// A sweep is under way after a tick, or none.
    pub(crate) fn note_sweep(&mut self, is_under_way: bool) {
        let began = self.sweep_began.unwrap_or(self.shared.now.get());
        self.sweep_began = is_under_way.then_some(began);
    }

    /// These are the shard's laggards. What it has closed keeps its time: why is checked next.
    pub(crate) fn note_laggards(&mut self, numbers: impl Iterator<Item = Socket>) {
        let now = self.shared.now.get();
        let lagging: Vec<usize> = numbers.map(|number| self.numbers[&number]).collect();
        for index in std::mem::take(&mut self.lagging) {
            if !lagging.contains(&index) && !self.connections[index].closed {
                self.connections[index].lags_since = None;
            }
        }
        for &index in &lagging {
            self.connections[index].lags_since.get_or_insert(now);
        }
        self.lagging = lagging;
    }

    /// The shard takes this socket for full. Says whether it is.
    pub(crate) fn still_lags(&mut self, number: Socket) -> bool {
        let it = &mut self.connections[self.numbers[&number]];
        it.blocked_at = self.shared.now.get();
        it.blocked
    }

    pub(crate) fn client_sends(&mut self, index: usize, bytes: &[u8]) {
        let it = &mut self.connections[index];
        it.inbound.extend(bytes);
        it.head_left = it.head_left.saturating_sub(bytes.len());
        if it.head_left == 0 {
            it.verifier.asked_at.get_or_insert(self.shared.now.get());
        }
        self.changed(index);
    }

    /// The client reads at most `count` bytes. Says how many there were, and what it found in them.
    pub(crate) fn client_reads(&mut self, index: usize, count: usize) -> (usize, Vec<Item>) {
        let it = &mut self.connections[index];
        let bytes = count.min(it.unread());
        let items = it.read(count);
        // The kernel, too, waits until there is room worth a notification.
        let worth = it.unread() == 0 || (it.room() > it.capacity / 2 && self.shared.one_in(2));
        if it.blocked && it.room() > 0 && worth && !self.spuriously_full.contains(&index) {
            self.connections[index].blocked = false;
            self.changed(index);
        }
        (bytes, items)
    }

    /// Leaves the socket this much room, until its client reads.
    pub(crate) fn leave_room(&mut self, index: usize, room: usize) {
        let it = &mut self.connections[index];
        it.capacity = it.unread() + room.max(1);
    }

    /// Leaves the socket no room, until its client reads.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, index: usize) {
        let it = &mut self.connections[index];
        it.capacity = it.unread();
    }

    /// From now on it takes everything.
    pub(crate) fn open(&mut self, index: usize) {
        self.connections[index].capacity = usize::MAX;
    }

    pub(crate) fn client_leaves(&mut self, index: usize, reset: bool) {
        let it = &mut self.connections[index];
        it.ended = true;
        it.reset |= reset;
        self.changed(index);
    }

    /// Connections to which something happened since the last call, each once.
    pub(crate) fn take_touched(&mut self) -> Vec<usize> {
        let touched = std::mem::take(&mut self.touched);
        for &index in &touched {
            self.connections[index].is_touched = false;
        }
        touched
    }

    /// Whether something has happened to a connection since the last such call.
    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub(crate) fn touch(&mut self, index: usize) {
        if !std::mem::replace(&mut self.connections[index].is_touched, true) {
            self.touched.push(index);
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
        !self.notifications.is_empty() || self.can_accept()
    }

    pub(crate) fn can_accept(&self) -> bool {
        self.listening && !self.accept_paused && !self.backlog.is_empty()
    }

    /// Whether something about this socket is still to be told.
    pub(crate) fn owes(&self, number: Socket) -> bool {
        let Some(token) = self.numbers.get(&number).and_then(|&index| self.connections[index].token) else {
            return false;
        };
        let is_its =
            |it: &Notification| matches!(it, Notification::Ready { token: its, .. } if *its == token);
        self.notifications.iter().any(is_its) || self.late.iter().any(is_its)
    }

    /// Late notifications come, and sockets take bytes again: all of them, or some.
    pub(crate) fn notify_late(&mut self, all: bool) {
        while !self.late.is_empty() && (all || self.shared.one_in(3)) {
            let index = self.shared.below(self.late.len());
            self.notifications.push_back(self.late.swap_remove(index));
        }
        while !self.spuriously_full.is_empty() && (all || self.shared.one_in(3)) {
            let index = self.shared.below(self.spuriously_full.len());
            let index = self.spuriously_full.swap_remove(index);
            if self.connections[index].room() > 0 && !self.connections[index].closed {
                self.connections[index].blocked = false;
                self.changed(index);
            }
        }
        if !self.echoes.is_empty() && self.shared.one_in(4) {
            let index = self.shared.below(self.echoes.len());
            self.notifications.push_back(self.echoes.swap_remove(index));
            self.shared.happened(Occurrence::Echo);
        }
    }

    pub(crate) fn changed(&mut self, index: usize) {
        let it = &self.connections[index];
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
            self.shared.happened(Occurrence::LateNotification);
        } else if self.shared.mishap(8) {
            let index = self.shared.below(self.notifications.len() + 1);
            self.notifications.insert(index, notification);
        } else {
            self.notifications.push_back(notification);
        }
    }

    pub(crate) fn accept(&mut self) -> Notification {
        if self.shared.mishap(20) {
            self.accept_paused = true;
            self.shared.happened(Occurrence::AcceptFailed);
            return Notification::AcceptFailed(EMFILE);
        }
        let index = self.backlog.pop_front().expect("a connection in the backlog");
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        let address = Place { shard: self.shard, index }.peer(self.connections[index].client).ip();
        self.connections[index].accepted =
            self.shared.clients.borrow_mut().accept(address, &self.shared.setting);
        self.connections[index].socket = number;
        self.numbers.insert(number, index);
        Notification::Accepted { socket: number, listener: 0 }
    }

    /// The index of the open connection with this socket.
    pub(crate) fn index_of(&mut self, number: Socket) -> usize {
        if let Some(&index) = self.numbers.get(&number) {
            return index;
        }
        assert!(number < FIRST_SOCKET, "{number} is used after its close");
        let inode = inode(number).expect("a socket that is open");
        let index = self.adopting.remove(&inode).expect("a socket that was adopted");
        self.connections[index].socket = number;
        self.numbers.insert(number, index);
        index
    }

    /// How a send of one piece to one socket goes.
    pub(crate) fn send(
        &mut self,
        position: usize,
        number: Socket,
        bytes: &[u8],
        exceptions: &mut Vec<Exception>,
    ) {
        assert!(!bytes.is_empty(), "an empty send");
        self.note_orders();
        self.note_undecided();
        let index = self.index_of(number);
        self.touch(index);
        let now = self.shared.now.get();
        if self.connections[index].verifier.is_fresh_heartbeat(bytes) {
            self.check_heartbeat(index, now);
        }
        let resets = self.shared.mishap(300);
        let stops = self.shared.mishap(40);
        let cut = if resets || stops { self.shared.below(bytes.len()) } else { bytes.len() };
        let it = &mut self.connections[index];
        trace::at(|position| {
            (position.client, position.connection) = (Some(it.client), Some(index));
            position.cursor = it.verifier.cursor;
        });
        assert!(!it.finished, "{number} is sent to behind the end of its stream");
        let sent = if it.reset { 0 } else { cut.min(it.room()) };
        if sent == bytes.len() {
            trace!(self.shared, "    client {} is sent {sent} bytes", it.client);
        } else {
            trace!(self.shared, "    client {} is sent {sent} of {} bytes", it.client, bytes.len());
        }
        self.begun.remove(it.verifier.begun.as_ref());
        let is_answer = !it.is_answered();
        let what = it.verifier.sent(bytes, sent, self.ticks, &self.shared);
        if is_answer {
            it.is_abandoned = it.reset || resets;
            let mut topics = it.verifier.request.interest.topics.clone();
            topics.sort_unstable();
            let patterns = it.verifier.request.interest.patterns.clone();
            it.life.topics.push((topics, patterns));
            self.judge_decided(index, bytes);
        }
        let it = &mut self.connections[index];
        let history = self.shared.history.borrow();
        self.begun.add(it.verifier.begun.as_ref(), |seq| history.get(seq).map_or(0, |entry| entry.size));
        drop(history);
        self.this_tick.events += what.events;
        self.this_tick.heartbeats += what.heartbeats;
        if it.reset {
            exceptions.push(Exception { index: position, sent: 0, cause: Cause::Gone(ECONNRESET) });
            return;
        }
        it.sent += sent as u64;
        self.this_tick.bytes_sent += sent as u64;
        if sent > 0 {
            (it.sent_at, it.sweep_began) = (now, self.sweep_began.unwrap_or(now));
        }
        it.is_short = sent < bytes.len();
        if resets {
            (it.ended, it.reset) = (true, true);
            self.shared.happened(Occurrence::ResetInSend);
            exceptions.push(Exception { index: position, sent, cause: Cause::Gone(ECONNRESET) });
        } else if sent < bytes.len() {
            if it.room() > 0 {
                self.spuriously_full.push(index);
            }
            (it.blocked, it.ever_blocked, it.blocked_at) = (true, true, now);
            self.shared.happened(Occurrence::ShortSend);
            exceptions.push(Exception { index: position, sent, cause: Cause::Full });
        }
        trace::at(trace::Position::forget_client);
    }

    /// A heartbeat comes where nothing was sent for most of its interval.
    fn check_heartbeat(&mut self, index: usize, now: Duration) {
        self.shared.happened(Occurrence::Heartbeat);
        let it = &self.connections[index];
        let silence = now - it.sweep_began;
        let (limits, asked) = (&self.shared.setting.limits, it.verifier.request.heartbeat);
        let interval = limits.heartbeat_interval(asked);
        // Streams with an interval of their own have a timer; the others are checked 16 times in the
        // interval.
        let least = if interval < limits.heartbeat { interval } else { interval * 15 / 16 };
        // A tenth of a second is the unit of a stream's times. What a full socket took later is not known to
        // have been sent then.
        let is_due = silence + Duration::from_millis(100) >= least;
        if !is_due && !it.ever_blocked {
            self.this_tick.early_heartbeats.push((it.client, silence));
        }
    }
}
