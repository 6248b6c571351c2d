//! `fanfare config`: check, print, and begin a configuration.

use std::error::Error;
use std::io::{self, Write};

use fanfare_config::{FileText, Settings, Sources};

use crate::access::Access;
use crate::cli::ConfigCommand;
use crate::configuration::{Configuration, ConfigurationError};
use crate::revocations_file;

pub(crate) fn run(command: ConfigCommand) -> Result<(), Box<dyn Error>> {
    let text = match command {
        ConfigCommand::Check { file } => {
            let read = FileText::read(&file).map_err(ConfigurationError::from)?;
            let read = Configuration::of(Sources { file: Some(read), ..Sources::default() })?;
            if let Some(path) = &read.settings.revocations_file {
                revocations_file::read(path).map_err(|error| format!("--revocations-file: {error}"))?;
            }
            // The files of keys are read, too; nothing is asked by URL.
            Access::of(&read.settings, &read.values, &Access::default())?;
            format!("{}: no mistakes\n", file.display())
        }
        ConfigCommand::Print(flags) => Configuration::read(flags)?.values.print(),
        ConfigCommand::Example => Settings::table().example(),
        ConfigCommand::Schema => format!("{:#}\n", Settings::table().schema()),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // As with `fanfare config example | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
