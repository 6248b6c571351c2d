//! Publishers, shards, adopters and counters on threads of their own, over real sockets. It checks the order
//! that everybody sees; under ThreadSanitizer (`cargo xtask sanitize`) also what the threads share.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use fanfare::{
    Admission, AdoptError, AdoptRefusal, Backend, Builder, Cursor, Decision, Decoded, Decoder,
    DescriptorTables, Engine, Event, HandOver, HeadLimits, Hub, InspectError, Limits, LogLimits,
    PublishError, Request, Retention, SocketOptions, StopError, Subscribe, Topic, WireFormat,
};
use fanfare_io::table;

/// So that a test whose events do not come fails instead of hanging. Shorter than the interval of heartbeats.
const PATIENCE: Duration = Duration::from_secs(10);

const PUBLISHERS: usize = 4;
const BATCHES: usize = 40;
const BATCH: usize = 5;
const EVENTS: usize = PUBLISHERS * BATCHES * BATCH;

/// An engine goes on with a log of before: its ids go on, a subscriber that has everything resumes, and one
/// that has less gets a gap.
#[test]
fn an_engine_goes_on_where_a_log_ended() {
    let position = Cursor::parse("000000abc-41").unwrap();
    let start = |position| {
        let engine = Engine::builder().descriptor_tables(DescriptorTables::Shared).shards(2);
        engine.listen("127.0.0.1:0".parse().unwrap()).begin_after(position).start()
    };
    let engine = start(position).unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);
    assert_eq!(hub.head(), position);
    let published = hub.publish(event("next".to_owned())).unwrap();
    assert_eq!(published.first, "000000abc-42");
    for (id, has_gap) in [("000000abc-41", false), ("000000abc-40", true), ("000000abd-41", true)] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /events?topic=a HTTP/1.0\r\nLast-Event-ID: {id}\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"id: 000000abc-42\n\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        let text = String::from_utf8(seen).unwrap();
        assert_eq!(text.contains("gap"), has_gap, "from {id}: {text}");
        assert!(text.contains("data: next\n"), "from {id}: {text}");
    }
    engine.stop(Duration::ZERO).unwrap();
    // The same after a second start, where the durable store has the event.
    let engine = start(hub.head()).unwrap();
    assert_eq!(engine.hub().publish(event("next".to_owned())).unwrap().first, "000000abc-43");
    let error = start(Cursor { seq: u64::MAX, ..position }).err().unwrap();
    assert!(error.to_string().contains("the number must be below"), "{error}");
}

