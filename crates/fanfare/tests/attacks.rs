//! What an enemy tried against engines that embed subscriptions, over real sockets: masses of topics,
//! requests that are no subscriptions, clients that leave, and orders in between.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;
#[path = "support/waiting.rs"]
mod waiting;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::{
    AdoptRefusal, Backend, Builder, ClientLimits, Decision, DecisionTicket, Engine, Event, Hub, Limits,
    Listener, Request, Subscribe, Topic, WireFormat,
};
use support::{PATIENCE, opened, read_all, wait_for};
use waiting::wait_for_counts;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn start(builder: Builder) -> (Engine, Hub, SocketAddr) {
    let engine = builder.shards(1).listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);
    (engine, hub, address)
}

fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn get(address: SocketAddr, target: &str) -> TcpStream {
    send(address, &format!("GET {target} HTTP/1.0\r\nHost: h\r\n\r\n"))
}

/// What the documentation shows.
fn admit(request: &Request<'_>) -> Decision {
    match Subscribe::from_request(request, 64) {
        Ok(subscribe) => Decision::Subscribe(subscribe),
        Err(error) => Decision::Refuse(error.into()),
    }
}

fn on_threads_and_on_shards() -> [Builder; 2] {
    let builder = || Engine::builder().backend(Backend::Epoll);
    // SAFETY: the admission uses no descriptor.
    [builder().admission(admit), unsafe { builder().admission_on_shards(admit) }]
}

