//! Stories of subscribers that read patterns.

use super::*;
use crate::event_log::{First, NoRoomForPatterns};
use crate::limits::{WAITING_NOTES, WALK_STEPS};
use crate::log::drop_notes::WAITING_NOTES_BYTES;
use crate::log::patterns::LOOK_STEPS;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap().normalized()
}

fn through(patterns: &[Pattern]) -> Selection<'_> {
    Selection::of(&[], true).with_patterns(patterns, patterns.len())
}

/// A single subscriber of a pattern that lost its connection was told of a gap that was none: of what topics
/// had dropped that it never read.
#[test]
fn a_pattern_that_is_remembered_has_lost_what_its_topics_have_lost() {
    let mut log = log(2);
    let (orders, all) = ([pattern("orders/*")], [pattern("*")]);
    log.add_pattern_reader(&orders, 0).unwrap();
    append(&mut log, "orders/1");
    (0..10).for_each(|_| append(&mut log, "noise"));
    log.remove_pattern_reader(&orders, 0);
    (0..10).for_each(|_| append(&mut log, "noise"));
    assert_eq!(log.resume(&id(&log, 0), through(&orders)), at(0));
    // What was never read begins with what any topic has dropped.
    assert_eq!(log.resume(&id(&log, 0), through(&all)), gap(19, 0));
    assert_eq!(log.available_after(Selection::of(&[], false).with_patterns(&[pattern("none/*")], 0)), 19);
    log.check();
}

/// At the bound, what was left for the longest time is forgotten. What is read is not.
#[test]
fn patterns_have_a_bound_in_the_log() {
    let mut log = log(2);
    log.limit_patterns(3);
    let patterns = ["a*", "b*", "c*", "d*", "e*"].map(pattern);
    for shard in 0..3 {
        log.add_pattern_reader(&patterns[shard..=shard], shard).unwrap();
    }
    assert_eq!(log.add_pattern_reader(&patterns[3..4], 0), Err(NoRoomForPatterns));
    log.remove_pattern_reader(&patterns[1..2], 1);
    log.remove_pattern_reader(&patterns[..1], 0);
    assert_eq!((log.pattern_count(), log.pattern_readers()), (3, 1));
    log.add_pattern_reader(&[patterns[0].clone(), patterns[3].clone()], 0).unwrap();
    assert!(log.has_pattern(&patterns[0]) && !log.has_pattern(&patterns[1]));
    let version = log.readers_version();
    log.remove_pattern_reader(&patterns[3..4], 0);
    // One of these finds room, and both together do not.
    assert_eq!(
        log.add_pattern_reader(&[patterns[1].clone(), patterns[4].clone()], 2),
        Err(NoRoomForPatterns)
    );
    assert_eq!((log.readers_version(), log.pattern_readers()), (version + 1, 2));
    log.check();
    log.remove_pattern_reader(&patterns[..1], 0);
    log.remove_pattern_reader(&patterns[2..3], 2);
    assert!(log.reader_bytes() > 0 && log.pattern_readers() == 0);
}

/// A subscriber comes back to two patterns, one of which is remembered. The other one needs its place, and
/// what was known of it would be lost: it would be told of a gap that is none. A client that came and went
/// with templates of many variables left no room for `/users/{id}/inbox`, although no shard read them any
/// more.
#[test]
fn patterns_of_many_states_are_not_remembered() {
    let mut log = log(2);
    let of_ada = |number: usize| pattern(&format!("/users/ada/{number}-{{a}}-{{b}}-{{c}}-{{d}}-{{e}}"));
    assert!(of_ada(0).states() > 2);
    for number in 0..1000 {
        let patterns = [of_ada(number)];
        if log.add_pattern_reader(&patterns, 0).is_ok() {
            log.remove_pattern_reader(&patterns, 0);
        }
    }
    assert_eq!(log.pattern_count(), 0);
    for (shard, text) in
        ["/users/{id}/inbox", "/users/{id}", "/{kind}/ada/{x}", "{x}/orders"].iter().enumerate()
    {
        let patterns = [pattern(text)];
        assert_eq!(log.add_pattern_reader(&patterns, shard), Ok(()), "{text}");
        assert!(patterns[0].states() <= 2, "{text} is an ordinary one");
    }
    log.check();
}

