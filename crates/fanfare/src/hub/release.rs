//! Release: the last step of a publish. Events become visible in the order of their numbers, in whatever
//! order their batches are released.
//!
//! ```text
//!   sequence  -->  | 1..3 unreleased | 4 released | 5..6 unreleased | 7 released |  the queue
//!                    ^ when it is released or dropped, 4 becomes visible with it
//! ```
//!
//! A batch enters the queue when it gets its numbers, and its owner releases or drops it on any thread. The
//! front of the queue is what was released and has nothing unreleased before it: it goes to the log, one
//! batch under one hold of the log's lock. A publish in memory enters the queue only where it is not empty.
//! The queue is under the log's lock, which such a publish takes anyway, so an empty queue costs it nothing.
//!
//! The queue needs no bound of its own: what is in it has room reserved, and a batch that is dropped leaves
//! it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fanfare_io::Clock;
use fanfare_proto::event::Event;
use fanfare_proto::frame::Frame;
use fanfare_proto::log::Log;
use smallvec::SmallVec;

use super::Published;
use super::capacity::{Amount, Capacity};
use super::line::{LinePosition, WaitBy, WaitingPublishers};
use super::readers::Called;
use crate::mailbox::Mailbox;
use crate::shared_log::{LockedLog, ProcessLog};

/// What a batch keeps until it is released, also on the thread of a durable store.
pub(super) struct Shared {
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) waiting: Arc<WaitingPublishers>,
    /// What is sequenced and not released.
    pub(super) unreleased: Capacity,
}

/// Makes batches visible: what the sequencer and every [`Sequenced`] batch share.
pub(super) struct Releaser {
    pub(super) clock: Clock,
    pub(super) log: Arc<ProcessLog>,
    pub(super) shared: Arc<Shared>,
}

/// Batches that have their numbers and are not visible, by their first numbers.
#[derive(Default)]
pub(crate) struct ReleaseQueue {
    batches: BTreeMap<u64, Queued>,
    /// The frames of these batches that bear own ids, by [`Log::own_id_key`]: an event that is published
    /// again meanwhile is not another one.
    own_ids: HashMap<u64, SmallVec<[Arc<Frame>; 1]>>,
}

/// A batch in the queue.
struct Queued {
    /// `None`: the owner has not released it yet.
    batch: Option<Batch>,
    /// Its frames that bear own ids.
    with_own_ids: Vec<Arc<Frame>>,
}

/// Events with numbers, encoded, with room reserved for them. Dropped, it gives the room back.
pub(super) struct Batch {
    pub(super) frames: Vec<Arc<Frame>>,
    pub(super) mail: SmallVec<[ShardMail; 1]>,
    /// What it takes of [`Shared::unreleased`].
    pub(super) amount: Amount,
    /// Whether a reader in the process reads one of the topics.
    pub(super) is_read_here: bool,
    /// The version of the log's readers when they were looked up.
    pub(super) readers_version: u64,
    pub(super) shared: Arc<Shared>,
}

/// What one shard gets of a batch.
pub(super) struct ShardMail {
    pub(super) shard: usize,
    pub(super) frames: Vec<Arc<Frame>>,
    /// What is reserved for it in the shard's mailbox.
    pub(super) reserved: Amount,
}

/// A batch that its owner will release. Where it is dropped instead, its numbers become holes, and batches
/// that waited behind it become visible.
pub(crate) struct Sequenced {
    batch: Option<Batch>,
    /// Its first and last number when it was sequenced.
    numbers: (u64, u64),
    published: Published,
    releaser: Arc<Releaser>,
}

/// What has become of a batch that was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Its events are in the log, and shards have their mail.
    Visible,
    /// An older batch is neither released nor dropped. It becomes visible behind that one, or when the engine
    /// drains: then [`super::Hub::head`] has reached its numbers.
    Waits,
    /// The engine had begun to drain before: its numbers are holes.
    Never,
}

