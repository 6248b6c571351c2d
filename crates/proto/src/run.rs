//! Consecutive frames as one contiguous piece of bytes: what one send carries.
//!
//! Built once for all members at the same cursor. A run of one frame is the frame's own bytes; only
//! longer ones are copied together.

use crate::frames::{FrameKey, FrameStore};
use crate::limits::RUN_BYTES;
use crate::link::Encoding;
use crate::shrink::shrink_buffer;
use crate::unsent::Unsent;

/// A scratch piece of wire bytes, reused from slice to slice. It holds references to its frames until it is
/// cleared.
#[derive(Default)]
pub struct Run {
    frames: Vec<FrameKey>,
    /// Where each frame ends in the bytes.
    ends: Vec<usize>,
    /// The frames' bytes, empty where there is only one.
    joined: Vec<u8>,
    encoding: Encoding,
    /// The cursor of the subscribers that need this run.
    after: u64,
    /// The cursor of a subscriber that was given all of it.
    end: u64,
}

/// Where a send stopped.
#[derive(Debug)]
pub struct Cut {
    /// The last frame that went out whole, or the cursor before the run.
    pub cursor: u64,
    /// The frame that was begun and not finished, with a reference to it.
    pub unsent: Option<Unsent>,
}

impl Run {
    /// Fills the run with frames that follow the cursor `after`, until [`RUN_BYTES`] would be exceeded; the
    /// first frame goes in whatever its size. `end` is the cursor of a subscriber that was given all
    /// `frames`: it may lie beyond the last of them.
    pub fn fill(
        &mut self,
        after: u64,
        end: u64,
        encoding: Encoding,
        frames: &[FrameKey],
        store: &mut FrameStore,
    ) {
        self.clear(store);
        (self.after, self.encoding) = (after, encoding);
        let mut length = 0;
        for &key in frames {
            let more = store.get(key).wire(encoding).len();
            if length > 0 && length + more > RUN_BYTES {
                break;
            }
            length += more;
            self.frames.push(store.add_reference(key));
            self.ends.push(length);
        }
        let is_whole = self.frames.len() == frames.len();
        self.end = match self.frames.last() {
            Some(&last) if !is_whole => store.seq(last),
            _ => end,
        };
        if self.frames.len() > 1 {
            self.joined.reserve(length);
            for &key in &self.frames {
                self.joined.extend_from_slice(store.get(key).wire(encoding));
            }
        }
    }

    /// The run serves subscribers at another cursor that need the same frames.
    pub fn set_after(&mut self, after: u64) {
        self.after = after;
    }

    /// Lets go of the frames.
    pub fn clear(&mut self, store: &mut FrameStore) {
        for key in self.frames.drain(..) {
            store.drop_reference(key);
        }
        self.ends.clear();
        self.joined.clear();
    }

    /// Before a time without sends: lets go of the frames, and of the memory that a long run needed.
    pub fn shrink_for_idle(&mut self, store: &mut FrameStore) {
        self.clear(store);
        shrink_buffer(&mut self.frames);
        shrink_buffer(&mut self.ends);
        shrink_buffer(&mut self.joined);
    }

    /// The wire bytes; empty where there was no frame to send.
    pub fn bytes<'run>(&'run self, store: &'run FrameStore) -> &'run [u8] {
        match *self.frames.as_slice() {
            [] => &[],
            [only] => store.get(only).wire(self.encoding),
            _ => &self.joined,
        }
    }

    /// How many wire bytes there are.
    pub fn byte_len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The frames, in their order.
    pub fn frames(&self) -> &[FrameKey] {
        &self.frames
    }

    /// Frames in the run.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there was nothing to send.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The cursor after the whole run.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many frames went out whole when `sent` bytes did.
    pub fn whole_frames(&self, sent: usize) -> usize {
        self.ends.partition_point(|&end| end <= sent)
    }

    /// Where a subscriber stands that got only the first `sent` bytes, which are fewer than all.
    pub fn cut(&self, sent: usize, store: &mut FrameStore) -> Cut {
        let whole = self.whole_frames(sent);
        let (cursor, begun_at) = match whole {
            0 => (self.after, 0),
            _ => (store.seq(self.frames[whole - 1]), self.ends[whole - 1]),
        };
        let begun = sent > begun_at;
        let unsent = begun.then(|| Unsent::frame(self.frames[whole], self.encoding, sent - begun_at, store));
        Cut { cursor, unsent }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, Topic};
    use crate::frame::{Frame, WireFormat};

