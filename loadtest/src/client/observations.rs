//! What a worker writes down, and how what several have written down is added up.

use hdrhistogram::Histogram;

use super::Plan;
use super::subscriber::{NOTHING_OWED, Subscriber};
use crate::clock;
use crate::sequence::{Faults, Seen};
use crate::sse::Sink;
use crate::stamp::Stamp;

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
const EVENTS_WATCHED: u64 = 2_000_000;

/// The deliveries of one event.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spread {
    pub(crate) deliveries: u32,
    /// From the intended time to the last of them.
    pub(crate) last_ns: u64,
}

/// Everything that was seen.
pub(crate) struct Observations {
    /// Per phase and group: `phase * groups + group`.
    pub(crate) latency: Vec<Timings>,
    /// Per group.
    pub(crate) faults: Vec<Faults>,
    /// Per watched topic, per sequence number.
    pub(crate) spreads: Vec<Vec<Spread>>,
    /// Deliveries, repeated ones not counted.
    pub(crate) deliveries: u64,
    /// Deliveries that were measured.
    pub(crate) measured: u64,
    /// First intended time and last arrival among the measured.
    pub(crate) first_intended: u64,
    pub(crate) last_arrival: u64,
    /// From the start of a connect to the end of the response head.
    pub(crate) opening: Timings,
    pub(crate) opened: u64,
    /// Streams that ended without our doing; of these, in the middle of something.
    pub(crate) ended: u64,
    pub(crate) cut: u64,
    /// Streams opened again after that.
    pub(crate) reopened: u64,
    /// Missed by subscribers that had left on purpose.
    pub(crate) missed_away: u64,
    /// Events with data of another kind, and events of other runs.
    pub(crate) foreign: u64,
    pub(crate) bytes: u64,
    pub(crate) threads: Vec<ThreadObservations>,
}

/// How a client thread fared in the measured window.
pub(crate) struct ThreadObservations {
    /// Processor time used since the window began.
    pub(crate) cpu_ns: u64,
    /// How long a batch of notifications kept the loop: what came meanwhile waited so long at most.
    pub(crate) loop_delay: Timings,
}

/// A worker's recorder.
pub(crate) struct Recorder {
    pub(super) observations: Observations,
    groups: usize,
    run: u32,
    phases: Vec<u64>,
    watched: u32,
    /// Behind the highest number that anybody got, of whatever topic.
    pub(super) reached: u64,
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
                last_arrival: 0,
                opening: coarse_timings(),
                opened: 0,
                ended: 0,
                cut: 0,
                reopened: 0,
                missed_away: 0,
                foreign: 0,
                bytes: 0,
                threads: Vec::new(),
            },
            groups,
            run: plan.run,
            phases: plan.phases.clone(),
            watched,
            reached: 0,
        }
    }

    /// Closes a subscriber's account: what it was owed of the first `published` events of its topic is there
    /// or lost.
    pub(super) fn settle(&mut self, subscriber: &mut Subscriber, published: u64) {
        self.observations.faults[usize::from(subscriber.group)].lost += subscriber.lost(published);
        if subscriber.skips && subscriber.owed_from != NOTHING_OWED {
            self.observations.missed_away += subscriber.sequence.skip_to(u64::from(subscriber.owed_from));
        }
    }

    fn delivery(&mut self, subscriber: &mut Place<'_>, stamp: &Stamp, now: u64) {
        let observations = &mut self.observations;
        if stamp.run != self.run {
            observations.foreign += 1;
            return;
        }
        let faults = &mut observations.faults[usize::from(subscriber.group)];
        if stamp.topic != subscriber.topic {
            faults.misrouted += 1;
            return;
        }
        let owed_from = u64::from(subscriber.owed_from);
        if *subscriber.joins {
            *subscriber.joins = false;
            subscriber.sequence.start_at(stamp.sequence.min(owed_from));
        }
        if *subscriber.skips {
            *subscriber.skips = false;
            observations.missed_away += subscriber.sequence.skip_to(stamp.sequence.min(owed_from));
        }
        match subscriber.sequence.see(stamp.sequence) {
            Seen::New => {}
            Seen::Late => faults.out_of_order += 1,
            Seen::Again => {
                faults.doubled += 1;
                return;
            }
        }
        observations.deliveries += 1;
        self.reached = self.reached.max(stamp.sequence + 1);
        let Some(phase) = self.phases.iter().rposition(|&first| stamp.sequence >= first) else { return };
        let latency = now.saturating_sub(stamp.intended);
        record(&mut observations.latency[phase * self.groups + usize::from(subscriber.group)], latency);
        observations.measured += 1;
        observations.first_intended = observations.first_intended.min(stamp.intended);
        observations.last_arrival = observations.last_arrival.max(now);
        if stamp.topic < self.watched && stamp.sequence < EVENTS_WATCHED {
            let spreads = &mut observations.spreads[stamp.topic as usize];
            let index = stamp.sequence as usize;
            if spreads.len() <= index {
                spreads.resize(index + 1, Spread::default());
            }
            spreads[index].deliveries += 1;
            spreads[index].last_ns = spreads[index].last_ns.max(latency);
        }
    }
}

/// The part of a subscriber that a delivery touches; the rest is in use by the parser meanwhile.
pub(super) struct Place<'a> {
    pub(super) topic: u32,
    pub(super) group: u8,
    pub(super) joins: &'a mut bool,
    pub(super) skips: &'a mut bool,
    pub(super) owed_from: u32,
    pub(super) sequence: &'a mut crate::sequence::Sequence,
}

/// What a subscriber's parser gives its events to during one read; all it reads arrived at `now`.
pub(super) struct DeliverySink<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) place: Place<'a>,
    pub(super) now: u64,
}

impl Sink for DeliverySink<'_> {
    fn event(&mut self, stamps: &[Stamp], damaged: u64) {
        if stamps.is_empty() && damaged == 0 {
            self.recorder.observations.foreign += 1;
        }
        self.recorder.observations.faults[usize::from(self.place.group)].damaged += damaged;
        for stamp in stamps {
            self.recorder.delivery(&mut self.place, stamp, self.now);
        }
    }
}

impl Observations {
    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: Observations) {
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            // It grows as far as the other, so adding cannot fail.
            let _ = mine.add(theirs);
        }
        let _ = self.opening.add(&other.opening);
        for (mine, theirs) in self.faults.iter_mut().zip(&other.faults) {
            mine.add(*theirs);
        }
        for (mine, theirs) in self.spreads.iter_mut().zip(&other.spreads) {
            mine.resize(mine.len().max(theirs.len()), Spread::default());
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                mine.deliveries += theirs.deliveries;
                mine.last_ns = mine.last_ns.max(theirs.last_ns);
            }
        }
        self.deliveries += other.deliveries;
        self.measured += other.measured;
        self.first_intended = self.first_intended.min(other.first_intended);
        self.last_arrival = self.last_arrival.max(other.last_arrival);
        self.opened += other.opened;
        self.ended += other.ended;
        self.cut += other.cut;
        self.reopened += other.reopened;
        self.missed_away += other.missed_away;
        self.foreign += other.foreign;
        self.bytes += other.bytes;
        self.threads.extend(other.threads);
    }
}
