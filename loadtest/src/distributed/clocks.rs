//! Two clocks: how far they are apart, how that changes, and how well it is known.
//!
//! The controller asks an agent for its time again and again. In one round trip the agent's clock cannot have
//! been read before the question was sent nor after the answer came, so the offset is known to half the round
//! trip, and the shortest round trip of a series counts. While a run lasts there is a series every few
//! hundred milliseconds. The agent translates its arrivals with the newest one, and with the drift so far.
//! Each further series also checks what was used until then; the largest difference, with the uncertainty of
//! the check, is how far a latency may be wrong.

use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::SECOND;

/// Round trips of a series.
pub(super) const SERIES: usize = 8;
/// A series of which the shortest round trip was more than so many times the shortest one of all tells less
/// than what is known, as long as it does not contradict it.
const WORSE: u64 = 2;
/// The drift is known after so long, or when it is larger than its uncertainty.
const DRIFT_AFTER: u64 = SECOND;

/// One round trip, or the best of some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The agent's clock in the middle of it.
    pub(super) at: u64,
    /// The agent's clock minus the controller's, in nanoseconds.
    pub(super) offset: i64,
    /// By so much the offset may be wrong at most.
    pub(super) uncertainty: u64,
}

impl Measured {
    /// From the controller's clock when it asked and when it had the answer, and the agent's when it was
    /// asked and when it answered.
    pub(super) fn of(asked: u64, received: u64, answered: u64, returned: u64) -> Measured {
        let (there, back) = (received as i128 - asked as i128, answered as i128 - returned as i128);
        let way = returned.saturating_sub(asked).saturating_sub(answered.saturating_sub(received));
        Measured {
            at: received / 2 + answered / 2,
            offset: ((there + back) / 2) as i64,
            uncertainty: way.div_ceil(2) + 1,
        }
    }
}

/// How an agent gets from its clock to the controller's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Translation {
    /// On the agent's clock.
    at: u64,
    /// Then.
    offset: i64,
    /// How many nanoseconds a second the agent's clock gains.
    drift: i64,
}

impl Translation {
    /// The agent's clock minus the controller's when the agent's shows `now`.
    pub(super) fn offset_at(&self, now: u64) -> i64 {
        let since = i128::from(now) - i128::from(self.at);
        self.offset + (since * i128::from(self.drift) / i128::from(SECOND)) as i64
    }
}

/// The offset of this machine's clock, as the threads that record arrivals use it. Zero where the publisher
/// is on the same machine.
#[derive(Debug, Default)]
pub(crate) struct Offset(AtomicI64);

impl Offset {
    pub(super) fn set(&self, offset: i64) {
        self.0.store(offset, Ordering::Relaxed);
    }

    /// A time of this machine on the publisher's clock.
    pub(crate) fn translate(&self, now: u64) -> u64 {
        now.wrapping_add_signed(self.0.load(Ordering::Relaxed).wrapping_neg())
    }
}

/// What two measurements say of all times around the second one.
struct Line {
    through: Measured,
    /// Nanoseconds a second; and by how much that may be wrong.
    drift: i64,
    drift_uncertainty: u64,
}

impl Line {
    fn new(first: Measured, second: Measured) -> Line {
        let time = u128::from(second.at.saturating_sub(first.at).max(1));
        let uncertain = u128::from(first.uncertainty + second.uncertainty) * u128::from(SECOND) / time;
        Line {
            through: second,
            drift: drift(first, second),
            drift_uncertainty: u64::try_from(uncertain).unwrap_or(u64::MAX),
        }
    }

    /// By how much a translation may be wrong when the agent's clock shows `when`.
    fn error_of(&self, translation: Translation, when: u64) -> u64 {
        let Measured { at, offset, uncertainty } = self.through;
        let apart = Translation { at, offset, drift: self.drift }
            .offset_at(when)
            .abs_diff(translation.offset_at(when));
        let away = u128::from(when.abs_diff(at)) * u128::from(self.drift_uncertainty) / u128::from(SECOND);
        apart.saturating_add(uncertainty).saturating_add(u64::try_from(away).unwrap_or(u64::MAX))
    }
}

