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

/// Both are built first, so that no compiler runs beside what is timed.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    must(&mut cargo(["build", "--release", "--package", "fanfare-server", "--package", "fanfare-torture"]))?;
    let mut torture = cargo(["run", "--quiet", "--release", "--package", "fanfare-torture", "--"]);
    let ended = status(torture.args(&options.arguments))?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
