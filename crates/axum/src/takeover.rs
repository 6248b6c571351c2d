//! How a response finds the connection that it is written to.
//!
//! A subscription's response has a mark in its head: a field with a random key that is used once. Layers pass
//! it on as they pass on every field that they do not know. The connection on which hyper writes the head
//! with the mark is the one whose socket the engine takes over, so no stream can go to a wrong client,
//! whatever runs between the handler and the connection. Clients never see the mark, and do not know the
//! keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use fanfare::{Hub, Subscribe, WireFormat};
use http::HeaderValue;
use memchr::memmem::{self, Finder};

use crate::body::Progress;

/// The name of the field.
pub(crate) const MARK: &str = "fanfare-subscription";

const LINE_END: &[u8] = b"\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What names one response.
pub(crate) type Key = u128;

/// The hexadecimal digits of a key.
const KEY_DIGITS: usize = 32;

/// A response that is under way to its connection.
#[derive(Debug)]
pub(crate) struct Promised {
    pub(crate) hub: Hub,
    pub(crate) subscribe: Subscribe,
    pub(crate) progress: Arc<Progress>,
}

static RESPONSES: LazyLock<Responses> = LazyLock::new(Responses::default);

/// How many there were. While there was none, no head is looked at.
static MADE: AtomicU64 = AtomicU64::new(0);

/// How many are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

struct Responses {
    /// What every mark of this process begins with: connections look for it.
    prefix: Finder<'static>,
    random: [RandomState; 2],
    promised: Mutex<HashMap<Key, Box<Promised>>>,
}

impl Default for Responses {
    fn default() -> Responses {
        let prefix = format!("{:016x}", RandomState::new().hash_one("mark"));
        Responses {
            prefix: Finder::new(&prefix).into_owned(),
            random: [RandomState::new(), RandomState::new()],
            promised: Mutex::default(),
        }
    }
}

/// Notes a response, and gives its key and the value of its mark.
pub(crate) fn promise(promised: Promised) -> (Key, HeaderValue) {
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let responses = &*RESPONSES;
    let [high, low] = responses.random.each_ref().map(|random| random.hash_one(number));
    let key = (Key::from(high) << 64) | Key::from(low);
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    responses.lock().insert(key, Box::new(promised));
    let mut text = responses.prefix.needle().to_vec();
    text.extend_from_slice(format!("{key:032x}").as_bytes());
    (key, HeaderValue::from_bytes(&text).expect("hexadecimal digits are a value"))
}

/// The response is lost, or was not sent as it was made.
pub(crate) fn forget(key: Key) {
    let promised = take(key);
    // Without the lock: a hub and its subscription run code of others when they are dropped.
    drop(promised);
}

/// Takes the response with this key, unless another connection has it.
pub(crate) fn take(key: Key) -> Option<Promised> {
    let mut by_key = RESPONSES.lock();
    let promised = by_key.remove(&key)?;
    give_back_spare_room(&mut by_key);
    drop(by_key);
    UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    Some(*promised)
}

/// A table that had a burst goes back to what it needs.
pub(crate) fn give_back_spare_room<K: Eq + std::hash::Hash, V>(table: &mut HashMap<K, V>) {
    const SMALL: usize = 64;
    if table.capacity() > SMALL && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

impl Responses {
    /// What is behind the lock is whole after each step.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Box<Promised>>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fields with a mark in these bytes: the key, and where the line is.
    fn marks<'b>(&'b self, bytes: &'b [u8]) -> impl Iterator<Item = (Key, Range<usize>)> {
        self.prefix.find_iter(bytes).filter_map(move |at| {
            let digits = at + self.prefix.needle().len();
            let key = bytes.get(digits..digits + KEY_DIGITS)?;
            let key = Key::from_str_radix(str::from_utf8(key).ok()?, 16).ok()?;
            let start = memmem::rfind(&bytes[..at], LINE_END)? + LINE_END.len();
            let end = digits + KEY_DIGITS;
            let is_mark = name_is(&bytes[start..at], MARK) && bytes[end..].starts_with(LINE_END);
            is_mark.then(|| (key, start..end + LINE_END.len()))
        })
    }
}

/// Whether these bytes, which do not begin with a head, have the mark of a response that is under way in
/// them. Then hyper has joined the head with earlier bytes, and its beginning cannot be found.
pub(crate) fn is_joined(written: &[u8]) -> bool {
    UNDER_WAY.load(Ordering::Relaxed) > 0
        && RESPONSES.marks(written).any(|(key, _)| RESPONSES.lock().contains_key(&key))
}

/// A response head with a mark, as hyper has written it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MarkedHead<'b> {
    pub(crate) key: Key,
    /// The whole head with its empty line.
    head: &'b [u8],
    mark: Range<usize>,
    /// What came with it: a body that is not ours.
    pub(crate) behind: &'b [u8],
}

