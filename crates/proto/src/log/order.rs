//! All frames of the log in the order of their numbers, whatever their topics are.
//!
//! ```text
//! numbers     3  5  8 | 9 40 41 42 | 50
//! segment     0         1            2      at most SEGMENT_FRAMES each
//! ```
//!
//! Frames come at the end and leave anywhere. Neighbouring segments are joined as soon as one has room for
//! both. So two neighbours always have more than [`SEGMENT_FRAMES`] frames together, and segments are as many
//! as the frames need, twice at most.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::frame::Frame;
use crate::shrink::{push, shrink_queue};

/// The most frames of a segment. A removal moves at most half of them, and a join the smaller part; the list
/// of segments has an entry for each.
const SEGMENT_FRAMES: usize = 512;

/// The frames of a log in their order. A frame is 16 bytes of it, and about an eighth of that in addition.
#[derive(Default)]
pub(crate) struct FrameOrder {
    /// Never an empty one.
    segments: VecDeque<Segment>,
    length: usize,
    /// The memory of all segments, in bytes.
    segment_bytes: usize,
}

struct Segment {
    /// All numbers here are from this one on, and those of segments before are below it.
    begin: u64,
    /// Each with its number beside it, so that a search does not touch the frames.
    frames: VecDeque<(u64, Arc<Frame>)>,
}

impl Segment {
    fn bytes(&self) -> usize {
        self.frames.capacity() * size_of::<(u64, Arc<Frame>)>()
    }

    /// The position of a number. Numbers are spread evenly as a rule, so the search begins where the number
    /// would be then: nothing has touched this memory for long, and each look costs as much as everything
    /// else of a removal.
    fn position_of(&self, seq: u64) -> Option<usize> {
        let number_at = |position: usize| self.frames.get(position).map(|(number, _)| *number);
        let (first, last) = (number_at(0)?, self.frames.back()?.0);
        if seq < first || seq > last {
            return None;
        }
        let end = self.frames.len();
        let share = (seq - first) as f64 / (last - first).max(1) as f64;
        let guess = ((share * (end - 1) as f64) as usize).min(end - 1);
        // The number is in `low..high`.
        let (mut low, mut high, mut step) = (0, end, 1);
        let mut at = guess;
        loop {
            match number_at(at)?.cmp(&seq) {
                Ordering::Equal => return Some(at),
                Ordering::Less => {
                    low = at + 1;
                    at = (at + step).min(high.saturating_sub(1));
                }
                Ordering::Greater => {
                    high = at;
                    at = at.saturating_sub(step).max(low);
                }
            }
            if low >= high {
                return None;
            }
            step *= 2;
            if step > 8 || at < low || at >= high {
                at = low + (high - low) / 2;
            }
        }
    }
}

impl FrameOrder {
    pub(crate) fn new() -> FrameOrder {
        FrameOrder::default()
    }

    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The memory of the order in bytes, without the frames.
    pub(crate) fn bytes(&self) -> usize {
        self.segment_bytes + self.segments.capacity() * size_of::<Segment>()
    }

    /// Adds the newest frame.
    ///
    /// # Panics
    /// Its number is not higher than those of all frames that are there.
    pub(crate) fn push(&mut self, frame: Arc<Frame>) {
        let seq = frame.seq();
        let newest = self.segments.back().and_then(|last| last.frames.back()).map(|(newest, _)| *newest);
        assert!(newest < Some(seq), "frame {seq} comes after frame {newest:?}");
        if self.segments.back().is_none_or(|last| last.frames.len() == SEGMENT_FRAMES) {
            push(&mut self.segments, Segment { begin: seq, frames: VecDeque::new() });
        }
        let Some(last) = self.segments.back_mut() else { return };
        self.segment_bytes -= last.bytes();
        push(&mut last.frames, (seq, frame));
        self.segment_bytes += last.bytes();
        self.length += 1;
    }

