//! What is sent next, and what came of it. One batch is under way at a time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::{Budgets, Delivery, StreamKey, Subscriber};
use crate::audience::{AudienceId, Slice, Step, Turn};
use crate::event_log::EventLog;
use crate::frame::{Checkpoint, Frame, checkpoint, ending, gap_event, heartbeat, wrap};
use crate::frames::{FrameKey, FrameStore};
use crate::limits::{LaggardPolicy, ROOM_CHECKS_MIN, RUN_BYTES, RUN_FRAMES, TURN_SCANS};
use crate::link::Encoding;
use crate::run::Run;
use crate::shrink::shrink_buffer;
use crate::stream::{CloseReason, Deciseconds, Place, Stream};
use crate::unsent::Unsent;

/// The same bytes for each of these sockets.
#[derive(Clone, Copy, Debug)]
pub struct SendBatch<'delivery> {
    /// What to send.
    pub bytes: &'delivery [u8],
    /// To which sockets.
    pub sockets: &'delivery [i32],
}

/// A send of a batch that was not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// The position in the batch.
    pub index: usize,
    /// How many bytes the socket took: fewer than were offered.
    pub sent: usize,
    /// The connection is gone; otherwise the socket is full, and a notification follows when there is room again.
    pub is_gone: bool,
}

/// Room for heartbeats that an idle shard keeps.
const HEARTBEATS_KEPT: usize = 512;

/// What the batch under way is.
#[derive(Clone, Copy, Debug, Default)]
enum InFlight {
    #[default]
    Nothing,
    Slice(AudienceId, Slice),
    /// What was begun on the link in this slot.
    Unsent(u32),
    /// The current run, to one laggard.
    Replay(u32),
    /// Heartbeats of one kind to `sending.slots`.
    Heartbeats(HeartbeatKind),
    Ending(u32, CloseReason),
}

/// Which bytes a heartbeat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeartbeatKind {
    pub(super) encoding: Encoding,
    pub(super) checkpoint: Checkpoint,
}

/// Buffers that are reused from batch to batch, and what is queued to be sent.
#[derive(Default)]
pub(super) struct Sending {
    in_flight: InFlight,
    /// The audience whose turn it is.
    turn: Option<Turn>,
    run: Run,
    /// Whose run that is: the audience, its first frame and the audience's head when it was filled.
    run_of: Option<(AudienceId, u64, u64)>,
    /// Sockets of the batch under way, and the slots where it is one of heartbeats.
    sockets: Vec<i32>,
    slots: Vec<u32>,
    /// Bytes that are not a run's.
    own: Vec<u8>,
    frames: Vec<Arc<Frame>>,
    keys: Vec<FrameKey>,
    failures: Vec<SendFailure>,
    /// Streams found gone in the middle of a turn.
    gone: Vec<u32>,
    /// A laggard whose unsent bytes have just gone out, and whose turn goes on.
    next_laggard: Option<u32>,
    /// Streams whose heartbeat is due, by its kind: one batch has the same bytes for all.
    heartbeats: Vec<(HeartbeatKind, VecDeque<StreamKey>)>,
    /// Streams to be ended, and why.
    endings: VecDeque<(StreamKey, CloseReason)>,
    /// What heartbeats may say: every event up to here has been handed to this shard.
    pub(super) caught_up_to: Option<u64>,
}

impl Sending {
    pub(super) fn has_work(&self) -> bool {
        !self.endings.is_empty() || self.heartbeats.iter().any(|(_, keys)| !keys.is_empty())
    }

    pub(super) fn shrink_for_idle(&mut self, store: &mut FrameStore) {
        self.run.shrink_for_idle(store);
        self.run_of = None;
        shrink_buffer(&mut self.sockets);
        shrink_buffer(&mut self.slots);
        shrink_buffer(&mut self.own);
        shrink_buffer(&mut self.frames);
        shrink_buffer(&mut self.keys);
        shrink_buffer(&mut self.failures);
        shrink_buffer(&mut self.gone);
        for (_, keys) in self.heartbeats.iter_mut().filter(|(_, keys)| keys.capacity() > HEARTBEATS_KEPT) {
            *keys = VecDeque::new();
        }
    }

