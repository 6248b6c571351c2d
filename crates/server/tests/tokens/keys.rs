//! The keys of the tables: one pair or secret of each algorithm for subscribers, and others for publishers.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_access::{Algorithm, RsaPadding, TokenSigner};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};

use super::support::file::ConfigFile;

/// Keys of the side that asks.
#[derive(Debug)]
pub(crate) struct Keys {
    /// For HS256, HS384 and HS512.
    pub(crate) secret: String,
    pub(crate) rsa: KeyPair,
    pub(crate) p256: KeyPair,
    pub(crate) p384: KeyPair,
    pub(crate) ed25519: KeyPair,
}

/// Made once for all tests: RSA keys take a while.
pub(crate) static SUBSCRIBERS: LazyLock<Keys> = LazyLock::new(|| Keys::new("subscribers"));
pub(crate) static PUBLISHERS: LazyLock<Keys> = LazyLock::new(|| Keys::new("publishers"));

/// The secret of signed URLs, and an older one that is still good.
pub(crate) const URL_SECRETS: [&str; 2] = [
    "the newer secret of the signed URLs is longer than 32",
    "the older secret of the signed URLs is longer than 32",
];

impl Keys {
    fn new(side: &str) -> Keys {
        let of = |algorithm| KeyPair::generate_for(algorithm).expect("a key");
        Keys {
            secret: format!(
                "the secret of the {side} has more than the 64 bytes that HS512 asks for, as it has to"
            ),
            rsa: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key"),
            p256: of(&PKCS_ECDSA_P256_SHA256),
            p384: of(&PKCS_ECDSA_P384_SHA384),
            ed25519: of(&PKCS_ED25519),
        }
    }

    /// A JWK Set with a key of each algorithm, whose `kid` is the name of the algorithm in lower case.
    pub(crate) fn jwks(&self) -> ConfigFile {
        let secret =
            |name: &str| json!({ "kty": "oct", "k": base64url(self.secret.as_bytes()), "alg": name });
        let mut keys = vec![secret("HS256"), secret("HS384"), secret("HS512")];
        let (modulus, exponent) = rsa_numbers(self.rsa.public_key_raw());
        for name in ["RS256", "PS256"] {
            keys.push(
                json!({ "kty": "RSA", "n": base64url(modulus), "e": base64url(exponent), "alg": name }),
            );
        }
        for (name, curve, pair) in [("ES256", "P-256", &self.p256), ("ES384", "P-384", &self.p384)] {
            keys.push(json!({ "kty": "EC", "crv": curve, "alg": name }));
            // An uncompressed point: the byte 4, x and y.
            let point = &pair.public_key_raw()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let key = keys.last_mut().expect("it was added");
            (key["x"], key["y"]) = (json!(base64url(x)), json!(base64url(y)));
        }
        let x = base64url(self.ed25519.public_key_raw());
        keys.push(json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA" }));
        for key in &mut keys {
            let kid = key["alg"].as_str().map(str::to_lowercase);
            key["kid"] = json!(kid);
        }
        ConfigFile::new(&json!({ "keys": keys }).to_string())
    }

    /// A signer of this algorithm, without a `kid`.
    pub(crate) fn signer(&self, algorithm: Algorithm) -> TokenSigner {
        let pair = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => &self.rsa,
            Algorithm::Es256 => &self.p256,
            Algorithm::Es384 => &self.p384,
            Algorithm::EdDsa => &self.ed25519,
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                return TokenSigner::from_secret(algorithm, self.secret.as_bytes())
                    .expect("it is long enough");
            }
        };
        let padding = if algorithm == Algorithm::Ps256 { RsaPadding::Pss } else { RsaPadding::Pkcs1 };
        TokenSigner::from_pem(&pair.serialize_pem(), padding).expect("a private key")
    }

    /// A token of HS256 with these claims, for an hour unless they say otherwise.
    pub(crate) fn token(&self, claims: Value) -> String {
        mint(&self.signer(Algorithm::Hs256), claims)
    }
}

/// A token with these claims, for an hour unless they say otherwise.
pub(crate) fn mint(signer: &TokenSigner, mut claims: Value) -> String {
    let now = super::now_unix_s();
    let claims = claims.as_object_mut().expect("an object");
    claims.entry("exp").or_insert_with(|| json!(now + 3600));
    claims.entry("iat").or_insert_with(|| json!(now));
    signer.mint(claims).expect("it signs")
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// Modulus and exponent of a PKCS #1 public key: a SEQUENCE of two INTEGERs.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, begin) = match der[1] {
            short @ ..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            other => panic!("a length of {other:#x}"),
        };
        (&der[begin..begin + length], &der[begin + length..])
    }
    let (sequence, _) = element(der);
    let (modulus, rest) = element(sequence);
    // A leading zero says that the number is positive. A JWK has none.
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), element(rest).0)
}
