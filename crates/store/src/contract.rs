//! What a store must provide. One conformance suite ([`crate::conformance`]) runs on every store.

use std::sync::Arc;

use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{EventId, Topic};

use crate::{Error, Record};

/// What can be asked of a log of records: of a [`Store`], or of a log that nodes share.
///
/// All methods may be called from any thread. A read does not wait for an append for longer than it takes to
/// exchange a few words in memory.
pub trait StoreReader: Send + Sync {
    /// What is in the store now, without any access to a disk or to the network.
    fn state(&self) -> State;

    /// Reads records with a number above `after`, in order.
    ///
    /// [`Page::up_to`] is the number to go on after. A page without records is not the end: [`Page::is_end`]
    /// says that. A call always comes forward, even if the first record is larger than the bounds.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored was changed by something else. No record is left out in silence.
    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error>;

    /// What a subscriber may read that begins now and has everything up to `after`.
    ///
    /// # Errors
    /// As for [`StoreReader::read`].
    fn view(&self, query: Query<'_>, _after: u64) -> Result<View, Error> {
        // With any page it is known what is gone.
        let bounds = Bounds { records: 1, ..Bounds::default() };
        let gone = self.read(query, self.state().newest, bounds)?.gone;
        Ok(View { gone, expired: Gone::default(), retained: None })
    }

    /// The record with this own id and exactly these topics, in whatever order: the same event, by the
    /// definition of [`fanfare_proto::frame::Identity`]. Where there are several, the newest one.
    ///
    /// # Errors
    /// As for [`StoreReader::read`].
    fn find(&self, id: &EventId, topics: &[Topic]) -> Result<Option<Record>, Error>;
}

/// What a subscriber may read that begins at a certain moment.
#[derive(Clone)]
pub struct View {
    /// What is gone of the topics that were asked for; for [`Query::All`], of any topic.
    pub gone: Gone,
    /// What is still there of the topics that were asked for, and that their retention did not cover any more
    /// at this moment. It may leave out what is at or below the number that was asked for. For
    /// [`Query::All`] it is not known: [`Retained::has_expired`].
    pub expired: Gone,
    /// Gives the subscriber what was covered at this moment, and all that has come since. `None`: there is
    /// nothing else, so [`StoreReader::read`] does.
    pub retained: Option<Arc<dyn Retained>>,
}

/// The records that retention covered at a certain moment, and those that have come since. It is for a log
/// that keeps more than its retention says, because other programs read it, too. A record that expires later
/// is still given, so nothing is lost to a subscriber that reads slowly.
pub trait Retained: Send + Sync {
    /// As [`StoreReader::read`].
    ///
    /// # Errors
    /// As for [`StoreReader::read`].
    fn read(&self, query: Query<'_>, after: u64, bounds: Bounds) -> Result<Page, Error>;

    /// Whether a wanted record after this number had expired. It looks at a bounded number of records: where
    /// there are more, the answer is that one had.
    ///
    /// # Errors
    /// As for [`StoreReader::read`].
    fn has_expired(&self, after: u64, is_wanted: &dyn Fn(&Record) -> bool) -> Result<bool, Error>;
}

/// A log of records in the order of their numbers.
///
/// The numbers come from the caller: from the hub, or from a log that several nodes share, such as a stream
/// of JetStream. They rise and may have holes. All methods may be called from any thread;
/// appends and trims wait for each other, and reads wait for neither for longer than it takes to exchange a
/// few words in memory.
///
/// Each topic has a retention, as in the log in memory ([`fanfare_proto::limits::LogLimits`]). A record is
/// *gone* from a topic when the retention of the topic does not cover it any more, and gone from the store
/// when it is gone from all of its topics. Retention is enforced by [`Store::trim`], so a store may keep more
/// than retention says until then.
pub trait Store: StoreReader {
    /// Appends all records of the group or none of them.
    ///
    /// With [`Durability::Commit`] the group is on stable storage when the call returns, and with it every
    /// record that was appended before. With [`Durability::Async`] the call returns when the records can be
    /// read; the next commit or [`Store::sync`] makes them durable. An empty group changes nothing.
    ///
    /// # Errors
    /// [`Error::Order`] if the numbers do not rise, or if the first one is not above [`State::newest`]. Other
    /// errors come from the storage. After any error no reader sees a record of the group. After
    /// [`Error::Full`] the group is not in the store. Where the storage failed in another way during a
    /// commit, the group may be there after the store is opened again.
    fn append(&self, group: &[Record], durability: Durability) -> Result<(), Error>;

