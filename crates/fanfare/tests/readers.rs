//! Readers in the same process beside real shards: what a shard's thread publishes and reads.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use fanfare::{
    Answer, Decision, DescriptorTables, Engine, Event, Hub, ReadError, ReadItem, Reader, ReaderError,
    Request, Topic,
};
use futures_core::Stream;

/// So that a test whose events do not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

fn topic() -> Topic {
    Topic::new("a").unwrap()
}

fn text(item: Option<ReadItem>) -> String {
    match item {
        Some(ReadItem::Event(event)) => event.data().unwrap_or_default().into_owned(),
        other => panic!("{other:?}"),
    }
}

/// What an admission may do with readers on a shard's thread. It says what went otherwise.
fn use_readers_on_shard(hub: &Hub, reader: &mut Reader) -> Result<(), String> {
    match reader.next_wait(PATIENCE) {
        Err(ReadError::WouldBlock) => {}
        other => return Err(format!("it waits: {other:?}")),
    }
    match hub.subscribe([topic()]).stream() {
        Err(ReaderError::WouldBlock) => {}
        other => return Err(format!("a reader is made: {other:?}")),
    }
    hub.publish(Event::new(topic()).data("from the shard")).map_err(|error| error.to_string())?;
    match reader.try_next() {
        Ok(Some(ReadItem::Event(event))) if event.data().as_deref() == Some("from the shard") => {}
        other => return Err(format!("it reads {other:?}")),
    }
    let page = hub.read(&topic(), "earliest", 9).map_err(|error| error.to_string())?;
    if page.events().len() == 1 { Ok(()) } else { Err(format!("{page:?}")) }
}

/// A shard publishes to readers that sleep as threads and as tasks. With a descriptor table of its own it
/// could not run a task's waker: a runtime's waker writes to a descriptor, which is a subscriber's socket
/// there.
#[test]
fn a_shard_calls_readers_and_does_not_wait_for_events() {
    for tables in [DescriptorTables::Shared, DescriptorTables::Private] {
        let given = Arc::new(OnceLock::<(Hub, Mutex<Reader>)>::new());
        let of_admission = Arc::clone(&given);
        let admission = move |_: &Request<'_>| {
            let (hub, reader) = of_admission.get().expect("the test has set it");
            match use_readers_on_shard(hub, &mut reader.lock().unwrap()) {
                Ok(()) => Decision::Answer(Answer::new(200, "all is well")),
                Err(text) => Decision::Answer(Answer::new(500, text)),
            }
        };
        let builder = Engine::builder().shards(1).descriptor_tables(tables);
        // SAFETY: the admission uses no descriptor; the hub and its readers are made for every thread.
        let builder = unsafe { builder.admission_on_shards(admission) };
        let engine = builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let hub = engine.hub();
        let subscribe = || hub.subscribe([topic()]).stream().unwrap();
        let (mut by_thread, mut by_task, mut by_stream) = (subscribe(), subscribe(), subscribe());
        given.set((hub.clone(), Mutex::new(subscribe()))).ok().unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| text(by_thread.next_wait(PATIENCE).unwrap()));
            let task = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut pinned = std::pin::pin!(&mut by_stream);
                    let streamed = std::future::poll_fn(|context| pinned.as_mut().poll_next(context));
                    let (one, other) = tokio::join!(by_task.next(), streamed);
                    [text(one), text(other)]
                })
            });
            let mut stream = TcpStream::connect(engine.addresses()[0]).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("all is well"), "{answer}");
            assert_eq!(thread.join().unwrap(), "from the shard");
            assert_eq!(task.join().unwrap(), ["from the shard", "from the shard"]);
        });
        engine.stop(Duration::ZERO).unwrap();
        assert!(by_task.try_next().unwrap().is_none());
    }
}
