//! What a builder is told, in every order, and which topics a subscription may have, by every way into the
//! engine.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fanfare::{
    AdoptRefusal, Builder, ConnectionError, ConnectionId, Decision, Engine, Event, LifeCycleEvent, Limits,
    PublishError, ReaderError, Request, Subscribe, Topic, WireFormat,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// The first line of the answer to a request for this target.
fn status(address: SocketAddr, target: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// `limits` discarded every single bound that was set before it, without a word.
#[test]
fn all_bounds_and_single_bounds_may_be_set_in_any_order() {
    let single = |builder: Builder| builder.max_topics(7).retain_events(3).max_members(1).max_members(5);
    let all = |builder: Builder| {
        builder.limits(Limits::default().with_event_bytes(1234).with_members_per_subscription(9))
    };
    for builder in [all(single(Engine::builder())), single(all(Engine::builder()))] {
        let engine = builder.shards(1).start().unwrap();
        let hub = engine.hub();
        let limits = hub.limits();
        assert_eq!((limits.topics_per_subscription, limits.log.retention.events), (7, 3));
        assert_eq!((limits.members_per_subscription, limits.event_bytes), (5, 1234));
    }
}

/// `admission_threads` moved an admission to threads that was to run on the shards.
#[test]
fn the_number_of_threads_does_not_say_where_an_admission_runs() {
    let (ran_on, threads) = mpsc::channel();
    let admit = move |request: &Request<'_>| {
        ran_on.send(thread::current().name().unwrap().to_owned()).unwrap();
        Decision::from(Subscribe::from_request(request, 8))
    };
    let builder = || Engine::builder().shards(1).listen("127.0.0.1:0".parse().unwrap());
    // SAFETY: the shard is in the shared table.
    let on_shard = unsafe { builder().admission_on_shards(admit.clone()) }.admission_threads(2);
    // SAFETY: as above.
    let on_shard_too = unsafe { builder().admission_threads(2).admission_on_shards(admit.clone()) };
    let on_threads = builder().admission_threads(1).admission(admit);
    for (builder, name) in
        [(on_shard, "fanfare-shard-"), (on_shard_too, "fanfare-shard-"), (on_threads, "fanfare-admission-")]
    {
        let engine = builder.start().unwrap();
        assert_eq!(status(engine.addresses()[0], "/?topic=a"), "HTTP/1.1 200 OK");
        let thread = threads.recv_timeout(PATIENCE).unwrap();
        assert!(thread.starts_with(name), "{thread} is not {name}");
    }
}

/// The bound counted repetitions in a change of topics and not for a reader, and a subscription of an
/// admission that had no topic began a stream that could not be changed.
#[test]
fn every_subscription_has_at_least_one_topic_and_a_bounded_number_of_different_ones() {
    let many = |count: usize| (0..count).map(|number| topic(&number.to_string())).collect::<Vec<_>>();
    let repeated = move || [many(2), many(2)].concat();
    let admit = move |request: &Request<'_>| {
        Decision::from(Subscribe::to(match request.path() {
            "/none" => many(0),
            "/repeated" => repeated(),
            _ => many(3),
        }))
    };
    let builder = Engine::builder().shards(1).max_topics(2).life_cycle(100).admission(admit);
    let mut engine = builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);

    assert_eq!(status(address, "/none"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(address, "/many"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(address, "/repeated"), "HTTP/1.1 200 OK");

    let mut life_cycle = engine.life_cycle().unwrap();
    let connection: ConnectionId = match life_cycle.next_wait(PATIENCE).unwrap() {
        Some(LifeCycleEvent::Connected(connected)) => connected.connection,
        other => panic!("{other:?}"),
    };
    assert_eq!(hub.change_topics(connection, many(0)), Err(ConnectionError::NoTopics));
    assert_eq!(hub.change_topics(connection, many(3)), Err(ConnectionError::TooManyTopics { limit: 2 }));
    assert_eq!(hub.change_topics(connection, repeated()), Ok(()));

    let adopt = |topics| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        hub.adopt(listener.accept().unwrap().0, Subscribe::to(topics), WireFormat::Plain)
    };
    assert!(matches!(adopt(many(0)).unwrap_err().reason(), AdoptRefusal::NoTopics));
    assert!(matches!(adopt(many(3)).unwrap_err().reason(), AdoptRefusal::TooManyTopics { limit: 2 }));
    adopt(repeated()).unwrap();

    assert!(matches!(hub.subscribe(many(0)).stream(), Err(ReaderError::NoTopics)));
    assert!(matches!(hub.subscribe(many(3)).stream(), Err(ReaderError::TooManyTopics { limit: 2 })));
    assert_eq!(hub.subscribe(repeated()).stream().unwrap().topics().len(), 2);
}

/// The event was gone where nothing was published.
#[tokio::test]
async fn a_publish_that_waits_for_room_gives_its_event_back() {
    let engine = Engine::builder().shards(1).max_event(3).start().unwrap();
    let hub = engine.hub();
    let event = |data: &str| Event::new(topic("a")).with_data(data);
    hub.publish_when_ready(event("abc")).await.unwrap();
    let too_large = hub.publish_when_ready(event("abcd")).await.unwrap_err();
    assert_eq!(too_large.error, PublishError::TooLarge { index: 0, limit: 3 });
    assert_eq!(*too_large.event, event("abcd"));
    engine.stop(Duration::ZERO).unwrap();
    let stopped = hub.publish_when_ready(event("abc")).await.unwrap_err();
    assert_eq!((stopped.error, *stopped.event), (PublishError::Stopped, event("abc")));
}

/// A state of an application that derives `Debug` has a hub in it.
#[test]
fn a_hub_and_an_engine_can_be_printed() {
    let engine = Engine::builder().shards(1).start().unwrap();
    let hub = engine.hub();
    hub.publish(Event::new(topic("a"))).unwrap();
    assert!(format!("{engine:?}").contains(&format!("hub: {hub:?}")), "{engine:?}");
    assert!(format!("{hub:?}").contains("seq: 1"), "{hub:?}");
}
