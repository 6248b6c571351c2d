//! Everything that can be wrong with deliveries is found and counted exactly.
//!
//! The fake server counts events from 0, which is the one that tries the server out; the measured ones
//! follow.

mod fake;

use std::time::Duration;

use fake::{Behaviour, Fake, Framing, Send};

/// 20 subscribers, 50 events in half a second, and the one before them.
const RUN: &str = "fanout -n 20 -r 100 -d 500ms --patience 400ms";
const EVENTS: u64 = 51;

fn mischievous(mischief: impl Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send + 'static) -> Fake {
    Fake::start(Behaviour { mischief: Box::new(mischief), ..Behaviour::default() })
}

#[test]
fn an_honest_server_has_no_faults_whatever_its_framing() {
    for (framing, newline, drip) in [
        (Framing::Chunked, "\n", 0),
        (Framing::Close, "\r\n", 0),
        (Framing::Length, "\r", 0),
        (Framing::Chunked, "\r\n", 40),
        (Framing::Close, "\n", 7),
    ] {
        let fake = Fake::start(Behaviour { framing, newline, drip, ..Behaviour::default() });
        // Written in drops an event takes long, so there are fewer.
        let run = if drip > 0 { "fanout -n 2 -r 20 -d 500ms" } else { RUN };
        let verdict = fake.judge(run);
        assert_eq!(verdict.code, 0, "{framing:?}: {}", verdict.complaint);
        let (subscribers, events) = if drip > 0 { (2, 11) } else { (20, EVENTS) };
        assert_eq!(verdict.count("published"), events);
        assert_eq!(verdict.count("deliveries"), subscribers * events);
        assert_eq!(verdict.faults(), [0; 4]);
        assert_eq!(verdict.json["valid"], true);
        assert_eq!(
            verdict.json["latency_us"]["count"],
            subscribers * (events - 1),
            "the first is not measured"
        );
        assert!(verdict.json["last_subscriber_ms"].as_f64().unwrap() > 0.0);
        assert!(verdict.json["deliveries_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn lost_events_are_counted() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (3, 5 | 6) | (7, 50) | (8, 0) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(RUN);
    assert_eq!(verdict.faults(), [4, 0, 0, 0]);
    assert_eq!((verdict.code, verdict.count("deliveries")), (1, 20 * EVENTS - 4));
    assert_eq!(verdict.count("incomplete_events"), 3, "event 0 is not measured");
    assert!(verdict.complaint.contains("4 lost"), "{}", verdict.complaint);
}

#[test]
fn doubled_events_are_counted() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (2, 9) => vec![Send::Event(9); 3],
        (4, 30) => vec![Send::Event(30), Send::Event(11)],
        (5, 50) => vec![Send::Event(50), Send::Event(50)],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(RUN);
    assert_eq!(verdict.faults(), [0, 4, 0, 0]);
    assert_eq!((verdict.code, verdict.count("deliveries")), (1, 20 * EVENTS));
}

#[test]
fn events_out_of_order_are_counted() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (0 | 1, 10) | (6, 20 | 21) => vec![],
        (0 | 1, 11) => vec![Send::Event(11), Send::Event(10)],
        (6, 22) => vec![Send::Event(22), Send::Event(21), Send::Event(20)],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(RUN);
    assert_eq!(verdict.faults(), [0, 0, 4, 0]);
    assert_eq!((verdict.code, verdict.count("deliveries")), (1, 20 * EVENTS));
}

#[test]
fn truncated_events_are_counted_as_damaged_and_lost() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (1, 7) => vec![Send::Cut(7, 199)],
        (2, 8) => vec![Send::Cut(8, 20)],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(RUN);
    assert_eq!(verdict.faults(), [2, 0, 0, 2]);
}

#[test]
fn events_of_topics_that_nobody_asked_for_are_counted() {
    let fake = Fake::start(Behaviour { misroutes: true, ..Behaviour::default() });
    let verdict = fake.judge("topics -n 7 -r 100 -d 200ms");
    // Seven more events try the topics out.
    assert_eq!((verdict.code, verdict.count("deliveries"), verdict.count("misrouted")), (1, 27, 27 * 6));
    assert_eq!(verdict.faults(), [0; 4]);
}

