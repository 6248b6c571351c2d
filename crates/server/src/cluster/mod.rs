//! Servers that share a log on NATS JetStream (`--nats`) are a cluster.

pub(crate) mod orders;
pub(crate) mod peers;
pub(crate) mod settings;
pub(crate) mod topic_settings;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use fanfare_backplane::{NatsBackplane, NatsOptions};
use fanfare_config::{NatsUrl, Settings};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::health::{Health, SharedLogState};
use crate::presence::Presence;
use crate::restart;
use peers::Peers;

/// What a file with a login has at most, in bytes.
const LOGIN_BYTES: u64 = 4096;

/// Connects with the stream, and says in the log of the server what is there. `None`: the server is alone.
///
/// # Errors
/// The stream cannot be used: why, and what to do.
///
/// Where the server starts again because its log has broken off, it tries until a signal ends it: NATS may
/// have troubles of its own then.
pub(crate) fn connect(
    settings: &Settings,
    signals: &mut Signals,
) -> Result<Option<Arc<NatsBackplane>>, String> {
    if settings.nats.is_empty() {
        return Ok(None);
    }
    let started_again = restart::started_again();
    let mut options = options(settings)?;
    if let Some(epoch) = started_again.as_ref().and_then(|before| before.epoch_over) {
        options = options.epoch_is_over(epoch);
    }
    let backplane = loop {
        match NatsBackplane::connect(options.clone()) {
            Ok(backplane) => break backplane,
            Err(error) if started_again.is_some() && error.is_passing() => {
                tracing::error!("the shared log cannot be used, and is tried again: {error}");
                if signals.pending().any(|signal| [SIGTERM, SIGINT].contains(&signal)) {
                    return Err("a signal has ended the start".to_owned());
                }
            }
            Err(error) => return Err(format!("--nats: {error}")),
        }
    };
    let status = backplane.status();
    tracing::info!(
        stream = settings.stream,
        server = status.server_version,
        events = status.stream_messages,
        size = %ByteSize::b(status.stream_bytes),
        newest = status.stream_last,
        "the shared log is open"
    );
    for difference in backplane.differences() {
        tracing::warn!(stream = settings.stream, "the stream is used as it is: {difference}");
    }
    Ok(Some(backplane))
}

fn options(settings: &Settings) -> Result<NatsOptions, String> {
    let servers = settings.nats.iter().map(NatsUrl::as_str);
    let mut options = NatsOptions::new(servers)
        .stream(&settings.stream)
        .prefix(&settings.subject_prefix)
        .replicas(settings.stream_replicas)
        .max_age(settings.stream_age)
        .max_bytes(settings.stream_bytes as u64)
        .submit_wait(settings.nats_wait);
    if let Some(path) = &settings.nats_login {
        options = match read_login(path)? {
            Login::User(user, password) => options.user(user, password),
            Login::Token(token) => options.token(token),
        };
    }
    if let Some(path) = &settings.nats_credentials {
        options = options.credentials_file(path);
    }
    if let Some(path) = &settings.nats_ca {
        options = options.ca_file(path);
    }
    if let (Some(certificate), Some(key)) = (&settings.nats_certificate, &settings.nats_key) {
        options = options.client_certificate(certificate, key);
    }
    Ok(options)
}

/// What a file of --nats-login has.
#[derive(Debug, PartialEq, Eq)]
enum Login {
    User(String, String),
    Token(String),
}

