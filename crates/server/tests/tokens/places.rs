//! Where a request may have its token, and what counts when it has several. Each row is asked by a subscriber
//! and by a publisher whose request has an `Origin` of the server's own.

use serde_json::json;

use super::case::Case;
use super::case::Outcome::{self, CookieFromElsewhere, Granted, Refused, Status};
use super::keys::{Keys, PUBLISHERS, SUBSCRIBERS};

/// Which places the server looks at, besides the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    Header,
    Cookie,
    Query,
    All,
}

impl Places {
    pub(crate) const ALL: [Places; 4] = [Places::Header, Places::Cookie, Places::Query, Places::All];

    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Places::Header => &[],
            Places::Cookie => &["--token-cookie", "fanfare"],
            Places::Query => &["--token-in-query"],
            Places::All => &["--token-cookie", "fanfare", "--token-in-query"],
        }
    }
}

/// A row: its name, the query, the header fields, and the answer. `GOOD` and `OTHER` stand for good tokens,
/// and `OLD` for one that has expired.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], Outcome);

const AUTH: &str = "Authorization";
const COOKIE: &str = "Cookie";

const HEADER: &[Row] = &[
    ("no token", "", &[], Refused("missing")),
    ("Bearer", "", &[(AUTH, "Bearer GOOD")], Granted),
    ("bearer in lower case", "", &[(AUTH, "bearer GOOD")], Granted),
    ("BEARER in upper case", "", &[(AUTH, "BEARER GOOD")], Granted),
    ("bEaReR", "", &[(AUTH, "bEaReR GOOD")], Granted),
    ("authorization in lower case", "", &[("authorization", "Bearer GOOD")], Granted),
    ("three spaces behind Bearer", "", &[(AUTH, "Bearer   GOOD")], Granted),
    ("white space around the credentials", "", &[(AUTH, "  Bearer GOOD \t")], Granted),
    ("a tab behind Bearer", "", &[(AUTH, "Bearer\tGOOD")], Refused("missing")),
    ("no space behind Bearer", "", &[(AUTH, "BearerGOOD")], Refused("missing")),
    ("a colon behind Bearer", "", &[(AUTH, "Bearer: GOOD")], Refused("missing")),
    ("Bearer alone", "", &[(AUTH, "Bearer")], Refused("malformed")),
    ("Bearer and a space", "", &[(AUTH, "Bearer ")], Refused("malformed")),
    ("an empty header", "", &[(AUTH, "")], Refused("missing")),
    ("the token without Bearer", "", &[(AUTH, "GOOD")], Refused("missing")),
    ("Basic", "", &[(AUTH, "Basic YWRhOnNlY3JldA==")], Refused("missing")),
    ("Token", "", &[(AUTH, "Token GOOD")], Refused("missing")),
    ("Basic and Bearer", "", &[(AUTH, "Basic YWRhOnNlY3JldA=="), (AUTH, "Bearer GOOD")], Granted),
    ("Bearer twice", "", &[(AUTH, "Bearer GOOD"), (AUTH, "Bearer GOOD")], Granted),
    ("two tokens", "", &[(AUTH, "Bearer GOOD"), (AUTH, "Bearer OTHER")], Refused("conflict")),
    ("two tokens, one old", "", &[(AUTH, "Bearer OLD"), (AUTH, "Bearer GOOD")], Refused("conflict")),
    ("two tokens in one field", "", &[(AUTH, "Bearer GOOD, Bearer OTHER")], Refused("malformed")),
    ("text behind the token", "", &[(AUTH, "Bearer GOOD extra")], Refused("malformed")),
    ("a comma behind the token", "", &[(AUTH, "Bearer GOOD,")], Refused("malformed")),
    ("quotes around the token", "", &[(AUTH, "Bearer \"GOOD\"")], Refused("malformed")),
    ("a byte beyond ASCII", "", &[(AUTH, "Bearer GOOD\u{e4}")], Refused("malformed")),
    ("a tab behind the token", "", &[(AUTH, "Bearer GOOD\tx")], Refused("malformed")),
    ("a control character", "", &[(AUTH, "Bearer GOOD\u{1}")], Status(400)),
    ("a NUL", "", &[(AUTH, "Bearer GOOD\u{0}")], Status(400)),
    ("a CR", "", &[(AUTH, "Bearer GOOD\rX-A: b")], Status(400)),
    ("a continued line", "", &[(AUTH, "Bearer\r\n GOOD")], Status(400)),
    ("Proxy-Authorization", "", &[("Proxy-Authorization", "Bearer GOOD")], Refused("missing")),
    ("X-Access-Token", "", &[("X-Access-Token", "GOOD")], Refused("missing")),
    // What is not switched on is not looked at, also where it differs.
    ("a cookie that is not switched on", "", &[(COOKIE, "fanfare=GOOD")], Refused("missing")),
    ("a query that is not switched on", "access_token=GOOD", &[], Refused("missing")),
    (
        "a good header and other places",
        "access_token=OTHER",
        &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=OTHER")],
        Granted,
    ),
];

