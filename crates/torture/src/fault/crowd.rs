//! Clients that come and vanish.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::{Clock, sockets};
use socket2::SockRef;

use super::Saw;
use crate::arena::Arena;

const THREADS: u64 = 2;
const PER_SECOND: u64 = 1_000;

/// Complete, so that it can be cut anywhere.
const SUBSCRIBE: &[u8] =
    b"GET /events?topic=t0&topic=t7&last_event_id=earliest HTTP/1.1\r\nHost: storm\r\n\r\n";
const PUBLISH: &[u8] = b"POST /events HTTP/1.1\r\nHost: storm\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{\"topic\":\"t0\",";

/// A thousand clients a second connect, and vanish before, in or after their request or in the middle of the stream, by
/// FIN, RST or half-close.
pub(super) fn storm(arena: &mut Arena) -> Result<Saw, String> {
    let time = arena.scaled(Duration::from_secs(8), Duration::from_secs(1));
    let (address, clock, deadline) = (arena.field.server.address, arena.clock, arena.clock.now() + time);
    let stop = &arena.stop;
    let randoms: Vec<fastrand::Rng> = (0..THREADS).map(|_| arena.random.fork()).collect();
    let (mut came, mut refused, mut panicked) = (0, 0, 0);
    thread::scope(|scope| {
        let crowds: Vec<_> = randoms
            .into_iter()
            .map(|random| scope.spawn(move || crowd(address, clock, deadline, random, stop)))
            .collect();
        for crowd in crowds {
            match crowd.join() {
                Ok((some, others)) => {
                    came += some;
                    refused += others;
                }
                Err(_) => panicked += 1,
            }
        }
    });
    let mut saw = Saw::noted(format!("{came} clients in {time:?}"));
    if panicked > 0 {
        saw.violations.push(format!("{panicked} of the storm's {THREADS} threads panicked"));
    }
    if refused > 0 {
        saw.violations.push(format!("{refused} clients of a storm of {came} could not connect"));
    }
    Ok(saw)
}

fn crowd(
    address: SocketAddr,
    clock: Clock,
    deadline: Duration,
    mut random: fastrand::Rng,
    stop: &AtomicBool,
) -> (u64, u64) {
    let began = clock.now();
    let (mut came, mut refused) = (0, 0);
    // Those that stay for a while.
    let mut staying: VecDeque<(Duration, TcpStream)> = VecDeque::new();
    while clock.now() < deadline && !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        while staying.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, stream)) = staying.pop_front() {
                vanish(stream, &mut random);
            }
        }
        let due = ((now - began).as_millis() as u64 * PER_SECOND / THREADS / 1000).saturating_sub(came);
        for _ in 0..due {
            came += 1;
            let host = Ipv4Addr::new(127, 3, random.u8(0..=255), random.u8(1..=254));
            match sockets::connect(Some(IpAddr::V4(host)), address) {
                Ok(socket) => {
                    if let Some(stream) = misbehave(socket.into(), &mut random) {
                        staying.push_back((now + Duration::from_millis(500), stream));
                    }
                }
                Err(_) => refused += 1,
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    (came, refused)
}

/// Goes some way and vanishes, or gives back the stream of one that stays for a moment.
fn misbehave(mut stream: TcpStream, random: &mut fastrand::Rng) -> Option<TcpStream> {
    let request = if random.u32(0..8) == 0 { PUBLISH } else { SUBSCRIBE };
    let way = random.u32(0..6);
    let part = match way {
        0 => 0,
        1 => random.usize(1..request.len()),
        _ => request.len(),
    };
    let _ = stream.write_all(&request[..part]);
    match way {
        // In the middle of the stream.
        3 => {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.read(&mut [0; 700]);
        }
        4 | 5 => return Some(stream),
        _ => {}
    }
    vanish(stream, random);
    None
}

fn vanish(stream: TcpStream, random: &mut fastrand::Rng) {
    match random.u32(0..3) {
        0 => drop(stream),
        1 => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        _ => {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}
