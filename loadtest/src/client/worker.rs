//! One thread of the crowd: its loop, its commands, and everything that has its time.

mod opening;
mod stream;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::book::{Book, Report, ThreadReport, timings};
use super::subscriber::{State, Subscriber};
use super::{Command, Common, Line, Plan, lock};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::failure::Failure;
use crate::sse::Unfinished;
use crate::sys::{self, Epoll};

const WAKER: u64 = u64::MAX;
/// One read takes at most so much; the rest is notified again.
const READ_BYTES: usize = 64 * 1024;

/// Runs until told to finish; without a report when it could not start.
pub(super) fn run(index: usize, plan: &Plan, common: &Common, line: &Line) -> Option<Report> {
    line.thread.store(sys::thread_id(), Ordering::Relaxed);
    match Worker::new(index, plan, common, line) {
        Ok(mut worker) => Some(worker.run()),
        Err(error) => {
            common.fail(Failure::new(format!("a client thread cannot start: {error}")));
            None
        }
    }
}

struct Worker<'a> {
    index: usize,
    plan: &'a Plan,
    common: &'a Common,
    line: &'a Line,
    epoll: Epoll,
    subscribers: Vec<Subscriber>,
    /// Wait for their turn to connect.
    queue: VecDeque<u32>,
    /// Wait for their time to connect.
    retries: BinaryHeap<Reverse<(u64, u32)>>,
    /// Streams being opened, with the generation: all have the same time, so the first is due first.
    deadlines: VecDeque<(u64, u32, u32)>,
    opening: usize,
    /// When the next connect is due.
    next_connect: u64,
    churn: f64,
    next_churn: u64,
    churned: usize,
    book: Book,
    scratch: Unfinished,
    buffer: Vec<u8>,
    request: Vec<u8>,
    window: (u64, u64),
    loop_delay: super::Timings,
}

impl<'a> Worker<'a> {
    fn new(index: usize, plan: &'a Plan, common: &'a Common, line: &'a Line) -> io::Result<Worker<'a>> {
        sys::private_descriptor_table()?;
        if !plan.cores.is_empty() {
            sys::pin(0, &[plan.cores[index % plan.cores.len()]])?;
        }
        let epoll = Epoll::new()?;
        epoll.add(line.waker.number(), WAKER, sys::READABLE)?;
        let mine = (index..plan.subscribers()).step_by(plan.threads);
        let mut subscribers = Vec::with_capacity(mine.len());
        subscribers.extend(mine.map(|number| {
            let (group, topic) = plan.place(number);
            Subscriber::new(group, topic, plan.late_join)
        }));
        let now = clock::now();
        Ok(Worker {
            index,
            plan,
            common,
            line,
            epoll,
            queue: (0..subscribers.len() as u32).collect(),
            subscribers,
            retries: BinaryHeap::new(),
            deadlines: VecDeque::new(),
            opening: 0,
            next_connect: now,
            churn: 0.0,
            next_churn: u64::MAX,
            churned: 0,
            book: Book::new(plan),
            scratch: Unfinished::default(),
            buffer: vec![0; READ_BYTES],
            request: Vec::new(),
            window: (now, sys::thread_cpu_ns()),
            loop_delay: timings(),
        })
    }

    fn run(&mut self) -> Report {
        let mut events = Vec::new();
        loop {
            events.clear();
            if let Err(error) = self.epoll.wait(self.patience(), &mut events) {
                self.common.fail(Failure::new(format!("epoll_wait: {error}")));
            }
            let woken = clock::now();
            let mut told = false;
            for event in &events {
                if event.token == WAKER {
                    self.line.waker.clear();
                    told = true;
                } else if let Err(failure) = self.notified(*event) {
                    self.common.fail(failure);
                }
            }
            if told && let Some(published) = self.obey() {
                return self.finish(&published);
            }
            self.upkeep();
            if !events.is_empty() {
                self.loop_delay.saturating_record(clock::now() - woken);
            }
            self.line.delivered.store(self.book.report.deliveries, Ordering::Relaxed);
        }
    }

    /// How long there is nothing to do but wait, in milliseconds.
    fn patience(&self) -> i32 {
        let mut due = u64::MAX;
        if !self.queue.is_empty() && self.opening < self.burst() {
            due = self.next_connect;
        }
        if let Some(&Reverse((when, _))) = self.retries.peek() {
            due = due.min(when);
        }
        if let Some(&(when, ..)) = self.deadlines.front() {
            due = due.min(when);
        }
        due = due.min(self.next_churn);
        if due == u64::MAX {
            return -1;
        }
        i32::try_from(due.saturating_sub(clock::now()).div_ceil(MILLISECOND)).unwrap_or(i32::MAX)
    }

    fn burst(&self) -> usize {
        (self.plan.connect_burst / self.plan.threads).max(1)
    }

    /// Does what the conductor wants; the counts of published events when that is to finish.
    fn obey(&mut self) -> Option<std::sync::Arc<Vec<u64>>> {
        let commands = std::mem::take(&mut *lock(&self.line.commands));
        for command in commands {
            match command {
                Command::Window => {
                    self.window = (clock::now(), sys::thread_cpu_ns());
                    self.loop_delay.reset();
                }
                Command::Stall { group, stalled } => self.stall(group, stalled),
                Command::DropAll => {
                    for index in 0..self.subscribers.len() {
                        if self.subscribers[index].state == State::Open {
                            self.leave(index, false);
                        }
                    }
                }
                Command::Churn { per_second } => {
                    self.churn = per_second / self.plan.threads as f64;
                    self.next_churn = if self.churn > 0.0 { clock::now() } else { u64::MAX };
                }
                Command::Finish { published } => return Some(published),
            }
        }
        None
    }

    fn stall(&mut self, group: u8, stalled: bool) {
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            let (Some(socket), true) = (&subscriber.socket, subscriber.group == group) else { continue };
            subscriber.stalled = stalled;
            // Without any bit the kernel still tells of errors and full hang-ups.
            let bits = if stalled { 0 } else { sys::READABLE };
            if let Err(error) = self.epoll.change(socket.as_raw_fd(), token(index, subscriber), bits) {
                self.common.fail(Failure::new(format!("epoll_ctl: {error}")));
            }
        }
    }

