//! What clients and publishers do in a story.

use std::os::fd::AsRawFd;
use std::time::Duration;

use fanfare::{Checkpoint, Cursor, Epoch, EventType, Subscribe, WireFormat, sim};
use socket2::{Domain, Socket, Type};

use crate::client::{Ask, Client, Link};
use crate::history::Interest;
use crate::network::inode;
use crate::shared::tell;
use crate::tally::Thing;
use crate::world::{SECOND, World};

/// Requests that are no subscriptions, and what may be answered.
const STRANGERS: &[(&str, &[u16])] = &[
    ("POST /events?topic=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", &[404, 503]),
    ("GET /else HTTP/1.1\r\nHost: a\r\n\r\n", &[404, 503]),
    ("GET /events HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /events?topic=a&gap=maybe HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /events?topic=a HTTP/1.1\r\n\r\n", &[400]),
    ("GET /events?topic=a HTTP/2.0\r\nHost: a\r\n\r\n", &[505]),
    (
        "GET /events?topic=a&topic=b&topic=c&topic=d&topic=e&topic=f&topic=g&topic=h&topic=i HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400],
    ),
    ("\x16\x03\x01\r\n\r\n", &[400]),
    ("\0\x01\x02\u{7f}garbage\r\n\r\n", &[400]),
    (
        "GET /events?topic=a HTTP/1.1\r\nHost: a\r\nX: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        &[431, 408],
    ),
];

/// Clients that may be connected or waiting to, at any time; a storm comes on top.
const CLIENTS: usize = 15;

impl World {
    /// One step of a story.
    pub(crate) fn step(&mut self) {
        let publishers = self.shared.setting.publishers;
        match self.shared.below(100) {
            0..60 if self.shared.one_in(60 / publishers.min(60)) => self.shared.publish_some(""),
            0..60 => {}
            60..66 => self.new_client(),
            66..80 => self.read_some(),
            80..84 => self.leave_some(),
            84..88 => self.squeeze_some(),
            88..90 => self.chatter_some(),
            90..92 => self.inspect(),
            94..97 => self.hop(),
            92 if self.shared.setting.storm && !self.stormed => self.storm(),
            93 if self.shared.setting.jumps && self.shared.one_in(8) => {
                let time = self.shared.pick(&[SECOND, 40 * SECOND, 5 * 3600 * SECOND]);
                self.jump(time);
            }
            _ => {}
        }
        self.reconnect_some();
        self.send_requests(2);
        for seat in &self.seats {
            seat.net.borrow_mut().stir(false);
        }
        let wait = self.shared.pick(&[0, 1, 1, 10, 30, 30, 100, 700]);
        self.pass(Duration::from_millis(wait));
        self.take_inspections();
    }

    fn new_client(&mut self) {
        let here = self
            .clients
            .iter()
            .filter(|client| client.returns || (!client.is_subscriber() && client.link.is_some()))
            .count();
        if here < CLIENTS && self.shared.one_in(6) {
            self.new_stranger();
        } else if here < CLIENTS {
            self.new_subscriber();
        }
    }

    fn new_stranger(&mut self) {
        let (request, statuses) = self.shared.pick(STRANGERS);
        let number = self.clients.len();
        let mut client = self.client(Ask::Now);
        client.statuses = statuses;
        client.returns = false;
        self.clients.push(client);
        self.connect(number, request);
    }

    fn new_subscriber(&mut self) {
        let newest = self.shared.history.borrow().newest();
        let epoch = self.shared.history.borrow().epoch;
        let near = (newest + 2).saturating_sub(self.shared.below(40) as u64);
        let ask = match self.shared.below(12) {
            5 | 6 => Ask::Earliest,
            7 => Ask::Id(Cursor { epoch, seq: newest + self.shared.below(30) as u64 }.to_string()),
            8 => Ask::Id(Cursor { epoch, seq: near }.to_string()),
            9 => Ask::Id("who-knows".to_owned()),
            10 => Ask::Id(Cursor { epoch: Epoch::new(7), seq: near }.to_string()),
            11 => Ask::Id(format!("own-{near}")),
            _ => Ask::Now,
        };
        let number = self.clients.len();
        let client = self.client(ask);
        self.clients.push(client);
        self.begin(number);
    }

