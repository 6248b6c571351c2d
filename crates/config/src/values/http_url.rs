//! URLs of endpoints that the server asks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// An URL with the scheme `http` or `https`, in the parts that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    is_https: bool,
    host: String,
    port: u16,
    authority: String,
    target: String,
}

/// A text that is no URL of an endpoint.
#[derive(Debug)]
pub struct InvalidHttpUrl(&'static str);

impl fmt::Display for InvalidHttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidHttpUrl {}

impl HttpUrl {
    /// The whole URL, as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the connection is protected by TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host and the port as they were written, for the field `Host`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path and the query, which begin with `/`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether strangers can change the answer on its way: the scheme is `http`, and the host is not this
    /// machine.
    pub fn is_unprotected(&self) -> bool {
        let is_loopback =
            self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        !self.is_https && !is_loopback && self.host != "localhost"
    }
}

impl FromStr for HttpUrl {
    type Err = InvalidHttpUrl;

    fn from_str(text: &str) -> Result<HttpUrl, InvalidHttpUrl> {
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(InvalidHttpUrl("an URL begins with https:// or http://")),
        };
        if text.len() > MAX_URL_BYTES {
            return Err(InvalidHttpUrl("the URL is longer than 2048 bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
            return Err(InvalidHttpUrl("an URL has visible ASCII characters, and no fragment (#)"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(InvalidHttpUrl("the URL has a user or a password, which is not supported"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) =
                    rest.split_once(']').ok_or(InvalidHttpUrl("a ] is missing in the host"))?;
                if !host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
                    return Err(InvalidHttpUrl("only an address of IPv6 stands in brackets"));
                }
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host_byte) {
            return Err(InvalidHttpUrl("the URL has no host, or one that is no name and no address"));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => Some(if is_https { 443 } else { 80 }),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0)
            }
            _ => None,
        };
        let port = port.ok_or(InvalidHttpUrl("the port of the URL is a number from 1 to 65535"))?;
        let target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(HttpUrl {
            text: text.to_owned(),
            is_https,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_is_read_into_its_parts() {
        for (text, host, port, target, is_unprotected) in [
            ("https://id.example/jwks", "id.example", 443, "/jwks", false),
            ("http://127.0.0.1:81", "127.0.0.1", 81, "/", false),
            ("http://localhost?x=1", "localhost", 80, "/?x=1", false),
            ("http://[::1]:9/a?b=/c", "::1", 9, "/a?b=/c", false),
            ("http://10.0.0.1/", "10.0.0.1", 80, "/", true),
            ("http://127.0.0.1.example/", "127.0.0.1.example", 80, "/", true),
            ("http://localhost.example/", "localhost.example", 80, "/", true),
            ("http://[2001:db8::1]/", "2001:db8::1", 80, "/", true),
        ] {
            let url: HttpUrl = text.parse().unwrap();
            let parts = (url.host(), url.port(), url.target(), url.is_unprotected());
            assert_eq!(parts, (host, port, target, is_unprotected), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_an_endpoint_is_refused() {
        for text in [
            "",
            "a",
            "ftp://a/",
            "http://",
            "https:///a",
            "http://u:p@h/",
            "http://h/ a",
            "http://h/a\r\nX: y",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+1/",
            "http://h:/",
            "http://[::1/",
            "http://[h]/",
            "http://h/#a",
            "http://h\u{e4}/",
            "http://a\"b/",
        ] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
        assert!(format!("http://h/{}", "a".repeat(3000)).parse::<HttpUrl>().is_err());
    }
}
