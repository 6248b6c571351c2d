//! A small sweep. `cargo xtask sim` makes larger ones.

use std::thread;

use fanfare_sim::{Choices, Occurrence, STEPS, Sweep, Trace, story, sweep};

const SEEDS: u64 = 200;

#[test]
fn every_subscriber_gets_its_events_whole_and_once_or_is_told_of_a_gap() {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let swept = sweep(Sweep { from: 0, seeds: SEEDS, steps: STEPS, threads, failures: 1 }, &|| ());
    for failure in &swept.failures {
        println!("{}", failure.account.join("\n"));
        println!("seed {} fails: {}", failure.seed, failure.message);
        println!("replay: cargo xtask sim --seeds 1 --from {} --trace", failure.seed);
    }
    assert!(swept.failures.is_empty(), "a story went wrong");
    // Whatever a story may hold was in one of them: the simulator has not silently stopped to test it.
    let missing: Vec<&str> = swept.tally.missing().map(Occurrence::words).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn a_seed_tells_the_same_story_again() {
    for seed in 0..5 {
        let tell = || story(Choices::from_seed(seed), STEPS, Trace::Off);
        assert_eq!(tell(), tell());
    }
}

/// A fuzzer's bytes are a story too, however few they are.
#[test]
fn bytes_tell_a_story_that_ends_with_them() {
    for length in [0, 1, 10, 100, 3_000] {
        let bytes: Vec<u8> = (0..length).map(|index: u32| ((index * 7919) >> 3) as u8).collect();
        let tally = story(Choices::from_bytes(&bytes), usize::MAX, Trace::Off);
        assert!(tally.of(Occurrence::Tick) > 0);
    }
}
