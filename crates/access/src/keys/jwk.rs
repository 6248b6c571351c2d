//! JWK and JWK Set (RFC 7517, RFC 7518 section 6, RFC 8037).

use aws_lc_rs::signature::{
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};

use super::{Algorithm, Key, KeySet, Secrets, verification};
use crate::base64url;
use crate::error::KeyError;
use crate::json::Json;

/// The key of a text that is one JWK.
pub(super) fn one(text: &str, secrets: Secrets) -> Result<Key, KeyError> {
    let json = Json::parse(text.as_bytes()).ok_or(KeyError::Jwk("it is not JSON"))?;
    key(&json, secrets)
}

/// The usable keys of a text that is a JWK Set.
pub(super) fn set(text: &str, secrets: Secrets) -> Result<KeySet, KeyError> {
    let json = Json::parse(text.as_bytes()).ok_or(KeyError::Jwk("it is not JSON"))?;
    let members = json.get("keys").and_then(Json::as_array);
    let members = members.ok_or(KeyError::Jwk("it has no array `keys`"))?;
    let keys: Vec<Key> = members.iter().filter_map(|member| key(member, secrets).ok()).collect();
    let skipped = members.len() - keys.len();
    let mut set = KeySet::new(keys)?;
    set.skipped = skipped;
    Ok(set)
}

fn key(json: &Json, secrets: Secrets) -> Result<Key, KeyError> {
    if !json.is_object() {
        return Err(KeyError::Jwk("it is not an object"));
    }
    if text(json, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyError::Jwk("it is not for signatures (use)"));
    }
    if let Some(operations) = json.get("key_ops") {
        let operations = operations.as_array().ok_or(KeyError::Jwk("key_ops is not an array"))?;
        if !operations.iter().any(|operation| operation.as_text() == Some("verify")) {
            return Err(KeyError::Jwk("it does not verify signatures (key_ops)"));
        }
    }
    let named = match text(json, "alg")? {
        Some(name) => Some(Algorithm::named(name).ok_or(KeyError::Unsupported)?),
        None => None,
    };
    // An `alg` of another kind of key makes the key unusable: it is not replaced by what would fit.
    let one_of = |fitting: &[Algorithm]| {
        let algorithm = named.unwrap_or(fitting[0]);
        if fitting.contains(&algorithm) { Ok(algorithm) } else { Err(KeyError::AlgorithmForKey) }
    };
    let key = match (text(json, "kty")?, text(json, "crv")?) {
        (Some("oct"), _) if secrets == Secrets::Skipped => return Err(KeyError::Unsupported),
        (Some("oct"), _) => {
            let algorithm = one_of(&[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512])?;
            Key::from_secret(algorithm, &bytes(json, "k")?)?
        }
        (Some("RSA"), _) => {
            let algorithm = one_of(&[Algorithm::Rs256, Algorithm::Ps256])?;
            let parameters = if algorithm == Algorithm::Ps256 {
                &RSA_PSS_2048_8192_SHA256
            } else {
                &RSA_PKCS1_2048_8192_SHA256
            };
            let components = RsaPublicKeyComponents { n: number(json, "n")?, e: number(json, "e")? };
            let parsed = components.to_parsed_public_key(parameters).map_err(|_| KeyError::Unsupported)?;
            Key::from_public(algorithm, parsed)?
        }
        (Some("EC"), Some("P-256")) => point(json, one_of(&[Algorithm::Es256])?, 32)?,
        (Some("EC"), Some("P-384")) => point(json, one_of(&[Algorithm::Es384])?, 48)?,
        (Some("OKP"), Some("Ed25519")) => {
            let algorithm = one_of(&[Algorithm::EdDsa])?;
            public(algorithm, &sized(json, "x", 32)?)?
        }
        _ => return Err(KeyError::Unsupported),
    };
    Ok(match text(json, "kid")? {
        Some(kid) => key.with_kid(kid),
        None => key,
    })
}

/// A point of a curve, as SEC 1 writes it without compression.
fn point(json: &Json, algorithm: Algorithm, coordinate_bytes: usize) -> Result<Key, KeyError> {
    let mut encoded = vec![4];
    encoded.extend(sized(json, "x", coordinate_bytes)?);
    encoded.extend(sized(json, "y", coordinate_bytes)?);
    public(algorithm, &encoded)
}

fn public(algorithm: Algorithm, encoded: &[u8]) -> Result<Key, KeyError> {
    let parsed = ParsedPublicKey::new(verification(algorithm), encoded);
    Key::from_public(algorithm, parsed.map_err(|_| KeyError::Unsupported)?)
}

fn text<'j>(json: &'j Json, name: &str) -> Result<Option<&'j str>, KeyError> {
    match json.get(name) {
        Some(value) => Ok(Some(value.as_text().ok_or(KeyError::Jwk("a member that is a text is not one"))?)),
        None => Ok(None),
    }
}

fn bytes(json: &Json, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let encoded = text(json, name)?.ok_or(KeyError::Jwk("a member of the key is missing"))?;
    base64url::decode(encoded.as_bytes()).ok_or(KeyError::Jwk("a member is not base64url"))
}

/// "The length of this octet string MUST be the full size of a coordinate" (RFC 7518, section 6.2.1.2).
fn sized(json: &Json, name: &'static str, len: usize) -> Result<Vec<u8>, KeyError> {
    let bytes = bytes(json, name)?;
    if bytes.len() == len { Ok(bytes) } else { Err(KeyError::Jwk("a coordinate has the wrong length")) }
}

/// A number without its leading zeros, which some implementations write although RFC 7518 forbids them.
fn number(json: &Json, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let bytes = bytes(json, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}
