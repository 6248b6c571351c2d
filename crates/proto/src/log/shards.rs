//! A set of shards, small enough to be kept for each topic.

use std::fmt;

/// Shards by their index. Indexes below 64 need no allocation.
///
/// The log keeps one for each topic (the shards that read it), and answers a publish with the union of some.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ShardSet {
    words: Words,
}

/// Bit `n` of word `w` stands for the shard `64 * w + n`.
#[derive(Clone, PartialEq, Eq)]
enum Words {
    Inline(u64),
    /// At least two words; the last one is not zero, so that equal sets are equal here.
    Spilled(Box<[u64]>),
}

impl Default for Words {
    fn default() -> Words {
        Words::Inline(0)
    }
}

const WORD_BITS: usize = 64;

impl ShardSet {
    /// An empty set.
    pub fn new() -> ShardSet {
        ShardSet::default()
    }

    /// The set of the shards `0..count`.
    pub fn all(count: usize) -> ShardSet {
        (0..count).collect()
    }

    /// Adds a shard; says whether it was not in the set.
    pub fn insert(&mut self, shard: usize) -> bool {
        let (word, bit) = (shard / WORD_BITS, 1 << (shard % WORD_BITS));
        self.grow(word + 1);
        let word = &mut self.words_mut()[word];
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Removes a shard; says whether it was in the set.
    pub fn remove(&mut self, shard: usize) -> bool {
        let (word, bit) = (shard / WORD_BITS, 1 << (shard % WORD_BITS));
        let Some(word) = self.words_mut().get_mut(word) else { return false };
        let was_in = *word & bit != 0;
        *word &= !bit;
        self.shrink();
        was_in
    }

    /// Whether a shard is in the set.
    pub fn contains(&self, shard: usize) -> bool {
        let word = self.words().get(shard / WORD_BITS);
        word.is_some_and(|word| word & (1 << (shard % WORD_BITS)) != 0)
    }

    /// Adds every shard of another set.
    pub fn union_with(&mut self, other: &ShardSet) {
        self.grow(other.words().len());
        for (word, other) in self.words_mut().iter_mut().zip(other.words()) {
            *word |= other;
        }
    }

    /// How many shards are in the set.
    pub fn len(&self) -> usize {
        self.words().iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no shard is in the set.
    pub fn is_empty(&self) -> bool {
        matches!(self.words, Words::Inline(0))
    }

    /// The shards, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words().iter().enumerate().flat_map(|(index, &word)| {
            // Each word is the one before without its lowest bit.
            let bits = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            bits.take_while(|word| *word != 0)
                .map(move |word| index * WORD_BITS + word.trailing_zeros() as usize)
        })
    }

    /// The memory that the set has allocated, in bytes.
    pub(super) fn allocated_bytes(&self) -> usize {
        match &self.words {
            Words::Inline(_) => 0,
            Words::Spilled(words) => size_of_val(&**words),
        }
    }

    fn words(&self) -> &[u64] {
        match &self.words {
            Words::Inline(word) => std::slice::from_ref(word),
            Words::Spilled(words) => words,
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match &mut self.words {
            Words::Inline(word) => std::slice::from_mut(word),
            Words::Spilled(words) => words,
        }
    }

    fn grow(&mut self, count: usize) {
        if self.words().len() < count {
            let mut words = self.words().to_vec();
            words.resize(count, 0);
            self.words = Words::Spilled(words.into());
        }
    }

    /// Removes zeros at the end.
    fn shrink(&mut self) {
        let Words::Spilled(words) = &self.words else { return };
        let used = words.iter().rposition(|word| *word != 0).map_or(1, |last| last + 1);
        if used == 1 {
            self.words = Words::Inline(words[0]);
        } else if used < words.len() {
            self.words = Words::Spilled(words[..used].into());
        }
    }
}

impl FromIterator<usize> for ShardSet {
    fn from_iter<I: IntoIterator<Item = usize>>(shards: I) -> ShardSet {
        let mut set = ShardSet::new();
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_is_what_a_tree_of_numbers_is() {
        let (mut set, mut model) = (ShardSet::new(), BTreeSet::new());
        // A full cycle of a linear congruential generator: every number below 256, mixed.
        let mut number = 1_usize;
        for step in 0..2_000 {
            number = (number * 5 + 3) % 256;
            let shard = if step % 700 < 350 { number } else { number % 70 };
            if step % 3 == 0 {
                assert_eq!(set.insert(shard), model.insert(shard));
            } else {
                assert_eq!(set.remove(shard), model.remove(&shard));
            }
            assert!(set.iter().eq(model.iter().copied()));
            assert_eq!((set.len(), set.is_empty()), (model.len(), model.is_empty()));
            assert_eq!(set.contains(shard), model.contains(&shard));
            let inline = model.last().is_none_or(|last| *last < 64);
            assert_eq!(set.allocated_bytes() == 0, inline, "sets below 64 allocate nothing");
            assert_eq!(
                set,
                model.iter().copied().collect(),
                "equal sets are equal, whatever they were before"
            );
        }
    }

    #[test]
    fn a_union_has_the_shards_of_both() {
        let sets = [vec![], vec![3], vec![1, 63], vec![64, 200], vec![0, 130]];
        for left in &sets {
            for right in &sets {
                let mut union: ShardSet = left.iter().copied().collect();
                union.union_with(&right.iter().copied().collect());
                let expected: BTreeSet<usize> = left.iter().chain(right).copied().collect();
                assert!(union.iter().eq(expected), "{left:?} and {right:?}");
            }
        }
        assert_eq!(format!("{:?}", ShardSet::all(3)), "{0, 1, 2}");
    }
}
