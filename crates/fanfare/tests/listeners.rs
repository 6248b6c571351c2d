//! Unix sockets, sockets that are open already, and those of systemd, on every backend and with both kinds of
//! tables.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{self, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use fanfare::listeners::{self, ActivationError};
use fanfare::{
    Backend, Builder, Decision, DescriptorTables, Engine, Event, Hub, LifeCycleEvent, Listener, Request,
    Subscribe, Topic,
};

/// So that a test whose answer does not come fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that ends with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fanfare-{}-{count}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Two shards on each backend, with both kinds of descriptor tables.
fn on_each(test: impl Fn(Builder)) {
    for backend in [Backend::Epoll, Backend::Auto] {
        for tables in [DescriptorTables::Shared, DescriptorTables::Auto] {
            test(Engine::builder().shards(2).backend(backend).descriptor_tables(tables));
        }
    }
}

fn ask<S: Read + Write>(mut stream: S, method: &str, path: &str) -> S {
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
    stream
}

fn connect(path: &Path) -> UnixStream {
    patient(UnixStream::connect(path).unwrap())
}

fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Subscribes, and waits until it is subscribed.
fn subscribed<S: Read + Write>(stream: S) -> S {
    let mut stream = ask(stream, "GET", "/events?topic=t");
    wait_for(&mut stream, "retry: ");
    wait_for(&mut stream, "\n\n");
    stream
}

fn wait_for(stream: &mut impl Read, text: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(text.as_bytes()) {
        let mut byte = [0];
        let read = stream.read_exact(&mut byte);
        read.unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&seen)));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

fn read_all(mut stream: impl Read) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn publish(hub: &Hub, data: impl Into<String>) {
    let mut events = vec![Event::new(Topic::new("t").unwrap()).with_data(data)];
    hub.publish_wait(&mut events, PATIENCE).unwrap();
}

fn error(builder: Builder) -> String {
    builder.start().expect_err("it does not start").to_string()
}

#[test]
fn a_unix_socket_is_served_beside_tcp() {
    on_each(|builder| {
        let directory = Directory::new();
        let path = directory.path("f.sock");
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let admit = move |request: &Request<'_>| {
            seen.lock().unwrap().push((request.peer(), request.proxy()));
            match Subscribe::from_request(request, 8) {
                Ok(subscribe) => Decision::Subscribe(subscribe),
                Err(error) => Decision::Refuse(error.into()),
            }
        };
        let builder = builder.admission(admit).life_cycle(100).listen("127.0.0.1:0".parse().unwrap());
        let mut engine = builder.listen_unix(&path, Some(0o640)).start().unwrap();
        let (hub, mut life_cycle) = (engine.hub(), engine.life_cycle().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(engine.addresses().len(), 1);
        assert_eq!(engine.unix_addresses()[0].as_pathname(), Some(path.as_path()));

        let remote = subscribed(tcp(engine.addresses()[0]));
        let local: Vec<UnixStream> = (0..20).map(|_| subscribed(connect(&path))).collect();
        let mut expected = vec![(Some(remote.local_addr().unwrap()), None)];
        expected.extend([(None, None); 20]);
        assert_eq!(*peers.lock().unwrap(), expected);
        let connected = std::iter::from_fn(|| life_cycle.next_wait(PATIENCE).ok().flatten());
        let connected = connected.filter_map(|event| match event {
            LifeCycleEvent::Connected(connected) => Some(connected.peer),
            _ => None,
        });
        assert_eq!(connected.take(21).flatten().collect::<Vec<_>>(), [remote.local_addr().unwrap()]);
        publish(&hub, "to all");
        engine.stop(Duration::ZERO).unwrap();
        assert!(read_all(remote).contains("data: to all\n"));
        for stream in local {
            assert!(read_all(stream).contains("data: to all\n"));
        }
        assert!(!path.exists(), "the file is removed");
    });
}

/// The kernel tells that a Unix socket has room again in another way than for TCP.
#[test]
fn a_slow_reader_on_a_unix_socket_gets_everything() {
    on_each(|builder| {
        let directory = Directory::new();
        let path = directory.path("f.sock");
        let engine = builder.listen_unix(&path, None).start().unwrap();
        let hub = engine.hub();
        let streams: Vec<UnixStream> = (0..40).map(|_| subscribed(connect(&path))).collect();
        let data = "x".repeat(1000);
        // More than the kernel's buffers hold.
        (0..1000).for_each(|number| publish(&hub, format!("{number} {data}")));
        publish(&hub, "last");
        for stream in streams {
            let lines = BufReader::new(stream).lines().map(Result::unwrap);
            let data = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
            let data: Vec<String> = data.take_while(|data| data != "last").collect();
            let numbers = data.iter().map(|data| data.split_once(' ').unwrap().0.parse::<usize>().unwrap());
            assert!(numbers.eq(0..1000));
        }
    });
}

