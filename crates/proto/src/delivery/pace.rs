//! The pace at which an order ends streams: evenly over a window, in small steps.

use std::time::Duration;

/// Time between two steps.
const STEP: Duration = Duration::from_millis(10);

/// The pace of an order to end streams within a window.
pub(super) struct Pace {
    began_at: Duration,
    window: Duration,
    next_step_at: Duration,
}

impl Pace {
    pub(super) fn new(window: Duration, now: Duration) -> Pace {
        Pace { began_at: now, window, next_step_at: now }
    }

    /// When the next step is due.
    pub(super) fn next_step_at(&self) -> Duration {
        self.next_step_at
    }

    /// Whether the window is over.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now - self.began_at >= self.window
    }

    /// How many streams of so many are to have ended by now.
    pub(super) fn due(&self, total: usize, now: Duration) -> usize {
        if self.is_over(now) {
            return total;
        }
        (total as f64 * ((now - self.began_at).as_secs_f64() / self.window.as_secs_f64())) as usize
    }

    /// The next step comes when so many of a total are due: one step later at the earliest, and when the
    /// window is over at the latest.
    pub(super) fn wait_for(&mut self, count: usize, total: usize, now: Duration) {
        let share = if total == 0 { 1.0 } else { count as f64 / total as f64 };
        let after = Duration::try_from_secs_f64(self.window.as_secs_f64() * share).unwrap_or(self.window);
        let over_at = self.began_at.saturating_add(self.window);
        let due_at = self.began_at.saturating_add(after).max(now + STEP);
        self.next_step_at = due_at.min(over_at.max(now));
    }

    /// A step was made. Where it has left something that is due, it goes on at once.
    pub(super) fn stepped(&mut self, goes_on: bool, now: Duration) {
        self.next_step_at = if goes_on { now } else { now + STEP };
    }
}
