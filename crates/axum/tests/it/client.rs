//! A client that reads strictly what a server sends.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::{Decoded, Decoder};
use fanfare_testkit::chunks::ChunkReader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// So that a test whose bytes do not come fails instead of hanging. Shorter than the interval of heartbeats.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    /// What was received and not taken yet.
    received: Vec<u8>,
}

/// A response head.
pub(crate) struct Head(pub(crate) String);

/// A stream of events behind its head.
pub(crate) struct Events {
    client: Client,
    chunks: Option<ChunkReader>,
    decoder: Decoder,
    text: Vec<u8>,
    pub(crate) seen: Vec<Seen>,
}

/// An event as a browser dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) id: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Client {
        Client { socket: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    /// Connects, and sends a request.
    pub(crate) async fn with(address: SocketAddr, request: &str) -> Client {
        let mut client = Client::connect(address).await;
        client.send(request).await;
        client
    }

    /// Sends a head, given without its last line ends.
    pub(crate) async fn send(&mut self, request: &str) {
        self.send_bytes(format!("{}\r\n\r\n", request.replace('\n', "\r\n")).as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Reads some more; `false` at the end.
    async fn read(&mut self) -> bool {
        let reading = self.socket.read_buf(&mut self.received);
        let count = timeout(PATIENCE, reading).await.unwrap_or_else(|_| {
            panic!("nothing came behind {:?}", String::from_utf8_lossy(&self.received));
        });
        count.unwrap_or(0) > 0
    }

    pub(crate) async fn head(&mut self) -> Head {
        loop {
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                return Head(String::from_utf8(head).unwrap());
            }
            let text = || String::from_utf8_lossy(&self.received).into_owned();
            let before = text();
            assert!(self.read().await, "the connection ended behind {before:?}");
        }
    }

    /// A whole answer with a `Content-Length`.
    pub(crate) async fn answer(&mut self) -> (Head, String) {
        let head = self.head().await;
        let length: usize = head.field("content-length").expect("a length").parse().unwrap();
        while self.received.len() < length {
            assert!(self.read().await, "the connection ended inside of an answer");
        }
        let body: Vec<u8> = self.received.drain(..length).collect();
        (head, String::from_utf8(body).unwrap())
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.received)
    }

    /// The head of a stream, and its events.
    pub(crate) async fn stream(mut self) -> (Head, Events) {
        let head = self.head().await;
        assert!(
            head.0.starts_with("HTTP/1.1 200 OK\r\n") || head.0.starts_with("HTTP/1.0 200 OK\r\n"),
            "{}",
            head.0
        );
        assert_eq!(head.field("content-type").as_deref(), Some("text/event-stream"));
        assert_eq!(head.field("content-length"), None);
        assert!(!head.0.to_lowercase().contains("fanfare-subscription"), "{}", head.0);
        let chunked = head.field("transfer-encoding").is_some();
        let chunks = chunked.then(ChunkReader::default);
        (
            head,
            Events {
                client: self,
                chunks,
                decoder: Decoder::new(1 << 20),
                text: Vec::new(),
                seen: Vec::new(),
            },
        )
    }
}

impl Head {
    pub(crate) fn status(&self) -> &str {
        &self.0[9..12]
    }

    /// The value of the only field with this name.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let fields = self.0.lines().skip(1).filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice in {}", self.0);
        value.map(str::to_owned)
    }
}

impl Events {
    /// Reads some more of the stream; `false` at its end.
    async fn read(&mut self) -> bool {
        if self.client.received.is_empty() && !self.client.read().await {
            return false;
        }
        let bytes = std::mem::take(&mut self.client.received);
        let mut body = Vec::new();
        match &mut self.chunks {
            Some(chunks) => chunks.feed(&bytes, &mut body).unwrap(),
            None => body = bytes,
        }
        self.text.extend_from_slice(&body);
        let seen = &mut self.seen;
        self.decoder
            .feed(&body, &mut |decoded| {
                if let Decoded::Event { kind, data, last_event_id } = decoded {
                    let (kind, data, id) = (kind.to_owned(), data.to_owned(), last_event_id.to_owned());
                    seen.push(Seen { kind, data, id });
                }
            })
            .unwrap();
        true
    }

    /// Waits until there are so many events.
    pub(crate) async fn wait_for(&mut self, count: usize) -> &[Seen] {
        while self.seen.len() < count {
            assert!(self.read().await, "the stream ended behind {:?}", self.seen);
        }
        &self.seen
    }

    /// Waits for the opening, behind which nothing that is published is missed.
    pub(crate) async fn open(&mut self) {
        while !self.text.windows(6).any(|six| six == b"retry:") {
            assert!(self.read().await, "the stream ended before it began");
        }
    }

    /// Reads to the end, and says whether it is one of the stream, too.
    pub(crate) async fn ends_whole(mut self) -> bool {
        while self.read().await {}
        self.chunks.is_none_or(|chunks| chunks.place() == fanfare_testkit::chunks::Place::End)
    }

    pub(crate) fn data(&self) -> Vec<&str> {
        self.seen.iter().map(|seen| seen.data.as_str()).collect()
    }

    pub(crate) fn last_id(&self) -> String {
        self.decoder.last_event_id().to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.clone()).unwrap()
    }
}
