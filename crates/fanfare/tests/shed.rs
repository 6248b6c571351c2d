//! A share of all streams ends on demand, over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;
#[path = "support/waiting.rs"]
mod waiting;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use fanfare::{
    CloseReason, ConnectionError, Decision, DecisionTicket, Engine, Event, Hub, Request, Share, Subscribe,
    Topic,
};
use support::{PATIENCE, opened, read_all};
use waiting::wait_for_counts;

const STREAMS: usize = 300;

/// `GET /?topic=...`; the tickets of `/later` are sent to the test.
fn start(shards: usize) -> (Engine, Hub, SocketAddr, mpsc::Receiver<(Subscribe, DecisionTicket)>) {
    let (tickets, received) = mpsc::channel();
    let admit = move |request: &Request<'_>| {
        let subscribe = Subscribe::from_request(request, 8).unwrap();
        if request.path() != "/later" {
            return Decision::Subscribe(subscribe);
        }
        let (later, ticket) = Decision::later();
        tickets.send((subscribe, ticket)).unwrap();
        later
    };
    let engine = Engine::builder().shards(shards).admission(admit);
    let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);
    (engine, hub, address, received)
}

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path}?topic=a HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    stream
}

/// So many streams, which the engine has counted.
fn begin(hub: &Hub, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let streams = (0..count).map(|_| opened(ask(address, "/"))).collect();
    wait_for_counts(hub, |counts| counts.connections as usize == count);
    streams
}

fn publish(hub: &Hub, data: &str) {
    hub.publish(Event::new(Topic::new("a").unwrap()).with_data(data)).unwrap();
}

/// What comes on a stream up to this data, or to its end.
fn read_to(stream: &mut TcpStream, data: &str) -> (String, bool) {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(data.as_bytes()) {
        if stream.read(&mut byte).unwrap() == 0 {
            return (String::from_utf8(text).unwrap(), true);
        }
        text.push(byte[0]);
    }
    (String::from_utf8(text).unwrap(), false)
}

#[test]
fn a_share_of_the_streams_ends_and_the_others_go_on() {
    for shards in [1, 3] {
        let (engine, hub, address, _) = start(shards);
        let mut streams = begin(&hub, address, STREAMS);
        let shedding = hub.shed("20%".parse().unwrap(), Duration::from_millis(300)).unwrap();
        assert_eq!(shedding.streams(), 60);
        assert!(!shedding.wait(Duration::ZERO), "it has just begun");
        // The engine goes on meanwhile. This stream may begin before its shard knows of the order.
        publish(&hub, "meanwhile");
        let later = opened(ask(address, "/"));
        assert!(shedding.wait(PATIENCE) && shedding.is_done());
        publish(&hub, "after");
        let mut ended = 0;
        streams.push(later);
        for (number, stream) in streams.iter_mut().enumerate() {
            let (text, is_over) = read_to(stream, "data: after\n");
            assert!(text.contains("data: meanwhile\n") || is_over || number == STREAMS, "{text:?}");
            if is_over {
                assert!(text.ends_with("0\r\n\r\n") && text.contains("retry: "), "{text:?}");
                ended += 1;
            }
        }
        assert!((60 - shards..=60 + shards).contains(&ended), "{ended} have ended");
        let counts = wait_for_counts(&hub, |counts| counts.closed_for(CloseReason::Shed) == ended as u64);
        assert_eq!(counts.connections as usize, STREAMS + 1 - ended);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// After a change of what streams depend on, none may be left that was begun, or decided about, before it.
#[test]
fn all_includes_requests_about_which_a_decision_is_under_way() {
    for shards in [1, 3] {
        let (engine, hub, address, tickets) = start(shards);
        let streams = begin(&hub, address, STREAMS);
        let mut undecided = ask(address, "/later");
        let (subscribe, ticket) = tickets.recv_timeout(PATIENCE).unwrap();
        let shedding = hub.shed(Share::ALL, Duration::from_millis(100)).unwrap();
        assert!(shedding.wait(PATIENCE));
        for stream in streams {
            assert!(read_all(stream).ends_with("0\r\n\r\n"));
        }
        assert_eq!(hub.counts().closed_for(CloseReason::Shed), STREAMS as u64);
        ticket.decide(Decision::Subscribe(subscribe));
        assert_eq!(undecided.read(&mut [0]).unwrap(), 0, "its client asks again");
        // What is decided anew knows what was done before the order.
        let again = ask(address, "/later");
        let (subscribe, ticket) = tickets.recv_timeout(PATIENCE).unwrap();
        ticket.decide(Decision::Subscribe(subscribe));
        opened(again);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A part of all streams means no requests about which a decision is under way.
#[test]
fn a_share_leaves_requests_alone_about_which_a_decision_is_under_way() {
    let (engine, hub, address, tickets) = start(1);
    let undecided = ask(address, "/later");
    let (subscribe, ticket) = tickets.recv_timeout(PATIENCE).unwrap();
    let shedding = hub.shed("50%".parse().unwrap(), Duration::ZERO).unwrap();
    assert!(shedding.wait(PATIENCE) && shedding.streams() == 0);
    ticket.decide(Decision::Subscribe(subscribe));
    opened(undecided);
    engine.stop(Duration::ZERO).unwrap();
}

#[test]
fn orders_are_bounded_and_end_with_the_engine() {
    let (engine, hub, address, _) = start(2);
    let _streams = begin(&hub, address, 20);
    let share: Share = "1%".parse().unwrap();
    let orders: Vec<_> = (0..16).map(|_| hub.shed(share, Duration::from_secs(3600)).unwrap()).collect();
    assert_eq!(hub.shed(share, Duration::ZERO).map(|_| ()), Err(ConnectionError::Busy));
    assert!(!orders[0].wait(Duration::from_millis(1)));
    let waiting = {
        let order = orders[0].clone();
        std::thread::spawn(move || order.wait(PATIENCE))
    };
    engine.stop(Duration::ZERO).unwrap();
    assert!(waiting.join().unwrap() && orders.iter().all(|order| order.is_done()));
    assert_eq!(hub.shed(share, Duration::ZERO).map(|_| ()), Err(ConnectionError::Stopped));
}
