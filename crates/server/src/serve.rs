//! `fanfare serve`: start the engine and its control plane, say where to look, and end gracefully.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use fanfare::{Backplane, CloseReason, Counts, Engine, LogBreak, Share, SharedProxies};
use fanfare_backplane::NatsBackplane;
use fanfare_config::{Flags, Listen, LogFormat, Place};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing_subscriber::EnvFilter;

use crate::access::{self, Access};
use crate::access_log::{self, AccessLog};
use crate::admission::EventsAdmission;
use crate::cluster;
use crate::cluster::orders::ClusterOrders;
use crate::cluster::settings::SharedSettings;
use crate::configuration::Configuration;
use crate::control::admin::{self, Admin};
use crate::control::spare_descriptors::SpareDescriptors;
use crate::control::{
    self, Audit, Bodies, Control, ControlLimits, CurrentLimits, Endings, Inspections, Notices, OwedWakes,
    PublishRates, Reporter, Undecided,
};
use crate::health::Health;
use crate::hosts::Hosts;
use crate::listen::{self, Listening};
use crate::log_output::{self, LogWriter};
use crate::memory;
use crate::metrics::{self, Metrics, Sources};
use crate::presence::{Presence, PresenceOptions};
use crate::profiling;
use crate::refusals::RefusalReporter;
use crate::reload::{Running, SetLog};
use crate::restart;
use crate::rules::{CurrentRules, Rules};
use crate::service_manager::ServiceManager;
use crate::store;
use crate::verifications::Verifications;

/// Time between two checks of whether the shards run and what they had to refuse.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// So many of them between two checks of memory that is free.
const MEMORY_INTERVALS: u32 = 20;

/// The longest drain where the server starts again because the shared log has broken off: subscribers get
/// nothing meanwhile.
const BREAK_DRAIN: Duration = Duration::from_secs(10);

/// What the end of all streams may take beyond its window.
const SHED_MARGIN: Duration = Duration::from_secs(1);

/// Disconnected because they do not read as fast as they must.
const SLOW: [CloseReason; 2] = [CloseReason::LaggardFull, CloseReason::LaggardStalled];

/// Signals that would end the server without a drain. Operators send them to ask for new log files.
const IGNORED: [i32; 2] = [SIGUSR1, SIGUSR2];

