//! One suite that every backend passes. It is the contract of `fanfare_io::Io`, sentence by sentence.
#![allow(clippy::unwrap_used)]

#[path = "conformance/accepting.rs"]
mod accepting;
mod support;

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use accepting::*;
use fanfare_io::epoll::{ACCEPT_BUDGET, Epoll};
use fanfare_io::sockets::{self, SocketOptions};
use fanfare_io::uring::Uring;
use fanfare_io::{Cause, Io, Notification, Peer, Received, Socket, Token, Waker};
use support::*;

/// How many sockets a batch has where the number does not matter: enough that a backend which gathers
/// sends into one call does so.
const MEMBERS: usize = 40;

/// Makes each function a test per backend.
macro_rules! conformance {
    ($($test:ident,)*) => {
        mod epoll {
            $(#[test]
            fn $test() {
                super::$test(concat!("epoll::", stringify!($test)), super::Epoll::open);
            })*
        }
        mod io_uring {
            $(#[test]
            fn $test() {
                if !super::without_io_uring() {
                    super::$test(concat!("io_uring::", stringify!($test)), super::Uring::open);
                }
            })*
        }
    };
}

conformance! {
    accepts_more_than_one_wait_allows,
    accepted_sockets_do_not_block_and_are_not_inherited,
    accepts_from_several_listeners,
    an_accepted_socket_names_its_listener_and_its_peer,
    a_shared_listener_wakes_one_backend_after_the_other,
    a_backend_without_room_leaves_a_shared_listener_to_the_others,
    a_storm_on_a_shared_listener_is_accepted_whole,
    a_socket_that_does_not_listen_is_an_error,
    a_full_table_stops_accepting_until_resumed,
    stop_listening_keeps_what_was_accepted,
    watch_reports_what_is_ready_already,
    readiness_comes_as_edges,
    a_half_close_still_takes_sends,
    a_reset_is_a_hang_up,
    a_mass_hang_up_is_reported_whole,
    wakes_are_kept_and_joined,
    a_wake_ends_a_wait_without_end,
    a_wait_ends_at_its_time,
    a_signal_only_ends_the_wait_early,
    receive_tells_its_four_cases,
    an_empty_batch_is_nothing,
    a_batch_reaches_everyone_in_order,
    large_runs_reach_everyone,
    short_sends_are_counted_exactly,
    a_drained_socket_becomes_writable,
    a_peer_that_never_reads_holds_up_nobody,
    sends_to_the_dead_are_gone,
    a_batch_of_exceptions_only,
    no_signal_for_a_broken_pipe,
    send_each_sends_each_its_own,
    send_each_keeps_the_order_of_one_socket,
    nothing_is_in_flight_after_a_call,
    a_panic_in_the_callers_iterator_leaves_nothing_behind,
    finish_lets_the_peer_read_to_the_end,
    a_closed_socket_is_never_heard_of_again,
    a_number_used_again_has_its_new_name,
    a_released_socket_is_quiet_and_usable,
    a_socket_that_is_watched_again_has_its_new_name,
    an_incoming_request_is_told_of_what_comes,
    peers_that_have_ended_are_found,
    what_was_not_closed_goes_with_the_backend,
    a_stranger_is_not_closed,
}

// ---- Watching

fn watch_reports_what_is_ready_already<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.connect();
    write(&mut peer, b"early");
    drop(peer);
    // Until it has arrived there is nothing to be ready.
    std::thread::sleep(QUIET);
    stage.io.watch(socket, Token(Token::LIMIT - 1)).unwrap();
    let all = Ready { readable: true, writable: true, hung_up: true };
    stage.expect_ready(Token(Token::LIMIT - 1), all);
}

