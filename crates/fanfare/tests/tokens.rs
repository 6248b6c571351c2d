//! The end of connections by their token, also of those about which a decision is under way, over real
//! sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use fanfare::{Decision, DecisionTicket, Engine, Hub, Request, Subscribe, Topic, WireFormat};
use support::{PATIENCE, opened, read_all};

/// `GET /<token>?topic=...`; the tickets of `/later/...` are sent to the test.
fn start(shards: usize) -> (Engine, Hub, SocketAddr, mpsc::Receiver<(Subscribe, DecisionTicket)>) {
    let (tickets, received) = mpsc::channel();
    let admit = move |request: &Request<'_>| {
        let subscribe = Subscribe::from_request(request, 8).unwrap();
        match request.path().strip_prefix("/later/") {
            None => Decision::Subscribe(subscribe.with_token(request.path())),
            Some(_) => {
                let (later, ticket) = Decision::later();
                tickets.send((subscribe.with_token(request.path()), ticket)).unwrap();
                later
            }
        }
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

#[test]
fn all_connections_of_a_token_end_and_no_other_one() {
    for shards in [1, 3] {
        let (engine, hub, address, _) = start(shards);
        let meant: Vec<TcpStream> = (0..300).map(|_| opened(ask(address, "/t1"))).collect();
        let mut other = opened(ask(address, "/t2"));
        hub.disconnect_token("/t1").unwrap();
        hub.disconnect_token("unknown").unwrap();
        for stream in meant {
            assert!(read_all(stream).ends_with("0\r\n\r\n"));
        }
        // One that begins later stays.
        let mut later = opened(ask(address, "/t1"));
        hub.publish(fanfare::Event::new(Topic::new("a").unwrap()).with_data("stays")).unwrap();
        for stream in [&mut other, &mut later] {
            support::wait_for(stream, "data: stays\n");
        }
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A user was barred while an admission asked its database: the order to end the user's connections found
/// none, and then the stream began.
#[test]
fn a_connection_about_which_is_decided_when_its_token_ends_does_not_begin() {
    let (engine, hub, address, tickets) = start(1);
    let mut connections = ["/later/t1", "/later/t2"].map(|path| ask(address, path));
    let asked = [(); 2].map(|()| tickets.recv_timeout(PATIENCE).unwrap());
    hub.disconnect_token("/later/t1").unwrap();
    for (subscribe, ticket) in asked {
        ticket.decide(Decision::Subscribe(subscribe));
    }
    let [meant, other] = &mut connections;
    let mut answer = Vec::new();
    meant.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"", "its client asks again");
    let _other = opened(other.try_clone().unwrap());
    // What is decided anew knows what was done before the order.
    let again = ask(address, "/later/t1");
    let (subscribe, ticket) = tickets.recv_timeout(PATIENCE).unwrap();
    ticket.decide(Decision::Subscribe(subscribe));
    opened(again);
    engine.stop(Duration::ZERO).unwrap();
}

/// The same where a server of the embedder's own has read and decided.
#[test]
fn a_socket_that_is_adopted_after_its_token_ended_does_not_begin() {
    let (engine, hub, _, _) = start(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, listener.accept().unwrap().0)
    };
    let subscribe = |token: &str| Subscribe::to([Topic::new("a").unwrap()]).with_token(token);
    let before = hub.decision_start();
    hub.disconnect_token("t1").unwrap();
    let after = hub.decision_start();
    for (token, start, begins) in [("t1", before, false), ("t1", after, true), ("t2", before, true)] {
        let (client, socket) = pair();
        let subscribe = subscribe(token).with_decision_start(start);
        hub.adopt(socket, subscribe, WireFormat::Chunked).unwrap();
        match begins {
            true => drop(opened(client)),
            false => assert_eq!(read_all(client), ""),
        }
    }
    engine.stop(Duration::ZERO).unwrap();
}
