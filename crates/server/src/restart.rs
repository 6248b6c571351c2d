//! The server starts itself again in the same process, where it cannot go on with the log that nodes share.
//!
//! All that it has in memory belongs to a log that is another one now, or of which a part is missing. So the
//! server drains its streams, ends its engine, and executes its own program with the same arguments: the new one
//! reads the log from the beginning of what is left, and its subscribers come back and learn of the gap. The
//! process keeps its number, so a service manager need not notice.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Executes this program with the arguments of its start. It returns only where that fails.
pub(crate) fn in_place() -> io::Error {
    let mut arguments = env::args_os();
    let name = arguments.next();
    // The file that was executed, also where another one has its name now.
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments);
    if let Some(name) = name {
        command.arg0(name);
    }
    command.exec()
}
