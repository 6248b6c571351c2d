//! The best that hyper and tokio can do for a fan-out, as somebody who knows them well would write it: GET
//! subscribes, POST publishes its body.
//!
//! Each core has a single-threaded runtime with a listener and subscribers of its own, so that no lock and no
//! atomic counter of a task is shared between cores. A publish makes the frame once and hands it to every
//! core. There it is put into a ring, and the streams that wait are woken; each sends from its own place in
//! the ring. A stream has no queue of its own: one that is behind by more than the ring is closed.
//!
//! It is a program of its own, because an allocator is for a whole program.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use clap::Parser;
use http_body_util::{BodyExt, Either, Empty, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use tikv_jemallocator::Jemalloc;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::LocalSet;
use tokio::time::timeout;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const COMMENT: Bytes = Bytes::from_static(b":\n\n");
/// A comment is sent after so long without an event.
const HEARTBEAT: Duration = Duration::from_secs(15);
const BODY_BYTES: usize = 16 << 20;
const BACKLOG: i32 = 4096;
/// Publishes that a core may be behind; then publishers wait.
const WAITING_PUBLISHES: usize = 1024;
/// The smallest that hyper allows.
const BUFFER_BYTES: usize = 8192;

/// The `hyper` baseline of fanfare-load.
#[derive(Parser)]
#[command(args_override_self = true)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), ", hyper ", env!("VERSION_OF_HYPER"), ", tokio ", env!("VERSION_OF_TOKIO")))]
struct Options {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Events that a slow subscriber may be behind
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Runtimes, each with a thread; 0: one for each core that it may use
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
}

/// The subscribers of a core, and the last events.
struct Hub {
    ring: VecDeque<Bytes>,
    /// Number of the first event in the ring.
    first: u64,
    most: usize,
    /// A place for each stream; it has a waker while it waits.
    waiting: Slab<Option<Waker>>,
}

impl Hub {
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn push(&mut self, frame: Bytes) {
        if self.ring.len() == self.most {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(frame);
    }

    fn wake(&mut self) {
        self.waiting.iter_mut().filter_map(|(_, waker)| waker.take()).for_each(Waker::wake);
    }
}

type Shared = Rc<RefCell<Hub>>;
type Answer = Response<Either<Stream, Empty<Bytes>>>;

/// The body of a subscriber's answer.
struct Stream {
    hub: Shared,
    key: usize,
    /// Number of the event to send next.
    next: u64,
    greeted: bool,
}

impl Stream {
    fn new(hub: &Shared) -> Stream {
        let mut inner = hub.borrow_mut();
        let (key, next) = (inner.waiting.insert(None), inner.end());
        Stream { hub: hub.clone(), key, next, greeted: false }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.borrow_mut().waiting.remove(self.key);
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.greeted, true) {
            return Poll::Ready(Some(Ok(Frame::data(COMMENT))));
        }
        let mut hub = this.hub.borrow_mut();
        let Some(place) = this.next.checked_sub(hub.first) else {
            // An error ends the connection, and the client sees that the body is not whole.
            return Poll::Ready(Some(Err("the subscriber is too slow")));
        };
        if let Some(frame) = hub.ring.get(place as usize) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame.clone()))));
        }
        match hub.waiting.get_mut(this.key) {
            Some(Some(waker)) => waker.clone_from(context.waker()),
            Some(empty) => *empty = Some(context.waker().clone()),
            None => {}
        }
        Poll::Pending
    }
}

/// An event around a publish's body, made once for all subscribers.
fn encode(body: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(body.len() + 16);
    for line in body.split(|&byte| byte == b'\n') {
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(line);
        frame.push(b'\n');
    }
    frame.push(b'\n');
    frame.into()
}

