//! What must hold after a shard's tick, seen from outside: at its sockets, and at its clients.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare::{CloseReason, Cursor, FullPolicy, LaggardPolicy, Pattern, Topic, bound_for};
use fanfare_proto::limits::{CONGESTION_HOLD, EXPIRY_SLACK, RUN_BYTES};

use crate::client::{Client, Resume, StreamEnd};
use crate::connection::Connection;
use crate::network::{CutPiece, Net};
use crate::pieces::PieceKind;
use crate::tally::Occurrence;
use crate::trace::{self, trace};
use crate::verifier::{Beginning, STORE_WAIT};
use crate::world::{SECOND, TRIMMING_SHARD, Tick, World};

/// How late a shard may be that had its ticks in time.
const LATE: Duration = Duration::from_millis(100);

/// A gap event has at most so many bytes.
const GAP_EVENT_BYTES: usize = 300;

/// The size of the largest frame of a world, roughly.
const LARGEST_FRAME: usize = 36_000;

impl World {
    pub(crate) fn check_tick(&mut self, tick: &Tick) {
        let shard = tick.shard;
        self.shards[shard].net.borrow_mut().count_changes();
        let in_time_since = (!self.is_slowed()).then_some(self.shards[shard].late_at);
        let (undecided, others_wait) = (tick.after.counts.undecided, tick.after.others_waiting > 0);
        let decided_waiting = tick.after.decided_waiting as u64;
        let left = tick.after.counts.left_undecided - tick.before.counts.left_undecided;
        self.shared.tally.borrow_mut().add(Occurrence::LeftUndecided, left);
        self.shards[shard].net.borrow_mut().check_undecided(
            undecided,
            decided_waiting,
            others_wait,
            in_time_since,
        );
        self.check_laggards(shard);
        self.check_stalled(tick);
        self.check_room_made(tick);
        let touched = self.shards[shard].net.borrow_mut().take_touched();
        for index in touched {
            self.check_connection(tick, index);
        }
        trace::at(trace::Position::forget_client);
        self.shards[shard].net.borrow_mut().note_sweep(tick.after.is_sweeping);
        if tick.after.is_sweeping {
            self.shards[shard].swept_at = self.shared.now.get();
        }
        self.check_silence(shard);
        self.check_ends(shard);
        self.check_early_heartbeats(tick);
        self.check_mail(tick);
        if tick.is_checked {
            self.check_counts(tick);
            self.check_memory(tick);
            self.check_readers(tick);
        }
        self.check_resuming(tick);
        self.check_ages();
        self.check_clients(tick);
        let begun = tick.after.counts.subscribed - tick.before.counts.subscribed;
        assert!(!tick.before.is_draining || begun == 0, "a stream begins in the drain");
    }

    /// A laggard waits for its turn, or a notification is owed to it.
    fn check_laggards(&self, shard: usize) {
        let shard = &self.shards[shard];
        let mut net = shard.net.borrow_mut();
        net.note_laggards(shard.shard.laggards().map(|(number, _)| number));
        let waiting = shard.shard.waiting_for_pages();
        for (number, in_line) in shard.shard.laggards() {
            let blocked = net.still_lags(number);
            let waits = waiting.contains(&number);
            assert!(in_line || blocked || net.owes(number) || waits, "a laggard is forgotten");
        }
    }

    /// A connection that is ended as stalled has taken no byte for long, though nothing kept it waiting.
    fn check_stalled(&self, tick: &Tick) {
        let count = tick.closed(CloseReason::LaggardStalled);
        if count == 0 {
            return;
        }
        let (now, limit) = (self.shared.now.get(), self.shared.setting.limits.laggard_time);
        let net = self.shards[tick.shard].net.borrow();
        let stalled = |it: &&Connection| it.closed && it.closed_at == now && it.has_stalled(now, limit);
        let stalled = net.connections.iter().filter(stalled).count() as u64;
        assert!(stalled >= count, "a connection whose socket had room was ended as stalled");
    }

