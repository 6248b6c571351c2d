//! `GET /connections`: who is connected, for questions of support.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use support::tokens::{Keys, bearer, mint};
use support::{Backend, Connection, Response, Server, Subscriber, eventually, on_both_backends};

/// What starts the admin listener. The name is that of the tests' requests.
const ADMIN: [&str; 4] = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];

fn ask(admin: SocketAddr, query: &str) -> Response {
    Connection::open(admin).request("GET", &format!("/connections{query}"), &[])
}

/// The connections of all pages.
fn all(admin: SocketAddr, query: &str) -> Vec<Value> {
    let (mut connections, mut next) = (Vec::new(), Some(format!("/connections{query}")));
    let mut connection = Connection::open(admin);
    while let Some(target) = next {
        let response = connection.request("GET", &target, &[]);
        assert_eq!(response.status, 200, "{}", response.text());
        let mut page = response.json();
        next = page["next"].as_str().map(str::to_owned);
        let link = next.as_ref().map(|next| format!("<{next}>; rel=\"next\""));
        assert_eq!(response.header("Link"), link.as_deref());
        connections.append(page["connections"].as_array_mut().expect("a list"));
    }
    connections
}

fn names(connections: &[Value]) -> BTreeSet<String> {
    let names = connections.iter().map(|it| it["connection"].as_str().expect("a name").to_owned());
    let names: BTreeSet<String> = names.collect();
    assert_eq!(names.len(), connections.len(), "one is there twice");
    names
}

