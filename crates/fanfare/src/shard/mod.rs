//! A shard: one thread, one loop, one `Io`, and one [`Delivery`], which decides what is sent to whom.
//!
//! [`Shard::tick`] is the whole loop. This file is the shell around the state machine: it takes notifications
//! and mail, sends the batches that delivery names, and closes what has ended. [`arrivals`] makes subscribers
//! of sockets.

mod arrivals;
mod connections;
#[cfg(feature = "sim")]
mod invariants;
mod listing;
mod names;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_utils::CachePadded;
use fanfare_io::fd_channel::{SocketReceiver, SocketSender};
use fanfare_io::{Cause, Clock, Exception, Io, Notification, Received, Socket, Token};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::delivery::{Closed, Delivery, SendFailure};
use fanfare_proto::histogram::Histogram;
use fanfare_proto::jitter::Jitter;
use fanfare_proto::limits::{
    ACCEPT_PAUSE, CONGESTION_HOLD, DECISIONS, EXPIRY_SLACK, JOINED_TOPICS, JOINS_INTERVAL, JOINS_PER_TICK,
    Limits, OPENING_TOPICS, RECEIVE_BYTES, TRIM_FRAMES,
};
use fanfare_proto::link::{LinkKey, Transport};
use fanfare_proto::shrink::shrink_buffer;

use crate::admission::{Admissions, Decided};
use crate::client_table::{ClientTable, CountedSockets};
use crate::counts::{Counts, SharedCounts, SharedTimings, Timings};
use crate::hub::Congestion;
use crate::joins::JoinTable;
use crate::life_cycle::LifeCycleQueue;
use crate::listeners::SharedProxies;
use crate::mailbox::{Adoption, Mail, Mailbox};
use crate::orders::OrderNumbers;
use crate::presence::Presence;
use crate::shared_log::SharedLog;
use arrivals::Arrivals;
pub(crate) use arrivals::peer_address;
pub(crate) use connections::ConnectionOrder;
use connections::Connections;
#[allow(unreachable_pub)] // Simulations are given it.
pub use fanfare_proto::delivery::Budgets;
use listing::Listing;

/// Buffers of what subscribers send after their requests that are thrown away in one tick: 2 MiB, a quarter
/// of a millisecond.
const DISCARDED_READS: usize = 64;

/// Sends after which the clock is read again in the middle of a tick, for the times of deliveries: about a
/// tenth of a millisecond. To read it takes some 20 ns.
const SENDS_PER_CLOCK: usize = 64;

/// Room for decisions and orders that an idle shard keeps.
const AGENDA_KEPT: usize = 64;

/// What has come about connections.
enum Agenda {
    Decided(Box<Decided>),
    Adopt(Box<Adoption>),
    Order(Box<ConnectionOrder>),
}

impl Agenda {
    /// What it takes of the budget of topics, beside what a stream that begins takes.
    fn topics(&self) -> usize {
        match self {
            Agenda::Decided(_) | Agenda::Adopt(_) => 0,
            // They are registered, and what earlier changes left is gone through.
            Agenda::Order(order) => match &**order {
                ConnectionOrder::ChangeTopics(_, topics, patterns) => 4 * (topics.len() + patterns.len()),
                _ => 0,
            },
        }
    }
}

/// What ties a shard to the rest of the process.
pub(crate) struct Links {
    /// The number of this engine, in the names of its connections.
    pub(crate) engine: u32,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Sockets to adopt, in the order of their mail.
    pub(crate) adopted: SocketReceiver,
    /// Sockets that are not ours to serve go out here.
    pub(crate) hand_over: Option<SocketSender>,
    pub(crate) counts: Arc<CachePadded<SharedCounts>>,
    pub(crate) timings: Arc<CachePadded<SharedTimings>>,
    pub(crate) admission: Admissions,
    pub(crate) log: SharedLog,
    pub(crate) congestion: Arc<Congestion>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) clients: Arc<ClientTable>,
    /// The number of the last order to end connections.
    pub(crate) orders: Arc<OrderNumbers>,
    pub(crate) life_cycle: Option<Arc<LifeCycleQueue>>,
    /// Where joins are noted.
    pub(crate) joins: Option<Arc<JoinTable>>,
    /// By listener: the proxies that write a header of the PROXY protocol there.
    pub(crate) proxies: Vec<Option<SharedProxies>>,
}

