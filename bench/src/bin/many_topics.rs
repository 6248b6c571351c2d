//! An attack on the log: many events with new topics. What the log and the process take, the CPU time, and
//! what the slowest appends did.

use std::cmp::Reverse;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, MAX_TOPICS_PER_EVENT, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::LogLimits;
use fanfare_proto::log::Log;

/// Memory and time of a log that gets events with new topics
#[derive(Parser)]
struct Options {
    /// Events
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// New topics of each event
    #[arg(long, default_value_t = MAX_TOPICS_PER_EVENT)]
    topics_each: usize,
    /// The bound of the log, in MiB
    #[arg(long, default_value_t = 64)]
    bound_mib: usize,
    /// After so many events the topics begin again; 0: never
    #[arg(long, default_value_t = 0)]
    repeat: u64,
    /// Gives each event an id of its own
    #[arg(long)]
    own_ids: bool,
    /// Bytes of the data of each event
    #[arg(long, default_value_t = 100)]
    data: usize,
}

/// How many of the slowest appends are printed.
const SLOWEST: usize = 5;

/// What one append did.
struct Append {
    cpu: Duration,
    number: u64,
    topics_before: usize,
    topics_after: usize,
    dropped: usize,
    /// Changes of what the log counts: frames with their indexes, and tables with room for more.
    bytes: i64,
    reader_bytes: i64,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("many_topics", &[]);
    let before = most_resident_kib()?;
    let bound = options.bound_mib << 20;
    let mut log = Log::new(Epoch::new(1), LogLimits::default().with_total_bytes(bound), 1);
    let mut dropped = Vec::new();
    let (mut most_bytes, mut cpu, mut slowest) = (0, Duration::ZERO, Vec::new());
    for number in 0..options.events {
        let frame = Arc::new(frame(options, log.epoch(), number)?);
        let (topics_before, bytes, reader_bytes) = (log.topic_count(), log.bytes(), log.reader_bytes());
        let begun = thread_cpu_time();
        log.append(frame, Duration::ZERO, &mut dropped);
        let taken = thread_cpu_time() - begun;
        cpu += taken;
        if slowest.len() < SLOWEST || slowest.last().is_some_and(|least: &Append| taken > least.cpu) {
            let change = |before: usize, after: usize| after as i64 - before as i64;
            slowest.push(Append {
                cpu: taken,
                number,
                topics_before,
                topics_after: log.topic_count(),
                dropped: dropped.len(),
                bytes: change(bytes, log.bytes()),
                reader_bytes: change(reader_bytes, log.reader_bytes()),
            });
            slowest.sort_by_key(|append| Reverse(append.cpu));
            slowest.truncate(SLOWEST);
        }
        dropped.clear();
        most_bytes = most_bytes.max(log.bytes() + log.reader_bytes());
    }
    println!("events={} topics_each={} repeat={}", options.events, options.topics_each, options.repeat);
    println!("bound_bytes={bound} log_bytes_most={most_bytes}");
    println!("resident_kib_most={} of which before={before}", most_resident_kib()?);
    println!("kept_events={} kept_topics={}", log.len(), log.topic_count());
    let each = cpu.as_secs_f64() * 1e6 / options.events as f64;
    println!("append_cpu_seconds={:.2} append_cpu_us={each:.1}", cpu.as_secs_f64());
    for Append { cpu, number, topics_before, topics_after, dropped, bytes, reader_bytes } in slowest {
        println!(
            "slow_append cpu_us={:.0} event={number} topics={topics_before}-{topics_after} dropped={dropped} \
             bytes={bytes:+} reader_bytes={reader_bytes:+}",
            cpu.as_secs_f64() * 1e6
        );
    }
    Ok(())
}

fn frame(options: &Options, epoch: Epoch, number: u64) -> Outcome<Frame> {
    let name = number.checked_rem(options.repeat).unwrap_or(number);
    let topic = |index| Topic::new(format!("topic-{name}-{index}"));
    let mut event = Event::new(topic(0)?).with_data("x".repeat(options.data));
    for index in 1..options.topics_each {
        event = event.with_topic(topic(index)?)?;
    }
    let seq = number + 1;
    let mut id = Cursor { epoch, seq }.to_string();
    if options.own_ids {
        id = format!("order-{number}");
        event = event.with_id(EventId::new(id.clone())?);
    }
    Ok(Frame::encode(seq, &id, event, Duration::ZERO))
}

/// The most memory that the process has had, in KiB (`VmHWM` in proc_pid_status(5)).
fn most_resident_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the kernel does not say how much memory the process has")?.parse()?)
}
