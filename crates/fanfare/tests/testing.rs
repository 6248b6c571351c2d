//! The clients of `fanfare::testing`.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use fanfare::testing::{self, Client, ClientEvent};
use fanfare::{
    AdoptError, Answer, Decision, Engine, Event, EventType, Hub, Refusal, Request, Subscribe, Topic,
};

/// So that a test whose bytes do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(10);

fn engine() -> Engine {
    Engine::builder().shards(2).start().unwrap()
}

fn topic() -> Topic {
    Topic::new("a").unwrap()
}

fn publish(hub: &Hub, data: &str) -> String {
    hub.publish(Event::new(topic()).with_data(data)).unwrap().last
}

fn next(client: &mut Client) -> ClientEvent {
    client.next_wait(PATIENCE).unwrap().expect("an event before the end")
}

#[test]
fn a_client_gets_what_is_published_after_it_has_subscribed() {
    let engine = engine();
    let hub = engine.hub();
    publish(&hub, "before");
    // On both shards.
    let mut clients: Vec<Client> = (0..4).map(|_| testing::subscribe(&hub, [topic()]).unwrap()).collect();
    let id = publish(&hub, "line\nand line");
    hub.publish(Event::new(topic()).with_type(EventType::new("ping").unwrap())).unwrap();
    for client in &mut clients {
        assert_eq!((client.status(), client.header("content-TYPE")), (200, Some("text/event-stream")));
        assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n") && client.head().ends_with("\r\n\r\n"));
        let event = next(client);
        assert_eq!((event.kind(), event.data(), event.id()), ("message", "line\nand line", id.as_str()));
    }
    engine.stop(Duration::ZERO).unwrap();
    for mut client in clients {
        assert_eq!(client.next_wait(PATIENCE).unwrap(), None, "an event without data is none to a browser");
        assert_eq!(client.next_wait(PATIENCE).unwrap(), None, "the end stays");
    }
    let stopped = testing::subscribe(&hub, [topic()]).unwrap_err();
    assert!(stopped.get_ref().unwrap().is::<AdoptError>(), "{stopped}");
}

#[test]
fn a_client_comes_back_with_its_last_id() {
    let engine = engine();
    let hub = engine.hub();
    let mut first = testing::subscribe(&hub, [topic()]).unwrap();
    publish(&hub, "1");
    let id = next(&mut first).id().to_owned();
    drop(first);
    publish(&hub, "2");
    let mut again = testing::adopt(&hub, Subscribe::to([topic()]).with_resume(id)).unwrap();
    assert_eq!(next(&mut again).data(), "2");
    let mut lost = testing::adopt(&hub, Subscribe::to([topic()]).with_resume("unknown")).unwrap();
    assert_eq!(lost.header("Fanfare-Gap"), Some("true"));
    assert_eq!(next(&mut lost).kind(), "fanfare.gap");
}

/// The tasks of a runtime that is not ours wait in the same way.
#[test]
fn a_task_waits_for_an_event() {
    let engine = engine();
    let hub = engine.hub();
    let mut client = testing::subscribe(&hub, [topic()]).unwrap();
    {
        let mut waiting = pin!(client.next());
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Pending));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let task = runtime.spawn(async move { client.next().await });
    publish(&hub, "hello");
    assert_eq!(runtime.block_on(task).unwrap().unwrap().unwrap().data(), "hello");
}

#[test]
fn a_client_that_is_dropped_leaves() {
    let engine = Engine::builder().shards(1).life_cycle(8).start();
    let mut engine = engine.unwrap();
    let mut life_cycle = engine.life_cycle().unwrap();
    drop(testing::subscribe(&engine.hub(), [topic()]).unwrap());
    let mut closed = false;
    while !closed {
        let event = life_cycle.next_wait(PATIENCE).unwrap().unwrap();
        closed = matches!(event, fanfare::LifeCycleEvent::Closed(_));
    }
}

