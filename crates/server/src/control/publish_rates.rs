//! How much each publisher may publish: events and bytes in a second.
//!
//! A publisher that has used up its rate is answered 429 before its body is read. What it publishes is taken out of its
//! buckets when it is known, also where they do not have it: an array is published whole, and the next publish waits for as
//! long. A body of NDJSON is not broken off: after each part the server waits until the debt is paid, and reads on then.

use std::time::Duration;

use fanfare::{Rate, RateKey, RateLimiter};
use tokio::time::Instant;

use super::notices::{Notice, Notices};
use super::problem::Problem;
use crate::request_client::RequestClient;

/// The rates of all publishers.
#[derive(Debug)]
pub(crate) struct PublishRates {
    events: RateLimiter,
    bytes: RateLimiter,
    began_at: Instant,
}

/// The rates that hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishRateLimits {
    /// Events of one publisher.
    pub(crate) events: Option<Rate>,
    /// Bytes of the bodies of one publisher.
    pub(crate) bytes: Option<Rate>,
}

impl PublishRateLimits {
    /// Whether nothing is to be counted.
    pub(crate) fn are_none(self) -> bool {
        self.events.is_none() && self.bytes.is_none()
    }
}

/// What one publish may use.
pub(super) struct Allowance<'control> {
    rates: &'control PublishRates,
    limits: PublishRateLimits,
    /// The publisher in each of the two limiters; `None`: it has no bound.
    keys: Option<[RateKey; 2]>,
}

impl Default for PublishRates {
    fn default() -> PublishRates {
        PublishRates { events: RateLimiter::new(), bytes: RateLimiter::new(), began_at: Instant::now() }
    }
}

impl PublishRates {
    /// What a publish may use: of the publisher with this name, or of the client where the server has no keys.
    pub(super) fn of(
        &self,
        limits: PublishRateLimits,
        publisher: Option<&str>,
        client: &RequestClient,
        ipv6_prefix_bits: u8,
    ) -> Allowance<'_> {
        let limiters = [&self.events, &self.bytes];
        let keys = match (publisher, client.counted) {
            _ if limits.are_none() => None,
            (Some(name), _) => Some(limiters.map(|limiter| limiter.key_of_text(name))),
            (None, Some(address)) => {
                Some(limiters.map(|limiter| limiter.key_of_address(address, ipv6_prefix_bits)))
            }
            (None, None) => None,
        };
        Allowance { rates: self, limits, keys }
    }

    fn now(&self) -> Duration {
        self.began_at.elapsed()
    }
}

impl Allowance<'_> {
    /// Whether the publisher may begin to publish now.
    ///
    /// # Errors
    /// 429, with the time until it may.
    pub(super) fn begin(&self, notices: &Notices) -> Result<(), Problem> {
        let Some([events, bytes]) = self.keys else { return Ok(()) };
        let now = self.rates.now();
        let wait_of = |limiter: &RateLimiter, key, rate: Option<Rate>| limiter.wait(key, rate?, now);
        let waits = [
            wait_of(&self.rates.events, events, self.limits.events)
                .map(|wait| (wait, "events", "max-publish-events")),
            wait_of(&self.rates.bytes, bytes, self.limits.bytes)
                .map(|wait| (wait, "bytes", "max-publish-bytes")),
        ];
        let Some((wait, what, option)) = waits.into_iter().flatten().max_by_key(|(wait, ..)| *wait) else {
            return Ok(());
        };
        notices.add(Notice::PublishRateReached);
        // Whole seconds (RFC 9110, section 10.2.3), rounded up.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = format!(
            "this publisher has published as many {what} as it may for now (--{option}); try again in {seconds} s"
        );
        Err(Problem::new(429, detail).header("Retry-After", seconds.to_string()))
    }

    /// Takes this out of the publisher's buckets, and says how long it has to wait before it goes on.
    pub(super) fn charge(&self, events: usize, bytes: usize) -> Duration {
        let Some([of_events, of_bytes]) = self.keys else { return Duration::ZERO };
        let now = self.rates.now();
        let charge = |limiter: &RateLimiter, key, rate: Option<Rate>, amount: usize| match rate {
            Some(rate) if amount > 0 => limiter.charge(key, amount as u64, rate, now),
            _ => Duration::ZERO,
        };
        charge(&self.rates.events, of_events, self.limits.events, events).max(charge(
            &self.rates.bytes,
            of_bytes,
            self.limits.bytes,
            bytes,
        ))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(events: Option<Rate>, bytes: Option<Rate>) -> PublishRateLimits {
        PublishRateLimits { events, bytes }
    }

    /// The answer at the bound: its status, and its `Retry-After`.
    fn answer(allowance: &Allowance<'_>) -> Option<(StatusCode, String)> {
        let response = allowance.begin(&Notices::default()).err()?.into_response();
        let wait = response.headers().get("Retry-After").unwrap().to_str().unwrap().to_owned();
        Some((response.status(), wait))
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_is_in_debt_is_told_when_to_come_back() {
        let (rates, client) = (PublishRates::default(), RequestClient::default());
        let limits = limits(Some(Rate::new(10, 50)), None);
        let of = |name| rates.of(limits, Some(name), &client, 64);
        assert_eq!(of("ada").charge(50, 1_000_000), Duration::ZERO);
        assert_eq!(answer(&of("ada")), Some((StatusCode::TOO_MANY_REQUESTS, "1".to_owned())));
        assert_eq!(answer(&of("bob")), None, "each has its own");
        // An array that is larger than the burst is published whole, and paid for afterwards.
        assert_eq!(of("bob").charge(1000, 0), 95 * SECOND);
        assert_eq!(answer(&of("bob")).unwrap().1, "96");
        tokio::time::advance(95 * SECOND).await;
        assert_eq!(answer(&of("bob")).unwrap().1, "1");
        tokio::time::advance(SECOND).await;
        assert_eq!((answer(&of("bob")), answer(&of("ada"))), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_too_and_the_longer_wait_is_told() {
        let (rates, client) = (PublishRates::default(), RequestClient::default());
        let both = limits(Some(Rate::new(10, 10)), Some(Rate::new(1000, 5000)));
        let ada = rates.of(both, Some("ada"), &client, 64);
        assert_eq!(ada.charge(20, 30_000), 25 * SECOND);
        let (_, wait) = answer(&ada).unwrap();
        assert_eq!(wait, "26");
        // Where a bound is taken away, it holds no more.
        assert_eq!(answer(&rates.of(limits(None, None), Some("ada"), &client, 64)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_keys_a_client_is_its_address_and_the_operator_has_no_bound() {
        let rates = PublishRates::default();
        let limits = limits(Some(Rate::new(1, 1)), None);
        let client = |text: &str| RequestClient { counted: Some(text.parse().unwrap()), is_operator: false };
        let charge = |client: &RequestClient| rates.of(limits, None, client, 64).charge(2, 0);
        assert_eq!(charge(&client("192.0.2.1")), SECOND);
        assert_eq!(charge(&client("192.0.2.2")), SECOND);
        assert_eq!(charge(&client("2001:db8::1")), SECOND);
        assert_eq!(charge(&client("2001:db8::2")), 3 * SECOND, "one network");
        assert_eq!(charge(&RequestClient { counted: None, is_operator: true }), Duration::ZERO);
    }
}