#[test]
fn all_subscribers_see_one_order_of_all_publishers() {
    // ThreadSanitizer believes that a descriptor's number means the same in every thread.
    let engine = Engine::builder().descriptor_tables(DescriptorTables::Shared).shards(2);
    let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);
    let accepted = (0..4).map(|_| subscribe(address));
    let streams: Vec<TcpStream> = accepted.chain((0..4).map(|_| adopted(&hub))).collect();
    let published = AtomicBool::new(false);

    let orders: Vec<Vec<String>> = thread::scope(|scope| {
        let readers: Vec<_> = streams.iter().map(|stream| scope.spawn(|| read_all(stream))).collect();
        scope.spawn(|| observe(&hub, &published));
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|name| {
                scope.spawn({
                    let hub = &hub;
                    move || publish(hub, name)
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        published.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });

    for order in &orders {
        assert_eq!(order, &orders[0], "two subscribers saw different orders");
    }
    for name in 0..PUBLISHERS {
        let prefix = format!("{name}-");
        let of_one: Vec<&String> = orders[0].iter().filter(|data| data.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..BATCHES * BATCH).map(|number| format!("{name}-{number}")).collect();
        assert_eq!(of_one, expected.iter().collect::<Vec<_>>(), "a publisher's events changed places");
    }
    assert!(engine.is_running());
    engine.stop(Duration::ZERO).unwrap();
    let late = hub.publish(event("late".to_owned())).unwrap_err();
    assert_eq!((late.error, *late.event), (PublishError::Stopped, event("late".to_owned())));
}

/// An admission that publishes (who came, say) does so on its shard's thread. There a private descriptor
/// table did not have the other shards' wakers, and the shard panicked.
#[test]
fn an_admission_may_publish() {
    let hub: Arc<OnceLock<Hub>> = Arc::default();
    let admission = {
        let hub = Arc::clone(&hub);
        move |request: &Request<'_>| {
            let _ = hub.get().unwrap().publish(event(request.path().to_owned()));
            Decision::Subscribe(Subscribe::from_request(request, 8).unwrap())
        }
    };
    let engine = on_private_shards(Engine::builder().shards(3), admission);
    let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    assert!(hub.set(engine.hub()).is_ok());
    let streams: Vec<TcpStream> = (0..20).map(|_| subscribe(engine.addresses()[0])).collect();
    engine.hub().publish(event("last".to_owned())).unwrap();
    assert_eq!(engine.hub().head().seq, 21);
    assert!(engine.is_running());
    engine.stop(Duration::from_secs(1)).unwrap();
    expect_the_last(streams);
}

/// A publisher that is a task waits for room. A shard has a descriptor table of its own, where the eventfd of
/// the executor would be a subscriber's socket or nothing at all: so it is not the shard that wakes the task.
#[test]
fn tasks_wait_for_shards_with_tables_of_their_own() {
    let limits = Limits::default().with_mailbox_events(4);
    let engine = Engine::builder().shards(2).descriptor_tables(DescriptorTables::Auto).limits(limits);
    let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let hub = engine.hub();
    let streams: Vec<TcpStream> = (0..8).map(|_| subscribe(engine.addresses()[0])).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let orders: Vec<Vec<String>> = thread::scope(|scope| {
        let readers: Vec<_> = streams.iter().map(|stream| scope.spawn(|| read_all(stream))).collect();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for name in 0..PUBLISHERS {
                let hub = hub.clone();
                tasks.spawn(async move {
                    for batch in 0..BATCHES {
                        let number = |index| format!("{name}-{}", batch * BATCH + index);
                        let mut events = (0..BATCH).map(|index| event(number(index))).collect();
                        assert_eq!(hub.publish_async(&mut events).await.unwrap().count, BATCH);
                    }
                });
            }
            tasks.join_all().await;
        });
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(orders.iter().all(|order| *order == orders[0]), "two subscribers saw different orders");
    engine.stop(Duration::ZERO).unwrap();
}

/// Where shards share the process's descriptor table (Docker's default), an admission that waited for room or
/// for an answer waited for its own shard: until its patience was over, or for ever. With private tables it
/// panicked.
#[test]
fn an_admission_does_not_wait_for_its_own_shard() {
    for tables in [DescriptorTables::Shared, DescriptorTables::Private] {
        let hub: Arc<OnceLock<Hub>> = Arc::default();
        let (hand_over, (told, is_told)) = (Arc::new(Mutex::new(None)), mpsc::channel());
        let admission = {
            let (hub, hand_over) = (Arc::clone(&hub), Arc::clone(&hand_over));
            move |request: &Request<'_>| {
                if request.path() == "/asks" {
                    told.send(waits_of_an_admission(hub.get().unwrap(), &hand_over)).unwrap();
                }
                Decision::Subscribe(Subscribe::from_request(request, 8).unwrap())
            }
        };
        let limits = Limits::default().with_mailbox_events(4);
        let engine = Engine::builder().shards(1).descriptor_tables(tables).limits(limits).hand_over(true);
        let engine = on_shards(engine, admission).listen("127.0.0.1:0".parse().unwrap()).start();
        let mut engine = engine.unwrap();
        *hand_over.lock().unwrap() = engine.hand_over();
        assert!(hub.set(engine.hub()).is_ok());
        // Its shard has mail, and takes none while the admission runs.
        let first = subscribe(engine.addresses()[0]);
        let second = subscribe_at(engine.addresses()[0], "/asks");
        let WaitsOfAnAdmission { published, waited, task, left, topic, page, received } =
            is_told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(published, 4, "what there is room for is published");
        assert_eq!((waited, task, left), (PublishError::WouldBlock, PublishError::WouldBlock, 1));
        assert_eq!((topic, page), (InspectError::WouldBlock, InspectError::WouldBlock));
        assert_eq!(received, std::io::ErrorKind::WouldBlock);
        assert!(engine.is_running(), "the shard goes on");
        assert_eq!(
            engine.hub().publish_wait(&mut vec![event("last".to_owned())], PATIENCE).unwrap().count,
            1
        );
        engine.stop(Duration::from_secs(1)).unwrap();
        expect_the_last(vec![first, second]);
    }
}

