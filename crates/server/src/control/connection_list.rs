//! `GET /connections`: the connections of subscribers, in pages of a bounded size, for questions of support.
//!
//! The answer has addresses of clients. So it is given to who may end connections, and on a public listener
//! only with a token: a server without keys lets everyone publish, and would tell everyone who subscribes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fanfare::{
    ConnectionFilter, ConnectionLag, ConnectionState, Hub, ProblemKind, Topic, Transport, WireFormat,
    form_fields,
};
use fanfare_access::MAX_NAME_BYTES;
use serde::Serialize;

use super::Control;
use super::admin::Admin;
use super::limits::{CONNECTIONS_PER_PAGE, CONNECTIONS_PER_PAGE_DEFAULT};
use super::problem::Problem;
use super::topics::{Questions, ask};
use crate::access::Publisher;
use crate::request_client::RequestClient;

/// On the public listeners.
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(publisher): Extension<Publisher>,
    Extension(client): Extension<RequestClient>,
    RawQuery(query): RawQuery,
) -> Response {
    if let Err(problem) = may_list(&publisher) {
        return problem.into_response();
    }
    answer(&control.hub, &control.inspections.connections, &client, query).await
}

fn may_list(publisher: &Publisher) -> Result<(), Problem> {
    if !publisher.has_token() {
        let detail = "the server has no publisher keys, so only its admin listener lists connections";
        return Err(Problem::new(ProblemKind::OnlyOnAdminListener, detail));
    }
    if !publisher.may_end_connections() {
        let detail = "only a token that may publish to every topic (\"*\") may list connections";
        return Err(Problem::new(ProblemKind::NeedsEveryTopic, detail));
    }
    Ok(())
}

/// On the admin listener.
pub(super) async fn list_for_admin(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let client = RequestClient { counted: None, is_operator: true };
    answer(admin.metrics.hub(), &admin.inspections.connections, &client, query).await
}

