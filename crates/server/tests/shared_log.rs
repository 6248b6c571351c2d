//! Servers that share a log on NATS (`--nats`): a real NATS server with JetStream, and several servers of
//! ours.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use fanfare_testkit::nats::{Cut, Link, NatsCredentials, NatsOptions};
use serde_json::{Value, json};
use support::file::ConfigFile;
use support::nats::{Nats, expect_ready, node_at, refusal_at};
use support::tokens::{PublisherKey, bearer, mint};
use support::{Backend, Response, Server, Subscriber, eventually, http, on_both_backends};

fn publish(server: &Server, topic: &str, data: &str, id: Option<&str>) -> Response {
    let mut event = json!({ "topic": topic, "data": data });
    if let Some(id) = id {
        event["id"] = json!(id);
    }
    server.connect().post("application/json", event.to_string())
}

fn resume(server: &Server, topic: &str, id: &str) -> Subscriber {
    server.subscribe_with(&format!("topic={topic}"), &[("Last-Event-ID", id)])
}

on_both_backends! {
    /// Every server has the events of all, in one order, with the same ids, and a subscriber goes on at any.
    fn servers_of_one_stream_are_one_hub(backend) {
        let nats = Nats::start();
        let servers = [nats.node(backend, &[]), nats.node(backend, &[]), nats.node(backend, &[])];
        let mut subscribers = servers.each_ref().map(|server| server.subscribe("topic=a/b&topic=c"));
        for number in 0..30 {
            servers[number % 3].publish(if number % 2 == 0 { "a/b" } else { "c" }, &number.to_string());
        }
        let seen = subscribers.each_mut().map(|subscriber| subscriber.events(30));
        let data: Vec<&str> = seen[0].iter().map(|event| event.data.as_str()).collect();
        let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        assert_eq!(data, expected);
        assert!(seen[1] == seen[0] && seen[2] == seen[0]);
        let mut resumed = servers[2].subscribe_with("topic=a/b&topic=c", &[("Last-Event-ID", &seen[0][9].id)]);
        assert_eq!(resumed.header("Fanfare-Gap"), None);
        assert_eq!(resumed.events(20), seen[0][10..]);
        // A server that starts later has what was there before.
        let late = nats.node(backend, &[]);
        let mut resumed = late.subscribe_with("topic=a/b&topic=c", &[("Last-Event-ID", &seen[0][0].id)]);
        assert_eq!(resumed.header("Fanfare-Gap"), None);
        assert_eq!(resumed.events(29), seen[0][1..]);
    }

    /// A publisher that has lost its answer asks another server.
    fn an_event_with_an_id_is_published_once_by_any_server(backend) {
        let nats = Nats::start();
        let servers = [nats.node(backend, &[]), nats.node(backend, &[])];
        let mut subscriber = servers[0].subscribe("topic=a");
        let first = publish(&servers[0], "a", "1", Some("x")).json();
        let again = publish(&servers[1], "a", "1", Some("x"));
        assert_eq!(again.status, 200, "{}", again.text());
        assert!(again.json().to_string().contains("duplicate"), "{first} {}", again.text());
        assert_eq!(publish(&servers[1], "a", "2", Some("x")).status, 409);
        assert_eq!(publish(&servers[0], "other", "1", Some("x")).status, 200, "ids belong to their topics");
        servers[1].publish("a", "last");
        assert_eq!(subscriber.data(2), ["1", "last"]);
    }

    /// An NDJSON body that has an id of another event was answered 200, where the stream alone knew the other
    /// one.
    fn a_conflict_that_the_stream_reports_is_told(backend) {
        let nats = Nats::start();
        let link = Link::start(nats.server.address()).expect("a link");
        let near = nats.node(backend, &[]);
        let far = node_at(&format!("nats://{}", link.address()), backend, &["--log-bytes", "1"]);
        assert_eq!(publish(&near, "a", "1", Some("x")).status, 200);
        // The far one has no longer the event in memory.
        near.publish("a", "2");
        near.publish("a", "3");
        let mut subscriber = resume(&far, "a", "earliest");
        assert_eq!(subscriber.data(3), ["1", "2", "3"]);
        let line = |data: &str, id: &str| json!({ "topic": "a", "data": data, "id": id }).to_string();
        let body = format!("{}\n{}\n", line("first", "y"), line("other", "x"));
        let answer = far.connect().post("application/x-ndjson", &body);
        assert!(matches!(answer.status, 409 | 503), "{}", answer.text());
        assert_eq!(answer.json()["line"], json!(2), "{}", answer.text());
        let again = far.connect().post("application/x-ndjson", format!("{}\n", line("1", "x")));
        assert!(again.text().contains("duplicate"), "{}", again.text());
    }

    /// A message whose headers the client library cannot represent made all servers deaf for ever.
    fn a_message_that_breaks_the_client_library_is_left_out(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &[]);
        let mut subscriber = server.subscribe("topic=a");
        server.publish("a", "before");
        let mut client = nats.server.client().expect("a connection");
        for _ in 0..2 {
            client.publish_raw("fanfare.a", b"NATS/1.0\r\nX: a\rb\r\n\r\n", b"poison").expect("it is sent");
        }
        client.publish_acked("fanfare.a", &[], b"behind").expect("it is stored");
        assert_eq!(subscriber.data(2), ["before", "behind"]);
        expect_ready(&server, 200);
        server.publish("a", "after");
        assert_eq!(subscriber.event().data, "after");
        // A server that starts with it in the stream.
        let late = nats.node(backend, &[]);
        assert_eq!(resume(&late, "a", "earliest").data(3), ["before", "behind", "after"]);
    }

    /// Somebody changes the stream so that it drops events in silence: the servers say so for as long as it
    /// lasts.
    fn a_server_is_not_ready_while_the_stream_cannot_be_used(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &[]);
        let mut client = nats.server.client().expect("a connection");
        client.update_stream("FANFARE", &json!({ "max_msgs_per_subject": 1 })).expect("it is changed");
        expect_ready(&server, 503);
        server.expect_log("max_msgs_per_subject");
        client.update_stream("FANFARE", &json!({ "max_msgs_per_subject": -1 })).expect("it is changed");
        expect_ready(&server, 200);
    }

    /// Each subscriber with an unknown id made consumers that stayed for ten seconds, and NATS has a bound
    /// for them: 64 such subscribers a second kept all servers from reading the stream anew.
    fn searches_for_ids_use_up_no_consumers(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &["--log-bytes", "1"]);
        (0..20).for_each(|number| drop(server.publish("a", &number.to_string())));
        for number in 0..60 {
            assert_eq!(resume(&server, "a", &format!("unknown-{number}")).header("Fanfare-Gap"), Some("true"));
        }
        let mut client = nats.server.client().expect("a connection");
        let mut count = 0;
        eventually("the consumers of searches are gone", || {
            let info = client.stream_info("FANFARE").expect("it is there");
            count = info["state"]["consumer_count"].as_u64().expect("a count");
            (count <= 3).then_some(())
        });
    }

    /// A program of NATS that answers what it reads is not the stream.
    fn an_answer_of_another_program_is_not_the_stream_s(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &[]);
        let mut echo = nats.server.client().expect("a connection");
        let reads = echo.subscribe("fanfare.>").expect("a subscription");
        echo.flush().expect("it is there");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let answers = thread::spawn({
            let stop = std::sync::Arc::clone(&stop);
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(Some(message)) = echo.next(reads, Duration::from_millis(50)) else { continue };
                    if let Some(reply) = &message.reply {
                        echo.publish(reply, &[], b"+OK").expect("it is sent");
                    }
                }
            }
        });
        for number in 0..20 {
            server.publish("a", &number.to_string());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        answers.join().expect("it ends");
    }

    /// The newest message is deleted, or all that a server has not read are gone, and nothing comes behind
    /// them.
    fn a_number_that_never_comes_holds_up_nobody(backend) {
        let nats = Nats::start();
        let link = Link::start(nats.server.address()).expect("a link");
        let url = format!("nats://{}", link.address());
        let near = nats.node(backend, &[]);
        let address = { Server::start_apart(backend, &[]).address.to_string() };
        let far = node_at(&url, backend, &["--listen", &address, "--drain", "1s"]);
        let mut client = nats.server.client().expect("a connection");
        link.cut(Cut::Reset);
        expect_ready(&far, 503);
        near.publish("a", "1");
        let request = json!({ "seq": 1, "no_erase": true });
        client.jetstream("STREAM.MSG.DELETE.FANFARE", &request).expect("it is deleted");
        link.heal();
        expect_ready(&far, 200);
        // What is purged before it was read is a loss, and told at once.
        let mut subscriber = far.subscribe("topic=a");
        let id = near.publish("a", "2");
        assert_eq!(subscriber.event().id, id);
        link.cut(Cut::Reset);
        expect_ready(&far, 503);
        near.publish("a", "3");
        client.purge_stream("FANFARE", 0).expect("it is purged");
        link.heal();
        far.expect_log("has dropped events up to");
        drop(subscriber.read_to_end());
        far.expect_log("starts again");
        eventually("the server has started again", || {
            (far.log().matches("the shared log is open").count() == 2).then_some(())
        });
        expect_ready(&far, 200);
        assert_eq!(resume(&far, "a", &id).header("Fanfare-Gap"), Some("true"));
    }

    /// Other programs of NATS publish and read on the subjects of topics.
    fn other_programs_of_nats_publish_and_read(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &["--subject-prefix", "app.events"]);
        let mut subscriber = server.subscribe("topic=orders/42");
        let mut client = nats.server.client().expect("a connection");
        let reads = client.subscribe("app.events.orders.>").expect("a subscription");
        client.publish_acked("app.events.orders.42", &[("Nats-Msg-Id", "n1")], b"from NATS").expect("it is stored");
        // What is no event is left out.
        client.publish_acked("app.events.orders.42", &[], b"\xff\xfe").expect("it is stored");
        client.publish_acked("app.events.bad%zz", &[], b"no topic").expect("it is stored");
        server.publish("orders/42", "from HTTP");
        let seen = subscriber.events(2);
        assert_eq!((seen[0].data.as_str(), seen[0].id.as_str()), ("from NATS", "n1"));
        assert_eq!(seen[1].data, "from HTTP");
        let patience = Duration::from_secs(10);
        let messages: Vec<_> =
            (0..3).map(|_| client.next(reads, patience).expect("a message").expect("a message")).collect();
        assert_eq!(messages[2].payload, b"from HTTP");
    }

    /// Subscribers stay, publishes are refused after a bounded wait, and nothing is lost.
    fn while_nats_is_away_subscribers_stay(backend) {
        let mut nats = Nats::start();
        let server = nats.node(backend, &["--nats-wait", "500ms", "--heartbeat", "200ms"]);
        let mut subscriber = server.subscribe("topic=a");
        let first = server.publish("a", "1");
        assert_eq!(subscriber.event().id, first);
        nats.server.kill();
        expect_ready(&server, 503);
        assert_eq!(server.get("/health/live").status, 200);
        let refused = publish(&server, "a", "2", None);
        assert_eq!(refused.problem(503)["type"].as_str().map(|kind| kind.contains("log-unreachable")), Some(true));
        assert!(refused.header("Retry-After").is_some());
        // The stream goes on with heartbeats.
        subscriber.item();
        server.expect_log("the shared log cannot be reached");
        nats.server.restart().expect("NATS starts again");
        expect_ready(&server, 200);
        server.publish("a", "3");
        assert_eq!(subscriber.event().data, "3");
        let mut resumed = resume(&server, "a", &first);
        assert_eq!(resumed.header("Fanfare-Gap"), None);
        assert_eq!(resumed.event().data, "3");
    }

    /// A server that was cut off catches up before it is ready, and its subscribers miss nothing.
    fn a_server_that_was_cut_off_catches_up(backend) {
        let nats = Nats::start();
        let link = Link::start(nats.server.address()).expect("a link");
        let (near, far) = (nats.node(backend, &[]), node_at(&format!("nats://{}", link.address()), backend, &[]));
        let mut subscriber = far.subscribe("topic=a");
        near.publish("a", "0");
        assert_eq!(subscriber.event().data, "0");
        for cut in [Cut::Reset, Cut::BlackHole] {
            link.cut(cut);
            expect_ready(&far, 503);
            let ids: Vec<String> = (1..=20).map(|number| near.publish("a", &number.to_string())).collect();
            // It comes from a server that was ahead, and is told of no gap.
            let mut ahead = far.ask_to_subscribe("topic=a", &[("Last-Event-ID", &ids[9])]);
            ahead.expect_end();
            link.heal();
            expect_ready(&far, 200);
            let expected: Vec<String> = (1..=20).map(|number| number.to_string()).collect();
            assert_eq!(subscriber.data(20), expected);
            let mut resumed = resume(&far, "a", &ids[9]);
            assert_eq!(resumed.header("Fanfare-Gap"), None);
            assert_eq!(resumed.data(10), expected[10..]);
        }
    }

    /// While a server drains, its streams get the events of others for as long as they last.
    fn a_server_that_drains_goes_on_to_deliver(backend) {
        let nats = Nats::start();
        let mut ends = nats.node(backend, &["--drain", "3s"]);
        let stays = nats.node(backend, &[]);
        let mut subscribers: Vec<Subscriber> = (0..20).map(|_| ends.subscribe("topic=a")).collect();
        let first = stays.publish("a", "1");
        subscribers.iter_mut().for_each(|subscriber| assert_eq!(subscriber.event().id, first));
        ends.signal("TERM");
        ends.expect_log("draining");
        let second = stays.publish("a", "2");
        let seen: Vec<bool> = subscribers
            .iter_mut()
            .map(|subscriber| match subscriber.event_or_end() {
                Some(event) => event.id == second,
                // It goes on elsewhere.
                None => {
                    assert_eq!(resume(&stays, "a", &first).event().id, second);
                    false
                }
            })
            .collect();
        assert!(seen.contains(&true), "nobody has got the event of another server");
        let ended = ends.wait();
        assert!(ended.success(), "{ended}");
    }

    /// Resume reaches back into the stream, behind what a server has in memory.
    fn resume_reaches_back_into_the_stream(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &["--log-bytes", "1"]);
        let ids: Vec<String> = (0..200).map(|number| server.publish("a", &number.to_string())).collect();
        (0..20).for_each(|number| drop(server.publish("b", &number.to_string())));
        let mut resumed = resume(&server, "a", &ids[4]);
        assert_eq!(resumed.header("Fanfare-Gap"), None);
        let expected: Vec<String> = (5..200).map(|number| number.to_string()).collect();
        assert_eq!(resumed.data(195), expected);
    }

    /// What the stream has dropped is a gap.
    fn what_the_stream_has_trimmed_is_a_gap(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &["--log-bytes", "1"]);
        let ids: Vec<String> = (0..50).map(|number| server.publish("a", &number.to_string())).collect();
        nats.server.client().expect("a connection").purge_stream("FANFARE", 20).expect("it is purged");
        // The server looks at the stream once a second or so.
        let mut resumed = eventually("the gap is known", || {
            let resumed = resume(&server, "a", &ids[4]);
            resumed.header("Fanfare-Gap").is_some().then_some(resumed)
        });
        assert_eq!(resumed.event().kind, "fanfare.gap");
        assert_eq!(resumed.event().data, "30");
        assert_eq!(resume(&server, "a", &ids[40]).header("Fanfare-Gap"), None);
    }

    /// A stream that is deleted, and perhaps created again, is another log: subscribers are told of a gap.
    fn a_stream_that_is_recreated_is_a_new_epoch(backend) {
        let nats = Nats::start();
        let server = nats.node(backend, &["--drain", "1s"]);
        // With a port that it takes again when it starts again.
        let address = server.address.to_string();
        drop(server);
        let server = nats.node(backend, &["--drain", "1s", "--listen", &address]);
        let mut subscriber = server.subscribe("topic=a");
        let id = server.publish("a", "1");
        assert_eq!(subscriber.event().id, id);
        nats.server.client().expect("a connection").delete_stream("FANFARE").expect("it is deleted");
        server.expect_log("begins a new epoch");
        drop(subscriber.read_to_end());
        server.expect_log("the server ends its streams and starts again");
        eventually("the server has started again", || {
            let begun = server.log().matches("the shared log is open").count();
            (begun == 2).then_some(())
        });
        expect_ready(&server, 200);
        let mut resumed = resume(&server, "a", &id);
        assert_eq!(resumed.header("Fanfare-Gap"), Some("true"));
        assert_eq!(resumed.event().kind, "fanfare.gap");
        let next = server.publish("a", "2");
        assert_ne!(next.split('-').next(), id.split('-').next(), "another epoch");
        assert_eq!(resumed.event().data, "2");
    }

    /// The operator stops the server while it drains to start again: it started again nevertheless.
    fn a_server_that_is_stopped_does_not_start_again(backend) {
        let nats = Nats::start();
        let mut server = nats.node(backend, &["--drain", "3s"]);
        let subscribers: Vec<Subscriber> = (0..20).map(|_| server.subscribe("topic=a")).collect();
        server.expect_subscribers("a", 20);
        nats.server.client().expect("a connection").delete_stream("FANFARE").expect("it is deleted");
        server.expect_log("the server ends its streams and starts again");
        server.signal("TERM");
        let ended = server.wait();
        assert!(ended.success(), "{ended}");
        server.expect_log("the server does not start again");
        drop(subscribers);
    }

    /// The numbers have gone back, and the server cannot write a new epoch: its next start does it. It took
    /// the old epoch, and gave ids a second time.
    fn an_epoch_that_could_not_be_renewed_is_renewed_by_the_next_start(backend) {
        let mut nats = Nats::start();
        let address = Server::start_apart(backend, &[]).address.to_string();
        let server = nats.node(backend, &["--drain", "1s", "--listen", &address]);
        server.publish("a", "kept");
        let limit = |nats: &Nats, bytes: i64| {
            let mut client = nats.server.client().expect("a connection");
            client.update_stream("KV_FANFARE_state", &json!({ "max_msg_size": bytes })).expect("it is changed");
        };
        // Nothing can be written into the bucket.
        limit(&nats, 1);
        nats.server.stop().expect("it ends");
        let (stored, copy) = (nats.server.directory().to_owned(), nats.server.directory().with_extension("copy"));
        copy_directory(&stored, &copy);
        nats.server.restart().expect("NATS starts again");
        expect_ready(&server, 200);
        let lost = server.publish("a", "lost");
        nats.server.kill();
        fs::remove_dir_all(&stored).expect("it is removed");
        fs::rename(&copy, &stored).expect("it is moved");
        nats.server.restart().expect("NATS starts again");
        server.expect_log("the server ends its streams and starts again");
        server.expect_log("the shared log cannot be used, and is tried again");
        limit(&nats, -1);
        expect_ready(&server, 200);
        let anew = server.publish("a", "anew");
        let (epoch, number) = lost.split_once('-').expect("an id");
        assert!(anew.ends_with(&format!("-{number}")) && !anew.starts_with(epoch), "{lost} {anew}");
        assert_eq!(resume(&server, "a", &lost).header("Fanfare-Gap"), Some("true"));
    }

    /// The counts of all servers are one count.
    fn presence_counts_over_all_servers(backend) {
        let nats = Nats::start();
        let options = ["--presence", "room/*", "--presence-interval", "100ms"];
        let servers = [nats.node(backend, &options), nats.node(backend, &options)];
        let mut watcher = servers[0].subscribe("topic=presence/room/1");
        let mut expect_count = |count: u64| loop {
            let event = watcher.event();
            let data: Value = serde_json::from_str(&event.data).expect("JSON");
            if data["subscribers"] == count {
                return;
            }
        };
        let here = servers[0].subscribe("topic=room/1");
        let elsewhere = [servers[1].subscribe("topic=room/1"), servers[1].subscribe("topic=room/1")];
        expect_count(3);
        drop(here);
        expect_count(2);
        // A server that comes later is told of all.
        let late = nats.node(backend, &options);
        let other = late.subscribe("topic=room/1");
        expect_count(3);
        // One that is gone takes its subscribers with it.
        let [_, second] = servers;
        drop(second);
        drop(elsewhere);
        expect_count(1);
        drop(other);
        expect_count(0);
    }

    /// One server publishes the events of presence for all. Where it ends, the next one tells also what has
    /// changed before its end was noticed.
    fn presence_goes_on_without_the_server_that_told_it(backend) {
        let nats = Nats::start();
        let options = ["--presence", "room/*", "--presence-interval", "100ms"];
        let first = nats.node(backend, &options);
        let second = nats.node(backend, &options);
        let mut watchers = [1, 2].map(|room| second.subscribe(&format!("topic=presence/room/{room}")));
        let mut expect_count = |room: usize, count: u64| loop {
            let event = watchers[room - 1].event();
            let data: Value = serde_json::from_str(&event.data).expect("JSON");
            if data["subscribers"] == count {
                return;
            }
        };
        let _there = first.subscribe("topic=room/1");
        let _here = second.subscribe("topic=room/1");
        expect_count(1, 2);
        drop(first);
        let _more = [second.subscribe("topic=room/1"), second.subscribe("topic=room/2")];
        expect_count(1, 2);
        expect_count(2, 1);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is created");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is there");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it has one").is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it is copied")),
        }
    }
}

