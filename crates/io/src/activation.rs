//! Sockets that the service manager has opened and passed: systemd's socket activation, sd_listen_fds(3).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fmt, process};

use crate::errors::check;

/// The first passed descriptor: `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// More than a unit passes, and few enough to try each.
const MAX_SOCKETS: RawFd = 4096;

/// They were taken: a second owner would close what the first one uses.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A socket that was passed to this process.
#[derive(Debug)]
pub struct PassedSocket {
    /// Its `FileDescriptorName=`. Without that it is the name of the `.socket` unit, or `unknown`.
    pub name: String,
    /// The socket, closed on exec.
    pub socket: OwnedFd,
}

/// Why no sockets were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActivationError {
    /// `LISTEN_FDS` is not set, or zero.
    NoSockets,
    /// The sockets are for another process: `LISTEN_PID` is not this one's number.
    OtherProcess {
        /// What `LISTEN_PID` says.
        listen_pid: u32,
    },
    /// A variable is missing or not well-formed.
    Invalid {
        /// Its name.
        variable: &'static str,
        /// Its value, if it has one.
        value: Option<String>,
    },
    /// `LISTEN_FDNAMES` has another number of names than there are sockets.
    NamesDiffer {
        /// The number of names.
        names: usize,
        /// The number of sockets.
        sockets: usize,
    },
    /// One of the descriptors is not open.
    NotOpen {
        /// Its number.
        number: RawFd,
    },
    /// They were taken before.
    Taken,
}

/// Takes the sockets that systemd has passed to this process, in the order of its unit files.
///
/// A program takes them once, and before anything else in it does: the variables `LISTEN_PID`, `LISTEN_FDS`
/// and `LISTEN_FDNAMES` are the only sign that the descriptors from 3 on are passed sockets. The variables
/// stay set, because no program can remove them while other threads may read them; a child has another
/// process number, so it does not take the sockets for its own.
///
/// # Errors
/// [`ActivationError`]. Then nothing was taken.
pub fn take_passed_sockets() -> Result<Vec<PassedSocket>, ActivationError> {
    if TAKEN.load(Ordering::Relaxed) {
        return Err(ActivationError::Taken);
    }
    let names = passed(
        env::var_os("LISTEN_PID"),
        env::var_os("LISTEN_FDS"),
        env::var_os("LISTEN_FDNAMES"),
        process::id(),
    )?;
    for (number, _) in (FIRST..).zip(&names) {
        // SAFETY: no memory is involved. A number that is not open is an error.
        let set = check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) });
        set.map_err(|_| ActivationError::NotOpen { number })?;
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(ActivationError::Taken);
    }
    let own = |(number, name)| {
        // SAFETY: it is open, and systemd has passed it to this process, so that its program owns it
        // (sd_listen_fds(3)). The flag says that it has no owner yet.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        debug_assert!(socket.as_raw_fd() >= FIRST);
        PassedSocket { name, socket }
    };
    Ok((FIRST..).zip(names).map(own).collect())
}

/// The names of the passed sockets.
fn passed(
    pid: Option<OsString>,
    count: Option<OsString>,
    names: Option<OsString>,
    own_pid: u32,
) -> Result<Vec<String>, ActivationError> {
    let text = |value: OsString| value.to_string_lossy().into_owned();
    let Some(count) = count.map(text) else { return Err(ActivationError::NoSockets) };
    let pid = pid.map(text);
    let listen_pid: Option<u32> = pid.as_deref().and_then(|pid| pid.parse().ok());
    let Some(listen_pid) = listen_pid else {
        return Err(ActivationError::Invalid { variable: "LISTEN_PID", value: pid });
    };
    if listen_pid != own_pid {
        return Err(ActivationError::OtherProcess { listen_pid });
    }
    let sockets = match count.parse::<RawFd>() {
        Ok(0) => return Err(ActivationError::NoSockets),
        Ok(sockets @ 1..=MAX_SOCKETS) => sockets as usize,
        _ => return Err(ActivationError::Invalid { variable: "LISTEN_FDS", value: Some(count) }),
    };
    let Some(names) = names.map(text) else { return Ok(vec!["unknown".to_owned(); sockets]) };
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() != sockets {
        return Err(ActivationError::NamesDiffer { names: names.len(), sockets });
    }
    Ok(names)
}

impl fmt::Display for ActivationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSockets => f.write_str(
                "LISTEN_FDS names no sockets: this program was not started by a .socket unit of systemd",
            ),
            Self::OtherProcess { listen_pid } => write!(
                f,
                "LISTEN_PID is {listen_pid}, and this process has the number {}: the sockets of systemd are for another \
                 process; a script that starts this program has to `exec` it",
                process::id()
            ),
            Self::Invalid { variable, value: None } => write!(f, "{variable} is not set, and LISTEN_FDS is"),
            Self::Invalid { variable, value: Some(value) } => {
                write!(f, "{variable} is {value:?}, which is no number here")
            }
            Self::NamesDiffer { names, sockets } => {
                write!(f, "LISTEN_FDNAMES has {names} names, and LISTEN_FDS says {sockets} sockets")
            }
            Self::NotOpen { number } => write!(
                f,
                "LISTEN_FDS names the descriptor {number}, which is not open: something before this program has closed it"
            ),
            Self::Taken => f.write_str("the sockets of systemd were taken before"),
        }
    }
}

impl std::error::Error for ActivationError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pid: &str, count: &str, names: &str) -> Result<Vec<String>, ActivationError> {
        let given = |text: &str| (text != "-").then(|| OsString::from(text));
        passed(given(pid), given(count), given(names), 77)
    }

    #[test]
    fn what_the_variables_say() {
        assert_eq!(names("77", "2", "web:"), Ok(vec!["web".to_owned(), String::new()]));
        assert_eq!(names("77", "2", "-"), Ok(vec!["unknown".to_owned(); 2]));
        for (pid, count, listed, text) in [
            ("-", "-", "-", "not started by a .socket unit"),
            ("77", "-", "web", "not started by a .socket unit"),
            ("77", "0", "-", "not started by a .socket unit"),
            ("-", "1", "-", "LISTEN_PID is not set"),
            ("", "1", "-", "LISTEN_PID is \"\""),
            ("x", "1", "-", "LISTEN_PID is \"x\""),
            ("78", "1", "-", "LISTEN_PID is 78"),
            ("77", "", "-", "LISTEN_FDS is \"\""),
            ("77", "-1", "-", "LISTEN_FDS is \"-1\""),
            ("77", "1x", "-", "LISTEN_FDS is \"1x\""),
            ("77", "2147483647", "-", "LISTEN_FDS is \"2147483647\""),
            ("77", "99999999999", "-", "LISTEN_FDS is \"99999999999\""),
            ("77", "2", "web", "1 names, and LISTEN_FDS says 2"),
            ("77", "1", "a:b", "2 names, and LISTEN_FDS says 1"),
        ] {
            let error = names(pid, count, listed).unwrap_err().to_string();
            assert!(error.contains(text), "{pid:?} {count:?} {listed:?}: {error}");
        }
    }
}
