//! Calls to JetStream.
//!
//! They are made as the protocol has them, because a server leaves out settings that it does not know: what
//! it echoes is compared with what was asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_store::Record;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::link::{Link, RequestError};
use crate::message::{Stored, parse_headers};
use crate::topics::Subjects;

/// Codes of errors of JetStream (server/errors.json of nats-server).
pub(crate) mod code {
    pub(crate) const MESSAGE_NOT_FOUND: u64 = 10037;
    pub(crate) const NOT_ENABLED: u64 = 10076;
    pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
}

/// How long a consumer lives that delivers nothing and was not deleted.
const UNUSED: Duration = Duration::from_secs(5);

/// Calls to JetStream for one stream.
#[derive(Clone)]
pub(crate) struct Api {
    link: Arc<Link>,
    stream: Arc<str>,
}

/// Why a call has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiError {
    Request(RequestError),
    /// JetStream has said no.
    Refused {
        /// As in HTTP.
        status: u64,
        code: u64,
        description: String,
    },
    /// The answer makes no sense.
    Nonsense(String),
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    pub(crate) config: Value,
    /// When the stream was created, as the server writes it.
    pub(crate) created: String,
    pub(crate) first: u64,
    /// When the first message was stored, in milliseconds since 1970. Zero: there is none.
    pub(crate) first_ms: u64,
    pub(crate) last: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct MessageBody {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
    time: String,
}

/// Successive messages of one subject, from one of the servers that have a copy of the stream. It may be
/// behind the leader, so there may be more messages than the last one says.
pub(crate) struct Run {
    pub(crate) messages: Vec<Fetched>,
    pub(crate) end: RunEnd,
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// This copy has no more of them, or so many were asked for.
    Complete,
    /// The connection was lost. The next message may be one that the client library cannot read.
    Lost,
    /// The next message has to be asked for alone.
    Stopped,
    /// The server that was asked takes too long.
    Late,
    /// The server that has answered does not give several at once.
    Unsupported,
}

/// A message that was asked for.
pub(crate) struct Fetched {
    pub(crate) stored: Stored,
    /// Whether the client library can read it from a consumer.
    pub(crate) is_readable: bool,
}

