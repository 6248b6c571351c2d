//! Drops that are still to be noted in the patterns of their topics.
//!
//! To note a drop takes a walk through the table of patterns. One append may drop thousands of small frames,
//! and a walk may take some thousand steps, so the walks under one hold of the log's lock have a budget. What
//! is left over waits here, oldest first, and is noted by later calls. A pattern that is asked for meanwhile
//! looks through what waits itself, at each drop once.
//!
//! What waits has a bound. Beyond it, the oldest of it is given up: it counts as lost by every pattern that
//! has not looked at it yet, so that one may be told of a gap that is none, and none is told of no gap where
//! there is one.

use std::collections::VecDeque;

use super::dropped::Dropped;
use super::topic::SHARED_TEXT_BYTES;
use crate::event::Topic;
use crate::limits::WAITING_NOTES;
use crate::shrink::{push, shrink_queue};

/// The most memory of the topics of what waits, in bytes.
const WAITING_TEXT_BYTES: usize = 1 << 20;

/// The most memory of what waits, in bytes. The queue grows by a sixteenth.
pub(crate) const WAITING_NOTES_BYTES: usize =
    (WAITING_NOTES + WAITING_NOTES / 16 + 4) * size_of::<DropNote>() + WAITING_TEXT_BYTES;

/// What waits.
#[derive(Default)]
pub(super) struct DropNotes {
    queue: VecDeque<DropNote>,
    /// The number of the first one; each has a number that is one higher than that of the one before.
    first: u64,
    text_bytes: usize,
    /// What was lost with those that were given up, and the number behind the last one of them.
    given_up: Dropped,
    given_up_to: u64,
}

/// A topic has lost a frame.
pub(super) struct DropNote {
    pub(super) topic: Topic,
    pub(super) lost: Dropped,
}

impl DropNotes {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether half of what may wait does.
    pub(super) fn is_half_full(&self) -> bool {
        self.queue.len() >= WAITING_NOTES / 2 || self.text_bytes >= WAITING_TEXT_BYTES / 2
    }

    /// The memory of what waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<DropNote>() + self.text_bytes
    }

    /// The number that the next one gets.
    pub(super) fn end(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    pub(super) fn push(&mut self, topic: Topic, lost: Dropped) {
        let text_bytes = text_bytes_of(&topic);
        while (self.queue.len() >= WAITING_NOTES || self.text_bytes + text_bytes > WAITING_TEXT_BYTES)
            && let Some(oldest) = self.pop()
        {
            self.given_up = self.given_up.and(oldest.lost);
            self.given_up_to = self.first;
        }
        self.text_bytes += text_bytes;
        push(&mut self.queue, DropNote { topic, lost });
    }

    pub(super) fn pop(&mut self) -> Option<DropNote> {
        let note = self.queue.pop_front()?;
        self.first += 1;
        self.text_bytes -= text_bytes_of(&note.topic);
        shrink_queue(&mut self.queue);
        Some(note)
    }

    /// There is no pattern any more for which anything is to be noted.
    pub(super) fn clear(&mut self) {
        *self = DropNotes { first: self.end(), ..DropNotes::default() };
    }

    /// What was lost with those that were given up, for a pattern that has looked at all before this number.
    pub(super) fn given_up_since(&self, number: u64) -> Dropped {
        if number < self.given_up_to { self.given_up } else { Dropped::default() }
    }

    /// Those with at least this number.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &DropNote> {
        let passed = number.saturating_sub(self.first).min(self.queue.len() as u64);
        self.queue.range(passed as usize..)
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        let texts: usize = self.queue.iter().map(|note| text_bytes_of(&note.topic)).sum();
        assert_eq!(self.text_bytes, texts, "the texts of topics that have lost frames");
        assert!(self.queue.len() <= WAITING_NOTES, "{} drops wait", self.queue.len());
        assert!(self.bytes() <= WAITING_NOTES_BYTES, "{} bytes wait", self.bytes());
        assert!(self.given_up_to <= self.first, "what is given up does not wait");
    }
}

fn text_bytes_of(topic: &Topic) -> usize {
    SHARED_TEXT_BYTES + topic.as_str().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_counts_for_those_that_have_not_looked_at_it() {
        let (mut notes, topic) = (DropNotes::default(), Topic::new("a").unwrap());
        let all = WAITING_NOTES as u64 + 10;
        // The oldest drop is the highest number, as it may be where topics drop in turn.
        for lost in (1..=all).rev() {
            notes.push(topic.clone(), Dropped { newest: lost, newest_public: lost });
            notes.check();
        }
        let for_one_that_has_looked_up_to = |number| {
            let given_up = notes.given_up_since(number);
            notes.since(number).fold(given_up, |sum, note| sum.and(note.lost)).newest
        };
        // Those up to the tenth are given up, and count together.
        let expected = [(0, all), (9, all), (10, all - 10), (11, all - 11), (all, 0)];
        for (number, newest) in expected {
            assert_eq!(for_one_that_has_looked_up_to(number), newest, "after {number}");
        }
        let long = Topic::new("x".repeat(crate::event::MAX_TOPIC_BYTES)).unwrap();
        (0..WAITING_NOTES).for_each(|_| notes.push(long.clone(), Dropped::default()));
        notes.check();
        assert!(notes.len() < WAITING_NOTES && notes.is_half_full(), "{} drops wait", notes.len());
        notes.clear();
        assert_eq!((notes.end(), notes.bytes()), (all + WAITING_NOTES as u64, 0));
        assert_eq!(notes.given_up_since(notes.end()), Dropped::default());
    }
}
