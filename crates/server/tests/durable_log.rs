//! A server with a durable log (`--data`): crashes, restarts, directories that cannot be used, and a full disk.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::server::{arguments, fanfare, run};
use support::{Backend, Connection, Server, eventually, on_both_backends};

/// A path for a directory, which is removed with everything in it when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Directory(std::env::temp_dir().join(format!("fanfare-durable-{}-{number}", std::process::id())))
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    fn start(&self, backend: Backend, options: &[&str]) -> Server {
        Server::start_with(backend, &[&["--data", &self.path()], options].concat())
    }

    /// What a start with this directory says that fails.
    fn refusal(&self, backend: Backend) -> String {
        let mut command = fanfare();
        command.args(arguments(backend, &["--data", &self.path(), "--admin", "off"]));
        let ran = run(command, "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        ran.stderr
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0).or_else(|_| fs::remove_file(&self.0));
    }
}

on_both_backends! {
    /// An event that was acknowledged, or that anyone has seen, is there after a crash, under the same id.
    fn a_crash_loses_nothing(backend) {
        let directory = Directory::new();
        let mut server = directory.start(backend, &[]);
        let mut subscriber = server.subscribe("topic=a");
        let ids: Vec<String> = (0..20).map(|number| server.publish("a", &number.to_string())).collect();
        let seen = subscriber.events(20);
        server.kill();

        let server = directory.start(backend, &[]);
        assert!(server.log().contains("the durable log is open"), "{}", server.log());
        let mut resumed = server.subscribe_with("topic=a", &[("Last-Event-ID", &ids[9])]);
        assert_eq!(resumed.header("Fanfare-Gap"), None);
        assert_eq!(resumed.events(10), seen[10..]);
        // The numbers go on.
        let number = |id: &str| id.rsplit_once('-').expect("an id of the server").1.parse::<u64>().expect("a number");
        let next = server.publish("a", "next");
        assert_eq!(number(&next), number(&ids[19]) + 1);
        assert_eq!(resumed.event().id, next);
    }

    /// While publishers and a crash go on side by side, what was acknowledged is there once and in order.
    fn what_was_acknowledged_before_a_crash_is_there_once(backend) {
        let directory = Directory::new();
        let mut acknowledged: Vec<(String, String)> = Vec::new();
        for round in 0..4 {
            let mut server = directory.start(backend, &[]);
            let address = server.address;
            let publishers: Vec<_> = (0..4)
                .map(|publisher| {
                    thread::spawn(move || {
                        let mut answers = Vec::new();
                        for number in 0.. {
                            let data = format!("{round}/{publisher}/{number}");
                            let body = json!({ "topic": "a", "data": data }).to_string();
                            match publish(address, &body) {
                                Some(id) => answers.push((id, data)),
                                None => break,
                            }
                        }
                        answers
                    })
                })
                .collect();
            eventually("some events are published", || (server.topic("a")?["retained"].as_u64()? >= 40 * (round + 1)).then_some(()));
            server.kill();
            for publisher in publishers {
                acknowledged.extend(publisher.join().expect("it does not panic"));
            }
        }
        let server = directory.start(backend, &["--shards", "1"]);
        let retained = server.topic("a").expect("it is known")["retained"].as_u64().expect("a count");
        let mut stream = server.subscribe_with("topic=a", &[("Last-Event-ID", "earliest")]);
        let events = stream.events(retained as usize);
        let mut found: Vec<(String, String)> =
            events.into_iter().map(|event| (event.id, event.data)).collect();
        let count = found.len();
        let unknown_twice = |list: &[(String, String)]| {
            let mut data: Vec<&String> = list.iter().map(|(_, data)| data).collect();
            data.sort();
            data.windows(2).any(|pair| pair[0] == pair[1])
        };
        assert!(!unknown_twice(&found), "an event is there twice");
        found.retain(|event| acknowledged.contains(event));
        assert_eq!(found.len(), acknowledged.len(), "of {count} events");
        assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    }

    /// A publisher that has lost the answer publishes again, also behind a restart, and also where the log in
    /// memory does not have the event any more.
    fn an_own_id_is_one_event_over_restarts(backend) {
        let directory = Directory::new();
        let options = ["--log-bytes", "1MiB", "--retain-bytes", "1GiB", "--retain-events", "1000000"];
        let event = json!({ "topic": "a", "id": "order-1", "data": "paid" });
        let publish = |server: &Server, event: &Value| server.connect().post("application/json", event.to_string());
        let mut server = directory.start(backend, &options);
        assert_eq!(publish(&server, &event).json()["duplicate"], Value::Null);
        server.kill();
        let server = directory.start(backend, &options);
        let large = "x".repeat(64 << 10);
        for _ in 0..40 {
            server.publish("a", &large);
        }
        let retained = server.topic("a").expect("it is known")["retained"].as_u64().expect("a count");
        assert!(retained < 40, "{retained}");
        assert_eq!(publish(&server, &event).json()["duplicate"], true);
        let mut other = event.clone();
        other["data"] = json!("refunded");
        publish(&server, &other).problem(409);
        other["topic"] = json!("b");
        assert_eq!(publish(&server, &other).json()["duplicate"], Value::Null);
    }

    fn a_stop_keeps_everything_and_resumption_has_no_gap(backend) {
        let directory = Directory::new();
        let mut server = directory.start(backend, &["--durability", "async"]);
        let id = server.publish("a", "1");
        server.publish("a", "2");
        server.signal("TERM");
        assert!(server.wait().success());
        let server = directory.start(backend, &["--durability", "async"]);
        let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", &id)]);
        assert_eq!(subscriber.header("Fanfare-Gap"), None);
        assert_eq!(subscriber.event().data, "2");
    }

    fn directories_that_cannot_be_used_are_refused_with_what_to_do(backend) {
        let directory = Directory::new();
        let server = directory.start(backend, &[]);
        let refusal = directory.refusal(backend);
        assert!(refusal.contains("in use by another process") && refusal.contains("--data"), "{refusal}");
        server.publish("a", "1");

        let file = Directory::new();
        fs::write(&file.0, "x").expect("it is written");
        let refusal = file.refusal(backend);
        assert!(refusal.contains("is not a directory"), "{refusal}");

        let foreign = Directory::new();
        fs::create_dir(&foreign.0).expect("it is made");
        fs::write(foreign.0.join("PG_VERSION"), "15").expect("it is written");
        let refusal = foreign.refusal(backend);
        assert!(refusal.contains("is not a store") && refusal.contains("PG_VERSION"), "{refusal}");
    }

    fn the_figures_of_the_log_are_metrics(backend) {
        let directory = Directory::new();
        let admin = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let mut server = directory.start(backend, &admin);
        let admin = server.admin_address();
        for number in 0..3 {
            server.publish("a", &number.to_string());
        }
        let metrics = || Connection::open(admin).request("GET", "/metrics", &[]).text();
        for series in [
            "fanfare_store_events_total 3",
            "fanfare_store_failures_total 0",
            "fanfare_store_commit_duration_seconds_count 3",
            "fanfare_store_retained_events 3",
            "fanfare_store_writable 1",
        ] {
            eventually(series, || metrics().lines().any(|line| line == series).then_some(()));
        }
        let without = Server::start_with(backend, &[]);
        without.publish("a", "1");
    }
}

/// Publishes on a connection of its own. `None`: there was no answer.
fn publish(address: std::net::SocketAddr, body: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(support::PATIENCE)).ok()?;
    let length = body.len();
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: fanfare.test\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    let answer: Value = serde_json::from_str(body).ok()?;
    Some(answer["id"].as_str()?.to_owned())
}
