//! A log that several nodes share, such as a stream of NATS JetStream: the seam between an engine and the
//! crate that talks to the log.
//!
//! ```text
//!   Hub::publish_async --Submission--> Backplane::submit --> the shared log, on other machines
//!                      <--the numbers, or why not---------
//!   subscribers <-- shards <-- Feed::append <-- everything in it, in order, on every node
//! ```
//!
//! The shared log gives numbers, and with them one order for all nodes. A node gets its own events as it gets
//! those of others: from the log. So all nodes deliver the same events with the same ids, and a subscriber
//! may resume on any of them. Events that the log in memory has dropped are read from the shared log
//! ([`fanfare_store::StoreReader`]), as from a durable store.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanfare_proto::event::Event;
use fanfare_proto::limits::{Retention, RetentionRule};
use fanfare_store::{Record, StoreReader};

use crate::hub::{Sequencer, SubmissionSlot};
use crate::shared_log::ProcessLog;
use crate::sync::AtomicU64;

/// What connects an engine with a log that nodes share. It has threads of its own.
pub trait Backplane: Send + Sync {
    /// What can be read back from the log. [`StoreReader::state`] says with which epoch and behind which
    /// number the engine starts. A read may wait for the network, within a bound, and fails with
    /// [`fanfare_store::Error::Unreachable`] where the log cannot be reached.
    fn reader(&self) -> Arc<dyn StoreReader>;

    /// What is kept of each topic. A subscriber that begins is given nothing beyond it, although the log may
    /// have more: [`StoreReader::view`] of [`Backplane::reader`]. It is called before the engine reads, and
    /// with each change ([`crate::Hub::set_retention`]).
    fn set_retention(&self, retention: Retention, rules: &[RetentionRule]);

    /// The engine has started: everything behind this number goes to the feed from now on, in order. It is
    /// called once.
    fn begin(&self, feed: Feed, after: u64);

    /// Takes the events of one publish. The call returns at once, and
    /// [`Submission::complete`] is called later, in any order with other submissions.
    ///
    /// Where the log cannot be reached, the submission is completed with [`SubmitFailure::Unreachable`] after
    /// a bounded wait.
    fn submit(&self, submission: Submission);

    /// No more events are submitted or wanted: the threads end. Submissions that are not complete are
    /// completed or dropped.
    fn end(&self);
}

/// The events of one publish, on their way to the shared log. Where it is dropped, its publisher learns that
/// the outcome is unknown; or, if [`Submission::begin`] was not called, that nothing was published.
pub struct Submission {
    /// The publisher has them, too: what is not accepted goes back to it.
    events: Arc<[Event]>,
    slot: Arc<SubmissionSlot>,
    is_done: bool,
}

/// An event that the shared log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its number in the log.
    pub number: u64,
    /// The log has had it before: nothing was added.
    pub is_duplicate: bool,
}

/// Why not all events of a submission were accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAccepted {
    /// Those that were, from the first one on.
    pub accepted: Vec<Accepted>,
    /// What became of the next one. Those behind it were not accepted either, unless the outcome is
    /// [`SubmitFailure::Undecided`].
    pub failure: SubmitFailure,
}

/// Why the shared log has not accepted an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitFailure {
    /// The log cannot be reached, and does not have the event.
    Unreachable,
    /// The log has no room.
    Full,
    /// The log has another event with the same own id and topics.
    Conflict,
    /// The event is larger than the log takes.
    TooLarge {
        /// What it takes, in bytes.
        limit: usize,
    },
    /// The log refuses the event for a reason that the operator has to find.
    Refused,
    /// It is not known whether the log has the event: the answer did not come.
    Undecided,
}

/// Why an engine cannot go on with the shared log: [`crate::Hub::log_break`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogBreak {
    /// The log is another one, or its numbers have gone back. The ids that subscribers have are of another
    /// epoch.
    NewEpoch(String),
    /// The log has dropped events before this node has read them.
    Lost {
        /// All up to this number are gone, or some of them.
        up_to: u64,
    },
    /// What reads the log has ended by itself, which is a fault of it.
    Failed(String),
}

/// Where a [`Backplane`] puts what is in the shared log.
pub struct Feed {
    sequencer: Arc<Sequencer>,
    log: Arc<ProcessLog>,
    broken: Arc<OnceLock<LogBreak>>,
    skipped: Arc<AtomicU64>,
}

/// Why a feed takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedError {
    /// The engine has ended, or it ends.
    Ended,
    /// The number is not above the one before.
    Order {
        /// The number at fault.
        number: u64,
        /// The number that it has to be above.
        newest: u64,
    },
}

