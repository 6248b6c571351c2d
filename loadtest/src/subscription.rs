//! What each subscriber asks, and whom: the template, filled for it.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::failure::{Failure, Outcome};
use crate::target::{Template, Url, Values};

/// A list of values has at most so many bytes.
const FILE_BYTES: u64 = 1 << 30;

/// The requests of all subscribers.
pub(crate) struct Subscriptions {
    template: Template,
    names: Arc<Vec<String>>,
    /// Of the template's URL; `None`: it is asked without TLS.
    tls_name: Option<ServerName<'static>>,
    /// URLs in place of the template's, for the subscribers in turn.
    urls: Vec<OwnUrl>,
    /// What `{value}` stands for, for the subscribers in turn.
    values: Vec<String>,
    /// Where to connect; with URLs of their own each has one, else the subscribers take them in turn.
    targets: Vec<SocketAddr>,
}

/// A URL that only some subscribers ask.
struct OwnUrl {
    text: String,
    /// The place of its address.
    target: usize,
    tls_name: Option<ServerName<'static>>,
}

/// URLs and values of the subscribers, in turn.
#[derive(Clone, Default)]
pub(crate) struct Lists {
    pub(crate) urls: Option<Vec<String>>,
    pub(crate) values: Option<Vec<String>>,
}

impl Lists {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read or is empty.
    pub(crate) fn read(urls: Option<&Path>, values: Option<&Path>) -> Outcome<Lists> {
        Ok(Lists {
            urls: urls.map(|path| lines_of("--subscribe-urls", path)).transpose()?,
            values: values.map(|path| lines_of("--values", path)).transpose()?,
        })
    }
}

/// What the requests are made of.
#[cfg(test)]
pub(crate) struct Sources<'a> {
    pub(crate) template: &'a Template,
    pub(crate) names: &'a Arc<Vec<String>>,
    /// A file with a URL on each line.
    pub(crate) urls: Option<&'a Path>,
    /// A file with a value on each line.
    pub(crate) values: Option<&'a Path>,
    /// Where to connect in place of the host of the URL.
    pub(crate) connect_to: &'a [String],
}

impl Subscriptions {
    /// Reads the files, and goes on as [`Self::of`].
    #[cfg(test)]
    fn new(sources: &Sources<'_>) -> Outcome<Subscriptions> {
        let lists = Lists::read(sources.urls, sources.values)?;
        Subscriptions::of(sources.template, sources.names, lists, sources.connect_to)
    }

    /// Looks up the hosts, and tries one request. `connect_to` is where to connect in place of the host of
    /// the URL.
    ///
    /// # Errors
    /// A URL is none, or a host is not known.
    pub(crate) fn of(
        template: &Template,
        names: &Arc<Vec<String>>,
        lists: Lists,
        connect_to: &[String],
    ) -> Outcome<Subscriptions> {
        let has_values = lists.values.is_some();
        let mut subscriptions = Subscriptions {
            template: template.clone(),
            names: names.clone(),
            tls_name: template.tls_name()?,
            urls: Vec::new(),
            values: lists.values.unwrap_or_default(),
            targets: Vec::new(),
        };
        let asks_for_values = subscriptions.template.contains("{value}");
        if asks_for_values != has_values {
            let text = if asks_for_values {
                "the subscription has {value} in it: give a file of them with --values"
            } else {
                "--values: the subscription has no {value} in its URL, headers or body"
            };
            return Err(Failure::new(text));
        }
        for address in connect_to {
            let url = Url::parse(&format!("http://{address}/"))
                .map_err(|_| Failure::new(format!("--connect-to {address}: write host:port")))?;
            subscriptions.targets.push(url.resolve()?);
        }
        let has_targets = !subscriptions.targets.is_empty();
        let mut known: HashMap<String, usize> = HashMap::new();
        for url in lists.urls.unwrap_or_default() {
            let parsed = Url::parse(&url)?;
            let tls_name = parsed.tls_name()?;
            let target = match known.get(&parsed.authority) {
                _ if has_targets => subscriptions.urls.len() % subscriptions.targets.len(),
                Some(&target) => target,
                None => {
                    subscriptions.targets.push(parsed.resolve()?);
                    known.insert(parsed.authority, subscriptions.targets.len() - 1);
                    subscriptions.targets.len() - 1
                }
            };
            subscriptions.urls.push(OwnUrl { text: url, target, tls_name });
        }
        if subscriptions.targets.is_empty() {
            subscriptions.targets.push(subscriptions.template.address()?);
        }
        // Tried once here, so that the threads can rely on it.
        subscriptions.request(0, &[0], &[], &mut Vec::new())?;
        Ok(subscriptions)
    }

    /// All addresses that are connected to.
    pub(crate) fn targets(&self) -> &[SocketAddr] {
        &self.targets
    }

    /// Where a subscriber connects.
    pub(crate) fn target(&self, subscriber: usize) -> SocketAddr {
        match self.url_of(subscriber) {
            Some(url) => self.targets[url.target],
            None => self.targets[subscriber % self.targets.len()],
        }
    }

