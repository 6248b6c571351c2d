//! The real shard on a network in memory with a clock in hand, against a naive model.
//!
//! One seed is one story: its limits, its clients, what they do and when. Each client checks every byte
//! of its stream against the list of all events ([`client`]); the network checks what the shard does to
//! sockets ([`network`]); what is left to check is here. In the end all leave, or the shard drains.
//!
//! A failure prints the line that replays it. `FANFARE_SEEDS` sets how many seeds are tried.

mod client;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Io, Socket, Waker, pass};
use fanfare_proto::connection::Farewell;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::head::RequestHead;
use fanfare_proto::limits::{FullPolicy, LINGER, LaggardPolicy, Limits, Retention};

use super::{Links, Random, Shard};
use crate::admission::{Decision, Refusal, Subscribe};
use crate::counts::SharedCounts;
use crate::mailbox::{Mail, Mailbox};
use client::{Client, From, History, Moment};
use network::Network;

const SEEDS: u64 = 200;
const STEPS: usize = 300;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_subscriber_gets_its_events_whole_and_once_or_a_sign() {
    let variable = |name| std::env::var(name).ok().map(|value: String| value.parse().unwrap());
    let seeds = match variable("FANFARE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("FANFARE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _replay = Replay(seed);
        let mut world = World::random(seed);
        for _ in 0..STEPS {
            world.step();
        }
        if world.random.one_in(2) {
            world.drain();
        } else {
            world.settle();
            world.all_leave();
        }
    }
}

#[test]
fn a_heartbeat_comes_only_after_silence() {
    let mut world = World::calm(Limits { heartbeat: 4 * SECOND, ..Limits::default() });
    // A young shard took its first tenth of a second for "silent since ever", and sent one at once.
    world.join("topic=a", usize::MAX);
    world.pass(2 * SECOND);
    assert_eq!(world.shard.counts.heartbeats, 0);
    world.publish("a", 10);
    world.pass(2 * SECOND);
    assert_eq!(world.shard.counts.heartbeats, 0);
    // From then on each interval has one, early rather than late.
    world.pass(20 * SECOND);
    assert!((5..=7).contains(&world.shard.counts.heartbeats));
}

/// What a laggard was sent whole did not count: it had been silent since its first byte, and as soon as it
/// had caught up there was a heartbeat behind its events.
#[test]
fn a_laggard_that_has_caught_up_is_not_silent() {
    let mut world = World::calm(Limits { heartbeat: 4 * SECOND, ..Limits::default() });
    let other = world.join("topic=b", usize::MAX);
    let head_bytes = world.shard.io.wire(other).outbound.len();
    world.shard.io.client_leaves(other, true);
    let slow = world.join("topic=a", head_bytes);
    world.publish("a", 10);
    world.pass(10 * SECOND);
    assert_eq!(world.shard.laggards.len(), 1);
    world.shard.io.open(slow);
    world.pass(2 * SECOND);
    assert_eq!((world.shard.laggards.len(), world.shard.counts.deliveries), (0, 1));
    assert_eq!(world.shard.counts.heartbeats, 0);
}

