//! The sum of all bounds in bytes. It is apart from [`crate::limits`], because it knows the sizes of what the
//! limits bound.

use crate::delivery::SUBSCRIBER_BYTES;
use crate::limits::Limits;

impl Limits {
    /// How much memory each part of an engine with so many shards takes at most, in bytes, by its name: what
    /// can be multiplied from outside.
    ///
    /// It leaves out what the kernel holds for sockets, what an allocator adds, the events of publishers that
    /// wait for room (their own), and what does not grow with what comes: buffers of a shard, code, stacks.
    pub fn memory_bounds(&self, shards: usize) -> [(&'static str, usize); 7] {
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
                each(self.laggard_bytes.saturating_add(self.delivery_bytes)),
            ),
            ("incomplete requests", each(self.pending.saturating_mul(request))),
            ("adoptions that wait", each(self.mailbox_others.saturating_mul(request))),
            ("subscribers", each(self.connections.saturating_mul(SUBSCRIBER_BYTES))),
            ("topics of subscribers", each(self.subscription_bytes)),
        ]
    }
}
