//! An agent as its controller sees it: its connection, its clock, and what it has said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::client::{Observations, SeenSoFar, Spread};
use crate::clock::{self, nanoseconds};
use crate::distributed::clocks::{Clock, Measured, best};
use crate::distributed::messages::{Order, Progress, Reply, Sample};
use crate::distributed::protocol::{Connection, Machine};
use crate::failure::{Failure, Outcome};
use crate::sys;

/// Round trips before and after a run.
const SERIES: usize = 16;
/// How long an agent may take for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long it may take to say what it has seen.
const RESULT: Duration = Duration::from_secs(300);

/// What an agent has said.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) progress: Progress,
    pub(super) failure: Option<Failure>,
    /// The answer to a ping of a series.
    pong: Option<Measured>,
    /// The answer to the assignment.
    pub(super) ready: Option<Result<Vec<String>, String>>,
    /// The highest number of an order that the threads were told.
    pub(super) heard: u64,
    pub(super) owed: Option<(u64, u64)>,
    pub(super) seen: Option<(u64, SeenSoFar)>,
    pub(super) sample: Option<(u64, Sample)>,
    observed: Option<Result<Observations, String>>,
}

/// An agent.
pub(super) struct RemoteAgent {
    pub(super) name: String,
    pub(super) machine: Machine,
    pub(super) connection: Connection,
    pub(super) clock: Mutex<Option<Clock>>,
    pub(super) heard: Mutex<Heard>,
    news: Condvar,
    /// It is not needed any more: that it is gone then is no loss.
    pub(super) over: AtomicBool,
    gone: AtomicBool,
}

impl RemoteAgent {
    /// One that has joined, and has said nothing yet.
    pub(super) fn new(name: String, machine: Machine, connection: Connection) -> RemoteAgent {
        RemoteAgent {
            name,
            machine,
            connection,
            clock: Mutex::default(),
            heard: Mutex::default(),
            news: Condvar::new(),
            over: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    pub(super) fn failure(&self, text: impl std::fmt::Display) -> Failure {
        let text = text.to_string();
        let lines: Vec<String> = text.lines().map(|line| format!("agent {}: {line}", self.name)).collect();
        Failure::new(lines.join("\n"))
    }

    /// The first reason counts.
    fn fail(&self, text: impl std::fmt::Display) {
        lock(&self.heard).failure.get_or_insert(self.failure(text));
        self.news.notify_all();
    }

    pub(super) fn send(&self, order: &Order) -> Outcome<()> {
        self.connection.send(order).map_err(|error| {
            self.fail(format!("it is lost: {error}"));
            self.failure(format!("it is lost: {error}"))
        })
    }

    /// Waits for something that the agent says.
    pub(super) fn wait<T>(
        &self,
        time: Duration,
        what: &str,
        take: impl Fn(&mut Heard) -> Option<T>,
    ) -> Outcome<T> {
        let until = clock::now() + nanoseconds(time);
        let mut heard = lock(&self.heard);
        loop {
            if let Some(found) = take(&mut heard) {
                return Ok(found);
            }
            if let Some(failure) = &heard.failure {
                return Err(failure.clone());
            }
            let left = Duration::from_nanos(until.saturating_sub(clock::now()));
            if left.is_zero() {
                let text = format!("it is late: {what} did not come within {} s", time.as_secs());
                let failure = heard.failure.get_or_insert(self.failure(text)).clone();
                return Err(failure);
            }
            let waited = self.news.wait_timeout(heard, left.min(Duration::from_millis(100)));
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that the agent says, until it has said the last or is gone.
    pub(super) fn receive(&self) {
        self.hear();
        self.gone.store(true, Ordering::SeqCst);
        self.news.notify_all();
    }

    fn hear(&self) {
        loop {
            let received = match self.connection.receive::<Reply>() {
                Ok(received) => received,
                Err(error) => {
                    if !self.over.load(Ordering::SeqCst) {
                        self.fail(format!("it is lost: {error}"));
                    }
                    return;
                }
            };
            match received.message {
                Reply::Pong { series, asked, received: there, answered } => {
                    let measured = Measured::of(asked, there, answered, received.at);
                    if series {
                        lock(&self.heard).pong = Some(measured);
                    } else if let Some(clock) = lock(&self.clock).as_mut()
                        && let Some(translation) = clock.add(measured)
                    {
                        let _ = self.send(&Order::Clock(translation));
                    }
                }
                Reply::Ready { notes } => lock(&self.heard).ready = Some(Ok(notes)),
                Reply::Refused(text) => lock(&self.heard).ready = Some(Err(text)),
                Reply::Progress(progress) => lock(&self.heard).progress = progress,
                Reply::Failed(text) => self.fail(text),
                Reply::Heard { number } => lock(&self.heard).heard = number,
                Reply::Owed { number, deliveries } => lock(&self.heard).owed = Some((number, deliveries)),
                Reply::Seen { number, seen } => lock(&self.heard).seen = Some((number, seen)),
                Reply::Sample { number, sample } => lock(&self.heard).sample = Some((number, sample)),
                Reply::Unobserved(text) => lock(&self.heard).observed = Some(Err(text)),
                Reply::Observed { mut observations, spreads } => {
                    let received = spreads.iter().map(|&length| {
                        let bytes = self.connection.receive_bytes(usize::try_from(length).unwrap_or(0))?;
                        Spread::from_bytes(&bytes).ok_or_else(|| std::io::Error::other("its result is cut"))
                    });
                    match received.collect::<std::io::Result<Vec<_>>>() {
                        Ok(spreads) => {
                            observations.spreads = spreads;
                            lock(&self.heard).observed = Some(Ok(*observations));
                        }
                        Err(error) => return self.fail(format!("it is lost: {error}")),
                    }
                }
            }
            self.news.notify_all();
        }
    }

    /// How far its clock is from this one's: the shortest of several round trips counts.
    pub(super) fn measure(&self) -> Outcome<Measured> {
        let mut series = Vec::new();
        for _ in 0..SERIES {
            lock(&self.heard).pong = None;
            self.send(&Order::Ping { series: true, asked: clock::now() })?;
            series.push(self.wait(ANSWER, "its time", |heard| heard.pong.take())?);
        }
        best(&series).ok_or_else(|| self.failure("its clock was not measured"))
    }

    /// What it saw. An agent whose streams failed has seen something, too.
    pub(super) fn result(&self) -> Outcome<Observations> {
        let since = clock::now();
        loop {
            let mut heard = lock(&self.heard);
            match heard.observed.take() {
                Some(Ok(observed)) => return Ok(observed),
                Some(Err(text)) => return Err(self.failure(text)),
                None => {}
            }
            let patience = if sys::interrupted() { ANSWER } else { RESULT };
            if self.gone.load(Ordering::SeqCst) || clock::now() - since > nanoseconds(patience) {
                let text = "it did not say what it saw";
                return Err(heard.failure.get_or_insert_with(|| self.failure(text)).clone());
            }
            drop(self.news.wait_timeout(heard, Duration::from_millis(50)));
        }
    }
}
