//! Shedding: a share of the streams ends, evenly spread over a window, while the shard goes on.
//!
//! An order means the streams that are there when it comes. It walks once through the slots that they have,
//! from a random one on, and as fast as the window asks for. Of every group of streams that has one to end,
//! it chooses that one at random, so that each stream ends with the same probability, whatever its slot and
//! whatever was ended before.
//!
//! ```text
//!   streams     | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |     a share of 40 %: each stream is 0.4 long
//!   groups      :         :         :         :         :      each is 1 long, and has one random point
//!   points          x           x        x        x            the streams that end: 2, 5, 7, 9
//! ```
//!
//! A stream that is in the middle of a frame is passed over, and the next one that is not ends in its place.
//! Where there is no other, or where all streams are meant, it is cut when the window is over.

use std::time::Duration;

use super::Delivery;
use super::disconnect::began_by;
use super::pace::Pace;
use crate::event_log::EventLog;
use crate::jitter::Jitter;
use crate::share::Share;
use crate::stream::CloseReason;

/// The name of an order to shed streams: [`Delivery::begin_shed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedKey(u64);

/// An order to shed streams.
pub(super) struct Shed {
    key: ShedKey,
    pace: Pace,
    choice: Choice,
    /// The newest generation when it began. Streams that began later stay.
    generation: u32,
    /// How many streams it is to end, and for how many the walk has come by.
    total: usize,
    chosen: usize,
    /// The slots that streams may have had when it began, the first one of the walk, and how many of them the
    /// walk has passed.
    slots: usize,
    first_slot: usize,
    passed: usize,
    /// The window is over, and the slots are walked through again for streams that were passed over. Those
    /// that are still in the middle of a frame are cut.
    cuts: bool,
}

/// Which streams end, in the order in which they are met.
struct Choice {
    share: Share,
    /// Where the next stream begins, and the next point: in millionths of a group.
    next_stream: u64,
    point: u64,
    /// Streams that are still to end for points that were met.
    owed: usize,
}

impl Choice {
    fn new(share: Share, jitter: &mut Jitter) -> Choice {
        let mut choice =
            Choice { share, next_stream: jitter.next_number() % Share::MILLION, point: 0, owed: 0 };
        choice.point = jitter.next_number() % Share::MILLION;
        // Streams begin in the middle of a group. Its point may be before them.
        if choice.point < choice.next_stream {
            choice.next_point(jitter);
        }
        choice
    }

    /// The point of the next group.
    fn next_point(&mut self, jitter: &mut Jitter) {
        let next_group = (self.point / Share::MILLION + 1) * Share::MILLION;
        self.point = next_group + jitter.next_number() % Share::MILLION;
    }

    /// Whether the next stream ends. `may_end`: it is not in the middle of a frame.
    fn takes(&mut self, may_end: bool, jitter: &mut Jitter) -> bool {
        if self.share == Share::ALL {
            return may_end;
        }
        self.next_stream += self.share.parts();
        while self.point < self.next_stream {
            self.owed += 1;
            self.next_point(jitter);
        }
        let takes = may_end && self.owed > 0;
        self.owed -= usize::from(takes);
        takes
    }

    /// Whether a stream that is met again ends.
    fn takes_again(&mut self) -> bool {
        let takes = self.owed > 0 || self.share == Share::ALL;
        self.owed = self.owed.saturating_sub(1);
        takes
    }

    /// Whether the streams are to be gone through again.
    fn is_left(&self) -> bool {
        self.owed > 0 || self.share == Share::ALL
    }
}

impl Delivery {
    /// Ends this share of the streams that are there now, within `window`. Each resumes where it was.
    /// Several orders are carried out side by side, each for its own share. While the shard drains, there is
    /// nothing to do. [`Delivery::is_shedding`] says until when it is under way.
    pub fn begin_shed(&mut self, share: Share, window: Duration, now: Duration) -> ShedKey {
        let key = ShedKey(self.next_shed);
        self.next_shed += 1;
        let (slots, total) = (self.subscribers.capacity(), share.of(self.len() as u64) as usize);
        if self.is_draining() || self.is_empty() {
            return key;
        }
        let first_slot = (self.jitter.next_number() % slots as u64) as usize;
        self.sheds.push(Shed {
            key,
            pace: Pace::new(window, now),
            choice: Choice::new(share, &mut self.jitter),
            generation: self.generation,
            total,
            chosen: 0,
            slots,
            first_slot,
            passed: 0,
            cuts: false,
        });
        key
    }

