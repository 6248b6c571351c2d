//! A thread per connection on std, as a good engineer would write it: small stacks, a bounded queue of shared
//! frames per subscriber, no lock held while writing, slow subscribers dropped.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::request::{ACCEPTED, HEAD, Request, frame, read};
use crate::failure::{Failure, Outcome};

/// A subscriber's thread calls little; the default of 2 MiB costs address space and page tables.
const STACK_BYTES: usize = 64 * 1024;
/// Frames that a slow subscriber may be behind.
const QUEUE: usize = 64;
const HEARTBEAT: Duration = Duration::from_secs(15);

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
    /// Whether the subscriber is still there.
    fn put(&self, frame: &Frame) -> bool {
        let mut queue = lock(&self.queue);
        queue.closed |= queue.frames.len() >= QUEUE;
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

pub(super) fn serve(listener: &TcpListener) -> Outcome<()> {
    let subscribers = Subscribers::default();
    for socket in listener.incoming() {
        // A connection that ended while it waited is no reason to stop.
        let Ok(socket) = socket else { continue };
        let subscribers = subscribers.clone();
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A connection's error ends the connection, and nobody else cares.
            let _ = connection(&socket, &subscribers);
        });
        if let Err(error) = spawned {
            eprintln!("no further thread: {error} (kernel.pid_max, kernel.threads-max, vm.max_map_count)");
        }
    }
    Err(Failure::new("the listener ended"))
}

fn connection(socket: &TcpStream, subscribers: &Subscribers) -> std::io::Result<()> {
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
                lock(subscribers).retain(|subscriber| subscriber.put(&frame));
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
