//! Admissions over real sockets: what they may do, and what becomes of a request while they decide.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod support;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use fanfare::{
    Answer, Backend, Builder, Counts, Decision, DecisionTicket, DescriptorTables, Engine, Event, Hub, Limits,
    PublishError, Refusal, Request, Subscribe, Topic,
};
use support::{PATIENCE, opened, read_all, wait_for};
use waiting::{wait_for_counts, wait_for_state};

const TABLES: [DescriptorTables; 2] = [DescriptorTables::Shared, DescriptorTables::Auto];

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn start(builder: Builder) -> (Engine, Hub, SocketAddr) {
    let engine = builder.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
    let (hub, address) = (engine.hub(), engine.addresses()[0]);
    (engine, hub, address)
}

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    stream
}

/// An admission that sent on a channel of tokio's ended the shard at the first subscriber: the wake-up of the
/// runtime wrote into what had the number of its eventfd in the shard's table. And a line in a log file went
/// into a subscriber's stream.
#[test]
fn an_admission_may_use_what_it_likes() {
    const SUBSCRIBERS: usize = 200;
    for tables in TABLES {
        for backend in [Backend::Epoll, Backend::Auto] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (visits, mut visited) = tokio::sync::mpsc::channel::<SocketAddr>(SUBSCRIBERS * 2);
            let log = tempfile_in_memory();
            let (elsewhere, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), AtomicUsize::new(0));
            let elsewhere_at = elsewhere.local_addr().unwrap();
            let admission = {
                let log = Arc::clone(&log);
                move |request: &Request<'_>| {
                    visits.try_send(request.peer().unwrap()).unwrap();
                    writeln!(log.lock().unwrap(), "a request for {}", request.path()).unwrap();
                    std::fs::read("/proc/self/stat").unwrap();
                    if other.fetch_add(1, Ordering::Relaxed) % 10 == 0 {
                        let mut socket = TcpStream::connect(elsewhere_at).unwrap();
                        socket.write_all(b"a question to a database").unwrap();
                    }
                    if request.path() == "/panic" {
                        panic!("on purpose");
                    }
                    Decision::Subscribe(Subscribe::to([topic()]))
                }
            };
            let builder = Engine::builder().shards(2).backend(backend).descriptor_tables(tables);
            let (engine, hub, address) = start(builder.admission(admission));
            let count = thread::spawn(move || {
                runtime.block_on(async {
                    let mut count = 0;
                    while visited.recv().await.is_some() {
                        count += 1;
                    }
                    count
                })
            });
            thread::spawn(move || for _socket in elsewhere.incoming() {});
            let publishing = {
                let hub = hub.clone();
                thread::spawn(move || {
                    for number in 0..500 {
                        hub.publish_wait(&mut vec![event(&format!("{number}"))], PATIENCE).unwrap();
                        thread::yield_now();
                    }
                })
            };
            let streams: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| opened(ask(address, "/events"))).collect();
            for _ in 0..5 {
                assert!(read_all(ask(address, "/panic")).starts_with("HTTP/1.1 500 "));
            }
            publishing.join().unwrap();
            hub.publish(event("last")).unwrap();
            engine.stop(Duration::from_secs(1)).unwrap();
            for stream in streams {
                // Nothing but whole events, in order, without one that is missing between the first and the
                // last.
                let text = read_all(stream);
                let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                let numbers: Vec<usize> =
                    data[..data.len() - 1].iter().map(|text| text.parse().unwrap()).collect();
                assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
                assert_eq!(
                    (numbers.last().is_none_or(|last| *last == 499), data.last()),
                    (true, Some(&"last"))
                );
                for line in text.lines().filter(|line| !line.is_empty()) {
                    let known = ["id: ", "data: ", "retry: ", ":"];
                    assert!(known.iter().any(|known| line.starts_with(known)), "a stranger's line: {line:?}");
                }
            }
            assert_eq!(count.join().unwrap(), SUBSCRIBERS + 5);
            assert!(log.lock().unwrap().metadata().unwrap().len() > 0);
        }
    }
}

fn event(data: &str) -> Event {
    Event::new(topic()).with_data(data)
}

