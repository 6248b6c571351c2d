//! Drops that are still to be noted in the patterns of their topics.
//!
//! To note a drop takes a walk through the table of patterns. One append may drop thousands of small frames, and a walk
//! may take some thousand steps, so the walks under one hold of the log's lock have a budget. What is left over waits
//! here, oldest first, and is noted by later calls. A pattern that is asked for meanwhile looks through what waits
//! itself, at each drop once.

use std::collections::VecDeque;

use super::dropped::Dropped;
use super::topic::SHARED_TEXT_BYTES;
use crate::event::{MAX_TOPIC_BYTES, Topic};
use crate::limits::WAITING_NOTES;
use crate::shrink::{push, shrink_queue};

/// The most memory of [`WAITING_NOTES`], in bytes.
pub(crate) const WAITING_NOTES_BYTES: usize =
    2 * WAITING_NOTES * (size_of::<DropNote>() + SHARED_TEXT_BYTES + MAX_TOPIC_BYTES);

/// What waits.
#[derive(Default)]
pub(super) struct DropNotes {
    queue: VecDeque<DropNote>,
    /// The number of the first one; each has a number that is one higher than that of the one before.
    first: u64,
    text_bytes: usize,
}

/// A topic has lost a frame.
pub(super) struct DropNote {
    pub(super) topic: Topic,
    pub(super) lost: Dropped,
}

impl DropNotes {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
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
        self.text_bytes += text_bytes_of(&topic);
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

    /// Those with at least this number.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &DropNote> {
        let passed = number.saturating_sub(self.first).min(self.queue.len() as u64);
        self.queue.range(passed as usize..)
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        let texts: usize = self.queue.iter().map(|note| text_bytes_of(&note.topic)).sum();
        assert_eq!(self.text_bytes, texts, "the texts of topics that have lost frames");
    }
}

fn text_bytes_of(topic: &Topic) -> usize {
    SHARED_TEXT_BYTES + topic.as_str().len()
}
