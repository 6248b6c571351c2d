//! The crowd: many subscribers on a few threads, each thread with a descriptor table and a loop of its own.

mod ids;
mod observations;
mod series;
mod subscriber;
mod transfer;
mod worker;
mod zipf;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

pub(crate) use ids::IdFigures;
pub(crate) use observations::{
    EVENTS_WATCHED, Observations, Spread, ThreadObservations, Timings, record, timings,
};
pub(crate) use series::{Second, Series};
pub(crate) use subscriber::BYTES as SUBSCRIBER_BYTES;

pub(crate) use zipf::Zipf;

use crate::distributed::Offset;
use crate::failure::{Failure, Outcome};
use crate::sample;
use crate::sequence::Faults;
use crate::sources::Sources;
use crate::subscription::Subscriptions;
use crate::sys::Waker;
use crate::tls::Tls;
use crate::tun::Networks;

/// Subscribers that share a purpose: latency and faults are counted per group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) subscribers: usize,
    /// The topics are numbered through all groups; these are the group's, in turn.
    pub(crate) first_topic: u32,
    pub(crate) topics: u32,
    /// Topics of each stream.
    pub(crate) per_stream: u32,
    /// How much rarer the topics get, by Zipf's law; `None`: they are taken in turn.
    pub(crate) popularity: Option<Arc<Zipf>>,
}

impl Group {
    /// The topics of a subscriber, by its number in the group, in order and each once.
    pub(crate) fn topics_of(&self, number: usize) -> Vec<u32> {
        let chosen = match &self.popularity {
            Some(zipf) => zipf.choose(number as u64, self.per_stream),
            None => {
                let first = number as u64 * u64::from(self.per_stream);
                let mut turn: Vec<u32> = (first..first + u64::from(self.per_stream))
                    .map(|turn| (turn % u64::from(self.topics)) as u32)
                    .collect();
                turn.sort_unstable();
                turn
            }
        };
        chosen.into_iter().map(|topic| self.first_topic + topic).collect()
    }
}

/// Reads how many deliveries there were so far.
pub(crate) type Delivered = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How streams share connections of HTTP/2.
pub(crate) struct Http2Plan {
    pub(crate) tls: Tls,
    pub(crate) streams_per_connection: usize,
}

/// What the crowd is to do; fixed before it starts.
pub(crate) struct Plan {
    pub(crate) subscriptions: Subscriptions,
    pub(crate) tls: Tls,
    pub(crate) http2: Option<Http2Plan>,
    /// Streams may be compressed.
    pub(crate) accepts_gzip: bool,
    pub(crate) groups: Vec<Group>,
    /// Subscribers, the first ones by their numbers, that open their streams at the start; the others wait
    /// for [`Command::Admit`].
    pub(crate) admitted: usize,
    /// Threads of the whole run, and of these this machine's own.
    pub(crate) threads: usize,
    pub(crate) own_threads: Range<usize>,
    pub(crate) cores: Vec<usize>,
    pub(crate) sources: Sources,
    /// Connections are this program's own, over TUN devices; `None`: they are the kernel's.
    pub(crate) tun: Option<Networks>,
    /// Connects a second, over all threads.
    pub(crate) connect_rate: f64,
    /// Streams that are being opened at the same time, over all threads.
    pub(crate) connect_burst: usize,
    pub(crate) head_timeout_ns: u64,
    /// The delay before a reconnect where the server names none.
    pub(crate) retry_ms: u32,
    /// Send `Last-Event-ID` at a reconnect.
    pub(crate) resume: bool,
    /// How many events of each topic were published so far; counted before they are sent.
    pub(crate) published: Arc<Vec<AtomicU64>>,
    /// How long an event may be outstanding when nothing arrives any more.
    pub(crate) patience_ns: u64,
    pub(crate) receive_buffer: usize,
    pub(crate) run: u32,
    /// Sequence numbers at which a new latency histogram begins; what is below the first is not measured.
    pub(crate) phases: Vec<u64>,
    /// When the run began, on the publisher's clock.
    pub(crate) start: u64,
    /// From this machine's clock to the publisher's.
    pub(crate) offset: Arc<Offset>,
    /// Events that are not this run's are judged, too.
    pub(crate) listens: bool,
    /// A stream that ends is opened again.
    pub(crate) comes_back: bool,
    /// A stream that cannot be opened is counted by its kind, and does not end the run.
    pub(crate) counts_errors: bool,
    /// The longest line and the longest data of an event, in bytes.
    pub(crate) line_bytes: usize,
    /// The silence of a stream that is too long.
    pub(crate) silence_ns: u64,
    /// The group that stalls on purpose, and its receive buffers: small, so that its backlog is the server's.
    pub(crate) stalls: Option<(u8, usize)>,
}

impl Plan {
    pub(crate) fn subscribers(&self) -> usize {
        self.groups.iter().map(|group| group.subscribers).sum()
    }