    /// The name that the certificate of a subscriber's server has to have; `None`: it is asked without TLS.
    pub(crate) fn tls_name(&self, subscriber: usize) -> Option<&ServerName<'static>> {
        self.url_of(subscriber).map_or(self.tls_name.as_ref(), |url| url.tls_name.as_ref())
    }

    fn url_of(&self, subscriber: usize) -> Option<&OwnUrl> {
        self.urls.get(subscriber % self.urls.len().max(1))
    }

    /// Appends the whole request of a subscriber for its topics.
    ///
    /// # Errors
    /// The filled URL is none.
    pub(crate) fn request(
        &self,
        subscriber: usize,
        topics: &[u32],
        last_event_id: &[u8],
        into: &mut Vec<u8>,
    ) -> Outcome<()> {
        let names: Vec<&str> = topics.iter().map(|&topic| self.names[topic as usize].as_str()).collect();
        let values = Values {
            topic: names.first().copied().unwrap_or(""),
            topics: &names,
            subscriber,
            value: self.values.get(subscriber % self.values.len().max(1)).map_or("", String::as_str),
            last_event_id,
            ..Values::default()
        };
        let url = self.url_of(subscriber).map(|url| url.text.as_str());
        self.template.request(url, values, into)
    }
}

/// The lines of a file that are not empty.
fn lines_of(option: &str, path: &Path) -> Outcome<Vec<String>> {
    let failed = |text: String| Failure::new(format!("{option} {}: {text}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    // A pipe and a device have no length that could be looked at.
    let mut text = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES {
        return Err(failed("it is larger than 1 GiB".to_owned()));
    }
    let text = String::from_utf8(text).map_err(|_| failed("it is not UTF-8".to_owned()))?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(failed("it has no lines".to_owned())) } else { Ok(lines) }
}

/// Headers as they were given: one, or with `@FILE` those of a file, one on each line.
///
/// # Errors
/// A file cannot be read, or is empty.
pub(crate) fn headers(option: &str, given: &[String]) -> Outcome<Vec<String>> {
    let mut headers = Vec::new();
    for header in given {
        match header.strip_prefix('@') {
            Some(path) => headers.extend(lines_of(option, Path::new(path))?),
            None => headers.push(header.clone()),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("fanfare-load-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn text_of(subscriptions: &Subscriptions, subscriber: usize, topics: &[u32]) -> String {
        let mut request = Vec::new();
        subscriptions.request(subscriber, topics, b"7", &mut request).unwrap();
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn each_subscriber_has_a_url_and_a_value_of_its_own() {
        let urls = file("urls", "http://127.0.0.1:81/a?s={subscriber}\n\nhttp://127.0.0.2:82/b/{topics:,}\n");
        let values = file("values", "Ann\nBob\nCyd\n");
        let template = Template {
            method: "POST".to_owned(),
            url: "http://h/".to_owned(),
            headers: vec!["Authorization: Bearer {value}".to_owned()],
            body: Some("{\"after\":\"{last_event_id}\"}".to_owned()),
        };
        let names = Arc::new(vec!["x".to_owned(), "y".to_owned()]);
        let sources = Sources {
            template: &template,
            names: &names,
            urls: Some(&urls),
            values: Some(&values),
            connect_to: &[],
        };
        let subscriptions = Subscriptions::new(&sources).unwrap();
        let first = text_of(&subscriptions, 2, &[0]);
        assert!(first.starts_with("POST /a?s=2 HTTP/1.1\r\nHost: 127.0.0.1:81\r\n"), "{first}");
        assert!(first.contains("Bearer Cyd\r\nLast-Event-ID: 7\r\nContent-Length: 13\r\n"), "{first}");
        assert!(first.ends_with("\r\n\r\n{\"after\":\"7\"}"), "{first}");
        let second = text_of(&subscriptions, 3, &[0, 1]);
        assert!(second.starts_with("POST /b/x,y HTTP/1.1\r\nHost: 127.0.0.2:82\r\n"), "{second}");
        assert_eq!(subscriptions.target(3).to_string(), "127.0.0.2:82");
        assert_eq!(subscriptions.target(4).to_string(), "127.0.0.1:81");

        let elsewhere = ["127.0.0.9:9".to_owned(), "127.0.0.9:10".to_owned(), "127.0.0.9:11".to_owned()];
        let subscriptions =
            Subscriptions::new(&Sources { connect_to: &elsewhere, urls: None, ..sources }).unwrap();
        assert_eq!(subscriptions.target(4).to_string(), "127.0.0.9:10");
        for path in [urls, values] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_files_is_said() {
        let template = Template {
            method: "GET".to_owned(),
            url: "http://127.0.0.1:1/{value}".to_owned(),
            headers: Vec::new(),
            body: None,
        };
        let names = Arc::new(vec!["x".to_owned()]);
        let sources =
            Sources { template: &template, names: &names, urls: None, values: None, connect_to: &[] };
        let told = |sources: &Sources<'_>| Subscriptions::new(sources).err().unwrap().to_string();
        assert!(told(&sources).contains("--values"));
        let nowhere = Path::new("/nowhere");
        assert!(told(&Sources { values: Some(nowhere), ..sources }).contains("--values /nowhere"));
        let empty = file("empty", "\n\n");
        let values = file("one", "a\n");
        let sources = Sources { values: Some(&values), ..sources };
        assert!(told(&Sources { urls: Some(&empty), ..sources }).contains("no lines"));
        let nonsense = ["no port".to_owned()];
        assert!(told(&Sources { connect_to: &nonsense, ..sources }).contains("--connect-to"));
        std::fs::remove_file(empty).unwrap();
        std::fs::remove_file(values).unwrap();
        let given = ["A: b".to_owned(), "@/nowhere".to_owned()];
        assert!(headers("--subscribe-header", &given).unwrap_err().to_string().contains("/nowhere"));
    }
}
