//! Sweeps: the passes over an audience's members that bring each of them to the head.

use std::time::Duration;

use super::table::{Audience, Audiences, SweepBounds, SweepKey};
use super::{AudienceId, Member};
use crate::frames::{FrameKey, FrameStore};
use crate::histogram::Histogram;
use crate::stream::Deciseconds;
use crate::window::Window;

/// An unfinished sweep of one audience. It goes on until a pass has found every member at the head.
pub(super) struct Sweep {
    /// The frames that some member may still need.
    pub(super) window: Window,
    /// Every member has everything up to here.
    swept_to: u64,
    /// The next member to visit in this pass.
    pub(super) next: u32,
    /// The lowest cursor that this pass has left behind, and at most the head at its start.
    reached: u64,
    /// When this pass began.
    pass_at: Deciseconds,
    /// The same in microseconds, to measure it by; the number comes round after 71 minutes.
    pass_at_us: u32,
    /// It stands in this queue for a turn.
    pub(super) in_small_queue: bool,
    pub(super) in_broad_queue: bool,
}

/// An audience's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn it is.
    pub audience: AudienceId,
    /// It stood in the queue of events with a small fan-out.
    is_small: bool,
}

/// Members that stand next to each other and need the same frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first member.
    pub start: usize,
    /// One past the last member.
    pub end: usize,
    /// The cursor of the first one. The others may have other cursors, but no frame of the audience lies
    /// between.
    pub after: u64,
    /// The first frame that they need.
    pub first: u64,
    /// Where it is in the window.
    position: usize,
}

/// What a turn comes to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// These members are to be sent to.
    Slice(Slice),
    /// The budget of members to check is spent.
    Scanned,
    /// The pass is over.
    PassOver,
}

impl Sweep {
    pub(super) fn new(swept_to: u64, head: u64) -> Sweep {
        Sweep {
            window: Window::default(),
            swept_to,
            next: 0,
            reached: head,
            pass_at: Deciseconds::default(),
            pass_at_us: 0,
            in_small_queue: false,
            in_broad_queue: false,
        }
    }

    pub(super) fn begin_pass(&mut self, head: u64) {
        self.next = 0;
        self.reached = head;
    }

    /// It is further behind than what makes sends cheaper.
    pub(super) fn is_backlogged(&self, bounds: &SweepBounds) -> bool {
        self.window.len() > bounds.frames || (self.window.len() > 1 && self.window.bytes() > bounds.bytes)
    }
}

impl Audiences {
    /// Whether some sweep is so far behind that the shard must not take more events until it has caught up.
    pub fn is_backlogged(&self) -> bool {
        self.backlogged > 0
    }

    /// Whether any sweep, or the marking for one, is unfinished.
    pub fn has_work(&self) -> bool {
        !self.small_queue.is_empty() || !self.broad_queue.is_empty() || self.is_marking()
    }

    /// Whose turn it is: an audience that an event with a small fan-out has marked first, or one that waits
    /// for the rest of a broadcast. The caller gives the turn back with [`Audiences::end_turn`]. Takes from
    /// `scans` what it checked in vain.
    pub fn next_turn(&mut self, small_first: bool, scans: &mut usize) -> Option<Turn> {
        for is_small in [small_first, !small_first] {
            let queue = if is_small { &mut self.small_queue } else { &mut self.broad_queue };
            while let Some(audience) = queue.pop_front() {
                // An audience that was queued may have left the table since.
                let Some(key) = self.table.get(audience.0).and_then(|audience| audience.sweep) else {
                    *scans = scans.checked_sub(1)?;
                    continue;
                };
                let sweep = &mut self.sweeps[key.index()];
                let stands = if is_small { &mut sweep.in_small_queue } else { &mut sweep.in_broad_queue };
                if std::mem::take(stands) {
                    return Some(Turn { audience, is_small });
                }
                *scans = scans.checked_sub(1)?;
            }
        }
        None
    }

    /// The next members of this sweep to send to, at most `most`. Takes what it checked from `scans`.
    pub fn slice(
        &mut self,
        id: AudienceId,
        most: usize,
        scans: &mut usize,
        now: Duration,
        store: &mut FrameStore,
    ) -> Step {
        let audience = &mut self.table[id.0];
        let Some(key) = audience.sweep else { return Step::PassOver };
        let sweep = &mut self.sweeps[key.index()];
        if sweep.next == 0 {
            sweep.pass_at = Deciseconds::of(now);
            sweep.pass_at_us = now.as_micros() as u32;
        }
        let Some(&newest) = sweep.window.from(0).last() else { return Step::PassOver };
        let newest = store.seq(newest);
        let members = &audience.members[sweep.next as usize..];
        let checked = members.len().min(*scans);
        let behind = members[..checked].iter().position(|member| member.cursor < newest);
        let Some(skipped) = behind else {
            *scans -= checked;
            sweep.next += checked as u32;
            if checked < members.len() {
                return Step::Scanned;
            }
            self.complete_pass(id, key, now, store);
            return Step::PassOver;
        };
        *scans -= skipped;
        let after = members[skipped].cursor;
        let position = sweep.window.position_after(after, store);
        let frames = sweep.window.from(0);
        let first = store.seq(frames[position]);
        let before = position.checked_sub(1).map_or(0, |before| store.seq(frames[before]));
        let needs_the_same = |member: &&Member| (before..first).contains(&member.cursor);
        let length = members[skipped..].iter().take(most).take_while(needs_the_same).count();
        let start = sweep.next as usize + skipped;
        Step::Slice(Slice { start, end: start + length, after, first, position })
    }

