//! The command line. The options of the server are defined in `fanfare-config`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use fanfare_config::Flags;

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
    Pub(PubOptions),
    /// Subscribe to a running server; one line per event
    Sub(SubOptions),
    /// Mint and inspect access tokens and signed URLs, for trying out
    Token(Box<TokenOptions>),
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

/// What `fanfare config` does.
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
    /// For subscribers whose token covers the topic, and no others
    #[arg(long)]
    pub(crate) private: bool,
    /// File with an access token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The server
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8844")]
    pub(crate) url: String,
}

/// Options of `fanfare sub`.
#[derive(Args)]
pub(crate) struct SubOptions {
    /// Topics to subscribe to
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Resume after this event id, or `earliest` for everything retained
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<String>,
    /// Print the data alone, its line feeds as \n; otherwise each line is a JSON object
    #[arg(long)]
    pub(crate) data: bool,
    /// Stop after so many events
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// End with the stream instead of reconnecting
    #[arg(long)]
    pub(crate) once: bool,
    /// File with an access token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The server
    #[arg(long, env = "FANFARE_URL", default_value = "http://127.0.0.1:8844")]
    pub(crate) url: String,
}

#[cfg(test)]
mod same_names;
