//! From events to numbers: sequence, commit, release.
//!
//! - [`Sequencer::sequence`] reserves room ([`room`]) in the mailboxes of the shards that read one of an
//!   event's topics, gives numbers, and encodes. Its lock is the publishers' own; shards never take it.
//! - Commit is done where there is a durable store ([`super::commit`]), on a thread of its own.
//! - [`Sequenced::release`] makes the frames visible, in the order of their numbers ([`super::release`]):
//!   under the log's lock they are appended, `newest` is raised, and their mail is pushed.
//!
//! Without a store, [`Sequencer::publish`] does the first and the last step at once.

mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_io::Clock;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::Event;
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::Limits;

use super::capacity::{Bound, Capacity};
use super::commit::{CommitQueue, Outcome, PublishCommits};
use super::line::{LinePosition, LineTime, WaitBy, WaitingPublishers};
use super::release::{Batch, Releaser, Sequenced, Shared};
use super::{Duplicate, PublishError, Published};
use crate::mailbox::Mailbox;
use crate::shared_log::ProcessLog;
use crate::sync::{Mutex, lock};
use room::{Need, NoRoom, Scratch};

/// How long a feed waits for room before it looks once more whether it is called.
const FEED_WAIT: Duration = Duration::from_secs(1);

/// Gives events their order, and shards their mail.
pub(crate) struct Sequencer {
    epoch: Epoch,
    clock: Clock,
    /// Changed while events are published.
    event_bytes: AtomicUsize,
    /// Topics of the events of one part, each counted in each event: it is work under locks.
    batch_topics: usize,
    /// What may be taken in one mailbox.
    mailbox: Bound,
    /// Bytes that may be taken in all mailboxes together.
    total_bytes: usize,
    log: Arc<ProcessLog>,
    shared: Arc<Shared>,
    releaser: Arc<Releaser>,
    /// Where there is a durable store.
    commits: Option<Arc<CommitQueue>>,
    state: Mutex<State>,
    /// Publishers that wait for the lock of `state`. Not loom's: only the order of publishers depends on it.
    waiting_for_lock: AtomicUsize,
}

/// What the sequencer's lock guards.
struct State {
    /// The last number given.
    last_given: u64,
    /// The time of the line of publishers that wait.
    line_time: LineTime,
    /// An upper bound of what is taken in all mailboxes together, in bytes. It is computed again only where
    /// it reaches the limit, so that a publish does not check every shard.
    total_at_most: usize,
    scratch: Scratch,
}

/// Where the numbers of events come from.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'numbers> {
    /// Each gets the next one.
    Next,
    /// A log outside of the process has given them: one for each event, rising, with holes.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    Given(&'numbers [u64]),
    /// The same, of events that were checked before: bounds that change meanwhile refuse none of them.
    Fed(&'numbers [u64]),
}

/// The result of one try to publish.
pub(crate) enum Attempt {
    /// Some events, at least one, are taken. They are visible when the newest number has reached `number`:
    /// at once, unless the publisher may wait. `outcome`: whether they are stored, where there is a store.
    Published { published: Published, number: u64, outcome: Option<Arc<Outcome>> },
    /// No event is taken.
    Refused(PublishError),
    /// There is no room, and the publisher has a position in the line.
    Waits,
}

/// Why nothing was sequenced.
enum Unable {
    Refused(PublishError),
    /// This frame is the same event as one of these, and not visible yet.
    Unreleased(Arc<Frame>),
    NoRoom(NoRoom),
}

