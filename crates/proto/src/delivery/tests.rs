//! Each kind of work in a tick has a bound, whatever clients do.

use std::sync::Arc;

use super::*;
use crate::audience::Subscription;
use crate::event::Event;
use crate::event_log::UnsharedLog;
use crate::frame::WireFormat;
use crate::limits::{
    JOINED_TOPICS, LaggardPolicy, LogLimits, REPLAYED_FRAMES, ROOM_CHECKS_MIN, RUN_BYTES, RUN_FRAMES,
    Retention, RetentionRule, SCAN_STEPS, STEPS_OF_A_READ_FRAME,
};
use crate::log::{Log, Start};
use crate::pattern::Pattern;
use crate::selection::Selection;
use crate::stream::StreamOptions;

mod shed;

const SECOND: Duration = Duration::from_secs(1);

/// A delivery, its log, and what the sockets do.
struct World {
    delivery: Delivery,
    log: Log,
    now: Duration,
    /// How many bytes each socket takes of a send.
    takes: usize,
    /// Sends of the last tick.
    sends: usize,
}

impl World {
    fn new(limits: Limits, budgets: Budgets) -> World {
        let log = Log::new(Epoch::new(1), LogLimits::default(), 1);
        let delivery = Delivery::with_budgets(limits, budgets, Epoch::new(1), 1);
        World { delivery, log, now: Duration::ZERO, takes: usize::MAX, sends: 0 }
    }

    /// A stream that reads these topics; `unsent` is what is left of its opening.
    fn begin(&mut self, topics: &[&str], unsent: Option<Unsent>) -> LinkKey {
        self.begin_at(topics, None, unsent)
    }

    fn begin_at(&mut self, topics: &[&str], start: Option<Start>, unsent: Option<Unsent>) -> LinkKey {
        let topics = topics.iter().map(|name| Topic::new(name).unwrap());
        self.begin_with(Subscription::new(topics, WireFormat::Chunked, false), start, unsent)
    }

    fn begin_with(
        &mut self,
        subscription: Subscription,
        start: Option<Start>,
        unsent: Option<Unsent>,
    ) -> LinkKey {
        let log = &mut UnsharedLog { log: &mut self.log, shard: 0 };
        let link = self.delivery.reserve();
        let opened = self.delivery.open(subscription, start, log).unwrap();
        let new = NewStream {
            link,
            socket: link.slot as i32,
            options: StreamOptions::default(),
            lifetime: None,
            unsent,
        };
        self.delivery.begin(opened, new, self.now, log);
        link
    }

    /// An event, marked in all of its audiences.
    fn publish(&mut self, topic: &str, bytes: usize) {
        let event = Event::new(Topic::new(topic).unwrap()).with_data("x".repeat(bytes));
        let seq = self.log.newest() + 1;
        let frame = Arc::new(Frame::encode(seq, &seq.to_string(), event, self.now));
        self.log.append(Arc::clone(&frame), self.now, &mut Vec::new());
        self.delivery.handle_event(frame, &mut usize::MAX.clone());
        self.delivery.mark(&mut usize::MAX.clone());
    }

    fn tick(&mut self) {
        let (now, log) = (self.now, &mut UnsharedLog { log: &mut self.log, shard: 0 });
        self.delivery.handle_timeout(now, None, log);
        let mut budget = self.delivery.budget();
        self.sends = 0;
        while let Some(batch) = self.delivery.poll_send(now, &mut budget, log) {
            self.sends += batch.sockets.len();
            let sent = self.takes;
            let is_short = sent < batch.bytes.len();
            let failures = (0..if is_short { batch.sockets.len() } else { 0 })
                .map(|index| SendFailure { index, sent, is_gone: false })
                .collect::<Vec<_>>();
            self.delivery.handle_sent(failures, now, log);
        }
        while self.delivery.poll_closed().is_some() {}
        self.delivery.check();
    }
}

