//! The client of the endpoint: connections to the endpoint, which are used again, and one question on one of
//! them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, header};
use bytes::Bytes;
use fanfare_config::HttpUrl;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer::{Answer, Failure, MAX_BODY_BYTES};
use super::question::Question;

/// The longest head of an answer, and its most fields.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEAD_FIELDS: usize = 100;

/// How long a connection may take to be ready for the next question after an answer. It is ready at once unless the
/// endpoint closes it.
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
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Connections on which no question waits.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    most_idle: usize,
}

/// How the endpoint is reached by TLS.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// With the certificates that the system trusts.
    ///
    /// # Errors
    /// There are none, or the host cannot be in a certificate.
    pub(super) fn of(url: &HttpUrl) -> Result<Option<Tls>, String> {
        if !url.is_https() {
            return Ok(None);
        }
        let name = ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("there are no certificates to trust on this system (see SSL_CERT_FILE)".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Tls { config: Arc::new(config), name }))
    }
}

impl EndpointClient {
    pub(super) fn new(url: HttpUrl, tls: Option<Tls>, most_idle: usize) -> EndpointClient {
        let tls = tls.map(|tls| (TlsConnector::from(tls.config), tls.name));
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
        // The endpoint may have closed a connection just when this question was sent. A question changes nothing, so it
        // is asked again, once, on a new connection.
        if let Some(mut kept) = self.take_idle()
            && let Ok(response) = kept.send_request(self.request(question)).await
        {
            return self.read(response, kept).await;
        }
        let mut fresh = self.connect().await.map_err(|_| Failure::Unreachable)?;
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

    async fn connect(&self) -> io::Result<SendRequest<Empty<Bytes>>> {
        let socket = TcpStream::connect((self.url.host(), self.url.port())).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            Some((connector, name)) => begin(connector.connect(name.clone(), socket).await?).await,
            None => begin(socket).await,
        }
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

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Empty<Bytes>>> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEAD_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with the last `SendRequest`.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to the authorization endpoint ended: {error}");
        }
    });
    Ok(sender)
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