    /// Connections in the middle of a piece were cut to make room: more was begun than may be, and those that
    /// hold most go.
    fn check_room_made(&self, tick: &Tick) {
        if tick.closed(CloseReason::LaggardFull) == 0 {
            return;
        }
        let net = self.shards[tick.shard].net.borrow();
        let setting = &self.shared.setting;
        let skips = setting.limits.laggard_policy == LaggardPolicy::Skip;
        let was_cut = |piece: &&CutPiece| {
            let it = net.connection(piece.index);
            let stalled = it.has_stalled(self.shared.now.get(), setting.limits.laggard_time);
            !it.ended
                && !it.finished
                && !stalled
                && !it.told.may_end()
                && self.shared.now.get() < self.shared.cuts_from.get()
        };
        let cut: Vec<&CutPiece> = net.this_tick.cut_with_unsent.iter().filter(was_cut).collect();
        let Some(largest) = cut.iter().map(|piece| piece.part).max() else { return };
        // Before the last of them was cut, too.
        let others: usize = cut.iter().map(|piece| piece.part).sum::<usize>() - largest;
        let gap_events = if skips { GAP_EVENT_BYTES * net.connections.len() } else { 0 };
        let begun = net.begun.peak + gap_events - others;
        let limit = setting.limits.laggard_bytes;
        assert!(begun > limit, "{} connections were cut where at most {begun} bytes were begun", cut.len());
        // Those for which the shard holds most go, as far as it checks all of them.
        let all_are_checked = setting.budgets.laggard_checks > net.connections.len();
        let left = || {
            let live = net.connections.iter().filter(|it| it.is_live() && !it.ended);
            live.filter_map(|it| it.verifier.begun.as_ref()).filter(|begun| begun.tick < net.tick())
        };
        // At most: others that shared the frame may have begun it later in this tick.
        let share_at_most = |piece: &&CutPiece| match piece.kind {
            PieceKind::Frame(_) => piece.size / (1 + left().filter(|begun| begun.kind == piece.kind).count()),
            PieceKind::Own(bytes) => bytes,
            PieceKind::Heartbeat => 0,
        };
        let smallest_cut = cut.iter().map(share_at_most).min().unwrap_or_default();
        let largest_left = left().map(|begun| net.begun.share_at_least(begun.kind)).max().unwrap_or_default();
        assert!(
            !all_are_checked || skips || largest_left <= smallest_cut,
            "one that holds {smallest_cut} bytes was cut, and one that holds {largest_left} was not"
        );
    }

    fn check_connection(&mut self, tick: &Tick, index: usize) {
        let mut net = self.shards[tick.shard].net.borrow_mut();
        let it = &mut net.connections[index];
        if it.is_answered() {
            // Streams that have left in the tick may have left after this one came.
            let begun = tick.after.counts.subscribed - tick.before.counts.subscribed;
            let (live, most) =
                (tick.before.counts.connections + begun, self.shared.setting.limits.connections);
            let bound = |is_operator| bound_for(is_operator, most) as u64;
            if it.came_when_full.is_none() {
                it.came_when_full = Some(live >= bound(it.accepted.is_operator));
                it.came_in_reserve = live > bound(false) && it.accepted.is_operator && it.was_stream();
                if it.came_in_reserve {
                    self.shared.happened(Occurrence::OperatorInReserve);
                }
                let it = &net.connections[index];
                let has_enough = self.has_subject_enough(tick, &net, it);
                net.connections[index].had_subject_enough = Some(has_enough);
            }
        }
        let it = &net.connections[index];
        if it.closed && it.was_stream() {
            let reasons = self.reasons_of(tick, &net, &net.connections[index]);
            net.connections[index].life.reasons = reasons;
        }
        let it = &net.connections[index];
        let (number, closed) = (it.client, it.closed);
        trace::at(|position| {
            (position.client, position.connection) = (Some(number), Some(index));
            position.cursor = it.verifier.cursor;
        });
        drop(net);
        let client = &self.clients[number];
        let is_this = |at: &crate::client::ClientConnection| (at.shard, at.index) == (tick.shard, index);
        if !client.connection.as_ref().is_some_and(is_this) {
            return;
        }
        if client.is_fast || closed {
            self.read(number, usize::MAX);
        }
        if closed {
            self.check_closed(tick, number);
        }
    }

