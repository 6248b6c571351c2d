//! Where subscribers connect: TCP addresses, Unix sockets, and sockets that are open already.
//!
//! ```no_run
//! use fanfare::{Engine, Listener, TrustedProxies};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let load_balancers: TrustedProxies = "10.0.0.0/24".parse()?;
//! let engine = Engine::builder()
//!     .listen("127.0.0.1:8844".parse()?)
//!     .listen_unix("/run/fanfare/events.sock", Some(0o660))
//!     .listener(std::net::TcpListener::bind("[::1]:8845")?)
//!     .listener(Listener::tcp("10.0.0.9:8846".parse()?).with_proxy_protocol(load_balancers))
//!     .start()?;
//! # Ok(()) }
//! ```
//!
//! Each shard accepts from each listener. On a TCP address that the engine opens itself, each shard has a
//! socket of its own, and the kernel spreads connections over them (`SO_REUSEPORT`). A Unix socket, and a
//! socket that was open already, can be only one: all shards wait for it, and each connection wakes the next
//! one of them.

mod shared_proxies;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{self, UnixListener};
use std::path::PathBuf;
use std::{fmt, io};

pub use fanfare_io::activation::ActivationError;
use fanfare_io::activation::take_passed_sockets;
use fanfare_io::sockets::{self, BACKLOG, SocketOptions};
use fanfare_io::unix_socket::{self, SocketFile};
use fanfare_proto::client_address::TrustedProxies;

pub use self::shared_proxies::SharedProxies;

/// A place where subscribers connect, with its options: see [`crate::Builder::listener`].
#[derive(Debug)]
pub struct Listener {
    source: Source,
    proxies: Option<SharedProxies>,
}

#[derive(Debug)]
enum Source {
    Tcp(SocketAddr),
    Unix { path: PathBuf, mode: Option<u32> },
    Abstract(Vec<u8>),
    Open { socket: OwnedFd, name: Option<String> },
}

impl Listener {
    /// Listens on this address. Port 0 takes a free port: [`crate::Engine::addresses`] tells which.
    pub fn tcp(address: SocketAddr) -> Listener {
        Listener::of(Source::Tcp(address))
    }

    /// Listens on a Unix socket with this path, of at most 107 bytes.
    ///
    /// Where there is a socket file already on which no server listens, it is removed. Where a server
    /// listens, the start fails. The file is removed when the engine begins to stop, unless another one has
    /// taken its place meanwhile.
    ///
    /// A subscriber on a Unix socket has no address: [`crate::Request::peer`] is `None`. Options of TCP do
    /// not apply, and neither does [`SocketOptions::send_buffer`]: it has the kernel's
    /// (`net.core.wmem_default`).
    pub fn unix(path: impl Into<PathBuf>) -> Listener {
        Listener::of(Source::Unix { path: path.into(), mode: None })
    }

    /// Listens on a name in the abstract namespace of Unix sockets (unix(7)), of at most 107 bytes. It has no
    /// file and no mode: every user of the machine, or of its network namespace, can connect.
    pub fn unix_abstract(name: impl Into<Vec<u8>>) -> Listener {
        Listener::of(Source::Abstract(name.into()))
    }

    /// Accepts on a socket that listens already: one of TCP, or a Unix socket. It may come from the service
    /// manager, from an older process, or from a test. The engine sets [`SocketOptions`] on it, makes it
    /// non-blocking, and closes it when it begins to stop; other processes that have it see the former, and
    /// go on with it after the latter. A file that it has is not removed.
    pub fn open(socket: impl Into<OwnedFd>) -> Listener {
        Listener::of(Source::Open { socket: socket.into(), name: None })
    }

    fn of(source: Source) -> Listener {
        Listener { source, proxies: None }
    }

    /// The mode of the socket's file, such as `0o660`. Without it, it is what the umask leaves of `0o777`. To
    /// connect, a program needs the right to write to it. On a listener without a file this changes nothing.
    pub fn with_mode(mut self, file_mode: u32) -> Listener {
        if let Source::Unix { mode, .. } = &mut self.source {
            *mode = Some(file_mode);
        }
        self
    }

    /// Each connection begins with a header of the PROXY protocol, version 1 or 2 (`proxy-protocol.txt` of
    /// HAProxy), and comes from one of these proxies.
    ///
    /// The header is part of what must be complete within [`crate::Limits::head_time`]. Then
    /// [`crate::Request::peer`] is the client that it names, and [`crate::Request::proxy`] the other end of
    /// the connection. A connection is closed without an answer where it comes from another peer, or begins
    /// otherwise; [`crate::Counts::proxy_refused`] counts it. A listener cannot serve clients with and
    /// without a header: any client could write one.
    ///
    /// Where the proxies come by a Unix socket, `unix` is among the trusted:
    /// [`TrustedProxies::with_unix_sockets`].
    pub fn with_proxy_protocol(self, trusted: TrustedProxies) -> Listener {
        self.with_shared_proxies(SharedProxies::new(trusted))
    }

    /// As [`Listener::with_proxy_protocol`], with proxies that can be replaced while the engine runs.
    pub fn with_shared_proxies(mut self, trusted: SharedProxies) -> Listener {
        self.proxies = Some(trusted);
        self
    }

