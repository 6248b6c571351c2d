//! Signed subscribe URLs: a link to some topics that is good until a time, for clients without a cookie or a
//! header.
//!
//! The query of a signed URL has these parameters, besides others that are not signed, such as
//! `last_event_id`:
//!
//! | parameter | meaning |
//! |---|---|
//! | `topic` | the topics, in any order |
//! | `expires` | when the URL expires, in seconds since the Unix epoch, in decimal digits |
//! | `subject` | who subscribes; it may be absent |
//! | `signature` | HMAC-SHA256 in base64url without padding |
//!
//! The HMAC is over a text that has one reading: `fanfare-subscribe-v1` and a NUL, the expiry (8 bytes), the
//! subject, the number of different topics (8 bytes), and these topics in the order of their bytes. Each text
//! has its length (8 bytes) before it, and an absent subject has the length `2^64 - 1`. Numbers are
//! big-endian.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::hmac;
use fanfare_proto::event::{MAX_TOPIC_BYTES, Topic};
use fanfare_proto::form::form_fields;

use crate::base64url;
use crate::error::{AccessError, KeyError};
use crate::grants::{GrantTable, Grants};
use crate::jwt::MAX_NAME_BYTES;
use crate::keys::check_secret;
use crate::revocations::Revocations;
use crate::verifier::Verified;

/// The name of the parameter with the signature.
pub(crate) const SIGNATURE: &str = "signature";
const EXPIRES: &str = "expires";
const SUBJECT: &str = "subject";
const TOPIC: &str = "topic";
const PURPOSE: &[u8] = b"fanfare-subscribe-v1\0";

/// The most keys of [`UrlSigner`]: one key that signs, and older ones that are being rotated out.
pub const MAX_URL_KEYS: usize = 8;
/// The most topics of a signed URL.
pub const MAX_URL_TOPICS: usize = 64;

/// Mints and verifies signed subscribe URLs. It does not show its keys when it is printed.
pub struct UrlSigner {
    /// The first one signs, and all of them verify.
    keys: Vec<hmac::Key>,
    grants: Arc<GrantTable>,
    revocations: Arc<Revocations>,
}

impl fmt::Debug for UrlSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlSigner").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl UrlSigner {
    /// A signer with these secrets. The first one signs; all of them verify, so that keys can be rotated: put
    /// the new one first, and take the old one away when its URLs have expired.
    ///
    /// # Errors
    /// A secret has fewer than 32 bytes, or there are none or more than [`MAX_URL_KEYS`].
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Result<UrlSigner, KeyError> {
        let mut keys = Vec::new();
        for secret in secrets {
            check_secret(hmac::HMAC_SHA256, secret)?;
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, secret));
        }
        if keys.is_empty() || keys.len() > MAX_URL_KEYS {
            return Err(KeyError::Count { keys: keys.len() });
        }
        Ok(UrlSigner { keys, grants: Arc::default(), revocations: Arc::default() })
    }

    /// Shares a list of revocations with others: a revoked subject cannot use its URLs any more.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Arc<Revocations>) -> UrlSigner {
        self.revocations = revocations;
        self
    }

    /// Shares a table of grants with others.
    #[must_use]
    pub fn with_grant_table(mut self, grants: Arc<GrantTable>) -> UrlSigner {
        self.grants = grants;
        self
    }

    /// The query of a URL for these topics, ready to stand behind `?`.
    ///
    /// # Errors
    /// There is no topic, there are more than [`MAX_URL_TOPICS`], or the subject is longer than
    /// [`MAX_NAME_BYTES`].
    pub fn mint(
        &self,
        topics: &[Topic],
        expires_unix_s: u64,
        subject: Option<&str>,
    ) -> Result<String, AccessError> {
        check_bounds(topics.len(), subject)?;
        let topics = sorted(topics);
        let message = message(&topics, expires_unix_s, subject);
        let signature = hmac::sign(&self.keys[0], &message);
        let mut query = String::new();
        for topic in topics {
            push_parameter(&mut query, TOPIC, topic);
        }
        push_parameter(&mut query, EXPIRES, &expires_unix_s.to_string());
        if let Some(subject) = subject {
            push_parameter(&mut query, SUBJECT, subject);
        }
        push_parameter(&mut query, SIGNATURE, &base64url::encode(signature.as_ref()));
        Ok(query)
    }

    /// Verifies the query of a subscribe request. `Ok(None)`: it is not signed. What is verified grants
    /// private events of exactly the topics of the query. Signatures are compared in constant time.
    ///
    /// # Errors
    /// [`AccessError::Malformed`]: a parameter is missing, there twice, or has no meaning.
    /// [`AccessError::WrongKey`]: the signature is for something else or of another key.
    /// [`AccessError::Expired`], [`AccessError::Revoked`].
    pub fn verify(&self, query: &str, now_unix_s: u64) -> Result<Option<Arc<Verified>>, AccessError> {
        let Some(signed) = SignedQuery::read(query)? else { return Ok(None) };
        let message = message(&sorted(&signed.topics), signed.expires_unix_s, signed.subject.as_deref());
        let is_right = |key: &hmac::Key| hmac::verify(key, &message, &signed.signature).is_ok();
        if !self.keys.iter().any(is_right) {
            return Err(AccessError::WrongKey);
        }
        if now_unix_s >= signed.expires_unix_s {
            return Err(AccessError::Expired);
        }
        let grants = self.grants.share(Grants::of_topics(&signed.topics)?);
        let verified = Verified::for_url(signed.subject.as_deref(), signed.expires_unix_s, grants);
        if self.revocations.bars(&verified, now_unix_s) {
            return Err(AccessError::Revoked);
        }
        Ok(Some(Arc::new(verified)))
    }
}

