//! Delivery: sweeps bring members to the head together, laggards get there one by one.

use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Cause, Io, Socket};
use fanfare_proto::audience::{AudienceId, Subscription};
use fanfare_proto::connection::{Farewell, Place};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::frame::{Frame, WireFormat, gap_event};
use fanfare_proto::limits::LaggardPolicy;
use fanfare_proto::run::Remainder;

use super::{Shard, tenths};

/// How far one send to one socket got.
enum Sent {
    Whole,
    /// The socket is full after this many bytes.
    Full(usize),
    Gone,
}

impl<I: Io> Shard<I> {
    /// Gives audiences their turns until one slice's worth of sends is done.
    pub(super) fn sweep(&mut self, now: Duration) {
        let (mut sends, mut bytes) = (self.budgets.sends, self.budgets.bytes);
        while sends > 0 && bytes > 0 {
            let small_first = sends > self.budgets.sends / 2;
            let Some(audience) = self.audiences.next_turn(small_first) else { return };
            while sends > 0 && bytes > 0 {
                let Some((sent, sent_bytes)) = self.sweep_slice(audience, sends, bytes, now) else { break };
                sends -= sent;
                bytes = bytes.saturating_sub(sent_bytes);
            }
            self.audiences.end_turn(audience);
            self.end_gone();
        }
    }

    /// Sends to the next members that share a cursor. `None`: the pass is over.
    fn sweep_slice(
        &mut self,
        audience: AudienceId,
        sends: usize,
        bytes: usize,
        now: Duration,
    ) -> Option<(usize, usize)> {
        let mut slice = self.audiences.slice(audience, sends, tenths(now))?;
        self.fill_run(audience, slice.after);
        let run = &self.scratch.run;
        let affordable = (bytes / run.bytes().len()).max(1);
        slice.end = slice.end.min(slice.start + affordable);
        let members = self.audiences.members(audience, slice);
        let count = members.len();
        let exceptions = &mut self.scratch.exceptions;
        self.io.send_batch(run.bytes(), members.iter().map(|member| member.socket), exceptions);
        self.counts.sends += count as u64;
        self.counts.deliveries += (count * run.len()) as u64;
        let sent_bytes = run.bytes().len() * count;
        self.audiences.sent(audience, slice, run.end());
        if !self.scratch.exceptions.is_empty() {
            self.take_out(audience, slice.start, now);
        }
        Some((count, sent_bytes))
    }

    /// Takes the exceptions of a slice out of the sweep: the full become laggards, the gone are noted.
    fn take_out(&mut self, audience: AudienceId, start: usize, now: Duration) {
        let mut exceptions = std::mem::take(&mut self.scratch.exceptions);
        // From the back: taking one out moves only those behind it.
        exceptions.sort_unstable_by_key(|exception| std::cmp::Reverse(exception.index));
        for exception in exceptions.drain(..) {
            let run = &self.scratch.run;
            self.counts.deliveries -= (run.len() - run.whole_frames(exception.sent)) as u64;
            let index = (start + exception.index) as u32;
            match exception.cause {
                Cause::Full => {
                    let cut = run.cut(exception.sent);
                    self.member_to_laggard(audience, index, Some(cut.cursor), cut.remainder, now);
                }
                Cause::Gone(_) => {
                    self.scratch.gone.push(self.audiences.member(audience, index).slot);
                }
            }
        }
        self.scratch.exceptions = exceptions;
    }

    /// A member's socket is full: it waits with a cursor of its own (its old one, where `cursor` is
    /// `None`).
    pub(super) fn member_to_laggard(
        &mut self,
        audience: AudienceId,
        index: u32,
        cursor: Option<u64>,
        remainder: Option<Remainder>,
        now: Duration,
    ) {
        self.audiences.add_laggard(audience);
        let connections = &mut self.connections;
        let member = self.audiences.leave(audience, index, |slot, index| {
            connections[slot as usize].place = Place::Member(index);
        });
        let cursor = cursor.unwrap_or(member.cursor);
        let key = self.laggards.insert(member.slot, cursor, cursor, remainder, now, false);
        self.connections[member.slot as usize].place = Place::Laggard(key);
    }

    /// Ends the connections that a turn found gone; their audiences must not vanish in its middle.
    fn end_gone(&mut self) {
        let mut gone = std::mem::take(&mut self.scratch.gone);
        for slot in gone.drain(..) {
            self.end(slot, Farewell::PeerLeft);
        }
        self.scratch.gone = gone;
    }

