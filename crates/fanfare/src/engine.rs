//! Starting and stopping the shards. [`limits`] has the builder's methods for single bounds, and [`plan`]
//! begins a shard's thread. [`store_threads`] has those of a durable store.

mod limits;
mod plan;
mod store_threads;

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::unix;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use crossbeam_utils::CachePadded;
use fanfare_io::epoll::Epoll;
use fanfare_io::fd_channel::{self, DATA_LIMIT_BYTES, SocketSender};
use fanfare_io::sockets::SocketOptions;
use fanfare_io::unix_socket::SocketFile;
use fanfare_io::uring::Uring;
use fanfare_io::{Backend, Clock, DescriptorTables, Resolved, ResolvedTables, Waker};
use fanfare_io::{affinity, table};
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::limits::{LIFE_CYCLE_EVENTS_MAX, Limits, RECEIVE_BYTES};
use fanfare_proto::pattern::Pattern;
use fanfare_proto::problem::ProblemKind;
use fanfare_store::StoreReader;

use crate::admission::{Admission, AdmissionThreads, Admissions, Decision, Refusal, Request, Subscribe};
use crate::backplane::Backplane;
use crate::counts::{SharedCounts, SharedTimings};
use crate::descriptors::{Budget, DescriptorLimit};
use crate::hand_over::HandOver;
use crate::history::HistoryQueue;
use crate::hub::{Common, Hub, KeptLog, ShardHandle};
use crate::joins::JoinTable;
use crate::life_cycle::{LifeCycle, LifeCycleQueue};
use crate::listeners::{self, Listener, OpenListeners};
use crate::position::{PositionFile, TakenPosition};
use crate::presence::{Announcer, Presence};
use crate::shard::Links;
use crate::shard_thread;
use crate::shared_log::{ProcessLog, log_of};
use crate::stopping::{StopError, StopFuture};
use crate::store::{Recovered, StoreOptions};
use limits::LimitChange;
use plan::Plan;
use store_threads::StoreThreads;

/// A log begins below this number, so that no engine runs out of numbers.
pub(crate) const FIRST_NUMBER_LIMIT: u64 = 1 << 63;

/// How an engine is started: [`Engine::builder`], then options, then [`Builder::start`].
pub struct Builder {
    listeners: Vec<Listener>,
    takes_systemd_sockets: bool,
    shards: Option<usize>,
    pin: bool,
    descriptor_tables: DescriptorTables,
    raise_descriptor_limit: bool,
    backend: Backend,
    limits: Limits,
    /// Single bounds, which change `limits` at the start.
    limit_changes: Vec<LimitChange>,
    socket_options: SocketOptions,
    /// Changes `socket_options` at the start.
    send_buffer: Option<u32>,
    keepalive: Option<Duration>,
    admission: Option<ChosenAdmission>,
    admission_threads: usize,
    hand_over: bool,
    begin_after: Option<Cursor>,
    position_file: Option<PathBuf>,
    life_cycle: Option<usize>,
    joins: Option<NotedJoins>,
    presence_linger: Duration,
    store: Option<StoreOptions>,
    backplane: Option<Arc<dyn Backplane>>,
}

/// The topics whose joins are noted, and how many of them at a time.
struct NotedJoins {
    patterns: Vec<Pattern>,
    topics: usize,
}

/// An admission, and where the engine calls it.
enum ChosenAdmission {
    OnShards(Arc<dyn Admission>),
    OnThreads(Arc<dyn Admission>),
}

/// Threads for admissions, unless the builder is told another number.
const ADMISSION_THREADS: usize = 4;

/// A running engine. Dropped, it stops at once and cuts streams that were not sent everything;
/// [`Engine::stop`] gives them time.
pub struct Engine {
    hub: Hub,
    /// Connections of a shard that descriptors allow.
    connections_at_most: usize,
    shards: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    unix_addresses: Vec<unix::net::SocketAddr>,
    /// They are removed before the shards stop to listen, so that a new server finds either a server or no
    /// file.
    socket_files: Vec<SocketFile>,
    backend: Resolved,
    tables: ResolvedTables,
    descriptor_limit: DescriptorLimit,
    hand_over: Option<HandOver>,
    life_cycle: Option<LifeCycle>,
    announcer: Announcer,
    position: Option<TakenPosition>,
    store_threads: StoreThreads,
    _admission_threads: AdmissionThreadsEnd,
    /// Outlives the shards: they may not drop it, since the numbers of its descriptors name others in their
    /// tables. An engine that is stopped on a shard's thread gives it to the announcer.
    admission: Option<Arc<dyn Admission>>,
}

