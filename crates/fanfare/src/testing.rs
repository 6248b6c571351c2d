//! Clients for tests of your own server: they read the bytes that a subscriber would receive, without a port
//! and without a runtime.
//!
//! ```
//! use std::time::Duration;
//! use fanfare::{Engine, Event, Topic, testing};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().shards(1).start()?;
//! let (hub, news) = (engine.hub(), Topic::new("news")?);
//! let mut client = testing::subscribe(&hub, [news.clone()])?;
//! hub.publish(Event::new(news).with_data("hello"))?;
//! let event = client.next_wait(Duration::from_secs(5))?.expect("the stream goes on");
//! assert_eq!((event.kind(), event.data()), ("message", "hello"));
//! # Ok(()) }
//! ```
//!
//! The engine is a real one, and the connection is a pair of Unix sockets, so a test covers the wire format,
//! too. In a task, [`Client::next`] does the same and blocks no thread. To test an [`crate::Admission`],
//! start the engine with [`listener`] and ask it with [`get`]. `fanfare_axum::testing` asks an application of
//! axum.
//!
//! A test that expects no event publishes another one and looks whether that comes first: it need not wait.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{fmt, io};

use fanfare_proto::decoder::{Decoded, Decoder};
use fanfare_proto::event::Topic;
use fanfare_proto::frame::WireFormat;

mod socket;

use crate::{Engine, Hub, Listener, Subscribe};
use socket::{Incoming, block_on};

/// A client at the other end of a socket: it has received the head of an answer, and reads what follows it.
///
/// Dropped, it closes the connection, as a client does that leaves. Where it does not read, it is a slow
/// subscriber: it holds 1 MiB, and the socket holds what the kernel gives it.
pub struct Client {
    incoming: Incoming,
    head: String,
    framing: Framing,
    /// Received and not decoded yet.
    raw: Vec<u8>,
    /// The body of an answer that is no stream.
    text: Vec<u8>,
    /// `None`: the answer is no stream.
    decoder: Option<Decoder>,
    events: VecDeque<ClientEvent>,
    has_ended: bool,
}

/// An event as a browser dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEvent {
    kind: String,
    data: String,
    id: String,
}

/// How the end of a body is known (RFC 9112, section 6).
#[derive(Clone, Copy)]
enum Framing {
    Chunked,
    Length(usize),
    ToEnd,
}

/// The longest head and the longest event that a client takes.
const LIMIT_BYTES: usize = 16 << 20;

/// How long a call of this module waits for the head of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Subscribes to these topics: [`adopt`] with [`Subscribe::to`].
///
/// # Errors
/// As [`adopt`].
pub fn subscribe(hub: &Hub, topics: impl IntoIterator<Item = Topic>) -> io::Result<Client> {
    adopt(hub, Subscribe::to(topics))
}

/// Gives the engine a connection with this subscription: what your server does with [`Hub::adopt`]. When this
/// returns, the client is subscribed and gets everything that is published afterwards.
///
/// # Errors
/// The system refuses a socket or a thread; the engine does not adopt (`Other`, with [`crate::AdoptError`] as
/// its source); no head came within ten seconds (`TimedOut`).
pub fn adopt(hub: &Hub, subscribe: Subscribe) -> io::Result<Client> {
    let (client, server) = UnixStream::pair()?;
    hub.adopt(server, subscribe, WireFormat::Chunked).map_err(io::Error::other)?;
    block_on(Client::open(client), PATIENCE)?
}

/// A listener without a port, for [`crate::Builder::listener`]: a Unix socket with a name of its own in the
/// abstract namespace.
pub fn listener() -> Listener {
    let random = RandomState::new().hash_one("name");
    Listener::unix_abstract(format!("fanfare-testing-{}-{random:016x}", std::process::id()))
}

/// Sends a GET for this target, such as `/events?topic=news`, with these fields to an engine that has a
/// [`listener`]. Its admission decides; a refusal is an answer, too: [`Client::status`].
///
/// # Errors
/// The engine listens on no Unix socket (`NotFound`); the connection breaks before the head of the answer
/// (`UnexpectedEof`); no head came within ten seconds (`TimedOut`).
pub fn get(engine: &Engine, target: &str, fields: &[(&str, &str)]) -> io::Result<Client> {
    let address = engine.unix_addresses().first().ok_or_else(|| {
        let text = "the engine listens on no Unix socket: give testing::listener() to its builder";
        io::Error::new(io::ErrorKind::NotFound, text)
    })?;
    let mut socket = UnixStream::connect_addr(address)?;
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    io::Write::write_all(&mut socket, head.as_bytes())?;
    block_on(Client::open(socket), PATIENCE)?
}

