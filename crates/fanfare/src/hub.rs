//! The process-wide handle: publish, adopt, count.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use crossbeam_utils::CachePadded;
use fanfare_io::pass::SocketSender;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, sockets, table};
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::Event;
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::limits::Limits;

use crate::admission::Subscribe;
use crate::counts::{Counts, SharedCounts};
use crate::inspect::{Asked, InspectError, Inspection, Question, Turns};
use crate::mailbox::{Adoption, Mail, Mailbox, Refused};
use crate::sync::{AtomicU64, AtomicUsize, Mutex};

/// A handle on a running engine. Clones share it; any thread may use it, and an [`crate::Admission`] may publish.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: Epoch,
    clock: Clock,
    limits: Limits,
    /// For sockets that others accepted; those of the shards inherit it from their listener.
    socket_options: SocketOptions,
    /// The newest `seq`. Its lock also fixes the order of mail, so that every shard sees the same.
    order: Mutex<u64>,
    /// The same number, for the shards: raised before the first of them can have the event. So who has had an event
    /// from one shard, and then comes to another, finds this raised there. Relaxed: the lock of the mailbox is between
    /// the raise and the first shard's send, the reader's sockets are between that and the second shard's look.
    newest: Arc<AtomicU64>,
    shards: Vec<ShardHandle>,
    /// Where the next adopted socket goes.
    next_shard: AtomicUsize,
    inspections: Turns,
}

/// What the hub knows of a shard.
pub(crate) struct ShardHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) sockets: SocketSender,
    pub(crate) counts: Arc<CachePadded<SharedCounts>>,
}

/// A publish that was accepted: every shard will deliver it in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Events accepted.
    pub count: usize,
    /// The id of the first on the wire: the publisher's own, or `<epoch>-<seq>`.
    pub first: String,
    /// The id of the last.
    pub last: String,
}

/// Why nothing was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// A shard's mailbox is full: sending takes longer than publishing. Try again in a few
    /// milliseconds.
    Busy,
    /// The event at this position of the batch has more data than [`Limits::event_bytes`].
    TooLarge {
        /// Its position.
        index: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// The event at this position bears an id of the form that the hub itself gives out.
    ReservedId {
        /// Its position.
        index: usize,
    },
    /// The engine drains or has stopped.
    Stopped,
}

/// Why a socket was not adopted. The socket was closed.
#[derive(Debug)]
pub enum AdoptError {
    /// The shard's mailbox or socket channel is full. Try again in a few milliseconds.
    Busy,
    /// The engine drains or has stopped.
    Stopped,
    /// The operating system refused: it is no socket, or an option is out of range.
    Io(io::Error),
}

impl Hub {
    pub(crate) fn new(
        epoch: Epoch,
        clock: Clock,
        limits: Limits,
        socket_options: SocketOptions,
        shards: Vec<ShardHandle>,
        newest: Arc<AtomicU64>,
    ) -> Hub {
        let order = Mutex::new(0);
        Hub {
            inner: Arc::new(Inner {
                epoch,
                clock,
                limits,
                socket_options,
                order,
                newest,
                shards,
                next_shard: AtomicUsize::new(0),
                inspections: Turns::default(),
            }),
        }
    }

    /// Publishes one event to all who subscribe to one of its topics, and keeps it for those who resume.
    ///
    /// It never waits for subscribers: it costs each shard one mailbox entry.
    ///
    /// # Errors
    /// [`PublishError`]; the event is dropped then. To keep it, use [`Hub::publish_batch`].
    ///
    /// # Panics
    /// In an [`crate::Admission`] of another engine, if that has private descriptor tables: the shards of this one cannot
    /// be woken there. Nothing is published.
    pub fn publish(&self, event: Event) -> Result<Published, PublishError> {
        self.publish_batch(&mut vec![event])
    }

