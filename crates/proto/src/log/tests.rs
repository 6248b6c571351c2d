//! Stories of the log. The randomized test against a naive list is `tests/log_model.rs`.

mod patterns;

use super::*;
use crate::cursor::Cursor;
use crate::event::{Event, EventId};
use crate::event_log::{ReadBounds, Wanted};
use crate::limits::{APPEND_DROPS, RetentionRule, TopicPattern};
use crate::selection::Selection;

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

fn topic(name: impl AsRef<str>) -> Topic {
    Topic::new(name).unwrap()
}

fn retention(events: usize) -> Retention {
    Retention { events, bytes: 64 * MIB, age: 3600 * SECOND }
}

fn log_of(retention: Retention, total_bytes: usize) -> Log {
    Log::new(Epoch::new(7), LogLimits { retention, rules: Vec::new(), total_bytes }, 1)
}

fn log(events: usize) -> Log {
    log_of(retention(events), 64 * MIB)
}

/// Appends an event and gives the frames that were dropped.
fn append_at(log: &mut Log, event: Event, now: Duration) -> Vec<Arc<Frame>> {
    append_numbered(log, log.newest() + 1, event, now)
}

fn append_numbered(log: &mut Log, seq: u64, event: Event, now: Duration) -> Vec<Arc<Frame>> {
    let mut dropped = Vec::new();
    log.append(Arc::new(Frame::encode(seq, &id(log, seq), event, now)), now, &mut dropped);
    dropped
}

fn append(log: &mut Log, name: &str) {
    append_at(log, Event::new(topic(name)).with_data("x"), Duration::ZERO);
}

fn append_own(log: &mut Log, name: &str, id: &str) {
    let event = Event::new(topic(name)).with_id(EventId::new(id).unwrap());
    append_at(log, event.with_data("x"), Duration::ZERO);
}

fn all(topics: &[Topic]) -> Selection<'_> {
    Selection::of(topics, true)
}

fn public(topics: &[Topic]) -> Selection<'_> {
    Selection::of(topics, false)
}

