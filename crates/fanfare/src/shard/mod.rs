//! A shard: one thread, one loop, one `Io`, one slab of connections. It shares nothing mutable.
//!
//! [`Shard::tick`] is the whole loop. What it calls is in the files beside this one: [`greet`] makes
//! subscribers of sockets, [`fanout`] delivers, [`upkeep`] looks after those who are idle or late,
//! [`drain`] ends it all.

mod drain;
mod fanout;
mod greet;
mod inspect;
#[cfg(feature = "sim")]
mod invariants;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_utils::CachePadded;
use fanfare_io::pass::{SocketReceiver, SocketSender};
use fanfare_io::{Clock, Exception, Io, Notification, Received, Socket, Token};
use fanfare_proto::audience::{AudienceId, Audiences};
use fanfare_proto::connection::{Connection, Farewell, Place, Tenths};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::laggard::Laggards;
use fanfare_proto::limits::{ACCEPT_PAUSE, CONGESTION_HOLD, LAGGARD_TURNS, Limits, SLICE_BYTES, SLICE_SENDS};
use fanfare_proto::log::Log;
use fanfare_proto::run::Run;
use fanfare_proto::spare::shrink_buffer;
use slab::Slab;

use crate::admission::Admission;
use crate::counts::{Counts, SharedCounts};
use crate::mailbox::{Mail, Mailbox};
use crate::sync::AtomicU64;
use drain::Drain;
pub(crate) use greet::RECEIVE_BYTES;
use greet::{Pending, Resuming};
use upkeep::Upkeep;

/// How much of each kind of work one tick does. A simulation, which has few of everything, does less.
#[derive(Clone, Copy, Debug)]
#[allow(unreachable_pub)] // Simulations are given it.
pub struct Budgets {
    /// Audiences marked.
    pub marks: usize,
    /// Sends of a sweep.
    pub sends: usize,
    /// Bytes that they offer.
    pub bytes: usize,
    /// Laggards served.
    pub laggards: usize,
}

impl Default for Budgets {
    /// 4,096 marks are half a millisecond's worth.
    fn default() -> Budgets {
        Budgets { marks: 4096, sends: SLICE_SENDS, bytes: SLICE_BYTES, laggards: LAGGARD_TURNS }
    }
}

/// What ties a shard to the rest of the process.
pub(crate) struct Links {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Sockets to adopt, in the order of their mail.
    pub(crate) adopted: SocketReceiver,
    /// Sockets that are not ours to serve go out here.
    pub(crate) hand_over: Option<SocketSender>,
    pub(crate) counts: Arc<CachePadded<SharedCounts>>,
    pub(crate) admission: Arc<dyn Admission>,
    /// The `seq` of the newest event that any shard may have.
    pub(crate) newest: Arc<AtomicU64>,
}

pub(crate) struct Shard<I: Io> {
    io: I,
    links: Links,
    limits: Limits,
    budgets: Budgets,
    /// What response heads say; set before each tick.
    date: SystemTime,
    log: Log,
    audiences: Audiences,
    connections: Slab<Connection>,
    laggards: Laggards,
    pending: Slab<Pending>,
    /// Those who resume, until we have all that another shard may have sent them. In the order of `from`.
    resuming: VecDeque<Resuming>,
    upkeep: Upkeep,
    drain: Option<Drain>,
    /// Mail taken from the mailbox and not yet acted on.
    inbox: VecDeque<Mail>,
    mail_taken_at: Duration,
    counts: Counts,
    /// Given to each new connection or pending request: tells it from others that had its slot.
    generation: u32,
    random: Random,
    /// When to accept again after descriptors ran out.
    accept_again_at: Option<Duration>,
    scratch: Scratch,
    stopped: bool,
}

/// Buffers that are reused from tick to tick; empty in between. A shard that goes to sleep gives back those that are large.
#[derive(Default)]
struct Scratch {
    exceptions: Vec<Exception>,
    run: Run,
    /// Whose run that is: the audience, the cursor before it, and the audience's head when it was filled.
    run_of: Option<(AudienceId, u64, u64)>,
    /// Connections found gone in the middle of a turn.
    gone: Vec<u32>,
    /// Sockets to close at the end of the tick.
    closing: Vec<(Socket, Option<Token>)>,
    /// Where a request head is received.
    request: Vec<u8>,
}

impl Scratch {
    /// Before a sleep: an idle shard pins no frames, and no memory that a burst needed.
    fn rest(&mut self) {
        self.run.rest();
        self.run_of = None;
        shrink_buffer(&mut self.exceptions);
        shrink_buffer(&mut self.gone);
        shrink_buffer(&mut self.closing);
    }
}

