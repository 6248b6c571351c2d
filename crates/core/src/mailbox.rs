//! A shard's mailbox: bounded, and at most one wake per push however much waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_io::Waker;
use fanfare_proto::event::Topic;
use fanfare_proto::frame::{Frame, WireFormat};

use crate::admission::Subscribe;
use crate::counts::TopicCounts;

/// What others tell a shard.
pub(crate) enum Mail {
    Event(Arc<Frame>),
    /// The socket comes on the shard's socket channel, in the same order.
    Adopt(Box<Adoption>),
    /// Asks for the counts of one topic, or of all.
    Inspect(Option<Topic>, SyncSender<Vec<TopicCounts>>),
    /// End every stream within this time, then stop.
    Drain(Duration),
}

pub(crate) struct Adoption {
    pub(crate) subscribe: Subscribe,
    pub(crate) format: WireFormat,
}

pub(crate) struct Mailbox {
    queue: Mutex<VecDeque<Mail>>,
    /// Events, and their bytes, that the shard has not acted on. Only the hub adds, under its order lock.
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// The shard sleeps, or is about to: a push must wake it.
    asleep: AtomicBool,
    /// No more publishes or sockets are taken.
    closed: AtomicBool,
    /// The shard has ended: nobody reads.
    ended: AtomicBool,
    waker: Waker,
}

impl Mailbox {
    pub(crate) fn new(waker: Waker) -> Mailbox {
        Mailbox {
            queue: Mutex::new(VecDeque::new()),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            waker,
        }
    }

    /// Events that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Everything that waits, events or not.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Adds the events of one publish, and wakes the shard if it sleeps.
    pub(crate) fn push_events<'frames>(&self, frames: impl Iterator<Item = &'frames Arc<Frame>>) {
        let mut queue = self.lock();
        let (before, mut bytes) = (queue.len(), 0);
        queue.extend(frames.map(|frame| {
            bytes += frame.size();
            Mail::Event(Arc::clone(frame))
        }));
        self.events.fetch_add(queue.len() - before, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(queue);
        self.wake_if_asleep();
    }

    /// Adds something else. `before_push` runs under the mailbox's lock: what it sends on another
    /// channel arrives there in the order of the mail.
    pub(crate) fn push<E>(&self, mail: Mail, before_push: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut queue = self.lock();
        if self.ended.load(Ordering::Relaxed) {
            // Dropped: whoever waits for an answer learns that there will be none.
            return Ok(());
        }
        before_push()?;
        queue.push_back(mail);
        drop(queue);
        self.wake_if_asleep();
        Ok(())
    }

    fn wake_if_asleep(&self) {
        // Pairs with `prepare_sleep`: either the shard sees the mail, or we see it asleep.
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Takes everything. `into` must be empty; its memory becomes the next queue's.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) {
        debug_assert!(into.is_empty());
        let mut queue = self.lock();
        std::mem::swap(&mut *queue, into);
    }

    /// An event that was taken has been acted on: only now is there room for another.
    pub(crate) fn done_with(&self, frame: &Frame) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(frame.size(), Ordering::Relaxed);
    }

    /// Announces that the shard is about to sleep. False where mail waits: then it must not.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let empty = self.lock().is_empty();
        if !empty {
            self.asleep.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// The shard is awake: pushes need not wake it.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Takes no more publishes or sockets; what waits is still taken.
    pub(crate) fn refuse(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The shard has ended: what waits goes to nobody.
    pub(crate) fn close(&self) {
        self.refuse();
        let mut queue = self.lock();
        self.ended.store(true, Ordering::Relaxed);
        queue.clear();
    }

    /// Whether the shard has ended or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        // No code that can panic runs under this lock, so a poisoned queue is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
