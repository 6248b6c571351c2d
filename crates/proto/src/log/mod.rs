//! The bounded recent frames of the process: what a subscriber that was away gets.
//!
//! Each topic owns its frames and its retention, so that one busy topic, or one large batch, does not evict
//! the history of the others. A subscriber is a cursor; the log answers which frames of its topics come after
//! it, and whether any of them is gone. The log also knows which shards read a topic, so that a publish
//! reaches only these.
//!
//! ```text
//!              name table                slots                     frames of one topic
//!   "orders" --> hash --> slot 2 -->  | name, readers, dropped |   public:  (seq, frame) (seq, frame) ...
//!                                     | retained --------------+-> private: (seq, frame) ...
//!   forgotten topics: hash -> dropped                              own ids: text -> first seq
//! ```
//!
//! Inputs: [`Log::append`] with a frame whose number is higher than all before (numbers may have holes),
//! [`Log::trim`] with the time, [`Log::add_reader`] and [`Log::remove_reader`]. Questions: [`Log::resume`]
//! gives the cursor where a subscriber starts, [`Log::read_after`] the frames after a cursor,
//! [`Log::shards_reading`] the shards that an event is for.
//!
//! One lock guards the log, so nothing is freed inside: frames that are dropped go into a list of the caller.

mod check;
pub(crate) mod drop_notes;
mod dropped;
mod expiry;
mod fairness;
mod forgotten;
mod frame_topics;
mod heap;
mod order;
mod own_ids;
mod patterns;
mod published;
mod read;
mod retention_change;
mod shards;
mod size_change;
mod topic;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use self::dropped::Dropped;
use self::expiry::{AT_ONCE, ExpiryQueue, expires_at, has_come, nanoseconds};
use self::fairness::{SizeClasses, class_of};
use self::forgotten::Forgotten;
use self::frame_topics::FrameTopics;
use self::order::FrameOrder;
use self::patterns::Patterns;
use self::published::PublishedIds;
use self::retention_change::RetentionChange;
use self::topic::{RetainedFrames, TopicEntry, frame_memory};
use crate::cursor::Epoch;
use crate::event::Topic;
use crate::event_log::NoRoomForPatterns;
use crate::frame::{Frame, WireFormat};
use crate::limits::{APPEND_DROPS, LogLimits, PATTERNS, Retention};
use crate::pattern::Pattern;
use crate::slot_table::{HashKeys, SlotTable};
use crate::slots::Slots;

pub use self::read::Start;
pub use self::shards::ShardSet;

/// The text that asks for everything retained.
pub const EARLIEST: &str = "earliest";

/// What forgotten topics may take of the log's memory: a sixteenth.
const FORGOTTEN_SHARE: usize = 16;

/// Slots that one page of topics checks: a table that a crowd has left may be nearly empty.
const PAGE_SLOTS: u32 = 4096;

/// The recent frames by topic, and the shards that read them.
pub struct Log {
    epoch: Epoch,
    limits: LogLimits,
    /// Topics that still have other limits.
    change: Option<RetentionChange>,
    /// The lower bound of memory that was asked for and is not reached.
    shrinks_to: Option<usize>,
    /// Frames dropped because of the bound of memory, in each topic.
    dropped_for_room: u64,
    /// Frames that were ever appended, and their bytes on the wire, in chunks.
    appended: (u64, u64),
    keys: HashKeys,
    /// The highest `seq` ever appended, or where the log began.
    newest: u64,
    topics: Slots<TopicEntry>,
    by_name: SlotTable,
    classes: SizeClasses,
    expiries: ExpiryQueue,
    frame_topics: FrameTopics,
    published_ids: PublishedIds,
    forgotten: Forgotten,
    patterns: Patterns,
    /// All distinct frames, for the readers of patterns.
    order: FrameOrder,
    /// Distinct frames.
    frames: usize,
    /// Distinct frames, each once, and everything of the topics that have frames.
    retained_bytes: usize,
    /// The entries of topics that have readers and no frames, and the sets of readers of all.
    reader_bytes: usize,
    /// Pairs of a topic and a shard that reads it.
    readers: usize,
    readers_version: u64,
    /// How many calls have changed the log.
    changes: u64,
}

