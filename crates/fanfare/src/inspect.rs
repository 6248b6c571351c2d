//! Questions about topics: one topic, or a page of all of them; and about [`connections`].
//!
//! The log says which topics there are, and what is retained of them. Each shard keeps the counts of its own
//! subscribers up to date, so that a question costs it a look-up for each topic. One question of each kind
//! is under way at a time in a process, so that questions do not add up to work that holds up delivery, and
//! short ones about topics do not wait for long ones about connections.

pub(crate) mod connections;

use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use fanfare_proto::event::Topic;

use crate::counts::TopicCounts;
use crate::hub::Hub;
use crate::shard_thread;

/// Some of the topics, in an order that stays the same while topics come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicsPage {
    /// At most as many as were asked for. Fewer do not mean that these are the last.
    pub topics: Vec<TopicCounts>,
    /// What to give to [`Hub::topics_page`] for the topics after these; `None` behind the last one.
    pub next: Option<u64>,
}

/// Topics whose counts are looked up under one hold of the log's lock.
const TOPICS_AT_ONCE: usize = 64;

/// Why a question about topics or connections has no answer. Parts of an answer are never given for the
/// whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InspectError {
    /// A shard did not answer in time, has no room for the question, or other questions take too long. Try
    /// again in a second.
    Busy,
    /// The engine drains or has stopped.
    Stopped,
    /// The calling thread is a shard, where an [`crate::Admission`] runs: it would wait for its own answer.
    /// Ask on a thread of your own.
    WouldBlock,
}

impl Hub {
    /// The counts of one topic; `None` if it has neither subscribers nor retained events. Blocks until every
    /// shard has answered, for at most `patience`.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try. On a shard's thread it is always `WouldBlock`.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn topic(&self, topic: &Topic, patience: Duration) -> Result<Option<TopicCounts>, InspectError> {
        let counts = self.counts_of(vec![topic.clone()], patience)?.pop();
        Ok(counts.filter(|counts| counts.subscribers > 0 || counts.retained > 0))
    }

    /// The counts of at most `limit` topics that have subscribers or retained events: the first ones, or
    /// the ones that follow a page (see [`TopicsPage::next`]). Blocks until every shard has
    /// answered, for at most `patience`.
    ///
    /// A topic that exists while all pages are read is on exactly one of them. A page may be empty although
    /// others follow: the last one is the one without a next.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try. On a shard's thread it is always `WouldBlock`.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn topics_page(
        &self,
        after: Option<u64>,
        limit: usize,
        patience: Duration,
    ) -> Result<TopicsPage, InspectError> {
        let (topics, next) = self.log().lock_even_if_broken().topics_page(after, limit.max(1));
        let mut topics = self.counts_of(topics, patience)?;
        // A topic that only readers in the process read has neither.
        topics.retain(|counts| counts.subscribers > 0 || counts.retained > 0);
        Ok(TopicsPage { topics, next })
    }

    /// The sum of every shard's answer, or none.
    pub(crate) fn counts_of(
        &self,
        topics: Vec<Topic>,
        patience: Duration,
    ) -> Result<Vec<TopicCounts>, InspectError> {
        if shard_thread::is_current() {
            return Err(InspectError::WouldBlock);
        }
        let deadline = self.now().saturating_add(patience);
        let _permit = self.inspections().topics.take(patience).ok_or(InspectError::Busy)?;
        // All shards are asked before the first answer is waited for.
        let asked: Vec<Asked> = self.ask(&topics).collect::<Result<_, _>>()?;
        let mut sums = vec![(0, 0); topics.len()];
        for asked in asked {
            let counts = asked.wait(deadline.saturating_sub(self.now()))?;
            for (sum, counts) in sums.iter_mut().zip(counts) {
                *sum = (sum.0 + counts.0, sum.1 + counts.1);
            }
        }
        let mut sums = topics.into_iter().zip(sums);
        let mut counts = Vec::with_capacity(sums.len());
        // Publishers and shards take the lock between the pieces.
        while sums.len() > 0 {
            let log = self.log().lock_even_if_broken();
            let piece = sums.by_ref().take(TOPICS_AT_ONCE);
            counts.extend(
                piece.map(|(topic, (subscribers, laggards))| log.topic_counts(topic, subscribers, laggards)),
            );
        }
        Ok(counts)
    }
}

/// Streams, and laggards among them, that read each topic.
pub(crate) type ReaderCounts = Vec<(usize, usize)>;

/// A question in a shard's mailbox: what it is about, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Inspection<Q = Vec<Topic>, A = ReaderCounts> {
    pub(crate) about: Q,
    answer: SyncSender<A>,
    wanted: Weak<()>,
}

/// What the asker has: the answer comes here. Once it is dropped, the question is not answered any more.
#[derive(Debug)]
#[allow(unreachable_pub)] // Simulations are given it.
pub struct Asked<A = ReaderCounts> {
    answer: Receiver<A>,
    _wanted: Arc<()>,
}

impl<Q, A> Inspection<Q, A> {
    pub(crate) fn new(about: Q) -> (Inspection<Q, A>, Asked<A>) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let wanted = Arc::new(());
        let asked = Asked { answer: receiver, _wanted: Arc::clone(&wanted) };
        (Inspection { about, answer: sender, wanted: Arc::downgrade(&wanted) }, asked)
    }

    /// Whether the asker still waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    /// Gives the answer.
    pub(crate) fn answer(&self, answer: A) {
        // The asker may have stopped waiting.
        let _ = self.answer.try_send(answer);
    }
}

impl<A> Asked<A> {
    fn wait(&self, patience: Duration) -> Result<A, InspectError> {
        self.answer.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => InspectError::Busy,
            RecvTimeoutError::Disconnected => InspectError::Stopped,
        })
    }

    /// The answer, if it has come. About topics: streams, and laggards among them, that read each.
    ///
    /// # Errors
    /// It has not come yet, or the shard has ended.
    #[allow(dead_code, unreachable_pub)] // Simulations and models ask for it.
    pub fn try_recv(&self) -> Result<A, TryRecvError> {
        self.answer.try_recv()
    }
}

/// The permits to ask the shards, one for each kind of question.
#[derive(Default)]
pub(crate) struct InspectionPermits {
    pub(crate) topics: KindPermits,
    pub(crate) connections: KindPermits,
}

/// Permits for one kind of question: there is one at a time.
#[derive(Default)]
pub(crate) struct KindPermits {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// The permit to ask, until it is dropped.
struct InspectionPermit<'permits>(&'permits KindPermits);

impl KindPermits {
    /// Waits for the permit, at most this long.
    fn take(&self, patience: Duration) -> Option<InspectionPermit<'_>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(taken, patience, |taken| *taken);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && *taken {
            return None;
        }
        *taken = true;
        Some(InspectionPermit(self))
    }
}

impl Drop for InspectionPermit<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.notify_one();
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InspectError::Busy => "the shards are too busy to count; try again in a second",
            InspectError::Stopped => "the engine is shutting down",
            InspectError::WouldBlock => "a shard's thread cannot wait for the shards; ask on another thread",
        })
    }
}

impl std::error::Error for InspectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permit_of_a_kind_is_given_to_one_at_a_time() {
        let permits = InspectionPermits::default();
        let first = permits.connections.take(Duration::ZERO);
        assert!(first.is_some() && permits.connections.take(Duration::ZERO).is_none());
        // Another kind does not wait for it.
        assert!(permits.topics.take(Duration::ZERO).is_some());
        drop(first);
        assert!(permits.connections.take(Duration::ZERO).is_some());
    }
}
