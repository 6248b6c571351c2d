//! Clients that send wrong bytes, too slowly, or not to the end. They delay no other client, and leave the
//! server as it was. What is wrong in a single request is in `hostile.rs`.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use support::{Backend, Connection, Random, Server, eventually, http, on_both_backends, seed};

on_both_backends! {
    fn heads_that_do_not_come_in_time_are_told_so(backend) {
        let server = Server::start_with(backend, &["--head-time", "1s"]);
        let beginnings = ["", "G", "GET /events?topic=a HTTP/1.1\r\nHost: h", "GET / HTTP/1.1\r\nHost: h\r\n\r", "\r\n"];
        let connections: Vec<Connection> = beginnings
            .iter()
            .map(|beginning| {
                let mut connection = server.connect();
                connection.send(beginning);
                connection
            })
            .collect();
        // This one goes on sending, but never comes to an end.
        let mut trickling = server.connect();
        trickling.send("GET / HTTP/1.1\r\nHost: h\r\nX: ");
        let ended = eventually("a head that trickles ends too", || {
            if trickling.stream.write_all(b"x").is_err() {
                return Some(Vec::new());
            }
            match trickling.receive_within(Duration::from_millis(50)) {
                Ok(None) => None,
                _ => Some(trickling.read_to_end()),
            }
        });
        assert!(ended.is_empty() || ended.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&ended));
        for mut connection in connections {
            connection.read_response().problem(408);
            connection.expect_end();
        }
        eventually("the log says so", || server.log().contains("not complete in time").then_some(()));
        server.expect_health();
        server.expect_idle();
    }

    fn half_sent_requests_that_end_are_forgotten(backend) {
        let server = Server::start(backend);
        for beginning in ["", "GET", "GET /events?topic=a HTTP/1.1\r\nHost: h\r\n"] {
            let mut closed = server.connect();
            closed.send(beginning);
            drop(closed);
            let mut reset = server.connect();
            reset.send(beginning);
            reset.reset();
            let mut half = server.connect();
            half.send(beginning);
            half.half_close();
            half.expect_end();
        }
        // A request that is whole, by one who then leaves: half-closed counts as gone.
        let whole = http::head("GET", "/events?topic=a", &[]);
        let mut reset = server.connect();
        reset.send(&whole);
        reset.reset();
        let mut half = server.connect();
        half.send(&whole);
        half.half_close();
        half.read_to_end();
        server.expect_subscribers("a", 0);
        server.expect_health();
        server.expect_idle();
    }

    /// Those who send garbage, begin heads, reset and never read, all at once; everybody else is served
    /// meanwhile.
    fn a_crowd_of_abusers_holds_nobody_up(backend) {
        const ROUNDS: usize = 60;
        let seed = seed();
        println!("FANFARE_SEED={seed}");
        let server = Server::start_with(backend, &["--head-time", "1s", "--send-buffer", "4KiB", "--laggard-time", "1s"]);
        let mut honest = server.subscribe("topic=honest");
        server.expect_idle();
        thread::scope(|scope| {
            for abuser in 0..4 {
                let server = &server;
                scope.spawn(move || abuse(server, Random::new(seed + abuser), ROUNDS));
            }
            let mut publisher = server.publisher();
            for number in 0..200 {
                publisher.publish("honest", &number.to_string());
                assert_eq!(honest.event().data, number.to_string());
                if number % 20 == 0 {
                    server.expect_health();
                }
            }
        });
        server.expect_subscribers("abused", 0);
        server.publish("honest", "after");
        assert_eq!(honest.event().data, "after");
        server.expect_health();
        server.expect_idle();
    }

    /// A refusal may not be lost to a reset because the client still sends.
    fn a_client_that_sends_on_reads_its_refusal(backend) {
        let server = Server::start(backend);
        for _ in 0..20 {
            let mut connection = server.connect();
            connection.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
            for _ in 0..10 {
                connection.send_what_it_takes([b'x'; 10_000]);
            }
            connection.read_response().problem(400);
        }
    }
}

fn abuse(server: &Server, mut random: Random, rounds: usize) {
    let mut kept = Vec::new();
    for _ in 0..rounds {
        let mut connection = Connection::open_small(server.address, 2048);
        match random.below(7) {
            0 => {
                let garbage: Vec<u8> = (0..random.below(2000)).map(|_| random.below(256) as u8).collect();
                connection.send_what_it_takes(garbage);
            }
            1 => connection
                .send_what_it_takes(&http::head("GET", "/events?topic=abused", &[])[..random.below(40)]),
            2 => connection.send_what_it_takes(http::head("GET", "/events?topic=abused&topic=honest", &[])),
            3 => {
                connection.send_what_it_takes(http::head("GET", "/events?topic=abused", &[]));
                connection.reset();
                continue;
            }
            4 => {
                connection.send_what_it_takes(http::head("GET", "/", &[]).repeat(20));
                connection.reset();
                continue;
            }
            5 => {
                let fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
                connection.send_what_it_takes(http::head("POST", "/events", &fields));
                connection.send_what_it_takes("5\r\n{\"to");
            }
            _ => connection.half_close(),
        }
        kept.push(connection);
    }
}
