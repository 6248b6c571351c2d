//! The log and the audiences against a naive model: a list of all events, and for each reader the bytes
//! it must get.
//!
//! The world below does to `Log` and `Audiences` what a shard does, with sockets that take a random
//! number of bytes. After each step every reader's stream must be a prefix of what the list says, and
//! the tables must agree with each other; in the end everybody must have everything.
//!
//! What happens is chosen by a seed (the test) or by bytes (the fuzzer, which takes in this file by its path).

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::audience::{AudienceId, Audiences, Subscription};
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::laggard::Laggards;
use fanfare_proto::limits::{LaggardPolicy, LogLimits, RUN_BYTES, Retention};
use fanfare_proto::log::{EARLIEST, Log};
use fanfare_proto::run::{Remainder, Run};

const TOPICS: usize = 5;
/// The log, the audiences and their readers, as on one shard.
pub(crate) struct World {
    choices: Choices,
    now: Duration,
    epoch: Epoch,
    log: Log,
    audiences: Audiences,
    laggards: Laggards,
    run: Run,
    policy: LaggardPolicy,
    laggard_frames: usize,
    /// What readers choose from: few, so that they share audiences.
    menu: Vec<Subscription>,
    /// The naive log: all events ever.
    history: Vec<Arc<Frame>>,
    /// By slot.
    readers: BTreeMap<u32, Reader>,
    /// Audiences by topic: the log is told of the first and of the last one.
    audiences_of: BTreeMap<Topic, usize>,
    next_slot: u32,
}

struct Reader {
    audience: AudienceId,
    subscription: Subscription,
    place: Place,
    /// How many bytes its socket takes before it is full; `None`: any number.
    room: Option<usize>,
    /// Its peer is gone.
    gone: bool,
    /// What it got of the next event so far.
    begun: Vec<u8>,
    /// It was given, or told that it cannot get, everything up to here.
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Member(u32),
    Laggard(u32),
}

/// What a socket took.
enum Sent {
    Whole,
    Full(usize),
    Gone,
}

impl World {
    /// An empty world; its bounds are chosen, too.
    pub(crate) fn new(mut choices: Choices) -> World {
        let epoch = Epoch::new(choices.next());
        let retention = Retention {
            events: choices.pick(&[0, 3, 20, 1000]),
            bytes: choices.pick(&[2_000, 20_000, 10_000_000]),
            age: Duration::from_secs(choices.pick(&[3, 1000])),
        };
        let total_bytes = choices.pick(&[40_000, 10_000_000]);
        let laggard_frames = choices.pick(&[2, 6, 40]);
        let laggard_bytes = choices.pick(&[1_500, 8_000, 400_000]);
        let menu = (0..1 + choices.below(4)).map(|_| choices.subscription()).collect();
        World {
            now: Duration::ZERO,
            epoch,
            menu,
            log: Log::new(epoch, LogLimits { retention, rules: Vec::new(), total_bytes }, 1),
            audiences: Audiences::new(laggard_frames, laggard_bytes),
            laggards: Laggards::default(),
            run: Run::default(),
            policy: choices.pick(&[LaggardPolicy::Disconnect, LaggardPolicy::Skip]),
            laggard_frames,
            history: Vec::new(),
            readers: BTreeMap::new(),
            audiences_of: BTreeMap::new(),
            next_slot: 0,
            choices,
        }
    }

    /// Whether no choices are left: those made from a seed never end.
    #[allow(dead_code, reason = "a test that counts its steps need not ask")]
    pub(crate) fn is_over(&self) -> bool {
        self.choices.are_over()
    }

