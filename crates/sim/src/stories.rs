//! Stories of bugs that there were, told one step after the other in a world where nothing is left to chance.

mod connections;
mod stored;

use std::time::Duration;

use fanfare::{
    Checkpoint, CloseReason, Counts, Cursor, LaggardPolicy, Limits, LogLimits, Retention, RetentionRule, sim,
};

use crate::choices::Choices;
use crate::client::{Client, Resume, topic};
use crate::setting::Setting;
use crate::tally::Occurrence;
use crate::trace::Trace;
use crate::world::{SECOND, World};

impl World {
    fn without_chance(limits: Limits) -> World {
        World::of(Setting::without_chance(limits))
    }

    fn of(setting: Setting) -> World {
        World::with(Choices::from_bytes(&[]), setting, Trace::Recent)
    }

    /// A subscriber whose socket takes `capacity` bytes that it has not read.
    fn join(&mut self, topic: &str, capacity: usize) -> usize {
        self.join_as(topic, capacity, 0, |_| ())
    }

    /// The same, changed before it connects to this shard.
    fn join_as(
        &mut self,
        name: &str,
        capacity: usize,
        shard: usize,
        change: impl FnOnce(&mut Client),
    ) -> usize {
        let number = self.clients.len();
        let mut client = self.client(Resume::Now);
        client.request.interest.topics = vec![topic(name)];
        // Nothing but heartbeats comes behind the opening.
        client.request.checkpoint = Checkpoint::Off;
        change(&mut client);
        self.clients.push(client);
        self.connect_with(number, capacity, shard);
        number
    }

    /// It connects, and sends its whole request.
    fn connect_with(&mut self, number: usize, capacity: usize, shard: usize) {
        self.connect(number, shard);
        if capacity < usize::MAX {
            let index = self.clients[number].connection.as_ref().unwrap().index;
            self.clients[number].is_fast = false;
            self.shards[shard].net.borrow_mut().leave_room(index, capacity);
        }
        self.send_requests(1);
        self.pass(SECOND / 100);
    }

    fn publish_one(&self, name: &str, size: usize) {
        assert!(self.shared.publish_to(&topic(name), size));
    }

    /// From now on it reads everything.
    fn opens(&mut self, number: usize) {
        let at = self.clients[number].connection.as_ref().unwrap();
        self.shards[at.shard].net.borrow_mut().open(at.index);
        self.clients[number].is_fast = true;
        self.read(number, usize::MAX);
    }

    fn counted(&self) -> Counts {
        self.shards[0].shard.counts()
    }

    /// The number up to which a client's connection was sent everything.
    fn cursor_of(&self, number: usize) -> u64 {
        let at = self.clients[number].connection.as_ref().unwrap();
        self.shards[at.shard].net.borrow().connection(at.index).verifier.cursor.unwrap()
    }

    fn happened(&self, occurrence: Occurrence) -> u64 {
        self.shared.tally.borrow().of(occurrence)
    }
}

fn log_of(retention: Retention) -> LogLimits {
    LogLimits::default().with_retention(retention)
}

