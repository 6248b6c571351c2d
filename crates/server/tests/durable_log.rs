//! A server with a durable log (`--data`): crashes, restarts, directories that cannot be used, and a full
//! disk.

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

/// What `fanfare log` prints, which has to succeed.
fn log_command(arguments: &[&str], input: &str) -> String {
    let mut command = fanfare();
    command.arg("log").args(arguments);
    let ran = run(command, input);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?} {}", ran.stdout);
    ran.stdout
}

/// The same for a command that has to fail: what it says.
fn failed_log_command(arguments: &[&str], input: &str) -> String {
    let mut command = fanfare();
    command.arg("log").args(arguments);
    let ran = run(command, input);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.stderr
}

#[test]
fn a_directory_is_listed_shown_checked_and_copied() {
    let directory = Directory::new();
    let path = directory.path();
    let mut server = directory.start(Backend::Epoll, &[]);
    let full =
        json!({ "topics": ["a", "b c"], "id": "order-1", "type": "paid", "data": "1\n2", "private": true });
    server.publish("a", "first");
    let mut event = full.clone();
    let topics = event.as_object_mut().expect("an object").remove("topics");
    event["topic"] = topics.expect("it is there");
    assert_eq!(server.connect().post("application/json", event.to_string()).status, 200);
    let busy = failed_log_command(&["list", &path], "");
    assert!(busy.contains("in use by another process"), "{busy}");
    server.kill();

    let listed = log_command(&["list", &path], "");
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(
        (lines.len(), lines[0][0], lines[0][2], lines[0][3]),
        (2, "1", "5 bytes", "\"a\""),
        "{listed}"
    );
    assert_eq!((lines[1][3], lines[1][4]), ("\"a\" \"b c\"", "id \"order-1\""), "{listed}");
    assert_eq!(log_command(&["list", &path, "--topic", "b c"], "").lines().count(), 1);
    assert_eq!(log_command(&["list", &path, "--after", "2"], ""), "");
    assert_eq!(log_command(&["list", &path, "--max", "1"], "").lines().count(), 1);
    let shown: Value = serde_json::from_str(&log_command(&["show", &path, "2"], "")).expect("JSON");
    let expected = ["topics", "id", "type", "data", "private"].map(|name| &full[name]);
    assert_eq!(["topics", "id", "type", "data", "private"].map(|name| &shown[name]), expected, "{shown}");
    assert!(failed_log_command(&["show", &path, "3"], "").contains("no event with the number 3"));
    let verified = log_command(&["verify", &path], "");
    assert!(verified.starts_with("2 events") && verified.contains("2 topics"), "{verified}");

    // A copy of the copy is the same.
    let exported = log_command(&["export", &path], "");
    let copy = Directory::new();
    assert_eq!(log_command(&["import", &copy.path()], &exported), "2 events were added\n");
    assert_eq!(log_command(&["export", &copy.path()], ""), exported);
    // Numbers that are taken are given anew.
    assert_eq!(log_command(&["import", &copy.path()], &exported), "2 events were added\n");
    let numbers: Vec<u64> = log_command(&["export", &copy.path()], "")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["number"].as_u64().expect("a number"))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    log_command(&["compact", &copy.path()], "");
    assert!(log_command(&["verify", &copy.path()], "").starts_with("4 events"));
    let server = copy.start(Backend::Epoll, &[]);
    assert_eq!(server.topic("a").expect("it is known")["retained"], 4);
}

#[test]
fn what_an_import_cannot_read_is_named_with_its_line() {
    let directory = Directory::new();
    let good = r#"{"number":1,"published_ms":1,"topics":["a"],"data":"x"}"#;
    for (line, part) in [
        ("nonsense", "line 2"),
        (r#"{"number":2,"published_ms":1,"topics":[]}"#, "there is no topic"),
        (r#"{"number":0,"published_ms":1,"topics":["a"]}"#, "the number is zero"),
        (r#"{"number":2,"published_ms":1,"topics":["a"],"more":1}"#, "unknown field"),
        (r#"{"number":2,"published_ms":1,"topics":["a\u0000"]}"#, "line 2"),
    ] {
        let failed = failed_log_command(&["import", &directory.path()], &format!("{good}\n{line}\n"));
        assert!(failed.contains(part), "{failed}");
    }
    let nowhere = Directory::new();
    for command in ["list", "verify", "export", "compact"] {
        let failed = failed_log_command(&[command, &nowhere.path()], "");
        assert!(!nowhere.0.exists() && failed.contains(&nowhere.path()), "{command}: {failed}");
    }
}