fn readiness_comes_as_edges<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let token = Token(42);
    let (mut peer, socket) = stage.watched(token);
    stage.expect_quiet();

    write(&mut peer, b"one");
    stage.expect_ready(token, READABLE);
    stage.expect_quiet(); // Not read, and not told again.
    write(&mut peer, b"two");
    stage.expect_ready(token, READABLE);

    let mut buffer = [0; 16];
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Bytes(6));
    assert_eq!(&buffer[..6], b"onetwo");
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Empty);

    drop(peer);
    stage.expect_ready(token, HUNG_UP);
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Ended);
    stage.io.close(&[(socket, Some(token))]);
    stage.expect_quiet();
}

fn a_half_close_still_takes_sends<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(1));
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    stage.expect_ready(Token(1), Ready { readable: true, writable: false, hung_up: true });
    assert_eq!(stage.io.receive(socket, &mut [0; 8]), Received::Ended);
    stage.expect_quiet(); // A state, not a stream of events.

    let mut exceptions = Vec::new();
    stage.io.send_batch(b"and yet", [socket].into_iter(), &mut exceptions);
    assert_eq!(exceptions, []);
    assert_eq!(read(&mut peer, 7), b"and yet");
    stage.seen.clear();

    // A reset after the half-close is one more edge.
    reset(peer);
    stage.expect_ready(Token(1), HUNG_UP);
}

fn a_reset_is_a_hang_up<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (peer, socket) = stage.watched(Token(1));
    reset(peer);
    stage.expect_ready(Token(1), HUNG_UP);
    assert_eq!(stage.io.receive(socket, &mut [0; 8]), Received::Gone(libc::ECONNRESET));
    stage.io.close(&[(socket, Some(Token(1)))]);
}

/// More at once than any queue of a backend holds.
fn a_mass_hang_up_is_reported_whole<I: Io>(name: &str, open: Open<I>) {
    const COUNT: usize = 4000;
    in_child(name, || {
        let mut stage = Stage::new(open);
        let (peers, sockets) = stage.connect_many(COUNT);
        for (index, &socket) in sockets.iter().enumerate() {
            stage.io.watch(socket, Token(index as u64)).unwrap();
        }
        while !stage.seen.is_empty() || stage.seen.capacity() == 0 {
            stage.seen.clear();
            stage.wait(Duration::ZERO);
        }
        drop(peers);
        std::thread::sleep(QUIET);

        let mut hung_up = vec![false; COUNT];
        let mut most = 0;
        let start = stage.clock.now();
        while hung_up.contains(&false) {
            assert!(stage.clock.now() - start < PATIENCE, "some hang-ups were lost");
            stage.seen.clear();
            stage.wait(Duration::from_millis(100));
            most = most.max(stage.seen.len());
            for notification in &stage.seen {
                if let Notification::Ready { token, hung_up: true, .. } = *notification {
                    hung_up[token.0 as usize] = true;
                }
            }
        }
        assert!(most < COUNT, "one wait appends a bounded number");
        let closing: Vec<_> =
            sockets.iter().enumerate().map(|(index, &socket)| (socket, Some(Token(index as u64)))).collect();
        stage.io.close(&closing);
        stage.expect_quiet();
    });
}

// ---- Waiting

fn wakes_are_kept_and_joined<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    for _ in 0..1000 {
        stage.waker.wake();
    }
    stage.wait(PATIENCE);
    assert_eq!(stage.seen, [Notification::Woken]);
    stage.expect_quiet();
    stage.waker.clone().wake();
    stage.wait(PATIENCE);
    assert_eq!(stage.seen, [Notification::Woken]);

    // Also those from before the backend was opened.
    let waker = fanfare_io::Waker::new().unwrap();
    waker.wake();
    let mut io = open(&waker).unwrap();
    let mut seen = Vec::new();
    io.wait(Some(PATIENCE), &mut seen).unwrap();
    assert_eq!(seen, [Notification::Woken]);
}

fn a_wake_ends_a_wait_without_end<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let waker = stage.waker.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(QUIET);
        waker.wake();
    });
    while stage.seen.is_empty() {
        stage.io.wait(None, &mut stage.seen).unwrap();
    }
    assert_eq!(stage.seen, [Notification::Woken]);
    other.join().unwrap();
}

