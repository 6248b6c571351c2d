//! The hub and its shards in the simulator's world, whose choices are taken from the bytes.

use fanfare_sim::{Choices, Trace, story};

/// The bytes tell how long the story is; this only keeps a run short.
const STEPS: usize = 300;

pub(crate) fn check(input: &[u8]) {
    story(Choices::from_bytes(input), STEPS, Trace::Off);
}
