//! `fanfare-torture` applies real faults to a running server that many subscribers read from, and checks
//! every delivery.
//!
//! The modules, from the lowest to the highest. Each uses only modules before it; `tests/module_order.rs`
//! checks that.
//!
//! 1. [`event`]: the events that are published
//! 2. [`http`]: response heads, and the connection of a publisher
//! 3. [`ledger`]: what the publishers know of every event
//! 4. [`server`]: the process of the server under test
//! 5. [`sockets`]: what the kernel knows about TCP sockets
//! 6. [`newcomer`]: clients whose time from `connect` to the response head is measured
//! 7. [`verify`]: the comparison of a subscriber's log with the ledger
//! 8. [`publishers`]: the steady load of publishes
//! 9. [`subscribers`]: the subscribers, which keep logs
//! 10. [`outcome`]: what one round of a fault showed
//! 11. [`target`]: a server with its subscribers and publishers
//! 12. [`run`]: what the faults of one run share
//! 13. [`fault`]: the faults
//! 14. [`report`]: the table, and what is violated
//! 15. [`cluster`]: nodes that share a log on NATS, their faults, and what all subscribers of all nodes got

mod cluster;
mod event;
mod fault;
mod http;
mod ledger;
mod newcomer;
mod outcome;
mod publishers;
mod report;
mod run;
mod server;
mod sockets;
mod subscribers;
mod target;
mod verify;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fanfare_io::Clock;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::fault::Fault;
use crate::report::Report;
use crate::run::Run;
use crate::server::Plan;
use crate::target::Target;

/// Shards of the server. Incomplete heads have a quarter of each shard's descriptors, and 20,000 have to fit.
const SHARDS: usize = 6;

/// The time after which the server has released everything that faults needed: incomplete heads end after 10
/// s, idle connections after 30 s.
const RECOVERY_TIME: Duration = Duration::from_secs(45);

/// The server returns freed memory to the kernel every 10 s.
const PURGE_TIME: Duration = Duration::from_secs(15);