pub(crate) struct Shard<I: Io> {
    io: I,
    links: Links,
    limits: Limits,
    /// The highest bound of connections that was ever in force.
    most_connections: usize,
    budgets: Budgets,
    /// What response heads say; set before each tick.
    date: SystemTime,
    delivery: Delivery,
    arrivals: Arrivals,
    connections: Connections,
    /// Sockets that are counted as their clients'.
    counted: CountedSockets,
    /// Mail taken from the mailbox and not yet acted on.
    inbox: VecDeque<Mail>,
    mail_taken_at: Duration,
    /// What has come about connections and is not done yet, in its order: a connection that is to begin, and
    /// then to end, ends. How much it is: [`Mailbox::note_agenda`]. It does not wait among the mail, where it
    /// would hold up the events behind it.
    agenda: VecDeque<Agenda>,
    /// Topics that new streams may still register for in this tick.
    topics_left: usize,
    counts: Counts,
    /// How long ticks took.
    ticks: Histogram,
    /// What was published of timings.
    timings: Timings,
    /// What the time in the middle of a tick is read from; a simulation has none.
    clock: Option<Clock>,
    jitter: Jitter,
    /// When to accept again after descriptors ran out.
    accept_again_at: Option<Duration>,
    /// Reused from send to send.
    exceptions: Vec<Exception>,
    /// Sockets to close at the end of the tick.
    closing: Vec<(Socket, Option<Token>)>,
    /// Where a request head is received.
    received: Vec<u8>,
    /// Subscribers that may have sent more than was thrown away, and the last of them that was read from.
    unread: BTreeSet<LinkKey>,
    discarded_last: LinkKey,
    /// The question about connections that is being answered.
    listing: Option<Listing>,
    /// When joins are handed over next.
    joins_at: Duration,
    stopped: bool,
}

impl<I: Io> Shard<I> {
    pub(crate) fn new(
        io: I,
        links: Links,
        limits: Limits,
        budgets: Budgets,
        epoch: Epoch,
        seed: u64,
    ) -> Shard<I> {
        let mut delivery = Delivery::with_budgets(limits.clone(), budgets, epoch, seed);
        if let Some(joins) = &links.joins {
            delivery.note_joins(joins.patterns().to_vec(), seed.rotate_left(16));
        }
        Shard {
            io,
            connections: Connections::new(links.life_cycle.clone()),
            links,
            date: SystemTime::UNIX_EPOCH,
            delivery,
            arrivals: Arrivals::default(),
            counted: CountedSockets::default(),
            inbox: VecDeque::new(),
            mail_taken_at: Duration::ZERO,
            agenda: VecDeque::new(),
            topics_left: 0,
            counts: Counts::default(),
            ticks: Histogram::default(),
            timings: Timings::default(),
            clock: None,
            jitter: Jitter::new(seed.rotate_left(32)),
            accept_again_at: None,
            exceptions: Vec::new(),
            closing: Vec::new(),
            received: vec![0; RECEIVE_BYTES],
            unread: BTreeSet::new(),
            discarded_last: LinkKey { slot: 0, generation: 0 },
            listing: None,
            joins_at: Duration::ZERO,
            stopped: false,
            budgets,
            most_connections: limits.connections,
            limits,
        }
    }

