//! Topic settings that hold on all servers that share a log on NATS (`--nats`).

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanfare_testkit::nats::{Cut, Link};
use serde_json::{Value, json};
use support::file::ConfigFile;
use support::nats::{Nats, expect_ready, node_at};
use support::{Backend, Connection, Server, eventually, on_both_backends};

/// The key of the topic settings in the bucket.
const TOPIC_SETTINGS: &str = "$KV.FANFARE_state.shared.topic-settings";

/// How many events of the topic the server keeps.
fn retained(server: &Server, topic: &str) -> u64 {
    server.topic(topic).map_or(0, |topic| topic["retained"].as_u64().expect("a count"))
}

fn expect_retained(server: &Server, topic: &str, count: u64) {
    let mut seen = 0;
    eventually(&format!("{count} events of {topic} are kept"), || {
        seen = retained(server, topic);
        (seen == count).then_some(())
    });
}

fn publish_many(server: &Server, topic: &str, count: usize) {
    let mut publisher = server.publisher();
    (0..count).for_each(|number| drop(publisher.publish(topic, &number.to_string())));
}

/// An address that stays free for a server that starts again.
fn address_apart(backend: Backend) -> String {
    Server::start_apart(backend, &[]).address.to_string()
}

on_both_backends! {
    /// The settings of the server that its operator has started last hold for all.
    fn topic_settings_of_the_last_start_hold_for_all(backend) {
        let nats = Nats::start();
        let admin = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let mut first = nats.node(backend, &[&["--retain-events", "50"][..], &admin].concat());
        let admin = first.admin_address();
        let has_settings_of_others = || {
            let metrics = Connection::open(admin).request("GET", "/metrics", &[]).text();
            let line = metrics.lines().find_map(|line| line.strip_prefix("fanfare_shared_log_settings_of_others "));
            line.expect("the metric").to_owned()
        };
        publish_many(&first, "a", 20);
        publish_many(&first, "user/1", 20);
        expect_retained(&first, "a", 20);
        assert_eq!(has_settings_of_others(), "0");
        let second = nats.node(backend, &["--retain-events", "5", "--retain", "user/*=2,,"]);
        second.expect_log("held before: --retain-events 50 ");
        for server in [&first, &second] {
            expect_retained(server, "a", 5);
            expect_retained(server, "user/1", 2);
        }
        let log = first.expect_log("this one has other options: --retain-events 5 ");
        assert!(log.contains("its own options say: --retain-events 50 "), "{log}");
        assert_eq!(has_settings_of_others(), "1");
        // One with the same settings changes nothing, whoever has set them.
        let third = nats.node(backend, &["--retain-events", "5", "--retain", "user/*=2,,"]);
        assert!(!third.log().contains("topic settings"), "{}", third.log());
        publish_many(&third, "user/2", 9);
        for server in [&first, &second, &third] {
            expect_retained(server, "user/2", 2);
        }
        // The first one is started again with its options: they hold for all again.
        drop(first);
        let first = nats.node(backend, &["--retain-events", "50"]);
        publish_many(&first, "b", 60);
        for server in [&first, &second, &third] {
            expect_retained(server, "b", 50);
        }
    }

    /// Servers that start at once with different settings end with the same.
    fn servers_that_start_at_once_end_with_the_same_topic_settings(backend) {
        let nats = Nats::start();
        let url = nats.server.url();
        let servers: Vec<Server> = thread::scope(|scope| {
            let starts = (1..=4).map(|number| {
                let (url, events) = (&url, (10 * number).to_string());
                scope.spawn(move || node_at(url, backend, &["--retain-events", &events]))
            });
            let starts: Vec<_> = starts.collect();
            starts.into_iter().map(|start| start.join().expect("it starts")).collect()
        });
        publish_many(&servers[0], "a", 50);
        eventually("all keep the same", || {
            let counts: Vec<u64> = servers.iter().map(|server| retained(server, "a")).collect();
            (counts.iter().all(|count| *count == counts[0]) && counts[0] < 50).then_some(())
        });
    }

    /// SIGHUP with other topic settings sets them for all; one with the same changes nothing.
    fn topic_settings_of_a_reload_hold_for_all(backend) {
        let nats = Nats::start();
        let file = ConfigFile::new("[retention]\nretain-events = 30\n");
        let reloaded = nats.node(backend, &["--config", &file.name()]);
        let other = nats.node(backend, &["--retain-events", "30"]);
        publish_many(&other, "a", 20);
        file.write("[retention]\nretain-events = 4\nretain = ['b=3,,']\n");
        reloaded.signal("HUP");
        for server in [&reloaded, &other] {
            expect_retained(server, "a", 4);
        }
        publish_many(&other, "b", 9);
        for server in [&reloaded, &other] {
            expect_retained(server, "b", 3);
        }
        // A later start takes them over, and a reload without a change of them leaves that as it is.
        let last = nats.node(backend, &["--retain-events", "7"]);
        reloaded.expect_log("this one has other options: --retain-events 7 ");
        file.write("[retention]\nretain-events = 4\nretain = ['b=3,,']\n[limits]\nmax-topics = 9\n");
        reloaded.signal("HUP");
        reloaded.expect_log("changed=\"max-topics\"");
        publish_many(&last, "c", 20);
        for server in [&reloaded, &other, &last] {
            expect_retained(server, "c", 7);
        }
        // A change of them is one again.
        file.write("[retention]\nretain-events = 5\n");
        reloaded.signal("HUP");
        for server in [&reloaded, &other, &last] {
            expect_retained(server, "c", 5);
        }
    }

    /// A server that was cut off takes over what holds when it is back, unless its operator has reloaded it.
    fn a_server_that_was_cut_off_takes_topic_settings_over(backend) {
        let nats = Nats::start();
        let link = Link::start(nats.server.address()).expect("a link");
        let file = ConfigFile::new("[retention]\nretain-events = 30\n");
        let far = node_at(&format!("nats://{}", link.address()), backend, &["--config", &file.name()]);
        let near = nats.node(backend, &["--retain-events", "30"]);
        publish_many(&near, "a", 40);
        link.cut(Cut::Reset);
        expect_ready(&far, 503);
        let last = nats.node(backend, &["--retain-events", "6"]);
        expect_retained(&near, "a", 6);
        link.heal();
        expect_ready(&far, 200);
        expect_retained(&far, "a", 6);
        link.cut(Cut::Reset);
        expect_ready(&far, 503);
        file.write("[retention]\nretain-events = 3\n");
        far.signal("HUP");
        expect_retained(&far, "a", 3);
        assert_eq!([retained(&near, "a"), retained(&last, "a")], [6, 6]);
        link.heal();
        for server in [&near, &last] {
            expect_retained(server, "a", 3);
        }
    }

    /// A server that starts again by itself has no new options: it takes what holds.
    fn a_server_that_starts_again_takes_topic_settings_over(backend) {
        let nats = Nats::start();
        let node = |events: &str| {
            let address = address_apart(backend);
            nats.node(backend, &["--retain-events", events, "--listen", &address, "--drain", "1s"])
        };
        let servers = [node("50"), node("5")];
        servers[0].expect_log("this one has other options: --retain-events 5 ");
        nats.server.client().expect("a connection").delete_stream("FANFARE").expect("it is deleted");
        for server in &servers {
            eventually("the server has started again", || {
                (server.log().matches("the shared log is open").count() == 2).then_some(())
            });
            expect_ready(server, 200);
        }
        publish_many(&servers[1], "a", 20);
        for server in &servers {
            expect_retained(server, "a", 5);
        }
        // Also where there is nothing that it can read: not what its own options say.
        let mut client = nats.server.client().expect("a connection");
        client.publish_acked(TOPIC_SETTINGS, &[], b"garbage").expect("it is stored");
        client.delete_stream("FANFARE").expect("it is deleted");
        for server in &servers {
            eventually("the server has started again", || {
                (server.log().matches("the shared log is open").count() == 3).then_some(())
            });
            expect_ready(server, 200);
        }
        publish_many(&servers[1], "b", 20);
        for server in &servers {
            expect_retained(server, "b", 5);
        }
        let log = servers[0].log();
        assert!(!log.contains("hold for all from now on"), "{log}");
    }

    /// Presence changes only with a start.
    fn presence_is_taken_over_by_a_server_that_starts_again(backend) {
        let nats = Nats::start();
        let address = address_apart(backend);
        let first = nats.node(backend, &["--listen", &address, "--drain", "1s"]);
        let second = nats.node(backend, &["--presence", "room/*", "--drain", "1s", "--listen", &address_apart(backend)]);
        first.expect_log("takes over another --presence when it starts again");
        // Where there is presence, only the server publishes to these topics.
        let status = |server: &Server| {
            let event = json!({ "topic": "presence/room/1", "data": "x" });
            server.connect().post("application/json", event.to_string()).status
        };
        assert_eq!(status(&first), 200);
        let refused = status(&second);
        assert_ne!(refused, 200);
        nats.server.client().expect("a connection").delete_stream("FANFARE").expect("it is deleted");
        for server in [&first, &second] {
            eventually("the server has started again", || {
                (server.log().matches("the shared log is open").count() == 2).then_some(())
            });
            expect_ready(server, 200);
            assert_eq!(status(server), refused);
        }
    }

    /// Settings that are too many for a value do not hold on one server alone, and its log says so once.
    fn topic_settings_that_are_too_many_change_nothing(backend) {
        let nats = Nats::start();
        let link = Link::start(nats.server.address()).expect("a link");
        let file = ConfigFile::new("[retention]\nretain-events = 30\n");
        let reloaded = node_at(&format!("nats://{}", link.address()), backend, &["--config", &file.name()]);
        let other = nats.node(backend, &["--retain-events", "30"]);
        link.cut(Cut::Reset);
        expect_ready(&reloaded, 503);
        let rules: String = (0..1001).map(|number| format!("'{number}=1,,',")).collect();
        file.write(&format!("[retention]\nretain-events = 3\nretain = [{rules}]\n"));
        reloaded.signal("HUP");
        reloaded.expect_log("cannot hold for all servers: there are more than 1000 rules");
        let last = nats.node(backend, &["--retain-events", "6"]);
        link.heal();
        expect_ready(&reloaded, 200);
        let log = reloaded.expect_log("this one has other options: --retain-events 6 ");
        assert!(log.contains("its own options say: --retain-events 3 "), "{log}");
        publish_many(&other, "a", 40);
        for server in [&reloaded, &other, &last] {
            expect_retained(server, "a", 6);
        }
        assert_eq!(reloaded.log().matches("cannot hold for all servers").count(), 1);
        assert!(!reloaded.log().contains("those of the named server held before: --retain-events 3 "));
    }

    /// Somebody writes anything into the bucket, or deletes what is there.
    fn topic_settings_that_cannot_be_read_change_nothing(backend) {
        let nats = Nats::start();
        let admin = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let mut first = nats.node(backend, &[&["--retain-events", "9"][..], &admin].concat());
        let admin = first.admin_address();
        let servers = [first, nats.node(backend, &["--retain-events", "7"])];
        publish_many(&servers[0], "a", 20);
        for server in &servers {
            expect_retained(server, "a", 7);
        }
        let is_unreadable = || {
            let metrics = Connection::open(admin).request("GET", "/metrics", &[]).text();
            let name = "fanfare_shared_log_settings_unreadable ";
            metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric").to_owned()
        };
        let write = |value: &[u8], headers: &[(&str, &str)]| {
            let mut client = nats.server.client().expect("a connection");
            client.publish_acked(TOPIC_SETTINGS, headers, value).expect("it is stored");
        };
        let events = || {
            let mut client = nats.server.client().expect("a connection");
            let request = json!({ "last_by_subj": TOPIC_SETTINGS });
            let found = client.jetstream("STREAM.MSG.GET.KV_FANFARE_state", &request).expect("an answer");
            let text = found["message"]["data"].as_str().map(|data| STANDARD.decode(data).expect("Base64"))?;
            serde_json::from_slice::<Value>(&text).ok()?["events"].as_u64()
        };
        let zero = json!({ "version": 1, "server": "x", "events": 1, "bytes": 1, "age_ms": 0, "rules": [],
            "presence": [], "presence_interval_ms": 1000 });
        let values = [b"\xff{".to_vec(), zero.to_string().into_bytes(), vec![b'['; 300_000], Vec::new()];
        for value in values {
            // The last one is a deletion.
            let headers: &[_] = if value.is_empty() { &[("KV-Operation", "DEL")] } else { &[] };
            write(&value, headers);
            eventually("the settings in force are there again", || (events() == Some(7)).then_some(()));
        }
        let logs: String = servers.iter().map(Server::log).collect();
        assert_eq!(logs.matches("could not be read, and are those of this server again").count(), 3, "{logs}");
        assert_eq!(is_unreadable(), "0");
        // What a later version may have written stays, and a server that starts has its own settings.
        write(b"{\"version\":2}", &[]);
        for server in &servers {
            server.expect_log("settings of the cluster cannot be used: it has version 2");
        }
        let other = nats.node(backend, &["--retain-events", "3"]);
        other.expect_log("it has version 2");
        expect_retained(&other, "a", 3);
        for server in &servers {
            assert_eq!(retained(server, "a"), 7);
        }
        assert_eq!(is_unreadable(), "1");
        // Where it is replaced by anything else, all have the same again.
        write(b"garbage", &[]);
        eventually("all have the same", || {
            publish_many(&other, "a", 10);
            let count = retained(&other, "a");
            servers.iter().all(|server| retained(server, "a") == count).then_some(())
        });
        assert_eq!(is_unreadable(), "0");
        let last = nats.node(backend, &["--retain-events", "2"]);
        publish_many(&last, "b", 20);
        for server in servers.iter().chain([&other, &last]) {
            expect_retained(server, "b", 2);
            expect_ready(server, 200);
        }
    }

    /// A server that starts while somebody writes garbage has the settings of the others in the end.
    fn a_start_beside_garbage_ends_with_the_same_topic_settings(backend) {
        let nats = Nats::start();
        let first = nats.node(backend, &["--retain-events", "9"]);
        publish_many(&first, "a", 20);
        let is_over = AtomicBool::new(false);
        let second = thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = nats.server.client().expect("a connection");
                while !is_over.load(Ordering::Relaxed) {
                    client.publish_acked(TOPIC_SETTINGS, &[], b"garbage").expect("it is stored");
                }
            });
            let second = nats.node(backend, &["--retain-events", "4"]);
            is_over.store(true, Ordering::Relaxed);
            second
        });
        eventually("both have the same", || {
            publish_many(&first, "a", 10);
            (retained(&first, "a") == retained(&second, "a")).then_some(())
        });
    }

    /// What a subscriber finds of the past is what its topics keep, although the stream has more, and
    /// although a server has less in memory.
    fn topic_settings_bound_what_is_read_from_the_stream(backend) {
        let nats = Nats::start();
        let options = ["--retain-events", "5", "--retain", "otp/*=0,,", "--retain", "young=,,1s"];
        let of_log = ["--log-bytes", "1"];
        let servers = [nats.node(backend, &options), nats.node(backend, &[&options[..], &of_log].concat())];
        let first: Vec<String> = ["a", "otp/1", "young"].map(|topic| servers[0].publish(topic, "first")).into();
        for topic in ["a", "otp/1", "young"] {
            publish_many(&servers[0], topic, 100);
        }
        let last = servers[0].publish("end", "end");
        thread::sleep(Duration::from_millis(2500));
        // A third one has what it reads at its start.
        let late = nats.node(backend, &options);
        for server in servers.iter().chain([&late]) {
            expect_ready(server, 200);
            for (topic, first, kept) in [("a", &first[0], 5), ("otp/1", &first[1], 0), ("young", &first[2], 0)] {
                let query = format!("topic={topic}&topic=end");
                let mut earliest = server.subscribe_with(&query, &[("Last-Event-ID", "earliest")]);
                assert_eq!(earliest.header("Fanfare-Gap"), None, "{topic}");
                let mut expected: Vec<String> = (100 - kept..100).map(|number| number.to_string()).collect();
                expected.push("end".to_owned());
                assert_eq!(earliest.data(expected.len()), expected, "{topic}");
                let mut resumed = server.subscribe_with(&query, &[("Last-Event-ID", first)]);
                assert_eq!(resumed.header("Fanfare-Gap"), Some("true"), "{topic}");
                assert_eq!(resumed.event().kind, "fanfare.gap", "{topic}");
                assert_eq!(resumed.data(expected.len()), expected, "{topic}");
                let resumed = server.subscribe_with(&query, &[("Last-Event-ID", &last)]);
                assert_eq!(resumed.header("Fanfare-Gap"), None, "{topic}");
            }
            // The same by a pattern.
            let found = ["95", "96", "97", "98", "99", "end"];
            let mut pattern = server.subscribe_with("match=*", &[("Last-Event-ID", "earliest")]);
            assert_eq!(pattern.data(6), found);
            let mut pattern = server.subscribe_with("match=*", &[("Last-Event-ID", &first[0])]);
            assert_eq!(pattern.header("Fanfare-Gap"), Some("true"));
            assert_eq!(pattern.event().kind, "fanfare.gap");
            assert_eq!(pattern.data(6), found);
            let pattern = server.subscribe_with("match=*", &[("Last-Event-ID", &last)]);
            assert_eq!(pattern.header("Fanfare-Gap"), None);
        }
    }

    /// Events that expire while a subscriber reads are delivered to it, too. Before this was so, the
    /// subscriber was told of one gap after the other, or its stream ended before the first event.
    fn what_expires_during_a_replay_is_not_lost(backend) {
        const EVENTS: usize = 400;
        let nats = Nats::start();
        let options = ["--retain-events", "1000", "--retain", "otp/*=0,,", "--log-bytes", "1"];
        let server = nats.node(backend, &options);
        let mut other = nats.server.client().expect("a connection");
        thread::scope(|scope| {
            let publisher = scope.spawn(move || {
                for number in 0..EVENTS {
                    other.publish_acked("fanfare.b", &[], format!("b{number}").as_bytes()).expect("it is stored");
                    other.publish_acked("fanfare.otp.1", &[], b"secret").expect("it is stored");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            while !publisher.is_finished() {
                for query in ["topic=b&topic=otp/1", "match=*"] {
                    let mut stream = server.subscribe_with(query, &[("Last-Event-ID", "earliest")]);
                    let mut next = 0;
                    while next < EVENTS {
                        let event = stream.event();
                        assert_ne!(event.kind, "fanfare.gap", "{query}");
                        if event.data != "secret" {
                            assert_eq!(event.data, format!("b{next}"), "{query}");
                            next += 1;
                        }
                    }
                }
            }
        });
    }
}
