//! `fanfare serve`: start the engine and its control plane, say where to look, and end gracefully.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fanfare::{Counts, Engine, Farewell};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::admission::EventsAdmission;
use crate::cli::ServeOptions;
use crate::control::{self, Bodies, Control, ControlLimits, Inspections, Notices, Reporter};
use crate::cors::Cors;
use crate::hosts::Hosts;
use crate::memory;

/// Time between two looks at whether the shards run and what they had to refuse.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// So many of them between two looks at memory that is free.
const MEMORY_INTERVALS: u32 = 20;

/// Disconnected because they do not read as fast as they must.
const SLOW: [Farewell; 2] = [Farewell::LaggardFull, Farewell::LaggardStalled];

pub(crate) fn serve(options: ServeOptions) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_env("FANFARE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();

    options.check()?;
    // Before anything else, so that no signal finds a half-started server.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let notices = Arc::new(Notices::default());
    let limits = options.limits();
    let admission = EventsAdmission {
        hosts: Hosts::new(&options.hosts, &options.listen),
        cors: Cors::new(&options.cors_origins),
        max_topics: limits.topics_per_subscription,
        notices: Arc::clone(&notices),
    };
    let mut builder = Engine::builder()
        .backend(options.backend)
        .pin(options.pin)
        .private_tables(!options.shared_table)
        .limits(limits)
        .socket_options(options.socket_options())
        .admission(admission.clone())
        .hand_over(true);
    for address in &options.listen {
        builder = builder.listen(*address);
    }
    if let Some(shards) = options.shards {
        builder = builder.shards(usize::from(shards));
    }
    let shards =
        options.shards.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let start = builder.start().map_err(|error| match descriptors_used_up(error.cause(), shards, &options) {
        Some(reason) => format!("{error}{reason}"),
        None => error.to_string(),
    });
    let mut engine = start?;
    let draining = Arc::new(AtomicBool::new(false));
    let limits = options.control_limits();
    if let Some(sockets) = engine.hand_over() {
        let control = Control {
            hub: engine.hub(),
            admission,
            limits,
            draining: Arc::clone(&draining),
            inspections: Inspections::default(),
            bodies: Arc::new(Bodies::new(limits, Arc::clone(&notices))),
            notices: Arc::clone(&notices),
        };
        control::start(control, sockets).map_err(|error| {
            let reason = descriptors_used_up(&error, shards, &options).unwrap_or_default();
            format!("cannot start the control plane: {error}{reason}")
        })?;
    }
    announce(&engine, &limits);

    let (told, tell) = mpsc::channel();
    thread::Builder::new().name("fanfare-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                // A terminal that is closed sends it, and so does an operator who wants a reload.
                tracing::info!("SIGHUP is ignored; SIGTERM or SIGINT stops the server");
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
    draining.store(true, Ordering::Relaxed);
    let end = engine.stop(options.drain);
    let counts = hub.counts();
    tracing::info!(
        drained = counts.farewell(Farewell::Drained),
        cut = counts.farewell(Farewell::Cut),
        slow = SLOW.map(|reason| counts.farewell(reason)).iter().sum::<u64>(),
        "stopped; the cut were not sent everything, the slow were disconnected before"
    );
    end.map_err(|_| "a shard has panicked; its message is above".into())
}

/// What to do where descriptors are used up at the start, if that is what has happened.
fn descriptors_used_up(error: &io::Error, shards: usize, options: &ServeOptions) -> Option<String> {
    /// The error numbers of Linux, the same on every architecture (errno(3)).
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    /// What the process has besides.
    const OTHERS: usize = 16;
    match error.raw_os_error()? {
        EMFILE => {}
        ENFILE => return Some("; the system's table of open files is full (fs.file-max)".to_owned()),
        _ => return None,
    }
    // A waker and three ends of channels, a listener for each address, and the backend's own where it shares
    // the table.
    let each = 4 + options.listen.len() + if options.shared_table { 3 } else { 0 };
    let (needed, limits) = (shards * each + OTHERS, std::fs::read_to_string("/proc/self/limits").ok()?);
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let limit: usize = line.split_ascii_whitespace().next()?.parse().ok()?;
    let fit = limit.saturating_sub(OTHERS) / each;
    Some(format!(
        "; {shards} shards need about {needed} descriptors to start, and RLIMIT_NOFILE allows {limit}, enough \
         for {fit} shards; start fewer (--shards), or raise the limit (ulimit -n, or LimitNOFILE of systemd)"
    ))
}

/// Says where to look. A closed standard output is no reason not to serve.
fn announce(engine: &Engine, control: &ControlLimits) {
    let (backend, fallback) = engine.backend();
    if let Some(reason) = fallback {
        tracing::warn!("io_uring is refused, using epoll: {reason}");
    }
    let hub = engine.hub();
    let limits = hub.limits();
    tracing::info!(
        %backend,
        shards = engine.shards(),
        connections_per_shard = limits.connections,
        log_mib = limits.retention.bytes >> 20,
        window_mib = limits.laggard_bytes >> 20,
        mailbox_mib = limits.mailbox_bytes >> 20,
        pending_mib = (limits.pending * limits.head.max_bytes) >> 20,
        "bounds of each shard"
    );
    tracing::info!(
        publishes = control.publishes,
        publish_mib = control.publish_bytes >> 20,
        "bounds of the control plane"
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
    let _ = out.flush();
}

/// Until a signal comes: logs what the shards had to refuse. Shards themselves never log, since a
/// logger's descriptor would mean something else in their tables.
fn watch(engine: &Engine, notices: &Notices, tell: &mpsc::Receiver<i32>) -> Result<(), Box<dyn Error>> {
    let hub = engine.hub();
    let mut before = hub.counts();
    let mut was_pausing = false;
    let mut reporter = Reporter::default();
    for turn in 1_u32.. {
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
        reporter.report(notices, WATCH_INTERVAL * turn);
        (before, was_pausing) = (now, pausing);
        if turn % MEMORY_INTERVALS == 0 {
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
    if now.heads_timed_out > before.heads_timed_out {
        let count = now.heads_timed_out - before.heads_timed_out;
        tracing::info!(count, "request heads were not complete in time");
    }
    for reason in SLOW {
        if now.farewell(reason) > before.farewell(reason) {
            let count = now.farewell(reason) - before.farewell(reason);
            tracing::info!(count, reason = reason.name(), "slow subscribers were disconnected");
        }
    }
}