/// A log file that no other test sees.
fn tempfile_in_memory() -> Arc<Mutex<std::fs::File>> {
    // SAFETY: the name is a C string, and the descriptor has no other owner.
    let file = unsafe {
        use std::os::fd::FromRawFd;
        std::fs::File::from_raw_fd(libc::memfd_create(c"log".as_ptr(), 0))
    };
    Arc::new(Mutex::new(file))
}

/// While admissions block, streams are delivered to, and health is not at stake. With as many that block as
/// there are threads, others wait, and no longer than the time for a decision.
#[test]
fn an_admission_that_blocks_holds_up_no_stream() {
    for tables in TABLES {
        let (blocked, goes_on) = (Arc::new(Barrier::new(3)), Arc::new(Barrier::new(3)));
        let admission = {
            let (blocked, goes_on) = (Arc::clone(&blocked), Arc::clone(&goes_on));
            move |request: &Request<'_>| {
                if request.path() == "/blocks" {
                    blocked.wait();
                    goes_on.wait();
                }
                Decision::Subscribe(Subscribe::to([topic()]))
            }
        };
        let limits = Limits::default().with_decision_time(Duration::from_millis(300));
        let builder = Engine::builder().shards(1).limits(limits).descriptor_tables(tables);
        let (engine, hub, address) = start(builder.admission(admission).admission_threads(2));
        let mut reader = opened(ask(address, "/events"));
        let late: Vec<TcpStream> = (0..2).map(|_| ask(address, "/blocks")).collect();
        blocked.wait();
        let waits = ask(address, "/events");
        for number in 0..100 {
            hub.publish(event(&format!("{number}"))).unwrap();
            wait_for(&mut reader, &format!("data: {number}\n"));
        }
        for stream in late.into_iter().chain([waits]) {
            let text = read_all(stream);
            assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
            assert!(
                text.contains("\r\nRetry-After: 1\r\n") && text.contains("did not come in time"),
                "{text}"
            );
        }
        wait_for_counts(&hub, |counts| counts.decisions_timed_out == 3);
        goes_on.wait();
        // What they decided is about requests that were answered. The next ones are served.
        drop(opened(ask(address, "/events")));
        wait_for_counts(&hub, |counts| counts.undecided == 0);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// Holds the tickets of its requests, by their paths.
type Tickets = Arc<Mutex<Vec<(String, DecisionTicket)>>>;

fn collect(tickets: &Tickets) -> impl Fn(&Request<'_>) -> Decision + Send + Sync + 'static + use<> {
    let tickets = Arc::clone(tickets);
    move |request| {
        let (later, ticket) = Decision::later();
        tickets.lock().unwrap().push((request.path().to_owned(), ticket));
        later
    }
}

fn take(tickets: &Tickets, count: usize) -> Vec<(String, DecisionTicket)> {
    wait_for_state(|| tickets.lock().unwrap().len(), |taken| *taken >= count);
    std::mem::take(&mut *tickets.lock().unwrap())
}

/// With the admission on the engine's threads, and on its shards.
fn on_threads_and_on_shards(
    admission: impl Fn(&Request<'_>) -> Decision + Send + Sync + Clone + 'static,
) -> impl Iterator<Item = Builder> {
    TABLES.into_iter().flat_map(move |tables| {
        let builder = || Engine::builder().shards(1).descriptor_tables(tables);
        // SAFETY: these admissions use no descriptor.
        [builder().admission(admission.clone()), unsafe { builder().admission_on_shards(admission.clone()) }]
    })
}

#[test]
fn every_kind_of_decision_may_come_later() {
    let tickets = Tickets::default();
    let admission = collect(&tickets);
    let shared = Arc::new(admission);
    let admission = move |request: &Request<'_>| shared(request);
    for builder in on_threads_and_on_shards(admission) {
        let (engine, hub, address) = start(builder);
        let paths = ["/subscribe", "/refuse", "/answer", "/hand-over", "/drop", "/again"];
        let streams: Vec<TcpStream> = paths.iter().map(|path| ask(address, path)).collect();
        let mut decided = take(&tickets, paths.len());
        decided.sort_by_key(|(path, _)| paths.iter().position(|known| known == path));
        assert!(decided.iter().all(|(_, ticket)| ticket.is_wanted()));
        wait_for_counts(&hub, |counts| counts.undecided >= paths.len() as u64);
        for (path, ticket) in decided {
            match path.as_str() {
                "/subscribe" => ticket.decide(Decision::Subscribe(Subscribe::to([topic()]))),
                "/refuse" => ticket.decide(Decision::Refuse(Refusal::new(401, "sign in"))),
                "/answer" => ticket.decide(Decision::Answer(Answer::new(200, "fine\n"))),
                "/hand-over" => ticket.decide(Decision::HandOver),
                "/again" => {
                    let (later, another) = Decision::later();
                    ticket.decide(later);
                    assert!(another.is_wanted());
                    another.decide(Decision::Answer(Answer::new(200, "at last\n")));
                }
                _ => drop(ticket),
            }
        }
        let mut streams = streams.into_iter();
        let mut subscriber = opened(streams.next().unwrap());
        hub.publish(event("1")).unwrap();
        wait_for(&mut subscriber, "data: 1\n");
        let answers: Vec<String> = streams.map(read_all).collect();
        for (answer, (status, text)) in answers.iter().zip([
            (401, "sign in"),
            (200, "fine\n"),
            (404, "nothing is served"),
            (500, "did not decide"),
            (200, "at last\n"),
        ]) {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{answer}");
        }
        wait_for_counts(&hub, |counts| counts.undecided == 0);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// A decision may be there before the admission has given its part back.
#[test]
fn a_decision_may_be_early() {
    let admission = |request: &Request<'_>| {
        let (later, ticket) = Decision::later();
        match request.path() {
            "/forgets" => {
                drop(later);
                assert!(!ticket.is_wanted());
                ticket.decide(Decision::HandOver);
                Decision::Answer(Answer::new(200, "now\n"))
            }
            _ => {
                ticket.decide(Decision::Subscribe(Subscribe::to([topic()])));
                later
            }
        }
    };
    for builder in on_threads_and_on_shards(admission) {
        let (engine, _, address) = start(builder);
        drop(opened(ask(address, "/events")));
        assert!(read_all(ask(address, "/forgets")).ends_with("now\n"));
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// An admission that never decides: its requests are answered when their time is over, and their number is
/// bounded.
#[test]
fn requests_without_a_decision_are_answered_and_bounded() {
    let tickets = Tickets::default();
    let admission = Arc::new(collect(&tickets));
    let admission = move |request: &Request<'_>| admission(request);
    for builder in on_threads_and_on_shards(admission) {
        let limits = Limits::default().with_undecided(4).with_decision_time(Duration::from_millis(400));
        let (engine, hub, address) = start(builder.limits(limits));
        let first: Vec<TcpStream> = (0..4).map(|_| ask(address, "/")).collect();
        let held = take(&tickets, 4);
        wait_for_counts(&hub, |counts| counts.undecided >= 4);
        // At the bound the answer comes at once.
        let text = read_all(ask(address, "/"));
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("too many requests wait"), "{text}");
        for stream in first {
            let text = read_all(stream);
            assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("did not come in time"), "{text}");
        }
        assert!(held.iter().all(|(_, ticket)| !ticket.is_wanted()));
        for (_, ticket) in held {
            ticket.decide(Decision::Answer(Answer::new(200, "too late\n")));
        }
        // Tickets of requests that were answered take no room. This one may be late, too, where the machine
        // is busy.
        let ask_again = || {
            // Those of the request before, and of the one that was too many.
            tickets.lock().unwrap().clear();
            let next = ask(address, "/");
            take(&tickets, 1).into_iter().for_each(|(_, ticket)| {
                ticket.decide(Decision::Answer(Answer::new(200, "in time\n")));
            });
            read_all(next)
        };
        wait_for_state(ask_again, |answer| answer.ends_with("in time\n"));
        tickets.lock().unwrap().clear();
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// Clients that leave before the decision cost nothing afterwards. Half of them close, the others reset.
#[test]
fn a_client_may_leave_before_the_decision() {
    let tickets = Tickets::default();
    let admission = Arc::new(collect(&tickets));
    let admission = move |request: &Request<'_>| admission(request);
    for builder in on_threads_and_on_shards(admission) {
        let (engine, hub, address) = start(builder);
        let leaving: Vec<TcpStream> = (0..50).map(|_| ask(address, "/")).collect();
        let decided = take(&tickets, 50);
        for (number, stream) in leaving.into_iter().enumerate() {
            if number % 2 == 0 {
                reset(&stream);
            }
        }
        for (_, ticket) in decided {
            ticket.decide(Decision::Subscribe(Subscribe::to([topic()])));
        }
        let all_have_left = |counts: &Counts| {
            (counts.undecided, counts.connections, counts.pending, counts.accepted) == (0, 0, 0, 50)
        };
        let counts = wait_for_counts(&hub, all_have_left);
        // Each was decided about. A stream that was begun has ended.
        assert_eq!(counts.decisions_timed_out, 0);
        let ended: u64 = counts.closed().map(|(_, count)| count).sum();
        assert_eq!(counts.subscribed, ended);
        engine.stop(Duration::ZERO).unwrap();
    }
}

/// The next close of this socket resets the connection: its time to linger is zero.
fn reset(stream: &TcpStream) {
    let zero = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a valid `linger` of this length, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&zero).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// An event waited behind all decisions that had come before it. When a shard that was held up had 16,000 of
/// them, which it acts on 128 at a time, with newcomers in between, a small topic's events came a second
/// late.
#[test]
fn an_event_does_not_wait_behind_decisions() {
    /// More than a shard acts on in one tick.
    const CROWD: usize = 300;
    let tickets = Tickets::default();
    let collect = collect(&tickets);
    let (hold, held) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (holds, is_held) = (Arc::clone(&hold), Arc::clone(&held));
    let known: Arc<OnceLock<Hub>> = Arc::default();
    let hub_of_admission = Arc::clone(&known);
    let seen: Arc<Mutex<Option<Counts>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let admission = move |request: &Request<'_>| match request.path() {
        "/resident" => Decision::Subscribe(Subscribe::to([topic()])),
        "/hold" => {
            is_held.wait();
            holds.wait();
            Decision::Answer(Answer::new(200, "held\n"))
        }
        "/look" => {
            *sees.lock().unwrap() = hub_of_admission.get().map(Hub::counts);
            Decision::Answer(Answer::new(200, "seen\n"))
        }
        _ => collect(request),
    };
    // SAFETY: the tables are shared.
    let builder = unsafe { Engine::builder().shards(1).admission_on_shards(admission) };
    let (engine, hub, address) = start(builder);
    assert!(known.set(hub.clone()).is_ok());
    let mut resident = opened(ask(address, "/resident"));
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| ask(address, "/later")).collect();
    let decided = take(&tickets, CROWD);
    wait_for_counts(&hub, |counts| counts.undecided == CROWD as u64);

    // The shard stands still, and then finds everything at once.
    let holding = ask(address, "/hold");
    held.wait();
    for (_, ticket) in decided {
        ticket.decide(Decision::Subscribe(Subscribe::to([Topic::new("crowd").unwrap()])));
    }
    hub.publish(event("1")).unwrap();
    // Its request is seen a tick after the decisions and the event.
    let looking = ask(address, "/look");
    hold.wait();

    wait_for(&mut resident, "data: 1\n");
    assert!(read_all(looking).contains("seen"));
    let counts = seen.lock().unwrap().take().unwrap();
    assert_eq!(counts.deliveries, 1, "the event was sent");
    assert!(counts.subscribed < CROWD as u64, "and decisions still waited: {}", counts.subscribed);
    for stream in crowd {
        opened(stream);
    }
    assert!(read_all(holding).contains("held"));
    engine.stop(Duration::ZERO).unwrap();
}

/// An end of the engine while requests wait: their sockets are closed, and late decisions are dropped.
#[test]
fn an_engine_that_ends_forgets_undecided_requests() {
    let tickets = Tickets::default();
    let admission = Arc::new(collect(&tickets));
    let admission = move |request: &Request<'_>| admission(request);
    for builder in on_threads_and_on_shards(admission) {
        let (engine, hub, address) = start(builder);
        let waits = ask(address, "/");
        let (_, ticket) = take(&tickets, 1).pop().unwrap();
        wait_for_counts(&hub, |counts| counts.undecided != 0);
        engine.stop(Duration::ZERO).unwrap();
        assert_eq!(read_all(waits), "");
        assert!(!ticket.is_wanted());
        ticket.decide(Decision::HandOver);
    }
}

/// An admission that publishes in a loop gets "busy" or finds room; it may wait, since its thread is no
/// shard.
#[test]
fn an_admission_on_a_thread_may_wait_for_the_hub() {
    for tables in TABLES {
        let hub: Arc<OnceLock<Hub>> = Arc::default();
        let admission = {
            let hub = Arc::clone(&hub);
            move |request: &Request<'_>| {
                let hub = hub.get().unwrap();
                if request.path() == "/publishes" {
                    for number in 0..2000 {
                        hub.publish_wait(&mut vec![event(&format!("{number}"))], PATIENCE).unwrap();
                    }
                    assert_eq!(hub.topic(&topic(), PATIENCE).unwrap().unwrap().subscribers, 1);
                }
                Decision::Subscribe(Subscribe::to([topic()]))
            }
        };
        let limits = Limits::default().with_mailbox_events(8);
        let builder = Engine::builder().shards(1).limits(limits).descriptor_tables(tables);
        let (engine, its, address) = start(builder.admission(admission));
        assert!(hub.set(its).is_ok());
        let reader = opened(ask(address, "/events"));
        let second = opened(ask(address, "/publishes"));
        engine.stop(Duration::from_secs(1)).unwrap();
        drop(second);
        let text = read_all(reader);
        assert_eq!(text.lines().filter(|line| line.starts_with("data: ")).count(), 2000);
    }
}

/// An admission that stops its own engine: on a thread of the engine's this is like on any other thread.
#[test]
fn an_admission_on_a_thread_may_stop_its_engine() {
    let owned: Arc<Mutex<Option<Engine>>> = Arc::default();
    let (told, is_told) = mpsc::channel();
    let admission = {
        let owned = Arc::clone(&owned);
        move |request: &Request<'_>| {
            if request.path() == "/stops" {
                let engine = owned.lock().unwrap().take().unwrap();
                told.send(engine.stop(Duration::ZERO).is_ok()).unwrap();
            }
            Decision::Subscribe(Subscribe::to([topic()]))
        }
    };
    let (engine, hub, address) = start(Engine::builder().shards(2).admission(admission));
    *owned.lock().unwrap() = Some(engine);
    let stays = opened(ask(address, "/events"));
    let stops = ask(address, "/stops");
    assert!(is_told.recv_timeout(PATIENCE).unwrap());
    assert_eq!(read_all(stops), "");
    read_all(stays);
    assert_eq!(hub.publish(event("late")).unwrap_err().error, PublishError::Stopped);
}

/// Addresses are those of the clients, on both backends, wherever the admission runs.
#[test]
fn an_admission_sees_its_peers() {
    let seen: Arc<Mutex<BTreeSet<SocketAddr>>> = Arc::default();
    let admission = {
        let seen = Arc::clone(&seen);
        move |request: &Request<'_>| {
            seen.lock().unwrap().insert(request.peer().unwrap());
            assert!(format!("{request:?}").contains("/events"));
            Decision::Subscribe(Subscribe::to([topic()]))
        }
    };
    for backend in [Backend::Epoll, Backend::Auto] {
        for builder in on_threads_and_on_shards(admission.clone()) {
            let (engine, _, address) = start(builder.backend(backend));
            let streams: Vec<TcpStream> = (0..3).map(|_| opened(ask(address, "/events"))).collect();
            let peers: BTreeSet<SocketAddr> =
                streams.iter().map(|stream| stream.local_addr().unwrap()).collect();
            assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), peers);
            engine.stop(Duration::ZERO).unwrap();
        }
    }
}
