//! Checkpoints: a stream says where it begins, so that a subscriber which is cut before its first event
//! misses nothing.

mod support;

use serde_json::json;
use support::{Backend, Server, Subscriber, on_both_backends};

/// The body of a stream from its prelude to its first checkpoint, and the checkpoint's id.
fn opening(subscriber: &mut Subscriber) -> (String, String) {
    let mut length = 1;
    loop {
        let body = String::from_utf8(subscriber.body_of(length).to_vec()).expect("a stream is UTF-8");
        if let Some(end) = body.find("\n\n") {
            let block = body[..end].to_owned();
            let id = block.lines().last().and_then(|line| line.strip_prefix("id: ")).expect("the id is last");
            return (block.clone(), id.to_owned());
        }
        length = body.len() + 1;
    }
}

on_both_backends! {
    /// It used to come back without an id: what was published meanwhile was lost, and no gap was reported.
    fn a_subscriber_that_is_cut_before_its_first_event_misses_nothing(backend) {
        let server = Server::start(backend);
        server.publish("a", "before");
        for (query, connection) in
            [("topic=a", "keep-alive"), ("topic=a&checkpoint=event", "keep-alive"), ("topic=a", "close")]
        {
            server.settle();
            let mut subscriber = server.subscribe_with(query, &[("Connection", connection)]);
            let (_, id) = opening(&mut subscriber);
            subscriber.leave(true);
            server.publish("a", "1");
            server.publish("b", "of another topic");
            server.publish("a", "2");
            let mut resumed = server.subscribe_with(query, &[("Last-Event-ID", &id)]);
            assert_eq!(resumed.header("Fanfare-Gap"), None, "{query}");
            let mut data = resumed.data(2);
            if query.contains("event") {
                assert_eq!(data.remove(0), "{}", "the checkpoint of the second stream");
                data.extend(resumed.data(1));
            }
            assert_eq!(data, ["1", "2"], "{query}");
        }
    }

    fn a_checkpoint_has_the_form_that_was_asked_for(backend) {
        let server = Server::start(backend);
        let newest = server.publish("a", "before");
        server.settle();
        let block = format!("id: {newest}");
        let event = format!("event: fanfare.checkpoint\ndata: {{}}\nid: {newest}");
        for (switch, expected) in
            [("", &block), ("&checkpoint=on", &block), ("&checkpoint=off&checkpoint=event", &event)]
        {
            for option in ["keep-alive", "close"] {
                let mut subscriber =
                    server.subscribe_with(&format!("topic=a{switch}"), &[("Connection", option)]);
                let (body, id) = opening(&mut subscriber);
                let (prelude, checkpoint) = body.split_at(body.len() - expected.len());
                assert_eq!((checkpoint, &id), (expected.as_str(), &newest), "{switch} {option}");
                let retry = prelude.strip_prefix(":\nretry: ").and_then(|rest| rest.strip_suffix('\n'));
                assert!(retry.is_some_and(|digits| digits.parse::<u64>().is_ok()), "{prelude:?}");
            }
        }
        let mut without = server.subscribe("topic=a&checkpoint=off");
        server.publish("a", "first");
        let (body, _) = opening(&mut without);
        assert!(body.contains("\ndata: first\nid: "), "{body:?}");
        for wrong in ["", "yes", "ON"] {
            let problem = server.get(&format!("/events?topic=a&checkpoint={wrong}")).problem(400);
            assert!(problem["detail"].as_str().is_some_and(|why| why.contains("checkpoint has to be")), "{problem}");
        }
    }

    /// A gap event has the id itself. If the checkpoint stood before it, a subscriber that is cut between the
    /// two would never be told of the gap.
    fn a_gap_event_is_the_checkpoint(backend) {
        let server = Server::start(backend);
        let first = server.publish("a", "1");
        server.settle();
        let epoch = first.split_once('-').expect("an id has an epoch").0;
        let mut told = server.subscribe_with("topic=a", &[("Last-Event-ID", "unknown")]);
        let (body, id) = opening(&mut told);
        let data = json!({ "after": "unknown", "before": first });
        assert!(body.ends_with(&format!("\nevent: fanfare.gap\ndata: {data}\nid: {epoch}-0")), "{body:?}");
        assert_eq!(id, format!("{epoch}-0"));
        let mut quiet = server.subscribe_with("topic=a&gap=off", &[("Last-Event-ID", "unknown")]);
        let (body, id) = opening(&mut quiet);
        assert!(!body.contains("event:") && id == format!("{epoch}-0"), "{body:?}");
        // What was resumed from, or asked for, is where the stream begins.
        server.publish("a", "2");
        for resume in [first.as_str(), "earliest"] {
            let mut subscriber = server.subscribe_with("topic=a", &[("Last-Event-ID", resume)]);
            let (_, id) = opening(&mut subscriber);
            let (begins, events) = if resume == first { (first.clone(), 1) } else { (format!("{epoch}-0"), 2) };
            assert_eq!(id, begins, "{resume}");
            assert_eq!(subscriber.data(events), ["1", "2"][2 - events..], "{resume}");
        }
    }

    fn a_heartbeat_that_is_no_number_of_seconds_is_refused(backend) {
        let server = Server::start(backend);
        for wrong in ["", "0", "4s", "1.5", "-1"] {
            let problem = server.get(&format!("/events?topic=a&heartbeat={wrong}")).problem(400);
            assert!(problem["detail"].as_str().is_some_and(|why| why.contains("whole number of seconds")), "{problem}");
        }
        let mut subscriber = server.subscribe("topic=a&heartbeat=99999999999999999999");
        server.publish("a", "x");
        assert_eq!(subscriber.event().data, "x");
    }
}
