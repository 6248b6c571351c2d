//! HTTP/2 (RFC 9113): many streams on a connection, by the crates `h2` and `tokio`.
//!
//! A task for each stream translates: the request comes as HTTP/1.1 text and the answer goes on as such, so
//! the rest of a worker does not know the difference. All tasks run on the worker's own thread, within
//! [`Transport::turn`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::TlsConnector;

use super::Worker;
use super::transport::{Opening, Transport, Turn};
use crate::client::{Control, Plan};
use crate::clock;
use crate::failure::Outcome;
use crate::sys;
use crate::tls::Tls;

/// What the server may send ahead on a stream, and on a connection: more than it has to say at a time.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes that may wait for the worker, the events themselves counted with what they hold. When there are
/// more, no stream of this worker is read until the worker has taken some, and their windows fill.
const MOST_WAITING: usize = 16 << 20;
/// Bytes of the header fields of an answer.
const HEAD_BYTES: u32 = 64 << 10;
/// Events that are worked off before commands and times have their turn.
const BATCH: usize = 4_096;

/// What happened to a stream.
enum Happened {
    /// The connection is there.
    Connected,
    Bytes(Vec<u8>),
    NotOpened(io::Error),
    Ended(String),
}

/// What a task has to tell: for the place of a subscriber, and which of its streams.
struct Event {
    index: usize,
    generation: u32,
    happened: Happened,
}

impl Event {
    /// What it takes while it waits.
    fn bytes(&self) -> usize {
        let own = match &self.happened {
            Happened::Bytes(bytes) => bytes.capacity(),
            _ => 0,
        };
        size_of::<Event>() + own
    }
}

/// What tasks and the transport share.
#[derive(Default)]
struct Shared {
    events: RefCell<VecDeque<Event>>,
    /// Tells the transport that there is an event.
    news: Notify,
    /// Bytes of `events`.
    waiting: Cell<usize>,
    /// Tells streams that wait that the worker has taken events.
    room: Notify,
    connections: Cell<u64>,
}

impl Shared {
    /// For what a stream says once or twice in its life.
    fn put(&self, event: Event) {
        self.waiting.set(self.waiting.get() + event.bytes());
        self.events.borrow_mut().push_back(event);
        self.news.notify_one();
    }

    /// The next events, in their order.
    fn take(&self, most: usize) -> Vec<Event> {
        let mut events = self.events.borrow_mut();
        let count = events.len().min(most);
        let taken: Vec<Event> = events.drain(..count).collect();
        let bytes: usize = taken.iter().map(Event::bytes).sum();
        self.waiting.set(self.waiting.get() - bytes);
        self.room.notify_waiters();
        taken
    }

    /// For what a server sends as often as it wants: waits until there is room for it.
    async fn put_with_room(&self, event: Event) {
        while self.waiting.get() >= MOST_WAITING {
            self.room.notified().await;
        }
        self.put(event);
    }
}

/// A connection that streams share, once one of them has made it.
type Shares = Rc<Mutex<Option<SendRequest<Bytes>>>>;

/// A stream, from the worker's side.
struct Stream {
    task: JoinHandle<()>,
    request: Option<oneshot::Sender<Vec<u8>>>,
    pause: Rc<Pause>,
}

/// Whether a stream is not read.
#[derive(Default)]
struct Pause {
    stalled: Cell<bool>,
    goes_on: Notify,
}

/// The connections of a worker, and the streams on them.
pub(super) struct Http2 {
    // Before the runtime, without which none of them can be dropped.
    waker: AsyncFd<OwnedFd>,
    streams: Vec<Option<Stream>>,
    tasks: LocalSet,
    runtime: Runtime,
    shared: Rc<Shared>,
    /// By address and number.
    connections: HashMap<(SocketAddr, usize), Shares>,
}