    /// Runs until the drain is over.
    pub(crate) fn run(mut self, clock: Clock) {
        crate::shard_thread::begin();
        self.clock = Some(clock);
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
            let began = now;
            self.date = clock.date();
            self.tick(now, &mut notifications);
            now = clock.now();
            self.tick_ended(now - began);
        }
    }

    /// One tick: what happened, what was published, then a bounded piece of each kind of work.
    pub(crate) fn tick(&mut self, now: Duration, notifications: &mut Vec<Notification>) {
        self.topics_left = OPENING_TOPICS;
        for notification in notifications.drain(..) {
            self.handle_notification(notification, now);
        }
        self.discard_unread();
        self.expire_pending(now);
        self.expire_undecided(now);
        self.close_undecided_of_gone(now);
        self.close_resuming_of_gone(now);
        self.take_mail(now);
        self.act_on_agenda(now);
        self.start_caught_up_resumes(now);
        self.end_connections();
        self.step_listing(now);
        self.run_upkeep(now);
        self.send(now);
        self.close_ended(now);
        self.forget_sheds();
        self.forget_history();
        self.hand_over_joins(now);
        self.publish_counts();
        // A connection is counted before its event is added.
        self.tell_life_cycle();
    }

    /// Gives back the pages of history of streams that do not need them any more.
    fn forget_history(&mut self) {
        if let Some(history) = self.links.log.history().filter(|history| !history.is_idle()) {
            history.retain(|link| self.delivery.is_laggard(link));
        }
    }

    /// Notes how long a tick took, and publishes it with the times of its sends.
    fn tick_ended(&mut self, took: Duration) {
        self.ticks.record(took, 1);
        let (delivery_lag, sweeps) = (*self.delivery.delivery_lag(), *self.delivery.sweep_times());
        let timings = Timings { delivery_lag, sweeps, ticks: self.ticks };
        self.links.timings.store(&timings, &self.timings);
        self.timings = timings;
    }

    /// How long the next wait may last: not at all while there is work, else until the next timer.
    pub(crate) fn timeout(&mut self, now: Duration) -> Option<Duration> {
        let work = self.delivery.has_work()
            || self.connections.has_work()
            || !self.inbox.is_empty()
            || !self.agenda.is_empty()
            || self.arrivals.has_left_resuming
            || !self.unread.is_empty()
            || self.listing.is_some();
        let congested_until = self.congested_until(now);
        let may_sleep = || match congested_until {
            // Events need not wake us: we check them when the hold is over.
            Some(_) => self.links.mailbox.prepare_hold(),
            None => self.links.mailbox.prepare_sleep(),
        };
        if work || !may_sleep() {
            return Some(Duration::ZERO);
        }
        self.delivery.shrink_for_idle();
        shrink_buffer(&mut self.exceptions);
        shrink_buffer(&mut self.closing);
        let timers = [
            congested_until,
            self.accept_again_at,
            self.arrivals.next_timeout(now),
            self.delivery.next_timeout(),
            (self.delivery.joins_noted() > 0).then_some(self.joins_at),
            self.links.log.next_expiry().map(|at| at.saturating_add(EXPIRY_SLACK)),
        ];
        timers.into_iter().flatten().min().map(|at| at.saturating_sub(now))
    }

    fn handle_notification(&mut self, notification: Notification, now: Duration) {
        match notification {
            // Every listener speaks HTTP/1 on the bare socket.
            Notification::Accepted { socket, listener } => {
                self.accepted(socket, listener, Transport::Http1, now);
            }
            Notification::AcceptFailed(_) => {
                self.counts.accept_pauses += 1;
                // A drain has closed the listeners.
                self.accept_again_at = (!self.delivery.is_draining()).then_some(now + ACCEPT_PAUSE);
            }
            Notification::Woken => {}
            Notification::Ready { token, readable, writable, hung_up } => match SlotKey::of(token) {
                SlotKey::Pending(key) => self.pending_ready(key, readable || hung_up, now),
                SlotKey::Link(link) => {
                    // A stale notification is ignored.
                    let Some(socket) = self.delivery.socket(link) else { return };
                    if hung_up || (readable && self.peer_ended(link, socket)) {
                        self.delivery.handle_gone(link, &mut self.links.log);
                    } else if writable {
                        self.delivery.handle_writable(link);
                    }
                }
            },
        }
    }

    /// Throws away one buffer of what a subscriber sends after its request, and answers whether the peer has
    /// ended. Where the buffer was full there may be more, which comes in this tick or the next.
    fn peer_ended(&mut self, link: LinkKey, socket: Socket) -> bool {
        self.unread.remove(&link);
        match self.io.receive(socket, &mut self.received) {
            Received::Bytes(count) if count == self.received.len() => {
                self.unread.insert(link);
                false
            }
            Received::Bytes(_) | Received::Empty => false,
            Received::Ended | Received::Gone(_) => true,
        }
    }

    /// Throws away what subscribers have sent, as far as the budget of one tick goes, one buffer for each in
    /// turn. What stayed in the sockets would be the kernel's memory, and would hide that a peer has left.
    fn discard_unread(&mut self) {
        for _ in 0..DISCARDED_READS {
            let after = (std::ops::Bound::Excluded(self.discarded_last), std::ops::Bound::Unbounded);
            let next = self.unread.range(after).next().or_else(|| self.unread.first());
            let Some(&link) = next else { return };
            self.discarded_last = link;
            match self.delivery.socket(link) {
                Some(socket) => {
                    if self.peer_ended(link, socket) {
                        self.delivery.handle_gone(link, &mut self.links.log);
                    }
                }
                // It has left meanwhile.
                None => {
                    self.unread.remove(&link);
                }
            }
        }
    }

    fn take_mail(&mut self, now: Duration) {
        // Half of the budget goes on with what is marked already, so that an event for few overtakes one for
        // many.
        let mut half = self.budgets.marks.div_ceil(2);
        self.delivery.mark(&mut half);
        let mut marks = self.budgets.marks / 2 + half;
        // While a sweep or most of the hub's streams are far behind, events wait in the mailbox, and
        // publishers learn that it is full. Sockets and questions wait for sweeps alone.
        if self.inbox.is_empty() && !self.delivery.is_backlogged() {
            if self.congested_until(now).is_none() {
                self.mail_taken_at = now;
                self.links.mailbox.take(&mut self.inbox);
            } else {
                self.links.mailbox.take_others(&mut self.inbox);
            }
        }
        while marks > 0
            && !self.delivery.is_backlogged()
            && let Some(mail) = self.inbox.pop_front()
        {
            match mail {
                Mail::Event(frame) => {
                    self.counts.events += 1;
                    self.links.mailbox.release_capacity(&frame);
                    self.delivery.handle_event(frame, &mut marks);
                }
                Mail::Adopt(adoption) => {
                    marks -= 1;
                    self.agenda.push_back(Agenda::Adopt(adoption));
                }
                Mail::Decided(decided) => {
                    marks -= 1;
                    self.agenda.push_back(Agenda::Decided(decided));
                }
                Mail::Order(order) => {
                    marks -= 1;
                    self.agenda.push_back(Agenda::Order(order));
                }
                Mail::Limits(limits) => {
                    self.limits.take_over(&limits);
                    self.delivery.change_limits(&limits);
                    self.shorten_head_time(now);
                    self.shorten_decision_time(now);
                    self.most_connections = self.most_connections.max(limits.connections);
                }
                Mail::Inspect(inspection) => {
                    if inspection.is_wanted() {
                        marks = marks.saturating_sub(inspection.about.len());
                        let counts = inspection.about.iter().map(|topic| self.delivery.topic(topic));
                        inspection.answer(counts.map(Option::unwrap_or_default).collect());
                    }
                }
                Mail::List(question) => self.listing = Some(Listing::new(question)),
                Mail::History(answer) => {
                    marks -= 1;
                    let link = self.links.log.history().and_then(|history| history.answered(*answer));
                    link.into_iter().for_each(|link| self.delivery.handle_fetched(link, now));
                }
                Mail::Drain(window) => self.begin_drain(window, now),
            }
        }
    }

    /// Acts on decisions, sockets to adopt and orders about connections, as far as the budget of one tick
    /// goes.
    fn act_on_agenda(&mut self, now: Duration) {
        if self.agenda.is_empty() {
            return;
        }
        let mut left = DECISIONS;
        while left > 0
            && self.topics_left > 0
            && let Some(next) = self.agenda.pop_front()
        {
            left -= 1;
            self.topics_left = self.topics_left.saturating_sub(next.topics());
            match next {
                Agenda::Decided(decided) => self.decided(*decided, now),
                Agenda::Adopt(adoption) => self.adopt(*adoption, now),
                Agenda::Order(order) => {
                    self.order(*order, now);
                    #[cfg(feature = "sim")]
                    self.links.mailbox.order_carried_out();
                }
            }
        }
        if self.agenda.is_empty() && self.agenda.capacity() > AGENDA_KEPT {
            self.agenda = VecDeque::new();
        }
        self.links.mailbox.note_agenda(self.agenda.len());
    }

    /// Until when events wait because most streams of the hub are behind and their sockets still take bytes.
    /// A minority, a few streams, streams that replay, and streams at a standstill hold up nothing. A drain
    /// ends the hold, since nothing more is published.
    fn congested_until(&self, now: Duration) -> Option<Duration> {
        let (behind, _) = self.delivery.moving();
        let until = self.mail_taken_at + CONGESTION_HOLD;
        let holds = behind > 0 && now < until && !self.links.mailbox.is_closed();
        (holds && self.links.congestion.is_congested()).then_some(until)
    }

    fn run_upkeep(&mut self, now: Duration) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.io.resume_accept();
        }
        if self.links.log.next_expiry_is_due(now) {
            self.links.log.trim(now, TRIM_FRAMES);
        }
        let needed = self.inbox.is_empty() && self.delivery.needs_caught_up_to(now);
        let caught_up_to = needed.then(|| self.links.log.caught_up_to()).flatten();
        self.delivery.handle_timeout(now, caught_up_to, &mut self.links.log);
    }

    /// Sends what delivery names, as far as the budget of one tick goes.
    fn send(&mut self, now: Duration) {
        let Shard { io, delivery, links, exceptions, clock, .. } = self;
        let mut budget = delivery.budget();
        delivery.note_time(now);
        let mut sends = 0;
        while let Some(batch) = delivery.poll_send(now, &mut budget, &mut links.log) {
            sends += batch.sockets.len();
            io.send_batch(batch.bytes, batch.sockets.iter().copied(), exceptions);
            if sends >= SENDS_PER_CLOCK {
                sends = 0;
                delivery.note_time(clock.map_or(now, |clock| clock.now()));
            }
            let failures = exceptions.drain(..).map(|exception| SendFailure {
                index: exception.index,
                sent: exception.sent,
                is_gone: matches!(exception.cause, Cause::Gone(_)),
            });
            delivery.handle_sent(failures, now, &mut links.log);
        }
    }

    /// Accepts no more, and ends every stream within `window`.
    fn begin_drain(&mut self, window: Duration, now: Duration) {
        if self.delivery.is_draining() {
            return;
        }
        self.io.stop_listening();
        self.accept_again_at = None;
        self.close_all_pending();
        self.delivery.begin_drain(window, now);
    }

    /// Takes the sockets of streams that have ended, to be closed at the end of the tick. Their slots are
    /// free already, so this comes before the next stream begins, which may get the slot of one of them.
    fn take_ended(&mut self, now: Duration) {
        while let Some(closed) = self.delivery.poll_closed() {
            self.disconnected(&closed, now);
            let Closed { socket, link, finish, .. } = closed;
            if finish {
                // What the client has sent meanwhile would turn our close into a reset.
                let _ = self.io.receive(socket, &mut self.received);
                self.io.finish(socket);
            }
            self.closing.push((socket, Some(SlotKey::Link(link).token())));
        }
    }

    fn close_ended(&mut self, now: Duration) {
        self.take_ended(now);
        if self.delivery.is_draining() && self.delivery.is_empty() {
            self.close_all_pending();
            self.stopped = true;
        }
        if !self.closing.is_empty() {
            self.io.close(&self.closing);
            self.forget_clients();
            self.closing.clear();
        }
    }

    /// Sockets that are closed are their clients' no more.
    fn forget_clients(&mut self) {
        if self.counted.is_empty() {
            return;
        }
        for (socket, _) in &self.closing {
            if let Some(counted) = self.counted.remove(*socket) {
                self.links.clients.leave(counted);
            }
        }
    }

    /// Hands joins over that were noted: a part of them, when they are due or many.
    fn hand_over_joins(&mut self, now: Duration) {
        let noted = self.delivery.joins_noted();
        let Some(table) = &self.links.joins else { return };
        if noted == 0 || (now < self.joins_at && noted < JOINED_TOPICS / 2) {
            return;
        }
        let missed = self.delivery.take_missed_joins();
        table.add(std::iter::from_fn(|| self.delivery.poll_joins()).take(JOINS_PER_TICK), missed);
        if noted <= JOINS_PER_TICK {
            self.joins_at = now.saturating_add(JOINS_INTERVAL);
        }
    }

    fn publish_counts(&mut self) {
        let delivered = self.delivery.counts();
        self.counts.subscribed = delivered.subscribed;
        self.counts.deliveries = delivered.deliveries;
        self.counts.bytes = delivered.bytes;
        self.counts.replayed = delivered.replayed;
        self.counts.sends = delivered.sends;
        self.counts.heartbeats = delivered.heartbeats;
        self.counts.gaps = delivered.gaps;
        self.counts.closed = delivered.closed;
        self.counts.connections = self.delivery.len() as u64;
        self.counts.pending = self.arrivals.pending() as u64;
        self.counts.undecided = self.arrivals.undecided.len() as u64;
        self.counts.laggards = self.delivery.laggards() as u64;
        self.counts.audiences = self.delivery.audiences() as u64;
        self.links.counts.store(&self.counts);
        let (behind, moving) = self.delivery.moving();
        self.links.congestion.note(self.links.log.shard(), behind, moving);
    }

    fn jittered_retry_ms(&mut self) -> u64 {
        milliseconds(self.jitter.percent(self.limits.retry, 100, 150))
    }
}

impl<I: Io> Drop for Shard<I> {
    fn drop(&mut self) {
        // Also when the shard panics: publishers must learn that it takes no more mail.
        self.links.mailbox.close();
    }
}

/// What a token names: a link of delivery or the socket of a pending request, by its slot and the generation
/// that it had when the token was made.
#[derive(Clone, Copy)]
pub(crate) enum SlotKey {
    Link(LinkKey),
    Pending(LinkKey),
}

impl SlotKey {
    const PENDING: u64 = 1 << 61;

    fn token(self) -> Token {
        let (key, kind) = match self {
            SlotKey::Link(key) => (key, 0),
            SlotKey::Pending(key) => (key, SlotKey::PENDING),
        };
        Token(kind | u64::from(key.generation) << 32 | u64::from(key.slot))
    }

    pub(crate) fn of(token: Token) -> SlotKey {
        let slot = (token.0 & u64::from(u32::MAX)) as u32;
        let generation = (token.0 >> 32) as u32 & LinkKey::GENERATIONS;
        let key = LinkKey { slot, generation };
        if token.0 & SlotKey::PENDING == 0 { SlotKey::Link(key) } else { SlotKey::Pending(key) }
    }
}

/// Saturates.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
