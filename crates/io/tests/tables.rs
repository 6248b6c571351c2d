//! Private descriptor tables, and sockets that pass between them.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fanfare_io::{Waker, fd_channel, table};
use support::*;

/// Whether the number is open in this thread's table.
fn is_open(fd: RawFd) -> bool {
    // SAFETY: no pointers are involved.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = connect(listener.local_addr().unwrap());
    (peer, listener.accept().unwrap().0)
}

#[test]
fn a_private_table_keeps_what_was_asked_for_and_nothing_else() {
    let waker = Waker::new().unwrap();
    let (peer, stream) = pair();
    let numbers = [peer.as_raw_fd(), stream.as_raw_fd(), waker.as_raw_fd()];
    thread::spawn(move || {
        assert!(!table::is_private());
        // SAFETY: the thread owns no descriptor, and only asks which numbers are open.
        unsafe { table::make_private(&[numbers[2], numbers[2], 1], &[]) }.unwrap();
        assert!(table::is_private());
        assert!(is_open(numbers[2]));
        assert!(!is_open(numbers[0]) && !is_open(numbers[1]));
        let open: Vec<RawFd> = (3..1000).filter(|&fd| is_open(fd)).collect();
        assert_eq!(open, [numbers[2]]);
        assert!((0..3).all(is_open), "the standard streams stay");
    })
    .join()
    .unwrap();
    assert!(numbers.iter().all(|&fd| is_open(fd)), "the shared table is untouched");
    assert!(!table::is_private());
}

/// The reason why inherited descriptors are closed: a copy of them would hold the connection open.
#[test]
fn a_private_table_holds_no_strangers_connection_open() {
    let (mut peer, stream) = pair();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        // SAFETY: the thread uses no descriptor; it waits for a word on a channel in memory.
        unsafe { table::make_private(&[], &[]) }.unwrap();
        ready.send(()).unwrap();
        let _ = stopped.recv();
    });
    is_ready.recv().unwrap();
    drop(stream);
    assert_eq!(read_all(&mut peer), b"");
    drop(stop);
    other.join().unwrap();
}

#[test]
fn a_waker_works_across_tables_under_the_same_number() {
    let waker = Waker::new().unwrap();
    let inside = waker.clone();
    let shard = thread::spawn(move || {
        // SAFETY: the thread uses the waker, which is kept, and what it opens.
        unsafe { table::make_private(&[], std::slice::from_ref(&inside)) }.unwrap();
        let mut io = fanfare_io::epoll::Epoll::open(&inside).unwrap();
        let mut seen = Vec::new();
        while seen.is_empty() {
            fanfare_io::Io::wait(&mut io, Some(PATIENCE), &mut seen).unwrap();
        }
        seen
    });
    waker.wake();
    assert_eq!(shard.join().unwrap(), [fanfare_io::Notification::Woken]);
}

/// Eight bytes for a waker must never end in a subscriber's stream.
#[test]
fn a_waker_that_was_not_kept_is_not_written_to() {
    let waker = Waker::new().unwrap();
    let number = waker.as_raw_fd();
    thread::spawn(move || {
        // SAFETY: the thread uses the waker, which checks itself, and the sockets that it opens.
        unsafe { table::make_private(&[], &[]) }.unwrap();
        // A socket takes the waker's number.
        let (_mine, mut theirs) = loop {
            let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
            if one.as_raw_fd() == number {
                break (one, other);
            }
            if other.as_raw_fd() == number {
                break (other, one);
            }
            std::mem::forget((one, other));
        };
        let woken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        assert!(woken.is_err());
        drop(waker);
        assert!(is_open(number), "nor is the stranger closed");
        theirs.set_nonblocking(true).unwrap();
        let error = std::io::Read::read(&mut theirs, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    })
    .join()
    .unwrap();
}

/// A thread kept a listener, and the shared table gave its number there to a new waker: that one's bytes went
/// to the listener.
#[test]
fn a_waker_is_not_known_by_its_number() {
    // In a process of its own, so that no other thread takes the number.
    in_child("a_waker_is_not_known_by_its_number", || {
        let (listener, kept) = (TcpListener::bind("127.0.0.1:0").unwrap(), Waker::new().unwrap());
        let number = listener.as_raw_fd();
        let (parted, has_parted) = mpsc::channel();
        let (give, given) = mpsc::channel();
        let inside = kept.clone();
        let other = thread::spawn(move || {
            // SAFETY: the thread uses wakers, which check themselves, and nothing else.
            unsafe { table::make_private(&[number], std::slice::from_ref(&inside)) }.unwrap();
            parted.send(()).unwrap();
            let newer: Vec<Waker> = given.recv().unwrap();
            assert!(inside.is_in_reach());
            assert!(!newer.iter().any(Waker::is_in_reach));
        });
        has_parted.recv().unwrap();
        drop(listener);
        let newer: Vec<Waker> = (0..100).map(|_| Waker::new().unwrap()).collect();
        assert!(newer.iter().any(|waker| waker.as_raw_fd() == number), "none got the listener's number");
        give.send(newer).unwrap();
        other.join().unwrap();
        assert!(kept.is_in_reach());
    });
}

/// A handler that ran here could write into whatever has its pipe's number here: a subscriber's stream.
#[test]
fn no_signal_handler_runs_on_a_thread_with_a_private_table() {
    thread::spawn(|| {
        // SAFETY: the thread uses no descriptor.
        unsafe { table::make_private(&[], &[]) }.unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1] {
            // SAFETY: a zeroed set is valid, and both calls only fill and read it.
            let blocked = unsafe {
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
                libc::sigismember(&mask, signal)
            };
            assert_eq!(blocked, 1, "signal {signal}");
        }
    })
    .join()
    .unwrap();
}

