//! A small HTTP server for scrapes while a run lasts: a thread for each of a few connections, GET only.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::report::{SoFar, exposition};

/// The longest request.
const REQUEST_BYTES: usize = 8 * 1024;
/// A client that takes longer for its request or for the answer is left.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are served at a time; further ones are closed.
const CONNECTIONS: usize = 16;
/// Between two looks for a connection.
const LOOK: Duration = Duration::from_millis(20);

/// The running server; it ends when it is dropped.
pub(crate) struct Exporter {
    so_far: Arc<Mutex<SoFar>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Listens at an address.
    pub(crate) fn start(address: SocketAddr) -> Outcome<Exporter> {
        let failed = |error| Failure::new(format!("--prometheus {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(failed)?;
        // The thread has to notice the end of the run.
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        // With port 0 nothing else says where it is.
        eprintln!("fanfare-load: metrics at http://{bound}/metrics");
        let (so_far, stop) = (Arc::new(Mutex::new(SoFar::default())), Arc::new(AtomicBool::new(false)));
        let (figures, halt) = (so_far.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("exporter".to_owned())
            .spawn(move || {
                let mut served: Vec<JoinHandle<()>> = Vec::new();
                while !halt.load(Ordering::Relaxed) {
                    let Ok((client, _)) = listener.accept() else {
                        std::thread::sleep(LOOK);
                        continue;
                    };
                    served.retain(|thread| !thread.is_finished());
                    if served.len() >= CONNECTIONS {
                        continue;
                    }
                    let figures = figures.clone();
                    let thread = std::thread::Builder::new().name("scrape".to_owned());
                    // A client that leaves early changes nothing, nor does one that asks for nothing.
                    served.extend(thread.spawn(move || _ = answer(client, &figures)));
                }
            })
            .map_err(failed)?;
        Ok(Exporter { so_far, stop, thread: Some(thread) })
    }

    /// From now on this is what scrapes see.
    pub(crate) fn show(&self, so_far: SoFar) {
        *self.so_far.lock().unwrap_or_else(PoisonError::into_inner) = so_far;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut client: TcpStream, figures: &Mutex<SoFar>) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(TIMEOUT))?;
    client.set_write_timeout(Some(TIMEOUT))?;
    let until = clock::now() + clock::nanoseconds(TIMEOUT);
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        // One that sends a byte now and then is not waited for either.
        if request.len() > REQUEST_BYTES || clock::now() > until {
            return Err(ErrorKind::InvalidData.into());
        }
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    let (status, body) = match request.as_slice() {
        line if line.starts_with(b"GET /metrics ") || line.starts_with(b"GET /metrics?") => {
            let so_far = figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ("200 OK", exposition(&so_far))
        }
        line if line.starts_with(b"GET ") => ("404 Not Found", "it is at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