    /// A subscriber leaves on our account and comes again at once: the same one, or a newcomer.
    fn leave(&mut self, index: usize, newcomer: bool) {
        self.close(index);
        let subscriber = &mut self.subscribers[index];
        if newcomer {
            subscriber.stream = Default::default();
            subscriber.joins = true;
        } else {
            subscriber.skips = !self.plan.resume && !subscriber.joins;
        }
        self.queue.push_back(index as u32);
    }

    fn close(&mut self, index: usize) {
        let subscriber = &mut self.subscribers[index];
        match subscriber.state {
            State::Open => _ = self.line.open.fetch_sub(1, Ordering::Relaxed),
            State::Connecting | State::Head => self.opening -= 1,
            State::Away => {}
        }
        subscriber.state = State::Away;
        subscriber.socket = None;
        subscriber.generation = subscriber.generation.wrapping_add(1);
        subscriber.unfinished = None;
        subscriber.head = None;
        subscriber.stalled = false;
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
            if waits {
                let failure = self.stalled_opening(index as usize);
                self.common.fail(failure);
            }
        }
        let mut churned = 0;
        while self.churn > 0.0 && self.next_churn <= now && churned < self.subscribers.len() {
            let index = self.churned % self.subscribers.len();
            if self.subscribers[index].state == State::Open {
                self.leave(index, true);
            }
            self.churned += 1;
            churned += 1;
            self.next_churn += (SECOND as f64 / self.churn) as u64;
        }
        let step = (SECOND as f64 * self.plan.threads as f64 / self.plan.connect_rate) as u64;
        while self.opening < self.burst()
            && self.next_connect <= now
            && !self.common.failed.load(Ordering::Relaxed)
            && let Some(index) = self.queue.pop_front()
        {
            // Falling behind the rate is not made up for in a burst.
            self.next_connect = (self.next_connect + step).max(now.saturating_sub(MILLISECOND));
            if let Err(failure) = self.connect(index as usize) {
                self.common.fail(failure);
            }
            now = clock::now();
        }
    }

    fn finish(&mut self, published: &[u64]) -> Report {
        let (since, cpu) = self.window;
        let elapsed = clock::now().saturating_sub(since).max(1);
        for subscriber in &self.subscribers {
            self.book.settle(subscriber, published);
        }
        let mut report = std::mem::replace(&mut self.book, Book::new(self.plan)).report;
        report.threads.push(ThreadReport {
            cpu_share: (sys::thread_cpu_ns() - cpu) as f64 / elapsed as f64,
            loop_delay: std::mem::replace(&mut self.loop_delay, timings()),
        });
        report
    }
}

fn token(index: usize, subscriber: &Subscriber) -> u64 {
    u64::from(subscriber.generation) << 32 | index as u64
}
