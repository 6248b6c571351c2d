//! The stamp: what travels inside an event's data so that a delivery can be judged.
//!
//! `~fl<run>.<topic>.<sequence>.<intended ns>.<length>.<checksum>.<filler>!` where the length is that of all
//! of it in bytes, and the checksum is the CRC-32 of the rest. A server may wrap it in anything and put
//! several into one event: it is looked for, not expected at a place.

use std::io::Write;

use clap::ValueEnum;
use memchr::memmem;
use serde::{Deserialize, Serialize};

const OPENING: &[u8] = b"~fl";
const ENDING: u8 = b'!';
/// Hexadecimal digits of the checksum.
const CHECKSUM: usize = 8;

/// The smallest data that holds a stamp with the longest numbers.
pub(crate) const LEAST_BYTES: usize = 84;

/// What fills an event up to its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Payload {
    /// Letters and digits: nothing that needs escaping in JSON, forms or headers
    #[default]
    Plain,
    /// Several lines with characters beyond ASCII, quotes, backslashes and tabs
    Text,
}

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
    pub(crate) fn write(&self, size: usize, payload: Payload, into: &mut Vec<u8>) {
        let size = size.max(LEAST_BYTES);
        let Stamp { run, topic, sequence, intended } = self;
        into.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(into, "~fl{run:08x}.{topic}.{sequence}.{intended}.{size}.");
        let at = into.len();
        into.extend_from_slice(&[b'0'; CHECKSUM]);
        into.push(b'.');
        // Another one for each event, so that a part of one event in the place of another's is noticed.
        let seed = sequence.wrapping_mul(31).wrapping_add(u64::from(*topic)).wrapping_add(u64::from(*run));
        match payload {
            Payload::Plain => plain(seed, size - 1, into),
            Payload::Text => text(seed, size - 1, into),
        }
        into.push(ENDING);
        let checksum = checksum(into, at);
        let _ = write!(&mut into[at..at + CHECKSUM], "{checksum:08x}");
    }
}

fn plain(seed: u64, end: usize, into: &mut Vec<u8>) {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let start = into.len();
    let at = |index: usize| LETTERS[(seed as usize).wrapping_add(index * 7 + index / 5) % LETTERS.len()];
    into.extend((0..end - start).map(at));
}

/// Lines of a text, which the standard sends as several `data` fields.
fn text(seed: u64, end: usize, into: &mut Vec<u8>) {
    const PIECES: [&str; 12] =
        ["événement", "\n", "→ ", "日本語", "\"a\"", "\\", "🎺", "\t", "ß", "{}", "\n\n", " : data: "];
    let mut at = seed as usize;
    loop {
        let piece = PIECES[at % PIECES.len()];
        if into.len() + piece.len() > end {
            break;
        }
        into.extend_from_slice(piece.as_bytes());
        at += 1;
    }
    into.resize(end, b'.');
}

/// The checksum of a stamp whose own digits begin at `at`.
fn checksum(stamp: &[u8], at: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stamp[..at]);
    hasher.update(&stamp[at + CHECKSUM..]);
    hasher.finalize()
}

/// Appends the stamps of a piece of data to `into`, and returns how many were cut short or changed.
pub(crate) fn scan(mut data: &[u8], into: &mut Vec<Stamp>) -> u64 {
    let mut damaged = 0;
    while let Some(at) = memmem::find(data, OPENING) {
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
    let at = at + 1;
    let digits = std::str::from_utf8(data.get(at..at + CHECKSUM)?).ok()?;
    let claimed = u32::from_str_radix(digits, 16).ok()?;
    let ends = length > at + CHECKSUM && data.get(length - 1) == Some(&ENDING);
    let whole = ends && checksum(&data[..length], at) == claimed;
    whole.then_some((Stamp { run, topic, sequence, intended }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, topic: 12, sequence: 345, intended: 6_789_000_000 };

    fn data(size: usize, payload: Payload) -> Vec<u8> {
        let mut data = Vec::new();
        STAMP.write(size, payload, &mut data);
        data
    }

    #[test]
    fn what_is_written_is_found_wherever_a_server_puts_it() {
        for payload in [Payload::Plain, Payload::Text] {
            for size in [0, LEAST_BYTES, 200, 16_384] {
                let data = data(size, payload);
                assert_eq!(data.len(), size.max(LEAST_BYTES));
                let mut found = Vec::new();
                let wrapped = [b"{\"a\":[\"", data.as_slice(), b"\",\"", &data, b"\"]}"].concat();
                assert_eq!(scan(&wrapped, &mut found), 0);
                assert_eq!(found, [STAMP, STAMP], "size {size}");
            }
        }
        let text = String::from_utf8(data(400, Payload::Text)).unwrap();
        assert!(text.lines().count() > 3 && !text.is_ascii(), "{text}");
        let plain = String::from_utf8(data(400, Payload::Plain)).unwrap();
        assert!(plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"~.!".contains(&byte)), "{plain}");
    }

    #[test]
    fn the_longest_numbers_fit_the_least_size() {
        let longest =
            Stamp { run: u32::MAX, topic: 9_999_999, sequence: 9_999_999_999, intended: u64::MAX / 100 };
        let mut data = Vec::new();
        longest.write(LEAST_BYTES, Payload::Plain, &mut data);
        assert_eq!(data.len(), LEAST_BYTES);
        let mut found = Vec::new();
        assert_eq!(scan(&data, &mut found), 0);
        assert_eq!(found, [longest]);
    }

    #[test]
    fn data_cut_anywhere_after_the_opening_is_damaged() {
        let whole = data(120, Payload::Plain);
        for length in OPENING.len()..whole.len() {
            let mut found = Vec::new();
            assert_eq!(scan(&whole[..length], &mut found), 1, "cut to {length}");
            assert!(found.is_empty());
        }
        let mut found = Vec::new();
        let middle_missing = [&whole[..60], &whole[70..]].concat();
        assert_eq!(scan(&middle_missing, &mut found), 1);
    }

    /// The filler was always the same letter, so a byte that changed was not noticed.
    #[test]
    fn each_byte_that_changes_is_noticed() {
        for payload in [Payload::Plain, Payload::Text] {
            let whole = data(160, payload);
            for at in OPENING.len()..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 0x04;
                let mut found = Vec::new();
                assert_eq!((scan(&changed, &mut found), found), (1, vec![]), "byte {at}");
            }
        }
        let other = Stamp { sequence: 346, ..STAMP };
        let (mut second, first) = (Vec::new(), data(160, Payload::Plain));
        other.write(160, Payload::Plain, &mut second);
        assert_ne!(first[100..150], second[100..150], "the middle of one event is not that of another");
    }
}
