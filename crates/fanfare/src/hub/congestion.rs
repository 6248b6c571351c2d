//! Whether the path out is full: most streams of all shards are behind, and their sockets still take bytes.

use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::sync::AtomicUsize;

/// What each shard last knew of its streams. Relaxed: each number is only a measure, and the hold that
/// follows from it is short.
pub(crate) struct Congestion {
    /// Fewer streams behind than this are no congestion.
    least: usize,
    shards: Box<[CachePadded<Moving>]>,
}

#[derive(Default)]
struct Moving {
    /// Streams that fell behind and still take bytes.
    behind: AtomicUsize,
    /// Streams that are not at a standstill.
    all: AtomicUsize,
}

impl Congestion {
    /// `least` is [`Limits::congestion_streams`](fanfare_proto::limits::Limits::congestion_streams).
    pub(crate) fn new(shards: usize, least: usize) -> Congestion {
        Congestion { least, shards: (0..shards).map(|_| CachePadded::default()).collect() }
    }

    /// What a shard knows, once a tick.
    pub(crate) fn note(&self, shard: usize, behind: usize, all: usize) {
        self.shards[shard].behind.store(behind, Ordering::Relaxed);
        self.shards[shard].all.store(all, Ordering::Relaxed);
    }

    /// Whether most streams of the hub are behind, and so many that it is the path. One slow subscriber that
    /// is alone on its shard is no majority of the hub, and a few slow subscribers are no crowd: neither must
    /// hold up the publishers of others.
    pub(crate) fn is_congested(&self) -> bool {
        let sum = |of: fn(&Moving) -> &AtomicUsize| -> usize {
            self.shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
        };
        let behind = sum(|moving| &moving.behind);
        behind >= self.least && 2 * behind > sum(|moving| &moving.all)
    }
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use super::*;

    /// With eight shards, five fast subscribers and one slow one, a hub took 1,935 events a second instead of
    /// 354,000: the slow one was the majority of its shard.
    #[test]
    fn a_slow_subscriber_alone_on_its_shard_is_no_majority() {
        let congestion = Congestion::new(8, 1);
        congestion.note(0, 1, 1);
        for shard in 1..6 {
            congestion.note(shard, 0, 1);
        }
        assert!(!congestion.is_congested());
        for shard in 1..4 {
            congestion.note(shard, 1, 1);
        }
        assert!(congestion.is_congested());
    }

    /// Six subscribers that took 400 KB a second each were most of a hub with five fast ones: for as long as
    /// they read, it took 2,060 events a second instead of 38,800.
    #[test]
    fn a_few_slow_subscribers_are_no_congestion() {
        let congestion = Congestion::new(2, 64);
        congestion.note(0, 3, 6);
        congestion.note(1, 3, 5);
        assert!(!congestion.is_congested());
        congestion.note(0, 32, 32);
        congestion.note(1, 31, 32);
        assert!(!congestion.is_congested());
        congestion.note(1, 32, 64);
        assert!(congestion.is_congested());
        congestion.note(1, 32, 96);
        assert!(!congestion.is_congested(), "it is no majority");
    }
}