/// What the log keeps of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicExtent {
    /// Frames retained.
    pub frames: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// The `seq` of the oldest and of the newest of them.
    pub span: Option<(u64, u64)>,
    /// The shards that read the topic.
    pub shards: ShardSet,
}

impl Log {
    /// An empty log. `seed` makes its hashes unpredictable, so it is random in production (the caller's: this
    /// crate draws no randomness).
    pub fn new(epoch: Epoch, limits: LogLimits, seed: u64) -> Log {
        Log {
            epoch,
            keys: HashKeys::new(seed),
            newest: 0,
            topics: Slots::new(),
            by_name: SlotTable::new(),
            classes: SizeClasses::new(),
            expiries: ExpiryQueue::new(),
            frame_topics: FrameTopics::new(),
            published_ids: PublishedIds::new(),
            forgotten: Forgotten::new(limits.total_bytes / FORGOTTEN_SHARE),
            patterns: Patterns::new(PATTERNS),
            order: FrameOrder::new(),
            frames: 0,
            retained_bytes: 0,
            reader_bytes: 0,
            readers: 0,
            readers_version: 0,
            changes: 0,
            limits,
            change: None,
            shrinks_to: None,
            dropped_for_room: 0,
            appended: (0, 0),
        }
    }

    /// Begins in the middle: for a log that is fed from a durable store or from another node, which no longer
    /// has the events up to `seq`. The next number is higher. A subscriber that has less than `seq` is told
    /// of a gap, whatever its topics are.
    ///
    /// # Panics
    /// The log has been used.
    pub fn begin_after(&mut self, seq: u64) {
        self.changes += 1;
        assert!(self.newest == 0 && self.topics.is_empty(), "a log begins once, before all else");
        self.newest = seq;
        self.raise_floor(seq, seq);
    }

    /// What a durable store has lost of any topic: the newest event, and the newest public one. A subscriber
    /// of a topic of which nothing else is known is told of a gap, or asks the store, where it has less than
    /// this. Numbers that are higher are appended before anyone asks.
    ///
    /// # Panics
    /// A topic is in the log.
    pub fn raise_floor(&mut self, newest: u64, newest_public: u64) {
        self.changes += 1;
        assert!(self.topics.is_empty(), "what is gone is noted before all else");
        let lost = Dropped { newest, newest_public };
        self.forgotten.raise_floor(lost);
        self.patterns.raise_floor(lost);
    }

    /// What a durable store has lost of this topic, of which the log has nothing: the newest event, and the
    /// newest public one. For this topic it stands for the floor.
    pub fn note_gone(&mut self, topic: &Topic, newest: u64, newest_public: u64) {
        self.changes += 1;
        let hash = self.keys.hash(topic.as_str());
        if self.find_hashed(topic, hash).is_none() {
            let lost = Dropped { newest, newest_public };
            let slot = self.find_or_insert(topic);
            self.topics[slot].dropped = lost;
        }
    }

    /// Numbers up to this one were given, and nothing more comes with them: the log goes on above it.
    ///
    /// A subscriber that has seen the highest of them resumes there, and is not ahead of the log.
    pub fn skip_to(&mut self, seq: u64) {
        self.changes += 1;
        self.newest = self.newest.max(seq);
    }

    /// How many different patterns may be read or remembered, [`PATTERNS`] unless this is called. Patterns
    /// that are there stay.
    pub fn limit_patterns(&mut self, most: usize) {
        self.changes += 1;
        self.patterns.set_most(most);
    }

    /// How many steps of walks through the table of patterns one call makes for what it drops, [`WALK_STEPS`]
    /// unless this is called.
    ///
    /// [`WALK_STEPS`]: crate::limits::WALK_STEPS
    pub fn limit_walk_steps(&mut self, steps: usize) {
        self.changes += 1;
        self.patterns.set_walk_steps(steps);
    }

    /// The identity of this log's lifetime.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest `seq` ever appended, retained or not; before the first event, where the log began: zero,
    /// or what [`Log::begin_after`] was given.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Distinct frames retained.
    pub fn len(&self) -> usize {
        self.frames
    }

