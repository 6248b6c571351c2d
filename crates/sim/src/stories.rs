//! Stories of bugs that there were, told one step after the other in a world where nothing is left to chance.

use std::time::Duration;

use fanfare::{Farewell, LaggardPolicy, Limits, LogLimits, Retention, Topic};

use crate::choices::Choices;
use crate::client::Ask;
use crate::setting::Setting;
use crate::tally::Thing;
use crate::trace::Trace;
use crate::world::{SECOND, World};

impl World {
    fn calm(limits: Limits) -> World {
        World::with(Choices::from_bytes(&[]), Setting::calm(limits), Trace::Off)
    }

    /// A subscriber whose socket takes `capacity` bytes that it has not read.
    fn join(&mut self, topic: &str, capacity: usize) -> usize {
        let number = self.clients.len();
        let mut client = self.client(Ask::Now);
        client.interest.topics = vec![Topic::new(topic).unwrap()];
        self.clients.push(client);
        let request = self.clients[number].request();
        self.connect_to(number, &request, 0);
        if capacity < usize::MAX {
            let wire = self.clients[number].link.as_ref().unwrap().wire;
            self.clients[number].is_fast = false;
            self.seats[0].net.borrow_mut().squeeze(wire, capacity);
        }
        self.send_requests(1);
        self.pass(SECOND / 100);
        number
    }

    fn publish_one(&self, topic: &str, size: usize) {
        assert!(self.shared.publish_to(&Topic::new(topic).unwrap(), size));
    }

    /// From now on it reads everything.
    fn opens(&mut self, number: usize) {
        let link = self.clients[number].link.as_ref().unwrap();
        self.seats[0].net.borrow_mut().open(link.wire);
        self.clients[number].is_fast = true;
        self.read(number, usize::MAX);
    }

    fn counted(&self) -> fanfare::Counts {
        self.seats[0].shard.counts()
    }
}

#[test]
fn a_heartbeat_comes_only_after_silence() {
    let mut world = World::calm(Limits { heartbeat: 4 * SECOND, ..Limits::default() });
    // A young shard took its first tenth of a second for "silent since ever", and sent one at once.
    world.join("a", usize::MAX);
    world.pass(2 * SECOND);
    assert_eq!(world.counted().heartbeats, 0);
    world.publish_one("a", 10);
    world.pass(2 * SECOND);
    assert_eq!(world.counted().heartbeats, 0);
    // From then on each interval has one, early rather than late.
    world.pass(20 * SECOND);
    assert!((5..=7).contains(&world.counted().heartbeats));
}

/// When the slab grew, the next slice of upkeep began where the old slab had ended: the old slots were left out for a
/// quarter of the interval, and their heartbeats came later than promised.
#[test]
fn a_slab_that_grows_forgets_nobody_s_heartbeat() {
    let mut world = World::calm(Limits { heartbeat: 4 * SECOND, ..Limits::default() });
    for _ in 0..4 {
        world.join("a", usize::MAX);
    }
    world.pass(SECOND * 5 / 2);
    world.join("a", usize::MAX);
    // The world checks that nobody has silence for longer than the interval.
    world.pass(4 * SECOND);
    assert!(world.counted().heartbeats >= 4);
}

/// Whoever is ended first in a drain may be the last that a sweep reaches: its events go out before, as far as the
/// window allows.
#[test]
fn a_drain_lets_go_out_what_was_published_before() {
    let mut setting = Setting::calm(Limits::default());
    setting.budgets.sends = 1;
    let mut world = World::with(Choices::from_bytes(&[]), setting, Trace::Off);
    for topic in ["a", "b", "c", "d"] {
        world.join(topic, usize::MAX);
    }
    for topic in ["d", "c", "b", "a"] {
        world.publish_one(topic, 10);
    }
    // It checks that everybody has everything, and was ended in time.
    world.drain();
    assert_eq!(world.counted().farewell(Farewell::Drained), 4);
}

