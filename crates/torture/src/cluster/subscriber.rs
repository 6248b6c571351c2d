//! One subscriber behind a load balancer: it reads from one node, and where that ends it comes back to
//! another one with its last event id.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare::{Decoded, Decoder};
use fanfare_io::Clock;
use fanfare_testkit::chunks::ChunkReader;

use crate::cluster::check::{Entry, Log};
use crate::cluster::records::topics;
use crate::event;
use crate::http;

/// The longest event that a subscriber accepts, in bytes.
const EVENT_BYTES: usize = 1 << 20;

/// How long a read waits before the subscriber looks whether it is to stop.
const TURN: Duration = Duration::from_millis(50);

/// How long it waits for a connection and for a response head before it goes to another node, as a load
/// balancer does.
const HEAD_TIME: Duration = Duration::from_secs(3);

/// Four heartbeats. After such a silence it goes to another node.
const SILENCE: Duration = Duration::from_secs(8);

/// The wait before a reconnect.
const RETRY: Duration = Duration::from_millis(50);

/// How many bytes a slow subscriber reads at a time, and its pause after that.
const SLOW_BYTES: usize = 1 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(30);

/// A subscriber on a thread of its own.
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<SocketAddr>,
    mask: u32,
    clock: Clock,
    state: Mutex<State>,
    stop: AtomicBool,
    slow: AtomicBool,
}

/// What a subscriber has seen so far.
struct State {
    entries: Vec<Entry>,
    /// The topics whose marker has come in this round.
    marked: u32,
    /// The node to which it is connected or connects.
    node: usize,
    is_streaming: bool,
    last_event_id: String,
    resumed_after: Option<usize>,
    /// It is asked to go to this node.
    goes_to: Option<usize>,
}

impl Subscriber {
    /// Starts a subscriber of these topics at a node. With an event it resumes behind its id.
    pub(super) fn start(
        nodes: &[SocketAddr],
        node: usize,
        mask: u32,
        after: Option<(usize, String)>,
        clock: Clock,
    ) -> Result<Subscriber, String> {
        let (resumed_after, last_event_id) = after.unzip();
        let shared = Arc::new(Shared {
            nodes: nodes.to_vec(),
            mask,
            clock,
            state: Mutex::new(State {
                entries: Vec::new(),
                marked: 0,
                node,
                is_streaming: false,
                last_event_id: last_event_id.unwrap_or_default(),
                resumed_after,
                goes_to: None,
            }),
            stop: AtomicBool::new(false),
            slow: AtomicBool::new(false),
        });
        let reader = Arc::clone(&shared);
        let thread = thread::Builder::new().name("subscriber".to_owned()).stack_size(256 << 10);
        let thread = thread.spawn(move || reader.run()).map_err(|error| error.to_string())?;
        Ok(Subscriber { shared, thread: Some(thread) })
    }

    pub(super) fn mask(&self) -> u32 {
        self.shared.mask
    }

    /// The node to which it is connected or connects.
    pub(super) fn node(&self) -> usize {
        self.shared.state().node
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.shared.state().is_streaming
    }

    /// Whether the markers of all its topics have come.
    pub(super) fn is_settled(&self) -> bool {
        self.shared.state().marked == self.shared.mask
    }

    /// Makes it leave its node for this one, unless it is there.
    pub(super) fn go_to(&self, node: usize) {
        let mut state = self.shared.state();
        if state.node != node {
            state.goes_to = Some(node);
        }
    }

    /// Whether it reads from this node.
    pub(super) fn is_at(&self, node: usize) -> bool {
        let state = self.shared.state();
        state.node == node && state.goes_to.is_none() && state.is_streaming
    }

    /// Makes it read slowly, or as fast as it can.
    pub(super) fn set_slow(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::Relaxed);
    }

    /// The newest event of this round, with its id.
    pub(super) fn newest(&self) -> Option<(usize, String)> {
        let state = self.shared.state();
        state.entries.iter().rev().find_map(|entry| match entry {
            Entry::Event { key, id, .. } => Some((*key, id.clone())),
            _ => None,
        })
    }

    /// Takes the log of the round.
    pub(super) fn take_log(&self) -> Log {
        let mut state = self.shared.state();
        state.marked = 0;
        let entries = std::mem::take(&mut state.entries);
        Log { mask: self.shared.mask, entries, resumed_after: state.resumed_after.take() }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("a subscriber's thread panicked");
        }
    }
}