    pub(crate) fn client(&self, first_ask: Ask) -> Client {
        let shared = &self.shared;
        Client {
            number: self.clients.len(),
            interest: Interest { topics: shared.some_topics(), sees_private: shared.one_in(3) },
            first_ask,
            asks_in_query: shared.one_in(2),
            version: shared.pick(&[2, 2, 0, 1]),
            gap_notice: !shared.one_in(4),
            checkpoint: shared.pick(&[
                Checkpoint::Block,
                Checkpoint::Block,
                Checkpoint::Event,
                Checkpoint::Off,
            ]),
            greeting: shared.one_in(4),
            is_fast: true,
            statuses: &[],
            returns: true,
            last_id: String::new(),
            last_shard: None,
            last_end: None,
            link: None,
        }
    }

    /// Connects a subscriber: by a request, or through a server that has read it.
    pub(crate) fn begin(&mut self, number: usize) {
        if self.shared.one_in(10) && !self.shared.over.get() {
            self.adopt(number);
        } else {
            let mut request = self.clients[number].request();
            if self.shared.one_in(8) {
                request.push_str("GET /events?topic=a HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            self.connect(number, &request);
        }
    }

    fn capacity(&mut self, number: usize) -> usize {
        let capacity = match self.shared.hostile.get() {
            true => self.shared.pick(&[usize::MAX, usize::MAX, usize::MAX, 100_000, 3_000, 400, 60]),
            false => usize::MAX,
        };
        self.clients[number].is_fast = capacity == usize::MAX;
        capacity
    }

    fn connect(&mut self, number: usize, request: &str) {
        let shard = self.shared.below(self.seats.len());
        self.connect_to(number, request, shard);
    }

    pub(crate) fn connect_to(&mut self, number: usize, request: &str, shard: usize) {
        let capacity = self.capacity(number);
        let wire = self.seats[shard].net.borrow_mut().connect(number, capacity);
        let client = &mut self.clients[number];
        let mut link = Link::new(shard, wire, client.ask(), &self.shared);
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            let whole = !self.shared.mishap(2);
            let (piece, after) =
                rest.split_at(if whole { rest.len() } else { 1 + self.shared.below(rest.len()) });
            link.request.push_back(piece.to_vec());
            rest = after;
        }
        let line = request.lines().next().unwrap_or_default();
        tell!(
            self.shared,
            "client {number} -> shard {shard}: {line:.60} ({:?}, in {} pieces, room for {capacity})",
            client.ask(),
            link.request.len()
        );
        client.link = Some(link);
        if self.shared.one_in(2) {
            self.send_piece(number);
        }
    }

    /// Gives a socket to `Hub::adopt`. It is a real one, as only those can be passed; nobody is at its other end.
    fn adopt(&mut self, number: usize) {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { return };
        let Some(inode) = inode(socket.as_raw_fd()) else { return };
        let shard = self.adoptions % self.seats.len();
        self.adoptions += 1;
        let capacity = self.capacity(number);
        let client = &mut self.clients[number];
        let mut subscribe = Subscribe::to(client.interest.topics.iter().cloned())
            .gap_notice(client.gap_notice)
            .checkpoint(client.checkpoint)
            .sees_private(client.interest.sees_private);
        subscribe = match client.ask() {
            Ask::Now => subscribe,
            Ask::Earliest => subscribe.resume("earliest"),
            Ask::Id(id) => subscribe.resume(id),
        };
        if client.greeting {
            let kind = EventType::new("hello").expect("a type");
            subscribe = subscribe.greeting(Some(&kind), "you");
        }
        let format = if client.chunked() { WireFormat::Chunked } else { WireFormat::Plain };
        if let Err(refused) = self.shared.hub().adopt(socket, subscribe, format) {
            tell!(self.shared, "client {number} is not adopted by shard {shard}: {refused}");
            return;
        }
        tell!(
            self.shared,
            "client {number} is adopted by shard {shard} ({:?}, room for {capacity})",
            client.ask()
        );
        self.shared.happened(Thing::Adopted);
        let wire = self.seats[shard].net.borrow_mut().adopt(number, capacity, inode);
        let mut link = Link::new(shard, wire, client.ask(), &self.shared);
        // Its mail stands behind all that was published before.
        link.known_head = Some(self.shared.history.borrow().newest());
        client.link = Some(link);
    }

    fn reconnect_some(&mut self) {
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            if client.link.is_none() && client.returns && self.shared.one_in(6) {
                self.begin(number);
            }
        }
    }

