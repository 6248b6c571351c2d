//! Delivery and the log against a naive model: a list of all events, and for each subscriber the bytes it
//! must get.
//!
//! The world below drives the same [`Delivery`] that a shard drives, with sockets that take a random number
//! of bytes, and with mail that is handed over late. After each step every subscriber's stream must be a
//! prefix of what the list says, and the tables must agree with each other; in the end everybody must have
//! everything.
//!
//! What happens is chosen by a seed (the test) or by bytes (the fuzzer, which takes in this file by its
//! path).

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

#[path = "choices.rs"]
mod choices;
#[path = "pieces.rs"]
mod pieces;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::audience::{Subscription, SweepBounds};
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::delivery::{Budgets, Changed, Closed, Delivery, NewStream, SendFailure};
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::event_log::UnsharedLog;
use fanfare_proto::frame::{Checkpoint, Frame, HeartbeatForm, WireFormat, heartbeat};
use fanfare_proto::limits::{LaggardPolicy, Limits, LogLimits, Retention};
use fanfare_proto::link::LinkKey;
use fanfare_proto::log::{EARLIEST, Log, Start};
use fanfare_proto::pattern::Pattern;
use fanfare_proto::stream::{CloseReason, Deciseconds16, StreamOptions};
use fanfare_proto::unsent::Unsent;

pub(crate) use choices::Choices;
use pieces::{Match, block, matches_beginning, starts_a_block, take_off};

/// What the opening of a stream looks like here.
const OPENING: &[u8] = b"opening of a stream\n";

/// One shard's delivery and its subscribers, and the log.
pub(crate) struct World {
    choices: Choices,
    now: Duration,
    epoch: Epoch,
    limits: Limits,
    budgets: Budgets,
    log: Log,
    delivery: Delivery,
    /// Events that were published and not handed to the shard yet.
    mail: VecDeque<Arc<Frame>>,
    /// What subscribers choose from: few, so that they share audiences.
    menu: Vec<Subscription>,
    /// The naive log: all events ever.
    history: Vec<Arc<Frame>>,
    /// By slot.
    subscribers: BTreeMap<u32, Subscriber>,
    next_socket: i32,
    draining: bool,
}

struct Subscriber {
    link: LinkKey,
    socket: i32,
    subscription: Subscription,
    /// Changes of its topics that it may not have caught up with: up to which number it has which topics.
    stages: VecDeque<(u64, Subscription)>,
    options: StreamOptions,
    /// How many bytes its socket takes before it is full; `None`: any number.
    room: Option<usize>,
    /// Its socket was full, and no notification has come since.
    is_blocked: bool,
    /// Its peer is gone.
    gone: bool,
    /// What it got and did not understand yet.
    begun: Vec<u8>,
    /// What its socket did not take of the last send.
    not_taken: Vec<u8>,
    /// It was given, or told that it cannot get, everything up to here.
    seen: u64,
    /// It was told that some events up to here are gone. What is left of them comes.
    incomplete_until: u64,
    /// How far its history is incomplete is not known exactly.
    is_uncertain: bool,
    /// It has had its opening.
    is_open: bool,
    /// When it was last sent something, or the shard knew that its socket was full.
    heard_at: Duration,
    /// The end of its stream has come.
    ended: bool,
}

/// Changes that a stream may have to catch up with; it forgets older ones.
const STAGES: usize = 8;

impl Subscriber {
    /// What it has of the event with this number.
    fn at(&self, seq: u64) -> &Subscription {
        let stage = self.stages.iter().find(|(until, _)| seq <= *until);
        stage.map_or(&self.subscription, |(_, subscription)| subscription)
    }
}