fn a_wait_ends_at_its_time<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(40)] {
        let start = stage.clock.now();
        stage.wait(timeout);
        let waited = stage.clock.now() - start;
        assert!(waited >= timeout, "ended after {waited:?}, before {timeout:?}");
        assert!(waited < timeout + Duration::from_secs(5), "ended only after {waited:?}");
        assert_eq!(stage.seen, []);
    }
}

fn a_signal_only_ends_the_wait_early<I: Io>(name: &str, open: Open<I>) {
    extern "C" fn nothing(_: libc::c_int) {}
    in_child(name, || {
        let mut stage = Stage::new(open);
        // SAFETY: the handler does nothing; without SA_RESTART the signal interrupts the wait. The thread
        // that is signalled outlives the one that signals it, which is joined.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        }
        // SAFETY: it has no preconditions.
        let this = unsafe { libc::pthread_self() };
        let other = std::thread::spawn(move || {
            std::thread::sleep(QUIET);
            // SAFETY: the thread is alive: it joins us.
            unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
        });
        let start = stage.clock.now();
        stage.wait(PATIENCE);
        assert!(stage.clock.now() - start < PATIENCE / 2);
        assert_eq!(stage.seen, []);
        other.join().unwrap();
        let (_peer, socket) = stage.connect();
        assert_eq!(stage.io.receive(socket, &mut [0; 1]), Received::Empty);
    });
}

// ---- Receiving

fn receive_tells_its_four_cases<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(1));
    let mut buffer = [0; 4];
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Empty);
    write(&mut peer, b"sixsix");
    stage.expect_ready(Token(1), READABLE);
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Bytes(4));
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Bytes(2));
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Empty);
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    stage.expect_ready(Token(1), HUNG_UP);
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Ended);

    let (peer, socket) = stage.watched(Token(2));
    reset(peer);
    stage.expect_ready(Token(2), HUNG_UP);
    assert_eq!(stage.io.receive(socket, &mut buffer), Received::Gone(libc::ECONNRESET));
}

// ---- Sending

fn an_empty_batch_is_nothing<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let mut exceptions = Vec::new();
    stage.io.send_batch(b"to nobody", std::iter::empty(), &mut exceptions);
    stage.io.send_each(std::iter::empty(), &mut exceptions);
    stage.io.close(&[]);
    assert_eq!(exceptions, []);
}

fn a_batch_reaches_everyone_in_order<I: Io>(_: &str, open: Open<I>) {
    // Around every bound of a submission.
    const COUNTS: [usize; 12] = [1, 2, 3, 4, 5, 255, 256, 257, 511, 512, 513, 600];
    let mut stage = Stage::new(open);
    let (mut peers, sockets) = stage.connect_many(600);
    let mut exceptions = Vec::new();
    let mut expected = Vec::new();
    for round in 0..12 {
        let bytes = pattern(200 + round, round);
        stage.io.send_batch(&bytes, sockets.iter().copied(), &mut exceptions);
        expected.extend(bytes);
    }
    for count in COUNTS {
        stage.io.send_batch(b"x", sockets[..count].iter().copied(), &mut exceptions);
    }
    assert_eq!(exceptions, []);
    // Each has the common part; the last of them in order has one more byte, the first has twelve.
    let mut extra: Vec<usize> = Vec::new();
    stage.io.close(&sockets.iter().map(|&socket| (socket, None)).collect::<Vec<_>>());
    for peer in &mut peers {
        let got = read_all(peer);
        assert_eq!(got[..expected.len()], expected);
        extra.push(got.len() - expected.len());
    }
    extra.sort_unstable();
    assert_eq!((extra[0], extra[599]), (1, 12));
    assert_eq!(extra.iter().sum::<usize>(), COUNTS.iter().sum());
}

