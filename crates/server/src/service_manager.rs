//! Notifications to the service manager: systemd's `Type=notify`, its watchdog, and reloads (sd_notify(3)).
//!
//! Without the variable `NOTIFY_SOCKET` nothing is sent. The order of calls is [`ServiceManager::ready`],
//! then [`ServiceManager::alive`] or [`ServiceManager::send_owed`] again and again with pairs of
//! [`ServiceManager::reloading`] and [`ServiceManager::reloaded`] between them, then
//! [`ServiceManager::stopping`].
//!
//! Nothing waits for a service manager that does not read its socket. What it has to know is owed to it, and
//! sent as soon as the socket takes it.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// The time of a stop beside its drain.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Between two tries to send what is owed, while the server drains.
const OWED_PAUSE: Duration = Duration::from_millis(100);

/// The service manager that has started this process, if one has.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// The service manager restarts a server that is silent for so long.
    watchdog: Option<Duration>,
    /// The time of the last notification that the server is alive, by any clock.
    alive_at: Option<Duration>,
    /// The number of connections in the last notification.
    connections: Option<u64>,
    socket: Socket,
}

impl ServiceManager {
    /// Reads the settings of the service manager from the environment. A server that reports once in
    /// `interval` is too slow for some watchdogs.
    pub(crate) fn find(interval: Duration) -> ServiceManager {
        let watchdog = sd_notify::watchdog_enabled();
        if let Some(watchdog) = watchdog.filter(|watchdog| *watchdog < 2 * interval) {
            tracing::warn!(
                "WatchdogSec= of {watchdog:?} is too short: the server shows that it is alive every {interval:?}"
            );
        }
        let socket = Socket { path: env::var_os("NOTIFY_SOCKET"), owed: VecDeque::new(), is_full: false };
        ServiceManager { watchdog, alive_at: None, connections: None, socket }
    }

    /// The server listens.
    pub(crate) fn ready(&mut self, connections: u64) {
        self.connections = Some(connections);
        self.socket.owe(&[NotifyState::Ready, NotifyState::Status(&of(connections))]);
    }

    /// Tries again to send what the socket had no room for.
    pub(crate) fn send_owed(&mut self) {
        self.socket.send_owed();
    }

    /// The server is alive. Calls that are more frequent than the service manager needs send nothing. `now`
    /// is the time of any clock.
    pub(crate) fn alive(&mut self, now: Duration, connections: u64) {
        let Some(interval) = self.watchdog.map(|watchdog| watchdog / 4) else { return };
        if self.alive_at.is_some_and(|alive_at| now.saturating_sub(alive_at) < interval) {
            return;
        }
        let status = of(connections);
        let all = [NotifyState::Watchdog, NotifyState::Status(&status)];
        // What is owed goes first. Without room, the next call is the next try.
        let is_known = self.connections == Some(connections);
        if self.socket.send_owed() && self.socket.send(&text(if is_known { &all[..1] } else { &all })) {
            (self.alive_at, self.connections) = (Some(now), Some(connections));
        }
    }

    /// The server has begun to read its configuration again.
    pub(crate) fn reloading(&mut self) {
        // From version 253 on, systemd ignores a reload without the time.
        // What is owed of a reload before it says nothing more: this one ends with READY=1, too.
        self.socket.owed.clear();
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.socket.owe(&[NotifyState::Reloading, now]),
            Err(_) => self.socket.owe(&[NotifyState::Reloading]),
        }
    }

    /// The server has read its configuration; `outcome` is the result in one line.
    pub(crate) fn reloaded(&mut self, outcome: &str) {
        self.connections = None;
        self.socket.owe(&[NotifyState::Ready, NotifyState::Status(outcome)]);
    }

    /// The server has begun a drain of this time, in which it does not show that it is alive.
    pub(crate) fn stopping(mut self, connections: u64, drain: Duration) {
        let time = drain.saturating_add(STOP_MARGIN);
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let status = format!("draining {}", of(connections));
        let all = [
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(microseconds),
            NotifyState::Status(&status),
            NotifyState::WatchdogUsec(microseconds),
        ];
        self.socket.owed.clear();
        // A watchdog that is off stays off.
        self.socket.owe(if self.watchdog.is_some() { &all } else { &all[..3] });
        if self.socket.owed.is_empty() {
            return;
        }
        // The caller drains.
        let mut socket = self.socket;
        let spawned = thread::Builder::new().name("fanfare-notify".to_owned()).spawn(move || {
            while !socket.send_owed() {
                thread::sleep(OWED_PAUSE);
            }
        });
        if let Err(error) = spawned {
            tracing::warn!("the service manager (NOTIFY_SOCKET) is not told of the stop: {error}");
        }
    }
}

fn of(connections: u64) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// The message that has these lines.
fn text(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

/// The way to the service manager.
#[derive(Debug)]
struct Socket {
    /// `None`: there is no service manager.
    path: Option<OsString>,
    /// Messages that have to arrive, in their order.
    owed: VecDeque<String>,
    /// It had no room for the last message.
    is_full: bool,
}

impl Socket {
    /// Sends this message behind those that are owed, now or later.
    fn owe(&mut self, states: &[NotifyState<'_>]) {
        if self.path.is_some() {
            self.owed.push_back(text(states));
            self.send_owed();
        }
    }

    /// Whether nothing is owed any more.
    fn send_owed(&mut self) -> bool {
        while let Some(message) = self.owed.pop_front() {
            if !self.send(&message) {
                self.owed.push_front(message);
                return false;
            }
        }
        true
    }

    /// Sends a message, or says that there is no room for it now. Another failure is logged and ends nothing:
    /// the server works without its service manager.
    fn send(&mut self, message: &str) -> bool {
        let was_full = self.is_full;
        self.is_full = match self.try_to_send(message) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => {
                tracing::warn!("the service manager (NOTIFY_SOCKET) cannot be notified: {error}");
                false
            }
        };
        if self.is_full && !was_full {
            tracing::warn!(
                "the service manager does not read its socket (NOTIFY_SOCKET); it is notified later"
            );
        }
        !self.is_full
    }

    fn try_to_send(&self, message: &str) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address).map(drop)
    }
}
