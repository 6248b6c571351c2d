//! What the io_uring backend takes for granted about the kernel, tested with the crate itself. If one of
//! these fails, the backend's send flags are wrong for this kernel, whatever its own tests say.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use support::*;

/// Larger than what a local socket takes, so that it is short.
const LENGTH: usize = 4 * 1024 * 1024;

fn ring() -> IoUring {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8).unwrap()
}

/// Submits one send and returns the results of the completions that are there when the call is over.
fn send(ring: &mut IoUring, socket: &UnixStream, bytes: &[u8], flags: i32) -> Vec<i32> {
    let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
        .flags(flags | libc::MSG_NOSIGNAL)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS);
    // SAFETY: each test keeps the bytes until the send is over or the ring is closed.
    unsafe { ring.submission().push(&entry).unwrap() };
    assert_eq!(ring.submit().unwrap(), 1);
    ring.completion().map(|completion| completion.result()).collect()
}

/// What can be read without waiting.
fn drain(peer: &mut UnixStream) -> usize {
    peer.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let _ = peer.read_to_end(&mut bytes);
    bytes.len()
}

#[test]
fn a_whole_send_is_not_mentioned() {
    if without_io_uring() {
        return;
    }
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut ring = ring();
    assert_eq!(send(&mut ring, &socket, &pattern(500, 1), libc::MSG_WAITALL | libc::MSG_DONTWAIT), []);
    assert_eq!(drain(&mut peer), 500);
}

#[test]
fn without_waitall_a_short_send_is_truncated_in_silence() {
    if without_io_uring() {
        return;
    }
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut ring = ring();
    assert_eq!(send(&mut ring, &socket, &pattern(LENGTH, 1), libc::MSG_DONTWAIT), []);
    let got = drain(&mut peer);
    assert!(0 < got && got < LENGTH, "{got}");
}

#[test]
fn with_both_flags_the_count_is_exact() {
    if without_io_uring() {
        return;
    }
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut ring = ring();
    let bytes = pattern(LENGTH, 1);
    let flags = libc::MSG_WAITALL | libc::MSG_DONTWAIT;
    let [sent] = send(&mut ring, &socket, &bytes, flags)[..] else { panic!("one completion") };
    assert!(0 < sent && (sent as usize) < LENGTH);
    assert_eq!(send(&mut ring, &socket, &bytes, flags), [-libc::EAGAIN]);
    assert_eq!(drain(&mut peer), sent as usize);
    assert_eq!(drain(&mut peer), 0, "nothing was parked, to be sent when there is room");
}

#[test]
fn without_dontwait_it_parks_and_keeps_the_buffer() {
    if without_io_uring() {
        return;
    }
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut ring = ring();
    let bytes = pattern(LENGTH, 1);
    assert_eq!(send(&mut ring, &socket, &bytes, libc::MSG_WAITALL), []);
    // No completion, and yet not over: it goes on as the peer reads.
    let mut got = drain(&mut peer);
    assert!(0 < got && got < LENGTH, "{got}");
    for _ in 0..10_000 {
        let wait = types::Timespec::from(Duration::from_millis(1));
        let _ = ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&wait));
        got += drain(&mut peer);
        if got == LENGTH {
            break;
        }
    }
    assert_eq!(got, LENGTH);
}

#[test]
fn a_dead_peer_is_an_error_without_a_signal() {
    if without_io_uring() {
        return;
    }
    let (socket, peer) = UnixStream::pair().unwrap();
    drop(peer);
    let flags = libc::MSG_WAITALL | libc::MSG_DONTWAIT;
    assert_eq!(send(&mut ring(), &socket, b"x", flags), [-libc::EPIPE]);
}

/// If a submission fails for good, the backend closes the ring to take its entries back.
#[test]
fn closing_a_ring_discards_what_was_not_submitted() {
    if without_io_uring() {
        return;
    }
    let (socket, mut peer) = UnixStream::pair().unwrap();
    let mut ring = ring();
    let bytes = pattern(100, 1);
    let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), 100).build();
    // SAFETY: it is never submitted.
    unsafe { ring.submission().push(&entry).unwrap() };
    drop(ring);
    assert_eq!(drain(&mut peer), 0);
}
