//! How many events a second one shard delivers, how late they are and what memory that takes, when
//! publishers never pause.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, CloseReason, Counts, Event, Hub, PublishError, Topic};
use fanfare_bench::client::{Plan, Reader};
use fanfare_bench::engine::{self, Measured};
use fanfare_bench::machine::{self, Cores, ThreadClock};
use fanfare_bench::stamp::{self, Checker, Found};
use fanfare_bench::{Outcome, finish};
use fanfare_io::{Clock, affinity};

/// How often memory and laggards are measured.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// Deliveries a second on one shard under saturation, checked by the clients
#[derive(Clone, Parser)]
struct Options {
    /// Subscribers, all of one topic
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    connections: u32,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(24..=16_000))]
    event_bytes: u32,
    /// Events of one call to the hub
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Seconds that count
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: u32,
    /// Seconds before that
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=60))]
    warm_up_seconds: u32,
    /// Microseconds that the publisher waits when the hub is busy
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pause_us: u32,
    /// Each connection's every so many-th event has its latency noted, to keep the clients cheap
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    sample_every: u32,
    /// Publish this many events a second, and count latency from when each was due, instead of saturating
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events_per_second: Option<u32>,
    /// Only this backend
    #[arg(long)]
    backend: Option<Backend>,
}

/// What one backend did.
struct Result {
    seconds: f64,
    deliveries: u64,
    found: Found,
    /// p50, p99 and the maximum.
    latency_ms: [f64; 3],
    rss_mb: [u64; 2],
    tcp_mb: u64,
    most_laggards: u64,
    published: u64,
    refused: u64,
    busy: [f64; 3],
    disturbed: f64,
    counts: Counts,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let mut backends = machine::backends();
    backends.retain(|backend| options.backend.is_none_or(|only| only == *backend));
    machine::introduce("saturate", &backends);
    let cores = Cores::choose()?;
    println!(
        "{} subscribers, {} bytes of data, batches of {}, {} s after {} s; every {}th event timed",
        options.connections,
        options.event_bytes,
        options.batch,
        options.seconds,
        options.warm_up_seconds,
        options.sample_every,
    );
    let mut lines = Vec::new();
    for backend in backends {
        // A thread of its own, so that the next engine finds the cores unpinned.
        let options = options.clone();
        let measured = thread::spawn(move || measure(&options, backend, cores));
        let result = measured.join().map_err(|_| "the measurement panicked")??;
        result.print(backend);
        lines.push(result.line(backend));
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn measure(options: &Options, backend: Backend, cores: Cores) -> Outcome<Result> {
    let topic = Topic::new("bench")?;
    let count = options.connections as usize;
    let engine = Measured::start(backend, engine::quiet_limits())?;
    affinity::pin(cores.client)?;
    let clock = Clock::start();
    let (listener, to) = engine::listen()?;
    let checker = Checker::new(clock, count, options.event_bytes as usize, options.sample_every);
    let progress = checker.progress();
    let core = Some(cores.client);
    let plan = Plan { count, to, group: 0, core, hurried: false, request: String::new() };
    let reader = Reader::start(plan, checker)?;
    for _ in 0..count {
        engine.adopt(&listener.accept()?.0, &topic)?;
    }
    reader.wait_connected()?;
    engine.wait_connections(count)?;
    let clients_cpu = machine::threads_named("reader-0").first().copied().map(ThreadClock::of);
    let clients_cpu = clients_cpu.ok_or("the clients' thread is not found")?;

    let publisher = Publisher::start(engine.hub.clone(), topic, clock, options)?;
    thread::sleep(Duration::from_secs(options.warm_up_seconds.into()));
    progress.recording.store(true, Ordering::Relaxed);
    let used = || [engine.cpu.now(), clients_cpu.now(), publisher.cpu.now()];
    let (begun, before) = (clock.now(), progress.events.load(Ordering::Acquire));
    let used_before = used();
    let waited_before = engine.cpu.kept_waiting();
    let end = begun + Duration::from_secs(options.seconds.into());
    let first_rss = machine::resident_bytes();
    let (mut rss, mut tcp, mut most_laggards) = (0, 0, 0);
    while clock.now() < end {
        thread::sleep(SAMPLE_INTERVAL);
        rss = rss.max(machine::resident_bytes());
        tcp = tcp.max(machine::tcp_buffer_bytes());
        most_laggards = most_laggards.max(engine.hub.counts().laggards);
    }
    let seconds = (clock.now() - begun).as_secs_f64();
    let deliveries = progress.events.load(Ordering::Acquire) - before;
    progress.recording.store(false, Ordering::Relaxed);
    let used_after = used();
    let waited = engine.cpu.kept_waiting() - waited_before;
    let (published, refused) = publisher.stop()?;

    // What is under way arrives; what does not within this time counts as lost.
    let expected = published * u64::from(options.connections);
    let _ = engine::patiently("all have arrived", || {
        let arrived = progress.events.load(Ordering::Acquire) >= expected;
        Ok(arrived || progress.ended.load(Ordering::Acquire) > 0)
    });
    thread::sleep(Duration::from_millis(500));
    let counts = engine.hub.counts();
    let checker = reader.stop()?;
    engine.stop();
    let latency = checker.latency();
    let quantiles = [latency.value_at_quantile(0.5), latency.value_at_quantile(0.99), latency.max()];
    let share = |index: usize| (used_after[index] - used_before[index]).as_secs_f64() / seconds;
    Ok(Result {
        seconds,
        deliveries,
        found: checker.found(published as u32),
        latency_ms: quantiles.map(|nanos| nanos as f64 / 1e6),
        rss_mb: [first_rss, rss].map(|bytes| bytes >> 20),
        tcp_mb: tcp >> 20,
        most_laggards,
        published,
        refused,
        busy: [0, 1, 2].map(share),
        disturbed: waited.as_secs_f64() / seconds,
        counts,
    })
}

/// A thread that publishes without pause.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Outcome<(u64, u64)>>,
    cpu: ThreadClock,
}

impl Publisher {
    fn start(hub: Hub, topic: Topic, clock: Clock, options: &Options) -> Outcome<Publisher> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (batch, bytes) = (options.batch, options.event_bytes as usize);
        let pause = Duration::from_micros(options.pause_us.into());
        let interval = options.events_per_second.map(|rate| Duration::from_secs(batch.into()) / rate);
        let thread = thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let (mut next, mut refused) = (0_u32, 0);
            let mut events = Vec::with_capacity(batch as usize);
            let mut due = clock.now();
            while !stopped.load(Ordering::Relaxed) {
                // Saturating, stamped anew at each try: the latency counts from the call that was accepted.
                let now = if interval.is_some() { due } else { clock.now() };
                thread::sleep(now.saturating_sub(clock.now()));
                events.clear();
                events.extend(
                    (next..next + batch)
                        .map(|number| Event::new(topic.clone()).with_data(stamp::data(number, now, bytes))),
                );
                match hub.publish_batch(&mut events) {
                    Ok(_) => {
                        next += batch;
                        due += interval.unwrap_or_default();
                    }
                    Err(PublishError::Busy) => {
                        refused += 1;
                        thread::sleep(pause);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok((u64::from(next), refused))
        })?;
        let found = || machine::threads_named("publisher").first().copied();
        engine::patiently("the publisher has a name", || Ok(found().is_some()))?;
        let cpu = ThreadClock::of(found().ok_or("the publisher's thread is not found")?);
        Ok(Publisher { stop, thread, cpu })
    }

