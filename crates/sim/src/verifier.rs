//! Checks every byte that a shard sends on one connection, when it sends it, against the list of all events
//! and against what the log has at that moment.
//!
//! From the request, and from the log when the stream begins, follows where the stream begins and whether it
//! begins with a gap. From there on it must have every event of its topics, in order, once, whole. What the
//! log has dropped may be left out, where a laggard skips; then a gap event says so, unless the client does
//! not want it.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare::{Checkpoint, Cursor, LaggardPolicy, Pattern, Topic};
use fanfare_proto::limits::AHEAD_WAIT;

use crate::client::{Item, Request, Resume};
use crate::history::{Entry, History};
use crate::log_model::{LogModel, Start};
use crate::pieces::{Begun, PieceKind, is_heartbeat, kind_of, piece_cut_at};
use crate::response::{Head, Part, ResponseReader};
use crate::shared::Shared;
use crate::subscription::Subscription;
use crate::tally::Occurrence;
use crate::trace::{self, trace};

/// How long a subscriber waits for a durable store, as the engine has it.
pub(crate) const STORE_WAIT: Duration = Duration::from_secs(10);

/// One connection, as its client should see it.
pub(crate) struct Verifier {
    pub(crate) request: Request,
    /// What it is to get: as it asked, until its topics are changed.
    pub(crate) subscription: Subscription,
    /// What it was to get before changes that came after the last whole piece: a gap event that was made
    /// ready before a change comes after it.
    before_changes: Vec<Subscription>,
    pub(crate) response: ResponseReader,
    /// When the whole request had been sent.
    pub(crate) asked_at: Option<Duration>,
    /// It asked for a number that is not released, and was told of a gap without waiting for it.
    pub(crate) was_told_at_once: bool,
    /// The answer has begun.
    pub(crate) beginning: Option<Beginning>,
    /// The status of the answer that the shard has begun.
    pub(crate) offered_status: Option<u16>,
    /// The answer is a stream: a `200` that does not end at once.
    pub(crate) is_stream: bool,
    /// A `200` that only ends: a refusal in disguise.
    pub(crate) ended_at_once: bool,
    /// It was sent everything up to here, or was told that it cannot have it.
    pub(crate) cursor: Option<u64>,
    /// Some events up to here are gone, and it knows. What is left of those after its cursor comes. A gap
    /// event does not say up to where exactly that is: at least, and at most.
    incomplete_until: [u64; 2],
    /// What a send left unfinished.
    pub(crate) begun: Option<Begun>,
    /// What the client may read, with the number of bytes before its end.
    items: VecDeque<(u64, Item)>,
    /// What must still come before the first event.
    opening: Opening,
    head: Option<Head>,
    has_prelude: bool,
    bytes: u64,
}

/// The moment in which a shard began to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    pub(crate) at: Duration,
    /// The newest number that was released.
    pub(crate) newest: u64,
    pub(crate) start: Start,
}

#[derive(Clone, Copy, Debug, Default)]
struct Opening {
    checkpoint_due: bool,
    greeting_due: bool,
    gap_due: bool,
}

/// What a send brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Events that are whole now.
    pub(crate) events: u64,
    /// It was a heartbeat, and went out whole.
    pub(crate) heartbeats: u64,
}

impl Verifier {
    pub(crate) fn new(request: Request) -> Verifier {
        Verifier {
            subscription: Subscription::new(request.interest.clone()),
            before_changes: Vec::new(),
            offered_status: None,
            request,
            response: ResponseReader::default(),
            asked_at: None,
            was_told_at_once: false,
            beginning: None,
            is_stream: false,
            ended_at_once: false,
            cursor: None,
            incomplete_until: [0; 2],
            begun: None,
            items: VecDeque::new(),
            opening: Opening::default(),
            head: None,
            has_prelude: false,
            bytes: 0,
        }
    }

