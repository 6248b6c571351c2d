//! From events to numbers: sequence, commit, release.
//!
//! - [`Sequencer::sequence`] reserves room in the mailboxes of the shards that read one of an event's topics,
//!   gives numbers, and encodes. Its lock is the publishers' own; shards never take it.
//! - Commit is where a durable store will stand. There is none yet.
//! - [`Sequenced::release`] makes the frames visible, in the order of their numbers ([`super::release`]):
//!   under the log's lock they are appended, `newest` is raised, and their mail is pushed.
//!
//! [`Sequencer::publish`] does the first and the last step at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fanfare_io::Clock;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::event::Event;
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::Limits;
use fanfare_proto::log::ShardSet;
use fanfare_proto::shrink::shrink_buffer;
use smallvec::SmallVec;

use super::capacity::{Amount, Bound, Capacity};
use super::line::{LinePosition, WaitBy, WaitingPublishers};
use super::release::{Batch, Releaser, Sequenced, ShardMail, Shared};
use super::{PublishError, Published};
use crate::mailbox::Mailbox;
use crate::shared_log::ProcessLog;
use crate::sync::{Mutex, lock};

/// Gives events their order, and shards their mail.
pub(crate) struct Sequencer {
    epoch: Epoch,
    clock: Clock,
    event_bytes: usize,
    /// Topics of the events of one part, each counted in each event: it is work under locks.
    batch_topics: usize,
    /// What may be taken in one mailbox.
    mailbox: Bound,
    /// Bytes that may be taken in all mailboxes together.
    total_bytes: usize,
    log: Arc<ProcessLog>,
    shared: Arc<Shared>,
    releaser: Arc<Releaser>,
    state: Mutex<State>,
    /// Publishers that wait for the lock of `state`. Not loom's: nothing depends on it but who is first.
    waiting_for_lock: AtomicUsize,
}

/// What the sequencer's lock guards.
struct State {
    /// The last number given.
    last_given: u64,
    /// The size of all that was sequenced, in bytes at most: the time of the line's order.
    published_bytes: u64,
    /// An upper bound of what is taken in all mailboxes together, in bytes. It is computed again only where
    /// it reaches the limit, so that a publish does not check every shard.
    total_at_most: usize,
    scratch: Scratch,
}

/// Reused from publish to publish.
#[derive(Default)]
struct Scratch {
    /// For each event of the part: its size at most, and the shards that read one of its topics.
    sizes: Vec<usize>,
    interest: Vec<ShardSet>,
    /// For each shard, what the part needs there; zero for shards that are not in `needed`.
    needs: Vec<Need>,
    needed: ShardSet,
}

#[derive(Clone, Copy, Default)]
struct Need {
    amount: Amount,
    /// Where the mail for this shard is, in [`Batch::mail`].
    mail: usize,
}

/// Where the numbers of events come from.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'numbers> {
    /// Each gets the next one.
    Next,
    /// A log outside of the process has given them: one for each event, rising, with holes.
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    Given(&'numbers [u64]),
}

/// The result of one try to publish.
pub(crate) enum Attempt {
    /// Some events, at least one, are taken. They are visible when the newest number has reached `number`:
    /// at once, unless the publisher may wait.
    Published { published: Published, number: u64 },
    /// No event is taken.
    Refused(PublishError),
    /// There is no room, and the publisher has a position in the line.
    Waits,
}

/// Why nothing was sequenced.
enum Unable {
    Refused(PublishError),
    NoRoom(NoRoom),
}

/// Where room is missing.
struct NoRoom {
    /// The shards to wait for: those without room, and those that publishers ahead wait for.
    shards: ShardSet,
    /// The shards among them that publishers ahead wait for.
    behind: ShardSet,
    /// The calls to ask for. Publishers ahead have asked for theirs.
    calls: Vec<Call>,
    /// The size of the part, in bytes at most.
    bytes: usize,
}

struct Call {
    by: CallBy,
    /// When no more than this is taken.
    at: Amount,
}

#[derive(Clone, Copy)]
enum CallBy {
    Shard(usize),
    /// A batch that is released or dropped.
    Release,
}