    /// Whether streams are still to end by this order.
    pub fn is_shedding(&self, key: ShedKey) -> bool {
        self.sheds.iter().any(|shed| shed.key == key)
    }

    pub(super) fn next_shed_step(&self) -> Option<Duration> {
        self.sheds.iter().map(|shed| shed.pace.next_step_at()).min()
    }

    /// Ends as many streams as the time that has passed asks for, as far as the budget of one tick goes.
    pub(super) fn step_sheds(&mut self, now: Duration, log: &mut impl EventLog) {
        // Those of the step before go first: some may have to be passed over.
        if self.sheds.is_empty() || self.sending.endings_queued() > 0 {
            return;
        }
        let mut sheds = std::mem::take(&mut self.sheds);
        // Only now it is certain that none of theirs was passed over.
        sheds.retain(|shed| !shed.is_over());
        let (mut checks, mut endings) = (self.budgets.drain_checks, self.budgets.endings);
        for shed in sheds.iter_mut().filter(|shed| shed.pace.next_step_at() <= now) {
            self.step_shed(shed, &mut checks, &mut endings, now, log);
        }
        self.sheds = sheds;
        self.forget_sheds_without_streams();
    }

    /// Without streams, nothing is left to do.
    pub(super) fn forget_sheds_without_streams(&mut self) {
        if self.is_empty() {
            self.sheds = Vec::new();
        }
    }

    fn step_shed(
        &mut self,
        shed: &mut Shed,
        checks: &mut usize,
        endings: &mut usize,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        if shed.passed == shed.slots && shed.pace.is_over(now) {
            (shed.passed, shed.cuts) = (0, true);
        }
        let is_over = shed.pace.is_over(now);
        let due = shed.pace.due(shed.total, now);
        while shed.passed < shed.slots && (is_over || shed.chosen < due) && *checks > 0 && *endings > 0 {
            let slot = (shed.first_slot + shed.passed) % shed.slots;
            (shed.passed, *checks) = (shed.passed + 1, *checks - 1);
            let Some(subscriber) = self.subscribers.get(slot) else { continue };
            if !began_by(subscriber.link.generation(), shed.generation, self.generation) {
                continue;
            }
            let slot = slot as u32;
            let is_in_frame = self.unsent.contains(slot);
            let ends = if shed.cuts {
                shed.choice.takes_again()
            } else {
                shed.choice.takes(!is_in_frame, &mut self.jitter)
            };
            if !ends {
                continue;
            }
            (shed.chosen, *endings) = (shed.chosen + 1, *endings - 1);
            if is_in_frame {
                self.end(slot, CloseReason::Shed, false, log);
            } else {
                self.sending.queue_ending(self.key_of(slot), CloseReason::Shed);
            }
        }
        let is_behind = shed.passed < shed.slots && shed.chosen < due;
        if is_over || is_behind || shed.is_over() {
            shed.pace.stepped(true, now);
        } else {
            // An idle shard sleeps until then. Streams that were passed over end when the window is over.
            let next = if shed.passed < shed.slots { shed.chosen + 1 } else { shed.total };
            shed.pace.wait_for(next, shed.total, now);
        }
    }

    /// A stream that was chosen has been sent to since, and is in the middle of a frame now.
    pub(super) fn shed_in_frame(&mut self, slot: u32, log: &mut impl EventLog) {
        if self.sheds.iter().any(|shed| shed.cuts) {
            self.end(slot, CloseReason::Shed, false, log);
        } else if let Some(shed) = self.sheds.first_mut() {
            // Another one ends in its place.
            shed.choice.owed += 1;
        }
    }
}

impl Shed {
    /// How many slots the walk under way has passed.
    #[cfg(test)]
    pub(super) fn passed(&self) -> usize {
        self.passed
    }

    /// Everything was done, also for streams that were passed over.
    fn is_over(&self) -> bool {
        self.passed == self.slots && (self.cuts || !self.choice.is_left())
    }
}
