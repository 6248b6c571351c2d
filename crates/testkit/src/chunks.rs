//! Chunked bodies (RFC 9112, section 7.1), read strictly.

use std::fmt;

/// An incremental, strict reader of one chunked body.
///
/// The input is the bytes of the body as they arrive, in pieces of any size. [`next`](ChunkReader::next)
/// takes one part off the front of the input, and has to be called until it returns `None`;
/// [`feed`](ChunkReader::feed) does that and collects the data. [`place`](ChunkReader::place) says where the
/// reader stands. After an error every call returns the same error.
///
/// It takes less than the RFC allows: a size has hexadecimal digits, no leading zero and no extension; every
/// line ends with CRLF; there are no trailers.
#[derive(Clone, Debug, Default)]
pub struct ChunkReader {
    state: State,
    /// Bytes that were read, of data and of the chunks' own text.
    read: u64,
    failed: Option<ChunkError>,
}

/// What a reader expects next.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// The first digit of a size.
    #[default]
    Boundary,
    /// Another digit of a size, or the CR behind it.
    Size(u64),
    /// The LF behind a size.
    SizeEnd(u64),
    /// So many bytes of data, at least one.
    Data(u64),
    /// The CR behind the data, or of the empty line behind the last chunk's size.
    ChunkCr { last: bool },
    /// The LF behind that CR.
    ChunkLf { last: bool },
    /// Nothing.
    End,
}

/// A part of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'input> {
    /// Some bytes of a chunk's data, at least one.
    Data(&'input [u8]),
    /// A chunk has been read whole, with its line end.
    ChunkEnd,
    /// The last chunk has been read whole. What is left of the input does not belong to this body.
    End,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the first chunk or between two chunks.
    Boundary,
    /// Within a chunk: in its size line, its data or its line end.
    Chunk,
    /// Behind the last chunk.
    End,
}

/// Why bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkError {
    /// The offset in the body of the first wrong byte.
    pub at: u64,
    /// That byte.
    pub found: u8,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A size has to begin with a hexadecimal digit.
    NoSize,
    /// A size has a leading zero.
    LeadingZero,
    /// A size does not fit into 64 bits.
    TooLarge,
    /// A size is followed by an extension, a space or another byte that is neither a digit nor CR.
    BehindSize,
    /// The CR of a size line is not followed by LF.
    SizeEnd,
    /// The data does not end with CRLF where the size says.
    DataEnd,
    /// The last chunk is followed by a trailer or another byte that is not CRLF.
    LastEnd,
    /// Something follows the last chunk.
    AfterEnd,
}

