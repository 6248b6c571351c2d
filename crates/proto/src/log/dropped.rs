//! What a topic has lost, for subscribers with and without a grant for private frames.

use crate::frame::Frame;

/// Two numbers, so that a subscriber without a grant is not told of a gap where only private frames were
/// dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// No frame after this one has been dropped.
    pub(super) newest: u64,
    /// No public frame after this one has been dropped. At most `newest`.
    pub(super) newest_public: u64,
}

impl Dropped {
    /// Every frame that the subscriber may see after this number is there.
    pub(super) fn seen_by(self, sees_private: bool) -> u64 {
        if sees_private { self.newest } else { self.newest_public }
    }

    /// What is dropped with this frame alone.
    pub(super) fn of(frame: &Frame) -> Dropped {
        Dropped { newest: frame.seq(), newest_public: if frame.private() { 0 } else { frame.seq() } }
    }

    /// Notes that a frame is dropped that is newer than all that were dropped before.
    pub(super) fn note(&mut self, frame: &Frame) {
        self.newest = frame.seq();
        if !frame.private() {
            self.newest_public = frame.seq();
        }
    }

    /// What has been dropped of this and of another topic.
    pub(super) fn and(self, other: Dropped) -> Dropped {
        Dropped {
            newest: self.newest.max(other.newest),
            newest_public: self.newest_public.max(other.newest_public),
        }
    }
}