    /// Whether no frame is retained.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The memory of the frames and of everything that is kept because of them, in bytes: indexes, the
    /// entries of their topics, own ids, what is known of forgotten topics. An upper bound, beside a constant
    /// of 10 KiB and what an allocator rounds up. It is at most [`LogLimits::total_bytes`].
    pub fn bytes(&self) -> usize {
        let of_frames = self.frame_topics.bytes() + self.order.bytes() + self.published_ids.bytes();
        self.retained_bytes + of_frames + self.expiries.bytes() + self.forgotten.bytes()
    }

    /// Frames that were ever appended.
    pub fn appended_frames(&self) -> u64 {
        self.appended.0
    }

    /// Bytes of all frames that were ever appended, as one subscriber gets them in chunks.
    pub fn appended_bytes(&self) -> u64 {
        self.appended.1
    }

    /// Frames dropped because of [`LogLimits::total_bytes`], each in each of its topics.
    pub fn dropped_for_room(&self) -> u64 {
        self.dropped_for_room
    }

    /// The memory of patterns and of the entries of topics that have readers and no frames, in bytes, and of
    /// the room that topics have left behind in the tables. It is not evicted: each shard bounds what its
    /// subscriptions take here, see [`crate::limits::Limits::subscription_bytes`].
    pub fn reader_bytes(&self) -> usize {
        let used = self.topics.len() * TopicEntry::TABLE_BYTES;
        let left_behind = (self.topics.bytes() + self.by_name.bytes()).saturating_sub(used);
        self.reader_bytes + left_behind + self.patterns.bytes()
    }

    /// The memory of the entry of a topic that is only read, with its name, in bytes.
    pub(crate) fn reader_entry_bytes(topic: &Topic) -> usize {
        TopicEntry::bytes_of(topic)
    }

    /// The most memory that the entry of a pattern takes, in bytes.
    pub(crate) fn pattern_entry_bytes(pattern: &Pattern) -> usize {
        Patterns::entry_bytes(pattern)
    }

    /// Appends a frame, and drops what retention no longer covers: from its topics, then from whichever topic
    /// is the largest, until everything fits. Where the retention of its topics lets many frames go at once,
    /// the rest of them goes with [`Log::trim`], for which [`Log::next_expiry`] asks at once. Frames that no
    /// topic holds any more go into `dropped`, so that the caller frees them after it has unlocked the log;
    /// the new frame may be among them.
    ///
    /// # Panics
    /// The frame's `seq` is not higher than all before it.
    pub fn append(&mut self, frame: Arc<Frame>, now: Duration, dropped: &mut Vec<Arc<Frame>>) {
        self.append_all([frame], now, dropped);
    }

    /// The same for several frames, in order, which are appended under one hold of the lock.
    ///
    /// # Panics
    /// As [`Log::append`].
    pub fn append_all(
        &mut self,
        frames: impl AsRef<[Arc<Frame>]> + IntoIterator<Item = Arc<Frame>>,
        now: Duration,
        dropped: &mut Vec<Arc<Frame>>,
    ) {
        self.changes += 1;
        self.patterns.begin_notes(frames.as_ref().iter().map(|frame| frame.topics().len()).sum());
        frames.into_iter().for_each(|frame| self.append_next(frame, now, dropped));
        self.patterns.note_waiting();
    }

    fn append_next(&mut self, frame: Arc<Frame>, now: Duration, dropped: &mut Vec<Arc<Frame>>) {
        self.begin_append(frame.seq());
        self.appended.0 += 1;
        self.appended.1 += frame.wire(WireFormat::Chunked).len() as u64;
        let topics = frame.topics().len() as u32;
        self.add_frame(&frame, topics);
        let mut left = APPEND_DROPS;
        for topic in frame.topics() {
            let slot = self.find_or_insert(topic);
            self.push(slot, Arc::clone(&frame));
            self.drop_unretained(slot, nanoseconds(now), &mut left, dropped);
        }
        drop(frame);
        self.dropped_for_room += self.drop_for_room(dropped);
    }

