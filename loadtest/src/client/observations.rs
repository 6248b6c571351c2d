//! What a worker writes down, and how what several have written down is added up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ids::{self, EventId, IdFigures};
use super::series::Series;
use super::subscriber::{Account, NOTHING_OWED, OtherTopic, State, Subscriber};
use super::{Plan, SeenSoFar, transfer};
use crate::clock;
use crate::distributed::Offset;
use crate::failure::excerpt;
use crate::sequence::{Faults, Seen};
use crate::sse::{Event, Sink};
use crate::stamp::{self, Stamp};

/// Durations in nanoseconds.
pub(crate) type Timings = Histogram<u64>;

const HOUR: u64 = 3_600 * clock::SECOND;

/// An empty histogram from a microsecond on with three digits. It grows with what is recorded: an hour at
/// once would be 200 kilobytes, three times per client thread.
pub(crate) fn timings() -> Timings {
    digits(3)
}

/// The same with two digits and an eighth of the memory: for what is counted by every thread and no promise.
pub(super) fn coarse_timings() -> Timings {
    digits(2)
}

fn digits(digits: u8) -> Timings {
    let mut timings = Histogram::new_with_bounds(1_000, clock::MILLISECOND, digits)
        .unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
    timings.auto(true);
    timings
}

/// Records a duration; what is above an hour counts as an hour.
pub(crate) fn record(timings: &mut Timings, ns: u64) {
    // It grows as far as an hour, so this cannot fail.
    let _ = timings.record(ns.min(HOUR));
}

/// Beyond so many topics an event's last subscriber is not looked for: there are few per topic then.
const TOPICS_WATCHED: u32 = 16;
/// Events whose last subscriber is looked for, per topic.
pub(crate) const EVENTS_WATCHED: u64 = 2_000_000;
/// Names of events that are told apart.
const NAMES: usize = 16;
/// A comment that comes sooner after the response head belongs to the answer and is no heartbeat.
const GREETING: u64 = clock::SECOND;
/// A number so far above what is known to be published is none: on another machine that is known a little
/// later.
const AHEAD: u64 = 1 << 20;
/// Kinds of errors that are told apart: a server that breaks each stream in another way has no end of them.
const KINDS: usize = 32;
/// The unit of the times that a subscriber keeps in four bytes: 0.1 ms, so that they last for 119 hours.
const TICK: u64 = clock::MILLISECOND / 10;

/// The deliveries of one event.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spread {
    pub(crate) deliveries: u32,
    /// From the intended time to the last of them.
    pub(crate) last_ns: u64,
    /// The id that it had at its first delivery.
    pub(crate) id: EventId,
}