    /// Whether a heartbeat is offered, and not the rest of one.
    pub(crate) fn is_fresh_heartbeat(&self, bytes: &[u8]) -> bool {
        self.is_stream && self.begun.is_none() && is_heartbeat(bytes)
    }

    /// A send offers these bytes, and the socket takes `sent` of them. `tick` is the shard's.
    pub(crate) fn sent(&mut self, bytes: &[u8], sent: usize, tick: u64, shared: &Shared) -> Sent {
        let is_opening = self.beginning.is_none();
        if is_opening {
            self.begin(bytes, shared);
        }
        let before = self.begun.take();
        if let Some(begun) = &before {
            assert!(begun.rest == bytes, "something else is sent before the rest of a {:?}", begun.kind);
        } else {
            shared.observe_log_if_due();
            self.subscription.note_available(&shared.log.borrow());
        }
        let is_fresh_heartbeat = before.is_none() && !is_opening && is_heartbeat(bytes);
        let heartbeats = u64::from(is_fresh_heartbeat && sent == bytes.len());
        let mut result = Sent { events: 0, heartbeats };
        self.bytes += sent as u64;
        for found in self.response.feed(&bytes[..sent]) {
            result.events += self.take(found.part, found.end, shared);
        }
        trace::at(|position| position.cursor = self.cursor);
        self.begun = self.begun_by(bytes, sent, tick, is_opening, before);
        result
    }

    /// What this send leaves unfinished.
    fn begun_by(
        &self,
        bytes: &[u8],
        sent: usize,
        tick: u64,
        is_opening: bool,
        before: Option<Begun>,
    ) -> Option<Begun> {
        if sent == bytes.len() || !self.is_stream {
            return None;
        }
        let rest = || bytes[sent..].to_vec();
        match before {
            Some(Begun { kind, tick, .. }) => Some(Begun { rest: rest(), kind, tick }),
            None if is_opening => Some(Begun { rest: rest(), kind: PieceKind::Own(bytes.len()), tick }),
            None => {
                let (start, end) = piece_cut_at(bytes, self.request.chunked, sent)?;
                let rest = bytes[sent..end].to_vec();
                Some(Begun { rest, kind: kind_of(&bytes[start..end]), tick })
            }
        }
    }

    /// The answer begins.
    fn begin(&mut self, bytes: &[u8], shared: &Shared) {
        shared.observe_log();
        let log = shared.log.borrow();
        let mut scratch = ResponseReader::default();
        let offered = scratch.feed(bytes);
        let has_gap = offered.iter().any(|found| matches!(&found.part, Part::Head(head) if head.gap));
        let is_stream = offered.iter().any(|found| matches!(found.part, Part::Comment));
        let Request { interest, resume, .. } = &self.request;
        let start = match log.has_disk() && is_stream {
            true => log.start_with(interest, resume, has_gap, &shared.history.borrow()),
            false => log.start(interest, resume),
        };
        let beginning = Beginning { at: shared.now.get(), newest: log.newest(), start };
        self.beginning = Some(beginning);
        self.offered_status = scratch.status();
        let is_200 = scratch.status() == Some(200);
        self.is_stream = is_200 && is_stream;
        self.ended_at_once = is_200 && !self.is_stream;
        if self.is_stream {
            assert!(!self.request.is_stranger, "a stream for a request that is no subscription");
            let at_least = if log.has_disk() { start.cursor } else { start.incomplete_until };
            (self.cursor, self.incomplete_until) = (Some(start.cursor), [at_least, start.incomplete_until]);
            self.judge_wait(beginning, shared);
        }
    }

    /// A subscriber waits for a number that is not released yet, and for nothing else.
    fn judge_wait(&mut self, beginning: Beginning, shared: &Shared) {
        let Start { ahead, .. } = beginning.start;
        if ahead {
            let asked_at = self.asked_at.expect("a whole request");
            let waited = beginning.at - asked_at;
            // Where as many wait as may, it is told at once: `check_room_to_wait` judges that.
            self.was_told_at_once = waited < AHEAD_WAIT;
            if !self.was_told_at_once {
                shared.happened(Occurrence::WaitedInVain);
            }
        }
    }

