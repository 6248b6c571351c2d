//! The controller's side: agents that hold the subscribers of one run together, as if they were this
//! machine's.
//!
//! A thread for each agent receives; what it hears is in [`Heard`]. One further thread, the pulse, tells the
//! agents what was published, and asks for their time. Orders are sent by the thread that conducts the run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::MachineFigures;
use super::assignment::Assignment;
use super::clocks::{Clock, Measured, best};
use super::messages::{Order, Progress, Reply, Sample, Told};
use super::protocol::{self, Connection, Machine, Role, Token};
use crate::client::{Command, Delivered, Observations, SeenSoFar, Spread, Stage};
use crate::clock::{self, MILLISECOND, nanoseconds};
use crate::failure::{Failure, Outcome, excerpt};
use crate::report::round;
use crate::sys;

/// Round trips before and after a run.
const SERIES: usize = 16;
/// Between two questions for an agent's time during a run.
const PING: u64 = 50 * MILLISECOND;
/// Between two looks at what was published.
const PULSE: Duration = Duration::from_millis(1);
/// For each topic the time between two looks is so long at least: a look at ten million takes some 10 ms.
const PULSE_A_TOPIC: u64 = 20;
/// Lines of a list, bytes of them, and counts, in one message.
const LINES: usize = 50_000;
const LINES_BYTES: usize = 4 << 20;
const COUNTS: usize = 100_000;

/// How long an agent may take for an answer; for the look at its limits; and for what it has seen.
const ANSWER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const PREPARATION: Duration = Duration::from_secs(120);
const RESULT: Duration = Duration::from_secs(300);

/// Descriptors of a thread that are not streams.
const SPARE: u64 = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an agent has said.
#[derive(Default)]
struct Heard {
    progress: Progress,
    failure: Option<Failure>,
    /// The answer to a ping of a series.
    pong: Option<Measured>,
    /// The answer to the assignment.
    ready: Option<Result<Vec<String>, String>>,
    /// The highest number of an order that the threads were told.
    heard: u64,
    owed: Option<(u64, u64)>,
    seen: Option<(u64, SeenSoFar)>,
    sample: Option<(u64, Sample)>,
    observed: Option<Result<Observations, String>>,
}

/// An agent.
struct Agent {
    name: String,
    machine: Machine,
    connection: Connection,
    clock: Mutex<Option<Clock>>,
    heard: Mutex<Heard>,
    news: Condvar,
    /// It is not needed any more: that it is gone then is no loss.
    over: AtomicBool,
    gone: AtomicBool,
}

impl Agent {
    fn failure(&self, text: impl std::fmt::Display) -> Failure {
        let text = text.to_string();
        let lines: Vec<String> = text.lines().map(|line| format!("agent {}: {line}", self.name)).collect();
        Failure::new(lines.join("\n"))
    }

    /// The first reason counts.
    fn fail(&self, text: impl std::fmt::Display) {
        lock(&self.heard).failure.get_or_insert(self.failure(text));
        self.news.notify_all();
    }

    fn send(&self, order: &Order) -> Outcome<()> {
        self.connection.send(order).map_err(|error| {
            self.fail(format!("it is lost: {error}"));
            self.failure(format!("it is lost: {error}"))
        })
    }

