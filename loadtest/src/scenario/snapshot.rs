//! A snapshot of the server and the kernel, to be compared with another one.

use std::time::Duration;

use crate::clock;
use crate::cores::Cores;
use crate::distributed::{ServerSample, Watched};
use crate::sample::{Cpu, Kernel};

/// A snapshot of the server and the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) user: Option<u64>,
    /// Of the machine where the server is.
    pub(super) kernel: Option<Kernel>,
    pub(super) cpu: Option<Cpu>,
    pub(super) cores: Cores,
    pub(super) at: u64,
}

impl Snapshot {
    /// Where no server is named, and the subscribers are `here`, the server is taken to be here, too.
    pub(super) fn at(server: Option<&Watched>, only_cpu: bool, here: bool) -> Snapshot {
        let sample = match server {
            Some(server) => server.sample(only_cpu),
            None if here => ServerSample::at(None, only_cpu),
            None => ServerSample { kernel: None, ..ServerSample::at(None, true) },
        };
        let ServerSample { user, kernel, cpu, cores } = sample;
        Snapshot { user, kernel, cpu, cores, at: clock::now() }
    }
}

/// A snapshot once the kernel has put away what earlier runs left behind, or after a while.
pub(super) fn quiet_snapshot(server: Option<&Watched>, here: bool) -> Snapshot {
    /// What a quiet machine's slab moves by.
    const CALM: u64 = 1 << 20;
    let slab = |snapshot: &Snapshot| snapshot.kernel.map_or(0, |kernel| kernel.slab);
    let mut snapshot = Snapshot::at(server, false, here);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(150));
        let next = Snapshot::at(server, false, here);
        let moved = slab(&next).abs_diff(slab(&snapshot));
        snapshot = next;
        if moved < CALM {
            break;
        }
    }
    snapshot
}
