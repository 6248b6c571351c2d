//! The server starts itself again in the same process, where it cannot go on with the log that nodes share.
//!
//! All that it has in memory belongs to a log that is another one now, or of which a part is missing. So the
//! server drains its streams, ends its engine, and executes its own program with the same arguments: the new
//! one reads the log from the beginning of what is left, and its subscribers come back and learn of the gap.
//! The process keeps its number, so a service manager need not notice.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use fanfare::Epoch;

/// The variable that tells the new program of the old one. Its name is not one of an option.
const VARIABLE: &str = "_FANFARE_STARTED_AGAIN";

/// The variable with the topic settings that were in force.
const TOPIC_SETTINGS: &str = "_FANFARE_TOPIC_SETTINGS";

/// The longest text that is handed over, in bytes. The kernel refuses a variable of 128 KiB.
const MOST_BYTES: usize = 120 << 10;

/// What the program before this one has left.
#[derive(Debug)]
pub(crate) struct StartedAgain {
    /// The epoch that is over, if one is.
    pub(crate) epoch_over: Option<Epoch>,
    /// The topic settings that were in force, as a value of the bucket.
    pub(crate) topic_settings: Option<String>,
}

/// `None`: this is no start in the process of another one.
pub(crate) fn started_again() -> Option<StartedAgain> {
    let text = env::var(VARIABLE).ok()?;
    Some(StartedAgain { epoch_over: Epoch::parse(&text), topic_settings: env::var(TOPIC_SETTINGS).ok() })
}

/// Executes this program with the arguments of its start. It returns only where that fails. Topic settings
/// that are too long are not handed over.
pub(crate) fn in_place(epoch_over: Option<&str>, topic_settings: Option<String>) -> io::Error {
    let mut arguments = env::args_os();
    let name = arguments.next();
    // The file that was executed, also where another one has its name now.
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).env(VARIABLE, epoch_over.unwrap_or_default());
    match topic_settings.filter(|text| text.len() <= MOST_BYTES) {
        Some(text) => command.env(TOPIC_SETTINGS, text),
        None => command.env_remove(TOPIC_SETTINGS),
    };
    if let Some(name) = name {
        command.arg0(name);
    }
    command.exec()
}
