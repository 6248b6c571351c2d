//! A table of requests that wait, each with a deadline.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare_proto::link::LinkKey;
use slab::Slab;

/// Slots, and deadlines, that an empty table keeps.
const KEPT: usize = 64;

/// Requests that wait, with `QUEUES` queues of deadlines. All deadlines of a queue are one duration after
/// their request begins to wait, so each queue is in order by itself.
///
/// To add a request, take a key by [`next_key`](DeadlineTable::next_key), then
/// [`insert`](DeadlineTable::insert) with this key. A request that is removed leaves its deadline behind,
/// which is stale: its key finds nothing. Call [`give_back`](DeadlineTable::give_back) in each tick.
///
/// ```text
///   slots      [ A, generation 7 | free | C, generation 9 ]
///   a queue    (1 s, slot 1, generation 5)  (2 s, slot 0, generation 7)  (3 s, slot 2, generation 9)
///               stale
/// ```
pub(in crate::shard) struct DeadlineTable<T, const QUEUES: usize> {
    slots: Slab<Waiting<T>>,
    deadlines: [VecDeque<(Duration, LinkKey)>; QUEUES],
    /// Given to each request: tells it from others that had its slot.
    generation: u32,
}

struct Waiting<T> {
    generation: u32,
    value: T,
}

impl<T, const QUEUES: usize> Default for DeadlineTable<T, QUEUES> {
    fn default() -> DeadlineTable<T, QUEUES> {
        DeadlineTable {
            slots: Slab::new(),
            deadlines: std::array::from_fn(|_| VecDeque::new()),
            generation: 0,
        }
    }
}

impl<T, const QUEUES: usize> DeadlineTable<T, QUEUES> {
    pub(in crate::shard) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All requests that wait.
    pub(in crate::shard) fn iter(&self) -> impl Iterator<Item = (LinkKey, &T)> {
        let key = |slot, generation| LinkKey { slot: slot as u32, generation };
        self.slots.iter().map(move |(slot, waiting)| (key(slot, waiting.generation), &waiting.value))
    }

    /// The requests in the next `count` slots from `slot` on, and the slot behind them: 0 at the end of the
    /// table.
    pub(super) fn in_slots(&self, slot: usize, count: usize) -> (impl Iterator<Item = (LinkKey, &T)>, usize) {
        let end = slot.saturating_add(count).min(self.slots.capacity());
        let its = (slot..end).filter_map(|slot| {
            let waiting = self.slots.get(slot)?;
            Some((LinkKey { slot: slot as u32, generation: waiting.generation }, &waiting.value))
        });
        (its, if end < self.slots.capacity() { end } else { 0 })
    }

    pub(super) fn get(&self, key: LinkKey) -> Option<&T> {
        let found = self.slots.get(key.slot as usize);
        found.filter(|waiting| waiting.generation == key.generation).map(|waiting| &waiting.value)
    }

    pub(super) fn get_mut(&mut self, key: LinkKey) -> Option<&mut T> {
        self.get(key)?;
        self.slots.get_mut(key.slot as usize).map(|waiting| &mut waiting.value)
    }

    pub(super) fn remove(&mut self, key: LinkKey) -> Option<T> {
        self.get(key)?;
        Some(self.slots.remove(key.slot as usize).value)
    }

    /// Removes all requests. Keys of before find none of the later ones.
    pub(super) fn remove_all(&mut self) -> impl Iterator<Item = T> + use<T, QUEUES> {
        let generation = self.generation;
        let all = std::mem::replace(self, DeadlineTable { generation, ..DeadlineTable::default() });
        all.slots.into_iter().map(|(_, waiting)| waiting.value)
    }

    /// The key of the request that is inserted next. Each call gives another one.
    pub(super) fn next_key(&mut self) -> LinkKey {
        self.generation = (self.generation + 1) & LinkKey::GENERATIONS;
        LinkKey { slot: self.slots.vacant_key() as u32, generation: self.generation }
    }

    /// Adds a request under the key that [`DeadlineTable::next_key`] gave last. Now and then it removes stale
    /// deadlines, so that each queue stays in proportion to the table.
    pub(super) fn insert(&mut self, key: LinkKey, value: T, queue: usize, deadline: Duration) {
        let slot = self.slots.insert(Waiting { generation: key.generation, value });
        debug_assert_eq!(slot, key.slot as usize, "the key is the last one");
        if self.deadlines[queue].len() > 2 * self.slots.len() + 1024 {
            let mut deadlines = std::mem::take(&mut self.deadlines[queue]);
            deadlines.retain(|(_, key)| self.get(*key).is_some());
            self.deadlines[queue] = deadlines;
        }
        // Where the time of a queue has become shorter, all of it has.
        debug_assert!(self.deadlines[queue].back().is_none_or(|(last, _)| *last <= deadline));
        self.deadlines[queue].push_back((deadline, key));
    }

    /// The first deadline of all queues, which may be stale.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }

