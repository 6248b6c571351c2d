//! Which requests are let in: what a subscriber and a publisher may do by the keys and rules of one time.
//! [`setup`] makes those of the configuration.
//!
//! A subscription is judged on the thread of a shard. Nothing here uses a descriptor: keys were read before,
//! and the wall clock needs none. A token that was verified before costs one hash.

mod setup;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fanfare::{Event, InvalidHeader, ProblemKind, Refusal, RequestHead, Subscribe, Topic};
use fanfare_access::{
    AccessError, FoundToken, KeySet, MemoryLimits, Pattern, Place as TokenPlace, Revocations,
    RevocationsFull, Revoked, Sight, TokenPlaces, TokenRules, Uncovered, UrlSigner, Verified, Verifier,
    stream_lifetime,
};

use crate::clock::unix_time;
use crate::fetched_keys::FetchedKeys;
use crate::forward::Forward;
use crate::presence;
use crate::revocations_file::{self, RevocationsFile};
use crate::verifications::Verifications;
pub(crate) use setup::{check_keys_stay, check_open};

/// The longest part of a topic that a refusal repeats, in characters.
const SHOWN: usize = 100;

/// The keys and the rules at one time.
#[derive(Debug, Default)]
pub(crate) struct Access {
    subscribers: Option<Arc<Verifier>>,
    publishers: Option<Arc<Verifier>>,
    urls: Option<UrlSigner>,
    /// The keys of signed URLs once more, to tell what a reload changes.
    url_keys: KeySet,
    places: TokenPlaces,
    rules: TokenRules,
    anonymous_subscribe: bool,
    /// The topics of presence events need a grant, also where everyone may subscribe. It is the same in all
    /// configurations of a server, because presence changes only with a start.
    has_presence: Arc<AtomicBool>,
    /// Tell clients why they are refused.
    debug: bool,
    revocations: Arc<Revocations>,
    /// Keeps them over a restart.
    revocations_file: Option<Arc<RevocationsFile>>,
    /// The threads that keep the keys of subscribers and of publishers up to date.
    fetched: [Option<Arc<FetchedKeys>>; 2],
    /// The endpoint that decides where neither a token nor a signed URL does.
    forward: Option<Arc<Forward>>,
    /// A new number for each stream, so that streams of one expiry end at different times.
    random: AtomicU64,
}

/// The state of a subscription that is not refused.
pub(crate) enum Judged {
    /// It is let in.
    Admitted(Subscribe),
    /// The endpoint decides about it.
    Ask(Subscribe, Arc<Forward>),
    /// Its token is to be verified first, which takes long: see [`crate::verifications`].
    Verify(Subscribe, TokenToVerify),
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) reason: AccessError,
    /// For the client.
    pub(crate) detail: String,
    /// When the client is to try again, where that may help.
    retry_after_s: Option<u64>,
}

/// The client of a request to the control plane. Without keys it may do everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publisher {
    access: Arc<Access>,
    token: Option<VerifiedToken>,
}

/// A publisher's token, its claims, and the keys by which it was verified.
#[derive(Clone)]
struct VerifiedToken {
    token: Arc<str>,
    verified: Arc<Verified>,
    keys: KeyGeneration,
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("VerifiedToken").field("verified", &self.verified).finish_non_exhaustive()
    }
}

impl Access {
    /// The endpoint that decides about subscriptions which no token lets in.
    pub(crate) fn forward(&self) -> Option<&Arc<Forward>> {
        self.forward.as_ref()
    }

    /// Whether requests need tokens.
    pub(crate) fn has_keys(&self) -> bool {
        self.publishers.is_some()
    }

    /// Notes whether there is presence, which a server may learn from others when it starts.
    pub(crate) fn set_presence(&self, has_presence: bool) {
        self.has_presence.store(has_presence, Ordering::Relaxed);
    }

