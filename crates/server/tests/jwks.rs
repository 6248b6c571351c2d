//! Keys by URL: what an endpoint of keys can do wrong, and what the server makes of it, over real sockets.

mod support;

use fanfare_access::{RsaPadding, TokenSigner};
use serde_json::{Value, json};
use support::endpoint::{Endpoint, Reply, answer, json as answer_json};
use support::file::ConfigFile;
use support::server::{arguments, fanfare, run};
use support::tokens::{PublisherKey, bearer, mint};
use support::{Backend, Server, eventually, http, on_both_backends};

/// A key of an identity provider.
struct Pair {
    signer: TokenSigner,
    jwk: Value,
}

impl Pair {
    fn new(kid: &str) -> Pair {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let signer = TokenSigner::from_pem(&pair.serialize_pem(), RsaPadding::Pkcs1).expect("P-256");
        // An uncompressed point: 4, x, y.
        let point = pair.public_key_raw();
        let coordinate = |bytes: &[u8]| base64url(bytes);
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "x": coordinate(&point[1..33]), "y": coordinate(&point[33..]),
        });
        Pair { signer: signer.with_kid(kid), jwk }
    }

    fn token(&self) -> String {
        bearer(&mint(&self.signer, json!({ "fanfare": { "subscribe": ["*"], "publish": ["*"] } })))
    }
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let word = (0..3).fold(0_u32, |word, index| word << 8 | u32::from(*piece.get(index).unwrap_or(&0)));
        for digit in 0..=piece.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

fn set(pairs: &[&Pair]) -> Reply {
    answer_json(&json!({ "keys": pairs.iter().map(|pair| pair.jwk.clone()).collect::<Vec<_>>() }))
}

fn start(backend: Backend, key: &PublisherKey, endpoint: &Endpoint, options: &[&str]) -> Server {
    let (key, url) = (key.option(), endpoint.url());
    let all = ["--publisher-keys", key.as_str(), "--subscriber-jwks", &url];
    Server::start_with(backend, &[&all, options].concat())
}

fn status(server: &Server, token: &str) -> u16 {
    http::status_of(&server.ask_to_subscribe("topic=a", &[("Authorization", token)]).read_head())
}

