//! Lines of the log about connections that a bound of the engine refused. Shards count and never log.

use std::time::Duration;

use fanfare::Counts;

use crate::silence::Silence;

/// A bound that refuses: its counter, and the text of its line.
type Bound = (fn(&Counts) -> u64, &'static str);

const BOUNDS: [Bound; 7] = [
    (
        |counts| counts.refused_full,
        "subscribers were refused: there are as many as may be (--max-connections; the last places are for \
         --operators)",
    ),
    (
        |counts| counts.refused_for_memory,
        "subscribers were refused: the memory for their topics is used up (--subscription-bytes)",
    ),
    (
        |counts| counts.refused_for_patterns,
        "subscribers were refused: there are as many patterns as may be (--max-patterns), or theirs would have made \
         it too much work to find the patterns of a topic",
    ),
    (
        |counts| counts.refused_for_address,
        "connections were refused: their addresses have as many as they may (--max-connections-per-address; \
         behind a proxy, see --trusted-proxies)",
    ),
    (
        |counts| counts.refused_for_connect_rate,
        "connections were refused: their addresses connect too often (--max-connect-rate; behind a proxy, see \
         --trusted-proxies)",
    ),
    (
        |counts| counts.refused_for_subject,
        "subscribers were refused: their subjects have as many streams as they may \
         (--max-connections-per-subject)",
    ),
    (|counts| counts.refused_undecided, "requests were refused: too many wait for the decision about them"),
];

/// Makes the lines: the first one at once, then one for all that a bound refused in a while.
#[derive(Debug, Default)]
pub(crate) struct RefusalReporter {
    silence: Silence<{ BOUNDS.len() }>,
}

impl RefusalReporter {
    /// Logs what has happened since the last line. `now` is any clock's time.
    pub(crate) fn report(&mut self, counts: &Counts, now: Duration) {
        for (count, text) in self.due(counts, now) {
            tracing::warn!(count, "{text}");
        }
    }

    fn due(&mut self, counts: &Counts, now: Duration) -> Vec<(u64, &'static str)> {
        let due = self.silence.due(BOUNDS.map(|(of, _)| of(counts)), now).into_iter();
        due.map(|(index, count)| (count, BOUNDS[index].1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_has_its_counter() {
        let mut all = Counts::default();
        all.refused_full = 1;
        all.refused_for_memory = 2;
        all.refused_for_address = 3;
        all.refused_for_connect_rate = 4;
        all.refused_for_subject = 5;
        all.refused_undecided = 6;
        all.refused_for_patterns = 7;
        let each = RefusalReporter::default().due(&all, Duration::ZERO);
        assert_eq!(each.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [1, 2, 7, 3, 4, 5, 6]);
    }
}
