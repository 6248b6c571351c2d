//! Rates by key: token buckets in a table of a fixed size.
//!
//! A bucket holds what its key may still use at once. It fills at the rate, up to the burst. A full bucket
//! says nothing that its absence would not say, so the table keeps only buckets that are not full. Where it
//! has no room, the fullest bucket goes: what is forgotten is the least. So the table neither grows nor
//! refuses a key that it does not know, however many keys there are.

use std::hash::Hasher;
use std::num::NonZeroU64;
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::key_counts::Key;

/// How often something may happen: so many a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU64,
    burst: NonZeroU64,
}

/// Buckets of one set: a key is in one of these places.
const SET: usize = 8;

/// The buckets of many keys.
///
/// ```text
///   a set      [ key 7: full at 12.5 s | key 3: full at 10.1 s | ... | free ]
///   now 10 s, four a second, a burst of 20: key 7 has used 10, key 3 none to speak of
/// ```
pub struct RateTable {
    sets: Box<[[Bucket; SET]]>,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    key: u64,
    /// When it is full again, in nanoseconds; not later than now: it is free.
    full_at: u64,
}

impl Rate {
    /// So many a second, and so many at once. Zero is one.
    pub fn new(per_second: u64, burst: u64) -> Rate {
        let at_least_one = |number| NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN);
        Rate { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    /// How often in a second.
    pub fn per_second(self) -> u64 {
        self.per_second.get()
    }

    /// How often at once.
    pub fn burst(self) -> u64 {
        self.burst.get()
    }

    /// The time in which a bucket gets so much, in nanoseconds; rounded up. Saturates.
    fn time_of(self, amount: u64) -> u64 {
        let time = (u128::from(amount) * 1_000_000_000).div_ceil(u128::from(self.per_second.get()));
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

impl RateTable {
    /// Memory of one bucket, in bytes.
    pub const BUCKET_BYTES: usize = size_of::<Bucket>();

    /// A table of about so many buckets, all full. This is all memory that it ever takes.
    pub fn new(buckets: usize) -> RateTable {
        RateTable { sets: vec![[Bucket::default(); SET]; buckets.div_ceil(SET).max(1)].into() }
    }

    /// Takes so much out of a key's bucket, if it is there. `key` is a hash with a secret
    /// ([`RateKeys`]).
    ///
    /// # Errors
    /// The bucket does not have it: when to try again. Nothing is taken. An amount above the burst is taken
    /// of a full bucket.
    pub fn take(&mut self, key: u64, amount: u64, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let room = rate.time_of(rate.burst()).saturating_sub(rate.time_of(amount));
        let missing = self.full_at(key, now) - now;
        if missing > room {
            return Err(Duration::from_nanos(missing - room));
        }
        self.charge_at(key, amount, rate, now);
        Ok(())
    }

    /// Takes so much out of a key's bucket whether it is there or not, and answers how long it takes until
    /// the bucket is no more in debt.
    pub fn charge(&mut self, key: u64, amount: u64, rate: Rate, now: Duration) -> Duration {
        let now = nanoseconds(now);
        let full_at = self.charge_at(key, amount, rate, now);
        Duration::from_nanos((full_at - now).saturating_sub(rate.time_of(rate.burst())))
    }

    /// How long it takes until the key's bucket has something in it.
    pub fn wait(&self, key: u64, rate: Rate, now: Duration) -> Option<Duration> {
        let now = nanoseconds(now);
        let room = rate.time_of(rate.burst()).saturating_sub(rate.time_of(1));
        let missing = self.full_at(key, now) - now;
        missing.checked_sub(room).filter(|wait| *wait > 0).map(Duration::from_nanos)
    }

    /// When the key's bucket is full: not before now.
    fn full_at(&self, key: u64, now: u64) -> u64 {
        let bucket = self.sets[self.set_of(key)].iter().find(|bucket| bucket.key == key);
        bucket.map_or(now, |bucket| bucket.full_at.max(now))
    }

    fn charge_at(&mut self, key: u64, amount: u64, rate: Rate, now: u64) -> u64 {
        let full_at = self.full_at(key, now).saturating_add(rate.time_of(amount));
        let set = self.set_of(key);
        let set = &mut self.sets[set];
        let place = set.iter().position(|bucket| bucket.key == key).or_else(|| {
            // The fullest one, unless this one is fuller.
            let (index, fullest) = set.iter().enumerate().min_by_key(|(_, bucket)| bucket.full_at)?;
            (fullest.full_at <= full_at).then_some(index)
        });
        if let Some(place) = place {
            set[place] = Bucket { key, full_at };
        }
        full_at
    }

    fn set_of(&self, key: u64) -> usize {
        // The lowest bits choose the table where there are several.
        ((key >> 32) % self.sets.len() as u64) as usize
    }
}

/// The secret of the hashes of keys: no client can compute keys that meet in one set.
#[derive(Clone, Copy)]
pub struct RateKeys(u64, u64);

impl RateKeys {
    /// `seed` is random in production.
    pub fn new(seed: u64) -> RateKeys {
        RateKeys(seed.rotate_left(17), seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The hash of a key.
    pub fn of(self, key: Key) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key[0].to_le_bytes());
        bytes[8..].copy_from_slice(&key[1].to_le_bytes());
        self.hash(&bytes)[0]
    }

    /// A text, such as a subject, as a key.
    pub fn of_text(self, text: &str) -> Key {
        self.hash(text.as_bytes())
    }

    fn hash(self, bytes: &[u8]) -> Key {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(bytes);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_has_its_burst_and_fills_at_its_rate() {
        let (mut table, rate) = (RateTable::new(64), Rate::new(4, 20));
        let now = 1000 * SECOND;
        let taken = (0..100).filter(|_| table.take(7, 1, rate, now).is_ok()).count();
        assert_eq!(taken, 20);
        assert_eq!(table.take(7, 1, rate, now), Err(SECOND / 4), "when to try again");
        assert_eq!(table.take(7, 1, rate, now + SECOND / 4), Ok(()));
        assert_eq!(table.take(7, 1, rate, now + SECOND / 4), Err(SECOND / 4));
        // After any pause it has the burst, and no more.
        let later = now + 3600 * SECOND;
        let taken = (0..100).filter(|_| table.take(7, 1, rate, later).is_ok()).count();
        assert_eq!(taken, 20);
        // A clock that stands still or goes back fills nothing.
        assert!(table.take(7, 1, rate, now).is_err());
    }

    #[test]
    fn a_debt_is_paid_before_the_next_one_begins() {
        let (mut table, rate) = (RateTable::new(8), Rate::new(100, 50));
        assert_eq!(table.wait(1, rate, SECOND), None);
        assert_eq!(table.charge(1, 50, rate, SECOND), Duration::ZERO, "the burst is no debt");
        assert_eq!(table.wait(1, rate, SECOND), Some(SECOND / 100));
        assert_eq!(table.charge(1, 1000, rate, SECOND), 10 * SECOND);
        assert!(table.wait(1, rate, 11 * SECOND).is_some());
        assert_eq!(table.wait(1, rate, 11 * SECOND + SECOND / 100), None);
        assert_eq!(
            table.charge(1, u64::MAX, Rate::new(1, 1), SECOND).as_secs(),
            u64::MAX / 1_000_000_000 - 2
        );
    }

    /// An amount above the burst would never be allowed.
    #[test]
    fn a_full_bucket_gives_more_than_the_burst_once() {
        let (mut table, rate) = (RateTable::new(8), Rate::new(10, 5));
        assert_eq!(table.take(1, 100, rate, SECOND), Ok(()));
        assert_eq!(table.take(1, 1, rate, SECOND), Err(10 * SECOND - SECOND / 10 * 4));
    }

    /// An enemy with very many addresses: the table does not grow, an address that it does not know is let
    /// in, and an address that is in debt is not forgotten.
    #[test]
    fn millions_of_addresses_neither_grow_the_table_nor_shut_a_newcomer_out() {
        const BUCKETS: usize = 1 << 12;
        let (keys, rate) = (RateKeys::new(5), Rate::new(1, 10));
        let mut table = RateTable::new(BUCKETS);
        let greedy = keys.of([1, 1]);
        let mut now = SECOND;
        while table.take(greedy, 1, rate, now).is_ok() {}
        let mut refused = 0;
        for address in 0..2_000_000_u64 {
            // 200,000 of them a second.
            now += Duration::from_micros(5);
            refused += usize::from(table.take(keys.of([2, address]), 1, rate, now).is_err());
        }
        assert_eq!(refused, 0, "each of them came once");
        // It has got ten in ten seconds; it had none.
        let taken = (0..100).filter(|_| table.take(greedy, 1, rate, now).is_ok()).count();
        assert_eq!(taken, 10);
        while table.take(greedy, 1, rate, now).is_ok() {}
        for address in 0..100_000_u64 {
            let _ = table.take(keys.of([3, address]), 1, rate, now);
        }
        assert!(table.take(greedy, 1, rate, now).is_err(), "emptier buckets stay");
        assert_eq!(table.sets.len() * SET, BUCKETS);
    }

    #[test]
    fn the_seed_changes_every_key() {
        let [one, other] = [1, 2].map(RateKeys::new);
        assert!(one.of([1, 2]) != other.of([1, 2]) && one.of_text("ada") != other.of_text("ada"));
        assert_eq!(one.of_text("ada"), one.of_text("ada"));
    }
}
