//! The requests that the home-made baselines understand: GET subscribes, POST publishes its body.

use std::io::{self, BufRead, Read};

/// The head of a stream that ends with the connection.
pub(super) const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n:\n\n";
/// The answer to a publish.
pub(super) const ACCEPTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// The longest request head and the longest body.
const HEAD_BYTES: u64 = 16 * 1024;
const BODY_BYTES: usize = 16 << 20;

pub(super) enum Request {
    Subscribe,
    /// With the body as it came.
    Publish(Vec<u8>),
}

/// Reads a request; `None` at the end of the connection.
pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let (mut method, mut length) = (None, 0);
    let mut line = String::new();
    let mut head = reader.take(HEAD_BYTES);
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return if method.is_none() { Ok(None) } else { Err(wrong("the head ends early")) };
        }
        let text = line.trim_end();
        if method.is_none() {
            method = Some(text.starts_with("POST"));
        } else if text.is_empty() {
            break;
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| wrong("the length is no number"))?;
        }
    }
    if method != Some(true) {
        return Ok(Some(Request::Subscribe));
    }
    if length > BODY_BYTES {
        return Err(wrong("the body is too long"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request::Publish(body)))
}

/// An event around a publish's body, made once for all subscribers.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 16);
    for line in body.split(|&byte| byte == b'\n') {
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(line);
        frame.push(b'\n');
    }
    frame.push(b'\n');
    frame
}
