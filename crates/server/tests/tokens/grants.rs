//! What grants cover: subscriptions, with and without the anonymous ones, and publishes.

use serde_json::{Value, json};

use super::case::Case;
use super::case::Outcome::{self, Granted, NotCovered, Refused};
use super::keys::{PUBLISHERS, SUBSCRIBERS};

/// What a subscription is answered where anonymous subscribers are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Private events of all its topics.
    Private,
    /// Public events only.
    Public,
    /// Private events of these topics, and public ones of all.
    Mixed(&'static [&'static str]),
}
use Sight::{Mixed, Private, Public};

/// A row: its name, the patterns of the token, the topics of the subscription as they stand in its query, the
/// first topic that is not covered, and the answer where anonymous subscribers are let in.
type Row = (&'static str, &'static [&'static str], &'static [&'static str], Option<&'static str>, Sight);

const ROWS: &[Row] = &[
    ("the exact name", &["news"], &["news"], None, Private),
    ("a longer name", &["news"], &["news2"], Some("news2"), Public),
    ("a shorter name", &["news"], &["new"], Some("new"), Public),
    ("another case", &["news"], &["News"], Some("News"), Public),
    ("a space behind it", &["news"], &["news%20"], Some("news "), Public),
    ("a slash behind it", &["news"], &["news/"], Some("news/"), Public),
    ("an escape in the query", &["news"], &["%6eews"], None, Private),
    ("an escape of an escape", &["news"], &["%256eews"], Some("%6eews"), Public),
    ("a name beyond ASCII", &["größe"], &["gr%C3%B6%C3%9Fe"], None, Private),
    ("the same letters as other code points", &["\u{f6}"], &["o%CC%88"], Some("o\u{308}"), Public),
    ("a name of a full stop", &["."], &["x"], Some("x"), Public),
    ("a name with dots is no path", &["a"], &["b/../a"], Some("b/../a"), Public),
    ("no patterns", &[], &["news"], Some("news"), Public),
    ("a prefix", &["news/*"], &["news/today"], None, Private),
    ("a prefix and nothing more", &["news/*"], &["news/"], None, Private),
    ("a prefix and a slash", &["news/*"], &["news/a/b"], None, Private),
    ("less than a prefix", &["news/*"], &["news"], Some("news"), Public),
    ("another case than the prefix", &["news/*"], &["NEWS/a"], Some("NEWS/a"), Public),
    ("a star for everything", &["*"], &["any%20thing/%C3%A4"], None, Private),
    ("a star in the middle is a character", &["a*b"], &["axb"], Some("axb"), Public),
    ("a star in the middle itself", &["a*b"], &["a*b"], None, Private),
    ("a star in the query", &["news/a"], &["news/*"], Some("news/*"), Public),
    ("a star in the query under a prefix", &["news/*"], &["news/*"], None, Private),
    ("two stars at the end", &["a**"], &["a*x"], None, Private),
    ("two stars need one", &["a**"], &["ax"], Some("ax"), Public),
    ("a template", &["orders/{id}"], &["orders/42"], None, Private),
    ("an empty variable", &["orders/{id}"], &["orders/"], None, Private),
    ("a slash in a simple variable", &["orders/{id}"], &["orders/4/2"], Some("orders/4/2"), Public),
    ("a space in a variable", &["orders/{id}"], &["orders/4%202"], Some("orders/4 2"), Public),
    ("an escape in a variable", &["orders/{id}"], &["orders/4%25202"], None, Private),
    ("half of an escape", &["orders/{id}"], &["orders/4%252"], Some("orders/4%2"), Public),
    ("a variable in the middle", &["u/{id}/inbox"], &["u/ada/inbox"], None, Private),
    ("another end", &["u/{id}/inbox"], &["u/ada/outbox"], Some("u/ada/outbox"), Public),
    ("two variables", &["{a}-{b}"], &["x-y-z"], None, Private),
    ("two variables and a slash", &["{a}-{b}"], &["x-y/z"], Some("x-y/z"), Public),
    ("a reserved variable", &["files/{+path}"], &["files/a/b/c.txt"], None, Private),
    ("a reserved variable takes no space", &["files/{+path}"], &["files/a%20b"], Some("files/a b"), Public),
    ("both kinds of variables", &["{+a}/{b}"], &["x/y/z"], None, Private),
    ("the template as a name", &["orders/{id}"], &["orders/%7Bid%7D"], Some("orders/{id}"), Public),
    (
        "a template that many steps could explode",
        &["{a}x{b}x{c}x{d}x{e}y"],
        &["xxxxxxxxxxxxxxxxxxxxxxxx"],
        Some("xxxxxxxxxxxxxxxxxxxxxxxx"),
        Public,
    ),
    ("several patterns", &["x", "news", "y/*"], &["news"], None, Private),
    ("two topics", &["a", "b"], &["a", "b"], None, Private),
    ("one topic twice", &["a"], &["a", "a"], None, Private),
    ("the second topic is not covered", &["a"], &["a", "b"], Some("b"), Mixed(&["a"])),
    ("the first topic is not covered", &["b"], &["a", "b"], Some("a"), Mixed(&["b"])),
    (
        "the last of five is not covered",
        &["a*"],
        &["a1", "a2", "a3", "a4", "b"],
        Some("b"),
        Mixed(&["a1", "a2", "a3", "a4"]),
    ),
    ("two of three are not covered", &["b"], &["a", "b", "c"], Some("a"), Mixed(&["b"])),
    ("no topic is covered", &["x"], &["a", "b"], Some("a"), Public),
];

/// Grants that name no topic for subscribers.
fn others() -> Vec<(&'static str, Value)> {
    vec![
        ("no claim of grants", json!({})),
        ("an empty claim", json!({ "fanfare": {} })),
        ("an empty array", json!({ "fanfare": { "subscribe": [] } })),
        ("grants to publish alone", json!({ "fanfare": { "publish": ["*"] } })),
        ("the claim in another case", json!({ "Fanfare": { "subscribe": ["*"] } })),
        ("the member in another case", json!({ "fanfare": { "Subscribe": ["*"] } })),
        ("the grants beside the claim", json!({ "subscribe": ["*"], "fanfare": {} })),
        ("scope, as others have it", json!({ "scope": "subscribe:*" })),
    ]
}

fn query(topics: &[&str]) -> String {
    topics.iter().map(|topic| format!("topic={topic}")).collect::<Vec<_>>().join("&")
}

/// Subscriptions on a server that lets anonymous subscribers in, or does not.
pub(crate) fn subscriptions(is_anonymous_allowed: bool) -> Vec<Case> {
    let outcome_of = |uncovered: Option<&'static str>, sight: Sight| match (is_anonymous_allowed, sight) {
        (true, _) => Granted,
        (false, _) => uncovered.map_or(Granted, NotCovered),
    };
    let mut cases = Vec::new();
    for (name, patterns, topics, uncovered, sight) in ROWS {
        let token = SUBSCRIBERS.token(json!({ "fanfare": { "subscribe": patterns } }));
        cases.push(Case::subscribe(*name, &query(topics), outcome_of(*uncovered, *sight)).bearer(&token));
        let token = SUBSCRIBERS.token(json!({ "mercure": { "subscribe": patterns } }));
        let name = format!("{name}, as Mercure writes it");
        cases.push(Case::subscribe(name, &query(topics), outcome_of(*uncovered, *sight)).bearer(&token));
    }
    for (name, claims) in others() {
        let outcome = outcome_of(Some("a"), Public);
        cases.push(Case::subscribe(name, "topic=a", outcome).bearer(&SUBSCRIBERS.token(claims)));
    }
    let without = if is_anonymous_allowed { Granted } else { Refused("missing") };
    cases.push(Case::subscribe("no token", "topic=a", without));
    // A token that is not good is not ignored, although none is needed.
    let old = SUBSCRIBERS.token(json!({ "exp": super::now_unix_s() - 60 }));
    cases.push(Case::subscribe("an old token", "topic=a", Refused("expired")).bearer(&old));
    let garbage = Case::subscribe("garbage", "topic=a", Refused("malformed"));
    cases.push(garbage.header("Authorization", "Bearer garbage"));
    cases
}

/// A subscription, and of which topics it gets the private events.
#[derive(Debug)]
pub(crate) struct Viewer {
    pub(crate) name: String,
    /// As they stand in a query.
    pub(crate) topics: Vec<&'static str>,
    pub(crate) token: Option<String>,
    pub(crate) sees_private: Vec<&'static str>,
}

impl Viewer {
    pub(crate) fn query(&self) -> String {
        query(&self.topics)
    }
}

/// Every subscription of the rows, where anonymous subscribers are let in.
pub(crate) fn viewers() -> Vec<Viewer> {
    let mut viewers = Vec::new();
    for (name, patterns, topics, _, sight) in ROWS {
        let token = SUBSCRIBERS.token(json!({ "fanfare": { "subscribe": patterns } }));
        let (name, mut topics) = ((*name).to_owned(), topics.to_vec());
        topics.dedup();
        let sees_private = match sight {
            Private => topics.clone(),
            Public => Vec::new(),
            Mixed(covered) => covered.to_vec(),
        };
        viewers.push(Viewer { name, topics, token: Some(token), sees_private });
    }
    let mut on_a = |name: &str, token| {
        viewers.push(Viewer { name: name.to_owned(), topics: vec!["a"], token, sees_private: Vec::new() });
    };
    for (name, claims) in others() {
        on_a(name, Some(SUBSCRIBERS.token(claims)));
    }
    on_a("no token", None);
    viewers
}

/// Publishes in every form: the grants have to cover each topic of each event.
pub(crate) fn publishes() -> Vec<Case> {
    const JSON: &str = "application/json";
    const LINES: &str = "application/x-ndjson";
    const FORM: &str = "application/x-www-form-urlencoded";
    let rows: [(&str, &[&str], &str, &str, Outcome); 21] = [
        ("JSON, covered", &["a"], JSON, r#"{"topic":"a","data":"x"}"#, Granted),
        ("JSON, a prefix", &["chat/*"], JSON, r#"{"topic":"chat/1","data":"x"}"#, Granted),
        ("JSON, a template", &["u/{id}"], JSON, r#"{"topic":"u/ada","data":"x"}"#, Granted),
        ("JSON, another topic", &["a"], JSON, r#"{"topic":"b","data":"x"}"#, NotCovered("b")),
        (
            "JSON, a private event",
            &["a"],
            JSON,
            r#"{"topic":"b","data":"x","private":true}"#,
            NotCovered("b"),
        ),
        ("JSON, two topics", &["a", "b"], JSON, r#"{"topic":["a","b"],"data":"x"}"#, Granted),
        ("JSON, one of two topics", &["a"], JSON, r#"{"topic":["a","b"],"data":"x"}"#, NotCovered("b")),
        ("JSON, an escaped topic", &["a"], JSON, r#"{"topic":"\u0061","data":"x"}"#, Granted),
        ("JSON, an escaped other topic", &["a"], JSON, r#"{"topic":"\u0062","data":"x"}"#, NotCovered("b")),
        (
            "JSON, a template as a name",
            &["u/{id}"],
            JSON,
            r#"{"topic":"u/{id}","data":"x"}"#,
            NotCovered("u/{id}"),
        ),
        ("JSON, no grants", &[], JSON, r#"{"topic":"a","data":"x"}"#, NotCovered("a")),
        ("an array, covered", &["a"], JSON, r#"[{"topic":"a","data":"x"}]"#, Granted),
        ("lines, covered", &["a"], LINES, "{\"topic\":\"a\",\"data\":\"x\"}\n", Granted),
        ("a form, covered", &["a"], FORM, "topic=a&data=x", Granted),
        ("a form, another topic", &["a"], FORM, "topic=b&data=x", NotCovered("b")),
        ("a form, one of two topics", &["a"], FORM, "topic=a&topic=b&data=x", NotCovered("b")),
        ("a form, an escaped topic", &["a"], FORM, "topic=%61&data=x", Granted),
        ("a form, everything", &["*"], FORM, "topic=any+thing&data=x", Granted),
        ("a form, a star in the topic", &["a"], FORM, "topic=*&data=x", NotCovered("*")),
        ("a form, a private event", &["a"], FORM, "topic=b&data=x&private=true", NotCovered("b")),
        ("a form, another case", &["a"], FORM, "topic=A&data=x", NotCovered("A")),
    ];
    let mut cases = Vec::new();
    for (name, patterns, content_type, body, outcome) in rows {
        let token = PUBLISHERS.token(json!({ "fanfare": { "publish": patterns } }));
        let mut case = Case::publish(name, "a", outcome).bearer(&token);
        case.body = Some((content_type, body.to_owned()));
        cases.push(case);
    }
    // What a token may read it may not publish.
    let token = PUBLISHERS.token(json!({ "fanfare": { "subscribe": ["*"] } }));
    cases.push(Case::publish("grants to subscribe alone", "a", NotCovered("a")).bearer(&token));
    cases
}

/// Ends of connections: a publisher's token for every topic may do it, and no other.
pub(crate) fn ends() -> Vec<Case> {
    let of = |name: &str, patterns: &[&str], outcome: Outcome| {
        let token = PUBLISHERS.token(json!({ "fanfare": { "publish": patterns } }));
        (name.to_owned(), Some(token), outcome)
    };
    let rows = vec![
        of("for every topic", &["*"], Granted),
        of("for every topic, and one", &["a", "*"], Granted),
        of("for one topic", &["a"], Outcome::MayNotEnd),
        of("for a prefix", &["a*"], Outcome::MayNotEnd),
        of("for a template of everything", &["{+all}"], Outcome::MayNotEnd),
        of("for no topic", &[], Outcome::MayNotEnd),
        ("no token".to_owned(), None, Refused("missing")),
        (
            "a subscriber's token".to_owned(),
            Some(SUBSCRIBERS.token(json!({ "fanfare": { "publish": ["*"], "subscribe": ["*"] } }))),
            Refused("wrong_key"),
        ),
        (
            "an old token".to_owned(),
            Some(PUBLISHERS.token(json!({ "exp": 1, "fanfare": { "publish": ["*"] } }))),
            Refused("expired"),
        ),
    ];
    let mut cases = Vec::new();
    for (name, token, outcome) in rows {
        for query in
            ["subject=nobody", "token=nothing", "topic=empty", "subject=nobody&topic=empty&until=2000000000"]
        {
            let mut case = Case::publish(format!("{name}: {query}"), "a", outcome.clone());
            (case.method, case.target, case.body) = ("DELETE", format!("/connections?{query}"), None);
            cases.push(token.iter().fold(case, |case, token| case.bearer(token)));
        }
    }
    cases
}
