//! Worlds with a durable store: publishers that wait for it, the steps of its two threads, and the end of the
//! process at any step of a commit, behind which another engine opens the same disk.
//!
//! What is on the disk at a crash is what the next engine has: each event that was answered, unless events
//! are written without commits; and of a group that was being written, all or nothing. Clients come back with
//! their last ids, and publishers without an answer may publish again, under the same own ids.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use fanfare::sim::{self, StoredPublish};
use fanfare::{Durability, Event, Interrupted, PublishError, StoreFailure, StoreOptions};

use crate::disk::{CrashAt, Disk};
use crate::history::Entry;
use crate::repetitions::{Told, event_of};
use crate::shared::{Shared, log_model};
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::world::World;

/// Publishes that are not committed, at most.
const PENDING: usize = 6;

/// A durable store and those that publish to it.
pub(crate) struct StoreSide {
    pub(crate) disk: Arc<Disk>,
    /// What the threads of the engine do.
    pub(crate) engine: sim::SimStore,
    /// Publishes that have their numbers and are not stored, in the order of these.
    pending: VecDeque<Pending>,
    /// Publishes that are decided, and whose publishers do not know it.
    unanswered: Vec<Unanswered>,
    /// What publishers publish again behind a crash.
    again: Vec<Vec<Entry>>,
}

/// A publish that waits for the store.
struct Pending {
    publish: StoredPublish,
    /// The events with own ids, as they were given.
    with_own_ids: Vec<Entry>,
    /// Its events with numbers.
    entries: Vec<Entry>,
    told: Told,
    /// Those that the store has already.
    stored: Vec<StoredBefore>,
}

/// An event that the store has already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredBefore {
    /// The number that it was given in vain.
    pub(crate) given: u64,
    /// Its position in the publish.
    pub(crate) index: usize,
    /// The number of the first one.
    pub(crate) first: u64,
    /// Whether that one says the same.
    pub(crate) is_same: bool,
}

/// A publish that is decided.
struct Unanswered {
    publish: StoredPublish,
    with_own_ids: Vec<Entry>,
    answer: Answer,
}

/// What its publisher must be told.
enum Answer {
    Published(Told),
    Conflict { index: usize },
    Full,
}

impl Pending {
    /// What it becomes in a commit that finds room, or not.
    fn decide(mut self, is_full: bool) -> (Unanswered, Vec<Entry>) {
        let conflict = self.stored.iter().find(|before| !before.is_same).map(|before| before.index);
        let is_stored = |entry: &Entry| self.stored.iter().any(|before| before.given == entry.seq);
        let mut entries = self.entries;
        entries.retain(|entry| !is_stored(entry));
        let answer = match conflict {
            Some(index) => Answer::Conflict { index },
            None if is_full && !entries.is_empty() => Answer::Full,
            None => {
                self.stored.iter().for_each(|before| self.told.add_stored(before));
                Answer::Published(self.told)
            }
        };
        if !matches!(answer, Answer::Published(_)) {
            entries.clear();
        }
        (Unanswered { publish: self.publish, with_own_ids: self.with_own_ids, answer }, entries)
    }
}

impl Shared {
    /// The disk of the world, if there is one.
    pub(crate) fn disk(&self) -> Option<Arc<Disk>> {
        self.store.borrow().as_ref().map(|side| Arc::clone(&side.disk))
    }

    /// Events that have their numbers and are not visible, of publishes to a store.
    pub(crate) fn pending_entries(&self) -> Vec<Entry> {
        let store = self.store.borrow();
        let pending = store.iter().flat_map(|side| &side.pending);
        pending.flat_map(|publish| publish.entries.iter().cloned()).collect()
    }

    /// A publisher publishes, or learns of its publish, or one of the threads of the store makes a step.
    pub(crate) fn publish_stored_some(&self, when: &str) {
        let pending = self.store.borrow().as_ref().map_or(0, |side| side.pending.len());
        match self.below(8) {
            0 => self.commit(when),
            1 => self.answer_question(),
            2 => self.answer_some(),
            _ if pending >= PENDING => self.commit(when),
            _ => {
                let again = self.store.borrow_mut().as_mut().and_then(|side| side.again.pop());
                if again.is_some() {
                    self.happened(Occurrence::PublishedAgain);
                }
                let entries = again.unwrap_or_else(|| self.some_events(None));
                self.publish_stored(entries, when);
            }
        }
    }

