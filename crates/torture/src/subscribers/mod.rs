//! The subscribers, on threads of their own.

mod subscriber;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_io::Clock;
use mio::{Events, Poll, Token, Waker};

use crate::event::TOPICS;
use crate::ledger::{EpochNumber, Ledger, Round};
use crate::sockets::Table;
use crate::verify::{Entry, Findings, verify};
use subscriber::Subscriber;
pub(crate) use subscriber::{Format, Preferences};

const THREADS: usize = 2;
const WAKER: Token = Token(usize::MAX);
const BUFFER: usize = 64 << 10;

/// The loop of a thread of subscribers takes at most this long. Where it takes longer, the machine kept the
/// thread from reading.
const LOOP_PERIOD: Duration = Duration::from_millis(100);

/// A server that is asked to stop has stopped within this time, apart from delays of the machine.
const END: Duration = Duration::from_secs(4);

/// How often silent connections are searched for in the kernel's table.
const SEARCH: Duration = Duration::from_secs(1);

/// A command to the threads of subscribers.
enum Order {
    /// A random share of the subscribers stops reading, each for a random time up to `at_most`.
    Stall {
        share: f64,
        at_most: Duration,
    },
    /// All subscribers read slowly for this time.
    SlowDown {
        time: Duration,
    },
    /// Answer when `done` is true of every subscriber, or after `patience` without any delivery with the
    /// number of those of which it is not.
    Await {
        done: fn(&Subscriber) -> bool,
        patience: Duration,
        answer: Sender<usize>,
    },
    /// Answer with the unanswered events that have arrived.
    Came {
        round: Arc<Round>,
        answer: Sender<Vec<(u64, EpochNumber, u64)>>,
    },
    /// Compare the logs with the ledger, and begin new logs.
    Verify {
        round: Arc<Round>,
        answer: Sender<Findings>,
    },
    Stop,
}

/// The subscribers of a server.
pub(crate) struct Subscribers {
    threads: Vec<Thread>,
    pub(crate) count: usize,
}

/// A thread of subscribers, and the means to give it commands.
struct Thread {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    handle: Option<JoinHandle<()>>,
}

impl Subscribers {
    /// Starts `count` subscribers with random preferences.
    pub(crate) fn start(
        address: SocketAddr,
        count: usize,
        ledger: &Arc<Ledger>,
        clock: Clock,
        random: &mut fastrand::Rng,
    ) -> io::Result<Subscribers> {
        let mut threads = Vec::new();
        for index in 0..THREADS {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
            let (give, take) = mpsc::channel();
            let share = (0..count).filter(|number| number % THREADS == index);
            let mut worker = Worker {
                address,
                clock,
                ledger: Arc::clone(ledger),
                subscribers: share
                    .map(|number| Subscriber::new(random_preferences(number, random)))
                    .collect(),
                poll,
                orders: take,
                waiting: None,
                delays: Vec::new(),
                next_search: Duration::ZERO,
                half_open: 0,
                random: random.fork(),
            };
            let handle =
                thread::Builder::new().name(format!("subscribers-{index}")).spawn(move || worker.run())?;
            threads.push(Thread { orders: give, waker, handle: Some(handle) });
        }
        Ok(Subscribers { threads, count })
    }

    fn order(&self, mut order: impl FnMut() -> Order) {
        for thread in &self.threads {
            // A thread that has panicked gives no answer.
            let _ = thread.orders.send(order());
            let _ = thread.waker.wake();
        }
    }

    /// The answers of all threads.
    ///
    /// # Errors
    /// A thread gives no answer, so nothing is known about its subscribers.
    fn ask<T>(&self, order: impl Fn(Sender<T>) -> Order) -> Result<Vec<T>, String> {
        let (answer, answers) = mpsc::channel();
        self.order(|| order(answer.clone()));
        drop(answer);
        let answers: Vec<T> = answers.iter().collect();
        match answers.len() {
            THREADS => Ok(answers),
            count => Err(format!("{count} of {THREADS} threads of subscribers answered")),
        }
    }

    /// Threads that ended too early, which means that they panicked.
    pub(crate) fn violations(&self) -> Vec<String> {
        let ended = |thread: &&Thread| thread.handle.as_ref().is_none_or(JoinHandle::is_finished);
        let count = self.threads.iter().filter(ended).count();
        if count > 0 { vec![format!("{count} threads of subscribers panicked")] } else { Vec::new() }
    }

    /// Lets a random share of the subscribers stop reading, each for a random time up to `at_most`.
    pub(crate) fn stall(&self, share: f64, at_most: Duration) {
        self.order(|| Order::Stall { share, at_most });
    }

    /// Lets all subscribers read slowly for this time.
    pub(crate) fn slow_down(&self, time: Duration) {
        self.order(|| Order::SlowDown { time });
    }

    /// Waits until all subscribers have a stream. Returns how many have none after `patience` without any
    /// delivery.
    pub(crate) fn await_streams(&self, patience: Duration) -> Result<usize, String> {
        let done = Subscriber::streaming;
        Ok(self.ask(|answer| Order::Await { done, patience, answer })?.iter().sum())
    }

