//! Readers in the same process. The log is their buffer.
//!
//! ```text
//!   the log, topic of the reader     [41]  [42]  [43]  [44]        [46]     newest = 46
//!   the reader's cursor              ============|
//!   its portion                                   [43]  [44]                at most 256 frames
//! ```
//!
//! A [`Reader`] has a cursor, as every subscriber has, and no queue. It reads from the log in portions, each
//! under one short hold of the log's lock. So it takes a bounded amount of memory, and a slow one never holds
//! up a publisher: where the log has dropped what it needs, it gets a gap and goes on.
//!
//! A publisher calls readers that sleep, once for each sleep ([`registry`]). A thread waits for a condition
//! variable. A task is woken by the hub's own thread ([`super::tasks`]), because the publisher may be a
//! shard, which must not run a waker. Of many threads, most are woken by that thread, too, so that the
//! publisher goes on.

mod items;
#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;
mod registry;
#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use fanfare_io::Clock;
use fanfare_proto::audience::Subscription;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::Topic;
use fanfare_proto::event_log::{Read, ReadBounds};
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::limits::{LOCAL_READ_BYTES, LOCAL_READ_FRAMES, SCAN_STEPS};
use fanfare_proto::link::Encoding;
use fanfare_proto::log::Start;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::selection::Selection;
use futures_core::Stream;

use super::line::{Task, WaitBy, WaitingPublishers};
use super::tasks::Tasks;
use super::{Hub, Inner};
use crate::admission::{Selectors, WrongTopics};
use crate::shard_thread;
use crate::shared_log::{LockedLog, ProcessLog};
pub use items::{Gap, LogPage, ReadItem, ReceivedEvent};
pub(crate) use registry::{Called, LocalReaders, ReaderKey};
use registry::{NoPlace, Place};

/// A reader to be: see [`Hub::subscribe`].
#[derive(Clone, Debug)]
#[must_use = "it reads nothing before `stream` or `page` is called"]
pub struct ReaderBuilder<'hub> {
    hub: &'hub Hub,
    topics: Vec<Topic>,
    resume: Option<String>,
    selectors: Selectors,
}

/// A reader in the same process: it gets every event of its topics once, in the order that all subscribers
/// see.
///
/// Made by [`ReaderBuilder::stream`]. There are three ways to read, which may be mixed: [`Reader::next_wait`]
/// blocks the thread, [`Reader::next`] and the implementation of [`Stream`] are for tasks of any executor,
/// and [`Reader::try_next`] does not wait.
///
/// A reader has no queue: it reads from the log, and holds at most 256 events or 256 KiB of them (one larger
/// event is taken alone). It never holds up a publisher. One that is too slow for the retention of its topics
/// ([`crate::Limits::log`]) gets a [`ReadItem::Gap`] and goes on behind it. The topics have to have some
/// retention: of a topic that keeps no events a reader gets gaps alone.
///
/// When the engine drains or stops, it gives everything that was published before, then `None`.
///
/// ```
/// # use std::time::Duration;
/// # use fanfare::{Engine, Event, ReadItem, Topic};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().start()?;
/// let (hub, topic) = (engine.hub(), Topic::new("news")?);
/// let mut reader = hub.subscribe([topic.clone()]).stream()?;
/// hub.publish(Event::new(topic).with_data("hello"))?;
/// engine.stop(Duration::ZERO).expect("no shard panics");
/// while let Some(item) = reader.next_wait(Duration::from_secs(1))? {
///     match item {
///         ReadItem::Event(event) => assert_eq!(event.data().as_deref(), Some("hello")),
///         ReadItem::Gap(gap) => println!("events after {} may be missing", gap.after()),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Reader {
    log: Arc<ProcessLog>,
    waiting: Arc<WaitingPublishers>,
    tasks: Arc<Tasks>,
    clock: Clock,
    place: Place,
    /// What it reads.
    subscription: Subscription,
    /// Everything up to this number was given or is in the portion.
    after: u64,
    /// The reader knows that events up to this number are gone.
    incomplete_until: u64,
    /// The number of the last event given, or where the reader started.
    given: u64,
    /// Told before the next event.
    gap: Option<Gap>,
    /// The next events, in reverse order.
    portion: Vec<Arc<Frame>>,
    has_ended: bool,
}

