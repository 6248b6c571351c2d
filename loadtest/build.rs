//! Tells the program the commit that it is built from, for its reports. The same sources at the same commit
//! give the same program. Outside of a clone of the repository the commit is unknown, unless
//! FANFARE_LOAD_COMMIT says it. It tells the versions of the libraries that the baselines are made of, too,
//! from Cargo.lock.

use std::process::Command;

const GIVEN: &str = "FANFARE_LOAD_COMMIT";
const LOCK: &str = "../Cargo.lock";
/// What the program is built from. Results that are being measured make it no other program.
const SOURCES: [&str; 4] = ["build.rs", "Cargo.toml", "src", "baselines"];
const LIBRARIES: [&str; 3] = ["axum", "hyper", "tokio"];

fn main() {
    println!("cargo:rerun-if-env-changed={GIVEN}");
    // Whether they differ from the commit is asked again when one of them changes.
    for own in SOURCES {
        println!("cargo:rerun-if-changed={own}");
    }
    let commit = match std::env::var(GIVEN) {
        Ok(given) if !given.is_empty() => given,
        _ => commit().unwrap_or_else(|| "unknown".to_owned()),
    };
    println!("cargo:rustc-env={GIVEN}={commit}");
    tell_versions();
}

fn tell_versions() {
    println!("cargo:rerun-if-changed={LOCK}");
    let text = std::fs::read_to_string(LOCK).unwrap_or_default();
    for library in LIBRARIES {
        let after_name = text.split_once(&format!("name = \"{library}\"\nversion = \""));
        let version = after_name.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("of unknown version");
        println!("cargo:rustc-env=VERSION_OF_{}={version}", library.to_uppercase());
    }
}

fn commit() -> Option<String> {
    // A repository that does not know this file is another program's, around an unpacked archive.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // HEAD names a branch, whose own file moves with each commit; or all are in packed-refs.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // What does not exist would have this script run each time.
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let changed = !git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?.is_empty();
    Some(if changed { format!("{commit}-modified") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
