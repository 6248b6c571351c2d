//! Revocations: tokens that are barred before they expire.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::verifier::Verified;

/// The most revocations by default. Each occupies at most about 600 bytes.
pub const DEFAULT_MAX_REVOCATIONS: usize = 10_000;

/// What a revocation bars.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All tokens of a subject (`sub`) that were issued up to the moment of the revocation, and all without
    /// `iat`. A token that is issued in a later second is good.
    Subject(Box<str>),
    /// The token with this id (`jti`).
    TokenId(Box<str>),
}

/// An entry of a list of revocations, to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is barred.
    pub revoked: Revoked,
    /// When it was revoked, in seconds since the Unix epoch: [`Revocations::revoke`] takes it as `now_unix_s`.
    pub revoked_unix_s: u64,
    /// Until when it is barred.
    pub until_unix_s: u64,
}

/// A bounded list of revocations. Many threads may use it at once.
///
/// An entry stays until the time that its caller gives, which is the latest `exp` of the tokens that it is to
/// bar. When the list is full, the oldest entry is dropped, and [`Revocations::dropped`] counts it: an
/// operator who sees the counter rise should shorten the life of tokens, or raise the bound.
#[derive(Debug)]
pub struct Revocations {
    inner: RwLock<Inner>,
    /// The number of entries, so that an empty list costs one load.
    len: AtomicUsize,
    most: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Revoked, Entry>,
    /// What was revoked, oldest first, with the number of the revocation: a later one of the same makes it
    /// stale.
    order: VecDeque<(u64, Revoked)>,
    next: u64,
    dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    revoked_unix_s: u64,
    until_unix_s: u64,
}

impl Default for Revocations {
    /// An empty list of at most [`DEFAULT_MAX_REVOCATIONS`].
    fn default() -> Revocations {
        Revocations::new(DEFAULT_MAX_REVOCATIONS)
    }
}

impl Revocations {
    /// An empty list of at most `most` entries.
    pub fn new(most: usize) -> Revocations {
        Revocations { inner: RwLock::default(), len: AtomicUsize::new(0), most }
    }

    /// Revokes until `until_unix_s`, the latest `exp` of the tokens that are to be barred. A repeated
    /// revocation never ends earlier than the one before it.
    pub fn revoke(&self, revoked: Revoked, now_unix_s: u64, until_unix_s: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.forget_old(now_unix_s);
        let number = inner.next;
        inner.next += 1;
        let before = inner.entries.get(&revoked).copied();
        let entry = Entry {
            number,
            revoked_unix_s: before.map_or(now_unix_s, |before| before.revoked_unix_s.max(now_unix_s)),
            until_unix_s: before.map_or(until_unix_s, |before| before.until_unix_s.max(until_unix_s)),
        };
        inner.entries.insert(revoked.clone(), entry);
        inner.order.push_back((number, revoked));
        while inner.entries.len() > self.most {
            inner.dropped += u64::from(inner.drop_oldest());
        }
        inner.compact();
        self.len.store(inner.entries.len(), Ordering::Release);
    }

    /// Whether a token is barred now.
    pub fn bars(&self, token: &Verified, now_unix_s: u64) -> bool {
        if self.len.load(Ordering::Acquire) == 0 {
            return false;
        }
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let entry =
            |revoked: Revoked| inner.entries.get(&revoked).filter(|entry| now_unix_s < entry.until_unix_s);
        let by_id = token.token_id().and_then(|id| entry(Revoked::TokenId(id.into())));
        let by_subject = token.subject().and_then(|subject| entry(Revoked::Subject((**subject).into())));
        let was_issued_before =
            |entry: &Entry| token.issued_unix_s().is_none_or(|issued| issued <= entry.revoked_unix_s);
        by_id.is_some() || by_subject.is_some_and(was_issued_before)
    }

