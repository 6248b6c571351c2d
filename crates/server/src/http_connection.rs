//! A connection to an HTTP server: TCP, TLS where the URL says so, and HTTP/1.1 on it.

use std::io;
use std::sync::Arc;

use fanfare_config::HttpUrl;
use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest head of an answer, and its most fields.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEAD_FIELDS: usize = 100;

/// How a server is reached by TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// With the certificates that the system trusts. `None`: the URL needs no TLS.
    ///
    /// # Errors
    /// There are none, or the host cannot be in a certificate.
    pub(crate) fn of(url: &HttpUrl) -> Result<Option<Tls>, String> {
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
        Ok(Some(Tls { connector: TlsConnector::from(Arc::new(config)), name }))
    }
}

/// Connects to the server of an URL. The connection ends with its last [`SendRequest`].
///
/// # Errors
/// The server is not reached, or its certificate is not trusted.
pub(crate) async fn connect<B>(url: &HttpUrl, tls: Option<&Tls>) -> io::Result<SendRequest<B>>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let socket = TcpStream::connect((url.host(), url.port())).await?;
    socket.set_nodelay(true)?;
    match tls {
        Some(Tls { connector, name }) => begin(connector.connect(name.clone(), socket).await?).await,
        None => begin(socket).await,
    }
}

async fn begin<B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<SendRequest<B>>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEAD_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a server ended: {error}");
        }
    });
    Ok(sender)
}
