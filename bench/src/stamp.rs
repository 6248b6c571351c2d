//! Events that say what number they have and when they were sent, and the reader that checks them:
//! nothing lost, nothing doubled, nothing out of order, and how late.
//!
//! Chunked streams of one engine only: it knows how that engine lays out a frame, because a real decoder
//! could not keep up with a shard on one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fanfare_io::Clock;
use hdrhistogram::Histogram;

use crate::client::Sink;

/// Bytes of a stamp; the rest of the data is filler.
pub const STAMP_BYTES: usize = 24;

/// Bytes of a chunk's first line at most: seven digits, CR and LF.
const LONGEST_SIZE_LINE: usize = 9;

/// Latencies up to this are told apart; longer ones count as this long.
const LONGEST: Duration = Duration::from_secs(60);

/// The data of event `number` sent at `now`, `bytes` long.
///
/// # Panics
/// `bytes` is less than [`STAMP_BYTES`].
pub fn data(number: u32, now: Duration, bytes: usize) -> String {
    assert!(bytes >= STAMP_BYTES, "an event needs room for its stamp");
    let mut text = vec![b'.'; bytes];
    let nanos = now.as_nanos() as u64;
    let parts = [number, (nanos >> 32) as u32, nanos as u32];
    for (letters, part) in text.chunks_exact_mut(8).zip(parts) {
        for (place, letter) in letters.iter_mut().rev().enumerate() {
            *letter = b'a' + (part >> (4 * place) & 15) as u8;
        }
    }
    String::from_utf8(text).expect("letters and dots are text")
}

/// Reads eight letters `a` to `p` as a number, all at once: this runs ten million times a second.
fn number(letters: [u8; 8]) -> u32 {
    let nibbles = u64::from_be_bytes(letters).wrapping_sub(u64::from_be_bytes([b'a'; 8]));
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let words = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (words | words >> 16) as u32
}

/// What others may know of a checker at work.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events received, on all connections.
    pub events: AtomicU64,
    /// Connections that have ended.
    pub ended: AtomicU64,
    /// Whether latencies are noted.
    pub recording: AtomicBool,
}

/// What a checker has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Events received.
    pub events: u64,
    /// Events that were skipped.
    pub lost: u64,
    /// Events whose number was not above the last one's.
    pub doubled: u64,
    /// Chunks that are no events: the prelude, gap events.
    pub others: u64,
    /// Streams that could not be read on.
    pub broken: u64,
    /// Connections that have ended.
    pub ended: u64,
}

/// Reads stamped events on every connection.
pub struct Checker {
    clock: Clock,
    data_bytes: usize,
    sample_every: u32,
    streams: Vec<Stream>,
    progress: Arc<Progress>,
    found: Found,
    latency: Histogram<u64>,
}

#[derive(Clone, Default)]
struct Stream {
    in_body: bool,
    broken: bool,
    /// The number of the next event.
    next: u32,
    /// A piece whose end has not come yet.
    carry: Vec<u8>,
}

impl Checker {
    /// For `connections` streams of events with `data_bytes` of data, stamped by `clock`, of which every
    /// `sample_every`th has its latency noted.
    pub fn new(clock: Clock, connections: usize, data_bytes: usize, sample_every: u32) -> Checker {
        let longest = LONGEST.as_nanos() as u64;
        Checker {
            clock,
            data_bytes,
            sample_every,
            streams: vec![Stream::default(); connections],
            progress: Arc::default(),
            found: Found::default(),
            // Bounds and precision are constants that the histogram accepts.
            latency: Histogram::new_with_bounds(1, longest, 3).expect("a histogram of a minute"),
        }
    }

    /// What others may read while it reads.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// What was found, given that events up to `published` were sent to every connection: what is missing
    /// at the end is lost too.
    pub fn found(&self, published: u32) -> Found {
        let missing = self.streams.iter().map(|stream| u64::from(published.saturating_sub(stream.next)));
        Found { lost: self.found.lost + missing.sum::<u64>(), ..self.found }
    }

    /// The latencies noted, in nanoseconds.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// The latencies noted since the last call, in nanoseconds.
    pub fn take_latency(&mut self) -> Histogram<u64> {
        let taken = self.latency.clone();
        self.latency.reset();
        taken
    }

    /// Takes one whole piece of a stream: its head, or a chunk.
    fn piece(&mut self, connection: usize, piece: &[u8], now: u64) {
        let stream = &mut self.streams[connection];
        if !stream.in_body {
            stream.in_body = true;
            return;
        }
        // A chunk with an event is its size, CR LF, `data: ` DATA LF `id: ` ID LF LF CR LF.
        let body =
            piece.iter().take(LONGEST_SIZE_LINE).position(|&byte| byte == b'\n').map(|end| &piece[end + 1..]);
        let data = body.and_then(|body| body.strip_prefix(b"data: ")?.split_at_checked(self.data_bytes));
        let data = data.filter(|(_, behind)| behind.starts_with(b"\nid: ")).map(|(data, _)| data);
        let Some(stamp) = data.and_then(|data| data.first_chunk::<STAMP_BYTES>()) else {
            self.found.others += 1;
            return;
        };
        self.found.events += 1;
        let part = |at: usize| number(std::array::from_fn(|place| stamp[at + place]));
        let number = part(0);
        if number < stream.next {
            self.found.doubled += 1;
            return;
        }
        self.found.lost += u64::from(number - stream.next);
        stream.next = number + 1;
        if number.is_multiple_of(self.sample_every) && self.progress.recording.load(Ordering::Relaxed) {
            let sent = u64::from(part(8)) << 32 | u64::from(part(16));
            self.latency.saturating_record(now.saturating_sub(sent).max(1));
        }
    }
}

