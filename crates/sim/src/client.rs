//! A client that checks every byte it gets against the list of all events, over all of its connections.
//!
//! It reconnects as a browser does, with the last id that it saw, to any shard. What it must get follows from that
//! id alone; so an event that is lost or doubled between two connections is found.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare::sim::Look;
use fanfare::{Checkpoint, Cursor, LaggardPolicy, Topic};

use crate::history::{History, Interest};
use crate::shared::{Shared, tell};
use crate::stream::{Found, Head, Stream};
use crate::tally::Thing;

/// Where a shard stood before and after a tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) head: u64,
    /// Everything after this was retained.
    pub(crate) dropped: u64,
    pub(crate) head_after: u64,
    pub(crate) dropped_after: u64,
    /// What the hub had published before it.
    pub(crate) newest: u64,
    /// The shard may have had as many connections as it may hold.
    pub(crate) house_full: bool,
}

/// What a shard has: up to where, and after what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stand {
    pub(crate) head: u64,
    pub(crate) dropped: u64,
}

impl Stand {
    pub(crate) fn of(look: &Look) -> Stand {
        Stand { head: look.head, dropped: look.dropped }
    }
}

/// Where a request wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Now,
    Earliest,
    Id(String),
}

pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) interest: Interest,
    /// What it asks for until it has seen an id, and whether it says so in the query.
    pub(crate) first_ask: Ask,
    pub(crate) asks_in_query: bool,
    /// 0: HTTP/1.0; 1: `Connection: close`; else chunked.
    pub(crate) version: usize,
    pub(crate) gap_notice: bool,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) greeting: bool,
    /// It reads whatever comes at once.
    pub(crate) is_fast: bool,
    /// No subscriber: one of these is the answer.
    pub(crate) statuses: &'static [u16],
    /// It connects again whenever it is not connected.
    pub(crate) returns: bool,
    /// As a browser keeps it; empty until there was one.
    pub(crate) last_id: String,
    pub(crate) last_shard: Option<usize>,
    pub(crate) last_end: Option<End>,
    pub(crate) link: Option<Link>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) is_cut: bool,
    /// Nothing up to here is missed.
    pub(crate) seen: u64,
}

/// One connection of a client.
pub(crate) struct Link {
    pub(crate) shard: usize,
    pub(crate) wire: usize,
    /// Pieces of the request that are still to be sent.
    pub(crate) request: VecDeque<Vec<u8>>,
    pub(crate) ask: Ask,
    pub(crate) connected_at: Duration,
    /// What the hub had published then.
    newest: u64,
    /// Where it begins, where that is known before: an adopted socket comes in the order of events.
    pub(crate) known_head: Option<u64>,
    pub(crate) began: Option<(Moment, Duration)>,
    pub(crate) stream: Stream,
    /// It has everything up to here, or knows that it has not.
    pub(crate) seen: Option<u64>,
    /// Up to here, events may have been dropped in the very tick in which it came.
    lenient_until: u64,
    /// Where else it may have begun: an id that was used more than once.
    other_starts: Vec<u64>,
    /// A gap event must come before any other.
    gap_due: bool,
    /// A checkpoint must come before any event but the greeting.
    checkpoint_due: bool,
    greeted: bool,
    events: u64,
    head: Option<Head>,
    prelude_seen: bool,
    /// A `200` that only ends: a refusal in disguise.
    pub(crate) ended_at_once: bool,
}

impl Link {
    pub(crate) fn new(shard: usize, wire: usize, ask: Ask, shared: &Shared) -> Link {
        Link {
            shard,
            wire,
            request: VecDeque::new(),
            ask,
            connected_at: shared.now.get(),
            newest: shared.history.borrow().newest(),
            known_head: None,
            began: None,
            stream: Stream::default(),
            seen: None,
            lenient_until: 0,
            other_starts: Vec::new(),
            gap_due: false,
            checkpoint_due: false,
            greeted: false,
            events: 0,
            head: None,
            prelude_seen: false,
            ended_at_once: false,
        }
    }

