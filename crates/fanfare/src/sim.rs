//! What the simulator drives: the real hub and the real shards, without threads, on any `Io` and a clock that
//! is driven by hand. Not part of the public interface.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, Io, Notification, Socket, Token, Waker, fd_channel};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::limits::Limits;
pub use fanfare_proto::log::TopicExtent;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::selection::Selection;

use crate::admission::{Admission, Admissions};
use crate::connection::ConnectionId;
use crate::counts::{Counts, SharedCounts, SharedTimings};
use crate::history::{HistoryQueue, HistoryReader};
use crate::hub::commit::{CommitQueue, Committer};
use crate::hub::{
    self, Common, Hub, HubStore, Interrupted, KeptLog, Numbers, PublishError, Published, ShardHandle,
    Visibility,
};
pub use crate::inspect::Asked;
#[allow(unreachable_pub)] // Simulations are given it.
pub use crate::inspect::connections::FoundConnections;
use crate::inspect::connections::{ConnectionFilter, WantedConnections, WantedOf};
use crate::joins::JoinTable;
use crate::life_cycle::{LifeCycle, LifeCycleQueue};
#[allow(unreachable_pub)] // Simulations are given it.
pub use crate::mailbox::Orders;
use crate::presence::Presence;
pub use crate::shard::Budgets;
use crate::shard::{Links, Shard, SlotKey};
use crate::shared_log::log_of;
use crate::store::{Recovered, StoreCounts, StoreOptions};

/// How the engine under simulation is built.
pub struct Plan {
    /// Bounds, the same in every shard.
    pub limits: Limits,
    /// Work per tick, the same in every shard.
    pub budgets: Budgets,
    /// The code that decides about requests.
    pub admission: Arc<dyn Admission>,
    /// Whether requests that are no subscriptions are handed over (to a channel that takes none).
    pub hand_over: bool,
    /// How long a member stays without a connection.
    pub presence_linger: Duration,
    /// How many life-cycle events their queue holds; `None`: there are none.
    pub life_cycle: Option<usize>,
    /// The topics whose joins are noted; `None`: joins are not noted.
    pub joins: Option<Vec<Pattern>>,
    /// How many topics that are at a time.
    pub joined_topics: usize,
    /// The durable store; `None`: there is none.
    pub store: Option<StoreOptions>,
    /// The log's identity, where no store has one.
    pub epoch: Epoch,
    /// Where the shards' jitter comes from.
    pub seed: u64,
}

/// One shard whose ticks the caller runs.
pub struct SimShard<I: Io> {
    pub(crate) shard: Shard<I>,
    waker: Waker,
}

/// An engine without threads.
pub struct SimEngine<I: Io> {
    /// Its hub.
    pub hub: Hub,
    /// Its shards.
    pub shards: Vec<SimShard<I>>,
    /// The reader's end of the queue of life-cycle events.
    pub life_cycle: Option<LifeCycle>,
    /// What the threads of its durable store do.
    pub store: Option<SimStore>,
}

/// What the two threads of a durable store do, in steps that the caller makes.
pub struct SimStore {
    committer: Committer,
    commits: Arc<CommitQueue>,
    reader: HistoryReader,
    history: Arc<HistoryQueue>,
}

impl SimStore {
    /// Batches that have their numbers and wait for the store.
    pub fn waiting_batches(&self) -> usize {
        self.commits.len()
    }

    /// Questions of shards that the store has not answered.
    pub fn questions(&self) -> usize {
        self.history.len()
    }

    /// Stores and releases what waits, as one group, and trims the store where that is due.
    pub fn commit(&mut self) {
        self.committer.step(false);
    }

    /// Answers one question of a shard. False: there is none.
    pub fn answer(&self) -> bool {
        self.reader.step()
    }
}

/// A publish to an engine with a durable store: [`Hub::publish_async`] whose attempts the caller makes.
pub struct StoredPublish {
    future: Pin<Box<dyn Future<Output = Result<Published, Interrupted>>>>,
    is_sequenced: Rc<Cell<bool>>,
}

impl StoredPublish {
    /// Begins it. Nothing happens before the first attempt.
    pub fn of(hub: &Hub, events: Vec<Event>) -> StoredPublish {
        let is_sequenced = Rc::new(Cell::new(false));
        let future = Box::pin(hub.publish_by_hand(events, Rc::clone(&is_sequenced)));
        StoredPublish { future, is_sequenced }
    }

