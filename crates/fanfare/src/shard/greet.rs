//! From a socket to a subscriber: receive the request head, ask for admission, begin the stream.
//!
//! After an accept the request is usually there already, so a head is tried before the socket is
//! watched, from the shard's one buffer. Only heads that come in pieces get memory of their own.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_io::{Io, Received, Socket};
use fanfare_proto::audience::Subscription;
use fanfare_proto::connection::{Connection, Place, Tenths};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::frame::{WireFormat, checkpoint, ending, gap_event, prelude, wrap};
use fanfare_proto::head::{HeadScanner, RequestHead};
use fanfare_proto::limits::{FullPolicy, LINGER};
use fanfare_proto::run::Remainder;

use super::{Name, Shard, millis, tenths};
use crate::admission::{Decision, Refusal, Subscribe};
use crate::mailbox::Adoption;
use crate::response;

/// Bytes received at once: a whole head, and what a client sends right behind it.
pub(crate) const RECEIVE_BYTES: usize = 32 << 10;

/// A socket that is not a subscriber: its head is not complete, or it reads its refusal.
pub(super) struct Pending {
    pub(super) socket: Socket,
    pub(super) generation: u32,
    stage: Stage,
}

/// A subscriber that resumes, and the event that our log has to reach first.
///
/// It may have left a shard that was ahead of us. Its id would be unknown here, which is a gap: it would be told of a
/// loss that did not happen, and be sent everything again.
pub(super) struct Resuming {
    pub(super) from: u64,
    pub(super) socket: Socket,
    subscribe: Box<Subscribe>,
    format: WireFormat,
}

enum Stage {
    /// What has come of the head.
    Receiving(Vec<u8>, HeadScanner),
    /// The answer is out; what still comes is thrown away, so that the close does not reset the
    /// connection under the answer (RFC 9112, section 9.6).
    Lingering,
}

/// Deadlines of pending sockets. Each queue has one duration, so it is in order by itself.
#[derive(Default)]
pub(super) struct Deadlines {
    pub(super) heads: Deadline,
    pub(super) lingers: Deadline,
}

/// When, and the slot and generation of whom.
pub(super) type Deadline = VecDeque<(Duration, usize, u32)>;

/// What came of receiving a piece of a head.
enum Progress {
    Incomplete,
    Closed,
    Answer(Reply),
}

enum Reply {
    Subscribe(Box<Subscribe>, WireFormat),
    Refuse(Refusal),
    /// This, whole, then the end.
    Answer(Vec<u8>),
    /// Hand over, with everything received.
    HandOver(Vec<u8>),
    /// Close without an answer.
    Close,
}

impl<I: Io> Shard<I> {
    pub(super) fn accepted(&mut self, socket: Socket, now: Duration) {
        self.counts.accepted += 1;
        if self.drain.is_some() {
            self.scratch.closing.push((socket, None));
            return;
        }
        let (mut received, mut scanner) = (Vec::new(), HeadScanner::new());
        match self.receive_head(socket, &mut received, &mut scanner) {
            Progress::Closed => self.scratch.closing.push((socket, None)),
            Progress::Answer(reply) => self.reply(socket, reply, now),
            Progress::Incomplete => {
                let deadline = now.saturating_add(self.limits.head_time);
                let stage = Stage::Receiving(received, scanner);
                if let Some((slot, generation)) = self.watch_pending(socket, stage) {
                    self.note_deadline(|all| &mut all.heads, (deadline, slot, generation));
                }
            }
        }
    }

    pub(super) fn pending_ready(&mut self, slot: usize, readable: bool, now: Duration) {
        if !readable {
            return;
        }
        let socket = self.pending[slot].socket;
        let progress = match &mut self.pending[slot].stage {
            Stage::Lingering => match self.io.receive(socket, &mut self.scratch.request) {
                Received::Bytes(_) | Received::Empty => Progress::Incomplete,
                Received::Ended | Received::Gone(_) => Progress::Closed,
            },
            Stage::Receiving(received, scanner) => {
                let (mut received, mut scanner) = (std::mem::take(received), std::mem::take(scanner));
                let progress = self.receive_head(socket, &mut received, &mut scanner);
                self.pending[slot].stage = Stage::Receiving(received, scanner);
                progress
            }
        };
        match progress {
            Progress::Incomplete => {}
            Progress::Closed => self.close_pending(slot),
            Progress::Answer(reply) => {
                let pending = self.pending.remove(slot);
                let token = Name::Pending { slot, generation: pending.generation }.token();
                self.io.release(socket, token);
                self.reply(socket, reply, now);
            }
        }
    }

