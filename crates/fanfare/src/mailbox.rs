//! A shard's mailbox: bounded, and at most one wake per push however much waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::Limits;
use fanfare_proto::link::Encoding;

use crate::admission::{Decided, Subscribe};
use crate::history::HistoryAnswer;
use crate::hub::{Amount, Capacity, WaitingPublishers};
use crate::inspect::Inspection;
use crate::inspect::connections::ConnectionsQuestion;
use crate::shard::ConnectionOrder;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Waker, lock};

#[cfg(test)]
#[cfg(fanfare_loom)]
pub(crate) mod models;
#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests;

/// Room for this much mail is kept although it is not needed now.
const MAIL_KEPT: usize = 64;

/// What others tell a shard.
pub(crate) enum Mail {
    Event(Arc<Frame>),
    /// The socket comes on the shard's socket channel, in the same order.
    Adopt(Box<Adoption>),
    /// The decision about a request that waits for it.
    Decided(Box<Decided>),
    /// What is to become of connections.
    Order(Box<ConnectionOrder>),
    /// Other bounds for those that can change.
    Limits(Box<Limits>),
    /// Asks for the counts of topics.
    Inspect(Box<Inspection>),
    /// Asks for connections.
    List(Box<ConnectionsQuestion>),
    /// What the durable store has for a subscriber.
    History(Box<HistoryAnswer>),
    /// End every stream within this time, then stop.
    Drain(Duration),
}

pub(crate) struct Adoption {
    pub(crate) subscribe: Subscribe,
    pub(crate) encoding: Encoding,
}

/// Why a mailbox did not take something other than events.
#[derive(Debug)]
pub(crate) enum Refused<E> {
    /// As much waits as may.
    Full,
    /// The shard has ended.
    Ended,
    /// What had to be done before failed.
    Failed(E),
}

pub(crate) struct Mailbox {
    shard: usize,
    state: Mutex<State>,
    /// What events have taken: reserved, waiting, or in the shard's hands.
    capacity: CachePadded<Capacity>,
    /// What of it is reserved for events that are not pushed yet.
    #[cfg(feature = "sim")]
    reserved: Mutex<Amount>,
    /// Orders about connections that were given to the shard, and those that it has carried out.
    #[cfg(feature = "sim")]
    orders: Mutex<Orders>,
    /// No more sockets are taken. Relaxed: a caller that comes too early for the end of a shard finds
    /// `ended`.
    closed: AtomicBool,
    /// What the shard has taken and not acted on, without events. Relaxed: it only bounds what more is taken.
    agenda: AtomicUsize,
    waker: Waker,
    /// They are told when there is room again, and when the shard has ended.
    waiting: Arc<WaitingPublishers>,
}

/// Orders about connections that a shard was given.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// All of them.
    pub given: u64,
    /// Those that the shard has carried out. It does so in the order in which they were given.
    pub carried_out: u64,
}

struct State {
    queue: VecDeque<Mail>,
    /// How much of it is no event.
    others: usize,
    sleep: Sleep,
    /// The shard has ended: nothing reads the queue.
    ended: bool,
}

/// Whether a push must wake the shard. It says so until a wake is made: one that is only collected
/// ([`fanfare_io::collect_wakes`]) comes later than the next push may need it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    /// The shard is awake, or was woken.
    Awake,
    /// It sleeps, or is about to.
    UntilMail,
    /// It sleeps over events, which it holds up: only other mail is to wake it.
    UntilOtherMail,
}

impl Mailbox {
    pub(crate) fn new(shard: usize, waker: impl Into<Waker>, waiting: Arc<WaitingPublishers>) -> Mailbox {
        Mailbox {
            shard,
            state: Mutex::new(State { queue: VecDeque::new(), others: 0, sleep: Sleep::Awake, ended: false }),
            capacity: CachePadded::default(),
            #[cfg(feature = "sim")]
            reserved: Mutex::default(),
            #[cfg(feature = "sim")]
            orders: Mutex::default(),
            closed: AtomicBool::new(false),
            agenda: AtomicUsize::new(0),
            waker: waker.into(),
            waiting,
        }
    }

