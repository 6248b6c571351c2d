//! A thread that reads a socket, so that tasks of any executor, and threads without one, can wait for its
//! bytes.

use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fanfare_io::Clock;

/// How long the thread reads before it looks whether it is waited for. Two such times are the bound of a
/// wait.
const SILENCE: Duration = Duration::from_secs(5);

/// How much is received ahead.
const BUFFER_BYTES: usize = 1 << 20;

/// The bytes that come from a socket.
pub(super) struct Incoming {
    socket: UnixStream,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Received>,
    has_room: Condvar,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// Why no more bytes come.
    end: Option<io::Result<()>>,
    waiting: Option<Waker>,
    /// It was waited for the last time that nothing came.
    was_silent: bool,
    is_given_up: bool,
    is_closed: bool,
}

impl Incoming {
    pub(super) fn read(socket: UnixStream) -> io::Result<Incoming> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let (shared, reading) = (Arc::<Shared>::default(), socket.try_clone()?);
        let (incoming, thread) = (Arc::clone(&shared), thread::Builder::new());
        thread.name("fanfare-testing".to_owned()).spawn(move || incoming.read(reading))?;
        Ok(Incoming { socket, shared })
    }

    /// Waits for bytes, and appends them; `false` at the end of the connection.
    pub(super) async fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        {
            let mut received = self.shared.lock();
            (received.was_silent, received.is_given_up) = (false, false);
        }
        poll_fn(|context| self.poll_more(context, bytes)).await
    }

    fn poll_more(&mut self, context: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        let mut received = self.shared.lock();
        if !received.bytes.is_empty() {
            bytes.append(&mut received.bytes);
            self.shared.has_room.notify_one();
            return Poll::Ready(Ok(true));
        }
        if let Some(end) = &mut received.end {
            return Poll::Ready(std::mem::replace(end, Ok(())).map(|()| false));
        }
        if received.is_given_up {
            return Poll::Ready(Err(timed_out()));
        }
        received.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.has_room.notify_one();
        // The thread finds the end. An error says that the other end has closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Shared {
    /// Every change of what is behind the lock is whole.
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn read(&self, mut socket: UnixStream) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let result = socket.read(&mut buffer);
            let mut received = self.lock();
            let waiting = match result {
                Ok(count @ 1..) => {
                    received.bytes.extend_from_slice(&buffer[..count]);
                    received.waiting.take()
                }
                Ok(_) => {
                    received.end = Some(Ok(()));
                    received.waiting.take()
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => received.silence(),
                Err(error) => {
                    received.end = Some(Err(error));
                    received.waiting.take()
                }
            };
            let has_ended = received.end.is_some();
            drop(received);
            if let Some(waker) = waiting {
                waker.wake();
            }
            if has_ended {
                return;
            }
            let is_full =
                |received: &mut Received| received.bytes.len() >= BUFFER_BYTES && !received.is_closed;
            // Bytes that are not taken stay in the socket, as those of a client that does not read.
            drop(self.has_room.wait_while(self.lock(), is_full));
        }
    }
}

impl Received {
    /// Nothing has come for a time.
    fn silence(&mut self) -> Option<Waker> {
        let was_silent = std::mem::replace(&mut self.was_silent, self.waiting.is_some());
        if was_silent && self.waiting.is_some() {
            self.is_given_up = true;
            return self.waiting.take();
        }
        None
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nothing came from the server in time")
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until the future is ready, and for at most this time.
pub(super) fn block_on<F: Future>(future: F, bound: Duration) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let clock = Clock::start();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        match bound.checked_sub(clock.now()) {
            Some(left) if !left.is_zero() => thread::park_timeout(left),
            _ => return Err(timed_out()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that a test which waits for a missing event fails instead of hanging.
    #[test]
    fn two_times_of_silence_end_a_wait() {
        let mut received = Received::default();
        assert!(received.silence().is_none() && received.silence().is_none(), "it is not waited for");
        received.waiting = Some(Waker::noop().clone());
        assert!(received.silence().is_none(), "the wait has begun within this time");
        assert!(!received.is_given_up);
        assert!(received.silence().is_some() && received.is_given_up);
    }

    #[test]
    fn a_wait_that_was_given_up_is_not_the_next_one() {
        let (mut other_end, socket) = UnixStream::pair().unwrap();
        let mut incoming = Incoming::read(socket).unwrap();
        let mut bytes = Vec::new();
        assert!(block_on(incoming.more(&mut bytes), Duration::ZERO).is_err());
        incoming.shared.lock().is_given_up = true;
        io::Write::write_all(&mut other_end, b"late").unwrap();
        assert!(block_on(incoming.more(&mut bytes), SILENCE).unwrap().unwrap());
        assert!(b"late".starts_with(&bytes) && !bytes.is_empty());
    }

    /// A client that does not read is a slow one, and does not grow.
    #[test]
    fn what_is_received_ahead_is_bounded() {
        let (mut other_end, socket) = UnixStream::pair().unwrap();
        let mut incoming = Incoming::read(socket).unwrap();
        let total = 4 * BUFFER_BYTES;
        let writer = thread::spawn(move || io::Write::write_all(&mut other_end, &vec![b'x'; total]).unwrap());
        let mut read = 0;
        while read < total {
            let mut bytes = Vec::new();
            assert!(block_on(incoming.more(&mut bytes), SILENCE).unwrap().unwrap());
            assert!(bytes.len() < BUFFER_BYTES + 16 * 1024, "{}", bytes.len());
            read += bytes.len();
        }
        writer.join().unwrap();
        assert!(!block_on(incoming.more(&mut Vec::new()), SILENCE).unwrap().unwrap(), "the end");
    }
}
