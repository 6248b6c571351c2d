//! Grants: what they allow, and the table of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use fanfare_access::{AccessError, GrantTable, Grants, PatternSet, Sight, Uncovered};
use fanfare_proto::event::Topic;

fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

fn grants(subscribe: &[&str], publish: &[&str]) -> Grants {
    let set = |texts: &[&str]| PatternSet::parse(texts.iter().copied()).unwrap();
    Grants::new(set(subscribe), set(publish))
}

#[test]
fn a_subscription_sees_private_events_of_the_topics_that_are_covered() {
    let grants = grants(&["a/*", "b"], &[]);
    let sight = |names: &[&str]| grants.sight(&topics(names), Uncovered::PublicEvents);
    assert_eq!(sight(&["a/1", "b"]), Ok(Sight::Private));
    assert_eq!(sight(&["c"]), Ok(Sight::Public));
    assert_eq!(sight(&["c", "b", "d", "a/2"]), Ok(Sight::Mixed([1, 3].into())));
    assert_eq!(sight(&[]), Ok(Sight::Public));
    let strict = |names: &[&str]| grants.sight(&topics(names), Uncovered::Refuse);
    assert_eq!(strict(&["a/1", "b"]), Ok(Sight::Private));
    assert_eq!(strict(&["a/1", "c"]), Err(AccessError::TopicNotCovered));
    assert_eq!(strict(&["c"]), Err(AccessError::TopicNotCovered));
}

#[test]
fn a_publish_needs_a_grant_for_every_topic_and_a_subscribe_grant_is_none() {
    let grants = grants(&["s"], &["p/{id}"]);
    assert_eq!(grants.may_publish(&topics(&["p/1", "p/2"])), Ok(()));
    assert_eq!(grants.may_publish(&topics(&["p/1", "s"])), Err(AccessError::TopicNotCovered));
    assert!(!grants.covers(&topics(&["p/1"])[0]));
    assert!(Grants::default().may_publish(&topics(&["p/1"])).is_err());
}

/// The topics of a signed URL are names: one that looks like a pattern does not become one.
#[test]
fn grants_of_topics_are_names_whatever_they_look_like() {
    let grants = Grants::of_topics(&topics(&["a*", "{b}"])).unwrap();
    for covered in topics(&["a*", "{b}"]) {
        assert!(grants.covers(&covered));
    }
    for other in topics(&["a", "ab", "b", "x"]) {
        assert!(!grants.covers(&other));
    }
}

#[test]
fn the_table_of_grants_forgets_what_nothing_refers_to() {
    let table = GrantTable::new();
    let kept = table.share(grants(&["kept"], &[]));
    for number in 0..10_000 {
        table.share(grants(&[&number.to_string()], &[]));
        assert!(table.len() <= 65);
    }
    assert!(std::sync::Arc::ptr_eq(&kept, &table.share(grants(&["kept"], &[]))));
    // The same pattern for another purpose is another grant.
    assert!(!std::sync::Arc::ptr_eq(&kept, &table.share(grants(&[], &["kept"]))));
}
