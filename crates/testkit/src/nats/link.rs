//! A TCP forwarder that can be cut.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;

use super::address::own_host;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// How many bytes of a direction wait here for the slower side.
const WAITING_BYTES: usize = 256 << 10;

/// How a [`Link`] is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All connections are reset, and each new one is reset at once.
    Reset,
    /// No bytes pass, and neither end learns of it. What was sent is delivered after [`Link::heal`], as TCP
    /// does after a failure of the network that was shorter than its patience.
    BlackHole,
    /// No bytes pass from the client to the server.
    ClientToServer,
    /// No bytes pass from the server to the client.
    ServerToClient,
    /// Like [`Cut::BlackHole`], and all connections that exist by now are reset when the link is healed:
    /// a firewall or an address translator has forgotten them.
    Forgotten,
}

/// A TCP forwarder on a loopback port in front of a server. It is ended on drop, and its connections are
/// reset.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    orders: Sender<Order>,
    waker: Arc<Waker>,
    passed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    /// Answered when it holds.
    Set(Option<Cut>, Sender<()>),
    /// Answered with the number of connections.
    Count(Sender<usize>),
    End,
}

impl Link {
    /// Starts a link to a server, which need not run yet.
    ///
    /// # Errors
    /// There is no free port or no descriptor.
    pub fn start(target: SocketAddr) -> Result<Link, String> {
        Link::open(target).map_err(|error| format!("a link to {target}: {error}"))
    }

    fn open(target: SocketAddr) -> io::Result<Link> {
        let mut listener = TcpListener::bind(SocketAddr::from((own_host(), 0)))?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (orders, taken) = mpsc::channel();
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let mut forwarder = Forwarder {
            target,
            listener,
            poll,
            orders: taken,
            cut: None,
            connections: Vec::new(),
            next_token: WAKER.0 + 1,
            passed: counter,
        };
        let thread = thread::Builder::new().name("link".to_owned()).spawn(move || forwarder.run())?;
        Ok(Link { address, orders, waker, passed, thread: Some(thread) })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the link, or changes how it is cut. After the return no further byte passes in a direction that
    /// is cut.
    pub fn cut(&self, cut: Cut) {
        self.set(Some(cut));
    }

    /// Lets bytes pass again.
    pub fn heal(&self) {
        self.set(None);
    }

    /// How many connections are open through this link.
    pub fn connections(&self) -> usize {
        let (answer, answered) = mpsc::channel();
        self.order(Order::Count(answer));
        answered.recv().unwrap_or(0)
    }

    /// How many bytes have passed in both directions.
    pub fn passed_bytes(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn set(&self, cut: Option<Cut>) {
        let (answer, answered) = mpsc::channel();
        self.order(Order::Set(cut, answer));
        answered.recv().expect("the thread of the link runs");
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the thread of the link runs");
        self.waker.wake().expect("the thread of the link can be woken");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A thread that has panicked takes no order.
        let _ = self.orders.send(Order::End);
        let _ = self.waker.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the thread of a link panicked");
        }
    }
}

struct Forwarder {
    target: SocketAddr,
    listener: TcpListener,
    poll: Poll,
    orders: Receiver<Order>,
    cut: Option<Cut>,
    connections: Vec<Connection>,
    next_token: usize,
    passed: Arc<AtomicU64>,
}

impl Forwarder {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, Some(Duration::from_secs(1))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("a link cannot wait: {error}"),
                _ => {}
            }
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Set(cut, answer) => {
                        let forgotten = self.cut == Some(Cut::Forgotten) && cut != self.cut;
                        self.cut = cut;
                        if cut == Some(Cut::Reset) || forgotten {
                            self.connections.drain(..).for_each(Connection::reset);
                        }
                        let _ = answer.send(());
                    }
                    Order::Count(answer) => {
                        let _ = answer.send(self.connections.len());
                    }
                    Order::End => {
                        self.connections.drain(..).for_each(Connection::reset);
                        return;
                    }
                }
            }
            self.accept();
            let (to_server, to_client) = match self.cut {
                None => (true, true),
                Some(Cut::ClientToServer) => (false, true),
                Some(Cut::ServerToClient) => (true, false),
                Some(Cut::Reset | Cut::BlackHole | Cut::Forgotten) => (false, false),
            };
            // Each wake tries all connections: a link has few, and an edge of one that was cut is not lost.
            let mut index = 0;
            while index < self.connections.len() {
                match self.connections[index].forward(to_server, to_client, &self.passed) {
                    Ok(true) => index += 1,
                    Ok(false) => drop(self.connections.swap_remove(index)),
                    Err(_) => self.connections.swap_remove(index).reset(),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            if self.cut == Some(Cut::Reset) {
                reset(&client);
                continue;
            }
            // Where the server does not listen, the client is reset when that is known.
            match TcpStream::connect(self.target).and_then(|server| self.register(client, server)) {
                Ok(connection) => self.connections.push(connection),
                Err(error) => eprintln!("a link to {} takes no connection: {error}", self.target),
            }
        }
    }

    fn register(&mut self, mut client: TcpStream, mut server: TcpStream) -> io::Result<Connection> {
        for stream in [&mut client, &mut server] {
            let token = Token(self.next_token);
            self.next_token += 1;
            self.poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
            stream.set_nodelay(true)?;
        }
        Ok(Connection { client, server, to_server: Direction::default(), to_client: Direction::default() })
    }
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    to_server: Direction,
    to_client: Direction,
}

