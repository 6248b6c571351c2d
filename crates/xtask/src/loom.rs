//! `cargo xtask loom`: the models of what threads share, in every order that their steps can have.

use std::process::ExitCode;

use crate::{cargo, must, root};

/// How far to search.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Interruptions of a thread in one run, for every model; each more takes several times as long [default: each
    /// model's own, chosen so that all take less than a minute]
    #[arg(long, value_name = "COUNT")]
    preemptions: Option<usize>,
    /// Only the models with this in their names
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Builds in a folder of its own, since the whole tree is compiled with other flags, and runs the models.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let name = format!("mailbox::models::{}", options.name.as_deref().unwrap_or_default());
    let mut models = cargo(["test", "--package", "fanfare", "--lib", "--release", &name]);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    models.env("RUSTFLAGS", format!("{flags} --cfg fanfare_loom"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    models.env("CARGO_TARGET_DIR", target.join("loom"));
    if let Some(count) = options.preemptions {
        models.env("LOOM_MAX_PREEMPTIONS", count.to_string());
    }
    must(&mut models)?;
    Ok(ExitCode::SUCCESS)
}