#[test]
fn a_subscription_does_not_push_its_own_patterns_out() {
    let mut log = log(2);
    log.limit_patterns(2);
    let (remembered, other) = ([pattern("z/*")], [pattern("y/*")]);
    log.add_pattern_reader(&remembered, 0).unwrap();
    log.remove_pattern_reader(&remembered, 0);
    log.add_pattern_reader(&other, 0).unwrap();
    log.remove_pattern_reader(&other, 0);
    (0..5).for_each(|_| append(&mut log, "noise"));
    log.add_pattern_reader(&[pattern("a/*"), pattern("z/*")], 0).unwrap();
    assert_eq!((log.available_after(through(&remembered)), log.available_after(through(&other))), (0, 3));
}

/// A pattern for which there was no room pushed 64 remembered ones out and was refused all the same: the
/// subscribers of these were told of gaps that were none.
#[test]
fn a_pattern_that_is_refused_pushes_no_other_one_out() {
    let mut log = log(2);
    // The table is full of the states of what is read. Others have room beside it.
    let costly = |number: usize| [pattern(&format!("/x/{{name}}-{number}-{{rest}}"))];
    let mut number = 0;
    while log.add_pattern_reader(&costly(number), 1).is_ok() {
        number += 1;
    }
    let mut remembered = Vec::new();
    for number in 0..30 {
        let one = [pattern(&format!("/room-{number}/{{id}}"))];
        log.add_pattern_reader(&one, 0).unwrap();
        log.remove_pattern_reader(&one, 0);
        remembered.extend(one);
    }
    (0..5).for_each(|_| append(&mut log, "noise"));
    let known = |log: &Log| remembered.iter().filter(|pattern| log.has_pattern(pattern)).count();
    assert_eq!(known(&log), 30);
    let (before, order) = (known(&log), log.patterns.remembered());
    assert_eq!(log.add_pattern_reader(&costly(number + 1), 2), Err(NoRoomForPatterns));
    let both = [pattern("/room-1000/{id}"), costly(number + 2)[0].clone()];
    assert_eq!(log.add_pattern_reader(&both, 2), Err(NoRoomForPatterns));
    assert!(!log.has_pattern(&both[0]), "nothing of the subscription is remembered");
    assert_eq!((known(&log), log.patterns.remembered()), (before, order));
    for pattern in remembered.iter().filter(|pattern| log.has_pattern(pattern)) {
        assert_eq!(log.available_after(through(std::slice::from_ref(pattern))), 0);
    }
    log.check();
}

/// A refused subscription had pushed all patterns out. When it took its own ones back, the table was empty
/// for a moment, and the drops that waited were thrown away: a subscriber of a remembered pattern went on
/// behind lost events, and was told of no gap.
#[test]
fn a_refused_subscription_throws_no_waiting_drop_away() {
    let mut log = log(2);
    log.limit_patterns(1);
    log.limit_walk_steps(0);
    let remembered = [pattern("r/*")];
    log.add_pattern_reader(&remembered, 0).unwrap();
    log.remove_pattern_reader(&remembered, 0);
    // The third event drops one frame of each topic. The only walk is for the first topic.
    for _ in 0..3 {
        let event = Event::new(topic("other")).with_topic(topic("r/1")).unwrap();
        append_at(&mut log, event.with_data("x"), Duration::ZERO);
    }
    assert_eq!(log.patterns.walked().1, 1, "a drop waits");
    let refused = log.add_pattern_reader(&["a/*", "b/*"].map(pattern), 0);
    assert_eq!((refused, log.patterns.remembered()), (Err(NoRoomForPatterns), remembered.to_vec()));
    log.check();
    assert_eq!(log.available_after(through(&remembered)), 1);
    assert!(log.resume(&id(&log, 0), through(&remembered)).is_gap());
    // Where no pattern is left, nothing waits.
    let costly = [pattern("/{a}-{b}-{c}")];
    log.add_pattern_reader(&costly, 0).unwrap();
    log.remove_pattern_reader(&costly, 0);
    assert_eq!((log.pattern_count(), log.patterns.walked().1), (0, 0));
    log.check();
}

