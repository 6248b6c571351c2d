//! A look at the server and the kernel, to be compared with another one.

use std::time::Duration;

use crate::clock;
use crate::sample::{self, Cpu, Kernel, Server};

/// A look at the server and the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) user: Option<u64>,
    pub(super) kernel: Kernel,
    pub(super) cpu: Option<Cpu>,
    pub(super) at: u64,
}

impl Look {
    pub(super) fn at(server: Option<Server>, only_cpu: bool) -> Look {
        let mut look = Look { cpu: server.and_then(|server| server.cpu().ok()), ..Look::default() };
        if !only_cpu {
            look.user = server.and_then(Server::user_bytes);
            look.kernel = sample::kernel();
        }
        look.at = clock::now();
        look
    }
}

/// A look once the kernel has put away what earlier runs left behind, or after a while.
pub(super) fn quiet_look(server: Option<Server>) -> Look {
    /// What a quiet machine's slab moves by.
    const CALM: u64 = 1 << 20;
    let mut look = Look::at(server, false);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(150));
        let next = Look::at(server, false);
        let moved = next.kernel.slab.abs_diff(look.kernel.slab);
        look = next;
        if moved < CALM {
            break;
        }
    }
    look
}
