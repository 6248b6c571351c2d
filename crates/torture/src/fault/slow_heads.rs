//! Request heads that never end: thousands of sockets send a byte now and then, while newcomers are timed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::{Clock, sockets, table};
use rustix::process::setpriority_process;
use socket2::SockRef;

use crate::outcome::Outcome;
use crate::run::Run;

const THREADS: usize = 2;

/// Each head gets a byte this often.
const BYTE_EVERY: Duration = Duration::from_secs(4);

/// The time between two turns of a thread.
const TURN: Duration = Duration::from_millis(10);

/// The server closes an incomplete head after this time. Then another one takes its place.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// A head that the server closes before this time was refused for lack of room.
const REFUSED_BEFORE: Duration = Duration::from_secs(8);

/// How long after its expected end a head is checked again.
const CHECK_AGAIN: Duration = Duration::from_millis(100);

/// How many heads a thread opens before it serves those that it has.
const OPENED_AT_A_TIME: usize = 200;

/// The time between two newcomers.
const NEWCOMERS: Duration = Duration::from_millis(3);

/// How many sockets have the same source address.
const PER_SOURCE: usize = 2_000;

/// What the threads that hold slow heads share.
#[derive(Default)]
struct SlowHeads {
    over: AtomicBool,
    opened: AtomicUsize,
    /// Heads that the server had neither answered nor closed at the end.
    still_open: AtomicUsize,
    refused: AtomicUsize,
    /// Heads that were opened in the place of others that the server had closed.
    replaced: AtomicUsize,
    /// Threads that could not open a head, or got no descriptor table of their own.
    failed: AtomicUsize,
}

/// Times newcomers alternately without and with slow heads.
pub(super) fn apply(run: &mut Run) -> Result<Outcome, String> {
    let heads = run.scaled(20_000, 1_000);
    let window = run.scaled(Duration::from_secs(4), Duration::from_millis(700));
    let mut least = heads;
    let (mut opened_in, mut replaced) = (Duration::ZERO, 0);
    let mut outcome = Outcome::default();
    for _ in 0..run.scaled(2, 1) {
        measure(run, window, false);
        let shared = SlowHeads::default();
        let (address, clock, second) = (run.target.server.address, run.clock, run.random.u8(1..=60));
        thread::scope(|scope| {
            for index in 0..THREADS {
                let shared = &shared;
                scope.spawn(move || hold(address, clock, heads / THREADS, second * 2 + index as u8, shared));
            }
            let began = clock.now();
            let deadline = began + Duration::from_secs(30);
            while shared.opened.load(Ordering::Relaxed) < heads * 99 / 100
                && clock.now() < deadline
                && !run.stopped()
            {
                thread::sleep(TURN);
            }
            opened_in = opened_in.max(clock.now() - began);
            let before = shared.replaced.load(Ordering::Relaxed);
            measure(run, window, true);
            replaced += shared.replaced.load(Ordering::Relaxed) - before;
            shared.over.store(true, Ordering::Relaxed);
        });
        least = least.min(shared.still_open.into_inner());
        let refused = shared.refused.into_inner();
        if refused > 0 {
            outcome
                .violations
                .push(format!("{refused} of {heads} slow heads were refused: too few stayed open"));
        }
        if shared.failed.into_inner() > 0 {
            outcome.violations.push("slow heads could not be opened".to_owned());
        }
        // The server closes its side of the heads before the next newcomers are timed.
        run.wait(Duration::from_millis(500));
    }
    if least < heads * 95 / 100 && !run.stopped() {
        outcome.violations.push(format!("only {least} of {heads} slow heads stayed open"));
    }
    // Heads that are replaced while newcomers are timed compete with these for the server.
    outcome.note = format!(
        "at least {least} stayed open, opened within {opened_in:.1?}, {replaced} replaced while newcomers were timed"
    );
    Ok(outcome)
}

fn measure(run: &mut Run, window: Duration, with_slow_heads: bool) {
    let deadline = run.clock.now() + window;
    let stop = std::sync::Arc::clone(&run.stop);
    let times = if with_slow_heads { &mut run.with_slow_heads } else { &mut run.without_slow_heads };
    let stopped = || stop.load(Ordering::Relaxed);
    times.measure(run.target.server.address, run.clock, deadline, NEWCOMERS, stopped);
}

