//! One thread of the crowd: its loop, its commands, and everything that has its time.

mod http2;
mod layers;
mod opening;
mod sockets;
mod stream;
mod transport;
mod tun;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::Token;
use slab::Slab;

use self::http2::Http2;
pub(super) use self::http2::prepare as prepare_http2;
use self::sockets::Sockets;
use self::transport::{Transport, Turn};
use self::tun::Tun;
use super::observations::{Observations, Recorder, ThreadObservations, coarse_timings, record};
use super::subscriber::{Account, NOTHING_OWED, State, Subscriber};
use super::{Command, Common, Control, Plan, lock};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::failure::Failure;
use crate::sse::Unfinished;
use crate::sys;

/// A subscriber that came back or joined is owed the events that are published after its stream was open for
/// so long: a server may answer a little before its publishing knows of the stream. It is twice what the
/// first streams are given.
const OWED_AFTER: u64 = SECOND;

/// Runs until told to finish; without a report when it could not start.
pub(super) fn run(index: usize, plan: &Plan, common: &Common, control: &Control) -> Option<Observations> {
    control.thread.store(sys::thread_id(), Ordering::Relaxed);
    let observations = match plan.tun {
        None if plan.http2.is_some() => {
            Worker::<Http2>::new(index, plan, common, control).map(|mut worker| worker.run())
        }
        None => Worker::<Sockets>::new(index, plan, common, control).map(|mut worker| worker.run()),
        Some(_) => Worker::<Tun>::new(index, plan, common, control).map(|mut worker| worker.run()),
    };
    match observations {
        Ok(observations) => Some(observations),
        Err(error) => {
            common.fail(Failure::new(format!("a client thread cannot start: {error}")));
            None
        }
    }
}

/// A subscriber that is about to leave.
struct Leaver {
    /// How many events of each of its topics it has to have, by topic.
    owed: Vec<(u32, u64)>,
    generation: u32,
}

/// The count of a topic; 0 where it is not among them.
fn count_of(counts: &[(u32, u64)], topic: u32) -> u64 {
    counts.binary_search_by_key(&topic, |(topic, _)| *topic).map_or(0, |place| counts[place].1)
}

struct Worker<'a, T> {
    index: usize,
    plan: &'a Plan,
    common: &'a Common,
    control: &'a Control,
    transport: T,
    /// Made once, all of them; the keys are 0, 1, 2 and so on.
    subscribers: Slab<Subscriber>,
    /// Were never opened, and wait for their turn.
    fresh: Range<u32>,
    /// Subscribers below this are to be there.
    admitted: u32,
    /// Wait for their turn to connect again, before the fresh ones.
    queue: VecDeque<u32>,
    /// Wait for their time to connect.
    retries: BinaryHeap<Reverse<(u64, u32)>>,
    /// Streams being opened, with the generation: all have the same time, so the first is due first.
    deadlines: VecDeque<(u64, u32, u32)>,
    /// Streams that opened while events were published, with the time from which they are owed what follows,
    /// and the generation.
    joining: VecDeque<(u64, u32, u32)>,
    /// Subscribers that are about to leave, and until when, with the generation.
    leaving: HashMap<u32, Leaver>,
    leaving_until: VecDeque<(u64, u32, u32)>,
    /// All streams are cut, and none is opened.
    away: bool,
    opening: usize,
    /// When the next connect is due.
    next_connect: u64,
    churn: f64,
    next_churn: u64,
    churned: usize,
    recorder: Recorder,
    scratch: Unfinished,
    /// What was read, without its TLS.
    plain: Vec<u8>,
    request: Vec<u8>,
    /// Processor time used when the window began.
    window_cpu: u64,
    /// What the window showed, once it has ended.
    window: Option<ThreadObservations>,
    loop_delay: super::Timings,
}

