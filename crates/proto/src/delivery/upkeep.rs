//! Streams that are idle, late or old: heartbeats, ages, and laggards that stand still.
//!
//! Upkeep goes through the table piece by piece, without a timer for each stream: each stream is checked
//! [`CHECKS_PER_INTERVAL`] times in a heartbeat's interval, or more often where ages are short. Streams that
//! asked for an interval of their own have timers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::sending::HeartbeatKind;
use super::{Delivery, StreamKey, Subscriber};
use crate::event_log::EventLog;
use crate::frame::Checkpoint;
use crate::limits::{LAGGARD_CHECK, STANDSTILL};
use crate::shrink::shrink_slab;
use crate::stream::{CloseReason, Deciseconds, Place, StreamOptions};

/// Each stream is checked so many times in a heartbeat's interval. A heartbeat comes early by up to one part
/// of these, and each that comes early is one more to send; to check a stream costs a thousandth of a
/// heartbeat.
const CHECKS_PER_INTERVAL: u32 = 16;

/// Slots that are checked together, unless the table is so large that this would take too many checks. The
/// heartbeats that one check finds due are sent together: a wake-up, and the caches that it fills, serve some
/// 250 of them instead of 16.
const CHECKED_SLOTS: usize = 4096;

/// Checks come at most this often, so that a large table does not make a shard spin.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// When upkeep of each kind is due.
#[derive(Default)]
pub(super) struct Upkeep {
    pub(super) next_check_at: Duration,
    /// The shortest period of checks that a stream which is still there was given its end with.
    pub(super) period_at_most: Option<Duration>,
    /// The slot at which the next check begins.
    next_slot: usize,
    /// When the next check of all laggards begins, or goes on.
    next_laggard_check_at: Duration,
    next_laggard: usize,
    check_began_at: Duration,
    /// Laggards at a standstill: as of the last check, and so far in this one.
    pub(super) at_standstill: usize,
    standing: usize,
    /// Streams whose heartbeats carry their cursor.
    pub(super) checkpoints: usize,
    /// Where the search for a laggard that makes room goes on.
    pub(super) next_to_make_room: usize,
    /// How many laggards this tick may still check, to find some whose end makes room.
    pub(super) room_checks: usize,
    /// More has to be ended to make room than one tick ends.
    pub(super) is_making_room: bool,
    /// Streams with a heartbeat interval of their own, and when each is to be checked.
    timers: BinaryHeap<Reverse<(Deciseconds, u32, u32)>>,
}

impl Upkeep {
    /// The last stream has left.
    pub(super) fn forget_streams(&mut self) {
        self.timers = BinaryHeap::new();
        self.at_standstill = 0;
        self.period_at_most = None;
    }
}

impl Delivery {
    pub(super) fn begin_upkeep(&mut self, key: StreamKey, options: StreamOptions, now: Duration) {
        self.upkeep.checkpoints += usize::from(options.checkpoint != Checkpoint::Off);
        if let Some(interval) = options.heartbeat {
            let at = Deciseconds::of(now + interval.time());
            self.forget_stale_timers();
            self.upkeep.timers.push(Reverse((at, key.slot, key.generation)));
        }
    }

    /// Timers of streams that have left go when they are more than those of streams that stay.
    fn forget_stale_timers(&mut self) {
        if self.upkeep.timers.len() <= 2 * self.subscribers.len() + 1024 {
            return;
        }
        let mut timers = std::mem::take(&mut self.upkeep.timers);
        timers.retain(|&Reverse((_, slot, generation))| self.find(StreamKey { slot, generation }).is_some());
        timers.shrink_to_fit();
        self.upkeep.timers = timers;
    }