    /// Publishes, commits, and waits for the answer. False where that was refused.
    pub(crate) fn publish_and_commit(&self, entries: Vec<Entry>) -> bool {
        self.commit("");
        let is_taken = self.publish_stored(entries, "");
        self.commit("");
        self.answer_all();
        is_taken
    }

    /// One attempt to publish. False where that was refused.
    fn publish_stored(&self, mut entries: Vec<Entry>, when: &str) -> bool {
        self.observe_log();
        entries.iter_mut().for_each(|entry| entry.published_at = self.now.get());
        let mut before = self.repetitions(&mut entries);
        let mut events: Vec<Event> = entries.iter().map(event_of).collect();
        if self.is_larger_than_a_mailbox(&events, &entries) {
            // It would be taken in parts.
            entries.truncate(1);
            before.truncate(1);
            events.truncate(1);
        }
        self.measure(&events, &mut entries);
        let bad = entries.iter().any(|entry| self.is_bad(entry));
        assert_eq!(self.hub().check(&events).is_err(), bad, "the hub's own check");
        let count = events.len();
        let with_own_ids = entries.iter().filter(|entry| entry.own_id.is_some()).cloned().collect();
        let mut publish = StoredPublish::of(&self.hub(), events);
        let error = match publish.attempt() {
            Some(Ok(published)) => {
                let told = Told::of(self, count, &before, &mut entries);
                assert!(entries.is_empty(), "a publish is answered before its events are stored");
                told.check(&published);
                return true;
            }
            None if publish.is_sequenced() => {
                self.check_taken(count, count, false, &entries);
                let told = Told::of(self, count, &before, &mut entries);
                let (first, last) = (entries[0].seq, entries[entries.len() - 1].seq);
                trace!(self, "publish {first} to {last}, to be stored{when}");
                self.last_number.set(last);
                self.happened(Occurrence::Sequenced);
                let stored = crate::repetitions::stored_of(&before, &entries);
                let pending = Pending { publish, with_own_ids, entries, told, stored };
                self.store.borrow_mut().as_mut().expect("a store").pending.push_back(pending);
                return true;
            }
            None => PublishError::Busy,
            Some(Err(Interrupted { error, published, .. })) => {
                assert_eq!(published, None, "a part is published");
                error
            }
        };
        self.refused(&error, &entries, &before, false);
        false
    }

    /// The store takes what waits as one group, and it is released. Or the process ends in the middle of it.
    pub(crate) fn commit(&self, when: &str) {
        self.observe_log();
        let mut store = self.store.borrow_mut();
        let Some(side) = store.as_mut() else { return };
        if side.disk.has_crashed() {
            return;
        }
        let is_full = side.disk.is_full();
        let count = side.pending.len();
        assert_eq!(side.engine.waiting_batches(), count, "batches that wait for the store");
        side.disk.watch(Some(self.hub()));
        side.engine.commit();
        side.disk.watch(None);
        if side.disk.has_crashed() {
            return;
        }
        if !self.is_over.get() {
            side.disk.check_synced(self.now.get());
        }
        let pending = std::mem::take(&mut side.pending);
        let decided: Vec<(Unanswered, Vec<Entry>)> =
            pending.into_iter().map(|pending| pending.decide(is_full)).collect();
        if count > 0 {
            self.happened(Occurrence::Committed);
            trace!(self, "commit {count} publishes{}{when}", if is_full { " to a full disk" } else { "" });
        }
        let mut batches = Vec::new();
        for (unanswered, entries) in decided {
            match &unanswered.answer {
                Answer::Full => self.happened(Occurrence::DiskFull),
                Answer::Conflict { .. } => self.happened(Occurrence::IdConflict),
                Answer::Published(_) => self.happened(Occurrence::Released),
            }
            // After the end of the hub, what is stored is not released.
            if !self.is_over.get() && !entries.is_empty() {
                batches.push(entries);
            }
            side.unanswered.push(unanswered);
        }
        drop(store);
        self.released(batches);
    }

    /// The store answers a question of a shard, if there is one.
    pub(crate) fn answer_question(&self) {
        let store = self.store.borrow();
        if let Some(side) = store.as_ref()
            && side.engine.answer()
        {
            self.happened(Occurrence::StoreAnswer);
        }
    }

    /// Whether one of the threads of the store has something to do.
    pub(crate) fn is_store_busy(&self) -> bool {
        let store = self.store.borrow();
        store.as_ref().is_some_and(|side| side.engine.waiting_batches() + side.engine.questions() > 0)
    }

