//! A server of events that misbehaves exactly as it is told, a thread per connection on std.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a fake server that fails is a failed test")]

pub(crate) mod http2;
pub(crate) mod tls;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the body of a stream is framed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Framing {
    Chunked,
    Close,
    Length,
}

/// What is sent to a subscriber in place of an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Send {
    /// An event by its number, the one that is due or another.
    Event(usize),
    /// An event with its data cut to so many bytes.
    Cut(usize, usize),
    /// An event with one byte of its data, at this place, replaced by a question mark.
    Changed(usize, usize),
    /// An event by its number, with an id and a name of its own.
    Named(usize, &'static str, &'static str),
    /// Several events in one, with the id of the last one.
    Joined(Vec<usize>),
    /// An event by its number with another number and another time in it, and a checksum that is right.
    Forged(usize, u64, u64),
    /// The end of the stream, without the end of its body.
    Hangup,
}

type Mischief = dyn Fn(usize, usize) -> Vec<Send> + Sync + std::marker::Send;

pub(crate) struct Behaviour {
    pub(crate) framing: Framing,
    /// Line end of the stream.
    pub(crate) newline: &'static str,
    /// Bytes per write; 0: an event in one.
    pub(crate) drip: usize,
    /// For subscriber and event: what is sent.
    pub(crate) mischief: Box<Mischief>,
    /// For an event: how long everything waits before it is sent.
    pub(crate) delay: Box<dyn Fn(usize) -> Duration + Sync + std::marker::Send>,
    /// Events have ids.
    pub(crate) ids: bool,
    /// Events have ids, and who names one gets what came after it.
    pub(crate) replays: bool,
    /// What a subscriber is told to wait before it comes back, in milliseconds.
    pub(crate) retry_ms: u64,
    /// Between two comments to everybody; zero: there are none.
    pub(crate) heartbeat: Duration,
    /// What is sent before the response head.
    pub(crate) hints: &'static str,
    /// This is sent to each subscriber again and again, without an end.
    pub(crate) endless: Option<&'static str>,
    /// What each stream has, each piece after a time; then it ends.
    pub(crate) script: Option<Vec<(Duration, &'static str)>>,
    /// Publishes are taken and never answered.
    pub(crate) mute: bool,
    /// Publishes are answered with this, and with the second part again and again without an end.
    pub(crate) answers_without_end: Option<(&'static str, &'static str)>,
    /// Streams are compressed.
    pub(crate) gzip: bool,
    /// With `gzip` each piece is a member of its own (RFC 1952, section 2.2).
    pub(crate) members: bool,
    /// Answer to a subscription in place of a stream.
    pub(crate) answer: Option<&'static str>,
    /// After `answer` the connection stays open.
    pub(crate) lingers: bool,
    /// Everybody gets every topic's events.
    pub(crate) misroutes: bool,
    /// Status line of a publish.
    pub(crate) publish_status: &'static str,
    /// Keeps no connection for another publish, and does not say so.
    pub(crate) impatient: bool,
    /// The number of the event at which the server dies.
    pub(crate) dies_at: usize,
    /// So many streams at most are open; others are refused with 503.
    pub(crate) most_streams: usize,
    /// So many subscriptions, the first ones, are refused with 503.
    pub(crate) refuses_first: usize,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            framing: Framing::Chunked,
            newline: "\n",
            drip: 0,
            mischief: Box::new(|_, event| vec![Send::Event(event)]),
            delay: Box::new(|_| Duration::ZERO),
            ids: false,
            replays: false,
            retry_ms: 50,
            heartbeat: Duration::ZERO,
            hints: "",
            endless: None,
            script: None,
            mute: false,
            answers_without_end: None,
            gzip: false,
            members: false,
            answer: None,
            lingers: false,
            misroutes: false,
            publish_status: "200 OK",
            impatient: false,
            dies_at: usize::MAX,
            most_streams: usize::MAX,
            refuses_first: 0,
        }
    }
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    inside: Arc<Inside>,
}

