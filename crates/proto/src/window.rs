//! The frames of an audience that an unfinished sweep still has to bring to some member.

use smallvec::SmallVec;

use crate::frames::{FrameKey, FrameStore};
use crate::shrink::shrink_list;

/// Keys of frames, in the order of their numbers. Each is a reference to the store.
///
/// An audience has a window only while a sweep of it is unfinished. Laggards need none: they read from the
/// log.
#[derive(Default)]
pub struct Window {
    frames: SmallVec<[FrameKey; 4]>,
    bytes: usize,
}

impl Window {
    /// Adds the audience's next frame, and a reference to it.
    pub fn push(&mut self, key: FrameKey, store: &mut FrameStore) {
        debug_assert!(self.frames.last().is_none_or(|&newest| store.seq(newest) < store.seq(key)));
        self.bytes += store.get(key).size();
        self.frames.push(store.add_reference(key));
    }

    /// The position of the first frame after `seq`.
    pub fn position_after(&self, seq: u64, store: &FrameStore) -> usize {
        self.frames.partition_point(|&key| store.seq(key) <= seq)
    }

    /// The frames from this position on.
    pub fn from(&self, position: usize) -> &[FrameKey] {
        &self.frames[position..]
    }

    /// Releases everything up to `seq`: every member has it.
    pub fn drop_until(&mut self, seq: u64, store: &mut FrameStore) {
        let count = self.position_after(seq, store);
        for key in self.frames.drain(..count) {
            self.bytes -= store.get(key).size();
            store.drop_reference(key);
        }
        shrink_list(&mut self.frames);
    }

    /// Releases everything.
    pub fn clear(&mut self, store: &mut FrameStore) {
        for key in self.frames.drain(..) {
            store.drop_reference(key);
        }
        self.bytes = 0;
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of the frames in it. Other windows may have the same frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