    /// A publisher asks what has become of its publish.
    fn answer_some(&self) {
        let mut store = self.store.borrow_mut();
        let Some(side) = store.as_mut() else { return };
        if !side.pending.is_empty() && (side.unanswered.is_empty() || self.one_in(2)) {
            let index = self.below(side.pending.len());
            let answer = side.pending[index].publish.attempt();
            assert!(answer.is_none(), "a publish that is not stored is answered with {answer:?}");
        } else if !side.unanswered.is_empty() {
            let index = self.below(side.unanswered.len());
            let unanswered = side.unanswered.swap_remove(index);
            drop(store);
            self.answer(unanswered);
        }
    }

    pub(crate) fn answer_all(&self) {
        let unanswered = self.store.borrow_mut().as_mut().map(|side| std::mem::take(&mut side.unanswered));
        unanswered.into_iter().flatten().for_each(|unanswered| self.answer(unanswered));
    }

    fn answer(&self, mut unanswered: Unanswered) {
        let result = unanswered.publish.attempt().expect("a publish that is decided");
        match (unanswered.answer, result) {
            (Answer::Published(told), Ok(published)) => told.check(&published),
            (Answer::Conflict { index }, Err(interrupted)) => {
                assert_eq!(interrupted.error, PublishError::IdConflict { index }, "one id for two events");
                assert_eq!(interrupted.published, None);
            }
            (Answer::Full, Err(interrupted)) => {
                let full = PublishError::NotStored(StoreFailure::Full);
                assert_eq!((interrupted.error, interrupted.published), (full, None), "the disk was full");
            }
            (_, Err(interrupted)) if self.is_over.get() => {
                assert_eq!(interrupted.error, PublishError::Stopped, "the end of the hub");
            }
            (_, result) => panic!("a publish is answered with {result:?}"),
        }
    }

    /// The store does all that it has to do.
    pub(crate) fn commit_all(&self, when: &str) {
        if self.store.borrow().is_some() {
            self.commit(when);
            self.answer_all();
        }
    }

    /// Publishers that wait for the store when the hub ends: none of their events becomes visible any more.
    pub(crate) fn stop_stored(&self) {
        let pending = self.store.borrow_mut().as_mut().map(|side| std::mem::take(&mut side.pending));
        // The store may take it still; it is there at the next start, and nobody sees it now.
        self.store.borrow_mut().iter_mut().for_each(|side| side.engine.commit());
        for mut pending in pending.into_iter().flatten() {
            let answer = pending.publish.attempt();
            let is_right = match &answer {
                // All of its events are on the disk.
                Some(Ok(_)) => pending.stored.len() == pending.entries.len(),
                Some(Err(Interrupted { error, .. })) => matches!(
                    error,
                    PublishError::Stopped
                        | PublishError::NotStored(StoreFailure::Full)
                        | PublishError::IdConflict { .. }
                ),
                None => false,
            };
            assert!(is_right, "a publish that waits for the store when the hub ends gets {answer:?}");
            self.happened(Occurrence::NeverReleased);
        }
    }
}

impl World {
    /// Some steps of the threads of the store. False: there was nothing to do, or it takes its time.
    pub(crate) fn step_store(&mut self) -> bool {
        let Some(setting) = &self.shared.setting.store else { return false };
        if self.shared.is_disk_slow.get() {
            return false;
        }
        let slowness = if self.shared.hostile.get() { setting.slowness } else { 1 };
        if self.shared.is_over.get() {
            // While the engine drains, its shards are answered still.
            self.shared.answer_question();
            return false;
        }
        if slowness > 1 && !self.shared.one_in(slowness) {
            return false;
        }
        // Time passes for its upkeep, too.
        let is_busy = self.shared.is_store_busy();
        self.shared.commit("");
        self.shared.answer_question();
        if !self.shared.hostile.get() {
            self.shared.answer_all();
        }
        is_busy
    }

    /// What befalls a store in a step of a story.
    pub(crate) fn befall_store(&mut self) {
        let Some(setting) = self.shared.setting.store.clone() else { return };
        let Some(disk) = self.shared.disk() else { return };
        if setting.full > 0 && self.shared.one_in(setting.full) {
            disk.plan_full(1 + self.shared.below(3));
        }
        if setting.bad_reads > 0 && self.shared.one_in(setting.bad_reads) {
            disk.plan_bad_read(self.shared.below(4));
        }
        if setting.crashes > 0 && self.shared.one_in(setting.crashes) {
            let at = match self.shared.below(8) {
                0 => None,
                1 => Some(CrashAt::Taken),
                2 => Some(CrashAt::LookedUp),
                3 => Some(CrashAt::Written { survives: false }),
                4 => Some(CrashAt::Written { survives: true }),
                5 => Some(CrashAt::Synced),
                _ => Some(CrashAt::Released),
            };
            self.end_at(at);
        }
    }