fn wanted(selection: Selection<'_>, after: u64, incomplete_until: u64) -> Wanted<'_> {
    Wanted { selection, after, incomplete_until }
}

/// Reads without a bound of the frames that are looked at.
fn replay(
    log: &Log,
    wanted: &Wanted<'_>,
    frames: usize,
    bytes: usize,
    into: &mut Vec<Arc<Frame>>,
) -> Result<u64, u64> {
    let bounds = ReadBounds { frames, bytes, steps: usize::MAX };
    log.replay_after(wanted, bounds, into).map(|read| read.up_to)
}

fn first(log: &Log, selection: Selection<'_>, after: u64) -> Option<u64> {
    log.first_after(selection, after, &mut usize::MAX.clone()).frame().map(|frame| frame.seq())
}

fn trim_all(log: &mut Log, now: Duration) {
    log.trim(now, usize::MAX, &mut Vec::new());
}

fn read(log: &Log, topics: &[Topic], after: u64) -> Result<Vec<u64>, u64> {
    let mut frames = Vec::new();
    log.read_after(all(topics), after, usize::MAX, usize::MAX, &mut frames)?;
    Ok(frames.iter().map(|frame| frame.seq()).collect())
}

/// Everything that is retained of some topics.
fn retained(log: &Log, topics: &[Topic]) -> Vec<u64> {
    let start = log.resume(EARLIEST, all(topics));
    let mut frames = Vec::new();
    let end = replay(log, &wanted(all(topics), start.from(), start.cursor()), 1 << 20, 1 << 30, &mut frames);
    assert_eq!((end, start.is_gap()), (Ok(log.newest()), false));
    frames.iter().map(|frame| frame.seq()).collect()
}

/// A subscriber that says it has everything up to `seq` misses nothing.
fn at(seq: u64) -> Start {
    Start::At { cursor: seq, from: seq }
}

/// Everything after `cursor` is here, and the subscriber has everything up to `from`.
fn gap(cursor: u64, from: u64) -> Start {
    Start::Gap { cursor, from }
}

fn id(log: &Log, seq: u64) -> String {
    Cursor { epoch: log.epoch(), seq }.to_string()
}

#[test]
fn subscribers_get_their_topics_in_order_and_each_event_once() {
    let mut log = log(100);
    append(&mut log, "a");
    append(&mut log, "b");
    append_at(
        &mut log,
        Event::new(topic("a")).with_topic(topic("b")).unwrap().with_data("x"),
        Duration::ZERO,
    );
    append(&mut log, "c");
    append(&mut log, "a");
    let (a, both) = ([topic("a")], [topic("a"), topic("b")]);
    assert_eq!(read(&log, &a, 0).unwrap(), [1, 3, 5]);
    assert_eq!(read(&log, &both, 0).unwrap(), [1, 2, 3, 5]);
    assert_eq!(read(&log, &both, 3).unwrap(), [5]);
    assert_eq!(read(&log, &[topic("unknown")], 0).unwrap(), [] as [u64; 0]);
    assert_eq!(first(&log, all(&both), 1), Some(2));
    log.check();
}

#[test]
fn numbers_rise_and_may_have_holes() {
    let mut log = log(100);
    for seq in [3, 4, 1_000, 1_000_000_000_000] {
        append_numbered(&mut log, seq, Event::new(topic("a")), Duration::ZERO);
    }
    let a = [topic("a")];
    assert_eq!(log.newest(), 1_000_000_000_000);
    assert_eq!(read(&log, &a, 0).unwrap(), [3, 4, 1_000, 1_000_000_000_000]);
    // Also from a number that no frame has.
    assert_eq!(read(&log, &a, 500).unwrap(), [1_000, 1_000_000_000_000]);
    assert_eq!(log.resume(&id(&log, 500), all(&a)), at(500));
    log.check();
}

#[test]
#[should_panic(expected = "frame 3 is appended after frame 3")]
fn a_number_that_does_not_rise_is_a_mistake_of_the_engine() {
    let mut log = log(100);
    append_numbered(&mut log, 3, Event::new(topic("a")), Duration::ZERO);
    append_numbered(&mut log, 3, Event::new(topic("a")), Duration::ZERO);
}

#[test]
fn retention_by_count_bytes_and_age() {
    let a = [topic("a")];
    let mut by_count = log(2);
    for _ in 0..5 {
        append(&mut by_count, "a");
    }
    assert_eq!(retained(&by_count, &a), [4, 5]);

    let mut by_bytes = log_of(Retention { bytes: 3000, ..retention(100) }, 64 * MIB);
    for _ in 0..5 {
        append_at(&mut by_bytes, Event::new(topic("a")).with_data("x".repeat(1000)), Duration::ZERO);
    }
    assert_eq!(retained(&by_bytes, &a), [4, 5]);
    assert!(by_bytes.topic(&a[0]).unwrap().bytes <= 3000);

    let mut by_age = log_of(Retention { age: 60 * SECOND, ..retention(100) }, 64 * MIB);
    append_at(&mut by_age, Event::new(topic("a")).with_data("x"), SECOND);
    append_at(&mut by_age, Event::new(topic("a")).with_data("x"), 30 * SECOND);
    assert_eq!(by_age.next_expiry(), Some(61 * SECOND));
    trim_all(&mut by_age, 61 * SECOND - Duration::from_nanos(1));
    assert_eq!(by_age.len(), 2);
    // At the very moment that `next_expiry` named: else the caller would wake for it and find nothing to do.
    trim_all(&mut by_age, 61 * SECOND);
    assert_eq!(retained(&by_age, &a), [2]);
    assert_eq!(by_age.next_expiry(), Some(90 * SECOND));
    // What is appended to a topic finds its old frames as well.
    append_at(&mut by_age, Event::new(topic("a")).with_data("x"), 90 * SECOND);
    assert_eq!(retained(&by_age, &a), [3]);

    let mut none = log(0);
    append(&mut none, "a");
    assert!(none.is_empty() && none.topic(&a[0]).is_none());
    assert_eq!(none.resume(&id(&none, 0), all(&a)), gap(1, 0));
    for log in [by_count, by_bytes, by_age, none] {
        log.check();
    }
}

#[test]
fn the_first_rule_that_matches_a_topic_holds() {
    let rule = |pattern: &str, events| RetentionRule {
        topics: pattern.parse().unwrap(),
        retention: retention(events),
    };
    let rules = vec![rule("user/7", 1), rule("user/*", 2), rule("*", 3)];
    let mut log = Log::new(Epoch::new(7), LogLimits { rules, ..LogLimits::default() }, 1);
    let names = ["user/7", "user/8", "user", "all"];
    for _ in 0..5 {
        names.iter().for_each(|name| append(&mut log, name));
    }
    let kept = names.map(|name| log.topic(&topic(name)).unwrap().frames);
    assert_eq!(kept, [1, 2, 3, 3]);
    log.check();
    assert!("a\nb*".parse::<TopicPattern>().is_err() && "".parse::<TopicPattern>().is_err());
    assert!("a*b".parse::<TopicPattern>().unwrap().matches(&topic("a*b")));
}

#[test]
fn trim_has_a_budget_and_next_expiry_says_when_it_is_not_done() {
    let mut log = log_of(Retention { age: 10 * SECOND, ..retention(100) }, 64 * MIB);
    for number in 0..20 {
        append(&mut log, if number % 2 == 0 { "a" } else { "b" });
    }
    let mut rounds = 0;
    while log.next_expiry().is_some_and(|at| at <= 10 * SECOND) {
        let mut dropped = Vec::new();
        log.trim(10 * SECOND, 3, &mut dropped);
        assert!(!dropped.is_empty() && dropped.len() <= 3, "{} frames", dropped.len());
        log.check();
        rounds += 1;
    }
    assert_eq!((rounds, log.len(), log.next_expiry()), (7, 0, None));
}

/// An append dropped everything that its topic's retention did not cover any more: 20,000 frames at once,
/// where a topic had been silent for an hour, or where one large event took the place of all.
#[test]
fn an_append_drops_a_bounded_number_of_frames_and_trim_drops_the_rest() {
    let too_old = Retention { events: usize::MAX, bytes: usize::MAX, age: 60 * SECOND };
    let too_large = Retention { events: usize::MAX, bytes: 5_000_000, age: Duration::MAX };
    for retention in [too_old, too_large] {
        let mut log = log_of(retention, 64 << 20);
        for _ in 0..20_000 {
            append(&mut log, "a");
        }
        // A topic that is queued by its age already.
        let dropped =
            append_at(&mut log, Event::new(topic("a")).with_data("x".repeat(4_900_000)), 61 * SECOND);
        log.check();
        assert!((1..=APPEND_DROPS).contains(&dropped.len()), "one append dropped {} frames", dropped.len());
        let (mut left, mut appended) = (log.len(), 1);
        // Each append makes the excess smaller.
        for _ in 0..3 {
            append_at(&mut log, Event::new(topic("a")), 61 * SECOND);
            assert!(log.len() < left, "what is too much becomes less");
            (left, appended) = (log.len(), appended + 1);
            log.check();
        }
        let mut calls = 0;
        while log.next_expiry().is_some_and(|at| at <= 61 * SECOND) {
            let mut dropped = Vec::new();
            log.trim(61 * SECOND, 1_000, &mut dropped);
            log.check();
            assert!(dropped.len() <= 1_000, "{} frames with a budget of 1,000", dropped.len());
            calls += 1;
        }
        assert!(calls >= 15, "{calls} calls dropped {left} frames");
        let extent = log.topic(&topic("a")).expect("a topic with frames");
        assert!(extent.bytes <= retention.bytes && extent.frames >= appended, "{extent:?}");
        assert!(extent.frames < 1_000, "{extent:?}");
    }
}

/// A caller that sleeps until `next_expiry` wakes at most once too early for each topic, and never twice at
/// one time.
#[test]
fn next_expiry_never_names_a_time_that_trim_has_passed() {
    let mut log = log_of(Retention { age: 60 * SECOND, ..retention(10) }, 64 * MIB);
    let mut wakes = 0;
    for second in 0..600 {
        let now = second * SECOND;
        while log.next_expiry().is_some_and(|at| at <= now) {
            trim_all(&mut log, now);
            wakes += 1;
            assert!(log.next_expiry().is_none_or(|at| at > now), "nothing is left to do at {now:?}");
        }
        // By count, each frame goes after ten seconds, so that every entry is too early when its time comes.
        append_at(&mut log, Event::new(topic("a")), now);
    }
    assert!(wakes <= 12, "{wakes} wakes in ten minutes for frames that live a minute");
    log.check();
}

/// After a burst of small frames had left a log that is bounded by bytes, its queues were as large as ever.
#[test]
fn a_burst_of_small_frames_leaves_no_large_queues() {
    let mut log = log_of(Retention { bytes: MIB, ..retention(1 << 20) }, 64 * MIB);
    for _ in 0..5_000 {
        append(&mut log, "a");
    }
    for _ in 0..40 {
        append_at(&mut log, Event::new(topic("a")).with_data("x".repeat(50_000)), Duration::ZERO);
    }
    assert!(log.len() < 40, "only large ones are left");
    let overhead = log.bytes() - log.topic(&topic("a")).unwrap().bytes;
    assert!(overhead < 3_000, "{overhead} bytes beside the frames");
}

#[test]
fn a_cursor_before_what_is_retained_is_a_gap() {
    let mut log = log(2);
    for _ in 0..5 {
        append(&mut log, "a");
    }
    let a = [topic("a")];
    assert_eq!(log.resume(&id(&log, 2), all(&a)), gap(3, 2));
    assert_eq!(read(&log, &a, 2), Err(3));
    // Everything after 3 is retained, so a subscriber at 3 misses nothing.
    assert_eq!(log.resume(&id(&log, 3), all(&a)), at(3));
    assert_eq!(log.resume(&id(&log, 5), all(&a)), at(5));
    assert_eq!(log.resume(EARLIEST, all(&a)), Start::At { cursor: 3, from: 0 });
    assert_eq!(log.available_after(all(&[])), 5);
}

#[test]
fn unknown_epochs_and_ids_are_gaps_and_future_numbers_are_ahead() {
    let mut log = log(10);
    append(&mut log, "a");
    let a = [topic("a")];
    let start = gap(0, 0);
    assert_eq!(log.resume(&Cursor { epoch: Epoch::new(8), seq: 1 }.to_string(), all(&a)), start);
    assert_eq!(log.resume("never-seen", all(&a)), start);
    let ahead = log.resume(&id(&log, 2), all(&a));
    assert_eq!(ahead, Start::Ahead { seq: 2, cursor: 0 });
    assert!(ahead.is_gap() && start.is_gap() && !log.resume(EARLIEST, all(&a)).is_gap());
    append(&mut log, "b");
    assert_eq!(log.resume(&id(&log, 2), all(&a)), at(2));
}

/// Once, a subscriber of a quiet topic that reconnected after another topic had been forgotten was told of a
/// gap that was none.
#[test]
fn a_forgotten_topic_is_no_gap_for_another_one() {
    let mut log = log(1);
    let (quiet, other) = ([topic("quiet")], [topic("other")]);
    append(&mut log, "quiet");
    append(&mut log, "quiet");
    // Each of these is read for a moment, loses a frame by age, and is forgotten.
    for number in 0..100 {
        let name = format!("short-lived/{number}");
        log.add_reader(&[topic(&name)], 0);
        append_at(&mut log, Event::new(topic(&name)), Duration::ZERO);
        append_at(&mut log, Event::new(topic(&name)), Duration::ZERO);
        log.remove_reader(&[topic(&name)], 0);
    }
    trim_all(&mut log, 3600 * SECOND);
    assert_eq!((log.len(), log.topic_count()), (0, 0), "all topics are forgotten");
    log.check();
    assert_eq!(log.resume(&id(&log, 2), all(&quiet)), at(2));
    assert_eq!(log.resume(&id(&log, 1), all(&quiet)), gap(2, 1));
    assert_eq!(log.resume(&id(&log, 0), all(&other)), at(0));
    // A new entry knows what the tombstone knew, and a new tombstone what the entry knew.
    log.add_reader(&quiet, 0);
    assert_eq!(log.available_after(all(&quiet)), 2);
    log.remove_reader(&quiet, 0);
    assert_eq!(log.available_after(all(&quiet)), 2);
    log.check();
}

/// A subscriber of a busy and of a quiet topic gets what is left of the quiet one's history, whatever the
/// busy one has dropped.
#[test]
fn a_gap_in_one_topic_does_not_cost_what_another_one_retains() {
    let mut log = log(3);
    append(&mut log, "quiet");
    append(&mut log, "quiet");
    for _ in 0..10 {
        append(&mut log, "busy");
    }
    let both = [topic("busy"), topic("quiet")];
    assert_eq!(retained(&log, &both), [1, 2, 10, 11, 12]);
    let start = log.resume(&id(&log, 1), all(&both));
    assert_eq!(start, gap(9, 1));
    // In pieces; a loss beyond the gap that the subscriber knows of is told.
    let mut frames = Vec::new();
    assert_eq!(replay(&log, &wanted(public(&both), 1, 9), 1, 1 << 20, &mut frames), Ok(2));
    assert_eq!(replay(&log, &wanted(public(&both), 2, 9), 1, 1 << 20, &mut frames), Ok(10));
    append(&mut log, "busy");
    assert_eq!(replay(&log, &wanted(public(&both), 2, 9), 1, 1 << 20, &mut frames), Err(10));
    assert_eq!(log.read_after(public(&both), 10, 9, 1 << 20, &mut frames), Ok(13));
    assert_eq!(frames.iter().map(|frame| frame.seq()).collect::<Vec<_>>(), [2, 10, 11, 12, 13]);
}

/// Without room for tombstones the log says "gap" rather than nothing.
#[test]
fn what_the_log_cannot_remember_is_a_gap() {
    let mut log = log_of(retention(1), 100_000);
    append(&mut log, "first");
    for number in 0..2_000 {
        append_at(&mut log, Event::new(topic(format!("t{number}"))), Duration::ZERO);
    }
    trim_all(&mut log, 3600 * SECOND);
    log.check();
    let start = log.resume(&id(&log, 0), all(&[topic("first")]));
    assert!(start.is_gap() && start.cursor() > 1_000, "{start:?}");
    assert_eq!(log.resume(&id(&log, 1_999), all(&[topic("t1999")])), gap(2_001, 1_999));
    assert_eq!(log.resume(&id(&log, 2_001), all(&[topic("t1999")])), at(2_001));
}

/// Once, the log kept one number for both: a subscriber without the grant was told of a gap, or was cut, when
/// only private frames of its topic had been dropped.
#[test]
fn a_private_frame_that_is_dropped_is_no_gap_for_a_subscriber_without_the_grant() {
    let mut log = log(3);
    let a = [topic("a")];
    for private in [false, true, true, true, true, false] {
        append_at(&mut log, Event::new(topic("a")).with_private(private), Duration::ZERO);
    }
    // The public frame 1 and the private frames 2 and 3 are gone.
    assert_eq!((log.available_after(public(&a)), log.available_after(all(&a))), (1, 3));
    assert_eq!(log.resume(&id(&log, 1), public(&a)), at(1));
    assert_eq!(log.resume(&id(&log, 1), all(&a)), gap(3, 1));
    assert_eq!(log.resume(&id(&log, 0), public(&a)), gap(1, 0));
    let mut frames = Vec::new();
    assert_eq!(log.read_after(all(&a), 1, 9, 1 << 20, &mut frames), Err(3));
    assert_eq!(log.read_after(public(&a), 1, 9, 1 << 20, &mut frames), Ok(6));
    assert_eq!(frames.iter().map(|frame| frame.seq()).collect::<Vec<_>>(), [6]);
    // The topic's tombstone knows both numbers as well, and its next entry has them from there.
    let mut only_private = log_of(retention(9), 64 * MIB);
    append_at(&mut only_private, Event::new(topic("a")).with_private(true), Duration::ZERO);
    for has_entry in [false, true] {
        trim_all(&mut only_private, 3600 * SECOND);
        assert!(only_private.is_empty());
        if has_entry {
            only_private.add_reader(&a, 0);
        }
        assert_eq!(only_private.topic_count(), usize::from(has_entry));
        assert_eq!((only_private.available_after(public(&a)), only_private.available_after(all(&a))), (0, 1));
        assert_eq!(only_private.resume(&id(&only_private, 0), public(&a)), at(0));
        assert_eq!(only_private.resume(&id(&only_private, 0), all(&a)), gap(1, 0));
        only_private.check();
    }
}

/// A log whose events come from a durable store, or from other nodes, does not have those before it began.
#[test]
fn a_log_that_begins_in_the_middle_has_nothing_before() {
    let mut log = log(10);
    let (a, b) = ([topic("a")], [topic("b")]);
    log.begin_after(1_000);
    assert_eq!((log.newest(), log.len(), log.bytes()), (1_000, 0, 0));
    log.add_reader(&b, 0);
    append(&mut log, "a");
    log.check();
    assert_eq!(log.newest(), 1_001);
    for topics in [&a, &b] {
        for sees_private in [false, true] {
            assert_eq!(log.available_after(Selection::of(topics, sees_private)), 1_000);
            assert_eq!(log.resume(&id(&log, 1_000), Selection::of(topics, sees_private)), at(1_000));
            assert_eq!(log.resume(&id(&log, 999), Selection::of(topics, sees_private)), gap(1_000, 999));
            let earliest = Start::At { cursor: 1_000, from: 0 };
            assert_eq!(log.resume(EARLIEST, Selection::of(topics, sees_private)), earliest);
        }
    }
    assert_eq!(read(&log, &a, 999), Err(1_000));
    assert_eq!(read(&log, &a, 1_000).unwrap(), [1_001]);
    // Also a topic that loses frames and is forgotten keeps to it.
    log.remove_reader(&b, 0);
    trim_all(&mut log, 3600 * SECOND);
    assert_eq!((log.available_after(all(&a)), log.available_after(all(&b))), (1_001, 1_000));
    log.check();
}

/// A log that is filled with what a store has left knows what the store has lost, of each topic and of those
/// that it has nothing of.
#[test]
fn a_log_that_is_filled_says_what_is_gone_of_each_topic() {
    let mut log = log(10);
    log.raise_floor(7, 6);
    log.note_gone(&topic("a"), 2, 1);
    log.note_gone(&topic("b"), 5, 5);
    let recovered = |seq, event| Arc::new(Frame::encode(seq, &seq.to_string(), event, Duration::ZERO));
    let both = Event::new(topic("a")).with_topic(topic("b")).unwrap();
    log.append_recovered(recovered(3, Event::new(topic("a"))), Duration::ZERO);
    log.append_recovered(recovered(4, Event::new(topic("b"))), Duration::ZERO);
    // It is gone from the topic b, and the topic a has it still.
    log.append_recovered(recovered(5, both), Duration::ZERO);
    // Of this topic nothing is known but the floor.
    log.append_recovered(recovered(6, Event::new(topic("d"))), Duration::ZERO);
    // The floor is from a private event, and this is a public one.
    log.append_recovered(recovered(7, Event::new(topic("e"))), Duration::ZERO);
    log.skip_to(9);
    log.check();
    assert_eq!((log.appended_frames(), log.len()), (0, 2));
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|name| [topic(name)]);
    assert_eq!(log.available_after(public(&e)), 7);
    let pattern = [Pattern::parse("*").unwrap()];
    for (selection, gone) in
        // Of a topic that has nothing here, the floor holds.
        [(all(&a), 2), (public(&a), 1), (all(&b), 7), (all(&c), 7), (public(&c), 6), (all(&d), 7)]
    {
        assert_eq!(log.available_after(selection), gone);
    }
    assert_eq!(log.available_after(all(&[]).with_patterns(&pattern, 1)), 7);
    assert_eq!((retained(&log, &a), retained(&log, &b)), (vec![3, 5], Vec::new()));
    assert_eq!(log.resume(&id(&log, 4), all(&a)), at(4));
    assert_eq!(log.resume(&id(&log, 4), all(&b)), gap(7, 4));
}

