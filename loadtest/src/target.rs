//! Where a server is and how it is spoken to: URLs, and the templates for subscribing and publishing.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::ValueEnum;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::tls;

/// An `http://` or `https://` URL in the parts that a request needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Url {
    /// It is `https://`.
    pub(crate) is_secure: bool,
    /// Host and port as written, for the `Host` header.
    pub(crate) authority: String,
    /// Path and query, with a leading slash.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Outcome<Url> {
        let (is_secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(Failure::new(format!("`{text}` is no URL: write http://host:port/path"))),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.is_empty() || authority.contains('@') || text.contains(char::is_whitespace) {
            return Err(Failure::new(format!(
                "`{text}` is no URL that can be asked: write http://host:port/path"
            )));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { is_secure, authority: authority.to_owned(), path })
    }

    fn has_port(&self) -> bool {
        self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    }

    /// The name that the server's certificate has to have; `None`: the URL is not `https://`.
    pub(crate) fn tls_name(&self) -> Outcome<Option<ServerName<'static>>> {
        if !self.is_secure {
            return Ok(None);
        }
        let host = match self.authority.rsplit_once(':') {
            Some((host, _)) if self.has_port() => host,
            _ => &self.authority,
        };
        tls::server_name(host.trim_matches(['[', ']'])).map(Some)
    }

    /// Looks the host up. Of several addresses it takes the first one at which somebody listens, and the
    /// first one of all where nobody does: `localhost` is ::1 and 127.0.0.1, and most servers listen at one
    /// of them.
    pub(crate) fn resolve(&self) -> Outcome<SocketAddr> {
        let port = if self.is_secure { 443 } else { 80 };
        let name =
            if self.has_port() { self.authority.clone() } else { format!("{}:{port}", self.authority) };
        let addresses: Vec<SocketAddr> = name
            .to_socket_addrs()
            .map_err(|error| Failure::new(format!("`{name}` cannot be looked up: {error}")))?
            .collect();
        one_of(&addresses).ok_or_else(|| Failure::new(format!("`{name}` has no address")))
    }
}

/// The first of a host's addresses at which a connection is taken. A single one is not tried.
fn one_of(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let first = *addresses.first()?;
    if addresses.len() == 1 {
        return Some(first);
    }
    let connected = connect_to_one_of(addresses.iter().copied(), Duration::from_secs(1));
    Some(connected.and_then(|socket| socket.peer_addr()).unwrap_or(first))
}

/// Connects to the first of several addresses at which a connection is taken. `localhost`, for instance, is
/// both `[::1]` and 127.0.0.1, and most servers listen at one of them.
///
/// # Errors
/// There is no address, or a connection is taken at none of them within the time for each. The error is that
/// of the last address.
pub(crate) fn connect_to_one_of(
    addresses: impl IntoIterator<Item = SocketAddr>,
    time_for_each: Duration,
) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        result = TcpStream::connect_timeout(&address, time_for_each);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// A request with placeholders in it: `{topic}`, `{topics:SEPARATOR}`, `{seq}`, `{data}`, and for
/// subscriptions `{subscriber}`, `{value}` and `{last_event_id}`. `{data:json}` and `{last_event_id:json}`
/// are escaped for a string in JSON, `{data:url}` and `{last_event_id:url}` for a form or a URL. Other braces
/// are plain text, so JSON needs no escaping.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Template {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Option<String>,
}

/// What the placeholders stand for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) topic: &'a str,
    /// Where there are none, `topic` is the only one.
    pub(crate) topics: &'a [&'a str],
    pub(crate) data: &'a str,
    pub(crate) sequence: u64,
    pub(crate) subscriber: usize,
    pub(crate) value: &'a str,
    pub(crate) last_event_id: &'a [u8],
}