    /// Waits for something that the agent says.
    fn wait<T>(&self, time: Duration, what: &str, take: impl Fn(&mut Heard) -> Option<T>) -> Outcome<T> {
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
    fn receive(&self) {
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
    fn measure(&self) -> Outcome<Measured> {
        let mut series = Vec::new();
        for _ in 0..SERIES {
            lock(&self.heard).pong = None;
            self.send(&Order::Ping { series: true, asked: clock::now() })?;
            series.push(self.wait(ANSWER, "its time", |heard| heard.pong.take())?);
        }
        best(&series).ok_or_else(|| self.failure("its clock was not measured"))
    }
}

/// The agents of a run.
pub(crate) struct Agents {
    agents: Vec<Arc<Agent>>,
    pulse: Arc<Pulse>,
    threads: Vec<JoinHandle<()>>,
    /// Threads of each.
    shares: Vec<usize>,
    subscribers: Vec<u64>,
    /// Counts orders and questions.
    number: AtomicU64,
    /// Of the last question for what is owed, and of that for what was seen.
    owed: AtomicU64,
    seen: AtomicU64,
    /// Of each agent: the counters of its cores at the last two samples.
    cores: Mutex<Vec<[crate::cores::Cores; 2]>>,
}

/// What the pulse does and knows.
#[derive(Default)]
struct Pulse {
    agents: OnceLock<Vec<Arc<Agent>>>,
    over: AtomicBool,
    published: OnceLock<Arc<Vec<AtomicU64>>>,
    /// What the agents were told of that. It is held while they are told, so that counts never go back.
    told: Mutex<Vec<u64>>,
}

impl Pulse {
    fn run(&self) {
        let (mut pinged_at, mut told_at) = (0, 0);
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(PULSE);
            if let Some(published) = self.published.get()
                && clock::now() - told_at >= PULSE_A_TOPIC * published.len() as u64
            {
                told_at = clock::now();
                self.tell_published();
            }
            if clock::now() - pinged_at > PING {
                pinged_at = clock::now();
                for agent in self.agents.get().into_iter().flatten() {
                    let _ = agent.send(&Order::Ping { series: false, asked: clock::now() });
                }
            }
        }
    }

    /// Tells all agents what was published since they were told last. What cannot be sent has failed already.
    fn tell_published(&self) {
        let Some(published) = self.published.get() else { return };
        let mut told = lock(&self.told);
        told.resize(published.len(), 0);
        let mut changed = Vec::new();
        for (topic, (told, count)) in told.iter_mut().zip(published.iter()).enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count != *told {
                *told = count;
                changed.push((topic as u32, count));
            }
        }
        for counts in changed.chunks(COUNTS) {
            for agent in self.agents.get().into_iter().flatten() {
                let _ = agent.send(&Order::Published(counts.to_vec()));
            }
        }
    }
}

impl Agents {
    /// Joins all agents and measures their clocks.
    ///
    /// # Errors
    /// One cannot be joined; the text names it.
    pub(crate) fn join(names: &[String], token: &Token) -> Outcome<Agents> {
        let mut agents = Vec::new();
        let mut wrong = Vec::new();
        for name in names {
            match protocol::connect(name, Role::Agent, token) {
                Err(failure) => wrong.push(format!("agent {name}: {failure}")),
                Ok((connection, machine)) => agents.push(Arc::new(Agent {
                    name: name.clone(),
                    machine,
                    connection,
                    clock: Mutex::default(),
                    heard: Mutex::default(),
                    news: Condvar::new(),
                    over: AtomicBool::new(false),
                    gone: AtomicBool::new(false),
                })),
            }
        }
        if !wrong.is_empty() {
            return Err(Failure::new(wrong.join("\n")));
        }
        let pulse = Arc::new(Pulse::default());
        let _ = pulse.agents.set(agents.clone());
        let mut joined = Agents {
            cores: Mutex::new(agents.iter().map(|_| Default::default()).collect()),
            agents,
            pulse,
            threads: Vec::new(),
            shares: Vec::new(),
            subscribers: Vec::new(),
            number: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        };
        let failed = |error| Failure::new(format!("a thread cannot be started: {error}"));
        for agent in joined.agents.clone() {
            let builder = std::thread::Builder::new().name("agent".to_owned());
            joined.threads.push(builder.spawn(move || agent.receive()).map_err(failed)?);
        }
        for agent in &joined.agents {
            let clock = Clock::new(agent.measure()?);
            agent.send(&Order::Clock(clock.translation()))?;
            *lock(&agent.clock) = Some(clock);
        }
        let pulse = joined.pulse.clone();
        let builder = std::thread::Builder::new().name("pulse".to_owned());
        joined.threads.push(builder.spawn(move || pulse.run()).map_err(failed)?);
        Ok(joined)
    }

