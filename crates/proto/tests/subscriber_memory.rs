//! What subscribers take, counted by the allocator.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::alloc::System;
use std::time::Duration;

use cap::Cap;
use fanfare_proto::audience::Subscription;
use fanfare_proto::cursor::Epoch;
use fanfare_proto::delivery::{Delivery, NewStream, SUBSCRIBER_BYTES};
use fanfare_proto::event::Topic;
use fanfare_proto::event_log::UnsharedLog;
use fanfare_proto::frame::WireFormat;
use fanfare_proto::limits::{Limits, LogLimits};
use fanfare_proto::log::Log;
use fanfare_proto::stream::StreamOptions;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What an empty shard and an empty log begin to take.
const CONSTANT_BYTES: usize = 64 << 10;

struct Shard {
    log: Log,
    delivery: Delivery,
}

impl Shard {
    fn new(limits: Limits) -> Shard {
        let epoch = Epoch::new(1);
        Shard { log: Log::new(epoch, LogLimits::default(), 7), delivery: Delivery::new(limits, epoch, 1) }
    }

    /// Begins a stream, if there is room for its topics.
    fn subscribe(&mut self, topics: impl Iterator<Item = String>) -> bool {
        let topics = topics.map(|name| Topic::new(name).unwrap());
        let subscription = Subscription::new(topics, WireFormat::Chunked, false);
        if !self.delivery.has_room_for(&subscription, true) {
            return false;
        }
        let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
        let link = self.delivery.reserve();
        let opened = self.delivery.open(subscription, None, &mut log).unwrap();
        let new =
            NewStream { link, socket: 1, options: StreamOptions::default(), lifetime: None, unsent: None };
        self.delivery.begin(opened, new, Duration::ZERO, &mut log);
        true
    }
}

/// A topic of the longest name.
fn long_name(subscriber: usize, topic: usize) -> String {
    let start = format!("{subscriber:>06}/{topic:>04}/");
    let padding = "x".repeat(fanfare_proto::limits::MAX_TOPIC_BYTES - start.len());
    start + &padding
}

/// One test, because the allocator counts for the whole process. A subscriber of 64 long topics took 28.9 KB,
/// and the bounds that the server prints said nothing of it.
#[test]
fn topics_of_subscribers_take_what_is_counted_and_have_a_bound() {
    let long = |subscriber: usize| (0..64).map(move |topic| long_name(subscriber, topic));
    let own = |subscriber: usize| std::iter::once(format!("user/{subscriber}"));
    let shared = |subscriber: usize| [format!("user/{subscriber}"), "all".to_owned()].into_iter();

    let each = measure("one own topic", 100_000, own);
    assert!(each <= 400, "{each} bytes for a subscriber of a topic of its own");
    measure("its own and a common topic", 100_000, shared);
    measure("64 long topics", 500, long);

    // At the bound, a subscription to other topics is refused, and one to the same topics is not.
    let bound = 1 << 20;
    let empty = ALLOCATOR.allocated();
    let mut shard = Shard::new(Limits::default().with_subscription_bytes(bound));
    let subscribers = (0..1_000).take_while(|&subscriber| shard.subscribe(long(subscriber))).count();
    assert!((10..100).contains(&subscribers), "{subscribers} subscribers");
    assert!(!shard.subscribe(long(1_000)) && shard.subscribe(long(0)));
    let taken = ALLOCATOR.allocated() - empty;
    assert!(taken <= bound + CONSTANT_BYTES, "{taken} bytes");
}

/// Adds subscribers, checks what is counted for them, and answers how many bytes each takes.
fn measure<Names: Iterator<Item = String>>(
    what: &str,
    subscribers: usize,
    topics: impl Fn(usize) -> Names,
) -> usize {
    let empty = ALLOCATOR.allocated();
    let mut shard = Shard::new(Limits::default());
    for subscriber in 0..subscribers {
        assert!(shard.subscribe(topics(subscriber)));
    }
    let taken = ALLOCATOR.allocated() - empty;
    let counted = shard.delivery.subscription_bytes();
    println!("{what}: {} bytes a subscriber, counted {}", taken / subscribers, counted / subscribers);
    assert!(
        taken <= counted + subscribers * SUBSCRIBER_BYTES + CONSTANT_BYTES,
        "{taken} taken, {counted} counted"
    );
    taken / subscribers
}
