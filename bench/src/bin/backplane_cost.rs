//! What a log that nodes share costs, on NATS JetStream: how long a publisher waits, how many events a second
//! go through, and how fast a node that starts catches up. A bare client of NATS beside it publishes the same
//! messages and waits for the same acknowledgements.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backplane, Engine, Event, Hub, Subscribe, Topic, testing};
use fanfare_backplane::{NatsBackplane, NatsOptions};
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, engine, finish, machine};
use fanfare_io::Clock;
use fanfare_testkit::nats::NatsServer;
use hdrhistogram::Histogram;

/// Time and rate of publishes through a log that nodes share, beside a bare client of NATS
#[derive(Parser)]
struct Options {
    /// A NATS server that runs; without it, one is started on loopback
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
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
    /// Events of one publish, for the rate
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Events that a node which starts has to catch up with
    #[arg(long, default_value_t = 200_000)]
    catch_up: usize,
}

/// What one contender has done with one number of publishers.
struct Figures {
    /// Microseconds of each publish, of all rounds.
    times: Histogram<u64>,
    /// Events a second, of each round.
    rates: Vec<f64>,
}

impl Figures {
    fn new() -> Figures {
        let times = Histogram::new(3).expect("three digits are allowed");
        Figures { times, rates: Vec::new() }
    }

    fn quantile(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1000.0
    }
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("backplane_cost", &machine::backends());
    let server = match &options.nats {
        Some(_) => None,
        None => Some(NatsServer::start(&Default::default())?),
    };
    let url = match (&options.nats, &server) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => server.url(),
        (None, None) => return Err("there is no server".into()),
    };
    latency(options, &url)?;
    rate(options, &url)?;
    catch_up(options, &url)
}

/// A connection with a stream that only this row of the table uses.
fn backplane(url: &str, stream: &str) -> Outcome<Arc<NatsBackplane>> {
    let prefix = stream.to_lowercase();
    Ok(NatsBackplane::connect(NatsOptions::new([url]).stream(stream).prefix(prefix))?)
}

/// An engine on this stream.
fn node(url: &str, stream: &str) -> Outcome<Engine> {
    let backplane: Arc<dyn Backplane> = backplane(url, stream)?;
    Ok(Engine::builder().shards(1).limits(engine::quiet_limits()).backplane(backplane).start()?)
}

fn event(bytes: usize) -> Event {
    Event::new(topic()).with_data("x".repeat(bytes))
}

fn topic() -> Topic {
    Topic::new("bench").expect("it is a topic")
}

/// The stream of a row: its name is new in each run.
fn stream_name(row: &str) -> String {
    format!("BENCH_{}_{row}", std::process::id())
}

/// How long a publisher waits for its answer, and how long an event takes to a subscriber on another node.
fn latency(options: &Options, url: &str) -> Outcome<()> {
    let alone = Engine::builder().shards(1).limits(engine::quiet_limits()).start()?;
    let name = stream_name("LATENCY");
    let (own, other) = (node(url, &name)?, node(url, &name)?);
    let mut lines = Vec::new();

    println!(
        "\ntime of a publish until its answer, {} bytes, ms (p50, p99), and publishes a second",
        options.bytes
    );
    for &publishers in &options.publishers {
        let contenders = [("memory", alone.hub()), ("shared log", own.hub())];
        let mut figures = [Figures::new(), Figures::new()];
        let mut bare = Figures::new();
        for _ in 0..options.rounds {
            for (figures, (_, hub)) in figures.iter_mut().zip(&contenders) {
                publish_for(options, publishers, hub, figures)?;
            }
            publish_bare(options, publishers, url, &name, &mut bare)?;
        }
        let [memory, shared] = figures;
        for (what, key, figures) in [
            ("memory", "memory", memory),
            ("shared log", "shared", shared),
            ("bare NATS client", "bare", bare),
        ] {
            let (p50, p99) = (figures.quantile(0.5), figures.quantile(0.99));
            let rate = Spread::of(figures.rates.clone());
            println!("  {publishers:4} publishers  {what:18} {p50:8.3} {p99:8.3}   {rate}");
            lines.push(format!("{key}_{publishers}_p50_ms={p50:.3}"));
            lines.push(format!("{key}_{publishers}_p99_ms={p99:.3}"));
        }
    }

    println!("\ntime from a publish until a subscriber has the event, ms (p50, p99)");
    for (what, key, publisher, subscriber) in [
        ("one engine, no shared log", "memory_delivery", alone.hub(), alone.hub()),
        ("the same node", "same_node_delivery", own.hub(), own.hub()),
        ("another node", "other_node_delivery", own.hub(), other.hub()),
    ] {
        let times = delivery(&publisher, &subscriber)?;
        let (p50, p99) =
            (times.value_at_quantile(0.5) as f64 / 1000.0, times.value_at_quantile(0.99) as f64 / 1000.0);
        println!("  {what:28} {p50:8.3} {p99:8.3}");
        lines.push(format!("{key}_p50_ms={p50:.3}"));
        lines.push(format!("{key}_p99_ms={p99:.3}"));
    }
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn publish_for(options: &Options, publishers: usize, hub: &Hub, figures: &mut Figures) -> Outcome<()> {
    let is_over = AtomicBool::new(false);
    let clock = Clock::start();
    let all = thread::scope(|scope| {
        let publisher = || {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let begun = clock.now();
                let published = hub.publish_wait(&mut vec![event(options.bytes)], engine::PATIENCE);
                published.map_err(|error| error.to_string())?;
                times.push(clock.now() - begun);
            }
            Ok::<_, String>(times)
        };
        let threads: Vec<_> = (0..publishers).map(|_| scope.spawn(publisher)).collect();
        thread::sleep(Duration::from_secs_f64(options.seconds));
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a publisher has panicked")).collect::<Vec<_>>()
    });
    note(all, clock.now(), figures)
}

