//! Keys by URL: JWK Sets that a thread fetches again and again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanfare_access::{JwksError, JwksFetcher, JwksOptions, JwksSource, JwksStatus, KeyRing, KeySet};
use fanfare_config::{HttpUrl, Settings};

/// The time before the next fetch when one has failed.
const RETRY: Duration = Duration::from_secs(10);

/// The line of the log where a key that let subscribers in is removed.
pub(crate) const KEY_REMOVED: &str = "a key of subscribers was removed; streams that it has let in go on until \
    their tokens expire, and DELETE /connections?subject=NAME or ?token=JTI ends them";

/// Where keys are fetched, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeysByUrl {
    url: String,
    may_be_plain: bool,
    refresh: Duration,
}

/// A thread that fetches keys. It ends when this is dropped, for which no descriptor is needed.
#[derive(Debug)]
pub(crate) struct FetchedKeys {
    from: KeysByUrl,
    _fetcher: JwksFetcher,
}

impl KeysByUrl {
    /// The keys of this URL, fetched as the settings say.
    pub(crate) fn of(url: Option<&HttpUrl>, settings: &Settings) -> Option<KeysByUrl> {
        Some(KeysByUrl {
            url: url?.as_str().to_owned(),
            may_be_plain: settings.plain_http,
            refresh: settings.jwks_refresh,
        })
    }

    /// Whether both are fetched from one place.
    pub(crate) fn is_same_place(&self, other: &KeysByUrl) -> bool {
        self.url == other.url
    }

    /// What can be wrong with the URL.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.source().map(drop).map_err(|error| error.to_string())
    }

    fn source(&self) -> Result<JwksSource, JwksError> {
        match self.may_be_plain {
            true => JwksSource::unprotected_url(&self.url),
            false => JwksSource::url(&self.url),
        }
    }
}

impl FetchedKeys {
    /// Starts the thread, which fetches at once. The log names the option. `let_streams_in`: there may be
    /// streams that these keys have let in.
    ///
    /// # Errors
    /// The system gives no thread, or the URL cannot be fetched.
    pub(crate) fn start(
        from: KeysByUrl,
        ring: Arc<KeyRing>,
        option: &'static str,
        let_streams_in: bool,
    ) -> Result<FetchedKeys, String> {
        let mut options = JwksOptions::default();
        options.refresh = from.refresh;
        options.retry = RETRY;
        let source = from.source().map_err(|error| error.to_string())?;
        let log = FetchLog::new(option, let_streams_in.then(|| Arc::clone(&ring)));
        let fetcher = JwksFetcher::start(source, options, ring, move |status| log.note(status));
        Ok(FetchedKeys { from, _fetcher: fetcher.map_err(|error| error.to_string())? })
    }

    /// Where they come from.
    pub(crate) fn from(&self) -> &KeysByUrl {
        &self.from
    }
}

/// Says in the log when the fetches begin to fail, fail for another reason, or succeed again.
struct FetchLog {
    option: &'static str,
    last: Mutex<Option<JwksStatus>>,
    /// The keys of subscribers, and what they were at the last look.
    subscribers: Option<(Arc<KeyRing>, Mutex<KeySet>)>,
}

impl FetchLog {
    fn new(option: &'static str, subscribers: Option<Arc<KeyRing>>) -> FetchLog {
        let subscribers = subscribers.map(|ring| {
            let keys = Mutex::new(ring.keys());
            (ring, keys)
        });
        FetchLog { option, last: Mutex::default(), subscribers }
    }

    /// Whether a key of subscribers is not there any more since the last look.
    fn has_lost_key(&self) -> bool {
        let Some((ring, keys)) = &self.subscribers else { return false };
        let now = ring.keys();
        let before =
            std::mem::replace(&mut *keys.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
        now.lacks_some_of(&before)
    }

    fn note(&self, status: &JwksStatus) {
        if self.has_lost_key() {
            tracing::warn!(option = self.option, "{KEY_REMOVED}");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(status.clone());
        let (option, keys, skipped) = (self.option, status.keys, status.skipped);
        match &status.error {
            Some(error) if before.as_ref().and_then(|before| before.error.as_ref()) != Some(error) => {
                let error = error.to_string();
                tracing::warn!(option, error, keys, "keys could not be fetched; the last good ones hold");
            }
            None if before.is_none_or(|before| before.error.is_some() || before.keys != keys) => {
                tracing::info!(option, keys, skipped, "keys were fetched");
            }
            _ => {}
        }
    }
}
