//! What happened in each second of a run.

use serde::{Deserialize, Serialize};

use crate::clock::SECOND;

/// The longest run: what comes later is counted in the last second.
const MOST: usize = 7 * 24 * 3600;

/// A second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Deliveries that arrived in it.
    pub(crate) arrived: u64,
    /// Deliveries of the events that were due in it, whenever they came, and the latencies of these.
    pub(crate) due: u64,
    pub(crate) latency_sum: u64,
    pub(crate) latency_max: u64,
}

/// The seconds of a run, from its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Series {
    start: u64,
    pub(crate) seconds: Vec<Second>,
}

impl Series {
    pub(crate) fn new(start: u64) -> Series {
        Series { start, seconds: Vec::new() }
    }

    fn at(&mut self, when: u64) -> &mut Second {
        let index = ((when.saturating_sub(self.start) / SECOND) as usize).min(MOST - 1);
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    pub(crate) fn arrived(&mut self, now: u64) {
        self.at(now).arrived += 1;
    }

    /// A delivery of an event that was to be published at `intended`.
    pub(crate) fn delivery(&mut self, intended: u64, latency: u64, now: u64) {
        self.arrived(now);
        let second = self.at(intended);
        second.due += 1;
        second.latency_sum += latency;
        second.latency_max = second.latency_max.max(latency);
    }

    pub(crate) fn add(&mut self, other: &Series) {
        let length = self.seconds.len().max(other.seconds.len());
        self.seconds.resize(length, Second::default());
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.arrived += theirs.arrived;
            mine.due += theirs.due;
            mine.latency_sum += theirs.latency_sum;
            mine.latency_max = mine.latency_max.max(theirs.latency_max);
        }
    }

    /// By how much the mean latency, in nanoseconds, of the events that were due in the last tenth of the
    /// seconds with events (at least one second) is above that in the first tenth. `None` where there are not
    /// two such seconds.
    pub(crate) fn growth(&self) -> Option<i64> {
        growth(&self.seconds)
    }

    /// The same of the seconds from one time to another.
    pub(crate) fn growth_between(&self, from: u64, to: u64) -> Option<i64> {
        // Only seconds that are in it as a whole.
        let first = from.saturating_sub(self.start).div_ceil(SECOND) as usize;
        let end = (to.saturating_sub(self.start) / SECOND) as usize;
        growth(self.seconds.get(first..end.min(self.seconds.len()))?)
    }
}

fn growth(seconds: &[Second]) -> Option<i64> {
    let with_events: Vec<&Second> = seconds.iter().filter(|second| second.due > 0).collect();
    if with_events.len() < 2 {
        return None;
    }
    let tenth = (with_events.len() / 10).max(1);
    let mean = |seconds: &[&Second]| {
        let due: u64 = seconds.iter().map(|second| second.due).sum();
        let sum: u64 = seconds.iter().map(|second| second.latency_sum).sum();
        (sum / due) as i64
    };
    Some(mean(&with_events[with_events.len() - tenth..]) - mean(&with_events[..tenth]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn deliveries_are_counted_in_the_second_of_their_arrival_and_latencies_in_that_of_their_event() {
        let mut series = Series::new(5 * SECOND);
        series.delivery(5 * SECOND, 1500 * MILLISECOND, 6_500 * MILLISECOND);
        series.delivery(6 * SECOND, 10 * MILLISECOND, 6_010 * MILLISECOND);
        let first =
            Second { arrived: 0, due: 1, latency_sum: 1500 * MILLISECOND, latency_max: 1500 * MILLISECOND };
        let second =
            Second { arrived: 2, due: 1, latency_sum: 10 * MILLISECOND, latency_max: 10 * MILLISECOND };
        assert_eq!(series.seconds, [first, second]);
        let mut other = Series::new(5 * SECOND);
        other.arrived(8 * SECOND);
        series.add(&other);
        assert_eq!(series.seconds.iter().map(|second| second.arrived).collect::<Vec<_>>(), [0, 2, 0, 1]);
    }

    #[test]
    fn growth_is_that_from_the_first_to_the_last_tenth() {
        let mut series = Series::new(0);
        assert_eq!(series.growth(), None);
        for second in 0..20 {
            let late = second * 100 * MILLISECOND;
            series.delivery(second * SECOND, late, second * SECOND + late);
        }
        assert_eq!(
            series.growth_between(SECOND / 2, 4 * SECOND + 1),
            Some(200_000_000),
            "from 100 to 300 ms"
        );
        assert_eq!(series.growth_between(18 * SECOND + 1, 40 * SECOND), None);
        assert_eq!(series.growth(), Some(1_800_000_000), "from (0 + 100) / 2 to (1,800 + 1,900) / 2 ms");
    }
}