    /// One attempt. `None`: it is not over, and waits for room or for the store.
    pub fn attempt(&mut self) -> Option<Result<Published, Interrupted>> {
        match self.future.as_mut().poll(&mut Context::from_waker(TaskWaker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Whether all of its events have their numbers.
    pub fn is_sequenced(&self) -> bool {
        self.is_sequenced.get()
    }
}

/// A hub and a shard on each of these.
pub fn engine<I: Io>(plan: &Plan, networks: impl IntoIterator<Item = I>) -> SimEngine<I> {
    let networks: Vec<I> = networks.into_iter().collect();
    let clock = Clock::by_hand();
    let recovered = plan.store.as_ref().map(|options| {
        Recovered::read(&*options.store, &plan.limits.log, clock).expect("a store that can be read")
    });
    let epoch = recovered.as_ref().map_or(plan.epoch, |recovered| recovered.begin_after().epoch);
    let mut log = log_of(epoch, &plan.limits, plan.seed);
    if let Some(recovered) = recovered {
        recovered.fill(&mut log, clock);
    }
    let history = plan.store.is_some().then(HistoryQueue::new);
    let common = Common::new(log, networks.len(), &plan.limits, plan.seed as u32, plan.seed);
    let joins = plan.joins.clone().map(|patterns| JoinTable::new(patterns, plan.joined_topics, plan.seed));
    let common = common.with_joins(joins.map(Arc::new));
    let presence = Arc::new(Presence::new(plan.presence_linger, &plan.limits, plan.seed));
    let life_cycle = plan.life_cycle.map(|events| LifeCycleQueue::new(events, networks.len()));
    let (mut handles, mut shards) = (Vec::new(), Vec::new());
    for (index, io) in networks.into_iter().enumerate() {
        let waker = Waker::new().expect("a descriptor for the waker");
        let (sockets, adopted) = fd_channel::channel().expect("descriptors for the channel");
        let mailbox = common.mailbox(index, waker.clone());
        let log = common.shared_log(index, Arc::clone(&mailbox)).with_history(history.clone());
        let counts = Arc::new(CachePadded::new(SharedCounts::default()));
        let timings = Arc::new(CachePadded::new(SharedTimings::default()));
        handles.push(ShardHandle {
            mailbox: Arc::clone(&mailbox),
            sockets,
            counts: Arc::clone(&counts),
            timings: Arc::clone(&timings),
        });
        let links = Links {
            engine: common.engine(),
            mailbox,
            adopted,
            hand_over: plan.hand_over.then(|| fd_channel::channel().expect("descriptors for the channel").0),
            counts,
            timings,
            admission: Admissions::OnShards(Arc::clone(&plan.admission)),
            congestion: common.congestion(),
            orders: common.orders(),
            presence: Arc::clone(&presence),
            clients: common.clients(),
            life_cycle: life_cycle.clone(),
            joins: common.joins(),
            proxies: Vec::new(),
            log,
        };
        let seed = plan.seed.wrapping_add(index as u64);
        let shard = Shard::new(io, links, plan.limits.clone(), plan.budgets, epoch, seed);
        shards.push(SimShard { shard, waker });
    }
    let (limits, options) = (plan.limits.clone(), SocketOptions::default());
    let store = plan.store.clone().zip(history).map(|(options, history)| {
        let StoreOptions { store, durability } = options;
        let (commits, counts) = <(Arc<CommitQueue>, Arc<StoreCounts>)>::default();
        let (queue, counted) = (Arc::clone(&commits), Arc::clone(&counts));
        let committer = Committer::new(Arc::clone(&store), queue, Arc::clone(&counted), durability, clock);
        let (of_reader, queue) = (Arc::clone(&store), Arc::clone(&history));
        let newest = common.newest();
        let reader = HistoryReader { store: of_reader, queue, newest, counts: counted, clock };
        let steps =
            SimStore { committer, commits: Arc::clone(&commits), reader, history: Arc::clone(&history) };
        (HubStore { store, commits, counts, history }, steps)
    });
    let (of_hub, store) = store.unzip();
    let hub = Hub::new(
        common,
        clock,
        limits,
        options,
        handles,
        presence,
        KeptLog { store: of_hub, backplane: None },
    );
    SimEngine { hub, shards, life_cycle: life_cycle.map(LifeCycle::without_tasks), store }
}

/// Events with numbers and with room in the mailboxes that no shard has yet. Dropped, it gives the room back,
/// and its numbers become holes.
pub struct Sequenced(hub::Sequenced);

/// Does the first step of a publish. `numbers` are those that a log outside of the process has given, one for
/// each event.
///
/// # Errors
/// As [`Hub::publish_batch`].
pub fn sequence(
    hub: &Hub,
    events: &mut Vec<Event>,
    numbers: Option<&[u64]>,
) -> Result<Sequenced, PublishError> {
    hub.sequence(events, numbers.map_or(Numbers::Next, Numbers::Given)).map(Sequenced)
}

/// Does the last step of a publish, in any order with other batches. Also says whether the events are visible
/// now; otherwise they wait for older ones.
pub fn release(hub: &Hub, batch: Sequenced) -> (Published, bool) {
    let published = batch.0.published().clone();
    (published, hub.release(batch.0) == Visibility::Visible)
}

/// Begins the drain that [`crate::Engine::stop`] waits for. It does not wait for a durable store: the caller
/// makes its steps before.
pub fn drain(hub: &Hub, window: Duration) {
    hub.drain_and_commit(window, Duration::ZERO);
}

/// The name of the connection whose socket is watched under this token; `None`: it is none, or not yet.
pub fn connection_of(hub: &Hub, shard: usize, token: Token) -> Option<ConnectionId> {
    match SlotKey::of(token) {
        SlotKey::Link(link) => Some(hub.connection_id(shard, link)),
        SlotKey::Pending(_) => None,
    }
}

/// Orders about connections that a shard was given, and those that it has carried out.
pub fn orders(hub: &Hub, shard: usize) -> Orders {
    hub.orders(shard)
}

/// Lets members leave whose time without a connection is over at this time, and gives what is to be
/// announced: what the thread does that announces members.
pub fn announcements_at(hub: &Hub, now: Duration) -> Vec<Event> {
    hub.announcements_at(now)
}

/// Asks every shard for the counts of these topics, as [`Hub::topic`] does, without waiting for the answers.
pub fn ask(hub: &Hub, topics: &[Topic]) -> Vec<Asked> {
    hub.ask(topics).flatten().collect()
}

/// Asks one shard for those of its connections that a filter names, as [`Hub::connections_page`] does,
/// without waiting for the answer. `None`: it takes no question now.
pub fn list(hub: &Hub, shard: usize, filter: &ConnectionFilter, limit: usize) -> Option<AskedForConnections> {
    let wanted = WantedConnections { of: WantedOf::new(filter), from: 0, limit };
    hub.ask_for_connections(shard, wanted).ok()
}

/// Where the connections come that a shard has found.
pub type AskedForConnections = Asked<FoundConnections>;

impl<I: Io> SimShard<I> {
    /// How long it may sleep; with this it announces that it will.
    pub fn timeout(&mut self, now: Duration) -> Option<Duration> {
        let timeout = self.shard.timeout(now);
        self.shard.check_sleep(timeout);
        timeout
    }

    /// Whether its waker was used since the last question.
    pub fn was_woken(&self) -> bool {
        self.waker.was_used()
    }

    /// What the loop does first when a wait has ended.
    pub fn awake(&self) {
        self.shard.awake();
    }

    /// One tick.
    pub fn tick(&mut self, now: Duration, notifications: &mut Vec<Notification>) {
        self.shard.tick(now, notifications);
    }

    /// Checks all that must hold after a tick.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check(&self) {
        self.shard.check();
    }

    /// Whether the drain is over.
    pub fn is_stopped(&self) -> bool {
        self.shard.is_stopped()
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.shard.snapshot().counts
    }

    /// What else a model needs to know.
    pub fn snapshot(&self) -> ShardSnapshot {
        self.shard.snapshot()
    }

    /// The number of pages of the durable store that the shard holds or waits for.
    pub fn pages(&self) -> usize {
        self.shard.pages()
    }

    /// The sockets of laggards that wait for a page of the durable store.
    pub fn waiting_for_pages(&self) -> Vec<Socket> {
        self.shard.waiting_for_pages()
    }

    /// Each laggard's socket, and whether it is in line to be served.
    pub fn laggards(&self) -> impl Iterator<Item = (Socket, bool)> {
        self.shard.laggard_sockets()
    }
}

/// Checks that what the hub has counted of all clients is what the shards have.
///
/// # Panics
/// A connection that has left is counted, or one that is there is not.
pub fn check_clients<'s, I: Io + 's>(hub: &Hub, shards: impl IntoIterator<Item = &'s SimShard<I>>) {
    let mut counted = [0; 2];
    for shard in shards {
        for (sum, more) in counted.iter_mut().zip(shard.shard.counted()) {
            *sum += more;
        }
    }
    assert_eq!(hub.counted_of_clients(), counted, "connections of clients, and streams of subjects");
}

/// The state of a shard, as a model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// What it has counted.
    pub counts: Counts,
    /// Deadlines of requests, also of those that have left.
    pub deadlines: usize,
    /// Subscribers that wait for a number which is not released yet.
    pub resuming: usize,
    /// Some of them need not wait any longer, and begin in the next tick.
    pub has_left_resuming: bool,
    /// Mail that waits for it and is no event.
    pub others_waiting: usize,
    /// Requests that are decided about and wait for their turn.
    pub decided_waiting: usize,
    /// An event is not marked in all of its audiences yet.
    pub is_marking: bool,
    /// A sweep, or the marking for one, is unfinished.
    pub is_sweeping: bool,
    /// Sweeps are so far behind that the shard takes no mail.
    pub is_backlogged: bool,
    /// A drain was begun.
    pub is_draining: bool,
    /// Links have begun more than the bound, and streams are still to be ended for that.
    pub is_making_room: bool,
    /// Audiences without a stream are still to be removed, with their topics.
    pub is_removing: bool,
    /// Streams that fell behind and still take bytes.
    pub behind: usize,
    /// Streams that are not at a standstill.
    pub moving: usize,
    /// Bytes that it holds for sweeps under way and for what links have begun.
    pub memory_bytes: usize,
}

/// The state of the log of the process, as a model sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSnapshot {
    /// Frames that it holds.
    pub frames: usize,
    /// Their memory, with the indexes.
    pub bytes: usize,
    /// Pairs of a topic and a shard that reads it.
    pub readers: usize,
    /// Topics that it has an entry for.
    pub topics: usize,
    /// Patterns that are read or remembered.
    pub patterns: usize,
    /// Pairs of a pattern and a shard that reads it.
    pub pattern_readers: usize,
}

