//! Who may subscribe, and to what: the embedder's decision on each request head.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fanfare_proto::event::{EventType, Topic};
use fanfare_proto::frame::{Checkpoint, encode_unnumbered};
use fanfare_proto::head::RequestHead;
use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery};

use crate::written_head::{InvalidHead, WrittenHead, is_text, is_token_byte};

/// Decides what a request becomes. A closure `Fn(&RequestHead) -> Decision` is one.
///
/// It runs on a shard's thread, between two sends: it must not block, and it must not use descriptors
/// that it did not open itself in the same call, because a shard has a descriptor table of its own (a
/// logger's file is not there, its number may be a subscriber). It may publish to its own engine's hub, to no other's.
/// Calls that would wait for a shard refuse there, because it might be the same one: [`crate::Hub::publish_wait`],
/// [`crate::Hub::publish_async`], [`crate::Hub::topic`], [`crate::Hub::topics_page`], [`crate::HandOver::receive`];
/// [`crate::Engine::stop`] begins the end and does not wait for it.
///
/// A panic in it is an answer to one request: 500, and [`crate::Counts::admission_panics`] counts it. The shard serves on
/// and calls it again, so state that its calls share must bear a panic, as behind a mutex that is poisoned.
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

/// What the admission decides, or the refusal of a request at which it panicked.
pub(crate) fn decide(admission: &dyn Admission, request: &RequestHead<'_>) -> Result<Decision, Refusal> {
    // `AssertUnwindSafe` holds, because a panic leaves nothing half changed that is used afterwards. The call borrows the
    // head, which has no interior mutability, and the admission, whose documentation says that it is called again. The
    // shard's own state is not in its reach. If it publishes, a panic inside the hub leaves the hub whole: the hub's locks
    // are used after a poisoning for the same reason.
    let decided = catch_unwind(AssertUnwindSafe(|| admission.admit(request)));
    decided.map_err(|payload| {
        // The payload is the embedder's, too: its drop may panic.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        Refusal::new(500, "the server failed to decide about this request; its standard error says why")
    })
}

/// What a request becomes.
#[derive(Debug)]
pub enum Decision {
    /// A subscriber.
    Subscribe(Subscribe),
    /// An answer with a reason, then the end of the connection.
    Refuse(Refusal),
    /// A whole answer, then the end of the connection: for a health check, say, that the shard answers itself.
    /// Where another request has come behind this one already, and [`crate::Builder::hand_over`] was set, the
    /// socket is handed over instead, so that both are answered.
    Answer(Answer),
    /// Somebody else's: the socket and what was received go to [`crate::Engine::hand_over`]. Where
    /// [`crate::Builder::hand_over`] was not set, or what it gave was dropped, the answer is 404.
    HandOver,
}

/// A subscription and how its stream begins.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    pub(crate) topics: Vec<Topic>,
    pub(crate) resume: Option<String>,
    pub(crate) gap_events: bool,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) sees_private: bool,
    pub(crate) headers: String,
    pub(crate) retry: Option<Duration>,
    pub(crate) greeting: Vec<u8>,
    pub(crate) written_head: Option<WrittenHead>,
}

