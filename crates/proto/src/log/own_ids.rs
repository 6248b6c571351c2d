//! The publishers' own ids of one topic.

use crate::segments::SegmentTable;
use crate::slot_table::HashKeys;

/// The own ids that retained frames of one topic bear.
pub(super) struct OwnIds {
    table: SegmentTable<OwnId>,
    /// Bytes of the ids' texts.
    text_bytes: usize,
}

/// The entry lives while a retained frame of the topic bears the id.
struct OwnId {
    text: Box<str>,
    /// The first frame that bore it, retained or not: a resume from a repeated id repeats events, but loses
    /// none.
    first: u64,
    /// Retained frames that bear it.
    frames: u32,
    /// Half of the text's hash, so that a table that grows does not read the texts.
    hash: u32,
}

impl OwnIds {
    pub(super) fn new() -> OwnIds {
        OwnIds { table: SegmentTable::new(), text_bytes: 0 }
    }

    /// The memory that this is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<OwnIds>() + self.table.bytes() + self.text_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that the frame `seq`, which is retained from now on, bears the id.
    pub(super) fn add(&mut self, text: &str, seq: u64, keys: HashKeys) {
        let hash = keys.hash(text) as u32;
        let is_it = |own: &OwnId| own.hash == hash && *own.text == *text;
        if let Some(own) = self.table.find_mut(spread(hash), is_it) {
            own.frames += 1;
            return;
        }
        self.text_bytes += text.len();
        let own = OwnId { text: text.into(), first: seq, frames: 1, hash };
        self.table.insert(spread(hash), own, |own| spread(own.hash));
    }

    /// Notes that a frame that bears the id is no longer retained.
    pub(super) fn remove(&mut self, text: &str, keys: HashKeys) {
        let hash = spread(keys.hash(text) as u32);
        let is_it = |own: &OwnId| *own.text == *text;
        let Some(own) = self.table.find_mut(hash, is_it) else { return };
        own.frames -= 1;
        if own.frames > 0 {
            return;
        }
        self.text_bytes -= text.len();
        self.table.remove(hash, is_it, |own| spread(own.hash));
    }

    /// The first frame that bore the id, while a retained one does.
    pub(super) fn first(&self, text: &str, keys: HashKeys) -> Option<u64> {
        self.table.find(spread(keys.hash(text) as u32), |own| *own.text == *text).map(|own| own.first)
    }

    /// Each id with the number of retained frames that bear it, and its first frame.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.table.iter().map(|own| (&*own.text, own.frames as usize, own.first))
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self) {
        self.table.check(|own| spread(own.hash));
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }
}

/// The own ids that retained frames of all topics bear, for subscribers of patterns: these do not know which topics to
/// ask. It has hashes in place of texts. Two ids with one hash would be one id here; the log's keys are secret, so that no
/// client can compute such a pair, and by chance one in 2^64 pairs is one.
pub(super) struct OwnIdsOfAll {
    table: SegmentTable<OwnIdOfAny>,
}

struct OwnIdOfAny {
    hash: u64,
    /// As [`OwnId::first`].
    first: u64,
    frames: u32,
}

impl OwnIdsOfAll {
    pub(super) fn new() -> OwnIdsOfAll {
        OwnIdsOfAll { table: SegmentTable::new() }
    }

    /// The memory that this is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Notes that the frame `seq`, which is retained from now on, bears the id.
    pub(super) fn add(&mut self, text: &str, seq: u64, keys: HashKeys) {
        let hash = keys.hash(text);
        match self.table.find_mut(hash, |own| own.hash == hash) {
            Some(own) => own.frames += 1,
            None => self.table.insert(hash, OwnIdOfAny { hash, first: seq, frames: 1 }, |own| own.hash),
        }
    }

    /// Notes that no topic retains a frame any more that bears the id.
    pub(super) fn remove(&mut self, text: &str, keys: HashKeys) {
        let hash = keys.hash(text);
        let Some(own) = self.table.find_mut(hash, |own| own.hash == hash) else { return };
        own.frames -= 1;
        if own.frames == 0 {
            self.table.remove(hash, |own| own.hash == hash, |own| own.hash);
        }
    }

    /// The first frame that bore the id, while a retained one does.
    pub(super) fn first(&self, text: &str, keys: HashKeys) -> Option<u64> {
        let hash = keys.hash(text);
        self.table.find(hash, |own| own.hash == hash).map(|own| own.first)
    }

    /// Checks that exactly these frames are here, each by its id; for tests.
    pub(super) fn check<'t>(&self, frames: impl Iterator<Item = &'t str>, keys: HashKeys) {
        self.table.check(|own| own.hash);
        let mut count = 0;
        for text in frames {
            assert!(self.first(text, keys).is_some(), "a retained frame bears {text}");
            count += 1;
        }
        assert_eq!(self.table.iter().map(|own| own.frames).sum::<u32>(), count, "frames with an own id");
    }
}

/// A table uses the lowest, the highest, and some bits in between.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
