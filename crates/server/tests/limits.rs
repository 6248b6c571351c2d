//! What happens at the bounds: the cap on connections, and the end of descriptors.

mod support;

use std::io;
use std::process::Command;

use support::server::{arguments, limited, run};
use support::{
    Backend, CONTROL_PATH, Connection, End, Item, Server, Subscriber, eventually, http, on_both_backends,
};

/// What a newcomer got.
#[derive(Debug, PartialEq)]
enum Got {
    Stream,
    Unavailable,
    /// Closed without an answer.
    Closed,
    /// Nothing yet: it waits to be accepted.
    Nothing,
}

fn ask(server: &Server) -> Connection {
    server.ask_to_subscribe("topic=a", &[])
}

fn got(connection: &mut Connection, wait_ms: u64) -> Got {
    loop {
        match connection.receive_within(std::time::Duration::from_millis(wait_ms)) {
            Ok(None) => return Got::Nothing,
            Ok(Some(0)) => return Got::Closed,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Got::Closed,
            Err(error) => panic!("{error}"),
            Ok(Some(_)) if connection.received.starts_with(b"HTTP/1.1 200 ") => return Got::Stream,
            Ok(Some(_)) if connection.received.starts_with(b"HTTP/1.1 503 ") => return Got::Unavailable,
            Ok(Some(_)) => {
                assert!(connection.received.len() < 13, "an odd answer: {:?}", connection.received)
            }
        }
    }
}

/// A full server with the two that it has room for.
fn full(backend: Backend, policy: &str) -> (Server, Vec<Subscriber>) {
    let server =
        Server::start_with(backend, &["--max-connections", "2", "--shards", "1", "--when-full", policy]);
    let mut first = vec![server.subscribe("topic=a"), server.subscribe("topic=a")];
    expect_served(&server, &mut first);
    (server, first)
}

fn expect_served(server: &Server, subscribers: &mut [Subscriber]) {
    let id = server.publish("a", "served");
    for subscriber in subscribers {
        assert_eq!(subscriber.event().id, id);
    }
}

/// No subscriber was evicted for a newcomer, and a subscriber that leaves makes room for one.
fn expect_room_after_one_has_left(server: &Server, mut first: Vec<Subscriber>) {
    expect_served(server, &mut first);
    drop(first.pop());
    server.expect_subscribers("a", 1);
    first.push(server.subscribe("topic=a"));
    expect_served(server, &mut first);
}