    /// Gives each laggard whose socket has room one send, until it is at the head.
    pub(super) fn serve_laggards(&mut self, now: Duration) {
        let turns = self.laggards.ready_count().min(self.budgets.laggards);
        for _ in 0..turns {
            let Some(key) = self.laggards.next_turn() else { return };
            self.serve_laggard(key, now);
        }
    }

    fn serve_laggard(&mut self, key: u32, now: Duration) {
        let slot = self.laggards.get(key).slot;
        let connection = self.connections[slot as usize];
        let (socket, audience) = (connection.socket, connection.audience);
        self.audiences.settle(audience);
        if !self.finish_remainder(key, socket, slot, now) {
            return;
        }
        // A slow reader may be in the middle of a frame whenever upkeep looks at it.
        if connection.ends_at <= tenths(now) {
            self.end_stream(slot, Farewell::Aged);
            return;
        }
        if !self.fill_for_laggard(key, audience) {
            return;
        }
        if self.scratch.run.is_empty() {
            self.laggard_to_member(key, slot);
            return;
        }
        let sent = send_one(&mut self.io, self.scratch.run.bytes(), socket);
        let run = &self.scratch.run;
        self.counts.sends += 1;
        let laggard = self.laggards.get_mut(key);
        match sent {
            Sent::Whole => {
                laggard.cursor = run.end();
                laggard.progress_at = now;
                self.connections[slot as usize].sent_at = tenths(now);
                self.counts.deliveries += run.len() as u64;
                if run.end() >= self.audiences.head(audience) {
                    self.laggard_to_member(key, slot);
                } else {
                    self.laggards.ready(key);
                }
            }
            Sent::Full(bytes) => {
                let cut = run.cut(bytes);
                laggard.cursor = cut.cursor;
                laggard.remainder = cut.remainder;
                if bytes > 0 {
                    laggard.progress_at = now;
                }
                self.counts.deliveries += run.whole_frames(bytes) as u64;
            }
            Sent::Gone => self.end(slot, Farewell::PeerLeft),
        }
    }

    /// Sends what was begun. False where it is still not finished, or the connection is gone.
    fn finish_remainder(&mut self, key: u32, socket: Socket, slot: u32, now: Duration) -> bool {
        let laggard = self.laggards.get_mut(key);
        let Some(remainder) = &mut laggard.remainder else { return true };
        match send_one(&mut self.io, remainder.bytes(), socket) {
            Sent::Whole => {
                laggard.progress_at = now;
                if let Some(seq) = remainder.seq() {
                    laggard.cursor = seq;
                    self.counts.deliveries += 1;
                }
                laggard.remainder = None;
                self.connections[slot as usize].sent_at = tenths(now);
                true
            }
            Sent::Full(bytes) => {
                remainder.advance(bytes);
                if bytes > 0 {
                    laggard.progress_at = now;
                }
                false
            }
            Sent::Gone => {
                self.end(slot, Farewell::PeerLeft);
                false
            }
        }
    }

    /// Finds what a laggard needs next: in the window, else in the log. False where it is over its bound,
    /// or replays what the log has dropped meanwhile, and was ended or told of the gap.
    fn fill_for_laggard(&mut self, key: u32, audience: AudienceId) -> bool {
        let laggard = self.laggards.get(key);
        let (cursor, slot) = (laggard.cursor, laggard.slot);
        let over_bound = laggard.needs_after() < self.audiences.window_after(audience);
        if !over_bound {
            if cursor >= self.audiences.window_after(audience) {
                self.fill_run(audience, cursor);
                return true;
            }
            let subscription = self.audiences.subscription(audience);
            if cursor >= self.log.available_after(subscription.topics()) {
                let frames = self.log.after(subscription.topics(), cursor);
                let admitted = frames.filter(|frame| subscription.admits(frame));
                self.scratch.run_of = None;
                self.scratch.run.fill(cursor, subscription.format(), admitted);
                return true;
            }
        }
        match self.limits.laggard_policy {
            // It reconnects, and the head of its next stream tells of the gap.
            LaggardPolicy::Disconnect => self.end(slot, Farewell::LaggardFull),
            LaggardPolicy::Skip => self.skip_to_available(key, slot, audience),
        }
        false
    }