    /// Something happens.
    pub(crate) fn step(&mut self) {
        match self.choices.below(100) {
            0..15 => self.join(),
            15..20 => self.leave_some(),
            20..25 => self.stall_some(),
            25..35 => self.change_some_socket(),
            35..60 => self.publish_some(),
            60..80 => {
                let slices = 1 + self.choices.below(4);
                self.take_turn(slices);
            }
            80..92 => self.serve_laggard(),
            92..96 => self.check_laggards(),
            _ => {
                self.now += Duration::from_millis(self.choices.below(1500) as u64);
                self.log.trim(self.now, usize::MAX, &mut Vec::new());
            }
        }
        self.ask_the_log();
    }

    /// Opens all sockets and works until nothing is left to do; then all have everything, and nothing is kept.
    pub(crate) fn finish(&mut self) {
        for slot in self.readers.keys().copied().collect::<Vec<_>>() {
            self.open(slot);
        }
        for _ in 0..10_000 + 2 * self.readers.len() * self.history.len() {
            if !self.audiences.dirty() && self.laggards.is_empty() {
                break;
            }
            self.take_turn(3);
            self.serve_laggard();
            self.check();
        }
        assert!(!self.audiences.dirty() && self.laggards.is_empty(), "the work comes to an end");
        assert!(!self.audiences.crowded());
        for reader in self.readers.values() {
            assert!(reader.begun.is_empty());
            assert!(self.first_after(reader, reader.seen).is_none(), "a reader misses an event");
            let window = self.audiences.window(reader.audience);
            assert!(window.is_empty() && window.bytes() == 0, "everybody has everything");
        }
        for slot in self.readers.keys().copied().collect::<Vec<_>>() {
            self.leave(slot);
        }
        assert!(self.audiences.is_empty() && !self.audiences.crowded());
        assert!(self.audiences.next_turn(true).is_none());
        self.log.trim(Duration::MAX, usize::MAX, &mut Vec::new());
        assert!(self.log.is_empty());
        let kept = (self.log.topic_count(), self.log.reader_bytes(), self.audiences.topics());
        assert_eq!(kept, (0, 0, 0), "no topic is kept without frames and readers");
    }

    // What a shard does with newcomers and leavers.

    fn join(&mut self) {
        let subscription = self.menu[self.choices.below(self.menu.len())].clone();
        let start = match self.choices.below(4) {
            0 => Some(EARLIEST.to_owned()),
            1 => Some(self.some_cursor().to_string()),
            _ => None,
        };
        let start = start.map(|id| self.log.resume(&id, subscription.topics()));
        let (audience, new) = self.audiences.found(subscription.clone(), self.log.newest());
        if new {
            self.add_audience(&subscription);
        }
        let head = self.audiences.head(audience);
        let (slot, seen) = (self.next_slot, start.map_or(self.log.newest(), |start| start.cursor()));
        self.next_slot += 1;
        let (topics, sees_private) = (subscription.topics(), subscription.sees_private());
        let behind = self.log.first_after(topics, sees_private, seen).is_some();
        let place = if behind {
            self.audiences.add_laggard(audience);
            Place::Laggard(self.laggards.insert(slot, seen, head, None, self.now, true))
        } else {
            Place::Member(self.audiences.join(audience, slot as i32, slot))
        };
        let (room, gone, begun) = (None, false, Vec::new());
        self.readers.insert(slot, Reader { audience, subscription, place, room, gone, begun, seen });
    }

    fn leave_some(&mut self) {
        if let Some(slot) = self.some_reader() {
            self.leave(slot);
        }
    }

    fn leave(&mut self, slot: u32) {
        let reader = self.readers.remove(&slot).unwrap();
        match reader.place {
            Place::Member(index) => {
                self.take_member(reader.audience, index);
            }
            Place::Laggard(key) => {
                self.laggards.remove(key);
                self.audiences.remove_laggard(reader.audience);
            }
        }
        if let Some(subscription) = self.audiences.remove_if_empty(reader.audience) {
            self.remove_audience(&subscription);
        }
    }

    fn add_audience(&mut self, subscription: &Subscription) {
        for topic in subscription.topics() {
            let audiences = self.audiences_of.entry(topic.clone()).or_default();
            *audiences += 1;
            if *audiences == 1 {
                self.log.add_reader(std::slice::from_ref(topic), 0);
            }
        }
    }

