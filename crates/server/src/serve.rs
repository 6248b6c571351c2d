//! `fanfare serve`: start the engine and its control plane, say where to look, and end gracefully.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fanfare::{Counts, Engine, Farewell};
use signal_hook::consts::{SIGINT, SIGTERM};
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
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
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
    let mut engine = builder.start()?;
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
        control::start(control, sockets)?;
    }
    announce(&engine, &limits);

    let (told, tell) = mpsc::channel();
    thread::Builder::new().name("fanfare-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
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