/// The patterns that are read were counted, too, so that a log with many of them remembered none; and one
/// removal could forget thousands of patterns under the log's lock.
#[test]
fn remembered_patterns_have_bytes_of_their_own_and_are_forgotten_in_steps() {
    let mut log = log(2);
    let long = |number: usize| pattern(&format!("/rooms/{number}/{}*", "x".repeat(200)));
    let each = Log::pattern_entry_bytes(&long(1));
    log.patterns.limit_remembered(20 * each);
    for number in 1_000..1_100 {
        log.add_pattern_reader(&[long(number)], 0).unwrap();
    }
    let short = [pattern("/short/*")];
    log.add_pattern_reader(&short, 0).unwrap();
    log.remove_pattern_reader(&short, 0);
    assert!(log.has_pattern(&short[0]), "what is read takes nothing of the room");
    for number in 1_000..1_050 {
        let before = log.pattern_count();
        log.remove_pattern_reader(&[long(number)], 0);
        assert!(before - log.pattern_count() <= 2);
        log.check();
    }
    assert!((65..75).contains(&log.pattern_count()), "{} patterns", log.pattern_count());
    assert!(!log.has_pattern(&short[0]) && log.has_pattern(&long(1_049)));
    assert_eq!(log.next_expiry(), None);
    // Where the rest does not go at once, it goes with the next trims.
    log.patterns.limit_remembered(10 * each);
    assert_eq!(log.next_expiry(), Some(Duration::ZERO));
    let before = log.pattern_count();
    log.trim(Duration::ZERO, 3, &mut Vec::new());
    assert_eq!(log.pattern_count(), before - 3);
    while log.next_expiry().is_some() {
        log.trim(Duration::ZERO, 3, &mut Vec::new());
        log.check();
    }
    assert!((55..65).contains(&log.pattern_count()), "{} patterns", log.pattern_count());
}

/// A read looks at so many frames, and says how far it has come although it has found nothing.
#[test]
fn a_read_of_a_pattern_that_finds_nothing_is_not_at_the_end() {
    let mut log = log(1_000);
    for number in 0..500 {
        append(&mut log, &format!("noise/{}", number % 7));
    }
    append(&mut log, "orders/1");
    let patterns = [pattern("orders/{id}")];
    log.add_pattern_reader(&patterns, 0).unwrap();
    let (mut up_to, mut reads, mut given) = (0, 0, Vec::new());
    while up_to < log.newest() {
        let wanted = wanted(through(&patterns), up_to, 0);
        let bounds = ReadBounds { frames: 9, bytes: 9_999, steps: 200 };
        let read = log.replay_after(&wanted, bounds, &mut given).unwrap();
        assert!(read.up_to > up_to && (read.up_to <= 500 || given.len() == 1), "{read:?}");
        (up_to, reads) = (read.up_to, reads + 1);
    }
    assert!(reads > 20 && given[0].seq() == 501, "{reads} reads");
    assert!(matches!(log.first_after(through(&patterns), 0, &mut 200), First::NothingUpTo(seq) if seq < 100));
    assert_eq!(first(&log, through(&patterns), 0), Some(501));
    assert!(matches!(log.first_after(through(&patterns), 501, &mut 200), First::Nothing));
}