    fn remove_audience(&mut self, subscription: &Subscription) {
        for topic in subscription.topics() {
            let audiences = self.audiences_of.get_mut(topic).unwrap();
            *audiences -= 1;
            if *audiences == 0 {
                self.audiences_of.remove(topic);
                self.log.remove_reader(std::slice::from_ref(topic), 0);
            }
        }
    }

    fn take_member(&mut self, audience: AudienceId, index: u32) -> u64 {
        let readers = &mut self.readers;
        let member = self.audiences.leave(audience, index, |slot, index| {
            readers.get_mut(&slot).unwrap().place = Place::Member(index);
        });
        member.cursor
    }

    /// A heartbeat finds a member's socket full: it becomes a laggard outside of any turn.
    fn stall_some(&mut self) {
        let Some(slot) = self.some_reader() else { return };
        let Place::Member(index) = self.readers[&slot].place else { return };
        self.readers.get_mut(&slot).unwrap().room = Some(0);
        self.make_laggard(self.readers[&slot].audience, index, slot, None, None);
    }

    fn make_laggard(
        &mut self,
        audience: AudienceId,
        index: u32,
        slot: u32,
        cursor: Option<u64>,
        remainder: Option<Remainder>,
    ) {
        self.audiences.add_laggard(audience);
        let stood_at = self.take_member(audience, index);
        let cursor = cursor.unwrap_or(stood_at);
        let key = self.laggards.insert(slot, cursor, cursor, remainder, self.now, false);
        self.readers.get_mut(&slot).unwrap().place = Place::Laggard(key);
    }

    fn change_some_socket(&mut self) {
        let Some(slot) = self.some_reader() else { return };
        match self.choices.below(10) {
            0..5 => self.open(slot),
            5..9 => {
                let room = self.choices.pick(&[0, 1, 30, 100, 1_000, 50_000]);
                self.readers.get_mut(&slot).unwrap().room = Some(room);
            }
            _ => self.readers.get_mut(&slot).unwrap().gone = true,
        }
    }

    fn open(&mut self, slot: u32) {
        let reader = self.readers.get_mut(&slot).unwrap();
        reader.room = None;
        if let Place::Laggard(key) = reader.place {
            self.laggards.ready(key);
        }
    }

    // What a shard does with events.

    fn publish_some(&mut self) {
        if self.audiences.crowded() {
            assert!(self.audiences.dirty(), "what is crowded must get a turn");
            return;
        }
        for _ in 0..1 + self.choices.below(4) {
            let mut event = Event::new(self.choices.topic()).private(self.choices.one_in(4));
            for _ in 0..self.choices.below(3) {
                event = event.also(self.choices.topic()).unwrap();
            }
            if self.choices.one_in(3) {
                event = event.id(EventId::new(format!("own-{}", self.choices.below(4))).unwrap());
            }
            let size = self.choices.pick(&[0, 10, 10, 100, 100, 700, 40_000]);
            let (seq, fill) = (self.history.len() as u64 + 1, "x".repeat(size));
            let id = self.cursor(seq).to_string();
            let frame = Arc::new(Frame::encode(seq, &id, event.data(format!("{seq}{fill}")), self.now));
            self.audiences.append(&frame);
            self.log.append(Arc::clone(&frame), self.now, &mut Vec::new());
            self.history.push(frame);
        }
    }

