//! Consecutive frames as one contiguous piece of bytes: what one send carries.
//!
//! Built once for all members at the same cursor. A run of one frame is the frame's own bytes; only
//! longer ones are copied together.

use std::sync::Arc;

use crate::frame::{Frame, WireFormat};
use crate::limits::RUN_BYTES;
use crate::shrink::shrink_buffer;

/// A scratch piece of wire bytes, reused from slice to slice.
#[derive(Default)]
pub struct Run {
    frames: Vec<Arc<Frame>>,
    /// Where each frame ends in the bytes.
    ends: Vec<usize>,
    /// The frames' bytes, empty where there is only one.
    joined: Vec<u8>,
    format: WireFormat,
    /// The cursor of those who need this run.
    after: u64,
}

/// Where a send stopped.
#[derive(Debug)]
pub struct Cut {
    /// The last frame that went out whole, or the cursor before the run.
    pub cursor: u64,
    /// The frame that was begun and not finished.
    pub remainder: Option<Remainder>,
}

/// Bytes that must go out before anything else: the rest of something that was begun.
#[derive(Debug, Clone)]
pub struct Remainder {
    source: Source,
    offset: usize,
}

#[derive(Debug, Clone)]
enum Source {
    Frame(Arc<Frame>, WireFormat),
    Own(Box<[u8]>),
    Static(&'static [u8]),
}

impl Run {
    /// Fills the run with frames that follow the cursor `after`, until [`RUN_BYTES`] would be exceeded;
    /// the first frame goes in whatever its size.
    pub fn fill<'frames>(
        &mut self,
        after: u64,
        format: WireFormat,
        frames: impl Iterator<Item = &'frames Arc<Frame>>,
    ) {
        self.clear();
        self.after = after;
        self.format = format;
        let mut end = 0;
        for frame in frames {
            let length = frame.wire(format).len();
            if end > 0 && end + length > RUN_BYTES {
                break;
            }
            end += length;
            self.frames.push(Arc::clone(frame));
            self.ends.push(end);
        }
        if self.frames.len() > 1 {
            self.joined.reserve(end);
            for frame in &self.frames {
                self.joined.extend_from_slice(frame.wire(format));
            }
        }
    }

    /// Before a time without sends: lets go of the frames, and of the memory that a long run needed.
    pub fn rest(&mut self) {
        self.clear();
        shrink_buffer(&mut self.frames);
        shrink_buffer(&mut self.ends);
        shrink_buffer(&mut self.joined);
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.ends.clear();
        self.joined.clear();
    }

    /// The wire bytes; empty where there was no frame to send.
    pub fn bytes(&self) -> &[u8] {
        match self.frames.as_slice() {
            [] => &[],
            [only] => only.wire(self.format),
            _ => &self.joined,
        }
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
        self.frames.last().map_or(self.after, |frame| frame.seq())
    }

    /// Where a reader stands that got only the first `sent` bytes.
    pub fn cut(&self, sent: usize) -> Cut {
        let whole = self.ends.partition_point(|&end| end <= sent);
        let cursor = if whole == 0 { self.after } else { self.frames[whole - 1].seq() };
        let begun_at = if whole == 0 { 0 } else { self.ends[whole - 1] };
        let remainder = (sent > begun_at).then(|| Remainder {
            source: Source::Frame(Arc::clone(&self.frames[whole]), self.format),
            offset: sent - begun_at,
        });
        Cut { cursor, remainder }
    }

    /// How many frames went out whole when `sent` bytes did.
    pub fn whole_frames(&self, sent: usize) -> usize {
        self.ends.partition_point(|&end| end <= sent)
    }
}

impl Remainder {
    /// The rest of bytes that belong to one connection alone (a response head, a gap event).
    pub fn own(bytes: Box<[u8]>, offset: usize) -> Remainder {
        Remainder { source: Source::Own(bytes), offset }
    }

    /// The rest of constant bytes (a heartbeat).
    pub fn constant(bytes: &'static [u8], offset: usize) -> Remainder {
        Remainder { source: Source::Static(bytes), offset }
    }

    /// What is still to go.
    pub fn bytes(&self) -> &[u8] {
        let all = match &self.source {
            Source::Frame(frame, format) => frame.wire(*format),
            Source::Own(bytes) => bytes,
            Source::Static(bytes) => bytes,
        };
        &all[self.offset..]
    }

    /// Notes that `sent` more bytes went out.
    pub fn advance(&mut self, sent: usize) {
        self.offset += sent;
    }

    /// The cursor when this is done, where it is a frame.
    pub fn seq(&self) -> Option<u64> {
        match &self.source {
            Source::Frame(frame, _) => Some(frame.seq()),
            Source::Own(_) | Source::Static(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, Topic};

    fn frames(count: u64, size: usize) -> Vec<Arc<Frame>> {
        let topic = Topic::new("a").unwrap();
        (1..=count)
            .map(|seq| {
                let event = Event::new(topic.clone()).data("x".repeat(size));
                Arc::new(Frame::encode(seq * 10, &seq.to_string(), event, Duration::ZERO))
            })
            .collect()
    }

    #[test]
    fn every_cut_names_the_last_whole_frame_and_the_rest_of_the_next() {
        for format in [WireFormat::Chunked, WireFormat::Plain] {
            for count in [1, 3] {
                let frames = frames(count, 20);
                let mut run = Run::default();
                run.fill(5, format, frames.iter());
                let all: Vec<u8> = frames.iter().flat_map(|frame| frame.wire(format).to_vec()).collect();
                assert_eq!(run.bytes(), all);
                for sent in 0..all.len() {
                    let cut = run.cut(sent);
                    let done: usize = frames
                        .iter()
                        .filter(|frame| frame.seq() <= cut.cursor)
                        .map(|frame| frame.wire(format).len())
                        .sum();
                    let next = frames.iter().find(|frame| frame.seq() > cut.cursor).unwrap();
                    match cut.remainder {
                        None => assert_eq!(sent, done),
                        Some(rest) => {
                            assert_eq!(rest.seq(), Some(next.seq()));
                            assert_eq!(rest.bytes(), &all[sent..done + next.wire(format).len()]);
                        }
                    }
                    if sent < frames[0].wire(format).len() {
                        assert_eq!(cut.cursor, 5);
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_is_bounded_but_takes_one_frame_of_any_size() {
        let small = frames(100, 2000);
        let mut run = Run::default();
        run.fill(0, WireFormat::Chunked, small.iter());
        assert!(run.bytes().len() <= RUN_BYTES && run.len() < 100);
        assert_eq!(run.end(), run.len() as u64 * 10);

        let big = frames(2, RUN_BYTES * 2);
        run.fill(0, WireFormat::Chunked, big.iter());
        assert_eq!((run.len(), run.end()), (1, 10));
    }

    /// After a burst, each shard held 60 KiB and more that it no longer needed.
    #[test]
    fn who_rests_keeps_neither_frames_nor_much_memory() {
        let (mut run, frames) = (Run::default(), frames(50, 1_000));
        run.fill(0, WireFormat::Plain, frames.iter());
        assert!(run.joined.capacity() >= 50_000);
        run.rest();
        assert!(run.is_empty() && run.joined.capacity() <= 8 << 10);
        assert!(frames.iter().all(|frame| Arc::strong_count(frame) == 1));
        run.fill(0, WireFormat::Plain, frames[..2].iter());
        let small = run.joined.capacity();
        run.rest();
        assert_eq!(run.joined.capacity(), small, "what is small stays");
    }
}
