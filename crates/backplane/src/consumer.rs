//! Reading the stream: an ephemeral push consumer, and what keeps one going.
//!
//! NATS has ordered consumers in its client libraries. This one is made here, because it has to notice within
//! three seconds that it has stopped, has to start again at the number after the last one, and has to get
//! past messages that the client library cannot read.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::api::{Api, ApiError};
use crate::message::Stored;

/// How often the server sends a sign of life where there is no message.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a consumer without a subscriber lives.
const INACTIVE: Duration = Duration::from_secs(10);

/// How long the creation of a consumer may take.
const CREATION: Duration = Duration::from_secs(2);

/// A message, with what its reply subject says of it.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) stored: Stored,
    /// When it was stored, in nanoseconds since 1970: no two messages with one number have the same.
    pub(crate) time_ns: u64,
    /// Messages of the same filter behind it, which this consumer has not sent.
    pub(crate) pending: u64,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Box<Incoming>),
    /// There is none at the moment.
    Heartbeat,
    /// A message with this number, which the client library cannot read.
    Unreadable(u64),
}

/// Why a consumer has ended. The next one continues.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The connection was lost.
    Away,
    /// Messages are missing.
    Gap,
    /// Nothing has come, not even a sign of life.
    Silent,
    /// The server says so.
    Told(String),
    /// It could not be created.
    NotCreated(ApiError),
}

/// What is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// One subject; `None`: all.
    pub(crate) subject: Option<String>,
    /// The data is left out.
    pub(crate) headers_only: bool,
}

/// The stream from one number on.
pub(crate) struct Reading {
    api: Api,
    filter: Filter,
    /// The next message is the first one with at least this number.
    from: u64,
    consumer: Option<Consumer>,
    /// The connection was lost before much had come. It may have been for the next message from this number
    /// on.
    suspect: Option<u64>,
    /// Messages that there were behind `from` when the consumer was created.
    pending: u64,
}

struct Consumer {
    api: Api,
    name: String,
    subscription: Subscriber,
    generation: u64,
    /// The number of the last message, in the count of the consumer.
    count: u64,
}

/// What the reply subject of a message says: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream
/// sequence>.<consumer sequence>.<time>.<pending>`, or the same with `<domain>.<account hash>` before the
/// stream and more behind.
struct Position {
    number: u64,
    count: u64,
    time_ns: u64,
    pending: u64,
}

impl Reading {
    pub(crate) fn new(api: Api, filter: Filter, from: u64) -> Reading {
        Reading { api, filter, from: from.max(1), consumer: None, suspect: None, pending: 0 }
    }

    /// Goes on at another number.
    pub(crate) fn restart(&mut self, from: u64) {
        self.from = from.max(1);
        self.consumer = None;
    }

    /// Whether a consumer is there, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.consumer.is_some()
    }

    /// Creates the consumer where there is none. What is then behind the first number.
    pub(crate) async fn open(&mut self) -> Result<u64, Ended> {
        if self.consumer.is_none() {
            let (consumer, pending) = self.create().await?;
            (self.consumer, self.pending) = (Some(consumer), pending);
        }
        Ok(self.pending)
    }

    /// Creates the consumer, where the next message comes from one.
    pub(crate) async fn prepare(&mut self) -> Result<(), Ended> {
        if self.consumer.is_none() && self.suspect.is_some() {
            return Ok(());
        }
        self.open().await.map(|_| ())
    }

    /// The next message. After an error the next call starts again where it was.
    pub(crate) async fn next(&mut self, silence: Duration) -> Result<Received, Ended> {
        if self.consumer.is_none()
            && let Some(suspect) = self.suspect
        {
            let subject = self.filter.subject.as_deref().unwrap_or(">");
            let next = self.api.next_message(suspect, subject, CREATION).await;
            let next = next.map_err(Ended::NotCreated)?;
            self.suspect = None;
            if let Some(message) = next.filter(|message| !message.is_readable) {
                self.from = message.stored.number + 1;
                // There may be more of them.
                self.suspect = Some(self.from);
                return Ok(Received::Unreadable(message.stored.number));
            }
        }
        self.open().await?;
        let Some(consumer) = &mut self.consumer else { return Err(Ended::Away) };
        match consumer.next(&self.api, silence).await {
            Ok(received) => {
                if let Received::Message(message) = &received {
                    self.from = message.stored.number + 1;
                }
                Ok(received)
            }
            Err(ended) => {
                // The first message may be one that was known before.
                let is_suspicious = consumer.count <= 1 && matches!(ended, Ended::Away);
                self.suspect = is_suspicious.then_some(self.from);
                self.consumer = None;
                Err(ended)
            }
        }
    }

    async fn create(&self) -> Result<(Consumer, u64), Ended> {
        let link = self.api.link();
        let generation = link.generation().ok_or(Ended::Away)?;
        let client = link.client();
        let inbox = client.new_inbox();
        let subscription = client.subscribe(inbox.clone());
        let Ok(Ok(subscription)) = tokio::time::timeout(CREATION, subscription).await else {
            return Err(Ended::Away);
        };
        let mut config = json!({
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.from,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        if let Some(subject) = &self.filter.subject {
            config["filter_subject"] = json!(subject);
        }
        if self.filter.headers_only {
            config["headers_only"] = json!(true);
        }
        let asked = config.clone();
        config["mem_storage"] = json!(true);
        config["num_replicas"] = json!(1);
        config["inactive_threshold"] = json!(INACTIVE.as_nanos() as u64);
        let stream = self.api.stream();
        let body = json!({ "stream_name": stream, "config": config });
        let created = self.api.call(&format!("CONSUMER.CREATE.{stream}"), &body, CREATION).await;
        let created = created.map_err(Ended::NotCreated)?;
        // A server leaves out what it does not know.
        for (setting, value) in asked.as_object().into_iter().flatten() {
            if created["config"][setting] != *value {
                let what = format!("a consumer was asked for with {setting} = {value}, and has another");
                return Err(Ended::NotCreated(ApiError::Nonsense(what)));
            }
        }
        let pending = created["num_pending"].as_u64().unwrap_or_default();
        let name = created["name"].as_str().unwrap_or_default().to_owned();
        Ok((Consumer { api: self.api.clone(), name, subscription, generation, count: 0 }, pending))
    }
}

impl Drop for Consumer {
    /// The server would keep it for [`INACTIVE`], and has a bound for the consumers of a stream: subscribers
    /// who make a node search would use it up.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.name.is_empty() || self.api.link().generation() != Some(self.generation) {
            return;
        }
        let (api, what) = (self.api.clone(), format!("CONSUMER.DELETE.{}.{}", self.api.stream(), self.name));
        runtime.spawn(async move {
            let _ = api.call(&what, &serde_json::Value::Null, CREATION).await;
        });
    }
}

