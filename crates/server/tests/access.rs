//! Access: tokens, grants, revocations, and a server without keys.

mod support;

use fanfare_access::{Algorithm, RsaPadding, TokenSigner};
use serde_json::{Value, json};
use support::file::ConfigFile;
use support::server::{arguments, fanfare, run};
use support::tokens::{Keys, SECRET, bearer, mint, now_unix_s};
use support::{Backend, Connection, Response, Server, Subscriber, eventually, http, on_both_backends};

const URL_SECRET: &str = "the secret of the signed URLs has more than 32 bytes";

fn ask(server: &Server, query: &str, headers: &[(&str, &str)]) -> Response {
    server.connect().request("GET", &format!("/events?{query}"), headers)
}

/// The same question on a connection that the control plane has.
fn ask_on_kept(server: &Server, query: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
    connection.request("GET", &format!("/events?{query}"), headers)
}

fn subscribe(server: &Server, query: &str, token: &str) -> Subscriber {
    server.subscribe_with(query, &[("Authorization", &bearer(token))])
}

fn subscribe_status(server: &Server, query: &str, token: &str) -> u16 {
    let authorization = bearer(token);
    let mut connection = server.ask_to_subscribe(query, &[("Authorization", authorization.as_str())]);
    http::status_of(&connection.read_head())
}

fn post(server: &Server, token: &str, content_type: &str, body: &str) -> Response {
    server.connect().post_with(content_type, body, &[("Authorization", &bearer(token))])
}

fn publish(server: &Server, token: &str, topic: &str, data: &str, private: bool) -> String {
    let event = json!({ "topic": topic, "data": data, "private": private }).to_string();
    let response = post(server, token, "application/json", &event);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["id"].as_str().expect("an id").to_owned()
}

