//! The log of one shard, until the log of the process ([`crate::log`]) takes its place.
//!
//! Each shard holds a replica: pointers to the same frames, in the same order. A reader is a cursor;
//! the log answers which frames of its topics come after it, and whether any of them is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cursor::{Cursor, Epoch};
use crate::event::Topic;
use crate::frame::Frame;
use crate::limits::{LogLimits, Retention};
use crate::shrink::{push, shrink_map, shrink_queue};

/// The text that asks for everything retained.
pub const EARLIEST: &str = "earliest";

/// The recent frames, with an index by topic and one by the publishers' own ids.
pub struct Log {
    epoch: Epoch,
    retention: Retention,
    /// Contiguous in `seq`, so that a frame is found by subtraction.
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// The `seq` of the newest frame ever appended.
    head: u64,
    topics: HashMap<Topic, TopicIndex>,
    own_ids: HashMap<Box<str>, OwnId>,
    /// For topics without an entry: no frame of theirs after this one has been dropped.
    forgotten: u64,
}

/// One topic's frames. The entry lives while it has frames or readers.
#[derive(Default)]
struct TopicIndex {
    seqs: VecDeque<u64>,
    /// The newest frame of this topic that has been dropped.
    dropped: u64,
    readers: u32,
}

/// A publisher's own id. The entry lives while a frame that bears it does.
struct OwnId {
    /// The first frame that bore it, retained or not: a resume from a repeated id doubles rather than loses.
    first: u64,
    /// Retained frames that bear it.
    frames: usize,
}

/// Where a resuming reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The reader has, or can no longer get, everything up to here.
    pub cursor: u64,
    /// Events between what it asked for and `cursor` may be missing.
    pub gap: bool,
}

/// What the log keeps of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicExtent {
    /// Frames retained.
    pub frames: usize,
    /// The `seq` of the oldest and of the newest of them.
    pub span: Option<(u64, u64)>,
}

impl Log {
    /// An empty log.
    pub fn new(epoch: Epoch, limits: &LogLimits) -> Log {
        let bytes = limits.retention.bytes.min(limits.total_bytes);
        let retention = Retention { bytes, ..limits.retention };
        Log {
            epoch,
            retention,
            frames: VecDeque::new(),
            bytes: 0,
            head: 0,
            topics: HashMap::new(),
            own_ids: HashMap::new(),
            forgotten: 0,
        }
    }

    /// The identity of this log's lifetime.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest `seq`, retained or not; zero before the first event.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Frames retained.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing is retained.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of the frames retained.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the next frame and drops what retention no longer covers.
    ///
    /// # Panics
    /// `frame` is not the next in order: the hub gives every shard every frame.
    pub fn append(&mut self, frame: Arc<Frame>, now: Duration) {
        assert_eq!(frame.seq(), self.head + 1, "a shard has missed a frame");
        self.head = frame.seq();
        self.bytes += frame.size();
        for topic in frame.topics() {
            // The entry's key is cloned only where the topic is new.
            match self.topics.get_mut(topic) {
                Some(index) => push(&mut index.seqs, self.head),
                None => {
                    let mut index = TopicIndex { dropped: self.forgotten, ..TopicIndex::default() };
                    push(&mut index.seqs, self.head);
                    self.topics.insert(topic.clone(), index);
                }
            }
        }
        if let Some(id) = frame.own_id() {
            match self.own_ids.get_mut(id) {
                Some(own) => own.frames += 1,
                None => {
                    self.own_ids.insert(id.into(), OwnId { first: self.head, frames: 1 });
                }
            }
        }
        push(&mut self.frames, frame);
        self.trim(now);
    }

    /// Drops what is over the retention's count or bytes, or has reached its age.
    pub fn trim(&mut self, now: Duration) {
        while let Some(oldest) = self.frames.front() {
            let kept = self.frames.len() <= self.retention.events
                && self.bytes <= self.retention.bytes
                && now.saturating_sub(oldest.published()) < self.retention.age;
            if kept {
                break;
            }
            self.drop_oldest();
        }
    }

