//! Publishers that wait for room. The line has a fair order: a small publish is not behind all large ones.
//!
//! ```text
//! | ticket 1: shards {0}    called |  <--call(0)-- shard 0 has room again | ticket 2: shards {0, 3}        |
//! publisher --enter--> | ticket 3: shards {5}           |  --leave--> a publisher that succeeded or gave up
//! calls the next one: from 1 to 2
//! ```
//!
//! The order is fair queueing (A. Demers, S. Keshav, S. Shenker, 1989). The line has a time of its own. When
//! a publisher has waited and published, that time goes on by the cost of what it published, divided by the
//! number of publishers that wait. A publisher enters at the present time plus the cost of its part. So all
//! that wait have equal shares, and a small publish stands before most of the large ones, also before those
//! that came earlier. The cost is the size of the part, within bounds: a large part is overtaken by at most
//! eight small ones of each other publisher.
//!
//! A publisher waits for the shards that had no room in their mailboxes. Where a publisher ahead waits for
//! one of these, it waits behind that one. It is called when it is the first one for all of its shards. Then
//! it tries again, and keeps its position until it has succeeded or given up.
//!
//! A shard only marks a position and signals a condition variable. It must not run a task's waker, because it
//! may have a descriptor table of its own: tokio's waker writes to an eventfd, whose number may be a
//! subscriber's socket there. So there are no wakers here. The line knows a task by its ticket, and a thread
//! of the hub ([`super::tasks`]) wakes it.
//!
//! Readers in the process ([`super::readers`]) are no publishers. Those that are tasks are called through the
//! line, and where many are called, threads are, too. All readers learn here that the engine ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fanfare_proto::log::ShardSet;

use super::readers::{LocalReaders, ReaderKey};
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, lock};

/// The time of the line, in bytes of each publisher's share and 16 binary places. With 64 bits it would come
/// to its end within weeks where publishers always wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineTime(u128);

impl LineTime {
    /// Bytes that a part costs at least and at most.
    const COSTS: (usize, usize) = (512, 4096);

    fn cost_of(part_bytes: usize) -> u128 {
        let (least, most) = LineTime::COSTS;
        (part_bytes.clamp(least, most) as u128) << 16
    }

    /// Where a publisher stands that enters now with a part of so many bytes.
    pub(crate) fn position_of(self, part_bytes: usize) -> LineTime {
        LineTime(self.0 + LineTime::cost_of(part_bytes))
    }

    /// One of so many publishers that waited has published so many bytes.
    pub(crate) fn go_on(&mut self, part_bytes: usize, waiting: usize) {
        self.0 += LineTime::cost_of(part_bytes) / waiting.max(1) as u128;
    }
}

/// A position in the line: lower ones are ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    /// The time of the line at which the publisher stands.
    at: LineTime,
    /// Publishers at the same position are called in the order in which they came.
    number: u64,
}

/// A task that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    Publisher(Ticket),
    Reader(ReaderKey),
}

/// The publishers that wait. The hub and every mailbox share it.
#[derive(Default)]
pub(crate) struct WaitingPublishers {
    line: Mutex<Line>,
    /// How many publishers wait. Relaxed: it is raised under the sequencer's lock, or the log's where a
    /// publisher waits for no shard, and a thread that asks holds or has held the same lock. Where it falls
    /// meanwhile, the publisher only checks the line in vain.
    count: AtomicUsize,
    /// No publish will succeed any more: the engine drains, or a shard has ended.
    closed: AtomicBool,
    /// Tasks are called, or the line is closed.
    tasks_called: Condvar,
    /// The readers of the process, which wait for events. They are here because all that closes the line ends
    /// them, too.
    readers: LocalReaders,
}

#[derive(Default)]
struct Line {
    next_number: u64,
    positions: BTreeMap<Ticket, Waiting>,
    /// How many publishers wait for each shard, and the shards for which any does: a publish asks for these,
    /// so it must not cost more where many wait.
    waiting_for: Vec<usize>,
    waited_for: ShardSet,
    /// Publishers that wait until a number is visible, by that number.
    until: BTreeSet<(u64, Ticket)>,
    /// Tickets of tasks to wake, in order.
    called_tasks: VecDeque<Ticket>,
    /// Readers to wake, and where those wait that are threads. A map, so that a reader which is called again
    /// meanwhile takes no more room.
    called_readers: BTreeMap<ReaderKey, Option<Arc<Condvar>>>,
}

/// One publisher in the line.
struct Waiting {
    /// The shards that had no room, or that a publisher ahead waits for. The set only grows: a publisher that
    /// waited for one shard, and then finds another one full, keeps its position for both. Otherwise two busy
    /// shards could starve it.
    shards: ShardSet,
    /// It waits until this number is visible, and for no shard.
    until: Option<u64>,
    /// It may try again.
    is_called: bool,
    /// Where its thread waits; a task has none.
    thread: Option<Arc<Condvar>>,
}

/// A position in the line. When it is dropped, the publisher leaves the line, and the next one is called.
pub(crate) struct LinePosition {
    line: Arc<WaitingPublishers>,
    ticket: Ticket,
    thread: Option<Arc<Condvar>>,
}

