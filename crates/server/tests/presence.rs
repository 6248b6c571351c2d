//! Presence: counts of topics with a history, and events about them.

mod support;

use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};
use support::tokens::{Keys, bearer, mint};
use support::{Backend, Connection, Server, Subscriber, eventually, http, on_both_backends};

const PRESENCE: [&str; 6] = ["--presence", "room/*", "--presence-interval", "100ms", "--shards", "3"];

/// The next presence event.
fn next(watcher: &mut Subscriber) -> Value {
    let event = watcher.event();
    assert_eq!(event.kind, "presence");
    serde_json::from_str(&event.data).expect("JSON")
}

/// Reads presence events until so many have joined and left, and so many are there. The count in an event may
/// be newer than its joins.
fn read_until(watcher: &mut Subscriber, subscribers: u64, expected: (u64, u64)) {
    let (mut joined, mut left) = (0, 0);
    loop {
        let event = next(watcher);
        joined += event["joined"].as_u64().expect("a count");
        left += event["left"].as_u64().expect("a count");
        assert!(joined <= expected.0 && left <= expected.1, "{event}");
        if event["subscribers"] == subscribers && (joined, left) == expected {
            return;
        }
    }
}

/// The sums of the history of a topic: how many have joined and left, and how many are there at its end.
fn history(server: &Server, topic: &str) -> Option<(u64, u64, u64)> {
    let topic = server.topic(topic)?;
    let history = topic.get("history")?;
    assert_eq!(history["bucket_s"], 10);
    let buckets = history["buckets"].as_array().expect("a list");
    let sum = |name: &str| buckets.iter().map(|bucket| bucket[name].as_u64().expect("a count")).sum();
    assert!(
        buckets
            .iter()
            .all(|bucket| bucket["at"].as_u64() >= Some(history["since"].as_u64().unwrap_or(0) / 10 * 10))
    );
    Some((sum("joined"), sum("left"), buckets.last()?["subscribers"].as_u64()?))
}

fn expect_history(server: &Server, topic: &str, expected: (u64, u64, u64)) {
    let mut seen = None;
    eventually(&format!("{topic} has the history {expected:?}"), || {
        seen = history(server, topic);
        (seen == Some(expected)).then_some(())
    });
}

