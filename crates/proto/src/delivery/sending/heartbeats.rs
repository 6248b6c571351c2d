//! Heartbeats, and the ends of streams.

use std::time::Duration;

use super::{HeartbeatKind, InFlight, SendFailure};
use crate::delivery::{Budgets, Delivery, Subscriber};
use crate::event_log::EventLog;
use crate::frame::{Checkpoint, checkpoint, ending, heartbeat, wrap};
use crate::stream::{CloseReason, Deciseconds, Place, Stream};
use crate::unsent::Unsent;

impl Delivery {
    pub(super) fn next_heartbeats(&mut self, now: Duration, budget: &mut Budgets) -> Option<InFlight> {
        loop {
            let index = self.sending.heartbeats.iter().position(|(_, keys)| !keys.is_empty())?;
            let (kind, keys) = &mut self.sending.heartbeats[index];
            let (kind, mut keys) = (*kind, std::mem::take(keys));
            let plain = HeartbeatKind { checkpoint: Checkpoint::Off, ..kind };
            let count = keys.len().min(budget.heartbeats);
            budget.heartbeats -= count;
            self.sending.slots.clear();
            for key in keys.drain(..count) {
                // It may have left, fallen behind, or been sent something since its heartbeat was found due.
                let Some(Subscriber { link, stream }) = self.find(key) else { continue };
                let Place::Member(index) = stream.place else { continue };
                if !self.is_heartbeat_due(&stream, now) {
                    continue;
                }
                if kind != plain && !self.is_cursor_news(&stream, index) {
                    self.sending.queue_heartbeat(key, plain);
                    continue;
                }
                // It may be queued twice, where it waited for its turn for so long that upkeep found it
                // again.
                self.subscribers[key.slot as usize].stream.sent_at = Deciseconds::of(now);
                self.sending.sockets.push(link.socket);
                self.sending.slots.push(key.slot);
            }
            self.sending.heartbeats[index].1 = keys;
            if count == 0 {
                return None;
            }
            if !self.sending.slots.is_empty() {
                self.fill_heartbeat(kind);
                return Some(InFlight::Heartbeats(kind));
            }
        }
    }

    /// Whether a member's heartbeat can tell it a cursor that it does not know. In the middle of a sweep a
    /// member may not have everything that this shard was handed. Where nothing was published since, the
    /// client knows its cursor already.
    fn is_cursor_news(&self, stream: &Stream, index: u32) -> bool {
        let cursor = self.audiences.member(stream.audience, index).cursor;
        self.sending.caught_up_to.is_some_and(|caught_up_to| caught_up_to > cursor)
            && !self.audiences.is_being_swept(stream.audience)
    }

    fn fill_heartbeat(&mut self, kind: HeartbeatKind) {
        self.sending.own.clear();
        match self.sending.caught_up_to {
            Some(seq) if kind.checkpoint != Checkpoint::Off => {
                let mut body = Vec::with_capacity(64);
                checkpoint(kind.checkpoint, self.cursor(seq), &mut body);
                wrap(&body, kind.encoding, &mut self.sending.own);
            }
            _ => self.sending.own.extend_from_slice(heartbeat(self.limits.heartbeat_form, kind.encoding)),
        }
    }

    pub(super) fn heartbeats_sent(
        &mut self,
        kind: HeartbeatKind,
        failures: impl IntoIterator<Item = SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        let slots = std::mem::take(&mut self.sending.slots);
        self.counts.heartbeats += slots.len() as u64;
        let cursor = self.sending.caught_up_to.filter(|_| kind.checkpoint != Checkpoint::Off);
        for &slot in &slots {
            let stream = &self.subscribers[slot as usize].stream;
            if let (Some(cursor), Place::Member(index)) = (cursor, stream.place) {
                self.audiences.set_cursor(stream.audience, index, cursor);
            }
        }
        for failure in failures {
            self.counts.heartbeats -= 1;
            let slot = slots[failure.index];
            if failure.is_gone {
                self.end(slot, CloseReason::PeerLeft, false, log);
            } else {
                let unsent = (failure.sent > 0).then(|| self.begun_heartbeat(kind, failure.sent));
                self.member_to_laggard(slot, None, unsent, now);
            }
        }
        self.sending.slots = slots;
    }

    fn begun_heartbeat(&self, kind: HeartbeatKind, sent: usize) -> Unsent {
        let constant = heartbeat(self.limits.heartbeat_form, kind.encoding);
        if self.sending.own == constant {
            Unsent::constant(constant, sent)
        } else {
            Unsent::own(self.sending.own.clone().into(), sent)
        }
    }

    pub(super) fn next_ending(&mut self, budget: &mut Budgets, log: &mut impl EventLog) -> Option<InFlight> {
        loop {
            budget.endings = budget.endings.checked_sub(1)?;
            let (key, reason) = self.sending.endings.pop_front()?;
            let Some(Subscriber { link, stream }) = self.find(key) else { continue };
            if self.unsent.contains(key.slot) {
                match reason {
                    // It was sent to since its end was asked for, and its link is full.
                    CloseReason::Disconnected => self.end(key.slot, reason, false, log),
                    CloseReason::Shed => self.shed_in_frame(key.slot, log),
                    _ => {}
                }
                // Any other stream is ended when the frame is finished in whose middle it is.
                continue;
            }
            // Since the drain chose it, it may have been sent what it was behind.
            let reason = match reason {
                CloseReason::Drained | CloseReason::Cut if self.is_behind(key.slot as usize) => {
                    CloseReason::Cut
                }
                CloseReason::Drained | CloseReason::Cut => CloseReason::Drained,
                _ => reason,
            };
            let retry_ms = self.jittered_retry_ms();
            self.sending.own.clear();
            let encoding = self.audiences.subscription(stream.audience).encoding();
            ending(retry_ms, encoding, &mut self.sending.own);
            self.sending.sockets.push(link.socket);
            return Some(InFlight::Ending(key.slot, reason));
        }
    }
}