    /// The address of TCP that it listens on: as it was given, or that of the open socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.source {
            Source::Tcp(address) => Some(*address),
            Source::Unix { .. } | Source::Abstract(_) => None,
            Source::Open { socket, .. } => sockets::local_address(socket.as_fd()).ok(),
        }
    }
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Listener {
        Listener::tcp(address)
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Listener {
        Listener::open(socket)
    }
}

impl From<UnixListener> for Listener {
    fn from(socket: UnixListener) -> Listener {
        Listener::open(socket)
    }
}

impl From<OwnedFd> for Listener {
    fn from(socket: OwnedFd) -> Listener {
        Listener::open(socket)
    }
}

/// A socket that systemd has opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct SystemdSocket {
    /// Its `FileDescriptorName=`; without that the name of its `.socket` unit, or `unknown`.
    pub name: String,
    /// The socket, to be given to [`crate::Builder::listener`].
    pub listener: Listener,
}

/// Takes the sockets that systemd has opened for this process: socket activation, sd_listen_fds(3).
///
/// [`crate::Builder::systemd_sockets`] takes all of them as they are. This function lets a program choose by
/// their names:
///
/// ```no_run
/// use fanfare::{Engine, TrustedProxies};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = Engine::builder();
/// for socket in fanfare::listeners::from_systemd()? {
///     builder = builder.listener(match socket.name.as_str() {
///         "behind-haproxy" => socket.listener.with_proxy_protocol("10.0.0.0/24".parse()?),
///         _ => socket.listener,
///     });
/// }
/// let engine = builder.start()?;
/// # Ok(()) }
/// ```
///
/// It can be called once in a process, because the sockets have one owner, and nothing else in the process
/// may take them. They are closed on exec. The variables `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` stay
/// set: to remove them is unsafe where other threads may read them. A child process does not take the sockets
/// for its own, because `LISTEN_PID` is not its number; a program that starts children which look at the
/// variables otherwise removes them for these (`Command::env_remove`).
///
/// # Errors
/// [`ActivationError`]: it says which variable or descriptor is wrong. Then nothing was taken.
pub fn from_systemd() -> Result<Vec<SystemdSocket>, ActivationError> {
    let passed = take_passed_sockets()?.into_iter().enumerate();
    let of = |(index, passed): (usize, fanfare_io::activation::PassedSocket)| {
        let source = Source::Open {
            name: Some(format!("the socket {} from systemd ({:?})", index + 1, passed.name)),
            socket: passed.socket,
        };
        SystemdSocket { name: passed.name, listener: Listener::of(source) }
    };
    Ok(passed.map(of).collect())
}

/// A listener as one shard has it.
#[derive(Debug)]
pub(crate) struct ShardListener {
    pub(crate) socket: OwnedFd,
    /// Other shards have descriptors of the same socket.
    pub(crate) is_shared: bool,
}

/// Listeners that are open.
#[derive(Default)]
pub(crate) struct OpenListeners {
    /// Those of each shard, in one order.
    pub(crate) by_shard: Vec<Vec<ShardListener>>,
    /// The proxies of which each expects a header.
    pub(crate) proxies: Vec<Option<SharedProxies>>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) unix_addresses: Vec<net::SocketAddr>,
    pub(crate) files: Vec<SocketFile>,
}

impl OpenListeners {
    /// Opens them for this many shards.
    ///
    /// # Errors
    /// The message names the listener.
    pub(crate) fn open(
        listeners: Vec<Listener>,
        options: &SocketOptions,
        shards: usize,
    ) -> io::Result<OpenListeners> {
        let by_shard = (0..shards).map(|_| Vec::new()).collect();
        let mut all = OpenListeners { by_shard, ..OpenListeners::default() };
        for (index, Listener { source, proxies }) in listeners.into_iter().enumerate() {
            match source {
                Source::Tcp(address) => {
                    let sockets = sockets::listen(address, BACKLOG, options, shards)?;
                    all.note_address(sockets[0].as_fd())?;
                    for (own, socket) in all.by_shard.iter_mut().zip(sockets) {
                        own.push(ShardListener { socket, is_shared: false });
                    }
                }
                Source::Unix { path, mode } => {
                    let (socket, file) = unix_socket::listen(&path, mode, BACKLOG)?;
                    all.files.push(file);
                    all.add_shared(socket)?;
                }
                Source::Abstract(name) => all.add_shared(unix_socket::listen_abstract(&name, BACKLOG)?)?,
                Source::Open { socket, name } => {
                    sockets::configure_listener(socket.as_fd(), options).map_err(|error| {
                        let name = name.unwrap_or_else(|| format!("the listener {}", index + 1));
                        io::Error::new(error.kind(), format!("cannot accept on {name}: {error}"))
                    })?;
                    all.add_shared(socket)?;
                }
            }
            all.proxies.push(proxies);
        }
        Ok(all)
    }

    /// A socket that is one for all shards.
    fn add_shared(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.note_address(socket.as_fd())?;
        let is_shared = self.by_shard.len() > 1;
        for own in &mut self.by_shard[1..] {
            own.push(ShardListener { socket: socket.try_clone()?, is_shared });
        }
        self.by_shard[0].push(ShardListener { socket, is_shared });
        Ok(())
    }

    fn note_address(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match sockets::unix_address(socket)? {
            Some(address) => self.unix_addresses.push(address),
            None => self.addresses.push(sockets::local_address(socket)?),
        }
        Ok(())
    }
}

impl fmt::Debug for OpenListeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenListeners").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
