//! The sum of all bounds in bytes. It is apart from [`crate::limits`], because it knows the sizes of what the
//! limits bound.

use crate::delivery::SUBSCRIBER_BYTES;
use crate::limits::{LOCAL_READ_BYTES, Limits};

impl Limits {
    /// What the links of one of so many shards may have begun, in bytes.
    pub fn laggard_bytes_of_one(&self, shards: usize) -> usize {
        let share = self.laggard_total_bytes / shards.max(1);
        self.laggard_bytes.min(share.max(self.event_bytes.saturating_mul(2)))
    }

    /// How much memory each part of an engine with so many shards takes at most, in bytes, by its name: what
    /// can be multiplied from outside.
    ///
    /// It leaves out what the kernel holds for sockets, what an allocator adds, the events of publishers that
    /// wait for room (their own), and what does not grow with what comes: buffers of a shard, code, stacks.
    pub fn memory_bounds(&self, shards: usize) -> [(&'static str, usize); 8] {
        let each = |bytes: usize| bytes.saturating_mul(shards);
        // What a request's head has become: its text, or the topics and fields that were read from it.
        const TOPIC_BYTES: usize = 48;
        const REQUEST_BYTES: usize = 512;
        let topics = self.topics_per_subscription.saturating_mul(TOPIC_BYTES);
        let request = self.head.max_bytes.saturating_add(topics).saturating_add(REQUEST_BYTES);
        [
            ("the log", self.log.total_bytes),
            ("mailboxes", each(self.mailbox_bytes).min(self.mailbox_total_bytes)),
            (
                "slow subscribers and deliveries under way",
                each(self.laggard_bytes_of_one(shards).saturating_add(self.delivery_bytes)),
            ),
            ("incomplete requests", each(self.pending.saturating_mul(request))),
            ("adoptions that wait", each(self.mailbox_others.saturating_mul(request))),
            ("subscribers", each(self.connections.saturating_mul(SUBSCRIBER_BYTES))),
            ("topics of subscribers", each(self.subscription_bytes)),
            (
                "readers in the process",
                self.local_readers.saturating_mul(LOCAL_READ_BYTES.max(self.event_bytes)),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound was of each shard alone, so that 64 shards held 2 GiB for slow subscribers.
    #[test]
    fn what_links_have_begun_is_bounded_for_all_shards_together() {
        let limits = Limits::default();
        for shards in [1, 8] {
            assert_eq!(limits.laggard_bytes_of_one(shards), limits.laggard_bytes);
        }
        assert_eq!(64 * limits.laggard_bytes_of_one(64), limits.laggard_total_bytes);
        // A shard whose share is smaller than an event would end everybody who takes one in two sends.
        assert!(limits.laggard_bytes_of_one(5000) > limits.event_bytes);
        let bounds = |shards| limits.memory_bounds(shards)[2].1 - shards * limits.delivery_bytes;
        assert_eq!([bounds(1), bounds(64)], [limits.laggard_bytes, limits.laggard_total_bytes]);
    }
}
