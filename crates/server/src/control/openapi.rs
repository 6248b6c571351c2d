//! `GET /openapi.json`: what a listener serves, as a document of OpenAPI 3.1. The public listeners and the
//! admin listener have a document each.
//!
//! A document is made when it is asked for first. `docs/openapi.json` and `docs/openapi-admin.json` are
//! copies of both, by which the tests of this package judge every refusal that they get, and by which a
//! generator of requests drives the server.

mod admin;
mod connections;
#[cfg(test)]
mod document;
mod public;
mod rebalance;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use fanfare::ProblemKind;
use serde_json::{Map, Value, json};

use super::routes::only;

pub(super) const PATH: &str = "/openapi.json";

const MEDIA_TYPE: &str = "application/json";

/// Serves the document of the public listeners.
pub(super) fn of_public<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    static TEXT: OnceLock<String> = OnceLock::new();
    serve(&TEXT, public::document)
}

/// Serves the document of the admin listener.
pub(super) fn of_admin<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    static TEXT: OnceLock<String> = OnceLock::new();
    serve(&TEXT, admin::document)
}

fn serve<S: Clone + Send + Sync + 'static>(
    text: &'static OnceLock<String>,
    document: fn() -> Value,
) -> MethodRouter<S> {
    let headers = [
        (header::CONTENT_TYPE, MEDIA_TYPE),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let answer = move || async move {
        let text: &'static str = text.get_or_init(|| format!("{}\n", document()));
        (headers, text).into_response()
    };
    only(get(answer), "GET, HEAD")
}

/// What a request to any path may be answered, before it is known what it asks for.
const OF_EVERY_REQUEST: [ProblemKind; 7] = [
    ProblemKind::MalformedRequest,
    ProblemKind::HeadTimeout,
    ProblemKind::UriTooLong,
    ProblemKind::HeadTooLarge,
    ProblemKind::MethodNotImplemented,
    ProblemKind::HttpVersionNotSupported,
    ProblemKind::InternalError,
];

/// A whole document.
fn document(
    title: &str,
    description: &str,
    server: &str,
    paths: Vec<(&str, Value)>,
    schemas: Value,
) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "description": description,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "externalDocs": { "description": "What each kind of error means", "url": "/problems" },
        "servers": [{ "url": "/", "description": server }],
        "paths": paths.into_iter().collect::<BTreeMap<_, _>>(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Needed where the server has keys. The token may also be in a cookie \
                        (--token-cookie) or in the query (access_token, with --token-in-query).",
                },
            },
        },
    })
}

/// The schema of an error.
fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error (RFC 9457). The type is the kind; GET of it explains the kind.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {
                "type": "string",
                "format": "uri-reference",
                "enum": ProblemKind::ALL.iter().map(|kind| kind.reference()).collect::<Vec<_>>(),
            },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "minLength": 1 },
        },
    })
}

/// One operation. `successes` are the answers that are no errors, by their status. A `GET` has a `HEAD`
/// beside it.
struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Value,
    body: Option<Value>,
    successes: Vec<(u16, Value)>,
    problems: Vec<ProblemKind>,
    /// Whether an access token matters.
    is_guarded: bool,
}

impl Operation {
    fn new(id: &'static str, summary: &'static str) -> Operation {
        Operation {
            id,
            summary,
            description: "",
            parameters: json!([]),
            body: None,
            successes: Vec::new(),
            problems: OF_EVERY_REQUEST.to_vec(),
            is_guarded: false,
        }
    }

    /// A file or a page.
    fn of_file(id: &'static str, summary: &'static str, content_type: &'static str) -> Operation {
        Operation::new(id, summary).answers(200, summary, content_type, json!({ "type": "string" }))
    }

    fn described(mut self, description: &'static str) -> Operation {
        self.description = description;
        self
    }

    fn parameters(mut self, parameters: Value) -> Operation {
        self.parameters = parameters;
        self
    }

    fn body(mut self, body: Value) -> Operation {
        self.body = Some(body);
        self
    }

    fn answers(self, status: u16, description: &str, content_type: &str, schema: Value) -> Operation {
        self.with(
            status,
            json!({ "description": description, "content": { content_type: { "schema": schema } } }),
        )
    }

    fn with(mut self, status: u16, answer: Value) -> Operation {
        self.successes.push((status, answer));
        self
    }

    fn problems(mut self, problems: impl IntoIterator<Item = ProblemKind>) -> Operation {
        self.problems.extend(problems);
        self
    }

    fn guarded(mut self) -> Operation {
        self.is_guarded = true;
        self
    }