    /// Whether presence events are private, so that only a grant of their topics shows them. An endpoint
    /// decides about every topic itself, and may let in to public events alone.
    pub(crate) fn has_private_presence(&self) -> bool {
        self.has_keys() && self.forward.is_none()
    }

    /// A topic of presence events among these that `covers` says no to. A reader of it would cause events
    /// that it does not see, so it is refused.
    fn hidden_presence<'t>(&self, topics: &'t [Topic], covers: impl Fn(&Topic) -> bool) -> Option<&'t Topic> {
        let is_hidden = |topic: &&Topic| presence::is_reserved(topic) && !covers(topic);
        topics.iter().find(|topic| self.has_presence.load(Ordering::Relaxed) && is_hidden(topic))
    }

    /// The memory of what is remembered, at most.
    pub(crate) fn memory_bounds(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let verifiers = [&self.subscribers, &self.publishers].into_iter().flatten().count();
        let with_keys = [
            ("verified tokens", verifiers * MemoryLimits::default().bytes),
            Verifications::memory_bound(),
            ("revocations", revocations_file::memory_bound(self.keeps_revocations())),
        ];
        let with_keys = with_keys.into_iter().filter(move |_| verifiers > 0);
        with_keys.chain(self.forward.iter().flat_map(|forward| forward.memory_bounds()))
    }

    /// Judges a subscription, and gives it what its token says: whether it sees private events, its subject
    /// and its end.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn admit(&self, request: &RequestHead<'_>, subscribe: Subscribe) -> Result<Judged, Denial> {
        let admitted = |subscribe| Ok(Judged::Admitted(subscribe));
        if !self.has_keys() {
            return admitted(subscribe);
        }
        match self.subscriber(request, unix_time().as_secs()) {
            Ok(Some(Subscriber::ToVerify(token))) => Ok(Judged::Verify(subscribe, token)),
            Ok(Some(Subscriber::Known(verified))) => self.settle(Ok(Some(verified)), subscribe),
            Ok(None) => self.settle(Ok(None), subscribe),
            Err(reason) => self.settle(Err(reason), subscribe),
        }
    }

    /// Judges a subscription whose token was verified meanwhile. Where the keys have changed since then, it
    /// is to be verified again, by those of now.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn admit_later(
        &self,
        token: &TokenToVerify,
        verdict: &TokenVerdict,
        subscribe: Subscribe,
    ) -> Result<Judged, Denial> {
        match &self.subscribers {
            Some(verifier) if !verdict.keys.are_of(verifier) => {
                Ok(Judged::Verify(subscribe, token.by(verifier)))
            }
            Some(_) => self.settle(verdict.result.clone().map(Some), subscribe),
            None if !self.has_keys() => Ok(Judged::Admitted(subscribe)),
            // Tokens of subscribers are not looked at any more.
            None => self.settle(Ok(None), subscribe),
        }
    }

    /// Judges a subscription by what is known of its subscriber. `Ok(None)`: it shows nothing.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn settle(
        &self,
        found: Result<Option<Arc<Verified>>, AccessError>,
        subscribe: Subscribe,
    ) -> Result<Judged, Denial> {
        let admitted = |subscribe| Ok(Judged::Admitted(subscribe));
        if let Some(forward) = &self.forward
            && !matches!(found, Ok(Some(_)) | Err(AccessError::Revoked))
        {
            return Ok(Judged::Ask(subscribe, Arc::clone(forward)));
        }
        match found.map_err(|reason| self.subscriber_denial(reason))? {
            Some(verified) => self.admit_verified(&verified, subscribe).and_then(admitted),
            None if self.anonymous_subscribe => match subscribe.patterns().first() {
                None => match self.hidden_presence(subscribe.topics(), |_| false) {
                    None => admitted(subscribe),
                    Some(topic) => Err(not_covered(Some(topic))),
                },
                // A pattern shows names of topics, which an anonymous subscriber has to know.
                Some(pattern) => Err(pattern_not_covered(pattern)),
            },
            None => Err(self.subscriber_denial(AccessError::Missing)),
        }
    }

    /// Gives a subscription what is known of its subscriber.
    ///
    /// # Errors
    /// The known facts do not allow it.
    pub(crate) fn admit_verified(
        &self,
        verified: &Verified,
        subscribe: Subscribe,
    ) -> Result<Subscribe, Denial> {
        let denied = |reason| self.subscriber_denial(reason);
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
        if let Some(topic) = self.hidden_presence(topics, |topic| verified.grants().covers(topic)) {
            return Err(not_covered(Some(topic)));
        }
        let sight = match verified.grants().sight(topics, uncovered) {
            // Every pattern is covered.
            _ if topics.is_empty() => Sight::Private,
            Ok(sight) => sight,
            Err(AccessError::TopicNotCovered) => {
                return Err(not_covered(first_uncovered(verified, topics)));
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
        if let Some(id) = verified.token_id() {
            subscribe = subscribe.with_token(id);
        }
        if let Some(expires_unix_s) = verified.expires_unix_s() {
            // A token in its leeway has no time left.
            let lifetime = stream_lifetime(expires_unix_s, unix_time(), self.random_number());
            subscribe = subscribe.with_lifetime(lifetime.ok_or_else(|| denied(AccessError::Expired))?);
        }
        Ok(subscribe)
    }

    /// The claims of the subscriber's token or signed URL. `Ok(None)`: it has neither.
    fn subscriber(
        &self,
        request: &RequestHead<'_>,
        now_unix_s: u64,
    ) -> Result<Option<Subscriber>, AccessError> {
        if let (Some(urls), Some(query)) = (&self.urls, request.query())
            && let Some(verified) = urls.verify(query, now_unix_s)?
        {
            return Ok(Some(Subscriber::Known(verified)));
        }
        let Some(verifier) = &self.subscribers else { return Ok(None) };
        let found = self.places.find(request.headers(), request.query())?;
        let Some(token) = found else { return Ok(None) };
        Ok(Some(match verifier.verify_at_once(token.as_str(), now_unix_s) {
            Some(known) => Subscriber::Known(known?),
            None => Subscriber::ToVerify(TokenToVerify::new(verifier, &token)),
        }))
    }

    /// Finds the publisher of a request. `has_good_origin` says whether the request has an `Origin` whose
    /// pages may use cookies here.
    ///
    /// # Errors
    /// It is refused: without a good token, or because another page could have made the browser send the
    /// cookie.
    pub(crate) fn publisher<'r>(
        self: &Arc<Access>,
        headers: impl IntoIterator<Item = (&'r str, &'r [u8])>,
        query: Option<&'r str>,
        has_good_origin: bool,
    ) -> Result<FoundPublisher, PublisherError> {
        let access = Arc::clone(self);
        let Some(verifier) = &self.publishers else {
            return Ok(FoundPublisher::Known(Publisher { access, token: None }));
        };
        let denied = |reason| self.publisher_denial(reason);
        let token = self.places.find(headers, query).map_err(denied)?;
        let token = token.ok_or_else(|| denied(AccessError::Missing))?;
        if token.place() == TokenPlace::Cookie && !has_good_origin {
            return Err(PublisherError::CookieFromElsewhere);
        }
        let keys = KeyGeneration::of(verifier);
        match verifier.verify_at_once(token.as_str(), unix_time().as_secs()) {
            Some(known) => {
                let verified = known.map_err(denied)?;
                let token = VerifiedToken { token: token.as_str().into(), verified, keys };
                Ok(FoundPublisher::Known(Publisher { access, token: Some(token) }))
            }
            None => Ok(FoundPublisher::ToVerify(TokenToVerify::new(verifier, &token))),
        }
    }

    /// The publisher whose token was verified meanwhile. Where the keys have changed since then, it is to be
    /// verified again.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn verified_publisher(
        self: &Arc<Access>,
        token: &TokenToVerify,
        verdict: TokenVerdict,
    ) -> Result<FoundPublisher, PublisherError> {
        let access = Arc::clone(self);
        let Some(verifier) = &self.publishers else {
            return Ok(FoundPublisher::Known(Publisher { access, token: None }));
        };
        let TokenVerdict { result, keys } = verdict;
        if !keys.are_of(verifier) {
            return Ok(FoundPublisher::ToVerify(token.by(verifier)));
        }
        let verified = result.map_err(|reason| self.publisher_denial(reason))?;
        let token = VerifiedToken { token: Arc::clone(&token.token), verified, keys };
        Ok(FoundPublisher::Known(Publisher { access, token: Some(token) }))
    }

    fn publisher_denial(&self, reason: AccessError) -> PublisherError {
        PublisherError::Denied(self.denial(reason, "this request needs a publisher's valid token"))
    }

    /// Bars a subject or a token until `until_unix_s`.
    ///
    /// # Errors
    /// As many are barred as may be.
    pub(crate) fn revoke(&self, revoked: Revoked, until_unix_s: u64) -> Result<(), RevocationsFull> {
        self.revocations.revoke(revoked, unix_time().as_secs(), until_unix_s)
    }

    /// Bars what another server has barred at this time.
    ///
    /// # Errors
    /// As many are barred as may be.
    pub(crate) fn take_over(
        &self,
        revoked: Revoked,
        revoked_unix_s: u64,
        until_unix_s: u64,
    ) -> Result<(), RevocationsFull> {
        self.revocations.revoke(revoked, revoked_unix_s, until_unix_s)
    }

    /// Whether a file keeps revocations.
    pub(crate) fn keeps_revocations(&self) -> bool {
        self.revocations_file.is_some()
    }

    /// Writes the revocations, where a file keeps them. It blocks.
    ///
    /// # Errors
    /// They hold, and a restart would forget them.
    pub(crate) fn keep_revocations(&self) -> Result<(), String> {
        self.revocations_file.as_ref().map_or(Ok(()), |file| file.save(&self.revocations))
    }

    fn subscriber_denial(&self, reason: AccessError) -> Denial {
        self.denial(reason, "this subscription needs a valid token")
    }

    /// Whether a subscriber is barred since it was let in by other means than a token.
    pub(crate) fn bars(&self, verified: &Verified) -> bool {
        self.revocations.bars(verified, unix_time().as_secs())
    }

    /// Adds the reason where the client may know it.
    pub(crate) fn explain(&self, detail: &str, reason: impl Display) -> String {
        if self.debug { format!("{detail}: {reason}") } else { detail.to_owned() }
    }

    /// The refusal of a request that may succeed in a moment.
    ///
    /// # Errors
    /// None: the text of a number is a good value of a field.
    pub(crate) fn try_again(
        &self,
        kind: ProblemKind,
        detail: impl Into<String>,
    ) -> Result<Refusal, InvalidHeader> {
        Refusal::of(kind, detail).with_header("Retry-After", &self.retry_after_s().to_string())
    }

    /// The refusal of a request that a former endpoint was to decide about, by a reload before it did.
    ///
    /// # Errors
    /// As [`Access::try_again`].
    pub(crate) fn has_changed(&self) -> Result<Refusal, InvalidHeader> {
        let detail = "the server has another configuration now; try again in a moment";
        self.try_again(ProblemKind::ConfigurationChanged, detail)
    }

    /// When a client is to try again: not all of them in the same second.
    pub(crate) fn retry_after_s(&self) -> u64 {
        1 + self.random_number() % 4
    }

    fn denial(&self, reason: AccessError, detail: &str) -> Denial {
        if reason == AccessError::NoKeysYet {
            // The operator's trouble is no secret of the client's, and the client has done nothing wrong.
            let detail = format!("{reason}; try again in a moment");
            return Denial { reason, detail, retry_after_s: Some(self.retry_after_s()) };
        }
        Denial { reason, detail: self.explain(detail, reason), retry_after_s: None }
    }

    /// A number of its own for each call (SplitMix64). It decides only when a stream ends within its window.
    fn random_number(&self) -> u64 {
        let mut number = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

/// The proof that a subscription shows.
enum Subscriber {
    Known(Arc<Verified>),
    ToVerify(TokenToVerify),
}

/// The publisher of a request.
pub(crate) enum FoundPublisher {
    Known(Publisher),
    /// Its token is to be verified, which takes long: see [`crate::verifications`].
    ToVerify(TokenToVerify),
}

/// A token whose signature is to be verified. Clones share it.
#[derive(Clone)]
pub(crate) struct TokenToVerify {
    verifier: Arc<Verifier>,
    token: Arc<str>,
}

/// The result of a verification, and the keys by which it was made.
#[derive(Debug)]
pub(crate) struct TokenVerdict {
    result: Result<Arc<Verified>, AccessError>,
    keys: KeyGeneration,
}

/// The keys that a verdict is by. A reload makes another verifier where it changes the keys, and a fetch
/// another generation of its keys.
#[derive(Clone, Debug)]
struct KeyGeneration {
    verifier: Arc<Verifier>,
    generation: u64,
}

impl KeyGeneration {
    /// The keys of now.
    fn of(verifier: &Arc<Verifier>) -> KeyGeneration {
        KeyGeneration { verifier: Arc::clone(verifier), generation: verifier.keys().generation() }
    }

    /// Whether this verifier has these keys still.
    fn are_of(&self, verifier: &Arc<Verifier>) -> bool {
        Arc::ptr_eq(&self.verifier, verifier) && self.generation == verifier.keys().generation()
    }
}

impl TokenToVerify {
    fn new(verifier: &Arc<Verifier>, token: &FoundToken<'_>) -> TokenToVerify {
        TokenToVerify { verifier: Arc::clone(verifier), token: token.as_str().into() }
    }

    /// The same token for another verifier, or for other keys of it.
    fn by(&self, verifier: &Arc<Verifier>) -> TokenToVerify {
        TokenToVerify { verifier: Arc::clone(verifier), token: Arc::clone(&self.token) }
    }

    /// Its length, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.token.len()
    }

    /// Verifies the signature.
    pub(crate) fn verify(&self) -> TokenVerdict {
        // Before the keys are used: where they change meanwhile, the verdict counts as one by the former
        // ones.
        let keys = KeyGeneration::of(&self.verifier);
        TokenVerdict { result: self.verifier.verify(&self.token, unix_time().as_secs()), keys }
    }
}

