//! The names that the server answers to, so that a page cannot use it by a name that leads here (DNS
//! rebinding). What every form of `Host` gets is in `hostile/hosts.txt`.

mod support;

use serde_json::json;
use support::server::{fanfare, run};
use support::{Backend, CONTROL_PATH, Response, Server, Subscriber, eventually, http, on_both_backends};

/// Publishes as the page of this host would.
fn publish_as(server: &Server, host: &str) -> Response {
    let origin = format!("http://{host}");
    let body = json!({ "topic": "a", "data": host }).to_string();
    server.connect().post_with("application/json", body, &[("Host", host), ("Origin", &origin)])
}

/// The refusal that says which option helps.
fn expect_misdirected(response: &Response, option: &str) {
    let problem = response.problem(421);
    let detail = problem["detail"].as_str().expect("a reason");
    assert!(detail.contains(option) && detail.contains("--host '*'"), "{detail}");
}

on_both_backends! {
    /// A page of any origin whose name resolved to a loopback address could publish and read, because its
    /// origin was the host of its requests.
    fn a_page_whose_name_leads_here_can_neither_read_nor_publish(backend) {
        let server = Server::start_with(backend, &["--host", "push.example", "--host", "Other.example."]);
        let mut subscriber = server.subscribe_with("topic=a", &[("Host", "push.example")]);
        let evil = format!("evil.example:{}", server.port());
        expect_misdirected(&publish_as(&server, &evil), "--host evil.example ");
        for target in ["/events?topic=a&last_event_id=earliest", "/topics", "/topics/a", "/"] {
            let response = server.connect().request("GET", target, &[("Host", &evil)]);
            expect_misdirected(&response, "--host evil.example ");
            // The same on a connection that the control plane has already.
            let mut kept = server.connect();
            assert_eq!(kept.request("GET", CONTROL_PATH, &[("Host", "localhost")]).status, 200);
            assert_eq!(kept.request("GET", "/health/live", &[("Host", &evil)]).text(), "live\n");
            expect_misdirected(&kept.request("GET", target, &[("Host", &evil)]), "--host evil.example ");
        }
        let own = ["push.example", "PUSH.example:443", "other.example", "localhost:1", "127.0.0.1", "[::1]:80"];
        for host in own {
            assert_eq!(publish_as(&server, host).status, 200, "{host}");
            assert_eq!(subscriber.event().data, host, "nothing of the other page came before it");
        }
        eventually("the log says why", || server.log().contains("--host").then_some(()));
    }

    fn a_long_host_is_not_repeated_as_a_whole(backend) {
        let server = Server::start(backend);
        let long = "x".repeat(10_000);
        let response = server.connect().request("GET", "/events?topic=a", &[("Host", &long)]);
        assert!(response.body.len() < 1000, "{}", response.text());
        expect_misdirected(&response, &format!("--host {} ", "x".repeat(100)));
    }

    fn a_star_answers_to_every_name(backend) {
        let server = Server::start_with(backend, &["--host", "*"]);
        let mut connection = server.connect();
        connection.send(http::head("GET", "/events?topic=a", &[("Host", "any.example")]));
        let mut subscriber = Subscriber::on(connection);
        assert_eq!(publish_as(&server, "any.example:1").status, 200);
        assert_eq!(subscriber.event().data, "any.example:1");
    }

    fn a_name_that_cannot_be_one_is_refused_at_the_start(backend) {
        for wrong in ["http://push.example", "push.example:443", "push.example/", "*.example", ""] {
            let mut command = fanfare();
            command.args(["--backend", &backend.to_string(), "--listen", "127.0.0.1:0", "--host", wrong]);
            let ran = run(command, "");
            assert_eq!(ran.code, Some(2), "{wrong}: {}", ran.stderr);
            assert!(ran.stderr.contains("no scheme, no port"), "{wrong}: {}", ran.stderr);
        }
    }
}