/// How a publisher waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitBy {
    Thread,
    Task,
}

impl WaitingPublishers {
    /// Whether no publish will succeed any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The readers of the process.
    pub(crate) fn readers(&self) -> &LocalReaders {
        &self.readers
    }

    /// How many publishers wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no publisher waits. A shard asks when it has changed something on which a publisher may
    /// depend.
    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The shards that publishers ahead wait for; without a position, all publishers are ahead.
    pub(crate) fn waited_for_ahead(&self, position: Option<&LinePosition>) -> ShardSet {
        let mut shards = ShardSet::new();
        if self.is_empty() {
            return shards;
        }
        let line = lock(&self.line);
        let Some(position) = position else { return line.waited_for.clone() };
        for waiting in line.positions.range(..position.ticket).map(|(_, waiting)| waiting) {
            shards.union_with(&waiting.shards);
        }
        shards
    }

    /// Takes a position in the line, or notes at a position that its call brought no success. `at` says
    /// where: see [`Ticket`]. The publisher may be the first one, so it checks once more which publishers are
    /// ahead.
    pub(crate) fn enter(
        self: &Arc<Self>,
        position: &mut Option<LinePosition>,
        at: LineTime,
        shards: &ShardSet,
        by: WaitBy,
    ) {
        let line = &mut *lock(&self.line);
        let position = position.get_or_insert_with(|| self.new_position(line, at, by, None));
        let Some(waiting) = line.positions.get_mut(&position.ticket) else { return };
        waiting.is_called = false;
        for shard in shards.iter() {
            if waiting.shards.insert(shard) {
                if line.waiting_for.len() <= shard {
                    line.waiting_for.resize(shard + 1, 0);
                }
                line.waiting_for[shard] += 1;
                line.waited_for.insert(shard);
            }
        }
    }

    /// Takes a position for a publisher whose events are not visible before this number is, or keeps the one
    /// that it has. It delays no other publisher. Called under the log's lock, as long as the number is not
    /// visible: so one that was called too early is called again.
    pub(crate) fn enter_until(
        self: &Arc<Self>,
        position: &mut Option<LinePosition>,
        number: u64,
        by: WaitBy,
    ) {
        let line = &mut *lock(&self.line);
        let Some(position) = position else {
            *position = Some(self.new_position(line, LineTime::default(), by, Some(number)));
            return;
        };
        let Some(waiting) = line.positions.get_mut(&position.ticket) else { return };
        // A position for room was given up before.
        let Some(before) = waiting.until else { return };
        (waiting.until, waiting.is_called) = (Some(number), false);
        line.until.remove(&(before, position.ticket));
        line.until.insert((number, position.ticket));
    }

    fn new_position(
        self: &Arc<Self>,
        line: &mut Line,
        at: LineTime,
        by: WaitBy,
        until: Option<u64>,
    ) -> LinePosition {
        let ticket = Ticket { at, number: line.next_number };
        line.next_number += 1;
        let thread: Option<Arc<Condvar>> = (by == WaitBy::Thread).then(Arc::default);
        let waiting = Waiting { shards: ShardSet::new(), until, is_called: false, thread: thread.clone() };
        line.positions.insert(ticket, waiting);
        line.until.extend(until.map(|number| (number, ticket)));
        self.count.store(line.positions.len(), Ordering::Relaxed);
        LinePosition { line: Arc::clone(self), ticket, thread }
    }

    /// Everything up to this number is visible. Calls the publishers that wait for that.
    pub(crate) fn call_up_to(&self, number: u64) {
        // A publisher that waits has entered under the log's lock, before the number was raised there.
        if self.is_empty() {
            return;
        }
        let mut line = lock(&self.line);
        while let Some(first) = line.until.first().copied().filter(|(until, _)| *until <= number) {
            line.until.remove(&first);
            self.call_ticket(&mut line, first.1);
        }
    }

    /// Calls the publishers that wait until one of these numbers is visible: it will not be. None of them is
    /// the publisher of that number.
    pub(crate) fn call_between(&self, first: u64, last: u64) {
        // As for `call_up_to`.
        if self.is_empty() {
            return;
        }
        let mut line = lock(&self.line);
        let is_between = |(number, _): &&(u64, Ticket)| (first..=last).contains(number);
        let called: Vec<_> = line.until.iter().filter(is_between).copied().collect();
        for it in called {
            line.until.remove(&it);
            self.call_ticket(&mut line, it.1);
        }
    }

    /// This shard has room again. Calls the first publisher that waits for it, unless that publisher waits
    /// behind others for another shard: these will call it when they leave.
    pub(crate) fn call(&self, shard: usize) {
        let mut line = lock(&self.line);
        if !line.waited_for.contains(shard) {
            return;
        }
        let mut ahead = ShardSet::new();
        let mut called = None;
        for (&ticket, waiting) in &line.positions {
            if waiting.shards.contains(shard) {
                called = (!intersect(&waiting.shards, &ahead)).then_some(ticket);
                break;
            }
            ahead.union_with(&waiting.shards);
        }
        if let Some(ticket) = called {
            self.call_ticket(&mut line, ticket);
        }
    }

