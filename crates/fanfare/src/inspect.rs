//! Questions about topics: one topic, or a page of all of them.
//!
//! A question goes to every shard, in the order of its mail, and the answers are summed. One question of a
//! process is under way at a time, so that questions do not add up to work that holds up delivery. What one
//! of them costs a shard is bounded; see [`INSPECTED_AUDIENCES`].

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::Topic;

use crate::counts::TopicCounts;
use crate::hub::Hub;

/// Audiences that one shard counts for a page. A page ends early where its topics have more; a single topic
/// may.
pub(crate) const INSPECTED_AUDIENCES: usize = 4096;

/// Some of the topics, in an order that stays the same while topics come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicsPage {
    /// At most as many as were asked for. Fewer do not mean that these are the last.
    pub topics: Vec<TopicCounts>,
    /// What to give to [`Hub::topics_page`] for the topics after these; `None` behind the last one.
    pub next: Option<u64>,
}

/// Why a question about topics has no answer. Parts of an answer are never given for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectError {
    /// A shard did not answer in time, has no room for the question, or other questions take too long. Try
    /// again in a second.
    Busy,
    /// The engine drains or has stopped.
    Stopped,
}

impl Hub {
    /// The counts of one topic; `None` if it has neither subscribers nor retained events. Blocks until every
    /// shard has answered, for at most `patience`.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn topic(&self, topic: &Topic, patience: Duration) -> Result<Option<TopicCounts>, InspectError> {
        let answers = self.answers(&Question::Topic(topic.clone()), patience)?;
        let mut sum = BTreeMap::new();
        for answer in answers {
            add(&mut sum, answer, u64::MAX);
        }
        Ok(sum.into_values().next())
    }

    /// The counts of at most `limit` topics that have subscribers or retained events: the first ones, or
    /// the ones that follow a page (see [`TopicsPage::next`]). Blocks until every shard has
    /// answered, for at most `patience`.
    ///
    /// A topic that exists while all pages are read is on exactly one of them. No page is empty but the last
    /// one.
    ///
    /// # Errors
    /// [`InspectError`]. `Busy` is worth another try.
    ///
    /// # Panics
    /// As [`Hub::publish`].
    pub fn topics_page(
        &self,
        after: Option<u64>,
        limit: usize,
        patience: Duration,
    ) -> Result<TopicsPage, InspectError> {
        let limit = limit.max(1);
        let answers = self.answers(&Question::Page { after, limit }, patience)?;
        // Beyond the end of the shortest answer that is not complete, a topic may have readers that were not
        // counted.
        let cut = answers.iter().filter(|answer| answer.more);
        let end = cut.filter_map(|answer| answer.topics.last()).map(|(place, _)| *place).min();
        let mut sum = BTreeMap::new();
        for answer in answers {
            add(&mut sum, answer, end.unwrap_or(u64::MAX));
        }
        let mut topics: Vec<(u64, TopicCounts)> =
            sum.into_iter().map(|((place, _), counts)| (place, counts)).collect();
        let more = cut_to(&mut topics, limit) || end.is_some();
        let next = topics.last().map(|(place, _)| *place).filter(|_| more);
        Ok(TopicsPage { topics: topics.into_iter().map(|(_, counts)| counts).collect(), next })
    }

    /// Every shard's answer, or none.
    fn answers(&self, question: &Question, patience: Duration) -> Result<Vec<Answer>, InspectError> {
        let deadline = self.now().saturating_add(patience);
        let _turn = self.inspections().take(patience).ok_or(InspectError::Busy)?;
        let asked: Vec<Asked> = self.ask(question).collect::<Result<_, _>>()?;
        let answer = |asked: &Asked| asked.wait(deadline.saturating_sub(self.now()));
        asked.iter().map(answer).collect()
    }
}

/// Adds the counts of one shard to the sum, up to the place `end`.
fn add(sum: &mut BTreeMap<(u64, String), TopicCounts>, answer: Answer, end: u64) {
    for (place, counts) in answer.topics.into_iter().filter(|(place, _)| *place <= end) {
        let entry = sum.entry((place, counts.topic.clone())).or_default();
        let (subscribers, laggards) = (entry.subscribers, entry.laggards);
        *entry = TopicCounts {
            subscribers: subscribers + counts.subscribers,
            laggards: laggards + counts.laggards,
            ..counts
        };
    }
}

