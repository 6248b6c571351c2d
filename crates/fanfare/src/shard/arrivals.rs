//! From a socket to a subscriber: receive the request head, ask for admission, begin the stream. Here are all sockets
//! that are not streams yet, or never will be, and their deadlines.
//!
//! After an accept the request is usually there already, so a head is tried before the socket is watched, from the
//! shard's one buffer. Only heads that come in pieces get memory of their own.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use fanfare_io::{Cause, Io, Received, Socket};
use fanfare_proto::audience::Subscription;
use fanfare_proto::delivery::{NewStream, Opened};
use fanfare_proto::event_log::EventLog;
use fanfare_proto::frame::{checkpoint, ending, prelude, wrap};
use fanfare_proto::head::{HeadScanner, RequestHead};
use fanfare_proto::limits::{AHEAD_POLL, AHEAD_WAIT, EXPIRIES, FullPolicy, LINGER, RESUMES};
use fanfare_proto::link::{Encoding, LinkKey, Transport};
use fanfare_proto::log::Start;
use fanfare_proto::stream::{Deciseconds16, StreamOptions};
use fanfare_proto::unsent::Unsent;
use slab::Slab;

use super::{Shard, SlotKey, milliseconds};
use crate::admission::{self, Decision, Refusal, Subscribe};
use crate::mailbox::Adoption;
use crate::response;

/// Bytes received at once: a whole head, and what a client sends right behind it.
pub(crate) const RECEIVE_BYTES: usize = 32 << 10;

/// Slots for pending requests, and for their deadlines, that an empty table keeps.
const PENDING_KEPT: usize = 64;

/// Sockets that are not streams.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) pending: Slab<Pending>,
    /// Subscribers that resume from a number that is not released here yet, in the order in which they came.
    pub(super) resuming: VecDeque<Resuming>,
    pub(super) deadlines: Deadlines,
    /// Given to each pending request: tells it from others that had its slot.
    generation: u32,
}

/// A socket that is not a subscriber: its head is not complete, or it reads its refusal.
pub(super) struct Pending {
    pub(super) socket: Socket,
    pub(super) generation: u32,
    stage: Stage,
}

/// A subscriber that resumes from a number that is newer than every one here.
///
/// It may have been told of it by a node that was ahead of this one. The number would be unknown here, which is a gap: the
/// subscriber would be told of a loss that did not happen, and be sent everything again.
pub(super) struct Resuming {
    /// What has to be released here first.
    pub(super) from: u64,
    /// When it is not waited for any longer.
    pub(super) until: Duration,
    pub(super) socket: Socket,
    subscribe: Box<Subscribe>,
    encoding: Encoding,
}

enum Stage {
    /// Its head is not complete.
    Receiving(Receiving),
    /// The answer is out; what still comes is thrown away, so that the close does not reset the
    /// connection under the answer (RFC 9112, section 9.6).
    Lingering,
}

/// A head that is being received.
struct Receiving {
    /// How bytes travel over the socket: its listener's.
    transport: Transport,
    /// What has come of the head.
    received: Vec<u8>,
    scanner: HeadScanner,
}

/// Deadlines of pending sockets. Each queue has one duration, so it is in order by itself.
#[derive(Default)]
pub(super) struct Deadlines {
    pub(super) heads: Deadline,
    pub(super) lingers: Deadline,
}

/// When, and whose.
pub(super) type Deadline = VecDeque<(Duration, LinkKey)>;

impl Arrivals {
    /// Requests whose head is not complete, or whose refusal is still being read.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When something of this file is due next.
    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let timers = [
            self.deadlines.heads.front().map(|(at, _)| *at),
            self.deadlines.lingers.front().map(|(at, _)| *at),
            // Nothing wakes this shard when a number is released in which it has no interest.
            (!self.resuming.is_empty()).then_some(now + AHEAD_POLL),
        ];
        timers.into_iter().flatten().min()
    }

    fn find(&self, key: LinkKey) -> Option<&Pending> {
        self.pending.get(key.slot as usize).filter(|pending| pending.generation == key.generation)
    }

    fn remove(&mut self, key: LinkKey) -> Socket {
        self.pending.remove(key.slot as usize).socket
    }

    /// No request is pending, so all queued deadlines are stale. Gives back what a crowd needed, also where its requests
    /// came one after the other.
    fn forget_stale_deadlines(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        let Deadlines { heads, lingers } = &mut self.deadlines;
        let room = self.pending.capacity().max(heads.capacity()).max(lingers.capacity());
        if room > PENDING_KEPT {
            self.pending = Slab::new();
            self.deadlines = Deadlines::default();
        } else {
            heads.clear();
            lingers.clear();
        }
    }

    /// Notes a deadline; now and then lets go of those whose sockets have left, so that the queue stays in
    /// proportion to the table.
    fn note_deadline(&mut self, queue: fn(&mut Deadlines) -> &mut Deadline, at: Duration, key: LinkKey) {
        let queue = queue(&mut self.deadlines);
        if queue.len() > 2 * self.pending.len() + 1024 {
            let pending = &self.pending;
            queue.retain(|(_, key)| {
                pending.get(key.slot as usize).is_some_and(|pending| pending.generation == key.generation)
            });
        }
        queue.push_back((at, key));
    }
}

