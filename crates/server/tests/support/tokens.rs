//! Keys in files, and tokens that they sign.

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_access::{Algorithm, TokenSigner};
use serde_json::{Value, json};

use super::file::ConfigFile;

const SECRET: &str = "the secret of the publishers has more than 32 bytes";

/// A publisher's key, which every server with access control has.
pub(crate) struct PublisherKey {
    pub(crate) signer: TokenSigner,
    file: ConfigFile,
}

impl PublisherKey {
    pub(crate) fn new() -> PublisherKey {
        let signer = TokenSigner::from_secret(Algorithm::Hs256, SECRET.as_bytes()).expect("long");
        PublisherKey { signer, file: ConfigFile::new(SECRET) }
    }

    /// As a value of `--publisher-keys` and `--subscriber-keys`.
    pub(crate) fn option(&self) -> String {
        format!("hs256:{}", self.file.name())
    }

    /// The value of an `Authorization` field that may publish to every topic.
    pub(crate) fn authorization(&self) -> String {
        bearer(&mint(&self.signer, json!({ "fanfare": { "publish": ["*"] } })))
    }
}

#[allow(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token with these claims, for an hour unless they say otherwise.
pub(crate) fn mint(signer: &TokenSigner, mut claims: Value) -> String {
    let now = now_unix_s();
    let claims = claims.as_object_mut().expect("an object");
    claims.entry("exp").or_insert_with(|| json!(now + 3600));
    claims.entry("iat").or_insert_with(|| json!(now));
    signer.mint(claims).expect("it signs")
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