/// So that a call that waits gets an error, and the test fails instead of hanging.
const A_MOMENT: Duration = Duration::from_millis(500);

/// What an admission was told by calls that would wait.
struct WaitsOfAnAdmission {
    published: usize,
    waited: PublishError,
    task: PublishError,
    left: usize,
    topic: InspectError,
    page: InspectError,
    received: std::io::ErrorKind,
}

fn waits_of_an_admission(hub: &Hub, hand_over: &Mutex<Option<HandOver>>) -> WaitsOfAnAdmission {
    let mut published = 0;
    let mut events = vec![event("one of few".to_owned())];
    let waited = loop {
        match hub.publish_wait(&mut events, A_MOMENT) {
            Ok(_) => published += 1,
            Err(interrupted) => break interrupted.error,
        }
        events.push(event("one of few".to_owned()));
        assert!(published < 100, "a mailbox has room for ever");
    };
    let task = {
        let mut publishing = std::pin::pin!(hub.publish_async(&mut events));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match publishing.as_mut().poll(&mut context) {
            std::task::Poll::Ready(result) => result.unwrap_err().error,
            std::task::Poll::Pending => panic!("it waits"),
        }
    };
    let topic = hub.topic(&Topic::new("t").unwrap(), A_MOMENT).unwrap_err();
    let page = hub.topics_page(None, 10, A_MOMENT).unwrap_err();
    let received =
        hand_over.lock().unwrap().as_mut().unwrap().receive(Some(A_MOMENT)).map(drop).unwrap_err().kind();
    WaitsOfAnAdmission { published, waited, task, left: events.len(), topic, page, received }
}

/// An admission that owned the engine, and let it end, waited for the end of its own thread.
#[test]
fn an_admission_that_stops_its_engine_does_not_wait_for_itself() {
    for tables in [DescriptorTables::Shared, DescriptorTables::Private] {
        let (owned, (told, is_told)) = (Arc::new(Mutex::new(None::<Engine>)), mpsc::channel());
        let admission = {
            let owned = Arc::clone(&owned);
            move |request: &Request<'_>| {
                if request.path() == "/stops" {
                    let engine = owned.lock().unwrap().take().unwrap();
                    let error = engine.stop(Duration::ZERO).unwrap_err();
                    told.send(error).unwrap();
                }
                Decision::Subscribe(Subscribe::from_request(request, 8).unwrap())
            }
        };
        let engine = on_shards(Engine::builder().shards(2).descriptor_tables(tables), admission);
        let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let (address, hub) = (engine.addresses()[0], engine.hub());
        let mut stays: Vec<TcpStream> = (0..4).map(|_| subscribe(address)).collect();
        *owned.lock().unwrap() = Some(engine);
        stays.push(request(address, "/stops"));
        assert_eq!(is_told.recv_timeout(PATIENCE).unwrap(), StopError::OnShard);
        // Everything ends all the same.
        for mut stream in stays {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        }
        assert_eq!(hub.publish(event("late".to_owned())).unwrap_err().error, PublishError::Stopped);
    }
}