/// Cuts a list in the order of places to at most `limit`, never between two that share a place: the next page
/// begins behind a place. Says whether something was cut off.
pub(crate) fn cut_to<T>(list: &mut Vec<(u64, T)>, limit: usize) -> bool {
    let Some(&(cut, _)) = list.get(limit) else { return false };
    list.truncate(limit);
    // A page of topics that all share one place does not occur: the order is random.
    if list[0].0 != cut {
        while list.last().is_some_and(|(place, _)| *place == cut) {
            list.pop();
        }
    }
    true
}

/// What is asked of a shard.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Topic(Topic),
    /// The first `limit` topics whose place is after this.
    Page {
        after: Option<u64>,
        limit: usize,
    },
}

/// One shard's answer, in the order of places.
#[derive(Clone, Debug, Default)]
#[allow(unreachable_pub)] // Simulations are given it.
pub struct Answer {
    pub(crate) topics: Vec<(u64, TopicCounts)>,
    /// There are more.
    pub(crate) more: bool,
}

impl Answer {
    /// The counts of each topic.
    #[cfg(feature = "sim")]
    pub fn counts(&self) -> impl Iterator<Item = &TopicCounts> {
        self.topics.iter().map(|(_, counts)| counts)
    }
}

/// Where a topic stands in the order of pages: by its name and the log's epoch alone, so that it stays there,
/// and in a way that cannot be foreseen.
pub(crate) fn place(epoch: Epoch, topic: &Topic) -> u64 {
    let mut hasher = DefaultHasher::new();
    (epoch, topic).hash(&mut hasher);
    hasher.finish()
}

/// A question in a shard's mailbox.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) question: Question,
    answer: SyncSender<Answer>,
    wanted: Weak<()>,
}

/// What the asker has: the answer comes here. Once it is dropped, the question is not answered any more.
#[derive(Debug)]
#[allow(unreachable_pub)] // Simulations are given it.
pub struct Asked {
    answer: Receiver<Answer>,
    _wanted: Arc<()>,
}

impl Inspection {
    pub(crate) fn new(question: Question) -> (Inspection, Asked) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let wanted = Arc::new(());
        let asked = Asked { answer: receiver, _wanted: Arc::clone(&wanted) };
        (Inspection { question, answer: sender, wanted: Arc::downgrade(&wanted) }, asked)
    }

    /// Whether the asker still waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    pub(crate) fn answer(&self, answer: Answer) {
        // The asker may have stopped waiting.
        let _ = self.answer.try_send(answer);
    }
}

impl Asked {
    fn wait(&self, patience: Duration) -> Result<Answer, InspectError> {
        self.answer.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => InspectError::Busy,
            RecvTimeoutError::Disconnected => InspectError::Stopped,
        })
    }

    /// The answer, if it has come.
    ///
    /// # Errors
    /// It has not come yet, or the shard has ended.
    #[allow(dead_code, unreachable_pub)] // Simulations and models ask for it.
    pub fn try_recv(&self) -> Result<Answer, TryRecvError> {
        self.answer.try_recv()
    }
}

/// Whose turn it is to ask: one at a time.
#[derive(Default)]
pub(crate) struct Turns {
    taken: Mutex<bool>,
    freed: Condvar,
}

/// A turn, until it is dropped.
struct Turn<'turns>(&'turns Turns);

impl Turns {
    /// Waits for a turn, at most this long.
    fn take(&self, patience: Duration) -> Option<Turn<'_>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(taken, patience, |taken| *taken);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && *taken {
            return None;
        }
        *taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
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
        })
    }
}

impl std::error::Error for InspectError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two topics with one place were cut apart, and the second one was on no page.
    #[test]
    fn a_page_does_not_end_between_two_that_share_a_place() {
        let cut = |places: &[u64], limit: usize| {
            let mut list: Vec<(u64, ())> = places.iter().map(|place| (*place, ())).collect();
            let more = cut_to(&mut list, limit);
            (list.into_iter().map(|(place, ())| place).collect::<Vec<_>>(), more)
        };
        assert_eq!(cut(&[1, 2, 3], 3), (vec![1, 2, 3], false));
        assert_eq!(cut(&[1, 2, 3], 2), (vec![1, 2], true));
        assert_eq!(cut(&[1, 2, 2], 2), (vec![1], true));
        assert_eq!(cut(&[1, 1], 1), (vec![1], true));
        assert_eq!(cut(&[], 1), (vec![], false));
    }

    #[test]
    fn a_turn_is_given_to_one_at_a_time() {
        let turns = Turns::default();
        let first = turns.take(Duration::ZERO);
        assert!(first.is_some() && turns.take(Duration::ZERO).is_none());
        drop(first);
        assert!(turns.take(Duration::ZERO).is_some());
    }
}
