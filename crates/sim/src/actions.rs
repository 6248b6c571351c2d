//! What clients do in a story.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::time::Duration;

use fanfare::{Checkpoint, ConnectionFilter, Cursor, Epoch, WireFormat, sim};
use socket2::{Domain, Socket, Type};

use crate::client::{Client, ClientConnection, Request, Resume};
use crate::history::{Interest, Sight};
use crate::network::inode;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::wishes::{Wishes, some_subject};
use crate::world::{SECOND, World};

/// Requests that are no subscriptions, and what may be answered.
const STRANGERS: &[(&str, &[u16])] = &[
    ("POST /events?topic=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", &[404, 503]),
    ("GET /else HTTP/1.1\r\nHost: a\r\n\r\n", &[404, 503]),
    ("GET /events HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /events?topic=a&gap=maybe HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /events?topic=a&checkpoint=maybe HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /events?topic=a&heartbeat=0 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
    ("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n", &[500]),
    ("GET /events?topic=a HTTP/1.1\r\n\r\n", &[400]),
    ("GET /events?topic=a HTTP/2.0\r\nHost: a\r\n\r\n", &[505]),
    (
        "GET /events?topic=a&topic=b&topic=c&topic=d&topic=e&topic=f&topic=g&topic=h&topic=i HTTP/1.1\r\n\
         Host: a\r\n\r\n",
        &[400],
    ),
    ("\x16\x03\x01\r\n\r\n", &[400]),
    ("\0\x01\x02\u{7f}garbage\r\n\r\n", &[400]),
    (
        "GET /events?topic=a HTTP/1.1\r\nHost: a\r\nX: \
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        &[431, 408],
    ),
];

/// Clients that may be connected or waiting to, at any time; a crowd comes on top.
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
            84..88 => self.stop_reading_some(),
            88..90 => self.send_more_some(),
            90..92 => self.inspect(),
            94..97 => self.change_shard_some(),
            92 if self.shared.setting.crowd && !self.had_crowd => self.connect_crowd(),
            93 if self.shared.setting.jumps && self.shared.one_in(8) => {
                let time = self.shared.pick(&[SECOND, 40 * SECOND, 5 * 3600 * SECOND]);
                self.jump(time);
            }
            _ => {}
        }
        let orders = self.shared.setting.orders;
        if orders > 0 && self.shared.one_in(orders) {
            self.order_some();
        }
        if orders > 0 && self.shared.one_in(3) {
            self.disconnect_some_ahead();
        }
        if self.shared.one_in(6) {
            self.decide_some();
        }
        self.befall_store();
        self.reconnect_some();
        self.send_requests(2);
        for shard in &self.shards {
            shard.net.borrow_mut().notify_late(false);
        }
        let wait = self.shared.pick(&[0, 1, 1, 10, 30, 30, 100, 700]);
        self.pass(Duration::from_millis(wait));
        self.take_inspections();
        self.check_members();
        if self.shared.one_in(8) {
            self.read_life_cycle();
        }
    }

    fn new_client(&mut self) {
        let here = self
            .clients
            .iter()
            .filter(|client| client.returns || (!client.is_subscriber() && client.connection.is_some()))
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
        let mut client = self.client(Resume::Now);
        client.statuses = statuses;
        client.request.is_stranger = true;
        client.returns = false;
        self.clients.push(client);
        let shard = self.shared.below(self.shards.len());
        self.connect_to(number, request, request.len(), shard);
    }

    fn new_subscriber(&mut self) {
        let newest = self.shared.history.borrow().newest();
        let last_number = self.shared.last_number.get();
        let epoch = self.shared.history.borrow().epoch;
        let near = (newest + 2).saturating_sub(self.shared.below(40) as u64);
        let at = |seq| Resume::After(Cursor { epoch, seq }.to_string());
        let resume = match self.shared.below(12) {
            5 | 6 => Resume::Earliest,
            // What another node may have released already.
            7 if last_number > newest && self.shared.one_in(2) => at(last_number),
            7 => at(newest + self.shared.below(30) as u64),
            8 => at(near),
            9 => Resume::After("who-knows".to_owned()),
            10 => Resume::After(Cursor { epoch: Epoch::new(7), seq: near }.to_string()),
            11 => Resume::After(format!("own-{near}")),
            _ => Resume::Now,
        };
        let number = self.clients.len();
        let client = self.client(resume);
        self.clients.push(client);
        self.begin(number);
    }

    pub(crate) fn client(&self, resume: Resume) -> Client {
        let shared = &self.shared;
        let mut topics = shared.some_topics();
        let has_patterns = shared.setting.patterns > 0 && shared.one_in(shared.setting.patterns);
        let patterns = if has_patterns { shared.some_patterns() } else { Vec::new() };
        let sight = match shared.below(6) {
            0 | 1 => Sight::All,
            2 | 3 => {
                let seen = patterns.iter().filter(|_| shared.one_in(2)).cloned().collect();
                Sight::Of(vec![topics[shared.below(topics.len())].clone()], seen)
            }
            _ => Sight::None,
        };
        if has_patterns && shared.one_in(2) {
            topics.clear();
        }
        let interest = Interest { topics, patterns, sight };
        let version = shared.pick(&[2, 2, 0, 1]);
        let forms = [Checkpoint::Block, Checkpoint::Block, Checkpoint::Off, Checkpoint::Event];
        let request = Request {
            interest,
            resume,
            gap_events: !shared.one_in(4),
            greeting: shared.one_in(4),
            checkpoint: shared.pick(&forms),
            heartbeat: shared.pick(&[None, None, Some(1), Some(2), Some(30)]).map(Duration::from_secs),
            chunked: version > 1,
            wishes: Wishes::random(shared, self.clients.len()),
            is_stranger: false,
            has: None,
        };
        Client {
            number: self.clients.len(),
            request,
            asks_in_query: shared.one_in(2),
            version,
            is_fast: true,
            statuses: &[],
            returns: true,
            last_id: String::new(),
            last_shard: None,
            last_end: None,
            connection: None,
        }
    }

    /// Connects a subscriber: by a request, or through a server that has read it.
    pub(crate) fn begin(&mut self, number: usize) {
        if self.shared.one_in(10) && !self.shared.is_over.get() {
            self.adopt(number);
        } else {
            let shard = self.shared.below(self.shards.len());
            self.connect(number, shard);
        }
    }

    /// Connects a subscriber to this shard.
    pub(crate) fn connect(&mut self, number: usize, shard: usize) {
        let mut request = self.clients[number].request_text();
        let head = request.len();
        if self.shared.one_in(8) {
            request.push_str("GET /events?topic=a HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        self.connect_to(number, &request, head, shard);
    }

    fn capacity(&mut self, number: usize) -> usize {
        let capacity = match self.shared.hostile.get() {
            true => self.shared.pick(&[usize::MAX, usize::MAX, usize::MAX, 100_000, 3_000, 400, 60]),
            false => usize::MAX,
        };
        self.clients[number].is_fast = capacity == usize::MAX;
        capacity
    }

    /// Connects a client to this shard with this text, which begins with a head of so many bytes.
    pub(crate) fn connect_to(&mut self, number: usize, text: &str, head: usize, shard: usize) {
        let capacity = self.capacity(number);
        let request = self.clients[number].request_now();
        let resume = request.resume.clone();
        let index = self.shards[shard].net.borrow_mut().connect(number, request, head, capacity);
        let mut unsent = VecDeque::new();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let whole = !self.shared.mishap(2);
            let (piece, after) =
                rest.split_at(if whole { rest.len() } else { 1 + self.shared.below(rest.len()) });
            unsent.push_back(piece.to_vec());
            rest = after;
        }
        let line = text.lines().next().unwrap_or_default();
        trace!(
            self.shared,
            "client {number} -> shard {shard} ({index}): {line:.90} ({resume:?}, {} pieces, room {capacity})",
            unsent.len()
        );
        self.note_resume(number, shard, &resume);
        let connected_at = self.shared.now.get();
        self.clients[number].connection = Some(ClientConnection { shard, index, unsent, connected_at });
        if self.shared.one_in(2) {
            self.send_piece(number);
        }
    }

    fn note_resume(&self, number: usize, shard: usize, resume: &Resume) {
        let elsewhere = self.clients[number].last_shard.is_some_and(|last| last != shard);
        if let (Resume::After(_), true) = (resume, elsewhere) {
            self.shared.happened(Occurrence::ResumeElsewhere);
        }
    }

    /// Gives a socket to `Hub::adopt`. It is a real one, as only those can be passed, and no peer is at its
    /// other end.
    fn adopt(&mut self, number: usize) {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { return };
        let Some(inode) = inode(socket.as_raw_fd()) else { return };
        let shard = self.adoptions % self.shards.len();
        self.adoptions += 1;
        let capacity = self.capacity(number);
        let client = &mut self.clients[number];
        let (subscribe, request) = (client.subscribe(), client.request_now());
        let format = if request.chunked { WireFormat::Chunked } else { WireFormat::Plain };
        if let Err(refused) = self.shared.hub().adopt(socket, subscribe, format) {
            trace!(self.shared, "client {number} is not adopted by shard {shard}: {refused}");
            return;
        }
        let resume = request.resume.clone();
        let index = self.shards[shard].net.borrow_mut().adopt(number, request, capacity, inode);
        trace!(
            self.shared,
            "client {number} is adopted by shard {shard} ({index}) ({resume:?}, room for {capacity})"
        );
        self.shared.happened(Occurrence::Adopted);
        self.note_resume(number, shard, &resume);
        let (unsent, connected_at) = (VecDeque::new(), self.shared.now.get());
        self.clients[number].connection = Some(ClientConnection { shard, index, unsent, connected_at });
    }

    fn reconnect_some(&mut self) {
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            if client.connection.is_none() && client.returns && self.shared.one_in(6) {
                self.begin(number);
            }
        }
    }

    /// Sends pieces of requests that are not out yet: one in `odds` of them.
    pub(crate) fn send_requests(&mut self, odds: usize) {
        for number in 0..self.clients.len() {
            let waits = self.clients[number].connection.as_ref().is_some_and(|at| !at.unsent.is_empty());
            if waits && self.shared.one_in(odds) {
                self.send_piece(number);
            }
        }
    }

    fn send_piece(&mut self, number: usize) {
        let Some(at) = &mut self.clients[number].connection else { return };
        let mut net = self.shards[at.shard].net.borrow_mut();
        if net.connection(at.index).ended {
            return;
        }
        if let Some(piece) = at.unsent.pop_front() {
            if !at.unsent.is_empty() {
                trace!(self.shared, "client {number} sends {} bytes of its request", piece.len());
            }
            net.client_sends(at.index, &piece);
        }
    }

    pub(crate) fn some_client(&self) -> Option<usize> {
        let connected = self.clients.iter().filter(|client| client.connection.is_some());
        let connected: Vec<usize> = connected.map(|client| client.number).collect();
        (!connected.is_empty()).then(|| connected[self.shared.below(connected.len())])
    }

    fn read_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let count = self.shared.pick(&[usize::MAX, 1, 40, 500, 5_000]);
        self.read(number, count);
    }

    /// A client reads no more, and little room is left.
    fn stop_reading_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let client = &mut self.clients[number];
        let Some(at) = &client.connection else { return };
        let room = self.shared.pick(&[0, 1, 5, 200, 2_000]);
        trace!(self.shared, "client {number} stops reading, with room for {room}");
        client.is_fast = false;
        self.shards[at.shard].net.borrow_mut().leave_room(at.index, room);
    }

    /// Whatever a subscriber sends after its request is ignored.
    fn send_more_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let Some(at) = &self.clients[number].connection else { return };
        let mut net = self.shards[at.shard].net.borrow_mut();
        let it = net.connection(at.index);
        if at.unsent.is_empty() && it.is_live() && it.verifier.has_prelude() && !it.ended {
            net.client_sends(at.index, &[b'x'; 500]);
        }
    }

    fn leave_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        self.leave(number, self.shared.one_in(2));
    }

    /// A client goes away. After a half-close it still reads what comes.
    pub(crate) fn leave(&mut self, number: usize, reset: bool) {
        let client = &mut self.clients[number];
        let Some(at) = &client.connection else { return };
        let mut net = self.shards[at.shard].net.borrow_mut();
        if net.connection(at.index).ended {
            return;
        }
        trace!(self.shared, "client {number} {}", if reset { "resets" } else { "half-closes" });
        self.shared.happened(if reset { Occurrence::Reset } else { Occurrence::HalfClose });
        net.client_leaves(at.index, reset);
        if reset {
            client.last_shard = Some(at.shard);
            client.connection = None;
        }
    }

    /// A client gets an event, and goes on at another shard, which may not have acted on it yet.
    fn change_shard_some(&mut self) {
        let Some(number) = self.some_client() else { return };
        let client = &self.clients[number];
        let Some(at) = &client.connection else { return };
        let from = at.shard;
        let is_streaming = self.shards[from].net.borrow().connection(at.index).is_live();
        if self.shards.len() == 1 || !client.returns || !client.is_fast || !is_streaming {
            return;
        }
        let interest = &client.request.interest;
        let topic = self.shared.topics.iter().find(|topic| interest.selects(topic, false)).cloned();
        // A pattern may match no topic of this world.
        let topic = topic.unwrap_or_else(|| self.shared.topic());
        self.shared.publish_to(&topic, 10);
        if self.shards[from].is_due(self.shared.now.get()) {
            self.tick(from);
        }
        self.leave(number, true);
        if self.clients[number].connection.is_some() {
            return;
        }
        let to = (from + 1 + self.shared.below(self.shards.len() - 1)) % self.shards.len();
        self.connect(number, to);
        while self.clients[number].connection.as_ref().is_some_and(|at| !at.unsent.is_empty()) {
            self.send_piece(number);
        }
    }

    fn inspect(&mut self) {
        let topics = match self.shared.one_in(2) {
            true => vec![self.shared.topic()],
            false => self.shared.topics.clone(),
        };
        self.inspections.extend(sim::ask(&self.shared.hub(), &topics));
        self.shared.happened(Occurrence::Inspection);
        let (shard, is_wanted) = (self.shared.below(self.shards.len()), self.shared.one_in(2));
        let filter = match self.shared.one_in(2) {
            true => ConnectionFilter::All,
            false => ConnectionFilter::Subject(some_subject(&self.shared)),
        };
        if is_wanted {
            // As the hub does, which asks one question at a time: one that is not answered yet is given up.
            self.list(shard, filter);
        }
    }

    /// Hundreds connect at once, for the same; most of them leave together.
    fn connect_crowd(&mut self) {
        self.had_crowd = true;
        self.shared.happened(Occurrence::Crowd);
        let topics = self.shared.some_topics();
        let count = 100 + self.shared.below(200);
        trace!(self.shared, "a crowd of {count}");
        for _ in 0..count {
            let number = self.clients.len();
            let mut client = self.client(Resume::Now);
            client.request.interest.topics.clone_from(&topics);
            client.returns = false;
            self.clients.push(client);
            let shard = self.shared.below(self.shards.len());
            self.connect(number, shard);
        }
    }
}