    /// The place of a subscriber's number among those of this machine.
    fn own_number(&self, number: usize) -> usize {
        let (turn, thread) = (number / self.threads, number % self.threads);
        turn * self.own_threads.len() + thread.saturating_sub(self.own_threads.start)
    }

    /// Group and topics of a subscriber's number.
    fn place(&self, number: usize) -> (u8, Vec<u32>) {
        let mut left = number;
        for (index, group) in self.groups.iter().enumerate() {
            if left < group.subscribers {
                return (index as u8, group.topics_of(left));
            }
            left -= group.subscribers;
        }
        unreachable!("subscriber {number} is in no group")
    }

    pub(crate) fn topics(&self) -> u32 {
        self.groups.iter().map(|group| group.first_topic + group.topics).max().unwrap_or(0)
    }
}

/// Where the run stands, for what an ended stream means.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Streams are being opened; nothing may end.
    Opening = 0,
    /// Streams that end are opened again.
    Live = 1,
    /// Nothing matters any more.
    Over = 2,
}

/// What a worker can be told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Measure own CPU and loop delay from now on, or no longer.
    Window { begins: bool },
    /// Stop reading from all of a group, or read again.
    Stall { group: u8, stalled: bool },
    /// Close every stream, and open none.
    CutAll,
    /// Open every stream again at once.
    Return,
    /// The first subscribers, so many, are to be there; the others leave. Over all threads.
    Admit { subscribers: u64 },
    /// So many subscribers a second leave, and as many join; 0 ends it. Over all threads.
    Churn { per_second: f64 },
    /// Tell how many deliveries are owed to those who are there.
    Owed,
    /// Tell what was seen so far.
    Seen,
    /// Observations: so many events were published to each topic.
    Finish { published: Arc<Vec<u64>> },
}

/// What a worker and the conductor share while the run lasts.
struct Control {
    commands: Mutex<Vec<Command>>,
    waker: Waker,
    open: AtomicU64,
    opened: AtomicU64,
    /// Subscribers whose first stream could not be opened, and that have not had one since.
    failed: AtomicU64,
    /// Subscribers whose stream ended and is not opened again.
    over: AtomicU64,
    delivered: AtomicU64,
    damaged: AtomicU64,
    /// Bytes that wait in the receive buffers of the streams that stall, when that was asked last.
    waiting: AtomicU64,
    /// The answer to [`Command::Owed`]; [`NO_ANSWER`] before it.
    owed: AtomicU64,
    /// The answer to [`Command::Seen`].
    seen: Mutex<Option<SeenSoFar>>,
    thread: AtomicI32,
}

/// What the subscribers of a run that is under way have seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SeenSoFar {
    /// Of all deliveries that are measured, without those to subscribers that stall on purpose; in a run that
    /// listens the time between two events of a stream.
    #[serde(with = "transfer")]
    pub(crate) latency: Timings,
    /// What is lost shows at the end only.
    pub(crate) faults: Faults,
}

impl SeenSoFar {
    /// Both together.
    pub(crate) fn with(mut self, other: SeenSoFar) -> SeenSoFar {
        // It grows as far as the other, so adding cannot fail.
        let _ = self.latency.add(&other.latency);
        self.faults.add(other.faults);
        self
    }
}

const NO_ANSWER: u64 = u64::MAX;

/// What all workers share.
struct Common {
    phase: AtomicU8,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

/// Keeps on after a panic elsewhere: what is behind these locks has no state that could be half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Common {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Opening,
            1 => Phase::Live,
            _ => Phase::Over,
        }
    }

    /// Ends the run; the first reason is the one that is told.
    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.failed.store(true, Ordering::Release);
    }
}

/// The running workers.
pub(crate) struct Crowd {
    common: Arc<Common>,
    controls: Vec<Arc<Control>>,
    handles: Vec<JoinHandle<Option<Observations>>>,
}