/// The threads of admissions, which end when this is dropped. They are not waited for: an admission may never
/// return.
struct AdmissionThreadsEnd(Option<Arc<AdmissionThreads>>);

/// Why an engine did not start.
#[derive(Debug)]
pub struct StartError {
    what: String,
    cause: io::Error,
}

impl Builder {
    /// Also listens here. Port 0 takes a free port: [`Engine::addresses`] tells which.
    pub fn listen(self, address: SocketAddr) -> Builder {
        self.listener(Listener::tcp(address))
    }

    /// Also listens on a Unix socket with this path, whose file has this mode, such as `0o660`. `None`: what
    /// the umask leaves. See [`Listener::unix`].
    pub fn listen_unix(self, path: impl Into<PathBuf>, mode: Option<u32>) -> Builder {
        let listener = Listener::unix(path);
        self.listener(match mode {
            Some(mode) => listener.with_mode(mode),
            None => listener,
        })
    }

    /// Also listens here: a socket that is open already, such as a [`std::net::TcpListener`], a
    /// [`std::os::unix::net::UnixListener`] or an [`std::os::fd::OwnedFd`], or a [`Listener`] with options of
    /// its own.
    pub fn listener(mut self, listener: impl Into<Listener>) -> Builder {
        self.listeners.push(listener.into());
        self
    }

    /// Also listens on the sockets that systemd has opened for this process (socket activation). The start
    /// fails where it has opened none. [`crate::listeners::from_systemd`] lets a program choose among them,
    /// and says more.
    pub fn systemd_sockets(mut self) -> Builder {
        self.takes_systemd_sockets = true;
        self
    }

    /// How many shards; the default is one per core that this process may use.
    pub fn shards(mut self, count: usize) -> Builder {
        self.shards = Some(count.max(1));
        self
    }

    /// Whether each shard stays on a core of its own. The default is no.
    pub fn pin(mut self, pin: bool) -> Builder {
        self.pin = pin;
        self
    }

    /// Whether each shard has a private descriptor table, so that `RLIMIT_NOFILE` counts per shard and
    /// connect storms meet no shared lock. The default is [`DescriptorTables::Shared`]. With
    /// [`DescriptorTables::Auto`], [`Engine::descriptor_tables`] tells which were taken.
    ///
    /// An admission that was given by [`Builder::admission`] does not notice; one that runs on the shards
    /// does.
    pub fn descriptor_tables(mut self, tables: DescriptorTables) -> Builder {
        self.descriptor_tables = tables;
        self
    }

    /// Whether the start raises the soft `RLIMIT_NOFILE` of the whole process to the hard one. The default is
    /// no: the limit belongs to the embedding program, which may use `select(2)`, or start programs that
    /// inherit the limit. [`Engine::descriptor_limit`] tells what came of it.
    pub fn raise_descriptor_limit(mut self, raise: bool) -> Builder {
        self.raise_descriptor_limit = raise;
        self
    }

    /// epoll or io_uring. The default takes io_uring where the kernel allows it.
    pub fn backend(mut self, backend: Backend) -> Builder {
        self.backend = backend;
        self
    }

    /// All bounds. Those that are options of the server can also be set one by one, before this or after it:
    /// see [`Builder::max_connections`] and the methods beside it.
    pub fn limits(mut self, limits: Limits) -> Builder {
        self.limits = limits;
        self
    }

    /// Options of every subscriber's socket. [`Builder::send_buffer`] and [`Builder::keepalive`] set one of them
    /// each, before this or after it.
    pub fn socket_options(mut self, options: SocketOptions) -> Builder {
        self.socket_options = options;
        self
    }

    /// The code that decides about requests, on threads of the engine's: see [`Admission`]. The default lets
    /// every client subscribe with `GET /events?topic=NAME`.
    pub fn admission(mut self, admission: impl Admission) -> Builder {
        self.admission = Some(ChosenAdmission::OnThreads(Arc::new(admission)));
        self
    }

    /// How many threads call the admission of [`Builder::admission`], at least one. The default is 4. An
    /// admission on the shards has no threads.
    pub fn admission_threads(mut self, count: usize) -> Builder {
        self.admission_threads = count.max(1);
        self
    }

