//! The answer of the endpoint, read strictly.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use fanfare_access::{Grants, MAX_NAME_BYTES, Pattern, PatternSet};
use serde::Deserialize;

/// The longest body of an answer, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

/// The longest challenge that is passed on, in bytes.
const MAX_CHALLENGE_BYTES: usize = 256;

/// What the endpoint answers about a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The subscriber is let in.
    Granted(Grant),
    /// It is not: 401 or 403, and the challenge of a 401.
    Refused(u16, Option<String>),
    /// There is no answer, so that it is not let in now.
    Failed(Failure),
}

/// What the endpoint says about a subscriber that it lets in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) subject: Option<Arc<str>>,
    /// The topics that it may subscribe to; `None`: those that it asks for.
    pub(crate) topics: Option<Arc<Grants>>,
    pub(crate) expires_unix_s: Option<u64>,
    /// Whether it sees private events.
    pub(crate) private: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, or it broke.
    Unreachable,
    /// It did not come in time.
    TimedOut,
    /// The status is none of those that mean something.
    Status,
    /// The head or the body is longer than the bound.
    TooLarge,
    /// It is no HTTP, or its body is not what it may be.
    Malformed,
    /// Too many questions wait already.
    Busy,
}

impl Failure {
    /// The short names of all failures, for the log.
    pub(crate) const NAMES: [&'static str; 6] =
        ["unreachable", "timed_out", "status", "too_large", "malformed", "busy"];
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Unreachable => "the authorization endpoint cannot be reached",
            Failure::TimedOut => "the authorization endpoint did not answer in time",
            Failure::Status => {
                "the authorization endpoint answered with a status that is not 2xx, 401 or 403"
            }
            Failure::TooLarge => "the answer of the authorization endpoint is too large",
            Failure::Malformed => "the answer of the authorization endpoint is malformed",
            Failure::Busy => "too many requests wait for the authorization endpoint",
        })
    }
}

/// The body of an answer that lets a subscriber in. A misspelt member must not look as if it were obeyed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    subject: Option<String>,
    topics: Option<Vec<String>>,
    expires: Option<u64>,
    #[serde(default)]
    private: bool,
}

impl Answer {
    /// Reads an answer.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
        match status.as_u16() {
            200..=299 if body.is_empty() && !is_complete(status, headers) => {
                Answer::Failed(Failure::Malformed)
            }
            200..=299 => read_grant(body).map_or(Answer::Failed(Failure::Malformed), Answer::Granted),
            401 => Answer::Refused(401, challenge(headers)),
            403 => Answer::Refused(403, None),
            _ => Answer::Failed(Failure::Status),
        }
    }

    /// Whether an answer with these fields may be remembered.
    pub(super) fn may_be_stored(headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::CACHE_CONTROL).iter();
        let mut directives = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        !directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-store"))
    }
}

/// Whether an answer without a body says so. One that ends with its connection may have lost its body (RFC
/// 9112, section 6.3), and with it what it was to grant.
fn is_complete(status: StatusCode, headers: &HeaderMap) -> bool {
    let says_length =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| headers.contains_key(name));
    status == StatusCode::NO_CONTENT || says_length
}

/// The grant of a body: nothing, or a JSON object.
fn read_grant(body: &[u8]) -> Option<Grant> {
    if body.is_empty() {
        return Some(Grant::default());
    }
    let Body { subject, topics, expires, private } = serde_json::from_slice(body).ok()?;
    let is_name =
        |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    if subject.as_ref().is_some_and(|subject| !is_name(subject)) {
        return None;
    }
    let topics = match topics {
        Some(texts) => {
            let patterns = PatternSet::parse(texts.iter().map(String::as_str)).ok()?;
            Some(Arc::new(Grants::new(patterns, PatternSet::default())))
        }
        None => None,
    };
    Some(Grant { subject: subject.map(Into::into), topics, expires_unix_s: expires, private })
}

/// The challenge of a 401, if it is a text that may be passed on.
fn challenge(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::WWW_AUTHENTICATE)?;
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_CHALLENGE_BYTES)?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Grants of every topic.
pub(crate) fn every_topic() -> Arc<Grants> {
    let all = Pattern::parse("*").and_then(|all| PatternSet::new([all])).unwrap_or_default();
    Arc::new(Grants::new(all, PatternSet::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Answer {
        Answer::read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn a_good_body_is_read_whole() {
        let Answer::Granted(grant) =
            read(200, r#"{"subject":"ada","topics":["orders/{id}"],"expires":7,"private":true}"#)
        else {
            panic!("granted")
        };
        assert_eq!(
            (grant.subject.as_deref(), grant.expires_unix_s, grant.private),
            (Some("ada"), Some(7), true)
        );
        assert!(grant.topics.unwrap().subscribe().covers("orders/1"));
        let Answer::Granted(grant) = read(204, "") else { panic!("granted") };
        assert!(grant.subject.is_none() && grant.topics.is_none() && !grant.private);
        let Answer::Granted(grant) = read(200, r#"{"topics":[]}"#) else { panic!("granted") };
        assert!(grant.topics.unwrap().subscribe().is_empty(), "no topic is none, and not every one");
    }

    /// An endpoint that died between head and body granted every topic that was asked for.
    #[test]
    fn an_answer_without_a_body_says_so() {
        assert!(matches!(read(200, ""), Answer::Failed(Failure::Malformed)));
        for (name, value) in [("content-length", "0"), ("transfer-encoding", "chunked")] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            assert!(matches!(Answer::read(StatusCode::OK, &headers, b""), Answer::Granted(_)), "{name}");
        }
    }

    #[test]
    fn a_body_that_is_not_understood_lets_nobody_in() {
        let long = format!(r#"{{"subject":"{}"}}"#, "x".repeat(MAX_NAME_BYTES + 1));
        let many = serde_json::json!({ "topics": vec!["a"; 10_000] }).to_string();
        let deep = "[".repeat(10_000);
        for body in [
            "ok",
            "[]",
            "null",
            "{",
            r#"{"subject":7}"#,
            r#"{"subject":""}"#,
            r#"{"subject":"a\nb"}"#,
            r#"{"expire":7}"#,
            r#"{"expires":-1}"#,
            r#"{"expires":1.5}"#,
            r#"{"expires":"7"}"#,
            r#"{"topics":"a"}"#,
            r#"{"topics":["{a,b}"]}"#,
            r#"{"topics":[""]}"#,
            r#"{"private":1}"#,
            r#"{"subject":"a","subject":"b"}"#,
            r#"{} {}"#,
            "<html>",
            " ",
            &long,
            &many,
            &deep,
        ] {
            assert!(matches!(read(200, body), Answer::Failed(Failure::Malformed)), "{body:.80}");
        }
    }

    #[test]
    fn only_401_and_403_refuse_and_every_other_status_is_no_answer() {
        assert!(matches!(read(401, "x"), Answer::Refused(401, None)));
        assert!(matches!(read(403, "x"), Answer::Refused(403, None)));
        for status in [100, 300, 302, 400, 404, 429, 500, 503, 999] {
            assert!(matches!(read(status, ""), Answer::Failed(Failure::Status)), "{status}");
        }
    }

    #[test]
    fn no_store_is_found_among_others() {
        let may = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, value.parse().unwrap());
            }
            Answer::may_be_stored(&headers)
        };
        assert!(may(&[]) && may(&["max-age=5"]) && may(&["no-storeX"]));
        assert!(!may(&["no-store"]) && !may(&["private, No-Store"]) && !may(&["max-age=5", "no-store"]));
    }
}
