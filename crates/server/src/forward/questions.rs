//! Which questions are asked when: equal ones once, a bounded number at a time, the others in the turns of
//! their clients.
//!
//! [`Questions`] does no IO and reads no clock. Its inputs are [`Questions::add`] for a request,
//! [`Questions::settle`] for an answer, and [`Questions::tick`] now and then; its output is
//! [`Questions::next`], which names the next question to send.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use fanfare::bound_for;

use super::answer::{Answer, Failure};
use super::cache::AnswerCache;
use super::question::{Question, QuestionKey};
use super::settled::Settled;
use super::{WAITING_BYTES, Waiter};
use crate::turns::{ClientKey, TurnBounds, TurnOf, Turns};

/// The most requests that wait for an answer.
const MAX_WAITERS: usize = 16_384;

/// The most different questions that wait for their turn. One client has a share; beyond it this client is
/// answered 503, and others are not. What they take is counted with the requests that wait for them
/// ([`super::Forward::ask`]).
const QUEUED: TurnBounds = TurnBounds { items: 4_096, bytes: usize::MAX, shares: 4 };

/// Of the requests that wait for an answer, and of their memory, one client has one part of so many: requests
/// with equal questions need no place in the queue, and one client with thousands of them left no room for
/// others.
const SHARES: usize = 4;

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
    waiting: Waiting,
    cache: AnswerCache,
    most_sent: usize,
    cache_for: Option<Duration>,
    timeout: Duration,
}

struct Open<W> {
    question: Arc<Question>,
    waiters: Vec<OfClient<W>>,
    /// When the first request came.
    since: Duration,
    is_sent: bool,
}

/// A request that waits, with what it takes of the share of its client.
struct OfClient<W> {
    request: W,
    bytes: usize,
    /// `None`: it is the operator's, who has no share but the reserve.
    client: Option<Option<ClientKey>>,
}

impl<W: Waiter> OfClient<W> {
    fn is_wanted(&self) -> bool {
        self.request.is_wanted()
    }
}

/// How many requests wait, in all and of each client.
#[derive(Default)]
struct Waiting {
    requests: usize,
    of_clients: HashMap<Option<ClientKey>, Share>,
}

/// What waits of one client.
#[derive(Default)]
struct Share {
    requests: usize,
    bytes: usize,
}

impl Waiting {
    /// Whether one more may wait, which takes so much memory. The bound of the memory of all is met before
    /// ([`super::Forward::ask`]).
    fn has_room(&self, of: TurnOf, bytes: usize) -> bool {
        let has_share = || {
            self.of_clients.get(&of.key).is_none_or(|share| {
                share.requests < MAX_WAITERS / SHARES && share.bytes + bytes <= WAITING_BYTES / SHARES
            })
        };
        self.requests < bound_for(of.is_operator, MAX_WAITERS) && (of.is_operator || has_share())
    }

    fn add<W>(&mut self, waiter: &OfClient<W>) {
        self.requests += 1;
        if let Some(client) = waiter.client {
            let share = self.of_clients.entry(client).or_default();
            share.requests += 1;
            share.bytes += waiter.bytes;
        }
    }

    fn remove<W>(&mut self, waiter: &OfClient<W>) {
        self.requests -= 1;
        if let Some(client) = waiter.client
            && let Entry::Occupied(mut entry) = self.of_clients.entry(client)
        {
            let share = entry.get_mut();
            share.requests -= 1;
            share.bytes -= waiter.bytes;
            if share.requests == 0 {
                entry.remove();
            }
        }
    }
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
            waiting: Waiting::default(),
            cache: AnswerCache::default(),
            most_sent,
            cache_for,
            timeout,
        }
    }

    /// A request has come, which takes so much memory while it waits. It is answered from the cache, waits
    /// with equal ones, or is a new question.
    pub(super) fn add(&mut self, question: Question, waiter: W, bytes: usize, now: Duration) {
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
        let of = question.of();
        // A tick makes room where clients have left.
        if !self.waiting.has_room(of, bytes) || (is_new && self.queue.push(of, key, 0).is_err()) {
            waiter.decide(&failed(Failure::Busy));
            return;
        }
        let waiter = OfClient { request: waiter, bytes, client: (!of.is_operator).then_some(of.key) };
        self.waiting.add(&waiter);
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
            if !open.waiters.iter().any(OfClient::is_wanted) {
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
                waiter.request.decide(&settled);
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

    /// Forgets requests whose clients have left, and questions that no request waits for and that are not
    /// sent.
    fn forget_unwanted(&mut self) {
        let waiting = &mut self.waiting;
        self.open.retain(|_, open| {
            for left in open.waiters.extract_if(.., |waiter| !waiter.is_wanted()) {
                waiting.remove(&left);
            }
            open.is_sent || !open.waiters.is_empty()
        });
        let open = &self.open;
        self.queue.retain(|key| open.get(key).is_some_and(|open| !open.is_sent));
    }

    fn fail(&mut self, key: &QuestionKey, failure: Failure) {
        if let Some(open) = self.remove(key) {
            let settled = failed(failure);
            for waiter in open.waiters {
                waiter.request.decide(&settled);
            }
        }
    }

    fn remove(&mut self, key: &QuestionKey) -> Option<Open<W>> {
        let open = self.open.remove(key)?;
        open.waiters.iter().for_each(|waiter| self.waiting.remove(waiter));
        Some(open)
    }
}

pub(super) fn failed(failure: Failure) -> Settled {
    Settled { answer: Answer::Failed(failure), asked_unix_s: 0 }
}