/// Everything that was seen. It can be sent to another machine; the spreads go by themselves.
#[derive(Serialize, Deserialize)]
pub(crate) struct Observations {
    /// Per phase and group: `phase * groups + group`.
    #[serde(with = "transfer::several")]
    pub(crate) latency: Vec<Timings>,
    /// Per group.
    pub(crate) faults: Vec<Faults>,
    /// Per watched topic, per sequence number.
    #[serde(skip)]
    pub(crate) spreads: Vec<Vec<Spread>>,
    /// Deliveries, repeated ones not counted.
    pub(crate) deliveries: u64,
    /// Deliveries that were measured.
    pub(crate) measured: u64,
    /// First intended time and last arrival among the measured, on the publisher's clock.
    pub(crate) first_intended: u64,
    pub(crate) last_intended: u64,
    pub(crate) last_arrival: u64,
    /// From the start of a connect to the end of the response head.
    #[serde(with = "transfer")]
    pub(crate) opening: Timings,
    pub(crate) opened: u64,
    /// Streams that ended without our doing; of these, in the middle of something.
    pub(crate) ended: u64,
    pub(crate) cut: u64,
    /// Streams opened again after that.
    pub(crate) reopened: u64,
    /// Streams that were open when the run was over.
    pub(crate) open_at_end: u64,
    /// Streams that were asked for with `Last-Event-ID`.
    pub(crate) resumed: u64,
    /// Missed by subscribers that had left on purpose.
    pub(crate) missed_away: u64,
    /// Events with data of another kind, and events of other runs.
    pub(crate) foreign: u64,
    pub(crate) bytes: u64,
    /// Comments that came a while after their stream was open.
    pub(crate) heartbeats: u64,
    /// Streams, open when the run was over, that had one.
    pub(crate) with_heartbeat: u64,
    /// The longest time that a stream was open without a byte.
    pub(crate) longest_silence: u64,
    /// Streams, open when the run was over, that were once silent for longer than a heartbeat may take.
    pub(crate) silent: u64,
    pub(crate) ids: IdFigures,
    /// `event` fields by name, the first ones.
    pub(crate) names: BTreeMap<String, u64>,
    /// What went wrong, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// What the transport counted below the streams.
    pub(crate) below: BTreeMap<String, u64>,
    pub(crate) series: Series,
    /// Of events that are not this run's: from the request to the first one of a stream, from one to the
    /// next, and, where a stream ended, from the request to the last one.
    #[serde(with = "transfer")]
    pub(crate) first_event: Timings,
    #[serde(with = "transfer")]
    pub(crate) gap: Timings,
    #[serde(with = "transfer")]
    pub(crate) last_event: Timings,
    pub(crate) threads: Vec<ThreadObservations>,
}

/// How a client thread fared in the measured window.
#[derive(Serialize, Deserialize)]
pub(crate) struct ThreadObservations {
    /// Processor time used in the window.
    pub(crate) cpu_ns: u64,
    /// How long a batch of notifications kept the loop: what came meanwhile waited so long at most.
    #[serde(with = "transfer")]
    pub(crate) loop_delay: Timings,
}

/// The id of a delivery.
#[derive(Clone, Copy)]
enum NamedBy<'a> {
    None,
    /// The second one is that of the event before in the stream.
    Its(&'a [u8], &'a [u8]),
    /// The event has several of its topic, and its id is that of the last one.
    Later,
}

/// What a worker writes its observations with.
pub(crate) struct Recorder {
    pub(super) observations: Observations,
    groups: usize,
    run: u32,
    /// On this machine's clock.
    start: u64,
    /// To the publisher's clock.
    offset: Arc<Offset>,
    phases: Vec<u64>,
    /// How many events of each topic were published so far.
    published: Arc<Vec<AtomicU64>>,
    watched: u32,
    /// Other events than this run's are judged, too.
    listens: bool,
    /// The silence, in nanoseconds, that is too long.
    silence: u64,
    /// The group that stalls on purpose.
    stalls: Option<u8>,
    stamps: Vec<Stamp>,
    /// The last id that was looked at, because the next one is mostly the same.
    last_id: (Vec<u8>, EventId),
}

impl Recorder {
    pub(super) fn new(plan: &Plan) -> Recorder {
        let groups = plan.groups.len();
        let watched = if plan.topics() <= TOPICS_WATCHED { plan.topics() } else { 0 };
        Recorder {
            observations: Observations {
                latency: (0..groups * plan.phases.len()).map(|_| timings()).collect(),
                faults: vec![Faults::default(); groups],
                spreads: vec![Vec::new(); watched as usize],
                deliveries: 0,
                measured: 0,
                first_intended: u64::MAX,
                last_intended: 0,
                last_arrival: 0,
                opening: coarse_timings(),
                opened: 0,
                ended: 0,
                cut: 0,
                reopened: 0,
                open_at_end: 0,
                resumed: 0,
                missed_away: 0,
                foreign: 0,
                bytes: 0,
                heartbeats: 0,
                with_heartbeat: 0,
                longest_silence: 0,
                silent: 0,
                ids: IdFigures::default(),
                names: BTreeMap::new(),
                errors: BTreeMap::new(),
                below: BTreeMap::new(),
                series: Series::new(plan.start),
                first_event: coarse_timings(),
                gap: coarse_timings(),
                last_event: coarse_timings(),
                threads: Vec::new(),
            },
            groups,
            run: plan.run,
            start: clock::now(),
            offset: plan.offset.clone(),
            phases: plan.phases.clone(),
            published: plan.published.clone(),
            watched,
            listens: plan.listens,
            silence: plan.silence_ns,
            stalls: plan.stalls.map(|(group, _)| group),
            stamps: Vec::new(),
            last_id: (Vec::new(), EventId::default()),
        }
    }

