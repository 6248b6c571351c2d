//! A subscriber that checks every byte it gets against the list of all events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::Socket;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::decoder::{Decoded, Decoder};
use fanfare_proto::event::Topic;
use fanfare_proto::frame::Frame;

use super::Random;

/// The naive log: all events ever published, with their data.
#[derive(Default)]
pub(super) struct History {
    pub(super) events: Vec<(Arc<Frame>, String)>,
}

/// Where the log stood when a tick began.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Duration,
    pub(super) head: u64,
    /// Everything after this is retained.
    pub(super) dropped: u64,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) enum From {
    Now,
    Earliest,
    After(Cursor),
    Unknown,
}

pub(super) struct Client {
    pub(super) socket: Socket,
    /// Pieces of the request that are still to be sent.
    pub(super) request: VecDeque<Vec<u8>>,
    topics: Vec<Topic>,
    sees_private: bool,
    pub(super) chunked: bool,
    pub(super) from: From,
    gap_notice: bool,
    /// How much of what was sent to it has been looked at.
    taken: usize,
    /// Bytes of a head or a chunk that is not complete.
    begun: Vec<u8>,
    pub(super) status: Option<u16>,
    gap_in_head: bool,
    /// A gap event must come before any other.
    gap_told: bool,
    decoder: Decoder,
    /// It has everything up to here, or knows that it has not. `None` until it knows where it begins.
    pub(super) seen: Option<u64>,
    /// Events received whole.
    pub(super) events: u64,
    greeted: bool,
    prelude_seen: bool,
    /// It has got the last chunk.
    pub(super) terminated: bool,
    pub(super) last_bytes_at: Duration,
    pub(super) was_blocked: bool,
    /// When its socket was last seen full.
    pub(super) blocked_at: Duration,
    /// Its socket was full at some time.
    pub(super) ever_blocked: bool,
}

/// What the decoder found, owned.
enum Found {
    Event { kind: String, data: String, id: String },
    Retry,
    Comment,
}

impl History {
    /// The first event after `seq` for which a reader of these topics would ask.
    fn first_after(&self, seq: u64, topics: &[Topic], sees_private: bool) -> Option<&(Arc<Frame>, String)> {
        let read = |frame: &Frame| frame.topics().iter().any(|topic| topics.contains(topic));
        let admitted = |frame: &Frame| sees_private || !frame.private();
        self.events[seq as usize..].iter().find(|(frame, _)| read(frame) && admitted(frame))
    }
}

impl Client {
    /// Some subscriber. Its request goes out in the pieces of `request`.
    pub(super) fn subscriber(
        random: &mut Random,
        socket: Socket,
        topics: Vec<Topic>,
        from: From,
        now: Duration,
    ) -> Client {
        let (sees_private, gap_notice, greeting) = (random.one_in(3), !random.one_in(4), random.one_in(4));
        let version = random.below(4);
        let mut target = "/events?".to_owned();
        target.extend(topics.iter().map(|topic| format!("topic={topic}&")));
        target.push_str(if sees_private { "private&" } else { "" });
        target.push_str(if greeting { "hello&" } else { "" });
        target.push_str(if gap_notice { "" } else { "gap=off" });
        let mut head = format!("GET {target} HTTP/1.{}\r\nHost: a\r\n", if version == 0 { 0 } else { 1 });
        if version == 1 {
            head.push_str("Connection: close\r\n");
        }
        match &from {
            From::Now => {}
            From::Earliest => head.push_str("Last-Event-ID: earliest\r\n"),
            From::After(cursor) => head.push_str(&format!("Last-Event-ID: {cursor}\r\n")),
            From::Unknown => head.push_str("Last-Event-ID: who-knows\r\n"),
        }
        head.push_str("\r\n");
        let mut client = Client::stranger(random, socket, &head, now);
        client.topics = topics;
        client.from = from;
        (client.sees_private, client.chunked) = (sees_private, version > 1);
        (client.gap_notice, client.greeted) = (gap_notice, !greeting);
        client
    }

    /// Somebody who sends this.
    pub(super) fn stranger(random: &mut Random, socket: Socket, head: &str, now: Duration) -> Client {
        let mut request = VecDeque::new();
        let mut rest = head.as_bytes();
        while !rest.is_empty() {
            let whole = random.one_in(2);
            let (piece, after) = rest.split_at(if whole { rest.len() } else { 1 + random.below(rest.len()) });
            request.push_back(piece.to_vec());
            rest = after;
        }
        Client {
            socket,
            request,
            topics: Vec::new(),
            sees_private: false,
            chunked: false,
            from: From::Now,
            gap_notice: true,
            taken: 0,
            begun: Vec::new(),
            status: None,
            gap_in_head: false,
            gap_told: false,
            decoder: Decoder::new(1 << 20),
            seen: None,
            events: 0,
            greeted: true,
            prelude_seen: false,
            terminated: false,
            last_bytes_at: now,
            was_blocked: false,
            blocked_at: now,
            ever_blocked: false,
        }
    }

