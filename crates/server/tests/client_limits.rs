//! What one client may have, and what is kept for the operator: addresses, networks of IPv6, subjects, rates.
//!
//! The clients of these tests connect from addresses in 127.0.0.0/8. The operator is 127.0.0.1 alone.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use fanfare_access::{Algorithm, TokenSigner};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::file::ConfigFile;
use support::{
    Backend, CONTROL_PATH, Connection, Response, Server, Subscriber, eventually, http, on_both_backends,
};

const OPERATOR: [&str; 2] = ["--operators", "127.0.0.1"];

fn start(backend: Backend, options: &[&str]) -> Server {
    Server::start_with(backend, &[&OPERATOR, options].concat())
}

/// A connection from an address of this machine.
fn connect_from(address: impl Into<IpAddr>, to: SocketAddr) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((address.into(), 0)).into()).expect("the address is this machine's");
    socket.connect_timeout(&to.into(), support::PATIENCE).expect("the server accepts");
    Connection::of(socket.into())
}

/// The clients' addresses: none of them is the operator's.
fn client(number: u32) -> [u8; 4] {
    let [_, high, middle, low] = number.to_be_bytes();
    [127, 1 + high, middle, low]
}

fn subscribe_from(server: &Server, number: u32, fields: &[(&str, &str)]) -> Connection {
    let mut connection = connect_from(client(number), server.address);
    connection.send(http::head("GET", "/events?topic=a", fields));
    connection
}

/// The status of an answer, of which the body of a stream is not read.
fn status(connection: &mut Connection) -> u16 {
    let head = connection.read_head();
    http::status_of(&head)
}