impl Submission {
    pub(crate) fn new(events: Arc<[Event]>, slot: Arc<SubmissionSlot>) -> Submission {
        Submission { events, slot, is_done: false }
    }

    /// The events, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// From now on the events may be in the log. False: the publisher has given up before, and nothing is to
    /// be sent.
    pub fn begin(&self) -> bool {
        self.slot.begin()
    }

    /// Whether the publisher has given up before [`Submission::begin`].
    pub fn is_cancelled(&self) -> bool {
        self.slot.is_cancelled()
    }

    /// Answers the publisher, with one [`Accepted`] for each event.
    pub fn complete(mut self, result: Result<Vec<Accepted>, NotAccepted>) {
        self.is_done = true;
        self.slot.complete(result);
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if !self.is_done {
            let failure =
                if self.slot.has_begun() { SubmitFailure::Undecided } else { SubmitFailure::Unreachable };
            self.slot.complete(Err(NotAccepted { accepted: Vec::new(), failure }));
        }
    }
}

impl Feed {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        log: Arc<ProcessLog>,
        broken: Arc<OnceLock<LogBreak>>,
        skipped: Arc<AtomicU64>,
    ) -> Feed {
        Feed { sequencer, log, broken, skipped }
    }

    /// Appends events of the shared log and hands them to the shards. Waits for room in the mailboxes. The
    /// numbers rise and may have holes.
    ///
    /// An event that this engine cannot deliver, because it is larger than
    /// [`fanfare_proto::limits::Limits::event_bytes`] or bears an id of the form `<epoch>-<number>`, is left
    /// out and counted ([`crate::Hub::feed_skipped`]).
    ///
    /// # Errors
    /// [`FeedError`]. Events before the one at fault have been appended.
    pub fn append(&self, records: Vec<Record>) -> Result<(), FeedError> {
        let (mut events, mut numbers) = (VecDeque::new(), Vec::with_capacity(records.len()));
        let (mut newest, mut last) = (self.sequencer.last_given(), 0);
        for Record { number, event, .. } in records {
            if number <= newest {
                self.sequencer.feed(&mut events, &numbers).map_err(|()| FeedError::Ended)?;
                return Err(FeedError::Order { number, newest });
            }
            (newest, last) = (number, number);
            if self.sequencer.check([&event].into_iter()).is_err() {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            numbers.push(number);
            events.push_back(event);
        }
        self.sequencer.feed(&mut events, &numbers).map_err(|()| FeedError::Ended)?;
        if numbers.last().is_some_and(|number| *number < last) || (numbers.is_empty() && last > 0) {
            self.skip_to(last);
        }
        Ok(())
    }

    /// Nothing more comes up to this number: what is there is no event.
    pub fn skip_to(&self, number: u64) {
        self.sequencer.skip_to(number);
    }

    /// The newest number that subscribers may have seen.
    pub fn newest(&self) -> u64 {
        self.log.newest().load(Ordering::Relaxed)
    }

    /// The time on the engine's clock, for [`Feed::note_end`].
    pub fn now(&self) -> Duration {
        self.sequencer.now()
    }

    /// The shared log ended at this number when it was asked, at the time `asked` or later.
    ///
    /// A subscriber may come with a number that is not here. It waits for the number. Where the log was asked
    /// after the subscriber had come, and has no such number, nobody has given it: the subscriber is told of
    /// a gap. Otherwise it is turned away, and comes back: the number may be in the log, and a gap would be
    /// none.
    pub fn note_end(&self, asked: Duration, last: u64) {
        self.log.note_end(asked, last);
    }

    /// The engine cannot go on with this log. Nothing is appended any more: the owner of the engine stops it,
    /// and starts another one, whose subscribers learn of the gap ([`crate::Hub::log_break`]).
    pub fn break_off(self, why: LogBreak) {
        let _ = self.broken.set(why);
    }
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission").field("events", &self.events.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("newest", &self.newest()).finish_non_exhaustive()
    }
}

impl fmt::Display for LogBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogBreak::NewEpoch(why) => write!(f, "the shared log begins a new epoch: {why}"),
            LogBreak::Failed(why) => write!(f, "the shared log is not read any more: {why}"),
            LogBreak::Lost { up_to } => {
                write!(f, "the shared log has dropped events up to {up_to} before this node has read them")
            }
        }
    }
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedError::Ended => f.write_str("the engine has ended"),
            FeedError::Order { number, newest } => {
                write!(f, "the event has the number {number}, which is not above {newest}")
            }
        }
    }
}

impl std::error::Error for FeedError {}
