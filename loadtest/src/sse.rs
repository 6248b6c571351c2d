//! The event stream format, read line by line as the HTML standard says (section 9.2.6), keeping nothing
//! between reads unless a read ends inside an event. What a server can make it keep is bounded.

use memchr::memchr;

/// The byte order mark.
const MARK: &[u8] = b"\xEF\xBB\xBF";

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
    /// The lines of data so far, without the last line end.
    data: Vec<u8>,
    has_data: bool,
    id: Vec<u8>,
    has_id: bool,
    name: Vec<u8>,
}

impl Unfinished {
    /// Nothing has to be kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty() && !self.has_data && !self.has_id && self.name.is_empty()
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
        self.data.clear();
        self.has_data = false;
        self.id.clear();
        self.has_id = false;
        self.name.clear();
    }
}

/// A line, or the data of an event, has more bytes than are allowed.
#[derive(Debug, PartialEq)]
pub(crate) struct TooLong {
    /// How it begins.
    pub(crate) begins: Vec<u8>,
}

/// A complete event with data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    /// Its `event` field; empty: a message.
    pub(crate) name: &'a [u8],
    /// Its own `id` field, if it has one.
    pub(crate) id: Option<&'a [u8]>,
    /// The last id that the stream had before it.
    pub(crate) id_before: &'a Id,
    /// Its lines of data, joined by line feeds.
    pub(crate) data: &'a [u8],
}

/// Where complete events go.
pub(crate) trait Sink {
    /// One event with data.
    fn event(&mut self, event: &Event<'_>);

    /// A line that is a comment, which servers send as a heartbeat.
    fn comment(&mut self);
}

/// What outlives an event.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Of the last event; what goes into `Last-Event-ID`.
    pub(crate) last_id: Id,
    /// What the server asked for, in milliseconds; 0 when it did not.
    pub(crate) retry_ms: u32,
    /// Bytes of a byte order mark that the stream has begun with; all of them: it has begun.
    mark: u8,
    after_carriage_return: bool,
    /// The text of a comment is thrown away as it comes.
    in_comment: bool,
}

impl Stream {
    /// A new connection for the same subscriber: the id and the delay stay.
    pub(crate) fn reopen(&mut self) {
        self.mark = 0;
        self.after_carriage_return = false;
        self.in_comment = false;
    }