/// A profiler whose handler uses no descriptor may see what such threads do.
#[test]
fn the_profiling_signal_reaches_a_thread_with_a_private_table_where_that_was_allowed() {
    in_child("the_profiling_signal_reaches_a_thread_with_a_private_table_where_that_was_allowed", || {
        let blocked = |signal| {
            thread::spawn(move || {
                // SAFETY: the thread uses no descriptor; a zeroed set is valid, and both calls only fill and
                // read it.
                unsafe {
                    table::make_private(&[], &[]).unwrap();
                    let mut mask: libc::sigset_t = std::mem::zeroed();
                    libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
                    libc::sigismember(&mask, signal)
                }
            })
            .join()
            .unwrap()
        };
        assert_eq!(blocked(libc::SIGPROF), 1);
        // SAFETY: there is no handler of it.
        unsafe { table::allow_profiling_signal() };
        assert_eq!((blocked(libc::SIGPROF), blocked(libc::SIGTERM)), (0, 1));
    });
}

#[test]
fn each_table_has_the_whole_limit() {
    in_child("each_table_has_the_whole_limit", || {
        limit_descriptors(300);
        let tables: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn(|| {
                    // SAFETY: the thread uses only the files that it opens.
                    unsafe { table::make_private(&[], &[]) }.unwrap();
                    (0..280)
                        .map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))
                        .collect::<Vec<_>>()
                        .len()
                })
            })
            .collect();
        let opened: usize = tables.into_iter().map(|table| table.join().unwrap()).sum();
        assert_eq!(opened, 560);
    });
}

#[test]
fn open_descriptors_are_counted() {
    in_child("open_descriptors_are_counted", || {
        let before = table::open_descriptors().unwrap();
        let _files: Vec<_> = (0..7).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert_eq!(table::open_descriptors().unwrap(), before + 7);
    });
}

