//! Errors as `application/problem+json` (RFC 9457).

use axum::body::Body;
use fanfare_proto::json::json_string;
use http::{HeaderValue, Response, StatusCode, header};

pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// The document, with its line end.
pub(crate) fn document(status: StatusCode, detail: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Error");
    let (status, detail) = (status.as_u16(), json_string(detail));
    format!("{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"detail\":{detail}}}\n")
}

/// An answer with the document. One that says to come back later says when.
pub(crate) fn response(status: StatusCode, detail: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(document(status, detail)));
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
