//! JWK Sets that change: a thread reads them again and again, from a file or a URL, and keeps the last good
//! one.

#[cfg(feature = "url")]
mod http;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::KeyError;
use crate::keys::{KeySet, MAX_KEY_TEXT_BYTES};
use crate::ring::{KeyRing, Signal, Waited};

/// Where a JWK Set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSource(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    #[cfg(feature = "url")]
    Url(String),
}

impl JwksSource {
    /// A file. It may have shared secrets.
    pub fn file(path: impl Into<PathBuf>) -> JwksSource {
        JwksSource(Source::File(path.into()))
    }

    /// A URL with the scheme `https`, or with `http` where the host is a loopback address. Shared secrets in
    /// the set are left out, because others can read them.
    ///
    /// # Errors
    /// [`JwksError::Url`]: the scheme is another one, there is no host, the URL has a user and a password, or
    /// this crate was built without the feature `https`.
    #[cfg(feature = "url")]
    pub fn url(url: &str) -> Result<JwksSource, JwksError> {
        http::check(url, false).map(|()| JwksSource(Source::Url(url.to_owned())))
    }

    /// A URL as in [`JwksSource::url`], or one with `http` and any host. It is safe only in a network that no
    /// stranger can write to: another answer is another set of keys, and with it access to everything.
    ///
    /// # Errors
    /// As [`JwksSource::url`].
    #[cfg(feature = "url")]
    pub fn unprotected_url(url: &str) -> Result<JwksSource, JwksError> {
        http::check(url, true).map(|()| JwksSource(Source::Url(url.to_owned())))
    }
}

/// How a JWK Set is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwksOptions {
    /// The time between two fetches when nothing is wrong.
    pub refresh: Duration,
    /// The time before the next fetch when one has failed.
    pub retry: Duration,
    /// The least time between two fetches. An unknown `kid` asks for a fetch; this bounds how often it gets
    /// one.
    pub least_pause: Duration,
    /// The time for a whole fetch by URL, from the look-up of the host to the last byte.
    pub timeout: Duration,
    /// The longest set, in bytes.
    pub max_bytes: usize,
    /// The certificates, in PEM, that the server of the URL is trusted by; `None`: those of the system.
    pub root_certificates_pem: Option<String>,
}

impl Default for JwksOptions {
    /// Refreshed every 5 minutes, retried after 30 seconds, never more often than every 10 seconds; at most 5
    /// seconds for a fetch, and 256 KiB.
    fn default() -> JwksOptions {
        JwksOptions {
            refresh: Duration::from_secs(300),
            retry: Duration::from_secs(30),
            least_pause: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            max_bytes: MAX_KEY_TEXT_BYTES,
            root_certificates_pem: None,
        }
    }
}

/// Why a fetch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwksError {
    /// The URL cannot be used.
    Url(&'static str),
    /// The file or the connection failed.
    Io(String),
    /// The answer was not complete in time.
    TimedOut,
    /// The answer has another status than 200. Redirections are not followed.
    Status(u16),
    /// The set is longer than the bound.
    TooLarge,
    /// The text is not UTF-8.
    NotUtf8,
    /// The text is no JWK Set with usable keys.
    Keys(KeyError),
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksError::Url(what) => write!(f, "the URL of the JWK Set cannot be used: {what}"),
            JwksError::Io(error) => write!(f, "the JWK Set cannot be read: {error}"),
            JwksError::TimedOut => f.write_str("the JWK Set was not complete in time"),
            JwksError::Status(status) => write!(f, "the JWK Set was answered with the status {status}"),
            JwksError::TooLarge => f.write_str("the JWK Set is too large"),
            JwksError::NotUtf8 => f.write_str("the JWK Set is not UTF-8"),
            JwksError::Keys(error) => write!(f, "the JWK Set has no usable keys: {error}"),
        }
    }
}

impl std::error::Error for JwksError {}

/// What has been fetched so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwksStatus {
    /// All fetches that have ended.
    pub fetches: u64,
    /// The fetches that failed.
    pub failures: u64,
    /// Why the last fetch failed; `None`: it succeeded, or there was none yet.
    pub error: Option<JwksError>,
    /// The usable keys of the last good set.
    pub keys: usize,
    /// The keys of the last good set that are not supported.
    pub skipped: usize,
}

