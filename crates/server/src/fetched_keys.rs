//! Keys by URL: JWK Sets that a thread fetches again and again.

use std::sync::Arc;
use std::time::Duration;

use fanfare_access::{JwksError, JwksFetcher, JwksOptions, JwksSource, JwksStatus, KeyRing};
use fanfare_config::{HttpUrl, Settings};

/// The time before the next fetch when one has failed.
const RETRY: Duration = Duration::from_secs(10);

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
    /// Starts the thread, which fetches at once. The log names the option.
    ///
    /// # Errors
    /// The system gives no thread, or the URL cannot be fetched.
    pub(crate) fn start(
        from: KeysByUrl,
        ring: Arc<KeyRing>,
        option: &'static str,
    ) -> Result<FetchedKeys, String> {
        let mut options = JwksOptions::default();
        options.refresh = from.refresh;
        options.retry = RETRY;
        let source = from.source().map_err(|error| error.to_string())?;
        let log = FetchLog::new(option);
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
    last: std::sync::Mutex<Option<JwksStatus>>,
}

impl FetchLog {
    fn new(option: &'static str) -> FetchLog {
        FetchLog { option, last: std::sync::Mutex::new(None) }
    }

    fn note(&self, status: &JwksStatus) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