    fn frames(count: u64, size: usize, store: &mut FrameStore) -> Vec<FrameKey> {
        let topic = Topic::new("a").unwrap();
        let frame = |seq: u64| {
            let event = Event::new(topic.clone()).with_data("x".repeat(size));
            Arc::new(Frame::encode(seq * 10, &seq.to_string(), event, Duration::ZERO))
        };
        (1..=count).map(|seq| store.insert(frame(seq))).collect()
    }

    #[test]
    fn every_cut_names_the_last_whole_frame_and_the_rest_of_the_next() {
        for format in [WireFormat::Chunked, WireFormat::Plain] {
            for count in [1, 3] {
                let mut store = FrameStore::default();
                let keys = frames(count, 20, &mut store);
                let mut run = Run::default();
                run.fill(5, count * 10, format.into(), &keys, &mut store);
                let wire = |key: &FrameKey| store.get(*key).wire(format).to_vec();
                let all: Vec<u8> = keys.iter().flat_map(wire).collect();
                assert_eq!(run.bytes(&store), all);
                for sent in 0..all.len() {
                    let cut = run.cut(sent, &mut store);
                    let whole = keys.iter().filter(|key| store.seq(**key) <= cut.cursor);
                    let done: usize = whole.map(|key| store.get(*key).wire(format).len()).sum();
                    let next = *keys.iter().find(|key| store.seq(**key) > cut.cursor).unwrap();
                    match cut.unsent {
                        None => assert_eq!(sent, done),
                        Some(unsent) => {
                            assert_eq!(unsent.seq(&store), Some(store.seq(next)));
                            let next_end = done + store.get(next).wire(format).len();
                            assert_eq!(unsent.bytes(&store), &all[sent..next_end]);
                            unsent.drop_reference(&mut store);
                        }
                    }
                    if sent < store.get(keys[0]).wire(format).len() {
                        assert_eq!(cut.cursor, 5);
                    }
                }
                run.clear(&mut store);
                assert_eq!(store.references(), keys.len(), "cuts and runs keep nothing");
            }
        }
    }

    #[test]
    fn a_run_is_bounded_but_takes_one_frame_of_any_size() {
        let mut store = FrameStore::default();
        let small = frames(100, 2000, &mut store);
        let mut run = Run::default();
        run.fill(0, 1000, WireFormat::Chunked.into(), &small, &mut store);
        assert!(run.bytes(&store).len() <= RUN_BYTES && run.len() < 100);
        assert_eq!(run.end(), run.len() as u64 * 10);
        assert_eq!(run.byte_len(), run.bytes(&store).len());

        let big = frames(2, RUN_BYTES * 2, &mut store);
        run.fill(0, 20, WireFormat::Chunked.into(), &big, &mut store);
        assert_eq!((run.len(), run.end()), (1, 10));
        // A subscriber that was given everything stands where its source ended, beyond the last frame.
        run.fill(0, 77, WireFormat::Chunked.into(), &big[..1], &mut store);
        assert_eq!(run.end(), 77);
    }

    /// After a burst, each shard held 60 KiB and more that it no longer needed.
    #[test]
    fn an_idle_run_keeps_neither_frames_nor_much_memory() {
        let mut store = FrameStore::default();
        let keys = frames(50, 1_000, &mut store);
        let mut run = Run::default();
        run.fill(0, 500, WireFormat::Plain.into(), &keys, &mut store);
        assert!(run.joined.capacity() >= 50_000);
        run.shrink_for_idle(&mut store);
        assert!(run.is_empty() && run.joined.capacity() <= 8 << 10);
        assert_eq!(store.references(), keys.len());
        run.fill(0, 20, WireFormat::Plain.into(), &keys[..2], &mut store);
        let small = run.joined.capacity();
        run.shrink_for_idle(&mut store);
        assert_eq!(run.joined.capacity(), small, "what is small stays");
    }
}
