//! Rates of many clients, for all threads.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_proto::client_limits::{RATES_BYTES, Rate, address_key};
use fanfare_proto::rates::{RateKeys, RateTable};

use crate::client_table::lock;

/// Tables with a lock each.
const TABLES: usize = 32;

/// Buckets of all tables.
const BUCKETS: usize = RATES_BYTES / RateTable::BUCKET_BYTES;

/// How often clients do something: a token bucket for each, in at most 1 MiB, whatever their number. Where
/// there is no room for one more bucket, the fullest one is forgotten. So a client that is not known has a
/// full bucket, and very many clients can neither make the table grow nor shut others out.
///
/// The engine has one for connects ([`crate::ClientLimits::connects_per_second`]). A program that publishes
/// for others has its own:
///
/// ```
/// use std::time::Duration;
///
/// use fanfare::{Rate, RateLimiter};
///
/// let limiter = RateLimiter::new();
/// // 100 events a second, and 500 at once.
/// let (rate, ada) = (Rate::new(100, 500), limiter.key_of_text("ada"));
/// // The time since any moment, the same for all calls.
/// let now = Duration::from_secs(10);
/// assert_eq!(limiter.take(ada, 500, rate, now), Ok(()));
/// assert_eq!(limiter.take(ada, 2, rate, now), Err(Duration::from_millis(20)), "when to try again");
/// ```
pub struct RateLimiter {
    /// A table is made with the first client that it gets.
    tables: Box<[CachePadded<Mutex<Option<RateTable>>>]>,
    keys: RateKeys,
}

/// A client of one [`RateLimiter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateKey(u64);

impl Default for RateLimiter {
    fn default() -> RateLimiter {
        RateLimiter::new()
    }
}

impl RateLimiter {
    /// The memory that it takes at most, in bytes.
    pub const BYTES: usize = RATES_BYTES;

    /// All buckets are full.
    pub fn new() -> RateLimiter {
        RateLimiter::with_seed(RandomState::new().hash_one(0))
    }

    /// `seed` makes hashes unpredictable.
    pub(crate) fn with_seed(seed: u64) -> RateLimiter {
        let tables = (0..TABLES).map(|_| CachePadded::new(Mutex::new(None))).collect();
        RateLimiter { tables, keys: RateKeys::new(seed) }
    }

    /// The client with this address: IPv4 whole, IPv6 by so many bits.
    pub fn key_of_address(&self, address: IpAddr, ipv6_prefix_bits: u8) -> RateKey {
        RateKey(self.keys.of(address_key(address, ipv6_prefix_bits)))
    }

    /// The client with this name.
    pub fn key_of_text(&self, text: &str) -> RateKey {
        RateKey(self.keys.of_text(text)[0])
    }

    /// Takes so much out of a client's bucket. An amount above the burst is taken out of a full one.
    ///
    /// # Errors
    /// The bucket does not have it: how long it takes until it has. Nothing is taken.
    pub fn take(&self, client: RateKey, amount: u64, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.with(client, |table| table.take(client.0, amount, rate, now))
    }

    /// Takes so much out of a client's bucket, whether it has it or not, and says how long it takes until the
    /// bucket is no more in debt: for what has happened already.
    pub fn charge(&self, client: RateKey, amount: u64, rate: Rate, now: Duration) -> Duration {
        self.with(client, |table| table.charge(client.0, amount, rate, now))
    }

    /// How long it takes until a client's bucket has something in it; `None`: it has.
    pub fn wait(&self, client: RateKey, rate: Rate, now: Duration) -> Option<Duration> {
        self.with(client, |table| table.wait(client.0, rate, now))
    }

    fn with<T>(&self, RateKey(key): RateKey, work: impl FnOnce(&mut RateTable) -> T) -> T {
        let mut table = lock(&self.tables[key as usize % TABLES]);
        work(table.get_or_insert_with(|| RateTable::new(BUCKETS / TABLES)))
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").finish_non_exhaustive()
    }
}
