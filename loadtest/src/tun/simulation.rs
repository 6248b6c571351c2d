//! The stack against a server and a network that are simulated: what the network loses, doubles, delays and
//! reorders comes from a seed, and so does what the server and the users do.
//!
//! The server is written as simply as possible and shares nothing with the stack but the packet format.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::connection::Ended;
use super::packet::{Checksum, Segment, flag};
use super::stack::{Id, Settings, Stack};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Byte `at` of the stream for a subscriber: any two streams and any two places differ.
fn stream_byte(token: u32, at: usize) -> u8 {
    (at as u32).wrapping_mul(2_654_435_761).wrapping_add(token.wrapping_mul(40_503)).to_be_bytes()[0]
}

fn request(token: u32) -> Vec<u8> {
    let mut text = format!("GET /{token} HTTP/1.1\r\n").into_bytes();
    text.resize(text.len() + token as usize % 3 * 400, b'x');
    text.extend_from_slice(b"\r\n\r\n");
    text
}

/// The server's end of a connection.
struct End {
    token: Option<u32>,
    first: u32,
    acknowledged: u32,
    next: u32,
    receive_next: u32,
    window: u32,
    largest: usize,
    /// Into which it takes a client's bytes. A closed one opens after some segments.
    own_window: u16,
    questions: u32,
    established: bool,
    received: Vec<u8>,
    client_finished: bool,
    /// How long its stream is, and whether it closes behind it.
    length: usize,
    finishes: bool,
    finish_sent: bool,
    due: u64,
    duplicates: u32,
    reset: bool,
}

/// A server for many connections.
struct Server {
    address: (Ipv4Addr, u16),
    ends: BTreeMap<(Ipv4Addr, u16), End>,
    random: Random,
    out: Vec<Vec<u8>>,
    /// Sends so many bytes to each client.
    longest: u64,
}

const RETRANSMIT: u64 = 300 * MILLISECOND;

impl Server {
    fn emit(&mut self, to: (Ipv4Addr, u16), sequence: u32, flags: u8, data: &[u8]) {
        let end = &self.ends[&to];
        let mut packet = Vec::new();
        let largest =
            (flags & flag::SYN != 0).then_some(if end.length.is_multiple_of(2) { 300 } else { 1_460 });
        Segment {
            source: self.address,
            destination: to,
            sequence,
            acknowledgment: end.receive_next,
            flags: flags | flag::ACK,
            window: end.own_window,
            largest,
            data,
        }
        .write(&mut packet);
        self.out.push(packet);
    }