/// Why there is no reader, or no page.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReaderError {
    /// No topic and no pattern was named.
    NoTopics,
    /// More different topics and patterns than [`crate::Limits::topics_per_subscription`].
    TooManyTopics {
        /// The bound.
        limit: usize,
    },
    /// There are [`crate::Limits::patterns`] different patterns already, or this one would make it too much
    /// work to find the patterns of a topic.
    TooManyPatterns {
        /// The bound.
        limit: usize,
    },
    /// There are [`crate::Limits::local_readers`] readers already. One that is dropped makes room.
    TooManyReaders {
        /// The bound.
        limit: usize,
    },
    /// The calling thread is a shard, where an [`crate::Admission`] runs. Make the reader on a thread of your
    /// own.
    WouldBlock,
    /// The thread that wakes tasks could not be started.
    Thread(io::Error),
    /// A thread has panicked while it changed the log: the engine has ended.
    Stopped,
}

/// Why a [`Reader`] or a [`crate::LifeCycle`] gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no event yet, or none came in time.
    NothingYet,
    /// There is no event yet, and the calling thread is a shard, where an [`crate::Admission`] runs: it may
    /// not wait. `try_next` does not wait.
    WouldBlock,
}

/// What one hold of the log's lock gives.
const PORTION: ReadBounds =
    ReadBounds { frames: LOCAL_READ_FRAMES, bytes: LOCAL_READ_BYTES, steps: SCAN_STEPS };

/// The result of one look into the log.
enum Look {
    /// There are events in the portion, or a gap, or the log was not read to its end.
    Found,
    Nothing,
    /// Nothing, and nothing comes any more.
    End,
}

impl Hub {
    /// A reader in the same process of the events of these topics. It begins with what is published from now
    /// on, unless it resumes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use fanfare::{Engine, Event, ReadItem, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let orders = Topic::new("orders")?;
    /// hub.publish(Event::new(orders.clone()).with_data("42"))?;
    /// let mut reader = hub.subscribe([orders]).with_resume("earliest").stream()?;
    /// assert!(matches!(reader.next_wait(Duration::from_secs(1))?, Some(ReadItem::Event(_))));
    /// # Ok(()) }
    /// ```
    pub fn subscribe(&self, topics: impl IntoIterator<Item = Topic>) -> ReaderBuilder<'_> {
        let mut different: Vec<Topic> = Vec::new();
        for topic in topics {
            // One more than allowed is enough to know that there are too many.
            if different.len() > self.limits().topics_per_subscription {
                break;
            }
            if !different.contains(&topic) {
                different.push(topic);
            }
        }
        ReaderBuilder { hub: self, topics: different, resume: None, selectors: Selectors::default() }
    }

    /// Reads retained events of a topic: at most `limit` of those that follow the event with the id `after`.
    /// The id `earliest` asks for all. Private events are left out; for those, and for several topics, there
    /// is [`ReaderBuilder::page`].
    ///
    /// # Errors
    /// [`ReaderError::Stopped`].
    ///
    /// ```
    /// # use fanfare::{Engine, Event, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let topic = Topic::new("orders")?;
    /// hub.publish_batch(&mut vec![Event::new(topic.clone()).with_data("x"); 3])?;
    /// let page = hub.read(&topic, "earliest", 2)?;
    /// assert_eq!((page.events().len(), page.is_last()), (2, false));
    /// let rest = hub.read(&topic, &page.next().to_string(), 100)?;
    /// assert_eq!((rest.events().len(), rest.is_last()), (1, true));
    /// # Ok(()) }
    /// ```
    pub fn read(&self, topic: &Topic, after: &str, limit: usize) -> Result<LogPage, ReaderError> {
        self.subscribe([topic.clone()]).with_resume(after).page(limit)
    }
}

