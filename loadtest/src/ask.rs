//! Clients that ask the server something else meanwhile: each has a connection, and asks again as soon as it
//! is answered. What that does to the deliveries is the run's latency; what the askers saw is here.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::client::{Timings, record, timings};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::http::{self, Step};
use crate::report::Percentiles;
use crate::target::Url;

/// An answer that takes longer is a failed question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether an answer is still wanted.
const LOOK: Duration = Duration::from_millis(250);
/// A client whose question failed waits before the next one, so that a server that closes is not flooded.
const PAUSE: Duration = Duration::from_millis(10);
/// Each asker is a thread that does little.
const STACK_BYTES: usize = 128 << 10;

/// The clients, until they are stopped.
pub(crate) struct Askers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

/// What they saw.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Asked {
    pub(crate) clients: u64,
    pub(crate) seconds: f64,
    /// Answers by status.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// Questions whose connection failed, or ended without an answer.
    pub(crate) failed: u64,
    /// From the question to the end of its answer.
    pub(crate) latency_us: Option<Percentiles>,
}

struct Tally {
    answers: BTreeMap<u16, u64>,
    failed: u64,
    latency: Timings,
}

impl Askers {
    /// Starts so many clients that `GET` this URL.
    pub(crate) fn start(url: &str, clients: u64) -> Outcome<Askers> {
        let url = Url::parse(url).map_err(|failure| Failure::new(format!("--ask: {failure}")))?;
        if url.is_secure {
            return Err(Failure::new("--ask: only http:// is asked"));
        }
        let address = url.resolve()?;
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url.path, url.authority);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..clients {
            let (request, asks) = (request.clone(), stop.clone());
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            match thread.spawn(move || ask_on(address, request.as_bytes(), &asks)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(Failure::new(format!("--ask-clients {clients}: no thread: {error}")));
                }
            }
        }
        Ok(Askers { stop, threads })
    }

    /// Stops them when their last questions are answered.
    pub(crate) fn finish(self, seconds: f64) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = Asked { clients: self.threads.len() as u64, seconds, ..Asked::default() };
        let mut latency = timings();
        for tally in self.threads.into_iter().filter_map(|thread| thread.join().ok()) {
            asked.failed += tally.failed;
            for (status, count) in tally.answers {
                *asked.answers.entry(status).or_default() += count;
            }
            // It grows, so adding cannot fail.
            let _ = latency.add(&tally.latency);
        }
        asked.latency_us = Percentiles::of(&latency, 1e3);
        asked
    }
}

/// Asks until it is stopped.
fn ask_on(address: SocketAddr, request: &[u8], stop: &AtomicBool) -> Tally {
    let mut tally = Tally { answers: BTreeMap::new(), failed: 0, latency: timings() };
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let asked_at = clock::now();
        match ask(&mut connection, address, request, stop) {
            // The run does not need the answer any more.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => break,
            Ok(status) => {
                record(&mut tally.latency, clock::now() - asked_at);
                *tally.answers.entry(status).or_default() += 1;
            }
            Err(_) => {
                connection = None;
                tally.failed += 1;
                thread::sleep(PAUSE);
            }
        }
    }
    tally
}

/// One question and its whole answer: the status. An answer without an end, such as an event stream, is given
/// up after [`PATIENCE`].
fn ask(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &[u8],
    stop: &AtomicBool,
) -> io::Result<u16> {
    let until = clock::now() + clock::nanoseconds(PATIENCE);
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            connection.insert(stream)
        }
    };
    stream.write_all(request)?;
    let mut received = Vec::new();
    let head = loop {
        match http::parse_head(&received).map_err(broken)? {
            Some(head) if head.status >= 200 => break head,
            Some(head) => _ = received.drain(..head.length),
            None => read_more(stream, &mut received, until, stop)?,
        }
    };
    received.drain(..head.length);
    let mut framing = head.framing;
    loop {
        let mut input = received.as_slice();
        let step = framing.step(&mut input).map_err(broken)?;
        let (needs_more, is_over) = (step == Step::More, step == Step::End);
        let used = received.len() - input.len();
        received.drain(..used);
        if is_over {
            break;
        }
        if needs_more {
            match read_more(stream, &mut received, until, stop) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && framing.may_end() => break,
                result => result?,
            }
        }
    }
    if head.closes || framing == http::Framing::Close {
        *connection = None;
    }
    Ok(head.status)
}

fn read_more(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    until: u64,
    stop: &AtomicBool,
) -> io::Result<()> {
    let start = received.len();
    received.resize(start + 4096, 0);
    let read = loop {
        if stop.load(Ordering::Relaxed) {
            break Err(io::ErrorKind::Interrupted.into());
        }
        if clock::now() > until {
            break Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut received[start..]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            read => break read,
        }
    };
    received.truncate(start + read.as_ref().copied().unwrap_or(0));
    match read? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn broken(failure: Failure) -> io::Error {
    io::Error::other(failure.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    static NEVER: AtomicBool = AtomicBool::new(false);

    /// Gives each connection these answers and an end, and says when one was served.
    fn serve(answers: &'static [&'static str]) -> (SocketAddr, Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, served) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                for answer in answers {
                    if !matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).unwrap();
                }
                drop(stream);
                // The test may be over.
                let _ = tell.send(());
            }
        });
        (address, served)
    }

    #[test]
    fn answers_are_read_whole_whatever_frames_them() {
        let (address, _served) = serve(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "HTTP/1.1 503 Busy\r\n\r\nuntil the end",
        ]);
        let mut connection = None;
        let statuses =
            [(); 3].map(|()| ask(&mut connection, address, b"GET / HTTP/1.1\r\n\r\n", &NEVER).unwrap());
        assert_eq!(statuses, [200, 404, 503]);
        assert!(connection.is_none(), "the last answer ended with its connection");
    }

    /// An event stream with heartbeats held the end of the run for ever.
    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
            tell.send(()).unwrap();
            while stream.write_all(b":\n\n").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let askers = Askers::start(&format!("http://{address}/events"), 1).unwrap();
        asked.recv().unwrap();
        let asked = askers.finish(1.0);
        assert_eq!((asked.answers.len(), asked.failed), (0, 0), "{asked:?}");
    }

    #[test]
    fn what_is_no_whole_answer_is_counted_as_failed() {
        for answer in
            [&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"], &["no HTTP\r\n\r\n"], &["HTTP"]]
        {
            let (address, _served) = serve(answer);
            assert!(ask(&mut None, address, b"GET / HTTP/1.1\r\n\r\n", &NEVER).is_err(), "{answer:?}");
        }
        let (address, served) = serve(&["HTTP/1.1 204 No Content\r\n\r\n", "nothing"]);
        let askers = Askers::start(&format!("http://{address}/"), 2).unwrap();
        // One connection may be of the same client as the other.
        for _ in 0..3 {
            served.recv().unwrap();
        }
        let asked = askers.finish(1.0);
        assert_eq!(asked.clients, 2);
        assert!(asked.answers[&204] > 0 && asked.failed > 0, "{asked:?}");
        assert!(asked.latency_us.is_some());
    }
}
