//! A server with its subscribers and publishers: what faults are applied to.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use fanfare_io::Clock;

use crate::http::PublishConnection;
use crate::ledger::Ledger;
use crate::outcome::Outcome;
use crate::publishers::{Batch, Problems, Publishers};
use crate::server::{Plan, Server};
use crate::subscribers::Subscribers;
use crate::verify::Findings;

/// How long a subscriber that lacks events may get nothing after a fault is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that replace all events of the log, with the same events each time.
const FILLERS: usize = 96;
const FILLER_EVENTS: usize = 100;
const FILLER_LENGTH: usize = 800;

/// A server under load.
pub(crate) struct Target {
    // Fields are dropped in this order: publishers first, the server last.
    publishers: Publishers,
    pub(crate) subscribers: Subscribers,
    pub(crate) server: Server,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) problems: Arc<Problems>,
    never: AtomicBool,
}

impl Target {
    /// Starts the server and its load, and waits until every subscriber has had an event. After that each of
    /// them has an id to resume from.
    pub(crate) fn start(
        plan: &Plan,
        count: usize,
        clock: Clock,
        random: &mut fastrand::Rng,
    ) -> Result<Target, String> {
        let server = Server::start(plan)?;
        let ledger = Arc::new(Ledger::new(clock, plan.bounds.retained_bytes));
        let problems = Arc::new(Problems::default());
        let subscribers = Subscribers::start(server.address, count, &ledger, clock, random)
            .map_err(|error| format!("the subscribers do not start: {error}"))?;
        let missing = subscribers.await_streams(PATIENCE)?;
        if missing > 0 {
            return Err(format!("{missing} of {count} subscribers do not get a stream"));
        }
        let publishers = Publishers::start(server.address, &ledger, &problems, random);
        publishers.await_connections()?;
        let mut target =
            Target { publishers, subscribers, server, ledger, problems, never: AtomicBool::new(false) };
        let findings = target.settle()?;
        if !findings.is_good() {
            return Err(format!("before any fault: {findings:?}"));
        }
        Ok(target)
    }

    /// Pauses the publishers until every subscriber has every event, and compares the logs with the ledger.
    ///
    /// # Errors
    /// The server has ended, or accepts no publishes.
    pub(crate) fn settle(&mut self) -> Result<Findings, String> {
        self.while_paused(|paused| paused.settle())
    }

    /// Fills the log with the same events each time, so that memory can be compared. Also returns the memory
    /// of the server when nothing has been published for `rest` after that.
    pub(crate) fn fill_log(&mut self, rest: Duration) -> Result<(Findings, Option<u64>), String> {
        self.while_paused(|paused| {
            let findings = paused.fill_log()?;
            thread::sleep(rest);
            Ok((findings, paused.server.memory()))
        })
    }

    /// Calls `act` while the publishers pause.
    fn while_paused<T>(&mut self, act: impl FnOnce(&mut PausedTarget<'_>) -> T) -> T {
        let Target { publishers, subscribers, server, ledger, problems, never } = self;
        publishers.paused(|| act(&mut PausedTarget { subscribers, server, ledger, problems, never }))
    }

    /// Waits until all subscribers have a stream.
    ///
    /// # Errors
    /// Some have none; their number.
    pub(crate) fn await_streams(&self) -> Result<(), String> {
        match self.subscribers.await_streams(PATIENCE)? {
            0 => Ok(()),
            missing => Err(format!("{missing} of {} subscribers did not come back", self.subscribers.count)),
        }
    }

    /// Calls `act`, and adds to its outcome or error what the server has logged.
    pub(crate) fn with_log(
        &mut self,
        act: impl FnOnce(&mut Target) -> Result<Outcome, String>,
    ) -> Result<Outcome, String> {
        let outcome = act(self);
        let log = self.server.new_log_lines();
        match outcome {
            Ok(outcome) => Ok(Outcome { log, ..outcome }),
            Err(problem) => Err(format!("{problem}; its server logged:\n{log}")),
        }
    }

    /// Violations besides those of deliveries: panics of the server and of torture, and wrong answers to
    /// publishers.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut all = self.server.panics();
        all.extend(self.subscribers.violations());
        all.extend(self.publishers.violations());
        all.append(&mut self.problems.unexpected.lock().unwrap_or_else(PoisonError::into_inner));
        all
    }
}

/// A target whose publishers pause.
struct PausedTarget<'a> {
    subscribers: &'a Subscribers,
    server: &'a mut Server,
    ledger: &'a Ledger,
    problems: &'a Arc<Problems>,
    never: &'a AtomicBool,
}

impl PausedTarget<'_> {
    fn settle(&mut self) -> Result<Findings, String> {
        if let Some(status) = self.server.ended() {
            return Err(format!("the server ended by itself: {status}"));
        }
        // A subscriber that still reconnects must not begin behind the markers.
        let without_stream = self.subscribers.await_streams(PATIENCE)?;
        let mut connection = PublishConnection::new(self.server.address);
        if !Batch::markers(self.ledger).publish(&mut connection, self.ledger, self.problems, self.never) {
            return Err("the markers of a round's end were not acknowledged".to_owned());
        }
        let without_markers = self.subscribers.await_markers(PATIENCE)?;
        let mut findings = self.subscribers.verify(self.ledger.end_round())?;
        findings.absent = (without_stream + without_markers) as u64;
        if findings.absent > 0 {
            findings.examples.push(format!(
                "after the fault {without_stream} subscribers get no stream, \
                 {without_markers} not what was published last"
            ));
        }
        Ok(findings)
    }

    fn fill_log(&mut self) -> Result<Findings, String> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut sum = Findings::default();
        for _ in 0..4 {
            let mut connection = PublishConnection::new(self.server.address);
            for _ in 0..FILLERS / 4 {
                let batch = Batch::array(self.ledger, FILLER_EVENTS, FILLER_LENGTH, &mut random);
                if !batch.publish(&mut connection, self.ledger, self.problems, self.never) {
                    self.problems.note("events that fill the log were not acknowledged".to_owned());
                }
            }
            sum += self.settle()?;
        }
        Ok(sum)
    }
}