    /// The client reads at most so many bytes.
    pub(crate) fn read(&mut self, number: usize, count: usize) {
        let client = &mut self.clients[number];
        let Some(at) = &client.connection else { return };
        let (bytes, items) = self.shards[at.shard].net.borrow_mut().client_reads(at.index, count);
        if bytes > 0 {
            trace!(self.shared, "    client {number} reads {bytes} bytes");
        }
        for item in items {
            client.take(item);
        }
    }

    /// The shard has closed a client's socket: for a reason?
    fn check_closed(&mut self, tick: &Tick, number: usize) {
        let now = self.shared.now.get();
        let client = &mut self.clients[number];
        let Some(at) = client.connection.take() else { return };
        client.last_shard = Some(at.shard);
        let net = self.shards[at.shard].net.borrow();
        let it = net.connection(at.index);
        let (verifier, response) = (&it.verifier, &it.verifier.response);
        client.last_end =
            verifier.complete_until(&self.shared).filter(|_| verifier.has_prelude()).map(|until| StreamEnd {
                is_cut: response.is_cut(),
                misses: verifier.misses_after(until, &self.shared),
            });
        let client = &self.clients[number];
        if it.ended {
            return;
        }
        let limits = &self.shared.setting.limits;
        let whole = !response.is_cut() && response.terminated == client.request.chunked;
        let refused = tick.after.counts.refused > tick.before.counts.refused;
        let begins = verifier.beginning.is_some_and(|beginning| beginning.at == now);
        let begun = tick.after.counts.subscribed - tick.before.counts.subscribed;
        let now_full = tick.before.counts.connections + begun
            >= bound_for(it.accepted.is_operator, limits.connections) as u64;
        // Its client, or its subject, has as much as it may.
        let client_full = it.accepted.has_enough
            || it.had_subject_enough.unwrap_or_else(|| self.has_subject_enough(tick, &net, it));
        // The log may know as many patterns as it may.
        let no_room_for_patterns = it.lacks_patterns(&self.shared);
        let was_full = it.came_when_full.unwrap_or(now_full) || client_full;
        let house_full = was_full || no_room_for_patterns;
        if no_room_for_patterns && !was_full && refused {
            self.shared.happened(Occurrence::PatternsFull);
        }
        match response.status() {
            None if !it.is_answered() => {
                // The descriptor was not there, the table full, or the house: no answer says why.
                let dropped = refused && house_full && limits.when_full == FullPolicy::Drop;
                if dropped {
                    self.shared.happened(Occurrence::Dropped);
                }
                let turned_away = tick.after.counts.turned_away > tick.before.counts.turned_away
                    && (it.watch_refused || limits.pending < 100 || it.accepted.has_enough);
                // The disk had no answer for it in time, or too many waited for that.
                let asked_for = verifier.asked_at.map(|asked_at| now - asked_at).unwrap_or_default();
                let disk_is_late = tick.after.counts.turned_away > tick.before.counts.turned_away
                    && self.shared.log.borrow().has_disk()
                    && (asked_for >= STORE_WAIT || limits.pending < 100);
                let ended_ahead = net.is_subject_ended(at.index) && verifier.asked_at.is_some();
                if ended_ahead {
                    self.shared.happened(Occurrence::DisconnectedAhead);
                }
                // It was ended before it could begin, so that its client asks again.
                let barred = it.told.barred && it.is_to_be_subscribed();
                if barred {
                    self.shared.happened(Occurrence::BarredWhileDecided);
                }
                let left_undecided = it.undecided.is_some() && (it.ended || it.reset);
                let is_right = dropped
                    || turned_away
                    || disk_is_late
                    || ended_ahead
                    || barred
                    || left_undecided
                    || tick.after.is_draining;
                assert!(is_right, "it is closed without an answer");
            }
            // A refusal that does not fit is not waited for. (Another's may be counted in this tick.)
            None | Some(200)
                if begins
                    && (it.undecided.is_some() || it.waited_in_vain)
                    && it.is_short
                    && !verifier.is_stream => {}
            None | Some(200) if begins && refused && it.is_short && !verifier.is_stream => {
                let full = house_full && limits.when_full == FullPolicy::EndStream;
                let may_be_refused = !client.is_subscriber()
                    || (house_full && limits.when_full != FullPolicy::Drop)
                    || self.is_bad_head(at.connected_at);
                assert!(may_be_refused && (full || !verifier.ended_at_once), "it is refused");
            }
            Some(200) if verifier.ended_at_once => {
                self.shared.happened(Occurrence::EndedAtOnce);
                let is_full = house_full && limits.when_full == FullPolicy::EndStream;
                assert!(is_full, "a stream that ends at once");
                assert!(whole, "the last chunk ends it");
            }
            Some(200) if it.finished => {
                // The end goes out as far as there is room.
                assert!(it.is_short || whole, "the last chunk ends it, and it is whole");
                assert!(!response.is_cut_in_an_event(), "a stream ends between events");
                let age = now - verifier.beginning.expect("a beginning").at;
                let is_over = self.may_be_aged(it) || self.may_be_expired(it);
                let is_right = is_over || it.told.may_end() || tick.after.is_draining;
                assert!(is_right, "a stream was ended after {age:?}");
            }
            None | Some(200) => {
                assert!(!response.terminated, "a stream that has ended is closed without its end");
                assert!(self.may_be_cut(tick.shard, it), "a healthy stream was cut");
            }
            Some(status) => {
                assert!(it.is_short || !response.is_cut(), "a refusal is whole");
                let statuses = client.statuses;
                let is_refusal = (status == 503 && house_full) || (status == 429 && client_full);
                let full = is_refusal && limits.when_full == FullPolicy::Unavailable;
                if full && client.is_subscriber() {
                    self.shared.happened(Occurrence::Unavailable);
                } else if statuses.contains(&status) {
                    self.shared.happened(Occurrence::Refused);
                }
                let answered_at = verifier.beginning.map_or(now, |beginning| beginning.at);
                let slow = status == 408 && answered_at - at.connected_at >= limits.head_time;
                let too_long = status == 431 && limits.head.max_bytes < 1000;
                // The decision about it was judged when the answer began.
                let was_decided = (it.undecided.is_some() && status != 429)
                    || (it.waited_in_vain && client.is_subscriber());
                let is_right = was_decided
                    || statuses.contains(&status)
                    || (client.is_subscriber() && (full || too_long))
                    // What is no stream is refused with a status under each policy but the last.
                    || (status == 429 && it.accepted.has_enough && limits.when_full != FullPolicy::Drop);
                assert!(slow || is_right, "it got {status}");
            }
        }
    }

