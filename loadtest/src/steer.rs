//! Who runs where: pinning, and the steered arrangement, undone when dropped.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::failure::{Failure, Outcome};
use crate::sample::Server;
use crate::scenario::Load;
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
        let mask = mask_of(core);
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
            // A program that set it to the same value before will put it back.
            if before != value {
                steered.0.push((path, before));
            }
        }
        Ok(steered)
    }
}

/// One core as the kernel's masks have it: groups of 32 bits in hexadecimal, the highest one first.
fn mask_of(core: usize) -> String {
    format!("{:x}{}", 1u32 << (core % 32), ",00000000".repeat(core / 32))
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

/// The cores that the client runs on: those that it was given, else all that this thread may use but the
/// server's, else all that this thread may use.
pub(crate) fn client_cores(load: &Load) -> Vec<usize> {
    let given: BTreeSet<usize> = load.client_cores.iter().copied().collect();
    if !given.is_empty() {
        return given.into_iter().collect();
    }
    let allowed = sys::allowed_cores();
    let beside: Vec<usize> =
        allowed.iter().copied().filter(|core| !load.server_cores.contains(core)).collect();
    if beside.is_empty() { allowed } else { beside }
}

/// Whether the server has cores on which nothing of the client runs.
pub(crate) fn server_is_alone(load: &Load) -> bool {
    let shared = |core: &usize| client_cores(load).contains(core);
    !load.server_cores.is_empty() && !load.server_cores.iter().any(shared)
}

/// Keeps the calling thread, and each thread that it starts, on some cores. It is put back when this goes out
/// of scope: a server that it starts later would inherit them.
pub(crate) struct Kept(Vec<usize>);

impl Kept {
    pub(crate) fn on(cores: &[usize]) -> Outcome<Kept> {
        let before = sys::allowed_cores();
        sys::pin(0, cores)
            .map_err(|error| Failure::new(format!("the client cannot run on cores {cores:?}: {error}")))?;
        Ok(Kept(before))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = sys::pin(0, &self.0) {
            eprintln!("warning: the main thread could not be put back on cores {:?}: {error}", self.0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(server: &[usize], client: &[usize]) -> Load {
        Load { server_cores: server.to_vec(), client_cores: client.to_vec(), ..Load::default() }
    }

    /// Each core above the 64th was taken for the 64th.
    #[test]
    fn every_core_has_a_mask_of_its_own() {
        let masks = [0, 1, 31, 32, 70].map(mask_of);
        assert_eq!(masks, ["1", "2", "80000000", "1,00000000", "40,00000000,00000000"]);
    }

    #[test]
    fn the_client_keeps_off_the_cores_of_the_server_where_it_can() {
        let allowed = sys::allowed_cores();
        assert_eq!(client_cores(&load(&[], &[])), allowed);
        assert_eq!(client_cores(&load(&[0], &[3, 1, 3])), [1, 3]);
        assert_eq!(client_cores(&load(&allowed, &[])), allowed);
        let beside = client_cores(&load(&allowed[..1], &[]));
        assert_eq!(beside.contains(&allowed[0]), allowed.len() == 1);
        assert!(server_is_alone(&load(&[0], &[1])) && !server_is_alone(&load(&[], &[1])));
        assert!(!server_is_alone(&load(&[0, 1], &[1])) && !server_is_alone(&load(&allowed, &[])));
    }

    #[test]
    fn a_thread_is_put_back_where_it_was() {
        let allowed = sys::allowed_cores();
        let kept = Kept::on(&allowed[..1]).unwrap();
        assert_eq!(sys::allowed_cores(), allowed[..1]);
        // What it starts is there, too.
        assert_eq!(std::thread::spawn(sys::allowed_cores).join().unwrap(), allowed[..1]);
        drop(kept);
        assert_eq!(sys::allowed_cores(), allowed);
        assert!(Kept::on(&[]).is_err());
    }
}
