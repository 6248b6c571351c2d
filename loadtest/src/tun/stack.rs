//! Many connections to one server: which packet belongs to which, when what is due, and what is to leave.
//!
//! The order of calls: [`Stack::handle`] for each packet that arrived, then [`Stack::poll_timeout`] until it
//! has nothing more, then [`Stack::acknowledge`], and then the [`Outbox`] goes to the device. The commands
//! ([`Stack::connect`], [`Stack::send`], [`Stack::close`], [`Stack::stall`], [`Stack::resume`]) may come at
//! any time in between. Nothing here does IO or reads a clock: `now` is in nanoseconds of any clock that does
//! not go back.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;

use super::connection::{Acknowledge, Arrival, Connection, Ended, LEVELS, Line, Oddity, Outgoing, State};
use super::outbox::Outbox;
use super::packet::{Checksum, Segment, flag};

/// How long an acknowledgment waits for company, as that of Linux.
const ACKNOWLEDGE_AFTER_MS: u32 = 40;
/// Connections follow each other in one place of the table on so many ports, so that what is left of one does
/// not meet the next.
const PORTS_A_PLACE: u32 = 16;
const FIRST_PORT: u32 = 1_024;
const PLACES_AN_ADDRESS: u32 = (65_536 - FIRST_PORT) / PORTS_A_PLACE;
/// An [`Id`] has 24 bits for the place.
const MOST_PLACES: u32 = (1 << 24) - 2;
const MILLISECOND: u64 = 1_000_000;

/// What a stack is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The addresses that connections come from: so many, from this one on.
    pub(crate) first_address: Ipv4Addr,
    pub(crate) addresses: u32,
    pub(crate) server: SocketAddrV4,
    /// The largest segment that is accepted: the device's MTU less 40.
    pub(crate) largest_segment: u16,
    /// Connections that memory is reserved for. More are possible.
    pub(crate) connections: usize,
    /// Sequence numbers begin where it says, and where the time says.
    pub(crate) seed: u64,
}

/// One connection. A number is not given out again before 256 connections have been in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(NonZeroU32);

impl Id {
    fn new(place: u32, incarnation: u8) -> Id {
        let number = (place + 1) | u32::from(incarnation) << 24;
        Id(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN))
    }

    fn place(self) -> u32 {
        (self.0.get() & 0xFF_FFFF) - 1
    }

    fn incarnation(self) -> u8 {
        (self.0.get() >> 24) as u8
    }
}

/// What happened at a connection. After an end by anything but [`Ended::Finished`] the connection is no more,
/// and its `Id` is ignored.
#[derive(Debug, PartialEq)]
pub(crate) struct Heard<'a> {
    pub(crate) id: Id,
    /// What the user named the connection at [`Stack::connect`].
    pub(crate) token: u32,
    pub(crate) connected: bool,
    /// The next bytes of its stream.
    pub(crate) data: &'a [u8],
    /// After the data.
    pub(crate) ended: Option<Ended>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// Segments of the server.
    pub(crate) arrived: u64,
    /// Packets that are no TCP, are damaged, or come from elsewhere.
    pub(crate) ignored: u64,
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
    /// Segments that no connection, or none in such a state, could use.
    pub(crate) unacceptable: u64,
    /// Times that something was sent again.
    pub(crate) repeated: u64,
}

/// Times at which a place of the table is looked at, in order, because all wait equally long.
type Queue = VecDeque<(u32, u32)>;

/// The connections of one thread.
pub(crate) struct Stack {
    settings: Settings,
    connections: Vec<Connection>,
    free: VecDeque<u32>,
    now: Vec<u32>,
    soon: Queue,
    timeouts: [Queue; LEVELS],
    outbox: Outbox,
    counts: Counts,
}

fn milliseconds(now: u64) -> u32 {
    // It wraps after 49 days; times are only compared over minutes.
    (now / MILLISECOND) as u32
}