impl<I: Io> Shard<I> {
    pub(crate) fn new(io: I, links: Links, limits: Limits, epoch: Epoch, seed: u64) -> Shard<I> {
        let scratch = Scratch { request: vec![0; RECEIVE_BYTES], ..Scratch::default() };
        Shard {
            io,
            links,
            date: SystemTime::UNIX_EPOCH,
            log: Log::new(epoch, limits.retention),
            audiences: Audiences::new(limits.laggard_frames, limits.laggard_bytes),
            connections: Slab::new(),
            laggards: Laggards::default(),
            pending: Slab::new(),
            resuming: VecDeque::new(),
            upkeep: Upkeep::default(),
            drain: None,
            inbox: VecDeque::new(),
            mail_taken_at: Duration::ZERO,
            counts: Counts::default(),
            generation: 0,
            random: Random(seed | 1),
            accept_again_at: None,
            scratch,
            stopped: false,
            budgets: Budgets::default(),
            limits,
        }
    }

    /// Runs until the drain is over.
    pub(crate) fn run(mut self, clock: Clock) {
        let mut notifications = Vec::new();
        let mut now = clock.now();
        while !self.stopped {
            let timeout = self.timeout(now);
            if timeout != Some(Duration::ZERO) {
                shrink_buffer(&mut notifications);
            }
            if let Err(error) = self.io.wait(timeout, &mut notifications) {
                // The backend's own descriptor is broken: no connection can be served any more.
                panic!("the shard cannot wait for its sockets: {error}");
            }
            self.links.mailbox.awake();
            now = clock.now();
            self.date = clock.date();
            self.tick(now, &mut notifications);
        }
    }

    /// One turn of the loop: what happened, what was published, then a bounded piece of each kind of work.
    pub(crate) fn tick(&mut self, now: Duration, notifications: &mut Vec<Notification>) {
        for notification in notifications.drain(..) {
            self.notice(notification, now);
        }
        self.end_overdue(now);
        self.take_mail(now);
        self.begin_resumed(now);
        self.sweep(now);
        self.serve_laggards(now);
        self.look_after(now);
        self.drain_some(now);
        self.close_ended();
        self.publish_counts();
    }

    /// How long the next wait may last: not at all while there is work, else until the next timer.
    pub(crate) fn timeout(&mut self, now: Duration) -> Option<Duration> {
        let work = self.audiences.dirty() || self.laggards.any_ready() || !self.inbox.is_empty();
        // While congested, mail need not wake us: we look at it when the hold is over.
        let congested_until = self.congested_until(now);
        if work || (congested_until.is_none() && !self.links.mailbox.prepare_sleep()) {
            return Some(Duration::ZERO);
        }
        self.scratch.rest();
        let timers = [congested_until, self.accept_again_at, self.next_upkeep(), self.next_drain()];
        timers.into_iter().flatten().min().map(|at| at.saturating_sub(now))
    }

    fn notice(&mut self, notification: Notification, now: Duration) {
        match notification {
            Notification::Accepted(socket) => self.accepted(socket, now),
            Notification::AcceptFailed(_) => {
                self.counts.accept_pauses += 1;
                // A drain has closed the listeners.
                self.accept_again_at = self.drain.is_none().then_some(now + ACCEPT_PAUSE);
            }
            Notification::Woken => {}
            Notification::Ready { token, readable, writable, hung_up } => match Name::of(token) {
                Name::Pending { slot, generation } => {
                    if self.pending.get(slot).is_some_and(|pending| pending.generation == generation) {
                        self.pending_ready(slot, readable || hung_up, now);
                    }
                }
                Name::Connection { slot, generation } => {
                    // A late notification of a connection that has left finds nobody, or a stranger.
                    let Some(&connection) = self.connections.get(slot) else { return };
                    if connection.generation != generation {
                        return;
                    }
                    if hung_up || (readable && self.peer_ended(connection.socket)) {
                        self.end(slot as u32, Farewell::PeerLeft);
                    } else if let (true, Place::Laggard(key)) = (writable, connection.place) {
                        self.laggards.ready(key);
                    }
                }
            },
        }
    }

    /// Whatever a subscriber sends after its request is ignored, one buffer at a time: more of it
    /// causes the next notification.
    fn peer_ended(&mut self, socket: Socket) -> bool {
        match self.io.receive(socket, &mut self.scratch.request) {
            Received::Bytes(_) | Received::Empty => false,
            Received::Ended | Received::Gone(_) => true,
        }
    }

    fn take_mail(&mut self, now: Duration) {
        let mut marks = self.audiences.mark(self.budgets.marks);
        // While a sweep or most of the connections are far behind, events wait in the mailbox, and
        // publishers learn that it is full.
        if self.inbox.is_empty() && !self.audiences.crowded() && self.congested_until(now).is_none() {
            self.mail_taken_at = now;
            self.links.mailbox.take(&mut self.inbox);
        }
        while marks > 0
            && !self.audiences.crowded()
            && let Some(letter) = self.inbox.pop_front()
        {
            match letter {
                Mail::Event(frame) => {
                    self.counts.events += 1;
                    self.links.mailbox.done_with(&frame);
                    self.log.append(Arc::clone(&frame), now);
                    self.audiences.begin(frame);
                    marks = self.audiences.mark(marks);
                }
                Mail::Adopt(adoption) => self.adopt(*adoption, now),
                Mail::Inspect(inspection) => self.inspect(&inspection),
                Mail::Drain(window) => self.begin_drain(window, now),
            }
        }
    }

