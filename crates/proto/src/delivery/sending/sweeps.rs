//! The members of audiences: each turn of an audience sends to the next members that need the same frames.

use std::cmp::Reverse;
use std::time::Duration;

use smallvec::SmallVec;

use super::{InFlight, SendFailure, Sending};
use crate::audience::{AudienceId, Slice, Step};
use crate::delivery::{Budgets, Delivery};
use crate::event_log::EventLog;
use crate::limits::TURN_SCANS;
use crate::stream::CloseReason;

impl Delivery {
    pub(super) fn next_slice(
        &mut self,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<InFlight> {
        loop {
            if budget.sends == 0 || budget.bytes == 0 || budget.scans == 0 {
                self.end_turn(log);
                return None;
            }
            let turn = match self.sending.turn {
                Some(turn) => turn,
                None => {
                    let small_first = budget.sends > self.budgets.sends / 2;
                    let turn = self.audiences.next_turn(small_first, &mut budget.scans)?;
                    self.sending.turn = Some(turn);
                    turn
                }
            };
            let (most, scans) = (budget.sends, &mut budget.scans);
            let at = self.measured_at(now);
            match self.audiences.slice(turn.audience, most, scans, at, &mut self.store) {
                Step::Slice(slice) => return Some(self.fill_slice(turn.audience, slice, budget)),
                Step::PassOver | Step::Scanned => {
                    budget.scans = budget.scans.saturating_sub(TURN_SCANS);
                    self.end_turn(log);
                }
            }
        }
    }

    fn fill_slice(&mut self, audience: AudienceId, mut slice: Slice, budget: &mut Budgets) -> InFlight {
        let Sending { run, run_of, keys, sockets, .. } = &mut self.sending;
        let head = self.audiences.head(audience);
        if *run_of != Some((audience, slice.first, head)) {
            keys.clear();
            keys.extend_from_slice(self.audiences.frames(audience, slice));
            let encoding = self.audiences.subscription(audience).encoding();
            run.fill(slice.after, head, encoding, keys, &mut self.store);
            *run_of = Some((audience, slice.first, head));
        }
        run.set_after(slice.after);
        let affordable = (budget.bytes / run.byte_len().max(1)).max(1);
        slice.end = slice.end.min(slice.start + affordable);
        let members = self.audiences.members(audience, slice);
        sockets.extend(members.iter().map(|member| member.socket));
        budget.sends -= members.len();
        budget.bytes = budget.bytes.saturating_sub(run.byte_len() * members.len());
        InFlight::Slice(audience, slice)
    }

    pub(super) fn slice_sent(
        &mut self,
        audience: AudienceId,
        slice: Slice,
        failures: impl IntoIterator<Item = SendFailure>,
        now: Duration,
    ) {
        let run = &self.sending.run;
        let count = (slice.end - slice.start) as u64;
        self.counts.sends += count;
        self.counts.deliveries += count * run.len() as u64;
        self.counts.bytes += count * run.byte_len() as u64;
        let mut failed = std::mem::take(&mut self.sending.failures);
        failed.extend(failures);
        let run_len = run.len();
        self.note_lag(run_len, count - failed.len() as u64, now);
        // From the back: taking one out moves only those behind it.
        failed.sort_unstable_by_key(|failure| Reverse(failure.index));
        // The run begins at the cursor of the first member. A heartbeat may have sent a later one to others.
        let position = |failure: &SendFailure| (slice.start + failure.index) as u32;
        let cursor_of = |failure: &SendFailure| self.audiences.member(audience, position(failure)).cursor;
        let cursors: SmallVec<[u64; 8]> = failed.iter().map(cursor_of).collect();
        self.audiences.advance(audience, slice, self.sending.run.end());
        for (failure, cursor) in failed.drain(..).zip(cursors) {
            let run = &self.sending.run;
            let whole = run.whole_frames(failure.sent);
            self.counts.deliveries -= (run.len() - whole) as u64;
            self.counts.bytes -= (run.byte_len() - failure.sent) as u64;
            self.note_lag(whole, 1, now);
            let slot = self.audiences.member(audience, (slice.start + failure.index) as u32).slot;
            if failure.is_gone {
                self.sending.gone.push((slot, cursor));
            } else {
                let cut = self.sending.run.cut(failure.sent, &mut self.store);
                self.member_to_laggard(slot, Some(cut.cursor.max(cursor)), cut.unsent, now);
            }
        }
        self.sending.failures = failed;
    }

    /// Ends the turn of the current audience, and the streams that it found gone: not before, because an
    /// audience must not vanish in the middle of its turn.
    fn end_turn(&mut self, log: &mut impl EventLog) {
        let Some(turn) = self.sending.turn.take() else { return };
        self.audiences.end_turn(turn, &mut self.store);
        let mut gone = std::mem::take(&mut self.sending.gone);
        for (slot, cursor) in gone.drain(..) {
            self.end_at(slot, Some(cursor), CloseReason::PeerLeft, false, log);
        }
        self.sending.gone = gone;
        self.make_room(log);
    }
}
