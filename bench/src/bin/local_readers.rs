//! What readers in the same process cost, and how fast one reads.
//!
//! For each number of readers it publishes single events at a pace at which every reader sleeps in between,
//! and batches as fast as the hub takes them, and reports the processor time of the publishing thread and of
//! the whole process for an event. Each reader is a thread. Then one reader reads everything that the log
//! retains: events a second, with the data and without. Rounds are interleaved.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, Engine, Event, Hub, ReadItem, Topic};
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish};
use fanfare_io::Clock;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two single publishes: long enough for every reader to sleep again.
const PACE: Duration = Duration::from_micros(500);

/// Processor time per published event with several numbers of readers.
#[derive(Parser)]
struct Options {
    /// Numbers of readers
    #[arg(long, value_delimiter = ',', default_value = "0,1,100")]
    readers: Vec<usize>,
    /// Rounds of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Single publishes in a round
    #[arg(long, default_value_t = 1_000)]
    singles: usize,
    /// Events in the batches of a round
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// Events in a batch
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let mut figures: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..options.rounds {
        for &readers in &options.readers {
            let engine = Engine::builder().shards(1).backend(Backend::Epoll).start()?;
            let (hub, topic) = (engine.hub(), Topic::new("measured")?);
            let reading: Vec<_> =
                (0..readers).map(|_| read_along(&hub, &topic)).collect::<Outcome<Vec<_>>>()?;
            let mut note = |what, figure| figures.entry((readers, what)).or_default().push(figure);
            let (of_thread, of_process) = singles(&hub, &topic, options.singles)?;
            note("single_publisher_us", of_thread);
            note("single_cpu_us", of_process);
            let (of_thread, of_process, rate) = batches(&hub, &topic, options.events, options.batch)?;
            note("batch_publisher_us", of_thread);
            note("batch_cpu_us", of_process);
            note("batch_events_per_s", rate);
            if readers == 0 {
                note("read_events_per_s", read_retained(&hub, &topic, false)?);
                note("read_with_data_events_per_s", read_retained(&hub, &topic, true)?);
            }
            engine.stop(Duration::ZERO).map_err(|_| "a shard has panicked")?;
            for reader in reading {
                let (read, gaps) = reader.join().map_err(|_| "a reader has panicked")?;
                if read + gaps == 0 {
                    return Err("a reader has read nothing".into());
                }
                note("gaps_of_a_reader", gaps as f64);
            }
        }
    }
    for ((readers, what), of_rounds) in figures {
        println!("readers={readers} {what} {:.2}", Spread::of(of_rounds));
    }
    Ok(())
}

/// A reader on a thread of its own, until the engine stops: how many events and gaps it read.
fn read_along(hub: &Hub, topic: &Topic) -> Outcome<thread::JoinHandle<(usize, usize)>> {
    let mut reader = hub.subscribe([topic.clone()]).stream()?;
    Ok(thread::spawn(move || {
        let (mut events, mut gaps) = (0, 0);
        while let Ok(Some(item)) = reader.next_wait(PATIENCE) {
            match item {
                ReadItem::Event(_) => events += 1,
                _ => gaps += 1,
            }
        }
        (events, gaps)
    }))
}

fn event(topic: &Topic) -> Event {
    Event::new(topic.clone()).data("x".repeat(100))
}

/// Microseconds of processor time for each of some paced publishes: of this thread, and of the process.
fn singles(hub: &Hub, topic: &Topic, count: usize) -> Outcome<(f64, f64)> {
    let mut of_thread = Duration::ZERO;
    let before = cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID);
    for _ in 0..count {
        let event = event(topic);
        let begun = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID);
        hub.publish(event)?;
        of_thread += cpu_time(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(begun);
        thread::sleep(PACE);
    }
    let of_process = cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(before);
    Ok((micros(of_thread) / count as f64, micros(of_process) / count as f64))
}

/// Microseconds of processor time for an event of a batch, of this thread and of the process, and events a
/// second.
fn batches(hub: &Hub, topic: &Topic, events: usize, batch: usize) -> Outcome<(f64, f64, f64)> {
    let clock = Clock::start();
    let (of_thread, of_process) =
        (cpu_time(libc::CLOCK_THREAD_CPUTIME_ID), cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID));
    let count = events.div_ceil(batch);
    for _ in 0..count {
        hub.publish_wait(&mut (0..batch).map(|_| event(topic)).collect(), PATIENCE)?;
    }
    let (taken, published) = (clock.now(), (count * batch) as f64);
    let of_thread = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(of_thread);
    let of_process = cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(of_process);
    Ok((micros(of_thread) / published, micros(of_process) / published, published / taken.as_secs_f64()))
}

/// Events a second that one reader reads from a log that has them.
fn read_retained(hub: &Hub, topic: &Topic, with_data: bool) -> Outcome<f64> {
    let mut reader = hub.subscribe([topic.clone()]).resume("earliest").stream()?;
    let clock = Clock::start();
    let (mut events, mut bytes) = (0_usize, 0);
    while let Ok(Some(ReadItem::Event(event))) = reader.try_next() {
        events += 1;
        if with_data {
            bytes += event.data().map_or(0, |data| data.len());
        }
    }
    let taken = clock.now();
    if events == 0 || (with_data && bytes != events * 100) {
        return Err("the reader has not read what was published".into());
    }
    Ok(events as f64 / taken.as_secs_f64())
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1_000.0
}

/// What this thread, or all threads of the process, have used, in user space and in the kernel.
fn cpu_time(of: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is valid to write to; zeroes are a valid `timespec` should the call fail.
    let time = unsafe {
        libc::clock_gettime(of, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
