//! Signed subscribe URLs: what is signed cannot be changed, and what is not signed may be.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::sync::Arc;

use fanfare_access::{AccessError, KeyError, MAX_URL_KEYS, MAX_URL_TOPICS, Revocations, Revoked, UrlSigner};
use fanfare_proto::event::Topic;

const NOW: u64 = 1_800_000_000;
const OLD: &[u8] = b"the old secret, 32 bytes or more of it";
const NEW: &[u8] = b"the new secret, 32 bytes or more of it";

fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

fn signer() -> UrlSigner {
    UrlSigner::new([NEW]).unwrap()
}

fn error(query: &str) -> Option<&'static str> {
    signer().verify(query, NOW).err().map(|error| error.name())
}

#[test]
fn a_signed_url_grants_exactly_its_topics() {
    let query = signer().mint(&topics(&["orders/1", "ä b&c=*", "{x}"]), NOW + 60, Some("ada")).unwrap();
    assert!(query.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%&=".contains(&b)), "{query}");
    let verified = signer().verify(&query, NOW).unwrap().unwrap();
    for covered in topics(&["orders/1", "ä b&c=*", "{x}"]) {
        assert!(verified.grants().covers(&covered), "{covered}");
    }
    for other in topics(&["orders/2", "ä b&c=", "x"]) {
        assert!(!verified.grants().covers(&other), "{other}");
        assert!(verified.grants().may_publish(&[other]).is_err());
    }
    assert_eq!(verified.subject().map(|subject| &**subject), Some("ada"));
    assert_eq!(verified.expires_unix_s(), Some(NOW + 60));
}

#[test]
fn order_duplicates_and_unsigned_parameters_do_not_matter() {
    let query = signer().mint(&topics(&["b", "a", "b"]), NOW + 60, None).unwrap();
    let (_, signature) = query.split_once("&expires=").unwrap();
    for same in ["topic=b&topic=a", "topic=a&topic=b&topic=a", "topic=a&topic=&topic=%62"] {
        assert_eq!(error(&format!("{same}&expires={signature}&last_event_id=x&heartbeat=9")), None, "{same}");
    }
}

#[test]
fn a_query_without_a_signature_is_not_signed() {
    for query in ["", "topic=a", "topic=a&expires=1&subject=x", "Signature=x"] {
        assert!(signer().verify(query, NOW).unwrap().is_none(), "{query}");
    }
}

#[test]
fn what_is_signed_cannot_be_changed() {
    let query = signer().mint(&topics(&["a", "b"]), NOW + 60, Some("ada")).unwrap();
    assert_eq!(error(&query), None);
    let expires = format!("expires={}", NOW + 60);
    let changes = [
        ("topic=a", "topic=c"),
        ("topic=a&", ""),
        ("topic=a&", "topic=a&topic=c&"),
        ("topic=a&topic=b", "topic=ab"),
        (expires.as_str(), "expires=1900000000"),
        ("subject=ada", "subject=eve"),
        ("subject=ada", "subject="),
        ("subject=ada&", ""),
    ];
    for (from, to) in changes {
        let changed = query.replace(from, to);
        assert_ne!(changed, query, "{from}");
        assert_eq!(error(&changed), Some("wrong_key"), "{from} became {to}");
    }
    // A text that moves from one place to another one is another text.
    let other = signer().mint(&topics(&["a"]), NOW + 60, None).unwrap();
    assert_eq!(error(&other.replace("&signature", "&subject=&signature")), Some("wrong_key"));
}

#[test]
fn what_has_no_meaning_is_malformed() {
    let query = signer().mint(&topics(&["a"]), NOW + 60, Some("ada")).unwrap();
    let expires = format!("expires={}", NOW + 60);
    let changes = [
        (expires.as_str(), String::new()),
        (expires.as_str(), format!("{expires}&{expires}")),
        (expires.as_str(), format!("expires=0{}", NOW + 60)),
        (expires.as_str(), format!("expires=%2B{}", NOW + 60)),
        (expires.as_str(), "expires=-1".to_owned()),
        (expires.as_str(), "expires=18446744073709551616".to_owned()),
        (expires.as_str(), "expires=1e9".to_owned()),
        ("topic=a", String::new()),
        ("topic=a", "topic=a%0A".to_owned()),
        ("topic=a", "topic=%ff".to_owned()),
        ("topic=a", "topic=a&".repeat(MAX_URL_TOPICS + 1)),
        ("subject=ada", "subject=ada&subject=ada".to_owned()),
        ("subject=ada", "subject=%ff".to_owned()),
        ("subject=ada", format!("subject={}", "x".repeat(257))),
        ("signature=", "signature=%20".to_owned()),
        ("signature=", "signature=x&signature=".to_owned()),
    ];
    for (from, to) in changes {
        assert_eq!(error(&query.replace(from, &to)), Some("malformed"), "{from} became {to}");
    }
    for short in ["signature=", "signature=AAAA"] {
        assert_eq!(error(&format!("topic=a&expires=1900000000&{short}")), Some("wrong_key"), "{short}");
    }
}

#[test]
fn a_url_expires_at_its_second_without_leeway() {
    let query = signer().mint(&topics(&["a"]), NOW + 60, None).unwrap();
    assert!(signer().verify(&query, NOW + 59).is_ok());
    assert_eq!(signer().verify(&query, NOW + 60).unwrap_err(), AccessError::Expired);
}

#[test]
fn keys_are_rotated_by_putting_the_new_one_first() {
    let old = UrlSigner::new([OLD]).unwrap().mint(&topics(&["a"]), NOW + 60, None).unwrap();
    let both = UrlSigner::new([NEW, OLD]).unwrap();
    assert!(both.verify(&old, NOW).is_ok());
    let new = both.mint(&topics(&["a"]), NOW + 60, None).unwrap();
    assert!(signer().verify(&new, NOW).is_ok());
    assert_eq!(signer().verify(&old, NOW).unwrap_err(), AccessError::WrongKey);
}

#[test]
fn weak_secrets_and_many_keys_are_refused_and_no_secret_is_shown() {
    let weak = UrlSigner::new([&b"short secret"[..]]).unwrap_err();
    assert_eq!(weak, KeyError::WeakSecret { needed: 32, given: 12 });
    assert!(!weak.to_string().contains("short secret"));
    assert_eq!(UrlSigner::new([]).unwrap_err(), KeyError::Count { keys: 0 });
    assert!(UrlSigner::new([NEW; MAX_URL_KEYS + 1]).is_err());
    assert!(!format!("{:?}", signer()).contains("secret"));
    assert!(signer().mint(&[], NOW, None).is_err());
    assert!(signer().mint(&vec![topics(&["a"])[0].clone(); MAX_URL_TOPICS + 1], NOW, None).is_err());
}

#[test]
fn a_revoked_subject_cannot_use_its_urls() {
    let revocations = Arc::new(Revocations::default());
    let signer = signer().with_revocations(revocations.clone());
    let ada = signer.mint(&topics(&["a"]), NOW + 60, Some("ada")).unwrap();
    let bob = signer.mint(&topics(&["a"]), NOW + 60, Some("bob")).unwrap();
    revocations.revoke(Revoked::Subject("ada".into()), NOW, NOW + 3_600).expect("there is room");
    assert_eq!(signer.verify(&ada, NOW).unwrap_err(), AccessError::Revoked);
    assert!(signer.verify(&bob, NOW).is_ok());
}
