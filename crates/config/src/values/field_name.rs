//! Names of fields of a request that are passed on to an endpoint.

/// Fields that say where a message ends, how a connection is used, or what this server says itself.
const OWN: [&str; 17] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "proxy-authorization",
];

/// Reads a name, and gives it in small letters.
///
/// # Errors
/// It is no token (RFC 9110, section 5.6.2), or a field that the server writes itself.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_token) {
        return Err("a field's name has letters, digits and signs such as -".to_owned());
    }
    let name = text.to_ascii_lowercase();
    if OWN.contains(&name.as_str()) || name.starts_with("x-forwarded-") {
        return Err("the server writes this field itself, or never passes it on".to_owned());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_server_s_own_is_refused() {
        assert_eq!(parse("X-Session"), Ok("x-session".to_owned()));
        for wrong in ["", "a b", "a:", "Host", "X-Forwarded-For", "content-length", "Last-Event-ID", "a\r\n"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
