//! A snapshot of the server and the kernel, to be compared with another one.

use std::time::Duration;

use crate::clock;
use crate::cores::Cores;
use crate::sample::{self, Cpu, Kernel, Server};

/// A snapshot of the server and the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) user: Option<u64>,
    pub(super) kernel: Kernel,
    pub(super) cpu: Option<Cpu>,
    pub(super) cores: Cores,
    pub(super) at: u64,
}

impl Snapshot {
    pub(super) fn at(server: Option<Server>, only_cpu: bool) -> Snapshot {
        let mut snapshot = Snapshot {
            cpu: server.and_then(|server| server.cpu().ok()),
            cores: Cores::now(),
            ..Snapshot::default()
        };
        if !only_cpu {
            snapshot.user = server.and_then(Server::user_bytes);
            snapshot.kernel = sample::kernel();
        }
        snapshot.at = clock::now();
        snapshot
    }
}

/// A snapshot once the kernel has put away what earlier runs left behind, or after a while.
pub(super) fn quiet_snapshot(server: Option<Server>) -> Snapshot {
    /// What a quiet machine's slab moves by.
    const CALM: u64 = 1 << 20;
    let mut snapshot = Snapshot::at(server, false);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(150));
        let next = Snapshot::at(server, false);
        let moved = next.kernel.slab.abs_diff(snapshot.kernel.slab);
        snapshot = next;
        if moved < CALM {
            break;
        }
    }
    snapshot
}