/// What remains to be done when all locks are released. It happens on drop: shards and readers that sleep are
/// woken, and frames that the log has dropped are freed.
pub(crate) struct Released<'hub> {
    shared: &'hub Shared,
    asleep: SmallVec<[usize; 4]>,
    called: Called,
    dropped: Vec<Arc<Frame>>,
}

impl ReleaseQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether an event that is published now may be one of a batch in the queue.
    pub(crate) fn has_own_ids(&self) -> bool {
        !self.own_ids.is_empty()
    }

    /// The frame in the queue that was published with this event's own id to this event's topics.
    pub(crate) fn published(&self, event: &Event, key: u64) -> Option<&Arc<Frame>> {
        self.own_ids.get(&key)?.iter().find(|frame| frame.has_identity_of(event))
    }

    /// Whether the event with this number is in a batch in the queue.
    fn has(&self, seq: u64, key: u64) -> bool {
        self.own_ids.get(&key).is_some_and(|frames| frames.iter().any(|frame| frame.seq() == seq))
    }

    fn insert(&mut self, first: u64, batch: &Batch, log: &Log) {
        let with_own_ids = batch.frames.iter().filter(|frame| frame.own_id().is_some());
        let with_own_ids: Vec<_> = with_own_ids.cloned().collect();
        for frame in &with_own_ids {
            let Some(key) = log.own_id_key_of(frame) else { continue };
            self.own_ids.entry(key).or_default().push(Arc::clone(frame));
        }
        self.batches.insert(first, Queued { batch: None, with_own_ids });
    }

    fn remove(&mut self, first: u64, log: &Log) -> Option<Queued> {
        let queued = self.batches.remove(&first)?;
        for frame in &queued.with_own_ids {
            let Some(key) = log.own_id_key_of(frame) else { continue };
            if let Some(frames) = self.own_ids.get_mut(&key) {
                frames.retain(|other| other.seq() != frame.seq());
                if frames.is_empty() {
                    self.own_ids.remove(&key);
                }
            }
        }
        Some(queued)
    }

    /// Takes the first batch, if it was released.
    fn take_next(&mut self, log: &Log) -> Option<Batch> {
        if !self.has_next() {
            return None;
        }
        let first = *self.batches.first_key_value()?.0;
        self.remove(first, log)?.batch
    }

    fn has_next(&self) -> bool {
        self.batches.first_key_value().is_some_and(|(_, queued)| queued.batch.is_some())
    }
}