impl Crowd {
    /// Starts the threads, which open their streams at once.
    pub(crate) fn start(plan: Plan) -> Outcome<Crowd> {
        let failed = |error| Failure::new(format!("a client thread cannot be started: {error}"));
        if plan.http2.is_some() {
            worker::prepare_http2().map_err(failed)?;
        }
        let plan = Arc::new(plan);
        let common = Arc::new(Common {
            phase: AtomicU8::new(Phase::Opening as u8),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let mut controls = Vec::new();
        for _ in plan.own_threads.clone() {
            controls.push(Arc::new(Control {
                commands: Mutex::default(),
                waker: Waker::new().map_err(failed)?,
                open: AtomicU64::new(0),
                opened: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                over: AtomicU64::new(0),
                waiting: AtomicU64::new(0),
                delivered: AtomicU64::new(0),
                damaged: AtomicU64::new(0),
                owed: AtomicU64::new(NO_ANSWER),
                seen: Mutex::default(),
                thread: AtomicI32::new(0),
            }));
        }
        let mut handles = Vec::new();
        for (index, control) in plan.own_threads.clone().zip(&controls) {
            let (plan, common, control) = (plan.clone(), common.clone(), control.clone());
            let spawned = std::thread::Builder::new()
                .name(format!("crowd-{index}"))
                .spawn(move || worker::run(index, &plan, &common, &control))
                .map_err(failed)?;
            handles.push(spawned);
        }
        Ok(Crowd { common, controls, handles })
    }

    fn sum(&self, value: impl Fn(&Control) -> &AtomicU64) -> u64 {
        self.controls.iter().map(|control| value(control).load(Ordering::Relaxed)).sum()
    }

    /// Streams that are open now.
    pub(crate) fn open(&self) -> u64 {
        self.sum(|control| &control.open)
    }

    /// Subscribers whose first stream could not be opened, and that have not had one since.
    pub(crate) fn failed(&self) -> u64 {
        self.sum(|control| &control.failed)
    }

    /// Subscribers whose stream ended and is not opened again.
    pub(crate) fn over(&self) -> u64 {
        self.sum(|control| &control.over)
    }

    /// Bytes in the receive buffers of the streams that stalled, at the time when they read again.
    pub(crate) fn waiting(&self) -> u64 {
        self.sum(|control| &control.waiting)
    }

    /// Events so far that were cut short or changed.
    pub(crate) fn damaged(&self) -> u64 {
        self.sum(|control| &control.damaged)
    }

    /// Deliveries of this run's events so far, repeated ones not counted.
    pub(crate) fn delivered(&self) -> u64 {
        self.sum(|control| &control.delivered)
    }

    /// The same for another thread.
    pub(crate) fn delivered_reader(&self) -> Delivered {
        let controls = self.controls.clone();
        Arc::new(move || controls.iter().map(|control| control.delivered.load(Ordering::Relaxed)).sum())
    }

    /// Asks every worker how many deliveries are owed to those who are there.
    pub(crate) fn ask_owed(&self) {
        self.controls.iter().for_each(|control| control.owed.store(NO_ANSWER, Ordering::Release));
        self.tell(|| Command::Owed);
    }

    /// The answer, when everybody has given it.
    pub(crate) fn owed(&self) -> Option<u64> {
        let answer = |control: &Arc<Control>| {
            Some(control.owed.load(Ordering::Acquire)).filter(|&owed| owed != NO_ANSWER)
        };
        self.controls.iter().map(answer).sum()
    }

    /// Asks every worker what was seen so far.
    pub(crate) fn ask_seen(&self) {
        self.controls.iter().for_each(|control| *lock(&control.seen) = None);
        self.tell(|| Command::Seen);
    }

    /// The answer, when everybody has given it.
    pub(crate) fn seen(&self) -> Option<SeenSoFar> {
        if self.controls.iter().any(|control| lock(&control.seen).is_none()) {
            return None;
        }
        let answers = self.controls.iter().filter_map(|control| lock(&control.seen).take());
        answers.reduce(SeenSoFar::with)
    }

    /// Streams that were opened so far, reopened ones again.
    pub(crate) fn opened(&self) -> u64 {
        self.sum(|control| &control.opened)
    }

    /// How long each thread ran and waited for a core so far.
    pub(crate) fn schedule(&self) -> Vec<(u64, u64)> {
        let threads = self.controls.iter().map(|control| control.thread.load(Ordering::Relaxed));
        threads.map(|thread| sample::schedule(thread).unwrap_or((0, 0))).collect()
    }

    /// User memory of this process.
    pub(crate) fn own_bytes(&self) -> u64 {
        sample::own_bytes()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.common.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Why the run is over before its time, if it is.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.common.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.common.failure).clone()
    }

    /// Tells every worker.
    pub(crate) fn tell(&self, command: impl Fn() -> Command) {
        for control in &self.controls {
            lock(&control.commands).push(command());
            control.waker.wake();
        }
    }

    /// Ends the run and collects what each worker saw.
    pub(crate) fn finish(self, published: Vec<u64>) -> Outcome<Observations> {
        self.enter(Phase::Over);
        let published = Arc::new(published);
        self.tell(|| Command::Finish { published: published.clone() });
        let mut whole: Option<Observations> = None;
        for handle in self.handles {
            match handle.join() {
                Ok(Some(report)) => match &mut whole {
                    Some(whole) => whole.add(report),
                    None => whole = Some(report),
                },
                Ok(None) => {}
                Err(_) => {
                    return Err(Failure::new("a client thread panicked; this is a bug of the load test"));
                }
            }
        }
        let failure = lock(&self.common.failure).clone();
        whole.ok_or_else(|| failure.unwrap_or_else(|| Failure::new("no client thread could start")))
    }
}