/// The same with a raw client for each publisher: one message, and a wait for its acknowledgement.
fn publish_bare(
    options: &Options,
    publishers: usize,
    url: &str,
    stream: &str,
    figures: &mut Figures,
) -> Outcome<()> {
    let address = url.trim_start_matches("nats://").parse()?;
    let subject = format!("{}.bare", stream.to_lowercase());
    let data = "x".repeat(options.bytes);
    let is_over = AtomicBool::new(false);
    let clock = Clock::start();
    let all = thread::scope(|scope| {
        let publisher = || {
            let mut client = fanfare_testkit::nats::NatsClient::connect(address)?;
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let begun = clock.now();
                client.publish_acked(&subject, &[], data.as_bytes())?;
                times.push(clock.now() - begun);
            }
            Ok::<_, String>(times)
        };
        let threads: Vec<_> = (0..publishers).map(|_| scope.spawn(publisher)).collect();
        thread::sleep(Duration::from_secs_f64(options.seconds));
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a publisher has panicked")).collect::<Vec<_>>()
    });
    note(all, clock.now(), figures)
}

fn note(all: Vec<Result<Vec<Duration>, String>>, time: Duration, figures: &mut Figures) -> Outcome<()> {
    let mut count = 0;
    for times in all {
        let times = times?;
        count += times.len();
        for time in times {
            figures.times.record(time.as_micros() as u64)?;
        }
    }
    figures.rates.push(count as f64 / time.as_secs_f64());
    Ok(())
}

/// Microseconds from a publish until a subscriber has read the event, one after the other.
fn delivery(publisher: &Hub, subscriber: &Hub) -> Outcome<Histogram<u64>> {
    const EVENTS: usize = 1000;
    let mut client = testing::adopt(subscriber, Subscribe::to([topic()]))?;
    let clock = Clock::start();
    let mut times = Histogram::new(3)?;
    for number in 0..EVENTS {
        let event = Event::new(topic()).with_data(number.to_string());
        let begun = clock.now();
        let publishes = publisher.clone();
        let published =
            thread::spawn(move || publishes.publish_wait(&mut vec![event], engine::PATIENCE).map(drop));
        let received = client.next_wait(engine::PATIENCE)?.ok_or("the stream has ended")?;
        let time = clock.now() - begun;
        if received.data() != number.to_string() {
            return Err("another event came".into());
        }
        published.join().expect("the publisher has panicked")?;
        times.record(time.as_micros() as u64)?;
    }
    Ok(times)
}

/// Events a second from one publisher of batches to a subscriber on another node.
fn rate(options: &Options, url: &str) -> Outcome<()> {
    let mut rates = Vec::new();
    let name = stream_name("RATE");
    let (own, other) = (node(url, &name)?, node(url, &name)?);
    let hub = own.hub();
    for _ in 0..options.rounds {
        let clock = Clock::start();
        let mut count = 0;
        thread::scope(|scope| {
            let publisher = || {
                let mut count = 0;
                while clock.now().as_secs_f64() < options.seconds {
                    let mut events = vec![event(options.bytes); options.batch];
                    hub.publish_wait(&mut events, engine::PATIENCE).map_err(|error| error.to_string())?;
                    count += options.batch;
                }
                Ok::<_, String>(count)
            };
            // Several at once, as publishers are: one alone waits for each of its batches.
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(publisher)).collect();
            for thread in threads {
                count += thread.join().expect("a publisher has panicked")?;
            }
            Ok::<_, String>(())
        })?;
        let head = hub.head();
        engine::patiently("the other node has everything", || Ok(other.hub().head() == head))?;
        rates.push(count as f64 / clock.now().as_secs_f64());
    }
    let spread = Spread::of(rates);
    println!("\n8 publishers with batches of {}, until another node has all of them", options.batch);
    println!("events_a_second={spread}");
    Ok(())
}

/// How fast a node that starts, and one that was away, has what the stream has.
fn catch_up(options: &Options, url: &str) -> Outcome<()> {
    let name = stream_name("CATCHUP");
    let own = node(url, &name)?;
    let mut left = options.catch_up;
    while left > 0 {
        let count = left.min(1000);
        own.hub().publish_wait(&mut vec![event(options.bytes); count], engine::PATIENCE)?;
        left -= count;
    }
    let head = own.hub().head();
    // It begins with nothing in memory, so that everything goes through its feed.
    let clock = Clock::start();
    let other = node(url, &name)?;
    let started = clock.now();
    engine::patiently("the new node has everything", || Ok(other.hub().head() == head))?;
    println!(
        "\na node that starts with {} events in the stream, {} bytes each",
        options.catch_up, options.bytes
    );
    println!("start_s={:.2}", started.as_secs_f64());
    println!("caught_up_s={:.2}", clock.now().as_secs_f64());
    println!("catch_up_events_a_second={:.0}", options.catch_up as f64 / clock.now().as_secs_f64());
    Ok(())
}
