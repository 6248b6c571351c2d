//! A load machine: it holds a part of a run's subscribers and does what a controller tells it.
//!
//! One thread receives, another one reports several hundred times a second what the subscribers' threads have
//! counted. When the controller says nothing any more, the streams are closed and the agent waits for the
//! next controller.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;

use super::Offset;
use super::assignment::{Assignment, Own};
use super::clocks::Translation;
use super::messages::{Order, Progress, Reply, Sample, Told};
use super::protocol::{Connection, Role};
use super::serve::{self, Listen};
use crate::client::{Command, Crowd, Phase, Spread};
use crate::clock::{self, MILLISECOND};
use crate::cores::Cores;
use crate::failure::{Failure, Outcome};
use crate::limits::preflight;
use crate::steer::Kept;
use crate::subscription::Lists;
use crate::{sample, sys};

/// Between two reports, at least and at most.
const REPORT: Duration = Duration::from_millis(1);
const REPORT_AT_LEAST: u64 = 200 * MILLISECOND;
/// Between two looks at how much memory is left.
const MEMORY_CHECK: u64 = 50 * MILLISECOND;
/// Text of all lists together.
const LIST_BYTES: usize = 1 << 30;

/// Hold subscribers of runs that a controller conducts.
#[derive(Args, Clone, Debug)]
pub(crate) struct Agent {
    #[command(flatten)]
    listen: Listen,
    /// Cores of the subscribers' threads [default: all]
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Source addresses of this machine, as the scenarios' option has them
    #[arg(long)]
    sources: Option<String>,
    /// For tests: this machine's clock is ahead by so much
    #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true)]
    clock_ahead_ns: i64,
    /// For tests: this machine's clock gains so much
    #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true)]
    clock_gains_ppm: i64,
}

impl Agent {
    /// Serves controllers until Ctrl-C.
    ///
    /// # Errors
    /// The address cannot be listened on, the token is too short, or the cores do not exist.
    pub(crate) fn serve(self) -> Outcome<()> {
        clock::skew(self.clock_ahead_ns, self.clock_gains_ppm);
        let kept = (!self.cores.is_empty()).then(|| Kept::on(&self.cores)).transpose()?;
        let cores = sys::allowed_cores().len();
        let options = self.clone();
        let result = serve::serve(&self.listen, Role::Agent, cores, move |connection| {
            Service::new(connection, &options).run()
        });
        drop(kept);
        result
    }
}

/// What the thread that receives and the one that reports share.
struct Shared {
    connection: Connection,
    translation: Mutex<Translation>,
    offset: Arc<Offset>,
    /// There from the begin of the run to its end.
    crowd: Mutex<Option<Crowd>>,
    /// The number of the question for what is owed, and of that for what was seen, that have no answer yet;
    /// -1: there is none.
    owed: AtomicI64,
    seen: AtomicI64,
    least_memory: AtomicU64,
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One controller is served.
struct Service<'a> {
    options: &'a Agent,
    shared: Arc<Shared>,
    lists: Lists,
    list_bytes: usize,
    /// What is to be begun.
    prepared: Option<(Box<Assignment>, Own)>,
    published: Arc<Vec<AtomicU64>>,
    finished: bool,
}

