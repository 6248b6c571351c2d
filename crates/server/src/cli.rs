//! The command line. The options of the server are defined in `fanfare-config`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use fanfare_config::Flags;

use crate::log_command::LogCommand;
use crate::token_command::TokenOptions;

/// Pushes Server-Sent Events to very many subscribers.
///
/// Without a command it serves, with good defaults.
#[derive(Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Flags,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the push server (the default)
    Serve(Flags),
    /// Publish to a running server
    #[command(after_help = EXIT_CODES)]
    Pub(PubOptions),
    /// Subscribe to a running server; one line per event
    #[command(after_help = EXIT_CODES)]
    Sub(SubOptions),
    /// Show the figures of a running server, once a second, as its dashboard does
    #[command(after_help = EXIT_CODES)]
    Top(TopOptions),
    /// Mint and inspect access tokens and signed URLs, for trying out
    Token(Box<TokenOptions>),
    /// Look into the directory of a durable log, and copy it as text
    #[command(subcommand)]
    Log(LogCommand),
    /// Check, explain and begin a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a folder, for packages
    #[command(hide = true)]
    Man {
        /// The folder, which has to be there
        folder: PathBuf,
    },
}

/// The commands of `fanfare config`.
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report all mistakes in a file, and in how its values go together
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the effective values of a server that is started so, and where each comes from
    Print(Flags),
    /// Print a file with every key and its default
    Example,
    /// Print the JSON schema of the file, for editors
    Schema,
}

/// Options of `fanfare pub`.
#[derive(Args)]
pub(crate) struct PubOptions {
    /// Topic to publish to
    pub(crate) topic: String,
    /// The data; `-`, or nothing where standard input is no terminal, publishes each line of it
    pub(crate) data: Option<String>,
    /// Type of the event
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Your own id for the event (not with standard input)
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Deliver the event only to subscribers whose token covers the topic
    #[arg(long)]
    pub(crate) private: bool,
    /// The longest line of standard input
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(crate) max_line: ByteSize,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// The server of a command, and how long the command waits for it.
#[derive(Args)]
pub(crate) struct ServerOptions {
    /// File with an access token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The server
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8844")]
    pub(crate) url: String,
    /// How long a connection may take to open
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    pub(crate) connect_timeout: Duration,
    /// How long the server may take to answer
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// How `fanfare sub` prints an event: always on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// An object with the members id, type and data
    Json,
    /// The data, its line feeds as \n and its backslashes as \\
    Data,
    /// The id, the type and the data with tabs between them, escaped in the same way
    Text,
}

/// Options of `fanfare sub`.
#[derive(Args)]
pub(crate) struct SubOptions {
    /// Topics to subscribe to
    #[arg(required_unless_present = "patterns", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Subscribe to all topics that match, too, such as 'orders/*'; may be given several times
    #[arg(long = "match", value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Resume after this event id, or `earliest` for everything retained
    #[arg(long, value_name = "ID", conflicts_with = "last", value_parser = event_id)]
    pub(crate) since: Option<String>,
    /// Begin with this number of the newest retained events, or as many as are in 64 MiB. They are printed
    /// when the newest event of the server has come, after a second without an event, or after ten seconds
    #[arg(long, value_name = "COUNT")]
    pub(crate) last: Option<usize>,
    /// How events are printed
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(crate) format: Format,
    /// The same as `--format data`
    #[arg(long, conflicts_with = "format")]
    pub(crate) data: bool,
    /// Stop after this number of events
    #[arg(long, visible_alias = "count", value_name = "COUNT", value_parser = value_parser!(u64).range(1..))]
    pub(crate) max: Option<u64>,
    /// End with the stream instead of reconnecting; the exit code is 4 where the stream breaks
    #[arg(long)]
    pub(crate) once: bool,
    /// Reconnect after this time without a byte, not even a heartbeat; 0s: never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "2m")]
    pub(crate) idle_timeout: Duration,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// Options of `fanfare top`.
#[derive(Args)]
pub(crate) struct TopOptions {
    /// The admin listener of the server
    #[arg(long, env = "FANFARE_ADMIN_URL", default_value = "http://127.0.0.1:8845")]
    pub(crate) url: String,
    /// Print the figures of one second as text and end; also where the output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    /// How long a connection may take to open
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    pub(crate) connect_timeout: Duration,
    /// How long the server may take to answer, and to send its next figures
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// An id that a field of a request can carry.
fn event_id(text: &str) -> Result<String, String> {
    if text.contains(char::is_control) {
        return Err("an id has no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// The meaning of the exit codes of `fanfare pub`, `sub` and `top`, for their help.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when no program reads the output any more
  1  something here failed: a file, the input, the output
  2  the command line is wrong
  3  the server refused, or is no server of event streams
  4  no server was reached, it did not answer in time, or it could not serve; another try may succeed";

#[cfg(test)]
mod same_names;
