//! Threads that verify tokens which no verifier remembers.
//!
//! To verify a signature takes up to a tenth of a millisecond, and with many keys much longer. On the thread
//! of a shard, or of the control plane, a crowd of bad tokens would delay everything else there. So a token
//! that is not remembered is verified here, and everything else goes on. The clients take turns: one client
//! with thousands of bad tokens delays its own next ones, and hardly those of others.
//!
//! A shard may call [`Verifications::push`]: a condition variable has no descriptor.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::turns::{TurnBounds, TurnOf, Turns};

/// Tokens that wait, and their memory with what comes after them. Beyond it the next one is refused. One
/// client has a share; beyond it this client is refused, and others are not.
const QUEUED: TurnBounds = TurnBounds { items: 16_384, bytes: 128 << 20, shares: 16 };

/// Threads. More would take the processors away from the shards.
const THREADS: usize = 2;

/// A token that is to be verified, with what comes after it.
pub(crate) trait Verification: Send {
    /// Whether its client still waits.
    fn is_wanted(&self) -> bool;

    /// The memory that it takes while it waits, about, in bytes.
    fn bytes(&self) -> usize;

    /// Verifies it, and goes on.
    fn run(self: Box<Self>);

    /// Too many wait.
    fn refuse(self: Box<Self>);
}

/// The queue of what waits. Clones are the same.
#[derive(Clone)]
pub(crate) struct Verifications(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// The verifications that wait.
struct Queue {
    turns: Turns<Box<dyn Verification>>,
    is_ended: bool,
}

impl Verifications {
    /// Starts the threads. They end when [`Verifications::end`] is called.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(crate) fn start() -> io::Result<Verifications> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { turns: Turns::new(QUEUED), is_ended: false }),
            filled: Condvar::new(),
        });
        let count = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        for index in 0..count {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("fanfare-verify-{index}")).spawn(move || shared.work())?;
        }
        Ok(Verifications(shared))
    }

    /// Verifies later, on another thread, or refuses now.
    pub(crate) fn push(&self, of: TurnOf, verification: Box<dyn Verification>) {
        let bytes = verification.bytes();
        let mut queue = self.0.lock();
        let pushed = match queue.is_ended {
            false => queue.turns.push(of, verification, bytes),
            true => Err(verification),
        };
        drop(queue);
        match pushed {
            Ok(()) => self.0.filled.notify_one(),
            Err(verification) => verification.refuse(),
        }
    }

    /// Ends the threads. What waits is dropped.
    pub(crate) fn end(&self) {
        let mut queue = self.0.lock();
        queue.is_ended = true;
        let waiting = std::mem::replace(&mut queue.turns, Turns::new(QUEUED));
        drop(queue);
        self.0.filled.notify_all();
        drop(waiting);
    }

    /// The memory of what waits, at most.
    pub(crate) fn memory_bound() -> (&'static str, usize) {
        ("tokens to be verified", QUEUED.bytes)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let next = loop {
                if queue.is_ended {
                    return;
                }
                match queue.turns.pop() {
                    Some(next) => break next,
                    None => queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            // A panic is the end of this verification, whose client is answered 500, and not of the thread.
            if catch_unwind(AssertUnwindSafe(|| run_wanted(next))).is_err() {
                tracing::error!("the verification of a token has panicked; its message is above");
            }
        }
    }
}

fn run_wanted(verification: Box<dyn Verification>) {
    if verification.is_wanted() {
        verification.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    /// Tells its name, and what became of it.
    struct Named {
        name: u32,
        is_wanted: bool,
        to: Sender<(u32, &'static str)>,
    }

    impl Verification for Named {
        fn is_wanted(&self) -> bool {
            self.is_wanted
        }

        fn bytes(&self) -> usize {
            1
        }

        fn run(self: Box<Self>) {
            let _ = self.to.send((self.name, "run"));
        }

        fn refuse(self: Box<Self>) {
            let _ = self.to.send((self.name, "refused"));
        }
    }

    fn named(to: &Sender<(u32, &'static str)>, name: u32) -> Box<dyn Verification> {
        Box::new(Named { name, is_wanted: true, to: to.clone() })
    }

    /// A panic ended the thread: after two of them no token was verified any more.
    #[test]
    fn a_panic_ends_one_verification() {
        struct Panics;
        impl Verification for Panics {
            fn is_wanted(&self) -> bool {
                true
            }
            fn bytes(&self) -> usize {
                1
            }
            fn run(self: Box<Self>) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            fn refuse(self: Box<Self>) {}
        }
        let (to, told) = channel();
        let verifications = Verifications::start().expect("threads");
        for _ in 0..2 * THREADS {
            verifications.push(TurnOf::default(), Box::new(Panics));
        }
        verifications.push(TurnOf::default(), named(&to, 1));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((1, "run")));
        verifications.end();
    }

    #[test]
    fn what_is_not_wanted_is_not_run_and_the_end_refuses() {
        let (to, told) = channel();
        let verifications = Verifications::start().expect("threads");
        let unwanted = Named { name: 0, is_wanted: false, to: to.clone() };
        verifications.push(TurnOf::default(), Box::new(unwanted));
        verifications.push(TurnOf::default(), named(&to, 1));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((1, "run")));
        verifications.end();
        verifications.push(TurnOf::default(), named(&to, 2));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((2, "refused")));
    }
}