/// An event of two topics is for a pattern as long as a topic retains it that the pattern matches.
#[test]
fn what_a_pattern_reads_is_retained_by_one_of_its_topics() {
    let mut log = log(2);
    let event = Event::new(topic("a/1")).with_topic(topic("b/1")).unwrap();
    append_at(&mut log, event.with_data("x"), Duration::ZERO);
    (0..2).for_each(|_| append(&mut log, "a/1"));
    let (a, b) = ([pattern("a/*")], [pattern("b/*")]);
    let left = |patterns: &[Pattern]| {
        let mut frames = Vec::new();
        replay(&log, &wanted(through(patterns), 0, 9), 9, 9_999, &mut frames).unwrap();
        frames.iter().map(|frame| frame.seq()).collect::<Vec<_>>()
    };
    assert_eq!((left(&a), left(&b)), (vec![2, 3], vec![1]));
}

/// The id of an event may be a publisher's. A subscriber of a pattern that resumed from such an id was told
/// of a gap, since the topics of a pattern were not asked.
#[test]
fn a_subscriber_of_a_pattern_resumes_from_a_publishers_id() {
    let mut log = log(2);
    let patterns = [pattern("a/*")];
    log.add_pattern_reader(&patterns, 0).unwrap();
    append_own(&mut log, "a/1", "one");
    append_own(&mut log, "a/2", "two");
    assert_eq!(log.resume("one", through(&patterns)), at(1));
    (0..2).for_each(|_| append(&mut log, "a/1"));
    assert_eq!(log.resume("one", through(&patterns)), gap(1, 0));
    assert_eq!(log.resume("two", through(&patterns)), at(2));
}

fn append_private(log: &mut Log, names: &[&str], id: &str) {
    let mut event = Event::new(topic(names[0])).with_id(EventId::new(id).unwrap()).with_private(true);
    for name in &names[1..] {
        event = event.with_topic(topic(name)).unwrap();
    }
    append_at(log, event.with_data("x"), Duration::ZERO);
}

/// A subscriber could ask for the id of a private event that it may not see, or of an event of another topic:
/// the answer was another one than to an id that no publisher has given.
#[test]
fn the_id_of_an_event_that_a_subscriber_may_not_see_is_unknown_to_it() {
    let mut log = log(100);
    let (one, none) = ([topic("a/1")], [pattern("b/*")]);
    let patterns = [pattern("a/*")];
    log.add_pattern_reader(&patterns, 0).unwrap();
    log.add_pattern_reader(&none, 0).unwrap();
    append(&mut log, "a/1");
    append_private(&mut log, &["a/1", "a/2"], "secret");
    append(&mut log, "a/1");
    let blind = || Selection::of(&[], false);
    let sights = [
        public(&one),
        blind().with_patterns(&patterns, 0),
        Selection::mixed(&one, 0).with_patterns(&none, 1),
        blind().with_patterns(&none, 1),
    ];
    for selection in sights {
        let guessed = log.resume("secret", selection);
        assert_eq!(guessed, log.resume("unknown", selection), "{selection:?}");
        assert!(guessed.is_gap(), "{selection:?}");
    }
    assert_eq!((log.resume("secret", all(&one)), log.resume("secret", through(&patterns))), (at(2), at(2)));
    let beside = Selection::mixed(&one, 0).with_patterns(&patterns, 1);
    assert_eq!(log.resume("secret", beside), at(2), "a pattern sees it");
    // A public event with the same id is where the subscriber goes on, and the private one before it changes
    // nothing.
    append_own(&mut log, "a/2", "secret");
    append_own(&mut log, "a/1", "secret");
    assert_eq!(log.resume("secret", public(&one)), at(5));
    assert_eq!(log.resume("secret", blind().with_patterns(&patterns, 0)), at(4));
    assert_eq!(log.resume("secret", through(&patterns)), at(2));
    log.check();
}

/// An id was given to events of very many topics. The log looks for the first one of a pattern, and not for
/// ever.
#[test]
fn an_id_of_very_many_topics_is_looked_for_with_a_bound() {
    let mut log = log(100);
    let patterns = [pattern("a/*")];
    log.add_pattern_reader(&patterns, 0).unwrap();
    (0..20).for_each(|number| append_own(&mut log, &format!("b/{number}"), "7"));
    append_own(&mut log, "a/1", "7");
    assert_eq!(log.resume("7", through(&patterns)), at(21));
    (0..5_000).for_each(|number| append_own(&mut log, &format!("b/{number}"), "8"));
    append_own(&mut log, "a/1", "8");
    assert_eq!(log.resume("8", through(&patterns)), log.resume("unknown", through(&patterns)));
    log.check();
}

