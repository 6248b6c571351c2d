//! Life-cycle events of connections for the embedder, in a queue of bounded length.
//!
//! Shards add what happened in a tick under one lock, and never wait. The room of the queue is reserved at
//! the start, so that no shard waits while it grows. Events for which there is no room are counted, so that
//! the embedder's own counts stay right. Readers wait for a condition variable, which needs no descriptor. A
//! thread wakes a reader that is a task, because a shard may have a descriptor table in which the runtime's
//! descriptors name other files.

#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, io};

use fanfare_io::Clock;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::Topic;
use fanfare_proto::limits::LIFE_CYCLE_EVENTS_MAX;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::stream::CloseReason;
use futures_core::Stream;

use crate::connection::ConnectionId;
use crate::hub::readers::ReadError;
use crate::shard_thread;
use crate::sync::{Condvar, Mutex, lock, thread};

/// The beginning, a change, or the end of a connection: see [`crate::Builder::life_cycle`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LifeCycleEvent {
    /// A subscriber's connection has begun. It is followed by [`LifeCycleEvent::Subscribed`].
    Connected(Connected),
    /// A connection has these topics from now on: at its beginning, and after each
    /// [`crate::Hub::change_topics`].
    Subscribed(Subscribed),
    /// A connection has ended. It is the last event of this connection.
    Closed(Closed),
    /// The queue was full, so events are missing between the event before this one and the next one. This
    /// says how many.
    Missed(Missed),
}

/// A connection that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// Its name.
    pub connection: ConnectionId,
    /// The client: see [`crate::Request::peer`].
    pub peer: Option<SocketAddr>,
    /// What [`crate::Subscribe::with_subject`] said.
    pub subject: Option<Arc<str>>,
    /// What [`crate::Subscribe::with_data`] said.
    pub data: Option<u64>,
}

/// A connection's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscribed {
    /// The connection.
    pub connection: ConnectionId,
    /// All of its topics, each once.
    pub topics: Vec<Topic>,
    /// All of its patterns, each once.
    pub patterns: Vec<Pattern>,
    /// It resumed, and events are missing that it did not have.
    pub has_gap: bool,
}

/// A connection that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Its name.
    pub connection: ConnectionId,
    /// Why it has ended.
    pub reason: CloseReason,
    /// Every event of its topics up to this one was given to the kernel whole, or is not retained any more.
    /// The subscriber may not have got the last of them, and may have got a part of more.
    pub sent: Cursor,
    /// How long it lasted, to a tenth of a second.
    pub lasted: Duration,
    /// As in [`Connected::subject`].
    pub subject: Option<Arc<str>>,
    /// As in [`Connected::data`].
    pub data: Option<u64>,
}

/// How many events the queue had no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missed {
    /// Connections that have begun.
    pub connected: u64,
    /// Subscriptions: beginnings, and changes of topics.
    pub subscribed: u64,
    /// Connections that have ended.
    pub closed: u64,
}

/// The reader's end of the queue: [`crate::Engine::life_cycle`]. When it is dropped, shards make no more
/// events.
///
/// There are three ways to read, which may be mixed, as with a [`crate::Reader`]: [`LifeCycle::next_wait`]
/// blocks the thread, [`LifeCycle::next`] and the implementation of [`Stream`] are for tasks of any executor,
/// and [`LifeCycle::try_next`] does not wait. After the engine has ended, each of them gives the events that
/// are left, then `None`.
///
/// ```
/// # use std::time::Duration;
/// # use fanfare::{Engine, LifeCycleEvent, Topic};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut engine = Engine::builder().life_cycle(1000).start()?;
/// let mut life_cycle = engine.life_cycle().expect("the builder was told to");
/// let client = fanfare::testing::subscribe(&engine.hub(), [Topic::new("news")?])?;
/// engine.stop(Duration::ZERO)?;
/// while let Some(event) = life_cycle.next_wait(Duration::from_secs(1))? {
///     if let LifeCycleEvent::Closed(closed) = event {
///         println!("{} has ended: {:?}", closed.connection, closed.reason);
///     }
/// }
/// # Ok(()) }
/// ```
pub struct LifeCycle {
    queue: Arc<LifeCycleQueue>,
    clock: Clock,
}

