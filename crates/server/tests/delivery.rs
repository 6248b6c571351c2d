//! What subscribers get: whom an event reaches, and the bytes of it.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Backend, CONTROL_PATH, Connection, Event, Item, Server, Subscriber, http, now, on_both_backends,
};

/// The body behind the prelude: `:`, a retry, and no blank line.
fn behind_prelude(subscriber: &Subscriber) -> String {
    let body = String::from_utf8(subscriber.body.clone()).expect("a stream is UTF-8");
    let rest = body.strip_prefix(":\nretry: ").unwrap_or_else(|| panic!("no prelude: {body:?}"));
    rest.split_once('\n').expect("the retry's line ends").1.to_owned()
}

/// Checks what comes first in a stream: a chunk of its own, where there are chunks.
fn expect_prelude(bytes: &[u8], chunked: bool) -> u64 {
    let text = std::str::from_utf8(bytes).expect("text");
    let body = if chunked {
        let (length, rest) = text.split_once("\r\n").expect("a chunk");
        let body = rest.strip_suffix("\r\n").expect("a chunk's end");
        assert_eq!(format!("{:x}", body.len()), length.to_ascii_lowercase());
        body
    } else {
        text
    };
    let retry = body.strip_prefix(":\nretry: ").and_then(|rest| rest.strip_suffix('\n'));
    retry.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("not a prelude: {text:?}"))
}

