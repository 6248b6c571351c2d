//! Judges refusals by the OpenAPI documents: a kind of error that an operation answers stands in its
//! description.

use std::sync::LazyLock;

use serde_json::Value;

use super::Response;

static DOCUMENTS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let documents =
        [include_str!("../../../../docs/openapi.json"), include_str!("../../../../docs/openapi-admin.json")];
    documents.map(|text| serde_json::from_str(text).expect("a document"))
});

/// Checks an answer to a request whose target is a path. A method or a path that is described nowhere says
/// nothing.
pub(crate) fn check(method: &str, target: &str, response: &Response) {
    if response.header("Content-Type") != Some("application/problem+json") || response.body.is_empty() {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    let template = match path.split('/').nth(1) {
        Some("topics") if path.len() > "/topics/".len() => "/topics/{topic}",
        Some("problems") if path.len() > "/problems/".len() && !path.ends_with(".css") => "/problems/{name}",
        _ => path,
    };
    let (status, kind) = (response.status.to_string(), &response.json()["type"]);
    let mut described = DOCUMENTS
        .iter()
        .map(|document| &document["paths"][template][method.to_lowercase()])
        .filter(|operation| operation.is_object())
        .peekable();
    // The path may be one of the other listener's. Methods have upper-case letters, and `get` is none (RFC
    // 9110, section 9.1).
    let is_method = method.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_of_any_path = kind == "/problems/not-found" || kind == "/problems/method-not-allowed";
    if described.peek().is_none() || !is_method || is_of_any_path {
        return;
    }
    let is_described = described.any(|operation| {
        let answer = &operation["responses"][&status]["content"]["application/problem+json"];
        let kinds = &answer["schema"]["allOf"][1]["properties"]["type"]["enum"];
        kinds.as_array().is_some_and(|kinds| kinds.contains(kind))
    });
    assert!(is_described, "{method} {template} answers {status} {kind}, which its description does not have");
}
