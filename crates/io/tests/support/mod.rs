//! What the test files share.
// Each test file is a crate that uses a part of this and exports nothing.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use fanfare_io::sockets::{self, SocketOptions};
use fanfare_io::{Clock, Io, Notification, Socket, Token, Waker};

/// How to open the backend under test.
pub type Open<I> = fn(&Waker) -> std::io::Result<I>;

/// Longer than anything takes on a busy machine: a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for a notification that must not come to come.
pub const QUIET: Duration = Duration::from_millis(60);

const CHILD: &str = "FANFARE_TEST_CHILD";

/// Says whether the io_uring tests are to be left out on this machine. By default they fail loudly.
pub fn without_io_uring() -> bool {
    std::env::var_os("FANFARE_NO_IO_URING").is_some_and(|value| value == "1")
}

/// Runs the body in a process of its own: this test binary again, with only this test. For what concerns
/// a whole process, like limits, signals and system call filters.
pub fn in_child(test: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return body();
    }
    let binary = std::env::current_exe().unwrap();
    let output =
        Command::new(binary).args(["--exact", test, "--nocapture"]).env(CHILD, test).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the child failed: {}\n{text}", output.status);
    assert!(text.contains("1 passed"), "the child ran no test named {test}:\n{text}");
}

/// Sets the soft limit of descriptors. Only in a child process.
pub fn limit_descriptors(count: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid to write to, then to read from.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = count;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// A backend that listens.
pub struct Stage<I: Io> {
    pub io: I,
    pub waker: Waker,
    pub address: SocketAddr,
    /// Notifications that were collected and not consumed by a test yet.
    pub seen: Vec<Notification>,
    pub clock: Clock,
}

impl<I: Io> Stage<I> {
    pub fn new(open: Open<I>) -> Self {
        Self::with_options(open, &SocketOptions::default())
    }

    pub fn with_options(open: Open<I>, options: &SocketOptions) -> Self {
        let waker = Waker::new().unwrap();
        let mut io =
            open(&waker).expect("the backend opens; set FANFARE_NO_IO_URING=1 where io_uring is forbidden");
        let mut listeners =
            sockets::listen("127.0.0.1:0".parse().unwrap(), sockets::BACKLOG, options, 1).unwrap();
        let listener = listeners.remove(0);
        let address = sockets::local_address(listener.as_fd()).unwrap();
        io.listen(listener).unwrap();
        Self { io, waker, address, seen: Vec::new(), clock: Clock::start() }
    }

    /// One wait.
    pub fn wait(&mut self, timeout: Duration) {
        self.io.wait(Some(timeout), &mut self.seen).unwrap();
    }

    /// Waits until what was seen satisfies the condition.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&[Notification]) -> bool) {
        let start = self.clock.now();
        while !done(&self.seen) {
            assert!(self.clock.now() - start < PATIENCE, "no {what}; seen: {:?}", self.seen);
            self.wait(Duration::from_millis(100));
        }
    }

    /// Waits until the token is reported with at least these flags; forgets everything seen.
    pub fn expect_ready(&mut self, token: Token, want: Ready) {
        let what = format!("{want:?} of {token:?}");
        self.until(&what, |seen| {
            let mut got = Ready::default();
            for notification in seen {
                if let Notification::Ready { token: name, readable, writable, hung_up } = *notification
                    && name == token
                {
                    got.readable |= readable;
                    got.writable |= writable;
                    got.hung_up |= hung_up;
                }
            }
            (got.readable || !want.readable)
                && (got.writable || !want.writable)
                && (got.hung_up || !want.hung_up)
        });
        self.seen.clear();
    }

    /// Fails if anything is reported for a while.
    pub fn expect_quiet(&mut self) {
        self.seen.clear();
        let start = self.clock.now();
        while self.clock.now() - start < QUIET {
            self.wait(Duration::from_millis(20));
        }
        assert!(self.seen.is_empty(), "it should be quiet; seen: {:?}", self.seen);
    }

    /// Waits for the next `count` accepted connections.
    pub fn accept(&mut self, count: usize) -> Vec<Socket> {
        self.until("connections", |seen| accepted(seen).len() >= count);
        let sockets = accepted(&self.seen);
        self.seen.retain(|notification| !matches!(notification, Notification::Accepted { .. }));
        sockets
    }

    /// A connection: the peer, and our end of it.
    pub fn connect(&mut self) -> (TcpStream, Socket) {
        let peer = connect(self.address);
        let socket = self.accept(1)[0];
        (peer, socket)
    }

    /// Many connections; which peer belongs to which socket is not known.
    pub fn connect_many(&mut self, count: usize) -> (Vec<TcpStream>, Vec<Socket>) {
        let mut peers = Vec::new();
        let mut sockets = Vec::new();
        while peers.len() < count {
            // In portions that fit any backlog.
            let portion = (count - peers.len()).min(100);
            peers.extend((0..portion).map(|_| connect(self.address)));
            sockets.extend(self.accept(portion));
        }
        (peers, sockets)
    }

    /// A connection that is watched and whose first report (writable) is consumed.
    pub fn watched(&mut self, token: Token) -> (TcpStream, Socket) {
        let (peer, socket) = self.connect();
        self.io.watch(socket, token).unwrap();
        self.expect_ready(token, WRITABLE);
        (peer, socket)
    }
}

/// Which flags of a `Ready` are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    pub hung_up: bool,
}

pub const READABLE: Ready = Ready { readable: true, writable: false, hung_up: false };
pub const WRITABLE: Ready = Ready { readable: false, writable: true, hung_up: false };
pub const HUNG_UP: Ready = Ready { readable: false, writable: false, hung_up: true };

/// The sockets among the notifications.
pub fn accepted(seen: &[Notification]) -> Vec<Socket> {
    seen.iter()
        .filter_map(|notification| match notification {
            Notification::Accepted { socket, .. } => Some(*socket),
            _ => None,
        })
        .collect()
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A peer that takes little: its receive buffer is set before it connects, so the window is small.
pub fn connect_small(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Options that make a socket full after a few kilobytes.
pub fn small_buffers() -> SocketOptions {
    SocketOptions::default().with_send_buffer(Some(8192))
}

/// Closes so that the other side gets a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads exactly so many bytes.
pub fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads to the end.
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn write(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

/// Another descriptor of the same socket.
pub fn duplicate(socket: Socket) -> OwnedFd {
    // SAFETY: no pointers are involved, and the result is a new descriptor without another owner.
    unsafe {
        let copy = libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 0);
        assert!(copy >= 0);
        OwnedFd::from_raw_fd(copy)
    }
}

/// Bytes that tell a shifted or a repeated stream from the right one.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|place| ((place * 31 + place / 251 + seed * 97) % 256) as u8).collect()
}