impl<'a, T: Transport> Worker<'a, T> {
    fn new(
        index: usize,
        plan: &'a Plan,
        common: &'a Common,
        control: &'a Control,
    ) -> io::Result<Worker<'a, T>> {
        sys::private_descriptor_table()?;
        if !plan.cores.is_empty() {
            sys::pin(0, &[plan.cores[index % plan.cores.len()]])?;
        }
        let mine = (index..plan.subscribers()).step_by(plan.threads);
        // Exactly: growing doubles.
        let mut subscribers = Slab::with_capacity(mine.len());
        for number in mine {
            let (group, topics) = plan.place(number);
            let mut subscriber = Subscriber::new(group, &topics);
            if number >= plan.admitted {
                // It will come while events are published.
                subscriber.begin_anew();
            }
            subscribers.insert(subscriber);
        }
        // After the table parted: the number of a loop means something only here.
        let transport = T::new(index, plan, control, subscribers.len())?;
        let now = clock::now();
        Ok(Worker {
            index,
            plan,
            common,
            control,
            transport,
            fresh: 0..subscribers.len() as u32,
            admitted: share(plan.admitted as u64, index, plan.threads),
            queue: VecDeque::new(),
            subscribers,
            retries: BinaryHeap::new(),
            deadlines: VecDeque::new(),
            joining: VecDeque::new(),
            leaving: HashMap::new(),
            leaving_until: VecDeque::new(),
            away: false,
            opening: 0,
            next_connect: now,
            churn: 0.0,
            next_churn: u64::MAX,
            churned: 0,
            recorder: Recorder::new(plan),
            scratch: Unfinished::default(),
            plain: Vec::new(),
            request: Vec::new(),
            window_cpu: sys::thread_cpu_ns(),
            window: None,
            loop_delay: coarse_timings(),
        })
    }

    fn run(&mut self) -> Observations {
        loop {
            let patience = self.patience();
            let Turn { woken, busy, told } = T::turn(self, patience).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.common.fail(Failure::new(format!("waiting for streams: {error}")));
                }
                Turn { woken: clock::now(), busy: false, told: true }
            });
            if told && let Some(published) = self.obey() {
                return self.finish(&published);
            }
            self.upkeep();
            if busy {
                record(&mut self.loop_delay, clock::now() - woken);
            }
            self.control.delivered.store(self.recorder.observations.deliveries, Ordering::Relaxed);
            let damaged = self.recorder.observations.faults.iter().map(|faults| faults.damaged).sum();
            self.control.damaged.store(damaged, Ordering::Relaxed);
        }
    }

    /// How long there is nothing to do but wait.
    fn patience(&self) -> Option<Duration> {
        let mut due = u64::MAX;
        let is_fresh = self.fresh.start < self.fresh.end.min(self.admitted);
        if (!self.queue.is_empty() || is_fresh) && self.opening < self.burst() && !self.away {
            due = self.next_connect;
        }
        if let Some(&Reverse((when, _))) = self.retries.peek() {
            due = due.min(when);
        }
        if let Some(&(when, ..)) = self.deadlines.front() {
            due = due.min(when);
        }
        for queue in [&self.joining, &self.leaving_until] {
            if let Some(&(when, ..)) = queue.front() {
                due = due.min(when);
            }
        }
        due = due.min(self.next_churn);
        (due < u64::MAX).then(|| Duration::from_nanos(due.saturating_sub(clock::now())))
    }

    /// Events of a topic that were published so far.
    fn published(&self, topic: u32) -> u64 {
        self.plan.published[topic as usize].load(Ordering::Relaxed)
    }

    fn burst(&self) -> usize {
        (self.plan.connect_burst / self.plan.threads).max(1)
    }

    /// Does what the conductor wants; the counts of published events when that is to finish.
    fn obey(&mut self) -> Option<std::sync::Arc<Vec<u64>>> {
        let commands = std::mem::take(&mut *lock(&self.control.commands));
        let plan = self.plan;
        let published = |topic: u32| plan.published[topic as usize].load(Ordering::Relaxed);
        for command in commands {
            match command {
                Command::Window { begins: true } => {
                    self.window_cpu = sys::thread_cpu_ns();
                    self.window = None;
                    self.loop_delay.reset();
                }
                Command::Window { begins: false } => self.window = Some(self.seen_in_window()),
                Command::Stall { group, stalled } => self.stall(group, stalled),
                Command::CutAll => self.cut_all(),
                Command::Return => self.away = false,
                Command::Admit { subscribers } => self.admit(subscribers),
                Command::Churn { per_second } => {
                    self.churn = per_second / self.plan.threads as f64;
                    self.next_churn = if self.churn > 0.0 { clock::now() } else { u64::MAX };
                }
                Command::Owed => {
                    let owed = self.subscribers.iter().map(|(_, subscriber)| subscriber.lost(published));
                    self.control.owed.store(owed.sum(), Ordering::Release);
                }
                Command::Seen => *lock(&self.control.seen) = Some(self.recorder.seen()),
                Command::Finish { published } => return Some(published),
            }
        }
        None
    }

    fn stall(&mut self, group: u8, stalled: bool) {
        let mut waiting = 0;
        for index in 0..self.subscribers.len() {
            if self.subscribers[index].group != group || !self.transport.has(index) {
                continue;
            }
            self.subscribers[index].stalled = stalled;
            if stalled {
                self.transport.stall(index);
                continue;
            }
            match T::read_again(self, index) {
                Ok(bytes) => waiting += bytes,
                Err(error) => {
                    self.common.fail(Failure::new(format!("a stream cannot be read again: {error}")))
                }
            }
        }
        self.control.waiting.store(waiting, Ordering::Relaxed);
    }

    /// A subscriber is about to leave for good, and another one will come in its place. It stays until it has
    /// got what was published so far, or has waited for long enough.
    fn begin_to_leave(&mut self, index: usize) {
        let subscriber = &self.subscribers[index];
        let owed: Vec<(u32, u64)> =
            subscriber.topics().into_iter().map(|topic| (topic, self.published(topic))).collect();
        if subscriber.lost(|topic| count_of(&owed, topic)) == 0 {
            return self.leave(index, &owed);
        }
        let until = clock::now() + self.plan.patience_ns;
        self.leaving.insert(index as u32, Leaver { owed, generation: subscriber.generation });
        self.leaving_until.push_back((until, index as u32, subscriber.generation));
    }

    /// A subscriber that is about to leave has got something, or its time is up.
    pub(super) fn leave_if_done(&mut self, index: usize, time_is_up: bool) {
        let Some(leaver) = self.leaving.get(&(index as u32)) else { return };
        let subscriber = &self.subscribers[index];
        let has_all = || subscriber.lost(|topic| count_of(&leaver.owed, topic)) == 0;
        if subscriber.generation == leaver.generation
            && (time_is_up || has_all())
            && let Some(Leaver { owed, .. }) = self.leaving.remove(&(index as u32))
        {
            self.leave(index, &owed);
        }
    }

    /// It leaves, is judged for what it was owed of each topic, and a newcomer takes its place.
    fn leave(&mut self, index: usize, owed: &[(u32, u64)]) {
        self.close(index);
        let subscriber = &mut self.subscribers[index];
        self.recorder.settle(subscriber, |topic| count_of(owed, topic));
        subscriber.begin_anew();
        if (index as u32) < self.admitted {
            self.queue.push_back(index as u32);
        }
    }

    /// The first `subscribers` of all threads are to be there, and the others leave.
    fn admit(&mut self, subscribers: u64) {
        let before = self.admitted;
        self.admitted = share(subscribers, self.index, self.plan.threads);
        // Those that were never opened have their turn, or never had it.
        let opened = self.fresh.start;
        for index in before.min(opened)..self.admitted.min(opened) {
            // One that was still about to leave stays.
            self.leaving.remove(&index);
            if self.subscribers[index as usize].state == State::Away {
                self.queue.push_back(index);
            }
        }
        for index in self.admitted.min(opened)..before.min(opened) {
            match self.subscribers[index as usize].state {
                State::Open => self.begin_to_leave(index as usize),
                // It is not there: what it has not got meanwhile it could not get.
                _ => self.leave(index as usize, &[]),
            }
        }
    }

    /// The next one to connect.
    fn next_to_connect(&mut self) -> Option<u32> {
        while let Some(index) = self.queue.pop_front() {
            if index >= self.admitted {
                // It was told to leave while it waited.
                self.leave(index as usize, &[]);
            } else if self.subscribers[index as usize].state == State::Away {
                return Some(index);
            }
        }
        if self.fresh.start < self.admitted { self.fresh.next() } else { None }
    }

    /// Every stream is cut, and comes back when that is wanted.
    fn cut_all(&mut self) {
        self.away = true;
        for index in 0..self.subscribers.len() {
            if self.subscribers[index].state != State::Away {
                self.close(index);
                self.subscribers[index].send_away(self.plan.resume);
                self.queue.push_back(index as u32);
            }
        }
    }

    fn close(&mut self, index: usize) {
        self.leaving.remove(&(index as u32));
        let subscriber = &mut self.subscribers[index];
        if subscriber.state == State::Open {
            self.recorder.heard(subscriber, clock::now());
        }
        subscriber.heard = 0;
        subscriber.event_at = 0;
        match subscriber.state {
            State::Open => _ = self.control.open.fetch_sub(1, Ordering::Relaxed),
            State::Connecting | State::Head => self.opening -= 1,
            State::Away => {}
        }
        subscriber.state = State::Away;
        self.transport.close(index);
        subscriber.generation = subscriber.generation.wrapping_add(1);
        subscriber.unfinished = None;
        subscriber.head = None;
        subscriber.stalled = false;
        if let Some(rare) = &mut subscriber.rare {
            (rare.tls, rare.gzip) = (None, None);
        }
    }

    /// Everything that has its time instead of a notification.
    fn upkeep(&mut self) {
        let mut now = clock::now();
        while let Some(&Reverse((when, index))) = self.retries.peek()
            && when <= now
        {
            self.retries.pop();
            self.queue.push_back(index);
        }
        while let Some(&(when, index, generation)) = self.deadlines.front() {
            let subscriber = &self.subscribers[index as usize];
            let waits = subscriber.generation == generation && subscriber.state != State::Open;
            if waits && when > now {
                break;
            }
            self.deadlines.pop_front();
            if waits && let Err(failure) = self.late_opening(index as usize) {
                self.common.fail(failure);
            }
        }
        while let Some(&(when, index, generation)) = self.joining.front()
            && when <= now
        {
            self.joining.pop_front();
            let subscriber = &mut self.subscribers[index as usize];
            if subscriber.generation == generation {
                for account in subscriber.accounts().filter(Account::waits) {
                    let published = self.plan.published[account.topic as usize].load(Ordering::Relaxed);
                    *account.owed_from = u32::try_from(published).unwrap_or(NOTHING_OWED);
                }
            }
        }
        while let Some(&(when, index, generation)) = self.leaving_until.front() {
            let waits = self.leaving.get(&index).is_some_and(|leaver| leaver.generation == generation);
            if waits && when > now {
                break;
            }
            self.leaving_until.pop_front();
            if waits {
                self.leave_if_done(index as usize, true);
            }
        }
        let mut churned = 0;
        while self.churn > 0.0 && self.next_churn <= now && churned < self.subscribers.len() {
            let index = self.churned % self.subscribers.len();
            if self.subscribers[index].state == State::Open && !self.leaving.contains_key(&(index as u32)) {
                self.begin_to_leave(index);
            }
            self.churned += 1;
            churned += 1;
            self.next_churn += (SECOND as f64 / self.churn) as u64;
        }
        let step = (SECOND as f64 * self.plan.threads as f64 / self.plan.connect_rate) as u64;
        while !self.away
            && self.opening < self.burst()
            && self.next_connect <= now
            && !self.common.failed.load(Ordering::Relaxed)
            && let Some(index) = self.next_to_connect()
        {
            // Falling behind the rate is not made up for in a burst.
            self.next_connect = (self.next_connect + step).max(now.saturating_sub(MILLISECOND));
            if let Err(failure) = self.connect(index as usize) {
                self.common.fail(failure);
            }
            now = clock::now();
        }
    }

    fn finish(&mut self, published: &[u64]) -> Observations {
        // A run that failed ends within its window.
        let window = self.window.take().unwrap_or_else(|| self.seen_in_window());
        let now = clock::now();
        for (_, subscriber) in &mut self.subscribers {
            let published = |topic: u32| published.get(topic as usize).copied().unwrap_or(0);
            self.recorder.take_back_invented(subscriber, published);
            // A stream that was never open is an error and not open at the end, but it has lost nothing.
            if !subscriber.has_failed() {
                self.recorder.settle(subscriber, published);
            }
            self.recorder.at_end(subscriber, now);
        }
        self.recorder.counted_by_transport(self.transport.counts());
        let mut observations = std::mem::replace(&mut self.recorder, Recorder::new(self.plan)).observations;
        observations.threads.push(window);
        observations
    }

    /// What this thread has used since the window began.
    fn seen_in_window(&self) -> ThreadObservations {
        ThreadObservations {
            cpu_ns: sys::thread_cpu_ns() - self.window_cpu,
            loop_delay: self.loop_delay.clone(),
        }
    }
}

/// How many of the first `subscribers` are of this thread.
fn share(subscribers: u64, thread: usize, threads: usize) -> u32 {
    let share = (subscribers + threads as u64 - 1).saturating_sub(thread as u64) / threads as u64;
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// The index, and above it the generation.
fn token(index: usize, generation: u32) -> Token {
    const { assert!(usize::BITS == 64, "a token holds two numbers of 32 bits") };
    Token((generation as usize) << 32 | index)
}
