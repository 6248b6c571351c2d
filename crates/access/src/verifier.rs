//! Verifies tokens: signature, times, audience, issuer, revocations, grants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::AccessError;
use crate::grants::{GrantTable, Grants};
use crate::jwt::{Claims, Parts};
use crate::memory::{MemoryLimits, TokenMemory};
use crate::revocations::Revocations;
use crate::ring::KeyRing;

/// The longest token that is accepted by default, in bytes: half of the longest request head.
pub const DEFAULT_MAX_TOKEN_BYTES: usize = 8 << 10;
/// The leeway by default, in seconds: clocks that are kept by NTP differ by much less.
pub const DEFAULT_LEEWAY_S: u64 = 5;

/// Which audiences (`aud`) a token may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AudienceRule {
    /// A token that names an audience is refused, because this server has no name: "If the principal
    /// processing the claim does not identify itself with a value in the "aud" claim when this claim is
    /// present, then the JWT MUST be rejected" (RFC 7519, section 4.1.3).
    #[default]
    None,
    /// A token must name one of these.
    OneOf(Vec<String>),
    /// The audience is not looked at.
    Any,
}

/// What is demanded of a token besides its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRules {
    /// Which audiences (`aud`) a token may have.
    pub audience: AudienceRule,
    /// The issuers (`iss`) of which a token must name one. Empty: the issuer is not looked at.
    pub issuers: Vec<String>,
    /// How many seconds a token is accepted before `nbf` and after `exp`, because clocks differ. A stream
    /// ends at `exp` nevertheless. For as long after the revocation of a subject, its new tokens are barred.
    pub leeway_s: u64,
    /// The longest token, in bytes.
    pub max_token_bytes: usize,
    /// Whether a token without `exp` is refused. Such a token can be ended by a revocation only.
    pub demands_expiry: bool,
    /// The bounds of the memory of verified tokens.
    pub memory: MemoryLimits,
}

impl Default for TokenRules {
    /// No audience, any issuer, a leeway of [`DEFAULT_LEEWAY_S`], tokens of at most
    /// [`DEFAULT_MAX_TOKEN_BYTES`] with an `exp`.
    fn default() -> TokenRules {
        TokenRules {
            audience: AudienceRule::None,
            issuers: Vec::new(),
            leeway_s: DEFAULT_LEEWAY_S,
            max_token_bytes: DEFAULT_MAX_TOKEN_BYTES,
            demands_expiry: true,
            memory: MemoryLimits::default(),
        }
    }
}

/// What a valid token says.
#[derive(Debug)]
pub struct Verified {
    subject: Option<Arc<str>>,
    token_id: Option<Box<str>>,
    expires_unix_s: Option<u64>,
    not_before_unix_s: u64,
    issued_unix_s: Option<u64>,
    /// How far the clock that said when it was issued may be ahead.
    issuer_leeway_s: u64,
    grants: Arc<Grants>,
}

impl Verified {
    fn of(claims: Claims, leeway_s: u64, grants: Arc<Grants>) -> Verified {
        Verified {
            subject: claims.subject.map(Into::into),
            token_id: claims.token_id.map(Into::into),
            expires_unix_s: claims.expires_unix_s,
            not_before_unix_s: claims.not_before_unix_s.unwrap_or(0),
            issued_unix_s: claims.issued_unix_s,
            issuer_leeway_s: leeway_s,
            grants,
        }
    }

    /// What a signed URL says.
    pub(crate) fn for_url(subject: Option<&str>, expires_unix_s: u64, grants: Arc<Grants>) -> Verified {
        Verified {
            subject: subject.map(Into::into),
            token_id: None,
            expires_unix_s: Some(expires_unix_s),
            not_before_unix_s: 0,
            issued_unix_s: None,
            issuer_leeway_s: 0,
            grants,
        }
    }

