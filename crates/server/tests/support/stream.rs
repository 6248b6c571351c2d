//! A subscriber: it takes chunks and events apart, and knows how its stream ended.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use fanfare::{Decoded, Decoder};
use fanfare_testkit::chunks::{ChunkReader, Part, Place};

use super::http::{self, Connection};
use super::{PATIENCE, now};

#[derive(Debug)]
pub(crate) struct Subscriber {
    connection: Connection,
    /// The head of the answer, with its last empty line.
    pub(crate) head: String,
    /// `None`: the body ends with the connection.
    chunks: Option<ChunkReader>,
    decoder: Decoder,
    items: VecDeque<Item>,
    /// The body without its chunks, as far as it has come.
    pub(crate) body: Vec<u8>,
    /// Where each chunk ends in the body.
    pub(crate) chunk_ends: Vec<usize>,
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) data: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Event(Event),
    Retry(u64),
    Comment(String),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the last chunk, or, where there are none, with the end of the connection.
    Whole,
    /// The connection ended without the last chunk.
    Cut,
    Reset,
}

/// What a wait for the next item can come to.
enum Step {
    Item(Item),
    End(End),
    Timeout,
}

impl Subscriber {
    /// Reads the head of the answer on a connection on which the request was sent, and expects a stream.
    pub(crate) fn on(mut connection: Connection) -> Subscriber {
        let head = connection.read_head();
        if http::status_of(&head) != 200 {
            let _ = connection.receive_within(Duration::from_secs(1));
            panic!("not a stream: {head}{}", String::from_utf8_lossy(&connection.received));
        }
        let chunked = http::header(&head, "Transfer-Encoding") == Some("chunked");
        Subscriber {
            connection,
            head,
            chunks: chunked.then(ChunkReader::default),
            decoder: Decoder::new(16 << 20),
            items: VecDeque::new(),
            body: Vec::new(),
            chunk_ends: Vec::new(),
            end: None,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        http::header(&self.head, name)
    }

    /// The next event. Comments and retries before it are passed over.
    pub(crate) fn event(&mut self) -> Event {
        let deadline = now() + PATIENCE;
        loop {
            match self.step(deadline) {
                Step::Item(Item::Event(event)) => return event,
                Step::Item(_) => {}
                Step::End(end) => panic!("an event was to come, not the end: {end:?} after {}", self.tail()),
                Step::Timeout => panic!("an event was to come, but nothing did after {}", self.tail()),
            }
        }
    }

    pub(crate) fn events(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }

    /// The data of the next events.
    pub(crate) fn data(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event().data).collect()
    }

    /// The next item of any kind, if one comes before the deadline; panics at the end of the stream.
    pub(crate) fn item_before(&mut self, deadline: Instant) -> Option<Item> {
        match self.step(deadline) {
            Step::Item(item) => Some(item),
            Step::End(end) => panic!("the stream ended: {end:?} after {}", self.tail()),
            Step::Timeout => None,
        }
    }

    pub(crate) fn item(&mut self) -> Item {
        self.item_before(now() + PATIENCE).unwrap_or_else(|| panic!("nothing came after {}", self.tail()))
    }

    /// The next event, or `None` at the end of the stream.
    pub(crate) fn event_or_end(&mut self) -> Option<Event> {
        let deadline = now() + PATIENCE;
        loop {
            match self.step(deadline) {
                Step::Item(Item::Event(event)) => return Some(event),
                Step::Item(_) => {}
                Step::End(_) => return None,
                Step::Timeout => panic!("neither an event nor the end came after {}", self.tail()),
            }
        }
    }

    /// Everything up to the end of the stream, and how it ended.
    pub(crate) fn read_to_end(&mut self) -> (Vec<Item>, End) {
        let deadline = now() + PATIENCE;
        let mut items = Vec::new();
        loop {
            match self.step(deadline) {
                Step::Item(item) => items.push(item),
                Step::End(end) => return (items, end),
                Step::Timeout => panic!("the stream does not end after {}", self.tail()),
            }
        }
    }

    /// Reads until the body has this many bytes.
    pub(crate) fn body_of(&mut self, count: usize) -> &[u8] {
        let deadline = now() + PATIENCE;
        while self.body.len() < count && self.end.is_none() {
            self.take_apart();
            if self.body.len() >= count {
                break;
            }
            assert!(now() < deadline, "the body has not come: {}", self.tail());
            self.receive(deadline);
        }
        &self.body
    }

    /// Closes, with a reset or without.
    pub(crate) fn leave(self, with_reset: bool) {
        if with_reset {
            self.connection.reset();
        }
    }

    pub(crate) fn half_close(&self) {
        self.connection.half_close();
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes);
    }

    fn tail(&self) -> String {
        let from = self.body.len().saturating_sub(300);
        format!("{:?}", String::from_utf8_lossy(&self.body[from..]))
    }

    fn step(&mut self, deadline: Instant) -> Step {
        // What was received together with the head comes first.
        self.take_apart();
        loop {
            if let Some(item) = self.items.pop_front() {
                return Step::Item(item);
            }
            if let Some(end) = self.end {
                return Step::End(end);
            }
            if now() >= deadline {
                return Step::Timeout;
            }
            self.receive(deadline);
        }
    }

    fn receive(&mut self, deadline: Instant) {
        let received = self.connection.receive_within(deadline.saturating_duration_since(now()));
        self.take_apart();
        match received {
            Ok(None) => {}
            Ok(Some(0)) => {
                let whole = self.chunks.as_ref().is_none_or(|chunks| chunks.place() == Place::End);
                self.end = Some(if whole { End::Whole } else { End::Cut });
            }
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.end = Some(End::Reset),
            Err(error) => panic!("{error} after {}", self.tail()),
        }
    }

    fn take_apart(&mut self) {
        let received = std::mem::take(&mut self.connection.received);
        let Some(mut chunks) = self.chunks.take() else { return self.decode(&received) };
        let mut rest = received.as_slice();
        loop {
            match chunks.next(&mut rest) {
                Ok(Some(Part::Data(data))) => self.decode(data),
                Ok(Some(Part::ChunkEnd)) => self.chunk_ends.push(self.body.len()),
                Ok(Some(Part::End)) => {}
                Ok(None) => break,
                Err(error) => panic!("{error}, after {}", self.tail()),
            }
        }
        assert!(rest.is_empty(), "bytes behind the last chunk: {rest:?}");
        self.chunks = Some(chunks);
    }

    fn decode(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
        let items = &mut self.items;
        let decoded = self.decoder.feed(bytes, &mut |decoded| {
            items.push_back(match decoded {
                Decoded::Event { kind, data, last_event_id } => Item::Event(Event {
                    id: last_event_id.to_owned(),
                    kind: kind.to_owned(),
                    data: data.to_owned(),
                }),
                Decoded::Retry(millis) => Item::Retry(millis),
                Decoded::Comment(text) => Item::Comment(text.to_owned()),
                other => panic!("the decoder knows more than this test: {other:?}"),
            });
        });
        decoded.expect("no event is larger than the tests' own bound");
    }
}
