//! The course of a run: open the streams, publish, wait, look at the server, settle.

mod kinds;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::figures::{self, Evidence};
use super::run::progress;
use super::snapshot::Snapshot;
use super::{Kind, Load};
use crate::ask::Askers;
use crate::client::{Command, Group, Phase};
use crate::clock::{self, MILLISECOND, SECOND, nanoseconds};
use crate::distributed::{Crowd, Watched};
use crate::failure::{Failure, Outcome};
use crate::monitor::{Counts, Monitor};
use crate::publish::{Pace, Publisher, Route};
use crate::report::Report;
use crate::sample;
use crate::sys;
use crate::target::RequestTemplates;
use crate::tls::Tls;

/// Lets memory and timers come to rest before they are measured.
const SETTLE: u64 = 500 * MILLISECOND;
/// Between two looks at how much memory is left.
const MEMORY_CHECK: u64 = 50 * MILLISECOND;
/// After the last expected delivery: what comes now is one too many.
const AFTERMATH: u64 = 200 * MILLISECOND;

/// A run under way.
pub(super) struct Conductor<'a> {
    pub(super) kind: &'a Kind,
    pub(super) load: &'a Load,
    pub(super) templates: RequestTemplates,
    /// Where publishes go: looked up once, and before the time of any publish has come.
    pub(super) publish_address: SocketAddr,
    pub(super) tls: Tls,
    pub(super) server: Option<Watched>,
    pub(super) groups: Vec<Group>,
    pub(super) names: Arc<Vec<String>>,
    pub(super) run_id: u32,
    pub(super) count: u64,
    pub(super) tried: bool,
    /// Events that were published before the measurement.
    pub(super) tried_out: u64,
    pub(super) sequences: Arc<Vec<AtomicU64>>,
    /// How many streams each topic has.
    pub(super) subscribed: Vec<u64>,
    /// There until it is settled.
    pub(super) crowd: Option<Crowd>,
    pub(super) evidence: Evidence,
    pub(super) next_memory_check: u64,
    pub(super) askers: Option<Askers>,
    /// How many streams are to be open now.
    pub(super) wanted: u64,
    pub(super) monitor: &'a mut Monitor,
}