    /// Waits until all subscribers have the markers of their topics. Returns how many lack one after
    /// `patience` without any delivery.
    pub(crate) fn await_markers(&self, patience: Duration) -> Result<usize, String> {
        let done = Subscriber::settled;
        Ok(self.ask(|answer| Order::Await { done, patience, answer })?.iter().sum())
    }

    /// Compares every log with the ledger.
    pub(crate) fn verify(&self, round: Round) -> Result<Findings, String> {
        let round = Arc::new(round);
        let came = self.ask(|answer| Order::Came { round: Arc::clone(&round), answer })?;
        let mut round = Arc::unwrap_or_clone(round);
        for (key, epoch, seq) in came.into_iter().flatten() {
            round.came(key, epoch, seq);
        }
        let round = Arc::new(round);
        let mut sum = Findings::default();
        for findings in self.ask(|answer| Order::Verify { round: Arc::clone(&round), answer })? {
            sum += findings;
        }
        Ok(sum)
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        self.order(|| Order::Stop);
        for thread in &mut self.threads {
            if thread.handle.take().is_some_and(|handle| handle.join().is_err()) {
                eprintln!("a thread of subscribers panicked");
            }
        }
    }
}

/// Random preferences: most subscribers read two or three topics, some read one, some read all; formats are
/// mixed.
fn random_preferences(number: usize, random: &mut fastrand::Rng) -> Preferences {
    let bits = match number % 10 {
        0 => TOPICS,
        1..=3 => 1,
        _ => random.u32(2..=3),
    };
    let mut mask: u32 = if bits == TOPICS { (1 << TOPICS) - 1 } else { 0 };
    while mask.count_ones() < bits {
        mask |= 1 << random.u32(0..TOPICS);
    }
    Preferences {
        mask,
        format: match number % 4 {
            0 | 1 => Format::Chunked,
            2 => Format::ConnectionClose,
            _ => Format::Http10,
        },
        small_buffer: random.u32(0..3) == 0,
        id_in_query: random.u32(0..4) == 0,
        gap_off: random.u32(0..8) == 0,
    }
}

struct Worker {
    address: SocketAddr,
    clock: Clock,
    ledger: Arc<Ledger>,
    subscribers: Vec<Subscriber>,
    poll: Poll,
    orders: Receiver<Order>,
    waiting: Option<Waiting>,
    /// When loops of this round ended that took longer than [`LOOP_PERIOD`], and by how much.
    delays: Vec<(Duration, Duration)>,
    /// When silent connections are next searched for.
    next_search: Duration,
    /// Connections of this round that had no other end.
    half_open: u64,
    random: fastrand::Rng,
}

/// A question that is not answered yet.
struct Waiting {
    done: fn(&Subscriber) -> bool,
    asked_at: Duration,
    patience: Duration,
    answer: Sender<usize>,
}

impl Waiting {
    /// On a busy machine everything takes longer, while a server that has lost an event delivers nothing
    /// more. So the time begins with the last delivery, and is limited to ten times the patience.
    fn deadline(&self, subscribers: &[Subscriber]) -> Duration {
        let missing = subscribers.iter().filter(|subscriber| !(self.done)(subscriber));
        let latest = missing.map(|subscriber| subscriber.grew_at).max().unwrap_or_default();
        (latest.max(self.asked_at) + self.patience).min(self.asked_at + 10 * self.patience)
    }
}

