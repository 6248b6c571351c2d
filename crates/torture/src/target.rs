//! A server with its honest subscribers and publishers: what faults are done to.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use fanfare_io::Clock;

use crate::http::PublishConnection;
use crate::ledger::Ledger;
use crate::outcome::Outcome;
use crate::publishers::{Batch, Problems, Publishers};
use crate::readers::Readers;
use crate::server::{Plan, Server};
use crate::verify::Findings;

/// How long nothing may come to a subscriber that has not everything, once a fault is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events that fill each topic's part of the log anew, the same each time.
const FILLERS: usize = 96;
const FILLER_EVENTS: usize = 100;
const FILLER_LENGTH: usize = 800;

/// A server under honest load.
pub(crate) struct Target {
    // In the order in which they end.
    publishers: Publishers,
    pub(crate) readers: Readers,
    pub(crate) server: Server,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) problems: Arc<Problems>,
    never: AtomicBool,
}

impl Target {
    /// Starts it all, and waits until every subscriber has had an event: from then on each has an id to resume from.
    pub(crate) fn start(
        plan: &Plan,
        subscribers: usize,
        clock: Clock,
        random: &mut fastrand::Rng,
    ) -> Result<Target, String> {
        let server = Server::start(plan)?;
        let ledger = Arc::new(Ledger::new(clock, plan.bounds.retained_bytes));
        let problems = Arc::new(Problems::default());
        let readers = Readers::start(server.address, subscribers, &ledger, clock, random)
            .map_err(|error| format!("the readers do not start: {error}"))?;
        let missing = readers.await_streams(PATIENCE)?;
        if missing > 0 {
            return Err(format!("{missing} of {subscribers} subscribers do not get a stream"));
        }
        let publishers = Publishers::start(server.address, &ledger, &problems, random);
        publishers.await_connections()?;
        let mut target =
            Target { publishers, readers, server, ledger, problems, never: AtomicBool::new(false) };
        let findings = target.settle()?;
        if !findings.good() {
            return Err(format!("before any fault: {findings:?}"));
        }
        Ok(target)
    }

    /// Lets publishers pause until every subscriber has what was published, and holds the logs against the ledger.
    ///
    /// # Errors
    /// The server has ended, or takes no publishes.
    pub(crate) fn settle(&mut self) -> Result<Findings, String> {
        self.while_paused(|paused| paused.settle())
    }

    /// Fills the log with the same events as each time and nothing between them, so that memory can be compared. Also
    /// returns the server's memory when nothing has been published for so long after that.
    pub(crate) fn fill_log(&mut self, rest: Duration) -> Result<(Findings, Option<u64>), String> {
        self.while_paused(|paused| {
            let findings = paused.fill_log()?;
            thread::sleep(rest);
            Ok((findings, paused.server.memory()))
        })
    }

    /// Does something while the publishers pause.
    fn while_paused<T>(&mut self, act: impl FnOnce(&mut PausedTarget<'_>) -> T) -> T {
        let Target { publishers, readers, server, ledger, problems, never } = self;
        publishers.paused(|| act(&mut PausedTarget { readers, server, ledger, problems, never }))
    }

    /// Waits until all subscribers stream. An error names how many do not.
    pub(crate) fn await_streams(&self) -> Result<(), String> {
        match self.readers.await_streams(PATIENCE)? {
            0 => Ok(()),
            missing => Err(format!("{missing} of {} subscribers did not come back", self.readers.count)),
        }
    }

    /// Does something to a field of a fault's own, and adds to what that outcome what the server logged.
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

    /// What is wrong besides deliveries: panics, the server's and our own, and answers that should not have been.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut all = self.server.panics();
        all.extend(self.readers.violations());
        all.extend(self.publishers.violations());
        all.append(&mut self.problems.unexpected.lock().unwrap_or_else(PoisonError::into_inner));
        all
    }
}

/// A field whose publishers pause.
struct PausedTarget<'a> {
    readers: &'a Readers,
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
        // Nobody who still reconnects is to take the markers for granted.
        let without_stream = self.readers.await_streams(PATIENCE)?;
        let mut connection = PublishConnection::new(self.server.address);
        if !Batch::markers(self.ledger).publish(&mut connection, self.ledger, self.problems, self.never) {
            return Err("the markers of a round's end were not acknowledged".to_owned());
        }
        let without_markers = self.readers.await_markers(PATIENCE)?;
        let mut findings = self.readers.verify(self.ledger.end_round())?;
        findings.absent = (without_stream + without_markers) as u64;
        if findings.absent > 0 {
            findings.examples.push(format!(
                "after the fault {without_stream} subscribers get no stream, {without_markers} not what was published last"
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
