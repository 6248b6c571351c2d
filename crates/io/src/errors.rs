//! Small helpers over `errno`.

use std::io;

/// Turns the `-1` of a system call into the error of this thread's `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// This thread's `errno`, right after a failed system call.
pub(crate) fn errno() -> i32 {
    // SAFETY: the pointer to the thread's own `errno` is always valid.
    unsafe { *libc::__errno_location() }
}

/// The same error with the place or the advice in front of it; the kind stays.
pub(crate) fn annotate(error: &io::Error, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