on_both_backends! {
    fn the_admin_listener_lists_every_connection_once(backend) {
        let mut server = Server::start_with(backend, &[&ADMIN[..], &["--shards", "3"]].concat());
        let admin = server.admin_address();
        assert_eq!(ask(admin, "").json(), json!({ "connections": [], "next": null }));
        let mut subscribers: Vec<Subscriber> = (0..40)
            .map(|number| server.subscribe(&format!("topic=all&topic=user/{}", number % 4)))
            .collect();
        let patterns = server.subscribe("match=user/*&topic=all");
        let listed = all(admin, "?limit=7");
        assert_eq!(listed.len(), 41);
        let shards: BTreeSet<u64> = listed.iter().filter_map(|it| it["shard"].as_u64()).collect();
        assert!(shards.iter().all(|shard| *shard < 3), "{shards:?}");
        let every = names(&listed);
        // What is read by name, and by the text of a pattern: what DELETE would end.
        assert_eq!(names(&all(admin, "?topic=all&limit=1000")), every);
        assert_eq!(all(admin, "?topic=user/1&limit=3").len(), 10);
        assert_eq!(all(admin, "?topic=unknown").len(), 0);
        let of_pattern = all(admin, "?topic=user/*");
        assert_eq!(of_pattern.len(), 1);
        let it = &of_pattern[0];
        assert_eq!((&it["topics"], &it["patterns"], &it["selectors"]), (&json!(["all"]), &json!(["user/*"]), &json!(2)));
        assert_eq!((&it["transport"], &it["format"], &it["laggard"]), (&json!("http/1"), &json!("chunked"), &Value::Null));
        assert_eq!(it["client"], Value::Null, "connections are not counted by address");
        // Each has the address of its client's socket.
        let of_address = all(admin, "?address=127.0.0.1");
        let addresses: BTreeSet<SocketAddr> =
            of_address.iter().filter_map(|it| it["address"].as_str()?.parse().ok()).collect();
        assert!(addresses.len() == 41 && addresses.iter().all(|it| it.ip().is_loopback()), "{addresses:?}");
        assert_eq!(all(admin, "?address=127.0.0.2").len(), 0);
        // The position is the id of the newest event that it was sent.
        let id = server.publish("user/2", "x");
        subscribers.iter_mut().skip(2).step_by(4).for_each(|it| assert_eq!(it.event().data, "x"));
        let listed = all(admin, "?topic=user/2");
        assert!(listed.iter().all(|it| it["position"] == json!(id)), "{listed:?}");
        drop(subscribers);
        drop(patterns);
        eventually("all have left", || all(admin, "").is_empty().then_some(()));
    }

    fn a_laggard_says_how_far_it_is_behind(backend) {
        let mut server = Server::start_with(backend, &[&ADMIN[..], &["--send-buffer", "4KiB"]].concat());
        let admin = server.admin_address();
        let _slow = server.ask_with_small_buffer("topic=a", 2048);
        server.expect_subscribers("a", 1);
        for _ in 0..200 {
            server.publish("a", &"x".repeat(10_000));
        }
        let lag = eventually("there is a laggard", || {
            let mut connections = all(admin, "?topic=a");
            assert_eq!(connections.len(), 1);
            Some(connections[0]["laggard"].take()).filter(|lag| !lag.is_null() && lag["behind"] != 0)
        });
        assert!(lag["behind"].as_u64().is_some_and(|behind| behind <= 200), "{lag}");
        assert!(lag["standing_s"].is_number() && lag["unsent_bytes"].as_u64().is_some(), "{lag}");
    }

    /// By subject and token, with the token of a publisher that may publish everything.
    fn a_public_listener_lists_for_a_publisher_of_everything(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let token = |subject: &str, id: &str| {
            let claims = json!({ "sub": subject, "jti": id, "exp": support::tokens::now_unix_s() + 600,
                                 "fanfare": { "subscribe": ["a"] } });
            bearer(&mint(&keys.subscribers, claims))
        };
        let subscribe = |subject: &str, id: &str| {
            server.subscribe_with("topic=a", &[("Authorization", &token(subject, id))])
        };
        let _ada = [subscribe("ada l&", "t1"), subscribe("ada l&", "t2")];
        let _bob = subscribe("bob", "t3");
        let list = |authorization: &str, query: &str| {
            server.connect().request("GET", &format!("/connections{query}"), &[("Authorization", authorization)])
        };
        let all = keys.publishers.authorization();
        let page = list(&all, "?subject=ada%20l%26&limit=1");
        let json = page.json();
        assert_eq!((page.status, json["connections"].as_array().map(Vec::len)), (200, Some(1)), "{json}");
        assert_eq!(page.header("Cache-Control"), Some("no-store"));
        let ends_in = json["connections"][0]["ends_in_s"].as_f64().expect("a token has an end");
        assert!(ends_in > 0.0 && ends_in <= 600.0, "{ends_in}");
        // What is not kept is not there: neither the text of a subject nor an age.
        assert_eq!((json["connections"][0].get("subject"), json["connections"][0].get("age_s")), (None, None));
        let next = json["next"].as_str().expect("there is more").to_owned();
        let rest = server.connect().request("GET", &next, &[("Authorization", &all)]).json();
        assert_eq!(rest["connections"].as_array().map(Vec::len), Some(1), "{rest}");
        assert_eq!(list(&all, "?token=t3").json()["connections"].as_array().map(Vec::len), Some(1));
        assert_eq!(list(&all, "?subject=t3").json()["connections"].as_array().map(Vec::len), Some(0));
        for wrong in ["?limit=0", "?limit=1001", "?subjects=a", "?subject=a&topic=b", "?address=x", "?after=x"] {
            list(&all, wrong).problem(400);
        }
        let part = bearer(&mint(&keys.publishers.signer, json!({ "fanfare": { "publish": ["a*"], "subscribe": ["*"] } })));
        list(&part, "").problem(403);
        server.get("/connections").problem(401);
        let response = server.connect().request("PUT", "/connections", &[("Authorization", &all)]);
        assert_eq!((response.status, response.header("Allow")), (405, Some("GET, HEAD, DELETE")));
    }

    /// Everyone may publish to a server without keys. The addresses of its subscribers are not for everyone.
    fn a_server_without_keys_lists_on_the_admin_listener_alone(backend) {
        let mut server = Server::start_with(backend, &ADMIN);
        let admin = server.admin_address();
        let _subscriber = server.subscribe("topic=a");
        let problem = server.get("/connections").problem(403);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("admin listener")), "{problem}");
        assert_eq!(all(admin, "").len(), 1);
        for wrong in ["?limit=1001", "?topic=", "?topic=a&topic=b"] {
            ask(admin, wrong).problem(400);
        }
        let mut connection = Connection::open(admin);
        assert_eq!(connection.request("DELETE", "/connections?topic=a", &[]).status, 405);
        Connection::open(admin).request("GET", "/connections", &[("Host", "evil.example")]).problem(421);
    }

    /// Where connections are counted by address, the client behind a proxy is known.
    fn a_client_behind_a_proxy_is_found_by_its_address(backend) {
        let options = ["--trusted-proxies", "127.0.0.1", "--max-connections-per-address", "5", "--operators", "unix"];
        let mut server = Server::start_with(backend, &[&ADMIN[..], &options].concat());
        let admin = server.admin_address();
        let through = |client: &str| server.subscribe_with("topic=a", &[("X-Forwarded-For", client)]);
        let _clients = ["203.0.113.7", "203.0.113.7", "203.0.113.8", "2001:db8::1"].map(through);
        let found = all(admin, "?address=203.0.113.7");
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|it| it["client"] == "203.0.113.7"), "{found:?}");
        // One client has a network of IPv6.
        assert_eq!(all(admin, "?address=2001:db8::77").len(), 1);
        assert_eq!(all(admin, "?address=127.0.0.1").len(), 4, "the peer is the proxy");
    }
}