/// Why a connection is given up.
enum End {
    /// The subscriber goes to another node.
    Move,
    /// The same, with something that no server may do.
    Damage(String),
    /// It was asked to go to this node.
    Leave(usize),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(&self) {
        let mut random = fastrand::Rng::new();
        while !self.stopped() {
            let end = self.connection();
            let mut state = self.state();
            let was_streaming = std::mem::take(&mut state.is_streaming);
            state.node = match end {
                End::Leave(node) => node,
                End::Move | End::Damage(_) => (state.node + 1) % self.nodes.len(),
            };
            if let End::Damage(text) = end {
                state.entries.push(Entry::Damage(text));
            } else if was_streaming && !matches!(end, End::Leave(_)) {
                state.entries.push(Entry::Ended);
            }
            drop(state);
            thread::sleep(RETRY.mul_f64(1.0 + random.f64()));
        }
    }

    /// One connection, from its beginning to its end.
    fn connection(&self) -> End {
        let (address, last_event_id) = {
            let state = self.state();
            (self.nodes[state.node], state.last_event_id.clone())
        };
        let Ok(mut stream) = TcpStream::connect_timeout(&address, HEAD_TIME) else { return End::Move };
        let sent = stream
            .set_read_timeout(Some(TURN))
            .and_then(|()| stream.write_all(self.request(&last_event_id).as_bytes()));
        if sent.is_err() {
            return End::Move;
        }
        let mut buffer = vec![0; 64 << 10];
        let mut head = Vec::new();
        let mut body: Option<(ChunkReader, Decoder)> = None;
        let mut heard_at = self.clock.now();
        loop {
            if self.stopped() {
                // A subscriber that is dropped has no use for the rest.
                self.state().is_streaming = false;
                return End::Move;
            }
            if let Some(node) = self.state().goes_to.take() {
                return End::Leave(node);
            }
            let slow = self.slow.load(Ordering::Relaxed);
            if slow {
                thread::sleep(SLOW_PAUSE);
            }
            let room = if slow { SLOW_BYTES } else { buffer.len() };
            let received = match stream.read(&mut buffer[..room]) {
                Ok(0) => return End::Move,
                Ok(count) => &buffer[..count],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    let patience = if body.is_some() { SILENCE } else { HEAD_TIME };
                    if self.clock.now() > heard_at + patience {
                        return End::Move;
                    }
                    continue;
                }
                Err(_) => return End::Move,
            };
            heard_at = self.clock.now();
            let result = match &mut body {
                Some((chunks, decoder)) => self.take(chunks, decoder, received),
                None => {
                    head.extend_from_slice(received);
                    match http::parse_head(&head) {
                        Ok(None) => Ok(()),
                        Ok(Some(parsed)) if parsed.status == 503 => return End::Move,
                        Ok(Some(parsed)) if parsed.status == 200 && parsed.chunked => {
                            let resumed = !last_event_id.is_empty();
                            let mut state = self.state();
                            state.is_streaming = true;
                            state.entries.push(Entry::Began { at: self.clock.now(), resumed });
                            drop(state);
                            let rest = head.split_off(parsed.length);
                            let (chunks, decoder) =
                                body.insert((ChunkReader::default(), Decoder::new(EVENT_BYTES)));
                            self.take(chunks, decoder, &rest)
                        }
                        Ok(Some(parsed)) => Err(format!("a subscriber was answered {parsed:?}")),
                        Err(problem) => Err(problem),
                    }
                }
            };
            if let Err(problem) = result {
                return End::Damage(problem);
            }
        }
    }

    fn request(&self, last_event_id: &str) -> String {
        let query: Vec<String> = topics(self.mask).map(|topic| format!("topic={topic}")).collect();
        let mut fields = String::new();
        if !last_event_id.is_empty() {
            let _ = write!(fields, "Last-Event-ID: {last_event_id}\r\n");
        }
        format!("GET /events?{} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n", query.join("&"))
    }

    fn take(&self, chunks: &mut ChunkReader, decoder: &mut Decoder, bytes: &[u8]) -> Result<(), String> {
        let (mut text, mut scratch) = (Vec::new(), String::new());
        chunks.feed(bytes, &mut text).map_err(|error| error.to_string())?;
        let mut state = self.state();
        let at = self.clock.now();
        let fed = decoder.feed(&text, &mut |decoded| {
            if let Decoded::Event { kind, data, last_event_id } = decoded {
                let id = last_event_id.to_owned();
                state.last_event_id.clone_from(&id);
                let entry = if kind == "fanfare.gap" {
                    Entry::Gap { at }
                } else {
                    match event::check(data, &mut scratch) {
                        Some((key, mask)) => {
                            if kind == event::MARKER {
                                state.marked |= mask & self.mask;
                            }
                            Entry::Event { key: key as usize, mask, id, at }
                        }
                        None => {
                            let start: String = data.chars().take(60).collect();
                            Entry::Damage(format!("event {id} of type {kind} is not whole: {start:?}"))
                        }
                    }
                };
                state.entries.push(entry);
            }
        });
        fed.map_err(|error| error.to_string())
    }
}
