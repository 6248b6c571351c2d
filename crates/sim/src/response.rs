//! A response as a strict client reads it: head, chunks, lines. It shares no code with the engine, and takes
//! less than the standards allow: a chunk holds whole events, an id is the last line of one, a comment stands
//! between two.

use fanfare_testkit::chunks::first_chunk;

/// A response, read so far.
#[derive(Default)]
pub(crate) struct ResponseReader {
    /// Bytes of a head or a chunk that is not complete.
    begun: Vec<u8>,
    head: Option<Head>,
    /// The beginning of a line.
    line: Vec<u8>,
    kind: String,
    data: Option<String>,
    id: Option<String>,
    /// A field has come since the last blank line.
    in_event: bool,
    /// The last chunk has come.
    pub(crate) terminated: bool,
    /// Bytes that were read whole: up to the end of a head, a chunk or a line.
    whole: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) chunked: bool,
    pub(crate) gap: bool,
    /// Of a refusal.
    length: Option<usize>,
}

/// Something that has come whole, and after how many bytes of the response.
pub(crate) struct Found {
    pub(crate) part: Part,
    pub(crate) end: u64,
}

pub(crate) enum Part {
    Head(Head),
    /// What stands before the blank line that ends it. Without data nothing is dispatched, but the id counts.
    Event {
        kind: String,
        data: Option<String>,
        id: Option<String>,
    },
    Retry,
    Comment,
}

impl ResponseReader {
    pub(crate) fn status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    /// Whether it is in the middle of a head, a chunk, an event or a refusal's body.
    pub(crate) fn is_cut(&self) -> bool {
        let is_short = |head: &Head| head.length.is_some_and(|length| self.begun.len() < length);
        let is_open = match &self.head {
            Some(head) if head.status != 200 => is_short(head),
            _ => !self.begun.is_empty(),
        };
        is_open || !self.line.is_empty() || self.in_event
    }

    /// Whether it is in the middle of anything but the end of a stream, which goes out as far as there is
    /// room.
    pub(crate) fn is_cut_in_an_event(&self) -> bool {
        let ends = [&b"c\r\nretry: "[..], b"d\r\nretry: ", b"0\r\n\r\n"];
        let begins = |end: &&[u8]| end.iter().zip(&self.begun).all(|(expected, byte)| expected == byte);
        let is_chunked = self.head.as_ref().is_some_and(|head| head.chunked);
        let in_end = match is_chunked {
            true => !self.in_event && self.line.is_empty() && ends.iter().any(begins),
            false => {
                !self.in_event && b"retry: ".iter().zip(&self.line).all(|(expected, byte)| expected == byte)
            }
        };
        self.is_cut() && self.status().is_some() && !in_end
    }

    /// Takes what has come.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        self.begun.extend_from_slice(bytes);
        if self.head.is_none() {
            let Some(end) = self.begun.windows(4).position(|four| four == b"\r\n\r\n") else { return found };
            let head: Vec<u8> = self.begun.drain(..end + 4).collect();
            self.whole += head.len() as u64;
            let head = Head::read(str::from_utf8(&head).expect("a head of text"));
            self.head = Some(head.clone());
            found.push(Found { part: Part::Head(head), end: self.whole });
        }
        match self.head.as_ref().map(|head| (head.status, head.chunked)) {
            Some((200, true)) => self.take_chunks(&mut found),
            Some((200, false)) => {
                let body = std::mem::take(&mut self.begun);
                self.take_lines(&body, &mut found);
            }
            _ => {}
        }
        found
    }

    fn take_chunks(&mut self, found: &mut Vec<Found>) {
        let begun = std::mem::take(&mut self.begun);
        let mut rest = begun.as_slice();
        while !rest.is_empty() {
            assert!(!self.terminated, "nothing follows the last chunk");
            let chunk = first_chunk(rest).unwrap_or_else(|error| panic!("{error}"));
            let Some((data, end)) = chunk else { break };
            let (first, chunk_end) = (found.len(), self.whole + end as u64);
            self.take_lines(data, found);
            // Nothing of a chunk is read before it has come whole.
            self.whole = chunk_end;
            found[first..].iter_mut().for_each(|found| found.end = chunk_end);
            assert!(!self.in_event && self.line.is_empty(), "a chunk ends within an event");
            self.terminated = data.is_empty();
            rest = &rest[end..];
        }
        self.begun = rest.to_vec();
    }

    fn take_lines(&mut self, body: &[u8], found: &mut Vec<Found>) {
        let mut rest = body;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            let part = if self.line.is_empty() {
                self.whole += line.len() as u64 + 1;
                self.take_line(line)
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.whole += whole.len() as u64 + 1;
                self.take_line(&whole)
            };
            found.extend(part.map(|part| Found { part, end: self.whole }));
        }
        self.line.extend_from_slice(rest);
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Part> {
        let line = str::from_utf8(line).expect("lines of text");
        if line.is_empty() {
            return std::mem::take(&mut self.in_event).then(|| Part::Event {
                kind: std::mem::take(&mut self.kind),
                data: self.data.take(),
                id: self.id.take(),
            });
        }
        if line == ":" {
            assert!(!self.in_event, "a comment in the middle of an event");
            return Some(Part::Comment);
        }
        let (name, value) = line.split_once(':').expect("a field");
        let value = value.strip_prefix(' ').unwrap_or(value);
        // Some clients adopt an id when they read its line: a cut behind it must not leave a part of the
        // event out.
        assert!(self.id.is_none(), "the field {name:?} stands behind the id, which is the last line");
        match name {
            "retry" if !self.in_event => {
                assert!(value.bytes().all(|byte| byte.is_ascii_digit()), "the time to reconnect is digits");
                return Some(Part::Retry);
            }
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.kind),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            other => panic!("the field {other:?} in the stream"),
        }
        self.in_event = true;
        None
    }
}

impl Head {
    fn read(head: &str) -> Head {
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status line");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Head {
            status: status.parse().expect("a status"),
            chunked: field("Transfer-Encoding") == Some("chunked"),
            gap: field("Fanfare-Gap") == Some("true"),
            length: field("Content-Length").map(|length| length.parse().expect("a length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(response: &str) -> Vec<u64> {
        let mut reader = ResponseReader::default();
        let found: Vec<Found> = response.bytes().flat_map(|byte| reader.feed(&[byte])).collect();
        assert!(!reader.is_cut());
        found.iter().map(|found| found.end).collect()
    }

    /// A client adopts an id only when it has read the event's end.
    #[test]
    fn each_part_ends_where_its_last_byte_is() {
        let (head, event) = ("HTTP/1.1 200 OK\r\n\r\n", "data: 1\nid: 1\n\n");
        let plain = format!("{head}:\n{event}");
        assert_eq!(ends(&plain), [19, 21, 36]);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = format!("{head}2\r\n:\n\r\nf\r\n{event}\r\n");
        assert_eq!(ends(&chunked), [47, 54, 74]);
    }
}
