//! Events of a batch that were published before, or that are in the batch twice: by their own ids.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_proto::event::Event;
use fanfare_proto::frame::{Frame, Identity};
use fanfare_proto::log::ShardSet;
use fanfare_proto::shrink::shrink_buffer;

use crate::shared_log::LockedLog;

/// The repeated events of a part of a batch. Reused from publish to publish.
///
/// [`Repetitions::find`] is called for each event with an own id, under the log's lock; then
/// [`Repetitions::find_in_batch`] once; then [`Repetitions::take`] for each event, in order.
#[derive(Default)]
pub(crate) struct Repetitions {
    /// Whether ids are compared.
    pub(super) are_looked_up: bool,
    /// In the order of the events.
    found: Vec<Repetition>,
    taken: usize,
    /// Of the other events with own ids: the key of the id, and the event's position.
    keys: Vec<(u64, usize)>,
}

struct Repetition {
    /// Which event it is.
    index: usize,
    first: First,
}

/// The first one of two events that are the same.
enum First {
    Visible(Arc<Frame>),
    /// It has its number.
    Unreleased(Arc<Frame>),
    /// The event at this position of the same part.
    InBatch(usize),
}

impl Repetitions {
    pub(crate) fn clear(&mut self) {
        self.found.clear();
        self.keys.clear();
        self.taken = 0;
        shrink_buffer(&mut self.found);
        shrink_buffer(&mut self.keys);
    }

    /// Whether the event has a number already.
    pub(crate) fn find(&mut self, index: usize, event: &Event, log: &LockedLog<'_>) -> bool {
        let Some(id) = event.id().filter(|_| self.are_looked_up) else { return false };
        let key = log.own_id_key(id.as_str(), event.topics());
        let Some((frame, is_visible)) = log.published(event, key) else {
            self.keys.push((key, index));
            return false;
        };
        let frame = Arc::clone(frame);
        let first = if is_visible { First::Visible(frame) } else { First::Unreleased(frame) };
        self.found.push(Repetition { index, first });
        true
    }

    /// Finds the events that come twice in the batch. No shard is to get them again, so their `interest` is
    /// emptied.
    ///
    /// # Errors
    /// The position of the first event whose id was given to an event with other content.
    pub(super) fn find_in_batch(
        &mut self,
        events: &VecDeque<Event>,
        interest: &mut [ShardSet],
    ) -> Result<(), usize> {
        let mut conflict: Option<usize> = None;
        let mut note_conflict = |index: usize| conflict = Some(conflict.map_or(index, |it| it.min(index)));
        for Repetition { index, first } in &self.found {
            let (First::Visible(frame) | First::Unreleased(frame)) = first else { continue };
            if !frame.says_the_same(&events[*index]) {
                note_conflict(*index);
            }
        }
        if self.keys.len() > 1 {
            // Equal keys become neighbours, the first event before the others.
            self.keys.sort_unstable();
            for same_key in self.keys.chunk_by(|one, next| one.0 == next.0) {
                let [(_, first), others @ ..] = same_key else { continue };
                for &(_, index) in others {
                    match Identity::of(&events[*first], &events[index]) {
                        // Two ids with one key: it is random, so this is rarer than a broken memory.
                        Identity::Different => {}
                        Identity::Conflict => note_conflict(index),
                        Identity::Same => {
                            interest[index] = ShardSet::new();
                            self.found.push(Repetition { index, first: First::InBatch(*first) });
                        }
                    }
                }
            }
            self.found.sort_unstable_by_key(|repetition| repetition.index);
        }
        conflict.map_or(Ok(()), Err)
    }

    /// One of the first ones that are not visible yet.
    pub(super) fn unreleased(&self) -> Option<&Arc<Frame>> {
        self.found.iter().find_map(|repetition| match &repetition.first {
            First::Unreleased(frame) => Some(frame),
            First::Visible(_) | First::InBatch(_) => None,
        })
    }

    /// The number of the first one, if the event at this position is repeated. `frames` are those of the
    /// events of this part before it that are not.
    pub(super) fn take(&mut self, index: usize, frames: &[Arc<Frame>]) -> Option<u64> {
        let next = self.found.get(self.taken).filter(|next| next.index == index)?;
        let seq = match &next.first {
            First::Visible(frame) | First::Unreleased(frame) => frame.seq(),
            First::InBatch(first) => {
                let repeated_before = self.found.partition_point(|repetition| repetition.index < *first);
                frames[first - repeated_before].seq()
            }
        };
        self.taken += 1;
        Some(seq)
    }
}
