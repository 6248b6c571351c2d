//! The names that the server answers to.
//!
//! A web page may read and publish where its origin is the server's own. If the owner of a web page lets its
//! name resolve to a loopback address (DNS rebinding), then the web page's origin equals the `Host` of its
//! requests, and any web page could use a server on this machine or behind its firewall. So the names are a
//! list: loopback names, addresses that the server listens on, and what `--host` adds. An address in a `Host`
//! proves that no name was resolved.

use std::net::{IpAddr, SocketAddr};

use fanfare_config::HostName;
use fanfare_config::host_name::{address, normal};

/// The longest part of a host that a refusal repeats.
const SHOWN: usize = 100;

/// The allowed values of a request's `Host`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    any: bool,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Listens on a loopback address.
    loopback: bool,
    /// Listens on every address of the machine, whichever these are.
    wildcard: bool,
}

impl Hosts {
    /// The names of a server that listens on these addresses.
    pub(crate) fn new(listed: &[HostName], listen: &[SocketAddr]) -> Hosts {
        let mut hosts = Hosts::default();
        for name in listed {
            match name {
                HostName::Any => hosts.any = true,
                HostName::Name(name) => hosts.names.push(name.clone()),
                HostName::Address(address) => hosts.addresses.push(*address),
            }
        }
        for address in listen {
            let address = canonical(address.ip());
            hosts.wildcard |= address.is_unspecified();
            hosts.loopback |= address.is_loopback() || address.is_unspecified();
            hosts.addresses.push(address);
        }
        hosts
    }

    /// Also answers to the names of loopback: the server listens on a Unix socket, which no browser reaches
    /// by a name.
    pub(crate) fn allow_loopback(&mut self) {
        self.loopback = true;
    }

    /// Whether the server answers to this host, with or without a port. A request without one (HTTP/1.0)
    /// comes from no browser.
    pub(crate) fn allow(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        if self.any {
            return true;
        }
        let name = without_port(host);
        if let Some(address) = address(name) {
            let address = canonical(address);
            return self.wildcard
                || (self.loopback && address.is_loopback())
                || self.addresses.contains(&address);
        }
        let name = normal(name);
        (self.loopback && name == "localhost") || self.names.contains(&name)
    }

    /// The text for a client whose host is not among the names.
    pub(crate) fn refusal(host: Option<&str>) -> String {
        Hosts::refusal_by(host, "--host", "FANFARE_HOST")
    }

    /// The same, where another option has the names.
    pub(crate) fn refusal_by(host: Option<&str>, option: &str, variable: &str) -> String {
        let name = without_port(host.unwrap_or_default());
        let shown: String = name.chars().take(SHOWN).collect();
        format!(
            "this server does not answer to the name {shown:?}; if it should, start it with {option} {shown} \
             ({variable}={shown}), also where a proxy passes that name on; {option} '*' answers to every name"
        )
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// An IPv4 address that is written as an IPv6 one is the same address.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listed: &[&str], listen: &[&str]) -> Hosts {
        let listed: Vec<HostName> = listed.iter().map(|name| name.parse().unwrap()).collect();
        let listen: Vec<SocketAddr> = listen.iter().map(|address| address.parse().unwrap()).collect();
        Hosts::new(&listed, &listen)
    }

    fn check(hosts: &Hosts, allowed: &[&str], refused: &[&str]) {
        for host in allowed {
            assert!(hosts.allow(Some(host)), "{host} is refused by {hosts:?}");
        }
        for host in refused {
            assert!(!hosts.allow(Some(host)), "{host} is allowed by {hosts:?}");
        }
        assert!(hosts.allow(None));
    }

    /// A web page of any origin whose name resolved to a loopback address could publish and read.
    #[test]
    fn on_loopback_the_names_are_those_of_loopback() {
        let allowed = [
            "localhost",
            "LOCALHOST:8844",
            "localhost.",
            "localhost:",
            "127.0.0.1:1",
            "127.255.0.9",
            "[::1]:80",
        ];
        let refused = [
            "evil.example",
            "evil.example:8844",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f.1",
            "128.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::2]",
            "::1",
            "[::1",
            "[::1]evil",
            "",
            ":80",
            "localhost:evil",
            "a.localhost",
            "localhost%2e",
        ];
        check(&hosts(&[], &["127.0.0.1:8844"]), &allowed, &refused);
        check(&hosts(&[], &["[::1]:8844"]), &allowed, &refused);
        check(&hosts(&[], &["127.0.0.1:8844"]), &["[::ffff:127.0.0.1]:80"], &["[::ffff:10.0.0.1]"]);
    }

    #[test]
    fn elsewhere_they_are_its_addresses() {
        let specific = hosts(&[], &["192.0.2.1:80", "[2001:db8::1]:80"]);
        check(
            &specific,
            &["192.0.2.1", "192.0.2.1:8080", "[2001:db8::1]", "[2001:DB8:0::1]:1", "[::ffff:192.0.2.1]"],
            &["192.0.2.2", "localhost", "127.0.0.1", "[::1]", "push.example", "2001:db8::1"],
        );
        // An address cannot be rebound, and which ones the machine has may change.
        for listen in ["0.0.0.0:80", "[::]:80"] {
            let wildcard = hosts(&[], &[listen]);
            check(
                &wildcard,
                &["192.0.2.2", "[2001:db8::1]:1", "localhost", "127.0.0.1"],
                &["push.example", "a"],
            );
        }
    }

    #[test]
    fn more_names_are_added_or_all() {
        let listed = hosts(&["Push.Example.com.", "192.0.2.7", "2001:db8::7"], &["127.0.0.1:80"]);
        check(
            &listed,
            &["push.example.com", "PUSH.example.com.:443", "192.0.2.7:1", "[2001:db8::7]", "localhost"],
            &["example.com", "a.push.example.com", "192.0.2.8"],
        );
        check(&hosts(&["*"], &["127.0.0.1:80"]), &["evil.example", "192.0.2.8", ""], &[]);
        for wrong in
            ["", "http://push.example", "push.example:80", "push.example/", "*.example", "a b", "[::1]:80"]
        {
            assert!(wrong.parse::<HostName>().is_err(), "{wrong}");
        }
        assert_eq!("[::1]".parse(), Ok(HostName::Address(std::net::Ipv6Addr::LOCALHOST.into())));
    }
}