const COOKIES: &[Row] = &[
    ("no cookie", "", &[], Refused("missing")),
    ("the cookie", "", &[(COOKIE, "fanfare=GOOD")], Granted),
    ("between others", "", &[(COOKIE, "theme=dark; fanfare=GOOD; b=c=d")], Granted),
    ("without spaces", "", &[(COOKIE, "theme=dark;fanfare=GOOD;b=c")], Granted),
    ("behind what is no pair", "", &[(COOKIE, "garbage; ; =; fanfare=GOOD")], Granted),
    ("$Version before it", "", &[(COOKIE, "$Version=1; fanfare=GOOD; $Path=/")], Granted),
    ("spaces around it", "", &[(COOKIE, "  fanfare = GOOD  ; a=b")], Granted),
    ("in quotes", "", &[(COOKIE, "fanfare=\"GOOD\"")], Granted),
    ("a quote before it", "", &[(COOKIE, "fanfare=\"GOOD")], Refused("malformed")),
    ("a quote behind it", "", &[(COOKIE, "fanfare=GOOD\"")], Refused("malformed")),
    ("quotes twice", "", &[(COOKIE, "fanfare=\"\"GOOD\"\"")], Refused("malformed")),
    ("single quotes", "", &[(COOKIE, "fanfare='GOOD'")], Refused("malformed")),
    ("a comma and another one", "", &[(COOKIE, "fanfare=GOOD, fanfare=OTHER")], Refused("malformed")),
    ("with escapes", "", &[(COOKIE, "fanfare=GOOD%20")], Refused("malformed")),
    ("a space inside", "", &[(COOKIE, "fanfare=a GOOD")], Refused("malformed")),
    ("a byte beyond ASCII", "", &[(COOKIE, "fanfare=GOOD\u{e4}")], Refused("malformed")),
    ("Bearer inside", "", &[(COOKIE, "fanfare=Bearer GOOD")], Refused("malformed")),
    ("no value", "", &[(COOKIE, "fanfare=")], Refused("missing")),
    ("no value in quotes", "", &[(COOKIE, "fanfare=\"\"")], Refused("missing")),
    ("no equals sign", "", &[(COOKIE, "fanfare")], Refused("missing")),
    ("in another case", "", &[(COOKIE, "Fanfare=GOOD")], Refused("missing")),
    ("a longer name", "", &[(COOKIE, "xfanfare=GOOD; fanfarex=GOOD")], Refused("missing")),
    ("a prefix of the name", "", &[(COOKIE, "__Host-fanfare=GOOD")], Refused("missing")),
    ("another name", "", &[(COOKIE, "token=GOOD")], Refused("missing")),
    ("in the value of another one", "", &[(COOKIE, "a=fanfare=GOOD")], Refused("missing")),
    ("twice", "", &[(COOKIE, "fanfare=GOOD; fanfare=GOOD")], Granted),
    ("once empty", "", &[(COOKIE, "fanfare=; fanfare=GOOD")], Granted),
    ("two of one name", "", &[(COOKIE, "fanfare=GOOD; fanfare=OTHER")], Refused("conflict")),
    ("two of one name, one old", "", &[(COOKIE, "fanfare=OLD; fanfare=GOOD")], Refused("conflict")),
    ("in two fields", "", &[(COOKIE, "fanfare=GOOD"), (COOKIE, "fanfare=GOOD")], Granted),
    ("two in two fields", "", &[(COOKIE, "fanfare=GOOD"), ("cookie", "fanfare=OTHER")], Refused("conflict")),
    ("an old one", "", &[(COOKIE, "fanfare=OLD")], Refused("expired")),
    ("garbage", "", &[(COOKIE, "fanfare=garbage")], Refused("malformed")),
    ("the header and the cookie", "", &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=GOOD")], Granted),
    ("another header", "", &[(AUTH, "Bearer OTHER"), (COOKIE, "fanfare=GOOD")], Refused("conflict")),
    ("an old header", "", &[(AUTH, "Bearer OLD"), (COOKIE, "fanfare=GOOD")], Refused("conflict")),
    ("a header of another scheme", "", &[(AUTH, "Basic YQ=="), (COOKIE, "fanfare=GOOD")], Granted),
    (
        "a good header and an old cookie",
        "",
        &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=OLD")],
        Refused("conflict"),
    ),
    ("the query is not switched on", "access_token=OTHER", &[(COOKIE, "fanfare=GOOD")], Granted),
];

const QUERIES: &[Row] = &[
    ("no parameter", "", &[], Refused("missing")),
    ("the parameter", "access_token=GOOD", &[], Granted),
    ("its name with an escape", "access%5Ftoken=GOOD", &[], Granted),
    ("its first character as an escape", "access_token=%65yJ", &[], Refused("malformed")),
    ("twice", "access_token=GOOD&access_token=GOOD", &[], Granted),
    ("once empty", "access_token=&access_token=GOOD", &[], Granted),
    ("two tokens", "access_token=GOOD&access_token=OTHER", &[], Refused("conflict")),
    ("no value", "access_token=", &[], Refused("missing")),
    ("no equals sign", "access_token", &[], Refused("missing")),
    ("in another case", "Access_Token=GOOD", &[], Refused("missing")),
    ("another name", "token=GOOD", &[], Refused("missing")),
    ("authorization", "authorization=Bearer+GOOD", &[], Refused("missing")),
    ("Bearer before it", "access_token=Bearer+GOOD", &[], Refused("malformed")),
    ("a space behind it", "access_token=GOOD%20", &[], Refused("malformed")),
    ("a NUL behind it", "access_token=GOOD%00", &[], Refused("malformed")),
    ("a line end behind it", "access_token=GOOD%0d%0aX-A:b", &[], Refused("malformed")),
    ("not UTF-8", "access_token=GOOD%ff", &[], Refused("malformed")),
    ("an old one", "access_token=OLD", &[], Refused("expired")),
    ("the header and the query", "access_token=GOOD", &[(AUTH, "Bearer GOOD")], Granted),
    ("another header", "access_token=GOOD", &[(AUTH, "Bearer OTHER")], Refused("conflict")),
    ("an old query", "access_token=OLD", &[(AUTH, "Bearer GOOD")], Refused("conflict")),
    ("a cookie is not switched on", "access_token=GOOD", &[(COOKIE, "fanfare=OTHER")], Granted),
];

const ALL: &[Row] = &[
    ("in all places", "access_token=GOOD", &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=GOOD")], Granted),
    ("cookie and query", "access_token=GOOD", &[(COOKIE, "fanfare=GOOD")], Granted),
    (
        "the query differs",
        "access_token=OTHER",
        &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=GOOD")],
        Refused("conflict"),
    ),
    (
        "the cookie differs",
        "access_token=GOOD",
        &[(AUTH, "Bearer GOOD"), (COOKIE, "fanfare=OTHER")],
        Refused("conflict"),
    ),
    (
        "the header differs",
        "access_token=GOOD",
        &[(AUTH, "Bearer OTHER"), (COOKIE, "fanfare=GOOD")],
        Refused("conflict"),
    ),
    ("cookie and another query", "access_token=OTHER", &[(COOKIE, "fanfare=GOOD")], Refused("conflict")),
    ("an old cookie and a good query", "access_token=GOOD", &[(COOKIE, "fanfare=OLD")], Refused("conflict")),
];

/// The rows of a server that looks at these places, as requests of both sides.
pub(crate) fn cases(places: Places) -> Vec<Case> {
    let rows = match places {
        Places::Header => HEADER,
        Places::Cookie => COOKIES,
        Places::Query => QUERIES,
        Places::All => ALL,
    };
    let mut cases = Vec::new();
    for (side, keys) in [("a subscriber", &*SUBSCRIBERS), ("a publisher", &*PUBLISHERS)] {
        let tokens = Tokens::new(keys);
        for (name, query, headers, outcome) in rows {
            let name = format!("{places:?}, {side}: {name}");
            let mut case = if side == "a subscriber" {
                Case::subscribe(name, &format!("topic=a&{}", tokens.in_text(query)), outcome.clone())
            } else {
                let mut case =
                    Case::publish(name, "a", outcome.clone()).header("Origin", "http://fanfare.test");
                case.target = format!("/events?{}", tokens.in_text(query));
                case
            };
            for (name, value) in *headers {
                case = case.header(name, tokens.in_text(value));
            }
            cases.push(tokens.all().iter().fold(case, |case, token| case.secret(token)));
        }
    }
    if places == Places::Header {
        cases.extend(sides());
    }
    if places == Places::All {
        cases.extend(origins());
    }
    cases
}

/// The token of one side on the other side, and in places that no token has.
fn sides() -> Vec<Case> {
    let (subscriber, publisher) = (Tokens::new(&SUBSCRIBERS).good, Tokens::new(&PUBLISHERS).good);
    let mut form = Case::publish("a token in a form is not looked at", "a", Refused("missing"));
    form = form.secret(&publisher);
    form.body =
        Some(("application/x-www-form-urlencoded", format!("topic=a&data=x&access_token={publisher}")));
    vec![
        Case::subscribe("a publisher's token subscribes", "topic=a", Refused("wrong_key")).bearer(&publisher),
        Case::publish("a subscriber's token publishes", "a", Refused("wrong_key")).bearer(&subscriber),
        form,
    ]
}

/// A publish that a cookie authorises, by the page that it comes from. Only a browser sends an `Origin`, and
/// a browser sends one with each POST.
fn origins() -> Vec<Case> {
    let good = Tokens::new(&PUBLISHERS).good;
    let mut cases = Vec::new();
    for (name, origin, outcome) in [
        ("no origin", None, CookieFromElsewhere),
        ("its own page", Some("http://fanfare.test"), Granted),
        ("a listed page", Some("https://app.example"), Granted),
        ("a foreign page", Some("https://evil.example"), Status(403)),
        ("a page without an origin", Some("null"), Status(403)),
        ("an empty origin", Some(""), Status(403)),
        ("a listed name with another scheme", Some("http://app.example"), Status(403)),
        ("a listed name with another port", Some("https://app.example:8443"), Status(403)),
        ("a subdomain of a listed name", Some("https://a.app.example"), Status(403)),
        ("its own name with another port", Some("http://fanfare.test:81"), Status(403)),
    ] {
        let case = |what: &str, outcome| {
            let case = Case::publish(format!("{what} from {name}"), "a", outcome).secret(&good);
            origin.into_iter().fold(case, |case, origin| case.header("Origin", origin))
        };
        cases.push(case("a cookie", outcome.clone()).header("Cookie", format!("fanfare={good}")));
        // No page can make a browser send the header without being asked whether it may.
        let by_header = if outcome == CookieFromElsewhere { Granted } else { outcome.clone() };
        cases.push(case("a header", by_header.clone()).bearer(&good));
        let mut both = case("a header and a cookie", by_header).bearer(&good);
        both = both.header("Cookie", format!("fanfare={good}"));
        cases.push(both);
        let mut end = case("the end of connections by a cookie", outcome);
        end = end.header("Cookie", format!("fanfare={good}"));
        (end.method, end.target, end.body) = ("DELETE", "/connections?subject=nobody".to_owned(), None);
        cases.push(end);
    }
    // To read is harmless: only a listed page sees the answer.
    let good = Tokens::new(&SUBSCRIBERS).good;
    for origin in ["https://app.example", "https://evil.example", "null"] {
        let name = format!("a cookie subscribes from {origin}");
        let case = Case::subscribe(name, "topic=a", Granted).secret(&good).header("Origin", origin);
        cases.push(case.header("Cookie", format!("fanfare={good}")));
    }
    cases
}

/// Tokens of one side for the topic `a`.
struct Tokens {
    good: String,
    other: String,
    old: String,
}

impl Tokens {
    fn new(keys: &Keys) -> Tokens {
        let grants = json!({ "subscribe": ["a"], "publish": ["*"] });
        let of = |subject: &str| keys.token(json!({ "sub": subject, "fanfare": grants }));
        let old = keys.token(json!({ "exp": super::now_unix_s() - 60, "fanfare": grants }));
        Tokens { good: of("one"), other: of("another"), old }
    }

    fn all(&self) -> [&str; 3] {
        [&self.good, &self.other, &self.old]
    }

    fn in_text(&self, text: &str) -> String {
        text.replace("GOOD", &self.good).replace("OTHER", &self.other).replace("OLD", &self.old)
    }
}