    /// Whether its head may be refused for what it is, or for how late it is.
    fn is_bad_head(&self, connected_at: Duration) -> bool {
        let limits = &self.shared.setting.limits;
        limits.head.max_bytes < 1000 || self.shared.now.get() - connected_at >= limits.head_time
    }

    /// A stream may be cut for what its subscriber does, where the log no longer has what it needs, at the
    /// end of a drain, and because the operator asked for it: never for what others do.
    fn may_be_cut(&self, shard: usize, it: &Connection) -> bool {
        let skips = self.shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
        let in_drain = self.shared.now.get() >= self.shared.cuts_from.get() && (it.is_short || skips);
        // A gap event that is still to be begun counts, too.
        let in_event = it.told.may_end() && (it.was_begun || skips);
        in_drain || in_event || self.has_stalled(it) || self.may_be_full(&self.shards[shard].net.borrow(), it)
    }

    /// Whether a stream may be ended as a laggard at its bound.
    pub(crate) fn may_be_full(&self, net: &Net, it: &Connection) -> bool {
        let (now, limits) = (self.shared.now.get(), &self.shared.setting.limits);
        let skips = limits.laggard_policy == LaggardPolicy::Skip;
        let verifier = &it.verifier;
        let just_began = verifier.beginning.is_some_and(|Beginning { at, .. }| at == now);
        // A stream whose topics were changed reads from the log up to the change.
        let is_changing = it.changed_at == Some(now) || verifier.subscription.changes() > 0;
        // A member is never cut, however much is still to be sent to it, and whatever the log has.
        let is_laggard =
            it.is_short || it.lags_since.is_some() || (verifier.resumes() && just_began) || is_changing;
        // In the middle of a piece it is served from what it has begun.
        let has_unsent_bytes = it.was_begun;
        // A gap up to a change would be one in several subscriptions.
        let may_skip = skips && !is_changing;
        let is_out_of_reach = !may_skip && !has_unsent_bytes && verifier.is_out_of_reach(&self.shared);
        // `check_room_made` judges which of them. A gap event that is still to be begun counts, too.
        let gap_events = if skips { GAP_EVENT_BYTES * net.connections.len() } else { 0 };
        let is_over = net.begun.peak + gap_events > limits.laggard_bytes;
        let makes_room =
            is_over && ((has_unsent_bytes && it.is_short) || (skips && verifier.request.gap_events));
        is_laggard && (is_out_of_reach || makes_room)
    }