/// What the controller knows of an agent's clock.
pub(super) struct Clock {
    first: Measured,
    shortest: u64,
    translation: Translation,
    /// By how much it may have been wrong when it was new.
    when_new: u64,
    series: Vec<Measured>,
    wrong_by: u64,
    checks: u64,
}

impl Clock {
    /// From a series before the run.
    pub(super) fn new(first: Measured) -> Clock {
        Clock {
            first,
            shortest: first.uncertainty,
            translation: Translation { at: first.at, offset: first.offset, drift: 0 },
            when_new: first.uncertainty,
            series: Vec::new(),
            wrong_by: first.uncertainty,
            checks: 0,
        }
    }

    pub(super) fn translation(&self) -> Translation {
        self.translation
    }

    /// Streams are opened from here on: what was wrong before then was in no latency.
    pub(super) fn begin(&mut self) {
        self.wrong_by = self.when_new;
    }

    /// A round trip during the run. Where it completes a series that says something, the translation from now
    /// on.
    pub(super) fn add(&mut self, measured: Measured) -> Option<Translation> {
        self.series.push(measured);
        if self.series.len() < SERIES {
            return None;
        }
        let best = best(&self.series)?;
        self.series.clear();
        self.shortest = self.shortest.min(best.uncertainty);
        let apart = self.translation.offset_at(best.at).abs_diff(best.offset);
        if best.uncertainty > self.shortest * WORSE && apart <= best.uncertainty {
            return None;
        }
        let line = Line::new(self.first, best);
        let known = best.at.saturating_sub(self.first.at) >= DRIFT_AFTER
            || line.drift.unsigned_abs() > 2 * line.drift_uncertainty;
        let drift = if known { line.drift } else { self.translation.drift };
        let translation = Translation { at: best.at, offset: best.offset, drift };
        // The best of the series may have been its first; the old translation was used to the end of it. Both
        // clocks go evenly, so a translation is most wrong at the begin or at the end of its use.
        self.when_new = line.error_of(translation, measured.at);
        self.check(&line, best.at);
        self.check(&line, measured.at);
        self.wrong_by = self.wrong_by.max(self.when_new);
        self.checks += 1;
        self.translation = translation;
        Some(translation)
    }

    /// What was used until now, beside what is known now.
    fn check(&mut self, line: &Line, when: u64) {
        self.wrong_by = self.wrong_by.max(line.error_of(self.translation, when));
    }

    /// What came of it, with a series after the run where there was one.
    pub(super) fn figures(mut self, last: Option<Measured>) -> ClockFigures {
        if let Some(last) = last {
            self.check(&Line::new(self.first, last), last.at);
            self.checks += 1;
        }
        ClockFigures {
            offset_before_ns: self.first.offset,
            uncertainty_before_ns: self.first.uncertainty,
            offset_after_ns: last.map(|last| last.offset),
            uncertainty_after_ns: last.map(|last| last.uncertainty),
            seconds_between: last.map(|last| last.at.saturating_sub(self.first.at) as f64 / SECOND as f64),
            drift_ns: last.map(|last| last.offset - self.first.offset),
            drift_ppm: last.map(|last| drift(self.first, last) as f64 / 1e3),
            checks: self.checks,
            latencies_right_within_us: self.wrong_by as f64 / 1e3,
        }
    }
}

/// The measurement that is known best.
pub(super) fn best(series: &[Measured]) -> Option<Measured> {
    series.iter().min_by_key(|measured| measured.uncertainty).copied()
}

/// Nanoseconds a second.
fn drift(from: Measured, to: Measured) -> i64 {
    let time = i128::from(to.at.saturating_sub(from.at).max(1));
    ((i128::from(to.offset) - i128::from(from.offset)) * i128::from(SECOND) / time) as i64
}