#[test]
#[should_panic(expected = "a log begins once")]
fn a_log_that_was_used_does_not_begin_again() {
    let mut log = log(10);
    append(&mut log, "a");
    log.begin_after(1_000);
}

#[test]
fn traffic_of_other_topics_is_no_gap_for_a_quiet_one() {
    let mut log = log(2);
    let quiet = [topic("quiet")];
    append(&mut log, "quiet");
    for _ in 0..5 {
        append(&mut log, "busy");
    }
    assert_eq!(log.resume(&id(&log, 0), all(&quiet)), at(0));
    assert_eq!(retained(&log, &quiet), [1]);
}

#[test]
fn own_ids_resume_at_their_first_use_and_go_with_their_last() {
    let mut log = log(3);
    append_own(&mut log, "a", "one");
    append_own(&mut log, "a", "one");
    append(&mut log, "a");
    let a = [topic("a")];
    assert_eq!(log.resume("one", all(&a)), at(1));
    append(&mut log, "a");
    assert_eq!(log.resume("one", all(&a)), at(1));
    append(&mut log, "a");
    assert_eq!(log.resume("one", all(&a)), gap(2, 0));
    log.check();
}

/// A table of own ids that split into two unequal halves took less memory than before, and the sum of the
/// log's bytes underflowed. Where the table splits depends on the seed.
#[test]
fn own_ids_are_counted_while_their_table_grows_and_shrinks() {
    for seed in 0..20 {
        let limits = LogLimits { retention: retention(1_100), rules: Vec::new(), total_bytes: 64 * MIB };
        let mut log = Log::new(Epoch::new(7), limits, seed);
        for number in 0..1_500 {
            append_own(&mut log, "a", &format!("order {number}"));
            if number % 50 == 0 {
                log.check();
            }
        }
        trim_all(&mut log, 4_000 * SECOND);
        log.check();
        assert_eq!(log.len(), 0);
    }
}