    pub(super) fn next_upkeep(&self) -> Option<Duration> {
        let timers = [
            (!self.subscribers.is_empty()).then_some(self.upkeep.next_check_at),
            (!self.laggards.is_empty()).then_some(self.upkeep.next_laggard_check_at),
            self.upkeep.timers.peek().map(|Reverse((at, ..))| at.time()),
        ];
        timers.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn run_upkeep(&mut self, now: Duration, log: &mut impl EventLog) {
        if self.laggards.is_empty() {
            (self.upkeep.at_standstill, self.upkeep.next_laggard, self.upkeep.standing) = (0, 0, 0);
        } else if self.upkeep.next_laggard_check_at <= now {
            self.check_laggards(now, log);
        }
        if !self.subscribers.is_empty() && self.upkeep.next_check_at <= now {
            self.check_streams(now);
        }
        self.run_timers(now);
    }

    /// Ends laggards that stand still: a piece of a check of all of them.
    fn check_laggards(&mut self, now: Duration, log: &mut impl EventLog) {
        if self.upkeep.next_laggard == 0 {
            (self.upkeep.standing, self.upkeep.check_began_at) = (0, now);
        }
        let standstill_since = now.checked_sub(STANDSTILL);
        let end = self.laggards.indexes_end();
        let from = self.upkeep.next_laggard;
        let to = end.min(from + self.budgets.laggard_checks);
        for index in from..to {
            let Some(laggard) = self.laggards.find(index) else { continue };
            let standing = standstill_since.is_some_and(|since| laggard.at_standstill_since(since));
            self.upkeep.standing += usize::from(standing);
            let stalled_since = now.checked_sub(self.limits.laggard_time);
            if stalled_since.is_some_and(|since| laggard.is_stalled_since(since)) {
                let slot = laggard.slot;
                self.end(slot, CloseReason::LaggardStalled, false, log);
            }
        }
        if to < end {
            // The rest of this check comes in the next ticks.
            self.upkeep.next_laggard = to;
            self.upkeep.next_laggard_check_at = now;
        } else {
            self.laggards.shrink();
            self.upkeep.next_laggard = 0;
            self.upkeep.at_standstill = self.upkeep.standing;
            self.upkeep.next_laggard_check_at =
                self.upkeep.check_began_at.saturating_add(LAGGARD_CHECK).max(now);
        }
    }

    /// The time in which each stream is checked once.
    pub(super) fn check_period(&self) -> Duration {
        let heartbeat = self.heartbeat_period();
        let age = self.limits.connection_age.map_or(heartbeat, |age| age / 20);
        let period = self.upkeep.period_at_most.map_or(heartbeat, |at_most| at_most.min(heartbeat));
        period.min(age).max(CHECK_INTERVAL)
    }

    /// The longest time between two checks of a stream that may need a heartbeat.
    fn heartbeat_period(&self) -> Duration {
        (self.limits.heartbeat / CHECKS_PER_INTERVAL).max(CHECK_INTERVAL)
    }

    fn check_streams(&mut self, now: Duration) {
        if self.sending.heartbeats_queued() > 0 || self.sending.endings_queued() > 0 {
            // Those of the check before go first: where sends are slow, the queues would grow, and a drain
            // waits for the queue of endings.
            self.upkeep.next_check_at = now.saturating_add(CHECK_INTERVAL);
            return;
        }
        if self.upkeep.next_slot >= self.subscribers.capacity() {
            // All have been checked. The room of a crowd that has left would be checked for as long as any
            // stream stays.
            shrink_slab(&mut self.subscribers);
        }
        let period = self.check_period();
        let slots = self.subscribers.capacity();
        let pieces = slots.div_ceil(CHECKED_SLOTS).max(1);
        let interval = (period / pieces as u32).max(CHECK_INTERVAL);
        let per_check = (slots as u128 * interval.as_nanos()).div_ceil(period.as_nanos()) as usize;
        let per_check = per_check.min(slots);
        self.upkeep.next_check_at = now.saturating_add(interval);

        // Around the end: a table that has just grown would have its new slots checked, and its old ones too
        // late.
        let from = self.upkeep.next_slot % slots;
        self.upkeep.next_slot = from + per_check;
        for slot in (from..from + per_check).map(|slot| slot % slots) {
            let Some(&Subscriber { link, stream }) = self.subscribers.get(slot) else { continue };
            let key = StreamKey { slot: slot as u32, generation: link.generation() };
            if let Some(reason) = stream.ends_at.over(now) {
                // A stream in the middle of a frame ends when that is finished: its turn as a laggard sees to
                // it. In the queue of endings it would only keep others waiting, a drain among them.
                if !self.unsent.contains(key.slot) {
                    self.sending.queue_ending(key, reason);
                }
            } else if stream.options.heartbeat.is_none() && self.is_heartbeat_due(&stream, now) {
                self.queue_heartbeat(key, &stream);
            }
        }
    }

    /// Whether a stream was silent for so long that it is to have a heartbeat.
    pub(super) fn is_heartbeat_due(&self, stream: &crate::stream::Stream, now: Duration) -> bool {
        let last_sent_at = self.last_sent_at(stream);
        if let Some(interval) = stream.options.heartbeat {
            return last_sent_at.plus(interval) <= Deciseconds::of(now);
        }
        // What is not due at this check is due at the next one, which must not be too late. A shard younger
        // than that has no stream that was silent for so long.
        let quiet = self.limits.heartbeat.saturating_sub(self.heartbeat_period());
        now.checked_sub(quiet).is_some_and(|since| last_sent_at <= Deciseconds::of(since))
    }

    pub(super) fn last_sent_at(&self, stream: &crate::stream::Stream) -> Deciseconds {
        stream.sent_at.max(self.audiences.swept_at(stream.audience))
    }

    fn queue_heartbeat(&mut self, key: StreamKey, stream: &crate::stream::Stream) {
        // A laggard's link is full, or about to be sent to.
        if matches!(stream.place, Place::Member(_)) {
            let encoding = self.audiences.subscription(stream.audience).encoding();
            let checkpoint = stream.options.checkpoint;
            self.sending.queue_heartbeat(key, HeartbeatKind { encoding, checkpoint });
        }
    }

    /// Heartbeats of streams with an interval of their own.
    fn run_timers(&mut self, now: Duration) {
        let time = Deciseconds::of(now);
        let room = self.budgets.sends.saturating_sub(self.sending.heartbeats_queued());
        for _ in 0..room {
            let Some(&Reverse((at, slot, generation))) = self.upkeep.timers.peek() else { return };
            if at > time {
                return;
            }
            self.upkeep.timers.pop();
            let key = StreamKey { slot, generation };
            let Some(Subscriber { stream, .. }) = self.find(key) else { continue };
            let Some(interval) = stream.options.heartbeat else { continue };
            let next = if self.is_heartbeat_due(&stream, now) {
                self.queue_heartbeat(key, &stream);
                time.plus(interval)
            } else {
                self.last_sent_at(&stream).plus(interval)
            };
            self.upkeep.timers.push(Reverse((next, slot, generation)));
        }
    }
}