impl Service<'_> {
    fn new(connection: Connection, options: &Agent) -> Service<'_> {
        Service {
            options,
            shared: Arc::new(Shared {
                connection,
                translation: Mutex::default(),
                offset: Arc::default(),
                crowd: Mutex::default(),
                owed: AtomicI64::new(-1),
                seen: AtomicI64::new(-1),
                least_memory: AtomicU64::new(0),
                over: AtomicBool::new(false),
            }),
            lists: Lists::default(),
            list_bytes: 0,
            prepared: None,
            published: Arc::default(),
            finished: false,
        }
    }

    /// Serves the controller until it needs nothing any more, or is gone.
    fn run(mut self) -> Outcome<()> {
        let shared = self.shared.clone();
        let reporter = std::thread::Builder::new()
            .name("reporter".to_owned())
            .spawn(move || report(&shared))
            .map_err(|error| Failure::new(format!("a thread cannot be started: {error}")))?;
        let result = self.obey();
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.connection.close();
        // All streams are closed, whatever the reason was.
        if let Some(crowd) = lock(&self.shared.crowd).take() {
            let _ = crowd.finish(Vec::new());
        }
        let _ = reporter.join();
        match result {
            Err(error) if !self.finished => {
                Err(Failure::new(format!("it is gone, and the streams are closed: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn obey(&mut self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let send = |reply: &Reply| shared.connection.send(reply);
        loop {
            let received = shared.connection.receive::<Order>()?;
            match received.message {
                Order::Ping { series, asked } => {
                    let answered = clock::now();
                    send(&Reply::Pong { series, asked, received: received.at, answered })?;
                }
                Order::Clock(translation) => {
                    *lock(&shared.translation) = translation;
                    shared.offset.set(translation.offset_at(clock::now()));
                }
                Order::Urls(lines) => self.list(lines, true)?,
                Order::Values(lines) => self.list(lines, false)?,
                Order::Assignment(assignment) => send(&match self.prepare(assignment) {
                    Ok(notes) => Reply::Ready { notes },
                    Err(failure) => Reply::Refused(failure.to_string()),
                })?,
                Order::Begin { start } => {
                    if let Err(failure) = self.begin(start) {
                        send(&Reply::Failed(failure.to_string()))?;
                    }
                }
                Order::Published(counts) => {
                    for (topic, count) in counts {
                        if let Some(published) = self.published.get(topic as usize) {
                            published.store(count, Ordering::Relaxed);
                        }
                    }
                }
                Order::Tell { number, told } => {
                    self.tell(number, told);
                    send(&Reply::Heard { number })?;
                }
                Order::Sample { number } => send(&Reply::Sample { number, sample: self.sample() })?,
                Order::Finish => self.finish()?,
                Order::Bye => {
                    self.finished = true;
                    return Ok(());
                }
            }
        }
    }

    fn list(&mut self, lines: Vec<String>, urls: bool) -> std::io::Result<()> {
        self.list_bytes += lines.iter().map(|line| line.len() + size_of::<String>()).sum::<usize>();
        if self.list_bytes > LIST_BYTES {
            return Err(std::io::Error::other("it sent lists of more than 1 GiB"));
        }
        let list = if urls { &mut self.lists.urls } else { &mut self.lists.values };
        list.get_or_insert_default().extend(lines);
        Ok(())
    }

    /// Looks at everything that could stand in the way.
    fn prepare(&mut self, mut assignment: Box<Assignment>) -> Outcome<Vec<String>> {
        if self.prepared.is_some() || self.finished || lock(&self.shared.crowd).is_some() {
            return Err(Failure::new("it has an assignment already"));
        }
        assignment.lists = std::mem::take(&mut self.lists);
        assignment.sources = self.options.sources.clone().or(assignment.sources);
        assignment.check()?;
        let subscriptions = assignment.subscriptions()?;
        let sources = assignment.sources(&subscriptions)?;
        let own = assignment.own_subscribers();
        let notes =
            preflight(subscriptions.targets()[0], own, assignment.own_threads.len() as u64, &sources)?;
        self.published = Arc::new((0..assignment.topics).map(|_| AtomicU64::new(0)).collect());
        self.shared.least_memory.store(assignment.least_memory, Ordering::Relaxed);
        let own = Own {
            subscriptions,
            cores: self.options.cores.clone(),
            sources,
            tun: None,
            published: self.published.clone(),
            offset: self.shared.offset.clone(),
        };
        self.prepared = Some((assignment, own));
        Ok(notes)
    }

    fn begin(&mut self, start: u64) -> Outcome<()> {
        let (mut assignment, own) =
            self.prepared.take().ok_or_else(|| Failure::new("there is nothing to begin"))?;
        assignment.start = start;
        let crowd = Crowd::start(assignment.plan(own)?)?;
        *lock(&self.shared.crowd) = Some(crowd);
        Ok(())
    }

    fn tell(&self, number: u64, told: Told) {
        let crowd = lock(&self.shared.crowd);
        let Some(crowd) = crowd.as_ref() else { return };
        match told {
            Told::Live => crowd.enter(Phase::Live),
            Told::Over => crowd.enter(Phase::Over),
            Told::Window { begins } => crowd.tell(|| Command::Window { begins }),
            Told::Stall { group, stalled } => crowd.tell(|| Command::Stall { group, stalled }),
            Told::CutAll => crowd.tell(|| Command::CutAll),
            Told::Return => crowd.tell(|| Command::Return),
            Told::Churn { per_second } => crowd.tell(|| Command::Churn { per_second }),
            Told::Admit { subscribers } => crowd.tell(|| Command::Admit { subscribers }),
            Told::Seen => {
                crowd.ask_seen();
                self.shared.seen.store(number as i64, Ordering::SeqCst);
            }
            Told::Owed => {
                crowd.ask_owed();
                self.shared.owed.store(number as i64, Ordering::SeqCst);
            }
        }
    }

    fn sample(&self) -> Sample {
        let schedule = lock(&self.shared.crowd).as_ref().map(Crowd::schedule).unwrap_or_default();
        Sample { schedule, own_bytes: sample::own_bytes(), cores: Cores::now() }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        let crowd = lock(&self.shared.crowd).take();
        let published = self.published.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let observed = match crowd {
            Some(crowd) => crowd.finish(published),
            None => Err(Failure::new("no run was begun")),
        };
        let mut observations = match observed {
            Ok(observations) => observations,
            Err(failure) => {
                return self.shared.connection.send(&Reply::Unobserved(failure.to_string()));
            }
        };
        let spreads: Vec<Vec<u8>> = std::mem::take(&mut observations.spreads)
            .iter()
            .map(|spreads| Spread::to_bytes(spreads))
            .collect();
        let lengths = spreads.iter().map(|bytes| bytes.len() as u64).collect();
        let reply = Reply::Observed { observations: Box::new(observations), spreads: lengths };
        self.shared.connection.send_after(&reply, &spreads)
    }
}

/// Tells the controller how far the subscribers are, and keeps the translation of the clock fresh, until the
/// service is over.
fn report(shared: &Shared) {
    let (mut told, mut told_at, mut looked_at) = (Progress::default(), 0, 0);
    let mut failed = false;
    while !shared.over.load(Ordering::SeqCst) {
        std::thread::sleep(REPORT);
        let now = clock::now();
        let translation = *lock(&shared.translation);
        shared.offset.set(translation.offset_at(now));
        let mut replies = Vec::new();
        {
            let crowd = lock(&shared.crowd);
            if let Some(crowd) = crowd.as_ref() {
                let progress = Progress::of(crowd);
                if progress != told {
                    (told, told_at) = (progress, 0);
                }
                let number = shared.owed.load(Ordering::SeqCst);
                if number >= 0
                    && let Some(deliveries) = crowd.owed()
                {
                    shared.owed.store(-1, Ordering::SeqCst);
                    replies.push(Reply::Owed { number: number as u64, deliveries });
                }
                let number = shared.seen.load(Ordering::SeqCst);
                if number >= 0
                    && let Some(seen) = crowd.seen()
                {
                    shared.seen.store(-1, Ordering::SeqCst);
                    replies.push(Reply::Seen { number: number as u64, seen });
                }
                let mut failure = crowd.failure().map(|failure| failure.to_string());
                let least = shared.least_memory.load(Ordering::Relaxed);
                if least > 0 && now.saturating_sub(looked_at) > MEMORY_CHECK {
                    looked_at = now;
                    let left = sample::available_bytes().map_or(u64::MAX, |bytes| bytes >> 20);
                    if left < least {
                        failure = Some(format!(
                            "memory was the limit: {left} MiB were left with {} streams open; --least-memory is {least}",
                            progress.open
                        ));
                    }
                }
                if let Some(text) = failure.filter(|_| !failed) {
                    failed = true;
                    replies.push(Reply::Failed(text));
                }
            }
        }
        if now.saturating_sub(told_at) >= REPORT_AT_LEAST {
            told_at = now;
            // Before an answer to what is owed: it is no older than the counters.
            replies.insert(0, Reply::Progress(told));
        }
        for reply in &replies {
            if shared.connection.send(reply).is_err() {
                // The thread that receives sees it, too.
                shared.connection.close();
                return;
            }
        }
    }
}
