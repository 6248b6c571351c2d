//! A server of JWK Sets on a loopback address. Each test chooses how badly the server behaves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the endpoint does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Answers 200 with this body.
    Set(String),
    /// Answers with these bytes, whatever they are, and closes.
    Bytes(Vec<u8>),
    /// Answers a good beginning, then one byte at a time, without an end.
    Trickle,
    /// Sends a body without an end, as fast as the client takes it.
    Flood,
    /// Sends header fields without an end, as fast as the client takes them.
    FloodOfFields,
    /// Takes the request and never answers.
    Silence,
}

pub(crate) struct Endpoint {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicUsize>,
}

impl Endpoint {
    pub(crate) fn start(behaviour: Behaviour) -> Endpoint {
        Endpoint::start_with(behaviour, |socket| Box::new(socket))
    }

    /// `wrap` makes a stream of a socket: with TLS, say.
    pub(crate) fn start_with(
        behaviour: Behaviour,
        wrap: impl Fn(TcpStream) -> Box<dyn ReadWrite> + Send + Sync + 'static,
    ) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let requests = Arc::new(AtomicUsize::new(0));
        let (told, counted, wrap) = (behaviour.clone(), requests.clone(), Arc::new(wrap));
        // The thread waits for connections until the process of the test ends.
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let behaviour = told.lock().unwrap().clone();
                counted.fetch_add(1, Ordering::SeqCst);
                let wrap = wrap.clone();
                thread::spawn(move || serve(&mut *wrap(socket), &behaviour));
            }
        });
        Endpoint { address, behaviour, requests }
    }

    pub(crate) fn becomes(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

pub(crate) trait ReadWrite: Read + Write {}
impl<S: Read + Write> ReadWrite for S {}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    format!("{head}{body}").into_bytes()
}

/// Errors end the connection: the client may go at any time.
fn serve(stream: &mut dyn ReadWrite, behaviour: &Behaviour) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(len) => request.extend_from_slice(&piece[..len]),
        }
    }
    match behaviour {
        Behaviour::Set(body) => send(stream, &ok(body)),
        Behaviour::Bytes(bytes) => send(stream, bytes),
        Behaviour::Trickle => {
            flood(
                stream,
                b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
                b" ",
                Duration::from_millis(5),
            );
        }
        Behaviour::Flood => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n";
            flood(stream, head, &[b' '; 65536], Duration::ZERO);
        }
        Behaviour::FloodOfFields => {
            flood(stream, b"HTTP/1.1 200 OK\r\n", &b"a: b\r\n".repeat(1000), Duration::ZERO)
        }
        Behaviour::Silence => {
            let _ = stream.read(&mut piece);
        }
    }
}

/// Sends until the client is gone.
fn flood(stream: &mut dyn ReadWrite, first: &[u8], again: &[u8], pause: Duration) {
    let mut sent = stream.write_all(first);
    while sent.is_ok() {
        thread::sleep(pause);
        sent = stream.write_all(again).and_then(|()| stream.flush());
    }
}

fn send(stream: &mut dyn ReadWrite, bytes: &[u8]) {
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
}