pub(crate) fn serve(flags: Flags) -> Result<(), Box<dyn Error>> {
    let configuration = Configuration::read(flags)?;
    let settings = &configuration.settings;
    let written_at_end =
        log_output::start().map_err(|error| format!("cannot start the thread of the log: {error}"))?;
    let log = start_log(&settings.log, settings.log_format);

    if settings.profiling
        && let Err(error) = profiling::start_with_heap_samples()
    {
        tracing::warn!(%error, "there are no profiles of the heap, because the program cannot be started again");
    }
    // Before anything else, so that no signal finds a half-started server.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP].into_iter().chain(IGNORED))?;
    let started = Sources::time();
    let notices = Arc::new(Notices::default());
    let health = Arc::new(Health::new());
    let proxies = SharedProxies::new(settings.proxies());
    let (listeners, listening) = listen::listeners(settings, &proxies)?;
    access::check_open(settings, &configuration.values, &listening)?;
    let before = Access::before(settings)?;
    let mut access = Access::of(settings, &configuration.values, &before)?;
    access.start(settings, &before)?;
    let access = Arc::new(access);
    let rules = CurrentRules::new(Rules::of(settings, &listening, Arc::clone(&access)));
    let limits = Arc::new(CurrentLimits::new(ControlLimits::of(settings)));
    let verifications =
        Verifications::start().map_err(|error| format!("cannot start the threads for tokens: {error}"))?;
    let admission = EventsAdmission {
        rules: rules.clone(),
        notices: Arc::clone(&notices),
        health: Arc::clone(&health),
        verifications: verifications.clone(),
    };
    // The engine counts what is open, and leaves the spare descriptors to the admin listener.
    let admin_listener = admin_listener(&configuration)?.map(|(address, listener)| {
        let spare = SpareDescriptors::hold(metrics::process::descriptor_limit().unwrap_or(u64::MAX));
        (address, listener, spare)
    });
    let store = store::open(settings)?;
    let backplane = cluster::connect(settings, &mut signals)?;
    let barred = backplane
        .as_ref()
        .map(|backplane| cluster::orders::bar_before_start(backplane, &rules.get().access))
        .transpose()?
        .unwrap_or_default();
    let before = restart::started_again();
    let shared_settings =
        backplane.as_ref().map(|backplane| SharedSettings::agree(backplane, settings, before.as_ref()));
    let mut engine_limits = settings.limits();
    if let Some(shared) = &shared_settings {
        let in_force = shared.in_force();
        let has_presence = !in_force.presence().is_empty();
        (engine_limits.log.retention, engine_limits.log.rules) =
            (in_force.retention(), in_force.rules(has_presence));
        access.set_presence(has_presence);
    }
    let mut shared_log = cluster::Watch::default();
    if let Some(backplane) = &backplane {
        shared_log.look(backplane, &health);
    }
    let inspections = Arc::new(Inspections::default());
    let bodies = Arc::new(Bodies::new(Arc::clone(&limits), Arc::clone(&notices)));
    let mut builder = Engine::builder()
        .backend(settings.backend)
        .pin(settings.pin)
        .descriptor_tables(settings.descriptor_tables)
        .raise_descriptor_limit(true)
        .limits(engine_limits)
        .socket_options(settings.socket_options())
        .hand_over(true);
    // SAFETY: the admission and what it owns use no descriptor: it reads the rules of the moment, compares
    // texts, looks up tokens that were verified before, raises counters, reads the clocks, and puts tokens
    // that are to be verified, and what an endpoint is to be asked, into queues of memory, from which other
    // threads take them.
    builder = unsafe { builder.admission_on_shards(admission.clone()) };
    for listener in listeners {
        builder = builder.listener(listener);
    }
    if settings.access_log {
        builder = builder.life_cycle(access_log::STREAM_EVENTS);
    }
    let presence = match &shared_settings {
        Some(shared) => PresenceOptions::shared(settings, &shared.in_force()),
        None => PresenceOptions::of(settings),
    };
    if let Some(presence) = &presence {
        let (patterns, topics) = presence.noted();
        builder = builder.note_joins(patterns, topics);
    }
    if let Some(shards) = settings.shards {
        builder = builder.shards(shards);
    }
    if let Some(store) = &store {
        builder = builder.store(store::options(store, settings));
    }
    if let Some(backplane) = &backplane {
        builder = builder.backplane(Arc::clone(backplane) as Arc<dyn Backplane>);
    }
    let log_rate = settings.access_log_rate as u64;
    let access_log = settings.access_log.then(|| AccessLog::start(log_rate)).transpose();
    let access_log = access_log.map_err(|error| format!("cannot start the access log: {error}"))?;
    if settings.profiling {
        // SAFETY: the handler of `profiling::sampler` uses no descriptor, and there is no other one of this
        // signal.
        unsafe { fanfare::allow_profiling_signal() };
    }
    let mut engine = builder.start()?;
    if let Some(streams) = engine.life_cycle() {
        access_log::follow_streams(streams, log_rate)
            .map_err(|error| format!("cannot start the access log: {error}"))?;
    }
    let peers = backplane.as_ref().map(cluster::peers);
    let presence =
        presence.map(|options| Presence::start(options, engine.hub(), rules.clone(), peers)).transpose();
    let presence = presence.map_err(|error| format!("cannot start the thread of presence: {error}"))?;
    let mut cluster_orders = None;
    if let Some(backplane) = &backplane {
        if let Some(presence) = &presence {
            cluster::hear_presence(backplane, presence)?;
        }
        let orders = ClusterOrders::start(Arc::clone(backplane), engine.hub(), rules.clone(), barred);
        let orders = orders.and_then(|orders| {
            shared_settings.as_ref().map_or(Ok(()), |shared| shared.follow(backplane, engine.hub()))?;
            Ok(orders)
        });
        cluster_orders =
            Some(orders.map_err(|error| format!("cannot start the threads of the cluster: {error}"))?);
    }
    if let Some(sockets) = engine.hand_over() {
        let control = Control {
            hub: engine.hub(),
            admission,
            limits: Arc::clone(&limits),
            inspections: Arc::clone(&inspections),
            owed_wakes: OwedWakes::default(),
            bodies: Arc::clone(&bodies),
            publish_rates: PublishRates::default(),
            undecided: Undecided::default(),
            endings: Endings::default(),
            notices: Arc::clone(&notices),
            audit: Audit::default(),
            access_log: access_log.clone(),
            cluster: cluster_orders,
            presence,
        };
        control::start(control, sockets)
            .map_err(|error| format!("cannot start the control plane: {error}"))?;
    }
    let mut open_admin = None;
    if let Some((address, listener, spare)) = admin_listener {
        open_admin = listener.is_some().then_some(address);
        let sources = Sources {
            hub: engine.hub(),
            backend: engine.backend().0.to_string(),
            tables: engine.descriptor_tables().0.to_string(),
            health: Arc::clone(&health),
            notices: Arc::clone(&notices),
            limits: Arc::clone(&limits),
            rules: rules.clone(),
            bodies,
            backplane: backplane.clone(),
            shared_settings: shared_settings.clone(),
            started,
        };
        let hosts = Hosts::new(&configuration.settings.admin_host, &[address]);
        let profiling = configuration.settings.profiling;
        let admin = Admin::new(hosts, Metrics::new(sources), inspections, profiling);
        admin::start(admin, address, listener, spare)
            .map_err(|error| format!("cannot start the admin listener: {error}"))?;
    }
    announce(&engine, &configuration, &limits.get(), &access, &listening, open_admin);
    drop(access);
    let mut manager = ServiceManager::find(WATCH_INTERVAL);
    manager.ready(engine.hub().counts().connections);
    let mut running =
        Running { configuration, listening, rules, limits, proxies, log, store, shared_settings };

    let (told, tell) = mpsc::channel();
    thread::Builder::new().name("fanfare-signals".to_owned()).spawn(move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            if IGNORED.contains(&signal) {
                let name = signal_name(signal).unwrap_or("a signal");
                tracing::info!("{name} is ignored; SIGTERM or SIGINT stops the server");
                continue;
            }
            // A second signal ends the process, whatever the main thread does.
            if signal != SIGHUP && std::mem::replace(&mut is_stopping, true) {
                std::process::exit(128 + signal);
            }
            // Nobody hears of a reload while the server drains.
            let _ = told.send(signal);
        }
    })?;
    let mut reporter = Reporter::default();
    let watched = Watched {
        engine: &engine,
        notices: &notices,
        health: &health,
        running: &mut running,
        manager: &mut manager,
        backplane: backplane.as_deref(),
        shared_log: &mut shared_log,
    };
    let why = watch(watched, &mut reporter, &tell)?;

    let hub = engine.hub();
    let connections = hub.counts().connections;
    let mut drain = running.configuration.settings.drain;
    health.begin_drain();
    match &why {
        WatchEnd::Signal => {
            tracing::info!(connections, window = ?drain, "draining; a second signal stops at once");
            manager.stopping(connections, drain);
            // Other servers of the cluster go on, so the streams get their events for as long as they last.
            if backplane.is_some()
                && let Ok(shedding) = hub.shed(Share::ALL, drain)
            {
                shedding.wait(drain + SHED_MARGIN);
                drain = drain.min(SHED_MARGIN);
            }
        }
        WatchEnd::LogBreak(log_break) => {
            drain = drain.min(BREAK_DRAIN);
            tracing::error!(connections, window = ?drain, "{log_break}; the server ends its streams and starts again");
            manager.reloading();
        }
    }
    let end = engine.stop(drain);
    if let Some(store) = &running.store {
        store::close(store);
    }
    verifications.end();
    reporter.report_rest(&notices);
    let counts = hub.counts();
    tracing::info!(
        drained = counts.closed_for(CloseReason::Drained) + counts.closed_for(CloseReason::Shed),
        cut = counts.closed_for(CloseReason::Cut),
        slow = SLOW.map(|reason| counts.closed_for(reason)).iter().sum::<u64>(),
        "stopped; the cut were not sent everything, the slow were disconnected before"
    );
    if matches!(why, WatchEnd::LogBreak(_)) {
        // The sockets of systemd are closed with the engine: only systemd can pass them on again.
        let settings = &running.configuration.settings;
        if [&settings.listen, &settings.listen_proxy].iter().any(|all| all.contains(&Listen::Systemd)) {
            return Err("the server has to be started again, because the shared log has broken off".into());
        }
        if tell.try_iter().any(|signal| signal != SIGHUP) {
            tracing::info!("a signal has come meanwhile: the server does not start again");
            return end.map_err(Into::into);
        }
        drop(written_at_end);
        let is_over = matches!(why, WatchEnd::LogBreak(LogBreak::NewEpoch(_)));
        let epoch_over = is_over.then(|| hub.head().epoch.to_string());
        let topic_settings = running.shared_settings.as_ref().and_then(|shared| shared.handed_over());
        let error = restart::in_place(epoch_over.as_deref(), topic_settings);
        return Err(format!("cannot start again: {error}").into());
    }
    end.map_err(Into::into)
}