    /// How many events were accepted, and how many batches were refused.
    fn stop(self) -> Outcome<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the publisher has panicked")?
    }
}

impl Result {
    fn print(&self, backend: Backend) {
        let [p50, p99, max] = self.latency_ms;
        let counts = &self.counts;
        let [shard, clients, publisher] = self.busy.map(|share| share * 100.0);
        println!("\n{backend}");
        println!("  deliveries a second   {:.2} million", self.per_second() / 1e6);
        println!("  latency               p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms");
        println!("  events                {} published, {} batches refused", self.published, self.refused);
        println!("  events per send       {:.1}", counts.deliveries as f64 / counts.sends.max(1) as f64);
        println!(
            "  busy                  shard {shard:.0} %, clients {clients:.0} %, publisher {publisher:.0} %"
        );
        println!(
            "  shard kept waiting    {:.0} % of the time, by others on its core",
            self.disturbed * 100.0
        );
        println!("  memory                {} MB, at first {} MB", self.rss_mb[1], self.rss_mb[0]);
        println!("  kernel's TCP buffers  {} MB at most", self.tcp_mb);
        println!(
            "  laggards              {} at most; evicted: {} at their bound, {} stalled",
            self.most_laggards,
            counts.closed_for(CloseReason::LaggardFull),
            counts.closed_for(CloseReason::LaggardStalled),
        );
        println!("  found by the clients  {:?}", self.found);
    }

    fn line(&self, backend: Backend) -> String {
        let [p50, p99, max] = self.latency_ms;
        let Found { lost, doubled, ended, .. } = self.found;
        format!(
            "backend={} deliveries_per_s={:.0} p50_ms={p50:.2} p99_ms={p99:.2} max_ms={max:.2} max_rss_mb={} \
             lost={lost} doubled={doubled} evicted={ended}",
            machine::key(backend),
            self.per_second(),
            self.rss_mb[1],
        )
    }

    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }
}
