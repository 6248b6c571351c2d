//! What delivery asks of the log: the seam between a shard, which delivers, and the log, which belongs to the
//! process.

use std::sync::Arc;

use crate::event::Topic;
use crate::frame::Frame;
use crate::link::LinkKey;
use crate::log::{Log, Start};
use crate::pattern::Pattern;
use crate::selection::Selection;

/// One shard's access to the log. The log itself is behind a lock that others take too, so each call is
/// short.
pub trait EventLog {
    /// Registers this shard as a reader of these topics and patterns, which it was not before, and answers
    /// the newest number: every later event of them will be handed to
    /// [`crate::delivery::Delivery::handle_event`].
    ///
    /// # Errors
    /// The log cannot take the patterns. The shard is registered for nothing then.
    fn add_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) -> Result<u64, NoRoomForPatterns>;

    /// Ends what [`EventLog::add_reader`] began. Events that were on their way may still come.
    fn remove_reader(&mut self, topics: &[Topic], patterns: &[Pattern]);

    /// The highest number that any subscriber may have seen. At least that of every event that this shard was
    /// handed.
    fn newest(&self) -> u64;

    /// Where a subscriber of this selection starts that has the event `id`.
    fn resume(&self, id: &str, selection: Selection<'_>) -> Start;

    /// Appends to `into` the frames that are wanted, in order, within these bounds. Where it finds none, more
    /// may follow behind the number that it answers.
    ///
    /// # Errors
    /// Some of these frames are gone that the subscriber does not know of: everything after the number that
    /// is returned is still there.
    fn read_after(
        &self,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, u64>;

    /// The same for the laggard on this link, for which frames may be fetched that are not in memory.
    ///
    /// # Errors
    /// Some of the frames are gone, or they are being fetched.
    fn read_for(
        &mut self,
        link: LinkKey,
        wanted: &Wanted<'_>,
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, Unread> {
        let _ = link;
        self.read_after(wanted, bounds, into).map_err(Unread::Gone)
    }

    /// The first frame that [`EventLog::read_after`] would give, where nothing before it is gone. Looks for
    /// it with so many steps at most, and takes those that it makes away from them.
    fn first_after(&self, wanted: &Wanted<'_>, steps: &mut usize) -> First;
}

/// What one read of the log gives at most.
#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    /// Frames; at least one.
    pub frames: usize,
    /// Their wire bytes. One frame is given whatever it has.
    pub bytes: usize,
    /// How long it looks for the frames of patterns, in [steps](Selection::steps). One frame is looked at in
    /// any case.
    pub steps: usize,
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The cursor of a subscriber that was given all of the frames. Frames that are for it may follow, also
    /// where there were none.
    pub up_to: u64,
    /// What the read has cost, in frames of topics.
    pub cost: usize,
}

/// Why a laggard was given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Some of the frames are gone that the subscriber does not know of: everything after this number is
    /// still there.
    Gone(u64),
    /// They are being fetched. The owner of the log calls [`crate::delivery::Delivery::handle_fetched`] when
    /// they are here. Until then the laggard has no turn, and it does not count as stalled.
    Later,
}

/// What comes first after a number.
#[derive(Clone, Debug)]
pub enum First {
    /// This frame.
    Frame(Arc<Frame>),
    /// Nothing up to the newest number.
    Nothing,
    /// Nothing up to this number. What comes after it is not known.
    NothingUpTo(u64),
}

impl First {
    /// The frame, where one was found.
    pub fn frame(self) -> Option<Arc<Frame>> {
        match self {
            First::Frame(frame) => Some(frame),
            First::Nothing | First::NothingUpTo(_) => None,
        }
    }

    /// Nothing is between where the question began and this number: at most `until`.
    pub fn nothing_up_to(&self, until: u64) -> u64 {
        match self {
            First::Frame(frame) => until.min(frame.seq() - 1),
            First::Nothing => until,
            First::NothingUpTo(seq) => until.min(*seq),
        }
    }
}

/// There are as many different patterns as there may be, or this one would make it too much work to find the
/// patterns of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoomForPatterns;

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
    fn add_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) -> Result<u64, NoRoomForPatterns> {
        self.log.add_pattern_reader(patterns, self.shard)?;
        self.log.add_reader(topics, self.shard);
        Ok(self.log.newest())
    }

    fn remove_reader(&mut self, topics: &[Topic], patterns: &[Pattern]) {
        self.log.remove_reader(topics, self.shard);
        self.log.remove_pattern_reader(patterns, self.shard);
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
        bounds: ReadBounds,
        into: &mut Vec<Arc<Frame>>,
    ) -> Result<Read, u64> {
        self.log.replay_after(wanted, bounds, into)
    }

    fn first_after(&self, wanted: &Wanted<'_>, steps: &mut usize) -> First {
        self.log.first_after(wanted.selection, wanted.after, steps)
    }
}
