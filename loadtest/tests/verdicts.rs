//! What made a run valid although it showed nothing, or ended the judge: each is noticed.

mod fake;

use std::time::Duration;

use fake::{Behaviour, Fake, Send, judge};

fn mischievous(mischief: impl Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send + 'static) -> Fake {
    Fake::start(Behaviour { mischief: Box::new(mischief), ..Behaviour::default() })
}

/// A stream that ended and never came back was a note of a run that was valid.
#[test]
fn streams_that_are_dead_at_the_end_make_a_run_not_valid() {
    // The last event is the end of three streams, which are told to come back in an hour.
    let hang_up = |subscriber, event| match (subscriber, event) {
        (1 | 4 | 7, 20) => vec![Send::Event(event), Send::Hangup],
        _ => vec![Send::Event(event)],
    };
    let behaviour = |retry_ms| Behaviour { mischief: Box::new(hang_up), retry_ms, ..Behaviour::default() };
    let run = "fanout -n 20 -r 100 -d 200ms --patience 300ms --retry 100ms";
    let verdict = Fake::start(behaviour(3_600_000)).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [0; 4]), "{}", verdict.complaint);
    assert!(verdict.complaint.contains("3 of 20 streams were not open at the end"), "{}", verdict.complaint);
    assert_eq!((verdict.count("streams_open_at_end"), verdict.count("streams_reopened")), (17, 0));

    let verdict = Fake::start(behaviour(50)).judge(run);
    assert_eq!((verdict.code, verdict.count("streams_open_at_end")), (0, 20), "{}", verdict.complaint);
}

/// Against a server that ignores `Last-Event-ID`, at the default rate nothing was published while the streams
/// were away, and nothing was lost.
#[test]
fn a_storm_shows_that_resume_works_or_says_that_it_was_not_tested() {
    let run = "storm -n 20 -d 3s --patience 400ms";
    let verdict = Fake::start(Behaviour { replays: true, ..Behaviour::default() }).judge(run);
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("streams_resumed"), verdict.count("published_while_away")), (20, 5));

    let verdict = Fake::start(Behaviour { ids: true, ..Behaviour::default() }).judge(run);
    assert_eq!(verdict.code, 1);
    assert!(verdict.count("lost") >= 20 * 5, "{}", verdict.complaint);

    let verdict = Fake::start(Behaviour::default()).judge(run);
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("the server gave no ids"), "{}", verdict.complaint);

    let verdict =
        Fake::start(Behaviour { replays: true, ..Behaviour::default() }).judge("storm -n 5 -d 600ms");
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("raise --rate or --duration"), "{}", verdict.complaint);
}

/// A line without an end took gigabytes, and then the process ended without a report.
#[test]
fn a_line_without_an_end_ends_the_run_with_a_reason() {
    for endless in ["data: xxxxxxxxxxxxxxxxxxxxxx", "id: xxxxxxxxxxxxxxxxxx", "xxxxxxxxxxx", "data: x\n"] {
        let endless = Some(endless);
        let fake = Fake::start(Behaviour { endless, framing: fake::Framing::Close, ..Behaviour::default() });
        let verdict = fake.judge("fanout -n 2 -d 1s --patience 5s");
        assert_eq!(verdict.code, 1, "{endless:?}");
        assert!(verdict.complaint.contains("--max-line"), "{endless:?}: {}", verdict.complaint);
    }
    // A comment without an end is thrown away as it comes.
    let fake = Fake::start(Behaviour {
        endless: Some(":::::::::::::::::::::::::::::::::::::::::::::::::::::"),
        framing: fake::Framing::Close,
        ..Behaviour::default()
    });
    let verdict = fake.judge("listen -n 2 -d 1s");
    assert!(verdict.complaint.contains("no event came"), "{}", verdict.complaint);
    assert!(verdict.count("received_bytes") > 10_000_000, "{}", verdict.json);
}

#[test]
fn a_long_line_that_is_meant_so_is_read() {
    let run = "fanout -n 2 -r 10 -d 300ms --size 300000 --max-line";
    let fake = Fake::start(Behaviour::default());
    let verdict = fake.judge(&format!("{run} 300100"));
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 2 * 4), "{}", verdict.complaint);
    assert_eq!(fake.judge(&format!("{run} 2000")).code, 2);
}

