//! The compact form of a signed token (RFC 7515, section 7.1; RFC 7519), read strictly.

use crate::base64url;
use crate::error::AccessError;
use crate::json::Json;
use crate::keys::Algorithm;

/// The longest `sub` and the longest `jti`, in bytes. The engine takes subjects of this length.
pub const MAX_NAME_BYTES: usize = 256;

/// The last second of the year 9999. A later time is a mistake, most often milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// A token in its parts. The payload is not read before the signature was checked.
pub(crate) struct Parts<'t> {
    /// What is signed: header and payload, as they were sent.
    pub(crate) message: &'t [u8],
    payload: &'t [u8],
    pub(crate) signature: Vec<u8>,
    /// `None`: the header names an algorithm that no key can have.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) kid: Option<String>,
}

impl<'t> Parts<'t> {
    /// Takes a token apart, and reads its header.
    pub(crate) fn split(token: &'t str) -> Result<Parts<'t>, AccessError> {
        let token = token.as_bytes();
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AccessError::Malformed("it does not have three parts"));
        };
        if header.is_empty() || payload.is_empty() {
            return Err(AccessError::Malformed("a part is empty"));
        }
        let message = &token[..header.len() + 1 + payload.len()];
        let not_base64 = AccessError::Malformed("a part is not base64url without padding");
        let header = base64url::decode(header).ok_or(not_base64)?;
        let signature = base64url::decode(signature).ok_or(not_base64)?;
        let header = Json::parse(&header).filter(Json::is_object);
        let header =
            header.ok_or(AccessError::Malformed("its header is not a JSON object without duplicates"))?;
        // "If any of the listed extension Header Parameters are not understood [...], then the JWS is
        // invalid" (RFC 7515, section 4.1.11). None is understood here.
        if header.get("crit").is_some() {
            return Err(AccessError::Malformed("its header has critical extensions"));
        }
        let name = header.get("alg").and_then(Json::as_text);
        let name = name.ok_or(AccessError::Malformed("its header has no alg"))?;
        let kid = match header.get("kid") {
            Some(kid) => {
                Some(kid.as_text().ok_or(AccessError::Malformed("its kid is not a text"))?.to_owned())
            }
            None => None,
        };
        Ok(Parts { message, payload, signature, algorithm: Algorithm::named(name), kid })
    }

    /// Reads the claims.
    pub(crate) fn claims(&self) -> Result<Claims, AccessError> {
        let payload = base64url::decode(self.payload);
        let payload = payload.ok_or(AccessError::Malformed("a part is not base64url without padding"))?;
        let json = Json::parse(&payload).filter(Json::is_object);
        let json =
            json.ok_or(AccessError::Malformed("its claims are not a JSON object without duplicates"))?;
        Ok(Claims {
            expires_unix_s: time(&json, "exp", f64::floor)?,
            not_before_unix_s: time(&json, "nbf", f64::ceil)?,
            issued_unix_s: time(&json, "iat", f64::floor)?,
            issuer: text(&json, "iss")?,
            subject: name(&json, "sub")?,
            token_id: name(&json, "jti")?,
            audiences: audiences(&json)?,
            json,
        })
    }
}

/// What a token says, without a proof that it is true. It is for people that look for a mistake, and grants
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnverifiedToken {
    /// The header, as JSON text.
    pub header: String,
    /// The claims, as JSON text.
    pub claims: String,
}

impl UnverifiedToken {
    /// Reads a token without a key.
    ///
    /// # Errors
    /// [`AccessError::Malformed`]: the token cannot be read, or a claim has the wrong type.
    pub fn read(token: &str) -> Result<UnverifiedToken, AccessError> {
        let parts = Parts::split(token)?;
        parts.claims()?;
        let text = |part: &[u8]| base64url::decode(part).and_then(|bytes| String::from_utf8(bytes).ok());
        let header = token.split('.').next().and_then(|part| text(part.as_bytes()));
        match (header, text(parts.payload)) {
            (Some(header), Some(claims)) => Ok(UnverifiedToken { header, claims }),
            _ => Err(AccessError::Malformed("it is not UTF-8")),
        }
    }
}

/// The claims of a token, with the types of RFC 7519, section 4.1. Times are whole seconds since the Unix
/// epoch.
pub(crate) struct Claims {
    /// Rounded down, so that a token never lives longer than it says.
    pub(crate) expires_unix_s: Option<u64>,
    /// Rounded up.
    pub(crate) not_before_unix_s: Option<u64>,
    pub(crate) issued_unix_s: Option<u64>,
    pub(crate) issuer: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) token_id: Option<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) json: Json,
}

/// A `NumericDate`: a JSON number, which may have a fraction. A time before the epoch is the epoch.
fn time(claims: &Json, name: &str, round: fn(f64) -> f64) -> Result<Option<u64>, AccessError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(seconds)) if *seconds > LAST_SECOND => {
            Err(AccessError::Malformed("a time is after the year 9999; times are in seconds"))
        }
        // Saturates: a negative number is 0.
        Some(Json::Number(seconds)) => Ok(Some(round(*seconds) as u64)),
        Some(_) => Err(AccessError::Malformed("a time is not a number")),
    }
}

fn text(claims: &Json, name: &str) -> Result<Option<String>, AccessError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(AccessError::Malformed("iss, sub or jti is not a text")),
    }
}

fn name(claims: &Json, name: &str) -> Result<Option<String>, AccessError> {
    let text = text(claims, name)?;
    if text.as_ref().is_some_and(|text| text.len() > MAX_NAME_BYTES) {
        return Err(AccessError::Malformed("sub or jti is longer than 256 bytes"));
    }
    Ok(text)
}

/// "In the general case, the "aud" value is an array [...] In the special case [...] a single case-sensitive
/// string" (RFC 7519, section 4.1.3).
fn audiences(claims: &Json) -> Result<Vec<String>, AccessError> {
    let wrong = AccessError::Malformed("aud is not a text or an array of texts");
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Json::Text(audience)) => Ok(vec![audience.clone()]),
        Some(Json::Array(values)) if values.is_empty() => Err(AccessError::Malformed("aud is empty")),
        Some(Json::Array(values)) => {
            values.iter().map(|value| value.as_text().map(str::to_owned).ok_or(wrong)).collect()
        }
        Some(_) => Err(wrong),
    }
}
