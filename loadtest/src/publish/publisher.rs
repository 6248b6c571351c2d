//! One publishing thread: a schedule, the topics it serves, and a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use memchr::memmem;

use super::Connection;
use crate::client::{Delivered, Timings, record, timings};
use crate::clock::{self, SECOND};
use crate::failure::{Failure, Outcome, excerpt};
use crate::secrets;
use crate::stamp::{Payload, Stamp};
use crate::sys;
use crate::target::{Template, Values};
use crate::tls::Tls;

/// Topics that are published to in turn, and how their names are made.
#[derive(Clone)]
pub(crate) struct Route {
    /// Where the requests of the template go.
    pub(crate) address: SocketAddr,
    pub(crate) template: Template,
    pub(crate) tls: Tls,
    /// Numbers and names of the topics.
    pub(crate) topics: Vec<(u32, String)>,
    pub(crate) run: u32,
    pub(crate) size: usize,
    pub(crate) payload: Payload,
    /// How long an answer may take.
    pub(crate) patience: Duration,
    /// Requests under way at a time.
    pub(crate) pipeline: usize,
    pub(crate) cores: Vec<usize>,
}

/// When events are published.
#[derive(Clone)]
pub(crate) enum Pace {
    /// Open loop: event `i` is due at `start + i / rate`, in groups of `burst` that are due together.
    Schedule { start: u64, rate: f64, burst: u64, count: u64 },
    /// Without a pause until a time, but at most `window` events ahead of the crowd, whose deliveries are
    /// read from `delivered`, `each` per event. This is a closed loop and its latency says nothing.
    Flat { until: u64, window: u64, each: u64, delivered: Delivered },
}

/// What the publisher saw.
pub(crate) struct Tally {
    /// From sending a publish to its answer.
    pub(crate) answer: Timings,
    /// From the intended time to sending.
    pub(crate) lag: Timings,
    pub(crate) cpu_ns: u64,
    pub(crate) sent: u64,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { answer: timings(), lag: timings(), cpu_ns: 0, sent: 0 }
    }
}

/// A running publisher.
pub(crate) struct Publisher {
    handle: JoinHandle<Outcome<Tally>>,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    /// Starts. `sequences` are the next numbers per topic of the run, shared with what counts them at the
    /// end.
    pub(crate) fn start(route: Route, pace: Pace, sequences: Arc<Vec<AtomicU64>>) -> Outcome<Publisher> {
        let progress = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, halt) = (progress.clone(), stop.clone());
        let connection =
            Connection::new(route.address, &route.template, &route.tls, route.patience, halt.clone())?;
        let handle = std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || {
                if !route.cores.is_empty() {
                    // Where the cores do not exist the crowd has complained already.
                    let _ = sys::pin(0, &route.cores);
                }
                sys::precise_timers();
                Thread {
                    connection,
                    route,
                    sequences,
                    tally: Tally::new(),
                    progress: seen,
                    stop: halt,
                    data: Vec::new(),
                    request: Vec::new(),
                }
                .run(&pace)
            })
            .map_err(|error| Failure::new(format!("the publisher cannot be started: {error}")))?;
        Ok(Publisher { handle, progress, stop })
    }

    /// Events sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.handle.is_finished()
    }

    /// No further events.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn finish(self) -> Outcome<Tally> {
        self.handle
            .join()
            .unwrap_or_else(|_| Err(Failure::new("the publisher panicked; this is a bug of the load test")))
    }
}

struct Thread {
    route: Route,
    sequences: Arc<Vec<AtomicU64>>,
    connection: Connection,
    tally: Tally,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    data: Vec<u8>,
    request: Vec<u8>,
}

impl Thread {
    fn run(mut self, pace: &Pace) -> Outcome<Tally> {
        match self.follow(pace) {
            // A publisher that was stopped left an answer behind; that is no failure of the server.
            Err(failure) if !self.halted() => return Err(failure),
            _ => {}
        }
        self.tally.cpu_ns = sys::thread_cpu_ns();
        Ok(self.tally)
    }

    fn follow(&mut self, pace: &Pace) -> Outcome<()> {
        match *pace {
            Pace::Schedule { start, rate, burst, count } => {
                let burst = burst.max(1);
                for index in 0..count {
                    let turn = index / burst * burst;
                    let intended = start + (turn as f64 * SECOND as f64 / rate) as u64;
                    if clock::now() < intended {
                        self.drain()?;
                        clock::sleep_until(intended);
                    }
                    if self.halted() {
                        break;
                    }
                    self.publish(index, intended)?;
                }
            }
            Pace::Flat { until, window, each, ref delivered } => {
                let before = delivered();
                let mut index = 0;
                while clock::now() < until && !self.halted() {
                    let taken = (delivered() - before) / each.max(1);
                    if index - taken.min(index) >= window {
                        self.drain()?;
                        sys::sleep_until_ns(clock::now() + 50_000);
                        continue;
                    }
                    self.publish(index, clock::now())?;
                    index += 1;
                }
            }
        }
        self.drain()
    }

    fn halted(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || sys::interrupted()
    }

    fn drain(&mut self) -> Outcome<()> {
        while self.connection.under_way() > 0 {
            self.answer()?;
        }
        Ok(())
    }

    /// Waits for the answer to the oldest request. An error says what was asked.
    fn answer(&mut self) -> Outcome<()> {
        self.connection.answer(&mut self.tally).map_err(|failure| {
            let Route { template, topics, .. } = &self.route;
            let values = Values { topic: topics.first().map_or("", |(_, name)| name), ..Values::default() };
            let body = memmem::find(&self.request, b"\r\n\r\n").map_or(&[][..], |at| &self.request[at + 4..]);
            Failure::new(format!(
                "{failure}; it was {} {} with the body `{}`",
                template.method,
                secrets::url(&template.filled_url(values)),
                excerpt(secrets::body(&String::from_utf8_lossy(body)).as_bytes())
            ))
        })
    }

    fn publish(&mut self, index: u64, intended: u64) -> Outcome<()> {
        while self.connection.under_way() >= self.route.pipeline.max(1) {
            self.answer()?;
        }
        let (number, name) = &self.route.topics[(index % self.route.topics.len() as u64) as usize];
        // Only this thread publishes to this topic, so the number read is the number taken.
        let counter = &self.sequences[*number as usize];
        let sequence = counter.load(Ordering::Relaxed);
        let stamp = Stamp { run: self.route.run, topic: *number, sequence, intended };
        stamp.write(self.route.size, self.route.payload, &mut self.data);
        let data = std::str::from_utf8(&self.data).unwrap_or_default();
        self.request.clear();
        let values = Values { topic: name, data, sequence, ..Values::default() };
        self.route.template.request(None, values, &mut self.request)?;
        record(&mut self.tally.lag, clock::now().saturating_sub(intended));
        // Counted first: a thread that reads the count knows that an event beyond it had not been sent yet.
        counter.store(sequence + 1, Ordering::Relaxed);
        if let Err(failure) = self.connection.send(&self.request) {
            counter.store(sequence, Ordering::Relaxed);
            return Err(failure);
        }
        self.tally.sent += 1;
        self.progress.store(self.tally.sent, Ordering::Relaxed);
        Ok(())
    }
}
