//! Nodes that share a stream.

use crate::support::{Node, event, has_gap, next, next_data, server, topic, wait_for, with_id};
use fanfare::{Cursor, Event, EventType, PublishError, Retry};
use fanfare_testkit::nats::NatsServer;

fn pair() -> (NatsServer, Node, Node) {
    let server = server();
    let nodes = [Node::start(&server), Node::start(&server)];
    let [one, other] = nodes;
    one.await_caught_up();
    other.await_caught_up();
    (server, one, other)
}

#[test]
fn both_nodes_deliver_all_events_with_the_same_ids() {
    let (_server, one, other) = pair();
    let mut clients = [one.subscribe(), other.subscribe()];
    let first = one.publish(event("1")).unwrap();
    let second = other.publish(event("2")).unwrap();
    let batch = one.publish_all(vec![event("3"), with_id("own", "4"), event("5")]).unwrap();
    assert_eq!(batch.count, 3);
    let numbers = [&first, &second, &batch.first, &batch.last].map(|id| Cursor::parse(id).unwrap().seq);
    assert_eq!(numbers, [1, 2, 3, 5]);
    for client in &mut clients {
        assert_eq!(next(client), ("1".to_owned(), first.clone()));
        assert_eq!(next(client), ("2".to_owned(), second.clone()));
        assert_eq!(next(client), ("3".to_owned(), batch.first.clone()));
        assert_eq!(next(client), ("4".to_owned(), "own".to_owned()));
        assert_eq!(next(client), ("5".to_owned(), batch.last.clone()));
    }
    let status = one.backplane.status();
    assert_eq!((status.submitted, status.acknowledged, status.in_flight), (4, 4, 0));
    assert_eq!((status.stream_last, status.behind, status.messages_without_event), (5, 0, 0));
}

/// Everything that an event has comes back from the stream.
#[test]
fn an_event_keeps_all_it_has() {
    let (_server, one, other) = pair();
    let subscribe = fanfare::Subscribe::to([topic("a")]);
    let mut client = fanfare::testing::adopt(&other.hub(), subscribe).unwrap();
    let whole = with_id("own", "x\ny").with_topic(topic("b/c")).unwrap();
    let whole = whole.with_type(EventType::new("paid").unwrap()).with_retry(Retry::from_millis(700));
    one.publish(event("hidden").with_private(true)).unwrap();
    one.publish(Event::new(topic("a"))).unwrap();
    one.publish(whole).unwrap();
    let got = client.next_wait(crate::support::PATIENCE).unwrap().unwrap();
    assert_eq!((got.data(), got.id(), got.kind()), ("x\ny", "own", "paid"));
}

#[test]
fn an_event_with_an_own_id_is_there_once_whichever_node_it_comes_to() {
    let (_server, one, other) = pair();
    let mut client = other.subscribe();
    assert_eq!(one.publish(with_id("7", "x")).unwrap(), "7");
    let again = other.publish_all(vec![with_id("7", "x")]).unwrap();
    assert_eq!((again.count, again.duplicates.len()), (1, 1));
    assert_eq!(one.publish(with_id("7", "y")), Err(PublishError::IdConflict { index: 0 }));
    assert_eq!(other.publish(with_id("7", "y")), Err(PublishError::IdConflict { index: 0 }));
    one.publish(event("end")).unwrap();
    assert_eq!((next_data(&mut client), next_data(&mut client)), ("x".to_owned(), "end".to_owned()));
}

/// A node without history in memory.
fn forgetful(server: &NatsServer) -> Node {
    use fanfare_proto::limits::Limits;
    let backplane = fanfare_backplane::NatsBackplane::connect(crate::support::options(server)).unwrap();
    let mut limits = Limits::default();
    limits.log.total_bytes = 0;
    let engine = fanfare::Engine::builder().shards(1).limits(limits).backplane(backplane.clone());
    Node { engine: engine.start().unwrap(), backplane }
}

/// The same, where the node that repeats has no event in memory: the stream says that it has the id, and the
/// node compares.
#[test]
fn what_the_stream_has_is_compared() {
    let server = server();
    let one = Node::start(&server);
    one.publish(with_id("7", "x")).unwrap();
    let other = forgetful(&server);
    let again = other.publish_all(vec![with_id("7", "x")]).unwrap();
    assert_eq!((again.count, again.duplicates.len()), (1, 1));
    assert_eq!(other.publish(with_id("7", "y")), Err(PublishError::IdConflict { index: 0 }));
    let status = other.backplane.status();
    assert_eq!((status.duplicates, status.refused), (1, 1));
}