    /// Publishes several events under one lock and one wake, all or none. Takes them out of `events`
    /// when it succeeds, and leaves them there when it does not.
    ///
    /// # Errors
    /// [`PublishError`]. `Busy` is worth another try.
    ///
    /// # Panics
    /// `events` is empty; or as [`Hub::publish`].
    pub fn publish_batch(&self, events: &mut Vec<Event>) -> Result<Published, PublishError> {
        let inner = &*self.inner;
        assert!(!events.is_empty(), "a batch of no events");
        // Before anything has changed: half of the shards would have the events.
        inner.assert_in_reach();
        let bytes = inner.check(events)?;
        let mut order = inner.order.lock().unwrap_or_else(PoisonError::into_inner);
        inner.check_room(events.len(), bytes)?;
        let published = inner.clock.now();
        let (mut seq, mut first, mut last) = (*order, None, String::new());
        let frames: Vec<Arc<Frame>> = events
            .drain(..)
            .map(|event| {
                seq += 1;
                last = match event.own_id() {
                    Some(id) => id.as_str().to_owned(),
                    None => Cursor { epoch: inner.epoch, seq }.to_string(),
                };
                first.get_or_insert_with(|| last.clone());
                Arc::new(Frame::encode(seq, &last, event, published))
            })
            .collect();
        // Not before all are encoded: should that panic, no number is missing.
        *order = seq;
        inner.newest.store(seq, Ordering::Relaxed);
        for shard in &inner.shards {
            shard.mailbox.push_events(frames.iter());
        }
        Ok(Published { count: frames.len(), first: first.unwrap_or_default(), last })
    }

    /// Whether these events could be published, given room for them.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`] or [`PublishError::ReservedId`], for the first that could not.
    pub fn check(&self, events: &[Event]) -> Result<(), PublishError> {
        self.inner.check(events).map(|_| ())
    }

    /// Hands a connected socket (TCP or Unix) to a shard, which answers with the head of a stream and owns it from
    /// there. The engine's [`SocketOptions`] are set on it. For servers of your own that have read the request: what it
    /// says goes into `subscribe`, and `format` is `Chunked` for HTTP/1.1 requests without `Connection: close`.
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed then.
    ///
    /// # Panics
    /// In an [`crate::Admission`], which runs on a shard's thread: with private descriptor tables the socket is not that
    /// thread's to give.
    pub fn adopt(
        &self,
        socket: impl Into<OwnedFd>,
        subscribe: Subscribe,
        format: WireFormat,
    ) -> Result<(), AdoptError> {
        let socket: OwnedFd = socket.into();
        assert!(!table::is_private(), "a socket of a private descriptor table cannot be adopted");
        let turn = self.inner.next_shard.fetch_add(1, Ordering::Relaxed);
        let shard = &self.inner.shards[turn % self.inner.shards.len()];
        if shard.mailbox.is_closed() {
            return Err(AdoptError::Stopped);
        }
        // Here, where somebody learns of it if the kernel refuses.
        sockets::configure(socket.as_fd(), &self.inner.socket_options).map_err(AdoptError::Io)?;
        let mail = Mail::Adopt(Box::new(Adoption { subscribe, format }));
        let pass = || shard.sockets.send(socket.as_fd(), b"!");
        shard.mailbox.push_within(self.inner.mail_limit(), mail, pass).map_err(|refused| match refused {
            Refused::Full => AdoptError::Busy,
            Refused::Ended => AdoptError::Stopped,
            Refused::Failed(error) if error.kind() == io::ErrorKind::WouldBlock => AdoptError::Busy,
            Refused::Failed(error) => AdoptError::Io(error),
        })
    }

