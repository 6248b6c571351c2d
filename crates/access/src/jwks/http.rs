//! One GET of a JWK Set, bounded in time and bytes.

#[cfg(feature = "https")]
use std::sync::Arc;

#[cfg(feature = "https")]
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{JwksError, JwksOptions};

/// Checks whether a URL may be fetched.
pub(super) fn check(url: &str, plain_anywhere: bool) -> Result<(), JwksError> {
    let (is_https, rest) = if let Some(rest) = url.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = url.strip_prefix("http://") {
        (false, rest)
    } else {
        return Err(JwksError::Url("it begins with neither https:// nor http://"));
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return Err(JwksError::Url("it has a user or a password"));
    }
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err(JwksError::Url("it has no host, or a space"));
    }
    if is_https && cfg!(not(feature = "https")) {
        return Err(JwksError::Url("this program was built without https"));
    }
    let address = host.parse::<std::net::IpAddr>();
    let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !is_https && !is_loopback && !plain_anywhere {
        return Err(JwksError::Url(
            "it uses http to another host; keys that can be replaced on the way are no keys",
        ));
    }
    Ok(())
}

/// Fetches the text. No redirection is followed, and no proxy of the environment is used.
pub(super) fn get(url: &str, options: &JwksOptions) -> Result<String, JwksError> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(options.timeout))
        .max_redirects(0)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .proxy(None);
    #[cfg(feature = "https")]
    let config = if url.starts_with("https:") { config.tls_config(tls(options)?) } else { config };
    let agent: ureq::Agent = config.build().into();
    let request = agent.get(url).header("Accept", "application/jwk-set+json, application/json");
    let mut response = request.call().map_err(failure)?;
    if response.status() != 200 {
        return Err(JwksError::Status(response.status().as_u16()));
    }
    let body = response.body_mut().with_config().limit(options.max_bytes as u64).read_to_vec();
    String::from_utf8(body.map_err(failure)?).map_err(|_| JwksError::NotUtf8)
}

#[cfg(feature = "https")]
fn tls(options: &JwksOptions) -> Result<TlsConfig, JwksError> {
    let certificates: Vec<Certificate<'static>> = match &options.root_certificates_pem {
        Some(pem) => parse_pem(pem.as_bytes())
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect(),
        None => {
            let native = rustls_native_certs::load_native_certs();
            native.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
        }
    };
    if certificates.is_empty() {
        return Err(JwksError::Io("there are no certificates to trust".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn failure(error: ureq::Error) -> JwksError {
    match error {
        ureq::Error::Timeout(_) => JwksError::TimedOut,
        ureq::Error::BodyExceedsLimit(_) => JwksError::TooLarge,
        other => JwksError::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only_unless_it_is_said_otherwise() {
        for good in ["http://127.0.0.1:1/a", "http://localhost/", "http://[::1]:9", "http://127.8.0.1"] {
            assert_eq!(check(good, false), Ok(()), "{good}");
        }
        for plain in ["http://10.0.0.1/", "http://localhost.example/", "http://127.0.0.1.example/"] {
            assert!(matches!(check(plain, false), Err(JwksError::Url(_))), "{plain}");
            assert_eq!(check(plain, true), Ok(()), "{plain}");
        }
        for bad in
            ["", "ftp://a/", "http://", "https:///x", "http://u:p@127.0.0.1/", "http://127.0.0.1/ a", "a"]
        {
            assert!(matches!(check(bad, true), Err(JwksError::Url(_))), "{bad}");
        }
        assert_eq!(check("https://example.com/jwks", false).is_ok(), cfg!(feature = "https"));
    }
}
