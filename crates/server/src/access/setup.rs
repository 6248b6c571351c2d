//! Which keys and rules hold: [`Access`] as the configuration has it, at the start and after a reload.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fanfare_access::{
    Algorithm, AudienceRule, Key, KeyRing, KeySet, TokenPlaces, TokenRules, UrlSigner, Verifier,
};
use fanfare_config::{KeyFile, Listen, Place, Problem, Problems, Settings, Values};

use super::Access;
use crate::clock::unix_time;
use crate::configuration::ConfigurationError;
use crate::fetched_keys::{FetchedKeys, KeysByUrl};
use crate::forward::{Forward, ForwardOptions};
use crate::key_files;
use crate::listen::Listening;
use crate::revocations_file::RevocationsFile;

/// The options of files of keys, of subscribers and of publishers.
const KEY_OPTIONS: [&str; 2] = ["subscriber-keys", "publisher-keys"];

impl Access {
    /// Reads the files of keys. Keys that have not changed since `before` stay, with the tokens that are
    /// remembered for them.
    ///
    /// # Errors
    /// A file cannot be used, or the options do not go together.
    pub(crate) fn of(
        settings: &Settings,
        values: &Values,
        before: &Access,
    ) -> Result<Access, ConfigurationError> {
        let mut rules = TokenRules::default();
        rules.audience = match settings.audience.as_slice() {
            [] => AudienceRule::None,
            names => AudienceRule::OneOf(names.to_vec()),
        };
        rules.issuers = settings.issuer.clone();
        rules.leeway_s = settings.leeway.as_secs();
        let mut places = TokenPlaces::default();
        places.cookie = settings.token_cookie.clone();
        places.query = settings.token_in_query;
        let mut problems = Vec::new();
        let mut report = |name: &str, text: String| {
            let place = values.place(name).cloned().unwrap_or(Place::Default);
            problems.push(Problem { place, text });
        };
        let revocations = Arc::clone(&before.revocations);
        for (name, by_url) in ["subscriber-jwks", "publisher-jwks"].into_iter().zip(keys_by_url(settings)) {
            if let Some(Err(text)) = by_url.map(|by_url| by_url.check()) {
                report(name, text);
            }
        }
        let mut verifier = |index: usize, files: &[KeyFile], old: &Option<Arc<Verifier>>| {
            let (name, by_url) = (KEY_OPTIONS[index], &keys_by_url(settings)[index]);
            if files.is_empty() && by_url.is_none() {
                return None;
            }
            let keys = match files {
                [] => KeySet::default(),
                files => key_files::key_set(files).map_err(|text| report(name, text)).ok()?,
            };
            let fetched_before = before.fetched[index].as_ref().map(|fetched| fetched.from());
            let is_same = before.rules == rules && by_url.as_ref() == fetched_before;
            let same = old.as_ref().filter(|old| is_same && has_fixed_keys(old, &keys));
            Some(same.cloned().unwrap_or_else(|| {
                let ring = KeyRing::of(keys);
                // Keys that were fetched from the same place stay good until the next fetch.
                if let (Some(old), Some(by_url), Some(from)) = (old, by_url, fetched_before)
                    && by_url.is_same_place(from)
                    && let Some(fetched) = old.keys().fetched()
                {
                    ring.set_fetched(fetched);
                }
                let verifier = Verifier::new(Arc::new(ring), rules.clone());
                Arc::new(verifier.with_revocations(Arc::clone(&revocations)))
            }))
        };
        let subscribers = verifier(0, &settings.subscriber_keys, &before.subscribers);
        let publishers = verifier(1, &settings.publisher_keys, &before.publishers);
        let (mut urls, mut url_keys) = (None, KeySet::default());
        if !settings.url_keys.is_empty() {
            match key_files::secrets(&settings.url_keys).and_then(|secrets| url_signer(&secrets)) {
                Ok((signer, keys)) => {
                    (urls, url_keys) = (Some(signer.with_revocations(Arc::clone(&revocations))), keys);
                }
                Err(text) => report("url-keys", text),
            }
        }
        if let Some(Err(text)) = ForwardOptions::of(settings).map(|options| options.check()) {
            report("authorize-url", text);
        }
        if !problems.is_empty() {
            return Err(ConfigurationError::Together(Problems(problems)));
        }
        Ok(Access {
            revocations_file: before.revocations_file.clone(),
            fetched: [None, None],
            forward: None,
            subscribers,
            publishers,
            urls,
            url_keys,
            places,
            rules,
            anonymous_subscribe: settings.anonymous_subscribe,
            has_presence: Arc::clone(&before.has_presence),
            debug: settings.debug_auth,
            revocations,
            random: AtomicU64::new(RandomState::new().hash_one(0)),
        })
    }

