//! `fanfare`: the push server, and a publisher and a subscriber for the command line.

mod access;
mod access_log;
mod admission;
mod back_off;
mod cli;
mod cli_documents;
mod clock;
mod cluster;
mod command_server;
mod config_command;
mod configuration;
mod control;
mod cors;
mod fetched_keys;
mod forward;
mod health;
mod hosts;
mod http_connection;
mod key_files;
mod listen;
mod log_command;
mod log_output;
mod memory;
mod metrics;
mod presence;
mod printable;
mod profiling;
mod publisher;
mod refusals;
mod reload;
mod request_client;
mod restart;
mod revocations_file;
mod rules;
mod serve;
mod service_manager;
mod silence;
mod store;
mod subscriber;
mod token_command;
mod top;
mod turns;
mod verifications;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use command_server::Failure;
use configuration::ConfigurationError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(options)) => serve::serve(options),
        Some(Command::Pub(options)) => publisher::publish(&options).map_err(Into::into),
        Some(Command::Sub(options)) => subscriber::subscribe(&options).map_err(Into::into),
        Some(Command::Top(options)) => top::top(&options).map_err(Into::into),
        Some(Command::Token(options)) => token_command::run(&options.command),
        Some(Command::Log(command)) => log_command::run(command),
        Some(Command::Config(command)) => config_command::run(command),
        Some(Command::Completions { shell }) => cli_documents::print_completions(shell),
        Some(Command::Man { folder }) => cli_documents::write_man_pages(&folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<ConfigurationError>() {
            Some(error) => {
                for problem in error.problems() {
                    log_output::say(&format!("fanfare: {problem}"));
                }
                ExitCode::from(error.exit_code())
            }
            None => {
                log_output::say(&format!("fanfare: {error}"));
                error
                    .downcast_ref::<Failure>()
                    .map_or(ExitCode::FAILURE, |failure| failure.exit_code().into())
            }
        },
    }
}