fn start_with_keys(nats: &Nats, backend: Backend, key: &PublisherKey) -> Server {
    let key = key.option();
    nats.node(backend, &["--publisher-keys", &key, "--subscriber-keys", &key])
}

fn status(server: &Server, token: &str) -> u16 {
    let authorization = bearer(token);
    http::status_of(&server.ask_to_subscribe("topic=a", &[("Authorization", &authorization)]).read_head())
}

on_both_backends! {
    /// A revocation holds on all servers, and on one that starts later, and ends the streams of all.
    fn an_order_to_end_and_bar_holds_on_all_servers(backend) {
        let (nats, key) = (Nats::start(), PublisherKey::new());
        let servers = [start_with_keys(&nats, backend, &key), start_with_keys(&nats, backend, &key)];
        let token = |subject: &str| {
            mint(&key.signer, json!({ "sub": subject, "jti": subject, "fanfare": { "subscribe": ["a"] } }))
        };
        let (ada, bob, carol) = (token("ada"), token("bob"), token("carol"));
        let subscribe = |server: &Server, token: &str| {
            server.subscribe_with("topic=a", &[("Authorization", bearer(token).as_str())])
        };
        let mut streams = [subscribe(&servers[1], &ada), subscribe(&servers[1], &bob), subscribe(&servers[1], &carol)];
        let end = |server: &Server, query: &str| {
            let authorization = key.authorization();
            let headers = [("Authorization", authorization.as_str())];
            server.connect().request("DELETE", &format!("/connections?{query}"), &headers).status
        };
        assert_eq!(end(&servers[0], "subject=ada"), 204);
        assert_eq!(end(&servers[0], "token=bob"), 204);
        drop(streams[0].read_to_end());
        drop(streams[1].read_to_end());
        for server in &servers {
            assert_eq!([&ada, &bob, &carol].map(|token| status(server, token)), [401, 401, 200]);
        }
        // One that starts later knows it from the first moment.
        let key_file = key.option();
        let options = ["--nats", &nats.server.url(), "--publisher-keys", &key_file, "--subscriber-keys", &key_file];
        let late = Server::start_apart(backend, &options);
        assert_eq!([&ada, &bob, &carol].map(|token| status(&late, token)), [401, 401, 200]);
        expect_ready(&late, 200);
        assert_eq!(end(&late, "topic=a"), 204);
        drop(streams[2].read_to_end());
        assert_eq!(status(&servers[1], &carol), 200, "an order about a topic bars nobody");
    }
}