    /// What the laggard needs is no longer kept: it goes on after the gap, and is told.
    fn skip_to_available(&mut self, key: u32, slot: u32, audience: AudienceId) {
        let subscription = Arc::clone(self.audiences.subscription(audience));
        let in_log = self.log.available_after(subscription.topics());
        let laggard = self.laggards.get(key);
        let (after, since) = (laggard.cursor, laggard.since);
        let window_after = self.audiences.window_after(audience);
        let cursor = if after.max(since) < window_after { window_after } else { in_log.min(window_after) };
        self.counts.gaps += 1;
        let mut bytes = Vec::new();
        if self.connections[slot as usize].gap_notice {
            let asked = Cursor { epoch: self.log.epoch(), seq: after }.to_string();
            // The window may reach further back than the log, where retention is small.
            let next = match cursor >= window_after {
                true => self.audiences.window(audience).after(cursor).next(),
                false => self.next_in_log(cursor, &subscription),
            };
            let at = Cursor { epoch: self.log.epoch(), seq: cursor };
            gap_event(&asked, at, next.map(Arc::as_ref), subscription.format(), &mut bytes);
        }
        let laggard = self.laggards.get_mut(key);
        laggard.cursor = cursor;
        laggard.since = laggard.since.max(cursor);
        laggard.remainder = (!bytes.is_empty()).then(|| Remainder::own(bytes.into(), 0));
        self.laggards.ready(key);
    }

    /// The first retained frame of a subscription after `cursor`.
    pub(super) fn next_in_log(&self, cursor: u64, subscription: &Subscription) -> Option<&Arc<Frame>> {
        self.log.after(subscription.topics(), cursor).find(|frame| subscription.admits(frame))
    }

    fn laggard_to_member(&mut self, key: u32, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        self.laggards.remove(key);
        connection.place = Place::Member(self.audiences.join(connection.audience, connection.socket, slot));
        // Only now: an audience without members and laggards would forget its window.
        self.audiences.remove_laggard(connection.audience);
    }

    fn fill_run(&mut self, audience: AudienceId, after: u64) {
        let run_of = Some((audience, after, self.audiences.head(audience)));
        if self.scratch.run_of != run_of {
            self.audiences.fill(audience, after, &mut self.scratch.run);
            self.scratch.run_of = run_of;
        }
    }

    /// Sends heartbeats to the members in these slots; those whose socket is full become laggards.
    pub(super) fn send_heartbeats(&mut self, slots: &[u32], format: WireFormat, now: Duration) {
        let bytes = fanfare_proto::frame::heartbeat(self.limits.heartbeat_form, format);
        let connections = &self.connections;
        let sockets = slots.iter().map(|&slot| connections[slot as usize].socket);
        let mut exceptions = std::mem::take(&mut self.scratch.exceptions);
        self.io.send_batch(bytes, sockets, &mut exceptions);
        self.counts.heartbeats += (slots.len() - exceptions.len()) as u64;
        for &slot in slots {
            self.connections[slot as usize].sent_at = tenths(now);
        }
        for exception in exceptions.drain(..) {
            let slot = slots[exception.index];
            let connection = self.connections[slot as usize];
            match (exception.cause, connection.place) {
                (Cause::Full, Place::Member(index)) => {
                    let begun = exception.sent > 0;
                    let remainder = begun.then(|| Remainder::constant(bytes, exception.sent));
                    self.member_to_laggard(connection.audience, index, None, remainder, now);
                }
                (Cause::Gone(_), _) => self.end(slot, Farewell::PeerLeft),
                (Cause::Full, Place::Laggard(_)) => unreachable!("heartbeats go to members"),
            }
        }
        self.scratch.exceptions = exceptions;
    }

    /// Sends bytes of its own to one socket.
    pub(super) fn send_own(&mut self, bytes: &[u8], socket: Socket) -> Result<usize, ()> {
        match send_one(&mut self.io, bytes, socket) {
            Sent::Whole => Ok(bytes.len()),
            Sent::Full(sent) => Ok(sent),
            Sent::Gone => Err(()),
        }
    }
}

fn send_one<I: Io>(io: &mut I, bytes: &[u8], socket: Socket) -> Sent {
    let mut exceptions = Vec::new();
    io.send_batch(bytes, std::iter::once(socket), &mut exceptions);
    match exceptions.first() {
        None => Sent::Whole,
        Some(exception) => match exception.cause {
            Cause::Full => Sent::Full(exception.sent),
            Cause::Gone(_) => Sent::Gone,
        },
    }
}
