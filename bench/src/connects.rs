//! A client that only connects: at a fixed rate, whatever becomes of the connections before. Each sends its
//! request, waits for the head of the answer, and ends with a reset, so that its port is free again at once.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use fanfare_io::{Clock, affinity, table};
use hdrhistogram::Histogram;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Outcome;
use crate::machine::{ThreadClock, thread_id};

/// Connections are opened in steps of this length: a client that slept before each one would measure its own
/// sleep.
const STEP: Duration = Duration::from_micros(200);

/// Connections that a client which is late opens before it reads answers again.
const BURST: u32 = 64;

/// Connections that may be open at once. A client that needs more does not keep to its plan.
const OPEN: usize = 16_000;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Source addresses, which are used in turn. Only a few ports of each are in use at a time.
const SOURCES: u32 = 250;

/// Bytes received at once: more than the head of an answer.
const READ_BYTES: usize = 4096;

const EVENTS: usize = 256;

/// The longest time that is told apart, in nanoseconds.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// What a client does.
#[derive(Clone, Debug)]
pub struct ConnectPlan {
    /// Where it connects to.
    pub to: SocketAddr,
    /// What each connection sends.
    pub request: String,
    /// Connections a second.
    pub rate: u32,
    /// Connections in all.
    pub count: u32,
    /// The core on which it stays.
    pub core: usize,
}

/// What a client found.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Connections that got the head of an answer with status 200.
    pub answered: u32,
    /// Connections that got another status.
    pub refused: u32,
    /// Connections that failed, or ended without an answer.
    pub failed: u32,
    /// Connections that had no answer when the client gave up.
    pub unanswered: u32,
    /// Answers a second, between the first and the last one.
    pub rate: f64,
    /// Nanoseconds from the intended time of a connect to the head of its answer.
    pub took: Histogram<u64>,
    /// Nanoseconds from the intended time of a connect to its beginning.
    pub late: Histogram<u64>,
    /// The shortest time from a sent request to the head of its answer.
    pub shortest: Duration,
    /// The part of the time in which the client's thread ran.
    pub busy: f64,
    /// The part of the time in which the client's thread was kept waiting for its core.
    pub kept_waiting: f64,
}

/// One connection that waits for its answer.
struct Connection {
    socket: Socket,
    intended: Duration,
    /// When the request was sent. `None`: the connection is not established yet.
    sent: Option<Duration>,
    /// What has come of the head.
    received: Vec<u8>,
}

struct Client {
    plan: ConnectPlan,
    clock: Clock,
    epoll: OwnedFd,
    /// By the number of their descriptor.
    connections: Vec<Option<Connection>>,
    open: usize,
    found: Connected,
    first_answer: Option<Duration>,
    last_answer: Duration,
}

/// Carries the plan out, on the calling thread, which keeps the plan's core and gets a descriptor table of
/// its own.
///
/// # Errors
/// The thread gets no table, its core or its epoll, or no connection can be opened at all.
pub fn connect_at_rate(plan: ConnectPlan) -> Outcome<Connected> {
    // SAFETY: the thread uses no descriptor but those that it opens below, and starts no thread.
    unsafe { table::make_private(&[], &[]) }?;
    affinity::pin(plan.core)?;
    // A sleep of half a step may not take 50 us longer. SAFETY: no pointers are involved.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize, 0_usize, 0_usize, 0_usize) };
    // SAFETY: no pointers are involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    Client::new(plan, epoll).run()
}

impl ConnectPlan {
    /// When a connection is to be opened, after the beginning.
    fn due(&self, number: u32) -> Duration {
        let in_step = self.in_step();
        Duration::from_secs(1) * (number / in_step) * in_step / self.rate
    }

    /// Connections that are opened together.
    fn in_step(&self) -> u32 {
        ((f64::from(self.rate) * STEP.as_secs_f64()) as u32).max(1)
    }
}

