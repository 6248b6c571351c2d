//! `cargo xtask config`: the documents that are made of the definitions of the server's options and metrics.

use std::process::ExitCode;

use crate::{cargo, must};

/// What to do with them.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write them anew, where they are stale
    #[arg(long)]
    bless: bool,
}

/// Checks `docs/CONFIGURATION.md`, `docs/fanfare.schema.json` and `docs/METRICS.md`, or renews them.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let mut test = cargo(["test", "--quiet", "--package", "fanfare-config", "--test", "documents"]);
    if options.bless {
        test.env("FANFARE_BLESS", "1");
    }
    must(&mut test)?;
    let mut metrics =
        cargo(["test", "--quiet", "--package", "fanfare-server", "--bin", "fanfare", "metrics::document"]);
    if options.bless {
        metrics.env("FANFARE_BLESS", "1");
    }
    must(&mut metrics)?;
    Ok(ExitCode::SUCCESS)
}