/// A stream whose topics changed more often than it was served was closed, where the machine was busy.
#[test]
fn a_stream_bears_any_number_of_changes() {
    const CHANGES: usize = 300;
    let mut world =
        World::new(Limits { laggard_time: 1_000 * SECOND, ..Limits::default() }, Budgets::default());
    let link = world.begin(&["stays", "0"], Some(Unsent::own(b"abc".as_slice().into(), 1)));
    for number in 0..CHANGES {
        world.publish("stays", 1);
        let topics = ["stays", &(number % 7).to_string()].map(|name| Topic::new(name).unwrap());
        let log = &mut UnsharedLog { log: &mut world.log, shard: 0 };
        assert_eq!(world.delivery.change_topics(link, topics, [], None, world.now, log), Changed::Changed);
        world.tick();
    }
    world.delivery.handle_writable(link);
    for _ in 0..100 {
        world.tick();
    }
    assert_eq!((world.delivery.len(), world.delivery.laggards()), (1, 0));
    assert_eq!(world.delivery.counts().deliveries, CHANGES as u64);
}

/// The first publish is timed to each of ten subscribers, however it comes to them; what one replays is not.
#[test]
fn deliveries_are_timed_and_their_bytes_are_counted() {
    const STREAMS: u64 = 10;
    let mut world = World::new(Limits::default(), Budgets::default());
    let links: Vec<LinkKey> = (0..STREAMS).map(|_| world.begin(&["a"], None)).collect();
    world.publish("a", 100);
    let each = world.log.appended_bytes();
    world.now += Duration::from_millis(3);
    world.tick();
    let counts = |world: &World| {
        let (lag, counts) = (world.delivery.delivery_lag(), world.delivery.counts());
        (lag.count(), lag.sum(), counts.bytes, counts.replayed)
    };
    assert_eq!(counts(&world), (STREAMS, Duration::from_millis(30), STREAMS * each, 0));
    assert_eq!(world.delivery.sweep_times().count(), 1);
    // Each socket takes a part. The rest comes a second later, from the links and from the log.
    world.takes = 10;
    world.publish("a", 100);
    world.publish("a", 100);
    world.tick();
    assert_eq!(counts(&world), (STREAMS, Duration::from_millis(30), STREAMS * (each + 10), 0));
    (world.takes, world.now) = (usize::MAX, world.now + SECOND);
    for link in links {
        world.delivery.handle_writable(link);
    }
    (0..3).for_each(|_| world.tick());
    let sum = Duration::from_millis(30) + SECOND * 2 * STREAMS as u32;
    assert_eq!(counts(&world), (3 * STREAMS, sum, 3 * STREAMS * each, 0));
    // The times of one run are in different buckets.
    world.publish("a", 100);
    world.now += SECOND;
    world.publish("a", 100);
    world.now += Duration::from_millis(1);
    world.tick();
    let sum = sum + Duration::from_millis(1002) * STREAMS as u32;
    assert_eq!(counts(&world), (5 * STREAMS, sum, 5 * STREAMS * each, 0));
    world.begin_at(&["a"], Some(Start::At { cursor: 0, from: 0 }), None);
    world.tick();
    assert_eq!(counts(&world), (5 * STREAMS, sum, (5 * STREAMS + 5) * each, 5));
}

/// The time that the caller notes in the middle of a tick is the time of what is sent from then on.
#[test]
fn the_time_of_a_delivery_is_that_of_its_send() {
    let mut world = World::new(Limits::default(), Budgets::default());
    world.begin(&["a"], None);
    world.publish("a", 1);
    world.delivery.note_time(world.now + SECOND);
    world.tick();
    assert_eq!(world.delivery.delivery_lag().sum(), SECOND);
}