/// The queue between shards and reader.
pub(crate) struct LifeCycleQueue {
    state: Mutex<State>,
    /// The state has changed: for a reader that is a thread.
    changed: Condvar,
    /// The state has changed while a task waits: for the thread that wakes it. Apart, so that a shard wakes
    /// no thread where no task waits.
    task_is_due: Condvar,
    capacity: usize,
}

struct State {
    events: VecDeque<LifeCycleEvent>,
    /// How many events there was no room for, behind the last of them.
    missed: Missed,
    /// Shards that may still add events.
    writers: usize,
    has_reader: bool,
    /// The task that waits for an event.
    task: Option<Waker>,
}

impl LifeCycleQueue {
    pub(crate) fn new(capacity: usize, writers: usize) -> Arc<LifeCycleQueue> {
        // One place is for the events that were missed, one for an event.
        let capacity = capacity.clamp(2, LIFE_CYCLE_EVENTS_MAX);
        let state = State {
            events: VecDeque::with_capacity(capacity),
            missed: Missed::default(),
            writers,
            has_reader: true,
            task: None,
        };
        Arc::new(LifeCycleQueue {
            state: Mutex::new(state),
            changed: Condvar::new(),
            task_is_due: Condvar::new(),
            capacity,
        })
    }

    /// Adds what has happened on a shard, in this order. False: there is no reader any more.
    pub(crate) fn add(&self, happened: &mut Vec<LifeCycleEvent>) -> bool {
        let mut state = lock(&self.state);
        if !state.has_reader {
            happened.clear();
            return false;
        }
        for event in happened.drain(..) {
            if state.missed != Missed::default() && state.events.len() + 1 < self.capacity {
                let missed = std::mem::take(&mut state.missed);
                state.events.push_back(LifeCycleEvent::Missed(missed));
            }
            if state.missed == Missed::default() && state.events.len() < self.capacity {
                state.events.push_back(event);
            } else {
                state.missed.count(&event);
            }
        }
        let has_task = state.task.is_some();
        drop(state);
        self.changed.notify_all();
        if has_task {
            self.task_is_due.notify_one();
        }
        true
    }

    /// A shard has ended.
    pub(crate) fn end_writer(&self) {
        lock(&self.state).writers -= 1;
        self.changed.notify_all();
        self.task_is_due.notify_one();
    }