/// Once, the entry of a repeated id went with the first frame that bore it. The third then counted as the
/// first, and a subscriber that had seen only the second lost, without a sign, what lay between the two.
#[test]
fn an_own_id_whose_first_frame_is_gone_still_loses_nothing() {
    let mut log = log(3);
    append_own(&mut log, "a", "one");
    append_own(&mut log, "a", "one");
    append(&mut log, "a");
    append(&mut log, "a");
    append_own(&mut log, "a", "one");
    let a = [topic("a")];
    assert_eq!(log.resume("one", all(&a)), gap(2, 1));
    assert_eq!(read(&log, &a, 2).unwrap(), [3, 4, 5]);
}

/// Once, own ids were looked up over all topics: the id of an event that the subscriber never gets was a
/// place to start from.
#[test]
fn own_ids_of_other_topics_are_unknown() {
    let mut log = log(10);
    append(&mut log, "a");
    append_own(&mut log, "b", "one");
    append_own(&mut log, "a", "two");
    append_own(&mut log, "b", "two");
    let (a, b) = ([topic("a")], [topic("b")]);
    assert_eq!(log.resume("one", all(&a)), gap(0, 0));
    assert_eq!(log.resume("two", all(&a)), at(3));
    assert_eq!(log.resume("two", all(&b)), at(4));
    assert_eq!(log.resume("two", all(&[topic("a"), topic("b")])), at(3));
}

