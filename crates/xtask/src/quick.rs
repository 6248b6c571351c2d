//! `cargo xtask quick`: what a contributor runs before each commit, in under two minutes where all is built
//! but the change. `.ci/run` has the rest.

use std::process::ExitCode;

use crate::{cargo, documents, must};

/// The packages whose tests need neither sockets of a server nor time.
const TESTED: [&str; 7] =
    ["fanfare-proto", "fanfare-io", "fanfare-store", "fanfare", "fanfare-access", "fanfare-config", "xtask"];

/// Stops at the first fault, because its mend may change what comes behind.
pub(crate) fn run() -> Result<ExitCode, String> {
    must(&mut cargo(["fmt", "--all", "--check"]))?;
    documents::check()?;
    must(&mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut tests = cargo(["test", "--quiet", "--lib", "--bins"]);
    for package in TESTED {
        tests.args(["--package", package]);
    }
    must(&mut tests)?;
    must(&mut cargo(["test", "--quiet", "--package", "fanfare-sim", "--test", "seeds"]))?;
    println!("quick checks are in order; .ci/run has the rest");
    Ok(ExitCode::SUCCESS)
}
