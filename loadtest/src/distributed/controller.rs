//! The controller's side: agents that hold the subscribers of one run together, as if they were this
//! machine's.
//!
//! A thread for each agent receives; what it hears is in [`agent::Heard`]. One further thread, the [`pulse`],
//! tells the agents what was published, and asks for their time. Orders are sent by the thread that conducts
//! the run.

mod agent;
mod division;
mod pulse;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::agent::{ANSWER, RemoteAgent};
use self::division::{divide, pieces};
use self::pulse::Pulse;
use super::MachineFigures;
use super::assignment::Assignment;
use super::clocks::Clock;
use super::messages::{Order, Progress, Sample, Told};
use super::protocol::{self, Machine, Role, Token};
use crate::client::{Command, Delivered, Observations, Phase, SeenSoFar};
use crate::failure::{Failure, Outcome, excerpt};
use crate::report::round;

/// How long an agent may take for the look at its limits.
const PREPARATION: Duration = Duration::from_secs(120);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The agents of a run.
pub(crate) struct Agents {
    agents: Vec<Arc<RemoteAgent>>,
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
                Ok((connection, machine)) => {
                    agents.push(Arc::new(RemoteAgent::new(name.clone(), machine, connection)));
                }
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
    pub(super) fn enter(&self, phase: Phase) {
        let told = match phase {
            Phase::Opening => return,
            Phase::Live => Told::Live,
            Phase::Over => Told::Over,
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
        let answer = |agent: &Arc<RemoteAgent>| {
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
        let is_there = |agent: &Arc<RemoteAgent>| {
            lock(&agent.heard).seen.as_ref().is_some_and(|(asked, _)| *asked == number)
        };
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
        let answer = |agent: &Arc<RemoteAgent>| {
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

impl Drop for Agents {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::distributed::protocol::Connection;

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
}
