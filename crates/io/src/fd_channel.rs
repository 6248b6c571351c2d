//! A channel that carries sockets from one thread to another.
//!
//! A thread with a private descriptor table (see [`crate::table`]) cannot give another thread a socket by
//! its number. It sends the socket through a local socket pair as `SCM_RIGHTS`, and the kernel puts it into
//! the receiver's table under a new number. Each message carries one socket and the bytes that were already
//! read from it. A message costs about 1 us.
//!
//! Both ends are made in the shared table, before the threads that use them leave it, and are in the
//! `keep` of each such thread: the sender's end in the sender's, the receiver's in the receiver's.
//!
//! A thread that leaves takes a *copy* of its end along, and drops that copy. The one in the shared table
//! is left behind with no owner: the receiver would never see the end of its senders, nor a sender that its
//! receiver is gone. So the thread that started the other one closes it when the other has left, by
//! [`crate::table::close_left_behind`].

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::errors::check;
use crate::table;

/// The most bytes one message carries beside its socket. A request head is bounded below this.
pub const DATA_LIMIT_BYTES: usize = 64 * 1024;

/// What we ask the kernel to let a sender queue: some 30 of the largest messages, or 1,600 small ones. The
/// kernel cuts it to `net.core.wmem_max`; the smallest default of that (208 KiB) leaves a fifth.
const QUEUE_BYTES: usize = 1024 * 1024;

/// Room for the control message: a header and one descriptor.
const CONTROL_BYTES: usize = 64;

/// A control buffer, aligned as `cmsghdr` needs it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) } as usize <= CONTROL_BYTES);

/// The end that gives sockets away.
#[derive(Debug)]
pub struct SocketSender {
    fd: OwnedFd,
}

/// The end that gets them.
#[derive(Debug)]
pub struct SocketReceiver {
    fd: OwnedFd,
}

/// A new pair. Both ends are non-blocking.
///
/// # Errors
/// `EMFILE`, `ENFILE` or `ENOMEM`.
pub fn channel() -> io::Result<(SocketSender, SocketReceiver)> {
    // Sequenced packets keep the bounds of messages, and so bytes and socket together; and unlike
    // datagrams they tell the receiver when the last sender is gone.
    let (sender, receiver) = Socket::pair(Domain::UNIX, Type::SEQPACKET.nonblocking().cloexec(), None)?;
    sender.set_send_buffer_size(QUEUE_BYTES)?;
    Ok((SocketSender { fd: sender.into() }, SocketReceiver { fd: receiver.into() }))
}

impl SocketSender {
    /// Another sender to the same receiver.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<SocketSender> {
        Ok(SocketSender { fd: self.fd.try_clone()? })
    }

    /// Queues a copy of `socket` and `data`. The caller's descriptor stays open and is the caller's to
    /// close.
    ///
    /// # Errors
    /// - `WouldBlock`: the queue is full; the receiver is behind.
    /// - `BrokenPipe`, `ConnectionReset`: the receiver is gone.
    /// - `InvalidInput`: more than [`DATA_LIMIT_BYTES`].
    /// - `ETOOMANYREFS`: more descriptors are under way in this process than `RLIMIT_NOFILE` allows.
    ///
    /// # Panics
    /// As [`SocketSender::send_raw`].
    pub fn send(&self, socket: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
        self.send_raw(socket.as_raw_fd(), data)
    }

    /// Like [`SocketSender::send`], for a shard, which knows its sockets by their numbers.
    ///
    /// # Errors
    /// As `send`; `EBADF` where the number is no descriptor.
    ///
    /// # Panics
    /// On a thread with a private table that did not keep this sender, as [`crate::Waker::wake`] does.
    pub fn send_raw(&self, socket: RawFd, data: &[u8]) -> io::Result<()> {
        let kept = table::holds(self.fd.as_raw_fd());
        assert!(kept, "this thread's private descriptor table does not keep the channel");
        if data.len() > DATA_LIMIT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a passed socket carries at most {DATA_LIMIT_BYTES} bytes, not {}", data.len()),
            ));
        }
        let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let mut control = Control([0; CONTROL_BYTES]);
        let message = message(&mut part, &mut control);
        // SAFETY: the control buffer holds a header and one descriptor (asserted above), so the first
        // header exists and its data has room for a RawFd. `control` outlives the pointers.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<RawFd>(), socket);
        }
        loop {
            // SAFETY: `message` points to `part` and `control`, which outlive the call; the kernel only
            // reads.
            let sent = unsafe {
                libc::sendmsg(self.fd.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            };
            if sent >= 0 {
                debug_assert_eq!(sent as usize, data.len(), "a packet is sent whole");
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl SocketReceiver {
    /// The next socket and, in `buffer` (which is cleared first), its bytes; `None` when nothing is there.
    ///
    /// # Errors
    /// - `UnexpectedEof`: every sender is gone and nothing is left.
    /// - `EMFILE`: this thread's table is full. The message is used up and its socket closed by the
    ///   kernel; there may be more behind it.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Option<OwnedFd>> {
        buffer.clear();
        buffer.reserve(DATA_LIMIT_BYTES);
        let room = buffer.spare_capacity_mut();
        let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let mut control = Control([0; CONTROL_BYTES]);
        let mut message = message(&mut part, &mut control);
        let received = loop {
            // SAFETY: `message` points to the buffer's spare room and to `control`, both valid to write to.
            let received = unsafe {
                libc::recvmsg(self.fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
            };
            if received >= 0 {
                break received as usize;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        };

        let socket = take_socket(&message);
        if message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let Some(socket) = socket else {
            // Each message has a socket, so this is none: the stream is at its end.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "every sender of sockets is gone"));
        };
        debug_assert_eq!(message.msg_flags & libc::MSG_TRUNC, 0, "the buffer holds the largest message");
        // SAFETY: the kernel wrote that many bytes, and it was given no more room than the capacity.
        unsafe { buffer.set_len(received) };
        Ok(Some(socket))
    }

    /// Waits until [`SocketReceiver::receive`] has something to say, an end included, and returns `false`
    /// if `timeout` passed first (`None`: waits without end). A signal may end the wait early.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // Rounded up: a wait that ends before its time makes the caller turn in circles.
        let timeout_ms = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: one valid pollfd is given, and its count.
        match check(unsafe { libc::poll(&mut poll, 1, timeout_ms) }) {
            Ok(ready) => Ok(ready > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A message header over one part and one control buffer. The pointers are valid as long as both are.
fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all-zero is a valid, empty msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) } as _;
    message
}

/// The descriptor in a received message.
fn take_socket(message: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: the kernel has set the control length to what it wrote; the macro checks it for a header.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return None;
    }
    // SAFETY: not null, so it points to a whole header inside the control buffer.
    let (level, kind, length) =
        unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
    // SAFETY: CMSG_LEN only computes.
    let whole = unsafe { libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) } as usize;
    if level != libc::SOL_SOCKET || kind != libc::SCM_RIGHTS || length < whole {
        return None;
    }
    // SAFETY: the header says that a RawFd follows; the kernel has just put it into our table, so it has
    // no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>())) })
}

impl AsFd for SocketSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SocketSender {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for SocketReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SocketReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