    /// All entries, those that were revoked last at the end, and a number that rises with each revocation.
    pub fn list(&self) -> (u64, Vec<Revocation>) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let entries = inner.order.iter().filter_map(|(number, revoked)| {
            let entry = inner.entries.get(revoked).filter(|entry| entry.number == *number)?;
            let Entry { revoked_unix_s, until_unix_s, .. } = *entry;
            Some(Revocation { revoked: revoked.clone(), revoked_unix_s, until_unix_s })
        });
        (inner.next, entries.collect())
    }

    /// A number that rises with each revocation.
    pub fn number(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).next
    }

    /// The revocations in the list.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many revocations were dropped before their time, because the list was full.
    pub fn dropped(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

impl Inner {
    /// Drops the oldest entries whose time is over. A younger one of that kind waits for the older ones.
    fn forget_old(&mut self, now_unix_s: u64) {
        while let Some((number, revoked)) = self.order.front() {
            let entry = self.entries.get(revoked).filter(|entry| entry.number == *number);
            if entry.is_some_and(|entry| entry.until_unix_s > now_unix_s) {
                return;
            }
            self.drop_oldest();
        }
    }

    /// Removes the first of the queue. Answers whether it was an entry, and not a stale note of one.
    fn drop_oldest(&mut self) -> bool {
        let Some((number, revoked)) = self.order.pop_front() else { return false };
        let is_entry = self.entries.get(&revoked).is_some_and(|entry| entry.number == number);
        if is_entry {
            self.entries.remove(&revoked);
        }
        is_entry
    }

    /// Removes stale notes when they are more than the entries, so that repeated revocations do not grow the
    /// queue.
    fn compact(&mut self) {
        if self.order.len() > 2 * self.entries.len() + 16 {
            let entries = &self.entries;
            self.order.retain(|(number, revoked)| {
                entries.get(revoked).is_some_and(|entry| entry.number == *number)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::grants::Grants;

    fn subject(name: &str) -> Revoked {
        Revoked::Subject(name.into())
    }

    fn token(name: &str) -> Verified {
        Verified::for_url(Some(name), 1_000, Arc::new(Grants::default()))
    }

    #[test]
    fn the_oldest_revocation_goes_when_the_list_is_full_and_is_counted() {
        let list = Revocations::new(2);
        for name in ["a", "b", "a", "c"] {
            list.revoke(subject(name), 0, 100);
        }
        assert_eq!((list.len(), list.dropped()), (2, 1));
        assert!(list.bars(&token("a"), 50), "it was revoked again, so b was the oldest");
        assert!(!list.bars(&token("b"), 50));
        assert!(list.bars(&token("c"), 50));
    }

    #[test]
    fn repeated_revocations_of_one_subject_do_not_grow_the_list() {
        let list = Revocations::new(10);
        for _ in 0..1_000 {
            list.revoke(subject("a"), 0, 100);
        }
        assert_eq!((list.len(), list.dropped()), (1, 0));
        assert!(list.inner.read().unwrap().order.len() <= 18);
    }

    #[test]
    fn a_list_that_is_read_back_bars_the_same() {
        let list = Revocations::new(10);
        for (name, at, until) in [("a", 5, 100), ("b", 6, 100), ("a", 7, 90)] {
            list.revoke(subject(name), at, until);
        }
        let (number, entries) = list.list();
        assert_eq!((number, list.number()), (3, 3));
        let names: Vec<&Revoked> = entries.iter().map(|entry| &entry.revoked).collect();
        assert_eq!(names, [&subject("b"), &subject("a")]);
        let again = Revocations::new(10);
        for Revocation { revoked, revoked_unix_s, until_unix_s } in entries.clone() {
            again.revoke(revoked, revoked_unix_s, until_unix_s);
        }
        assert_eq!(again.list().1, entries);
    }

    #[test]
    fn a_revocation_ends_with_the_tokens_that_it_bars() {
        let list = Revocations::new(10);
        list.revoke(subject("a"), 0, 100);
        list.revoke(subject("b"), 100, 200);
        assert_eq!(list.len(), 1, "the revocation of a is over");
        list.revoke(subject("b"), 150, 160);
        list.revoke(subject("c"), 190, 300);
        assert!(list.bars(&token("b"), 199), "a later revocation does not shorten an earlier one");
        assert!(!list.bars(&token("b"), 200));
    }
}