on_both_backends! {
    fn a_topic_has_counts_a_history_and_events(backend) {
        let server = Server::start_with(backend, &PRESENCE);
        let mut watcher = server.subscribe("topic=presence/room/a");
        // One that begins to read them is told of the count.
        let first = next(&mut watcher);
        assert_eq!(first, json!({ "topic": "room/a", "subscribers": 0, "joined": 0, "left": 0 }));
        let mut subscribers: Vec<Subscriber> = (0..5).map(|_| server.subscribe("topic=room/a&topic=other")).collect();
        read_until(&mut watcher, 5, (5, 0));
        subscribers.truncate(2);
        read_until(&mut watcher, 2, (0, 3));
        expect_history(&server, "room/a", (5, 3, 2));
        // A topic that the pattern does not match has none, and the list of topics has none.
        assert_eq!((history(&server, "other"), server.topic("other").expect("it is read")["subscribers"].as_u64()), (None, Some(2)));
        assert!(server.topics().iter().all(|topic| topic.get("history").is_none()));
        // Presence events have no presence.
        assert_eq!(history(&server, "presence/room/a"), None);
        // A second one is told of the count, too, and the first one again.
        let mut second = server.subscribe("topic=presence/room/a&checkpoint=off");
        for watcher in [&mut second, &mut watcher] {
            assert_eq!(next(watcher), json!({ "topic": "room/a", "subscribers": 2, "joined": 0, "left": 0 }));
        }
        // By a pattern, all of them.
        let mut all = server.subscribe("match=presence/*");
        let _other = server.subscribe("topic=room/b");
        assert_eq!(next(&mut all), json!({ "topic": "room/b", "subscribers": 1, "joined": 1, "left": 0 }));
    }

    /// A topic that all have left still says so, and begins anew.
    fn a_topic_is_forgotten_and_comes_again(backend) {
        let server = Server::start_with(backend, &PRESENCE);
        drop(server.subscribe("topic=room/a"));
        expect_history(&server, "room/a", (1, 1, 0));
        let topic = server.topic("room/a").expect("its history is kept");
        assert_eq!((&topic["subscribers"], &topic["retained"], &topic["newest"]), (&json!(0), &json!(0), &Value::Null));
        server.get("/topics/room/b").problem(404);
        let _again = [server.subscribe("topic=room/a"), server.subscribe("topic=room/a")];
        expect_history(&server, "room/a", (3, 1, 2));
    }

    /// Every one that joins and leaves is counted once, on all shards together.
    fn a_storm_of_reconnects_is_counted_and_told_whole(backend) {
        const CLIENTS: usize = 8;
        const TIMES: usize = 30;
        let server = Server::start_with(backend, &PRESENCE);
        let mut watcher = server.subscribe("topic=presence/room/0");
        next(&mut watcher);
        let stayed: Vec<Subscriber> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let server = &server;
                    scope.spawn(move || {
                        for time in 0..TIMES {
                            let subscriber = server.subscribe("topic=room/0&topic=room/1");
                            subscriber.leave(time % 2 == 0);
                        }
                        server.subscribe("topic=room/0")
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("it connects")).collect()
        });
        let storm = (CLIENTS * TIMES) as u64;
        let stay = CLIENTS as u64;
        expect_history(&server, "room/0", (storm + stay, storm, stay));
        expect_history(&server, "room/1", (storm, storm, 0));
        read_until(&mut watcher, stay, (storm + stay, storm));
        drop(stayed);
        read_until(&mut watcher, 0, (0, stay));
    }

    /// Beyond the bound nothing grows, and what is not noted is counted.
    fn topics_with_history_are_bounded(backend) {
        let options = ["--presence", "*", "--presence-topics", "3", "--presence-interval", "1h", "--shards", "1",
                       "--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let mut server = Server::start_with(backend, &options);
        let admin: SocketAddr = server.admin_address();
        let _subscribers: Vec<Subscriber> =
            (0..10).map(|number| server.subscribe(&format!("topic={number}"))).collect();
        eventually("what finds no room is counted", || {
            let metrics = Connection::open(admin).request("GET", "/metrics", &[]).text();
            let missed = metrics.lines().find_map(|line| line.strip_prefix("fanfare_joins_missed_total "));
            // Where the first three were taken at the start already, there was room for three more.
            matches!(missed, Some("4" | "5" | "6" | "7")).then_some(())
        });
    }

    /// A quiet topic has no further change that would tell what was missed.
    fn topics_whose_joins_were_missed_are_told(backend) {
        let options = ["--presence", "*", "--presence-topics", "2", "--presence-interval", "500ms", "--shards", "1"];
        let server = Server::start_with(backend, &options);
        let mut watchers: Vec<Subscriber> = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let mut watcher = server.subscribe(&format!("topic=presence/{name}"));
            next(&mut watcher);
            watchers.push(watcher);
        }
        // Far more at once than are noted.
        let names: String = (0..60).map(|number| format!("topic=0{number}&")).collect();
        let _crowd = server.subscribe(&format!("{names}topic=a&topic=b&topic=c&topic=d"));
        for watcher in &mut watchers {
            while next(watcher)["subscribers"] != 1 {}
        }
    }

    /// Clients that joined and left pushed all events of others out of the log.
    fn presence_events_do_not_push_others_out_of_the_log(backend) {
        let options = ["--presence", "*", "--presence-interval", "100ms", "--log-bytes", "1MiB"];
        let server = Server::start_with(backend, &options);
        for _ in 0..100 {
            server.publish("real", &"x".repeat(500));
        }
        let mut subscribers = Vec::new();
        for round in 0..60 {
            let topics: Vec<String> =
                (0..32).map(|number| format!("topic={round}-{number}&topic=presence/{round}-{number}")).collect();
            subscribers.push(server.subscribe(&topics.join("&")));
        }
        // The events of the last ones wait for room in their share. The history does not.
        for number in 0..32 {
            expect_history(&server, &format!("59-{number}"), (1, 0, 1));
        }
        let told = (0..60).flat_map(|round| (0..32).map(move |number| format!("presence/{round}-{number}")));
        let told = told.filter(|topic| server.topic(topic).is_some_and(|topic| topic["retained"] != 0)).count();
        assert!((50..=300).contains(&told), "an eighth of the log has {told} events");
        assert_eq!(server.topic("real").expect("it has events")["retained"], 100);
    }

    /// Others could make believe that a topic has subscribers.
    fn only_the_server_publishes_presence(backend) {
        let server = Server::start_with(backend, &PRESENCE);
        let post = |kind: &str, body: &str| server.connect().post(kind, body);
        let event = r#"{"topic":"presence/room/a","data":"x"}"#;
        for (kind, body) in [
            ("application/json", event.to_owned()),
            ("application/json", format!("[{{\"topic\":\"a\"}},{event}]")),
            ("application/x-ndjson", format!("{event}\n")),
            ("application/x-www-form-urlencoded", "topic=a&topic=presence/x&data=y".to_owned()),
        ] {
            let problem = post(kind, &body).problem(403);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("--presence")), "{problem}");
        }
        assert_eq!(server.topic("a"), None, "nothing was published");
        let without = Server::start(backend);
        without.publish("presence/room/a", "x");
        assert_eq!(without.topic("presence/room/a").map(|topic| topic["retained"].clone()), Some(json!(1)));
    }

    /// Grants decide who sees presence. The names of topics may be secrets, and the events name them.
    fn grants_decide_who_sees_presence(backend) {
        let keys = Keys::new();
        let with = |grants: &[&str]| {
            bearer(&mint(&keys.subscribers, json!({ "fanfare": { "subscribe": grants } })))
        };
        let (room, granted) = (with(&["room/a"]), with(&["presence/*"]));
        let status = |server: &Server, query: &str| {
            http::status_of(&server.ask_to_subscribe(query, &[("Authorization", &room)]).read_head())
        };
        let strict = keys.start(backend, &PRESENCE);
        assert_eq!(status(&strict, "topic=room/a"), 200);
        assert_eq!(status(&strict, "topic=presence/room/a"), 403);
        // Where everyone may subscribe, what is private still needs a grant.
        let server = keys.start(backend, &[&PRESENCE[..], &["--anonymous-subscribe"]].concat());
        let mut watcher = server.subscribe_with("match=presence/*", &[("Authorization", &granted)]);
        // One that does not see the events does not read them either, or it would cause them.
        let anonymous = server.ask_to_subscribe("topic=presence/room/a&topic=b", &[]).read_head();
        assert_eq!(http::status_of(&anonymous), 403);
        assert_eq!(status(&server, "topic=presence/room/a&topic=room/a"), 403);
        let mut others =
            [server.subscribe("topic=b"), server.subscribe_with("topic=room/a&topic=b", &[("Authorization", &room)])];
        read_until(&mut watcher, 1, (1, 0));
        // What comes next is the first thing that these get.
        let all = keys.publishers.authorization();
        let body = json!({ "topic": "b", "data": "public" }).to_string();
        let published = server.connect().post_with("application/json", body, &[("Authorization", &all)]);
        assert_eq!(published.status, 200, "{}", published.text());
        others.iter_mut().for_each(|other| assert_eq!(other.event().data, "public"));
    }
}
