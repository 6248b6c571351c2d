//! Delivery: the state machine of one shard, without IO. It decides which bytes go to which socket next.
//!
//! It owns the shard's streams and links, its audiences and its laggards. The log belongs to the process:
//! whatever needs it takes an [`EventLog`]. Time is an argument, and the caller sends.
//!
//! ```text
//!              handle_event ----------+                         +--> poll_send ----> the caller sends
//!     open, begin, handle_writable, --+--> streams, audiences, -+                         |
//!     handle_gone, handle_timeout,    |    laggards, upkeep     +--> poll_closed          |
//!     begin_drain, begin_shed --------+         ^               +--> next_timeout         |
//!                                               +----------------------- handle_sent <----+
//! ```
//!
//! The order of calls in one tick:
//!
//! 1. inputs, in any order: [`Delivery::handle_gone`], [`Delivery::handle_writable`]; for a newcomer, also
//!    behind the events, [`Delivery::poll_closed`], [`Delivery::reserve`] and [`Delivery::open`], then
//!    [`Delivery::begin`] or [`Delivery::abandon`];
//! 2. events, while [`Delivery::is_backlogged`] is false: [`Delivery::handle_event`], within the budget of
//!    [`Delivery::mark`];
//! 3. [`Delivery::handle_timeout`];
//! 4. [`Delivery::poll_send`] until it gives nothing, and after each batch [`Delivery::handle_sent`];
//! 5. [`Delivery::poll_closed`] until it gives nothing; those sockets are to be closed.
//!
//! Before it sleeps until [`Delivery::next_timeout`], a shard whose [`Delivery::has_work`] is false calls
//! [`Delivery::shrink_for_idle`].

mod change;
mod check;
mod disconnect;
mod drain;
mod joins;
mod opening;
mod pace;
mod sending;
mod shed;
mod states;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::audience::{AudienceId, Audiences, Member, Subscription, SweepBounds};
use crate::client_limits::bound_for;
use crate::cursor::{Cursor, Epoch};
use crate::event::Topic;
use crate::event_log::EventLog;
use crate::frame::{Checkpoint, Frame};
use crate::frames::FrameStore;
use crate::histogram::Histogram;
use crate::jitter::Jitter;
use crate::laggard::{Laggard, Laggards, NewLaggard};
use crate::limits::{
    DRAIN_CHECKS, ENDINGS, EXPIRY_SPREAD, HEARTBEATS, LAGGARD_CHECKS, LAGGARD_TURNS, Limits, MARKINGS,
    REMOVALS, REPLAYED_FRAMES, ROOM_CHECKS, ROOM_ENDINGS, SCAN_STEPS, SCANS, STATES, TICK_BYTES, TICK_SENDS,
};
use crate::link::{Link, LinkKey, Transport};
use crate::stream::{CloseReason, EndTime, Place, Stream};
use crate::unsent::{Unsent, UnsentTable};
pub use change::Changed;
use change::Stages;
use disconnect::Searches;
pub use disconnect::began_by;
use drain::Drain;
pub use joins::JoinCounts;
use joins::Joins;
pub use opening::{NewStream, Opened};
use sending::Sending;
pub use sending::{SendBatch, SendFailure};
use shed::Shed;
pub use shed::ShedKey;
pub use states::{Behind, StreamState};
use upkeep::Upkeep;

/// One shard's state machine: see the module's documentation for the order of calls.
pub struct Delivery {
    limits: Limits,
    budgets: Budgets,
    epoch: Epoch,
    subscribers: Slab<Subscriber>,
    audiences: Audiences,
    laggards: Laggards,
    /// What links have begun: nothing else is written to them before it is out.
    unsent: UnsentTable,
    /// The frames that sweeps, laggards and the current run refer to.
    store: FrameStore,
    sending: Sending,
    closed: Vec<Closed>,
    upkeep: Upkeep,
    stages: Stages,
    searches: Searches,
    removals: Removals,
    joins: Option<Box<Joins>>,
    drain: Option<Drain>,
    /// Orders to shed streams that are not carried out yet, in their order.
    sheds: Vec<Shed>,
    next_shed: u64,
    generation: u32,
    jitter: Jitter,
    counts: DeliveryCounts,
    /// The latest time that the caller has noted.
    noted_at: Duration,
    /// How long events were on their way, from the publish to the send that gave them to the kernel whole.
    /// What a stream replays is not in it: it may be as old as the log.
    delivery_lag: Histogram,
}

