//! Resuming: by every name an id can come under, over a gap, and under fire.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::{Backend, PATIENCE, Random, Server, Subscriber, eventually, on_both_backends, seed};

/// Publishes `count` events whose data is their number from 1 on, and gives their ids.
fn publish_numbered(server: &Server, topic: &str, count: usize) -> Vec<String> {
    let mut publisher = server.publisher();
    (1..=count).map(|number| publisher.publish(topic, &number.to_string())).collect()
}

/// Panics unless this stream is live only: a marker published now is the first thing in it.
fn expect_live(server: &Server, query: &str, headers: &[(&str, &str)]) {
    let case = format!("{query} {headers:?}");
    server.settle();
    let mut subscriber = server.subscribe_with(query, headers);
    assert_eq!(subscriber.header("Fanfare-Gap"), None, "{case}");
    let id = server.publish("a", "marker");
    let event = subscriber.event();
    assert_eq!((event.data.as_str(), event.id), ("marker", id), "{case}");
}

on_both_backends! {
    fn every_name_for_the_last_id_resumes_right_behind_it(backend) {
        let server = Server::start(backend);
        let ids = publish_numbered(&server, "a", 5);
        let third = ids[2].as_str();

        let mut streams = vec![
            ("header", server.subscribe_with("topic=a", &[("Last-Event-ID", third)])),
            ("header in lower case", server.subscribe_with("topic=a", &[("last-event-id", third)])),
            // The header is the one that a browser keeps up to date.
            (
                "header before query",
                server.subscribe_with(&format!("topic=a&last_event_id={}", ids[0]), &[("Last-Event-ID", third)]),
            ),
            (
                "empty header, query",
                server.subscribe_with(&format!("topic=a&lastEventId={third}"), &[("Last-Event-ID", "")]),
            ),
            (
                "without chunks",
                server.subscribe_with("topic=a", &[("Connection", "close"), ("Last-Event-ID", third)]),
            ),
        ];
        for name in ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "evs_last_event_id"] {
            streams.push((name, server.subscribe(&format!("topic=a&{name}={third}"))));
        }
        let live = server.publish("a", "live");
        for (case, mut subscriber) in streams {
            assert_eq!(subscriber.header("Fanfare-Gap"), None, "{case}");
            let events = subscriber.events(3);
            let seen: Vec<(&str, &str)> =
                events.iter().map(|event| (event.data.as_str(), event.id.as_str())).collect();
            assert_eq!(seen, [("4", ids[3].as_str()), ("5", ids[4].as_str()), ("live", live.as_str())], "{case}");
        }
    }

    fn an_empty_id_is_no_id(backend) {
        let server = Server::start(backend);
        publish_numbered(&server, "a", 3);
        expect_live(&server, "topic=a", &[("Last-Event-ID", "")]);
        expect_live(&server, "topic=a", &[("Last-Event-ID", "  ")]);
        expect_live(&server, "topic=a&last_event_id=&lastEventId=", &[]);
        expect_live(&server, "topic=a", &[]);
    }

    fn earliest_is_everything_retained_and_no_gap(backend) {
        let server = Server::start_with(backend, &["--retain-events", "4"]);
        publish_numbered(&server, "a", 6);
        for mut subscriber in [
            server.subscribe("topic=a&last_event_id=earliest"),
            server.subscribe_with("topic=a", &[("Last-Event-ID", "earliest")]),
        ] {
            assert_eq!(subscriber.header("Fanfare-Gap"), None);
            assert_eq!(subscriber.data(4), ["3", "4", "5", "6"]);
        }
    }

    fn an_unknown_id_is_a_gap_that_is_told_twice_and_then_everything_retained(backend) {
        let server = Server::start(backend);
        // Before there is anything, there is nothing to name on the far side of the gap.
        let mut first = server.subscribe_with("topic=a", &[("Last-Event-ID", "000000000-7")]);
        assert_eq!(first.header("Fanfare-Gap"), Some("true"));
        let gap = first.event();
        assert_eq!((gap.kind.as_str(), gap.data.as_str()), ("fanfare.gap", r#"{"after":"000000000-7","before":null}"#));

        let ids = publish_numbered(&server, "a", 3);
        let (epoch, _) = ids[0].split_once('-').expect("an id has an epoch");
        let future = format!("{epoch}-999");
        let unknown = ["000000000-1", future.as_str(), "never-seen", "a\"b\\c", "\u{e4}\u{1f600}", "-", "1"];
        for id in unknown {
            let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", id)]);
            assert_eq!(subscriber.header("Fanfare-Gap"), Some("true"), "{id}");
            let data = json!({ "after": id, "before": ids[0] });
            let gap = subscriber.event();
            assert_eq!(gap.kind, "fanfare.gap", "{id}");
            assert_eq!(serde_json::from_str::<Value>(&gap.data).ok(), Some(data), "{id}");
            // A subscriber that is cut right here resumes right here.
            assert_eq!(gap.id, format!("{epoch}-0"), "{id}");
            assert_eq!(subscriber.data(3), ["1", "2", "3"], "{id}");
        }

        let mut quiet = server.subscribe_with("topic=a&gap=off", &[("Last-Event-ID", "never-seen")]);
        assert_eq!(quiet.header("Fanfare-Gap"), Some("true"));
        assert_eq!(quiet.data(3), ["1", "2", "3"]);
        let mut loud = server.subscribe_with("topic=a&gap=on", &[("Last-Event-ID", "never-seen")]);
        assert_eq!(loud.event().kind, "fanfare.gap");
        let wrong = server.get("/events?topic=a&gap=maybe").problem(400);
        assert!(wrong["detail"].as_str().is_some_and(|detail| detail.contains("gap")), "{wrong}");
    }

    fn the_gap_event_is_these_bytes(backend) {
        let server = Server::start_with(backend, &["--retain-events", "2"]);
        let ids = publish_numbered(&server, "a", 4);
        let (epoch, _) = ids[0].split_once('-').expect("an id has an epoch");
        let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", &ids[0])]);
        subscriber.events(3);
        let body = String::from_utf8(subscriber.body.clone()).expect("text");
        let (_, events) = body.split_once("retry: ").and_then(|(_, rest)| rest.split_once('\n')).expect("a prelude");
        let expected = format!(
            "event: fanfare.gap\ndata: {{\"after\":\"{}\",\"before\":\"{}\"}}\nid: {epoch}-2\n\n\
             data: 3\nid: {}\n\ndata: 4\nid: {}\n\n",
            ids[0], ids[2], ids[2], ids[3]
        );
        assert_eq!(events, expected);
    }

    fn what_retention_dropped_is_a_gap_and_what_it_kept_is_none(backend) {
        let server = Server::start_with(backend, &["--retain-events", "3"]);
        let ids = publish_numbered(&server, "a", 10);
        for (number, gap) in [(1, true), (6, true), (7, false), (8, false), (10, false)] {
            let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", &ids[number - 1])]);
            assert_eq!(subscriber.header("Fanfare-Gap"), gap.then_some("true"), "after {number}");
            if gap {
                assert_eq!(subscriber.event().kind, "fanfare.gap", "after {number}");
            }
            let first = (number + 1).max(8);
            let expected: Vec<String> = (first..=10).map(|number| number.to_string()).collect();
            assert_eq!(subscriber.data(expected.len()), expected, "after {number}");
        }
    }

    fn retention_by_bytes_keeps_the_newest(backend) {
        let server = Server::start_with(backend, &["--retain-bytes", "10KiB"]);
        let mut ids = Vec::new();
        for number in 1..=20 {
            ids.push(server.publish("a", &format!("{number} {}", "x".repeat(1000))));
        }
        server.settle();
        let topic = server.topic("a").expect("it is retained");
        // Each of the frames has 1,000 bytes and some more.
        let kept = topic["retained"].as_u64().expect("a count") as usize;
        assert!((8..=10).contains(&kept), "{topic}");
        assert_eq!((&topic["oldest"], &topic["newest"]), (&ids[20 - kept].as_str().into(), &ids[19].as_str().into()));
        let mut subscriber = server.subscribe("topic=a&last_event_id=earliest");
        let replayed: Vec<String> = subscriber.events(kept).into_iter().map(|event| event.id).collect();
        assert_eq!(replayed, ids[20 - kept..]);
        let gap = server.subscribe_with("topic=a", &[("Last-Event-ID", &ids[0])]);
        assert_eq!(gap.header("Fanfare-Gap"), Some("true"));
    }

    fn retention_by_age_forgets_what_is_old(backend) {
        let server = Server::start_with(backend, &["--retain-age", "500ms"]);
        let id = server.publish("a", "old");
        // Without subscribers and events there is nothing to say about the topic.
        eventually("the event is forgotten", || server.topic("a").is_none().then_some(()));
        let mut late = server.subscribe_with("topic=a", &[("Last-Event-ID", "earliest")]);
        let mut resumed = server.subscribe_with("topic=a", &[("Last-Event-ID", &id)]);
        assert_eq!(resumed.header("Fanfare-Gap"), None, "nothing came behind it");
        server.publish("a", "new");
        assert_eq!((late.event().data.as_str(), resumed.event().data.as_str()), ("new", "new"));
    }

    fn a_publishers_own_id_resumes_while_it_is_retained(backend) {
        let server = Server::start_with(backend, &["--retain-events", "3"]);
        let own = |id: &str, data: &str| server.publish_json(&json!({ "topic": "a", "id": id, "data": data }));
        assert_eq!(own("order 17", "1"), "order 17");
        server.publish("a", "2");
        assert_eq!(own("Bestellung-\u{e4}", "3"), "Bestellung-\u{e4}");
        for (id, expected) in [("order 17", &["2", "3"][..]), ("Bestellung-\u{e4}", &[])] {
            let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", id)]);
            assert_eq!(subscriber.header("Fanfare-Gap"), None, "{id}");
            assert_eq!(subscriber.data(expected.len()), expected, "{id}");
            // In the query it is percent-encoded.
            let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let mut subscriber = server.subscribe(&format!("topic=a&lastEventId={encoded}"));
            assert_eq!(subscriber.header("Fanfare-Gap"), None, "{id}");
            assert_eq!(subscriber.data(expected.len()), expected, "{id}");
        }
        server.publish("a", "4");
        let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", "order 17")]);
        assert_eq!(subscriber.header("Fanfare-Gap"), Some("true"));
        assert_eq!(subscriber.event().kind, "fanfare.gap");
        assert_eq!(subscriber.data(3), ["2", "3", "4"]);
    }

    fn a_resume_over_several_topics_is_in_the_order_of_publishing(backend) {
        let server = Server::start(backend);
        let ids: Vec<String> = [
            json!({ "topic": "a", "data": "1" }),
            json!({ "topic": "b", "data": "2" }),
            json!({ "topic": "c", "data": "not asked for" }),
            json!({ "topic": ["a", "b"], "data": "3" }),
            json!({ "topic": "b", "data": "secret", "private": true }),
            json!({ "topic": "a", "data": "4" }),
        ]
        .iter()
        .map(|event| server.publish_json(event))
        .collect();
        assert_eq!(server.subscribe("topic=a&topic=b&last_event_id=earliest").data(4), ["1", "2", "3", "4"]);
        // An id of another topic is a position like any other.
        let mut subscriber = server.subscribe_with("topic=b&topic=a", &[("Last-Event-ID", &ids[2])]);
        assert_eq!(subscriber.header("Fanfare-Gap"), None);
        assert_eq!(subscriber.data(2), ["3", "4"]);
    }

    fn subscribers_that_come_and_go_miss_nothing_and_see_nothing_twice(backend) {
        churn(backend, &["--shards", "1"]);
    }

    /// Here the server ends streams, and its send buffers are so small that subscribers fall behind and catch
    /// up all the time.
    fn subscribers_whose_streams_are_ended_miss_nothing_and_see_nothing_twice(backend) {
        churn(backend, &["--shards", "1", "--max-age", "300ms", "--heartbeat", "40ms", "--send-buffer", "4KiB"]);
    }

    /// The same with subscribers that come back to another shard than the one they left. A subscriber that
    /// had an event from one shard used to find another one that had not taken it in yet: that took the id
    /// for an unknown one, told of a gap that there was not, and sent everything retained again.
    fn subscribers_that_come_back_to_another_shard_miss_nothing_and_see_nothing_twice(backend) {
        churn(backend, &["--shards", "3"]);
    }

    /// Tens of thousands of events for some subscribers that come back, while others are live: neither may
    /// wait for the other.
    fn a_large_replay_is_whole_and_live_traffic_goes_on_beside_it(backend) {
        const RETAINED: usize = 30_000;
        const SUBSCRIBERS: usize = 8;
        const LIVE: usize = 200;
        let server = Server::start(backend);
        let past: Vec<Value> =
            (0..RETAINED).map(|number| json!({ "topic": "big", "data": number.to_string() })).collect();
        let mut publisher = server.publisher();
        for part in past.chunks(5000) {
            publisher.publish_all(part);
        }
        server.settle();
        let mut live = server.subscribe("topic=big");
        thread::scope(|scope| {
            for _ in 0..SUBSCRIBERS {
                let server = &server;
                scope.spawn(move || {
                    let mut subscriber = server.subscribe("topic=big&last_event_id=earliest");
                    assert_eq!(subscriber.header("Fanfare-Gap"), None);
                    for number in 0..RETAINED + LIVE {
                        let event = subscriber.event();
                        assert_eq!((event.kind.as_str(), event.data), ("message", number.to_string()));
                    }
                });
            }
            for number in RETAINED..RETAINED + LIVE {
                publisher.publish("big", &number.to_string());
                // It arrives, whatever else is under way.
                assert_eq!(live.event().data, number.to_string());
            }
        });
    }
}

/// Publishers publish, a subscriber that never leaves notes what the stream is, and subscribers that come and
/// go, most of them in the middle of a burst, have to see exactly the same.
fn churn(backend: Backend, options: &[&str]) {
    const PUBLISHERS: usize = 3;
    const EVENTS: usize = 1500;
    const SUBSCRIBERS: usize = 6;
    let seed = seed();
    println!("FANFARE_SEED={seed}");
    let server = Server::start_with(backend, options);
    let streams_age = options.contains(&"--max-age");
    let mut witness = server.subscribe("topic=seam");
    let reconnects = AtomicUsize::new(0);
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let server = &server;
            scope.spawn(move || publish_in_bursts(server, publisher, EVENTS, seed));
        }
        let subscribers: Vec<_> = (0..SUBSCRIBERS)
            .map(|subscriber| {
                let (server, reconnects) = (&server, &reconnects);
                let random = Random::new(seed + 100 + subscriber as u64);
                scope.spawn(move || come_and_go(server, PUBLISHERS * EVENTS, random, reconnects, streams_age))
            })
            .collect();
        // Where streams end by themselves no subscriber can stay, and the first subscriber is as good as any.
        let mut stream = if streams_age { Vec::new() } else { witness.data(PUBLISHERS * EVENTS) };
        for subscriber in subscribers {
            let seen = subscriber.join().expect("the subscriber's message is above");
            if stream.is_empty() {
                stream.clone_from(&seen);
            }
            if let Some(at) = (0..stream.len()).find(|&at| seen.get(at) != stream.get(at)) {
                let around = |all: &[String]| all[at.saturating_sub(3)..(at + 3).min(all.len())].to_vec();
                panic!("seed {seed}: event {at} differs: {:?} for {:?}", around(&seen), around(&stream));
            }
            assert_eq!(seen.len(), stream.len());
        }
        expect_each_publishers_order(&stream);
    });
    println!("{} reconnects", reconnects.into_inner());
}

