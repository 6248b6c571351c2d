//! Errors as `application/problem+json` (RFC 9457).

use axum::body::Body;
use fanfare_proto::json::json_string;
use fanfare_proto::problem::ProblemKind;
use http::{HeaderValue, Response, StatusCode, header};

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// The document, with its line end.
pub(crate) fn document(kind: ProblemKind, detail: &str) -> String {
    let (reference, title) = (kind.reference(), kind.title());
    let (status, detail) = (kind.status(), json_string(detail));
    format!("{{\"type\":\"{reference}\",\"title\":\"{title}\",\"status\":{status},\"detail\":{detail}}}\n")
}

/// The status of a kind.
pub(crate) fn status(kind: ProblemKind) -> StatusCode {
    StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer with the document. One that says to come back later says when.
pub(crate) fn response(kind: ProblemKind, detail: &str) -> Response<Body> {
    let status = status(kind);
    let mut response = Response::new(Body::from(document(kind, detail)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::SERVICE_UNAVAILABLE => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        StatusCode::METHOD_NOT_ALLOWED => headers.insert(header::ALLOW, HeaderValue::from_static("GET")),
        _ => None,
    };
    response
}