    /// Appends a frame that was published before and comes back from a durable store. A topic from which it
    /// is gone there ([`Log::note_gone`]) does not get it back. It does not count as appended.
    ///
    /// # Panics
    /// Its number is not higher than all before.
    pub fn append_recovered(&mut self, frame: Arc<Frame>, now: Duration) {
        self.changes += 1;
        self.patterns.begin_notes(frame.topics().len());
        self.begin_append(frame.seq());
        let mut slots: SmallVec<[u32; 4]> = SmallVec::new();
        for topic in frame.topics() {
            let slot = self.find_or_insert(topic);
            let lost = &mut self.topics[slot].dropped;
            if lost.newest < frame.seq() {
                slots.push(slot);
                continue;
            }
            // Perhaps only private frames were known to be gone up to here.
            *lost = lost.and(Dropped::of(&frame));
            self.patterns.raise_floor(Dropped::of(&frame));
            self.remove_if_unused(slot);
        }
        if slots.is_empty() {
            return;
        }
        self.add_frame(&frame, slots.len() as u32);
        let (mut left, mut dropped) = (APPEND_DROPS, Vec::new());
        for slot in slots {
            self.push(slot, Arc::clone(&frame));
            self.drop_unretained(slot, nanoseconds(now), &mut left, &mut dropped);
        }
        drop(frame);
        self.drop_for_room(&mut dropped);
    }

    fn begin_append(&mut self, seq: u64) {
        assert!(seq > self.newest, "frame {seq} is appended after frame {}", self.newest);
        self.newest = seq;
    }

    /// Adds a frame that so many topics get.
    fn add_frame(&mut self, frame: &Arc<Frame>, topics: u32) {
        self.frames += 1;
        self.retained_bytes += frame_memory(frame);
        if frame.topics().len() > 1 {
            self.frame_topics.add(frame.seq(), topics);
        }
        self.published_ids.add(frame, self.keys);
        self.order.push(Arc::clone(frame));
    }

    /// Drops frames until there is room. Answers how many, each in each of its topics.
    fn drop_for_room(&mut self, dropped: &mut Vec<Arc<Frame>>) -> u64 {
        let at_most = Log::bytes_of_frames_at_most(self.limits.total_bytes);
        let mut count = 0;
        while self.bytes_of_frames() > at_most
            && let Some(slot) = self.classes.next_largest(&self.topics)
        {
            count += 1;
            self.drop_oldest(slot, dropped);
        }
        count
    }

    /// Drops at most `budget` frames that are too old, or that an append has left over, and checks no more
    /// topics than that. It also forgets patterns, and notes drops in patterns, that earlier calls have left
    /// over. Half of the budget is for a change of the retention that is under way ([`Log::set_retention`]).
    /// Where it had to stop, [`Log::next_expiry`] is not later than `now`.
    pub fn trim(&mut self, now: Duration, budget: usize, dropped: &mut Vec<Arc<Frame>>) {
        self.changes += 1;
        self.patterns.begin_notes(0);
        let now = nanoseconds(now);
        let changing = if self.change.is_some() { budget.div_ceil(2) } else { 0 };
        self.go_on_changing(changing);
        let shrinking = if self.shrinks_to.is_some() { (budget - changing).div_ceil(2) } else { 0 };
        self.go_on_shrinking(shrinking, dropped);
        let mut left = budget - changing - shrinking;
        while left > 0
            && let Some(due) = self.expiries.pop_due(now)
        {
            left -= 1;
            let topic = self.topics.get_mut(due.slot).and_then(|entry| entry.retained.as_mut());
            let Some(retained) = topic.filter(|retained| retained.expiry_stamp == due.stamp) else {
                continue;
            };
            (retained.expiry_stamp, retained.is_due_at_once) = (0, false);
            self.end_expiry();
            // The step that the entry took is the first frame's, where there is one to drop.
            let mut steps = left + 1;
            while let Some(at) = self.due_at(due.slot) {
                if !has_come(at, now) || steps == 0 {
                    self.queue_expiry(due.slot, at);
                    break;
                }
                self.drop_oldest(due.slot, dropped);
                steps -= 1;
            }
            left = left.min(steps);
        }
        self.patterns.forget_excess(left);
        self.patterns.note_waiting();
    }

