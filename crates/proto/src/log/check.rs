//! What must always hold, for tests.

use std::collections::HashMap;

use super::expiry::{AT_ONCE, NEVER, expires_at};
use super::own_ids::OwnIds;
use super::topic::{RetainedFrames, TopicEntry, frame_memory};
use super::{Log, stamp_of};
use crate::pattern::Pattern;

impl Log {
    /// Goes through everything and checks what must always hold between two calls; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        self.topics.check();
        self.by_name.check(|slot| self.topics[slot].hash);
        self.frame_topics.check();
        self.published_ids.check();
        self.forgotten.check();
        self.classes.check(&self.topics);
        self.patterns.check(self.newest);
        self.order.check();
        self.check_names();
        self.check_sums();
        self.check_expiries();
        for (slot, entry) in self.topics.iter() {
            let used = entry.retained.is_some() || !entry.readers.is_empty();
            assert!(used, "topic {} has neither frames nor readers", entry.name);
            if let Some(retained) = &entry.retained {
                self.check_topic(slot, entry, retained);
            }
        }
        let has_frames = self.topics.iter().any(|(_, entry)| entry.retained.is_some());
        let at_most = self.limits.total_bytes;
        assert!(!has_frames || self.bytes() <= at_most, "{} bytes in the log", self.bytes());
    }

    /// The numbers of all retained frames, in order; for tests.
    pub fn numbers(&self) -> Vec<u64> {
        self.order.after(0).map(|frame| frame.seq()).collect()
    }

    /// Whether a shard reads this pattern; for tests.
    pub fn is_pattern_read(&self, pattern: &Pattern, shard: usize) -> bool {
        self.patterns.is_read(pattern, shard)
    }

    /// How many patterns a shard reads; for tests.
    pub fn patterns_read_by(&self, shard: usize) -> usize {
        self.patterns.read_by(shard)
    }

    /// Whether a pattern is read or remembered; for tests.
    pub fn has_pattern(&self, pattern: &Pattern) -> bool {
        self.patterns.has(pattern)
    }

    fn check_names(&self) {
        assert_eq!(self.by_name.len(), self.topics.len(), "topics by their name");
        for (slot, entry) in self.topics.iter() {
            assert_eq!(entry.hash, self.keys.hash(entry.name.as_str()), "the hash of {}", entry.name);
            assert_eq!(self.find(&entry.name), Some(slot), "topic {} is found", entry.name);
        }
    }

    fn check_sums(&self) {
        let (mut retained_bytes, mut reader_bytes, mut readers) = (0, 0, 0);
        // Of each frame, the topics that retain it, by their count.
        let mut frames = HashMap::new();
        for (_, entry) in self.topics.iter() {
            readers += entry.readers.len();
            reader_bytes += entry.readers.allocated_bytes();
            let Some(retained) = &entry.retained else {
                reader_bytes += entry.bytes();
                continue;
            };
            retained_bytes += entry.bytes() + retained.overhead_bytes();
            for (seq, frame) in retained.queues(true).flatten() {
                assert_eq!(*seq, frame.seq(), "a frame's number in the index");
                assert!(frame.topics().contains(&entry.name), "a frame in a foreign topic");
                frames.entry(*seq).or_insert((frame, 0)).1 += 1;
            }
        }
        let (mut counted, mut with_id) = (0, 0);
        for (seq, (frame, topics)) in &frames {
            retained_bytes += frame_memory(frame);
            let is_counted = frame.topics().len() > 1;
            counted += usize::from(is_counted);
            let has_id = frame.own_id().is_some();
            with_id += usize::from(has_id);
            assert_eq!(self.published_ids.has(frame, self.keys), has_id, "the id of frame {seq}");
            assert_eq!(self.frame_topics.get(*seq), is_counted.then_some(*topics), "topics of frame {seq}");
        }
        assert_eq!(self.frame_topics.len(), counted, "frames of several topics");
        assert_eq!(self.published_ids.len(), with_id, "frames with own ids");
        assert_eq!(self.frames, frames.len(), "distinct frames");
        assert_eq!(self.order.len(), frames.len(), "frames in their order");
        for frame in self.order.after(0) {
            assert!(frames.contains_key(&frame.seq()), "frame {} is retained by a topic", frame.seq());
        }
        assert_eq!(self.retained_bytes, retained_bytes, "bytes of frames and of their topics");
        assert_eq!(self.reader_bytes, reader_bytes, "bytes of topics that are only read");
        assert_eq!(self.readers, readers, "pairs of a topic and a shard");
    }

    fn check_topic(&self, slot: u32, entry: &TopicEntry, retained: &RetainedFrames) {
        let name = &entry.name;
        assert!(entry.dropped.newest_public <= entry.dropped.newest, "what was dropped of {name}");
        let limits = self.limits_of(slot);
        let retention = limits.retention_at(retained.rule);
        assert_eq!(retained.rule, limits.rule_of(name), "the retention of {name}");
        assert!(!retained.is_empty(), "no frames in {name}");
        let is_within = retained.len() <= retention.events && retained.frame_bytes <= retention.bytes;
        let (frames, bytes) = (retained.len(), retained.frame_bytes);
        assert!(is_within || retained.is_due_at_once, "{frames} frames and {bytes} bytes in {name}");
        let (mut bytes, mut own_ids) = (0, [HashMap::new(), HashMap::new()]);
        for queue in retained.queues(true) {
            let mut previous = entry.dropped.newest;
            for (seq, frame) in queue {
                assert!(*seq > previous && *seq <= self.newest, "the order of the frames in {name}");
                previous = *seq;
                bytes += frame.size();
                if let Some(id) = frame.own_id() {
                    own_ids[usize::from(frame.private())].entry(id).or_insert((0, *seq)).0 += 1;
                }
            }
        }
        for frame in retained.queues(false).flatten() {
            assert!(!frame.1.private(), "a private frame among the public ones");
        }
        assert_eq!(retained.frame_bytes, bytes, "bytes of the frames in {name}");
        for (kept, borne) in retained.own_ids().into_iter().zip(own_ids) {
            assert_eq!(
                kept.map(OwnIds::len),
                (!borne.is_empty()).then_some(borne.len()),
                "own ids of {name}"
            );
            let Some(kept) = kept else { continue };
            kept.check();
            let mut text_bytes = 0;
            for (id, frames, first) in kept.iter() {
                let (expected, retained) = borne[id];
                assert_eq!(frames, expected, "frames of {name} that bear {id}");
                assert!(first <= retained, "{id} was borne first by frame {retained} of {name}, not {first}");
                text_bytes += id.len();
            }
            assert_eq!(kept.text_bytes(), text_bytes);
        }
    }

    fn check_expiries(&self) {
        let mut entries = HashMap::new();
        for entry in self.expiries.check(|slot| stamp_of(&self.topics, slot)) {
            assert!(entries.insert(entry.slot, entry.at).is_none(), "one entry for each topic");
        }
        for (slot, entry) in self.topics.iter() {
            let Some(retained) = &entry.retained else { continue };
            let oldest = retained.oldest().expect("a topic with frames has an oldest");
            let at = match retained.is_due_at_once {
                true => AT_ONCE,
                false => expires_at(oldest, self.limits_of(slot).retention_at(retained.rule).age),
            };
            match entries.get(&slot) {
                Some(queued) => assert!(*queued <= at, "topic {} expires before its entry", entry.name),
                None => assert_eq!(at, NEVER, "topic {} has no entry in the queue by age", entry.name),
            }
        }
    }
}
