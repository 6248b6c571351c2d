//! The process-wide handle: publish, adopt, count.
//!
//! [`sequencer`] gives events their order and shards their mail, and [`capacity`] counts what a mailbox
//! holds. [`release`] makes events visible in order. [`waiting`] is a publisher that waits for room, [`line`]
//! the line in which it waits, and [`tasks`] wakes it where it is a task; [`publish_error`] says why a
//! publish fails. [`shed`] ends a share of all streams. [`commit`] stores events where there is a durable
//! store. [`readers`] are in the same process and read from the log.

mod capacity;
pub(crate) mod commit;
mod congestion;
mod connections;
mod line;
#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;
mod publish_error;
pub(crate) mod readers;
mod release;
mod repetitions;
mod sequencer;
mod shed;
mod submission;
mod tasks;
#[cfg(test)]
#[cfg(not(fanfare_loom))]
pub(crate) mod tests;
mod waiting;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use std::{fmt, io};

use crossbeam_utils::CachePadded;
use fanfare_io::fd_channel::SocketSender;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, sockets, table};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::limits::{Limits, Retention, RetentionRule};
use fanfare_proto::link::Encoding;
use fanfare_proto::log::Log;
use fanfare_store::Store;

use crate::admission::{Subscribe, WrongTopics};
use crate::adopt::{AdoptError, AdoptRefusal};
use crate::backplane::{Backplane, Feed, LogBreak};
use crate::client_table::{ClientTable, CountedAt};
use crate::counts::{Counts, SharedCounts, SharedTimings, Timings};
use crate::history::HistoryQueue;
use crate::inspect::connections::{FoundConnections, WantedConnections};
use crate::inspect::{Asked, InspectError, Inspection, InspectionPermits};
use crate::joins::JoinTable;
use crate::mailbox::{Adoption, Mail, Mailbox, Refused};
use crate::orders::OrderNumbers;
use crate::presence::Presence;
use crate::shard_thread;
use crate::shared_log::{ProcessLog, SharedLog};
use crate::store::StoreCounts;
use crate::sync::{AtomicU64, AtomicUsize, Waker};
pub(crate) use capacity::{Amount, Capacity};
use commit::CommitQueue;
pub(crate) use congestion::Congestion;
pub use connections::ConnectionError;
pub(crate) use line::WaitingPublishers;
pub use publish_error::{Interrupted, NotPublished, PublishError};
pub(crate) use release::{EngineEnd, ReleaseQueue, Sequenced, Visibility};
pub(crate) use repetitions::Repetitions;
use sequencer::Attempt;
pub(crate) use sequencer::Numbers;
pub(crate) use sequencer::Sequencer;
pub use shed::Shedding;
use shed::Sheds;
pub(crate) use shed::{ShedOrder, ShedPart};
pub(crate) use submission::{SubmissionSlot, Submissions};
use tasks::Tasks;
pub use waiting::{PublishFuture, ReadyFuture};

/// How long a drain waits for the durable store, or for a log that nodes share. Events that are stored later
/// are there at the next start.
const COMMIT_TIME: Duration = Duration::from_secs(5);

/// How often a drain looks whether what a shared log has accepted has come back.
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// A handle on a running engine. Clones share it; any thread may use it, and an [`crate::Admission`] may
/// publish.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    /// The bounds with which the engine was started. Bounds that never change are read here.
    limits: Limits,
    /// The bounds in force. Held for a copy of a pointer.
    current: RwLock<Arc<Limits>>,
    /// For sockets that others accepted; those of the shards inherit it from their listener.
    socket_options: SocketOptions,
    common: Common,
    sequencer: Arc<Sequencer>,
    tasks: Arc<Tasks>,
    shards: Vec<ShardHandle>,
    /// Where the next adopted socket goes.
    next_shard: AtomicUsize,
    inspections: InspectionPermits,
    sheds: Sheds,
    presence: Arc<Presence>,
    store: Option<HubStore>,
    backplane: Option<HubBackplane>,
}

/// Where events are kept outside of the process: in one of these, or nowhere.
#[derive(Default)]
pub(crate) struct KeptLog {
    pub(crate) store: Option<HubStore>,
    pub(crate) backplane: Option<HubBackplane>,
}