/// Is to be called before the descriptor tables of the threads part ways: where tokio is built to handle
/// signals, all its runtimes share a descriptor that the first one opens, and each table needs it.
pub(in crate::client) fn prepare() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map(drop)
}

impl Transport for Http2 {
    fn new(_: usize, _: &Plan, control: &Control, subscribers: usize) -> io::Result<Http2> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let waker = {
            let _inside = runtime.enter();
            sys::watch(control.waker.again()?)?
        };
        Ok(Http2 {
            waker,
            streams: std::iter::repeat_with(|| None).take(subscribers).collect(),
            tasks: LocalSet::new(),
            runtime,
            shared: Rc::default(),
            connections: HashMap::new(),
        })
    }

    fn turn(worker: &mut Worker<'_, Http2>, patience: Option<Duration>) -> io::Result<Turn> {
        let Http2 { waker, tasks, runtime, shared, .. } = &mut worker.transport;
        let told = tasks.block_on(runtime, async {
            // The tasks have a turn of their own, whatever waits here.
            tokio::task::yield_now().await;
            let waits = async {
                match patience {
                    _ if !shared.events.borrow().is_empty() => {}
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = waker.readable() => {
                    ready?.clear_ready();
                    Ok::<bool, io::Error>(true)
                }
                () = shared.news.notified() => Ok(false),
                () = waits => Ok(false),
            }
        })?;
        if told {
            worker.control.waker.clear();
        }
        let woken = clock::now();
        let events = worker.transport.shared.take(BATCH);
        let busy = !events.is_empty();
        for event in events {
            if worker.subscribers[event.index].generation == event.generation
                && let Err(failure) = worker.happened(event.index, event.happened)
            {
                worker.common.fail(failure);
            }
        }
        Ok(Turn { woken, busy, told })
    }

    fn connect(&mut self, plan: &Plan, opening: &Opening) -> io::Result<bool> {
        let http2 = plan.http2.as_ref().ok_or_else(|| io::Error::other("HTTP/2 was not asked for"))?;
        let key = (opening.target, opening.index / http2.streams_per_connection);
        let connection = self.connections.entry(key).or_default().clone();
        let (request, asked) = oneshot::channel();
        let pause = Rc::new(Pause::default());
        let task = StreamTask {
            shared: self.shared.clone(),
            connection,
            pause: pause.clone(),
            target: opening.target,
            source: plan
                .sources
                .of(plan.own_number(opening.number))
                .map(|source| SocketAddrV4::new(source, 0)),
            tls: plan.subscriptions.tls_name(opening.number).map(|name| (http2.tls.clone(), name.clone())),
            index: opening.index,
            generation: opening.generation,
        };
        let task = self.tasks.spawn_local(task.run(asked));
        self.streams[opening.index] = Some(Stream { task, request: Some(request), pause });
        Ok(false)
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> io::Result<usize> {
        if let Some(request) = self.streams[index].as_mut().and_then(|stream| stream.request.take()) {
            // A task that has ended has said so.
            let _ = request.send(bytes.to_vec());
        }
        Ok(bytes.len())
    }

    fn close(&mut self, index: usize) {
        if let Some(stream) = self.streams[index].take() {
            // What it holds of the connection is dropped with it, which resets its stream.
            stream.task.abort();
        }
    }

    fn has(&self, index: usize) -> bool {
        self.streams[index].is_some()
    }

    fn stall(&mut self, index: usize) {
        if let Some(stream) = &self.streams[index] {
            stream.pause.stalled.set(true);
        }
    }

    fn read_again(worker: &mut Worker<'_, Http2>, index: usize) -> io::Result<u64> {
        if let Some(stream) = &worker.transport.streams[index] {
            stream.pause.stalled.set(false);
            stream.pause.goes_on.notify_one();
        }
        // What waits is within `h2`, which does not say how much it is.
        Ok(0)
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![("HTTP/2 connections were made for the streams", self.shared.connections.get())]
    }
}

impl Worker<'_, Http2> {
    fn happened(&mut self, index: usize, happened: Happened) -> Outcome<()> {
        match happened {
            Happened::Connected => self.ask(index),
            Happened::Bytes(bytes) => self.received(index, &bytes),
            Happened::NotOpened(error) => self.not_opened(index, &error),
            Happened::Ended(why) => self.ended(index, &why),
        }
    }
}