#[test]
fn a_heartbeat_comes_only_after_silence() {
    let mut world = World::without_chance(Limits::default().with_heartbeat(4 * SECOND));
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

/// Upkeep found that a heartbeat was due, and then the same tick sent an event: the heartbeat
/// came right behind it, and each of them costs as much as a delivery.
#[test]
fn a_heartbeat_does_not_follow_an_event_of_the_same_tick() {
    let mut world = World::without_chance(Limits::default().with_heartbeat(4 * SECOND));
    world.join("a", usize::MAX);
    world.join_as("a", usize::MAX, 0, |client| client.request.heartbeat = Some(2 * SECOND));
    for _ in 0..20 {
        // One tick finds that both are due, and has an event for both.
        world.jump(3 * SECOND);
        world.publish_one("a", 10);
        // The world checks that no heartbeat comes where something had just been sent.
        world.pass(Duration::ZERO);
    }
    assert_eq!(world.counted().heartbeats, 0);
}

/// When the slab grew, the next slice of upkeep began where the old slab had ended: the old slots were left
/// out for a quarter of the interval, and their heartbeats came later than promised.
#[test]
fn a_slab_that_grows_forgets_no_heartbeat() {
    let mut world = World::without_chance(Limits::default().with_heartbeat(4 * SECOND));
    for _ in 0..4 {
        world.join("a", usize::MAX);
    }
    world.pass(SECOND * 5 / 2);
    world.join("a", usize::MAX);
    // The world checks that no stream is silent for longer than the interval.
    world.pass(4 * SECOND);
    assert!(world.counted().heartbeats >= 4);
}

/// The stream that a drain ends first may be the last that a sweep reaches: its events go out before, as far
/// as the window allows.
#[test]
fn a_drain_lets_go_out_what_was_published_before() {
    let mut setting = Setting::without_chance(Limits::default());
    setting.budgets.sends = 1;
    let mut world = World::of(setting);
    for topic in ["a", "b", "c", "d"] {
        world.join(topic, usize::MAX);
    }
    for topic in ["d", "c", "b", "a"] {
        world.publish_one(topic, 10);
    }
    // It checks that every stream has everything, and was ended in time.
    world.drain();
    assert_eq!(world.counted().closed_for(CloseReason::Drained), 4);
}

/// A stream that had not been sent everything when the drain was over was counted as drained all the same: no
/// count told whether something was lost.
#[test]
fn a_stream_that_is_behind_when_a_drain_is_over_is_counted_as_cut() {
    let mut setting = Setting::without_chance(Limits::default());
    setting.budgets.sends = 1;
    let mut world = World::of(setting);
    for topic in ["a", "b", "c", "d"] {
        world.join(topic, usize::MAX);
        world.publish_one(topic, 10);
    }
    // It checks that no more miss something than are counted.
    world.drain_within(Duration::ZERO);
    let (drained, cut) = (CloseReason::Drained, CloseReason::Cut);
    assert_eq!(world.counted().closed_for(drained) + world.counted().closed_for(cut), 4);
    assert!(world.counted().closed_for(cut) > 0);
}

/// A drain that was over chose its streams before the sends of the same tick, and counted those as cut that
/// were then sent everything, before their end.
#[test]
fn a_stream_that_is_sent_everything_in_its_last_tick_is_not_cut() {
    let mut world = World::without_chance(Limits::default());
    for _ in 0..4 {
        world.join("a", usize::MAX);
    }
    // It publishes some events before.
    world.drain_within(Duration::ZERO);
    let counts = world.counted();
    let ended = (counts.closed_for(CloseReason::Drained), counts.closed_for(CloseReason::Cut));
    assert_eq!((counts.deliveries, ended), (4 * world.happened(Occurrence::Published), (4, 0)));
}

/// Streams at their age that were in the middle of an event stood in the line of endings again and again, and
/// each time were found to be in its middle. The drain, which waits for that line, did not come to its end.
#[test]
fn aged_streams_in_the_middle_of_an_event_hold_up_no_drain() {
    let mut setting = Setting::without_chance(
        Limits::default().with_connection_age(Some(SECOND)).with_heartbeat(SECOND / 5),
    );
    setting.budgets.endings = 1;
    let mut world = World::of(setting);
    for _ in 0..8 {
        world.join("a", 400);
    }
    world.publish_one("a", 1_000);
    world.pass(3 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().closed_for(CloseReason::Aged)), (8, 0));
    world.begin_drain(SECOND / 10);
    for _ in 0..100 {
        world.work_for(SECOND / 100);
    }
    assert!(world.shards[0].shard.is_stopped());
    assert_eq!(world.counted().closed_for(CloseReason::Cut), 8);
}

/// A laggard that had room and was to be ended for its age stood in no line of laggards any more. Where many
/// were to be ended, it was taken for one whose socket takes nothing, and cut without its end.
#[test]
fn an_aged_laggard_that_waits_for_its_end_does_not_stand_still() {
    let limits = Limits::default().with_connection_age(Some(SECOND)).with_laggard_time(2 * SECOND);
    let mut setting = Setting::without_chance(limits);
    setting.budgets.endings = 1;
    let mut world = World::of(setting);
    for _ in 0..40 {
        world.join("a", 180);
    }
    world.pass(SECOND);
    assert_eq!(world.counted().laggards, 40);
    for slow in 0..40 {
        world.opens(slow);
    }
    for _ in 0..60 {
        world.work_for(SECOND / 10);
    }
    assert_eq!(world.counted().closed_for(CloseReason::Aged), 40);
}

/// What a laggard was sent whole did not count: it had been silent since its first byte, and as soon as it
/// had caught up there was a heartbeat behind its events.
#[test]
fn a_laggard_that_has_caught_up_is_not_silent() {
    let mut world = World::without_chance(Limits::default().with_heartbeat(4 * SECOND));
    let slow = world.join("a", 180);
    world.publish_one("a", 100);
    world.pass(10 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (1, 0));
    world.opens(slow);
    world.pass(2 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (0, 1));
    assert_eq!(world.counted().heartbeats, 0);
}