    /// Removes the frame of this number, if it is there.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Arc<Frame>> {
        let at = self.segment_of(seq)?;
        let segment = &mut self.segments[at];
        let position = segment.position_of(seq)?;
        self.segment_bytes -= segment.bytes();
        let removed = segment.frames.remove(position).map(|(_, frame)| frame);
        shrink_queue(&mut segment.frames);
        self.segment_bytes += segment.bytes();
        self.length -= 1;
        if segment.frames.is_empty() {
            self.remove_segment(at);
            self.join(at.saturating_sub(1));
        } else {
            // With both neighbours, where one segment has room for all three.
            self.join(at);
            self.join(at.saturating_sub(1));
        }
        removed
    }

    /// The frame of this number, if it is there.
    pub(crate) fn get(&self, seq: u64) -> Option<&Arc<Frame>> {
        let segment = self.segments.get(self.segment_of(seq)?)?;
        segment.position_of(seq).map(|position| &segment.frames[position].1)
    }

    /// All frames with a higher number, in order.
    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &Arc<Frame>> {
        let at = self.segment_of(seq).unwrap_or(0);
        let first = self.segments.get(at).into_iter().flat_map(move |segment| {
            segment.frames.range(segment.frames.partition_point(|(other, _)| *other <= seq)..)
        });
        let others = self.segments.iter().skip(at + 1).flat_map(|segment| &segment.frames);
        first.chain(others).map(|(_, frame)| frame)
    }

    /// The segment that has this number, if one has it.
    fn segment_of(&self, seq: u64) -> Option<usize> {
        // Most frames that are removed are among the oldest.
        let is_in_first = |second: &Segment| seq < second.begin;
        if self.segments.get(1).is_some_and(is_in_first) {
            return self.segments.front().filter(|first| first.begin <= seq).map(|_| 0);
        }
        self.segments.partition_point(|segment| segment.begin <= seq).checked_sub(1)
    }

    /// Joins a segment with the next one, if there is one, and one segment has room for both.
    fn join(&mut self, at: usize) {
        let Some(next) = self.segments.get(at + 1) else { return };
        if self.segments[at].frames.len() + next.frames.len() > SEGMENT_FRAMES {
            return;
        }
        let Some(mut next) = self.segments.remove(at + 1) else { return };
        let segment = &mut self.segments[at];
        self.segment_bytes -= segment.bytes() + next.bytes();
        if segment.frames.len() < next.frames.len() {
            // The smaller part is moved.
            next.frames.reserve_exact(segment.frames.len());
            while let Some(frame) = segment.frames.pop_back() {
                next.frames.push_front(frame);
            }
            segment.frames = next.frames;
        } else {
            segment.frames.reserve_exact(next.frames.len());
            segment.frames.append(&mut next.frames);
        }
        shrink_queue(&mut segment.frames);
        self.segment_bytes += segment.bytes();
        shrink_queue(&mut self.segments);
    }

    fn remove_segment(&mut self, at: usize) {
        self.segment_bytes -= self.segments.remove(at).map_or(0, |segment| segment.bytes());
        shrink_queue(&mut self.segments);
    }

    /// Checks what must always hold; for tests.
    pub(crate) fn check(&self) {
        let all: Vec<u64> = self.after(0).map(|frame| frame.seq()).collect();
        assert!(all.is_sorted_by(|one, next| one < next), "frames in their order");
        assert_eq!(all.len(), self.length, "frames of the order");
        let bytes: usize = self.segments.iter().map(Segment::bytes).sum();
        assert_eq!(bytes, self.segment_bytes, "bytes of the segments");
        for (segment, next) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            assert!(segment.frames.len() + next.frames.len() > SEGMENT_FRAMES, "neighbours are joined");
            assert!(
                segment.frames.back().is_some_and(|(seq, _)| *seq < next.begin),
                "segments in their order"
            );
        }
        for segment in &self.segments {
            assert!(segment.frames.front().is_some_and(|(seq, _)| *seq >= segment.begin), "the beginning");
            assert!(segment.frames.iter().all(|(seq, frame)| *seq == frame.seq()), "the numbers of frames");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, Topic};

    fn frame(seq: u64) -> Arc<Frame> {
        let event = Event::new(Topic::new("t").unwrap());
        Arc::new(Frame::encode(seq, "e-1", event, std::time::Duration::ZERO))
    }

    /// What a full log takes at most: twice its frames, an entry for each segment, and a constant.
    fn check_memory(order: &FrameOrder) {
        order.check();
        let entries = order.len() * size_of::<(u64, Arc<Frame>)>();
        assert!(order.bytes() <= 2 * entries + 2_048, "{} bytes for {}", order.bytes(), order.len());
    }

    fn seqs<'f>(frames: impl Iterator<Item = &'f Arc<Frame>>) -> Vec<u64> {
        frames.map(|frame| frame.seq()).collect()
    }

    proptest! {
        #[test]
        fn an_order_is_what_a_sorted_map_is(
            pushed in prop::collection::vec(1..5_u64, 1..2_500),
            removals in prop::collection::vec((any::<prop::sample::Index>(), 1..400_usize), 0..20),
            asked in any::<prop::sample::Index>(),
        ) {
            let (mut order, mut map, mut seq) = (FrameOrder::new(), BTreeMap::new(), 0);
            let mut pushes = pushed.chunks(pushed.len().div_ceil(removals.len() + 1));
            for (from, count) in removals {
                for step in pushes.next().unwrap_or_default() {
                    seq += step;
                    order.push(frame(seq));
                    map.insert(seq, ());
                }
                let keys: Vec<u64> = map.keys().copied().collect();
                if !keys.is_empty() {
                    let begin = from.index(keys.len());
                    for removed in keys.iter().skip(begin).take(count) {
                        map.remove(removed);
                        prop_assert_eq!(order.remove(*removed).map(|frame| frame.seq()), Some(*removed));
                        prop_assert!(order.remove(*removed).is_none());
                    }
                }
                check_memory(&order);
                let after = asked.index(seq as usize + 2) as u64;
                let expected: Vec<u64> = map.range(after + 1..).map(|(seq, _)| *seq).collect();
                prop_assert_eq!(seqs(order.after(after)), expected);
                prop_assert_eq!(order.len(), map.len());
                let found = order.get(after).map(|frame| frame.seq());
                prop_assert_eq!(found, map.get_key_value(&after).map(|(seq, _)| *seq));
            }
        }
    }

    /// The frames of a quiet topic stay while those around them go: each could keep the memory of a whole
    /// segment.
    #[test]
    fn frames_that_stay_keep_no_memory_of_those_that_went() {
        for every in [SEGMENT_FRAMES as u64, 100, 7] {
            let (mut order, mut next) = (FrameOrder::new(), 0);
            for _ in 0..20 {
                for _ in 0..1_000 {
                    next += 1;
                    order.push(frame(next));
                }
                for seq in next.saturating_sub(1_500)..next - 500 {
                    if seq % every != 0 {
                        order.remove(seq);
                    }
                }
                check_memory(&order);
            }
            assert_eq!(
                order.after(0).filter(|frame| frame.seq() % every == 0).count(),
                20_000 / every as usize
            );
        }
    }

    #[test]
    fn removals_in_any_order_give_the_memory_back() {
        let orders: [fn(u64) -> u64; 4] = [
            |at| at,
            |at| 20_001_u64.saturating_sub(at),
            |at| at * 7_919 % 20_011,
            |at| at % 40 * 500 + at / 40 + 1,
        ];
        for number in orders {
            let mut order = FrameOrder::new();
            (1..=20_000).for_each(|seq| order.push(frame(seq)));
            check_memory(&order);
            assert!(order.bytes() < 20_000 * 18, "{} bytes for frames that all stay", order.bytes());
            for at in 1..20_011 {
                order.remove(number(at));
                if at % 97 == 0 {
                    check_memory(&order);
                }
            }
            check_memory(&order);
            assert!(order.len() <= 10, "{} left", order.len());
            seqs(order.after(0)).into_iter().for_each(|seq| assert!(order.remove(seq).is_some()));
            assert_eq!((order.len(), order.segments.len()), (0, 0));
            order.push(frame(20_001));
            assert_eq!(seqs(order.after(0)), [20_001]);
        }
    }

    #[test]
    fn all_but_the_last_can_go() {
        let mut order = FrameOrder::new();
        (1..=5_000).for_each(|seq| order.push(frame(seq)));
        (1..5_000).for_each(|seq| assert!(order.remove(seq).is_some()));
        check_memory(&order);
        assert_eq!(
            (seqs(order.after(0)), seqs(order.after(4_999)), seqs(order.after(5_000))),
            (vec![5_000], vec![5_000], vec![])
        );
        assert!(order.bytes() < 2_048, "{} bytes", order.bytes());
        assert!(order.remove(0).is_none() && order.remove(u64::MAX).is_none());
    }
}