/// Whether a time has come.
fn reached(due_ms: u32, now_ms: u32) -> bool {
    now_ms.wrapping_sub(due_ms) as i32 >= 0
}

impl Stack {
    pub(crate) fn new(settings: Settings) -> Stack {
        let mut connections = Vec::new();
        connections.reserve_exact(settings.connections);
        Stack {
            settings,
            connections,
            free: VecDeque::new(),
            now: Vec::new(),
            soon: Queue::new(),
            timeouts: Default::default(),
            outbox: Outbox::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// What is to be sent; the caller sends it and clears it.
    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Connections that so many addresses allow.
    pub(crate) fn capacity(addresses: u32) -> u32 {
        addresses.saturating_mul(PLACES_AN_ADDRESS).min(MOST_PLACES)
    }

    /// Starts a connection. The server may send `window` bytes before they are acknowledged, and so many are
    /// kept of a connection that does not read. `None`: all ports of all addresses are in use.
    pub(crate) fn connect(&mut self, now: u64, token: u32, window: u16) -> Option<Id> {
        let place = match self.free.pop_front() {
            Some(place) => place,
            None => self.new_place()?,
        };
        let now_ms = milliseconds(now);
        let incarnation = self.connections[place as usize].incarnation;
        let initial = self.initial_sequence(now, place, incarnation);
        self.with(place, |connection, line| connection.open(now_ms, token, initial, window, line));
        self.watch(place, 0);
        Some(Id::new(place, incarnation))
    }

    /// Queues bytes of an open connection; those that the server's window allows leave at once.
    pub(crate) fn send(&mut self, now: u64, id: Id, bytes: &[u8]) {
        let Some(place) = self.find(id) else { return };
        let before = self.connections[place as usize].due_ms;
        self.with(place, |connection, line| connection.send(milliseconds(now), bytes, line));
        self.watch(place, before);
    }

    /// Ends a connection: the `Id` is not heard of again. What is left to be said to the server is said.
    pub(crate) fn close(&mut self, now: u64, id: Id) {
        let Some(place) = self.find(id) else { return };
        let before = self.connections[place as usize].due_ms;
        let over = self.with(place, |connection, line| connection.close(milliseconds(now), line));
        if over {
            self.connections[place as usize].state = State::Free;
        }
        self.settle(place, before);
    }

    /// Stops to read: what arrives is kept, as far as the window that the server was told reaches.
    pub(crate) fn stall(&mut self, id: Id) {
        if let Some(place) = self.find(id) {
            self.connections[place as usize].stall();
        }
    }

    /// Reads again: takes what was kept meanwhile, and whether it was all.
    pub(crate) fn resume(&mut self, id: Id) -> (Vec<u8>, Option<Ended>) {
        let Some(place) = self.find(id) else { return (Vec::new(), None) };
        self.with(place, |connection, line| connection.resume(line))
    }

    /// Takes a packet of the device.
    pub(crate) fn handle<'p>(&mut self, now: u64, packet: &'p [u8], checksum: Checksum) -> Option<Heard<'p>> {
        let segment = match Segment::parse(packet, checksum) {
            Ok(segment) if segment.source == (*self.settings.server.ip(), self.settings.server.port()) => {
                segment
            }
            _ => {
                self.counts.ignored += 1;
                return None;
            }
        };
        self.counts.arrived += 1;
        let Some(place) = self.place_of(segment.destination) else {
            self.counts.unacceptable += 1;
            self.refuse(&segment);
            return None;
        };
        let connection = &self.connections[place as usize];
        let (before, token, incarnation) = (connection.due_ms, connection.token, connection.incarnation);
        let arrival =
            self.with(place, |connection, line| connection.handle(milliseconds(now), &segment, line));
        let Arrival { connected, data, ended, acknowledge, oddity } = arrival;
        match oddity {
            None => {}
            Some(Oddity::Duplicate) => self.counts.duplicates += 1,
            Some(Oddity::OutOfOrder) => self.counts.out_of_order += 1,
            Some(Oddity::Unacceptable) => self.counts.unacceptable += 1,
        }
        match acknowledge {
            Acknowledge::Nothing => {}
            Acknowledge::Soon => {
                self.soon.push_back((milliseconds(now).wrapping_add(ACKNOWLEDGE_AFTER_MS), place));
            }
            Acknowledge::Now => self.now.push(place),
        }
        self.settle(place, before);
        let news = connected || !data.is_empty() || ended.is_some();
        news.then(|| Heard { id: Id::new(place, incarnation), token, connected, data, ended })
    }