async fn answer(
    request: Request<Incoming>,
    hub: &Shared,
    cores: &[Sender<Bytes>],
) -> Result<Answer, Infallible> {
    if request.method() == Method::GET {
        let mut response = Response::new(Either::Left(Stream::new(hub)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let mut response = Response::new(Either::Right(Empty::new()));
    match Limited::new(request.into_body(), BODY_BYTES).collect().await {
        Ok(body) => {
            let frame = encode(&body.to_bytes());
            for core in cores {
                // A core that has ended has no subscribers.
                let _ = core.send(frame.clone()).await;
            }
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

/// Puts what is published into the ring of a core.
async fn deliver(hub: Shared, mut published: Receiver<Bytes>) {
    loop {
        match timeout(HEARTBEAT, published.recv()).await {
            Ok(Some(frame)) => hub.borrow_mut().push(frame),
            Ok(None) => return,
            Err(_) => hub.borrow_mut().push(COMMENT),
        }
        hub.borrow_mut().wake();
    }
}

async fn serve(
    listener: std::net::TcpListener,
    hub: Shared,
    cores: Arc<[Sender<Bytes>]>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut server = http1::Builder::new();
    // One write of a buffer with the chunk's head and the frame: for events of some hundred bytes to copy
    // them costs less than a vectored write of three parts.
    server.max_buf_size(BUFFER_BYTES).writev(false).header_read_timeout(None).pipeline_flush(true);
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: an accept at once would only fail again.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Without it an event may wait for the acknowledgement of the last.
        let _ = socket.set_nodelay(true);
        let (hub, cores) = (hub.clone(), cores.clone());
        let service = service_fn(move |request| {
            let (hub, cores) = (hub.clone(), cores.clone());
            async move { answer(request, &hub, &cores).await }
        });
        let connection = server.serve_connection(TokioIo::new(socket), service);
        tokio::task::spawn_local(async move {
            // A connection's error ends the connection, and concerns nothing else.
            let _ = connection.await;
        });
    }
}

fn core(
    listener: std::net::TcpListener,
    published: Receiver<Bytes>,
    cores: Arc<[Sender<Bytes>]>,
    queue: usize,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hub = Rc::new(RefCell::new(Hub {
        ring: VecDeque::with_capacity(queue),
        first: 0,
        most: queue,
        waiting: Slab::new(),
    }));
    let local = LocalSet::new();
    local.spawn_local(deliver(hub.clone(), published));
    local.block_on(&runtime, serve(listener, hub, cores))
}

fn listen(port: u16) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn run(options: &Options) -> std::io::Result<()> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism()?.get(),
        threads => usize::from(threads),
    };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel(WAITING_PUBLISHES)).unzip();
    let cores: Arc<[Sender<Bytes>]> = senders.into();
    // All are there before the first one serves.
    let listeners = (0..threads).map(|_| listen(options.port)).collect::<Result<Vec<_>, _>>()?;
    let queue = options.queue as usize;
    let threads: Vec<_> = listeners
        .into_iter()
        .zip(receivers)
        .map(|(listener, published)| {
            let cores = cores.clone();
            std::thread::spawn(move || core(listener, published, cores, queue))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| std::io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare-load-hyper: port {} of 127.0.0.1: {error}", options.port);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gets_each_event_once_and_an_error_when_it_is_behind_by_more_than_the_ring() {
        let hub =
            Rc::new(RefCell::new(Hub { ring: VecDeque::new(), first: 0, most: 2, waiting: Slab::new() }));
        hub.borrow_mut().push("before".into());
        let mut stream = Stream::new(&hub);
        let mut poll = || Pin::new(&mut stream).poll_frame(&mut Context::from_waker(Waker::noop()));
        let data = |polled| match polled {
            Poll::Ready(Some(Ok(frame))) => Frame::into_data(frame).ok(),
            _ => None,
        };
        assert_eq!(data(poll()), Some(COMMENT));
        assert!(poll().is_pending());
        hub.borrow_mut().push("one".into());
        hub.borrow_mut().wake();
        assert_eq!(data(poll()), Some("one".into()));
        assert!(poll().is_pending());
        for frame in ["two", "three", "four"] {
            hub.borrow_mut().push(frame.into());
        }
        assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
        drop(stream);
        assert!(hub.borrow().waiting.is_empty());
    }
}