/// Why the server ends.
enum WatchEnd {
    Signal,
    /// It cannot go on with the log that it shares with others.
    LogBreak(LogBreak),
}

/// The address of the admin listener, and its socket where it is open.
type AdminSocket = (SocketAddr, Option<TcpListener>);

/// Opens the admin listener. There is no socket where the address is in use: the listener is opened when the
/// address is free. An error would end an upgrade, because the old server keeps the address until its drain
/// is over. Other errors count where the configuration names the address.
fn admin_listener(configuration: &Configuration) -> Result<Option<AdminSocket>, Box<dyn Error>> {
    let Some(address) = configuration.settings.admin else { return Ok(None) };
    let is_default = matches!(configuration.values.place("admin"), None | Some(Place::Default));
    match admin::listen(address) {
        Ok(listener) => Ok(Some((listener.local_addr()?, Some(listener)))),
        Err(error) if is_default || error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(
                %address,
                "the admin listener is not open, so there are no metrics: {error}; it opens when the address is free; \
                 --admin ADDRESS:PORT sets another one, and --admin off leaves the listener out"
            );
            Ok(Some((address, None)))
        }
        Err(error) => Err(format!("cannot open the admin listener on {address}: {error}").into()),
    }
}

/// The filter of the log with this text. The client library of NATS says of each connection what the server
/// says itself, so it logs where it is named.
pub(crate) fn log_filter(text: &str) -> EnvFilter {
    match text.contains("async_nats") {
        true => EnvFilter::new(text),
        false => EnvFilter::new(format!("{text},async_nats=off")),
    }
}

