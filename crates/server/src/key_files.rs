//! Files of keys and secrets.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use fanfare_access::{Algorithm, Key, KeySet, RsaPadding};
use fanfare_config::{KeyContent, KeyFile};

/// The longest file of a key.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// The keys of all these files.
///
/// # Errors
/// The first file that cannot be read, or has no usable key, and why. No error repeats a secret.
pub(crate) fn key_set(files: &[KeyFile]) -> Result<KeySet, String> {
    let mut all = Vec::new();
    for file in files {
        let path = &file.path;
        let keys = || match file.content {
            KeyContent::Hs256 => secret_key(path, Algorithm::Hs256),
            KeyContent::Hs384 => secret_key(path, Algorithm::Hs384),
            KeyContent::Hs512 => secret_key(path, Algorithm::Hs512),
            KeyContent::Ps256 => {
                let key = Key::from_pem(&read_text(path)?, RsaPadding::Pss);
                Ok(vec![key.map_err(|error| format!("{}: {error}", path.display()))?])
            }
            KeyContent::PublicKeys => public_keys(path),
        };
        check_regular(path)?;
        all.extend(keys()?);
    }
    KeySet::new(all).map_err(|error| error.to_string())
}

/// The secrets of all these files.
///
/// # Errors
/// The first file that cannot be read.
pub(crate) fn secrets(files: &[impl AsRef<Path>]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &Path| {
        check_regular(path)?;
        let secret = read_secret(path)?;
        check_not_public(path, &secret).map(|()| secret)
    };
    files.iter().map(|file| read(file.as_ref())).collect()
}

/// The bytes of a file, without one line end at its end, which editors and `echo` add.
///
/// # Errors
/// The file cannot be read, or is too long.
pub(crate) fn read_secret(file: &Path) -> Result<Vec<u8>, String> {
    let mut secret = read(file)?;
    if secret.ends_with(b"\n") {
        secret.pop();
        if secret.ends_with(b"\r") {
            secret.pop();
        }
    }
    Ok(secret)
}

/// The value of an `Authorization` field with the token of a file, if there is one.
///
/// # Errors
/// The file cannot be read, is too long, or is not UTF-8.
pub(crate) fn read_authorization(file: Option<&Path>) -> Result<Option<String>, String> {
    file.map(|file| Ok(format!("Bearer {}", read_text(file)?.trim()))).transpose()
}

/// A hint for users of the command line about an answer of this status.
pub(crate) fn token_hint(status: u16, has_token: bool) -> &'static str {
    match (status, has_token) {
        (401, false) => "; give a token by --token-file, which `fanfare token mint` makes",
        (401, true) => "; the log of the server says why it refuses this token",
        _ => "",
    }
}

/// The text of a file.
///
/// # Errors
/// The file cannot be read, is too long, or is not UTF-8.
pub(crate) fn read_text(file: &Path) -> Result<String, String> {
    String::from_utf8(read(file)?).map_err(|_| format!("{} is not UTF-8", file.display()))
}

fn secret_key(path: &Path, algorithm: Algorithm) -> Result<Vec<Key>, String> {
    let secret = read_secret(path)?;
    check_not_public(path, &secret)?;
    let key = Key::from_secret(algorithm, &secret);
    Ok(vec![key.map_err(|error| format!("{}: {error}", path.display()))?])
}

/// A file in the format of a key is not used as a secret: everyone who has the public key could make tokens.
fn check_not_public(path: &Path, secret: &[u8]) -> Result<(), String> {
    let text = secret.trim_ascii_start();
    let is_json_key = text.starts_with(b"{")
        && serde_json::from_slice::<serde_json::Value>(text)
            .is_ok_and(|json| json.get("kty").is_some() || json.get("keys").is_some());
    if text.starts_with(b"-----BEGIN ") || is_json_key {
        let path = path.display();
        return Err(format!(
            "{path} has the format of a key (PEM or JWK), and it is named as a shared secret"
        ));
    }
    Ok(())
}

/// A PEM text, a JWK or a JWK Set, which JSON text says by its member `keys`.
fn public_keys(path: &Path) -> Result<Vec<Key>, String> {
    let text = read_text(path)?;
    let json = text.trim_start().starts_with('{').then(|| serde_json::from_str::<serde_json::Value>(&text));
    let keys = match json {
        None => Key::from_pem(&text, RsaPadding::Pkcs1).map(|key| vec![key]),
        Some(Ok(json)) if json.get("keys").is_none() => Key::from_jwk(&text).map(|key| vec![key]),
        Some(_) => KeySet::from_jwks(&text).map(|set| set.keys().to_vec()),
    };
    let hint = "; a secret is written with its algorithm, such as hs256:PATH";
    let is_json = text.trim_start().starts_with('{');
    keys.map_err(|error| format!("{}: {error}{}", path.display(), if is_json { "" } else { hint }))
}

/// Another kind of file, such as a pipe, would keep the server waiting when it is read again.
fn check_regular(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if metadata.is_file() { Ok(()) } else { Err(format!("{} is no regular file", path.display())) }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot read {}: {error}", file.display());
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(cannot)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{} is too long for a key", file.display()));
    }
    Ok(bytes)
}
