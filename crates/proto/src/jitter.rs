//! Jitter: spreads what would otherwise happen everywhere at once, such as reconnects.

use std::time::Duration;

/// A xorshift* generator. It is good enough to spread reconnects, and repeatable from its seed.
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// A generator from the caller's seed: this crate draws no randomness.
    pub fn new(seed: u64) -> Jitter {
        Jitter(seed | 1)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between `from` and `to` percent of `span`. Saturates: a time out of range is the longest one.
    pub fn percent(&mut self, span: Duration, from: u32, to: u32) -> Duration {
        let steps = u64::from(to - from) * 100;
        let share = from * 100 + (self.next_number() % (steps + 1)) as u32;
        span.saturating_mul(share) / 10_000
    }
}
