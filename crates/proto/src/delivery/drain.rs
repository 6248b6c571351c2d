//! The graceful end: streams end at a frame boundary, spread over a window, so that their clients do
//! not come back elsewhere all at once.

use std::time::Duration;

use super::Delivery;
use super::pace::Pace;
use crate::event_log::EventLog;
use crate::stream::{CloseReason, Place};

/// A drain under way.
pub(super) struct Drain {
    pace: Pace,
    /// Streams when it began.
    total: usize,
    /// The slot at which the search for streams to end goes on.
    next_slot: usize,
    /// Slots that the step under way may still check: each of the table once. Zero: the next step begins.
    left: usize,
}

impl Drain {
    pub(super) fn next_step_at(&self) -> Duration {
        self.pace.next_step_at()
    }

    /// The slot at which the search for streams to end goes on.
    #[cfg(test)]
    pub(super) fn next_slot(&self) -> usize {
        self.next_slot
    }
}

impl Delivery {
    /// Ends every stream within `window`. What was published before goes out first, as far as the window
    /// allows. Orders to shed streams have nothing more to do.
    pub fn begin_drain(&mut self, window: Duration, now: Duration) {
        if self.drain.is_none() {
            let total = self.subscribers.len();
            self.drain = Some(Drain { pace: Pace::new(window, now), total, next_slot: 0, left: 0 });
            self.sheds.clear();
        }
    }

    /// Whether a drain was begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Ends as many streams as the time that has passed asks for. A step that finds too few in the part of
    /// the table that it may check goes on in the next tick.
    pub(super) fn step_drain(&mut self, now: Duration, log: &mut impl EventLog) {
        let Some(drain) = &mut self.drain else { return };
        // Those of the step before go first, so that none is counted twice.
        if drain.next_step_at() > now || self.sending.endings_queued() > 0 {
            return;
        }
        let over = drain.pace.is_over(now);
        let may_remain = drain.total - drain.pace.due(drain.total, now);
        let capacity = self.subscribers.capacity();
        if capacity == 0 || (!over && self.audiences.has_work()) {
            drain.left = 0;
            drain.pace.stepped(false, now);
            return;
        }
        let excess = self.subscribers.len().saturating_sub(may_remain);
        let wanted = excess.min(self.budgets.endings);
        // Laggards have the whole window: something that was acknowledged is still to be written to them.
        let may_end = |slot: usize| {
            let subscriber = self.subscribers.get(slot);
            subscriber.is_some_and(|it| over || matches!(it.stream.place, Place::Member(_)))
        };
        let left = if drain.left == 0 { capacity } else { drain.left.min(capacity) };
        let (mut slots, mut checked) = (Vec::new(), 0);
        while slots.len() < wanted && checked < left.min(self.budgets.drain_checks.max(1)) {
            let slot = (drain.next_slot + checked) % capacity;
            checked += 1;
            if may_end(slot) {
                slots.push(slot);
            }
        }
        drain.next_slot = (drain.next_slot + checked) % capacity;
        drain.left = if slots.len() == wanted { 0 } else { left - checked };
        // Where every stream that may end was checked and too few were found, others may end a step later.
        let goes_on = drain.left > 0 || (slots.len() < excess && (over || slots.len() == wanted));
        drain.pace.stepped(goes_on, now);
        for slot in slots {
            let slot = slot as u32;
            if self.unsent.contains(slot) {
                self.end(slot, CloseReason::Cut, false, log);
            } else {
                self.sending.queue_ending(self.key_of(slot), CloseReason::Drained);
            }
        }
    }

    /// Whether something that was published is still to be sent to this stream.
    pub(super) fn is_behind(&mut self, slot: usize) -> bool {
        let stream = self.subscribers[slot].stream;
        match stream.place {
            Place::Laggard(_) => true,
            Place::Member(index) => {
                self.audiences.mark_now(stream.audience, &mut self.store);
                self.audiences.is_member_behind(stream.audience, index, &self.store)
            }
        }
    }
}