impl Sequencer {
    pub(crate) fn new(
        clock: Clock,
        limits: &Limits,
        log: Arc<ProcessLog>,
        waiting: Arc<WaitingPublishers>,
        mailboxes: Vec<Arc<Mailbox>>,
    ) -> Sequencer {
        let scratch = Scratch { needs: vec![Need::default(); mailboxes.len()], ..Scratch::default() };
        // A log may begin in the middle.
        let last_given = log.newest().load(Ordering::Relaxed);
        let shared = Arc::new(Shared { mailboxes, waiting, unreleased: Capacity::default() });
        let releaser = Arc::new(Releaser { clock, log: Arc::clone(&log), shared: Arc::clone(&shared) });
        Sequencer {
            epoch: log.epoch(),
            clock,
            event_bytes: limits.event_bytes,
            batch_topics: limits.batch_topics,
            mailbox: Bound { events: limits.mailbox_events, bytes: limits.mailbox_bytes },
            total_bytes: limits.mailbox_total_bytes,
            log,
            shared,
            releaser,
            state: Mutex::new(State { last_given, published_bytes: 0, total_at_most: 0, scratch }),
            waiting_for_lock: AtomicUsize::new(0),
        }
    }

    /// Whether the hub takes these events, given room for them.
    pub(crate) fn check<'events>(
        &self,
        events: impl Iterator<Item = &'events Event>,
    ) -> Result<(), PublishError> {
        let limit = self.event_bytes;
        for (index, event) in events.enumerate() {
            if event.data_text().map_or(0, str::len) > limit {
                return Err(PublishError::TooLarge { index, limit });
            }
            // Of any epoch: a subscriber that comes back with the id of an earlier life of the hub is to be
            // told of a gap, and not to be taken for one that has had the event which bears that id now.
            if event.own_id().is_some_and(|id| Cursor::parse(id.as_str()).is_some()) {
                return Err(PublishError::ReservedId { index });
            }
        }
        Ok(())
    }

    /// One try to publish the first part of these events. It sequences and releases under one lock, so that
    /// the order is kept. `wait` is the position in the line of a publisher that waits, or that will wait.
    /// Where older batches are not released yet, it is put behind them; a publisher that does not wait is
    /// refused there, because it could not learn when its events are visible.
    pub(crate) fn publish(
        &self,
        events: &mut VecDeque<Event>,
        mut wait: Option<(&mut Option<LinePosition>, WaitBy)>,
    ) -> Attempt {
        self.waiting_for_lock.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        self.waiting_for_lock.fetch_sub(1, Ordering::Relaxed);
        loop {
            let position = wait.as_ref().and_then(|(position, _)| position.as_ref());
            let no_room = match self.sequence_in(&mut state, events, Numbers::Next, position, wait.is_some())
            {
                Ok((batch, published)) => {
                    let number = state.last_given;
                    let released = self.releaser.release_newest(batch);
                    drop(state);
                    if let Some((position, _)) = wait {
                        // The next publisher in the line is called.
                        drop(position.take());
                    }
                    drop(released);
                    return Attempt::Published { published, number };
                }
                Err(Unable::Refused(error)) => return Attempt::Refused(error),
                Err(Unable::NoRoom(no_room)) => no_room,
            };
            let Some((position, by)) = &mut wait else { return Attempt::Refused(PublishError::Busy) };
            let at = state.published_bytes + no_room.bytes as u64;
            self.shared.waiting.enter(position, at, &no_room.shards, *by);
            // The publisher enters the line first: from here on, a call finds it
            // there. What has changed before is seen now.
            let ahead = self.shared.waiting.waited_for_ahead(position.as_ref());
            let is_next = no_room.behind.iter().any(|shard| !ahead.contains(shard));
            if !self.ask(&no_room.calls) && !is_next {
                return Attempt::Waits;
            }
        }
    }

    /// Called between two parts of a batch: lets publishers that wait for the lock have it first. The lock is not
    /// fair, so a thread that takes it again at once would leave the others asleep until its last part.
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
            Err(Unable::NoRoom(_)) => Err(PublishError::Busy),
        }
    }

    /// Whether everything up to this number is visible. If not, the publisher has a position in the line, and
    /// is called when it is.
    pub(crate) fn is_visible(&self, number: u64, position: &mut Option<LinePosition>, by: WaitBy) -> bool {
        if self.log.newest().load(Ordering::Relaxed) >= number {
            return true;
        }
        let log = self.log.lock();
        let is_visible = log.newest() >= number;
        if !is_visible {
            self.shared.waiting.enter_until(position, number, by);
        }
        is_visible
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
        if let Numbers::Given(given) = numbers {
            assert_eq!(given.len(), events.len(), "a number for each event");
            let rises = given.is_sorted_by(|one, next| one < next) && given[0] > state.last_given;
            assert!(rises, "numbers rise");
        }
        let scratch = &mut state.scratch;
        let count = self.measure(scratch, events);
        let is_larger = count < events.len();
        self.check(events.iter().take(count)).map_err(Unable::Refused)?;
        let (readers_version, is_behind) =
            self.log.interest(events.iter().take(count), &mut scratch.interest);
        if is_behind && !may_queue {
            return Err(Unable::Refused(PublishError::Busy));
        }
        let ahead = self.shared.waiting.waited_for_ahead(position);
        let count = self.count_needs(scratch, is_larger, &ahead);
        self.find_room(state, count, is_larger, &ahead).map_err(Unable::NoRoom)?;
        state.published_bytes += state.scratch.part(count).bytes as u64;

        let mut batch = self.reserve(state, count, readers_version);
        let mut published = Published { count, first: String::new(), last: String::new() };
        let mut seq = state.last_given;
        let published_at = self.clock.now();
        let scratch = &mut state.scratch;
        for (index, event) in events.drain(..count).enumerate() {
            seq = match numbers {
                Numbers::Next => seq + 1,
                Numbers::Given(given) => given[index],
            };
            // A number that was given is not given again, even where encoding panics.
            state.last_given = seq;
            let own_id = event.own_id().map(|id| id.as_str().to_owned());
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

    /// Measures the events of the first part, and answers how many they are: as many as fit into one empty
    /// mailbox and have no more topics than a batch may, and at least one.
    fn measure(&self, scratch: &mut Scratch, events: &VecDeque<Event>) -> usize {
        scratch.sizes.clear();
        let (mut part, mut topics) = (Amount::default(), 0);
        for event in events {
            topics += event.topics().len();
            if topics > self.batch_topics && !scratch.sizes.is_empty() {
                break;
            }
            let one = Amount { events: 1, bytes: Frame::size_at_most(event) };
            if !self.mailbox.fits(part, one) {
                break;
            }
            part.add(one);
            scratch.sizes.push(one.bytes);
        }
        scratch.sizes.len()
    }

    /// Adds up what the part needs in each mailbox, and answers how many events it has. The part ends where
    /// it would exceed the bound of all mailboxes. Where the batch is larger than a mailbox, it also ends
    /// where there is no more room. It has at least one event.
    fn count_needs(&self, scratch: &mut Scratch, is_larger: bool, ahead: &ShardSet) -> usize {
        for shard in std::mem::take(&mut scratch.needed).iter() {
            scratch.needs[shard].amount = Amount::default();
        }
        let mut mail_bytes = 0;
        for (index, (interest, &bytes)) in scratch.interest.iter().zip(&scratch.sizes).enumerate() {
            let one = Amount { events: 1, bytes };
            let has_room = |shard: usize| {
                let mut amount = scratch.needs[shard].amount;
                amount.add(one);
                !ahead.contains(shard) && self.mailbox.fits(self.taken(shard), amount)
            };
            mail_bytes += bytes * interest.len();
            let ends = mail_bytes > self.total_bytes || (is_larger && !interest.iter().all(has_room));
            if ends && index > 0 {
                return index;
            }
            for shard in interest.iter() {
                scratch.needed.insert(shard);
                scratch.needs[shard].amount.add(one);
            }
        }
        scratch.sizes.len()
    }

    fn taken(&self, shard: usize) -> Amount {
        self.shared.mailboxes[shard].capacity().taken()
    }

    /// Whether there is room for the needs of the first `count` events, and no publisher ahead waits for it.
    fn find_room(
        &self,
        state: &mut State,
        count: usize,
        is_larger: bool,
        ahead: &ShardSet,
    ) -> Result<(), NoRoom> {
        let scratch = &state.scratch;
        // Of a larger batch, everything that fits into one mailbox.
        let bytes = scratch.part(scratch.sizes.len()).bytes;
        let mut no_room =
            NoRoom { shards: ShardSet::new(), behind: ShardSet::new(), calls: Vec::new(), bytes };
        let mut mail_bytes = 0;
        for shard in scratch.needed.iter() {
            let amount = scratch.needs[shard].amount;
            mail_bytes += amount.bytes;
            if ahead.contains(shard) {
                no_room.shards.insert(shard);
                no_room.behind.insert(shard);
            } else if !self.mailbox.fits(self.taken(shard), amount) {
                no_room.shards.insert(shard);
                let wanted = if is_larger { self.wanted_by_larger(amount) } else { amount };
                no_room.calls.push(Call { by: CallBy::Shard(shard), at: self.mailbox.beside(wanted) });
            }
        }
        if !no_room.shards.is_empty() {
            return Err(no_room);
        }
        let part = scratch.part(count);
        let unreleased = self.shared.unreleased.taken();
        let bound = Bound { events: usize::MAX, bytes: self.total_bytes };
        if !bound.fits(unreleased, part) {
            let call = Call { by: CallBy::Release, at: unreleased.half() };
            return Err(self.no_room_in_all(ahead, [call], bytes));
        }
        if mail_bytes > 0 && state.total_at_most.saturating_add(mail_bytes) > self.total_bytes {
            let taken: Vec<Amount> =
                (0..self.shared.mailboxes.len()).map(|shard| self.taken(shard)).collect();
            state.total_at_most = taken.iter().map(|taken| taken.bytes).sum();
            if state.total_at_most > 0 && state.total_at_most.saturating_add(mail_bytes) > self.total_bytes {
                // When one mailbox has half as much as now, there is room again, or the publisher asks once
                // more.
                let busy = taken.iter().enumerate().filter(|(_, taken)| taken.events > 0);
                let calls = busy.map(|(shard, taken)| Call { by: CallBy::Shard(shard), at: taken.half() });
                return Err(self.no_room_in_all(ahead, calls, bytes));
            }
        }
        Ok(())
    }

    /// What a batch that is larger than a mailbox waits for, where there is no room for its first event: half
    /// a mailbox, so that each part is worth a call.
    fn wanted_by_larger(&self, first: Amount) -> Amount {
        let half = Amount { events: self.mailbox.events, bytes: self.mailbox.bytes }.half();
        Amount { events: half.events.max(first.events), bytes: half.bytes.max(first.bytes) }
    }

    /// A bound of the hub is reached: every publisher that needs room in any mailbox waits.
    fn no_room_in_all(
        &self,
        ahead: &ShardSet,
        calls: impl IntoIterator<Item = Call>,
        bytes: usize,
    ) -> NoRoom {
        let is_ours = |call: &Call| !matches!(call.by, CallBy::Shard(shard) if ahead.contains(shard));
        NoRoom {
            shards: ShardSet::all(self.shared.mailboxes.len()),
            behind: ahead.clone(),
            calls: calls.into_iter().filter(is_ours).collect(),
            bytes,
        }
    }

    fn reserve(&self, state: &mut State, count: usize, readers_version: u64) -> Batch {
        let State { scratch, total_at_most, .. } = state;
        let mut mail = SmallVec::new();
        for shard in scratch.needed.iter() {
            let need = &mut scratch.needs[shard];
            need.mail = mail.len();
            self.shared.mailboxes[shard].reserve(need.amount);
            *total_at_most = total_at_most.saturating_add(need.amount.bytes);
            let frames = Vec::with_capacity(need.amount.events);
            mail.push(ShardMail { shard, frames, reserved: need.amount });
        }
        let part = scratch.part(count);
        self.shared.unreleased.take(part);
        Batch {
            frames: Vec::with_capacity(count),
            mail,
            amount: part,
            readers_version,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Asks for calls. True where room has come meanwhile: then the publisher tries again.
    fn ask(&self, calls: &[Call]) -> bool {
        let mut has_room = false;
        for Call { by, at } in calls {
            let capacity = match *by {
                CallBy::Shard(shard) => self.shared.mailboxes[shard].capacity(),
                CallBy::Release => &self.shared.unreleased,
            };
            let taken = capacity.ask_to_be_called(*at);
            has_room |= taken.events == 0 || (taken.events <= at.events && taken.bytes <= at.bytes);
        }
        has_room
    }

    /// Events that are sequenced and not released, and events for which room is reserved, summed over the
    /// mailboxes.
    #[cfg(feature = "sim")]
    pub(crate) fn reserved_events(&self) -> (usize, usize) {
        let reserved = self.shared.mailboxes.iter().map(|mailbox| mailbox.reserved_events());
        (self.shared.unreleased.taken().events, reserved.sum())
    }

    /// Refuses every publish from now on, and releases what waits only for older batches. `tell_shards` runs
    /// when no publish is under way any more.
    pub(crate) fn close(&self, tell_shards: impl FnOnce()) {
        let _state = lock(&self.state);
        let released = self.releaser.end();
        tell_shards();
        drop(released);
        self.shared.waiting.close();
    }
}

impl Scratch {
    /// Keeps no memory that only a large batch needed.
    fn clear(&mut self) {
        self.sizes.clear();
        self.interest.clear();
        shrink_buffer(&mut self.sizes);
        shrink_buffer(&mut self.interest);
    }

    /// The first events, and their sizes at most.
    fn part(&self, count: usize) -> Amount {
        Amount { events: count, bytes: self.sizes[..count].iter().sum() }
    }
}