    /// An audience has left: another may get its index.
    pub(super) fn forget_run(&mut self, store: &mut FrameStore) {
        self.run.clear(store);
        self.run_of = None;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.run.is_empty() && self.turn.is_none() && matches!(self.in_flight, InFlight::Nothing)
    }

    pub(super) fn endings_queued(&self) -> usize {
        self.endings.len()
    }

    pub(super) fn queue_heartbeat(&mut self, key: StreamKey, kind: HeartbeatKind) {
        match self.heartbeats.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, keys)) => keys.push_back(key),
            None => self.heartbeats.push((kind, VecDeque::from([key]))),
        }
    }

    /// Heartbeats that are queued.
    pub(super) fn heartbeats_queued(&self) -> usize {
        self.heartbeats.iter().map(|(_, keys)| keys.len()).sum()
    }

    /// Whether heartbeats are queued that may carry a cursor.
    pub(super) fn wants_caught_up_to(&self) -> bool {
        self.heartbeats.iter().any(|(kind, keys)| kind.checkpoint != Checkpoint::Off && !keys.is_empty())
    }

    pub(super) fn queue_ending(&mut self, key: StreamKey, reason: CloseReason) {
        self.endings.push_back((key, reason));
    }
}

impl Delivery {
    /// The budget of one tick.
    pub fn budget(&self) -> Budgets {
        // Each laggard that is queued now has one turn, at most: one that reads fast comes again in the next
        // tick.
        Budgets { laggards: self.budgets.laggards.min(self.laggards.ready_count()), ..self.budgets }
    }

    /// The next batch. The caller sends it and then calls [`Delivery::handle_sent`], whatever came of it.
    pub fn poll_send<'delivery>(
        &'delivery mut self,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<SendBatch<'delivery>> {
        assert!(matches!(self.sending.in_flight, InFlight::Nothing), "the batch before was not reported");
        self.sending.sockets.clear();
        let sweep = self.next_slice(now, budget, log);
        let in_flight = match sweep {
            Some(in_flight) => in_flight,
            None => self
                .next_replay(now, budget, log)
                .or_else(|| self.next_heartbeats(now, budget))
                .or_else(|| self.next_ending(budget))?,
        };
        self.sending.in_flight = in_flight;
        let bytes = match in_flight {
            InFlight::Slice(..) | InFlight::Replay(_) => self.sending.run.bytes(&self.store),
            InFlight::Unsent(link) => {
                self.unsent.get(link).map_or(&[][..], |unsent| unsent.bytes(&self.store))
            }
            InFlight::Heartbeats(_) | InFlight::Ending(..) => &self.sending.own,
            InFlight::Nothing => &[],
        };
        Some(SendBatch { bytes, sockets: &self.sending.sockets })
    }

    /// What came of the batch: which sends were not whole, in any order.
    pub fn handle_sent(
        &mut self,
        failures: impl IntoIterator<Item = SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        match std::mem::take(&mut self.sending.in_flight) {
            InFlight::Nothing => unreachable!("no batch is under way"),
            InFlight::Slice(audience, slice) => self.slice_sent(audience, slice, failures, now),
            InFlight::Unsent(link) => self.unsent_sent(link, failures.into_iter().next(), now, log),
            InFlight::Replay(laggard) => self.replay_sent(laggard, failures.into_iter().next(), now, log),
            InFlight::Heartbeats(kind) => self.heartbeats_sent(kind, failures, now, log),
            InFlight::Ending(slot, reason) => {
                // If it did not fit, the client sees a broken stream and reconnects: the same, less politely.
                self.end(slot, reason, true, log);
            }
        }
        if self.sending.turn.is_none() {
            self.make_room(log);
        }
    }

    // Sweeps.