    /// The code that decides about requests, on the thread of the shard that received the request, between
    /// two sends. It saves the way to another thread: some 12 us of CPU for each connect where many come at
    /// once, some 30 and more where each of them wakes its thread and the shard. While it runs, the streams
    /// of its shard wait, so it must not block. It may publish to its own engine's hub, to no other's. Calls
    /// that would wait for a shard refuse there: [`crate::Hub::publish_wait`], [`crate::Hub::publish_async`],
    /// [`crate::Hub::topic`], [`crate::Hub::topics_page`], [`HandOver::receive`]; [`Engine::stop`] begins the
    /// end and does not wait for it.
    ///
    /// # Safety
    /// Where the engine takes private descriptor tables ([`Builder::descriptor_tables`]), the admission uses
    /// and closes no descriptor that it did not open itself in the same call, apart from 0, 1 and 2. The
    /// descriptors of other threads are not there, and their numbers may be those of subscribers: a logger
    /// that has a file writes into the stream of one, and so does the wake-up of a channel or a runtime. To
    /// drop the owner of a descriptor is to close it.
    pub unsafe fn admission_on_shards(mut self, admission: impl Admission) -> Builder {
        self.admission = Some(ChosenAdmission::OnShards(Arc::new(admission)));
        self
    }

    /// Whether requests that are no subscriptions are handed to [`Engine::hand_over`] instead of being
    /// answered 404. They wait there until [`HandOver::receive`] takes them. Where too many
    /// of them wait, the answer is 503.
    pub fn hand_over(mut self, hand_over: bool) -> Builder {
        self.hand_over = hand_over;
        self
    }

    /// Goes on with a log that a durable store has, or that nodes share: this is its epoch, and the newest
    /// number that this engine will not have. The default is a random epoch, and a log that begins with
    /// number 1.
    ///
    /// The first event gets a higher number. A subscriber that comes with an id of this epoch and has
    /// everything up to this number resumes without a gap; one that has less gets a gap, whatever its topics
    /// are, because the engine knows none of the events between. A cursor is kept as text: [`Hub::head`] and
    /// [`Cursor::parse`]. An epoch must not go on after a crash with a number that is lower than one that a
    /// subscriber has seen: two events would bear one id. [`Builder::position_file`] keeps the cursor of a
    /// single process.
    pub fn begin_after(mut self, position: impl Into<Option<Cursor>>) -> Builder {
        self.begin_after = position.into();
        self
    }

    /// Keeps events in a durable store. A publish is answered, and subscribers get it, after its group is on
    /// stable storage, or is written: [`StoreOptions`]. The epoch and the numbers of the log are those of the
    /// store, so ids of clients stay valid over restarts. The start reads the newest events back, as many as
    /// [`fanfare_proto::limits::LogLimits::total_bytes`] has room for.
    ///
    /// One thread of its own appends to the store. It runs in the process's descriptor table, so that a store
    /// may open files. [`Hub::publish`] and [`Hub::publish_batch`], which do not wait, are refused with
    /// [`crate::PublishError::WouldBlock`].
    pub fn store(mut self, store: StoreOptions) -> Builder {
        self.store = Some(store);
        self
    }

    /// Shares one log with other nodes: [`Backplane`]. A publish goes to the log and is answered when the log
    /// has it and this node has got it from there. The epoch and the numbers are those of the log, so ids are
    /// equal on all nodes. The start reads the newest events back, as [`Builder::store`] does.
    ///
    /// The engine may become unable to go on with the log. It does not stop by itself then: its owner asks
    /// [`Hub::log_break`] from time to time, about once a second, stops the engine, and starts another one.
    ///
    /// [`Hub::publish`] and [`Hub::publish_batch`], which do not wait, are refused with
    /// [`crate::PublishError::WouldBlock`]. A durable store cannot be set, too: the shared log is the store.
    pub fn backplane(mut self, backplane: Arc<dyn Backplane>) -> Builder {
        self.backplane = Some(backplane);
        self
    }