    /// When to call [`Log::trim`] next, on the clock of `published`. It may turn out that nothing is too old
    /// by then, once for each topic whose oldest frame was dropped for another reason; then the next time is
    /// later.
    pub fn next_expiry(&self) -> Option<Duration> {
        let is_changing = self.change.is_some() || self.shrinks_to.is_some();
        let at =
            if is_changing || self.patterns.has_waiting() { Some(AT_ONCE) } else { self.expiries.next() };
        at.map(Duration::from_nanos)
    }

    /// Notes that a shard reads each of these topics from now on. While it does, the topic keeps its
    /// entry, and [`Log::shards_reading`] names the shard.
    ///
    /// # Panics
    /// The shard reads one of the topics already.
    pub fn add_reader(&mut self, topics: &[Topic], shard: usize) {
        self.changes += 1;
        for topic in topics {
            let slot = self.find_or_insert(topic);
            self.change_readers(slot, |readers| readers.insert(shard));
            self.readers += 1;
        }
        self.readers_version += u64::from(!topics.is_empty());
    }

    /// Ends what [`Log::add_reader`] began.
    ///
    /// # Panics
    /// The shard does not read one of the topics.
    pub fn remove_reader(&mut self, topics: &[Topic], shard: usize) {
        self.changes += 1;
        for topic in topics {
            let slot = self.find(topic).expect("a topic with readers has an entry");
            self.change_readers(slot, |readers| readers.remove(shard));
            self.readers -= 1;
            self.remove_if_unused(slot);
        }
        self.readers_version += u64::from(!topics.is_empty());
    }

    /// Notes that a shard reads each of these patterns from now on, as [`Log::add_reader`] does for topics.
    ///
    /// # Errors
    /// There are too many patterns. Nothing has changed then, apart from the order in which patterns are
    /// forgotten.
    ///
    /// # Panics
    /// The shard reads one of the patterns already.
    pub fn add_pattern_reader(
        &mut self,
        patterns: &[Pattern],
        shard: usize,
    ) -> Result<(), NoRoomForPatterns> {
        self.changes += 1;
        self.patterns.add_readers(patterns, shard)?;
        self.readers_version += u64::from(!patterns.is_empty());
        Ok(())
    }

    /// Ends what [`Log::add_pattern_reader`] began. The patterns are remembered while there is room.
    ///
    /// # Panics
    /// The shard does not read one of the patterns.
    pub fn remove_pattern_reader(&mut self, patterns: &[Pattern], shard: usize) {
        self.changes += 1;
        patterns.iter().for_each(|pattern| self.patterns.remove_reader(pattern, shard));
        self.readers_version += u64::from(!patterns.is_empty());
    }

    /// The shards that read one of these topics, or a pattern that matches one.
    pub fn shards_reading(&self, topics: &[Topic]) -> ShardSet {
        self.find_shards_reading(topics, &mut 0)
    }

    /// The same. Adds the steps of the walks that find the patterns of these topics to `steps`; each is some
    /// eight nanoseconds.
    pub fn find_shards_reading(&self, topics: &[Topic], steps: &mut usize) -> ShardSet {
        let mut shards = ShardSet::new();
        for slot in topics.iter().filter_map(|topic| self.find(topic)) {
            shards.union_with(&self.topics[slot].readers);
        }
        *steps += topics.iter().map(|topic| self.patterns.add_shards(topic, &mut shards)).sum::<usize>();
        shards
    }

    /// Changes with all changes of the readers of topics and patterns: while it is the same, so is every
    /// answer of [`Log::shards_reading`].
    pub fn readers_version(&self) -> u64 {
        self.readers_version
    }

    /// Changes with every call that may change the log: while it is the same, so is everything that the log
    /// says.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Pairs of a topic and a shard that reads it: what [`Log::add_reader`] has noted and
    /// [`Log::remove_reader`] has not ended.
    pub fn readers(&self) -> usize {
        self.readers
    }

    /// The same pairs with patterns.
    pub fn pattern_readers(&self) -> usize {
        self.patterns.readers()
    }

    /// Patterns that are read or remembered.
    pub fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    /// Topics that have frames or readers.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// What is kept of one topic; `None` for a topic that has neither frames nor readers.
    pub fn topic(&self, topic: &Topic) -> Option<TopicExtent> {
        let entry = &self.topics[self.find(topic)?];
        let retained = entry.retained.as_deref();
        let span = retained.and_then(|retained| Some((retained.oldest()?.seq(), retained.newest_seq()?)));
        Some(TopicExtent {
            frames: retained.map_or(0, RetainedFrames::len),
            bytes: retained.map_or(0, |retained| retained.frame_bytes),
            span,
            shards: entry.readers.clone(),
        })
    }