/// Once, a subscriber without a grant searched all private frames for one that it may get.
#[test]
fn private_frames_stand_apart() {
    let mut log = log(100_000);
    for number in 0..50_000 {
        append_at(&mut log, Event::new(topic("a")).with_private(number % 10_000 != 0), Duration::ZERO);
    }
    let a = [topic("a")];
    let of_a = log.topics[log.find(&a[0]).unwrap()].retained.as_deref().unwrap();
    assert_eq!(
        of_a.queues(false).map(|queue| queue.len()).sum::<usize>(),
        5,
        "all that such a subscriber meets"
    );
    let read = |sees_private, max_frames| {
        let mut frames = Vec::new();
        let cursor =
            log.read_after(Selection::of(&a, sees_private), 5_000, max_frames, usize::MAX, &mut frames);
        (frames.iter().map(|frame| frame.seq()).collect::<Vec<_>>(), cursor.unwrap())
    };
    assert_eq!(read(false, 2), (vec![10_001, 20_001], 20_001));
    assert_eq!(read(false, 4), (vec![10_001, 20_001, 30_001, 40_001], 50_000));
    assert_eq!(read(true, 3), (vec![5_001, 5_002, 5_003], 5_003));
    assert_eq!(first(&log, public(&a), 10_001), Some(20_001));
    // The oldest goes first, whichever it is.
    let mut small = log_of(retention(2), MIB);
    for private in [true, false, true, true, false] {
        append_at(&mut small, Event::new(topic("a")).with_private(private), Duration::ZERO);
        small.check();
    }
    assert_eq!(retained(&small, &a), [4, 5]);
}