/// One large event pushed thousands of small ones out, each with a walk of some thousand steps: other
/// publishers and all shards waited for the log's lock for a fifth of a second.
#[test]
fn the_walks_of_one_append_have_a_bound_and_nothing_that_is_lost_is_forgotten() {
    let mut log = log_of(retention(100_000), 4 * MIB);
    let mut costly = Vec::new();
    for number in 1..30 {
        let one = [pattern(&format!("{{x}}{}b", "a".repeat(number)))];
        if log.add_pattern_reader(&one, 0).is_ok() {
            costly.extend(one);
        }
    }
    let (lost, kept) = ([pattern("a*")], [pattern("quiet/*")]);
    log.add_pattern_reader(&lost, 0).unwrap();
    log.add_pattern_reader(&kept, 0).unwrap();
    append(&mut log, "quiet/1");
    let name = |number: usize| format!("{}{}", "a".repeat(250), number);
    // Several topics in turn, so that they are not the one that was looked up last.
    for number in 0.. {
        append(&mut log, &name(number % 3));
        if log.dropped_for_room() > 0 {
            break;
        }
    }
    let costs = {
        let before = log.patterns.walked().0;
        log.shards_reading(&[topic(name(9_999))]);
        log.patterns.walked().0 - before
    };
    assert!(costs > 1_000, "{costs} steps of a walk");
    let most = WALK_STEPS + costs;
    while log.patterns.has_waiting() {
        log.trim(Duration::ZERO, 1024, &mut Vec::new());
    }
    let large = Event::new(topic("large")).with_data("x".repeat(300 << 10));
    let before = log.patterns.walked().0;
    let dropped = append_at(&mut log, large, Duration::ZERO);
    let (after, waiting) = log.patterns.walked();
    let count = dropped.len();
    assert!(count > 500 && after - before <= most, "{} steps for {count}", after - before);
    assert!(waiting > 100, "{waiting} drops wait");
    log.check();
    // What waits is known all the same, and is not mistaken for a gap of others.
    let newest_lost = dropped.iter().map(|frame| frame.seq()).max().unwrap_or(0);
    let says = |log: &Log| [&lost, &kept].map(|patterns| log.available_after(through(patterns)));
    assert_eq!(says(&log), [newest_lost, 0]);
    assert_eq!(log.available_after(through(&[pattern("not/known/*")])), newest_lost);
    log.add_pattern_reader(&[pattern("late/*")], 0).unwrap();
    assert_eq!(log.available_after(through(&[pattern("late/*")])), newest_lost);
    let mut trims = 0;
    while log.patterns.has_waiting() {
        assert_eq!(log.next_expiry(), Some(Duration::ZERO), "the rest is noted at once");
        let before = log.patterns.walked().0;
        log.trim(Duration::ZERO, 1024, &mut Vec::new());
        assert!(log.patterns.walked().0 - before <= most);
        assert_eq!(says(&log), [newest_lost, 0]);
        trims += 1;
    }
    assert!(trims > 2, "{trims} trims");
    log.check();
}

/// Appends of large events over very many small frames, of which only a few drops are noted at once.
fn drop_very_many(log: &mut Log, name: impl Fn(usize) -> String, mut check: impl FnMut(&Log, &[Arc<Frame>])) {
    for number in 0.. {
        append(log, &name(number));
        if log.dropped_for_room() > 0 {
            break;
        }
    }
    for number in 0..10 {
        let large = Event::new(topic(format!("large/{number}"))).with_data("x".repeat(500 << 10));
        let dropped = append_at(log, large, Duration::ZERO);
        assert!(dropped.len() > 500, "{} frames dropped", dropped.len());
        check(log, &dropped);
    }
}

