//! Who may subscribe, and to what: the embedder's decision on each request head.

use std::time::Duration;

use fanfare_proto::event::Topic;
use fanfare_proto::frame::{Checkpoint, encode_unnumbered};
use fanfare_proto::head::RequestHead;
use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery};

/// Decides what a request becomes. A closure `Fn(&RequestHead) -> Decision` is one.
///
/// It runs on a shard's thread, between two sends: it must not block, and it must not use descriptors
/// that it did not open itself in the same call, because a shard has a descriptor table of its own (a
/// logger's file is not there, its number may be a subscriber). It may publish to its own engine's hub, to no other's.
pub trait Admission: Send + Sync + 'static {
    /// Called once for each complete and well-formed request head.
    fn admit(&self, request: &RequestHead<'_>) -> Decision;
}

impl<F> Admission for F
where
    F: Fn(&RequestHead<'_>) -> Decision + Send + Sync + 'static,
{
    fn admit(&self, request: &RequestHead<'_>) -> Decision {
        self(request)
    }
}

/// What a request becomes.
#[derive(Debug)]
pub enum Decision {
    /// A subscriber.
    Subscribe(Subscribe),
    /// An answer with a reason, then the end of the connection.
    Refuse(Refusal),
    /// Somebody else's: the socket and what was received go to [`crate::Engine::hand_over`]. Where
    /// [`crate::Builder::hand_over`] was not set, or what it gave was dropped, the answer is 404.
    HandOver,
}

/// A subscription and how its stream begins.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    pub(crate) topics: Vec<Topic>,
    pub(crate) resume: Option<String>,
    pub(crate) gap_notice: bool,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) sees_private: bool,
    pub(crate) headers: String,
    pub(crate) retry: Option<Duration>,
    pub(crate) greeting: Vec<u8>,
}

impl Subscribe {
    /// A live subscription to these topics.
    pub fn to(topics: impl IntoIterator<Item = Topic>) -> Subscribe {
        Subscribe { topics: topics.into_iter().collect(), gap_notice: true, ..Subscribe::default() }
    }

    /// What the request itself asks for: `topic=` parameters, where to resume, and the switches `gap=`,
    /// `checkpoint=` and `heartbeat=`.
    ///
    /// # Errors
    /// No topic, an invalid one, or more than `max_topics`; a switch with a value that it does not have.
    pub fn from_request(request: &RequestHead<'_>, max_topics: usize) -> Result<Subscribe, SubscribeError> {
        let query = SubscribeQuery::from_head(request, max_topics)?;
        Ok(Subscribe {
            topics: query.topics,
            resume: query.resume,
            gap_notice: query.gap_notice,
            checkpoint: query.checkpoint,
            heartbeat: query.heartbeat,
            ..Subscribe::default()
        })
    }

    /// Resumes after this event: the text of a `Last-Event-ID`, or `earliest` for all that is retained.
    pub fn resume(mut self, id: impl Into<String>) -> Subscribe {
        self.resume = Some(id.into());
        self
    }

    /// Whether a gap is told in the stream, by a `fanfare.gap` event. The default is yes.
    pub fn gap_notice(mut self, tell: bool) -> Subscribe {
        self.gap_notice = tell;
        self
    }

    /// How this subscriber is told where it is before its first event, and on a quiet stream. The default is
    /// [`Checkpoint::Block`]: an id that browsers adopt without dispatching anything.
    pub fn checkpoint(mut self, form: Checkpoint) -> Subscribe {
        self.checkpoint = form;
        self
    }

    /// The longest silence that this subscriber allows: it gets a heartbeat where nothing else was sent for
    /// so long, within [`crate::Limits::heartbeat_min`] and [`crate::Limits::heartbeat`]. The default is the
    /// latter.
    pub fn heartbeat(mut self, longest_silence: Duration) -> Subscribe {
        self.heartbeat = Some(longest_silence);
        self
    }

    /// Whether private events of these topics are delivered. The default is no.
    pub fn sees_private(mut self, sees: bool) -> Subscribe {
        self.sees_private = sees;
        self
    }

    /// Adds a field to the response head (for CORS, cookies).
    ///
    /// # Panics
    /// The name is no token or the value holds a control character (RFC 9110, section 5): either would
    /// let a request write into the response head.
    pub fn header(mut self, name: &str, value: &str) -> Subscribe {
        push_header(&mut self.headers, name, value);
        self
    }

    /// The reconnection time told to this subscriber, exactly: without the jitter of
    /// [`crate::Limits::retry`].
    pub fn retry(mut self, wait: Duration) -> Subscribe {
        self.retry = Some(wait);
        self
    }

    /// An event for this subscriber alone, at the start of its stream. It has no id and is not kept.
    ///
    /// # Panics
    /// `kind` is empty or holds a control character: a line end would let it write into the stream.
    pub fn greeting(mut self, kind: Option<&str>, data: &str) -> Subscribe {
        encode_unnumbered(kind, data, &mut self.greeting);
        self
    }
}

/// An answer that is no stream: a status and a reason that a person can act on, sent as
/// `application/problem+json` (RFC 9457).
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(crate) status: u16,
    pub(crate) detail: String,
    pub(crate) headers: String,
}

impl Refusal {
    /// A refusal. Browsers stop for good at any status but 200; 204 asks every client to.
    pub fn new(status: u16, detail: impl Into<String>) -> Refusal {
        Refusal { status, detail: detail.into(), headers: String::new() }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The fields that were added, for those who send the refusal by other means.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.lines().filter_map(|line| line.split_once(": "))
    }

    /// Adds a field to the response head.
    ///
    /// # Panics
    /// As [`Subscribe::header`].
    pub fn header(mut self, name: &str, value: &str) -> Refusal {
        push_header(&mut self.headers, name, value);
        self
    }
}

fn push_header(headers: &mut String, name: &str, value: &str) {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(token), "not a field name: {name:?}");
    let text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    assert!(value.bytes().all(text), "not a field value: {value:?}");
    headers.push_str(name);
    headers.push_str(": ");
    headers.push_str(value);
    headers.push_str("\r\n");
}
