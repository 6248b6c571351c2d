//! The graceful end: streams end at a frame boundary, spread over a window, so that their clients do
//! not come back elsewhere all at once.

use std::time::Duration;

use super::Delivery;
use crate::event_log::EventLog;
use crate::stream::{CloseReason, Place};

/// Time between two steps of a drain.
const STEP: Duration = Duration::from_millis(10);

/// A drain under way.
pub(super) struct Drain {
    began_at: Duration,
    window: Duration,
    next_step_at: Duration,
    /// Streams when it began.
    total: usize,
    /// The slot at which the next step begins.
    next_slot: usize,
}

impl Drain {
    pub(super) fn next_step_at(&self) -> Duration {
        self.next_step_at
    }
}

impl Delivery {
    /// Ends every stream within `window`. What was published before goes out first, as far as the window allows.
    pub fn begin_drain(&mut self, window: Duration, now: Duration) {
        if self.drain.is_none() {
            let total = self.subscribers.len();
            self.drain = Some(Drain { began_at: now, window, next_step_at: now, total, next_slot: 0 });
        }
    }

    /// Whether a drain was begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Ends as many streams as the time that has passed asks for.
    pub(super) fn step_drain(&mut self, now: Duration, log: &mut impl EventLog) {
        let Some(drain) = &mut self.drain else { return };
        // Those of the step before go first, so that none is counted twice.
        if drain.next_step_at > now || self.sending.endings_queued() > 0 {
            return;
        }
        drain.next_step_at = now + STEP;
        let passed = now - drain.began_at;
        let over = passed >= drain.window;
        let share = if over { 1.0 } else { passed.as_secs_f64() / drain.window.as_secs_f64() };
        let may_remain = drain.total - (drain.total as f64 * share) as usize;
        if !over && self.audiences.has_work() {
            return;
        }
        let excess = self.subscribers.len().saturating_sub(may_remain);
        let capacity = self.subscribers.capacity();
        let from = drain.next_slot;
        // Laggards have the whole window: something that was acknowledged is still to be written to them.
        let may_end = |slot: &usize| {
            let subscriber = self.subscribers.get(*slot);
            subscriber.is_some_and(|it| over || matches!(it.stream.place, Place::Member(_)))
        };
        let slots = (from..capacity).chain(0..from).filter(may_end);
        let slots: Vec<usize> = slots.take(excess.min(self.budgets.endings)).collect();
        if let Some(drain) = &mut self.drain {
            drain.next_slot = slots.last().map_or(0, |last| (last + 1) % capacity);
            if excess > slots.len() && over {
                drain.next_step_at = now;
            }
        }
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
