//! Which subscribers and publishers are let in: the keys, and what a token allows.
//!
//! A subscription is judged on the thread of a shard. Nothing here uses a descriptor: keys were read before, and the
//! wall clock needs none. A token that was verified before costs one hash.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fanfare::{Event, InvalidHeader, Refusal, RequestHead, Subscribe, Topic};
use fanfare_access::{
    AccessError, AudienceRule, KeyRing, KeySet, MemoryLimits, Pattern, Place as TokenPlace, Revocations,
    Revoked, Sight, TokenPlaces, TokenRules, Uncovered, UrlSigner, Verified, Verifier, stream_lifetime,
};
use fanfare_config::{Listen, Place, Problem, Problems, Settings, Values};

use crate::clock::unix_time;
use crate::configuration::ConfigurationError;
use crate::key_files;
use crate::listen::Listening;

/// The longest part of a topic that a refusal repeats, in characters.
const SHOWN: usize = 100;

/// The keys and the rules at one time.
#[derive(Debug, Default)]
pub(crate) struct Access {
    subscribers: Option<Arc<Verifier>>,
    publishers: Option<Arc<Verifier>>,
    urls: Option<UrlSigner>,
    places: TokenPlaces,
    rules: TokenRules,
    anonymous_subscribe: bool,
    /// Tell clients why they are refused.
    debug: bool,
    revocations: Arc<Revocations>,
    /// A new number for each stream, so that streams of one expiry end at different times.
    random: AtomicU64,
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) reason: AccessError,
    /// For the client.
    pub(crate) detail: String,
}

/// The client of a request to the control plane. Without keys it may do everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publisher {
    access: Arc<Access>,
    verified: Option<Arc<Verified>>,
}

