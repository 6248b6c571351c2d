//! A line of the log for each publish that was refused, with its client, its subject and the reason. A flood
//! of refusals makes a few lines a second, and a count of the lines that were left out. And a line for each
//! rebalance, which is rare.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare::{Rate, RateLimiter, Share};
use tokio::time::Instant;

/// Lines a second.
const LINES: u64 = 2;

/// Lines that may come at once.
const BURST: u64 = 20;

/// The name by which the filter of the log knows these lines.
const TARGET: &str = "fanfare::audit";

/// Why a request was refused, for the log. It is an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct RefusalDetail(pub(super) String);

/// Writes the lines.
#[derive(Debug)]
pub(crate) struct Audit {
    lines: RateLimiter,
    began_at: Instant,
    left_out: AtomicU64,
}

impl Default for Audit {
    fn default() -> Audit {
        Audit { lines: RateLimiter::new(), began_at: Instant::now(), left_out: AtomicU64::new(0) }
    }
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
        let time = now.saturating_duration_since(self.began_at);
        // One bucket for all lines.
        let key = self.lines.key_of_text("");
        if self.lines.take(key, 1, Rate::new(LINES, BURST), time).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// Streams are ended by a rebalance. Without a client, the admin listener was asked.
pub(super) fn rebalance(
    share: Share,
    window: Duration,
    streams: u64,
    subject: Option<&str>,
    client: Option<IpAddr>,
) {
    let client = client.map(|address| address.to_string());
    // Text of a client is escaped.
    let subject = subject.map(|subject| subject.escape_debug().to_string());
    tracing::info!(
        target: TARGET,
        %share,
        ?window,
        streams,
        subject,
        client,
        "a share of the streams is ended by request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time that buys one more line.
    const PER_LINE: Duration = Duration::from_millis(1000 / LINES);

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
        assert_eq!(lines as u64, BURST);
    }
}