    fn handle(&mut self, now: u64, packet: &[u8]) {
        let segment = Segment::parse(packet, Checksum::Present).expect("what the stack sends is well formed");
        assert_eq!(segment.destination, self.address);
        let from = segment.source;
        if segment.has(flag::RST) {
            if let Some(end) = self.ends.get_mut(&from)
                && (segment.sequence == end.receive_next || segment.has(flag::ACK) || !end.established)
            {
                end.reset = true;
                end.due = u64::MAX;
            }
            return;
        }
        if segment.has(flag::SYN) {
            self.handle_syn(now, &segment);
            return;
        }
        let Some(end) = self.ends.get_mut(&from).filter(|end| !end.reset) else { return };
        if segment.acknowledgment.wrapping_sub(end.first) > end.next.wrapping_sub(end.first) {
            return;
        }
        let acknowledged = segment.acknowledgment.wrapping_sub(end.acknowledged);
        if acknowledged < 1 << 31 {
            end.window = u32::from(segment.window);
            if acknowledged > 0 {
                end.acknowledged = segment.acknowledgment;
                end.established = true;
                end.duplicates = 0;
                end.due = if end.acknowledged == end.next { u64::MAX } else { now + RETRANSMIT };
            } else if segment.length() == 0 && end.next != end.acknowledged {
                end.duplicates += 1;
            }
        }
        let fast = end.duplicates == 3;
        let offset = segment.sequence.wrapping_sub(end.receive_next);
        let mut answer = segment.length() > 0;
        if offset == 0 && segment.length() > 0 {
            let taken = segment.data.len().min(usize::from(end.own_window));
            end.received.extend_from_slice(&segment.data[..taken]);
            end.receive_next = end.receive_next.wrapping_add(taken as u32);
            if segment.has(flag::FIN) && taken == segment.data.len() {
                end.client_finished = true;
                end.receive_next = end.receive_next.wrapping_add(1);
            }
        } else if offset.wrapping_neg() < 1 << 20 && segment.has(flag::FIN) && segment.length() == 1 {
            answer = true;
        }
        if end.token.is_none() && end.received.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8(end.received.clone()).unwrap();
            let number = text.split(['/', ' ']).nth(2).unwrap();
            end.token = Some(number.parse().unwrap());
            assert_eq!(end.received, request(end.token.unwrap()), "the request arrives once and in order");
        }
        if end.own_window == 0 {
            end.questions += 1;
            if end.questions > 2 {
                end.own_window = 4_000;
                answer = true;
            }
        }
        if answer {
            let next = end.next;
            self.emit(from, next, 0, &[]);
        }
        if fast {
            self.repeat(from);
        }
        self.transmit(now, from);
    }

    fn handle_syn(&mut self, now: u64, segment: &Segment<'_>) {
        let random = &mut self.random;
        // Half of all streams pass the end of the number space.
        let first = if random.percent(50) {
            0u32.wrapping_sub(random.below(5_000) as u32)
        } else {
            random.next() as u32
        };
        let length = random.below(self.longest) as usize;
        let own_window = if random.percent(10) { 0 } else { 4_000 };
        let finishes = random.percent(40);
        let end = self.ends.entry(segment.source).or_insert(End {
            token: None,
            first,
            acknowledged: first,
            next: first.wrapping_add(1),
            receive_next: segment.sequence.wrapping_add(1),
            window: u32::from(segment.window),
            largest: usize::from(segment.largest.expect("a SYN names it")),
            own_window,
            questions: 0,
            established: false,
            received: Vec::new(),
            client_finished: false,
            length,
            finishes,
            finish_sent: false,
            due: 0,
            duplicates: 0,
            reset: false,
        });
        end.due = now + RETRANSMIT;
        let first = end.first;
        self.emit(segment.source, first, flag::SYN, &[]);
    }

    /// Sends what the window allows in segments of any size.
    fn transmit(&mut self, now: u64, to: (Ipv4Addr, u16)) {
        loop {
            let end = &self.ends[&to];
            let Some(token) = end.token.filter(|_| end.established && !end.finish_sent && !end.reset) else {
                return;
            };
            let sent = end.next.wrapping_sub(end.first) as usize - 1;
            let flight = end.next.wrapping_sub(end.acknowledged);
            let room = (end.window.saturating_sub(flight) as usize).min(end.length - sent);
            let (mut data, mut flags) = (Vec::new(), 0);
            if room > 0 && !end.client_finished {
                let size = (1 + self.random.below(end.largest as u64) as usize).min(room);
                data = (sent..sent + size).map(|at| stream_byte(token, at)).collect();
            }
            let over = end.client_finished || sent + data.len() == end.length && end.finishes;
            if over {
                flags = flag::FIN;
            }
            if data.is_empty() && flags == 0 {
                // A window that is closed is asked for, below.
                let end = self.ends.get_mut(&to).unwrap();
                if end.due == u64::MAX && sent < end.length {
                    end.due = now + RETRANSMIT;
                }
                return;
            }
            let sequence = end.next;
            self.emit(to, sequence, flags, &data);
            let end = self.ends.get_mut(&to).unwrap();
            end.next = end.next.wrapping_add(data.len() as u32 + u32::from(over));
            end.finish_sent = over;
            end.due = end.due.min(now + RETRANSMIT);
        }
    }

    /// Sends the first segment that is not acknowledged again, cut elsewhere; or asks for the window.
    fn repeat(&mut self, to: (Ipv4Addr, u16)) {
        let end = &self.ends[&to];
        let at = end.acknowledged.wrapping_sub(end.first);
        if at == 0 {
            let first = end.first;
            return self.emit(to, first, flag::SYN, &[]);
        }
        let behind = end.next.wrapping_sub(u32::from(end.finish_sent)).wrapping_sub(end.first) as usize - 1;
        let start = at as usize - 1;
        if end.next == end.acknowledged {
            // An old byte number without data, as Linux does it.
            let sequence = end.next.wrapping_sub(1);
            return self.emit(to, sequence, 0, &[]);
        }
        let size = if behind > start { (behind - start).min(end.largest) } else { 0 };
        let token = end.token.unwrap();
        let data: Vec<u8> = (start..start + size).map(|at| stream_byte(token, at)).collect();
        let last = end.finish_sent && start + size == behind;
        let sequence = end.acknowledged;
        self.emit(to, sequence, if last { flag::FIN } else { 0 }, &data);
    }

    fn next_due(&self) -> Option<u64> {
        self.ends.values().map(|end| end.due).min().filter(|&due| due != u64::MAX)
    }

    fn timed_out(&mut self, now: u64) {
        let due: Vec<_> = self.ends.iter().filter(|(_, end)| end.due <= now).map(|(&key, _)| key).collect();
        for key in due {
            self.ends.get_mut(&key).unwrap().due = now + RETRANSMIT;
            self.repeat(key);
        }
    }
}

