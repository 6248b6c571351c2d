//! A thread per connection on std, as a good engineer would write it: small stacks, a bounded queue of shared
//! frames per subscriber, no lock held while writing, slow subscribers dropped.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::request::{ACCEPTED, HEAD, Request, frame, read};
use crate::failure::Outcome;
use crate::sys;

/// A subscriber's thread calls little; the default of 2 MiB costs address space and page tables.
const STACK_BYTES: usize = 64 * 1024;
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Descriptors of a table that are not streams.
const SPARE: u64 = 64;
/// After a refusal, so that a limit that is reached does not cost a core.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

type Frame = Arc<[u8]>;
type Subscribers = Arc<Mutex<Vec<Arc<Mailbox>>>>;

/// A subscriber's queue. The standard library's channel would spin before it sleeps, which with thousands of
/// waiting threads costs more than everything else.
#[derive(Default)]
struct Mailbox {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    /// Whether the subscriber is still there; one that is `behind` by so many frames is not.
    fn put(&self, frame: &Frame, behind: usize) -> bool {
        let mut queue = lock(&self.queue);
        queue.closed |= queue.frames.len() >= behind;
        if !queue.closed {
            queue.frames.push_back(frame.clone());
        }
        let open = !queue.closed;
        drop(queue);
        self.filled.notify_one();
        open
    }

    /// All that has queued up, after at most a heartbeat's time; `None` once it is closed.
    fn take(&self, run: &mut Vec<u8>) -> Option<()> {
        run.clear();
        let queue = lock(&self.queue);
        let empty = |queue: &mut Queue| queue.frames.is_empty() && !queue.closed;
        let (mut queue, _) =
            self.filled.wait_timeout_while(queue, HEARTBEAT, empty).unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return None;
        }
        queue.frames.drain(..).for_each(|frame| run.extend_from_slice(&frame));
        Some(())
    }
}

/// Accepts in a thread whose descriptor table holds so many connections; then the next one goes on with a
/// table of its own. The limit on descriptors is per table, and without this it would stop a server that has
/// not run out of threads. A table ends with its last connection.
pub(super) fn serve(listener: &TcpListener, queue: usize) -> Outcome<()> {
    let subscribers = Subscribers::default();
    let (limit, _) = sys::descriptor_limit();
    loop {
        std::thread::scope(|scope| {
            let turn = || accept(listener, limit.saturating_sub(SPARE), &subscribers, queue);
            if std::thread::Builder::new().spawn_scoped(scope, turn).is_err() {
                std::thread::sleep(REFUSED_PAUSE);
            }
        });
    }
}

fn accept(listener: &TcpListener, mut room: u64, subscribers: &Subscribers, queue: usize) {
    let private = sys::private_descriptor_table();
    let mut complained = false;
    while room > 0 || private.is_err() {
        let accepted = listener.accept().and_then(|(socket, _)| {
            let subscribers = subscribers.clone();
            // A connection's error ends that connection alone.
            let run = move || drop(connection(&socket, &subscribers, queue));
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run)
        });
        match accepted {
            Ok(_) => room = room.saturating_sub(1),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    eprintln!("no further stream: {error} (see `fanfare-load refusal`)");
                }
                std::thread::sleep(REFUSED_PAUSE);
            }
        }
    }
}

fn connection(socket: &TcpStream, subscribers: &Subscribers, queue: usize) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    // Small, because it is made for each subscriber; larger bodies of publishers are read past it.
    let mut reader = BufReader::with_capacity(1024, socket);
    while let Some(request) = read(&mut reader)? {
        match request {
            Request::Subscribe => {
                drop(reader);
                let mailbox = Arc::new(Mailbox::default());
                (&mut &*socket).write_all(HEAD)?;
                lock(subscribers).push(mailbox.clone());
                let result = stream(socket, &mailbox);
                lock(&mailbox.queue).closed = true;
                return result;
            }
            Request::Publish(body) => {
                let frame: Frame = frame(&body).into();
                lock(subscribers).retain(|subscriber| subscriber.put(&frame, queue));
                (&mut &*socket).write_all(ACCEPTED)?;
            }
        }
    }
    Ok(())
}

fn stream(mut socket: &TcpStream, mailbox: &Mailbox) -> std::io::Result<()> {
    let mut run = Vec::new();
    while mailbox.take(&mut run).is_some() {
        let bytes: &[u8] = if run.is_empty() { b":\n\n" } else { &run };
        socket.write_all(bytes)?;
    }
    Ok(())
}
