//! Names on a NATS server: of a stream, and of the beginning of subjects.

/// Reads the name of a stream. The server takes no name with whitespace, `.`, `*`, `>`, `/` or `\` in it
/// (NATS documentation, "Streams", Name).
///
/// # Errors
/// It is no such name.
pub(crate) fn stream(text: &str) -> Result<String, String> {
    let is_legal = |byte: u8| byte.is_ascii_graphic() && !b".*>/\\".contains(&byte);
    // A bucket of settings is kept beside the stream, and its name is longer.
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_legal) {
        return Err("a name has 1 to 64 letters, digits and signs, and no dot, slash, * or >".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads the beginning of subjects: tokens with dots between them.
///
/// # Errors
/// It is no such beginning.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_token = |token: &str| !token.is_empty() && token.bytes().all(is_legal);
    if text.len() > 64 || !text.split('.').all(is_token) {
        return Err(
            "a prefix has letters, digits, - and _, with single dots between, up to 64 bytes".to_owned()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams() {
        for text in ["FANFARE", "a", "orders-2", "x_y", &"n".repeat(64)] {
            assert_eq!(stream(text).as_deref(), Ok(text));
        }
        for text in ["", "a b", "a.b", "a*", ">", "a/b", "a\\b", "ä", &"n".repeat(65)] {
            assert!(stream(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn beginnings_of_subjects() {
        for text in ["fanfare", "app.events", "a-b_c.D9"] {
            assert_eq!(prefix(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "a.", ".a", "a..b", "a.*", "a.>", "$JS", "a b", &"p".repeat(65)] {
            assert!(prefix(text).is_err(), "{text:?}");
        }
    }
}
