//! Those who are idle, late or old: heartbeats, deadlines, ages, and laggards at their bound.
//!
//! Upkeep is a rotating slice of the slab, not a timer per connection: each connection is looked at
//! four times in a heartbeat's interval, or more often where ages are short, and a shard without connections sleeps.

use std::collections::HashMap;
use std::time::Duration;

use fanfare_io::Io;
use fanfare_proto::audience::AudienceId;
use fanfare_proto::connection::{Farewell, Place, Tenths};
use fanfare_proto::frame::WireFormat;
use fanfare_proto::limits::{EXPIRY_SLACK, LAGGARD_CHECK, LaggardPolicy, STANDSTILL};
use fanfare_proto::shrink::shrink_slab;
use slab::Slab;

use super::{Shard, greet::Deadlines, tenths};

/// Slots looked at in one slice, unless the slab is so large that this would take too many slices.
const SLICE_SLOTS: usize = 256;

/// Slices come at most this often, so that a large slab does not make a shard spin.
const SLICE_INTERVAL: Duration = Duration::from_millis(10);

/// Slots for pending requests, and for their deadlines, that an empty table keeps.
const PENDING_KEPT: usize = 64;

/// When upkeep of each kind is due.
#[derive(Default)]
pub(super) struct Upkeep {
    pub(super) deadlines: Deadlines,
    next_slice_at: Duration,
    /// The slot at which the next slice begins.
    next_slot: usize,
    next_laggard_check_at: Duration,
    /// Laggards that were at a standstill when last looked at.
    pub(super) at_standstill: usize,
}

impl<I: Io> Shard<I> {
    /// When something of this file is due next.
    pub(super) fn next_upkeep(&self) -> Option<Duration> {
        let deadlines = &self.upkeep.deadlines;
        let timers = [
            deadlines.heads.front().map(|(at, ..)| *at),
            deadlines.lingers.front().map(|(at, ..)| *at),
            (!self.connections.is_empty()).then_some(self.upkeep.next_slice_at),
            (!self.laggards.is_empty()).then_some(self.upkeep.next_laggard_check_at),
            self.log.next_expiry().map(|at| at.saturating_add(EXPIRY_SLACK)),
        ];
        timers.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn look_after(&mut self, now: Duration) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.io.resume_accept();
        }
        self.log.trim(now);
        if self.pending.is_empty() {
            self.forget_deadlines();
        }
        if self.laggards.is_empty() {
            self.upkeep.at_standstill = 0;
        } else if self.upkeep.next_laggard_check_at <= now {
            self.upkeep.next_laggard_check_at = now + LAGGARD_CHECK;
            self.check_laggards(now);
        }
        if !self.connections.is_empty() && self.upkeep.next_slice_at <= now {
            self.look_after_slice(now);
        }
    }

    /// Nobody is pending: whose deadlines these were has left. Gives back what a crowd needed, also where it came one after
    /// the other.
    fn forget_deadlines(&mut self) {
        let Deadlines { heads, lingers } = &mut self.upkeep.deadlines;
        let room = self.pending.capacity().max(heads.capacity()).max(lingers.capacity());
        if room > PENDING_KEPT {
            self.pending = Slab::new();
            self.upkeep.deadlines = Deadlines::default();
        } else {
            heads.clear();
            lingers.clear();
        }
    }

    /// Ends laggards that stand still or are over their bound, and lets go of what none needs.
    fn check_laggards(&mut self, now: Duration) {
        let mut farewells = Vec::new();
        let mut slowest: HashMap<AudienceId, u64> = HashMap::new();
        let disconnect = self.limits.laggard_policy == LaggardPolicy::Disconnect;
        let standstill_since = now.checked_sub(STANDSTILL);
        self.upkeep.at_standstill = 0;
        for (_, laggard) in self.laggards.iter() {
            let standing = standstill_since.is_some_and(|since| laggard.at_standstill_since(since));
            self.upkeep.at_standstill += usize::from(standing);
            let audience = self.connections[laggard.slot as usize].audience;
            let needs_after = laggard.needs_after();
            let stalled = now.saturating_sub(laggard.progress_at) >= self.limits.laggard_time;
            if stalled && !laggard.in_line() {
                farewells.push((laggard.slot, Farewell::LaggardStalled));
            } else if disconnect && needs_after < self.audiences.window_after(audience) {
                farewells.push((laggard.slot, Farewell::LaggardFull));
            } else {
                let lowest = slowest.entry(audience).or_insert(needs_after);
                *lowest = needs_after.min(*lowest);
            }
        }
        for (audience, needs_after) in slowest {
            self.audiences.trim_window(audience, needs_after);
        }
        for (slot, reason) in farewells {
            self.end(slot, reason);
        }
    }

    /// The time in which each connection is looked at once.
    fn look_period(&self) -> Duration {
        let heartbeat = self.limits.heartbeat / 4;
        let age = self.limits.connection_age.map_or(heartbeat, |age| age / 20);
        heartbeat.min(age).max(SLICE_INTERVAL)
    }

    fn look_after_slice(&mut self, now: Duration) {
        if self.upkeep.next_slot >= self.connections.capacity() {
            // All have been looked at. A crowd that has left would be looked for as long as anybody is here.
            shrink_slab(&mut self.connections);
        }
        let period = self.look_period();
        let slots = self.connections.capacity();
        let slices = slots.div_ceil(SLICE_SLOTS).max(1);
        let interval = (period / slices as u32).max(SLICE_INTERVAL);
        let per_slice = (slots as u128 * interval.as_nanos()).div_ceil(period.as_nanos()) as usize;
        self.upkeep.next_slice_at = now.saturating_add(interval);

        // Around the end: a slab that has just grown would have its new slots looked at, and its old ones too late.
        let from = self.upkeep.next_slot % slots;
        self.upkeep.next_slot = from + per_slice;
        let (mut chunked, mut plain, mut aged) = (Vec::new(), Vec::new(), Vec::new());
        // Looked at every quarter of the interval, at least: silence of three quarters would grow past it.
        // A shard younger than that has nobody who was silent for so long.
        let quiet_since = now.checked_sub(self.limits.heartbeat - self.limits.heartbeat / 4).map(tenths);
        for slot in (from..from + per_slice).map(|slot| slot % slots) {
            let Some(connection) = self.connections.get(slot) else { continue };
            if connection.ends_at <= tenths(now) {
                aged.push(slot as u32);
                continue;
            }
            // A laggard's socket is full, or about to be sent to.
            let Place::Member(_) = connection.place else { continue };
            let sent_at: Tenths = connection.sent_at.max(self.audiences.swept_at(connection.audience));
            if quiet_since.is_some_and(|since| sent_at <= since) {
                match self.audiences.format(connection.audience) {
                    WireFormat::Chunked => chunked.push(slot as u32),
                    WireFormat::Plain => plain.push(slot as u32),
                }
            }
        }
        self.send_heartbeats(&chunked, WireFormat::Chunked, now);
        self.send_heartbeats(&plain, WireFormat::Plain, now);
        for slot in aged {
            if self.connections.contains(slot as usize) {
                // Who is in the middle of a frame ends when that is finished.
                self.end_stream(slot, Farewell::Aged);
            }
        }
    }
}