fn large_runs_reach_everyone<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    for length in [1535, 1536, 1537, 16_384, 60_000] {
        let (mut peers, sockets) = stage.connect_many(MEMBERS);
        let bytes = pattern(length, 3);
        let mut exceptions = Vec::new();
        stage.io.send_batch(&bytes, sockets.iter().copied(), &mut exceptions);
        assert_eq!(exceptions, [], "a fresh loopback socket takes {length} bytes");
        stage.io.close(&sockets.iter().map(|&socket| (socket, None)).collect::<Vec<_>>());
        for peer in &mut peers {
            assert_eq!(read_all(peer), bytes);
        }
    }
}

/// Small frames and large runs: what the exceptions say is what the peers get, to the byte.
fn short_sends_are_counted_exactly<I: Io>(_: &str, open: Open<I>) {
    let mut shorts = [0, 0];
    for length in [500, 700, 900, 1100, 1300, 1500, 5000, 40_000] {
        let kind = usize::from(length > 1536);
        let mut stage = Stage::with_options(open, &small_buffers());
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..MEMBERS {
            // One after the other, so that it is known who belongs to whom.
            peers.push(connect_small(stage.address));
            sockets.extend(stage.accept(1));
        }
        let mut taken = vec![Vec::new(); sockets.len()];
        let mut full = vec![false; sockets.len()];
        for round in 0..10_000 {
            let bytes = pattern(length, round);
            let members: Vec<usize> = (0..sockets.len()).filter(|&member| !full[member]).collect();
            if members.is_empty() {
                break;
            }
            let mut exceptions = Vec::new();
            stage.io.send_batch(&bytes, members.iter().map(|&member| sockets[member]), &mut exceptions);
            for (index, &member) in members.iter().enumerate() {
                let mut mine = exceptions.iter().filter(|exception| exception.index == index);
                let sent = match mine.next() {
                    None => length,
                    Some(exception) => {
                        assert_eq!(exception.cause, Cause::Full);
                        assert!(exception.sent < length);
                        shorts[kind] += usize::from(exception.sent > 0);
                        full[member] = true;
                        exception.sent
                    }
                };
                assert!(mine.next().is_none(), "an exception is told once");
                taken[member].extend_from_slice(&bytes[..sent]);
            }
        }
        assert!(full.iter().all(|&full| full));
        // The peer has not read, so the socket soon takes nothing more: full, with a count of zero.
        let bytes = pattern(length, 0);
        for _ in 0..1000 {
            let mut exceptions = Vec::new();
            stage.io.send_batch(&bytes, sockets.iter().copied(), &mut exceptions);
            assert_eq!(exceptions.len(), sockets.len());
            for exception in &exceptions {
                assert_eq!(exception.cause, Cause::Full);
                taken[exception.index].extend_from_slice(&bytes[..exception.sent]);
            }
            if exceptions.iter().all(|exception| exception.sent == 0) {
                break;
            }
        }

        stage.io.close(&sockets.iter().map(|&socket| (socket, None)).collect::<Vec<_>>());
        for (peer, taken) in peers.iter_mut().zip(&taken) {
            assert!(read_all(peer) == *taken, "the peer got other bytes than were counted");
        }
    }
    assert!(
        shorts[0] > 0 && shorts[1] > 0,
        "some sends of each kind are short, or this tests nothing: {shorts:?}"
    );
}

fn a_drained_socket_becomes_writable<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::with_options(open, &small_buffers());
    let mut members = Vec::new();
    for token in 0..MEMBERS as u64 {
        let peer = connect_small(stage.address);
        let socket = stage.accept(1)[0];
        stage.io.watch(socket, Token(token)).unwrap();
        stage.expect_ready(Token(token), WRITABLE);
        members.push((peer, socket, 0));
    }
    let bytes = pattern(1000, 1);
    for _ in 0..1000 {
        let mut exceptions = Vec::new();
        stage.io.send_batch(&bytes, members.iter().map(|member| member.1), &mut exceptions);
        for member in &mut members {
            member.2 += bytes.len();
        }
        for exception in &exceptions {
            members[exception.index].2 -= bytes.len() - exception.sent;
        }
        if exceptions.len() == members.len() {
            break;
        }
    }
    stage.expect_quiet();
    for (token, (peer, socket, sent)) in members.iter_mut().enumerate() {
        read(peer, *sent);
        stage.expect_ready(Token(token as u64), WRITABLE);
        let mut exceptions = Vec::new();
        stage.io.send_batch(b"room again", [*socket].into_iter(), &mut exceptions);
        assert_eq!(exceptions, []);
        assert_eq!(read(peer, 10), b"room again");
    }
}

