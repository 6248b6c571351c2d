//! `cargo xtask torture`: builds the server and the torturer, and lets the one at the other.

use std::process::ExitCode;

use crate::{cargo, must, status};

/// How to torture.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What the torturer takes; --help tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Both are built first, so that no compiler runs beside what is timed. A smoke run has the profile of the
/// tests, which have built most of it: every assertion of the engine is in it.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let is_smoke = options.arguments.iter().any(|argument| argument == "--smoke");
    let profile = if is_smoke { "dev" } else { "release" };
    let packages = ["--package", "fanfare-server", "--package", "fanfare-torture"];
    must(cargo(["build", "--profile", profile]).args(packages))?;
    let mut torture =
        cargo(["run", "--quiet", "--profile", profile, "--package", "fanfare-torture", "--bin"]);
    torture.args(["fanfare-torture", "--"]);
    let ended = status(torture.args(&options.arguments))?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