    /// Reads on. `rest` is what the last read left unfinished, and gets what this one does.
    ///
    /// # Errors
    /// A line or the data of an event is longer than `most` bytes. The stream cannot be read on.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        rest: &mut Unfinished,
        most: usize,
        sink: &mut impl Sink,
    ) -> Result<(), TooLong> {
        // One leading byte order mark is ignored, also where it comes in pieces.
        while let Some(&expected) = MARK.get(usize::from(self.mark))
            && let Some(&byte) = bytes.first()
        {
            if byte == expected {
                self.mark += 1;
                bytes = &bytes[1..];
            } else {
                rest.line.extend_from_slice(&MARK[..usize::from(self.mark)]);
                self.mark = MARK.len() as u8;
            }
        }
        // The only line of data so far of an event that began in this read: nearly always all there is.
        let mut only_line: Option<&[u8]> = None;
        loop {
            if self.after_carriage_return && !bytes.is_empty() {
                self.after_carriage_return = false;
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let mut end = memchr(b'\n', bytes);
            // A line also ends at a lone carriage return.
            if let Some(at) = memchr(b'\r', &bytes[..end.unwrap_or(bytes.len())]) {
                end = Some(at);
                self.after_carriage_return = true;
            }
            if self.in_comment {
                let Some(end) = end else { break };
                self.in_comment = false;
                sink.comment();
                bytes = &bytes[end + 1..];
                continue;
            }
            if rest.line.is_empty() && bytes.first() == Some(&b':') {
                self.in_comment = true;
                continue;
            }
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if rest.line.len() + piece.len() > most {
                let mut begins = std::mem::take(&mut rest.line);
                begins.extend_from_slice(piece);
                begins.truncate(100);
                return Err(TooLong { begins });
            }
            let Some(end) = end else {
                rest.line.extend_from_slice(bytes);
                break;
            };
            if rest.line.is_empty() {
                self.line(piece, rest, &mut only_line, most, sink)?;
            } else {
                let mut line = std::mem::take(&mut rest.line);
                line.extend_from_slice(piece);
                // It does not live as long as what was read, so its data is copied.
                let mut in_line = None;
                let done = self.line(&line, rest, &mut in_line, most, sink);
                keep(&mut in_line, rest);
                done?;
                line.clear();
                rest.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        keep(&mut only_line, rest);
        Ok(())
    }

    fn line<'a>(
        &mut self,
        line: &'a [u8],
        rest: &mut Unfinished,
        only_line: &mut Option<&'a [u8]>,
        most: usize,
        sink: &mut impl Sink,
    ) -> Result<(), TooLong> {
        if line.is_empty() {
            let data = only_line.take().unwrap_or(&rest.data);
            if rest.has_data {
                let id = rest.has_id.then_some(rest.id.as_slice());
                sink.event(&Event { name: &rest.name, id, id_before: &self.last_id, data });
            }
            if rest.has_id {
                self.last_id.set(&rest.id);
            }
            rest.end_event();
            return Ok(());
        }
        let (name, value) = match memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match name {
            b"data" if !rest.has_data => {
                rest.has_data = true;
                *only_line = Some(value);
            }
            b"data" => {
                keep(only_line, rest);
                if rest.data.len() + 1 + value.len() > most {
                    return Err(TooLong { begins: rest.data[..rest.data.len().min(100)].to_vec() });
                }
                rest.data.push(b'\n');
                rest.data.extend_from_slice(value);
            }
            b"event" => {
                rest.name.clear();
                rest.name.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => {
                rest.id.clear();
                rest.id.extend_from_slice(value);
                rest.has_id = true;
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.retry_ms = number.unwrap_or(u32::MAX);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Copies the line that only the read has, because it will not be there for long.
fn keep(only_line: &mut Option<&[u8]>, rest: &mut Unfinished) {
    if let Some(line) = only_line.take() {
        rest.data.extend_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10_000;

    #[derive(Default)]
    struct Seen {
        /// Name, id and data.
        events: Vec<(String, Option<String>, String)>,
        comments: usize,
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    impl Sink for Seen {
        fn event(&mut self, event: &Event<'_>) {
            self.events.push((text(event.name), event.id.map(text), text(event.data)));
        }

        fn comment(&mut self) {
            self.comments += 1;
        }
    }

    fn read(text: &[u8], piece: usize) -> (Seen, Stream, Unfinished) {
        let (mut seen, mut stream, mut rest) = (Seen::default(), Stream::default(), Unfinished::default());
        for bytes in text.chunks(piece) {
            stream.feed(bytes, &mut rest, MOST, &mut seen).unwrap();
        }
        (seen, stream, rest)
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive_and_lines_end() {
        let lines = "\u{FEFF}:hello\nretry: 250\n\nid: 7\nevent: x\ndata: a\n\nid\u{0}: 8\n:\ndata:b\n: c\ndata: [c]\ndata\nid:9\n\ndata: é: \n\ndata\n\nnothing: x\n\nid: 9\n\nid: lost\ndata: a\n";
        let expected =
            [("x", Some("7"), "a"), ("", Some("9"), "b\n[c]\n"), ("", None, "é: "), ("", None, "")];
        let expected =
            expected.map(|(name, id, data)| (name.to_owned(), id.map(str::to_owned), data.to_owned()));
        for ending in ["\n", "\r\n", "\r"] {
            let text = lines.replace('\n', ending);
            for piece in 1..=text.len() {
                let (seen, stream, rest) = read(text.as_bytes(), piece);
                assert_eq!(seen.events, expected, "{ending:?} in pieces of {piece}");
                assert_eq!((stream.last_id.as_bytes(), stream.retry_ms), (&b"9"[..], 250));
                assert_eq!(seen.comments, 3, "{ending:?} in pieces of {piece}");
                assert!(rest.in_event(), "an event without its blank line is not one");
            }
        }
    }

    #[test]
    fn a_prelude_without_a_blank_line_leaves_nothing_behind() {
        let (seen, stream, rest) = read(b":\nretry: 2000\n", 100);
        assert!(rest.is_empty() && !rest.in_event() && seen.comments == 1);
        assert_eq!(stream.retry_ms, 2000);
        let (seen, _, rest) = read(b":a heartbeat that goes on in the next read", 5);
        assert!(rest.is_empty() && seen.comments == 0);
    }

    #[test]
    fn ids_of_any_length_are_kept() {
        let long = "i".repeat(100);
        let (_, stream, _) = read(format!("id: {long}\ndata: x\n\n").as_bytes(), 1000);
        assert_eq!(stream.last_id.as_bytes(), long.as_bytes());
        let (_, stream, _) = read(b"id: 5\n\nid\n\n", 1000);
        assert_eq!(stream.last_id.as_bytes(), b"", "an empty id forgets the last one");
        assert_eq!(size_of::<Id>(), 40);
    }

    /// A line without an end took all memory until the process was ended.
    #[test]
    fn what_has_no_end_is_refused_or_thrown_away() {
        let endless = |beginning: &str, then: &str| {
            let (mut seen, mut stream, mut rest) =
                (Seen::default(), Stream::default(), Unfinished::default());
            let mut fed = stream.feed(beginning.as_bytes(), &mut rest, MOST, &mut seen);
            for _ in 0..100 {
                fed = fed.and_then(|()| stream.feed(then.as_bytes(), &mut rest, MOST, &mut seen));
            }
            let kept = rest.line.len() + rest.data.len();
            assert!(kept <= MOST, "{beginning}: {kept} bytes are kept");
            fed
        };
        let piece = "x".repeat(1000);
        for beginning in ["data: ", "id: ", "event: ", "other"] {
            let TooLong { begins } = endless(beginning, &piece).unwrap_err();
            assert!(begins.starts_with(beginning.as_bytes()) && begins.len() == 100, "{beginning}");
        }
        assert_eq!(endless(":", &piece), Ok(()), "a comment is not kept");
        assert!(endless("data: x\n", &format!("data: {piece}\n")).is_err(), "an event of many lines");
        assert_eq!(endless("", &format!("data: {piece}\n\n")), Ok(()));
        assert_eq!(endless("", "retry: 5\nevent: x\nid: 5\n"), Ok(()), "fields take each other's place");
    }
}
