//! Another bound of the memory of a log that is in use.
//!
//! A higher one holds at once. A lower one is reached in steps of [`Log::trim`], so that no call holds the
//! log's lock for everything that has to go. Meanwhile the bound follows what is left downwards: it never
//! rises again.

use std::sync::Arc;

use super::{FORGOTTEN_SHARE, Log};
use crate::frame::Frame;

impl Log {
    /// Changes [`crate::limits::LogLimits::total_bytes`]. Where the log has to lose frames for it,
    /// [`Log::next_expiry`] asks for [`Log::trim`] at once, until it has.
    pub fn set_total_bytes(&mut self, bytes: usize) {
        self.changes += 1;
        self.shrinks_to = (bytes < self.limits.total_bytes).then_some(bytes);
        if self.shrinks_to.is_none() {
            self.limits.total_bytes = bytes;
            self.forgotten.set_max_bytes(bytes / FORGOTTEN_SHARE);
        }
    }

    /// Whether the log has to become smaller.
    pub fn is_shrinking(&self) -> bool {
        self.shrinks_to.is_some()
    }

    /// What frames, and all that is kept because of them, may take of so many bytes.
    /// What forgotten topics may take is never given away: readers that leave may need it at any time.
    pub(super) fn bytes_of_frames_at_most(total_bytes: usize) -> usize {
        total_bytes - total_bytes / FORGOTTEN_SHARE
    }

    /// The memory of frames and of all that is kept because of them, in bytes.
    pub(super) fn bytes_of_frames(&self) -> usize {
        self.bytes() - self.forgotten.bytes()
    }

    /// Goes on becoming smaller, by this many frames and tombstones.
    pub(super) fn go_on_shrinking(&mut self, budget: usize, dropped: &mut Vec<Arc<Frame>>) {
        let Some(total_bytes) = self.shrinks_to else { return };
        let at_most = Log::bytes_of_frames_at_most(total_bytes);
        let mut left = budget;
        while left > 0
            && self.bytes_of_frames() > at_most
            && let Some(slot) = self.classes.next_largest(&self.topics)
        {
            left -= 1;
            self.dropped_for_room += 1;
            self.drop_oldest(slot, dropped);
        }
        let tombstones_fit = self.forgotten.shrink_towards(total_bytes / FORGOTTEN_SHARE, left);
        if left > 0 && tombstones_fit {
            // What is left has no frames.
            self.shrinks_to = None;
            self.limits.total_bytes = total_bytes;
            self.forgotten.set_max_bytes(total_bytes / FORGOTTEN_SHARE);
            return;
        }
        // Publishers may not fill what was freed.
        let (frames, forgotten) = (self.bytes_of_frames(), self.forgotten.bytes());
        let forgotten = forgotten.max(total_bytes / FORGOTTEN_SHARE);
        self.forgotten.set_max_bytes(forgotten);
        let share = frames / (FORGOTTEN_SHARE - 1) + FORGOTTEN_SHARE;
        let needed = (frames + share.max(forgotten)).max(total_bytes);
        self.limits.total_bytes = self.limits.total_bytes.min(needed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cursor::Epoch;
    use crate::event::{Event, Topic};
    use crate::limits::LogLimits;

    const MIB: usize = 1 << 20;

    fn append(log: &mut Log, topic: &str) {
        let seq = log.newest() + 1;
        let event = Event::new(Topic::new(topic).unwrap()).with_data("x".repeat(500));
        let frame = Frame::encode(seq, &format!("7-{seq}"), event, Duration::ZERO);
        log.append(Arc::new(frame), Duration::ZERO, &mut Vec::new());
    }

    /// One append would have dropped everything that the lower bound does not cover, under the log's lock.
    #[test]
    fn a_lower_bound_is_reached_in_steps_and_is_not_filled_meanwhile() {
        let mut log = Log::new(Epoch::new(7), LogLimits::default().with_total_bytes(16 * MIB), 1);
        for number in 0..30_000 {
            append(&mut log, ["a", "b", "c"][number % 3]);
        }
        let before = log.bytes();
        assert!(before > 14 * MIB);
        log.set_total_bytes(4 * MIB);
        assert!(log.is_shrinking() && log.next_expiry() == Some(Duration::ZERO));
        let mut steps = 0;
        let mut most = before;
        while log.is_shrinking() {
            // Publishers are as fast as the trim.
            for _ in 0..20 {
                append(&mut log, "a");
            }
            let mut dropped = Vec::new();
            log.trim(Duration::ZERO, 100, &mut dropped);
            assert!(dropped.len() <= 100);
            assert!(log.bytes() <= most + 20 * 1000, "it grows again");
            most = most.min(log.bytes());
            if steps % 32 == 0 {
                log.check();
            }
            steps += 1;
            assert!(steps < 10_000, "it does not end");
        }
        assert!(steps > 100 && log.bytes() <= 4 * MIB && log.bytes() > 3 * MIB, "{steps} {}", log.bytes());
        append(&mut log, "b");
        assert!(log.bytes() <= 4 * MIB);
        // A higher one holds at once, also where a lower one was asked for.
        log.set_total_bytes(MIB);
        log.trim(Duration::ZERO, 100, &mut Vec::new());
        log.set_total_bytes(8 * MIB);
        assert!(!log.is_shrinking());
        for _ in 0..20_000 {
            append(&mut log, "a");
        }
        assert!(log.bytes() > 7 * MIB && log.bytes() <= 8 * MIB);
        log.check();
    }

    #[test]
    fn tombstones_shrink_too_and_an_empty_log_is_done_at_once() {
        let mut log = Log::new(Epoch::new(7), LogLimits::default().with_total_bytes(MIB), 1);
        log.set_total_bytes(1000);
        log.trim(Duration::ZERO, 10, &mut Vec::new());
        assert!(!log.is_shrinking());
        log.set_total_bytes(4 * MIB);
        for topic in 0..20_000 {
            append(&mut log, &format!("topic-{topic}"));
        }
        let tombstones = log.forgotten.bytes();
        assert!(tombstones > MIB / 8);
        log.set_total_bytes(MIB);
        while log.is_shrinking() {
            log.trim(Duration::ZERO, 1000, &mut Vec::new());
            assert!(log.bytes() <= 4 * MIB);
        }
        assert!(log.bytes() <= MIB && log.forgotten.bytes() <= MIB / FORGOTTEN_SHARE);
    }
}
