//! A descriptor table that belongs to one thread.
//!
//! The threads of a process normally share one table of descriptors. A shard can leave it. Then no other
//! thread contends with it for the table's lock while thousands of clients connect, and `RLIMIT_NOFILE`
//! counts for each shard alone, so that an unprivileged process holds (limit x shards) connections.
//!
//! # What such a thread must not do
//!
//! After [`make_private`] a descriptor number of another thread **means something else on this thread**:
//! nothing, or one of our client sockets. Code on this thread must not use descriptors that were opened on
//! another thread, except 0, 1, 2 and the ones in `keep` and `wakers`. This includes descriptors that are
//! hidden in libraries: a log file, a connection pool, a `/dev/urandom` that is kept open. A logger that
//! writes to such a file from this thread would write its lines *into a subscriber's stream*. Nor must it
//! drop an `OwnedFd`, a `File` or a `TcpStream` of another thread: the drop closes whatever has the number
//! in this table. And it should start no threads: they would share its table without knowing.
//!
//! Sockets cross tables by [`crate::fd_channel`].

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::errors::check;
use crate::waker::{Waker, WakerName};

/// Standard input, output and error stay in every table.
const STANDARD_LIMIT: RawFd = 3;

thread_local! {
    /// What this thread kept when it left the shared table; `None` while it is in it.
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

struct Kept {
    numbers: Vec<RawFd>,
    /// By name: once this thread has left, the shared table may give a number that is kept here to a new
    /// waker.
    wakers: Vec<WakerName>,
}

/// Gives the calling thread a descriptor table of its own with 0, 1, 2, `keep` and `wakers`, under the same
/// numbers. Called once, at the start of the thread, before it opens anything.
///
/// The new table begins as a copy of the shared one, and a copy is a full reference: a client socket
/// that another thread closes would stay open, without a FIN to its peer, for as long as our copy of it
/// lives; a listener would go on to queue connections that no thread accepts. Therefore every inherited
/// descriptor that is not kept is closed here.
///
/// Also blocks every signal for this thread: a handler may use descriptors (the usual one writes a byte
/// into a pipe), and on this thread their numbers mean something else.
///
/// # Errors
/// `ENOMEM`, or `EPERM` under a seccomp filter that forbids `unshare(2)` or `close_range(2)`; `ENOSYS` before
/// Linux 5.9. The thread then still has the shared table, intact.
///
/// # Safety
/// From a successful call to the end of the calling thread, no code on this thread, and on no thread that
/// this thread starts, uses or closes a descriptor that was opened before the call, except 0, 1, 2 and the
/// numbers in `keep`. To drop the owner of a descriptor is to close it. [`Waker`]s need no promise: they
/// check by themselves whether they were kept.
///
/// ```compile_fail,E0133
/// fanfare_io::table::make_private(&[], &[]); // It was safe to call, and is not safe to call.
/// ```
pub unsafe fn make_private(keep: &[RawFd], wakers: &[Waker]) -> io::Result<()> {
    // A number that no table reaches: this closes nothing, and is refused before anything has changed.
    close_range(RawFd::MAX, RawFd::MAX)?;
    block_signals();
    // SAFETY: `unshare` touches no memory of ours. The descriptors it duplicates are dealt with below.
    check(unsafe { libc::unshare(libc::CLONE_FILES) })?;

    let numbers = keep.iter().copied().chain(wakers.iter().map(Waker::as_raw_fd));
    let mut kept: Vec<RawFd> = numbers.filter(|&fd| fd >= STANDARD_LIMIT).collect();
    kept.sort_unstable();
    kept.dedup();

    // Close the ranges between the kept numbers.
    let mut first = STANDARD_LIMIT;
    for &fd in &kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX)?;

    let kept = Kept { numbers: keep.to_vec(), wakers: wakers.iter().map(Waker::name).collect() };
    KEPT.with_borrow_mut(|slot| *slot = Some(kept));
    Ok(())
}