    /// When the oldest frame becomes too old, on the clock of `published`.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.frames.front().map(|oldest| oldest.published().saturating_add(self.retention.age))
    }

    fn drop_oldest(&mut self) {
        let Some(frame) = self.frames.pop_front() else { return };
        shrink_queue(&mut self.frames);
        self.bytes -= frame.size();
        for topic in frame.topics() {
            let Some(index) = self.topics.get_mut(topic) else { continue };
            let dropped = index.seqs.pop_front();
            debug_assert_eq!(dropped, Some(frame.seq()));
            shrink_queue(&mut index.seqs);
            index.dropped = frame.seq();
            self.forget_if_unused(topic);
        }
        if let Some(id) = frame.own_id()
            && let Some(own) = self.own_ids.get_mut(id)
        {
            own.frames -= 1;
            if own.frames == 0 {
                self.own_ids.remove(id);
                shrink_map(&mut self.own_ids);
            }
        }
    }

    /// Notes a reader of these topics: while there is one, the log knows exactly what of them it dropped.
    pub fn hold(&mut self, topics: &[Topic]) {
        for topic in topics {
            let forgotten = self.forgotten;
            let index = self
                .topics
                .entry(topic.clone())
                .or_insert_with(|| TopicIndex { dropped: forgotten, ..TopicIndex::default() });
            index.readers += 1;
        }
    }

    /// Ends what [`Log::hold`] began.
    pub fn release(&mut self, topics: &[Topic]) {
        for topic in topics {
            if let Some(index) = self.topics.get_mut(topic) {
                index.readers -= 1;
                self.forget_if_unused(topic);
            }
        }
    }

    fn forget_if_unused(&mut self, topic: &Topic) {
        if let Some(index) = self.topics.get(topic)
            && index.readers == 0
            && index.seqs.is_empty()
        {
            self.forgotten = self.forgotten.max(index.dropped);
            self.topics.remove(topic);
            shrink_map(&mut self.topics);
        }
    }

    /// Where a reader of `topics` starts that says it has everything up to the event `id`.
    ///
    /// An id that nobody knows (another epoch, a number not yet reached, a publisher's id that is no
    /// longer retained) is a gap, and the reader gets everything retained.
    pub fn resume(&self, id: &str, topics: &[Topic]) -> Start {
        let available = self.available_after(topics);
        if id == EARLIEST {
            return Start { cursor: available, gap: false };
        }
        match self.seq_of(id) {
            Some(seq) if seq >= available => Start { cursor: seq, gap: false },
            _ => Start { cursor: available, gap: true },
        }
    }

    fn seq_of(&self, id: &str) -> Option<u64> {
        match Cursor::parse(id) {
            Some(cursor) if cursor.epoch == self.epoch => (cursor.seq <= self.head).then_some(cursor.seq),
            _ => self.own_ids.get(id).map(|own| own.first),
        }
    }

    /// Every frame of `topics` after this `seq` is here; at or before it some have been dropped.
    pub fn available_after(&self, topics: &[Topic]) -> u64 {
        topics
            .iter()
            .map(|topic| self.topics.get(topic).map_or(self.forgotten, |index| index.dropped))
            .max()
            .unwrap_or(self.head)
    }

    /// The retained frames of `topics` after `seq`, in order, each once.
    pub fn after<'log>(&'log self, topics: &[Topic], seq: u64) -> After<'log> {
        let queues = topics
            .iter()
            .filter_map(|topic| self.topics.get(topic))
            .map(|index| (&index.seqs, index.seqs.partition_point(|&other| other <= seq)))
            .filter(|(seqs, next)| *next < seqs.len())
            .collect();
        After { frames: &self.frames, queues }
    }

    /// What is kept of one topic; `None` for a topic that has neither frames nor readers.
    pub fn extent(&self, topic: &Topic) -> Option<TopicExtent> {
        self.topics.get(topic).map(TopicIndex::extent)
    }

    /// Publishers' own ids that are known.
    pub fn own_ids(&self) -> usize {
        self.own_ids.len()
    }

    /// What [`Log::hold`] has noted and [`Log::release`] has not ended: topics, one for each reader.
    pub fn holds(&self) -> usize {
        self.topics.values().map(|index| index.readers as usize).sum()
    }

    /// Goes through everything and checks what must always hold between two calls; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        assert_eq!(self.bytes, self.frames.iter().map(|frame| frame.size()).sum::<usize>(), "bytes retained");
        let indexed: usize = self.topics.values().map(|index| index.seqs.len()).sum();
        let named: usize = self.frames.iter().map(|frame| frame.topics().len()).sum();
        assert_eq!(indexed, named, "frames in the indexes of topics");
        let used = |index: &TopicIndex| index.readers > 0 || !index.seqs.is_empty();
        assert!(self.topics.values().all(used), "a topic without frames and readers");
        let borne: usize = self.own_ids.values().map(|own| own.frames).sum();
        let bearers = self.frames.iter().filter(|frame| frame.own_id().is_some()).count();
        assert_eq!(borne, bearers, "frames that bear ids of their own");
        assert!(self.own_ids.values().all(|own| own.frames > 0), "an id that no frame bears");
    }

    /// All topics that have frames or readers.
    pub fn extents(&self) -> impl Iterator<Item = (&Topic, TopicExtent)> {
        self.topics.iter().map(|(topic, index)| (topic, index.extent()))
    }
}