impl Access {
    /// Reads the files of keys. What has not changed since `before` stays, with the tokens that it remembers.
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
        let mut verifier = |name: &str, files: &[fanfare_config::KeyFile], old: &Option<Arc<Verifier>>| {
            if files.is_empty() {
                return None;
            }
            match key_files::key_set(files) {
                Ok(keys) => {
                    let same = old.as_ref().filter(|old| before.rules == rules && has_keys(old, &keys));
                    Some(same.cloned().unwrap_or_else(|| {
                        let verifier = Verifier::new(Arc::new(KeyRing::of(keys)), rules.clone());
                        Arc::new(verifier.with_revocations(Arc::clone(&revocations)))
                    }))
                }
                Err(text) => {
                    report(name, text);
                    None
                }
            }
        };
        let subscribers = verifier("subscriber-keys", &settings.subscriber_keys, &before.subscribers);
        let publishers = verifier("publisher-keys", &settings.publisher_keys, &before.publishers);
        let mut urls = None;
        if !settings.url_keys.is_empty() {
            let signer = key_files::secrets(&settings.url_keys).and_then(|secrets| {
                UrlSigner::new(secrets.iter().map(Vec::as_slice)).map_err(|error| error.to_string())
            });
            match signer {
                Ok(signer) => urls = Some(signer.with_revocations(Arc::clone(&revocations))),
                Err(text) => report("url-keys", text),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigurationError::Together(Problems(problems)));
        }
        Ok(Access {
            subscribers,
            publishers,
            urls,
            places,
            rules,
            anonymous_subscribe: settings.anonymous_subscribe,
            debug: settings.debug_auth,
            revocations,
            random: AtomicU64::new(RandomState::new().hash_one(0)),
        })
    }

    /// The options whose files have other keys than before, although the options are the same.
    pub(crate) fn changed_keys(&self, before: &Access) -> Vec<&'static str> {
        let pairs = [
            ("subscriber-keys", &self.subscribers, &before.subscribers),
            ("publisher-keys", &self.publishers, &before.publishers),
        ];
        let differs = |new: &Option<Arc<Verifier>>, old: &Option<Arc<Verifier>>| match (new, old) {
            (Some(new), Some(old)) => !has_keys(old, &new.keys().keys()),
            _ => false,
        };
        pairs.into_iter().filter(|(_, new, old)| differs(new, old)).map(|(name, _, _)| name).collect()
    }

    /// Whether requests need tokens.
    pub(crate) fn has_keys(&self) -> bool {
        self.publishers.is_some()
    }

    /// The memory of verified tokens, at most.
    pub(crate) fn memory_bounds(&self) -> Option<(&'static str, usize)> {
        let verifiers = [&self.subscribers, &self.publishers].into_iter().flatten().count();
        (verifiers > 0).then(|| ("verified tokens", verifiers * MemoryLimits::default().bytes))
    }

    /// Judges a subscription, and gives it what its token says: whether it sees private events, its subject and its end.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn admit(&self, request: &RequestHead<'_>, subscribe: Subscribe) -> Result<Subscribe, Denial> {
        if !self.has_keys() {
            return Ok(subscribe);
        }
        let now = unix_time();
        let denied = |reason| self.denial(reason, "this subscription needs a valid token");
        let Some(verified) = self.subscriber(request, now.as_secs()).map_err(denied)? else {
            return match (self.anonymous_subscribe, subscribe.patterns().first()) {
                (true, None) => Ok(subscribe),
                // A pattern tells names of topics, which an anonymous subscriber has to know.
                (true, Some(pattern)) => Err(pattern_not_covered(pattern)),
                (false, _) => Err(denied(AccessError::Missing)),
            };
        };
        let covers = |pattern: &&Pattern| verified.grants().subscribe().covers_pattern(pattern);
        if let Some(pattern) = subscribe.patterns().iter().find(|pattern| !covers(pattern)) {
            return Err(pattern_not_covered(pattern));
        }
        // An anonymous subscriber gets the public events of every topic, so a token takes none of them away.
        let uncovered = match self.anonymous_subscribe {
            true => Uncovered::PublicEvents,
            false => Uncovered::Refuse,
        };
        let topics = subscribe.topics();
        let sight = match verified.grants().sight(topics, uncovered) {
            // Every pattern is covered.
            _ if topics.is_empty() => Sight::Private,
            Ok(sight) => sight,
            Err(AccessError::TopicNotCovered) => {
                return Err(not_covered(first_uncovered(&verified, topics)));
            }
            Err(reason) => return Err(denied(reason)),
        };
        let mut subscribe = match sight {
            Sight::Private => subscribe.with_private_events(true),
            Sight::Public => with_private_patterns(subscribe),
            Sight::Mixed(covered) => {
                let covered: Vec<Topic> = covered.iter().map(|position| topics[*position].clone()).collect();
                with_private_patterns(subscribe.with_private_topics(covered))
            }
        };
        if let Some(subject) = verified.subject() {
            let too_long = |_| denied(AccessError::Malformed("its subject is too long"));
            subscribe = subscribe.with_subject(Arc::clone(subject)).map_err(too_long)?;
        }
        if let Some(expires_unix_s) = verified.expires_unix_s() {
            // A token in its leeway has no time left.
            let lifetime = stream_lifetime(expires_unix_s, now, self.random_number());
            subscribe = subscribe.with_lifetime(lifetime.ok_or_else(|| denied(AccessError::Expired))?);
        }
        Ok(subscribe)
    }

    /// What the subscriber's token or signed URL says. `Ok(None)`: it has neither.
    fn subscriber(
        &self,
        request: &RequestHead<'_>,
        now_unix_s: u64,
    ) -> Result<Option<Arc<Verified>>, AccessError> {
        if let (Some(urls), Some(query)) = (&self.urls, request.query())
            && let Some(verified) = urls.verify(query, now_unix_s)?
        {
            return Ok(Some(verified));
        }
        let Some(verifier) = &self.subscribers else { return Ok(None) };
        let found = self.places.find(request.headers(), request.query())?;
        found.map(|token| verifier.verify(token.as_str(), now_unix_s)).transpose()
    }

    /// Finds the publisher of a request. `has_good_origin` says whether the request has an `Origin` whose pages may
    /// use cookies here.
    ///
    /// # Errors
    /// It is refused: without a good token, or because another page could have made the browser send the cookie.
    pub(crate) fn publisher<'r>(
        self: &Arc<Access>,
        headers: impl IntoIterator<Item = (&'r str, &'r [u8])>,
        query: Option<&'r str>,
        has_good_origin: bool,
    ) -> Result<Publisher, PublisherError> {
        let access = Arc::clone(self);
        let Some(verifier) = &self.publishers else { return Ok(Publisher { access, verified: None }) };
        let denied = |reason| {
            PublisherError::Denied(self.denial(reason, "this request needs a publisher's valid token"))
        };
        let token = self.places.find(headers, query).map_err(denied)?;
        let token = token.ok_or_else(|| denied(AccessError::Missing))?;
        if token.place() == TokenPlace::Cookie && !has_good_origin {
            return Err(PublisherError::CookieFromElsewhere);
        }
        let verified = verifier.verify(token.as_str(), unix_time().as_secs()).map_err(denied)?;
        Ok(Publisher { access, verified: Some(verified) })
    }

    /// Bars a subject or a token until `until_unix_s`. Answers whether an older revocation had to make room.
    pub(crate) fn revoke(&self, revoked: Revoked, until_unix_s: u64) -> bool {
        let before = self.revocations.dropped();
        self.revocations.revoke(revoked, unix_time().as_secs(), until_unix_s);
        self.revocations.dropped() > before
    }

    fn denial(&self, reason: AccessError, detail: &str) -> Denial {
        let detail = if self.debug { format!("{detail}: {reason}") } else { detail.to_owned() };
        Denial { reason, detail }
    }

    /// A number of its own for each call (SplitMix64). It decides only when a stream ends within its window.
    fn random_number(&self) -> u64 {
        let mut number = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

/// Why a request to the control plane is refused.
#[derive(Debug)]
pub(crate) enum PublisherError {
    Denied(Denial),
    /// The token is in a cookie, and the request comes from no page that may use it.
    CookieFromElsewhere,
}

impl Denial {
    /// The value of `WWW-Authenticate`.
    pub(crate) fn challenge(&self) -> String {
        let error = self.reason.bearer_error();
        error.map_or_else(|| "Bearer".to_owned(), |error| format!("Bearer error=\"{error}\""))
    }

    pub(crate) fn status(&self) -> u16 {
        self.reason.status()
    }

    /// As the answer of an admission.
    pub(crate) fn refusal(self) -> Result<Refusal, InvalidHeader> {
        let challenge = self.challenge();
        Refusal::new(self.status(), self.detail).with_header("WWW-Authenticate", &challenge)
    }
}

impl Publisher {
    /// Whether the event may be published.
    ///
    /// # Errors
    /// One of its topics is not covered. The text names it.
    pub(crate) fn may_publish(&self, event: &Event) -> Result<(), Denial> {
        let Some(verified) = &self.verified else { return Ok(()) };
        let covered = |topic: &&Topic| verified.grants().publish().covers(topic.as_str());
        let uncovered = event.topics().iter().find(|topic| !covered(topic));
        uncovered.map_or(Ok(()), |topic| Err(not_covered(Some(topic))))
    }

    /// Whether the token still holds, for a body that comes for a long time.
    ///
    /// # Errors
    /// It has expired, or was revoked.
    pub(crate) fn still_holds(&self) -> Result<(), Denial> {
        let Some(verified) = &self.verified else { return Ok(()) };
        let now_unix_s = unix_time().as_secs();
        let leeway_s = self.access.rules.leeway_s;
        let over = |expires: u64| now_unix_s >= expires.saturating_add(leeway_s);
        let reason = if verified.expires_unix_s().is_some_and(over) {
            AccessError::Expired
        } else if self.access.revocations.bars(verified, now_unix_s) {
            AccessError::Revoked
        } else {
            return Ok(());
        };
        Err(self.access.denial(reason, "the token of this request is not valid any more"))
    }

    /// Whether it may end connections of others: its token lets it publish to every topic.
    pub(crate) fn may_end_connections(&self) -> bool {
        let Some(verified) = &self.verified else { return true };
        Pattern::parse("*").is_ok_and(|all| verified.grants().publish().covers_pattern(&all))
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }
}

/// Refuses to let everyone in from everywhere, unless that is asked for.
///
/// # Errors
/// The server has no keys, listens on an address that is not loopback, and is not told to be open.
pub(crate) fn check_open(
    settings: &Settings,
    values: &Values,
    listening: &Listening,
) -> Result<(), ConfigurationError> {
    let has_keys = !settings.publisher_keys.is_empty();
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

fn has_keys(verifier: &Verifier, keys: &KeySet) -> bool {
    verifier.keys().keys().is_same(keys)
}

fn first_uncovered<'t>(verified: &Verified, topics: &'t [Topic]) -> Option<&'t Topic> {
    topics.iter().find(|topic| !verified.grants().covers(topic))
}