    /// Sends pieces of requests that are not out yet: one in `odds` of them.
    pub(crate) fn send_requests(&mut self, odds: usize) {
        for number in 0..self.clients.len() {
            let waits = self.clients[number].link.as_ref().is_some_and(|link| !link.request.is_empty());
            if waits && self.shared.one_in(odds) {
                self.send_piece(number);
            }
        }
    }

    fn send_piece(&mut self, number: usize) {
        let Some(link) = &mut self.clients[number].link else { return };
        let mut net = self.seats[link.shard].net.borrow_mut();
        if net.wire(link.wire).ended {
            return;
        }
        if let Some(piece) = link.request.pop_front() {
            if !link.request.is_empty() {
                tell!(self.shared, "client {number} sends {} bytes of its request", piece.len());
            }
            net.client_sends(link.wire, &piece);
        }
    }

    fn some_client(&self) -> Option<usize> {
        let connected: Vec<usize> =
            self.clients.iter().filter(|client| client.link.is_some()).map(|client| client.number).collect();
        (!connected.is_empty()).then(|| connected[self.shared.below(connected.len())])
    }

    fn read_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let count = self.shared.pick(&[usize::MAX, 1, 40, 500, 5_000]);
        self.read(number, count);
    }

    /// A client stops to read, and little room is left.
    fn squeeze_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let client = &mut self.clients[number];
        let Some(link) = &client.link else { return };
        let room = self.shared.pick(&[0, 1, 5, 200, 2_000]);
        tell!(self.shared, "client {number} stops to read");
        client.is_fast = false;
        self.seats[link.shard].net.borrow_mut().squeeze(link.wire, room);
    }

    /// Whatever a subscriber says after its request is ignored.
    fn chatter_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let Some(link) = &self.clients[number].link else { return };
        let mut net = self.seats[link.shard].net.borrow_mut();
        if link.request.is_empty() && link.stream.status() == Some(200) && !net.wire(link.wire).ended {
            net.client_sends(link.wire, &[b'x'; 500]);
        }
    }

    fn leave_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        self.leave(number, self.shared.one_in(2));
    }

    /// A client goes away. After a half-close it still reads what comes.
    pub(crate) fn leave(&mut self, number: usize, reset: bool) {
        let client = &mut self.clients[number];
        let Some(link) = &client.link else { return };
        let mut net = self.seats[link.shard].net.borrow_mut();
        if net.wire(link.wire).ended {
            return;
        }
        tell!(self.shared, "client {number} {}", if reset { "resets" } else { "half-closes" });
        self.shared.happened(if reset { Thing::Reset } else { Thing::HalfClose });
        net.client_leaves(link.wire, reset);
        if reset {
            client.last_shard = Some(link.shard);
            client.link = None;
        }
    }

    /// A client gets an event, and goes on at a shard that may not have it yet.
    fn hop(&mut self) {
        let Some(number) = self.some_client() else { return };
        let client = &self.clients[number];
        let Some(link) = &client.link else { return };
        if self.seats.len() == 1 || !client.returns || !client.is_fast || !link.is_streaming() {
            return;
        }
        let from = link.shard;
        self.shared.publish_to(&client.interest.topics[0].clone(), 10);
        if self.seats[from].is_due(self.shared.now.get()) {
            self.turn(from);
        }
        self.leave(number, true);
        if self.clients[number].link.is_some() {
            return;
        }
        let to = (from + 1 + self.shared.below(self.seats.len() - 1)) % self.seats.len();
        let request = self.clients[number].request();
        self.connect_to(number, &request, to);
        while self.clients[number].link.as_ref().is_some_and(|link| !link.request.is_empty()) {
            self.send_piece(number);
        }
    }

    fn inspect(&mut self) {
        let topic = self.shared.topic();
        let only = self.shared.one_in(2).then_some(&topic);
        self.inspections.extend(sim::ask(self.shared.hub(), only));
        self.shared.happened(Thing::Inspection);
    }

    /// Hundreds come at once, for the same; most of them leave together.
    fn storm(&mut self) {
        self.stormed = true;
        self.shared.happened(Thing::Storm);
        let topics = self.shared.some_topics();
        let count = 100 + self.shared.below(200);
        tell!(self.shared, "a storm of {count}");
        for _ in 0..count {
            let number = self.clients.len();
            let mut client = self.client(Ask::Now);
            client.interest.topics.clone_from(&topics);
            client.returns = false;
            self.clients.push(client);
            let request = self.clients[number].request();
            self.connect(number, &request);
        }
    }
}
