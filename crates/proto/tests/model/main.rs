//! The log and the audiences against a naive model, from seeds; see `world.rs`.
//!
//! A failure prints the line that replays it. `FANFARE_SEEDS` and `FANFARE_STEPS` set how many are tried.

mod world;

use world::{Choices, World};

const SEEDS: u64 = 300;
const STEPS: u64 = 300;

#[test]
fn every_subscriber_gets_its_events_once_and_in_order_or_a_sign() {
    let variable = |name| std::env::var(name).ok().map(|value: String| value.parse().unwrap());
    let seeds = match variable("FANFARE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("FANFARE_SEEDS").unwrap_or(SEEDS),
    };
    let steps = variable("FANFARE_STEPS").unwrap_or(STEPS);
    for seed in seeds {
        let _replay = Replay(seed);
        let mut world = World::new(Choices::from_seed(seed));
        for _ in 0..steps {
            world.step();
            world.check();
        }
        world.finish();
    }
}

/// Prints how to replay a seed, if it fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: FANFARE_SEED={} cargo test -p fanfare-proto --test model", self.0);
        }
    }
}
