//! The little HTTP/1.1 that a client of event streams needs: a response head, and the framing of a body.

use crate::failure::{Failure, Outcome, excerpt};

/// The longest response head that is read.
pub(crate) const HEAD_BYTES: usize = 16 * 1024;
/// That an answer may have.
const HEADERS: usize = 256;
/// Hexadecimal digits of the size of a chunk.
const MOST_DIGITS: u8 = 16;

/// The parts of a response head that this program needs.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) content_encoding: String,
    pub(crate) location: String,
    pub(crate) framing: Framing,
    /// The server ends the connection after this response.
    pub(crate) closes: bool,
    /// Bytes of the head, the blank line included.
    pub(crate) length: usize,
}

impl Head {
    /// Another head follows it (RFC 9110, section 15.2). 101 is the last one of its connection.
    pub(crate) fn is_informational(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }
}

/// Reads a response head; `None` when it is not all there yet.
pub(crate) fn parse_head(bytes: &[u8]) -> Outcome<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(Failure::new(format!("the response head is longer than {HEAD_BYTES} bytes")));
        }
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Failure::new(format!("the answer has more than {HEADERS} headers")));
        }
        Err(error) => {
            let text = format!("the answer is not HTTP/1.1 ({error}): it starts with `{}`", excerpt(bytes));
            return Err(Failure::new(text));
        }
    };
    let mut head = Head {
        status: response.code.unwrap_or(0),
        content_type: String::new(),
        content_encoding: String::new(),
        location: String::new(),
        framing: Framing::Close,
        closes: response.version == Some(0),
        length,
    };
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        let name = header.name;
        if name.eq_ignore_ascii_case("content-type") {
            head.content_type = value;
        } else if name.eq_ignore_ascii_case("content-encoding") {
            head.content_encoding = value.to_ascii_lowercase();
        } else if name.eq_ignore_ascii_case("location") {
            head.location = value;
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Failure::new(format!("the transfer encoding `{value}` is not understood")));
            }
            head.framing = Framing::CHUNKED;
        } else if name.eq_ignore_ascii_case("content-length") && head.framing == Framing::Close {
            let left = value
                .parse()
                .map_err(|_| Failure::new(format!("the content length `{value}` is no number")))?;
            head.framing = Framing::Length { left };
        }
    }
    if matches!(head.status, 100..=199 | 204 | 304) {
        head.framing = Framing::Length { left: 0 };
    }
    Ok(Some(head))
}

/// How a body is framed, and where in it we are. 16 bytes, because every connection has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Framing {
    /// The body ends with the connection.
    Close,
    /// So many bytes of body are left.
    Length { left: u64 },
    /// In a chunk's size, `digits` of it read.
    Size { size: u32, digits: u8 },
    /// After a chunk's size, up to the end of the line.
    Extension { size: u32 },
    /// In a chunk's data.
    Data { left: u32 },
    /// In the line end after a chunk's data.
    DataEnd,
    /// In the trailer; `blank` while nothing but a line end was seen on the line.
    Trailer { blank: bool },
    /// The body is over.
    Ended,
}

/// A step through a body.
#[derive(Debug, PartialEq)]
pub(crate) enum Step<'a> {
    /// Some of the body.
    Body(&'a [u8]),
    /// All input is used up.
    More,
    /// The body is over; what is left of the input is not part of it.
    End,
}

impl Framing {
    /// The state before the first chunk.
    pub(crate) const CHUNKED: Framing = Framing::Size { size: 0, digits: 0 };

    /// Whether the connection may end here without anything being cut off.
    pub(crate) fn may_end(self) -> bool {
        matches!(self, Framing::Close | Framing::Ended | Framing::Length { left: 0 })
    }

