//! Answers that are remembered for a short time, so that a crowd of equal requests is one question.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::question::QuestionKey;
use super::settled::Settled;

/// The most answers.
const MAX_ANSWERS: usize = 10_000;

/// The most bytes of all answers, about.
const MAX_BYTES: usize = 8 << 20;

/// What an entry takes beside its answer: its places in the map and in the queue.
const ENTRY_BYTES: usize = 160;

/// How many entries an insertion looks at, to drop those whose time is over.
const CLEAN_PER_INSERT: usize = 2;

/// Bounded by count and by bytes: the oldest answer goes.
#[derive(Debug, Default)]
pub(super) struct AnswerCache {
    entries: HashMap<QuestionKey, Entry>,
    /// The entries in the order in which they came, with their numbers. An entry that was replaced is here
    /// twice.
    order: VecDeque<(u64, QuestionKey)>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    settled: Arc<Settled>,
    until: Duration,
    bytes: usize,
}

impl AnswerCache {
    /// The memory that it may take, about.
    pub(super) const MAX_BYTES: usize = MAX_BYTES;

    pub(super) fn get(&self, key: &QuestionKey, now: Duration) -> Option<Arc<Settled>> {
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| Arc::clone(&entry.settled))
    }

    pub(super) fn put(
        &mut self,
        key: QuestionKey,
        settled: &Arc<Settled>,
        bytes: usize,
        now: Duration,
        until: Duration,
    ) {
        for _ in 0..CLEAN_PER_INSERT {
            let is_over = |(number, key): &(u64, QuestionKey)| {
                let entry = self.entries.get(key).filter(|entry| entry.number == *number);
                entry.is_none_or(|entry| entry.until <= now)
            };
            if self.order.front().is_some_and(is_over) {
                self.remove_oldest();
            }
        }
        let (number, bytes) = (self.next, bytes + ENTRY_BYTES);
        self.next += 1;
        let entry = Entry { number, settled: Arc::clone(settled), until, bytes };
        self.bytes += bytes;
        if let Some(before) = self.entries.insert(key, entry) {
            self.bytes -= before.bytes;
        }
        self.order.push_back((number, key));
        while self.order.len() > MAX_ANSWERS || self.bytes > MAX_BYTES {
            self.remove_oldest();
        }
    }

    /// Forgets an answer that is not good any more.
    pub(super) fn remove(&mut self, key: &QuestionKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    fn remove_oldest(&mut self) {
        let Some((number, key)) = self.order.pop_front() else { return };
        if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u32) -> QuestionKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn settled() -> Arc<Settled> {
        Arc::new(Settled { answer: Answer::Refused(403, None), asked_unix_s: 0 })
    }

    #[test]
    fn an_answer_is_kept_for_its_time() {
        let mut cache = AnswerCache::default();
        cache.put(key(1), &settled(), 10, Duration::ZERO, SECOND);
        assert!(cache.get(&key(1), SECOND / 2).is_some());
        assert!(cache.get(&key(1), SECOND).is_none());
        cache.put(key(2), &settled(), 10, SECOND, 2 * SECOND);
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1), "the old one is gone");
        cache.remove(&key(2));
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn neither_many_answers_nor_large_ones_nor_repeated_ones_grow_it() {
        let mut cache = AnswerCache::default();
        for number in 0..3 * MAX_ANSWERS as u32 {
            cache.put(key(number), &settled(), 10, Duration::ZERO, SECOND);
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (MAX_ANSWERS, MAX_ANSWERS));
        assert!(cache.get(&key(3 * MAX_ANSWERS as u32 - 1), Duration::ZERO).is_some());
        for _ in 0..3 * MAX_ANSWERS {
            cache.put(key(7), &settled(), 10, Duration::ZERO, SECOND);
        }
        assert!(cache.order.len() <= MAX_ANSWERS);
        assert_eq!(cache.entries.len(), 1, "the one that was repeated is the youngest");
        for number in 0..100 {
            cache.put(key(number), &settled(), MAX_BYTES / 10, Duration::ZERO, SECOND);
        }
        assert!(cache.bytes <= MAX_BYTES && cache.entries.len() < 10);
        let sum: usize = cache.entries.values().map(|entry| entry.bytes).sum();
        assert_eq!(sum, cache.bytes);
    }
}
