//! Tests of the keys of a reload, and of servers without keys.

use fanfare_access::{Algorithm, Key, KeyRing, TokenSigner};
use fanfare_config::{Flags, Settings, Sources};

use super::*;
use crate::listen::Listening;

#[test]
fn without_keys_the_server_is_open_on_loopback_only_or_where_it_is_told_so() {
    let refusal = |flags: &[(&'static str, &str)], address: &str| {
        let sources = Sources { flags: Flags::of(flags.iter().copied()), ..Sources::default() };
        let values = Settings::table().layer(&sources).unwrap();
        let settings = Settings::of(&values).unwrap();
        let addresses = vec!["127.0.0.1:1".parse().unwrap(), address.parse().unwrap()];
        let listening = Listening { addresses, ..Listening::default() };
        check_open(&settings, &values, &listening).err().map(|error| error.to_string())
    };
    for address in ["127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(refusal(&[], address), None, "{address}");
    }
    for address in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
        assert!(refusal(&[], address).is_some_and(|text| text.contains(address)), "{address}");
        assert_eq!(refusal(&[("open", "true")], address), None, "{address}");
        assert_eq!(refusal(&[("publisher-keys", "file")], address), None, "{address}");
    }
}

const SECRETS: [&[u8]; 2] = [
    b"the first secret of these tests has more than 32 bytes",
    b"the second secret of these tests has more than 32 bytes",
];

/// The access of a server with this one key.
fn with_key(secret: &[u8]) -> Arc<Access> {
    let ring = KeyRing::of_key(Key::from_secret(Algorithm::Hs256, secret).unwrap());
    let verifier = Arc::new(Verifier::new(Arc::new(ring), TokenRules::default()));
    let [subscribers, publishers] = [Some(Arc::clone(&verifier)), Some(verifier)];
    Arc::new(Access { subscribers, publishers, ..Access::default() })
}

fn token(secret: &[u8]) -> String {
    let signer = TokenSigner::from_secret(Algorithm::Hs256, secret).unwrap();
    let claims = serde_json::json!({ "exp": unix_time().as_secs() + 600, "fanfare": { "subscribe": ["a"] } });
    format!("Bearer {}", signer.mint(claims.as_object().unwrap()).unwrap())
}

/// The immediate decision about a publisher with this token.
fn find(access: &Arc<Access>, authorization: &str) -> Result<FoundPublisher, PublisherError> {
    access.publisher([("Authorization", authorization.as_bytes())], None, false)
}

fn to_verify(access: &Arc<Access>, authorization: &str) -> TokenToVerify {
    match find(access, authorization) {
        Ok(FoundPublisher::ToVerify(token)) => token,
        _ => panic!("it is not remembered"),
    }
}

/// A token that waited for a thread during a reload was judged by the keys of before: the removed key let one
/// more in.
#[test]
fn a_verdict_by_keys_that_were_removed_meanwhile_counts_no_more() {
    let [before, now] = SECRETS.map(with_key);
    let authorization = token(SECRETS[0]);
    let token = to_verify(&before, &authorization);
    let verdict = token.verify();
    // Without a reload it is good.
    let topics = Subscribe::to([Topic::new("a").unwrap()]);
    let judged = before.admit_later(&token, &verdict, topics.clone());
    assert!(matches!(judged, Ok(Judged::Admitted(_))));
    // With one, it is verified again, by the keys of now.
    let Ok(Judged::Verify(topics, again)) = now.admit_later(&token, &verdict, topics) else {
        panic!("judged by old keys")
    };
    let judged = now.admit_later(&again, &again.verify(), topics);
    assert!(matches!(judged, Err(Denial { reason: AccessError::WrongKey, .. })));
    // The same for publishers.
    let Ok(FoundPublisher::ToVerify(again)) = now.verified_publisher(&token, verdict) else {
        panic!("judged by old keys")
    };
    let denied = now.verified_publisher(&again, again.verify());
    assert!(matches!(denied, Err(PublisherError::Denied(_))));
    let good = before.verified_publisher(&token, token.verify());
    assert!(matches!(good, Ok(FoundPublisher::Known(_))));
}

/// The same where a fetch has changed the keys of one verifier.
#[test]
fn a_verdict_by_keys_of_another_generation_counts_no_more() {
    let access = with_key(SECRETS[0]);
    let token = to_verify(&access, &token(SECRETS[0]));
    let verdict = token.verify();
    access.publishers.as_ref().unwrap().keys().set_fixed(KeySet::default());
    let Ok(FoundPublisher::ToVerify(again)) = access.verified_publisher(&token, verdict) else {
        panic!("judged by old keys")
    };
    assert!(matches!(access.verified_publisher(&again, again.verify()), Err(PublisherError::Denied(_))));
}

