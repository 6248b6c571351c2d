//! A client of bytes: it sends what it is told, however wrong, and reads answers strictly.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use fanfare::ProblemKind;
use fanfare_testkit::chunks::{ChunkReader, Part};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::{PATIENCE, described, now};

/// The most that an answer may have, so that no test reads for ever.
const ANSWER_BYTES: usize = 64 << 20;

/// A connection and what has been received on it and not been read by a test.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The head with its last empty line, as it came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
        Connection::of(stream)
    }

    /// With a receive buffer of about this many bytes (the kernel has its own minimum). It has to be set
    /// before the connection is made, since the window is agreed on then.
    pub(crate) fn open_small(address: SocketAddr, receive_buffer: usize) -> Connection {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(receive_buffer).expect("the buffer's size is set");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the server accepts");
        Connection::of(socket.into())
    }

    pub(crate) fn of(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Connection { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server takes the bytes");
    }

    /// Sends, and does not mind that the server may have answered and closed before all of it was sent.
    pub(crate) fn send_what_it_takes(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// One read. The count is zero at the end of the stream.
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..count]);
        assert!(self.received.len() < ANSWER_BYTES, "the answer has no end");
        Ok(count)
    }

    /// As [`receive`](Connection::receive), but waits only so long: `None` if nothing came.
    pub(crate) fn receive_within(&mut self, wait: Duration) -> io::Result<Option<usize>> {
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let result = self.receive();
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match result {
            Ok(count) => Ok(Some(count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Everything up to and including `end`.
    pub(crate) fn read_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.received.drain(..at + end.len()).collect();
            }
            match self.receive() {
                Ok(0) => panic!("the connection ended; so far: {}", self.text()),
                Ok(_) => {}
                Err(error) => panic!("{error}; so far: {}", self.text()),
            }
        }
    }

    pub(crate) fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            match self.receive() {
                Ok(0) => panic!("the connection ended; so far: {}", self.text()),
                Ok(_) => {}
                Err(error) => panic!("{error}; so far: {}", self.text()),
            }
        }
        self.received.drain(..count).collect()
    }

    /// Everything up to the end of the stream, which a reset is too. It panics if there is no end.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let deadline = now() + PATIENCE;
        loop {
            assert!(now() < deadline, "the connection does not end; so far: {}", self.text());
            match self.receive() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}; so far: {}", self.text()),
            }
        }
        std::mem::take(&mut self.received)
    }

    /// Panics unless the server closes this connection without another byte.
    pub(crate) fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "nothing was to follow: {}", String::from_utf8_lossy(&rest));
    }

    fn text(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.received))
    }

    /// Reads the head of an answer, with its last empty line.
    pub(crate) fn read_head(&mut self) -> String {
        String::from_utf8(self.read_through(b"\r\n\r\n")).expect("a head is text")
    }

    /// Reads an answer to a request of this method.
    pub(crate) fn read_response_to(&mut self, method: &str) -> Response {
        let head = self.read_head();
        let status = status_of(&head);
        let mut response = Response { status, head, body: Vec::new() };
        if method == "HEAD" || status == 204 || status < 200 {
            return response;
        }
        response.body = if let Some(length) = response.header("Content-Length") {
            self.read_exactly(length.parse().expect("a length"))
        } else if response.header("Transfer-Encoding") == Some("chunked") {
            self.read_chunks()
        } else {
            self.read_to_end()
        };
        response
    }

    pub(crate) fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    fn read_chunks(&mut self) -> Vec<u8> {
        let (mut reader, mut body) = (ChunkReader::default(), Vec::new());
        let deadline = now() + PATIENCE;
        loop {
            // A stream has heartbeats, and so no single read waits for long.
            assert!(now() < deadline, "the body has no end: {}", String::from_utf8_lossy(&body));
            let received = self.read_exactly(1.max(self.received.len()));
            let mut rest = received.as_slice();
            while let Some(part) = reader.next(&mut rest).unwrap_or_else(|error| panic!("{error}")) {
                match part {
                    Part::Data(data) => body.extend_from_slice(data),
                    Part::ChunkEnd => {}
                    Part::End => {
                        // The next answer may have come already.
                        self.received = rest.to_vec();
                        return body;
                    }
                }
            }
        }
    }

    /// Sends a request without a body and reads the answer.
    pub(crate) fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        self.send(head(method, target, headers));
        let response = self.read_response_to(method);
        described::check(method, target, &response);
        response
    }

    /// Sends a body of a known length and reads the answer.
    pub(crate) fn post(&mut self, content_type: &str, body: impl AsRef<[u8]>) -> Response {
        self.post_with(content_type, body, &[])
    }

    pub(crate) fn post_with(
        &mut self,
        content_type: &str,
        body: impl AsRef<[u8]>,
        headers: &[(&str, &str)],
    ) -> Response {
        let body = body.as_ref();
        let length = body.len().to_string();
        let mut all = vec![("Content-Type", content_type), ("Content-Length", length.as_str())];
        all.extend_from_slice(headers);
        let mut bytes = head("POST", "/events", &all).into_bytes();
        bytes.extend_from_slice(body);
        self.send_what_it_takes(bytes);
        let response = self.read_response_to("POST");
        described::check("POST", "/events", &response);
        response
    }

    /// Says that nothing more will be sent.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is connected");
    }

    /// Closes with a reset, whatever is still under way.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("linger is set");
    }
}

/// A request head with a `Host`, unless `headers` has one.
pub(crate) fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: fanfare.test\r\n");
    }
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text
}

pub(crate) fn status_of(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
    status.unwrap_or_else(|| panic!("not the head of an answer: {head:?}"))
}

/// The value of the header called `name`, in any case; panics if there are several.
pub(crate) fn header<'head>(head: &'head str, name: &str) -> Option<&'head str> {
    let mut values =
        headers(head).filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = values.next();
    assert!(values.next().is_none(), "{name} is there twice: {head}");
    value
}

pub(crate) fn headers(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "))
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a refusal in the form that all of them have, and gives its document.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(!detail.is_empty(), "a refusal has a reason: {problem}");
        let reference = problem["type"].as_str().unwrap_or_default();
        let kind = ProblemKind::ALL.iter().find(|kind| kind.reference() == reference);
        let kind = kind.unwrap_or_else(|| panic!("the type is no known kind: {problem}"));
        assert_eq!((kind.status(), problem["title"].as_str()), (status, Some(kind.title())), "{problem}");
        problem
    }
}
