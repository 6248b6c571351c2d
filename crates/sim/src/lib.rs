//! The engine, simulated: the real hub and the real shards, in one thread, on a hostile network in memory and
//! a clock that is driven by hand, against a naive model.
//!
//! One seed is one story: its bounds, its clients, what they do and when. Each client checks every byte of
//! its stream against the list of all events, over all of its connections; the network holds the shards to
//! the contract of `Io`; after every tick the shards check themselves. In the end every client has
//! everything, and all leave, or the engine drains. A story that goes wrong panics.
//!
//! One world in three has a durable store: then the process ends at any step of a commit, and another engine
//! opens the same disk (see `stored.rs` and `disk.rs`).
//!
//! - [`story`] tells one, from [`Choices`]: a seed, or bytes that a fuzzer has chosen;
//! - `cargo xtask sim` tells very many, on all cores;
//! - `cargo xtask planted` plants bugs, and checks whether they are found.

mod actions;
mod checks;
mod choices;
mod client;
mod clients;
mod connection;
mod desk;
mod disk;
mod ending;
mod history;
mod life_cycle;
mod listing;
mod log_model;
mod members;
mod network;
mod network_io;
mod orders;
mod pieces;
mod publishers;
mod repetitions;
mod response;
mod setting;
mod shared;
mod stored;
#[cfg(test)]
mod stories;
mod subscription;
mod sweep;
mod tally;
mod trace;
mod verifier;
mod wishes;
mod world;

pub use choices::Choices;
pub use sweep::{Failure, Sweep, Swept, sweep};
pub use tally::{Occurrence, Tally};
pub use trace::Trace;

/// Steps of a story, if not told otherwise.
pub const STEPS: usize = 300;

/// Tells one story of at most so many steps (fewer where the choices come to their end before), and says what
/// happened in it.
///
/// # Panics
/// Something is wrong: with the engine, or with the model.
pub fn story(choices: Choices, steps: usize, trace: Trace) -> Tally {
    let mut world = world::World::new(choices, trace);
    // Some end early: a drain may come at any moment.
    let steps = if world.shared.one_in(4) { world.shared.below(steps.min(1 << 16)) } else { steps };
    for _ in 0..steps {
        if world.shared.choices.borrow().are_over() {
            break;
        }
        world.step();
    }
    if world.shared.one_in(3) {
        world.drain();
    } else {
        world.let_all_catch_up();
        if world.shared.one_in(2) {
            world.drain();
        } else {
            world.all_leave();
        }
    }
    world.end();
    world.shared.tally.take()
}
