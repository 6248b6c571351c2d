//! PEM (RFC 7468) with one public key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::KeyError;

/// The DER of the one public key in the text.
pub(super) fn public_key(text: &str) -> Result<Vec<u8>, KeyError> {
    let mut blocks = blocks(text, |label| label == "PUBLIC KEY" || label == "RSA PUBLIC KEY");
    match (blocks.next(), blocks.next()) {
        (Some(Ok(der)), None) => Ok(der),
        (Some(Err(error)), _) => Err(error),
        (Some(_), Some(_)) => Err(KeyError::Pem("it has several keys; give each its own file")),
        (None, _) if text.contains("PRIVATE KEY-----") => {
            Err(KeyError::Pem("it is a private key; the server needs only the public one"))
        }
        (None, _) if text.contains("BEGIN CERTIFICATE-----") => {
            Err(KeyError::Pem("it is a certificate; take its key with `openssl x509 -pubkey -noout`"))
        }
        (None, _) => Err(KeyError::Pem("there is no line -----BEGIN PUBLIC KEY-----")),
    }
}

/// The DER of the blocks with a label that `is_wanted`.
pub(crate) fn blocks<'t>(
    text: &'t str,
    is_wanted: impl Fn(&str) -> bool + 't,
) -> impl Iterator<Item = Result<Vec<u8>, KeyError>> + 't {
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        loop {
            let label = lines.next()?.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
            let Some(label) = label.filter(|label| is_wanted(label)) else { continue };
            let end = format!("-----END {label}-----");
            let mut body = String::new();
            let closed = loop {
                match lines.next() {
                    Some(line) if line == end => break true,
                    Some(line) => body.push_str(line),
                    None => break false,
                }
            };
            if !closed {
                return Some(Err(KeyError::Pem("the END line is missing")));
            }
            return Some(STANDARD.decode(body).map_err(|_| KeyError::Pem("the text is not base64")));
        }
    })
}