    /// Some of the topics that have frames or readers, at most `limit`, and what to give as `after` for the
    /// next ones. A topic that is there all the time is on exactly one page. A page may have fewer topics
    /// than `limit`, or none, and others may follow; the last one has no `after` for the next.
    pub fn topics_page(&self, after: Option<u64>, limit: usize) -> (Vec<Topic>, Option<u64>) {
        let mut page = Vec::new();
        let mut slot = after.map_or(0, |slot| u32::try_from(slot).unwrap_or(u32::MAX));
        for _ in 0..PAGE_SLOTS.max(limit.try_into().unwrap_or(u32::MAX)) {
            if page.len() >= limit || slot >= self.topics.end() {
                break;
            }
            if let Some(entry) = self.topics.get(slot) {
                page.push(entry.name.clone());
                slot += 1;
            } else {
                slot = self.topics.skip_unallocated(slot).max(slot + 1);
            }
        }
        (page, (slot < self.topics.end()).then_some(u64::from(slot)))
    }

    fn find(&self, topic: &Topic) -> Option<u32> {
        self.find_hashed(topic, self.keys.hash(topic.as_str()))
    }

    fn find_hashed(&self, topic: &Topic, hash: u64) -> Option<u32> {
        self.by_name.find(hash, |slot| {
            let entry = &self.topics[slot];
            entry.hash == hash && entry.name == *topic
        })
    }

    fn find_or_insert(&mut self, topic: &Topic) -> u32 {
        let hash = self.keys.hash(topic.as_str());
        if let Some(slot) = self.find_hashed(topic, hash) {
            return slot;
        }
        let dropped = self.forgotten.take(hash);
        let entry =
            TopicEntry { name: topic.clone(), hash, readers: ShardSet::new(), dropped, retained: None };
        self.reader_bytes += entry.bytes();
        let slot = self.topics.insert(entry);
        let topics = &self.topics;
        self.by_name.insert(hash, slot, |slot| topics[slot].hash);
        slot
    }

    /// The entry of a topic without frames and readers goes; what is known of it stays for as long as there
    /// is room.
    fn remove_if_unused(&mut self, slot: u32) {
        let entry = &self.topics[slot];
        if entry.retained.is_some() || !entry.readers.is_empty() {
            return;
        }
        let entry = self.topics.remove(slot);
        self.reader_bytes -= entry.bytes();
        let topics = &self.topics;
        self.by_name.remove(entry.hash, slot, |slot| topics[slot].hash);
        self.forgotten.insert(entry.hash, entry.dropped);
    }

    /// Changes the readers of a topic. `change` says whether it did something.
    fn change_readers(&mut self, slot: u32, change: impl FnOnce(&mut ShardSet) -> bool) {
        let readers = &mut self.topics[slot].readers;
        let before = readers.allocated_bytes();
        assert!(change(readers), "a shard reads a topic once at a time");
        self.reader_bytes = self.reader_bytes + readers.allocated_bytes() - before;
    }

    fn push(&mut self, slot: u32, frame: Arc<Frame>) {
        let entry = &mut self.topics[slot];
        if let Some(retained) = &mut entry.retained {
            let before = retained.overhead_bytes();
            retained.push(frame, self.keys);
            // A table of own ids that splits may take less memory than before.
            self.retained_bytes = self.retained_bytes + retained.overhead_bytes() - before;
            return self.classes.update(&mut self.topics, slot);
        }
        // The entry is borrowed from one field, the limits are others.
        let limits = match &self.change {
            Some(change) => change.limits_of(slot, &self.limits),
            None => &self.limits,
        };
        let mut retained = RetainedFrames::new(limits.rule_of(&entry.name));
        let expires = expires_at(&frame, limits.retention_at(retained.rule).age);
        retained.push(frame, self.keys);
        self.reader_bytes -= entry.bytes();
        self.retained_bytes += entry.bytes() + retained.overhead_bytes();
        entry.retained = Some(Box::new(retained));
        let class = class_of(entry.charge());
        self.classes.insert(&mut self.topics, slot, class);
        self.queue_expiry(slot, expires);
    }

