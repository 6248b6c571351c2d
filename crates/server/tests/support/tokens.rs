//! Keys in files, and tokens that they sign: all tests of access have their keys from here.

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_access::{Algorithm, RsaPadding, TokenSigner};
use serde_json::{Value, json};

use super::file::ConfigFile;
use super::{Backend, Server};

/// The secret in the file of a [`PublisherKey`].
pub(crate) const SECRET: &str = "the secret of the publishers has more than 32 bytes";

/// A publisher's key, which every server with access control has.
pub(crate) struct PublisherKey {
    pub(crate) signer: TokenSigner,
    pub(crate) file: ConfigFile,
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

/// Keys of both kinds in files, and what signs with them: ES256 for subscribers, HS256 for publishers.
pub(crate) struct Keys {
    pub(crate) subscribers: TokenSigner,
    pub(crate) publishers: PublisherKey,
    /// The public key of subscribers, as PEM.
    pub(crate) public: String,
    pub(crate) subscriber_file: ConfigFile,
}

impl Keys {
    pub(crate) fn new() -> Keys {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let public = pair.public_key_pem();
        Keys {
            subscribers: TokenSigner::from_pem(&pair.serialize_pem(), RsaPadding::Pkcs1).expect("P-256"),
            publishers: PublisherKey::new(),
            subscriber_file: ConfigFile::new(&public),
            public,
        }
    }

    pub(crate) fn start(&self, backend: Backend, options: &[&str]) -> Server {
        let (subscribers, publishers) = (self.subscriber_file.name(), self.publishers.option());
        let keys = ["--subscriber-keys", &subscribers, "--publisher-keys", &publishers];
        Server::start_with(backend, &[&keys, options].concat())
    }

    /// The lines of a configuration file that name them.
    pub(crate) fn as_configuration(&self) -> String {
        let (subscribers, publishers) = (self.subscriber_file.name(), self.publishers.option());
        format!("[access]\nsubscriber-keys = ['{subscribers}']\npublisher-keys = ['{publishers}']\n")
    }

    pub(crate) fn publisher(&self) -> String {
        mint(&self.publishers.signer, json!({ "fanfare": { "publish": ["*"] } }))
    }

    pub(crate) fn subscriber(&self, topics: &[&str]) -> String {
        mint(&self.subscribers, json!({ "sub": "ada", "fanfare": { "subscribe": topics } }))
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