impl Consumer {
    async fn next(&mut self, api: &Api, silence: Duration) -> Result<Received, Ended> {
        loop {
            let message = match self.subscription.next().now_or_never() {
                Some(message) => message.ok_or(Ended::Away)?,
                None => self.wait(api, silence).await?,
            };
            if let Some(received) = self.take(api, message).await? {
                return Ok(received);
            }
        }
    }

    async fn wait(&mut self, api: &Api, silence: Duration) -> Result<Message, Ended> {
        let link = Arc::clone(api.link());
        let away = async {
            while link.generation() == Some(self.generation) {
                link.changed().await;
            }
        };
        let next = async {
            tokio::select! {
                biased;
                message = self.subscription.next() => message.ok_or(Ended::Away),
                () = away => Err(Ended::Away),
            }
        };
        tokio::time::timeout(silence, next).await.unwrap_or(Err(Ended::Silent))
    }

    async fn take(&mut self, api: &Api, message: Message) -> Result<Option<Received>, Ended> {
        // A stored message has this reply subject, and may have any status.
        if let Some(position) = message.reply.as_deref().and_then(Position::parse) {
            if position.count != self.count + 1 {
                return Err(Ended::Gap);
            }
            self.count = position.count;
            let Position { number, time_ns, pending, .. } = position;
            let stored = Stored {
                number,
                published_ms: time_ns / 1_000_000,
                subject: message.subject.into_string(),
                headers: message.headers,
                payload: message.payload,
            };
            return Ok(Some(Received::Message(Box::new(Incoming { stored, time_ns, pending }))));
        }
        if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
            let status = message.status.map(|status| status.to_string()).unwrap_or_default();
            let what = message.description.unwrap_or_default();
            return Err(Ended::Told(format!("{status} {what}")));
        }
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get_last(name));
        let stalled = header("Nats-Consumer-Stalled").map(|value| value.as_str().to_owned());
        let is_flow_control = message.reply.is_some();
        // What came before it has been taken.
        if let Some(subject) = message.reply.map(|subject| subject.into_string()).or(stalled) {
            let client = api.link().client();
            let answer = client.publish(subject, bytes::Bytes::new());
            let _ = tokio::time::timeout(CREATION, answer).await;
        }
        if is_flow_control {
            return Ok(None);
        }
        let count = header("Nats-Last-Consumer").and_then(|value| value.as_str().parse::<u64>().ok());
        if count.is_some_and(|count| count != self.count) {
            return Err(Ended::Gap);
        }
        Ok(Some(Received::Heartbeat))
    }
}

impl Position {
    fn parse(reply: &str) -> Option<Position> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let rest = match tokens.len() {
            7 => &tokens[3..],
            9.. => &tokens[5..],
            _ => return None,
        };
        let number = |index: usize| rest.get(index)?.parse().ok();
        Some(Position { number: number(0)?, count: number(1)?, time_ns: number(2)?, pending: number(3)? })
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Away => f.write_str("the connection to NATS is lost"),
            Ended::Gap => f.write_str("the consumer has left out messages"),
            Ended::Silent => f.write_str("the consumer has sent nothing for seconds"),
            Ended::Told(what) => write!(f, "the consumer has ended: {what}"),
            Ended::NotCreated(error) => write!(f, "no consumer can be created: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_reply_subject_are_read() {
        for reply in [
            "$JS.ACK.FANFARE.name.1.42.7.1700000000000000001.3",
            "$JS.ACK.hub.ACCOUNT.FANFARE.name.1.42.7.1700000000000000001.3",
            "$JS.ACK._.ACCOUNT.FANFARE.name.1.42.7.1700000000000000001.3.token",
        ] {
            let Position { number, count, time_ns, pending } = Position::parse(reply).unwrap();
            assert_eq!((number, count, time_ns, pending), (42, 7, 1_700_000_000_000_000_001, 3), "{reply}");
        }
        for reply in ["$JS.ACK.a.b.1.2.3", "$JS.FC.a.b.1.2.3.4.5", "$JS.ACK.a.b.1.x.3.4.5", "_INBOX.a"] {
            assert!(Position::parse(reply).is_none(), "{reply}");
        }
    }
}