    /// Says whether it was an event that was published.
    fn take(&mut self, part: Part, end: u64, shared: &Shared) -> u64 {
        let (mut item, mut events) = (None, 0);
        match part {
            Part::Head(head) => self.take_head(head, shared),
            Part::Comment if !self.has_prelude => self.take_prelude(shared),
            Part::Comment => self.take_plain_heartbeat(shared),
            Part::Retry => {}
            Part::Event { kind, data, id } => {
                assert!(self.has_prelude, "the prelude comes first");
                let history = shared.history.borrow();
                match (kind.as_str(), data.as_deref(), id) {
                    ("hello", Some(data), id) => self.take_greeting(data, id),
                    ("fanfare.gap", Some(data), Some(id)) => {
                        item = Some(self.take_gap(data, id, &history, shared));
                    }
                    ("", None, Some(id)) => {
                        item = Some(self.take_checkpoint(Checkpoint::Block, id, &history, shared));
                    }
                    ("fanfare.checkpoint", Some("{}"), Some(id)) => {
                        item = Some(self.take_checkpoint(Checkpoint::Event, id, &history, shared));
                    }
                    (kind, Some(data), Some(id)) => {
                        item = Some(self.take_published(kind, data, id, &history, shared));
                        events = 1;
                    }
                    (kind, data, id) => panic!("an event of type {kind:?} with {data:?} and {id:?}"),
                }
            }
        }
        trace::at(|position| position.cursor = self.cursor);
        if let Some(item) = item {
            self.cursor = Some(item.has);
            self.subscription.pass(item.has);
            self.before_changes.clear();
            self.items.push_back((end, item));
        }
        events
    }

    fn take_head(&mut self, head: Head, shared: &Shared) {
        trace!(shared, "    is sent {}{}", head.status, if head.gap { ", a gap" } else { "" });
        if head.status == 200 {
            assert_eq!(head.chunked, self.request.chunked, "how the body is delimited");
        }
        assert!(head.status == 200 || !head.gap, "a refusal with a gap");
        self.head = Some(head);
    }

    /// A stream begins: where, and with what, follows from the log as it was then.
    fn take_prelude(&mut self, shared: &Shared) {
        self.has_prelude = true;
        let head = self.head.as_ref().expect("a head");
        let Beginning { start, newest, .. } = self.beginning.expect("a beginning");
        let Request { resume, gap_events, checkpoint, greeting, interest, .. } = &self.request;
        let is_earliest = shared.log.borrow().has_disk() && *resume == Resume::Earliest;
        assert_eq!(head.gap, start.gap, "a gap in the head, for {resume:?} where {start:?} is right");
        self.opening = Opening {
            // Incomplete history has no number from which nothing would be missed. With a store it is not
            // known where it ends.
            checkpoint_due: *checkpoint != Checkpoint::Off
                && !is_earliest
                && !(start.gap && *gap_events)
                && start.cursor >= start.incomplete_until,
            greeting_due: *greeting,
            gap_due: start.gap && *gap_events,
        };
        if start.gap {
            shared.happened(if *gap_events { Occurrence::Gap } else { Occurrence::QuietGap });
        }
        if let Resume::After(id) = resume {
            shared.happened(Occurrence::Resume);
            let is_cursor = Cursor::parse(id).is_some();
            if !is_cursor {
                shared.happened(if start.gap { Occurrence::UnknownId } else { Occurrence::OwnIdResume });
            }
        }
        let history = shared.history.borrow();
        // An id that several events bear does not say which of them the client has.
        let is_known = matches!(resume, Resume::After(id) if history.bearers(id) < 2);
        if let (Some(has), false, true) = (self.request.has, start.gap, is_known) {
            // What lay between two connections of the same client is in one of them.
            let missed = history.misses(has, start.cursor, interest);
            assert!(!missed, "what came after {has} and up to {} is lost, and no gap is told", start.cursor);
        }
        assert!(start.cursor <= newest || start.ahead, "a stream begins behind what is released");
    }