/// A body of lines of a removed key went on for as long as its token.
#[test]
fn a_publisher_holds_by_the_keys_of_now() {
    let [before, other] = SECRETS.map(with_key);
    let authorization = token(SECRETS[0]);
    let token = to_verify(&before, &authorization);
    let Ok(FoundPublisher::Known(publisher)) = before.verified_publisher(&token, token.verify()) else {
        panic!("it is good")
    };
    assert!(publisher.still_holds(&before).is_ok());
    assert_eq!(publisher.still_holds(&other).unwrap_err().reason, AccessError::WrongKey);
    // Another verifier with the same key, as after a change of another rule.
    assert!(publisher.still_holds(&with_key(SECRETS[0])).is_ok());
    assert!(!format!("{publisher:?}").contains(&authorization["Bearer ".len()..]), "no Debug shows a token");
}

/// A body of lines that had begun on an open server went on when the server got keys, without a token.
#[test]
fn a_publisher_without_a_token_does_not_hold_where_keys_came_meanwhile() {
    let open = Arc::new(Access::default());
    let Ok(FoundPublisher::Known(publisher)) = find(&open, "") else { panic!("everyone may publish") };
    assert!(publisher.still_holds(&open).is_ok());
    let denied = publisher.still_holds(&with_key(SECRETS[0])).unwrap_err();
    assert_eq!((denied.reason, denied.reason.status()), (AccessError::Missing, 401));
}

/// Only the keys in files of subscribers were compared.
#[test]
fn a_reload_knows_which_keys_of_subscribers_it_removes() {
    let [one, two] = SECRETS.map(|secret| Key::from_secret(Algorithm::Hs256, secret).unwrap());
    let set =
        |keys: &[&Key]| KeySet::new(keys.iter().map(|key| (*key).clone()).collect()).unwrap_or_default();
    let access = |fixed: &[&Key], fetched: &[&Key], of_urls: &[&Key]| {
        let ring = KeyRing::of(set(fixed));
        ring.set_fetched(set(fetched));
        let verifier = Arc::new(Verifier::new(Arc::new(ring), TokenRules::default()));
        Access { subscribers: Some(verifier), url_keys: set(of_urls), ..Access::default() }
    };
    let before = access(&[&one], &[&two], &[&one]);
    for (now, removed) in [
        (access(&[&one], &[&two], &[&one, &two]), vec![]),
        (access(&[&one, &two], &[], &[&one]), vec![]),
        (access(&[&two], &[], &[&one]), vec!["subscriber-keys"]),
        (access(&[&one], &[], &[&one]), vec!["subscriber-jwks"]),
        (access(&[&one], &[&two], &[&two]), vec!["url-keys"]),
        (Access::default(), vec!["subscriber-keys", "subscriber-jwks", "url-keys"]),
    ] {
        assert_eq!(now.removed_subscriber_keys(&before), removed);
    }
}

#[test]
fn streams_of_one_expiry_end_at_different_times() {
    let access = Access::default();
    let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| access.random_number() >> 54).collect();
    assert!(numbers.len() > 500, "{}", numbers.len());
}

/// A publisher without a subject had its rate twice, by another signature of its token that everyone can
/// make.
#[test]
fn another_signature_of_a_token_is_the_same_publisher() {
    let token = token(SECRETS[0]);
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(signed_part(&token), signed);
    assert_eq!(signed_part(&format!("{signed}.AAAA")), signed);
}

/// Events that were made before a reload to anonymous subscribers stayed public.
#[test]
fn presence_is_private_wherever_there_are_keys() {
    let with_keys = |anonymous_subscribe| {
        let Access { subscribers, publishers, .. } = Arc::into_inner(with_key(SECRETS[0])).unwrap();
        let access = Access { subscribers, publishers, anonymous_subscribe, ..Access::default() };
        access.set_presence(true);
        access
    };
    assert!(with_keys(false).has_private_presence() && with_keys(true).has_private_presence());
    assert!(!Access::default().has_private_presence());
    // And its topics need a grant, also where everyone may subscribe.
    let anonymous = |access: &Access, names: &[&str]| {
        let subscribe = Subscribe::to(names.iter().map(|name| Topic::new(name).unwrap()));
        access.settle(Ok(None), subscribe).err().map(|denial| denial.reason)
    };
    let open = with_keys(true);
    assert_eq!(anonymous(&open, &["a", "presence"]), None);
    assert_eq!(anonymous(&open, &["a", "presence/a"]), Some(AccessError::TopicNotCovered));
    open.set_presence(false);
    assert_eq!(anonymous(&open, &["a", "presence/a"]), None);
}
