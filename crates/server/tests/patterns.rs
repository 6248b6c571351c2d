//! Subscriptions to patterns of topics: `match=`.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_access::{Algorithm, TokenSigner};
use serde_json::{Value, json};
use support::file::ConfigFile;
use support::{Backend, Response, Server, Subscriber, eventually, http, on_both_backends};

const SUBSCRIBERS: &str = "the secret of the subscribers has more than 32 bytes";
const PUBLISHERS: &str = "the secret of the publishers has more than 32 bytes";

/// A server with keys, and tokens for it.
struct Guarded {
    server: Server,
    _files: [ConfigFile; 2],
}

impl Guarded {
    fn start(backend: Backend, options: &[&str]) -> Guarded {
        let files = [ConfigFile::new(SUBSCRIBERS), ConfigFile::new(PUBLISHERS)];
        let [subscribers, publishers] = files.each_ref().map(|file| format!("hs256:{}", file.name()));
        let keys = ["--subscriber-keys", &subscribers, "--publisher-keys", &publishers];
        Guarded { server: Server::start_with(backend, &[&keys, options].concat()), _files: files }
    }

    fn subscribe(&self, query: &str, grants: &[&str]) -> Subscriber {
        self.server.subscribe_with(query, &[("Authorization", &token(SUBSCRIBERS, "subscribe", grants))])
    }

    fn publish(&self, topics: &[&str], data: &str, private: bool) -> String {
        let event = json!({ "topic": topics, "data": data, "private": private }).to_string();
        let authorization = token(PUBLISHERS, "publish", &["*"]);
        let headers = [("Authorization", authorization.as_str())];
        let response = self.server.connect().post_with("application/json", &event, &headers);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["id"].as_str().expect("an id").to_owned()
    }
}

/// A header with a token that has these grants for an hour.
#[allow(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
fn token(secret: &str, of: &str, grants: &[&str]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({ "exp": now + 3600, "sub": "ada", "fanfare": { of: grants } });
    let signer = TokenSigner::from_secret(Algorithm::Hs256, secret.as_bytes()).expect("long");
    format!("Bearer {}", signer.mint(claims.as_object().expect("an object")).expect("it signs"))
}

fn publish(server: &Server, topics: &[&str], data: &str) -> String {
    server.publish_json(&json!({ "topic": topics, "data": data }))
}

/// The answer on a connection of its own, and the one on a connection that the control plane has.
fn ask_on_both(server: &Server, query: &str, headers: &[(&str, &str)]) -> [Response; 2] {
    let target = format!("/events?{query}");
    let mut kept = server.connect();
    assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
    [server.connect().request("GET", &target, headers), kept.request("GET", &target, headers)]
}

/// The reason of a refusal, which is the same on both connections.
fn refusal(server: &Server, query: &str, headers: &[(&str, &str)], status: u16) -> String {
    let [fresh, kept] = ask_on_both(server, query, headers).map(|response| response.problem(status));
    assert_eq!(fresh, kept, "{query}");
    fresh["detail"].as_str().expect("text").to_owned()
}

