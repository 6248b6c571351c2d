//! `fanfare serve`: start the engine and its control plane, say where to look, and end gracefully.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use fanfare::{CloseReason, Counts, Engine, Listener};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing_subscriber::EnvFilter;

use crate::admission::EventsAdmission;
use crate::cli::ServeOptions;
use crate::control::{self, Bodies, Control, ControlLimits, Inspections, Notices, OwedWakes, Reporter};
use crate::cors::Cors;
use crate::health::Health;
use crate::hosts::Hosts;
use crate::listen;
use crate::memory;

/// Time between two checks of whether the shards run and what they had to refuse.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// So many of them between two checks of memory that is free.
const MEMORY_INTERVALS: u32 = 20;

/// Disconnected because they do not read as fast as they must.
const SLOW: [CloseReason; 2] = [CloseReason::LaggardFull, CloseReason::LaggardStalled];

/// Signals that would end the server without a drain. A terminal that is closed sends SIGHUP, and operators send all three
/// to ask for a reload or for new log files.
const IGNORED: [i32; 3] = [SIGHUP, SIGUSR1, SIGUSR2];

pub(crate) fn serve(options: ServeOptions) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_env("FANFARE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();

    options.check()?;
    // Before anything else, so that no signal finds a half-started server.
    let mut signals = Signals::new([SIGTERM, SIGINT].into_iter().chain(IGNORED))?;
    let notices = Arc::new(Notices::default());
    let health = Arc::new(Health::new());
    let limits = options.limits();
    let listeners = listen::listeners(&options.listen, options.unix_mode)?;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(Listener::address).collect();
    let mut hosts = Hosts::new(&options.hosts, &addresses);
    if addresses.len() < listeners.len() {
        hosts.allow_loopback();
    }
    let admission = EventsAdmission {
        hosts,
        cors: Cors::new(&options.cors_origins),
        max_topics: limits.topics_per_subscription,
        notices: Arc::clone(&notices),
        health: Arc::clone(&health),
    };
    let mut builder = Engine::builder()
        .backend(options.backend)
        .pin(options.pin)
        .descriptor_tables(options.descriptor_tables)
        .raise_descriptor_limit(true)
        .limits(limits)
        .socket_options(options.socket_options())
        .hand_over(true);
    // SAFETY: the admission and what it owns use no descriptor: it compares texts, raises counters, and reads the clock.
    builder = unsafe { builder.admission_on_shards(admission.clone()) };
    for listener in listeners {
        builder = builder.listener(listener);
    }
    if let Some(shards) = options.shards {
        builder = builder.shards(usize::from(shards));
    }
    let mut engine = builder.start()?;
    let limits = options.control_limits();
    if let Some(sockets) = engine.hand_over() {
        let control = Control {
            hub: engine.hub(),
            admission,
            limits,
            inspections: Inspections::default(),
            owed_wakes: OwedWakes::default(),
            bodies: Arc::new(Bodies::new(limits, Arc::clone(&notices))),
            notices: Arc::clone(&notices),
        };
        control::start(control, sockets)
            .map_err(|error| format!("cannot start the control plane: {error}"))?;
    }
    announce(&engine, &limits);

    let (told, tell) = mpsc::channel();
    thread::Builder::new().name("fanfare-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if IGNORED.contains(&signal) {
                let name = signal_name(signal).unwrap_or("a signal");
                tracing::info!("{name} is ignored; SIGTERM or SIGINT stops the server");
                continue;
            }
            if told.send(signal).is_err() {
                // The drain is under way and somebody is impatient.
                std::process::exit(128 + signal);
            }
        }
    })?;
    watch(&engine, &notices, &tell)?;
    drop(tell);

    let hub = engine.hub();
    let connections = hub.counts().connections;
    tracing::info!(connections, window = ?options.drain, "draining; a second signal stops at once");
    health.begin_drain();
    let end = engine.stop(options.drain);
    let counts = hub.counts();
    tracing::info!(
        drained = counts.closed_for(CloseReason::Drained),
        cut = counts.closed_for(CloseReason::Cut),
        slow = SLOW.map(|reason| counts.closed_for(reason)).iter().sum::<u64>(),
        "stopped; the cut were not sent everything, the slow were disconnected before"
    );
    end.map_err(Into::into)
}

/// Says where to look. A closed standard output is no reason not to serve.
fn announce(engine: &Engine, control: &ControlLimits) {
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
    let hub = engine.hub();
    let limits = hub.limits();
    let mut bounds = limits.memory_bounds(engine.shards());
    bounds.extend(control.memory_bounds());
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
    let mut out = io::stdout().lock();
    for address in engine.addresses() {
        let _ = writeln!(
            out,
            "fanfare {} is listening on http://{address}\n\
             \x20 look       http://{address}/\n\
             \x20 subscribe  curl -N 'http://{address}/events?topic=demo'\n\
             \x20 publish    curl -d topic=demo -d data=hello http://{address}/events",
            env!("CARGO_PKG_VERSION"),
        );
    }
    for address in engine.unix_addresses() {
        let abstract_name = address.as_abstract_name().map(|name| format!("@{}", name.escape_ascii()));
        let path = address.as_pathname().map(|path| path.display().to_string());
        let Some(name) = path.or(abstract_name) else { continue };
        let option = if name.starts_with('@') { "--abstract-unix-socket" } else { "--unix-socket" };
        let (version, socket) = (env!("CARGO_PKG_VERSION"), name.strip_prefix('@').unwrap_or(&name));
        let _ = writeln!(
            out,
            "fanfare {version} is listening on unix:{name}\n\
             \x20 subscribe  curl -N {option} '{socket}' 'http://localhost/events?topic=demo'\n\
             \x20 publish    curl {option} '{socket}' -d topic=demo -d data=hello http://localhost/events",
        );
    }
    let _ = out.flush();
}

/// Until a signal comes: logs what the shards had to refuse. Shards themselves never log, since a
/// logger's descriptor would mean something else in their tables.
fn watch(engine: &Engine, notices: &Notices, tell: &mpsc::Receiver<i32>) -> Result<(), Box<dyn Error>> {
    let hub = engine.hub();
    let mut before = hub.counts();
    let mut was_pausing = false;
    let mut reporter = Reporter::default();
    for round in 1_u32.. {
        match tell.recv_timeout(WATCH_INTERVAL) {
            Ok(_) => return Ok(()),
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
        reporter.report(notices, WATCH_INTERVAL * round);
        (before, was_pausing) = (now, pausing);
        if round % MEMORY_INTERVALS == 0 {
            memory::give_back();
        }
    }
    Ok(())
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
