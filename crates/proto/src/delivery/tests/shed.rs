//! A share of the streams ends: as many, when and which.

use super::*;
use crate::share::Share;

fn share(percent: f64) -> Share {
    Share::percent(percent).unwrap()
}

/// So many streams that are at a frame boundary, in a world without other upkeep.
fn world_of(streams: usize, budgets: Budgets) -> (World, Vec<LinkKey>) {
    let limits = Limits { heartbeat: 1_000 * SECOND, laggard_time: 1_000 * SECOND, ..Limits::default() };
    let mut world = World::new(limits, budgets);
    let links = (0..streams).map(|_| world.begin(&["a"], None)).collect();
    (world, links)
}

impl World {
    fn begin_in_frame(&mut self) -> LinkKey {
        self.begin(&["a"], Some(Unsent::own(b"abc".as_slice().into(), 1)))
    }

    /// Ticks until nothing is due by now.
    fn ticks(&mut self) {
        let mut ticks = 0;
        self.tick();
        while self.delivery.has_work() || self.delivery.next_timeout().is_some_and(|at| at <= self.now) {
            self.tick();
            ticks += 1;
            assert!(ticks < 1_000, "it never rests");
        }
    }

    fn stay(&self, links: &[LinkKey]) -> Vec<bool> {
        links.iter().map(|link| self.delivery.socket(*link).is_some()).collect()
    }

    fn shed(&self) -> usize {
        self.delivery.counts().closed[CloseReason::Shed.index()] as usize
    }
}

fn count(stay: &[bool]) -> usize {
    stay.iter().filter(|stays| **stays).count()
}

#[test]
fn a_share_ends_evenly_over_the_window_and_over_the_table() {
    let (mut world, links) = world_of(1_000, Budgets::default());
    let key = world.delivery.begin_shed(share(20.0), 10 * SECOND, world.now);
    for second in 0..10 {
        world.now = second * SECOND;
        world.ticks();
        assert_eq!(world.shed(), 20 * second as usize, "at second {second}");
        assert!(world.delivery.is_shedding(key));
        // These begin after the order.
        world.begin(&["a"], None);
    }
    world.now = 10 * SECOND;
    world.ticks();
    assert!((199..=201).contains(&world.shed()), "{} have ended", world.shed());
    assert!(!world.delivery.is_shedding(key) && world.delivery.sheds.is_empty());
    let stay = world.stay(&links);
    assert_eq!(count(&stay), 1_000 - world.shed(), "only streams that were there have ended");
    for (number, part) in stay.chunks(100).enumerate() {
        assert!((78..=82).contains(&count(part)), "{} of part {number} stay", count(part));
    }
}

/// With any choice that depends on the slot alone, a second order ends the streams that have just come back.
#[test]
fn each_stream_is_chosen_with_the_same_probability_and_later_orders_choose_anew() {
    const ROUNDS: usize = 200;
    let (mut world, mut links) = world_of(20, Budgets::default());
    let mut ended = [0; 20];
    let mut again = 0;
    let mut before = [false; 20];
    for _ in 0..ROUNDS {
        world.delivery.begin_shed(share(30.0), Duration::ZERO, world.now);
        world.ticks();
        let stay = world.stay(&links);
        assert!((13..=15).contains(&count(&stay)), "{} stay", count(&stay));
        for slot in 0..20 {
            ended[slot] += usize::from(!stay[slot]);
            again += usize::from(!stay[slot] && before[slot]);
            before[slot] = !stay[slot];
        }
        // They come back, each to a free slot.
        for _ in 0..20 - count(&stay) {
            let link = world.begin(&["a"], None);
            links[link.slot as usize] = link;
        }
    }
    // 60 each, with a standard deviation of 6.5.
    assert!(ended.iter().all(|times| (35..=85).contains(times)), "{ended:?}");
    // 30 % of those that came back, as of all.
    assert!((300..=420).contains(&again), "{again} of {} ended twice in a row", 6 * ROUNDS);
}

#[test]
fn all_means_every_stream_that_is_there_and_none_that_begins_later() {
    let (mut world, mut links) =
        world_of(500, Budgets { endings: 7, drain_checks: 50, ..Budgets::default() });
    links.extend((0..100).map(|_| world.begin_in_frame()));
    let key = world.delivery.begin_shed(Share::ALL, 10 * SECOND, world.now);
    let later: Vec<LinkKey> = (0..50).map(|_| world.begin(&["a"], None)).collect();
    world.now = 9 * SECOND;
    world.ticks();
    assert_eq!((world.shed(), world.delivery.laggards()), (500, 100), "no stream ends in a frame");
    // Where a link has room again, its stream ends at the end of its frame.
    world.delivery.handle_writable(links[550]);
    world.ticks();
    assert_eq!((world.shed(), world.delivery.laggards()), (500, 99));
    world.now = 10 * SECOND;
    world.ticks();
    assert_eq!((count(&world.stay(&links)), count(&world.stay(&later))), (0, 50));
    assert!(!world.delivery.is_shedding(key));
}

