//! One subscriber: it connects, reads, keeps a log, and reconnects with its last event id.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use fanfare::{Decoded, Decoder};
use fanfare_testkit::chunks::ChunkReader;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::event;
use crate::http;
use crate::ledger::{EpochNumber, Ledger, split_id};
use crate::verify::{Entry, Position};

/// The longest event that a subscriber accepts, in bytes.
const EVENT_BYTES: usize = 1 << 20;

/// The receive buffer of subscribers with a small one: when they stop reading, the server soon notices.
const SMALL_BUFFER: usize = 8 << 10;

/// How many bytes one subscriber reads before the other subscribers get their turn.
const TURN_BYTES: usize = 256 << 10;

/// How many bytes a slow subscriber reads at a time, and its pause after that.
const SLOW_BYTES: usize = 4 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// The shortest wait before a reconnect. It is random up to twice this, so that subscribers do not reconnect
/// together.
const RETRY: Duration = Duration::from_millis(60);

/// Four heartbeats. After a silence of this length the other end of the connection is searched for.
const SILENCE: Duration = Duration::from_secs(8);

/// How a subscriber subscribes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preferences {
    pub(crate) mask: u32,
    pub(crate) format: Format,
    pub(crate) small_buffer: bool,
    /// Its last id is sent in the query.
    pub(crate) id_in_query: bool,
    /// It asks for no gap events.
    pub(crate) gap_off: bool,
}

/// How the body of the stream is framed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Chunked,
    ConnectionClose,
    Http10,
}

/// A subscriber and its log.
pub(super) struct Subscriber {
    pub(super) preferences: Preferences,
    pub(super) log: Vec<Entry>,
    pub(super) position: Position,
    /// The topics whose marker has arrived in this round.
    pub(super) marked: u32,
    /// When its log last grew.
    pub(super) grew_at: Duration,
    /// It does not read before this time.
    stalled_until: Option<Duration>,
    /// It reads slowly until this time.
    slow_until: Duration,
    /// It was asked to stall or to read slowly until this time, in this round or an earlier one.
    hindered_until: Option<Duration>,
    link: Link,
    last_event_id: String,
    /// The name and the number of its epoch.
    epoch: Option<(String, EpochNumber)>,
}

enum Link {
    Waiting { until: Duration },
    Open(Box<Stream>),
}

struct Stream {
    socket: TcpStream,
    asked: bool,
    /// The bytes of the response head; `None` once the head is complete.
    head: Option<Vec<u8>>,
    /// `None`: the body ends with the connection.
    chunks: Option<ChunkReader>,
    decoder: Decoder,
    /// The socket may have more to read.
    readable: bool,
    /// When the last bytes arrived, or the other end was last found.
    heard_at: Duration,
    /// The last search found no other end.
    doubted: bool,
}

impl Subscriber {
    pub(super) fn new(preferences: Preferences) -> Subscriber {
        Subscriber {
            preferences,
            log: Vec::new(),
            position: None,
            marked: 0,
            grew_at: Duration::ZERO,
            stalled_until: None,
            slow_until: Duration::ZERO,
            hindered_until: None,
            link: Link::Waiting { until: Duration::ZERO },
            last_event_id: String::new(),
            epoch: None,
        }
    }

    /// Makes it stop reading until this time.
    pub(super) fn stall_until(&mut self, until: Duration) {
        self.stalled_until = Some(until);
        self.hindered_until = self.hindered_until.max(Some(until));
    }

    /// Makes it read slowly until this time.
    pub(super) fn slow_down(&mut self, until: Duration) {
        self.slow_until = until;
        self.hindered_until = self.hindered_until.max(Some(until));
    }

    /// Whether it has an ordinary receive buffer and was not asked to stall or to read slowly in the round
    /// that ends now.
    pub(super) fn was_unhindered(&mut self, now: Duration) -> bool {
        let hindered = self.hindered_until.is_some();
        self.hindered_until = self.hindered_until.filter(|until| *until > now);
        !hindered && !self.preferences.small_buffer
    }

    /// Whether its stream has begun.
    pub(super) fn streaming(&self) -> bool {
        matches!(&self.link, Link::Open(stream) if stream.head.is_none())
    }

    /// Whether it has the markers of all its topics.
    pub(super) fn settled(&self) -> bool {
        self.marked & self.preferences.mask == self.preferences.mask
    }

    /// When it has something to do without a notification of its socket; zero: now.
    pub(super) fn next_due(&self) -> Option<Duration> {
        match &self.link {
            Link::Waiting { until } => Some(*until),
            Link::Open(stream) if stream.readable => Some(self.stalled_until.unwrap_or_default()),
            Link::Open(_) => None,
        }
    }

    /// Connects if the wait before a reconnect is over.
    pub(super) fn connect_if_due(
        &mut self,
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        now: Duration,
        random: &mut fastrand::Rng,
    ) {
        if let Link::Waiting { until } = self.link
            && until <= now
        {
            match self.connect(address, registry, token, now) {
                Ok(stream) => self.link = Link::Open(Box::new(stream)),
                Err(_) => self.wait(now, random),
            }
        }
    }

