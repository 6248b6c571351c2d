//! Signed subscribe URLs, good and changed.

use fanfare::Topic;
use fanfare_access::UrlSigner;
use serde_json::json;

use super::case::Case;
use super::case::Outcome::{self, Granted, NotCovered, Refused, Status};
use super::keys::{SUBSCRIBERS, URL_SECRETS};
use super::now_unix_s;

/// A good URL in its parts, and what makes others.
struct Url {
    expires: String,
    signature: String,
    expires_unix_s: u64,
}

fn mint(secret: &str, topics: &[&str], expires_unix_s: u64, subject: Option<&str>) -> String {
    let topics: Vec<Topic> = topics.iter().map(|topic| Topic::new(*topic).expect("a topic")).collect();
    let signer = UrlSigner::new([secret.as_bytes()]).expect("it is long enough");
    signer.mint(&topics, expires_unix_s, subject).expect("signed")
}

fn value<'q>(query: &'q str, name: &str) -> &'q str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|pair| pair.0 == name).expect("it has the parameter").1
}

impl Url {
    fn new() -> Url {
        let expires_unix_s = now_unix_s() + 3600;
        let query = mint(URL_SECRETS[0], &["a", "b"], expires_unix_s, Some("ada"));
        Url {
            expires: value(&query, "expires").to_owned(),
            signature: value(&query, "signature").to_owned(),
            expires_unix_s,
        }
    }

    /// The query with `EXPIRES`, `LATER` and `SIGNATURE` in it.
    fn in_text(&self, text: &str) -> String {
        text.replace("EXPIRES", &self.expires)
            .replace("LATER", &(self.expires_unix_s + 1).to_string())
            .replace("SIGNATURE", &self.signature)
    }
}

