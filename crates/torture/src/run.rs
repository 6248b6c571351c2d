//! One run against one backend.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::Clock;

use crate::newcomer::ConnectTimes;
use crate::server::Plan;
use crate::target::Target;

/// What the faults of one run share.
pub(crate) struct Run {
    pub(crate) target: Target,
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) random: fastrand::Rng,
    /// Faults are scaled down, and times are not judged.
    pub(crate) smoke: bool,
    pub(crate) stop: Arc<AtomicBool>,
    /// The times of newcomers without and with slow heads.
    pub(crate) without_slow_heads: ConnectTimes,
    pub(crate) with_slow_heads: ConnectTimes,
}

impl Run {
    /// The first value in a full run, the second in a smoke run.
    pub(crate) fn scaled<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }

    /// A random time between two times in seconds.
    pub(crate) fn seconds(&mut self, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(from + (to - from) * self.random.f64())
    }

    /// Waits, unless the run is asked to stop.
    pub(crate) fn wait(&self, time: Duration) {
        let deadline = self.clock.now() + time;
        while !self.stopped() && self.clock.now() < deadline {
            let left = deadline.saturating_sub(self.clock.now());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The plan of another server, on an address of its own. On a shared address, a client that connects
    /// while the server is down may get the server's port for its own end, connect to itself, and keep the
    /// port.
    pub(crate) fn plan_apart(&mut self) -> Plan {
        let host = Ipv4Addr::new(127, 77, self.random.u8(1..=254), self.random.u8(1..=254));
        Plan { listen: SocketAddr::from((host, 0)), shards: 2, ..self.plan.clone() }
    }
}
