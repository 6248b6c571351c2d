//! The thread that tells the agents what was published, and asks for their time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::agent::RemoteAgent;
use super::lock;
use crate::clock::{self, MILLISECOND};
use crate::distributed::messages::Order;

/// Between two questions for an agent's time during a run.
const PING: u64 = 50 * MILLISECOND;
/// Between two looks at what was published.
const PULSE: Duration = Duration::from_millis(1);
/// For each topic the time between two looks is so long at least: a look at ten million takes some 10 ms.
const PULSE_A_TOPIC: u64 = 20;
/// Counts in one message.
const COUNTS: usize = 100_000;

/// The state of that thread, and of all that it tells.
#[derive(Default)]
pub(super) struct Pulse {
    pub(super) agents: OnceLock<Vec<Arc<RemoteAgent>>>,
    pub(super) over: AtomicBool,
    pub(super) published: OnceLock<Arc<Vec<AtomicU64>>>,
    /// The counts that the agents were told last. The lock is held while they are told, so that no count
    /// falls.
    told: Mutex<Vec<u64>>,
}

impl Pulse {
    pub(super) fn run(&self) {
        let (mut pinged_at, mut told_at) = (0, 0);
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(PULSE);
            if let Some(published) = self.published.get()
                && clock::now() - told_at >= PULSE_A_TOPIC * published.len() as u64
            {
                told_at = clock::now();
                self.tell_published();
            }
            if clock::now() - pinged_at > PING {
                pinged_at = clock::now();
                for agent in self.agents.get().into_iter().flatten() {
                    let _ = agent.send(&Order::Ping { series: false, asked: clock::now() });
                }
            }
        }
    }

    /// Tells all agents what was published since they were told last. What cannot be sent has failed already.
    pub(super) fn tell_published(&self) {
        let Some(published) = self.published.get() else { return };
        let mut told = lock(&self.told);
        told.resize(published.len(), 0);
        let mut changed = Vec::new();
        for (topic, (told, count)) in told.iter_mut().zip(published.iter()).enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count != *told {
                *told = count;
                changed.push((topic as u32, count));
            }
        }
        for counts in changed.chunks(COUNTS) {
            for agent in self.agents.get().into_iter().flatten() {
                let _ = agent.send(&Order::Published(counts.to_vec()));
            }
        }
    }
}
