//! The backend that hands the kernel a batch of sends in one system call.
//!
//! Sends are where the time goes, and where a batch of small frames is 1 to 2 % faster. (A thread's own time
//! shows more on loopback, but long submissions push a part of the receivers' work to the kernel's own
//! threads; counted in, little is left.) The rest is left to epoll ([`Epoll`] does it for both backends),
//! because measurements speak for it:
//!
//! - *Watching.* A ring finds a poll request to cancel by walking one of 256 chains. With 200,000 watched
//!   sockets a cancellation takes 62 us, with 500,000 it takes 179 us, and closing all of them takes
//!   quadratic time; epoll keeps a tree, and `epoll_ctl` takes 1 to 1.5 us. A poll request is also larger
//!   (256 against 208 bytes), and a burst of them can overflow the completion queue.
//! - *Accepting.* A multishot accept spares 0.1 of 1.5 us, and takes all that wait: no budget bounds it.
//! - *Closing* in a batch spares nothing.
//! - *Registered files* would make a send another 1 to 4 % cheaper, for 40 bytes a connection. But a slot
//!   that outlives its socket's number sends one subscriber's events to another; a descriptor cannot.
//!
//! So the ring is used for nothing but sends, which are over when their submission returns: it never holds
//! anything in flight, its completion queue cannot overflow, and its descriptor need not be registered
//! (that would spare one look-up per submission, which 256 sends share).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use crate::contract::{Exception, Io, Notification, Peer, Received, Socket, Token};
use crate::epoll::{Epoll, exception, send_one};
use crate::waker::Waker;

/// How many sends one submission carries. From 128 up the cost of the system call no longer shows; the
/// kernel's request structures (256 bytes each) of this many still fit the fast caches.
const SLICE_SENDS: usize = 256;

/// How many bytes one submission carries. Receivers on the same machine start only when it is over: with
/// more under way than this the data has left the cache when they read it.
const SLICE_BYTES: usize = 128 * 1024;

/// Runs longer than this are sent by send(2). The copy dominates there, a batch gains nothing at 2 KiB and
/// loses 2 to 5 % at 16 KiB.
const RING_RUN_BYTES: usize = 1536;

/// Fewer sends than this are done by send(2): a submission costs more than a plain call, and only from here
/// on enough of them share it.
const RING_SENDS_LEAST: usize = 32;

/// How often a submission is tried again when the kernel has no memory for it.
const SUBMIT_ATTEMPTS: usize = 16;

/// How a send must be flagged, all three together:
/// - `MSG_WAITALL`: a short send counts as failed, so that it completes with its exact count. Without it
///   the short send is a success, whose completion is skipped, and the stream is truncated in silence.
/// - `MSG_DONTWAIT`: the send ends now. Without it the request would wait in the kernel for room, and pin a
///   buffer that the caller believes to have back.
/// - `MSG_NOSIGNAL`: no SIGPIPE.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Readiness from epoll, sends by io_uring.
pub struct Uring {
    readiness: Epoll,
    /// `None` after the kernel has refused a submission for good: then batches are loops, as with epoll.
    ring: Option<IoUring>,
    /// The sends of the submission in the making, in the order of their queue entries. The pointers are
    /// used only until the call that filled it in returns. Kept for its capacity.
    slice: Vec<PendingSend>,
}

#[derive(Clone, Copy)]
struct PendingSend {
    index: usize,
    socket: Socket,
    bytes: *const [u8],
}

