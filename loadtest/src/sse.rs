//! The event stream format, read line by line as the HTML standard says (section 9.2.6), keeping nothing
//! between reads unless a read ends inside an event.

use crate::stamp::{self, Stamp};
use crate::sys;

/// An event id. Short ones, which is all that is usual, live in place.
#[derive(Clone, Debug, Default)]
pub(crate) enum Id {
    #[default]
    None,
    Short {
        length: u8,
        bytes: [u8; Id::SHORT],
    },
    Long(Box<[u8]>),
}

impl Id {
    const SHORT: usize = 38;

    fn set(&mut self, value: &[u8]) {
        *self = match value.len() {
            0 => Id::None,
            1..=Id::SHORT => {
                let mut bytes = [0; Id::SHORT];
                bytes[..value.len()].copy_from_slice(value);
                Id::Short { length: value.len() as u8, bytes }
            }
            _ => Id::Long(value.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Id::None => &[],
            Id::Short { length, bytes } => &bytes[..usize::from(*length)],
            Id::Long(bytes) => bytes,
        }
    }
}

/// An event, or a line, that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    line: Vec<u8>,
    stamps: Vec<Stamp>,
    damaged: u64,
    id: Option<Vec<u8>>,
    has_data: bool,
}

impl Unfinished {
    /// Nothing has to be kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty() && !self.has_data && self.id.is_none()
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.line.clear();
        self.end_event();
    }

    /// Inside an event: if the stream ends here, the event is lost (standard: "discarded").
    pub(crate) fn in_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    fn end_event(&mut self) {
        self.stamps.clear();
        self.damaged = 0;
        self.id = None;
        self.has_data = false;
    }
}

/// What outlives an event.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Of the last event; what goes into `Last-Event-ID`.
    pub(crate) last_id: Id,
    /// What the server asked for, in milliseconds; 0 when it did not.
    pub(crate) retry_ms: u32,
    begun: bool,
    after_carriage_return: bool,
}

/// Where complete events go.
pub(crate) trait Sink {
    /// One event with data: its stamps, how many more were damaged. No stamp at all: somebody else's event.
    fn event(&mut self, stamps: &[Stamp], damaged: u64);
}

impl Stream {
    /// A new connection for the same subscriber: the id and the delay stay.
    pub(crate) fn reopen(&mut self) {
        self.begun = false;
        self.after_carriage_return = false;
    }

    /// Reads on. `rest` is what the last read left unfinished, and gets what this one does.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], rest: &mut Unfinished, sink: &mut impl Sink) {
        if !self.begun && !bytes.is_empty() {
            // One leading byte order mark is ignored. Cut in two it would not be; no server does that.
            self.begun = true;
            bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        }
        loop {
            if self.after_carriage_return && !bytes.is_empty() {
                self.after_carriage_return = false;
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let mut end = sys::find_byte(bytes, b'\n');
            // A line also ends at a lone carriage return.
            if let Some(at) = sys::find_byte(&bytes[..end.unwrap_or(bytes.len())], b'\r') {
                end = Some(at);
                self.after_carriage_return = true;
            }
            let Some(end) = end else {
                rest.line.extend_from_slice(bytes);
                return;
            };
            if rest.line.is_empty() {
                self.line(&bytes[..end], rest, sink);
            } else {
                let mut line = std::mem::take(&mut rest.line);
                line.extend_from_slice(&bytes[..end]);
                self.line(&line, rest, sink);
                line.clear();
                rest.line = line;
            }
            bytes = &bytes[end + 1..];
        }
    }

    fn line(&mut self, line: &[u8], rest: &mut Unfinished, sink: &mut impl Sink) {
        let Some(&first) = line.first() else {
            if let Some(id) = rest.id.take() {
                self.last_id.set(&id);
            }
            if rest.has_data {
                sink.event(&rest.stamps, rest.damaged);
            }
            rest.end_event();
            return;
        };
        if first == b':' {
            return;
        }
        let (name, value) = match sys::find_byte(line, b':') {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match name {
            b"data" => {
                rest.has_data = true;
                rest.damaged += stamp::scan(value, &mut rest.stamps);
            }
            b"id" if !value.contains(&0) => rest.id = Some(value.to_vec()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.retry_ms = number.unwrap_or(u32::MAX);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(Vec<u64>, u64)>);

    impl Sink for Seen {
        fn event(&mut self, stamps: &[Stamp], damaged: u64) {
            self.0.push((stamps.iter().map(|stamp| stamp.sequence).collect(), damaged));
        }
    }

    fn stamped(sequence: u64) -> String {
        let mut data = Vec::new();
        Stamp { run: 1, topic: 0, sequence, intended: 5 }.write(80, &mut data);
        String::from_utf8(data).unwrap()
    }

    fn read(text: &[u8], piece: usize) -> (Seen, Stream, Unfinished) {
        let (mut seen, mut stream, mut rest) = (Seen::default(), Stream::default(), Unfinished::default());
        for bytes in text.chunks(piece) {
            stream.feed(bytes, &mut rest, &mut seen);
        }
        (seen, stream, rest)
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive_and_lines_end() {
        let (a, b, c) = (stamped(1), stamped(2), stamped(3));
        let lines = format!(
            "\u{FEFF}:hello\nretry: 250\n\nid: 7\nevent: x\ndata: {a}\n\nid\u{0}: 8\ndata:{b}\ndata: [\"{c}\"]\nid:9\n\ndata: other\n\ndata\n\nnothing: x\n\nid: lost\ndata: {a}\n"
        );
        for ending in ["\n", "\r\n", "\r"] {
            let text = lines.replace('\n', ending);
            for piece in [3, 5, 17, 64, text.len()] {
                let (seen, stream, rest) = read(text.as_bytes(), piece);
                let expected = [(vec![1], 0), (vec![2, 3], 0), (vec![], 0), (vec![], 0)];
                assert_eq!(seen.0, expected, "{ending:?} in pieces of {piece}");
                assert_eq!((stream.last_id.as_bytes(), stream.retry_ms), (&b"9"[..], 250));
                assert!(rest.in_event(), "an event without its blank line is not one");
            }
        }
    }

    #[test]
    fn a_prelude_without_a_blank_line_leaves_nothing_behind() {
        let (_, stream, rest) = read(b":\nretry: 2000\n", 100);
        assert!(rest.is_empty() && !rest.in_event());
        assert_eq!(stream.retry_ms, 2000);
    }

    #[test]
    fn damage_is_counted_and_ids_of_any_length_are_kept() {
        let cut = &stamped(1)[..50];
        let long = "i".repeat(100);
        let (seen, stream, _) = read(format!("id: {long}\ndata: {cut}\n\n").as_bytes(), 1000);
        assert_eq!(seen.0, [(vec![], 1)]);
        assert_eq!(stream.last_id.as_bytes(), long.as_bytes());
        let (_, stream, _) = read(b"id: 5\n\nid\n\n", 1000);
        assert_eq!(stream.last_id.as_bytes(), b"", "an empty id forgets the last one");
        assert_eq!(size_of::<Id>(), 40);
    }
}