/// For a server with keys of URLs.
pub(crate) fn cases() -> Vec<Case> {
    let url = Url::new();
    let (wrong, malformed) = (Refused("wrong_key"), Refused("malformed"));
    let mut cases = Vec::new();
    for (name, query, outcome) in [
        ("as it was minted", "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE", Granted),
        ("in another order", "signature=SIGNATURE&topic=b&subject=ada&expires=EXPIRES&topic=a", Granted),
        ("a topic twice", "topic=a&topic=b&topic=a&expires=EXPIRES&subject=ada&signature=SIGNATURE", Granted),
        ("with escapes", "topic=%61&topic=b&expires=EXPIRES&subject=%61da&signature=SIGNATURE", Granted),
        (
            "with a place to go on",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE&last_event_id=earliest&gap=off",
            Granted,
        ),
        (
            "with a parameter that has no meaning",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE&x=y",
            Granted,
        ),
        ("one topic less", "topic=a&expires=EXPIRES&subject=ada&signature=SIGNATURE", wrong.clone()),
        (
            "one topic more",
            "topic=a&topic=b&topic=c&expires=EXPIRES&subject=ada&signature=SIGNATURE",
            wrong.clone(),
        ),
        ("another topic", "topic=a&topic=c&expires=EXPIRES&subject=ada&signature=SIGNATURE", wrong.clone()),
        ("another case", "topic=A&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE", wrong.clone()),
        ("two topics as one", "topic=ab&expires=EXPIRES&subject=ada&signature=SIGNATURE", wrong.clone()),
        ("a later expiry", "topic=a&topic=b&expires=LATER&subject=ada&signature=SIGNATURE", wrong.clone()),
        ("another subject", "topic=a&topic=b&expires=EXPIRES&subject=eve&signature=SIGNATURE", wrong.clone()),
        ("an empty subject", "topic=a&topic=b&expires=EXPIRES&subject=&signature=SIGNATURE", wrong.clone()),
        ("no subject", "topic=a&topic=b&expires=EXPIRES&signature=SIGNATURE", wrong.clone()),
        (
            "the subject twice",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        (
            "the expiry twice",
            "topic=a&topic=b&expires=LATER&expires=EXPIRES&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        (
            "the signature twice",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE&signature=SIGNATURE",
            malformed.clone(),
        ),
        ("no expiry", "topic=a&topic=b&subject=ada&signature=SIGNATURE", malformed.clone()),
        (
            "an expiry that is no number",
            "topic=a&topic=b&expires=soon&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        (
            "an expiry with a zero before it",
            "topic=a&topic=b&expires=0EXPIRES&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        (
            "an expiry with a sign",
            "topic=a&topic=b&expires=%2BEXPIRES&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        (
            "an expiry of 2^64",
            "topic=a&topic=b&expires=18446744073709551616&subject=ada&signature=SIGNATURE",
            malformed.clone(),
        ),
        ("an empty signature", "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=", wrong.clone()),
        ("half a signature", "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=AAAA", wrong.clone()),
        (
            "a padded signature",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE%3D",
            malformed.clone(),
        ),
        (
            "a longer signature",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATUREA",
            wrong.clone(),
        ),
        (
            "a signature that is no base64url",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&signature=a~",
            malformed.clone(),
        ),
        ("no signature", "topic=a&topic=b&expires=EXPIRES&subject=ada", Refused("missing")),
        (
            "the signature in another case",
            "topic=a&topic=b&expires=EXPIRES&subject=ada&Signature=SIGNATURE",
            Refused("missing"),
        ),
        // The parser of the subscription refuses these first.
        ("no topic", "expires=EXPIRES&subject=ada&signature=SIGNATURE", Status(400)),
        (
            "a topic that is not UTF-8",
            "topic=%ff&expires=EXPIRES&subject=ada&signature=SIGNATURE",
            Status(400),
        ),
    ] {
        cases.push(case(name, &url.in_text(query), outcome, &url));
    }
    let (now, [newer, older]) = (now_unix_s(), URL_SECRETS);
    for (name, query, outcome) in [
        ("expired", mint(newer, &["a"], now - 60, None), Refused("expired")),
        ("expired long ago", mint(newer, &["a"], 0, None), Refused("expired")),
        ("the older key", mint(older, &["a"], now + 3600, None), Granted),
        (
            "another key",
            mint("a secret that no server has, of 32 bytes", &["a"], now + 3600, None),
            wrong.clone(),
        ),
        ("the secret of tokens", mint(&SUBSCRIBERS.secret, &["a"], now + 3600, None), wrong),
        ("a name with a brace is a name", mint(newer, &["{+all}"], now + 3600, None), Granted),
        ("a name with a star is a name", mint(newer, &["*"], now + 3600, None), Granted),
    ] {
        cases.push(case(name, &query, outcome, &url));
    }
    // What is signed decides: a token beside it is not looked at.
    let token = SUBSCRIBERS.token(json!({ "fanfare": { "subscribe": ["*"] } }));
    let signed = mint(newer, &["a"], now + 3600, None);
    let old = mint(newer, &["a"], now - 60, None);
    cases.push(case("a good URL and a token", &signed, Granted, &url).bearer(&token));
    cases.push(
        case("a good URL and garbage", &signed, Granted, &url).header("Authorization", "Bearer garbage"),
    );
    cases.push(case("an old URL and a good token", &old, Refused("expired"), &url).bearer(&token));
    cases.push(case("no URL and a good token", "topic=a", Granted, &url).bearer(&token));
    let narrow = SUBSCRIBERS.token(json!({ "fanfare": { "subscribe": ["x"] } }));
    cases.push(case("no URL and a narrow token", "topic=a", NotCovered("a"), &url).bearer(&narrow));
    cases
}

/// For a server without keys of URLs: a signature means nothing there.
pub(crate) fn cases_without_keys() -> Vec<Case> {
    let url = Url::new();
    let query = url.in_text("topic=a&topic=b&expires=EXPIRES&subject=ada&signature=SIGNATURE");
    let token = SUBSCRIBERS.token(json!({ "fanfare": { "subscribe": ["a", "b"] } }));
    vec![
        case("a signed URL where none is known", &query, Refused("missing"), &url),
        case("a signed URL where none is known, and a token", &query, Granted, &url).bearer(&token),
    ]
}

fn case(name: &str, query: &str, outcome: Outcome, url: &Url) -> Case {
    let mut case = Case::subscribe(format!("signed URL: {name}"), query, outcome);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    case.secrets.extend(pairs.find(|pair| pair.0 == "signature").map(|pair| pair.1.to_owned()));
    case.secrets.retain(|signature| signature.len() > 12);
    case.secrets.push(url.signature.clone());
    case
}
