//! Where tokens are found: cookies and queries against readers that were written apart, what logs show of
//! queries, and signed URLs.

use std::collections::BTreeSet;

use fanfare_access::{AccessError, Place, TokenPlaces, UrlSigner, redact_query};
use fanfare_proto::event::Topic;

/// The first line is a query, the second an `Authorization` header, and the rest a `Cookie` header.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let query = lines.next().unwrap_or_default();
    let authorization = lines.next().unwrap_or_default();
    let cookie = lines.next().unwrap_or_default();
    let Ok(query) = std::str::from_utf8(query) else { return };
    redacted(query);
    signed(query);

    let mut places = TokenPlaces::default();
    places.cookie = Some("auth".to_owned());
    places.query = true;
    let headers = [("Authorization", authorization), ("cookie", cookie)];
    let found = places.find(headers, Some(query));
    let mut all = from_header(authorization);
    all.extend(from_cookies(cookie));
    all.extend(from_query(query));
    let is_token = |text: &Vec<u8>| {
        !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b))
    };
    let different: BTreeSet<&Vec<u8>> = all.iter().map(|found| &found.1).collect();
    match found {
        Ok(None) => assert!(all.is_empty(), "{all:?}"),
        Ok(Some(found)) => {
            assert_eq!(different.len(), 1);
            assert_eq!((found.place(), found.as_str().as_bytes()), (all[0].0, &*all[0].1));
            assert!(is_token(&all[0].1));
        }
        Err(AccessError::Conflict) => assert!(different.len() > 1),
        Err(AccessError::Malformed(_)) => assert!(all.iter().any(|found| !is_token(&found.1))),
        Err(other) => panic!("{other:?}"),
    }
}

type Found = Vec<(Place, Vec<u8>)>;

fn from_header(value: &[u8]) -> Found {
    let value = value.trim_ascii();
    let words: Vec<&[u8]> = value.splitn(2, |byte| *byte == b' ').collect();
    if !words[0].eq_ignore_ascii_case(b"bearer") {
        return Vec::new();
    }
    let credentials = words.get(1).copied().unwrap_or_default();
    let spaces = credentials.iter().take_while(|byte| **byte == b' ').count();
    vec![(Place::Header, credentials[spaces..].to_vec())]
}

fn from_cookies(header: &[u8]) -> Found {
    let mut found = Vec::new();
    for pair in header.split(|byte| *byte == b';') {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
        let mut value = value.trim_ascii().to_vec();
        if value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"") {
            value = value[1..value.len() - 1].to_vec();
        }
        if name.trim_ascii() == b"auth" && !value.is_empty() {
            found.push((Place::Cookie, value));
        }
    }
    found
}

fn from_query(query: &str) -> Found {
    // The usual decoder replaces what is not UTF-8, and the replacement is no character of a token, either.
    form_urlencoded::parse(query.as_bytes())
        .filter(|(name, value)| name == "access_token" && !value.is_empty())
        .map(|(_, value)| (Place::Query, value.into_owned().into_bytes()))
        .collect()
}

/// A redacted query has the same fields, and shows no secret value.
fn redacted(query: &str) {
    let shown = redact_query(query);
    let before: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let after: Vec<_> = form_urlencoded::parse(shown.as_bytes()).collect();
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.0, after.0);
        let is_secret = ["access_token", "authorization", "signature"]
            .iter()
            .any(|secret| before.0.eq_ignore_ascii_case(secret) && !before.1.is_empty());
        assert_eq!(after.1, if is_secret { "REDACTED".into() } else { before.1.clone() });
    }
    assert_eq!(redact_query(&shown), shown, "again changes nothing");
}

/// A query that was not minted is never taken, and what is minted for its topics is.
fn signed(query: &str) {
    const NOW_UNIX_S: u64 = 1_000;
    let signer = UrlSigner::new([&[7; 32][..]]).unwrap();
    assert!(!matches!(signer.verify(query, NOW_UNIX_S), Ok(Some(_))));
    let topics: Vec<Topic> = form_urlencoded::parse(query.as_bytes())
        .filter(|field| field.0 == "topic")
        .filter_map(|field| Topic::new(&*field.1).ok())
        .collect();
    if let Ok(minted) = signer.mint(&topics, NOW_UNIX_S + 1, Some("ada")) {
        let verified = signer.verify(&minted, NOW_UNIX_S).unwrap().unwrap();
        assert!(topics.iter().all(|topic| verified.grants().covers(topic)));
        // A name that is none of them: topics may be repeated.
        let other = (0..).map(|number| format!("another-{number}"));
        let other = other.into_iter().find(|name| topics.iter().all(|topic| topic.as_str() != name)).unwrap();
        assert!(signer.verify(&format!("{minted}&topic={other}"), NOW_UNIX_S).is_err());
        assert_eq!(signer.verify(&minted, NOW_UNIX_S + 1).unwrap_err(), AccessError::Expired);
    }
}