    /// Whether a stream's socket took nothing for so long that the stream may be ended for that.
    pub(crate) fn has_stalled(&self, it: &Connection) -> bool {
        it.has_stalled(self.shared.now.get(), self.shared.setting.limits.laggard_time)
    }

    /// A stream ends within its lifetime, and within its age, unless it is in the middle of an event.
    fn check_ends(&self, shard: usize) {
        if self.is_slowed() {
            return;
        }
        let (now, shard) = (self.shared.now.get(), &self.shards[shard]);
        let age = self.shared.setting.limits.connection_age;
        for it in shard.net.borrow().connections.iter().filter(|it| it.is_live()) {
            let lifetime = it.verifier.request.wishes.lifetime.map(|time| time.max(self.check_period()));
            let Some(most) = lifetime.into_iter().chain(age).min() else { continue };
            if it.ended || it.finished || it.verifier.begun.is_some() {
                continue;
            }
            let ends_at = it.verifier.beginning.map_or(now, |beginning| beginning.at + most);
            let since = ends_at.max(shard.late_at).max(it.blocked_at);
            let late = now.saturating_sub(since);
            assert!(late <= 2 * LATE, "client {} stays for {late:?} after its time", it.client);
        }
    }

    /// A stream is never silent for longer than its heartbeat's interval, unless its socket is full. A sweep
    /// counts as something sent to all, also to members that had everything: so one that takes long makes
    /// heartbeats late.
    fn check_silence(&self, shard: usize) {
        let (now, limits) = (self.shared.now.get(), &self.shared.setting.limits);
        let shard = &self.shards[shard];
        if self.is_slowed() {
            return;
        }
        for it in shard.net.borrow().connections.iter().filter(|it| it.is_live()) {
            if it.blocked || it.finished || it.ended {
                continue;
            }
            let began_at = it.verifier.beginning.map_or(now, |beginning| beginning.at);
            let since = it.sent_at.max(it.blocked_at).max(shard.late_at).max(shard.swept_at).max(began_at);
            // What the others of its new audience were sent counts as sent to it.
            let since = since.max(it.changed_at.unwrap_or_default());
            let silence = now.saturating_sub(since);
            let interval = limits.heartbeat_interval(it.verifier.request.heartbeat);
            assert!(silence <= interval + SECOND / 2, "client {}: no heartbeat for {silence:?}", it.client);
        }
    }

    /// Whether a shard is kept from its ticks.
    fn is_slowed(&self) -> bool {
        self.shared.setting.slowness > 1 && self.shared.hostile.get()
    }

    /// A heartbeat comes only after silence; where a sweep is not through, the shard does not know who had
    /// silence.
    fn check_early_heartbeats(&self, tick: &Tick) {
        let net = self.shards[tick.shard].net.borrow();
        for (client, silence) in &net.this_tick.early_heartbeats {
            assert!(tick.after.is_sweeping, "client {client}: a heartbeat after {silence:?}");
        }
    }

