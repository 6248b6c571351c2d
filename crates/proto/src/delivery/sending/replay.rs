//! Laggards: what was begun on their links, what the log has for them, and room for what others have begun.

use std::sync::Arc;
use std::time::Duration;

use super::{InFlight, SendFailure, Sending};
use crate::audience::AudienceId;
use crate::delivery::{Budgets, Delivery, Subscriber};
use crate::event_log::{EventLog, First, Read, ReadBounds, Unread};
use crate::frame::gap_event;
use crate::limits::{LaggardPolicy, ROOM_CHECKS_MIN, RUN_BYTES, RUN_FRAMES, STEPS_OF_A_READ_FRAME};
use crate::link::LinkKey;
use crate::stream::{CloseReason, Deciseconds, Place};
use crate::unsent::Unsent;

impl Delivery {
    pub(super) fn next_replay(
        &mut self,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<InFlight> {
        loop {
            let laggard = match self.sending.next_laggard.take() {
                Some(laggard) => laggard,
                None => {
                    if budget.replayed_frames == 0 {
                        return None;
                    }
                    budget.laggards = budget.laggards.checked_sub(1)?;
                    self.laggards.next_turn(&mut budget.scans)?
                }
            };
            if let Some(in_flight) = self.serve(laggard, now, budget, log) {
                return Some(in_flight);
            }
        }
    }

    /// What one laggard needs next: what was begun, else what the log has after its cursor.
    fn serve(
        &mut self,
        laggard: u32,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<InFlight> {
        let slot = self.laggards.get(laggard).slot;
        let Subscriber { link, stream } = self.subscribers[slot as usize];
        if self.unsent.contains(slot) {
            self.sending.sockets.push(link.socket);
            return Some(InFlight::Unsent(slot));
        }
        // A slow subscriber may be in the middle of a frame whenever upkeep checks it.
        if let Some(reason) = stream.ends_at.over(now) {
            self.sending.queue_ending(self.key_of(slot), reason);
            self.laggards.ends(laggard);
            return None;
        }
        let (cursor, incomplete_until) = {
            let state = self.laggards.get(laggard);
            (state.cursor, state.incomplete_until)
        };
        let stage = self.stages.current(slot, cursor);
        let (until, subscription) = match stage {
            Some((until, subscription)) => (Some(until), subscription),
            None => (None, Arc::clone(self.audiences.subscription(stream.audience))),
        };
        if let Some(until) = until
            && subscription.selection().is_empty()
        {
            // None of its topics stayed.
            self.laggards.advance(laggard, until);
            self.sending.next_laggard = Some(laggard);
            return None;
        }
        let Sending { run, run_of, keys, frames, .. } = &mut self.sending;
        (*run_of, _) = (None, keys.clear());
        frames.clear();
        let bounds = ReadBounds { frames: RUN_FRAMES, bytes: RUN_BYTES, steps: self.budgets.scan_steps };
        let key = LinkKey { slot, generation: link.generation() };
        match log.read_for(key, &subscription.wanted_after(cursor, incomplete_until), bounds, frames) {
            Ok(Read { up_to: end, cost }) => {
                budget.replayed_frames = budget.replayed_frames.saturating_sub(cost);
                let end = until.map_or(end, |until| end.min(until));
                frames.retain(|frame| frame.seq() <= end);
                keys.extend(frames.drain(..).map(|frame| self.store.insert(frame)));
                run.fill(cursor, end, subscription.encoding(), keys, &mut self.store);
                keys.drain(..).for_each(|key| self.store.drop_reference(key));
                if run.is_empty() {
                    self.laggards.advance(laggard, end);
                    match until {
                        // It has everything up to the change of its topics.
                        Some(until) if end == until => self.sending.next_laggard = Some(laggard),
                        None if self.has_caught_up(stream.audience, incomplete_until, end) => {
                            self.laggard_to_member(laggard);
                        }
                        // The log was not read to its end, so more may follow: others come first.
                        _ => self.laggards.ready(laggard),
                    }
                    return None;
                }
                self.sending.sockets.push(link.socket);
                Some(InFlight::Replay(laggard))
            }
            // It has its next turn when they are here.
            Err(Unread::Later) => {
                self.laggards.fetches(laggard);
                None
            }
            Err(Unread::Gone(available_after)) => {
                match self.limits.laggard_policy {
                    // It reconnects, and the head of its next stream reports the gap.
                    LaggardPolicy::Skip if until.is_some() => {
                        // A gap in the middle of a change of topics would be one in several subscriptions.
                        self.end(slot, CloseReason::LaggardFull, false, log);
                    }
                    LaggardPolicy::Disconnect => self.end(slot, CloseReason::LaggardFull, false, log),
                    LaggardPolicy::Skip => self.skip(laggard, available_after, budget, log),
                }
                None
            }
        }
    }

    /// Whether a laggard that was given everything up to `end` has all that its audience has been marked
    /// with. A member has no note of what it cannot get. With mail behind the log, a stream that left the
    /// members again was told of the same gap twice.
    fn has_caught_up(&self, audience: AudienceId, incomplete_until: u64, end: u64) -> bool {
        end >= incomplete_until && end >= self.audiences.head(audience)
    }

    /// Some of what the laggard needs is no longer kept: it goes on with what is left, and the gap is
    /// reported.
    fn skip(&mut self, laggard: u32, available_after: u64, budget: &mut Budgets, log: &mut impl EventLog) {
        let (slot, asked) = (self.laggards.get(laggard).slot, self.laggards.get(laggard).cursor);
        let stream = self.subscribers[slot as usize].stream;
        let subscription = self.audiences.subscription(stream.audience);
        let most = self.budgets.search_steps;
        let mut steps = most;
        let left = log.first_after(&subscription.wanted_after(asked, available_after), &mut steps);
        let mut searched = most - steps;
        // Where nothing is left, or where that is not known, it goes on behind what certainly has nothing.
        let cursor = match left {
            First::Frame(frame) if frame.seq() <= available_after => asked,
            left => left.nothing_up_to(available_after),
        };
        self.counts.gaps += 1;
        if stream.options.gap_events {
            steps = most;
            let next = log.first_after(&subscription.wanted_after(available_after, 0), &mut steps).frame();
            searched += most - steps;
            let mut bytes = Vec::new();
            let (asked, goes_on) = (self.cursor(asked).to_string(), self.cursor(cursor));
            gap_event(&asked, goes_on, next.as_deref(), subscription.encoding(), &mut bytes);
            self.unsent.insert(slot, Unsent::own(bytes.into(), 0));
        }
        budget.replayed_frames = budget.replayed_frames.saturating_sub(1 + searched / STEPS_OF_A_READ_FRAME);
        self.laggards.advance(laggard, cursor);
        self.laggards.miss_until(laggard, available_after);
        self.laggards.ready(laggard);
        self.make_room(log);
    }

    pub(super) fn unsent_sent(
        &mut self,
        link: u32,
        failure: Option<SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        let stream = &mut self.subscribers[link as usize].stream;
        let Place::Laggard(laggard) = stream.place else {
            unreachable!("a member's link has nothing unsent")
        };
        match failure {
            None => {
                stream.sent_at = Deciseconds::of(now);
                self.laggards.progressed(laggard, now);
                if let Some(unsent) = self.unsent.take(link) {
                    if let Some(seq) = unsent.seq(&self.store) {
                        self.counts.bytes += unsent.bytes(&self.store).len() as u64;
                        let published = unsent.published(&self.store).unwrap_or_default();
                        let lag = self.measured_at(now).saturating_sub(published);
                        match self.laggards.get(laggard).fell_behind() {
                            true => drop(self.delivery_lag.record(lag, 1)),
                            false => self.counts.replayed += 1,
                        }
                        self.laggards.advance(laggard, seq);
                        self.counts.deliveries += 1;
                    }
                    unsent.drop_reference(&mut self.store);
                }
                self.sending.next_laggard = Some(laggard);
            }
            Some(failure) if failure.is_gone => self.end(link, CloseReason::PeerLeft, false, log),
            Some(failure) => {
                if self.unsent.get(link).is_some_and(|unsent| unsent.seq(&self.store).is_some()) {
                    self.counts.bytes += failure.sent as u64;
                }
                self.unsent.advance(link, failure.sent);
                if failure.sent > 0 {
                    self.laggards.progressed(laggard, now);
                }
            }
        }
    }

    pub(super) fn replay_sent(
        &mut self,
        laggard: u32,
        failure: Option<SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        self.counts.sends += 1;
        let slot = self.laggards.get(laggard).slot;
        let sent = failure.map_or(self.sending.run.byte_len(), |failure| failure.sent);
        let whole = self.sending.run.whole_frames(sent);
        self.counts.deliveries += whole as u64;
        self.counts.bytes += sent as u64;
        match self.laggards.get(laggard).fell_behind() {
            true => self.note_lag(whole, 1, now),
            false => self.counts.replayed += whole as u64,
        }
        if sent > 0 {
            self.laggards.progressed(laggard, now);
        }
        match failure {
            None => {
                let (end, audience) =
                    (self.sending.run.end(), self.subscribers[slot as usize].stream.audience);
                self.laggards.advance(laggard, end);
                self.subscribers[slot as usize].stream.sent_at = Deciseconds::of(now);
                let incomplete_until = self.laggards.get(laggard).incomplete_until;
                let has_stage = self.stages.current(slot, end).is_some();
                if !has_stage && self.has_caught_up(audience, incomplete_until, end) {
                    self.laggard_to_member(laggard);
                } else {
                    self.laggards.ready(laggard);
                }
            }
            Some(failure) if failure.is_gone => self.end(slot, CloseReason::PeerLeft, false, log),
            Some(failure) => {
                let cut = self.sending.run.cut(failure.sent, &mut self.store);
                self.laggards.advance(laggard, cut.cursor);
                if let Some(unsent) = cut.unsent {
                    self.unsent.insert(slot, unsent);
                }
            }
        }
    }

    /// While links have begun more than the bound allows, streams end whose links hold most of it; see
    /// [`crate::unsent::UnsentTable::largest_share`]. The rest goes on in the next tick.
    pub(in crate::delivery) fn make_room(&mut self, log: &mut impl EventLog) {
        let mut left = self.budgets.room_endings.max(1);
        while left > 0 && self.unsent.memory_bytes(&self.store) > self.limits.laggard_bytes {
            let checks = self.budgets.laggard_checks.max(1).min(self.upkeep.room_checks.max(ROOM_CHECKS_MIN));
            let (from, count) = (self.upkeep.next_to_make_room, self.unsent.len().min(checks));
            self.upkeep.room_checks = self.upkeep.room_checks.saturating_sub(count);
            self.upkeep.next_to_make_room = from.wrapping_add(count);
            let Some(slot) = self.unsent.largest_share(from, count, &self.store) else { break };
            self.end(slot, CloseReason::LaggardFull, false, log);
            left -= 1;
        }
        self.upkeep.is_making_room = left == 0;
    }
}
