//! HTTPS, as a client: which certificates are trusted, and what a connection is made with.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};

use crate::failure::{Failure, Outcome};

/// What all connections are made with.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts the certificates of the system and those of a file, or, `insecure`, every one.
    ///
    /// # Errors
    /// The file has no certificate, or there is none at all.
    pub(crate) fn new(authorities: Option<&Path>, insecure: bool) -> Outcome<Tls> {
        Tls::trusting(authorities.map(pem).transpose()?.as_deref(), insecure)
    }

    /// The same with the text of the file.
    pub(crate) fn trusting(authorities: Option<&str>, insecure: bool) -> Outcome<Tls> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(format!("TLS: {error}")))?;
        let mut config = if insecure {
            let verifier = Arc::new(TrustsEveryone(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(text) = authorities {
                let failed = |text: String| Failure::new(format!("--ca: {text}"));
                let before = roots.len();
                for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                    let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                    roots.add(certificate).map_err(|error| failed(error.to_string()))?;
                }
                if roots.len() == before {
                    return Err(failed("it has no certificate".to_owned()));
                }
            }
            if roots.is_empty() {
                return Err(Failure::new(
                    "TLS: the system has no certificates to trust: name the server's with --ca, or trust every one with --insecure",
                ));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(Arc::new(config)))
    }

    /// The same for HTTP/2, which a server has to agree to (RFC 9113, section 3.2).
    pub(crate) fn for_http2(&self) -> Tls {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Tls(Arc::new(config))
    }

    /// For programs that make connections themselves.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    /// A connection with a host, before its first byte.
    pub(crate) fn connection(&self, host: &ServerName<'static>) -> Outcome<ClientConnection> {
        ClientConnection::new(self.0.clone(), host.clone())
            .map_err(|error| Failure::new(format!("TLS: {error}")))
    }
}

/// The text of a file with certificates.
///
/// # Errors
/// It cannot be read.
pub(crate) fn pem(path: &Path) -> Outcome<String> {
    let failed = |error: io::Error| Failure::new(format!("--ca {}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(failed)?;
    // Beside the certificates there may be text in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The name that a certificate has to have, for the host of a URL.
///
/// # Errors
/// It can be in no certificate.
pub(crate) fn server_name(host: &str) -> Outcome<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::new(format!("`{host}` is no name that a certificate can have")))
}

/// A connection that blocks, with TLS or without.
pub(crate) enum Blocking {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Blocking {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Blocking::Plain(socket) => socket.read(into),
            Blocking::Secure(stream) => stream.read(into),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Blocking::Plain(socket) => socket.write(bytes),
            Blocking::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Blocking::Plain(socket) => socket.flush(),
            Blocking::Secure(stream) => stream.flush(),
        }
    }
}

/// Takes every certificate for good; whether the server has its key is still looked at.
#[derive(Debug)]
struct TrustsEveryone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsEveryone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
