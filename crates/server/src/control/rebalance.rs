//! `POST /rebalance`: ends a share of all streams, evenly over a window, so that a load balancer spreads them
//! anew.
//!
//! Both listeners take it. On a public one it needs a token: a server without keys would let everyone end
//! the streams of others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fanfare::{ConnectionError, Hub, ProblemKind, Share, form_fields};
use serde_json::json;

use super::Control;
use super::admin::Admin;
use super::audit;
use super::limits::{REBALANCE_WINDOW, REBALANCE_WINDOW_DEFAULT};
use super::problem::Problem;
use crate::access::Publisher;
use crate::request_client::RequestClient;

/// On the public listeners.
pub(super) async fn rebalance(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    Extension(client): Extension<RequestClient>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    may_rebalance(&publisher)?;
    carry_out(&control.hub, query.as_deref(), publisher.subject(), client.counted)
}

fn may_rebalance(publisher: &Publisher) -> Result<(), Problem> {
    if !publisher.has_token() {
        let detail = "the server has no publisher keys, so only its admin listener takes a rebalance";
        return Err(Problem::new(ProblemKind::OnlyOnAdminListener, detail));
    }
    if !publisher.may_end_connections() {
        let detail = "only a token that may publish to every topic (\"*\") may end connections";
        return Err(Problem::new(ProblemKind::NeedsEveryTopic, detail));
    }
    Ok(())
}

/// On the admin listener.
pub(super) async fn rebalance_for_admin(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        // A page of another site could not read the answer, and it could end streams. No page of this
        // listener asks for it.
        let detail = "web pages may not end connections";
        return Err(Problem::new(ProblemKind::OriginNotAllowed, detail));
    }
    carry_out(admin.metrics.hub(), query.as_deref(), None, None)
}

fn carry_out(
    hub: &Hub,
    query: Option<&str>,
    subject: Option<&str>,
    client: Option<IpAddr>,
) -> Result<Response, Problem> {
    let Rebalance { share, window } = Rebalance::parse(query.unwrap_or_default())?;
    let shedding = hub.shed(share, window).map_err(|error| match error {
        ConnectionError::Busy => {
            let detail = "as many rebalances are under way as may be; try again when one is over";
            Problem::new(ProblemKind::RebalancesFull, detail).header("Retry-After", "5")
        }
        error => Problem::new(ProblemKind::ServerStopping, error.to_string()).header("Retry-After", "1"),
    })?;
    let streams = shedding.streams();
    audit::rebalance(share, window, streams, subject, client);
    let answer = Json(json!({ "streams": streams }));
    Ok((StatusCode::ACCEPTED, [(header::CACHE_CONTROL, "no-store")], answer).into_response())
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Rebalance {
    share: Share,
    window: Duration,
}

impl Rebalance {
    fn parse(query: &str) -> Result<Rebalance, Problem> {
        let wrong = |detail: String| Problem::new(ProblemKind::InvalidParameter, detail);
        let (mut share, mut window) = (None, None);
        for (name, value) in form_fields(query.as_bytes()) {
            let Ok(value) = std::str::from_utf8(&value) else {
                return Err(wrong("a parameter is not UTF-8 once its % escapes are decoded".to_owned()));
            };
            let is_twice = match name.as_ref() {
                b"share" => {
                    let parsed: Share = value.parse().map_err(|error| wrong(format!("share: {error}")))?;
                    share.replace(parsed).is_some()
                }
                b"window" => {
                    let parsed = humantime::parse_duration(value).ok().filter(|it| *it <= REBALANCE_WINDOW);
                    let most = humantime::format_duration(REBALANCE_WINDOW);
                    let wrong_window =
                        || wrong(format!("window is not a time of at most {most}, such as 30s or 5m"));
                    window.replace(parsed.ok_or_else(wrong_window)?).is_some()
                }
                b"access_token" => false,
                // A misspelt window would end the streams faster than was asked for.
                _ => return Err(wrong("the parameters are share and window".to_owned())),
            };
            if is_twice {
                return Err(wrong("share and window may be given once".to_owned()));
            }
        }
        let share = share.ok_or_else(|| wrong("name the share of the streams: share=20%25".to_owned()))?;
        Ok(Rebalance { share, window: window.unwrap_or(REBALANCE_WINDOW_DEFAULT) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_ends_nothing() {
        for wrong in [
            "",
            "window=30s",
            "share=0%25",
            "share=101%25",
            "share=20",
            "share=20%",
            "share=%ff",
            "share=20%25&share=20%25",
            "share=20%25&window=30",
            "share=20%25&window=61m",
            "share=20%25&windows=30s",
        ] {
            // A `%` that is no escape stands for itself, as browsers read it.
            assert_eq!(Rebalance::parse(wrong).is_err(), wrong != "share=20%", "{wrong}");
        }
        let asked = |query| Rebalance::parse(query).ok();
        let expected = |percent, window| Some(Rebalance { share: Share::percent(percent).unwrap(), window });
        assert_eq!(asked("share=20%25"), expected(20.0, REBALANCE_WINDOW_DEFAULT));
        assert_eq!(asked("window=1h&share=0.5%25&access_token=t"), expected(0.5, REBALANCE_WINDOW));
        assert_eq!(asked("share=100%25&window=0s"), expected(100.0, Duration::ZERO));
    }
}