/// What waited was bounded by nothing but what publishers had noted since: ten large events made more than
/// ten thousand drops wait, with their topics.
#[test]
fn the_drops_that_wait_have_a_bound_and_none_is_forgotten() {
    for length in [1, 240] {
        let mut log = log_of(retention(1_000_000), 16 * MIB);
        log.limit_walk_steps(0);
        let patterns = ["t-0/*", "t-1/*", "t-2/*", "{a}-2/{b}", "quiet/*"].map(pattern);
        for (shard, pattern) in patterns.iter().enumerate() {
            log.add_pattern_reader(std::slice::from_ref(pattern), shard).unwrap();
        }
        append(&mut log, "quiet/1");
        let asked_often = pattern("asked/*");
        log.add_pattern_reader(std::slice::from_ref(&asked_often), 0).unwrap();
        let name = |number: usize| format!("t-{}/{}", number % 3, "x".repeat(length));
        let (mut newest, mut most, mut drops) = ([0; 3], 0, 0);
        drop_very_many(&mut log, name, |log, dropped| {
            drops += dropped.len();
            for frame in dropped {
                let name = frame.topics()[0].as_str();
                if let Some(number) = ["t-0/", "t-1/", "t-2/"].iter().position(|it| name.starts_with(it)) {
                    newest[number] = newest[number].max(frame.seq());
                }
            }
            let waiting = log.patterns.walked().1;
            most = most.max(waiting);
            assert!(waiting <= WAITING_NOTES, "{waiting} drops wait");
            assert!(log.patterns.looked().1 <= WAITING_NOTES_BYTES, "{} bytes", log.patterns.looked().1);
            log.check();
            // One that is asked for between the appends knows better.
            assert_eq!(log.available_after(through(std::slice::from_ref(&asked_often))), 0);
        });
        assert!(drops > 2 * most && most > 1_000, "{most} of {drops} drops waited");
        let says = |log: &Log| {
            patterns.each_ref().map(|one| log.available_after(through(std::slice::from_ref(one))))
        };
        let said = says(&log);
        assert_eq!(said[..3], newest);
        let any = newest.into_iter().max().unwrap_or(0);
        // Where the topics are long, the template cannot look at all that waits.
        assert!((newest[2]..=any).contains(&said[3]), "{said:?} of {newest:?}");
        assert!((1..any).contains(&said[4]), "{said:?}: a gap that is none, up to what was given up");
        while log.patterns.has_waiting() {
            log.trim(Duration::ZERO, 1024, &mut Vec::new());
        }
        assert_eq!(says(&log), said);
        log.check();
    }
}

/// A subscriber of 64 templates looked through all drops that waited for each of them, under the log's lock.
#[test]
fn a_question_looks_at_so_many_waiting_drops_at_most() {
    let mut log = log_of(retention(1_000_000), 16 * MIB);
    log.limit_walk_steps(0);
    let patterns: Vec<Pattern> = (0..64).map(|number| pattern(&format!("/{number}/{{name}}"))).collect();
    log.add_pattern_reader(&patterns, 0).unwrap();
    let (first, last) = ([patterns[0].clone()], [patterns[63].clone()]);
    let mut newest = 0;
    drop_very_many(
        &mut log,
        |number| format!("/63/{}", number % 3),
        |_, dropped| {
            newest = dropped.iter().map(|frame| frame.seq()).fold(newest, u64::max);
        },
    );
    let waiting = log.patterns.walked().1;
    assert!(64 * waiting > 4 * LOOK_STEPS, "{waiting} drops wait");
    assert_eq!(log.available_after(through(&patterns)), newest);
    let looks = log.patterns.looked().0;
    assert!((1_000..=LOOK_STEPS).contains(&looks), "{looks} looks");
    // The first one has looked at all that waits, and the last ones count as unknown. The answers stay the
    // same.
    assert!(log.available_after(through(&first)) < newest);
    assert_eq!(log.available_after(through(&last)), newest);
    assert_eq!(log.available_after(through(&patterns[32..33])), newest);
    assert_eq!(log.patterns.looked().0, looks, "each has looked already");
    log.check();
}