/// A request head that never ends.
struct Head {
    socket: TcpStream,
    opened: Duration,
}

/// Holds `count` heads in a descriptor table of this thread's own.
fn hold(address: SocketAddr, clock: Clock, count: usize, network: u8, shared: &SlowHeads) {
    // SAFETY: this thread uses no descriptor but the sockets that it opens below, and starts no thread.
    if unsafe { table::make_private(&[], &[]) }.is_err() {
        shared.failed.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // A real attacker takes no processor time from the server and from the newcomers that are timed.
    let _ = setpriority_process(None, 10);
    let mut heads: Vec<Head> = Vec::with_capacity(count);
    let per_turn = (count as u128 * TURN.as_nanos()).div_ceil(BYTE_EVERY.as_nanos()) as usize;
    let mut next = 0;
    // When the server is expected to close each head.
    let mut ends = BinaryHeap::with_capacity(count);
    while !shared.over.load(Ordering::Relaxed) {
        for number in (heads.len()..count).take(OPENED_AT_A_TIME) {
            match open(address, clock, network, number) {
                Ok(head) => heads.push(head),
                Err(_) => {
                    shared.failed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            ends.push(Reverse((clock.now() + HEAD_TIME, number)));
            shared.opened.fetch_add(1, Ordering::Relaxed);
        }
        let replace_if_gone = |head: &mut Head, number| {
            if head.is_open() {
                return;
            }
            if clock.now() - head.opened < REFUSED_BEFORE {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            match open(address, clock, network, number) {
                Ok(fresh) => {
                    *head = fresh;
                    shared.replaced.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    shared.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        for _ in 0..per_turn.min(heads.len()) {
            next = (next + 1) % heads.len();
            heads[next].send();
            replace_if_gone(&mut heads[next], next);
        }
        let now = clock.now();
        while let Some(Reverse((at, number))) = ends.peek().copied()
            && at <= now
        {
            ends.pop();
            replace_if_gone(&mut heads[number], number);
            ends.push(Reverse(((heads[number].opened + HEAD_TIME).max(now + CHECK_AGAIN), number)));
        }
        if heads.len() == count {
            thread::sleep(TURN);
        }
    }
    shared.still_open.fetch_add(standing(&heads), Ordering::Relaxed);
    for head in &heads {
        // Leaves no port in TIME-WAIT.
        let _ = SockRef::from(&head.socket).set_linger(Some(Duration::ZERO));
    }
}

fn open(address: SocketAddr, clock: Clock, network: u8, number: usize) -> io::Result<Head> {
    let source = Ipv4Addr::new(127, 4, network, (1 + number / PER_SOURCE) as u8);
    let socket: TcpStream = sockets::connect(Some(IpAddr::V4(source)), address)?.into();
    socket.set_nonblocking(true)?;
    (&socket).write_all(b"GET /events?topic=t0 HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")?;
    Ok(Head { socket, opened: clock.now() })
}

impl Head {
    /// Sends another byte.
    fn send(&mut self) {
        // An error means that the server has closed, which `is_open` reports.
        let _ = self.socket.write(b"a");
    }

    /// Whether the server has neither answered nor closed.
    fn is_open(&self) -> bool {
        self.socket.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// How many heads the server has neither answered nor closed.
fn standing(heads: &[Head]) -> usize {
    heads.iter().filter(|head| head.is_open()).count()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Every head that had been opened counted as open, whatever the server did with it.
    #[test]
    fn a_head_that_was_answered_or_closed_does_not_stand() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clock = Clock::start();
        let heads: Vec<Head> = (0..4).map(|number| open(address, clock, 1, number).unwrap()).collect();
        let mut peers: Vec<TcpStream> = heads.iter().map(|_| listener.accept().unwrap().0).collect();
        assert_eq!(standing(&heads), 4);
        // A socket that is closed with unread bytes sends a reset, one without sends FIN.
        drop(peers.pop());
        let _ = peers[2].read(&mut [0; 512]).unwrap();
        drop(peers.pop());
        peers[1].write_all(b"HTTP/1.1 408 Request Timeout\r\n").unwrap();
        let deadline = clock.now() + Duration::from_secs(20);
        while standing(&heads) > 1 && clock.now() < deadline {
            thread::sleep(TURN);
        }
        assert_eq!(standing(&heads), 1);
    }
}