/// A user of one connection.
struct User {
    id: Id,
    received: usize,
    connected: bool,
    stalled: bool,
    ended: Option<Ended>,
    /// Closes after so many bytes.
    leaves_after: usize,
    closed: bool,
}

/// When a packet arrives, in which order it was sent, whether to the server.
type Carried = (u64, u64, bool, Vec<u8>);

struct World {
    stack: Stack,
    server: Server,
    users: BTreeMap<u32, User>,
    /// Packets under way.
    under_way: BinaryHeap<Reverse<Carried>>,
    sent: u64,
    /// The right edge of the window that each port was last told to have.
    edges: BTreeMap<(Ipv4Addr, u16), u32>,
    random: Random,
    loss: u64,
    doubled: u64,
    slowest: u64,
    /// No stream stalls any more.
    calm: bool,
    window: u16,
    now: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let server = SocketAddrV4::new(Ipv4Addr::new(10, 64, 0, 1), 80);
        let window = [500, 5_000, 65_535][random.below(3) as usize];
        let settings = Settings {
            first_address: Ipv4Addr::new(10, 64, 0, 2),
            addresses: 1 + random.below(4) as u32,
            server,
            largest_segment: 1_460,
            connections: 0,
            seed: random.next(),
        };
        let bad = random.percent(80);
        World {
            stack: Stack::new(settings),
            server: Server {
                address: (*server.ip(), server.port()),
                ends: BTreeMap::new(),
                random: Random(random.next()),
                out: Vec::new(),
                longest: 12_000,
            },
            users: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            sent: 0,
            edges: BTreeMap::new(),
            loss: if bad { random.below(25) } else { 0 },
            doubled: if bad { random.below(20) } else { 0 },
            slowest: 1 + random.below(80) * MILLISECOND,
            calm: false,
            window,
            now: SECOND + random.below(1 << 40),
            random,
        }
    }

    fn connect(&mut self, token: u32) {
        let id = self.stack.connect(self.now, token, self.window).expect("there are ports");
        let leaves_after =
            if self.random.percent(50) { usize::MAX } else { self.random.below(4_000) as usize };
        let user = User {
            id,
            received: 0,
            connected: false,
            stalled: false,
            ended: None,
            leaves_after,
            closed: false,
        };
        self.users.insert(token, user);
    }

    /// Gives the network what has been sent.
    fn carry(&mut self) {
        let mut packets = Vec::new();
        for packet in self.stack.outbox().packets() {
            packets.push((true, packet[super::outbox::HEADROOM..].to_vec()));
        }
        self.stack.outbox().clear();
        for (_, packet) in &packets {
            self.check_window(packet);
        }
        packets.extend(self.server.out.drain(..).map(|packet| (false, packet)));
        for (to_server, mut packet) in packets {
            if self.random.percent(self.loss) {
                continue;
            }
            if self.loss > 0 && self.random.percent(1) && !to_server {
                let at = self.random.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << self.random.below(8);
            }
            for _ in 0..1 + u64::from(self.random.percent(self.doubled)) {
                self.sent += 1;
                let arrives = self.now + self.random.below(self.slowest);
                self.under_way.push(Reverse((arrives, self.sent, to_server, packet.clone())));
            }
        }
    }

    /// A window that was announced is never taken back (RFC 9293, 3.8.6).
    fn check_window(&mut self, packet: &[u8]) {
        let segment = Segment::parse(packet, Checksum::Present).expect("well formed");
        if segment.has(flag::SYN) || segment.has(flag::RST) {
            self.edges.remove(&segment.source);
            return;
        }
        let edge = segment.acknowledgment.wrapping_add(u32::from(segment.window));
        if let Some(before) = self.edges.insert(segment.source, edge) {
            assert!(edge.wrapping_sub(before) < 1 << 31, "the window of {:?} shrank", segment.source);
        }
    }

    fn take(user: &mut User, token: u32, data: &[u8]) {
        for &byte in data {
            assert_eq!(byte, stream_byte(token, user.received), "byte {} of {token}", user.received);
            user.received += 1;
        }
    }

    fn arrive(&mut self, packet: &[u8]) {
        let Some(heard) = self.stack.handle(self.now, packet, Checksum::Present) else { return };
        let (id, token, connected, ended) = (heard.id, heard.token, heard.connected, heard.ended);
        let user = self.users.get_mut(&token).expect("a token that was given");
        assert_eq!((user.id, user.closed, user.ended), (id, false, None), "nothing comes after the end");
        assert!(!user.stalled || heard.data.is_empty() && ended != Some(Ended::Finished));
        Self::take(user, token, heard.data);
        if connected {
            assert!(!user.connected);
            user.connected = true;
            self.stack.send(self.now, id, &request(token));
        }
        self.ended(token, ended);
    }

    fn ended(&mut self, token: u32, ended: Option<Ended>) {
        let user = self.users.get_mut(&token).unwrap();
        if ended.is_some() {
            user.ended = ended;
        }
        if ended == Some(Ended::Finished) || user.received > user.leaves_after && !user.closed {
            user.closed = true;
            self.stack.close(self.now, user.id);
        }
    }

    /// Users stop to read, and read again.
    fn stall_some(&mut self) {
        let tokens: Vec<u32> = self.users.keys().copied().collect();
        for token in tokens {
            let user = self.users.get_mut(&token).unwrap();
            if user.closed || user.ended.is_some() || !user.connected || !self.random.percent(2) {
                continue;
            }
            if user.stalled {
                user.stalled = false;
                let (kept, ended) = self.stack.resume(user.id);
                Self::take(user, token, &kept);
                self.ended(token, ended);
            } else if !self.calm {
                user.stalled = true;
                self.stack.stall(user.id);
            }
        }
    }

    /// Lets time pass until nothing is left to happen.
    fn run(&mut self, until: u64) {
        loop {
            self.carry();
            let arrival = self.under_way.peek().map(|Reverse((when, ..))| *when);
            let next = [arrival, self.stack.next_timeout(self.now), self.server.next_due()];
            let Some(next) = next.into_iter().flatten().min() else { return };
            if next > until {
                return;
            }
            self.now = self.now.max(next);
            while let Some(Reverse((_, _, to_server, packet))) =
                self.under_way.peek().filter(|Reverse((when, ..))| *when <= self.now).cloned()
            {
                self.under_way.pop();
                if to_server { self.server.handle(self.now, &packet) } else { self.arrive(&packet) }
            }
            while let Some(heard) = self.stack.poll_timeout(self.now) {
                let user = self.users.get_mut(&heard.token).unwrap();
                assert_eq!((heard.ended, user.closed), (Some(Ended::TimedOut), false));
                user.ended = heard.ended;
            }
            self.stack.acknowledge();
            self.server.timed_out(self.now);
            self.stall_some();
        }
    }
}