on_both_backends! {
    fn a_stream_gets_what_its_patterns_match_and_each_event_once(backend) {
        let server = Server::start(backend);
        let mut mixed = server.subscribe("topic=a&match=orders/*&match=/users/%7Bid%7D");
        let mut all = server.subscribe("match=*");
        let mut templates = server.subscribe("match=/users/{id}&match=/{%2Brest}&match=orders/{id}.json");
        for (topics, data) in [
            (&["a"][..], "exact"),
            (&["b"], "no selector"),
            (&["orders"], "shorter than the prefix"),
            (&["orders/"], "the prefix itself"),
            (&["orders/1/2"], "behind the prefix"),
            (&["/users/ada"], "a value"),
            (&["/users/ada/mail"], "a value without a slash only"),
            (&["a", "orders/7", "orders/8.json", "/users/bob"], "four selectors"),
            (&["a"], "last"),
        ] {
            publish(&server, topics, data);
        }
        assert_eq!(
            mixed.data(6),
            ["exact", "the prefix itself", "behind the prefix", "a value", "four selectors", "last"]
        );
        assert_eq!(templates.data(3), ["a value", "a value without a slash only", "four selectors"]);
        let all = all.data(9);
        assert_eq!((all[1].as_str(), all[7].as_str(), all[8].as_str()), ("no selector", "four selectors", "last"));
    }

    /// An application may have topics with a `*` or a brace in their names.
    fn a_topic_is_a_name_whatever_it_looks_like(backend) {
        let server = Server::start(backend);
        let mut names = server.subscribe("topic=orders/*&topic=/users/%7Bid%7D");
        let mut pattern = server.subscribe("match=orders/*");
        let mut exact = server.subscribe("match=orders/1");
        publish(&server, &["orders/1"], "an order");
        publish(&server, &["/users/ada"], "a user");
        publish(&server, &["orders/*"], "the name with a star");
        publish(&server, &["/users/{id}"], "the name with braces");
        publish(&server, &["orders/1"], "an order again");
        assert_eq!(names.data(2), ["the name with a star", "the name with braces"]);
        assert_eq!(pattern.data(3), ["an order", "the name with a star", "an order again"]);
        // A pattern without a variable and without a star at its end is a name.
        assert_eq!(exact.data(2), ["an order", "an order again"]);
    }

    fn a_stream_of_patterns_resumes_behind_its_last_event(backend) {
        let server = Server::start(backend);
        let mut ids = Vec::new();
        for number in 0..300 {
            let topic = format!("{}/{}", ["orders", "news"][number % 2], number % 7);
            ids.push(publish(&server, &[&topic], &number.to_string()));
        }
        let expected = |from: usize| -> Vec<String> {
            (from..300).filter(|number| number % 2 == 0).map(|number| number.to_string()).collect()
        };
        for query in ["match=orders/*", "match=orders/{id}", "topic=orders/1&match=orders/{%2Brest}&match=nothing*"] {
            for after in [0, 149, 150, 297] {
                let mut stream = server.subscribe_with(query, &[("Last-Event-ID", &ids[after])]);
                assert_eq!(stream.header("Fanfare-Gap"), None, "{query} after {after}");
                let expected = expected(after + 1);
                assert_eq!(stream.data(expected.len()), expected, "{query} after {after}");
            }
            let mut stream = server.subscribe(&format!("{query}&last_event_id=earliest"));
            assert_eq!(stream.data(150), expected(0), "{query}");
        }
        // The last one of the pattern was seen: nothing is to come but what is published from now on.
        let mut stream = server.subscribe_with("match=orders/*", &[("Last-Event-ID", &ids[298])]);
        publish(&server, &["news/9"], "of another topic");
        publish(&server, &["orders/new"], "live");
        assert_eq!(stream.data(1), ["live"]);
    }

    /// A replay reads the whole log for a pattern that matches little of it, in many small steps.
    fn a_pattern_that_matches_little_finds_it_among_much(backend) {
        let server = Server::start_with(backend, &["--retain-events", "40000"]);
        let first = publish(&server, &["rare/1"], "1");
        for round in 0..20 {
            let events: Vec<Value> =
                (0..1_000).map(|number| json!({ "topic": format!("busy/{number}"), "data": "x" })).collect();
            server.publisher().publish_all(&events);
            publish(&server, &["rare/1"], &(round + 2).to_string());
        }
        let mut stream = server.subscribe_with("match=rare/{id}", &[("Last-Event-ID", &first)]);
        assert_eq!(stream.header("Fanfare-Gap"), None);
        // What is published meanwhile comes behind what is replayed.
        publish(&server, &["rare/2"], "live");
        let mut expected: Vec<String> = (2..22).map(|number| number.to_string()).collect();
        expected.push("live".to_owned());
        assert_eq!(stream.data(21), expected);
    }

    fn what_the_log_has_dropped_is_a_gap_of_the_patterns_that_match_it(backend) {
        let server = Server::start_with(backend, &["--retain-events", "2"]);
        let mut before = server.subscribe("match=orders/*&match=news/*");
        let first = publish(&server, &["orders/1"], "1");
        assert_eq!(before.data(1), ["1"]);
        let news = publish(&server, &["news/1"], "news");
        for number in 2..=4 {
            publish(&server, &["orders/1"], &number.to_string());
        }
        publish(&server, &["orders/2"], "other");
        // Two events behind the first one are gone.
        let mut stream = server.subscribe_with("match=orders/*", &[("Last-Event-ID", &first)]);
        assert_eq!(stream.header("Fanfare-Gap"), Some("true"));
        let gap = stream.event();
        assert_eq!(gap.kind, "fanfare.gap", "{gap:?}");
        assert_eq!(stream.data(3), ["3", "4", "other"]);
        let mut quiet = server.subscribe_with("match=orders/*&gap=off", &[("Last-Event-ID", &first)]);
        assert_eq!(quiet.header("Fanfare-Gap"), Some("true"));
        assert_eq!(quiet.data(3), ["3", "4", "other"]);
        // The drops of other topics are no gap of a pattern that has subscribers.
        let mut stream = server.subscribe_with("match=news/*", &[("Last-Event-ID", &news)]);
        assert_eq!(stream.header("Fanfare-Gap"), None);
        publish(&server, &["news/2"], "more news");
        assert_eq!(stream.data(1), ["more news"]);
    }

    /// Between the two streams of a client that reconnects, its pattern has no subscriber.
    fn a_single_reader_of_a_pattern_that_comes_back_is_not_told_of_a_gap_that_is_none(backend) {
        let server = Server::start_with(backend, &["--retain-events", "2"]);
        let sockets = server.sockets();
        let mut stream = server.subscribe("match=quiet/*");
        let last = publish(&server, &["quiet/1"], "1");
        assert_eq!(stream.data(1), ["1"]);
        stream.leave(false);
        eventually("the stream has ended", || (server.sockets() <= sockets).then_some(()));
        for number in 0..50 {
            publish(&server, &["busy"], &number.to_string());
        }
        publish(&server, &["quiet/2"], "2");
        let mut stream = server.subscribe_with("match=quiet/*", &[("Last-Event-ID", &last)]);
        assert_eq!(stream.header("Fanfare-Gap"), None);
        assert_eq!(stream.data(1), ["2"]);
    }

    fn private_events_come_through_patterns_that_the_token_covers(backend) {
        let guarded = Guarded::start(backend, &[]);
        let grants = ["orders/*", "/users/{id}"];
        let queries = ["match=orders/*", "match=orders/{id}&match=/users/{name}", "topic=orders/1&match=orders/1*"];
        let live: Vec<Subscriber> = queries.iter().map(|query| guarded.subscribe(query, &grants)).collect();
        let before = guarded.publish(&["orders/1"], "public", false);
        guarded.publish(&["news"], "private news", true);
        guarded.publish(&["orders/1", "news"], "private", true);
        guarded.publish(&["orders/1"], "public again", false);
        let seen = ["public", "private", "public again"];
        for (mut stream, query) in live.into_iter().zip(queries) {
            assert_eq!(stream.data(3), seen, "{query}");
            let mut replayed = guarded.subscribe(&format!("{query}&last_event_id=earliest"), &grants);
            assert_eq!(replayed.data(3), seen, "{query}");
            let mut resumed = guarded.subscribe(&format!("{query}&last_event_id={before}"), &grants);
            assert_eq!(resumed.data(2), seen[1..], "{query}");
        }
    }

    /// Its topics may be covered or not, and its patterns have to be.
    fn a_topic_that_is_not_covered_stays_public_beside_a_pattern_that_is(backend) {
        let guarded = Guarded::start(backend, &["--anonymous-subscribe"]);
        let mut live = guarded.subscribe("topic=news&topic=orders/1&match=/users/*", &["/users/*"]);
        for topic in ["news", "orders/1", "/users/ada"] {
            guarded.publish(&[topic], &format!("private {topic}"), true);
            guarded.publish(&[topic], &format!("public {topic}"), false);
        }
        guarded.publish(&["news", "/users/bob"], "private of both", true);
        let seen = ["public news", "public orders/1", "private /users/ada", "public /users/ada", "private of both"];
        assert_eq!(live.data(5), seen);
        let query = "topic=orders/1&match=/users/*&topic=news&last_event_id=earliest";
        assert_eq!(guarded.subscribe(query, &["/users/*"]).data(5), seen);
    }

    fn a_pattern_that_the_token_does_not_cover_is_refused(backend) {
        let guarded = Guarded::start(backend, &[]);
        let refused = [
            (&["orders/a*"][..], "match=orders/*", "orders/*"),
            (&["orders/a*", "orders/b*", "orders/"], "match=*", "*"),
            (&["orders/{id}"], "match=orders/*", "orders/*"),
            (&["orders/{id}"], "match=orders/{%2Bid}", "orders/{+id}"),
            (&["orders/{id}/x"], "match=orders/{id}/{part}", "orders/{id}/{part}"),
            (&["orders/*"], "match=order{%2Brest}", "order{+rest}"),
            (&["a", "orders/*"], "topic=a&match=orders/*&match=news/*", "news/*"),
            (&[], "match=orders/*", "orders/*"),
        ];
        for (grants, query, pattern) in refused {
            let authorization = token(SUBSCRIBERS, "subscribe", grants);
            let detail = refusal(&guarded.server, query, &[("Authorization", &authorization)], 403);
            assert!(detail.contains(&format!("{pattern:?}")), "{query}: {detail}");
        }
        for (grants, query) in [
            (&["orders/*"][..], "match=orders/a/{id}"),
            (&["orders/*"], "match=orders/*&topic=orders/7&match=orders/7"),
            (&["orders/{id}"], "match=orders/{number}"),
            (&["*"], "match=*&match={%2Ball}&topic=anything"),
        ] {
            guarded.subscribe(query, grants);
        }
        // Without a token it is the token that is missing.
        assert_eq!(ask_on_both(&guarded.server, "match=orders/*", &[]).map(|response| response.status), [401; 2]);
    }

    /// It would learn the names of topics that it does not know.
    fn an_anonymous_subscriber_of_a_server_with_keys_has_no_patterns(backend) {
        let guarded = Guarded::start(backend, &["--anonymous-subscribe"]);
        for query in ["match=orders/*", "topic=a&match={id}"] {
            let detail = refusal(&guarded.server, query, &[], 403);
            assert!(detail.contains("needs a token that covers all of it"), "{detail}");
        }
        guarded.server.subscribe("topic=a&match=b");
        guarded.server.expect_log("requests were refused for their tokens");
    }

    fn bad_patterns_are_refused_with_their_reason(backend) {
        let server = Server::start_with(backend, &["--max-topics", "3"]);
        let explosive: String = (0..20).map(|number| format!("{{%2Bv{number}}}aa")).collect();
        for (query, reason) in [
            ("match=", "it is empty"),
            ("match", "it is empty"),
            ("topic=a&match=%7Bid", "its braces do not match"),
            ("match={?id}", "the operator '?' is not supported"),
            ("match={a,b}", "one variable"),
            // A + is a space in a query.
            ("match={+path}", "write %2B for a + in a query"),
            ("match={id}/*", "a template cannot end in *"),
            ("match=a%0A*", "control character"),
            ("match=%ff*", "not UTF-8"),
            (&format!("match={explosive}"), "too many variables"),
            (&format!("match={}*", "x".repeat(257)), "too long"),
            ("topic=a&match=b*&match={c}&match=d", "3 topics and patterns at most"),
            ("match=a*&match=b*&match=c*&match=d*", "3 topics and patterns at most"),
            ("mach=a*", "name at least one topic"),
        ] {
            let detail = refusal(&server, query, &[], 400);
            assert!(detail.contains(reason), "{query}: {detail}");
        }
        // What is named twice counts once, with whatever names of variables.
        server.subscribe("topic=a&match=a&match=b*&match=b*&match={c}&match={d}");
    }

    fn patterns_have_a_bound_and_those_that_nobody_reads_make_room(backend) {
        let server = Server::start_with(backend, &["--max-patterns", "2"]);
        let one = server.subscribe("match=one/*");
        let mut two = server.subscribe("match=two/{id}&match=one/*");
        let [fresh, kept] = ask_on_both(&server, "topic=a&match=three/*", &[]);
        for response in [fresh, kept] {
            let problem = response.problem(503).to_string();
            assert!(problem.contains("as many patterns as it can look up"), "{problem}");
            assert!(response.header("Retry-After").is_some());
        }
        // The memory for topics is not used up, and the log does not say so.
        server.expect_log("--max-patterns");
        // The same patterns and all topics have room.
        let mut again = server.subscribe("topic=a&match=two/{another}");
        publish(&server, &["two/1"], "2");
        assert_eq!((two.data(1), again.data(1)), (vec!["2".to_owned()], vec!["2".to_owned()]));
        one.leave(false);
        two.leave(false);
        eventually("the pattern that was left makes room", || {
            let mut connection = server.ask_to_subscribe("match=three/*", &[]);
            (http::status_of(&connection.read_head()) == 200).then_some(())
        });
        let mut third = server.subscribe("match=three/*");
        publish(&server, &["three/1"], "3");
        assert_eq!(third.data(1), ["3"]);
    }
}
