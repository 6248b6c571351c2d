//! Time. Everything else in the project takes `now` as an argument; it comes from here.

use std::time::{Duration, Instant, SystemTime};

/// A monotonic clock that starts at zero. The only reader of the machine's clock in the engine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    #[cfg(feature = "sim")]
    by_hand: bool,
}

#[cfg(feature = "sim")]
thread_local! {
    /// What clocks that are driven by hand show on this thread.
    static HAND: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

impl Clock {
    /// A clock that shows zero now. Copies of it agree.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // This is the one place.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            #[cfg(feature = "sim")]
            by_hand: false,
        }
    }

    /// A clock that shows this much now: for a log that has events from before the process began.
    #[must_use]
    pub fn start_at(shown: Duration) -> Self {
        let mut clock = Self::start();
        // The system's clock can show times before the machine was started.
        clock.start = clock.start.checked_sub(shown).unwrap_or(clock.start);
        clock
    }

    /// The time since the start. Never goes back.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // This is the one place.
    pub fn now(&self) -> Duration {
        #[cfg(feature = "sim")]
        if self.by_hand {
            return HAND.get();
        }
        Instant::now().saturating_duration_since(self.start)
    }

    /// The date, for people and for HTTP: not before 1970, and set by others, so it may go back.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // This is the one place.
    pub fn date(&self) -> SystemTime {
        #[cfg(feature = "sim")]
        if self.by_hand {
            return SystemTime::UNIX_EPOCH + Clock::HAND_DATE + HAND.get();
        }
        SystemTime::now().max(SystemTime::UNIX_EPOCH)
    }
}

#[cfg(feature = "sim")]
#[doc(hidden)]
impl Clock {
    /// When clocks that are driven by hand show zero: at the beginning of 2020.
    pub const HAND_DATE: Duration = Duration::from_secs(1_577_836_800);

    /// A clock that shows what the calling thread has said last by [`Clock::set_hand`].
    pub fn by_hand() -> Self {
        Self { by_hand: true, ..Self::start() }
    }

    /// Sets all clocks of this thread that are driven by hand.
    pub fn set_hand(now: Duration) {
        HAND.set(now);
    }
}

/// The processor time that the calling thread has used, in user space and in the kernel
/// (`CLOCK_THREAD_CPUTIME_ID`). What interrupts took while it ran is partly in it.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to, and the clock exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    debug_assert_eq!(result, 0, "the thread's own CPU clock can be read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_start_later_than_the_machine() {
        let year = Duration::from_secs(365 * 24 * 3600);
        let shown = Clock::start_at(year).now();
        assert!((year..year + Duration::from_secs(60)).contains(&shown), "{shown:?}");
    }

    #[test]
    fn the_clock_starts_at_zero_and_never_goes_back() {
        let clock = Clock::start();
        let mut last = clock.now();
        assert!(last < Duration::from_secs(1));
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn cpu_time_grows_with_work_and_not_with_sleep() {
        let before = thread_cpu_time();
        std::thread::sleep(Duration::from_millis(50));
        let slept = thread_cpu_time() - before;
        assert!(slept < Duration::from_millis(40), "sleep cost {slept:?}");

        let clock = Clock::start();
        let mut sum = 0_u64;
        while clock.now() < Duration::from_millis(20) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        std::hint::black_box(sum);
        assert!(thread_cpu_time() - before > slept);
    }
}
