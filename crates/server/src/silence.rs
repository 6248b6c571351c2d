//! Fewer lines of the log than there are events: the first one at once, then one for all that happened in a
//! while.

use std::time::Duration;

/// How long a line is not repeated.
const SILENCE: Duration = Duration::from_secs(10);

/// How much of each of `N` counters has been logged.
#[derive(Debug)]
pub(crate) struct Silence<const N: usize> {
    logged: [u64; N],
    until: [Duration; N],
}

impl<const N: usize> Default for Silence<N> {
    fn default() -> Silence<N> {
        Silence { logged: [0; N], until: [Duration::ZERO; N] }
    }
}

impl<const N: usize> Silence<N> {
    /// The counters for which a line is due, with how often each was raised since its last line. `counts`
    /// gives all counters in their order, which never fall. `now` is any clock's time.
    pub(crate) fn due(&mut self, counts: [u64; N], now: Duration) -> Vec<(usize, u64)> {
        let mut due = Vec::new();
        for (index, count) in counts.into_iter().enumerate() {
            let fresh = count - self.logged[index];
            if fresh > 0 && now >= self.until[index] {
                self.logged[index] = count;
                self.until[index] = now + SILENCE;
                due.push((index, fresh));
            }
        }
        due
    }

    /// Makes a line due for whatever has happened, however short ago the last one was: there will be no later
    /// one.
    pub(crate) fn end(&mut self) {
        self.until = [Duration::ZERO; N];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each connection that found no descriptor was a line of the log.
    #[test]
    fn a_line_stands_for_all_that_happened() {
        let mut silence = Silence::default();
        let mut due = |counts: [u64; 2], at: u64| silence.due(counts, Duration::from_secs(at));
        assert!(due([0, 0], 0).is_empty());
        assert_eq!(due([1, 0], 1), [(0, 1)]);
        assert_eq!(due([1_001, 1], 2), [(1, 1)], "another counter is not silent");
        assert!(due([1_001, 1], 10).is_empty());
        assert_eq!(due([1_001, 1], 11), [(0, 1_000)]);
        assert!(due([1_001, 1], 100).is_empty());
    }

    #[test]
    fn the_end_leaves_nothing_out() {
        let mut silence = Silence::default();
        assert_eq!(silence.due([1], Duration::ZERO), [(0, 1)]);
        assert!(silence.due([3], Duration::ZERO).is_empty());
        silence.end();
        assert_eq!(silence.due([3], Duration::ZERO), [(0, 2)]);
    }
}