/// The reason why a request to the control plane is refused.
#[derive(Debug)]
pub(crate) enum PublisherError {
    Denied(Denial),
    /// The token is in a cookie, and the request comes from no page that may use it.
    CookieFromElsewhere,
}

impl Denial {
    /// The field that asks the client to show a token, or to try again.
    pub(crate) fn field(&self) -> (&'static str, String) {
        if let Some(seconds) = self.retry_after_s {
            return ("Retry-After", seconds.to_string());
        }
        let error = self.reason.bearer_error();
        let challenge =
            error.map_or_else(|| "Bearer".to_owned(), |error| format!("Bearer error=\"{error}\""));
        ("WWW-Authenticate", challenge)
    }

    /// As the answer of an admission.
    pub(crate) fn refusal(self) -> Result<Refusal, InvalidHeader> {
        let (name, value) = self.field();
        Refusal::of(self.reason.problem(), self.detail).with_header(name, &value)
    }
}

impl Publisher {
    /// Whether the event may be published.
    ///
    /// # Errors
    /// One of its topics is not covered. The text names it.
    pub(crate) fn may_publish(&self, event: &Event) -> Result<(), Denial> {
        let Some(verified) = self.verified() else { return Ok(()) };
        let covered = |topic: &&Topic| verified.grants().publish().covers(topic.as_str());
        let uncovered = event.topics().iter().find(|topic| !covered(topic));
        uncovered.map_or(Ok(()), |topic| Err(not_covered(Some(topic))))
    }

