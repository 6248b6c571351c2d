//! What delivery asks of the log: the seam between a shard, which delivers, and the log, which belongs to the process.

use std::sync::Arc;

use crate::event::Topic;
use crate::frame::Frame;
use crate::log::{Log, Start};
use crate::selection::Selection;

/// One shard's access to the log. The log itself is behind a lock that others take too, so each call is short.
pub trait EventLog {
    /// Registers this shard as a reader of these topics, which it was not before, and answers the newest number: every
    /// later event of these topics will be handed to [`crate::delivery::Delivery::handle_event`].
    fn add_reader(&mut self, topics: &[Topic]) -> u64;

    /// Ends what [`EventLog::add_reader`] began. Events that were on their way may still come.
    fn remove_reader(&mut self, topics: &[Topic]);

    /// The highest number that any subscriber may have seen. At least that of every event that this shard was
    /// handed.
    fn newest(&self) -> u64;

    /// Where a subscriber of this selection starts that has the event `id`.
    fn resume(&self, id: &str, selection: Selection<'_>) -> Start;

    /// Appends to `into` the frames that are wanted, in order: at most `most` and about `bytes` of them, but at
    /// least one if there is one. Answers the cursor of a subscriber that was given all of them.
    ///
    /// # Errors
    /// Some of these frames are gone that the subscriber does not know of: everything after the number that is returned is
    /// still there.
    fn read_after(
        &self,
        wanted: &Wanted<'_>,
        most: usize,
        bytes: usize,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<u64, u64>;

    /// The first frame that [`EventLog::read_after`] would give, where nothing before it is gone.
    fn first_after(&self, wanted: &Wanted<'_>) -> Option<Arc<Frame>>;
}

/// Which frames a subscriber wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'s> {
    /// Frames that are for this selection,
    pub selection: Selection<'s>,
    /// after this number.
    pub after: u64,
    /// The subscriber knows that some of them up to this number are gone: it gets what is left. At most
    /// `after`: it has missed none.
    pub incomplete_until: u64,
}

/// One shard's access to a log that no other thread uses; for tests and models.
pub struct UnsharedLog<'log> {
    /// The log.
    pub log: &'log mut Log,
    /// The shard's number.
    pub shard: usize,
}

impl EventLog for UnsharedLog<'_> {
    fn add_reader(&mut self, topics: &[Topic]) -> u64 {
        self.log.add_reader(topics, self.shard);
        self.log.newest()
    }

    fn remove_reader(&mut self, topics: &[Topic]) {
        self.log.remove_reader(topics, self.shard);
    }

    fn newest(&self) -> u64 {
        self.log.newest()
    }

    fn resume(&self, id: &str, selection: Selection<'_>) -> Start {
        self.log.resume(id, selection)
    }

    fn read_after(
        &self,
        wanted: &Wanted<'_>,
        most: usize,
        bytes: usize,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<u64, u64> {
        self.log.replay_after(wanted, most, bytes, into)
    }

    fn first_after(&self, wanted: &Wanted<'_>) -> Option<Arc<Frame>> {
        self.log.first_after(wanted.selection, wanted.after).cloned()
    }
}
