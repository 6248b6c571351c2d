//! `cargo xtask sanitize`: the tests of what is unsafe or shared, under AddressSanitizer, ThreadSanitizer,
//! Miri and a standard library that watches descriptors. All need the nightly toolchain.

use std::process::{Command, ExitCode};

use crate::{output_of, root, status, target_directory};

/// How to sanitize.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What cannot run on this machine is named, and is no failure
    #[arg(long)]
    if_possible: bool,
    /// Only these
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(CHECKS.map(|check| check.name)))]
    names: Vec<String>,
}

/// One tool over some tests.
struct Check {
    name: &'static str,
    /// A component that it needs beside the nightly toolchain itself.
    component: Option<&'static str>,
    flags: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const CHECKS: [Check; 4] = [
    // The crates with `unsafe` in them and the shard. Not the server's: its only `unsafe` is its allocator,
    // and what that gives out AddressSanitizer does not watch.
    Check {
        name: "address",
        component: None,
        flags: "-Zsanitizer=address",
        arguments: &["test", "--package=fanfare-io", "--package=fanfare", "--lib", "--tests"],
        environment: &[],
    },
    // The publish path. The standard library is built anew: with the one that comes built, every mutex would
    // be a race. Only the test whose threads share a descriptor table: a number means the same in every
    // thread to it.
    Check {
        name: "thread",
        component: Some("rust-src"),
        flags: "-Zsanitizer=thread",
        arguments: &[
            "test",
            "-Zbuild-std",
            "--package=fanfare",
            "--test=threads",
            "all_subscribers_see_one_order_of_all_publishers",
        ],
        environment: &[],
    },
    // Built with its debug assertions, the standard library aborts where an owned descriptor was closed by
    // another owner.
    Check {
        name: "descriptors",
        component: Some("rust-src"),
        flags: "",
        arguments: &["test", "-Zbuild-std", "--package=fanfare-io", "--package=fanfare", "--lib", "--tests"],
        environment: &[],
    },
    // The protocol has no `unsafe`, the small containers below it have. Few and short worlds: Miri is slow.
    Check {
        name: "miri",
        component: Some("miri"),
        flags: "",
        arguments: &["miri", "test", "--package=fanfare-proto", "--test=model"],
        environment: &[
            ("FANFARE_SEEDS", "8"),
            ("FANFARE_STEPS", "40"),
            ("MIRIFLAGS", "-Zmiri-disable-isolation"),
        ],
    },
];

/// Runs every check that can run here, and ends with what did and what did not.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let (mut clean, mut found, mut impossible) = (Vec::new(), Vec::new(), Vec::new());
    for check in CHECKS
        .iter()
        .filter(|check| options.names.is_empty() || options.names.iter().any(|name| name == check.name))
    {
        println!("== {}", check.name);
        if let Some(reason) = obstacle(check) {
            println!("cannot run: {reason}");
            impossible.push(check.name);
        } else if status(&mut command(check)?)?.success() {
            clean.push(check.name);
        } else {
            found.push(check.name);
        }
    }
    for (what, names) in [("clean", &clean), ("FAILED", &found), ("not run", &impossible)] {
        if !names.is_empty() {
            println!("{what}: {}", names.join(", "));
        }
    }
    if !impossible.is_empty() && !options.if_possible {
        return Err(format!("{} did not run; --if-possible accepts that", impossible.join(", ")));
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why a check cannot run here.
fn obstacle(check: &Check) -> Option<String> {
    if output_of("rustup", &["run", "nightly", "rustc", "--version"]).is_none() {
        return Some("no nightly toolchain; rustup toolchain install nightly".to_owned());
    }
    let component = check.component?;
    let installed = output_of("rustup", &["component", "list", "--installed", "--toolchain", "nightly"]);
    let is_there = installed.is_some_and(|list| list.lines().any(|line| line.starts_with(component)));
    (!is_there).then(|| format!("rustup component add {component} --toolchain nightly"))
}

fn command(check: &Check) -> Result<Command, String> {
    let version = output_of("rustc", &["-vV"]).ok_or("`rustc -vV` fails")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let mut command = Command::new("rustup");
    // This xtask's own cargo and toolchain are in the environment.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command.args(["run", "nightly", "cargo"]).args(check.arguments);
    // With a --target the flags are not for build scripts and macros.
    command
        .args(["--target", host, "--target-dir"])
        .arg(target_directory().join("sanitize").join(check.name));
    command.env("LSAN_OPTIONS", format!("suppressions={}", root().join("crates/xtask/leaks.txt").display()));
    command.env("RUSTFLAGS", check.flags).envs(check.environment.iter().copied()).current_dir(root());
    Ok(command)
}