impl Uring {
    /// Opens a ring and an epoll instance in the calling thread's table. `waker` must be in that table too.
    /// The ring serves this thread only.
    ///
    /// # Errors
    /// What [`crate::Backend::resolve`] would have told, or `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn open(waker: &Waker) -> io::Result<Self> {
        Ok(Self {
            readiness: Epoll::open(waker)?,
            ring: Some(open_ring()?),
            slice: Vec::with_capacity(SLICE_SENDS),
        })
    }

    /// Sends what differs only in where the bytes come from: the body of both batch operations.
    fn send_all<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    ) {
        if self.ring.is_none() || sends.len() < RING_SENDS_LEAST {
            self.readiness.send_each(sends, exceptions);
            return;
        }
        // A caller's iterator may have panicked half-way through the last batch.
        self.slice.clear();
        let mut slice_bytes = 0;
        for (index, (socket, bytes)) in sends.enumerate() {
            if bytes.len() > RING_RUN_BYTES {
                // What was queued first goes first: the batch may name a socket twice.
                self.submit_slice(exceptions);
                slice_bytes = 0;
                exceptions.extend(send_one(index, socket, bytes));
                continue;
            }
            self.slice.push(PendingSend { index, socket, bytes });
            slice_bytes += bytes.len();
            if self.slice.len() == SLICE_SENDS || slice_bytes >= SLICE_BYTES {
                self.submit_slice(exceptions);
                slice_bytes = 0;
            }
        }
        self.submit_slice(exceptions);
    }

    /// Performs the sends of the slice. When it returns they are over, and the slice is empty.
    fn submit_slice(&mut self, exceptions: &mut Vec<Exception>) {
        let mut unsent = self.slice.len();
        if unsent == 0 {
            return;
        }
        if unsent >= RING_SENDS_LEAST
            && let Some(ring) = &mut self.ring
        {
            unsent = match submit(ring, &self.slice, exceptions) {
                Ok(()) => 0,
                Err(refused) => {
                    // The queue still names buffers that the caller gets back now. Closing the ring discards
                    // them; there is no other way to take an entry back.
                    self.ring = None;
                    refused.unsent
                }
            };
        }
        for send in &self.slice[self.slice.len() - unsent..] {
            // SAFETY: the slice was filled by the call under way, whose caller lends the bytes until it ends.
            let bytes = unsafe { &*send.bytes };
            exceptions.extend(send_one(send.index, send.socket, bytes));
        }
        self.slice.clear();
    }
}

/// A submission of which the kernel did not accept everything.
struct SubmitRefused {
    /// How many sends it did not accept: the last ones of the slice.
    unsent: usize,
    /// What `io_uring_enter(2)` said last.
    error: io::Error,
}

/// Queues the sends, submits them and takes their completions.
fn submit(
    ring: &mut IoUring,
    slice: &[PendingSend],
    exceptions: &mut Vec<Exception>,
) -> Result<(), SubmitRefused> {
    {
        let mut queue = ring.submission();
        debug_assert!(queue.is_empty(), "the last submission was whole");
        for (place, send) in slice.iter().enumerate() {
            let entry = opcode::Send::new(types::Fd(send.socket), send.bytes.cast(), send.bytes.len() as u32)
                .flags(SEND_FLAGS)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(place as u64);
            // SAFETY: the bytes are lent to the call under way. The send is over when its submission returns
            // (MSG_DONTWAIT), and if it is never submitted the ring is closed before the call ends.
            let pushed = unsafe { queue.push(&entry) };
            assert!(pushed.is_ok(), "a slice fits the empty submission queue");
        }
    }

    let mut result = Ok(());
    for _ in 0..SUBMIT_ATTEMPTS {
        let submitted = ring.submit();
        let mut queue = ring.submission();
        queue.sync();
        let unsent = queue.len();
        if unsent == 0 {
            result = Ok(());
            break;
        }
        // A partial submission means that the kernel had no memory for more requests. The system call then
        // reports how many it accepted, and the next attempt reports the error.
        let error = submitted.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN));
        debug_assert!(
            error.raw_os_error() != Some(libc::EEXIST),
            "a backend belongs to the thread that opened it"
        );
        let may_pass = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::EBUSY));
        result = Err(SubmitRefused { unsent, error });
        if !may_pass {
            break;
        }
        std::thread::yield_now();
    }

    for completion in ring.completion() {
        let send = slice[completion.user_data() as usize];
        let sent = i64::from(completion.result());
        debug_assert!(sent < send.bytes.len() as i64, "whole sends are not reported");
        exceptions.push(exception(send.index, sent));
    }
    result
}

/// Sets up a ring as a shard uses it.
///
/// A single issuer with deferred task work spares the kernel its locks around completions, and submit-all
/// keeps one bad entry from holding back those behind it.
fn open_ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .build(SLICE_SENDS as u32)
}

