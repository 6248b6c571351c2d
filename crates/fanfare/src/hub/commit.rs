//! Commit: the middle step of a publish, where there is a durable store.
//!
//! ```text
//!   publishers --sequence--> | batch | batch | batch |  --one group--> Store::append --> release, in order
//!                             the queue of commits       the store's thread
//! ```
//!
//! A batch enters the queue under the sequencer's lock, so the queue has the order of the numbers. One thread
//! takes what waits, appends all of it to the store as one group, and releases it. So subscribers get an
//! event after it is stored, and no id that anyone has seen can vanish. While the store appends, the next
//! batches gather: the slower the disk, the larger the groups.
//!
//! Where the store refuses a group, its batches are dropped. Their numbers become holes, and their publishers
//! learn why ([`Outcome`]). Parts of the same publish that come later are dropped, too: what is published of
//! a publish is its beginning.
//!
//! The queue needs no bound of its own: what is in it is sequenced and not released, which is bounded by
//! [`fanfare_proto::limits::Limits::mailbox_total_bytes`].

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use fanfare_io::Clock;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_store::{Durability, Record, Store};

use super::release::Sequenced;
use super::{Duplicate, Hub, PublishError};
use crate::history;
use crate::store::{StoreCounts, StoreFailure, StoreFigures, unix_ms};
use crate::sync::{AtomicBool, Condvar, Mutex, lock};

/// Topics of the events of one group, each counted for each of its events, about: a batch is not divided.
/// Each is a row or two in the index of a store.
const GROUP_TOPICS: usize = 4096;

/// Bytes on the wire of one group, about.
const GROUP_BYTES: usize = 8 << 20;

/// How often retention is enforced.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// A pass over all topics is followed by a rest of so many times what it took to find nothing, up to a
/// minute: to look at very many topics costs no more than a twentieth of a core.
const TRIM_REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Steps of one slice of that work: while it lasts, publishes wait.
const TRIM_STEPS: usize = 1024;

/// Batches that have their numbers and wait for the store.
#[derive(Default)]
pub(crate) struct CommitQueue {
    state: Mutex<State>,
    /// A batch has come, or the queue is closed.
    has_work: Condvar,
    /// The queue is closed, and all of it was committed.
    is_done: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Uncommitted>,
    /// No more batches come.
    is_closed: bool,
    /// Batches that the store's thread has taken and not released.
    is_committing: bool,
}

/// A batch that waits for the store.
struct Uncommitted {
    batch: Sequenced,
    outcome: Arc<Outcome>,
    publish: Arc<PublishCommits>,
    /// The positions of the events with own ids, in the publisher's part, by their numbers.
    own_ids: Vec<(u64, usize)>,
}

/// What all parts of one publish share.
#[derive(Debug, Default)]
pub(crate) struct PublishCommits {
    has_failed: AtomicBool,
}

/// What became of one part of a publish.
#[derive(Debug, Default)]
pub(crate) struct Outcome(OnceLock<Result<Committed, PublishError>>);

/// A part that is stored, or was published before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    /// When the newest number has reached this one, the part is visible.
    pub(crate) number: u64,
    /// Events that were in the store already, with the numbers that they were given in vain.
    pub(crate) duplicates: Vec<(u64, Duplicate)>,
}

impl Hub {
    /// What the durable store has done and holds. `None`: there is none.
    pub fn store_figures(&self) -> Option<StoreFigures> {
        self.inner.store.as_ref().map(|store| store.counts.figures(&*store.store))
    }

    /// How much memory events take at most, in bytes, that are read from the durable store for subscribers.
    /// Zero: there is none.
    pub fn history_memory(&self) -> usize {
        let of_shard = history::memory_bound(self.inner.limits.event_bytes);
        if self.has_store() { self.inner.shards.len() * of_shard } else { 0 }
    }

    /// The text of the last error of the durable store, if there was one since the last call: for a log.
    pub fn take_store_error(&self) -> Option<String> {
        let of_store = self.inner.store.as_ref().map(|store| &store.counts);
        let of_backplane = self.inner.backplane.as_ref().map(|shared| &shared.counts);
        of_store.or(of_backplane)?.take_error()
    }
}

impl Outcome {
    /// Of a part that has no event for the store.
    pub(crate) fn of_nothing() -> Arc<Outcome> {
        Arc::new(Outcome(OnceLock::from(Ok(Committed::default()))))
    }

    /// `None`: it is not decided.
    pub(crate) fn get(&self) -> Option<&Result<Committed, PublishError>> {
        self.0.get()
    }

    fn set(&self, result: Result<Committed, PublishError>) {
        // It is set once, by the store's thread.
        let _ = self.0.set(result);
    }
}

