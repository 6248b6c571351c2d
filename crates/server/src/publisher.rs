//! `fanfare pub`: one event from the command line, or one per line of standard input.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::thread;
use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cli::PubOptions;
use crate::command_server::{Connection, Failure, Refusal, Server, block_on, write_output};
use crate::printable::printable;

/// Lines that go out in one request when they come faster than requests are answered, and about their bytes.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How long a kept connection may take to be ready for the next request. It is ready at once, or never.
const READY: Duration = Duration::from_secs(1);

pub(crate) fn publish(options: &PubOptions) -> Result<(), Failure> {
    let server = Server::new(&options.server)?;
    let reads_lines =
        options.data.as_deref() == Some("-") || options.data.is_none() && !io::stdin().is_terminal();
    block_on(async {
        match reads_lines {
            true => publish_lines(&server, options).await,
            false => publish_one(&server, options).await,
        }
    })
}

async fn publish_one(server: &Server, options: &PubOptions) -> Result<(), Failure> {
    let body = event(options, options.data.as_deref()).to_string();
    let answer = post(server, &mut None, "application/json", body).await?;
    let answer = answer.map_err(|refusal| server.failure(&refusal, &refusal.reason))?;
    let id = printable(answer["id"].as_str().unwrap_or_default());
    // The event is published, whether its id is read or not.
    write_output(format!("{id}\n").as_bytes())
        .map(drop)
        .map_err(|failure| failure.map(|text| format!("{text}; the event is published, its id is {id}")))
}

/// The part of the lines that is published.
#[derive(Default)]
struct Published {
    events: u64,
    last: String,
    /// The number of the last line that is known to be published.
    line: u64,
}

impl Published {
    fn add(&mut self, answer: &Value) {
        self.events += answer["published"].as_u64().unwrap_or_default();
        if let Some(last) = answer["last"].as_str() {
            self.last = printable(last).into_owned();
        }
    }

    /// Puts the published part before the reason why the rest was not published.
    fn describe(&self, failure: Failure) -> Failure {
        match self.events {
            0 => failure.map(|text| format!("published no event: {text}")),
            count => failure.map(|text| {
                let (events, line) = (plural(count, "event"), self.line);
                format!("published {events}, up to line {line}, the last one is {}; then: {text}", self.last)
            }),
        }
    }
}