    /// What a service says that knows the subscriber by other means than a token. `issued_unix_s` is when the
    /// service was asked: a revocation of the subject in that second or later bars the answer.
    pub fn by_service(
        subject: Option<&Arc<str>>,
        issued_unix_s: u64,
        expires_unix_s: Option<u64>,
        grants: Arc<Grants>,
    ) -> Verified {
        Verified {
            subject: subject.cloned(),
            token_id: None,
            expires_unix_s,
            not_before_unix_s: 0,
            issued_unix_s: Some(issued_unix_s),
            // It is this server's own clock.
            issuer_leeway_s: 0,
            grants,
        }
    }

    /// Who bears the token (`sub`): at most [`crate::MAX_NAME_BYTES`].
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject.as_ref()
    }

    /// The name of the token itself (`jti`): at most [`crate::MAX_NAME_BYTES`].
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }

    /// When the token expires (`exp`), in seconds since the Unix epoch.
    pub fn expires_unix_s(&self) -> Option<u64> {
        self.expires_unix_s
    }

    /// When the token was issued (`iat`), in seconds since the Unix epoch.
    pub fn issued_unix_s(&self) -> Option<u64> {
        self.issued_unix_s
    }

    /// When the token was issued at the earliest: the clock of its issuer may be ahead by the leeway.
    pub(crate) fn issued_from_unix_s(&self) -> Option<u64> {
        self.issued_unix_s.map(|issued| issued.saturating_sub(self.issuer_leeway_s))
    }

    /// What the token allows. Equal grants are one allocation.
    pub fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// About the bytes that this occupies. Shared grants count for each token, so the sum is an upper bound.
    pub(crate) fn bytes(&self) -> usize {
        let texts = self.subject.as_ref().map_or(0, |text| text.len() + 16)
            + self.token_id.as_ref().map_or(0, |text| text.len());
        size_of::<Verified>() + texts + self.grants.bytes()
    }

    fn check_time(&self, leeway_s: u64, now_unix_s: u64) -> Result<(), AccessError> {
        if self.expires_unix_s.is_some_and(|expires| now_unix_s >= expires.saturating_add(leeway_s)) {
            return Err(AccessError::Expired);
        }
        // A token from the future would outlive the revocation of its subject, which bars those issued until
        // then.
        let begins = self.issued_unix_s.unwrap_or(0).max(self.not_before_unix_s);
        if now_unix_s.saturating_add(leeway_s) < begins {
            return Err(AccessError::NotYetValid);
        }
        Ok(())
    }
}

/// Verifies tokens. Many threads may call it at once.
#[derive(Debug)]
pub struct Verifier {
    keys: Arc<KeyRing>,
    rules: TokenRules,
    memory: TokenMemory,
    grants: Arc<GrantTable>,
    revocations: Arc<Revocations>,
    remembered: AtomicU64,
    computed: AtomicU64,
}

impl Verifier {
    /// A verifier with these keys and rules, and with a table of grants and a list of revocations of its own.
    pub fn new(keys: Arc<KeyRing>, rules: TokenRules) -> Verifier {
        Verifier {
            keys,
            memory: TokenMemory::new(rules.memory),
            rules,
            grants: Arc::default(),
            revocations: Arc::default(),
            remembered: AtomicU64::new(0),
            computed: AtomicU64::new(0),
        }
    }

