//! Keys that verify tokens, and sets of them. The algorithm belongs to the key; the header of a token cannot
//! choose it.

mod jwk;
pub(crate) mod pem;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaSubjectPublicKey, VerificationAlgorithm,
};

use crate::error::{AccessError, KeyError};

/// The most keys of a set.
pub const MAX_KEYS: usize = 64;
/// The longest text of keys that is read, in bytes: PEM, JWK or JWK Set.
pub const MAX_KEY_TEXT_BYTES: usize = 256 << 10;
/// The most keys that are tried for one token: a token without `kid` may fit several keys.
pub const MAX_TRIES: usize = 8;

/// The bits of the RSA keys that are accepted.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A signature algorithm of JWS (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// EdDSA with Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Algorithm; 8] = [
        Algorithm::Hs256,
        Algorithm::Hs384,
        Algorithm::Hs512,
        Algorithm::Rs256,
        Algorithm::Ps256,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// The name in the header of a token.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Ps256 => "PS256",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The algorithm with this name. Names are compared byte for byte (RFC 7515, section 4.1.1).
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The hash of HMAC, for the algorithms with a shared secret.
    pub(crate) fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
            Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
            Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The algorithm of an RSA key: a key in PEM does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RsaPadding {
    /// RS256.
    #[default]
    Pkcs1,
    /// PS256.
    Pss,
}

impl RsaPadding {
    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            RsaPadding::Pkcs1 => Algorithm::Rs256,
            RsaPadding::Pss => Algorithm::Ps256,
        }
    }
}

/// A key that verifies signatures of exactly one algorithm.
#[derive(Clone)]
pub struct Key {
    kid: Option<Box<str>>,
    algorithm: Algorithm,
    material: Material,
    /// A hash of all of the above, to compare keys without keeping a secret for that.
    fingerprint: [u8; 32],
}

#[derive(Clone)]
enum Material {
    Secret(Arc<hmac::Key>),
    Public(ParsedPublicKey),
}

/// Says everything but the material.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// A shared secret for HS256, HS384 or HS512.
    ///
    /// # Errors
    /// - [`KeyError::WeakSecret`]: "A key of the same size as the hash output [...] or larger MUST be used"
    ///   (RFC 7518, section 3.2).
    /// - [`KeyError::AlgorithmForKey`]: the algorithm is another one.
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Key, KeyError> {
        let hash = algorithm.hmac().ok_or(KeyError::AlgorithmForKey)?;
        check_secret(hash, secret)?;
        let fingerprint = fingerprint(None, algorithm, secret);
        Ok(Key {
            kid: None,
            algorithm,
            material: Material::Secret(Arc::new(hmac::Key::new(hash, secret))),
            fingerprint,
        })
    }

    /// The public key in a PEM text: RSA, EC P-256, EC P-384 or Ed25519. `padding` says the algorithm of RSA
    /// keys.
    ///
    /// # Errors
    /// The text is longer than [`MAX_KEY_TEXT_BYTES`], does not have exactly one public key, or the key is
    /// not supported.
    pub fn from_pem(text: &str, padding: RsaPadding) -> Result<Key, KeyError> {
        check_length(text)?;
        Key::from_spki(&pem::public_key(text)?, padding)
    }

    /// The key in a JWK (RFC 7517). Its `alg` says the algorithm. Without `alg`, RSA is RS256 and a secret is
    /// HS256.
    ///
    /// # Errors
    /// The text is too long or no JWK, or the key is not supported or not meant for signatures.
    pub fn from_jwk(text: &str) -> Result<Key, KeyError> {
        check_length(text)?;
        jwk::one(text, Secrets::Allowed)
    }

    /// The same key with this name.
    #[must_use]
    pub fn with_kid(mut self, kid: impl Into<Box<str>>) -> Key {
        let kid = kid.into();
        self.fingerprint = fingerprint(Some(&kid), self.algorithm, &self.fingerprint);
        self.kid = Some(kid);
        self
    }

    /// The name of the key, which tokens choose it by.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The algorithm of all signatures that the key accepts.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A key from DER: `SubjectPublicKeyInfo`, or PKCS #1 for RSA.
    fn from_spki(der: &[u8], padding: RsaPadding) -> Result<Key, KeyError> {
        let rsa = padding.algorithm();
        if let Ok(key) = ParsedPublicKey::new(verification(rsa), der) {
            return Key::from_public(rsa, key);
        }
        let others = [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];
        let parsed = others.into_iter().find_map(|algorithm| {
            ParsedPublicKey::new(verification(algorithm), der).ok().map(|key| (algorithm, key))
        });
        let (algorithm, key) = parsed.ok_or(KeyError::Unsupported)?;
        Key::from_public(algorithm, key)
    }

    fn from_public(algorithm: Algorithm, key: ParsedPublicKey) -> Result<Key, KeyError> {
        if matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256) {
            let pkcs1 = RsaSubjectPublicKey::from_der(key.as_ref()).map_err(|_| KeyError::Unsupported)?;
            let bits =
                RsaParameters::public_modulus_len(pkcs1.as_ref()).map_err(|_| KeyError::Unsupported)?;
            if !RSA_BITS.contains(&(bits as usize)) {
                return Err(KeyError::Unsupported);
            }
        }
        let fingerprint = fingerprint(None, algorithm, key.as_ref());
        Ok(Key { kid: None, algorithm, material: Material::Public(key), fingerprint })
    }

    fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            // Compares in constant time.
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// Whether keys with a shared secret are taken from a JWK Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    Allowed,
    /// From a URL: a secret that everyone can fetch is none.
    Skipped,
}