    /// What there is so far.
    pub(super) fn seen(&self) -> SeenSoFar {
        let mut faults = Faults::default();
        self.observations.faults.iter().for_each(|group| faults.add(*group));
        SeenSoFar { latency: self.observations.latency_of_all(self.stalls, self.listens), faults }
    }

    /// The short form of a time for a subscriber; never zero.
    fn ticks(&self, now: u64) -> u32 {
        u32::try_from(now.saturating_sub(self.start) / TICK + 1).unwrap_or(u32::MAX)
    }

    /// Something came on a stream, or its silence ends in another way.
    pub(super) fn heard(&mut self, subscriber: &mut Subscriber, now: u64) {
        let ticks = self.ticks(now);
        if subscriber.state == State::Open && subscriber.heard > 0 {
            let silence = u64::from(ticks.saturating_sub(subscriber.heard)) * TICK;
            self.observations.longest_silence = self.observations.longest_silence.max(silence);
            subscriber.was_silent |= silence > self.silence;
        }
        subscriber.heard = ticks;
    }

    /// Adds what the transport counted below the streams. What it never saw is left out.
    pub(super) fn counted_by_transport(&mut self, counts: Vec<(&'static str, u64)>) {
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            *self.observations.below.entry(what.to_owned()).or_default() += count;
        }
    }

    /// What went wrong is counted by its kind.
    pub(super) fn error(&mut self, kind: impl Into<String>) {
        count_kind(&mut self.observations.errors, kind.into());
    }

    /// A stream has ended as it should: its last event was the last one.
    pub(super) fn stream_over(&mut self, subscriber: &Subscriber) {
        if subscriber.event_at > 0 {
            let at = self.start + u64::from(subscriber.event_at) * TICK;
            record(&mut self.observations.last_event, at.saturating_sub(subscriber.started));
        }
    }

    /// Closes a subscriber's account: what it was owed of the events published to its topics is there or
    /// lost.
    pub(super) fn settle(&mut self, subscriber: &mut Subscriber, published: impl Fn(u32) -> u64) {
        self.observations.faults[usize::from(subscriber.group)].lost += subscriber.lost(published);
        for account in subscriber.accounts() {
            if *account.skips && *account.owed_from != NOTHING_OWED {
                self.observations.missed_away += account.sequence.skip_to(u64::from(*account.owed_from));
            }
        }
    }

    /// A server that sends an event that was not published, with a number of its own, changes it.
    pub(super) fn take_back_invented(&mut self, subscriber: &mut Subscriber, published: impl Fn(u32) -> u64) {
        self.observations.faults[usize::from(subscriber.group)].damaged += subscriber.invented(published);
    }

    /// The run is over for a subscriber that is there.
    pub(super) fn at_end(&mut self, subscriber: &mut Subscriber, now: u64) {
        if subscriber.state != State::Open {
            return;
        }
        self.heard(subscriber, now);
        self.observations.open_at_end += 1;
        self.observations.with_heartbeat += u64::from(subscriber.had_heartbeat);
        self.observations.silent += u64::from(subscriber.was_silent);
    }

    fn id_of(&mut self, id: &[u8]) -> EventId {
        if self.last_id.0 != id {
            self.last_id.0.clear();
            self.last_id.0.extend_from_slice(id);
            self.last_id.1 = EventId::of(id);
        }
        self.last_id.1
    }