impl Subscribe {
    /// A live subscription to these topics.
    pub fn to(topics: impl IntoIterator<Item = Topic>) -> Subscribe {
        Subscribe { topics: topics.into_iter().collect(), gap_events: true, ..Subscribe::default() }
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
            gap_events: query.gap_events,
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
    pub fn gap_events(mut self, tell: bool) -> Subscribe {
        self.gap_events = tell;
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
    /// # Errors
    /// [`InvalidHeader`]: the field would let its author write into the response head.
    pub fn header(mut self, name: &str, value: &str) -> Result<Subscribe, InvalidHeader> {
        push_header(&mut self.headers, name, value)?;
        Ok(self)
    }

    /// A head that another HTTP server has written, from its status line to its empty line. It is sent in place
    /// of the engine's own, so that what the middleware of that server has added arrives. `Fanfare-Gap` and the
    /// fields of [`Subscribe::header`] are added behind its fields.
    ///
    /// # Errors
    /// [`InvalidHead`]: it is not exactly one HTTP/1 head of a `text/event-stream` with the status 200; it has a
    /// `Content-Length`, a `Content-Encoding`, or a `Transfer-Encoding` other than `chunked`; or it is longer
    /// than 16 KiB. Whether it says `chunked` has to agree with the wire format, which [`crate::Hub::adopt`]
    /// checks.
    pub fn response_head(mut self, bytes: impl Into<Vec<u8>>) -> Result<Subscribe, InvalidHead> {
        self.written_head = Some(WrittenHead::parse(bytes.into())?);
        Ok(self)
    }

    /// The reconnection time told to this subscriber, exactly: without the jitter of
    /// [`crate::Limits::retry`].
    pub fn retry(mut self, wait: Duration) -> Subscribe {
        self.retry = Some(wait);
        self
    }

    /// An event for this subscriber alone, at the start of its stream. It has no id and is not kept.
    pub fn greeting(mut self, kind: Option<&EventType>, data: &str) -> Subscribe {
        encode_unnumbered(kind.map(EventType::as_str), data, &mut self.greeting);
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
    /// # Errors
    /// As [`Subscribe::header`].
    pub fn header(mut self, name: &str, value: &str) -> Result<Refusal, InvalidHeader> {
        push_header(&mut self.headers, name, value)?;
        Ok(self)
    }

    /// Adds a field with a name and a value of the engine's own, which are valid.
    pub(crate) fn own_header(mut self, name: &'static str, value: &str) -> Refusal {
        let pushed = push_header(&mut self.headers, name, value);
        debug_assert!(pushed.is_ok(), "{pushed:?}");
        self
    }
}

/// A whole answer that is neither a stream nor a refusal: a status and a short text, sent as `text/plain`. It has to fit
/// into a fresh socket's send buffer: a client that does not take it at once is disconnected.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) headers: String,
}

impl Answer {
    /// An answer without further fields.
    pub fn new(status: u16, text: impl Into<String>) -> Answer {
        Answer { status, text: text.into(), headers: String::new() }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a field to the response head.
    ///
    /// # Errors
    /// As [`Subscribe::header`].
    pub fn header(mut self, name: &str, value: &str) -> Result<Answer, InvalidHeader> {
        push_header(&mut self.headers, name, value)?;
        Ok(self)
    }
}

/// Why a field cannot be added to a response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidHeader {
    /// The name is no token (RFC 9110, section 5.6.2).
    Name {
        /// The name.
        name: String,
    },
    /// The value holds a control character other than a tab (RFC 9110, section 5.5).
    Value {
        /// The name of the field.
        name: String,
    },
    /// The engine writes this field itself: a second one would say where the answer ends, or what it is.
    Reserved {
        /// The name.
        name: String,
    },
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidHeader::Name { name } => {
                write!(f, "{name:?} is not a field name; use letters, digits and hyphens")
            }
            InvalidHeader::Value { name } => {
                write!(f, "the value of the field {name} has a control character in it")
            }
            InvalidHeader::Reserved { name } => {
                write!(f, "the field {name} is the engine's own; leave it out")
            }
        }
    }
}

impl std::error::Error for InvalidHeader {}

/// Fields that each response head has from the engine where it needs them.
const RESERVED: [&str; 5] = ["Connection", "Content-Length", "Content-Type", "Date", "Transfer-Encoding"];

fn push_header(headers: &mut String, name: &str, value: &str) -> Result<(), InvalidHeader> {
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(InvalidHeader::Name { name: name.to_owned() });
    }
    if !is_text(value.as_bytes()) {
        return Err(InvalidHeader::Value { name: name.to_owned() });
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(InvalidHeader::Reserved { name: name.to_owned() });
    }
    for part in [name, ": ", value, "\r\n"] {
        headers.push_str(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text from outside, such as an origin that is echoed, made a builder panic, and with it the shard.
    #[test]
    fn a_field_that_would_write_into_the_head_is_an_error() {
        let subscribe = || Subscribe::to([]);
        let refusal = || Refusal::new(400, "");
        let named = |name: &str| name.to_owned();
        for (name, value, error) in [
            ("", "a", InvalidHeader::Name { name: named("") }),
            ("X:", "a", InvalidHeader::Name { name: named("X:") }),
            ("X\r\nSet-Cookie", "a", InvalidHeader::Name { name: named("X\r\nSet-Cookie") }),
            ("X", "a\r\nSet-Cookie: b", InvalidHeader::Value { name: named("X") }),
            ("X", "a\nb", InvalidHeader::Value { name: named("X") }),
            ("X", "a\0", InvalidHeader::Value { name: named("X") }),
            ("X", "\x7f", InvalidHeader::Value { name: named("X") }),
            ("content-length", "0", InvalidHeader::Reserved { name: named("content-length") }),
            ("Transfer-Encoding", "identity", InvalidHeader::Reserved { name: named("Transfer-Encoding") }),
        ] {
            assert_eq!(subscribe().header(name, value).unwrap_err(), error);
            assert_eq!(refusal().header(name, value).unwrap_err(), error);
            assert!(!error.to_string().contains(char::is_control), "the text fits a log line: {error}");
        }
        let good = subscribe().header("X-A", "").unwrap().header("Vary", "a\tb, \u{e4}").unwrap();
        assert_eq!(good.headers, "X-A: \r\nVary: a\tb, \u{e4}\r\n");
        let good = refusal().header("X-A", "1").unwrap();
        assert_eq!(good.headers().collect::<Vec<_>>(), [("X-A", "1")]);
    }
}
