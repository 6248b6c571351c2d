//! Why access is refused: one enum, with a stable short name for counters. No message contains a token or a
//! secret.

use std::fmt;

use fanfare_proto::pattern::PatternError;
use fanfare_proto::problem::ProblemKind;

/// Why a token, a signed URL or a request is refused.
///
/// The text is for the operator and, where the server allows it, for the client. It never contains the token,
/// a claim or a topic, because these may be private.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccessError {
    /// The request has no token.
    Missing,
    /// The request has different tokens in several places, or several tokens in one place.
    Conflict,
    /// The token is longer than the bound of the verifier.
    TooLong,
    /// The token is not a JWT in compact form (RFC 7519), or a claim has the wrong type. The text says what
    /// is wrong.
    Malformed(&'static str),
    /// The header names an algorithm that does not belong to the key. `none` never belongs to a key.
    Algorithm,
    /// No key has the `kid` of the header.
    UnknownKid,
    /// The signature was not made with any of the keys that were tried.
    WrongKey,
    /// The token or the URL has expired.
    Expired,
    /// The token has no `exp`, and the verifier demands one.
    NoExpiry,
    /// The token is not valid yet (`nbf`).
    NotYetValid,
    /// The token is for another audience (`aud`).
    Audience,
    /// The token comes from another issuer (`iss`).
    Issuer,
    /// The token, or all tokens of its subject, were revoked.
    Revoked,
    /// A pattern of the grants cannot be used. The text says why.
    Pattern(PatternError),
    /// The grants do not cover a topic of the request.
    TopicNotCovered,
    /// The keys are fetched, and no fetch has succeeded yet: the token may be good.
    NoKeysYet,
}

impl AccessError {
    /// The short names of all reasons, for counters that exist before the first refusal.
    pub const NAMES: [&'static str; 16] = [
        "missing",
        "conflict",
        "too_long",
        "malformed",
        "algorithm",
        "unknown_kid",
        "wrong_key",
        "expired",
        "no_expiry",
        "not_yet_valid",
        "audience",
        "issuer",
        "revoked",
        "pattern",
        "topic_not_covered",
        "no_keys_yet",
    ];

    /// The short name of the reason. It stays the same in later versions.
    pub fn name(&self) -> &'static str {
        AccessError::NAMES[self.index()]
    }

    /// The position of the name in [`AccessError::NAMES`], for an array of counters.
    pub fn index(&self) -> usize {
        match self {
            AccessError::Missing => 0,
            AccessError::Conflict => 1,
            AccessError::TooLong => 2,
            AccessError::Malformed(_) => 3,
            AccessError::Algorithm => 4,
            AccessError::UnknownKid => 5,
            AccessError::WrongKey => 6,
            AccessError::Expired => 7,
            AccessError::NoExpiry => 8,
            AccessError::NotYetValid => 9,
            AccessError::Audience => 10,
            AccessError::Issuer => 11,
            AccessError::Revoked => 12,
            AccessError::Pattern(_) => 13,
            AccessError::TopicNotCovered => 14,
            AccessError::NoKeysYet => 15,
        }
    }

    /// The status of an HTTP answer (RFC 6750, section 3.1): 403 where the client is known and may not do
    /// this, 400 where the request itself is wrong because it has several tokens, 503 where it is to try
    /// again because the token may be good, else 401.
    pub fn status(&self) -> u16 {
        self.problem().status()
    }

    /// The kind of an HTTP answer. It tells no more than [`AccessError::bearer_error`]: why a token is not
    /// good is no client's business.
    pub fn problem(&self) -> ProblemKind {
        match self {
            AccessError::Missing => ProblemKind::TokenMissing,
            AccessError::TopicNotCovered => ProblemKind::TopicNotCovered,
            AccessError::Conflict => ProblemKind::TokenConflict,
            AccessError::NoKeysYet => ProblemKind::KeysUnavailable,
            _ => ProblemKind::TokenInvalid,
        }
    }

    /// The error code of RFC 6750, section 3.1, for `WWW-Authenticate: Bearer error="..."`.
    ///
    /// A request without a token gets none: it "SHOULD NOT include an error code or other error information".
    pub fn bearer_error(&self) -> Option<&'static str> {
        match self {
            AccessError::Missing | AccessError::NoKeysYet => None,
            AccessError::Conflict => Some("invalid_request"),
            AccessError::TopicNotCovered => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::Missing => f.write_str("the request has no token"),
            AccessError::Conflict => f.write_str("the request has several different tokens; send one"),
            AccessError::TooLong => f.write_str("the token is too long"),
            AccessError::Malformed(what) => write!(f, "the token is malformed: {what}"),
            AccessError::Algorithm => f.write_str("the token's algorithm does not belong to the key"),
            AccessError::UnknownKid => f.write_str("no key has the token's kid"),
            AccessError::WrongKey => f.write_str("the signature was made with another key"),
            AccessError::Expired => f.write_str("the token has expired"),
            AccessError::NoExpiry => f.write_str("the token has no exp, and one is required"),
            AccessError::NotYetValid => f.write_str("the token is not valid yet; compare the clocks"),
            AccessError::Audience => f.write_str("the token is for another audience (aud)"),
            AccessError::Issuer => f.write_str("the token comes from another issuer (iss)"),
            AccessError::Revoked => f.write_str("the token was revoked"),
            AccessError::Pattern(error) => write!(f, "a pattern in the token's grants is refused: {error}"),
            AccessError::TopicNotCovered => f.write_str("the token's grants do not cover the topic"),
            AccessError::NoKeysYet => f.write_str("the keys that verify tokens could not be fetched yet"),
        }
    }
}

impl std::error::Error for AccessError {}

impl From<PatternError> for AccessError {
    fn from(error: PatternError) -> AccessError {
        AccessError::Pattern(error)
    }
}

/// Why a key or a set of keys is refused. No message contains a part of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret is shorter than the hash of its algorithm (RFC 7518, section 3.2).
    WeakSecret {
        /// The least bytes.
        needed: usize,
        /// The bytes of this secret.
        given: usize,
    },
    /// The text is not PEM with one public key.
    Pem(&'static str),
    /// The public key is of no supported kind, or an RSA key of fewer than 2048 bits.
    Unsupported,
    /// The key cannot be used with this algorithm.
    AlgorithmForKey,
    /// The text is not a JWK or a JWK Set (RFC 7517).
    Jwk(&'static str),
    /// A set has no usable key, or more than [`crate::MAX_KEYS`].
    Count {
        /// The usable keys.
        keys: usize,
    },
    /// The text of the keys is longer than [`crate::MAX_KEY_TEXT_BYTES`].
    TooLong,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::WeakSecret { needed, given } => {
                write!(f, "the secret has {given} bytes; this algorithm needs at least {needed} random bytes")
            }
            KeyError::Pem(what) => write!(f, "this is not a public key in PEM: {what}"),
            KeyError::Unsupported => f.write_str(
                "the key is not supported; use RSA with 2048 to 8192 bits, EC P-256, EC P-384 or Ed25519",
            ),
            KeyError::AlgorithmForKey => f.write_str("the algorithm does not belong to this kind of key"),
            KeyError::Jwk(what) => write!(f, "this is not a usable JWK or JWK Set: {what}"),
            KeyError::Count { keys } => {
                write!(f, "there are {keys} usable keys; give 1 to {}", crate::MAX_KEYS)
            }
            KeyError::TooLong => {
                write!(f, "the text of the keys is longer than {} bytes", crate::MAX_KEY_TEXT_BYTES)
            }
        }
    }
}

impl std::error::Error for KeyError {}