    /// A shard takes its mail at once, but while its sweeps are far behind, or while most streams of the hub
    /// are, and then not for long. It gets no mail but that of topics that it has registered for.
    fn check_mail(&mut self, tick: &Tick) {
        let now = self.shared.now.get();
        let taken = tick.after.counts.events - tick.before.counts.events;
        let (shared, shard) = (&self.shared, &mut self.shards[tick.shard]);
        let mailed = shared.mailed.borrow()[tick.shard];
        assert!(
            tick.after.counts.events <= mailed,
            "it took {} events and was sent {mailed}",
            tick.after.counts.events
        );
        // What a link has begun is no reason to leave mail. When its peer leaves, or it makes room for a
        // newcomer whose opening was cut short, it is only the sweeps'.
        let ended = CloseReason::ALL.iter().map(|reason| tick.closed(*reason)).sum::<u64>();
        let is_left = tick.before.is_sweeping && ended > 0;
        // Other mail takes its part of a tick.
        let is_busy = tick.before.is_marking || tick.before.is_backlogged || is_left || tick.others_wait;
        if tick.waiting == 0 || taken > 0 || is_busy {
            shard.leaves_mail_since = None;
            return;
        }
        let is_slowed = shared.setting.slowness > 1 && shared.hostile.get();
        let since = *shard.leaves_mail_since.get_or_insert(now);
        assert!(
            tick.congested,
            "it leaves {} events though most streams of the hub are not behind",
            tick.waiting
        );
        let held = now.saturating_sub(since.max(shard.late_at));
        assert!(is_slowed || held <= CONGESTION_HOLD + LATE, "it leaves its mail for {held:?}");
        shared.happened(Occurrence::MailHeld);
    }

    /// What the shard counts is what its sockets saw.
    fn check_counts(&self, tick: &Tick) {
        let net = self.shards[tick.shard].net.borrow();
        let (before, after) = (&tick.before.counts, &tick.after.counts);
        assert_eq!(after.deliveries - before.deliveries, net.this_tick.events, "deliveries that it counts");
        assert_eq!(
            after.heartbeats - before.heartbeats,
            net.this_tick.heartbeats,
            "heartbeats that it counts"
        );
        let live = net.connections.iter().filter(|it| it.is_live()).count() as u64;
        assert_eq!(after.connections, live, "streams that it counts");
        let refused = |counts: &fanfare::Counts| counts.decisions_timed_out + counts.refused_undecided;
        let (refused, in_vain) = (refused(after) - refused(before), net.this_tick.waited_in_vain);
        assert!(in_vain <= refused, "{in_vain} requests were refused for waiting, and it counts {refused}");
    }

    /// What the shard holds has bounds, whatever its subscribers do.
    fn check_memory(&self, tick: &Tick) {
        let net = self.shards[tick.shard].net.borrow();
        let limits = &self.shared.setting.limits;
        let begun = net.begun.bytes;
        // What the peer has reset is given up when the shard hears of it.
        let reset = net.connections.iter().filter(|it| it.is_live() && it.ended);
        let reset: usize = reset.map(|it| net.begun.own_part(it.verifier.begun.as_ref())).sum();
        // The rest of a large crowd is ended in the next ticks: the shard says so, and each of them ends as
        // many streams as it may.
        let is_within = begun <= limits.laggard_bytes + reset;
        let ended = tick.closed(CloseReason::LaggardFull);
        let goes_on = tick.after.is_making_room && ended >= self.shared.setting.budgets.room_endings as u64;
        assert!(is_within || goes_on, "its links have begun {begun} bytes, and {ended} were ended for that");
        if !is_within {
            self.shared.happened(Occurrence::RoomMadeInTicks);
        }
        let bound = limits.delivery_bytes.saturating_add(limits.laggard_bytes.max(begun));
        let bound = bound.saturating_add(RUN_BYTES + 2 * LARGEST_FRAME);
        let held = tick.after.memory_bytes;
        assert!(held <= bound, "it holds {held} bytes");
    }

    /// The shard has registered for the topics of its streams.
    fn check_readers(&self, tick: &Tick) {
        let net = self.shards[tick.shard].net.borrow();
        let live = net.connections.iter().filter(|it| it.is_live());
        let read: BTreeSet<&Topic> =
            live.flat_map(|it| &it.verifier.subscription.interest().topics).collect();
        let log = self.shared.log.borrow();
        let live = net.connections.iter().filter(|it| it.is_live());
        let patterns: BTreeSet<&Pattern> =
            live.flat_map(|it| &it.verifier.subscription.interest().patterns).collect();
        for pattern in &self.shared.patterns {
            let registered = log.shards_reading_pattern(pattern).contains(&tick.shard);
            let may_be = registered && tick.after.is_removing;
            assert!(
                registered == patterns.contains(pattern) || may_be,
                "whether it has registered for {pattern}"
            );
        }
        for topic in &self.shared.topics {
            let registered = log.shards_reading_name(topic).contains(&tick.shard);
            let may_be = registered && tick.after.is_removing;
            assert!(registered == read.contains(topic) || may_be, "whether it has registered for {topic}");
        }
        if tick.after.is_removing {
            self.shared.happened(Occurrence::RemovedLater);
        }
    }

