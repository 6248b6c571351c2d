//! The clients' end: many connections, read by one thread with a descriptor table of its own, so that
//! the limit of descriptors counts for it alone and its table is not the sender's.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use fanfare_io::{affinity, sockets, table};

use crate::{Outcome, machine};

/// Connections from one source address: far fewer than it has ports.
const PER_SOURCE: usize = 4000;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

const EVENTS: usize = 512;

/// What becomes of what is read.
pub trait Sink: Send + 'static {
    /// Whether the bytes are wanted. Where not, the kernel drops them without copying, and
    /// [`Sink::received`] is not called.
    const READS: bool;

    /// Bytes have come on this connection.
    fn received(&mut self, connection: usize, bytes: &[u8]);

    /// This connection has ended from the other side.
    fn ended(&mut self, connection: usize);
}

/// Only counts.
#[derive(Default)]
pub struct Discard {
    /// Connections that the other side has ended.
    pub ended: usize,
}

impl Sink for Discard {
    const READS: bool = false;

    fn received(&mut self, _: usize, _: &[u8]) {}

    fn ended(&mut self, _: usize) {
        self.ended += 1;
    }
}

/// Which connections a reader opens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many.
    pub count: usize,
    /// Where to.
    pub to: SocketAddr,
    /// Tells the source addresses of this reader from those of others: 0 to 200.
    pub group: u8,
    /// The core it stays on.
    pub core: Option<usize>,
    /// Whether it goes before others on its core.
    pub hurried: bool,
    /// What each connection sends at first; empty: nothing. `{}` stands for the connection's number.
    pub request: String,
}

/// Something to be done with the sink, by its own thread.
type Question<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that reads.
pub struct Reader<S> {
    questions: Sender<Question<S>>,
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    connected: Receiver<Result<(), String>>,
    thread: JoinHandle<Outcome<S>>,
}

impl<S: Sink> Reader<S> {
    /// Starts a thread that connects at once. Somebody must accept meanwhile.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(plan: Plan, sink: S) -> Outcome<Reader<S>> {
        let bytes = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, connected) = mpsc::channel();
        let (questions, asked) = mpsc::channel();
        let (total, stopped) = (Arc::clone(&bytes), Arc::clone(&stop));
        let thread = thread::Builder::new().name(format!("reader-{}", plan.group)).spawn(move || {
            let opened = Connections::open(&plan);
            let told = opened.as_ref().map(|_| ()).map_err(ToString::to_string);
            // Who asked may have given up.
            let _ = tell.send(told);
            opened?.read(sink, &asked, &total, &stopped)
        })?;
        Ok(Reader { questions, bytes, stop, connected, thread })
    }

    /// Waits until all connections are open.
    ///
    /// # Errors
    /// One could not be opened.
    pub fn wait_connected(&self) -> Outcome<()> {
        Ok(self.connected.recv()??)
    }

    /// Bytes read so far, on all connections.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Has the sink answer a question between two reads.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn ask<A: Send + 'static>(&self, question: impl FnOnce(&mut S) -> A + Send + 'static) -> Outcome<A> {
        let (tell, answer) = mpsc::channel();
        let ask = move |sink: &mut S| {
            // Who asked waits below.
            let _ = tell.send(question(sink));
        };
        self.questions.send(Box::new(ask)).map_err(|_| "a reader's thread has ended")?;
        Ok(answer.recv()?)
    }

    /// Ends the thread, and gives the sink back.
    ///
    /// # Errors
    /// Reading failed, or the sink has panicked.
    pub fn stop(self) -> Outcome<S> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| "a reader's thread has panicked")?
    }
}

/// The source address of a reader's connection: 127.`group + 1`.0.1 and up.
pub fn source(group: u8, connection: usize) -> IpAddr {
    let [high, low] = ((connection / PER_SOURCE) as u16 + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, group + 1, high, low))
}

/// Open connections and what watches them.
struct Connections {
    sockets: Vec<OwnedFd>,
    epoll: OwnedFd,
}

impl Connections {
    fn open(plan: &Plan) -> Outcome<Connections> {
        // SAFETY: the reader's thread uses only the descriptors that it opens below, and starts no thread.
        // Sinks count and compare; they own no descriptors.
        unsafe { table::make_private(&[], &[]) }?;
        if let Some(core) = plan.core {
            affinity::pin(core)?;
        }
        let mut sockets = Vec::with_capacity(plan.count);
        for connection in 0..plan.count {
            let opened = sockets::connect(Some(source(plan.group, connection)), plan.to);
            let explain = |error| format!("connection {connection} of {}: {error}", plan.count);
            let mut stream = TcpStream::from(opened.map_err(explain)?);
            if !plan.request.is_empty() {
                stream.write_all(plan.request.replace("{}", &connection.to_string()).as_bytes())?;
            }
            sockets.push(OwnedFd::from(stream));
        }
        // SAFETY: no pointers are involved.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        for (connection, socket) in sockets.iter().enumerate() {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: connection as u64 };
            // SAFETY: both descriptors are open, and the event outlives the call.
            let added = unsafe {
                libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event)
            };
            if added < 0 {
                return Err(io::Error::last_os_error().into());
            }
        }
        if plan.hurried {
            machine::hurry();
        }
        Ok(Connections { sockets, epoll })
    }

    fn read<S: Sink>(
        self,
        mut sink: S,
        asked: &Receiver<Question<S>>,
        total: &AtomicU64,
        stop: &AtomicBool,
    ) -> Outcome<S> {
        let mut buffer = vec![0; READ_BYTES];
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let mut bytes = 0;
        while !stop.load(Ordering::Acquire) {
            // SAFETY: the array is valid to write to for the count given.
            let ready = unsafe {
                libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as libc::c_int, 20)
            };
            for event in &events[..ready.max(0) as usize] {
                let connection = event.u64 as usize;
                let socket = self.sockets[connection].as_raw_fd();
                match receive(socket, &mut buffer, !S::READS) {
                    Ok(0) => self.forget(socket, connection, &mut sink),
                    Ok(received) => {
                        bytes += received as u64;
                        if S::READS {
                            sink.received(connection, &buffer[..received]);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => self.forget(socket, connection, &mut sink),
                }
            }
            total.store(bytes, Ordering::Release);
            for question in asked.try_iter() {
                question(&mut sink);
            }
        }
        Ok(sink)
    }

    fn forget<S: Sink>(&self, socket: RawFd, connection: usize, sink: &mut S) {
        // SAFETY: both descriptors are open; for a removal the event is not read.
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, socket, std::ptr::null_mut()) };
        sink.ended(connection);
    }
}

fn receive(socket: RawFd, buffer: &mut [u8], discard: bool) -> io::Result<usize> {
    // For TCP, MSG_TRUNC drops the bytes instead of copying them.
    let flags = libc::MSG_DONTWAIT | if discard { libc::MSG_TRUNC } else { 0 };
    // SAFETY: the buffer is valid to write to for its whole length.
    let received = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}
