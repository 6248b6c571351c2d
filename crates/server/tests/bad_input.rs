//! What no client should send, over real sockets: each is answered with the right status, costs nobody else anything,
//! and leaves the server as it was.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use support::{Backend, Connection, Random, Server, eventually, http, on_both_backends, seed};

/// A request, how it is called when a test fails, and the status it has to be answered with.
type Case = (&'static str, Vec<u8>, u16);

fn case(name: &'static str, bytes: impl AsRef<[u8]>, status: u16) -> Case {
    (name, bytes.as_ref().to_vec(), status)
}

/// Requests that are wrong whatever may follow.
fn wrong_requests() -> Vec<Case> {
    let with = |field: &str| format!("GET /events?topic=a HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
    let post = |fields: &str| {
        format!("POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{fields}\r\n\r\n")
    };
    let line = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    vec![
        // The request line.
        case("nothing of HTTP", "hello, is this a chat?\r\n\r\n", 400),
        case("binary", [0x80, 0x03, 0xff, 0x00, 0x01], 400),
        case("NUL", "\0", 400),
        case("NUL in the method", line("GE\0T / HTTP/1.1"), 400),
        case("NUL in the target", line("GET /\0 HTTP/1.1"), 400),
        case("NUL in a value", with("X: a\0b"), 400),
        case("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        case("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        case("HTTP/2.0", line("GET /events?topic=a HTTP/2.0"), 505),
        case("HTTP/1.2", line("GET /events?topic=a HTTP/1.2"), 505),
        case("HTTP/0.9", "GET /events?topic=a\r\n", 400),
        case("HTTP/0.9 with a version", line("GET /events?topic=a HTTP/0.9"), 505),
        case("lower case version", line("GET /events?topic=a http/1.1"), 400),
        case("no version", line("GET /events?topic=a "), 400),
        case("two spaces", line("GET  /events?topic=a HTTP/1.1"), 400),
        case("space in the target", line("GET /events?topic=a b HTTP/1.1"), 400),
        case("space before the line's end", line("GET /events?topic=a HTTP/1.1 "), 400),
        case("space before the method", line(" GET /events?topic=a HTTP/1.1"), 400),
        case("tab for space", line("GET\t/events?topic=a\tHTTP/1.1"), 400),
        case("no method", line("/events?topic=a HTTP/1.1"), 400),
        case("no slash", line("GET events?topic=a HTTP/1.1"), 400),
        case("a fragment", line("GET /events?topic=a#b HTTP/1.1"), 400),
        case("an umlaut in the target", line("GET /events?topic=\u{e4} HTTP/1.1"), 400),
        case("asterisk", line("GET * HTTP/1.1"), 400),
        case("authority form", line("CONNECT example.com:443 HTTP/1.1"), 400),
        case("another scheme", line("GET ftp://h/events HTTP/1.1"), 400),
        case("user in the target", line("GET http://user@h/events?topic=a HTTP/1.1"), 400),
        case("endless method", line(&format!("{} / HTTP/1.1", "M".repeat(1000))), 501),
        case("two empty lines first", format!("\r\n\r\n{}", with("A: b")), 400),
        // Line ends.
        case("bare LF behind the request line", "GET /events?topic=a HTTP/1.1\nHost: h\r\n\r\n", 400),
        case("bare LF behind a field", "GET /events?topic=a HTTP/1.1\r\nHost: h\n\r\n", 400),
        case("bare LF at the end", "GET /events?topic=a HTTP/1.1\r\nHost: h\r\n\n", 400),
        case("bare LFs only", "GET /events?topic=a HTTP/1.1\nHost: h\n\n", 400),
        case("bare CR behind the request line", "GET /events?topic=a HTTP/1.1\rHost: h\r\n\r\n", 400),
        case("bare CR in a value", with("X: a\rb"), 400),
        case("bare CR at the end", "GET /events?topic=a HTTP/1.1\r\nHost: h\r\n\rx", 400),
        // Fields.
        case("obs-fold", with("X: a\r\n b"), 400),
        case("obs-fold with a tab", with("X: a\r\n\tb"), 400),
        case("space before the first field", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
        case("space before the colon", with("X : a"), 400),
        case("no colon", with("X"), 400),
        case("no name", with(": a"), 400),
        case("a name in quotes", with("\"X\": a"), 400),
        case("a name with an umlaut", with("\u{c4}: a"), 400),
        case("control character in a value", with("X: a\u{8}b"), 400),
        case("no Host", "GET /events?topic=a HTTP/1.1\r\n\r\n", 400),
        case("two Hosts", with("Host: h"), 400),
        case("empty Host", "GET /events?topic=a HTTP/1.1\r\nHost:\r\n\r\n", 400),
        case("Host with a path", "GET /events?topic=a HTTP/1.1\r\nHost: h/x\r\n\r\n", 400),
        case("Host with a user", "GET /events?topic=a HTTP/1.1\r\nHost: a@h\r\n\r\n", 400),
        // Framing.
        case("two lengths", post("Content-Length: 2\r\nContent-Length: 3"), 400),
        case("one length twice", post("Content-Length: 2\r\nContent-Length: 2"), 400),
        case("a list of lengths", post("Content-Length: 2, 2"), 400),
        case("negative length", post("Content-Length: -1"), 400),
        case("length with a sign", post("Content-Length: +2"), 400),
        case("length in hex", post("Content-Length: 0x2"), 400),
        case("empty length", post("Content-Length:"), 400),
        case("length beyond any", post("Content-Length: 99999999999999999999999"), 400),
        case("length and chunks", post("Content-Length: 2\r\nTransfer-Encoding: chunked"), 400),
        case("chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 2"), 400),
        case("chunks twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
        case("chunks in a list", post("Transfer-Encoding: gzip, chunked"), 400),
        case("another coding", post("Transfer-Encoding: gzip"), 400),
        case("chunks spelled otherwise", post("Transfer-Encoding: xchunked"), 400),
        case("chunks with a vertical tab", post("Transfer-Encoding: \u{b}chunked"), 400),
        case("chunks in HTTP/1.0", "POST /events HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        // Sizes.
        case("long target", line(&format!("GET /events?topic={} HTTP/1.1", "t".repeat(9000))), 414),
        case("endless target", format!("GET /{}", "t".repeat(100_000)), 414),
        case("long field", with(&format!("X: {}", "x".repeat(17_000))), 431),
        case("endless field name", format!("GET / HTTP/1.1\r\n{}", "x".repeat(100_000)), 431),
        case("many fields", with(&"X: y\r\n".repeat(70)), 431),
        case("endless fields", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(10_000)), 431),
    ]
}

/// Sends this, reads the answer, and expects the end of the connection behind it.
fn expect_refusal(server: &Server, (name, bytes, status): &Case, piece: usize) {
    let mut connection = server.connect();
    for part in bytes.chunks(piece) {
        connection.send_what_it_takes(part);
    }
    let answer = connection.read_to_end();
    let text = String::from_utf8_lossy(&answer);
    let start = format!("HTTP/1.1 {status} ");
    assert!(text.starts_with(&start), "{name} in pieces of {piece}: expected {status}, got {text:?}");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert_eq!(http::header(head, "Content-Type"), Some("application/problem+json"), "{name}");
    assert!(body.contains("\"detail\":\""), "{name}: {body}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{name}: {head}");
    let length = http::header(head, "Content-Length");
    assert_eq!(
        length,
        Some(body.len().to_string().as_str()),
        "{name}: there is more than one answer: {text}"
    );
}

on_both_backends! {
    fn wrong_requests_are_answered_with_their_status_and_closed(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=witness");
        for case in wrong_requests() {
            expect_refusal(&server, &case, usize::MAX);
        }
        server.publish("witness", "1");
        assert_eq!(subscriber.event().data, "1");
        server.expect_health();
        server.expect_idle();
    }

    fn wrong_requests_in_pieces_are_answered_the_same(backend) {
        let server = Server::start(backend);
        for case in wrong_requests().iter().filter(|(_, bytes, _)| bytes.len() < 200) {
            expect_refusal(&server, case, 1);
        }
        for case in wrong_requests() {
            expect_refusal(&server, &case, 1000);
        }
        server.expect_health();
    }

    /// The control plane reads what follows on a connection that it has; no request may hide there. Where both a length
    /// and chunks are given, its HTTP library goes by the chunks and then closes, as RFC 9112 allows (section 6.1); the
    /// rest is refused.
    fn a_kept_connection_is_no_way_around_the_rules(backend) {
        let server = Server::start(backend);
        let hidden = "GET /health/ready HTTP/1.1\r\nHost: h\r\n\r\n";
        let body = "{\"topic\":\"a\"}";
        let post = |fields: &str| {
            format!("POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{fields}\r\n\r\n")
        };
        let length = body.len();
        let smuggled = [
            ("length and chunks", format!("{}d\r\n{body}\r\n0\r\n\r\n", post(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked", length + 10)))),
            ("chunks and length", format!("{}d\r\n{body}\r\n0\r\n\r\n", post("Transfer-Encoding: chunked\r\nContent-Length: 3"))),
            ("two lengths", format!("{}{body}", post(&format!("Content-Length: {length}\r\nContent-Length: 3")))),
            ("obs-fold", format!("{}{body}", post(&format!("X: a\r\n b\r\nContent-Length: {length}")))),
            ("bare CR", format!("{}{body}", post(&format!("X: a\rb\r\nContent-Length: {length}")))),
            ("space before the colon", format!("{}{body}", post(&format!("Content-Length : {length}")))),
            ("garbage", "garbage\r\n\r\n".to_owned()),
        ];
        for (name, request) in smuggled {
            let mut connection = server.connect();
            assert_eq!(connection.request("GET", "/health/live", &[]).status, 200);
            connection.send_what_it_takes(format!("{request}{hidden}"));
            let answer = connection.read_to_end();
            let answers = String::from_utf8_lossy(&answer);
            assert!(!answers.contains("ready\n"), "{name}: what was hidden got an answer: {answers}");
            let refused = answers.is_empty() || answers.starts_with("HTTP/1.1 400");
            let by_chunks = name.contains("and") && answers.to_lowercase().contains("connection: close");
            assert!(refused || by_chunks, "{name}: {answers}");
        }
        server.expect_health();
    }

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

    /// Those who send garbage, begin heads, reset and never read, all at once; everybody else is served meanwhile.
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
