//! A newcomer: a client that connects and subscribes while a fault is active. Its time from `connect` to the
//! response head is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fanfare_io::Clock;
use hdrhistogram::Histogram;
use socket2::SockRef;

use crate::http::{Head, parse_head};

/// How long a newcomer waits for its response head.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Threads of newcomers, so that one slow newcomer does not delay the next ones.
const THREADS: u32 = 4;

const REQUEST: &[u8] = b"GET /events?topic=probe HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The times of newcomers from `connect` to the response head, in microseconds.
pub(crate) struct ConnectTimes {
    histogram: Histogram<u64>,
    /// Newcomers that were not answered 200.
    pub(crate) failed: u64,
    /// Why the first of these failed.
    pub(crate) first_failure: Option<String>,
}

impl ConnectTimes {
    pub(crate) fn new() -> ConnectTimes {
        // Three significant digits, up to a minute.
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid");
        ConnectTimes { histogram, failed: 0, first_failure: None }
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn at(&self, percentile: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_percentile(percentile))
    }

    /// Starts a newcomer every `interval` until `deadline` or until `stop`. A time begins when the newcomer
    /// was due, even if it had to wait for the newcomer before it.
    pub(crate) fn measure(
        &mut self,
        address: SocketAddr,
        clock: Clock,
        deadline: Duration,
        interval: Duration,
        stop: impl Fn() -> bool + Sync,
    ) {
        let began = clock.now();
        let probe = |index: u32| {
            let mut times = ConnectTimes::new();
            let mut due = began + interval * index;
            while due < deadline && !stop() {
                if clock.now() > deadline + PATIENCE {
                    times.fail("newcomers waited so long that not all could come".to_owned());
                    break;
                }
                std::thread::sleep(due.saturating_sub(clock.now()));
                match connect(address) {
                    Ok((head, _)) if head.status == 200 => times.record(clock.now() - due),
                    Ok((head, _)) => times.fail(format!("answered {}", head.status)),
                    Err(error) => times.fail(error.to_string()),
                }
                due += interval * THREADS;
            }
            times
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|index| scope.spawn(move || probe(index))).collect();
            for thread in threads {
                match thread.join() {
                    Ok(times) => self.add(times),
                    Err(_) => self.fail("a thread of newcomers panicked".to_owned()),
                }
            }
        });
    }

    fn add(&mut self, other: ConnectTimes) {
        self.histogram += other.histogram;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.histogram.saturating_record((took.as_micros() as u64).max(1));
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(why);
    }
}

/// Connects, subscribes, and waits for the response head. The stream continues until the socket is dropped.
pub(crate) fn connect(address: SocketAddr) -> io::Result<(Head, TcpStream)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // The reset leaves no port in TIME-WAIT; there are many newcomers.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.write_all(REQUEST)?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"));
        }
        received.extend_from_slice(&buffer[..count]);
        if let Some(head) = parse_head(&received).map_err(io::Error::other)? {
            return Ok((head, stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that paused for 300 ms of each second delayed a hundred newcomers, and only the time of one
    /// of them was counted.
    #[test]
    fn newcomers_that_were_due_in_a_pause_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if number == 100 {
                    thread::sleep(Duration::from_millis(300));
                }
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            }
        });
        let (mut times, clock) = (ConnectTimes::new(), Clock::start());
        let deadline = clock.now() + Duration::from_secs(1);
        times.measure(address, clock, deadline, Duration::from_millis(3), || false);
        assert_eq!((times.failed, times.first_failure.clone()), (0, None));
        assert!(times.count() >= 300, "{} came", times.count());
        assert!(times.at(80.0) > Duration::from_millis(50), "{:?}", times.at(80.0));
    }
}