    /// The state before the first configuration: the revocations that a file has kept.
    ///
    /// # Errors
    /// The file cannot be used. The text names the option.
    pub(crate) fn before(settings: &Settings) -> Result<Access, String> {
        let mut access = Access::default();
        access.set_presence(!settings.presence.is_empty());
        if let Some(path) = &settings.revocations_file {
            let file = RevocationsFile::open(path, &access.revocations, unix_time().as_secs());
            let file = file.map_err(|error| format!("--revocations-file: {error}"))?;
            access.revocations_file = Some(Arc::new(file));
        }
        Ok(access)
    }

    /// Starts the threads that ask endpoints. A thread with the same options as before goes on.
    ///
    /// # Errors
    /// The system gives no thread. The text names the option.
    pub(crate) fn start(&mut self, settings: &Settings, before: &Access) -> Result<(), String> {
        let sides = [(&self.subscribers, &before.subscribers), (&self.publishers, &before.publishers)];
        for (index, (by_url, (verifier, old))) in keys_by_url(settings).into_iter().zip(sides).enumerate() {
            let (Some(by_url), Some(verifier)) = (by_url, verifier) else { continue };
            let goes_on = old.as_ref().is_some_and(|old| Arc::ptr_eq(old, verifier));
            let same = before.fetched[index].as_ref().filter(|_| goes_on);
            self.fetched[index] = Some(match same {
                Some(fetched) => Arc::clone(fetched),
                None => {
                    let option = ["--subscriber-jwks", "--publisher-jwks"][index];
                    let let_streams_in = index == 0;
                    let ring = Arc::clone(verifier.keys());
                    let fetched = FetchedKeys::start(by_url, ring, option, let_streams_in);
                    Arc::new(fetched.map_err(|error| format!("{option}: {error}"))?)
                }
            });
        }
        if let Some(options) = ForwardOptions::of(settings) {
            let same = before.forward.as_ref().filter(|forward| *forward.options() == options);
            self.forward = Some(match same {
                Some(forward) => Arc::clone(forward),
                None => {
                    Arc::new(Forward::start(options).map_err(|error| format!("--authorize-url: {error}"))?)
                }
            });
        }
        Ok(())
    }

    /// The options whose files have other keys than before, although the options are the same.
    pub(crate) fn changed_keys(&self, before: &Access) -> Vec<&'static str> {
        let [subscribers, publishers] = KEY_OPTIONS;
        let pairs = [
            (subscribers, &self.subscribers, &before.subscribers),
            (publishers, &self.publishers, &before.publishers),
        ];
        let differs = |new: &Option<Arc<Verifier>>, old: &Option<Arc<Verifier>>| match (new, old) {
            (Some(new), Some(old)) => !has_fixed_keys(old, &new.keys().fixed()),
            _ => false,
        };
        let changed = pairs.into_iter().filter(|(_, new, old)| differs(new, old)).map(|(name, _, _)| name);
        let have_url_keys = self.urls.is_some() && before.urls.is_some();
        let has_other_url_keys = have_url_keys && !self.url_keys.is_same(&before.url_keys);
        changed.chain(has_other_url_keys.then_some("url-keys")).collect()
    }

    /// The options by which a key has let subscribers in before, and does not any more.
    pub(crate) fn removed_subscriber_keys(&self, before: &Access) -> Vec<&'static str> {
        let ring = |access: &Access| access.subscribers.as_ref().map(|verifier| Arc::clone(verifier.keys()));
        let (now, before_ring) = (ring(self), ring(before));
        let now = now.map(|ring| ring.keys()).unwrap_or_default();
        let fixed = before_ring.as_ref().map(|ring| ring.fixed());
        let fetched = before_ring.as_ref().and_then(|ring| ring.fetched());
        let removed = [
            ("subscriber-keys", now.lacks_some_of(&fixed.unwrap_or_default())),
            ("subscriber-jwks", now.lacks_some_of(&fetched.unwrap_or_default())),
            ("url-keys", self.url_keys.lacks_some_of(&before.url_keys)),
        ];
        removed.into_iter().filter(|(_, is_removed)| *is_removed).map(|(name, _)| name).collect()
    }
}