/// The notice of a gap named as the next event the first one in the log, also where the window, from which
/// the stream goes on, reached further back than a log with little retention.
#[test]
fn a_gap_notice_names_the_event_that_comes_next() {
    let retention = Retention { frames: 1, ..Retention::default() };
    let laggard_policy = LaggardPolicy::Skip;
    let mut world = World::calm(Limits { laggard_frames: 4, laggard_policy, retention, ..Limits::default() });
    let slow = world.join("topic=a", 600);
    world.join("topic=a", usize::MAX);
    for _ in 0..20 {
        world.publish("a", 300);
        world.pass(Duration::from_millis(1));
    }
    world.shard.io.open(slow);
    world.pass(SECOND);
    let stream = String::from_utf8(world.shard.io.wire(slow).outbound.clone()).unwrap();
    let (_, gap) = stream.split_once("event: fanfare.gap").expect("a gap");
    let (_, before) = gap.split_once(r#""before":""#).unwrap();
    let (before, rest) = before.split_once('"').unwrap();
    let (_, next) = rest.split_once("\nid: ").unwrap();
    assert_eq!(next.split('\n').next().unwrap(), before);
}

/// A drain ended streams slot by slot, also that of a laggard whose turn came: what had been acknowledged before the
/// drain, and was still to be written to it, was lost although there was time.
#[test]
fn a_drain_gives_laggards_the_whole_window() {
    let mut world = World::calm(Limits::default());
    let other = world.join("topic=b", usize::MAX);
    let head_bytes = world.shard.io.wire(other).outbound.len();
    world.shard.io.client_leaves(other, true);
    let slow = world.join("topic=a", head_bytes);
    for _ in 0..9 {
        world.join("topic=b", usize::MAX);
    }
    world.publish("a", 10);
    world.pass(SECOND / 10);
    assert_eq!((world.shard.laggards.len(), world.shard.connections.len()), (1, 10));

    world.shard.links.mailbox.push(Mail::Drain(2 * SECOND), || Ok::<_, ()>(())).unwrap();
    world.pass(SECOND);
    assert!((5..=6).contains(&world.shard.connections.len()), "the others are ended at the same pace");
    world.shard.io.open(slow);
    world.pass(2 * SECOND);
    assert!(world.shard.stopped && world.shard.io.wire(slow).finished);
    assert_eq!(world.shard.counts.deliveries, 1);
}

/// Prints how to replay a seed, if it fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: FANFARE_SEED={} cargo test -p fanfare every_subscriber", self.0);
        }
    }
}

struct World {
    random: Random,
    now: Duration,
    epoch: Epoch,
    /// What subscribers choose from: few, so that they share audiences.
    menu: Vec<Vec<Topic>>,
    shard: Shard<Network>,
    history: History,
    clients: BTreeMap<Socket, Client>,
    /// Turns that the shard wanted at once, without a pause between them.
    busy_turns: u32,
    turns: u32,
}

impl World {
    fn random(seed: u64) -> World {
        let mut random = Random::seeded(seed);
        let limits = Limits {
            connections: random.pick(&[3, 100]),
            when_full: random.pick(&[FullPolicy::Unavailable, FullPolicy::EndStream, FullPolicy::Drop]),
            pending: random.pick(&[2, 100]),
            head_time: SECOND,
            laggard_frames: random.pick(&[4, 20, 100]),
            laggard_bytes: random.pick(&[3_000, 30_000, 1 << 20]),
            laggard_time: random.pick(&[2, 30]) * SECOND,
            laggard_policy: random.pick(&[LaggardPolicy::Disconnect, LaggardPolicy::Skip]),
            retention: Retention {
                frames: random.pick(&[0, 5, 50, 1000]),
                bytes: random.pick(&[5_000, 1 << 20]),
                age: random.pick(&[2, 60]) * SECOND,
            },
            heartbeat: random.pick(&[1, 4, 20]) * SECOND,
            connection_age: random.pick(&[None, None, Some(10 * SECOND)]),
            ..Limits::default()
        };
        World::new(seed, limits)
    }

    fn new(seed: u64, limits: Limits) -> World {
        let mut random = Random::seeded(seed ^ 0x5eed);
        let menu = (0..1 + random.below(3)).map(|_| random.topics()).collect();
        let epoch = Epoch::new(seed);
        let (_, adopted) = pass::channel().unwrap();
        let links = Links {
            mailbox: Arc::new(Mailbox::new(Waker::new().unwrap())),
            adopted,
            hand_over: None,
            counts: Arc::new(CachePadded::new(SharedCounts::default())),
            admission: Arc::new(admit),
            newest: Arc::default(),
        };
        let network = Network::new(seed);
        World {
            random,
            now: Duration::ZERO,
            epoch,
            menu,
            shard: Shard::new(network, links, limits, SocketOptions::default(), epoch, seed),
            history: History::default(),
            clients: BTreeMap::new(),
            busy_turns: 0,
            turns: 0,
        }
    }

    /// Nothing is left to chance.
    fn calm(limits: Limits) -> World {
        let mut world = World::new(0, limits);
        world.shard.io.calm = true;
        world
    }