/// What the operator has done wrong is said, and what to do.
#[test]
fn a_stream_that_cannot_be_used_is_named() {
    let nats = Nats::start();
    let text = nats.refusal(&["--data", "somewhere"]);
    assert!(text.contains("--data cannot be set with --nats"), "{text}");
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it has one");
    let text = refusal_at(&format!("nats://{closed}"), &[]);
    assert!(text.contains("--nats") && text.contains(&closed.to_string()), "{text}");
    // A web server.
    let web = Server::start(Backend::Epoll);
    let text = refusal_at(&format!("nats://{}", web.address), &[]);
    assert!(text.contains("no NATS server"), "{text}");
    let without = Nats::start_with(&NatsOptions { jetstream: false, ..NatsOptions::default() });
    let text = without.refusal(&[]);
    assert!(text.contains("JetStream"), "{text}");
    let mut client = nats.server.client().expect("a connection");
    client
        .create_stream(&json!({ "name": "FANFARE", "subjects": ["others.>"], "storage": "file" }))
        .expect("it is created");
    let text = nats.refusal(&[]);
    assert!(text.contains("subjects") && text.contains("others.>"), "{text}");
}

#[test]
fn a_login_is_read_from_a_file() {
    let nats = Nats::start_with(&NatsOptions {
        credentials: Some(NatsCredentials::User { name: "me".to_owned(), password: "p@ss/w:rd".to_owned() }),
        ..NatsOptions::default()
    });
    let text = nats.refusal(&[]);
    assert!(text.to_lowercase().contains("auth") || text.contains("credentials"), "{text}");
    let wrong = ConfigFile::new("me:wrong\n");
    let text = nats.refusal(&["--nats-login", &wrong.name()]);
    assert!(!text.contains("wrong\""), "the password is not printed: {text}");
    let login = ConfigFile::new("me:p@ss/w:rd\n");
    let server = nats.node(Backend::Epoll, &["--nats-login", &login.name()]);
    server.publish("a", "1");
    thread::sleep(Duration::from_millis(10));
    assert!(!server.log().contains("p@ss") && !server.log().contains("p%40ss"), "{}", server.log());
}
