//! Forward authorization: an endpoint decides about subscriptions, over real sockets, however badly it
//! behaves.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use support::endpoint::{Endpoint, Reply, answer, json as answer_json, whole};
use support::file::ConfigFile;
use support::server::{arguments, fanfare, run};
use support::tokens::{PublisherKey, bearer, mint, now_unix_s};
use support::{Backend, Response, Server, Subscriber, eventually, http, on_both_backends};

fn start(backend: Backend, key: &PublisherKey, endpoint: &Endpoint, options: &[&str]) -> Server {
    start_with(backend, key, &endpoint.url(), options)
}

fn start_with(backend: Backend, key: &PublisherKey, url: &str, options: &[&str]) -> Server {
    let key = key.option();
    let all = ["--publisher-keys", &key, "--authorize-url", url];
    Server::start_with(backend, &[&all, options].concat())
}

fn cookie(value: &str) -> [(&'static str, &str); 1] {
    [("Cookie", value)]
}

fn status(server: &Server, query: &str, headers: &[(&str, &str)]) -> u16 {
    http::status_of(&server.ask_to_subscribe(query, headers).read_head())
}

fn ask(server: &Server, query: &str, headers: &[(&str, &str)]) -> Response {
    server.connect().request("GET", &format!("/events?{query}"), headers)
}

/// The same question on a connection that the control plane has.
fn ask_on_kept(server: &Server, query: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
    connection.request("GET", &format!("/events?{query}"), headers)
}

fn publish(server: &Server, key: &PublisherKey, topic: &str, data: &str, private: bool) {
    let event = json!({ "topic": topic, "data": data, "private": private }).to_string();
    let authorization = key.authorization();
    let headers = [("Authorization", authorization.as_str())];
    let response = server.connect().post_with("application/json", event, &headers);
    assert_eq!(response.status, 200, "{}", response.text());
}

fn end(server: &Server, key: &PublisherKey, query: &str) {
    let authorization = key.authorization();
    let headers = [("Authorization", authorization.as_str())];
    let response = server.connect().request("DELETE", &format!("/connections?{query}"), &headers);
    assert_eq!(response.status, 204, "{}", response.text());
}

on_both_backends! {
    fn the_endpoint_is_told_what_it_decides_by(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(answer(204)));
        let server = start(backend, &key, &endpoint, &["--trusted-proxies", "127.0.0.1"]);
        let headers = [
            ("Origin", "https://app.example"),
            ("Cookie", "session=1"),
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-Uri", "/injected"),
            ("X-Forwarded-Method", "POST"),
            ("Last-Event-ID", "x-7"),
            ("Authorization", "Custom abc"),
            ("X-Other", "not passed on"),
        ];
        let mut subscriber = server.subscribe_with("topic=a%2Fb&last_event_id=x-7&gap=off", &headers);
        publish(&server, &key, "a/b", "hello", false);
        assert_eq!(subscriber.event().data, "hello");
        let requests = endpoint.requests();
        let [request] = requests.as_slice() else { panic!("{requests:?}") };
        let mut lines: Vec<String> = request.trim_end().lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("user-agent: fanfare/"));
        let mut expected = [
            "GET /authorize?from=fanfare HTTP/1.1".to_owned(),
            format!("host: {}", endpoint.address),
            "accept: application/json".to_owned(),
            "x-forwarded-method: GET".to_owned(),
            "x-forwarded-uri: /events?topic=a%2Fb&gap=off".to_owned(),
            "x-forwarded-host: fanfare.test".to_owned(),
            "x-forwarded-for: 192.0.2.7".to_owned(),
            "origin: https://app.example".to_owned(),
            "cookie: session=1".to_owned(),
            "authorization: Custom abc".to_owned(),
        ];
        // The name that the tests use as the host.
        let host = lines.iter().find(|line| line.starts_with("x-forwarded-host: ")).expect("a host");
        expected[5] = host.clone();
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);

        // Only what the option names is passed on, and a field that two readers could read differently is
        // refused.
        let server = start(backend, &key, &endpoint, &["--authorize-headers", "x-session"]);
        let headers = [("X-Session", "s"), ("Cookie", "c=1"), ("Authorization", "Custom abc")];
        assert_eq!(status(&server, "topic=a", &headers), 200);
        let request = endpoint.requests().pop().expect("asked");
        assert!(request.contains("\r\nx-session: s\r\n"), "{request}");
        assert!(!request.contains("cookie") && !request.contains("Custom"), "{request}");
        let twice = [("X-Session", "s"), ("X-Session", "t")];
        for asked in [ask, ask_on_kept] {
            asked(&server, "topic=a", &twice).problem(400);
        }
    }

    fn the_endpoint_decides(backend) {
        let key = PublisherKey::new();
        let endpoint = Endpoint::start(|request| {
            if request.contains("cookie: ada") {
                answer_json(&json!({ "subject": "ada", "topics": ["a", "orders/{id}"], "private": true }))
            } else if request.contains("cookie: bob") {
                answer(204)
            } else if request.contains("cookie: old") {
                answer_json(&json!({ "expires": 1_000 }))
            } else if request.contains("authorization: ") {
                answer(403)
            } else {
                let fields = vec![("WWW-Authenticate", "Basic realm=\"app\"".to_owned())];
                Reply::Answer(401, fields, "sign in".to_owned())
            }
        });
        let server = start(backend, &key, &endpoint, &["--cors-origin", "https://app.example"]);
        let page = ("Origin", "https://app.example");
        let mut ada = server.subscribe_with("topic=a&topic=orders/7", &cookie("ada"));
        let mut bob = server.subscribe_with("topic=a", &cookie("bob"));
        publish(&server, &key, "a", "private", true);
        publish(&server, &key, "a", "public", false);
        assert_eq!(ada.data(2), ["private", "public"]);
        assert_eq!(bob.data(1), ["public"], "private events have to be allowed");
        for asked in [ask, ask_on_kept] {
            let response = asked(&server, "topic=a&topic=b", &[page, ("Cookie", "ada")]);
            let detail = response.problem(403)["detail"].as_str().expect("text").to_owned();
            assert!(detail.contains("\"b\""), "{detail}");
            assert_eq!(response.header("Access-Control-Allow-Origin"), Some("https://app.example"));
            let response = asked(&server, "topic=a", &[page]);
            let problem = response.problem(401);
            assert_eq!(problem["detail"], "this subscription is not allowed", "its body is not passed on");
            assert_eq!(response.header("WWW-Authenticate"), Some("Basic realm=\"app\""));
            assert_eq!(response.header("Access-Control-Allow-Origin"), Some("https://app.example"));
            let response = asked(&server, "topic=a", &[page, ("Authorization", "Custom x")]);
            response.problem(403);
            assert_eq!(response.header("WWW-Authenticate"), None);
            asked(&server, "topic=a", &cookie("old")).problem(401);
        }
        // On a kept connection a subscription is one, too, and a HEAD is judged as a GET.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
        connection.send(http::head("GET", "/events?topic=a", &cookie("ada")));
        let mut kept = Subscriber::on(connection);
        publish(&server, &key, "a", "kept", true);
        assert_eq!(kept.event().data, "kept");
        assert_eq!(server.connect().request("HEAD", "/events?topic=a", &cookie("ada")).status, 200);
        assert_eq!(server.connect().request("HEAD", "/events?topic=a", &[]).status, 401);
        server.expect_log("subscriptions were refused by the authorization endpoint");
    }

    /// The endpoint is one of a stranger's worst days: no subscriber is let in, no stream waits, and the log
    /// says why.
    fn without_an_answer_nobody_is_let_in_and_all_else_goes_on(backend) {
        let key = PublisherKey::new();
        let endpoint = Endpoint::with(answer(204));
        let options = ["--authorize-timeout", "1s", "--debug-auth"];
        let server = start(backend, &key, &endpoint, &options);
        let mut stream = server.subscribe_with("topic=a", &cookie("good"));
        let too_long = "x".repeat(1_000_000);
        let cases: Vec<(&str, Reply, &str)> = vec![
            ("garbage", Reply::Bytes(b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec()), "malformed"),
            ("another protocol", Reply::Bytes(b"HTTP/2 200\r\n\r\n".to_vec()), "malformed"),
            ("no JSON", Reply::Answer(200, vec![], "<html>sign in</html>".to_owned()), "malformed"),
            ("another member", answer_json(&json!({ "admin": true })), "malformed"),
            ("a pattern that is none", answer_json(&json!({ "topics": ["{a,b}"] })), "malformed"),
            ("a large body", Reply::Answer(200, vec![], too_long.clone()), "too large"),
            ("a large field", Reply::Answer(204, vec![("X", too_long)], String::new()), "too large"),
            ("a body without an end", Reply::Flood, "too large"),
            ("fields without an end", Reply::FloodOfFields, "too large"),
            ("a redirection", Reply::Answer(302, vec![("Location", endpoint.url())], String::new()), "status"),
            ("an error", answer(500), "status"),
            ("not found", answer(404), "status"),
            ("it closes at once", Reply::Close, "cannot be reached"),
            ("it closes within its answer", Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab".to_vec()), ""),
            ("it never answers", Reply::Silence, "in time"),
            ("it trickles", Reply::Trickle, "in time"),
        ];
        for (index, (case, reply, reason)) in cases.iter().enumerate() {
            endpoint.becomes(reply.clone());
            let session = format!("session={index}");
            let asked = if index % 2 == 0 { ask } else { ask_on_kept };
            let response = asked(&server, "topic=a", &cookie(&session));
            let detail = response.problem(503)["detail"].as_str().expect("text").to_owned();
            assert!(detail.contains(reason), "{case}: {detail}");
            let retry_after: u64 = response.header("Retry-After").expect(case).parse().expect("seconds");
            assert!((1..=4).contains(&retry_after), "{case}");
            // The stream and the publishers do not notice.
            publish(&server, &key, "a", case, false);
            assert_eq!(stream.event().data, *case);
        }
        assert!(endpoint.requests().iter().all(|request| request.starts_with("GET /authorize?from=fanfare ")));
        let log = server.expect_log("the authorization endpoint gave no answer");
        assert!(!log.contains("session=") && !log.contains("panicked"), "{log}");
        endpoint.becomes(answer(204));
        assert_eq!(status(&server, "topic=a", &cookie("good again")), 200);
    }

    fn an_endpoint_that_dies_and_comes_back_is_asked_again(backend) {
        let key = PublisherKey::new();
        let reserved = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = reserved.local_addr().expect("it is bound");
        drop(reserved);
        let server = start_with(backend, &key, &format!("http://{address}/"), &["--authorize-cache", "off"]);
        ask(&server, "topic=a", &[]).problem(503);
        let endpoint = Endpoint::start_at(address, |_| answer(204));
        assert_eq!(status(&server, "topic=a", &[]), 200);
        // It takes a connection that was kept and closes it: the question is asked again on a new one.
        endpoint.becomes(Reply::Last(204, String::new()));
        for _ in 0..5 {
            assert_eq!(status(&server, "topic=a", &[]), 200);
        }
        endpoint.becomes(Reply::Close);
        ask(&server, "topic=a", &[]).problem(503);
        endpoint.becomes(answer(204));
        assert_eq!(status(&server, "topic=a", &[]), 200);
    }

    fn equal_requests_that_wait_are_one_question_and_connections_are_used_again(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(Reply::Hold));
        let server = start(backend, &key, &endpoint, &["--authorize-cache", "off"]);
        let mut waiting: Vec<_> =
            (0..20).map(|_| server.ask_to_subscribe("topic=a", &cookie("same"))).collect();
        let mut other = server.ask_to_subscribe("topic=a", &cookie("other"));
        eventually("both questions are asked", || (endpoint.busy() == 2).then_some(()));
        // The engine has all of them.
        publish(&server, &key, "a", "before", false);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(endpoint.requests().len(), 2);
        endpoint.release(answer(204));
        for connection in &mut waiting {
            assert_eq!(http::status_of(&connection.read_head()), 200);
        }
        assert_eq!(http::status_of(&other.read_head()), 200);
        assert_eq!(endpoint.requests().len(), 2);
        endpoint.becomes(answer(204));
        for number in 0..10 {
            assert_eq!(status(&server, "topic=a", &cookie(&number.to_string())), 200);
        }
        assert_eq!((endpoint.requests().len(), endpoint.connections()), (12, 2));
    }

    fn an_answer_is_kept_for_a_short_time_for_requests_that_are_equal(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(answer(204)));
        let server = start(backend, &key, &endpoint, &["--authorize-cache", "60s"]);
        let asked = |query: &str, headers: &[(&str, &str)]| {
            let before = endpoint.requests().len();
            let status = status(&server, query, headers);
            (status, endpoint.requests().len() - before)
        };
        assert_eq!(asked("topic=a", &cookie("c=1")), (200, 1));
        assert_eq!(asked("topic=a", &cookie("c=1")), (200, 0));
        assert_eq!(asked("topic=a&last_event_id=earliest", &cookie("c=1")), (200, 0));
        assert_eq!(asked("topic=b", &cookie("c=1")), (200, 1), "another topic");
        assert_eq!(asked("topic=a", &cookie("c=2")), (200, 1), "another cookie");
        assert_eq!(asked("topic=a", &[("Authorization", "c=1")]), (200, 1), "the same value in another field");
        assert_eq!(asked("topic=a", &[("Cookie", "c=1"), ("Origin", "https://x.example")]), (200, 1));
        endpoint.becomes(Reply::Answer(204, vec![("Cache-Control", "private, no-store".to_owned())], String::new()));
        for _ in 0..2 {
            assert_eq!(asked("topic=a", &cookie("c=3")), (200, 1));
        }
        endpoint.becomes(answer(500));
        for _ in 0..2 {
            assert_eq!(asked("topic=a", &cookie("c=4")), (503, 1));
        }
        endpoint.becomes(answer(204));
        assert_eq!(asked("topic=a", &cookie("c=4")), (200, 1));
        // A refusal holds for a second at most: a user who signs in meanwhile tries again.
        endpoint.becomes(answer(401));
        assert_eq!(asked("topic=a", &cookie("c=5")).0, 401);
        endpoint.becomes(answer(204));
        eventually("the refusal is forgotten", || (status(&server, "topic=a", &cookie("c=5")) == 200).then_some(()));
    }

    fn a_client_that_leaves_while_it_waits_frees_its_place(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(Reply::Hold));
        let options = ["--authorize-questions", "1", "--authorize-timeout", "9s"];
        let server = start(backend, &key, &endpoint, &options);
        let first = server.ask_to_subscribe("topic=a", &cookie("first"));
        eventually("it is asked", || (endpoint.requests().len() == 1).then_some(()));
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
        kept.send(http::head("GET", "/events?topic=a", &cookie("kept")));
        let mut last = server.ask_to_subscribe("topic=a", &cookie("last"));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(endpoint.requests().len(), 1, "one question at a time");
        endpoint.becomes(answer(204));
        drop(kept);
        drop(first);
        // The first question is given up long before its time, and the second one is never asked.
        assert_eq!(http::status_of(&last.read_head()), 200);
        let requests = endpoint.requests();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert!(requests[1].contains("cookie: last"));
    }

    fn a_bounded_number_of_questions_is_asked_at_once(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(Reply::Hold));
        let server = start(backend, &key, &endpoint, &["--authorize-questions", "2"]);
        let mut waiting: Vec<_> = (0..6)
            .map(|number| server.ask_to_subscribe("topic=a", &cookie(&number.to_string())))
            .collect();
        eventually("two are asked", || (endpoint.busy() == 2).then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((endpoint.requests().len(), endpoint.connections()), (2, 2));
        endpoint.release(answer(204));
        for connection in &mut waiting {
            assert_eq!(http::status_of(&connection.read_head()), 200);
        }
        assert_eq!(endpoint.requests().len(), 6);
        assert!(endpoint.connections() <= 4, "{}", endpoint.connections());
    }

    /// Subscriptions on kept connections that waited for a slow endpoint took all connections of the control
    /// plane, because none of them was idle. No publish and no health check found one.
    fn subscriptions_that_wait_leave_connections_to_others(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(Reply::Hold));
        let options = ["--max-control-connections", "16", "--max-publishes", "4", "--operators", "192.0.2.1"];
        let server = start(backend, &key, &endpoint, &options);
        let keep = || {
            let mut connection = server.connect();
            assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
            connection
        };
        // A quarter of the connections, the half of which is the operator's.
        let mut waiting: Vec<_> = ["1", "2"].map(|number| {
            let mut connection = keep();
            connection.send(http::head("GET", "/events?topic=a", &cookie(number)));
            connection
        }).into();
        eventually("both are asked", || (endpoint.busy() == 2).then_some(()));
        for _ in 0..20 {
            let refused = keep().request("GET", "/events?topic=a", &cookie("3"));
            assert_eq!(refused.header("Retry-After"), Some("1"));
            refused.problem(503);
        }
        publish(&server, &key, "a", "x", false);
        server.expect_log("too many wait for the decision about them");
        endpoint.release(answer(204));
        for connection in &mut waiting {
            assert_eq!(http::status_of(&connection.read_head()), 200);
        }
        let mut connection = keep();
        connection.send(http::head("GET", "/events?topic=a", &cookie("3")));
        assert_eq!(http::status_of(&connection.read_head()), 200);
    }

    fn a_revocation_ends_streams_and_forgets_answers(backend) {
        let key = PublisherKey::new();
        let ada = answer_json(&json!({ "subject": "ada" }));
        let endpoint = Endpoint::with(ada.clone());
        let server = start(backend, &key, &endpoint, &["--authorize-cache", "60s"]);
        let mut streams: Vec<_> = (0..4).map(|_| server.subscribe_with("topic=a", &cookie("ada"))).collect();
        assert_eq!(endpoint.requests().len(), 1);
        endpoint.becomes(answer(403));
        end(&server, &key, "subject=ada");
        for stream in &mut streams {
            stream.read_to_end();
        }
        assert_eq!(status(&server, "topic=a", &cookie("ada")), 403, "the endpoint was asked again");

        // An answer that is on its way may be older than the revocation: it lets no subscriber in.
        endpoint.becomes(Reply::Hold);
        let mut waiting = server.ask_to_subscribe("topic=b", &cookie("ada"));
        eventually("it is asked", || (endpoint.busy() == 1).then_some(()));
        end(&server, &key, "subject=ada");
        endpoint.release(ada.clone());
        let head = waiting.read_head();
        assert_eq!(http::status_of(&head), 503, "{head}");
        assert!(http::header(&head, "Retry-After").is_some());
        // The endpoint is asked anew, and knows what holds now.
        endpoint.becomes(ada);
        eventually("ada is let in again", || (status(&server, "topic=b", &cookie("ada")) == 200).then_some(()));
    }

    fn a_stream_ends_when_the_endpoint_says(backend) {
        let key = PublisherKey::new();
        let expires = now_unix_s() + 3;
        let endpoint = Endpoint::with(answer_json(&json!({ "expires": expires })));
        let server = start(backend, &key, &endpoint, &[]);
        server.subscribe("topic=a").read_to_end();
        assert!(now_unix_s() <= expires + 1);
    }

    /// A valid token and a valid signed URL are enough; the endpoint decides about all other requests. A
    /// revoked token is refused without a question.
    fn a_request_with_a_valid_token_is_judged_by_it(backend) {
        let (key, endpoint) = (PublisherKey::new(), Endpoint::with(answer(204)));
        let option = key.option();
        let server = start(backend, &key, &endpoint, &["--subscriber-keys", &option, "--token-cookie", "token"]);
        let token = |claims| mint(&key.signer, claims);
        let good = token(json!({ "jti": "t1", "fanfare": { "subscribe": ["a"] } }));
        let old = token(json!({ "exp": now_unix_s() - 60, "fanfare": { "subscribe": ["a"] } }));
        let asked = |query: &str, name: &str, value: &str| {
            let before = endpoint.requests().len();
            let status = status(&server, query, &[(name, value)]);
            (status, endpoint.requests().len() - before)
        };
        assert_eq!(asked("topic=a", "Authorization", &bearer(&good)), (200, 0));
        assert_eq!(asked("topic=a", "Cookie", &format!("token={good}")), (200, 0));
        assert_eq!(asked("topic=b", "Authorization", &bearer(&good)), (403, 0), "its grants hold");
        assert_eq!(asked("topic=a", "Authorization", &bearer(&old)), (200, 1));
        assert_eq!(asked("topic=a", "Authorization", "Bearer opaque"), (200, 1));
        assert_eq!(asked("topic=a", "Authorization", "Basic YTpi"), (200, 1));
        assert_eq!(asked("topic=b", "Cookie", "session=1"), (200, 1));
        end(&server, &key, "token=t1");
        assert_eq!(asked("topic=a", "Authorization", &bearer(&good)), (401, 0));
        // Publishers have tokens: the endpoint is not asked about them.
        let before = endpoint.requests().len();
        assert_eq!(server.connect().post("application/json", r#"{"topic":"a","data":"x"}"#).status, 401);
        assert_eq!(endpoint.requests().len(), before);
    }

    fn sighup_changes_the_endpoint(backend) {
        let key = PublisherKey::new();
        let (first, second) = (Endpoint::with(answer(204)), Endpoint::with(answer(403)));
        let text = |url: &str| {
            format!("[access]\npublisher-keys = [\"{}\"]\nauthorize-url = \"{url}\"\n", key.option())
        };
        let file = ConfigFile::new(&text(&first.url()));
        let server = Server::start_configured(backend, file.path(), &["--host", "*"]);
        assert_eq!(status(&server, "topic=a", &[]), 200);
        file.write(&text("http://192.0.2.1/"));
        server.signal("HUP");
        server.expect_log("the configuration stays as it was");
        assert_eq!(status(&server, "topic=a", &cookie("x")), 200);
        file.write(&text(&second.url()));
        server.signal("HUP");
        server.expect_log("changed=\"authorize-url\"");
        assert_eq!(status(&server, "topic=a", &[]), 403, "what the first one said does not hold any more");
        assert_eq!(first.requests().len(), 2);
    }

    /// The former endpoint answered after the reload, and let its clients in.
    fn an_answer_of_a_former_endpoint_that_comes_after_the_reload_lets_nobody_in(backend) {
        let key = PublisherKey::new();
        let (first, second) = (Endpoint::with(Reply::Hold), Endpoint::with(answer(204)));
        let text = |url: &str| {
            format!("[access]\npublisher-keys = [\"{}\"]\nauthorize-url = \"{url}\"\n", key.option())
        };
        let file = ConfigFile::new(&text(&first.url()));
        let server = Server::start_configured(backend, file.path(), &["--host", "*"]);
        let mut waiting = server.ask_to_subscribe("topic=a", &[]);
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
        kept.send(http::head("GET", "/events?topic=a", &cookie("kept")));
        eventually("both are asked", || (first.busy() == 2).then_some(()));
        file.write(&text(&second.url()));
        server.signal("HUP");
        server.expect_log("changed=\"authorize-url\"");
        first.release(answer(204));
        for connection in [&mut waiting, &mut kept] {
            let refused = connection.read_response();
            assert_eq!((refused.status, refused.header("Retry-After").is_some()), (503, true));
        }
        assert_eq!(status(&server, "topic=a", &[]), 200, "the endpoint of now lets in");
    }

    fn options_that_do_not_go_together_are_refused(backend) {
        let key = PublisherKey::new();
        let option = key.option();
        let refused = |options: &[&str], part: &str| {
            let mut command = fanfare();
            command.args(arguments(backend, options));
            let ran = run(command, "");
            assert!(ran.code.is_some_and(|code| code > 0) && ran.stderr.contains(part), "{ran:?}");
        };
        let url = ["--authorize-url", "http://127.0.0.1:1/"];
        refused(&url, "needs --publisher-keys");
        let keys = ["--publisher-keys", option.as_str()];
        refused(&[&keys[..], &url, &["--anonymous-subscribe"]].concat(), "contradict");
        refused(&[&keys[..], &["--authorize-url", "http://192.0.2.1/"]].concat(), "--plain-http");
        refused(&[&keys[..], &["--authorize-url", "ftp://127.0.0.1/"]].concat(), "https://");
        refused(&[&keys[..], &url, &["--authorize-headers", "x-forwarded-for"]].concat(), "never passes it on");
        refused(&[&keys[..], &url, &["--authorize-timeout", "1m"]].concat(), "must be from");
    }
}

/// Bytes of an answer that ends a head and begins another one are part of no head of the server's.
#[test]
fn the_sum_of_bounds_counts_what_access_takes() {
    let (key, file) = (PublisherKey::new(), ConfigFile::new(""));
    file.remove();
    let server =
        start_with(Backend::Epoll, &key, "http://127.0.0.1:9/", &["--revocations-file", &file.name()]);
    server.expect_log("memory_at_most");
    for part in [
        "verified tokens 128.0 MiB",
        "tokens to be verified 128.0 MiB",
        "revocations ",
        "remembered authorizations ",
        "requests that wait for the authorization endpoint ",
        "connections to the authorization endpoint ",
    ] {
        assert!(server.log().contains(part), "{part}: {}", server.log());
    }
}

#[test]
fn a_challenge_of_the_endpoint_writes_no_field_of_its_own() {
    let key = PublisherKey::new();
    let bytes = whole(401, &[("WWW-Authenticate", "Basic\tx\u{e4}".to_owned())], "");
    let endpoint = Endpoint::with(Reply::Bytes(bytes));
    let server = start(Backend::Epoll, &key, &endpoint, &[]);
    let response = ask(&server, "topic=a", &[]);
    assert_eq!(response.status, 401);
    assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"), "only a plain text is passed on");
}

/// By TLS, with the certificates that the system trusts, and with no others.
#[test]
fn an_endpoint_is_asked_by_tls_if_its_certificate_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let chain = vec![made.cert.der().clone()];
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .expect("a certificate and its key");
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://localhost:{}/", listener.local_addr().expect("it is bound").port());
    // The thread waits for connections until the process of the test ends.
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            let mut stream = rustls::StreamOwned::new(connection, socket);
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").and_then(|()| stream.flush());
        }
    });
    let key = PublisherKey::new();
    let option = key.option();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    for (trusted, expected) in [(made.cert.pem(), 200), (other.cert.pem(), 503)] {
        let file = ConfigFile::new(&trusted);
        let mut command = fanfare();
        let options = ["--publisher-keys", option.as_str(), "--authorize-url", &url];
        command.args(arguments(Backend::Epoll, &options)).env("SSL_CERT_FILE", file.name());
        command.env_remove("SSL_CERT_DIR");
        let server = Server::run_with_input(command, std::process::Stdio::null());
        assert_eq!(status(&server, "topic=a", &[]), expected);
    }
}

