//! The sum of all bounds in bytes. It is apart from [`crate::limits`], because it knows the sizes of what the
//! limits bound.

use crate::client_limits::RATES_BYTES;
use crate::delivery::SUBSCRIBER_BYTES;
use crate::event::MAX_TOPIC_BYTES;
use crate::key_counts::KeyCounts;
use crate::limits::{
    COUNTED_SOCKET_BYTES, DETAILS_PLACE_BYTES, LOCAL_READ_BYTES, Limits, MAX_SUBJECT_BYTES, MEMBER_BYTES,
    NAMES_PLACE_BYTES, ORDERS_BYTES, RECEIVE_BYTES, REMEMBERED_PATTERN_BYTES,
};
use crate::log::drop_notes::WAITING_NOTES_BYTES;

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
    pub fn memory_bounds(&self, shards: usize) -> Vec<(&'static str, usize)> {
        let each = |bytes: usize| bytes.saturating_mul(shards);
        // What a request's head has become: its text, or the topics and fields that were read from it.
        const TOPIC_BYTES: usize = 48;
        const REQUEST_BYTES: usize = 512;
        let topics = self.topics_per_subscription.saturating_mul(TOPIC_BYTES);
        let request = self.head.max_bytes.saturating_add(topics).saturating_add(REQUEST_BYTES);
        // What came with the head is kept where the request may be handed over. A thread may be busy with one
        // that was answered, because its time was over, and whose place another one has.
        let undecided = request.saturating_add(RECEIVE_BYTES).saturating_mul(2);
        const LIFE_CYCLE_EVENT_BYTES: usize = 192 + MAX_SUBJECT_BYTES;
        let life_cycle_event = topics.saturating_add(LIFE_CYCLE_EVENT_BYTES);
        // Data, and the beginning of a connection for its life-cycle event, take a place and nothing of
        // `details_bytes`.
        let places = self.connections.saturating_mul(NAMES_PLACE_BYTES + DETAILS_PLACE_BYTES);
        let details = self.details_bytes.saturating_add(places);
        // Each connection may be an address of its own. The numbers of sockets are dense, since the kernel
        // gives the lowest. But all shards share them, and each shard's table has places for the numbers of
        // all.
        let counted = match self.clients.connections_per_address {
            Some(_) => KeyCounts::ENTRY_BYTES + COUNTED_SOCKET_BYTES.saturating_mul(shards),
            None => 0,
        };
        let addresses = self.connections.saturating_add(self.pending).saturating_mul(counted);
        let subjects = match self.clients.streams_per_subject {
            Some(_) => self.connections.saturating_mul(KeyCounts::ENTRY_BYTES),
            None => 0,
        };
        let rates = self.clients.connect_rate().map_or(0, |_| RATES_BYTES);
        const MEMBER_WITH_NAMES: usize = MEMBER_BYTES + MAX_SUBJECT_BYTES + MAX_TOPIC_BYTES;
        let without_connection = self.members_lingering.saturating_add(self.announcements);
        vec![
            ("the log", self.log.total_bytes),
            ("mailboxes", each(self.mailbox_bytes).min(self.mailbox_total_bytes)),
            (
                "slow subscribers and deliveries under way",
                each(self.laggard_bytes_of_one(shards).saturating_add(self.delivery_bytes)),
            ),
            ("incomplete requests", each(self.pending.saturating_mul(request))),
            ("undecided requests", each(self.undecided.saturating_mul(undecided))),
            ("adoptions that wait", each(self.mailbox_others.saturating_mul(request))),
            ("subscribers", each(self.connections.saturating_mul(SUBSCRIBER_BYTES))),
            ("topics of subscribers", each(self.subscription_bytes)),
            ("patterns without a subscriber", REMEMBERED_PATTERN_BYTES + WAITING_NOTES_BYTES),
            ("names and members of subscribers", each(details)),
            ("orders about names", each(ORDERS_BYTES)),
            ("counts of clients", each(addresses.saturating_add(subjects)).saturating_add(rates)),
            ("members without a connection", without_connection.saturating_mul(MEMBER_WITH_NAMES)),
            ("life-cycle events", self.life_cycle_events.saturating_mul(life_cycle_event)),
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

    /// Undecided requests, members, subjects and life-cycle events were missing in the sum: with the default
    /// of 16,384 requests, clients made a shard hold half a gigabyte that no line told of.
    #[test]
    fn every_table_that_grows_with_what_comes_is_in_the_sum() {
        let sum = |limits: &Limits| limits.memory_bounds(2).iter().map(|(_, bytes)| bytes).sum::<usize>();
        let limits = || Limits::default();
        // Each bound is raised by some pieces of at least so many bytes, on each shard or in the process.
        let cases = [
            (limits().with_pending(limits().pending + 10), 2 * 10 * limits().head.max_bytes),
            (limits().with_undecided(limits().undecided + 10), 2 * 10 * RECEIVE_BYTES),
            (limits().with_details_bytes(limits().details_bytes + 1000), 2 * 1000),
            (
                limits().with_connections(limits().connections + 10),
                2 * 10 * (NAMES_PLACE_BYTES + DETAILS_PLACE_BYTES + SUBSCRIBER_BYTES),
            ),
            (limits().with_members_lingering(limits().members_lingering + 10), 10 * MAX_SUBJECT_BYTES),
            (limits().with_announcements(limits().announcements + 10), 10 * MAX_SUBJECT_BYTES),
            (limits().with_life_cycle_events(10), 10 * MAX_SUBJECT_BYTES),
            (
                limits().with_clients(limits().clients.with_connections_per_address(Some(1))),
                2 * limits().connections * KeyCounts::ENTRY_BYTES,
            ),
            (
                limits().with_clients(limits().clients.with_streams_per_subject(Some(1))),
                2 * limits().connections * KeyCounts::ENTRY_BYTES,
            ),
            (limits().with_clients(limits().clients.with_connects_per_second(Some(1))), RATES_BYTES),
            (limits().with_local_readers(limits().local_readers + 10), 10 * LOCAL_READ_BYTES),
        ];
        for (case, (raised, least)) in cases.iter().enumerate() {
            assert!(sum(raised) - sum(&limits()) >= *least, "case {case}");
        }
        let orders = limits().memory_bounds(2).into_iter().find(|(name, _)| *name == "orders about names");
        assert_eq!(orders, Some(("orders about names", 2 * ORDERS_BYTES)));
        // The sockets of three shards have numbers in each table.
        let counted = |shards| {
            let clients = limits().clients.with_connections_per_address(Some(1));
            let bounds = limits().with_clients(clients).memory_bounds(shards);
            bounds.iter().find(|(name, _)| *name == "counts of clients").map_or(0, |(_, bytes)| *bytes)
        };
        let sockets = limits().connections + limits().pending;
        assert_eq!(counted(3) - 3 * counted(1), 3 * 2 * sockets * COUNTED_SOCKET_BYTES);
        let names = limits().memory_bounds(1);
        let names: std::collections::BTreeSet<_> = names.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), limits().memory_bounds(1).len(), "each part has its name");
    }

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
