//! Files of keys that verify tokens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A file of keys, and what is to be read there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The path of the file.
    pub path: PathBuf,
    /// What its text is.
    pub content: KeyContent,
}

/// What the text of a file of keys is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyContent {
    /// A public key in PEM, a JWK or a JWK Set. The text itself says which of them.
    PublicKeys,
    /// A public key of RSA in PEM whose algorithm is PS256, and not RS256.
    Ps256,
    /// The secret of HS256.
    Hs256,
    /// The secret of HS384.
    Hs384,
    /// The secret of HS512.
    Hs512,
}

/// What may stand before the path, with a colon between them.
const PREFIXES: [(&str, KeyContent); 4] = [
    ("ps256:", KeyContent::Ps256),
    ("hs256:", KeyContent::Hs256),
    ("hs384:", KeyContent::Hs384),
    ("hs512:", KeyContent::Hs512),
];

/// A text that is no file of keys.
#[derive(Debug)]
pub struct InvalidKeyFile;

impl fmt::Display for InvalidKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write the path of a file, or hs256:PATH for a secret")
    }
}

impl std::error::Error for InvalidKeyFile {}

impl FromStr for KeyFile {
    type Err = InvalidKeyFile;

    fn from_str(text: &str) -> Result<KeyFile, InvalidKeyFile> {
        let prefixed = PREFIXES
            .iter()
            .find_map(|(prefix, content)| text.strip_prefix(prefix).map(|path| (path, *content)));
        let (path, content) = prefixed.unwrap_or((text, KeyContent::PublicKeys));
        if path.is_empty() || path.contains('\0') {
            return Err(InvalidKeyFile);
        }
        Ok(KeyFile { path: path.into(), content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_of_a_secret_stands_before_its_path() {
        for (text, path, content) in [
            ("keys.json", "keys.json", KeyContent::PublicKeys),
            ("hs256:/etc/secret", "/etc/secret", KeyContent::Hs256),
            ("hs512:a:b", "a:b", KeyContent::Hs512),
            ("ps256:rsa.pem", "rsa.pem", KeyContent::Ps256),
            ("es256:key.pem", "es256:key.pem", KeyContent::PublicKeys),
        ] {
            let read: KeyFile = text.parse().unwrap();
            assert_eq!(read, KeyFile { path: path.into(), content }, "{text}");
        }
        for wrong in ["", "hs256:", "a\0"] {
            assert!(wrong.parse::<KeyFile>().is_err(), "{wrong:?}");
        }
    }
}