    /// Shares a list of revocations with others.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<Revocations>) -> Verifier {
        self.revocations = revocations;
        self
    }

    /// Shares a table of grants with others.
    #[must_use]
    pub fn with_grant_table(mut self, grants: Arc<GrantTable>) -> Verifier {
        self.grants = grants;
        self
    }

    /// Verifies a token. `now_unix_s` is the wall clock, in seconds since the Unix epoch.
    ///
    /// The signature is checked before the claims are read. A token that was verified before costs one hash:
    /// its times and the revocations are checked again, and its signature is not, unless the keys have
    /// changed.
    ///
    /// # Errors
    /// The token is refused, and why.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Arc<Verified>, AccessError> {
        if let Some(known) = self.remembered(token, now_unix_s) {
            return known;
        }
        self.computed.fetch_add(1, Ordering::Relaxed);
        let keys = self.keys.current();
        let parts = Parts::split(token)?;
        let outcome =
            keys.keys.verify(parts.algorithm, parts.kid.as_deref(), parts.message, &parts.signature);
        if let Err(error) = outcome {
            // The right key may come with the first set.
            let is_early = self.keys.awaits_keys();
            if error == AccessError::UnknownKid || is_early {
                self.keys.note_unknown_kid();
            }
            return Err(if is_early { AccessError::NoKeysYet } else { error });
        }
        let verified = Arc::new(self.read(&parts)?);
        // What has expired, or is not valid yet, is not worth remembering.
        verified.check_time(self.rules.leeway_s, now_unix_s)?;
        self.memory.put(TokenMemory::hash(token), keys.number, &verified, now_unix_s);
        self.check_now(verified, now_unix_s)
    }

    /// The same as [`Verifier::verify`] where that needs no signature: for a token that was verified before,
    /// and for one that cannot be good. `None`: the signature is to be verified, which takes up to a tenth of
    /// a millisecond for each key that may have made it. A thread that must not wait leaves that to another
    /// one.
    pub fn verify_at_once(&self, token: &str, now_unix_s: u64) -> Option<Result<Arc<Verified>, AccessError>> {
        self.remembered(token, now_unix_s).or_else(|| Parts::split(token).err().map(Err))
    }

    /// What is known of a token without its signature.
    fn remembered(&self, token: &str, now_unix_s: u64) -> Option<Result<Arc<Verified>, AccessError>> {
        if token.len() > self.rules.max_token_bytes {
            return Some(Err(AccessError::TooLong));
        }
        let verified = self.memory.get(&TokenMemory::hash(token), self.keys.current().number)?;
        self.remembered.fetch_add(1, Ordering::Relaxed);
        Some(self.check_now(verified, now_unix_s))
    }

    fn check_now(&self, verified: Arc<Verified>, now_unix_s: u64) -> Result<Arc<Verified>, AccessError> {
        verified.check_time(self.rules.leeway_s, now_unix_s)?;
        if self.revocations.bars(&verified, now_unix_s) { Err(AccessError::Revoked) } else { Ok(verified) }
    }

    /// The revocations that are checked.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The keys in use.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// The tokens that are remembered, and about the bytes that they occupy.
    pub fn memory_size(&self) -> (usize, usize) {
        self.memory.size()
    }

    /// How many tokens were found in the memory, and for how many a signature was computed.
    pub fn counts(&self) -> (u64, u64) {
        (self.remembered.load(Ordering::Relaxed), self.computed.load(Ordering::Relaxed))
    }

    fn read(&self, parts: &Parts<'_>) -> Result<Verified, AccessError> {
        let claims = parts.claims()?;
        if claims.expires_unix_s.is_none() && self.rules.demands_expiry {
            return Err(AccessError::NoExpiry);
        }
        let has_audience = |names: &Vec<String>| claims.audiences.iter().any(|name| names.contains(name));
        let audience_fits = match &self.rules.audience {
            AudienceRule::None => claims.audiences.is_empty(),
            AudienceRule::OneOf(names) => has_audience(names),
            AudienceRule::Any => true,
        };
        if !audience_fits {
            return Err(AccessError::Audience);
        }
        let issuers = &self.rules.issuers;
        if !issuers.is_empty() && !claims.issuer.as_ref().is_some_and(|issuer| issuers.contains(issuer)) {
            return Err(AccessError::Issuer);
        }
        let grants = self.grants.share(Grants::from_claims(&claims.json)?);
        Ok(Verified::of(claims, self.rules.leeway_s, grants))
    }
}