    /// Where the shard's log stood when the stream began, at least. What came before is replayed, and counts against no
    /// bound.
    fn live_from(&self, moment: Moment) -> u64 {
        match self.ask {
            Ask::Now => self.known_head.unwrap_or(moment.head),
            // It came in the tick's mail, or waited for it.
            _ if self.known_head.is_some() || moment.newest > moment.head => moment.head_after,
            // It came before the mail, or waited for what was published since the tick's beginning.
            _ => moment.head,
        }
    }

    /// Whether some of what it asked for may still be to come: of an id that was used more than once, from the first.
    pub(crate) fn replays(&self) -> bool {
        let Some((moment, _)) = self.began else { return false };
        let starts = self.other_starts.iter().copied();
        self.ask != Ask::Now && self.seen.is_none_or(|seen| starts.fold(seen, u64::min) < moment.head_after)
    }

    /// Whether what is a stream's alone has come: behind the head of a refusal there is none.
    pub(crate) fn has_begun(&self) -> bool {
        self.prelude_seen
    }

    /// Whether the shard may have been full when it answered.
    pub(crate) fn came_to_a_full_house(&self) -> bool {
        self.began.is_some_and(|(moment, _)| moment.house_full)
    }

    /// Whether its stream has begun and not ended at once.
    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.status() == Some(200) && !self.ended_at_once
    }
}

impl Client {
    /// What it asks for when it connects now.
    pub(crate) fn ask(&self) -> Ask {
        match self.last_id.is_empty() {
            true => self.first_ask.clone(),
            false => Ask::Id(self.last_id.clone()),
        }
    }

    pub(crate) fn is_subscriber(&self) -> bool {
        self.statuses.is_empty()
    }

    pub(crate) fn chunked(&self) -> bool {
        self.version > 1
    }