    /// The sum of all shards' counts, each as of its last tick.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.shard_counts() {
            sum += counts;
        }
        // Every shard holds the same log and takes the same events.
        let shards = self.inner.shards.len() as u64;
        for same in [&mut sum.log_frames, &mut sum.log_bytes, &mut sum.events] {
            *same /= shards;
        }
        sum
    }

    /// Each shard's counts, as of its last tick.
    pub fn shard_counts(&self) -> impl Iterator<Item = Counts> {
        self.inner.shards.iter().map(|shard| shard.counts.load())
    }

    /// Asks one shard after the other.
    pub(crate) fn ask(&self, question: &Question) -> impl Iterator<Item = Result<Asked, InspectError>> {
        self.inner.assert_in_reach();
        self.inner.shards.iter().map(move |shard| {
            let (inspection, asked) = Inspection::new(question.clone());
            let ask = Mail::Inspect(Box::new(inspection));
            match shard.mailbox.push_within(self.inner.mail_limit(), ask, || Ok::<_, ()>(())) {
                Ok(()) => Ok(asked),
                Err(Refused::Ended) => Err(InspectError::Stopped),
                Err(Refused::Full | Refused::Failed(())) => Err(InspectError::Busy),
            }
        })
    }

    /// Whose turn it is to ask.
    pub(crate) fn inspections(&self) -> &Turns {
        &self.inner.inspections
    }

    /// The time on the engine's clock.
    pub(crate) fn now(&self) -> Duration {
        self.inner.clock.now()
    }

    /// The newest id: a cursor from which a reader gets only what is published later.
    pub fn head(&self) -> Cursor {
        let seq = *self.inner.order.lock().unwrap_or_else(PoisonError::into_inner);
        Cursor { epoch: self.inner.epoch, seq }
    }

    /// The bounds in force: those of the builder, within what descriptors allow.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn drain(&self, window: Duration) {
        // After this lock no publish is under way, and none begins.
        let _order = self.inner.order.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &self.inner.shards {
            let _ = shard.mailbox.push(Mail::Drain(window), || Ok::<_, ()>(()));
            shard.mailbox.refuse();
        }
    }
}

impl Inner {
    /// The most bytes that a batch takes in a mailbox.
    fn check(&self, events: &[Event]) -> Result<usize, PublishError> {
        let limit = self.limits.event_bytes;
        let mut bytes = 0;
        for (index, event) in events.iter().enumerate() {
            let data = event.data_text().map_or(0, str::len);
            if data > limit {
                return Err(PublishError::TooLarge { index, limit });
            }
            let id = event.own_id().and_then(|id| Cursor::parse(id.as_str()));
            if id.is_some_and(|cursor| cursor.epoch == self.epoch) {
                return Err(PublishError::ReservedId { index });
            }
            bytes += Frame::size_at_most(event);
        }
        Ok(bytes)
    }

    fn assert_in_reach(&self) {
        // A thread keeps all wakers of an engine or none.
        let in_reach = self.shards.first().is_none_or(|shard| shard.mailbox.is_in_reach());
        assert!(
            in_reach,
            "this thread is another engine's shard, and its private descriptor table does not keep the wakers of this \
             one's; use the hub on a thread of your own"
        );
    }

    /// What may wait in a mailbox that takes a socket or an inspection.
    fn mail_limit(&self) -> usize {
        self.limits.mailbox_others.saturating_add(self.limits.mailbox_events)
    }

    fn check_room(&self, count: usize, bytes: usize) -> Result<(), PublishError> {
        for shard in &self.shards {
            if shard.mailbox.is_closed() {
                return Err(PublishError::Stopped);
            }
            let (waiting, waiting_bytes) = shard.mailbox.waiting();
            let fits = waiting + count <= self.limits.mailbox_events
                && waiting_bytes + bytes <= self.limits.mailbox_bytes;
            // An empty mailbox takes anything, so that a large event or batch is not refused for ever.
            if waiting > 0 && !fits {
                return Err(PublishError::Busy);
            }
        }
        Ok(())
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Busy => f.write_str("the hub is busy; try again in a moment"),
            PublishError::TooLarge { limit, .. } => write!(f, "the data is longer than {limit} bytes"),
            PublishError::ReservedId { .. } => {
                f.write_str("ids of the form <epoch>-<seq> are the hub's own; choose another id or none")
            }
            PublishError::Stopped => f.write_str("the server is shutting down"),
        }
    }
}

impl std::error::Error for PublishError {}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdoptError::Busy => f.write_str("the shard is busy; try again in a moment"),
            AdoptError::Stopped => f.write_str("the engine is shutting down"),
            AdoptError::Io(error) => write!(f, "the socket cannot be adopted: {error}"),
        }
    }
}

impl std::error::Error for AdoptError {}