    /// Drops what the topic's own retention no longer covers, within a budget. One that is left with too much
    /// is due at once in the queue by age; one that is left with frames that are too old is due there anyway.
    fn drop_unretained(&mut self, slot: u32, now: u64, left: &mut usize, dropped: &mut Vec<Arc<Frame>>) {
        // Two in any case, so that what is left of an excess becomes less with every append to the topic.
        let mut drops = 2.max(*left);
        let before = drops;
        while let Some(at) = self.due_at(slot).filter(|at| has_come(*at, now)) {
            if drops == 0 {
                if at == AT_ONCE {
                    self.queue_at_once(slot);
                }
                break;
            }
            self.drop_oldest(slot, dropped);
            drops -= 1;
        }
        *left = left.saturating_sub(before - drops);
    }

    /// Drops the oldest frame of a topic that has some. The entry goes with the last one, if there are no
    /// readers.
    fn drop_oldest(&mut self, slot: u32, dropped: &mut Vec<Arc<Frame>>) {
        let entry = &mut self.topics[slot];
        let Some(retained) = entry.retained.as_deref_mut() else { return };
        let before = retained.overhead_bytes();
        let Some(frame) = retained.pop_oldest(self.keys) else { return };
        entry.dropped.note(&frame);
        self.patterns.note_dropped(&entry.name, &frame);
        if retained.is_empty() {
            let is_queued = retained.expiry_stamp != 0;
            self.retained_bytes -= before + entry.bytes();
            self.reader_bytes += entry.bytes();
            self.classes.remove(&mut self.topics, slot);
            self.topics[slot].retained = None;
            if is_queued {
                self.end_expiry();
            }
            self.remove_if_unused(slot);
        } else {
            self.retained_bytes = self.retained_bytes + retained.overhead_bytes() - before;
            self.classes.update(&mut self.topics, slot);
        }
        if frame.topics().len() == 1 || self.frame_topics.remove_one(frame.seq()) {
            self.frames -= 1;
            self.retained_bytes -= frame_memory(&frame);
            self.published_ids.remove(&frame, self.keys);
            self.order.remove(frame.seq());
            dropped.push(frame);
        }
    }

    /// When a topic is to lose its oldest frame, if it has frames: at once where it has more than its
    /// retention covers.
    fn due_at(&self, slot: u32) -> Option<u64> {
        let retained = self.topics.get(slot)?.retained.as_deref()?;
        let Retention { events, bytes, age } = *self.limits_of(slot).retention_at(retained.rule);
        let has_too_much = retained.len() > events || retained.frame_bytes > bytes;
        Some(if has_too_much { AT_ONCE } else { expires_at(retained.oldest()?, age) })
    }

    /// Puts the topic, which has frames and no entry in the queue by age, into it.
    fn queue_expiry(&mut self, slot: u32, at: u64) {
        if let Some(retained) = self.topics[slot].retained.as_deref_mut() {
            retained.expiry_stamp = self.expiries.push(at, slot);
            retained.is_due_at_once = at == AT_ONCE;
        }
    }

    /// Makes the topic, which has more frames than its retention covers, due at once.
    fn queue_at_once(&mut self, slot: u32) {
        let Some(retained) =
            self.topics[slot].retained.as_deref_mut().filter(|retained| !retained.is_due_at_once)
        else {
            return;
        };
        if std::mem::take(&mut retained.expiry_stamp) != 0 {
            self.end_expiry();
        }
        self.queue_expiry(slot, AT_ONCE);
    }

    /// Notes that the entry of a topic in the queue by age is stale.
    fn end_expiry(&mut self) {
        let topics = &self.topics;
        self.expiries.end(|slot| stamp_of(topics, slot));
    }
}

/// The stamp of the topic's entry in the queue by age; zero: it has none.
fn stamp_of(topics: &Slots<TopicEntry>, slot: u32) -> u32 {
    topics.get(slot).and_then(|entry| entry.retained.as_ref()).map_or(0, |retained| retained.expiry_stamp)
}