/// The stream still knows the id, and has dropped the event. A node that has read it knows what it was. One
/// that has not must neither store it a second time nor say that it is there.
#[test]
fn what_the_stream_has_dropped_is_not_stored_again() {
    let server = server();
    let one = forgetful(&server);
    let mut client = one.subscribe();
    one.publish(with_id("7", "x")).unwrap();
    server.client().unwrap().purge_stream("FANFARE", 0).unwrap();
    let again = one.publish_all(vec![with_id("7", "x")]).unwrap();
    assert_eq!((again.count, again.duplicates.len()), (1, 1));
    assert_eq!(one.publish(with_id("7", "y")), Err(PublishError::IdConflict { index: 0 }));
    let undecided = Err(PublishError::Undecided);
    let other = forgetful(&server);
    assert_eq!(other.publish(with_id("7", "x")), undecided);
    let elsewhere = with_id("7", "b").with_topic(topic("b")).unwrap();
    assert_eq!(other.publish(elsewhere.clone()), undecided);
    // It is known to be another event.
    one.publish(elsewhere).unwrap();
    one.publish(event("end")).unwrap();
    for data in ["x", "b", "end"] {
        assert_eq!(next_data(&mut client), data);
    }
}

/// An own id belongs to the topics that it was published to.
#[test]
fn an_own_id_may_be_used_for_other_topics() {
    let (_server, one, other) = pair();
    let mut client = one.subscribe();
    let elsewhere = || with_id("7", "b").with_topic(topic("b")).unwrap();
    one.publish(with_id("7", "a")).unwrap();
    other.publish(elsewhere()).unwrap();
    let again = one.publish_all(vec![elsewhere()]).unwrap();
    assert_eq!(again.duplicates.len(), 1);
    one.publish(event("end")).unwrap();
    for data in ["a", "b", "end"] {
        assert_eq!(next_data(&mut client), data);
    }
}

#[test]
fn an_event_that_the_server_does_not_take_is_refused_with_the_limit() {
    let (_server, one, _other) = pair();
    let error = one.publish_all(vec![event("small"), event(&"x".repeat(1 << 20))]).unwrap_err();
    assert!(matches!(error.error, PublishError::TooLarge { limit: 1_048_576, .. }), "{error:?}");
    assert_eq!(error.published.map(|published| published.count), Some(1));
}

#[test]
fn a_subscriber_resumes_on_another_node_and_far_back() {
    let server = server();
    let one = Node::start(&server);
    let ids: Vec<String> = (0..300).map(|data| one.publish(event(&data.to_string())).unwrap()).collect();
    one.publish(with_id("own", "300")).unwrap();
    // A node whose memory has nothing of it.
    let backplane = fanfare_backplane::NatsBackplane::connect(crate::support::options(&server)).unwrap();
    let mut limits = fanfare_proto::limits::Limits::default();
    limits.log.total_bytes = 1 << 14;
    let engine = fanfare::Engine::builder().shards(1).limits(limits).backplane(backplane.clone());
    let other = Node { engine: engine.start().unwrap(), backplane };
    other.await_caught_up();
    let mut client = other.resume(&ids[9]);
    assert!(!has_gap(&client));
    for (data, id) in ids.iter().enumerate().skip(10) {
        assert_eq!(next(&mut client), (data.to_string(), id.clone()));
    }
    assert_eq!(next(&mut client), ("300".to_owned(), "own".to_owned()));
    one.publish(event("301")).unwrap();
    assert_eq!(next_data(&mut client), "301");
    let mut client = other.resume("own");
    assert!(!has_gap(&client));
    assert_eq!(next_data(&mut client), "301");
    let mut client = other.resume("earliest");
    assert_eq!(next_data(&mut client), "0");
    assert!(has_gap(&other.resume("000000000-3")));
}

/// Patterns are read from all events of the stream.
#[test]
fn a_pattern_resumes_far_back() {
    let server = server();
    let one = Node::start(&server);
    let mut first = None;
    for number in 0..300 {
        let name = if number % 3 == 0 { "a/x" } else { "b/x" };
        let id = one.publish(Event::new(topic(name)).with_data(number.to_string())).unwrap();
        first.get_or_insert(id);
    }
    let backplane = fanfare_backplane::NatsBackplane::connect(crate::support::options(&server)).unwrap();
    let mut limits = fanfare_proto::limits::Limits::default();
    limits.log.total_bytes = 1 << 14;
    let engine = fanfare::Engine::builder().shards(1).limits(limits).backplane(backplane.clone());
    let other = Node { engine: engine.start().unwrap(), backplane };
    other.await_caught_up();
    let subscribe = || {
        let pattern = fanfare::Pattern::parse("a/*").unwrap();
        fanfare::Subscribe::to([]).with_patterns([pattern]).with_resume(first.clone().unwrap())
    };
    let mut client = wait_for("a subscriber", || fanfare::testing::adopt(&other.hub(), subscribe()).ok());
    for number in (3..300).step_by(3) {
        assert_eq!(next_data(&mut client), number.to_string());
    }
}

#[test]
fn a_node_ends_in_bounded_time_and_answers_nothing_more() {
    let (_server, one, other) = pair();
    let hub = one.hub();
    one.publish(event("1")).unwrap();
    one.engine.stop(std::time::Duration::ZERO).unwrap();
    assert!(hub.publish_wait(&mut vec![event("2")], crate::support::PATIENCE).is_err());
    other.publish(event("3")).unwrap();
    assert!(!one.backplane.status().is_caught_up);
}