/// Each kind of refusal is in the log with its reason, and nothing that lets a client in is: no token, no
/// cookie, no signature of a URL.
#[test]
fn the_log_says_why_and_shows_no_secret() {
    let (key, keys, endpoint) =
        (PublisherKey::new(), Endpoint::with(answer(500)), Endpoint::with(answer(401)));
    let urls = ConfigFile::new("the secret of the signed URLs has more than 32 bytes");
    let (option, url_file, jwks) = (key.option(), urls.name(), keys.url());
    let signer =
        fanfare_access::UrlSigner::new([&b"the secret of the signed URLs has more than 32 bytes"[..]]);
    let topics = [fanfare::Topic::new("a").expect("a topic")];
    let signed = signer.expect("long").mint(&topics, now_unix_s() - 60, None).expect("signed");
    let token =
        mint(&key.signer, json!({ "jti": "barred", "fanfare": { "subscribe": ["a"], "publish": ["a"] } }));
    let old = mint(&key.signer, json!({ "exp": now_unix_s() - 60, "fanfare": { "subscribe": ["a"] } }));
    let secrets = ["cookie-secret-1", "opaque-secret-2"];
    let mut log = String::new();
    // With the endpoint and without it, and with keys that cannot be fetched.
    for (with, parts) in [
        (
            vec![
                "--subscriber-keys",
                &option,
                "--authorize-cache",
                "off",
                "--authorize-url",
                &endpoint.url(),
            ],
            vec![
                "refused by the authorization endpoint",
                "gave no answer",
                "status: ",
                "topic_not_covered",
                "revoked",
            ],
        ),
        (vec!["--subscriber-keys", &option], vec!["expired", "missing", "malformed", "revoked"]),
        (vec!["--subscriber-jwks", &jwks], vec!["no_keys_yet", "keys could not be fetched"]),
    ] {
        let common =
            ["--url-keys", &url_file, "--token-in-query", "--token-cookie", "token", "--log", "trace"];
        let publishers = ["--publisher-keys", option.as_str(), "--debug-auth"];
        let server = Server::start_with(Backend::Epoll, &[&with[..], &common, &publishers].concat());
        end(&server, &key, "token=barred");
        for reply in [answer(401), answer(500)] {
            endpoint.becomes(reply);
            let opaque = format!("Bearer {}", secrets[1]);
            let (barred, expired) = (bearer(&token), bearer(&old));
            let fresh =
                bearer(&mint(&key.signer, json!({ "fanfare": { "subscribe": ["a"], "publish": ["a"] } })));
            for asked in [ask, ask_on_kept] {
                for (query, headers) in [
                    ("topic=a", vec![]),
                    ("topic=a", vec![("Cookie", secrets[0])]),
                    ("topic=a", vec![("Authorization", opaque.as_str())]),
                    ("topic=a", vec![("Authorization", barred.as_str())]),
                    ("topic=a", vec![("Authorization", expired.as_str())]),
                    ("topic=b", vec![("Authorization", fresh.as_str())]),
                    (&signed, vec![]),
                    (&format!("topic=a&access_token={old}"), vec![]),
                    (&format!("topic=a&access_token={}", secrets[1]), vec![]),
                ] {
                    let response = asked(&server, query, &headers);
                    assert!([401, 403, 503].contains(&response.status), "{query}: {}", response.status);
                    assert!(
                        secrets.iter().all(|secret| !response.text().contains(secret)),
                        "{}",
                        response.text()
                    );
                }
            }
            let event = r#"{"topic":"b","data":"x"}"#;
            let post = |value: &str| {
                server.connect().post_with("application/json", event, &[("Authorization", value)]).status
            };
            assert_eq!((post(&fresh), post(&barred), post(&opaque)), (403, 401, 401));
        }
        for part in parts {
            server.expect_log(part);
        }
        log += &server.log();
    }
    let signature_of = |token: &str| token.rsplit_once('.').expect("three parts").1.to_owned();
    let of_url = signed.rsplit_once('=').expect("a signature").1;
    for secret in [&signature_of(&token), &signature_of(&old), of_url, secrets[0], secrets[1]] {
        assert!(secret.len() > 8 && !log.contains(secret), "{secret} is in the log");
    }
}