    /// Whether it is in the middle of something.
    pub(super) fn is_cut(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Whether that is anything but the end of a stream (which goes out as far as there is room).
    pub(super) fn is_cut_in_a_frame(&self) -> bool {
        let ends = [&b"c\r\nretry: "[..], b"d\r\nretry: ", b"0\r\n\r\n"];
        let begins = |end: &&[u8]| end.iter().zip(&self.begun).all(|(expected, byte)| expected == byte);
        self.chunked && self.is_cut() && !ends.iter().any(begins)
    }

    /// Whether an event is there that it has not got, and was not told that it is lost.
    pub(super) fn misses(&self, history: &History) -> bool {
        let next = |seen| history.first_after(seen, &self.topics, self.sees_private);
        !self.may_skip() && self.seen.is_some_and(|seen| next(seen).is_some())
    }

    /// It was a laggard at some time, and did not want to be told of gaps.
    fn may_skip(&self) -> bool {
        !self.gap_notice && (self.ever_blocked || !matches!(self.from, From::Now))
    }

    /// Takes what is new of all that was sent to it.
    pub(super) fn take(
        &mut self,
        outbound: &[u8],
        history: &History,
        epoch: Epoch,
        at: Moment,
        heartbeat: Duration,
    ) {
        let fresh = &outbound[self.taken..];
        if fresh.is_empty() {
            return;
        }
        self.taken = outbound.len();
        self.begun.extend_from_slice(fresh);
        if self.status.is_none() && !self.take_head(at) {
            return;
        }
        if self.status != Some(200) {
            return;
        }
        for found in self.decode() {
            match found {
                Found::Event { kind, data, .. } if kind == "hello" => {
                    assert!(!self.greeted && data == "you" && self.events == 0, "one greeting, first");
                    self.greeted = true;
                }
                Found::Event { kind, data, id } if kind == "fanfare.gap" => {
                    self.take_gap(&data, &id, history, epoch, at);
                }
                Found::Event { data, id, .. } => self.take_event(&data, &id, history),
                Found::Retry => {}
                Found::Comment => {
                    let silence = at.now - self.last_bytes_at;
                    // A tenth of a second is the unit of a connection's times.
                    let idle = silence + Duration::from_millis(100) >= heartbeat * 3 / 4;
                    assert!(idle || self.was_blocked, "a heartbeat after {silence:?} at {:?}", at.now);
                }
            }
        }
        self.last_bytes_at = at.now;
    }

    /// The head of the response. From it and the moment follows where the stream must begin.
    fn take_head(&mut self, at: Moment) -> bool {
        let Some(end) = self.begun.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let head: Vec<u8> = self.begun.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        self.status = Some(head[9..12].parse().unwrap());
        if self.status != Some(200) {
            return true;
        }
        assert_eq!(head.contains("Transfer-Encoding: chunked"), self.chunked);
        let gap = head.contains("Fanfare-Gap: true");
        (self.gap_in_head, self.gap_told) = (gap, gap && self.gap_notice);
        assert!(self.seen.is_some());
        match self.from {
            From::Now | From::Earliest => assert!(!gap, "it asked for nothing that could be gone"),
            From::After(cursor) => {
                let could_be_gone = cursor.seq > at.head || cursor.seq < at.dropped;
                assert!(!gap || could_be_gone || self.ever_blocked, "a gap where nothing is missing");
                self.seen = if gap { self.seen } else { Some(cursor.seq) };
            }
            From::Unknown => {}
        }
        true
    }

    /// The shard has taken it in: what it must get follows from this moment, unless its response says more.
    pub(super) fn subscribed(&mut self, at: Moment) {
        self.seen = Some(match self.from {
            From::Now => at.head,
            From::Earliest | From::After(_) | From::Unknown => at.dropped,
        });
    }

    /// Takes whole chunks, so that what is counted as received has been sent to its last byte.
    fn decode(&mut self) -> Vec<Found> {
        let mut body = Vec::new();
        while self.chunked && !self.begun.is_empty() {
            assert!(!self.terminated, "nothing follows the last chunk");
            let Some(line) = self.begun.windows(2).position(|two| two == b"\r\n") else { break };
            let digits = str::from_utf8(&self.begun[..line]).unwrap();
            let size = usize::from_str_radix(digits, 16).expect("a chunk's size");
            let end = line + 2 + size + 2;
            if self.begun.len() < end {
                break;
            }
            assert_eq!(&self.begun[end - 2..end], b"\r\n", "the end of a chunk");
            body.extend_from_slice(&self.begun[line + 2..end - 2]);
            self.begun.drain(..end);
            self.terminated = size == 0;
        }
        if !self.chunked {
            body = std::mem::take(&mut self.begun);
        }
        let mut found = Vec::new();
        let own = |decoded: Decoded<'_>| match decoded {
            Decoded::Event { kind, data, last_event_id } => {
                Found::Event { kind: kind.into(), data: data.into(), id: last_event_id.into() }
            }
            Decoded::Comment(text) => {
                assert_eq!(text, "");
                Found::Comment
            }
            _ => Found::Retry,
        };
        self.decoder.feed(&body, &mut |decoded| found.push(own(decoded))).unwrap();
        if !self.prelude_seen && !found.is_empty() {
            match found.remove(0) {
                Found::Comment => {
                    self.prelude_seen = true;
                    assert!(self.gap_in_head || !matches!(self.from, From::Unknown), "nobody knows that id");
                }
                // A stream that only ends is a refusal in disguise (`FullPolicy::EndStream`).
                _ => self.status = Some(503),
            }
        }
        found
    }