    /// Gives each agent its part, and has it look at its limits. Returns what may become one.
    ///
    /// # Errors
    /// Limits that are too low, and everything else that agents refuse, with their names.
    pub(crate) fn assign(&mut self, mut whole: Assignment, threads: Option<usize>) -> Outcome<Vec<String>> {
        let machines: Vec<&Machine> = self.agents.iter().map(|agent| &agent.machine).collect();
        self.shares = divide(whole.subscribers, threads, &machines)?;
        whole.threads = self.shares.iter().sum();
        let mut first = 0;
        for (agent, share) in self.agents.iter().zip(&self.shares) {
            whole.own_threads = first..first + share;
            first += share;
            self.subscribers.push(whole.own_subscribers());
            for lines in whole.lists.urls.iter().flat_map(|lines| pieces(lines)) {
                agent.send(&Order::Urls(lines.to_vec()))?;
            }
            for lines in whole.lists.values.iter().flat_map(|lines| pieces(lines)) {
                agent.send(&Order::Values(lines.to_vec()))?;
            }
            agent.send(&Order::Assignment(Box::new(whole.clone())))?;
        }
        let (mut notes, mut wrong) = (Vec::new(), Vec::new());
        let mut all_are_there = true;
        for agent in &self.agents {
            match agent.wait(PREPARATION, "the look at its limits", |heard| heard.ready.take()) {
                Ok(Ok(own)) => {
                    notes.extend(own.iter().map(|note| format!("agent {}: {note}", agent.name)));
                }
                Ok(Err(text)) => wrong.push(agent.failure(text).to_string()),
                Err(failure) => {
                    all_are_there = false;
                    wrong.push(failure.to_string());
                }
            }
            if agent.machine.commit != env!("FANFARE_LOAD_COMMIT") {
                notes.push(format!(
                    "agent {}: it is of commit {}, the controller of {}",
                    agent.name,
                    excerpt(agent.machine.commit.as_bytes()),
                    env!("FANFARE_LOAD_COMMIT")
                ));
            }
        }
        match (wrong.is_empty(), all_are_there) {
            (true, _) => Ok(notes),
            (false, true) => Err(Failure::limit(wrong.join("\n"))),
            (false, false) => Err(Failure::new(wrong.join("\n"))),
        }
    }

    /// Has all agents open their streams.
    pub(crate) fn begin(&self, start: u64, published: Arc<Vec<AtomicU64>>) -> Outcome<()> {
        let _ = self.pulse.published.set(published);
        for agent in &self.agents {
            if let Some(clock) = lock(&agent.clock).as_mut() {
                clock.begin();
            }
        }
        self.agents.iter().try_for_each(|agent| agent.send(&Order::Begin { start }))
    }

    fn sum(&self, value: impl Fn(&Progress) -> u64) -> u64 {
        self.agents.iter().map(|agent| value(&lock(&agent.heard).progress)).sum()
    }

    pub(super) fn open(&self) -> u64 {
        self.sum(|progress| progress.open)
    }

    pub(super) fn failed(&self) -> u64 {
        self.sum(|progress| progress.failed)
    }

    pub(super) fn over(&self) -> u64 {
        self.sum(|progress| progress.over)
    }

    pub(super) fn waiting(&self) -> u64 {
        self.sum(|progress| progress.waiting)
    }

    pub(super) fn damaged(&self) -> u64 {
        self.sum(|progress| progress.damaged)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.sum(|progress| progress.delivered)
    }

    pub(super) fn opened(&self) -> u64 {
        self.sum(|progress| progress.opened)
    }

    pub(super) fn delivered_reader(&self) -> Delivered {
        let agents = self.agents.clone();
        Arc::new(move || agents.iter().map(|agent| lock(&agent.heard).progress.delivered).sum())
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.agents.iter().find_map(|agent| lock(&agent.heard).failure.clone())
    }

    /// Tells the threads of all agents. A failure is there for [`Self::failure`].
    fn told(&self, told: Told) -> u64 {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        for agent in &self.agents {
            let _ = agent.send(&Order::Tell { number, told });
        }
        number
    }

    pub(super) fn tell(&self, command: &Command) {
        if let Some(told) = Told::of(command) {
            self.told(told);
        }
    }

    /// Returns when all agents know: what the server does next they have to judge by it.
    pub(super) fn stage(&self, stage: Stage) {
        let told = match stage {
            Stage::Opening => return,
            Stage::Live => Told::Live,
            Stage::Over => Told::Over,
        };
        let number = self.told(told);
        for agent in &self.agents {
            let _ = agent.wait(ANSWER, "an answer", |heard| (heard.heard >= number).then_some(()));
        }
    }

    pub(super) fn ask_owed(&self) {
        // All that was published has to be known by then.
        self.pulse.tell_published();
        self.owed.store(self.told(Told::Owed), Ordering::SeqCst);
    }