impl TopicIndex {
    fn extent(&self) -> TopicExtent {
        let span = self.seqs.front().zip(self.seqs.back()).map(|(oldest, newest)| (*oldest, *newest));
        TopicExtent { frames: self.seqs.len(), span }
    }
}

/// The frames of [`Log::after`]: the topics' indexes, merged.
pub struct After<'log> {
    frames: &'log VecDeque<Arc<Frame>>,
    queues: SmallVec<[(&'log VecDeque<u64>, usize); 2]>,
}

impl<'log> Iterator for After<'log> {
    type Item = &'log Arc<Frame>;

    fn next(&mut self) -> Option<&'log Arc<Frame>> {
        let next = self.queues.iter().filter_map(|(seqs, at)| seqs.get(*at)).min().copied()?;
        for (seqs, at) in &mut self.queues {
            // An event may stand in several of the reader's topics; all of them move past it.
            if seqs.get(*at) == Some(&next) {
                *at += 1;
            }
        }
        let first = self.frames.front()?.seq();
        self.frames.get((next - first) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    const SECOND: Duration = Duration::from_secs(1);

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn log(frames: usize) -> Log {
        let retention = Retention { events: frames, bytes: 1 << 20, age: 60 * SECOND };
        Log::new(Epoch::new(7), &LogLimits { retention, ..LogLimits::default() })
    }

    fn append_at(log: &mut Log, event: Event, now: Duration) {
        let seq = log.head() + 1;
        let id = Cursor { epoch: log.epoch(), seq }.to_string();
        log.append(Arc::new(Frame::encode(seq, &id, event, now)), now);
    }

    fn append(log: &mut Log, name: &str) {
        append_at(log, Event::new(topic(name)).data("x"), Duration::ZERO);
    }

    fn append_own(log: &mut Log, id: &str) {
        let event = Event::new(topic("a")).id(EventId::new(id).unwrap());
        append_at(log, event.data("x"), Duration::ZERO);
    }

    fn seqs(log: &Log, topics: &[Topic], after: u64) -> Vec<u64> {
        log.after(topics, after).map(|frame| frame.seq()).collect()
    }

    fn id(log: &Log, seq: u64) -> String {
        Cursor { epoch: log.epoch(), seq }.to_string()
    }

    #[test]
    fn readers_get_their_topics_in_order_and_each_event_once() {
        let mut log = log(100);
        append(&mut log, "a");
        append(&mut log, "b");
        append_at(&mut log, Event::new(topic("a")).also(topic("b")).unwrap().data("x"), Duration::ZERO);
        append(&mut log, "c");
        append(&mut log, "a");
        assert_eq!(seqs(&log, &[topic("a")], 0), [1, 3, 5]);
        assert_eq!(seqs(&log, &[topic("a"), topic("b")], 0), [1, 2, 3, 5]);
        assert_eq!(seqs(&log, &[topic("a"), topic("b")], 3), [5]);
        assert_eq!(seqs(&log, &[topic("nobody")], 0), [] as [u64; 0]);
    }

    #[test]
    fn retention_by_count_bytes_and_age() {
        let mut by_count = log(2);
        for _ in 0..5 {
            append(&mut by_count, "a");
        }
        assert_eq!(seqs(&by_count, &[topic("a")], 0), [4, 5]);

        let mut by_bytes = log(100);
        by_bytes.retention.bytes = 3000;
        for _ in 0..5 {
            append_at(&mut by_bytes, Event::new(topic("a")).data("x".repeat(1000)), Duration::ZERO);
        }
        assert_eq!(seqs(&by_bytes, &[topic("a")], 0), [4, 5]);
        assert!(by_bytes.bytes() <= 3000);

        let mut by_age = log(100);
        append_at(&mut by_age, Event::new(topic("a")).data("x"), SECOND);
        append_at(&mut by_age, Event::new(topic("a")).data("x"), 30 * SECOND);
        assert_eq!(by_age.next_expiry(), Some(61 * SECOND));
        by_age.trim(61 * SECOND - Duration::from_nanos(1));
        assert_eq!(by_age.len(), 2);
        // At the very moment that `next_expiry` named: else a shard would wake for it and find nothing to do.
        by_age.trim(61 * SECOND);
        assert_eq!(seqs(&by_age, &[topic("a")], 0), [2]);
    }

    /// After a burst of small frames had left a log that is bounded by bytes, its queues were as large as ever.
    #[test]
    fn a_burst_of_small_frames_leaves_no_large_queues() {
        let mut log = log(1 << 20);
        let one = Event::new(topic("a")).data("x".repeat(50_000));
        for _ in 0..5_000 {
            append(&mut log, "a");
        }
        for _ in 0..40 {
            append_at(&mut log, one.clone(), Duration::ZERO);
        }
        assert!(log.len() < 40, "only large ones are left");
        assert!(log.frames.capacity() < 100, "{}", log.frames.capacity());
        assert!(log.topics[&topic("a")].seqs.capacity() < 100);
    }

    #[test]
    fn a_cursor_before_what_is_retained_is_a_gap() {
        let mut log = log(2);
        for _ in 0..5 {
            append(&mut log, "a");
        }
        let a = [topic("a")];
        assert_eq!(log.resume(&id(&log, 2), &a), Start { cursor: 3, gap: true });
        // Everything after 3 is retained, so a reader at 3 misses nothing.
        assert_eq!(log.resume(&id(&log, 3), &a), Start { cursor: 3, gap: false });
        assert_eq!(log.resume(&id(&log, 5), &a), Start { cursor: 5, gap: false });
        assert_eq!(log.resume(EARLIEST, &a), Start { cursor: 3, gap: false });
    }

    #[test]
    fn unknown_epochs_ids_and_future_numbers_are_gaps() {
        let mut log = log(10);
        append(&mut log, "a");
        let a = [topic("a")];
        let start = Start { cursor: 0, gap: true };
        assert_eq!(log.resume(&Cursor { epoch: Epoch::new(8), seq: 1 }.to_string(), &a), start);
        assert_eq!(log.resume(&id(&log, 2), &a), start);
        assert_eq!(log.resume("never-seen", &a), start);
    }

    #[test]
    fn traffic_of_other_topics_is_no_gap_for_a_quiet_one_that_is_read() {
        let mut log = log(2);
        let quiet = [topic("quiet")];
        log.hold(&quiet);
        append(&mut log, "quiet");
        for _ in 0..5 {
            append(&mut log, "busy");
        }
        assert_eq!(log.resume(&id(&log, 1), &quiet), Start { cursor: 1, gap: false });
        assert_eq!(log.resume(&id(&log, 0), &quiet), Start { cursor: 1, gap: true });
        // Once nobody reads it the log may forget, and then says "gap" rather than nothing.
        log.release(&quiet);
        append(&mut log, "busy");
        assert!(log.resume(&id(&log, 0), &quiet).gap);
        assert!(log.extent(&quiet[0]).is_none());
    }

    #[test]
    fn own_ids_resume_at_their_first_use_and_go_with_their_last() {
        let mut log = log(3);
        append_own(&mut log, "one");
        append_own(&mut log, "one");
        append(&mut log, "a");
        let a = [topic("a")];
        assert_eq!(log.resume("one", &a), Start { cursor: 1, gap: false });
        append(&mut log, "a");
        assert_eq!(log.resume("one", &a), Start { cursor: 1, gap: false });
        append(&mut log, "a");
        assert!(log.resume("one", &a).gap);
        assert!(log.own_ids.is_empty());
    }

    /// The entry of a repeated id used to go with the first frame that bore it. The third then counted as
    /// the first, and whoever had seen only the second lost, without a sign, what lay between the two.
    #[test]
    fn an_own_id_whose_first_frame_is_gone_still_loses_nothing() {
        let mut log = log(3);
        append_own(&mut log, "one");
        append_own(&mut log, "one");
        append(&mut log, "a");
        append(&mut log, "a");
        append_own(&mut log, "one");
        let a = [topic("a")];
        assert_eq!(log.resume("one", &a), Start { cursor: 2, gap: true });
        assert_eq!(seqs(&log, &a, 2), [3, 4, 5]);
    }
}