/// A refusal that says which bound it is, and when to come back.
fn expect_refusal(response: &Response, code: u16, part: &str) {
    let problem = response.problem(code);
    let detail = problem["detail"].as_str().expect("a reason");
    assert!(detail.contains(part), "{part:?} is not in {detail:?}");
    let wait: u64 = response.header("Retry-After").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

/// How many the log says were refused, over all lines with this text.
fn refused_in_log(server: &Server, text: &str) -> u64 {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.filter_map(|line| line.rsplit_once("count=")?.1.split(' ').next()?.trim().parse::<u64>().ok()).sum()
}

fn publish_from(server: &Server, number: u32, body: &str, fields: &[(&str, &str)]) -> Response {
    connect_from(client(number), server.address).post_with("application/json", body, fields)
}

/// The tests with very many connections, of which each has half of the descriptors that this process may
/// have.
static CROWDS: Mutex<()> = Mutex::new(());

on_both_backends! {
    /// Ten thousand addresses that each take one connection too many.
    fn each_of_ten_thousand_addresses_has_its_connection_and_no_more(backend) {
        const ADDRESSES: u32 = 9_500;
        let _alone = CROWDS.lock().unwrap_or_else(PoisonError::into_inner);
        let server = start(backend, &["--max-connections-per-address", "1"]);
        let mut streams = Vec::new();
        for number in 1..=ADDRESSES {
            let mut stream = subscribe_from(&server, number, &[]);
            assert_eq!(status(&mut stream), 200);
            streams.push(stream);
            let mut refused = subscribe_from(&server, number, &[]);
            expect_refusal(&refused.read_response(), 429, "this address has as many connections");
            refused.expect_end();
        }
        eventually("all of them are counted", || {
            let counted = refused_in_log(&server, "--max-connections-per-address");
            assert!(counted <= ADDRESSES.into(), "{counted}");
            (counted == u64::from(ADDRESSES)).then_some(())
        });
        // Each stream lives, and the operator is no client.
        server.expect_subscribers("a", ADDRESSES.into());
        server.publish("a", "still there");
        for stream in &mut streams {
            stream.read_through(b"still there");
        }
        // A client that leaves may come back.
        drop(streams);
        server.expect_subscribers("a", 0);
        // A stream leaves its topics before its socket is closed and its place given back.
        for number in [1, ADDRESSES / 2, ADDRESSES] {
            eventually("its place is free", || {
                (status(&mut subscribe_from(&server, number, &[])) == 200).then_some(())
            });
        }
    }

    /// A connection counts whatever it is for: also one whose head is not complete, and one that the control
    /// plane has.
    fn connections_of_all_kinds_count_on_all_shards_together(backend) {
        let admin = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];
        let bounds = ["--shards", "3", "--max-connections-per-address", "4"];
        let mut server = start(backend, &[&admin[..], &bounds].concat());
        let admin = server.admin_address();
        let mut stream = subscribe_from(&server, 7, &[]);
        assert_eq!(status(&mut stream), 200);
        let mut kept = connect_from(client(7), server.address);
        assert_eq!(kept.request("GET", CONTROL_PATH, &[]).status, 200);
        let mut silent = connect_from(client(7), server.address);
        silent.send("GET /events?topic=a HTTP/1.1\r\n");
        let mut other = connect_from(client(7), server.address);
        assert_eq!(other.request("GET", CONTROL_PATH, &[]).status, 200);
        // A shard accepts a connection when it comes to it, and this one gets no answer that shows it.
        eventually("the silent connection is accepted", || {
            let metrics = Connection::open(admin).request("GET", "/metrics", &[]);
            metrics.text().lines().any(|line| line == "fanfare_connections_accepted_total 4").then_some(())
        });
        for target in ["/events?topic=a", CONTROL_PATH, "/nothing"] {
            let mut refused = connect_from(client(7), server.address);
            expect_refusal(&refused.request("GET", target, &[]), 429, "this address");
        }
        // Another client is not concerned.
        assert_eq!(status(&mut subscribe_from(&server, 8, &[])), 200);
        // The control plane's connection becomes a stream, and is the same one.
        kept.send(http::head("GET", "/events?topic=a", &[]));
        assert_eq!(status(&mut kept), 200);
        expect_refusal(&subscribe_from(&server, 7, &[]).read_response(), 429, "this address");
        silent.send("Host: h\r\n\r\n");
        assert_eq!(status(&mut silent), 200);
        drop(other);
        eventually("a place is free", || (status(&mut subscribe_from(&server, 7, &[])) == 200).then_some(()));
    }

    fn the_policy_of_a_full_server_holds_for_one_client_too(backend) {
        let options = ["--max-connections-per-address", "1", "--cors-origin", "https://app.example", "--when-full"];
        let server = start(backend, &[&options[..], &["end-stream"]].concat());
        assert_eq!(status(&mut subscribe_from(&server, 1, &[])), 200);
        let mut first = subscribe_from(&server, 2, &[]);
        assert_eq!(status(&mut first), 200);
        let refused = Subscriber::on(subscribe_from(&server, 2, &[("Origin", "https://app.example")]));
        // Without it a browser would not come back.
        assert_eq!(refused.header("Access-Control-Allow-Origin"), Some("https://app.example"));
        let (items, end) = { let mut refused = refused; refused.read_to_end() };
        assert_eq!((items.len(), end), (1, support::End::Whole), "{items:?}");
        let mut publish = connect_from(client(2), server.address);
        publish.send(http::head("GET", CONTROL_PATH, &[]));
        expect_refusal(&publish.read_response(), 429, "this address");

        let server = start(backend, &[&options[..], &["drop"]].concat());
        let mut first = subscribe_from(&server, 2, &[]);
        assert_eq!(status(&mut first), 200);
        let mut refused = connect_from(client(2), server.address);
        refused.send_what_it_takes(http::head("GET", "/events?topic=a", &[]));
        refused.expect_end();
        server.expect_log("--max-connections-per-address");
        server.publish("a", "x");
        first.read_through(b"x");
    }

    /// Behind proxies the client is the address that they name, and a network of IPv6 is one client.
    fn behind_trusted_proxies_each_client_has_its_connections(backend) {
        let options = ["--trusted-proxies", "127.0.0.0/8", "--max-connections-per-address", "2"];
        let mut server = start(backend, &[&options[..], &["--listen-proxy", "127.0.0.1:0"]].concat());
        let proxied = server.proxy_address();
        let forwarded = |client: &str| {
            let mut connection = server.connect();
            connection.send(http::head("GET", "/events?topic=a", &[("X-Forwarded-For", client)]));
            connection
        };
        let by_header = |client: &str| {
            let mut connection = Connection::open(proxied);
            let version = if client.contains(':') { "TCP6" } else { "TCP4" };
            let to = if client.contains(':') { "::1" } else { "127.0.0.1" };
            connection.send(format!("PROXY {version} {client} {to} 40000 80\r\n"));
            connection.send(http::head("GET", "/events?topic=a", &[]));
            connection
        };
        let mut streams = Vec::new();
        // The last two of each are one network of 64 bits, and the one before it is not.
        for (one, other) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.8", "203.0.113.8"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
            ("2001:db8:0:2::1", "2001:db8:0:2:ffff:ffff:ffff:ffff"),
        ] {
            streams.extend([forwarded(one), by_header(other)]);
            for stream in streams.iter_mut().rev().take(2) {
                assert_eq!(status(stream), 200, "{one}");
            }
            expect_refusal(&forwarded(other).read_response(), 429, "this address");
            expect_refusal(&by_header(one).read_response(), 429, "this address");
        }
        // The proxies themselves are no clients: a request of their own has no bound.
        for _ in 0..5 {
            streams.push(server.ask_to_subscribe("topic=a", &[]));
            assert_eq!(status(streams.last_mut().expect("it was pushed")), 200);
        }
        server.publish("a", "x");
        streams.iter_mut().for_each(|stream| drop(stream.read_through(b"x")));
    }

    /// A longer prefix tells such networks apart, and SIGHUP changes it.
    fn the_prefix_of_a_client_is_an_option(backend) {
        let limits = |prefix: u32| {
            format!(
                "[web]\nhost = 'fanfare.test'\n[proxies]\ntrusted-proxies = '127.0.0.1'\n\
                 [limits]\nmax-connections-per-address = 1\nipv6-prefix = {prefix}\noperators = []\n"
            )
        };
        let file = ConfigFile::new(&limits(56));
        let server = Server::start_configured(backend, file.path(), &[]);
        let ask = |client: &str| server.ask_to_subscribe("topic=a", &[("X-Forwarded-For", client)]);
        let mut first = ask("2001:db8:0:100::1");
        assert_eq!(status(&mut first), 200);
        expect_refusal(&ask("2001:db8:0:1ff::1").read_response(), 429, "this address");
        file.write(&limits(64));
        server.signal("HUP");
        server.expect_log("changed=\"ipv6-prefix\"");
        let mut second = eventually("the shards have taken it over", || {
            let mut second = ask("2001:db8:0:1ff::1");
            (status(&mut second) == 200).then_some(second)
        });
        expect_refusal(&ask("2001:db8:0:1ff::2").read_response(), 429, "this address");
        server.publish("a", "x");
        first.read_through(b"x");
        second.read_through(b"x");
    }

    fn an_address_that_connects_too_often_is_told_when_to_come_back(backend) {
        // In the time of a test no client gets another connection.
        let server = start(backend, &["--max-connect-rate", "1", "--connect-burst", "500"]);
        let mut statuses = [0; 2];
        for _ in 0..1000 {
            let mut connection = connect_from(client(9), server.address);
            let response = connection.request("GET", "/health/live", &[]);
            match response.status {
                200 => statuses[0] += 1,
                429 => {
                    expect_refusal(&response, 429, "connects too often");
                    statuses[1] += 1;
                }
                other => panic!("{other}"),
            }
        }
        // A test that takes a minute gets sixty more.
        assert!((500..700).contains(&statuses[0]), "{statuses:?}");
        assert_eq!(connect_from(client(10), server.address).request("GET", "/health/live", &[]).status, 200);
        for _ in 0..600 {
            assert_eq!(server.get("/health/live").status, 200, "the operator is no client");
        }
        server.expect_log("--max-connect-rate");
    }

    fn a_subject_has_its_streams_on_all_shards_together(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--shards", "3", "--max-connections-per-subject", "2"]);
        let authorization = |subject: &str| format!("Bearer {}", keys.token(json!({ "sub": subject })));
        let (ada, bob) = (authorization("ada"), authorization("bob"));
        let ask = |token: &str| server.ask_to_subscribe("topic=a", &[("Authorization", token)]);
        let mut streams = [ask(&ada), ask(&ada), ask(&bob)];
        assert_eq!(streams.each_mut().map(status), [200; 3]);
        for _ in 0..5 {
            expect_refusal(&ask(&ada).read_response(), 429, "this subject");
        }
        server.expect_log("--max-connections-per-subject");
        let [one, ..] = streams;
        drop(one);
        eventually("the place of a stream that has left is free", || (status(&mut ask(&ada)) == 200).then_some(()));
    }

    /// Events and bytes of each token, whatever the form of the body; the clock of the server is not asked:
    /// what a test may take is far below a second's rate, or the burst is.
    fn a_publisher_that_has_used_up_its_rate_is_answered_429(backend) {
        let keys = Keys::new();
        let rates = ["--max-publish-events", "1", "--publish-burst", "100s", "--max-publish-bytes", "1MiB"];
        let server = keys.start(backend, &rates);
        let [ada, bob] = ["ada", "bob"].map(|subject| format!("Bearer {}", keys.token(json!({ "sub": subject }))));
        let publish = |token: &str, body: &str| {
            server.connect().post_with("application/json", body, &[("Authorization", token)])
        };
        let event = r#"{"topic":"a","data":"x"}"#;
        let mut subscriber = server.subscribe_with("topic=a", &[("Authorization", &ada)]);
        // An array that is larger than the burst is published whole. It has to be paid for.
        let array = format!("[{}]", vec![event; 300].join(","));
        assert_eq!(publish(&ada, &array).json()["published"], 300);
        let refused = publish(&ada, event);
        refused.problem(429);
        let wait: u64 = refused.header("Retry-After").and_then(|wait| wait.parse().ok()).expect("seconds");
        assert!((100..=201).contains(&wait), "{wait}");
        assert!(refused.text().contains("--max-publish-events"), "{}", refused.text());
        let lines = server.connect().post_with("application/x-ndjson", event, &[("Authorization", &ada)]);
        assert_eq!(lines.status, 429, "also before a stream begins");
        // The rate is the subject's, and another token of it is no way out.
        let another = format!("Bearer {}", keys.token(json!({ "sub": "ada", "jti": "2" })));
        assert_eq!(publish(&another, event).status, 429);
        assert_eq!(publish(&bob, event).status, 200, "another publisher is not concerned");
        assert_eq!(subscriber.data(301).len(), 301);
        // A token without a subject has a rate of its own.
        let [one, other] = ["1", "2"].map(|id| format!("Bearer {}", keys.token(json!({ "jti": id }))));
        assert_eq!(publish(&one, &array).status, 200);
        assert_eq!((publish(&one, event).status, publish(&other, event).status), (429, 200));
        server.expect_log("--max-publish-events");
    }

    /// A body of NDJSON that has begun is not broken off: it is read more slowly.
    fn a_stream_of_lines_is_slowed_and_not_broken_off(backend) {
        let keys = Keys::new();
        let rates = ["--max-publish-events", "2000", "--publish-burst", "100ms"];
        let server = keys.start(backend, &rates);
        let token = format!("Bearer {}", keys.token(json!({ "sub": "ada" })));
        let line = "{\"topic\":\"a\",\"data\":\"x\"}\n";
        let answer = server.connect().post_with("application/x-ndjson", line.repeat(3000), &[("Authorization", &token)]);
        assert_eq!((answer.status, answer.json()["published"].as_u64()), (200, Some(3000)));
    }

    /// A publisher that is slowed has had more than its part, so others go first where places are scarce.
    fn a_stream_of_lines_that_is_slowed_makes_room(backend) {
        let keys = Keys::new();
        let rates = ["--max-publish-events", "1", "--publish-burst", "1s", "--max-publishes", "2"];
        let server = keys.start(backend, &[&rates[..], &["--operators", "none"]].concat());
        let token = |subject: &str| format!("Bearer {}", keys.token(json!({ "sub": subject })));
        let mut slowed = server.connect();
        let fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
        let ada = token("ada");
        slowed.send(http::head("POST", "/events", &[&fields[..], &[("Authorization", ada.as_str())]].concat()));
        let lines = "{\"topic\":\"a\"}\n".repeat(200);
        slowed.send(format!("{:x}\r\n{lines}\r\n", lines.len()));
        let mut numbers = 0..;
        eventually("others need its place", || {
            let publisher = token(&format!("publisher-{}", numbers.next().expect("it has no end")));
            let response = server.connect().post_with(
                "application/json",
                r#"{"topic":"a"}"#,
                &[("Authorization", &publisher)],
            );
            assert!(matches!(response.status, 200 | 503), "{}", response.text());
            let came = slowed.receive_within(std::time::Duration::from_millis(1));
            (!matches!(came, Ok(None) | Err(_))).then_some(())
        });
        let ended = slowed.read_response();
        ended.problem(503);
        assert_eq!(ended.json()["published"], 200, "and it learns what is published");
    }

    /// Without keys a client's address has the rate.
    fn without_keys_the_rate_is_of_each_address_but_the_operators(backend) {
        let server = start(backend, &["--max-publish-events", "1", "--publish-burst", "100s"]);
        let array = format!("[{}]", vec![r#"{"topic":"a"}"#; 300].join(","));
        assert_eq!(publish_from(&server, 1, &array, &[]).status, 200);
        assert_eq!(publish_from(&server, 1, r#"{"topic":"a"}"#, &[]).status, 429);
        assert_eq!(publish_from(&server, 2, r#"{"topic":"a"}"#, &[]).status, 200);
        for _ in 0..3 {
            assert_eq!(server.connect().post("application/json", &array).status, 200);
        }
        // Behind a proxy that is not trusted no client is the operator.
        let forwarded = [("X-Forwarded-For", "127.0.0.1")];
        let mut connection = server.connect();
        assert_eq!(connection.post_with("application/json", &array, &forwarded).status, 200);
        assert_eq!(connection.post_with("application/json", &array, &forwarded).status, 429);
    }

    /// With every place taken that others may have, the operator still subscribes, publishes, asks, and ends
    /// connections.
    fn with_every_public_place_taken_the_operator_is_served(backend) {
        let bounds = [
            "--shards", "1", "--max-connections", "64", "--max-control-connections", "64", "--max-publishes", "16",
        ];
        let server = start(backend, &bounds);
        // 60 streams, and the next one is refused.
        let mut streams: Vec<Connection> = (0..60).map(|number| subscribe_from(&server, number, &[])).collect();
        for stream in &mut streams {
            assert_eq!(status(stream), 200);
        }
        expect_refusal(&subscribe_from(&server, 99, &[]).read_response(), 503, "as many subscribers");
        // Bodies that trickle, and connections of the control plane.
        let fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
        let mut crowd: Vec<Connection> = (0..100)
            .map(|number| {
                let mut connection = connect_from(client(1000 + number), server.address);
                connection.send_what_it_takes(http::head("POST", "/events", &fields));
                connection.send_what_it_takes("1\r\n\n\r\n");
                connection
            })
            .collect();
        for round in 0..3 {
            assert_eq!(server.get("/health/live").status, 200);
            assert_eq!(server.get("/topics").status, 200);
            server.publish("a", &format!("round {round}"));
            let mut own = server.subscribe("topic=a");
            server.publish("a", "own");
            assert_eq!(own.event().data, "own");
            // A client that says that it came from the operator's address is not believed.
            let claims = [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")];
            expect_refusal(&subscribe_from(&server, 99, &claims).read_response(), 503, "as many subscribers");
            // And neither is one that comes through a proxy on the operator's machine that is not trusted.
            let through = server.ask_to_subscribe("topic=a", &claims).read_response();
            expect_refusal(&through, 503, "as many subscribers");
            crowd.iter_mut().for_each(|connection| connection.send_what_it_takes("1\r\n\n\r\n"));
        }
        let ended = server.connect().request("DELETE", "/connections?topic=a", &[]);
        assert_eq!(ended.status, 204, "{}", ended.text());
        server.expect_subscribers("a", 0);
        server.expect_log("--max-connections;");
    }

    /// Bounds that needed a restart before.
    fn nearly_every_bound_changes_while_the_server_runs(backend) {
        let web = "[web]\nhost = 'fanfare.test'\n";
        let file = ConfigFile::new(web);
        let server = Server::start_configured(backend, file.path(), &[]);
        let mut quiet = server.subscribe("topic=quiet");
        let large = "x".repeat(2 << 10);
        for _ in 0..3000 {
            server.publish("kept", &large);
        }
        let retained = |server: &Server| server.topic("kept").expect("it is known")["retained"].as_u64().expect("a count");
        assert_eq!(retained(&server), 3000);
        file.write(&format!(
            "{web}[limits]\nmax-event = '1KiB'\nhead-time = '200ms'\nsubscription-bytes = '64KiB'\n\
             [retention]\nlog-bytes = '1MiB'\n\
             [streams]\nheartbeat = '1s'\nheartbeat-min = '300ms'\nmax-age = '2s'\nlaggard-bytes = '1MiB'\n"
        ));
        server.signal("HUP");
        let log = server.expect_log("the configuration was read again");
        assert!(!log.contains("need a restart"), "{log}");
        let event = json!({ "topic": "kept", "data": large }).to_string();
        server.connect().post("application/json", event).problem(413);
        eventually("the log has become smaller", || (retained(&server) < 500).then_some(()));
        // A head that is not complete in time: the shard has the new time.
        let mut slow = server.connect();
        slow.send("GET /events?topic=a HTTP/1.1\r\n");
        slow.read_response().problem(408);
        // The stream from before has the new interval, and a new one the new age.
        assert!(matches!(quiet.item(), support::Item::Comment(_) | support::Item::Retry(_)));
        eventually("a heartbeat", || matches!(quiet.item(), support::Item::Comment(_)).then_some(()));
        let (_, end) = server.subscribe("topic=aged").read_to_end();
        assert_eq!(end, support::End::Whole);
        // Topics that take more than the memory for them.
        let streams: Vec<Connection> = (0..1000)
            .map(|number| server.ask_to_subscribe(&format!("topic={}{number}", "long".repeat(50)), &[]))
            .collect();
        let mut refused = 0;
        for mut stream in streams {
            refused += usize::from(status(&mut stream) == 503);
        }
        assert!(refused > 0, "all of them found room");
        server.expect_log("--subscription-bytes");
    }
}

/// A key of both kinds, and tokens of it that allow everything.
struct Keys {
    signer: TokenSigner,
    file: ConfigFile,
}

impl Keys {
    fn new() -> Keys {
        const SECRET: &str = "the secret of these tests has more than 32 bytes";
        let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET.as_bytes()).expect("long");
        Keys { signer, file: ConfigFile::new(SECRET) }
    }

    fn start(&self, backend: Backend, options: &[&str]) -> Server {
        let file = format!("hs256:{}", self.file.name());
        Server::start_with(
            backend,
            &[&["--subscriber-keys", &file, "--publisher-keys", &file], options].concat(),
        )
    }

    fn token(&self, mut claims: Value) -> String {
        let claims = claims.as_object_mut().expect("an object");
        claims.insert("exp".to_owned(), json!(4_000_000_000_u64));
        claims.insert("fanfare".to_owned(), json!({ "subscribe": ["*"], "publish": ["*"] }));
        self.signer.mint(claims).expect("it signs")
    }
}
