//! The pieces by themselves, without sockets: nanoseconds of CPU time per operation.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{
    Backend, Cursor, Engine, Epoch, Event, HeadLimits, PublishError, RequestHead, Topic, WireFormat,
};
use fanfare_bench::engine::quiet_limits;
use fanfare_bench::machine;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish};
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::audience::Subscription;
use fanfare_proto::decoder::Decoder;
use fanfare_proto::delivery::{Delivery, NewStream};
use fanfare_proto::event_log::UnsharedLog;
use fanfare_proto::frame::Frame;
use fanfare_proto::frames::{FrameKey, FrameStore};
use fanfare_proto::limits::{Limits, LogLimits, Retention};
use fanfare_proto::log::Log;
use fanfare_proto::run::Run;
use fanfare_proto::selection::Selection;
use fanfare_proto::stream::StreamOptions;

/// CPU time of one repetition: long beside the clock's steps, short beside a scheduler's slice.
const REPETITION: Duration = Duration::from_millis(10);

const MEMBERS: u32 = 10_000;

const BROWSER: &str = "GET /events?topic=news&topic=sport HTTP/1.1\r\n\
    Host: push.example.com\r\n\
    Connection: keep-alive\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/event-stream\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\", \"Google Chrome\";v=\"140\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    Origin: https://www.example.com\r\n\
    Sec-Fetch-Site: same-site\r\n\
    Sec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Dest: empty\r\n\
    Referer: https://www.example.com/live/scores\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=2f6c1d0e9b8a7f6e5d4c3b2a19080706; theme=dark; consent=all\r\n\r\n";

const CURL: &str = "GET /events?topic=news HTTP/1.1\r\n\
    Host: localhost:8844\r\n\
    User-Agent: curl/8.15.0\r\n\
    Accept: */*\r\n\r\n";

/// Nanoseconds per operation of the engine's parts, without IO
#[derive(Parser)]
struct Options {
    /// Repetitions of each, of which the median counts
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(3..=1000))]
    repetitions: u32,
}

struct Bench {
    repetitions: u32,
    lines: Vec<String>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("micro", &[]);
    println!("{} repetitions of 10 ms of CPU time each; nanoseconds per operation", options.repetitions);
    let mut bench = Bench { repetitions: options.repetitions, lines: Vec::new() };
    encode_and_decode(&mut bench)?;
    heads(&mut bench)?;
    sweep(&mut bench)?;
    log(&mut bench)?;
    publish(&mut bench)?;
    println!();
    for line in &bench.lines {
        println!("{line}");
    }
    Ok(())
}

impl Bench {
    /// Times `work`, which does `operations` of them at each call.
    fn time(&mut self, key: &str, operations: u32, mut work: impl FnMut()) {
        let mut cpu = |calls: u32| {
            let begun = thread_cpu_time();
            for _ in 0..calls {
                work();
            }
            thread_cpu_time() - begun
        };
        let mut calls = 1;
        while cpu(calls) < REPETITION && calls < 1 << 24 {
            calls *= 2;
        }
        let per_operation =
            |taken: Duration| taken.as_nanos() as f64 / f64::from(calls) / f64::from(operations);
        self.report(key, (0..self.repetitions).map(|_| per_operation(cpu(calls))).collect());
    }

    fn report(&mut self, key: &str, figures: Vec<f64>) {
        let spread = Spread::of(figures);
        println!("{key:<24} {spread:.1}");
        self.lines.push(format!("{key}_ns={:.1}", spread.median));
    }
}

fn topic() -> Outcome<Topic> {
    Ok(Topic::new("bench")?)
}

fn frame(topic: &Topic, seq: u64, data: &str) -> Frame {
    let id = Cursor { epoch: Epoch::new(1), seq }.to_string();
    Frame::encode(seq, &id, Event::new(topic.clone()).with_data(data), Duration::ZERO)
}