impl Client {
    fn new(plan: ConnectPlan, epoll: OwnedFd) -> Client {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("a histogram of a minute");
        let found = Connected {
            answered: 0,
            refused: 0,
            failed: 0,
            unanswered: 0,
            rate: 0.0,
            took: histogram(),
            late: histogram(),
            shortest: Duration::MAX,
            busy: 0.0,
            kept_waiting: 0.0,
        };
        Client {
            plan,
            clock: Clock::start(),
            epoll,
            connections: Vec::new(),
            open: 0,
            found,
            first_answer: None,
            last_answer: Duration::ZERO,
        }
    }

    fn run(mut self) -> Outcome<Connected> {
        let thread = ThreadClock::of(thread_id());
        let (ran_before, waited_before) = (thread.now(), thread.kept_waiting());
        let begun = self.clock.now();
        let mut opened = 0;
        let end = begun + self.plan.due(self.plan.count) + PATIENCE;
        loop {
            let mut now = self.clock.now();
            for _ in 0..BURST {
                let intended = begun + self.plan.due(opened);
                if opened == self.plan.count || intended > now || self.open >= OPEN {
                    break;
                }
                self.found.late.saturating_record((now - intended).as_nanos() as u64);
                if let Err(error) = self.connect(opened, intended) {
                    if self.found.failed == 0 {
                        println!("note: a connect has failed: {error}");
                    }
                    self.found.failed += 1;
                }
                opened += 1;
                now = self.clock.now();
            }
            if (opened == self.plan.count && self.open == 0) || now > end {
                break;
            }
            let next = if opened < self.plan.count { begun + self.plan.due(opened) } else { end };
            self.read(next.saturating_sub(now))?;
        }
        let took = (self.clock.now() - begun).as_secs_f64();
        let mut found = self.found;
        found.unanswered = self.plan.count - found.answered - found.refused - found.failed;
        let answering = self.last_answer.saturating_sub(self.first_answer.unwrap_or_default());
        found.rate = f64::from(found.answered.saturating_sub(1)) / answering.as_secs_f64();
        found.busy = (thread.now() - ran_before).as_secs_f64() / took;
        found.kept_waiting = (thread.kept_waiting() - waited_before).as_secs_f64() / took;
        Ok(found)
    }