/// Finds out whether the kernel gives a thread of this process a private table.
pub(crate) fn probe() -> io::Result<()> {
    // SAFETY: the thread does nothing else, and then ends.
    let thread = thread::Builder::new().spawn(|| unsafe { make_private(&[], &[]) })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that tried panicked")))
}

/// Closes copies of descriptors in the calling thread's table after their owners have moved to a thread that
/// has since left this table by [`make_private`], so that the copies do not keep listeners and channels open.
///
/// # Safety
/// The calling thread's table has these numbers open, and no owner of them uses this table any more. Each
/// number is closed once.
///
/// ```compile_fail,E0133
/// fanfare_io::table::close_left_behind(&[0]); // A safe function could close any descriptor of the process.
/// ```
pub unsafe fn close_left_behind(moved: &[RawFd]) {
    for &fd in moved {
        // SAFETY: no memory is involved, and the caller promises that nothing in this table owns the number.
        unsafe { libc::close(fd) };
    }
}

/// How many descriptors a table of this process may hold: the soft `RLIMIT_NOFILE`.
///
/// # Errors
/// `EPERM` under a seccomp filter that forbids `getrlimit(2)`.
pub fn descriptor_limit() -> io::Result<usize> {
    Ok(usize::try_from(limits()?.rlim_cur).unwrap_or(usize::MAX))
}

/// Raises the soft `RLIMIT_NOFILE` of the whole process to the hard one where that is higher, and returns the
/// limit that is then in force. Where the kernel refuses, the limit stays as it was.
///
/// # Errors
/// `EPERM` under a seccomp filter that forbids `getrlimit(2)`.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let limit = limits()?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is only read. The result needs no check: the limit in force is read below.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) };
    }
    descriptor_limit()
}

/// How many descriptors the calling thread's table holds now.
///
/// # Errors
/// There is no proc(5) here.
pub fn open_descriptors() -> io::Result<usize> {
    let entries = std::fs::read_dir("/proc/thread-self/fd")?.count();
    // One of them is the directory's own.
    Ok(entries.saturating_sub(1))
}

fn limits() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

/// Whether the calling thread has left the shared table.
#[must_use]
pub fn is_private() -> bool {
    KEPT.with_borrow(Option::is_some)
}

/// Whether a descriptor that was made in the shared table means the same in the calling thread.
pub(crate) fn holds(fd: RawFd) -> bool {
    KEPT.with_borrow(|kept| match kept {
        None => true,
        Some(kept) => fd < STANDARD_LIMIT || kept.numbers.contains(&fd),
    })
}

/// Whether the descriptor of a waker means the same in the calling thread.
pub(crate) fn holds_waker(name: WakerName) -> bool {
    KEPT.with_borrow(|kept| kept.as_ref().is_none_or(|kept| kept.wakers.contains(&name)))
}

/// Whether `SIGPROF` reaches threads with a private table.
static PROFILED: AtomicBool = AtomicBool::new(false);

/// Lets `SIGPROF` reach the threads whose tables become private from now on, so that a profiler sees what
/// they do. They block all other signals.
///
/// # Safety
/// No handler of `SIGPROF` in this process uses a descriptor: on such a thread its number is another file's,
/// such as a subscriber's socket. Profilers that keep a pipe or a file for their samples do use one.
pub unsafe fn allow_profiling_signal() {
    PROFILED.store(true, Ordering::Relaxed);
}

fn block_signals() {
    // SAFETY: a zeroed `sigset_t` is valid, `sigfillset` fills it, and the old mask is not asked for. Faults
    // (`SIGSEGV` and its kind) are delivered even where they are blocked.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        if PROFILED.load(Ordering::Relaxed) {
            libc::sigdelset(&mut all, libc::SIGPROF);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved. The ranges hold numbers in use only where the table belongs to this
    // thread alone. So this closes its own copies, which nothing on this thread uses, as `make_private`'s
    // caller promises.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) };
    check(result as libc::c_int).map(drop)
}