fn a_peer_that_never_reads_holds_up_nobody<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::with_options(open, &small_buffers());
    let mute = connect_small(stage.address);
    let mute_socket = stage.accept(1)[0];
    let (mut peers, mut sockets) = stage.connect_many(MEMBERS);
    sockets.insert(4, mute_socket);
    let bytes = pattern(1200, 5);
    let mut told = 0;
    for _ in 0..200 {
        let mut exceptions = Vec::new();
        stage.io.send_batch(&bytes, sockets.iter().copied(), &mut exceptions);
        for exception in exceptions {
            assert_eq!((exception.index, exception.cause), (4, Cause::Full));
            told += 1;
        }
        for peer in &mut peers {
            assert_eq!(read(peer, bytes.len()), bytes);
        }
    }
    assert!(told > 100);
    drop(mute);
}

fn sends_to_the_dead_are_gone<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut living, mut sockets) = stage.connect_many(MEMBERS);
    let (dead, dead_socket) = stage.watched(Token(3));
    sockets.insert(3, dead_socket);
    reset(dead);
    stage.expect_ready(Token(3), HUNG_UP);
    for round in 0..3 {
        let mut exceptions = Vec::new();
        stage.io.send_batch(b"anyone?", sockets.iter().copied(), &mut exceptions);
        assert_eq!(exceptions.len(), 1);
        assert_eq!((exceptions[0].index, exceptions[0].sent), (3, 0));
        match exceptions[0].cause {
            // The socket's own error is told once, then it is a broken pipe.
            Cause::Gone(errno) => assert_eq!(errno, if round == 0 { libc::ECONNRESET } else { libc::EPIPE }),
            Cause::Full => panic!("a dead socket is not full"),
        }
        for peer in &mut living {
            assert_eq!(read(peer, 7), b"anyone?");
        }
    }
}

/// More exceptions in one batch than a completion queue has room for.
fn a_batch_of_exceptions_only<I: Io>(name: &str, open: Open<I>) {
    in_child(name, || {
        let mut stage = Stage::new(open);
        let (peers, sockets) = stage.connect_many(3000);
        peers.into_iter().for_each(reset);
        std::thread::sleep(QUIET);
        let mut exceptions = Vec::new();
        stage.io.send_batch(b"anyone?", sockets.iter().copied(), &mut exceptions);
        let mut indices: Vec<usize> = exceptions.iter().map(|exception| exception.index).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..3000).collect::<Vec<_>>());
        assert!(exceptions.iter().all(|exception| matches!(exception.cause, Cause::Gone(_))));
    });
}

fn no_signal_for_a_broken_pipe<I: Io>(name: &str, open: Open<I>) {
    in_child(name, || {
        // Rust ignores the signal for a whole process; a program that embeds us in C may not.
        // SAFETY: restoring the default action is always valid.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let mut stage = Stage::new(open);
        let (peers, sockets) = stage.connect_many(MEMBERS);
        peers.into_iter().for_each(reset);
        std::thread::sleep(QUIET);
        for length in [10, 20_000] {
            for _ in 0..3 {
                let mut exceptions = Vec::new();
                let bytes = pattern(length, 0);
                stage.io.send_batch(&bytes, sockets.iter().copied(), &mut exceptions);
                stage.io.send_each(sockets.iter().map(|&socket| (socket, &bytes[..])), &mut exceptions);
                stage.io.send_batch(&bytes, sockets[..1].iter().copied(), &mut exceptions);
                assert_eq!(exceptions.len(), 2 * MEMBERS + 1);
            }
        }
    });
}