on_both_backends! {
    fn keys_are_fetched_at_the_start_and_again_when_a_token_names_an_unknown_one(backend) {
        let (key, first, second) = (PublisherKey::new(), Pair::new("one"), Pair::new("two"));
        let endpoint = Endpoint::with(set(&[&first]));
        let server = start(backend, &key, &endpoint, &[]);
        server.expect_log("keys were fetched");
        assert_eq!(status(&server, &first.token()), 200);
        // The provider changes its keys. Many tokens with the new one are one fetch.
        endpoint.becomes(set(&[&second]));
        for _ in 0..20 {
            let status = status(&server, &second.token());
            assert!([200, 401].contains(&status), "{status}");
        }
        eventually("the new key is fetched", || (status(&server, &second.token()) == 200).then_some(()));
        assert_eq!(status(&server, &first.token()), 401, "the old one is withdrawn");
        let log = server.expect_log("a key of subscribers was removed");
        assert!(log.contains("--subscriber-jwks"), "{log}");
        assert_eq!(endpoint.requests().len(), 2);
        // A provider that is down locks no client out: the last good set holds.
        endpoint.becomes(answer(500));
        assert_eq!(status(&server, &Pair::new("three").token()), 401);
        assert_eq!(status(&server, &second.token()), 200);
    }

    fn a_server_whose_keys_cannot_be_fetched_starts_and_goes_on_trying(backend) {
        let (key, pair) = (PublisherKey::new(), Pair::new("one"));
        let endpoint = Endpoint::with(Reply::Close);
        let server = start(backend, &key, &endpoint, &[]);
        server.expect_log("keys could not be fetched");
        let token = pair.token();
        for kept in [false, true] {
            let mut connection = server.connect();
            if kept {
                assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
            }
            let response = connection.request("GET", "/events?topic=a", &[("Authorization", token.as_str())]);
            let detail = response.problem(503)["detail"].as_str().expect("text").to_owned();
            assert!(detail.contains("could not be fetched yet"), "{detail}");
            let retry_after: u64 = response.header("Retry-After").expect("a time").parse().expect("seconds");
            assert!((1..=4).contains(&retry_after));
            assert_eq!(response.header("WWW-Authenticate"), None);
        }
        // What needs no key is refused as always.
        assert_eq!(server.get("/events?topic=a").status, 401);
        assert_eq!(status(&server, "Bearer garbage"), 401);
        server.expect_log("no_keys_yet");
        endpoint.becomes(set(&[&pair]));
        eventually("it has tried again", || (status(&server, &token) == 200).then_some(()));
    }

    /// Each of them lets no client in and delays none: a shard never waits for keys.
    fn a_bad_endpoint_of_keys_is_no_key(backend) {
        let (key, pair) = (PublisherKey::new(), Pair::new("one"));
        let large = format!("{{\"keys\":[{}]}}", " ".repeat(1 << 20));
        let elsewhere = Endpoint::with(set(&[&pair]));
        for (case, reply, reason) in [
            ("garbage", Reply::Bytes(b"\x00\x01\x02 no HTTP\r\n\r\n".to_vec()), "cannot be read"),
            ("no JSON", Reply::Answer(200, vec![], "<html>".to_owned()), "no usable keys"),
            ("no keys", answer_json(&json!({ "keys": [] })), "no usable keys"),
            ("a secret that everyone can read",
                answer_json(&json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0".repeat(8), "kid": "one" }] })), "no usable keys"),
            ("huge", Reply::Answer(200, vec![], large), "too large"),
            ("a body without an end", Reply::Flood, "too large"),
            ("fields without an end", Reply::FloodOfFields, ""),
            ("a redirection", Reply::Answer(302, vec![("Location", elsewhere.url())], String::new()), "status 302"),
            ("an error", answer(500), "status 500"),
            ("it closes early", Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{".to_vec()), ""),
            ("it never answers", Reply::Silence, "in time"),
            ("it trickles", Reply::Trickle, "in time"),
        ] {
            let endpoint = Endpoint::with(reply);
            let server = start(backend, &key, &endpoint, &["--anonymous-subscribe"]);
            let mut stream = server.subscribe("topic=a");
            assert_eq!(status(&server, &pair.token()), 503, "{case}");
            let authorization = key.authorization();
            let headers = [("Authorization", authorization.as_str())];
            let event = r#"{"topic":"a","data":"goes on"}"#;
            assert_eq!(server.connect().post_with("application/json", event, &headers).status, 200, "{case}");
            assert_eq!(stream.event().data, "goes on", "{case}");
            let log = server.expect_log("keys could not be fetched");
            assert!(log.contains(reason), "{case}: {log}");
            assert_eq!(status(&server, &pair.token()), 503, "{case}");
        }
        assert!(elsewhere.requests().is_empty(), "a redirection is not followed");
    }

    fn publishers_have_keys_by_url_too_and_sighup_changes_the_url(backend) {
        let (first, second) = (Pair::new("one"), Pair::new("two"));
        let endpoints = [Endpoint::with(set(&[&first])), Endpoint::with(set(&[&second]))];
        let text = |endpoint: &Endpoint, issuer: &str| {
            let url = endpoint.url();
            format!(
                "[access]\npublisher-jwks = \"{url}\"\nanonymous-subscribe = true\nissuer = [{issuer}]\n"
            )
        };
        let file = ConfigFile::new(&text(&endpoints[0], ""));
        let server = Server::start_configured(backend, file.path(), &["--host", "*"]);
        let publish = |pair: &Pair| {
            let token = pair.token();
            let event = r#"{"topic":"a","data":"x"}"#;
            server.connect().post_with("application/json", event, &[("Authorization", &token)]).status
        };
        eventually("the keys are there", || (publish(&first) == 200).then_some(()));
        assert_eq!(publish(&second), 401);
        let reload = |text: &str| {
            let count = || server.log().matches("was read again").count();
            let before = count();
            file.write(text);
            server.signal("HUP");
            eventually("the file is read again", || (count() > before).then_some(()));
        };
        // Another rule keeps what was fetched: no request is refused for a moment.
        reload(&text(&endpoints[0], "\"other\""));
        assert_eq!(publish(&first), 401, "its issuer is another one");
        reload(&text(&endpoints[1], ""));
        eventually("the other keys are there", || (publish(&second) == 200).then_some(()));
        assert_eq!(publish(&first), 401);
    }

    fn config_check_reads_the_files_of_keys_and_the_urls(backend) {
        let key = ConfigFile::new("short");
        let check = |text: &str| {
            let file = ConfigFile::new(text);
            let mut command = fanfare();
            command.args(["config", "check", &file.name()]);
            run(command, "")
        };
        let subscribers = "subscriber-jwks = \"http://127.0.0.1:1/keys\"";
        let short = check(&format!("[access]\npublisher-keys = [\"hs256:{}\"]\n{subscribers}\n", key.name()));
        assert!(short.code == Some(1) && short.stderr.contains("the secret has 5 bytes"), "{short:?}");
        let missing = check(&format!("[access]\npublisher-keys = [\"/nowhere/key\"]\n{subscribers}\n"));
        assert!(missing.code == Some(1) && missing.stderr.contains("cannot read /nowhere/key"), "{missing:?}");
        key.write("a secret that has more than the 32 bytes it needs");
        let good = check(&format!("[access]\npublisher-keys = [\"hs256:{}\"]\n{subscribers}\n", key.name()));
        assert!(good.code == Some(0) && good.stdout.contains("no mistakes"), "{good:?}");
        let plain = check("[access]\npublisher-jwks = \"http://192.0.2.1/keys\"\nanonymous-subscribe = true\n");
        assert!(plain.stderr.contains("--plain-http"), "{plain:?}");
        let mut command = fanfare();
        command.args(arguments(backend, &["--subscriber-jwks", "http://127.0.0.1:1/"]));
        let refused = run(command, "");
        assert!(refused.stderr.contains("--subscriber-jwks needs --publisher-keys"), "{refused:?}");
    }
}
