//! A line of the log for each publish that was refused, with its client, its subject and the reason. A flood of
//! refusals makes a few lines a second, and a count of the lines that were left out.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that may come at once.
const BURST: u32 = 20;

/// Time that buys one more line.
const PER_LINE: Duration = Duration::from_millis(500);

/// The name by which the filter of the log knows these lines.
const TARGET: &str = "fanfare::audit";

/// Why a request was refused, for the log. It is an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct RefusalDetail(pub(super) String);

/// Writes the lines.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that were written since there was room for a whole burst, less those that time has bought.
    used: u32,
    /// When a line was bought last.
    bought_at: Option<Instant>,
    left_out: u64,
}

impl Audit {
    /// A publish was refused.
    pub(super) fn refused(
        &self,
        status: u16,
        client: Option<IpAddr>,
        subject: Option<&str>,
        detail: Option<&RefusalDetail>,
    ) {
        let Some(left_out) = self.line_may_come(Instant::now()) else { return };
        let client = client.map(|address| address.to_string());
        // Text of a client is escaped.
        let subject = subject.map(|subject| subject.escape_debug().to_string());
        let reason = detail.map(|detail| detail.0.escape_debug().to_string());
        let left_out = (left_out > 0).then_some(left_out);
        tracing::warn!(target: TARGET, status, client, subject, reason, left_out, "a publish was refused");
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn line_may_come(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bought_at = state.bought_at.unwrap_or(now);
        let bought = now.saturating_duration_since(bought_at).as_millis() / PER_LINE.as_millis();
        let bought = u32::try_from(bought).unwrap_or(u32::MAX);
        state.bought_at = Some(match bought >= state.used {
            true => now,
            false => bought_at + bought * PER_LINE,
        });
        state.used = state.used.saturating_sub(bought);
        if state.used >= BURST {
            state.left_out += 1;
            return None;
        }
        state.used += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let (audit, begin) = (Audit::default(), Instant::now());
        let at = |time: Duration| audit.line_may_come(begin + time);
        for _ in 0..BURST {
            assert_eq!(at(Duration::ZERO), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(at(PER_LINE / 2), None);
        }
        assert_eq!((at(PER_LINE), at(PER_LINE)), (Some(1000), None));
        assert_eq!((at(3 * PER_LINE), at(3 * PER_LINE), at(3 * PER_LINE)), (Some(1), Some(0), None));
        // A whole burst is there again, and no more.
        let later = 1000 * PER_LINE;
        let lines = (0..2 * BURST).filter(|_| at(later).is_some()).count();
        assert_eq!(lines, BURST as usize);
    }
}