    /// Wakes tasks, on a thread of its own, until the reader has left or all shards have ended.
    fn wake_tasks(&self) {
        let mut state = lock(&self.state);
        while state.has_reader {
            let is_due = state.has_next() || state.writers == 0;
            match state.task.take_if(|_| is_due) {
                Some(task) => {
                    drop(state);
                    // A panic is the executor's.
                    let _ = catch_unwind(AssertUnwindSafe(|| task.wake()));
                    state = lock(&self.state);
                }
                // No task waits any more.
                None if state.writers == 0 => return,
                None => {
                    state = self.task_is_due.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl State {
    fn has_next(&self) -> bool {
        !self.events.is_empty() || self.missed != Missed::default()
    }

    fn next(&mut self) -> Option<LifeCycleEvent> {
        self.events.pop_front().or_else(|| {
            let missed = std::mem::take(&mut self.missed);
            (missed != Missed::default()).then_some(LifeCycleEvent::Missed(missed))
        })
    }
}

impl Missed {
    fn count(&mut self, event: &LifeCycleEvent) {
        match event {
            LifeCycleEvent::Connected(_) => self.connected += 1,
            LifeCycleEvent::Subscribed(_) => self.subscribed += 1,
            LifeCycleEvent::Closed(_) => self.closed += 1,
            LifeCycleEvent::Missed(_) => unreachable!("shards report what happened, and not what was missed"),
        }
    }
}

impl LifeCycle {
    /// A reader, and the thread that wakes it where it is a task.
    pub(crate) fn start(queue: Arc<LifeCycleQueue>) -> io::Result<LifeCycle> {
        let wakes = Arc::clone(&queue);
        thread::Builder::new().name("fanfare-life-cycle".to_owned()).spawn(move || wakes.wake_tasks())?;
        Ok(LifeCycle::without_tasks(queue))
    }

    /// A reader that may not be a task: nothing wakes it.
    pub(crate) fn without_tasks(queue: Arc<LifeCycleQueue>) -> LifeCycle {
        LifeCycle { queue, clock: Clock::start() }
    }

    /// The next event, if there is one now. `None`: the engine has ended, and all events were read.
    ///
    /// # Errors
    /// [`ReadError::NothingYet`].
    pub fn try_next(&mut self) -> Result<Option<LifeCycleEvent>, ReadError> {
        let mut state = lock(&self.queue.state);
        match state.next() {
            None if state.writers > 0 => Err(ReadError::NothingYet),
            event => Ok(event),
        }
    }

    /// The next event; blocks until there is one, at most for `patience`. `None`: the engine has ended, and
    /// all events were read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_wait(&mut self, patience: Duration) -> Result<Option<LifeCycleEvent>, ReadError> {
        if shard_thread::is_current() {
            return self.try_next().map_err(|_| ReadError::WouldBlock);
        }
        let until = self.clock.now().saturating_add(patience);
        let mut state = lock(&self.queue.state);
        while !state.has_next() && state.writers > 0 {
            let left = until.saturating_sub(self.clock.now());
            if left.is_zero() {
                break;
            }
            state = self.queue.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.try_next()
    }

    /// The next event, for a task of any executor. `None`: the engine has ended, and all events were read. A
    /// future that is dropped takes no event.
    ///
    /// On a shard's thread, where an [`crate::Admission`] runs, it is pending where there is no event yet, as
    /// everywhere. An executor that blocks the thread then blocks the shard.
    pub async fn next(&mut self) -> Option<LifeCycleEvent> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<LifeCycleEvent>> {
        let mut state = lock(&self.queue.state);
        if let Some(event) = state.next() {
            return Poll::Ready(Some(event));
        }
        if state.writers == 0 {
            return Poll::Ready(None);
        }
        // The one before is dropped without the lock: it may run any code.
        let _before = state.task.replace(context.waker().clone());
        drop(state);
        Poll::Pending
    }
}

impl Stream for LifeCycle {
    type Item = LifeCycleEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LifeCycleEvent>> {
        self.get_mut().poll(context)
    }
}

impl Drop for LifeCycle {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        state.has_reader = false;
        let unread = (std::mem::take(&mut state.events), state.task.take());
        drop(state);
        self.queue.task_is_due.notify_one();
        drop(unread);
    }
}

impl fmt::Debug for LifeCycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LifeCycle").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use fanfare_proto::link::LinkKey;

    use super::*;

    fn connected(slot: u32) -> LifeCycleEvent {
        let connection = ConnectionId::new(0, 0, LinkKey { slot, generation: 0 });
        LifeCycleEvent::Connected(Connected { connection, peer: None, subject: None, data: None })
    }

    /// The queue grew in one step under the lock that every shard takes: with 500,000 events in it, a shard
    /// copied them all between two deliveries.
    #[test]
    fn the_queue_never_grows_under_its_lock() {
        const CAPACITY: usize = 10_000;
        let queue = LifeCycleQueue::new(CAPACITY, 1);
        let mut reader = LifeCycle::without_tasks(Arc::clone(&queue));
        let room = || lock(&queue.state).events.capacity();
        let at_first = room();
        for round in 0..3 {
            for slot in 0..CAPACITY as u32 + 5 {
                assert!(queue.add(&mut vec![connected(slot)]));
            }
            assert_eq!(room(), at_first, "round {round}");
            let mut count = 0;
            while let Ok(Some(event)) = reader.try_next() {
                count += match event {
                    LifeCycleEvent::Missed(missed) => missed.connected,
                    _ => 1,
                };
            }
            assert_eq!((count, room()), (CAPACITY as u64 + 5, at_first), "round {round}");
        }
        queue.end_writer();
        assert_eq!(reader.next_wait(Duration::MAX), Ok(None));
        // A number that no memory has room for.
        drop(LifeCycleQueue::new(usize::MAX, 1));
    }
}