    /// Until when mail waits because most connections are behind and their sockets still take bytes. A
    /// minority, those that replay, and those at a standstill hold up nobody.
    fn congested_until(&self, now: Duration) -> Option<Duration> {
        let behind = self.laggards.fallen_behind().saturating_sub(self.upkeep.at_standstill);
        let moving = self.connections.len().saturating_sub(self.upkeep.at_standstill);
        let until = self.mail_taken_at + CONGESTION_HOLD;
        (behind * 2 > moving && now < until).then_some(until)
    }

    /// Ends a connection: out of its audience now, its socket closed at the end of the tick.
    fn end(&mut self, slot: u32, reason: Farewell) {
        let connection = self.connections.remove(slot as usize);
        let audience = connection.audience;
        match connection.place {
            Place::Member(index) => {
                self.audiences.leave(audience, index, |slot, index| {
                    self.connections[slot as usize].place = Place::Member(index);
                });
            }
            Place::Laggard(key) => {
                self.laggards.remove(key);
                self.audiences.remove_laggard(audience);
            }
        }
        if let Some(subscription) = self.audiences.remove_if_empty(audience) {
            self.log.release(subscription.topics());
            self.scratch.run_of = None;
        }
        let token = Name::connection(slot, connection.generation).token();
        self.scratch.closing.push((connection.socket, Some(token)));
        self.counts.farewells[reason.index()] += 1;
        if self.connections.is_empty() {
            // Give back what a full house needed.
            self.connections = Slab::new();
        }
    }

    fn close_ended(&mut self) {
        if !self.scratch.closing.is_empty() {
            self.io.close(&self.scratch.closing);
            self.scratch.closing.clear();
        }
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = (self.generation + 1) & Name::GENERATIONS;
        self.generation
    }

    fn publish_counts(&mut self) {
        self.counts.connections = self.connections.len() as u64;
        self.counts.pending = self.pending.len() as u64;
        self.counts.laggards = self.laggards.len() as u64;
        self.counts.audiences = self.audiences.len() as u64;
        self.counts.log_frames = self.log.len() as u64;
        self.counts.log_bytes = self.log.bytes() as u64;
        self.links.counts.store(&self.counts);
    }
}

impl<I: Io> Drop for Shard<I> {
    fn drop(&mut self) {
        // Also when the shard panics: publishers must learn that nobody listens.
        self.links.mailbox.close();
    }
}

/// What a token names: a slot, and the generation of whoever had it when the token was made.
enum Name {
    Connection { slot: usize, generation: u32 },
    Pending { slot: usize, generation: u32 },
}

impl Name {
    const GENERATIONS: u32 = (1 << 29) - 1;
    const PENDING: u64 = 1 << 61;

    fn connection(slot: u32, generation: u32) -> Name {
        Name::Connection { slot: slot as usize, generation }
    }

    fn token(&self) -> Token {
        let (slot, generation, kind) = match *self {
            Name::Connection { slot, generation } => (slot, generation, 0),
            Name::Pending { slot, generation } => (slot, generation, Name::PENDING),
        };
        Token(kind | u64::from(generation) << 32 | slot as u64)
    }

    fn of(token: Token) -> Name {
        let slot = (token.0 & u64::from(u32::MAX)) as usize;
        let generation = (token.0 >> 32) as u32 & Name::GENERATIONS;
        match token.0 & Name::PENDING {
            0 => Name::Connection { slot, generation },
            _ => Name::Pending { slot, generation },
        }
    }
}

/// Jitter: a xorshift* generator, good enough to spread reconnects and repeatable from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between `from` and `to` percent of `span`.
    fn percent(&mut self, span: Duration, from: u32, to: u32) -> Duration {
        let steps = u64::from(to - from) * 100;
        let share = from * 100 + (self.next() % (steps + 1)) as u32;
        span.saturating_mul(share) / 10_000
    }
}

/// A time that does not fit is never reached.
fn tenths(now: Duration) -> Tenths {
    Tenths::try_from(now.as_millis() / 100).unwrap_or(Tenths::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An age of 14 years came round to one of weeks.
    #[test]
    fn a_time_beyond_the_counter_is_never() {
        assert_eq!(tenths(Duration::from_millis(12_399)), 123);
        assert_eq!(tenths(Duration::from_secs(14 * 365 * 24 * 3600)), Tenths::MAX);
        assert_eq!((tenths(Duration::MAX), millis(Duration::MAX)), (Tenths::MAX, u64::MAX));
    }
}
