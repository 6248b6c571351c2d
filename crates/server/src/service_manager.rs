//! Notifications to the service manager: systemd's `Type=notify`, its watchdog, and reloads (sd_notify(3)).
//!
//! Without the variable `NOTIFY_SOCKET` nothing is sent. The order of calls is [`ServiceManager::ready`],
//! then [`ServiceManager::alive`] again and again with pairs of [`ServiceManager::reloading`] and
//! [`ServiceManager::reloaded`] between them, then [`ServiceManager::stopping`].

use std::time::Duration;

use sd_notify::NotifyState;

/// The time of a stop beside its drain.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The service manager that has started this process, if one has.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// The service manager restarts a server that is silent for so long.
    watchdog: Option<Duration>,
    /// The time of the last notification that the server is alive, by any clock.
    alive_at: Option<Duration>,
    /// The number of connections in the last notification.
    connections: Option<u64>,
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
        ServiceManager { watchdog, alive_at: None, connections: None }
    }

    /// The server listens.
    pub(crate) fn ready(&mut self, connections: u64) {
        self.connections = Some(connections);
        send(&[NotifyState::Ready, NotifyState::Status(&of(connections))]);
    }

    /// The server is alive. Calls that are more frequent than the service manager needs send nothing. `now`
    /// is the time of any clock.
    pub(crate) fn alive(&mut self, now: Duration, connections: u64) {
        let Some(interval) = self.watchdog.map(|watchdog| watchdog / 4) else { return };
        if self.alive_at.is_some_and(|alive_at| now.saturating_sub(alive_at) < interval) {
            return;
        }
        self.alive_at = Some(now);
        if self.connections.replace(connections) == Some(connections) {
            send(&[NotifyState::Watchdog]);
        } else {
            send(&[NotifyState::Watchdog, NotifyState::Status(&of(connections))]);
        }
    }

    /// The server has begun to read its configuration again.
    pub(crate) fn reloading(&mut self) {
        // From version 253 on, systemd ignores a reload without the time.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// The server has read its configuration; `outcome` is the result in one line.
    pub(crate) fn reloaded(&mut self, outcome: &str) {
        self.connections = None;
        send(&[NotifyState::Ready, NotifyState::Status(outcome)]);
    }

    /// The server has begun a drain of this time, in which it does not show that it is alive.
    pub(crate) fn stopping(&mut self, connections: u64, drain: Duration) {
        let time = drain.saturating_add(STOP_MARGIN);
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let status = format!("draining {}", of(connections));
        let all = [
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(microseconds),
            NotifyState::Status(&status),
            NotifyState::WatchdogUsec(microseconds),
        ];
        // A watchdog that is off stays off.
        send(if self.watchdog.is_some() { &all } else { &all[..3] });
    }
}

fn of(connections: u64) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// A failure is logged and ends nothing: the server works without its service manager.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager (NOTIFY_SOCKET) cannot be notified: {error}");
    }
}