/// Starts the log, and gives what replaces its filter.
fn start_log(filter: &str, format: LogFormat) -> SetLog {
    let filter = log_filter(filter);
    let log = tracing_subscriber::fmt().with_writer(LogWriter).log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let ansi = io::stderr().is_terminal();
            let log = log.with_ansi(ansi).with_env_filter(filter).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
        // One object on each line. The fields of a line stand beside its time, level and message.
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
    }
}

/// Says where to look. A closed standard output is no reason not to serve.
fn announce(
    engine: &Engine,
    configuration: &Configuration,
    control: &ControlLimits,
    access: &Access,
    listening: &Listening,
    admin: Option<SocketAddr>,
) {
    let (backend, backend_fallback) = engine.backend();
    let (tables, tables_fallback) = engine.descriptor_tables();
    for reason in [backend_fallback, tables_fallback].into_iter().flatten() {
        tracing::warn!("{reason}");
    }
    let descriptors = engine.descriptor_limit();
    if descriptors.in_force > descriptors.found {
        let (from, to) = (descriptors.found, descriptors.in_force);
        tracing::info!(
            from,
            to,
            "the soft RLIMIT_NOFILE was raised to the hard one; `ulimit -Hn` lowers that"
        );
    }
    let settings = &configuration.settings;
    let hub = engine.hub();
    let limits = hub.limits();
    if limits.connections < settings.max_connections {
        let (limit, connections) = (descriptors.in_force, limits.connections.saturating_mul(engine.shards()));
        let is_default = configuration.values.place("max-connections") == Some(&Place::Default);
        let text = "RLIMIT_NOFILE has room for fewer connections than --max-connections allows; LimitNOFILE= of a \
                    systemd unit, or `ulimit -Hn`, raises it";
        match is_default {
            true => tracing::info!(limit, connections, "{text}"),
            false => tracing::warn!(limit, connections, "{text}"),
        }
    }
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    if !access.has_keys() && !engine.addresses().iter().all(is_loopback) {
        tracing::warn!("--open: without keys, everyone who reaches the server may subscribe and publish");
    }
    if let Some(address) = settings.admin.filter(|address| !is_loopback(address)) {
        tracing::warn!(
            %address,
            "the admin listener (--admin) asks for no token: everyone who reaches it reads the figures of the \
             server and the addresses and subjects of its clients (/connections); guard it by a firewall or a \
             NetworkPolicy"
        );
    }
    if !access.has_keys() && !settings.open && !settings.trusted_proxies.is_empty() {
        tracing::warn!(
            "there are --trusted-proxies and no keys: everyone who reaches a proxy may subscribe and publish; give \
             the server --publisher-keys and --subscriber-keys, or write --open if that is right"
        );
    }
    let mut bounds = limits.memory_bounds(engine.shards());
    bounds.extend(control.memory_bounds());
    bounds.extend(access.memory_bounds());
    bounds.extend(store::memory_bounds(&hub));
    let sum = bounds.iter().fold(0_usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
    let parts: Vec<String> =
        bounds.iter().map(|(name, bytes)| format!("{name} {}", ByteSize::b(*bytes as u64))).collect();
    tracing::info!(
        %backend,
        %tables,
        shards = engine.shards(),
        connections_per_shard = limits.connections,
        publishes = control.publishes,
        memory_at_most = %ByteSize::b(sum as u64),
        "{}", parts.join(", ")
    );
    let mut out = Vec::new();
    // `fanfare token mint` makes one. The tokens of subscribers and of publishers are different ones.
    let token = if access.has_keys() { "-H \"Authorization: Bearer $TOKEN\" " } else { "" };
    for (index, address) in engine.addresses().iter().enumerate() {
        let _ = match index < listening.direct_addresses {
            true => writeln!(
                out,
                "fanfare {} is listening on http://{address}\n\
                 \x20 look       http://{address}/\n\
                 \x20 subscribe  curl -N {token}'http://{address}/events?topic=demo'\n\
                 \x20 publish    curl {token}-d topic=demo -d data=hello http://{address}/events",
                env!("CARGO_PKG_VERSION"),
            ),
            false => for_proxies(&mut out, &address.to_string()),
        };
    }
    let direct_sockets = listening.direct - listening.direct_addresses;
    for (index, address) in engine.unix_addresses().iter().enumerate() {
        let abstract_name = address.as_abstract_name().map(|name| format!("@{}", name.escape_ascii()));
        let path = address.as_pathname().map(|path| path.display().to_string());
        let Some(name) = path.or(abstract_name) else { continue };
        if index >= direct_sockets {
            let _ = for_proxies(&mut out, &format!("unix:{name}"));
            continue;
        }
        let option = if name.starts_with('@') { "--abstract-unix-socket" } else { "--unix-socket" };
        let (version, socket) = (env!("CARGO_PKG_VERSION"), name.strip_prefix('@').unwrap_or(&name));
        let _ = writeln!(
            out,
            "fanfare {version} is listening on unix:{name}\n\
             \x20 subscribe  curl -N {option} '{socket}' {token}'http://localhost/events?topic=demo'\n\
             \x20 publish    curl {option} '{socket}' {token}-d topic=demo -d data=hello http://localhost/events",
        );
    }
    if let Some(address) = admin {
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(
            out,
            "fanfare {version} has metrics and health checks on http://{address}/metrics\n\
             \x20 look       http://{address}/dashboard"
        );
    }
    log_output::print(out);
}

/// A listener to which clients cannot connect themselves.
fn for_proxies(out: &mut impl Write, address: &str) -> io::Result<()> {
    writeln!(out, "fanfare {} is listening on {address} for the PROXY protocol", env!("CARGO_PKG_VERSION"))
}

/// The parts of the server that [`watch`] reads and changes.
struct Watched<'w> {
    engine: &'w Engine,
    notices: &'w Notices,
    health: &'w Health,
    running: &'w mut Running,
    manager: &'w mut ServiceManager,
    backplane: Option<&'w NatsBackplane>,
    shared_log: &'w mut cluster::Watch,
}