/// A gap event names the event that comes next, which is the oldest one that the log still has.
#[test]
fn a_gap_event_names_the_event_that_comes_next() {
    let log = log_of(Retention::default().with_events(3));
    let laggard_policy = LaggardPolicy::Skip;
    let mut world =
        World::without_chance(Limits::default().with_laggard_policy(laggard_policy).with_log(log));
    let slow = world.join("a", 600);
    world.join("a", usize::MAX);
    for _ in 0..20 {
        world.publish_one("a", 300);
        world.pass(Duration::from_millis(1));
    }
    // It checks what the gap event says.
    world.opens(slow);
    world.pass(SECOND);
    assert_eq!(world.happened(Occurrence::Skip), 1);
    assert_eq!(world.cursor_of(slow), 20);
}

/// However far behind a laggard is, it loses nothing that the log has: there is no bound of its own.
#[test]
fn a_laggard_is_cut_only_when_the_log_no_longer_has_what_it_needs() {
    let log = log_of(Retention::default().with_events(100));
    let mut world = World::without_chance(Limits::default().with_log(log).with_laggard_bytes(5_000));
    let (slow, slower) = (world.join("a", 600), world.join("a", 600));
    for event in 0..100 {
        world.publish_one("a", 300);
        world.pass(Duration::from_millis(event % 2));
    }
    world.opens(slow);
    world.pass(SECOND);
    assert_eq!((world.cursor_of(slow), world.counted().laggards), (100, 1));
    // It is in the middle of an event that it may finish; then what follows is gone.
    for _ in 0..10 {
        world.publish_one("a", 300);
        world.pass(Duration::from_millis(1));
    }
    world.opens(slower);
    world.pass(SECOND);
    assert_eq!((world.cursor_of(slow), world.counted().closed_for(CloseReason::LaggardFull)), (110, 1));
}

/// A drain ended streams slot by slot, also that of a laggard whose turn came: what had been acknowledged
/// before the drain, and was still to be written to it, was lost although there was time.
#[test]
fn a_drain_gives_laggards_the_whole_window() {
    let mut world = World::without_chance(Limits::default());
    let slow = world.join("a", 180);
    for _ in 0..9 {
        world.join("b", usize::MAX);
    }
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().laggards, world.counted().connections), (1, 10));

    world.begin_drain(2 * SECOND);
    world.pass(SECOND);
    assert!((5..=6).contains(&world.counted().connections), "the others are ended at the same pace");
    world.opens(slow);
    world.pass(2 * SECOND);
    assert!(world.shards[0].shard.is_stopped());
    assert_eq!(world.counted().deliveries, 1);
}

/// A minority of slow subscribers holds up no other, and neither do a few. Where most are slow and still
/// move, mail waits for a quarter of a second; where they stand still, it does not.
#[test]
fn mail_waits_for_a_majority_that_moves_and_for_nothing_else() {
    for (slow, congestion_streams, waits) in [(1, 1, false), (3, 4, false), (3, 3, true)] {
        let mut world = World::without_chance(Limits::default().with_congestion_streams(congestion_streams));
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
        // After a second without a byte, and the next check of them.
        deliveries(1_500, false);
        assert_eq!(deliveries(1, true), (slow, 3 * fast));
    }
}

/// A slow subscriber that was alone on its shard was the majority there: the shard held its mail, its mailbox
/// became full, and every publisher of the hub was told to try again.
#[test]
fn a_slow_subscriber_alone_on_its_shard_holds_up_no_mail() {
    let limits = Limits::default().with_congestion_streams(1);
    let mut world = World::of(Setting { shards: 2, ..Setting::without_chance(limits) });
    world.join_as("a", 500, 1, |_| ());
    for _ in 0..3 {
        world.join("a", usize::MAX);
    }
    for event in 1..=20 {
        world.publish_one("a", 1_000);
        world.pass(Duration::from_millis(1));
        assert_eq!((world.mail_waiting(0), world.mail_waiting(1)), (0, 0), "after {event} events");
    }
    assert_eq!(world.shards[1].shard.counts().laggards, 1);
}

