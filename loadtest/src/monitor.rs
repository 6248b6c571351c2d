//! What is seen of a run while it lasts: a sample each second, for the time series, the histogram log, the
//! metrics endpoint and the line on the terminal.

use std::io::IsTerminal;

use indicatif::ProgressBar;

use crate::client::{SeenSoFar, Timings};
use crate::clock::{self, SECOND};
use crate::exporter::Exporter;
use crate::failure::Outcome;
use crate::report::{Earlier, HistogramLog, SecondOfRun, SoFar, round, units};

/// What a run is given beside its settings: the earlier result that it is compared with, and what shows it
/// while it lasts.
#[derive(Default)]
pub(crate) struct Wants {
    pub(crate) earlier: Option<Earlier>,
    pub(crate) log: Option<HistogramLog>,
    pub(crate) exporter: Option<Exporter>,
    /// The percentiles of each second are wanted for the report.
    pub(crate) keeps_percentiles: bool,
    /// There is a line on the terminal.
    pub(crate) shows_line: bool,
}

/// A run that is seen while it lasts. Order of calls: [`Monitor::begin`]; [`Monitor::sample`] where one is
/// due, and [`Monitor::answered`] when what it asks for has come; [`Monitor::end`]; [`Monitor::complete`].
#[derive(Default)]
pub(crate) struct Monitor {
    pub(crate) wants: Wants,
    /// When the run began; its seconds count from here.
    start: u64,
    /// The seconds that are over.
    over: u64,
    /// When the last sample was taken, and what was published and delivered by then.
    sampled: u64,
    published: u64,
    deliveries: u64,
    /// The histograms were asked for at this time, for the second before it, and are not there yet.
    asked: Option<(u64, usize)>,
    /// Everything up to the last answer, and when it was asked for.
    seen: Option<Timings>,
    seen_until: u64,
    faults: crate::sequence::Faults,
    samples: Vec<Sample>,
    /// Of the last answer.
    percentiles: Option<(u64, u64)>,
    line: String,
}

/// What a sample has of a second.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    streams_open: u64,
    published: u64,
    /// At 50 and at 99 percent.
    percentiles_ns: Option<(u64, u64)>,
}

/// The counts that the conductor gives to a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) streams_open: u64,
    pub(crate) streams_wanted: u64,
    pub(crate) published: u64,
    pub(crate) deliveries: u64,
}

impl Wants {
    /// Whether standard error is a terminal that a line can be shown on.
    pub(crate) fn on_terminal(quiet: bool) -> bool {
        !quiet && std::io::stderr().is_terminal()
    }

    /// Whether the histograms are wanted.
    fn latency(&self) -> bool {
        self.log.is_some() || self.exporter.is_some() || self.keeps_percentiles || self.shows_line
    }
}

impl Monitor {
    pub(crate) fn new(wants: Wants) -> Monitor {
        Monitor { wants, ..Monitor::default() }
    }

    /// The run begins.
    pub(crate) fn begin(&mut self, start: u64) {
        (self.start, self.over, self.sampled, self.seen_until) = (start, 0, start, start);
        (self.published, self.deliveries, self.asked, self.seen) = (0, 0, None, None);
        self.samples.clear();
        self.line.clear();
    }

