//! `cargo xtask sim`: builds the simulator, fast but with every assertion, and runs it.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::{cargo, status};

/// What to simulate; `cargo xtask sim --help` lists it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Passed on to the simulator: --seeds N --from S --steps N --threads N --failures N --trace
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let mut sim = cargo(ARGUMENTS);
    sim.arg("--").args(&options.arguments);
    Ok(if status(&mut sim)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const ARGUMENTS: [&str; 6] = ["run", "--quiet", "--profile", "sim", "--package", "fanfare-sim"];

/// The same in a copy of the workspace; its builds go to `target`.
pub(crate) fn command_in(workspace: &Path, target: &Path) -> Command {
    let mut sim = cargo(ARGUMENTS);
    sim.arg("--").current_dir(workspace).env("CARGO_TARGET_DIR", target);
    sim
}