impl CommitQueue {
    /// Adds a batch. The caller holds the sequencer's lock.
    pub(super) fn push(
        &self,
        batch: Sequenced,
        publish: Arc<PublishCommits>,
        own_ids: Vec<(u64, usize)>,
    ) -> Arc<Outcome> {
        let outcome = Arc::new(Outcome::default());
        let uncommitted = Uncommitted { batch, outcome: Arc::clone(&outcome), publish, own_ids };
        let mut state = lock(&self.state);
        if state.is_closed {
            // The store's thread has panicked a moment ago.
            drop(state);
            uncommitted.fail(PublishError::Stopped);
            return outcome;
        }
        state.waiting.push_back(uncommitted);
        self.has_work.notify_one();
        outcome
    }

    /// Waits until everything is committed, at most for `patience`, and ends the store's thread. No batch
    /// comes any more.
    pub(crate) fn close(&self, patience: Duration) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        self.has_work.notify_one();
        let is_busy = |state: &mut State| state.is_committing || !state.waiting.is_empty();
        #[cfg(not(fanfare_loom))]
        drop(self.is_done.wait_timeout_while(state, patience, is_busy));
        #[cfg(fanfare_loom)]
        let _ = (&mut state, patience, is_busy);
    }

    /// Batches that wait for the store.
    #[cfg(feature = "sim")]
    pub(crate) fn len(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// The store's thread has panicked. The batches that wait are dropped, and their publishers are answered.
    /// It is unknown whether the batches that the thread had taken are stored.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.state);
        (state.is_closed, state.is_committing) = (true, false);
        let waiting = std::mem::take(&mut state.waiting);
        self.is_done.notify_all();
        drop(state);
        // Without the lock: publishers are called.
        for uncommitted in waiting {
            uncommitted.fail(PublishError::Stopped);
        }
    }

    /// Takes a group. Waits for it, at most for `patience`. `None`: the queue is closed and empty.
    fn take(&self, patience: Duration) -> Option<Vec<Uncommitted>> {
        let mut state = lock(&self.state);
        state.is_committing = false;
        if state.waiting.is_empty() {
            if state.is_closed {
                self.is_done.notify_all();
                return None;
            }
            if !patience.is_zero() {
                let wait = self.has_work.wait_timeout(state, patience);
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let (mut group, mut topics, mut bytes) = (Vec::new(), 0, 0);
        while topics < GROUP_TOPICS
            && bytes < GROUP_BYTES
            && let Some(next) = state.waiting.pop_front()
        {
            topics += next.batch.frames().iter().map(|frame| frame.topics().len()).sum::<usize>();
            bytes += next.batch.frames().iter().map(|frame| frame.size()).sum::<usize>();
            group.push(next);
        }
        state.is_committing = !group.is_empty();
        Some(group)
    }
}

/// The store, and what appends to it.
pub(crate) struct Committer {
    store: Arc<dyn Store>,
    queue: Arc<CommitQueue>,
    counts: Arc<StoreCounts>,
    durability: Durability,
    epoch: Epoch,
    clock: Clock,
    records: Vec<Record>,
    /// When retention is enforced next.
    trims_at: Duration,
    /// What the pass under way has taken where it has found nothing.
    trims_took: Duration,
    /// When the store is synced next, where it does not sync each group.
    syncs_at: Duration,
}

/// How long events may be in no more than the memory of the process with [`Durability::Async`].
const SYNC_EVERY: Duration = Duration::from_secs(1);

impl Committer {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        queue: Arc<CommitQueue>,
        counts: Arc<StoreCounts>,
        durability: Durability,
        clock: Clock,
    ) -> Committer {
        let (epoch, now) = (store.state().epoch, clock.now());
        Committer {
            store,
            queue,
            counts,
            durability,
            epoch,
            clock,
            records: Vec::new(),
            trims_at: now,
            trims_took: Duration::ZERO,
            syncs_at: now,
        }
    }

    /// Commits until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while self.step(true) {}
        if self.durability == Durability::Async {
            let _ = self.store.sync();
        }
    }

    /// Commits one group, or trims. False: the queue is closed, and all of it was committed. `may_wait`: for
    /// a batch, where there is none.
    pub(crate) fn step(&mut self, may_wait: bool) -> bool {
        let patience = if may_wait { self.next_upkeep() } else { Duration::ZERO };
        let Some(group) = self.queue.take(patience) else { return false };
        if !group.is_empty() {
            self.commit(group);
        }
        self.upkeep();
        true
    }

    /// The time until there is something to do without a batch.
    fn next_upkeep(&self) -> Duration {
        let next = match self.durability {
            Durability::Commit => self.trims_at,
            Durability::Async => self.trims_at.min(self.syncs_at),
        };
        next.saturating_sub(self.clock.now())
    }

    fn upkeep(&mut self) {
        let now = self.clock.now();
        if self.durability == Durability::Async && now >= self.syncs_at {
            self.syncs_at = now + SYNC_EVERY;
            if let Err(error) = self.store.sync() {
                self.counts.add_failure(&error);
            }
        }
        if now >= self.trims_at {
            let trimmed = self.store.trim(unix_ms(self.clock.date()), TRIM_STEPS);
            let ended = self.clock.now();
            if trimmed.as_ref().is_ok_and(|trimmed| trimmed.records == 0) {
                self.trims_took += ended.saturating_sub(now);
            }
            match trimmed {
                // The rest is done behind the next group.
                Ok(trimmed) if trimmed.more => return,
                Ok(_) => {}
                // Where nothing can be written any more, the next append says so.
                Err(error) => self.counts.add_read_failure(&error),
            }
            let rest = std::mem::take(&mut self.trims_took).saturating_mul(TRIM_REST);
            self.trims_at = ended + rest.clamp(TRIM_EVERY, LONGEST_REST);
        }
    }

    fn commit(&mut self, mut group: Vec<Uncommitted>) {
        let began = self.clock.now();
        let now_ms = unix_ms(self.clock.date());
        self.records.clear();
        let mut committed: Vec<Option<Committed>> = Vec::with_capacity(group.len());
        for uncommitted in &mut group {
            let ready = if uncommitted.publish.has_failed.load(Ordering::Acquire) {
                Err(PublishError::NotStored(StoreFailure::Earlier))
            } else {
                self.leave_out_what_is_stored(uncommitted)
            };
            match ready {
                Ok(duplicates) => {
                    let frames = uncommitted.batch.frames();
                    let number = frames.last().map_or(0, |frame| frame.seq());
                    for frame in frames {
                        let age = began.saturating_sub(frame.published()).as_millis() as u64;
                        self.records.push(Record {
                            number: frame.seq(),
                            published_ms: now_ms.saturating_sub(age),
                            event: frame.to_event(),
                        });
                    }
                    committed.push(Some(Committed { number, duplicates }));
                }
                Err(error) => {
                    uncommitted.fail(error);
                    committed.push(None);
                }
            }
        }
        let mut failure = None;
        if !self.records.is_empty() {
            match self.store.append(&self.records, self.durability) {
                Ok(()) => {
                    let time = self.clock.now().saturating_sub(began);
                    self.counts.add_group(self.records.len(), time);
                }
                Err(error) => {
                    self.counts.add_failure(&error);
                    failure = Some(StoreFailure::of(&error));
                }
            }
        }
        for (uncommitted, committed) in group.into_iter().zip(committed) {
            match (committed, failure) {
                (Some(committed), None) => {
                    uncommitted.outcome.set(Ok(committed));
                    uncommitted.batch.release();
                }
                (Some(committed), Some(_)) if committed.number == 0 => {
                    // All of its events are stored.
                    uncommitted.outcome.set(Ok(committed));
                    uncommitted.batch.release();
                }
                (Some(_), Some(failure)) => {
                    uncommitted.fail(PublishError::NotStored(failure));
                    drop(uncommitted);
                }
                (None, _) => drop(uncommitted),
            }
        }
    }

    /// Leaves out of the batch the events that are in the store, by their own ids. The log in memory, which
    /// has the newest events, was asked before.
    fn leave_out_what_is_stored(
        &self,
        uncommitted: &mut Uncommitted,
    ) -> Result<Vec<(u64, Duplicate)>, PublishError> {
        let mut duplicates = Vec::new();
        if uncommitted.own_ids.is_empty() {
            return Ok(duplicates);
        }
        let mut numbers = Vec::new();
        // Both are in the order of their numbers.
        let mut own_ids = uncommitted.own_ids.iter().peekable();
        for frame in uncommitted.batch.frames() {
            let Some(&(_, index)) = own_ids.next_if(|(number, _)| *number == frame.seq()) else { continue };
            let event = frame.to_event();
            let Some(id) = event.id() else { continue };
            let found = self.store.find(id, event.topics());
            match found {
                Ok(Some(first)) if frame.says_the_same(&first.event) => {
                    let first = Cursor { epoch: self.epoch, seq: first.number };
                    duplicates.push((frame.seq(), Duplicate { index, first }));
                    numbers.push(frame.seq());
                }
                Ok(Some(_)) => return Err(PublishError::IdConflict { index }),
                Ok(None) => {}
                Err(error) => {
                    self.counts.add_read_failure(&error);
                    return Err(PublishError::NotStored(StoreFailure::of(&error)));
                }
            }
        }
        uncommitted.batch.leave_out(&numbers);
        Ok(duplicates)
    }
}

impl Uncommitted {
    fn fail(&self, error: PublishError) {
        self.publish.has_failed.store(true, Ordering::Release);
        self.outcome.set(Err(error));
    }
}
