//! What nodes tell each other beside events: that they are there, messages to all, and questions to all.
//!
//! None of it is stored: a node that is away at the moment does not get it.
//!
//! | subject | message |
//! |---|---|
//! | `_FANFARE.<stream>.nodes.here` | once a second: the node is there |
//! | `_FANFARE.<stream>.nodes.gone` | the node ends |
//! | `_FANFARE.<stream>.nodes.tell.<kind>` | a message to all, or a question, with a subject for answers |

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::link::Link;
use crate::shared::Shared;
use crate::sync::lock;

/// The name of the node that has sent a message.
const NODE_HEADER: &str = "Fanfare-Node";

/// How often a node shows itself.
const SHOW: Duration = Duration::from_secs(1);

/// After so long without a sign a node is gone.
const GONE: Duration = Duration::from_millis(3500);

/// What the headers of a message take at most, in bytes.
const HEADER_ROOM: usize = 256;

/// Nodes that are remembered.
const MOST_NODES: usize = 4096;

/// What is called with the name of the node and the payload. What it gives is the answer to a question.
type Handler = dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync;

/// The other nodes.
pub(crate) struct Nodes {
    link: Arc<Link>,
    /// The name of this node. Each start has another one. Behind the last `-` is the time of the start, so
    /// that the order of these ends is that of age, as far as the clocks of the machines agree, and then a
    /// random number.
    name: String,
    subject: String,
    seen: Mutex<BTreeMap<String, Instant>>,
    handlers: Mutex<HashMap<String, Arc<Handler>>>,
}

/// Why a message was not sent to the other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TellError {
    /// There is no connection to NATS at the moment.
    Away,
    /// The message is larger than the server takes.
    TooLarge {
        /// What it takes, in bytes.
        limit: usize,
    },
    /// The kind of a message has 1 to 64 letters, digits, `-` and `_`.
    Kind,
}

impl Nodes {
    /// `now`: the date, as the time since 1970.
    pub(crate) fn new(link: Arc<Link>, name: &str, stream: &str, now: Duration) -> Nodes {
        let (time, random) = (base_36(now.as_millis() as u64), base_36(u64::from(fastrand::u32(..))));
        Nodes {
            link,
            name: format!("{name}-{time:0>9}{random}"),
            subject: format!("_FANFARE.{stream}.nodes"),
            seen: Mutex::default(),
            handlers: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The names of the others that have shown themselves in the last seconds, in order.
    pub(crate) fn others(&self) -> Vec<String> {
        let mut seen = lock(&self.seen);
        seen.retain(|_, at| at.elapsed() < GONE);
        seen.keys().cloned().collect()
    }

    pub(crate) fn handle(&self, kind: &str, handler: Arc<Handler>) -> Result<(), TellError> {
        check_kind(kind)?;
        lock(&self.handlers).insert(kind.to_owned(), handler);
        Ok(())
    }

    /// Whether such a message can be sent.
    pub(crate) fn check(&self, kind: &str, bytes: usize) -> Result<(), TellError> {
        check_kind(kind)?;
        let limit = self.link.client().max_payload().saturating_sub(HEADER_ROOM);
        if bytes > limit {
            return Err(TellError::TooLarge { limit });
        }
        self.link.generation().map(|_| ()).ok_or(TellError::Away)
    }

    /// Sends a message to all others, with a subject for their answers.
    pub(crate) async fn tell(
        &self,
        kind: &str,
        payload: Bytes,
        reply: Option<String>,
    ) -> Result<(), TellError> {
        self.check(kind, payload.len())?;
        self.send(&format!("{}.tell.{kind}", self.subject), payload, reply).await.ok_or(TellError::Away)
    }

    /// Asks all others, and waits for the answers of those that are there, at most so long.
    pub(crate) async fn ask(
        &self,
        kind: &str,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Vec<(String, Vec<u8>)>, TellError> {
        let deadline = Instant::now() + patience;
        let mut missing = self.others();
        let inbox = self.link.client().new_inbox();
        let answers = tokio::time::timeout(patience, self.link.client().subscribe(inbox.clone())).await;
        let Ok(Ok(mut answers)) = answers else { return Err(TellError::Away) };
        self.tell(kind, payload, Some(inbox)).await?;
        let mut told = Vec::new();
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(answer)) = tokio::time::timeout(left, answers.next()).await else { break };
            let Some(name) = sender(&answer) else { continue };
            missing.retain(|missing| missing != name);
            told.push((name.to_owned(), answer.payload.to_vec()));
        }
        Ok(told)
    }

    async fn send(&self, subject: &str, payload: Bytes, reply: Option<String>) -> Option<()> {
        let mut headers = HeaderMap::new();
        headers.insert(NODE_HEADER, self.name.as_str());
        let (client, subject) = (self.link.client(), subject.to_owned());
        let sent = async {
            match reply {
                Some(reply) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => client.publish_with_headers(subject, headers, payload).await,
            }
        };
        tokio::time::timeout(SHOW, sent).await.ok()?.ok()
    }

    /// Shows this node, and listens to the others, until the end.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let all = format!("{}.>", self.subject);
        let mut messages = self.link.subscribe_again(&all).await;
        let mut end = shared.end.subscribe();
        let (here, gone) = (format!("{}.here", self.subject), format!("{}.gone", self.subject));
        let mut show = tokio::time::interval(SHOW);
        while !*end.borrow() {
            tokio::select! {
                _ = end.changed() => {}
                _ = show.tick() => {
                    if self.link.generation().is_some() {
                        self.send(&here, Bytes::new(), None).await;
                    }
                }
                message = messages.next() => match message {
                    Some(message) => self.take(message).await,
                    None => {
                        tokio::select! {
                            again = self.link.subscribe_again(&all) => messages = again,
                            _ = end.changed() => {}
                        }
                    }
                },
            }
        }
        self.send(&gone, Bytes::new(), None).await;
    }