#[test]
fn sockets_pass_between_two_private_tables() {
    const COUNT: usize = 500;
    let (sender, receiver) = fd_channel::channel().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();

    let left = [sender.as_raw_fd(), listener.as_raw_fd()];
    let left_receiver = receiver.as_raw_fd();
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(3));
    let (giving_left, taking_left) = (barrier.clone(), barrier.clone());
    let giving = thread::spawn(move || {
        // SAFETY: the thread uses what it keeps, and the sockets that it accepts.
        unsafe { table::make_private(&[sender.as_raw_fd(), listener.as_raw_fd()], &[]) }.unwrap();
        giving_left.wait();
        for index in 0..COUNT {
            let (stream, _) = listener.accept().unwrap();
            let data = pattern(index * 130, index);
            while let Err(error) = sender.send(stream.as_fd(), &data) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    let taking = thread::spawn(move || {
        // SAFETY: the thread uses what it keeps, and the sockets that it receives.
        unsafe { table::make_private(&[receiver.as_raw_fd()], &[]) }.unwrap();
        taking_left.wait();
        let mut buffer = Vec::new();
        let mut count = 0;
        loop {
            match receiver.receive(&mut buffer) {
                Ok(Some(socket)) => {
                    assert!(buffer == pattern(count * 130, count), "message {count} has other bytes");
                    // SAFETY: no pointers are involved.
                    let flags = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFD) };
                    assert_ne!(flags & libc::FD_CLOEXEC, 0);
                    write(&mut TcpStream::from(socket), &(count as u32).to_be_bytes());
                    count += 1;
                }
                Ok(None) => assert!(receiver.wait(Some(PATIENCE)).unwrap()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
                    return count;
                }
            }
        }
    });
    barrier.wait();
    // SAFETY: the owners moved to the two threads, which have both left this table.
    unsafe {
        table::close_left_behind(&left);
        table::close_left_behind(&[left_receiver]);
    }
    // Now each thread holds one end alone.
    for index in 0..COUNT {
        let mut peer = connect(address);
        assert_eq!(read(&mut peer, 4), (index as u32).to_be_bytes());
        assert_eq!(read_all(&mut peer), b"", "both owners have let go");
    }
    giving.join().unwrap();
    assert_eq!(taking.join().unwrap(), COUNT);
}

#[test]
fn the_largest_message_passes_and_a_larger_one_does_not() {
    let (sender, receiver) = fd_channel::channel().unwrap();
    let (_peer, stream) = pair();
    let data = pattern(fd_channel::DATA_LIMIT_BYTES, 1);
    sender.send(stream.as_fd(), &data).unwrap();
    let mut buffer = vec![1, 2, 3];
    assert!(receiver.receive(&mut buffer).unwrap().is_some());
    assert!(buffer == data);
    let error = sender.send(stream.as_fd(), &pattern(fd_channel::DATA_LIMIT_BYTES + 1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(receiver.receive(&mut buffer).unwrap().is_none());
    assert!(buffer.is_empty());
}

#[test]
fn a_full_queue_and_each_end_say_so() {
    let (sender, receiver) = fd_channel::channel().unwrap();
    let (_peer, stream) = pair();
    assert!(!receiver.wait(Some(Duration::from_millis(1))).unwrap());
    let mut queued = 0;
    let error = loop {
        match sender.send(stream.as_fd(), b"") {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
        assert!(queued < 100_000, "the queue is bounded");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(queued >= 4);
    drop(sender);

    // What was queued comes first, then the end, again and again.
    let mut buffer = Vec::new();
    for _ in 0..queued {
        assert!(receiver.wait(None).unwrap());
        assert!(receiver.receive(&mut buffer).unwrap().is_some());
    }
    for _ in 0..2 {
        assert!(receiver.wait(None).unwrap(), "the end wakes the receiver");
        assert_eq!(receiver.receive(&mut buffer).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    let (sender, receiver) = fd_channel::channel().unwrap();
    drop(receiver);
    assert_eq!(sender.send(stream.as_fd(), b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_full_table_loses_one_socket_and_says_so() {
    in_child("a_full_table_loses_one_socket_and_says_so", || {
        limit_descriptors(100);
        let (sender, receiver) = fd_channel::channel().unwrap();
        let (mut first_peer, first) = pair();
        let (_second_peer, second) = pair();
        sender.send(first.as_fd(), b"first").unwrap();
        sender.send(second.as_fd(), b"second").unwrap();
        drop(first);
        let mut filler = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            filler.push(file);
        }
        let mut buffer = Vec::new();
        assert_eq!(receiver.receive(&mut buffer).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert!(buffer.is_empty());
        assert_eq!(read_all(&mut first_peer), b"", "the lost socket was closed by the kernel");
        filler.truncate(filler.len() - 2);
        assert!(receiver.receive(&mut buffer).unwrap().is_some());
        assert_eq!(buffer, b"second");
    });
}

#[test]
fn the_ends_lend_their_descriptors() {
    let (sender, receiver) = fd_channel::channel().unwrap();
    let lent: [BorrowedFd<'_>; 2] = [sender.as_fd(), receiver.as_fd()];
    assert_eq!(lent.map(|fd| fd.as_raw_fd()), [sender.as_raw_fd(), receiver.as_raw_fd()]);
}
