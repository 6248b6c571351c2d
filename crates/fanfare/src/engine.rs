//! An engine and its builder. [`start`] makes an engine of a builder, [`limits`] has the builder's methods
//! for single bounds, and [`plan`] begins a shard's thread. [`store_threads`] has the threads of a durable
//! store.

mod limits;
mod plan;
mod start;
mod store_threads;

use std::net::SocketAddr;
use std::os::unix;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use fanfare_io::sockets::SocketOptions;
use fanfare_io::unix_socket::SocketFile;
use fanfare_io::{Backend, DescriptorTables, Resolved, ResolvedTables, table};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::limits::Limits;
use fanfare_proto::pattern::Pattern;

use crate::admission::{Admission, AdmissionThreads};
use crate::backplane::Backplane;
use crate::descriptors::DescriptorLimit;
use crate::hand_over::HandOver;
use crate::hub::Hub;
use crate::life_cycle::LifeCycle;
use crate::listeners::Listener;
use crate::position::TakenPosition;
use crate::presence::Announcer;
use crate::shard_thread;
use crate::stopping::{StopError, StopFuture};
use crate::store::StoreOptions;
use limits::LimitChange;
use start::within_bounds_of_engine;
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

    /// Options of every subscriber's socket. [`Builder::send_buffer`] and [`Builder::keepalive`] set one of
    /// them each, before this or after it.
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

    /// How long a member of a topic ([`Subscribe::with_member`](crate::Subscribe::with_member)) stays one
    /// after its last connection has ended. The default is five seconds: a page that is loaded anew neither
    /// leaves nor joins.
    pub fn presence_linger(mut self, linger: Duration) -> Builder {
        self.presence_linger = linger;
        self
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
