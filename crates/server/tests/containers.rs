//! The server in containers whose profiles forbid system calls, tried with real filters.

mod support;

use support::server::{fanfare, forbid, run};
use support::{Backend, Server};

const IO_URING: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// What the log says of each fallback.
const SHARED_TABLE: &str = "private descriptor tables cannot be used";
const EPOLL: &str = "io_uring cannot be used";

/// Starts the server with its defaults where these calls are forbidden, expects that it delivers, and that its log has
/// one line for each of these fallbacks.
fn expect_delivery(forbidden: &[libc::c_long], fallbacks: &[&str]) {
    let server = Server::start_forbidden(forbidden, &[]);
    let before = server.sockets_of_main_thread();
    let mut subscribers: Vec<_> = (0..20).map(|_| server.subscribe("topic=a")).collect();
    let is_shared = server.sockets_of_main_thread() >= before + subscribers.len();
    assert_eq!(is_shared, fallbacks.contains(&SHARED_TABLE));
    let id = server.publish("a", "delivered");
    for subscriber in &mut subscribers {
        let event = subscriber.event();
        assert_eq!((event.data.as_str(), &event.id), ("delivered", &id));
    }
    server.expect_health();

    // The line behind those of the fallbacks.
    let log = server.expect_log("memory_at_most");
    for fallback in fallbacks {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(fallback)).collect();
        let [line] = lines[..] else { panic!("one line is to say {fallback:?}:\n{log}") };
        assert!(line.contains("WARN") && line.contains("Operation not permitted"), "{line}");
    }
    assert_eq!(log.matches("WARN").count(), fallbacks.len(), "{log}");
}

/// The server did not start under Docker's default profile.
#[test]
fn the_server_runs_where_unshare_is_forbidden() {
    if Backend::io_uring().is_some() {
        expect_delivery(&[libc::SYS_unshare], &[SHARED_TABLE]);
    }
}

#[test]
fn the_server_runs_where_io_uring_is_forbidden() {
    expect_delivery(&IO_URING, &[EPOLL]);
}

#[test]
fn the_server_runs_where_io_uring_may_be_set_up_and_not_used() {
    expect_delivery(&[libc::SYS_io_uring_enter], &[EPOLL]);
}

#[test]
fn the_server_runs_where_unshare_and_io_uring_are_forbidden() {
    expect_delivery(&[&[libc::SYS_unshare][..], &IO_URING].concat(), &[EPOLL, SHARED_TABLE]);
}

#[test]
fn private_tables_that_were_asked_for_by_name_and_are_refused_are_an_error() {
    let mut command = fanfare();
    command.args(["--listen", "127.0.0.1:0", "--descriptor-tables", "private"]);
    forbid(&mut command, &[libc::SYS_unshare]);
    let ran = run(command, "");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("unshare(2)") && ran.stderr.contains("shared"), "{ran:?}");
}
