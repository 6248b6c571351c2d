//! The backend that works everywhere: readiness from epoll (by mio), and a system call per operation.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};

use crate::contract::{Cause, Exception, Io, Notification, Peer, Received, Socket, Token};
use crate::errors::{check, errno};
use crate::open::OpenSockets;
use crate::waker::{self, Waker};

/// How many events one wait takes from the kernel; the rest stays there. Enough to spare system calls in a
/// mass hang-up, few enough that the caller comes back to its other work soon.
const EVENTS_LIMIT: usize = 1024;

/// How many connections one wait accepts. About a millisecond of work: longer would hold up the events
/// of those who are connected already.
pub const ACCEPT_BUDGET: usize = 256;

/// How many of them come from one listener that other backends accept on, too. In a storm each takes some,
/// reads their requests, and comes back for more, so that a backend that has much to do takes fewer.
const SHARED_ACCEPT_BUDGET: usize = 16;

/// The waker's token; listeners have the numbers behind it.
const WAKER: u64 = Token::LIMIT;
const FIRST_LISTENER: u64 = WAKER + 1;

/// Sends never wait, and never raise SIGPIPE: a library may not decide how the process takes signals.
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Readiness from epoll; a batch is a loop of system calls.
#[derive(Debug)]
pub struct Epoll {
    poll: Poll,
    events: Events,
    waker: Socket,
    listeners: Vec<Listener>,
    /// Set by `AcceptFailed`, cleared by `resume_accept`.
    accept_paused: bool,
    open: OpenSockets,
    /// A socket that the kernel still watches, although [`Io::unwatch`] was called for it. Most are watched
    /// again at once under another token, when a request has become a subscriber: that is one system call in
    /// place of two. The watch of any other one is taken back before the next wait, and before a close.
    unwatched: Option<Socket>,
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    /// Connections may wait in its queue: the last `accept` did not say otherwise. Kept here, because an
    /// edge is told once and the budget may end before the queue does.
    ready: bool,
    /// Other backends accept on the same socket: see [`Epoll::join_waiting`].
    shared: Option<Waiting>,
}

/// Where this backend stands among the backends that accept on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// In the kernel's list.
    Listed,
    /// In the list, and has accepted since it joined it.
    Accepted,
    /// Not in the list: it has no room for connections, or the kernel had no memory for the list.
    Left,
}

/// How an accept loop ended.
enum Accepting {
    Empty,
    BudgetSpent,
    /// For want of descriptors or memory.
    Starved(i32),
    /// The listener is none.
    Broken(io::Error),
}