#[test]
fn all_faults_together_are_told_apart() {
    let fake = mischievous(|subscriber, event| match (subscriber % 5, event) {
        (0, 12) => vec![],
        (1, 13) => vec![Send::Event(13), Send::Event(13)],
        (2, 14) => vec![],
        (2, 15) => vec![Send::Event(15), Send::Event(14)],
        (3, 16) => vec![Send::Cut(16, 100)],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(&format!("{RUN} --threads 3"));
    assert_eq!(verdict.faults(), [8, 4, 4, 4]);
}

#[test]
fn latency_counts_from_the_intended_time() {
    // Once the server does nothing for half a second, and the publisher waits for it. Who then measures from
    // the time of sending sees one slow event of a hundred; fifty were late.
    let delay = |event| if event == 20 { Duration::from_millis(500) } else { Duration::ZERO };
    let fake = Fake::start(Behaviour { delay: Box::new(delay), ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 5 -r 100 -d 1s");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let latency = |key: &str| verdict.json["latency_us"][key].as_f64().unwrap();
    assert!(latency("max") >= 500_000.0 && latency("p90") > 300_000.0, "{}", verdict.json["latency_us"]);
    assert!(latency("p50") < 300_000.0);
    assert!(verdict.json["notes"].to_string().contains("late"), "{}", verdict.json["notes"]);
}

#[test]
fn a_stream_that_ends_is_resumed_like_a_browser_would() {
    let hang_up = |_, event| if event == 20 { vec![Send::Hangup] } else { vec![Send::Event(event)] };
    let replaying = Behaviour { mischief: Box::new(hang_up), replays: true, ..Behaviour::default() };
    let verdict = Fake::start(replaying).judge(RUN);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(["streams_ended", "streams_cut", "streams_reopened"].map(|key| verdict.count(key)), [20; 3]);

    // The same without anything to resume from: what was missed is lost, to the last event.
    let verdict = mischievous(hang_up).judge(RUN);
    assert_eq!(verdict.code, 1);
    assert!(verdict.count("lost") >= 20);
    assert_eq!(verdict.count("lost") + verdict.count("deliveries"), 20 * EVENTS);
}

/// Five of twenty leave at the start, as many join, and ten events come two seconds later. Who joined was
/// owed nothing before it got its first event, so a server whose new streams were dead was told that it lost
/// nothing.
#[test]
fn newcomers_that_get_nothing_have_lost_what_came_after_them() {
    // Each of five threads sends one away at once, and the next after fifty seconds.
    let run = "churn -n 20 --threads 5 --per-second 0.1 -r 5 --burst 10 -d 4s --patience 400ms";
    let fake =
        mischievous(|subscriber, event| if subscriber < 20 { vec![Send::Event(event)] } else { vec![] });
    let verdict = fake.judge(run);
    assert_eq!(verdict.json["opening"]["streams"], 25);
    assert_eq!((verdict.code, verdict.faults()), (1, [5 * 10, 0, 0, 0]), "{}", verdict.complaint);

    // One that got its last event only has lost those before it, too.
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (20, ..20) => vec![],
        _ => vec![Send::Event(event)],
    });
    assert_eq!(fake.judge(run).faults(), [9, 0, 0, 0]);

    let verdict = mischievous(|_, event| vec![Send::Event(event)]).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
}

/// What a subscriber had not got was forgotten when it left.
#[test]
fn a_hole_before_a_subscriber_left_is_lost() {
    // The only one leaves at once and then every second.
    let run = "churn -n 1 --threads 1 --per-second 1 -r 10 -d 1500ms";
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (1, 5) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [1, 0, 0, 0]), "{}", verdict.complaint);

    let verdict = mischievous(|_, event| vec![Send::Event(event)]).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
}

/// What came in the last seconds before a subscriber left was forgotten, so a stream that was dead from its
/// first event on, and left soon enough, had lost nothing.
#[test]
fn a_subscriber_that_leaves_has_lost_what_was_published_before() {
    // The only one leaves at once, and the second one two seconds later: it got nothing.
    let run = "churn -n 1 --threads 1 --per-second 0.5 -r 10 -d 2900ms --patience 300ms";
    let fake = mischievous(|subscriber, event| match subscriber {
        1 => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!(verdict.code, 1, "{}", verdict.complaint);
    let [lost, rest @ ..] = verdict.faults();
    // It is owed nothing of its first second.
    assert!(lost > 0 && rest == [0; 3], "{lost} {rest:?}");
}

/// Three groups of ten events, 2.5 seconds apart; one of the two leaves every two seconds. The first newcomer
/// gets nothing and leaves 1.5 seconds after the second group, which another one has got meanwhile; the
/// second loses the first half of the third group.
#[test]
fn a_newcomer_that_got_nothing_is_judged_when_it_leaves() {
    let run = "churn -n 2 --threads 1 --per-second 0.5 -r 4 --burst 10 -d 7500ms --patience 400ms";
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (2, _) | (3, 21..=25) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [10 + 5, 0, 0, 0]), "{}", verdict.complaint);

    let verdict = mischievous(|_, event| vec![Send::Event(event)]).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
}

/// All subscribers came back, were answered, and got nothing any more; without resume nothing counted as
/// lost.
#[test]
fn dead_streams_after_a_storm_without_resume_have_lost_what_came_after_it() {
    // 14 events at once, 14 while all are away, and eight at seven seconds.
    let run = "storm --no-resume -n 20 -r 4 --burst 14 -d 9s --patience 1500ms";
    let fake =
        mischievous(|subscriber, event| if subscriber < 20 { vec![Send::Event(event)] } else { vec![] });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [20 * 8, 0, 0, 0]), "{}", verdict.complaint);
    assert_eq!((verdict.count("deliveries"), verdict.count("missed_while_away")), (20 * 15, 20 * 14));

    let verdict = mischievous(|_, event| vec![Send::Event(event)]).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let missed = verdict.count("missed_while_away");
    assert!(missed >= 20 * 5, "{missed}");
    assert_eq!(verdict.count("deliveries") + missed, 20 * 37);
}

/// All faults of the stalled were left out, not only what they lost.
#[test]
fn those_who_stall_may_lose_but_what_they_get_has_to_be_right() {
    // One stream opens after the other, so the fake server's last five are those that stall.
    let run = "slow -n 20 --share 0.25 --threads 1 --connect-burst 1 -r 50 -d 400ms --patience 400ms";
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (16, 15) => vec![Send::Event(15), Send::Event(15)],
        (17, 16) => vec![],
        (17, 17) => vec![Send::Event(17), Send::Event(16)],
        (18, 18) => vec![Send::Cut(18, 100)],
        (19, 19 | 20) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [0, 1, 1, 1]), "{}", verdict.complaint);
    assert_eq!(verdict.count("slow_lost"), 3, "the two that were left out, and the one that was cut");

    let verdict = mischievous(|_, event| vec![Send::Event(event)]).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("slow_lost"), 0);

    // Only lost: that is what may happen to them.
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (19, 19 | 20) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("slow_lost"), 2);
}
