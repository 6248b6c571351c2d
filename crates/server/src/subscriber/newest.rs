//! `--last`: the newest of the events that are retained, and then what comes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long the stream is silent when the retained events have all come. Within a replay there are no pauses
/// of this length unless the network makes them.
const SILENCE: Duration = Duration::from_secs(1);

/// The longest beginning. A topic whose events come more often than once in [`SILENCE`], and have ids of
/// their publishers, has neither a position nor a pause.
const LONGEST: Duration = Duration::from_secs(10);

/// The bytes that are kept at most; then fewer events are.
const MOST_BYTES: usize = 64 << 20;

/// The last events of the beginning of a stream.
#[derive(Debug)]
pub(super) struct Newest {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    count: usize,
    /// Where the server stood before the stream began.
    position: Option<Position>,
    /// When the beginning is over in any case.
    deadline: Instant,
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
        let deadline = Instant::now() + LONGEST;
        Newest { lines: VecDeque::new(), bytes: 0, count, position: Position::of(position), deadline }
    }

    /// Adds an event. True: it is the last one of the beginning. A publisher's own id has no position, so
    /// silence ends a beginning whose last event has one.
    pub(super) fn add(&mut self, line: Vec<u8>, id: &str) -> bool {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.count || self.bytes > MOST_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
        if self.is_over() {
            return true;
        }
        let (Some(end), Some(now)) = (&self.position, Position::of(id)) else { return false };
        now.epoch == end.epoch && now.number >= end.number
    }

    /// How long the next event is waited for.
    pub(super) fn patience(&self) -> Duration {
        SILENCE.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the beginning has taken as long as it may.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
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
        let mut newest = Newest::new(usize::MAX, "a9-4");
        for _ in 0..10 {
            assert!(!newest.add(vec![0; MOST_BYTES / 4], "a9-1"));
        }
        assert_eq!(newest.into_lines().count(), 4);
    }

    /// A busy topic with ids of its publishers never ended its beginning.
    #[tokio::test(start_paused = true)]
    async fn a_beginning_without_positions_and_pauses_ends() {
        let mut newest = Newest::new(2, "a9-4");
        let mut added = 0;
        while !newest.add(Vec::new(), "mine") {
            added += 1;
            assert!(!newest.patience().is_zero() && added < 1000);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(added, 100);
    }
}
