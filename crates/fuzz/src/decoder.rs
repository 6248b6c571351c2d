//! The decoder of `text/event-stream` against the algorithm as the HTML standard writes it down.

use fanfare_proto::decoder::{Decoded, Decoder};

use crate::pieces::ways_to_cut;

/// The input is a stream.
pub(crate) fn check(input: &[u8]) {
    for limit in [usize::MAX, 64, 9] {
        let expected = interpret(input, limit);
        for ends in ways_to_cut(input) {
            assert_eq!(decode(input, &ends, limit), expected, "limit {limit}, pieces that end at {ends:?}");
        }
    }
}

/// What a stream says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Meaning {
    pub(crate) found: Vec<Found>,
    pub(crate) last_event_id: String,
    pub(crate) too_long: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    Event { kind: String, data: String, id: String },
    Retry(u64),
    Comment(String),
}

/// The decoder's answer to a stream that comes in pieces.
pub(crate) fn decode(stream: &[u8], ends: &[usize], limit: usize) -> Meaning {
    let mut decoder = Decoder::new(limit);
    let mut meaning = Meaning::default();
    let mut begin = 0;
    for &end in ends {
        let found = &mut meaning.found;
        let fed = decoder.feed(&stream[begin..end], &mut |decoded| found.push(own(decoded)));
        assert!(fed.is_err() || !meaning.too_long, "a decoder that has failed goes on");
        meaning.too_long = fed.is_err();
        begin = end;
    }
    meaning.last_event_id = decoder.last_event_id().to_owned();
    meaning
}

fn own(decoded: Decoded<'_>) -> Found {
    match decoded {
        Decoded::Event { kind, data, last_event_id } => {
            Found::Event { kind: kind.into(), data: data.into(), id: last_event_id.into() }
        }
        Decoded::Retry(millis) => Found::Retry(millis),
        Decoded::Comment(text) => Found::Comment(text.into()),
        other => panic!("unknown: {other:?}"),
    }
}

/// HTML standard, sections 9.2.5 and 9.2.6, sentence by sentence, over the whole stream at once. What the
/// line, the data and the type have together ends it when it is over `limit`.
pub(crate) fn interpret(stream: &[u8], limit: usize) -> Meaning {
    let mut meaning = Meaning::default();
    let (mut data, mut kind, mut id) = (String::new(), String::new(), String::new());
    // "Streams must be decoded using the UTF-8 decode algorithm", which strips one byte order mark.
    let text = String::from_utf8_lossy(stream);
    let (lines, _) = split_lines(text.strip_prefix('\u{feff}').unwrap_or(&text).as_bytes());
    let (raw_lines, unfinished) = split_lines(stream);
    assert_eq!(lines.len(), raw_lines.len(), "no line end is part of a longer character");
    for (line, raw) in lines.iter().zip(&raw_lines) {
        if data.len() + kind.len() + raw.len() > limit {
            meaning.too_long = true;
            return meaning;
        }
        let line = std::str::from_utf8(line).unwrap();
        if line.is_empty() {
            meaning.last_event_id.clone_from(&id);
            let (said, named) = (std::mem::take(&mut data), std::mem::take(&mut kind));
            if !said.is_empty() {
                let kind = if named.is_empty() { "message".to_owned() } else { named };
                let data = said[..said.len() - 1].to_owned();
                meaning.found.push(Found::Event { kind, data, id: id.clone() });
            }
            continue;
        }
        let (field, value) = match line.find(':') {
            Some(0) => {
                meaning.found.push(Found::Comment(line[1..].to_owned()));
                continue;
            }
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, ""),
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = value.to_owned(),
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                meaning.found.push(Found::Retry(value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
    meaning.too_long = !unfinished.is_empty() && data.len() + kind.len() + unfinished.len() > limit;
    meaning
}

/// "Lines must be separated by either a CRLF character pair, a single LF character, or a single CR
/// character."
fn split_lines(stream: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    for (at, &byte) in stream.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && stream[at - 1] == b'\r' => {}
            b'\r' | b'\n' => lines.push(std::mem::take(&mut line)),
            other => line.push(other),
        }
    }
    (lines, line)
}
