//! How long a stream may live on a token.

use std::time::Duration;

/// The widest window in which the streams of one expiry end.
pub const MAX_EXPIRY_SPREAD: Duration = Duration::from_secs(300);

/// How long a stream lives that begins now on a token that expires then; `None` if it has expired already.
///
/// The rule: the stream ends at a random moment in the last tenth of the token's remaining time, and this
/// window is at most [`MAX_EXPIRY_SPREAD`]. So a stream never outlives its token, and clients whose tokens
/// expire in one second do not come back in one second. The leeway of the verifier does not make a stream
/// longer.
///
/// `now_unix` is the wall clock since the Unix epoch, and `random` any random number, such as
/// [`fanfare_proto::jitter::Jitter::next_number`].
pub fn stream_lifetime(expires_unix_s: u64, now_unix: Duration, random: u64) -> Option<Duration> {
    let remaining =
        Duration::from_secs(expires_unix_s).checked_sub(now_unix).filter(|time| !time.is_zero())?;
    let window = (remaining / 10).min(MAX_EXPIRY_SPREAD);
    // The product of a window of at most 5 minutes in nanoseconds (39 bits) and 64 random bits fits.
    let early = (window.as_nanos() * u128::from(random)) >> 64;
    Some(remaining - Duration::from_nanos(early as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(1_000_500);

    #[test]
    fn a_stream_never_outlives_its_token() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            for remaining_s in [1, 10, 3_600, 86_400, u64::MAX / 2] {
                let expires_unix_s = 1_001 + remaining_s;
                let lifetime = stream_lifetime(expires_unix_s, NOW, random).unwrap();
                let exact = Duration::from_secs(expires_unix_s) - NOW;
                assert!(lifetime <= exact);
                assert!(lifetime >= exact - (exact / 10).min(MAX_EXPIRY_SPREAD));
            }
        }
    }

    #[test]
    fn an_expired_token_has_no_time_left() {
        assert_eq!(stream_lifetime(1_000, NOW, 7), None);
        assert_eq!(stream_lifetime(1_001, Duration::from_secs(1_001), 7), None);
        assert_eq!(stream_lifetime(0, NOW, 7), None);
    }

    #[test]
    fn the_ends_of_a_fleet_are_spread_over_the_window() {
        let mut jitter = fanfare_proto::jitter::Jitter::new(11);
        let expires_unix_s = 1_000 + 3_600;
        let mut per_tenth = [0; 10];
        for _ in 0..10_000 {
            let lifetime = stream_lifetime(expires_unix_s, NOW, jitter.next_number()).unwrap();
            let early = Duration::from_secs(expires_unix_s) - NOW - lifetime;
            let tenth = early.as_millis() * 10 / (MAX_EXPIRY_SPREAD.as_millis() + 1);
            per_tenth[tenth as usize] += 1;
        }
        assert!(per_tenth.iter().all(|count| (800..1_200).contains(count)), "{per_tenth:?}");
    }
}