/// What a signed query says.
struct SignedQuery {
    topics: Vec<Topic>,
    expires_unix_s: u64,
    subject: Option<String>,
    signature: Vec<u8>,
}

impl SignedQuery {
    /// `Ok(None)`: the query has no signature.
    fn read(query: &str) -> Result<Option<SignedQuery>, AccessError> {
        let (mut signature, mut expires, mut subject) = (None, None, None);
        let mut topics = Vec::new();
        for (name, value) in form_fields(query.as_bytes()) {
            match &*name {
                b"signature" => once(&mut signature, value)?,
                b"expires" => once(&mut expires, value)?,
                b"subject" => once(&mut subject, value)?,
                // An empty parameter is no topic for a subscription, either.
                b"topic" if !value.is_empty() => topics.push(value),
                _ => {}
            }
        }
        let Some(signature) = signature else { return Ok(None) };
        let malformed = AccessError::Malformed;
        let signature = base64url::decode(&signature).ok_or(malformed("the signature is not base64url"))?;
        let expires = expires.ok_or(malformed("the URL is signed and has no expires"))?;
        let subject = match subject {
            Some(subject) => Some(text(&subject)?.to_owned()),
            None => None,
        };
        check_bounds(topics.len(), subject.as_deref())?;
        let topics: Result<Vec<Topic>, AccessError> = topics
            .iter()
            .map(|topic| Topic::new(text(topic)?).map_err(|_| malformed("a topic of the URL cannot be one")))
            .collect();
        let expires_unix_s = seconds(&expires)?;
        Ok(Some(SignedQuery { topics: topics?, expires_unix_s, subject, signature }))
    }
}

fn once<'q>(kept: &mut Option<Cow<'q, [u8]>>, value: Cow<'q, [u8]>) -> Result<(), AccessError> {
    match kept.replace(value) {
        None => Ok(()),
        Some(_) => Err(AccessError::Malformed("a signed parameter is there twice")),
    }
}

fn text(bytes: &[u8]) -> Result<&str, AccessError> {
    std::str::from_utf8(bytes).map_err(|_| AccessError::Malformed("a signed parameter is not UTF-8"))
}

/// Decimal digits in their one form, so that a signed number has one text.
fn seconds(digits: &[u8]) -> Result<u64, AccessError> {
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    number
        .filter(|number| number.to_string().as_bytes() == digits)
        .ok_or(AccessError::Malformed("expires is not a time in seconds"))
}

fn check_bounds(topics: usize, subject: Option<&str>) -> Result<(), AccessError> {
    if topics == 0 || topics > MAX_URL_TOPICS {
        return Err(AccessError::Malformed("a signed URL has 1 to 64 topics"));
    }
    if subject.is_some_and(|subject| subject.len() > MAX_NAME_BYTES) {
        return Err(AccessError::Malformed("the subject is longer than 256 bytes"));
    }
    Ok(())
}

fn sorted(topics: &[Topic]) -> Vec<&str> {
    let mut names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn message(topics: &[&str], expires_unix_s: u64, subject: Option<&str>) -> Vec<u8> {
    let mut message = Vec::with_capacity(PURPOSE.len() + 64 + topics.len() * (MAX_TOPIC_BYTES / 4));
    message.extend_from_slice(PURPOSE);
    message.extend_from_slice(&expires_unix_s.to_be_bytes());
    match subject {
        Some(subject) => push_text(&mut message, subject),
        None => message.extend_from_slice(&u64::MAX.to_be_bytes()),
    }
    message.extend_from_slice(&(topics.len() as u64).to_be_bytes());
    for topic in topics {
        push_text(&mut message, topic);
    }
    message
}

fn push_text(message: &mut Vec<u8>, text: &str) {
    message.extend_from_slice(&(text.len() as u64).to_be_bytes());
    message.extend_from_slice(text.as_bytes());
}

/// Adds `name=value`, with every byte escaped that is not unreserved (RFC 3986, section 2.3).
fn push_parameter(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(query, "%{byte:02X}");
        }
    }
}
