//! The engine, as it is measured: one shard on a core of its own, and nothing that acts by itself.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use fanfare::{
    Backend, Builder, DescriptorTables, Engine, Hub, Limits, SocketOptions, Subscribe, Topic, WireFormat,
};
use fanfare_io::fd_channel::SocketSender;
use fanfare_io::{Clock, sockets};
use fanfare_proto::limits::LogLimits;
use fanfare_store::DiskStore;
use fanfare_store::disk::Options as DiskOptions;

use crate::Outcome;
use crate::machine::{self, ThreadClock};

/// How long anything may take to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is checked.
const POLL: Duration = Duration::from_micros(100);

/// An engine with one shard, and the clock of its thread.
pub struct Measured {
    /// Which it is.
    pub backend: Backend,
    /// Its handle.
    pub hub: Hub,
    /// The shard's CPU time.
    pub cpu: ThreadClock,
    engine: Engine,
}

impl Measured {
    /// Starts one shard on the first core of the calling thread.
    ///
    /// # Errors
    /// The engine does not start.
    pub fn start(backend: Backend, limits: Limits) -> Outcome<Measured> {
        Measured::start_with(Engine::builder(), backend, limits)
    }

    /// The same, with what is set in this builder already.
    ///
    /// # Errors
    /// The engine does not start.
    pub fn start_with(builder: Builder, backend: Backend, limits: Limits) -> Outcome<Measured> {
        let before = machine::threads_named("fanfare-shard");
        let engine = builder.shards(1).pin(true).raise_descriptor_limit(true);
        let engine =
            engine.descriptor_tables(DescriptorTables::Auto).backend(backend).limits(limits).start()?;
        let thread = machine::new_thread("fanfare-shard", &before)?;
        Ok(Measured { backend, hub: engine.hub(), cpu: ThreadClock::of(thread), engine })
    }

    /// Where it listens itself.
    ///
    /// # Errors
    /// It does not listen.
    pub fn address(&self) -> Outcome<SocketAddr> {
        Ok(*self.engine.addresses().first().ok_or("the engine does not listen")?)
    }

    /// Subscribes a duplicate of this socket.
    ///
    /// # Errors
    /// The engine does not take it.
    pub fn adopt(&self, socket: &TcpStream, topic: &Topic) -> Outcome<()> {
        let copy: OwnedFd = socket.try_clone()?.into();
        let mut waiting = Some((copy, Subscribe::to([topic.clone()])));
        patiently("the engine adopts a socket", || {
            let Some((socket, subscribe)) = waiting.take() else { return Ok(true) };
            match self.hub.adopt(socket, subscribe, WireFormat::Chunked) {
                Ok(()) => Ok(true),
                Err(error) if error.is_busy() => {
                    waiting = Some(error.into_parts());
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Waits until this many subscribers are there.
    ///
    /// # Errors
    /// They are not.
    pub fn wait_connections(&self, count: usize) -> Outcome<()> {
        patiently("all subscribers are there", || Ok(self.hub.counts().connections == count as u64))
    }

    /// Waits until this many deliveries were made in all.
    ///
    /// # Errors
    /// They were not.
    pub fn wait_deliveries(&self, count: u64) -> Outcome<()> {
        patiently("every subscriber was sent to", || Ok(self.hub.counts().deliveries >= count))
    }

    /// Ends it at once.
    pub fn stop(self) {
        self.engine.stop(Duration::ZERO).expect("a shard has panicked");
    }
}

/// Opens a durable store with these bounds, in a directory that is made.
///
/// # Errors
/// There is something, or it cannot be made.
pub fn open_store(directory: &Path, limits: LogLimits) -> Outcome<DiskStore> {
    fs::create_dir_all(directory)?;
    Ok(DiskStore::open(directory, DiskOptions::new(limits, [1, 2, 3]))?)
}

/// The default bounds, without heartbeats: they would be sent into a measurement.
pub fn quiet_limits() -> Limits {
    Limits::default().with_heartbeat(Duration::from_secs(24 * 3600))
}

/// A listener of our own on loopback, for sockets that are adopted.
///
/// # Errors
/// No port is free.
pub fn listen() -> Outcome<(TcpListener, SocketAddr)> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = sockets::listen(any, sockets::BACKLOG, &SocketOptions::default(), 1)?;
    let listener = TcpListener::from(listeners.into_iter().next().ok_or("no listener")?);
    listener.set_nonblocking(false)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Passes a copy of a socket to a thread with its own table.
///
/// # Errors
/// It does not take it.
pub fn hand(socket: &TcpStream, to: &SocketSender) -> Outcome<()> {
    patiently("a socket is passed on", || match to.send(socket.as_fd(), b"!") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    })
}

/// Checks a condition, sleeping in between, until it holds or patience ends.
///
/// # Errors
/// The condition's own, or that it never held.
pub fn patiently(what: &str, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let clock = Clock::start();
    while !holds()? {
        if clock.now() > PATIENCE {
            return Err(format!("waited {} s in vain until {what}", PATIENCE.as_secs()).into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}