/// Every step of a drain went through the whole table for as long as laggards kept their window: with a
/// million of them a hundred times a second.
#[test]
fn a_step_of_a_drain_checks_a_part_of_the_table() {
    const LAGGARDS: usize = 1_000;
    let limits = Limits { heartbeat: 1_000 * SECOND, laggard_time: 1_000 * SECOND, ..Limits::default() };
    let mut world = World::new(limits, Budgets { drain_checks: 100, ..Budgets::default() });
    for _ in 0..LAGGARDS {
        world.begin(&["a"], Some(Unsent::own(b"abc".as_slice().into(), 1)));
    }
    world.begin(&["a"], None);
    world.delivery.begin_drain(10 * SECOND, Duration::ZERO);
    world.now = SECOND;
    let (mut ticks, mut before) = (0, 0);
    // The one member is found, a part of the table in each tick.
    while world.delivery.len() > LAGGARDS {
        world.tick();
        let slots = world.delivery.subscribers.capacity();
        let next = world.delivery.drain.as_ref().map_or(0, Drain::next_slot);
        let checked = (next + slots - before) % slots;
        assert!(checked <= 100, "one step checked {checked} slots");
        (before, ticks) = (next, ticks + 1);
        assert!(ticks < 20, "the member is never found");
    }
    assert_eq!(ticks, LAGGARDS / 100 + 1);
    // Laggards have the whole window. A search that was in vain does not begin again at once.
    while world.delivery.next_timeout().is_some_and(|at| at <= world.now) {
        world.tick();
        ticks += 1;
        assert!(ticks < 40, "it searches for ever");
    }
    assert_eq!(world.delivery.len(), LAGGARDS);
    world.now = 10 * SECOND;
    while !world.delivery.is_empty() {
        world.tick();
        ticks += 1;
        assert!(ticks < 60, "a drain that is over has an end");
    }
    let closed = world.delivery.counts().closed;
    assert_eq!(closed[CloseReason::Cut.index()], LAGGARDS as u64);
    assert_eq!(closed[CloseReason::Drained.index()], 1);
}

/// All heartbeats that were due went out in one batch: with a million streams that a broadcast had reached,
/// 2,000 in one tick, and with short ages far more, while events for a small topic waited.
#[test]
fn a_tick_sends_a_bounded_number_of_heartbeats() {
    let mut world = World::new(Limits::default(), Budgets { heartbeats: 10, ..Budgets::default() });
    for _ in 0..1_000 {
        world.begin(&["a"], None);
    }
    world.now = 20 * SECOND;
    let mut ticks = 0;
    while world.delivery.counts().heartbeats < 1_000 {
        world.tick();
        assert!(world.sends <= 10, "one tick sent {} heartbeats", world.sends);
        if !world.delivery.has_work() {
            world.now = world.delivery.next_timeout().unwrap();
        }
        ticks += 1;
        assert!(ticks < 1_000, "some get none");
    }
    assert!(ticks >= 100 && world.now < 26 * SECOND, "{ticks} ticks until {:?}", world.now);
    assert_eq!(world.delivery.counts().heartbeats, 1_000);
}

/// The audiences of a crowd that had left stayed in the queue, and one tick checked all of them.
#[test]
fn a_tick_checks_a_bounded_number_of_audiences_that_have_left() {
    let mut world = World::new(Limits::default(), Budgets { scans: 100, ..Budgets::default() });
    let links: Vec<LinkKey> =
        (0..2_000).map(|user| world.begin(&["all", &format!("user/{user}")], None)).collect();
    world.publish("all", 10);
    let log = &mut UnsharedLog { log: &mut world.log, shard: 0 };
    for link in links {
        world.delivery.handle_gone(link, log);
    }
    let mut ticks = 0;
    while world.delivery.has_work() {
        world.tick();
        ticks += 1;
        assert!(ticks < 100, "they are in the queue for ever");
    }
    assert!(ticks >= 2_000 / 101, "{ticks} ticks for 2,000 audiences");
}