    /// Takes the next piece of body off the input.
    pub(crate) fn step<'a>(&mut self, input: &mut &'a [u8]) -> Outcome<Step<'a>> {
        loop {
            if matches!(self, Framing::Ended | Framing::Length { left: 0 }) {
                return Ok(Step::End);
            }
            let Some(&byte) = input.first() else { return Ok(Step::More) };
            match *self {
                Framing::Close => return Ok(Step::Body(std::mem::take(input))),
                Framing::Length { ref mut left } => {
                    let (body, rest) =
                        input.split_at(input.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
                    *left -= body.len() as u64;
                    *input = rest;
                    return Ok(Step::Body(body));
                }
                Framing::Data { left } => {
                    let (body, rest) = input.split_at(input.len().min(left as usize));
                    *input = rest;
                    let left = left - body.len() as u32;
                    *self = if left == 0 { Framing::DataEnd } else { Framing::Data { left } };
                    return Ok(Step::Body(body));
                }
                _ => {
                    *self = self.structure(byte, input)?;
                    *input = &input[1..];
                }
            }
        }
    }

    /// The state after one byte of the chunks' own text.
    fn structure(self, byte: u8, input: &[u8]) -> Outcome<Framing> {
        let wrong = || Failure::new(format!("the chunked body is broken at `{}`", excerpt(input)));
        Ok(match (self, byte) {
            (Framing::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 256 MB and more in one chunk no server means. There may be zeros in front of a size.
                let fits = size < 1 << 24 && digits < MOST_DIGITS;
                let digit = (byte as char).to_digit(16).filter(|_| fits).ok_or_else(wrong)?;
                Framing::Size { size: size * 16 + digit, digits: digits + 1 }
            }
            (Framing::Size { digits: 0, .. }, _) => return Err(wrong()),
            (Framing::Size { size, .. } | Framing::Extension { size }, b'\n') if size == 0 => {
                Framing::Trailer { blank: true }
            }
            (Framing::Size { size, .. } | Framing::Extension { size }, b'\n') => Framing::Data { left: size },
            (Framing::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => Framing::Extension { size },
            (Framing::Extension { .. }, _) => self,
            (Framing::DataEnd, b'\r') => self,
            (Framing::DataEnd, b'\n') => Framing::CHUNKED,
            (Framing::Trailer { blank: true }, b'\n') => Framing::Ended,
            (Framing::Trailer { .. }, b'\n') => Framing::Trailer { blank: true },
            (Framing::Trailer { blank }, b'\r') => Framing::Trailer { blank },
            (Framing::Trailer { .. }, _) => Framing::Trailer { blank: false },
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(mut framing: Framing, text: &[u8], piece: usize) -> Outcome<(Vec<u8>, bool)> {
        let mut body = Vec::new();
        for mut input in text.chunks(piece) {
            loop {
                match framing.step(&mut input)? {
                    Step::Body(bytes) => body.extend_from_slice(bytes),
                    Step::More => break,
                    Step::End => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn framing_is_the_same_however_the_bytes_arrive() {
        let text =
            b"5\r\nhello\r\n1;name=value\r\n \r\n00000000b\t;x\r\nbig, world!\r\n0\r\nTrailer: x\r\n\r\n";
        for piece in 1..=text.len() {
            let (body, ended) = body_of(Framing::CHUNKED, text, piece).unwrap();
            assert_eq!((body.as_slice(), ended), (&b"hello big, world!"[..], true), "in pieces of {piece}");
            let (body, ended) = body_of(Framing::Length { left: 4 }, b"abcdef", piece).unwrap();
            assert_eq!((body.as_slice(), ended), (&b"abcd"[..], true));
            let (body, ended) = body_of(Framing::Close, b"abcdef", piece).unwrap();
            assert_eq!((body.as_slice(), ended), (&b"abcdef"[..], false));
        }
        assert_eq!(size_of::<Framing>(), 16);
    }

    #[test]
    fn broken_chunks_are_refused() {
        let zeros = "0".repeat(17);
        for text in ["\r\n", "x\r\n", "3\r\nabcdef", "12345678\r\n", "0012345678\r\n", "-1\r\n", &zeros] {
            assert!(body_of(Framing::CHUNKED, text.as_bytes(), 1).is_err(), "{text}");
        }
    }

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let text =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n5";
        for length in 0..text.len() - 1 {
            assert!(parse_head(&text[..length]).unwrap().is_none());
        }
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!((head.status, head.length, head.framing), (200, text.len() - 1, Framing::CHUNKED));
        assert!(parse_head(b"SSH-2.0-thing\r\n").unwrap_err().to_string().contains("SSH-2.0"));
        assert!(parse_head(&[b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'a'; HEAD_BYTES]].concat()).is_err());
        let head = parse_head(b"HTTP/1.0 204 No\r\nContent-Encoding: GZip\r\n\r\n").unwrap().unwrap();
        assert!(head.closes && head.content_encoding == "gzip" && head.framing.may_end());
    }
}
