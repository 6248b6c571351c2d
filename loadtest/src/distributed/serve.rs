//! Listening for controllers: a few connections may shake hands at a time, and one controller is served.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;

use super::protocol::{self, Connection, Machine, Role, Token};
use crate::clock::{self, SECOND};
use crate::failure::{Failure, Outcome};
use crate::{sample, sys};

/// Connections that have not shown the token yet; further ones are closed.
const HANDSHAKES: usize = 64;

/// Where a machine listens, and for whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct Listen {
    /// Address to listen on. The connection is not encrypted: use a private network, or loopback and ssh
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The secret that all machines of a run share, or @FILE; at least 16 bytes
    #[arg(long, value_name = "TOKEN")]
    token: String,
}

/// What this machine is.
pub(super) fn machine(cores: usize) -> Machine {
    sys::raise_descriptor_limit();
    Machine {
        commit: env!("FANFARE_LOAD_COMMIT").to_owned(),
        machine: sample::machine(),
        boot: boot(),
        cores,
        descriptors: sys::descriptor_limit().0,
    }
}

/// The same for all processes of a machine that was started once.
pub(super) fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Counts down when it goes out of scope.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lines about connections that were turned away, at most one a second, so that strangers cannot fill the
/// log.
#[derive(Default)]
struct TurnedAway {
    /// When the last line was written.
    told: Option<u64>,
    /// How many have had no line since then.
    untold: u64,
}

impl TurnedAway {
    /// The line for one more, unless the last line is too young.
    fn line(&mut self, from: SocketAddr, why: &str, now: u64) -> Option<String> {
        if self.told.is_some_and(|told| now - told < SECOND) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        let others = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            count => format!(" ({count} more since the last line)"),
        };
        Some(format!("{from} was turned away: {why}{others}"))
    }

    /// Says how many connections were turned away since the last line. There is none where that is no
    /// connection.
    fn rest(&mut self) -> Option<String> {
        match std::mem::take(&mut self.untold) {
            0 => None,
            count => Some(format!("{count} more connections were turned away")),
        }
    }
}

/// Says on standard output where it listens, and serves one controller after the other until Ctrl-C.
///
/// # Errors
/// The address cannot be listened on.
pub(super) fn serve(
    listen: &Listen,
    role: Role,
    cores: usize,
    handler: impl Fn(Connection) -> Outcome<()> + Send + Sync + 'static,
) -> Outcome<()> {
    let token = Token::new(&listen.token)?;
    let failed = |error: std::io::Error| Failure::new(format!("--listen {}: {error}", listen.listen));
    let listener = TcpListener::bind(listen.listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    println!("listening on {}", listener.local_addr().map_err(failed)?);
    let _ = std::io::stdout().flush();
    let (busy, handler) = (Arc::new(AtomicBool::new(false)), Arc::new(handler));
    let shaking = Arc::new(AtomicUsize::new(0));
    let turned_away = Arc::new(Mutex::new(TurnedAway::default()));
    let turn_away = |turned_away: &Mutex<TurnedAway>, from: SocketAddr, why: &str| {
        let mut turned_away = turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = turned_away.line(from, why, clock::now()) {
            eprintln!("fanfare-load: {line}");
        }
    };
    while !sys::interrupted() {
        let Ok((socket, from)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        if shaking.fetch_add(1, Ordering::SeqCst) >= HANDSHAKES {
            shaking.fetch_sub(1, Ordering::SeqCst);
            turn_away(&turned_away, from, "too many others have not shown their token yet");
            continue;
        }
        let (busy, handler, token, pending) = (busy.clone(), handler.clone(), token.clone(), shaking.clone());
        let turned_away = turned_away.clone();
        let spawned = std::thread::Builder::new().name("controller".to_owned()).spawn(move || {
            let counted = Counted(&pending);
            let mut taken = false;
            let take = || {
                taken = !busy.swap(true, Ordering::SeqCst);
                (!taken).then(|| "it serves another controller; one run at a time".to_owned())
            };
            let accepted = protocol::accept(socket, role, &token, machine(cores), take);
            drop(counted);
            match accepted {
                Err(error) => {
                    turn_away(&turned_away, from, &error.to_string());
                    if taken {
                        busy.store(false, Ordering::SeqCst);
                    }
                }
                Ok(None) => turn_away(&turned_away, from, "another controller is served"),
                Ok(Some(connection)) => {
                    eprintln!("fanfare-load: serving the controller {from}");
                    let result =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(connection)));
                    match result {
                        Ok(Ok(())) => eprintln!("fanfare-load: the controller {from} is served"),
                        Ok(Err(failure)) => eprintln!("fanfare-load: the controller {from}: {failure}"),
                        Err(_) => {
                            eprintln!("fanfare-load: a thread panicked; this is a bug of the load test")
                        }
                    }
                    busy.store(false, Ordering::SeqCst);
                }
            }
        });
        if spawned.is_err() {
            shaking.fetch_sub(1, Ordering::SeqCst);
        }
    }
    if let Some(line) = turned_away.lock().unwrap_or_else(PoisonError::into_inner).rest() {
        eprintln!("fanfare-load: {line}");
    }
    // A run under way sees Ctrl-C, too, and closes its streams.
    while busy.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn strangers_get_one_line_a_second_and_are_counted() {
        let mut turned_away = TurnedAway::default();
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        let start = 7 * SECOND;
        let line = turned_away.line(from, "no token", start).unwrap();
        assert_eq!(line, "127.0.0.1:9 was turned away: no token");
        for millisecond in 0..1000 {
            let now = start + millisecond * MILLISECOND;
            assert_eq!(turned_away.line(from, "no token", now), None);
        }
        let line = turned_away.line(from, "late", start + SECOND).unwrap();
        assert_eq!(line, "127.0.0.1:9 was turned away: late (1000 more since the last line)");
        let line = turned_away.line(from, "late", start + 2 * SECOND).unwrap();
        assert!(!line.contains("more"), "{line}");
        assert_eq!(turned_away.line(from, "late", start + 2 * SECOND), None);
        assert_eq!(turned_away.rest().unwrap(), "1 more connections were turned away");
        assert_eq!(turned_away.rest(), None);
    }
}
