//! `X-Forwarded-For` and `Forwarded`, element by element from the right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

/// What an element says of the hop from which a proxy got the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Its address, canonical.
    Address(IpAddr),
    /// It is not told, or not well-formed.
    Hidden,
}

/// Shows the elements of one field from the right, until `visit` answers false. Whether it never did.
pub(super) fn last_x_forwarded_for(value: &[u8], visit: &mut impl FnMut(Node) -> bool) -> bool {
    for element in value.rsplit(|byte| *byte == b',') {
        let element = element.trim_ascii();
        // A list may have empty elements, which say nothing (RFC 9110, section 5.6.1.2).
        if element.is_empty() {
            continue;
        }
        if !visit(x_forwarded_for_node(element)) {
            return false;
        }
    }
    true
}

/// There is no standard. Proxies write an address, some with a port, and IPv6 with or without brackets.
fn x_forwarded_for_node(element: &[u8]) -> Node {
    let Ok(text) = std::str::from_utf8(element) else { return Node::Hidden };
    match text.parse::<IpAddr>() {
        Ok(address) => Node::Address(address.to_canonical()),
        Err(_) => node(text),
    }
}

/// The same for `Forwarded`. An element cannot be found from the right, because a comma may stand in a quoted
/// string. So the whole field is read from the left first, and where it is not well-formed, nothing of it is
/// believed.
pub(super) fn last_forwarded(value: &[u8], visit: &mut impl FnMut(Node) -> bool) -> bool {
    let Some(nodes) = forwarded_nodes(value) else { return visit(Node::Hidden) };
    nodes.into_iter().rev().all(visit)
}

/// `Forwarded = 1#( [ pair ] *( ";" [ pair ] ) )` (RFC 7239, section 4).
fn forwarded_nodes(value: &[u8]) -> Option<SmallVec<[Node; 4]>> {
    let mut nodes = SmallVec::new();
    let mut reader = Reader { rest: value };
    loop {
        reader.skip_blanks();
        let mut element = Element::default();
        loop {
            if !reader.is_at_end_of_pair() {
                element.add_pair(&mut reader)?;
            }
            match reader.rest.first() {
                Some(b';') => reader.rest = &reader.rest[1..],
                _ => break,
            }
        }
        if element.has_pairs {
            nodes.push(element.node.unwrap_or(Node::Hidden));
        }
        reader.skip_blanks();
        match reader.rest.split_first() {
            None => return Some(nodes),
            Some((b',', behind)) => reader.rest = behind,
            Some(_) => return None,
        }
    }
}

#[derive(Default)]
struct Element {
    has_pairs: bool,
    node: Option<Node>,
}

impl Element {
    fn add_pair(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let name = reader.token()?;
        reader.rest = reader.rest.strip_prefix(b"=")?;
        let is_for = name.eq_ignore_ascii_case(b"for");
        let node = match reader.rest.first() {
            Some(b'"') => quoted_node(&reader.quoted_string()?),
            _ => std::str::from_utf8(reader.token()?).map_or(Node::Hidden, node),
        };
        // "Each parameter MUST NOT occur more than once per field-value" is about one element.
        if is_for && self.node.replace(node).is_some() {
            return None;
        }
        self.has_pairs = true;
        Some(())
    }
}

fn quoted_node(text: &[u8]) -> Node {
    std::str::from_utf8(text).map_or(Node::Hidden, node)
}

/// `node = nodename [ ":" node-port ]` (RFC 7239, section 6). Names that are not addresses are hidden nodes.
fn node(text: &str) -> Node {
    let (address, port): (Option<IpAddr>, &str) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().ok().map(IpAddr::V6), port),
            None => return Node::Hidden,
        },
        None => {
            let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (address.parse::<Ipv4Addr>().ok().map(IpAddr::V4), port)
        }
    };
    match address {
        Some(address) if is_port(port) => Node::Address(address.to_canonical()),
        _ => Node::Hidden,
    }
}

/// Nothing, or `:` and a number of up to five digits or an obfuscated port.
fn is_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    match port.strip_prefix('_') {
        Some(name) => {
            let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(is_char)
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A pair may be empty, and blanks may follow the last one of an element.
    fn is_at_end_of_pair(&self) -> bool {
        let is_end = |byte: Option<&u8>| matches!(byte, None | Some(b','));
        let behind_blanks = self.rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
        self.rest.first() == Some(&b';') || is_end(behind_blanks)
    }

    fn skip_blanks(&mut self) {
        let count = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.rest = &self.rest[count..];
    }

    /// `1*tchar` (RFC 9110, section 5.6.2).
    fn token(&mut self) -> Option<&'a [u8]> {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let count = self.rest.iter().take_while(|byte| is_token(byte)).count();
        let (token, rest) = self.rest.split_at(count);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// What stands between the quotes, without the backslashes (RFC 9110, section 5.6.4).
    fn quoted_string(&mut self) -> Option<SmallVec<[u8; 48]>> {
        let mut rest = self.rest.strip_prefix(b"\"")?;
        let mut text = SmallVec::new();
        loop {
            let (&byte, behind) = rest.split_first()?;
            rest = behind;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (&quoted, behind) = rest.split_first()?;
                    text.push(quoted);
                    rest = behind;
                }
                _ => text.push(byte),
            }
        }
        self.rest = rest;
        Some(text)
    }
}
