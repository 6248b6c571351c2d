//! `--listen unix:PATH` and `--listen systemd`.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use support::server::{arguments, fanfare, run};
use support::{Backend, Connection, PATIENCE, Server, Subscriber, http, on_both_backends};

/// A path that no other test has.
fn socket_path(name: &str, backend: Backend) -> PathBuf {
    std::env::temp_dir().join(format!("fanfare-{}-{name}-{backend}", process::id()))
}

fn connect(path: &Path) -> Connection {
    let stream = UnixStream::connect(path).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Connection { stream: TcpStream::from(OwnedFd::from(stream)), received: Vec::new() }
}

fn subscribe(path: &Path, host: &str) -> Subscriber {
    let mut connection = connect(path);
    connection.send(http::head("GET", "/events?topic=a", &[("Host", host)]));
    Subscriber::on(connection)
}

on_both_backends! {
    fn a_unix_socket_offers_all_that_tcp_does(backend) {
        let path = socket_path("all", backend);
        let unix = format!("unix:{}", path.display());
        let options = ["--listen", "127.0.0.1:0", "--listen", &unix, "--unix-mode", "600", "--drain", "100ms"];
        let mut server = Server::start_with(backend, &options);
        let mode = fs::metadata(&path).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut remote = server.subscribe("topic=a");
        // By the name that curl uses, too.
        let mut local = [subscribe(&path, "fanfare.test"), subscribe(&path, "localhost")];

        let mut connection = connect(&path);
        let response = connection.post("application/json", r#"{"topic":"a","data":"1"}"#);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
        assert_eq!(connection.request("GET", "/health/live", &[("Host", "elsewhere.test")]).status, 200);
        // The control plane gives the socket to a shard.
        connection.send(http::head("GET", "/events?topic=a", &[]));
        let mut adopted = Subscriber::on(connection);
        server.publish("a", "2");
        assert_eq!(adopted.event().data, "2");
        for subscriber in local.iter_mut().chain([&mut remote]) {
            assert_eq!((subscriber.event().data, subscriber.event().data), ("1".to_owned(), "2".to_owned()));
        }
        let refused = connect(&path).request("GET", "/events?topic=a", &[("Host", "elsewhere.test")]);
        assert_eq!(refused.status, 421);

        server.signal("TERM");
        assert!(server.wait().success());
        assert!(!path.exists(), "the file is removed");
    }

    fn a_server_that_was_killed_leaves_a_file_that_the_next_one_replaces(backend) {
        let path = socket_path("killed", backend);
        let unix = format!("unix:{}", path.display());
        let options = ["--listen", "127.0.0.1:0", "--listen", unix.as_str()];
        let mut first = Server::start_with(backend, &options);
        let mut command = fanfare();
        command.args(arguments(backend, &options));
        let ran = run(command, "");
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let text = format!("cannot listen on {}: a server listens there", path.display());
        assert!(ran.stderr.contains(&text), "{ran:?}");
        subscribe(&path, "fanfare.test");
        first.kill();
        assert!(path.exists());
        let mut second = Server::start_with(backend, &options);
        subscribe(&path, "fanfare.test");
        second.signal("TERM");
        second.wait();
        assert!(!path.exists());
    }

    fn sockets_of_systemd_are_listened_on(backend) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let mut command = Command::new("sh");
        // Systemd opens the socket where the process expects it, and the process inherits it.
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_fanfare")]);
        command.args(["--backend", &backend.to_string(), "--shards", "2", "--listen", "systemd"]);
        let server = Server::run_with_input(command, OwnedFd::from(listener).into());
        assert_eq!(server.address, address);
        // It answers to the address of the socket.
        let mut subscriber = server.subscribe_with("topic=a", &[("Host", &address.to_string())]);
        let body = r#"{"topic":"a","data":"1"}"#;
        let response = server.connect().post_with("application/json", body, &[("Host", &address.to_string())]);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(subscriber.event().data, "1");
    }
}

#[test]
fn where_it_cannot_listen_is_said() {
    for (arguments, code, part) in [
        (&["--listen", "systemd"][..], 1, "this program was not started by a .socket unit of systemd"),
        (&["--listen", "unix:/missing/f.sock"], 1, "cannot listen on /missing/f.sock: "),
        (&["--listen", "unix:/dev/null"], 1, "/dev/null: there is a file that is no socket"),
        (&["--listen", "unix:"], 2, "write a path behind unix:"),
        (
            &["--listen", "localhost:80"],
            2,
            "write an IP address and a port such as 127.0.0.1:8844, the path of a Unix",
        ),
        (&["--unix-mode", "rw"], 2, "write octal digits such as 660"),
    ] {
        let mut command = fanfare();
        command.args(arguments);
        let ran = run(command, "");
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(part), "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}