impl World {
    /// An empty world; its bounds are chosen, too.
    pub(crate) fn new(mut choices: Choices) -> World {
        let epoch = Epoch::new(choices.next());
        let retention = Retention::default()
            .with_events(choices.pick(&[0, 3, 20, 1000]))
            .with_bytes(choices.pick(&[2_000, 20_000, 10_000_000]))
            .with_age(Duration::from_secs(choices.pick(&[3, 1000])));
        let total_bytes = choices.pick(&[20_000, 100_000, 100_000_000]);
        let log = LogLimits::default().with_retention(retention).with_total_bytes(total_bytes);
        let limits = Limits::default()
            .with_laggard_policy(choices.pick(&[LaggardPolicy::Disconnect, LaggardPolicy::Skip]))
            .with_laggard_bytes(choices.pick(&[1_500, 45_000, 10_000_000]))
            .with_delivery_bytes(choices.pick(&[2_000, 100_000, 10_000_000]))
            .with_laggard_time(Duration::from_secs(choices.pick(&[5, 1000])))
            .with_heartbeat(Duration::from_secs(choices.pick(&[1, 20])))
            .with_heartbeat_form(choices.pick(&[HeartbeatForm::Line, HeartbeatForm::Blank]))
            .with_log(log.clone());
        let budgets = Budgets {
            marks: choices.pick(&[1, 3, 100]),
            sends: choices.pick(&[1, 4, 100]),
            bytes: choices.pick(&[1_000, 1_000_000]),
            laggards: choices.pick(&[1, 8]),
            replayed_frames: choices.pick(&[1, 100]),
            scan_steps: choices.pick(&[1, 60, 1 << 14]),
            search_steps: choices.pick(&[1, 60, 1 << 14]),
            scans: choices.pick(&[1, 3, 100]),
            endings: choices.pick(&[1, 10]),
            heartbeats: choices.pick(&[1, 100]),
            room_endings: choices.pick(&[1, 100]),
            drain_checks: choices.pick(&[1, 100]),
            laggard_checks: choices.pick(&[1, 100]),
            removals: choices.pick(&[1, 3, 100]),
            states: 1,
            sweep: SweepBounds {
                frames: choices.pick(&[1, 6, 40]),
                bytes: choices.pick(&[1_500, 400_000]),
                small_fan_out: choices.pick(&[64, 1]),
            },
        };
        let seed = choices.next();
        let menu = (0..1 + choices.below(4)).map(|_| choices.subscription()).collect();
        World {
            now: Duration::ZERO,
            epoch,
            menu,
            log: Log::new(epoch, log, seed),
            delivery: Delivery::with_budgets(limits.clone(), budgets, epoch, seed),
            limits,
            budgets,
            mail: VecDeque::new(),
            history: Vec::new(),
            subscribers: BTreeMap::new(),
            next_socket: 0,
            draining: false,
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
            15..18 => self.leave_some(),
            18..20 => self.change_topics_of_some(),
            20..32 => self.change_some_socket(),
            32..57 => self.publish_some(),
            57..92 => self.turn(),
            92..99 => self.now += Duration::from_millis(self.choices.below(1500) as u64),
            _ => self.log.trim(self.now, self.choices.below(5), &mut Vec::new()),
        }
    }

    /// Opens all sockets and works until nothing is left to do; then all have everything, and nothing is
    /// kept.
    pub(crate) fn finish(&mut self) {
        for slot in self.subscribers.keys().copied().collect::<Vec<_>>() {
            self.open_socket(slot);
        }
        self.work_off("after all sockets were opened");
        for subscriber in self.subscribers.values() {
            assert!(subscriber.begun.is_empty(), "{:?}: {:?}", subscriber.link, subscriber.begun);
            let next = self.first_after(subscriber, subscriber.seen.max(subscriber.incomplete_until));
            assert!(
                next.is_none() || self.may_skip_in_silence(subscriber, next),
                "a subscriber misses {next:?}"
            );
        }
        self.delivery.shrink_for_idle();
        self.delivery.check_sleep();
        assert_eq!(self.delivery.memory_bytes(), 0, "everybody has everything");
        if self.choices.one_in(2) {
            self.drain();
        }
        for slot in self.subscribers.keys().copied().collect::<Vec<_>>() {
            self.leave(slot);
        }
        self.work_off("after all subscribers left");
        assert!(self.delivery.is_empty() && self.delivery.audiences() == 0);
        assert_eq!(self.delivery.topics_read().count(), 0, "no topic without a reader is kept");
        assert_eq!(self.delivery.patterns_read().count(), 0, "no pattern without a reader is kept");
        self.log.trim(Duration::MAX, usize::MAX, &mut Vec::new());
        assert!(self.log.is_empty());
        self.log.check();
    }

