//! What other servers in the process need: their own response head, and an end that a task can wait for.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::future::Future;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fanfare::{AdoptRefusal, Encoding, Engine, Hub, StopError, Subscribe, Topic, WireFormat};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nset-cookie: a=b\r\n";

fn engine() -> Engine {
    Engine::builder().shards(2).listen("127.0.0.1:0".parse().unwrap()).start().unwrap()
}

fn subscribe(head: &str) -> Subscribe {
    let subscribe = Subscribe::to([Topic::new("a").unwrap()]).with_response_head(head).unwrap();
    subscribe.with_header("X-Own", "1").unwrap()
}

/// A connected pair: the client's end, and the server's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (client, listener.accept().unwrap().0)
}

fn adopt(hub: &Hub, subscribe: Subscribe, encoding: impl Into<Encoding>) -> TcpStream {
    let (client, socket) = pair();
    hub.adopt(socket, subscribe, encoding).unwrap();
    client
}

/// The head of what a client receives.
fn head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_stream_begins_with_the_head_of_another_server() {
    let engine = engine();
    let hub = engine.hub();
    let chunked = format!("{HEAD}transfer-encoding: chunked\r\n");
    let mut client = adopt(&hub, subscribe(&format!("{chunked}\r\n")), WireFormat::Chunked);
    assert_eq!(head(&mut client), format!("{chunked}X-Own: 1\r\n\r\n"));
    let lost = subscribe(&format!("{HEAD}\r\n")).with_resume("unknown");
    let mut client = adopt(&hub, lost, WireFormat::Plain);
    assert_eq!(head(&mut client), format!("{HEAD}Fanfare-Gap: true\r\nX-Own: 1\r\n\r\n"));
}

/// A body in chunks behind a head that announces none, or the other way round, would be no stream for the
/// client.
#[test]
fn a_head_has_to_announce_the_wire_format() {
    let engine = engine();
    for (coding, format) in [("", WireFormat::Chunked), ("transfer-encoding: chunked\r\n", WireFormat::Plain)]
    {
        let (mut client, socket) = pair();
        let refused =
            engine.hub().adopt(socket, subscribe(&format!("{HEAD}{coding}\r\n")), format).unwrap_err();
        assert!(
            matches!(refused.reason(), AdoptRefusal::Io(error) if error.kind() == ErrorKind::InvalidInput)
        );
        drop(refused);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "nothing was sent");
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn a_task_waits_for_the_end_of_an_engine() {
    let engine = engine();
    let hub = engine.hub();
    let mut client = adopt(&hub, Subscribe::to([Topic::new("a").unwrap()]), WireFormat::Chunked);
    head(&mut client);
    assert_eq!(block_on(engine.stop_async(Duration::from_millis(20))), Ok(()));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the stream ended well");
    assert!(hub.adopt(pair().1, subscribe(&format!("{HEAD}\r\n")), WireFormat::Plain).is_err());
}

/// The task that waited is gone: the engine ends all the same, and the streams with it.
#[test]
fn an_engine_stops_also_where_no_task_waits() {
    let engine = engine();
    let hub = engine.hub();
    let mut client = adopt(&hub, Subscribe::to([Topic::new("a").unwrap()]), WireFormat::Chunked);
    head(&mut client);
    drop(engine.stop_async(Duration::ZERO));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn a_stop_error_says_what_to_do() {
    let error: Box<dyn std::error::Error> = Box::new(StopError::ShardPanicked);
    assert!(error.to_string().contains("standard error"));
}