    /// Whether a second is over, so that a sample is due.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now.saturating_sub(self.start) / SECOND > self.over
    }

    /// Takes a sample. Returns whether the histograms are to be asked for.
    pub(crate) fn sample(&mut self, now: u64, counts: Counts) -> bool {
        let since = now.saturating_sub(self.sampled).max(1) as f64 / SECOND as f64;
        let published = counts.published.saturating_sub(self.published);
        let rate = counts.deliveries.saturating_sub(self.deliveries) as f64 / since;
        let over = now.saturating_sub(self.start) / SECOND;
        // A sample that is late stands for all seconds since the last one; what was published is in the last.
        let sample = Sample { streams_open: counts.streams_open, ..Sample::default() };
        self.samples.resize(self.samples.len().max(over as usize), sample);
        if let Some(second) = self.samples.last_mut() {
            second.published += published;
        }
        (self.over, self.sampled) = (over, now);
        (self.published, self.deliveries) = (counts.published, counts.deliveries);
        self.say(rate);
        self.export(counts);
        if !self.wants.latency() || self.asked.is_some() || self.samples.is_empty() {
            return false;
        }
        self.asked = Some((now, self.samples.len() - 1));
        true
    }

    /// Whether an answer is waited for.
    pub(crate) fn waits(&self) -> bool {
        self.asked.is_some()
    }

    /// What all client threads have seen up to the last question.
    pub(crate) fn answered(&mut self, seen: SeenSoFar) -> Outcome<()> {
        let Some((until, second)) = self.asked.take() else { return Ok(()) };
        self.faults = seen.faults;
        let interval = self.interval(seen.latency);
        let at = |quantile| interval.value_at_quantile(quantile);
        self.percentiles = (!interval.is_empty()).then(|| (at(0.5), at(0.99)));
        if let Some(sample) = self.samples.get_mut(second) {
            sample.percentiles_ns = self.percentiles;
        }
        self.log_interval(until, &interval)
    }

    /// What came since the last answer.
    fn interval(&mut self, all: Timings) -> Timings {
        let mut interval = all.clone();
        if let Some(seen) = &self.seen {
            // Histograms only grow, so there is nothing that could be missing.
            let _ = interval.subtract(seen);
        }
        self.seen = Some(all);
        interval
    }

    fn log_interval(&mut self, until: u64, interval: &Timings) -> Outcome<()> {
        let begin = std::mem::replace(&mut self.seen_until, until);
        match &mut self.wants.log {
            Some(log) if !interval.is_empty() => log.add(begin, until, interval),
            _ => Ok(()),
        }
    }

    /// The run is over: what came after the last sample is an interval of its own, so that all of them
    /// together are the report's latencies.
    pub(crate) fn end(&mut self, all: &Timings) -> Outcome<()> {
        let interval = self.interval(all.clone());
        self.log_interval(clock::now(), &interval)?;
        self.wants.log.take().map_or(Ok(()), HistogramLog::finish)
    }

    /// Adds what the samples have to the seconds of a run that ended at a time, with so many events published
    /// and so many streams open. The last second is the one that was not over.
    pub(crate) fn complete(
        &self,
        seconds: &mut Vec<SecondOfRun>,
        end: u64,
        published: u64,
        streams_open: u64,
    ) {
        let count = (end.saturating_sub(self.start) / SECOND) as usize + 1;
        seconds.resize(seconds.len().max(self.samples.len()).max(count), SecondOfRun::default());
        let milliseconds = |ns: u64| round(ns as f64 / clock::MILLISECOND as f64);
        for (index, second) in seconds.iter_mut().enumerate() {
            match self.samples.get(index) {
                Some(sample) => {
                    second.streams_open = sample.streams_open;
                    second.published = sample.published;
                    second.latency_p50_ms = sample.percentiles_ns.map(|(p50, _)| milliseconds(p50));
                    second.latency_p99_ms = sample.percentiles_ns.map(|(_, p99)| milliseconds(p99));
                }
                // The last second is not over when the run is.
                None => second.streams_open = streams_open,
            }
        }
        if let Some(last) = seconds.last_mut() {
            last.published += published.saturating_sub(self.published);
        }
    }

    fn export(&self, counts: Counts) {
        let Some(exporter) = &self.wants.exporter else { return };
        exporter.show(SoFar {
            streams_open: counts.streams_open,
            streams_wanted: counts.streams_wanted,
            published: counts.published,
            deliveries: counts.deliveries,
            faults: self.faults,
            latency: self.seen.clone(),
        });
    }

    fn say(&mut self, rate: f64) {
        if !self.wants.shows_line {
            return;
        }
        let time = |ns: u64| units::time(ns as f64 / SECOND as f64);
        let percentiles = self
            .percentiles
            .map_or(String::new(), |(p50, p99)| format!(", p50 {}, p99 {}", time(p50), time(p99)));
        self.line = format!("{} deliveries/s{percentiles}", units::number(rate));
    }

    /// Puts the line beside a bar.
    pub(crate) fn show(&self, bar: &ProgressBar) {
        if self.wants.shows_line && bar.prefix() != self.line {
            bar.set_prefix(self.line.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{record, timings};
    use crate::clock::MILLISECOND;
    use crate::sequence::Faults;

    fn counts(published: u64, deliveries: u64) -> Counts {
        Counts { streams_open: 5, streams_wanted: 5, published, deliveries }
    }

    #[test]
    fn each_second_has_what_came_in_it() {
        let start = 100 * SECOND;
        let mut monitor = Monitor::new(Wants { shows_line: true, ..Wants::default() });
        monitor.begin(start);
        assert!(!monitor.is_due(start + SECOND - 1) && monitor.is_due(start + SECOND));
        assert!(monitor.sample(start + SECOND, counts(10, 50)));
        let mut all = timings();
        record(&mut all, MILLISECOND);
        monitor.answered(SeenSoFar { latency: all.clone(), faults: Faults::default() }).unwrap();
        // Two seconds late, and the answer after it has what came since the last one only.
        assert!(monitor.sample(start + 4 * SECOND, counts(40, 200)));
        assert_eq!(monitor.line, "50 deliveries/s, p50 1 ms, p99 1 ms");
        record(&mut all, 9 * MILLISECOND);
        monitor.answered(SeenSoFar { latency: all, faults: Faults::default() }).unwrap();
        let mut seconds = vec![SecondOfRun::default(); 5];
        monitor.complete(&mut seconds, start + 5 * SECOND - 1, 42, 4);
        let published: Vec<_> = seconds.iter().map(|second| second.published).collect();
        assert_eq!(published, [10, 0, 0, 30, 2]);
        let p50: Vec<_> = seconds.iter().map(|second| second.latency_p50_ms.map(f64::round)).collect();
        assert_eq!(p50, [Some(1.0), None, None, Some(9.0), None]);
        let open: Vec<_> = seconds.iter().map(|second| second.streams_open).collect();
        assert_eq!(open, [5, 5, 5, 5, 4]);
    }

    /// A client thread that does not answer for a while must not be asked twice.
    #[test]
    fn a_question_waits_for_its_answer() {
        let mut monitor = Monitor::new(Wants { shows_line: true, ..Wants::default() });
        monitor.begin(0);
        assert!(monitor.sample(SECOND, counts(0, 0)) && monitor.waits());
        assert!(!monitor.sample(2 * SECOND, counts(0, 0)));
        let nothing = SeenSoFar { latency: timings(), faults: Faults::default() };
        monitor.answered(nothing).unwrap();
        assert!(!monitor.waits() && monitor.sample(3 * SECOND, counts(0, 0)));
    }
}
