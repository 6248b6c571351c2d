//! What a topic of ten waits for when a broadcast to 15,000 runs on the same shard.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, Event, Topic};
use fanfare_bench::client::{Discard, Plan, Reader};
use fanfare_bench::engine::{self, Measured};
use fanfare_bench::machine::{self, Cores};
use fanfare_bench::paced::Paced;
use fanfare_bench::stamp::Checker;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish};
use fanfare_io::{Clock, affinity};

/// Bytes of data in both topics' events.
const DATA_BYTES: usize = 200;

/// Latency of a small topic beside a broadcast, on one shard
#[derive(Clone, Parser)]
struct Options {
    /// Subscribers of the broadcast
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    broadcast: u32,
    /// Subscribers of the small topic
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    small: u32,
    /// Milliseconds between the small topic's events
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    every_ms: u32,
    /// Rounds, each of one part without broadcasts and two with
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each part
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only this backend
    #[arg(long)]
    backend: Option<Backend>,
}

/// What runs beside the small topic.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    /// Five broadcasts a second.
    Paced,
    /// The next broadcast as soon as the last is delivered.
    Continuous,
}

/// In the order of the tables of figures.
const PARTS: [Beside; 3] = [Beside::Nothing, Beside::Paced, Beside::Continuous];

const NAMES: [&str; 3] = ["alone", "beside 5 broadcasts a second", "beside continuous broadcasts"];

/// One shard with both topics on it.
struct Bench {
    engine: Measured,
    broadcast: Topic,
    small: Topic,
    clock: Clock,
    reader: Reader<Checker>,
    crowd: Reader<Discard>,
    options: Options,
    /// Events of the small topic so far.
    numbered: u32,
    /// Deliveries asked for so far.
    asked: u64,
}