/// Who had not been sent everything when the drain was over was counted as drained all the same: nobody could tell
/// whether something was lost.
#[test]
fn who_is_behind_when_a_drain_is_over_is_counted_as_cut() {
    let mut setting = Setting::calm(Limits::default());
    setting.budgets.sends = 1;
    let mut world = World::with(Choices::from_bytes(&[]), setting, Trace::Off);
    for topic in ["a", "b", "c", "d"] {
        world.join(topic, usize::MAX);
        world.publish_one(topic, 10);
    }
    // It checks that no more miss something than are counted.
    world.drain_within(Duration::ZERO);
    let (drained, cut) = (Farewell::Drained, Farewell::Cut);
    assert_eq!(world.counted().farewell(drained) + world.counted().farewell(cut), 4);
    assert!(world.counted().farewell(cut) > 0);
}

/// What a laggard was sent whole did not count: it had been silent since its first byte, and as soon as it
/// had caught up there was a heartbeat behind its events.
#[test]
fn a_laggard_that_has_caught_up_is_not_silent() {
    let mut world = World::calm(Limits { heartbeat: 4 * SECOND, ..Limits::default() });
    let slow = world.join("a", 180);
    world.publish_one("a", 100);
    world.pass(10 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (1, 0));
    world.opens(slow);
    world.pass(2 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (0, 1));
    assert_eq!(world.counted().heartbeats, 0);
}

/// The notice of a gap named as the next event the first one in the log, also where the window, from which
/// the stream goes on, reached further back than a log with little retention.
#[test]
fn a_gap_notice_names_the_event_that_comes_next() {
    let retention = Retention { events: 1, ..Retention::default() };
    let laggard_policy = LaggardPolicy::Skip;
    let log = LogLimits { retention, ..LogLimits::default() };
    let mut world = World::calm(Limits { laggard_frames: 4, laggard_policy, log, ..Limits::default() });
    let slow = world.join("a", 600);
    world.join("a", usize::MAX);
    for _ in 0..20 {
        world.publish_one("a", 300);
        world.pass(Duration::from_millis(1));
    }
    // It checks what the notice says.
    world.opens(slow);
    world.pass(SECOND);
    assert_eq!(world.shared.tally.borrow().of(Thing::Skip), 1);
    assert!(!world.clients[slow].misses(world.stand(0), &world.shared));
}

/// A drain ended streams slot by slot, also that of a laggard whose turn came: what had been acknowledged before the
/// drain, and was still to be written to it, was lost although there was time.
#[test]
fn a_drain_gives_laggards_the_whole_window() {
    let mut world = World::calm(Limits::default());
    let slow = world.join("a", 180);
    for _ in 0..9 {
        world.join("b", usize::MAX);
    }
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().laggards, world.counted().connections), (1, 10));

    world.shared.over.set(true);
    world.shared.cuts_from.set(world.shared.now.get() + 2 * SECOND);
    fanfare::sim::drain(world.shared.hub(), 2 * SECOND);
    world.pass(SECOND);
    assert!((5..=6).contains(&world.counted().connections), "the others are ended at the same pace");
    world.opens(slow);
    world.pass(2 * SECOND);
    assert!(world.seats[0].shard.is_stopped());
    assert_eq!(world.counted().deliveries, 1);
}

/// A minority holds up nobody. Where most are slow and still move, mail waits for a quarter of a second; where they stand
/// still, it does not.
#[test]
fn mail_waits_for_a_majority_that_moves_and_for_nobody_else() {
    for (slow, waits) in [(1, false), (3, true)] {
        let mut world = World::calm(Limits::default());
        world.join("a", usize::MAX);
        for number in 0..3 {
            // Room for the head, and for no event.
            world.join("a", if number < slow { 500 } else { usize::MAX });
        }
        let mut deliveries = |time_ms, publish: bool| {
            if publish {
                world.publish_one("a", 1_000);
            }
            world.pass(Duration::from_millis(time_ms));
            (world.counted().laggards, world.counted().deliveries)
        };
        let fast = 4 - slow;
        assert_eq!(deliveries(1, true), (slow, fast));
        assert_eq!(deliveries(200, true), (slow, if waits { fast } else { 2 * fast }));
        assert_eq!(deliveries(50, false), (slow, 2 * fast));
        // After a second without a byte, and the next look at them.
        deliveries(1_500, false);
        assert_eq!(deliveries(1, true), (slow, 3 * fast));
    }
}