/// An agent's clock beside the controller's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ClockFigures {
    /// The agent's clock minus the controller's.
    pub(crate) offset_before_ns: i64,
    pub(crate) uncertainty_before_ns: u64,
    pub(crate) offset_after_ns: Option<i64>,
    pub(crate) uncertainty_after_ns: Option<u64>,
    pub(crate) seconds_between: Option<f64>,
    pub(crate) drift_ns: Option<i64>,
    pub(crate) drift_ppm: Option<f64>,
    /// How often the translation was compared with a new measurement.
    pub(crate) checks: u64,
    /// No check found the translation further off, its own uncertainty included.
    pub(crate) latencies_right_within_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn a_round_trip_tells_the_offset_and_how_well() {
        // There in 30 us, back in 10: the middle is wrong by 10 and may be by 20.
        let measured = Measured::of(1_000_000, 5_000_000 + 30_000, 5_000_000 + 35_000, 1_000_000 + 45_000);
        assert_eq!((measured.offset, measured.uncertainty), (4_010_000, 20_001));
        let behind = Measured::of(9_000_000, 1_010_000, 1_010_000, 9_020_000);
        assert_eq!((behind.offset, behind.uncertainty), (-8_000_000, 10_001));
    }

    /// Nothing here waits: two clocks are computed, one of which drifts, and ways that take between 10 us and
    /// 2 ms.
    #[test]
    fn what_is_said_to_be_known_is_never_exceeded() {
        let mut bounds = Vec::new();
        for seed in 1..=300 {
            let ppm = [0, 200, -200, 1_000, -50, 20][seed as usize % 6];
            let mut state: u64 = seed;
            let mut random = |most: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % most
            };
            let ahead = 3_600 * SECOND as i64;
            let agents = |now: u64| {
                let drifted = i128::from(now) * i128::from(ppm) / 1_000_000;
                (i128::from(now) + i128::from(ahead) + drifted) as u64
            };
            let mut trip = |now: u64| {
                let mut way = || match random(4) {
                    0 => 10_000 + random(5_000),
                    _ => 10_000 + random(2 * MILLISECOND),
                };
                let (received, back) = (now + way(), way());
                Measured::of(now, agents(received), agents(received + 3_000), received + 3_000 + back)
            };
            let start = 100 * SECOND;
            let series: Vec<Measured> = (0..16).map(|number| trip(start + number * MILLISECOND)).collect();
            let mut clock = Clock::new(best(&series).unwrap());
            let mut worst = 0;
            let mut now = start + SECOND / 10;
            let end = start + 60 * SECOND;
            while now < end {
                if let Some(translation) = clock.add(trip(now)) {
                    assert_eq!(translation.at, clock.translation().at);
                }
                let there = agents(now);
                let true_offset = there as i64 - now as i64;
                worst = worst.max(clock.translation().offset_at(there).abs_diff(true_offset));
                now += 50 * MILLISECOND;
            }
            let series: Vec<Measured> = (0..16).map(|number| trip(end + number * MILLISECOND)).collect();
            let last = best(&series).unwrap();
            let figures = clock.figures(Some(last));
            let bound = figures.latencies_right_within_us * 1e3;
            assert!(worst as f64 <= bound, "seed {seed}: wrong by {worst} ns, said {bound}");
            bounds.push(bound);
            let off = (figures.drift_ppm.unwrap() - f64::from(ppm)).abs();
            let uncertain = figures.uncertainty_before_ns + figures.uncertainty_after_ns.unwrap();
            let known_to = uncertain as f64 / figures.seconds_between.unwrap() / 1e3 + 1.1;
            assert!(off <= known_to, "seed {seed}: {:?} ppm, it was {ppm}", figures.drift_ppm);
            assert!(figures.checks > 5, "seed {seed}: {} checks", figures.checks);
        }
        // A bound that is always far too large would say nothing.
        bounds.sort_by(f64::total_cmp);
        assert!(bounds[150] < 600_000.0, "half of the bounds are above {} ns", bounds[150]);
    }

    #[test]
    fn a_time_is_translated_both_ways_of_the_offset() {
        let offset = Offset::default();
        assert_eq!(offset.translate(7), 7);
        offset.set(5);
        assert_eq!(offset.translate(7), 2);
        offset.set(-5);
        assert_eq!(offset.translate(7), 12);
    }
}
