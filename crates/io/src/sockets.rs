//! Sockets before they reach a backend: listening, their options, connecting.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::contract::Peer;
use crate::errors::{annotate, check};

/// The default length of a listener's queue of connections that are not accepted yet. A reconnect storm
/// arrives faster than a shard accepts; what does not fit is dropped and comes again after a second or
/// three. The kernel cuts it to `net.core.somaxconn`, by default 4096 too.
pub const BACKLOG: u32 = 4096;

/// How often an idle peer that does not answer is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// After how many questions without an answer it is gone.
const KEEPALIVE_RETRIES: u32 = 3;

/// How often the lock of a port is tried, and how long the pauses between are: five seconds in all.
const LOCK_TRIES: u32 = 5000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// `include/uapi/linux/tcp.h`
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// What a client's connection is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Sends each write at once instead of waiting for an ACK to fill a segment (`TCP_NODELAY`). A sweep
    /// already joins all that is due into one write.
    pub no_delay: bool,
    /// Asks a peer that was silent for so long whether it is still there (`SO_KEEPALIVE`), three times, 10 s
    /// apart. The kernel does it: no timer of ours, and no byte in the stream.
    pub keepalive: Option<Duration>,
    /// The longest time between two retransmissions, 1 to 120 s (`TCP_RTO_MAX_MS`, Linux 6.15; older kernels
    /// stay at 120 s). A peer that acknowledges nothing is given up after 15 of them: with 10 s after two
    /// minutes, with the kernel's own 120 s after fifteen, during which a dead phone holds its memory.
    ///
    /// Not `TCP_USER_TIMEOUT`, which also gives up a reader that is slow and reads: where its window is often
    /// closed, the kernel counts from the first time, whatever was read since, and sends no reset.
    pub retransmit_interval: Option<Duration>,
    /// How many bytes may wait unsent in the kernel before the socket counts as full
    /// (`TCP_NOTSENT_LOWAT`). It bounds a slow consumer's memory in the kernel, and how old the bytes are
    /// that it gets at last: what is not in the kernel can still be replaced by a gap.
    pub notsent_lowat: Option<u32>,
    /// A fixed send buffer (`SO_SNDBUF`; the kernel doubles it). `None` leaves the kernel to fit it to the
    /// path, which costs an idle connection nothing.
    pub send_buffer: Option<u32>,
}

impl SocketOptions {
    /// The same with another [`SocketOptions::no_delay`].
    #[must_use]
    pub fn with_no_delay(mut self, no_delay: bool) -> SocketOptions {
        self.no_delay = no_delay;
        self
    }

    /// The same with another [`SocketOptions::keepalive`].
    #[must_use]
    pub fn with_keepalive(mut self, keepalive: Option<Duration>) -> SocketOptions {
        self.keepalive = keepalive;
        self
    }

    /// The same with another [`SocketOptions::retransmit_interval`].
    #[must_use]
    pub fn with_retransmit_interval(mut self, retransmit_interval: Option<Duration>) -> SocketOptions {
        self.retransmit_interval = retransmit_interval;
        self
    }

    /// The same with another [`SocketOptions::notsent_lowat`].
    #[must_use]
    pub fn with_notsent_lowat(mut self, notsent_lowat: Option<u32>) -> SocketOptions {
        self.notsent_lowat = notsent_lowat;
        self
    }

    /// The same with another [`SocketOptions::send_buffer`].
    #[must_use]
    pub fn with_send_buffer(mut self, send_buffer: Option<u32>) -> SocketOptions {
        self.send_buffer = send_buffer;
        self
    }
}

impl Default for SocketOptions {
    /// - keepalive 60 s: below the idle timeout of common NATs and load balancers, so it also keeps paths
    ///   open that count any packet;
    /// - retransmissions at most 10 s apart: a dead peer is gone after two minutes;
    /// - 128 KiB unsent: the kernel says `writable` below half of it, and then one run of 64 KiB fits
    ///   whole; smaller would turn healthy connections into laggards at each large run.
    fn default() -> Self {
        Self {
            no_delay: true,
            keepalive: Some(Duration::from_secs(60)),
            retransmit_interval: Some(Duration::from_secs(10)),
            notsent_lowat: Some(128 * 1024),
            send_buffer: None,
        }
    }
}