    fn work_off(&mut self, when: &str) {
        for _ in 0..10_000 + 20 * self.subscribers.len() * (self.history.len() + 1) {
            if !self.delivery.has_work() && self.mail.is_empty() && self.delivery.laggards() == 0 {
                return;
            }
            self.turn();
        }
        panic!("the work does not come to an end {when}");
    }

    /// Everybody reads, so everybody gets a whole end.
    fn drain(&mut self) {
        self.draining = true;
        self.delivery.begin_drain(Duration::from_millis(50), self.now);
        for _ in 0..1000 + 100 * self.subscribers.len() {
            if self.subscribers.is_empty() {
                return;
            }
            self.now += Duration::from_millis(5);
            self.turn();
        }
        panic!("a drain does not come to an end");
    }

    // What a shard does.

    fn join(&mut self) {
        let subscription = self.menu[self.choices.below(self.menu.len())].clone();
        let asked = match self.choices.below(4) {
            0 => Some(EARLIEST.to_owned()),
            1 => Some(self.some_cursor().to_string()),
            _ => None,
        };
        let options = StreamOptions {
            gap_events: !self.choices.one_in(4),
            checkpoint: self.choices.pick(&[Checkpoint::Off, Checkpoint::Block]),
            heartbeat: self.choices.one_in(4).then(|| Deciseconds16::of(Duration::from_millis(700))),
        };
        let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
        let link = self.delivery.reserve();
        let start = asked.map(|id| log.log.resume(&id, subscription.selection()));
        let opened = self.delivery.open(subscription.clone(), start, &mut log).unwrap();
        let (seen, incomplete_until) = (opened.cursor, opened.incomplete_until);
        if let Some(Start::At { cursor, .. }) = start {
            assert!(cursor == incomplete_until && !opened.gap);
        }
        if self.choices.one_in(20) {
            return self.delivery.abandon(opened, &mut log);
        }
        self.next_socket += 1;
        let (socket, now) = (self.next_socket, self.now);
        let unsent = self.choices.one_in(3).then(|| Unsent::own(OPENING.into(), 0));
        let is_open = unsent.is_none();
        let subscriber = Subscriber {
            link,
            socket,
            subscription,
            stages: VecDeque::new(),
            options,
            room: None,
            is_blocked: !is_open,
            gone: false,
            begun: Vec::new(),
            not_taken: Vec::new(),
            seen,
            incomplete_until,
            is_uncertain: false,
            is_open,
            heard_at: now,
            ended: false,
        };
        assert!(self.subscribers.insert(link.slot, subscriber).is_none(), "a slot that is in use");
        self.delivery.begin(
            opened,
            NewStream { link, socket, options, lifetime: None, unsent },
            now,
            &mut log,
        );
        self.take_closed();
        if !is_open && self.subscribers.contains_key(&link.slot) && self.choices.one_in(2) {
            self.open_socket(link.slot);
        }
    }

    fn leave_some(&mut self) {
        if let Some(slot) = self.some_subscriber() {
            self.leave(slot);
        }
    }