/// A log that nodes share, as the hub knows it.
pub(crate) struct HubBackplane {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) counts: Arc<StoreCounts>,
    pub(crate) history: Arc<HistoryQueue>,
    pub(crate) broken: Arc<OnceLock<LogBreak>>,
    pub(crate) submissions: Arc<Submissions>,
    /// Events of the log that the engine could not deliver.
    pub(crate) skipped: Arc<AtomicU64>,
}

/// A durable store, as the hub knows it.
pub(crate) struct HubStore {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) commits: Arc<CommitQueue>,
    pub(crate) counts: Arc<StoreCounts>,
    pub(crate) history: Arc<HistoryQueue>,
}

/// What the hub and every shard share.
#[derive(Clone)]
pub(crate) struct Common {
    log: Arc<ProcessLog>,
    waiting: Arc<WaitingPublishers>,
    congestion: Arc<Congestion>,
    clients: Arc<ClientTable>,
    /// The random number of this engine, in the names of its connections.
    engine: u32,
    orders: Arc<OrderNumbers>,
    /// Where joins are noted.
    joins: Option<Arc<JoinTable>>,
}

/// What the hub knows of a shard.
pub(crate) struct ShardHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) sockets: SocketSender,
    pub(crate) counts: Arc<CachePadded<SharedCounts>>,
    pub(crate) timings: Arc<CachePadded<SharedTimings>>,
}

/// A connection that counts as one of its client's, until this is dropped: [`Hub::count_connection`].
pub struct CountedConnection {
    clients: Arc<ClientTable>,
    /// `None`: connections have no bound.
    counted: Option<CountedAt>,
}

/// A client has as many connections as it may: [`Hub::count_connection`]. Its answer is a 429.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyConnections(());

/// Events that were accepted, now or before, and are visible: they are in the log, [`Hub::head`] has reached
/// them, and every subscriber of their topics gets them in this order. No publisher gets this answer earlier,
/// also where a durable store stands between sequence and release and older events are not released yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Events taken from the publisher.
    pub count: usize,
    /// The id of the first on the wire: the publisher's own, or `<epoch>-<seq>`.
    pub first: String,
    /// The id of the last.
    pub last: String,
    /// Those of the events that were published before, and were not published again; in the order of the
    /// events. [`Hub::publish`] says which these are.
    pub duplicates: Vec<Duplicate>,
}

/// An event that was published before, with the same own id, to the same topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Duplicate {
    /// Its position among the events that were taken.
    pub index: usize,
    /// Where the first one is in the order of all events.
    pub first: Cursor,
}

/// Events of a publisher, as a queue that parts are taken from. On drop, what is left goes back to the
/// publisher.
struct Unpublished<'events> {
    events: &'events mut Vec<Event>,
    queue: VecDeque<Event>,
}

impl Common {
    /// `engine`: a random number, which is in names; `seed`: another one, which stays secret.
    pub(crate) fn new(log: Log, shards: usize, limits: &Limits, engine: u32, seed: u64) -> Common {
        Common {
            log: Arc::new(ProcessLog::new(log, shards)),
            waiting: Arc::default(),
            congestion: Arc::new(Congestion::new(shards, limits.congestion_streams)),
            clients: Arc::new(ClientTable::new(seed)),
            engine,
            orders: Arc::default(),
            joins: None,
        }
    }

    /// The same with a table for joins.
    pub(crate) fn with_joins(self, joins: Option<Arc<JoinTable>>) -> Common {
        Common { joins, ..self }
    }

    /// Where joins are noted.
    pub(crate) fn joins(&self) -> Option<Arc<JoinTable>> {
        self.joins.clone()
    }

    /// The mailbox of the shard with this index.
    pub(crate) fn mailbox(&self, shard: usize, waker: impl Into<Waker>) -> Arc<Mailbox> {
        Arc::new(Mailbox::new(shard, waker, Arc::clone(&self.waiting)))
    }

    /// The access of the shard with this index to the log of the process.
    pub(crate) fn shared_log(&self, shard: usize, mailbox: Arc<Mailbox>) -> SharedLog {
        SharedLog::new(Arc::clone(&self.log), shard, mailbox, Arc::clone(&self.waiting))
    }