/// Room for what links have begun is made after each audience's turn. Where a crowd had to go for one frame,
/// every one of these checked 16,384 laggards: four million in one tick.
#[test]
fn a_tick_checks_a_bounded_number_of_laggards_to_make_room() {
    const CROWD: usize = 1_500;
    let limits = Limits { laggard_bytes: 15_000, laggard_time: 1_000 * SECOND, ..Limits::default() };
    let mut world = World::new(limits, Budgets::default());
    world.takes = 100;
    for _ in 0..CROWD {
        world.begin(&["a"], None);
    }
    for user in 0..CROWD {
        world.begin(&["b", &format!("user/{user}")], None);
    }
    // Each crowd is in the middle of one event. Both events together are more than the bound.
    for topic in ["a", "b"] {
        world.publish(topic, 10_000);
        let mut ticks = 0;
        while world.delivery.has_work() {
            let (before, streams) = (world.delivery.upkeep.next_to_make_room, world.delivery.len());
            world.tick();
            let checks = world.delivery.upkeep.next_to_make_room.wrapping_sub(before);
            let ended = streams - world.delivery.len();
            let bound = ROOM_CHECKS + LAGGARD_CHECKS + ROOM_CHECKS_MIN * ended;
            assert!(checks <= bound, "one tick checked {checks} laggards and ended {ended}");
            ticks += 1;
            assert!(ticks < 1_000, "room is never made");
        }
    }
    assert!(world.delivery.memory_bytes() <= 15_000, "{} bytes are held", world.delivery.memory_bytes());
    assert!(world.delivery.counts().closed[CloseReason::LaggardFull.index()] > 0);
}

/// A tick served 64 laggards with up to 512 frames each: 32,768 tiny events, and all other streams waited for
/// that.
#[test]
fn a_tick_replays_a_bounded_number_of_frames() {
    const EVENTS: usize = 600;
    const SUBSCRIBERS: usize = 100;
    let mut world = World::new(Limits::default(), Budgets::default());
    for _ in 0..EVENTS {
        world.publish("a", 1);
    }
    for _ in 0..SUBSCRIBERS {
        world.begin_at(&["a"], Some(Start::At { cursor: 0, from: 0 }), None);
    }
    while world.delivery.has_work() {
        let before = world.delivery.counts().deliveries;
        world.tick();
        let replayed = (world.delivery.counts().deliveries - before) as usize;
        assert!((1..REPLAYED_FRAMES + RUN_FRAMES).contains(&replayed), "{replayed} frames in one tick");
    }
    assert_eq!(world.delivery.counts().deliveries as usize, EVENTS * SUBSCRIBERS);
}

/// Streams at their age were queued for their end again each time that upkeep found them. Where many reached
/// it together, the queue grew faster than streams ended, and a drain, which waits for that queue, never
/// began to end streams.
#[test]
fn a_stream_at_its_age_is_queued_for_its_end_once() {
    let limits = Limits { heartbeat: SECOND, connection_age: Some(2 * SECOND), ..Limits::default() };
    let mut world = World::new(limits, Budgets { endings: 1, ..Budgets::default() });
    for _ in 0..500 {
        world.begin(&["a"], None);
    }
    world.now = 3 * SECOND;
    for _ in 0..200 {
        world.now += Duration::from_millis(20);
        world.tick();
        let (queued, streams) = (world.delivery.sending.endings_queued(), world.delivery.len());
        assert!(queued <= streams, "{queued} ends are queued for {streams} streams");
    }
    assert_eq!(world.delivery.len(), 300, "one stream ended in each tick");
}