/// Until a signal comes: logs what the shards had to refuse. Shards themselves never log, since a
/// logger's descriptor would mean something else in their tables.
fn watch(
    watched: Watched<'_>,
    reporter: &mut Reporter,
    tell: &mpsc::Receiver<i32>,
) -> Result<WatchEnd, Box<dyn Error>> {
    let Watched { engine, notices, health, running, manager, backplane, shared_log } = watched;
    let hub = engine.hub();
    let mut before = hub.counts();
    let mut was_pausing = false;
    let mut refusals = RefusalReporter::default();
    for round in 1_u32.. {
        match tell.recv_timeout(WATCH_INTERVAL) {
            Ok(SIGHUP) => {
                manager.reloading();
                let outcome = running.reload(engine);
                manager.reloaded(&outcome);
                continue;
            }
            Ok(_) => return Ok(WatchEnd::Signal),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("the signal thread has ended".into()),
        }
        if !engine.is_running() {
            return Err("a shard has ended by itself; its message is above".into());
        }
        let now = hub.counts();
        let pausing = now.accept_pauses > before.accept_pauses;
        if pausing && !was_pausing {
            tracing::warn!(
                connections = now.connections,
                "descriptors or memory are used up: accepting pauses; raise RLIMIT_NOFILE, or --shards"
            );
        }
        report(&before, &now);
        if let Some(error) = hub.take_store_error() {
            let is_broken = hub.store_figures().is_some_and(|figures| figures.is_broken);
            tracing::error!(is_broken, "the durable log: {error}");
            if is_broken {
                health.lose_store();
            }
        }
        reporter.report(notices, WATCH_INTERVAL * round);
        refusals.report(&now, WATCH_INTERVAL * round);
        (before, was_pausing) = (now, pausing);
        manager.send_owed();
        if health.is_live() {
            manager.alive(WATCH_INTERVAL * round, now.connections);
        }
        if round % MEMORY_INTERVALS == 0 {
            memory::give_back();
        }
        if let Some(backplane) = backplane {
            shared_log.look(backplane, health);
        }
        // While NATS is away, a new start would only wait: the streams stay until then.
        let is_reachable = backplane.is_none_or(|backplane| backplane.status().is_connected);
        if let Some(log_break) = hub.log_break().filter(|_| is_reachable) {
            return Ok(WatchEnd::LogBreak(log_break));
        }
    }
    Ok(WatchEnd::Signal)
}

fn report(before: &Counts, now: &Counts) {
    if now.turned_away > before.turned_away {
        let count = now.turned_away - before.turned_away;
        tracing::warn!(
            count,
            "connections were closed without an answer: too many request heads are incomplete, or descriptors or \
             watches (fs.epoll.max_user_watches) are used up"
        );
    }
    if now.admission_panics > before.admission_panics {
        let count = now.admission_panics - before.admission_panics;
        tracing::error!(count, "requests were answered 500: a panic, whose message is above");
    }
    if now.heads_timed_out > before.heads_timed_out {
        let count = now.heads_timed_out - before.heads_timed_out;
        tracing::info!(count, "request heads were not complete in time");
    }
    for reason in SLOW {
        if now.closed_for(reason) > before.closed_for(reason) {
            let count = now.closed_for(reason) - before.closed_for(reason);
            tracing::info!(count, reason = reason.name(), "slow subscribers were disconnected");
        }
    }
}