    fn name(&mut self, name: &[u8]) {
        let names = &mut self.observations.names;
        // Nearly always it is there as it came, and no text has to be made.
        if let Some(count) = std::str::from_utf8(name).ok().and_then(|name| names.get_mut(name)) {
            *count += 1;
            return;
        }
        let shown = excerpt(name);
        if let Some(count) = names.get_mut(&shown) {
            *count += 1;
        } else if names.len() < NAMES {
            names.insert(shown, 1);
        }
    }

    fn delivery(&mut self, subscriber: &mut Place<'_>, stamp: &Stamp, id: NamedBy<'_>, now: u64) {
        if stamp.run != self.run {
            self.observations.foreign += 1;
            return;
        }
        let is_watched = stamp.topic < self.watched && stamp.sequence < EVENTS_WATCHED;
        let event_id = match id {
            NamedBy::Its(id, _) if is_watched => Some(self.id_of(id)),
            _ => None,
        };
        let arrived = self.offset.translate(now);
        let observations = &mut self.observations;
        let faults = &mut observations.faults[usize::from(subscriber.group)];
        let Some(account) = subscriber.account_of(stamp.topic) else {
            faults.misrouted += 1;
            return;
        };
        let published = self.published[stamp.topic as usize].load(Ordering::Relaxed);
        let is_ahead = stamp.sequence >= published.saturating_add(AHEAD);
        if is_ahead || stamp.intended > arrived.saturating_add(clock::SECOND) {
            // No such event was published, whatever its checksum says.
            faults.damaged += 1;
            return;
        }
        let owed_from = u64::from(*account.owed_from);
        if *account.joins {
            *account.joins = false;
            account.sequence.start_at(stamp.sequence.min(owed_from));
        }
        if *account.skips {
            *account.skips = false;
            observations.missed_away += account.sequence.skip_to(stamp.sequence.min(owed_from));
        }
        match account.sequence.see(stamp.sequence) {
            Seen::New => {}
            Seen::Late => faults.out_of_order += 1,
            Seen::Again => {
                faults.doubled += 1;
                return;
            }
        }
        observations.deliveries += 1;
        match id {
            NamedBy::None => observations.ids.without += 1,
            NamedBy::Its(..) | NamedBy::Later => observations.ids.with += 1,
        }
        let latency = arrived.saturating_sub(stamp.intended);
        if is_watched {
            let spreads = &mut observations.spreads[stamp.topic as usize];
            let index = stamp.sequence as usize;
            if spreads.len() <= index {
                spreads.resize(index + 1, Spread::default());
            }
            if let Some(id) = event_id {
                let known = &mut spreads[index].id;
                if known.is_none() {
                    *known = id;
                } else if *known != id {
                    observations.ids.differing += 1;
                }
            }
        }
        if let NamedBy::Its(id, before) = id
            && !is_watched
            && subscriber.others.is_empty()
            && id == before
        {
            // Of so many topics not all ids are kept: one is compared with that of the event before.
            observations.ids.repeated += 1;
        }
        let Some(phase) = self.phases.iter().rposition(|&first| stamp.sequence >= first) else { return };
        record(&mut observations.latency[phase * self.groups + usize::from(subscriber.group)], latency);
        observations.measured += 1;
        observations.first_intended = observations.first_intended.min(stamp.intended);
        observations.last_intended = observations.last_intended.max(stamp.intended);
        observations.last_arrival = observations.last_arrival.max(arrived);
        if self.stalls != Some(subscriber.group) {
            observations.series.delivery(stamp.intended, latency, arrived);
        }
        if is_watched {
            let spread = &mut observations.spreads[stamp.topic as usize][stamp.sequence as usize];
            spread.deliveries += 1;
            spread.last_ns = spread.last_ns.max(latency);
        }
    }

