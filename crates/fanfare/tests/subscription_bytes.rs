//! What subscriptions may read together has a bound.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fanfare::{Engine, Event, Limits, Topic};

/// Subscribers of many topics with long names were bounded by their number alone: 10,000 of them took 290 MB,
/// which no bound named. Now a subscription that would exceed the bound is answered as by a full server. A
/// subscription to topics that are read already is not.
#[test]
fn a_subscription_beyond_the_bound_of_topics_is_refused_and_one_to_known_topics_is_not() {
    let limits = Limits::default().with_subscription_bytes(100_000);
    let engine = Engine::builder().shards(1).limits(limits).listen("127.0.0.1:0".parse().unwrap());
    let engine = engine.start().unwrap();
    let address = engine.addresses()[0];
    let mut streams = Vec::new();
    for subscriber in 0..100 {
        let (status, stream) = subscribe(address, subscriber);
        if status == "503" {
            break;
        }
        assert_eq!(status, "200");
        streams.push(stream);
    }
    assert!((2..20).contains(&streams.len()), "{} streams", streams.len());

    // The topics of a stream that is there take nothing more.
    let (status, again) = subscribe(address, 0);
    assert_eq!(status, "200");
    // What has left makes room: the first stream's topics are still read, the second one's are not.
    drop(streams.remove(1));
    let other = (0..1000).find_map(|attempt| {
        std::thread::sleep(Duration::from_millis(u64::from(attempt > 0)));
        let (status, stream) = subscribe(address, 1000);
        (status == "200").then_some(stream)
    });
    assert!(other.is_some(), "there is no room after a stream has left");

    let event = Event::new(Topic::new(topic(0, 5)).unwrap()).with_data("it comes");
    engine.hub().publish(event).unwrap();
    engine.stop(Duration::from_secs(5)).unwrap();
    for mut stream in [streams.remove(0), again] {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: it comes\n"), "{text}");
    }
}

fn topic(subscriber: usize, number: usize) -> String {
    format!("{subscriber:>04}-{number:>02}-{}", "x".repeat(150))
}

/// Subscribes to 32 topics of the subscriber's own, and answers the status of the response.
fn subscribe(address: SocketAddr, subscriber: usize) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let topics: Vec<String> = (0..32).map(|number| format!("topic={}", topic(subscriber, number))).collect();
    let head = format!("GET /events?{} HTTP/1.0\r\n\r\n", topics.join("&"));
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
}
