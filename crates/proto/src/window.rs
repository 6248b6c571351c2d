//! The frames of an audience that a sweep has not finished or a laggard still needs.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::frame::Frame;

/// Empty when every member has everything. Bounded by the laggards' limits, except that the newest frame stays, and
/// that what the members of an unfinished sweep need is never dropped (the shard takes no more mail meanwhile).
#[derive(Default)]
pub struct Window {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Every frame of the audience after this `seq` is here.
    complete_after: u64,
}

impl Window {
    /// A window that begins after `seq`.
    pub fn new(seq: u64) -> Window {
        Window { complete_after: seq, ..Window::default() }
    }

    /// Every frame of the audience after this `seq` is here.
    pub fn complete_after(&self) -> u64 {
        self.complete_after
    }

    /// The newest frame's `seq`.
    pub fn newest(&self) -> Option<u64> {
        self.frames.back().map(|frame| frame.seq())
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of the frames held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the audience's next frame.
    pub fn push(&mut self, frame: Arc<Frame>) {
        debug_assert!(self.newest().is_none_or(|newest| newest < frame.seq()));
        self.bytes += frame.size();
        self.frames.push_back(frame);
    }

    /// The frames after `seq`, which must not lie before [`Window::complete_after`].
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Arc<Frame>> {
        debug_assert!(seq >= self.complete_after);
        let start = self.frames.partition_point(|frame| frame.seq() <= seq);
        self.frames.range(start..)
    }

    /// How many frames, and bytes of them, come after `seq`.
    pub fn measure_after(&self, seq: u64) -> (usize, usize) {
        let start = self.frames.partition_point(|frame| frame.seq() <= seq);
        let bytes = self.frames.range(start..).map(|frame| frame.size()).sum();
        (self.frames.len() - start, bytes)
    }

    /// Drops everything up to `seq`: all readers have it.
    pub fn drop_until(&mut self, seq: u64) {
        while self.frames.front().is_some_and(|oldest| oldest.seq() <= seq) {
            self.drop_oldest();
        }
        self.complete_after = self.complete_after.max(seq);
        if self.frames.is_empty() {
            // A million audiences with an empty window each must not keep a million buffers.
            self.frames = VecDeque::new();
        }
    }

    /// Drops the oldest frames while there are more than `frames` or `bytes`, but none after `keep_after`, and never
    /// the newest: an event larger than the bound would else cost everybody their stream who does not take it in one
    /// send.
    pub fn bound(&mut self, frames: usize, bytes: usize, keep_after: u64) {
        while self.frames.len() > 1
            && (self.frames.len() > frames || self.bytes > bytes)
            && self.frames.front().is_some_and(|oldest| oldest.seq() <= keep_after)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.bytes -= frame.size();
            self.complete_after = frame.seq();
        }
    }
}