/// Streams of slow links are passed over as long as there are others.
#[test]
fn a_stream_in_the_middle_of_a_frame_is_passed_over() {
    let (mut world, mut links) = world_of(0, Budgets::default());
    for _ in 0..50 {
        links.push(world.begin_in_frame());
        links.push(world.begin(&["a"], None));
    }
    world.delivery.begin_shed(share(30.0), SECOND, world.now);
    world.now = SECOND;
    world.ticks();
    assert!((29..=31).contains(&world.shed()), "{} have ended", world.shed());
    assert!((48..=50).contains(&world.delivery.laggards()), "{} are slow", world.delivery.laggards());
    // There are not enough others.
    world.delivery.begin_shed(share(90.0), SECOND, world.now);
    world.now = 2 * SECOND;
    world.ticks();
    assert!((6..=8).contains(&world.delivery.len()), "{} stay", world.delivery.len());
}

/// An event comes after the choice, and the links take only a part of it.
#[test]
fn a_stream_that_was_chosen_and_is_sent_to_ends_all_the_same_where_all_are_meant() {
    let (mut world, _) = world_of(10, Budgets { endings: 3, ..Budgets::default() });
    let key = world.delivery.begin_shed(Share::ALL, Duration::ZERO, world.now);
    world.takes = 10;
    world.publish("a", 1_000);
    world.ticks();
    assert_eq!((world.delivery.len(), world.shed()), (0, 10));
    assert!(!world.delivery.is_shedding(key));
}

/// An event comes behind the choice, and the links of some that were chosen take only a part of it.
#[test]
fn a_stream_that_is_passed_over_late_has_another_in_its_place() {
    let (mut world, _) = world_of(10, Budgets::default());
    (0..40).for_each(|_| _ = world.begin(&["b"], None));
    world.delivery.begin_shed(share(40.0), Duration::ZERO, world.now);
    world.takes = 10;
    world.publish("a", 1_000);
    world.ticks();
    assert!((19..=21).contains(&world.shed()), "{} have ended", world.shed());
}

#[test]
fn a_step_checks_a_part_of_the_table_and_ends_a_bounded_number() {
    let (mut world, _) = world_of(2_000, Budgets { drain_checks: 100, endings: 10, ..Budgets::default() });
    world.delivery.begin_shed(share(50.0), Duration::ZERO, world.now);
    let (mut passed, mut ended, mut ticks) = (0, 0, 0);
    while let Some(shed) = world.delivery.sheds.first() {
        let now = shed.passed();
        assert!(now <= passed + 100, "one tick checked {} slots", now - passed);
        assert!(world.shed() <= ended + 10, "one tick ended {} streams", world.shed() - ended);
        (passed, ended) = (now, world.shed());
        world.tick();
        ticks += 1;
        assert!(ticks < 400, "it has no end");
    }
    assert!((999..=1_001).contains(&world.shed()) && ticks >= 99, "{} in {ticks} ticks", world.shed());
}

#[test]
fn orders_are_carried_out_side_by_side_and_a_drain_takes_their_place() {
    let (mut world, _) = world_of(1_000, Budgets::default());
    let first = world.delivery.begin_shed(share(10.0), 10 * SECOND, world.now);
    world.now = 5 * SECOND;
    world.ticks();
    let second = world.delivery.begin_shed(share(10.0), SECOND, world.now);
    world.now = 6 * SECOND;
    world.ticks();
    assert!((154..=156).contains(&world.shed()), "60 of 1,000 and 95 of 950, not {}", world.shed());
    assert!(world.delivery.is_shedding(first) && !world.delivery.is_shedding(second));
    world.delivery.begin_drain(Duration::ZERO, world.now);
    assert!(!world.delivery.is_shedding(first) && world.delivery.next_shed_step().is_none());
    let third = world.delivery.begin_shed(Share::ALL, Duration::ZERO, world.now);
    assert!(!world.delivery.is_shedding(third), "the drain ends all streams");
    world.ticks();
    assert!(world.delivery.is_empty() && world.shed() <= 156);
}

/// Streams that leave by themselves end no order too early, and none lasts without streams.
#[test]
fn an_order_has_an_end_where_streams_leave() {
    let (mut world, links) = world_of(100, Budgets::default());
    let key = world.delivery.begin_shed(Share::ALL, 10 * SECOND, world.now);
    let mut log = UnsharedLog { log: &mut world.log, shard: 0 };
    links[..99].iter().for_each(|link| world.delivery.handle_gone(*link, &mut log));
    assert!(world.delivery.is_shedding(key));
    world.delivery.handle_gone(links[99], &mut log);
    assert!(!world.delivery.is_shedding(key) && world.delivery.next_shed_step().is_none());
    let none = world.delivery.begin_shed(Share::ALL, SECOND, world.now);
    assert!(!world.delivery.is_shedding(none));
}

/// A shard with an order over an hour made a hundred steps a second, which ended nothing.
#[test]
fn an_order_sleeps_from_one_end_to_the_next() {
    let (mut world, _) = world_of(10, Budgets::default());
    world.begin_in_frame();
    let key = world.delivery.begin_shed(Share::ALL, 900 * SECOND, world.now);
    let mut ticks = 0;
    while world.delivery.is_shedding(key) {
        world.tick();
        if !world.delivery.has_work() {
            world.now = world.delivery.next_timeout().unwrap_or(world.now);
        }
        ticks += 1;
        assert!(ticks < 4_000, "it has no end");
    }
    // The laggard is checked four times a second.
    assert!(world.now == 900 * SECOND && ticks < 3_700, "{ticks} ticks until {:?}", world.now);
    world.delivery.begin_shed(Share::ALL, Duration::MAX, world.now);
    world.tick();
}