/// A shard that had very much to do told clients that their heads were late, with the heads in its sockets:
/// its timers were checked before what it had not been told yet.
#[test]
fn a_head_that_came_in_time_is_not_late() {
    let mut world = World::without_chance(Limits::default().with_head_time(SECOND));
    let client = world.client(Resume::Now);
    world.clients.push(client);
    world.connect(0, 0);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().pending, world.counted().connections), (1, 0));
    world.send_requests(1);
    world.shards[0].net.borrow_mut().hold_back();
    world.pass(2 * SECOND);
    assert_eq!((world.counted().heads_timed_out, world.counted().connections), (0, 1));
}

/// As many request heads as there may be that never end kept every client out whose head came in two pieces.
#[test]
fn slow_heads_make_room_for_newcomers() {
    let limits = Limits::default().with_pending(2).with_head_time(60 * SECOND);
    let mut world = World::without_chance(limits);
    for number in 0..4 {
        let client = world.client(Resume::Now);
        world.clients.push(client);
        world.connect(number, 0);
        world.pass(SECOND / 10);
    }
    assert_eq!((world.counted().pending, world.counted().turned_away), (2, 2));
    world.send_requests(1);
    world.pass(SECOND / 10);
    assert_eq!((world.counted().pending, world.counted().connections), (0, 2));
}

/// What links have begun has a bound, and a link in the middle of an event that is larger makes room at once.
/// A laggard that has begun nothing reads from the log, and costs nothing.
#[test]
fn a_link_in_the_middle_of_an_event_beyond_the_bound_is_cut() {
    let mut world = World::without_chance(Limits::default().with_laggard_bytes(3_000));
    // Room for a part of the head; room for half of the event.
    let (full, in_its_middle) = (world.join("a", 180), world.join("a", 5_000));
    world.publish_one("a", 10_000);
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().closed_for(CloseReason::LaggardFull)), (1, 1));
    assert!(world.clients[in_its_middle].connection.is_none());
    world.opens(full);
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (0, 1));
}

/// A laggard that reads from the log holds the frame that it is in the middle of by itself. Fifty of them in
/// the middle of one event counted fifty times against the bound, and were cut for memory that was not used.
#[test]
fn an_event_that_many_links_are_in_the_middle_of_counts_once() {
    let mut world = World::without_chance(Limits::default().with_laggard_bytes(15_000));
    world.publish_one("a", 10_000);
    for _ in 0..50 {
        world.join_as("a", 5_000, 0, |client| client.request.resume = Resume::Earliest);
    }
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().closed_for(CloseReason::LaggardFull)), (50, 0));
    for slow in 0..50 {
        world.opens(slow);
    }
    world.pass(SECOND);
    assert_eq!((world.counted().laggards, world.counted().deliveries), (0, 50));
}

/// One tick checks a bounded number of laggards for one that makes room. Where those had begun nothing,
/// none was found, and the bound did not hold.
#[test]
fn room_is_made_however_few_laggards_are_checked() {
    let mut setting = Setting::without_chance(Limits::default().with_laggard_bytes(3_000));
    setting.budgets.laggard_checks = 1;
    let mut world = World::of(setting);
    for _ in 0..60 {
        let full = world.join("a", usize::MAX);
        world.clients[full].is_fast = false;
        world.shards[0].net.borrow_mut().fill(full);
    }
    world.publish_one("a", 1_000);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.counted().laggards, 60);
    let slow = world.join("b", 1_000);
    // The shard checks the bound after every tick. Most of its streams are behind, so it holds its mail for a
    // while.
    world.publish_one("b", 10_000);
    world.pass(SECOND / 2);
    assert!(world.clients[slow].connection.is_none());
    assert_eq!((world.counted().laggards, world.counted().closed_for(CloseReason::LaggardFull)), (60, 1));
}

/// Slow heads kept subscribers out that wait for a number which is not released yet: they were closed without
/// an answer.
#[test]
fn slow_heads_make_room_for_subscribers_that_are_ahead() {
    let limits = Limits::default().with_pending(2).with_head_time(60 * SECOND);
    let mut world = World::without_chance(limits);
    for number in 0..2 {
        let client = world.client(Resume::Now);
        world.clients.push(client);
        world.connect_to(number, "GET", 1_000, 0);
    }
    world.send_requests(1);
    world.pass(SECOND / 10);
    assert_eq!(world.counted().pending, 2);
    let ahead = world.join_as("a", usize::MAX, 0, |client| client.request.resume = after(1, client));
    let snapshot = world.shards[0].shard.snapshot();
    assert_eq!((snapshot.counts.pending, snapshot.counts.turned_away, snapshot.resuming), (1, 1, 1));
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    assert_eq!(world.cursor_of(ahead), 1);
}

