//! A share of something, such as of a node's streams.

use std::fmt;
use std::str::FromStr;

/// A share that is more than nothing and at most all, exact to a ten-thousandth of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// The text or number is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidShare(());

impl Share {
    /// All of it.
    pub const ALL: Share = Share(Share::MILLION as u32);
    /// The parts of [`Share::ALL`].
    pub(crate) const MILLION: u64 = 1_000_000;

    /// So many percent.
    ///
    /// # Errors
    /// It is not more than 0 and at most 100, or it rounds to 0.
    pub fn percent(percent: f64) -> Result<Share, InvalidShare> {
        let parts = (percent * 10_000.0).round();
        // A number that is none is not in the range.
        let is_share = (1.0..=1e6).contains(&parts) && percent <= 100.0;
        if is_share { Ok(Share(parts as u32)) } else { Err(InvalidShare(())) }
    }

    /// As percent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// The share of a count, rounded.
    pub fn of(self, count: u64) -> u64 {
        let parts = u128::from(count) * u128::from(self.0);
        ((parts + u128::from(Share::MILLION) / 2) / u128::from(Share::MILLION)) as u64
    }

    /// In millionths.
    pub(crate) fn parts(self) -> u64 {
        u64::from(self.0)
    }
}

impl FromStr for Share {
    type Err = InvalidShare;

    /// Parses percent, as in `20%` or `0.5%`.
    fn from_str(text: &str) -> Result<Share, InvalidShare> {
        let digits = text.strip_suffix('%').ok_or(InvalidShare(()))?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let percent = digits.parse().ok().filter(|_| is_number).ok_or(InvalidShare(()))?;
        Share::percent(percent)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.as_percent())
    }
}

impl fmt::Display for InvalidShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share is more than 0% and at most 100%, as in 20% or 0.5%")
    }
}

impl std::error::Error for InvalidShare {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_more_than_nothing_and_at_most_all() {
        for (text, count) in [("20%", 200), ("0.5%", 5), ("100%", 1000), ("33.3333%", 333), ("99.96%", 1000)]
        {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.of(1000), share.to_string().as_str()), (count, text));
        }
        assert_eq!("100%".parse(), Ok(Share::ALL));
        for text in
            ["", "%", "20", "0%", "0.00001%", "100.1%", "-5%", "+5%", "1e1%", "inf%", "NaN%", " 5%", "5 %"]
        {
            assert_eq!(text.parse::<Share>(), Err(InvalidShare(())), "{text:?}");
        }
        assert_eq!(Share::percent(f64::NAN), Err(InvalidShare(())));
        assert_eq!(Share::ALL.of(u64::MAX), u64::MAX);
    }
}