impl Worker {
    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER];
        let mut before = self.clock.now();
        loop {
            let now = self.clock.now();
            let late = (now - before).saturating_sub(LOOP_PERIOD);
            if !late.is_zero() {
                self.delays.push((now, late));
            }
            before = now;
            for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
                let registry = self.poll.registry();
                subscriber.connect_if_due(self.address, registry, Token(index), now, &mut self.random);
                if subscriber.next_due().is_some_and(|at| at <= now) {
                    subscriber.read(&self.ledger, now, &mut buffer, &mut self.random);
                }
            }
            self.reconnect_half_open(now);
            self.answer_waiting(now);
            let due_times = self.subscribers.iter().filter_map(Subscriber::next_due);
            let deadline = self.waiting.as_ref().map(|waiting| waiting.deadline(&self.subscribers));
            let next = due_times.chain(deadline).chain([now + LOOP_PERIOD]).min();
            let timeout = next.map(|at| at.saturating_sub(self.clock.now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    panic!("the subscribers cannot wait for their sockets: {error}");
                }
                _ => {}
            }
            for event in &events {
                if let Some(subscriber) = self.subscribers.get_mut(event.token().0) {
                    subscriber.notified();
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                let began = self.clock.now();
                if !self.handle(order) {
                    return;
                }
                // The time that commands take is not a delay by the machine.
                before += self.clock.now() - began;
            }
        }
    }

    /// Reconnects subscribers whose connection has no other end, which would wait for ever. A subscriber that
    /// the server has lost in its tables still has the server's socket as its other end, and is not
    /// reconnected.
    fn reconnect_half_open(&mut self, now: Duration) {
        if self.next_search > now
            || self.subscribers.iter().all(|subscriber| subscriber.silent(now).is_none())
        {
            return;
        }
        self.next_search = now + SEARCH;
        let Ok(table) = Table::read() else { return };
        for subscriber in &mut self.subscribers {
            let Some(own) = subscriber.silent(now) else { continue };
            let there = table.has(self.address, own);
            self.half_open += u64::from(subscriber.checked_other_end(there, now));
        }
    }

    fn answer_waiting(&mut self, now: Duration) {
        let Some(waiting) = &self.waiting else { return };
        let missing = self.subscribers.iter().filter(|subscriber| !(waiting.done)(subscriber)).count();
        if missing == 0 || waiting.deadline(&self.subscribers) <= now {
            let _ = waiting.answer.send(missing);
            self.waiting = None;
        }
    }

    fn handle(&mut self, order: Order) -> bool {
        match order {
            Order::Stall { share, at_most } => {
                let now = self.clock.now();
                for subscriber in &mut self.subscribers {
                    if self.random.f64() < share {
                        subscriber.stall_until(now + at_most.mul_f64(self.random.f64()));
                    }
                }
            }
            Order::SlowDown { time } => {
                let until = self.clock.now() + time;
                self.subscribers.iter_mut().for_each(|subscriber| subscriber.slow_down(until));
            }
            Order::Await { done, patience, answer } => {
                let asked_at = self.clock.now();
                self.waiting = Some(Waiting { done, asked_at, patience, answer });
            }
            Order::Came { round, answer } => {
                let entries = self.subscribers.iter().flat_map(|subscriber| &subscriber.log);
                let open = entries.filter_map(|entry| match *entry {
                    Entry::Event { key, epoch, seq, .. } if round.is_open(key) => Some((key, epoch, seq)),
                    _ => None,
                });
                let _ = answer.send(open.collect());
            }
            Order::Verify { round, answer } => {
                let now = self.clock.now();
                let mut sum =
                    Findings { half_open: std::mem::take(&mut self.half_open), ..Findings::default() };
                for subscriber in &mut self.subscribers {
                    let log = std::mem::take(&mut subscriber.log);
                    let mut found =
                        verify(&round, subscriber.preferences.mask, &mut subscriber.position, &log);
                    if subscriber.was_unhindered(now) {
                        found.unhindered = found.stream_ends;
                    }
                    sum += found;
                    subscriber.marked = 0;
                }
                let stop = round.epochs.iter().filter_map(|epoch| epoch.stop_requested).max();
                let at_end = |at: Duration, late| {
                    stop.is_some_and(|stop| at > stop && at.saturating_sub(late) < stop + END)
                };
                for (at, late) in self.delays.drain(..) {
                    sum.longest_delay = sum.longest_delay.max(late);
                    if at_end(at, late) {
                        sum.delay_at_stop = sum.delay_at_stop.max(late);
                    }
                }
                let _ = answer.send(sum);
            }
            Order::Stop => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A subscriber that was hindered in a round, or still is in the next, may be cut when the server stops.
    /// No other may.
    #[test]
    fn a_subscriber_that_stalls_or_has_a_small_buffer_is_not_unhindered() {
        let preferences = |small_buffer| Preferences {
            small_buffer,
            ..random_preferences(0, &mut fastrand::Rng::with_seed(1))
        };
        let second = Duration::from_secs(1);
        assert!(!Subscriber::new(preferences(true)).was_unhindered(second));
        for hold in [Subscriber::stall_until, Subscriber::slow_down] {
            let mut subscriber = Subscriber::new(preferences(false));
            assert!(subscriber.was_unhindered(second));
            hold(&mut subscriber, 5 * second);
            let answers = [2, 4, 6, 7].map(|at| subscriber.was_unhindered(at * second));
            assert_eq!(answers, [false, false, false, true]);
        }
    }

    /// A thread that had panicked gave no answer, and its subscribers counted as verified.
    #[test]
    fn a_thread_that_panicked_is_an_error() {
        let clock = Clock::start();
        let ledger = Arc::new(Ledger::new(clock, 0));
        // There are no subscribers, so nothing connects to this address.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut random = fastrand::Rng::with_seed(1);
        let mut subscribers = Subscribers::start(nowhere, 0, &ledger, clock, &mut random).unwrap();
        assert_eq!(subscribers.await_streams(Duration::from_secs(60)), Ok(0));
        assert!(subscribers.verify(ledger.end_round()).is_ok());
        assert!(subscribers.violations().is_empty());

        let thread = &mut subscribers.threads[0];
        thread.orders.send(Order::Stop).unwrap();
        thread.waker.wake().unwrap();
        assert!(thread.handle.take().unwrap().join().is_ok());
        assert!(subscribers.await_streams(Duration::from_secs(60)).is_err());
        assert!(subscribers.verify(ledger.end_round()).is_err());
        assert_eq!(subscribers.violations().len(), 1);
    }
}
