//! Grants: which topics the bearer of a token may publish to, and of which ones it sees private events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use fanfare_proto::event::Topic;
use fanfare_proto::pattern::{PatternError, PatternSet};

use crate::error::AccessError;
use crate::json::Json;

/// The claims that may hold the grants. The second one is the one of Mercure.
const GRANT_CLAIMS: [&str; 2] = ["fanfare", "mercure"];

/// What a token allows: `{"subscribe": [pattern, ...], "publish": [pattern, ...]}` in the claim `fanfare` or
/// `mercure`.
///
/// An array that is absent or empty allows nothing. Other members, such as Mercure's `payload`, are ignored.
#[derive(Debug, Default)]
pub struct Grants {
    subscribe: PatternSet,
    publish: PatternSet,
}

/// What a subscription sees of its topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Public events only.
    Public,
    /// Private events of all of its topics, and public ones.
    Private,
    /// Private events of the topics at these positions, and public events of all of its topics.
    Mixed(Box<[usize]>),
}

/// What happens to a subscription with a topic that no grant covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uncovered {
    /// It gets the public events of the topic.
    #[default]
    PublicEvents,
    /// It is refused.
    Refuse,
}

impl Grants {
    /// Grants of these patterns.
    pub fn new(subscribe: PatternSet, publish: PatternSet) -> Grants {
        Grants { subscribe, publish }
    }

    /// Grants to see private events of exactly these topics.
    ///
    /// # Errors
    /// There are more than [`crate::MAX_PATTERNS`] topics.
    pub fn of_topics(topics: &[Topic]) -> Result<Grants, PatternError> {
        // A name with a brace or a `*` at its end is a name here, too.
        PatternSet::of_names(topics.iter().map(Topic::as_str))
            .map(|subscribe| Grants { subscribe, publish: PatternSet::default() })
    }

    /// The grants in the claims of a token. Without a claim for them nothing is allowed.
    ///
    /// # Errors
    /// Both claims are there, a member has the wrong type, or a pattern is refused.
    pub(crate) fn from_claims(claims: &Json) -> Result<Grants, AccessError> {
        let mut found = GRANT_CLAIMS.iter().filter_map(|name| claims.get(name));
        let (first, second) = (found.next(), found.next());
        if second.is_some() {
            return Err(AccessError::Malformed("it has the claims fanfare and mercure; use one"));
        }
        let Some(claim) = first else { return Ok(Grants::default()) };
        if !claim.is_object() {
            return Err(AccessError::Malformed("the claim of its grants is not an object"));
        }
        Ok(Grants { subscribe: patterns(claim, "subscribe")?, publish: patterns(claim, "publish")? })
    }

    /// The patterns whose private events may be seen.
    pub fn subscribe(&self) -> &PatternSet {
        &self.subscribe
    }

    /// The patterns that may be published to.
    pub fn publish(&self) -> &PatternSet {
        &self.publish
    }

    /// Whether private events of the topic may be seen.
    pub fn covers(&self, topic: &Topic) -> bool {
        self.subscribe.covers(topic.as_str())
    }

    /// What a subscription to these topics sees.
    ///
    /// # Errors
    /// [`AccessError::TopicNotCovered`]: a topic is not covered, and such subscriptions are refused.
    pub fn sight(&self, topics: &[Topic], uncovered: Uncovered) -> Result<Sight, AccessError> {
        let covered: Vec<usize> =
            (0..topics.len()).filter(|position| self.covers(&topics[*position])).collect();
        match covered.len() {
            all if all == topics.len() && all > 0 => Ok(Sight::Private),
            _ if uncovered == Uncovered::Refuse => Err(AccessError::TopicNotCovered),
            0 => Ok(Sight::Public),
            _ => Ok(Sight::Mixed(covered.into())),
        }
    }

    /// Whether an event with these topics may be published. Every topic must be covered, for private and for
    /// public events.
    ///
    /// # Errors
    /// [`AccessError::TopicNotCovered`]: one topic is not covered.
    pub fn may_publish(&self, topics: &[Topic]) -> Result<(), AccessError> {
        if topics.iter().all(|topic| self.publish.covers(topic.as_str())) {
            Ok(())
        } else {
            Err(AccessError::TopicNotCovered)
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut text = Vec::new();
        self.subscribe.write_canonical(&mut text);
        self.publish.write_canonical(&mut text);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &text).as_ref());
        bytes
    }

    /// About the bytes that the grants occupy.
    pub(crate) fn bytes(&self) -> usize {
        self.subscribe.bytes() + self.publish.bytes()
    }
}

/// The patterns of one array of the claim.
fn patterns(claim: &Json, name: &str) -> Result<PatternSet, AccessError> {
    let Some(value) = claim.get(name) else { return Ok(PatternSet::default()) };
    let wrong = AccessError::Malformed("its grants are not arrays of texts");
    let values = value.as_array().ok_or(wrong)?;
    let texts: Option<Vec<&str>> = values.iter().map(Json::as_text).collect();
    Ok(PatternSet::parse(texts.ok_or(wrong)?)?)
}

/// Makes equal grants one allocation, for all tokens and connections that have them.
///
/// Grants that nothing refers to any more are forgotten: the table never has more than twice the entries that
/// were alive when it was last cleaned, and 64.
#[derive(Debug, Default)]
pub struct GrantTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_digest: HashMap<[u8; 32], Weak<Grants>>,
    clean_at: usize,
}

impl GrantTable {
    /// An empty table.
    pub fn new() -> GrantTable {
        GrantTable::default()
    }

    /// The shared grants that are equal to these.
    pub fn share(&self, grants: Grants) -> Arc<Grants> {
        let digest = grants.digest();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = inner.by_digest.get(&digest).and_then(Weak::upgrade) {
            return shared;
        }
        if inner.by_digest.len() >= inner.clean_at.max(64) {
            inner.by_digest.retain(|_, grants| grants.strong_count() > 0);
            inner.clean_at = inner.by_digest.len() * 2;
        }
        let shared = Arc::new(grants);
        inner.by_digest.insert(digest, Arc::downgrade(&shared));
        shared
    }

    /// The entries of the table.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_digest.len()
    }

    /// Whether the table has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
