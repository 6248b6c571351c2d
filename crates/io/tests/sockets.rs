//! Listening, the options of connections, connecting.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixStream};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use fanfare_io::sockets::{self, BACKLOG, SocketOptions};
use socket2::{SockRef, Socket};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// What the kernel says about a connection.
fn options_of(socket: &Socket) -> SocketOptions {
    SocketOptions::default()
        .with_no_delay(socket.tcp_nodelay().unwrap())
        .with_keepalive(socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap()))
        .with_retransmit_interval(retransmit_interval(socket))
        .with_notsent_lowat(Some(socket.tcp_notsent_lowat().unwrap()))
        // The kernel counts its own overhead in.
        .with_send_buffer(Some(socket.send_buffer_size().unwrap() as u32 / 2))
}

/// Kernels before 6.15 know none: then it is what was asked for.
fn retransmit_interval(socket: &Socket) -> Option<Duration> {
    let (mut milliseconds, mut length) = (0_u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the kernel writes one integer of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            44,
            (&raw mut milliseconds).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Some(Duration::from_millis(milliseconds.into())),
        _ => unusual().retransmit_interval,
    }
}

fn unusual() -> SocketOptions {
    SocketOptions::default()
        .with_no_delay(true)
        .with_keepalive(Some(Duration::from_secs(77)))
        .with_retransmit_interval(Some(Duration::from_secs(7)))
        .with_notsent_lowat(Some(33_000))
        .with_send_buffer(Some(44_000))
}

/// If a kernel stopped to do this, connections would silently run without their timeouts.
#[test]
fn an_accepted_socket_inherits_every_option() {
    let listener = TcpListener::from(sockets::listen(any(), BACKLOG, &unusual(), 1).unwrap().remove(0));
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.set_nonblocking(false).unwrap();
    let accepted = Socket::from(listener.accept().unwrap().0);
    assert_eq!(options_of(&accepted), unusual());
    assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
}

#[test]
fn an_adopted_socket_is_configured_the_same() {
    let listener = TcpListener::bind(any()).unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let adopted = Socket::from(listener.accept().unwrap().0);
    assert!(!adopted.nonblocking().unwrap());
    sockets::configure(adopted.as_fd(), &unusual()).unwrap();
    assert_eq!(options_of(&adopted), unusual());
    assert!(adopted.nonblocking().unwrap());

    let (unix, _peer) = UnixStream::pair().unwrap();
    sockets::configure(unix.as_fd(), &unusual()).unwrap();
    let unix = Socket::from(unix);
    assert_eq!((unix.send_buffer_size().unwrap(), unix.nonblocking().unwrap()), (88_000, true));

    let (datagrams, _peer) = UnixDatagram::pair().unwrap();
    assert!(sockets::configure(datagrams.as_fd(), &unusual()).is_err());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(sockets::configure(file.as_fd(), &unusual()).is_err());
}

/// With TCP_USER_TIMEOUT a subscriber that was slow and read was given up by the kernel 90 s after its window
/// had first been closed, and where it had just read everything it never learned of it.
#[test]
fn no_slow_subscriber_is_given_up_by_the_kernel() {
    let listeners = sockets::listen(any(), BACKLOG, &SocketOptions::default(), 1).unwrap();
    let timeout = SockRef::from(&listeners[0]).tcp_user_timeout().unwrap();
    assert!(timeout.is_none_or(|timeout| timeout.is_zero()));
}

#[test]
fn one_listener_per_shard_on_one_port() {
    let listeners = sockets::listen(any(), BACKLOG, &SocketOptions::default(), 4).unwrap();
    assert_eq!(listeners.len(), 4);
    let address = sockets::local_address(listeners[0].as_fd()).unwrap();
    assert_ne!(address.port(), 0);
    for listener in &listeners {
        assert_eq!(sockets::local_address(listener.as_fd()).unwrap(), address);
        assert!(SockRef::from(listener).nonblocking().unwrap());
    }
    // The kernel spreads connections over all of them.
    let peers: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut counts = Vec::new();
    for listener in listeners {
        let listener = TcpListener::from(listener);
        counts.push(std::iter::from_fn(|| listener.accept().ok()).count());
    }
    assert_eq!(counts.iter().sum::<usize>(), peers.len());
    assert!(counts.iter().all(|&count| count > 10), "{counts:?}");
}

