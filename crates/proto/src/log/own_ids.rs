//! The publishers' own ids that the public or the private frames of one topic bear.

use crate::segments::SegmentTable;
use crate::slot_table::HashKeys;

/// The own ids that retained frames of one topic bear: its public ones, or its private ones. They are apart,
/// so that a subscriber that does not see private events learns nothing of their ids.
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

/// A table uses the lowest, the highest, and some bits in between.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