    /// Notes that a node has shown itself. True: it is new.
    fn see(&self, name: &str) -> bool {
        let mut seen = lock(&self.seen);
        let is_new = !seen.contains_key(name);
        if seen.len() < MOST_NODES || !is_new {
            seen.insert(name.to_owned(), Instant::now());
        }
        is_new
    }

    async fn take(&self, message: Message) {
        let Some(name) = sender(&message).filter(|name| *name != self.name) else { return };
        let Some(what) = message.subject.strip_prefix(&*self.subject).and_then(|rest| rest.strip_prefix('.'))
        else {
            return;
        };
        match what {
            "gone" => drop(lock(&self.seen).remove(name)),
            "here" => {
                if self.see(name) {
                    // So that it need not wait for a second to know this node.
                    self.send(&format!("{}.here", self.subject), Bytes::new(), None).await;
                }
            }
            _ => {
                let kind = what.strip_prefix("tell.").unwrap_or_default();
                let handler = lock(&self.handlers).get(kind).cloned();
                let Some(handler) = handler else { return };
                let answer = handler(name, &message.payload);
                if let Some(reply) = message.reply {
                    self.send(&reply, Bytes::from(answer), None).await;
                }
            }
        }
    }
}

fn sender(message: &Message) -> Option<&str> {
    Some(message.headers.as_ref()?.get_last(NODE_HEADER)?.as_str())
}

fn check_kind(kind: &str) -> Result<(), TellError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_kind = (1..=64).contains(&kind.len()) && kind.bytes().all(is_legal);
    is_kind.then_some(()).ok_or(TellError::Kind)
}

fn base_36(number: u64) -> String {
    fanfare_proto::cursor::Epoch::new(number).to_string()
}

impl std::fmt::Display for TellError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TellError::Away => f.write_str("there is no connection to NATS at the moment"),
            TellError::TooLarge { limit } => {
                write!(f, "the message is larger than the {limit} bytes that NATS takes")
            }
            TellError::Kind => f.write_str("the kind of a message has 1 to 64 letters, digits, '-' and '_'"),
        }
    }
}

impl std::error::Error for TellError {}