    /// Whether the calling thread could wake the shard.
    pub(crate) fn is_in_reach(&self) -> bool {
        self.waker.is_in_reach()
    }

    pub(crate) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).queue.is_empty()
    }

    /// Everything that waits, events or not. For tests.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Reserves room for events.
    pub(crate) fn reserve(&self, amount: Amount) {
        self.capacity.take(amount);
        #[cfg(feature = "sim")]
        lock(&self.reserved).add(amount);
    }

    /// Gives room back that was reserved, all that some events needed or a part of their bytes.
    pub(crate) fn cancel_reservation(&self, amount: Amount) {
        #[cfg(feature = "sim")]
        lock(&self.reserved).subtract(amount);
        if self.capacity.give_back(amount) {
            self.waiting.call(self.shard);
        }
    }

    /// Adds the events of one publish, for which exactly this room is reserved. True where the shard sleeps:
    /// then the caller is to [`wake`](Mailbox::wake) it. A shard that has ended gets nothing.
    #[must_use]
    pub(crate) fn push_events(&self, frames: Vec<Arc<Frame>>, reserved: Amount) -> bool {
        let size = || frames.iter().map(|frame| frame.size()).sum();
        debug_assert_eq!(reserved, Amount { events: frames.len(), bytes: size() }, "what is reserved");
        #[cfg(feature = "sim")]
        lock(&self.reserved).subtract(reserved);
        let mut state = lock(&self.state);
        if state.ended {
            return false;
        }
        state.queue.extend(frames.into_iter().map(Mail::Event));
        state.sleep == Sleep::UntilMail && self.begins_wake(&mut state)
    }

    /// Notes that the caller will wake the shard. Always true.
    fn begins_wake(&self, state: &mut State) -> bool {
        if !self.waker.is_collected() {
            state.sleep = Sleep::Awake;
        }
        true
    }

    /// Wakes the shard, asleep or not.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Adds something else, however much waits.
    pub(crate) fn push<E>(&self, mail: Mail, before_push: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        match self.push_within(usize::MAX, mail, before_push) {
            Err(Refused::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds something else where less than `limit` waits, events included. `before_push` runs under the
    /// mailbox's lock: what it sends on another channel arrives there in the order of the mail. Mail that is
    /// refused is dropped, so that a thread that waits for an answer learns that there will be none.
    pub(crate) fn push_within<E>(
        &self,
        limit: usize,
        mail: Mail,
        before_push: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Refused<E>> {
        let mut state = lock(&self.state);
        if state.ended {
            return Err(Refused::Ended);
        }
        if state.queue.len().saturating_add(self.agenda.load(Ordering::Relaxed)) >= limit {
            return Err(Refused::Full);
        }
        before_push().map_err(Refused::Failed)?;
        #[cfg(feature = "sim")]
        if matches!(mail, Mail::Order(_)) {
            lock(&self.orders).given += 1;
        }
        state.queue.push_back(mail);
        state.others += 1;
        let asleep = state.sleep != Sleep::Awake && self.begins_wake(&mut state);
        // The system call is made without the lock: the shard that it wakes wants it.
        drop(state);
        if asleep {
            self.wake();
        }
        Ok(())
    }

    /// The shard has so many decisions, sockets and orders in hand. They count among what waits.
    pub(crate) fn note_agenda(&self, length: usize) {
        self.agenda.store(length, Ordering::Relaxed);
    }

    /// Takes everything. `into` must be empty; its memory becomes the next queue's, unless it is from busier
    /// times.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) {
        debug_assert!(into.is_empty());
        let mut state = lock(&self.state);
        if into.capacity() > 4 * state.queue.len().max(MAIL_KEPT) {
            *into = VecDeque::new();
        }
        std::mem::swap(&mut state.queue, into);
        state.others = 0;
    }

    /// Takes what is no event, for a shard that holds events up. The order to drain stays behind the events
    /// that were published before it.
    pub(crate) fn take_others(&self, into: &mut VecDeque<Mail>) {
        let mut state = lock(&self.state);
        if state.others == 0 {
            return;
        }
        let stays = |mail: &Mail| matches!(mail, Mail::Event(_) | Mail::Drain(_));
        let (stay, others) = std::mem::take(&mut state.queue).into_iter().partition(stays);
        state.queue = stay;
        state.others = state.queue.iter().filter(|mail| !matches!(mail, Mail::Event(_))).count();
        *into = others;
    }

    /// The shard has acted on an event that it took: only now is there room for another.
    pub(crate) fn release_capacity(&self, frame: &Frame) {
        if self.capacity.give_back(Amount { events: 1, bytes: frame.size() }) {
            self.waiting.call(self.shard);
        }
    }

    /// Announces that the shard is about to sleep: from here on a push wakes it. False where mail waits: then
    /// it must not sleep.
    pub(crate) fn prepare_sleep(&self) -> bool {
        let mut state = lock(&self.state);
        state.sleep = if state.queue.is_empty() { Sleep::UntilMail } else { Sleep::Awake };
        state.sleep != Sleep::Awake
    }

    /// As [`Mailbox::prepare_sleep`], for a shard that holds events up: only other mail wakes it, or keeps it
    /// from sleeping.
    pub(crate) fn prepare_hold(&self) -> bool {
        let mut state = lock(&self.state);
        state.sleep = if state.others == 0 { Sleep::UntilOtherMail } else { Sleep::Awake };
        state.sleep != Sleep::Awake
    }

    /// The shard is awake: pushes need not wake it.
    pub(crate) fn awake(&self) {
        lock(&self.state).sleep = Sleep::Awake;
    }

    /// Takes no more sockets; what waits is still taken.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The shard has ended: nothing reads what waits, and nothing is published any more.
    pub(crate) fn close(&self) {
        self.refuse();
        let mut state = lock(&self.state);
        state.ended = true;
        let unread = std::mem::take(&mut state.queue);
        drop(state);
        drop(unread);
        self.waiting.close();
    }

    /// Whether the shard has ended or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Events for which room is reserved and that are not pushed yet.
    #[cfg(feature = "sim")]
    pub(crate) fn reserved_events(&self) -> usize {
        lock(&self.reserved).events
    }

    /// The shard has carried out an order about connections.
    #[cfg(feature = "sim")]
    pub(crate) fn order_carried_out(&self) {
        lock(&self.orders).carried_out += 1;
    }

    /// Orders about connections.
    #[cfg(feature = "sim")]
    pub(crate) fn orders(&self) -> Orders {
        *lock(&self.orders)
    }

    /// How much mail waits that is no event, here and in the shard's inbox.
    #[cfg(feature = "sim")]
    pub(crate) fn others_waiting(&self, inbox: &VecDeque<Mail>) -> usize {
        let state = lock(&self.state);
        state.queue.iter().chain(inbox).filter(|mail| !matches!(mail, Mail::Event(_))).count()
    }

    /// What is counted is what waits, here and in the shard's inbox.
    #[cfg(feature = "sim")]
    pub(crate) fn check(&self, inbox: &VecDeque<Mail>) {
        let state = lock(&self.state);
        let mut waits = Amount::default();
        for mail in state.queue.iter().chain(inbox) {
            if let Mail::Event(frame) = mail {
                waits.add(Amount { events: 1, bytes: frame.size() });
            }
        }
        waits.add(*lock(&self.reserved));
        assert_eq!(self.capacity.taken(), waits, "mail that waits, and its bytes");
    }
}