/// A HEAD was answered with a stream, and a POST, too.
#[test]
fn a_stream_is_only_for_a_get() {
    for builder in on_threads_and_on_shards() {
        let (engine, hub, address) = start(builder);
        let head = read_all(send(address, "HEAD /?topic=a HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head:?}");
        assert!(head.contains("text/event-stream") && head.matches("\r\n\r\n").count() == 1, "{head:?}");
        for method in ["POST", "DELETE", "PUT", "PATCH"] {
            let request = format!("{method} /?topic=a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
            let answer = read_all(send(address, &request));
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("GET, HEAD"), "{answer:?}");
        }
        assert_eq!(hub.counts().subscribed, 0);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A client that sent a large body with a request that is refused had its connection reset: one buffer of the
/// body was read, and the rest stayed in the socket. A reset may take the answer away from the client.
#[test]
fn a_refused_request_with_a_large_body_ends_without_a_reset() {
    for backend in [Backend::Epoll, Backend::IoUring] {
        let limits = Limits::default().with_head_time(Duration::from_millis(200));
        let builder = Engine::builder().backend(backend).limits(limits).admission(admit);
        let (engine, hub, address) = start(builder);
        let body = "x".repeat(200_000);
        let head = "POST /?topic=a HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n";
        let mut stream = send(address, &format!("{head}{body}"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer:?}");
        wait_for_counts(&hub, |counts| counts.refused == 1 && counts.pending == 0);
        assert!(stream.take_error().unwrap().is_none(), "it was reset");
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A server that adopted sockets with a list of topics from its client took any number of them.
#[test]
fn a_subscription_of_an_embedder_has_the_bound_of_topics() {
    let (engine, hub, address) =
        start(Engine::builder().limits(Limits::default().with_topics_per_subscription(3)));
    let topics = |count: usize| Subscribe::to((0..count).map(|number| topic(&number.to_string())));
    let (socket, _client) = UnixStream::pair().unwrap();
    let refused = hub.adopt(socket, topics(4), WireFormat::Plain).unwrap_err();
    assert!(matches!(refused.reason(), AdoptRefusal::TooManyTopics { limit: 3 }), "{refused:?}");
    let (socket, _client) = UnixStream::pair().unwrap();
    hub.adopt(socket, topics(3), WireFormat::Plain).unwrap();
    wait_for_counts(&hub, |counts| counts.connections == 1);
    assert!(TcpStream::connect(address).is_ok());
    engine.stop(Duration::ZERO).unwrap();
    // An admission that gives more, too.
    let many =
        |_: &Request<'_>| Decision::Subscribe(Subscribe::to((0..4).map(|number| topic(&number.to_string()))));
    let limits = Limits::default().with_topics_per_subscription(3);
    let (engine, _, address) = start(Engine::builder().limits(limits).admission(many));
    let answer = read_all(get(address, "/"));
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("at most 3 topics"), "{answer}");
    engine.stop(Duration::ZERO).unwrap();
}

/// Sixteen thousand connections had 64 topics each, which no other connection read. When all of them ended at
/// once, they held up events for three seconds. They begin and end in pieces now: each of them still gets its
/// events, and all of them are gone in the end.
#[test]
fn a_mass_of_topics_begins_and_ends_in_pieces() {
    const CLIENTS: usize = 300;
    for builder in on_threads_and_on_shards() {
        let (engine, hub, address) = start(builder);
        let mut innocent = opened(get(address, "/?topic=innocent"));
        let query =
            |client: usize| (0..64).map(|number| format!("topic={client}-{number}&")).collect::<String>();
        let mut streams: Vec<TcpStream> =
            (0..CLIENTS).map(|client| get(address, &format!("/?{}", query(client)))).collect();
        streams = streams.into_iter().map(opened).collect();
        wait_for_counts(&hub, |counts| counts.audiences == 1 + CLIENTS as u64);
        for (client, stream) in streams.iter_mut().enumerate() {
            hub.publish(Event::new(topic(&format!("{client}-63"))).with_data("mine")).unwrap();
            wait_for(stream, "data: mine\n");
        }
        drop(streams);
        hub.publish(Event::new(topic("innocent")).with_data("still here")).unwrap();
        wait_for(&mut innocent, "data: still here\n");
        wait_for_counts(&hub, |counts| counts.connections == 1 && counts.audiences == 1);
        // A topic that is to be removed, and is read again, is not removed.
        for round in 0..20 {
            let crowd: Vec<TcpStream> =
                (0..30).map(|client| opened(get(address, &format!("/?{}", query(client))))).collect();
            drop(crowd);
            let mut again = opened(get(address, &format!("/?{}", query(29))));
            hub.publish(Event::new(topic("29-0")).with_data(format!("round {round}"))).unwrap();
            wait_for(&mut again, &format!("data: round {round}\n"));
        }
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// An order to end the connections of a subject overtook a decision that was made before it, and the
/// connection stayed.
#[test]
fn an_order_keeps_its_place_behind_decisions() {
    const REQUESTS: usize = 400;
    let tickets: Arc<Mutex<Vec<DecisionTicket>>> = Arc::default();
    let admission = {
        let tickets = Arc::clone(&tickets);
        move |_: &Request<'_>| {
            let (later, ticket) = Decision::later();
            tickets.lock().unwrap().push(ticket);
            later
        }
    };
    let (engine, hub, address) = start(Engine::builder().admission(admission));
    let streams: Vec<TcpStream> = (0..REQUESTS).map(|_| get(address, "/")).collect();
    waiting::wait_for_state(|| tickets.lock().unwrap().len(), |count| *count == REQUESTS);
    wait_for_counts(&hub, |counts| counts.undecided == REQUESTS as u64);
    for (number, ticket) in tickets.lock().unwrap().drain(..).enumerate() {
        let subject = if number % 2 == 0 { "ada" } else { "eve" };
        let subscribe = Subscribe::to([topic(subject)]).with_subject(subject).unwrap();
        ticket.decide(Decision::Subscribe(subscribe));
    }
    hub.disconnect_subject("ada").unwrap();
    hub.disconnect_topic(&topic("eve")).unwrap();
    for stream in streams {
        let text = read_all(stream);
        assert!(text.starts_with("HTTP/1.1 200 "), "{text:?}");
    }
    let counts = wait_for_counts(&hub, |counts| counts.connections == 0);
    assert_eq!(counts.subscribed, REQUESTS as u64);
    engine.stop(Duration::ZERO).unwrap();
}

/// Clients that had left held the places of all requests that wait for a decision, and other clients were
/// refused until the time for the decisions was over.
#[test]
fn clients_that_have_left_hold_no_place() {
    const PLACES: usize = 50;
    let tickets: Arc<Mutex<Vec<DecisionTicket>>> = Arc::default();
    let admission = {
        let tickets = Arc::clone(&tickets);
        move |request: &Request<'_>| {
            let (later, ticket) = Decision::later();
            match request.path() {
                "/waits" => ticket.decide(admit(request)),
                _ => tickets.lock().unwrap().push(ticket),
            }
            later
        }
    };
    let limits = Limits::default().with_undecided(PLACES).with_decision_time(Duration::from_secs(3600));
    for backend in [Backend::Epoll, Backend::Auto] {
        let (engine, hub, address) =
            start(Engine::builder().limits(limits.clone()).backend(backend).admission(admission.clone()));
        let leaving: Vec<TcpStream> = (0..PLACES).map(|_| get(address, "/never")).collect();
        wait_for_counts(&hub, |counts| counts.undecided == PLACES as u64);
        let answer = read_all(get(address, "/waits?topic=a"));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(leaving);
        let counts = wait_for_counts(&hub, |counts| counts.undecided == 0);
        assert_eq!((counts.left_undecided, counts.decisions_timed_out), (PLACES as u64, 0));
        assert!(tickets.lock().unwrap().iter().all(|ticket| !ticket.is_wanted()));
        drop(opened(get(address, "/waits?topic=a")));
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// Limits of one client. No address is the operator's, because the client of this test is on this machine.
fn limits_of_one_connection() -> ClientLimits {
    let limits = ClientLimits::default().with_connections_per_address(Some(1));
    limits.with_operators("192.0.2.1".parse().unwrap())
}

/// A proxy may name its client in a later packet. Where that client had too many connections already, the
/// connection kept its place among the connections without a request, until the time for its head was over.
/// A connection whose header came at once gave its place up.
#[test]
fn a_connection_that_is_refused_by_a_late_header_gives_its_place_up() {
    const PLACES: usize = 8;
    const HEADER: &str = "PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n";
    let limits = Limits::default().with_pending(PLACES).with_clients(limits_of_one_connection());
    let limits = limits.with_head_time(Duration::from_secs(3600));
    let (beginning, rest) = HEADER.split_at(10);
    for backend in [Backend::Epoll, Backend::Auto] {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap());
        let listener = listener.with_proxy_protocol("127.0.0.0/8".parse().unwrap());
        let builder = Engine::builder().shards(1).limits(limits.clone()).backend(backend).admission(admit);
        let engine = builder.listener(listener).start().unwrap();
        let (hub, address) = (engine.hub(), engine.addresses()[0]);
        let request = "GET /a?topic=a HTTP/1.0\r\nHost: h\r\n\r\n";
        let _stream = opened(send(address, &format!("{HEADER}{request}")));
        // While there is room it may wait, and learns why it is refused.
        let mut late = send(address, beginning);
        wait_for_counts(&hub, |counts| counts.pending == 1);
        late.write_all(rest.as_bytes()).unwrap();
        late.write_all(request.as_bytes()).unwrap();
        let answer = read_all(late);
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        wait_for_counts(&hub, |counts| counts.pending == 0);

        let others: Vec<TcpStream> = (0..PLACES / 2).map(|_| send(address, "")).collect();
        wait_for_counts(&hub, |counts| counts.pending == others.len() as u64);
        let mut late = send(address, beginning);
        wait_for_counts(&hub, |counts| counts.pending == others.len() as u64 + 1);
        late.write_all(rest.as_bytes()).unwrap();
        assert_eq!(read_all(late), "");
        let counts = wait_for_counts(&hub, |counts| counts.pending == others.len() as u64);
        assert_eq!((counts.refused_for_address, counts.turned_away), (2, 1));
        // A client that may have one more keeps its place.
        let mut other = send(address, beginning);
        wait_for_counts(&hub, |counts| counts.pending == others.len() as u64 + 1);
        other.write_all(rest.replace("203.0.113.7", "203.0.113.8").as_bytes()).unwrap();
        other.write_all(request.as_bytes()).unwrap();
        drop(opened(other));
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A connection whose hand-over failed was not its client's any more while its answer waited to be read: a
/// client could have any number of these.
#[test]
fn a_connection_that_is_not_handed_over_stays_its_clients() {
    let limits = Limits::default().with_clients(limits_of_one_connection());
    let builder =
        Engine::builder().limits(limits).hand_over(true).admission(|_: &Request<'_>| Decision::HandOver);
    let (mut engine, hub, address) = start(builder);
    drop(engine.hand_over());
    // Each answer waits for a bounded time only, so one try says little on a machine that is busy.
    let refused = (0..100).any(|_| {
        let mut first = get(address, "/else");
        let mut status = [0; 12];
        first.read_exact(&mut status).unwrap();
        if &status == b"HTTP/1.1 429" {
            // The connection of the last try has not left yet.
            return false;
        }
        assert_eq!(&status, b"HTTP/1.1 404");
        let second = read_all(get(address, "/else"));
        second.starts_with("HTTP/1.1 429 ")
    });
    assert!(refused, "{:?}", hub.counts());
    // What has left is counted no more.
    wait_for_counts(&hub, |counts| counts.pending == 0);
    assert!(read_all(get(address, "/else")).starts_with("HTTP/1.1 404 "));
    engine.stop(Duration::ZERO).unwrap();
}
