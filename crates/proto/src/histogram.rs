//! Times in buckets: how often something took how long.
//!
//! The buckets are fixed, so that the histograms of all shards can be added. To record a time costs a search
//! among the bounds and three additions.

use std::ops::AddAssign;
use std::time::Duration;

/// The upper bound of each bucket but the last one, included in it, in microseconds. From the time of one
/// send up to that of a subscriber that is about to be given up.
const BOUNDS: [u64; 19] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Times by bucket. The last one has what is longer than every bound.
    buckets: [u64; Histogram::BUCKETS],
    /// All times together, in microseconds.
    sum_us: u64,
}

impl Histogram {
    /// Buckets, the one without an upper bound included.
    pub const BUCKETS: usize = BOUNDS.len() + 1;

    /// The histogram with these counts by bucket, and with this sum.
    pub fn from_parts(buckets: [u64; Histogram::BUCKETS], sum: Duration) -> Histogram {
        Histogram { buckets, sum_us: microseconds(sum) }
    }

    /// Records a time that was taken so many times. Answers the index of its bucket.
    pub fn record(&mut self, time: Duration, times: u64) -> usize {
        let time = microseconds(time);
        let bucket = BOUNDS.partition_point(|bound| *bound < time);
        self.buckets[bucket] += times;
        // At a million deliveries a second that are all a second late it comes round after half a year, as a
        // counter does that begins anew.
        self.sum_us = self.sum_us.wrapping_add(time.wrapping_mul(times));
        bucket
    }

    /// Whether both times are in the same bucket.
    pub fn is_same_bucket(one: Duration, other: Duration) -> bool {
        let bucket = |time| BOUNDS.partition_point(|bound| *bound < microseconds(time));
        bucket(one) == bucket(other)
    }

    /// The upper bound of each bucket, which belongs to it, and how many times are in the bucket. `None`: the
    /// last bucket, which has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + use<> {
        let bounds = BOUNDS.iter().map(|bound| Some(Duration::from_micros(*bound))).chain([None]);
        bounds.zip(self.buckets)
    }

    /// How many times were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All times together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }
}

impl AddAssign for Histogram {
    fn add_assign(&mut self, other: Histogram) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }
}

/// Saturates.
fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        assert!(BOUNDS.is_sorted_by(|one, other| one < other));
        let mut all = Histogram::default();
        for (index, (bound, _)) in Histogram::default().buckets().enumerate() {
            let Some(bound) = bound else {
                assert_eq!(all.record(Duration::from_secs(3600), 1), index, "no bound is reached");
                continue;
            };
            assert_eq!(all.record(bound, 1), index);
            assert_eq!(all.record(bound + Duration::from_micros(1), 0), index + 1);
        }
        assert!(all.buckets().all(|(_, count)| count == 1), "{all:?}");
        assert_eq!(all.count(), Histogram::BUCKETS as u64);
    }

    #[test]
    fn histograms_are_added_and_sums_are_weighted() {
        let mut one = Histogram::default();
        one.record(Duration::from_millis(3), 1000);
        one.record(Duration::ZERO, 1);
        let mut other = one;
        other.record(Duration::MAX, 0);
        assert_eq!(one, other, "what happened no time changes nothing");
        one += other;
        assert_eq!((one.count(), one.sum()), (2002, Duration::from_secs(6)));
        let buckets = one.buckets().map(|(_, count)| count).collect::<Vec<_>>();
        assert_eq!(Histogram::from_parts(buckets.try_into().unwrap(), one.sum()), one);
        assert!(Histogram::is_same_bucket(Duration::from_millis(3), Duration::from_millis(5)));
        assert!(!Histogram::is_same_bucket(Duration::from_millis(5), Duration::from_millis(6)));
    }
}
