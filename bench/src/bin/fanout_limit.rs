//! What the engine costs above the least that can be paid: a loop of `send(2)` over the same sockets.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, Builder, Cursor, Engine, Event, StoreOptions, Topic, WireFormat};
use fanfare_backplane::{NatsBackplane, NatsOptions};
use fanfare_bench::bare::{Bare, Way};
use fanfare_bench::client::{Discard, Plan, Reader};
use fanfare_bench::engine::{self, Measured, patiently};
use fanfare_bench::machine::{self, Cores, SoftirqClock, ThreadClock};
use fanfare_bench::statistics::Spread;
use fanfare_bench::steering::Steering;
use fanfare_bench::{Outcome, finish};
use fanfare_io::affinity;
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::LogLimits;

/// Rounds at the start that are not counted.
const WARM_UP: usize = 4;

/// CPU time per delivery: the engine beside the bare loop, over the same sockets
#[derive(Parser)]
struct Options {
    /// Subscribers; each is a pair of sockets, and a table holds 20,000 descriptors
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=19_000))]
    connections: u32,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    event_bytes: u32,
    /// Rounds that count
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Events that each variant sends in a round, one after the other
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    events_per_round: u32,
    /// Measure again with the receive work on the clients' core, as behind a network card
    #[arg(long)]
    steered: bool,
    /// Measure engines with a durable store, too; their logs are made in this directory and removed
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Measure engines that share a log on this NATS server, too
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
}

/// A way to bring an event to everyone.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Bare(Way),
    Engine(usize),
}

/// An engine, and what it has beside its shard.
struct Contender {
    engine: Measured,
    beside: Option<Beside>,
}

/// A log that an engine has outside of its memory, and the threads that look after it.
struct Beside {
    name: &'static str,
    key: &'static str,
    threads: Vec<ThreadClock>,
    /// The engine of the same backend without it.
    without: usize,
}

/// Everything that the variants share.
struct Bench {
    topic: Topic,
    data: String,
    connections: u64,
    /// Events so far, the same number for each variant when a round is over.
    events: u64,
    bare: Bare,
    engines: Vec<Contender>,
    reader: Reader<Discard>,
    softirq: SoftirqClock,
}

/// Nanoseconds per delivery, one figure per round.
#[derive(Clone, Default)]
struct Figures {
    /// The sender's and the kernel's thread's on its core.
    total: Vec<f64>,
    /// The part of the kernel's thread.
    softirq: Vec<f64>,
    /// The threads beside the shard, which are not in the total: they work once for each event.
    store: Vec<f64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let steering = Steering::prepare()?;
    let backends = machine::backends();
    machine::introduce("fanout_limit", &backends);
    let cores = Cores::choose()?;
    let (mut bench, variants) = Bench::set_up(options, &backends, cores)?;
    println!(
        "{} subscribers, {} bytes of data, {} on the wire, {} rounds of {} events; CPU time of the sender and of ksoftirqd on its core",
        options.connections,
        options.event_bytes,
        bench.frame().len(),
        options.rounds,
        options.events_per_round,
    );

