//! Where a model's choices come from: a seed, or the bytes of a fuzzer.

use std::collections::VecDeque;

use fanfare_proto::audience::Subscription;
use fanfare_proto::event::Topic;
use fanfare_proto::frame::WireFormat;
use fanfare_proto::pattern::Pattern;

/// Topics that there are to choose from.
const TOPICS: usize = 5;

/// Where a world's choices come from.
pub(crate) enum Choices {
    /// A splitmix64 generator: any seed is good.
    Seed(u64),
    /// Bytes, one or eight for each choice; zero is chosen where they have ended.
    #[allow(dead_code, reason = "the fuzzer's")]
    Bytes(VecDeque<u8>),
}

impl Choices {
    #[allow(dead_code, reason = "the test's")]
    pub(crate) fn from_seed(seed: u64) -> Choices {
        Choices::Seed(seed)
    }

    #[allow(dead_code, reason = "the fuzzer's")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Choices {
        Choices::Bytes(bytes.iter().copied().collect())
    }

    pub(super) fn are_over(&self) -> bool {
        matches!(self, Choices::Bytes(bytes) if bytes.is_empty())
    }

    pub(super) fn next(&mut self) -> u64 {
        match self {
            Choices::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
            Choices::Bytes(bytes) => {
                (0..8).fold(0, |sum, _| sum << 8 | u64::from(bytes.pop_front().unwrap_or(0)))
            }
        }
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        match self {
            // One byte, so that the fuzzer's small changes are small here.
            Choices::Bytes(bytes) if bound <= 256 => usize::from(bytes.pop_front().unwrap_or(0)) % bound,
            _ => (self.next() % bound as u64) as usize,
        }
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn topic(&mut self) -> Topic {
        Topic::new(format!("topic-{}", self.below(TOPICS))).unwrap()
    }

    pub(super) fn subscription(&mut self) -> Subscription {
        let topics: Vec<Topic> = (0..1 + self.below(3)).map(|_| self.topic()).collect();
        let format = self.pick(&[WireFormat::Chunked, WireFormat::Plain]);
        let patterns: Vec<Pattern> = match self.below(3) {
            0 => (0..1 + self.below(2)).map(|_| self.pattern()).collect(),
            _ => Vec::new(),
        };
        let sees_first = self.one_in(2);
        let private = topics[0].clone();
        let of_topics = match self.below(4) {
            0 => Subscription::new(topics, format, false),
            1 => Subscription::new(topics, format, true),
            2 => Subscription::with_private(topics, format, |topic| *topic == private),
            // Only patterns, or the first topic where there are none.
            _ => Subscription::new(topics.into_iter().take(usize::from(patterns.is_empty())), format, false),
        };
        let first = patterns.first().cloned();
        of_topics.with_patterns(patterns, |pattern| sees_first && Some(pattern) == first.as_ref())
    }

    pub(super) fn pattern(&mut self) -> Pattern {
        Pattern::parse(self.pick(&["*", "topic-*", "topic-{number}", "{+any}", "{any}-1", "none/*"])).unwrap()
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