    /// The newest number that is released.
    pub(crate) fn newest(&self) -> Arc<crate::sync::AtomicU64> {
        Arc::clone(self.log.newest())
    }

    /// What ends the engine. `mailbox`: of the shard that trims.
    pub(crate) fn engine_end(&self, mailbox: Arc<Mailbox>) -> EngineEnd {
        EngineEnd { log: Arc::clone(&self.log), waiting: Arc::clone(&self.waiting), mailbox }
    }

    /// The number of this engine, in the names of its connections.
    pub(crate) fn engine(&self) -> u32 {
        self.engine
    }

    /// What clients have of the engine.
    pub(crate) fn clients(&self) -> Arc<ClientTable> {
        Arc::clone(&self.clients)
    }

    /// The number of the last order to end connections.
    pub(crate) fn orders(&self) -> Arc<OrderNumbers> {
        Arc::clone(&self.orders)
    }

    /// Whether the path out is full, over all shards.
    pub(crate) fn congestion(&self) -> Arc<Congestion> {
        Arc::clone(&self.congestion)
    }
}

impl Hub {
    pub(crate) fn new(
        common: Common,
        clock: Clock,
        limits: Limits,
        socket_options: SocketOptions,
        shards: Vec<ShardHandle>,
        presence: Arc<Presence>,
        kept: KeptLog,
    ) -> Hub {
        let KeptLog { store, backplane } = kept;
        let (log, waiting) = (Arc::clone(&common.log), Arc::clone(&common.waiting));
        let mailboxes = shards.iter().map(|shard| Arc::clone(&shard.mailbox)).collect();
        let sequencer = Sequencer::new(
            clock,
            &limits,
            log,
            waiting,
            mailboxes,
            store.as_ref().map(|store| Arc::clone(&store.commits)),
        );
        let sequencer = Arc::new(sequencer);
        let tasks = Arc::new(Tasks::new(Arc::clone(&common.waiting)));
        let (next_shard, inspections) = (AtomicUsize::new(0), InspectionPermits::default());
        let current = RwLock::new(Arc::new(limits.clone()));
        let inner = Inner {
            clock,
            limits,
            current,
            socket_options,
            common,
            sequencer,
            tasks,
            shards,
            next_shard,
            inspections,
            sheds: Sheds::default(),
            presence,
            store,
            backplane,
        };
        Hub { inner: Arc::new(inner) }
    }

    /// Publishes one event to every subscriber of one of its topics, and keeps it for subscribers that
    /// resume.
    ///
    /// It costs one entry in the queue of each shard that has subscribers of one of the topics. It waits
    /// neither for room nor for subscribers: it is `Busy` where one of these queues is full, and also while
    /// another publisher waits for one of them.
    ///
    /// **An event with an own id ([`Event::with_id`]) is published once.** Where an event with the same id is
    /// retained that was published to the same topics, this one is the same event: it is not published again,
    /// and [`Published::duplicates`] says so, with the position of the first one. So a publisher that has
    /// lost the answer may publish again. All topics together are compared, in whatever order: an event of
    /// other topics is another event, although some of its topics may be the same. Where the content differs,
    /// the answer is [`PublishError::IdConflict`]. When the first event is no longer retained by any of its
    /// topics, its id is free: the event is published again.
    ///
    /// # Errors
    /// [`NotPublished`], with the event in it.
    ///
    /// # Panics
    /// In an [`crate::Admission`] of another engine, if that has private descriptor tables: the shards of
    /// this one cannot be woken there. Nothing is published.
    pub fn publish(&self, event: Event) -> Result<Published, NotPublished> {
        let mut events = VecDeque::from([event]);
        self.publish_some(&mut events).map_err(|error| match events.pop_front() {
            Some(event) => NotPublished { error, event: Box::new(event) },
            None => unreachable!("a refused event stays where it was"),
        })
    }

