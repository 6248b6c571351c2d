//! Lines of the log about connections that a bound of the engine refused. Shards count and never log.

use std::time::Duration;

use fanfare::Counts;

/// How long a bound is silent after a line of the log.
const SILENCE: Duration = Duration::from_secs(10);

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
    reported: [u64; BOUNDS.len()],
    silent_until: [Duration; BOUNDS.len()],
}

impl RefusalReporter {
    /// Logs what has happened since the last line. `now` is any clock's time.
    pub(crate) fn report(&mut self, counts: &Counts, now: Duration) {
        for (count, text) in self.due(counts, now) {
            tracing::warn!(count, "{text}");
        }
    }

    fn due(&mut self, counts: &Counts, now: Duration) -> Vec<(u64, &'static str)> {
        let mut due = Vec::new();
        for (index, (of, text)) in BOUNDS.iter().enumerate() {
            let count = of(counts) - self.reported[index];
            if count > 0 && now >= self.silent_until[index] {
                self.reported[index] += count;
                self.silent_until[index] = now + SILENCE;
                due.push((count, *text));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_has_one_line_in_a_while() {
        let mut reporter = RefusalReporter::default();
        let mut counts = Counts::default();
        let mut due = |counts: &Counts, at: u64| -> Vec<u64> {
            let due = reporter.due(counts, Duration::from_secs(at));
            due.into_iter().map(|(count, _)| count).collect()
        };
        assert!(due(&counts, 0).is_empty());
        counts.refused_for_address = 3;
        assert_eq!(due(&counts, 1), [3]);
        counts.refused_for_address = 10_003;
        counts.refused_for_subject = 1;
        assert_eq!(due(&counts, 2), [1], "another bound is not silent");
        assert_eq!((due(&counts, 10), due(&counts, 11)), (vec![], vec![10_000]));
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