/// With SO_REUSEPORT alone the second server would take half of the connections in silence.
#[test]
fn a_port_in_use_is_refused_even_if_it_would_be_shared() {
    let first = sockets::listen(any(), BACKLOG, &SocketOptions::default(), 2).unwrap();
    let address = sockets::local_address(first[0].as_fd()).unwrap();
    let error = sockets::listen(address, BACKLOG, &SocketOptions::default(), 2).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    // The same on the wildcard address, which covers ours.
    let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
    assert_eq!(
        sockets::listen(all, BACKLOG, &SocketOptions::default(), 1).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );

    // Connections that linger after a restart claim no address.
    let peer = TcpStream::connect(address).unwrap();
    let accepted: Vec<_> =
        first.into_iter().map(TcpListener::from).filter_map(|listener| listener.accept().ok()).collect();
    assert_eq!(accepted.len(), 1);
    drop(accepted); // Our side closes first, so TIME-WAIT is ours.
    drop(peer);
    sockets::listen(address, BACKLOG, &SocketOptions::default(), 2).unwrap();
}

#[test]
fn the_address_is_named_when_it_is_not_ours() {
    // 192.0.2.0/24 is for documentation: no machine has it, and a bind sends nothing.
    let address: SocketAddr = "192.0.2.1:8080".parse().unwrap();
    let error = sockets::listen(address, BACKLOG, &SocketOptions::default(), 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("192.0.2.1:8080"), "{error}");
}

#[test]
fn connect_chooses_the_source_address() {
    let listener = TcpListener::bind(any()).unwrap();
    let to = listener.local_addr().unwrap();
    let source = IpAddr::V4(Ipv4Addr::new(127, 9, 8, 7));
    let one = sockets::connect(Some(source), to).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), source);
    assert!(!SockRef::from(&one).nonblocking().unwrap());
    let _other = sockets::connect(None, to).unwrap();
    assert!(listener.accept().unwrap().1.ip().is_loopback());

    let closed = SocketAddr::new(to.ip(), 1);
    let error = sockets::connect(Some(source), closed).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A port belongs to an address pair then, not to the source alone: a source has all of its ports for each
/// destination.
#[test]
fn a_bound_source_does_not_use_up_its_ports() {
    let listener = TcpListener::bind(any()).unwrap();
    let source = IpAddr::V4(Ipv4Addr::new(127, 9, 8, 6));
    let socket = sockets::connect(Some(source), listener.local_addr().unwrap()).unwrap();
    let mut on: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value and its length are valid to write to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw mut on).cast(),
            &mut length,
        )
    };
    assert_eq!((result, on), (0, 1));
    assert_ne!(sockets::local_address(socket.as_fd()).unwrap().port(), 0);
}

/// A port that is free on this address now.
fn free_port(address: [u8; 4]) -> SocketAddr {
    TcpListener::bind(SocketAddr::from((address, 0))).unwrap().local_addr().unwrap()
}

/// Both checked whether the port was free before either had taken it, and each got a part of the connections:
/// subscribers of one server missed what the other one acknowledged. Of 40 pairs 4 ran.
#[test]
fn of_servers_that_start_at_the_same_moment_one_gets_the_port() {
    const SERVERS: usize = 8;
    for _ in 0..200 {
        let address = free_port([127, 0, 0, 3]);
        let together = Barrier::new(SERVERS);
        let started: Vec<_> = thread::scope(|scope| {
            let start = || {
                together.wait();
                sockets::listen(address, BACKLOG, &SocketOptions::default(), 4)
            };
            let servers: Vec<_> = (0..SERVERS).map(|_| scope.spawn(start)).collect();
            servers.into_iter().map(|server| server.join().unwrap()).collect()
        });
        assert_eq!(started.iter().filter(|started| started.is_ok()).count(), 1, "{started:?}");
        let refused = started.iter().filter_map(|started| started.as_ref().err());
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        }
    }
}

#[test]
fn a_server_that_starts_waits_for_one_that_is_starting_on_its_port() {
    let address = free_port([127, 0, 0, 4]);
    let name = UnixAddress::from_abstract_name(sockets::port_lock_name(address.port())).unwrap();
    let lock = UnixDatagram::bind_addr(&name).unwrap();
    thread::scope(|scope| {
        let start = scope.spawn(|| sockets::listen(address, BACKLOG, &SocketOptions::default(), 1));
        // Other ports do not wait.
        sockets::listen(any(), BACKLOG, &SocketOptions::default(), 1).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!start.is_finished());
        drop(lock);
        start.join().unwrap().unwrap();
    });
    // It is let go again.
    UnixDatagram::bind_addr(&name).unwrap();
}

#[test]
fn addresses_share_a_port_unless_one_is_every_address() {
    let options = SocketOptions::default();
    let first = free_port([127, 0, 0, 5]);
    let second = SocketAddr::from(([127, 0, 0, 6], first.port()));
    let _first = sockets::listen(first, BACKLOG, &options, 2).unwrap();
    let _second = sockets::listen(second, BACKLOG, &options, 2).unwrap();
    for every in ["0.0.0.0", "::"] {
        let every = SocketAddr::from((every.parse::<IpAddr>().unwrap(), first.port()));
        let error = sockets::listen(every, BACKLOG, &options, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().contains(&every.to_string()), "{error}");
    }
}
