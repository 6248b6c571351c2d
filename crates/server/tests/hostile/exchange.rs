//! One case on one connection: sends, reads strictly, and remembers everything for the report of a failure.

use std::io;
use std::time::Duration;

use super::expect::Item;
use super::support::{CONTROL_PATH, Connection, Server, http};
use super::table::{Case, Step};

/// How a case's bytes reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In one piece, on a new connection.
    Whole,
    /// Byte by byte, as far as that says anything.
    ByteByByte,
    /// In one piece, on a connection that the control plane has served before: the same rules hold there.
    Kept,
}

/// How long a byte may take that has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a step that are sent one by one; the rest goes in one piece.
const SINGLE_BYTES: usize = 400;

struct Exchange<'s> {
    server: &'s Server,
    /// Empty once it was reset.
    connection: Option<Connection>,
    /// Read and understood, of what has come.
    at: usize,
    came: Vec<u8>,
    /// The head and the body of the last answer.
    last: (String, Vec<u8>),
}

/// Runs a case; an error says what was wrong, what was sent and what came.
pub(crate) fn run(server: &Server, case: &Case, way: Way) -> Result<(), String> {
    let mut exchange = Exchange {
        server,
        connection: Some(server.connect()),
        at: 0,
        came: Vec::new(),
        last: Default::default(),
    };
    let result = exchange.begin(way).and_then(|()| exchange.steps(case, way));
    result.map_err(|reason| {
        let sent = case.steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(shown(bytes)),
            _ => None,
        });
        let (sent, came) = (sent.collect::<Vec<_>>().join("\n        "), shown(&exchange.came));
        format!("{}, {way:?}: {reason}\n  sent: {sent}\n  came: {came}", case.name)
    })
}

