//! Origins of web pages (RFC 6454, section 6.2).

/// Reads an origin as browsers send it, `null`, or `*` for every one.
///
/// # Errors
/// No browser sends such an origin, so that it would never match.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let form = "write an origin as browsers send it, such as https://app.example or \
                http://localhost:3000, without a path, or '*'";
    if text == "*" || text == "null" {
        return Ok(text.to_owned());
    }
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
    let is_origin = text.split_once("://").is_some_and(|(scheme, authority)| {
        is_part(scheme) && is_part(authority) && !authority.contains(['/', '?', '#', '@', '*', ','])
    });
    if !is_origin {
        return Err(form.to_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("browsers send origins in lower case".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// An origin with a slash at its end was taken, and no page ever matched it.
    #[test]
    fn what_no_browser_sends_is_refused() {
        for right in [
            "*",
            "null",
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:80",
            "tauri://localhost",
        ] {
            assert_eq!(parse(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a b",
            "https://*.example",
            "a,b://c,d",
        ] {
            assert!(parse(wrong).unwrap_err().contains("write an origin"), "{wrong}");
        }
        assert!(parse("https://App.example").unwrap_err().contains("lower case"));
    }
}
