//! Log, audiences, windows and laggards, in any order of joins, sends, stalls and publishes, against the
//! naive model of the protocol's own tests.

#[path = "../../proto/tests/model/world.rs"]
mod world;

use world::{Choices, World};

/// More makes each run slower and finds nothing that a shorter one cannot.
const LONGEST: usize = 512;

/// Each byte is a choice; when they have ended, everybody must come to have everything.
pub(crate) fn check(input: &[u8]) {
    let mut world = World::new(Choices::from_bytes(&input[..input.len().min(LONGEST)]));
    while !world.is_over() {
        world.step();
        world.check();
    }
    world.finish();
}
