//! `DELETE /connections`: ends streams, and bars subjects and tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fanfare::{ConnectionError, Topic, form_fields};
use fanfare_access::{MAX_NAME_BYTES, Revoked};

use super::Control;
use super::problem::Problem;
use crate::access::Publisher;
use crate::clock::unix_time;

/// How long a revocation bars where the request names no end. Tokens that live longer are rare, and the list of
/// revocations has a bound of its own.
const BARRED: Duration = Duration::from_secs(365 * 24 * 3600);

/// Tries to give an order to shards whose mailboxes are full, and the time between them.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// What is to be ended, and what is to be barred.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    subjects: Vec<String>,
    topics: Vec<Topic>,
    tokens: Vec<String>,
    until_unix_s: Option<u64>,
}

pub(super) async fn end(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    RawQuery(query): RawQuery,
) -> Response {
    match try_end(&control, &publisher, query.as_deref().unwrap_or_default()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn try_end(control: &Control, publisher: &Publisher, query: &str) -> Result<(), Problem> {
    if !publisher.may_end_connections() {
        let detail = "only a token that may publish to every topic (\"*\") may end connections";
        return Err(Problem::new(403, detail));
    }
    let Ends { subjects, topics, tokens, until_unix_s } = Ends::parse(query)?;
    let until_unix_s = until_unix_s.unwrap_or_else(|| (unix_time() + BARRED).as_secs());
    // First the bar, then the end: a client that comes back at once is refused.
    let barred = tokens.iter().map(|token| Revoked::TokenId(token.as_str().into()));
    let barred_subjects = subjects.iter().map(|subject| Revoked::Subject(subject.as_str().into()));
    let mut full = None;
    for revoked in barred.chain(barred_subjects) {
        if let Err(error) = publisher.access().revoke(revoked, until_unix_s) {
            full = Some(error);
        }
    }
    // They hold from here on, and are written while the streams end.
    let access = Arc::clone(publisher.access());
    let has_barred = !(subjects.is_empty() && tokens.is_empty());
    let kept = (has_barred && access.keeps_revocations())
        .then(|| tokio::task::spawn_blocking(move || access.keep_revocations()));
    let ended = end_streams(control, &subjects, &tokens, &topics).await;
    if let Some(kept) = kept
        && let Err(error) = kept.await.unwrap_or_else(|error| Err(error.to_string()))
    {
        tracing::error!(error, "a revocation holds, but a restart will forget it");
        let detail = "the revocation holds, but a restart of the server will forget it; its log says why";
        return Err(Problem::new(500, detail));
    }
    ended?;
    tracing::info!(
        ?subjects,
        topics = topics.len(),
        tokens = tokens.len(),
        "connections are ended by request"
    );
    if let Some(error) = full {
        tracing::error!(%error, "a revocation does not bar, because the list of revocations is full");
        return Err(Problem::new(
            507,
            format!("the streams were ended, and not everything was barred: {error}"),
        ));
    }
    Ok(())
}

async fn end_streams(
    control: &Control,
    subjects: &[String],
    tokens: &[String],
    topics: &[Topic],
) -> Result<(), Problem> {
    for subject in subjects {
        until_taken(|| control.hub.disconnect_subject(subject)).await?;
    }
    for token in tokens {
        until_taken(|| control.hub.disconnect_token(token)).await?;
    }
    for topic in topics {
        until_taken(|| control.hub.disconnect_topic(topic)).await?;
    }
    Ok(())
}

/// Gives an order again while a mailbox is full: given twice, it does no harm.
async fn until_taken(order: impl Fn() -> Result<(), ConnectionError>) -> Result<(), Problem> {
    for _ in 0..TRIES {
        match order() {
            Ok(()) => return Ok(()),
            Err(ConnectionError::Busy) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(Problem::new(503, error.to_string())),
        }
    }
    Err(Problem::new(503, "the shards are busy; try again in a second").header("Retry-After", "1"))
}

impl Ends {
    fn parse(query: &str) -> Result<Ends, Problem> {
        let wrong = |detail: String| Problem::new(400, detail);
        let mut ends = Ends::default();
        for (name, value) in form_fields(query.as_bytes()) {
            let Ok(value) = std::str::from_utf8(&value) else {
                return Err(wrong("a parameter is not UTF-8 once its % escapes are decoded".to_owned()));
            };
            let name_of = |what: &str| match value.len() {
                1..=MAX_NAME_BYTES => Ok(value.to_owned()),
                _ => Err(wrong(format!("{what} has 1 to {MAX_NAME_BYTES} bytes"))),
            };
            match name.as_ref() {
                b"subject" => ends.subjects.push(name_of("a subject")?),
                b"token" => ends.tokens.push(name_of("the id of a token (jti)")?),
                b"topic" => {
                    ends.topics.push(Topic::new(value).map_err(|error| wrong(error.to_string()))?);
                }
                b"until" if ends.until_unix_s.is_some() => {
                    return Err(wrong("until is given twice".to_owned()));
                }
                b"until" => {
                    let seconds = value.parse().map_err(|_| {
                        wrong(
                            "until is the time in seconds since 1970 at which the last token expires"
                                .to_owned(),
                        )
                    })?;
                    ends.until_unix_s = Some(seconds);
                }
                b"access_token" => {}
                // A misspelt name must not look as if something had been barred.
                _ => return Err(wrong("the parameters are subject, topic, token and until".to_owned())),
            }
        }
        if ends.subjects.is_empty() && ends.topics.is_empty() && ends.tokens.is_empty() {
            return Err(wrong("name what is to be ended: subject=, topic= or token=".to_owned()));
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_ends_nothing() {
        for wrong in [
            "",
            "until=5",
            "subjects=ada",
            "subject=",
            "topic=",
            "token=",
            "subject=a&until=soon",
            "subject=a&until=1&until=2",
            "subject=%ff",
        ] {
            assert!(Ends::parse(wrong).is_err(), "{wrong}");
        }
        let ends = Ends::parse("subject=ada%20l&token=t1&topic=a&until=7").ok();
        let expected = Ends {
            subjects: vec!["ada l".to_owned()],
            topics: vec![Topic::new("a").unwrap()],
            tokens: vec!["t1".to_owned()],
            until_unix_s: Some(7),
        };
        assert_eq!(ends, Some(expected));
    }
}
