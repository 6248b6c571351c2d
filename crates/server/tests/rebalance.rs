//! `POST /rebalance`: a share of all streams ends, evenly over a window, and each client resumes where it
//! was.

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::stream::{End, Item};
use support::tokens::{Keys, bearer, mint};
use support::{Backend, Connection, Response, Server, Subscriber, eventually, on_both_backends};

/// What starts the admin listener. The name is that of the tests' requests.
const ADMIN: [&str; 4] = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];

fn ask(admin: SocketAddr, query: &str, fields: &[(&str, &str)]) -> Response {
    Connection::open(admin).request("POST", &format!("/rebalance{query}"), fields)
}

fn metric(admin: SocketAddr, name: &str) -> u64 {
    let metrics = Connection::open(admin).request("GET", "/metrics", &[]).text();
    let count = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    count.expect("it is counted").parse().expect("a count")
}

/// Streams that were ended by a rebalance, as the metrics count them.
fn shed(admin: SocketAddr) -> u64 {
    metric(admin, "fanfare_connections_closed_total{reason=\"shed\"}")
}

/// So many streams, which the server has counted.
fn begin(server: &Server, admin: SocketAddr, count: usize) -> Vec<Subscriber> {
    let subscribers = (0..count).map(|_| server.subscribe("topic=a")).collect();
    let is_counted = || (metric(admin, "fanfare_connections") == count as u64).then_some(());
    eventually("the streams are counted", is_counted);
    subscribers
}

on_both_backends! {
    fn a_share_of_the_streams_ends_and_resumes_and_the_others_stay(backend) {
        const STREAMS: usize = 50;
        let options = ["--shards", "2", "--retry", "2s"];
        let mut server = Server::start_with(backend, &[&ADMIN[..], &options].concat());
        let admin = server.admin_address();
        let mut subscribers = begin(&server, admin, STREAMS);
        let first = server.publish("a", "first");
        subscribers.iter_mut().for_each(|it| assert_eq!(it.event().data, "first"));
        let answer = ask(admin, "?share=40%25&window=300ms", &[]);
        assert_eq!((answer.status, answer.json()), (202, json!({ "streams": 20 })));
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        // One more or fewer on each shard. All of them are counted before the last one ends.
        let ended = eventually("the streams have ended", || {
            let listed = Connection::open(admin).request("GET", "/connections?limit=1000", &[]).json();
            let left = listed["connections"].as_array().map(Vec::len).expect("a list");
            let ended = shed(admin) as usize;
            (ended >= 18 && left == STREAMS - ended).then_some(ended)
        });
        assert!((18..=22).contains(&ended), "{ended} have ended");
        let log = server.expect_log("a share of the streams is ended by request");
        assert!(log.contains("fanfare::audit") && log.contains("40%"), "{log}");
        server.publish("a", "second");
        let mut over = 0;
        for mut subscriber in subscribers {
            if let Some(event) = subscriber.event_or_end() {
                assert_eq!(event.data, "second");
                continue;
            }
            let (items, end) = subscriber.read_to_end();
            assert_eq!((items, end), (Vec::new(), End::Whole));
            over += 1;
            let mut again = server.subscribe(&format!("topic=a&last_event_id={first}"));
            assert_eq!(again.event().data, "second");
        }
        // Between the first look and the publish, a slower shard may have ended its last one.
        assert!((ended..=22).contains(&over), "{over} are over, and {ended} were counted");
    }

    /// Each client is told when to come back, with a spread, before its stream ends.
    fn all_streams_end_politely_where_all_are_meant(backend) {
        let mut server = Server::start_with(backend, &[&ADMIN[..], &["--retry", "3s"]].concat());
        let admin = server.admin_address();
        let subscribers = begin(&server, admin, 20);
        assert_eq!(ask(admin, "?share=100%25&window=1s", &[]).json(), json!({ "streams": 20 }));
        for mut subscriber in subscribers {
            let (items, end) = subscriber.read_to_end();
            assert_eq!(end, End::Whole);
            let Some(Item::Retry(retry)) = items.last() else { panic!("{items:?}") };
            assert!((3000..=4500).contains(retry), "{retry}");
        }
        // A shard publishes its counts at the end of a round.
        eventually("all of them are counted", || (shed(admin) == 20).then_some(()));
        server.subscribe("topic=a");
    }

    fn what_is_wrong_ends_nothing(backend) {
        let mut server = Server::start_with(backend, &ADMIN);
        let admin = server.admin_address();
        let mut subscriber = server.subscribe("topic=a");
        let shares = ["", "?share=0%25", "?share=20", "?share=150%25"];
        let windows = ["?share=20%25&window=2h", "?share=20%25&windows=1s"];
        for wrong in shares.into_iter().chain(windows) {
            let problem = ask(admin, wrong, &[]).problem(400);
            assert_eq!(problem["type"], json!("/problems/invalid-parameter"), "{problem}");
        }
        let response = Connection::open(admin).request("GET", "/rebalance?share=100%25", &[]);
        assert_eq!((response.status, response.header("Allow")), (405, Some("POST")));
        // Pages of other sites cannot read the answer, and could end all streams.
        for field in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
            let problem = ask(admin, "?share=100%25&window=0s", &[field]).problem(403);
            assert_eq!(problem["type"], json!("/problems/origin-not-allowed"), "{problem}");
        }
        ask(admin, "?share=100%25", &[("Host", "evil.example")]).problem(421);
        // There is a bound for what is under way.
        for _ in 0..16 {
            assert_eq!(ask(admin, "?share=1%25&window=1h", &[]).json(), json!({ "streams": 0 }));
        }
        let problem = ask(admin, "?share=1%25", &[]).problem(503);
        assert_eq!(problem["type"], json!("/problems/rebalances-full"), "{problem}");
        assert_eq!(shed(admin), 0);
        server.publish("a", "stays");
        assert_eq!(subscriber.event().data, "stays");
    }

    /// Only a token for every topic may end the streams of others, and without keys everyone would.
    fn a_public_listener_takes_it_from_a_publisher_of_everything(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let ask = |authorization: &str| {
            let fields = [("Authorization", authorization)];
            server.connect().request("POST", "/rebalance?share=100%25&window=0s", &fields)
        };
        let claims = json!({ "fanfare": { "publish": ["a*"], "subscribe": ["*"] } });
        let part = bearer(&mint(&keys.publishers.signer, claims));
        ask(&part).problem(403);
        server.connect().request("POST", "/rebalance?share=100%25", &[]).problem(401);
        let claims = json!({ "sub": "operator\n1", "fanfare": { "publish": ["*"] } });
        let all = bearer(&mint(&keys.publishers.signer, claims));
        let answer = ask(&all);
        assert_eq!((answer.status, answer.json()), (202, json!({ "streams": 0 })));
        let log = server.expect_log("a share of the streams is ended by request");
        assert!(log.contains("operator\\\\n1") || log.contains("operator\\n1"), "{log}");
        let server = Server::start_with(backend, &[]);
        let problem = server.connect().request("POST", "/rebalance?share=100%25", &[]).problem(403);
        assert_eq!(problem["type"], json!("/problems/only-on-admin-listener"), "{problem}");
    }
}
