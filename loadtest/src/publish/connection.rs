//! A keep-alive HTTP connection to publish over: it can have several requests under way (pipelining), and it
//! takes any answer but a 2xx as the end.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::publisher::Tally;
use crate::client::record;
use crate::clock;
use crate::failure::{Failure, Outcome, excerpt};
use crate::http::{self, Step};
use crate::sys;
use crate::target::Template;
use crate::tls::{Blocking, Tls};

/// Between two looks at whether the run is over while a server takes or gives nothing.
const LOOK: Duration = Duration::from_millis(250);

/// Whether a connection on which nothing is under way is still good. Servers close one that was idle for
/// long, and some say why before.
fn is_kept(stream: &mut Blocking) -> bool {
    match stream {
        Blocking::Plain(socket) => {
            let read = sys::receive(socket.as_raw_fd(), &mut [0]);
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        }
        Blocking::Secure(stream) => is_kept_with_tls(&mut stream.conn, &mut stream.sock).unwrap_or(false),
    }
}

/// Under TLS there may be a ticket to come back with, which is no sign of an end.
fn is_kept_with_tls(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<bool> {
    socket.set_nonblocking(true)?;
    let is_kept = loop {
        match tls.read_tls(socket) {
            Ok(0) => break false,
            Ok(_) => {
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                if state.peer_has_closed() || state.plaintext_bytes_to_read() > 0 {
                    break false;
                }
            }
            Err(error) => break error.kind() == io::ErrorKind::WouldBlock,
        }
    };
    socket.set_nonblocking(false)?;
    Ok(is_kept)
}

/// When a patience that begins now is over. The least is one look, so that no patience is some.
fn end_of(patience: Duration) -> u64 {
    clock::now() + clock::nanoseconds(patience.max(LOOK))
}

/// An error where the run is over, or the time is up.
fn go_on(stop: &AtomicBool, until: u64) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) || sys::interrupted() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    if clock::now() > until {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// Tries until something was done, a time is up, or the run is over: Ctrl-C is not to wait for a server that
/// stalls.
fn patiently(
    stop: &AtomicBool,
    until: u64,
    mut attempt: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                go_on(stop, until)?;
            }
            result => return result,
        }
    }
}

pub(crate) struct Connection {
    address: SocketAddr,
    /// With TLS: with what, and the name that the server's certificate has to have.
    tls: Option<(Tls, ServerName<'static>)>,
    stream: Option<Blocking>,
    received: Vec<u8>,
    /// When each request that has no answer yet was sent.
    under_way: VecDeque<u64>,
    /// Set when the answer is not wanted any more.
    stop: Arc<AtomicBool>,
    /// How long an answer may take.
    patience: Duration,
}

impl Connection {
    /// To an address, for what a template asks; `tls` is for those that ask with TLS.
    pub(crate) fn new(
        address: SocketAddr,
        template: &Template,
        tls: &Tls,
        patience: Duration,
        stop: Arc<AtomicBool>,
    ) -> Outcome<Connection> {
        let (received, under_way) = (Vec::new(), VecDeque::new());
        let tls = template.tls_name()?.map(|name| (tls.clone(), name));
        Ok(Connection { address, tls, stream: None, received, under_way, stop, patience })
    }

    /// Requests that have no answer yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Sends a request. Connects first where that is needed.
    pub(crate) fn send(&mut self, request: &[u8]) -> Outcome<()> {
        if self.under_way.is_empty() && self.stream.as_mut().is_some_and(|stream| !is_kept(stream)) {
            self.stream = None;
        }
        for attempt in 0.. {
            let fresh = self.stream.is_none();
            let stop = self.stop.clone();
            let patience = self.patience;
            let stream = self.connected()?;
            let until = end_of(patience);
            let mut left = request;
            let result = loop {
                match patiently(&stop, until, || stream.write(left)) {
                    Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => left = &left[written..],
                    Err(error) => break Err(error),
                }
                if left.is_empty() {
                    break patiently(&stop, until, || stream.flush().map(|()| 0)).map(drop);
                }
            };
            match result {
                Ok(()) => break,
                // A kept-alive connection may have been closed since; once is no sign of anything.
                Err(_) if !fresh && attempt == 0 && self.under_way.is_empty() => self.stream = None,
                Err(error) => return Err(Failure::new(format!("a publish could not be sent: {error}"))),
            }
        }
        self.under_way.push_back(clock::now());
        Ok(())
    }

