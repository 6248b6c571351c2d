//! Errors as `application/problem+json` (RFC 9457), with a reason that a person can act on.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanfare::Refusal;
use serde_json::{Map, Value, json};

use super::audit::RefusalDetail;
use super::body::Flaw;
use crate::access::Denial;

pub(super) struct Problem {
    status: u16,
    detail: String,
    headers: Vec<(String, String)>,
    /// Further members of the document.
    members: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), headers: Vec::new(), members: Map::new() }
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
        let mut problem = Problem::new(400, flaw.detail);
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
        Problem::new(denial.status(), denial.detail).header(name, value)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let mut problem = Problem::new(refusal.status(), refusal.detail());
        for (name, value) in refusal.headers() {
            problem = problem.header(name, value);
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut document = Map::from_iter([
            ("type".to_owned(), json!("about:blank")),
            ("title".to_owned(), json!(status.canonical_reason().unwrap_or("Error"))),
            ("status".to_owned(), json!(self.status)),
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
