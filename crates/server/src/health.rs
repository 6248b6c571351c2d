//! Health checks. A shard answers `/health/live` and `/health/ready` itself: in the control plane a check
//! would wait behind all other requests, also behind a flood. A check on a connection that the control plane
//! has already, or with another request behind it, gets the same answer there.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use fanfare::Answer;
use tokio::time::Instant;

/// How often the control plane shows that it is alive.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// A control plane that was silent for so long does not recover by itself: none of its tasks keeps its thread
/// for a second.
const SILENCE: Duration = Duration::from_secs(30);

/// What a server knows of the log that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SharedLogState {
    /// It has everything that is in the log, or there is no such log.
    CaughtUp,
    /// The log can be reached, and this server has not read all of it.
    Behind,
    /// The log cannot be reached.
    Unreachable,
}

impl SharedLogState {
    /// Why the server takes no newcomers.
    fn reason(self) -> Option<&'static str> {
        match self {
            SharedLogState::CaughtUp => None,
            SharedLogState::Behind => Some("this server has not caught up with the shared log\n"),
            SharedLogState::Unreachable => Some("the shared log cannot be reached\n"),
        }
    }
}

/// The state on which the answers depend.
pub(crate) struct Health {
    started: Instant,
    draining: AtomicBool,
    /// The durable log has failed.
    has_no_store: AtomicBool,
    /// A [`SharedLogState`].
    shared_log: AtomicU8,
    /// When the control plane showed last that it is alive, in milliseconds after the start.
    control_beat: AtomicU64,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health {
            started: Instant::now(),
            draining: AtomicBool::new(false),
            has_no_store: AtomicBool::new(false),
            shared_log: AtomicU8::new(SharedLogState::CaughtUp as u8),
            control_beat: AtomicU64::new(0),
        }
    }

    /// Called by the control plane every [`BEAT`].
    pub(crate) fn beat(&self) {
        self.beat_at(self.started.elapsed());
    }

    /// The server takes no newcomers from now on.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The durable log takes no more events, so publishers belong elsewhere.
    pub(crate) fn lose_store(&self) {
        self.has_no_store.store(true, Ordering::Relaxed);
    }

    /// Notes what is known of the log that servers share.
    pub(crate) fn set_shared_log(&self, state: SharedLogState) {
        self.shared_log.store(state as u8, Ordering::Relaxed);
    }

    fn shared_log(&self) -> SharedLogState {
        let state = self.shared_log.load(Ordering::Relaxed);
        let all = [SharedLogState::CaughtUp, SharedLogState::Behind, SharedLogState::Unreachable];
        all.into_iter().find(|one| *one as u8 == state).unwrap_or(SharedLogState::Unreachable)
    }

    /// Whether the control plane has shown itself lately.
    pub(crate) fn is_live(&self) -> bool {
        !self.is_silent_at(self.started.elapsed())
    }

    fn is_silent_at(&self, now: Duration) -> bool {
        let silence = milliseconds(now).saturating_sub(self.control_beat.load(Ordering::Relaxed));
        u128::from(silence) >= SILENCE.as_millis()
    }

    fn beat_at(&self, now: Duration) {
        self.control_beat.store(milliseconds(now), Ordering::Relaxed);
    }

    /// The answer to a `GET` or `HEAD` of this path; `None`: it is no health check.
    pub(crate) fn answer(&self, path: &str) -> Option<Answer> {
        self.answer_at(path, || self.started.elapsed())
    }

    /// Whether the server takes newcomers.
    pub(crate) fn is_ready(&self) -> bool {
        self.answer("/health/ready").is_some_and(|answer| answer.status() == 200)
    }

    fn answer_at(&self, path: &str, now: impl FnOnce() -> Duration) -> Option<Answer> {
        let word = match path {
            "/health/live" => "live\n",
            "/health/ready" => "ready\n",
            _ => return None,
        };
        Some(if self.is_silent_at(now()) {
            Answer::new(503, "the control plane does not answer\n")
        } else if word == "ready\n" && self.draining.load(Ordering::Relaxed) {
            Answer::new(503, "draining\n")
        } else if word == "ready\n" && self.has_no_store.load(Ordering::Relaxed) {
            Answer::new(503, "the durable log has failed\n")
        } else if word == "ready\n"
            && let Some(reason) = self.shared_log().reason()
        {
            Answer::new(503, reason)
        } else {
            Answer::new(200, word)
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(health: &Health, now: Duration) -> [(u16, String); 2] {
        ["/health/live", "/health/ready"].map(|path| {
            let answer = health.answer_at(path, || now).unwrap();
            (answer.status(), answer.text().to_owned())
        })
    }

    #[test]
    fn a_draining_server_is_alive_and_not_ready() {
        let health = Health::new();
        assert!(health.answer("/health").is_none() && health.answer("/events").is_none());
        let fine = [(200, "live\n".to_owned()), (200, "ready\n".to_owned())];
        assert_eq!(answers(&health, Duration::ZERO), fine);
        health.begin_drain();
        let draining = [(200, "live\n".to_owned()), (503, "draining\n".to_owned())];
        assert_eq!(answers(&health, Duration::ZERO), draining);
    }

    #[test]
    fn without_its_durable_log_a_server_is_alive_and_not_ready() {
        let health = Health::new();
        health.lose_store();
        let expected = [(200, "live\n".to_owned()), (503, "the durable log has failed\n".to_owned())];
        assert_eq!(answers(&health, Duration::ZERO), expected);
    }

    #[test]
    fn a_server_is_ready_when_it_has_caught_up_with_the_shared_log() {
        let health = Health::new();
        let ready = |state| {
            health.set_shared_log(state);
            answers(&health, Duration::ZERO)
        };
        let live = (200, "live\n".to_owned());
        for (state, status, text) in [
            (SharedLogState::Behind, 503, "this server has not caught up with the shared log\n"),
            (SharedLogState::Unreachable, 503, "the shared log cannot be reached\n"),
            (SharedLogState::CaughtUp, 200, "ready\n"),
        ] {
            assert_eq!(ready(state), [live.clone(), (status, text.to_owned())]);
        }
    }

    #[test]
    fn a_silent_control_plane_makes_the_server_unhealthy_until_it_shows_itself() {
        let health = Health::new();
        let statuses = |now| answers(&health, now).map(|(status, _)| status);
        assert_eq!(statuses(SILENCE - BEAT), [200, 200]);
        assert_eq!(statuses(SILENCE), [503, 503]);
        health.beat_at(SILENCE);
        assert_eq!(statuses(SILENCE), [200, 200]);
        assert_eq!(statuses(2 * SILENCE), [503, 503]);
    }
}
