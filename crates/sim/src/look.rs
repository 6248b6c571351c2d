//! What must hold after a shard's tick, seen from outside: at its sockets, and at its clients.

use std::collections::HashSet;

use fanfare::sim::Look;
use fanfare::{Farewell, FullPolicy, LaggardPolicy};

use crate::client::{Client, Link, Moment, Stand};
use crate::network::Wire;
use crate::shared::tell;
use crate::tally::Thing;
use crate::world::{SECOND, World};

impl World {
    /// `newest`: what the hub had published before the tick.
    pub(crate) fn look_at(&mut self, shard: usize, newest: u64, before: &Look, after: &Look) {
        self.check_laggards(shard);
        self.check_stalled(shard, before, after);
        let touched = self.seats[shard].net.borrow_mut().take_touched();
        let moment = self.moment(newest, before, after);
        for wire in touched {
            self.look_at_wire(shard, wire, moment, (before, after));
        }
        self.seats[shard].net.borrow_mut().note_sweep(after.sweeping);
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
        net.note_laggards(seat.shard.laggards().map(|(number, _)| number));
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
        let stalled = |wire: &&Wire| wire.closed && wire.closed_at == now && wire.has_stalled(now, limit);
        assert!(
            net.wires().iter().filter(stalled).count() as u64 >= count,
            "one whose socket had room was ended as stalled"
        );
    }

    fn look_at_wire(&mut self, shard: usize, wire: usize, moment: Moment, looks: (&Look, &Look)) {
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
        let begins = answered && link.began.is_none();
        if begins {
            link.began = Some((moment, now));
        }
        if is_fast || closed {
            self.read(number, usize::MAX);
        }
        if closed {
            self.closed(number, begins, moment, looks);
        }
    }

    /// The client reads at most so many bytes.
    pub(crate) fn read(&mut self, number: usize, count: usize) {
        let client = &mut self.clients[number];
        let Some(link) = &client.link else { return };
        let stand = Stand::of(&self.seats[link.shard].shard.look());
        let bytes = self.seats[link.shard].net.borrow_mut().client_reads(link.wire, count);
        if !bytes.is_empty() {
            tell!(self.shared, "    client {number} reads {} bytes", bytes.len());
            client.take(&bytes, stand, &self.shared);
        }
    }