    /// An event of the server's own, in a run that listens: it is judged by its id, where it has one.
    fn others_event(&mut self, subscriber: &mut Place<'_>, event: &Event<'_>, now: u64) {
        let ticks = self.ticks(now);
        let observations = &mut self.observations;
        let faults = &mut observations.faults[usize::from(subscriber.group)];
        match event.id {
            Some(id) => {
                observations.ids.with += 1;
                match ids::step(event.id_before.as_bytes(), id) {
                    ids::Step::On => {}
                    ids::Step::Again => faults.doubled += 1,
                    ids::Step::Back => faults.out_of_order += 1,
                }
            }
            None => observations.ids.without += 1,
        }
        match *subscriber.event_at {
            0 => record(&mut observations.first_event, now.saturating_sub(subscriber.started)),
            before => record(&mut observations.gap, u64::from(ticks.saturating_sub(before)) * TICK),
        }
        *subscriber.event_at = ticks;
        observations.deliveries += 1;
        observations.measured += 1;
        let arrived = self.offset.translate(now);
        observations.first_intended = observations.first_intended.min(arrived);
        observations.last_arrival = observations.last_arrival.max(arrived);
        observations.series.arrived(arrived);
    }
}

/// The part of a subscriber that a delivery touches; the rest is in use by the parser meanwhile.
pub(super) struct Place<'a> {
    /// Of the stream's first topic.
    pub(super) first: Account<'a>,
    /// The other topics of the stream, in order.
    pub(super) others: &'a mut [OtherTopic],
    pub(super) group: u8,
    pub(super) started: u64,
    pub(super) event_at: &'a mut u32,
    pub(super) had_heartbeat: &'a mut bool,
}

impl Place<'_> {
    /// What is known of a topic; `None`: the subscriber has not asked for it.
    fn account_of(&mut self, topic: u32) -> Option<Account<'_>> {
        if topic == self.first.topic {
            let Account { topic, sequence, joins, skips, owed_from } = &mut self.first;
            return Some(Account { topic: *topic, sequence, joins, skips, owed_from });
        }
        let place = self.others.binary_search_by_key(&topic, |other| other.topic).ok()?;
        self.others.get_mut(place).map(OtherTopic::account)
    }
}

/// What a subscriber's parser gives its events to during one read; all it reads arrived at `now`.
pub(super) struct DeliverySink<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) place: Place<'a>,
    pub(super) now: u64,
}

impl Sink for DeliverySink<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if !event.name.is_empty() {
            self.recorder.name(event.name);
        }
        if self.recorder.listens {
            // Nothing is published, so no event is this run's, whatever its data looks like.
            self.recorder.observations.foreign += 1;
            self.recorder.others_event(&mut self.place, event, self.now);
            return;
        }
        let mut stamps = std::mem::take(&mut self.recorder.stamps);
        let damaged = stamp::scan(event.data, &mut stamps);
        if stamps.is_empty() && damaged == 0 {
            self.recorder.observations.foreign += 1;
        }
        self.recorder.observations.faults[usize::from(self.place.group)].damaged += damaged;
        for (at, stamp) in stamps.iter().enumerate() {
            // A server that joins events has one id for them: it says that all up to the last one were there.
            let id = match event.id {
                None => NamedBy::None,
                Some(_) if stamps[at + 1..].iter().any(|later| later.topic == stamp.topic) => NamedBy::Later,
                Some(id) => NamedBy::Its(id, event.id_before.as_bytes()),
            };
            self.recorder.delivery(&mut self.place, stamp, id, self.now);
        }
        stamps.clear();
        self.recorder.stamps = stamps;
    }

    fn comment(&mut self) {
        if self.now.saturating_sub(self.place.started) >= GREETING {
            self.recorder.observations.heartbeats += 1;
            *self.place.had_heartbeat = true;
        }
    }
}

