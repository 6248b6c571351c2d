//! A readable account of a story, and where in the story the simulator is: both are part of each failure's
//! text.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{self, Arguments};
use std::time::Duration;

/// Lines of the account that a failure shows.
pub(crate) const RECENT_LINES: usize = 30;

thread_local! {
    static RECENT: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    static POSITION: Cell<Position> = const { Cell::new(Position::START) };
}

/// Where the account of a story goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// Nowhere.
    #[default]
    Off,
    /// The last lines are kept, for the text of a failure.
    Recent,
    /// To standard output, line by line, so that a panic's message comes last.
    Print,
}

/// Where in a story the simulator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) time: Duration,
    /// The shard whose tick it is, or whose connection is checked.
    pub(crate) shard: Option<usize>,
    /// The client that is checked, its connection among those of the shard, and the number up to which the
    /// connection was sent everything.
    pub(crate) client: Option<usize>,
    pub(crate) connection: Option<usize>,
    pub(crate) cursor: Option<u64>,
}

/// Writes a line of the account, if one is wanted.
macro_rules! trace {
    ($shared:expr, $($what:tt)*) => {
        if $shared.trace != $crate::trace::Trace::Off {
            $shared.trace.line($shared.now.get(), format_args!($($what)*));
        }
    };
}
pub(crate) use trace;

impl Trace {
    /// Writes a line: what happened, and when.
    pub(crate) fn line(self, now: Duration, what: Arguments<'_>) {
        let line = || format!("{:9.3}s {what}", now.as_secs_f64());
        match self {
            Trace::Off => {}
            Trace::Print => println!("{}", line()),
            Trace::Recent => RECENT.with_borrow_mut(|recent| {
                if recent.len() == RECENT_LINES {
                    recent.pop_front();
                }
                recent.push_back(line());
            }),
        }
    }
}

/// Takes the last lines of this thread's account.
pub(crate) fn take_recent() -> Vec<String> {
    RECENT.take().into()
}

/// Where this thread's story is.
pub(crate) fn position() -> Position {
    POSITION.get()
}

/// Changes where this thread's story is.
pub(crate) fn at(change: impl FnOnce(&mut Position)) {
    let mut position = POSITION.get();
    change(&mut position);
    POSITION.set(position);
}

/// A story begins.
pub(crate) fn start() {
    POSITION.set(Position::START);
    RECENT.take();
}

impl Position {
    const START: Position =
        Position { time: Duration::ZERO, shard: None, client: None, connection: None, cursor: None };

    /// No client is checked any more.
    pub(crate) fn forget_client(&mut self) {
        (self.client, self.connection, self.cursor) = (None, None, None);
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3} s", self.time.as_secs_f64())?;
        let numbers = [("shard", self.shard), ("client", self.client), ("connection", self.connection)];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, ", {name} {number}")?;
            }
        }
        match self.cursor {
            Some(cursor) => write!(f, ", cursor {cursor}"),
            None => Ok(()),
        }
    }
}
