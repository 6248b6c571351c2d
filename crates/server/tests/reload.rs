//! SIGHUP: the file is read again, and what can change does, while nothing is lost.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::file::ConfigFile;
use support::{Backend, Response, Server, eventually, on_both_backends};

const HOSTS: &str = "[web]\nhost = ['fanfare.test']\n";

fn start(backend: Backend, file: &ConfigFile) -> Server {
    Server::start_configured(backend, file.path(), &[])
}

/// Sends SIGHUP, and waits until the log has one more line with this text.
fn reload(server: &Server, text: &str) {
    let count = || server.log().matches(text).count();
    let before = count();
    server.signal("HUP");
    eventually(&format!("the log says {text:?} again"), || (count() > before).then_some(()));
}

fn as_host(server: &Server, host: &str) -> Response {
    server.connect().request("GET", "/topics", &[("Host", host)])
}

fn status_of_topics(server: &Server, query: &str) -> u16 {
    let mut connection = server.ask_to_subscribe(query, &[]);
    let head = connection.read_head();
    support::http::status_of(&head)
}

fn publish_from(server: &Server, origin: &str) -> u16 {
    let body = "topic=a&data=x";
    server.connect().post_with("application/x-www-form-urlencoded", body, &[("Origin", origin)]).status
}

on_both_backends! {
    fn what_can_change_does(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        let mut subscriber = server.subscribe("topic=a");
        assert_eq!(as_host(&server, "new.example").status, 421);
        assert_eq!(publish_from(&server, "https://app.example"), 403);
        assert_eq!(status_of_topics(&server, "topic=a&topic=b&topic=c"), 200);
        // One that the control plane has kept open follows the new rules, too.
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", "/topics", &[]).status, 200);

        file.write(
            "[web]\nhost = ['fanfare.test', 'new.example']\ncors-origin = 'https://app.example'\n\
             [limits]\nmax-topics = 2\n[publishing]\nmax-body = '64KiB'\nmax-array = 2\n[logging]\nlog = 'debug'\n",
        );
        reload(&server, "the configuration was read again");
        server.expect_log("changed=\"host, cors-origin, max-topics, max-body, max-array, log\"");
        assert_eq!(as_host(&server, "new.example").status, 200);
        assert_eq!(kept.request("GET", "/topics", &[("Host", "new.example")]).status, 200);
        assert_eq!(publish_from(&server, "https://app.example"), 200);
        assert_eq!(status_of_topics(&server, "topic=a&topic=b&topic=c"), 400);
        let array = |count: usize| format!("[{}]", vec![r#"{"topic":"a","data":"y"}"#; count].join(","));
        assert_eq!(server.connect().post("application/json", array(3)).status, 413);
        assert_eq!(server.connect().post("application/json", array(2)).status, 200);
        let large = format!("topic=a&data={}", "x".repeat(100 << 10));
        assert_eq!(server.connect().post("application/x-www-form-urlencoded", large).status, 413);
        // Of the first stream nothing was noticed.
        assert_eq!(subscriber.data(3), ["x", "y", "y"]);

        // Back again.
        file.write(HOSTS);
        reload(&server, "the configuration was read again");
        assert_eq!(as_host(&server, "new.example").status, 421);
        assert_eq!(publish_from(&server, "https://app.example"), 403);
        assert_eq!(status_of_topics(&server, "topic=a&topic=b&topic=c"), 200);
        server.publish("a", "last");
        assert_eq!(subscriber.event().data, "last");
        reload(&server, "changed=\"nothing\"");
    }

    fn a_file_with_a_mistake_changes_nothing(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        let mut subscriber = server.subscribe("topic=a");
        let stays = "the configuration stays as it was";
        let good = "[web]\nhost = ['fanfare.test', 'new.example']\n";
        for (wrong, parts) in [
            ("[limits]\nmax-topics = 0x\nmax-topic = 1\n", &[":4:", ":5:1: ", "did you mean max-topics?"][..]),
            ("[publishing]\nmax-publishes = 5000\n", &[":4:1: ", "half of --max-control-connections"]),
            ("[logging]\nlog = 'inof'\n", &[":4:7: ", "did you mean info?"]),
            ("[server]\nshards = 0\n", &[":4:10: ", "1..=1024"]),
        ] {
            file.write(&format!("{good}{wrong}"));
            let before = server.log().len();
            reload(&server, stays);
            let log = server.log();
            for part in parts {
                assert!(log[before..].contains(part), "{part}: {}", &log[before..]);
            }
            assert_eq!(as_host(&server, "new.example").status, 421, "the rest of the file was taken");
        }
        file.remove();
        reload(&server, stays);
        server.expect_log("cannot be read");
        server.publish("a", "still");
        assert_eq!(subscriber.event().data, "still");
        // The next right file is taken.
        file.write(good);
        reload(&server, "the configuration was read again");
        assert_eq!(as_host(&server, "new.example").status, 200);
    }

    fn what_needs_a_restart_is_named_and_the_rest_changes(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        file.write("[web]\nhost = ['fanfare.test', 'new.example']\n[server]\nsend-buffer = '64KiB'\npin = true\n");
        for _ in 0..2 {
            reload(&server, "need a restart");
            let log = server.log();
            assert!(log.contains("options=\"pin, send-buffer\""), "{log}");
            assert_eq!(as_host(&server, "new.example").status, 200);
            server.publish("a", &"x".repeat(2 << 10));
        }
        // A flag is stronger than the file, also then: nothing has changed.
        file.write("[server]\nshards = 7\n[web]\nhost = ['fanfare.test', 'new.example']\n");
        reload(&server, "changed=\"nothing\"");
    }

    fn flags_stay_stronger_than_the_file(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = Server::start_configured(backend, file.path(), &["--max-topics", "2"]);
        file.write(&format!("{HOSTS}[limits]\nmax-topics = 64\n"));
        reload(&server, "the configuration was read again");
        assert_eq!(status_of_topics(&server, "topic=a&topic=b&topic=c"), 400);
    }

    /// A file that is no regular one kept the thread waiting that also acts on SIGTERM.
    fn a_pipe_is_not_read_again(backend) {
        let file = ConfigFile::new(HOSTS);
        let mut server = start(backend, &file);
        file.remove();
        let made = std::process::Command::new("mkfifo").arg(file.path()).status().expect("there is mkfifo");
        assert!(made.success());
        reload(&server, "the configuration stays as it was");
        server.expect_log("is no regular file");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }

    fn the_level_of_the_log_changes(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        // A line of the level "info" comes with each reload, but after the one that switches these lines off.
        file.write(&format!("{HOSTS}[logging]\nlog = 'error'\n"));
        server.signal("HUP");
        file.write("[nonsense]\n");
        reload(&server, "the configuration stays as it was");
        assert!(!server.log().contains("was read again"), "{}", server.log());
        file.write(&format!("{HOSTS}[logging]\nlog = 'info'\n"));
        reload(&server, "the configuration was read again");
    }

    fn what_is_kept_of_each_topic_changes(backend) {
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        let mut publisher = server.publisher();
        for number in 0..50 {
            publisher.publish(if number % 2 == 0 { "a" } else { "user/1" }, &number.to_string());
        }
        let retained = |topic: &str| server.topic(topic).map(|topic| topic["retained"].as_u64().expect("a count"));
        assert_eq!((retained("a"), retained("user/1")), (Some(25), Some(25)));
        file.write(&format!("{HOSTS}[retention]\nretain-events = 5\nretain = ['user/*=7,,']\n"));
        reload(&server, "changed=\"retain-events, retain\"");
        eventually("the topics keep less", || {
            ((retained("a"), retained("user/1")) == (Some(5), Some(7))).then_some(())
        });
        let mut late = server.subscribe("topic=a&last_event_id=earliest");
        assert_eq!(late.data(5), ["40", "42", "44", "46", "48"]);
        file.write(&format!("{HOSTS}[retention]\nretain-age = '1ms'\nlog-bytes = '32MiB'\n"));
        reload(&server, "changed=\"retain-events, retain-age, retain, log-bytes\"");
        eventually("all are too old", || (retained("user/1").unwrap_or(0) == 0).then_some(()));
        server.publish("a", "last");
        assert_eq!(late.event().data, "last");
    }

    fn limits_of_subscribers_change(backend) {
        let text = |limits: &str| format!("{HOSTS}[server]\nshards = 1\n[limits]\n{limits}");
        let file = ConfigFile::new(&text("max-connections = 1\n"));
        let mut command = support::server::fanfare();
        command.args(["--backend", &backend.to_string(), "--listen", "127.0.0.1:0", "--config", &file.name()]);
        let server = Server::run_with_input(command, std::process::Stdio::null());
        let mut first = server.subscribe("topic=a");
        assert_eq!(status_of_topics(&server, "topic=a"), 503);
        file.write(&text("max-connections = 2\n[streams]\nretry = '1h'\n"));
        reload(&server, "changed=\"max-connections, retry\"");
        // The shard takes the limits with its mail, in order with what comes later.
        server.publish("b", "x");
        server.settle();
        let mut second = server.ask_to_subscribe("topic=a", &[]);
        let beginning = second.read_through(b"\n\n");
        let beginning = String::from_utf8_lossy(&beginning).into_owned();
        let retry = beginning.split("retry: ").nth(1).and_then(|rest| rest.lines().next());
        let retry: u64 = retry.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{beginning}"));
        assert!((3_600_000..=5_400_000).contains(&retry), "{retry}");
        assert_eq!(status_of_topics(&server, "topic=a"), 503);
        // A lower bound ends no stream.
        file.write(&text("max-connections = 0\nwhen-full = 'end-stream'\n"));
        reload(&server, "max-connections, when-full");
        server.settle();
        assert_eq!(status_of_topics(&server, "topic=a"), 200, "the answer ends at once");
        server.expect_subscribers("a", 2);
        server.publish("a", "still");
        assert_eq!(first.event().data, "still");
    }

    fn subscribers_and_publishers_notice_nothing(backend) {
        const EVENTS: usize = 2000;
        let file = ConfigFile::new(HOSTS);
        let server = start(backend, &file);
        let mut subscriber = server.subscribe("topic=load");
        let done = AtomicBool::new(false);
        let reloads = thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let mut publisher = server.publisher();
                for number in 0..EVENTS {
                    publisher.publish("load", &number.to_string());
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut reloads = 0;
            while !done.load(Ordering::Relaxed) || reloads < 20 {
                match reloads % 3 {
                    0 => file.write(&format!("{HOSTS}[limits]\nmax-topics = {}\n", 10 + reloads)),
                    1 => file.write("[web]\nhost = ['/']\n"),
                    _ => file.write(&format!("{HOSTS}[retention]\nretain-events = {}\n", 4000 + reloads)),
                }
                reload(&server, ".toml\"");
                reloads += 1;
            }
            publisher.join().expect("every publish was answered 200");
            reloads
        });
        assert!(reloads >= 20);
        let expected: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
        assert_eq!(subscriber.data(EVENTS), expected);
        server.publish("load", "on the same stream");
        assert_eq!(subscriber.event().data, "on the same stream");
    }
}
