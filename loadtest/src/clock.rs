//! The one place that reads the time. All times are nanoseconds on CLOCK_MONOTONIC, because that is what
//! travels inside the events and has to mean the same in every thread. Only the date of a report is the
//! calendar's.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use crate::sys;

/// A second in the unit of this module.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// A millisecond in the unit of this module.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// What a test makes this machine's clock differ by: nanoseconds, how many it gains in a second, and since
/// when.
static AHEAD: AtomicI64 = AtomicI64::new(0);
static GAINS: AtomicI64 = AtomicI64::new(0);
static SINCE: AtomicU64 = AtomicU64::new(0);

/// For tests: from here on the clock is ahead, and gains millionths. To be called before anything else.
pub(crate) fn skew(ahead_ns: i64, gains_ppm: i64) {
    SINCE.store(sys::monotonic_ns(), Ordering::Relaxed);
    AHEAD.store(ahead_ns, Ordering::Relaxed);
    GAINS.store(gains_ppm * 1_000, Ordering::Relaxed);
}

/// Now.
pub(crate) fn now() -> u64 {
    let now = sys::monotonic_ns();
    let ahead = AHEAD.load(Ordering::Relaxed);
    match GAINS.load(Ordering::Relaxed) {
        0 => now.wrapping_add_signed(ahead),
        gains => {
            let since = i128::from(now.saturating_sub(SINCE.load(Ordering::Relaxed)));
            now.wrapping_add_signed(ahead + (since * i128::from(gains) / i128::from(SECOND)) as i64)
        }
    }
}

/// Date and time of now, UTC, as RFC 3339 has it.
pub(crate) fn utc() -> String {
    let since = Duration::from_secs(sys::calendar_ns() / SECOND);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// Sleeps until a time, or until Ctrl-C.
pub(crate) fn sleep_until(when: u64) {
    while now() < when && !sys::interrupted() {
        // The kernel's own clock, which a test does not change.
        let ahead = now().wrapping_sub(sys::monotonic_ns());
        let skewed = AHEAD.load(Ordering::Relaxed) != 0 || GAINS.load(Ordering::Relaxed) != 0;
        sys::sleep_until_ns(if skewed { when.wrapping_sub(ahead) } else { when });
    }
}

/// A duration in the unit of this module.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The longest duration that an option may have. A time of this clock is far enough from its end that adding
/// several of them does not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Parses `250ms`, `10s`, `2m`, `1h`, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "us" => 0.000_001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is no duration: write 250ms, 10s, 2m or 1h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is no duration: write 250ms, 10s, 2m or 1h"))?;
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("`{text}` is too long: a year at most"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("3").unwrap(), Duration::from_secs(3));
        assert_eq!(parse_duration("2m").unwrap(), Duration::from_secs(120));
        // The sum with the time of now overflowed, and a patience was over at once.
        assert!(parse_duration("8765h").unwrap_err().contains("a year at most"));
        for wrong in ["", "s", "1 week", "-1s"] {
            assert!(parse_duration(wrong).unwrap_err().contains("250ms"), "{wrong}");
        }
    }
}