/// Every request that is no subscription goes to another server, also one from a Unix socket.
#[test]
fn a_unix_socket_is_handed_over() {
    on_each(|builder| {
        let directory = Directory::new();
        let path = directory.path("f.sock");
        let mut engine = builder.hand_over(true).listen_unix(&path, None).start().unwrap();
        let mut hand_over = engine.hand_over().unwrap();
        let client = ask(connect(&path), "POST", "/other");
        let mut handed = hand_over.receive(Some(PATIENCE)).unwrap().unwrap();
        assert_eq!((handed.peer(), handed.proxy()), (None, None));
        assert!(handed.is_unix() && !handed.is_proxied());
        assert_eq!(handed.received, b"POST /other HTTP/1.0\r\nHost: h\r\n\r\n");
        handed.socket.write_all(b"HTTP/1.0 204 \r\n\r\n").unwrap();
        drop(handed);
        assert_eq!(read_all(client), "HTTP/1.0 204 \r\n\r\n");
    });
}

#[test]
fn a_socket_file_without_a_server_is_replaced_and_all_else_stays() {
    let directory = Directory::new();
    let stale = directory.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let engine = Engine::builder().shards(1).listen_unix(&stale, None).start().unwrap();
    subscribed(connect(&stale));
    // A second engine does not take it away.
    let text = error(Engine::builder().shards(1).listen_unix(&stale, None));
    assert!(text.contains("stale") && text.contains("a server listens there"), "{text}");
    subscribed(connect(&stale));
    drop(engine);
    assert!(!stale.exists());

    // A server whose queue is full is a server.
    let full = directory.path("full");
    let busy = UnixListener::bind(&full).unwrap();
    // SAFETY: no pointers are involved.
    assert_eq!(unsafe { libc::listen(busy.as_raw_fd(), 0) }, 0);
    let _waits = UnixStream::connect(&full).unwrap();
    let text = error(Engine::builder().shards(1).listen_unix(&full, None));
    assert!(text.contains("a server listens there"), "{text}");
    assert!(full.exists());

    let file = directory.path("file");
    fs::write(&file, "precious").unwrap();
    let link = directory.path("link");
    symlink(&full, &link).unwrap();
    for path in [&file, &link] {
        let text = error(Engine::builder().shards(1).listen_unix(path, None));
        assert!(text.contains(path.to_str().unwrap()) && text.contains("no socket"), "{text}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let datagrams = directory.path("datagrams");
    let _bound = UnixDatagram::bind(&datagrams).unwrap();
    let text = error(Engine::builder().shards(1).listen_unix(&datagrams, None));
    assert!(text.contains("another type"), "{text}");
    assert!(datagrams.exists());
}

#[test]
fn a_wrong_path_is_named() {
    let directory = Directory::new();
    let long = directory.path(&"x".repeat(200));
    for (path, mode, part) in [
        (PathBuf::new(), None, "no path"),
        (PathBuf::from("\0abstract"), None, "no path"),
        (long, None, "at most 107 bytes"),
        (directory.path("missing/f.sock"), None, "missing/f.sock"),
        (directory.path("f.sock"), Some(0o1777), "no mode 1777"),
    ] {
        let text = error(Engine::builder().shards(1).listen_unix(&path, mode));
        assert!(
            text.starts_with("cannot start: cannot listen on ") && text.contains(part),
            "{path:?}: {text}"
        );
    }
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0);
}

/// Both found the stale file; the second removed the file of the first, which then waited for connections
/// that no client could make.
#[test]
fn of_two_that_start_at_the_same_moment_one_listens() {
    let directory = Directory::new();
    for round in 0..100 {
        let path = directory.path(&format!("{round}"));
        drop(UnixListener::bind(&path).unwrap());
        let start = Barrier::new(4);
        let started: Vec<Engine> = thread::scope(|scope| {
            let starting: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let builder = Engine::builder().shards(1).listen_unix(&path, None);
                        start.wait();
                        builder.start().ok()
                    })
                })
                .collect();
            starting.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(started.len(), 1);
        subscribed(connect(&path));
    }
}

