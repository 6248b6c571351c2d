//! How long a command waits before it reconnects.

use std::time::Duration;

/// The wait until the server names another one (the HTML standard leaves it to the client).
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// The shortest wait, although the server may ask for less: `retry: 0` must not keep both sides busy.
const LEAST: Duration = Duration::from_millis(100);

/// The longest wait that a server can ask for.
const MOST: Duration = Duration::from_secs(3600);

/// The longest wait that comes from doubling alone.
const MOST_DOUBLED: Duration = Duration::from_secs(60);

/// The wait that the server asks for, doubled for each reconnect in a row without an event.
#[derive(Debug)]
pub(crate) struct BackOff {
    retry: Duration,
    fruitless: u32,
}

impl Default for BackOff {
    fn default() -> BackOff {
        BackOff { retry: FIRST_RETRY, fruitless: 0 }
    }
}

impl BackOff {
    /// The server asks for this wait.
    pub(crate) fn set_retry(&mut self, retry: Duration) {
        self.retry = retry.clamp(LEAST, MOST);
    }

    /// An event has come.
    pub(crate) fn has_succeeded(&mut self) {
        self.fruitless = 0;
    }

    /// The wait before the next try. `retry_after` is the wait that a refusal asks for.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let doubled =
            self.retry.saturating_mul(1 << self.fruitless.min(16)).min(MOST_DOUBLED).max(self.retry);
        self.fruitless = self.fruitless.saturating_add(1);
        doubled.max(retry_after.unwrap_or_default().min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_neither_hurry_nor_stop_the_command() {
        let mut back_off = BackOff::default();
        back_off.set_retry(Duration::ZERO);
        let waits: Vec<Duration> = (0..12).map(|_| back_off.next(None)).collect();
        assert_eq!((waits[0], waits[1], waits[11]), (LEAST, 2 * LEAST, MOST_DOUBLED));
        back_off.has_succeeded();
        assert_eq!(back_off.next(None), LEAST);
        back_off.set_retry(Duration::from_millis(u64::MAX));
        assert_eq!((0..100).map(|_| back_off.next(None)).max(), Some(MOST));
    }

    #[test]
    fn a_refusal_names_its_own_wait() {
        let mut back_off = BackOff::default();
        assert_eq!(back_off.next(Some(Duration::from_secs(9))), Duration::from_secs(9));
        assert_eq!(back_off.next(Some(Duration::from_secs(u64::MAX))), MOST);
    }
}
