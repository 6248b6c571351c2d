//! Documents that packages make of the command line: completions of shells, and man pages.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// The program's name, and the beginning of the name of each man page.
const NAME: &str = "fanfare";

/// `fanfare completions`.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_completions(shell: Shell) -> Result<(), Box<dyn Error>> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    io::stdout().lock().write_all(&text)?;
    Ok(())
}

/// `fanfare man`: one page for the program, and one for each command and each command of a command.
///
/// # Errors
/// The folder cannot be written to; the message names it.
pub(crate) fn write_man_pages(folder: &Path) -> Result<(), Box<dyn Error>> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| format!("cannot write the man pages into {}: {error}", folder.display()).into())
}