    /// A subscriber whose socket takes `capacity` bytes that it has not read.
    fn join(&mut self, query: &str, capacity: usize) -> Socket {
        let socket = self.shard.io.connect(capacity);
        let head = format!("GET /events?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        self.shard.io.client_sends(socket, head.as_bytes());
        self.pass(SECOND / 100);
        assert!(self.shard.connections.iter().any(|(_, connection)| connection.socket == socket));
        socket
    }

    fn publish(&mut self, topic: &str, size: usize) {
        let frame = self.append(Event::new(Topic::new(topic).unwrap()), size);
        self.shard.links.mailbox.push_events([frame].iter());
    }

    // One step of a story.

    fn step(&mut self) {
        match self.random.below(100) {
            0..12 if self.clients.len() < 15 => self.connect(),
            12..30 => self.send_some_request(),
            30..50 => self.publish_some(),
            50..65 => self.read_some(),
            65..68 => self.leave_some(),
            68..72 => self.squeeze_some(),
            _ => {}
        }
        let wait = self.random.pick(&[0, 1, 1, 10, 30, 30, 100, 700]);
        self.turn(Duration::from_millis(wait));
        self.clients.retain(|socket, _| {
            let wire = self.shard.io.wire(*socket);
            !(wire.closed && self.shard.io.has_left(*socket))
        });
    }

    fn connect(&mut self) {
        let capacity = self.random.pick(&[60, 400, 3_000, 100_000, usize::MAX, usize::MAX, usize::MAX]);
        let socket = self.shard.io.connect(capacity);
        let client = if self.random.one_in(10) {
            let head = self.random.pick(&[
                "POST /events?topic=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                "GET /else HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /events HTTP/1.1\r\nHost: a\r\n\r\n",
                "\x16\x03\x01\r\n\r\n",
            ]);
            Client::stranger(&mut self.random, socket, head, self.now)
        } else {
            let topics = self.menu[self.random.below(self.menu.len())].clone();
            let near = (self.history.events.len() as u64 + 2).saturating_sub(self.random.below(40) as u64);
            let from = match self.random.below(8) {
                0 => From::Earliest,
                1 | 2 => From::After(Cursor { epoch: self.epoch, seq: near }),
                3 => From::Unknown,
                _ => From::Now,
            };
            Client::subscriber(&mut self.random, socket, topics, from, self.now)
        };
        self.clients.insert(socket, client);
    }

    fn send_some_request(&mut self) {
        let waiting: Vec<Socket> = self
            .clients
            .values()
            .filter(|client| !client.request.is_empty() && !self.shard.io.has_left(client.socket))
            .map(|client| client.socket)
            .collect();
        for socket in waiting {
            if self.random.one_in(2) {
                let piece = self.clients.get_mut(&socket).unwrap().request.pop_front().unwrap();
                self.shard.io.client_sends(socket, &piece);
            }
        }
    }

    fn publish_some(&mut self) {
        // The hub answers "busy" here.
        if self.shard.links.mailbox.len() > 10 {
            return;
        }
        let count = 1 + self.random.below(5);
        let frames: Vec<Arc<Frame>> = (0..count).map(|_| self.event()).collect();
        self.shard.links.mailbox.push_events(frames.iter());
    }

    fn event(&mut self) -> Arc<Frame> {
        let mut event = Event::new(self.random.topic()).private(self.random.one_in(5));
        if self.random.one_in(4) {
            event = event.also(self.random.topic()).unwrap();
        }
        if self.random.one_in(5) {
            event = event.id(EventId::new(format!("own-{}", self.history.events.len())).unwrap());
        }
        let size = self.random.pick(&[0, 10, 10, 100, 100, 500, 3_000, 35_000]);
        self.append(event, size)
    }

    /// Adds an event to the list, and encodes it as the hub does.
    fn append(&mut self, event: Event, size: usize) -> Arc<Frame> {
        let seq = self.history.events.len() as u64 + 1;
        let cursor = Cursor { epoch: self.epoch, seq }.to_string();
        let id = event.own_id().map_or(cursor, |id| id.as_str().to_owned());
        let data = format!("{seq} {}", "x".repeat(size));
        let frame = Arc::new(Frame::encode(seq, &id, event.data(data.clone()), self.now));
        self.history.events.push((Arc::clone(&frame), data));
        frame
    }

    fn read_some(&mut self) {
        if let Some(socket) = self.some_client() {
            let count = self.random.pick(&[1, 40, 500, 5_000, usize::MAX]);
            self.shard.io.client_reads(socket, count);
        }
    }

    /// A client stops to read, and little room is left.
    fn squeeze_some(&mut self) {
        if let Some(socket) = self.some_client() {
            let room = self.random.below(10);
            self.shard.io.squeeze(socket, room);
        }
    }

    fn leave_some(&mut self) {
        if let Some(socket) = self.some_client() {
            let reset = self.random.one_in(2);
            self.shard.io.client_leaves(socket, reset);
        }
    }

    fn some_client(&mut self) -> Option<Socket> {
        let index = self.random.below(self.clients.len().max(1));
        self.clients.keys().nth(index).copied()
    }

    // One turn of the shard's loop, and what must hold after it.

    /// Waits as long as the shard wants to, at most `longest`, and ticks.
    fn turn(&mut self, longest: Duration) {
        let timeout = self.shard.timeout(self.now);
        let wait = match timeout {
            _ if self.shard.io.is_ready() => Duration::ZERO,
            Some(timeout) => timeout.min(longest),
            None => longest,
        };
        self.busy_turns = if timeout == Some(Duration::ZERO) { self.busy_turns + 1 } else { 0 };
        self.turns += 1;
        assert!(self.busy_turns < 500, "the shard spins");
        self.now += wait;
        let mut notifications = Vec::new();
        self.shard.io.wait(Some(wait), &mut notifications).unwrap();
        self.shard.links.mailbox.awake();
        let at = Moment {
            now: self.now,
            head: self.shard.log.head(),
            dropped: self.shard.log.head() - self.shard.log.len() as u64,
        };
        self.shard.tick(self.now, &mut notifications);
        self.look_at_clients(at);
        self.look_at_tables();
    }

    fn look_at_clients(&mut self, at: Moment) {
        let heartbeat = self.shard.limits.heartbeat;
        let taken_in: BTreeSet<Socket> = self.shard.connections.iter().map(|(_, it)| it.socket).collect();
        for client in self.clients.values_mut() {
            let wire = self.shard.io.wire(client.socket);
            let answered = taken_in.contains(&client.socket) || !wire.outbound.is_empty();
            if client.seen.is_none() && answered {
                client.subscribed(at);
            }
            client.take(&wire.outbound, &self.history, self.epoch, at, heartbeat);
            client.was_blocked = wire.blocked;
            client.ever_blocked |= wire.blocked;
            let is_subscriber = client.status == Some(200) && !wire.finished && !wire.closed;
            if wire.blocked {
                client.blocked_at = at.now;
            }
            if is_subscriber && !self.shard.io.has_left(client.socket) {
                let silence = at.now - client.last_bytes_at.max(client.blocked_at);
                assert!(silence <= heartbeat + SECOND / 2, "no heartbeat for {silence:?}");
            }
            if wire.finished && client.status == Some(200) {
                assert!(!client.is_cut() || client.ever_blocked, "the end itself is cut");
                assert!(!client.is_cut_in_a_frame(), "a stream ends between frames");
            }
            if client.terminated {
                assert!(wire.finished && wire.closed || self.shard.limits.connections == 3);
            }
            let may_end = wire.finished
                || client.ever_blocked
                || client.status != Some(200)
                || !matches!(client.from, From::Now)
                || self.shard.drain.is_some();
            assert!(
                !wire.closed || may_end || self.shard.io.has_left(client.socket),
                "a healthy one was cut"
            );
        }
    }

    fn look_at_tables(&self) {
        let shard = &self.shard;
        assert_eq!(shard.connections.is_empty(), shard.audiences.is_empty());
        assert!(!shard.audiences.crowded() || shard.audiences.dirty());
        assert!(shard.connections.len() <= shard.limits.connections);
        assert!(shard.pending.len() <= shard.limits.pending);
        assert!(shard.laggards.len() <= shard.connections.len());
        let ended: u64 = Farewell::ALL.iter().map(|reason| shard.counts.farewell(*reason)).sum();
        assert_eq!(shard.counts.subscribed, shard.connections.len() as u64 + ended);
        assert!(shard.scratch.closing.is_empty() && shard.scratch.gone.is_empty());
    }

    // How a story ends.

    /// Lets this time pass, in as many turns as the shard wants.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until && !self.shard.stopped {
            self.turn(until - self.now);
        }
    }

    /// All who are there read everything; then each has everything, and nothing is kept for anybody.
    fn settle(&mut self) {
        for socket in self.clients.keys().copied().collect::<Vec<_>>() {
            self.shard.io.open(socket);
        }
        self.pass(SECOND);
        let shard = &self.shard;
        assert!(shard.laggards.is_empty() && !shard.audiences.dirty() && shard.links.mailbox.len() == 0);
        for (_, connection) in &shard.connections {
            assert!(shard.audiences.window(connection.audience).is_empty());
            if let Some(client) = self.clients.get(&connection.socket) {
                assert!(!client.misses(&self.history), "an event is missing in the end");
                assert!(!client.is_cut());
            }
        }
        assert!(shard.scratch.run.is_empty(), "an idle shard pins no frames");
        let before = self.turns;
        self.pass(10 * SECOND);
        // Heartbeats, laggards' checks, and timers of what the story has left behind.
        let wanted = 10 * (16 / self.shard.limits.heartbeat.as_secs() as u32 + 8) + 500;
        assert!(self.turns - before < wanted, "{} turns in ten idle seconds", self.turns - before);
    }

    /// All leave; then nothing of them is left, and the shard sleeps for ever.
    fn all_leave(&mut self) {
        for socket in self.clients.keys().copied().collect::<Vec<_>>() {
            let reset = self.random.one_in(2);
            self.shard.io.client_leaves(socket, reset);
        }
        self.pass(self.shard.limits.head_time + LINGER + SECOND);
        assert!(self.shard.io.all_closed(), "a socket is left open");
        assert!(self.shard.connections.is_empty() && self.shard.pending.is_empty());
        assert!(self.shard.audiences.is_empty() && self.shard.laggards.is_empty());
        self.pass(self.shard.limits.retention.age);
        assert!(self.shard.log.is_empty() && self.shard.log.extents().count() == 0);
        assert_eq!(self.shard.timeout(self.now), None, "nothing is left to wake up for");
    }

    /// The shard drains, and ends every stream in time.
    fn drain(&mut self) {
        let window = Duration::from_millis(self.random.pick(&[0, 300, 2_000]));
        let subscribers: Vec<Socket> = self.shard.connections.iter().map(|(_, it)| it.socket).collect();
        self.shard.links.mailbox.push(Mail::Drain(window), || Ok::<_, ()>(())).unwrap();
        self.pass(window + SECOND / 2);
        assert!(self.shard.stopped && self.shard.io.all_closed());
        let blocked = self.clients.values().any(|client| client.ever_blocked);
        assert!(blocked || self.shard.counts.farewell(Farewell::Cut) == 0);
        for client in subscribers.iter().filter_map(|socket| self.clients.get(socket)) {
            if client.ever_blocked || self.shard.io.has_left(client.socket) {
                continue;
            }
            assert!(self.shard.io.wire(client.socket).finished && !client.is_cut());
            assert!(client.terminated == client.chunked, "the last chunk ends the stream");
            let live = matches!(client.from, From::Now);
            assert!(window.is_zero() || !live || !client.misses(&self.history), "cut off before its events");
        }
    }
}

/// `GET /events`, with two switches of these tests in the query.
fn admit(request: &RequestHead<'_>) -> Decision {
    if request.path() != "/events" || request.method() != "GET" {
        return Decision::HandOver;
    }
    let query = request.query().unwrap_or_default();
    match Subscribe::from_request(request, 8) {
        Ok(mut subscribe) => {
            if query.contains("hello") {
                subscribe = subscribe.greeting(Some("hello"), "you");
            }
            Decision::Subscribe(subscribe.sees_private(query.contains("private")))
        }
        Err(error) => Decision::Refuse(Refusal::new(error.status(), error.to_string())),
    }
}

impl Random {
    fn seeded(seed: u64) -> Random {
        // Neighbours must not resemble each other, and zero is the one state it never leaves.
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 20) % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn topic(&mut self) -> Topic {
        Topic::new(self.pick(&["a", "b", "c", "d", "e"])).unwrap()
    }

    fn topics(&mut self) -> Vec<Topic> {
        (0..1 + self.below(3)).map(|_| self.topic()).collect()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