    /// What all agents together answered to the last question.
    pub(super) fn owed(&self) -> Option<u64> {
        let number = self.owed.load(Ordering::SeqCst);
        let answer = |agent: &Arc<Agent>| {
            lock(&agent.heard).owed.filter(|(asked, _)| *asked == number).map(|(_, deliveries)| deliveries)
        };
        self.agents.iter().map(answer).sum()
    }

    pub(super) fn ask_seen(&self) {
        self.seen.store(self.told(Told::Seen), Ordering::SeqCst);
    }

    /// What all agents together answered to the last question; each answer once.
    pub(super) fn seen(&self) -> Option<SeenSoFar> {
        let number = self.seen.load(Ordering::SeqCst);
        let is_there =
            |agent: &Arc<Agent>| lock(&agent.heard).seen.as_ref().is_some_and(|(asked, _)| *asked == number);
        if !self.agents.iter().all(is_there) {
            return None;
        }
        let answers = self.agents.iter().filter_map(|agent| lock(&agent.heard).seen.take());
        answers.map(|(_, seen)| seen).reduce(SeenSoFar::with)
    }

    fn samples(&self) -> Vec<Option<Sample>> {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        for agent in &self.agents {
            let _ = agent.send(&Order::Sample { number });
        }
        let answer = |agent: &Arc<Agent>| {
            agent
                .wait(ANSWER, "a sample of its threads", |heard| {
                    heard.sample.take_if(|(asked, _)| *asked == number).map(|(_, sample)| sample)
                })
                .ok()
        };
        self.agents.iter().map(answer).collect()
    }

    /// How long the threads of all agents ran and waited for a core so far.
    pub(super) fn schedule(&self) -> Vec<(u64, u64)> {
        let samples = self.samples();
        let mut cores = lock(&self.cores);
        let mut schedule = Vec::new();
        for ((sample, kept), &share) in samples.into_iter().zip(cores.iter_mut()).zip(&self.shares) {
            let Sample { schedule: mut own, cores, .. } = sample.unwrap_or_default();
            own.resize(share, (0, 0));
            schedule.extend(own);
            kept.swap(0, 1);
            kept[1] = cores;
        }
        schedule
    }

