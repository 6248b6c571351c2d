//! How a thread shares its core with others.

use std::io;
use std::mem;

/// The slice that [`prefer_short_runs`] asks for: the shortest that the kernel gives.
const SHORTEST_SLICE_NS: u64 = 100_000;

/// `struct sched_attr` as `sched_setattr(2)` has had it from its beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// For a thread of the ordinary class: its slice, in nanoseconds (Linux 6.12).
    runtime: u64,
    deadline: u64,
    period: u64,
}

const ATTRIBUTES_BYTES: u32 = mem::size_of::<Attributes>() as u32;

/// Asks the kernel for short runs of the calling thread: it gets no more of its core than before, but when it
/// is woken it takes the core at once from a thread with longer runs. For a thread that answers requests
/// beside shards, which keep their cores busy for milliseconds.
///
/// Linux 6.12 and newer do so; older kernels accept the system call and change nothing.
///
/// # Errors
/// `EPERM` or `ENOSYS` where a filter forbids `sched_getattr(2)` or `sched_setattr(2)`. The thread is as
/// before.
pub fn prefer_short_runs() -> io::Result<()> {
    let attributes = Attributes { size: ATTRIBUTES_BYTES, runtime: SHORTEST_SLICE_NS, ..attributes()? };
    // SAFETY: the structure outlives the call, which reads as many bytes as `size` says; 0 means the calling
    // thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// What the calling thread has.
fn attributes() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the structure is valid to write to, and its true size is given; 0 means the calling thread.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, ATTRIBUTES_BYTES, 0) };
    check(result).map(|()| attributes)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_short_runs_is_otherwise_the_same() {
        std::thread::spawn(|| {
            let before = attributes().unwrap();
            prefer_short_runs().unwrap();
            let after = attributes().unwrap();
            assert_eq!(
                (after.policy, after.nice, after.priority),
                (before.policy, before.nice, before.priority)
            );
            // Kernels that know no slices say 0.
            assert!(after.runtime == SHORTEST_SLICE_NS || before.runtime == 0, "{before:?} {after:?}");
        })
        .join()
        .unwrap();
    }
}