impl Releaser {
    /// Makes a batch visible that has the newest numbers and no other owner, or puts it into the queue where
    /// older ones are not visible yet. The caller holds the sequencer's lock.
    pub(super) fn release_newest(&self, mut batch: Batch) -> Released<'_> {
        let mut released = Released::new(&self.shared);
        let mut log = self.log.lock();
        if log.unreleased().is_empty() {
            self.append(&mut log, &mut batch, &mut released);
        } else if let Some(first) = batch.first_number() {
            log.change_unreleased(|queue, log| {
                queue.insert(first, &batch, log);
                if let Some(queued) = queue.batches.get_mut(&first) {
                    queued.batch = Some(batch);
                }
            });
        }
        released
    }

    /// Keeps a position in the queue for a batch with the newest numbers. The caller holds the sequencer's
    /// lock.
    pub(super) fn enqueue(self: &Arc<Self>, batch: Batch, published: Published) -> Sequenced {
        let numbers = batch.first_number().zip(batch.last_number());
        if let Some((first, _)) = numbers {
            // Where the log is broken, the engine has ended.
            let log = self.log.lock_unless_broken();
            log.into_iter().for_each(|mut log| {
                log.change_unreleased(|queue, log| queue.insert(first, &batch, log));
            });
        }
        let numbers = numbers.unwrap_or_default();
        Sequenced { batch: Some(batch), numbers, published, releaser: Arc::clone(self) }
    }

    /// The owner of this batch releases it. Its mail goes to every shard that reads one of an event's topics
    /// when it becomes visible, also to a shard that has registered after the batch was sequenced. That mail
    /// takes room without a reservation: in one mailbox at most as much as is sequenced and not released,
    /// which is bounded by [`fanfare_proto::limits::Limits::mailbox_total_bytes`]. The frames are the same as
    /// in the other mailboxes, so their memory is not taken again.
    fn release(&self, first: u64, batch: Batch) -> Visibility {
        let mut released = Released::new(&self.shared);
        let mut log = self.log.lock();
        let Some(waiting) = log.unreleased().batches.get_mut(&first) else {
            drop(log);
            return Visibility::Never;
        };
        waiting.batch = Some(batch);
        self.release_next(log, &mut released);
        drop(released);
        if self.log.newest().load(Ordering::Relaxed) >= first {
            Visibility::Visible
        } else {
            Visibility::Waits
        }
    }

    /// The owner of the batch with these first and last numbers has dropped it. A publisher of the same
    /// events, which has waited for them, is called: it publishes them now.
    fn forget(&self, first: u64, last: u64) {
        drop(self.change_queue(|queue, log| drop(queue.remove(first, log))));
        self.shared.waiting.call_between(first, last);
    }

    /// Has a publisher wait until the event with this number, which is the same as one of its own, is visible
    /// or dropped. False: it is.
    pub(super) fn wait_for(&self, first: &Frame, position: &mut Option<LinePosition>, by: WaitBy) -> bool {
        let Some(mut log) = self.log.lock_unless_broken() else { return false };
        let seq = first.seq();
        let is_waiting = log
            .change_unreleased(|queue, log| log.own_id_key_of(first).is_some_and(|key| queue.has(seq, key)));
        if is_waiting {
            self.shared.waiting.enter_until(position, seq, by);
        }
        is_waiting
    }

    /// No batch is released any more: what was released becomes visible now, and the numbers of all others
    /// are holes. The caller holds the sequencer's lock.
    pub(super) fn end(&self) -> Released<'_> {
        self.change_queue(|queue, log| {
            let unreleased = queue.batches.iter().filter(|(_, queued)| queued.batch.is_none());
            let unreleased: Vec<u64> = unreleased.map(|(first, _)| *first).collect();
            unreleased.into_iter().for_each(|first| drop(queue.remove(first, log)));
        })
    }

    /// Changes the queue, and makes visible what nothing stands before any more. Where the log is broken,
    /// nothing happens: a batch may be dropped where a panic unwinds.
    fn change_queue(&self, change: impl FnOnce(&mut ReleaseQueue, &Log)) -> Released<'_> {
        let mut released = Released::new(&self.shared);
        if let Some(mut log) = self.log.lock_unless_broken() {
            log.change_unreleased(change);
            self.release_next(log, &mut released);
        }
        released
    }

    /// Makes visible what was released and has nothing unreleased before it. Between two batches the lock is
    /// free, so that shards do not wait for all of them.
    fn release_next<'log>(&'log self, mut log: LockedLog<'log>, released: &mut Released<'_>) {
        while let Some(mut batch) = log.change_unreleased(ReleaseQueue::take_next) {
            self.append(&mut log, &mut batch, released);
            let newest = log.newest();
            let has_next = log.unreleased().has_next();
            drop(log);
            drop(batch);
            // A publisher takes its position under the log's lock, where it has not found its number there.
            self.shared.waiting.call_up_to(newest);
            let next = has_next.then(|| self.log.lock_unless_broken()).flatten();
            let Some(next) = next else { return };
            log = next;
        }
    }

    /// A panic in here is a mistake of the engine, and leaves the log, or what is reserved, half changed.
    /// Then the engine ends.
    fn append(&self, log: &mut LockedLog<'_>, batch: &mut Batch, released: &mut Released<'_>) {
        let ends_engine = EndsEngine(self);
        let now = self.clock.now();
        if log.readers_version() != batch.readers_version {
            batch.address_again(log);
        }
        if batch.is_read_here {
            self.shared.waiting.readers().call(&batch.frames, &mut released.called);
        }
        if log.append(std::mem::take(&mut batch.frames), now, &mut released.dropped) {
            released.asleep.push(ProcessLog::TRIMMING_SHARD);
        }
        for ShardMail { shard, frames, reserved } in std::mem::take(&mut batch.mail) {
            if self.shared.mailboxes[shard].push_events(frames, reserved) {
                released.asleep.push(shard);
            }
        }
        std::mem::forget(ends_engine);
    }
}