/// What a stream needs to live.
struct StreamTask {
    shared: Rc<Shared>,
    connection: Shares,
    pause: Rc<Pause>,
    target: SocketAddr,
    source: Option<SocketAddrV4>,
    tls: Option<(Tls, ServerName<'static>)>,
    index: usize,
    generation: u32,
}

fn failed(error: &h2::Error) -> io::Error {
    io::Error::other(format!("HTTP/2: {error}"))
}

impl StreamTask {
    fn tell(&self, happened: Happened) {
        self.shared.put(Event { index: self.index, generation: self.generation, happened });
    }

    async fn tell_bytes(&self, bytes: Vec<u8>) {
        let (index, generation, happened) = (self.index, self.generation, Happened::Bytes(bytes));
        self.shared.put_with_room(Event { index, generation, happened }).await;
    }

    async fn run(self, asked: oneshot::Receiver<Vec<u8>>) {
        let mut connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) => return self.tell(Happened::NotOpened(error)),
        };
        self.tell(Happened::Connected);
        let Ok(text) = asked.await else { return };
        let why = match self.live(&mut connection, &text).await {
            Ok(()) => "its body is over".to_owned(),
            Err(error) => error.to_string(),
        };
        self.tell(Happened::Ended(why));
    }

    /// The connection that it shares: made where there is none, or none any more.
    async fn connected(&self) -> io::Result<SendRequest<Bytes>> {
        let mut shares = self.connection.lock().await;
        if let Some(connection) = &*shares
            && let Ok(ready) = connection.clone().ready().await
        {
            return Ok(ready);
        }
        let socket = if self.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(source.into())?;
        }
        let socket = socket.connect(self.target).await?;
        socket.set_nodelay(true)?;
        let made = match &self.tls {
            None => handshake(socket).await?,
            Some((tls, name)) => {
                let connector = TlsConnector::from(tls.config());
                let stream = connector.connect(name.clone(), socket).await.map_err(|error| {
                    io::Error::other(format!(
                        "TLS: {error}; --ca names certificates to trust, and --insecure trusts every one"
                    ))
                })?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(io::Error::other("the server does not offer HTTP/2 (ALPN `h2`)"));
                }
                handshake(stream).await?
            }
        };
        self.shared.connections.set(self.shared.connections.get() + 1);
        *shares = Some(made.clone());
        drop(shares);
        made.ready().await.map_err(|error| failed(&error))
    }

    /// Asks, and passes on what comes, as HTTP/1.1 in chunks: an end that is none is told from one that is.
    async fn live(&self, connection: &mut SendRequest<Bytes>, text: &[u8]) -> io::Result<()> {
        let (request, body) = translated(text, self.tls.is_some())?;
        let (answer, mut sender) =
            connection.send_request(request, body.is_empty()).map_err(|error| failed(&error))?;
        if !body.is_empty() {
            sender.send_data(body, true).map_err(|error| failed(&error))?;
        }
        let answer = answer.await.map_err(|error| failed(&error))?;
        let mut head = format!("HTTP/1.1 {} -\r\nTransfer-Encoding: chunked\r\n", answer.status().as_u16());
        for (name, value) in answer.headers() {
            head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
        }
        head.push_str("\r\n");
        self.tell_bytes(head.into_bytes()).await;
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| failed(&error))?;
            while self.pause.stalled.get() {
                self.pause.goes_on.notified().await;
            }
            if !data.is_empty() {
                let size = format!("{:x}\r\n", data.len());
                self.tell_bytes([size.as_bytes(), &data, b"\r\n"].concat()).await;
                body.flow_control().release_capacity(data.len()).map_err(|error| failed(&error))?;
            }
        }
        self.tell(Happened::Bytes(b"0\r\n\r\n".to_vec()));
        Ok(())
    }
}