    fn next_slice(
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
            match self.audiences.slice(turn.audience, most, scans, Deciseconds::of(now), &mut self.store) {
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

    fn slice_sent(
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
        let mut failed = std::mem::take(&mut self.sending.failures);
        failed.extend(failures);
        // From the back: taking one out moves only those behind it.
        failed.sort_unstable_by_key(|failure| Reverse(failure.index));
        // The run begins at the cursor of the first member. A heartbeat may have sent a later one to others.
        let position = |failure: &SendFailure| (slice.start + failure.index) as u32;
        let cursor_of = |failure: &SendFailure| self.audiences.member(audience, position(failure)).cursor;
        let cursors: SmallVec<[u64; 8]> = failed.iter().map(cursor_of).collect();
        self.audiences.advance(audience, slice, run.end());
        for (failure, cursor) in failed.drain(..).zip(cursors) {
            let run = &self.sending.run;
            self.counts.deliveries -= (run.len() - run.whole_frames(failure.sent)) as u64;
            let slot = self.audiences.member(audience, (slice.start + failure.index) as u32).slot;
            if failure.is_gone {
                self.sending.gone.push(slot);
            } else {
                let cut = self.sending.run.cut(failure.sent, &mut self.store);
                self.member_to_laggard(slot, Some(cut.cursor.max(cursor)), cut.unsent, now);
            }
        }
        self.sending.failures = failed;
    }

    /// Ends the turn of the current audience, and the streams that it found gone: not before, because an audience must
    /// not vanish in the middle of its turn.
    fn end_turn(&mut self, log: &mut impl EventLog) {
        let Some(turn) = self.sending.turn.take() else { return };
        self.audiences.end_turn(turn, &mut self.store);
        let mut gone = std::mem::take(&mut self.sending.gone);
        for slot in gone.drain(..) {
            self.end(slot, CloseReason::PeerLeft, false, log);
        }
        self.sending.gone = gone;
        self.make_room(log);
    }

    // Laggards.

    fn next_replay(
        &mut self,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<InFlight> {
        loop {
            let laggard = match self.sending.next_laggard.take() {
                Some(laggard) => laggard,
                None => {
                    budget.laggards = budget.laggards.checked_sub(1)?;
                    self.laggards.next_turn(&mut budget.scans)?
                }
            };
            if let Some(in_flight) = self.serve(laggard, now, log) {
                return Some(in_flight);
            }
        }
    }

    /// What one laggard needs next: what was begun, else what the log has after its cursor.
    fn serve(&mut self, laggard: u32, now: Duration, log: &mut impl EventLog) -> Option<InFlight> {
        let slot = self.laggards.get(laggard).slot;
        let Subscriber { link, stream } = self.subscribers[slot as usize];
        if self.unsent.contains(slot) {
            self.sending.sockets.push(link.socket);
            return Some(InFlight::Unsent(slot));
        }
        // A slow subscriber may be in the middle of a frame whenever upkeep checks it.
        if stream.ends_at <= Deciseconds::of(now) {
            self.sending.queue_ending(self.key_of(slot), CloseReason::Aged);
            self.laggards.ends(laggard);
            return None;
        }
        let (cursor, incomplete_until) = {
            let state = self.laggards.get(laggard);
            (state.cursor, state.incomplete_until)
        };
        let subscription = Arc::clone(self.audiences.subscription(stream.audience));
        let Sending { run, run_of, keys, frames, .. } = &mut self.sending;
        (*run_of, _) = (None, keys.clear());
        frames.clear();
        match log.read_after(
            &subscription.wanted_after(cursor, incomplete_until),
            RUN_FRAMES,
            RUN_BYTES,
            frames,
        ) {
            Ok(end) => {
                keys.extend(frames.drain(..).map(|frame| self.store.insert(frame)));
                run.fill(cursor, end, subscription.encoding(), keys, &mut self.store);
                keys.drain(..).for_each(|key| self.store.drop_reference(key));
                if run.is_empty() {
                    self.laggards.advance(laggard, end);
                    self.laggard_to_member(laggard);
                    return None;
                }
                self.sending.sockets.push(link.socket);
                Some(InFlight::Replay(laggard))
            }
            Err(available_after) => {
                match self.limits.laggard_policy {
                    // It reconnects, and the head of its next stream reports the gap.
                    LaggardPolicy::Disconnect => self.end(slot, CloseReason::LaggardFull, false, log),
                    LaggardPolicy::Skip => self.skip(laggard, available_after, log),
                }
                None
            }
        }
    }

    /// Some of what the laggard needs is no longer kept: it goes on with what is left, and the gap is reported.
    fn skip(&mut self, laggard: u32, available_after: u64, log: &mut impl EventLog) {
        let (slot, asked) = (self.laggards.get(laggard).slot, self.laggards.get(laggard).cursor);
        let stream = self.subscribers[slot as usize].stream;
        let subscription = self.audiences.subscription(stream.audience);
        let left = log.first_after(&subscription.wanted_after(asked, available_after));
        let cursor = match left {
            Some(left) if left.seq() <= available_after => asked,
            _ => available_after,
        };
        self.counts.gaps += 1;
        if stream.options.gap_events {
            let next = log.first_after(&subscription.wanted_after(available_after, 0));
            let mut bytes = Vec::new();
            let (asked, goes_on) = (self.cursor(asked).to_string(), self.cursor(cursor));
            gap_event(&asked, goes_on, next.as_deref(), subscription.encoding(), &mut bytes);
            self.unsent.insert(slot, Unsent::own(bytes.into(), 0));
        }
        self.laggards.advance(laggard, cursor);
        self.laggards.miss_until(laggard, available_after);
        self.laggards.ready(laggard);
        self.make_room(log);
    }

    fn unsent_sent(
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
                        self.laggards.advance(laggard, seq);
                        self.counts.deliveries += 1;
                    }
                    unsent.drop_reference(&mut self.store);
                }
                self.sending.next_laggard = Some(laggard);
            }
            Some(failure) if failure.is_gone => self.end(link, CloseReason::PeerLeft, false, log),
            Some(failure) => {
                self.unsent.advance(link, failure.sent);
                if failure.sent > 0 {
                    self.laggards.progressed(laggard, now);
                }
            }
        }
    }

    fn replay_sent(
        &mut self,
        laggard: u32,
        failure: Option<SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        self.counts.sends += 1;
        let slot = self.laggards.get(laggard).slot;
        let sent = failure.map_or(self.sending.run.byte_len(), |failure| failure.sent);
        self.counts.deliveries += self.sending.run.whole_frames(sent) as u64;
        if sent > 0 {
            self.laggards.progressed(laggard, now);
        }
        match failure {
            None => {
                let (end, audience) =
                    (self.sending.run.end(), self.subscribers[slot as usize].stream.audience);
                self.laggards.advance(laggard, end);
                self.subscribers[slot as usize].stream.sent_at = Deciseconds::of(now);
                if end >= self.audiences.head(audience) {
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
    pub(super) fn make_room(&mut self, log: &mut impl EventLog) {
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

    // Heartbeats and endings.

    fn next_heartbeats(&mut self, now: Duration, budget: &mut Budgets) -> Option<InFlight> {
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
                // It may be queued twice, where it waited for its turn for so long that upkeep found it again.
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

    /// Whether a member's heartbeat can tell it a cursor that it does not know. In the middle of a sweep a member may not have
    /// everything that this shard was handed. Where nothing was published since, the client knows its cursor already.
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

    fn heartbeats_sent(
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

    fn next_ending(&mut self, budget: &mut Budgets) -> Option<InFlight> {
        loop {
            budget.endings = budget.endings.checked_sub(1)?;
            let (key, reason) = self.sending.endings.pop_front()?;
            let Some(Subscriber { link, stream }) = self.find(key) else { continue };
            if self.unsent.contains(key.slot) {
                // A stream never ends in the middle of a frame: it is ended when that is finished.
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
