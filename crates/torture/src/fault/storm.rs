//! Clients that connect and leave.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_io::{Clock, sockets};
use socket2::SockRef;

use crate::outcome::Outcome;
use crate::run::Run;

const THREADS: u64 = 2;
const PER_SECOND: u64 = 1_000;

/// The fewest clients a second that are a storm.
const LEAST_PER_SECOND: u64 = PER_SECOND * 8 / 10;

/// How long a client stays, and how long a half-closed one keeps its other half.
const STAY: Duration = Duration::from_millis(500);

/// A complete request, so that any part of it can be sent.
const SUBSCRIBE: &[u8] =
    b"GET /events?topic=t0&topic=t7&last_event_id=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
const PUBLISH: &[u8] = b"POST /events HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{\"topic\":\"t0\",";

/// A thousand clients a second connect and leave before, within or after their request or in the middle of
/// the stream, with FIN, RST or half-close.
pub(super) fn apply(run: &mut Run) -> Result<Outcome, String> {
    let time = run.scaled(Duration::from_secs(8), Duration::from_secs(1));
    let (address, clock, deadline) = (run.target.server.address, run.clock, run.clock.now() + time);
    let stop = &run.stop;
    let randoms: Vec<fastrand::Rng> = (0..THREADS).map(|_| run.random.fork()).collect();
    let (mut came, mut refused, mut panicked) = (0, 0, 0);
    thread::scope(|scope| {
        let crowds: Vec<_> = randoms
            .into_iter()
            .map(|random| scope.spawn(move || run_clients(address, clock, deadline, random, stop)))
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
    let mut outcome = Outcome::noted(format!("{came} clients in {time:?}"));
    // A storm that is scaled down or was ended early may have fewer clients.
    if !run.smoke && !run.stopped() {
        outcome.violations.extend(too_few(came, time));
    }
    if panicked > 0 {
        outcome.violations.push(format!("{panicked} of the storm's {THREADS} threads panicked"));
    }
    if refused > 0 {
        outcome.violations.push(format!("{refused} clients of a storm of {came} could not connect"));
    }
    Ok(outcome)
}

/// A violation if there were too few clients for a storm.
fn too_few(came: u64, time: Duration) -> Option<String> {
    let least = LEAST_PER_SECOND * time.as_secs();
    (came < least).then(|| format!("only {came} clients came in {time:?}, where {least} are a storm"))
}

fn run_clients(
    address: SocketAddr,
    clock: Clock,
    deadline: Duration,
    mut random: fastrand::Rng,
    stop: &AtomicBool,
) -> (u64, u64) {
    let began = clock.now();
    let (mut came, mut refused) = (0, 0);
    // Clients that stay for a while.
    let mut staying: VecDeque<(Duration, TcpStream)> = VecDeque::new();
    // Clients that send nothing more and can still receive.
    let mut half_closed: VecDeque<(Duration, TcpStream)> = VecDeque::new();
    while clock.now() < deadline && !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        while staying.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, stream)) = staying.pop_front() {
                half_closed.extend(leave(stream, &mut random).map(|stream| (now + STAY, stream)));
            }
        }
        while half_closed.front().is_some_and(|(until, _)| *until <= now) {
            half_closed.pop_front();
        }
        let due = ((now - began).as_millis() as u64 * PER_SECOND / THREADS / 1000).saturating_sub(came);
        for _ in 0..due {
            came += 1;
            let host = Ipv4Addr::new(127, 3, random.u8(0..=255), random.u8(1..=254));
            match sockets::connect(Some(IpAddr::V4(host)), address) {
                Ok(socket) => match send_and_leave(socket.into(), &mut random) {
                    Left::Nothing => {}
                    Left::Open(stream) => staying.push_back((now + STAY, stream)),
                    Left::HalfClosed(stream) => half_closed.push_back((now + STAY, stream)),
                },
                Err(_) => refused += 1,
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    (came, refused)
}

/// What a client leaves behind.
enum Left {
    Nothing,
    /// Its socket stays open for a while.
    Open(TcpStream),
    HalfClosed(TcpStream),
}

/// Sends a random part of a request, and leaves or stays.
fn send_and_leave(mut stream: TcpStream, random: &mut fastrand::Rng) -> Left {
    let request = if random.u32(0..8) == 0 { PUBLISH } else { SUBSCRIBE };
    let way = random.u32(0..6);
    let part = match way {
        0 => 0,
        1 => random.usize(1..request.len()),
        _ => request.len(),
    };
    let _ = stream.write_all(&request[..part]);
    match way {
        // It leaves in the middle of the stream.
        3 => {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.read(&mut [0; 700]);
        }
        4 | 5 => return Left::Open(stream),
        _ => {}
    }
    leave(stream, random).map_or(Left::Nothing, Left::HalfClosed)
}

/// Ends a client in a random way. A half-closed socket is returned, because dropping it at once would close
/// it.
fn leave(stream: TcpStream, random: &mut fastrand::Rng) -> Option<TcpStream> {
    match random.u32(0..3) {
        0 => None,
        1 => {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            None
        }
        _ => {
            let _ = stream.shutdown(Shutdown::Write);
            Some(stream)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Any number of clients passed as a storm.
    #[test]
    fn too_few_clients_are_a_violation() {
        assert!(too_few(6_399, Duration::from_secs(8)).is_some());
        assert!(too_few(6_400, Duration::from_secs(8)).is_none());
    }

    /// A half-closed socket was closed at once.
    #[test]
    fn a_half_closed_client_can_still_receive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let half_closed = (0..100).find_map(|_| {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (peer, _) = listener.accept().unwrap();
            leave(stream, &mut random).map(|stream| (stream, peer))
        });
        let (mut stream, mut peer) = half_closed.unwrap();
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        peer.write_all(b"late").unwrap();
        let mut received = [0; 4];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"late");
    }
}