    fn change_topics_of_some(&mut self) {
        let Some(slot) = self.some_subscriber() else { return };
        let other = match self.choices.below(3) {
            0 => self.choices.subscription(),
            _ => self.menu[self.choices.below(self.menu.len())].clone(),
        };
        let (topics, patterns) = (other.topics().to_vec(), other.patterns().to_vec());
        let (now, newest) = (self.now, self.log.newest());
        let subscriber = &self.subscribers[&slot];
        let (link, format) = (subscriber.link, subscriber.subscription.encoding().format);
        // The event that it is in the middle of is finished, whatever its topics are.
        let piece = [&subscriber.begun[..], &subscriber.not_taken].concat();
        let is_in =
            |event: &Arc<Frame>| !subscriber.begun.is_empty() && piece.starts_with(event.wire(format));
        let events = std::iter::successors(self.first_after(subscriber, subscriber.seen), |event| {
            self.first_after(subscriber, event.seq())
        });
        let in_event = events.take(100).find(|event| is_in(event)).map(|event| event.seq());
        let caught_up_to = self.mail.is_empty().then_some(newest);
        let changed = self.delivery.change_topics(
            link,
            topics.iter().cloned(),
            patterns.iter().cloned(),
            caught_up_to,
            now,
            &mut UnsharedLog { log: &mut self.log, shard: 0 },
        );
        assert_eq!(changed, Changed::Changed);
        self.take_closed();
        let Some(subscriber) = self.subscribers.get_mut(&slot) else { return };
        let before = subscriber.subscription.clone();
        // A gap that is told of already is one of the topics before.
        subscriber.is_uncertain |= self.limits.laggard_policy == LaggardPolicy::Skip;
        let after = before.with_selectors(topics.iter().cloned(), patterns.iter().cloned());
        let only = |subscription: &Subscription| {
            let stay = subscription.topics().iter().filter(|topic| topics.contains(topic)).cloned();
            let is_private = |topic: &Topic| subscription.has_private(topic) && after.has_private(topic);
            let of_topics = Subscription::with_private(stay, subscription.encoding(), is_private);
            let stay = subscription.patterns().iter().filter(|pattern| patterns.contains(pattern)).cloned();
            of_topics.with_patterns(stay, |pattern| {
                subscription.has_private_pattern(pattern) && after.has_private_pattern(pattern)
            })
        };
        let begun = in_event.map(|seq| (seq, subscriber.at(seq).clone()));
        for (_, subscription) in &mut subscriber.stages {
            *subscription = only(subscription);
        }
        if before != after && subscriber.stages.back().is_none_or(|(until, _)| *until < newest) {
            subscriber.stages.push_back((newest, only(&before)));
        }
        let passed = subscriber.seen;
        subscriber.stages.retain(|(until, _)| *until > passed);
        if subscriber.stages.len() > STAGES {
            subscriber.stages.pop_front();
        }
        if let Some(begun) = begun {
            let place = subscriber.stages.partition_point(|(until, _)| *until < begun.0);
            subscriber.stages.insert(place, begun);
        }
        subscriber.subscription = after;
    }

    fn leave(&mut self, slot: u32) {
        let link = self.subscribers[&slot].link;
        let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
        self.subscribers.get_mut(&slot).unwrap().gone = true;
        self.delivery.handle_gone(link, &mut log);
        // A notification that comes twice finds no stream.
        self.delivery.handle_gone(link, &mut log);
        self.take_closed();
        assert!(!self.subscribers.contains_key(&slot));
    }

    fn change_some_socket(&mut self) {
        let Some(slot) = self.some_subscriber() else { return };
        let link = self.subscribers[&slot].link;
        match self.choices.below(10) {
            0..5 => self.open_socket(slot),
            5..8 => {
                let room = self.choices.pick(&[0, 1, 30, 100, 1_000, 50_000]);
                self.subscribers.get_mut(&slot).unwrap().room = Some(room);
            }
            8 => {
                // Stale and spurious notifications.
                let generation = self.choices.below(3) as u32;
                self.delivery.handle_writable(LinkKey { generation, ..link });
                self.delivery.handle_writable(link);
            }
            _ => self.subscribers.get_mut(&slot).unwrap().gone = true,
        }
    }

    fn open_socket(&mut self, slot: u32) {
        let subscriber = self.subscribers.get_mut(&slot).unwrap();
        subscriber.room = None;
        if std::mem::take(&mut subscriber.is_blocked) {
            self.delivery.handle_writable(subscriber.link);
        }
    }