on_both_backends! {
    fn a_full_server_answers_unavailable_and_evicts_nobody(backend) {
        let (server, first) = full(backend, "unavailable");
        let mut waits = Vec::new();
        for _ in 0..20 {
            let mut newcomer = ask(&server);
            let response = newcomer.read_response();
            response.problem(503);
            let wait: u64 = response.header("Retry-After").and_then(|wait| wait.parse().ok()).expect("seconds");
            assert!((1..=60).contains(&wait), "{wait}");
            waits.push(wait);
            newcomer.expect_end();
        }
        waits.dedup();
        assert!(waits.len() > 1, "all come back at once: {waits:?}");
        // On a kept connection it is the same, and everything else goes on.
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", CONTROL_PATH, &[]).status, 200);
        kept.request("GET", "/events?topic=a", &[]).problem(503);
        expect_room_after_one_has_left(&server, first);
    }

    fn a_full_server_ends_streams_at_once_where_browsers_are_to_come_back(backend) {
        let (server, first) = full(backend, "end-stream");
        for option in ["keep-alive", "close"] {
            let mut newcomer = server.subscribe_with("topic=a", &[("Connection", option)]);
            assert_eq!(newcomer.header("Content-Type"), Some("text/event-stream"));
            let (items, end) = newcomer.read_to_end();
            assert_eq!(end, End::Whole);
            assert!(matches!(items[..], [Item::Retry(2000..=3000)]), "{items:?}");
        }
        expect_room_after_one_has_left(&server, first);
    }

    fn a_full_server_drops_newcomers_where_that_is_asked_for(backend) {
        let (server, first) = full(backend, "drop");
        for _ in 0..5 {
            assert_eq!(got(&mut ask(&server), 20_000), Got::Closed);
        }
        expect_room_after_one_has_left(&server, first);
    }

    /// Too many shards failed with "Too many open files". The error names the number of shards that fit, and
    /// so many run.
    fn shards_that_do_not_fit_are_refused_with_the_number_that_does(backend) {
        for tables in ["private", "shared"] {
            let options = ["--descriptor-tables", tables, "--listen", "127.0.0.1:0", "--shards"];
            let refused = run(limited("-n 256", &arguments(backend, &[&options[..], &["1000"]].concat())), "");
            assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
            assert!(refused.stderr.contains("RLIMIT_NOFILE of 256"), "{refused:?}");
            let (_, most) = refused.stderr.trim_end().rsplit_once("start at most ").expect("a number of shards");
            let most = most.trim_end_matches(" shards");

            let server = Server::start_limited(backend, 256, &[&options[..], &[most]].concat());
            let mut subscriber = server.subscribe("topic=a");
            let mut other = server.subscribe("topic=a");
            server.publish("a", "1");
            assert_eq!((subscriber.data(1), other.data(1)), (vec!["1".to_owned()], vec!["1".to_owned()]));
        }
    }

    fn descriptors_used_up_hold_newcomers_back_and_nothing_else(backend) {
        const LIMIT: usize = 64;
        let server = Server::start_limited(backend, LIMIT, &["--shards", "1", "--heartbeat", "1s"]);
        let mut publisher = server.publisher();
        publisher.publish("other", "so that the connection is the control plane's");
        let mut served = Vec::new();
        let mut waiting: Vec<Connection> = Vec::new();
        for _ in 0..LIMIT + 32 {
            let mut newcomer = ask(&server);
            // Once one has to wait those behind it do too.
            match if waiting.is_empty() { got(&mut newcomer, 2000) } else { Got::Nothing } {
                Got::Stream => served.push(Subscriber::on(newcomer)),
                _ => waiting.push(newcomer),
            }
        }
        assert!(served.len() >= 8, "under a limit of {LIMIT} {} were served", served.len());
        assert!(!waiting.is_empty(), "{LIMIT} descriptors were enough for {}", served.len());
        // Connected subscribers are served, and nothing spins, whether the others wait in the kernel's queue
        // or are told.
        let id = publisher.publish("a", "while it is full");
        for subscriber in &mut served {
            assert_eq!(subscriber.event().id, id);
        }
        server.expect_idle();
        eventually("the client or the log has the reason", || {
            let told = waiting.iter_mut().any(|newcomer| got(newcomer, 1) == Got::Unavailable);
            (told || server.log().contains("descriptors")).then_some(())
        });

        // And with room again newcomers get in.
        drop(waiting);
        served.truncate(served.len() / 2);
        let mut newcomer = eventually("a newcomer gets in", || {
            let mut newcomer = ask(&server);
            (got(&mut newcomer, 1000) == Got::Stream).then(|| Subscriber::on(newcomer))
        });
        let id = publisher.publish("a", "with room");
        assert_eq!(newcomer.event().id, id);
        for subscriber in &mut served {
            assert_eq!(subscriber.event().id, id);
        }
        server.expect_health();
        server.expect_idle();
    }

    /// With few descriptors each connection that found none was a line of the log: 700 lines a second.
    fn connections_that_find_no_descriptor_are_one_line_of_the_log(backend) {
        const LIMIT: usize = 64;
        let server = Server::start_limited(backend, LIMIT, &["--shards", "1"]);
        let mut crowd: Vec<Connection> = Vec::new();
        for _ in 0..10 * LIMIT {
            let mut connection = server.connect();
            connection.send_what_it_takes(http::head("GET", CONTROL_PATH, &[]));
            crowd.push(connection);
            // As many stay as fill the table.
            if crowd.len() > 2 * LIMIT {
                drop(crowd.remove(0));
            }
        }
        eventually("the log says why", || server.log().contains("did not reach").then_some(()));
        // What is logged once in ten seconds was logged once or twice.
        let lines = server.log().matches("did not reach").count();
        assert!(lines <= 2, "{lines} lines:\n{}", server.log());
        assert!(server.log().contains("Too many open files"), "{}", server.log());
        drop(crowd);
    }

    fn shards_that_find_no_descriptors_say_what_to_do(backend) {
        for options in [&["--shards", "100"][..], &["--shards", "100", "--descriptor-tables", "shared"]] {
            let mut command = Command::new("sh");
            let script = "ulimit -n 256; exec \"$0\" \"$@\"";
            command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_fanfare"));
            command.args(["--backend", &backend.to_string(), "--listen", "127.0.0.1:0"]).args(options);
            let ran = run(command, "");
            assert_eq!(ran.code, Some(1), "{ran:?}");
            for part in ["100 shards", "RLIMIT_NOFILE of 256", "has room for", "start at most"] {
                assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
            }
        }
    }

    /// These clients do not read their refusals, and do not complete their requests.
    fn control_connections_that_fill_the_table_leave_streams_alone(backend) {
        const LIMIT: usize = 96;
        let server = Server::start_limited(backend, LIMIT, &["--shards", "1"]);
        let mut subscriber = server.subscribe("topic=a");
        let mut publisher = server.publisher();
        publisher.publish("a", "1");
        let crowd: Vec<Connection> = (0..2 * LIMIT)
            .map(|_| {
                let mut connection = server.connect();
                connection.send_what_it_takes(http::head("GET", CONTROL_PATH, &[]));
                connection
            })
            .collect();
        publisher.publish("a", "2");
        assert_eq!(subscriber.data(2), ["1", "2"]);
        server.expect_idle();
        drop(crowd);
        eventually("the server answers again", || {
            let mut connection = ask(&server);
            (got(&mut connection, 1000) == Got::Stream).then_some(())
        });
        publisher.publish("a", "3");
        assert_eq!(subscriber.data(1), ["3"]);
        server.expect_idle();
    }
}