async fn answer(hub: &Hub, questions: &Questions, client: &RequestClient, query: Option<String>) -> Response {
    match page(hub, questions, client, query.as_deref().unwrap_or_default()).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn page(
    hub: &Hub,
    questions: &Questions,
    client: &RequestClient,
    query: &str,
) -> Result<Response, Problem> {
    let query = Query::parse(query)?;
    let Query { filter, after, limit } = query.clone();
    let page = ask(hub, questions, client, move |hub, patience| {
        hub.connections_page(&filter, after, limit, patience)
    })
    .await?;
    let connections = page.connections.iter().map(Described::new).collect();
    let next = page.next.map(|next| query.next(next));
    let mut response = Json(DescribedPage { connections, next: next.as_deref() }).into_response();
    if let Some(link) = next.and_then(|next| format!("<{next}>; rel=\"next\"").parse().ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Which page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Query {
    filter: ConnectionFilter,
    after: Option<u64>,
    limit: usize,
}

impl Query {
    fn parse(query: &str) -> Result<Query, Problem> {
        let wrong = |detail: String| Problem::new(ProblemKind::InvalidParameter, detail);
        let mut parsed =
            Query { filter: ConnectionFilter::All, after: None, limit: CONNECTIONS_PER_PAGE_DEFAULT };
        for (name, value) in form_fields(query.as_bytes()) {
            let Ok(value) = std::str::from_utf8(&value) else {
                return Err(wrong("a parameter is not UTF-8 once its % escapes are decoded".to_owned()));
            };
            let name_of = |what: &str| match value.len() {
                1..=MAX_NAME_BYTES => Ok(value.to_owned()),
                _ => Err(wrong(format!("{what} has 1 to {MAX_NAME_BYTES} bytes"))),
            };
            let filter = match name.as_ref() {
                b"subject" => ConnectionFilter::Subject(name_of("a subject")?),
                b"token" => ConnectionFilter::Token(name_of("the id of a token (jti)")?),
                b"topic" => {
                    ConnectionFilter::Topic(Topic::new(value).map_err(|error| wrong(error.to_string()))?)
                }
                b"address" => {
                    let address = value.parse().map_err(|_| {
                        wrong("address is an IP address without a port, such as 192.0.2.7".to_owned())
                    })?;
                    ConnectionFilter::Address(address)
                }
                b"after" => {
                    let unknown = |_| wrong("after is not what a page gave as its next".to_owned());
                    parsed.after = Some(value.parse().map_err(unknown)?);
                    continue;
                }
                b"limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=CONNECTIONS_PER_PAGE).contains(limit));
                    let bound = || wrong(format!("limit is not a number from 1 to {CONNECTIONS_PER_PAGE}"));
                    parsed.limit = limit.ok_or_else(bound)?;
                    continue;
                }
                b"access_token" => continue,
                // A misspelt filter would list all connections.
                _ => {
                    let detail = "the parameters are subject, token, topic, address, limit and after";
                    return Err(wrong(detail.to_owned()));
                }
            };
            if parsed.filter != ConnectionFilter::All {
                // DELETE ends what any of its names means. A list of those that all filters mean would not be
                // what the same parameters end.
                return Err(wrong("name one of subject, token, topic and address at most".to_owned()));
            }
            parsed.filter = filter;
        }
        Ok(parsed)
    }

    /// Where the next page is.
    fn next(&self, after: u64) -> String {
        let mut query = form_urlencoded::Serializer::new(String::from("/connections?"));
        match &self.filter {
            ConnectionFilter::Subject(subject) => query.append_pair("subject", subject),
            ConnectionFilter::Token(id) => query.append_pair("token", id),
            ConnectionFilter::Topic(topic) => query.append_pair("topic", topic.as_str()),
            ConnectionFilter::Address(address) => query.append_pair("address", &address.to_string()),
            _ => &mut query,
        };
        query.append_pair("after", &after.to_string()).append_pair("limit", &self.limit.to_string());
        query.finish()
    }
}

/// A connection as JSON.
#[derive(Serialize)]
struct Described<'state> {
    connection: String,
    shard: usize,
    /// Of the socket's other end.
    address: Option<String>,
    /// For which the connection is counted.
    client: Option<IpAddr>,
    topics: Vec<&'state str>,
    patterns: Vec<&'state str>,
    /// How many topics and patterns there are.
    selectors: usize,
    transport: &'static str,
    format: &'static str,
    position: String,
    laggard: Option<Lag>,
    silent_s: f64,
    ends_in_s: Option<f64>,
    /// Only where the server keeps it: with an access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<f64>,
    /// Only where the server keeps it: with an access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'state str>,
}

/// How far a laggard is behind, as JSON.
#[derive(Serialize)]
struct Lag {
    behind: u64,
    standing_s: f64,
    unsent_bytes: usize,
}

impl<'state> Described<'state> {
    fn new(state: &'state ConnectionState) -> Described<'state> {
        let lag = |lag: ConnectionLag| Lag {
            behind: lag.numbers,
            standing_s: tenths(lag.standing),
            unsent_bytes: lag.unsent_bytes,
        };
        Described {
            connection: state.id.to_string(),
            shard: state.id.shard(),
            address: state.peer.map(|peer| peer.to_string()),
            client: state.client,
            topics: state.topics.iter().map(Topic::as_str).collect(),
            patterns: state.patterns.iter().map(fanfare::Pattern::as_str).collect(),
            selectors: state.selectors,
            transport: match state.encoding.transport {
                Transport::Http1 => "http/1",
                _ => "unknown",
            },
            format: match state.encoding.format {
                WireFormat::Chunked => "chunked",
                WireFormat::Plain => "plain",
                _ => "unknown",
            },
            position: state.cursor.to_string(),
            laggard: state.lag.map(lag),
            silent_s: tenths(state.silent),
            ends_in_s: state.ends_in.map(tenths),
            age_s: state.age.map(tenths),
            subject: state.subject.as_deref(),
        }
    }
}

/// Seconds, to a tenth: the engine's times are no finer.
fn tenths(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// A page as JSON.
#[derive(Serialize)]
struct DescribedPage<'page> {
    connections: Vec<Described<'page>>,
    /// Where the next page is.
    next: Option<&'page str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_one_filter_at_most() {
        for wrong in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "after=",
            "after=-1",
            "subject=",
            "topic=",
            "token=",
            "address=example.com",
            "address=127.0.0.1:80",
            "subject=%ff",
            "subjects=a",
            "subject=a&subject=b",
            "topic=a&address=::1",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
        let address = ConnectionFilter::Address("2001:db8::1".parse().unwrap());
        for (query, filter) in [
            ("", ConnectionFilter::All),
            ("access_token=x&limit=100", ConnectionFilter::All),
            ("subject=ada%20l%26", ConnectionFilter::Subject("ada l&".to_owned())),
            ("token=t+1", ConnectionFilter::Token("t 1".to_owned())),
            ("topic=%C3%A9/1", ConnectionFilter::Topic(Topic::new("\u{e9}/1").unwrap())),
            ("address=2001:db8:0::1", address),
        ] {
            let parsed = Query::parse(query).ok().expect(query);
            assert_eq!(parsed, Query { filter, after: None, limit: CONNECTIONS_PER_PAGE_DEFAULT });
            // The next page is of the same question.
            let next = parsed.next(u64::MAX);
            let query = next.strip_prefix("/connections?").expect("a query");
            assert_eq!(Query::parse(query).ok(), Some(Query { after: Some(u64::MAX), ..parsed }), "{next}");
        }
    }
}