    /// Publishes several events under one lock and one wake. Takes them out of `events` where it succeeds,
    /// and leaves them there where it does not.
    ///
    /// A batch that fits into an empty mailbox ([`Limits::mailbox_events`], [`Limits::mailbox_bytes`]; in all
    /// mailboxes [`Limits::mailbox_total_bytes`]), and whose events have at most [`Limits::batch_topics`]
    /// topics together, is taken whole or not at all, unless subscribers read so many and such patterns that
    /// it takes long to find those of its topics ([`fanfare_proto::limits::WALK_STEPS`]). Of a larger one, or
    /// of one that takes long, as many events are taken from its front as there is room for, at least one,
    /// and the rest stays in `events`: [`Published::count`] says how many were taken. Taking a part moves the
    /// rest, so a batch should not be many times larger.
    ///
    /// # Errors
    /// [`PublishError`]. `Busy` is worth another try. Only the events that could be taken are checked;
    /// [`Hub::check`] checks them all.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn publish_batch(&self, events: &mut Vec<Event>) -> Result<Published, PublishError> {
        self.publish_some(&mut Unpublished::of(events).queue)
    }

    fn publish_some(&self, events: &mut VecDeque<Event>) -> Result<Published, PublishError> {
        // This is asked before anything changes: otherwise half of the shards would have the events.
        self.inner.assert_in_reach();
        if self.inner.backplane.is_some() {
            return Err(PublishError::WouldBlock);
        }
        match self.inner.sequencer.publish(events, None, None) {
            Attempt::Published { published, .. } => Ok(published),
            Attempt::Refused(error) => Err(error),
            Attempt::Waits => unreachable!("it was not asked to wait"),
        }
    }

    /// The first step of a publish: see [`sequencer`] and [`release`].
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn sequence(
        &self,
        events: &mut Vec<Event>,
        numbers: Numbers<'_>,
    ) -> Result<Sequenced, PublishError> {
        self.inner.sequencer.sequence(&mut Unpublished::of(events).queue, numbers)
    }

    /// The last step of a publish.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn release(&self, batch: Sequenced) -> Visibility {
        self.inner.assert_in_reach();
        batch.release()
    }

    /// Whether these events could be published, given room for them. Their ids are not compared with those of
    /// other events: a publish may be refused for an [`PublishError::IdConflict`] all the same.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`] or [`PublishError::ReservedId`], for the first that could not.
    pub fn check(&self, events: &[Event]) -> Result<(), PublishError> {
        self.inner.sequencer.check(events.iter())
    }

    /// Whether the own id of this event was given to another event of the same topics, which is retained:
    /// then a publish is refused for an [`PublishError::IdConflict`], unless that event is dropped meanwhile.
    pub fn has_other_event(&self, event: &Event) -> bool {
        let first = event.id().and_then(|id| {
            let log = self.inner.common.log.lock_unless_broken()?;
            let key = log.own_id_key(id.as_str(), event.topics());
            log.published(event, key).map(|(frame, _)| Arc::clone(frame))
        });
        first.is_some_and(|frame| !frame.says_the_same(event))
    }

    /// Hands a connected socket (TCP or Unix) to a shard, which answers with the head of a stream and owns it
    /// from there. The engine's [`SocketOptions`] are set on it. For servers of your own that have read the
    /// request: what it says goes into `subscribe`. A [`crate::WireFormat`] is an encoding: `Chunked` for
    /// HTTP/1.1 requests without `Connection: close`.
    ///
    /// # Errors
    /// [`AdoptError`], which gives the socket and the subscription back.
    ///
    /// # Panics
    /// In an [`crate::Admission`], which runs on a shard's thread: with private descriptor tables the socket
    /// is not that thread's to give.
    pub fn adopt(
        &self,
        socket: impl Into<OwnedFd>,
        mut subscribe: Subscribe,
        encoding: impl Into<Encoding>,
    ) -> Result<(), AdoptError> {
        let (socket, encoding) = (socket.into(), encoding.into());
        assert!(!table::is_private(), "a socket of a private descriptor table cannot be adopted");
        let number = self.inner.next_shard.fetch_add(1, Ordering::Relaxed);
        let shard = &self.inner.shards[number % self.inner.shards.len()];
        let (patterns, most_topics) = (subscribe.patterns().len(), self.limits().topics_per_subscription);
        let head_fits = subscribe.written_head.as_ref().is_none_or(|head| head.announces(encoding));
        let reason = if shard.mailbox.is_closed() {
            AdoptRefusal::Stopped
        } else if let Err(wrong) = WrongTopics::check(&mut subscribe.topics, patterns, most_topics) {
            wrong.into()
        } else if !head_fits {
            let text = "the response head does not announce the wire format of the stream";
            AdoptRefusal::Io(io::Error::new(io::ErrorKind::InvalidInput, text))
        } else if let Err(error) = sockets::configure(socket.as_fd(), &self.inner.socket_options) {
            // The caller learns of it here; a shard could only close the socket.
            AdoptRefusal::Io(error)
        } else {
            // The mailbox drops mail that it refuses. A copy costs less than each of the system calls around
            // it.
            let mail = Mail::Adopt(Box::new(Adoption { subscribe: subscribe.clone(), encoding }));
            let send_socket = || shard.sockets.send(socket.as_fd(), b"!");
            match shard.mailbox.push_within(self.inner.mail_limit(), mail, send_socket) {
                Ok(()) => return Ok(()),
                Err(Refused::Full) => AdoptRefusal::Busy,
                Err(Refused::Ended) => AdoptRefusal::Stopped,
                Err(Refused::Failed(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    AdoptRefusal::Busy
                }
                Err(Refused::Failed(error)) => AdoptRefusal::Io(error),
            }
        };
        Err(AdoptError::new(reason, socket, subscribe))
    }

    /// The sum of all shards' counts, each as of its last tick.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.shard_counts() {
            sum += counts;
        }
        let log = self.inner.common.log.lock_even_if_broken().size();
        (sum.log_frames, sum.log_bytes) = (log.frames, log.bytes);
        (sum.published, sum.published_bytes) = log.appended;
        (sum.topics, sum.dropped_for_log_bytes) = (log.topics, log.dropped_for_room);
        let members = self.inner.presence.counts();
        (sum.members_left_early, sum.members_not_announced) = (members.left_early, members.not_announced);
        sum.joins_missed = self.joins().map_or(0, JoinTable::missed);
        sum
    }

    /// Each shard's counts, as of its last tick.
    pub fn shard_counts(&self) -> impl Iterator<Item = Counts> {
        self.inner.shards.iter().map(|shard| {
            let waits = shard.mailbox.capacity().taken();
            let (mailbox_events, mailbox_bytes) = (waits.events as u64, waits.bytes as u64);
            Counts { mailbox_events, mailbox_bytes, ..shard.counts.load() }
        })
    }

    /// How long the work of each shard took, as of its last tick.
    pub fn shard_timings(&self) -> impl Iterator<Item = Timings> {
        self.inner.shards.iter().map(|shard| shard.timings.load())
    }

    /// What the simulator asks the log.
    #[cfg(feature = "sim")]
    pub(crate) fn with_log<T>(&self, ask: impl FnOnce(&Log) -> T) -> T {
        ask(self.inner.common.log.lock_even_if_broken().log())
    }

    /// What the simulator asks the sequencer.
    #[cfg(feature = "sim")]
    pub(crate) fn reserved_events(&self) -> (usize, usize) {
        self.inner.sequencer.reserved_events()
    }

    /// Orders about connections that a shard was given, and those that it has carried out.
    #[cfg(feature = "sim")]
    pub(crate) fn orders(&self, shard: usize) -> crate::mailbox::Orders {
        self.inner.shards[shard].mailbox.orders()
    }

    /// Connections that are counted by address, and streams by subject.
    #[cfg(feature = "sim")]
    pub(crate) fn counted_of_clients(&self) -> [usize; 2] {
        self.inner.common.clients.counted()
    }

    /// What is to be announced of members at this time.
    #[cfg(feature = "sim")]
    pub(crate) fn announcements_at(&self, now: Duration) -> Vec<Event> {
        self.inner.presence.announcements_at(now)
    }

    pub(crate) fn log(&self) -> &ProcessLog {
        &self.inner.common.log
    }

    /// Asks every shard for the counts of these topics.
    pub(crate) fn ask(&self, topics: &[Topic]) -> impl Iterator<Item = Result<Asked, InspectError>> {
        self.inner.assert_in_reach();
        self.inner.shards.iter().map(move |shard| {
            let (inspection, asked) = Inspection::new(topics.to_vec());
            let ask = Mail::Inspect(Box::new(inspection));
            match shard.mailbox.push_within(self.inner.mail_limit(), ask, || Ok::<_, ()>(())) {
                Ok(()) => Ok(asked),
                Err(Refused::Ended) => Err(InspectError::Stopped),
                Err(Refused::Full | Refused::Failed(())) => Err(InspectError::Busy),
            }
        })
    }

    /// Asks one shard for connections.
    pub(crate) fn ask_for_connections(
        &self,
        shard: usize,
        wanted: WantedConnections,
    ) -> Result<Asked<FoundConnections>, InspectError> {
        self.inner.assert_in_reach();
        let (question, asked) = Inspection::new(wanted);
        let mail = Mail::List(Box::new(question));
        let mailbox = &self.inner.shards[shard].mailbox;
        match mailbox.push_within(self.inner.mail_limit(), mail, || Ok::<_, ()>(())) {
            Ok(()) => Ok(asked),
            Err(Refused::Ended) => Err(InspectError::Stopped),
            Err(Refused::Full | Refused::Failed(())) => Err(InspectError::Busy),
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// Whether there is a durable store, or a log that nodes share.
    pub(crate) fn has_store(&self) -> bool {
        self.inner.store.is_some() || self.inner.backplane.is_some()
    }

    /// Where joins are noted.
    pub(crate) fn joins(&self) -> Option<&JoinTable> {
        self.inner.common.joins.as_deref()
    }

    /// The permits to ask, by the kind of question.
    pub(crate) fn inspections(&self) -> &InspectionPermits {
        &self.inner.inspections
    }

    /// The time on the engine's clock.
    pub(crate) fn now(&self) -> Duration {
        self.inner.clock.now()
    }

    /// The newest id: a cursor from which a subscriber gets only what is published later.
    pub fn head(&self) -> Cursor {
        let log = &self.inner.common.log;
        Cursor { epoch: log.epoch(), seq: log.newest().load(Ordering::Relaxed) }
    }

    /// The bounds in force: those of the builder, or of the last [`crate::Engine::change_limits`] and
    /// [`Hub::set_retention`], within what descriptors allow. A shard takes changes over with its mail, a
    /// moment later.
    pub fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a connection that this program serves itself, for instance one that was handed over, as one of
    /// its client's: [`crate::ClientLimits::connections_per_address`]. It counts until what this gives is
    /// dropped. [`crate::Request::counted_client`] says which client that is.
    ///
    /// # Errors
    /// The client has as many connections as it may, on all shards and here together.
    pub fn count_connection(&self, client: IpAddr) -> Result<CountedConnection, TooManyConnections> {
        let clients = Arc::clone(&self.inner.common.clients);
        let counted = clients.enter(client, &self.limits().clients).map_err(|_| TooManyConnections(()))?;
        Ok(CountedConnection { clients, counted })
    }

    /// Replaces what is kept of each topic, for topics that no rule matches and by rules, while events are
    /// published and read: [`crate::LogLimits::retention`] and [`crate::LogLimits::rules`].
    ///
    /// A shard gives the topics their new retention one after another, and drops what is not covered any
    /// more: in small steps, which delay no publisher. A subscriber that needed what was dropped is treated
    /// as at every drop. Where another change is under way, this one follows it.
    pub fn set_retention(&self, retention: Retention, rules: Vec<RetentionRule>) {
        self.inner.change(|limits| {
            limits.log.retention = retention;
            limits.log.rules = rules.clone();
        });
        if let Some(shared) = &self.inner.backplane {
            shared.backplane.set_retention(retention, &rules);
        }
        let locked = self.inner.common.log.lock_unless_broken();
        // A log that is half changed ends the engine.
        let Some(mut log) = locked else { return };
        log.set_retention(retention, rules);
        drop(log);
        self.inner.shards[ProcessLog::TRIMMING_SHARD].mailbox.wake();
    }

    /// The newest number that is released.
    #[cfg(all(test, not(fanfare_loom)))]
    pub(crate) fn newest(&self) -> Arc<crate::sync::AtomicU64> {
        self.inner.common.newest()
    }

    /// As [`crate::Engine::change_limits`].
    /// `laggard_bytes`: what each shard may have of [`Limits::laggard_bytes`].
    pub(crate) fn change_limits(&self, limits: &Limits, laggard_bytes: usize) {
        self.inner.change(|current| current.take_over(limits));
        self.inner.sequencer.set_event_bytes(limits.event_bytes);
        if let Some(mut log) = self.inner.common.log.lock_unless_broken() {
            log.set_total_bytes(limits.log.total_bytes);
        }
        let limits = limits.clone().with_laggard_bytes(laggard_bytes);
        for shard in &self.inner.shards {
            // A shard that has ended needs none.
            let _ = shard.mailbox.push(Mail::Limits(Box::new(limits.clone())), || Ok::<_, ()>(()));
        }
    }

    /// Why the engine cannot go on with the log that nodes share. `None`: it goes on, or there is no such
    /// log. The owner of the engine stops it then, and starts another one.
    pub fn log_break(&self) -> Option<LogBreak> {
        self.inner.backplane.as_ref()?.broken.get().cloned()
    }

    /// Events of the log that nodes share which this engine could not deliver: [`crate::Feed::append`].
    pub fn feed_skipped(&self) -> u64 {
        self.inner.backplane.as_ref().map_or(0, |shared| shared.skipped.load(Ordering::Relaxed))
    }

    /// Has the log that nodes share, if there is one, feed this engine.
    pub(crate) fn begin_feed(&self) {
        let Some(shared) = &self.inner.backplane else { return };
        let (sequencer, log) = (Arc::clone(&self.inner.sequencer), Arc::clone(&self.inner.common.log));
        // At the time zero: nobody has come so far.
        log.note_end(Duration::ZERO, 0);
        let after = log.newest().load(Ordering::Relaxed);
        let (broken, skipped) = (Arc::clone(&shared.broken), Arc::clone(&shared.skipped));
        shared.backplane.begin(Feed::new(sequencer, log, broken, skipped), after);
    }

    pub(crate) fn drain(&self, window: Duration) {
        self.drain_and_commit(window, COMMIT_TIME);
    }

    /// The same, where what waits for the durable store has so much time.
    pub(crate) fn drain_and_commit(&self, window: Duration, patience: Duration) {
        if let Some(shared) = &self.inner.backplane {
            // A shard cannot wait for what it has to deliver itself, and behind a break nothing comes any
            // more.
            let is_broken = shared.broken.get().is_some();
            let patience = if shard_thread::is_current() || is_broken { Duration::ZERO } else { patience };
            let deadline = self.now().saturating_add(patience);
            let newest = shared.submissions.close(patience);
            while !self.inner.sequencer.has_released(newest) && self.now() < deadline {
                std::thread::sleep(RELEASE_POLL);
            }
        }
        self.inner.sequencer.close(patience, || {
            for shard in &self.inner.shards {
                // In this order: a shard that finds this mail knows that nothing more comes.
                shard.mailbox.refuse();
                let _ = shard.mailbox.push(Mail::Drain(window), || Ok::<_, ()>(()));
            }
        });
    }

    /// Waits for the hub's own thread, when the shards have ended.
    pub(crate) fn end(&self) {
        self.inner.tasks.end();
        self.inner.store.iter().for_each(|store| store.history.close());
        if let Some(shared) = &self.inner.backplane {
            shared.history.close();
            shared.backplane.end();
        }
    }
}

impl fmt::Debug for CountedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedConnection").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        if let Some(counted) = self.counted {
            self.clients.leave(counted);
        }
    }
}

impl fmt::Display for TooManyConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this address has as many connections as it may")
    }
}

impl std::error::Error for TooManyConnections {}

impl Unpublished<'_> {
    fn of(events: &mut Vec<Event>) -> Unpublished<'_> {
        let queue = VecDeque::from(std::mem::take(events));
        Unpublished { events, queue }
    }
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        *self.events = std::mem::take(&mut self.queue).into();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Also where no engine was drained: the thread that wakes tasks ends.
        self.common.waiting.close();
    }
}

impl Inner {
    /// Changes the bounds in force.
    fn change(&self, change: impl FnOnce(&mut Limits)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut limits = Limits::clone(&current);
        change(&mut limits);
        *current = Arc::new(limits);
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
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a lock: it may be printed anywhere.
        f.debug_struct("Hub").field("head", &self.head()).finish_non_exhaustive()
    }
}