on_both_backends! {
    fn one_event_reaches_every_subscriber(backend) {
        let server = Server::start(backend);
        // More than one batch of the io_uring backend in each shard, in both formats.
        let mut subscribers: Vec<Subscriber> = (0..300)
            .map(|number| match number % 5 {
                0 => server.subscribe_with("topic=news", &[("Connection", "close")]),
                _ => server.subscribe("topic=news"),
            })
            .collect();
        server.expect_subscribers("news", 300);
        let mut publisher = server.publisher();
        let long = "long ".repeat(2000);
        for data in ["small", &long, "last"] {
            let id = publisher.publish("news", data);
            let expected = Event { id, kind: "message".to_owned(), data: data.to_owned() };
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.event(), expected);
            }
        }
    }

    fn only_subscribed_topics_arrive_and_in_the_order_of_publishing(backend) {
        let server = Server::start(backend);
        let mut a = server.subscribe("topic=a");
        let mut both = server.subscribe("topic=a&topic=b&topic=a");
        let mut other = server.subscribe("topic=A");
        let mut spelled = server.subscribe("topic=%C3%A4%20%26%2F%2B");
        let mut publisher = server.publisher();
        for (topic, data) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"), ("\u{e4} &/+", "5"), ("A", "6")] {
            publisher.publish(topic, data);
        }
        publisher.publish_json(&json!({ "topic": ["a", "b", "A", "\u{e4} &/+"], "data": "end" }));
        assert_eq!(a.data(3), ["1", "4", "end"]);
        assert_eq!(both.data(4), ["1", "2", "4", "end"]);
        assert_eq!(other.data(2), ["6", "end"]);
        assert_eq!(spelled.data(2), ["5", "end"]);
    }

    fn an_event_that_matches_twice_is_delivered_once(backend) {
        let server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a&topic=b&topic=c");
        let twice = server.publish_json(&json!({ "topic": ["a", "b", "a", "x"], "data": "twice" }));
        let marker = server.publish("c", "marker");
        let events = subscriber.events(2);
        assert_eq!([&events[0].id, &events[1].id], [&twice, &marker]);
    }

    fn private_events_do_not_reach_the_anonymous(backend) {
        let server = Server::start(backend);
        let mut live = server.subscribe("topic=a");
        server.publish_json(&json!({ "topic": "a", "data": "secret", "private": true }));
        server.publish_json(&json!({ "topic": "a", "data": "open", "private": false }));
        let form = server.connect().post("application/x-www-form-urlencoded", "topic=a&data=secret&private=on");
        assert_eq!(form.status, 200);
        server.publish("a", "marker");
        assert_eq!(live.data(2), ["open", "marker"]);
        assert_eq!(server.subscribe("topic=a&last_event_id=earliest").data(2), ["open", "marker"]);
    }

    /// Byte for byte, chunked and not.
    fn events_are_exactly_these_bytes(backend) {
        let server = Server::start(backend);
        let mut chunked = server.subscribe("topic=t&checkpoint=off");
        let mut closing = server.subscribe_with("topic=t&checkpoint=off", &[("Connection", "close")]);
        let mut old = server.connect();
        old.send("GET /events?topic=t&checkpoint=off HTTP/1.0\r\n\r\n");
        let mut old = Subscriber::on(old);
        let cases: &[(Value, &str)] = &[
            (json!({ "data": "hello" }), "data: hello\n"),
            (json!({ "data": "" }), "data:\n"),
            (json!({}), ""),
            (json!({ "data": " leading and trailing " }), "data:  leading and trailing \n"),
            (json!({ "data": "one\ntwo\r\nthree\rfour" }), "data: one\ndata: two\ndata: three\ndata: four\n"),
            (json!({ "data": "\n" }), "data:\ndata:\n"),
            (json!({ "data": "a\n\nb\n" }), "data: a\ndata:\ndata: b\ndata:\n"),
            (json!({ "data": "\r\r\n\n" }), "data:\ndata:\ndata:\ndata:\n"),
            (json!({ "data": "id: 7\nevent: x\n: c" }), "data: id: 7\ndata: event: x\ndata: : c\n"),
            (json!({ "data": "\u{feff}gr\u{fc}\u{df}e \u{1f389}\u{0}" }), "data: \u{feff}gr\u{fc}\u{df}e \u{1f389}\u{0}\n"),
            (json!({ "data": "x", "type": "paid" }), "event: paid\ndata: x\n"),
            (json!({ "data": "x", "type": " \u{e4} " }), "event:  \u{e4} \ndata: x\n"),
            (json!({ "data": "x", "retry": 5000 }), "retry: 5000\ndata: x\n"),
            (json!({ "data": "x", "retry": 1 }), "retry: 100\ndata: x\n"),
            (json!({ "data": "x", "retry": "99999999999999999999" }), "retry: 3600000\ndata: x\n"),
            (json!({ "data": "x", "type": "t", "retry": 700 }), "event: t\nretry: 700\ndata: x\n"),
            (json!({ "data": { "b": [1, 2.50, null], "a": "\u{e4}" } }), "data: {\"a\":\"\u{e4}\",\"b\":[1,2.5,null]}\n"),
        ];
        let mut publisher = server.publisher();
        let (mut expected, mut frames) = (String::new(), Vec::new());
        for (number, (fields, wire)) in cases.iter().enumerate() {
            let mut event = fields.clone();
            event["topic"] = json!("t");
            if number % 3 == 2 {
                event["id"] = json!(format!("own id-{number} \u{e4}"));
            }
            let id = publisher.publish_json(&event);
            frames.push(format!("{wire}id: {id}\n\n"));
            expected.push_str(&frames[number]);
        }
        for subscriber in [&mut chunked, &mut closing, &mut old] {
            let prelude = subscriber.body_of(12).len();
            subscriber.body_of(prelude + expected.len());
            assert_eq!(behind_prelude(subscriber), expected);
        }
        // Each frame is a chunk, so that no chunk ends within a frame.
        let lengths: Vec<usize> = chunked.chunk_ends.windows(2).map(|ends| ends[1] - ends[0]).collect();
        assert_eq!(lengths, frames.iter().map(String::len).collect::<Vec<_>>());
    }

    fn the_head_of_a_stream_is_exactly_this(backend) {
        let server = Server::start(backend);
        let fixed = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
            Cache-Control: no-store, no-cache, no-transform\r\nX-Accel-Buffering: no\r\n";
        // Apart from the date, which is one: "Sun, 06 Nov 1994 08:49:37 GMT".
        let head_without_date = |connection: &mut Connection| {
            let head = connection.read_head();
            let date = http::header(&head, "Date").expect("a date");
            assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
            head.replace(&format!("Date: {date}\r\n"), "")
        };
        let cases = [
            ("HTTP/1.1\r\nHost: h\r\n", "Transfer-Encoding: chunked\r\n"),
            ("HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nAccept: */*\r\n", "Transfer-Encoding: chunked\r\n"),
            ("HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", "Connection: close\r\n"),
            ("HTTP/1.0\r\n", "Connection: close\r\n"),
            ("HTTP/1.0\r\nConnection: keep-alive\r\n", "Connection: close\r\n"),
        ];
        for (rest, framing) in cases {
            let mut connection = server.connect();
            connection.send(format!("GET /events?topic=a {rest}\r\n"));
            let expected = format!("{fixed}{framing}Vary: Origin\r\n\r\n");
            assert_eq!(head_without_date(&mut connection), expected, "{rest:?}");
        }
        // What a kept connection gets later is the same.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
        connection.send(http::head("GET", "/events?topic=a", &[]));
        let expected = format!("{fixed}Transfer-Encoding: chunked\r\nVary: Origin\r\n\r\n");
        assert_eq!(head_without_date(&mut connection), expected);
    }

    /// A browser fires `open` on the head, and proxies pass on what comes with it: one segment has both.
    fn head_and_prelude_come_together_and_the_retry_has_jitter(backend) {
        let server = Server::start_with(backend, &["--retry", "4s"]);
        let mut retries = Vec::new();
        for number in 0..40 {
            let chunked = number % 2 == 0;
            let option = if chunked { "keep-alive" } else { "close" };
            let mut connection = server.ask_to_subscribe("topic=a&checkpoint=off", &[("Connection", option)]);
            connection.receive().expect("the answer's first segment");
            connection.read_head();
            let retry = expect_prelude(&connection.received, chunked);
            assert!((4000..=6000).contains(&retry), "{retry}");
            retries.push(retry);
        }
        retries.dedup();
        assert!(retries.len() > 1, "all reconnect at once: {retries:?}");
    }

    fn heartbeats_come_where_nothing_else_was_sent(backend) {
        let server = Server::start_with(backend, &["--heartbeat", "1s"]);
        let mut idle = server.subscribe("topic=idle&checkpoint=off");
        let mut old = server.subscribe_with("topic=idle&checkpoint=off", &[("Connection", "close")]);
        let mut busy = server.subscribe("topic=busy&checkpoint=off");
        let mut publisher = server.publisher();
        let until = now() + Duration::from_secs(3);
        let (mut number, mut heartbeats) = (0, 0);
        assert_eq!(busy.item(), Item::Comment(String::new()));
        assert!(matches!(busy.item(), Item::Retry(_)));
        let mut last_event_at = now();
        while now() < until {
            publisher.publish("busy", &number.to_string());
            number += 1;
            loop {
                match busy.item() {
                    Item::Event(_) => break,
                    Item::Comment(_) => heartbeats += 1,
                    Item::Retry(_) => panic!("a retry in the middle of a stream"),
                }
            }
            // On a machine that stands still for so long, a heartbeat is right.
            if heartbeats > 0 {
                assert!(now() - last_event_at > Duration::from_millis(400), "a heartbeat on a busy stream");
                heartbeats = 0;
            }
            last_event_at = now();
            std::thread::sleep(Duration::from_millis(50));
        }
        for (subscriber, chunked) in [(&mut idle, true), (&mut old, false)] {
            for expected in [":", "retry", ":", ":"] {
                match subscriber.item() {
                    Item::Comment(text) => assert_eq!((expected, text.as_str()), (":", "")),
                    Item::Retry(_) => assert_eq!(expected, "retry"),
                    Item::Event(event) => panic!("{event:?}"),
                }
            }
            let heartbeats = behind_prelude(subscriber);
            assert!(heartbeats.len() >= 4 && heartbeats.replace(":\n", "").is_empty(), "{heartbeats:?}");
            if chunked {
                assert_eq!(subscriber.chunk_ends[1] - subscriber.chunk_ends[0], 2, "a chunk for each");
            }
        }
    }

    fn heartbeats_end_with_a_blank_line_where_that_is_asked_for(backend) {
        let server = Server::start_with(backend, &["--heartbeat", "200ms", "--heartbeat-blank-line"]);
        let mut connection = server.ask_to_subscribe("topic=a&checkpoint=off", &[]);
        connection.read_head();
        connection.read_through(b"\r\n");
        expect_no_blank_line(&connection.read_through(b"\r\n"));
        assert_eq!(connection.read_exactly(2 * 8), b"3\r\n:\n\n\r\n3\r\n:\n\n\r\n");
        let mut old = server.subscribe_with("topic=a&checkpoint=off", &[("Connection", "close")]);
        let prelude = old.body_of(12).len();
        old.body_of(prelude + 6);
        assert_eq!(&behind_prelude(&old)[..6], ":\n\n:\n\n");
    }

    /// A subscriber that was cut before its first event had no id to come back with: it lost what came
    /// meanwhile, and was told of nothing.
    fn a_checkpoint_opens_the_stream_and_follows_quiet_topics(backend) {
        let server = Server::start_with(backend, &["--heartbeat", "400ms"]);
        let first = server.publish("other", "1");
        let mut quiet = server.subscribe("topic=quiet");
        quiet.body_of(12 + first.len());
        assert_eq!(behind_prelude(&quiet), format!("id: {first}\n\n"));
        let missed = server.publish("quiet", "2");
        assert_eq!(quiet.event().id, missed);
        // Cut before the first event: the opening's id misses nothing.
        let mut back = server.subscribe_with("topic=quiet", &[("Last-Event-ID", &first)]);
        assert_eq!(back.header("Fanfare-Gap"), None);
        assert_eq!(back.data(1), ["2"]);
        // What happens elsewhere moves the id of a quiet stream on.
        let last = server.publish("other", "3");
        let moved_on = format!("id: {last}\n\n");
        while !behind_prelude(&quiet).contains(&moved_on) {
            let length = quiet.body.len();
            quiet.body_of(length + 1);
        }
        // After that there is nothing new to say.
        let length = quiet.body.len();
        quiet.body_of(length + 4);
        let rest = behind_prelude(&quiet).rsplit(&moved_on).next().unwrap_or_default().to_owned();
        assert!(rest.starts_with(":\n:\n"), "{rest:?}");
        let mut back = server.subscribe_with("topic=quiet", &[("Last-Event-ID", &last)]);
        assert_eq!(back.header("Fanfare-Gap"), None);
        server.publish("quiet", "4");
        assert_eq!(back.data(1), ["4"]);
        let mut named = server.subscribe("topic=quiet&checkpoint=event");
        let event = named.event();
        assert_eq!((event.kind.as_str(), event.data.as_str()), ("fanfare.checkpoint", "{}"));
    }

    /// Some clients give up after five seconds of silence.
    fn a_subscription_may_ask_for_its_heartbeat_interval(backend) {
        let server = Server::start(backend);
        let mut asks = server.subscribe("topic=a&checkpoint=off&heartbeat=1");
        let prelude = asks.body_of(12).len();
        asks.body_of(prelude + 4);
        assert_eq!(&behind_prelude(&asks)[..4], ":\n:\n");
        server.get("/events?topic=a&heartbeat=0").problem(400);
    }

    fn large_events_arrive_whole(backend) {
        let server = Server::start(backend);
        let mut fast: Vec<Subscriber> = (0..40).map(|_| server.subscribe("topic=a")).collect();
        let mut small = server.ask_with_small_buffer("topic=a", 4096);
        let line: String = (0..1000).map(|number| format!("{number:04}")).collect();
        let data = vec![line; 200].join("\n");
        let mut publisher = server.publisher();
        let ids = [publisher.publish("a", &data), publisher.publish("a", "next")];
        for subscriber in &mut fast {
            let events = subscriber.events(2);
            assert!(events[0].data == data, "the large event is damaged");
            assert_eq!([&events[0].id, &events[1].id], [&ids[0], &ids[1]]);
        }
        // This one begins to read only now.
        small.receive().expect("the head");
        let mut small = Subscriber::on(small);
        assert!(small.event().data == data, "the large event is damaged");
        assert_eq!(small.event().data, "next");
    }

    fn all_subscribers_see_one_order(backend) {
        const EVENTS: usize = 300;
        let server = Server::start_with(backend, &["--shards", "3"]);
        let mut subscribers: Vec<Subscriber> =
            (0..12).map(|_| server.subscribe("topic=p0&topic=p1&topic=p2")).collect();
        std::thread::scope(|scope| {
            for publisher in 0..3 {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = server.publisher();
                    for number in 0..EVENTS {
                        connection.publish(&format!("p{publisher}"), &number.to_string());
                    }
                });
            }
        });
        let first = subscribers[0].events(3 * EVENTS);
        for subscriber in &mut subscribers[1..] {
            assert!(subscriber.events(3 * EVENTS) == first, "another order");
        }
    }

    fn a_subscriber_that_leaves_is_gone_and_the_others_stay(backend) {
        let server = Server::start(backend);
        let mut stays = server.subscribe("topic=a");
        let half = server.subscribe("topic=a");
        let closes = server.subscribe("topic=a");
        let resets = server.subscribe("topic=a");
        server.expect_subscribers("a", 4);
        half.half_close();
        server.expect_subscribers("a", 3);
        closes.leave(false);
        server.expect_subscribers("a", 2);
        resets.leave(true);
        server.expect_subscribers("a", 1);
        server.publish("a", "still here");
        assert_eq!(stays.event().data, "still here");
    }

    fn what_a_subscriber_sends_is_ignored(backend) {
        let server = Server::start(backend);
        let request = http::head("GET", "/events?topic=a", &[]);
        let behind = ["GET /events?topic=b HTTP/1.1\r\nHost: h\r\n\r\n", "\0\u{1}garbage", &"x".repeat(100_000)];
        for bytes in behind {
            server.settle();
            let mut connection = server.connect();
            connection.send(format!("{request}{bytes}"));
            let mut subscriber = Subscriber::on(connection);
            subscriber.send(bytes);
            server.publish("a", "1");
            subscriber.send(bytes);
            server.publish("b", "not asked for");
            server.publish("a", "2");
            assert_eq!(subscriber.data(2), ["1", "2"]);
        }
    }

    /// One buffer was read for each notification, and the rest stayed in the kernel's memory: 1,000
    /// subscribers that sent without end held 1.5 GiB of it, also after they had left.
    fn what_a_subscriber_sends_without_end_is_thrown_away(backend) {
        let server = Server::start(backend);
        let mut connection = server.connect();
        connection.send(http::head("GET", "/events?topic=a", &[]));
        server.expect_subscribers("a", 1);
        // A write that finds no room for long would show that the server does not read.
        let piece = [b'x'; 64 << 10];
        for _ in 0..256 {
            connection.send(piece);
        }
        server.expect_subscribers("a", 1);
        connection.reset();
        server.expect_subscribers("a", 0);
        server.expect_health();
    }
}

fn expect_no_blank_line(chunk: &[u8]) {
    assert!(!chunk.windows(2).any(|pair| pair == b"\n\n"), "{:?}", String::from_utf8_lossy(chunk));
}