/// An HTTP/1.1 link has exactly one stream, so they share a record, a slot and a generation.
/// [`Delivery::stream_on`] and [`Delivery::stream_ended`] are where the one leads to the other.
#[derive(Clone, Copy)]
struct Subscriber {
    link: Link,
    stream: Stream,
}

/// What an idle subscriber costs, beside its topics and what is free in the tables.
const _: () = assert!(size_of::<Subscriber>() + size_of::<Member>() <= 48);

/// The most memory that a subscriber takes beside its audience and topics, in bytes: its record, its laggard
/// record, which is more than that of a member, what is unsent on its link, and its timer; all in tables that
/// may be half empty.
pub const SUBSCRIBER_BYTES: usize =
    2 * (size_of::<Subscriber>() + size_of::<Laggard>() + size_of::<(u32, Unsent)>() + TIMER_AND_QUEUE_BYTES);

/// A timer, and a position in the queue of laggards.
const TIMER_AND_QUEUE_BYTES: usize = 12 + 4;

/// A stream's name in the queues of delivery: its slot, and the generation that tells it from others that had
/// the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StreamKey {
    slot: u32,
    generation: u32,
}

/// A command: this link's socket is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The socket.
    pub socket: i32,
    /// The name that the link had.
    pub link: LinkKey,
    /// Why its last stream ended.
    pub reason: CloseReason,
    /// Every event of that stream's topics up to this number was given to the kernel whole, or was known to
    /// be gone.
    pub cursor: u64,
    /// The end of the stream was sent: the peer is to read to it, so our side of the connection is finished
    /// first.
    pub finish: bool,
}

/// How a stream ended.
#[derive(Clone, Copy)]
struct StreamEnd {
    reason: CloseReason,
    cursor: u64,
    finish: bool,
}

/// How much of each kind of work one tick does. A simulation, which has few of everything, does less.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Audiences marked.
    pub marks: usize,
    /// Sends of sweeps.
    pub sends: usize,
    /// Bytes that they offer.
    pub bytes: usize,
    /// Laggards served.
    pub laggards: usize,
    /// Frames that are read from the log for them.
    pub replayed_frames: usize,
    /// How long one read of the log looks for the frames of patterns, in steps.
    pub scan_steps: usize,
    /// How long one search of the log looks for the first frame of patterns, in steps.
    pub search_steps: usize,
    /// Members that a sweep checks: it looks for the members that are behind.
    pub scans: usize,
    /// Streams ended.
    pub endings: usize,
    /// Streams that heartbeats are sent to.
    pub heartbeats: usize,
    /// Streams ended at once to make room for what other links have begun.
    pub room_endings: usize,
    /// Streams that a drain, or an order to shed streams, checks: it looks for the next ones to end.
    pub drain_checks: usize,
    /// Laggards that upkeep checks: it looks for laggards at a standstill, and for one whose end makes room.
    pub laggard_checks: usize,
    /// Topics and patterns of audiences that are removed. A mass of ends is not a mass of removals in one
    /// tick.
    pub removals: usize,
    /// Streams that are looked at to answer a question about connections.
    pub states: usize,
    /// How far behind a sweep may be before the shard takes no more events.
    pub sweep: SweepBounds,
}