    fn complete_pass(&mut self, id: AudienceId, key: SweepKey, now: Duration, store: &mut FrameStore) {
        let audience = &mut self.table[id.0];
        let sweep = &mut self.sweeps[key.index()];
        let took_us = (now.as_micros() as u32).wrapping_sub(sweep.pass_at_us);
        self.pass_times.record(Duration::from_micros(took_us.into()), 1);
        let was_backlogged = sweep.is_backlogged(&self.bounds);
        sweep.swept_to = sweep.swept_to.max(sweep.reached);
        audience.swept_at = sweep.pass_at;
        sweep.begin_pass(audience.head);
        sweep.window.drop_until(sweep.swept_to, store);
        self.backlogged -= usize::from(was_backlogged && !sweep.is_backlogged(&self.bounds));
    }

    /// How long passes took, from the first send to the last one.
    pub fn pass_times(&self) -> &Histogram {
        &self.pass_times
    }

    /// The members of a slice.
    pub fn members(&self, id: AudienceId, slice: Slice) -> &[Member] {
        &self.table[id.0].members[slice.start..slice.end]
    }

    /// The frames that the members of a slice need.
    pub fn frames(&self, id: AudienceId, slice: Slice) -> &[FrameKey] {
        let sweep = self.table[id.0].sweep.map(|key| &self.sweeps[key.index()]);
        sweep.map_or(&[], |sweep| sweep.window.from(slice.position))
    }

    /// Notes that the members of a slice now stand at `cursor`.
    pub fn advance(&mut self, id: AudienceId, slice: Slice, cursor: u64) {
        let audience = &mut self.table[id.0];
        for member in &mut audience.members[slice.start..slice.end] {
            member.cursor = cursor;
        }
        let Some(key) = audience.sweep else { return };
        let sweep = &mut self.sweeps[key.index()];
        sweep.next = slice.end as u32;
        sweep.reached = sweep.reached.min(cursor);
    }

    /// When the last pass began that has reached the member at `index`.
    pub fn reached_at(&self, id: AudienceId, index: u32) -> Deciseconds {
        let audience = &self.table[id.0];
        let sweep = audience.sweep.map(|key| &self.sweeps[key.index()]);
        let under_way = sweep.filter(|sweep| index < sweep.next).map(|sweep| sweep.pass_at);
        under_way.unwrap_or_default().max(audience.swept_at)
    }

    /// Ends a turn: the audience is queued again if there is more to do. The audience may have been left by
    /// all of its streams.
    pub fn end_turn(&mut self, turn: Turn, store: &mut FrameStore) {
        let id = turn.audience;
        let Some(audience) = self.table.get_mut(id.0) else { return };
        let Some(key) = audience.sweep else { return };
        let sweep = &mut self.sweeps[key.index()];
        let is_over = sweep.window.is_empty() || audience.members.is_empty();
        if !is_over {
            let (stands, queue) = match turn.is_small {
                true => (&mut sweep.in_small_queue, &mut self.small_queue),
                false => (&mut sweep.in_broad_queue, &mut self.broad_queue),
            };
            if !std::mem::replace(stands, true) {
                queue.push_back(id);
            }
        } else if !sweep.in_small_queue && !sweep.in_broad_queue {
            self.drop_sweep(id, store);
        }
    }

    /// Whether the member at `index` is still to be sent something that its audience was marked with.
    pub fn is_member_behind(&self, id: AudienceId, index: u32, store: &FrameStore) -> bool {
        let audience = &self.table[id.0];
        let sweep = audience.sweep.map(|key| &self.sweeps[key.index()]);
        let newest = sweep.and_then(|sweep| sweep.window.from(0).last());
        newest.is_some_and(|&newest| audience.members[index as usize].cursor < store.seq(newest))
    }

    /// Ends a sweep, whether it is finished or not.
    pub(super) fn drop_sweep(&mut self, id: AudienceId, store: &mut FrameStore) {
        let Some(key) = self.table[id.0].sweep.take() else { return };
        let mut sweep = self.sweeps.remove(key.index());
        self.backlogged -= usize::from(sweep.is_backlogged(&self.bounds));
        sweep.window.clear(store);
        crate::shrink::drop_if_empty(&mut self.sweeps);
    }

    /// What must hold for one audience between two calls.
    pub(super) fn check_sweep(&self, id: AudienceId, audience: &Audience, store: &FrameStore) {
        let Some(key) = audience.sweep else { return };
        let sweep = &self.sweeps[key.index()];
        let stands =
            |is_in: bool, queue: &std::collections::VecDeque<AudienceId>| !is_in || queue.contains(&id);
        assert!(
            stands(sweep.in_small_queue, &self.small_queue),
            "it stands in a queue that does not have it"
        );
        assert!(
            stands(sweep.in_broad_queue, &self.broad_queue),
            "it stands in a queue that does not have it"
        );
        assert!(sweep.in_small_queue || sweep.in_broad_queue, "a sweep is forgotten");
        let frames = sweep.window.from(0);
        assert!(frames.iter().is_sorted_by_key(|&key| store.seq(key)), "the frames of a window are in order");
        let bytes: usize = frames.iter().map(|&key| store.get(key).size()).sum();
        assert_eq!(sweep.window.bytes(), bytes, "bytes of a window");
        let first = frames.first().map(|&first| store.seq(first));
        for member in &audience.members {
            assert!(member.cursor >= sweep.swept_to, "{member:?} before {}", sweep.swept_to);
            assert!(first.is_none_or(|first| first > sweep.swept_to), "a frame that every member has");
        }
    }
}