impl Api {
    pub(crate) fn new(link: Arc<Link>, stream: &str) -> Api {
        Api { link, stream: stream.into() }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// Calls `$JS.API.<what>`.
    pub(crate) async fn call(&self, what: &str, body: &Value, patience: Duration) -> Result<Value, ApiError> {
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer = self.link.request(&format!("$JS.API.{what}"), None, payload, patience).await;
        let answer = answer.map_err(ApiError::Request)?;
        let value: Value =
            serde_json::from_slice(&answer.payload).map_err(|error| ApiError::Nonsense(error.to_string()))?;
        match ApiError::in_answer(&value) {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }

    pub(crate) async fn stream_info(&self, patience: Duration) -> Result<StreamInfo, ApiError> {
        let value = self.call(&format!("STREAM.INFO.{}", self.stream), &Value::Null, patience).await?;
        StreamInfo::of(value)
    }

    /// The message with the lowest number from this one on, of a subject or of any. The leader of the stream
    /// answers, so nothing that was acknowledged is left out.
    pub(crate) async fn next_message(
        &self,
        from: u64,
        subject: &str,
        patience: Duration,
    ) -> Result<Option<Fetched>, ApiError> {
        self.message(&json!({ "seq": from, "next_by_subj": subject }), patience).await
    }

    /// The message with this number.
    pub(crate) async fn message_at(
        &self,
        number: u64,
        patience: Duration,
    ) -> Result<Option<Fetched>, ApiError> {
        self.message(&json!({ "seq": number }), patience).await
    }

    /// The newest message of a subject.
    pub(crate) async fn last_message(
        &self,
        subject: &str,
        patience: Duration,
    ) -> Result<Option<Fetched>, ApiError> {
        self.message(&json!({ "last_by_subj": subject }), patience).await
    }

    /// The messages of a subject from this number on: at most so many, and about so many bytes. Servers from
    /// 2.11 on can do this, where the stream has the setting `allow_direct`. Each answer is a message whose
    /// last headers are of the server (`Nats-Sequence`, and in `Nats-Last-Sequence` the number of the one
    /// before), or the end: 204 where there were some, 404 where there is none. `wait`: the longest time
    /// between two answers.
    pub(crate) async fn run(
        &self,
        from: u64,
        subject: &str,
        count: usize,
        bytes: usize,
        wait: Duration,
    ) -> Run {
        let body = json!({ "seq": from, "next_by_subj": subject, "batch": count, "max_bytes": bytes });
        let what = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let mut messages = Vec::new();
        let end = match self.link.ask(what, Bytes::from(body.to_string())).await {
            Err(error) => RunEnd::of(error),
            Ok(mut answers) => loop {
                let answer = match tokio::time::timeout(wait, answers.next()).await {
                    Err(_) => break RunEnd::Late,
                    Ok(Err(error)) => break RunEnd::of(error),
                    Ok(Ok(answer)) => answer,
                };
                let before = messages.last().map_or(0, |last: &Fetched| last.stored.number);
                match Fetched::in_run(answer, subject, &self.stream, before) {
                    Ok(message) => messages.push(message),
                    Err(end) => break end,
                }
            },
        };
        Run { messages, end }
    }

    /// How many messages of a subject there are.
    pub(crate) async fn messages_of(&self, subject: &str, patience: Duration) -> Result<u64, ApiError> {
        let body = json!({ "subjects_filter": subject });
        let value = self.call(&format!("STREAM.INFO.{}", self.stream), &body, patience).await?;
        Ok(value["state"]["subjects"][subject].as_u64().unwrap_or_default())
    }

    /// How many messages of a subject have this number or a higher one. A consumer is made for it that
    /// delivers nothing.
    pub(crate) async fn messages_from(
        &self,
        from: u64,
        subject: &str,
        patience: Duration,
    ) -> Result<u64, ApiError> {
        let config = json!({
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "filter_subject": subject,
            "ack_policy": "explicit",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": UNUSED.as_nanos() as u64,
        });
        let body = json!({ "stream_name": *self.stream, "config": config });
        let created = self.call(&format!("CONSUMER.CREATE.{}", self.stream), &body, patience).await?;
        let name = created["name"].as_str().unwrap_or_default();
        let (api, what) = (self.clone(), format!("CONSUMER.DELETE.{}.{name}", self.stream));
        // A server keeps a bounded number of consumers.
        tokio::spawn(async move { api.call(&what, &Value::Null, UNUSED).await });
        let is_echoed =
            created["config"]["filter_subject"] == subject && created["config"]["opt_start_seq"] == from;
        let count = created["num_pending"].as_u64().filter(|_| is_echoed);
        count.ok_or_else(|| ApiError::Nonsense("a consumer is not as it was asked for".to_owned()))
    }

    async fn message(&self, body: &Value, patience: Duration) -> Result<Option<Fetched>, ApiError> {
        match self.call(&format!("STREAM.MSG.GET.{}", self.stream), body, patience).await {
            Ok(mut value) => Fetched::of(value["message"].take()).map(Some),
            Err(ApiError::Refused { code: code::MESSAGE_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a message of this subject is one that was asked for: `asked` is a subject, or ends with `>`.
fn is_of(asked: &str, found: &str) -> bool {
    match asked.strip_suffix('>') {
        Some(prefix) => found.len() > prefix.len() && found.starts_with(prefix),
        None => asked == found,
    }
}

impl RunEnd {
    fn of(error: RequestError) -> RunEnd {
        match error {
            RequestError::Unanswered => RunEnd::Lost,
            RequestError::NoResponders | RequestError::Denied | RequestError::TooLarge => RunEnd::Unsupported,
        }
    }
}

impl Fetched {
    /// The message in an answer of [`Api::run`], behind the one with the number `before`.
    fn in_run(answer: Message, subject: &str, stream: &str, before: u64) -> Result<Fetched, RunEnd> {
        // Publishers choose the first headers of a message. The last ones are of the server.
        let header = |name: &str| Some(answer.headers.as_ref()?.get_last(name)?.as_str());
        let number = |name: &str| header(name).and_then(|number| number.parse::<u64>().ok());
        let Some(own) = number("Nats-Sequence") else {
            return Err(match answer.status.map(|status| status.as_u16()) {
                Some(204 | 404) => RunEnd::Complete,
                _ => RunEnd::Unsupported,
            });
        };
        let Some(last) = number("Nats-Last-Sequence") else { return Err(RunEnd::Unsupported) };
        // Headers without an end run into the first one of the server.
        let is_whole = header("Nats-Stream") == Some(stream) && last == before && own > before;
        let found = header("Nats-Subject").filter(|found| is_whole && is_of(subject, found));
        let time = header("Nats-Time-Stamp").and_then(parse_time);
        let (Some(found), Some(published_ms)) = (found.map(str::to_owned), time) else {
            return Err(RunEnd::Stopped);
        };
        Ok(Fetched {
            is_readable: true,
            stored: Stored {
                number: own,
                published_ms,
                subject: found,
                headers: answer.headers,
                payload: answer.payload,
            },
        })
    }

    /// The event. `None`: the message is none.
    pub(crate) fn to_record(&self, subjects: &Subjects) -> Option<Record> {
        self.is_readable.then(|| self.stored.to_record(subjects)).flatten()
    }

    fn of(message: Value) -> Result<Fetched, ApiError> {
        let nonsense = |what: &str| ApiError::Nonsense(format!("a message has {what}"));
        let body: MessageBody =
            serde_json::from_value(message).map_err(|error| ApiError::Nonsense(error.to_string()))?;
        let decode = |text: Option<String>| STANDARD.decode(text.unwrap_or_default());
        let data = decode(body.data).map_err(|_| nonsense("data that is not base64"))?;
        let headers = decode(body.hdrs).map_err(|_| nonsense("headers that are not base64"))?;
        let published_ms = parse_time(&body.time).ok_or_else(|| nonsense("no time"))?;
        let parsed = parse_headers(&headers);
        // A subject that is no UTF-8 has replacement characters here.
        let is_plain =
            !body.subject.contains(|c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER);
        Ok(Fetched {
            is_readable: (headers.is_empty() || parsed.is_some()) && is_plain,
            stored: Stored {
                number: body.seq,
                published_ms,
                subject: body.subject,
                headers: parsed,
                payload: Bytes::from(data),
            },
        })
    }
}

impl StreamInfo {
    pub(crate) fn of(mut value: Value) -> Result<StreamInfo, ApiError> {
        let state = value["state"].take();
        let number = |name: &str| {
            state[name]
                .as_u64()
                .ok_or_else(|| ApiError::Nonsense(format!("the state of the stream has no {name}")))
        };
        let created = value["created"].as_str();
        Ok(StreamInfo {
            created: created
                .ok_or_else(|| ApiError::Nonsense("the stream has no time".to_owned()))?
                .to_owned(),
            first: number("first_seq")?,
            first_ms: state["first_ts"].as_str().and_then(parse_time).unwrap_or_default(),
            last: number("last_seq")?,
            messages: number("messages")?,
            bytes: number("bytes")?,
            config: value["config"].take(),
        })
    }

    /// Everything up to this number is gone.
    pub(crate) fn gone(&self) -> u64 {
        self.first.saturating_sub(1)
    }
}

impl ApiError {
    /// The error in an answer.
    pub(crate) fn in_answer(value: &Value) -> Option<ApiError> {
        let error: ErrorBody = serde_json::from_value(value.get("error")?.clone()).ok()?;
        let ErrorBody { code: status, err_code: code, description } = error;
        Some(ApiError::Refused { status, code, description })
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Request(RequestError::NoResponders) => f.write_str("no JetStream answers"),
            ApiError::Request(RequestError::Unanswered) => f.write_str("JetStream does not answer in time"),
            ApiError::Request(RequestError::Denied) => f.write_str("the account may not call JetStream"),
            ApiError::Request(RequestError::TooLarge) => {
                f.write_str("the message is larger than the server takes")
            }
            ApiError::Refused { code, description, .. } => {
                write!(f, "JetStream says: {description} ({code})")
            }
            ApiError::Nonsense(what) => write!(f, "the answer of JetStream makes no sense: {what}"),
        }
    }
}

/// Milliseconds since 1970 of a time in the form of RFC 3339, which is in UTC: a server writes no other.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let millis: String = fraction.chars().chain("000".chars()).take(3).collect();
    // Days since 1970 in the Gregorian calendar, with years that begin in March (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-03-01T00:00:00.5Z", 59 * 86_400_000 + 500),
            ("2000-02-29T12:34:56.789012345Z", 951_827_696_789),
            ("2026-11-29T14:25:43.1Z", 1_795_962_343_100),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(parse_time(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "Z",
            "2026-11-29",
            "2026-11-29T14:25:43+01:00",
            "2026-13-01T00:00:00Z",
            "0000-00-00T00:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
