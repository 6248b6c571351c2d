//! What the server says of its topics: pages, the whole truth or none, and bounds on what questions cost.

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Backend, Connection, Server, Subscriber, http, on_both_backends};

/// Publishes one event to each of these topics.
fn publish_to<'name>(server: &Server, topics: impl IntoIterator<Item = &'name String>) {
    let events: Vec<Value> = topics.into_iter().map(|topic| json!({ "topic": topic })).collect();
    server.publisher().publish_all(&events);
}

fn names(page: &Value) -> Vec<String> {
    let name = |topic: &Value| topic["topic"].as_str().expect("a name").to_owned();
    page["topics"].as_array().expect("a list").iter().map(name).collect()
}

on_both_backends! {
    fn every_topic_is_on_one_page(backend) {
        let server = Server::start(backend);
        let stays: BTreeSet<String> = (0..250).map(|number| format!("topic/{number}")).collect();
        publish_to(&server, &stays);
        // Also topics that only one of the shards knows, by a subscriber.
        let subscribers: Vec<Subscriber> =
            (0..20).map(|number| server.subscribe(&format!("topic=read/{number}"))).collect();
        let mut connection = server.connect();
        let mut seen = Vec::new();
        let mut target = "/topics?limit=7".to_owned();
        for page in 0.. {
            let response = connection.request("GET", &target, &[]);
            let answer = response.json();
            let names = names(&answer);
            assert!((1..=7).contains(&names.len()) && names.is_sorted(), "{answer}");
            seen.extend(names);
            let link = response.header("Link").map(str::to_owned);
            let Some(next) = answer["next"].as_str() else {
                assert_eq!(link, None);
                break;
            };
            assert_eq!(link, Some(format!("<{next}>; rel=\"next\"")));
            target = next.to_owned();
            // Topics that come meanwhile move nothing.
            publish_to(&server, &[format!("new/{page}")]);
        }
        seen.retain(|name| !name.starts_with("new/"));
        let read = (0..20).map(|number| format!("read/{number}"));
        let all: BTreeSet<String> = stays.into_iter().chain(read).collect();
        assert_eq!(seen.len(), all.len(), "some are there twice");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all);
        drop(subscribers);
    }

    fn a_page_that_cannot_be_is_refused(backend) {
        let server = Server::start(backend);
        for query in ["limit=0", "limit=1001", "limit=many", "after=x", "after=-1"] {
            server.get(&format!("/topics?{query}")).problem(400);
        }
        publish_to(&server, &(0..150).map(|number| format!("{number}")).collect::<Vec<_>>());
        assert_eq!(names(&server.get("/topics").json()).len(), 100, "without a limit");
        assert_eq!(names(&server.get("/topics?limit=1000&other=x").json()).len(), 150);
        let end = server.get("/topics?after=18446744073709551615").json();
        assert_eq!(end, json!({ "topics": [], "next": null }));
    }

    /// With 15,000 subscribers of 64 topics and 200 clients that asked, a shard went through all audiences
    /// for each question, and was too late for most of them: 1,595 of 1,682 answers said that a topic with
    /// subscribers did not exist, and lists left out three quarters of the subscribers.
    fn an_answer_is_the_whole_truth_or_none(backend) {
        const SUBSCRIBERS: usize = 100;
        let server = Server::start(backend);
        let subscribers: Vec<Subscriber> =
            (0..SUBSCRIBERS).map(|number| server.subscribe(&format!("topic=all&topic=user/{number}"))).collect();
        server.expect_subscribers("all", SUBSCRIBERS as u64);
        thread::scope(|scope| {
            for target in ["/topics/all", "/topics?limit=1000"].into_iter().cycle().take(16) {
                let server = &server;
                scope.spawn(move || {
                    let mut connections: Vec<Connection> = (0..25).map(|_| server.connect()).collect();
                    for connection in &mut connections {
                        connection.send(http::head("GET", target, &[]));
                    }
                    for connection in &mut connections {
                        let response = connection.read_response();
                        if response.status == 503 {
                            response.problem(503);
                            assert_eq!(response.header("Retry-After"), Some("1"));
                            continue;
                        }
                        assert_eq!(response.status, 200, "{}", response.text());
                        let answer = response.json();
                        let listed = answer["topics"].as_array().into_iter().flatten();
                        let counts = listed.chain([&answer]).find(|counts| counts["topic"] == "all");
                        assert_eq!(counts.expect("the topic is there")["subscribers"], SUBSCRIBERS, "{answer}");
                    }
                });
            }
        });
        drop(subscribers);
        server.expect_health();
    }

    /// A thousand clients that asked for all topics and did not read held a GiB for half a minute.
    fn answers_that_are_not_read_hold_little_memory(backend) {
        const CLIENTS: usize = 100;
        let server = Server::start(backend);
        let long: Vec<String> = (0..1000).map(|number| format!("{number}{}", "x".repeat(250))).collect();
        publish_to(&server, &long);
        let whole = server.get("/topics?limit=1000").body.len();
        assert!(whole > 300_000, "{whole} bytes");
        let before = server.memory();
        let mut clients: Vec<Connection> = (0..CLIENTS)
            .map(|_| {
                let mut connection = Connection::open_small(server.address, 32 << 10);
                connection.send(http::head("GET", "/topics?limit=1000", &[]));
                // It has been answered when the first bytes are there.
                connection.receive().expect("an answer begins");
                connection
            })
            .collect();
        let grown = server.memory().saturating_sub(before);
        assert!(grown < 28 << 20, "{CLIENTS} answers of {whole} bytes take {grown} bytes");
        // The last one to ask can still read its answer. The first one has made room for it.
        let mut last = clients.pop().expect("they are many");
        assert_eq!(names(&last.read_response().json()).len(), 1000);
        let mut first = clients.swap_remove(0);
        let rest = first.read_to_end();
        assert!(rest.len() < whole, "{} bytes", rest.len());
        // And one that has read its answer keeps its connection, however much others hold.
        let mut kept = server.connect();
        for _ in 0..2 {
            assert_eq!(kept.request("GET", "/topics?limit=1000", &[]).status, 200);
            assert!(kept.receive_within(Duration::from_millis(20)).expect("it stands").is_none());
        }
        drop(clients);
        server.expect_health();
    }
}