impl Default for Budgets {
    /// 4,096 marks are a quarter of a millisecond's worth.
    fn default() -> Budgets {
        Budgets {
            marks: 4096,
            sends: TICK_SENDS,
            bytes: TICK_BYTES,
            laggards: LAGGARD_TURNS,
            replayed_frames: REPLAYED_FRAMES,
            scan_steps: SCAN_STEPS,
            search_steps: SCAN_STEPS,
            scans: SCANS,
            endings: ENDINGS,
            heartbeats: HEARTBEATS,
            room_endings: ROOM_ENDINGS,
            drain_checks: DRAIN_CHECKS,
            laggard_checks: LAGGARD_CHECKS,
            removals: REMOVALS,
            states: STATES,
            sweep: SweepBounds::default(),
        }
    }
}

/// Audiences that have lost their last stream and are still to be removed.
struct Removals {
    queue: VecDeque<AudienceId>,
    /// Topics whose audiences this tick may still remove.
    left: usize,
}

/// What delivery counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Streams begun.
    pub subscribed: u64,
    /// Events delivered: one event to one stream, given to the kernel whole.
    pub deliveries: u64,
    /// Bytes of events given to the kernel, with what each event needs on the wire.
    pub bytes: u64,
    /// Deliveries to streams that replay what they have missed, because they resume.
    pub replayed: u64,
    /// Sends that carried events.
    pub sends: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Gaps reported or noted.
    pub gaps: u64,
    /// Streams ended, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Delivery {
    /// A shard's delivery without any stream. `seed` is for jitter and for the keys of hashes, so it is
    /// random in production.
    pub fn new(limits: Limits, epoch: Epoch, seed: u64) -> Delivery {
        Delivery::with_budgets(limits, Budgets::default(), epoch, seed)
    }

    /// Changes the bounds that can change: [`Limits::take_over`].
    pub fn change_limits(&mut self, limits: &Limits) {
        // Streams that are there were given their ends with the period of before: they are found as often as
        // then.
        self.upkeep.period_at_most = (!self.is_empty()).then(|| self.check_period());
        self.limits.take_over(limits);
        self.upkeep.next_check_at = Duration::ZERO;
    }

    /// The same, with budgets of the caller's.
    pub fn with_budgets(limits: Limits, budgets: Budgets, epoch: Epoch, seed: u64) -> Delivery {
        Delivery {
            audiences: Audiences::new(budgets.sweep, seed),
            limits,
            budgets,
            epoch,
            subscribers: Slab::new(),
            laggards: Laggards::default(),
            unsent: UnsentTable::default(),
            store: FrameStore::default(),
            sending: Sending::default(),
            closed: Vec::new(),
            upkeep: Upkeep::default(),
            stages: Stages::new(seed),
            searches: Searches::new(seed),
            removals: Removals { queue: VecDeque::new(), left: budgets.removals },
            joins: None,
            drain: None,
            sheds: Vec::new(),
            next_shed: 0,
            generation: 0,
            jitter: Jitter::new(seed),
            counts: DeliveryCounts::default(),
            noted_at: Duration::ZERO,
            delivery_lag: Histogram::default(),
        }
    }

    // Inputs.

    /// An event of a topic that this shard has registered for, by its name or by a pattern. Events come in
    /// the order of their numbers.
    pub fn handle_event(&mut self, frame: Arc<Frame>, marks: &mut usize) {
        let is_first = !self.audiences.is_marking();
        let marked = self.audiences.begin_marking(frame, &mut self.store);
        *marks = marks.saturating_sub(marked.max(1));
        // Behind another one it is marked at once, or waits: it does not spend the budget of those that come
        // after it.
        if is_first {
            self.mark(marks);
        }
    }

    /// Goes on marking what is not marked everywhere yet.
    pub fn mark(&mut self, marks: &mut usize) {
        *marks = self.audiences.mark(*marks, &mut self.store);
    }

    /// A link has room again. A stale notification is ignored.
    pub fn handle_writable(&mut self, link: LinkKey) {
        let stream = self.stream_on(link).and_then(|key| self.find(key)).map(|subscriber| subscriber.stream);
        if let Some(Stream { place: Place::Laggard(laggard), .. }) = stream {
            self.laggards.ready(laggard);
        }
    }

    /// Frames were fetched for the laggard on this link: it can be served. A stale notification is ignored.
    pub fn handle_fetched(&mut self, link: LinkKey, now: Duration) {
        if let Some(laggard) = self.laggard_on(link) {
            // It did not stand still: there was nothing to take.
            self.laggards.progressed(laggard, now);
            self.laggards.ready(laggard);
        }
    }

    /// Whether the stream on this link is a laggard.
    pub fn is_laggard(&self, link: LinkKey) -> bool {
        self.laggard_on(link).is_some()
    }

    fn laggard_on(&self, link: LinkKey) -> Option<u32> {
        match self.find(self.stream_on(link)?)?.stream.place {
            Place::Laggard(laggard) => Some(laggard),
            Place::Member(_) => None,
        }
    }

    /// A link's peer has left. A stale notification is ignored.
    pub fn handle_gone(&mut self, link: LinkKey, log: &mut impl EventLog) {
        if let Some(stream) = self.stream_on(link) {
            self.end(stream.slot, CloseReason::PeerLeft, false, log);
        }
    }

    /// The time in the middle of a tick, for what is measured. What is decided depends on the times of the
    /// other inputs alone.
    pub fn note_time(&mut self, at: Duration) {
        self.noted_at = at;
    }

    /// The time of what is measured in a tick that began at `now`.
    fn measured_at(&self, now: Duration) -> Duration {
        self.noted_at.max(now)
    }

    // What the caller asks.

    /// How long events were on their way from the publish to the send, in the deliveries to streams that do
    /// not replay.
    pub fn delivery_lag(&self) -> &Histogram {
        &self.delivery_lag
    }

    /// How long sweeps took, each pass over the members of an audience by itself.
    pub fn sweep_times(&self) -> &Histogram {
        self.audiences.pass_times()
    }

    /// The socket of a link that is still there.
    pub fn socket(&self, link: LinkKey) -> Option<i32> {
        let subscriber = self.subscribers.get(link.slot as usize)?;
        (subscriber.link.generation() == link.generation).then_some(subscriber.link.socket)
    }

    /// Whether something can be sent, marked or ended now.
    pub fn has_work(&self) -> bool {
        let has_sends = self.laggards.any_ready() || self.sending.has_work();
        let has_upkeep = self.upkeep.is_making_room || !self.searches.is_empty() || self.is_removing();
        self.audiences.has_work() || has_sends || has_upkeep
    }

    /// Whether links have begun more than the bound, and streams are still to be ended for that.
    pub fn is_making_room(&self) -> bool {
        self.upkeep.is_making_room
    }

    /// Whether audiences without a stream are still to be removed, with their topics.
    pub fn is_removing(&self) -> bool {
        !self.removals.queue.is_empty()
    }

    /// Whether the shard must not take more events before it has sent more of those that it has.
    pub fn is_backlogged(&self) -> bool {
        // An event that all audiences share is in each of their windows. Two of them may wait, and some more.
        let references = 4 * self.audiences.len() + (1 << 16);
        let over_bounds = self.store.references() > references
            || self.store.bytes() - self.store.begun_bytes() > self.limits.delivery_bytes;
        // What the last run and the laggards hold is no reason to wait: only sweeps are.
        self.audiences.is_backlogged()
            || self.audiences.markings() >= MARKINGS
            || (over_bounds && self.audiences.has_work())
    }

    /// Whether an event is not marked in all of its audiences yet.
    pub fn is_marking(&self) -> bool {
        self.audiences.is_marking()
    }

    /// Whether a sweep, or the marking for one, is unfinished.
    pub fn is_sweeping(&self) -> bool {
        self.audiences.has_work()
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// How many laggards there are.
    pub fn laggards(&self) -> usize {
        self.laggards.len()
    }

    /// Whether a stream of this subscription may begin: the audiences and topics of all of them stay within
    /// [`Limits::subscription_bytes`], of which only the operator may use the last part.
    pub fn has_room_for(&self, subscription: &Subscription, is_operator: bool) -> bool {
        let bound = self.limits.subscription_bytes;
        self.has_room_beside(bound - bound_for(is_operator, bound), subscription)
    }

    /// The same, where so many bytes are needed besides.
    fn has_room_beside(&self, others: usize, subscription: &Subscription) -> bool {
        let left = self.limits.subscription_bytes.saturating_sub(self.subscription_bytes() + others);
        Audiences::bytes_of_new_at_most(subscription) <= left
            || self.audiences.bytes_of_new(subscription) <= left
    }

    /// The memory of the audiences and topics of all subscriptions, and of changes of topics that streams
    /// have not caught up with, in bytes; an upper bound.
    pub fn subscription_bytes(&self) -> usize {
        self.audiences.bytes() + self.stages.bytes()
    }

    /// How many audiences there are.
    pub fn audiences(&self) -> usize {
        self.audiences.len()
    }

    /// How many streams fell behind and still take bytes, and how many streams are not at a standstill: the
    /// two numbers that tell whether the path out is full. Streams that replay, and streams at a standstill,
    /// are not counted.
    pub fn moving(&self) -> (usize, usize) {
        let behind = self.laggards.fallen_behind().saturating_sub(self.upkeep.at_standstill);
        (behind, self.subscribers.len().saturating_sub(self.upkeep.at_standstill))
    }

    /// Streams and laggards that read a topic by its name, in constant time.
    pub fn topic(&self, topic: &Topic) -> Option<(usize, usize)> {
        self.audiences.of_topic(topic).map(|counts| (counts.subscribers(), counts.laggards()))
    }

    /// What was counted.
    pub fn counts(&self) -> &DeliveryCounts {
        &self.counts
    }

    /// Bytes that this shard holds for sweeps under way and for what links have begun.
    pub fn memory_bytes(&self) -> usize {
        self.store.bytes() - self.store.begun_bytes() + self.unsent.memory_bytes(&self.store)
    }

    // Outputs.

    /// A link that is to be closed.
    pub fn poll_closed(&mut self) -> Option<Closed> {
        self.closed.pop()
    }

    /// When [`Delivery::handle_timeout`] has something to do next.
    pub fn next_timeout(&self) -> Option<Duration> {
        let drain = self.drain.as_ref().map(Drain::next_step_at);
        [self.next_upkeep(), drain, self.next_shed_step()].into_iter().flatten().min()
    }

    /// Whether [`Delivery::handle_timeout`] wants to know now up to where this shard was handed every event
    /// of its topics.
    pub fn needs_caught_up_to(&self, now: Duration) -> bool {
        let is_due = self.next_upkeep().is_some_and(|at| at <= now);
        (self.upkeep.checkpoints > 0 && is_due) || self.sending.wants_caught_up_to()
    }

    /// Upkeep, the drain and orders to shed streams: queues heartbeats and the ends of streams for
    /// [`Delivery::poll_send`], and ends streams that stand still. `caught_up_to` is the number up to which
    /// this shard was handed every event of its topics, where that is known: heartbeats may carry it.
    pub fn handle_timeout(&mut self, now: Duration, caught_up_to: Option<u64>, log: &mut impl EventLog) {
        self.upkeep.room_checks = ROOM_CHECKS;
        self.remove_audiences(log);
        self.make_room(log);
        self.sending.caught_up_to = caught_up_to.filter(|_| !self.audiences.is_marking());
        self.run_upkeep(now, log);
        self.step_searches(log);
        self.step_sheds(now, log);
        self.step_drain(now, log);
    }

    /// Before a sleep: an idle shard pins no frames, and no memory that a burst needed.
    pub fn shrink_for_idle(&mut self) {
        self.sending.shrink_for_idle(&mut self.store);
        crate::shrink::shrink_buffer(&mut self.closed);
    }

    // Transitions. Each is one method.

    /// A member's link is full, or its last send was cut: it waits with a cursor of its own.
    fn member_to_laggard(&mut self, slot: u32, cursor: Option<u64>, unsent: Option<Unsent>, now: Duration) {
        let Stream { audience, place: Place::Member(index), .. } = self.subscribers[slot as usize].stream
        else {
            unreachable!("it is a member")
        };
        let member = self.leave_members(audience, index);
        self.audiences.add_laggard(audience);
        let cursor = cursor.unwrap_or(member.cursor);
        if let Some(unsent) = unsent {
            self.unsent.insert(slot, unsent);
        }
        let new = NewLaggard { slot, cursor, incomplete_until: 0, fell_behind: true, ready: false };
        self.subscribers[slot as usize].stream.place = Place::Laggard(self.laggards.insert(new, now));
    }

    /// A laggard has everything that its audience has been marked with: it is swept with the others again.
    fn laggard_to_member(&mut self, laggard: u32) {
        let (slot, cursor) = (self.laggards.get(laggard).slot, self.laggards.get(laggard).cursor);
        self.laggards.remove(laggard);
        debug_assert!(!self.unsent.contains(slot), "a sweep would write into what its link has begun");
        let Subscriber { link, stream } = &mut self.subscribers[slot as usize];
        debug_assert!(cursor >= self.audiences.head(stream.audience), "it misses an event");
        self.audiences.remove_laggard(stream.audience);
        let member = Member { socket: link.socket, slot, cursor };
        stream.place = Place::Member(self.audiences.join(stream.audience, member));
    }

    fn leave_members(&mut self, audience: crate::audience::AudienceId, index: u32) -> Member {
        let subscribers = &mut self.subscribers;
        self.audiences.leave(audience, index, |slot, index| {
            subscribers[slot as usize].stream.place = Place::Member(index);
        })
    }

    /// Ends a stream: it is out of its audience now, and its link gets the command to end. `finish`: the end
    /// of the stream was sent.
    fn end(&mut self, slot: u32, reason: CloseReason, finish: bool, log: &mut impl EventLog) {
        self.end_at(slot, None, reason, finish, log);
    }

    /// The same, where it is known up to which number the stream was given everything.
    fn end_at(
        &mut self,
        slot: u32,
        cursor: Option<u64>,
        reason: CloseReason,
        finish: bool,
        log: &mut impl EventLog,
    ) {
        let Subscriber { stream, .. } = self.subscribers[slot as usize];
        let its_cursor = match stream.place {
            Place::Member(index) => self.leave_members(stream.audience, index).cursor,
            Place::Laggard(laggard) => {
                let cursor = self.laggards.get(laggard).cursor;
                self.laggards.remove(laggard);
                self.audiences.remove_laggard(stream.audience);
                cursor
            }
        };
        let cursor = cursor.unwrap_or(its_cursor);
        if let Some(joins) = &mut self.joins {
            joins.ended(self.audiences.subscription(stream.audience));
        }
        self.stages.forget(slot);
        self.searches.forget(slot);
        self.upkeep.checkpoints -= usize::from(stream.options.checkpoint != Checkpoint::Off);
        self.left(stream.audience, log);
        self.counts.closed[reason.index()] += 1;
        self.stream_ended(slot, StreamEnd { reason, cursor, finish });
    }

    /// What a link does when a stream of it has ended: the one place where that depends on the transport.
    fn stream_ended(&mut self, slot: u32, end: StreamEnd) {
        match self.subscribers[slot as usize].link.transport() {
            // It has no other stream and gets none, so it ends as well.
            Transport::Http1 => self.close_link(slot, end),
        }
    }

    /// Lets go of a link without streams and of what is unsent on it: its socket is to be closed.
    fn close_link(&mut self, slot: u32, end: StreamEnd) {
        let Subscriber { link, .. } = self.subscribers.remove(slot as usize);
        if let Some(unsent) = self.unsent.take(slot) {
            unsent.drop_reference(&mut self.store);
        }
        let key = LinkKey { slot, generation: link.generation() };
        let StreamEnd { reason, cursor, finish } = end;
        self.closed.push(Closed { socket: link.socket, link: key, reason, cursor, finish });
        if self.subscribers.is_empty() {
            // Give back what many streams needed.
            self.subscribers = Slab::new();
            self.upkeep.forget_streams();
            self.forget_sheds_without_streams();
        }
    }

    /// A stream has left an audience. One without streams is removed at once, or later where this tick has
    /// removed as many as it may.
    fn left(&mut self, audience: AudienceId, log: &mut impl EventLog) {
        if !self.audiences.is_empty_audience(audience) {
            return;
        }
        let topics = self.audiences.subscription(audience).selectors();
        if self.removals.queue.is_empty() && self.removals.left > 0 {
            self.removals.left = self.removals.left.saturating_sub(topics);
            self.remove_audience(audience, log);
        } else if self.audiences.note_removal(audience) {
            self.removals.queue.push_back(audience);
        }
    }

    /// Removes audiences that have lost their last stream, as far as the budget of one tick goes.
    fn remove_audiences(&mut self, log: &mut impl EventLog) {
        self.removals.left = self.budgets.removals;
        while self.removals.left > 0
            && let Some(audience) = self.removals.queue.pop_front()
        {
            self.audiences.forget_removal(audience);
            if self.audiences.is_empty_audience(audience) {
                let topics = self.audiences.subscription(audience).selectors();
                self.removals.left = self.removals.left.saturating_sub(topics.max(1));
                self.remove_audience(audience, log);
            }
        }
        if self.removals.queue.is_empty() {
            self.removals.queue.shrink_to(REMOVALS);
        }
    }

    fn remove_audience(&mut self, audience: AudienceId, log: &mut impl EventLog) {
        let before = self.audiences.len();
        let unread = self.audiences.remove_if_empty(audience, &mut self.store);
        if self.audiences.len() < before {
            self.sending.forget_run(&mut self.store);
        }
        if !unread.is_empty() {
            log.remove_reader(&unread.topics, &unread.patterns);
        }
    }

    /// The stream of a link that is still there.
    fn stream_on(&self, link: LinkKey) -> Option<StreamKey> {
        self.socket(link).map(|_| StreamKey { slot: link.slot, generation: link.generation })
    }

    fn find(&self, key: StreamKey) -> Option<Subscriber> {
        let subscriber = self.subscribers.get(key.slot as usize)?;
        (subscriber.link.generation() == key.generation).then_some(*subscriber)
    }

    /// The name of the stream in this slot.
    fn key_of(&self, slot: u32) -> StreamKey {
        StreamKey { slot, generation: self.subscribers[slot as usize].link.generation() }
    }

    /// A number of this log as a cursor.
    pub fn cursor(&self, seq: u64) -> Cursor {
        Cursor { epoch: self.epoch, seq }
    }

    fn jittered_retry_ms(&mut self) -> u64 {
        let retry = self.jitter.percent(self.limits.retry, 100, 150);
        u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)
    }

    /// When a stream that begins now ends by itself: because of its age, or, where it was given `lifetime`,
    /// at the end of that.
    fn end_time(&mut self, lifetime: Option<Duration>, now: Duration) -> EndTime {
        let age = self.limits.connection_age;
        // Upkeep finds it within the last twentieth.
        let aged = age.map_or(EndTime::NEVER, |age| {
            EndTime::by_age(now.saturating_add(self.jitter.percent(age, 80, 95)))
        });
        let Some(lifetime) = lifetime else { return aged };
        // It must not last longer, so upkeep has to find it before. Streams whose lifetimes end together end
        // apart.
        let spread = self.jitter.percent((lifetime / 20).min(EXPIRY_SPREAD), 0, 100);
        let lifetime = lifetime.saturating_sub(spread).saturating_sub(self.check_period());
        aged.min(EndTime::by_expiry(now.saturating_add(lifetime)))
    }
}
