//! The project's own commands: `cargo xtask --help` lists them.

mod bench;
mod benchmarks;
mod bom;
mod book;
mod capacity;
mod check;
mod cluster;
mod comments;
mod config;
mod documents;
mod failures;
mod fuzz;
mod loom;
mod package;
mod planted;
mod programs;
mod publishable;
mod quick;
mod sanitize;
mod sim;
mod test;
mod torture;

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use clap::Parser;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Run every test; install the browser and the proxies that some of them drive, where these are missing
    Test(test::Options),
    /// Check in under two minutes what a commit breaks most often
    Quick,
    /// Check formatting, lints, documentation and the links of the documents
    Check,
    /// Make a site of the documents
    Book,
    /// Check the documents that are made of the server's options, or renew them with --bless
    Config(config::Options),
    /// Try every order in which threads can use the mailbox and the hub
    Loom(loom::Options),
    /// Start three servers and NATS, and watch a subscriber that survives the loss of its server
    Cluster(cluster::Options),
    /// Run the benchmarks
    Bench(bench::Options),
    /// Make the document of benchmarks of its template and the raw files, or check it
    Benchmarks(benchmarks::Options),
    /// Do real faults to a running server, and check every delivery
    Torture(torture::Options),
    /// Fuzz one target, or all of them for a short time
    Fuzz(fuzz::Options),
    /// Run the tests of what is unsafe or shared under the sanitizers
    Sanitize(sanitize::Options),
    /// Run the engine in a simulated world, from many seeds
    Sim(sim::Options),
    /// Plant known bugs, and check whether they are found
    Planted(planted::Options),
    /// Build the release binary, its completions and man pages, and the Debian package
    Package(package::Options),
    /// Plan a cluster: nodes, memory, bandwidth, what saturates first, and what the loss of a node does
    Capacity(capacity::Options),
    /// Check the published crates: their interface, their packages, and their oldest dependencies
    Publishable(publishable::Options),
}

fn main() -> ExitCode {
    let done = match Xtask::parse() {
        Xtask::Test(options) => test::run(&options),
        Xtask::Quick => quick::run(),
        Xtask::Check => check::run(),
        Xtask::Book => book::run(),
        Xtask::Config(options) => config::run(&options),
        Xtask::Loom(options) => loom::run(&options),
        Xtask::Cluster(options) => cluster::run(&options),
        Xtask::Bench(options) => bench::run(&options),
        Xtask::Benchmarks(options) => benchmarks::run(&options),
        Xtask::Torture(options) => torture::run(&options),
        Xtask::Fuzz(options) => fuzz::run(&options),
        Xtask::Sanitize(options) => sanitize::run(&options),
        Xtask::Sim(options) => sim::run(&options),
        Xtask::Planted(options) => planted::run(&options),
        Xtask::Package(options) => package::run(&options),
        Xtask::Capacity(options) => capacity::run(&options),
        Xtask::Publishable(options) => publishable::run(&options),
    };
    done.unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::FAILURE
    })
}

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo builds.
fn target_directory() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The cargo that runs this xtask, in the workspace's root.
fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    cargo
}

/// Runs a command to its end; its output is seen as usual.
fn status(command: &mut Command) -> Result<ExitStatus, String> {
    command.status().map_err(|error| not_started(command, &error))
}

/// Runs a command that must succeed.
fn must(command: &mut Command) -> Result<(), String> {
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", line_of(command))) }
}

/// Runs a command, shows its standard output line by line as it comes, and gives each line to `heard`.
fn listen(command: &mut Command, mut heard: impl FnMut(&str)) -> Result<ExitStatus, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| not_started(command, &error))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| error.to_string())?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            heard(&line);
        }
    }
    child.wait().map_err(|error| error.to_string())
}

/// What a command prints, without the line's end; nothing if it fails.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn not_started(command: &Command, error: &io::Error) -> String {
    format!("{} does not start: {error}", line_of(command))
}

/// A command as a person would type it.
fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
