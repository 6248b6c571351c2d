//! Topic settings that hold on all servers that share a log on NATS (`--nats`).

mod support;

use std::thread;

use fanfare_testkit::nats::{Cut, Link};
use serde_json::json;
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
        let servers = [nats.node(backend, &["--retain-events", "9"]), nats.node(backend, &["--retain-events", "7"])];
        publish_many(&servers[0], "a", 20);
        for server in &servers {
            expect_retained(server, "a", 7);
        }
        let mut client = nats.server.client().expect("a connection");
        let mut write = |value: &[u8]| drop(client.publish_acked(TOPIC_SETTINGS, &[], value).expect("it is stored"));
        let warnings = |server: &Server| server.log().matches("settings of the cluster cannot be used").count();
        let zero = json!({ "version": 1, "server": "x", "events": 1, "bytes": 1, "age_ms": 0, "rules": [],
            "presence": [], "presence_interval_ms": 1000 });
        let values = [b"\xff{".to_vec(), zero.to_string().into_bytes(), vec![b'['; 300_000], b"{\"version\":2}".to_vec()];
        for (index, value) in values.iter().enumerate() {
            write(value);
            for server in &servers {
                eventually("the log says so", || (warnings(server) == index + 1).then_some(()));
            }
        }
        // A later version may have written the last one: it stays, and the server has its own settings.
        let other = nats.node(backend, &["--retain-events", "3"]);
        other.expect_log("it has version 2");
        expect_retained(&other, "a", 3);
        for server in &servers {
            assert_eq!((retained(server, "a"), warnings(server)), (7, 4));
        }
        // Anything else is replaced by the next start.
        write(b"garbage");
        for server in &servers {
            eventually("the log says so", || (warnings(server) == 5).then_some(()));
        }
        let last = nats.node(backend, &["--retain-events", "4"]);
        last.expect_log("what was there before could not be read");
        for server in &servers {
            expect_retained(server, "a", 4);
        }
        other.expect_log("this one has other options: --retain-events 4 ");
        // A value that is deleted is put there again.
        let mut client = nats.server.client().expect("a connection");
        client.publish_acked(TOPIC_SETTINGS, &[("KV-Operation", "DEL")], b"").expect("it is stored");
        eventually("the value is there again", || {
            let request = json!({ "last_by_subj": TOPIC_SETTINGS });
            let found = client.jetstream("STREAM.MSG.GET.KV_FANFARE_state", &request).expect("an answer");
            found["message"]["data"].as_str().is_some_and(|data| !data.is_empty()).then_some(())
        });
        publish_many(&servers[0], "b", 20);
        for server in servers.iter().chain([&other, &last]) {
            expect_retained(server, "b", 4);
            expect_ready(server, 200);
        }
    }
}
