//! Steering: on plain loopback the sender also does the receiver's work. Receive packet steering moves
//! that to the client's core, as behind a network card, so that the sender's CPU time is the sender's.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::Outcome;

const RECEIVE_CORES: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

/// The default backlog of 1,000 packets overflows in a broadcast; what it drops comes again after 200 ms.
const BACKLOG_PACKETS: &str = "1000000";

/// Settings of the machine as they were, to be put back.
type Before = Arc<Mutex<Vec<(&'static str, String)>>>;

/// The right to change the machine's settings: whatever ends the process, they are put back (but for
/// SIGKILL, which nobody outlives).
pub struct Steering {
    before: Before,
}

/// Steered for as long as this lives.
pub struct Steered<'a> {
    steering: &'a Steering,
}

impl Steering {
    /// Called at the start of `main`, before any thread: each thread inherits that it takes no signals.
    /// A handler would not do, because some threads have descriptor tables of their own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn prepare() -> Outcome<Steering> {
        let before = Before::default();
        let signals = ending_signals();
        // SAFETY: the set outlives the call, and the old one is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) };
        let to_restore = Arc::clone(&before);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut signal = 0;
            // SAFETY: both outlive the call, and the set was filled in.
            unsafe { libc::sigwait(&signals, &mut signal) };
            restore(&to_restore);
            std::process::exit(128 + signal);
        })?;
        Ok(Steering { before })
    }

    /// Steers the loopback's receive work to `core`.
    ///
    /// # Errors
    /// The machine's settings may not be changed; what was changed until then is put back.
    pub fn steer(&self, core: usize) -> Outcome<Steered<'_>> {
        let steered = Steered { steering: self };
        self.set(BACKLOG, BACKLOG_PACKETS)?;
        self.set(RECEIVE_CORES, &core_mask(core))?;
        Ok(steered)
    }

    fn set(&self, path: &'static str, value: &str) -> Outcome<()> {
        let explain = |error| format!("cannot steer the loopback: {path}: {error}");
        let old = fs::read_to_string(path).map_err(explain)?;
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(path, value).map_err(explain)?;
        before.push((path, old));
        Ok(())
    }
}

impl Drop for Steered<'_> {
    fn drop(&mut self) {
        restore(&self.steering.before);
    }
}

fn restore(before: &Before) {
    // Held to the end: a signal that comes meanwhile must not end the process in the middle.
    let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some((path, value)) = before.pop() {
        if let Err(error) = fs::write(Path::new(path), value.trim()) {
            eprintln!("{path} could not be put back to {}: {error}", value.trim());
        }
    }
}

/// A set of cores as the kernel writes it: hexadecimal words of 32 bits, the highest first.
fn core_mask(core: usize) -> String {
    let zero_words = ",00000000".repeat(core / 32);
    format!("{:x}{zero_words}", 1_u32 << (core % 32))
}

fn ending_signals() -> libc::sigset_t {
    // SAFETY: all-zero is a valid sigset_t to write to, and the signals exist.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::core_mask;

    #[test]
    fn a_core_s_mask_has_words_of_32_bits() {
        assert_eq!(core_mask(1), "2");
        assert_eq!(core_mask(31), "80000000");
        assert_eq!(core_mask(33), "2,00000000");
    }
}
