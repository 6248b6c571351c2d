//! Access to Fanfare: keys, tokens, grants and signed subscribe URLs, for the server and for embedders.
//!
//! The way of a request through this crate:
//!
//! 1. [`TokenPlaces`] finds the access token of a request: in a header, a cookie or the query.
//! 2. [`Verifier`] checks it with the keys of a [`KeyRing`], and remembers it. An access token is a JWT (RFC
//!    7519).
//! 3. [`Verified`] says who the subscriber is, when the token ends, and what its [`Grants`] cover.
//! 4. [`stream_lifetime`] says how long a stream on this token lives.
//!
//! [`UrlSigner`] does the same for a URL with a signature, in place of a token. [`Revocations`] bar tokens
//! and signed URLs before they expire. [`JwksFetcher`] keeps the keys of a ring up to date from a file or,
//! with the features `url` and `https`, from a URL, on a thread of its own.
//!
//! Nothing but that thread does IO, and nothing reads a clock: `now` is an argument, in seconds since the
//! Unix epoch. No secret and no token is in an error or in what `Debug` prints.
//!
//! ```
//! use std::sync::Arc;
//! use fanfare_access::{Algorithm, Key, KeyRing, TokenRules, Verifier};
//! # use fanfare_access::TokenSigner;
//! use fanfare_proto::event::Topic;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = [7; 32];
//! # let claims = serde_json::json!({"exp": 2000, "sub": "ada", "fanfare": {"subscribe": ["orders/{id}"]}});
//! # let signer = TokenSigner::from_secret(Algorithm::Hs256, &secret)?;
//! # let token = signer.mint(claims.as_object().ok_or("an object")?).ok_or("signed")?;
//! let key = Key::from_secret(Algorithm::Hs256, &secret)?;
//! let verifier = Verifier::new(Arc::new(KeyRing::of_key(key)), TokenRules::default());
//! let now_unix_s = 1000;
//! let verified = verifier.verify(&token, now_unix_s)?;
//! assert!(verified.grants().covers(&Topic::new("orders/42")?));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod base64url;
mod error;
mod grants;
mod json;
mod jwks;
mod jwt;
mod keys;
mod lifetime;
mod memory;
mod places;
mod revocations;
mod ring;
mod signed_url;
mod signer;
mod verifier;

pub use error::{AccessError, KeyError};
pub use fanfare_proto::pattern::{MAX_PATTERN_BYTES, MAX_PATTERNS, Pattern, PatternError, PatternSet};
pub use grants::{GrantTable, Grants, Sight, Uncovered};
pub use jwks::{JwksError, JwksFetcher, JwksOptions, JwksSource, JwksStatus};
pub use jwt::{MAX_NAME_BYTES, UnverifiedToken};
pub use keys::{Algorithm, Key, KeySet, MAX_KEY_TEXT_BYTES, MAX_KEYS, MAX_TRIES, RsaPadding};
pub use lifetime::{MAX_EXPIRY_SPREAD, stream_lifetime};
pub use memory::MemoryLimits;
pub use places::{FoundToken, Place, TokenPlaces, redact_query, redact_target};
pub use revocations::{DEFAULT_MAX_REVOCATIONS, Revocation, Revocations, RevocationsFull, Revoked};
pub use ring::KeyRing;
pub use signed_url::{MAX_URL_KEYS, MAX_URL_TOPICS, UrlSigner};
pub use signer::TokenSigner;
pub use verifier::{AudienceRule, DEFAULT_LEEWAY_S, DEFAULT_MAX_TOKEN_BYTES, TokenRules, Verified, Verifier};