    fn publish_some(&mut self) {
        for _ in 0..1 + self.choices.below(4) {
            let mut event = Event::new(self.choices.topic()).with_private(self.choices.one_in(4));
            for _ in 0..self.choices.below(3) {
                event = event.with_topic(self.choices.topic()).unwrap();
            }
            if self.choices.one_in(3) {
                event = event.with_id(EventId::new(format!("own-{}", self.choices.below(4))).unwrap());
            }
            let size = self.choices.pick(&[0, 10, 10, 100, 100, 700, 40_000]);
            // Numbers rise and have holes.
            let seq = self.log.newest() + self.choices.pick(&[1, 1, 1, 7]);
            let id = self.cursor(seq).to_string();
            let data = format!("{seq}{}", "x".repeat(size));
            let frame = Arc::new(Frame::encode(seq, &id, event.with_data(data), self.now));
            self.log.append(Arc::clone(&frame), self.now, &mut Vec::new());
            if !self.log.shards_reading(frame.topics()).is_empty() {
                self.mail.push_back(Arc::clone(&frame));
            }
            self.history.push(frame);
        }
    }

    /// One tick.
    fn turn(&mut self) {
        let mut half = self.budgets.marks.div_ceil(2);
        self.delivery.mark(&mut half);
        let mut marks = self.budgets.marks / 2 + half;
        let late = if self.draining { 0 } else { self.choices.below(4) };
        while marks > 0 && self.mail.len() > late && !self.delivery.is_backlogged() {
            let frame = self.mail.pop_front().unwrap();
            self.delivery.handle_event(frame, &mut marks);
        }
        let caught_up_to = self.mail.is_empty().then_some(self.log.newest());
        let now = self.now;
        let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
        self.delivery.handle_timeout(now, caught_up_to, &mut log);
        self.take_closed();
        let mut budget = self.delivery.budget();
        for _ in 0.. {
            let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
            let Some(batch) = self.delivery.poll_send(now, &mut budget, &mut log) else { break };
            assert!(!batch.bytes.is_empty() && !batch.sockets.is_empty(), "an empty batch");
            let (bytes, sockets) = (batch.bytes.to_vec(), batch.sockets.to_vec());
            let mut failures: Vec<SendFailure> = Vec::new();
            for (index, &socket) in sockets.iter().enumerate() {
                failures.extend(self.send(index, socket, &bytes));
            }
            if self.choices.one_in(2) {
                failures.reverse();
            }
            let mut log = UnsharedLog { log: &mut self.log, shard: 0 };
            self.delivery.handle_sent(failures, now, &mut log);
            self.take_closed();
        }
        self.take_closed();
        assert!(!self.delivery.is_backlogged() || self.delivery.has_work(), "backlogged for ever");
    }

    fn take_closed(&mut self) {
        while let Some(Closed { socket, link, reason, finish, .. }) = self.delivery.poll_closed() {
            let subscriber = self.subscribers.remove(&link.slot).unwrap();
            assert_eq!((subscriber.socket, subscriber.link), (socket, link));
            let may_be = match reason {
                CloseReason::PeerLeft => subscriber.gone,
                CloseReason::LaggardFull => self.may_be_over_a_bound(&subscriber),
                CloseReason::LaggardStalled => {
                    subscriber.is_blocked && self.now - subscriber.heard_at >= self.limits.laggard_time
                }
                CloseReason::Aged | CloseReason::Expired | CloseReason::Disconnected => false,
                CloseReason::Drained => {
                    let next =
                        self.first_after(&subscriber, subscriber.seen.max(subscriber.incomplete_until));
                    self.draining && (next.is_none() || self.may_skip_in_silence(&subscriber, next))
                }
                reason => panic!("nothing here ends a stream as {reason:?}"),
            };
            let next = self.first_after(&subscriber, subscriber.seen).map(|next| next.seq());
            let available_after = self.available_after(&subscriber);
            assert!(
                may_be,
                "{link:?} was closed as {reason:?}: has {}, needs {next:?}, available after {available_after}, begun {}, \
                 {:?}",
                subscriber.seen,
                subscriber.begun.len(),
                self.limits.laggard_policy
            );
            assert!(finish || reason != CloseReason::Drained);
            assert!(subscriber.gone || !finish || subscriber.ended, "the end was sent");
        }
    }

