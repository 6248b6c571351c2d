//! `cargo xtask config`: the documents that are made of the definitions of the server's options, metrics and
//! problems.

use std::process::ExitCode;

use crate::{cargo, must};

/// What to do with them.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write them anew, where they are stale
    #[arg(long)]
    bless: bool,
}

/// Checks `docs/CONFIGURATION.md`, `docs/fanfare.schema.json`, `docs/METRICS.md`, `docs/PROBLEMS.md` and
/// `docs/openapi*.json`, or renews them.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let mut test = cargo(["test", "--quiet", "--package", "fanfare-config", "--test", "documents"]);
    if options.bless {
        test.env("FANFARE_BLESS", "1");
    }
    must(&mut test)?;
    let mut tables =
        cargo(["test", "--quiet", "--package", "fanfare-server", "--bin", "fanfare", "document::"]);
    if options.bless {
        tables.env("FANFARE_BLESS", "1");
    }
    must(&mut tables)?;
    Ok(ExitCode::SUCCESS)
}
