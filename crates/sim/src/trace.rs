//! A readable account of a story.

use std::fmt::Arguments;
use std::time::Duration;

/// Where the account of a story goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output, line by line, so that a panic's message comes last.
    Print,
}

impl Trace {
    /// Tells what happened, and when.
    pub(crate) fn tell(self, now: Duration, what: Arguments<'_>) {
        if self == Trace::Print {
            println!("{:9.3}s {what}", now.as_secs_f64());
        }
    }
}
