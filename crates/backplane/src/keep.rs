//! Small values that all nodes share and that stay: settings, and what is revoked.
//!
//! They are in the bucket `<STREAM>_state`, beside the epoch, below `shared.`.

use std::sync::Arc;
use std::time::Duration;

use crate::consumer::{Ended, Filter, Reading, Received};
use crate::message::Stored;
use crate::shared::Shared;

/// After so long without a sign of life the watch begins anew.
const SILENCE: Duration = Duration::from_secs(3);

/// What is called with a key and its value; `None`: it was deleted.
pub(crate) type Watcher = dyn Fn(&str, Option<&[u8]>) + Send + Sync;

/// Why a shared value was not read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepError(pub(crate) String);

/// A key of a shared value in the bucket. `None`: it is no key.
pub(crate) fn key_in_bucket(key: &str) -> Option<String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_key = (1..=128).contains(&key.len()) && key.bytes().all(is_legal);
    is_key.then(|| format!("shared.{key}"))
}

/// Calls `watcher` with all values, and with each change, until the end. After a new connection it is called
/// with all of them again.
pub(crate) async fn watch(shared: Arc<Shared>, watcher: Arc<Watcher>) {
    let prefix = shared.bucket.subject("shared.");
    let filter = Filter { subject: Some(format!("{prefix}>")), headers_only: false };
    let mut reading = Reading::new(shared.bucket.api().clone(), filter, 1);
    while !shared.has_ended() {
        if shared.link.generation().is_none() {
            shared.link.changed().await;
            continue;
        }
        match reading.next(SILENCE).await {
            Ok(Received::Message(message)) => {
                let Stored { subject, payload, .. } = &message.stored;
                let Some(key) = subject.strip_prefix(&*prefix) else { continue };
                watcher(key, (!is_deleted(&message.stored)).then_some(payload));
            }
            Ok(Received::Heartbeat | Received::Unreadable(_)) => {}
            Err(Ended::Gap) => {}
            Err(_) => {
                // The bucket may be another one now, or have lost its last values.
                reading.restart(1);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Whether a message of a bucket says that the key was deleted.
pub(crate) fn is_deleted(message: &Stored) -> bool {
    let operation = message.headers.as_ref().and_then(|headers| headers.get_last("KV-Operation"));
    operation.is_some_and(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

impl KeepError {
    pub(crate) fn of_key(key: &str) -> KeepError {
        KeepError(format!("{key:?} is no key; use 1 to 128 letters, digits, '-' and '_'"))
    }
}

impl std::fmt::Display for KeepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeepError {}