    /// Takes the next deadline of a queue that has come. It may be stale.
    pub(super) fn take_due(&mut self, queue: usize, now: Duration) -> Option<LinkKey> {
        self.deadlines[queue].pop_front_if(|(at, _)| *at <= now).map(|(_, key)| key)
    }

    /// Takes the deadline of the request of a queue that has waited for the longest time.
    pub(super) fn take_oldest(&mut self, queue: usize) -> Option<LinkKey> {
        while let Some((_, key)) = self.deadlines[queue].pop_front() {
            if self.get(key).is_some() {
                return Some(key);
            }
        }
        None
    }

    /// Deadlines of a queue, stale ones included.
    pub(super) fn queue_len(&self, queue: usize) -> usize {
        self.deadlines[queue].len()
    }

    /// No deadline of a queue is later than this. The queue stays in order.
    pub(super) fn at_most(&mut self, queue: usize, deadline: Duration) {
        let later = self.deadlines[queue].iter_mut().rev().take_while(|(at, _)| *at > deadline);
        later.for_each(|(at, _)| *at = deadline);
    }

    /// Where no request waits, all deadlines are stale: this removes them, and gives back what a crowd
    /// needed, also where its requests came one after the other.
    pub(super) fn give_back(&mut self) {
        if !self.is_empty() {
            return;
        }
        if self.slots.capacity() > KEPT {
            self.slots = Slab::new();
        }
        for queue in &mut self.deadlines {
            queue.clear();
            if queue.capacity() > KEPT {
                *queue = VecDeque::new();
            }
        }
    }

    /// Deadlines of all queues, stale ones included; for checks.
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn deadlines(&self) -> usize {
        self.deadlines.iter().map(VecDeque::len).sum()
    }

    /// # Panics
    /// A request has no deadline, or a queue is out of proportion to a table with this bound.
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn check(&self, bound: usize) {
        assert!(self.len() <= bound, "too many requests wait");
        for (key, _) in self.iter() {
            let known = self.deadlines.iter().flatten().any(|(_, known)| *known == key);
            assert!(known, "a request without a deadline");
        }
        let longest = self.deadlines.iter().map(VecDeque::len).max();
        assert!(longest <= Some(2 * bound + 1026), "too many deadlines");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut DeadlineTable<u32, 2>, value: u32, queue: usize, at: Duration) -> LinkKey {
        let key = table.next_key();
        table.insert(key, value, queue, at);
        key
    }

    /// Deadlines were forgotten when their time came, or when no request waited. Where one always waits, as
    /// with 20,000 requests a second and a database of 50 ms, the deadlines of ten seconds were kept:
    /// 200,000.
    #[test]
    fn deadlines_stay_in_proportion_to_requests_that_wait() {
        let mut table = DeadlineTable::default();
        let first = insert(&mut table, 0, 0, Duration::ZERO);
        for value in 1..10_000 {
            let key = insert(&mut table, value, 0, Duration::from_millis(value.into()));
            assert_eq!(table.remove(key), Some(value));
            table.give_back();
            assert!(table.deadlines[0].len() <= 2 * (table.len() + 1) + 1025, "{}", table.deadlines[0].len());
        }
        assert_eq!(table.deadlines[0].front(), Some(&(Duration::ZERO, first)), "it waits, so it stays");
        assert_eq!(table.remove(first), Some(0));
        table.give_back();
        assert!(table.deadlines.iter().all(|queue| queue.is_empty() && queue.capacity() <= KEPT));
    }

    /// With a shorter time the requests that came later would have been the first ones to end, behind others
    /// in their queue.
    #[test]
    fn a_queue_whose_time_becomes_shorter_stays_in_order() {
        let mut table = DeadlineTable::default();
        let keys: Vec<LinkKey> =
            (1..=5).map(|at| insert(&mut table, at, 0, Duration::from_secs(at.into()))).collect();
        table.at_most(0, Duration::from_secs(3));
        insert(&mut table, 6, 0, Duration::from_secs(3));
        assert_eq!(table.take_due(0, Duration::from_secs(1)), Some(keys[0]));
        let due = std::iter::from_fn(|| table.take_due(0, Duration::from_secs(3))).count();
        assert_eq!((due, table.queue_len(0)), (5, 0));
    }

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = DeadlineTable::default();
        let second = Duration::from_secs(1);
        let stale = insert(&mut table, 1, 0, second);
        assert_eq!(table.remove(stale), Some(1));
        let next = insert(&mut table, 2, 1, 2 * second);
        assert_eq!(stale.slot, next.slot);
        assert!(table.get(stale).is_none() && table.get_mut(stale).is_none());
        assert_eq!(table.remove(stale), None);
        assert_eq!(table.next_deadline(), Some(second));
        assert_eq!(table.take_oldest(0), None, "it was stale");
        assert_eq!((table.take_due(1, second), table.take_due(1, 2 * second)), (None, Some(next)));
        assert_eq!(table.remove_all().collect::<Vec<_>>(), [2]);
        let later = insert(&mut table, 3, 0, second);
        assert!(later != next && table.get(next).is_none() && table.get(later) == Some(&3));
    }
}