    println!("\nplain loopback: the receiver's work is in the sender's time");
    let plain = bench.measure(options, &variants)?;
    let mut lines = report("", &bench, &variants, &plain);
    if options.steered {
        match steering.steer(cores.client) {
            Ok(_steered) => {
                println!("\nsteered: the receiver's work is on core {}", cores.client);
                let steered = bench.measure(options, &variants)?;
                lines.extend(report("steered_", &bench, &variants, &steered));
            }
            Err(error) => println!("\nno steered figures: {error}"),
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    bench.end()?;
    options.data.as_ref().map_or(Ok(()), |data| Ok(fs::remove_dir_all(data)?))
}

impl Contender {
    /// Starts an engine with a log outside of its memory, and finds the threads that start with it.
    fn start(
        builder: Builder,
        backend: Backend,
        name: &'static str,
        key: &'static str,
        without: usize,
        threads: &[&str],
    ) -> Outcome<Contender> {
        let before: Vec<_> = threads.iter().map(|thread| machine::threads_named(thread)).collect();
        let engine = Measured::start_with(builder, backend, engine::quiet_limits())?;
        let new = threads.iter().zip(&before);
        let threads: Outcome<Vec<ThreadClock>> =
            new.map(|(name, before)| Ok(ThreadClock::of(machine::new_thread(name, before)?))).collect();
        Ok(Contender { engine, beside: Some(Beside { name, key, threads: threads?, without }) })
    }
}

impl Bench {
    fn set_up(options: &Options, backends: &[Backend], cores: Cores) -> Outcome<(Bench, Vec<Variant>)> {
        let topic = Topic::new("bench")?;
        let count = options.connections as usize;
        let mut engines = Vec::new();
        for &backend in backends {
            let engine = Measured::start(backend, engine::quiet_limits())?;
            let without = engines.len();
            engines.push(Contender { engine, beside: None });
            if let Some(data) = &options.data {
                let store = engine::open_store(&data.join(machine::key(backend)), LogLimits::default())?;
                let builder = Engine::builder().store(StoreOptions::new(Arc::new(store)));
                let (name, key) = ("store", "store");
                engines.push(Contender::start(builder, backend, name, key, without, &["fanfare-store"])?);
            }
            if let Some(url) = &options.nats {
                let stream = format!("BENCH_{}_{without}", std::process::id());
                let nats = NatsOptions::new([url]).stream(&stream).prefix(stream.to_lowercase());
                // It has a thread of its own before the engine starts.
                let before = machine::threads_named("fanfare-nats");
                let backplane = NatsBackplane::connect(nats)?;
                let connection = ThreadClock::of(machine::new_thread("fanfare-nats", &before)?);
                let builder = Engine::builder().backplane(backplane);
                let (name, key) = ("shared log", "shared_log");
                let mut contender =
                    Contender::start(builder, backend, name, key, without, &["fanfare-feed"])?;
                contender.beside.iter_mut().for_each(|beside| beside.threads.push(connection));
                engines.push(contender);
            }
        }
        let bare = Bare::start(cores.server, count)?;
        affinity::pin(cores.client)?;

        let (listener, to) = engine::listen()?;
        let core = Some(cores.client);
        let plan = Plan { count, to, group: 0, core, hurried: false, request: String::new() };
        let reader = Reader::start(plan, Discard::default())?;
        for _ in 0..count {
            let (socket, _) = listener.accept()?;
            engine::hand(&socket, bare.sockets())?;
            for contender in &engines {
                contender.engine.adopt(&socket, &topic)?;
            }
        }
        reader.wait_connected()?;
        bare.wait_ready()?;
        for contender in &engines {
            contender.engine.wait_connections(count)?;
        }
        let mut variants = vec![Variant::Bare(Way::Loop), Variant::Bare(Way::Ring)];
        if !backends.contains(&Backend::IoUring) {
            variants.pop();
        }
        variants.extend((0..engines.len()).map(Variant::Engine));
        let data = "x".repeat(options.event_bytes as usize);
        let connections = count as u64;
        let softirq = SoftirqClock::of(cores.server);
        if !softirq.works() {
            println!("note: ksoftirqd is hidden; what it does for the sender is not counted");
        }
        Ok((Bench { topic, data, connections, events: 0, bare, engines, reader, softirq }, variants))
    }

    /// The figures of each variant.
    fn measure(&mut self, options: &Options, variants: &[Variant]) -> Outcome<Vec<Figures>> {
        // The streams' heads, or whatever else is under way.
        let mut seen = u64::MAX;
        patiently("the clients have read everything", || {
            thread::sleep(Duration::from_millis(100));
            Ok(std::mem::replace(&mut seen, self.reader.bytes()) == self.reader.bytes())
        })?;
        let mut figures = vec![Figures::default(); variants.len()];
        let deliveries = (u64::from(options.events_per_round) * self.connections) as f64;
        for round in 0..WARM_UP + options.rounds as usize {
            let before = self.events;
            for turn in 0..variants.len() {
                // Each variant comes first as often as last, and after each neighbour.
                let index = (turn + round / 2) % variants.len();
                let index = if round % 2 == 0 { index } else { variants.len() - 1 - index };
                self.events = before;
                let (softirq_before, store_before) = (self.softirq.now(), self.beside_cpu(variants[index]));
                let cpu = self.turn(variants[index], options.events_per_round)?;
                let softirq = self.softirq.now() - softirq_before;
                if round >= WARM_UP {
                    let per_delivery = |time: Duration| time.as_nanos() as f64 / deliveries;
                    figures[index].total.push(per_delivery(cpu + softirq));
                    figures[index].softirq.push(per_delivery(softirq));
                    let store = self.beside_cpu(variants[index]).saturating_sub(store_before);
                    figures[index].store.push(per_delivery(store));
                }
            }
        }
        Ok(figures)
    }

    /// Brings events to everyone, each when the one before has been read by all.
    fn turn(&mut self, variant: Variant, events: u32) -> Outcome<Duration> {
        let mut cpu = Duration::ZERO;
        let shard_before = self.shard_cpu(variant);
        for _ in 0..events {
            let frame = self.frame();
            self.events += 1;
            let expected = self.reader.bytes() + frame.len() as u64 * self.connections;
            match variant {
                Variant::Bare(way) => cpu += self.bare.send(way, &frame)?,
                Variant::Engine(index) => {
                    let engine = &self.engines[index].engine;
                    let event = Event::new(self.topic.clone()).with_data(self.data.as_str());
                    let begun = thread_cpu_time();
                    engine.hub.publish_wait(&mut vec![event], engine::PATIENCE)?;
                    cpu += thread_cpu_time() - begun;
                    engine.wait_deliveries(self.events * self.connections)?;
                }
            }
            patiently("the clients have read an event", || Ok(self.reader.bytes() >= expected))?;
            if self.reader.bytes() != expected {
                return Err("the clients got other bytes than were sent".into());
            }
        }
        Ok(cpu + self.shard_cpu(variant) - shard_before)
    }

    fn shard_cpu(&self, variant: Variant) -> Duration {
        match variant {
            Variant::Bare(_) => Duration::ZERO,
            Variant::Engine(index) => self.engines[index].engine.cpu.now(),
        }
    }

    fn beside_cpu(&self, variant: Variant) -> Duration {
        match variant {
            Variant::Bare(_) => Duration::ZERO,
            Variant::Engine(index) => {
                let beside = self.engines[index].beside.as_ref();
                beside.map_or(Duration::ZERO, |beside| beside.threads.iter().map(ThreadClock::now).sum())
            }
        }
    }

    /// What this engine has beside its shard.
    fn beside(&self, variant: Variant) -> Option<&Beside> {
        let Variant::Engine(index) = variant else { return None };
        self.engines[index].beside.as_ref()
    }

    /// The next event as an engine encodes it, with a number of the same length.
    fn frame(&self) -> Arc<[u8]> {
        let epoch = self.engines[0].engine.hub.head().epoch;
        let seq = self.events + 1;
        let id = Cursor { epoch, seq }.to_string();
        let event = Event::new(self.topic.clone()).with_data(self.data.as_str());
        Frame::encode(seq, &id, event, Duration::ZERO).wire(WireFormat::Chunked).into()
    }

    fn name(&self, variant: Variant) -> String {
        match variant {
            Variant::Bare(Way::Loop) => "bare send(2) loop".to_owned(),
            Variant::Bare(Way::Ring) => "bare io_uring batch".to_owned(),
            Variant::Engine(index) => {
                let Contender { engine, beside } = &self.engines[index];
                let beside = beside.as_ref().map_or(String::new(), |beside| format!(", {}", beside.name));
                format!("engine on {}{beside}", engine.backend)
            }
        }
    }

    fn key(&self, variant: Variant) -> String {
        match variant {
            Variant::Bare(Way::Loop) => "bare".to_owned(),
            Variant::Bare(Way::Ring) => "bare_io_uring".to_owned(),
            Variant::Engine(index) => {
                let Contender { engine, beside } = &self.engines[index];
                let beside = beside.as_ref().map_or(String::new(), |beside| format!("_with_{}", beside.key));
                format!("{}{beside}", machine::key(engine.backend))
            }
        }
    }

    fn end(self) -> Outcome<()> {
        for Contender { engine, .. } in self.engines {
            let counts = engine.hub.counts();
            // Otherwise sends were saved, and the ratio flatters.
            if counts.sends != counts.deliveries || counts.laggards > 0 {
                println!("note: {} joined events: {counts:?}", engine.backend);
            }
            engine.stop();
        }
        self.reader.stop()?;
        Ok(())
    }
}

/// Prints the table and returns the lines for the end.
fn report(prefix: &str, bench: &Bench, variants: &[Variant], figures: &[Figures]) -> Vec<String> {
    let bare = &figures[0].total;
    let mut lines = vec![format!("{prefix}bare_ns_per_delivery={:.0}", Spread::of(bare.clone()).median)];
    for (&variant, own) in variants.iter().zip(figures) {
        let per_delivery = Spread::of(own.total.iter().copied());
        let softirq = Spread::of(own.softirq.iter().copied()).median;
        let ratio = Spread::of(own.total.iter().zip(bare).map(|(own, bare)| own / bare));
        println!(
            "{:<20} ns per delivery {per_delivery:.0}, ksoftirqd's part {softirq:.0}",
            bench.name(variant)
        );
        if variant != variants[0] {
            println!("{:<20} beside the loop {ratio:.3}", "");
            lines.push(format!("{prefix}ratio_{}={:.3}", bench.key(variant), ratio.median));
        }
        if let Some(beside) = bench.beside(variant)
            && let Some(without) = variants.iter().position(|it| *it == Variant::Engine(beside.without))
        {
            let pairs = own.total.iter().zip(&figures[without].total);
            let ratio = Spread::of(pairs.map(|(own, without)| own / without));
            let threads = Spread::of(own.store.iter().copied()).median;
            let name = beside.name;
            println!(
                "{:<20} beside the engine without a {name} {ratio:.3}; the threads of the {name} {threads:.0} ns",
                ""
            );
            lines.push(format!("{prefix}{}_ratio_{}={:.3}", beside.key, bench.key(variant), ratio.median));
        }
    }
    lines
}