    /// The name by which the publisher's rate is counted: the subject of its token, or what is signed of the
    /// token. `None`: the server has no keys.
    pub(crate) fn name(&self) -> Option<&str> {
        let token = self.token.as_ref()?;
        Some(token.verified.subject().map_or_else(|| signed_part(&token.token), |subject| &**subject))
    }

    /// The subject of its token.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.token.as_ref().and_then(|token| token.verified.subject()).map(|subject| &**subject)
    }

    /// Whether the publisher may still publish, for a body that comes for a long time. `now` has the keys of
    /// this moment: a key that was removed meanwhile signs no more, and a server that has got keys asks for a
    /// token.
    ///
    /// # Errors
    /// The token has expired, was revoked, or is not good by the keys of now; or there is none, and now one
    /// is needed.
    pub(crate) fn still_holds(&self, now: &Access) -> Result<(), Denial> {
        let Some(verifier) = &now.publishers else { return Ok(()) };
        let Some(token) = &self.token else {
            let detail = "the server has keys now, and this request has no token";
            return Err(now.denial(AccessError::Missing, detail));
        };
        let now_unix_s = unix_time().as_secs();
        let verified = &token.verified;
        let over = |expires: u64| now_unix_s >= expires.saturating_add(now.rules.leeway_s);
        let reason = if verified.expires_unix_s().is_some_and(over) {
            AccessError::Expired
        } else if now.revocations.bars(verified, now_unix_s) {
            AccessError::Revoked
        } else if token.keys.are_of(verifier) {
            return Ok(());
        } else {
            // A good one is remembered by the keys of now, so that it is verified once for all that is still
            // to come.
            match verifier.verify(&token.token, now_unix_s) {
                Ok(_) => return Ok(()),
                Err(reason) => reason,
            }
        };
        Err(self.access.denial(reason, "the token of this request is not valid any more"))
    }

    fn verified(&self) -> Option<&Verified> {
        self.token.as_ref().map(|token| &*token.verified)
    }

    /// Whether it may learn that there is such a topic, and how many subscribers it has: its token covers the
    /// topic.
    pub(crate) fn may_see(&self, topic: &str) -> bool {
        let Some(verified) = self.verified() else { return true };
        verified.grants().publish().covers(topic) || verified.grants().subscribe().covers(topic)
    }

    /// Whether it has shown a token: the server has keys of publishers.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether it may end connections of others: its token lets it publish to every topic.
    pub(crate) fn may_end_connections(&self) -> bool {
        let Some(verified) = self.verified() else { return true };
        Pattern::parse("*").is_ok_and(|all| verified.grants().publish().covers_pattern(&all))
    }

    pub(crate) fn access(&self) -> &Arc<Access> {
        &self.access
    }
}

/// A token without its signature. Of some signatures everyone can make another good one: of (r, s) of ECDSA
/// it is (r, n - s).
fn signed_part(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(signed, _)| signed)
}

fn first_uncovered<'t>(verified: &Verified, topics: &'t [Topic]) -> Option<&'t Topic> {
    topics.iter().find(|topic| !verified.grants().covers(topic))
}

/// The topic is the client's own word, so the refusal may name it.
fn not_covered(topic: Option<&Topic>) -> Denial {
    let shown: String = topic.map_or("", Topic::as_str).chars().take(SHOWN).collect();
    let detail = format!("the token does not cover the topic {shown:?}");
    Denial { reason: AccessError::TopicNotCovered, detail, retry_after_s: None }
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
    Denial { reason: AccessError::TopicNotCovered, detail, retry_after_s: None }
}