    fn wait(&mut self, now: Duration, random: &mut fastrand::Rng) {
        if self.streaming() {
            self.log.push(Entry::Ended { at: now });
        }
        self.link = Link::Waiting { until: now + RETRY.mul_f64(1.0 + random.f64()) };
    }

    /// Its own address, if nothing has arrived for long although it reads.
    pub(super) fn silent(&self, now: Duration) -> Option<SocketAddr> {
        match &self.link {
            Link::Open(stream) if self.stalled_until.is_none() && now >= stream.heard_at + SILENCE => {
                stream.socket.local_addr().ok()
            }
            _ => None,
        }
    }

    /// Takes the result of a search for the other end of its silent connection. After two searches without a
    /// result it reconnects. Returns whether it does.
    pub(super) fn checked_other_end(&mut self, there: bool, now: Duration) -> bool {
        let Link::Open(stream) = &mut self.link else { return false };
        if there {
            stream.heard_at = now;
        } else if stream.doubted {
            if stream.head.is_none() {
                self.log.push(Entry::Ended { at: stream.heard_at });
            }
            self.link = Link::Waiting { until: now };
            return true;
        }
        stream.doubted = !there;
        false
    }

    fn connect(
        &self,
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        now: Duration,
    ) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if self.preferences.small_buffer {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let mut socket = TcpStream::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Stream {
            socket,
            asked: false,
            head: Some(Vec::new()),
            chunks: None,
            decoder: Decoder::new(EVENT_BYTES),
            readable: false,
            heard_at: now,
            doubted: false,
        })
    }

    /// Notes that its socket is ready.
    pub(super) fn notified(&mut self) {
        if let Link::Open(stream) = &mut self.link {
            stream.readable = true;
        }
    }

    /// Reads what has arrived, unless it is stalled. After the end of the stream it waits for its next
    /// connect.
    pub(super) fn read(
        &mut self,
        ledger: &Ledger,
        now: Duration,
        buffer: &mut [u8],
        random: &mut fastrand::Rng,
    ) {
        if self.stalled_until.is_some_and(|until| until > now) {
            return;
        }
        self.stalled_until = None;
        let Link::Open(stream) = &mut self.link else { return };
        if !stream.asked {
            let request = request(&self.preferences, &self.last_event_id);
            match stream.socket.write(request.as_bytes()) {
                Ok(count) if count == request.len() => stream.asked = true,
                // The connection is not established or was refused; reading reports which.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                _ => return self.wait(now, random),
            }
        }
        let mut taken = 0;
        loop {
            let Link::Open(stream) = &mut self.link else { return };
            if self.slow_until > now && taken >= SLOW_BYTES {
                self.stalled_until = Some(now + SLOW_PAUSE);
                return;
            }
            if taken >= TURN_BYTES {
                return;
            }
            let most = if self.slow_until > now { SLOW_BYTES } else { buffer.len() };
            match stream.socket.read(&mut buffer[..most]) {
                Ok(count) if count > 0 => {
                    taken += count;
                    (stream.heard_at, stream.doubted) = (now, false);
                    if !self.received(ledger, &buffer[..count], now) {
                        return self.wait(now, random);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    stream.readable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return self.wait(now, random),
            }
        }
    }

    /// Takes bytes of the response. Returns whether the connection is still useful.
    fn received(&mut self, ledger: &Ledger, bytes: &[u8], now: Duration) -> bool {
        let Link::Open(mut stream) = std::mem::replace(&mut self.link, Link::Waiting { until: now }) else {
            return false;
        };
        let before = self.log.len();
        let result = self.take(&mut stream, ledger, bytes);
        if self.log.len() > before {
            self.grew_at = now;
        }
        self.link = Link::Open(stream);
        match result {
            Ok(useful) => useful,
            Err(problem) => {
                self.log.push(Entry::Damage(problem));
                false
            }
        }
    }

    fn take(&mut self, stream: &mut Stream, ledger: &Ledger, bytes: &[u8]) -> Result<bool, String> {
        let Some(head) = &mut stream.head else {
            return self.take_body(stream, ledger, bytes).map(|()| true);
        };
        head.extend_from_slice(bytes);
        let Some(parsed) = http::parse_head(head)? else { return Ok(true) };
        if parsed.status != 200 {
            // A refused subscriber tries again. A server without room answers 503.
            let known = matches!(parsed.status, 503 | 408);
            return if known {
                Ok(false)
            } else {
                Err(format!("a subscriber was answered {}", parsed.status))
            };
        }
        if parsed.chunked != (self.preferences.format == Format::Chunked) {
            return Err(format!("a stream is framed as was not asked for: {:?}", self.preferences));
        }
        // Not `now`, because a loop over all subscribers may take a second, and this time must not be before
        // the server read its log.
        let at = ledger.now();
        self.log.push(Entry::Began { at, resumed: !self.last_event_id.is_empty(), gap: parsed.gap });
        stream.chunks = parsed.chunked.then(ChunkReader::default);
        let rest = head.split_off(parsed.length);
        stream.head = None;
        self.take_body(stream, ledger, &rest).map(|()| true)
    }

    fn take_body(&mut self, stream: &mut Stream, ledger: &Ledger, bytes: &[u8]) -> Result<(), String> {
        let mut unwrapped = Vec::new();
        let body = match &mut stream.chunks {
            Some(chunks) => {
                chunks.feed(bytes, &mut unwrapped).map_err(|error| error.to_string())?;
                unwrapped.as_slice()
            }
            None => bytes,
        };
        let mut scratch = String::new();
        let fed = stream.decoder.feed(body, &mut |decoded| {
            if let Decoded::Event { kind, data, last_event_id } = decoded {
                self.event(ledger, kind, data, last_event_id, &mut scratch);
            }
        });
        // Like a browser: a checkpoint changes the last event id and dispatches no event.
        if !stream.decoder.last_event_id().is_empty() && stream.decoder.last_event_id() != self.last_event_id
        {
            self.last_event_id = stream.decoder.last_event_id().to_owned();
        }
        fed.map_err(|error| error.to_string())
    }

    fn event(&mut self, ledger: &Ledger, kind: &str, data: &str, id: &str, scratch: &mut String) {
        let Some((name, seq)) = split_id(id) else {
            self.log.push(Entry::Damage(format!("an event has the id {id:?}")));
            return;
        };
        let asked = std::mem::replace(&mut self.last_event_id, id.to_owned());
        if self.epoch.as_ref().is_none_or(|(known, _)| known != name) {
            self.epoch = Some((name.to_owned(), ledger.epoch(name)));
        }
        let epoch = self.epoch.as_ref().map_or(0, |(_, number)| *number);
        if kind == "fanfare.gap" {
            self.log.push(self.gap(data, &asked, name, epoch, seq));
            return;
        }
        match event::check(data, scratch) {
            Some((key, mask)) => {
                if kind == event::MARKER {
                    self.marked |= mask;
                }
                self.log.push(Entry::Event { key, mask, epoch, seq });
            }
            None => {
                let start: String = data.chars().take(60).collect();
                self.log.push(Entry::Damage(format!("data of event {id} is not whole: {start:?}")));
            }
        }
    }

    /// The entry for a gap event, which must name the id that was sent in the request.
    fn gap(&self, data: &str, asked: &str, name: &str, epoch: EpochNumber, upto: u64) -> Entry {
        let parsed: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        if self.preferences.gap_off || parsed["after"] != asked {
            return Entry::Damage(format!("{:?} got the gap {data}, asked for {asked}", self.preferences));
        }
        let after = split_id(asked).filter(|(of, _)| *of == name).map_or(0, |(_, seq)| seq);
        // What the log still has of the incomplete part follows the gap event. Where the gap event names no
        // complete event, the bound of what the log can have dropped decides.
        let before = parsed["before"].as_str().and_then(split_id).filter(|(of, _)| *of == name);
        let incomplete_until = before.map_or(u64::MAX, |(_, seq)| seq - 1);
        Entry::Gap { epoch, after, upto, incomplete_until }
    }
}

fn request(preferences: &Preferences, last_event_id: &str) -> String {
    let mut query: Vec<String> =
        event::topics(preferences.mask).map(|topic| format!("topic={topic}")).collect();
    if preferences.gap_off {
        query.push("gap=off".to_owned());
    }
    let mut fields = String::new();
    if !last_event_id.is_empty() {
        match preferences.id_in_query {
            true => query.push(format!("last_event_id={last_event_id}")),
            false => {
                let _ = write!(fields, "Last-Event-ID: {last_event_id}\r\n");
            }
        }
    }
    if preferences.format == Format::ConnectionClose {
        fields.push_str("Connection: close\r\n");
    }
    let version = if preferences.format == Format::Http10 { "1.0" } else { "1.1" };
    format!("GET /events?{} HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One absence proves nothing: the kernel's table may lack a socket while others are opened and closed.
    #[test]
    fn a_silent_connection_without_an_other_end_twice_is_begun_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let poll = mio::Poll::new().unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let preferences = Preferences {
            mask: 1,
            format: Format::Chunked,
            small_buffer: false,
            id_in_query: false,
            gap_off: false,
        };
        let mut subscriber = Subscriber::new(preferences);
        subscriber.connect_if_due(address, poll.registry(), Token(0), Duration::ZERO, &mut random);
        assert_eq!(subscriber.silent(SILENCE - Duration::from_secs(1)), None);
        assert!(subscriber.silent(SILENCE).is_some());
        assert!(!subscriber.checked_other_end(false, SILENCE));
        assert!(!subscriber.checked_other_end(true, SILENCE));
        assert_eq!(subscriber.silent(SILENCE), None);
        assert!(!subscriber.checked_other_end(false, 2 * SILENCE));
        assert!(subscriber.checked_other_end(false, 2 * SILENCE));
        assert_eq!(subscriber.next_due(), Some(2 * SILENCE));
        subscriber.stall_until(9 * SILENCE);
        subscriber.connect_if_due(address, poll.registry(), Token(1), 2 * SILENCE, &mut random);
        assert_eq!(subscriber.silent(4 * SILENCE), None);
    }
}