    /// Receives until the head is complete, wrong, or nothing more is there.
    fn receive_head(
        &mut self,
        socket: Socket,
        received: &mut Vec<u8>,
        scanner: &mut HeadScanner,
    ) -> Progress {
        let mut buffer = std::mem::take(&mut self.scratch.request);
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
                Ok(Some((head, _))) => Some(self.decide(&head, bytes)),
                Err(error) => Some(Reply::Refuse(Refusal::new(error.status(), error.to_string()))),
            };
            if let Some(reply) = answer {
                break Progress::Answer(reply);
            }
            if received.is_empty() {
                received.extend_from_slice(fresh);
            }
        };
        self.scratch.request = buffer;
        progress
    }

    fn decide(&self, head: &RequestHead<'_>, bytes: &[u8]) -> Reply {
        match self.links.admission.admit(head) {
            Decision::Subscribe(subscribe) => Reply::Subscribe(Box::new(subscribe), head.wire_format()),
            Decision::Refuse(refusal) => Reply::Refuse(refusal),
            Decision::HandOver if self.links.hand_over.is_some() => Reply::HandOver(bytes.to_vec()),
            Decision::HandOver => Reply::Refuse(nothing_here()),
        }
    }

    /// Acts on a reply to a socket that is not watched.
    fn reply(&mut self, socket: Socket, reply: Reply, now: Duration) {
        match reply {
            Reply::Subscribe(subscribe, format) if self.must_wait(&subscribe) => {
                if !self.room_to_wait() {
                    self.counts.turned_away += 1;
                    self.scratch.closing.push((socket, None));
                    return;
                }
                // Whatever it has had was published before it came.
                let from = self.links.newest.load(Ordering::Relaxed);
                self.resuming.push_back(Resuming { from, socket, subscribe, format });
            }
            Reply::Subscribe(subscribe, format) => {
                if let Err(other) = self.subscribe(socket, &subscribe, format, now) {
                    self.reply(socket, other, now);
                }
            }
            Reply::Refuse(refusal) => {
                self.reply(socket, Reply::Answer(response::refusal(&refusal, self.date)), now);
            }
            Reply::Answer(bytes) => {
                self.counts.refused += 1;
                self.answer_and_linger(socket, &bytes, now);
            }
            Reply::HandOver(bytes) => {
                let Some(to) = &self.links.hand_over else {
                    unreachable!("where there is nobody, it is refused")
                };
                let refusal = match to.send_raw(socket, &bytes).map_err(|error| error.kind()) {
                    Ok(()) => {
                        self.counts.handed_over += 1;
                        self.scratch.closing.push((socket, None));
                        return;
                    }
                    Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => nothing_here(),
                    Err(_) => {
                        let busy = Refusal::new(503, "the control plane is busy; try again in a moment");
                        busy.header("Retry-After", "1")
                    }
                };
                self.reply(socket, Reply::Refuse(refusal), now);
            }
            Reply::Close => self.scratch.closing.push((socket, None)),
        }
    }

    /// Whether this one resumes while another shard may be ahead of us.
    fn must_wait(&self, subscribe: &Subscribe) -> bool {
        subscribe.resume.is_some() && self.log.head() < self.links.newest.load(Ordering::Relaxed)
    }

    /// Begins the streams of those who waited for our log.
    pub(super) fn begin_resumed(&mut self, now: Duration) {
        while self.resuming.front().is_some_and(|front| front.from <= self.log.head()) {
            let Some(Resuming { socket, subscribe, format, .. }) = self.resuming.pop_front() else { return };
            debug_assert!(self.drain.is_none(), "a drain leaves nobody here");
            if let Err(other) = self.subscribe(socket, &subscribe, format, now) {
                self.reply(socket, other, now);
            }
        }
    }

    /// Answers, ends our side, and gives the client time to read.
    fn answer_and_linger(&mut self, socket: Socket, answer: &[u8], now: Duration) {
        // A fresh socket takes a kilobyte; one that does not is not worth waiting for.
        if self.send_own(answer, socket) != Ok(answer.len()) {
            self.scratch.closing.push((socket, None));
            return;
        }
        self.io.finish(socket);
        if let Some((slot, generation)) = self.watch_pending(socket, Stage::Lingering) {
            self.note_deadline(|all| &mut all.lingers, (now + LINGER, slot, generation));
        }
    }

    fn watch_pending(&mut self, socket: Socket, stage: Stage) -> Option<(usize, u32)> {
        let room = self.room_to_wait();
        let generation = self.next_generation();
        let slot = self.pending.vacant_key();
        let token = Name::Pending { slot, generation }.token();
        if !room || self.io.watch(socket, token).is_err() {
            self.counts.turned_away += 1;
            self.scratch.closing.push((socket, None));
            return None;
        }
        self.pending.insert(Pending { socket, generation, stage });
        Some((slot, generation))
    }

    /// Whether one more may wait: at the bound the oldest head makes room.
    fn room_to_wait(&mut self) -> bool {
        self.pending.len() + self.resuming.len() < self.limits.pending || self.forget_oldest_head()
    }

    /// Notes a deadline; now and then lets go of those whose sockets have left, so that the queue stays in
    /// proportion to the table.
    fn note_deadline(
        &mut self,
        queue: fn(&mut Deadlines) -> &mut Deadline,
        deadline: (Duration, usize, u32),
    ) {
        let queue = queue(&mut self.upkeep.deadlines);
        if queue.len() > 2 * self.pending.len() + 1024 {
            let pending = &self.pending;
            queue.retain(|(_, slot, generation)| {
                pending.get(*slot).is_some_and(|pending| pending.generation == *generation)
            });
        }
        queue.push_back(deadline);
    }

    /// Closes the socket whose head has been incomplete for the longest time: most heads come at once, so it is the least
    /// likely to become a subscriber. False where there is none.
    fn forget_oldest_head(&mut self) -> bool {
        while let Some((_, slot, generation)) = self.upkeep.deadlines.heads.pop_front() {
            if self.pending.get(slot).is_some_and(|pending| pending.generation == generation) {
                self.counts.turned_away += 1;
                self.close_pending(slot);
                return true;
            }
        }
        false
    }

    fn close_pending(&mut self, slot: usize) {
        let Pending { socket, generation, .. } = self.pending.remove(slot);
        let token = Name::Pending { slot, generation }.token();
        self.scratch.closing.push((socket, Some(token)));
    }

    /// Answers those whose head did not come in time, and closes those that lingered long enough.
    pub(super) fn end_overdue(&mut self, now: Duration) {
        while let Some((slot, generation)) = due(&mut self.upkeep.deadlines.heads, now) {
            let Some(pending) = self.pending.get(slot) else { continue };
            if pending.generation != generation {
                continue;
            }
            // A shard that is late itself may not have looked at what came in time.
            self.pending_ready(slot, true, now);
            if self.pending.get(slot).is_none_or(|pending| pending.generation != generation) {
                continue;
            }
            let socket = self.pending.remove(slot).socket;
            self.io.release(socket, Name::Pending { slot, generation }.token());
            self.counts.heads_timed_out += 1;
            let late = Refusal::new(408, "the request head was not complete in time");
            self.reply(socket, Reply::Refuse(late), now);
        }
        while let Some((slot, generation)) = due(&mut self.upkeep.deadlines.lingers, now) {
            if self.pending.get(slot).is_some_and(|pending| pending.generation == generation) {
                self.close_pending(slot);
            }
        }
    }

    pub(super) fn close_all_pending(&mut self) {
        while let Some(Resuming { socket, .. }) = self.resuming.pop_front() {
            self.scratch.closing.push((socket, None));
        }
        let slots: Vec<usize> = self.pending.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close_pending(slot);
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
        let reply = match self.drain {
            None => Reply::Subscribe(Box::new(adoption.subscribe), adoption.format),
            Some(_) => Reply::Close,
        };
        self.reply(socket, reply, now);
    }

    /// Begins a stream on a socket that is not watched.
    fn subscribe(
        &mut self,
        socket: Socket,
        subscribe: &Subscribe,
        format: WireFormat,
        now: Duration,
    ) -> Result<(), Reply> {
        if self.connections.len() >= self.limits.connections {
            return Err(self.no_room(subscribe, format));
        }
        let generation = self.next_generation();
        let slot = self.connections.vacant_key() as u32;
        let token = Name::connection(slot, generation).token();
        if self.io.watch(socket, token).is_err() {
            self.counts.turned_away += 1;
            return Err(Reply::Close);
        }

        let subscription = Subscription::new(subscribe.topics.clone(), format, subscribe.sees_private);
        let start = subscribe.resume.as_ref().map(|id| self.log.resume(id, subscription.topics()));
        let gap = start.is_some_and(|start| start.gap);
        let first_bytes = self.beginning(subscribe, &subscription, start);
        let sent = match self.send_own(&first_bytes, socket) {
            Ok(sent) => sent,
            Err(()) => {
                self.scratch.closing.push((socket, Some(token)));
                return Ok(());
            }
        };
        self.counts.subscribed += 1;
        self.counts.gaps += u64::from(gap);

        let (audience, new) = self.audiences.found(subscription, self.log.head());
        if new {
            let topics = self.audiences.subscription(audience).topics();
            self.log.hold(topics);
        }
        self.audiences.settle(audience);
        let head = self.audiences.head(audience);
        let behind = start
            .filter(|start| self.next_in_log(start.cursor, self.audiences.subscription(audience)).is_some());
        let remainder =
            (sent < first_bytes.len()).then(|| Remainder::own(first_bytes.into_boxed_slice(), sent));
        let place = if behind.is_some() || remainder.is_some() {
            let cursor = behind.map_or(head, |start| start.cursor);
            let ready = remainder.is_none();
            self.audiences.add_laggard(audience);
            Place::Laggard(self.laggards.insert(slot, cursor, head, remainder, now, ready))
        } else {
            Place::Member(self.audiences.join(audience, socket, slot))
        };
        let ends_at = self.end_of(now);
        self.connections.insert(Connection {
            socket,
            generation,
            audience,
            place,
            sent_at: tenths(now),
            ends_at,
            gap_notice: subscribe.gap_notice,
        });
        Ok(())
    }

    /// The head, the prelude, the gap notice and the greeting: what is this subscriber's alone.
    fn beginning(
        &mut self,
        subscribe: &Subscribe,
        subscription: &Subscription,
        start: Option<fanfare_proto::log::Start>,
    ) -> Vec<u8> {
        let format = subscription.format();
        let gap = start.filter(|start| start.gap);
        let mut bytes = Vec::with_capacity(512);
        response::stream_head(subscribe, format, gap.is_some(), self.date, &mut bytes);
        let mut body = Vec::with_capacity(64);
        let retry = subscribe.retry.unwrap_or_else(|| self.jittered_retry());
        prelude(millis(retry), &mut body);
        body.extend_from_slice(&subscribe.greeting);
        // A gap event carries the cursor itself, and a client that is cut before it has to be told of the gap again.
        if gap.is_none() || !subscribe.gap_notice {
            let seq = start.map_or(self.log.head(), |start| start.cursor);
            checkpoint(subscribe.checkpoint, Cursor { epoch: self.log.epoch(), seq }, &mut body);
        }
        wrap(&body, format, &mut bytes);
        if let (Some(start), true) = (gap, subscribe.gap_notice) {
            let asked = subscribe.resume.as_deref().unwrap_or_default();
            let next = self.next_in_log(start.cursor, subscription);
            let at = Cursor { epoch: self.log.epoch(), seq: start.cursor };
            gap_event(asked, at, next.map(Arc::as_ref), format, &mut bytes);
        }
        bytes
    }

    /// The configured answer to a subscriber that finds no room.
    fn no_room(&mut self, subscribe: &Subscribe, format: WireFormat) -> Reply {
        match self.limits.when_full {
            FullPolicy::Unavailable => {
                let wait = 1 + self.random.next() % 10;
                let full = Refusal::new(503, "this server has as many subscribers as it may hold");
                Reply::Refuse(full.header("Retry-After", &wait.to_string()))
            }
            FullPolicy::EndStream => {
                let mut bytes = Vec::new();
                response::stream_head(subscribe, format, false, self.date, &mut bytes);
                ending(millis(self.jittered_retry()), format, &mut bytes);
                Reply::Answer(bytes)
            }
            FullPolicy::Drop => {
                self.counts.refused += 1;
                Reply::Close
            }
        }
    }

    pub(super) fn jittered_retry(&mut self) -> Duration {
        self.random.percent(self.limits.retry, 100, 150)
    }

    fn end_of(&mut self, now: Duration) -> Tenths {
        match self.limits.connection_age {
            // Upkeep finds it within the last twentieth.
            Some(age) => tenths(now.saturating_add(self.random.percent(age, 80, 95))),
            None => Tenths::MAX,
        }
    }
}

/// The answer to a request that is no subscription, where nobody takes others.
fn nothing_here() -> Refusal {
    Refusal::new(404, "nothing is served at this path")
}

/// The next entry whose time has come.
fn due(queue: &mut Deadline, now: Duration) -> Option<(usize, u32)> {
    let (at, slot, generation) = *queue.front()?;
    (at <= now).then(|| {
        queue.pop_front();
        (slot, generation)
    })
}