/// What came of receiving a piece of a head.
enum Progress {
    Incomplete,
    Closed,
    Answer(Reply),
}

enum Reply {
    Subscribe(Box<Subscribe>, Encoding),
    Refuse(Refusal),
    /// This, whole, then the end.
    Answer(Vec<u8>),
    /// Hand over, with everything received.
    HandOver(Vec<u8>),
    /// Close without an answer.
    Close,
}

impl<I: Io> Shard<I> {
    pub(super) fn accepted(&mut self, socket: Socket, transport: Transport, now: Duration) {
        self.counts.accepted += 1;
        if self.delivery.is_draining() {
            self.closing.push((socket, None));
            return;
        }
        let mut receiving = Receiving { transport, received: Vec::new(), scanner: HeadScanner::new() };
        match self.receive_head(socket, &mut receiving) {
            Progress::Closed => self.closing.push((socket, None)),
            Progress::Answer(reply) => self.reply(socket, reply, now),
            Progress::Incomplete => {
                let deadline = now.saturating_add(self.limits.head_time);
                if let Some(key) = self.watch_pending(socket, Stage::Receiving(receiving)) {
                    self.arrivals.note_deadline(|all| &mut all.heads, deadline, key);
                }
            }
        }
    }

    /// A pending socket has something to receive. A stale notification is ignored.
    pub(super) fn pending_ready(&mut self, key: LinkKey, readable: bool, now: Duration) {
        if !readable || self.arrivals.find(key).is_none() {
            return;
        }
        let pending = &mut self.arrivals.pending[key.slot as usize];
        let socket = pending.socket;
        let progress = match std::mem::replace(&mut pending.stage, Stage::Lingering) {
            Stage::Lingering => match self.io.receive(socket, &mut self.received) {
                Received::Bytes(_) | Received::Empty => Progress::Incomplete,
                Received::Ended | Received::Gone(_) => Progress::Closed,
            },
            Stage::Receiving(mut receiving) => {
                let progress = self.receive_head(socket, &mut receiving);
                self.arrivals.pending[key.slot as usize].stage = Stage::Receiving(receiving);
                progress
            }
        };
        match progress {
            Progress::Incomplete => {}
            Progress::Closed => self.close_pending(key),
            Progress::Answer(reply) => {
                self.arrivals.remove(key);
                self.io.unwatch(socket, SlotKey::Pending(key).token());
                self.reply(socket, reply, now);
            }
        }
    }

    /// Receives until the head is complete, wrong, or nothing more is there.
    fn receive_head(&mut self, socket: Socket, receiving: &mut Receiving) -> Progress {
        let Receiving { transport, received, scanner } = receiving;
        let mut buffer = std::mem::take(&mut self.received);
        let progress = loop {
            let fresh = match self.io.receive(socket, &mut buffer) {
                Received::Bytes(count) => &buffer[..count],
                Received::Empty => break Progress::Incomplete,
                Received::Ended | Received::Gone(_) => break Progress::Closed,
            };
            let bytes = if received.is_empty() {
                fresh
            } else {
                received.extend_from_slice(fresh);
                received.as_slice()
            };
            let answer = match scanner.parse(bytes, &self.limits.head) {
                Ok(None) => None,
                Ok(Some((head, length))) => Some(self.decide(&head, *transport, bytes, length)),
                Err(error) => Some(Reply::Refuse(Refusal::new(error.status(), error.to_string()))),
            };
            if let Some(reply) = answer {
                break Progress::Answer(reply);
            }
            if received.is_empty() {
                received.extend_from_slice(fresh);
            }
        };
        self.received = buffer;
        progress
    }

