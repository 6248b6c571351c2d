//! Streams that come and go in stages, while events are published.

mod fake;

use std::time::Duration;

use fake::{Behaviour, Fake, Send};

const RUN: &str = "fanout -r 50 --patience 500ms --retry 50ms --stage 1s:20 --stage 2s:20 --stage 1s:5";

fn mischievous(mischief: impl Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send + 'static) -> Fake {
    Fake::start(Behaviour { mischief: Box::new(mischief), ..Behaviour::default() })
}

#[test]
fn streams_follow_the_stages_and_nobody_is_blamed_for_what_came_before_it() {
    let verdict = Fake::start(Behaviour::default()).judge(RUN);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("subscribers"), verdict.count("streams_open_at_end")), (20, 5));
    assert_eq!(verdict.json["opening"]["streams"], 20);
    assert_eq!(verdict.count("published"), 1 + 4 * 50);
    let open: Vec<u64> = verdict.json["seconds"]
        .as_array()
        .expect("there are seconds")
        .iter()
        .map(|second| second["streams_open"].as_u64().expect("a number"))
        .collect();
    assert!(open.contains(&20) && open.last() == Some(&5), "{open:?}");
    assert!(open[0] < 20, "{open:?}");
    // A stream has less than all events, so all of them together have less than 20 times as many.
    assert!(verdict.count("deliveries") < 20 * 200, "{}", verdict.count("deliveries"));
    assert!(verdict.json["last_subscriber_ms"].is_null(), "{}", verdict.json["last_subscriber_ms"]);
}

#[test]
fn what_a_subscriber_of_a_stage_misses_is_lost() {
    // The event is published 2.4 seconds after the begin.
    let verdict = mischievous(|subscriber, event| match (subscriber, event) {
        (13, 120) => vec![],
        _ => vec![Send::Event(event)],
    })
    .judge(RUN);
    assert_eq!((verdict.code, verdict.faults()), (1, [1, 0, 0, 0]), "{}", verdict.complaint);
    // One that never gets anything is owed what is published from a second after its stream was open.
    let verdict = mischievous(|subscriber, event| match subscriber {
        13 => vec![],
        _ => vec![Send::Event(event)],
    })
    .judge(RUN);
    assert_eq!(verdict.code, 1);
    assert!((1..150).contains(&verdict.count("lost")), "{}", verdict.complaint);
}

/// A subscriber that leaves while a delivery is under way gets it first.
#[test]
fn a_slow_server_loses_nothing_at_the_end_of_a_stage() {
    let delay = |_| Duration::from_millis(100);
    let fake = Fake::start(Behaviour { delay: Box::new(delay), ..Behaviour::default() });
    let run =
        "fanout -r 8 --patience 1s --stage 0s:30 --stage 1s:30 --stage 0s:0 --stage 500ms:0 --stage 1s:30";
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("streams_open_at_end"), 30);
    assert!(verdict.json["opening"]["streams"].as_u64() > Some(30), "{}", verdict.json["opening"]);
}

/// Streams that the server ended while they waited to come back are not opened when their stage is over.
#[test]
fn streams_that_the_server_ends_follow_the_stages_too() {
    let verdict = mischievous(|subscriber, event| match (subscriber % 3, event % 20) {
        (1, 7) => vec![Send::Event(event), Send::Hangup],
        _ => vec![Send::Event(event)],
    })
    .judge(RUN);
    assert!(verdict.count("streams_ended") > 0, "{}", verdict.json);
    assert_eq!(verdict.count("streams_open_at_end"), 5, "{}", verdict.complaint);
    assert_eq!(verdict.faults()[1..], [0; 3], "{}", verdict.complaint);
}

#[test]
fn many_threads_share_the_stages() {
    let fake = Fake::start(Behaviour::default());
    let verdict = fake.judge("topics -r 100 --threads 3 --stage 1s:7 --stage 1s:2");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("streams_open_at_end"), verdict.count("tried_out")), (2, 7));
}

/// Only the first topic of a stream was counted from its first event on: of the others everything that was
/// published before a subscriber came was lost, and everything that a leaver's place had missed.
#[test]
fn all_topics_of_a_stream_follow_the_stages() {
    let run = "topics --topics 6 --per-stream 3 -r 60 --patience 500ms --subscribe-url http://ADDRESS/events/{topics:,} \
               --stage 1s:20 --stage 2s:20 --stage 500ms:4 --stage 1s:12 --stage 500ms:4";
    let judge = |fake: Fake| fake.judge(&run.replace("ADDRESS", &fake.address.to_string()));
    let verdict = judge(Fake::start(Behaviour::default()));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("streams_open_at_end"), 4);
    assert!(verdict.count("deliveries") > 500, "{}", verdict.json);

    // Six events, of the six topics in turn, at a time when no subscriber comes or goes.
    let verdict = judge(mischievous(|subscriber, event| match (subscriber, event) {
        (13, 126..132) => vec![],
        _ => vec![Send::Event(event)],
    }));
    assert_eq!((verdict.code, verdict.faults()), (1, [3, 0, 0, 0]), "{}", verdict.complaint);
}

/// Only one of twenty streams was to be open by then, so nineteen were said to have ended with the server.
#[test]
fn a_refused_publish_before_the_first_stage_is_no_server_that_died() {
    let fake = Fake::start(Behaviour { publish_status: "403 Forbidden", ..Behaviour::default() });
    let verdict = fake.judge(RUN);
    assert_eq!(verdict.code, 1);
    let told = &verdict.complaint;
    assert!(told.contains("403") && !told.contains("died"), "{told}");
}

#[test]
fn stages_that_cannot_be_are_named() {
    for (run, told) in [
        ("storm --stage 1s:5", "fanout and topics"),
        ("fanout --stage 0s:5", "no time"),
        ("fanout --stage 5s:0", "--subscribers 0"),
        ("fanout --stage soon:5", "30s:10000"),
        ("find --first 2 --stage 1s:5", "single runs"),
    ] {
        let verdict = fake::judge(&format!("{run} --server plain --url http://127.0.0.1:9"));
        assert!(verdict.code == 2 && verdict.complaint.contains(told), "{run}: {}", verdict.complaint);
    }
}

/// A newcomer was owed everything that had been published to its topics but the first one before it came.
#[test]
fn a_newcomer_with_several_topics_is_not_owed_what_came_before_it() {
    let run = |fake: Fake| {
        let url = format!("http://{}/events/{{topics:,}}", fake.address);
        let stages = RUN.strip_prefix("fanout").expect("its scenario");
        fake.judge(&format!("topics --topics 6 --per-stream 3 --subscribe-url {url} {stages}"))
    };
    let verdict = run(Fake::start(Behaviour::default()));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert!(verdict.count("deliveries") > 1_000, "{}", verdict.json);
    // Six events that follow each other are one of each topic, of which the stream has three.
    let verdict = run(mischievous(|subscriber, event| match (subscriber, event) {
        (13, 118..=123) => vec![],
        _ => vec![Send::Event(event)],
    }));
    assert_eq!((verdict.code, verdict.faults()), (1, [3, 0, 0, 0]), "{}", verdict.complaint);
}