/// An admission that published to another engine raised the number of its newest event, and panicked before
/// that engine's shards had it; or wrote into what had the waker's number in its own table.
#[test]
fn an_admission_cannot_publish_to_another_engine() {
    let other: Arc<OnceLock<Hub>> = Arc::default();
    let admission = {
        let other = Arc::clone(&other);
        move |request: &Request<'_>| {
            let hub = other.get().unwrap();
            let published = catch_unwind(AssertUnwindSafe(|| hub.publish(event("stray".to_owned()))));
            assert!(published.is_err());
            Decision::Subscribe(Subscribe::from_request(request, 8).unwrap())
        }
    };
    let engine = on_private_shards(Engine::builder().shards(1), admission);
    let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    // Its wakers get the numbers that the first one's listener and channels had.
    let second = Engine::builder().shards(4).start().unwrap();
    assert!(other.set(second.hub()).is_ok());
    let _stream = subscribe(engine.addresses()[0]);
    assert_eq!(second.hub().head().seq, 0);
    second.hub().publish(event("first".to_owned())).unwrap();
    engine.stop(Duration::ZERO).unwrap();
    second.stop(Duration::ZERO).unwrap();
}

/// One request at which the admission panicked ended the shard with all of its subscribers, and with it the
/// service: the hub refused to publish from then on.
#[test]
fn a_panic_in_an_admission_is_one_request_s_answer() {
    const PANICS: usize = 50;
    /// A payload whose own drop panics.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose, again");
        }
    }
    let admission = |request: &Request<'_>| match request.path() {
        "/panic" => panic!("on purpose"),
        "/bomb" => std::panic::panic_any(Bomb),
        _ => Decision::Subscribe(Subscribe::from_request(request, 1).unwrap()),
    };
    let on_threads = Engine::builder().shards(2).admission(admission);
    let on_shards = on_private_shards(Engine::builder().shards(2), admission);
    [on_threads, on_shards].into_iter().for_each(bear_panics);

    fn bear_panics(builder: Builder) {
        let engine = builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let (hub, address) = (engine.hub(), engine.addresses()[0]);
        let streams: Vec<TcpStream> = (0..8).map(|_| subscribe(address)).collect();

        thread::scope(|scope| {
            let readers: Vec<_> = streams.iter().map(|stream| scope.spawn(|| read_all(stream))).collect();
            for name in 0..PUBLISHERS {
                let hub = &hub;
                scope.spawn(move || publish(hub, name));
            }
            for path in ["/panic", "/bomb"] {
                scope.spawn(move || {
                    for _ in 0..PANICS {
                        let mut culprit = TcpStream::connect(address).unwrap();
                        culprit.set_read_timeout(Some(PATIENCE)).unwrap();
                        write!(culprit, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                        let mut answer = String::new();
                        culprit.read_to_string(&mut answer).unwrap();
                        assert!(answer.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{answer}");
                        assert!(
                            answer.contains("application/problem+json") && answer.contains(r#""status":500"#)
                        );
                    }
                });
            }
            for reader in readers {
                assert_eq!(reader.join().unwrap().len(), EVENTS);
            }
        });
        assert!(engine.is_running());
        let mut late = subscribe(address);
        hub.publish(event("last".to_owned())).unwrap();
        engine.stop(Duration::from_secs(1)).unwrap();
        let mut text = String::new();
        late.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: last\n"), "{text}");
        let counts = hub.counts();
        assert_eq!((counts.admission_panics, counts.refused), (2 * PANICS as u64, 2 * PANICS as u64));
    }
}

/// Without a receiver, requests that are no subscriptions were answered 503 for ever, as if a try in a moment
/// could help.
#[test]
fn a_request_for_nobody_is_not_found() {
    let engine = Engine::builder().shards(2).hand_over(true).listen("127.0.0.1:0".parse().unwrap());
    let mut engine = engine.start().unwrap();
    drop(engine.hand_over().unwrap());
    for _ in 0..10 {
        let mut stream = TcpStream::connect(engine.addresses()[0]).unwrap();
        stream.write_all(b"GET /else HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}

/// With larger heads allowed than fit into a message, clients that sent one got "busy" for ever.
#[test]
fn what_is_handed_over_fits() {
    let head = HeadLimits::default().with_max_bytes(1 << 20);
    let engine = Engine::builder().hand_over(true).limits(Limits::default().with_head(head));
    let mut engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    assert_eq!(engine.hub().limits().head.max_bytes, 32 << 10);
    let mut sockets = engine.hand_over().unwrap();
    let ask = |size| {
        let mut stream = TcpStream::connect(engine.addresses()[0]).unwrap();
        write!(stream, "GET /else HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(size)).unwrap();
        stream
    };
    let _stream = ask(32_000);
    let handed_over = sockets.receive(None).unwrap().unwrap();
    assert!(handed_over.received.len() > 32_000);
    let mut answer = [0; 12];
    ask(40_000).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

/// The last owner of an admission was a shard: the files that it had open were closed by their numbers in the
/// shard's table, where they are others.
#[test]
fn an_admission_is_dropped_where_its_descriptors_mean_the_same() {
    struct Careful(Arc<OnceLock<bool>>);
    impl Admission for Careful {
        fn admit(&self, _: &Request<'_>) -> Decision {
            Decision::HandOver
        }
    }
    impl Drop for Careful {
        fn drop(&mut self) {
            self.0.set(table::is_private()).unwrap();
        }
    }
    let dropped_in_private = Arc::default();
    let engine = on_private_shards(Engine::builder().shards(2), Careful(Arc::clone(&dropped_in_private)));
    engine.start().unwrap().stop(Duration::ZERO).unwrap();
    assert_eq!(dropped_in_private.get(), Some(&false));
}

/// An admission that stopped its own engine dropped it with the engine's share in the admission. The last
/// share was then a shard's, which dropped it in its own descriptor table.
#[test]
fn an_admission_that_stops_its_engine_is_dropped_where_its_descriptors_mean_the_same() {
    struct Stops {
        engine: Arc<Mutex<Option<Engine>>>,
        dropped_in_private: mpsc::Sender<bool>,
    }
    impl Admission for Stops {
        fn admit(&self, _: &Request<'_>) -> Decision {
            if let Some(engine) = self.engine.lock().unwrap().take() {
                assert!(table::is_private());
                assert!(engine.stop(Duration::ZERO).is_err());
            }
            Decision::HandOver
        }
    }
    impl Drop for Stops {
        fn drop(&mut self) {
            self.dropped_in_private.send(table::is_private()).unwrap();
        }
    }
    for shards in [1, 3] {
        let (dropped_in_private, dropped) = mpsc::channel();
        let owned = Arc::default();
        let admission = Stops { engine: Arc::clone(&owned), dropped_in_private };
        let builder = Engine::builder().shards(shards).descriptor_tables(DescriptorTables::Private);
        let builder = on_shards(builder, admission).listen("127.0.0.1:0".parse().unwrap());
        let engine = builder.start().unwrap();
        let address = engine.addresses()[0];
        *owned.lock().unwrap() = Some(engine);
        let _stops = request(address, "/stops");
        assert_eq!(dropped.recv_timeout(PATIENCE), Ok(false), "{shards} shards");
    }
}

/// With an admission that runs on the shards.
fn on_shards(builder: Builder, admission: impl Admission) -> Builder {
    // SAFETY: the admissions of these tests use no descriptor, apart from standard error, and the hub, which
    // checks itself.
    unsafe { builder.admission_on_shards(admission) }
}

/// The same, with descriptor tables of their own.
fn on_private_shards(builder: Builder, admission: impl Admission) -> Builder {
    on_shards(builder.descriptor_tables(DescriptorTables::Auto), admission)
}

/// With [`Duration::MAX`] for "never", shards panicked at their first connection.
#[test]
fn the_longest_time_is_never() {
    let never = Duration::MAX;
    let limits = Limits::default()
        .with_head_time(never)
        .with_laggard_time(never)
        .with_heartbeat(never)
        .with_connection_age(Some(never))
        .with_retry(never)
        .with_log(LogLimits::default().with_retention(Retention::default().with_age(never)));
    let engine = Engine::builder().shards(1).limits(limits).listen("127.0.0.1:0".parse().unwrap());
    let engine = engine.start().unwrap();
    let mut head_in_pieces = TcpStream::connect(engine.addresses()[0]).unwrap();
    head_in_pieces.write_all(b"GET /events?topic=a HTTP/1.0\r\n").unwrap();
    let mut streams = vec![subscribe(engine.addresses()[0])];
    head_in_pieces.write_all(b"\r\n").unwrap();
    wait_for_prelude(&mut head_in_pieces);
    streams.push(head_in_pieces);
    engine.hub().publish(event("last".to_owned())).unwrap();
    engine.stop(Duration::from_secs(1)).unwrap();
    expect_the_last(streams);
}

/// A Unix socket was adopted with an Ok, and closed in silence since it has no options of TCP.
#[test]
fn a_unix_socket_is_adopted_too() {
    for backend in [Backend::Epoll, Backend::Auto] {
        let engine = Engine::builder().shards(1).backend(backend).start().unwrap();
        let (mut stream, socket) = UnixStream::pair().unwrap();
        let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
        engine.hub().adopt(socket, subscribe, WireFormat::Plain).unwrap();
        wait_for_prelude(&mut stream);
        // More than its buffer takes at once.
        engine.hub().publish(event("x".repeat(1 << 20))).unwrap();
        engine.hub().publish(event("last".to_owned())).unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.any(|line| line.unwrap() == "data: last"));
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A socket on which the options cannot be set is refused with an error.
#[test]
fn what_the_kernel_refuses_is_not_adopted() {
    let options = SocketOptions::default().with_keepalive(Some(Duration::MAX));
    let engine = Engine::builder().shards(1).socket_options(options).start().unwrap();
    let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = File::open("/dev/null").unwrap();
    for socket in [OwnedFd::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap()), file.into()] {
        let refused = engine.hub().adopt(socket, subscribe.clone(), WireFormat::Plain).unwrap_err();
        assert!(matches!(refused.reason(), AdoptRefusal::Io(_)), "{refused:?}");
    }
}

/// A refusal said "try again" when the socket was closed already.
#[test]
fn a_socket_that_is_not_adopted_is_given_back() {
    // A mailbox that takes no socket.
    let limits = Limits::default().with_mailbox_events(0).with_mailbox_others(0);
    let busy = Engine::builder().shards(1).limits(limits).start().unwrap();
    let stopped = Engine::builder().shards(1).start().unwrap();
    let hub_of_stopped = stopped.hub();
    stopped.stop(Duration::ZERO).unwrap();
    let engine = Engine::builder().shards(1).start().unwrap();

    let (mut stream, socket) = UnixStream::pair().unwrap();
    let subscribe = Subscribe::to([Topic::new("a").unwrap()]).with_greeting(None, "hello");
    let refused = busy.hub().adopt(socket, subscribe, WireFormat::Plain).unwrap_err();
    assert!(refused.is_busy() && matches!(refused.reason(), AdoptRefusal::Busy), "{refused:?}");
    let (socket, subscribe) = refused.into_parts();
    let refused = hub_of_stopped.adopt(socket, subscribe, WireFormat::Plain).unwrap_err();
    assert!(!refused.is_busy() && matches!(refused.reason(), AdoptRefusal::Stopped), "{refused:?}");
    let (socket, subscribe) = refused.into_parts();
    engine.hub().adopt(socket, subscribe, WireFormat::Plain).unwrap();
    wait_for_prelude(&mut stream);
    engine.hub().publish(event("last".to_owned())).unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let data: Vec<String> = lines.filter(|line| line.starts_with("data: ")).take(2).collect();
    assert_eq!(data, ["data: hello", "data: last"]);
    engine.stop(Duration::ZERO).unwrap();

    // What was not adopted can be answered, too.
    let (mut stream, socket) = UnixStream::pair().unwrap();
    let refused = busy.hub().adopt(socket, Subscribe::to([]), WireFormat::Plain).unwrap_err();
    UnixStream::from(refused.into_socket()).write_all(b"HTTP/1.1 503 ").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HTTP/1.1 503 ");
}

fn event(data: String) -> Event {
    Event::new(Topic::new("a").unwrap()).with_data(data)
}

/// Batches of one publisher, each tried until there is room.
fn publish(hub: &Hub, name: usize) {
    for batch in 0..BATCHES {
        let mut events: Vec<Event> =
            (0..BATCH).map(|index| event(format!("{name}-{}", batch * BATCH + index))).collect();
        loop {
            match hub.publish_batch(&mut events) {
                Ok(published) => break assert_eq!(published.count, BATCH),
                Err(PublishError::Busy) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What a dashboard does meanwhile.
fn observe(hub: &Hub, published: &AtomicBool) {
    let mut newest = hub.head();
    while !published.load(Ordering::Relaxed) {
        assert!(hub.counts().connections <= 8);
        let page = hub.topics_page(None, 10, Duration::from_secs(60)).unwrap();
        assert!(page.topics.iter().all(|counts| counts.subscribers <= 8) && page.next.is_none());
        let head = hub.head();
        assert!(head.seq >= newest.seq);
        newest = head;
    }
    assert_eq!(newest.epoch, hub.head().epoch);
}

/// A subscriber that a shard accepted.
fn subscribe(address: SocketAddr) -> TcpStream {
    subscribe_at(address, "/events")
}

fn subscribe_at(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = request(address, path);
    wait_for_prelude(&mut stream);
    stream
}

/// A subscriber that has not read its answer yet.
fn request(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path}?topic=a HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// A subscriber that another server accepted.
fn adopted(hub: &Hub) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
    let adopted: Result<(), AdoptError> = hub.adopt(socket, subscribe, WireFormat::Plain);
    adopted.unwrap();
    wait_for_prelude(&mut stream);
    stream
}

/// From the end of the prelude on, nothing that is published is missed.
fn wait_for_prelude(stream: &mut impl Read) {
    let mut seen = Vec::new();
    while !seen.windows(7).any(|window| window == b"retry: ") || !seen.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.") && seen.windows(5).any(|window| window == b" 200 "));
}

/// Each stream ends, and had the event `last` before.
fn expect_the_last(streams: Vec<TcpStream>) {
    for mut stream in streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: last\n"));
    }
}

/// All events as one subscriber sees them.
fn read_all(mut stream: &TcpStream) -> Vec<String> {
    let (mut decoder, mut seen, mut last) = (Decoder::new(1 << 20), Vec::new(), 0);
    let mut buffer = vec![0; 16 << 10];
    while seen.len() < EVENTS {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended after {} events", seen.len());
        let mut on = |decoded: Decoded<'_>| {
            if let Decoded::Event { data, last_event_id, .. } = decoded {
                let cursor = Cursor::parse(last_event_id).unwrap();
                assert_eq!(cursor.seq, last + 1, "an event is missing, or came twice");
                last = cursor.seq;
                seen.push(data.to_owned());
            }
        };
        decoder.feed(&buffer[..count], &mut on).unwrap();
    }
    seen
}