    /// What becomes of a request whose head has this length. More may have come behind it.
    fn decide(&mut self, head: &RequestHead<'_>, transport: Transport, bytes: &[u8], length: usize) -> Reply {
        let can_hand_over = self.links.hand_over.is_some();
        match admission::decide(&*self.links.admission, head) {
            Ok(Decision::Subscribe(subscribe)) => {
                let encoding = Encoding { transport, format: head.wire_format() };
                Reply::Subscribe(Box::new(subscribe), encoding)
            }
            Ok(Decision::Refuse(refusal)) => Reply::Refuse(refusal),
            Ok(Decision::Answer(_)) if can_hand_over && bytes.len() > length => {
                Reply::HandOver(bytes.to_vec())
            }
            Ok(Decision::Answer(answer)) => {
                self.counts.answered += 1;
                Reply::Answer(response::answer(&answer, self.date))
            }
            Ok(Decision::HandOver) if can_hand_over => Reply::HandOver(bytes.to_vec()),
            Ok(Decision::HandOver) => Reply::Refuse(nothing_here()),
            Err(panicked) => {
                self.counts.admission_panics += 1;
                Reply::Refuse(panicked)
            }
        }
    }

    /// Acts on a reply to a socket that is not watched.
    fn reply(&mut self, socket: Socket, reply: Reply, now: Duration) {
        match reply {
            Reply::Subscribe(subscribe, encoding) => {
                let start = self.start_of(&subscribe);
                // Any client can ask for a number that will not come: such subscribers may not take the room
                // of other requests.
                let may_wait = self.arrivals.resuming.len() < (self.limits.pending / 4).max(1);
                if let Some(Start::Ahead { seq, .. }) = start.filter(|_| may_wait) {
                    self.wait_until_caught_up(socket, seq, subscribe, encoding, now);
                } else if let Err(other) = self.subscribe(socket, &subscribe, encoding, start, now) {
                    self.reply(socket, other, now);
                }
            }
            Reply::Refuse(refusal) => {
                self.counts.refused += 1;
                self.answer_and_linger(socket, &response::refusal(&refusal, self.date), now);
            }
            Reply::Answer(bytes) => self.answer_and_linger(socket, &bytes, now),
            Reply::HandOver(bytes) => {
                let Some(to) = &self.links.hand_over else {
                    unreachable!("where there is nobody, it is refused")
                };
                let refusal = match to.send_raw(socket, &bytes).map_err(|error| error.kind()) {
                    Ok(()) => {
                        self.counts.handed_over += 1;
                        self.closing.push((socket, None));
                        return;
                    }
                    Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => nothing_here(),
                    Err(_) => {
                        let busy = Refusal::new(503, "the control plane is busy; try again in a moment");
                        busy.own_header("Retry-After", "1")
                    }
                };
                self.reply(socket, Reply::Refuse(refusal), now);
            }
            Reply::Close => self.closing.push((socket, None)),
        }
    }

    /// Where a subscriber starts; `None`: with the next event.
    fn start_of(&self, subscribe: &Subscribe) -> Option<Start> {
        let Subscribe { topics, sees_private, .. } = subscribe;
        subscribe.resume.as_ref().map(|id| self.links.log.resume(id, topics, *sees_private))
    }

