//! `--last`: the newest of the events that are retained, and then what comes.

use std::collections::VecDeque;
use std::time::Duration;

/// How long the stream is silent when the retained events have all come. Within a replay there are no pauses of this length
/// unless the network makes them.
const SILENCE: Duration = Duration::from_secs(1);

/// The last events of the beginning of a stream.
#[derive(Debug)]
pub(super) struct Newest {
    lines: VecDeque<Vec<u8>>,
    count: usize,
    /// Where the server stood before the stream began.
    position: Option<Position>,
}

/// An id of the server: the epoch, a hyphen and a number that rises.
#[derive(Debug, PartialEq, Eq)]
struct Position {
    epoch: String,
    number: u64,
}

impl Position {
    fn of(id: &str) -> Option<Position> {
        let (epoch, number) = id.rsplit_once('-')?;
        Some(Position { epoch: epoch.to_owned(), number: number.parse().ok()? })
    }
}

impl Newest {
    /// `position` is an id of the server at which everything that is retained has come.
    pub(super) fn new(count: usize, position: &str) -> Newest {
        Newest { lines: VecDeque::new(), count, position: Position::of(position) }
    }

    /// Adds an event. True: it is the last one of the beginning. A publisher's own id has no position, so silence ends a
    /// beginning whose last event has one.
    pub(super) fn add(&mut self, line: Vec<u8>, id: &str) -> bool {
        self.lines.push_back(line);
        if self.lines.len() > self.count {
            self.lines.pop_front();
        }
        let (Some(end), Some(now)) = (&self.position, Position::of(id)) else { return false };
        now.epoch == end.epoch && now.number >= end.number
    }

    /// How long the next event is waited for.
    pub(super) fn patience(&self) -> Duration {
        SILENCE
    }

    pub(super) fn into_lines(self) -> impl Iterator<Item = Vec<u8>> {
        self.lines.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_ends_at_the_position_that_the_server_had() {
        let mut newest = Newest::new(2, "a9-4");
        let ends: Vec<bool> = ["a9-1", "mine-7", "a9-3", "a9-4"]
            .iter()
            .map(|id| newest.add(id.as_bytes().to_vec(), id))
            .collect();
        assert_eq!(ends, [false, false, false, true]);
        assert_eq!(newest.into_lines().collect::<Vec<_>>(), [b"a9-3", b"a9-4"]);
        assert!(!Newest::new(2, "b").add(Vec::new(), "b"));
        assert_eq!(Newest::new(0, "a-1").into_lines().count(), 0);
    }
}
