//! The graceful end: streams end at a frame boundary, spread over a window, so that their clients do
//! not come back elsewhere all at once.

use std::time::Duration;

use fanfare_io::Io;
use fanfare_proto::connection::{Farewell, Place};
use fanfare_proto::frame::ending;

use super::{Shard, millis};

/// Time between two steps of a drain.
const STEP: Duration = Duration::from_millis(10);

/// A drain under way.
pub(super) struct Drain {
    began_at: Duration,
    window: Duration,
    next_step_at: Duration,
    /// Connections when it began.
    total: usize,
    /// The slot at which the next step begins.
    next_slot: usize,
}

impl<I: Io> Shard<I> {
    /// Accepts no more, and ends every stream within `window`.
    pub(super) fn begin_drain(&mut self, window: Duration, now: Duration) {
        if self.drain.is_some() {
            return;
        }
        self.io.stop_listening();
        self.accept_again_at = None;
        self.close_all_pending();
        let total = self.connections.len();
        self.drain = Some(Drain { began_at: now, window, next_step_at: now, total, next_slot: 0 });
    }

    pub(super) fn next_drain(&self) -> Option<Duration> {
        self.drain.as_ref().map(|drain| drain.next_step_at)
    }

    /// Ends as many streams as the time that has passed asks for.
    pub(super) fn drain_some(&mut self, now: Duration) {
        let Some(drain) = &mut self.drain else { return };
        if drain.next_step_at > now {
            return;
        }
        drain.next_step_at = now + STEP;
        let passed = now - drain.began_at;
        let over = passed >= drain.window;
        let share = if over { 1.0 } else { passed.as_secs_f64() / drain.window.as_secs_f64() };
        let may_remain = drain.total - (drain.total as f64 * share) as usize;
        // What was published before the drain goes out first, as far as the window allows.
        if !over && self.audiences.dirty() {
            return;
        }
        let excess = self.connections.len().saturating_sub(may_remain);
        let capacity = self.connections.capacity();
        let from = drain.next_slot;
        // Laggards have the whole window: something that was acknowledged is still to be written to them.
        let may_end = |slot: &usize| {
            let connection = self.connections.get(*slot);
            connection.is_some_and(|connection| over || matches!(connection.place, Place::Member(_)))
        };
        let slots = (from..capacity).chain(0..from).filter(may_end);
        let slots: Vec<usize> = slots.take(excess).collect();
        drain.next_slot = slots.last().map_or(0, |last| (last + 1) % capacity);
        for slot in slots {
            let reason = if self.is_behind(slot) { Farewell::Cut } else { Farewell::Drained };
            if !self.end_stream(slot as u32, reason) {
                self.end(slot as u32, reason);
            }
        }
        if self.connections.is_empty() {
            self.close_all_pending();
            self.close_ended();
            self.stopped = true;
        }
    }

    /// Whether something that was published is still to be sent to this connection.
    fn is_behind(&mut self, slot: usize) -> bool {
        let connection = self.connections[slot];
        match connection.place {
            Place::Laggard(_) => true,
            Place::Member(index) => {
                self.audiences.settle(connection.audience);
                let member = self.audiences.member(connection.audience, index);
                member.cursor < self.audiences.head(connection.audience)
            }
        }
    }

    /// Ends a stream with a jittered `retry` and, where chunked, the terminal chunk. False for a laggard
    /// in the middle of a frame: a stream never ends there.
    pub(super) fn end_stream(&mut self, slot: u32, reason: Farewell) -> bool {
        let connection = self.connections[slot as usize];
        if let Place::Laggard(key) = connection.place
            && self.laggards.get(key).remainder.is_some()
        {
            return false;
        }
        let mut bytes = Vec::with_capacity(32);
        let retry = millis(self.jittered_retry());
        ending(retry, self.audiences.format(connection.audience), &mut bytes);
        // If it does not fit, the client sees a broken stream and reconnects: the same, less politely.
        let _ = self.send_own(&bytes, connection.socket);
        // What the client has sent meanwhile would turn our close into a reset.
        let _ = self.peer_ended(connection.socket);
        self.io.finish(connection.socket);
        self.end(slot, reason);
        true
    }
}
