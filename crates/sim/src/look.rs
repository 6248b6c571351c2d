//! What must hold after a shard's tick, seen from outside: at its sockets, and at its clients.

use fanfare::sim::Look;
use fanfare::{Farewell, FullPolicy};

use crate::client::{Ask, Moment};
use crate::shared::tell;
use crate::tally::Thing;
use crate::world::{SECOND, World};

impl World {
    pub(crate) fn look_at(&mut self, shard: usize, before: &Look, after: &Look) {
        self.check_laggards(shard);
        self.check_stalled(shard, before, after);
        let touched = self.seats[shard].net.borrow_mut().take_touched();
        let moment = World::moment(before, after);
        for wire in touched {
            self.look_at_wire(shard, wire, moment);
        }
        if after.sweeping {
            self.seats[shard].swept_at = self.shared.now.get();
        }
        self.check_silence(shard);
        self.check_heartbeats(shard, after);
        self.check_log(before, after);
        let begun = after.counts.subscribed - before.counts.subscribed;
        assert!(!before.draining || begun == 0, "a stream begins in the drain");
    }

    /// A laggard waits for its turn, or somebody owes it a notification.
    fn check_laggards(&self, shard: usize) {
        let seat = &self.seats[shard];
        let mut net = seat.net.borrow_mut();
        for (number, in_line) in seat.shard.laggards() {
            let blocked = net.still_lags(number);
            assert!(in_line || blocked || net.owes(number), "a laggard is forgotten");
        }
    }

    /// Whoever is ended as stalled has taken no byte for long, though nobody kept it waiting.
    fn check_stalled(&self, shard: usize, before: &Look, after: &Look) {
        let count = after.counts.farewell(Farewell::LaggardStalled)
            - before.counts.farewell(Farewell::LaggardStalled);
        if count == 0 {
            return;
        }
        let (now, limit) = (self.shared.now.get(), self.shared.setting.limits.laggard_time);
        let net = self.seats[shard].net.borrow();
        let stalled = |wire: &&crate::network::Wire| {
            wire.closed && wire.closed_at == now && wire.was_unheard && now - wire.sent_at >= limit
        };
        assert!(
            net.wires().iter().filter(stalled).count() as u64 >= count,
            "one whose socket had room was ended as stalled"
        );
    }

    fn look_at_wire(&mut self, shard: usize, wire: usize, moment: Moment) {
        let now = self.shared.now.get();
        let net = self.seats[shard].net.borrow();
        let it = net.wire(wire);
        let (number, answered, closed) = (it.client, it.answered, it.closed);
        drop(net);
        let client = &mut self.clients[number];
        let is_fast = client.is_fast;
        let Some(link) = client.link.as_mut().filter(|link| (link.shard, link.wire) == (shard, wire)) else {
            return;
        };
        if answered && link.began.is_none() {
            link.began = Some((moment, now));
        }
        if is_fast || closed {
            self.read(number, usize::MAX);
        }
        if closed {
            self.closed(number);
        }
    }

    /// The client reads at most so many bytes.
    pub(crate) fn read(&mut self, number: usize, count: usize) {
        let client = &mut self.clients[number];
        let Some(link) = &client.link else { return };
        let mut net = self.seats[link.shard].net.borrow_mut();
        let bytes = net.client_reads(link.wire, count);
        let ever_blocked = net.wire(link.wire).ever_blocked;
        drop(net);
        if !bytes.is_empty() {
            tell!(self.shared, "    client {number} reads {} bytes", bytes.len());
            client.take(&bytes, ever_blocked, &self.shared);
        }
    }