    /// The log has dropped something that it needs, or links have begun more than they may.
    fn may_be_over_a_bound(&self, subscriber: &Subscriber) -> bool {
        let available_after = self.available_after(subscriber);
        let misses =
            self.first_after(subscriber, subscriber.seen).is_some_and(|next| next.seq() <= available_after);
        let lost = misses && self.limits.laggard_policy == LaggardPolicy::Disconnect;
        // A stream in the middle of a change of its topics does not skip, and needs a log that has dropped
        // nothing since.
        let lost = lost
            || subscriber.stages.iter().any(|(until, subscription)| {
                let selection = subscription.selection();
                let is_under_way = *until > subscriber.seen && !selection.is_empty();
                is_under_way && self.log.available_after(selection) > subscriber.seen
            });
        // A gap event is begun, too.
        let has_begun =
            !subscriber.begun.is_empty() || !subscriber.is_open || subscriber.is_blocked || misses;
        lost || (has_begun && self.limits.laggard_bytes < 1_000_000)
    }

    // The network, and what its subscribers must see.

    fn send(&mut self, index: usize, socket: i32, bytes: &[u8]) -> Option<SendFailure> {
        let now = self.now;
        let subscriber =
            self.subscribers.values_mut().find(|subscriber| subscriber.socket == socket).expect("a socket");
        assert!(!subscriber.ended, "nothing comes after the end of a stream");
        if subscriber.gone {
            return Some(SendFailure { index, sent: 0, is_gone: true });
        }
        let sent = subscriber.room.unwrap_or(usize::MAX).min(bytes.len());
        subscriber.room = subscriber.room.map(|room| room - sent);
        subscriber.begun.extend_from_slice(&bytes[..sent]);
        if sent > 0 {
            subscriber.heard_at = now;
        }
        subscriber.is_blocked = sent < bytes.len();
        subscriber.not_taken = bytes[sent..].to_vec();
        let slot = subscriber.link.slot;
        self.read(slot);
        (sent < bytes.len()).then_some(SendFailure { index, sent, is_gone: false })
    }

    /// Compares what a subscriber got with the list: whole pieces are done with, the rest must be the
    /// beginning of what may come next.
    fn read(&mut self, slot: u32) {
        let mut subscriber = self.subscribers.remove(&slot).unwrap();
        while !subscriber.begun.is_empty() && self.read_piece(&mut subscriber) {}
        self.subscribers.insert(slot, subscriber);
    }

    /// Takes one whole piece off. False where there is none yet.
    fn read_piece(&self, subscriber: &mut Subscriber) -> bool {
        let format = subscriber.subscription.encoding().format;
        if !subscriber.is_open {
            let taken = take_off(&mut subscriber.begun, OPENING);
            assert!(taken != Match::Other, "something came before the opening");
            subscriber.is_open |= taken == Match::Whole;
            return subscriber.is_open;
        }
        // Of incomplete history, what is left comes.
        let mut next = self.first_after(subscriber, subscriber.seen).cloned();
        while let Some(left_out) = next.as_ref().filter(|it| it.seq() <= subscriber.incomplete_until) {
            if matches_beginning(&subscriber.begun, left_out.wire(format)) {
                break;
            }
            next = self.first_after(subscriber, left_out.seq()).cloned();
        }
        if let Some(next) = &next {
            match take_off(&mut subscriber.begun, next.wire(format)) {
                Match::Whole => {
                    subscriber.seen = next.seq();
                    return true;
                }
                Match::Beginning => return false,
                Match::Other => {}
            }
        }
        if self.may_skip_in_silence(subscriber, next.as_ref()) && !starts_a_block(&subscriber.begun, format) {
            return self.read_behind_a_skip(subscriber, format);
        }
        match take_off(&mut subscriber.begun, heartbeat(self.limits.heartbeat_form, format)) {
            Match::Whole => return true,
            Match::Beginning => return false,
            Match::Other => {}
        }
        self.read_block(subscriber, format)
    }

