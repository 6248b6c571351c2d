//! `cargo xtask cluster`: builds the server, and starts three of them on one NATS.

use std::process::ExitCode;

use crate::{cargo, must, status};

/// A cluster to try out.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Keep the cluster until Enter is pressed
    #[arg(long)]
    stay: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    must(&mut cargo(["build", "--package", "fanfare-server"]))?;
    must(&mut cargo([
        "build",
        "--package",
        "fanfare-testkit",
        "--features",
        "nats",
        "--example",
        "cluster",
    ]))?;
    let mut cluster = cargo(["run", "--quiet", "--package", "fanfare-testkit", "--features", "nats"]);
    cluster.args(["--example", "cluster", "--"]);
    cluster.arg(crate::target_directory().join("debug/fanfare"));
    if options.stay {
        cluster.arg("--stay");
    }
    let ended = status(&mut cluster)?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
