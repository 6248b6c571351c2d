//! How long a publisher waits for its answer, by the number of publishers: without a durable store, with one
//! in both modes, and beside a bare loop of append and `fdatasync` on the same disk.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Durability, Engine, Event, Hub, StoreOptions, Topic};
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, engine, finish, machine};
use fanfare_io::Clock;
use fanfare_proto::limits::LogLimits;
use hdrhistogram::Histogram;

/// Time of a publish until its answer, with and without a durable store
#[derive(Parser)]
struct Options {
    /// Where the logs are made and removed; its disk is what is measured
    #[arg(long, default_value = "publish_latency.tmp")]
    directory: PathBuf,
    /// Publishers at the same time, each with one publish after the other
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    publishers: Vec<usize>,
    /// Rounds, in which all take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of the data of an event
    #[arg(long, default_value_t = 200)]
    bytes: usize,
}

/// One engine that is measured.
struct Contender {
    name: &'static str,
    key: &'static str,
    engine: Engine,
}

/// What one engine has done with one number of publishers.
struct Figures {
    /// Microseconds of each publish, of all rounds.
    times: Histogram<u64>,
    /// Events a second, of each round.
    rates: Vec<f64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("publish_latency", &[]);
    fs::create_dir_all(&options.directory)?;
    let result = measure(options);
    fs::remove_dir_all(&options.directory)?;
    result
}

fn measure(options: &Options) -> Outcome<()> {
    let contenders = [
        ("no store", "memory", None),
        ("store, async", "async", Some(Durability::Async)),
        ("store, commit", "commit", Some(Durability::Commit)),
    ];
    let mut engines = Vec::new();
    for (name, key, durability) in contenders {
        let mut builder = Engine::builder().shards(1).limits(engine::quiet_limits());
        if let Some(durability) = durability {
            let store = engine::open_store(&options.directory.join(key), LogLimits::default())?;
            builder = builder.store(StoreOptions::new(Arc::new(store)).durability(durability));
        }
        engines.push(Contender { name, key, engine: builder.start()? });
    }
    println!(
        "{} bytes of data; {} rounds of {} s; a publisher publishes again when it has its answer",
        options.bytes, options.rounds, options.seconds
    );
    let data = "x".repeat(options.bytes);
    let mut lines = Vec::new();
    for &publishers in &options.publishers {
        let mut bare = Figures::new()?;
        let mut figures = Vec::new();
        for _ in &engines {
            figures.push(Figures::new()?);
        }
        for _ in 0..options.rounds {
            bare_turn(options, &data, &mut bare)?;
            for (contender, figures) in engines.iter().zip(&mut figures) {
                turn(options, &contender.engine.hub(), &data, publishers, figures)?;
            }
        }
        println!("\n{publishers} publishers:");
        bare.print("one bare fdatasync");
        for (contender, figures) in engines.iter().zip(&figures) {
            figures.print(contender.name);
            for quantile in [50, 99] {
                let time = figures.times.value_at_quantile(f64::from(quantile) / 100.0);
                lines.push(format!("{}_{publishers}_p{quantile}_us={time}", contender.key));
            }
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    for Contender { engine, .. } in engines {
        engine.stop(Duration::ZERO)?;
    }
    Ok(())
}

/// One append of the same data to a file after the other, each with `fdatasync`.
fn bare_turn(options: &Options, data: &str, figures: &mut Figures) -> Outcome<()> {
    let path = options.directory.join("bare");
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let clock = Clock::start();
    let mut events = 0;
    while clock.now().as_secs_f64() < options.seconds {
        let begun = clock.now();
        file.write_all(data.as_bytes())?;
        file.sync_data()?;
        figures.times.saturating_record((clock.now() - begun).as_micros() as u64);
        events += 1;
    }
    figures.rates.push(f64::from(events) / clock.now().as_secs_f64());
    Ok(())
}

fn turn(options: &Options, hub: &Hub, data: &str, publishers: usize, figures: &mut Figures) -> Outcome<()> {
    let is_over = AtomicBool::new(false);
    let clock = Clock::start();
    let each: Vec<Outcome<Histogram<u64>>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..publishers).map(|_| scope.spawn(|| publish(hub, data, clock, &is_over))).collect();
        thread::sleep(Duration::from_secs_f64(options.seconds));
        is_over.store(true, Ordering::Relaxed);
        let ended =
            |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("a publisher has panicked");
        threads.into_iter().map(ended).collect()
    });
    let took = clock.now().as_secs_f64();
    let mut events = 0;
    for times in each {
        let times = times?;
        events += times.len();
        figures.times.add(&times)?;
    }
    figures.rates.push(events as f64 / took);
    Ok(())
}

fn publish(hub: &Hub, data: &str, clock: Clock, is_over: &AtomicBool) -> Outcome<Histogram<u64>> {
    let topic = Topic::new("bench")?;
    let mut times = histogram()?;
    while !is_over.load(Ordering::Relaxed) {
        let begun = clock.now();
        let mut event = vec![Event::new(topic.clone()).with_data(data)];
        hub.publish_wait(&mut event, engine::PATIENCE)?;
        times.saturating_record((clock.now() - begun).as_micros() as u64);
    }
    Ok(times)
}

/// Of microseconds, up to a minute, within 1 %.
fn histogram() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 2)?)
}

impl Figures {
    fn new() -> Outcome<Figures> {
        Ok(Figures { times: histogram()?, rates: Vec::new() })
    }

    fn print(&self, name: &str) {
        let at = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "  {name:<20} ms: p50 {:.3}, p99 {:.3}, at most {:.3}; events a second {:.0}",
            at(0.5),
            at(0.99),
            self.times.max() as f64 / 1e3,
            Spread::of(self.rates.iter().copied())
        );
    }
}