    /// A subscriber that does not want to be told of gaps loses what the log has dropped without a sign.
    fn may_skip_in_silence(&self, subscriber: &Subscriber, next: Option<&Arc<Frame>>) -> bool {
        let available_after = self.available_after(subscriber);
        self.limits.laggard_policy == LaggardPolicy::Skip
            && !subscriber.options.gap_events
            && next.is_some_and(|next| next.seq() <= available_after)
    }

    /// What came is a later event, and all before it were dropped by the log.
    fn read_behind_a_skip(&self, subscriber: &mut Subscriber, format: WireFormat) -> bool {
        let mut seq = subscriber.seen;
        while let Some(next) = self.first_after(subscriber, seq) {
            match take_off(&mut subscriber.begun, next.wire(format)) {
                Match::Whole => {
                    subscriber.seen = next.seq();
                    return true;
                }
                Match::Beginning => return false,
                Match::Other => {
                    let available_after = self.available_at(subscriber, next.seq());
                    assert!(next.seq() <= available_after, "{} was left out", next.seq());
                    seq = next.seq();
                }
            }
        }
        panic!("no event for {:?}: {:?}", subscriber.link, subscriber.begun);
    }

    /// A checkpoint, a gap, or the end of the stream.
    fn read_block(&self, subscriber: &mut Subscriber, format: WireFormat) -> bool {
        let Some((body, length)) = block(&subscriber.begun, format) else { return false };
        let body = body.to_owned();
        subscriber.begun.drain(..length);
        if body.starts_with("retry: ") {
            subscriber.ended = true;
            if format == WireFormat::Chunked && subscriber.begun.len() == 5 {
                assert_eq!(subscriber.begun, b"0\r\n\r\n");
                subscriber.begun.clear();
            }
            assert!(self.draining, "a stream ends");
            return true;
        }
        let id = body.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id");
        let cursor = Cursor::parse(id).expect("a cursor");
        let available_after = self.available_after(subscriber);
        let complete_after = subscriber.seen.max(subscriber.incomplete_until);
        if body.starts_with("event: fanfare.gap\n") {
            assert!(subscriber.options.gap_events && self.limits.laggard_policy == LaggardPolicy::Skip);
            let missing = self.first_after(subscriber, complete_after);
            let is_one = missing.is_some_and(|missing| missing.seq() <= available_after);
            assert!(is_one || subscriber.is_uncertain, "a gap that is none");
            // It was written some time ago: what it names as complete tells what was gone then.
            let until = match body.split_once(r#""before":""#).and_then(|(_, rest)| rest.split_once('"')) {
                Some((id, _)) => {
                    let (seq, is_certain) = self.seq_of(id, subscriber);
                    subscriber.is_uncertain = !is_certain;
                    seq - 1
                }
                None => {
                    subscriber.is_uncertain = true;
                    available_after
                }
            };
            assert!(
                cursor.seq >= subscriber.seen && (cursor.seq <= until || subscriber.is_uncertain),
                "the gap goes on at {}",
                cursor.seq
            );
            (subscriber.seen, subscriber.incomplete_until) = (cursor.seq, until);
        } else {
            assert_eq!(
                &body[..body.len().min(80)],
                format!("id: {id}\n\n"),
                "{:?} has {} and needs {:?}",
                subscriber.link,
                subscriber.seen,
                self.first_after(subscriber, subscriber.seen).map(|next| next.seq())
            );
            assert!(subscriber.options.checkpoint != Checkpoint::Off, "a checkpoint that was not asked for");
            let missing = self.first_after(subscriber, complete_after);
            let in_silence = self.may_skip_in_silence(subscriber, missing);
            let missing = if in_silence { self.first_after(subscriber, available_after) } else { missing };
            assert!(
                missing.is_none_or(|missing| missing.seq() > cursor.seq),
                "a checkpoint at {} before {:?} was sent",
                cursor.seq,
                subscriber.seen
            );
            subscriber.seen = subscriber.seen.max(cursor.seq);
        }
        true
    }

