//! The one place that reads the time. All times are nanoseconds on CLOCK_MONOTONIC, because that is what
//! travels inside the events and has to mean the same in every thread.

use std::time::Duration;

use crate::sys;

/// A second in the unit of this module.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// A millisecond in the unit of this module.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// Now.
pub(crate) fn now() -> u64 {
    sys::monotonic_ns()
}

/// Sleeps until a time, or until Ctrl-C.
pub(crate) fn sleep_until(when: u64) {
    while now() < when && !sys::interrupted() {
        sys::sleep_until_ns(when);
    }
}

/// A duration in the unit of this module.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

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
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("`{text}`: {error}"))
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
        for wrong in ["", "s", "1 week", "-1s"] {
            assert!(parse_duration(wrong).unwrap_err().contains("250ms"), "{wrong}");
        }
    }
}