    fn connected(&mut self) -> Outcome<&mut Blocking> {
        if self.stream.is_none() {
            let failed =
                |error| Failure::new(format!("the publisher cannot connect to {}: {error}", self.address));
            let stream =
                TcpStream::connect_timeout(&self.address, self.patience.max(LOOK)).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            stream.set_read_timeout(Some(LOOK)).map_err(failed)?;
            stream.set_write_timeout(Some(LOOK)).map_err(failed)?;
            self.received.clear();
            self.stream = Some(match &self.tls {
                None => Blocking::Plain(stream),
                Some((tls, name)) => {
                    Blocking::Secure(Box::new(StreamOwned::new(tls.connection(name)?, stream)))
                }
            });
        }
        self.stream.as_mut().ok_or_else(|| Failure::new("the publisher has no connection"))
    }

    /// Waits for the answer to the oldest request. All of it has to come within the patience: a server that
    /// sends a byte of it now and then, or one after the other that is none, does not hold the publisher for
    /// ever.
    pub(crate) fn answer(&mut self, tally: &mut Tally) -> Outcome<()> {
        /// Of a body, for a person.
        const BODY_BYTES: usize = 200;
        let Some(sent) = self.under_way.pop_front() else { return Ok(()) };
        let until = end_of(self.patience);
        let head = loop {
            match http::parse_head(&self.received)
                .map_err(|failure| Failure::new(format!("the answer to a publish: {failure}")))?
            {
                Some(head) if head.status >= 200 => break head,
                Some(head) => _ = self.received.drain(..head.length),
                None if self.read(until)? > 0 => {}
                None => {
                    self.stream = None;
                    let text = "the server closed the publisher's connection without an answer: did it die?";
                    return Err(Failure::new(text));
                }
            }
        };
        self.received.drain(..head.length);
        let mut framing = head.framing;
        let mut body = Vec::new();
        loop {
            let mut input = self.received.as_slice();
            let step = framing.step(&mut input)?;
            let more = step == Step::More;
            let ended = step == Step::End;
            if let Step::Body(bytes) = step {
                body.extend_from_slice(&bytes[..bytes.len().min(BODY_BYTES - body.len())]);
            }
            let used = self.received.len() - input.len();
            self.received.drain(..used);
            if ended || (more && self.read(until)? == 0) {
                break;
            }
        }
        if head.closes || framing == http::Framing::Close {
            self.stream = None;
        }
        if !(200..300).contains(&head.status) {
            let what = if body.is_empty() { String::new() } else { format!(": {}", excerpt(&body)) };
            return Err(Failure::new(format!("a publish was refused with status {}{what}", head.status)));
        }
        record(&mut tally.answer, clock::now() - sent);
        Ok(())
    }

    fn read(&mut self, until: u64) -> Outcome<usize> {
        let stream = self
            .stream
            .as_mut()
            .ok_or_else(|| Failure::new("the server closed the publisher's connection"))?;
        let start = self.received.len();
        self.received.resize(start + 16 * 1024, 0);
        let read = go_on(&self.stop, until)
            .and_then(|()| patiently(&self.stop, until, || stream.read(&mut self.received[start..])));
        self.received.truncate(start + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(length) => Ok(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(Failure::new("interrupted while a publish had no answer"))
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Failure::new(format!(
                "a publish had no answer for {} s: raise --patience if the server needs longer",
                self.patience.as_secs_f64()
            ))),
            Err(error) => Err(Failure::new(format!("the publisher's connection broke: {error}"))),
        }
    }
}