/// A stream whose beginning was incomplete became a member before it had passed that, where mail was behind
/// the log. When it fell behind, it was told of the same gap a second time.
#[test]
fn a_stream_is_no_member_before_it_has_passed_what_is_incomplete() {
    let limits = Limits::default().with_laggard_policy(LaggardPolicy::Skip);
    let mut world = World::new(limits, Budgets::default());
    let one = Retention::default().with_events(1);
    let rule = RetentionRule::new("b".parse().unwrap(), one);
    world.log = Log::new(Epoch::new(1), LogLimits::default().with_rules(vec![rule]), 1);
    world.begin(&["a", "b"], None);
    world.publish("a", 1);
    world.tick();
    // The shard is not handed what comes now. Of `b`, only the last event is kept.
    let mut mail = Vec::new();
    for (topic, bytes) in [("a", RUN_BYTES), ("b", 1), ("b", 1), ("a", 1)] {
        let event = Event::new(Topic::new(topic).unwrap()).with_data("x".repeat(bytes));
        let seq = world.log.newest() + 1;
        let frame = Arc::new(Frame::encode(seq, &seq.to_string(), event, world.now));
        world.log.append(Arc::clone(&frame), world.now, &mut Vec::new());
        mail.push(frame);
    }
    world.log.trim(world.now, usize::MAX, &mut Vec::new());
    let topics = ["a", "b"].map(|name| Topic::new(name).unwrap());
    let incomplete_until = world.log.available_after(Selection::of(&topics, false));
    assert_eq!(incomplete_until, 3);
    world.begin_at(&["a", "b"], Some(Start::Gap { cursor: incomplete_until, from: 1 }), None);
    let counts = |world: &World| (world.delivery.laggards(), world.delivery.counts().gaps);
    let mut budget = Budgets { laggards: 1, ..world.delivery.budget() };
    let log = &mut UnsharedLog { log: &mut world.log, shard: 0 };
    let batch = world.delivery.poll_send(world.now, &mut budget, log).unwrap();
    assert!(batch.bytes.len() > RUN_BYTES, "the run has no room for more than the first event");
    world.delivery.handle_sent([], world.now, log);
    assert_eq!(counts(&world), (1, 1), "it stands at 2, and what comes up to 3 is incomplete");
    for frame in mail {
        world.delivery.handle_event(frame, &mut usize::MAX.clone());
    }
    for _ in 0..5 {
        world.tick();
    }
    assert_eq!(counts(&world), (0, 1), "its opening has told of the only gap");
}

/// A subscriber of a pattern goes through the events of all topics. Many of them together take no more of a
/// tick than others, and none of them is taken for one that has everything before it has come to its event.
#[test]
fn subscribers_of_patterns_replay_within_the_budget_of_a_tick() {
    const STREAMS: usize = 40;
    const EVENTS: usize = 4_000;
    let mut world = World::new(Limits::default(), Budgets::default());
    (0..EVENTS).for_each(|_| world.publish("noise", 1));
    world.publish("orders/7", 1);
    let pattern = [Pattern::parse("orders/{id}").unwrap()];
    let subscription = Subscription::new([], WireFormat::Chunked, false).with_patterns(pattern, |_| false);
    for _ in 0..STREAMS {
        world.begin_with(subscription.clone(), Some(Start::At { cursor: 0, from: 0 }), None);
    }
    let (mut ticks, mut sends) = (0, 0);
    while world.delivery.laggards() > 0 {
        assert!(world.delivery.has_work(), "a laggard is forgotten");
        world.tick();
        (ticks, sends) = (ticks + 1, sends + world.sends);
        assert!(ticks < 10_000, "it comes to an end");
    }
    assert_eq!((sends, world.delivery.counts().deliveries), (STREAMS, STREAMS as u64));
    // What their openings have looked at does not count here.
    let looked_at = STREAMS * (EVENTS * (8 + 1 + 1) - SCAN_STEPS) / STEPS_OF_A_READ_FRAME;
    assert!(ticks >= looked_at / REPLAYED_FRAMES, "{ticks} ticks");
    // Now it is live.
    world.publish("orders/8", 1);
    world.tick();
    assert_eq!(world.sends, STREAMS);
}