    /// The last event that a subscriber knows by this id and that may be the first behind a gap, and whether
    /// it is the only one: ids are used again.
    fn seq_of(&self, id: &str, subscriber: &Subscriber) -> (u64, bool) {
        if let Some(cursor) = Cursor::parse(id) {
            return (cursor.seq, true);
        }
        let available_after = self.available_after(subscriber);
        let (mut before, mut found, mut count) = (subscriber.seen, None, 0);
        while before <= available_after
            && let Some(frame) = self.first_after(subscriber, before)
        {
            if frame.own_id() == Some(id) {
                (found, count) = (Some(frame.seq()), count + 1);
            }
            before = frame.seq();
        }
        let found = found.unwrap_or_else(|| {
            assert!(subscriber.is_uncertain, "no event has the id {id}");
            available_after + 1
        });
        (found, count == 1)
    }

    /// The log has every event for the subscriber after this number, up to the next change of its topics.
    fn available_after(&self, subscriber: &Subscriber) -> u64 {
        let next = self.first_after(subscriber, subscriber.seen).map_or(u64::MAX, |next| next.seq());
        self.available_at(subscriber, next)
    }

    /// The same for the topics that it has of the event with this number.
    fn available_at(&self, subscriber: &Subscriber, seq: u64) -> u64 {
        let available_after = self.log.available_after(subscriber.at(seq).selection());
        let until = subscriber.stages.iter().map(|(until, _)| *until).find(|until| *until >= seq);
        until.map_or(available_after, |until| available_after.min(until))
    }

    fn first_after(&self, subscriber: &Subscriber, seq: u64) -> Option<&Arc<Frame>> {
        let at = self.history.partition_point(|frame| frame.seq() <= seq);
        self.history[at..].iter().find(|frame| subscriber.at(frame.seq()).wants(frame))
    }

    // What must hold after each step.

    /// Streams, audiences and laggards agree with each other, and with the log.
    pub(crate) fn check(&self) {
        self.delivery.check();
        self.log.check();
        let mut read: Vec<&Topic> = self.delivery.topics_read().collect();
        read.sort();
        let mut wanted: Vec<&Topic> =
            self.subscribers.values().flat_map(|it| it.subscription.topics()).collect();
        wanted.sort();
        wanted.dedup();
        let later = self.delivery.is_removing();
        let is_right = read == wanted || (later && wanted.iter().all(|topic| read.contains(topic)));
        assert!(is_right, "the topics that the shard has registered for: {read:?}, and not {wanted:?}");
        for topic in read {
            assert!(
                !self.log.shards_reading(std::slice::from_ref(topic)).is_empty(),
                "{topic} is not registered"
            );
        }
        let mut read: Vec<&Pattern> = self.delivery.patterns_read().collect();
        read.sort();
        let mut patterns: Vec<&Pattern> =
            self.subscribers.values().flat_map(|it| it.subscription.patterns()).collect();
        patterns.sort();
        patterns.dedup();
        let is_right = read == patterns || (later && patterns.iter().all(|pattern| read.contains(pattern)));
        assert!(is_right, "the patterns that the shard has registered for: {read:?}, and not {patterns:?}");
        assert_eq!(self.log.pattern_readers(), read.len(), "patterns that are read in the log");
        for topic in wanted {
            let subscribers =
                self.subscribers.values().filter(|it| it.subscription.topics().contains(topic)).count();
            assert_eq!(self.delivery.topic(topic).map(|(streams, _)| streams), Some(subscribers), "{topic}");
        }
    }

    fn cursor(&self, seq: u64) -> Cursor {
        Cursor { epoch: self.epoch, seq }
    }

    /// Near the newest event, and sometimes beyond it.
    fn some_cursor(&mut self) -> Cursor {
        let back = self.choices.below(30) as u64;
        self.cursor((self.log.newest() + 1).saturating_sub(back))
    }

    fn some_subscriber(&mut self) -> Option<u32> {
        let index = self.choices.below(self.subscribers.len().max(1));
        self.subscribers.keys().nth(index).copied()
    }
}
