//! Room for a publish: how many events the first part has, what they need in each mailbox, and the
//! reservation.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_proto::event::Event;
use fanfare_proto::frame::Frame;
use fanfare_proto::log::ShardSet;
use fanfare_proto::shrink::shrink_buffer;
use smallvec::SmallVec;

use super::{Sequencer, State};
use crate::hub::Repetitions;
use crate::hub::capacity::{Amount, Bound};
use crate::hub::release::{Batch, ShardMail};
use crate::shared_log::Interest;

/// Reused from publish to publish.
#[derive(Default)]
pub(super) struct Scratch {
    /// For each event of the part: its size at most, and the shards that read one of its topics.
    pub(super) sizes: Vec<usize>,
    pub(super) interest: Vec<ShardSet>,
    /// Those of them that were published before.
    pub(super) repeated: Repetitions,
    /// For each shard, what the part needs there; zero for shards that are not in `needed`.
    pub(super) needs: Vec<Need>,
    pub(super) needed: ShardSet,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Need {
    pub(super) amount: Amount,
    /// Where the mail for this shard is, in [`Batch::mail`].
    pub(super) mail: usize,
}

/// Where room is missing.
pub(super) struct NoRoom {
    /// The shards to wait for: shards without room, and shards that publishers ahead wait for.
    pub(super) shards: ShardSet,
    /// The shards among them that publishers ahead wait for.
    pub(super) behind: ShardSet,
    /// The calls to ask for. Publishers ahead have asked for theirs.
    pub(super) calls: Vec<Call>,
    /// The size of the part, in bytes at most.
    pub(super) bytes: usize,
}

pub(super) struct Call {
    by: CallBy,
    /// When no more than this is taken.
    at: Amount,
}

#[derive(Clone, Copy)]
pub(super) enum CallBy {
    Shard(usize),
    /// A batch that is released or dropped.
    Release,
}

impl Sequencer {
    /// Measures the events of the first part, and answers how many they are: as many as fit into one empty
    /// mailbox and have no more topics than a batch may, and at least one.
    pub(super) fn measure(&self, scratch: &mut Scratch, events: &VecDeque<Event>) -> usize {
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
    pub(super) fn count_needs(&self, scratch: &mut Scratch, is_larger: bool, ahead: &ShardSet) -> usize {
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
    pub(super) fn find_room(
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

    pub(super) fn reserve(&self, state: &mut State, count: usize, interest: &Interest) -> Batch {
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
            is_read_here: interest.is_read_here,
            readers_version: interest.readers_version,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Asks for calls. True where room has come meanwhile: then the publisher tries again.
    pub(super) fn ask(&self, calls: &[Call]) -> bool {
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
}

impl Scratch {
    /// A part of one event with so many bytes, which every shard reads.
    pub(super) fn of_one_event(&mut self, bytes: usize, shards: usize) {
        self.clear();
        self.sizes.push(bytes);
        self.interest.push(ShardSet::all(shards));
    }

    /// Keeps no memory that only a large batch needed.
    pub(super) fn clear(&mut self) {
        self.sizes.clear();
        self.interest.clear();
        self.repeated.clear();
        shrink_buffer(&mut self.sizes);
        shrink_buffer(&mut self.interest);
    }

    /// The first events, and their sizes at most.
    pub(super) fn part(&self, count: usize) -> Amount {
        Amount { events: count, bytes: self.sizes[..count].iter().sum() }
    }
}