/// Opens one listener per shard, all on the same address: the kernel spreads new connections over them by
/// a hash (`SO_REUSEPORT`). With port 0 the first one picks a port for all; [`local_address`] tells it.
///
/// The options are set on the listeners, because on Linux an accepted socket inherits them: that saves five
/// system calls per connection.
///
/// # Errors
/// The message names the address. `AddrInUse` also if another process of the same user listens there *with*
/// `SO_REUSEPORT`: the kernel would let us join, and the two servers would each get a part of the
/// connections in silence. `ResourceBusy`: another process has been starting on this port for five seconds.
pub fn listen(
    address: SocketAddr,
    backlog: u32,
    options: &SocketOptions,
    shards: usize,
) -> io::Result<Vec<OwnedFd>> {
    let explain = |error: io::Error| annotate(&error, format_args!("cannot listen on {address}"));
    let _lock = match address.port() {
        0 => None,
        port => {
            let lock = lock_port(port).map_err(explain)?;
            refuse_shared(address).map_err(explain)?;
            lock
        }
    };
    let mut address = address;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let listener = listen_one(address, backlog, options).map_err(explain)?;
        if address.port() == 0 {
            address = socket_address(&listener).map_err(explain)?;
        }
        listeners.push(listener.into());
    }
    Ok(listeners)
}

/// Lets one process at a time check whether a port is free and take it. Two servers that started on one port
/// at the same moment both found it free, and both ran.
///
/// The lock is a socket in the abstract namespace of Unix sockets, which is the network namespace's, as ports
/// are. It ends with the process. Which addresses of a port exclude each other is for the kernel to know,
/// which is asked under this lock. Other users need no lock: `SO_REUSEPORT` does not let them join.
fn lock_port(port: u16) -> io::Result<Option<UnixDatagram>> {
    let name = UnixAddress::from_abstract_name(port_lock_name(port))?;
    for _ in 0..LOCK_TRIES {
        match UnixDatagram::bind_addr(&name) {
            Ok(lock) => return Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(LOCK_PAUSE),
            // A sandbox without Unix sockets is no reason not to serve.
            Err(_) => return Ok(None),
        }
    }
    let busy = "another process has been starting on this port for too long";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, busy))
}

/// The name of the lock that a process holds while it takes this port.
pub fn port_lock_name(port: u16) -> String {
    // SAFETY: it has no arguments and cannot fail (geteuid(2)).
    let user = unsafe { libc::geteuid() };
    format!("fanfare/listen/{user}/{port}")
}

/// Binds once without `SO_REUSEPORT`, which fails if another socket listens there, and closes the socket
/// again.
fn refuse_shared(address: SocketAddr) -> io::Result<()> {
    let socket = open(address)?;
    // Like a listener, or else connections in TIME-WAIT of our own predecessor would look like an owner.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))
}

fn listen_one(address: SocketAddr, backlog: u32, options: &SocketOptions) -> io::Result<Socket> {
    let socket = open(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    apply(&socket, options)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the sysctl says.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Sets up a connected socket that was accepted elsewhere: the options, and non-blocking mode. To a Unix
/// socket those of TCP do not apply.
///
/// # Errors
/// Not a stream socket, or an option is out of the kernel's range.
pub fn configure(fd: BorrowedFd<'_>, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no stream socket"));
    }
    if socket.domain()? == Domain::UNIX {
        set_send_buffer(&socket, options)?;
    } else {
        apply(&socket, options)?;
    }
    socket.set_nonblocking(true)
}

/// Sets up a listening socket that was opened elsewhere: the options, non-blocking mode, and that it is
/// closed on exec. They are those of the socket, so other processes that have it see them, too. To a Unix
/// socket no option applies ([`crate::unix_socket::listen`]).
///
/// # Errors
/// It is no stream socket, does not listen, or is neither of TCP nor a Unix socket; or an option is out of
/// range.
pub fn configure_listener(fd: BorrowedFd<'_>, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let wrong = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let kind = socket.r#type().map_err(|error| annotate(&error, "it is no socket"))?;
    if kind != Type::STREAM {
        return wrong("it is no stream socket");
    }
    if !socket.is_listener()? {
        return wrong("it does not listen");
    }
    match socket.domain()? {
        Domain::UNIX => {}
        Domain::IPV4 | Domain::IPV6 => apply(&socket, options)?,
        _ => return wrong("it is neither a socket of TCP nor a Unix socket"),
    }
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)
}

