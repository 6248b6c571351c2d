//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::baseline::Serve;
use crate::compare::Compare;
use crate::distributed::{Agent, Watch};
use crate::failure::Outcome;
use crate::find::Find;
use crate::outputs::Outputs;
use crate::refusal::Refusal;
use crate::scenario::{Churn, Idle, Kind, Listen, Load, Mixed, Saturate, Slow, Storm, Topics, read};
use crate::threshold::Threshold;

/// Opens very many event streams to a server, publishes, and judges every delivery.
///
/// Point it at a server:  fanfare-load fanout --url http://127.0.0.1:8844 -n 10000
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options of every scenario and those of one.
#[derive(Args)]
pub(crate) struct With<T: Args> {
    #[command(flatten)]
    own: T,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    outputs: Outputs,
}

/// A scenario without options of its own.
#[derive(Args)]
pub(crate) struct NoOptions {}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// One topic, everybody gets everything: latency, time to the last subscriber, CPU per delivery
    Fanout(Box<With<NoOptions>>),
    /// Memory per connection (the server's and the kernel's), CPU while idle
    Idle(Box<With<Idle>>),
    /// Measure whatever comes on the streams of any server, and publish nothing
    Listen(Box<With<Listen>>),
    /// Publish without a pause: deliveries a second
    Saturate(Box<With<Saturate>>),
    /// Everyone reconnects at once, with Last-Event-ID or without
    Storm(Box<With<Storm>>),
    /// A share of the readers stalls: what the others feel, what the server's memory does
    Slow(Box<With<Slow>>),
    /// Constant connect and leave
    Churn(Box<With<Churn>>),
    /// Many topics, published to in turn: one for each stream, or as is asked
    Topics(Box<With<Topics>>),
    /// A small topic beside a big broadcast
    Mixed(Box<With<Mixed>>),
    /// Run a scenario file
    Run(Box<RunFile>),
    /// Raise streams or the rate step by step until a threshold fails: what the server holds
    Find(Box<Find>),
    /// A scenario over several servers: table, JSON, and a page with plots
    Compare(Box<Compare>),
    /// Open streams to a baseline until it refuses, and name the limit that stopped it
    Refusal(Refusal),
    /// Run a server to compare with, in the foreground
    Baseline(Serve),
    /// Hold subscribers on this machine for a run that is conducted elsewhere (--agents)
    Agent(Box<Agent>),
    /// Tell the CPU and the memory of a server on this machine to a run elsewhere (--server-watch)
    Watch(Box<Watch>),
}

/// Options beside a scenario file.
#[derive(Args)]
pub(crate) struct RunFile {
    /// The scenario, a TOML file
    file: PathBuf,
    /// Another server than the file says
    #[arg(long)]
    url: Option<String>,
    /// The server's process
    #[arg(long)]
    server_pid: Option<u32>,
    /// The load machines
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "token")]
    agents: Vec<String>,
    /// Where the server's machine tells its CPU and memory
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "server_pid", requires = "token")]
    server_watch: Option<String>,
    /// The secret of the two, or @FILE
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Write every figure to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail where this is true of the run, beside what the file says; may be given several times
    #[arg(long, value_name = "THRESHOLD")]
    fail_if: Vec<Threshold>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    outputs: Outputs,
}

/// What is to be done.
pub(crate) enum Task {
    /// One run against one server.
    Scenario(Kind, Box<Load>, Outputs),
    /// Many runs against one server.
    Find(Box<Find>),
    /// Many runs against several servers.
    Compare(Box<Compare>),
    /// Find out where a server stops.
    Refusal(Refusal),
    /// Be a server.
    Baseline(Serve),
    /// Be a load machine.
    Agent(Box<Agent>),
    /// Look at a server.
    Watch(Box<Watch>),
}

impl Command {
    pub(crate) fn task(self) -> Outcome<Task> {
        let (kind, mut load, outputs) = match self {
            Command::Fanout(with) => (Kind::Fanout, with.load, with.outputs),
            Command::Topics(with) => (Kind::Topics(with.own), with.load, with.outputs),
            Command::Idle(with) => (Kind::Idle(with.own), with.load, with.outputs),
            Command::Listen(with) => (Kind::Listen(with.own), with.load, with.outputs),
            Command::Saturate(with) => (Kind::Saturate(with.own), with.load, with.outputs),
            Command::Storm(with) => (Kind::Storm(with.own), with.load, with.outputs),
            Command::Slow(with) => (Kind::Slow(with.own), with.load, with.outputs),
            Command::Churn(with) => (Kind::Churn(with.own), with.load, with.outputs),
            Command::Mixed(with) => (Kind::Mixed(with.own), with.load, with.outputs),
            Command::Find(find) => return Ok(Task::Find(find)),
            Command::Compare(compare) => return Ok(Task::Compare(compare)),
            Command::Refusal(refusal) => return Ok(Task::Refusal(refusal)),
            Command::Baseline(serve) => return Ok(Task::Baseline(serve)),
            Command::Agent(agent) => return Ok(Task::Agent(agent)),
            Command::Watch(watch) => return Ok(Task::Watch(watch)),
            Command::Run(run) => {
                let (kind, mut load) = read(&run.file)?;
                load.url = run.url.or(load.url);
                load.server_pid = run.server_pid.or(load.server_pid);
                load.server_watch = run.server_watch.or(load.server_watch);
                load.token = run.token.or(load.token);
                if !run.agents.is_empty() {
                    load.agents = run.agents;
                }
                load.json = run.json.or(load.json);
                load.quiet |= run.quiet;
                load.fail_if.extend(run.fail_if);
                (kind, load, run.outputs)
            }
        };
        load.follow_stages();
        Ok(Task::Scenario(kind, Box::new(load), outputs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    /// Options of other programs in the examples of the documents.
    const OF_OTHERS: [&str; 12] = [
        "backend",
        "check",
        "compact",
        "durability",
        "example",
        "heartbeat",
        "help",
        "host",
        "open",
        "raise",
        "release",
        "shards",
    ];

    /// The README promised `--strict-client`, which there was not.
    #[test]
    fn the_documents_name_only_options_that_there_are() {
        let command = Cli::command();
        let known: BTreeSet<&str> = command
            .get_subcommands()
            .flat_map(|command| command.get_arguments().filter_map(|argument| argument.get_long()))
            .chain(OF_OTHERS)
            .collect();
        for (name, text) in [
            ("loadtest/README.md", include_str!("../README.md")),
            ("docs/guides/load-test.md", include_str!("../../docs/guides/load-test.md")),
            (
                "docs/guides/load-test/any-server.md",
                include_str!("../../docs/guides/load-test/any-server.md"),
            ),
        ] {
            let options = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            for option in options.filter_map(|word| word.strip_prefix("--")).filter(|word| !word.is_empty()) {
                let is_rule = option.chars().all(|c| c == '-');
                assert!(is_rule || known.contains(option), "{name}: --{option}");
            }
        }
    }
}
