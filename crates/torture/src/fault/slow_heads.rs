//! Request heads that never end: a byte now and then, from thousands of sockets, while honest newcomers are timed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::{Clock, sockets, table};
use rustix::process::setpriority_process;
use socket2::SockRef;

use super::Saw;
use crate::arena::Arena;

const THREADS: usize = 2;

/// Each head gets a byte this often.
const BYTE_EVERY: Duration = Duration::from_secs(4);

/// Time between two turns of a thread.
const TURN: Duration = Duration::from_millis(10);

/// The server ends heads after 10 s. One that it closes much earlier was turned away.
const TURNED_AWAY: Duration = Duration::from_secs(8);

/// Time between two honest newcomers.
const NEWCOMERS: Duration = Duration::from_millis(3);

/// Sockets of one source address.
const PER_SOURCE: usize = 2_000;

/// What the threads that hold slow heads have in common.
#[derive(Default)]
struct Siege {
    over: AtomicBool,
    standing: AtomicUsize,
    turned_away: AtomicUsize,
    /// Heads that a thread could not open, or a table it could not get.
    failed: AtomicUsize,
}

/// Times newcomers without and beside slow heads, in turns.
pub(super) fn act(arena: &mut Arena) -> Result<Saw, String> {
    let heads = arena.scaled(20_000, 1_000);
    let window = arena.scaled(Duration::from_secs(4), Duration::from_millis(700));
    let mut least = heads;
    let mut saw = Saw::default();
    for _ in 0..arena.scaled(2, 1) {
        measure(arena, window, false);
        let siege = Siege::default();
        let (address, clock, second) = (arena.field.server.address, arena.clock, arena.random.u8(1..=60));
        thread::scope(|scope| {
            for index in 0..THREADS {
                let siege = &siege;
                scope.spawn(move || hold(address, clock, heads / THREADS, second * 2 + index as u8, siege));
            }
            let deadline = clock.now() + Duration::from_secs(30);
            while siege.standing.load(Ordering::Relaxed) < heads * 99 / 100
                && clock.now() < deadline
                && !arena.stopped()
            {
                thread::sleep(TURN);
            }
            least = least.min(siege.standing.load(Ordering::Relaxed));
            measure(arena, window, true);
            least = least.min(siege.standing.load(Ordering::Relaxed));
            siege.over.store(true, Ordering::Relaxed);
        });
        let turned_away = siege.turned_away.into_inner();
        if turned_away > 0 {
            saw.violations
                .push(format!("{turned_away} of {heads} slow heads were turned away: too few stood"));
        }
        if siege.failed.into_inner() > 0 {
            saw.violations.push("slow heads could not be opened".to_owned());
        }
        // What was closed on this side is closed on the other before anybody is timed again.
        arena.wait(Duration::from_millis(500));
    }
    if least < heads * 95 / 100 && !arena.stopped() {
        saw.violations.push(format!("only {least} of {heads} slow heads stood"));
    }
    saw.note = format!("at least {least} stood");
    Ok(saw)
}

fn measure(arena: &mut Arena, window: Duration, beset: bool) {
    let deadline = arena.clock.now() + window;
    let stop = std::sync::Arc::clone(&arena.stop);
    let times = if beset { &mut arena.beset } else { &mut arena.calm };
    let stopped = || stop.load(Ordering::Relaxed);
    times.measure(arena.field.server.address, arena.clock, deadline, NEWCOMERS, stopped);
}

/// A head that does not end.
struct Head {
    socket: TcpStream,
    opened: Duration,
}

/// Holds so many heads in a descriptor table of this thread's own.
fn hold(address: SocketAddr, clock: Clock, count: usize, network: u8, siege: &Siege) {
    if table::make_private(&[]).is_err() {
        siege.failed.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // A real attacker takes no processor time from the server and from those who are timed.
    let _ = setpriority_process(None, 10);
    let mut heads: Vec<Head> = Vec::with_capacity(count);
    let per_turn = (count as u128 * TURN.as_nanos()).div_ceil(BYTE_EVERY.as_nanos()) as usize;
    let mut next = 0;
    while !siege.over.load(Ordering::Relaxed) {
        while heads.len() < count && !siege.over.load(Ordering::Relaxed) {
            match open(address, clock, network, heads.len()) {
                Ok(head) => heads.push(head),
                Err(_) => {
                    siege.failed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            siege.standing.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..per_turn.min(heads.len()) {
            next = (next + 1) % heads.len();
            let head = &mut heads[next];
            if head.stands() {
                continue;
            }
            if clock.now() - head.opened < TURNED_AWAY {
                siege.turned_away.fetch_add(1, Ordering::Relaxed);
            }
            match open(address, clock, network, next) {
                Ok(fresh) => *head = fresh,
                Err(_) => {
                    siege.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        thread::sleep(TURN);
    }
    siege.standing.fetch_sub(heads.len(), Ordering::Relaxed);
    for head in &heads {
        // Leaves no port in TIME-WAIT.
        let _ = SockRef::from(&head.socket).set_linger(Some(Duration::ZERO));
    }
}

fn open(address: SocketAddr, clock: Clock, network: u8, number: usize) -> io::Result<Head> {
    let source = Ipv4Addr::new(127, 4, network, (1 + number / PER_SOURCE) as u8);
    let socket: TcpStream = sockets::connect(Some(IpAddr::V4(source)), address)?.into();
    socket.set_nonblocking(true)?;
    (&socket).write_all(b"GET /events?topic=t0 HTTP/1.1\r\nHost: slow\r\nX-Slow: ")?;
    Ok(Head { socket, opened: clock.now() })
}

impl Head {
    /// Sends another byte. False where the server has answered or closed.
    fn stands(&mut self) -> bool {
        let sent = self.socket.write(b"a");
        let received = self.socket.read(&mut [0; 512]);
        sent.is_ok() && received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}
