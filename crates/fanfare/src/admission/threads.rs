//! The threads on which admissions run, where they do not run on shards: ordinary threads, on which
//! everything is allowed.

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
    /// One of them was woken and has not come yet. It wakes the next one itself where more jobs are there: a
    /// shard with a hundred new requests makes one system call, not a hundred.
    is_waking: bool,
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

impl Queue {
    /// Whether the caller is to wake a thread: jobs wait, a thread waits for one, and none has been woken for
    /// it yet.
    fn begins_wake(&mut self) -> bool {
        let begins = !self.jobs.is_empty() && self.waiting > 0 && !self.is_waking;
        self.is_waking |= begins;
        begins
    }
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
        let wakes = queue.begins_wake();
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
                // This one may take long.
                let wakes = queue.begins_wake();
                drop(queue);
                if wakes {
                    self.filled.notify_one();
                }
                return Some(job);
            }
            queue.waiting += 1;
            queue = self.filled.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            queue.waiting -= 1;
            // Where it came by itself, and another one is being woken, that one finds what is left.
            queue.is_waking = false;
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

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use std::sync::{Barrier, Weak, mpsc};
    use std::time::Duration;

    use fanfare_proto::link::LinkKey;

    use super::*;
    use crate::admission::Subscribe;
    use crate::mailbox::Mailbox;
    use crate::sync::Waker;

    /// So that a test whose threads do not come fails instead of hanging.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A request that waits as long as the second part lives.
    fn job(mailbox: &Arc<Mailbox>, wanted: Weak<()>) -> Job {
        let key = LinkKey { slot: 0, generation: 0 };
        Job {
            received: Arc::from(*b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
            transport: Transport::Http1,
            peer: None,
            via: Via::Direct,
            address: UndecidedAddress { mailbox: Arc::clone(mailbox), key, wanted },
        }
    }

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(0, Waker::new().unwrap(), Arc::default()))
    }

    /// The shard made a system call for each of its new requests, as long as the first thread that it woke
    /// had not come.
    #[test]
    fn one_thread_is_woken_at_a_time() {
        let (mailbox, wanted) = (mailbox(), Arc::new(()));
        let mut queue = Queue { waiting: 2, ..Queue::default() };
        assert!(!queue.begins_wake(), "there is no job");
        for is_first in [true, false, false] {
            queue.jobs.push_back(job(&mailbox, Arc::downgrade(&wanted)));
            assert_eq!(queue.begins_wake(), is_first);
        }
        // It has come.
        queue.waiting -= 1;
        queue.is_waking = false;
        assert!(queue.begins_wake(), "it wakes the next one");
        queue.waiting = 0;
        queue.is_waking = false;
        assert!(!queue.begins_wake(), "none waits");
    }

    /// With one wake-up for many requests, the others must not wait for the first one's admission.
    #[test]
    fn requests_that_come_together_are_decided_side_by_side() {
        const COUNT: usize = 4;
        let (tell, told) = mpsc::channel();
        let together = Barrier::new(COUNT);
        let admission: Arc<dyn Admission> = Arc::new(move |_: &Request<'_>| {
            together.wait();
            tell.send(()).unwrap();
            Decision::Subscribe(Subscribe::to([]))
        });
        let threads = AdmissionThreads::start(COUNT, COUNT, HeadLimits::default(), &admission).unwrap();
        let (mailbox, wanted) = (mailbox(), Arc::new(()));
        for _ in 0..3 {
            for _ in 0..COUNT {
                assert!(threads.push(job(&mailbox, Arc::downgrade(&wanted))));
            }
            for _ in 0..COUNT {
                told.recv_timeout(PATIENCE).expect("every thread runs an admission");
            }
        }
        threads.end();
    }
}
