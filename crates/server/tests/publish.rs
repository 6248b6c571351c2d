//! Publishing: every form of body, what is refused and why, and that the ids answered are the ids delivered.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Backend, CONTROL_PATH, Connection, Response, Server, http, on_both_backends};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const FORM: &str = "application/x-www-form-urlencoded";

fn post(server: &Server, content_type: &str, body: impl AsRef<[u8]>) -> Response {
    server.connect().post(content_type, body)
}

/// Begins a publish whose body comes in chunks.
fn begin_chunks(server: &Server, content_type: &str) -> Connection {
    let mut connection = server.connect();
    let fields = [("Content-Type", content_type), ("Transfer-Encoding", "chunked")];
    connection.send(http::head("POST", "/events", &fields));
    connection
}

fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

on_both_backends! {
    fn each_form_of_body_publishes_and_its_ids_are_the_streams(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a&topic=b");

        let one = post(&server, JSON, r#" {"topic":"a","data":"one"} "#).json();
        let array = post(&server, "application/json; charset=utf-8",
            r#" [{"topic":"a","data":"two"},{"topic":["b","c"],"data":"three"},{"topic":"a","id":"mine","data":"four"}]"#).json();
        let lines = post(&server, NDJSON, "{\"topic\":\"a\",\"data\":\"five\"}\n\n \r\n{\"topic\":\"b\",\"data\":\"six\"}").json();
        let form = post(&server, FORM, "topic=a&topic=b&data=se+ven%21&type=t&retry=2500&id=").json();
        let events = subscriber.events(7);
        let data: Vec<&str> = events.iter().map(|event| event.data.as_str()).collect();
        assert_eq!(data, ["one", "two", "three", "four", "five", "six", "se ven!"]);
        assert_eq!(one, json!({ "id": events[0].id }));
        assert_eq!(array, json!({ "published": 3, "first": events[1].id, "last": "mine" }));
        assert_eq!(events[3].id, "mine");
        assert_eq!(lines, json!({ "published": 2, "first": events[4].id, "last": events[5].id }));
        assert_eq!(form, json!({ "id": events[6].id }));
        assert_eq!(events[6].kind, "t");
        assert_eq!(post(&server, "APPLICATION/JSONL", "{\"topic\":\"a\"}").json()["published"], 1);
    }

    /// Each form of body, one after the other on one connection, and two requests at once.
    fn publishes_on_a_connection_that_is_kept_alive_are_answered_in_turn(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let mut connection = server.connect();
        for number in 0..30 {
            let (content_type, body) = match number % 3 {
                0 => (JSON, json!({ "topic": "a", "data": number }).to_string()),
                1 => (NDJSON, format!("{}\n", json!({ "topic": "a", "data": number }))),
                _ => (FORM, format!("topic=a&data={number}")),
            };
            let response = connection.post(content_type, body);
            assert_eq!(response.status, 200, "{}", response.text());
            assert_eq!(subscriber.event().data, number.to_string());
        }
        for _ in 0..2 {
            let body = r#"{"topic":"a","data":"at once"}"#;
            let length = body.len().to_string();
            let fields = [("Content-Type", JSON), ("Content-Length", length.as_str())];
            connection.send(http::head("POST", "/events", &fields) + body);
        }
        assert_eq!([connection.read_response().status, connection.read_response().status], [200, 200]);
        assert_eq!(subscriber.data(2), ["at once", "at once"]);
    }

    fn nothing_to_publish_is_no_error(backend) {
        let server = Server::start(backend);
        for (content_type, body) in [(JSON, "[]"), (JSON, " [ ] "), (NDJSON, ""), (NDJSON, "\n\r\n\n")] {
            let response = post(&server, content_type, body);
            assert_eq!(response.status, 200, "{content_type} {body:?}");
            assert_eq!(response.json(), json!({ "published": 0, "first": null, "last": null }));
        }
    }

    fn data_may_be_any_json_value_and_is_sent_compact(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        for (written, sent) in [
            (r#""text \u00e4 \" \n""#, "text \u{e4} \" \n"),
            (r#"{ "b" : [ 1 , 2.50, -0, 1e400 ], "a" : { } }"#, r#"{"b":[1,2.50,-0,1e400],"a":{}}"#),
            ("[ true , false, null ]", "[true,false,null]"),
            ("12345678901234567890123", "12345678901234567890123"),
            (" null ", "null"),
            (r#"{"text": "keeps  its \" spaces \\"}"#, r#"{"text":"keeps  its \" spaces \\"}"#),
            ("{\n\t\"a\":\r\n1}", r#"{"a":1}"#),
            (r#""\ud83c\udf89""#, "\u{1f389}"),
        ] {
            let response = post(&server, JSON, format!(r#"{{"topic":"a","data":{written}}}"#));
            assert_eq!(response.status, 200, "{written}: {}", response.text());
            assert_eq!(subscriber.event().data, sent);
        }
    }

    /// What came before a bad line stands, nothing after it is taken, and the answer names the line.
    fn a_bad_line_of_a_stream_is_named_and_what_came_before_it_stands(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let mut connection = begin_chunks(&server, NDJSON);
        // Lines and chunks end where they like; each line is delivered while the body is still under way.
        connection.send(chunk("{\"topic\":\"a\",\"data\":\"1\"}\n{\"topic\":\"a\","));
        let first = subscriber.event();
        assert_eq!(first.data, "1");
        connection.send(chunk("\"data\":\"2\"}\n\n"));
        let second = subscriber.event();
        assert_eq!(second.data, "2");
        connection.send_what_it_takes(chunk("{\"topic\":\"a\",\"data\":\"3\"}\n{\"topic\":\"a\",\"tpyo\":1}\n{\"topic\":\"a\",\"data\":\"5\"}\n"));
        connection.send_what_it_takes("0\r\n\r\n");
        let problem = connection.read_response().problem(400);
        let third = subscriber.event();
        assert_eq!(third.data, "3");
        assert_eq!(problem["line"], 5, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("line 5: ")), "{problem}");
        assert_eq!(problem["published"], 3, "{problem}");
        assert_eq!([&problem["first"], &problem["last"]], [&json!(first.id), &json!(third.id)]);
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker", "nothing after the bad line was taken");
    }

    /// Some faults are found only by the hub, which takes a batch whole or not at all. A line is not the
    /// worse for it.
    fn a_line_that_the_hub_refuses_is_named_like_any_other(backend) {
        let server = Server::start_with(backend, &["--max-event", "1KiB"]);
        let mut subscriber = server.subscribe("topic=a");
        let id = server.publish("a", "0");
        let (epoch, _) = id.split_once('-').expect("an id has an epoch");
        subscriber.event();
        for (bad, status) in [
            (json!({ "topic": "a", "data": "x".repeat(2000) }), 413),
            (json!({ "topic": "a", "id": format!("{epoch}-1"), "data": "x" }), 400),
        ] {
            let line = |data: &str| json!({ "topic": "a", "data": data }).to_string();
            let body = format!("{}\n\n{}\n{bad}\n{}\n", line("1"), line("2"), line("3"));
            let problem = post(&server, NDJSON, body).problem(status);
            assert_eq!((&problem["line"], &problem["published"]), (&json!(4), &json!(2)), "{problem}");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("line 4: ")), "{problem}");
            let events = subscriber.events(2);
            assert_eq!([&events[0].data, &events[1].data], ["1", "2"]);
            assert_eq!([&problem["first"], &problem["last"]], [&json!(events[0].id), &json!(events[1].id)]);
        }
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker");
    }

    fn an_array_with_a_bad_event_publishes_nothing(backend) {
        let server = Server::start_with(backend, &["--max-event", "1KiB"]);
        let mut subscriber = server.subscribe("topic=a");
        let problem = post(&server, JSON, r#"[{"topic":"a","data":"1"},{"topic":"a","type":"open"}]"#).problem(400);
        assert_eq!((&problem["index"], &problem["field"]), (&json!(1), &json!("type")), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("event 2: ")), "{problem}");
        // Nor does a long one whose fault is found only by the hub.
        let mut events = vec![json!({ "topic": "a", "data": "x" }); 600];
        events.push(json!({ "topic": "a", "data": "x".repeat(2000) }));
        let problem = post(&server, JSON, Value::from(events).to_string()).problem(413);
        assert_eq!(problem["index"], 600, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("event 601: ")), "{problem}");
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker");
    }

    /// A body of four MiB that was an array of 299,000 tiny events kept the control plane busy for seven
    /// seconds: each batch moved the rest of the array, and no other request had a turn before the last one.
    /// Health checks found no life.
    fn a_long_array_lets_other_requests_have_their_turns(backend) {
        const EVENTS: usize = 100_000;
        let server = Server::start_with(backend, &["--max-array", "100000"]);
        let mut others = server.connect();
        assert_eq!(others.request("GET", CONTROL_PATH, &[]).status, 200);
        let event = r#"{"topic":"a"}"#;
        // Of the first one nothing is published, so that nothing has to wait for room in a mailbox: a wait is
        // a turn for the others, too.
        for (last, status) in [(r#"{"tpyo":"a"}"#, 400), (event, 200)] {
            let body = format!("[{},{last}]", vec![event; EVENTS - 1].join(","));
            let mut connection = server.connect();
            let length = body.len().to_string();
            let fields = [("Content-Type", JSON), ("Content-Length", length.as_str())];
            connection.send(http::head("POST", "/events", &fields));
            connection.send(body);
            let mut answered = 0;
            let moment = Duration::from_millis(1);
            while connection.receive_within(moment).expect("the connection stands").is_none() {
                assert_eq!(others.request("GET", CONTROL_PATH, &[]).status, 200);
                answered += 1;
            }
            let response = connection.read_response();
            assert_eq!(response.status, status, "{}", response.text());
            assert!(answered >= 10, "while the array was read {answered} other requests were answered");
            let (name, count) = if status == 200 { ("published", EVENTS) } else { ("index", EVENTS - 1) };
            assert_eq!(response.json()[name], count);
        }
    }

    fn an_array_has_a_bound_and_publishes_nothing_beyond_it(backend) {
        let server = Server::start_with(backend, &["--max-array", "1000"]);
        let mut subscriber = server.subscribe("topic=a");
        let array = |count: usize| Value::from(vec![json!({ "topic": "a", "data": "x" }); count]).to_string();
        let problem = post(&server, JSON, array(1001)).problem(413);
        let detail = problem["detail"].as_str().expect("a reason");
        assert!(detail.contains("1000 events") && detail.contains("NDJSON"), "{detail}");
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker", "nothing of the long one was published");
        assert_eq!(post(&server, JSON, array(1000)).json()["published"], 1000);
        assert_eq!(subscriber.events(1000).len(), 1000);
    }

    fn bodies_that_are_too_long_are_refused(backend) {
        let server = Server::start_with(backend, &["--max-body", "10KiB", "--max-event", "2KiB"]);
        let long = format!(r#"{{"topic":"a","data":"{}"}}"#, "x".repeat(20 << 10));
        post(&server, JSON, &long).problem(413);
        post(&server, FORM, format!("topic=a&data={}", "x".repeat(20 << 10))).problem(413);
        // By its length alone, before any of it has come.
        let mut connection = server.connect();
        connection.send(http::head("POST", "/events", &[("Content-Type", JSON), ("Content-Length", "99999999999")]));
        connection.read_response().problem(413);
        let mut chunked = begin_chunks(&server, JSON);
        for piece in long.as_bytes().chunks(1000) {
            chunked.send_what_it_takes(chunk(piece));
        }
        chunked.read_response().problem(413);

        // Of a stream it is the line that counts.
        let line = format!("{{\"topic\":\"a\",\"data\":\"{}\"}}\n", "x".repeat(1500));
        let response = post(&server, NDJSON, line.repeat(50));
        assert_eq!(response.json()["published"], 50, "{}", response.text());
        let problem = post(&server, NDJSON, format!("{line}{{\"topic\":\"{}", "x".repeat(200_000))).problem(413);
        assert_eq!((&problem["line"], &problem["published"]), (&json!(2), &json!(1)), "{problem}");

        // And the data of one event has its own bound, to the byte.
        let event = |bytes: usize| json!({ "topic": "a", "data": "x".repeat(bytes) }).to_string();
        assert_eq!(post(&server, JSON, event(2048)).status, 200);
        post(&server, JSON, event(2049)).problem(413);
        server.expect_health();
    }

    fn another_content_type_is_refused_with_the_right_ones(backend) {
        let server = Server::start(backend);
        for content_type in ["text/plain", "", "application/json2", "multipart/form-data; boundary=x", "text/event-stream"] {
            let response = post(&server, content_type, r#"{"topic":"a","data":"x"}"#);
            response.problem(415);
            assert!(response.header("Accept-Post").is_some_and(|types| types.contains(NDJSON)));
        }
        let mut connection = server.connect();
        connection.send(format!("{}{{}}", http::head("POST", "/events", &[("Content-Length", "2")])));
        connection.read_response().problem(415);
    }

    /// Whatever would be wrong on the wire is refused, in each form of body, and the field is named.
    fn what_would_be_wrong_on_the_wire_is_refused(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let long = |length: usize| "x".repeat(length);
        let cases: Vec<(Value, &str)> = vec![
            (json!({ "data": "x" }), "topic"),
            (json!({ "topic": "" }), "topic"),
            (json!({ "topic": "a\nb" }), "topic"),
            (json!({ "topic": "a\u{0}" }), "topic"),
            (json!({ "topic": "a\u{85}" }), "topic"),
            (json!({ "topic": long(257) }), "topic"),
            (json!({ "topic": ["a", ""] }), "topic"),
            (json!({ "topic": "a", "id": "x\ny" }), "id"),
            (json!({ "topic": "a", "id": "x\ry" }), "id"),
            (json!({ "topic": "a", "id": "x\u{0}y" }), "id"),
            (json!({ "topic": "a", "id": "\u{7f}" }), "id"),
            (json!({ "topic": "a", "id": "earliest" }), "id"),
            (json!({ "topic": "a", "id": " x" }), "id"),
            (json!({ "topic": "a", "id": "x " }), "id"),
            (json!({ "topic": "a", "id": long(257) }), "id"),
            (json!({ "topic": "a", "type": "x\ny" }), "type"),
            (json!({ "topic": "a", "type": "x\r" }), "type"),
            (json!({ "topic": "a", "type": "\u{0}" }), "type"),
            (json!({ "topic": "a", "type": "open" }), "type"),
            (json!({ "topic": "a", "type": "error" }), "type"),
            (json!({ "topic": "a", "type": "fanfare.gap" }), "type"),
            (json!({ "topic": "a", "type": long(129) }), "type"),
            (json!({ "topic": "a", "retry": "soon" }), "retry"),
            (json!({ "topic": "a", "retry": "-1" }), "retry"),
            (json!({ "topic": "a", "retry": "1\n" }), "retry"),
        ];
        for (event, field) in &cases {
            let problem = post(&server, JSON, event.to_string()).problem(400);
            let detail = problem["detail"].as_str().expect("a reason");
            assert!(problem["field"] == *field || detail.contains(field), "{event}: {problem}");
            let in_stream = post(&server, NDJSON, format!("{{\"topic\":\"b\"}}\n{event}\n")).problem(400);
            assert_eq!((&in_stream["line"], &in_stream["published"]), (&json!(2), &json!(1)), "{event}: {in_stream}");
            // An empty id, type or retry of a form is an absent one; a list is its name several times.
            let mut form = String::new();
            for (name, value) in event.as_object().expect("an object") {
                let values = match value {
                    Value::Array(values) => values.clone(),
                    one => vec![one.clone()],
                };
                for value in values {
                    let text = value.as_str().expect("a string");
                    let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
                    form.push_str(&format!("{name}={escaped}&"));
                }
            }
            let problem = post(&server, FORM, form).problem(400);
            assert_eq!(problem["field"], *field, "{event}: {problem}");
        }
        for (event, part) in [
            (r#"{"topic":"a","retry":1.5}"#, "retry"),
            (r#"{"topic":"a","retry":-3}"#, "retry"),
            (r#"{"topic":"a","retry":true}"#, "retry"),
            (r#"{"topic":5}"#, "topic"),
            (r#"{"topic":[]}"#, "topic"),
            (r#"{"topic":"a","id":7}"#, "string"),
            (r#"{"topic":"a","private":"yes"}"#, "boolean"),
            (r#"{"topic":"a","topics":["b"]}"#, "topics"),
            (r#"{"topic":"a","topic":"b"}"#, "topic"),
            (r#"{"topic":"a"} {"topic":"a"}"#, "trailing"),
            (r#"{"topic":"a""#, "EOF"),
            (r#"{"topic":"a","data":"\ud800"}"#, "hex escape"),
            ("nonsense", "JSON"),
            ("", "JSON"),
            ("5", "JSON"),
        ] {
            let problem = post(&server, JSON, event).problem(400);
            let detail = problem["detail"].as_str().expect("a reason");
            assert!(detail.contains(part), "{event}: {detail}");
        }
        let too_many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
        post(&server, JSON, json!({ "topic": too_many }).to_string()).problem(400);
        assert_eq!(post(&server, FORM, "topic=a&colour=red").problem(400)["field"], "colour");
        // The hub's own ids are for the hub alone.
        let id = server.publish("b", "x");
        let (epoch, _) = id.split_once('-').expect("an id");
        post(&server, JSON, json!({ "topic": "a", "id": format!("{epoch}-1") }).to_string()).problem(400);
        // Nor are those of an earlier life of the hub: a subscriber that came back with one was taken for one
        // that has the event which bore it now, and missed what lay between in silence.
        post(&server, JSON, json!({ "topic": "a", "id": "0123abcde-5" }).to_string()).problem(400);

        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker", "of all this nothing was published");
    }

    fn bytes_that_are_no_utf8_are_refused(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"] {
            for field in ["data", "topic", "id", "type"] {
                let start = if field == "topic" { "{\"topic\":\"".to_owned() } else { format!("{{\"topic\":\"a\",\"{field}\":\"") };
                let event = [start.as_bytes(), bytes, b"\"}"].concat();
                post(&server, JSON, &event).problem(400);
                post(&server, JSON, [b"[", event.as_slice(), b"]"].concat()).problem(400);
                post(&server, NDJSON, &event).problem(400);
                let start = if field == "topic" { "topic=".to_owned() } else { format!("topic=a&{field}=") };
                assert_eq!(post(&server, FORM, [start.as_bytes(), bytes].concat()).problem(400)["field"], field);
            }
        }
        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker");
    }

    /// Of a JSON body that breaks off nothing is taken; of a stream, what was whole.
    fn a_body_that_breaks_off_publishes_no_half_of_an_event(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let event = r#"{"topic":"a","data":"broken off"}"#;
        let mut connection = server.connect();
        let length = (event.len() + 5).to_string();
        connection.send(http::head("POST", "/events", &[("Content-Type", JSON), ("Content-Length", &length)]));
        connection.send(event);
        connection.half_close();
        let _ = connection.read_to_end();

        let mut connection = begin_chunks(&server, JSON);
        connection.send(chunk(event));
        connection.reset();

        // This line is whole, and the next is not, though what there is of it would be.
        let mut connection = begin_chunks(&server, NDJSON);
        connection.send(chunk("{\"topic\":\"a\",\"data\":\"whole\"}\n"));
        assert_eq!(subscriber.event().data, "whole");
        connection.send(chunk(event));
        connection.half_close();
        let _ = connection.read_to_end();

        let mut connection = begin_chunks(&server, JSON);
        connection.send("zz\r\n");
        let response = connection.read_response();
        assert_eq!(response.status, 400);

        server.publish("a", "marker");
        assert_eq!(subscriber.event().data, "marker");
        server.expect_idle();
    }

    fn curl_may_ask_whether_to_send_its_body(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        let fields = [("Content-Type", FORM), ("Content-Length", "14"), ("Expect", "100-continue")];
        connection.send(http::head("POST", "/events", &fields));
        assert!(connection.read_head().starts_with("HTTP/1.1 100 "));
        connection.send("topic=a&data=x");
        assert_eq!(connection.read_response().status, 200);
    }

    fn a_stream_of_many_lines_is_published_in_order(backend) {
        const LINES: usize = 5000;
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        let mut connection = begin_chunks(&server, NDJSON);
        let (mut body, mut sent) = (Vec::new(), 0);
        for number in 0..LINES {
            body.extend(format!("{{\"topic\":\"a\",\"data\":{number}}}\n").bytes());
        }
        for size in [1, 7, 100, 1000, 40_000].into_iter().cycle() {
            let piece = &body[sent..(sent + size).min(body.len())];
            if piece.is_empty() {
                break;
            }
            connection.send(chunk(piece));
            sent += piece.len();
        }
        connection.send("0\r\n\r\n");
        let events = subscriber.events(LINES);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event.data, number.to_string());
        }
        let answer = connection.read_response().json();
        assert_eq!(answer, json!({ "published": LINES, "first": events[0].id, "last": events[LINES - 1].id }));
    }
}
