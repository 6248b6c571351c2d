//! The threads on which admissions run, where they do not run on shards: ordinary threads, on which everything is allowed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use fanfare_io::Peer;
use fanfare_proto::head::{HeadLimits, HeadScanner};
use fanfare_proto::link::Transport;

use super::request::Via;
use super::{Admission, Decision, DecisionTicket, Request, UndecidedAddress, decide};
use crate::sync::{Condvar, Mutex, lock, thread};

/// The requests that wait for a thread.
pub(crate) struct AdmissionThreads {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Requests that may wait.
    limit: usize,
    head_limits: HeadLimits,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job. Where none does, there is none to wake.
    waiting: usize,
    ended: bool,
}

/// A request that waits for its admission.
pub(crate) struct Job {
    /// The head, and what came behind it.
    pub(crate) received: Arc<[u8]>,
    pub(crate) transport: Transport,
    pub(crate) peer: Option<Peer>,
    pub(crate) via: Via,
    pub(crate) address: UndecidedAddress,
}

impl AdmissionThreads {
    /// Starts the threads. They end after [`AdmissionThreads::end`], each when its admission returns.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(crate) fn start(
        count: usize,
        limit: usize,
        head_limits: HeadLimits,
        admission: &Arc<dyn Admission>,
    ) -> io::Result<Arc<AdmissionThreads>> {
        let threads = AdmissionThreads {
            queue: Mutex::new(Queue::default()),
            filled: Condvar::new(),
            limit,
            head_limits,
        };
        let threads = Arc::new(threads);
        for index in 0..count {
            let (shared, admission) = (Arc::clone(&threads), Arc::clone(admission));
            let builder = thread::Builder::new().name(format!("fanfare-admission-{index}"));
            let started = builder.spawn(move || shared.run(&*admission));
            if let Err(error) = started {
                threads.end();
                return Err(error);
            }
        }
        Ok(threads)
    }

    /// Adds a request. False where too many wait.
    ///
    /// Also called on threads with private descriptor tables: a condition variable has no descriptor.
    pub(crate) fn push(&self, job: Job) -> bool {
        let mut queue = lock(&self.queue);
        if queue.jobs.len() >= self.limit {
            // Where all threads have been busy for long, the oldest requests have been answered.
            let wanted = queue.jobs.iter().position(|job| job.address.is_wanted());
            let unwanted = wanted.unwrap_or(queue.jobs.len());
            queue.jobs.drain(..unwanted);
        }
        if queue.jobs.len() >= self.limit || queue.ended {
            return false;
        }
        queue.jobs.push_back(job);
        let wakes = queue.waiting > 0;
        drop(queue);
        if wakes {
            self.filled.notify_one();
        }
        true
    }

    /// Takes no more requests, and forgets those that wait.
    pub(crate) fn end(&self) {
        let mut queue = lock(&self.queue);
        queue.ended = true;
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        self.filled.notify_all();
        drop(jobs);
    }

    fn run(&self, admission: &dyn Admission) {
        while let Some(job) = self.next() {
            self.decide(admission, job);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.ended {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue.waiting += 1;
            queue = self.filled.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            queue.waiting -= 1;
        }
    }

    fn decide(&self, admission: &dyn Admission, job: Job) {
        let Job { received, transport, peer, via, address } = job;
        if !address.is_wanted() {
            return;
        }
        let mut scanner = HeadScanner::new();
        let Ok(Some((head, _))) = scanner.parse(&received, &self.head_limits) else {
            unreachable!("the shard has parsed this head")
        };
        match decide(admission, &Request::with_peer(&head, transport, via, &|| peer)) {
            Ok(Decision::Later(later)) => later.wait_at(address),
            Ok(decision) => DecisionTicket::of(address).decide(decision),
            Err(panicked) => DecisionTicket::of(address).refuse_after_panic(panicked),
        }
    }
}