/// Refuses to let everyone into a server that has had keys, unless that is asked for. A file that an editor
/// or a full disk has left empty says that there are no keys, too.
///
/// # Errors
/// The server has keys, and the new configuration names none and has no `open`.
pub(crate) fn check_keys_stay(
    settings: &Settings,
    values: &Values,
    before: &Access,
) -> Result<(), ConfigurationError> {
    let has_keys = !settings.publisher_keys.is_empty() || settings.publisher_jwks.is_some();
    if !before.has_keys() || has_keys || settings.open {
        return Ok(());
    }
    let text = "this server has keys, and without publisher-keys everyone could subscribe and publish; name the keys, \
                or let everyone in by open = true";
    let place = values.place("publisher-keys").cloned().unwrap_or(Place::Default);
    Err(ConfigurationError::Together(Problems(vec![Problem { place, text: text.to_owned() }])))
}

/// Refuses to let everyone in from everywhere, unless that is asked for.
///
/// # Errors
/// The server has no keys, listens on an address that is not loopback, and has no `open`.
pub(crate) fn check_open(
    settings: &Settings,
    values: &Values,
    listening: &Listening,
) -> Result<(), ConfigurationError> {
    let has_keys = !settings.publisher_keys.is_empty() || settings.publisher_jwks.is_some();
    let reachable = listening.addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    let Some(address) = reachable.filter(|_| !has_keys && !settings.open) else { return Ok(()) };
    let name = if settings.listen.contains(&Listen::Tcp(*address)) { "listen" } else { "listen-proxy" };
    let text = format!(
        "the server has no keys, so everyone who reaches {address} could subscribe and publish; give it \
         --publisher-keys and --subscriber-keys, listen on a loopback address, or let everyone in by --open"
    );
    let place = values.place(name).cloned().unwrap_or(Place::Default);
    Err(ConfigurationError::Together(Problems(vec![Problem { place, text }])))
}

/// Whether these are the keys of a verifier that are not fetched.
fn has_fixed_keys(verifier: &Verifier, keys: &KeySet) -> bool {
    verifier.keys().fixed().is_same(keys)
}

/// The signer of URLs by these secrets, and the same secrets as keys.
fn url_signer(secrets: &[Vec<u8>]) -> Result<(UrlSigner, KeySet), String> {
    let signer = UrlSigner::new(secrets.iter().map(Vec::as_slice)).map_err(|error| error.to_string())?;
    let keys: Result<Vec<Key>, _> =
        secrets.iter().map(|secret| Key::from_secret(Algorithm::Hs256, secret)).collect();
    let keys = keys.and_then(KeySet::new).map_err(|error| error.to_string())?;
    Ok((signer, keys))
}

/// The places from which the keys of subscribers and of publishers are fetched.
fn keys_by_url(settings: &Settings) -> [Option<KeysByUrl>; 2] {
    [&settings.subscriber_jwks, &settings.publisher_jwks].map(|url| KeysByUrl::of(url.as_ref(), settings))
}
