//! Which questions are asked when: equal ones once, a bounded number at a time, the others in the turns of their clients.
//!
//! [`Questions`] does no IO and reads no clock. Its inputs are [`Questions::add`] for a request, [`Questions::settle`]
//! for an answer, and [`Questions::tick`] now and then; its output is [`Questions::next`], which names the next question
//! to send.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare::bound_for;

use super::Waiter;
use super::answer::{Answer, Failure};
use super::cache::AnswerCache;
use super::question::{Question, QuestionKey};
use super::settled::Settled;
use crate::turns::{TurnBounds, Turns};

/// The most requests that wait for an answer.
const MAX_WAITERS: usize = 16_384;

/// The most different questions that wait for their turn. One client has a share; beyond it this client is
/// answered 503, and others are not. What they take is counted with the requests that wait for them
/// ([`super::Forward::ask`]).
const QUEUED: TurnBounds = TurnBounds { items: 4_096, bytes: usize::MAX, shares: 4 };

/// The longest time for which a refusal is remembered: a user who signs in tries again at once.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// How long a question without a request that waits for it may go on: its answer may still help the next one.
const ABANDONED: Duration = Duration::from_millis(250);

/// The questions of one endpoint. `W` is a request that waits.
pub(super) struct Questions<W> {
    open: HashMap<QuestionKey, Open<W>>,
    /// Those that are not sent yet. Clients take turns, so that one with many questions delays its own.
    queue: Turns<QuestionKey>,
    /// How many are sent and have no answer.
    sent: usize,
    waiters: usize,
    cache: AnswerCache,
    most_sent: usize,
    cache_for: Option<Duration>,
    timeout: Duration,
}

struct Open<W> {
    question: Arc<Question>,
    waiters: Vec<W>,
    /// When the first request came.
    since: Duration,
    is_sent: bool,
}

/// A question that is to be sent, and when its answer has to be there.
pub(super) struct Sending {
    pub(super) key: QuestionKey,
    pub(super) question: Arc<Question>,
    pub(super) deadline: Duration,
}

/// What a tick found.
#[derive(Debug, Default)]
pub(super) struct Ticked {
    /// Questions that are sent and that no request waits for: they are to be given up.
    pub(super) abandoned: Vec<QuestionKey>,
}

impl<W: Waiter> Questions<W> {
    pub(super) fn new(most_sent: usize, cache_for: Option<Duration>, timeout: Duration) -> Questions<W> {
        Questions {
            open: HashMap::new(),
            queue: Turns::new(QUEUED),
            sent: 0,
            waiters: 0,
            cache: AnswerCache::default(),
            most_sent,
            cache_for,
            timeout,
        }
    }

    /// A request has come. It is answered from the cache, waits with equal ones, or is a new question.
    pub(super) fn add(&mut self, question: Question, waiter: W, now: Duration) {
        let key = question.key();
        if let Some(settled) = self.cache.get(&key, now) {
            if waiter.accepts(&settled) {
                waiter.decide(&settled);
                return;
            }
            // It was revoked since. The endpoint knows what holds now.
            self.cache.remove(&key);
        }
        let is_new = !self.open.contains_key(&key);
        let most_waiters = bound_for(question.of().is_operator, MAX_WAITERS);
        // A tick makes room where clients have left.
        if self.waiters >= most_waiters || (is_new && self.queue.push(question.of(), key, 0).is_err()) {
            waiter.decide(&failed(Failure::Busy));
            return;
        }
        self.waiters += 1;
        let open = self.open.entry(key).or_insert_with(|| Open {
            question: Arc::new(question),
            waiters: Vec::new(),
            since: now,
            is_sent: false,
        });
        open.waiters.push(waiter);
    }

    /// The next question to send, where one more may be sent. The last part of them is the operator's. The
    /// caller sends it, and calls [`Questions::settle`].
    pub(super) fn next(&mut self, now: Duration) -> Option<Sending> {
        while self.sent < self.most_sent {
            let is_public = self.sent < bound_for(false, self.most_sent);
            let key = if is_public { self.queue.pop()? } else { self.queue.pop_operators()? };
            let Some(open) = self.open.get_mut(&key) else { continue };
            if !open.waiters.iter().any(Waiter::is_wanted) {
                self.remove(&key);
                continue;
            }
            let deadline = open.since + self.timeout;
            if deadline <= now {
                self.fail(&key, Failure::TimedOut);
                continue;
            }
            open.is_sent = true;
            self.sent += 1;
            return Some(Sending { key, question: Arc::clone(&open.question), deadline });
        }
        None
    }

    /// A question that was sent is answered, failed, or given up: all requests that wait for it are decided.
    pub(super) fn settle(
        &mut self,
        key: &QuestionKey,
        settled: Settled,
        stored_bytes: Option<usize>,
        now: Duration,
    ) {
        self.sent -= 1;
        let settled = Arc::new(settled);
        let keep_for = match &settled.answer {
            Answer::Granted(_) => self.cache_for,
            Answer::Refused(..) => self.cache_for.map(|time| time.min(REFUSED_FOR)),
            Answer::Failed(_) => None,
        };
        if let (Some(keep_for), Some(bytes)) = (keep_for, stored_bytes) {
            self.cache.put(*key, &settled, bytes, now, now + keep_for);
        }
        if let Some(open) = self.remove(key) {
            for waiter in open.waiters {
                waiter.decide(&settled);
            }
        }
    }

    /// Answers what has waited for too long, and forgets requests whose clients have left.
    pub(super) fn tick(&mut self, now: Duration) -> Ticked {
        self.forget_unwanted();
        let late: Vec<QuestionKey> = self
            .queue
            .iter()
            .filter(|key| self.open.get(*key).is_some_and(|open| open.since + self.timeout <= now))
            .copied()
            .collect();
        for key in &late {
            self.fail(key, Failure::TimedOut);
        }
        if !late.is_empty() {
            let open = &self.open;
            self.queue.retain(|key| open.contains_key(key));
        }
        let is_abandoned =
            |open: &Open<W>| open.is_sent && open.waiters.is_empty() && open.since + ABANDONED <= now;
        let abandoned = self.open.iter().filter(|(_, open)| is_abandoned(open)).map(|(key, _)| *key);
        Ticked { abandoned: abandoned.collect() }
    }

    /// Whether requests wait.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Forgets requests whose clients have left, and questions that no request waits for and that are not sent.
    fn forget_unwanted(&mut self) {
        let mut waiters = 0;
        self.open.retain(|_, open| {
            open.waiters.retain(Waiter::is_wanted);
            waiters += open.waiters.len();
            open.is_sent || !open.waiters.is_empty()
        });
        self.waiters = waiters;
        let open = &self.open;
        self.queue.retain(|key| open.get(key).is_some_and(|open| !open.is_sent));
    }

    fn fail(&mut self, key: &QuestionKey, failure: Failure) {
        if let Some(open) = self.remove(key) {
            let settled = failed(failure);
            for waiter in open.waiters {
                waiter.decide(&settled);
            }
        }
    }

    fn remove(&mut self, key: &QuestionKey) -> Option<Open<W>> {
        let open = self.open.remove(key)?;
        self.waiters -= open.waiters.len();
        Some(open)
    }
}

pub(super) fn failed(failure: Failure) -> Settled {
    Settled { answer: Answer::Failed(failure), asked_unix_s: 0 }
}
