//! Who runs where: pinning, and the steered arrangement, undone when dropped.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::failure::{Failure, Outcome};
use crate::sample::Server;
use crate::sys;

const RPS: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
/// At the default of 1,000 packets are dropped and come again 200 ms later.
const LONG_BACKLOG: &str = "1000000";

/// Settings of the machine that are put back when this goes out of scope.
pub(crate) struct Steered(Vec<(&'static str, String)>);

impl Steered {
    /// Has loopback's receive work done on one core, as if the server were behind a network card.
    pub(crate) fn to(core: usize) -> Outcome<Steered> {
        let mask = format!("{:x}", 1u64 << core.min(63));
        sys::HAS_TO_TIDY.store(true, Ordering::Relaxed);
        let mut steered = Steered(Vec::new());
        // A network namespace has an lo of its own but not the backlog, which is the machine's: there, who
        // makes the namespace raises it.
        let there = |(path, _): &(&str, &str)| *path == RPS || Path::new(path).exists();
        for (path, value) in [(RPS, mask.as_str()), (BACKLOG, LONG_BACKLOG)].into_iter().filter(there) {
            let change = || -> std::io::Result<String> {
                let before = fs::read_to_string(path)?.trim().to_owned();
                fs::write(path, value)?;
                Ok(before)
            };
            // On an error the drop puts back what was changed already.
            let before = change().map_err(|error| {
                Failure::new(format!("--steered needs to write {path}: {error}; run it as root"))
            })?;
            // Who set it to the same before us will put it back.
            if before != value {
                steered.0.push((path, before));
            }
        }
        Ok(steered)
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            if let Err(error) = fs::write(path, before) {
                eprintln!("warning: {path} could not be set back to {before}: {error}");
            }
        }
        sys::HAS_TO_TIDY.store(false, Ordering::Relaxed);
    }
}

/// Moves every thread of a server to some cores.
pub(crate) fn pin_server(server: Server, cores: &[usize]) -> Outcome<()> {
    for thread in server.threads() {
        sys::pin(thread, cores)
            .map_err(|error| Failure::new(format!("--server-cores {cores:?}: thread {thread}: {error}")))?;
    }
    Ok(())
}
