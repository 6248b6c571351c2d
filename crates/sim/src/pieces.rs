//! What a send offers, taken apart: frames, one behind the other, or one piece of the connection's own. A
//! piece that a socket took a part of must be finished before anything else.

use fanfare_testkit::chunks::first_chunk;

/// A piece of a stream that was begun and is not sent whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// What is still to be sent.
    pub(crate) rest: Vec<u8>,
    pub(crate) kind: PieceKind,
    /// In which tick of the shard it was begun.
    pub(crate) tick: u64,
}

/// What a piece is, and so what the shard holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// The frame of this event, which all connections share.
    Frame(u64),
    /// So many bytes that are this connection's alone.
    Own(usize),
    /// A constant.
    Heartbeat,
}

/// All plain heartbeats that there are.
const HEARTBEATS: [&[u8]; 4] = [b":\n", b":\n\n", b"2\r\n:\n\r\n", b"3\r\n:\n\n\r\n"];

/// Whether a whole send is a heartbeat, with a cursor or without.
pub(crate) fn is_heartbeat(bytes: &[u8]) -> bool {
    HEARTBEATS.contains(&bytes) || is_checkpoint(bytes)
}

/// Whether a piece is a checkpoint alone. Events that were published have data, and their id is last.
fn is_checkpoint(bytes: &[u8]) -> bool {
    let body = match first_chunk(bytes) {
        Ok(Some((body, _))) => body,
        _ => bytes,
    };
    body.starts_with(b"id: ") || body.starts_with(b"event: fanfare.checkpoint\n")
}

/// The piece that a cut before `offset` leaves unfinished: where it begins, and where it ends. `None`: the
/// cut is between two pieces. The bytes begin with a piece.
pub(crate) fn piece_cut_at(bytes: &[u8], chunked: bool, offset: usize) -> Option<(usize, usize)> {
    let mut start = 0;
    while start < offset {
        let end = start + first_piece(&bytes[start..], chunked);
        if offset < end {
            return Some((start, end));
        }
        start = end;
    }
    None
}

/// How long the first piece is.
fn first_piece(bytes: &[u8], chunked: bool) -> usize {
    if chunked {
        let first = first_chunk(bytes).unwrap_or_else(|error| panic!("{error}"));
        let (_, length) = first.expect("a piece is a whole chunk");
        return length;
    }
    // A frame ends with its blank line; what has none is one piece.
    let blank = bytes.windows(2).position(|two| two == b"\n\n");
    blank.map_or(bytes.len(), |blank| blank + 2)
}

/// What a piece of a stream that has begun is.
pub(crate) fn kind_of(piece: &[u8]) -> PieceKind {
    if HEARTBEATS.contains(&piece) {
        return PieceKind::Heartbeat;
    }
    let text = str::from_utf8(piece).expect("text");
    let number = || {
        let (_, data) = text.split_once("data: ")?;
        data.split(' ').next()?.parse().ok()
    };
    match number() {
        Some(seq) if !is_checkpoint(piece) => PieceKind::Frame(seq),
        _ => PieceKind::Own(piece.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_names_the_piece_that_it_leaves_unfinished() {
        let plain = b"data: 7 x\nid: a-7\n\ndata: 8 x\nid: a-8\n\n";
        assert_eq!(piece_cut_at(plain, false, 0), None);
        assert_eq!(piece_cut_at(plain, false, 5), Some((0, 19)));
        assert_eq!(piece_cut_at(plain, false, 19), None);
        assert_eq!(piece_cut_at(plain, false, 20), Some((19, 38)));
        assert_eq!(kind_of(&plain[19..]), PieceKind::Frame(8));
        let chunked = b"3\r\nabc\r\n2\r\n:\n\r\n0\r\n\r\n";
        assert_eq!(piece_cut_at(chunked, true, 7), Some((0, 8)));
        assert_eq!(piece_cut_at(chunked, true, 9), Some((8, 15)));
        assert_eq!(kind_of(&chunked[8..15]), PieceKind::Heartbeat);
        assert_eq!(piece_cut_at(chunked, true, 15), None);
    }

    #[test]
    fn a_checkpoint_is_a_heartbeat_and_an_event_is_none() {
        for heartbeat in [
            &b":\n"[..],
            b"2\r\n:\n\r\n",
            b"id: a-7\n\n",
            b"9\r\nid: a-7\n\n\r\n",
            b"event: fanfare.checkpoint\n",
        ] {
            assert!(is_heartbeat(heartbeat));
        }
        assert!(!is_heartbeat(b"data: 7 x\nid: a-7\n\n"));
        assert_eq!(kind_of(b"event: fanfare.gap\ndata: {\"after\":\"\"}\nid: a-7\n\n"), PieceKind::Own(47));
    }
}
