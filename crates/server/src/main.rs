//! `fanfare`: the push server, and a publisher and a subscriber for the command line.

mod admission;
mod cli;
mod control;
mod cors;
mod health;
mod hosts;
mod listen;
mod memory;
mod publisher;
mod serve;
mod subscriber;
mod token_command;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::serve(cli.serve),
        Some(Command::Serve(options)) => serve::serve(*options),
        Some(Command::Pub(options)) => publisher::publish(&options),
        Some(Command::Sub(options)) => subscriber::subscribe(&options),
        Some(Command::Token(options)) => token_command::run(&options.command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare: {error}");
            ExitCode::FAILURE
        }
    }
}