#[test]
fn an_admission_is_asked_without_a_port() {
    let admission = |request: &Request<'_>| match (request.path(), request.header("cookie")) {
        ("/", _) => Answer::html("<p>hello").into(),
        ("/nothing", _) => Answer::new(204, "").into(),
        (_, Some(b"session=ada")) => Subscribe::from_request(request, 8).into(),
        _ => Decision::from(Refusal::new(401, "sign in first")),
    };
    let engine = Engine::builder().shards(2).listener(testing::listener()).admission(admission);
    // Another engine has a name of its own.
    let other = Engine::builder().shards(1).listener(testing::listener()).start().unwrap();
    let engine = engine.start().unwrap();
    let ada = [("Cookie", "session=ada")];
    let mut stream = testing::get(&engine, "/events?topic=a", &ada).unwrap();
    publish(&engine.hub(), "hello");
    assert_eq!(next(&mut stream).data(), "hello");

    let mut refused = testing::get(&engine, "/events?topic=a", &[]).unwrap();
    assert_eq!(refused.status(), 401);
    let error = refused.next_wait(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("401 Unauthorized"), "{error}");
    assert!(refused.text_wait(PATIENCE).unwrap().contains("sign in first"));
    assert_eq!(testing::get(&engine, "/", &[]).unwrap().text_wait(PATIENCE).unwrap(), "<p>hello");
    assert_eq!(testing::get(&engine, "/nothing", &[]).unwrap().text_wait(PATIENCE).unwrap(), "");
    assert_eq!(testing::get(&engine, "/events", &ada).unwrap().status(), 400, "no topic");
    assert_eq!(testing::get(&other, "/else", &[]).unwrap().status(), 404);
    assert_eq!(stream.text_wait(PATIENCE).unwrap_err().kind(), ErrorKind::InvalidData);

    let without = Engine::builder().shards(1).start().unwrap();
    assert_eq!(testing::get(&without, "/", &[]).unwrap_err().kind(), ErrorKind::NotFound);
}

/// An admission that chose the topics itself lost where its clients had stopped.
#[test]
fn an_admission_with_topics_of_its_own_resumes() {
    let admission = |request: &Request<'_>| Subscribe::to([topic()]).with_resume_of(request).into();
    let engine = Engine::builder().shards(1).listener(testing::listener()).admission(admission);
    let engine = engine.start().unwrap();
    let first = publish(&engine.hub(), "1");
    publish(&engine.hub(), "2");
    let by_query = format!("/?last_event_id={first}");
    for (target, fields) in [("/", &[("Last-Event-ID", first.as_str())][..]), (by_query.as_str(), &[])] {
        let mut client = testing::get(&engine, target, fields).unwrap();
        assert_eq!(client.header("fanfare-gap"), None);
        assert_eq!(next(&mut client).data(), "2", "{target}");
    }
    let mut live = testing::get(&engine, "/", &[]).unwrap();
    publish(&engine.hub(), "3");
    assert_eq!(next(&mut live).data(), "3");
}

/// What another server sends, in two pieces that end anywhere; then it closes.
fn client_of(bytes: &[u8], cut: usize) -> std::io::Result<Vec<String>> {
    let (client, mut server) = UnixStream::pair().unwrap();
    let (first, second) = bytes.split_at(cut);
    server.write_all(first).unwrap();
    let second = second.to_vec();
    let server = thread::spawn(move || server.write_all(&second).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let result = runtime.block_on(async {
        let mut client = Client::open(client).await?;
        let mut data = Vec::new();
        while let Some(event) = client.next().await? {
            data.push(event.data().to_owned());
        }
        Ok(data)
    });
    server.join().unwrap();
    result
}

#[test]
fn a_stream_ends_well_only_where_its_framing_says_so() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
    let whole = format!("{HEAD}{CHUNKED}9\r\ndata: 1\n\n\r\nA\r\ndata: 22\n\n\r\n0\r\n\r\n");
    for cut in 0..whole.len() {
        assert_eq!(client_of(whole.as_bytes(), cut).unwrap(), ["1", "22"], "{cut}");
    }
    for (text, result) in [
        (format!("{HEAD}\r\ndata: 1\n\n"), Ok(1)),
        (format!("{HEAD}content-length: 9\r\n\r\ndata: 1\n\n"), Ok(1)),
        (format!("{HEAD}content-length: 10\r\n\r\ndata: 1\n\n"), Err(ErrorKind::UnexpectedEof)),
        (whole[..whole.len() - 1].to_owned(), Err(ErrorKind::UnexpectedEof)),
        (whole[..whole.len() - 5].to_owned(), Err(ErrorKind::UnexpectedEof)),
        (format!("{HEAD}{CHUNKED}8\r\ndata: 1\n\n\r\n0\r\n\r\n"), Err(ErrorKind::InvalidData)),
        (format!("{HEAD}{CHUNKED}data: 1\r\n\r\n"), Err(ErrorKind::InvalidData)),
        (format!("{HEAD}{CHUNKED}ffffffffffffffff\r\n"), Err(ErrorKind::InvalidData)),
        ("220 mail\r\n\r\n".to_owned(), Err(ErrorKind::InvalidData)),
        (HEAD.to_owned(), Err(ErrorKind::UnexpectedEof)),
        (String::new(), Err(ErrorKind::UnexpectedEof)),
    ] {
        let found = client_of(text.as_bytes(), 0).map(|data| data.len()).map_err(|error| error.kind());
        assert_eq!(found, result, "{text:?}");
    }
}

#[test]
fn a_wait_has_a_bound() {
    let engine = engine();
    let mut client = testing::subscribe(&engine.hub(), [topic()]).unwrap();
    assert_eq!(client.next_wait(Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);
    publish(&engine.hub(), "late");
    assert_eq!(next(&mut client).data(), "late", "the client is still there");
}
