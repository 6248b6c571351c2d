//! The events that are published. Their data describes itself, so that a subscriber can check that it arrived
//! whole.

use std::fmt::Write;

/// The number of topics. They are named `t0`, `t1` and so on; a set of topics is a bit mask.
pub(crate) const TOPICS: u32 = 24;

/// The type of the events that end a round.
pub(crate) const MARKER: &str = "marker";

/// Line feeds, leading spaces, colons and characters of several bytes: what framing could get wrong.
const TEXT: &str = "data: line\n  two spaces\n\n: no comment\nid: 7 \u{e9}\u{4e2d}\u{1f600} event: x\n0";

/// Writes the data of an event into `out`: its key, its topics, a length in characters, and a body that
/// follows from key and length.
pub(crate) fn render(key: u64, mask: u32, length: usize, out: &mut String) {
    out.clear();
    let _ = write!(out, "{key} {mask:x} {length} ");
    let skip = key as usize % TEXT.chars().count();
    out.extend(TEXT.chars().cycle().skip(skip).take(length));
}

/// An upper bound of the memory that such an event takes in the log, in bytes. A field name and a line end
/// may follow each line feed, and 400 bytes are more than the frame, its id and the names of its topics take.
pub(crate) fn log_bytes(mask: u32, length: usize) -> usize {
    let feeds = TEXT.matches('\n').count() * (1 + length / TEXT.chars().count());
    let longest = TEXT.len() * (1 + length / TEXT.chars().count());
    400 + 64 * mask.count_ones() as usize + longest + 7 * feeds
}

/// The key and the topics of received data; `None` if any byte differs from what was published. `scratch` is
/// reused memory.
pub(crate) fn check(data: &str, scratch: &mut String) -> Option<(u64, u32)> {
    let mut words = data.splitn(4, ' ');
    let key = words.next()?.parse().ok()?;
    let mask = u32::from_str_radix(words.next()?, 16).ok()?;
    let length: usize = words.next()?.parse().ok()?;
    if length > data.len() {
        return None;
    }
    render(key, mask, length, scratch);
    (scratch == data).then_some((key, mask))
}

/// The names of the topics in a mask.
pub(crate) fn topics(mask: u32) -> impl Iterator<Item = String> {
    (0..TOPICS).filter(move |bit| mask & (1 << bit) != 0).map(|bit| format!("t{bit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_recognized_and_any_damage_is_detected() {
        let (mut data, mut scratch) = (String::new(), String::new());
        for (key, length) in [(0, 0), (1, 1), (77, 300)] {
            render(key, 0b101, length, &mut data);
            assert_eq!(check(&data, &mut scratch), Some((key, 0b101)));
            for (at, _) in data.char_indices() {
                let mut cut = data.clone();
                cut.remove(at);
                assert_ne!(check(&cut, &mut scratch), Some((key, 0b101)), "without the character at {at}");
            }
        }
        assert_eq!(topics(0b101).collect::<Vec<_>>(), ["t0", "t2"]);
    }
}