/// Keys, of which a token uses one.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys of a JWK Set that were left out because they are not supported.
    skipped: usize,
}

impl KeySet {
    /// The set of these keys.
    ///
    /// # Errors
    /// There are none, or more than [`MAX_KEYS`].
    pub fn new(keys: Vec<Key>) -> Result<KeySet, KeyError> {
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(KeyError::Count { keys: keys.len() });
        }
        Ok(KeySet { keys, skipped: 0 })
    }

    /// The keys of a JWK Set (RFC 7517, section 5). Keys that are not supported are left out, as the RFC
    /// says.
    ///
    /// # Errors
    /// The text is too long or no JWK Set, or has no usable key or too many.
    pub fn from_jwks(text: &str) -> Result<KeySet, KeyError> {
        check_length(text)?;
        jwk::set(text, Secrets::Allowed)
    }

    /// The keys of a JWK Set from a place that others can read: shared secrets are left out.
    #[cfg(feature = "url")]
    pub(crate) fn from_public_jwks(text: &str) -> Result<KeySet, KeyError> {
        check_length(text)?;
        jwk::set(text, Secrets::Skipped)
    }

    /// The keys.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many keys of a JWK Set were left out because they are not supported.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Whether both sets have the same keys in the same order.
    pub fn is_same(&self, other: &KeySet) -> bool {
        self.keys.iter().map(|key| key.fingerprint).eq(other.keys.iter().map(|key| key.fingerprint))
    }

    /// Whether a key of `other` is missing here: tokens that it has signed are not good any more.
    pub fn lacks_some_of(&self, other: &KeySet) -> bool {
        let has = |key: &Key| self.keys.iter().any(|own| own.fingerprint == key.fingerprint);
        !other.keys.iter().all(has)
    }

    /// The keys of both sets, for tokens of either.
    pub(crate) fn joined(&self, other: &KeySet) -> KeySet {
        let keys = self.keys.iter().chain(&other.keys).cloned().collect();
        KeySet { keys, skipped: self.skipped + other.skipped }
    }

    /// Checks a signature.
    ///
    /// With a `kid`, the keys of that name are tried, and keys without a name where no key has that one.
    /// Without a `kid`, all keys are tried. In both cases only keys of the header's algorithm are tried, and
    /// at most [`MAX_TRIES`]. An algorithm that is no candidate's is an error: it never makes a key do what
    /// it is not for.
    pub(crate) fn verify(
        &self,
        algorithm: Option<Algorithm>,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), AccessError> {
        let named = kid.is_some_and(|kid| self.keys.iter().any(|key| key.kid() == Some(kid)));
        let is_candidate = |key: &&Key| match kid {
            Some(kid) if named => key.kid() == Some(kid),
            Some(_) => key.kid.is_none(),
            None => true,
        };
        let candidates = self.keys.iter().filter(is_candidate);
        if candidates.clone().next().is_none() {
            return Err(if kid.is_some() { AccessError::UnknownKid } else { AccessError::WrongKey });
        }
        let mut fitting =
            candidates.filter(|key| Some(key.algorithm) == algorithm).take(MAX_TRIES).peekable();
        if fitting.peek().is_none() {
            return Err(AccessError::Algorithm);
        }
        if fitting.any(|key| key.accepts(message, signature)) { Ok(()) } else { Err(AccessError::WrongKey) }
    }
}

fn check_length(text: &str) -> Result<(), KeyError> {
    if text.len() > MAX_KEY_TEXT_BYTES { Err(KeyError::TooLong) } else { Ok(()) }
}

/// Refuses a secret that is shorter than its hash.
pub(crate) fn check_secret(hash: hmac::Algorithm, secret: &[u8]) -> Result<(), KeyError> {
    let needed = hash.tag_len();
    if secret.len() < needed { Err(KeyError::WeakSecret { needed, given: secret.len() }) } else { Ok(()) }
}

/// What verifies the signatures of an algorithm with a public key.
fn verification(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDsa => &ED25519,
        // The algorithms with a secret have no public key, and nothing asks for them here.
        Algorithm::Rs256 | Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            &RSA_PKCS1_2048_8192_SHA256
        }
    }
}

fn fingerprint(kid: Option<&str>, algorithm: Algorithm, material: &[u8]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    let kid = kid.unwrap_or_default();
    hash.update(algorithm.name().as_bytes());
    hash.update(&(kid.len() as u64).to_be_bytes());
    hash.update(kid.as_bytes());
    hash.update(material);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}
