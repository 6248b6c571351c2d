//! An honest newcomer: how long it takes from `connect` to the response head.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fanfare_io::Clock;
use hdrhistogram::Histogram;
use socket2::SockRef;

use crate::http::{Head, parse_head};

/// A newcomer gives up after this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET /events?topic=probe HTTP/1.1\r\nHost: torture\r\n\r\n";

/// Times of newcomers, in microseconds.
pub(crate) struct Times {
    histogram: Histogram<u64>,
    /// Those that were not answered 200.
    pub(crate) failed: u64,
    /// Why the first of them failed.
    pub(crate) first_failure: Option<String>,
}

impl Times {
    pub(crate) fn new() -> Times {
        // Three digits, up to a minute.
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid");
        Times { histogram, failed: 0, first_failure: None }
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn at(&self, percentile: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_percentile(percentile))
    }

    /// Lets newcomers come one after the other, `pause` apart, until `deadline` or until `stop`.
    pub(crate) fn measure(
        &mut self,
        address: SocketAddr,
        clock: Clock,
        deadline: Duration,
        pause: Duration,
        stop: impl Fn() -> bool,
    ) {
        while clock.now() < deadline && !stop() {
            let began = clock.now();
            match come(address) {
                Ok((head, _)) if head.status == 200 => self.record(clock.now() - began),
                Ok((head, _)) => self.fail(format!("answered {}", head.status)),
                Err(error) => self.fail(error.to_string()),
            }
            std::thread::sleep(pause);
        }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.histogram.saturating_record((took.as_micros() as u64).max(1));
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(why);
    }
}

/// Connects, asks, and waits for the head. The stream goes on for as long as the socket is kept.
pub(crate) fn come(address: SocketAddr) -> io::Result<(Head, TcpStream)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // Leaves no port in TIME-WAIT: there are many of us.
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