/// What one part showed.
struct Part {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    broadcasts: u64,
    shard_busy: f64,
    /// The part of the time in which others had the shard's core.
    disturbed: f64,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let mut backends = machine::backends();
    backends.retain(|backend| options.backend.is_none_or(|only| only == *backend));
    machine::introduce("head_of_line", &backends);
    let cores = Cores::choose()?;
    println!(
        "{} subscribers beside {}, an event every {} ms; {} rounds of {} s each; latency from the intended time",
        options.small, options.broadcast, options.every_ms, options.rounds, options.seconds
    );
    let mut lines = Vec::new();
    for backend in backends {
        let options = options.clone();
        let measured = thread::spawn(move || measure(&options, backend, cores));
        lines.push(measured.join().map_err(|_| "the measurement panicked")??);
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn measure(options: &Options, backend: Backend, cores: Cores) -> Outcome<String> {
    println!("\n{backend}");
    let mut bench = Bench::set_up(options, backend, cores)?;
    let mut figures: [Vec<Part>; 3] = Default::default();
    bench.part(Beside::Continuous)?;
    for round in 0..options.rounds as usize {
        for turn in 0..PARTS.len() {
            let index = (turn + round) % PARTS.len();
            figures[index].push(bench.part(PARTS[index])?);
        }
    }
    let found = bench.end()?;
    for (name, parts) in NAMES.iter().zip(&figures) {
        let of = |figure: fn(&Part) -> f64| Spread::of(parts.iter().map(figure));
        println!("  {name}");
        println!("    p50 ms  {:.3}", of(|part| part.p50_ms));
        println!("    p99 ms  {:.3}", of(|part| part.p99_ms));
        println!("    max ms  {:.3}", of(|part| part.max_ms));
        println!("    broadcasts a part {:.0}", of(|part| part.broadcasts as f64).median);
        let [busy, disturbed] = [of(|part| part.shard_busy), of(|part| part.disturbed)];
        println!("    shard busy {:.0} %, kept waiting by others {disturbed:.3}", busy.median * 100.0);
    }
    println!("  small topic: {found}");
    let p99 = |index: usize| Spread::of(figures[index].iter().map(|part| part.p99_ms)).median;
    let added = |index: usize| {
        let pairs = figures[index].iter().zip(&figures[0]);
        Spread::of(pairs.map(|(beside, alone)| beside.p99_ms - alone.p99_ms)).median
    };
    Ok(format!(
        "backend={} p99_alone_ms={:.3} p99_beside_ms={:.3} added_ms={:.3} p99_paced_ms={:.3} added_paced_ms={:.3}",
        machine::key(backend),
        p99(0),
        p99(2),
        added(2),
        p99(1),
        added(1),
    ))
}

impl Bench {
    fn set_up(options: &Options, backend: Backend, cores: Cores) -> Outcome<Bench> {
        let engine = Measured::start(backend, engine::quiet_limits())?;
        affinity::pin(cores.client)?;
        let clock = Clock::start();
        let (broadcast, small) = (Topic::new("broadcast")?, Topic::new("small")?);
        let (listener, to) = engine::listen()?;
        let core = Some(cores.client);
        let plan = |count: u32, group, hurried| Plan {
            count: count as usize,
            to,
            group,
            core,
            hurried,
            request: String::new(),
        };

        let crowd = Reader::start(plan(options.broadcast, 0, false), Discard::default())?;
        for _ in 0..options.broadcast {
            engine.adopt(&listener.accept()?.0, &broadcast)?;
        }
        crowd.wait_connected()?;
        let checker = Checker::new(clock, options.small as usize, DATA_BYTES, 1);
        checker.progress().recording.store(true, Ordering::Relaxed);
        let reader = Reader::start(plan(options.small, 1, true), checker)?;
        for _ in 0..options.small {
            engine.adopt(&listener.accept()?.0, &small)?;
        }
        reader.wait_connected()?;
        engine.wait_connections((options.broadcast + options.small) as usize)?;
        let options = options.clone();
        Ok(Bench { engine, broadcast, small, clock, reader, crowd, options, numbered: 0, asked: 0 })
    }

    fn part(&mut self, beside: Beside) -> Outcome<Part> {
        // What the last part left is delivered and read.
        self.engine.wait_deliveries(self.asked)?;
        thread::sleep(Duration::from_millis(100));
        let (begun, busy_before) = (self.clock.now(), self.engine.cpu.now());
        let waited_before = self.engine.cpu.kept_waiting();
        let length = Duration::from_secs(self.options.seconds.into());
        let count = (length.as_millis() / u128::from(self.options.every_ms)) as u32;
        let small = Paced {
            hub: self.engine.hub.clone(),
            topic: self.small.clone(),
            clock: self.clock,
            first: self.numbered,
            count,
            every: Duration::from_millis(self.options.every_ms.into()),
            data_bytes: DATA_BYTES,
        };
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let publisher = thread::Builder::new().name("small".to_owned()).spawn(move || {
            let published = small.publish();
            is_over.store(true, Ordering::Release);
            published
        })?;
        let broadcasts = self.broadcast_until(&over, beside)?;
        publisher.join().map_err(|_| "the publisher has panicked")??;
        self.numbered += count;
        self.asked += u64::from(count * self.options.small);
        let share = |part: Duration| part.as_secs_f64() / (self.clock.now() - begun).as_secs_f64();
        let shard_busy = share(self.engine.cpu.now() - busy_before);
        let disturbed = share(self.engine.cpu.kept_waiting() - waited_before);
        self.engine.wait_deliveries(self.asked)?;
        thread::sleep(Duration::from_millis(100));
        let latency = self.reader.ask(Checker::take_latency)?;
        let ms = |nanos: u64| nanos as f64 / 1e6;
        Ok(Part {
            p50_ms: ms(latency.value_at_quantile(0.5)),
            p99_ms: ms(latency.value_at_quantile(0.99)),
            max_ms: ms(latency.max()),
            broadcasts,
            shard_busy,
            disturbed,
        })
    }

    /// Publishes broadcasts until the part is over, and says how many.
    fn broadcast_until(&mut self, over: &AtomicBool, beside: Beside) -> Outcome<u64> {
        let members = u64::from(self.options.broadcast);
        let sends = || self.engine.hub.counts().sends;
        let mut broadcasts = 0;
        let data = "x".repeat(DATA_BYTES);
        let begun = self.clock.now();
        let mut target = sends();
        while !over.load(Ordering::Acquire) {
            let due = match beside {
                Beside::Nothing => false,
                Beside::Paced => self.clock.now() >= begun + Duration::from_millis(200) * broadcasts as u32,
                // The small topic's own sends are within the tolerance: a thousandth of a broadcast.
                Beside::Continuous => sends() >= target,
            };
            if !due {
                thread::sleep(Duration::from_micros(100));
                continue;
            }
            self.engine.hub.publish(Event::new(self.broadcast.clone()).with_data(data.as_str()))?;
            target = sends() + members;
            broadcasts += 1;
        }
        self.asked += broadcasts * members;
        Ok(broadcasts)
    }

    /// Ends everything, and says what the small topic's clients found.
    fn end(self) -> Outcome<String> {
        let counts = self.engine.hub.counts();
        let found = self.reader.stop()?.found(self.numbered);
        let crowd = self.crowd.stop()?;
        self.engine.stop();
        Ok(format!(
            "{found:?}; the broadcast's clients ended: {}; laggards: {}",
            crowd.ended, counts.laggards
        ))
    }
}
