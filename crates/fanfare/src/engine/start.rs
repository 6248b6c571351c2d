//! The start of an engine: what was asked for is checked and chosen, then the log, the channels and the
//! threads are made.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::epoll::Epoll;
use fanfare_io::fd_channel::{self, DATA_LIMIT_BYTES, SocketSender};
use fanfare_io::uring::Uring;
use fanfare_io::{Backend, Clock, DescriptorTables, Waker};
use fanfare_io::{affinity, table};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::limits::{LIFE_CYCLE_EVENTS_MAX, Limits, RECEIVE_BYTES};
use fanfare_proto::problem::ProblemKind;
use fanfare_store::StoreReader;

use super::plan::Plan;
use super::store_threads::StoreThreads;
use super::{AdmissionThreadsEnd, Builder, ChosenAdmission, Engine, FIRST_NUMBER_LIMIT, StartError};
use crate::admission::{AdmissionThreads, Admissions, Decision, Refusal, Request, Subscribe};
use crate::counts::{SharedCounts, SharedTimings};
use crate::descriptors::{Budget, DescriptorLimit};
use crate::hand_over::HandOver;
use crate::history::HistoryQueue;
use crate::hub::{Common, Hub, KeptLog, ShardHandle};
use crate::joins::JoinTable;
use crate::life_cycle::{LifeCycle, LifeCycleQueue};
use crate::listeners::{self, OpenListeners};
use crate::position::{PositionFile, TakenPosition};
use crate::presence::{Announcer, Presence};
use crate::shard::Links;
use crate::shared_log::{ProcessLog, log_of};
use crate::store::Recovered;

