//! `cargo xtask loom`: the models of what threads share, in every order that their steps can have.

use std::process::{Command, ExitCode};

use crate::test::Tally;
use crate::{cargo, line_of, listen, not_started, target_directory};

/// Where the models are, in each of the modules that have some.
const MODELS: &str = "::models::";

/// How far to search.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Interruptions of a thread in one run, for every model; each more takes several times as long [default:
    /// each model's own, chosen so that all take less than a minute]
    #[arg(long, value_name = "COUNT")]
    preemptions: Option<usize>,
    /// Only the models with this in their names
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Builds in a folder of its own, since the whole tree is compiled with other flags, and runs the models.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let wanted = options.name.as_deref().unwrap_or_default();
    let list = list()?;
    let names = named(&list, wanted);
    if names.is_empty() {
        return Err(format!("no model has {wanted:?} in its name"));
    }
    let mut models = tests();
    models.arg("--exact").args(&names);
    if let Some(count) = options.preemptions {
        models.env("LOOM_MAX_PREEMPTIONS", count.to_string());
    }
    let mut tally = Tally::default();
    let status = listen(&mut models, |line| tally.add(line))?;
    if !status.success() {
        return Err(format!("{} ended with {status}", line_of(&models)));
    }
    if tally.passed != names.len() as u64 {
        return Err(format!("of {} models {} passed", names.len(), tally.passed));
    }
    Ok(ExitCode::SUCCESS)
}

/// The test program of the engine, built for loom; what is added are arguments to it.
fn tests() -> Command {
    let mut tests = cargo(["test", "--package", "fanfare", "--lib", "--release", "--"]);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    tests.env("RUSTFLAGS", format!("{flags} --cfg fanfare_loom"));
    // It makes the models no faster, and their build slower.
    tests.env("CARGO_PROFILE_RELEASE_LTO", "off");
    tests.env("CARGO_TARGET_DIR", target_directory().join("loom"));
    tests
}

/// What the test program lists.
fn list() -> Result<String, String> {
    let mut list = tests();
    list.arg("--list").stderr(std::process::Stdio::inherit());
    let output = list.output().map_err(|error| not_started(&list, &error))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", line_of(&list), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The models with this in their names. The names of others, and of the module, do not count.
fn named<'a>(list: &'a str, wanted: &str) -> Vec<&'a str> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.filter(|test| test.split_once(MODELS).is_some_and(|(_, name)| name.contains(wanted))).collect()
}

#[cfg(test)]
mod tests {
    use super::named;

    /// A name that did not begin with it was left out, and nothing at all was a success.
    #[test]
    fn a_model_is_found_by_any_part_of_its_name() {
        let list =
            "log::wake: test\nmailbox::models::no_wake_up: test\nmailbox::models::order: test\n\n3 tests";
        assert_eq!(named(list, "wake"), ["mailbox::models::no_wake_up"]);
        assert_eq!(named(list, "models"), [""; 0]);
        assert_eq!(named(list, "").len(), 2);
    }
}
