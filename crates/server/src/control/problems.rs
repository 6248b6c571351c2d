//! `GET /problems` and `GET /problems/NAME`: what each kind of problem means, for a person who has met its
//! `type`. Both listeners serve the same pages. Nothing of a request stands in them.

#[cfg(test)]
mod document;

use std::fmt::Write;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use fanfare::ProblemKind;

use super::problem::Problem;
use super::routes::{only, static_file};

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// The style sheets, and their paths.
const STYLES: [(&str, &str); 2] = [
    ("/problems/style.css", include_str!("../page/style.css")),
    ("/problems/problems.css", include_str!("../page/problems.css")),
];

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let pages = Router::new()
        .route("/problems", only(get(|| async { page("Problems", &all()) }), "GET, HEAD"))
        .route("/problems/{name}", only(get(one), "GET, HEAD"));
    STYLES.into_iter().fold(pages, |router, (path, text)| {
        router.route(path, static_file("text/css; charset=utf-8", CONTENT_SECURITY_POLICY, text))
    })
}

async fn one(name: Result<Path<String>, PathRejection>) -> Response {
    let kind = name.ok().and_then(|Path(name)| ProblemKind::by_name(&name));
    match kind {
        Some(kind) => page(kind.title(), &explanation(kind)),
        None => Problem::new(ProblemKind::NotFound, "there is no problem of this name; look at /problems")
            .into_response(),
    }
}

/// A whole page. The title is text, and the rest is HTML.
fn page(title: &str, main: &str) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let html = include_str!("../page/problems.html");
    let html = html.replace("{{title}}", &escaped(title)).replace("{{main}}", main);
    (headers, Html(html)).into_response()
}

fn all() -> String {
    let mut main = String::from(
        "<h2>Problems</h2>\n\
         <p>Each answer that is an error names its kind as the <code>type</code> of its document. These are all \
         kinds. A kind keeps its name and its status in later versions.</p>\n\
         <table>\n<thead><tr><th scope=\"col\">Status</th><th scope=\"col\">Kind</th>\
         <th scope=\"col\">Title</th></tr></thead>\n<tbody>\n",
    );
    for kind in ProblemKind::ALL {
        let (status, reference, name, title) =
            (kind.status(), kind.reference(), kind.name(), escaped(kind.title()));
        let _ = writeln!(
            main,
            "<tr><td>{status}</td><td><a href=\"{reference}\"><code>{name}</code></a></td><td>{title}</td></tr>"
        );
    }
    main.push_str("</tbody>\n</table>");
    main
}

fn explanation(kind: ProblemKind) -> String {
    let status = kind.status();
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let (title, meaning, action) = (escaped(kind.title()), escaped(kind.meaning()), escaped(kind.action()));
    let reference = kind.reference();
    let mut main = format!(
        "<h2>{title}</h2>\n\
         <dl>\n<dt>Type</dt><dd><code>{reference}</code></dd>\n\
         <dt>Status</dt><dd>{status} {phrase}</dd>\n\
         <dt>Meaning</dt><dd>{meaning}</dd>\n\
         <dt>What to do</dt><dd>{action}</dd>\n"
    );
    if !kind.options().is_empty() {
        let options = kind.options().iter().map(|option| format!("<code>--{option}</code>"));
        let options = options.collect::<Vec<_>>().join(", ");
        let _ = writeln!(main, "<dt>Options of the server</dt><dd>{options}</dd>");
    }
    main.push_str("</dl>\n<p><a href=\"/problems\">All problems</a></p>");
    main
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
