//! Where a request carries its token: the `Authorization` header, a cookie, or the query.

use std::borrow::Cow;
use std::fmt;

use fanfare_proto::form::form_fields;

use crate::error::AccessError;

/// The query parameter of RFC 6750, section 2.3.
const QUERY_PARAMETER: &str = "access_token";
/// Query parameters whose values are secrets.
const SECRET_PARAMETERS: [&str; 3] = [QUERY_PARAMETER, "authorization", crate::signed_url::SIGNATURE];
/// What stands in a log for a secret.
const REDACTED: &str = "REDACTED";

/// Where tokens are looked for. The `Authorization` header is always one of the places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenPlaces {
    /// The name of the cookie that holds a token; `None`: cookies are not looked at.
    pub cookie: Option<String>,
    /// Whether the query parameter `access_token` is looked at. Queries get into the logs of proxies and the
    /// histories of browsers, so it is off by default.
    pub query: bool,
}

/// The place of a token. A publish that a cookie authorises needs a listed `Origin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer`.
    Header,
    /// The cookie.
    Cookie,
    /// The query parameter.
    Query,
}

/// A token, and where it was found. It does not show the token when it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct FoundToken<'r> {
    text: Cow<'r, str>,
    place: Place,
}

impl FoundToken<'_> {
    /// The token.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it was found. A token that is in several places is said to be in the first of: header, cookie,
    /// query.
    pub fn place(&self) -> Place {
        self.place
    }
}

impl fmt::Debug for FoundToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundToken").field("place", &self.place).finish_non_exhaustive()
    }
}

impl TokenPlaces {
    /// Looks for the token of a request. `Ok(None)`: it has none.
    ///
    /// - The scheme `Bearer` is compared without case (RFC 9110, section 11.1). Credentials of another scheme
    ///   are ignored, because a browser sends the credentials of a proxy in front of this server, too.
    /// - A cookie with an empty value is no token. Its value may be in double quotes (RFC 6265, section
    ///   4.1.1).
    /// - The same token may be there several times. Different tokens are refused, also in one place: which of
    ///   two cookies comes first depends on paths and domains, and another host of the same domain can set
    ///   one.
    ///
    /// # Errors
    /// [`AccessError::Conflict`]: there are different tokens. [`AccessError::Malformed`]: the credentials of
    /// `Bearer`, the cookie or the parameter have characters that no token has.
    pub fn find<'r>(
        &self,
        headers: impl IntoIterator<Item = (&'r str, &'r [u8])>,
        query: Option<&'r str>,
    ) -> Result<Option<FoundToken<'r>>, AccessError> {
        let (mut header, mut cookie, mut parameter) = (None, None, None);
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("authorization") {
                keep(&mut header, bearer(value)?.map(Cow::Borrowed))?;
            } else if let Some(wanted) = &self.cookie
                && name.eq_ignore_ascii_case("cookie")
            {
                for value in cookies_named(value, wanted.as_bytes()) {
                    keep(&mut cookie, Some(Cow::Borrowed(token_text(value)?)))?;
                }
            }
        }
        if let Some(query) = query.filter(|_| self.query) {
            for (name, value) in form_fields(query.as_bytes()) {
                if *name == *QUERY_PARAMETER.as_bytes() && !value.is_empty() {
                    keep(&mut parameter, Some(Cow::Owned(token_text(&value)?.to_owned())))?;
                }
            }
        }
        let mut all = [(Place::Header, header), (Place::Cookie, cookie), (Place::Query, parameter)]
            .into_iter()
            .filter_map(|(place, text)| text.map(|text| FoundToken { text, place }));
        let Some(first) = all.next() else { return Ok(None) };
        if all.any(|other| other.text != first.text) { Err(AccessError::Conflict) } else { Ok(Some(first)) }
    }
}

/// Keeps the one token of a place.
fn keep<'r>(kept: &mut Option<Cow<'r, str>>, found: Option<Cow<'r, str>>) -> Result<(), AccessError> {
    match (&kept, found) {
        (_, None) => Ok(()),
        (None, found) => {
            *kept = found;
            Ok(())
        }
        (Some(kept), Some(found)) if *kept == found => Ok(()),
        (Some(_), Some(_)) => Err(AccessError::Conflict),
    }
}

/// The token of `Bearer` credentials: `"Bearer" 1*SP b64token` (RFC 6750, section 2.1). `None`: another
/// scheme.
fn bearer(value: &[u8]) -> Result<Option<&str>, AccessError> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, credentials) = value.split_at(end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let spaces = credentials.iter().take_while(|byte| **byte == b' ').count();
    let credentials = &credentials[spaces..];
    if credentials.is_empty() {
        return Err(AccessError::Malformed("there is no token behind Bearer"));
    }
    token_text(credentials).map(Some)
}

/// The characters of `b64token` (RFC 6750, section 2.1). So a token has none that ends a header or a cookie.
fn token_text(bytes: &[u8]) -> Result<&str, AccessError> {
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(is_token_byte) => Ok(text),
        _ => Err(AccessError::Malformed("it has characters that no token has")),
    }
}

/// The values of all cookies with this name in one `Cookie` header, without the empty ones (RFC 6265, section
/// 4.2.1). Names are compared with case. What is no pair is skipped, because other programs set cookies, too.
fn cookies_named<'r>(header: &'r [u8], wanted: &[u8]) -> impl Iterator<Item = &'r [u8]> {
    header.split(|byte| *byte == b';').filter_map(move |pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        (name == wanted && !value.is_empty()).then_some(value)
    })
}

/// A query as it may be written to a log: the values of tokens and signatures are replaced by `REDACTED`.
///
/// A name counts as it is decoded, so `access%5Ftoken` is redacted, too, and it counts without case.
/// Everything else stays as it was sent.
pub fn redact_query(query: &str) -> Cow<'_, str> {
    let mut redacted = String::new();
    let mut kept_to = 0;
    let mut at = 0;
    for field in query.split('&') {
        let end = at + field.len();
        if is_secret(field) {
            let name_end = at + field.find('=').map_or(field.len(), |equals| equals + 1);
            redacted.push_str(&query[kept_to..name_end]);
            redacted.push_str(REDACTED);
            kept_to = end;
        }
        at = end + 1;
    }
    if kept_to == 0 {
        return Cow::Borrowed(query);
    }
    redacted.push_str(&query[kept_to..]);
    Cow::Owned(redacted)
}

/// A request target as it may be written to a log; see [`redact_query`].
pub fn redact_target(target: &str) -> Cow<'_, str> {
    match target.split_once('?') {
        Some((path, query)) => match redact_query(query) {
            Cow::Borrowed(_) => Cow::Borrowed(target),
            Cow::Owned(query) => Cow::Owned(format!("{path}?{query}")),
        },
        None => Cow::Borrowed(target),
    }
}

/// Whether a field has a value that is a secret.
fn is_secret(field: &str) -> bool {
    let Some((name, value)) = form_fields(field.as_bytes()).next() else { return false };
    !value.is_empty() && SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
}
