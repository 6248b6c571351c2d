//! Marking: an event is noted in every audience that is to get it.
//!
//! A topic may have a million audiences of one member, so an event is marked in pieces. An event with a small
//! fan-out does not wait for one with a large fan-out that came before it: it is marked at once, and where
//! both reach the same audience, the older one is marked there first.

use std::sync::Arc;

use smallvec::SmallVec;

use super::sweep::Sweep;
use super::table::{Audiences, SweepKey};
use super::{AudienceId, Subscription};
use crate::frame::Frame;
use crate::frames::{FrameKey, FrameStore};
use crate::limits::STEPS_OF_A_MARK;

/// An event that is not marked everywhere yet.
pub(super) struct Marking {
    /// The event, with a reference to it.
    frame: FrameKey,
    /// Few streams are to get it.
    is_small: bool,
    /// The topics and patterns that it is for, by their entries. An entry that is another one's by now has
    /// only audiences that began later, and these ignore the event.
    entries: SmallVec<[u32; 4]>,
    /// The position of the entry that is being gone through, and the next of its audiences.
    at: usize,
    next: usize,
}

impl Audiences {
    /// Begins to mark the audiences that an event reaches; [`Audiences::mark`] goes on. Answers what this has
    /// cost, in marks: the audiences that were marked at once, and the search for the patterns of the event.
    pub fn begin_marking(&mut self, frame: Arc<Frame>, store: &mut FrameStore) -> usize {
        let (entries, steps) = self.entries_of(&frame);
        let searched = steps / STEPS_OF_A_MARK;
        let (audiences, streams) = entries.iter().fold((0, 0), |(audiences, streams), entry| {
            let entry = &self.topics[*entry];
            (audiences + entry.audiences.len(), streams + entry.subscribers())
        });
        if audiences == 0 {
            return searched;
        }
        // After a mass of ends, many audiences without a stream may wait for their removal: they are marked
        // in pieces.
        let is_small = streams.max(audiences) <= self.bounds.small_fan_out;
        let frame = store.insert(frame);
        if !is_small || self.markings.is_empty() {
            self.markings.push_back(Marking { frame, is_small, entries, at: 0, next: 0 });
            return searched;
        }
        for entry in entries {
            for id in self.topics[entry].audiences.clone() {
                self.mark_now(id, store);
                self.mark_one(id, frame, is_small, store);
            }
        }
        store.drop_reference(frame);
        audiences + searched
    }

    /// Marks at most `budget` audiences; says how much of the budget is left. Nothing left: there may be more
    /// to mark.
    pub fn mark(&mut self, mut budget: usize, store: &mut FrameStore) -> usize {
        while budget > 0
            && let Some(mut marking) = self.markings.pop_front()
        {
            let Some(&entry) = marking.entries.get(marking.at) else {
                store.drop_reference(marking.frame);
                continue;
            };
            // Audiences may have left since the last piece; those that moved up were marked then.
            let ids = self.topics.get(entry).map(|entry| &entry.audiences[..]).unwrap_or_default();
            let ids: SmallVec<[AudienceId; 64]> =
                ids.iter().skip(marking.next).take(budget.min(64)).copied().collect();
            if ids.is_empty() {
                (marking.at, marking.next) = (marking.at + 1, 0);
            } else {
                marking.next += ids.len();
                budget -= ids.len();
            }
            for &id in &ids {
                self.mark_one(id, marking.frame, marking.is_small, store);
            }
            self.markings.push_front(marking);
        }
        budget
    }

    /// Whether an event is not marked everywhere yet.
    pub fn is_marking(&self) -> bool {
        !self.markings.is_empty()
    }

    /// Events that are not marked everywhere yet.
    pub fn markings(&self) -> usize {
        self.markings.len()
    }

    /// Marks this audience ahead of its turn with every event that is still being marked, so that it can be
    /// told what it is behind, or be marked with a newer event.
    pub fn mark_now(&mut self, id: AudienceId, store: &mut FrameStore) {
        for at in 0..self.markings.len() {
            let Marking { frame, is_small, .. } = self.markings[at];
            let audience = &self.table[id.0];
            if audience.head < store.seq(frame) && audience.subscription.wants(store.get(frame)) {
                self.mark_one(id, frame, is_small, store);
            }
        }
    }

    /// Marks everything at once; for tests.
    pub fn append(&mut self, frame: &Arc<Frame>, store: &mut FrameStore) {
        self.begin_marking(Arc::clone(frame), store);
        while self.is_marking() {
            self.mark(usize::MAX, store);
        }
    }

    /// Notes an event in an audience that has a selector for it. Nothing changes where it is noted already
    /// (by another of its topics), is older than the audience, or is not for this audience.
    fn mark_one(&mut self, id: AudienceId, key: FrameKey, is_small: bool, store: &mut FrameStore) {
        let audience = &mut self.table[id.0];
        let seq = store.seq(key);
        if audience.head >= seq || !Subscription::admits(&audience.subscription, store.get(key)) {
            return;
        }
        let swept_to = std::mem::replace(&mut audience.head, seq);
        if audience.members.is_empty() {
            // Laggards read it from the log.
            return;
        }
        let sweep_key = match audience.sweep {
            Some(sweep_key) => sweep_key,
            None => {
                let sweep_key = SweepKey::of(self.sweeps.insert(Sweep::new(swept_to, seq)));
                audience.sweep = Some(sweep_key);
                sweep_key
            }
        };
        let sweep = &mut self.sweeps[sweep_key.index()];
        let was_backlogged = sweep.is_backlogged(&self.bounds);
        if sweep.window.is_empty() {
            sweep.begin_pass(seq);
        }
        sweep.window.push(key, store);
        self.backlogged += usize::from(sweep.is_backlogged(&self.bounds) && !was_backlogged);
        if is_small && !sweep.in_small_queue {
            sweep.in_small_queue = true;
            self.small_queue.push_back(id);
        } else if !sweep.in_small_queue && !sweep.in_broad_queue {
            sweep.in_broad_queue = true;
            self.broad_queue.push_back(id);
        }
    }
}