    fn take_plain_heartbeat(&mut self, shared: &Shared) {
        self.check_opened();
        let is_news = self.cursor.is_some_and(|cursor| cursor < shared.log.borrow().newest());
        let wants_more = self.request.checkpoint != Checkpoint::Off && shared.is_quiet.get() && is_news;
        assert!(!wants_more, "a heartbeat without the cursor, though it is news and the shard knows it");
    }

    /// Everything of the opening has come.
    fn check_opened(&self) {
        let Opening { checkpoint_due, greeting_due, gap_due } = self.opening;
        assert!(!checkpoint_due, "the checkpoint comes in the opening");
        assert!(!greeting_due, "the greeting comes in the opening");
        assert!(!gap_due, "the gap is told in the opening");
    }

    fn take_greeting(&mut self, data: &str, id: Option<String>) {
        let is_due = std::mem::take(&mut self.opening.greeting_due);
        assert!(is_due && data == "you" && id.is_none(), "one greeting, in the opening");
    }

    /// The client is told where it is.
    fn take_checkpoint(&mut self, form: Checkpoint, id: String, history: &History, shared: &Shared) -> Item {
        assert_eq!(form, self.request.checkpoint, "the form of a checkpoint");
        let to = cursor_of(&id, history);
        let cursor = self.cursor.expect("a stream that has begun");
        if std::mem::take(&mut self.opening.checkpoint_due) {
            assert!(!self.opening.greeting_due, "the greeting comes before the checkpoint");
            assert_eq!(to, cursor, "the opening's checkpoint is where the stream begins");
        } else {
            self.check_opened();
            let newest = history.newest().max(shared.log.borrow().newest());
            assert!(to >= cursor && to <= newest, "a checkpoint at {to}");
            self.judge_left_out(cursor, to, history, shared);
            shared.happened(Occurrence::Checkpoint);
        }
        Item { id: Some(id), has: to }
    }

    fn take_published(
        &mut self,
        kind: &str,
        data: &str,
        id: String,
        history: &History,
        shared: &Shared,
    ) -> Item {
        self.check_opened();
        let cursor = self.cursor.expect("events come after the head");
        let seq: u64 = data.split(' ').next().and_then(|seq| seq.parse().ok()).expect("an event of ours");
        assert!(seq > cursor, "event {seq} is doubled or out of order: {cursor} was there");
        let entry = history.get(seq).unwrap_or_else(|| panic!("event {seq} was not released"));
        assert!(self.subscription.wants(entry), "event {seq} is not for this subscriber");
        let interest = self.subscription.interest_at(seq);
        self.judge_left_out(cursor, seq - 1, history, shared);
        assert!(entry.data == data, "the data of {seq} is changed");
        let expected = (entry.wire_id(history.epoch), entry.kind.unwrap_or_default());
        assert_eq!((id.as_str(), kind), (expected.0.as_str(), expected.1), "the id and the type of {seq}");
        shared.note_delivery(entry, interest);
        if shared.log.borrow().is_on_disk_alone(interest, seq) {
            shared.happened(Occurrence::FromDisk);
        }
        let is_hidden = |entry: &&Entry| interest.reads(entry) && !interest.wants(entry);
        let hidden = history.between(cursor, seq).iter().filter(is_hidden).count() as u64;
        let mut tally = shared.tally.borrow_mut();
        tally.add(Occurrence::PrivateHidden, hidden);
        if interest.is_mixed() {
            tally.add(Occurrence::PrivateOfOthersHidden, hidden);
            tally.add(Occurrence::PrivateOfSomeSeen, u64::from(entry.private));
        }
        Item { id: Some(id), has: seq }
    }