/// The topic is the client's own word, so the refusal may name it.
fn not_covered(topic: Option<&Topic>) -> Denial {
    let shown: String = topic.map_or("", Topic::as_str).chars().take(SHOWN).collect();
    let detail = format!("the token does not cover the topic {shown:?}");
    Denial { reason: AccessError::TopicNotCovered, detail }
}

/// Through its patterns, which are covered, the subscription sees private events.
fn with_private_patterns(subscribe: Subscribe) -> Subscribe {
    // Most subscriptions have none, and are left as they are.
    if subscribe.patterns().is_empty() {
        return subscribe;
    }
    let patterns = subscribe.patterns().to_vec();
    subscribe.with_private_patterns(patterns)
}

fn pattern_not_covered(pattern: &Pattern) -> Denial {
    let shown: String = pattern.as_str().chars().take(SHOWN).collect();
    let detail = format!("a subscription to the pattern {shown:?} needs a token that covers all of it");
    Denial { reason: AccessError::TopicNotCovered, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_config::{Flags, Sources};

    #[test]
    fn without_keys_the_server_is_open_on_loopback_only_or_where_it_is_told_so() {
        let refusal = |flags: &[(&'static str, &str)], address: &str| {
            let sources = Sources { flags: Flags::of(flags.iter().copied()), ..Sources::default() };
            let values = Settings::table().layer(&sources).unwrap();
            let settings = Settings::of(&values).unwrap();
            let addresses = vec!["127.0.0.1:1".parse().unwrap(), address.parse().unwrap()];
            let listening = Listening { addresses, ..Listening::default() };
            check_open(&settings, &values, &listening).err().map(|error| error.to_string())
        };
        for address in ["127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(refusal(&[], address), None, "{address}");
        }
        for address in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
            assert!(refusal(&[], address).is_some_and(|text| text.contains(address)), "{address}");
            assert_eq!(refusal(&[("open", "true")], address), None, "{address}");
            assert_eq!(refusal(&[("publisher-keys", "file")], address), None, "{address}");
        }
    }

    #[test]
    fn streams_of_one_expiry_end_at_different_times() {
        let access = Access::default();
        let numbers: std::collections::BTreeSet<u64> =
            (0..1000).map(|_| access.random_number() >> 54).collect();
        assert!(numbers.len() > 500, "{}", numbers.len());
    }
}