    /// Its request: what it asks for first may stand in the query, what it has seen comes in the header.
    pub(crate) fn request(&self) -> String {
        let mut target = "/events?".to_owned();
        target.extend(self.interest.topics.iter().map(|topic| format!("topic={topic}&")));
        target.push_str(if self.interest.sees_private { "private&" } else { "" });
        target.push_str(if self.greeting { "hello&" } else { "" });
        target.push_str(if self.gap_notice { "" } else { "gap=off&" });
        target.push_str(match self.checkpoint {
            Checkpoint::Block => "",
            Checkpoint::Off => "checkpoint=off&",
            Checkpoint::Event => "checkpoint=event&",
        });
        let text = |ask: &Ask| match ask {
            Ask::Now => None,
            Ask::Earliest => Some("earliest".to_owned()),
            Ask::Id(id) => Some(id.clone()),
        };
        if let (true, Some(id)) = (self.asks_in_query, text(&self.first_ask)) {
            target.push_str(&format!("lastEventId={id}"));
        }
        let minor = u8::from(self.version != 0);
        let mut head = format!("GET {target} HTTP/1.{minor}\r\nHost: a\r\n");
        if self.version == 1 {
            head.push_str("Connection: close\r\n");
        }
        if let (true, Some(id)) = (!self.asks_in_query || !self.last_id.is_empty(), text(&self.ask())) {
            head.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    /// Whether the shard may have let go of what this one still needs: it is behind by more than a laggard may be,
    /// or it replays, and the log has dropped an event of its topics since it began.
    pub(crate) fn is_out_of_reach(&self, link: &Link, stand: Stand, shared: &Shared) -> bool {
        let Some((moment, _)) = link.began else { return false };
        let (limits, history) = (&shared.setting.limits, shared.history.borrow());
        let seen = link.seen.unwrap_or_default();
        let (frames, bytes) = history.measure(seen.max(link.live_from(moment)), stand.head, &self.interest);
        // The newest is kept, however large.
        let is_behind = frames > limits.laggard_frames || (frames > 1 && bytes > limits.laggard_bytes);
        // Of an id that was used more than once the first may have counted.
        let lowest = link.other_starts.iter().copied().fold(seen, u64::min).max(moment.dropped);
        let mut dropped = history.between(lowest, stand.dropped).iter();
        is_behind || (link.replays() && dropped.any(|entry| self.interest.reads(entry)))
    }

    /// Whether events may be left out of its stream: where it does not want to be told.
    fn may_skip(&self, link: &Link, stand: Stand, shared: &Shared) -> bool {
        let skips = shared.setting.limits.laggard_policy == LaggardPolicy::Skip;
        skips && !self.gap_notice && self.is_out_of_reach(link, stand, shared)
    }

    /// How a stream of its ended, if it had begun.
    pub(crate) fn end(&self, link: &Link, stand: Stand, shared: &Shared) -> Option<End> {
        let skips = self.may_skip(link, stand, shared);
        let has = |seen: u64| if skips { u64::MAX } else { seen.max(link.lenient_until) };
        link.seen.map(|seen| End { is_cut: link.stream.is_cut(), seen: has(seen) })
    }

    /// Whether an event is there that it has not got, and was not told that it is lost.
    pub(crate) fn misses(&self, stand: Stand, shared: &Shared) -> bool {
        let Some(link) = &self.link else { return false };
        let history = shared.history.borrow();
        let missed = |seen: u64| history.first_after(seen.max(link.lenient_until), &self.interest).is_some();
        link.seen.is_some_and(missed) && !self.may_skip(link, stand, shared)
    }

    /// Takes what it has read.
    pub(crate) fn take(&mut self, bytes: &[u8], stand: Stand, shared: &Shared) {
        let Some(mut link) = self.link.take() else { return };
        for found in link.stream.feed(bytes) {
            match found {
                Found::Head(head) => self.take_head(&mut link, head, shared),
                Found::Event { kind, data, id } => {
                    assert!(link.prelude_seen, "the prelude comes first");
                    self.take_event(&mut link, &kind, data.as_deref(), id, stand, shared);
                }
                Found::Retry if !link.prelude_seen => link.ended_at_once = true,
                Found::Comment if !link.prelude_seen => self.take_prelude(&mut link, shared),
                Found::Retry | Found::Comment => {}
            }
        }
        self.link = Some(link);
    }

    fn take_head(&mut self, link: &mut Link, head: Head, shared: &Shared) {
        tell!(
            shared,
            "    client {} gets {}{}",
            self.number,
            head.status,
            if head.gap { ", a gap" } else { "" }
        );
        if head.status != 200 {
            assert!(!head.gap);
            return;
        }
        assert!(self.is_subscriber(), "a stream for one who is no subscriber");
        assert_eq!(head.chunked, self.chunked());
        link.head = Some(head);
    }

    /// A stream begins. From its head, and from where the shard stood, follows where that must be.
    fn take_prelude(&mut self, link: &mut Link, shared: &Shared) {
        link.prelude_seen = true;
        let head = link.head.clone().expect("a head");
        let (moment, _) = link.began.expect("an answer before its beginning");
        link.gap_due = head.gap && self.gap_notice;
        link.checkpoint_due = self.checkpoint != Checkpoint::Off && !link.gap_due;
        link.greeted = !self.greeting;
        if head.gap {
            shared.happened(Thing::Gap);
            if !self.gap_notice {
                shared.happened(Thing::QuietGap);
            }
        }
        let history = shared.history.borrow();
        let (seen, lenient_until) = match &link.ask {
            Ask::Now => {
                assert!(!head.gap, "a gap for one who asked for nothing");
                (link.known_head.unwrap_or(moment.head), 0)
            }
            Ask::Earliest => {
                assert!(!head.gap, "a gap for one who takes what there is");
                (moment.dropped, moment.dropped_after)
            }
            Ask::Id(id) => {
                shared.happened(Thing::Resume);
                if self.last_shard.is_some_and(|shard| shard != link.shard) {
                    shared.happened(Thing::ResumeElsewhere);
                }
                match start_of(id, head.gap, link.newest, moment, &history, shared) {
                    Some(mut starts) => {
                        let last = starts.pop().expect("at least one");
                        link.other_starts = starts;
                        (last, 0)
                    }
                    None => (moment.dropped, moment.dropped_after),
                }
            }
        };
        (link.seen, link.lenient_until) = (Some(seen), lenient_until);
    }

    fn take_event(
        &mut self,
        link: &mut Link,
        kind: &str,
        data: Option<&str>,
        id: Option<String>,
        stand: Stand,
        shared: &Shared,
    ) {
        if let Some(id) = &id {
            self.last_id.clone_from(id);
        }
        let Some(data) = data else {
            assert!(self.checkpoint == Checkpoint::Block && kind.is_empty(), "every event here has data");
            return self.take_checkpoint(link, &id.expect("a checkpoint is an id"), shared);
        };
        match kind {
            "hello" => {
                assert!(
                    !link.greeted && data == "you" && link.events == 0 && id.is_none(),
                    "one greeting, first"
                );
                link.greeted = true;
            }
            "fanfare.checkpoint" => {
                assert!(self.checkpoint == Checkpoint::Event && data == "{}", "a checkpoint as an event");
                self.take_checkpoint(link, &id.expect("a checkpoint has an id"), shared);
            }
            "fanfare.gap" => self.take_gap(link, data, &id.expect("a gap has an id"), stand, shared),
            _ => self.take_published(link, kind, data, &id.expect("an id"), stand, shared),
        }
    }

    /// It is told where its stream begins: somewhere within what its head left open.
    fn take_checkpoint(&self, link: &mut Link, id: &str, shared: &Shared) {
        assert!(std::mem::take(&mut link.checkpoint_due), "one checkpoint, behind the prelude");
        assert!(
            link.greeted && link.events == 0,
            "the checkpoint comes behind the greeting, before any event"
        );
        shared.happened(Thing::Checkpoint);
        let cursor = Cursor::parse(id).expect("a cursor");
        let history = shared.history.borrow();
        assert_eq!(cursor.epoch, history.epoch);
        let seen = link.seen.expect("checkpoints come after the head");
        let (moment, _) = link.began.expect("a checkpoint before the beginning");
        let (is_start, begins) = match link.ask {
            Ask::Now => ((seen..=moment.head_after.max(seen)).contains(&cursor.seq), cursor.seq),
            // Below what the whole log has, where the topics of this one have nothing in between.
            _ if link.lenient_until > 0 => {
                let next = history.first_after(cursor.seq, &self.interest);
                let nothing_between = cursor.seq >= seen || next.is_none_or(|entry| entry.seq > seen);
                (nothing_between && cursor.seq <= link.lenient_until, cursor.seq.max(seen))
            }
            // Of an id that was used more than once, any bearer.
            _ => (cursor.seq == seen || link.other_starts.contains(&cursor.seq), cursor.seq),
        };
        assert!(is_start, "client {}: a checkpoint at {id}, but its stream begins at {seen}", self.number);
        link.other_starts.clear();
        link.seen = Some(begins);
        link.lenient_until = 0;
    }

    fn take_published(
        &mut self,
        link: &mut Link,
        kind: &str,
        data: &str,
        id: &str,
        stand: Stand,
        shared: &Shared,
    ) {
        let history = shared.history.borrow();
        let mut seen = link.seen.expect("events come after the head");
        assert!(link.greeted, "the greeting comes first");
        assert!(!link.gap_due, "the gap is told first");
        assert!(!link.checkpoint_due, "the checkpoint comes first");
        let got: u64 = data.split(' ').next().and_then(|seq| seq.parse().ok()).expect("an event of ours");
        let first = |start: u64| history.first_after(start, &self.interest).map(|entry| entry.seq);
        if let Some(&start) = link.other_starts.iter().find(|&&start| first(start) == Some(got)) {
            seen = start;
        }
        link.other_starts.clear();
        assert!(got > seen, "client {}: {got} is doubled or out of order: {seen} was there", self.number);
        let entry = loop {
            let next = history.first_after(seen, &self.interest);
            let entry = next.unwrap_or_else(|| panic!("client {} gets {got}, not for it", self.number));
            if entry.seq == got {
                break entry;
            }
            let excused = entry.seq <= link.lenient_until || self.may_skip(link, stand, shared);
            assert!(excused && entry.seq < got, "client {}: {} is lost, {got} came", self.number, entry.seq);
            seen = entry.seq;
        };
        assert!(entry.data == data, "the data of {got} is changed");
        assert_eq!((entry.wire_id(history.epoch).as_str(), entry.kind.unwrap_or_default()), (id, kind));
        shared.note_delivery(entry, &self.interest);
        let hidden = |seq: u64| {
            let entry = &history.events[seq as usize - 1];
            self.interest.reads(entry) && !self.interest.wants(entry)
        };
        let withheld = (seen + 1..got).filter(|&seq| hidden(seq)).count();
        shared.tally.borrow_mut().add(Thing::PrivateHidden, withheld as u64);
        link.seen = Some(got);
        link.events += 1;
    }

    /// The stream goes on after a gap.
    fn take_gap(&mut self, link: &mut Link, data: &str, id: &str, stand: Stand, shared: &Shared) {
        assert!(self.gap_notice, "a notice for one who does not want it");
        let history = shared.history.borrow();
        let cursor = Cursor::parse(id).expect("the cursor from which the stream goes on");
        assert_eq!(cursor.epoch, history.epoch);
        let seen = link.seen.expect("gaps come after the head");
        let after = text_of(data, "after").expect("what was asked for");
        if std::mem::take(&mut link.gap_due) {
            assert!(matches!(&link.ask, Ask::Id(id) if *id == after), "a gap after what was not asked for");
            assert!(cursor.seq <= link.lenient_until, "a gap that goes on over what is retained");
        } else {
            shared.happened(Thing::Skip);
            assert!(self.is_out_of_reach(link, stand, shared), "a gap for one within its bounds");
            // It stood at its last event, or a little further on where nothing was its.
            let after = Cursor::parse(&after).expect("a cursor").seq;
            // Or at an earlier event with the same id.
            let starts = link.other_starts.iter().copied().filter(|&start| start <= after);
            let seen = if after < seen { starts.max().unwrap_or(seen) } else { seen };
            let seen = seen.max(link.lenient_until.min(after));
            let between = history.first_after(seen.min(after), &self.interest);
            assert!(between.is_none_or(|entry| entry.seq > seen.max(after)), "a false gap");
            // Who replayed may be told of a gap where the log no longer knows that there was nothing.
            let replayed = link.ask != Ask::Now;
            let everything = Interest { sees_private: true, ..self.interest.clone() };
            assert!(history.misses(seen, cursor.seq, &everything) || replayed, "a gap without a loss");
            assert!(cursor.seq > seen && cursor.seq <= history.newest());
        }
        link.other_starts.clear();
        link.seen = Some(cursor.seq);
        link.lenient_until = 0;
        tell!(shared, "    client {} is told of a gap after {after}, up to {id}", self.number);
        if let Some(before) = text_of(data, "before") {
            let next = history.first_after(cursor.seq, &self.interest).expect("an event behind the gap");
            assert_eq!(before, next.wire_id(history.epoch), "the first event behind the gap");
        }
    }
}

/// Where a reader may begin that has seen `id`; `None`: it was told of a gap, and rightly.
fn start_of(
    id: &str,
    gap: bool,
    newest: u64,
    at: Moment,
    history: &History,
    shared: &Shared,
) -> Option<Vec<u64>> {
    match Cursor::parse(id).filter(|cursor| cursor.epoch == history.epoch) {
        Some(cursor) => {
            if cursor.seq > newest {
                shared.happened(Thing::AheadOfHead);
            }
            let ahead = cursor.seq > newest && cursor.seq > at.head;
            assert!(
                !gap || ahead || cursor.seq < at.dropped_after,
                "a gap after {id}, where nothing is missing"
            );
            assert!(gap || cursor.seq <= at.head_after, "{id} is not there yet, and nobody says so");
            (!gap).then(|| vec![cursor.seq])
        }
        None => {
            let bearers: Vec<u64> = history.bearers(id).filter(|&seq| seq <= at.head_after).collect();
            let could_be_gone = bearers.iter().any(|&seq| seq <= at.dropped_after || seq > newest);
            assert!(!gap || could_be_gone || bearers.is_empty(), "a gap after {id}, which is there");
            assert!(gap || !bearers.is_empty(), "nobody knows the id {id}");
            shared.happened(if gap { Thing::UnknownId } else { Thing::OwnIdResume });
            (!gap).then_some(bearers)
        }
    }
}

/// A text of the gap event's data.
fn text_of(data: &str, name: &str) -> Option<String> {
    let (_, value) = data.split_once(&format!("\"{name}\":"))?;
    Some(value.strip_prefix('"')?.split('"').next()?.to_owned())
}

/// The topics of the whole world.
pub(crate) fn all_topics() -> Vec<Topic> {
    ["a", "b", "c", "d", "e"].iter().map(|name| Topic::new(name).expect("a topic")).collect()
}