    /// A subscriber waits only for a number that was not released, or for its turn to begin.
    fn check_resuming(&self, tick: &Tick) {
        let net = self.shards[tick.shard].net.borrow();
        let epoch = self.shared.history.borrow().epoch;
        let has_disk = self.shared.log.borrow().has_disk();
        let is_ahead = |it: &&Connection| match &it.verifier.request.resume {
            Resume::After(_) | Resume::Earliest if has_disk => true,
            Resume::After(id) => {
                Cursor::parse(id).is_some_and(|at| at.epoch == epoch && at.seq > tick.newest)
            }
            Resume::Now | Resume::Earliest => false,
        };
        let waits = |it: &&Connection| !it.closed && !it.is_answered() && it.verifier.asked_at.is_some();
        let waiting = net.connections.iter().filter(waits).filter(is_ahead).count();
        let resuming = tick.after.resuming;
        let may_begin = tick.after.has_left_resuming;
        assert!(
            may_begin || resuming <= waiting,
            "{resuming} wait and {waiting} are ahead of {}",
            tick.newest
        );
        drop(net);
        self.check_room_to_wait(tick);
    }

    /// A quarter of those that may be pending may wait for a number, and one may in any case. A subscriber is
    /// told of a gap at once only where so many wait.
    fn check_room_to_wait(&self, tick: &Tick) {
        let mut net = self.shards[tick.shard].net.borrow_mut();
        let has_disk = self.shared.log.borrow().has_disk();
        let may_wait = match has_disk {
            true => self.shared.setting.limits.pending,
            false => (self.shared.setting.limits.pending / 4).max(1),
        };
        let resuming = tick.after.resuming;
        assert!(resuming <= may_wait, "{resuming} wait for a number, and {may_wait} may");
        let told = |it: &mut Connection| std::mem::take(&mut it.verifier.was_told_at_once);
        let told_at_once = net.connections.iter_mut().map(told).filter(|told| *told).count();
        if told_at_once == 0 || has_disk {
            return;
        }
        // Those that waited, and were answered or closed in this tick.
        let now = self.shared.now.get();
        let left = |it: &&Connection| {
            let resumes = matches!(it.verifier.request.resume, Resume::After(_));
            let answered = it.verifier.beginning.is_some_and(|beginning| beginning.at == now);
            resumes && (answered || (it.closed && it.closed_at == now))
        };
        let left = net.connections.iter().filter(left).count() - told_at_once;
        assert!(
            resuming + left >= may_wait,
            "{told_at_once} were told of a gap at once, where {resuming} wait, {left} waited, and {may_wait} may"
        );
        self.shared.happened(Occurrence::NoRoomToWait);
    }

    /// What is too old is dropped soon.
    fn check_ages(&self) {
        let trimming = &self.shards[TRIMMING_SHARD];
        let (late, now) = (trimming.late_at, self.shared.now.get());
        if trimming.shard.is_stopped() || self.is_slowed() || now.saturating_sub(late) <= EXPIRY_SLACK + LATE
        {
            return;
        }
        self.shared.log.borrow().check_ages(now, EXPIRY_SLACK);
    }

    /// Whether a client was not sent something that was released.
    pub(crate) fn misses(&self, client: &Client) -> bool {
        let Some(at) = &client.connection else { return false };
        self.shards[at.shard].net.borrow().connection(at.index).verifier.misses(&self.shared)
    }
}

impl Tick {
    /// Streams that were ended for this reason.
    fn closed(&self, reason: CloseReason) -> u64 {
        self.after.counts.closed_for(reason) - self.before.counts.closed_for(reason)
    }
}
