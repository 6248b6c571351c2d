//! Which core a thread runs on.

use std::io;
use std::mem;

use crate::errors::check;

/// Keeps the calling thread on one core. Threads that it starts later inherit this.
///
/// # Errors
/// `EINVAL` if the core does not exist, or this process may not use it.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero `cpu_set_t` is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE, checked above.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set outlives the call and its true size is given; 0 means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set) })?;
    Ok(())
}

/// The cores that the calling thread may run on, in ascending order. It honours `taskset` and cpusets,
/// so it is the right number of shards in a container that was given whole cores.
///
/// # Errors
/// What `sched_getaffinity(2)` says, `EINVAL` on a machine with more cores than `cpu_set_t` holds (1024).
pub fn cores() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero `cpu_set_t` is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is valid to write to and its true size is given; 0 means the calling thread.
    check(unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set) })?;
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: `core` is below CPU_SETSIZE.
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core() {
        let all = cores().unwrap();
        assert!(!all.is_empty());
        let last = *all.last().unwrap();
        let seen = std::thread::spawn(move || {
            pin(last).unwrap();
            cores().unwrap()
        });
        assert_eq!(seen.join().unwrap(), vec![last]);
        assert_eq!(cores().unwrap(), all, "other threads keep theirs");
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        assert!(pin(libc::CPU_SETSIZE as usize - 1).is_err());
        assert!(pin(usize::MAX).is_err());
    }
}