    fn take_turn(&mut self, slices: usize) {
        let Some(audience) = self.audiences.next_turn(true) else { return };
        let swept_to = self.audiences.swept_to(audience);
        let mut gone = Vec::new();
        for _ in 0..slices {
            let (budget, tenths) = (1 + self.choices.below(4), (self.now.as_millis() / 100) as u32);
            let Some(mut slice) = self.audiences.slice(audience, budget, tenths) else { break };
            // A shard shortens a slice whose bytes it cannot afford.
            slice.end -= self.choices.below(slice.end - slice.start);
            self.audiences.fill(audience, slice.after, &mut self.run);
            assert!(!self.run.is_empty(), "a member behind the head needs something");
            let members = self.audiences.members(audience, slice).to_vec();
            self.audiences.sent(audience, slice, self.run.end());
            for (index, member) in members.iter().enumerate().rev() {
                let index = (slice.start + index) as u32;
                let bytes = self.run.bytes().to_vec();
                match self.send(member.slot, &bytes) {
                    Sent::Whole => {}
                    Sent::Full(sent) => {
                        let cut = self.run.cut(sent);
                        self.make_laggard(audience, index, member.slot, Some(cut.cursor), cut.remainder);
                    }
                    Sent::Gone => gone.push(member.slot),
                }
            }
        }
        self.audiences.end_turn(audience);
        assert!(self.audiences.swept_to(audience) >= swept_to, "a sweep never goes back");
        for slot in gone {
            self.leave(slot);
        }
    }

    fn serve_laggard(&mut self) {
        let Some(key) = self.laggards.next_turn() else { return };
        let slot = self.laggards.get(key).slot;
        if let Some(remainder) = self.laggards.get(key).remainder.clone() {
            match self.send(slot, remainder.bytes()) {
                Sent::Whole => {
                    let laggard = self.laggards.get_mut(key);
                    laggard.cursor = remainder.seq().unwrap();
                    laggard.remainder = None;
                }
                Sent::Full(sent) => {
                    return self.laggards.get_mut(key).remainder.as_mut().unwrap().advance(sent);
                }
                Sent::Gone => return self.leave(slot),
            }
        }
        if !self.fill_for_laggard(key) {
            return;
        }
        let bytes = self.run.bytes().to_vec();
        let sent = if bytes.is_empty() { Sent::Whole } else { self.send(slot, &bytes) };
        let audience = self.readers[&slot].audience;
        match sent {
            Sent::Whole if self.run.is_empty() || self.run.end() >= self.audiences.head(audience) => {
                self.laggards.remove(key);
                let index = self.audiences.join(audience, slot as i32, slot);
                self.readers.get_mut(&slot).unwrap().place = Place::Member(index);
                self.audiences.remove_laggard(audience);
            }
            Sent::Whole => {
                self.laggards.get_mut(key).cursor = self.run.end();
                self.laggards.ready(key);
            }
            Sent::Full(sent) => {
                let cut = self.run.cut(sent);
                let laggard = self.laggards.get_mut(key);
                (laggard.cursor, laggard.remainder) = (cut.cursor, cut.remainder);
            }
            Sent::Gone => self.leave(slot),
        }
    }

    /// From the window, else from the log, else there is a gap: the sign that this test accepts for a loss.
    fn fill_for_laggard(&mut self, key: u32) -> bool {
        let laggard = self.laggards.get(key);
        let (slot, cursor, needs_after) = (laggard.slot, laggard.cursor, laggard.needs_after());
        let reader = &self.readers[&slot];
        let (audience, subscription) = (reader.audience, &reader.subscription);
        let window_after = self.audiences.window_after(audience);
        let in_log = self.log.available_after(subscription.topics());
        let over_bound = needs_after < window_after;
        if over_bound && self.policy == LaggardPolicy::Disconnect {
            self.leave(slot);
            return false;
        }
        if !over_bound && cursor >= window_after {
            self.audiences.fill(audience, cursor, &mut self.run);
            return true;
        }
        if !over_bound && cursor >= in_log {
            let (topics, sees_private) = (subscription.topics(), subscription.sees_private());
            let mut frames = Vec::new();
            let read = self.log.read_after(topics, sees_private, cursor, 100, RUN_BYTES, &mut frames);
            assert!(read.is_ok(), "all after {in_log} is here");
            self.run.fill(cursor, subscription.format(), frames.iter());
            return true;
        }
        let to = if over_bound { window_after } else { in_log.min(window_after) };
        assert!(to > cursor, "a gap leads on");
        if over_bound {
            let lost = self.first_after(reader, cursor).is_some_and(|frame| frame.seq() <= to);
            assert!(lost, "over its bound, yet nothing was dropped");
        }
        let laggard = self.laggards.get_mut(key);
        laggard.cursor = to;
        laggard.since = laggard.since.max(to);
        self.laggards.ready(key);
        self.readers.get_mut(&slot).unwrap().seen = to;
        false
    }

