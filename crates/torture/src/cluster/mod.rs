//! Nodes that share a log on NATS JetStream, and faults of nodes, of NATS servers and of the links between
//! them.
//!
//! Three processes `fanfare serve` and a real NATS server, or three of them with a replica of the stream on
//! each. Every node reaches each NATS server through a link that can be cut. Publishers and subscribers run
//! throughout and stand behind a load balancer: a subscriber whose node ends comes back to another one with
//! its last event id, and a publisher whose event has an own id repeats it at any node until it is
//! acknowledged. Other publishers send each event once, without an own id: what is not answered may be there
//! once or not at all.
//!
//! A fault is a [`script::Script`]. After each one everything is mended, the publishers pause, and
//! [`check::check`] compares all logs of all subscribers with what was acknowledged, and with each other:
//! each event once, in one order with one id on all nodes, and no gap where the script expects none.
//!
//! What NATS does not promise is not tested here: it acknowledges before a message is on the disk, unless
//! `sync_interval: always` is set. A process that is killed loses nothing by that, a machine may.

mod check;
mod publisher;
mod records;
mod script;
mod subscriber;
mod table;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::table::Table;
use crate::cluster::world::World;

/// What to run.
pub(crate) struct Plan {
    /// Parts of the names of the scripts. Empty: all scripts.
    pub(crate) scripts: Vec<String>,
    /// Only scripts of the smoke run.
    pub(crate) smoke: bool,
    /// The scripts are only listed.
    pub(crate) list: bool,
    /// What the nodes log is always printed.
    pub(crate) logs: bool,
    pub(crate) rounds: u32,
    pub(crate) seed: u64,
}

/// Runs the scripts. Returns whether nothing was violated.
///
/// # Errors
/// NATS or the nodes do not start, or do not recover from a fault.
pub(crate) fn run(plan: &Plan, stop: &Arc<AtomicBool>) -> Result<bool, String> {
    let asked = |name: &str| plan.scripts.is_empty() || plan.scripts.iter().any(|part| name.contains(part));
    let mut scripts = script::all();
    scripts.retain(|script| asked(&script.name) && (script.smoke || !plan.smoke));
    if scripts.is_empty() {
        return Err("no script has such a name; --list lists them".to_owned());
    }
    if plan.list {
        for script in &scripts {
            println!("{:<10} {}", format!("{:?}", script.topology), script.name);
        }
        return Ok(true);
    }
    let mut table = Table::new(plan.logs);
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut world: Option<World> = None;
    'rounds: for _ in 0..plan.rounds {
        for script in &scripts {
            if stop.load(Ordering::Relaxed) {
                break 'rounds;
            }
            if world.as_ref().is_none_or(|world| world.topology() != script.topology) {
                // The old one ends before the new one takes memory and time of the machine.
                drop(world.take());
                world = Some(World::start(script.topology, random.fork())?);
            }
            let Some(running) = &mut world else { break };
            let outcome = running.play(script);
            // After a violation the next script begins with a cluster that has no history.
            if !table.add(script, outcome) {
                world = None;
            }
        }
    }
    Ok(table.conclude() && !stop.load(Ordering::Relaxed))
}