    /// As the value of a method. To a `HEAD` the same heads are answered, without bodies.
    fn describe(&self, is_head: bool) -> Value {
        let mut answers: BTreeMap<u16, Value> = self.successes.iter().cloned().collect();
        let mut kinds: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
        for kind in &self.problems {
            kinds.entry(kind.status()).or_default().push(*kind);
        }
        for (status, kinds) in kinds {
            merge(answers.entry(status).or_insert_with(|| json!({})), problem_answer(status, &kinds));
        }
        if is_head {
            for answer in answers.values_mut().filter_map(Value::as_object_mut) {
                answer.remove("content");
            }
        }
        let answers: Map<String, Value> =
            answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        let id = if is_head { format!("{}Head", self.id) } else { self.id.to_owned() };
        let summary =
            if is_head { format!("{}: the head alone", self.summary) } else { self.summary.to_owned() };
        let mut operation = json!({ "operationId": id, "summary": summary, "parameters": self.parameters, "responses": answers });
        if !self.description.is_empty() {
            operation["description"] = self.description.into();
        }
        if let Some(body) = &self.body {
            operation["requestBody"] = body.clone();
        }
        if self.is_guarded {
            operation["security"] = json!([{}, { "bearer": [] }]);
        }
        operation
    }

    /// A path that takes `POST` alone.
    fn post(self) -> Value {
        json!({ "post": self.describe(false) })
    }

    /// A path that takes `GET` and `HEAD`.
    fn path(self) -> Value {
        json!({ "get": self.describe(false), "head": self.describe(true) })
    }
}

/// A parameter of a query.
fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

/// An error with one status. Its types are these kinds.
fn problem_answer(status: u16, kinds: &[ProblemKind]) -> Value {
    let references: Vec<_> = kinds.iter().map(|kind| kind.reference()).collect();
    let titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    let mut answer = json!({
        "description": format!("{}.", titles.join(". ")),
        "content": { "application/problem+json": { "schema": {
            "allOf": [
                { "$ref": "#/components/schemas/Problem" },
                { "properties": { "type": { "enum": references }, "status": { "const": status } } },
            ],
        } } },
    });
    if StatusCode::from_u16(status)
        .is_ok_and(|status| matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS))
    {
        answer["headers"] = json!({ "Retry-After": {
            "description": "Seconds until another try may succeed.",
            "schema": { "type": "integer", "minimum": 1 },
        } });
    }
    answer
}

/// Adds an error to an answer that has the same status and is no error document: that of a failed health
/// check.
fn merge(answer: &mut Value, problem: Value) {
    let (Some(answer), Value::Object(problem)) = (answer.as_object_mut(), problem) else { return };
    for (name, value) in problem {
        match (answer.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(added)) => known.extend(added),
            (Some(Value::String(known)), Value::String(added)) => *known = format!("{known} {added}"),
            (_, value) => drop(answer.insert(name, value)),
        }
    }
}

/// The paths that both listeners have.
fn shared_paths(problems: &[ProblemKind]) -> Vec<(&'static str, Value)> {
    let file = |id, summary, content_type| {
        Operation::of_file(id, summary, content_type).problems(problems.iter().copied()).path()
    };
    let name = json!([{
        "name": "name",
        "in": "path",
        "required": true,
        "description": "The name of a kind.",
        "schema": { "type": "string", "enum": ProblemKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>() },
    }]);
    let explained = Operation::of_file("explainProblem", "What one kind of error means", "text/html")
        .parameters(name)
        .problems(problems.iter().copied())
        .problems([ProblemKind::NotFound]);
    let description = Operation::new("getOpenApi", "This document")
        .answers(200, "This document", MEDIA_TYPE, json!({ "type": "object", "required": ["openapi"] }))
        .problems(problems.iter().copied());
    vec![
        ("/problems", file("listProblems", "All kinds of errors", "text/html")),
        ("/problems/{name}", explained.path()),
        ("/problems/style.css", file("getProblemsStyle", "A style sheet", "text/css")),
        ("/problems/problems.css", file("getProblemsOwnStyle", "A style sheet", "text/css")),
        (PATH, description.path()),
    ]
}

/// The two health checks. They answer to every host.
fn health_paths(problems: &[ProblemKind]) -> Vec<(&'static str, Value)> {
    let check = |id, summary, well, ill| {
        let text = |words: &[&str]| json!({ "type": "string", "enum": words });
        let check = Operation::new(id, summary)
            .answers(200, "The check succeeds", "text/plain", text(&[well]))
            .answers(503, "The check fails, and this says why.", "text/plain", text(ill));
        check.problems(problems.iter().copied()).path()
    };
    const SILENT: &str = "the control plane does not answer\n";
    vec![
        ("/health/live", check("checkLive", "Whether the server runs", "live\n", &[SILENT])),
        (
            "/health/ready",
            check("checkReady", "Whether the server takes newcomers", "ready\n", &["draining\n", SILENT]),
        ),
    ]
}
