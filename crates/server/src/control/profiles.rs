//! `GET /debug/pprof/profile` and `GET /debug/pprof/heap` of the admin listener, with `--profiling`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fanfare::{ProblemKind, form_fields};
use tokio::time::Instant;

use super::admin::Admin;
use super::problem::Problem;
use super::routes::{method_not_allowed, only};
use crate::profiling::{CpuProfile, Unavailable, heap};

/// The longest time of a profile, in seconds, and the time of one that names none.
pub(super) const MOST_S: u64 = 60;
pub(super) const DEFAULT_S: u64 = 10;

const PPROF: &str = "application/octet-stream";

pub(super) fn router() -> Router<Arc<Admin>> {
    // A HEAD would make a whole profile, and throw it away.
    let no_head = || async { method_not_allowed("GET") };
    Router::new()
        .route("/debug/pprof/profile", only(get(processor).head(no_head), "GET"))
        .route("/debug/pprof/heap", only(get(memory).head(no_head), "GET"))
}

/// Whether the request may have a profile at all.
fn check(admin: &Admin, headers: &HeaderMap) -> Result<(), Problem> {
    // The page of another site cannot read the answer, but it could make the server work.
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return Err(Problem::new(
            ProblemKind::OriginNotAllowed,
            "pages of other origins may not make profiles",
        ));
    }
    if !admin.profiling {
        let detail = "the server makes no profiles: start it with --profiling";
        return Err(Problem::new(ProblemKind::ProfilingOff, detail));
    }
    Ok(())
}

async fn processor(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    check(&admin, &headers)?;
    let time = time(query.as_deref().unwrap_or_default())?;
    let Some(profile) = CpuProfile::start() else {
        let detail = "another profile of the processor is being made; try again when it is done";
        return Err(Problem::new(ProblemKind::ProfileInProgress, detail).header("Retry-After", "10"));
    };
    // A client that leaves ends it.
    let began = Instant::now();
    tokio::time::sleep(time).await;
    let took = began.elapsed();
    let made = tokio::task::spawn_blocking(move || profile.finish(took)).await;
    made.map(|bytes| answer("profile.pb", bytes))
        .map_err(|_| Problem::new(ProblemKind::InternalError, "the server failed to make the profile"))
}

async fn memory(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Result<Response, Problem> {
    check(&admin, &headers)?;
    let failed = |detail: String| Problem::new(ProblemKind::InternalError, detail);
    match tokio::task::spawn_blocking(heap).await {
        Ok(Ok(bytes)) => Ok(answer("heap.pb", bytes)),
        Ok(Err(off @ Unavailable::Off)) => Err(Problem::new(ProblemKind::ProfilingOff, off.to_string())),
        Ok(Err(failure)) => Err(failed(failure.to_string())),
        Err(_) => Err(failed("the server failed to make the profile".to_owned())),
    }
}

fn answer(name: &str, bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, PPROF.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, bytes).into_response()
}

/// For how long samples are taken.
fn time(query: &str) -> Result<Duration, Problem> {
    let mut seconds = DEFAULT_S;
    for (name, value) in form_fields(query.as_bytes()) {
        if &*name == b"seconds" {
            let number = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok());
            let Some(number) = number.filter(|number| (1..=MOST_S).contains(number)) else {
                let detail = format!("seconds is not a whole number from 1 to {MOST_S}");
                return Err(Problem::new(ProblemKind::InvalidParameter, detail));
            };
            seconds = number;
        }
    }
    Ok(Duration::from_secs(seconds))
}
