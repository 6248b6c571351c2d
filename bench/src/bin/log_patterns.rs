//! What a publish pays in the log for patterns: with very many topics, and with patterns that match them or
//! not.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_proto::log::Log;
use fanfare_proto::pattern::Pattern;

/// CPU time of a publish in the log: the shards that are interested, the append, and the frame that has to go
#[derive(Parser)]
struct Options {
    /// Topics, each of them with a reader and one retained event
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=4_000_000))]
    topics: u32,
    /// Patterns that match no topic
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    patterns: u32,
    /// Publishes of a round to each log
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=4_000_000))]
    publishes: u32,
    /// Rounds over all logs
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Different tenants in the topics.
const TENANTS: u32 = 1_000;

/// Patterns that match no topic, by number: half of them begin as the topics do.
fn other(number: u32) -> String {
    match number % 2 {
        0 => format!("/tenant-{number}/orders/*"),
        _ => format!("/{{tenant}}/items/old-{number}"),
    }
}

/// These match every topic.
const MATCHING: [&str; 3] = ["*", "/{tenant}/items/{id}", "/{tenant}/items/{+rest}"];

struct Measured {
    name: &'static str,
    log: Log,
    patterns: usize,
    /// Shards that are interested in each event: the one that reads the topics, and the one that reads the
    /// patterns.
    interested: usize,
    nanoseconds: Vec<f64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("log_patterns", &[]);
    let names = (0..options.topics).map(|number| format!("/tenant-{}/items/{number}", number % TENANTS));
    let topics: Vec<Topic> = names.map(Topic::new).collect::<Result<_, _>>()?;
    let others = || (0..options.patterns).map(other);
    let matching = || MATCHING.into_iter().map(str::to_owned);
    let mut logs = vec![
        Measured::new("no pattern", &topics, Vec::new(), 1)?,
        Measured::new("no pattern, again", &topics, Vec::new(), 1)?,
        Measured::new("patterns that do not match", &topics, others().collect(), 1)?,
        Measured::new("the same, and 3 that match", &topics, others().chain(matching()).collect(), 2)?,
    ];
    for round in 0..options.rounds {
        for measured in &mut logs {
            measured.measure(&topics, round, options.publishes)?;
        }
    }
    println!("log | patterns | ns a publish: median [quartiles] (extremes)");
    for Measured { name, patterns, nanoseconds, .. } in &logs {
        println!("{name} | {patterns} | {:.0}", Spread::of(nanoseconds.iter().copied()));
    }
    Ok(())
}

impl Measured {
    fn new(name: &'static str, topics: &[Topic], texts: Vec<String>, interested: usize) -> Outcome<Measured> {
        let retention = Retention::default().with_events(1);
        let limits = LogLimits::default().with_retention(retention).with_total_bytes(usize::MAX / 2);
        let mut log = Log::new(Epoch::new(7), limits, 1);
        log.limit_patterns(texts.len());
        for topic in topics {
            log.add_reader(std::slice::from_ref(topic), 0);
        }
        let patterns = texts.len();
        for text in texts {
            let pattern = Pattern::parse(&text)?.normalized();
            log.add_pattern_reader(&[pattern], 1).map_err(|_| format!("{text} is not taken"))?;
        }
        let mut measured = Measured { name, log, patterns, interested, nanoseconds: Vec::new() };
        for topic in topics {
            let frame = measured.frame(topic, 0)?;
            measured.log.append(frame, Duration::ZERO, &mut Vec::new());
        }
        Ok(measured)
    }

    fn frame(&self, topic: &Topic, ahead: u64) -> Outcome<Arc<Frame>> {
        let seq = self.log.newest() + 1 + ahead;
        let id = Cursor { epoch: self.log.epoch(), seq }.to_string();
        let event = Event::new(topic.clone()).with_data("what has happened");
        Ok(Arc::new(Frame::encode(seq, &id, event, Duration::ZERO)))
    }

    fn measure(&mut self, topics: &[Topic], round: u32, publishes: u32) -> Outcome<()> {
        // Topics far from each other, as publishers name them.
        let index = |number: u32| (number as usize * 7_919 + round as usize * 104_729) % topics.len();
        let frames: Vec<Arc<Frame>> = (0..publishes)
            .map(|number| self.frame(&topics[index(number)], u64::from(number)))
            .collect::<Outcome<_>>()?;
        let mut dropped = Vec::with_capacity(publishes as usize);
        let mut shards = 0;
        let begun = thread_cpu_time();
        for frame in frames {
            shards += self.log.shards_reading(frame.topics()).len();
            self.log.append(frame, Duration::ZERO, &mut dropped);
        }
        let taken = thread_cpu_time() - begun;
        assert_eq!(shards, publishes as usize * self.interested, "shards that are interested");
        self.nanoseconds.push(taken.as_secs_f64() * 1e9 / f64::from(publishes));
        Ok(())
    }
}
