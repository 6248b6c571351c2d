//! The part of HTTP/1.1 that torture needs: response heads, and the connection of a publisher.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fanfare_io::Clock;

/// The longest response head.
const HEAD_BYTES: usize = 16 << 10;

/// How long a publisher waits for an answer. The server waits for room for 5 s before it answers 503.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A connection that has been idle for longer is not used again. The server closes idle connections after 30
/// s, and a request that crosses such a close gets no answer (RFC 9112, section 9.5).
const REUSED_WITHIN: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(20) };

/// The parts of a response head that torture reads.
#[derive(Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) chunked: bool,
    pub(crate) gap: bool,
    pub(crate) retry_after: bool,
    pub(crate) closes: bool,
    pub(crate) content_length: usize,
    /// The length of the head in bytes.
    pub(crate) length: usize,
}

/// Reads a response head. `None`: the head is not complete yet.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("a response head without an end".to_owned()),
        Err(error) => return Err(format!("a response head that is none: {error}")),
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
    };
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        chunked: field("transfer-encoding").is_some_and(|value| value == "chunked"),
        gap: field("fanfare-gap").is_some_and(|value| value == "true"),
        retry_after: field("retry-after").is_some(),
        closes: field("connection").is_some_and(|value| value == "close"),
        content_length: field("content-length").and_then(|value| value.parse().ok()).unwrap_or_default(),
        length,
    }))
}

/// The answer to a publish.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: bool,
    pub(crate) body: serde_json::Value,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// No connection could be made, so nothing was sent.
    NotConnected,
    /// The connection broke. What was sent may have been published.
    Unanswered,
}

/// A publisher's connection. It stays open between requests.
#[derive(Debug)]
pub(crate) struct PublishConnection {
    address: SocketAddr,
    clock: Clock,
    /// The open connection, and when its last answer came.
    idle: Option<(TcpStream, Duration)>,
    /// How many outages had begun and ended when the last answer came.
    pub(crate) answered_in: Option<u64>,
}

impl PublishConnection {
    pub(crate) fn new(address: SocketAddr) -> PublishConnection {
        PublishConnection { address, clock: Clock::start(), idle: None, answered_in: None }
    }

    /// Sends a body and reads the answer.
    pub(crate) fn post(&mut self, content_type: &str, body: &[u8]) -> Result<Answer, NoAnswer> {
        self.post_in_pieces(content_type, body.len(), [body], Duration::ZERO)
    }

    /// Sends a body in pieces with a pause after each. Where the pieces have fewer bytes than announced, the
    /// connection is closed after the last piece and there is no answer.
    pub(crate) fn post_in_pieces<'body>(
        &mut self,
        content_type: &str,
        announced: usize,
        pieces: impl IntoIterator<Item = &'body [u8]>,
        pause: Duration,
    ) -> Result<Answer, NoAnswer> {
        let now = self.clock.now();
        let is_usable =
            |(stream, since): &(TcpStream, Duration)| now < *since + REUSED_WITHIN && is_open(stream);
        let mut stream = match self.idle.take().filter(is_usable) {
            Some((stream, _)) => stream,
            None => connect(self.address).map_err(|_| NoAnswer::NotConnected)?,
        };
        let mut head = String::new();
        let _ = write!(
            head,
            "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
             Content-Length: {announced}\r\n\r\n"
        );
        let mut sent = 0;
        stream.write_all(head.as_bytes()).map_err(|_| NoAnswer::Unanswered)?;
        for piece in pieces {
            stream.write_all(piece).map_err(|_| NoAnswer::Unanswered)?;
            sent += piece.len();
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        if sent < announced {
            return Err(NoAnswer::Unanswered);
        }
        let (answer, closes) = read_answer(&mut stream).map_err(|_| NoAnswer::Unanswered)?;
        if !closes {
            self.idle = Some((stream, self.clock.now()));
        }
        Ok(answer)
    }
}

/// The status of the answer to a GET. `None`: there is no answer within two seconds.
pub(crate) fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    const TIME: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, TIME).ok()?;
    stream.set_read_timeout(Some(TIME)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    read_answer(&mut stream).ok().map(|(answer, _)| answer.status)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

/// Whether the server keeps an idle connection open.
fn is_open(stream: &TcpStream) -> bool {
    let quiet = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        Ok::<bool, io::Error>(peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    };
    quiet().unwrap_or(false)
}

fn read_answer(stream: &mut TcpStream) -> io::Result<(Answer, bool)> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = parse_head(&received).map_err(io::Error::other)?;
        if let Some(head) = head
            && received.len() >= head.length + head.content_length
        {
            let body = &received[head.length..head.length + head.content_length];
            let body = serde_json::from_slice(body).unwrap_or_default();
            return Ok((Answer { status: head.status, retry_after: head.retry_after, body }, head.closes));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// On a busy machine all publishers paused for just as long as the server keeps idle connections. Their
    /// next requests crossed the closes, and four publishes were reported as unanswered.
    #[test]
    fn a_connection_that_was_idle_for_long_is_not_used_again() {
        const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = PublishConnection::new(listener.local_addr().unwrap());
        // Each connection is answered once and stays open.
        let server = thread::spawn(move || {
            let answer = || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"{}") {
                    let mut buffer = [0; 4096];
                    let count = stream.read(&mut buffer).unwrap();
                    assert!(count > 0);
                    request.extend_from_slice(&buffer[..count]);
                }
                stream.write_all(OK).unwrap();
                stream
            };
            [answer(), answer()]
        });
        assert_eq!(connection.post("application/json", b"{}").unwrap().status, 200);
        thread::sleep(REUSED_WITHIN);
        assert_eq!(connection.post("application/json", b"{}").unwrap().status, 200);
        server.join().unwrap();
    }

    #[test]
    fn heads_are_complete_at_their_empty_line() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nFanfare-Gap: true\r\n\r\n5";
        assert_eq!(parse_head(&text[..40]), Ok(None));
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!((head.status, head.chunked, head.gap, head.length), (200, true, true, text.len() - 1));
        assert!(parse_head(b"SSH-2.0\r\n").is_err());
    }
}
