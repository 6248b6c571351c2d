//! Which web pages may read and publish: cross-origin rules (Fetch standard, "CORS protocol").

use fanfare::RequestHead;

/// What web pages of other origins may read of an answer's head, beside what the standard lets every web page
/// read: a client that reads streams with `fetch` learns of a gap there.
const EXPOSED: &str = "Fanfare-Gap";

/// The origins that are allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    origins: Vec<String>,
    any: bool,
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'r> {
    /// It names no origin, or its own: nothing to add.
    SameOrigin,
    /// This web page may, with credentials.
    Listed(&'r str),
    /// Any web page may, without credentials.
    Any,
    /// This web page may not.
    Refused,
}

impl Cors {
    /// `*` among the origins allows every web page, without credentials.
    pub(crate) fn new(origins: &[String]) -> Cors {
        let any = origins.iter().any(|origin| origin == "*");
        Cors { origins: origins.iter().filter(|origin| *origin != "*").cloned().collect(), any }
    }

    pub(crate) fn judge<'r>(&self, origin: Option<&'r [u8]>, host: Option<&str>) -> Verdict<'r> {
        let Some(origin) = origin else { return Verdict::SameOrigin };
        let Ok(origin) = std::str::from_utf8(origin) else { return Verdict::Refused };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        // `Origin: null` has no authority: it is refused unless it is listed.
        if authority.is_some() && authority == host {
            return Verdict::SameOrigin;
        }
        let same_loopback =
            authority.zip(host).is_some_and(|(origin, host)| are_loopback_aliases(origin, host));
        if same_loopback || self.origins.iter().any(|listed| listed == origin) {
            Verdict::Listed(origin)
        } else if self.any && origin != "null" {
            Verdict::Any
        } else {
            Verdict::Refused
        }
    }

    /// The response fields for this request. Where the answer depends on the origin it says so to every
    /// client: a cache must not give the answer for one web page to another (Fetch standard, "CORS protocol
    /// and HTTP caches").
    pub(crate) fn fields(&self, origin: Option<&[u8]>, host: Option<&str>) -> Vec<(&'static str, String)> {
        match self.judge(origin, host) {
            Verdict::SameOrigin | Verdict::Refused if self.any => Vec::new(),
            Verdict::SameOrigin | Verdict::Refused => vec![("Vary", "Origin".to_owned())],
            Verdict::Any => vec![
                ("Access-Control-Allow-Origin", "*".to_owned()),
                ("Access-Control-Expose-Headers", EXPOSED.to_owned()),
            ],
            Verdict::Listed(origin) => vec![
                ("Access-Control-Allow-Origin", origin.to_owned()),
                ("Access-Control-Allow-Credentials", "true".to_owned()),
                ("Access-Control-Expose-Headers", EXPOSED.to_owned()),
                ("Vary", "Origin".to_owned()),
            ],
        }
    }

    pub(crate) fn fields_for(&self, request: &RequestHead<'_>) -> Vec<(&'static str, String)> {
        self.fields(request.origin(), request.host())
    }
}

/// Both are loopback names of this machine with the same port: the same server by another name.
fn are_loopback_aliases(one: &str, other: &str) -> bool {
    let split = |authority: &str| {
        let (name, port) = authority.rsplit_once(':')?;
        ["127.0.0.1", "localhost", "[::1]"].contains(&name).then(|| port.to_owned())
    };
    split(one).is_some() && split(one) == split(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge<'r>(cors: &Cors, origin: &'r str, host: &str) -> Verdict<'r> {
        cors.judge(Some(origin.as_bytes()), Some(host))
    }

    #[test]
    fn listed_origins_and_loopback_aliases_get_credentials() {
        let cors = Cors::new(&["https://app.example".to_owned()]);
        assert_eq!(cors.judge(None, Some("h:1")), Verdict::SameOrigin);
        assert_eq!(judge(&cors, "http://h:1", "h:1"), Verdict::SameOrigin);
        assert_eq!(judge(&cors, "https://app.example", "h:1"), Verdict::Listed("https://app.example"));
        let alias = "http://localhost:8844";
        assert_eq!(judge(&cors, alias, "127.0.0.1:8844"), Verdict::Listed(alias));
        assert_eq!(judge(&cors, alias, "127.0.0.1:8845"), Verdict::Refused);
        assert_eq!(judge(&cors, alias, "push.example:8844"), Verdict::Refused);
        assert_eq!(judge(&cors, "https://app.example.evil", "h:1"), Verdict::Refused);
        assert_eq!(judge(&cors, "null", "h:1"), Verdict::Refused);
    }

    #[test]
    fn a_star_allows_every_page_but_never_with_credentials_and_never_null() {
        let cors = Cors::new(&["*".to_owned()]);
        assert_eq!(judge(&cors, "https://x.example", "h:1"), Verdict::Any);
        assert_eq!(judge(&cors, "null", "h:1"), Verdict::Refused);
        let listed = Cors::new(&["null".to_owned()]);
        assert_eq!(judge(&listed, "null", "h:1"), Verdict::Listed("null"));
    }
}
