//! Keys and tokens for tests. Each run makes new keys.

#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests; not every test uses all")]

pub(crate) mod endpoint;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fanfare_access::{RsaPadding, TokenSigner};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const SECRET: &[u8; 64] = b"an example of a secret for HS256, HS384 and HS512 in these tests";

/// A key pair: what signs, and its public half in two forms.
pub(crate) struct Pair {
    pub(crate) pkcs8: Vec<u8>,
    pub(crate) public_pem: String,
    pub(crate) public_der: Vec<u8>,
    pub(crate) jwk: Value,
}

impl Pair {
    pub(crate) fn rsa() -> Pair {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref().to_vec();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        let (n, e) = rsa_numbers(pair.public_key().as_ref());
        Pair::of(pkcs8, spki, json!({"kty": "RSA", "n": base64url(&n), "e": base64url(&e)}))
    }

    pub(crate) fn p256() -> Pair {
        Pair::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    pub(crate) fn p384() -> Pair {
        Pair::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str) -> Pair {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        Pair::of(pkcs8, spki, json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)}))
    }

    pub(crate) fn ed25519() -> Pair {
        let pair = Ed25519KeyPair::generate().unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap().as_ref().to_vec();
        let x = base64url(pair.public_key().as_ref());
        Pair::of(pkcs8, spki, json!({"kty": "OKP", "crv": "Ed25519", "x": x}))
    }

    fn of(pkcs8: Vec<u8>, public_der: Vec<u8>, jwk: Value) -> Pair {
        let public_pem = pem("PUBLIC KEY", &public_der);
        Pair { pkcs8, public_pem, public_der, jwk }
    }

    pub(crate) fn signer(&self, padding: RsaPadding) -> TokenSigner {
        TokenSigner::from_pkcs8(&self.pkcs8, padding).unwrap()
    }

    /// The public key as a JWK with more members.
    pub(crate) fn jwk_with(&self, more: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with these claims.
pub(crate) fn mint(signer: &TokenSigner, claims: &Value) -> String {
    signer.mint(claims.as_object().unwrap()).unwrap()
}

/// Modulus and exponent of a PKCS #1 public key: a SEQUENCE of two INTEGERs.
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (len, begin) = match der[1] {
            short @ ..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            other => panic!("a length of {other:#x}"),
        };
        (&der[begin..begin + len], &der[begin + len..])
    }
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    let stripped = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    (stripped(n), stripped(e))
}