/// Dropped by a panic in an append, under the log's lock, it ends the engine: no publish succeeds from now
/// on, and the shard that trims is woken, finds the lock poisoned, and panics, so that
/// [`crate::Engine::is_running`] says it. Without this the publisher lost its answer, and all other
/// publishers and subscribers waited for ever.
struct EndsEngine<'hub>(&'hub Releaser);

impl Drop for EndsEngine<'_> {
    fn drop(&mut self) {
        let Releaser { log, shared, .. } = self.0;
        EngineEnd::announce(log, &shared.waiting, &shared.mailboxes[ProcessLog::TRIMMING_SHARD]);
    }
}

/// Ends the engine where a thread panics that it cannot do without: a thread of its durable store.
#[derive(Clone)]
pub(crate) struct EngineEnd {
    pub(crate) log: Arc<ProcessLog>,
    pub(crate) waiting: Arc<WaitingPublishers>,
    /// Of the shard that trims.
    pub(crate) mailbox: Arc<Mailbox>,
}

impl EngineEnd {
    /// Goes on with this panic under the log's lock, so that it ends the engine as a panic in an append does.
    pub(crate) fn resume_unwind(self, panic: Box<dyn Any + Send>) -> ! {
        struct Announces(EngineEnd);
        impl Drop for Announces {
            fn drop(&mut self) {
                EngineEnd::announce(&self.0.log, &self.0.waiting, &self.0.mailbox);
            }
        }
        let log = Arc::clone(&self.log);
        let _log = log.lock_unless_broken();
        // Under the lock: a publisher that finds the log broken finds the end announced.
        let _announces = Announces(self);
        resume_unwind(panic)
    }

    fn announce(log: &ProcessLog, waiting: &WaitingPublishers, mailbox: &Mailbox) {
        waiting.close();
        log.trim_at_once();
        mailbox.wake();
    }
}

impl Sequenced {
    /// The publisher's answer, once the events are visible.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn published(&self) -> &Published {
        &self.published
    }

    /// Its frames, in the order of their numbers.
    pub(crate) fn frames(&self) -> &[Arc<Frame>] {
        self.batch.as_ref().map_or(&[], |batch| &batch.frames)
    }

    /// Leaves out the frames with these numbers: they were published before. The numbers become holes.
    pub(crate) fn leave_out(&mut self, numbers: &[u64]) {
        if let Some(batch) = &mut self.batch {
            batch.leave_out(numbers);
        }
    }

    /// Releases it, in any order with other batches and on any thread.
    pub(crate) fn release(mut self) -> Visibility {
        let Some(batch) = self.batch.take() else { return Visibility::Never };
        let (first, last) = self.numbers;
        if batch.frames.is_empty() {
            // All of its events were published before.
            drop(batch);
            if first > 0 {
                self.releaser.forget(first, last);
            }
            return Visibility::Visible;
        }
        let has_holes = batch.last_number() != Some(last);
        let visibility = self.releaser.release(first, batch);
        if has_holes {
            // Its publisher waits for the last number.
            self.releaser.shared.waiting.call_between(first, last);
        }
        visibility
    }
}