    /// The shard has closed a client's socket, and `begins` says that it answered in the same tick: for a reason?
    fn closed(&mut self, number: usize, begins: bool, moment: Moment, (before, after): (&Look, &Look)) {
        let now = self.shared.now.get();
        let client = &mut self.clients[number];
        let Some(link) = client.link.take() else { return };
        client.last_shard = Some(link.shard);
        client.last_end = client.end(&link, Stand::of(after), &self.shared);
        let client = &self.clients[number];
        let net = self.seats[link.shard].net.borrow();
        let wire = net.wire(link.wire);
        if wire.ended {
            return;
        }
        let limits = &self.shared.setting.limits;
        let whole = !link.stream.is_cut() && link.stream.terminated == client.chunked();
        let refused = after.counts.refused > before.counts.refused;
        match link.stream.status() {
            None if !wire.answered => {
                // The descriptor was not there, the table full, or the house: nobody says why.
                let dropped = refused && moment.house_full && limits.when_full == FullPolicy::Drop;
                if dropped {
                    self.shared.happened(Thing::Dropped);
                }
                let turned_away = after.counts.turned_away > before.counts.turned_away
                    && (wire.watch_refused || limits.pending < 100);
                assert!(
                    dropped || turned_away || after.draining,
                    "client {number} is closed without an answer"
                );
            }
            // A refusal that does not fit is not waited for. (Another's may be counted in this tick.)
            None | Some(200)
                if begins
                    && refused
                    && wire.is_short
                    && !link.has_begun()
                    && (!client.is_subscriber() || moment.house_full || self.is_bad_head(&link)) => {}
            Some(200) if link.ended_at_once => {
                self.shared.happened(Thing::EndedAtOnce);
                assert!(limits.when_full == FullPolicy::EndStream && link.came_to_a_full_house());
                assert!(whole, "the last chunk ends it");
            }
            Some(200) if wire.finished => {
                // The end goes out as far as there is room.
                assert!(wire.is_short || whole, "the last chunk ends it, and it is whole");
                assert!(!link.stream.is_cut_in_an_event(), "client {number}: a stream ends between events");
                let age = now - link.began.expect("a beginning").1;
                let aged = limits.connection_age.is_some_and(|most| age + SECOND / 5 >= most * 8 / 10);
                assert!(aged || after.draining, "client {number} was ended after {age:?}");
            }
            None | Some(200) => {
                assert!(!link.stream.terminated);
                let right = self.may_be_cut(client, &link, wire, Stand::of(after));
                assert!(right, "client {number}, a healthy one, was cut");
            }
            Some(status) => {
                assert!(wire.is_short || !link.stream.is_cut(), "a refusal is whole");
                let statuses = client.statuses;
                let full = status == 503
                    && limits.when_full == FullPolicy::Unavailable
                    && link.came_to_a_full_house();
                if full && client.is_subscriber() {
                    self.shared.happened(Thing::Unavailable);
                } else if statuses.contains(&status) {
                    self.shared.happened(Thing::Refused);
                }
                let answered_at = link.began.map_or(now, |(_, at)| at);
                let slow = status == 408 && answered_at - link.connected_at >= limits.head_time;
                let too_long = status == 431 && limits.head.max_bytes < 1000;
                let right = statuses.contains(&status) || (client.is_subscriber() && (full || too_long));
                assert!(slow || right, "client {number} got {status}");
            }
        }
    }

    /// Whether its head may be refused for what it is, or for how late it is.
    fn is_bad_head(&self, link: &Link) -> bool {
        let limits = &self.shared.setting.limits;
        limits.head.max_bytes < 1000 || self.shared.now.get() - link.connected_at >= limits.head_time
    }

    /// A stream may be cut for what its reader does, and at the end of a drain: never for what others do.
    fn may_be_cut(&self, client: &Client, link: &Link, wire: &Wire, stand: Stand) -> bool {
        let (now, limits) = (self.shared.now.get(), &self.shared.setting.limits);
        let skips = limits.laggard_policy == LaggardPolicy::Skip;
        // A member is never at a laggard's bound, however much is still to be sent to it.
        let lags = wire.is_short || wire.lags_since.is_some() || link.replays();
        let at_bound = !skips && lags && client.is_out_of_reach(link, stand, &self.shared);
        // Something is begun there that cannot be finished: a frame, or the notice of what was skipped.
        let in_drain = now >= self.shared.cuts_from.get() && (wire.is_short || skips);
        at_bound || in_drain || wire.has_stalled(now, limits.laggard_time)
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
        let retention = &self.shared.setting.limits.log.retention;
        let counts = &after.counts;
        if (after.dropped, after.head) == (before.dropped, before.head) {
            return;
        }
        let history = self.shared.history.borrow();
        let retained = history.between(after.dropped, after.head);
        let bytes: usize = retained.iter().map(|entry| entry.size).sum();
        assert_eq!(counts.log_bytes, bytes as u64, "what the log counts");
        let own_ids: HashSet<&str> = retained.iter().filter_map(|entry| entry.own_id.as_deref()).collect();
        assert_eq!(after.own_ids, own_ids.len(), "ids that retained events bear");
        if after.dropped == before.dropped {
            return;
        }
        let last = &history.events[after.dropped as usize - 1];
        let too_many = counts.log_frames + 1 > retention.events as u64;
        let too_large = counts.log_bytes as usize + last.size > retention.bytes;
        let too_old = self.shared.now.get().saturating_sub(last.published_at) >= retention.age;
        assert!(too_many || too_large || too_old, "the log has dropped {} for nothing", last.seq);
    }
}