fn publish_in_bursts(server: &Server, publisher: usize, count: usize, seed: u64) {
    let mut random = Random::new(seed + publisher as u64);
    let mut connection = server.publisher();
    let mut number = 0;
    while number < count {
        let burst = (1 + random.below(8)).min(count - number);
        let events: Vec<Value> = (number..number + burst)
            .map(|number| {
                let mut event = json!({ "topic": "seam", "data": format!("{publisher} {number}") });
                match random.below(10) {
                    0 => event["id"] = json!(format!("own-{publisher}-{number}")),
                    1 => event["topic"] = json!(["seam", "other", "third"]),
                    2 => {
                        event["data"] =
                            json!(format!("{publisher} {number} {}", "x".repeat(random.below(5000))))
                    }
                    _ => {}
                }
                event
            })
            .collect();
        connection.publish_all(&events);
        number += burst;
    }
}

/// Reads until it has seen `total` events, over many connections, and gives the data of all.
fn come_and_go(
    server: &Server,
    total: usize,
    mut random: Random,
    reconnects: &AtomicUsize,
    streams_age: bool,
) -> Vec<String> {
    let mut seen = Vec::with_capacity(total);
    let mut last_id = "earliest".to_owned();
    let mut last_event = support::now();
    while seen.len() < total {
        // Where streams end by themselves, no single stream is silent for long enough to fail.
        assert!(support::now() - last_event < PATIENCE, "no event came on many streams after {last_id}");
        let mut subscriber = match random.below(4) {
            0 => server.subscribe(&format!("topic=seam&lastEventId={last_id}")),
            1 => server.subscribe_with("topic=seam", &[("Last-Event-ID", &last_id), ("Connection", "close")]),
            2 => Subscriber::on(
                server.ask_with_small_buffer(&format!("topic=seam&last_event_id={last_id}"), 2048),
            ),
            _ => server.subscribe_with("topic=seam", &[("Last-Event-ID", &last_id)]),
        };
        reconnects.fetch_add(1, Ordering::Relaxed);
        assert_eq!(subscriber.header("Fanfare-Gap"), None, "all is retained, and {last_id} was sent");
        let most = if random.below(20) == 0 { 500 } else { random.below(25) };
        for _ in 0..most.min(total - seen.len()) {
            let Some(event) = subscriber.event_or_end() else {
                // Politely, or, where not even that fitted the send buffer, by closing the connection.
                assert!(streams_age, "the server has ended a stream");
                break;
            };
            assert_eq!(event.kind, "message");
            last_id = event.id;
            last_event = support::now();
            seen.push(event.data);
        }
        subscriber.leave(random.below(2) == 0);
    }
    seen
}

/// Each publisher's events are numbered; their order has to be the publisher's.
fn expect_each_publishers_order(stream: &[String]) {
    let mut next: HashMap<&str, usize> = HashMap::new();
    for data in stream {
        let mut parts = data.split(' ');
        let publisher = parts.next().expect("the publisher");
        let number: usize = parts.next().and_then(|number| number.parse().ok()).expect("the number");
        let expected = next.entry(publisher).or_default();
        assert_eq!(number, *expected, "of publisher {publisher}");
        *expected += 1;
    }
}