/// One seed: users come, read, stall and leave, and at the end every byte has arrived once and in order.
fn run_seed(seed: u64) {
    let mut world = World::new(seed);
    let mut token = 0;
    for _ in 0..3 {
        for _ in 0..4 {
            world.connect(token);
            token += 1;
        }
        let until = world.now + world.random.below(2 * SECOND);
        world.run(until);
    }
    world.run(world.now + 20 * SECOND);
    // All read again; then nothing may be outstanding.
    world.calm = true;
    for _ in 0..3 {
        for token in 0..token {
            let user = world.users.get_mut(&token).unwrap();
            if std::mem::take(&mut user.stalled) && !user.closed {
                let (kept, ended) = world.stack.resume(user.id);
                World::take(user, token, &kept);
                world.ended(token, ended);
            }
        }
        world.run(world.now + 200 * SECOND);
    }
    for (token, user) in &mut world.users {
        let end = world.server.ends.values().find(|end| end.token == Some(*token));
        match user.ended {
            _ if user.closed && user.ended.is_none() => {}
            None => {
                let end = end.unwrap_or_else(|| panic!("{token} has asked"));
                assert!(!end.finishes, "{token}: the end of the stream was not told");
                assert_eq!(user.received, end.length, "{token}: all bytes");
            }
            Some(Ended::Finished) => {
                let end = end.unwrap_or_else(|| panic!("{token} has asked"));
                assert_eq!(user.received, end.length, "{token}: all bytes before the end");
                assert!(end.finishes);
            }
            Some(ended) => assert!(world.loss > 8, "{token} ended by {ended:?}"),
        }
    }
    if world.loss == 0 && world.slowest < 30 * MILLISECOND && world.doubled == 0 {
        assert_eq!(world.stack.counts().ignored, 0);
    }
}

fn sweep(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run_seed(seed));
        assert!(result.is_ok(), "seed {seed} fails");
    }
}

#[test]
fn every_byte_arrives_once_and_in_order() {
    let seeds = std::env::var("FANFARE_TUN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    sweep(0..seeds);
}

/// Replays the seed in `FANFARE_TUN_SEED`.
#[test]
fn replays_one_seed() {
    let seed = std::env::var("FANFARE_TUN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    run_seed(seed);
}