/// A laggard that skips what is gone looks for what is left. Of patterns that took steps which no budget knew
/// of: 64 of them held up a tick for ten milliseconds.
#[test]
fn what_a_laggard_of_a_pattern_skips_takes_of_the_budget_of_a_tick() {
    const STREAMS: usize = 40;
    let limits = Limits::default().with_laggard_policy(LaggardPolicy::Skip);
    let mut world = World::new(limits, Budgets::default());
    let once = RetentionRule::new("orders*".parse().unwrap(), Retention::default().with_events(1));
    let log_limits = LogLimits::default().with_rules(vec![once]);
    world.log = Log::new(Epoch::new(1), log_limits, 1);
    let pattern = [Pattern::parse("orders/{id}").unwrap()];
    let subscription = Subscription::new([], WireFormat::Chunked, false).with_patterns(pattern, |_| false);
    // The pattern is known before it loses something.
    world.begin_with(subscription.clone(), None, None);
    world.publish("orders/7", 1);
    (0..4_000).for_each(|_| world.publish("noise", 1));
    world.publish("orders/7", 1);
    while world.delivery.has_work() {
        world.tick();
    }
    for _ in 0..STREAMS {
        world.begin_with(subscription.clone(), Some(Start::At { cursor: 0, from: 0 }), None);
    }
    let (mut gaps, mut most) = (0, 0);
    while world.delivery.laggards() > 0 {
        world.tick();
        let now = world.delivery.counts().gaps;
        (gaps, most) = (now, most.max(now - gaps));
    }
    assert_eq!(gaps, STREAMS as u64, "each is told of its gap once");
    let in_a_tick = (REPLAYED_FRAMES * STEPS_OF_A_READ_FRAME / SCAN_STEPS + 1) as u64;
    assert!(most <= in_a_tick, "{most} searches in one tick");
}

/// Of two orders about patterns, the one that finds no room changes nothing.
#[test]
fn a_change_to_a_pattern_that_finds_no_room_changes_nothing() {
    let mut world = World::new(Limits::default(), Budgets::default());
    world.log.limit_patterns(1);
    let link = world.begin(&["a"], None);
    let pattern = |text: &str| [Pattern::parse(text).unwrap()];
    let change = |world: &mut World, text| {
        let log = &mut UnsharedLog { log: &mut world.log, shard: 0 };
        world.delivery.change_topics(link, [], pattern(text), None, world.now, log)
    };
    assert_eq!(change(&mut world, "x/*"), Changed::Changed);
    assert_eq!(change(&mut world, "y/*"), Changed::NoRoom);
    world.tick();
    world.publish("y/1", 1);
    world.publish("x/1", 1);
    (0..3).for_each(|_| world.tick());
    assert_eq!(world.delivery.counts().deliveries, 1);
    // A text that is a pattern names the pattern. With another name of its variable it is the same.
    world.delivery.disconnect_topic(Topic::new("y/*").unwrap());
    world.tick();
    assert_eq!(world.delivery.len(), 1);
    world.delivery.disconnect_topic(Topic::new("x/*").unwrap());
    (0..2).for_each(|_| world.tick());
    assert_eq!((world.delivery.len(), world.log.pattern_readers()), (0, 0));
}

/// One that falls behind, or catches up, neither joins nor leaves. What finds no room is counted, and holds
/// up nothing.
#[test]
fn joins_are_noted_by_topic_and_what_finds_no_room_is_counted() {
    let mut world = World::new(Limits::default(), Budgets::default());
    world.delivery.note_joins(vec![Pattern::parse("a*").unwrap()], 1);
    let first = world.begin(&["a", "b"], None);
    world.begin(&["a", "ab"], None);
    world.takes = 10;
    world.publish("a", 1_000);
    world.tick();
    assert_eq!(world.delivery.laggards(), 2);
    world.delivery.disconnect(first, &mut UnsharedLog { log: &mut world.log, shard: 0 });
    world.tick();
    let noted: Vec<_> = std::iter::from_fn(|| world.delivery.poll_joins()).collect();
    let topic = |name: &str| Topic::new(name).unwrap();
    let counts = |joined, left| JoinCounts { joined, left };
    assert_eq!(noted, [(topic("a"), counts(2, 1)), (topic("ab"), counts(1, 0))]);
    assert_eq!((world.delivery.joins_noted(), world.delivery.take_missed_joins()), (0, 0));
    for number in 0..JOINED_TOPICS + 3 {
        world.begin(&[&format!("a{number}")], None);
    }
    assert_eq!((world.delivery.joins_noted(), world.delivery.take_missed_joins()), (JOINED_TOPICS, 3));
    assert_eq!(world.delivery.poll_joins(), Some((topic("a0"), counts(1, 0))));
    // There is room again.
    world.begin(&["a-new"], None);
    assert_eq!((world.delivery.joins_noted(), world.delivery.take_missed_joins()), (JOINED_TOPICS, 0));
}
