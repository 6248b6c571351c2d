//! What a publish costs the process, by the number of shards: it must not grow with them.
//!
//! For each number of shards and each kind of reader (none, or one on one of the shards) it publishes single
//! events at a pace at which every shard sleeps in between, and batches as fast as the hub takes them. It
//! reports the processor time of the whole process for an event, and for batches the rate. Rounds are
//! interleaved.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, Engine, Event, Hub, Subscribe, Topic, WireFormat};
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish};
use fanfare_io::Clock;

/// How long a publisher waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two single publishes: long enough for every shard to sleep again.
const PACE: Duration = Duration::from_micros(500);

/// Processor time per published event at several numbers of shards.
#[derive(Parser)]
struct Options {
    /// Numbers of shards
    #[arg(long, value_delimiter = ',', default_value = "1,2,8,64")]
    shards: Vec<usize>,
    /// Rounds of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Single publishes in a round
    #[arg(long, default_value_t = 1_000)]
    singles: usize,
    /// Events in the batches of a round
    #[arg(long, default_value_t = 400_000)]
    events: usize,
    /// Events in a batch
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let mut figures: BTreeMap<(bool, usize, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..options.rounds {
        for &shards in &options.shards {
            for with_reader in [false, true] {
                let engine = Engine::builder().shards(shards).backend(Backend::Epoll).start()?;
                let hub = engine.hub();
                let topic = Topic::new("measured")?;
                let reader = with_reader.then(|| read_along(&hub, &topic)).transpose()?;
                let mut note =
                    |what, figure| figures.entry((with_reader, shards, what)).or_default().push(figure);
                note("single_cpu_us", singles(&hub, &topic, options.singles)?);
                let (cpu, rate) = batches(&hub, &topic, options.events, options.batch)?;
                note("batch_cpu_us", cpu);
                note("batch_events_per_s", rate);
                engine.stop(Duration::ZERO).map_err(|_| "a shard has panicked")?;
                if let Some(reader) = reader {
                    reader.join().map_err(|_| "the reader has panicked")?;
                }
            }
        }
    }
    for ((with_reader, shards, what), of_rounds) in figures {
        let readers = u8::from(with_reader);
        println!("readers={readers} shards={shards} {what} {:.2}", Spread::of(of_rounds));
    }
    Ok(())
}

/// A subscriber on one of the shards, and the thread that reads what it gets.
fn read_along(hub: &Hub, topic: &Topic) -> Outcome<thread::JoinHandle<()>> {
    let (mut ours, theirs) = UnixStream::pair()?;
    hub.adopt(theirs, Subscribe::to([topic.clone()]), WireFormat::Plain)?;
    let mut buffer = vec![0; 1 << 20];
    // The head of the response: from here on it gets what is published.
    if ours.read(&mut buffer)? == 0 {
        return Err("the subscriber was refused".into());
    }
    Ok(thread::spawn(move || while ours.read(&mut buffer).is_ok_and(|count| count > 0) {}))
}

fn event(topic: &Topic) -> Event {
    Event::new(topic.clone()).with_data("x".repeat(100))
}

/// Microseconds of processor time for each of some paced publishes.
fn singles(hub: &Hub, topic: &Topic, count: usize) -> Outcome<f64> {
    let before = process_cpu_time();
    for _ in 0..count {
        hub.publish(event(topic))?;
        thread::sleep(PACE);
    }
    Ok(micros(process_cpu_time() - before) / count as f64)
}

/// Microseconds of processor time for an event of a batch, and events a second.
fn batches(hub: &Hub, topic: &Topic, events: usize, batch: usize) -> Outcome<(f64, f64)> {
    let clock = Clock::start();
    let before = process_cpu_time();
    let count = events.div_ceil(batch);
    for _ in 0..count {
        hub.publish_wait(&mut (0..batch).map(|_| event(topic)).collect(), PATIENCE)?;
    }
    let (taken, published) = (clock.now(), (count * batch) as f64);
    Ok((micros(process_cpu_time() - before) / published, published / taken.as_secs_f64()))
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1_000.0
}

/// What all threads of the process have used, in user space and in the kernel.
fn process_cpu_time() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid to write to; zeroes are a valid `rusage` should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1_000);
    time(usage.ru_utime) + time(usage.ru_stime)
}