impl ChunkReader {
    /// Takes the next part off the front of `input`. `None`: all input was used up, or the body is over.
    ///
    /// # Errors
    /// The input is not a chunked body. A body that has ended is no error here, whatever follows it.
    pub fn next<'input>(&mut self, input: &mut &'input [u8]) -> Result<Option<Part<'input>>, ChunkError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.step(input).inspect_err(|error| self.failed = Some(*error)),
        }
    }

    /// Reads all of `input` and appends the data of the chunks to `data`.
    ///
    /// # Errors
    /// The input is not a chunked body, or continues behind the last chunk.
    pub fn feed(&mut self, mut input: &[u8], data: &mut Vec<u8>) -> Result<(), ChunkError> {
        while let Some(part) = self.next(&mut input)? {
            if let Part::Data(bytes) = part {
                data.extend_from_slice(bytes);
            }
        }
        match input.first() {
            None => Ok(()),
            Some(&found) => {
                let error = ChunkError { at: self.read, found, problem: Problem::AfterEnd };
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// Where the reader stands.
    pub fn place(&self) -> Place {
        match self.state {
            State::Boundary => Place::Boundary,
            State::End => Place::End,
            _ => Place::Chunk,
        }
    }

    /// How many bytes were read, of data and of the chunks' own text.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    fn step<'input>(&mut self, input: &mut &'input [u8]) -> Result<Option<Part<'input>>, ChunkError> {
        while let Some(&byte) = input.first() {
            if let State::Data(left) = self.state {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let (data, rest) = input.split_at(length);
                *input = rest;
                self.read += length as u64;
                self.state = match left - length as u64 {
                    0 => State::ChunkCr { last: false },
                    left => State::Data(left),
                };
                return Ok(Some(Part::Data(data)));
            }
            if matches!(self.state, State::End) {
                break;
            }
            let next = self.state.after(byte);
            self.state = next.map_err(|problem| ChunkError { at: self.read, found: byte, problem })?;
            self.read += 1;
            *input = &input[1..];
            match self.state {
                State::Boundary => return Ok(Some(Part::ChunkEnd)),
                State::End => return Ok(Some(Part::End)),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl State {
    /// The state after a byte of the chunks' own text.
    fn after(self, byte: u8) -> Result<State, Problem> {
        let digit = || char::from(byte).to_digit(16).map(u64::from);
        match (self, byte) {
            (State::Boundary, _) => digit().map(State::Size).ok_or(Problem::NoSize),
            (State::Size(size), b'\r') => Ok(State::SizeEnd(size)),
            (State::Size(size), _) => match digit() {
                None => Err(Problem::BehindSize),
                Some(_) if size == 0 => Err(Problem::LeadingZero),
                Some(digit) => {
                    let shifted = size.checked_mul(16).ok_or(Problem::TooLarge)?;
                    Ok(State::Size(shifted + digit))
                }
            },
            (State::SizeEnd(0), b'\n') => Ok(State::ChunkCr { last: true }),
            (State::SizeEnd(size), b'\n') => Ok(State::Data(size)),
            (State::SizeEnd(_), _) => Err(Problem::SizeEnd),
            (State::ChunkCr { last }, b'\r') => Ok(State::ChunkLf { last }),
            (State::ChunkLf { last: false }, b'\n') => Ok(State::Boundary),
            (State::ChunkLf { last: true }, b'\n') => Ok(State::End),
            (State::ChunkCr { last } | State::ChunkLf { last }, _) => {
                Err(if last { Problem::LastEnd } else { Problem::DataEnd })
            }
            (State::Data(_) | State::End, _) => {
                unreachable!("data is taken in pieces, and the end takes nothing")
            }
        }
    }
}

/// The first chunk of `bytes`: its data, and how many bytes the whole chunk takes. `None`: it has not come
/// whole.
///
/// # Errors
/// The bytes do not begin with a chunk.
pub fn first_chunk(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ChunkError> {
    let (mut reader, mut rest, mut data) = (ChunkReader::default(), bytes, &bytes[..0]);
    while let Some(part) = reader.next(&mut rest)? {
        match part {
            // The whole input is one slice, and so the data of a chunk is one part.
            Part::Data(part) => data = part,
            Part::ChunkEnd | Part::End => return Ok(Some((data, bytes.len() - rest.len()))),
        }
    }
    Ok(None)
}

/// The data of a body, and whether the body ends with its last chunk.
///
/// # Errors
/// The bytes are not the beginning of a chunked body, or continue behind the last chunk.
pub fn read_body(bytes: &[u8]) -> Result<(Vec<u8>, Place), ChunkError> {
    let (mut reader, mut data) = (ChunkReader::default(), Vec::new());
    reader.feed(bytes, &mut data)?;
    Ok((data, reader.place()))
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            Problem::NoSize => "a chunk begins with a hexadecimal size",
            Problem::LeadingZero => "the size of a chunk has no leading zero",
            Problem::TooLarge => "the size of a chunk fits into 64 bits",
            Problem::BehindSize => "the size of a chunk is followed by CRLF, without an extension",
            Problem::SizeEnd => "the size of a chunk is followed by CR and LF",
            Problem::DataEnd => "the data of a chunk is followed by CRLF where its size says",
            Problem::LastEnd => "the last chunk is followed by CRLF, without trailers",
            Problem::AfterEnd => "nothing follows the last chunk",
        };
        let (at, found) = (self.at, self.found.escape_ascii());
        write!(f, "the chunked body is wrong at byte {at}, which is '{found}': {problem}")
    }
}

impl std::error::Error for ChunkError {}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\n1\r\n \r\nB\r\nbig, world!\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

    #[test]
    fn the_cut_of_the_input_makes_no_difference() {
        for length in 1..=BODY.len() {
            let (mut reader, mut data) = (ChunkReader::default(), Vec::new());
            for piece in BODY.chunks(length) {
                assert_ne!(reader.place(), Place::End);
                reader.feed(piece, &mut data).unwrap();
            }
            assert_eq!(data, b"hello big, world!0123456789abcdef", "in pieces of {length} bytes");
            assert_eq!((reader.place(), reader.bytes_read()), (Place::End, BODY.len() as u64));
        }
    }

    #[test]
    fn the_place_is_known_after_every_byte() {
        let boundaries = [0, 10, 16, 32, 54];
        let mut reader = ChunkReader::default();
        for (at, byte) in BODY.iter().enumerate() {
            let expected = if boundaries.contains(&at) { Place::Boundary } else { Place::Chunk };
            assert_eq!(reader.place(), expected, "before byte {at}");
            reader.feed(&[*byte], &mut Vec::new()).unwrap();
        }
        assert_eq!(reader.place(), Place::End);
    }

    #[test]
    fn parts_come_in_order_and_what_follows_the_body_is_left() {
        let mut input = &b"2\r\nab\r\n0\r\n\r\nHTTP/1.1"[..];
        let mut reader = ChunkReader::default();
        assert_eq!(reader.next(&mut input), Ok(Some(Part::Data(b"ab"))));
        assert_eq!(reader.next(&mut input), Ok(Some(Part::ChunkEnd)));
        assert_eq!(reader.next(&mut input), Ok(Some(Part::End)));
        assert_eq!((reader.next(&mut input), input), (Ok(None), &b"HTTP/1.1"[..]));
    }

    #[test]
    fn the_first_wrong_byte_is_named_however_the_input_is_cut() {
        let wrong: [(&str, u64, Problem); 20] = [
            ("x\r\n", 0, Problem::NoSize),
            ("\r\n", 0, Problem::NoSize),
            ("+5\r\n", 0, Problem::NoSize),
            ("-5\r\n", 0, Problem::NoSize),
            (" 5\r\n", 0, Problem::NoSize),
            ("2\r\nab\r\n;", 7, Problem::NoSize),
            ("05\r\n", 1, Problem::LeadingZero),
            ("00\r\n", 1, Problem::LeadingZero),
            ("11111111111111111\r\n", 16, Problem::TooLarge),
            ("5;a=b\r\n", 1, Problem::BehindSize),
            ("5 \r\n", 1, Problem::BehindSize),
            ("0x5\r\n", 1, Problem::BehindSize),
            ("5\n", 1, Problem::BehindSize),
            ("5\rhello", 2, Problem::SizeEnd),
            ("3\r\nabcdef", 6, Problem::DataEnd),
            ("3\r\nabc\n", 6, Problem::DataEnd),
            ("3\r\nabc\rx", 7, Problem::DataEnd),
            ("0\r\nTrailer: x\r\n\r\n", 3, Problem::LastEnd),
            ("0\r\n\r0", 4, Problem::LastEnd),
            ("0\r\n\r\n0", 5, Problem::AfterEnd),
        ];
        for (text, at, problem) in wrong {
            let error = ChunkError { at, found: text.as_bytes()[at as usize], problem };
            for length in 1..=text.len() {
                let mut reader = ChunkReader::default();
                let mut pieces = text.as_bytes().chunks(length);
                let first = pieces.find_map(|piece| reader.feed(piece, &mut Vec::new()).err());
                assert_eq!(first, Some(error), "{text:?} in pieces of {length} bytes");
                assert_eq!(reader.feed(b"0\r\n\r\n", &mut Vec::new()), Err(error), "an error stays");
            }
        }
        let text = read_body(b"2\r\nab\n").unwrap_err().to_string();
        let expected = "the chunked body is wrong at byte 5, which is '\\n': \
                        the data of a chunk is followed by CRLF where its size says";
        assert_eq!(text, expected);
    }

    /// The longest size that is valid, in data that does not come.
    #[test]
    fn a_size_of_64_bits_is_read() {
        let mut reader = ChunkReader::default();
        assert_eq!(reader.feed(b"ffffffffffffffff\r\nabc", &mut Vec::new()), Ok(()));
        assert_eq!(reader.place(), Place::Chunk);
    }

    #[test]
    fn the_first_chunk_is_given_when_it_is_whole() {
        assert_eq!(first_chunk(b"3\r\nabc\r\n0\r\n\r\n"), Ok(Some((&b"abc"[..], 8))));
        assert_eq!(first_chunk(b"0\r\n\r\n"), Ok(Some((&b""[..], 5))));
        for length in 0..8 {
            assert_eq!(first_chunk(&b"3\r\nabc\r\n"[..length]), Ok(None));
        }
        assert_eq!(first_chunk(b"3\r\nabcd").unwrap_err().problem, Problem::DataEnd);
    }

    #[test]
    fn a_body_that_breaks_off_has_the_data_that_came() {
        assert_eq!(read_body(b"3\r\nabc\r\n"), Ok((b"abc".to_vec(), Place::Boundary)));
        assert_eq!(read_body(b"3\r\nab"), Ok((b"ab".to_vec(), Place::Chunk)));
        assert_eq!(read_body(b"3\r\nabc\r\n0\r\n\r\n"), Ok((b"abc".to_vec(), Place::End)));
    }
}