impl Sequencer {
    pub(crate) fn new(
        clock: Clock,
        limits: &Limits,
        log: Arc<ProcessLog>,
        waiting: Arc<WaitingPublishers>,
        mailboxes: Vec<Arc<Mailbox>>,
        commits: Option<Arc<CommitQueue>>,
    ) -> Sequencer {
        let scratch = Scratch { needs: vec![Need::default(); mailboxes.len()], ..Scratch::default() };
        // A log may begin in the middle.
        let last_given = log.newest().load(Ordering::Relaxed);
        let shared = Arc::new(Shared { mailboxes, waiting, unreleased: Capacity::default() });
        let releaser = Arc::new(Releaser { clock, log: Arc::clone(&log), shared: Arc::clone(&shared) });
        Sequencer {
            epoch: log.epoch(),
            clock,
            event_bytes: AtomicUsize::new(limits.event_bytes),
            batch_topics: limits.batch_topics,
            mailbox: Bound { events: limits.mailbox_events, bytes: limits.mailbox_bytes },
            total_bytes: limits.mailbox_total_bytes,
            log,
            shared,
            releaser,
            commits,
            state: Mutex::new(State {
                last_given,
                line_time: LineTime::default(),
                total_at_most: 0,
                scratch,
            }),
            waiting_for_lock: AtomicUsize::new(0),
        }
    }

    /// Changes the bound of one event's data.
    pub(crate) fn set_event_bytes(&self, bytes: usize) {
        self.event_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the hub takes these events, given room for them.
    pub(crate) fn check<'events>(
        &self,
        events: impl Iterator<Item = &'events Event>,
    ) -> Result<(), PublishError> {
        let limit = self.event_bytes.load(Ordering::Relaxed);
        for (index, event) in events.enumerate() {
            if event.data().map_or(0, str::len) > limit {
                return Err(PublishError::TooLarge { index, limit });
            }
            // Of any epoch: a subscriber that comes back with the id of an earlier hub has a gap. It has not
            // had the event that bears this id now.
            if event.id().is_some_and(|id| Cursor::parse(id.as_str()).is_some()) {
                return Err(PublishError::ReservedId { index });
            }
        }
        Ok(())
    }

    /// The time on the engine's clock.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// The last number given.
    pub(crate) fn last_given(&self) -> u64 {
        lock(&self.state).last_given
    }

    /// Makes events visible that a log outside of the process has given these numbers. Waits for room, as a
    /// thread. The error: the engine ends.
    pub(crate) fn feed(&self, events: &mut VecDeque<Event>, numbers: &[u64]) -> Result<(), ()> {
        let (total, mut position) = (events.len(), None);
        while !events.is_empty() {
            let numbers = Numbers::Fed(&numbers[total - events.len()..]);
            match self.publish_numbered(events, numbers, Some((&mut position, WaitBy::Thread)), None) {
                // The publishers of these events wait until they have come back.
                Attempt::Published { number, .. } => self.shared.waiting.call_up_to(number),
                Attempt::Refused(_) => return Err(()),
                Attempt::Waits => {
                    let Some(position) = &position else { continue };
                    while !position.wait(|| FEED_WAIT) {}
                }
            }
        }
        Ok(())
    }

    /// No event comes up to this number any more: what a log outside of the process has there is none.
    pub(crate) fn skip_to(&self, number: u64) {
        let mut state = lock(&self.state);
        if number <= state.last_given {
            return;
        }
        state.last_given = number;
        let Some(mut log) = self.log.lock_unless_broken() else { return };
        log.skip_to(number);
        drop(log);
        drop(state);
        self.shared.waiting.call_up_to(number);
    }

    /// One try to publish the first part of these events. It sequences and releases under one lock, so that
    /// the order is kept. `wait` is the position in the line of a publisher that waits, or that will wait.
    /// Where older batches are not released yet, it is put behind them; a publisher that does not wait is
    /// refused there, because it could not learn when its events are visible. With a store, for the same
    /// reason, it is refused always. `publish` is what the parts of one publish share.
    pub(crate) fn publish(
        &self,
        events: &mut VecDeque<Event>,
        wait: Option<(&mut Option<LinePosition>, WaitBy)>,
        publish: Option<&Arc<PublishCommits>>,
    ) -> Attempt {
        self.publish_numbered(events, Numbers::Next, wait, publish)
    }