impl Connection {
    /// Moves what can be moved. Returns whether either side has more to say.
    fn forward(&mut self, to_server: bool, to_client: bool, passed: &AtomicU64) -> io::Result<bool> {
        if to_server {
            self.to_server.forward(&mut self.client, &mut self.server, passed)?;
        }
        if to_client {
            self.to_client.forward(&mut self.server, &mut self.client, passed)?;
        }
        Ok(!(self.to_server.closed && self.to_client.closed))
    }

    fn reset(self) {
        reset(&self.client);
        reset(&self.server);
    }
}

/// Makes the close of the socket, which follows, a reset.
fn reset(stream: &TcpStream) {
    // A socket that is closed by its other end needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The bytes from one side to the other.
#[derive(Debug, Default)]
struct Direction {
    waiting: VecDeque<u8>,
    /// The source has sent its last byte.
    ended: bool,
    /// The end was passed on.
    closed: bool,
}

impl Direction {
    fn forward(&mut self, from: &mut TcpStream, to: &mut TcpStream, passed: &AtomicU64) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let mut moved = false;
            if !self.ended && self.waiting.len() < WAITING_BYTES {
                match from.read(&mut buffer) {
                    Ok(0) => (self.ended, moved) = (true, true),
                    Ok(count) => {
                        self.waiting.extend(&buffer[..count]);
                        moved = true;
                    }
                    Err(error) => is_not_now(error)?,
                }
            }
            if !self.waiting.is_empty() {
                match to.write(self.waiting.as_slices().0) {
                    Ok(count) => {
                        self.waiting.drain(..count);
                        passed.fetch_add(count as u64, Ordering::Relaxed);
                        moved |= count > 0;
                    }
                    Err(error) => is_not_now(error)?,
                }
            }
            if self.ended && self.waiting.is_empty() && !self.closed {
                to.shutdown(Shutdown::Write)?;
                self.closed = true;
            }
            if !moved {
                return Ok(());
            }
        }
    }
}

/// An error that only says that the socket is not ready is none.
fn is_not_now(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net;

    use super::*;

    /// Long enough for bytes to pass, short enough for a test that expects none.
    const SHORT: Duration = Duration::from_millis(150);

    /// A client and the server's end of its connection through the link.
    fn pair(link: &Link, listener: &net::TcpListener) -> (net::TcpStream, net::TcpStream) {
        let client = net::TcpStream::connect(link.address()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    }

    fn arrives(from: &mut net::TcpStream, to: &mut net::TcpStream, text: &[u8]) -> bool {
        from.write_all(text).unwrap();
        receives(to, text, Duration::from_secs(20))
    }

    fn receives(to: &mut net::TcpStream, text: &[u8], patience: Duration) -> bool {
        to.set_read_timeout(Some(patience)).unwrap();
        let mut received = vec![0; text.len()];
        match to.read_exact(&mut received) {
            Ok(()) => received == text,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn bytes_pass_both_ways_and_ends_are_passed_on() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(listener.local_addr().unwrap()).unwrap();
        let (mut client, mut server) = pair(&link, &listener);
        assert!(arrives(&mut client, &mut server, b"to the server"));
        assert!(arrives(&mut server, &mut client, b"to the client"));
        assert_eq!((link.connections(), link.passed_bytes()), (1, 26));
        // More than the buffers of the link and of the kernel.
        let sent = vec![7; 8 << 20];
        thread::scope(|scope| {
            scope.spawn(|| client.write_all(&sent).unwrap());
            let mut received = vec![0; sent.len()];
            server.read_exact(&mut received).unwrap();
            assert!(received == sent);
        });
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        assert!(arrives(&mut server, &mut client, b"half closed"));
        drop(server);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn each_cut_stops_its_directions_and_a_healed_link_delivers_what_waited() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(listener.local_addr().unwrap()).unwrap();
        for (cut, passes) in [
            (Cut::BlackHole, (false, false)),
            (Cut::ClientToServer, (false, true)),
            (Cut::ServerToClient, (true, false)),
        ] {
            let (mut client, mut server) = pair(&link, &listener);
            link.cut(cut);
            client.write_all(b"question").unwrap();
            server.write_all(b"answer").unwrap();
            let patience = |passes| if passes { Duration::from_secs(20) } else { SHORT };
            assert_eq!(receives(&mut server, b"question", patience(passes.0)), passes.0, "{cut:?}");
            assert_eq!(receives(&mut client, b"answer", patience(passes.1)), passes.1, "{cut:?}");
            link.heal();
            assert!(passes.0 || receives(&mut server, b"question", Duration::from_secs(20)), "{cut:?}");
            assert!(passes.1 || receives(&mut client, b"answer", Duration::from_secs(20)), "{cut:?}");
            assert!(arrives(&mut client, &mut server, b"again"));
        }
    }

    #[test]
    fn a_reset_ends_connections_old_and_new_until_it_is_healed() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(listener.local_addr().unwrap()).unwrap();
        let (mut client, mut server) = pair(&link, &listener);
        link.cut(Cut::Reset);
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let late = net::TcpStream::connect(link.address()).and_then(|mut late| late.read(&mut [0; 8]));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::ConnectionReset);
        link.heal();
        let (mut client, mut server) = pair(&link, &listener);
        assert!(arrives(&mut client, &mut server, b"again"));

        link.cut(Cut::Forgotten);
        client.write_all(b"lost").unwrap();
        assert!(!receives(&mut server, b"lost", SHORT));
        link.heal();
        assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_client_of_a_server_that_is_down_is_reset() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::start(listener.local_addr().unwrap()).unwrap();
        drop(listener);
        let mut client = net::TcpStream::connect(link.address()).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
