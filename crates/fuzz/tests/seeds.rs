//! Every seed of every target, in an ordinary test: what a fuzzer found once stays found.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs;
use std::path::{Path, PathBuf};

use fanfare_fuzz::TARGETS;

#[test]
fn every_seed_of_every_target_passes() {
    for target in TARGETS {
        let seeds = seeds_of(target.name);
        assert!(seeds.len() >= 5, "{} has {} seeds", target.name, seeds.len());
        for seed in seeds {
            let _shown = Shown(&seed);
            (target.check)(&fs::read(&seed).unwrap());
        }
    }
}

/// The seeds of a folder without a target would never be run.
#[test]
fn every_folder_of_seeds_has_a_target() {
    for entry in fs::read_dir(seeds()).unwrap() {
        let name = entry.unwrap().file_name();
        let known = TARGETS.iter().any(|target| name == target.name);
        assert!(known, "seeds/{} belongs to no target", name.display());
    }
}

/// Prints which seed it was, if it fails.
struct Shown<'s>(&'s Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed is {}", self.0.display());
        }
    }
}

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn seeds_of(target: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(seeds().join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
