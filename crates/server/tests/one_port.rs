//! One port for everything: subscribing, publishing, asking and looking, in any order on any connection.

mod support;

use serde_json::json;
use support::{Backend, CONTROL_PATH, Server, Subscriber, http, on_both_backends};

on_both_backends! {
    fn everything_is_on_one_port(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let id = server.publish("a", "1");
        assert_eq!(subscriber.event().id, id);
        for (path, content_type, part) in [
            ("/", "text/html; charset=utf-8", "<!doctype html>"),
            ("/style.css", "text/css; charset=utf-8", "{"),
            ("/demo.js", "text/javascript; charset=utf-8", "EventSource"),
            ("/access.js", "text/javascript; charset=utf-8", "cookie"),
            ("/health/live", "text/plain; charset=utf-8", "live\n"),
            ("/health/ready", "text/plain; charset=utf-8", "ready\n"),
            ("/topics", "application/json", "\"topics\""),
            ("/topics/a", "application/json", "\"subscribers\""),
        ] {
            let response = server.get(path);
            assert_eq!(response.status, 200, "{path}");
            assert_eq!(response.header("Content-Type"), Some(content_type), "{path}");
            assert!(response.text().to_lowercase().contains(&part.to_lowercase()), "{path}: {}", response.text());
            let head = server.connect().request("HEAD", path, &[]);
            assert_eq!((head.status, head.header("Content-Type")), (200, Some(content_type)), "HEAD {path}");
        }
    }

    fn topics_are_counted(backend) {
        let server = Server::start(backend);
        assert_eq!(server.get("/topics").json(), json!({ "topics": [], "next": null }));
        let _subscribers = (server.subscribe("topic=a"), server.subscribe("topic=a&topic=b/c%20d"));
        server.expect_subscribers("a", 2);
        let ids = [server.publish("a", "1"), server.publish("a", "2"), server.publish("alone", "3")];
        let all = server.get("/topics").json();
        let expected = json!({ "topics": [
            { "topic": "a", "subscribers": 2, "laggards": 0, "retained": 2, "oldest": ids[0], "newest": ids[1] },
            { "topic": "alone", "subscribers": 0, "laggards": 0, "retained": 1, "oldest": ids[2], "newest": ids[2] },
            { "topic": "b/c d", "subscribers": 1, "laggards": 0, "retained": 0, "oldest": null, "newest": null },
        ], "next": null });
        assert_eq!(all, expected);
        // A topic may have slashes in it, escaped or not.
        for path in ["/topics/b/c%20d", "/topics/b%2Fc%20d"] {
            assert_eq!(server.get(path).json(), expected["topics"][2], "{path}");
        }
        server.get("/topics/nobody").problem(404);
    }

    fn a_kept_connection_can_become_a_subscriber(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        let first = server.publish("a", "1");
        assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
        assert_eq!(connection.post("application/json", r#"{"topic":"a","data":"2"}"#).status, 200);
        assert_eq!(connection.request("GET", "/nothing", &[]).problem(404)["status"], 404);
        assert_eq!(connection.request("GET", "/topics/a", &[]).json()["retained"], 2);
        // A wrong subscription is answered, and the connection stays of use.
        connection.request("GET", "/events", &[]).problem(400);
        connection.send(http::head("GET", "/events?topic=a", &[("Last-Event-ID", &first)]));
        let mut subscriber = Subscriber::on(connection);
        assert_eq!(subscriber.data(1), ["2"]);
        server.publish("a", "3");
        assert_eq!(subscriber.data(1), ["3"]);
        server.expect_subscribers("a", 1);
        subscriber.half_close();
        server.expect_subscribers("a", 0);
    }

    /// Of requests that come in one segment each is answered in turn, up to the one that subscribes.
    fn pipelined_requests_are_answered_in_turn(backend) {
        let server = Server::start(backend);
        let body = r#"{"topic":"a","data":"posted"}"#;
        let post = http::head(
            "POST",
            "/events",
            &[("Content-Type", "application/json"), ("Content-Length", &body.len().to_string())],
        );
        let page = http::head("GET", CONTROL_PATH, &[]);
        let live = http::head("GET", "/health/live", &[]);
        let subscribe = http::head("GET", "/events?topic=a&last_event_id=earliest", &[]);
        let mut connection = server.connect();
        let ignored = http::head("GET", "/health/ready", &[]);
        connection.send(format!("{page}{post}{body}{live}{subscribe}{ignored}"));
        assert_eq!(connection.read_response().status, 200);
        let id = connection.read_response().json()["id"].clone();
        assert_eq!(connection.read_response().text(), "live\n");
        let mut subscriber = Subscriber::on(connection);
        assert_eq!(subscriber.event().id, id);
        server.publish("a", "behind");
        assert_eq!(subscriber.event().data, "behind", "what followed the subscription was not answered");
    }

    fn a_head_may_come_byte_by_byte(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        for byte in http::head("GET", "/events?topic=a", &[("Accept", "text/event-stream")]).bytes() {
            connection.send([byte]);
        }
        let mut subscriber = Subscriber::on(connection);
        server.publish("a", "1");
        assert_eq!(subscriber.event().data, "1");

        let body = "topic=a&data=slowly";
        let length = body.len().to_string();
        let fields = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", length.as_str())];
        let mut connection = server.connect();
        for byte in format!("{}{body}", http::head("POST", "/events", &fields)).bytes() {
            connection.send([byte]);
        }
        assert_eq!(connection.read_response().status, 200);
        assert_eq!(subscriber.event().data, "slowly");
    }

    fn one_empty_line_before_a_request_is_passed_over(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        connection.send(format!("\r\n{}", http::head("GET", "/events?topic=a", &[])));
        let mut subscriber = Subscriber::on(connection);
        server.publish("a", "1");
        assert_eq!(subscriber.event().data, "1");
        let mut connection = server.connect();
        connection.send(format!("\r\n{}", http::head("GET", "/health/live", &[])));
        assert_eq!(connection.read_response().status, 200);
    }

    fn absolute_targets_and_odd_hosts_are_served(backend) {
        let server = Server::start(backend);
        for target in ["http://fanfare.test/events?topic=a", "HTTP://x:80/events?topic=a"] {
            let mut connection = server.connect();
            connection.send(http::head("GET", target, &[]));
            let mut subscriber = Subscriber::on(connection);
            server.publish("a", "1");
            assert_eq!(subscriber.event().data, "1", "{target}");
        }
        server.settle();
        assert_eq!(server.get("http://fanfare.test/health/live").status, 200);
        // The kept connection reads it the same.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
        connection.send(http::head("GET", "http://fanfare.test/events?topic=a", &[]));
        let mut subscriber = Subscriber::on(connection);
        server.publish("a", "2");
        assert_eq!(subscriber.event().data, "2");
    }

    fn head_is_the_head_of_a_stream_and_no_subscriber(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        let response = connection.request("HEAD", "/events?topic=a", &[]);
        assert_eq!(response.status, 200);
        assert_eq!(response.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(response.header("Cache-Control"), Some("no-store, no-cache, no-transform"));
        assert_eq!(response.header("X-Accel-Buffering"), Some("no"));
        assert_eq!(response.header("Content-Length"), None, "a stream has no length");
        assert_eq!(server.subscribers("a"), 0);
        // The next answer follows at once: there was no body.
        assert_eq!(connection.request("GET", "/health/live", &[]).text(), "live\n");
    }

    fn a_preflight_is_cheap_and_kept_for_long(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "https://app.example"]);
        let fields = [
            ("Origin", "https://app.example"),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "last-event-id"),
        ];
        let response = server.connect().request("OPTIONS", "/events?topic=a", &fields);
        assert_eq!(response.status, 204);
        assert_eq!(response.header("Access-Control-Allow-Origin"), Some("https://app.example"));
        let allowed = response.header("Access-Control-Allow-Headers").expect("allowed headers");
        for name in ["last-event-id", "authorization", "cache-control"] {
            assert!(allowed.split(", ").any(|known| known == name), "{allowed}");
        }
        assert!(response.header("Access-Control-Allow-Methods").is_some_and(|methods| methods.contains("POST")));
        let age: u64 = response.header("Access-Control-Max-Age").and_then(|age| age.parse().ok()).expect("an age");
        assert!(age >= 7200, "{age}");
        assert!(response.header("Allow").is_some());
    }

    /// A flood of control connections closed most health checks before they were answered. Now a shard
    /// answers them, and the control plane those that come on a connection which it has already.
    fn health_checks_are_answered_by_a_shard(backend) {
        let server = Server::start(backend);
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", CONTROL_PATH, &[]).status, 200);
        let handed_over = |path: &str| {
            let mut connection = server.connect();
            let response = connection.request("GET", path, &[("Host", "a-name-of-the-monitor")]);
            assert_eq!(response.status, 200, "{path}");
            (response.text(), response.header("Connection").map(str::to_owned))
        };
        // A shard that has answered closes the connection.
        let close = Some("close".to_owned());
        assert_eq!(handed_over("/health/live"), ("live\n".to_owned(), close.clone()));
        assert_eq!(handed_over("/health/ready?verbose"), ("ready\n".to_owned(), close));
        assert_eq!(server.get("/health").status, 404);
        let mut connection = server.connect();
        let head = connection.request("HEAD", "/health/live", &[]);
        assert_eq!((head.status, head.header("Content-Length")), (200, Some("5")));
        assert_eq!(head.header("Connection"), Some("close"));
        connection.expect_end();
        // A line end behind a request is no other request.
        let mut connection = server.connect();
        connection.send(format!("{}\r\n", http::head("GET", "/health/live", &[])));
        assert_eq!(connection.read_response().header("Connection"), Some("close"));
        for (path, text) in [("/health/live", "live\n"), ("/health/ready", "ready\n")] {
            let response = kept.request("GET", path, &[]);
            assert_eq!((response.status, response.text()), (200, text.to_owned()));
        }
    }

    fn wrong_methods_and_paths_are_answered_with_what_would_be_right(backend) {
        let server = Server::start(backend);
        for (method, path, allow) in [
            ("PUT", "/events", "GET, HEAD, POST, OPTIONS"),
            ("DELETE", "/events?topic=a", "GET, HEAD, POST, OPTIONS"),
            ("PATCH", "/events", "GET, HEAD, POST, OPTIONS"),
            ("POST", "/topics", "GET, HEAD"),
            ("DELETE", "/topics/a", "GET, HEAD"),
            ("POST", "/health/live", "GET, HEAD"),
            ("PUT", "/health/ready", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("BREW", "/demo.js", "GET, HEAD"),
            ("get", "/style.css", "GET, HEAD"),
        ] {
            let response = server.connect().request(method, path, &[]);
            response.problem(405);
            assert_eq!(response.header("Allow"), Some(allow), "{method} {path}");
        }
        for path in ["/nothing", "/events/", "/EVENTS", "/events/a", "//events", "/topics/", "/health", "/.env", "/%00"] {
            let response = server.get(path);
            response.problem(404);
        }
        // A path is compared as it is written: an escape is another path, on both planes.
        server.get("/e%76ents?topic=a").problem(404);
        server.connect().request("OPTIONS", "*", &[]).problem(404);
        server.connect().request("CONNECT", "/events", &[]).problem(405);
        server.expect_health();
    }

    fn wrong_subscriptions_are_refused_with_advice(backend) {
        let server = Server::start_with(backend, &["--max-topics", "3"]);
        for (query, part) in [
            ("", "at least one topic"),
            ("?", "at least one topic"),
            ("?Topic=a", "at least one topic"),
            ("?topic=", "topic is empty"),
            ("?topic=a&topic=b%0Ac", "control character"),
            ("?topic=%00", "control character"),
            ("?topic=%FF", "UTF-8"),
            ("?topic=1&topic=2&topic=3&topic=4", "3 topics"),
            ("?topic=a&gap=perhaps", "gap"),
        ] {
            let target = format!("/events{query}");
            // Straight from the shard, and on a connection that the control plane has.
            let straight = server.get(&target);
            let mut kept = server.connect();
            assert_eq!(kept.request("GET", CONTROL_PATH, &[]).status, 200);
            for response in [straight, kept.request("GET", &target, &[])] {
                let problem = response.problem(400);
                let detail = problem["detail"].as_str().expect("a reason");
                assert!(detail.contains(part), "{query}: {detail}");
            }
        }
        let long = "t".repeat(257);
        server.get(&format!("/events?topic={long}")).problem(400);
        let mut repeated = server.subscribe("topic=1&topic=2&topic=3&topic=1");
        server.publish("3", "x");
        assert_eq!(repeated.event().data, "x");
    }
}
