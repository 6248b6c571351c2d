//! How much each publisher may publish: events and bytes in a second.
//!
//! A publisher that has used up its rate is answered 429 before its body is read. What it publishes is taken
//! out of its buckets when the hub has answered, also where they do not have it: an array is published whole,
//! and the next publish waits for as long. A body of NDJSON is not broken off: after each part the server
//! waits until the debt is paid, and reads on then.
//!
//! What the hub refuses is not taken out of these buckets, because nothing was published. It has buckets of
//! its own with the same rates: a publisher that is refused loses nothing of its rate, and still cannot try
//! without a bound.

use std::time::Duration;

use fanfare::{ProblemKind, Rate, RateKey, RateLimiter};
use tokio::time::Instant;

use super::notices::{Notice, Notices};
use super::problem::Problem;
use crate::request_client::RequestClient;

/// The rates of all publishers.
#[derive(Debug)]
pub(crate) struct PublishRates {
    /// Events and bytes that were published, or read in vain for another reason than the hub's.
    published: [RateLimiter; 2],
    /// Those that the hub refused.
    refused: [RateLimiter; 2],
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
    /// The publisher in each of the limiters, first in those of what was published; `None`: it has no bound.
    keys: Option<[[RateKey; 2]; 2]>,
}

/// What a publish has used and not paid for yet: see [`Allowance::bill`]. Where it is dropped, because the
/// publish failed or its client has left, it is paid.
pub(super) struct Bill<'allowance> {
    allowance: Option<&'allowance Allowance<'allowance>>,
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Default for PublishRates {
    fn default() -> PublishRates {
        let [published, refused] = [(); 2].map(|()| [(); 2].map(|()| RateLimiter::new()));
        PublishRates { published, refused, began_at: Instant::now() }
    }
}

impl PublishRates {
    /// What a publish may use: of the publisher with this name, or of the client where the server has no
    /// keys.
    pub(super) fn of(
        &self,
        limits: PublishRateLimits,
        publisher: Option<&str>,
        client: &RequestClient,
        ipv6_prefix_bits: u8,
    ) -> Allowance<'_> {
        let limiters = [&self.published, &self.refused];
        let keys = match (publisher, client.counted) {
            _ if limits.are_none() => None,
            (Some(name), _) => {
                Some(limiters.map(|pair| pair.each_ref().map(|limiter| limiter.key_of_text(name))))
            }
            (None, Some(address)) => {
                let key = |limiter: &RateLimiter| limiter.key_of_address(address, ipv6_prefix_bits);
                Some(limiters.map(|pair| pair.each_ref().map(key)))
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
        let Some([published, refused]) = self.keys else { return Ok(()) };
        let now = self.rates.now();
        let kinds = [("events", "max-publish-events"), ("bytes", "max-publish-bytes")];
        let rates = [self.limits.events, self.limits.bytes];
        let waits_of = |limiters: &[RateLimiter; 2], keys: [RateKey; 2]| {
            [0, 1].map(|index| {
                let (what, option) = kinds[index];
                Some((limiters[index].wait(keys[index], rates[index]?, now)?, what, option))
            })
        };
        let waits = [waits_of(&self.rates.published, published), waits_of(&self.rates.refused, refused)];
        let waits = waits.into_iter().flatten();
        let Some((wait, what, option)) = waits.flatten().max_by_key(|(wait, ..)| *wait) else {
            return Ok(());
        };
        notices.add(Notice::PublishRateReached);
        // Whole seconds (RFC 9110, section 10.2.3), rounded up.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let detail = format!(
            "this publisher has sent as many {what} as it may for now (--{option}); try again in {seconds} s"
        );
        Err(Problem::new(ProblemKind::PublishRateReached, detail).header("Retry-After", seconds.to_string()))
    }