fn send_each_sends_each_its_own<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let mut peers = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..300 {
        peers.push(connect(stage.address));
        sockets.extend(stage.accept(1));
    }
    // All sizes, so that small frames and large runs are mixed.
    let runs: Vec<Vec<u8>> = (0..300).map(|member| pattern(1 + member * 37 % 9000, member)).collect();
    let mut exceptions = Vec::new();
    let sends = sockets.iter().zip(&runs).map(|(&socket, run)| (socket, run.as_slice()));
    stage.io.send_each(sends, &mut exceptions);
    assert_eq!(exceptions, []);
    for (peer, run) in peers.iter_mut().zip(&runs) {
        assert_eq!(read(peer, run.len()), *run);
    }
    stage.io.close(&sockets.iter().map(|&socket| (socket, None)).collect::<Vec<_>>());
}

fn send_each_keeps_the_order_of_one_socket<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.connect();
    let runs: Vec<Vec<u8>> =
        [100, 5000, 10, 1536, 1537, 1, 3000].iter().map(|&length| pattern(length, length)).collect();
    let mut exceptions = Vec::new();
    stage.io.send_each(runs.iter().map(|run| (socket, run.as_slice())), &mut exceptions);
    assert_eq!(exceptions, []);
    let all = runs.concat();
    assert!(read(&mut peer, all.len()) == all);
}

fn nothing_is_in_flight_after_a_call<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::with_options(open, &small_buffers());
    let (mut peers, sockets) = stage.connect_many(MEMBERS);
    for length in [1000, 3000] {
        let original = pattern(length, 9);
        let mut lent = original.clone();
        let mut exceptions = Vec::new();
        stage.io.send_batch(&lent, sockets.iter().copied(), &mut exceptions);
        lent.fill(0xee);
        stage.io.send_each(sockets.iter().map(|&socket| (socket, &original[..])), &mut exceptions);
        assert_eq!(exceptions, []);
        for peer in &mut peers {
            assert!(read(peer, 2 * length) == [&original[..], &original[..]].concat());
        }
    }
}

fn a_panic_in_the_callers_iterator_leaves_nothing_behind<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peers, sockets) = stage.connect_many(MEMBERS);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let short_lived = pattern(500, 1);
        let sends = sockets.iter().enumerate().map(|(index, &socket)| {
            assert!(index < MEMBERS - 1, "on purpose");
            (socket, &short_lived[..])
        });
        stage.io.send_each(sends, &mut Vec::new());
    }));
    assert!(panicked.is_err());
    // What was sent before the panic is the backend's choice, but no lent byte is touched after it.
    let before: Vec<usize> = peers
        .iter_mut()
        .map(|peer| {
            peer.set_nonblocking(true).unwrap();
            let mut buffer = [0; 1000];
            let count = std::io::Read::read(peer, &mut buffer).unwrap_or(0);
            peer.set_nonblocking(false).unwrap();
            count
        })
        .collect();
    assert!(before.iter().all(|&count| count == 0 || count == 500));
    let mut exceptions = Vec::new();
    stage.io.send_batch(b"after", sockets.iter().copied(), &mut exceptions);
    assert_eq!(exceptions, []);
    for peer in &mut peers {
        assert_eq!(read(peer, 5), b"after");
    }
}

// ---- The end of a socket

fn finish_lets_the_peer_read_to_the_end<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(1));
    stage.io.send_batch(b"the end", [socket].into_iter(), &mut Vec::new());
    stage.io.finish(socket);
    assert_eq!(read_all(&mut peer), b"the end");
    // Our side is over, the other is not.
    write(&mut peer, b"bye");
    stage.expect_ready(Token(1), READABLE);
    assert_eq!(stage.io.receive(socket, &mut [0; 8]), Received::Bytes(3));
    let mut exceptions = Vec::new();
    stage.io.send_batch(b"more", [socket].into_iter(), &mut exceptions);
    assert_eq!(exceptions[0].cause, Cause::Gone(libc::EPIPE));
    drop(peer);
    stage.io.finish(socket);
    stage.io.close(&[(socket, Some(Token(1)))]);
}

