//! Where a subscriber is: the text of `id:` and of `Last-Event-ID`.

use std::fmt;

/// The identity of the log's lifetime. A cursor of another epoch is a gap.
///
/// Written in base 36, so that an id keeps to `[A-Za-z0-9_.~-]` and stays short: ids that are longer
/// than 64 bytes or hold other characters cost browsers a CORS preflight at each reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// 36^9: nine digits, enough that two lifetimes of a log do not meet.
    const RANGE: u64 = 101_559_956_668_416;

    /// An epoch from random bits (the caller's: this crate draws none).
    pub fn new(random: u64) -> Epoch {
        Epoch(random % Epoch::RANGE)
    }

    /// Reads the text form: nine digits of base 36. `None` for everything that [`Epoch`]'s `Display` does not
    /// write.
    pub fn parse(text: &str) -> Option<Epoch> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
        let is_epoch = text.len() == 9 && text.bytes().all(is_digit);
        is_epoch.then(|| u64::from_str_radix(text, 36).ok()).flatten().map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [b'0'; 9];
        let mut rest = self.0;
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
        }
        f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

/// A position in the order of all events: everything up to and including `seq` has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log's lifetime that `seq` counts in.
    pub epoch: Epoch,
    /// The hub-wide sequence number; zero is before the first event.
    pub seq: u64,
}

impl Cursor {
    /// Reads the text form. `None` for everything that [`Cursor`]'s `Display` does not write: leading
    /// zeros, signs and other lengths are ids of other origins.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (epoch, seq) = text.split_at_checked(9)?;
        let digits = seq.strip_prefix('-')?;
        let canonical = digits == "0" || !digits.starts_with('0');
        if !canonical || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Cursor { epoch: Epoch::parse(epoch)?, seq: digits.parse().ok()? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for random in [0, 1, 35, 36, Epoch::RANGE - 1, u64::MAX] {
            for seq in [0, 1, 9, 10, u64::MAX] {
                let cursor = Cursor { epoch: Epoch::new(random), seq };
                let text = cursor.to_string();
                assert_eq!(Cursor::parse(&text), Some(cursor), "{text}");
                assert!(text.len() < 64);
            }
        }
    }

    #[test]
    fn the_text_of_an_epoch_round_trips_and_other_texts_are_none() {
        for random in [0, 1, 35, 36, Epoch::RANGE - 1, u64::MAX] {
            let epoch = Epoch::new(random);
            assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        }
        for text in ["", "00000001", "0000000001", "00000000A", "+00000001", "00000000 ", "0000000é"] {
            assert_eq!(Epoch::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_not_cursors() {
        for text in [
            "",
            "-",
            "000000001",
            "000000001-",
            "000000001-01",
            "000000001-+1",
            "000000001--1",
            "00000001-1",
            "0000000001-1",
            "00000000A-1",
            "000000001-18446744073709551616",
            "000000001-1 ",
            "éééé0-1",
            "earliest",
        ] {
            assert_eq!(Cursor::parse(text), None, "{text:?}");
        }
    }
}