impl Exchange<'_> {
    fn begin(&mut self, way: Way) -> Result<(), String> {
        if way == Way::Kept {
            self.expect_open()?;
            self.last = Default::default();
        }
        Ok(())
    }

    fn steps(&mut self, case: &Case, way: Way) -> Result<(), String> {
        for step in &case.steps {
            match step {
                Step::Send(bytes) => self.send(bytes, way),
                Step::HalfClose => {
                    if let Some(connection) = &self.connection {
                        // The server may have closed already.
                        let _ = connection.stream.shutdown(std::net::Shutdown::Write);
                    }
                }
                Step::Reset => {
                    if let Some(connection) = self.connection.take() {
                        connection.reset();
                    }
                }
                Step::Expect(items) => {
                    for item in items {
                        self.expect(item, case).map_err(|reason| format!("{item:?}: {reason}"))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], way: Way) {
        let Some(connection) = &mut self.connection else { return };
        let single = if way == Way::ByteByByte { bytes.len().min(SINGLE_BYTES) } else { 0 };
        for byte in &bytes[..single] {
            connection.send_what_it_takes([*byte]);
        }
        connection.send_what_it_takes(&bytes[single..]);
    }

    fn expect(&mut self, item: &Item, case: &Case) -> Result<(), String> {
        match item {
            Item::Answer { status, to_head } => self.expect_answer(*status, *to_head),
            Item::Field(name, value) => {
                let values: Vec<&str> = self.fields(name).collect();
                (values == [value]).then_some(()).ok_or_else(|| format!("it is {values:?}"))
            }
            Item::NoField(name) => {
                let there = self.fields(name).next().is_some();
                (!there).then_some(()).ok_or_else(|| "it is there".to_owned())
            }
            Item::Body(part) => {
                let body = String::from_utf8_lossy(&self.last.1);
                body.contains(part).then_some(()).ok_or_else(|| "it is not there".to_owned())
            }
            Item::Stream(topic) => self.expect_stream(topic, &case.name),
            Item::More(topic) => self.expect_event(topic, &format!("more {}", label(&case.name))),
            Item::End => self.expect_end(),
            Item::Open => self.expect_open(),
            Item::Either if self.says_close() => self.expect_end(),
            Item::Either => self.expect_open(),
            // This is seen at the end.
            Item::Delivers(_) => Ok(()),
        }
    }

    fn expect_answer(&mut self, status: u16, to_head: bool) -> Result<(), String> {
        self.read_answer(to_head)?;
        let head = &self.last.0;
        let start = format!("HTTP/1.1 {status} ");
        // hyper answers HTTP/1.0 in kind.
        if !head.starts_with(&start) && !head.starts_with(&start.replace("1.1", "1.0")) {
            return Err("another status came".to_owned());
        }
        if status >= 200 && self.fields("date").count() != 1 {
            return Err("the answer has no date".to_owned());
        }
        if status >= 400 && !to_head {
            let problem: serde_json::Value = serde_json::from_slice(&self.last.1).unwrap_or_default();
            let told =
                problem["status"] == status && problem["detail"].as_str().is_some_and(|why| !why.is_empty());
            if !told || self.fields("content-type").collect::<Vec<_>>() != ["application/problem+json"] {
                return Err("the refusal has no reason".to_owned());
            }
        }
        Ok(())
    }

    fn expect_open(&mut self) -> Result<(), String> {
        if self.at < self.came.len() {
            return Err(format!("{} bytes more than were to come", self.came.len() - self.at));
        }
        self.send(http::head("GET", CONTROL_PATH, &[]).as_bytes(), Way::Whole);
        self.expect_answer(200, false)?;
        self.last.1.starts_with(b"/*").then_some(()).ok_or_else(|| "another body came".to_owned())
    }

    fn expect_end(&mut self) -> Result<(), String> {
        if self.connection.is_none() {
            return Ok(());
        }
        while self.more()? {}
        let rest = self.came.len() - self.at;
        if rest > 0 {
            return Err(format!("{rest} bytes more than were to come"));
        }
        let told = self.last.0.is_empty() || self.says_close();
        told.then_some(()).ok_or_else(|| "the answer did not say that it is the last one".to_owned())
    }

    fn says_close(&self) -> bool {
        let says = |option: &str| self.fields("connection").any(|value| value.eq_ignore_ascii_case(option));
        says("close") || (self.last.0.starts_with("HTTP/1.0") && !says("keep-alive"))
    }

    /// The head of a stream, and on it an event for this case alone. Others may publish to the topic as well.
    fn expect_stream(&mut self, topic: &str, name: &str) -> Result<(), String> {
        let head_end = self.find(self.at, b"\r\n\r\n")?;
        self.last = (String::from_utf8_lossy(&self.came[self.at..head_end]).into_owned(), Vec::new());
        let begun = self.last.0.starts_with("HTTP/1.1 200 ")
            && self.fields("content-type").eq(["text/event-stream"])
            && self.fields("date").count() == 1
            && self.fields("content-length").next().is_none();
        if !begun {
            return Err("this is not the head of a stream".to_owned());
        }
        self.find(head_end, b":\nretry: ")?;
        self.at = head_end;
        self.expect_event(topic, &format!("for {}", label(name)))?;
        let answers = self.came[head_end..].windows(7).filter(|window| *window == b"HTTP/1.").count();
        if answers > 0 {
            return Err("another answer is in the stream".to_owned());
        }
        Ok(())
    }

    /// What is published now comes, whatever others publish before it.
    fn expect_event(&mut self, topic: &str, data: &str) -> Result<(), String> {
        let id = self.server.publish(topic, data);
        self.at = self.find(self.at, format!("data: {data}\nid: {id}\n\n").as_bytes())?;
        Ok(())
    }

    fn read_answer(&mut self, to_head: bool) -> Result<(), String> {
        let head_end = self.find(self.at, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.came[self.at..head_end]).into_owned();
        let value = |name: &str| -> Option<String> {
            let mut fields = http::headers(&head).filter(|(known, _)| known.eq_ignore_ascii_case(name));
            fields.next().map(|(_, value)| value.to_owned())
        };
        let empty = to_head || head.get(9..10) == Some("1") || head.get(9..12) == Some("204");
        let (body, end) = match value("content-length") {
            _ if empty => (Vec::new(), head_end),
            Some(length) => {
                let end = head_end + length.parse::<usize>().map_err(|_| "no length".to_owned())?;
                self.until(end)?;
                (self.came[head_end..end].to_vec(), end)
            }
            None => return Err("an answer without a length".to_owned()),
        };
        (self.last, self.at) = ((head, body), end);
        Ok(())
    }

    fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = http::headers(&self.last.0).filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value)
    }

    /// The place behind this, from a place on.
    fn find(&mut self, from: usize, wanted: &[u8]) -> Result<usize, String> {
        loop {
            let seen = &self.came[from..];
            if let Some(at) = seen.windows(wanted.len()).position(|window| window == wanted) {
                return Ok(from + at + wanted.len());
            }
            self.until(self.came.len() + 1)?;
        }
    }

    fn until(&mut self, length: usize) -> Result<(), String> {
        while self.came.len() < length {
            if !self.more()? {
                return Err("the connection ended before".to_owned());
            }
        }
        Ok(())
    }

    /// One read. At the end, which a reset is too, there is no more.
    fn more(&mut self) -> Result<bool, String> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let received = connection.receive_within(PATIENCE);
        self.came.append(&mut connection.received);
        match received {
            Ok(Some(count)) => Ok(count > 0),
            Ok(None) => Err("nothing more came".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A case's name as data: it must not look like an answer.
fn label(name: &str) -> String {
    name.replace("HTTP/", "http ")
}

/// Bytes as a table has them, without the middle of long ones.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 700;
    if bytes.len() <= MOST {
        return bytes.escape_ascii().to_string();
    }
    let (begin, end) = (&bytes[..MOST / 2], &bytes[bytes.len() - MOST / 2..]);
    format!("{}[... {} bytes ...]{}", begin.escape_ascii(), bytes.len() - MOST, end.escape_ascii())
}
