//! Everything that is left to chance in a story.

/// The one source of randomness: from a seed, or from bytes that a fuzzer chose.
///
/// The same source gives the same story. Zero is always the dull choice, so that bytes that come to their end
/// lead to a calm one.
#[derive(Clone, Debug)]
pub struct Choices {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Seed(u64),
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Choices {
    /// An endless source.
    pub fn from_seed(seed: u64) -> Choices {
        // Neighbours must not resemble each other, and zero is the one state that xorshift never leaves.
        Choices { source: Source::Seed(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) }
    }

    /// A source that is over when the bytes are; from then on it gives zeros.
    pub fn from_bytes(bytes: &[u8]) -> Choices {
        Choices { source: Source::Bytes { bytes: bytes.to_vec(), at: 0 } }
    }

    /// Another source, with which something can be chosen that stories did not have before: an endless one
    /// goes on as it would have gone on without. That of bytes comes from the last two.
    pub(crate) fn beside(&self) -> Choices {
        match &self.source {
            Source::Seed(state) => Choices::from_seed(state.wrapping_mul(0xd134_2543_de82_ef95)),
            Source::Bytes { bytes, .. } => match bytes.last_chunk::<2>() {
                Some([0, 0]) | None => Choices::from_bytes(&[]),
                Some(last) => Choices::from_seed(u16::from_le_bytes(*last).into()),
            },
        }
    }

    /// Whether the bytes have come to their end: then so should the story.
    pub fn are_over(&self) -> bool {
        matches!(&self.source, Source::Bytes { bytes, at } if *at >= bytes.len())
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0);
        match &mut self.source {
            Source::Seed(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                let drawn = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
                (drawn % bound as u64) as usize
            }
            Source::Bytes { bytes, at } => {
                let mut drawn = 0;
                let mut range = 1;
                while range < bound {
                    drawn = drawn << 8 | bytes.get(*at).copied().unwrap_or_default() as usize;
                    *at += 1;
                    range <<= 8;
                }
                drawn % bound
            }
        }
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_over_choose_the_dull_way() {
        let mut choices = Choices::from_bytes(&[7, 1, 2]);
        assert_eq!(choices.below(256), 7);
        assert!(!choices.are_over());
        assert_eq!(choices.below(1000), 258);
        assert!(choices.are_over());
        assert_eq!(
            (choices.below(9), choices.one_in(3), choices.pick(&["dull", "wild"])),
            (0, false, "dull")
        );
    }

    #[test]
    fn a_seed_repeats_itself_and_is_not_its_neighbour() {
        let draw = |seed| {
            let mut choices = Choices::from_seed(seed);
            (0..20).map(|_| choices.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