    /// Does what has become due, up to a connection whose server does not answer any more.
    pub(crate) fn poll_timeout(&mut self, now: u64) -> Option<Heard<'static>> {
        let now_ms = milliseconds(now);
        while let Some(place) = due(&mut self.soon, now_ms) {
            if self.connections[place as usize].acknowledge != Acknowledge::Nothing {
                self.with(place, |connection, line| connection.send_acknowledgment(line));
            }
        }
        for level in 0..LEVELS {
            while let Some(&(due_ms, place)) = self.timeouts[level].front() {
                if !reached(due_ms, now_ms) {
                    break;
                }
                self.timeouts[level].pop_front();
                let connection = &self.connections[place as usize];
                if connection.due_ms != due_ms {
                    // It was answered, or is another connection by now.
                    continue;
                }
                let (token, incarnation, state) =
                    (connection.token, connection.incarnation, connection.state);
                let ended = self.with(place, |connection, line| connection.timed_out(now_ms, line));
                self.counts.repeated += u64::from(ended.is_none());
                self.settle(place, due_ms);
                // The worker does not hear of a connection that it has closed.
                if ended.is_some() && state != State::Closing {
                    let id = Id::new(place, incarnation);
                    return Some(Heard { id, token, connected: false, data: &[], ended });
                }
            }
        }
        None
    }

    /// Sends one acknowledgment for each connection that has had several segments since the last call.
    pub(crate) fn acknowledge(&mut self) {
        let mut places = std::mem::take(&mut self.now);
        for place in places.drain(..) {
            if self.connections[place as usize].acknowledge == Acknowledge::Now {
                self.with(place, |connection, line| connection.send_acknowledgment(line));
            }
        }
        self.now = places;
    }

    /// When [`Self::poll_timeout`] has something to do, at the latest.
    pub(crate) fn next_timeout(&self, now: u64) -> Option<u64> {
        let now_ms = milliseconds(now);
        let queues = self.timeouts.iter().chain([&self.soon]);
        let left = queues
            .filter_map(|queue| queue.front())
            .map(|&(due_ms, _)| if reached(due_ms, now_ms) { 0 } else { due_ms.wrapping_sub(now_ms) });
        left.min().map(|left_ms| now + u64::from(left_ms) * MILLISECOND)
    }

    fn new_place(&mut self) -> Option<u32> {
        let place = self.connections.len() as u32;
        if place >= Stack::capacity(self.settings.addresses) {
            return None;
        }
        if self.connections.len() == self.connections.capacity() {
            self.connections.reserve_exact(self.connections.len() / 8 + 1_024);
        }
        self.connections.push(Connection::default());
        Some(place)
    }

    /// The clock of RFC 9293, 3.4.1, and a number that is each port's own (RFC 6528).
    fn initial_sequence(&self, now: u64, place: u32, incarnation: u8) -> u32 {
        let port = (u64::from(place) << 4) | (u64::from(incarnation) % u64::from(PORTS_A_PLACE));
        let mut mixed = port ^ self.settings.seed;
        // The finishing steps of SplitMix64.
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((now / 4_000) as u32).wrapping_add((mixed ^ mixed >> 31) as u32)
    }

    /// A connection that has not ended and was not closed.
    fn find(&self, id: Id) -> Option<u32> {
        let connection = self.connections.get(id.place() as usize)?;
        let alive = matches!(connection.state, State::Connecting | State::Open);
        (alive && connection.incarnation == id.incarnation()).then_some(id.place())
    }

    /// The place in the table that an address and a port stand for, where its connection is the one in it.
    fn place_of(&self, (address, port): (Ipv4Addr, u16)) -> Option<u32> {
        let host = address.to_bits().wrapping_sub(self.settings.first_address.to_bits());
        let port = u32::from(port).checked_sub(FIRST_PORT)?;
        if host >= self.settings.addresses {
            return None;
        }
        let place = u64::from(port / PORTS_A_PLACE) * u64::from(self.settings.addresses) + u64::from(host);
        let connection = self.connections.get(usize::try_from(place).ok()?)?;
        let fits = u32::from(connection.incarnation) % PORTS_A_PLACE == port % PORTS_A_PLACE;
        (connection.state != State::Free && fits).then_some(place as u32)
    }

    /// Where the connection in a place comes from: the other way round.
    fn source_of(&self, place: u32, incarnation: u8) -> (Ipv4Addr, u16) {
        let addresses = self.settings.addresses;
        let address = self.settings.first_address.to_bits() + place % addresses;
        let port = FIRST_PORT + place / addresses * PORTS_A_PLACE + u32::from(incarnation) % PORTS_A_PLACE;
        (Ipv4Addr::from_bits(address), port as u16)
    }

    /// Calls a method of a connection with its line to the outbox.
    fn with<T>(&mut self, place: u32, call: impl FnOnce(&mut Connection, &mut Line<'_>) -> T) -> T {
        let source = self.source_of(place, self.connections[place as usize].incarnation);
        let destination = (*self.settings.server.ip(), self.settings.server.port());
        let outbox = &mut self.outbox;
        let mut out = |outgoing: Outgoing<'_>| {
            let Outgoing { sequence, acknowledgment, flags, window, largest, data } = outgoing;
            let segment =
                Segment { source, destination, sequence, acknowledgment, flags, window, largest, data };
            outbox.push(|into| segment.write(into));
        };
        let largest = self.settings.largest_segment;
        call(&mut self.connections[place as usize], &mut Line { out: &mut out, largest })
    }

    /// Answers a segment that belongs to no connection (RFC 9293, 3.10.7.1).
    fn refuse(&mut self, segment: &Segment<'_>) {
        if segment.has(flag::RST) {
            return;
        }
        let (sequence, acknowledgment, flags) = if segment.has(flag::ACK) {
            (segment.acknowledgment, 0, flag::RST)
        } else {
            (0, segment.sequence.wrapping_add(segment.length()), flag::RST | flag::ACK)
        };
        let reset = Segment {
            source: segment.destination,
            destination: segment.source,
            sequence,
            acknowledgment,
            flags,
            window: 0,
            largest: None,
            data: &[],
        };
        self.outbox.push(|into| reset.write(into));
    }

    /// After a call that may have ended a connection, or started its timer.
    fn settle(&mut self, place: u32, before_ms: u32) {
        if self.connections[place as usize].is_over() {
            self.connections[place as usize].free();
            self.free.push_back(place);
        } else {
            self.watch(place, before_ms);
        }
    }

    /// Queues a timer that was started, unless it ran before.
    fn watch(&mut self, place: u32, before_ms: u32) {
        let connection = &self.connections[place as usize];
        if connection.due_ms != 0 && connection.due_ms != before_ms {
            self.timeouts[usize::from(connection.level)].push_back((connection.due_ms, place));
        }
    }
}

/// Takes the first place of a queue whose time has come.
fn due(queue: &mut Queue, now_ms: u32) -> Option<u32> {
    let &(due_ms, place) = queue.front()?;
    if !reached(due_ms, now_ms) {
        return None;
    }
    queue.pop_front();
    Some(place)
}