    fn connect(&mut self, number: u32, intended: Duration) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        // The close is a reset: no end of the connection waits for a minute with its port.
        socket.set_linger(Some(Duration::ZERO))?;
        let source = Ipv4Addr::new(127, 201, 1, (number % SOURCES) as u8 + 1);
        set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::V4(source), 0)))?;
        match socket.connect(&SockAddr::from(self.plan.to)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let fd = socket.as_raw_fd();
        let mut connection = Connection { socket, intended, sent: None, received: Vec::new() };
        // On loopback the connection is mostly established already.
        self.send(&mut connection)?;
        self.watch(libc::EPOLL_CTL_ADD, &connection)?;
        let slot = fd as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        self.connections[slot] = Some(connection);
        self.open += 1;
        Ok(())
    }

    /// Sends the request, where the connection takes it already.
    fn send(&self, connection: &mut Connection) -> io::Result<()> {
        let begun = self.clock.now();
        match connection.socket.send_with_flags(self.plan.request.as_bytes(), libc::MSG_NOSIGNAL) {
            Ok(sent) if sent == self.plan.request.len() => connection.sent = Some(begun),
            Ok(_) => return Err(io::Error::other("a new connection takes no whole request")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn watch(&self, operation: libc::c_int, connection: &Connection) -> io::Result<()> {
        let events = if connection.sent.is_some() { libc::EPOLLIN } else { libc::EPOLLOUT };
        let fd = connection.socket.as_raw_fd();
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: both descriptors are open, and the event outlives the call.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for answers, and takes those that have come.
    fn read(&mut self, timeout: Duration) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the array is valid to write to for the count given, the time outlives the call, and a null
        // mask means that the mask of signals stays.
        let ready = unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                &timeout,
                std::ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let now = self.clock.now();
        for event in &events[..ready as usize] {
            let slot = event.u64 as RawFd as usize;
            // Each descriptor is among the events once, and it is opened and closed outside of them.
            let Some(mut connection) = self.connections[slot].take() else { continue };
            match self.progress(&mut connection, now) {
                Ok(false) => self.connections[slot] = Some(connection),
                Ok(true) => self.open -= 1,
                Err(error) => {
                    if self.found.failed == 0 {
                        println!("note: a connection has failed: {error}");
                    }
                    self.found.failed += 1;
                    self.open -= 1;
                }
            }
        }
        Ok(())
    }

    /// Goes on with a connection that is ready. True: its answer has come.
    fn progress(&mut self, connection: &mut Connection, now: Duration) -> io::Result<bool> {
        let Some(sent) = connection.sent else {
            self.send(connection)?;
            self.watch(libc::EPOLL_CTL_MOD, connection)?;
            return Ok(false);
        };
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let received = match connection.socket.recv(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has written this many bytes.
        let fresh = unsafe { buffer[..received].assume_init_ref() };
        connection.received.extend_from_slice(fresh);
        let Some(status) = status_of(&connection.received) else { return Ok(false) };
        if status != 200 {
            self.found.refused += 1;
            return Ok(true);
        }
        self.found.answered += 1;
        self.first_answer.get_or_insert(now);
        self.last_answer = now;
        self.found.shortest = self.found.shortest.min(now.saturating_sub(sent));
        self.found.took.saturating_record(now.saturating_sub(connection.intended).as_nanos() as u64);
        Ok(true)
    }
}

/// The status of an answer, once its whole head is there; 0 where the answer is none of HTTP/1.1.
fn status_of(received: &[u8]) -> Option<u16> {
    received.windows(4).find(|window| window == b"\r\n\r\n")?;
    let status = received.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Some(status.unwrap_or(0))
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int that outlives the call, and its true size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_status_is_known_when_the_head_is_whole() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nbody";
        let head = answer.len() - b"body".len();
        for length in 0..head {
            assert_eq!(status_of(&answer[..length]), None, "{length} bytes");
        }
        assert_eq!(status_of(&answer[..head]), Some(503));
        assert_eq!(status_of(answer), Some(503));
        assert_eq!(status_of(b"220 mail\r\n\r\n"), Some(0));
    }

    #[test]
    fn connections_are_due_at_the_rate_in_steps() {
        let plan = |rate| ConnectPlan {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            request: String::new(),
            rate,
            count: 1,
            core: 0,
        };
        let fast = plan(20_000);
        let due = [0, 3, 4, 7, 8, 20_000].map(|number| fast.due(number).as_micros());
        assert_eq!(due, [0, 0, 200, 200, 400, 1_000_000]);
        assert_eq!(plan(2000).due(3), Duration::from_micros(1500));
    }

    /// A server that takes each third connection, refuses each third and drops each third.
    #[test]
    fn answers_refusals_and_failures_are_told_apart() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for number in 0..30 {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = [0; 3];
                socket.read_exact(&mut request).unwrap();
                match number % 3 {
                    0 => socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(),
                    1 => socket.write_all(b"HTTP/1.1 503 No\r\n\r\n").unwrap(),
                    _ => {}
                }
            }
        });
        let plan = ConnectPlan { to, request: "GET".to_owned(), rate: 5000, count: 30, core: 0 };
        let core = affinity::cores().unwrap()[0];
        let client = thread::spawn(move || connect_at_rate(ConnectPlan { core, ..plan }).unwrap());
        let found = client.join().unwrap();
        server.join().unwrap();
        assert_eq!((found.answered, found.refused, found.failed, found.unanswered), (10, 10, 10, 0));
        assert_eq!(found.took.len(), 10);
        assert_eq!(found.late.len(), 30);
    }
}