impl Drop for Sequenced {
    fn drop(&mut self) {
        let (first, last) = self.numbers;
        if self.batch.take().is_some() && first > 0 {
            // Its room is given back before, so that a publisher which is called finds it.
            self.releaser.forget(first, last);
        }
    }
}

impl Batch {
    fn first_number(&self) -> Option<u64> {
        self.frames.first().map(|frame| frame.seq())
    }

    fn last_number(&self) -> Option<u64> {
        self.frames.last().map(|frame| frame.seq())
    }

    /// Leaves out the frames with these numbers, which rise, and gives back what was reserved for them.
    fn leave_out(&mut self, numbers: &[u64]) {
        let stays = |frame: &Arc<Frame>| numbers.binary_search(&frame.seq()).is_err();
        self.frames.retain(stays);
        for mail in &mut self.mail {
            mail.frames.retain(stays);
            let (events, bytes) = (mail.frames.len(), mail.frames.iter().map(|frame| frame.size()).sum());
            let excess = Amount { events: mail.reserved.events - events, bytes: mail.reserved.bytes - bytes };
            self.shared.mailboxes[mail.shard].cancel_reservation(excess);
            mail.reserved = Amount { events, bytes };
        }
        self.mail.retain(|mail| !mail.frames.is_empty());
    }

    /// Gives back what was reserved and is not needed: a frame may be smaller than its event allowed.
    pub(super) fn return_excess(&mut self) {
        for mail in &mut self.mail {
            let size = mail.frames.iter().map(|frame| frame.size()).sum();
            let excess = Amount { events: 0, bytes: mail.reserved.bytes - size };
            self.shared.mailboxes[mail.shard].cancel_reservation(excess);
            mail.reserved.bytes = size;
        }
    }

    /// Looks the shards up once more, because readers have come or gone since the batch was sequenced.
    fn address_again(&mut self, log: &LockedLog<'_>) {
        let mut mail: SmallVec<[ShardMail; 1]> = SmallVec::new();
        self.is_read_here = false;
        for frame in &self.frames {
            let (shards, is_read_here) = log.readers_of(frame.topics(), &mut 0);
            self.is_read_here |= is_read_here;
            for shard in shards.iter() {
                let index = mail.iter().position(|mail| mail.shard == shard).unwrap_or_else(|| {
                    mail.push(ShardMail { shard, frames: Vec::new(), reserved: Amount::default() });
                    mail.len() - 1
                });
                mail[index].frames.push(Arc::clone(frame));
                mail[index].reserved.add(Amount { events: 1, bytes: frame.size() });
            }
        }
        // The new room is reserved before the old room is given back, so that no other publisher takes it
        // between.
        for mail in &mail {
            self.shared.mailboxes[mail.shard].reserve(mail.reserved);
        }
        for before in std::mem::replace(&mut self.mail, mail) {
            self.shared.mailboxes[before.shard].cancel_reservation(before.reserved);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Of a batch that was released, no mail is left here: it belongs to the shards.
        for mail in &self.mail {
            self.shared.mailboxes[mail.shard].cancel_reservation(mail.reserved);
        }
        if self.shared.unreleased.give_back(self.amount) {
            // A publisher that waits for a release waits for every shard, so for the first one too.
            self.shared.waiting.call(0);
        }
    }
}

impl<'hub> Released<'hub> {
    fn new(shared: &'hub Shared) -> Released<'hub> {
        Released { shared, asleep: SmallVec::new(), called: Called::default(), dropped: Vec::new() }
    }
}

impl Drop for Released<'_> {
    fn drop(&mut self) {
        for &shard in &self.asleep {
            self.shared.mailboxes[shard].wake();
        }
        for thread in &self.called.threads {
            thread.notify_one();
        }
        self.shared.waiting.call_readers(self.called.others.drain(..));
        // The dropped frames are freed behind this, because readers come first.
    }
}
