//! Stories of worlds with a durable store: what a crash leaves, and what comes from the disk.

use fanfare::{Durability, Retention};

use super::*;
use crate::disk::CrashAt;
use crate::setting::StoreSetting;

/// Memory keeps one event of each topic, the disk so many.
fn small(durability: Durability, on_disk: usize) -> World {
    World::of(setting(durability, on_disk, Limits::default()))
}

fn setting(durability: Durability, on_disk: usize, limits: Limits) -> Setting {
    let retention = |events| Retention::default().with_events(events);
    let limits = limits.with_log(LogLimits::default().with_retention(retention(1)));
    let store = StoreSetting {
        durability,
        limits: LogLimits::default().with_retention(retention(on_disk)),
        crashes: 0,
        full: 0,
        bad_reads: 0,
        slowness: 1,
    };
    Setting { store: Some(store), ..Setting::without_chance(limits) }
}

impl World {
    /// A subscriber that comes back with the id of this event, or asks for everything.
    fn resume(&mut self, name: &str, after: Option<u64>) -> usize {
        let epoch = self.shared.history.borrow().epoch;
        let resume = after.map_or(Resume::Earliest, |seq| Resume::After(Cursor { epoch, seq }.to_string()));
        self.join_as(name, usize::MAX, 0, |client| client.request.resume = resume)
    }

    /// The disk drops what its retention does not cover, which it does each second.
    fn trim_disk(&mut self) {
        self.pass(2 * SECOND);
        self.shared.commit("");
    }

    fn newest_on_disk(&self) -> u64 {
        self.shared.disk().unwrap().all().last().unwrap().number
    }
}

/// What was stored at a crash is there, and what was not is not, whatever the step of the commit.
#[test]
fn a_crash_leaves_what_was_stored_at_every_step_of_a_commit() {
    for (at, is_there) in [
        (None, false),
        (Some(CrashAt::Taken), false),
        (Some(CrashAt::LookedUp), false),
        (Some(CrashAt::Written { survives: false }), false),
        (Some(CrashAt::Written { survives: true }), true),
        (Some(CrashAt::Synced), true),
        (Some(CrashAt::Released), true),
    ] {
        let mut world = small(Durability::Commit, 100);
        let reader = world.join("a", usize::MAX);
        world.publish_one("a", 10);
        world.pass(SECOND);
        let before = world.newest_on_disk();
        assert_eq!(world.cursor_of(reader), before);
        world.end_at(at);
        assert_eq!(world.newest_on_disk() > before, is_there, "{at:?}");
        assert!(world.clients[reader].connection.is_none());
        // What comes next has other numbers than everything that was seen.
        world.publish_one("a", 10);
        world.let_all_catch_up();
    }
}

/// The log in memory began with what it could read back of the newest numbers, and took it for all that there
/// was: a subscriber whose topic had lost events in the middle was not told of the gap.
#[test]
fn an_engine_that_begins_anew_knows_what_the_disk_has_lost() {
    let mut world = small(Durability::Commit, 2);
    world.publish_one("b", 10);
    for _ in 0..8 {
        world.publish_one("a", 10);
    }
    world.trim_disk();
    world.end_at(None);
    // The world checks what it is told: the events 3 to 7 are gone, 1 is not its own.
    world.resume("a", Some(2));
    world.resume("b", Some(1));
    world.let_all_catch_up();
    assert_eq!(world.happened(Occurrence::Gap), 1);
}

/// Of a topic that has lost something, what the disk still has of others came only as far as memory had it.
#[test]
fn one_that_asks_for_everything_gets_what_the_disk_has_behind_a_loss() {
    let mut world = small(Durability::Commit, 2);
    for name in ["b", "b", "a", "a", "a", "a"] {
        world.publish_one(name, 10);
    }
    world.trim_disk();
    world.resume("b", None);
    let both = world.resume("a", None);
    world.leave(both, true);
    let number = world.join_as("a", usize::MAX, 0, |client| {
        client.request.interest.topics.push(topic("b"));
        client.request.resume = Resume::Earliest;
    });
    world.pass(SECOND);
    assert_eq!(world.cursor_of(number), 6);
    // Two of each topic, and two of each for the subscribers of one.
    assert!(world.happened(Occurrence::FromDisk) >= 4);
    world.let_all_catch_up();
}

/// A quarter of the requests that may wait could wait for the store, as for a number that may never come: the
/// others were told of a gap, and nothing was gone.
#[test]
fn however_many_wait_for_the_disk_none_is_told_of_a_gap() {
    let limits = Limits::default().with_pending(8);
    let mut world = World::of(setting(Durability::Commit, 100, limits));
    for _ in 0..5 {
        world.publish_one("a", 10);
    }
    for _ in 0..6 {
        let epoch = world.shared.history.borrow().epoch;
        let number = world.clients.len();
        let mut client = world.client(Resume::After(Cursor { epoch, seq: 1 }.to_string()));
        client.request.interest.topics = vec![topic("a")];
        world.clients.push(client);
        world.connect(number, 0);
    }
    world.send_requests(1);
    world.let_all_catch_up();
    assert_eq!(world.happened(Occurrence::Gap) + world.happened(Occurrence::QuietGap), 0);
    assert_eq!(world.counted().connections, 6);
}

/// A stream that waited for a page took nothing for as long as a stalled one, and was ended as one.
#[test]
fn a_stream_that_waits_for_a_slow_disk_is_not_stalled() {
    let limits = Limits::default().with_laggard_time(SECOND);
    let mut world = World::of(setting(Durability::Commit, 100, limits));
    for _ in 0..5 {
        world.publish_one("a", 10);
    }
    world.shared.is_disk_slow.set(true);
    world.resume("a", Some(1));
    // Where it starts.
    world.shared.answer_question();
    world.pass(5 * SECOND);
    assert_eq!(world.counted().connections, 1);
    world.shared.is_disk_slow.set(false);
    world.let_all_catch_up();
    assert_eq!(world.happened(Occurrence::LaggardStalled), 0);
}

/// Without commits, what a crash has lost is a gap, and its numbers are not given again.
#[test]
fn what_a_crash_has_lost_without_commits_is_a_gap() {
    let mut world = small(Durability::Async, 100);
    let reader = world.join("a", usize::MAX);
    world.publish_one("a", 10);
    world.trim_disk();
    for _ in 0..4 {
        world.publish_one("a", 10);
    }
    world.pass(SECOND / 10);
    assert_eq!(world.cursor_of(reader), 5);
    // The dull choice loses all that was not synced.
    world.end_at(None);
    assert_eq!((world.newest_on_disk(), world.happened(Occurrence::LostEvents)), (1, 4));
    world.resume("a", Some(1));
    world.publish_one("a", 10);
    assert!(world.newest_on_disk() > 5);
    world.let_all_catch_up();
    assert_eq!(world.happened(Occurrence::Gap), 1);
}