    fn check_laggards(&mut self) {
        let mut slowest = BTreeMap::new();
        for (_, laggard) in self.laggards.iter() {
            let audience = self.readers[&laggard.slot].audience;
            let needs_after = laggard.needs_after();
            let lowest = slowest.entry(self.some_member_key(audience)).or_insert((audience, needs_after));
            lowest.1 = lowest.1.min(needs_after);
        }
        for (audience, needs_after) in slowest.into_values() {
            self.audiences.trim_window(audience, needs_after);
        }
    }

    /// An order for audiences, whose ids have none.
    fn some_member_key(&self, audience: AudienceId) -> u32 {
        *self.readers.iter().find(|(_, reader)| reader.audience == audience).unwrap().0
    }

    // The network, and what its readers must see.

    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        let reader = self.readers.get_mut(&slot).unwrap();
        if reader.gone {
            return Sent::Gone;
        }
        let sent = reader.room.unwrap_or(usize::MAX).min(bytes.len());
        reader.room = reader.room.map(|room| room - sent);
        reader.begun.extend_from_slice(&bytes[..sent]);
        self.read(slot);
        if sent == bytes.len() { Sent::Whole } else { Sent::Full(sent) }
    }

    /// Compares what a reader got with the list: whole events are done with, the rest must be the
    /// beginning of the next.
    fn read(&mut self, slot: u32) {
        let mut reader = self.readers.remove(&slot).unwrap();
        while !reader.begun.is_empty() {
            let next =
                self.first_after(&reader, reader.seen).expect("no more events for this reader").clone();
            let wire = next.wire(reader.subscription.format());
            let common = wire.len().min(reader.begun.len());
            assert!(reader.begun[..common] == wire[..common], "not the bytes of event {}", next.seq());
            if common < wire.len() {
                break;
            }
            reader.begun.drain(..common);
            reader.seen = next.seq();
        }
        self.readers.insert(slot, reader);
    }

    fn first_after(&self, reader: &Reader, seq: u64) -> Option<&Arc<Frame>> {
        let matches = |frame: &&Arc<Frame>| {
            frame.topics().iter().any(|topic| reader.subscription.topics().contains(topic))
                && reader.subscription.admits(frame)
        };
        self.history[seq as usize..].iter().find(matches)
    }

    // What must hold after each step.

    /// Members, cursors, windows and counts agree with each other.
    pub(crate) fn check(&self) {
        let mut members = 0;
        for (&slot, reader) in &self.readers {
            let id = reader.audience;
            let window = self.audiences.window(id);
            let swept_to = self.audiences.swept_to(id);
            match reader.place {
                Place::Member(index) => {
                    members += 1;
                    let member = self.audiences.member(id, index);
                    assert_eq!(member.slot, slot, "the member's index");
                    assert!(reader.begun.is_empty(), "a member stands between two events");
                    assert!(member.cursor >= swept_to && member.cursor <= self.audiences.head(id));
                    let missing = self.first_after(reader, reader.seen);
                    // A gone member is counted as served until it is taken out, at the end of the turn.
                    assert!(missing.is_none_or(|frame| frame.seq() > member.cursor), "a false cursor");
                }
                Place::Laggard(key) => assert_eq!(self.laggards.get(key).slot, slot),
            }
            assert!(self.audiences.window_after(id) <= swept_to, "trimmed under a member");
            let (unswept, _) = window.measure_after(swept_to);
            assert!(window.len() <= self.laggard_frames + unswept, "the window has a bound");
        }
        let counted = self.audiences.counts().fold((0, 0), |sum, (_, m, l)| (sum.0 + m, sum.1 + l));
        assert_eq!(counted, (members, self.laggards.len()));
        self.audiences.check();
        self.log.check();
        assert_eq!(self.log.readers(), self.audiences.topics(), "the log's readers are the audiences");
        assert!(!self.audiences.crowded() || self.audiences.dirty());
    }

    /// The log's answers to a random reader, against the list.
    fn ask_the_log(&mut self) {
        let count = 1 + self.choices.below(3);
        let mut topics: Vec<Topic> = (0..count).map(|_| self.choices.topic()).collect();
        topics.dedup();
        let of_topics = |frame: &&Arc<Frame>| frame.topics().iter().any(|topic| topics.contains(topic));
        let own = format!("own-{}", self.choices.below(4));
        let cursor = self.some_cursor();
        for id in [EARLIEST.to_owned(), cursor.to_string(), own] {
            let start = self.log.resume(&id, &topics);
            let (from, mut given) = (start.cursor(), Vec::new());
            let end = self.log.read_after(&topics, true, from, usize::MAX, usize::MAX, &mut given);
            assert_eq!(end, Ok(self.log.newest()));
            let all: Vec<u64> =
                self.history[from as usize..].iter().filter(of_topics).map(|frame| frame.seq()).collect();
            assert!(given.iter().map(|frame| frame.seq()).eq(all), "all after the start {from} of {id:?}");
            if !start.is_gap() && id == cursor.to_string() {
                assert_eq!(from, cursor.seq);
            }
        }
    }

    fn cursor(&self, seq: u64) -> Cursor {
        Cursor { epoch: self.epoch, seq }
    }

    /// Near the head, and sometimes beyond it.
    fn some_cursor(&mut self) -> Cursor {
        let back = self.choices.below(30) as u64;
        self.cursor((self.history.len() as u64 + 1).saturating_sub(back))
    }

    fn some_reader(&mut self) -> Option<u32> {
        let index = self.choices.below(self.readers.len().max(1));
        self.readers.keys().nth(index).copied()
    }
}