#[test]
fn a_read_is_bounded_in_frames_and_bytes_but_always_leads_on() {
    let mut log = log(100);
    for _ in 0..4 {
        append_at(&mut log, Event::new(topic("a")).with_data("x".repeat(1000)), Duration::ZERO);
    }
    let read = |after, max_frames, max_bytes| {
        let mut frames = Vec::new();
        let cursor = log.read_after(public(&[topic("a")]), after, max_frames, max_bytes, &mut frames);
        (frames.len(), cursor.unwrap())
    };
    assert_eq!(read(0, 3, usize::MAX), (3, 3));
    assert_eq!(read(0, 9, 2_500), (2, 2));
    assert_eq!(read(0, 9, 1), (1, 1));
    assert_eq!(read(0, 0, usize::MAX), (1, 1));
    assert_eq!(read(3, 1, 1), (1, 4));
    assert_eq!(read(4, 1, 1), (0, 4));
    assert_eq!(read(9, 1, 1), (0, 9), "a subscriber that is ahead stays where it is");
}

#[test]
fn a_frame_of_several_topics_goes_when_the_last_of_them_drops_it() {
    let mut log = log(2);
    let both = Event::new(topic("a")).with_topic(topic("b")).unwrap().with_data("x".repeat(1000));
    assert!(append_at(&mut log, both, Duration::ZERO).is_empty());
    let alone = log.bytes();
    assert!(alone < 2 * 1000, "it is counted once: {alone}");
    append(&mut log, "a");
    assert!(append_at(&mut log, Event::new(topic("a")), Duration::ZERO).is_empty(), "b still holds it");
    assert_eq!(log.len(), 3);
    append(&mut log, "b");
    let dropped = append_at(&mut log, Event::new(topic("b")), Duration::ZERO);
    assert_eq!(dropped.iter().map(|frame| frame.seq()).collect::<Vec<_>>(), [1]);
    assert_eq!(log.len(), 4);
    log.check();
}