/// The path that was asked for, and who asked.
type Stream = (String, Body);

/// Where the body of a stream goes.
struct Body {
    socket: TcpStream,
    gzip: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

struct Inside {
    behaviour: Behaviour,
    address: SocketAddr,
    /// Data of all events, and the streams by their numbers; one that ended is None.
    state: Mutex<(Vec<String>, Vec<Option<Stream>>)>,
    joined: AtomicUsize,
    dead: AtomicBool,
    /// Subscriptions as they came: heads and bodies.
    subscriptions: Mutex<Vec<String>>,
}

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Fake {
        Fake::start_at("127.0.0.1", behaviour)
    }

    /// At another address of this machine.
    pub(crate) fn start_at(host: &str, behaviour: Behaviour) -> Fake {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside {
            behaviour,
            address,
            state: Mutex::default(),
            joined: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            subscriptions: Mutex::default(),
        });
        let fake = Fake { address, inside: inside.clone() };
        if !inside.behaviour.heartbeat.is_zero() {
            let inside = inside.clone();
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(inside.behaviour.heartbeat);
                    let mut state = inside.state.lock().unwrap();
                    for (_, socket) in state.1.iter_mut().flatten() {
                        inside.write(socket, ":\n\n");
                    }
                }
            });
        }
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if inside.dead.load(Ordering::SeqCst) {
                    return;
                }
                let inside = inside.clone();
                std::thread::spawn(move || inside.serve(socket.unwrap()));
            }
        });
        fake
    }

    /// Events that were published to it.
    pub(crate) fn published(&self) -> usize {
        self.inside.state.lock().unwrap().0.len()
    }

    /// Subscriptions as they came: heads and bodies.
    pub(crate) fn subscriptions(&self) -> Vec<String> {
        self.inside.subscriptions.lock().unwrap().clone()
    }

    /// Subscriptions that it was asked for.
    pub(crate) fn subscribed(&self) -> usize {
        self.inside.joined.load(Ordering::SeqCst)
    }

    /// Runs the load test against it; `arguments` start with the scenario.
    pub(crate) fn judge(&self, arguments: &str) -> Verdict {
        judge(&format!("{arguments} --server plain --url http://{}", self.address))
    }
}

/// What the load test said.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) code: i32,
    pub(crate) complaint: String,
    pub(crate) json: serde_json::Value,
}

impl Verdict {
    pub(crate) fn count(&self, key: &str) -> u64 {
        self.json[key].as_u64().unwrap_or_else(|| panic!("no count `{key}` in {}", self.json))
    }

    /// Lost, doubled, out of order, damaged.
    pub(crate) fn faults(&self) -> [u64; 4] {
        ["lost", "doubled", "out_of_order", "damaged"].map(|key| self.count(key))
    }
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fanfare-load"))
}

pub(crate) fn scratch(name: &str) -> std::path::PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::SeqCst);
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}-{name}", std::process::id()))
}

pub(crate) fn judge(arguments: &str) -> Verdict {
    let file = scratch("report.json");
    let output =
        command().args(arguments.split_whitespace()).args(["-q", "--json"]).arg(&file).output().unwrap();
    verdict(&output, &file)
}

pub(crate) fn verdict(output: &Output, file: &std::path::Path) -> Verdict {
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| "null".to_owned());
    let _ = std::fs::remove_file(file);
    Verdict {
        code: output.status.code().unwrap_or(-1),
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        json: serde_json::from_str(&text).unwrap(),
    }
}