/// The id of an event with this number.
fn after(seq: u64, _: &Client) -> Resume {
    let epoch = fanfare::Epoch::new(0);
    Resume::After(Cursor { epoch, seq }.to_string())
}

/// A subscriber may come from a node that was ahead. It waits for its number; only if that does not come it
/// is told of a gap.
#[test]
fn a_subscriber_that_is_ahead_waits_for_its_number_and_not_for_ever() {
    let mut world = World::without_chance(Limits::default());
    world.publish_one("a", 10);
    let (known, unknown) = (
        world.join_as("a", usize::MAX, 0, |client| client.request.resume = after(2, client)),
        world.join_as("a", usize::MAX, 0, |client| client.request.resume = after(9, client)),
    );
    world.pass(SECOND);
    assert_eq!((world.counted().connections, world.shards[0].shard.snapshot().resuming), (0, 2));
    world.publish_one("a", 10);
    world.pass(SECOND / 50);
    assert_eq!((world.counted().connections, world.cursor_of(known)), (1, 2));
    world.pass(SECOND);
    assert_eq!((world.counted().connections, world.cursor_of(unknown)), (2, 2));
    let waited = (world.happened(Occurrence::WaitedInVain), world.happened(Occurrence::Gap));
    assert_eq!((waited, world.counted().deliveries), ((1, 1), 2));
}

/// A client that was cut before its first event came back without an id. It missed what was published
/// meanwhile, and no gap was told. With a checkpoint it has an id from the beginning.
#[test]
fn a_client_that_is_cut_before_its_first_event_misses_nothing() {
    let mut world = World::without_chance(Limits::default());
    world.publish_one("a", 10);
    for form in [Checkpoint::Block, Checkpoint::Event, Checkpoint::Off] {
        let subscriber = world.join_as("a", usize::MAX, 0, |client| client.request.checkpoint = form);
        world.leave(subscriber, true);
        world.publish_one("a", 10);
        world.connect_with(subscriber, usize::MAX, 0);
        // The world checks that what came between two connections is in one of them, where the client has an
        // id.
        let missed = world.counted().deliveries;
        world.pass(SECOND);
        let has_id = form != Checkpoint::Off;
        assert_eq!(
            (world.counted().deliveries, world.clients[subscriber].last_id.is_empty()),
            (missed, !has_id)
        );
        world.leave(subscriber, true);
        world.pass(SECOND);
    }
    assert_eq!(world.counted().deliveries, 2);
}

/// The id of a quiet stream does not grow old: heartbeats carry where it is.
#[test]
fn the_heartbeats_of_a_quiet_stream_carry_its_cursor() {
    let log = log_of(Retention::default().with_events(2));
    let mut world = World::without_chance(Limits::default().with_heartbeat(SECOND).with_log(log));
    let quiet = world.join_as("quiet", usize::MAX, 0, |client| {
        client.request.interest.topics = vec![topic("a"), topic("b")];
        client.request.checkpoint = Checkpoint::Block;
    });
    for _ in 0..10 {
        world.publish_one("c", 10);
    }
    world.pass(2 * SECOND);
    assert_eq!(world.cursor_of(quiet), 10);
}

/// Each topic has its own retention. A subscriber of a quiet topic that came back after a busy one had lost
/// its history was told of a gap that was none.
#[test]
fn a_quiet_topic_has_no_gap_for_what_a_busy_one_has_lost() {
    let log = log_of(Retention::default().with_events(3));
    let mut world =
        World::of(Setting { shards: 2, ..Setting::without_chance(Limits::default().with_log(log)) });
    let quiet = world.join("a", usize::MAX);
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    world.leave(quiet, true);
    for _ in 0..50 {
        world.publish_one("b", 10);
    }
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    world.connect_with(quiet, usize::MAX, 1);
    assert_eq!((world.cursor_of(quiet), world.happened(Occurrence::Gap)), (52, 0));
}

/// The log as a whole has a bound, too. The topics that have most lose first: a quiet one keeps its history
/// beside busy ones. The world judges each event that the log drops.
#[test]
fn a_quiet_topic_keeps_its_history_when_the_log_is_full() {
    let log = LogLimits::default().with_total_bytes(60_000);
    let mut world = World::without_chance(Limits::default().with_log(log));
    world.publish_one("a", 10);
    for _ in 0..300 {
        world.publish_one("b", 1_000);
        world.publish_one("c", 100);
    }
    let subscriber = world.join_as("a", usize::MAX, 0, |client| client.request.resume = Resume::Earliest);
    world.pass(SECOND);
    assert_eq!((world.cursor_of(subscriber), world.counted().deliveries), (1, 1));
}

