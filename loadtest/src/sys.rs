//! Every system call that the standard library does not offer, and all `unsafe` of this crate.
//!
//! Each function is a safe wrapper over one call; nothing here knows about HTTP, events or scenarios.

#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Turns a return value of -1 into the error it stands for.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds on CLOCK_MONOTONIC, which is one clock for all processes of a machine.
pub(crate) fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970, for what other programs date.
pub(crate) fn calendar_ns() -> u64 {
    read_clock(libc::CLOCK_REALTIME)
}

/// Processor time of the calling thread in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Processor time of all threads of a process in nanoseconds. Threads that have ended count, and so do the
/// kernel's workers for a ring (`iou-wrk-PID`), which are threads of the process.
pub(crate) fn process_cpu_ns(pid: u32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid, writable clockid_t for the length of the call.
    if unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } != 0 {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec; the clock of a process that is gone is an error.
    let told = unsafe { libc::clock_gettime(clock, &mut time) } == 0;
    told.then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Sleeps until a time on CLOCK_MONOTONIC; returns early when a signal arrives.
pub(crate) fn sleep_until_ns(when: u64) {
    let time = libc::timespec {
        tv_sec: (when / 1_000_000_000) as libc::time_t,
        tv_nsec: (when % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `time` is a valid timespec; the remainder is not asked for, which is allowed with
    // TIMER_ABSTIME.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut()) };
}

/// Lets timers of the calling thread fire exactly instead of up to 50 us late.
pub(crate) fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches only the calling thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Gives the calling thread a descriptor table of its own: RLIMIT_NOFILE then counts per thread, and no lock
/// is shared with other threads when sockets are opened and closed. Needs no privilege.
pub(crate) fn private_descriptor_table() -> io::Result<()> {
    // SAFETY: only the calling thread's table is copied; every descriptor number keeps its meaning in it.
    check(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

/// The soft and the hard RLIMIT_NOFILE.
pub(crate) fn descriptor_limit() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit for the length of the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises the soft RLIMIT_NOFILE to the hard one; children inherit it.
pub(crate) fn raise_descriptor_limit() {
    let (_, hard) = descriptor_limit();
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit; a refusal leaves the old limit, which the preflight then names.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// Restricts a thread (0: the calling one) to some cores.
pub(crate) fn pin(thread: i32, cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set, and CPU_SET is bounds-checked by the set's own size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(core, &mut set);
        }
        set
    };
    // SAFETY: `set` is a valid cpu_set_t of the size that is passed.
    check(unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// The cores that the calling thread may run on.
pub(crate) fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is valid, writable, and of the size that is passed.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    // SAFETY: CPU_ISSET only reads `set`, and the index stays below its size.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// The kernel's number of the calling thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Sends a signal to a process that this tool started.
pub(crate) fn signal(pid: u32, number: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers; a process that is gone is an error, not a fault.
    check(unsafe { libc::kill(pid as libc::pid_t, number) }).map(drop)
}

/// Kills whatever is left of a process group that this tool started.
pub(crate) fn kill_group(leader: u32) {
    // SAFETY: killpg takes two integers; a group that is gone is an error, not a fault.
    let _ = unsafe { libc::killpg(leader as libc::pid_t, libc::SIGKILL) };
}

/// Starts a non-blocking connect. `Ok(true)`: it is connected already, which is usual on loopback.
pub(crate) fn connect(
    target: SocketAddr,
    source: Option<Ipv4Addr>,
    receive_buffer: usize,
) -> io::Result<(OwnedFd, bool)> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if receive_buffer > 0 {
        socket.set_recv_buffer_size(receive_buffer)?;
    }
    if let Some(source) = source {
        let on: libc::c_int = 1;
        // The port is then chosen at connect, so that it need only be unique per destination; without it each
        // source address would be used up after one range of ports whatever the destinations.
        // SAFETY: `on` is a valid c_int of the size that is passed, for the length of the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        check(result)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&target.into()) {
        Ok(()) => Ok((socket.into(), true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket.into(), false)),
        Err(error) => Err(error),
    }
}

/// The error that a finished non-blocking connect left behind.
pub(crate) fn socket_error(socket: &OwnedFd) -> io::Result<()> {
    match socket2::SockRef::from(socket).take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Reads what is there, without waiting.
pub(crate) fn receive(socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one live, exclusively borrowed slice.
    let read = unsafe { libc::recv(socket, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(read as usize) }
}

/// Bytes that wait in a socket's receive buffer.
pub(crate) fn unread(socket: RawFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one c_int, which is live and writable for the length of the call.
    check(unsafe { libc::ioctl(socket, libc::FIONREAD, &raw mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Writes without waiting and without SIGPIPE.
pub(crate) fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of one live slice.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Wakes a loop from another thread. mio's own waker is made with the loop, that is, in a table that the
/// other thread does not have.
pub(crate) struct Waker(OwnedFd);

impl Waker {
    /// To be made before the descriptor tables part ways: its number is then the same in all of them.
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: eventfd returns a new descriptor that has no other owner.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: as above.
        Ok(Waker(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The same waker under another number of this thread's table.
    pub(crate) fn again(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub(crate) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from a live u64. A full counter is a wake-up too, so no error matters.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub(crate) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to a live u64; an empty counter is not an error that matters.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

/// Tells tokio, in whose runtime this is called, to say when a descriptor is readable.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, and nothing closes it or puts another one in its
    // place before that is dropped.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
/// While settings of the machine have to be put back, a second Ctrl-C does not end the process either.
pub(crate) static HAS_TO_TIDY: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_: libc::c_int) {
    // The second Ctrl-C ends the process at once, because the first one was too slow for its user.
    if INTERRUPTS.fetch_add(1, Ordering::Relaxed) > 0 && !HAS_TO_TIDY.load(Ordering::Relaxed) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(130) };
    }
}

/// From here on the first SIGINT or SIGTERM is only noted, see [`interrupted`].
pub(crate) fn note_interrupts() {
    // SAFETY: the handler only touches an atomic and calls _exit, both async-signal-safe; an all-zero
    // sigaction is a valid one with no flags and an empty mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_interrupt as *const () as usize;
        libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
    }
}

/// Whether the run was asked to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTS.load(Ordering::Relaxed) > 0
}

/// From here on SIGINT and SIGTERM end the process again.
pub(crate) fn default_interrupts() {
    // SAFETY: SIG_DFL is a valid disposition for both signals.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
    }
}

/// Ends this process, or what it becomes, when the thread that started it ends. Returns whether `parent` is
/// still the process that it belongs to: one that had ended before sends no signal any more.
pub(crate) fn end_with_parent(parent: u32) -> bool {
    // SAFETY: PR_SET_PDEATHSIG takes one integer and touches only the calling process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong) };
    std::os::unix::process::parent_id() == parent
}

/// Listens on loopback with a backlog that a storm fits into, whatever the standard library's is. With
/// `shared` the port may have several listeners, and the kernel spreads new connections over them.
pub(crate) fn listen(address: SocketAddrV4, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