#[test]
fn a_file_that_is_not_the_engines_any_more_stays() {
    let directory = Directory::new();
    let (path, other) = (directory.path("f.sock"), directory.path("other"));
    let engine = Engine::builder().shards(1).listen_unix(&path, None).start().unwrap();
    let newer = UnixListener::bind(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    engine.stop(Duration::ZERO).unwrap();
    assert!(path.exists(), "it is the newer server's");
    drop(newer);
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let directory = Directory::new();
    let path = directory.path("f.sock");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = Engine::builder().shards(2).listen_unix(&path, None).listen(taken.local_addr().unwrap());
    assert!(error(builder).contains("in use"));
    assert!(!path.exists());
}

#[test]
fn a_name_without_a_file() {
    on_each(|builder| {
        let name = format!("fanfare/test/listeners/{}", process::id());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let engine = builder.listener(Listener::unix_abstract(name.as_str())).start().unwrap();
        assert_eq!(engine.unix_addresses()[0].as_abstract_name(), Some(name.as_bytes()));
        let stream = subscribed(patient(UnixStream::connect_addr(&address).unwrap()));
        let text = error(Engine::builder().shards(1).listener(Listener::unix_abstract(name.as_str())));
        assert!(text.contains(&name) && text.contains("in use"), "{text}");
        engine.stop(Duration::ZERO).unwrap();
        read_all(stream);
        // The kernel closes a listener a moment after the ring that accepts from it.
        let mut tries = (0..1000).map(|_| {
            thread::sleep(Duration::from_millis(10));
            UnixStream::connect_addr(&address)
        });
        let gone = tries.find_map(Result::err).expect("the name is free");
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
    });
    for (name, part) in [("", "empty"), (&*"x".repeat(108), "107")] {
        let text = error(Engine::builder().shards(1).listener(Listener::unix_abstract(name)));
        assert!(text.contains("abstract name") && text.contains(part), "{text}");
    }
}

#[test]
fn sockets_that_listen_already_are_taken_over() {
    on_each(|builder| {
        let directory = Directory::new();
        let path = directory.path("f.sock");
        let internet = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = UnixListener::bind(&path).unwrap();
        let shared = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared_address) = (internet.local_addr().unwrap(), shared.local_addr().unwrap());
        // These are in the queue before the engine is there.
        let early =
            [ask(tcp(address), "GET", "/events?topic=t"), ask(tcp(shared_address), "GET", "/events?topic=t")];
        let others = shared.try_clone().unwrap();
        let builder = builder.listener(internet).listener(local).listener(OwnedFd::from(shared));
        let engine = builder.start().unwrap();
        assert_eq!(engine.addresses(), [address, shared_address]);
        assert_eq!(engine.unix_addresses()[0].as_pathname(), Some(path.as_path()));

        let mut streams: Vec<Box<dyn Read>> = Vec::new();
        for mut stream in early {
            wait_for(&mut stream, "retry: ");
            streams.push(Box::new(stream));
        }
        for _ in 0..10 {
            streams.push(Box::new(subscribed(tcp(address))));
            streams.push(Box::new(subscribed(tcp(shared_address))));
            streams.push(Box::new(subscribed(connect(&path))));
        }
        publish(&engine.hub(), "to all");
        engine.stop(Duration::ZERO).unwrap();
        for stream in streams {
            assert!(read_all(stream).contains("data: to all\n"));
        }
        // No copy of a listener is left behind in another table: clients would wait there for ever.
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // Its file was there before the engine, and another process that shares a socket goes on with it.
        assert!(path.exists());
        let waits = TcpStream::connect(shared_address).unwrap();
        others.set_nonblocking(false).unwrap();
        assert_eq!(others.accept().unwrap().1, waits.local_addr().unwrap());
    });
}

#[test]
fn a_socket_that_accepts_nothing_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    for (socket, part) in [
        (OwnedFd::from(stream), "does not listen"),
        (pair.into(), "does not listen"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "no stream socket"),
        (fs::File::open("/dev/null").unwrap().into(), "no socket"),
    ] {
        let text = error(Engine::builder().shards(1).listen("127.0.0.1:0".parse().unwrap()).listener(socket));
        assert!(text.contains("cannot accept on the listener 2: ") && text.contains(part), "{text}");
    }
}

