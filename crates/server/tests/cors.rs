//! Which pages may subscribe and publish.

mod support;

use serde_json::json;
use support::{Backend, CONTROL_PATH, Server, http, on_both_backends};

/// What the head of an answer says about who may read it.
fn fields(head: &str) -> [Option<&str>; 3] {
    ["Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"]
        .map(|name| http::header(head, name))
}

/// The heads of the answers to a subscription, the same on a kept connection, a refused one, and a question.
fn heads(server: &Server, origin: &str, host: &str) -> Vec<(&'static str, String)> {
    let headers = [("Origin", origin), ("Host", host)];
    let straight = server.subscribe_with("topic=a", &headers).head;
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
    connection.send(http::head("GET", "/events?topic=a", &headers));
    let kept = connection.read_head();
    let refused = server.connect().request("GET", "/events", &headers).head;
    assert_eq!(http::status_of(&refused), 400);
    let asked = server.connect().request("GET", "/topics", &headers).head;
    let preflight = server.connect().request("OPTIONS", "/events", &headers).head;
    vec![
        ("subscribing", straight),
        ("subscribing on a kept connection", kept),
        ("a refusal", refused),
        ("asking", asked),
        ("preflight", preflight),
    ]
}

fn post(server: &Server, headers: &[(&str, &str)]) -> u16 {
    let body = json!({ "topic": "a", "data": "from a page" }).to_string();
    let response = server.connect().post_with("application/json", body, headers);
    if response.status != 200 {
        response.problem(response.status);
    }
    response.status
}

on_both_backends! {
    /// A page of another origin that reads a stream with `fetch` could not see that something was missing.
    fn pages_of_other_origins_may_read_that_there_is_a_gap(backend) {
        let exposed = |head: &str| http::header(head, "Access-Control-Expose-Headers").map(str::to_owned);
        let read = Some("Fanfare-Gap".to_owned());
        for listed in ["https://app.example", "*"] {
            let server = Server::start_with(backend, &["--cors-origin", listed]);
            for (case, head) in heads(&server, "https://app.example", "push.example") {
                assert_eq!(exposed(&head), read, "{case} with {listed}");
            }
            let gap = [("Origin", "https://app.example"), ("Last-Event-ID", "unknown")];
            let head = server.subscribe_with("topic=a", &gap).head;
            assert_eq!((http::header(&head, "Fanfare-Gap"), exposed(&head)), (Some("true"), read.clone()));
            for (case, head) in heads(&server, "null", "push.example") {
                assert_eq!(exposed(&head), None, "{case}: this page may read nothing");
            }
            for (case, head) in heads(&server, "http://push.example", "push.example") {
                assert_eq!(exposed(&head), None, "{case}: the server's own page may read everything");
            }
        }
    }

    fn a_listed_origin_is_echoed_with_credentials(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "https://app.example,https://b.example:8443"]);
        for origin in ["https://app.example", "https://b.example:8443"] {
            for (case, head) in heads(&server, origin, "push.example") {
                assert_eq!(fields(&head), [Some(origin), Some("true"), Some("Origin")], "{case}");
            }
            assert_eq!(post(&server, &[("Origin", origin)]), 200);
        }
        for origin in [
            "https://app.example.evil", "http://app.example", "https://app.example:444", "https://app.example/",
            "https://evil.example", "null", "", "https://",
        ] {
            for (case, head) in heads(&server, origin, "push.example") {
                assert_eq!(fields(&head), [None, None, Some("Origin")], "{case} from {origin:?}");
            }
        }
    }

    fn a_star_allows_any_origin_without_credentials(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "*", "--cors-origin", "https://app.example"]);
        for (case, head) in heads(&server, "https://anybody.example", "push.example") {
            assert_eq!(fields(&head), [Some("*"), None, None], "{case}");
        }
        for (case, head) in heads(&server, "https://app.example", "push.example") {
            assert_eq!(fields(&head), [Some("https://app.example"), Some("true"), Some("Origin")], "{case}");
        }
        for (case, head) in heads(&server, "null", "push.example") {
            assert_eq!(fields(&head)[..2], [None, None], "{case}");
        }
        assert_eq!(post(&server, &[("Origin", "https://anybody.example")]), 200);
        assert_eq!(post(&server, &[("Origin", "null")]), 403);
    }

    fn null_is_allowed_only_where_it_is_listed(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "null"]);
        for (case, head) in heads(&server, "null", "push.example") {
            assert_eq!(fields(&head), [Some("null"), Some("true"), Some("Origin")], "{case}");
        }
    }

    fn a_page_of_this_machine_may_under_each_of_its_names(backend) {
        let server = Server::start(backend);
        let port = server.port();
        let host = format!("127.0.0.1:{port}");
        for origin in [format!("http://localhost:{port}"), format!("http://[::1]:{port}")] {
            for (case, head) in heads(&server, &origin, &host) {
                assert_eq!(fields(&head), [Some(origin.as_str()), Some("true"), Some("Origin")], "{case}");
            }
            assert_eq!(post(&server, &[("Origin", &origin), ("Host", &host)]), 200);
        }
        // Its own origin needs no words.
        for (case, head) in heads(&server, &format!("http://{host}"), &host) {
            assert_eq!(fields(&head), [None, None, Some("Origin")], "{case}");
        }
        assert_eq!(post(&server, &[("Origin", &format!("http://{host}")), ("Host", &host)]), 200);
        // Another port is another program, and another host another machine.
        assert_eq!(post(&server, &[("Origin", "http://localhost:1"), ("Host", &host)]), 403);
        assert_eq!(post(&server, &[("Origin", &format!("http://localhost:{port}")), ("Host", "push.example")]), 403);
    }

    fn a_foreign_page_may_not_publish_and_is_not_told_more(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "https://app.example"]);
        let mut subscriber = server.subscribe("topic=a");
        for origin in ["https://evil.example", "null", "http://app.example", "\u{ff}", ""] {
            assert_eq!(post(&server, &[("Origin", origin)]), 403, "{origin:?}");
            // Not even whether the body was right.
            let wrong = server.connect().post_with("text/plain", "x", &[("Origin", origin)]);
            wrong.problem(403);
            assert_eq!(fields(&wrong.head)[..2], [None, None]);
        }
        // A program sends no origin, and may.
        assert_eq!(post(&server, &[]), 200);
        assert_eq!(subscriber.event().data, "from a page");
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker");
    }

    /// The header fields of a request find their way into the answer's head in one place: there they must not
    /// split it.
    fn an_origin_cannot_write_into_the_head(backend) {
        let server = Server::start_with(backend, &["--cors-origin", "*"]);
        let origin = "https://x.example\u{e4}\tSet-Cookie: a=b";
        for (case, head) in heads(&server, origin, "push.example") {
            assert_eq!(http::header(&head, "Set-Cookie"), None, "{case}");
        }
    }
}