/// A thread that keeps the fetched keys of a [`KeyRing`] up to date.
///
/// A fetch that fails changes nothing: the last good set stays, however old it is. So an identity provider
/// that is down locks no subscriber out, and a key that it has withdrawn meanwhile stays good until it is up
/// again.
///
/// Dropping this ends the thread, at the latest after the fetch that is going on. The keys of the ring do not
/// change from then on: a new fetcher replaces them with its first good set, and [`KeyRing::set_fetched`] can
/// remove them.
#[derive(Debug)]
pub struct JwksFetcher {
    signal: Arc<Signal>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<JwksStatus>,
    changed: Condvar,
}

impl JwksFetcher {
    /// Starts the thread. It fetches at once, and calls `observe` after each fetch, for logs and counters.
    ///
    /// A ring has one fetcher: drop the one before. An unknown `kid` asks the newest one.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        source: JwksSource,
        options: JwksOptions,
        ring: Arc<KeyRing>,
        observe: impl Fn(&JwksStatus) + Send + 'static,
    ) -> io::Result<JwksFetcher> {
        let (shared, signal) = (Arc::new(Shared::default()), Arc::new(Signal::default()));
        let fetches = Fetches { source, options, ring: ring.clone(), signal: signal.clone() };
        let thread_shared = shared.clone();
        thread::Builder::new().name("fanfare-jwks".to_owned()).spawn(move || {
            fetches.run(&thread_shared, &observe);
        })?;
        ring.set_signal(signal.clone());
        Ok(JwksFetcher { signal, shared })
    }

    /// What has been fetched so far.
    pub fn status(&self) -> JwksStatus {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this many fetches have ended. Answers whether they have within `most`.
    pub fn wait_for_fetches(&self, fetches: u64, most: Duration) -> bool {
        let status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |status: &mut JwksStatus| status.fetches < fetches;
        let waited = self.shared.changed.wait_timeout_while(status, most, goes_on);
        waited.unwrap_or_else(PoisonError::into_inner).0.fetches >= fetches
    }

    /// Asks for a fetch soon, within the least pause.
    pub fn refresh(&self) {
        self.signal.ask();
    }
}

impl Drop for JwksFetcher {
    fn drop(&mut self) {
        self.signal.stop();
    }
}

/// The work of the thread.
struct Fetches {
    source: JwksSource,
    options: JwksOptions,
    ring: Arc<KeyRing>,
    signal: Arc<Signal>,
}

impl Fetches {
    fn run(&self, shared: &Shared, observe: &dyn Fn(&JwksStatus)) {
        loop {
            self.signal.begin();
            let fetched = self.fetch();
            let pause = if fetched.is_ok() { self.options.refresh } else { self.options.retry };
            observe(&self.note(fetched, shared));
            if self.signal.wait(self.options.least_pause, false) == Waited::Stopped
                || self.signal.wait(pause.saturating_sub(self.options.least_pause), true) == Waited::Stopped
            {
                return;
            }
        }
    }

    /// Puts the keys into use, and then reports them.
    fn note(&self, fetched: Result<KeySet, JwksError>, shared: &Shared) -> JwksStatus {
        let mut status = shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.fetches += 1;
        match fetched {
            Ok(keys) => {
                (status.keys, status.skipped) = (keys.keys().len(), keys.skipped());
                status.error = None;
                self.signal.unless_stopped(|| self.ring.set_fetched(keys));
            }
            Err(error) => {
                status.failures += 1;
                status.error = Some(error);
            }
        }
        shared.changed.notify_all();
        status.clone()
    }

    fn fetch(&self) -> Result<KeySet, JwksError> {
        match &self.source.0 {
            Source::File(path) => {
                let file = File::open(path).map_err(|error| JwksError::Io(error.to_string()))?;
                let text = read_bounded(file, self.options.max_bytes)?;
                KeySet::from_jwks(&text).map_err(JwksError::Keys)
            }
            #[cfg(feature = "url")]
            Source::Url(url) => {
                let text = http::get(url, &self.options)?;
                KeySet::from_public_jwks(&text).map_err(JwksError::Keys)
            }
        }
    }
}

/// Reads a text of at most so many bytes.
fn read_bounded(from: impl Read, max_bytes: usize) -> Result<String, JwksError> {
    let mut bytes = Vec::new();
    let most = max_bytes as u64 + 1;
    from.take(most).read_to_end(&mut bytes).map_err(|error| JwksError::Io(error.to_string()))?;
    if bytes.len() > max_bytes {
        return Err(JwksError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| JwksError::NotUtf8)
}