    /// Enforces retention for a bounded slice of work. `now_ms` is in milliseconds since 1970 (UTC), `budget`
    /// the number of steps: topics that are looked at and records that are dropped. The store remembers where
    /// it stopped. Call it every second or so, and again at once, after what else there is to do, while
    /// [`Trimmed::more`] is true.
    ///
    /// A record whose time is later than `now_ms` has no age.
    ///
    /// # Errors
    /// Those of the storage. What was dropped before the error may be there again.
    fn trim(&self, now_ms: u64, budget: usize) -> Result<Trimmed, Error>;

    /// Makes everything durable that was appended.
    ///
    /// # Errors
    /// Those of the storage.
    fn sync(&self) -> Result<(), Error>;
}

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the records are on stable storage: they survive a power cut.
    Commit,
    /// At once. Until the next commit or [`Store::sync`] the records may be in the memory of the process
    /// alone: they are lost when it is killed or crashes, and not only by a power cut.
    Async,
}

/// What is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// The identity of the log's lifetime: it stays the same for as long as no number is given twice.
    pub epoch: Epoch,
    /// The lowest number that is retained; zero where no record is.
    pub oldest: u64,
    /// The highest number that was ever taken; zero in a new store. The record may be gone. The next record
    /// needs a higher number.
    pub newest: u64,
    /// Every record up to this number is on stable storage.
    pub synced: u64,
    /// Records with numbers up to this one may have been lost when a process ended. It is unknown which
    /// topics they belonged to. Zero: none were lost. A subscriber with a lower number may have missed
    /// something, so this number is part of every [`Page::gone`].
    pub lost: u64,
    /// Records that are retained.
    pub records: u64,
    /// Their encoded bytes, without indexes.
    pub bytes: u64,
}

impl State {
    /// The state of a store of this epoch without records.
    pub fn empty(epoch: Epoch) -> State {
        State { epoch, oldest: 0, newest: 0, synced: 0, lost: 0, records: 0, bytes: 0 }
    }
}

/// Which records to read.
#[derive(Clone, Copy, Debug)]
pub enum Query<'q> {
    /// Those of every topic.
    All,
    /// Those of at least one of these topics.
    Topics(&'q [Topic]),
}

/// How much one read may give and do. The bound that is reached first ends the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records of a page.
    pub records: usize,
    /// Encoded bytes of its records. One record of any size is given in any case.
    pub bytes: usize,
    /// Steps: each group that is loaded, each row of an index and each record that is looked at is one.
    pub steps: usize,
}

impl Default for Bounds {
    /// 512 records, 1 MiB, 16,384 steps.
    fn default() -> Bounds {
        Bounds { records: 512, bytes: 1 << 20, steps: 1 << 14 }
    }
}

/// Up to which number records are gone, for subscribers that see private events and for others: a subscriber
/// that may see public events alone is not told of a gap where only private ones are gone.
///
/// A subscriber that has everything up to a number at or above it has missed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// No record after this number is gone.
    pub newest: u64,
    /// No public record after this number is gone. At most `newest`.
    pub newest_public: u64,
}

impl Gone {
    /// Notes that a record is gone.
    pub fn note(&mut self, number: u64, is_private: bool) {
        self.newest = self.newest.max(number);
        if !is_private {
            self.newest_public = self.newest_public.max(number);
        }
    }

    /// What is gone of two topics.
    #[must_use]
    pub fn and(self, other: Gone) -> Gone {
        Gone {
            newest: self.newest.max(other.newest),
            newest_public: self.newest_public.max(other.newest_public),
        }
    }
}

/// What [`StoreReader::read`] gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// All records that were asked for with numbers up to `up_to`, in order.
    pub records: Vec<Record>,
    /// The number to go on after.
    pub up_to: u64,
    /// Whether there was nothing after `up_to`.
    pub is_end: bool,
    /// What is gone of the topics that were asked for; for [`Query::All`], of any topic. It was noted at the
    /// same moment as the records were read.
    pub gone: Gone,
}

/// What [`Store::trim`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// Records that are gone from the store.
    pub records: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// The slice ended before the pass over all topics did: there may be more to drop.
    pub more: bool,
}