/// Applies real faults to a running server under load, and checks every delivery.
#[derive(Parser)]
#[command(name = "cargo xtask torture", bin_name = "cargo xtask torture")]
struct Options {
    /// The duration of the whole run; each backend gets an equal part
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The backends, one after the other
    #[arg(long, value_enum, default_value_t = Backends::Both)]
    backend: Backends,
    /// Applies every fault once, scaled down, without root; times and memory are not judged
    #[arg(long, conflicts_with = "minutes")]
    smoke: bool,
    /// Applies every fault so many times, however long that takes
    #[arg(long, conflicts_with_all = ["minutes", "smoke"], value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Repeats the random choices of a run
    #[arg(long)]
    seed: Option<u64>,
    /// Three nodes that share a log on real NATS servers, and scripted faults of all of them. With --smoke a
    /// part of the scripts
    #[arg(long, conflicts_with_all = ["minutes", "faults"])]
    cluster: bool,
    /// With --cluster: only the scripts whose name contains this text; may be given several times
    #[arg(long, requires = "cluster", value_name = "TEXT")]
    script: Vec<String>,
    /// With --cluster: lists the scripts
    #[arg(long, requires = "cluster")]
    list: bool,
    /// With --cluster: prints what the nodes log, also where nothing is violated
    #[arg(long, requires = "cluster")]
    logs: bool,
    /// The faults [default: all]
    #[arg(value_enum)]
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Backends {
    Epoll,
    IoUring,
    Both,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run_backends(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether nothing was violated.
fn run_backends(options: &Options) -> Result<bool, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|error| error.to_string())?;
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (repeat the choices with --seed {seed})");
    if options.cluster {
        let plan = cluster::Plan {
            scripts: options.script.clone(),
            smoke: options.smoke,
            list: options.list,
            logs: options.logs,
            rounds: options.rounds.unwrap_or(1),
            seed,
        };
        return cluster::run(&plan, &stop);
    }
    let backends: &[&str] = match options.backend {
        Backends::Epoll => &["epoll"],
        Backends::IoUring => &["io-uring"],
        Backends::Both => &["epoll", "io-uring"],
    };
    let time = Duration::from_secs_f64((options.minutes * 60.0).max(0.0)) / backends.len() as u32;
    let mut good = true;
    for backend in backends {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        good &= torture(backend, time, options, seed, &stop)?;
    }
    Ok(good)
}

/// Runs against one backend for this time.
fn torture(
    backend: &str,
    time: Duration,
    options: &Options,
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> Result<bool, String> {
    let clock = Clock::start();
    let mut random = fastrand::Rng::with_seed(seed);
    let smoke = options.smoke;
    let faults = if options.faults.is_empty() { Fault::value_variants() } else { &options.faults };
    let plan = Plan {
        program: server::find_program()?,
        backend: backend.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        shards: SHARDS,
        bounds: server::SMALL,
        descriptors: None,
        data: None,
        more: Vec::new(),
    };
    let mut report = Report::new(backend, faults);
    let subscribers = if smoke { 150 } else { 400 };
    println!("{backend}: {subscribers} subscribers on {SHARDS} shards");
    let mut target = Target::start(&plan, subscribers, clock, &mut random)?;
    // Memory is read when the log and all buffers that the load needs have reached their size.
    let mut fill = |rest| {
        let (findings, memory) = target.fill_log(if smoke { Duration::ZERO } else { rest })?;
        report.deliveries("before all faults", &findings);
        Ok::<_, String>(memory)
    };
    fill(Duration::ZERO)?;
    let memory_before = fill(PURGE_TIME)?;
    let mut run = Run {
        target,
        plan,
        clock,
        random,
        smoke,
        stop: Arc::clone(stop),
        without_slow_heads: newcomer::ConnectTimes::new(),
        with_slow_heads: newcomer::ConnectTimes::new(),
    };

    let ended_before = sockets::ended_for_memory();
    let mut due: Vec<Fault> = Vec::new();
    let mut turns = 0;
    let deadline = time.saturating_sub(RECOVERY_TIME);
    let goes_on = |turns| match options.rounds {
        Some(rounds) => turns < rounds,
        None => turns == 0 || (!smoke && clock.now() < deadline),
    };
    while !run.stopped() && goes_on(turns) {
        if due.is_empty() {
            due = faults.to_vec();
            run.random.shuffle(&mut due);
        }
        let Some(fault) = due.pop() else { break };
        turns += u32::from(due.is_empty());
        let result = fault.apply(&mut run).and_then(|outcome| Ok((outcome, run.target.settle()?)));
        match result {
            Ok((mut outcome, findings)) => {
                let memory = run.target.server.memory().unwrap_or(0);
                outcome.log += &run.target.server.new_log_lines();
                report.round(fault, clock.now(), memory, outcome, findings);
            }
            Err(problem) => {
                let log = run.target.server.new_log_lines();
                report.violation(format!("{}: {problem}; the run's server logged:\n{log}", fault.name()));
                if run.target.server.ended().is_some() {
                    break;
                }
            }
        }
    }

    report.partial = run.stopped();
    if run.target.server.ended().is_none() {
        let rest = if smoke { Duration::ZERO } else { RECOVERY_TIME };
        let (findings, memory_after) = run.target.fill_log(rest)?;
        report.deliveries("after all faults", &findings);
        report.memory = memory_before.zip(memory_after);
    }
    run.target.violations().into_iter().for_each(|problem| report.violation(problem));
    let ended = ended_before.zip(sockets::ended_for_memory());
    report.ended_for_memory = ended.map_or(0, |(before, after)| after - before);
    report.without_slow_heads = run.without_slow_heads;
    report.with_slow_heads = run.with_slow_heads;
    let judged = !smoke && !report.partial;
    Ok(report.conclude(judged))
}
