//! An attack on the log: many events with 64 new topics each. What the log and the process take, and the CPU time.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, MAX_TOPICS_PER_EVENT, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::LogLimits;
use fanfare_proto::log::Log;

/// Memory and time of a log that gets events with 64 new topics each
#[derive(Parser)]
struct Options {
    /// Events
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("many_topics", &[]);
    let before = most_resident_kib()?;
    let limits = LogLimits::default();
    let bound = limits.total_bytes;
    let mut log = Log::new(Epoch::new(1), limits, 1);
    let mut dropped = Vec::new();
    let (mut most_bytes, mut cpu, mut slowest) = (0, Duration::ZERO, Duration::ZERO);
    for number in 0..options.events {
        let frame = Arc::new(frame(log.epoch(), number)?);
        let begun = thread_cpu_time();
        log.append(frame, Duration::ZERO, &mut dropped);
        let taken = thread_cpu_time() - begun;
        dropped.clear();
        cpu += taken;
        slowest = slowest.max(taken);
        most_bytes = most_bytes.max(log.bytes() + log.reader_bytes());
    }
    println!("events={} topics_each={MAX_TOPICS_PER_EVENT}", options.events);
    println!("bound_bytes={bound} log_bytes_most={most_bytes}");
    println!("resident_kib_most={} of which before={before}", most_resident_kib()?);
    println!("kept_events={} kept_topics={}", log.len(), log.topic_count());
    let each = cpu.as_secs_f64() * 1e6 / options.events as f64;
    println!("append_cpu_seconds={:.2} append_cpu_us={each:.1}", cpu.as_secs_f64());
    println!("append_cpu_us_most={:.0}", slowest.as_secs_f64() * 1e6);
    Ok(())
}

fn frame(epoch: Epoch, number: u64) -> Outcome<Frame> {
    let topic = |index| Topic::new(format!("topic-{number}-{index}"));
    let mut event = Event::new(topic(0)?).data("x".repeat(100));
    for index in 1..MAX_TOPICS_PER_EVENT {
        event = event.also(topic(index)?)?;
    }
    let seq = number + 1;
    Ok(Frame::encode(seq, &Cursor { epoch, seq }.to_string(), event, Duration::ZERO))
}

/// The most memory that the process has had, in KiB (`VmHWM` in proc_pid_status(5)).
fn most_resident_kib() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the kernel does not say how much memory the process has")?.parse()?)
}
