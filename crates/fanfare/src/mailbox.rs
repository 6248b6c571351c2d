//! A shard's mailbox: bounded, and at most one wake per push however much waits.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fanfare_proto::frame::{Frame, WireFormat};

use crate::admission::Subscribe;
use crate::inspect::Inspection;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Waker};

#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;
#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests;

/// Mail whose place is kept although it is not needed now.
const MAIL_KEPT: usize = 64;

/// What others tell a shard.
pub(crate) enum Mail {
    Event(Arc<Frame>),
    /// The socket comes on the shard's socket channel, in the same order.
    Adopt(Box<Adoption>),
    /// Asks for the counts of topics.
    Inspect(Box<Inspection>),
    /// End every stream within this time, then stop.
    Drain(Duration),
}

pub(crate) struct Adoption {
    pub(crate) subscribe: Subscribe,
    pub(crate) format: WireFormat,
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
    state: Mutex<State>,
    /// Events, and their bytes, that the shard has not acted on. Only the hub adds, under its order lock, so what it
    /// reads there may since have become less, never more. Relaxed: the shard subtracts what it took under our lock,
    /// after it was added.
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// No more publishes or sockets are taken. Relaxed: the hub's order lock tells publishers of a drain in time, and
    /// who comes too early for the end of a shard finds `ended`.
    closed: AtomicBool,
    waker: Waker,
}

struct State {
    queue: VecDeque<Mail>,
    /// The shard sleeps, or is about to, and nothing has woken it: a push must.
    asleep: bool,
    /// The shard has ended: nobody reads.
    ended: bool,
}

impl Mailbox {
    pub(crate) fn new(waker: impl Into<Waker>) -> Mailbox {
        Mailbox {
            state: Mutex::new(State { queue: VecDeque::new(), asleep: false, ended: false }),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            waker: waker.into(),
        }
    }

    /// Whether the calling thread could wake the shard.
    pub(crate) fn is_in_reach(&self) -> bool {
        self.waker.is_in_reach()
    }

    /// Events that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Everything that waits, events or not. For tests.
    #[allow(dead_code)]
    pub(crate) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Adds the events of one publish, and wakes the shard if it sleeps. Nobody gets them where it has ended.
    pub(crate) fn push_events<'frames>(&self, frames: impl Iterator<Item = &'frames Arc<Frame>>) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let (before, mut bytes) = (state.queue.len(), 0);
        state.queue.extend(frames.map(|frame| {
            bytes += frame.size();
            Mail::Event(Arc::clone(frame))
        }));
        self.events.fetch_add(state.queue.len() - before, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.wake_if_asleep(state);
    }

    /// Adds something else, whatever waits.
    pub(crate) fn push<E>(&self, mail: Mail, before_push: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        match self.push_within(usize::MAX, mail, before_push) {
            Err(Refused::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds something else where less than `limit` waits, events included. `before_push` runs under the mailbox's
    /// lock: what it sends on another channel arrives there in the order of the mail. Mail that is refused is
    /// dropped: whoever waits for an answer learns that there will be none.
    pub(crate) fn push_within<E>(
        &self,
        limit: usize,
        mail: Mail,
        before_push: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Refused<E>> {
        let mut state = self.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        if state.queue.len() >= limit {
            return Err(Refused::Full);
        }
        before_push().map_err(Refused::Failed)?;
        state.queue.push_back(mail);
        self.wake_if_asleep(state);
        Ok(())
    }

    /// After a push. The system call is made without the lock: the shard that it wakes wants it.
    fn wake_if_asleep(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.waker.wake();
        }
    }

    /// Takes everything. `into` must be empty; its memory becomes the next queue's, unless it is from busier times.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) {
        debug_assert!(into.is_empty());
        let mut state = self.lock();
        if into.capacity() > 4 * state.queue.len().max(MAIL_KEPT) {
            *into = VecDeque::new();
        }
        std::mem::swap(&mut state.queue, into);
    }

    /// An event that was taken has been acted on: only now is there room for another.
    pub(crate) fn done_with(&self, frame: &Frame) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(frame.size(), Ordering::Relaxed);
    }

    /// Announces that the shard is about to sleep: from here on a push wakes it. False where mail waits: then it must
    /// not sleep.
    pub(crate) fn prepare_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.queue.is_empty();
        state.asleep
    }

    /// The shard is awake: pushes need not wake it.
    pub(crate) fn awake(&self) {
        self.lock().asleep = false;
    }

    /// Takes no more publishes or sockets; what waits is still taken.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The shard has ended: what waits goes to nobody.
    pub(crate) fn close(&self) {
        self.refuse();
        let mut state = self.lock();
        state.ended = true;
        state.queue.clear();
    }

    /// Whether the shard has ended or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What is counted is what waits, here and in the shard's inbox.
    #[cfg(feature = "sim")]
    pub(crate) fn check(&self, inbox: &VecDeque<Mail>) {
        let state = self.lock();
        let size = |mail: &Mail| if let Mail::Event(frame) = mail { Some(frame.size()) } else { None };
        let sizes: Vec<usize> = state.queue.iter().chain(inbox).filter_map(size).collect();
        assert_eq!(self.waiting(), (sizes.len(), sizes.iter().sum()), "mail that waits, and its bytes");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panics under this lock does so before it changes anything or after: a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