    /// Lets the numbers of events go on after a restart, so that a subscriber that had everything resumes
    /// without a gap. The events themselves are in memory, and are lost.
    ///
    /// The start takes the position from this file, as for [`Builder::begin_after`], and removes the file.
    /// When the engine has stopped and no shard has panicked, it writes the file again. So a crash leaves no
    /// file, and the next engine begins a new log: subscribers get a gap, because numbers could be given
    /// twice otherwise. Where several engines start with one file, one of them takes it.
    ///
    /// The process needs the right to create and remove files in the directory of this file, and the file
    /// system has to keep what `fsync` has written. Do not copy the file back: the numbers behind an old copy
    /// have been given. [`Builder::begin_after`] cannot be set, too.
    pub fn position_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.position_file = Some(path.into());
        self
    }

    /// Whether [`Engine::life_cycle`] tells of each connection that begins and ends. Its queue holds this
    /// many events: [`Limits::life_cycle_events`], also where [`Builder::limits`] comes after this. The
    /// default is no: then nothing is kept of a connection that has no subject, no data and no member.
    pub fn life_cycle(mut self, events: usize) -> Builder {
        self.life_cycle = Some(events);
        self
    }

    /// Whether [`Hub::take_joins`] tells which topics streams begin and end to read: the topics that one of
    /// these patterns matches, at most so many at a time. More is counted ([`crate::Counts::joins_missed`]).
    /// The default is no. A join costs a look-up by the name of each topic, and nothing for a connection; a
    /// topic that is noted takes about 100 bytes until its joins are taken.
    pub fn note_joins(mut self, patterns: impl IntoIterator<Item = Pattern>, topics: usize) -> Builder {
        self.joins = Some(NotedJoins { patterns: patterns.into_iter().collect(), topics });
        self
    }

    /// How long a member of a topic ([`Subscribe::with_member`]) stays one after its last connection has
    /// ended. The default is five seconds: a page that is loaded anew neither leaves nor joins.
    pub fn presence_linger(mut self, linger: Duration) -> Builder {
        self.presence_linger = linger;
        self
    }

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

impl Engine {
    /// An engine with defaults, to be changed and started.
    pub fn builder() -> Builder {
        Builder {
            listeners: Vec::new(),
            takes_systemd_sockets: false,
            shards: None,
            pin: false,
            descriptor_tables: DescriptorTables::Shared,
            raise_descriptor_limit: false,
            backend: Backend::Auto,
            limits: Limits::default(),
            limit_changes: Vec::new(),
            socket_options: SocketOptions::default(),
            send_buffer: None,
            keepalive: None,
            admission: None,
            admission_threads: ADMISSION_THREADS,
            hand_over: false,
            begin_after: None,
            position_file: None,
            life_cycle: None,
            joins: None,
            presence_linger: Duration::from_secs(5),
            store: None,
            backplane: None,
        }
    }

    /// The handle to publish with.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// The addresses of TCP listened on, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The Unix sockets listened on: paths, and names in the abstract namespace.
    pub fn unix_addresses(&self) -> &[unix::net::SocketAddr] {
        &self.unix_addresses
    }

