//! What a fault has at hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::Clock;

use crate::newcomer::ConnectTimes;
use crate::server::Plan;
use crate::target::Target;

/// One backend's server, and everything that faults share.
pub(crate) struct Run {
    pub(crate) target: Target,
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) random: fastrand::Rng,
    /// Scaled down, and nothing timed is judged.
    pub(crate) smoke: bool,
    pub(crate) stop: Arc<AtomicBool>,
    /// Newcomers without slow heads, and beside them.
    pub(crate) without_slow_heads: ConnectTimes,
    pub(crate) with_slow_heads: ConnectTimes,
}

impl Run {
    /// This in a full run, that in a smoke test.
    pub(crate) fn scaled<T>(&self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }

    /// A time between these, in seconds.
    pub(crate) fn seconds(&mut self, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(from + (to - from) * self.random.f64())
    }

    /// Waits, but not once somebody wants us to stop.
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

    /// A plan for another server, on an address of its own: on a port that clients use too, a client that connects while
    /// the server is down may meet itself and keep the port.
    pub(crate) fn plan_apart(&mut self) -> Plan {
        let host = Ipv4Addr::new(127, 77, self.random.u8(1..=254), self.random.u8(1..=254));
        Plan { listen: SocketAddr::from((host, 0)), shards: 2, ..self.plan.clone() }
    }
}