impl Values<'_> {
    /// Values to try a template with.
    const SAMPLE: Values<'static> = Values {
        topic: "t",
        topics: &[],
        data: "d",
        sequence: 0,
        subscriber: 0,
        value: "v",
        last_event_id: &[],
    };

    /// Appends what a placeholder stands for; false: it is none.
    fn put(&self, name: &str, into: &mut String) -> bool {
        match name {
            "topic" => into.push_str(self.topic),
            "seq" => into.push_str(&self.sequence.to_string()),
            "data" => into.push_str(self.data),
            "data:json" => into.push_str(&escaped_for_json(self.data)),
            "data:url" => into.push_str(&percent_encoded(self.data.as_bytes())),
            "subscriber" => into.push_str(&self.subscriber.to_string()),
            "value" => into.push_str(self.value),
            "last_event_id" => into.push_str(&String::from_utf8_lossy(self.last_event_id)),
            "last_event_id:json" => {
                into.push_str(&escaped_for_json(&String::from_utf8_lossy(self.last_event_id)));
            }
            "last_event_id:url" => into.push_str(&percent_encoded(self.last_event_id)),
            _ => match name.strip_prefix("topics:") {
                Some(_) if self.topics.is_empty() => into.push_str(self.topic),
                Some(separator) => into.push_str(&self.topics.join(separator)),
                None => return false,
            },
        }
        true
    }
}

