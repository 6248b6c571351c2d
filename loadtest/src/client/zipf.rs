//! Topics of which few are wanted by many, and many by few.

/// Zipf's law: the topic in place k is wanted in proportion to 1 / k^s.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// The share of the topics up to each one.
    shares: Vec<f64>,
}

/// A number from 0 to 1 for a seed (SplitMix64).
fn random(seed: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl Zipf {
    pub(crate) fn new(topics: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=topics)
            .map(|place| {
                sum += f64::from(place).powf(-exponent);
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        Zipf { shares }
    }

    /// So many different topics for a subscriber, in order: the same ones for the same number.
    pub(crate) fn choose(&self, subscriber: u64, count: u32) -> Vec<u32> {
        let topics = self.shares.len() as u32;
        let count = count.min(topics);
        let mut chosen: Vec<u32> = Vec::with_capacity(count as usize);
        let mut tries = 0u64;
        while (chosen.len() as u32) < count {
            let point = random(subscriber.wrapping_mul(1_000_003).wrapping_add(tries));
            let drawn = (self.shares.partition_point(|&share| share < point) as u32).min(topics - 1);
            tries += 1;
            // Where a few topics are nearly all there is, others have to be taken at last.
            let mut topic = drawn;
            while tries > 64 * u64::from(count) && chosen.binary_search(&topic).is_ok() {
                topic = (topic + 1) % topics;
            }
            if let Err(place) = chosen.binary_search(&topic) {
                chosen.insert(place, topic);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_topics_are_wanted_most() {
        let zipf = Zipf::new(100, 1.0);
        let mut counts = [0u32; 100];
        for subscriber in 0..20_000 {
            counts[zipf.choose(subscriber, 1)[0] as usize] += 1;
        }
        // The harmonic number of 100 is 5.19.
        let share = |place: usize| f64::from(counts[place]) / 20_000.0;
        assert!((share(0) - 1.0 / 5.19).abs() < 0.02 && (share(9) - 0.1 / 5.19).abs() < 0.005, "{counts:?}");
    }

    #[test]
    fn the_topics_of_a_stream_differ_and_are_always_the_same() {
        let zipf = Zipf::new(50, 2.0);
        for subscriber in 0..500 {
            let topics = zipf.choose(subscriber, 20);
            assert!(topics.len() == 20 && topics.windows(2).all(|pair| pair[0] < pair[1]), "{topics:?}");
            assert_eq!(topics, zipf.choose(subscriber, 20));
        }
        assert_eq!(zipf.choose(7, 50), (0..50).collect::<Vec<_>>());
        assert_eq!(zipf.choose(7, 60).len(), 50);
    }
}