fn read_login(path: &Path) -> Result<Login, String> {
    let failed = |text: &str| format!("--nats-login: {} {text}", path.display());
    let length = fs::metadata(path).map_err(|error| failed(&format!("cannot be read: {error}")))?.len();
    if length > LOGIN_BYTES {
        return Err(failed("is no login: it is too long"));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(&format!("cannot be read: {error}")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    if line.is_empty() || line.contains(['\n', '\r']) {
        return Err(failed("is no login: write one line, USER:PASSWORD or a token"));
    }
    Ok(match line.split_once(':') {
        Some((user, password)) => Login::User(user.to_owned(), password.to_owned()),
        None => Login::Token(line.to_owned()),
    })
}

/// Looks after the connection with the shared log: readiness, and lines of the log of the server.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    before: Option<SharedLogState>,
    error: Option<String>,
    looks: u64,
    silent_until: u64,
}

/// Looks between two lines about errors: five seconds.
const LOOKS_BETWEEN_ERRORS: u64 = 10;

impl Watch {
    /// Notes how things stand, and says what has changed.
    pub(crate) fn look(&mut self, backplane: &NatsBackplane, health: &Health) {
        let status = backplane.status();
        let state = match (status.is_connected, status.is_caught_up) {
            (_, true) => SharedLogState::CaughtUp,
            (true, false) => SharedLogState::Behind,
            (false, false) => SharedLogState::Unreachable,
        };
        health.set_shared_log(state);
        let before = self.before.replace(state);
        // A server that starts is behind at first.
        if before != Some(state) && (before.is_some() || state != SharedLogState::Behind) {
            match state {
                SharedLogState::CaughtUp => {
                    tracing::info!(
                        newest = status.stream_last,
                        "this server has caught up with the shared log"
                    );
                }
                SharedLogState::Behind => {
                    tracing::warn!(events = status.behind, "this server is behind the shared log");
                }
                SharedLogState::Unreachable => tracing::error!(
                    "the shared log cannot be reached: publishes are refused until it can, and subscribers stay"
                ),
            }
        }
        self.looks += 1;
        let is_new = status.last_error.is_some() && status.last_error != self.error;
        // Errors that alternate are not worth a line each.
        if is_new && self.looks >= self.silent_until {
            self.silent_until = self.looks + LOOKS_BETWEEN_ERRORS;
            tracing::warn!("the shared log: {}", status.last_error.as_deref().unwrap_or_default());
        }
        self.error = status.last_error;
    }
}

/// The messages about presence.
const PRESENCE: &str = "presence";

/// The other servers, for presence.
#[derive(Debug)]
struct NatsPeers(Arc<NatsBackplane>);

impl Peers for NatsPeers {
    fn own_name(&self) -> &str {
        self.0.node_name()
    }

    fn others(&self) -> Vec<String> {
        self.0.others()
    }

    fn broadcast(&self, payload: Vec<u8>) -> bool {
        let told = self.0.broadcast(PRESENCE, payload);
        told.inspect_err(|error| tracing::debug!(%error, "other servers are not told of presence")).is_ok()
    }
}

/// The other servers, for presence.
pub(crate) fn peers(backplane: &Arc<NatsBackplane>) -> Arc<dyn Peers> {
    Arc::new(NatsPeers(Arc::clone(backplane)))
}

/// Gives what other servers tell of presence to this one.
pub(crate) fn hear_presence(backplane: &NatsBackplane, presence: &Arc<Presence>) -> Result<(), String> {
    let presence = Arc::clone(presence);
    let heard = backplane.on_message(PRESENCE, move |from, payload| presence.take_in(from, payload));
    heard.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_one_line() {
        let path = std::env::temp_dir().join(format!("fanfare-login-{}", std::process::id()));
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            read_login(&path)
        };
        assert_eq!(read("me:p@ss/w:rd\n"), Ok(Login::User("me".to_owned(), "p@ss/w:rd".to_owned())));
        assert_eq!(read("t0ken~"), Ok(Login::Token("t0ken~".to_owned())));
        for text in ["", "\n", "a\nb\n", "a\r\n"] {
            assert!(read(text).unwrap_err().contains("write one line"), "{text:?}");
        }
        assert!(read(&"x".repeat(5000)).unwrap_err().contains("too long"));
        fs::remove_file(&path).unwrap();
        assert!(read_login(&path).unwrap_err().contains("cannot be read"));
    }
}
