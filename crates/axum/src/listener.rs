//! Where connections come from: a listener of tokio, or the engine.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::{Connected, IntoMakeServiceWithConnectInfo};
use axum::middleware::AddExtension;
use axum::serve::{self, IncomingStream, Serve};
use fanfare::{Engine, HandOver, HandedOver};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::address::Address;
use crate::connection::Connection;
use crate::io::Io;
use crate::socket::Takeable;

/// A listener for `axum::serve` whose connections the engine can take over. It wraps a `TcpListener` or a
/// `UnixListener` of tokio, with or without axum's `tap_io`.
///
/// ```no_run
/// # async fn serve(app: axum::Router) -> std::io::Result<()> {
/// let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// axum::serve(fanfare_axum::Listener::new(tcp), app).await
/// # }
/// ```
///
/// Its address is the inner listener's. For `ConnectInfo<SocketAddr>` in handlers, put axum's `tap_io` around
/// it: `Listener::new(tcp).tap_io(|_| ())` has that connect info.
#[derive(Debug)]
pub struct Listener<L = TcpListener> {
    inner: L,
}

/// A listener for `axum::serve` behind an engine: its connections are those whose request is no subscription,
/// or one that the admission leaves to axum. The engine owns the port, and most subscribers never reach axum.
///
/// ```no_run
/// # async fn serve(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// let address = "127.0.0.1:3000".parse()?;
/// let mut engine = fanfare::Engine::builder().listen(address).hand_over(true).start()?;
/// axum::serve(fanfare_axum::HandOverListener::new(&mut engine)?, app).await?;
/// # Ok(()) }
/// ```
///
/// The engine may listen on TCP addresses and on Unix sockets, with and without the PROXY protocol. The
/// address of a connection is an [`Address`]: the client's that a proxy has named, or else the peer's. It is
/// a connect info: `into_make_service_with_connect_info::<Address>()`.
///
/// When the engine has stopped, no connection comes any more, and `accept` waits for ever: end the server
/// with `with_graceful_shutdown`.
#[derive(Debug)]
pub struct HandOverListener {
    sockets: mpsc::Receiver<HandedOver>,
    address: Address,
}

/// Sockets that wait for `accept`. Behind them is the queue of the engine's channel; where that is full, too,
/// a shard answers 503.
const WAITING: usize = 64;

/// How often the thread that receives the sockets looks whether the listener is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long no socket is received where the last one could not be, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// An application whose requests know their [`Connection`].
pub type WithConnection = IntoMakeServiceWithConnectInfo<Router, Connection>;

/// The application as one connection has it.
pub type RouterOfConnection = AddExtension<Router, ConnectInfo<Connection>>;

/// Serves an application over a listener of tokio: `axum::serve` with a [`Listener`] and the connect info
/// [`Connection`].
///
/// ```no_run
/// # async fn serve(app: axum::Router) -> std::io::Result<()> {
/// let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// fanfare_axum::serve(tcp, app).with_graceful_shutdown(async { /* a signal */ }).await
/// # }
/// ```
pub fn serve<L>(listener: L, router: Router) -> Serve<Listener<L>, WithConnection, RouterOfConnection>
where
    L: serve::Listener<Io: Takeable>,
{
    axum::serve(Listener::new(listener), router.into_make_service_with_connect_info::<Connection>())
}

impl<L> Listener<L> {
    /// Wraps a listener. Call `Listener::new(listener)`, then give it to `axum::serve`.
    pub fn new(listener: L) -> Listener<L> {
        Listener { inner: listener }
    }
}

impl<L> serve::Listener for Listener<L>
where
    L: serve::Listener<Io: Takeable>,
{
    type Io = Io;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Io, L::Addr) {
        let (socket, address) = self.inner.accept().await;
        (Io::new(socket), address)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.inner.local_addr()
    }
}

impl HandOverListener {
    /// Takes the sockets that the engine hands over. A thread receives them; it ends with the engine, and
    /// within a second where this listener is dropped before.
    ///
    /// # Errors
    /// [`fanfare::Builder::hand_over`] was not set, or the sockets have been taken before (`NotFound`); the
    /// engine has no address (`AddrNotAvailable`); the system refuses a thread.
    pub fn new(engine: &mut Engine) -> io::Result<HandOverListener> {
        let tcp = engine.addresses().first().copied().map(Address::Tcp);
        let unix = || engine.unix_addresses().first().cloned().map(Address::Unix);
        let Some(address) = tcp.or_else(unix) else {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the engine does not listen anywhere",
            ));
        };
        let Some(from_engine) = engine.hand_over() else {
            let text = "the engine hands nothing over: call hand_over(true) on its builder, and take it once";
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let (to_listener, sockets) = mpsc::channel(WAITING);
        let thread = thread::Builder::new().name("fanfare-hand-over".to_owned());
        thread.spawn(move || receive(from_engine, &to_listener))?;
        Ok(HandOverListener { sockets, address })
    }
}

/// Passes sockets on until the engine has stopped or the listener is gone.
fn receive(mut from_engine: HandOver, to_listener: &mpsc::Sender<HandedOver>) {
    while !to_listener.is_closed() {
        match from_engine.receive(Some(LOOK)) {
            Ok(Some(mut handed)) => {
                // It was received into a buffer for the largest head.
                handed.received.shrink_to_fit();
                if to_listener.blocking_send(handed).is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => {
                tracing::error!("a connection that the engine handed over is lost: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

impl serve::Listener for HandOverListener {
    type Io = Io;
    type Addr = Address;

    async fn accept(&mut self) -> (Io, Address) {
        while let Some(handed) = self.sockets.recv().await {
            match connection_of(handed) {
                Ok(accepted) => return accepted,
                Err(error) => tracing::error!("a connection that the engine handed over is lost: {error}"),
            }
        }
        pending().await
    }

    /// The first address of TCP that the engine listens on; where it has none, its first Unix socket.
    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.address.clone())
    }
}

/// The connection as hyper reads it, and its client.
fn connection_of(handed: HandedOver) -> io::Result<(Io, Address)> {
    // What came with the socket is lost where it is taken apart.
    let (client, is_unix, is_proxied) = (handed.peer(), handed.is_unix(), handed.is_proxied());
    let HandedOver { socket, received, .. } = handed;
    let (io, peer) = if is_unix {
        let socket = net::UnixStream::from(OwnedFd::from(socket));
        let peer = socket.peer_addr().ok().map(Address::Unix);
        (Io::with_received(UnixStream::from_std(socket)?, received), peer)
    } else {
        (Io::with_received(TcpStream::from_std(socket)?, received), None)
    };
    let address = match client {
        Some(client) => Address::Tcp(client),
        // A client of TCP that has left has no address any more. Its request was received, so it is served.
        None if is_proxied => Address::Unknown,
        None => peer.unwrap_or(Address::Unknown),
    };
    Ok((io.with_peer(client), address))
}

impl<L> Connected<IncomingStream<'_, Listener<L>>> for Connection
where
    L: serve::Listener<Io: Takeable>,
{
    fn connect_info(stream: IncomingStream<'_, Listener<L>>) -> Connection {
        stream.io().connection().clone()
    }
}

impl Connected<IncomingStream<'_, HandOverListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, HandOverListener>) -> Connection {
        stream.io().connection().clone()
    }
}

impl Connected<IncomingStream<'_, HandOverListener>> for Address {
    fn connect_info(stream: IncomingStream<'_, HandOverListener>) -> Address {
        stream.remote_addr().clone()
    }
}