fn plural(count: u64, name: &str) -> String {
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

/// Each line goes out as soon as it is there; those that come meanwhile share the next request.
async fn publish_lines(server: &Server, options: &PubOptions) -> Result<(), Failure> {
    if options.id.is_some() {
        return Err(Failure::Local(
            "--id names one event; it cannot name every line of standard input".to_owned(),
        ));
    }
    let (read, mut batches) = mpsc::channel(1);
    let most = usize::try_from(options.max_line.as_u64()).unwrap_or(usize::MAX);
    // Reading blocks. The thread ends with the input, or with this program.
    thread::spawn(move || {
        let mut lines = LineReader::new(io::stdin(), most);
        while let Some(batch) = lines.next_batch() {
            if read.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    let (mut published, mut connection, mut number) = (Published::default(), None, 0);
    while let Some(Batch { lines, failure }) = batches.recv().await {
        let first = number + 1;
        number += lines.len() as u64;
        if !lines.is_empty() {
            let mut body = String::new();
            for line in &lines {
                body.push_str(&event(options, Some(line)).to_string());
                body.push('\n');
            }
            match post(server, &mut connection, "application/x-ndjson", body).await {
                Ok(Ok(answer)) => {
                    published.add(&answer);
                    published.line = number;
                }
                Ok(Err(refusal)) => return Err(refused(server, &refusal, first, &mut published)),
                Err(failure) => {
                    // The request may have come before the server was gone.
                    let unsure = failure
                        .map(|text| format!("{text}; lines {first} to {number} may be published, or not"));
                    return Err(published.describe(unsure));
                }
            }
        }
        if let Some(failure) = failure {
            return Err(published.describe(Failure::Local(format!("line {}: {failure}", number + 1))));
        }
    }
    match published.events {
        0 if number == 0 => Err(Failure::Local("standard input had no line to publish".to_owned())),
        count => {
            eprintln!("published {}, the last one is {}", plural(count, "event"), published.last);
            Ok(())
        }
    }
}

/// The server counts the lines of one request; the user counts those of the input.
fn refused(server: &Server, refusal: &Refusal, first: u64, published: &mut Published) -> Failure {
    let before = published.events;
    published.add(&refusal.problem);
    published.line = first - 1 + (published.events - before);
    let reason = match refusal.problem["line"].as_u64() {
        Some(line) => {
            let place = format!("line {line}: ");
            let reason = refusal.reason.strip_prefix(&place).unwrap_or(&refusal.reason);
            format!("line {}: {reason}", first - 1 + line)
        }
        None => refusal.reason.clone(),
    };
    published.describe(server.failure(refusal, &reason))
}

fn event(options: &PubOptions, data: Option<&str>) -> Value {
    let mut event = Map::from_iter([("topic".to_owned(), json!(options.topic))]);
    let fields = [("data", data), ("type", options.kind.as_deref()), ("id", options.id.as_deref())];
    for (name, value) in fields {
        if let Some(value) = value {
            event.insert(name.to_owned(), json!(value));
        }
    }
    if options.private {
        event.insert("private".to_owned(), json!(true));
    }
    Value::Object(event)
}

/// Posts, and returns the answer. `kept` is the connection of the request before, if it is still open.
async fn post(
    server: &Server,
    kept: &mut Option<Connection>,
    content_type: &'static str,
    body: String,
) -> Result<Result<Value, Refusal>, Failure> {
    let mut request = server.request(Method::POST, "", Bytes::from(body));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut connection = match kept.take() {
        // A server that has answered before it read the whole request may never be ready.
        Some(mut connection) => match timeout(READY, connection.ready()).await {
            Ok(Ok(())) => connection,
            Ok(Err(_)) | Err(_) => server.connect().await?,
        },
        None => server.connect().await?,
    };
    let mut unsent = None;
    let answer = async {
        connection.try_send_request(request).await.map_err(|mut error| {
            unsent = error.take_message();
            error.into_error()
        })
    };
    let answer = server.head(answer).await;
    let response = match unsent {
        None => answer?,
        // The server has closed the kept connection before the request left.
        Some(request) => {
            connection = server.connect().await?;
            server.head(connection.send_request(request)).await?
        }
    };
    if !response.status().is_success() {
        return Ok(Err(server.refusal(response).await));
    }
    let body = server.body(response.into_body()).await?;
    *kept = Some(connection);
    match serde_json::from_slice(&body) {
        Ok(answer @ Value::Object(_)) => Ok(Ok(answer)),
        _ => Err(Failure::Refused(format!("{} answered something else than JSON", server.events_url()))),
    }
}

/// Lines that were read together.
struct Batch {
    lines: Vec<String>,
    /// The reason why the line after them cannot be published.
    failure: Option<String>,
}

/// Reads lines without taking more memory than a line may have.
struct LineReader<R> {
    input: BufReader<R>,
    most_bytes: usize,
    has_ended: bool,
}

impl<R: Read> LineReader<R> {
    fn new(input: R, most_bytes: usize) -> LineReader<R> {
        LineReader { input: BufReader::with_capacity(64 << 10, input), most_bytes, has_ended: false }
    }

    /// The lines that are there. It waits for the first one only. `None`: the input has ended.
    fn next_batch(&mut self) -> Option<Batch> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while !self.has_ended {
            match self.next_line() {
                Ok(Some(line)) => {
                    bytes += line.len();
                    lines.push(line);
                    let is_full = lines.len() == BATCH_LINES || bytes >= BATCH_BYTES;
                    if is_full || !self.input.buffer().contains(&b'\n') {
                        return Some(Batch { lines, failure: None });
                    }
                }
                Ok(None) => self.has_ended = true,
                Err(failure) => {
                    self.has_ended = true;
                    return Some(Batch { lines, failure: Some(failure) });
                }
            }
        }
        (!lines.is_empty()).then_some(Batch { lines, failure: None })
    }

    fn next_line(&mut self) -> Result<Option<String>, String> {
        let mut line = Vec::new();
        loop {
            let there = match self.input.fill_buf() {
                Ok(there) => there,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("cannot read the standard input: {error}")),
            };
            let end = there.iter().position(|byte| *byte == b'\n');
            let part = &there[..end.unwrap_or(there.len())];
            if line.len() + part.len() > self.most_bytes {
                return Err(format!("it has more than {} bytes (--max-line)", self.most_bytes));
            }
            line.extend_from_slice(part);
            let (is_over, used) =
                (end.is_some() || there.is_empty(), part.len() + usize::from(end.is_some()));
            let is_end_of_input = there.is_empty();
            self.input.consume(used);
            if is_end_of_input && line.is_empty() {
                return Ok(None);
            }
            if is_over {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return String::from_utf8(line).map(Some).map_err(|_| "it is not UTF-8".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], most: usize) -> (Vec<String>, Option<String>) {
        let mut reader = LineReader::new(input, most);
        let (mut lines, mut failure) = (Vec::new(), None);
        while let Some(batch) = reader.next_batch() {
            assert!(failure.is_none(), "nothing is read after a failure");
            lines.extend(batch.lines);
            failure = batch.failure;
        }
        (lines, failure)
    }

    #[test]
    fn lines_end_by_lf_by_crlf_and_by_the_end_of_the_input() {
        assert_eq!(all(b"", 9), (vec![], None));
        assert_eq!(all(b"a\r\n\n b ", 9).0, ["a", "", " b "]);
        assert_eq!(all(b"a\n", 9).0, ["a"]);
        let many: String = (0..10_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(all(many.as_bytes(), 9).0.len(), 10_000);
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_ends_the_input_behind_those_before_it() {
        let (lines, failure) = all(b"one\ntwo\n1234567890\nfour\n", 9);
        assert_eq!(lines, ["one", "two"]);
        assert!(failure.is_some_and(|text| text.contains("more than 9 bytes")));
        let (lines, failure) = all(b"one\n\xff\ntwo\n", 9);
        assert_eq!((lines, failure.as_deref()), (vec!["one".to_owned()], Some("it is not UTF-8")));
    }

    /// An input without an end has no bound but this one.
    #[test]
    fn a_line_without_an_end_is_given_up_at_the_bound() {
        let mut reader = LineReader::new(io::repeat(b'x'), 1 << 20);
        let batch = reader.next_batch().expect("a failure is one");
        assert!(batch.lines.is_empty() && batch.failure.is_some() && reader.next_batch().is_none());
    }
}
