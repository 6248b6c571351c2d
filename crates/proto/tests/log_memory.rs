//! What the log takes, counted by the allocator.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use cap::Cap;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_proto::log::Log;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What every log takes: the empty tables, the heads of the size classes, and the smallest steps of tables
/// that are not empty.
const CONSTANT_BYTES: usize = 12 << 10;

/// One test, because the allocator counts for the whole process.
#[test]
fn memory_is_what_the_log_says_and_little_for_a_topic() {
    for count in [1_000, 100_000] {
        topics_with_one_reader(count);
    }
    topics_with_one_event(100_000);
    for seed in 0..8 {
        traffic(seed);
    }
}

/// A topic that is only read. Its name is the reader's own, so that it is stored once.
fn topics_with_one_reader(count: usize) {
    let names: Vec<[Topic; 1]> = (0..count).map(|number| [topic(number)]).collect();
    let empty = ALLOCATOR.allocated();
    let mut log = log(LogLimits::default());
    for name in &names {
        log.add_reader(name, 3);
    }
    let taken = ALLOCATOR.allocated() - empty;
    let each = (taken - CONSTANT_BYTES.min(taken)) / count;
    println!("{count} topics with a reader: {each} bytes each, {} by the log", log.reader_bytes() / count);
    assert!(each <= 80, "{each} bytes");
    assert_eq!(log.bytes(), 0);
    check_bound(&log, taken);
    for name in &names {
        log.remove_reader(name, 3);
    }
    let left = ALLOCATOR.allocated() - empty;
    assert!(left <= CONSTANT_BYTES, "{left} bytes when all have left");
}

/// What an event makes a topic cost, beside the event itself.
fn topics_with_one_event(count: usize) {
    let empty = ALLOCATOR.allocated();
    let mut log = log(LogLimits::default().with_total_bytes(1 << 30));
    let (mut frames_taken, mut dropped) = (0, Vec::new());
    for number in 0..count {
        let name = topic(number);
        log.add_reader(std::slice::from_ref(&name), 3);
        let before = ALLOCATOR.allocated();
        let frame = frame(&log, Event::new(name).with_data("x".repeat(100)), Duration::ZERO);
        frames_taken += ALLOCATOR.allocated() - before;
        log.append(frame, Duration::ZERO, &mut dropped);
    }
    assert_eq!((log.len(), dropped.len()), (count, 0));
    let taken = ALLOCATOR.allocated() - empty;
    // The name is counted here: without an event it is the reader's.
    let each = (taken - frames_taken - CONSTANT_BYTES) / count;
    println!(
        "{count} topics with a reader and an event: {each} bytes each and the frame's {}",
        frames_taken / count
    );
    assert!(each <= 300, "{each} bytes");
    check_bound(&log, taken);
}

/// Whatever happens, the log never takes more than it says.
fn traffic(seed: u64) {
    let empty = ALLOCATOR.allocated();
    let retention =
        Retention::default().with_events(500).with_bytes(200_000).with_age(Duration::from_secs(60));
    let mut log =
        log(LogLimits::default().with_retention(retention).with_rules(Vec::new()).with_total_bytes(2 << 20));
    let mut random = Random(seed);
    let (mut readers, mut dropped): (Vec<[Topic; 1]>, _) = (Vec::new(), Vec::new());
    for step in 0..20_000_u64 {
        let now = Duration::from_millis(step * 10);
        let pool = if step % 8_000 < 4_000 { 50 } else { 5_000 };
        let mut event = Event::new(topic(random.below(pool))).with_private(random.below(3) == 0);
        for _ in 0..random.below(3) * random.below(3) {
            event = event.with_topic(topic(random.below(pool))).unwrap();
        }
        if random.below(3) == 0 {
            let length = 1 + random.below(40);
            event = event.with_id(EventId::new(format!("{:0length$}", random.below(3_000))).unwrap());
        }
        let frame = frame(&log, event.with_data("x".repeat(random.below(600))), now);
        log.append(frame, now, &mut dropped);
        let name = [topic(random.below(20_000))];
        if random.below(2) == 0 && log.shards_reading(&name).is_empty() {
            // A set of readers grows and shrinks.
            let shard = 71 + random.below(300);
            log.add_reader(&name, shard);
            log.add_reader(&name, 70);
            log.remove_reader(&name, shard);
            readers.push(name);
        }
        if step % 5_000 == 4_999 {
            for name in readers.drain(..) {
                log.remove_reader(&name, 70);
            }
        }
        if step % 100 == 0 {
            log.trim(now, 1_000, &mut dropped);
            dropped = Vec::new();
            let lists = readers.capacity() * size_of::<[Topic; 1]>();
            let taken = ALLOCATOR.allocated() - empty - lists;
            check_bound(&log, taken);
        }
    }
    log.check();
}

/// The log takes at most what it says, and does not say far more than it takes.
fn check_bound(log: &Log, taken: usize) {
    let said = log.bytes() + log.reader_bytes();
    assert!(taken <= said + CONSTANT_BYTES, "{taken} bytes are allocated, the log says {said}");
    assert!(said <= 2 * taken + CONSTANT_BYTES, "{taken} bytes are allocated, the log says {said}");
}

fn log(limits: LogLimits) -> Log {
    Log::new(Epoch::new(7), limits, 1)
}

fn topic(number: usize) -> Topic {
    Topic::new(format!("user/{number}")).unwrap()
}

fn frame(log: &Log, event: Event, now: Duration) -> Arc<Frame> {
    let seq = log.newest() + 1;
    let id = Cursor { epoch: log.epoch(), seq }.to_string();
    Arc::new(Frame::encode(seq, &id, event, now))
}

/// A splitmix64 generator: any seed is good.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed % bound as u64) as usize
    }
}
