//! What publishers can take from each other: connections, and the memory of bodies.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::{Backend, CONTROL_PATH, Connection, Response, Server, eventually, http, on_both_backends};

/// Begins a stream of lines that goes on as long as the test wants.
fn begin_lines(server: &Server) -> Connection {
    let mut connection = server.connect();
    let fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
    connection.send(http::head("POST", "/events", &fields));
    trickle(&mut connection);
    connection
}

/// Sends one more byte of a stream; it may have been ended.
fn trickle(connection: &mut Connection) {
    connection.send_what_it_takes("1\r\n\n\r\n");
}

/// The answer that has come, if one has.
fn answer(connection: &mut Connection) -> Option<Response> {
    let came = connection.receive_within(Duration::from_millis(1));
    (!matches!(came, Ok(None) | Err(_))).then(|| connection.read_response())
}

fn publish(server: &Server) -> Response {
    server.connect().post("application/json", r#"{"topic":"a","data":"x"}"#)
}

on_both_backends! {
    /// 4,096 streams of lines, each of which sent a byte now and then, shut out every publisher and every
    /// health check, for ever and without a line of the log.
    fn slow_bodies_make_room_for_others(backend) {
        const CROWD: usize = 8;
        let options = ["--max-control-connections", "16", "--max-publishes", "8"];
        let server = Server::start_with(backend, &options);
        let mut crowd: Vec<Connection> = (0..CROWD).map(|_| begin_lines(&server)).collect();
        let mut fast = 0;
        let mut ended = 0;
        eventually("publishers find room", || {
            crowd.iter_mut().for_each(trickle);
            assert_eq!(server.get("/health/live").status, 200);
            assert_eq!(server.get(CONTROL_PATH).status, 200);
            let response = publish(&server);
            match response.status {
                200 => fast += 1,
                // As long as it is not known which of them is slow.
                503 => assert_eq!(response.header("Retry-After"), Some("1")),
                other => panic!("{other}: {}", response.text()),
            }
            for connection in &mut crowd {
                if let Some(response) = answer(connection) {
                    response.problem(503);
                    assert_eq!(response.header("Connection"), Some("close"));
                    ended += 1;
                    *connection = begin_lines(&server);
                }
            }
            (fast >= 5 && ended > 0).then_some(())
        });
        eventually("the log says why", || server.log().contains("--max-publishes").then_some(()));
        drop(crowd);
        server.expect_health();
    }

    /// At the bound of connections each new one was closed, health checks too, however long the others had
    /// been idle.
    fn idle_connections_make_room_for_others(backend) {
        let options = ["--max-control-connections", "8", "--max-publishes", "2"];
        let server = Server::start_with(backend, &options);
        let mut publishing = begin_lines(&server);
        let mut idle: Vec<Connection> = (0..20)
            .map(|_| {
                let mut connection = server.connect();
                assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
                connection
            })
            .collect();
        // The oldest are gone, the newest are of use.
        idle[0].expect_end();
        assert_eq!(idle[19].request("GET", CONTROL_PATH, &[]).status, 200);
        // A publish in progress is not idle.
        publishing.send("10\r\n{\"topic\":\"abcd\"}\r\n0\r\n\r\n");
        assert_eq!(publishing.read_response().json()["published"], 1);
        eventually("the log says why", || server.log().contains("idle connections").then_some(()));
        server.expect_health();
    }

    /// Bodies in progress held 36 MiB for each body of four, and had no bound together.
    fn bodies_hold_no_more_memory_than_they_may(backend) {
        const BODIES: usize = 40;
        let server = Server::start_with(backend, &["--publish-memory", "16MiB"]);
        let events: Vec<_> = (0..10_000).map(|_| json!({ "topic": "a", "data": "x".repeat(350) })).collect();
        let body = serde_json::to_vec(&events).expect("it is JSON");
        let length = body.len().to_string();
        let fields = [("Content-Type", "application/json"), ("Content-Length", length.as_str())];
        let head = http::head("POST", "/events", &fields);
        let before = server.memory();
        let mut highest = 0;
        let crowd: Vec<Connection> = (0..BODIES)
            .map(|_| {
                let mut connection = server.connect();
                connection.send_what_it_takes(&head);
                connection.send_what_it_takes(&body[..body.len() - 1]);
                highest = highest.max(server.memory());
                connection
            })
            .collect();
        for _ in 0..20 {
            highest = highest.max(server.memory());
            thread::sleep(Duration::from_millis(20));
        }
        let grown = highest.saturating_sub(before);
        assert!(grown < 48 << 20, "{BODIES} bodies of {length} bytes take {grown} bytes");
        // They are slow now: others find room, for large bodies too.
        eventually("a large body is published", || {
            let response = server.connect().post("application/json", &body);
            assert!([200, 503].contains(&response.status), "{}", response.text());
            (response.status == 200).then_some(())
        });
        drop(crowd);
        server.expect_health();
    }

    /// A client that was refused and went on with its body was read for two seconds, as fast as it could
    /// send: 20 of them delayed publishes by 350 ms.
    fn a_refused_body_is_not_read_to_its_end(backend) {
        const LENGTH: usize = 1 << 30;
        let server = Server::start(backend);
        let mut connection = server.connect();
        let length = LENGTH.to_string();
        let fields = [("Content-Type", "text/plain"), ("Content-Length", length.as_str())];
        connection.send(http::head("POST", "/events", &fields));
        let piece = vec![b'x'; 64 << 10];
        let pieces = (0..LENGTH / piece.len()).take_while(|_| connection.stream.write_all(&piece).is_ok());
        let sent = pieces.count() * piece.len();
        // The kernel's buffers take some of it, too.
        assert!(sent < 64 << 20, "{sent} bytes were taken behind a refusal");
        server.expect_health();
    }

    fn bounds_that_do_not_go_together_are_refused(backend) {
        for (options, part) in [
            (["--max-publishes", "3000"], "--max-control-connections"),
            (["--max-publishes", "0"], "from 1"),
            (["--publish-memory", "1MiB"], "--max-body"),
        ] {
            let mut command = support::server::fanfare();
            command.args(["--backend", &backend.to_string(), "--listen", "127.0.0.1:0"]).args(options);
            let ran = support::server::run(command, "");
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains(options[0]) && ran.stderr.contains(part), "{}", ran.stderr);
        }
    }
}