impl ReaderBuilder<'_> {
    /// Begins after the event with this id: one that an event or a gap gave, or `earliest` for everything
    /// retained. An id that the log does not know is a gap, and the reader gets everything retained.
    pub fn with_resume(mut self, id: impl Into<String>) -> Self {
        self.resume = Some(id.into());
        self
    }

    /// Whether private events of all topics are read, too. The default is no.
    pub fn with_private_events(mut self, sees: bool) -> Self {
        self.selectors.see_private(sees);
        self
    }

    /// Private events of these topics are read, and only public ones of the others.
    pub fn with_private_topics(mut self, topics: impl IntoIterator<Item = Topic>) -> Self {
        self.selectors.see_private_topics(topics);
        self
    }

    /// Events of all topics that match one of these patterns are read, too. An event that matches several
    /// selectors is given once.
    ///
    /// ```
    /// # use fanfare::{Engine, Event, Pattern, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let mut reader = hub.subscribe([]).with_patterns([Pattern::parse("orders/*")?]).stream()?;
    /// hub.publish(Event::new(Topic::new("orders/7")?))?;
    /// assert!(reader.try_next()?.is_some());
    /// # Ok(()) }
    /// ```
    pub fn with_patterns(mut self, patterns: impl IntoIterator<Item = Pattern>) -> Self {
        self.selectors.add(patterns, &mut self.topics);
        self
    }

    /// Private events are read through these patterns, and only public ones through the others.
    pub fn with_private_patterns(mut self, patterns: impl IntoIterator<Item = Pattern>) -> Self {
        self.selectors.see_private_patterns(patterns);
        self
    }

    /// The reader. Everything that is published after this call reaches it. It is also what a thread reads
    /// from: see [`Reader`].
    ///
    /// The first call starts the thread `fanfare-waker`, which wakes tasks.
    ///
    /// # Errors
    /// [`ReaderError`].
    pub fn stream(self) -> Result<Reader, ReaderError> {
        if shard_thread::is_current() {
            // A thread that it started would share the shard's descriptor table.
            return Err(ReaderError::WouldBlock);
        }
        self.hub.inner.tasks.start().map_err(ReaderError::Thread)?;
        self.open()
    }

    /// The reader, without a thread to wake it where it is a task.
    pub(crate) fn open(self) -> Result<Reader, ReaderError> {
        let subscription = self.subscription()?;
        let Inner { common, tasks, clock, limits, .. } = &*self.hub.inner;
        let mut log = common.log.lock_unless_broken().ok_or(ReaderError::Stopped)?;
        let (start, gap) = self.start(subscription.selection(), &log);
        let (readers, patterns) = (limits.local_readers, limits.patterns);
        let added = common.waiting.readers().add(&mut log, subscription.selection(), readers);
        let place = added.map_err(|refused| match refused {
            NoPlace::Readers => ReaderError::TooManyReaders { limit: readers },
            NoPlace::Patterns => ReaderError::TooManyPatterns { limit: patterns },
        })?;
        drop(log);
        Ok(Reader {
            log: Arc::clone(&common.log),
            waiting: Arc::clone(&common.waiting),
            tasks: Arc::clone(tasks),
            clock: *clock,
            place,
            subscription,
            after: start.from(),
            incomplete_until: start.cursor(),
            given: start.from(),
            gap,
            portion: Vec::new(),
            has_ended: false,
        })
    }

    /// Reads retained events without a reader: at most `limit`, and at least one if there is one. Without
    /// [`ReaderBuilder::with_resume`] there are none, and the page says from where on to read. The events
    /// share their bytes with the log.
    ///
    /// # Errors
    /// [`ReaderError`]. It does not wait, also on a shard's thread.
    ///
    /// ```
    /// # use fanfare::{Engine, Event, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let topics = [Topic::new("orders")?, Topic::new("refunds")?];
    /// hub.publish(Event::new(topics[1].clone()).with_data("7").with_private(true))?;
    /// let page = hub.subscribe(topics).with_private_events(true).with_resume("earliest").page(100)?;
    /// assert_eq!(page.events()[0].data().as_deref(), Some("7"));
    /// # Ok(()) }
    /// ```
    pub fn page(self, limit: usize) -> Result<LogPage, ReaderError> {
        let subscription = self.subscription()?;
        let process = &self.hub.inner.common.log;
        let epoch = process.epoch();
        let mut log = process.lock_unless_broken().ok_or(ReaderError::Stopped)?;
        let (start, gap) = self.start(subscription.selection(), &log);
        let (mut after, mut is_last, mut frames) = (start.from(), false, Vec::new());
        while frames.len() < limit.max(1) && !is_last {
            let wanted = subscription.wanted_after(after, start.cursor());
            let most = LOCAL_READ_FRAMES.min(limit.max(1) - frames.len());
            let bounds = ReadBounds { frames: most, ..PORTION };
            // What the log has dropped since is a gap of the next page.
            let Ok(Read { up_to, .. }) = log.read_after(&wanted, bounds, &mut frames) else { break };
            (after, is_last) = (up_to, up_to >= log.newest());
            // Publishers and shards take the lock between the portions.
            drop(log);
            log = process.lock_unless_broken().ok_or(ReaderError::Stopped)?;
        }
        drop(log);
        let events = frames.into_iter().map(|frame| ReceivedEvent::new(frame, epoch)).collect();
        Ok(LogPage { events, gap, next: Cursor { epoch, seq: after }, is_last })
    }

    fn subscription(&self) -> Result<Subscription, ReaderError> {
        let limit = self.hub.limits().topics_per_subscription;
        let count = self.topics.len() + self.selectors.patterns().len();
        WrongTopics::check_count(count, limit).map_err(|wrong| match wrong {
            WrongTopics::None => ReaderError::NoTopics,
            WrongTopics::TooMany { limit } => ReaderError::TooManyTopics { limit },
        })?;
        // The encoding means nothing here: a reader is given frames.
        Ok(self.selectors.subscription(&self.topics, Encoding::from(WireFormat::Plain)))
    }

    /// Where it begins, and whether it begins with a gap. A number that is newer than everything here
    /// is a gap at once: no other part of this process has had it.
    fn start(&self, selection: Selection<'_>, log: &LockedLog<'_>) -> (Start, Option<Gap>) {
        let Some(id) = &self.resume else {
            let newest = log.newest();
            return (Start::At { cursor: newest, from: newest }, None);
        };
        let start = log.resume(id, selection);
        let until = Cursor { epoch: self.hub.inner.common.log.epoch(), seq: start.cursor() };
        let gap = start.is_gap().then(|| Gap { after: id.clone(), until });
        (start, gap)
    }
}