    /// Begins to note what a publish uses.
    pub(super) fn bill(&self) -> Bill<'_> {
        Bill { allowance: Some(self), events: 0, bytes: 0 }
    }

    /// Takes this out of the publisher's buckets, and says how long it has to wait before it goes on.
    fn charge(&self, is_refused: bool, events: usize, bytes: usize) -> Duration {
        let Some(keys) = self.keys else { return Duration::ZERO };
        let limiters = if is_refused { &self.rates.refused } else { &self.rates.published };
        let keys = keys[usize::from(is_refused)];
        let now = self.rates.now();
        let charge = |index: usize, rate: Option<Rate>, amount: usize| match rate {
            Some(rate) if amount > 0 => limiters[index].charge(keys[index], amount as u64, rate, now),
            _ => Duration::ZERO,
        };
        charge(0, self.limits.events, events).max(charge(1, self.limits.bytes, bytes))
    }
}

impl Bill<'_> {
    /// A bill that is not paid: the publisher has no bound.
    pub(super) fn none() -> Bill<'static> {
        Bill { allowance: None, events: 0, bytes: 0 }
    }

    /// Pays, and says how long the publisher has to wait before it goes on.
    pub(super) fn pay(&mut self) -> Duration {
        self.settle(false)
    }

    /// The hub has refused what is not paid yet.
    pub(super) fn refuse(&mut self) {
        self.settle(true);
    }

    fn settle(&mut self, is_refused: bool) -> Duration {
        let (events, bytes) = (std::mem::take(&mut self.events), std::mem::take(&mut self.bytes));
        self.allowance.map_or(Duration::ZERO, |allowance| allowance.charge(is_refused, events, bytes))
    }
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        self.pay();
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
        assert_eq!(of("ada").charge(false, 50, 1_000_000), Duration::ZERO);
        assert_eq!(answer(&of("ada")), Some((StatusCode::TOO_MANY_REQUESTS, "1".to_owned())));
        assert_eq!(answer(&of("bob")), None, "each has its own");
        // An array that is larger than the burst is published whole, and paid for afterwards.
        assert_eq!(of("bob").charge(false, 1000, 0), 95 * SECOND);
        assert_eq!(answer(&of("bob")).unwrap().1, "96");
        tokio::time::advance(95 * SECOND).await;
        assert_eq!(answer(&of("bob")).unwrap().1, "1");
        tokio::time::advance(SECOND).await;
        assert_eq!((answer(&of("bob")), answer(&of("ada"))), (None, None));
    }

    /// A publisher whose events found no room lost its rate to them. What it tries in vain is bounded all the
    /// same.
    #[tokio::test(start_paused = true)]
    async fn what_the_hub_refuses_has_a_bound_of_its_own() {
        let (rates, client) = (PublishRates::default(), RequestClient::default());
        let limits = limits(Some(Rate::new(10, 50)), None);
        let of = || rates.of(limits, Some("ada"), &client, 64);
        let allowance = of();
        for _ in 0..49 {
            let mut bill = allowance.bill();
            bill.events = 1;
            bill.refuse();
        }
        let mut bill = allowance.bill();
        bill.events = 49;
        assert_eq!(
            (bill.pay(), answer(&of())),
            (Duration::ZERO, None),
            "nothing was taken for the refused ones"
        );
        let mut bill = allowance.bill();
        bill.events = 1;
        bill.refuse();
        assert_eq!(answer(&of()), Some((StatusCode::TOO_MANY_REQUESTS, "1".to_owned())));
        tokio::time::advance(SECOND).await;
        // A publish whose end is not known is paid.
        let mut bill = allowance.bill();
        bill.events = 11;
        drop(bill);
        assert_eq!(answer(&of()).unwrap().1, "1");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_too_and_the_longer_wait_is_told() {
        let (rates, client) = (PublishRates::default(), RequestClient::default());
        let both = limits(Some(Rate::new(10, 10)), Some(Rate::new(1000, 5000)));
        let ada = rates.of(both, Some("ada"), &client, 64);
        assert_eq!(ada.charge(false, 20, 30_000), 25 * SECOND);
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
        let charge = |client: &RequestClient| rates.of(limits, None, client, 64).charge(false, 2, 0);
        assert_eq!(charge(&client("192.0.2.1")), SECOND);
        assert_eq!(charge(&client("192.0.2.2")), SECOND);
        assert_eq!(charge(&client("2001:db8::1")), SECOND);
        assert_eq!(charge(&client("2001:db8::2")), 3 * SECOND, "one network");
        assert_eq!(charge(&RequestClient { counted: None, is_operator: true }), Duration::ZERO);
    }
}
