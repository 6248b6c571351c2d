//! An HTTP endpoint that the server asks, on a loopback address. Each test chooses how badly it behaves.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What the endpoint does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An answer with this status, these fields and this body. The connection stays.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// These bytes, whatever they are, and the end.
    Bytes(Vec<u8>),
    /// An answer, then the end of the connection, which it does not announce.
    Last(u16, String),
    /// A good beginning, then one byte at a time, without an end.
    Trickle,
    /// A body without an end, as fast as it is taken.
    Flood,
    /// Fields without an end, as fast as they are taken.
    FloodOfFields,
    /// Nothing, while the client waits.
    Silence,
    /// The end, without an answer.
    Close,
    /// Nothing until [`Endpoint::release`], then what is decided there.
    Hold,
}

pub(crate) fn answer(status: u16) -> Reply {
    Reply::Answer(status, Vec::new(), String::new())
}

pub(crate) fn json(body: &serde_json::Value) -> Reply {
    Reply::Answer(200, vec![("Content-Type", "application/json".to_owned())], body.to_string())
}

type Decide = Box<dyn Fn(&str) -> Reply + Send + Sync>;

struct Shared {
    decide: Mutex<Decide>,
    /// The heads of the requests, in the order in which they came.
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    /// Connections that wait in [`Reply::Silence`] or [`Reply::Hold`], or are flooded.
    busy: AtomicUsize,
    released: (Mutex<Option<Reply>>, Condvar),
}

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Endpoint {
    pub(crate) fn start(decide: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Endpoint {
        Endpoint::start_at("127.0.0.1:0".parse().expect("an address"), decide)
    }

    pub(crate) fn start_at(
        address: SocketAddr,
        decide: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Endpoint {
        let listener = super::eventually("the address is free", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            decide: Mutex::new(Box::new(decide)),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            released: (Mutex::new(None), Condvar::new()),
        });
        let its = Arc::clone(&shared);
        // The thread waits for connections until the process of the test ends.
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                its.connections.fetch_add(1, Ordering::SeqCst);
                let its = Arc::clone(&its);
                thread::spawn(move || serve(socket, &its));
            }
        });
        Endpoint { address, shared }
    }

    /// With the same answer to everything.
    pub(crate) fn with(reply: Reply) -> Endpoint {
        Endpoint::start(move |_| reply.clone())
    }

    pub(crate) fn becomes(&self, reply: Reply) {
        self.decides(move |_| reply.clone());
    }

    pub(crate) fn decides(&self, decide: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.shared.decide.lock().expect("no panic holds it") = Box::new(decide);
    }

    /// Answers what is held, and what will be.
    pub(crate) fn release(&self, reply: Reply) {
        *self.shared.released.0.lock().expect("no panic holds it") = Some(reply);
        self.shared.released.1.notify_all();
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no panic holds it").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections get no answer at the moment.
    pub(crate) fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/authorize?from=fanfare", self.address)
    }
}

/// Errors end the connection: the client may go at any time.
fn serve(mut stream: TcpStream, shared: &Shared) {
    let patience = Some(Duration::from_secs(30));
    if stream.set_write_timeout(patience).and_then(|()| stream.set_read_timeout(patience)).is_err() {
        return;
    }
    loop {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => request.push(byte[0]),
                _ => return,
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        shared.requests.lock().expect("no panic holds it").push(request.clone());
        let reply = (shared.decide.lock().expect("no panic holds it"))(&request);
        let reply = match reply {
            Reply::Hold => {
                shared.busy.fetch_add(1, Ordering::SeqCst);
                let released = shared.released.0.lock().expect("no panic holds it");
                let released = shared.released.1.wait_while(released, |reply| reply.is_none());
                let reply = released.expect("no panic holds it").clone().expect("it is released");
                shared.busy.fetch_sub(1, Ordering::SeqCst);
                reply
            }
            reply => reply,
        };
        if !answer_once(&mut stream, &reply, shared) {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Whether the connection goes on.
fn answer_once(stream: &mut TcpStream, reply: &Reply, shared: &Shared) -> bool {
    let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    match reply {
        Reply::Answer(status, fields, body) => send(&whole(*status, fields, body)),
        Reply::Last(status, body) => {
            send(&whole(*status, &[], body));
            false
        }
        Reply::Bytes(bytes) => {
            send(bytes);
            false
        }
        Reply::Close => false,
        Reply::Trickle => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n";
            flood(stream, head, b" ", Duration::from_millis(5), shared)
        }
        Reply::Flood => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n";
            flood(stream, head, &[b' '; 65536], Duration::ZERO, shared)
        }
        Reply::FloodOfFields => {
            let fields = b"a: b\r\n".repeat(1000);
            flood(stream, b"HTTP/1.1 200 OK\r\n", &fields, Duration::ZERO, shared)
        }
        Reply::Silence | Reply::Hold => {
            shared.busy.fetch_add(1, Ordering::SeqCst);
            // It ends when the client closes.
            let _ = stream.read(&mut [0]);
            shared.busy.fetch_sub(1, Ordering::SeqCst);
            false
        }
    }
}

pub(crate) fn whole(status: u16, fields: &[(&'static str, String)], body: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Reply\r\n");
    if status != 204 {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// Sends until the client is gone.
fn flood(stream: &mut TcpStream, first: &[u8], again: &[u8], pause: Duration, shared: &Shared) -> bool {
    shared.busy.fetch_add(1, Ordering::SeqCst);
    let mut sent = stream.write_all(first);
    while sent.is_ok() {
        thread::sleep(pause);
        sent = stream.write_all(again);
    }
    shared.busy.fetch_sub(1, Ordering::SeqCst);
    false
}