impl Builder {
    /// Starts the shards.
    ///
    /// # Errors
    /// [`Builder::begin_after`] was given a number of 2^63 or more, the file of [`Builder::position_file`]
    /// cannot be read or removed or holds something else, an address or a path is in use or not ours, a
    /// socket that was given does not listen, systemd has opened no socket, the backend or private descriptor
    /// tables are refused, threads are used up, or `RLIMIT_NOFILE` has no room for so many shards: then the
    /// error says for how many it has.
    pub fn start(self) -> Result<Engine, StartError> {
        let position_file = self.checked_position()?;
        if self.store.is_some() && self.backplane.is_some() {
            let both = "a durable store is set, too: the log that nodes share is the store";
            return Err(StartError::new("share a log", io::Error::other(both)));
        }
        let backend = self.backend.resolve().map_err(|cause| StartError::new("choose a backend", cause))?;
        let tables = self.descriptor_tables.resolve();
        let tables = tables.map_err(|cause| StartError::new("give each shard a descriptor table", cause))?;
        let private_tables = tables.tables == DescriptorTables::Private;
        let cores = affinity::cores().map_err(|cause| StartError::new("count the cores", cause))?;
        let count = self.shards.unwrap_or(cores.len());
        let descriptor_limit = DescriptorLimit::determine(self.raise_descriptor_limit)
            .map_err(|cause| StartError::new("read RLIMIT_NOFILE", cause))?;
        let mut listeners = self.listeners;
        if self.takes_systemd_sockets {
            let taken = listeners::from_systemd().map_err(|error| {
                StartError::new(
                    "take the sockets of systemd",
                    io::Error::new(io::ErrorKind::InvalidInput, error),
                )
            })?;
            listeners.extend(taken.into_iter().map(|socket| socket.listener));
        }
        let budget = Budget {
            limit: descriptor_limit.in_force,
            // Without proc(5) the number is unknown. Then the error of a start that needs too many is less
            // clear.
            open: table::open_descriptors().unwrap_or_default(),
            private_tables,
            listeners: listeners.len(),
            hand_over: self.hand_over,
            backend: backend.backend,
        };
        let mut limits = self.limits;
        self.limit_changes.into_iter().for_each(|change| change(&mut limits));
        let mut socket_options = self.socket_options;
        socket_options.send_buffer = self.send_buffer.or(socket_options.send_buffer);
        socket_options.keepalive = self.keepalive.or(socket_options.keepalive);
        if let Some(events) = self.life_cycle {
            // Fewer than two are two: see `LifeCycleQueue::new`.
            limits.life_cycle_events = events.max(2);
        }
        let limits = budget
            .share_out(within_bounds_of_engine(limits), count)
            .map_err(|text| StartError::new(&format!("start {count} shards"), io::Error::other(text)))?;
        let chosen = self.admission.unwrap_or_else(|| {
            let max_topics = limits.topics_per_subscription;
            // It uses no descriptor.
            let default = move |request: &Request<'_>| subscribe_at_events(request, max_topics);
            ChosenAdmission::OnShards(Arc::new(default))
        });
        let (admission, admissions) = match chosen {
            ChosenAdmission::OnThreads(admission) => {
                let (threads, waiting) = (self.admission_threads, limits.undecided.saturating_mul(count));
                let threads = AdmissionThreads::start(threads, waiting, limits.head, &admission);
                let failed = |cause| StartError::new("start a thread for admissions", cause);
                (admission, Admissions::OnThreads(threads.map_err(failed)?))
            }
            ChosenAdmission::OnShards(admission) => (Arc::clone(&admission), Admissions::OnShards(admission)),
        };

        let admission_threads = AdmissionThreadsEnd(match &admissions {
            Admissions::OnThreads(threads) => Some(Arc::clone(threads)),
            Admissions::OnShards(_) => None,
        });
        let listeners = OpenListeners::open(listeners, &socket_options, count)
            .map_err(|cause| StartError::new("start", cause))?;
        let failed = |cause| StartError::new("open the shards' channels", cause);
        let hand_over = self.hand_over.then(fd_channel::channel).transpose().map_err(failed)?;
        let (hand_over_to, hand_over) = hand_over.unzip();

        let life_cycle =
            (limits.life_cycle_events > 0).then(|| LifeCycleQueue::new(limits.life_cycle_events, count));
        if let Some(backplane) = &self.backplane {
            backplane.set_retention(limits.log.retention, &limits.log.rules);
        }
        let of_store = self.store.as_ref().map(|options| Arc::clone(&options.store) as Arc<dyn StoreReader>);
        let reader = of_store.or(self.backplane.as_ref().map(|backplane| backplane.reader()));
        let recovered = reader.as_deref().map(|reader| Recovered::read(reader, &limits.log, Clock::start()));
        let failed_store = |cause| StartError::new("read the durable log", io::Error::other(cause));
        let recovered = recovered.transpose().map_err(failed_store)?;
        // Events are older than this process.
        let clock = recovered.as_ref().map_or_else(Clock::start, Recovered::clock);
        let random = RandomState::new();
        let presence = Arc::new(Presence::new(self.presence_linger, &limits, random.hash_one("presence")));
        // From here on no file says where this log goes on. Where the start fails, it is written again.
        let position = position_file.map(take_position).transpose()?;
        let begin_after = self.begin_after.or(position.as_ref().and_then(TakenPosition::cursor));
        let begin_after = recovered.as_ref().map_or(begin_after, |recovered| Some(recovered.begin_after()));
        let epoch =
            begin_after.map_or_else(|| Epoch::new(random.hash_one("epoch")), |position| position.epoch);
        let mut log = log_of(epoch, &limits, random.hash_one("log"));
        if let Some(position) = begin_after {
            log.begin_after(position.seq);
        }
        if let Some(recovered) = recovered {
            recovered.append_to(&mut log, clock);
        }
        let common =
            Common::new(log, count, &limits, random.hash_one("engine") as u32, random.hash_one("clients"));
        let joins =
            self.joins.map(|joins| JoinTable::new(joins.patterns, joins.topics, random.hash_one("joins")));
        let common = common.with_joins(joins.map(Arc::new));
        let history = reader.is_some().then(HistoryQueue::new);
        let wakers: Vec<Waker> =
            (0..count).map(|_| Waker::new()).collect::<io::Result<_>>().map_err(failed)?;
        let mut handles = Vec::new();
        let mut plans = Vec::new();
        for (index, own_listeners) in listeners.by_shard.into_iter().enumerate() {
            let waker = wakers[index].clone();
            let (sockets, adopted) = fd_channel::channel().map_err(failed)?;
            let mailbox = common.mailbox(index, waker.clone());
            let log = common.shared_log(index, Arc::clone(&mailbox)).with_history(history.clone());
            let counts = Arc::new(CachePadded::new(SharedCounts::default()));
            let timings = Arc::new(CachePadded::new(SharedTimings::default()));
            let hand_over = hand_over_to.as_ref().map(SocketSender::try_clone).transpose().map_err(failed)?;
            handles.push(ShardHandle {
                mailbox: Arc::clone(&mailbox),
                sockets,
                counts: Arc::clone(&counts),
                timings: Arc::clone(&timings),
            });
            plans.push(Plan {
                waker,
                wakers: wakers.clone(),
                listeners: own_listeners,
                links: Links {
                    engine: common.engine(),
                    mailbox,
                    adopted,
                    hand_over,
                    counts,
                    timings,
                    admission: admissions.clone(),
                    congestion: common.congestion(),
                    orders: common.orders(),
                    presence: Arc::clone(&presence),
                    clients: common.clients(),
                    life_cycle: life_cycle.clone(),
                    joins: common.joins(),
                    log,
                    proxies: listeners.proxies.clone(),
                },
                limits: limits.clone().with_laggard_bytes(limits.laggard_bytes_of_one(count)),
                epoch,
                seed: random.hash_one(index),
                clock,
                core: self.pin.then(|| cores[index % cores.len()]),
                private_table: private_tables,
            });
        }
        drop(hand_over_to);
        let life_cycle = life_cycle.map(LifeCycle::start).transpose();
        let life_cycle = life_cycle.map_err(|cause| StartError::new("start a thread", cause))?;

        let end = || common.engine_end(Arc::clone(&handles[ProcessLog::TRIMMING_SHARD].mailbox));
        let failed_thread = |cause| StartError::new("start a thread", cause);
        let (mut kept, mut store_threads) = (KeptLog::default(), StoreThreads::default());
        if let Some((options, history)) = self.store.zip(history.clone()) {
            let started = StoreThreads::start(options, history, common.newest(), end(), clock);
            let (started, threads) = started.map_err(failed_thread)?;
            (kept.store, store_threads) = (Some(started), threads);
        } else if let Some(((shared, reader), history)) = self.backplane.zip(reader).zip(history) {
            let started = StoreThreads::start_shared(shared, reader, history, common.newest(), end(), clock);
            let (started, threads) = started.map_err(failed_thread)?;
            (kept.backplane, store_threads) = (Some(started), threads);
        }
        let mut engine = Engine {
            connections_at_most: budget.connections(count),
            hub: Hub::new(common, clock, limits, socket_options, handles, Arc::clone(&presence), kept),
            shards: Vec::new(),
            addresses: listeners.addresses,
            unix_addresses: listeners.unix_addresses,
            socket_files: listeners.files,
            backend,
            tables,
            descriptor_limit,
            hand_over: hand_over.map(|receiver| HandOver { receiver }),
            life_cycle,
            announcer: Announcer::new(presence),
            // A shard may publish before all of them have started: an admission does, and members join.
            position: position.map(TakenPosition::used),
            store_threads,
            _admission_threads: admission_threads,
            admission: Some(admission),
        };
        engine.announcer.start(engine.hub()).map_err(|cause| StartError::new("start a thread", cause))?;
        // One after the other: a table that parts while another shard opens its files would copy them.
        for (index, plan) in plans.into_iter().enumerate() {
            let thread = match engine.backend.backend {
                Backend::IoUring => plan.start(index, Uring::open),
                _ => plan.start(index, Epoll::open),
            };
            engine.shards.push(thread?);
        }
        engine.hub.begin_feed();
        Ok(engine)
    }

