//! Whether several messages of a subject can be asked for at once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// After a server that took too long, so long none is asked.
const REST: Duration = Duration::from_secs(5);

/// Subjects with a message that the client library cannot read, which are remembered.
const MOST_SUBJECTS: usize = 1024;

/// Whether [`crate::api::Api::run`] can be used.
#[derive(Default)]
pub(crate) struct Runs {
    /// The stream has the setting `allow_direct`.
    is_direct: AtomicBool,
    /// The connection over which a server has answered that does not give several messages at once. Numbers
    /// of connections begin with 1.
    unsupported: AtomicU64,
    /// A server takes too long: none is asked before this time. NATS chooses the server, and the next time it
    /// may choose the same.
    rests_until: Mutex<Option<Instant>>,
    /// The client library gives up the connection over some messages. Of each subject, the number of the last
    /// one that is known.
    unreadable: Mutex<HashMap<String, u64>>,
    /// There are too many such subjects.
    is_overrun: AtomicBool,
}

impl Runs {
    pub(crate) fn set_direct(&self, is_direct: bool) {
        self.is_direct.store(is_direct, Ordering::Relaxed);
    }

    /// Whether a run of this subject may be asked for over this connection, from this number on.
    pub(crate) fn may_ask(&self, subject: &str, from: u64, generation: Option<u64>) -> bool {
        self.is_direct.load(Ordering::Relaxed)
            && !self.is_overrun.load(Ordering::Relaxed)
            && generation.is_some_and(|generation| generation != self.unsupported.load(Ordering::Relaxed))
            && lock(&self.rests_until).is_none_or(|time| time <= Instant::now())
            && lock(&self.unreadable).get(subject).is_none_or(|number| *number < from)
    }

    /// The server to which this connection goes, or one behind it, does not give several at once.
    pub(crate) fn note_unsupported(&self, generation: u64) {
        self.unsupported.store(generation, Ordering::Relaxed);
    }

    /// The server that was asked takes too long: it may be stopped or away, and others are not.
    pub(crate) fn note_late(&self) {
        *lock(&self.rests_until) = Some(Instant::now() + REST);
    }

    /// The client library cannot read this message.
    pub(crate) fn note_unreadable(&self, subject: &str, number: u64) {
        let mut unreadable = lock(&self.unreadable);
        if let Some(last) = unreadable.get_mut(subject) {
            *last = number.max(*last);
        } else if unreadable.len() < MOST_SUBJECTS {
            unreadable.insert(subject.to_owned(), number);
        } else {
            self.is_overrun.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_asked_for_where_they_do_no_harm() {
        let runs = Runs::default();
        assert!(!runs.may_ask("a", 1, Some(1)));
        runs.set_direct(true);
        assert!(runs.may_ask("a", 1, Some(1)));
        assert!(!runs.may_ask("a", 1, None));
        runs.note_unsupported(1);
        assert!(!runs.may_ask("a", 1, Some(1)));
        assert!(runs.may_ask("a", 1, Some(2)));
        runs.note_unreadable("a", 7);
        runs.note_unreadable("a", 5);
        assert!(!runs.may_ask("a", 7, Some(2)));
        assert!(runs.may_ask("a", 8, Some(2)));
        assert!(runs.may_ask("b", 1, Some(2)));
        runs.note_late();
        assert!(!runs.may_ask("b", 1, Some(2)));
        *lock(&runs.rests_until) = Some(Instant::now());
        assert!(runs.may_ask("b", 1, Some(2)));
        for number in 0..MOST_SUBJECTS {
            runs.note_unreadable(&number.to_string(), 1);
        }
        assert!(!runs.may_ask("b", 1, Some(2)));
    }
}