fn end(server: &Server, token: &str, query: &str) -> Response {
    let headers = [("Authorization", bearer(token))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    server.connect().request("DELETE", &format!("/connections?{query}"), &headers)
}

/// Bodies of each form, with an event for the topic a.
fn bodies() -> [(&'static str, &'static str); 4] {
    [
        ("application/json", r#"{"topic":"a","data":"x"}"#),
        ("application/json", r#"[{"topic":"a","data":"x"}]"#),
        ("application/x-www-form-urlencoded", "topic=a&data=x"),
        ("application/x-ndjson", r#"{"topic":"a","data":"x"}"#),
    ]
}

/// Begins a publish and sends half of its body when the server has looked at its token. Gives the other half.
fn begin_body<'b>(server: &Server, token: &str, content_type: &str, body: &'b str) -> (Connection, &'b str) {
    let mut connection = server.connect();
    let (length, authorization) = (body.len().to_string(), bearer(token));
    let fields = [
        ("Content-Type", content_type),
        ("Content-Length", &length),
        ("Authorization", &authorization),
        // The server asks for the body when it reads it (RFC 9110, section 10.1.1).
        ("Expect", "100-continue"),
    ];
    connection.send(http::head("POST", "/events", &fields));
    assert_eq!(connection.read_head().lines().next(), Some("HTTP/1.1 100 Continue"));
    let (half, rest) = body.split_at(body.len() / 2);
    connection.send(half);
    (connection, rest)
}

on_both_backends! {
    /// Each of them is refused, on a new connection and on a kept one, with a reason in the log and none for
    /// the client.
    fn a_subscription_without_a_good_token_is_refused(backend) {
        let keys = Keys::new();
        let now = now_unix_s();
        let grant = json!({ "subscribe": ["a"] });
        let of = |signer: &TokenSigner, claims: Value| mint(signer, claims);
        let other = TokenSigner::from_pem(
            &rcgen::KeyPair::generate().expect("a key").serialize_pem(), RsaPadding::Pkcs1,
        ).expect("P-256");
        // The public key is known to everyone, so as a secret of HMAC it must be worth nothing.
        let confused = TokenSigner::from_secret(Algorithm::Hs256, keys.public.as_bytes()).expect("long");
        let good = of(&keys.subscribers, json!({ "fanfare": grant }));
        let claims = json!({ "exp": now + 3600, "fanfare": grant }).to_string();
        let raw = |header: Value| {
            keys.subscribers.mint_raw(header.to_string().as_bytes(), claims.as_bytes()).expect("signed")
        };
        let (none, unknown_kid) = (raw(json!({ "alg": "none" })), raw(json!({ "alg": "ES256", "kid": "nobody" })));
        let unsigned = none.rsplit_once('.').map(|(rest, _)| format!("{rest}.")).expect("three parts");
        let (signed, signature) = good.rsplit_once('.').expect("three parts");
        let changed = format!("{signed}.{}", signature.chars().rev().collect::<String>());
        let cases = [
            ("expired", of(&keys.subscribers, json!({ "exp": now - 60, "fanfare": grant })), "expired"),
            ("not yet valid", of(&keys.subscribers, json!({ "nbf": now + 600, "fanfare": grant })), "not_yet_valid"),
            ("wrong key", of(&other, json!({ "fanfare": grant })), "wrong_key"),
            ("a publisher's key", of(&keys.publishers.signer, json!({ "fanfare": grant })), "algorithm"),
            ("HS256 with the public key", of(&confused, json!({ "fanfare": grant })), "algorithm"),
            ("alg none", none, "algorithm"),
            ("alg none, unsigned", unsigned, ""),
            ("another signature", changed, ""),
            ("another audience", of(&keys.subscribers, json!({ "aud": "x", "fanfare": grant })), "audience"),
            ("no grants but a pattern that is refused",
                of(&keys.subscribers, json!({ "fanfare": { "subscribe": ["{a,b}"] } })), "pattern"),
            ("both claims", of(&keys.subscribers, json!({ "fanfare": grant, "mercure": grant })), "malformed"),
            ("no JWT", "garbage".to_owned(), "malformed"),
            ("far too long", "x".repeat(9000), "too_long"),
        ];
        let server = keys.start(backend, &["--cors-origin", "https://app.example"]);
        assert_eq!(subscribe_status(&server, "topic=a", &good), 200);
        // The one key has no name, so that it fits every kid.
        assert_eq!(subscribe_status(&server, "topic=a", &unknown_kid), 200);
        let page = ("Origin", "https://app.example");
        for asked in [ask, ask_on_kept] {
            let response = asked(&server, "topic=a", &[page]);
            let problem = response.problem(401);
            assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
            assert_eq!(response.header("Access-Control-Allow-Origin"), Some("https://app.example"));
            assert_eq!(problem["detail"], "this subscription needs a valid token");
            for (case, token, _) in &cases {
                let response = asked(&server, "topic=a", &[page, ("Authorization", &bearer(token))]);
                let problem = response.problem(401);
                assert_eq!(problem["detail"], "this subscription needs a valid token", "{case}");
                assert_eq!(response.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""), "{case}");
                assert_eq!(response.header("Access-Control-Allow-Origin"), Some("https://app.example"), "{case}");
            }
        }
        // In the query a token is not looked at, and a cookie is not either.
        assert_eq!(ask(&server, &format!("topic=a&access_token={good}"), &[]).status, 401);
        assert_eq!(ask(&server, "topic=a", &[("Cookie", &format!("token={good}"))]).status, 401);
        // The first reason is logged at once, the others with the next line.
        server.expect_log("requests were refused for their tokens");

        // With --debug-auth the client is told.
        let server = keys.start(backend, &["--debug-auth"]);
        for (case, token, name) in &cases {
            let response = ask(&server, "topic=a", &[("Authorization", &bearer(token))]);
            let problem = response.problem(401);
            let detail = problem["detail"].as_str().expect("text");
            assert!(detail.len() > "this subscription needs a valid token: ".len(), "{case}: {detail}");
            let reason = match *name {
                "expired" => "has expired",
                "not_yet_valid" => "not valid yet",
                "wrong_key" => "another key",
                "algorithm" => "does not belong to the key",
                "audience" => "another audience",
                "pattern" => "a pattern in the token's grants",
                "too_long" => "too long",
                "malformed" => "malformed",
                _ => "",
            };
            assert!(detail.contains(reason), "{case}: {detail}");
            assert!(!response.text().contains(token.as_str()) || token == "garbage", "{case}");
        }
        assert!(!server.log().contains(&good));
    }

    fn the_grants_cover_every_topic_or_the_first_other_one_is_named(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let token = keys.subscriber(&["a", "orders/{id}", "chat/*"]);
        let authorization = bearer(&token);
        for good in ["topic=a", "topic=orders/7&topic=a", "topic=chat/x/y"] {
            assert_eq!(subscribe_status(&server, good, &token), 200, "{good}");
        }
        for (query, topic) in
            [("topic=b", "b"), ("topic=a&topic=b&topic=c", "b"), ("topic=orders/7/8", "orders/7/8")]
        {
            let response = ask(&server, query, &[("Authorization", &authorization)]);
            let detail = response.problem(403)["detail"].as_str().expect("text").to_owned();
            assert!(detail.contains(&format!("{topic:?}")), "{detail}");
            assert_eq!(response.header("WWW-Authenticate"), Some("Bearer error=\"insufficient_scope\""));
        }
    }

    fn a_private_event_reaches_only_granted_subscribers_also_in_a_replay(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--anonymous-subscribe"]);
        let (publisher, token) = (keys.publisher(), keys.subscriber(&["a"]));
        let other = keys.subscriber(&["b"]);
        let mut granted = subscribe(&server, "topic=a", &token);
        let mut without = [server.subscribe("topic=a"), subscribe(&server, "topic=a", &other)];
        let before = publish(&server, &publisher, "a", "public 1", false);
        publish(&server, &publisher, "a", "private", true);
        publish(&server, &publisher, "a", "public 2", false);
        let all = ["public 1", "private", "public 2"];
        assert_eq!(granted.data(3), all);
        for subscriber in &mut without {
            assert_eq!(subscriber.data(2), ["public 1", "public 2"]);
        }
        assert_eq!(subscribe(&server, "topic=a&last_event_id=earliest", &token).data(3), all);
        assert_eq!(server.subscribe("topic=a&last_event_id=earliest").data(2), ["public 1", "public 2"]);
        let resume = [("Last-Event-ID", before.as_str())];
        assert_eq!(server.subscribe_with("topic=a", &resume).data(1), ["public 2"]);
        let authorization = bearer(&token);
        let resume = [("Last-Event-ID", before.as_str()), ("Authorization", authorization.as_str())];
        assert_eq!(server.subscribe_with("topic=a", &resume).data(2), ["private", "public 2"]);
        // On a kept connection, too.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
        connection.send(http::head("GET", "/events?topic=a", &resume));
        assert_eq!(Subscriber::on(connection).data(2), ["private", "public 2"]);

        // A token that is not good is not ignored, although none is needed.
        assert_eq!(subscribe_status(&server, "topic=a", "garbage"), 401);
        assert_eq!(server.connect().post("application/json", r#"{"topic":"a","data":"x"}"#).status, 401);
    }

    /// Such a subscription was refused, because the engine had one switch for all of its topics.
    fn a_subscription_sees_private_events_of_the_topics_that_its_token_covers(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--anonymous-subscribe"]);
        let (publisher, token) = (keys.publisher(), keys.subscriber(&["a"]));
        let mut live = subscribe(&server, "topic=c&topic=a", &token);
        let before = publish(&server, &publisher, "c", "public c", false);
        publish(&server, &publisher, "c", "private c", true);
        publish(&server, &publisher, "a", "private a", true);
        let both = json!({ "topic": ["a", "c"], "data": "private of both", "private": true }).to_string();
        assert_eq!(post(&server, &publisher, "application/json", &both).status, 200);
        publish(&server, &publisher, "c", "private c again", true);
        publish(&server, &publisher, "a", "public a", false);
        let all = ["public c", "private a", "private of both", "public a"];
        assert_eq!(live.data(4), all);
        for topics in ["topic=a&topic=c", "topic=c&topic=a&topic=nothing"] {
            let query = format!("{topics}&last_event_id=earliest");
            assert_eq!(subscribe(&server, &query, &token).data(4), all);
            let query = format!("{topics}&last_event_id={before}");
            assert_eq!(subscribe(&server, &query, &token).data(3), all[1..]);
        }
    }

    /// A pattern tells names of topics, so a token has to cover all of it.
    fn a_pattern_is_for_a_token_that_covers_all_of_it(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--anonymous-subscribe"]);
        let (publisher, token) = (keys.publisher(), keys.subscriber(&["orders/*", "users/{id}", "a"]));
        let authorization = bearer(&token);
        for pattern in ["*", "orders*", "users/*", "users/{%2Bid}", "b"] {
            let query = format!("topic=a&match=orders/*&match={pattern}");
            let query = query.replace('{', "%7B").replace('}', "%7D");
            // `b` is the name of a topic, of which everyone gets the public events.
            let expected = if pattern == "b" { 200 } else { 403 };
            assert_eq!(subscribe_status(&server, &query, &token), expected, "{pattern}");
        }
        let anonymous = ask(&server, "match=orders/*", &[]);
        let detail = anonymous.problem(403)["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("\"orders/*\""), "{detail}");
        ask(&server, "match=a%7Bb", &[("Authorization", &authorization)]).problem(400);

        let query = "topic=c&match=orders/*&match=users/%7Bname%7D";
        let mut live = subscribe(&server, query, &token);
        let before = publish(&server, &publisher, "orders/7", "order", false);
        publish(&server, &publisher, "orders/8", "private order", true);
        publish(&server, &publisher, "c", "private of c", true);
        publish(&server, &publisher, "users/1/2", "no user", false);
        publish(&server, &publisher, "users/1", "private user", true);
        publish(&server, &publisher, "c", "public of c", false);
        let all = ["order", "private order", "private user", "public of c"];
        assert_eq!(live.data(4), all);
        let replay = format!("{query}&last_event_id=earliest");
        assert_eq!(subscribe(&server, &replay, &token).data(4), all);
        let replay = format!("{query}&last_event_id={before}");
        assert_eq!(subscribe(&server, &replay, &token).data(3), all[1..]);
    }

    fn without_keys_everyone_may_subscribe_to_a_pattern(backend) {
        let server = Server::start_with(backend, &[]);
        let mut live = server.subscribe("match=a/*");
        for topic in ["b", "a/1", "a/2"] {
            let event = json!({ "topic": topic, "data": topic }).to_string();
            assert_eq!(server.connect().post("application/json", &event).status, 200);
        }
        assert_eq!(live.data(2), ["a/1", "a/2"]);
    }

    fn a_publish_needs_a_grant_for_every_topic_of_every_event(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--anonymous-subscribe"]);
        let token = mint(&keys.publishers.signer, json!({ "fanfare": { "publish": ["a", "chat/*"] } }));
        let mut subscriber = server.subscribe("topic=a");
        let (json_type, lines, form) =
            ("application/json", "application/x-ndjson", "application/x-www-form-urlencoded");
        let unnamed = server.connect().post(json_type, r#"{"topic":"a","data":"x"}"#);
        unnamed.problem(401);
        assert_eq!(unnamed.header("WWW-Authenticate"), Some("Bearer"));
        let subscribers = keys.subscriber(&["*"]);
        assert_eq!(post(&server, &subscribers, json_type, r#"{"topic":"a","data":"x"}"#).status, 401);
        for (content_type, body, named) in [
            (json_type, r#"{"topic":"b","data":"x"}"#, ""),
            (json_type, r#"{"topic":["a","b"],"data":"x"}"#, ""),
            (json_type, r#"[{"topic":"a","data":"x"},{"topic":"b","data":"x"}]"#, "event 2"),
            (form, "topic=b&data=x", ""),
            (form, "topic=a&topic=b&data=x", ""),
        ] {
            let response = post(&server, &token, content_type, body);
            let detail = response.problem(403)["detail"].as_str().expect("text").to_owned();
            assert!(detail.contains("\"b\"") && detail.contains(named), "{body}: {detail}");
        }
        let body = "{\"topic\":\"a\",\"data\":\"1\"}\n{\"topic\":\"b\",\"data\":\"x\"}\n{\"topic\":\"a\",\"data\":\"x\"}\n";
        let response = post(&server, &token, lines, body);
        let detail = response.problem(403)["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("line 2") && detail.contains("\"b\""), "{detail}");
        assert_eq!(post(&server, &token, form, "topic=a&topic=chat/1&data=2").status, 200);
        assert_eq!(post(&server, &token, json_type, r#"[{"topic":"a","data":"3"}]"#).status, 200);
        // Of what was refused nothing was published, but for the line before the bad one.
        assert_eq!(subscriber.data(3), ["1", "2", "3"]);

        // To ask about topics needs a publisher's token; health checks, the page and the preflight need none.
        for path in ["/topics", "/topics/a"] {
            server.get(path).problem(401);
            let authorization = bearer(&token);
            let response = server.connect().request("GET", path, &[("Authorization", &authorization)]);
            assert_eq!(response.status, 200);
        }
        for path in ["/health/live", "/health/ready", "/"] {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
        let preflight = server.connect().request("OPTIONS", "/events", &[("Origin", "https://app.example")]);
        assert_eq!(preflight.status, 204);
        assert!(preflight.header("Access-Control-Allow-Headers").is_some_and(|names| names.contains("authorization")));
    }

    fn a_cookie_publishes_only_from_a_listed_origin(backend) {
        let keys = Keys::new();
        let options = ["--token-cookie", "fanfare", "--cors-origin", "https://app.example"];
        let server = keys.start(backend, &options);
        let cookie = format!("theme=dark; fanfare={}", keys.publisher());
        let body = "topic=a&data=x";
        let status = |server: &Server, origin: Option<&str>| {
            let mut headers = vec![("Cookie", cookie.as_str())];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            server.connect().post_with("application/x-www-form-urlencoded", body, &headers).status
        };
        assert_eq!(status(&server, Some("https://app.example")), 200);
        assert_eq!(status(&server, Some("http://fanfare.test")), 200, "its own page");
        for origin in [None, Some("https://evil.example"), Some("null"), Some("")] {
            assert_eq!(status(&server, origin), 403, "{origin:?}");
        }
        server.expect_log("a cookie authorises them");
        let authorization = bearer(&keys.publisher());
        let plain = [("Authorization", authorization.as_str())];
        let response = server.connect().post_with("application/x-www-form-urlencoded", body, &plain);
        assert_eq!(response.status, 200, "a header needs no origin: no page can make a browser send it");
        // `*` lists no page.
        let server = keys.start(backend, &["--token-cookie", "fanfare", "--cors-origin", "*"]);
        assert_eq!(status(&server, Some("https://evil.example")), 403);
        // To subscribe, the cookie alone is enough: another page cannot read the stream.
        let cookie = format!("fanfare={}", keys.subscriber(&["a"]));
        server.subscribe_with("topic=a", &[("Cookie", &cookie)]);
    }

    fn a_token_in_the_query_is_taken_where_that_is_switched_on_and_is_never_logged(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &["--token-in-query", "--log", "trace", "--debug-auth"]);
        let (good, bad) = (keys.subscriber(&["a"]), keys.subscriber(&["b"]));
        server.subscribe(&format!("topic=a&access_token={good}"));
        ask(&server, &format!("topic=a&access_token={bad}"), &[]).problem(403);
        ask_on_kept(&server, &format!("topic=a&access_token={bad}"), &[]).problem(403);
        let publisher = keys.publisher();
        let target = format!("/topics/unknown?access_token={publisher}");
        assert_eq!(server.get(&target).status, 404);
        assert_eq!(server.get(&format!("/nowhere?access_token={publisher}")).status, 404);
        let signature_of = |token: &str| token.rsplit_once('.').expect("three parts").1.to_owned();
        let log = server.expect_log("topic_not_covered");
        for token in [&good, &bad, &publisher] {
            assert!(!log.contains(&signature_of(token)), "a token is in the log");
        }
    }

    fn a_stream_ends_with_its_token(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let expires = now_unix_s() + 3;
        let short = mint(&keys.subscribers, json!({ "exp": expires, "fanfare": { "subscribe": ["a"] } }));
        let mut short = subscribe(&server, "topic=a", &short);
        let mut long = subscribe(&server, "topic=a", &keys.subscriber(&["a"]));
        short.read_to_end();
        assert!(now_unix_s() <= expires + 1);
        publish(&server, &keys.publisher(), "a", "after", false);
        assert_eq!(long.event().data, "after");
    }

    fn a_revocation_ends_streams_on_all_shards_and_bars_what_it_names(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let publisher = keys.publisher();
        let now = now_unix_s();
        let of = |subject: &str, id: &str, issued: u64| {
            let claims = json!({ "sub": subject, "jti": id, "iat": issued, "fanfare": { "subscribe": ["*"] } });
            mint(&keys.subscribers, claims)
        };
        let (ada, bob, carol) = (of("ada", "a1", now), of("bob", "b1", now), of("carol", "c1", now));
        // More than there are shards, so that each shard has some.
        let mut adas: Vec<_> = (0..8).map(|_| subscribe(&server, "topic=a", &ada)).collect();
        let mut others = [subscribe(&server, "topic=a", &bob), subscribe(&server, "topic=b", &carol)];

        // Only a token for every topic may do it.
        let narrow = mint(&keys.publishers.signer, json!({ "fanfare": { "publish": ["a*", "b"] } }));
        end(&server, &narrow, "subject=ada").problem(403);
        assert_eq!(server.connect().request("DELETE", "/connections?subject=ada", &[]).status, 401);
        end(&server, &publisher, "").problem(400);
        end(&server, &publisher, "user=ada").problem(400);
        assert_eq!(subscribe_status(&server, "topic=a", &ada), 200);

        assert_eq!(end(&server, &publisher, "subject=ada").status, 204);
        for stream in &mut adas {
            stream.read_to_end();
        }
        assert_eq!(subscribe_status(&server, "topic=a", &ada), 401);
        // The clock of the issuer may be ahead by the leeway, so such a token may be an older one.
        let leeway = fanfare_access::DEFAULT_LEEWAY_S;
        assert_eq!(subscribe_status(&server, "topic=a", &of("ada", "a2", now + leeway)), 401);
        eventually("a token that is newer for sure is good", || {
            let newer = of("ada", "a3", now_unix_s() + leeway);
            (subscribe_status(&server, "topic=a", &newer) == 200).then_some(())
        });
        publish(&server, &publisher, "a", "still", false);
        publish(&server, &publisher, "b", "still", false);
        assert_eq!(others.each_mut().map(|stream| stream.event().data), ["still", "still"]);

        // One token of bob's: its streams end, and another token of his is good, and so is the stream of that
        // one.
        let (bob2, no_subject) = (of("bob", "b2", now), mint(&keys.subscribers, json!({
            "jti": "n1", "fanfare": { "subscribe": ["*"] },
        })));
        let mut kept = subscribe(&server, "topic=a", &bob2);
        let mut unnamed: Vec<_> = (0..4).map(|_| subscribe(&server, "topic=a", &no_subject)).collect();
        assert_eq!(end(&server, &publisher, "token=b1&token=n1").status, 204);
        others[0].read_to_end();
        for stream in &mut unnamed {
            stream.read_to_end();
        }
        assert_eq!(subscribe_status(&server, "topic=a", &no_subject), 401);
        publish(&server, &publisher, "a", "kept", false);
        assert_eq!(kept.event().data, "kept");
        assert_eq!(subscribe_status(&server, "topic=a", &bob), 401);
        assert_eq!(subscribe_status(&server, "topic=a", &bob2), 200);
        // With the subject, all streams of his end, and all of his tokens are barred, too. A token beside it
        // changes nothing.
        assert_eq!(end(&server, &publisher, "token=b3&subject=bob").status, 204);
        kept.read_to_end();
        assert_eq!(subscribe_status(&server, "topic=a", &bob2), 401);

        // A topic's streams end; its subscribers may come back.
        assert_eq!(end(&server, &publisher, "topic=b").status, 204);
        others[1].read_to_end();
        assert_eq!(subscribe_status(&server, "topic=b", &carol), 200);

        // A publisher's token is barred, too.
        let barred = mint(&keys.publishers.signer, json!({ "jti": "p1", "fanfare": { "publish": ["*"] } }));
        publish(&server, &barred, "a", "1", false);
        assert_eq!(end(&server, &publisher, "token=p1").status, 204);
        assert_eq!(post(&server, &barred, "application/json", r#"{"topic":"a","data":"2"}"#).status, 401);
    }

    fn a_signed_url_subscribes_until_it_expires(backend) {
        let keys = Keys::new();
        let urls = ConfigFile::new(URL_SECRET);
        let server = keys.start(backend, &["--url-keys", &urls.name()]);
        let signer = fanfare_access::UrlSigner::new([URL_SECRET.as_bytes()]).expect("long");
        let topics = [fanfare::Topic::new("a").expect("a topic")];
        let good = signer.mint(&topics, now_unix_s() + 600, Some("eve")).expect("signed");
        let mut subscriber = server.subscribe(&good);
        let publisher = keys.publisher();
        publish(&server, &publisher, "a", "private", true);
        assert_eq!(subscriber.event().data, "private");
        ask(&server, &format!("{good}&topic=b"), &[]).problem(401);
        // A pattern is not signed, and what is signed covers none.
        for added in ["match=b", "match=*", "match=a*", "match={id}"] {
            ask(&server, &format!("{good}&{added}"), &[]).problem(403);
        }
        let old = signer.mint(&topics, now_unix_s() - 60, None).expect("signed");
        ask(&server, &old, &[]).problem(401);
        assert_eq!(end(&server, &publisher, "subject=eve").status, 204);
        subscriber.read_to_end();
        ask(&server, &good, &[]).problem(401);
    }

    fn sighup_reads_the_keys_again_all_or_nothing(backend) {
        let (keys, next) = (Keys::new(), Keys::new());
        let server = keys.start(backend, &[]);
        let old = keys.subscriber(&["a"]);
        let new = next.subscriber(&["a"]);
        let mut stream = subscribe(&server, "topic=a", &old);
        let reload = |text: &str| {
            let count = || server.log().matches(text).count();
            let before = count();
            server.signal("HUP");
            eventually(&format!("the log says {text:?} again"), || (count() > before).then_some(()));
        };
        // One file is right and the other one is not: neither is taken.
        keys.subscriber_file.write(&next.public);
        keys.publishers.file.write("short");
        reload("the configuration stays as it was");
        server.expect_log("the secret has 5 bytes");
        assert_eq!(subscribe_status(&server, "topic=a", &old), 200);
        assert_eq!(subscribe_status(&server, "topic=a", &new), 401);
        keys.publishers.file.write(SECRET);
        reload("the configuration was read again");
        server.expect_log("changed=\"subscriber-keys\"");
        assert_eq!(subscribe_status(&server, "topic=a", &old), 401);
        assert_eq!(subscribe_status(&server, "topic=a", &new), 200);
        // What is revoked stays so.
        assert_eq!(end(&server, &keys.publisher(), "subject=x&token=t").status, 204);
        publish(&server, &keys.publisher(), "a", "goes on", false);
        assert_eq!(stream.event().data, "goes on");
    }

    /// What came of a body before its token was barred was published when the rest was there. Only a body of
    /// lines was asked for its token again.
    fn a_body_whose_token_is_barred_meanwhile_is_not_published(backend) {
        let keys = Keys::new();
        let server = keys.start(backend, &[]);
        let mut stream = subscribe(&server, "topic=a", &keys.subscriber(&["a"]));
        for (index, (content_type, body)) in bodies().into_iter().enumerate() {
            let id = format!("p{index}");
            let token = mint(&keys.publishers.signer, json!({ "jti": id, "fanfare": { "publish": ["*"] } }));
            let (mut connection, rest) = begin_body(&server, &token, content_type, body);
            assert_eq!(end(&server, &keys.publisher(), &format!("token={id}")).status, 204);
            connection.send(rest);
            let answer = connection.read_response();
            assert_eq!(answer.status, 401, "{body}: {}", answer.text());
        }
        publish(&server, &keys.publisher(), "a", "marker", false);
        assert_eq!(stream.event().data, "marker");
    }

    /// An operator removes a key that strangers have. What is signed by it is refused from then on, also
    /// where its request has begun before. Streams that have begun before go on; an order ends them, and
    /// their tokens are not accepted again.
    fn a_key_that_was_removed_signs_no_more(backend) {
        let (keys, next) = (Keys::new(), Keys::new());
        let server = keys.start(backend, &[]);
        let thief = keys.subscriber(&["a"]);
        let mut stolen = subscribe(&server, "topic=a", &thief);
        let bodies: Vec<_> = bodies()
            .into_iter()
            .map(|(content_type, body)| begin_body(&server, &keys.publisher(), content_type, body))
            .collect();
        let secret = "another secret of the publishers has more than 32 bytes";
        let publishers = TokenSigner::from_secret(Algorithm::Hs256, secret.as_bytes()).expect("long");
        keys.publishers.file.write(secret);
        keys.subscriber_file.write(&next.public);
        server.signal("HUP");
        server.expect_log("the configuration was read again");
        server.expect_log("DELETE /connections");
        for (mut connection, rest) in bodies {
            connection.send(rest);
            let answer = connection.read_response();
            assert_eq!(answer.status, 401, "{rest}: {}", answer.text());
        }
        let publisher = mint(&publishers, json!({ "fanfare": { "publish": ["*"] } }));
        publish(&server, &publisher, "a", "marker", false);
        assert_eq!(stolen.event().data, "marker", "nothing of the bodies was published");
        assert_eq!(end(&server, &publisher, "subject=ada").status, 204);
        assert!(stolen.event_or_end().is_none(), "the order ends the stream of the removed key");
        assert_eq!(subscribe_status(&server, "topic=a", &thief), 401);
    }

    fn without_keys_it_starts_on_loopback_only_unless_it_is_told_to_be_open(backend) {
        // On loopback no token is needed, and a token that comes is ignored.
        let server = Server::start(backend);
        let mut subscriber = subscribe(&server, "topic=a", "garbage");
        server.publish("a", "x");
        assert_eq!(subscriber.event().data, "x");

        let start = |options: &[&str]| {
            let mut command = fanfare();
            command.args(arguments(backend, options));
            run(command, "")
        };
        let refused = start(&["--listen", "0.0.0.0:0"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("the server has no keys") && refused.stderr.contains("--open"), "{refused:?}");
        assert!(refused.stderr.starts_with("fanfare: --listen: "), "{refused:?}");
        // Half of the keys would leave half of the doors open.
        let file = ConfigFile::new(SECRET);
        let keys = format!("hs256:{}", file.name());
        for (option, part) in [("--subscriber-keys", "needs --publisher-keys"), ("--publisher-keys", "--anonymous-subscribe")] {
            let refused = start(&[option, &keys]);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
        let refused = start(&["--subscriber-keys", "/nowhere/key", "--publisher-keys", &keys]);
        assert!(refused.stderr.contains("--subscriber-keys: cannot read /nowhere/key"), "{refused:?}");
    }
}
