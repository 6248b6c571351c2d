//! Sweeps over seeds: `cargo xtask sim`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare_io::Clock;
use fanfare_sim::{Choices, Occurrence, STEPS, Sweep, Swept, Trace, story, sweep};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs the engine in a simulated world, one story for each seed
#[derive(Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Steps of each story
    #[arg(long, default_value_t = STEPS)]
    steps: usize,
    /// Stories told at the same time [default: as many as there are cores]
    #[arg(long)]
    threads: Option<usize>,
    /// End when so many of them have gone wrong
    #[arg(long, default_value_t = 1)]
    failures: u64,
    /// Tell what happens, and when
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.trace {
        for seed in options.from..options.from + options.seeds {
            println!("seed {seed}");
            story(Choices::from_seed(seed), options.steps, Trace::Print);
        }
        return ExitCode::SUCCESS;
    }
    let threads = options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let clock = Clock::start();
    let progress = Progress::new(options.seeds);
    let Options { from, seeds, steps, failures, .. } = options;
    let swept = sweep(Sweep { from, seeds, steps, threads, failures }, &|| progress.story_done(&clock));
    progress.bar.finish_and_clear();
    summarize(&swept, clock.now());
    for failure in &swept.failures {
        println!("{}", failure.account.join("\n"));
        println!("seed {} fails: {}", failure.seed, failure.message);
        let steps =
            if options.steps == STEPS { String::new() } else { format!(" --steps {}", options.steps) };
        println!("replay: cargo xtask sim --seeds 1 --from {}{steps} --trace", failure.seed);
    }
    if swept.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A bar on a terminal; elsewhere a line for every tenth.
struct Progress {
    bar: ProgressBar,
    plain: bool,
    done: AtomicU64,
    total: u64,
}

impl Progress {
    fn new(total: u64) -> Progress {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, plain, done: AtomicU64::new(0), total }
    }

    fn story_done(&self, clock: &Clock) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.inc(1);
        let tenth = (self.total / 10).max(1);
        if self.plain && self.total >= 1000 && done.is_multiple_of(tenth) {
            eprintln!("{done} of {} seeds after {:.0} s", self.total, clock.now().as_secs_f64());
        }
    }
}

fn summarize(swept: &Swept, time: Duration) {
    let per_minute = swept.tally.of(Occurrence::Tick) as f64 / time.as_secs_f64().max(1e-9) * 60.0;
    let mut line = format!("{} seeds, {per_minute:.0} ticks/min", swept.seeds);
    for &occurrence in Occurrence::ALL {
        line.push_str(&format!(", {} {}", swept.tally.of(occurrence), occurrence.words()));
    }
    println!("{line}");
}