    fn take_event(&mut self, data: &str, id: &str, history: &History) {
        let mut seen = self.seen.expect("events come after the head");
        assert!(!self.gap_told, "the gap is told first");
        let got: u64 = data.split(' ').next().unwrap().parse().unwrap();
        assert!(got > seen, "{got} is doubled or out of order: {seen} was there");
        let may_skip = self.may_skip();
        loop {
            let next = history.first_after(seen, &self.topics, self.sees_private);
            let (frame, text) = next.expect("an event for somebody else");
            if frame.seq() == got {
                assert!(text == data, "the data of {got} is changed");
                assert!(frame.own_id().is_none_or(|own| own == id));
                break;
            }
            assert!(may_skip && frame.seq() < got, "{} is lost: {got} came", frame.seq());
            seen = frame.seq();
        }
        self.seen = Some(got);
        self.events += 1;
    }

    /// The stream goes on after a gap.
    fn take_gap(&mut self, data: &str, id: &str, history: &History, epoch: Epoch, at: Moment) {
        assert!(self.gap_notice);
        let cursor = Cursor::parse(id).expect("the cursor from which the stream goes on");
        assert_eq!(cursor.epoch, epoch);
        let seen = self.seen.expect("gaps come after the head");
        let text = |name: &str| {
            let (_, value) = data.split_once(&format!("\"{name}\":")).unwrap();
            value.strip_prefix('"').map(|text| text.split('"').next().unwrap().to_owned())
        };
        let after = text("after").expect("what was asked for");
        if std::mem::take(&mut self.gap_told) {
            let asked = match &self.from {
                From::After(cursor) => cursor.to_string(),
                _ => "who-knows".to_owned(),
            };
            assert_eq!(after, asked);
        } else {
            // It stood at its last event, or a little further on where nothing was its.
            let after = Cursor::parse(&after).unwrap().seq;
            let between = history.first_after(seen.min(after), &self.topics, self.sees_private);
            assert!(between.is_none_or(|(frame, _)| frame.seq() > seen.max(after)), "a false gap");
            // Who replayed may be told of a gap where the log no longer knows that there was nothing.
            let replayed = !matches!(self.from, From::Now);
            let lost = history.first_after(seen, &self.topics, true);
            let is_lost = lost.is_some_and(|(frame, _)| frame.seq() <= cursor.seq);
            assert!(is_lost || replayed, "a gap without a loss");
            assert!(cursor.seq > seen && cursor.seq <= at.head.max(history.events.len() as u64));
        }
        self.seen = Some(cursor.seq);
        if let Some(before) = text("before") {
            let next = history.first_after(cursor.seq, &self.topics, self.sees_private);
            let (frame, _) = next.expect("an event behind the gap");
            let wire_id =
                frame.own_id().map_or(Cursor { epoch, seq: frame.seq() }.to_string(), str::to_owned);
            assert_eq!(before, wire_id, "the first event behind the gap");
        }
    }
}