    fn publish_numbered(
        &self,
        events: &mut VecDeque<Event>,
        numbers: Numbers<'_>,
        mut wait: Option<(&mut Option<LinePosition>, WaitBy)>,
        publish: Option<&Arc<PublishCommits>>,
    ) -> Attempt {
        if self.commits.is_some() && wait.is_none() {
            return Attempt::Refused(PublishError::WouldBlock);
        }
        self.waiting_for_lock.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        self.waiting_for_lock.fetch_sub(1, Ordering::Relaxed);
        if let Some((position, _)) = &mut wait
            && position.as_ref().is_some_and(LinePosition::waits_for_number)
        {
            // The same event, for which this publisher waited, is visible or dropped.
            drop(position.take());
        }
        loop {
            let position = wait.as_ref().and_then(|(position, _)| position.as_ref());
            let no_room = match self.sequence_in(&mut state, events, numbers, position, wait.is_some()) {
                Ok((batch, published)) => {
                    // What was published before is visible.
                    let number = batch.frames.last().map_or(0, |frame| frame.seq());
                    if position.is_some() {
                        state.line_time.go_on(batch.amount.bytes, self.shared.waiting.count());
                    }
                    let mut released = None;
                    let outcome = match &self.commits {
                        Some(commits) => Some(self.hand_to_store(commits, batch, &published, publish)),
                        None => {
                            released = Some(self.releaser.release_newest(batch));
                            None
                        }
                    };
                    drop(state);
                    if let Some((position, _)) = wait {
                        // The next publisher in the line is called.
                        drop(position.take());
                    }
                    drop(released);
                    return Attempt::Published { published, number, outcome };
                }
                Err(Unable::Refused(error)) => return Attempt::Refused(error),
                Err(Unable::Unreleased(first)) => {
                    let Some((position, by)) = &mut wait else { return Attempt::Refused(PublishError::Busy) };
                    drop(position.take());
                    if self.releaser.wait_for(&first, position, *by) {
                        return Attempt::Waits;
                    }
                    continue;
                }
                Err(Unable::NoRoom(no_room)) => no_room,
            };
            let Some((position, by)) = &mut wait else { return Attempt::Refused(PublishError::Busy) };
            if self.wait_in_line(&state, position, *by, &no_room) {
                return Attempt::Waits;
            }
        }
    }

    /// Puts a batch into the queue of the store. The caller holds the lock of `state`.
    fn hand_to_store(
        &self,
        commits: &CommitQueue,
        batch: Batch,
        published: &Published,
        publish: Option<&Arc<PublishCommits>>,
    ) -> Arc<Outcome> {
        if batch.frames.is_empty() {
            return Outcome::of_nothing();
        }
        // The frames are those of the events that are no duplicates, in the same order.
        let mut duplicates = published.duplicates.iter().map(|duplicate| duplicate.index).peekable();
        let indexes = (0..published.count).filter(|index| duplicates.next_if_eq(index).is_none());
        let with_own_ids = batch.frames.iter().zip(indexes).filter(|(frame, _)| frame.own_id().is_some());
        let own_ids = with_own_ids.map(|(frame, index)| (frame.seq(), index)).collect();
        let publish = publish.cloned().unwrap_or_default();
        commits.push(self.releaser.enqueue(batch, published.clone()), publish, own_ids)
    }

    /// Whether each mailbox has room for a large event, and no publisher ahead waits for it. Where it has
    /// not, the publisher that waits as a task has a position in the line, unless it may not wait (`None`).
    pub(crate) fn has_room(&self, wait: Option<&mut Option<LinePosition>>) -> Result<bool, PublishError> {
        let mut state = lock(&self.state);
        let mut wait = wait;
        loop {
            if self.shared.waiting.is_closed() {
                return Err(PublishError::Stopped);
            }
            let ahead = self.shared.waiting.waited_for_ahead(wait.as_ref().and_then(|it| it.as_ref()));
            state.scratch.of_one_event(self.event_bytes.load(Ordering::Relaxed), self.shared.mailboxes.len());
            let count = self.count_needs(&mut state.scratch, false, &ahead);
            let no_room = self.find_room(&mut state, count, false, &ahead).err();
            state.scratch.clear();
            let Some(position) = wait.as_mut() else { return Ok(no_room.is_none()) };
            let Some(no_room) = no_room else {
                // The next publisher in the line is called.
                drop(state);
                drop(position.take());
                return Ok(true);
            };
            if self.wait_in_line(&state, position, WaitBy::Task, &no_room) {
                return Ok(false);
            }
        }
    }

