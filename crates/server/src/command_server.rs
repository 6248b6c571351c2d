//! The server that `fanfare pub` and `fanfare sub` talk to, and how these commands fail.

use std::fmt;
use std::io;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use fanfare_config::HttpUrl;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::cli::ServerOptions;
use crate::http_connection::{Tls, connect};
use crate::key_files::{read_authorization, token_hint};
use crate::printable::printable;

/// The longest answer that is read, in bytes, other than a stream.
const ANSWER_BYTES: usize = 1 << 20;

/// The most characters of a server's text that are shown.
const SHOWN: usize = 1000;

/// The failure of a command. Scripts distinguish the kinds by the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something on this side: a file, the input, the output.
    Local(String),
    /// The server refuses, or is no server of event streams. Another try would end in the same way.
    Refused(String),
    /// There is no server, it does not answer in time, or it cannot serve now. Another try may succeed.
    Unavailable(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Local(_) => 1,
            Failure::Refused(_) => 3,
            Failure::Unavailable(_) => 4,
        }
    }

    /// The same kind of failure, with another text.
    pub(crate) fn map(self, change: impl FnOnce(String) -> String) -> Failure {
        match self {
            Failure::Local(text) => Failure::Local(change(text)),
            Failure::Refused(text) => Failure::Refused(change(text)),
            Failure::Unavailable(text) => Failure::Unavailable(change(text)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Local(text) | Failure::Refused(text) | Failure::Unavailable(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Failure {}

/// An answer that is no success.
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The reason that the server gives, in characters that a terminal may show.
    pub(crate) reason: String,
    /// The members of the problem document (RFC 9457), or null.
    pub(crate) problem: Value,
    /// The seconds of the field `Retry-After`.
    pub(crate) retry_after_s: Option<u64>,
}

/// A try to get a stream.
pub(crate) enum Attempt {
    Stream(Incoming),
    /// The server says that there is nothing more: HTML standard, section 9.2.3, "204".
    NothingMore,
    /// The server says that it cannot serve now, and when to come back.
    Later {
        failure: Failure,
        retry_after: Option<Duration>,
    },
}

/// The server that gets the requests.
pub(crate) struct Server {
    url: HttpUrl,
    /// The path before `/events`.
    base: String,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
    connect_time: Duration,
    answer_time: Duration,
}

/// A connection on which one request follows the other.
pub(crate) type Connection = SendRequest<Full<Bytes>>;

impl Server {
    /// # Errors
    /// The URL, the file of the token, or the certificates of this system cannot be used.
    pub(crate) fn new(options: &ServerOptions) -> Result<Server, Failure> {
        let wrong = |text: String| Failure::Local(format!("--url {}: {text}", printable(&options.url)));
        let url: HttpUrl = options.url.parse().map_err(|error| wrong(format!("{error}")))?;
        if url.target().contains('?') {
            return Err(wrong("it has a query; name the server alone".to_owned()));
        }
        let tls = Tls::of(&url).map_err(wrong)?;
        let authorization = read_authorization(options.token_file.as_deref()).map_err(Failure::Local)?;
        let authorization = authorization
            .map(|value| {
                let no_token =
                    |_| Failure::Local("the file of the token does not contain a token".to_owned());
                let mut value = HeaderValue::from_str(&value).map_err(no_token)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Server {
            base: url.target().trim_end_matches('/').to_owned(),
            url,
            tls,
            authorization,
            connect_time: options.connect_timeout,
            answer_time: options.timeout,
        })
    }

    /// The URL of the events, for texts.
    pub(crate) fn events_url(&self) -> String {
        format!("{}/events", self.url.as_str().trim_end_matches('/'))
    }

    /// # Errors
    /// [`Failure::Unavailable`]: the server is not reached in time.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let failed = |reason: &dyn fmt::Display| {
            Failure::Unavailable(format!("cannot connect to {}: {reason}", self.url.authority()))
        };
        match timeout(self.connect_time, connect(&self.url, self.tls.as_ref())).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&late("--connect-timeout", self.connect_time))),
        }
    }

    /// A request for `/events`. The query is encoded already, and begins with `?` where there is one.
    pub(crate) fn request(&self, method: Method, query: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Both parts have visible ASCII characters alone.
        if let Ok(target) = format!("{}/events{query}", self.base).parse() {
            *request.uri_mut() = target;
        }
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(self.url.authority()) {
            headers.insert(header::HOST, host);
        }
        let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Asks for the stream of this query, from behind this event, or from now on where there is no id.
    ///
    /// # Errors
    /// The server refuses, is no server of event streams, or is not reached.
    pub(crate) async fn stream(&self, query: &str, last_event_id: &str) -> Result<Attempt, Failure> {
        let mut request = self.request(Method::GET, query, Bytes::new());
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if !last_event_id.is_empty() {
            let id = HeaderValue::from_bytes(last_event_id.as_bytes());
            let id = id
                .map_err(|_| Failure::Refused("the id to resume after has a control character".to_owned()))?;
            headers.insert("last-event-id", id);
        }
        let mut connection = self.connect().await?;
        let response = self.head(connection.send_request(request)).await?;
        let url = self.events_url();
        let shown = |name| {
            response.headers().get(name).map(|value: &HeaderValue| {
                let text = String::from_utf8_lossy(value.as_bytes());
                printable(&text).chars().take(100).collect::<String>()
            })
        };
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NO_CONTENT => return Ok(Attempt::NothingMore),
            _ => {
                let refusal = self.refusal(response).await;
                let failure = self.failure(&refusal, &refusal.reason);
                return match failure {
                    Failure::Unavailable(_) => {
                        let retry_after = refusal.retry_after_s.map(Duration::from_secs);
                        Ok(Attempt::Later { failure, retry_after })
                    }
                    _ => Err(failure),
                };
            }
        }
        let kind = shown(header::CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("text/event-stream") {
            let text = format!("{url} is no event stream: its Content-Type is {kind:?}");
            return Err(Failure::Refused(text));
        }
        if let Some(coding) = shown(header::CONTENT_ENCODING).filter(|coding| coding != "identity") {
            let text =
                format!("{url} sends the stream with Content-Encoding {coding:?}, which was not asked for");
            return Err(Failure::Refused(text));
        }
        Ok(Attempt::Stream(response.into_body()))
    }

    /// Waits for the head of an answer.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: it does not come in time, or the connection ends before.
    pub(crate) async fn head(
        &self,
        answer: impl Future<Output = hyper::Result<Response<Incoming>>>,
    ) -> Result<Response<Incoming>, Failure> {
        let failed = |reason: &dyn fmt::Display| {
            Failure::Unavailable(format!("{} does not answer: {reason}", self.url.authority()))
        };
        match timeout(self.answer_time, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_incomplete_message() || error.is_canceled() => {
                Err(failed(&"the connection has ended before the answer"))
            }
            Ok(Err(error)) if error.is_parse() => {
                Err(Failure::Refused(format!("{} does not answer in HTTP: {error}", self.url.authority())))
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&late("--timeout", self.answer_time))),
        }
    }

    /// The body of an answer.
    ///
    /// # Errors
    /// It is too long, or does not come in time.
    pub(crate) async fn body(&self, body: Incoming) -> Result<Bytes, Failure> {
        let failed = |reason: &dyn fmt::Display| {
            Failure::Unavailable(format!("the answer of {} does not end: {reason}", self.url.authority()))
        };
        match timeout(self.answer_time, Limited::new(body, ANSWER_BYTES).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&late("--timeout", self.answer_time))),
        }
    }

    /// Reads an answer that is no success.
    pub(crate) async fn refusal(&self, response: Response<Incoming>) -> Refusal {
        let (head, body) = response.into_parts();
        let field = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let retry_after_s = field(header::RETRY_AFTER).and_then(|value| value.parse().ok());
        let location = field(header::LOCATION).map(str::to_owned);
        let text = self.body(body).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut reason = problem["detail"].as_str().unwrap_or(text.trim()).to_owned();
        if head.status.is_redirection() {
            let location = location.as_deref().unwrap_or("nowhere");
            reason = format!("it points to {location}, and redirections are not followed");
        }
        let reason: String = printable(&reason).chars().take(SHOWN).collect();
        Refusal { status: head.status.as_u16(), reason, problem, retry_after_s }
    }

    /// A refusal as a failure of the command.
    pub(crate) fn failure(&self, refusal: &Refusal, reason: &str) -> Failure {
        let status = refusal.status;
        let hint = token_hint(status, self.authorization.is_some());
        let text = format!("{} answered {status}: {reason}{hint}", self.events_url());
        // Too many requests, and everything that is the server's trouble, may pass.
        if status == 429 || status >= 500 { Failure::Unavailable(text) } else { Failure::Refused(text) }
    }
}

/// Why something is given up after a time.
pub(crate) fn late(option: &str, time: Duration) -> String {
    format!("nothing came within {} ({option})", humantime::format_duration(time))
}

/// Runs a command.
///
/// # Errors
/// Those of the command.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime: io::Result<Runtime> = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Local(format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // The thread that looks up a name, or reads the input, may wait for ever.
    runtime.shutdown_background();
    result
}

/// Writes a line of the output. `false`: no program reads it any more, as with `| head -1`.
///
/// # Errors
/// It cannot be written, for instance because the disk is full.
pub(crate) fn write_output(bytes: &[u8]) -> Result<bool, Failure> {
    use std::io::Write;
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Local(format!("cannot write to the standard output: {error}"))),
    }
}
