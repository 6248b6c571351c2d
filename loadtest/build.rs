//! Tells the program which versions of the libraries the baselines are made of, from Cargo.lock.

use std::path::Path;

const LIBRARIES: [&str; 3] = ["axum", "hyper", "tokio"];

fn main() {
    let lock = Path::new("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    for library in LIBRARIES {
        let after_name = text.split_once(&format!("name = \"{library}\"\nversion = \""));
        let version = after_name.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("of unknown version");
        println!("cargo::rustc-env=VERSION_OF_{}={version}", library.to_uppercase());
    }
}
