//! Mints tokens, for trying out and for tests. A server never signs tokens itself.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Map, Value, json};

use crate::base64url;
use crate::error::KeyError;
use crate::keys::{Algorithm, RsaPadding, check_secret, pem};

/// A key that signs tokens. It does not show the key when it is printed.
pub struct TokenSigner {
    kid: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSigner")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl TokenSigner {
    /// A signer with a shared secret.
    ///
    /// # Errors
    /// As [`crate::Key::from_secret`].
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<TokenSigner, KeyError> {
        let hash = algorithm.hmac().ok_or(KeyError::AlgorithmForKey)?;
        check_secret(hash, secret)?;
        let material = Material::Secret(Box::new(hmac::Key::new(hash, secret)));
        Ok(TokenSigner { kid: None, algorithm, material })
    }

    /// A signer with the private key of a PEM text in PKCS #8. `padding` says the algorithm of RSA keys.
    ///
    /// # Errors
    /// The text has no such key, or the key is not supported.
    pub fn from_pem(text: &str, padding: RsaPadding) -> Result<TokenSigner, KeyError> {
        let mut blocks = pem::blocks(text, |label| label == "PRIVATE KEY");
        let missing = KeyError::Pem("there is no line -----BEGIN PRIVATE KEY-----");
        TokenSigner::from_pkcs8(&blocks.next().ok_or(missing)??, padding)
    }

    /// A signer with a private key in PKCS #8.
    ///
    /// # Errors
    /// The key is not supported.
    pub fn from_pkcs8(der: &[u8], padding: RsaPadding) -> Result<TokenSigner, KeyError> {
        let (algorithm, material) = if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            (padding.algorithm(), Material::Rsa(pair))
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            (Algorithm::Es256, Material::Ec(pair))
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der) {
            (Algorithm::Es384, Material::Ec(pair))
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            (Algorithm::EdDsa, Material::Ed25519(pair))
        } else {
            return Err(KeyError::Unsupported);
        };
        Ok(TokenSigner { kid: None, algorithm, material })
    }

    /// The same signer, with this `kid` in the header of its tokens.
    #[must_use]
    pub fn with_kid(mut self, kid: impl Into<String>) -> TokenSigner {
        self.kid = Some(kid.into());
        self
    }

    /// The algorithm of the tokens.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token with these claims. `None`: the key cannot sign, which happens to no key that was accepted.
    pub fn mint(&self, claims: &Map<String, Value>) -> Option<String> {
        let mut header = Map::new();
        header.insert("alg".to_owned(), json!(self.algorithm.name()));
        header.insert("typ".to_owned(), json!("JWT"));
        if let Some(kid) = &self.kid {
            header.insert("kid".to_owned(), json!(kid));
        }
        let header = Value::Object(header).to_string();
        let claims = serde_json::to_string(claims).ok()?;
        self.mint_raw(header.as_bytes(), claims.as_bytes())
    }

    /// A token with any bytes as header and payload, signed. It is for tests of what verifies tokens.
    pub fn mint_raw(&self, header: &[u8], payload: &[u8]) -> Option<String> {
        let message = format!("{}.{}", base64url::encode(header), base64url::encode(payload));
        let signature = self.sign(message.as_bytes())?;
        Some(format!("{message}.{}", base64url::encode(&signature)))
    }

    /// The signature of any bytes.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.material {
            Material::Secret(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Material::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let pss = self.algorithm == Algorithm::Ps256;
                let signed = if pss {
                    pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                };
                signed.ok().map(|()| signature)
            }
            Material::Ec(pair) => {
                pair.sign(&random, message).ok().map(|signature| signature.as_ref().to_vec())
            }
            Material::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}