    /// The process ends at this step of a commit, or between two.
    pub(crate) fn end_at(&mut self, at: Option<CrashAt>) {
        let Some(disk) = self.shared.disk() else { return };
        if at.is_some() {
            for _ in 0..1 + self.shared.below(3) {
                let entries = self.shared.some_events(None);
                self.shared.publish_stored(entries, ", before a crash");
            }
        }
        match at {
            None => {}
            Some(CrashAt::Released) => self.shared.commit(", before a crash"),
            Some(at) => {
                disk.plan_crash(at);
                self.shared.commit(", with a crash");
            }
        }
        let at = at.filter(|at| disk.has_crashed() || *at == CrashAt::Released);
        self.crash(at);
    }

    /// The process ends, and another engine opens the disk.
    fn crash(&mut self, at: Option<CrashAt>) {
        let shared = Rc::clone(&self.shared);
        trace!(shared, "the process ends: {at:?}");
        shared.happened(match at {
            None => Occurrence::CrashIdle,
            Some(CrashAt::Taken) => Occurrence::CrashTaken,
            Some(CrashAt::LookedUp) => Occurrence::CrashLookedUp,
            Some(CrashAt::Written { survives: false }) => Occurrence::CrashLost,
            Some(CrashAt::Written { survives: true }) => Occurrence::CrashKept,
            Some(CrashAt::Synced) => Occurrence::CrashSynced,
            Some(CrashAt::Released) => Occurrence::CrashReleased,
        });
        let Some(side) = shared.store.borrow_mut().take() else { return };
        let StoreSide { disk, engine, pending, unanswered, mut again } = side;
        shared.tally.borrow_mut().add(Occurrence::BadRead, disk.failed_reads());
        let newest = fanfare::StoreReader::state(&*disk).newest;
        let kept =
            disk.open_again(|synced, newest| synced + shared.below((newest - synced + 1) as usize) as u64);
        let records = disk.all();
        let is_there =
            |entry: &Entry| records.binary_search_by_key(&entry.seq, |record| record.number).is_ok();
        let visible = shared.history.borrow().newest();
        let lost = shared.history.borrow().between(kept, newest).len();
        shared.tally.borrow_mut().add(Occurrence::LostEvents, lost as u64);
        for Pending { entries, stored, publish, with_own_ids, .. } in pending {
            let is_new = |entry: &&Entry| stored.iter().all(|before| before.given != entry.seq);
            let new: Vec<&Entry> = entries.iter().filter(is_new).collect();
            let found: Vec<Entry> =
                new.iter().filter(|entry| is_there(entry)).map(|entry| (*entry).clone()).collect();
            let is_whole = found.is_empty() || found.len() == new.len();
            assert!(is_whole || disk.durability() == Durability::Async, "a part of a publish is there");
            assert!(found.iter().all(|entry| entry.seq > visible), "what was not released was visible");
            shared.tally.borrow_mut().add(Occurrence::Published, found.len() as u64);
            shared.history.borrow_mut().events.extend(found);
            again.push(with_own_ids);
            drop(publish);
        }
        again.extend(unanswered.into_iter().map(|unanswered| unanswered.with_own_ids));
        again.retain(|entries| !entries.is_empty() && shared.one_in(2));
        drop(engine);
        self.end_engine();
        *shared.log.borrow_mut() =
            log_model(&shared.setting, shared.history.borrow().epoch, &shared.topics, &shared.patterns);
        shared.last_number.set(fanfare::StoreReader::state(&*disk).newest);
        self.begin_engine(Some(disk));
        if let Some(side) = shared.store.borrow_mut().as_mut() {
            side.again = again;
        }
    }
}

/// What an engine with this disk is built with.
pub(crate) fn options(disk: &Arc<Disk>) -> StoreOptions {
    let store: Arc<dyn fanfare::Store> = Arc::clone(disk) as _;
    StoreOptions::new(store).durability(disk.durability())
}

impl StoreSide {
    pub(crate) fn new(disk: Arc<Disk>, engine: sim::SimStore) -> StoreSide {
        StoreSide { disk, engine, pending: VecDeque::new(), unanswered: Vec::new(), again: Vec::new() }
    }
}
