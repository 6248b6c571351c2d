//! What the engine is measured against: a loop of `send(2)`, and a batch of io_uring sends, over the same
//! sockets and bytes. Nothing is counted, ordered or watched here, and no socket may be full.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use fanfare_io::clock::thread_cpu_time;
use fanfare_io::fd_channel::{self, SocketReceiver, SocketSender};
use fanfare_io::{affinity, table};
use io_uring::{IoUring, opcode, squeue, types};

use crate::Outcome;
use crate::engine::patiently;

/// Sends of one submission.
const SUBMISSION: usize = 1024;

/// How long a socket may take to arrive, or a thread to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the bytes go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A system call per socket.
    Loop,
    /// A system call per 1,024 sockets.
    Ring,
}

/// A thread that sends the same bytes to each of its sockets when it is told to.
pub struct Bare {
    orders: Sender<(Way, Arc<[u8]>)>,
    done: Receiver<Result<Duration, String>>,
    sockets: SocketSender,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    /// Starts the thread on a core; it waits for `count` sockets.
    ///
    /// # Errors
    /// Descriptors or threads are used up, or the thread got no descriptor table of its own.
    pub fn start(core: usize, count: usize) -> Outcome<Bare> {
        let (sockets, arriving) = fd_channel::channel()?;
        let left_behind = arriving.as_raw_fd();
        let (orders, ordered) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let thread = thread::Builder::new().name("bare".to_owned()).spawn(move || {
            if let Err(error) = serve(core, count, arriving, &ordered, &tell) {
                // Who asked may have given up.
                let _ = tell.send(Err(error.to_string()));
            }
        })?;
        let bare = Bare { orders, done, sockets, thread: Some(thread) };
        // Its first word: it has a table of its own.
        bare.wait_done()?;
        // SAFETY: the receiving end moved to the thread, which has a table of its own since `serve` has said
        // so.
        unsafe { table::close_left_behind(&[left_behind]) };
        Ok(bare)
    }

    /// Where its sockets go in.
    pub fn sockets(&self) -> &SocketSender {
        &self.sockets
    }

    /// Waits until all sockets have arrived.
    ///
    /// # Errors
    /// They did not.
    pub fn wait_ready(&self) -> Outcome<()> {
        self.wait_done().map(drop)
    }

    /// Sends to every socket, and says what CPU time that took.
    ///
    /// # Errors
    /// A socket did not take everything, or the ring was refused.
    pub fn send(&self, way: Way, bytes: &Arc<[u8]>) -> Outcome<Duration> {
        self.orders.send((way, Arc::clone(bytes)))?;
        // Waited for as one waits for an engine: how busy the other core is makes a difference.
        let mut took = Duration::ZERO;
        patiently("the bare thread has sent", || match self.done.try_recv() {
            Ok(done) => {
                took = done?;
                Ok(true)
            }
            Err(TryRecvError::Empty) => Ok(false),
            Err(gone) => Err(gone.into()),
        })?;
        Ok(took)
    }

    fn wait_done(&self) -> Outcome<Duration> {
        Ok(self.done.recv_timeout(PATIENCE)??)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let (orders, _) = mpsc::channel();
        drop(mem::replace(&mut self.orders, orders));
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

fn serve(
    core: usize,
    count: usize,
    arriving: SocketReceiver,
    ordered: &Receiver<(Way, Arc<[u8]>)>,
    tell: &Sender<Result<Duration, String>>,
) -> Outcome<()> {
    // SAFETY: this thread uses no descriptor but the channel, which is kept, the sockets that come from it
    // and the ring that it opens, and starts no thread.
    unsafe { table::make_private(&[arriving.as_raw_fd()], &[]) }?;
    affinity::pin(core)?;
    tell.send(Ok(Duration::ZERO))?;

    let mut sockets = Vec::with_capacity(count);
    let mut nothing = Vec::new();
    while sockets.len() < count {
        match arriving.receive(&mut nothing)? {
            Some(socket) => sockets.push(socket),
            None if !arriving.wait(Some(PATIENCE))? => return Err("sockets do not arrive".into()),
            None => {}
        }
    }
    let mut ring = open_ring();
    tell.send(Ok(Duration::ZERO))?;

    while let Ok((way, bytes)) = ordered.recv() {
        let begun = thread_cpu_time();
        let sent = match (way, &mut ring) {
            (Way::Loop, _) => send_loop(&sockets, &bytes),
            (Way::Ring, Ok(ring)) => send_ring(ring, &sockets, &bytes),
            (Way::Ring, Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let took = thread_cpu_time() - begun;
        if sent.is_err() {
            // What was not submitted still names the bytes; closing the ring discards it.
            ring = open_ring();
        }
        tell.send(sent.map(|()| took).map_err(|error| error.to_string()))?;
    }
    Ok(())
}

fn open_ring() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(SUBMISSION as u32)
}

fn send_loop(sockets: &[OwnedFd], bytes: &[u8]) -> io::Result<()> {
    for socket in sockets {
        // SAFETY: the bytes are borrowed for the whole call, which copies what it takes.
        let sent = unsafe {
            libc::send(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        if sent != bytes.len() as isize {
            return Err(not_whole());
        }
    }
    Ok(())
}

fn send_ring(ring: &mut IoUring, sockets: &[OwnedFd], bytes: &[u8]) -> io::Result<()> {
    for batch in sockets.chunks(SUBMISSION) {
        {
            let mut queue = ring.submission();
            for socket in batch {
                let socket = types::Fd(socket.as_raw_fd());
                let entry = opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32)
                    .flags(libc::MSG_WAITALL | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS);
                // SAFETY: MSG_DONTWAIT ends the send inside its submission, below, and the bytes outlive
                // that. Where the submission fails, the caller closes the ring before it lets go of the
                // bytes.
                unsafe { queue.push(&entry) }.map_err(io::Error::other)?;
            }
        }
        let submitted = ring.submit()?;
        if submitted != batch.len() || ring.completion().next().is_some() {
            return Err(not_whole());
        }
    }
    Ok(())
}

fn not_whole() -> io::Error {
    io::Error::other("a socket did not take the whole event: the clients do not keep up")
}