fn encode_and_decode(bench: &mut Bench) -> Outcome<()> {
    let topic = topic()?;
    let lines = "a line of text\n".repeat(20);
    let all = [
        ("100b", "x".repeat(100)),
        ("200b", "x".repeat(200)),
        ("2kb", "x".repeat(2048)),
        ("20_lines", lines),
    ];
    for (name, data) in &all {
        bench.time(&format!("encode_{name}"), 1, || {
            black_box(frame(&topic, black_box(123_456), black_box(data)));
        });
    }
    for (name, data) in &all {
        let frame = frame(&topic, 123_456, data);
        let body = frame.wire(WireFormat::Plain);
        let mut decoder = Decoder::new(1 << 20);
        let mut failed = None;
        bench.time(&format!("decode_{name}"), 1, || {
            let decoded = decoder.feed(black_box(body), &mut |decoded| {
                black_box(&decoded);
            });
            failed = failed.or(decoded.err());
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    Ok(())
}

fn heads(bench: &mut Bench) -> Outcome<()> {
    let limits = HeadLimits::default();
    for (name, head) in [("browser", BROWSER), ("curl", CURL)] {
        if !matches!(RequestHead::parse(head.as_bytes(), &limits), Ok(Some(_))) {
            return Err(format!("the head of {name} is not accepted").into());
        }
        bench.time(&format!("head_{name}"), 1, || {
            black_box(RequestHead::parse(black_box(head.as_bytes()), &limits).is_ok());
        });
    }
    Ok(())
}

/// One event to all members of an audience: what is left of a shard's work when sends are free.
fn sweep(bench: &mut Bench) -> Outcome<()> {
    let (topic, epoch) = (topic()?, Epoch::new(1));
    let mut log = Log::new(epoch, LogLimits::default(), 1);
    let mut delivery = Delivery::new(Limits::default(), epoch, 1);
    let mut log = UnsharedLog { log: &mut log, shard: 0 };
    for member in 0..MEMBERS {
        let subscription = Subscription::new([topic.clone()], WireFormat::Chunked, false);
        let key = delivery.reserve();
        let opened = delivery.open(subscription, None, &mut log).expect("no pattern");
        let options = StreamOptions::default();
        let new = NewStream { link: key, socket: member as i32, options, lifetime: None, unsent: None };
        delivery.begin(opened, new, Duration::ZERO, &mut log);
    }
    let (now, mut seq, data) = (Duration::ZERO, 0, "x".repeat(200));
    bench.time("sweep_per_member", MEMBERS, || {
        seq += 1;
        let mut marks = usize::MAX;
        delivery.handle_event(Arc::new(frame(&topic, seq, &data)), &mut marks);
        let mut sent = 0;
        while delivery.has_work() {
            let mut budget = delivery.budget();
            while let Some(batch) = delivery.poll_send(now, &mut budget, &mut log) {
                sent += batch.sockets.iter().map(|socket| black_box(*socket) & 1).sum::<i32>();
                black_box(batch.bytes);
                delivery.handle_sent([], now, &mut log);
            }
        }
        black_box(sent);
    });
    Ok(())
}

fn log(bench: &mut Bench) -> Outcome<()> {
    /// Frames that a resuming reader is behind.
    const BEHIND: u32 = 100;
    let topic = topic()?;
    let topics = [topic.clone()];
    let retention = Retention::default().with_events(10_000);
    let limits = LogLimits::default().with_retention(retention);
    let mut log = Log::new(Epoch::new(1), limits, 1);
    log.add_reader(&topics, 0);
    // Full at first, so that each append also drops the oldest.
    append(bench, "log_append", &mut log, 20_000, 80_000, &topics);

    let id = Cursor { epoch: Epoch::new(1), seq: log.newest() - u64::from(BEHIND) }.to_string();
    bench.time("log_resume", 1, || {
        black_box(log.resume(black_box(&id), Selection::of(&topics, false)));
    });
    let start = log.resume(&id, Selection::of(&topics, false)).cursor();
    let (mut run, mut frames, mut store) = (Run::default(), Vec::new(), FrameStore::default());
    bench.time("log_resume_run_per_frame", BEHIND, || {
        black_box(
            log.read_after(Selection::of(&topics, false), start, 1 << 10, 1 << 20, &mut frames).is_ok(),
        );
        let keys: Vec<FrameKey> = frames.drain(..).map(|frame| store.insert(frame)).collect();
        run.fill(start, start, WireFormat::Chunked.into(), &keys, &mut store);
        black_box(run.bytes(&store));
        keys.into_iter().for_each(|key| store.drop_reference(key));
    });

    // One topic after the other, so that each one has left the caches when its turn comes.
    let many: Vec<Topic> = (0..100_000).map(|n| Topic::new(format!("user/{n}"))).collect::<Result<_, _>>()?;
    let mut log = Log::new(Epoch::new(1), LogLimits::default().with_total_bytes(1 << 30), 1);
    many.iter().for_each(|topic| log.add_reader(std::slice::from_ref(topic), 0));
    append(bench, "log_append_100k_topics", &mut log, 200_000, 200_000, &many);

    // The bound is reached all the time: each append evicts from the largest topic.
    let mut log = Log::new(Epoch::new(1), LogLimits::default().with_total_bytes(64 << 20), 1);
    append(bench, "log_append_evicting", &mut log, 200_000, 200_000, &many);
    Ok(())
}

/// Times what a publish does with the log: the shards that read the event's topic, and the append. The topics
/// take turns.
fn append(bench: &mut Bench, key: &str, log: &mut Log, unmeasured: usize, measured: usize, topics: &[Topic]) {
    let data = "x".repeat(200);
    let mut dropped = Vec::new();
    let frames = |log: &Log, count: usize| -> Vec<Arc<Frame>> {
        let seqs = (log.newest() + 1..).take(count);
        seqs.map(|seq| Arc::new(frame(&topics[seq as usize % topics.len()], seq, &data))).collect()
    };
    let mut append = |log: &mut Log, frames: &[Arc<Frame>]| {
        let begun = thread_cpu_time();
        for frame in frames {
            black_box(log.shards_reading(frame.topics()));
            log.append(Arc::clone(frame), Duration::ZERO, &mut dropped);
        }
        let taken = thread_cpu_time() - begun;
        dropped.clear();
        taken.as_nanos() as f64 / frames.len() as f64
    };
    let filling = frames(log, unmeasured);
    append(log, &filling);
    let count = measured / bench.repetitions as usize;
    let figures = (0..bench.repetitions).map(|_| append(log, &frames(log, count))).collect();
    bench.report(key, figures);
}

/// The publisher's side of a publish, with a shard that has no subscribers.
fn publish(bench: &mut Bench) -> Outcome<()> {
    let topic = topic()?;
    let engine = Engine::builder().shards(1).backend(Backend::Epoll).limits(quiet_limits()).start()?;
    let hub = engine.hub();
    let data = "x".repeat(200);
    for (name, batch) in [("publish_one", 1), ("publish_64_per_event", 64)] {
        let calls = 20_000 / batch;
        let mut figures = Vec::new();
        for _ in 0..bench.repetitions {
            let mut cpu = Duration::ZERO;
            for _ in 0..calls {
                let event = || Event::new(topic.clone()).with_data(data.as_str());
                let mut events: Vec<Event> = (0..batch).map(|_| event()).collect();
                loop {
                    let begun = thread_cpu_time();
                    let published = hub.publish_batch(&mut events);
                    let taken = thread_cpu_time() - begun;
                    match published {
                        Ok(published) => {
                            cpu += taken;
                            black_box(published);
                            break;
                        }
                        // Refusals are not counted: nothing was published.
                        Err(PublishError::Busy) => thread::sleep(Duration::from_micros(100)),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            figures.push(cpu.as_nanos() as f64 / f64::from(calls * batch));
        }
        bench.report(name, figures);
    }
    Ok(())
}
