//! Threads that verify tokens which no verifier remembers.
//!
//! To verify a signature takes up to a tenth of a millisecond, and with many keys much longer. On the thread of a shard,
//! or of the control plane, a crowd of bad tokens would delay everything else there. So a token that is not remembered is
//! verified here, and everything else goes on. The clients take turns: one client with thousands of bad tokens delays its
//! own next ones, and hardly those of others.
//!
//! A shard may call [`Verifications::push`]: a condition variable has no descriptor.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Tokens that wait. Beyond it the next one is refused.
const QUEUED: usize = 16_384;

/// Tokens of one client that wait. Beyond it the client is refused, and others are not.
const QUEUED_OF_CLIENT: usize = QUEUED / 16;

/// Threads. More would take the processors away from the shards.
const THREADS: usize = 2;

/// A token that is to be verified, with what comes after it.
pub(crate) trait Verification: Send {
    /// Whether its client still waits.
    fn is_wanted(&self) -> bool;

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

/// What waits, by client.
struct Queue {
    of_clients: HashMap<Option<IpAddr>, VecDeque<Box<dyn Verification>>>,
    /// Clients that have some, in the order of their turns.
    turns: VecDeque<Option<IpAddr>>,
    len: usize,
    limit: usize,
    limit_of_client: usize,
    is_ended: bool,
}

impl Queue {
    fn new(limit: usize, limit_of_client: usize) -> Queue {
        let (of_clients, turns) = (HashMap::new(), VecDeque::new());
        Queue { of_clients, turns, len: 0, limit, limit_of_client, is_ended: false }
    }

    /// Gives it back where there is no room.
    fn push(
        &mut self,
        client: Option<IpAddr>,
        verification: Box<dyn Verification>,
    ) -> Result<(), Box<dyn Verification>> {
        if self.len >= self.limit || self.is_ended {
            return Err(verification);
        }
        let client = client.map(client_key);
        let its = self.of_clients.entry(client).or_default();
        if its.len() >= self.limit_of_client {
            return Err(verification);
        }
        if its.is_empty() {
            self.turns.push_back(client);
        }
        its.push_back(verification);
        self.len += 1;
        Ok(())
    }

    /// The next one of the client whose turn it is.
    fn pop(&mut self) -> Option<Box<dyn Verification>> {
        let client = self.turns.pop_front()?;
        let its = self.of_clients.get_mut(&client)?;
        let next = its.pop_front();
        if its.is_empty() {
            self.of_clients.remove(&client);
            if self.of_clients.is_empty() {
                // What a crowd needed is given back.
                (self.of_clients, self.turns) = (HashMap::new(), VecDeque::new());
            }
        } else {
            self.turns.push_back(client);
        }
        self.len -= usize::from(next.is_some());
        next
    }
}

/// Addresses of one client: IPv4 whole, IPv6 by its network of 64 bits.
fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl Verifications {
    /// Starts the threads. They end when [`Verifications::end`] is called.
    ///
    /// # Errors
    /// The operating system starts no thread.
    pub(crate) fn start() -> io::Result<Verifications> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(QUEUED, QUEUED_OF_CLIENT)),
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
    pub(crate) fn push(&self, client: Option<IpAddr>, verification: Box<dyn Verification>) {
        let pushed = self.0.lock().push(client, verification);
        match pushed {
            Ok(()) => self.0.filled.notify_one(),
            Err(verification) => verification.refuse(),
        }
    }

    /// Ends the threads. What waits is dropped.
    pub(crate) fn end(&self) {
        let mut queue = self.0.lock();
        queue.is_ended = true;
        let waiting = std::mem::take(&mut queue.of_clients);
        queue.turns = VecDeque::new();
        drop(queue);
        self.0.filled.notify_all();
        drop(waiting);
    }

    /// The memory of what waits, at most.
    pub(crate) fn memory_bound() -> (&'static str, usize) {
        /// A token with its request: the longest token, and what the answer needs.
        const EACH_BYTES: usize = 12 << 10;
        ("tokens to be verified", QUEUED * EACH_BYTES)
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
                match queue.pop() {
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
    use std::sync::mpsc::{Receiver, Sender, channel};
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

    fn names(told: &Receiver<(u32, &'static str)>) -> Vec<u32> {
        told.try_iter().map(|(name, _)| name).collect()
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    /// A client with a thousand bad tokens was in front of all others. The addresses of one network of IPv6 are one client.
    #[test]
    fn clients_take_turns() {
        let (to, told) = channel();
        let mut queue = Queue::new(3000, 1000);
        for name in 0..1000 {
            let of = format!("2001:db8:0:1::{:x}", name + 1);
            assert!(queue.push(address(&of), named(&to, name)).is_ok());
        }
        for (name, of) in [(1000, address("192.0.2.1")), (1001, address("::ffff:192.0.2.1")), (1002, None)] {
            assert!(queue.push(of, named(&to, name)).is_ok());
        }
        for _ in 0..7 {
            queue.pop().expect("there are more").run();
        }
        assert_eq!(names(&told), [0, 1000, 1002, 1, 1001, 2, 3]);
        assert_eq!(queue.len, 996);
        while let Some(next) = queue.pop() {
            next.run();
        }
        assert_eq!(names(&told), (4..1000).collect::<Vec<_>>());
        assert_eq!((queue.len, queue.of_clients.len(), queue.turns.len()), (0, 0, 0));
    }

    #[test]
    fn the_queue_has_a_bound() {
        let (to, _told) = channel();
        let mut queue = Queue::new(2, 2);
        assert!(
            queue.push(None, named(&to, 0)).is_ok()
                && queue.push(address("192.0.2.1"), named(&to, 1)).is_ok()
        );
        assert!(queue.push(address("192.0.2.2"), named(&to, 2)).is_err());
        assert!(queue.pop().is_some() && queue.push(None, named(&to, 3)).is_ok());
    }

    /// One client filled the queue, and all others were refused.
    #[test]
    fn one_client_fills_its_own_share_only() {
        let (to, _told) = channel();
        let mut queue = Queue::new(100, 10);
        for name in 0..20 {
            assert_eq!(queue.push(address("192.0.2.1"), named(&to, name)).is_ok(), name < 10);
        }
        assert!(queue.push(address("192.0.2.2"), named(&to, 20)).is_ok());
    }

    /// A panic ended the thread: after two of them no token was verified any more.
    #[test]
    fn a_panic_ends_one_verification() {
        struct Panics;
        impl Verification for Panics {
            fn is_wanted(&self) -> bool {
                true
            }
            fn run(self: Box<Self>) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            fn refuse(self: Box<Self>) {}
        }
        let (to, told) = channel();
        let verifications = Verifications::start().expect("threads");
        for _ in 0..2 * THREADS {
            verifications.push(None, Box::new(Panics));
        }
        verifications.push(None, named(&to, 1));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((1, "run")));
        verifications.end();
    }

    #[test]
    fn what_is_not_wanted_is_not_run_and_the_end_refuses() {
        let (to, told) = channel();
        let verifications = Verifications::start().expect("threads");
        let unwanted = Named { name: 0, is_wanted: false, to: to.clone() };
        verifications.push(None, Box::new(unwanted));
        verifications.push(None, named(&to, 1));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((1, "run")));
        verifications.end();
        verifications.push(None, named(&to, 2));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok((2, "refused")));
    }
}