fn apply(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.no_delay)?;
    if let Some(idle) = options.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        // This also switches SO_KEEPALIVE on.
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if let Some(interval) = options.retransmit_interval {
        limit_retransmit_interval(socket, interval)?;
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    set_send_buffer(socket, options)
}

fn set_send_buffer(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    options.send_buffer.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes as usize))
}

fn limit_retransmit_interval(socket: &Socket, interval: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: the kernel reads one integer of the length given.
    let result = check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    });
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result.map(drop),
    }
}

/// The other end of a connection, where it has one that is known.
pub fn peer(socket: BorrowedFd<'_>) -> Option<Peer> {
    let address = SockRef::from(&socket).peer_addr().ok()?;
    if address.is_unix() { Some(Peer::Unix) } else { address.as_socket().map(Peer::Ip) }
}

/// The address a socket is bound to.
///
/// # Errors
/// Not an IP socket, or not a socket.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    socket_address(&SockRef::from(&fd))
}

/// The address that a Unix socket is bound to; `None`: it is another kind of socket.
///
/// # Errors
/// It is no socket.
pub fn unix_address(fd: BorrowedFd<'_>) -> io::Result<Option<UnixAddress>> {
    let address = SockRef::from(&fd).local_addr()?;
    if !address.is_unix() {
        return Ok(None);
    }
    match address.as_abstract_namespace() {
        Some(name) => UnixAddress::from_abstract_name(name).map(Some),
        None => UnixAddress::from_pathname(address.as_pathname().unwrap_or(Path::new(""))).map(Some),
    }
}

/// Whether a socket is a Unix socket.
pub fn is_unix(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).domain().is_ok_and(|domain| domain == Domain::UNIX)
}

fn socket_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the socket has no IP address"))
}

/// Connects, waiting until it is done. The socket is in blocking mode. For tests and benchmarks, which
/// hold more connections than one source address has ports: with a `source` the port is chosen only when
/// the destination is known (`IP_BIND_ADDRESS_NO_PORT`), so each address pair has all ports for itself.
///
/// # Errors
/// What `bind(2)` and `connect(2)` say.
pub fn connect(source: Option<IpAddr>, to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.connect(&SockAddr::from(to))?;
    Ok(socket.into())
}

fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call, and its true size is given. The IPv4
    // level is right for IPv6 sockets too: the kernel keeps one flag for both.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Sockets that one system call asks about.
const ASKED_AT_ONCE: usize = 256;

/// Appends those of these sockets whose peer has ended its side or is gone (poll(2), `POLLRDHUP`).
pub(crate) fn find_ended(sockets: &[crate::Socket], ended: &mut Vec<crate::Socket>) {
    let mut asked = [libc::pollfd { fd: -1, events: libc::POLLRDHUP, revents: 0 }; ASKED_AT_ONCE];
    for part in sockets.chunks(ASKED_AT_ONCE) {
        for (asked, socket) in asked.iter_mut().zip(part) {
            (asked.fd, asked.revents) = (*socket, 0);
        }
        // SAFETY: the array has at least so many entries, and lives through the call, which writes only to
        // it.
        let found = unsafe { libc::poll(asked.as_mut_ptr(), part.len() as libc::nfds_t, 0) };
        // Where it fails (no memory), nothing is known this time.
        if found > 0 {
            let is_ended = |asked: &&libc::pollfd| asked.revents != 0;
            ended.extend(asked[..part.len()].iter().filter(is_ended).map(|asked| asked.fd));
        }
    }
}
