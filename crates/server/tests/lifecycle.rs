//! How the server starts and ends.

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};
use std::thread;

use support::server::{Guard, arguments, fanfare, run};
use support::{
    Backend, CONTROL_PATH, Connection, End, Item, Server, Subscriber, eventually, now, on_both_backends,
};

/// Checks that what a stream ends with is a retry in a chunk of its own, and gives the events before it.
fn expect_polite_end(mut subscriber: Subscriber, retry_ms: u64) -> Vec<String> {
    let (mut items, end) = subscriber.read_to_end();
    assert_eq!(end, End::Whole);
    let Some(Item::Retry(retry)) = items.pop() else { panic!("no retry at the end: {items:?}") };
    assert!((retry_ms..=retry_ms * 3 / 2).contains(&retry), "{retry}");
    let last_line = format!("retry: {retry}\n");
    assert!(subscriber.body.ends_with(format!("\n{last_line}").as_bytes()));
    if let [.., before, last] = subscriber.chunk_ends[..] {
        assert_eq!(last - before, last_line.len(), "the retry is a chunk of its own");
    }
    let event = |item| match item {
        Item::Event(event) => Some(event.data),
        _ => None,
    };
    items.into_iter().filter_map(event).collect()
}

on_both_backends! {
    fn a_port_in_use_is_named_and_the_exit_code_is_1(backend) {
        let server = Server::start(backend);
        let mut second = fanfare();
        second.args(["--backend", &backend.to_string(), "--listen", &server.address.to_string()]);
        let ran = run(second, "");
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(&server.address.to_string()), "{ran:?}");
        assert!(ran.stderr.contains("in use"), "{ran:?}");
        assert_eq!(ran.stdout, "");
        server.expect_health();
    }

    /// Of 40 pairs of servers that started on one port at the same moment, both ran in four: subscribers of
    /// one missed what the other one acknowledged.
    fn of_servers_that_start_at_the_same_moment_one_runs(backend) {
        for _ in 0..20 {
            // A port of an address that no other test has.
            let own = if backend == Backend::Epoll { "127.0.7.1:0" } else { "127.0.7.2:0" };
            let free = TcpListener::bind(own).expect("it is free");
            let address = free.local_addr().expect("it listens").to_string();
            drop(free);
            let servers: Vec<Child> = (0..4)
                .map(|_| {
                    let mut command = fanfare();
                    command.args(["--backend", &backend.to_string(), "--listen", &address, "--shards", "2"]);
                    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                    command.spawn().expect("the program is there")
                })
                .collect();
            let mut running = Vec::new();
            for mut server in servers {
                let mut line = String::new();
                let output = server.stdout.take().expect("it is piped");
                BufReader::new(output).read_line(&mut line).expect("text");
                if line.contains("is listening on") {
                    running.push(Guard(server));
                    continue;
                }
                let ended = server.wait_with_output().expect("it is our child");
                let error = String::from_utf8_lossy(&ended.stderr);
                assert_eq!(ended.status.code(), Some(1), "{error}");
                assert!(error.contains(&address) && error.contains("in use"), "{error}");
            }
            assert_eq!(running.len(), 1, "so many run on {address}");
        }
    }

    fn the_server_listens_on_every_address_it_is_given(backend) {
        let options = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
        let server = Server::start_with(backend, &options);
        let mut subscriber = server.subscribe("topic=a");
        server.publish("a", "1");
        assert_eq!(subscriber.event().data, "1");
    }

    fn the_server_listens_on_ipv6(backend) {
        let server = Server::start_with(backend, &["--listen", "[::1]:0"]);
        assert!(server.address.is_ipv6());
        // By its address as browsers write it, for the shard and for the control plane.
        let host = format!("[::1]:{}", server.port());
        let mut subscriber = server.subscribe_with("topic=a", &[("Host", &host)]);
        let origin = format!("http://{host}");
        let fields = [("Host", host.as_str()), ("Origin", origin.as_str())];
        let response = server.connect().post_with("application/json", r#"{"topic":"a","data":"1"}"#, &fields);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(subscriber.event().data, "1");
        server.expect_health();
    }

    fn pinned_shards_have_a_core_of_their_own(backend) {
        let free = Server::start_with(backend, &["--shards", "1"]);
        let cores = free.cores_of_shards();
        let [all] = &cores[..] else { panic!("one shard: {cores:?}") };
        let server = Server::start_with(backend, &["--shards", "2", "--pin"]);
        let mut pinned = server.cores_of_shards();
        assert_eq!(pinned.len(), 2);
        assert!(pinned.iter().all(|core| core.parse::<usize>().is_ok()), "{pinned:?}");
        pinned.dedup();
        let several = all.parse::<usize>().is_err();
        assert_eq!(pinned.len(), if several { 2 } else { 1 }, "{pinned:?} of {all}");
        server.expect_health();
    }

    fn shards_have_descriptor_tables_of_their_own_unless_told_otherwise(backend) {
        for (options, seen) in [(&[][..], 0), (&["--descriptor-tables", "shared"][..], 20)] {
            let server = Server::start_with(backend, options);
            let before = server.sockets_of_main_thread();
            let mut subscribers: Vec<Subscriber> = (0..20).map(|_| server.subscribe("topic=a")).collect();
            let id = server.publish("a", "1");
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.event().id, id);
            }
            // The connection that published is the control plane's for a moment.
            eventually(&format!("the main thread sees {seen} more sockets with {options:?}"), || {
                (server.sockets_of_main_thread() == before + seen).then_some(())
            });
            server.expect_health();
        }
    }

    fn the_server_raises_its_limit_of_descriptors_and_says_so(backend) {
        let server = Server::start_with_soft_limit(backend, 200);
        server.expect_log("RLIMIT_NOFILE was raised");
        let _subscribers: Vec<Subscriber> = (0..300).map(|_| server.subscribe("topic=a")).collect();
        server.expect_health();
    }

    fn a_drain_ends_streams_between_events_and_after_all_that_was_published(backend) {
        const EVENTS: usize = 1000;
        let mut server = Server::start_with(backend, &["--drain", "1s", "--retry", "3s"]);
        let mut subscribers: Vec<Subscriber> = (0..60)
            .map(|number| match number % 3 {
                0 => server.subscribe_with("topic=a", &[("Connection", "close")]),
                _ => server.subscribe("topic=a"),
            })
            .collect();
        let idle = server.subscribe("topic=idle");
        server.publish("a", "first");
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.event().data, "first");
        }
        let events: Vec<_> = (0..EVENTS)
            .map(|number| serde_json::json!({ "topic": "a", "data": format!("{number} {}", "x".repeat(40)) }))
            .collect();
        server.publisher().publish_all(&events);
        server.signal("TERM");
        for subscriber in subscribers {
            let seen = expect_polite_end(subscriber, 3000);
            assert_eq!(seen.len(), EVENTS);
            for (number, data) in seen.iter().enumerate() {
                assert!(data.starts_with(&format!("{number} ")), "{data} where {number} was to come");
            }
        }
        assert_eq!(expect_polite_end(idle, 3000), [] as [&str; 0]);
        assert_eq!(server.wait().code(), Some(0));
        assert!(server.log().contains("draining"), "{}", server.log());
    }

    fn a_drain_is_spread_over_its_window(backend) {
        let mut server = Server::start_with(backend, &["--drain", "2s"]);
        let subscribers: Vec<Subscriber> = (0..20).map(|_| server.subscribe("topic=a")).collect();
        let began = now();
        server.signal("INT");
        let mut ends: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = subscribers
                .into_iter()
                .map(|subscriber| {
                    scope.spawn(move || {
                        expect_polite_end(subscriber, 2000);
                        began.elapsed()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("its message is above")).collect()
        });
        ends.sort();
        // A slow machine is late, but never early.
        assert!(ends[19] > std::time::Duration::from_secs(1), "all were cut together: {ends:?}");
        assert_eq!(server.wait().code(), Some(0));
    }

    fn a_drain_does_not_wait_for_those_who_do_not_read(backend) {
        let mut server = Server::start_with(backend, &["--drain", "500ms", "--send-buffer", "4KiB"]);
        let mut stuck = server.ask_with_small_buffer("topic=a", 2048);
        stuck.read_head();
        let half_a_head = {
            let mut connection = server.connect();
            connection.send("GET /events");
            connection
        };
        let mut publisher = server.publisher();
        for _ in 0..50 {
            publisher.publish("a", &"x".repeat(20_000));
        }
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        drop(half_a_head);
        // It was cut in the middle of an event, and so without the last chunk.
        let (_, end) = Subscriber::read_to_end(&mut stream_of(stuck));
        assert_ne!(end, End::Whole);
    }

    fn without_subscribers_a_drain_is_over_at_once(backend) {
        let mut server = Server::start_with(backend, &["--drain", "10m"]);
        server.expect_health();
        server.expect_subscribers("health-of-the-server", 0);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }

    fn while_it_drains_a_server_is_not_ready_and_takes_no_more(backend) {
        let mut server = Server::start_with(backend, &["--drain", "10m"]);
        let _holds_it = (server.subscribe("topic=a"), server.subscribe("topic=a"));
        let mut control = server.connect();
        assert_eq!(control.request("GET", CONTROL_PATH, &[]).status, 200);
        let ready = control.request("GET", "/health/ready", &[]);
        assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
        server.signal("TERM");
        eventually("it is not ready", || {
            let answer = control.request("GET", "/health/ready", &[]);
            (answer.status == 503).then(|| assert_eq!(answer.text(), "draining\n"))
        });
        assert_eq!(control.request("GET", "/health/live", &[]).status, 200);
        eventually("a publish is refused", || {
            let answer = control.post("application/x-www-form-urlencoded", "topic=a&data=x");
            (answer.status != 200).then(|| answer.problem(503))
        });
        eventually("nobody new gets in", || TcpStream::connect(server.address).is_err().then_some(()));
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(128 + 15), "the second signal stops at once");
    }

    /// A terminal that was closed cut every stream: the signal's default is death without a drain. So did the
    /// signals by which operators ask for new log files.
    fn other_signals_are_ignored_with_a_line_of_the_log(backend) {
        let mut server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        for name in ["HUP", "USR1", "USR2"] {
            server.signal(name);
            let line = format!("SIG{name} is ignored");
            eventually("the log says so", || server.log().contains(&line).then_some(()));
            server.publish("a", name);
            assert_eq!(subscriber.event().data, name);
        }
        // Nor do they count as the second signal, which ends a drain.
        server.signal("TERM");
        server.signal("HUP");
        expect_polite_end(subscriber, 2000);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// One request with a wrong Host ended the server, because the line about it could not be written.
    fn a_log_that_nobody_reads_any_more_ends_nothing(backend) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut command = fanfare();
        command.args(arguments(backend, &["--access-log", "--admin", "127.0.0.1:0"]));
        let mut server = Server::run_with_log(command, writer);
        drop(reader);
        let mut subscriber = server.subscribe("topic=a");
        for _ in 0..3 {
            server.connect().request("GET", "/", &[("Host", "evil.example")]).problem(421);
        }
        let admin = server.admin_address();
        Connection::open(admin).request("GET", "/", &[("Host", "evil.example")]).problem(421);
        eventually("the lost lines are counted", || {
            let metrics = Connection::open(admin).request("GET", "/metrics", &[("Host", "localhost")]).text();
            let mut lines = metrics.lines();
            let lost = lines.find_map(|line| line.strip_prefix("fanfare_log_lines_lost_total "));
            // The lines of the requests, and those of the main thread about the names.
            (lost.expect("it is there").parse::<f64>().expect("a number") > 5.0).then_some(())
        });
        server.publish("a", "on");
        assert_eq!(subscriber.event().data, "on");
        server.signal("TERM");
        expect_polite_end(subscriber, 2000);
        assert_eq!(server.wait().code(), Some(0));
    }

    /// Publishes that were refused waited for the reader of the log, and so did everything else then.
    fn a_log_whose_reader_stands_still_holds_nothing_up(backend) {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        // SAFETY: this call sets and gives the size of an open pipe.
        let room = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        let filling = vec![b'x'; usize::try_from(room).expect("the size of the pipe")];
        writer.write_all(&filling).expect("there is room for so much");
        let start = |writer| {
            let mut command = fanfare();
            command.args(arguments(backend, &["--access-log"]));
            Server::run_with_log(command, writer)
        };
        let mut server = start(writer.try_clone().expect("a descriptor"));
        let form = "application/x-www-form-urlencoded";
        let mut connection = server.connect();
        for number in 0..40 {
            connection.post(form, "data=x").problem(400);
            server.publish("a", &number.to_string());
        }
        server.connect().request("GET", "/", &[("Host", "evil.example")]).problem(421);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));

        // The lines come when the reader goes on, in their order, and the last ones before the end.
        let mut server = start(writer);
        server.connect().post(form, "data=x").problem(400);
        server.publish("a", "x");
        let log = thread::spawn(move || {
            let mut log = Vec::new();
            reader.read_to_end(&mut log).map(|_| String::from_utf8_lossy(&log).into_owned())
        });
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
        let log = log.join().expect("no panic").expect("it can be read");
        let places = ["memory_at_most", "a publish was refused", "draining;", "stopped;"].map(|text| log.find(text));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{log}");
        assert!(!log.contains("lines of the log were lost"), "{log}");
    }

    /// On the same port, while the old server's connections are still in TIME-WAIT.
    fn after_a_restart_old_ids_are_a_gap(backend) {
        let mut old = Server::start_apart(backend, &["--drain", "100ms"]);
        let mut subscriber = old.subscribe("topic=a");
        let id = old.publish("a", "before");
        assert_eq!(subscriber.event().id, id);
        let address = old.address.to_string();
        old.signal("TERM");
        assert_eq!(old.wait().code(), Some(0));
        assert_eq!(subscriber.read_to_end().1, End::Whole);

        let new = Server::start_with(backend, &["--listen", &address]);
        let after = new.publish("a", "after");
        assert_ne!(id, after, "another life of the log");
        new.settle();
        let mut subscriber = new.subscribe_with("topic=a", &[("Last-Event-ID", &id)]);
        assert_eq!(subscriber.header("Fanfare-Gap"), Some("true"));
        let gap = subscriber.event();
        assert_eq!(gap.kind, "fanfare.gap");
        assert_eq!(gap.data, format!(r#"{{"after":"{id}","before":"{after}"}}"#));
        assert_eq!(subscriber.event().data, "after");
    }

    fn a_killed_server_cuts_its_streams_without_an_end(backend) {
        let mut server = Server::start(backend);
        let mut subscriber = server.subscribe("topic=a");
        server.publish("a", "1");
        assert_eq!(subscriber.event().data, "1");
        server.kill();
        assert_ne!(subscriber.read_to_end().1, End::Whole);
    }

    fn streams_end_at_their_age(backend) {
        let server = Server::start_with(backend, &["--max-age", "1s", "--heartbeat", "200ms"]);
        let began = now();
        let subscriber = server.subscribe("topic=a");
        assert_eq!(expect_polite_end(subscriber, 2000), [] as [&str; 0]);
        assert!(began.elapsed() >= std::time::Duration::from_millis(600), "{:?}", began.elapsed());
        server.expect_subscribers("a", 0);
    }
}

/// A subscriber on a connection whose head was read already.
fn stream_of(mut connection: support::Connection) -> Subscriber {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bytes.append(&mut connection.received);
    connection.received = bytes;
    Subscriber::on(connection)
}