/// All shards accept on one socket, and each connection wakes the next one.
#[test]
fn connections_of_one_socket_are_spread_over_all_shards() {
    const CONNECTIONS: usize = 100;
    for backend in [Backend::Epoll, Backend::Auto] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let builder = Engine::builder().shards(4).backend(backend).life_cycle(1000).listener(listener);
        let mut engine = builder.start().unwrap();
        let mut life_cycle = engine.life_cycle().unwrap();
        let streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| subscribed(tcp(address))).collect();
        let mut counts = [0; 4];
        while counts.iter().sum::<usize>() < CONNECTIONS {
            if let LifeCycleEvent::Connected(connected) = life_cycle.next_wait(PATIENCE).unwrap().unwrap() {
                let name = connected.connection.to_string();
                let shard = name.split('-').nth(1).unwrap();
                counts[shard.parse::<usize>().unwrap()] += 1;
            }
        }
        println!("{counts:?}");
        assert!(counts.iter().all(|count| *count >= CONNECTIONS / 20), "{counts:?}");
        drop(streams);
    }
}

// ---- systemd

/// Runs a test of this file in a process to which these sockets are passed as systemd does it.
fn with_passed_sockets(test: &str, sockets: [OwnedFd; 2], variables: &str, body: impl FnOnce()) {
    const CHILD: &str = "FANFARE_TEST_CHILD";
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return body();
    }
    let mut command = Command::new("sh");
    // The shell moves them to where systemd opens them. To do this before it runs could hit a descriptor of
    // `Command`.
    let run = format!("exec 3<&0 4<&2 </dev/null 2>&1; {variables} exec \"$0\" \"$@\"");
    command.args(["-c", &run]).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let [first, second] = sockets;
    command.env(CHILD, test).stdin(first).stderr(second);
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
}

#[test]
fn sockets_of_systemd_are_served() {
    let name = format!("fanfare/test/systemd/{}", process::id());
    let local = UnixListener::bind_addr(&net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let sockets = [TcpListener::bind("127.0.0.1:0").unwrap().into(), local.into()];
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:local";
    with_passed_sockets("sockets_of_systemd_are_served", sockets, variables, || {
        let builder = Engine::builder().shards(2).descriptor_tables(DescriptorTables::Auto);
        let engine = builder.systemd_sockets().start().unwrap();
        subscribed(tcp(engine.addresses()[0]));
        let address = &engine.unix_addresses()[0];
        subscribed(patient(UnixStream::connect_addr(address).unwrap()));
        assert_eq!(listeners::from_systemd().unwrap_err(), ActivationError::Taken);
        let text = error(Engine::builder().shards(1).systemd_sockets());
        assert_eq!(text, "cannot take the sockets of systemd: the sockets of systemd were taken before");
    });
}

#[test]
fn sockets_of_systemd_have_names_and_do_not_go_to_children() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().into());
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:api";
    with_passed_sockets(
        "sockets_of_systemd_have_names_and_do_not_go_to_children",
        sockets,
        variables,
        || {
            let passed = listeners::from_systemd().unwrap();
            let names: Vec<&str> = passed.iter().map(|socket| socket.name.as_str()).collect();
            assert_eq!(names, ["web", "api"]);
            let listing = Command::new("sh").args(["-c", "ls -l /proc/self/fd"]).output().unwrap();
            let listing = String::from_utf8(listing.stdout).unwrap();
            let inherited = listing.lines().filter(|line| line.contains("socket:")).count();
            assert_eq!(inherited, 0, "{listing}");
        },
    );
}

#[test]
fn what_is_wrong_with_systemds_sockets_is_named() {
    let sockets =
        [TcpListener::bind("127.0.0.1:0").unwrap().into(), UdpSocket::bind("127.0.0.1:0").unwrap().into()];
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:dns";
    with_passed_sockets("what_is_wrong_with_systemds_sockets_is_named", sockets, variables, || {
        let text = error(Engine::builder().shards(1).systemd_sockets());
        let expected =
            "cannot start: cannot accept on the socket 2 from systemd (\"dns\"): it is no stream socket";
        assert_eq!(text, expected);
    });
}

#[test]
fn a_process_that_systemd_has_not_started_has_none() {
    let text = error(Engine::builder().shards(1).systemd_sockets());
    assert!(text.contains("not started by a .socket unit"), "{text}");
}

#[test]
fn a_passed_descriptor_that_is_closed_is_named() {
    let variables = "LISTEN_PID=$$ LISTEN_FDS=3000";
    let sockets = [(); 2].map(|()| fs::File::open("/dev/null").unwrap().into());
    with_passed_sockets("a_passed_descriptor_that_is_closed_is_named", sockets, variables, || {
        let number = match listeners::from_systemd().unwrap_err() {
            ActivationError::NotOpen { number } => number,
            error => panic!("{error}"),
        };
        let text = error(Engine::builder().shards(1).systemd_sockets());
        assert!(text.contains(&format!("the descriptor {number}, which is not open")), "{text}");
    });
}
