//! The pieces of a stream, as the naive model cuts them off.

use fanfare_proto::frame::WireFormat;
use fanfare_testkit::chunks::{ChunkReader, Part, first_chunk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Whole,
    Beginning,
    Other,
}

pub(super) fn matches_beginning(begun: &[u8], piece: &[u8]) -> bool {
    let common = piece.len().min(begun.len());
    begun[..common] == piece[..common]
}

/// Takes `piece` off the front of `begun` if it is there whole.
pub(super) fn take_off(begun: &mut Vec<u8>, piece: &[u8]) -> Match {
    let common = piece.len().min(begun.len());
    if begun[..common] != piece[..common] {
        return Match::Other;
    }
    if common < piece.len() {
        return Match::Beginning;
    }
    begun.drain(..common);
    Match::Whole
}

/// Whether these bytes are of no event.
pub(super) fn starts_a_block(bytes: &[u8], format: WireFormat) -> bool {
    let body = match format {
        WireFormat::Plain => bytes,
        WireFormat::Chunked => {
            let first = ChunkReader::default().next(&mut &*bytes).expect("a chunk");
            match first {
                Some(Part::Data(data)) => data,
                _ => &[],
            }
        }
        format => unreachable!("there is no format {format:?}"),
    };
    let starts = [&b"id: "[..], b"retry: ", b":", b"event: fanfare.gap"];
    body.is_empty() || starts.iter().any(|start| start.starts_with(body) || body.starts_with(start))
}

/// The first chunk, or what comes up to a blank line or is one `retry` line, and how many bytes it is on the
/// wire.
pub(super) fn block(bytes: &[u8], format: WireFormat) -> Option<(&str, usize)> {
    let text = str::from_utf8(bytes).expect("text");
    match format {
        WireFormat::Plain => {
            if text.starts_with("retry: ") {
                return text.find('\n').map(|end| (&text[..=end], end + 1));
            }
            let end = text.find("\n\n")? + 2;
            Some((&text[..end], end))
        }
        WireFormat::Chunked => {
            let (body, length) = first_chunk(bytes).expect("a chunk")?;
            Some((str::from_utf8(body).expect("text"), length))
        }
        format => unreachable!("there is no format {format:?}"),
    }
}