    /// Events between these numbers were not sent. That is right only of what the log has dropped: up to
    /// where the client was told, and where a laggard skips and the client does not want to be told.
    fn judge_left_out(&self, cursor: u64, until: u64, history: &History, shared: &Shared) {
        let log = shared.log.borrow();
        for lost in self.left_out(cursor, until, history) {
            if lost <= self.excused_until() {
                continue;
            }
            let may_be = self.may_be_left_out(lost, shared);
            assert!(may_be, "event {lost} is lost, and what comes after {until} was sent");
            let has = log.has(self.subscription.interest_at(lost), lost);
            let start = self.beginning.map(|beginning| beginning.start);
            assert!(!has, "event {lost} is left out before {until}, and the log has it: {start:?}");
        }
    }

    /// Events up to here may be left out although the log has them.
    fn excused_until(&self) -> u64 {
        self.beginning.map_or(0, |beginning| beginning.start.excused_until)
    }

    /// Events between these numbers that it was to get.
    fn left_out<'a>(
        &'a self,
        after: u64,
        until: u64,
        history: &'a History,
    ) -> impl Iterator<Item = u64> + 'a {
        let entries = history.between(after, until).iter();
        entries.filter(|entry| self.subscription.wants(entry)).map(|entry| entry.seq)
    }

    /// Whether it was told that this event may be gone, or does not want to be told.
    fn may_be_left_out(&self, seq: u64, shared: &Shared) -> bool {
        let skips = shared.setting.limits.laggard_policy == LaggardPolicy::Skip && !self.request.gap_events;
        seq <= self.incomplete_until[1] || (skips && self.subscription.may_be_dropped(seq))
    }

    /// Its topics are changed, behind the event with this number.
    pub(crate) fn change_topics(
        &mut self,
        topics: &[Topic],
        patterns: &[Pattern],
        log: &LogModel,
        begun: Option<u64>,
    ) {
        // A gap event that waits for room was made before the change, of what the log had dropped until then.
        self.subscription.note_available(log);
        self.before_changes.push(self.subscription.clone());
        let newest = log.newest();
        self.subscription.change(topics, patterns, newest, begun);
        self.subscription.pass(self.cursor.unwrap_or_default());
    }

    /// Whether an event up to this one is still to come.
    pub(crate) fn misses_until(&self, until: u64, shared: &Shared) -> bool {
        let history = shared.history.borrow();
        self.cursor.is_some_and(|cursor| self.subscription.misses(&history, cursor, until))
    }

    /// A stream that was closed was given everything up to this number, says the engine.
    /// `is_gone`: what it took last is not known.
    pub(crate) fn judge_given(&mut self, given: u64, is_gone: bool, shared: &Shared) {
        self.subscription.note_available(&shared.log.borrow());
        let history = shared.history.borrow();
        let cursor = self.cursor.expect("a stream that has begun");
        let newest = history.newest().max(shared.log.borrow().newest());
        assert!(given <= newest.max(cursor), "it was given {given}, which is not released");
        for lost in self.left_out(cursor, given, &history) {
            // The event that tells of a gap may have been on its way.
            let may_skip = shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
            let is_skipped = may_skip && self.subscription.may_be_dropped(lost);
            let may_be = is_skipped || self.may_be_left_out(lost, shared);
            assert!(may_be, "it was not given {lost}, and everything up to {given}, says the engine");
        }
        let more = self.left_out(given, cursor, &history).next();
        assert!(
            more.is_none() || is_gone,
            "it was given {more:?}, and only what comes before {given}, says the engine"
        );
    }

    /// The stream goes on after a gap.
    fn take_gap(&mut self, data: &str, id: String, history: &History, shared: &Shared) -> Item {
        assert!(self.request.gap_events, "a gap event for a client that does not want it");
        assert!(!self.opening.greeting_due, "the greeting comes before the gap event");
        let to = cursor_of(&id, history);
        let (after, before) = (text_of(data, "after").expect("what was asked for"), text_of(data, "before"));
        if std::mem::take(&mut self.opening.gap_due) {
            self.judge_opening_gap(&after, before, to, history, shared);
        } else {
            shared.happened(Occurrence::Skip);
            let skips = shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
            assert!(skips, "a gap within a stream, where laggards do not skip");
            let [after, to] = [cursor_of(&after, history), to];
            let subscriptions = [&self.subscription].into_iter().chain(&self.before_changes);
            let mut judged =
                subscriptions.map(|of| self.judge_gap(of, [after, to], before.as_deref(), history, shared));
            let first = judged.next().expect("what it is to get");
            let bounds = first.or_else(|error| judged.find_map(Result::ok).ok_or(error));
            drop(judged);
            self.incomplete_until = bounds.unwrap_or_else(|error| panic!("{error}"));
        }
        trace!(shared, "    is told of a gap after {after}, and goes on after {id}");
        Item { id: Some(id), has: to }
    }

    fn judge_opening_gap(
        &self,
        after: &str,
        before: Option<String>,
        to: u64,
        history: &History,
        shared: &Shared,
    ) {
        let asked = match &self.request.resume {
            Resume::After(id) => *id == after,
            // The disk could not be read.
            Resume::Earliest => shared.log.borrow().has_disk() && after == "earliest",
            Resume::Now => false,
        };
        assert!(asked, "a gap after {after}, which was not asked for");
        let Beginning { newest, start, .. } = self.beginning.expect("a beginning");
        if shared.log.borrow().has_disk() {
            let most = start.incomplete_until.max(start.cursor).max(start.excused_until);
            let is_right = (start.cursor..=most).contains(&to);
            assert!(is_right, "the gap in the opening goes on at {to}, where {start:?} is right");
            self.judge_left_out(start.cursor, to, history, shared);
            if let Some(before) = before {
                let mut behind = history.after(to).iter().filter(|entry| self.request.interest.wants(entry));
                let is_known = behind.any(|entry| entry.wire_id(history.epoch) == before);
                assert!(is_known, "{before} is no event behind {to}");
            }
            return;
        }
        assert_eq!(to, start.cursor, "the gap in the opening goes on where the stream begins");
        let next = history.first_after(start.incomplete_until, &self.request.interest);
        let next = next.filter(|next| next.seq <= newest).map(|next| next.wire_id(history.epoch));
        assert_eq!(before, next, "the first event from which on all are there");
    }

    /// A laggard is told that the log has dropped something after `after`, and that it goes on after `to`;
    /// `before` is the first event behind what is incomplete. Says where that ends: at least, and at most.
    fn judge_gap(
        &self,
        subscription: &Subscription,
        [after, to]: [u64; 2],
        before: Option<&str>,
        history: &History,
        shared: &Shared,
    ) -> Result<[u64; 2], String> {
        let cursor = self.cursor.expect("gaps come after the head");
        // It stood at its last event, or a little further on where nothing was its own.
        if after >= cursor {
            self.judge_left_out(cursor, after, history, shared);
        } else if subscription.misses(history, after, cursor) {
            return Err(format!("a gap after {after}, where {cursor} was there"));
        }
        let available_after = subscription.available_after();
        let mut bounds = [to, available_after];
        if to > after {
            // Nothing is left of what is incomplete, so it goes on behind that.
            bounds[1] = to;
        }
        // An id that several events bear does not say which of them it is.
        if let Some(before) = before.filter(|before| history.bearers(before) < 2) {
            let mut behind = history.after(to).iter().filter(|entry| subscription.wants(entry));
            let next = behind.find(|entry| entry.wire_id(history.epoch) == before);
            let next = next.ok_or_else(|| format!("{before} is no event behind {to}"))?.seq;
            bounds[1] = bounds[1].min(next - 1);
            let last = history.between(to, next - 1).iter().rfind(|entry| subscription.wants(entry));
            bounds[0] = bounds[0].max(last.map_or(0, |last| last.seq));
        }
        if to < after || bounds[0] > bounds[1] {
            return Err(format!("a gap over what the log has: {bounds:?}"));
        }
        let known = after.max(cursor).max(self.incomplete_until[0]);
        if !shared.log.borrow().is_exact(subscription.interest()) {
            return Ok(bounds);
        }
        let missed = history.between(known, bounds[1]).iter().find(|entry| subscription.wants(entry));
        let missed = missed.ok_or_else(|| {
            format!("a gap after {after} within {known} to {bounds:?}, where nothing is missing")
        })?;
        Ok([bounds[0].max(missed.seq), bounds[1]])
    }

    /// What the client finds when it has read so many bytes.
    pub(crate) fn items_until(&mut self, read: u64) -> Vec<Item> {
        let count = self.items.partition_point(|(end, _)| *end <= read);
        self.items.drain(..count).map(|(_, item)| item).collect()
    }

    /// How long ago it began.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        self.beginning.map_or(Duration::ZERO, |beginning| now - beginning.at)
    }

    /// Whether some of what it asked for may still be replayed.
    pub(crate) fn resumes(&self) -> bool {
        self.request.resume != Resume::Now
    }

    /// Whether what is a stream's alone has come: behind the head of a refusal there is none.
    pub(crate) fn has_prelude(&self) -> bool {
        self.has_prelude
    }

    /// Whether the log no longer has something that this subscriber was not sent.
    pub(crate) fn is_out_of_reach(&self, shared: &Shared) -> bool {
        let mut subscription = self.subscription.clone();
        subscription.note_available(&shared.log.borrow());
        let history = shared.history.borrow();
        let cursor = self.cursor.map(|cursor| cursor.max(self.incomplete_until[0]));
        if !shared.log.borrow().is_exact(subscription.interest()) {
            return cursor.is_some_and(|cursor| cursor < subscription.available_after());
        }
        let is_dropped = |entry: &Entry| subscription.wants(entry) && subscription.may_be_dropped(entry.seq);
        cursor.is_some_and(|cursor| history.after(cursor).iter().any(is_dropped))
    }

    /// Nothing up to here is to come any more: it was sent, or is gone. Where a laggard skips and the client
    /// does not want to be told, that is all that the log has dropped.
    pub(crate) fn complete_until(&self, shared: &Shared) -> Option<u64> {
        let skips = shared.setting.limits.laggard_policy == LaggardPolicy::Skip && !self.request.gap_events;
        let available_after = shared.log.borrow().available_after(self.subscription.interest());
        let dropped = if skips { available_after } else { self.incomplete_until[1] };
        self.cursor.map(|cursor| cursor.max(dropped))
    }

    /// Whether an event was released after this number that it was not sent.
    pub(crate) fn misses_after(&self, seq: u64, shared: &Shared) -> bool {
        self.subscription.first_after(&shared.history.borrow(), seq).is_some()
    }

    /// Whether an event was released that it was not sent.
    pub(crate) fn misses(&self, shared: &Shared) -> bool {
        self.cursor.is_some_and(|cursor| self.misses_after(cursor, shared))
    }
}

/// The number of a cursor of this log.
fn cursor_of(id: &str, history: &History) -> u64 {
    let cursor = Cursor::parse(id).unwrap_or_else(|| panic!("{id:?} is no cursor"));
    assert_eq!(cursor.epoch, history.epoch, "the epoch of {id}");
    cursor.seq
}

/// A text of the gap event's data.
fn text_of(data: &str, name: &str) -> Option<String> {
    let (_, value) = data.split_once(&format!("\"{name}\":"))?;
    Some(value.strip_prefix('"')?.split('"').next()?.to_owned())
}
