//! An event with an id of its publisher is published once: bodies that are sent again after a lost answer.

mod support;

use std::collections::BTreeMap;

use fanfare_access::{Algorithm, TokenSigner};
use serde_json::{Value, json};
use support::file::ConfigFile;
use support::{Backend, Response, Server, http, on_both_backends};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const FORM: &str = "application/x-www-form-urlencoded";

fn post(server: &Server, content_type: &str, body: impl AsRef<[u8]>) -> Response {
    server.connect().post(content_type, body)
}

fn event(id: &str, data: &str) -> Value {
    json!({ "topic": "a", "id": id, "data": data })
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// The bytes of a publish, as a client writes them.
fn request(content_type: &str, body: &str, is_chunked: bool) -> Vec<u8> {
    let length = body.len().to_string();
    let framing = if is_chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", &length[..]) };
    let mut bytes = http::head("POST", "/events", &[("Content-Type", content_type), framing]).into_bytes();
    if is_chunked {
        for piece in body.as_bytes().chunks(40) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

/// A publisher's connection breaks at every byte of a request, also behind the last one, before the answer is
/// read. It publishes the same again.
fn break_off_everywhere(backend: Backend, content_type: &str, is_chunked: bool) {
    let server = Server::start(backend);
    let mut subscriber = server.subscribe("topic=a");
    let body_of = |cut: usize| {
        let events: Vec<Value> = (0..4).map(|index| event(&format!("{cut:04}-{index}"), "x")).collect();
        if content_type == JSON { json!(events).to_string() } else { lines(&events) }
    };
    let length = request(content_type, &body_of(0), is_chunked).len();
    for cut in 0..=length {
        let body = body_of(cut);
        let mut connection = server.connect();
        connection.send(&request(content_type, &body, is_chunked)[..cut]);
        // A reset may overtake what was sent, an orderly end does not.
        if cut % 2 == 0 {
            connection.reset();
        } else {
            drop(connection);
        }
        let answer = post(&server, content_type, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
        assert_eq!(count("published") + count("duplicates"), 4, "{answer}");
        let ids = (format!("{cut:04}-0"), format!("{cut:04}-3"));
        assert_eq!((&answer["first"], &answer["last"]), (&json!(ids.0), &json!(ids.1)));
    }
    server.publish("a", "marker");
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    let mut order = Vec::new();
    loop {
        let event = subscriber.event();
        if event.data == "marker" {
            break;
        }
        *times.entry(event.id.clone()).or_default() += 1;
        order.push(event.id);
    }
    assert_eq!(times.len(), 4 * (length + 1), "events that were lost");
    let doubled: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    for cut in 0..=length {
        let of_batch = order.iter().filter(|id| id.starts_with(&format!("{cut:04}")));
        assert!(of_batch.is_sorted(), "the order of batch {cut}");
    }
}

on_both_backends! {
    fn a_duplicate_is_a_success_that_names_the_first_one(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a&topic=b");
        let plain = server.publish("a", "0");
        let (epoch, _) = plain.split_once('-').expect("an id has an epoch");
        let position = |seq: u64| format!("{epoch}-{seq}");
        let first = post(&server, JSON, event("x", "1").to_string()).json();
        assert_eq!(first, json!({ "id": "x" }));
        let again = post(&server, JSON, event("x", "1").to_string()).json();
        assert_eq!(again, json!({ "id": "x", "duplicate": true, "position": position(2) }));
        let form = post(&server, FORM, "topic=a&id=x&data=1").json();
        assert_eq!(form, again);
        let array = json!([event("y", "2"), event("x", "1"), event("y", "2")]).to_string();
        let array = post(&server, JSON, array).json();
        assert_eq!(array, json!({ "published": 1, "duplicates": 2, "first": "y", "last": "y" }));
        let body = lines(&[event("x", "1"), event("z", "3")]);
        let answer = post(&server, NDJSON, &body).json();
        assert_eq!(answer, json!({ "published": 1, "duplicates": 1, "first": "x", "last": "z" }));
        let answer = post(&server, NDJSON, &body).json();
        assert_eq!(answer, json!({ "published": 0, "duplicates": 2, "first": "x", "last": "z" }));
        // In other topics the id is another event's.
        let both = json!({ "topic": ["b", "a"], "id": "x", "data": "4" }).to_string();
        assert_eq!(post(&server, JSON, &both).json(), json!({ "id": "x" }));
        let turned = json!({ "topic": ["a", "b"], "id": "x", "data": "4" }).to_string();
        assert_eq!(post(&server, JSON, turned).json()["position"], position(5));
        server.publish("a", "marker");
        assert_eq!(subscriber.data(6), ["0", "1", "2", "3", "4", "marker"]);
    }

    fn an_id_of_another_event_is_a_conflict_that_is_named(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        post(&server, JSON, event("x", "1").to_string());
        for other in [
            event("x", "2"),
            json!({ "topic": "a", "id": "x" }),
            json!({ "topic": "a", "id": "x", "data": "1", "private": true }),
            json!({ "topic": "a", "id": "x", "data": "1", "type": "t" }),
            json!({ "topic": "a", "id": "x", "data": "1", "retry": 1000 }),
        ] {
            post(&server, JSON, other.to_string()).problem(409);
        }
        // Of an array nothing is published, of lines what came before.
        for other in [event("x", "2"), event("y", "2")] {
            let array = json!([event("y", "1"), event("x", "1"), other]).to_string();
            let problem = post(&server, JSON, array).problem(409);
            assert_eq!(problem["index"], 2, "{problem}");
        }
        let body = format!("{}\n{}", lines(&[event("x", "1"), event("p", "p")]), lines(&[event("x", "2"), event("q", "q")]));
        let problem = post(&server, NDJSON, body).problem(409);
        assert_eq!((&problem["line"], &problem["published"], &problem["duplicates"]), (&json!(4), &json!(1), &json!(1)));
        assert_eq!(problem["last"], "p", "{problem}");
        server.publish("a", "marker");
        assert_eq!(subscriber.data(3), ["1", "p", "marker"]);
    }

    /// A batch whose conflict is in a later part, with blank lines between: the line is still the right one.
    fn a_conflict_far_behind_is_named_by_its_line(backend) {
        let server = Server::start(backend);
        post(&server, JSON, event("x", "1").to_string());
        let mut body = String::new();
        for number in 0..1000 {
            body += &format!("{}\n\n", event(&format!("n{number}"), "1"));
        }
        body += &lines(&[event("x", "2"), event("never", "1")]);
        let problem = post(&server, NDJSON, body).problem(409);
        assert_eq!((&problem["line"], &problem["published"]), (&json!(2001), &json!(1000)), "{problem}");
    }

    fn lines_that_break_off_anywhere_are_sent_again_and_come_once(backend) {
        break_off_everywhere(backend, NDJSON, false);
    }

    fn chunked_lines_that_break_off_anywhere_are_sent_again_and_come_once(backend) {
        break_off_everywhere(backend, NDJSON, true);
    }

    fn an_array_that_breaks_off_anywhere_is_sent_again_and_comes_once(backend) {
        break_off_everywhere(backend, JSON, false);
    }

    /// A publisher with a token for topic a guesses the id of an event that another one will publish to a and
    /// b.
    fn a_guessed_id_suppresses_no_event_of_topics_that_its_publisher_may_not_use(backend) {
        let secret = "the secret of the publishers has more than 32 bytes";
        let file = ConfigFile::new(secret);
        let keys = format!("hs256:{}", file.name());
        let options = ["--publisher-keys", &keys, "--anonymous-subscribe"];
        let server = Server::start_with(backend, &options);
        let signer = TokenSigner::from_secret(Algorithm::Hs256, secret.as_bytes()).expect("long");
        let token = |topics: Value| {
            let claims = json!({ "exp": 4_000_000_000_u64, "fanfare": { "publish": topics } });
            format!("Bearer {}", signer.mint(claims.as_object().expect("an object")).expect("it signs"))
        };
        let (thief, owner) = (token(json!(["a"])), token(json!(["*"])));
        let post = |token: &str, event: &Value| {
            server.connect().post_with(JSON, event.to_string(), &[("Authorization", token)])
        };
        let mut subscriber = server.subscribe("topic=b");
        let both = json!({ "topic": ["a", "b"], "id": "order-7", "data": "paid" });
        assert_eq!(post(&thief, &both).status, 403);
        assert_eq!(post(&thief, &event("order-7", "forged")).status, 200);
        assert_eq!(post(&thief, &json!({ "topic": "b", "id": "order-8", "data": "forged" })).status, 403);
        let owned = json!({ "topic": "b", "id": "order-8", "data": "paid too" });
        for event in [&both, &owned] {
            let answer = post(&owner, event).json();
            assert_eq!(answer.get("duplicate"), None, "{answer}");
        }
        assert_eq!(subscriber.data(2), ["paid", "paid too"]);
    }
}
