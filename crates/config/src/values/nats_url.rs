//! The address of a NATS server.

use std::fmt;
use std::str::FromStr;

/// `nats://HOST[:PORT]`, or `tls://HOST[:PORT]` for a connection that begins with TLS. It has no user and no
/// password: they would be in the list of processes and in printed configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsUrl(String);

/// Why a text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNatsUrl(&'static str);

impl NatsUrl {
    /// What an option takes, for its help.
    pub(crate) const ALLOWED: &str = "an URL such as nats://nats.example:4222";

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NatsUrl {
    type Err = InvalidNatsUrl;

    fn from_str(text: &str) -> Result<NatsUrl, InvalidNatsUrl> {
        let scheme = ["nats://", "tls://"].into_iter().find(|scheme| text.starts_with(scheme));
        let scheme = scheme.ok_or(InvalidNatsUrl("an URL of NATS begins with nats:// or tls://"))?;
        let rest = &text[scheme.len()..];
        if rest.contains('@') {
            let text = "an URL of NATS has no user and no password: write --nats-login FILE or --nats-credentials FILE";
            return Err(InvalidNatsUrl(text));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_address = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
        let is_legal = match is_bracketed {
            true => host.len() > 2 && host[1..host.len() - 1].bytes().all(is_address),
            false => !host.is_empty() && host.bytes().all(is_host),
        };
        if !is_legal {
            return Err(InvalidNatsUrl("an URL of NATS has a host behind //, and nothing behind its port"));
        }
        let is_port =
            |port: &str| port.parse::<u16>().is_ok_and(|number| number > 0 && !port.starts_with('+'));
        if port.is_some_and(|port| !is_port(port)) {
            return Err(InvalidNatsUrl("the port of the URL is not in 1..=65535"));
        }
        Ok(NatsUrl(format!("{scheme}{rest}")))
    }
}

impl fmt::Display for InvalidNatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidNatsUrl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_nats_servers() {
        for text in [
            "nats://localhost",
            "nats://127.0.0.1:4222",
            "tls://nats.example:443",
            "nats://[::1]:4222",
            "nats://[::1]",
        ] {
            assert_eq!(text.parse::<NatsUrl>().unwrap().as_str(), text);
        }
        assert_eq!("nats://a:1/".parse::<NatsUrl>().unwrap().as_str(), "nats://a:1");
    }

    #[test]
    fn others_are_refused() {
        let error = |text: &str| text.parse::<NatsUrl>().unwrap_err().to_string();
        assert!(error("http://a:4222").contains("begins with"));
        assert!(error("a:4222").contains("begins with"));
        assert!(error("nats://user:secret@a").contains("--nats-login"));
        for text in ["nats://", "nats://:4222", "nats://a/b", "nats://a b", "nats://[x]:1", "nats://[]:1"] {
            assert!(error(text).contains("host"), "{text}");
        }
        for text in ["nats://a:", "nats://a:0", "nats://a:65536", "nats://a:+1", "nats://a:x"] {
            assert!(error(text).contains("port"), "{text}");
        }
    }
}
