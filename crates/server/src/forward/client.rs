//! The client of the endpoint: connections to the endpoint, which are used again, and one question on one of
//! them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, header};
use bytes::Bytes;
use fanfare_config::HttpUrl;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1::SendRequest;

use super::answer::{Answer, Failure, MAX_BODY_BYTES};
use super::question::Question;
use crate::http_connection::{Tls, connect};

/// How long a connection may take to be ready for the next question after an answer. It is ready at once
/// unless the endpoint closes it.
const READY: Duration = Duration::from_secs(1);

/// An answer, and what is known of it beside what it says.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Answer,
    /// About the bytes that it takes.
    pub(super) bytes: usize,
    pub(super) may_be_stored: bool,
}

/// Where questions go.
pub(super) struct EndpointClient {
    url: HttpUrl,
    tls: Option<Tls>,
    /// Connections on which no question waits.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    most_idle: usize,
}

impl EndpointClient {
    pub(super) fn new(url: HttpUrl, tls: Option<Tls>, most_idle: usize) -> EndpointClient {
        EndpointClient { url, tls, idle: Mutex::default(), most_idle }
    }

    /// Asks. No redirection is followed.
    pub(super) async fn ask(self: &Arc<EndpointClient>, question: &Question) -> Answered {
        self.try_ask(question).await.unwrap_or_else(|failure| Answered {
            answer: Answer::Failed(failure),
            bytes: 0,
            may_be_stored: false,
        })
    }

    async fn try_ask(self: &Arc<EndpointClient>, question: &Question) -> Result<Answered, Failure> {
        // The endpoint may have closed a connection just when this question was sent. A question changes
        // nothing, so it is asked again, once, on a new connection.
        if let Some(mut kept) = self.take_idle()
            && let Ok(response) = kept.send_request(self.request(question)).await
        {
            return self.read(response, kept).await;
        }
        let mut fresh = connect(&self.url, self.tls.as_ref()).await.map_err(|_| Failure::Unreachable)?;
        let response = fresh.send_request(self.request(question)).await.map_err(|error| failure(&error))?;
        self.read(response, fresh).await
    }

    async fn read(
        self: &Arc<EndpointClient>,
        response: hyper::Response<hyper::body::Incoming>,
        connection: SendRequest<Empty<Bytes>>,
    ) -> Result<Answered, Failure> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::TooLarge
            } else {
                error.downcast_ref::<hyper::Error>().map_or(Failure::Malformed, failure)
            }
        })?;
        self.keep(connection);
        let body = body.to_bytes();
        Ok(Answered {
            answer: Answer::read(head.status, &head.headers, &body),
            // A text takes little more memory when it was read than as JSON.
            bytes: size_of::<Answer>() + 4 * body.len(),
            may_be_stored: Answer::may_be_stored(&head.headers),
        })
    }

    fn request(&self, question: &Question) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        // Both were checked when the configuration was read.
        if let Ok(target) = self.url.target().parse() {
            *request.uri_mut() = target;
        }
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(self.url.authority()) {
            headers.insert(header::HOST, host);
        }
        let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in question.fields() {
            headers.insert(name, value.clone());
        }
        request
    }

    fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(SendRequest::is_ready);
        idle.pop()
    }

    /// Keeps a connection for the next question, once its answer has been read to the end.
    fn keep(self: &Arc<EndpointClient>, mut connection: SendRequest<Empty<Bytes>>) {
        let client = Arc::clone(self);
        tokio::spawn(async move {
            if matches!(tokio::time::timeout(READY, connection.ready()).await, Ok(Ok(()))) {
                let mut idle = client.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < client.most_idle {
                    idle.push(connection);
                }
            }
        });
    }

    /// Closes connections on which no question waits.
    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether a connection is kept.
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        Failure::TooLarge
    } else if error.is_parse() {
        Failure::Malformed
    } else {
        Failure::Unreachable
    }
}