    /// Takes a position in the line, or keeps it. False: there may be room, or a turn, after all.
    fn wait_in_line(
        &self,
        state: &State,
        position: &mut Option<LinePosition>,
        by: WaitBy,
        no_room: &NoRoom,
    ) -> bool {
        let at = state.line_time.position_of(no_room.bytes);
        self.shared.waiting.enter(position, at, &no_room.shards, by);
        // The publisher enters the line first: from here on, a call finds it there. What has changed before
        // is seen now.
        let ahead = self.shared.waiting.waited_for_ahead(position.as_ref());
        let is_next = no_room.behind.iter().any(|shard| !ahead.contains(shard));
        !self.ask(&no_room.calls) && !is_next
    }

    /// Called between two parts of a batch: lets publishers that wait for the lock have it first. The lock is
    /// not fair, so a thread that takes it again at once would leave the others asleep until its last part.
    pub(crate) fn let_others_go_first(&self) {
        // A thread that was woken needs some 50 us to take the lock, which is about so many attempts.
        const ATTEMPTS: usize = 500;
        if cfg!(fanfare_loom) {
            return;
        }
        for _ in 0..ATTEMPTS {
            if self.waiting_for_lock.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Reserves room for the first part of these events, gives them numbers and encodes them. Takes them out
    /// of `events`, or leaves them where it refuses.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn sequence(
        &self,
        events: &mut VecDeque<Event>,
        numbers: Numbers<'_>,
    ) -> Result<Sequenced, PublishError> {
        let state = &mut lock(&self.state);
        match self.sequence_in(state, events, numbers, None, true) {
            Ok((batch, published)) => Ok(self.releaser.enqueue(batch, published)),
            Err(Unable::Refused(error)) => Err(error),
            Err(Unable::NoRoom(_) | Unable::Unreleased(_)) => Err(PublishError::Busy),
        }
    }

    /// Whether everything up to this number is visible. If not, the publisher has a position in the line, and
    /// is called when it is.
    pub(crate) fn is_visible(&self, number: u64, position: &mut Option<LinePosition>, by: WaitBy) -> bool {
        if self.log.newest().load(Ordering::Relaxed) >= number {
            return true;
        }
        // Where the log is broken, the engine has ended, and the publisher learns that.
        let Some(log) = self.log.lock_unless_broken() else { return false };
        let is_visible = log.newest() >= number;
        if !is_visible {
            self.shared.waiting.enter_until(position, number, by);
        }
        is_visible
    }

    /// Whether the newest number that is released has reached this one.
    pub(crate) fn has_released(&self, number: u64) -> bool {
        self.log.newest().load(Ordering::Relaxed) >= number
    }

    fn sequence_in(
        &self,
        state: &mut State,
        events: &mut VecDeque<Event>,
        numbers: Numbers<'_>,
        position: Option<&LinePosition>,
        may_queue: bool,
    ) -> Result<(Batch, Published), Unable> {
        if self.shared.waiting.is_closed() {
            return Err(Unable::Refused(PublishError::Stopped));
        }
        if events.is_empty() {
            return Err(Unable::Refused(PublishError::Empty));
        }
        if let Numbers::Given(given) | Numbers::Fed(given) = numbers {
            assert_eq!(given.len(), events.len(), "a number for each event");
            let rises = given.is_sorted_by(|one, next| one < next) && given[0] > state.last_given;
            assert!(rises, "numbers rise");
        }
        let scratch = &mut state.scratch;
        let count = self.measure(scratch, events);
        if !matches!(numbers, Numbers::Fed(_)) {
            self.check(events.iter().take(count)).map_err(Unable::Refused)?;
        }
        let repeated = &mut scratch.repeated;
        // A log outside of the process has decided which events are the same.
        repeated.are_looked_up = matches!(numbers, Numbers::Next);
        let interest = self.log.interest(events.iter().take(count), &mut scratch.interest, repeated);
        let interest = interest.ok_or(Unable::Refused(PublishError::Stopped))?;
        // The part may have ended before, because its topics take long to look up.
        let count = scratch.interest.len();
        scratch.sizes.truncate(count);
        let is_larger = count < events.len();
        if interest.is_behind && !may_queue {
            return Err(Unable::Refused(PublishError::Busy));
        }
        let conflict = |index| Unable::Refused(PublishError::IdConflict { index });
        repeated.find_in_batch(events, &mut scratch.interest).map_err(conflict)?;
        if let Some(first) = repeated.unreleased() {
            return Err(Unable::Unreleased(Arc::clone(first)));
        }
        let ahead = self.shared.waiting.waited_for_ahead(position);
        let count = self.count_needs(scratch, is_larger, &ahead);
        self.find_room(state, count, is_larger, &ahead).map_err(Unable::NoRoom)?;

        let mut batch = self.reserve(state, count, &interest);
        let (first, last) = (String::new(), String::new());
        let mut published = Published { count, first, last, duplicates: Vec::new() };
        let mut seq = state.last_given;
        let published_at = self.clock.now();
        let scratch = &mut state.scratch;
        for (index, event) in events.drain(..count).enumerate() {
            if let Some(first) = scratch.repeated.take(index, &batch.frames) {
                let id = event.id().map(|id| id.as_str().to_owned()).unwrap_or_default();
                if index == 0 {
                    published.first.clone_from(&id);
                }
                published.last = id;
                let first = Cursor { epoch: self.epoch, seq: first };
                published.duplicates.push(Duplicate { index, first });
                continue;
            }
            seq = match numbers {
                Numbers::Next => seq + 1,
                Numbers::Given(given) | Numbers::Fed(given) => given[index],
            };
            // A number that was given is not given again, even where encoding panics.
            state.last_given = seq;
            let own_id = event.id().map(|id| id.as_str().to_owned());
            let id = own_id.unwrap_or_else(|| Cursor { epoch: self.epoch, seq }.to_string());
            let frame = Arc::new(Frame::encode(seq, &id, event, published_at));
            if index == 0 {
                published.first.clone_from(&id);
            }
            published.last = id;
            for shard in scratch.interest[index].iter() {
                batch.mail[scratch.needs[shard].mail].frames.push(Arc::clone(&frame));
            }
            batch.frames.push(frame);
        }
        batch.return_excess();
        scratch.clear();
        Ok((batch, published))
    }

    /// Events that are sequenced and not released, and events for which room is reserved, summed over the
    /// mailboxes.
    #[cfg(feature = "sim")]
    pub(crate) fn reserved_events(&self) -> (usize, usize) {
        let reserved = self.shared.mailboxes.iter().map(|mailbox| mailbox.reserved_events());
        (self.shared.unreleased.taken().events, reserved.sum())
    }

    /// Refuses every publish from now on, and releases what waits only for older batches. `tell_shards` runs
    /// when no publish is under way any more. What waits for a store is stored before, if that does not take
    /// longer than `patience`.
    pub(crate) fn close(&self, patience: Duration, tell_shards: impl FnOnce()) {
        let _state = lock(&self.state);
        if let Some(commits) = &self.commits {
            commits.close(patience);
        }
        let released = self.releaser.end();
        tell_shards();
        drop(released);
        self.shared.waiting.close();
    }
}
