//! The bookkeeping of deliveries: per subscriber which sequence numbers came, and what that adds up to.

use serde::{Deserialize, Serialize};

/// What was wrong, over all subscribers of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Faults {
    /// Published and never delivered.
    pub(crate) lost: u64,
    /// Delivered again.
    pub(crate) doubled: u64,
    /// Delivered after a later one.
    pub(crate) out_of_order: u64,
    /// Cut short or mangled; counted here and, since it never arrived whole, in `lost`.
    pub(crate) damaged: u64,
    /// Of a topic that the subscriber has not asked for.
    pub(crate) misrouted: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.damaged += other.damaged;
        self.misrouted += other.misrouted;
    }

    /// All of them, in words.
    pub(crate) fn told(self) -> String {
        let Faults { lost, doubled, out_of_order, damaged, misrouted } = self;
        format!(
            "{lost} lost, {doubled} doubled, {out_of_order} out of order, {damaged} damaged, {misrouted} misrouted"
        )
    }

    pub(crate) fn sum(self) -> u64 {
        let Faults { lost, doubled, out_of_order, damaged, misrouted } = self;
        lost + doubled + out_of_order + damaged + misrouted
    }

    pub(crate) fn any(self) -> bool {
        self != Faults::default()
    }
}

/// How a delivery stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    /// The first time, at or after its turn.
    New,
    /// The first time, but after a later one.
    Late,
    /// Not the first time.
    Again,
}

/// Which sequence numbers of one topic a subscriber has got. 16 bytes while nothing is missing.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    next: u64,
    /// Ranges below `next` that have not come, in order.
    #[expect(clippy::box_collection, reason = "8 bytes in each of very many subscribers instead of 24")]
    missing: Option<Box<Vec<(u64, u64)>>>,
}

impl Sequence {
    /// Starts at a number: what is below it is not expected.
    pub(crate) fn start_at(&mut self, sequence: u64) {
        *self = Sequence { next: sequence, missing: None };
    }

    /// Goes on at a number and does not expect what is skipped; returns how many that are.
    pub(crate) fn skip_to(&mut self, sequence: u64) -> u64 {
        let skipped = sequence.saturating_sub(self.next);
        self.next = self.next.max(sequence);
        skipped
    }

    /// Notes a delivery.
    pub(crate) fn see(&mut self, sequence: u64) -> Seen {
        if sequence >= self.next {
            if sequence > self.next {
                self.missing.get_or_insert_default().push((self.next, sequence));
            }
            self.next = sequence.saturating_add(1);
            return Seen::New;
        }
        if self.fill(sequence) { Seen::Late } else { Seen::Again }
    }

    fn fill(&mut self, sequence: u64) -> bool {
        let Some(ranges) = &mut self.missing else { return false };
        let at = ranges.partition_point(|&(_, end)| end <= sequence);
        let Some(&(start, end)) = ranges.get(at).filter(|&&(start, _)| start <= sequence) else {
            return false;
        };
        let left = [(start, sequence), (sequence + 1, end)];
        ranges.splice(at..=at, left.into_iter().filter(|(start, end)| start < end));
        if ranges.is_empty() {
            self.missing = None;
        }
        true
    }

    /// Forgets the numbers from one on, which no event has. Returns how many of them came all the same.
    pub(crate) fn cut_to(&mut self, published: u64) -> u64 {
        let above = self.next.saturating_sub(published);
        self.next = self.next.min(published);
        let mut missing = 0;
        if let Some(ranges) = &mut self.missing {
            for (start, end) in ranges.iter_mut().filter(|(_, end)| *end > published) {
                missing += *end - (*start).max(published);
                *end = published;
            }
            ranges.retain(|(start, end)| start < end);
        }
        above - missing
    }

    /// How many of `published` never came.
    pub(crate) fn lost(&self, published: u64) -> u64 {
        let holes: u64 =
            self.missing.iter().flat_map(|ranges| ranges.iter()).map(|(start, end)| end - start).sum();
        holes + published.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_fault_is_told_from_the_others() {
        let mut sequence = Sequence::default();
        let seen: Vec<Seen> = [0, 1, 1, 5, 3, 3, 2, 7, 0].into_iter().map(|n| sequence.see(n)).collect();
        use Seen::*;
        assert_eq!(seen, [New, New, Again, New, Late, Again, Late, New, Again]);
        assert_eq!(sequence.lost(10), 4, "4, 6, 8 and 9");
        assert_eq!(size_of::<Sequence>(), 16);
    }

    /// Against a model that simply remembers everything.
    #[test]
    fn random_orders_agree_with_a_naive_model() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for seed in 0..200u64 {
            let (mut sequence, mut got, mut highest) =
                (Sequence::default(), std::collections::BTreeSet::new(), None);
            for _ in 0..100 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
                let number = (state >> 33) % 60;
                let expected = match (got.insert(number), highest) {
                    (false, _) => Seen::Again,
                    (true, Some(highest)) if number < highest => Seen::Late,
                    (true, _) => Seen::New,
                };
                highest = highest.max(Some(number));
                assert_eq!(sequence.see(number), expected, "seed {seed}");
            }
            assert_eq!(sequence.lost(60), 60 - got.len() as u64, "seed {seed}");
        }
    }

    /// A number of a billion that no event has made a billion lost events.
    #[test]
    fn numbers_that_no_event_has_are_forgotten() {
        let mut sequence = Sequence::default();
        for number in [0, 2, 9, 1_000_000_000_000, 4] {
            sequence.see(number);
        }
        assert_eq!(sequence.cut_to(6), 2, "9 and the large one");
        assert_eq!((sequence.lost(6), sequence.see(5), sequence.lost(6)), (3, Seen::Late, 2), "1, 3 and 5");
        assert_eq!(Sequence::default().cut_to(3), 0);
        let mut sequence = Sequence::default();
        assert_eq!((sequence.see(u64::MAX), sequence.cut_to(0)), (Seen::New, 0), "there is none above it");
    }

    #[test]
    fn what_was_missed_on_purpose_is_not_lost() {
        let mut sequence = Sequence::default();
        sequence.see(0);
        assert_eq!(sequence.skip_to(10), 9);
        assert_eq!(sequence.see(10), Seen::New);
        assert_eq!(sequence.lost(11), 0);
        sequence.start_at(100);
        assert_eq!(sequence.lost(100), 0);
    }
}