    /// A subscriber that has a number which is not released here waits for it, within bounds.
    fn wait_until_caught_up(
        &mut self,
        socket: Socket,
        from: u64,
        subscribe: Box<Subscribe>,
        encoding: Encoding,
        now: Duration,
    ) {
        if !self.room_to_wait() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            return;
        }
        let until = now.saturating_add(AHEAD_WAIT);
        self.arrivals.resuming.push_back(Resuming { from, until, socket, subscribe, encoding });
    }

    /// Begins the streams of subscribers that waited for a number, and of those that waited long enough: they
    /// get a gap.
    pub(super) fn start_caught_up_resumes(&mut self, now: Duration) {
        let newest = self.links.log.newest();
        // Each is checked once: those that wait on stand at the end then, in the same order.
        for _ in 0..self.arrivals.resuming.len().min(RESUMES) {
            let Some(resuming) = self.arrivals.resuming.pop_front() else { return };
            if resuming.from > newest && now < resuming.until {
                self.arrivals.resuming.push_back(resuming);
                continue;
            }
            let Resuming { socket, subscribe, encoding, .. } = resuming;
            let start = self.start_of(&subscribe);
            if let Err(other) = self.subscribe(socket, &subscribe, encoding, start, now) {
                self.reply(socket, other, now);
            }
        }
    }

    /// Answers, ends our side, and gives the client time to read.
    fn answer_and_linger(&mut self, socket: Socket, answer: &[u8], now: Duration) {
        // A fresh socket takes a kilobyte; one that does not is not worth waiting for.
        if self.send_own(answer, socket) != Ok(answer.len()) {
            self.closing.push((socket, None));
            return;
        }
        self.io.finish(socket);
        if let Some(key) = self.watch_pending(socket, Stage::Lingering) {
            self.arrivals.note_deadline(|all| &mut all.lingers, now + LINGER, key);
        }
    }

    fn watch_pending(&mut self, socket: Socket, stage: Stage) -> Option<LinkKey> {
        let room = self.room_to_wait();
        let arrivals = &mut self.arrivals;
        arrivals.generation = (arrivals.generation + 1) & LinkKey::GENERATIONS;
        let (slot, generation) = (arrivals.pending.vacant_key() as u32, arrivals.generation);
        let key = LinkKey { slot, generation };
        if !room || self.io.watch(socket, SlotKey::Pending(key).token()).is_err() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            return None;
        }
        arrivals.pending.insert(Pending { socket, generation, stage });
        Some(key)
    }

    /// Whether one more may wait: at the bound a refusal that is being read makes room, or else the oldest head.
    fn room_to_wait(&mut self) -> bool {
        self.arrivals.pending.len() + self.arrivals.resuming.len() < self.limits.pending
            || self.forget_oldest_refusal()
            || self.forget_oldest_head()
    }

    /// Closes the socket whose refusal has been there to be read for the longest time.
    fn forget_oldest_refusal(&mut self) -> bool {
        while let Some((_, key)) = self.arrivals.deadlines.lingers.pop_front() {
            if self.arrivals.find(key).is_some() {
                self.close_pending(key);
                return true;
            }
        }
        false
    }

    /// Closes the socket whose head has been incomplete for the longest time: most heads come at once, so it is the least
    /// likely to become a subscriber. False where there is none.
    fn forget_oldest_head(&mut self) -> bool {
        while let Some((_, key)) = self.arrivals.deadlines.heads.pop_front() {
            if self.arrivals.find(key).is_some() {
                self.counts.turned_away += 1;
                self.close_pending(key);
                return true;
            }
        }
        false
    }

    fn close_pending(&mut self, key: LinkKey) {
        let socket = self.arrivals.remove(key);
        self.closing.push((socket, Some(SlotKey::Pending(key).token())));
    }

    /// Answers requests whose head did not come in time, and closes sockets that lingered long enough.
    pub(super) fn expire_pending(&mut self, now: Duration) {
        for _ in 0..EXPIRIES {
            let Some(key) = due(&mut self.arrivals.deadlines.heads, now) else { break };
            // A shard that is late itself may not have read what came in time.
            self.pending_ready(key, true, now);
            if self.arrivals.find(key).is_none() {
                continue;
            }
            let socket = self.arrivals.remove(key);
            self.io.unwatch(socket, SlotKey::Pending(key).token());
            self.counts.heads_timed_out += 1;
            let late = Refusal::new(408, "the request head was not complete in time");
            self.reply(socket, Reply::Refuse(late), now);
        }
        for _ in 0..EXPIRIES {
            let Some(key) = due(&mut self.arrivals.deadlines.lingers, now) else { break };
            if self.arrivals.find(key).is_some() {
                self.close_pending(key);
            }
        }
        self.arrivals.forget_stale_deadlines();
    }

    pub(super) fn close_all_pending(&mut self) {
        while let Some(Resuming { socket, .. }) = self.arrivals.resuming.pop_front() {
            self.closing.push((socket, None));
        }
        let key = |(slot, pending): (usize, &Pending)| LinkKey {
            slot: slot as u32,
            generation: pending.generation,
        };
        let keys: Vec<LinkKey> = self.arrivals.pending.iter().map(key).collect();
        for key in keys {
            self.close_pending(key);
        }
    }

    pub(super) fn adopt(&mut self, adoption: Adoption, now: Duration) {
        let mut nothing = Vec::new();
        // Where the socket did not arrive (our table was full), the kernel has closed it.
        let Ok(Some(socket)) = self.links.adopted.receive(&mut nothing) else {
            self.counts.turned_away += 1;
            return;
        };
        let socket = self.io.adopt(socket);
        let reply = match self.delivery.is_draining() {
            false => Reply::Subscribe(Box::new(adoption.subscribe), adoption.encoding),
            true => Reply::Close,
        };
        self.reply(socket, reply, now);
    }

    /// Begins a stream on a socket that is not watched.
    fn subscribe(
        &mut self,
        socket: Socket,
        subscribe: &Subscribe,
        encoding: Encoding,
        start: Option<Start>,
        now: Duration,
    ) -> Result<(), Reply> {
        if self.delivery.len() >= self.limits.connections {
            return Err(self.no_room(subscribe, encoding));
        }
        let topics = subscribe.topics.iter().cloned();
        let subscription = Subscription::new(topics, encoding, subscribe.sees_private);
        if !self.delivery.has_room_for(&subscription) {
            return Err(self.no_room(subscribe, encoding));
        }
        let link = self.delivery.reserve();
        let token = SlotKey::Link(link).token();
        if self.io.watch(socket, token).is_err() {
            self.counts.turned_away += 1;
            return Err(Reply::Close);
        }
        let opened = self.delivery.open(subscription, start, &mut self.links.log);
        let heartbeat = self.limits.heartbeat_interval(subscribe.heartbeat);
        let options = StreamOptions {
            gap_events: subscribe.gap_events,
            checkpoint: subscribe.checkpoint,
            heartbeat: (heartbeat < self.limits.heartbeat).then(|| Deciseconds16::of(heartbeat)),
        };
        let opening = self.opening(subscribe, encoding, &opened);
        match self.send_own(&opening, socket) {
            Ok(sent) => {
                let is_cut = sent < opening.len();
                let unsent = is_cut.then(|| Unsent::own(opening.into_boxed_slice(), sent));
                let new = NewStream { link, socket, options, unsent };
                self.delivery.begin(opened, new, now, &mut self.links.log);
            }
            Err(()) => {
                self.delivery.abandon(opened, &mut self.links.log);
                self.closing.push((socket, Some(token)));
            }
        }
        Ok(())
    }

    /// The head, the prelude, the gap event and the greeting: what is this subscriber's alone.
    fn opening(&mut self, subscribe: &Subscribe, encoding: Encoding, opened: &Opened) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        response::stream_head(subscribe, encoding, opened.gap, self.date, &mut bytes);
        let mut body = Vec::with_capacity(64);
        let retry_ms = subscribe.retry.map_or_else(|| self.jittered_retry_ms(), milliseconds);
        prelude(retry_ms, &mut body);
        body.extend_from_slice(&subscribe.greeting);
        let reports_gap = opened.gap && subscribe.gap_events;
        if !reports_gap && opened.cursor >= opened.incomplete_until {
            // A gap event has an id itself. A subscriber that gets what is left of incomplete history
            // has no cursor yet from which it would miss nothing.
            checkpoint(subscribe.checkpoint, self.delivery.cursor(opened.cursor), &mut body);
        }
        wrap(&body, encoding, &mut bytes);
        if reports_gap {
            let asked = subscribe.resume.as_deref().unwrap_or_default();
            self.delivery.opening_gap_event(opened, asked, &self.links.log, &mut bytes);
        }
        bytes
    }

    /// Sends bytes of its own to one socket, and says how many it took.
    fn send_own(&mut self, bytes: &[u8], socket: Socket) -> Result<usize, ()> {
        let exceptions = &mut self.exceptions;
        self.io.send_batch(bytes, std::iter::once(socket), exceptions);
        match exceptions.pop() {
            None => Ok(bytes.len()),
            Some(exception) => match exception.cause {
                Cause::Full => Ok(exception.sent),
                Cause::Gone(_) => Err(()),
            },
        }
    }

    /// The configured answer to a subscriber that finds no room.
    fn no_room(&mut self, subscribe: &Subscribe, encoding: Encoding) -> Reply {
        match self.limits.when_full {
            FullPolicy::Unavailable => {
                let wait = 1 + self.jitter.next_number() % 10;
                let full = Refusal::new(503, "this server has as many subscribers as it may hold");
                Reply::Refuse(full.own_header("Retry-After", &wait.to_string()))
            }
            FullPolicy::EndStream => {
                self.counts.refused += 1;
                let mut bytes = Vec::new();
                response::stream_head(subscribe, encoding, false, self.date, &mut bytes);
                ending(self.jittered_retry_ms(), encoding, &mut bytes);
                Reply::Answer(bytes)
            }
            FullPolicy::Drop => {
                self.counts.refused += 1;
                Reply::Close
            }
        }
    }
}

/// The answer to a request that is no subscription, where nobody takes others.
fn nothing_here() -> Refusal {
    Refusal::new(404, "nothing is served at this path")
}

/// The next entry whose time has come.
fn due(queue: &mut Deadline, now: Duration) -> Option<LinkKey> {
    let (at, key) = *queue.front()?;
    (at <= now).then(|| {
        queue.pop_front();
        key
    })
}
