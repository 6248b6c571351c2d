//! What other NATS programs publish: events, and messages that are none.

use std::collections::BTreeSet;

use fanfare_testkit::nats::NatsClient;

use crate::support::{Node, PATIENCE, event, has_gap, next, next_data, server, wait_for};

#[test]
fn events_of_other_programs_are_delivered() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = node.subscribe();
    let mut other = server.client().unwrap();
    other.publish_acked("fanfare.a", &[], b"plain").unwrap();
    other.publish_acked("fanfare.a", &[("Nats-Msg-Id", "own")], b"with an id").unwrap();
    other.publish_acked("fanfare.a", &[("Nats-Msg-Id", "earliest")], b"not its own").unwrap();
    other.publish_acked("fanfare.a", &[("Nats-Msg-Id", "000000001-7")], b"nor this").unwrap();
    let headers = [("Fanfare-Topics", "[\"b\",\"a\"]"), ("Fanfare-Type", "paid")];
    other.publish_acked("fanfare.$multi", &headers, b"two topics").unwrap();
    let id = node.publish(event("end")).unwrap();
    let epoch = id.split_once('-').unwrap().0.to_owned();
    for (data, id) in [
        ("plain", format!("{epoch}-1")),
        ("with an id", "own".to_owned()),
        ("not its own", format!("{epoch}-3")),
        ("nor this", format!("{epoch}-4")),
        ("two topics", format!("{epoch}-5")),
        ("end", format!("{epoch}-6")),
    ] {
        assert_eq!(next(&mut client), (data.to_owned(), id));
    }
}

/// A message that is no event is left out, and is no gap. The client library cannot read the last ones, and
/// gives up the connection over each: without more all nodes would do nothing else any more.
#[test]
fn messages_that_are_no_events_are_left_out() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = node.subscribe();
    let first = node.publish(event("first")).unwrap();
    let mut other = server.client().unwrap();
    let publish = |other: &mut fanfare_testkit::nats::NatsClient| {
        other.publish_acked("fanfare.a.b c".replace(' ', "%20x%zz").as_str(), &[], b"no topic").unwrap();
        other.publish_acked("fanfare.%41", &[], b"not the subject of A").unwrap();
        other.publish_acked("fanfare.a", &[], b"\xff\xfe").unwrap();
        other.publish_acked("fanfare.a", &[("Fanfare-Type", "open")], b"x").unwrap();
        other.publish_acked("fanfare.$multi", &[], b"no topics").unwrap();
        other.publish_raw("fanfare.a", b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n", b"not UTF-8").unwrap();
        other.publish_raw("fanfare.a", b"NATS/1.0\r\nno colon\r\n\r\n", b"no colon").unwrap();
        other.publish_raw("fanfare.a", b"NATS/1.0 503 Sorry\r\n\r\n", b"a status").unwrap();
        other.flush().unwrap();
    };
    publish(&mut other);
    other.publish_acked("fanfare.a", &[], b"between").unwrap();
    publish(&mut other);
    let end = wait_for("a publish", || node.publish(event("end")).ok());
    assert_eq!(next_data(&mut client), "first");
    // A status is no harm to an event.
    for data in ["a status", "between", "a status", "end"] {
        assert_eq!(next_data(&mut client), data);
    }
    assert_eq!(node.backplane.status().messages_without_event, 14);
    assert_eq!(node.hub().log_break(), None);

    // The same where they are read back.
    let fresh = Node::start(&server);
    fresh.await_caught_up();
    let mut client = fresh.resume(&first);
    assert!(!has_gap(&client));
    for data in ["a status", "between", "a status", "end"] {
        assert_eq!(next_data(&mut client), data);
    }
    let mut limits = fanfare_proto::limits::Limits::default();
    limits.log.total_bytes = 0;
    let backplane = fanfare_backplane::NatsBackplane::connect(crate::support::options(&server)).unwrap();
    let engine = fanfare::Engine::builder().shards(1).limits(limits).backplane(backplane.clone());
    let forgetful = Node { engine: engine.start().unwrap(), backplane };
    forgetful.await_caught_up();
    let mut client = forgetful.resume(&first);
    for data in ["a status", "between", "a status", "end"] {
        assert_eq!(next_data(&mut client), data);
    }
    assert!(!has_gap(&forgetful.resume(&end)));
}

/// A program that read the ids of messages took the next ones beforehand: its messages were stored in the
/// place of events, which were lost.
#[test]
fn the_ids_that_a_node_gives_to_messages_cannot_be_guessed() {
    let server = server();
    let node = Node::start(&server);
    node.await_caught_up();
    let mut client = node.subscribe();
    let mut other = server.client().unwrap();
    let reads = other.subscribe("fanfare.a").unwrap();
    other.flush().unwrap();
    let mut publish = |other: &mut NatsClient, data: &str| {
        node.publish(event(data)).unwrap();
        assert_eq!(next_data(&mut client), data);
        let message = other.next(reads, PATIENCE).unwrap().expect("a message");
        let (_, id) = message.headers.into_iter().find(|(name, _)| name == "Nats-Msg-Id").expect("an id");
        id
    };
    let id = publish(&mut other, "first");
    // The numbers behind the one that the id ends with, in whatever way it is written.
    let number = &id[id.rfind('-').map_or(0, |dash| dash + 1)..];
    let beginning = id.strip_suffix(number).expect("it is the end");
    let mut guesses = BTreeSet::new();
    for further in 1..=200 {
        if let Ok(number) = number.parse::<u64>() {
            guesses.insert(format!("{beginning}{}", number.wrapping_add(further)));
        }
        if let Ok(number) = u64::from_str_radix(number, 16) {
            guesses.insert(format!("{beginning}{:016x}", number.wrapping_add(further)));
        }
    }
    assert!(guesses.len() >= 200, "{id}");
    for guess in &guesses {
        other.publish_acked("fanfare.b", &[("Nats-Msg-Id", guess.as_str())], b"stolen").unwrap();
    }
    for number in 0..20 {
        let id = publish(&mut other, &number.to_string());
        assert!(!guesses.contains(&id), "{id} was guessed");
    }
}