impl Reader {
    /// The next item; blocks until there is one, at most for `patience`. `None`: the engine drains or has
    /// stopped, and everything was given.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_wait(&mut self, patience: Duration) -> Result<Option<ReadItem>, ReadError> {
        if let Poll::Ready(item) = self.advance(None) {
            return Ok(item);
        }
        if shard_thread::is_current() {
            return Err(ReadError::WouldBlock);
        }
        let deadline = self.clock.now().saturating_add(patience);
        loop {
            if let Poll::Ready(item) = self.advance(Some(WaitBy::Thread)) {
                return Ok(item);
            }
            let is_over = || self.waiting.is_closed();
            let time_left = || deadline.saturating_sub(self.clock.now());
            if !self.waiting.readers().wait(self.place, is_over, time_left) {
                return Err(ReadError::NothingYet);
            }
        }
    }

    /// The next item, for any executor. `None`: the engine drains or has stopped, and everything was given. A
    /// future that is dropped takes nothing.
    ///
    /// On a shard's thread, where an [`crate::Admission`] runs, it is pending where there is no event yet, as
    /// everywhere. An executor that blocks the thread then blocks the shard.
    ///
    /// ```
    /// # use fanfare::{Engine, Event, ReadItem, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// # let topic = Topic::new("news")?;
    /// let mut reader = hub.subscribe([topic.clone()]).stream()?;
    /// # hub.publish(Event::new(topic).with_data("hello"))?;
    /// if let Some(ReadItem::Event(event)) = reader.next().await {
    ///     println!("{}: {:?}", event.wire_id(), event.data());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Option<ReadItem> {
        poll_fn(|context| self.poll(context)).await
    }

    /// The next item, if there is one now. `None`: the engine drains or has stopped, and everything was
    /// given.
    ///
    /// # Errors
    /// [`ReadError::NothingYet`].
    ///
    /// ```
    /// # use fanfare::{Engine, Event, ReadError, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let topic = Topic::new("news")?;
    /// let mut reader = hub.subscribe([topic.clone()]).stream()?;
    /// assert_eq!(reader.try_next().err(), Some(ReadError::NothingYet));
    /// hub.publish(Event::new(topic))?;
    /// assert!(reader.try_next()?.is_some());
    /// # Ok(()) }
    /// ```
    pub fn try_next(&mut self) -> Result<Option<ReadItem>, ReadError> {
        match self.advance(None) {
            Poll::Ready(item) => Ok(item),
            Poll::Pending => Err(ReadError::NothingYet),
        }
    }

    /// Its topics, each once, in no order that means something.
    pub fn topics(&self) -> &[Topic] {
        self.subscription.topics()
    }

    /// Its patterns, each once. The variables of templates have other names here.
    pub fn patterns(&self) -> &[Pattern] {
        self.subscription.patterns()
    }

    /// The position up to which it has given everything that it can give. Its text is an id to resume after.
    ///
    /// ```
    /// # use fanfare::{Engine, Event, Topic};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::builder().start()?;
    /// # let hub = engine.hub();
    /// let topics = [Topic::new("news")?];
    /// let reader = hub.subscribe(topics.clone()).stream()?;
    /// let position = reader.position().to_string();
    /// drop(reader);
    /// hub.publish(Event::new(topics[0].clone()))?;
    /// let mut reader = hub.subscribe(topics).with_resume(position).stream()?;
    /// assert!(reader.try_next()?.is_some());
    /// # Ok(()) }
    /// ```
    pub fn position(&self) -> Cursor {
        let seq = if self.portion.is_empty() { self.after } else { self.given };
        Cursor { epoch: self.log.epoch(), seq }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<ReadItem>> {
        let item = self.advance(None);
        if item.is_ready() {
            return item;
        }
        let task = Task::Reader(self.place.key);
        // The waker is there before the reader sleeps, so that it is found by the first call.
        self.tasks.register(task, context.waker());
        let item = self.advance(Some(WaitBy::Task));
        if item.is_ready() {
            self.tasks.remove(task);
        }
        item
    }

    /// The next item. Pending: there is none, and the reader sleeps from now on where `sleep` says how.
    fn advance(&mut self, sleep: Option<WaitBy>) -> Poll<Option<ReadItem>> {
        loop {
            if let Some(gap) = self.gap.take() {
                return Poll::Ready(Some(ReadItem::Gap(gap)));
            }
            if let Some(frame) = self.portion.pop() {
                self.given = frame.seq();
                return Poll::Ready(Some(ReadItem::Event(ReceivedEvent::new(frame, self.log.epoch()))));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            match self.look(sleep) {
                Look::Found => {}
                Look::Nothing => return Poll::Pending,
                Look::End => self.has_ended = true,
            }
        }
    }

    /// Reads the next portion.
    fn look(&mut self, sleep: Option<WaitBy>) -> Look {
        // No event comes after the line was closed, so this is asked before anything is read.
        let is_over = self.waiting.is_closed();
        if sleep.is_none() && !is_over && self.log.newest().load(Ordering::Relaxed) <= self.after {
            return Look::Nothing;
        }
        let Some(log) = self.log.lock_unless_broken() else { return Look::End };
        let wanted = self.subscription.wanted_after(self.after, self.incomplete_until);
        match log.read_after(&wanted, PORTION, &mut self.portion) {
            Err(available) => {
                let position = |seq| Cursor { epoch: self.log.epoch(), seq };
                self.gap = Some(Gap { after: position(self.after).to_string(), until: position(available) });
                self.incomplete_until = available;
                Look::Found
            }
            Ok(Read { up_to, .. }) => {
                self.after = up_to;
                if !self.portion.is_empty() {
                    drop(log);
                    self.portion.reverse();
                    return Look::Found;
                }
                if up_to < log.newest() {
                    // More may follow for a pattern. Publishers and shards take the lock first.
                    return Look::Found;
                }
                if is_over {
                    return Look::End;
                }
                if let Some(by) = sleep {
                    self.waiting.readers().begin_sleep(self.place, by);
                }
                Look::Nothing
            }
        }
    }

    /// How often it was called.
    #[cfg(test)]
    fn calls(&self) -> usize {
        self.waiting.readers().calls(self.place)
    }
}

impl Stream for Reader {
    type Item = ReadItem;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ReadItem>> {
        self.get_mut().poll(context)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tasks.remove(Task::Reader(self.place.key));
        let mut log = self.log.lock_unless_broken();
        self.waiting.readers().remove(self.place, self.subscription.selection(), log.as_mut());
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("topics", &self.topics())
            .field("patterns", &self.patterns())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ReaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReaderError::NoTopics => f.write_str("a reader needs a topic or a pattern; name at least one"),
            ReaderError::TooManyTopics { limit } => {
                write!(f, "a reader has at most {limit} topics and patterns; use several readers")
            }
            ReaderError::TooManyPatterns { limit } => {
                write!(f, "the log has no room for another pattern (at most {limit}); use fewer patterns")
            }
            ReaderError::TooManyReaders { limit } => {
                write!(f, "there are {limit} readers already; drop one, or raise Limits::local_readers")
            }
            ReaderError::WouldBlock => {
                f.write_str("a reader cannot be made on a shard's thread; make it on another thread")
            }
            ReaderError::Thread(cause) => write!(f, "cannot start the thread that wakes tasks: {cause}"),
            ReaderError::Stopped => f.write_str("the engine has stopped"),
        }
    }
}

impl std::error::Error for ReaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReaderError::Thread(cause) => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadError::NothingYet => "there is no event yet",
            ReadError::WouldBlock => "there is no event yet, and a shard's thread cannot wait for one",
        })
    }
}

impl std::error::Error for ReadError {}