/// Watched or not: a half-close, a close and a reset; and not a peer that has only sent something.
fn peers_that_have_ended_are_found<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let mut pairs: Vec<_> = (0..600).map(|token| stage.watched(Token(token))).collect();
    for (index, (peer, socket)) in pairs.iter_mut().enumerate() {
        if index % 2 == 0 {
            stage.io.unwatch(*socket, Token(index as u64));
        }
        write(peer, b"unread");
    }
    let sockets: Vec<Socket> = pairs.iter().map(|(_, socket)| *socket).collect();
    let mut ended = Vec::new();
    stage.io.find_ended(&sockets, &mut ended);
    assert_eq!(ended, []);
    let mut left = pairs.split_off(300);
    left.iter_mut().for_each(|(peer, _)| peer.shutdown(Shutdown::Write).unwrap());
    stage.io.find_ended(&sockets, &mut ended);
    assert_eq!(ended, sockets[300..]);
    drop(left);
    drop(pairs);
    ended.clear();
    stage.io.find_ended(&sockets, &mut ended);
    assert_eq!(ended, sockets);
    stage.io.find_ended(&[], &mut ended);
    assert_eq!(ended.len(), 600);
    let close =
        |(index, socket): (usize, &Socket)| (*socket, (index % 2 == 1).then_some(Token(index as u64)));
    stage.io.close(&sockets.iter().enumerate().map(close).collect::<Vec<_>>());
}

fn a_closed_socket_is_never_heard_of_again<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(1));
    // Another table, or another process, may hold it open.
    let elsewhere = duplicate(socket);
    write(&mut peer, b"on its way");
    std::thread::sleep(QUIET);
    stage.io.close(&[(socket, Some(Token(1)))]);
    stage.expect_quiet();
    write(&mut peer, b"late");
    stage.expect_quiet();
    // It was a close, not a shutdown: the connection lives as long as the duplicate.
    // SAFETY: the bytes outlive the call.
    let sent =
        unsafe { libc::send(std::os::fd::AsRawFd::as_raw_fd(&elsewhere), b"ok".as_ptr().cast(), 2, 0) };
    assert_eq!(sent, 2);
    assert_eq!(read(&mut peer, 2), b"ok");
    drop(elsewhere);
    stage.expect_quiet();

    // Without a duplicate the peer sees the end at once, with nothing else happening here.
    let (mut peer, socket) = stage.watched(Token(2));
    stage.io.close(&[(socket, Some(Token(2)))]);
    assert_eq!(read_all(&mut peer), b"");
}

fn a_number_used_again_has_its_new_name<I: Io>(name: &str, open: Open<I>) {
    // In a process of its own, so that no other thread takes the number.
    in_child(name, || {
        let mut stage = Stage::new(open);
        let (old_peer, old) = stage.watched(Token(1));
        let elsewhere = duplicate(old);
        let mut new_peer = connect(stage.address);
        std::thread::sleep(QUIET);
        stage.io.close(&[(old, Some(Token(1)))]);
        let new = stage.accept(1)[0];
        assert_eq!(new, old, "the lowest free number is taken");
        stage.io.watch(new, Token(2)).unwrap();
        stage.expect_ready(Token(2), WRITABLE);
        drop(old_peer);
        stage.expect_quiet();
        write(&mut new_peer, b"x");
        stage.expect_ready(Token(2), READABLE);
        drop(elsewhere);
    });
}

fn a_released_socket_is_quiet_and_usable<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(1));
    stage.io.unwatch(socket, Token(1));
    write(&mut peer, b"for the next owner");
    stage.expect_quiet();
    let handed = duplicate(socket);
    stage.io.close(&[(socket, None)]);
    stage.expect_quiet();

    // It can be watched again, under another name, and tells what happened meanwhile.
    let number = stage.io.adopt(handed);
    stage.io.watch(number, Token(9)).unwrap();
    stage.expect_ready(Token(9), READABLE);
    let mut buffer = [0; 32];
    assert_eq!(stage.io.receive(number, &mut buffer), Received::Bytes(18));
    let mut exceptions = Vec::new();
    stage.io.send_batch(b"hello", [number].into_iter(), &mut exceptions);
    assert_eq!(read(&mut peer, 5), b"hello");
    stage.io.close(&[(number, Some(Token(9)))]);
    assert_eq!(read_all(&mut peer), b"");
}