/// Counts an error by its kind, as long as there are few of them.
fn count_kind(errors: &mut BTreeMap<String, u64>, mut kind: String) {
    if errors.len() >= KINDS && !errors.contains_key(&kind) {
        "another error than those of the other lines".clone_into(&mut kind);
    }
    *errors.entry(kind).or_default() += 1;
}

fn add_counts(mine: &mut BTreeMap<String, u64>, theirs: BTreeMap<String, u64>) {
    for (name, count) in theirs {
        *mine.entry(name).or_default() += count;
    }
}

impl Observations {
    /// The latency of all measured deliveries but those to the group that stalls on purpose. In a run that
    /// listens it is the time between two events.
    pub(crate) fn latency_of_all(&self, stalls: Option<u8>, listens: bool) -> Timings {
        let mut all = timings();
        let groups = self.faults.len();
        for (index, part) in self.latency.iter().enumerate() {
            if stalls != Some((index % groups) as u8) {
                // It grows as far as the other, so adding cannot fail.
                let _ = all.add(part);
            }
        }
        if listens {
            let _ = all.add(&self.gap);
        }
        all
    }

    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: Observations) {
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            // It grows as far as the other, so adding cannot fail.
            let _ = mine.add(theirs);
        }
        for (mine, theirs) in [
            (&mut self.opening, &other.opening),
            (&mut self.first_event, &other.first_event),
            (&mut self.gap, &other.gap),
            (&mut self.last_event, &other.last_event),
        ] {
            let _ = mine.add(theirs);
        }
        for (mine, theirs) in self.faults.iter_mut().zip(&other.faults) {
            mine.add(*theirs);
        }
        self.ids.add(other.ids);
        for (mine, theirs) in self.spreads.iter_mut().zip(&other.spreads) {
            mine.resize(mine.len().max(theirs.len()), Spread::default());
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                mine.deliveries += theirs.deliveries;
                mine.last_ns = mine.last_ns.max(theirs.last_ns);
                if mine.id.is_none() {
                    mine.id = theirs.id;
                } else if !theirs.id.is_none() && mine.id != theirs.id {
                    self.ids.differing += 1;
                }
            }
        }
        self.deliveries += other.deliveries;
        self.measured += other.measured;
        self.first_intended = self.first_intended.min(other.first_intended);
        self.last_intended = self.last_intended.max(other.last_intended);
        self.last_arrival = self.last_arrival.max(other.last_arrival);
        self.opened += other.opened;
        self.ended += other.ended;
        self.cut += other.cut;
        self.reopened += other.reopened;
        self.open_at_end += other.open_at_end;
        self.resumed += other.resumed;
        self.missed_away += other.missed_away;
        self.foreign += other.foreign;
        self.bytes += other.bytes;
        self.heartbeats += other.heartbeats;
        self.with_heartbeat += other.with_heartbeat;
        self.longest_silence = self.longest_silence.max(other.longest_silence);
        self.silent += other.silent;
        add_counts(&mut self.names, other.names);
        add_counts(&mut self.errors, other.errors);
        add_counts(&mut self.below, other.below);
        self.series.add(&other.series);
        self.threads.extend(other.threads);
    }

    /// What was seen of ids, with what only all events of a topic together show.
    pub(crate) fn id_figures(&self) -> IdFigures {
        let mut figures = self.ids;
        for spreads in &self.spreads {
            let (repeated, falling) = ids::judge(spreads.iter().map(|spread| spread.id));
            figures.repeated += repeated;
            figures.falling += falling;
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that broke each of 200 streams in another way made 200 notes.
    #[test]
    fn kinds_of_errors_have_an_end() {
        let mut errors = BTreeMap::new();
        for number in 0..1_000 {
            count_kind(&mut errors, format!("the chunked body is broken at `{number}`"));
            count_kind(&mut errors, "a time-out".to_owned());
        }
        assert_eq!(errors.len(), KINDS + 1);
        assert_eq!((errors["a time-out"], errors.values().sum::<u64>()), (1_000, 2_000));
    }
}
