//! Why a run cannot be made or does not count: one line that says what to do.

use std::fmt;

/// A run that could not start, or that is not valid. The text is for a person, one line for each reason, and
/// says what to do where that is known.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    text: String,
    is_limit: bool,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), is_limit: false }
    }

    /// A limit of a load machine is too low for so many streams: with fewer the run could start.
    pub(crate) fn limit(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), is_limit: true }
    }

    /// Whether it is a limit of a load machine, which says nothing against the server.
    pub(crate) fn is_limit(&self) -> bool {
        self.is_limit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The result of everything that can end a run.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// The start of what a server sent, printable, on one line and short.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const LENGTH: usize = 100;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LENGTH)]);
    let mut line: String = text.escape_debug().collect();
    if bytes.len() > LENGTH {
        line.push_str("...");
    }
    line
}
