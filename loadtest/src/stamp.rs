//! The stamp: what travels inside an event's data so that a delivery can be judged.
//!
//! `~fl<run>.<topic>.<sequence>.<intended ns>.<length>.xxxx!` where the length is that of all of it. There is
//! no quote, space, backslash or percent sign in it, so it needs no escaping in JSON, forms or headers. A
//! server may wrap it in anything and put several into one event: it is looked for, not expected at a place.

use std::io::Write;

use crate::sys;

const OPENING: &[u8] = b"~fl";
const ENDING: u8 = b'!';

/// The smallest data that holds a stamp with the longest numbers.
pub(crate) const LEAST_BYTES: usize = 72;

/// One delivery, as the event says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stamp {
    /// Tells this run's events from those of earlier ones, which a server may have kept.
    pub(crate) run: u32,
    /// Number of the topic within the run.
    pub(crate) topic: u32,
    /// Position within the topic, from 0.
    pub(crate) sequence: u64,
    /// When the schedule wanted the event to be published, on CLOCK_MONOTONIC.
    pub(crate) intended: u64,
}

impl Stamp {
    /// Replaces `into` with data of `size` bytes (at least [`LEAST_BYTES`]).
    pub(crate) fn write(&self, size: usize, into: &mut Vec<u8>) {
        let size = size.max(LEAST_BYTES);
        let Stamp { run, topic, sequence, intended } = self;
        into.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(into, "~fl{run:08x}.{topic}.{sequence}.{intended}.{size}.");
        into.resize(size - 1, b'x');
        into.push(ENDING);
    }
}

/// Appends the stamps of a piece of data to `into`, and returns how many were cut short or mangled.
pub(crate) fn scan(mut data: &[u8], into: &mut Vec<Stamp>) -> u64 {
    let mut damaged = 0;
    while let Some(at) = sys::find_bytes(data, OPENING) {
        data = &data[at..];
        match parse(data) {
            Some((stamp, length)) => {
                into.push(stamp);
                data = &data[length..];
            }
            None => {
                damaged += 1;
                data = &data[OPENING.len()..];
            }
        }
    }
    damaged
}

fn parse(data: &[u8]) -> Option<(Stamp, usize)> {
    let rest = &data[OPENING.len()..];
    let run = std::str::from_utf8(rest.get(..8)?).ok()?;
    let run = u32::from_str_radix(run, 16).ok()?;
    let mut at = OPENING.len() + 8;
    let mut number = || -> Option<u64> {
        if data.get(at) != Some(&b'.') {
            return None;
        }
        at += 1;
        let start = at;
        let mut value = 0u64;
        while let Some(digit) = data.get(at).filter(|byte| byte.is_ascii_digit()) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            at += 1;
        }
        (at > start).then_some(value)
    };
    let topic = u32::try_from(number()?).ok()?;
    let (sequence, intended) = (number()?, number()?);
    let length = usize::try_from(number()?).ok()?;
    let whole = length > at && data.get(length - 1) == Some(&ENDING);
    whole.then_some((Stamp { run, topic, sequence, intended }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, topic: 12, sequence: 345, intended: 6_789_000_000 };

    fn data(size: usize) -> Vec<u8> {
        let mut data = Vec::new();
        STAMP.write(size, &mut data);
        data
    }

    #[test]
    fn what_is_written_is_found_wherever_a_server_puts_it() {
        for size in [0, LEAST_BYTES, 200, 16_384] {
            let mut found = Vec::new();
            let wrapped = [b"{\"a\":[\"", data(size).as_slice(), b"\",\"", &data(size), b"\"]}"].concat();
            assert_eq!(scan(&wrapped, &mut found), 0);
            assert_eq!(found, [STAMP, STAMP], "size {size}");
        }
    }

    #[test]
    fn the_longest_numbers_fit_the_least_size() {
        let longest =
            Stamp { run: u32::MAX, topic: 9_999_999, sequence: 9_999_999_999, intended: u64::MAX / 100 };
        let mut data = Vec::new();
        longest.write(LEAST_BYTES, &mut data);
        assert_eq!(data.len(), LEAST_BYTES);
        let mut found = Vec::new();
        assert_eq!(scan(&data, &mut found), 0);
        assert_eq!(found, [longest]);
    }

    #[test]
    fn data_cut_anywhere_after_the_opening_is_damaged() {
        let whole = data(100);
        for length in OPENING.len()..whole.len() {
            let mut found = Vec::new();
            assert_eq!(scan(&whole[..length], &mut found), 1, "cut to {length}");
            assert!(found.is_empty());
        }
        let mut found = Vec::new();
        let middle_missing = [&whole[..60], &whole[70..]].concat();
        assert_eq!(scan(&middle_missing, &mut found), 1);
    }
}
