//! Answers that are no stream, and the fields of response heads.

use std::fmt;

use fanfare_proto::problem::ProblemKind;
use fanfare_proto::subscribe::SubscribeError;

use crate::written_head::{is_text, is_token_byte};

/// An answer that is no stream: a status and a reason that a person can act on, sent as
/// `application/problem+json` (RFC 9457).
///
/// The `type` of the engine's own refusals is [`ProblemKind::reference`], and that of an embedder's is
/// `about:blank`, which says that there is no more to know than the status.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(crate) status: u16,
    /// `None`: it is an embedder's.
    pub(crate) kind: Option<ProblemKind>,
    pub(crate) detail: String,
    pub(crate) headers: String,
}

impl Refusal {
    /// A refusal. Browsers stop for good at any status but 200; 204 asks every client to.
    pub fn new(status: u16, detail: impl Into<String>) -> Refusal {
        Refusal { status, kind: None, detail: detail.into(), headers: String::new() }
    }

    /// A refusal of one of the kinds that the engine and its server have, with the kind's status.
    pub fn of(kind: ProblemKind, detail: impl Into<String>) -> Refusal {
        Refusal { kind: Some(kind), ..Refusal::new(kind.status(), detail) }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The kind, where it is one of [`Refusal::of`].
    pub fn problem(&self) -> Option<ProblemKind> {
        self.kind
    }

    /// The reason.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The fields that were added, for a program that sends the refusal by other means.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.lines().filter_map(|line| line.split_once(": "))
    }

    /// Adds a field to the response head.
    ///
    /// # Errors
    /// As [`crate::Subscribe::with_header`].
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Refusal, InvalidHeader> {
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

impl From<SubscribeError> for Refusal {
    /// The answer to a request that asks for what cannot be subscribed to.
    fn from(error: SubscribeError) -> Refusal {
        Refusal::of(error.problem(), error.to_string())
    }
}

/// A whole answer that is neither a stream nor a refusal: a status and a short text or page. It has to fit
/// into a fresh socket's send buffer: a client that does not take it at once is disconnected.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) text: String,
    pub(crate) headers: String,
}

impl Answer {
    /// A text, sent as `text/plain`.
    pub fn new(status: u16, text: impl Into<String>) -> Answer {
        let content_type = "text/plain; charset=utf-8";
        Answer { status, content_type, text: text.into(), headers: String::new() }
    }

    /// A page, sent as `text/html` with the status 200: for a page that opens an `EventSource`, say.
    pub fn html(page: impl Into<String>) -> Answer {
        Answer { content_type: "text/html; charset=utf-8", ..Answer::new(200, page) }
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
    /// As [`crate::Subscribe::with_header`].
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Answer, InvalidHeader> {
        push_header(&mut self.headers, name, value)?;
        Ok(self)
    }
}

/// Why a field cannot be added to a response head.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

pub(super) fn push_header(headers: &mut String, name: &str, value: &str) -> Result<(), InvalidHeader> {
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