#[test]
fn early_hints_are_not_the_answer() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    let fake = Fake::start(Behaviour { hints, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 5 -r 20 -d 200ms");
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 5 * 5), "{}", verdict.complaint);
}

/// The patience was a minute whatever was asked for.
#[test]
fn a_publish_without_an_answer_ends_the_run_after_the_patience() {
    let fake = Fake::start(Behaviour { mute: true, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 2 -d 1s --patience 300ms");
    assert_eq!(verdict.code, 1);
    let expected = format!(
        "no answer for 0.3 s: raise --patience if the server needs longer; it was POST http://{}/events/load",
        fake.address
    );
    assert!(verdict.complaint.contains(&expected), "{}", verdict.complaint);
}

#[test]
fn a_refused_publish_is_told_with_what_was_asked() {
    let fake = Fake::start(Behaviour { publish_status: "403 Forbidden", ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 2 -d 1s --publish-body {\"a\":\"{data}\"}");
    let told = &verdict.complaint;
    for expected in ["403", "reason", "POST http://", "/events/load", "~fl"] {
        assert!(told.contains(expected), "`{expected}` is not in `{told}`");
    }
}

/// Reports named 127.0.0.1:8844 whatever was asked, and where only the subscription was given it was
/// published there.
#[test]
fn a_report_names_what_was_asked_and_nothing_is_published_by_accident() {
    let verdict = judge("fanout -n 2 -d 1s --subscribe-url http://127.0.0.1:9/events");
    assert_eq!(verdict.code, 2);
    for expected in ["--publish-url", "fanfare-load listen"] {
        assert!(verdict.complaint.contains(expected), "{}", verdict.complaint);
    }
    let fake = Fake::start(Behaviour::default());
    let url = format!("http://{}/events/x", fake.address);
    let arguments =
        format!("fanout -n 2 -r 20 -d 200ms --server plain --subscribe-url {url} --publish-url {url}");
    let verdict = judge(&arguments);
    assert_eq!((verdict.code, &verdict.json["name"]), (0, &url.into()), "{}", verdict.complaint);
}

#[test]
fn data_that_the_server_changes_is_not_taken_for_a_wrong_topic() {
    let fake = mischievous(|_, event| vec![Send::Changed(event, 100)]);
    let verdict = fake.judge("fanout -n 2 -d 1s --patience 300ms");
    assert_eq!(verdict.code, 1);
    let told = &verdict.complaint;
    assert!(told.contains("was damaged at every subscriber") && !told.contains("same topic"), "{told}");
}

/// Patience began anew with each delivery, so a server that was later with each event was valid.
#[test]
fn a_server_that_is_later_with_each_event_has_fallen_behind() {
    // It takes 80 ms for an event, and gets one each 20 ms.
    let delay = |event| if event == 0 { Duration::ZERO } else { Duration::from_millis(80) };
    let fake = Fake::start(Behaviour { delay: Box::new(delay), ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 5 -r 50 -d 2s");
    assert_eq!((verdict.code, verdict.faults()), (1, [0; 4]), "{}", verdict.complaint);
    assert_eq!(
        (&verdict.json["verdict"], &verdict.json["fell_behind"]),
        (&"fell behind".into(), &true.into())
    );
    assert!(verdict.complaint.contains("fell behind"), "{}", verdict.complaint);
    let figure = |key: &str| verdict.json[key].as_f64().unwrap();
    assert!(figure("latency_growth_ms") > 1_000.0);
    assert!(figure("deliveries_per_s") < figure("offered_deliveries_per_s") / 2.0);

    let verdict = Fake::start(Behaviour::default()).judge("fanout -n 5 -r 50 -d 2s");
    assert_eq!((verdict.code, &verdict.json["fell_behind"]), (0, &false.into()), "{}", verdict.complaint);
}

/// The data was always the same letter: what was changed in its middle was not noticed.
#[test]
fn a_changed_byte_is_damage() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (3, 5) => vec![Send::Changed(event, 150)],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge("fanout -n 5 -r 100 -d 200ms --patience 300ms");
    assert_eq!((verdict.code, verdict.faults()), (1, [1, 0, 0, 1]), "{}", verdict.complaint);
}

#[test]
fn text_of_several_lines_is_judged_whole() {
    let run = "fanout -n 3 -r 50 -d 300ms --payload text --size 500";
    for newline in ["\n", "\r\n"] {
        let verdict = Fake::start(Behaviour { newline, ..Behaviour::default() }).judge(run);
        assert_eq!((verdict.code, verdict.count("deliveries")), (0, 3 * 16), "{}", verdict.complaint);
    }
    // A server in whose JSON the data would break.
    let verdict = judge("fanout --payload text --publish-body {\"a\":\"{data}\"}");
    assert_eq!(verdict.code, 2);
    assert!(verdict.complaint.contains("{data:json}"), "{}", verdict.complaint);
}

#[test]
fn ids_that_name_two_events_or_are_missing_are_wrong() {
    let run = "fanout -n 4 -r 50 -d 300ms --patience 300ms";
    let fake = mischievous(|_, event| match event {
        3 => vec![Send::Named(3, "7", "message")],
        7 => vec![Send::Named(7, "7", "message")],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge(run);
    assert_eq!((verdict.code, verdict.faults()), (1, [0; 4]), "{}", verdict.complaint);
    for expected in ["1 events have the id of another event", "8 deliveries had an id, and 56 had none"] {
        assert!(verdict.complaint.contains(expected), "`{expected}` is not in `{}`", verdict.complaint);
    }
    assert_eq!(verdict.json["event_names"]["message"], 8);
    assert!(verdict.json["notes"].to_string().contains("`onmessage` of a browser"), "{}", verdict.json);

    let verdict = Fake::start(Behaviour { ids: true, ..Behaviour::default() }).judge(run);
    assert_eq!((verdict.code, &verdict.json["ids"]["with"]), (0, &(4 * 16).into()), "{}", verdict.complaint);
}

/// A name that is too long to be shown whole was counted only until sixteen names were known.
#[test]
fn long_names_are_counted_like_others() {
    const LONG: &str = "a-name-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on";
    const NAMES: [&str; 16] =
        [LONG, "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    const IDS: [&str; 4] = ["1", "2", "3", "4"];
    let fake = mischievous(|_, event| vec![Send::Named(event, IDS[event / 16 % 4], NAMES[event % 16])]);
    // 48 events, and one before them.
    let verdict = fake.judge("fanout -n 1 -r 80 -d 600ms");
    let names = verdict.json["event_names"].as_object().unwrap();
    let counts: Vec<u64> = names.values().map(|count| count.as_u64().unwrap()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (16, 49), "{names:?}");
    assert!(names.keys().any(|name| LONG.starts_with(name.trim_end_matches('.'))), "{names:?}");
}

/// Each topic was tried but only one event was published to the first ones, and none where there were many.
#[test]
fn each_topic_is_tried_on_each_stream() {
    let fake = mischievous(|subscriber, event| match subscriber {
        17 => vec![],
        _ => vec![Send::Event(event)],
    });
    // No event is due for the 18th topic after that.
    let verdict = fake.judge("topics -n 20 -r 20 -d 500ms --threads 1 --connect-burst 1 --patience 300ms");
    assert_eq!((verdict.code, verdict.count("tried_out")), (1, 20), "{}", verdict.complaint);
    assert_eq!(verdict.faults(), [1, 0, 0, 0], "{}", verdict.complaint);
}

#[test]
fn heartbeats_are_counted_and_missed() {
    let beating = Behaviour { heartbeat: Duration::from_millis(100), ..Behaviour::default() };
    let fake = Fake::start(beating);
    let verdict = fake.judge("idle -n 5 -d 1500ms --events 1 --expect-heartbeat 1s");
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    let heartbeats = &verdict.json["heartbeats"];
    assert_eq!(heartbeats["streams_with"], 5);
    assert!(heartbeats["count"].as_u64().unwrap() >= 5, "{heartbeats}");

    let fake = Fake::start(Behaviour::default());
    let verdict = fake.judge("idle -n 5 -d 1500ms --events 1 --expect-heartbeat 300ms");
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("5 streams got nothing for more than 0.6 s"), "{}", verdict.complaint);
    assert_eq!(verdict.json["heartbeats"]["count"], 0);
}

/// What the stalled do not read waits in their own buffers first, where it does not burden the server.
#[test]
fn slow_readers_that_burden_only_themselves_are_named() {
    let run = "slow -n 10 --share 0.5 -r 50 -d 1s --size 1000 --stalled-receive-buffer";
    let noted = |verdict: &fake::Verdict| verdict.json["notes"].to_string().contains("own receive buffers");
    let verdict = Fake::start(Behaviour::default()).judge(&format!("{run} 1000000"));
    assert!(verdict.code == 0 && noted(&verdict), "{}", verdict.json);
    let verdict = Fake::start(Behaviour::default()).judge(&format!("{run} 2048"));
    assert!(verdict.code == 0 && !noted(&verdict), "{}", verdict.json);
    assert!(verdict.count("slow_waiting_bytes") < verdict.count("slow_backlog_bytes") / 2);
}

/// A server that only the load test's own events could be sent through could not be judged at all.
#[test]
fn a_stream_that_nobody_publishes_to_is_listened_to() {
    let tick = Duration::from_millis(100);
    let tokens = vec![
        (tick, "id: 1\ndata: {\"token\":\"a\"}\n\n"),
        (tick, "id: 2\ndata: b\n\n"),
        (tick, ":\n\nid: 3\ndata: [DONE]\n\n"),
    ];
    let fake = Fake::start(Behaviour { script: Some(tokens.clone()), ..Behaviour::default() });
    let url = format!("http://{}/tokens", fake.address);
    let verdict = judge(&format!("listen --once -n 10 -d 20s --subscribe-url {url}"));
    assert_eq!((verdict.code, &verdict.json["valid"]), (0, &true.into()), "{}", verdict.complaint);
    let listened = &verdict.json["listened"];
    assert_eq!((&listened["events"], verdict.count("streams_ended")), (&30.into(), 10));
    let p50 = |key: &str| listened[key]["p50"].as_f64().unwrap();
    assert!(
        p50("first_event_ms") >= 100.0 && p50("gap_ms") >= 90.0 && p50("last_event_ms") >= 290.0,
        "{listened}"
    );
    assert_eq!(listened["gap_ms"]["count"], 20);

    // Opened again, such a server starts from its beginning each time: its ids say that events come again.
    let verdict = judge(&format!("listen -n 3 -d 1s --retry 50ms --subscribe-url {url}"));
    assert!(verdict.count("streams_reopened") >= 3, "{}", verdict.json);
    assert!(verdict.count("out_of_order") > 0, "{}", verdict.json);

    let cut = Behaviour { script: Some(vec![(tick, "data: half an event\n")]), ..Behaviour::default() };
    let fake = Fake::start(cut);
    let verdict = judge(&format!("listen --once -n 2 -d 5s --subscribe-url http://{}/", fake.address));
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("2 streams were cut in the middle"), "{}", verdict.complaint);
}

/// Events of another load test had neither a time nor an id, and data in which `~fl` happened to stand was
/// damaged.
#[test]
fn events_that_look_like_those_of_a_load_test_are_listened_to_like_others() {
    let tick = Duration::from_millis(50);
    let script = vec![
        (
            tick,
            "id: 1\ndata: ~fl0000002a.0.7.123456.84.9d73f291.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\n\n",
        ),
        (tick, "id: 2\ndata: the ~flavour of the day\n\n"),
    ];
    let fake = Fake::start(Behaviour { script: Some(script), ..Behaviour::default() });
    let verdict = judge(&format!("listen --once -n 3 -d 20s --subscribe-url http://{}/", fake.address));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(
        (&verdict.json["ids"]["with"], &verdict.json["listened"]["gap_ms"]["count"]),
        (&6.into(), &3.into())
    );
}

/// `idle` waited for an event of its own, so the memory of such a server could not be measured.
#[test]
fn the_memory_of_any_server_is_measured() {
    let fake = Fake::start(Behaviour::default());
    let url = format!("http://{}/clock", fake.address);
    let verdict =
        judge(&format!("idle -n 10 -d 300ms --subscribe-url {url} --server-pid {}", std::process::id()));
    assert_eq!((verdict.code, verdict.count("published")), (0, 0), "{}", verdict.complaint);
    assert!(verdict.json["server_user_bytes_per_connection"].is_number(), "{}", verdict.json);
    assert_eq!(fake.published(), 0);
}

#[test]
fn errors_are_counted_by_kind_where_that_is_asked_for() {
    let answer = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let fake = Fake::start(Behaviour { answer: Some(answer), ..Behaviour::default() });
    let run = format!("listen -n 4 -d 300ms --retry 10s --subscribe-url http://{}/", fake.address);
    let verdict = judge(&format!("{run} --count-errors"));
    assert_eq!(verdict.code, 1);
    assert_eq!(verdict.json["errors"]["status 503"], 4, "{}", verdict.json);
    assert!(verdict.complaint.contains("4 of 4 streams were not open"), "{}", verdict.complaint);
    let verdict = judge(&run);
    assert!(verdict.complaint.contains("answered 503") && verdict.code == 1, "{}", verdict.complaint);
}

/// The patience began anew with each byte, and Ctrl-C was not seen while there was something to read.
#[test]
fn an_answer_to_a_publish_without_an_end_ends_the_run_after_the_patience() {
    for answer in [
        ("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ] {
        let answers_without_end = Some(answer);
        let fake = Fake::start(Behaviour { answers_without_end, ..Behaviour::default() });
        let verdict = fake.judge("fanout -n 2 -d 1s --patience 300ms");
        assert_eq!(verdict.code, 1, "{answer:?}");
        assert!(verdict.complaint.contains("no answer for 0.3 s"), "{answer:?}: {}", verdict.complaint);
    }
}

/// All of them had the id of the last one, and a server that joins events was not valid.
#[test]
fn events_that_are_joined_share_an_id() {
    let joined = |subscriber, event: usize| match (subscriber, event) {
        (_, 0) => vec![Send::Joined(vec![0])],
        // One of the streams gets them one by one.
        (1, _) => vec![Send::Joined(vec![event])],
        (_, _) if event.is_multiple_of(5) => vec![Send::Joined((event - 4..=event).collect())],
        _ => vec![],
    };
    let verdict = mischievous(joined).judge("fanout -n 4 -r 50 -d 500ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let ids = &verdict.json["ids"];
    assert_eq!((&ids["with"], &ids["differing"]), (&(4 * 26).into(), &0.into()), "{ids}");
}

/// Beyond sixteen topics no id was looked at.
#[test]
fn ids_are_looked_at_where_there_are_many_topics() {
    let same = |_, event| vec![Send::Named(event, "7", "")];
    let verdict = mischievous(same).judge("topics -n 20 -r 100 -d 400ms --patience 300ms");
    assert_eq!((verdict.code, verdict.faults()), (1, [0; 4]), "{}", verdict.complaint);
    assert!(verdict.complaint.contains("have the id of another event"), "{}", verdict.complaint);
    let verdict = Fake::start(Behaviour { ids: true, ..Behaviour::default() })
        .judge("topics -n 20 -r 100 -d 400ms --patience 300ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
}

/// An event from the future had no latency, and a number that no event has made a billion lost ones.
#[test]
fn events_that_nobody_has_published_are_damaged() {
    let later = |_, event: usize| vec![Send::Forged(event, event as u64, u64::MAX / 2)];
    let verdict = mischievous(later).judge("fanout -n 2 -r 50 -d 200ms --patience 300ms");
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("was damaged at every subscriber"), "{}", verdict.complaint);

    for number in [11, 1_000_000_000_000, u64::MAX] {
        let more = move |subscriber, event: usize| match (subscriber, event) {
            (1, 8) => vec![Send::Event(event), Send::Forged(event, number, 1)],
            _ => vec![Send::Event(event)],
        };
        // The numbers of the events are 0 to 10.
        let verdict = mischievous(more).judge("fanout -n 2 -r 50 -d 200ms --patience 300ms");
        let [lost, doubled, _, damaged] = verdict.faults();
        assert_eq!((verdict.code, lost, doubled, damaged), (1, 0, 0, 1), "{number}: {}", verdict.complaint);
    }
}

/// Where nothing is published a text that looks like the beginning of a stamp was damage.
#[test]
fn what_somebody_else_sends_is_not_damaged() {
    let tick = Duration::from_millis(20);
    let script = vec![(tick, "data: http://example.org/~florian/\n\n"), (tick, "data: ~fl\n\n")];
    let fake = Fake::start(Behaviour { script: Some(script), ..Behaviour::default() });
    let url = format!("http://{}/x", fake.address);
    let verdict = judge(&format!("listen --once -n 3 -d 20s --subscribe-url {url}"));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let listened = &verdict.json["listened"];
    assert_eq!((&listened["events"], &listened["gap_ms"]["count"]), (&6.into(), &3.into()), "{listened}");
}

/// The streams were hardly ever all open at once, and for that the run waited without an end.
#[test]
fn streams_that_end_at_once_do_not_hold_the_begin_of_a_run() {
    let fake = Fake::start(Behaviour { script: Some(Vec::new()), retry_ms: 200, ..Behaviour::default() });
    let url = format!("http://{}/x", fake.address);
    let verdict =
        judge(&format!("listen -n 5 -d 300ms --patience 100ms --retry 100ms --subscribe-url {url}"));
    assert_eq!(verdict.code, 1);
    assert!(verdict.complaint.contains("no event came"), "{}", verdict.complaint);
    assert!(verdict.count("streams_ended") >= 5, "{}", verdict.json);
}

/// A stream that was refused and opened a moment later was counted twice: as failed, and as open. So the
/// opening was over before the others were open, and what was published until then was lost for them.
#[test]
fn streams_that_are_opened_at_a_later_attempt_are_counted_once() {
    let fake = Fake::start(Behaviour { refuses_first: 3, ..Behaviour::default() });
    let run = "fanout -n 6 -r 50 --threads 1 --count-errors";
    let verdict = fake.judge(&format!("{run} -d 300ms --connect-rate 3 --retry 10ms"));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((&verdict.json["errors"]["status 503"], verdict.count("deliveries")), (&3.into(), 6 * 16));
    assert_eq!((verdict.count("streams_ended"), verdict.count("streams_reopened")), (0, 0));

    // Those that come while events are published have lost nothing that was published before.
    let fake = Fake::start(Behaviour { refuses_first: 3, ..Behaviour::default() });
    let verdict = fake.judge(&format!("{run} --connect-rate 1000 --retry 1s -d 2s"));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert!(verdict.count("deliveries") < 6 * 101, "{}", verdict.json);
}

/// With one event the publisher was done before the readers were to stall, and the run was valid.
#[test]
fn a_run_in_which_no_reader_stalled_shows_nothing() {
    let verdict = Fake::start(Behaviour::default()).judge("slow -n 10 -r 1 -d 1s");
    assert_eq!(verdict.code, 1, "{}", verdict.json);
    assert!(verdict.complaint.contains("no reader stalled"), "{}", verdict.complaint);
}

/// An event that no subscriber got was not among those that did not reach everybody.
#[test]
fn events_that_reach_some_or_none_are_incomplete() {
    let fake = mischievous(|subscriber, event| match (subscriber, event) {
        (_, 5) | (2, 9) => vec![],
        _ => vec![Send::Event(event)],
    });
    let verdict = fake.judge("fanout -n 5 -r 50 -d 300ms --patience 300ms");
    assert_eq!((verdict.faults(), verdict.count("incomplete_events")), ([6, 0, 0, 0], 2), "{}", verdict.json);
}

/// Streams that the server had ended before the storm, and that were opened again, counted as back already.
#[test]
fn all_are_back_when_the_last_one_is() {
    let mischief = |subscriber, event| match (subscriber, event) {
        (0..5, 3) => vec![Send::Event(event), Send::Hangup],
        _ => vec![Send::Event(event)],
    };
    let fake = Fake::start(Behaviour { mischief: Box::new(mischief), replays: true, ..Behaviour::default() });
    // Ten streams at five a second.
    let verdict = fake.judge("storm -n 10 -r 20 -d 6s --threads 1 --connect-rate 5 --retry 10ms");
    assert_eq!((verdict.code, verdict.count("streams_ended")), (0, 5), "{}", verdict.complaint);
    let back = verdict.json["storm_all_back_ms"].as_f64().unwrap();
    assert!(back >= 1_400.0, "{back}");
}