/// A shard that had very much to do told clients that their heads were late, with the heads in its sockets: its timers
/// were looked at before what it had not been told yet.
#[test]
fn a_head_that_came_in_time_is_not_late() {
    let mut world = World::calm(Limits { head_time: SECOND, ..Limits::default() });
    let client = world.client(Ask::Now);
    let request = client.request();
    world.clients.push(client);
    world.connect_to(0, &request, 0);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().pending, world.counted().connections), (1, 0));
    world.send_requests(1);
    world.seats[0].net.borrow_mut().hold_back();
    world.pass(2 * SECOND);
    assert_eq!((world.counted().heads_timed_out, world.counted().connections), (0, 1));
}

/// As many request heads as there may be that never end kept everybody out whose head came in two pieces.
#[test]
fn slow_heads_make_room_for_newcomers() {
    let mut world = World::calm(Limits { pending: 2, head_time: 60 * SECOND, ..Limits::default() });
    for number in 0..4 {
        let client = world.client(Ask::Now);
        let request = client.request();
        world.clients.push(client);
        world.connect_to(number, &request, 0);
        world.pass(SECOND / 10);
    }
    assert_eq!((world.counted().pending, world.counted().turned_away), (2, 2));
    world.send_requests(1);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().pending, world.counted().connections), (0, 2));
}

/// An event larger than a laggard may be behind fell out of the window at once: whoever did not take it in one send was
/// disconnected in its middle, and so was everybody else when the next event came.
#[test]
fn an_event_beyond_the_laggards_bound_reaches_who_is_slow() {
    let mut world = World::calm(Limits { laggard_bytes: 3_000, ..Limits::default() });
    let (full, in_its_middle) = (world.join("a", 180), world.join("a", 5_000));
    world.publish_one("a", 10_000);
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().connections), (2, 2));
    world.opens(full);
    world.pass(SECOND);
    world.publish_one("a", 100);
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().connections), (1, 2));
    world.opens(in_its_middle);
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (0, 4));
}

/// Slow heads kept those out who resume at a shard that does not have their last event yet: they were closed without an
/// answer.
#[test]
fn slow_heads_make_room_for_those_who_resume() {
    let limits = Limits { pending: 2, head_time: 60 * SECOND, ..Limits::default() };
    let mut world =
        World::with(Choices::from_bytes(&[]), Setting { shards: 2, ..Setting::calm(limits) }, Trace::Off);
    for number in 0..2 {
        let client = world.client(Ask::Now);
        world.clients.push(client);
        world.connect_to(number, "GET", 1);
    }
    world.pass(SECOND / 10);
    assert_eq!(world.seats[1].shard.counts().pending, 2);

    world.publish_one("a", 10);
    let last = world.shared.hub().head().to_string();
    let client = world.client(Ask::Id(last));
    let request = client.request();
    world.clients.push(client);
    world.connect_to(2, &request, 1);
    world.send_requests(1);
    world.turn(1);
    let counts = world.seats[1].shard.counts();
    assert_eq!((counts.pending, counts.turned_away, counts.connections), (1, 1, 1));
}

/// Ages were looked at four times in a heartbeat's interval, however short they were: of one second came six.
#[test]
fn a_stream_ends_within_its_age() {
    for age in [SECOND, 10 * SECOND] {
        let mut world = World::calm(Limits { connection_age: Some(age), ..Limits::default() });
        let began_at = world.shared.now.get();
        for _ in 0..20 {
            world.join("a", usize::MAX);
        }
        let all_began_at = world.shared.now.get();
        world.pass(began_at + age * 8 / 10 - SECOND / 10 - all_began_at);
        assert_eq!(world.counted().farewell(Farewell::Aged), 0);
        world.pass(all_began_at + age - world.shared.now.get());
        assert_eq!(world.counted().farewell(Farewell::Aged), 20);
    }
}

/// Who was in the middle of an event each time that its age was looked at had no age.
#[test]
fn a_slow_reader_ends_with_the_event_that_it_is_in_the_middle_of() {
    let mut world = World::calm(Limits { connection_age: Some(10 * SECOND), ..Limits::default() });
    let slow = world.join("a", 400);
    world.publish_one("a", 1_000);
    world.publish_one("a", 1_000);
    world.pass(10 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().farewell(Farewell::Aged)), (1, 0));
    world.opens(slow);
    world.pass(SECOND / 100);
    assert_eq!((world.counted().deliveries, world.counted().farewell(Farewell::Aged)), (1, 1));
}