    /// User memory of all agents.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.samples().into_iter().flatten().map(|sample| sample.own_bytes).sum()
    }

    /// Whether one of them is on the machine that was started so.
    pub(crate) fn any_on(&self, boot: &str) -> bool {
        self.agents.iter().any(|agent| agent.machine.boot == boot)
    }

    /// Ends the run, and collects what each agent saw and how its clock went.
    pub(super) fn finish(mut self) -> Outcome<(Observations, Vec<MachineFigures>)> {
        self.pulse.tell_published();
        for agent in &self.agents {
            let _ = agent.send(&Order::Finish);
        }
        let mut whole: Option<Observations> = None;
        let mut figures = Vec::new();
        let cores = std::mem::take(&mut *lock(&self.cores));
        for (at, agent) in self.agents.iter().enumerate() {
            // What stopped the run does not keep an agent that is there from saying what it saw.
            let observed = agent.result();
            let last = observed.is_ok().then(|| agent.measure().ok()).flatten();
            let clock = lock(&agent.clock).take().map(|clock| clock.figures(last));
            let stolen = cores.get(at).and_then(|[before, after]| after.stolen_since(before, &[]));
            figures.push(MachineFigures {
                name: agent.name.clone(),
                machine: agent.machine.machine.clone(),
                commit: agent.machine.commit.clone(),
                subscribers: self.subscribers.get(at).copied().unwrap_or(0),
                threads: self.shares.get(at).copied().unwrap_or(0),
                cores: agent.machine.cores,
                cores_share: 0.0,
                stolen_share: stolen.map(round),
                clock: clock.unwrap_or_default(),
                lost: observed.is_err(),
            });
            if let Ok(observed) = observed {
                match &mut whole {
                    Some(whole) => whole.add(observed),
                    None => whole = Some(observed),
                }
            }
        }
        let failure = self.failure();
        self.end();
        match whole {
            Some(whole) => Ok((whole, figures)),
            None => Err(failure.unwrap_or_else(|| Failure::new("no agent said what it saw"))),
        }
    }

    fn end(&mut self) {
        self.pulse.over.store(true, Ordering::SeqCst);
        for agent in &self.agents {
            agent.over.store(true, Ordering::SeqCst);
            let _ = agent.connection.send(&Order::Bye);
            agent.connection.close();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Agent {
    /// What it saw. An agent whose streams failed has seen something, too.
    fn result(&self) -> Outcome<Observations> {
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

impl Drop for Agents {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines in messages of a size that can be sent.
fn pieces(lines: &[String]) -> Vec<&[String]> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, line) in lines.iter().enumerate() {
        if at > start && (bytes + line.len() > LINES_BYTES || at - start >= LINES) {
            pieces.push(&lines[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += line.len();
    }
    pieces.push(&lines[start..]);
    pieces
}

/// How many threads each machine has: what was asked for, or one per core, and more where descriptors would
/// not last. Each thread has the same number of subscribers.
fn divide(subscribers: u64, threads: Option<usize>, machines: &[&Machine]) -> Outcome<Vec<usize>> {
    if subscribers < machines.len() as u64 {
        return Err(Failure::new(format!(
            "{subscribers} subscribers are fewer than {} agents",
            machines.len()
        )));
    }
    let mut shares: Vec<usize> =
        machines.iter().map(|machine| threads.unwrap_or(machine.cores).clamp(1, 1024)).collect();
    if shares.iter().sum::<usize>() as u64 > subscribers {
        shares.fill(1);
    }
    let total = shares.iter().sum::<usize>() as u64;
    let least = machines.iter().map(|machine| machine.descriptors).min().unwrap_or(0);
    let most_each = least.saturating_sub(SPARE).max(1);
    if threads.is_none() {
        let times = subscribers.div_ceil(total).div_ceil(most_each) as usize;
        shares.iter_mut().for_each(|share| *share = share.saturating_mul(times).min(1024));
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A machine that has the token and then does `what`, and what the controller says of it.
    fn told_of(what: impl FnOnce(&Connection) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let token = Token::new("0123456789abcdef").unwrap();
        let (own, machine) = (token.clone(), Machine { cores: 1, descriptors: 1_000, ..Machine::default() });
        let agent = std::thread::spawn(move || {
            let socket = listener.accept().unwrap().0;
            let connection = protocol::accept(socket, Role::Agent, &own, machine, || None).unwrap().unwrap();
            what(&connection);
        });
        let told = Agents::join(std::slice::from_ref(&name), &token).err().unwrap().to_string();
        agent.join().unwrap();
        assert!(told.starts_with(&format!("agent {name}: ")), "{told}");
        told
    }

    #[test]
    fn an_agent_that_is_late_or_says_nonsense_is_named() {
        let silent = told_of(|connection| while connection.receive::<Order>().is_ok() {});
        assert!(silent.contains("it is late: its time did not come"), "{silent}");
        let nonsense = told_of(|connection| connection.send(&[1, 2, 3]).unwrap());
        assert!(nonsense.contains("it is lost: it said something that has no meaning"), "{nonsense}");
        let gone = told_of(|_| {});
        assert!(gone.contains("it is lost"), "{gone}");
    }

    #[test]
    fn threads_are_divided_by_cores_and_grow_with_the_descriptors_that_are_needed() {
        let machine = |cores, descriptors| Machine { cores, descriptors, ..Machine::default() };
        let (small, large) = (machine(2, 1_064), machine(6, 1_000_000));
        let told = |subscribers, threads| divide(subscribers, threads, &[&small, &large]).unwrap();
        assert_eq!(told(4_000, None), [2, 6]);
        assert_eq!(told(20_000, None), [6, 18]);
        assert_eq!(told(20_000, Some(3)), [3, 3]);
        assert_eq!(told(5, None), [1, 1]);
        assert!(divide(1, None, &[&small, &large]).is_err());
    }

    #[test]
    fn long_lists_are_sent_in_pieces() {
        let lines: Vec<String> = (0..3).map(|_| "x".repeat(LINES_BYTES / 2)).collect();
        assert_eq!(pieces(&lines).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [2, 1]);
        let lines = vec![String::new(); LINES + 1];
        assert_eq!(pieces(&lines).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [LINES, 1]);
    }
}