/// Why this process cannot use io_uring.
#[derive(Debug)]
pub(crate) struct ProbeError {
    /// The system call that was refused.
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

/// Finds out whether this process can use io_uring, and whether the kernel treats sends as [`Uring`] needs
/// it: it sets up a ring, asks for the operation, and sends more than fits to a socket that nothing reads.
/// It makes each of the three system calls, because a filter may refuse one and allow the others.
pub(crate) fn probe() -> Result<(), ProbeError> {
    let refused = |call| move |error| ProbeError { call, error };
    let mut ring = open_ring().map_err(refused("io_uring_setup"))?;
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(refused("io_uring_register"))?;
    if !operations.is_supported(opcode::Send::CODE) || !ring.params().is_feature_skip_cqe_on_success() {
        let too_old = io::Error::from_raw_os_error(libc::EINVAL);
        return Err(ProbeError { call: "io_uring_register", error: too_old });
    }

    let pair = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let (socket, _peer) = pair.map_err(refused("socketpair"))?;
    let chunk = vec![0_u8; 64 * 1024];
    let slice = [PendingSend { index: 0, socket: socket.as_raw_fd(), bytes: chunk.as_slice() }];
    let mut exceptions = Vec::new();
    // The largest buffer that a kernel gives a local socket unasked is well below 64 MiB.
    for _ in 0..1024 {
        submit(&mut ring, &slice, &mut exceptions)
            .map_err(|SubmitRefused { error, .. }| refused("io_uring_enter")(error))?;
        if !exceptions.is_empty() {
            break;
        }
    }
    match exceptions[..] {
        [Exception { cause: crate::Cause::Full, .. }] => Ok(()),
        _ => {
            let text = "this kernel does not report short sends; Linux 6.1 or newer is needed";
            let error = io::Error::new(io::ErrorKind::Unsupported, text);
            Err(ProbeError { call: "io_uring_enter", error })
        }
    }
}

impl Io for Uring {
    fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.readiness.listen(listener)
    }

    fn listen_shared(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.readiness.listen_shared(listener)
    }

    fn resume_accept(&mut self) {
        self.readiness.resume_accept();
    }

    fn stop_listening(&mut self) {
        self.readiness.stop_listening();
    }

    fn watch(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        self.readiness.watch(socket, token)
    }

    fn watch_incoming(&mut self, socket: Socket, token: Token) -> io::Result<()> {
        self.readiness.watch_incoming(socket, token)
    }

    fn wait(&mut self, timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()> {
        self.readiness.wait(timeout, notifications)
    }

    fn send_batch(
        &mut self,
        bytes: &[u8],
        sockets: impl ExactSizeIterator<Item = Socket>,
        exceptions: &mut Vec<Exception>,
    ) {
        if bytes.len() > RING_RUN_BYTES {
            self.readiness.send_batch(bytes, sockets, exceptions);
        } else {
            self.send_all(sockets.map(|socket| (socket, bytes)), exceptions);
        }
    }

    fn send_each<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    ) {
        self.send_all(sends, exceptions);
    }

    fn receive(&mut self, socket: Socket, buffer: &mut [u8]) -> Received {
        self.readiness.receive(socket, buffer)
    }

    fn peer(&self, socket: Socket) -> Option<Peer> {
        self.readiness.peer(socket)
    }

    fn finish(&mut self, socket: Socket) {
        self.readiness.finish(socket);
    }

    fn adopt(&mut self, socket: OwnedFd) -> Socket {
        self.readiness.adopt(socket)
    }

    fn find_ended(&mut self, sockets: &[Socket], ended: &mut Vec<Socket>) {
        crate::sockets::find_ended(sockets, ended);
    }

    fn close(&mut self, sockets: &[(Socket, Option<Token>)]) {
        self.readiness.close(sockets);
    }

    fn unwatch(&mut self, socket: Socket, token: Token) {
        self.readiness.unwatch(socket, token);
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Uring")
            .field("readiness", &self.readiness)
            .field("ring", &self.ring.as_ref().map(AsRawFd::as_raw_fd))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// The kernel may refuse a submission for good (out of memory, a filter that comes late). Nothing is lost
    /// or sent twice then, and the shard goes on without a ring.
    #[test]
    fn a_refused_submission_is_sent_by_other_means() {
        if std::env::var_os("FANFARE_NO_IO_URING").is_some_and(|value| value == "1") {
            return;
        }
        let mut uring = Uring::open(&Waker::new().unwrap()).unwrap();
        let mut pairs: Vec<_> = (0..600).map(|_| UnixStream::pair().unwrap()).collect();
        let sockets: Vec<Socket> = pairs.iter().map(|pair| pair.0.as_raw_fd()).collect();
        let mut exceptions = Vec::new();
        uring.send_batch(b"by ring ", sockets.iter().copied(), &mut exceptions);
        assert!(uring.ring.is_some());

        // Another file takes the place of the ring: each submission to it is an error.
        let null = std::fs::File::open("/dev/null").unwrap();
        let number = uring.ring.as_ref().unwrap().as_raw_fd();
        // SAFETY: the ring owns the number and only submits to it and closes it, which any file allows.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
        uring.send_batch(b"by loop ", sockets.iter().copied(), &mut exceptions);
        assert!(uring.ring.is_none());
        uring.send_batch(b"for ever", sockets.iter().copied(), &mut exceptions);
        assert_eq!(exceptions, []);
        for (_, peer) in &mut pairs {
            let mut bytes = [0; 100];
            let count = peer.read(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"by ring by loop for ever");
        }
    }
}
