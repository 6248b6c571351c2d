//! Notifications to systemd (`Type=notify`); the test is the service manager: sd_notify(3).

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{env, fs, process};

use support::file::ConfigFile;
use support::server::{arguments, fanfare, limited};
use support::{Backend, PATIENCE, Server, on_both_backends};

/// The socket to which the server writes.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Manager {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("fanfare-notify-{}-{next}", process::id()));
        let socket = UnixDatagram::bind(&path).expect("the folder for temporary files takes it");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager { socket, path }
    }

    fn start(&self, backend: Backend, options: &[&str], watchdog_usec: Option<u64>) -> Server {
        let mut command = fanfare();
        command.args(arguments(backend, options)).env("NOTIFY_SOCKET", &self.path);
        match watchdog_usec {
            Some(time) => command.env("WATCHDOG_USEC", time.to_string()),
            None => command.env_remove("WATCHDOG_USEC"),
        };
        command.env_remove("WATCHDOG_PID");
        Server::run_with_input(command, Stdio::null())
    }

    /// Sends messages of its own until there is no room for one more.
    fn fill(&self) {
        let other = UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("it can be set");
        while other.send_to(b"filling", &self.path).is_ok() {}
    }

    /// The lines of the next message.
    fn message(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).expect("a message in time");
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// Passes over messages until one has this line.
    fn expect(&self, line: &str) -> Vec<String> {
        let deadline = support::now() + PATIENCE;
        loop {
            let message = self.message();
            if message.iter().any(|other| other == line) {
                return message;
            }
            assert!(support::now() < deadline, "no message says {line:?}");
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

on_both_backends! {
    fn systemd_is_told_of_the_start_of_connections_and_of_the_end(backend) {
        let manager = Manager::new();
        let mut server = manager.start(backend, &["--drain", "2s"], Some(2_000_000));
        assert_eq!(manager.message(), ["READY=1", "STATUS=0 connections"]);
        for _ in 0..3 {
            assert_eq!(manager.message(), ["WATCHDOG=1"]);
        }
        let subscriber = server.subscribe("topic=a");
        assert_eq!(manager.expect("STATUS=1 connection"), ["WATCHDOG=1", "STATUS=1 connection"]);
        server.signal("TERM");
        assert_eq!(
            manager.expect("STOPPING=1"),
            [
                "STOPPING=1",
                "EXTEND_TIMEOUT_USEC=12000000",
                "STATUS=draining 1 connection",
                "WATCHDOG_USEC=12000000",
            ]
        );
        drop(subscriber);
        assert!(server.wait().success());
    }

    fn systemd_is_told_of_a_reload_and_of_its_outcome(backend) {
        let manager = Manager::new();
        let file = ConfigFile::new("[streams]\nheartbeat = '9s'\n");
        let server = manager.start(backend, &["--config", &file.name()], None);
        assert_eq!(manager.message(), ["READY=1", "STATUS=0 connections"]);
        for (text, status) in [
            ("[streams]\nheartbeat = '8s'\n", "STATUS=configuration read again; changed: heartbeat"),
            ("[streams]\nheartbeat = 'x'\n",
                "STATUS=the configuration stays as it was, because a file is wrong; see the log"),
            ("[server]\nbackend = 'auto'\n[streams]\nheartbeat = '8s'\n",
                "STATUS=configuration read again; changed: nothing"),
        ] {
            file.write(text);
            server.signal("HUP");
            // Without a watchdog there is no other message.
            let message = manager.message();
            let [reloading, time] = &message[..] else { panic!("{message:?}") };
            assert_eq!(reloading, "RELOADING=1");
            let time = time.strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
            assert!(time.parse::<u64>().expect("a number") > 0);
            assert_eq!(manager.message(), ["READY=1", status]);
        }
        server.expect_health();
    }

    /// A server that waits for its service manager would not serve.
    fn a_service_manager_that_is_gone_is_reported_and_no_reason_not_to_serve(backend) {
        let manager = Manager::new();
        fs::remove_file(&manager.path).expect("it is there");
        let server = manager.start(backend, &[], Some(1000));
        server.expect_log("the service manager (NOTIFY_SOCKET) cannot be notified");
        server.expect_log("WatchdogSec= of 1ms is too short");
        server.expect_health();
    }

    /// The main thread waited for room in the socket: there was no reload and no stop any more.
    fn a_service_manager_that_does_not_read_holds_nothing_up(backend) {
        let manager = Manager::new();
        manager.fill();
        let file = ConfigFile::new("[streams]\nheartbeat = '9s'\n");
        let options = ["--config", &file.name(), "--drain", "20s"];
        let mut server = manager.start(backend, &options, Some(2_000_000));
        server.expect_log("the service manager does not read its socket");
        server.expect_health();
        // What it has missed comes when it reads.
        assert_eq!(manager.expect("READY=1"), ["READY=1", "STATUS=0 connections"]);
        manager.expect("WATCHDOG=1");
        manager.fill();
        for (count, heartbeat) in [(1, "8s"), (2, "7s")] {
            file.write(&format!("[streams]\nheartbeat = '{heartbeat}'\n"));
            server.signal("HUP");
            support::eventually("the file is read again", || {
                let times = server.log().matches("the configuration was read again").count();
                (times == count).then_some(())
            });
        }
        manager.expect("RELOADING=1");
        manager.expect("STATUS=configuration read again; changed: heartbeat");
        manager.fill();
        let subscriber = server.subscribe("topic=a");
        server.signal("TERM");
        server.expect_log("draining; a second signal stops at once");
        manager.expect("STOPPING=1");
        drop(subscriber);
        assert!(server.wait().success());

        let manager = Manager::new();
        manager.fill();
        let mut server = manager.start(backend, &["--drain", "20s"], None);
        let _subscriber = server.subscribe("topic=a");
        server.signal("TERM");
        server.expect_log("draining; a second signal stops at once");
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(128 + 15));
    }

    /// A unit without `LimitNOFILE=` has 1,024 descriptors on many systems.
    fn a_server_with_few_descriptors_says_how_many_connections_it_holds(backend) {
        let options = ["--shards", "1", "--descriptor-tables", "shared"];
        let few = |more: &[&str]| {
            let command = limited("-n 1024", &arguments(backend, &[&options[..], more].concat()));
            Server::run_with_input(command, Stdio::null())
        };
        let line = |server: &Server| {
            let log = server.expect_log("RLIMIT_NOFILE has room for fewer connections");
            let mut lines = log.lines().filter(|line| line.contains("RLIMIT_NOFILE"));
            lines.next().expect("a line").to_owned()
        };
        let by_default = line(&few(&[]));
        assert!(by_default.contains("INFO") && by_default.contains("limit=1024"), "{by_default}");
        assert!(by_default.contains("connections=960"), "{by_default}");
        let asked = line(&few(&["--max-connections", "5000"]));
        assert!(asked.contains("WARN") && asked.contains("connections=960"), "{asked}");
        let enough = few(&["--max-connections", "500"]);
        let log = enough.expect_log("memory_at_most");
        assert!(!log.contains("has room for fewer connections"), "{log}");
    }
}