impl<'b> MarkedHead<'b> {
    /// The head at the beginning of these bytes, if it is marked.
    pub(crate) fn find(written: &'b [u8]) -> Option<MarkedHead<'b>> {
        if MADE.load(Ordering::Relaxed) == 0 || !written.starts_with(b"HTTP/1.") {
            return None;
        }
        let end = memmem::find(written, HEAD_END)? + HEAD_END.len();
        let (head, behind) = written.split_at(end);
        let (key, mark) = RESPONSES.marks(head).next()?;
        Some(MarkedHead { key, head, mark, behind })
    }

    /// What was written, as if there had been no mark.
    pub(crate) fn without_mark(&self) -> Vec<u8> {
        [&self.head[..self.mark.start], &self.head[self.mark.end..], self.behind].concat()
    }

    /// How the body is delimited.
    pub(crate) fn wire_format(&self) -> WireFormat {
        let chunked = self.fields().any(|line| name_is(line, "transfer-encoding"));
        if chunked { WireFormat::Chunked } else { WireFormat::Plain }
    }

    /// Whether hyper ends the connection behind this response.
    pub(crate) fn is_last(&self) -> bool {
        let closes = |line: &[u8]| {
            let value = value_of(line).split(|byte| *byte == b',');
            value.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"close"))
        };
        self.wire_format() == WireFormat::Plain
            || self.fields().any(|line| name_is(line, "connection") && closes(line))
    }

    /// The head of the stream. What it says about the connection was for hyper: the engine keeps it open for
    /// as long as there are events, and a stream without chunks ends with it.
    pub(crate) fn for_stream(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head.len());
        bytes.extend_from_slice(self.status_line());
        self.fields().filter(|line| !name_is(line, "connection")).for_each(|line| bytes.extend(line));
        if self.wire_format() == WireFormat::Plain {
            bytes.extend_from_slice(b"connection: close\r\n");
        }
        bytes.extend_from_slice(LINE_END);
        bytes
    }

    /// The fields that an answer of another kind keeps, which is what layers have added: cookies, and what a
    /// page needs to be allowed to read the answer.
    pub(crate) fn for_answer(&self) -> Vec<u8> {
        const OF_A_STREAM: [&str; 8] = [
            "cache-control",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "trailer",
            "transfer-encoding",
            "x-accel-buffering",
        ];
        let kept = |line: &&[u8]| !OF_A_STREAM.iter().any(|name| name_is(line, name));
        self.fields().filter(kept).flatten().copied().collect()
    }

    fn status_line(&self) -> &'b [u8] {
        self.lines().next().unwrap_or_default()
    }

    /// The fields but the mark, each with its line end.
    fn fields(&self) -> impl Iterator<Item = &'b [u8]> {
        self.lines().skip(1).filter(|line| *line != LINE_END && !name_is(line, MARK))
    }

    fn lines(&self) -> impl Iterator<Item = &'b [u8]> {
        // hyper writes no LF but in a line end.
        self.head.split_inclusive(|byte| *byte == b'\n')
    }
}

fn name_is(line: &[u8], name: &str) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| line[..colon].eq_ignore_ascii_case(name.as_bytes()))
}

fn value_of(line: &[u8]) -> &[u8] {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    line[colon..].trim_ascii().strip_prefix(b":").unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use fanfare::{Engine, Topic};

    use super::*;

    fn promised(hub: Hub) -> Promised {
        let subscribe = Subscribe::to([Topic::new("a").unwrap()]);
        Promised { hub, subscribe, progress: Arc::default() }
    }

    #[test]
    fn a_head_is_taken_once_and_only_with_its_mark() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let (key, value) = promise(promised(engine.hub()));
        let value = value.to_str().unwrap().to_owned();
        let fields = "content-type: text/event-stream\r\nset-cookie: a=b\r\n";
        let written = format!(
            "HTTP/1.1 200 OK\r\n{fields}connection: close\r\nFanfare-Subscription: {value}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        let marked = MarkedHead::find(written.as_bytes()).unwrap();
        assert_eq!((marked.key, marked.behind), (key, &b""[..]));
        assert_eq!((marked.wire_format(), marked.is_last()), (WireFormat::Chunked, true));
        let for_stream = format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n");
        assert_eq!(String::from_utf8(marked.for_stream()).unwrap(), for_stream);
        assert_eq!(marked.for_answer(), b"set-cookie: a=b\r\n");
        let without = written.replace(&format!("Fanfare-Subscription: {value}\r\n"), "");
        assert_eq!(String::from_utf8(marked.without_mark()).unwrap(), without);

        // Behind the bytes of an earlier answer, in a body, or in another field it is no head.
        assert!(is_joined(format!("earlier{written}").as_bytes()));
        for other in [
            format!("HTTP/1.1 200 OK\r\n\r\n{written}"),
            written.replace("Fanfare-Subscription", "other"),
            written.replace(&value, &value[1..]),
            written.replace(&value, &format!("{value}0")),
            written.replace("HTTP/1.1", "HTTP/2"),
        ] {
            assert_eq!(MarkedHead::find(other.as_bytes()), None, "{other}");
        }
        assert!(take(key).is_some());
        assert!(take(key).is_none() && !is_joined(written.as_bytes()));
    }

    #[test]
    fn a_stream_without_chunks_ends_with_its_connection() {
        let engine = Engine::builder().shards(1).start().unwrap();
        let (key, value) = promise(promised(engine.hub()));
        let written = format!(
            "HTTP/1.0 200 OK\r\nconnection: close, keep-alive\r\n{MARK}: {}\r\ndate: now\r\n\r\n",
            value.to_str().unwrap()
        );
        let marked = MarkedHead::find(written.as_bytes()).unwrap();
        assert_eq!((marked.wire_format(), marked.is_last()), (WireFormat::Plain, true));
        assert_eq!(marked.for_stream(), b"HTTP/1.0 200 OK\r\ndate: now\r\nconnection: close\r\n\r\n");
        forget(key);
    }
}
