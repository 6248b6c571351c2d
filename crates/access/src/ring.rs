//! The keys in use now. They change while tokens are verified: by a reload, or when a JWK Set was fetched.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::keys::{Key, KeySet};

/// The keys in use: fixed keys, and the keys of a JWK Set that a [`crate::JwksFetcher`] keeps up to date.
#[derive(Debug, Default)]
pub struct KeyRing {
    parts: Mutex<Parts>,
    current: RwLock<Arc<Generation>>,
    /// How many tokens had a `kid` that no key has.
    unknown_kids: AtomicU64,
    /// One of the three states above.
    fetching: AtomicU8,
    /// Wakes the fetcher of the ring, if there is one.
    signal: RwLock<Option<Arc<Signal>>>,
}

#[derive(Debug, Default)]
struct Parts {
    fixed: KeySet,
    fetched: KeySet,
}

/// Whether fetched keys are there.
const NOT_FETCHED: u8 = 0;
const AWAITED: u8 = 1;
const FETCHED: u8 = 2;

/// Keys, and a number that is another one whenever the keys change.
#[derive(Debug, Default)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) keys: KeySet,
}

impl KeyRing {
    /// A ring without keys: it accepts no token.
    pub fn new() -> KeyRing {
        KeyRing::default()
    }

    /// A ring with these keys.
    pub fn of(keys: KeySet) -> KeyRing {
        let ring = KeyRing::new();
        ring.set_fixed(keys);
        ring
    }

    /// A ring with this one key.
    pub fn of_key(key: Key) -> KeyRing {
        let ring = KeyRing::new();
        ring.change(|parts| parts.fixed = KeySet::new(vec![key]).unwrap_or_default());
        ring
    }

    /// Replaces the fixed keys, as a reload does. The fetched ones stay.
    pub fn set_fixed(&self, keys: KeySet) {
        self.change(|parts| parts.fixed = keys);
    }

    /// Replaces the fetched keys.
    pub fn set_fetched(&self, keys: KeySet) {
        self.change(|parts| parts.fetched = keys);
        self.fetching.store(FETCHED, Ordering::Release);
    }

    /// The fixed keys.
    pub fn fixed(&self) -> KeySet {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).fixed.clone()
    }

    /// The fetched keys. `None`: no fetch has succeeded.
    pub fn fetched(&self) -> Option<KeySet> {
        let is_there = self.fetching.load(Ordering::Acquire) == FETCHED;
        is_there.then(|| self.parts.lock().unwrap_or_else(PoisonError::into_inner).fetched.clone())
    }

    /// Whether keys are fetched for this ring, and no fetch has succeeded yet.
    pub fn awaits_keys(&self) -> bool {
        self.fetching.load(Ordering::Acquire) == AWAITED
    }

    /// A number that is another one whenever the keys changed.
    pub fn generation(&self) -> u64 {
        self.current().number
    }

    /// The keys, as they are now.
    pub fn keys(&self) -> KeySet {
        self.current().keys.clone()
    }

    /// How many tokens had a `kid` that no key has.
    pub fn unknown_kids(&self) -> u64 {
        self.unknown_kids.load(Ordering::Relaxed)
    }

    pub(crate) fn current(&self) -> Arc<Generation> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a `kid` that no key has: where keys are fetched, they are fetched again soon.
    pub(crate) fn note_unknown_kid(&self) {
        self.unknown_kids.fetch_add(1, Ordering::Relaxed);
        if let Some(signal) = &*self.signal.read().unwrap_or_else(PoisonError::into_inner) {
            signal.ask();
        }
    }

    /// Notes whom to ask from now on. The fetcher before it is not asked any more.
    pub(crate) fn set_signal(&self, signal: Arc<Signal>) {
        *self.signal.write().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        // A first fetch may have succeeded already.
        let _ = self.fetching.compare_exchange(NOT_FETCHED, AWAITED, Ordering::AcqRel, Ordering::Acquire);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let keys = parts.fixed.joined(&parts.fetched);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !current.keys.is_same(&keys) {
            *current = Arc::new(Generation { number: current.number + 1, keys });
        }
    }
}

/// Wakes the thread that fetches.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct SignalState {
    asked: bool,
    stopped: bool,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The time is over.
    TimedOut,
    /// A fetch was asked for.
    Asked,
    /// The thread is to end.
    Stopped,
}

impl Signal {
    /// Asks for a fetch. Many calls before the next fetch are one.
    pub(crate) fn ask(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.asked {
            state.asked = true;
            self.changed.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_all();
    }

    /// Runs `action`, unless the thread is to end. After [`Signal::stop`] it never runs.
    pub(crate) fn unless_stopped(&self, action: impl FnOnce()) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.stopped {
            action();
        }
    }

    /// Forgets what was asked before a fetch begins.
    pub(crate) fn begin(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked = false;
    }

    /// Waits, for the stop and, if `for_asking`, for a question, too.
    pub(crate) fn wait(&self, most: Duration, for_asking: bool) -> Waited {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |state: &mut SignalState| !(state.stopped || (for_asking && state.asked));
        let (state, _) =
            self.changed.wait_timeout_while(state, most, goes_on).unwrap_or_else(PoisonError::into_inner);
        match *state {
            SignalState { stopped: true, .. } => Waited::Stopped,
            SignalState { asked: true, .. } if for_asking => Waited::Asked,
            _ => Waited::TimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn many_questions_before_a_fetch_are_one() {
        let signal = Signal::default();
        for _ in 0..100 {
            signal.ask();
        }
        assert_eq!(
            signal.wait(Duration::ZERO, false),
            Waited::TimedOut,
            "a pause is not cut short by questions"
        );
        assert_eq!(signal.wait(LONG, true), Waited::Asked);
        signal.begin();
        assert_eq!(signal.wait(Duration::ZERO, true), Waited::TimedOut);
    }

    #[test]
    fn a_question_during_a_fetch_is_kept_for_the_next_one() {
        let signal = Signal::default();
        signal.begin();
        signal.ask();
        assert_eq!(signal.wait(LONG, true), Waited::Asked);
    }

    #[test]
    fn nothing_is_put_into_use_after_the_stop() {
        let signal = Signal::default();
        let mut count = 0;
        signal.unless_stopped(|| count += 1);
        signal.stop();
        signal.unless_stopped(|| count += 1);
        assert_eq!(count, 1);
        assert_eq!(signal.wait(LONG, false), Waited::Stopped);
    }
}
