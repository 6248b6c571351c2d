//! The publishers' own ids of one topic.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::slot_table::HashKeys;

/// The own ids that retained frames of one topic bear.
pub(super) struct OwnIds {
    table: HashTable<OwnId>,
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
        OwnIds { table: HashTable::new(), text_bytes: 0 }
    }

    /// The memory that this is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<OwnIds>() + self.table.allocation_size() + self.text_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Notes that the frame `seq`, which is retained from now on, bears the id.
    pub(super) fn add(&mut self, text: &str, seq: u64, keys: HashKeys) {
        let hash = keys.hash(text) as u32;
        let is_it = |own: &OwnId| own.hash == hash && *own.text == *text;
        match self.table.entry(spread(hash), is_it, |own| spread(own.hash)) {
            Entry::Occupied(mut entry) => entry.get_mut().frames += 1,
            Entry::Vacant(entry) => {
                self.text_bytes += text.len();
                entry.insert(OwnId { text: text.into(), first: seq, frames: 1, hash });
            }
        }
    }

    /// Notes that a frame that bears the id is no longer retained.
    pub(super) fn remove(&mut self, text: &str, keys: HashKeys) {
        let hash = spread(keys.hash(text) as u32);
        let Ok(mut entry) = self.table.find_entry(hash, |own| *own.text == *text) else { return };
        entry.get_mut().frames -= 1;
        if entry.get().frames > 0 {
            return;
        }
        self.text_bytes -= text.len();
        entry.remove();
        if self.table.len().is_power_of_two() || self.table.is_empty() {
            self.table.shrink_to(2 * self.table.len(), |own| spread(own.hash));
        }
    }

    /// The first frame that bore the id, while a retained one does.
    pub(super) fn first(&self, text: &str, keys: HashKeys) -> Option<u64> {
        self.table.find(spread(keys.hash(text) as u32), |own| *own.text == *text).map(|own| own.first)
    }

    /// Each id with the number of retained frames that bear it, and its first frame.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.table.iter().map(|own| (&*own.text, own.frames as usize, own.first))
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }
}

/// A table looks at the lowest and at the highest bits of a hash.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