    /// Changes the bounds while streams are served: all that [`Limits::take_over`] takes,
    /// [`Limits::connections`] within what descriptors allow. The others are ignored; the retention of topics
    /// is changed by [`Hub::set_retention`].
    ///
    /// Each shard takes them over with its mail. A bound of connections that is lower than their number ends
    /// none: newcomers are refused until others have left. A log that has to become smaller does so in small
    /// steps. [`Hub::limits`] tells the bounds in force.
    pub fn change_limits(&self, limits: &Limits) {
        let mut limits = within_bounds_of_engine(limits.clone());
        limits.connections = limits.connections.min(self.connections_at_most);
        limits.laggard_total_bytes = self.hub.limits().laggard_total_bytes;
        let laggard_bytes = limits.laggard_bytes_of_one(self.shards.len());
        self.hub.change_limits(&limits, laggard_bytes);
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The backend in use, and, where io_uring was refused, why: one line for the operator.
    pub fn backend(&self) -> (Backend, Option<&str>) {
        (self.backend.backend, self.backend.fallback.as_deref())
    }

    /// The descriptor tables in use, and, where private tables were refused, why and what that means: one
    /// line for the operator.
    pub fn descriptor_tables(&self) -> (DescriptorTables, Option<&str>) {
        (self.tables.tables, self.tables.fallback.as_deref())
    }

    /// How many descriptors each table may hold. With [`DescriptorTables::Shared`] there is one table.
    pub fn descriptor_limit(&self) -> DescriptorLimit {
        self.descriptor_limit
    }

    /// Takes the receiving end of sockets that are not subscriptions, if [`Builder::hand_over`] was set. Take
    /// it soon: clients wait. When it is dropped, those in it are closed, and others answered 404.
    pub fn hand_over(&mut self) -> Option<HandOver> {
        self.hand_over.take()
    }

    /// Takes the reader's end of the queue of life-cycle events, if [`Builder::life_cycle`] was set.
    pub fn life_cycle(&mut self) -> Option<LifeCycle> {
        self.life_cycle.take()
    }

    /// Whether every shard still runs. A shard that does not has panicked, which is a fault of this crate, or
    /// of the [`crate::Store`] whose thread has panicked: connections are gone, and the hub refuses to
    /// publish. Stop the engine then, and start another one.
    pub fn is_running(&self) -> bool {
        self.shards.iter().all(|shard| !shard.is_finished())
    }

    /// Ends every stream at a frame boundary, spread over `window`, and waits until all have ended.
    ///
    /// On a shard's thread, where an [`Admission`] may run ([`Builder::admission_on_shards`]), it begins the
    /// end and does not wait for it: a shard cannot wait for itself.
    ///
    /// # Errors
    /// [`StopError`]: a shard has panicked, the calling thread is a shard, or the position could not be
    /// written.
    pub fn stop(mut self, window: Duration) -> Result<(), StopError> {
        self.drain(window)
    }

    /// Does what [`Engine::stop`] does, for tasks: no thread of the executor waits. The drain begins with
    /// this call, and the future is ready when all streams have ended. It may be dropped; the engine stops
    /// all the same.
    ///
    /// This starts a thread that waits for the shards. Where the system refuses that thread, the call itself
    /// waits.
    ///
    /// # Errors
    /// As [`Engine::stop`].
    pub fn stop_async(mut self, window: Duration) -> StopFuture {
        if shard_thread::is_current() {
            return StopFuture::ready(self.drain(window));
        }
        self.socket_files.clear();
        self.hub.drain(window);
        StopFuture::wait(self, |mut engine| engine.join())
    }

    fn drain(&mut self, window: Duration) -> Result<(), StopError> {
        self.socket_files.clear();
        self.hub.drain(window);
        if shard_thread::is_current() {
            let shards = std::mem::take(&mut self.shards);
            if let Some(admission) = self.admission.take() {
                self.announcer.end_on_shard(shards, admission);
            }
            if table::is_private() {
                // Their descriptors' numbers are other descriptors here, so they are not closed.
                std::mem::forget((self.hand_over.take(), self.hub.clone()));
            }
            return Err(StopError::OnShard);
        }
        self.join()
    }

    fn join(&mut self) -> Result<(), StopError> {
        // Waits for all of them, whatever the first one says.
        let ends: Vec<_> = self.shards.drain(..).map(thread::JoinHandle::join).collect();
        self.announcer.end();
        self.hub.end();
        self.store_threads.end();
        // Also where it is not written: the engine's drop comes here once more.
        let position = self.position.take();
        if ends.iter().any(Result::is_err) {
            return Err(StopError::ShardPanicked);
        }
        let Some(position) = position else { return Ok(()) };
        let path = position.path().to_owned();
        position.write(self.hub.head()).map_err(|error| StopError::position(&path, &error))
    }
}

impl Drop for AdmissionThreadsEnd {
    fn drop(&mut self) {
        if let Some(threads) = &self.0 {
            threads.end();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // An owner that needs the result calls `stop`.
        let _ = self.drain(Duration::ZERO);
    }
}

/// The unit of a connection's times: more often, upkeep could not tell whether a heartbeat is due.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

/// So that a head, with all that was received behind it, can be handed over in one message: a head that is
/// not complete has a byte less than this, and the message has a byte more than what was received.
const LARGEST_HEAD_BYTES: usize = DATA_LIMIT_BYTES - RECEIVE_BYTES;

/// The limits in force, apart from those that depend on descriptors.
fn within_bounds_of_engine(mut limits: Limits) -> Limits {
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

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("listeners", &self.listeners)
            .field("shards", &self.shards)
            .field("backend", &self.backend)
            .field("descriptor_tables", &self.descriptor_tables)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("addresses", &self.addresses)
            .field("unix_addresses", &self.unix_addresses)
            .field("shards", &self.shards.len())
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

impl StartError {
    fn new(what: &str, cause: io::Error) -> StartError {
        StartError { what: what.to_owned(), cause }
    }

    /// The operating system's part.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.cause)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