impl Conductor<'_> {
    /// Nothing is published here, so every event that comes is another program's.
    fn listens(&self) -> bool {
        matches!(self.kind, Kind::Listen(_)) || !self.load.can_publish()
    }

    fn crowd(&self) -> Outcome<&Crowd> {
        self.crowd.as_ref().ok_or_else(|| Failure::new("the crowd is gone"))
    }

    pub(super) fn conduct(&mut self, started: u64) -> Outcome<()> {
        self.open(started)?;
        self.crowd()?.enter(Phase::Live);
        if self.tried {
            self.try_out()?;
        }
        self.askers =
            self.load.ask.as_ref().map(|url| Askers::start(url, self.load.ask_clients)).transpose()?;
        self.window(true)?;
        match self.kind {
            Kind::Idle(idle) => self.idle(idle)?,
            Kind::Listen(listen) => self.listen(listen)?,
            Kind::Saturate(saturate) => {
                let each: usize = self.groups.iter().map(|group| group.subscribers).sum();
                let until = clock::now() + nanoseconds(self.load.duration);
                let delivered = self.crowd()?.delivered_reader();
                let pace = Pace::Flat { until, window: saturate.window.max(1), each: each as u64, delivered };
                let route = self.route(0, self.load.pipeline);
                let publishers = vec![Publisher::start(route, pace, self.sequences.clone())?];
                self.attend(publishers, 0, |_| Ok(()))?;
            }
            Kind::Storm(storm) => self.storm(storm)?,
            Kind::Slow(_) => self.slow()?,
            Kind::Churn(churn) => {
                let per_second = churn.per_second;
                self.crowd()?.tell(|| Command::Churn { per_second });
                let publishers = self.publishers()?;
                self.attend(publishers, self.count, |_| Ok(()))?;
                self.crowd()?.tell(|| Command::Churn { per_second: 0.0 });
            }
            Kind::Mixed(mixed) => {
                let mut publishers = self.publishers()?;
                let count = (mixed.small_rate * self.load.duration.as_secs_f64()).round().max(1.0) as u64;
                let start = clock::now() + 20 * MILLISECOND;
                let pace = Pace::Schedule { start, rate: mixed.small_rate, burst: 1, count };
                publishers.push(Publisher::start(self.route(1, 1), pace, self.sequences.clone())?);
                self.attend(publishers, self.count + count, |_| Ok(()))?;
            }
            Kind::Fanout | Kind::Topics(_) if self.load.is_staged() => self.stages()?,
            Kind::Fanout | Kind::Topics(_) => {
                let publishers = self.publishers()?;
                self.attend(publishers, self.count, |_| Ok(()))?;
            }
        }
        self.note_backlog();
        if !matches!(self.kind, Kind::Listen(_)) {
            self.outstanding()?;
        }
        self.window(false)?;
        self.stop_asking();
        self.everybody_there()
    }

    /// How many deliveries were outstanding when the last event was published.
    fn note_backlog(&mut self) {
        if let (Some(expected), Some(crowd)) = (self.expected(), &self.crowd) {
            self.evidence.backlog = Some(expected.saturating_sub(crowd.delivered()));
        }
    }

    /// Gives streams that have ended the time to be open again before the run is over.
    fn everybody_there(&mut self) -> Outcome<()> {
        if matches!(self.kind, Kind::Listen(listen) if listen.once) {
            return Ok(());
        }
        let until = clock::now() + nanoseconds(self.load.patience) + nanoseconds(self.load.retry);
        let wanted = self.load.streams_at_end();
        while self.crowd()?.open() + self.crowd()?.failed() < wanted && clock::now() < until {
            self.rest(MILLISECOND)?;
        }
        // A subscriber that is about to leave has until the end of its patience.
        while self.load.is_staged() && self.crowd()?.open() > wanted && clock::now() < until {
            self.rest(MILLISECOND)?;
        }
        Ok(())
    }

    /// Ends the run where there is a reason to.
    fn go_on(&mut self) -> Outcome<()> {
        if sys::interrupted() {
            self.evidence.partial = true;
            return Err(Failure::new("interrupted: this is a partial report"));
        }
        if let Some(failure) = self.crowd()?.failure() {
            return Err(failure);
        }
        if let Some(failure) = self.server.as_ref().and_then(Watched::failure) {
            return Err(failure);
        }
        self.sample_if_due()?;
        self.memory_left()
    }

    /// What is seen each second while the run lasts.
    fn sample_if_due(&mut self) -> Outcome<()> {
        let Some(crowd) = &self.crowd else { return Ok(()) };
        if self.monitor.waits()
            && let Some(seen) = crowd.seen()
        {
            self.monitor.answered(seen)?;
        }
        let now = clock::now();
        if self.monitor.is_due(now) {
            let published = self.sequences.iter().map(|sequence| sequence.load(Ordering::Relaxed)).sum();
            let counts = Counts {
                streams_open: crowd.open(),
                streams_wanted: self.wanted,
                published,
                deliveries: crowd.delivered(),
            };
            if self.monitor.sample(now, counts) {
                crowd.ask_seen();
            }
        }
        Ok(())
    }

    /// Ends the run before the kernel ends a process.
    fn memory_left(&mut self) -> Outcome<()> {
        let now = clock::now();
        if self.load.least_memory == 0 || now < self.next_memory_check {
            return Ok(());
        }
        self.next_memory_check = now + MEMORY_CHECK;
        let left = sample::available_bytes().map_or(u64::MAX, |bytes| bytes >> 20);
        if left >= self.load.least_memory {
            return Ok(());
        }
        Err(Failure::new(format!(
            "memory was the limit: {left} MiB were left with {} streams open and {} deliveries; --least-memory is {}",
            self.crowd()?.open(),
            self.crowd()?.delivered(),
            self.load.least_memory
        )))
    }

    fn rest(&mut self, time: u64) -> Outcome<()> {
        let until = clock::now() + time;
        while clock::now() < until {
            self.go_on()?;
            clock::sleep_until(until.min(clock::now() + 20 * MILLISECOND));
        }
        Ok(())
    }

    /// Opens all streams and looks at what they cost.
    fn open(&mut self, started: u64) -> Outcome<()> {
        let all = if self.load.is_staged() { 1 } else { self.load.subscribers };
        let bar = progress("opening streams", all, self.load.quiet);
        loop {
            self.go_on()?;
            let crowd = self.crowd()?;
            let open = crowd.open();
            bar.set_position(open);
            // Streams that the server ends early are opened again and again, but are hardly ever open all at
            // once.
            let were_open = if self.listens() { crowd.opened() } else { open + crowd.over() };
            if were_open + crowd.failed() >= all {
                break;
            }
            clock::sleep_until(clock::now() + 2 * MILLISECOND);
        }
        bar.finish_and_clear();
        self.evidence.opening_ns = clock::now() - started;
        self.rest(SETTLE)?;
        if self.load.is_staged() {
            // What one stream costs says nothing.
            return Ok(());
        }
        self.evidence.open = self.snapshot(false);
        self.evidence.own_open = self.crowd()?.own_bytes();
        Ok(())
    }

    /// One event per topic that is not measured: shows that what is published arrives at all.
    fn try_out(&mut self) -> Outcome<()> {
        let topics = self.names.len() as u32;
        let mut route = self.route(0, self.load.pipeline);
        route.topics = (0..topics).map(|topic| (topic, self.names[topic as usize].clone())).collect();
        // Without a pause, but a server that answers slowly sets the pace.
        let pace = Pace::Schedule { start: clock::now(), rate: 1e9, burst: 1, count: u64::from(topics) };
        let publisher = Publisher::start(route, pace, self.sequences.clone())?;
        self.attend(vec![publisher], 0, |_| Ok(()))?;
        self.outstanding()?;
        self.tried_out = u64::from(topics);
        if self.crowd()?.delivered() > 0 {
            return Ok(());
        }
        let text = match self.crowd()?.damaged() {
            0 => {
                "an event was published and accepted, but no subscriber got it: do the subscription and the publish name the same topic?"
            }
            _ => {
                "an event was published and accepted, and what came of it was damaged at every subscriber: does the server change or cut the data, or is it escaped in another way than the publish needs (README.md, `--publish-body`)?"
            }
        };
        Err(Failure::new(text))
    }

    fn route(&self, topic: u32, pipeline: usize) -> Route {
        Route {
            address: self.publish_address,
            template: self.templates.publish.clone(),
            tls: self.tls.clone(),
            topics: vec![(topic, self.names[topic as usize].clone())],
            run: self.run_id,
            size: self.load.size,
            payload: self.load.payload,
            patience: self.load.patience,
            pipeline,
            cores: self.load.client_cores.clone(),
        }
    }

    /// The scheduled publishers of the first group's topics.
    fn publishers(&self) -> Outcome<Vec<Publisher>> {
        let topics = self.groups[0].topics as usize;
        let threads = (self.load.publishers as usize).clamp(1, topics);
        let start = clock::now() + 20 * MILLISECOND;
        let rate = self.load.rate / threads as f64;
        let mut publishers = Vec::new();
        for thread in 0..threads as u64 {
            let mut route = self.route(0, self.load.pipeline);
            let mine = (thread as usize..topics).step_by(threads);
            route.topics = mine.map(|topic| (topic as u32, self.names[topic].clone())).collect();
            let count = (self.count + threads as u64 - 1 - thread) / threads as u64;
            let offset = (thread as f64 * SECOND as f64 / self.load.rate) as u64;
            let pace = Pace::Schedule { start: start + offset, rate, burst: self.load.burst, count };
            publishers.push(Publisher::start(route, pace, self.sequences.clone())?);
        }
        Ok(publishers)
    }

    /// Waits for the publishers; `total` is for the progress bar, 0 hides it.
    fn attend(
        &mut self,
        publishers: Vec<Publisher>,
        total: u64,
        mut meanwhile: impl FnMut(&mut Self) -> Outcome<()>,
    ) -> Outcome<()> {
        let bar = progress("publishing", total, self.load.quiet || total == 0);
        let mut result = Ok(());
        while publishers.iter().any(|publisher| !publisher.is_done()) {
            bar.set_position(publishers.iter().map(Publisher::sent).sum());
            self.monitor.show(&bar);
            if result.is_ok() {
                result = self.go_on().and_then(|()| meanwhile(self));
                if result.is_err() {
                    publishers.iter().for_each(Publisher::stop);
                }
            }
            clock::sleep_until(clock::now() + MILLISECOND);
            if sys::interrupted() {
                // Ctrl-C ends sleeps at once, so this loop must not spin on them.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        bar.finish_and_clear();
        self.evidence.active(clock::now());
        for publisher in publishers {
            match publisher.finish() {
                Ok(tally) => self.evidence.publishing(tally),
                Err(failure) => result = result.and(Err(failure)),
            }
        }
        match result {
            Err(failure) if !self.evidence.partial => Err(self.post_mortem(failure)),
            result => result.and_then(|()| self.go_on()),
        }
    }

    /// A publish that failed may be the first sign of a server that died; the streams tell, a moment later.
    fn post_mortem(&self, failure: Failure) -> Failure {
        std::thread::sleep(Duration::from_nanos(SETTLE));
        // The streams that are to be open now: in a run with stages these are not all.
        let (Some(crowd), all) = (&self.crowd, self.wanted) else { return failure };
        if let Some(failure) = crowd.failure() {
            return failure;
        }
        match all.saturating_sub(crowd.open() + crowd.failed()) {
            0 => failure,
            ended => Failure::new(format!(
                "the server died half way: {ended} of {all} streams ended, and {failure}"
            )),
        }
    }

    /// How many deliveries there have to be by now; `None` where subscribers come and go.
    fn expected(&self) -> Option<u64> {
        if matches!(self.kind, Kind::Churn(_) | Kind::Listen(_)) || self.load.is_staged() {
            return None;
        }
        let published = self.sequences.iter().map(|sequence| sequence.load(Ordering::Relaxed));
        Some(published.zip(&self.subscribed).map(|(events, streams)| events * streams).sum())
    }

    /// Waits until everything published has arrived, or nothing arrives any more.
    fn outstanding(&mut self) -> Outcome<()> {
        let expected = self.expected();
        let bar = progress("waiting", expected.unwrap_or(0), self.load.quiet || expected.is_none());
        let patience = nanoseconds(self.load.patience);
        let (mut best, mut since, mut asked) = (self.crowd()?.delivered(), clock::now(), false);
        loop {
            let delivered = self.crowd()?.delivered();
            if delivered > best {
                (best, since, asked) = (delivered, clock::now(), false);
                self.evidence.active(since);
            }
            if expected.is_some_and(|expected| delivered >= expected) || clock::now() - since > patience {
                break;
            }
            if expected.is_none() && clock::now() - since > SETTLE {
                // What subscribers that come and go are owed, only the crowd can say.
                match asked {
                    false => self.crowd()?.ask_owed(),
                    true if self.crowd()?.owed() == Some(0) => break,
                    true => {}
                }
                asked = true;
            }
            bar.set_position(delivered);
            self.monitor.show(&bar);
            self.go_on()?;
            clock::sleep_until(clock::now() + MILLISECOND);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn snapshot(&self, only_cpu: bool) -> Snapshot {
        Snapshot::at(self.server.as_ref(), only_cpu, self.load.agents.is_empty())
    }

    /// From here on the client is watched.
    fn watch_client(&mut self) -> Outcome<()> {
        let schedule = self.crowd()?.schedule();
        self.crowd()?.tell(|| Command::Window { begins: true });
        self.evidence.watch(clock::now(), schedule);
        Ok(())
    }

    /// Begins or ends the time in which the CPU of server and client is counted.
    fn window(&mut self, begins: bool) -> Outcome<()> {
        if begins {
            self.watch_client()?;
            self.evidence.delivered_before = self.crowd()?.delivered();
            self.evidence.window_before = self.snapshot(true);
        } else {
            self.evidence.window_after = self.snapshot(true);
            self.crowd()?.tell(|| Command::Window { begins: false });
            self.evidence.schedule_after = self.crowd()?.schedule();
            self.evidence.delivered_after = self.crowd()?.delivered();
            self.rest(AFTERMATH)?;
            if !matches!(self.kind, Kind::Idle(_)) && !self.load.is_staged() {
                self.rest(SETTLE)?;
                self.evidence.last = self.snapshot(false);
            }
        }
        Ok(())
    }

    fn stop_asking(&mut self) {
        if let Some(askers) = self.askers.take() {
            let time = clock::now().saturating_sub(self.evidence.active_since);
            self.evidence.asked = Some(askers.finish(time as f64 / SECOND as f64));
        }
    }

    /// Draws up the report, whatever happened.
    pub(super) fn settle(
        &mut self,
        result: Outcome<()>,
        name: &str,
        mut notes: Vec<String>,
    ) -> Outcome<Report> {
        self.stop_asking();
        let Some(crowd) = self.crowd.take() else { return Err(Failure::new("the crowd is gone")) };
        let by_topic: Vec<u64> =
            self.sequences.iter().map(|sequence| sequence.load(Ordering::Relaxed)).collect();
        let published = by_topic.iter().sum();
        let mut evidence = std::mem::take(&mut self.evidence);
        if evidence.active_until == 0 {
            evidence.active(clock::now());
        }
        let (end, streams_open) = (clock::now(), crowd.open());
        let (observed, machines) = crowd.finish(by_topic.clone())?;
        evidence.machines = machines;
        if self.server.is_none() {
            notes.push("no --server-pid: the server's CPU and memory are left out".to_owned());
        }
        let listens = self.listens();
        let stalls = matches!(self.kind, Kind::Slow(_)).then_some(1);
        // A log that cannot be written is a problem of the run, but the report is there.
        let result = result.and(self.monitor.end(&observed.latency_of_all(stalls, listens)));
        let case = figures::Case {
            kind: self.kind,
            load: self.load,
            groups: &self.groups,
            name,
            published: &by_topic,
            tried_out: self.tried_out,
            earlier: self.monitor.wants.earlier.as_ref(),
        };
        let mut report = figures::report(&case, evidence, observed, result.err(), notes);
        self.monitor.complete(&mut report.seconds, end, published, streams_open);
        Ok(report)
    }
}