    /// The shard has closed a client's socket: for a reason?
    fn closed(&mut self, number: usize) {
        let setting = &self.shared.setting;
        let now = self.shared.now.get();
        let client = &mut self.clients[number];
        let is_subscriber = client.is_subscriber();
        let chunked = client.chunked();
        let statuses = client.statuses;
        let Some(link) = client.link.take() else { return };
        client.last_shard = Some(link.shard);
        let net = self.seats[link.shard].net.borrow();
        let wire = net.wire(link.wire);
        client.last_end = client.end(&link, wire.ever_blocked, &self.shared);
        if wire.ended {
            return;
        }
        let limits = &setting.limits;
        let draining = self.shared.over.get();
        let excused = wire.ever_blocked || draining;
        match link.stream.status() {
            None => {
                // The descriptor was not there, the table full, or the house: nobody says why.
                let dropped = limits.when_full == FullPolicy::Drop && limits.connections < 100;
                if dropped {
                    self.shared.happened(Thing::Dropped);
                }
                let excused = excused || wire.watch_refused || dropped || limits.pending < 100;
                assert!(excused, "client {number} is closed without an answer");
            }
            Some(200) if link.ended_at_once => {
                self.shared.happened(Thing::EndedAtOnce);
                assert!(limits.when_full == FullPolicy::EndStream && limits.connections < 100);
                assert!(wire.ever_blocked || link.stream.terminated == chunked, "the last chunk ends it");
            }
            Some(200) if wire.finished => {
                assert!(wire.ever_blocked || !link.stream.is_cut(), "the end itself is cut");
                assert!(!link.stream.is_cut_in_an_event(), "client {number}: a stream ends between events");
                assert!(wire.ever_blocked || link.stream.terminated == chunked, "the last chunk ends it");
                let age = now - link.began.expect("a beginning").1;
                let aged = limits.connection_age.is_some_and(|most| age + SECOND / 5 >= most * 8 / 10);
                assert!(aged || draining, "client {number} was ended after {age:?}");
            }
            Some(200) => {
                // Those who replay may find that the log has let go of what they need.
                assert!(!link.stream.terminated);
                assert!(excused || link.ask != Ask::Now, "client {number}, a healthy one, was cut");
            }
            Some(status) => {
                assert!(excused || !link.stream.is_cut(), "a refusal is whole");
                let slow = status == 408 && now - link.connected_at >= limits.head_time;
                let full =
                    status == 503 && limits.when_full == FullPolicy::Unavailable && limits.connections < 100;
                if full && is_subscriber {
                    self.shared.happened(Thing::Unavailable);
                } else if statuses.contains(&status) {
                    self.shared.happened(Thing::Refused);
                }
                let too_long = status == 431 && limits.head.max_bytes < 1000;
                let right = statuses.contains(&status) || (is_subscriber && (full || too_long));
                assert!(slow || right, "client {number} got {status}");
            }
        }
    }

    /// A stream is never silent for longer than a heartbeat's interval, unless its socket is full. A sweep counts as
    /// something sent to all, also to members that had everything: so one that takes long makes heartbeats late.
    fn check_silence(&self, shard: usize) {
        let (now, heartbeat) = (self.shared.now.get(), self.shared.setting.limits.heartbeat);
        let seat = &self.seats[shard];
        let net = seat.net.borrow();
        if self.shared.setting.slowness > 1 && self.shared.hostile.get() {
            return;
        }
        for client in &self.clients {
            let Some(link) = client.link.as_ref().filter(|link| link.shard == shard) else { continue };
            let Some((_, began_at)) = link.began else { continue };
            let wire = net.wire(link.wire);
            if !client.is_subscriber() || wire.blocked || wire.finished || wire.closed || wire.ended {
                continue;
            }
            let since = wire.sent_at.max(wire.blocked_at).max(seat.late_at).max(seat.swept_at).max(began_at);
            let silence = now.saturating_sub(since);
            assert!(
                silence <= heartbeat + SECOND / 2,
                "client {}: no heartbeat for {silence:?}",
                client.number
            );
        }
    }

    /// A heartbeat comes only after silence; where a sweep is not through, the shard does not know who had silence.
    fn check_heartbeats(&self, shard: usize, after: &Look) {
        for (client, silence) in self.seats[shard].net.borrow_mut().early.drain(..) {
            assert!(after.sweeping, "client {client}: a heartbeat after {silence:?}");
        }
    }

    /// The log lets go of events for want of room or for their age, and for nothing else.
    fn check_log(&self, before: &Look, after: &Look) {
        let retention = &self.shared.setting.limits.retention;
        let counts = &after.counts;
        if after.dropped == before.dropped {
            return;
        }
        let history = self.shared.history.borrow();
        let last = &history.events[after.dropped as usize - 1];
        let too_many = counts.log_frames + 1 > retention.frames as u64;
        // A frame is a little larger than its data: its names, its counters, its heads.
        let too_large = counts.log_bytes as usize + last.data.len() + 2_000 > retention.bytes;
        let too_old = self.shared.now.get().saturating_sub(last.published_at) >= retention.age;
        assert!(too_many || too_large || too_old, "the log has dropped {} for nothing", last.seq);
    }
}