    /// What this publisher waits for has come.
    pub(crate) fn call_one(&self, ticket: Ticket) {
        self.call_ticket(&mut lock(&self.line), ticket);
    }

    fn call_ticket(&self, line: &mut Line, ticket: Ticket) {
        let Some(waiting) = line.positions.get_mut(&ticket) else { return };
        if std::mem::replace(&mut waiting.is_called, true) {
            return;
        }
        match &waiting.thread {
            Some(thread) => thread.notify_one(),
            None => {
                line.called_tasks.push_back(ticket);
                self.tasks_called.notify_one();
            }
        }
    }

    fn leave(&self, ticket: Ticket) {
        let mut line = lock(&self.line);
        let Some(left) = line.positions.remove(&ticket) else { return };
        self.count.store(line.positions.len(), Ordering::Relaxed);
        if let Some(number) = left.until {
            line.until.remove(&(number, ticket));
            return;
        }
        for shard in left.shards.iter() {
            line.waiting_for[shard] -= 1;
            if line.waiting_for[shard] == 0 {
                line.waited_for.remove(shard);
            }
        }
        // A publisher that waited behind this one, and behind no other one, is called.
        let mut ahead = ShardSet::new();
        let mut called = Vec::new();
        for (&other, waiting) in &line.positions {
            if other > ticket
                && intersect(&waiting.shards, &left.shards)
                && !intersect(&waiting.shards, &ahead)
            {
                called.push(other);
            }
            ahead.union_with(&waiting.shards);
            if left.shards.iter().all(|shard| ahead.contains(shard)) {
                break;
            }
        }
        for ticket in called {
            self.call_ticket(&mut line, ticket);
        }
    }

    /// Has these readers woken: tasks, and threads with the place where they wait.
    pub(crate) fn call_readers(
        &self,
        readers: impl ExactSizeIterator<Item = (ReaderKey, Option<Arc<Condvar>>)>,
    ) {
        if readers.len() > 0 {
            lock(&self.line).called_readers.extend(readers);
            self.tasks_called.notify_one();
        }
    }

    /// No publish succeeds from now on. All publishers and readers are called, so that they learn of that.
    pub(crate) fn close(&self) {
        let line = lock(&self.line);
        // Under the lock, so that no publisher checks before this and waits after it.
        self.closed.store(true, Ordering::Release);
        for thread in line.positions.values().filter_map(|waiting| waiting.thread.as_ref()) {
            thread.notify_one();
        }
        self.tasks_called.notify_one();
        drop(line);
        self.readers.close();
    }

    /// For the hub's thread: waits until some are called. Appends tasks to `into`, and to `threads` where
    /// readers wait that are threads. False: the line is closed, and all are called.
    pub(crate) fn next_called(&self, into: &mut Vec<Task>, threads: &mut Vec<Arc<Condvar>>) -> bool {
        let mut line = lock(&self.line);
        loop {
            if self.is_closed() {
                return false;
            }
            into.extend(line.called_tasks.drain(..).map(Task::Publisher));
            for (key, thread) in std::mem::take(&mut line.called_readers) {
                match thread {
                    Some(thread) => threads.push(thread),
                    None => into.push(Task::Reader(key)),
                }
            }
            if !into.is_empty() || !threads.is_empty() {
                return true;
            }
            line = self.tasks_called.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl LinePosition {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether the publisher waits for a number, and for no shard.
    pub(crate) fn waits_for_number(&self) -> bool {
        let line = lock(&self.line.line);
        line.positions.get(&self.ticket).is_some_and(|waiting| waiting.until.is_some())
    }

    /// Whether the publisher is called. Also where the line is closed: then it will learn why.
    pub(crate) fn is_called(&self) -> bool {
        self.is_called_in(&lock(&self.line.line))
    }

    fn is_called_in(&self, line: &Line) -> bool {
        self.line.is_closed() || line.positions.get(&self.ticket).is_none_or(|waiting| waiting.is_called)
    }

    /// Waits for the call of a publisher that waits as a thread. `time_left` says how long it may still wait;
    /// false: no time is left, and it was not called.
    pub(crate) fn wait(&self, mut time_left: impl FnMut() -> Duration) -> bool {
        let mut line = lock(&self.line.line);
        while !self.is_called_in(&line) {
            let left = time_left();
            let Some(thread) = self.thread.as_ref().filter(|_| left > Duration::ZERO) else { return false };
            line = wait_timeout(thread, line, left);
        }
        true
    }
}

fn wait_timeout<'line>(
    thread: &Condvar,
    line: MutexGuard<'line, Line>,
    left: Duration,
) -> MutexGuard<'line, Line> {
    thread.wait_timeout(line, left).unwrap_or_else(PoisonError::into_inner).0
}

impl Drop for LinePosition {
    fn drop(&mut self) {
        self.line.leave(self.ticket);
    }
}

fn intersect(one: &ShardSet, other: &ShardSet) -> bool {
    one.iter().any(|shard| other.contains(shard))
}
