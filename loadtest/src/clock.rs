//! The one place that reads the time. All times are nanoseconds on CLOCK_MONOTONIC, because that is what
//! travels inside the events and has to mean the same in every thread. Only the date of a report is the
//! calendar's.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

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
    date_of(sys::calendar_ns() / SECOND)
}

/// From seconds since 1970 to a date of the Gregorian calendar.
fn date_of(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day is the last one of its year; 1970 began 719,468 days
    // after the first March of year 0. An era is 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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

/// The longest duration that an option may have. A time of this clock is far enough from its end that adding several
/// of them does not overflow.
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
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date_of(seconds), date);
        }
    }

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