/// What the log says of one pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternInLog {
    /// Every event of the pattern after this number is in the log: the public ones, and all.
    pub available_after: [u64; 2],
    /// It is read or remembered.
    pub is_known: bool,
    /// The shards that read it.
    pub shards: Vec<usize>,
}

/// What the log says of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInLog {
    /// Every event of the topic after this number is in the log: the public ones, and all.
    pub available_after: [u64; 2],
    /// What is kept of it; `None`: neither events nor readers.
    pub extent: Option<TopicExtent>,
}

/// The log as a whole.
pub fn log_snapshot(hub: &Hub) -> LogSnapshot {
    hub.with_log(|log| LogSnapshot {
        frames: log.len(),
        bytes: log.bytes(),
        readers: log.readers(),
        topics: log.topic_count(),
        patterns: log.pattern_count(),
        pattern_readers: log.pattern_readers(),
    })
}

/// The numbers of all events that the log holds, in order.
pub fn numbers_in_log(hub: &Hub) -> Vec<u64> {
    hub.with_log(|log| log.numbers())
}

/// Changes with every call that may change the log.
pub fn log_changes(hub: &Hub) -> u64 {
    hub.with_log(|log| log.changes())
}

/// The log's answers about each of these topics.
pub fn topics_in_log(hub: &Hub, topics: &[Topic]) -> Vec<TopicInLog> {
    hub.with_log(|log| {
        let of = |topic: &Topic| TopicInLog {
            available_after: [false, true].map(|sees_private| {
                log.available_after(Selection::of(std::slice::from_ref(topic), sees_private))
            }),
            extent: log.topic(topic),
        };
        topics.iter().map(of).collect()
    })
}

/// The log's answers about each of these patterns, of so many shards.
pub fn patterns_in_log(hub: &Hub, patterns: &[Pattern], shards: usize) -> Vec<PatternInLog> {
    hub.with_log(|log| {
        let of = |pattern: &Pattern| {
            let available_after = [0, 1].map(|private| {
                let none = Selection::of(&[], false);
                log.available_after(none.with_patterns(std::slice::from_ref(pattern), private))
            });
            let shards = (0..shards).filter(|shard| log.is_pattern_read(pattern, *shard)).collect();
            PatternInLog { available_after, is_known: log.has_pattern(pattern), shards }
        };
        patterns.iter().map(of).collect()
    })
}

/// Events that are sequenced and neither released nor dropped, and events for which room is reserved in
/// mailboxes, summed over the mailboxes.
pub fn reserved_events(hub: &Hub) -> (usize, usize) {
    hub.reserved_events()
}