impl Epoll {
    /// Opens an epoll instance in the calling thread's table. `waker` must be in that table too.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` or `ENOMEM`.
    pub fn open(waker: &Waker) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = waker.as_raw_fd();
        poll.registry().register(&mut SourceFd(&waker), mio::Token(WAKER as usize), Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_LIMIT),
            waker,
            listeners: Vec::new(),
            accept_paused: false,
            open: OpenSockets::default(),
            unwatched: None,
        })
    }

    fn watch_for(&mut self, socket: Socket, token: Token, interests: Interest) -> io::Result<()> {
        debug_assert!(token.0 < Token::LIMIT, "the token is in the backend's own range");
        let (registry, token) = (self.poll.registry(), mio::Token(token.0 as usize));
        if self.unwatched == Some(socket) {
            registry.reregister(&mut SourceFd(&socket), token, interests)?;
            self.unwatched = None;
            return Ok(());
        }
        registry.register(&mut SourceFd(&socket), token, interests)
    }

    /// Takes back the watch of the socket that was unwatched last, if it was not watched again.
    fn take_back_unwatched(&mut self) {
        if let Some(socket) = self.unwatched.take() {
            self.take_back(socket);
        }
    }

    fn take_back(&self, socket: Socket) {
        let result = self.poll.registry().deregister(&mut SourceFd(&socket));
        debug_assert!(result.is_ok(), "the socket was not watched: {result:?}");
    }

    /// Takes connections from the queues that have some. They share the budget, so that a storm on one
    /// address does not shut out the others.
    fn accept(&mut self, notifications: &mut Vec<Notification>) -> io::Result<()> {
        if !self.accept_is_due() {
            return Ok(());
        }
        for index in 0..self.listeners.len() {
            if self.listeners[index].shared == Some(Waiting::Left)
                && let Err(error) = self.join_waiting(index)
            {
                self.pause_accepting(error.raw_os_error().unwrap_or(libc::ENOMEM), notifications);
                return Ok(());
            }
        }
        let ready = self.listeners.iter().filter(|listener| listener.ready).count();
        let budget = (ACCEPT_BUDGET / ready.max(1)).max(1);
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if !listener.ready {
                continue;
            }
            let budget = if listener.shared.is_some() { budget.min(SHARED_ACCEPT_BUDGET) } else { budget };
            let before = notifications.len();
            let ended = accept_some(&listener.fd, index, budget, &mut self.open, notifications);
            if notifications.len() > before {
                listener.shared = listener.shared.map(|_| Waiting::Accepted);
            }
            match ended {
                Accepting::Empty => {
                    listener.ready = false;
                    if listener.shared == Some(Waiting::Accepted) {
                        self.leave_waiting(index);
                        // Where that fails, it is tried again before the next wait.
                        let _ = self.join_waiting(index);
                    }
                }
                Accepting::BudgetSpent => {}
                Accepting::Starved(errno) => {
                    self.pause_accepting(errno, notifications);
                    break;
                }
                Accepting::Broken(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pause_accepting(&mut self, errno: i32, notifications: &mut Vec<Notification>) {
        self.accept_paused = true;
        notifications.push(Notification::AcceptFailed(errno));
        // What comes now is for backends that have room.
        for index in 0..self.listeners.len() {
            self.leave_waiting(index);
        }
    }

    /// Stands behind all other backends that wait for connections of this listener. What waits in its queue
    /// is reported.
    ///
    /// Without `EPOLLEXCLUSIVE`, which mio does not know, every connection wakes all of them, and all but one
    /// find nothing. With it the kernel wakes the first in its list that sleeps. That is always the same one
    /// where all of them sleep, so a backend that has accepted leaves the list and joins it again at its end.
    /// (The kernel wakes in the order of the list: `__wake_up_common` in `kernel/sched/wait.c`.)
    fn join_waiting(&mut self, index: usize) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32,
            u64: FIRST_LISTENER + index as u64,
        };
        let listener = &mut self.listeners[index];
        let fd = listener.fd.as_raw_fd();
        // SAFETY: the event outlives the call, and both descriptors are open: `self` owns them.
        check(unsafe { libc::epoll_ctl(self.poll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        listener.shared = Some(Waiting::Listed);
        Ok(())
    }

    /// Leaves the list of a shared listener.
    fn leave_waiting(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        if !matches!(listener.shared, Some(Waiting::Listed | Waiting::Accepted)) {
            return;
        }
        let fd = listener.fd.as_raw_fd();
        // SAFETY: both descriptors are open: `self` owns them. Linux ignores the event. It fails only on what
        // is not watched.
        unsafe { libc::epoll_ctl(self.poll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
        listener.shared = Some(Waiting::Left);
    }

    /// Whether a listener has more than the last budget allowed.
    fn accept_is_due(&self) -> bool {
        let has_work = |listener: &Listener| listener.ready || listener.shared == Some(Waiting::Left);
        !self.accept_paused && self.listeners.iter().any(has_work)
    }
}

fn accept_some(
    fd: &OwnedFd,
    listener: usize,
    budget: usize,
    open: &mut OpenSockets,
    notifications: &mut Vec<Notification>,
) -> Accepting {
    for _ in 0..budget {
        // SAFETY: null pointers mean that the peer's address is not wanted.
        let socket = unsafe {
            libc::accept4(
                fd.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if socket >= 0 {
            // SAFETY: the kernel has just made it, so it has no other owner.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            notifications.push(Notification::Accepted { socket: open.add(socket), listener });
            continue;
        }
        match errno() {
            libc::EAGAIN => return Accepting::Empty,
            errno @ (libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                return Accepting::Starved(errno);
            }
            errno @ (libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => {
                return Accepting::Broken(io::Error::from_raw_os_error(errno));
            }
            // accept(2): errors of the new connection (ECONNABORTED, EPROTO, ENETDOWN, EHOSTUNREACH, EPERM of
            // a firewall, ...) are passed on by this call, and are to be treated by retrying. An interrupted
            // call is retried as well.
            _ => {}
        }
    }
    Accepting::BudgetSpent
}

/// One send. `None` if the socket took everything.
#[inline]
pub(crate) fn send_one(index: usize, socket: Socket, bytes: &[u8]) -> Option<Exception> {
    // SAFETY: the bytes are borrowed for the whole call, which copies what it takes.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), SEND_FLAGS) };
    if sent == bytes.len() as isize {
        return None;
    }
    Some(exception(index, if sent >= 0 { sent as i64 } else { -i64::from(errno()) }))
}

/// What a send that was not whole means: `result` is a count of bytes or a negative `errno`.
#[cold]
pub(crate) fn exception(index: usize, result: i64) -> Exception {
    const FULL: i64 = -(libc::EAGAIN as i64);
    match result {
        FULL => Exception { index, sent: 0, cause: Cause::Full },
        // It took a part, so now it is full.
        0.. => Exception { index, sent: result as usize, cause: Cause::Full },
        _ => Exception { index, sent: 0, cause: Cause::Gone(-result as i32) },
    }
}

impl Io for Epoll {
    fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        let token = mio::Token((FIRST_LISTENER + self.listeners.len() as u64) as usize);
        self.poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        // It may have queued connections already, before it was watched.
        self.listeners.push(Listener { fd: listener, ready: true, shared: None });
        Ok(())
    }

    fn listen_shared(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.listeners.push(Listener { fd: listener, ready: true, shared: Some(Waiting::Left) });
        self.join_waiting(self.listeners.len() - 1)
    }

    fn resume_accept(&mut self) {
        // The listener that failed is still marked as ready, and those whose edges came meanwhile are too, so
        // the next wait reports them.
        self.accept_paused = false;
    }

    fn stop_listening(&mut self) {
        for listener in self.listeners.drain(..) {
            // Another process may hold a copy of it (a hand-over): closing ours would leave the watch.
            let _ = self.poll.registry().deregister(&mut SourceFd(&listener.fd.as_raw_fd()));
        }
    }

    fn watch(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        self.watch_for(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn watch_incoming(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        self.watch_for(socket, token, Interest::READABLE)
    }

    fn wait(&mut self, timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()> {
        self.take_back_unwatched();
        let timeout = if self.accept_is_due() { Some(Duration::ZERO) } else { timeout };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            match event.token().0 as u64 {
                WAKER => {
                    waker::drain(self.waker);
                    notifications.push(Notification::Woken);
                }
                token @ FIRST_LISTENER.. => {
                    // None: it was closed after the kernel had noted the event.
                    if let Some(listener) = self.listeners.get_mut((token - FIRST_LISTENER) as usize) {
                        listener.ready = true;
                    }
                }
                token => notifications.push(Notification::Ready {
                    token: Token(token),
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    hung_up: event.is_read_closed() || event.is_error(),
                }),
            }
        }
        self.accept(notifications)
    }

    fn send_batch(
        &mut self,
        bytes: &[u8],
        sockets: impl ExactSizeIterator<Item = Socket>,
        exceptions: &mut Vec<Exception>,
    ) {
        for (index, socket) in sockets.enumerate() {
            if let Some(exception) = send_one(index, socket, bytes) {
                exceptions.push(exception);
            }
        }
    }

    fn send_each<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    ) {
        for (index, (socket, bytes)) in sends.enumerate() {
            if let Some(exception) = send_one(index, socket, bytes) {
                exceptions.push(exception);
            }
        }
    }

    fn receive(&mut self, socket: Socket, buffer: &mut [u8]) -> Received {
        debug_assert!(!buffer.is_empty(), "an empty buffer cannot tell bytes from the end");
        loop {
            // SAFETY: the buffer is valid to write to for its whole length.
            let received =
                unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
            match received {
                1.. => return Received::Bytes(received as usize),
                0 => return Received::Ended,
                _ => match errno() {
                    libc::EINTR => {}
                    libc::EAGAIN => return Received::Empty,
                    errno => return Received::Gone(errno),
                },
            }
        }
    }

    fn peer(&self, socket: Socket) -> Option<Peer> {
        self.open.peer(socket)
    }

    fn finish(&mut self, socket: Socket) {
        // SAFETY: no pointers are involved. It fails only on a connection that is gone, which is finished.
        unsafe { libc::shutdown(socket, libc::SHUT_WR) };
    }

    fn adopt(&mut self, socket: OwnedFd) -> Socket {
        self.open.add(socket)
    }

    fn find_ended(&mut self, sockets: &[Socket], ended: &mut Vec<Socket>) {
        crate::sockets::find_ended(sockets, ended);
    }

    fn close(&mut self, sockets: &[(Socket, Option<Token>)]) {
        // Before any close: a duplicate of the socket may live on in another table, and then a close alone
        // leaves the watch in place, to fire with a stale token for ever.
        self.take_back_unwatched();
        for &(socket, token) in sockets {
            if token.is_some() {
                self.take_back(socket);
            }
            self.open.close(socket);
        }
    }

    fn unwatch(&mut self, socket: Socket, _token: Token) {
        self.take_back_unwatched();
        self.unwatched = Some(socket);
    }
}