/// Begins HTTP/2 on a connection.
async fn handshake<S>(stream: S) -> io::Result<SendRequest<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES)
        .enable_push(false)
        .handshake::<S, Bytes>(stream)
        .await
        .map_err(|error| failed(&error))?;
    // Its end is told to the streams on it.
    tokio::task::spawn_local(connection);
    Ok(requests)
}

/// The request of a text of HTTP/1.1, and its body.
fn translated(text: &[u8], is_secure: bool) -> io::Result<(http::Request<()>, Bytes)> {
    let wrong = |what: String| io::Error::other(format!("the request cannot be sent over HTTP/2: {what}"));
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(text) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(wrong("it is not whole".to_owned())),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let host = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let host = host.map_or(String::new(), |header| String::from_utf8_lossy(header.value).into_owned());
    let scheme = if is_secure { "https" } else { "http" };
    let uri = format!("{scheme}://{host}{}", parsed.path.unwrap_or("/"));
    let mut request = http::Request::builder().method(parsed.method.unwrap_or("GET")).uri(uri);
    for header in parsed.headers.iter() {
        // RFC 9113, section 8.2.2: what belongs to a connection of HTTP/1.1 is not sent.
        let left_out = ["host", "connection", "content-length", "transfer-encoding", "te", "upgrade"];
        if !left_out.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            request = request.header(header.name, header.value);
        }
    }
    let request = request.body(()).map_err(|error| wrong(error.to_string()))?;
    Ok((request, Bytes::copy_from_slice(&text[length..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_worker_has_a_bound() {
        let shared = Rc::new(Shared::default());
        let event = |happened| Event { index: 0, generation: 0, happened };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let put = Rc::new(Cell::new(0));
            let (from, count) = (shared.clone(), put.clone());
            let reader = tokio::task::spawn_local(async move {
                for _ in 0..64 {
                    let bytes = vec![0; (1 << 20) - size_of::<Event>()];
                    from.put_with_room(event(Happened::Bytes(bytes))).await;
                    count.set(count.get() + 1);
                }
                from.put(event(Happened::Connected));
            });
            for round in 1..=4 {
                while !reader.is_finished() && shared.waiting.get() < MOST_WAITING {
                    tokio::task::yield_now().await;
                }
                tokio::task::yield_now().await;
                // What is said once needs no room.
                let last = if round == 4 { size_of::<Event>() } else { 0 };
                assert_eq!((shared.waiting.get(), put.get()), (MOST_WAITING + last, 16 * round));
                shared.take(16);
            }
            reader.await.unwrap();
            assert_eq!((shared.waiting.get(), shared.take(BATCH).len()), (size_of::<Event>(), 1));

            // Of a server that sends single bytes, the events are most of what waits.
            let from = shared.clone();
            let single = tokio::task::spawn_local(async move {
                for _ in 0..MOST_WAITING {
                    from.put_with_room(event(Happened::Bytes(vec![0]))).await;
                }
            });
            while shared.waiting.get() < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            assert!(!single.is_finished());
            assert_eq!(shared.events.borrow().len(), MOST_WAITING.div_ceil(size_of::<Event>() + 1));
            single.abort();
        });
    }

    #[test]
    fn a_request_is_translated() {
        let text =
            b"POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nAccept: text/event-stream\r\nContent-Length: 3\r\n\r\nxyz";
        let (request, body) = translated(text, true).unwrap();
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri().to_string(), "https://h:1/a?b=c");
        assert_eq!(request.headers().len(), 1);
        assert_eq!(&body[..], b"xyz");
        assert!(translated(b"GET / HTTP/1.1\r\nHos", false).is_err());
    }
}