/// While a request is being received, its bytes and its end are reported under its token. Once the socket is
/// watched as a stream, it is also reported that it can be written to.
fn an_incoming_request_is_told_of_what_comes<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.connect();
    stage.io.watch_incoming(socket, Token(1)).unwrap();
    write(&mut peer, b"GET");
    stage.expect_ready(Token(1), READABLE);
    assert_eq!(stage.io.receive(socket, &mut [0; 32]), Received::Bytes(3));
    stage.io.unwatch(socket, Token(1));
    stage.io.watch(socket, Token(2)).unwrap();
    stage.expect_ready(Token(2), WRITABLE);
    stage.io.unwatch(socket, Token(2));
    stage.io.watch_incoming(socket, Token(3)).unwrap();
    drop(peer);
    stage.expect_ready(Token(3), READABLE);
    assert_eq!(stage.io.receive(socket, &mut [0; 32]), Received::Ended);
    stage.io.close(&[(socket, Some(Token(3)))]);
}

/// A request becomes a subscriber, which is watched under another token. Only the new token is reported, also
/// where another socket was released in between, and where bytes arrived in between.
fn a_socket_that_is_watched_again_has_its_new_name<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut first, one) = stage.watched(Token(1));
    let (mut second, two) = stage.watched(Token(2));
    stage.io.unwatch(one, Token(1));
    write(&mut first, b"between");
    stage.io.watch(one, Token(11)).unwrap();
    stage.expect_ready(Token(11), READABLE);
    assert_eq!(stage.io.receive(one, &mut [0; 32]), Received::Bytes(7));

    stage.io.unwatch(one, Token(11));
    stage.io.unwatch(two, Token(2));
    stage.io.watch(one, Token(21)).unwrap();
    write(&mut first, b"first");
    write(&mut second, b"second");
    stage.expect_ready(Token(21), READABLE);
    assert_eq!(stage.io.receive(one, &mut [0; 32]), Received::Bytes(5));
    stage.expect_quiet();
    stage.io.watch(two, Token(22)).unwrap();
    stage.expect_ready(Token(22), READABLE);
    assert_eq!(stage.io.receive(two, &mut [0; 32]), Received::Bytes(6));
    stage.io.close(&[(one, Some(Token(21))), (two, Some(Token(22)))]);
    assert_eq!((read_all(&mut first), read_all(&mut second)), (vec![], vec![]));
}

/// A shard that panicked in a shared table left its clients waiting for ever.
fn what_was_not_closed_goes_with_the_backend<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut watched, _) = stage.watched(Token(1));
    let (mut unwatched, _) = stage.connect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut adopted = connect(listener.local_addr().unwrap());
    stage.io.adopt(listener.accept().unwrap().0.into());
    let mut unseen = connect(stage.address);
    stage.until("a connection", |seen| !accepted(seen).is_empty());

    drop(stage);
    for peer in [&mut watched, &mut unwatched, &mut adopted, &mut unseen] {
        assert_eq!(read_all(peer), b"");
    }
}

fn a_stranger_is_not_closed<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (_peer, socket) = stage.connect();
    let stranger = duplicate(socket);
    let number = std::os::fd::AsRawFd::as_raw_fd(&stranger);
    let close = |stage: &mut Stage<I>, number| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.io.close(&[(number, None)])))
    };
    assert!(close(&mut stage, number).is_err());
    assert!(stranger.try_clone().is_ok(), "it was closed");
    assert!(close(&mut stage, socket).is_ok());
    assert!(close(&mut stage, socket).is_err(), "it was closed twice");
}