/// Whether the other end of a stream has gone.
fn is_closed(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let gone = !matches!(socket.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
    gone
}

/// The data of an event with another number and another time, and a checksum that is right: `~fl`, run,
/// topic, number, time, length, checksum and filler, with a point between two of them.
fn forged(data: &str, sequence: u64, intended: u64) -> String {
    let parts: Vec<&str> = data.trim_end_matches('!').split('.').collect();
    let made = |length: usize, checksum: &str| {
        format!("{}.{}.{sequence}.{intended}.{length}.{checksum}.{}!", parts[0], parts[1], parts[6])
    };
    // The length has as many digits as the length of what is made.
    let length = made(made(100, "00000000").len(), "00000000").len();
    let unchecked = made(length, "");
    let checksum = format!("{:08x}", crc32fast::hash(unchecked.as_bytes()));
    made(length, &checksum)
}

impl Inside {
    fn serve(&self, socket: TcpStream) {
        socket.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        loop {
            let (mut first, mut length, mut last_id) = (String::new(), 0usize, None);
            let (mut head, mut subscribes) = (String::new(), false);
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                head.push_str(&line);
                let Some((name, value)) = line.trim_end().split_once(':') else { break };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap(),
                    "accept" => subscribes = value.contains("text/event-stream"),
                    "last-event-id" => last_id = value.trim().parse::<usize>().ok(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            if first.starts_with("GET") || subscribes {
                let text = format!("{first}{head}{}", String::from_utf8_lossy(&body));
                self.subscriptions.lock().unwrap().push(text);
                return self.subscribe(socket, path, last_id);
            }
            let accepted = self.behaviour.publish_status.starts_with('2');
            if accepted {
                self.publish(&path, String::from_utf8(body).unwrap());
            }
            if self.dead.load(Ordering::SeqCst) {
                return;
            }
            if self.behaviour.mute {
                continue;
            }
            if let Some((first, again)) = self.behaviour.answers_without_end {
                let _ = (&socket).write_all(first.as_bytes());
                while (&socket).write_all(again.as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return;
            }
            let status = self.behaviour.publish_status;
            let _ = write!(&socket, "HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nreason");
            if self.behaviour.impatient {
                return;
            }
        }
    }

    fn subscribe(&self, mut socket: TcpStream, path: String, last_id: Option<usize>) {
        if let Some(answer) = self.behaviour.answer {
            let _ = socket.write_all(answer.as_bytes());
            if self.behaviour.lingers {
                std::thread::sleep(Duration::from_secs(5));
            }
            return;
        }
        let framing = match self.behaviour.framing {
            Framing::Chunked => "Transfer-Encoding: chunked\r\n",
            Framing::Close => "Connection: close\r\n",
            Framing::Length => "Content-Length: 1000000000\r\n",
        };
        let hints = self.behaviour.hints;
        let encoding = if self.behaviour.gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let head = format!(
            "{hints}HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n{encoding}{framing}\r\n"
        );
        if self.subscriptions.lock().unwrap().len() <= self.behaviour.refuses_first {
            let _ = socket.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let mut state = self.state.lock().unwrap();
        if self.behaviour.most_streams < usize::MAX {
            state.1.iter_mut().for_each(|slot| _ = slot.take_if(|(_, body)| is_closed(&body.socket)));
            if state.1.iter().flatten().count() >= self.behaviour.most_streams {
                let _ = socket.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
                return;
            }
        }
        let number = self.joined.fetch_add(1, Ordering::SeqCst);
        if socket.write_all(head.as_bytes()).is_err() {
            return;
        }
        let encoder = || flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut socket = Body { socket, gzip: self.behaviour.gzip.then(encoder) };
        let (newline, retry) = (self.behaviour.newline, self.behaviour.retry_ms);
        self.write(&mut socket, &format!(":hello{newline}retry: {retry}{newline}"));
        if let Some(text) = self.behaviour.endless {
            drop(state);
            while socket.socket.write_all(text.as_bytes()).is_ok() {}
            return;
        }
        if let Some(script) = &self.behaviour.script {
            drop(state);
            for (after, text) in script {
                std::thread::sleep(*after);
                self.write(&mut socket, text);
            }
            if framing.starts_with("Transfer") {
                let _ = socket.socket.write_all(b"0\r\n\r\n");
            }
            return;
        }
        if let (true, Some(last_id)) = (self.behaviour.replays, last_id) {
            for event in last_id + 1..state.0.len() {
                let frame = self.frame(event, &state.0[event]);
                self.write(&mut socket, &frame);
            }
        }
        state.1.resize_with(number + 1, || None);
        state.1[number] = Some((path, socket));
    }

    fn frame(&self, event: usize, data: &str) -> String {
        match self.behaviour.replays || self.behaviour.ids {
            true => self.named_frame(&format!("id: {event}"), data),
            false => self.named_frame("", data),
        }
    }

    fn named_frame(&self, fields: &str, data: &str) -> String {
        let newline = self.behaviour.newline;
        let fields: String = fields.lines().map(|field| format!("{field}{newline}")).collect();
        // The lines of the data, as the standard wants them.
        let data: String = data.split('\n').map(|line| format!("data: {line}{newline}")).collect();
        format!("{fields}{data}{newline}")
    }

    fn write(&self, body: &mut Body, text: &str) {
        let text = match &mut body.gzip {
            None => text.as_bytes().to_vec(),
            Some(_) if self.behaviour.members => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(text.as_bytes()).unwrap();
                gzip.finish().unwrap()
            }
            Some(gzip) => {
                gzip.write_all(text.as_bytes()).and_then(|()| gzip.flush()).unwrap();
                std::mem::take(gzip.get_mut())
            }
        };
        let wire = match self.behaviour.framing {
            Framing::Chunked => [format!("{:x}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat(),
            _ => text,
        };
        let piece = if self.behaviour.drip == 0 { wire.len() } else { self.behaviour.drip };
        for bytes in wire.chunks(piece) {
            // A subscriber that is gone gets nothing; the load test leaves at the end.
            let _ = body.socket.write_all(bytes);
            if self.behaviour.drip > 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn publish(&self, path: &str, data: String) {
        let mut state = self.state.lock().unwrap();
        let event = state.0.len();
        state.0.push(data);
        if event == self.behaviour.dies_at {
            self.dead.store(true, Ordering::SeqCst);
            state.1.clear();
            // Wakes the listener, which then closes.
            let _ = TcpStream::connect(self.address);
            return;
        }
        std::thread::sleep((self.behaviour.delay)(event));
        let (events, streams) = &mut *state;
        for (number, slot) in streams.iter_mut().enumerate() {
            let Some((asked, socket)) = slot else { continue };
            // A stream may have several topics: `/events/a,b`.
            let (base, names) = asked.rsplit_once('/').unwrap();
            let wanted = names.split(',').any(|name| path.strip_prefix(base) == Some(&format!("/{name}")));
            if !wanted && !self.behaviour.misroutes {
                continue;
            }
            let mut hangs_up = false;
            for send in (self.behaviour.mischief)(number, event) {
                match send {
                    Send::Event(event) => self.write(socket, &self.frame(event, &events[event])),
                    Send::Cut(event, length) => {
                        self.write(socket, &self.frame(event, &events[event][..length]))
                    }
                    Send::Changed(event, at) => {
                        let mut data = events[event].clone();
                        data.replace_range(at..=at, "?");
                        self.write(socket, &self.frame(event, &data));
                    }
                    Send::Named(event, id, name) => {
                        let fields = format!("id: {id}\nevent: {name}");
                        self.write(socket, &self.named_frame(&fields, &events[event]));
                    }
                    Send::Joined(numbers) => {
                        let data: Vec<&str> = numbers.iter().map(|&event| events[event].as_str()).collect();
                        let id = format!("id: {}", numbers.last().unwrap());
                        self.write(socket, &self.named_frame(&id, &data.join("\n")));
                    }
                    Send::Forged(event, sequence, intended) => {
                        let data = forged(&events[event], sequence, intended);
                        self.write(socket, &self.frame(event, &data));
                    }
                    Send::Hangup => hangs_up = true,
                }
            }
            if hangs_up {
                *slot = None;
            }
        }
    }
}
