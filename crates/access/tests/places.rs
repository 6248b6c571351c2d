//! Where tokens are found, and what logs show of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use fanfare_access::{AccessError, Place, TokenPlaces, redact_query, redact_target};

type Found = Result<Option<(&'static str, Place)>, &'static str>;

struct Row {
    name: &'static str,
    headers: &'static [(&'static str, &'static [u8])],
    query: Option<&'static str>,
    expected: Found,
}

const HEADER: Found = Ok(Some(("a.b.c", Place::Header)));
const COOKIE: Found = Ok(Some(("a.b.c", Place::Cookie)));
const QUERY: Found = Ok(Some(("a.b.c", Place::Query)));

const fn row(
    name: &'static str,
    headers: &'static [(&'static str, &'static [u8])],
    query: Option<&'static str>,
    expected: Found,
) -> Row {
    Row { name, headers, query, expected }
}

/// The cookie is `auth`, and the query is switched on.
const ROWS: [Row; 46] = [
    row("nothing", &[], None, Ok(None)),
    row("bearer", &[("authorization", b"Bearer a.b.c")], None, HEADER),
    row("another case", &[("AUTHORIZATION", b"bEaReR a.b.c")], None, HEADER),
    row("several spaces", &[("authorization", b"Bearer   a.b.c  ")], None, HEADER),
    row("padding", &[("authorization", b"Bearer a==")], None, Ok(Some(("a==", Place::Header)))),
    row("a tab between", &[("authorization", b"Bearer\ta.b.c")], None, Ok(None)),
    row("no token behind", &[("authorization", b"Bearer")], None, Err("malformed")),
    row("only spaces behind", &[("authorization", b"Bearer  ")], None, Err("malformed")),
    row("two words", &[("authorization", b"Bearer a b")], None, Err("malformed")),
    row("a comma", &[("authorization", b"Bearer a, Bearer b")], None, Err("malformed")),
    row("parameters", &[("authorization", b"Bearer token=\"a\"")], None, Err("malformed")),
    row("not ASCII", &[("authorization", b"Bearer \xff\xfe")], None, Err("malformed")),
    row("basic", &[("authorization", b"Basic dTpw")], None, Ok(None)),
    row("an empty header", &[("authorization", b"")], None, Ok(None)),
    row("a longer scheme", &[("authorization", b"Bearers a.b.c")], None, Ok(None)),
    row("two equal headers", &[("authorization", b"Bearer a"), ("Authorization", b"Bearer a")], None, {
        Ok(Some(("a", Place::Header)))
    }),
    row(
        "two different headers",
        &[("authorization", b"Bearer a"), ("authorization", b"Bearer b")],
        None,
        Err("conflict"),
    ),
    row("basic and a cookie", &[("authorization", b"Basic dTpw"), ("cookie", b"auth=a.b.c")], None, COOKIE),
    row("a cookie", &[("cookie", b"auth=a.b.c")], None, COOKIE),
    row("among others", &[("Cookie", b"x=1; auth=a.b.c; y=2")], None, COOKIE),
    row("no spaces", &[("cookie", b"x=1;auth=a.b.c;y=2")], None, COOKIE),
    row("many spaces", &[("cookie", b"  x = 1 ;  auth = a.b.c  ")], None, COOKIE),
    row("quotes", &[("cookie", b"auth=\"a.b.c\"")], None, COOKIE),
    row("one quote", &[("cookie", b"auth=\"a.b.c")], None, Err("malformed")),
    row("a cookie in another case", &[("cookie", b"Auth=a.b.c")], None, Ok(None)),
    row("a longer name", &[("cookie", b"xauth=a; authx=b")], None, Ok(None)),
    row("an empty cookie", &[("cookie", b"auth=")], None, Ok(None)),
    row("empty quotes", &[("cookie", b"auth=\"\"")], None, Ok(None)),
    row("an empty one and a good one", &[("cookie", b"auth=; auth=a.b.c")], None, COOKIE),
    row("two equal cookies", &[("cookie", b"auth=a.b.c; auth=a.b.c")], None, COOKIE),
    row("two different cookies", &[("cookie", b"auth=a; auth=b")], None, Err("conflict")),
    row("in two headers", &[("cookie", b"auth=a"), ("cookie", b"auth=b")], None, Err("conflict")),
    row("pieces that are no pairs", &[("cookie", b";;auth;=;=x; auth=a.b.c;")], None, COOKIE),
    row("an equals sign in the value", &[("cookie", b"auth=a==")], None, Ok(Some(("a==", Place::Cookie)))),
    row("a space in the value", &[("cookie", b"auth=a b")], None, Err("malformed")),
    row("other cookies are not UTF-8", &[("cookie", b"x=\xff; auth=a.b.c")], None, COOKIE),
    row("the query", &[], Some("topic=a&access_token=a.b.c"), QUERY),
    row("an escaped query", &[], Some("access%5Ftoken=a%2Eb.c"), QUERY),
    row("an empty query", &[], Some("access_token="), Ok(None)),
    row("a query in another case", &[], Some("Access_Token=a"), Ok(None)),
    row("two different in the query", &[], Some("access_token=a&access_token=b"), Err("conflict")),
    row("a line end in the query", &[], Some("access_token=a%0d%0ab"), Err("malformed")),
    row("all the same", &[("authorization", b"Bearer a"), ("cookie", b"auth=a")], Some("access_token=a"), {
        Ok(Some(("a", Place::Header)))
    }),
    row("header and cookie", &[("authorization", b"Bearer a"), ("cookie", b"auth=b")], None, Err("conflict")),
    row("cookie and query", &[("cookie", b"auth=b")], Some("access_token=a"), Err("conflict")),
    row("header and query", &[("authorization", b"Bearer a")], Some("access_token=b"), Err("conflict")),
];

#[test]
fn every_request_of_the_table_has_its_token() {
    let mut places = TokenPlaces::default();
    places.cookie = Some("auth".to_owned());
    places.query = true;
    for row in &ROWS {
        let found = places.find(row.headers.iter().copied(), row.query);
        let seen = found.as_ref().map_err(AccessError::name);
        let seen = seen.map(|found| found.as_ref().map(|found| (found.as_str(), found.place())));
        assert_eq!(seen, row.expected, "{}", row.name);
    }
}

#[test]
fn cookie_and_query_are_ignored_unless_they_are_switched_on() {
    let headers: [(&str, &[u8]); 1] = [("cookie", b"auth=a; auth=b")];
    let found = TokenPlaces::default().find(headers, Some("access_token=c&access_token=d"));
    assert_eq!(found, Ok(None));
}

#[test]
fn a_found_token_does_not_show_itself() {
    let headers: [(&str, &[u8]); 1] = [("authorization", b"Bearer secret.secret.secret")];
    let found = TokenPlaces::default().find(headers, None).unwrap().unwrap();
    assert_eq!(found.as_str(), "secret.secret.secret");
    assert!(!format!("{found:?}").contains("secret"));
}

#[test]
fn logs_show_no_token_of_a_query() {
    let table = [
        ("", ""),
        ("topic=a&last_event_id=b", "topic=a&last_event_id=b"),
        ("access_token=x", "access_token=REDACTED"),
        ("a=1&access_token=x&b=2", "a=1&access_token=REDACTED&b=2"),
        ("access_token=x&access_token=y", "access_token=REDACTED&access_token=REDACTED"),
        ("access%5Ftoken=x", "access%5Ftoken=REDACTED"),
        ("ACCESS_TOKEN=x", "ACCESS_TOKEN=REDACTED"),
        ("topic=a&expires=9&signature=x", "topic=a&expires=9&signature=REDACTED"),
        ("authorization=x", "authorization=REDACTED"),
        ("access_token=", "access_token="),
        ("access_token", "access_token"),
        ("access_token=x=y", "access_token=REDACTED"),
        ("&&access_token=x&&", "&&access_token=REDACTED&&"),
        ("xaccess_token=x", "xaccess_token=x"),
    ];
    for (query, expected) in table {
        assert_eq!(redact_query(query), expected, "{query}");
    }
    assert_eq!(redact_target("/events?access_token=x&topic=a"), "/events?access_token=REDACTED&topic=a");
    assert_eq!(redact_target("/events?topic=a"), "/events?topic=a");
    assert_eq!(redact_target("/events"), "/events");
}