/// Fills the placeholders, in one pass: what they stand for is not looked at again.
fn fill(text: &str, values: Values<'_>) -> String {
    let mut filled = String::with_capacity(text.len() + values.data.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        match rest.find('}') {
            Some(end) if values.put(&rest[1..end], &mut filled) => rest = &rest[end + 1..],
            _ => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// As it is between the quotes of a string in JSON.
fn escaped_for_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// As a form or a query has it (RFC 3986, section 2.1): everything but unreserved characters.
fn percent_encoded(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl Template {
    /// Checks what can be checked before there is anything to fill in.
    pub(crate) fn check(&self) -> Outcome<()> {
        Url::parse(&fill(&self.url, Values::SAMPLE))?;
        for header in &self.headers {
            let named =
                header.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
            if !named || header.contains(['\r', '\n']) {
                return Err(Failure::new(format!("`{header}` is no header: write `Name: value`")));
            }
        }
        Ok(())
    }

    /// The URL with these values.
    pub(crate) fn filled_url(&self, values: Values<'_>) -> String {
        fill(&self.url, values)
    }

    /// Checks that data with line ends, quotes and characters beyond ASCII can go through it.
    pub(crate) fn check_text(&self, dialect: Dialect) -> Outcome<()> {
        let wrong = |text: &str| Err(Failure::new(format!("--payload text: {text}")));
        match dialect {
            Dialect::Pushpin => {
                return wrong("the line of data that Pushpin is given here cannot have line ends");
            }
            Dialect::Centrifugo => {
                return wrong("Centrifugo delivers the data inside JSON, which changes it");
            }
            _ => {}
        }
        if self.url.contains("{data}") || self.headers.iter().any(|header| header.contains("{data}")) {
            return wrong("{data} in a URL or a header has to be {data:url}");
        }
        let is_json = self.headers.iter().any(|header| header.to_ascii_lowercase().contains("json"));
        let is_form = self.headers.iter().any(|header| header.contains("x-www-form-urlencoded"));
        let body = self.body.as_deref().unwrap_or("");
        if body.contains("{data}") && (is_json || is_form) {
            let escaped = if is_json { "{data:json}" } else { "{data:url}" };
            return wrong(&format!("{{data}} in the body has to be {escaped}"));
        }
        Ok(())
    }

    /// The name that the server's certificate has to have, if it is asked with TLS.
    pub(crate) fn tls_name(&self) -> Outcome<Option<ServerName<'static>>> {
        Url::parse(&fill(&self.url, Values::SAMPLE))?.tls_name()
    }

    /// Where the requests go; one address for all of them.
    pub(crate) fn address(&self) -> Outcome<SocketAddr> {
        Url::parse(&fill(&self.url, Values::SAMPLE))?.resolve()
    }

    /// Whether a text, such as a placeholder, is somewhere in it.
    pub(crate) fn contains(&self, text: &str) -> bool {
        let others = self.headers.iter().chain(&self.body);
        self.url.contains(text) || others.into_iter().any(|part| part.contains(text))
    }

    /// Appends the whole request, to `url` where one is given in place of its own. A last event id is sent as
    /// a header.
    pub(crate) fn request(&self, url: Option<&str>, values: Values<'_>, into: &mut Vec<u8>) -> Outcome<()> {
        let url = Url::parse(&fill(url.unwrap_or(&self.url), values))?;
        let text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, url.path, url.authority);
        into.extend_from_slice(text.as_bytes());
        for header in &self.headers {
            into.extend_from_slice(fill(header, values).as_bytes());
            into.extend_from_slice(b"\r\n");
        }
        if !values.last_event_id.is_empty() {
            into.extend_from_slice(b"Last-Event-ID: ");
            into.extend_from_slice(values.last_event_id);
            into.extend_from_slice(b"\r\n");
        }
        let body = self.body.as_ref().map(|body| fill(body, values)).unwrap_or_default();
        if self.body.is_some() || self.method != "GET" {
            into.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        into.extend_from_slice(b"\r\n");
        into.extend_from_slice(body.as_bytes());
        Ok(())
    }
}

/// A kind of server whose URLs are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dialect {
    /// GET {url}/events?topic={topic}; POST {url}/events as JSON
    #[default]
    Fanfare,
    /// GET {url}/sub/{topic}; POST {url}/pub/{topic} with the data as the body
    Nchan,
    /// GET and POST {url}/.well-known/mercure; a publisher's token goes into --publish-header
    Mercure,
    /// PUT, POST {url}/{topic}; GET {url}/{topic}?offset=now&live=sse
    DurableStreams,
    /// GET {url}/{topic} (your backend answers with a GRIP hold); POST http://127.0.0.1:5561/publish/
    Pushpin,
    /// GET {url}/connection/uni_sse?cf_connect=...; POST {url}/api/publish; its API key goes into
    /// --publish-header
    Centrifugo,
    /// GET {url}/events/{topic}; POST the same with the data as the body: the built-in baselines
    Plain,
}

/// How a server is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct RequestTemplates {
    /// Asked once per topic before the first subscription.
    pub(crate) prepare: Option<Template>,
    pub(crate) subscribe: Template,
    pub(crate) publish: Template,
}

impl Dialect {
    /// The templates for a server at `url`.
    pub(crate) fn templates(self, url: &str) -> RequestTemplates {
        let base = url.trim_end_matches('/');
        let template = |method: &str, url: String, headers: &[&str], body: Option<&str>| Template {
            method: method.to_owned(),
            url,
            headers: headers.iter().map(|header| (*header).to_owned()).collect(),
            body: body.map(str::to_owned),
        };
        let get = |url: String| template("GET", url, &["Accept: text/event-stream"], None);
        let text = "Content-Type: text/plain";
        let (subscribe, publish) = match self {
            Dialect::Fanfare => (
                get(format!("{base}/events?topic={{topics:&topic=}}")),
                template(
                    "POST",
                    format!("{base}/events"),
                    &["Content-Type: application/json"],
                    Some(r#"{"topic":"{topic}","data":"{data:json}"}"#),
                ),
            ),
            Dialect::Nchan => (
                get(format!("{base}/sub/{{topic}}")),
                template("POST", format!("{base}/pub/{{topic}}"), &[text], Some("{data}")),
            ),
            Dialect::Mercure => (
                get(format!("{base}/.well-known/mercure?topic={{topics:&topic=}}")),
                template(
                    "POST",
                    format!("{base}/.well-known/mercure"),
                    &["Content-Type: application/x-www-form-urlencoded"],
                    Some("topic={topic}&data={data:url}"),
                ),
            ),
            Dialect::DurableStreams => (
                get(format!("{base}/{{topic}}?offset=now&live=sse")),
                template("POST", format!("{base}/{{topic}}"), &[text], Some("{data}")),
            ),
            Dialect::Pushpin => (
                get(format!("{base}/{{topic}}")),
                template(
                    "POST",
                    "http://127.0.0.1:5561/publish/".to_owned(),
                    &["Content-Type: application/json"],
                    Some(
                        r#"{"items":[{"channel":"{topic}","formats":{"http-stream":{"content":"data: {data}\n\n"}}}]}"#,
                    ),
                ),
            ),
            Dialect::Centrifugo => (
                // {"subs":{"TOPIC":{}}}
                get(format!(
                    "{base}/connection/uni_sse?cf_connect=%7B%22subs%22%3A%7B%22{{topics:%22%3A%7B%7D%2C%22}}%22%3A%7B%7D%7D%7D"
                )),
                template(
                    "POST",
                    format!("{base}/api/publish"),
                    &["Content-Type: application/json"],
                    Some(r#"{"channel":"{topic}","data":"{data:json}"}"#),
                ),
            ),
            Dialect::Plain => (
                get(format!("{base}/events/{{topic}}")),
                template("POST", format!("{base}/events/{{topic}}"), &[text], Some("{data}")),
            ),
        };
        let prepare = (self == Dialect::DurableStreams)
            .then(|| template("PUT", format!("{base}/{{topic}}"), &[text], None));
        RequestTemplates { prepare, subscribe, publish }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_wrong_ones_named() {
        let url = Url::parse("http://[::1]:8080?x=1").unwrap();
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("[::1]:8080", "/?x=1"));
        assert_eq!(Url::parse("http://localhost:1").unwrap().path, "/");
        let secure = Url::parse("https://a.example/b").unwrap();
        assert_eq!(secure.tls_name().unwrap().unwrap().to_str(), "a.example");
        assert_eq!(Url::parse("https://[::1]:8").unwrap().tls_name().unwrap().unwrap().to_str(), "::1");
        assert_eq!(url.tls_name().unwrap(), None);
        for wrong in ["a:80", "http://", "ftp://a/"] {
            assert!(Url::parse(wrong).unwrap_err().to_string().contains("http://host"), "{wrong}");
        }
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let mut request = Vec::new();
        let templates = Dialect::Fanfare.templates("http://h:1/");
        templates
            .publish
            .request(
                None,
                Values { topic: "a", data: "{seq}", sequence: 3, ..Values::default() },
                &mut request,
            )
            .unwrap();
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("POST /events HTTP/1.1\r\nHost: h:1\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 28\r\n\r\n{\"topic\":\"a\",\"data\":\"{seq}\"}"), "{text}");
    }

    #[test]
    fn of_several_addresses_the_one_is_taken_at_which_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connect = |addresses: &[SocketAddr]| {
            connect_to_one_of(addresses.iter().copied(), Duration::from_secs(1))
                .and_then(|socket| socket.peer_addr())
                .map_err(|error| error.kind())
        };
        assert_eq!(connect(&[gone, address]), Ok(address));
        assert_eq!(connect(&[gone]), Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(connect(&[]), Err(io::ErrorKind::NotFound));
        assert_eq!(one_of(&[gone, address]), Some(address));
        assert_eq!((one_of(&[gone]), one_of(&[])), (Some(gone), None));
        // Where nobody listens any more, the address is still one of the host's.
        drop(listener);
        assert_eq!(one_of(&[gone, address]), Some(gone));
        let url = Url::parse(&format!("http://localhost:{}/", address.port())).unwrap();
        assert_eq!(url.resolve().unwrap().port(), address.port());
    }

    #[test]
    fn a_last_event_id_is_escaped_where_the_template_says_so() {
        let template = Template {
            method: "POST".to_owned(),
            url: "http://h/?a={last_event_id:url}".to_owned(),
            headers: Vec::new(),
            body: Some(r#""{last_event_id:json}" {last_event_id}"#.to_owned()),
        };
        let values = Values { last_event_id: "a&\"\u{e9}".as_bytes(), ..Values::default() };
        let mut request = Vec::new();
        template.request(None, values, &mut request).unwrap();
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("POST /?a=a%26%22%C3%A9 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n\"a&\\\"\u{e9}\" a&\"\u{e9}"), "{text}");
    }

    #[test]
    fn centrifugo_is_asked_for_the_topic_in_json_in_the_query() {
        let templates = Dialect::Centrifugo.templates("http://h:1");
        let values = Values { topic: "load-7", data: "x", ..Values::default() };
        let mut request = Vec::new();
        templates.subscribe.request(None, values, &mut request).unwrap();
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let asked = "/connection/uni_sse?cf_connect=%7B%22subs%22%3A%7B%22load-7%22%3A%7B%7D%7D%7D ";
        assert!(text.contains(asked), "{text}");
        templates.publish.request(None, values, &mut request).unwrap();
        let text = String::from_utf8(request).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, serde_json::json!({ "channel": "load-7", "data": "x" }));
    }

    #[test]
    fn every_dialect_makes_requests_that_pass_the_check() {
        for dialect in Dialect::value_variants() {
            let templates = dialect.templates("http://127.0.0.1:9");
            templates.subscribe.check().unwrap();
            templates.publish.check().unwrap();
        }
        let mut wrong = Dialect::Plain.templates("http://127.0.0.1:9").publish;
        wrong.headers.push("no header".to_owned());
        assert!(wrong.check().unwrap_err().to_string().contains("Name: value"));
    }
}