#[test]
fn the_shards_that_read_a_topic() {
    let mut log = log(10);
    let (a, b, both) = ([topic("a")], [topic("b")], [topic("a"), topic("b")]);
    assert!(log.shards_reading(&both).is_empty());
    let version = log.readers_version();
    log.add_reader(&both, 3);
    log.add_reader(&b, 70);
    assert_ne!(log.readers_version(), version);
    assert!(log.shards_reading(&a).iter().eq([3]));
    assert!(log.shards_reading(&both).iter().eq([3, 70]));
    assert_eq!(log.readers(), 3);
    assert!(log.bytes() == 0 && log.reader_bytes() > 0);
    append(&mut log, "b");
    log.check();
    let version = log.readers_version();
    log.remove_reader(&both, 3);
    log.remove_reader(&b, 70);
    assert_ne!(log.readers_version(), version);
    log.check();
    assert!(log.topic(&a[0]).is_none() && log.shards_reading(&both).is_empty());
    assert_eq!(log.topic(&b[0]).unwrap().span, Some((1, 1)));
    trim_all(&mut log, 3600 * SECOND);
    assert_eq!((log.topic_count(), log.readers(), log.reader_bytes()), (0, 0, 0));
}

#[test]
fn pages_show_each_topic_that_stays_once_while_others_come_and_go() {
    let mut log = log(10);
    for number in 0..30_000 {
        log.add_reader(&[topic(format!("t{number}"))], 0);
    }
    let stays = |number: u32| number.is_multiple_of(1_000);
    let (mut seen, mut token, mut next, mut calls) = (Vec::new(), None, 0, 0);
    loop {
        let (page, following) = log.topics_page(token, 7);
        assert!(page.len() <= 7);
        seen.extend(page);
        calls += 1;
        // Between two pages, many topics leave and some come.
        for number in (next..30_000).take(2_000).filter(|number| !stays(*number)) {
            log.remove_reader(&[topic(format!("t{number}"))], 0);
        }
        log.add_reader(&[topic(format!("new{calls}"))], 0);
        next += 2_000;
        token = following;
        if token.is_none() {
            break;
        }
    }
    for number in (0..30_000).filter(|number| stays(*number)) {
        let count = seen.iter().filter(|name| **name == topic(format!("t{number}"))).count();
        assert_eq!(count, 1, "t{number}");
    }
    // Nearly all slots are free: pages are not full, but they are few.
    assert!(calls < 40, "{calls} pages");
    assert_eq!(log.topics_page(Some(u64::MAX), 7), (vec![], None));
    log.check();
}