impl Sink for Checker {
    const READS: bool = true;

    fn received(&mut self, connection: usize, bytes: &[u8]) {
        let now = self.clock.now().as_nanos() as u64;
        let mut at = 0;
        let stream = &mut self.streams[connection];
        if stream.broken {
            return;
        }
        let mut carry = std::mem::take(&mut stream.carry);
        if !carry.is_empty() {
            let had = carry.len();
            // A piece is never longer than this.
            carry.extend_from_slice(&bytes[..bytes.len().min(self.data_bytes + 1024)]);
            match whole_piece(&carry, stream.in_body) {
                Ok(Some(length)) => {
                    self.piece(connection, &carry[..length], now);
                    at = length - had;
                }
                Ok(None) => {
                    stream.carry = carry;
                    return;
                }
                Err(NoChunk) => stream.broken = true,
            }
        }
        // Chunks are mostly as long as the one before, and then need only a comparison of their size line.
        let (mut size_line, mut length) = ([0; 4], usize::MAX);
        loop {
            while let Some(piece) = bytes.get(at..at.saturating_add(length))
                && piece.first_chunk() == Some(&size_line)
            {
                self.piece(connection, piece, now);
                at += length;
            }
            let stream = &mut self.streams[connection];
            match whole_piece(&bytes[at..], stream.in_body) {
                Ok(Some(found)) => {
                    let piece = &bytes[at..at + found];
                    // Four bytes hold the whole size line, up to its CR, of an event below 4 KiB.
                    if let (true, Some(first)) = (stream.in_body, piece.first_chunk::<4>())
                        && first.contains(&b'\r')
                    {
                        (size_line, length) = (*first, found);
                    }
                    self.piece(connection, piece, now);
                    at += found;
                }
                Ok(None) => {
                    stream.carry.extend_from_slice(&bytes[at..]);
                    break;
                }
                Err(NoChunk) => {
                    stream.broken = true;
                    self.found.broken += 1;
                    break;
                }
            }
        }
        self.progress.events.store(self.found.events, Ordering::Release);
    }

    fn ended(&mut self, _: usize) {
        self.found.ended += 1;
        self.progress.ended.store(self.found.ended, Ordering::Release);
    }
}

/// These bytes are no chunk.
struct NoChunk;

/// The length of the first whole piece, if it is all there.
fn whole_piece(bytes: &[u8], in_body: bool) -> Result<Option<usize>, NoChunk> {
    if !in_body {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        return Ok(end.map(|end| end + 4));
    }
    let mut size = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            // The size, CR LF, the body, CR LF.
            b'\r' if place > 0 => {
                let length = place + 2 + size + 2;
                return Ok((bytes.len() >= length).then_some(length));
            }
            _ => return Err(NoChunk),
        };
        size = size << 4 | usize::from(digit);
        if place == 7 {
            return Err(NoChunk);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(numbers: &[u32]) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nd\r\n:\nretry: 200\n\r\n".to_vec();
        for &number in numbers {
            let body = format!("data: {}\nid: x\n\n", data(number, Duration::from_nanos(1 << 33), 40));
            bytes.extend_from_slice(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8], piece: usize, published: u32) -> Found {
        let mut checker = Checker::new(Clock::start(), 1, 40, 1);
        for part in bytes.chunks(piece) {
            checker.received(0, part);
        }
        checker.found(published)
    }

    #[test]
    fn the_pieces_that_bytes_come_in_make_no_difference() {
        let bytes = stream(&[0, 1, 2, 3]);
        for piece in 1..bytes.len() {
            let found = read(&bytes, piece, 4);
            assert_eq!(found, Found { events: 4, others: 1, ..Found::default() }, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_lost_or_doubled_is_found() {
        let found = read(&stream(&[0, 1, 4, 4, 3, 5]), 1000, 8);
        assert_eq!((found.lost, found.doubled, found.events), (2 + 2, 2, 6));
    }

    #[test]
    fn a_number_survives_its_letters() {
        let text = data(0x1234_abcd, Duration::from_nanos(0x12_3456_789a), 24);
        let letters: [u8; 24] = text.as_bytes().try_into().unwrap();
        let parts = [0, 8, 16].map(|at| number(letters[at..at + 8].try_into().unwrap()));
        assert_eq!(parts, [0x1234_abcd, 0x12, 0x3456_789a]);
    }
}