/// A rule gives some topics a retention of their own.
#[test]
fn a_rule_gives_a_topic_its_own_retention() {
    let rule = RetentionRule::new("b".parse().unwrap(), Retention::default().with_events(2));
    let log = LogLimits::default().with_rules(vec![rule]);
    let mut world = World::without_chance(Limits::default().with_log(log));
    for _ in 0..5 {
        world.publish_one("a", 10);
        world.publish_one("b", 10);
    }
    for (name, events) in [("a", 5), ("b", 2)] {
        let before = world.counted().deliveries;
        world.join_as(name, usize::MAX, 0, |client| client.request.resume = Resume::Earliest);
        world.pass(SECOND);
        assert_eq!(world.counted().deliveries - before, events, "events of {name}");
    }
}

/// A shard may register for a topic between the two steps of a publish: then it gets the mail, too.
#[test]
fn a_subscriber_that_comes_between_sequence_and_release_gets_the_event() {
    let limits = Limits::default().with_mailbox_events(4);
    let mut world = World::of(Setting { shards: 2, reservations: true, ..Setting::without_chance(limits) });
    let first = world.join("a", usize::MAX);
    // Two batches have their numbers; the first of them will never be released.
    world.shared.sequence_to(&topic("a"), None);
    world.shared.sequence_to(&topic("a"), Some(7));
    assert_eq!(sim::reserved_events(&world.shared.hub()), (2, 2));
    let second = world.join_as("a", usize::MAX, 1, |_| ());
    world.shared.drop_first();
    world.shared.release_at(0, "");
    assert_eq!(sim::reserved_events(&world.shared.hub()), (0, 0));
    world.pass(SECOND / 10);
    assert_eq!((world.cursor_of(first), world.cursor_of(second)), (7, 7));
    assert_eq!((world.mail_waiting(0), world.mail_waiting(1)), (0, 0));
    // The number after a hole is the next one.
    world.publish_one("a", 10);
    world.pass(SECOND / 10);
    assert_eq!((world.cursor_of(first), world.cursor_of(second)), (8, 8));
}

/// Ages were checked four times in a heartbeat's interval, however short they were: of one second came six.
#[test]
fn a_stream_ends_within_its_age() {
    for age in [SECOND, 10 * SECOND] {
        let mut world = World::without_chance(Limits::default().with_connection_age(Some(age)));
        let began_at = world.shared.now.get();
        for _ in 0..20 {
            world.join("a", usize::MAX);
        }
        let all_began_at = world.shared.now.get();
        world.pass(began_at + age * 8 / 10 - SECOND / 10 - all_began_at);
        assert_eq!(world.counted().closed_for(CloseReason::Aged), 0);
        world.pass(all_began_at + age - world.shared.now.get());
        assert_eq!(world.counted().closed_for(CloseReason::Aged), 20);
    }
}

/// A stream that was in the middle of an event each time that its age was checked had no age.
#[test]
fn a_slow_subscriber_ends_with_the_event_that_it_is_in_the_middle_of() {
    let mut world = World::without_chance(Limits::default().with_connection_age(Some(10 * SECOND)));
    let slow = world.join("a", 400);
    world.publish_one("a", 1_000);
    world.publish_one("a", 1_000);
    world.pass(10 * SECOND);
    assert_eq!((world.counted().laggards, world.counted().closed_for(CloseReason::Aged)), (1, 0));
    world.opens(slow);
    world.pass(SECOND / 100);
    assert_eq!((world.counted().deliveries, world.counted().closed_for(CloseReason::Aged)), (1, 1));
}

/// A subscription may ask for a shorter interval between heartbeats than the others have.
#[test]
fn a_stream_has_the_heartbeats_that_it_asked_for() {
    let mut world = World::without_chance(Limits::default());
    world.join("a", usize::MAX);
    world.join_as("a", usize::MAX, 0, |client| client.request.heartbeat = Some(2 * SECOND));
    // The world checks that no stream is silent for longer than it allows.
    world.pass(15 * SECOND);
    assert!((6..=8).contains(&world.counted().heartbeats), "{} heartbeats", world.counted().heartbeats);
}