/// Once, one deque held everything: one busy topic evicted the history of every quiet one. The story of the
/// issue: 1,000 topics of 100 events a second beside one that has an event a minute, which keeps its hour.
#[test]
fn a_quiet_topic_keeps_its_hour_beside_a_thousand_busy_ones() {
    let mut log = log_of(Retention { age: 3600 * SECOND, ..retention(100_000) }, 64 * MIB);
    let busy: Vec<Topic> = (0..1_000).map(|number| topic(format!("busy/{number}"))).collect();
    let publish = |log: &mut Log, now: Duration| {
        for topic in &busy {
            append_at(log, Event::new(topic.clone()).with_data("x".repeat(100)), now);
        }
    };
    let quiet = [topic("quiet")];
    for minute in 0..60 {
        append_at(&mut log, Event::new(quiet[0].clone()).with_data(minute.to_string()), minute * 60 * SECOND);
        publish(&mut log, minute * 60 * SECOND);
    }
    let first = read(&log, &quiet, 0).unwrap();
    assert_eq!(first.len(), 60);
    // More than two seconds of the busy topics: half as much again as the log holds.
    for step in 0..240 {
        publish(&mut log, 3540 * SECOND + step * SECOND / 100);
        assert!(log.bytes() <= 64 * MIB);
    }
    assert_eq!(read(&log, &quiet, 0).unwrap(), first, "the quiet topic has its hour");
    // The busy ones share the rest.
    let shares: Vec<usize> = busy.iter().map(|topic| log.topic(topic).unwrap().bytes).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most <= &(2 * least), "between {least} and {most} bytes");
    assert!(shares.iter().sum::<usize>() > 48 * MIB, "the room is used");
    log.check();
}

/// Once, one batch of 4 MiB evicted everybody's history.
#[test]
fn a_burst_in_one_topic_leaves_the_others_alone() {
    let mut log = log_of(retention(100_000), 4 * MIB);
    for number in 0..1_000 {
        append(&mut log, &format!("quiet/{number}"));
    }
    for _ in 0..4 {
        append_at(&mut log, Event::new(topic("burst")).with_data("x".repeat(MIB)), Duration::ZERO);
    }
    log.check();
    assert!((0..1_000).all(|number| log.topic(&topic(format!("quiet/{number}"))).unwrap().frames == 1));
    assert_eq!(log.topic(&topic("burst")).unwrap().frames, 3);
    // One that is larger than the log is not kept, and evicts nothing but what its topic has.
    let dropped =
        append_at(&mut log, Event::new(topic("burst")).with_data("x".repeat(5 * MIB)), Duration::ZERO);
    assert_eq!(dropped.len(), 4);
    assert!(log.topic(&topic("burst")).is_none());
    assert_eq!(log.len(), 1_000);
    assert_eq!(log.resume(&id(&log, 0), all(&[topic("burst")])), gap(log.newest(), 0));
    log.check();
}

/// Once, the index of topics was outside the log's bound: 30,000 events with 64 new topics each took 449 MiB.
/// (Fewer are enough here: the bound is reached after 200.)
#[test]
fn events_of_very_many_new_topics_stay_within_the_bound() {
    let mut log = log_of(retention(100_000), 4 * MIB);
    for number in 0..3_000 {
        let name = |index: u32| topic(format!("topic-{number}-{index}"));
        let event = (1..64).try_fold(Event::new(name(0)), |event, index| event.with_topic(name(index)));
        append_at(&mut log, event.unwrap().with_data("x".repeat(100)), Duration::ZERO);
        let rooms = log.reader_bytes();
        assert!(log.bytes() <= 4 * MIB && rooms < MIB, "{} and {rooms} bytes", log.bytes());
    }
    log.check();
    assert!(log.len() > 100, "{} frames are kept", log.len());
    trim_all(&mut log, 3600 * SECOND);
    assert_eq!((log.len(), log.topic_count()), (0, 0));
    assert!(log.forgotten.len() > 1_000 && log.forgotten.bytes() <= 4 * MIB / 16);
    assert!(log.bytes() <= 4 * MIB / 16 + 8_000, "all else is gone: {}", log.bytes());
    log.check();
}