    /// Where the log is to go on: the file that is to be taken, or what the caller has said.
    fn checked_position(&self) -> Result<Option<PositionFile>, StartError> {
        let position_file = self.position_file.as_deref().map(|path| {
            let failed = |cause| StartError::new(&format!("read the position in {}", path.display()), cause);
            // It is read to find what is wrong with it before anything has changed.
            PositionFile::new(path).and_then(|file| file.read().map(|_| file)).map_err(failed)
        });
        let position_file = position_file.transpose()?;
        if let Some(position) = self.begin_after {
            let wrong = if position_file.is_some() {
                Some("a position file is set, too: after a crash, numbers would be given twice".to_owned())
            } else if position.seq >= FIRST_NUMBER_LIMIT {
                Some(format!("the number must be below {FIRST_NUMBER_LIMIT}"))
            } else {
                None
            };
            if let Some(text) = wrong {
                return Err(StartError::new(&format!("begin after {position}"), io::Error::other(text)));
            }
        }
        Ok(position_file)
    }
}

/// The unit of a connection's times: more often, upkeep could not tell whether a heartbeat is due.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

/// So that a head, with all that was received behind it, can be handed over in one message: a head that is
/// not complete has a byte less than this, and the message has a byte more than what was received.
const LARGEST_HEAD_BYTES: usize = DATA_LIMIT_BYTES - RECEIVE_BYTES;

/// Raises or lowers each limit to what every engine can work with. The limits that depend on the number of
/// descriptors are not changed here.
pub(super) fn within_bounds_of_engine(mut limits: Limits) -> Limits {
    limits.heartbeat = limits.heartbeat.max(SHORTEST_HEARTBEAT);
    limits.head.max_bytes = limits.head.max_bytes.min(LARGEST_HEAD_BYTES);
    limits.life_cycle_events = limits.life_cycle_events.min(LIFE_CYCLE_EVENTS_MAX);
    limits
}

fn take_position(file: PositionFile) -> Result<TakenPosition, StartError> {
    let what = format!("take the position in {}", file.path().display());
    file.take().map_err(|cause| StartError::new(&what, cause))
}

/// The default admission.
fn subscribe_at_events(request: &Request<'_>, max_topics: usize) -> Decision {
    if request.path() != "/events" {
        return Decision::HandOver;
    }
    if request.method() != "GET" {
        let wrong = Refusal::of(ProblemKind::MethodNotAllowed, "subscribe with GET /events?topic=NAME");
        return Decision::Refuse(wrong.own_header("Allow", "GET"));
    }
    match Subscribe::from_request(request, max_topics) {
        Ok(subscribe) => Decision::Subscribe(subscribe),
        Err(error) => Decision::Refuse(error.into()),
    }
}