/// Where a world's choices come from.
pub(crate) enum Choices {
    /// A splitmix64 generator: any seed is good.
    Seed(u64),
    /// Bytes, one or eight for each choice; zero is chosen where they have ended.
    #[allow(dead_code, reason = "the fuzzer's")]
    Bytes(VecDeque<u8>),
}

impl Choices {
    #[allow(dead_code, reason = "the test's")]
    pub(crate) fn from_seed(seed: u64) -> Choices {
        Choices::Seed(seed)
    }

    #[allow(dead_code, reason = "the fuzzer's")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Choices {
        Choices::Bytes(bytes.iter().copied().collect())
    }

    fn are_over(&self) -> bool {
        matches!(self, Choices::Bytes(bytes) if bytes.is_empty())
    }

    fn next(&mut self) -> u64 {
        match self {
            Choices::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
            Choices::Bytes(bytes) => {
                (0..8).fold(0, |sum, _| sum << 8 | u64::from(bytes.pop_front().unwrap_or(0)))
            }
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        match self {
            // One byte, so that the fuzzer's small changes are small here.
            Choices::Bytes(bytes) if bound <= 256 => usize::from(bytes.pop_front().unwrap_or(0)) % bound,
            _ => (self.next() % bound as u64) as usize,
        }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn topic(&mut self) -> Topic {
        Topic::new(format!("topic-{}", self.below(TOPICS))).unwrap()
    }

    fn subscription(&mut self) -> Subscription {
        let topics = (0..1 + self.below(3)).map(|_| self.topic()).collect();
        let format = self.pick(&[WireFormat::Chunked, WireFormat::Plain]);
        Subscription::new(topics, format, self.one_in(2))
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
