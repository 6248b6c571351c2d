//! `cargo xtask check`: what a reviewer should not have to look for.

use std::process::ExitCode;

use crate::{benchmarks, cargo, comments, documents, status};

/// Runs every check, also after one has failed, and names those that did.
pub(crate) fn run() -> Result<ExitCode, String> {
    let mut documentation = cargo(["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    let checks = [
        ("formatting", cargo(["fmt", "--all", "--check"])),
        ("lints", cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        ("documentation", documentation),
    ];

    let mut failed = Vec::new();
    for (name, mut command) in checks {
        if !status(&mut command)?.success() {
            failed.push(name);
        }
    }
    if let Err(faults) = documents::check() {
        println!("{faults}");
        failed.push("links of the documents");
    }
    if let Err(faults) = comments::check() {
        println!("{faults}");
        failed.push("comments");
    }
    if let Err(fault) = benchmarks::check() {
        println!("{fault}");
        failed.push("the document of benchmarks");
    }
    if failed.is_empty() {
        println!("formatting, lints, documentation, comments, links and benchmarks are in order");
        Ok(ExitCode::SUCCESS)
    } else {
        Err(format!("not in order: {}", failed.join(", ")))
    }
}