impl Client {
    /// A client at this end of a connection, whose other end is a server of your own that has its request. It
    /// waits for the head of the answer.
    ///
    /// A thread reads the socket, so any executor may poll this.
    ///
    /// # Errors
    /// The system refuses a thread; the connection ends before the head of an answer (`UnexpectedEof`); no
    /// head comes for ten seconds (`TimedOut`); the head is none of HTTP/1 (`InvalidData`).
    pub async fn open(socket: UnixStream) -> io::Result<Client> {
        let mut client = Client {
            incoming: Incoming::read(socket)?,
            head: String::new(),
            framing: Framing::ToEnd,
            raw: Vec::new(),
            text: Vec::new(),
            decoder: None,
            events: VecDeque::new(),
            has_ended: false,
        };
        while !client.take_head()? {
            let received = client.incoming.more(&mut client.raw).await?;
            if !received {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        client.decode()?;
        Ok(client)
    }

    /// The status of the answer: 200 for a stream.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// The head of the answer as it was received, from its status line to its empty line.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The value of the first field of the head with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The next event. `None`: the stream has ended, and not in the middle of an event.
    ///
    /// # Errors
    /// The answer is no stream (`InvalidData`, with the head in the message). The connection broke
    /// (`UnexpectedEof`, or what the system says). Nothing came for ten seconds (`TimedOut`), so that a test
    /// that waits for a missing event fails.
    pub async fn next(&mut self) -> io::Result<Option<ClientEvent>> {
        if self.decoder.is_none() {
            return Err(invalid(format!("the answer is no stream of events: {}", self.head)));
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Does what [`Client::next`] does, and blocks the thread for at most this time, and for at most ten
    /// seconds.
    ///
    /// # Errors
    /// As [`Client::next`]. `TimedOut`: no event came in time.
    pub fn next_wait(&mut self, bound: Duration) -> io::Result<Option<ClientEvent>> {
        block_on(self.next(), bound)?
    }

    /// The rest of an answer that is no stream, as text: a page, or the reason of a refusal.
    ///
    /// # Errors
    /// As [`Client::next`]; the answer is a stream, or no UTF-8 (`InvalidData`).
    pub async fn text(mut self) -> io::Result<String> {
        if self.decoder.is_some() {
            return Err(invalid("the answer is a stream of events: read them with `next`".to_owned()));
        }
        while self.receive().await? {}
        String::from_utf8(std::mem::take(&mut self.text)).map_err(|error| invalid(error.to_string()))
    }

    /// Does what [`Client::text`] does, and blocks the thread for at most this time, and for at most ten
    /// seconds.
    ///
    /// # Errors
    /// As [`Client::text`].
    pub fn text_wait(self, bound: Duration) -> io::Result<String> {
        block_on(self.text(), bound)?
    }

    /// Receives some more; `false` at the end of the body.
    async fn receive(&mut self) -> io::Result<bool> {
        if self.has_ended {
            return Ok(false);
        }
        if self.incoming.more(&mut self.raw).await? {
            self.decode()?;
            return Ok(true);
        }
        match self.framing {
            Framing::ToEnd => self.has_ended = true,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(false)
    }

    /// Takes the head off what was received; `false`: it is not complete yet.
    fn take_head(&mut self) -> io::Result<bool> {
        let Some(end) = self.raw.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if self.raw.len() > LIMIT_BYTES {
                Err(invalid("an endless head".to_owned()))
            } else {
                Ok(false)
            };
        };
        let head: Vec<u8> = self.raw.drain(..end + 4).collect();
        self.head = String::from_utf8_lossy(&head).into_owned();
        if !self.head.starts_with("HTTP/1.") || self.status() == 0 {
            return Err(invalid(format!("no head of HTTP/1: {}", self.head)));
        }
        let length = self.header("content-length").and_then(|length| length.parse().ok());
        let is_chunked = self.header("transfer-encoding").is_some_and(|coding| coding == "chunked");
        self.framing = match length {
            _ if is_chunked => Framing::Chunked,
            _ if matches!(self.status(), 204 | 304) => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::ToEnd,
        };
        let is_stream = self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        self.decoder = (is_stream && self.status() == 200).then(|| Decoder::new(LIMIT_BYTES));
        Ok(true)
    }

    /// Decodes what was received.
    fn decode(&mut self) -> io::Result<()> {
        let mut body = Vec::new();
        match &mut self.framing {
            Framing::Chunked => {
                while let Some(last) = take_chunk(&mut self.raw, &mut body)? {
                    self.has_ended |= last;
                }
            }
            Framing::Length(left) => {
                body.extend(self.raw.drain(..self.raw.len().min(*left)));
                *left -= body.len();
                self.has_ended = *left == 0;
            }
            Framing::ToEnd => body = std::mem::take(&mut self.raw),
        }
        let Client { decoder: Some(decoder), events, .. } = self else {
            self.text.extend(body);
            return Ok(());
        };
        let take = &mut |decoded: Decoded<'_>| {
            if let Decoded::Event { kind, data, last_event_id } = decoded {
                let (kind, data, id) = (kind.to_owned(), data.to_owned(), last_event_id.to_owned());
                events.push_back(ClientEvent { kind, data, id });
            }
        };
        decoder.feed(&body, take).map_err(|error| invalid(error.to_string()))
    }
}

/// Takes a whole chunk (RFC 9112, section 7.1) off what was received, and says whether it was the last one.
/// `None`: it is not complete yet.
fn take_chunk(raw: &mut Vec<u8>, body: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let Some(line) = raw.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let wrong = || invalid(format!("not a chunk: {:?}", String::from_utf8_lossy(&raw[..raw.len().min(100)])));
    let size = std::str::from_utf8(&raw[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
    let size = size.filter(|size| *size <= LIMIT_BYTES).ok_or_else(wrong)?;
    let (start, end) = (line + 2, line + 2 + size);
    if raw.len() < end + 2 {
        return Ok(None);
    }
    if &raw[end..end + 2] != b"\r\n" {
        return Err(wrong());
    }
    body.extend_from_slice(&raw[start..end]);
    raw.drain(..end + 2);
    Ok(Some(size == 0))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl ClientEvent {
    /// The type; `message` where the event has none.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The data, its lines joined by LF.
    pub fn data(&self) -> &str {
        &self.data
    }

    /// What a client that has received this event last sends as `Last-Event-ID`: give it to
    /// [`Subscribe::with_resume`]. Empty where the stream has had no id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client { head, events, has_ended, .. } = self;
        f.debug_struct("Client")
            .field("head", head)
            .field("events", events)
            .field("has_ended", has_ended)
            .finish_non_exhaustive()
    }
}
