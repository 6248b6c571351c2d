//! Errors as `application/problem+json` (RFC 9457), with a reason that a person can act on.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanfare::{HeadError, ProblemKind, Refusal};
use serde_json::{Map, Value, json};

use super::audit::RefusalDetail;
use super::body::Flaw;
use crate::access::Denial;

/// An answer that is an error. Its kind decides about its status.
pub(super) struct Problem {
    kind: ProblemKind,
    detail: String,
    headers: Vec<(String, String)>,
    /// Further members of the document.
    members: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        Problem { kind, detail: detail.into(), headers: Vec::new(), members: Map::new() }
    }

    pub(super) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Problem {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn member(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Puts something before the reason, such as where in a body it was.
    pub(super) fn at(mut self, place: &str) -> Problem {
        self.detail = format!("{place}: {}", self.detail);
        self
    }
}

impl From<Flaw> for Problem {
    fn from(flaw: Flaw) -> Problem {
        let mut problem = Problem::new(ProblemKind::InvalidEvent, flaw.detail);
        if let Some(field) = flaw.field {
            problem = problem.member("field", field);
        }
        if let Some(index) = flaw.index {
            problem = problem.member("index", index);
        }
        problem
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Problem {
        let (name, value) = denial.field();
        Problem::new(denial.reason.problem(), denial.detail).header(name, value)
    }
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Problem {
        Problem::new(error.problem(), error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        // All refusals of this server have a kind; a test looks at the sources.
        let kind = refusal.problem().unwrap_or(ProblemKind::InternalError);
        let mut problem = Problem::new(kind, refusal.detail());
        for (name, value) in refusal.headers() {
            problem = problem.header(name, value);
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut document = Map::from_iter([
            ("type".to_owned(), json!(self.kind.reference())),
            ("title".to_owned(), json!(self.kind.title())),
            ("status".to_owned(), json!(status.as_u16())),
            ("detail".to_owned(), json!(self.detail)),
        ]);
        document.extend(self.members);
        let body = format!("{}\n", Value::Object(document));
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        response.extensions_mut().insert(RefusalDetail(self.detail));
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}
